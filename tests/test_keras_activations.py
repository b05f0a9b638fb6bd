"""Parity with Keras 3: every activation that both have, in every place, cell and direction."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close

import recurra
from recurra import Activation

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="the parity extra is not installed: no keras")

I, H, T, B = 3, 5, 6, 4  # noqa: E741
# Keras's name, and ours.
FUNCTIONS: dict[str, Any] = {
    name: name for name in ("tanh", "sigmoid", "relu", "linear", "softsign", "softplus", "elu")
}
FUNCTIONS |= {
    "hard_sigmoid": Activation("hard_sigmoid", alpha=1 / 6),
    "leaky_relu": Activation("leaky_relu", alpha=0.2),
}
CELLS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "rnn": ("SimpleRNN", {}, {}),
    "lstm": ("LSTM", {}, {}),
    "gru_after": ("GRU", {"reset_after": True}, {"reset": "after"}),
    "gru_before": ("GRU", {"reset_after": False}, {"reset": "before"}),
}


def in_our_order(kind: str, array: Array) -> Array:
    """Keras's gates are i, f, c, o, and z, r, h."""
    if kind != "GRU":
        return array
    z, r, h = np.split(array, 3, -1)
    return np.concatenate([r, z, h], -1)


def parameters(kind: str, weights: list[Array], end: str) -> dict[str, Array]:
    kernel, recurrent, bias = (in_our_order(kind, array) for array in weights)
    both = (bias, np.zeros_like(bias)) if bias.ndim == 1 else tuple(bias)
    found = {"weight_ih": kernel.T, "weight_hh": recurrent.T, "bias_ih": both[0], "bias_hh": both[1]}
    return {name + end: np.ascontiguousarray(array) for name, array in found.items()}


PLACES = [(cell, "activation") for cell in CELLS] + [(cell, "recurrent_activation") for cell in CELLS if cell != "rnn"]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(("cell", "place"), PLACES)
@pytest.mark.parametrize("bidirectional", (False, True))
def test_an_activation_gives_what_keras_gives(cell: str, function: str, place: str, bidirectional: bool) -> None:
    kind, options, own = CELLS[cell]
    rng = np.random.default_rng(3)
    x = rng.normal(size=(B, T, I)).astype("float32")
    layers = [getattr(keras.layers, kind)(H, return_sequences=True, **options, **{place: function})]
    if bidirectional:  # the other way with functions of its own
        layers.append(getattr(keras.layers, kind)(H, return_sequences=True, go_backwards=True, **options))
    for layer in layers:
        layer.build(x.shape)
        layer.set_weights([rng.uniform(-0.5, 0.5, w.shape).astype("float32") for w in layer.get_weights()])
    params = parameters(kind, layers[0].get_weights(), "_l0")
    want = keras.ops.convert_to_numpy(layers[0](x))
    if bidirectional:
        params |= parameters(kind, layers[1].get_weights(), "_l0_reverse")
        want = np.concatenate([want, keras.ops.convert_to_numpy(layers[1](x))[:, ::-1]], -1)

    standard = {"activation": "tanh", "recurrent_activation": "sigmoid"}[place]
    chosen = (FUNCTIONS[function], standard) if bidirectional else FUNCTIONS[function]
    made: type[Any] = getattr(recurra, kind.removeprefix("Simple"))
    more = {"nonlinearity": chosen} if kind == "SimpleRNN" else {place: chosen}
    ours = made(I, H, batch_first=True, bidirectional=bidirectional, **own, **more)
    ours.load_state_dict(params)
    scale = max(1.0, float(np.abs(want).max()))
    assert_close(ours(x)[0] / scale, want / scale, 3e-6)


def test_keras_2s_hard_sigmoid_is_the_default() -> None:
    """0.2 x + 0.5, bounded to 0..1; Keras 3's, relu6(x + 3) / 6, is another function."""
    x = np.linspace(-4, 4, 33, dtype="float32")[None, :, None]
    layers = [recurra.RNN(1, 1, nonlinearity=f, bias=False) for f in ("hard_sigmoid", FUNCTIONS["hard_sigmoid"])]
    for layer, want in zip(layers, (np.clip(0.2 * x + 0.5, 0, 1), keras.activations.hard_sigmoid(x)), strict=True):
        layer.load_state_dict({"weight_ih_l0": np.ones((1, 1), "f"), "weight_hh_l0": np.zeros((1, 1), "f")})
        assert_close(layer(x)[0], keras.ops.convert_to_numpy(want), 1e-6)
