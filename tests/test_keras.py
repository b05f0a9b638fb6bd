"""Masks beside Keras, which has them in all its recurrent layers."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close, states

import recurra

if "KERAS_BACKEND" not in os.environ:  # its default is TensorFlow, which is larger than what is compared
    os.environ["KERAS_BACKEND"] = "torch"
keras: Any = pytest.importorskip("keras", reason="the parity extra is not installed: no keras")

T, B, N, H = 6, 4, 3, 5
MASKS = {
    "start": [[0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1]],
    "middle": [[1, 1, 0, 0, 1, 1], [1, 0, 1, 0, 1, 1], [1, 1, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1]],
    "end": [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]],
    "anywhere": [[0, 1, 0, 0, 1, 0], [1, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 0]],
}
KINDS = {"LSTM": "i f c o", "GRU": "z r n", "RNN": "n"}  # Keras's gates
OURS = {"LSTM": "i f c o", "GRU": "r z n", "RNN": "n"}


def weights(layer: Any, kind: str) -> dict[str, Array]:
    """Of a Keras layer, by our names and in our order of gates."""
    kernel, recurrent, bias = (np.asarray(w) for w in layer.get_weights())
    theirs, ours = KINDS[kind].split(), OURS[kind].split()

    def ordered(w: Array) -> Array:
        blocks = dict(zip(theirs, np.split(w, len(theirs), -1), strict=True))
        return np.ascontiguousarray(np.concatenate([blocks[g] for g in ours], -1).T)

    biases = bias if bias.ndim == 2 else np.stack([bias, np.zeros_like(bias)])
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return dict(zip(names, map(ordered, (kernel, recurrent, *biases)), strict=True))


def theirs(kind: str, **options: Any) -> Any:
    name = {"RNN": "SimpleRNN"}.get(kind, kind)
    biased = keras.initializers.RandomUniform(-0.5, 0.5)
    more = {"return_sequences": True, "return_state": True, "bias_initializer": biased, **options}
    layer = getattr(keras.layers, name)(H, **({"unit_forget_bias": False} if kind == "LSTM" else {}), **more)
    layer.build((B, T, N))
    return layer


def numpy_of(values: Any) -> list[Array]:
    return [keras.ops.convert_to_numpy(value) for value in values]


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("where", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_masks(kind: str, where: str, zero: bool) -> None:
    """Forward, and backwards in time by go_backwards, whose output Keras leaves in the order of its steps."""
    keras.utils.set_random_seed(0)
    mask = np.array(MASKS[where], bool)
    x = np.random.default_rng(0).standard_normal((B, T, N), "float32")
    options: dict[str, Any] = {"mask": mask, "masked_output": "zero" if zero else "previous"}
    for backwards in (False, True):
        layer = theirs(kind, zero_output_for_mask=zero, go_backwards=backwards)
        want, *final = numpy_of(layer(x, mask=keras.ops.convert_to_tensor(mask)))
        ours = getattr(recurra, kind)(N, H, batch_first=True, bidirectional=backwards)
        params = ours.state_dict()
        end = "_l0_reverse" if backwards else "_l0"
        ours.load_state_dict(params | {name + end: w for name, w in weights(layer, kind).items()})
        y, state = ours(x, **options)
        found = y[:, ::-1, H:] if backwards else y
        assert_close([found, *(s[-1] for s in states(state))], [want, *final], 2e-6)


@pytest.mark.parametrize("where", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_both_directions(kind: str, where: str) -> None:
    """Keras has zeros at masked steps there, whatever its layers are told."""
    keras.utils.set_random_seed(0)
    mask = np.array(MASKS[where], bool)
    x = np.random.default_rng(0).standard_normal((B, T, N), "float32")
    both = keras.layers.Bidirectional(theirs(kind, return_state=False))
    want = keras.ops.convert_to_numpy(both(x, mask=keras.ops.convert_to_tensor(mask)))
    ours = getattr(recurra, kind)(N, H, batch_first=True, bidirectional=True)
    halves = {"_l0": both.forward_layer, "_l0_reverse": both.backward_layer}
    ours.load_state_dict({n + end: w for end, half in halves.items() for n, w in weights(half, kind).items()})
    assert_close(ours(x, mask=mask, masked_output="zero")[0], want, 2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind: str) -> None:
    if keras.backend.backend() != "torch":
        pytest.skip(f"Keras runs on {keras.backend.backend()}, and torch's gradients are read")
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    keras.utils.set_random_seed(0)
    mask = np.array(MASKS["anywhere"], bool)
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((B, T, size), "float32") for size in (N, H))
    layer = theirs(kind)
    tensor = torch.from_numpy(x).requires_grad_()
    with torch.enable_grad():
        (layer(tensor, mask=torch.from_numpy(mask))[0] * torch.from_numpy(dy)).sum().backward()
    ours = getattr(recurra, kind)(N, H, batch_first=True)
    ours.load_state_dict({name + "_l0": w for name, w in weights(layer, kind).items()})
    found = ours.forward(x, mask=mask)[2].backward(dy)
    assert_close(found.x, tensor.grad.numpy(), 1e-5)
