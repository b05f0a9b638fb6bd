"""recurra.MatchLSTM: values, gradients, limiting cases, bits, refusals."""

from __future__ import annotations

import copy
import pickle
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import reference
import reference_match
from checks import CPUS, Array, assert_close, assert_same_bits, assert_same_bits_on_avx2_and_avx512, copies
from hypothesis import given
from hypothesis import strategies as st

import recurra
from recurra import _core
from recurra.match import MatchGradients

sys.path.insert(0, str(Path(__file__).parents[1]))

TOLERANCE = {"float32": 5e-6, "float64": 1e-12}


class Problem(NamedTuple):
    """A layer and a batch of pairs, NaN where they are padded."""

    inputs: int = 3
    hidden: int = 5
    units: int = 4
    words: int = 6
    steps: int = 5
    batch: int = 4
    premise_lengths: tuple[int, ...] | None = (6, 0, 3, 1)
    hypothesis_lengths: tuple[int, ...] | None = (5, 2, 0, 4)
    shared: bool = True
    bidirectional: bool = True
    dtype: str = "float64"
    seed: int = 0

    def layer(self, **more: Any) -> recurra.MatchLSTM:
        options: dict[str, Any] = {"shared_encoders": self.shared, "bidirectional": self.bidirectional}
        options |= {"dtype": self.dtype, "seed": self.seed}
        return recurra.MatchLSTM(self.inputs, self.hidden, self.units, **(options | more))

    @property
    def lengths(self) -> dict[str, Any]:
        return {"premise_lengths": self.premise_lengths, "hypothesis_lengths": self.hypothesis_lengths}

    def pair(self) -> tuple[Array, Array]:
        rng, arrays = np.random.default_rng(self.seed + 1), []
        for steps, lengths in ((self.words, self.premise_lengths), (self.steps, self.hypothesis_lengths)):
            x = rng.normal(size=(steps, self.batch, self.inputs)).astype(self.dtype)
            arrays.append(blank(x, lengths))
        return arrays[0], arrays[1]

    def upstream(self) -> tuple[Array, Array]:
        rng, width = np.random.default_rng(self.seed + 2), (1 + self.bidirectional) * self.hidden
        d_outputs = rng.normal(size=(self.steps, self.batch, width)).astype(self.dtype)
        d_last = rng.normal(size=(self.batch, width)).astype(self.dtype)
        return blank(d_outputs, self.hypothesis_lengths), d_last


def blank(x: Array, lengths: tuple[int, ...] | None) -> Array:
    for b, n in enumerate(lengths or ()):
        x[n:, b] = np.nan
    return x


@st.composite
def problems(draw: st.DrawFn, dtype: str | None = None) -> Problem:
    words, steps, batch = draw(st.integers(0, 20)), draw(st.integers(0, 6)), draw(st.integers(0, 5))

    def lengths(most: int) -> tuple[int, ...] | None:
        return draw(st.none() | st.tuples(*[st.integers(0, most)] * batch))

    return Problem(
        draw(st.sampled_from((1, 3, 17))),
        draw(st.sampled_from((1, 3, 16, 17, 33))),
        draw(st.sampled_from((1, 5, 16, 33))),
        words,
        steps,
        batch,
        lengths(words),
        lengths(steps),
        draw(st.booleans()),
        draw(st.booleans()),
        dtype or draw(st.sampled_from(("float32", "float64"))),
        draw(st.integers(0, 2**16)),
    )


def trained(problem: Problem, layer: recurra.MatchLSTM | None = None) -> tuple[Array, Array, MatchGradients]:
    """Outputs, last outputs and gradients."""
    outputs, last, tape = (layer or problem.layer()).forward(*problem.pair(), **problem.lengths)
    return outputs, last, tape.backward(*problem.upstream())


# ---------------------------------------------------------------------------------------------------------- values


@given(problems())
def test_values_are_those_of_the_equations(problem: Problem) -> None:
    layer = problem.layer()
    got = layer(*problem.pair(), **problem.lengths, return_attention=True)
    assert [array.dtype for array in got] == [np.dtype(problem.dtype)] * 3
    expected = reference_match.run(*problem.pair(), layer.state_dict(), *problem.lengths.values())
    assert_close(got, [array.astype(problem.dtype) for array in expected], TOLERANCE[problem.dtype])


@given(problems())
def test_batch_first_only_turns_the_axes(problem: Problem) -> None:
    premise, hypothesis = problem.pair()
    plain = problem.layer()(premise, hypothesis, **problem.lengths, return_attention=True)
    layer, turned = problem.layer(batch_first=True), (premise.swapaxes(0, 1), hypothesis.swapaxes(0, 1))
    outputs, last, attention = layer(*turned, **problem.lengths, return_attention=True)
    assert_same_bits([outputs.swapaxes(0, 1), last, attention.swapaxes(1, 2)], plain)
    d_outputs, d_last = problem.upstream()
    found = layer.forward(*turned, **problem.lengths)[2].backward(d_outputs.swapaxes(0, 1), d_last)
    expected = trained(problem)[2]
    assert_same_bits([found.premise.swapaxes(0, 1), found.hypothesis.swapaxes(0, 1)], expected[:2])
    assert_same_bits(found.params, expected.params)


def test_large_scores_do_not_overflow() -> None:
    problem = Problem(premise_lengths=None, hypothesis_lengths=None)
    layer = problem.layer()
    parameters = layer.state_dict()
    for name in parameters:
        if "score" in name:
            parameters[name] *= 1e5
    layer.load_state_dict(parameters)
    got = layer(*problem.pair(), return_attention=True)
    assert_close(got, reference_match.run(*problem.pair(), parameters), 1e-9)


# ------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("given_gradients", ["both", "d_outputs", "d_last"])
def test_gradients_are_slopes(shared: bool, given_gradients: str) -> None:
    problem = Problem(2, 3, 2, 3, 3, 3, (3, 0, 2), (3, 2, 0), shared)
    layer, (premise, hypothesis), (d_outputs, d_last) = problem.layer(), problem.pair(), problem.upstream()
    upstream = {"d_outputs": d_outputs, "d_last": d_last}
    upstream = {name: array for name, array in upstream.items() if given_gradients in ("both", name)}
    found = layer.forward(premise, hypothesis, **problem.lengths)[2].backward(**upstream)
    parameters = layer.state_dict()
    assert list(found.params) == list(parameters)

    def loss() -> float:
        outputs, last, _ = reference_match.run(premise, hypothesis, parameters, *problem.lengths.values())
        weighted = np.nansum(outputs * upstream.get("d_outputs", 0)), (last * upstream.get("d_last", 0)).sum()
        return float(sum(weighted))

    pairs = [(premise, found.premise), (hypothesis, found.hypothesis)]
    pairs += [(parameters[name], found.params[name]) for name in parameters]
    for array, gradient in pairs:
        for index in np.ndindex(array.shape):
            value = array[index]
            array[index] = value + 1e-6
            more = loss()
            array[index] = value - 1e-6
            less = loss()
            array[index] = value
            assert gradient[index] == pytest.approx((more - less) / 2e-6, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_and_gradients_are_those_of_pytorch(dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="the parity extra is not installed: no torch")
    from recurra.bench.variants.match import TorchMatchLSTM

    lengths: dict[str, Any] = {"premise_lengths": (20, 1, 7, 0, 13), "hypothesis_lengths": (9, 1, 9, 4, 5)}
    problem = Problem(17, 33, 24, 20, 9, 5, **lengths, bidirectional=False, dtype=dtype)
    layer = problem.layer()
    module = TorchMatchLSTM(17, 33, 24).to(getattr(torch, dtype))
    module.load_state_dict({name: torch.from_numpy(array) for name, array in layer.state_dict().items()})
    pair = [torch.from_numpy(np.nan_to_num(x)).requires_grad_() for x in problem.pair()]
    outputs, last = module(*pair, *map(torch.tensor, lengths.values()))
    ours, our_last, gradients = trained(problem)
    tolerance = {"float32": 2e-5, "float64": 1e-12}[dtype]
    assert_close([ours, our_last], [outputs.detach(), last.detach()], tolerance)
    d_outputs, d_last = (torch.from_numpy(np.nan_to_num(d)) for d in problem.upstream())
    ((outputs * d_outputs).sum() + (last * d_last).sum()).backward()
    assert_close(gradients[:2], [x.grad for x in pair], tolerance)
    assert_close(
        list(gradients.params.values()),
        [dict(module.named_parameters())[name].grad for name in gradients.params],
        tolerance,
    )


@given(problems())
def test_forward_has_the_bits_of_a_call_and_backward_may_be_called_again(problem: Problem) -> None:
    layer, (premise, hypothesis) = problem.layer(), problem.pair()
    plain = layer(premise, hypothesis, **problem.lengths)
    outputs, last, tape = layer.forward(premise, hypothesis, **problem.lengths)
    assert_same_bits([outputs, last], plain)
    first = tape.backward(*problem.upstream())
    for array in (premise, hypothesis, outputs, last):  # none of which the tape has left with the caller
        array[...] = 1
    layer.load_state_dict({name: 0 * array for name, array in layer.state_dict().items()})
    assert_same_bits(tape.backward(*problem.upstream()), first)
    zero = tape.backward(*(np.zeros_like(d) for d in problem.upstream()))
    assert not any(array.any() for array in [zero.premise, zero.hypothesis, *zero.params.values()])


# -------------------------------------------------------------------------------------------------- limiting cases


def test_a_shared_encoder_is_two_equal_ones() -> None:
    problem = Problem()
    shared, two = problem.layer(), problem.layer(shared_encoders=False)
    parameters = shared.state_dict()
    encoder = {name: array for name, array in parameters.items() if name.startswith("encoder.")}
    others = {name: array for name, array in parameters.items() if name not in encoder}
    roles = {f"{role}_{name}": array for role in ("premise", "hypothesis") for name, array in encoder.items()}
    two.load_state_dict(roles | others)
    first, second = trained(problem, shared), trained(problem, two)
    assert_same_bits(first[:2], second[:2])
    assert_same_bits(first[2][:2], second[2][:2])
    assert_same_bits(
        {name: first[2].params[name] for name in others}, {name: second[2].params[name] for name in others}
    )
    summed = {name: sum(second[2].params[f"{role}_{name}"] for role in ("premise", "hypothesis")) for name in encoder}
    assert_close({name: first[2].params[name] for name in encoder}, summed, 1e-13)


def test_an_empty_premise_leaves_an_lstm_over_the_encoded_hypothesis() -> None:
    problem = Problem(words=0, premise_lengths=None, bidirectional=False, dtype="float32")
    layer, (premise, hypothesis) = problem.layer(), problem.pair()
    outputs, _, attention = layer(premise, hypothesis, **problem.lengths, return_attention=True)
    parameters, lengths = layer.state_dict(), problem.hypothesis_lengths
    encoder = recurra.LSTM(problem.inputs, problem.hidden)
    encoder.load_state_dict({n.removeprefix("encoder."): a for n, a in parameters.items() if n.startswith("encoder.")})
    match = recurra.LSTM(problem.hidden, problem.hidden)
    own = {n.removeprefix("match.") + "_l0": a for n, a in parameters.items() if n.startswith("match.")}
    match.load_state_dict(own | {"weight_ih_l0": own["weight_ih_l0"][:, problem.hidden :]})
    assert_close(outputs, match(encoder(hypothesis, lengths=lengths)[0], lengths=lengths)[0], 1e-6)
    assert set(attention.flat) == {0.0, 1.0}


def test_attention_without_a_score_is_uniform_and_of_one_word_a_sigmoid() -> None:
    problem = Problem(words=6, premise_lengths=(6, 0, 3, 1), hypothesis_lengths=None)
    layer = problem.layer()
    parameters = layer.state_dict()
    layer.load_state_dict({n: 0 * array if "score" in n else array for n, array in parameters.items()})
    attention = layer(*problem.pair(), **problem.lengths, return_attention=True)[2]
    for b, n in enumerate((6, 0, 3, 1)):
        assert_close(attention[:, :, b, [*range(n), 6]], np.full((2, 5, n + 1), 1 / (n + 1)), 1e-15)
        assert not attention[:, :, b, n:6].any()
    layer.load_state_dict(
        {n: 0 * array if "hypothesis" in n or "state" in n else array for n, array in parameters.items()}
    )
    attention = layer(*problem.pair(), **problem.lengths, return_attention=True)[2][0, :, 3]
    own = {n.removeprefix("encoder."): array for n, array in parameters.items() if n.startswith("encoder.")}
    s = reference.run("lstm", problem.pair()[0][:1, 3:], own)[0][0, 0]
    w, bias = parameters["attention.weight_score"], parameters["attention.bias"]
    score = w @ np.tanh(parameters["attention.weight_premise"] @ s + bias) - w @ np.tanh(bias)
    assert_close(attention[:, 0], np.full(5, 1 / (1 + np.exp(-score))), 1e-14)


# ------------------------------------------------------------------------------------------------------------ bits


@given(problems())
def test_a_pair_has_the_bits_that_it_has_alone(problem: Problem) -> None:
    layer, (premise, hypothesis), (d_outputs, d_last) = problem.layer(), problem.pair(), problem.upstream()
    outputs, last, attention = layer(premise, hypothesis, **problem.lengths, return_attention=True)
    found = trained(problem)[2]
    for b in range(problem.batch):
        m = problem.words if problem.premise_lengths is None else problem.premise_lengths[b]
        n = problem.steps if problem.hypothesis_lengths is None else problem.hypothesis_lengths[b]
        pair = premise[:m, b : b + 1], hypothesis[:n, b : b + 1]
        alone = layer(*pair, return_attention=True)
        seen = attention[:, :n, b : b + 1][..., [*range(m), problem.words]]
        assert_same_bits(alone, [outputs[:n, b : b + 1], last[b : b + 1], seen])
        gradients = layer.forward(*pair)[2].backward(d_outputs[:n, b : b + 1], d_last[b : b + 1])
        assert_same_bits(gradients[:2], [found.premise[:m, b : b + 1], found.hypothesis[:n, b : b + 1]])
        for padded in (outputs[n:, b], attention[:, n:, b], found.premise[m:, b], found.hypothesis[n:, b]):
            assert not padded.any()
    order = np.random.default_rng(problem.seed).permutation(problem.batch)
    turned = {name: None if given is None else np.array(given, int)[order] for name, given in problem.lengths.items()}
    permuted = layer(premise[:, order], hypothesis[:, order], **turned, return_attention=True)
    assert_same_bits(permuted, [outputs[:, order], last[order], attention[:, :, order]])


@pytest.mark.skipif(CPUS < 2, reason="needs two CPUs")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_change_no_bit(dtype: str) -> None:
    lengths: dict[str, Any] = {"premise_lengths": tuple(range(20, -1, -1)), "hypothesis_lengths": (9, 1, 4) * 7}
    ragged = Problem(17, 65, 33, 20, 9, 21, **lengths, dtype=dtype)
    before, results = recurra.get_num_threads(), []
    try:
        for threads in (1, 2, CPUS):
            recurra.set_num_threads(threads)
            even = ragged._replace(premise_lengths=None, hypothesis_lengths=None)
            results.append(copies([trained(ragged), trained(even)]))
    finally:
        recurra.set_num_threads(before)
    for result in results[1:]:
        assert_same_bits(result, results[0])


ISA_SCRIPT = """
import sys
from checks import arrays, save_results
from test_match import Problem, trained
found = {}
for dtype in ("float32", "float64"):
    for hidden, units in ((5, 4), (16, 16), (33, 50)):
        problem = Problem(hidden=hidden, units=units, words=20, premise_lengths=(20, 0, 17, 1), dtype=dtype)
        attention = problem.layer()(*problem.pair(), **problem.lengths, return_attention=True)[2]
        results = arrays([attention, trained(problem)])
        found |= {f"{dtype} {hidden} {number}": array for number, array in enumerate(results)}
save_results(sys.argv[1], found)
"""


def test_instruction_sets_change_no_bit(tmp_path: Path) -> None:
    assert_same_bits_on_avx2_and_avx512(ISA_SCRIPT, tmp_path)


def test_what_is_not_finite_stays_in_its_pair() -> None:
    problem = Problem()
    layer, (premise, hypothesis) = problem.layer(), problem.pair()
    clean = layer(premise, hypothesis, **problem.lengths)
    for bad in (np.nan, np.inf):
        premise[1, 0] = bad
        outputs, last = layer(premise, hypothesis, **problem.lengths)
        assert_same_bits([outputs[:, 1:], last[1:]], [clean[0][:, 1:], clean[1][1:]])
    premise[1, 0] = np.nan
    assert np.isnan(layer(premise, hypothesis, **problem.lengths)[0][:, 0]).all()


# ------------------------------------------------------------------------------------------------- configurations


def test_copies_and_pickles_and_seeds() -> None:
    problem = Problem(shared=False)
    layer = problem.layer()
    expected = layer(*problem.pair(), **problem.lengths)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), problem.layer()):
        assert repr(other) == repr(layer)
        assert_same_bits(other.state_dict(), layer.state_dict())
        assert_same_bits(other(*problem.pair(), **problem.lengths), expected)
    by_rng = problem.layer(seed=None, rng=np.random.default_rng(0))
    assert_same_bits(by_rng.state_dict(), layer.state_dict())
    assert layer.parameter_count == sum(array.size for array in layer.state_dict().values())
    assert repr(layer) == "MatchLSTM(3, 5, 4, shared_encoders=False, bidirectional=True, dtype='float64')"
    assert recurra.MatchLSTM(3, 5).attention_size == 5
    bound = 1 / np.sqrt(5)
    assert all(np.abs(array).max() <= bound for array in layer.state_dict().values())
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        pickle.dumps(layer.forward(*problem.pair(), **problem.lengths)[2])
    with pytest.raises(AttributeError, match="hidden_size"):
        layer.hidden_size = 7


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"input_size": 0}, ValueError, "input_size"),
        ({"hidden_size": 2.0}, TypeError, "hidden_size"),
        ({"attention_size": 0}, ValueError, "attention_size"),
        ({"attention_size": True}, TypeError, "attention_size"),
        ({"shared_encoders": 1}, TypeError, "shared_encoders"),
        ({"bidirectional": "no"}, TypeError, "bidirectional"),
        ({"batch_first": None}, TypeError, "batch_first"),
        ({"dtype": "float16"}, TypeError, "dtype"),
        ({"device": "cuda"}, ValueError, "device: expected 'cpu' for a MatchLSTM.*'cuda'"),
        ({"device": "tpu"}, ValueError, "device"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": 1, "rng": np.random.default_rng(0)}, ValueError, "rng"),
        ({"hidden_size": 1 << 24}, MemoryError, "hidden_size"),
    ],
)
def test_options_are_checked(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        recurra.MatchLSTM(**({"input_size": 3, "hidden_size": 4} | options))


def test_there_is_no_stream_and_no_reduced_precision() -> None:
    layer = recurra.MatchLSTM(3, 4)
    with pytest.raises(TypeError, match="stream: a MatchLSTM has none"):
        layer.stream(8)
    with pytest.raises(TypeError, match="quantize: a MatchLSTM has float32 and float64"):
        layer.quantize("int8")


GOOD: Any = {"premise": np.zeros((6, 2, 3), "float32"), "hypothesis": np.zeros((5, 2, 3), "float32")}


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("premise", np.zeros((6, 2, 3)), TypeError),
        ("premise", [[[0.0]]], TypeError),
        ("premise", np.zeros((6, 2, 4), "float32"), ValueError),
        ("premise", np.zeros((2, 3), "float32"), ValueError),
        ("hypothesis", np.zeros((5, 3, 3), "float32"), ValueError),
        ("hypothesis", np.zeros((5, 2, 3), "float64"), TypeError),
        ("premise_lengths", [6, 7], ValueError),
        ("premise_lengths", [6], ValueError),
        ("premise_lengths", [6.0, 1.0], TypeError),
        ("hypothesis_lengths", [-1, 5], ValueError),
        ("hypothesis_lengths", [6, 5], ValueError),
        ("hypothesis_lengths", np.zeros((2, 1), int), ValueError),
    ],
)
def test_arguments_of_a_call_are_checked(name: str, value: Any, error: type[Exception]) -> None:
    layer = recurra.MatchLSTM(3, 4)
    for call in (layer, layer.forward):
        with pytest.raises(error, match=f"{name}: expected"):
            call(**(GOOD | {name: value}))


def test_arguments_of_backward_are_checked() -> None:
    with pytest.raises(TypeError, match="return_attention"):
        recurra.MatchLSTM(3, 4)(**GOOD, return_attention=1)  # type: ignore[arg-type]
    tape = recurra.MatchLSTM(3, 4).forward(**GOOD)[2]
    with pytest.raises(ValueError, match="d_outputs, d_last: expected at least one"):
        tape.backward()
    with pytest.raises(TypeError, match="d_outputs: expected float32"):
        tape.backward(np.zeros((5, 2, 4)))
    with pytest.raises(ValueError, match=re.escape("d_outputs: expected shape [5, 2, 4], got [5, 2, 8]")):
        tape.backward(np.zeros((5, 2, 8), "float32"))
    with pytest.raises(ValueError, match="d_last: expected shape"):
        tape.backward(d_last=np.zeros(4, "float32"))


def test_wrong_parameters_change_nothing() -> None:
    problem = Problem()
    layer = problem.layer()
    good = layer.state_dict()
    for bad, words in (
        (good | {"attention.bias": good["attention.bias"][:-1]}, "attention.bias"),
        (good | {"match.weight_hh": good["match.weight_hh"].astype("float32")}, "match.weight_hh"),
        ({name: array for name, array in good.items() if name != "encoder.bias_hh_l0"}, "encoder.bias_hh_l0"),
        (good | {"more": good["attention.bias"]}, "more"),
    ):
        with pytest.raises(ValueError, match=words):
            layer.load_state_dict(bad)
        assert_same_bits(layer.state_dict(), good)


def test_the_core_refuses_arrays_that_do_not_fit() -> None:
    zeros = [np.zeros(shape, "float32") for shape in ((4, 3), (4,), (12, 6), (12, 3), (12,), (12,))]
    with pytest.raises(ValueError, match="weight_state"):
        _core.Match("float32", 3, 5, zeros[0], zeros[1], zeros[2:])
    core = _core.Match("float32", 3, 4, zeros[0], zeros[1], zeros[2:])
    shapes = ((7, 2, 3), (7, 2, 4), (5, 2, 4), (5, 2, 6), (5, 2, 3), (5, 2, 7))
    good = [np.zeros(shape, "float32") for shape in shapes]
    core.forward(good, None, None, None, False)
    for number, name in enumerate(("values", "keys", "queries", "joined", "y", "alpha")):
        bad = [*good]
        bad[number] = np.zeros((*bad[number].shape[:-1], 9), "float32")
        with pytest.raises(ValueError, match=name):
            core.forward(bad, None, None, None, False)
    with pytest.raises(ValueError, match="record"):
        core.forward(good, np.zeros(3, "float32"), None, None, False)
    with pytest.raises(ValueError, match="lengths"):
        core.forward(good, None, None, np.array([6, 1]), False)
    with pytest.raises(ValueError, match="word_counts"):
        core.forward(good, None, np.array([7, 1]), None, False)
    gradients = [
        np.zeros(s, "float32") for s in ((5, 2, 3), (7, 2, 3), (7, 2, 4), (5, 2, 4), (5, 2, 6), (5, 2, 12), (4,))
    ]
    with pytest.raises(ValueError, match="record"):
        core.backward(good, None, None, None, False, gradients)
