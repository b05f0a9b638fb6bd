"""Arrays and mappings of other people's making: what they do to themselves reaches neither memory nor results, and what
they raise names the argument."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_same_bits

import recurra
from recurra import functional, training

T, B, N, H = 4, 2, 3, 5  # steps, batch, input and hidden size
Call = Callable[[Any], Any]


def f32(*shape: int) -> Array:
    return np.full(shape, 0.5, "float32")


X, H0, C0 = f32(T, B, N), f32(1, B, H), f32(1, B, H)


class RageError(Exception):
    """Of another library."""


@pytest.mark.parametrize("error", (RageError("no"), KeyError("no"), ValueError("no"), OSError("no"), MemoryError("no")))
@pytest.mark.parametrize("where", ("__dlpack__", "__dlpack_device__"))
def test_whatever_a_foreign_array_raises_is_a_type_error_that_names_the_argument(error: Exception, where: str) -> None:
    def fail(self: Any, **_: Any) -> Any:
        raise error

    methods = {"__dlpack__": fail, "__dlpack_device__": lambda self: (1, 0)} | {where: fail}
    foreign = type("Foreign", (), methods)()
    layer = recurra.LSTM(N, H, seed=0)
    calls: dict[str, Call] = {
        "x": lambda a: layer(a),
        "state h": lambda a: layer(X, (a, C0)),
        "lengths": lambda a: layer(X, lengths=a),
        "dy": lambda a: layer.forward(X)[2].backward(a),
        "indices": lambda a: recurra.Embedding(3, 2)(a),
    }
    for name, call in calls.items():
        with pytest.raises(TypeError, match=rf"^{name}: .*no") as caught:
            call(foreign)
        assert caught.value.__cause__ is error
    with pytest.raises(ValueError, match=r"weight_hh_l0: .*no"):
        layer.load_state_dict({**layer.state_dict(), "weight_hh_l0": foreign})


class Liar(np.ndarray[Any, Any]):
    """An array whose views are not what they should be."""

    def __getitem__(self, key: Any) -> Any:
        return np.zeros(1, "float32")

    def swapaxes(self, *_: Any) -> Any:
        return np.zeros(1, "float32")

    def view(self, *_: Any) -> Any:  # type: ignore[override]
        return np.zeros(1, "float32")

    shape: Any = property(lambda self: (1,))
    strides: Any = property(lambda self: (0,))
    dtype: Any = property(lambda self: np.dtype("int8"))
    flags: Any = property(lambda self: None)


def liar(array: Array) -> Any:
    return np.ndarray.view(array, Liar)


@pytest.mark.parametrize("batch_first", (False, True))
def test_a_subclass_is_read_and_written_as_the_array_that_it_is(batch_first: bool) -> None:
    layer = recurra.LSTM(N, H, batch_first=batch_first, seed=0)
    want, (h, _) = layer(X, (H0, C0)) if not batch_first else layer(X.swapaxes(0, 1), (H0, C0))
    memory = np.zeros_like(want)
    out = liar(memory)
    x = np.ascontiguousarray(X.swapaxes(0, 1)) if batch_first else X
    y, (last, _) = layer(liar(x), (liar(H0), liar(C0)), out=out)
    assert y is out
    assert_same_bits((memory, last), (want, h))
    stream = layer.stream(B)
    memory = np.zeros_like(want)
    out = liar(memory)
    stream.state = (liar(H0), liar(C0))
    assert stream.run(liar(x), out=out) is out
    assert_same_bits(memory, want)
    row = np.zeros((B, H), "float32")
    out = liar(row)
    stream.state = (H0, C0)
    assert stream.step(liar(X[0]), out=out) is out
    assert_same_bits(row, want[:, 0] if batch_first else want[0])

    y, _, tape = layer.forward(liar(x), (liar(H0), liar(C0)))
    gradients = tape.backward(y)
    memories = {name: np.zeros_like(array) for name, array in gradients.params.items()}
    into = {name: liar(array) for name, array in memories.items()}
    found = tape.backward(liar(y), into=into)
    assert all(found.params[name] is array for name, array in into.items())
    assert_same_bits(memories, gradients.params)
    other = recurra.LSTM(N, H, batch_first=batch_first, seed=1)
    other.load_state_dict({name: liar(array) for name, array in layer.state_dict().items()})
    assert_same_bits(other.state_dict(), layer.state_dict())


def test_memory_maps_and_matrices_are_written_in_place(tmp_path: Path) -> None:
    layer = recurra.GRU(N, H, seed=0)
    out = np.memmap(tmp_path / "y", "float32", "w+", shape=(T, B, H))
    y, _ = layer(X, out=out)
    assert y is out
    assert_same_bits(np.fromfile(tmp_path / "y", "float32"), layer(X)[0].ravel())


def test_a_mapping_that_changes_is_read_once() -> None:
    class Fading(Mapping[str, Any]):
        """Each value is there once, and None afterwards."""

        def __init__(self, values: dict[str, Any]) -> None:
            self.values_left = dict(values)

        def __getitem__(self, name: str) -> Any:
            value, self.values_left[name] = self.values_left[name], None
            return value

        def __iter__(self) -> Any:
            return iter(self.values_left)

        def __len__(self) -> int:
            return len(self.values_left)

    layer = recurra.LSTM(N, H, seed=0)
    params, want = layer.state_dict(), layer(X)
    assert_same_bits(functional.run(functional.pack("lstm", Fading(params)), X), want)
    assert_same_bits(functional.lstm(X, Fading(params), out=f32(T, B, H)), want)
    other = recurra.LSTM(N, H, seed=1)
    other.load_state_dict(Fading(params))
    assert_same_bits(other(X), want)
    y, _, tape = layer.forward(X)
    into = {name: np.zeros_like(array) for name, array in params.items()}
    assert_same_bits(tape.backward(y, into=Fading(into)).params, tape.backward(y).params)
    assert functional.pack("lstm", params, Fading({"cell_clip": 0.5})).constants["cell_clip"] == 0.5
    head = recurra.Linear(N, H, seed=1)
    head.load_state_dict(Fading(recurra.Linear(N, H, seed=2).state_dict()))
    weights = {"w": f32(3)}
    optimiser = training.SGD(Fading(weights), 0.5)
    optimiser.step(Fading({"w": f32(3)}))
    assert_same_bits(weights["w"], np.full(3, 0.25, "float32"))
    gradients = {"w": f32(3)}
    training.clip_grad_value(Fading(gradients), 0.25)
    assert_same_bits(gradients["w"], np.full(3, 0.25, "float32"))
