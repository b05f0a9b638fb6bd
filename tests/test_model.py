"""Models against their oracle; and the same bits of rows alone, chunks, threads and streams."""

from __future__ import annotations

import pickle
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import model_reference
import numpy as np
import pytest
from checks import Array, assert_close, assert_same_bits, assert_same_bits_on_avx2_and_avx512
from model_problems import Node, Value, random_inputs, random_model

import recurra

TOLERANCE = {"float32": 2e-5, "float64": 1e-11}  # of a dozen nodes one behind the other
SEEDS = range(40)


def as_any(value: Any) -> Any:
    """What a caller without types could do."""
    return value


def named(outputs: Any, model: recurra.Model) -> dict[str, Array]:
    """The outputs of a call by name."""
    return outputs if isinstance(outputs, dict) else {model.outputs[0]: outputs}


def row(arrays: dict[str, Array], model: recurra.Model, b: int, steps: int | None = None) -> dict[str, Array]:
    """One row of a call's arrays, with a batch axis, and its first steps."""
    cut = {}
    for name, array in arrays.items():
        value = model.inputs.get(name) or model._values[name]
        if not value.time:
            cut[name] = array[b : b + 1]
        else:
            cut[name] = array[b : b + 1, :steps] if model.batch_first else array[:steps, b : b + 1]
    return cut


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", SEEDS)
def test_calls_match_the_oracle(seed: int, dtype: str) -> None:
    model = random_model(seed, dtype, plain=seed % 2 == 0)
    x = random_inputs(model, 9, 4, seed)
    lengths = None if seed % 3 == 0 else [9, 0, 4, 7]
    outputs, state = model(x, lengths=lengths, return_state=True)
    want, want_state = model_reference.run(model, x, lengths=lengths)
    assert_close(named(outputs, model), want, TOLERANCE[str(model.dtype)])
    assert_close(state, want_state, TOLERANCE[str(model.dtype)])


@pytest.mark.parametrize("operation", [recurra.Add, recurra.Multiply])
@pytest.mark.parametrize("inputs", ["aaa", "aba", "baa", "aab", "abab", "aa"])
def test_an_input_may_come_again(operation: Any, inputs: str) -> None:
    """In the midst of a graph, where a result may take the place of what nobody reads any more."""
    names = {"a": "activation0", "b": "activation1"}
    model = recurra.Model(
        [
            recurra.Linear(3, 5, dtype="float64", seed=0),
            Node(recurra.Activation("tanh"), ("linear0",)),
            Node(recurra.Activation("sigmoid"), ("linear0",)),
            Node(operation(), tuple(names[each] for each in inputs), "made"),
            "softsign",
        ]
    )
    x = np.random.default_rng(0).standard_normal((7, 2, 3))
    want, _ = model_reference.run(model, {"x": x})
    assert_close({model.outputs[0]: model(x)}, want, 1e-12)
    assert_same_bits(model(x), model.forward(x)[0])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_row_has_the_same_bits_alone(seed: int) -> None:
    model = random_model(seed, plain=seed % 2 == 0)
    lengths = [11, 3, 8, 0, 5]
    x = random_inputs(model, 11, 5, seed)
    together = named(model(x, lengths=lengths), model)
    steps = {name: model._values[name].time for name in together}
    for b, n in enumerate(lengths):
        for name, array in named(model(row(x, model, b, n)), model).items():
            mine = row(together, model, b, array.shape[1 if model.batch_first else 0] if steps[name] else None)[name]
            assert_same_bits(np.ascontiguousarray(mine), np.ascontiguousarray(array))


@pytest.mark.parametrize("seed", SEEDS)
def test_streams_have_the_bits_of_calls(seed: int) -> None:
    model = random_model(seed, streams=True, plain=seed % 2 == 0)
    timed = {name: value.time for name, value in model.inputs.items()}
    x = random_inputs(model, 70, 3, seed)
    whole = {
        n: a.swapaxes(0, 1) if model.batch_first and model._values[n].time else a
        for n, a in named(model(x), model).items()
    }
    frames = [{n: (a[:, t] if model.batch_first else a[t]) if timed[n] else a for n, a in x.items()} for t in range(70)]
    stream = model.stream(3)
    made: dict[str, list[Array]] = {name: [] for name in model.outputs}
    for frame in frames:
        for name, array in named(stream.step(frame), model).items():
            if array is not None:
                made[name].append(array)
    for name, array in whole.items():
        if model._values[name].time:
            assert_same_bits(np.array(made[name]), np.ascontiguousarray(array))
        else:
            assert_same_bits(made[name][-1], array)

    chunked = model.stream(3)
    ends = [0, 0, 5, 6, 70] if seed % 2 else [0, 66, 69, 70]
    for start, end in pairwise(ends):
        cut = {n: (a[:, start:end] if model.batch_first else a[start:end]) if timed[n] else a for n, a in x.items()}
        for name, array in named(chunked.run(cut), model).items():
            array = array.swapaxes(0, 1) if model.batch_first else array
            want = np.array(made[name][: len(array)], "float32").reshape(array.shape)
            assert_same_bits(np.ascontiguousarray(array), want)
            del made[name][: len(array)]
    assert not any(made.values())
    assert_same_bits(chunked.state, stream.state)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stream_goes_on_from_its_state(seed: int) -> None:
    model = random_model(seed, streams=True, plain=seed % 2 == 0)
    x = random_inputs(model, 12, 2, seed)

    def part(start: int, end: int) -> dict[str, Array]:
        cut = {n: a[:, start:end] if model.batch_first else a[start:end] for n, a in x.items() if model.inputs[n].time}
        return {n: cut.get(n, a) for n, a in x.items()}

    first, second = model.stream(2), model.stream(2)
    first.run(part(0, 7))
    second.run(part(3, 8))
    second.state = first.state
    assert_same_bits(second.state, first.state)
    want = first.run(part(7, 12))
    assert_same_bits(second.run(part(7, 12)), want)
    second.reset()
    assert_same_bits(second.state, model.stream(2).state)


@pytest.mark.parametrize("seed", SEEDS)
def test_marks_match_the_oracle(seed: int) -> None:
    model = random_model(seed, plain=True)
    layers = [layer for layer in model.layers.values() if hasattr(layer, "kernel_size")]
    windows = any(layer.kernel_size[0] > 1 for layer in layers)
    pools = any(isinstance(layer, recurra.Pool) for layer in model.layers.values())
    random = np.random.default_rng(seed)
    axes = (5, 9) if model.batch_first else (9, 5)
    x = random_inputs(model, 9, 5, seed)
    marks: dict[str, Any] = {}
    if not pools:
        marks["resets"] = random.random(axes) < 0.2
    if not windows:
        marks["mask"] = random.random(axes) < 0.7
        marks["masked_output"] = "zero" if seed % 2 else "previous"
    lengths = [9, 2, 0, 7, 9]
    outputs, state = model(x, lengths=lengths, return_state=True, **marks)
    want, want_state = model_reference.run(model, x, lengths=lengths, **marks)
    assert_close(named(outputs, model), want, TOLERANCE["float32"])
    assert_close(state, want_state, TOLERANCE["float32"])
    for name, flags in (("resets", pools), ("mask", windows)):
        if flags:
            with pytest.raises(ValueError, match=rf"layers: node '.*': .*{name}"):
                model(x, None, **{name: np.ones(axes, bool)})  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", SEEDS)
def test_streams_take_marks(seed: int) -> None:
    model = random_model(seed, streams=True, plain=True)
    if any(hasattr(n, "kernel_size") and n.kernel_size[0] > 1 for n in model.layers.values()) and seed % 2:
        return
    axes = (2, 9) if model.batch_first else (9, 2)
    random, x = np.random.default_rng(seed), random_inputs(model, 9, 2, seed)
    pools = any(isinstance(layer, recurra.Pool) for layer in model.layers.values())
    windows = any(getattr(layer, "kernel_size", (1,))[0] > 1 for layer in model.layers.values())
    marks: dict[str, Any] = {"resets": random.random(axes) < 0.3, "mask": random.random(axes) < 0.7}
    if windows:
        del marks["mask"]
    if pools:
        return
    want = named(model(x, **marks), model)
    assert_same_bits(named(model.stream(2).run(x, **marks), model), want)
    stream = model.stream(2)
    for t in range(9):
        at = (slice(None), t) if model.batch_first else (t,)
        frame = {n: a[at] if model.inputs[n].time else a for n, a in x.items()}
        made = named(stream.step(frame, **{n: f[at] for n, f in marks.items()}), model)
        for name, array in made.items():
            assert_same_bits(array, np.ascontiguousarray(want[name][at]))


def test_steps_take_marks_without_a_batch_axis() -> None:
    model = recurra.Model([recurra.GRU(3, 4, seed=1), "tanh"])
    x, stream = np.random.default_rng(0).standard_normal((4, 3)).astype("float32"), model.stream()
    first = stream.step(x[0])
    assert_same_bits(stream.step(x[1], mask=False), first)
    out = np.empty(4, "float32")
    assert stream.step(x[0], out, resets=True) is out
    assert_same_bits(out, first)
    assert_same_bits(stream.step(x[1], resets=False, mask=True), model(x[:2])[1])
    with pytest.raises(TypeError, match="mask: expected True or False"):
        stream.step(x[0], mask=np.array([True]))


def test_marks_of_nodes_are_those_of_a_mask_node() -> None:
    nodes = [Node(recurra.Mask(0.0)), Node(recurra.GRU(3, 5, seed=1)), Node(recurra.Linear(5, 2, seed=2))]
    model = recurra.Model(nodes, inputs={"x": Value((3,))}, outputs=["recurrent0", "linear0"])
    x = np.random.default_rng(0).standard_normal((20, 4, 3)).astype("float32")
    x[np.random.default_rng(1).random((20, 4)) < 0.4] = 0
    outputs = model(x)
    mask = (x != 0).any(2)
    layer = model.layers["recurrent0"]
    assert_same_bits(outputs["recurrent0"], layer(x, mask=mask)[0])
    stream = model.stream(4)
    frames = [stream.step(frame) for frame in x]
    assert_same_bits(np.array([f["linear0"] for f in frames]), outputs["linear0"])
    assert_same_bits({n: a for n, a in model.stream(4).run(x).items()}, outputs)


@pytest.mark.parametrize("mode", ["last", "first", "max", "mean"])
def test_pools_of_a_stream_leave_out_what_a_mask_node_does(mode: str) -> None:
    """After each step the value of the steps so far, as of a call; a mask of the stream's own is refused."""
    x = np.random.default_rng(0).integers(-1, 2, (12, 3, 2)).astype("float32")
    x[0, 0], x[:2, 1] = 0, 0
    model = recurra.Model([recurra.Mask(0), recurra.Pool(mode)], inputs={"x": Value((2,))})
    stream = model.stream(3)
    for t, frame in enumerate(x):
        assert_same_bits(stream.step(frame), model(x[: t + 1]))
    pooled = recurra.Model([recurra.Pool(mode)], inputs={"x": Value((2,))}).stream(3)
    before = pooled.step(x[1])
    mask = np.array([True, False, True])
    for run, given in ((pooled.run, x[2:3]), (pooled.step, x[2])):
        with pytest.raises(ValueError, match=r"mask: expected None, for the stream has a state .* 'pool0:pool'"):
            run(given, mask=mask[None] if run == pooled.run else mask)
    if mode == "first":
        assert_same_bits(pooled.step(x[2]), before)


def test_embeddings_and_their_mask() -> None:
    nodes = [
        Node(recurra.Embedding(7, 4, seed=1), ("tokens",), "embedding"),
        Node(recurra.Mask(0), ("embedding", "tokens")),
        Node(recurra.LSTM(4, 5, direction="bidirectional", seed=2)),
        Node(recurra.Pool("last")),
    ]
    model = recurra.Model(nodes, inputs={"tokens": Value((), integer=True)}, batch_first=True)
    tokens = np.array([[3, 1, 2, 0, 0], [6, 5, 4, 3, 2], [0, 0, 0, 0, 0]], np.int32)
    assert_close(model(tokens), model_reference.run(model, tokens)[0]["pool0"], 2e-6)
    assert_same_bits(model(tokens)[:1], model(tokens[:1, :3]))
    padded = np.where(tokens == 0, -5, tokens)  # past the lengths integers may be anything
    assert_same_bits(model(padded, lengths=[3, 5, 0]), model(tokens, lengths=[3, 5, 0]))
    for wrong in (-1, 7, 2**40):
        with pytest.raises(ValueError, match=rf"tokens: expected integers in 0..6, got {wrong}"):
            model(np.array([[wrong]]))
    with pytest.raises(TypeError, match="x: expected integers, got float32"):
        model(np.zeros((1, 2), "float32"))


def test_sequence_to_sequence() -> None:
    nodes = [
        Node(recurra.LSTM(3, 6, 2, seed=1), ("source",), "encoder"),
        Node(recurra.LSTM(4, 6, 2, seed=2), ("target", "encoder:h", "encoder:c"), "decoder"),
        Node(recurra.Linear(6, 2, seed=3), ("decoder",), "out"),
    ]
    inputs = {"source": Value((3,)), "target": Value((4,))}
    model = recurra.Model(nodes, inputs=inputs, outputs=["out", "encoder:h"])
    x = {"source": np.ones((5, 2, 3), "float32"), "target": np.ones((8, 2, 4), "float32")}
    outputs = model(x)
    _, state = model.layers["encoder"](x["source"])
    y, _ = model.layers["decoder"](x["target"], state)
    assert_same_bits(outputs["out"], model.layers["out"](y))
    assert_same_bits(outputs["encoder:h"], np.ascontiguousarray(state[0].swapaxes(0, 1)).reshape(2, -1))
    with pytest.raises(ValueError, match=r"node 'decoder': .*initial state"):
        model.stream()
    with pytest.raises(ValueError, match="state: expected none of 'decoder'"):
        model(x, {"decoder": state})


def test_states_go_in_and_out() -> None:
    gru, lstm = recurra.GRU(3, 4, 2, seed=1), recurra.LSTM(4, 5, initial_state=True, seed=2)
    model = recurra.Model([gru, lstm])
    x = np.random.default_rng(0).standard_normal((6, 2, 3)).astype("float32")
    given = np.random.default_rng(1).uniform(-1, 1, (2, 2, 4)).astype("float32")
    y, state = model(x, {"recurrent0": given}, return_state=True)
    h, of_gru = gru(x, given)
    want, of_lstm = lstm(h)
    assert_same_bits((y, state), (want, {"recurrent0": of_gru, "recurrent1": of_lstm}))
    stream = model.stream(2)
    stream.reset(state={"recurrent0": given})
    assert_same_bits(np.array([stream.step(frame) for frame in x]), want)
    assert_same_bits(stream.state, state)
    stream.reset([1], {"recurrent0": given[:, 0]})
    assert_same_bits(stream.state["recurrent0"][:, 1], given[:, 0])
    assert_same_bits(stream.state["recurrent0"][:, 0], of_gru[:, 0])
    resets = np.zeros((6, 2), bool)
    resets[3] = True
    cut = model(x, resets=resets, reset_state={"recurrent0": given[:, 0]})
    assert_same_bits(cut[3:], model(x[3:], {"recurrent0": np.repeat(given[:, :1], 2, 1)}))


def test_without_a_batch_axis_and_batch_first() -> None:
    nodes: list[Any] = [recurra.Conv2d(1, 2, 3, padding=((2, 0), 1), seed=1), recurra.GRU(10, 4, seed=2)]
    inputs = {"x": Value((1, 5))}
    model = recurra.Model(nodes, inputs=inputs)
    first = recurra.Model(nodes, inputs=inputs, batch_first=True)
    x = np.random.default_rng(0).standard_normal((7, 3, 1, 5)).astype("float32")
    y = model(x)
    assert_same_bits(first(x.swapaxes(0, 1)), np.ascontiguousarray(y.swapaxes(0, 1)))
    assert_same_bits(first(np.ascontiguousarray(x.swapaxes(0, 1))), np.ascontiguousarray(y.swapaxes(0, 1)))
    assert_same_bits(model(x[:, 1]), y[:, 1])
    assert_same_bits(model(x[:, ::2]), y[:, ::2])
    stream = model.stream()
    assert_same_bits(np.array([stream.step(frame) for frame in x[:, 1]]), y[:, 1])
    assert_same_bits(first.stream(3).run(x.swapaxes(0, 1)), np.ascontiguousarray(y.swapaxes(0, 1)))
    assert model(x[:0]).shape == (0, 3, 4)
    assert model(x[:, :0]).shape == (7, 0, 4)


def test_a_stride_waits() -> None:
    model = recurra.Model([recurra.Conv1d(2, 3, 3, stride=3, causal=True, seed=1), recurra.GRU(3, 2, seed=2)])
    x = np.random.default_rng(0).standard_normal((10, 2)).astype("float32")
    whole, out = model(x), np.empty(2, "float32")
    stream = model.stream()
    made = [stream.step(frame, out=out) for frame in x]
    assert [frame is None for frame in made] == [False, True, True] * 3 + [False]
    assert all(frame is out for frame in made if frame is not None)
    assert_same_bits(out, whole[-1])
    stream.reset()
    assert [len(stream.run(x[i : i + 2])) for i in range(0, 10, 2)] == [1, 1, 0, 1, 1]
    assert model.output_lengths([0, 1, 3, 4, 10]).tolist() == [0, 1, 1, 2, 4]
    assert stream.state["conv1d0:position"].tolist() == 1
    pairs = model.stream(2)
    with pytest.raises(ValueError, match=r"node 'conv1d0': .*stride"):
        pairs.reset([0])
    state = stream.state
    state["conv1d0:position"] = np.array(3)
    with pytest.raises(ValueError, match="'conv1d0:position': expected 0 to 2"):
        stream.state = state


@pytest.mark.parametrize(
    ("nodes", "what"),
    [
        ([recurra.GRU(3, 3, direction="reverse")], "recurrent0"),
        ([recurra.GRU(3, 3, bidirectional=True)], "recurrent0"),
        (["relu", recurra.Reverse()], "reverse0"),
        ([recurra.Pool("last"), recurra.Repeat(3)], "repeat0"),
        ([recurra.Conv1d(3, 3, 3, padding=1)], "conv1d0"),
        ([recurra.Mask(), recurra.Conv1d(3, 3, 3, causal=True)], "conv1d0"),
        ([recurra.Pool("mean"), Node(recurra.Multiply(), ("x", "pool0"))], "multiply0"),
        ([recurra.Conv1d(3, 3, 1, stride=2), Node(recurra.Add(), ("x", "conv1d0"))], "add0"),
    ],
)
def test_what_a_stream_cannot_do_is_refused_by_name(nodes: list[Any], what: str) -> None:
    model = recurra.Model(nodes, inputs={"x": Value((3,))})
    with pytest.raises(ValueError, match=f"layers: node '{what}': "):
        model.stream()


def test_bad_input() -> None:
    model = recurra.Model([recurra.GRU(3, 4, seed=1), recurra.Linear(4, 2, seed=2)])
    x = np.zeros((5, 2, 3), "float32")
    cases: list[tuple[type[Exception], str, Any]] = [
        (TypeError, "x: expected float32, got float64", lambda: model(x.astype("float64"))),
        (ValueError, r"x: expected shape \[T, B, 3\] or \[T, 3\], got", lambda: model(x[..., :2])),
        (ValueError, "lengths: expected values in 0..5", lambda: model(x, lengths=[6, 0])),
        (ValueError, "lengths: expected none without a batch axis", lambda: model(x[:, 0], lengths=[1])),
        (ValueError, "state: expected names of recurrent nodes", lambda: model(x, {"gru": x})),
        (ValueError, "state recurrent0 h: expected shape", lambda: model(x, {"recurrent0": x})),
        (TypeError, "mask: expected bool", lambda: model(x, mask=np.ones((5, 2)))),
        (ValueError, "reset_state: expected None without resets", lambda: model(x, reset_state={})),
        (ValueError, "masked_output: expected one of", lambda: model(x, masked_output="none")),
        (TypeError, "return_state: expected True or False", lambda: as_any(model)(x, return_state=1)),
        (ValueError, "batch: expected at least 1", lambda: model.stream(0)),
        (ValueError, "threads: expected at least 1", lambda: model.stream(threads=0)),
    ]
    stream = model.stream(2)
    cases += [
        (TypeError, "x: expected float32, got float64", lambda: stream.step(x[0].astype("float64"))),
        (ValueError, "x: expected 2 sequences, got no batch axis", lambda: stream.step(x[0, 0])),
        (ValueError, "x: expected 2 sequences, got 1", lambda: stream.run(x[:, :1])),
        (ValueError, "out: expected shape", lambda: stream.step(x[0], out=np.zeros(2, "float32"))),
        (ValueError, "rows: expected values in 0..1", lambda: stream.reset([2])),
        (ValueError, "reset_state: expected names of recurrent nodes", lambda: stream.reset(state={"a": x})),
        (ValueError, "state: expected", lambda: setattr(stream, "state", {})),
        (TypeError, "cannot be copied or pickled", lambda: pickle.dumps(stream)),
    ]
    before = stream.state
    for kind, text, work in cases:
        with pytest.raises(kind, match=text):
            work()
    assert_same_bits(stream.state, before)


def test_models_keep_up_with_their_layers() -> None:
    gru, head = recurra.GRU(3, 4, seed=1), recurra.Linear(4, 2, seed=2)
    model, x = recurra.Model([gru, head]), np.ones((5, 3), "float32")
    stream, old = model.stream(), model(x)
    other = recurra.Model([recurra.GRU(3, 4, seed=3), recurra.Linear(4, 2, seed=4)])
    model.load_state_dict(other.state_dict())
    assert_same_bits(model(x), other(x))
    mask = np.ones(5, bool)
    mask[2] = False
    assert_same_bits(stream.run(x, mask=mask)[3:], old[2:4])
    stream.reset()
    assert_same_bits(stream.run(x), old)
    gru.load_state_dict(recurra.GRU(3, 4, seed=1).state_dict())
    head.load_state_dict(recurra.Linear(4, 2, seed=2).state_dict())
    assert_same_bits(model(x), old)
    again = pickle.loads(pickle.dumps(model))
    assert_same_bits(again(x), old)


def test_quantized_and_wide_layers() -> None:
    lstm = recurra.LSTM(40, 64, 2, seed=1)
    x = np.random.default_rng(0).standard_normal((30, 3, 40)).astype("float32")
    for precision in ("bfloat16", "int8"):
        layer = lstm.quantize(precision, keep=[0])
        model = recurra.Model([layer, "tanh"])
        tanh = recurra.Model(["tanh"], inputs={"x": Value((64,))})
        assert_same_bits(model(x), tanh(layer(x)[0]))
        stream = model.stream(3)
        assert_same_bits(stream.run(x), model(x))


def test_layers_on_their_own_have_the_bits_of_the_model() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((40, 5, 16)).astype("float32")
    conv = recurra.Conv1d(16, 8, 3, 2, groups=4, causal=True, seed=1)
    weight, bias = conv.state_dict()["weight"], conv.state_dict()["bias"]
    padded = np.concatenate([np.zeros((2, 5, 16), "float32"), x])
    for group in range(4):
        linear = recurra.Linear(12, 2)
        own = slice(2 * group, 2 * group + 2)
        linear.load_state_dict({"weight": weight[own].reshape(2, 12), "bias": bias[own]})
        seen = np.stack([padded[j : j + 39 : 2, :, 4 * group : 4 * group + 4] for j in range(3)], -1)
        want = linear(np.ascontiguousarray(seen).reshape(*seen.shape[:2], 12))
        assert_same_bits(np.ascontiguousarray(conv(x)[..., own]), want)
    assert_close(recurra.Softmax()(x), np.exp(x) / np.exp(x).sum(-1, keepdims=True), 1e-6)
    assert_same_bits(recurra.Pool("max")(x, lengths=[40, 1, 2, 3, 4])[1], x[0, 1])
    assert recurra.Softmax()(x[0]).shape == (5, 16)
    assert recurra.Add()(x[0], x[1], x[2]).shape == (5, 16)
    with pytest.raises(ValueError, match="softmax: expected one input"):
        recurra.Softmax()(x, x)


def test_what_fails_after_a_reset_leaves_the_state() -> None:
    model = recurra.Model([recurra.Embedding(5, 3, seed=1), recurra.GRU(3, 4, seed=2)])
    stream = model.stream()
    assert_same_bits(np.array([stream.step(t) for t in (3, np.int8(1), np.array(4))]), model(np.array([3, 1, 4])))
    before = stream.state
    with pytest.raises(ValueError, match=r"expected integers in 0..4, got 5"):
        stream.run(np.array([1, 2, 5]), resets=np.array([False, True, True]))
    assert_same_bits(stream.state, before)
    for wrong in (5, -1, 2**70):
        with pytest.raises(ValueError, match=r"expected integers in 0..4"):
            stream.step(wrong)
    assert_same_bits(stream.state, before)
    pairs, both = model.stream(2), np.array([[3, 2], [1, 0], [4, 4]])
    out = np.empty((2, 4), "float32")
    assert all(pairs.step(both[t], out) is out for t in range(3))
    assert_same_bits(out, model(both)[-1])
    with pytest.raises(ValueError, match=r"expected integers in 0..4, got 7"):
        pairs.step(np.array([1, 7]))
    assert_same_bits(pairs.state["recurrent0"][0], out)


def test_a_stream_serves_one_thread() -> None:
    model = recurra.Model([recurra.LSTM(64, 512, 2, seed=1)])
    stream, x = model.stream(), np.zeros((2000, 64), "float32")
    errors: list[BaseException] = []

    def run() -> None:
        try:
            for _ in range(3):
                stream.run(x)
        except RuntimeError as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors
    assert "in use by another thread" in str(errors[0])


def test_many_threads_run_one_model() -> None:
    model = random_model(3, plain=True)
    x = random_inputs(model, 60, 40, 1)
    want, got = model(x), []
    threads = [threading.Thread(target=lambda: got.append(model(x))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4
    for result in got:
        assert_same_bits(result, want)


SCRIPT = """
import sys
import numpy as np
from checks import arrays, save_results
from model_problems import random_inputs, random_model
results = {}
for seed in range(60):
    for dtype in ("float32", "float64"):
        model = random_model(seed, dtype, plain=seed % 2 == 0)
        y = model(random_inputs(model, 9, 4, seed), lengths=[9, 0, 4, 7])
        results |= {f"{seed} {dtype} {i}": array for i, array in enumerate(arrays(y))}
save_results(sys.argv[1], results)
"""


def test_the_same_bits_on_avx2_and_avx512(tmp_path: Path) -> None:
    assert_same_bits_on_avx2_and_avx512(SCRIPT, tmp_path)
