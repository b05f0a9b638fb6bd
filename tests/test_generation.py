"""`recurra.generate` beside an exhaustive search, layer calls step by step and teacher-forced log-probabilities."""

from __future__ import annotations

import itertools
import pickle
from typing import Any, NamedTuple

import numpy as np
import pytest
from checks import Array, assert_same_bits, states

import recurra

TOKENS, START, END = 4, 4, 2  # the embedding has a row more than the head, for START
CELLS = [
    ("rnn_tanh", {}),
    ("gru", {}),
    ("gru_reset_before_write", {"num_layers": 2}),
    ("lstm", {"num_layers": 2}),
    ("lstm_peephole_projected", {"proj_size": 3}),
]


class Net(NamedTuple):
    """A network that is sure of something: small random ones are not."""

    layer: Any
    head: recurra.Linear
    embedding: recurra.Embedding

    def generate(self, **options: Any) -> recurra.Generated:
        return recurra.generate(*self, **{"start": START, "end": END, **options})

    def teacher_forced(self, tokens: Any, state: Any = None, first: Any = None) -> float:
        """The log-probability of tokens after START, from one call of the layer, in float64."""
        read = self.embedding(np.array([START, *tokens[:-1]]))
        if first is not None:
            read = np.concatenate([first[None], read])
        logits = self.head(self.layer(read, state)[0])[-len(tokens) :].astype(np.float64)
        total = np.log(np.exp(logits).sum(-1))
        return float(sum(row[token] for row, token in zip(logits, tokens, strict=True)) - total.sum())


def net(cell: str = "lstm", seed: int = 0, dtype: str = "float64", tokens: int = TOKENS, **options: Any) -> Net:
    layer = recurra.Recurrent(cell, 3, 5, seed=seed, dtype=dtype, **options)
    layer.load_state_dict({name: 3 * array for name, array in layer.state_dict().items()})
    head = recurra.Linear(options.get("proj_size") or 5, tokens, dtype=dtype, seed=seed + 1)
    head.load_state_dict({name: 3 * array for name, array in head.state_dict().items()})
    return Net(layer, head, recurra.Embedding(tokens + 1, 3, dtype=dtype, seed=seed + 2))


def random_state(layer: Any, batch: int, seed: int = 9) -> Any:
    rng = np.random.default_rng(seed)
    state = layer(np.zeros((0, batch, layer.input_size), layer.dtype))[1]
    drawn = tuple(rng.uniform(-1, 1, array.shape).astype(layer.dtype) for array in states(state))
    return drawn if isinstance(state, tuple) else drawn[0]


def row(state: Any, b: int) -> Any:
    return tuple(array[:, b] for array in state) if isinstance(state, tuple) else state[:, b]


def sequences(max_length: int, end: int | None) -> list[tuple[int, ...]]:
    """All that can be written."""
    found: list[tuple[int, ...]] = []
    for length in range(1, max_length + 1):
        for tokens in itertools.product(range(TOKENS), repeat=length):
            inside = end is not None and end in tokens[:-1]
            finished = length == max_length or (end is not None and tokens[-1] == end)
            if finished and not inside:
                found.append(tokens)
    return found


def written(found: recurra.Generated, *at: int) -> tuple[int, ...]:
    """One of the sequences, without what is after it."""
    return tuple(found.tokens[at][: found.lengths[at]].tolist())


@pytest.mark.parametrize(("cell", "options"), CELLS, ids=[f"{cell}{options}" for cell, options in CELLS])
@pytest.mark.parametrize("end", [END, None])
@pytest.mark.parametrize("penalty", [0.0, 1.0, -0.7])
def test_a_wide_beam_finds_the_best_of_all(cell: str, options: dict[str, Any], end: int | None, penalty: float) -> None:
    model, batch, limit = net(cell, **options), 3, 4
    state = random_state(model.layer, batch)
    everything = sequences(limit, end)
    found = model.generate(
        end=end, max_length=limit, batch=batch, state=state, beams=len(everything), length_penalty=penalty
    )
    for b in range(batch):
        scores = {tokens: model.teacher_forced(tokens, row(state, b)) for tokens in everything}
        ranking = sorted(everything, key=lambda tokens: -scores[tokens] / len(tokens) ** penalty)
        assert [written(found, b, k) for k in range(len(everything))] == ranking
        np.testing.assert_allclose(found.scores[b], [scores[tokens] for tokens in ranking], rtol=1e-10)
        if end is None:
            assert np.exp(found.scores[b]).sum() == pytest.approx(1)


@pytest.mark.parametrize("beams", [1, 2, 3])
@pytest.mark.parametrize("penalty", [0.0, 0.8])
def test_a_narrow_beam_is_the_textbook_search(beams: int, penalty: float) -> None:
    limit = 6
    for seed in range(6):
        model = net(seed=seed)
        kept: list[tuple[int, ...]] = [()]
        for _ in range(limit):
            longer = []
            for tokens in kept:
                done = tokens and tokens[-1] == END
                longer += [tokens] if done else [(*tokens, token) for token in range(TOKENS)]
            longer.sort(key=lambda tokens: -model.teacher_forced(tokens) / len(tokens) ** penalty)
            kept = longer[:beams]
        found = model.generate(max_length=limit, beams=beams, length_penalty=penalty)
        assert [written(found, k) for k in range(beams)] == kept
        np.testing.assert_allclose(found.scores, [model.teacher_forced(tokens) for tokens in kept], rtol=1e-10)
        assert found.tokens.shape == (beams, found.lengths.max())


@pytest.mark.parametrize(("cell", "options"), CELLS, ids=[f"{cell}{options}" for cell, options in CELLS])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_greedy_is_a_layer_call_a_step(cell: str, options: dict[str, Any], dtype: str) -> None:
    batch, limit = 5, 7
    model = net(cell, dtype=dtype, **options)
    state = random_state(model.layer, batch)
    first = np.random.default_rng(1).standard_normal((batch, 3)).astype(dtype)
    start = np.array([0, 1, START, 3, START])
    found = model.generate(start=start, max_length=limit, batch=batch, state=state, first_input=first)
    lengths = []
    for b in range(batch):
        now = model.layer(first[None, b], row(state, b))[1]
        tokens: list[int] = []
        token, score = int(start[b]), 0.0
        while len(tokens) < limit and token != END:
            y, now = model.layer(model.embedding(np.array([token])), now)
            logits = model.head(y)[0].astype(np.float64)
            token = int(logits.argmax())
            tokens.append(token)
            score += logits[token] - np.log(np.exp(logits).sum())
        lengths.append(len(tokens))
        assert list(written(found, b)) == tokens
        assert found.scores[b] == pytest.approx(score, rel=1e-12)
        assert (found.tokens[b, len(tokens) :] == END).all()
    assert found.lengths.tolist() == lengths and found.tokens.shape == (batch, max(lengths))
    alone = model.generate(start=0, max_length=limit, state=row(state, 0), first_input=first[0])
    assert written(alone) == written(found, 0) and alone.tokens.shape == alone.lengths
    assert_same_bits(alone.scores, found.scores[0])


def test_sequences_do_not_depend_on_the_batch() -> None:
    model, batch = net("lstm", dtype="float32", num_layers=2), 6
    state = random_state(model.layer, batch)
    for options in ({}, {"beams": 3}, {"beams": 5, "length_penalty": 1.0}):
        whole = model.generate(max_length=8, batch=batch, state=state, **options)
        for b in range(batch):
            alone = model.generate(max_length=8, state=row(state, b), **options)
            longest = int(alone.lengths.max())
            assert_same_bits([alone.tokens, alone.lengths], [whole.tokens[b, ..., :longest], whole.lengths[b]])
            assert_same_bits(alone.scores, whole.scores[b])


def test_greedy_does_not_depend_on_batch_first() -> None:
    results = [net(batch_first=first).generate(max_length=6, batch=2, start=[0, 3]) for first in (False, True)]
    assert_same_bits(list(results[0]), list(results[1]))


def test_draws_have_the_right_chances() -> None:
    model, batch, limit, heat = net(), 40000, 2, 1.5
    found = model.generate(end=None, max_length=limit, batch=batch, temperature=heat, rng=3)
    cooler = Net(model.layer, recurra.Linear(5, TOKENS, dtype="float64"), model.embedding)
    cooler.head.load_state_dict({name: array / heat for name, array in model.head.state_dict().items()})
    for tokens in sequences(limit, None):
        share = float((found.tokens == tokens).all(-1).mean())
        p = np.exp(cooler.teacher_forced(tokens))
        assert abs(share - p) < 5 * np.sqrt(p * (1 - p) / batch) + 1e-9
    for b in range(5):  # scores are those of the network, not of the draw
        assert found.scores[b] == pytest.approx(model.teacher_forced(found.tokens[b]), rel=1e-10)


def test_top_k_draws_from_the_likeliest() -> None:
    model, batch = net(), 4000
    probabilities = np.exp([model.teacher_forced([token]) for token in range(TOKENS)])
    order = np.argsort(-probabilities)
    for k in (1, 2, 3, TOKENS, TOKENS + 3):
        found = model.generate(max_length=1, batch=batch, temperature=1.0, top_k=k, rng=0)
        kept = order[:k]
        assert set(found.tokens.ravel().tolist()) == set(kept.tolist())
        share = (found.tokens == order[0]).mean()
        assert share == pytest.approx(probabilities[order[0]] / probabilities[kept].sum(), abs=0.04)


def test_ties_go_to_the_first() -> None:
    model = net()
    zeros = {name: 0 * array for name, array in model.head.state_dict().items()}
    model.head.load_state_dict(zeros)
    assert model.generate(end=None, max_length=3).tokens.tolist() == [0, 0, 0]
    found = model.generate(end=None, max_length=2, beams=3)
    assert found.tokens.tolist() == [[0, 0], [0, 1], [0, 2]]
    drawn = model.generate(end=None, max_length=1, batch=50, temperature=1.0, top_k=2, rng=0)
    assert set(drawn.tokens.ravel().tolist()) == {0, 1}


def test_seeds_decide_draws() -> None:
    model = net()
    first, again, other = (model.generate(max_length=9, batch=20, temperature=1.0, rng=seed) for seed in (1, 1, 2))
    assert_same_bits(list(first), list(again))
    assert first.tokens.tobytes() != other.tokens.tobytes()
    same = model.generate(max_length=9, batch=20, temperature=1.0, rng=np.random.default_rng(1))
    assert_same_bits(list(first), list(same))
    fresh = {model.generate(max_length=9, batch=20, temperature=1.0).tokens.tobytes() for _ in range(5)}
    assert len(fresh) > 1


def test_a_cold_draw_is_greedy() -> None:
    model = net()
    assert_same_bits(
        model.generate(max_length=6, batch=4, temperature=1e-4, rng=0).tokens,
        model.generate(max_length=6, batch=4).tokens,
    )


def test_more_beams_than_sequences() -> None:
    model = net()
    found = model.generate(max_length=1, beams=6)
    assert np.isfinite(found.scores[:TOKENS]).all() and np.isneginf(found.scores[TOKENS:]).all()
    assert sorted(found.tokens[:TOKENS, 0].tolist()) == list(range(TOKENS))
    ended = model.generate(max_length=50, beams=1 + TOKENS)
    assert ended.tokens.shape[1] <= 50


def test_forbidden_tokens_are_never_written() -> None:
    model = net()
    parameters = model.head.state_dict()
    parameters["bias"][[0, 3]] = -np.inf
    model.head.load_state_dict(parameters)
    for options in ({}, {"beams": 4}, {"temperature": 1.0, "rng": 0}):
        found = model.generate(end=None, max_length=3, batch=3, **options)
        possible = np.isfinite(found.scores)
        assert possible.any() and set(found.tokens[possible].ravel().tolist()) <= {1, 2}


def test_quantized_layers_generate() -> None:
    model = net(dtype="float32")
    small = Net(model.layer.quantize("bfloat16"), model.head, model.embedding)
    found = small.generate(max_length=5)
    assert found.scores == pytest.approx(small.teacher_forced(found.tokens), rel=1e-5)


def test_numbers_that_are_not_finite_are_named() -> None:
    model = net()
    with pytest.raises(FloatingPointError, match="logits: expected finite values, got NaN or infinity at step 0"):
        model.generate(max_length=3, first_input=np.full(3, np.nan))
    with pytest.raises(FloatingPointError, match="logits"):
        model.generate(max_length=3, beams=2, state=(np.full((1, 5), np.nan), np.zeros((1, 5))))


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"layer": recurra.Linear(3, 5)}, TypeError, "layer: expected a recurra layer, got Linear"),
    ({"layer": recurra.GRU(3, 5, bidirectional=True)}, ValueError, "layer: expected one direction"),
    ({"layer": recurra.GRU(3, 6)}, ValueError, "head: expected in_features=6, got 5"),
    ({"layer": recurra.GRU(3, 5, dtype="float64")}, ValueError, "head: expected float64, got float32"),
    ({"layer": recurra.GRU(2, 5)}, ValueError, "embedding: expected embedding_dim=2, got 3"),
    ({"head": recurra.Embedding(5, 5)}, TypeError, "head: expected a recurra.Linear, got Embedding"),
    ({"head": recurra.Linear(5, 6)}, ValueError, "embedding: expected at least 6 rows, as head has, got 5"),
    ({"embedding": recurra.Linear(5, 3)}, TypeError, "embedding: expected a recurra.Embedding, got Linear"),
    ({"embedding": recurra.Embedding(5, 3, dtype="float64")}, ValueError, "embedding: expected float32"),
    ({"start": 5}, ValueError, r"start: expected 0\.\.4, got 5"),
    ({"start": -1}, ValueError, "start: expected at least 0, got -1"),
    ({"start": 1.0}, TypeError, "start: expected an integer, got 1.0"),
    ({"start": True}, TypeError, "start: expected an integer, got True"),
    ({"start": [0, 1]}, TypeError, r"start: expected an integer, got \[0, 1\]"),
    ({"start": [0, 1], "batch": 3}, ValueError, r"start: expected shape \[3\], got \[2\]"),
    ({"start": [0, 5, 1], "batch": 3}, ValueError, r"start: expected values in 0\.\.4, got 5 at position 1"),
    ({"start": np.zeros(3), "batch": 3}, TypeError, "start: expected integers, got float64"),
    ({"end": 4}, ValueError, r"end: expected 0\.\.3, got 4"),
    ({"end": -1}, ValueError, "end: expected at least 0, got -1"),
    ({"end": "x"}, TypeError, "end: expected an integer, got 'x'"),
    ({"max_length": 0}, ValueError, "max_length: expected at least 1, got 0"),
    ({"max_length": None}, TypeError, "max_length: expected an integer, got None"),
    ({"batch": 0}, ValueError, "batch: expected at least 1, got 0"),
    ({"beams": 0}, ValueError, "beams: expected at least 1, got 0"),
    ({"beams": True}, TypeError, "beams: expected an integer, got True"),
    ({"state": np.zeros((1, 2, 5), "float32")}, ValueError, r"state h: expected shape \[1, 5\], got \[1, 2, 5\]"),
    ({"state": np.zeros((1, 5), "float32"), "batch": 2}, ValueError, r"state h: expected shape \[1, 2, 5\]"),
    ({"state": np.zeros((1, 5))}, TypeError, "state h: expected float32, got float64"),
    ({"first_input": np.zeros((2, 3), "float32")}, ValueError, r"first_input: expected shape \[3\], got \[2, 3\]"),
    ({"first_input": np.zeros(3, "float32"), "batch": 2}, ValueError, r"first_input: expected shape \[2, 3\], got"),
    ({"first_input": np.zeros(3)}, TypeError, "first_input: expected float32, got float64"),
    ({"length_penalty": 1.0}, ValueError, "length_penalty: expected 0 without beams, got 1.0"),
    ({"length_penalty": np.inf, "beams": 2}, ValueError, "length_penalty: expected a finite number, got inf"),
    ({"length_penalty": "1", "beams": 2}, TypeError, "length_penalty: expected a number, got '1'"),
    ({"temperature": 0.0}, ValueError, "temperature: expected a finite number above 0, got 0.0"),
    ({"temperature": np.inf}, ValueError, "temperature: expected a finite number above 0, got inf"),
    ({"temperature": "hot"}, TypeError, "temperature: expected a number, got 'hot'"),
    ({"temperature": 1.0, "beams": 2}, ValueError, "temperature: expected None with beams, got 1.0"),
    ({"top_k": 2}, ValueError, "top_k: expected None without a temperature, got 2"),
    ({"top_k": 0, "temperature": 1.0}, ValueError, "top_k: expected at least 1, got 0"),
    ({"rng": 2}, ValueError, "rng: expected None without a temperature, got 2"),
    ({"rng": -1, "temperature": 1.0}, ValueError, r"rng: expected an integer in 0\.\."),
    ({"rng": 0.5, "temperature": 1.0}, TypeError, "rng: expected None, an integer or a numpy.random.Generator"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), BAD, ids=[message for *_, message in BAD])
def test_bad_arguments(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    good = {"layer": recurra.GRU(3, 5), "head": recurra.Linear(5, 4), "embedding": recurra.Embedding(5, 3)}
    arguments: dict[str, Any] = {**good, "start": START, "end": END, "max_length": 3, **wrong}
    with pytest.raises(error, match=message):
        recurra.generate(**arguments)


# ---- InitialState

LAYERS: list[Any] = [
    recurra.GRU(3, 4, dtype="float64"),
    recurra.LSTM(3, 4, num_layers=2, bidirectional=True, dtype="float64"),
    recurra.LSTM(3, 4, proj_size=2, dtype="float64"),
]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_initial_state_is_a_linear_map_of_every_row(layer: Any) -> None:
    begin, rng = recurra.InitialState(6, layer, seed=0), np.random.default_rng(0)
    features = rng.standard_normal((5, 6))
    parameters = begin.state_dict()
    numbers = features @ parameters["weight"].T + parameters["bias"]
    state, start = states(begin(features)), 0
    for part, like in zip(state, states(layer(np.zeros((2, 5, 3)))[1]), strict=True):
        assert part.shape == like.shape and part.flags.c_contiguous
        rows, _, size = part.shape
        for k in range(rows):
            np.testing.assert_allclose(part[k], numbers[:, start : start + size], rtol=1e-12)
            start += size
    assert start == numbers.shape[1]
    for batched, alone in zip(state, states(begin(features[2])), strict=True):
        assert_same_bits(alone, np.ascontiguousarray(batched[:, 2]))


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_initial_state_gradients_are_slopes(layer: Any, batch: tuple[int, ...]) -> None:
    begin, rng = recurra.InitialState(6, layer, seed=0), np.random.default_rng(1)
    features, x = rng.standard_normal((*batch, 6)), rng.standard_normal((4, *batch, 3))
    weights = rng.standard_normal(layer(x, begin(features))[0].shape)

    def loss(features: Array) -> float:
        return float((layer(x, begin(features))[0] * weights).sum())

    state, state_tape = begin.forward(features)
    assert_same_bits(list(states(state)), list(states(begin(features))))
    gradients = state_tape.backward(layer.forward(x, state)[2].backward(weights).state)
    assert gradients.x is not None
    for at in np.ndindex(features.shape):
        nudge = np.zeros(features.shape)
        nudge[at] = 1e-6
        assert gradients.x[at] == pytest.approx((loss(features + nudge) - loss(features - nudge)) / 2e-6, abs=1e-7)
    before = begin.state_dict()
    for name, at in (("weight", (0, 1)), ("weight", (-1, -1)), ("bias", (1,)), ("bias", (-1,))):
        found = []
        for step in (1e-6, -1e-6):
            changed = {key: array.copy() for key, array in before.items()}
            changed[name][at] += step
            begin.load_state_dict(changed)
            found.append(loss(features))
        begin.load_state_dict(before)
        assert gradients.params[name][at] == pytest.approx((found[0] - found[1]) / 2e-6, abs=1e-7)
    assert state_tape.backward(layer.forward(x, state)[2].backward(weights).state, input_grad=False).x is None


def test_initial_state_takes_half_of_a_gradient() -> None:
    begin = recurra.InitialState(6, LAYERS[1], seed=0)
    (h, c), tape = begin.forward(np.ones((3, 6)))
    dstates: list[Any] = [(h, None), (h, np.zeros_like(c))]
    half, whole = map(tape.backward, dstates)
    assert_same_bits([half.x, half.params], [whole.x, whole.params])


def test_initial_state_pickles_and_is_fixed() -> None:
    begin = recurra.InitialState(6, LAYERS[1], bias=False, seed=0)
    assert list(begin.state_dict()) == ["weight"]
    other = pickle.loads(pickle.dumps(begin))
    assert_same_bits(list(begin(np.ones(6))), list(other(np.ones(6))))
    assert repr(other) == repr(begin) == "InitialState(6 features to h [4, 4], c [4, 4])"
    with pytest.raises(AttributeError, match="fixed"):
        begin.in_features = 3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda b: type(b)(0, LAYERS[0]), ValueError, "in_features: expected at least 1, got 0"),
        (lambda b: type(b)(3, b), TypeError, "layer: expected a recurra layer, got InitialState"),
        (lambda b: type(b)(3, LAYERS[0], bias=1), TypeError, "bias: expected True or False, got 1"),
        (lambda b: b(np.ones(5)), ValueError, r"features: expected shape \[B, 6\] or \[6\], got \[5\]"),
        (lambda b: b(np.ones((2, 3, 6))), ValueError, "features: expected shape"),
        (lambda b: b(np.ones(6, "float32")), TypeError, "features: expected float64, got float32"),
        (lambda b: b.forward([1.0]), TypeError, "features: expected a NumPy or DLPack array, got list"),
        (lambda b: b.forward(np.ones(6))[1].backward(np.ones((4, 4))), TypeError, r"dstate: expected a tuple \(h, c\)"),
        (lambda b: b.forward(np.ones(6))[1].backward((np.ones((4, 3)), None)), ValueError, "dstate h: expected shape"),
        (lambda b: b.load_state_dict({}), ValueError, "state_dict: expected"),
    ],
)
def test_initial_state_bad_arguments(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(recurra.InitialState(6, LAYERS[1]))
