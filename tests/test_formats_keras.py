"""Models of Keras, saved and in memory, give here what they give there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras_cases
import numpy as np
import pytest
from checks import Array, assert_close
from keras_cases import CASES, B, F, T, built, call, drawn, inputs_for

import recurra
from recurra.formats.keras import load_keras

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

keras: Any = pytest.importorskip("keras", reason="the parity extra is not installed: no keras")
pytest.importorskip("h5py", reason="the parity extra is not installed: no h5py")
L: Any = keras.layers


def outputs(model: recurra.Model, x: list[Array], **options: Any) -> list[Array]:
    """In the order of Keras's."""
    found = model(dict(zip(model.inputs, x, strict=True)), **options)
    return list(found.values()) if isinstance(found, dict) else [found]


def sources(model: Any, folder: Path) -> dict[str, Any]:
    """The model in memory, and what it is in files."""
    found: dict[str, Any] = {"live": model}
    for end in ("keras", "h5"):
        found[end] = folder / f"model.{end}"
        model.save(found[end])
    return found


def compare(model: Any, source: Any, x: list[Array] | None = None, **options: Any) -> recurra.Model:
    x = inputs_for(model) if x is None else x
    for layer in model.layers:  # of a stateful one the state is zero at first here
        if getattr(layer, "stateful", False):
            layer.reset_state()
    want = call(keras, model, x)
    ours = load_keras(source)
    assert_close(outputs(ours, x, **options), want, 2e-6)
    return ours


@pytest.mark.parametrize("name", CASES)
def test_model(name: str, tmp_path: Path) -> None:
    model = built(keras, name)
    for source in sources(model, tmp_path).values():
        ours = compare(model, source)
        assert ours.batch_first
        again = recurra.Model.from_structure(ours.structure, ours.state_dict())
        assert again.structure == ours.structure


@pytest.mark.parametrize("mode", ["concat", "sum", "mul", "ave"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
@pytest.mark.parametrize("sequences", [False, True])
def test_merge_mode(mode: str, kind: str, sequences: bool, tmp_path: Path) -> None:
    layer = getattr(L, kind)(4, return_sequences=sequences)
    model = keras.Sequential([keras.Input((None, F)), L.Bidirectional(layer, merge_mode=mode)])
    drawn(model)
    for source in sources(model, tmp_path).values():
        compare(model, source)


NODES = ["relu", "tanh", "sigmoid", "softmax", "log_softmax", "elu", "selu", "softplus", "softsign", "silu", "relu6"]
NODES += ["hard_sigmoid", "hard_silu", "linear", "leaky_relu", "mish", "celu", "log_sigmoid", "hard_tanh"]
NODES += ["sparse_sigmoid"]
INSIDE = ["relu", "tanh", "sigmoid", "elu", "softplus", "softsign", "hard_sigmoid", "linear", "leaky_relu", "celu"]


@pytest.mark.parametrize("function", NODES)
def test_activation(function: str, tmp_path: Path) -> None:
    layers = [L.Dense(5, activation=function), L.Conv1D(4, 2, activation=function), L.Activation(function)]
    model = keras.Sequential([keras.Input((None, F)), *layers])
    drawn(model)
    for source in sources(model, tmp_path).values():
        compare(model, source)


@pytest.mark.parametrize("function", INSIDE)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_activation_inside(function: str, kind: str, tmp_path: Path) -> None:
    options = [{"activation": function}] + ([] if kind == "SimpleRNN" else [{"recurrent_activation": function}])
    layers = [getattr(L, kind)(4, return_sequences=True, **each) for each in options]
    model = keras.Sequential([keras.Input((None, F)), *layers])
    drawn(model)
    x = [0.3 * each for each in inputs_for(model)]
    for source in sources(model, tmp_path).values():
        compare(model, source, x)


LAYERS: dict[str, Callable[[], Any]] = {
    "relu": lambda: L.ReLU(),
    "relu_slope": lambda: L.ReLU(negative_slope=0.3),
    "relu_limit": lambda: L.ReLU(max_value=0.5),
    "relu_threshold": lambda: L.ReLU(threshold=0.4),
    "leaky_relu": lambda: L.LeakyReLU(0.07),
    "elu": lambda: L.ELU(0.4),
    "softmax": lambda: L.Softmax(),
    "activation_layer": lambda: L.Activation(L.LeakyReLU(0.4)),
    "layer_norm": lambda: L.LayerNormalization(epsilon=0.01),
    "layer_norm_bare": lambda: L.LayerNormalization(center=False, scale=False),
    "batch_norm": lambda: L.BatchNormalization(epsilon=0.1),
    "batch_norm_bare": lambda: L.BatchNormalization(center=False, scale=False),
    "same_even": lambda: L.Conv1D(3, 4, padding="same"),
    "same_strides": lambda: L.Conv1D(3, 4, padding="same", strides=3),
    "causal_strides": lambda: L.Conv1D(3, 4, padding="causal", strides=2),
    "valid_dilation": lambda: L.Conv1D(3, 2, dilation_rate=3),
    "max_same": lambda: L.MaxPooling1D(3, strides=2, padding="same"),
    "average": lambda: L.AveragePooling1D(3, strides=2),
    "crop": lambda: L.Cropping1D((2, 1)),
    "pad": lambda: L.ZeroPadding1D((2, 1)),
    "regroup": lambda: L.Reshape((-1, 2, 2)),
    "max_keepdims": lambda: L.GlobalMaxPooling1D(keepdims=True),
    "mean_keepdims": lambda: L.GlobalAveragePooling1D(keepdims=True),
}


def test_one_step_of_a_pool_counts_for_all_that_it_meets(tmp_path: Path) -> None:
    """Squeeze and excite: what the mean of all steps says scales every step."""
    whole = keras.Input((None, F))
    y = L.GRU(6, return_sequences=True)(whole)
    gate = L.Dense(6, activation="sigmoid")(L.GlobalAveragePooling1D(keepdims=True)(y))
    model = keras.Model(whole, L.Multiply()([y, gate]))
    x = np.random.default_rng(0).standard_normal((2, 13, F)).astype("float32")
    for source in sources(model, tmp_path).values():
        assert_close(load_keras(source)(x), model.predict(x, verbose=0), 2e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((11, F)), LAYERS[name]()])
    drawn(model)
    for source in sources(model, tmp_path).values():
        compare(model, source)


PAIRS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "go_backwards": (lambda **o: L.GRU(4, return_sequences=True, **o), {"go_backwards": True}),
    "reset_after": (lambda **o: L.GRU(4, bias_initializer="ones", **o), {"reset_after": False}),
    "activation": (lambda **o: L.LSTM(4, **o), {"activation": "softsign"}),
    "recurrent_activation": (lambda **o: L.LSTM(4, **o), {"recurrent_activation": "hard_sigmoid"}),
    "use_bias": (lambda **o: L.SimpleRNN(4, bias_initializer="ones", **o), {"use_bias": False}),
    "merge_mode": (lambda **o: L.Bidirectional(L.GRU(4), **o), {"merge_mode": "sum"}),
    "dilation_rate": (lambda **o: L.Conv1D(4, 3, padding="causal", **o), {"dilation_rate": 2}),
    "padding": (lambda **o: L.Conv1D(4, 3, **{"padding": "causal", **o}), {"padding": "same"}),
    "strides": (lambda **o: L.Conv1D(4, 3, **o), {"strides": 2}),
    "groups": (lambda **o: L.Conv1D(4, 3, **o), {"groups": 2}),
    "epsilon": (lambda **o: L.LayerNormalization(**o), {"epsilon": 0.5}),
    "negative_slope": (lambda **o: L.LeakyReLU(**o), {"negative_slope": 0.1}),
    "mask_value": (
        lambda **o: keras.Sequential([keras.Input((None, F)), L.Masking(**o), L.GRU(3)]),
        {"mask_value": -1},
    ),
}


@pytest.mark.parametrize("attribute", PAIRS)
def test_one_attribute_makes_a_difference(attribute: str) -> None:
    """Here as there, whichever it is: both models have what weights they can of the same draws."""
    make, other = PAIRS[attribute]
    found = []
    for options in ({}, other):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((None, F)), make(**options)])
        x = inputs_for(model)
        assert_close(outputs(load_keras(model), x), call(keras, model, x), 2e-6)
        found.append(outputs(load_keras(model), x)[0])
    assert found[0].shape != found[1].shape or np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize("name", ["stateful_gru", "text_generator"])
def test_a_stateful_layer_carries_its_state_as_state_and_streams_do(name: str) -> None:
    model = built(keras, name)
    ours, state = load_keras(model), None
    stream = ours.stream(B)
    for seed in range(3):
        x = inputs_for(model, seed)
        want = call(keras, model, x)[0]
        found, state = ours(x[0], state, return_state=True)
        assert_close(found, want, 2e-6)
        assert_close(np.stack([stream.step(step) for step in x[0].swapaxes(0, 1)], 1), want, 2e-6)


@pytest.mark.parametrize("name", ["denoiser", "gru_reset_before", "without_biases", "lstm_last", "preprocessing"])
def test_stream(name: str) -> None:
    """Step by step, what Keras gives for the whole; where it gives one value for that, the last."""
    model = built(keras, name)
    x, want = inputs_for(model), call(keras, model, inputs_for(model))[0]
    stream = load_keras(model).stream(B)
    found = np.stack([stream.step(step) for step in x[0].swapaxes(0, 1)], 1)
    assert_close(found if want.ndim == 3 else found[:, -1], want, 2e-6)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_masked_steps(kind: str) -> None:
    """Of one direction they repeat the output before; of Keras's Bidirectional they are zero."""
    layers = [L.Masking(-1.0), getattr(L, kind)(4, return_sequences=True)]
    model = keras.Sequential([keras.Input((None, F)), *layers])
    drawn(model)
    compare(model, model)
    model = keras.Sequential(
        [keras.Input((None, F)), *layers, L.Bidirectional(getattr(L, kind)(4, return_sequences=True))]
    )
    drawn(model)
    compare(model, model, masked_output="zero")


def test_float64(tmp_path: Path) -> None:
    """Not of a Dense: Keras multiplies float64 in float32 over PyTorch."""
    layers = [L.LSTM(5, return_sequences=True, dtype="float64"), L.GRU(2, return_sequences=True, dtype="float64")]
    model = keras.Sequential([keras.Input((None, F), dtype="float64"), *layers])
    model.save(tmp_path / "m.keras")
    ours = load_keras(tmp_path / "m.keras")
    x = np.random.default_rng(0).standard_normal((B, T, F))
    assert ours.dtype == "float64"
    assert_close(outputs(ours, [x]), call(keras, model, [x]), 1e-12)


def test_names() -> None:
    """Nodes are called what Keras's layers are."""
    x = keras.Input((None, F), name="audio")
    y = L.GRU(4, return_sequences=True, name="a:b")(x)
    model = keras.Model(x, [L.Dense(2, activation="relu", name="gain")(y), L.Dense(3, name="voice")(y)])
    ours = load_keras(model)
    assert (list(ours.inputs), ours.outputs) == (["audio"], ("gain", "voice"))
    assert list(ours.layers) == ["a_b", "gain_linear", "gain", "voice"]


def test_an_embedding_without_keras_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading files imports h5py alone."""
    import sys

    model = built(keras, "tagger")
    x = inputs_for(model)
    want = call(keras, model, x)
    model.save(tmp_path / "m.keras")
    for name in [name for name in sys.modules if name.split(".")[0] in ("keras", "torch", "tensorflow")]:
        monkeypatch.setitem(sys.modules, name, None)
    assert_close(outputs(load_keras(tmp_path / "m.keras"), x), want, 2e-6)


def test_recurra_load(tmp_path: Path) -> None:
    model = built(keras, "denoiser")
    for end in ("keras", "h5"):
        model.save(tmp_path / f"m.{end}")
        ours = recurra.load(tmp_path / f"m.{end}")
        assert ours.structure == load_keras(tmp_path / f"m.{end}").structure


def test_all_cases_are_run() -> None:
    assert len(CASES) >= 20 and keras_cases.B == B
