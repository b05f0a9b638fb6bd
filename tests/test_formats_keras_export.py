"""Models become Keras 3 models that give the same, and come back as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from checks import assert_close
from keras_cases import CASES, B, F, T, built, inputs_for, numpy_of
from test_formats_keras import outputs

import recurra as r
from recurra.formats import UnsupportedModel
from recurra.formats.keras import load_keras, to_keras

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

keras: Any = pytest.importorskip("keras", reason="the parity extra is not installed: no keras")
pytest.importorskip("h5py", reason="the parity extra is not installed: no h5py")
A = r.Activation
# What Keras has no means for: a maximum over masked steps and the like do not come from there.
CHAINS: dict[str, Callable[[], list[Any]]] = {
    "tagger": lambda: [r.GRU(F, 5, 2, bidirectional=True), r.Linear(10, 3), r.Softmax()],
    "reset before": lambda: [r.GRU(F, 5, reset="before"), r.GRU(5, 3, bias=False), "relu"],
    "lstm": lambda: [r.LSTM(F, 5, 2), r.Dropout(0.3), r.Pool("last"), r.Linear(5, 2, bias=False), "sigmoid"],
    "reverse": lambda: [r.LSTM(F, 5, 2, direction="reverse"), r.Pool("first"), r.Linear(5, 2)],
    "reverse sequence": lambda: [r.RNN(F, 5, direction="reverse"), r.Linear(5, 2), r.Pool("first")],
    "functions": lambda: [
        r.LSTM(F, 5, activation="softsign", recurrent_activation=A("hard_sigmoid", alpha=1 / 6)),
        r.RNN(5, 4, nonlinearity="elu"),
        r.RNN(4, 4, nonlinearity="sigmoid"),
        r.GRU(4, 3, bidirectional=True, activation=("tanh", "relu"), recurrent_activation=("softsign", "sigmoid")),
    ],
    "denoiser": lambda: [
        r.Conv1d(F, 6, 3, causal=True, dilation=2),
        "tanh",
        r.Conv1d(6, 4, 4, stride=2, padding=(2, 1), groups=2, bias=False),
        r.LayerNorm(4),
        r.Scale(4),
        r.GRU(4, 3),
    ],
    "crnn": lambda: [
        r.Reshape((2, 2)),
        r.Conv2d(2, 3, (3, 2), padding=((2, 0), (1, 0)), dilation=(1, 1)),
        r.MaxPool2d((2, 1)),
        r.AvgPool2d((1, 2), padding=((0, 0), (0, 1))),
        r.Reverse(),
        r.Pool("max"),
    ],
    "activations": lambda: [
        A("affine", alpha=2.0, beta=1.0),
        A("scaled_tanh", alpha=2.0, beta=0.5),
        "hard_sigmoid",
        A("leaky_relu", alpha=0.3),
        A("elu", alpha=0.4),
        A("thresholded_relu", alpha=0.2),
        "softplus",
        "softsign",
        r.Softmax(log=True),
    ],
    "autoencoder": lambda: [r.LSTM(F, 3), r.Pool("last"), r.Repeat(4), r.LSTM(3, 4), r.Pool("mean")],
}


def with_back(model: r.Model, x: list[Any], folder: Path) -> None:
    """The Keras model, and what is read of its file, give what the model gives."""
    want = outputs(model, x)
    made = model.to_keras()
    assert_close(numpy_of(keras, made(x[0] if len(x) == 1 else x)), want, 2e-6)
    made.save(folder / "m.keras")
    again = load_keras(folder / "m.keras")
    assert_close(outputs(again, x), want, 2e-6)


@pytest.mark.parametrize("name", CHAINS)
def test_chain(name: str, tmp_path: Path) -> None:
    keras.utils.clear_session()
    model = r.Model(CHAINS[name](), batch_first=True, inputs={"x": r.Value((F,))})
    rng = np.random.default_rng(0)
    model.load_state_dict({n: rng.uniform(-0.6, 0.6, w.shape).astype("float32") for n, w in model.state_dict().items()})
    with_back(model, [rng.standard_normal((B, T + 2, F), "float32")], tmp_path)


def test_graph(tmp_path: Path) -> None:
    """Masks, states as values and inputs, slices of features, several outputs."""
    nodes = [
        r.Node(r.GRU(F, 4, reset="before"), ("x",), "g"),
        r.Node(r.Mask(-1.0), ("g", "x"), "m"),
        r.Node(r.LSTM(4, 4, bidirectional=True), ("m",), "l"),
        r.Node(r.Pool("mean"), ("l",), "p"),
        r.Node(r.Select([3, 1, 1, 0]), ("g",), "s"),
        r.Node(r.Add(), ("s", "g", "h"), "a"),
        r.Node(r.Multiply(), ("a", "x"), "b"),
        r.Node(r.Concatenate(), ("a", "b"), "c"),
        r.Node(r.LSTM(8, 8), ("c", "l:h", "l:c"), "z"),
        r.Node(r.LSTM(4, 4), ("m",), "last"),
        r.Node(r.Pool("last"), ("last",), "end"),
    ]
    inputs = {"x": r.Value((F,)), "h": r.Value((4,), False)}
    model = r.Model(nodes, inputs=inputs, outputs=["p", "z", "z:c", "end", "b"], batch_first=True)
    rng = np.random.default_rng(0)
    x, h = rng.standard_normal((B, T, F), "float32"), rng.standard_normal((B, 4), "float32")
    x[0, 3:] = x[1, 2] = -1
    with_back(model, [x, h], tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name: str) -> None:
    """Keras's models come back, where nothing of theirs is refused by name."""
    model = built(keras, name)
    x = inputs_for(model)
    ours = load_keras(model)
    want = outputs(ours, x)
    keras.utils.clear_session()
    try:
        made = to_keras(ours)
    except UnsupportedModel as error:
        assert name in ("classifier_of_words", "masks_and_merges"), error
        assert "node '" in str(error)
        return
    assert_close(numpy_of(keras, made(x[0] if len(x) == 1 else x)), want, 2e-6)


REFUSED: dict[str, tuple[Any, str]] = {
    "projection": (r.LSTM(F, 5, proj_size=2), "LSTM: cell: Keras has no 'lstm_projected'"),
    "peephole": (r.LSTM(F, 5, peephole=True), "cell"),
    "write": (r.GRU(F, 5, update="write"), "cell"),
    "clip": (r.GRU(F, 5, clip=3.0), "clip: Keras has none, got 3"),
    "cell clip": (r.LSTM(F, 5, cell_clip=3.0, activation="relu"), "cell_clip"),
    "learned state": (r.GRU(F, 5, initial_state=True), "initial_state"),
    "zoneout": (r.GRU(F, 5, zoneout=0.1), "zoneout: expected 0, got 0.1"),
    "int8": (r.GRU(F, 5).quantize("int8"), "precision"),
    "output activation": (r.LSTM(F, 5, output_activation="relu"), "output_activation"),
    "slope": (r.GRU(F, 5, activation=A("leaky_relu", alpha=0.3)), "activation: Keras's recurrent layers have no"),
    "hard sigmoid of Keras 2": (r.GRU(F, 5, recurrent_activation="hard_sigmoid"), "activation"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str) -> None:
    layer, match = REFUSED[name]
    with pytest.raises(UnsupportedModel, match=f"Keras: node 'recurrent0': .*{match}"):
        r.Model([layer]).to_keras()


def test_operations_refused_by_name() -> None:
    for layers, match in (
        ([r.Mask(), r.Pool("max")], "node 'pool0': Pool: mode: Keras has no 'max' of masked steps"),
        ([r.MaxPool2d((3, 1), padding=((1, 1), (0, 0)))], "node 'max_pool2d0': MaxPool2d: padding"),
        ([A("thresholded_relu", alpha=-1.0)], "node 'activation0': thresholded_relu"),
    ):
        with pytest.raises(UnsupportedModel, match=match):
            r.Model(layers, inputs={"x": r.Value((F,))}).to_keras()
    both = {"x": r.Value((F,)), "h": r.Value((2,), False)}
    with pytest.raises(UnsupportedModel, match="node 'concatenate0': Concatenate: Keras joins no sequence"):
        r.Model([r.Node(r.Concatenate(), ("x", "h"))], inputs=both).to_keras()
