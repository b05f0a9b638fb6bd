"""Training on a GPU, or over its stand-in: gradients beside the oracle, differences and the CPU's bits; tapes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from checks import Array, arrays, assert_same_bits, states
from cuda_arrays import DeviceArray, download, require_gpu, upload
from cuda_problems import MODES, Case, called, cases, trained, trained_on_cpu
from gradients import ALL_CELLS, UPSTREAM, assert_gradients_close, sized, upstream
from gradients import oracle as gradients_of
from hypothesis import given
from hypothesis import strategies as st

import recurra
from recurra.tape import Gradients

require_gpu()

# Of the largest number of an array. 16 bits: h, x and weights are rounded before every product, and so are gradients on
# their way back; a dozen roundings of at most half a unit in the last place, none of which a float64 oracle knows.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12, "float16": 12 * 2**-11, "bfloat16": 12 * 2**-8}


def data(*shape: int, dtype: str = "float32") -> Array:
    return np.random.default_rng(0).normal(0, 1, shape).astype(dtype)


@ALL_CELLS
@given(data=st.data())
def test_the_exact_engine_trains_with_the_bits_of_the_cpu(cell: str, data: st.DataObject) -> None:
    case = data.draw(cases(cell))
    layer = case.layer()
    which = data.draw(st.sampled_from(UPSTREAM[:1] + UPSTREAM[-2:]))
    results, gradients = trained(case, layer.to("cuda", engine="exact"), which)
    want, wanted = trained_on_cpu(case, layer, which)
    assert_same_bits(results, want)
    if case.on_device:  # padded rows take part in sums over rows, which are cut elsewhere
        assert_same_bits(gradients[:2], wanted[:2])
        tolerance = TOLERANCE[case.problem.dtype]
        assert_gradients_close(Gradients(*gradients), as_reference(wanted), tolerance)
    else:
        assert_same_bits(gradients, wanted)


def as_reference(gradients: Any) -> Any:
    """The CPU's gradients as `assert_gradients_close` expects the oracle's."""
    x, state, params = gradients
    return Gradients(x, state if isinstance(state, tuple) else (state,), params)


@pytest.mark.parametrize(("number", "engine"), MODES)
@ALL_CELLS
def test_gradients_of_every_cell_are_the_oracles(cell: str, number: str, engine: str) -> None:
    clip = 0.4 if cell.startswith("lstm") else None
    # With seed 5 bfloat16 rounds a pre-activation of these to the other side of G's kink.
    seed = 6 if cell.endswith("_positive") else 5
    case = Case(sized(cell, cell_clip=clip, seed=seed, layers=1 if number.endswith("16") else 2))
    if number != "float64":  # numbers that are also those of the smaller type
        case = replace(case, problem=replace(case.problem, dtype="float32"))
    layer = case.layer()
    _, gradients = trained(case, layer.to("cuda", dtype=number, engine=engine))
    assert_gradients_close(Gradients(*gradients), gradients_of(case.problem, layer), TOLERANCE[number])


@pytest.mark.parametrize("number", ("float16", "bfloat16"))
def test_training_and_calls_have_the_same_bits(number: str) -> None:
    case = Case(sized("lstm_peephole", layers=2, dtype="float32"))
    layer = case.layer().to("cuda", dtype=number)
    assert_same_bits(trained(case, layer)[0], called(case, layer))


@pytest.mark.parametrize(
    ("cell", "engine"), (("lstm_peephole_projected", "exact-resident"), ("gru_reset_before", "cublas"))
)
def test_gradients_are_central_differences(cell: str, engine: str) -> None:
    case = Case(sized(cell, layers=2, steps=3, batch=2, lengths=(3, 1)), zoneout=0.2, recurrent_dropout=0.2, rng=3)
    problem = case.problem
    layer = case.layer().to("cuda", engine=engine)
    dy, dstate = upstream(problem)
    valid = np.nan_to_num(np.asarray(dy))

    def loss() -> float:
        (y, final), _ = trained(case, layer)
        parts = [np.sum(valid * np.nan_to_num(y))]
        parts += [np.sum(d * f) for d, f in zip(dstate or (), states(final), strict=True)]
        return float(sum(parts))

    _, gradients = trained(case, layer)
    params = layer.state_dict()
    rng, step = np.random.default_rng(0), 1e-6
    for name, array in params.items():
        for _ in range(2):
            at = tuple(int(rng.integers(n)) for n in array.shape)
            values = []
            for sign in (1, -1):
                moved = {n: a.copy() for n, a in params.items()}
                moved[name][at] += sign * step
                layer.load_state_dict(moved)
                values.append(loss())
            difference = (values[0] - values[1]) / (2 * step)
            assert abs(difference - gradients[2][name][at]) < 1e-7 * max(1, abs(difference)), (name, at)


@pytest.mark.parametrize(
    ("number", "engine"), (("float32", "exact"), ("float32", "exact-resident"), ("bfloat16", "cublas"))
)
def test_into_is_added_to(number: str, engine: str) -> None:
    layer = recurra.LSTM(3, 5, 2, seed=0, device="cuda", dtype=number, engine=engine)
    x = upload(data(4, 2, 3), number)
    y, _, tape = layer.forward(x)
    dy = upload(data(*y.shape), number)
    first = tape.backward(dy)
    once = download(first.params)
    assert all(array.dtype == "float32" for array in first.params.values())
    again = tape.backward(dy, into=first.params, input_grad=False)
    assert again.x is None
    assert list(again.params) == list(layer.state_dict())
    assert all(again.params[name] is first.params[name] for name in once)
    assert_same_bits(download(again.params), {name: array + array for name, array in once.items()})


@pytest.mark.parametrize("recompute", (False, True))
@pytest.mark.parametrize("engine", ("exact", "exact-resident", "cublas"))
def test_backward_may_be_called_again_and_never_writes_to_the_tape(engine: str, recompute: bool) -> None:
    layer = recurra.GRU(3, 5, 2, bidirectional=True, dropout=0.5, seed=0, device="cuda", engine=engine)
    y, h, tape = layer.forward(upload(data(4, 3, 3)), rng=1, recompute=recompute)
    memory = tape._tape.owner  # type: ignore[attr-defined]
    before = memory.to_host()
    assert before.size == tape.nbytes > 0
    results = []
    for dy, dstate in ((y, None), (None, h), (y, None), (y, None), (None, h)):
        results.append(download(tape.backward(dy, dstate)))
        assert_same_bits(memory.to_host(), before)
    assert_same_bits(results[2], results[0])
    assert_same_bits(results[3], results[0])
    assert_same_bits(results[4], results[1])


def test_recomputing_needs_less_memory_and_has_the_same_bits() -> None:
    case = Case(sized("lstm", layers=1, directions=1, dtype="float32", lengths=None))
    for engine in ("exact", "cublas"):
        layer = case.layer().to("cuda", engine=engine)
        plain, again = trained(case, layer), trained(replace(case, recompute=True), layer)
        assert_same_bits(again, plain)
        x = upload(case.problem.x())
        assert layer.forward(x, recompute=True)[2].nbytes < layer.forward(x)[2].nbytes


@pytest.mark.parametrize("number", ("float32", "float64", "bfloat16"))
def test_noise_depends_on_rng_alone(number: str) -> None:
    layer = recurra.LSTM(
        3, 5, 2, dropout=0.5, zoneout=(0.3, 0.1), recurrent_dropout=0.2, seed=0, device="cuda", dtype=number
    )
    x = upload(data(4, 2, 3), number)

    def run(rng: Any) -> Any:
        return download(layer.forward(x, rng=rng)[:2])

    assert_same_bits(run(5), run(5))
    assert any((a != b).any() for a, b in zip(arrays(run(5)), arrays(run(6)), strict=True))
    assert_same_bits(run(np.random.default_rng(1)), run(np.random.default_rng(1)))
    assert_same_bits(run(None), download(layer(x)))
    if number == "float32":
        host = layer.to("cpu")
        assert_same_bits(run(9), host.forward(download(x), rng=9)[:2])


@pytest.mark.parametrize("batch_first", (False, True))
def test_layouts_are_those_of_the_cpu(batch_first: bool) -> None:
    layer = recurra.LSTM(3, 5, batch_first=batch_first, bidirectional=True, seed=0)
    there = layer.to("cuda", engine="exact")
    x, one = data(4, 3, 3), data(4, 3)
    for given_x in (x, one):
        y, state, tape = layer.forward(given_x)
        want = tuple(tape.backward(y, (state[0], None)))
        y1, state1, tape1 = there.forward(upload(given_x))
        strided: Any = DeviceArray.of(np.repeat(y, 2, axis=-1))[..., ::2].exported(readonly=True)
        assert_same_bits(download((y1, state1)), (y, state))
        assert_same_bits(download(tape1.backward(strided, (state1[0], None))), want)


def test_what_backward_cannot_take_is_refused_by_name() -> None:
    layer = recurra.LSTM(3, 5, seed=0, device="cuda")
    y, (h, c), tape = layer.forward(upload(data(4, 2, 3)))
    params = tape.backward(y).params
    before = download(params)

    def into(**changes: Any) -> Callable[[], Any]:
        return lambda: tape.backward(y, into={n: a for n, a in (params | changes).items() if a is not None})

    wide = upload(np.zeros((3, 20), "float32")).transpose(1, 0)
    refused: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: tape.backward(), ValueError, "dy, dstate: expected at least one"),
        (lambda: tape.backward(download(y)), ValueError, "dy: expected a CUDA array on cuda:0, got a NumPy array"),
        (lambda: tape.backward(y[:3]), ValueError, r"dy: expected shape \[4, 2, 5\]"),
        (lambda: tape.backward(upload(np.zeros((4, 2, 5)))), TypeError, "dy: expected float32, got float64"),
        (lambda: tape.backward(dstate=h), TypeError, r"dstate: expected a tuple \(h, c\), got DeviceArray"),
        (lambda: tape.backward(dstate=(h, c[:, :1])), ValueError, r"dstate c: expected shape \[1, 2, 5\]"),
        (lambda: tape.backward(y, input_grad=1), TypeError, "input_grad: expected True or False"),  # type: ignore[arg-type]
        (into(bias_hh_l0=None), ValueError, r"into: expected all parameters' names, missing \['bias_hh_l0'\]"),
        (into(extra=y), ValueError, r"unexpected \['extra'\]"),
        (into(weight_ih_l0=before["weight_ih_l0"]), ValueError, "into weight_ih_l0: expected a CUDA array"),
        (into(weight_ih_l0=wide), ValueError, "into weight_ih_l0: expected a C-contiguous array"),
        (into(bias_ih_l0=params["bias_hh_l0"]), ValueError, "into bias_hh_l0: expected memory of its own"),
        (
            into(bias_ih_l0=params["bias_ih_l0"].exported(readonly=True)),  # type: ignore[attr-defined]
            ValueError,
            "into bias_ih_l0: expected a writeable array",
        ),
        (lambda: pickle.dumps(tape), TypeError, "a Tape cannot be copied or pickled"),
    ]
    for call, error, text in refused:
        with pytest.raises(error, match=text):
            call()
    assert_same_bits(download(params), before)
    assert repr(tape).startswith("Tape('lstm', ")


def test_training_that_a_grid_is_too_small_for_is_refused_before_it_begins() -> None:
    layer = recurra.IndRNN(64 * 65535 + 1, 1, seed=0).to("cuda", engine="exact")
    with pytest.raises(ValueError, match=r'engine: expected "cublas" for .* more than 4194240 columns, got 4194241'):
        layer.forward(upload(np.zeros((1, 1, 64 * 65535 + 1), "float32")))
