"""Models as ONNX files: run in ONNX Runtime, and read again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close

ort = pytest.importorskip("onnxruntime", reason="the parity extra is not installed: no onnxruntime")
onnx = pytest.importorskip("onnx", reason="the parity extra is not installed: no onnx")

from onnx_files import runtime  # noqa: E402

import recurra  # noqa: E402
from recurra import Activation, Node, Value  # noqa: E402
from recurra.formats import UnsupportedModel  # noqa: E402
from recurra.formats.onnx import load_onnx, read_onnx, to_onnx  # noqa: E402


def random(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).uniform(-1, 1, shape).astype("float32")


def drawn(layer: Any) -> Any:
    """The layer with parameters that are all drawn, among them those that start as ones or zeros."""
    generator = np.random.default_rng(5)
    layer.load_state_dict(
        {n: generator.uniform(-0.7, 0.7, a.shape).astype(a.dtype) for n, a in layer.state_dict().items()}
    )
    return layer


def models() -> dict[str, recurra.Model]:
    """Models of the kinds that people have."""
    model = recurra.Model
    general: dict[str, Any] = {
        "activation": Activation("leaky_relu", 0.2),
        "recurrent_activation": "hard_sigmoid",
        "clip": 0.8,
    }
    both: dict[str, Any] = {"activation": ("tanh", Activation("scaled_tanh", 0.8, 1.2)), "bidirectional": True}
    chains: dict[str, list[Any]] = {
        "gru": [recurra.GRU(4, 5)],
        "gru_before": [recurra.GRU(4, 5, 2, reset="before", bidirectional=True)],
        "gru_general": [recurra.GRU(4, 5, **general), recurra.Linear(5, 2, bias=False)],
        "gru_both": [recurra.GRU(4, 5, **both)],
        "lstm": [recurra.LSTM(4, 5, 3, bias=False), "relu"],
        "lstm_reverse": [recurra.LSTM(4, 5, direction="reverse", peephole=True)],
        "lstm_coupled": [recurra.LSTM(4, 5, coupled="f_from_i", peephole=True, bidirectional=True)],
        "lstm_general": [recurra.LSTM(4, 5, output_activation="softsign", **general)],
        "lstm_coupled_general": [recurra.LSTM(4, 5, coupled="f_from_i", clip=0.5)],
        "learned": [drawn(recurra.LSTM(4, 5, 2, bidirectional=True, initial_state=True))],
        "rnn_relu": [recurra.RNN(4, 5, nonlinearity="relu", bidirectional=True)],
        "rnn_sigmoid": [recurra.RNN(4, 5, nonlinearity="sigmoid")],
        "rnn_general": [recurra.RNN(4, 5, nonlinearity=Activation("affine", 0.5, 0.1), clip=1.0)],
        "denoiser": [
            recurra.Conv1d(4, 6, 5, causal=True, dilation=2),
            "elu",
            recurra.GRU(6, 5),
            recurra.Linear(5, 4),
            "sigmoid",
        ],
        "strided": [recurra.Conv1d(4, 6, 4, stride=2, padding=(1, 2), groups=2), recurra.GRU(6, 5), recurra.Softmax()],
        "norms": [
            drawn(recurra.LayerNorm(4)),
            recurra.GRU(4, 5),
            drawn(recurra.Scale(5)),
            drawn(recurra.LayerNorm(5, 0.01, bias=False)),
        ],
        "log_softmax": [recurra.Dropout(0.3), recurra.LSTM(4, 5), recurra.Softmax(log=True)],
        **{
            mode: [recurra.GRU(4, 5), recurra.Pool(mode), recurra.Linear(5, 2)]
            for mode in ("last", "first", "max", "mean")
        },
        "sqrt": ["softplus", recurra.Sqrt(), recurra.GRU(4, 5)],
        "reverse": [recurra.Reverse(), recurra.GRU(4, 5), recurra.Reverse(), recurra.Select([4, 0, 0])],
        "repeat": [recurra.GRU(4, 5), recurra.Pool("last"), recurra.Repeat(6), recurra.GRU(5, 3)],
        "activations": [Activation(name) for name in ("tanh", "softplus", "thresholded_relu", "linear", "hard_sigmoid")]
        + [Activation("affine", 2, 1), Activation("scaled_tanh", 0.7, 1.3), recurra.Linear(4, 2)],
    }
    found = {name: model(layers, inputs={"x": Value((4,))}, batch_first=name > "l") for name, layers in chains.items()}
    found["image"] = model(
        [
            recurra.Conv2d(1, 3, 3, padding=((2, 0), (1, 1))),
            "relu",
            recurra.MaxPool2d((1, 2)),
            recurra.Conv2d(3, 3, (2, 1), (1, 1), ((1, 0), 0), groups=3),
            recurra.AvgPool2d((2, 2), (1, 1), ((1, 0), 1)),
            recurra.GRU(15, 5),
            recurra.Linear(5, 2),
        ],
        inputs={"x": Value((1, 8))},
    )
    found["tagger"] = model([recurra.Embedding(9, 4), recurra.LSTM(4, 5, bidirectional=True), recurra.Linear(10, 3)])
    found["residual"] = model(
        [
            Node(recurra.GRU(4, 4), ("x",), "gru"),
            Node(recurra.Add(), ("gru", "x", "z"), "sum"),
            Node(recurra.Concatenate(), ("z", "sum", "gru:h"), "all"),
            Node(recurra.Multiply(), ("all", "all"), "out"),
        ],
        inputs={"x": Value((4,)), "z": Value((4,), time=False)},
        outputs=["out", "sum", "gru:h"],
    )
    found["seq2seq"] = model(
        [
            Node(recurra.LSTM(4, 5, 2), ("x",), "encoder"),
            Node(recurra.LSTM(3, 5, 2), ("z", "encoder:h", "encoder:c"), "decoder"),
            recurra.Linear(5, 2),
        ],
        inputs={"x": Value((4,)), "z": Value((3,))},
        outputs=["linear0", "encoder:h"],
    )
    return found


MODELS = models()


def inputs_of(model: recurra.Model) -> dict[str, Array]:
    found = {}
    for i, (name, value) in enumerate(model.inputs.items()):
        front = ((3, 7 + i) if model.batch_first else (7 + i, 3)) if value.time else (3,)
        array = random(*front, *value.features)
        found[name] = (array * 4 + 4).astype(np.int64) if value.integer else array
    return found


def called(model: recurra.Model, feeds: dict[str, Array], **options: Any) -> Any:
    x = feeds if len(feeds) > 1 else next(iter(feeds.values()))
    y = model(x, **options)
    outputs, state = y if options.get("return_state") else (y, None)
    outputs = outputs if isinstance(outputs, dict) else {model.outputs[0]: outputs}
    return (outputs, state) if options.get("return_state") else outputs


@pytest.mark.parametrize("opset", [13, 17, 18, 22])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_onnx_runtime_gives_what_the_model_gives(name: str, opset: int) -> None:
    model = MODELS[name]
    feeds = inputs_of(model)
    expected = called(model, feeds)
    found = runtime(to_onnx(model, opset=opset), feeds)
    assert list(found) == [each.replace(":", "_") for each in expected]
    for ours, theirs in zip(expected.values(), found.values(), strict=True):
        assert theirs.shape == ours.shape
        assert_close(theirs, ours, 3e-6)


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_what_is_written_is_read_to_the_same_bits(name: str, opset: int) -> None:
    model = MODELS[name]
    feeds = inputs_of(model)
    imported = read_onnx(to_onnx(model, opset=opset))
    assert imported.model.batch_first == (model.batch_first and any(v.time for v in model.inputs.values()))
    assert imported.model.inputs == model.inputs
    again = called(imported.model, feeds)
    for name_here, ours in called(model, feeds).items():
        file_name = name_here.replace(":", "_")
        if file_name in imported.outputs:
            found = again[imported.outputs[file_name].value]
            assert np.array_equal(found.reshape(ours.shape), ours), name_here
        else:
            _, state = called(imported.model, feeds, return_state=True)
            assert np.array_equal(imported.final_state(file_name, state), ours)
    once = to_onnx(imported.model, opset=opset)
    assert once.SerializeToString() == to_onnx(load_onnx(once), opset=opset).SerializeToString()


@pytest.mark.parametrize("name", ["gru", "lstm", "gru_before", "rnn_relu", "lstm_coupled", "denoiser"])
def test_states_as_inputs_and_outputs(name: str) -> None:
    model = MODELS[name]
    feeds, generator = inputs_of(model), np.random.default_rng(3)
    proto = to_onnx(model, states=True)
    shapes = {i.name: [d.dim_value or 3 for d in i.type.tensor_type.shape.dim] for i in proto.graph.input}
    given = {n: generator.uniform(-1, 1, s).astype("float32") for n, s in shapes.items() if n not in feeds}
    found = runtime(proto, feeds | given)
    node = next(name for name, layer in model.layers.items() if isinstance(layer, recurra.Recurrent))
    letters = ("h", "c") if f"{node}_c_in" in given else ("h",)
    state = tuple(given[f"{node}_{letter}_in"] for letter in letters)
    outputs, final = called(model, feeds, state={node: state if len(state) > 1 else state[0]}, return_state=True)
    for each, array in outputs.items():
        assert_close(found[each], array, 3e-6)
    own = final[node] if isinstance(final[node], tuple) else (final[node],)
    for letter, array in zip(letters, own, strict=True):
        assert_close(found[f"{node}_{letter}_out"], array, 3e-6)
    imported = read_onnx(proto)
    assert set(imported.state_inputs) == set(given) and set(imported.final) == {n.replace("_in", "_out") for n in given}


def test_files_and_doubles(tmp_path: Any) -> None:
    model = recurra.Model([recurra.GRU(4, 5, dtype="float64"), recurra.Linear(5, 2, dtype="float64")])
    path = tmp_path / "model.onnx"
    model.to_onnx(path)
    again = recurra.load(path)
    x = random(6, 2, 4).astype("float64")
    assert again.dtype == np.float64 and np.array_equal(again(x), model(x))


REFUSED: list[tuple[Any, str]] = [
    (recurra.LSTM(4, 5, coupled=True), r"cell 'lstm_coupled' has no counterpart"),
    (recurra.LSTM(4, 5, cell_clip=2.0), r"cell_clip: expected none, got 2.0"),
    (recurra.LSTM(4, 5, proj_size=2), r"cell 'lstm_projected' has no counterpart"),
    (recurra.LSTM(4, 5, layer_norm=True), r"cell 'lstm_layer_norm' has no counterpart"),
    (recurra.GRU(4, 5, zoneout=0.1), r"zoneout: expected 0, got 0.1"),
    (recurra.GRU(4, 5).quantize("int8"), r"precision: expected none"),
    (recurra.GRU(4, 5, update="write"), r"cell 'gru_write' has no counterpart"),
    (recurra.Mask(), r"has no counterpart"),
]


@pytest.mark.parametrize(("layer", "message"), REFUSED)
def test_what_onnx_does_not_have_is_refused_by_name(layer: Any, message: str) -> None:
    model = recurra.Model([Node(layer, name="it"), "tanh"], inputs={"x": Value((4,))})
    with pytest.raises(UnsupportedModel, match=f"ONNX: node 'it' .*: {message}"):
        to_onnx(model)


def test_arguments_are_checked() -> None:
    model = MODELS["gru"]
    with pytest.raises(ValueError, match="opset: expected 13 to 22, got 12"):
        to_onnx(model, opset=12)
    path: Any
    for path in (3, True, [], np.zeros(2)):
        with pytest.raises(TypeError, match="path: expected a file's path"):
            to_onnx(model, path)
    for states in (1, None, "no", np.ones(2)):
        with pytest.raises(TypeError, match="states: expected True or False"):
            to_onnx(model, states=states)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"model: expected a recurra\.Model, got 3"):
        to_onnx(3)  # type: ignore[arg-type]
