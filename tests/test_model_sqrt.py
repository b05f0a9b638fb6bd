"""recurra.Sqrt in a model: the magnitude of a spectrum."""

from __future__ import annotations

import numpy as np
import pytest

import recurra
from recurra import Node, Value


def magnitude(dtype: str = "float32") -> recurra.Model:
    """sqrt(a * a + b * b) of every step's halves a and b."""
    return recurra.Model(
        [
            Node(recurra.Multiply(), ("x", "x"), "squares"),
            Node(recurra.Select([0, 1, 2]), ("squares",), "real"),
            Node(recurra.Select([3, 4, 5]), ("squares",), "imaginary"),
            Node(recurra.Add(), ("real", "imaginary"), "power"),
            recurra.Sqrt(),
            recurra.Linear(3, 2, dtype=dtype, seed=1),
        ],
        inputs={"x": Value((6,))},
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_are_those_of_numpy_in_calls_and_streams(dtype: str) -> None:
    model = recurra.Model(
        [recurra.Sqrt(), recurra.Linear(5, 5, dtype=dtype)], inputs={"x": Value((5,))}, outputs=["sqrt0"]
    )
    x = np.random.default_rng(2).uniform(0, 9, (7, 3, 5)).astype(dtype)
    assert np.array_equal(model(x), np.sqrt(x))
    assert np.array_equal(model(x, lengths=[7, 0, 2])[:2, 2], np.sqrt(x[:2, 2]))
    stream = model.stream(3)
    assert np.array_equal(np.stack([stream.step(frame) for frame in x]), np.sqrt(x))
    with np.errstate(invalid="ignore"):
        assert np.isnan(model(-x)[-x < 0]).all()


def test_gradients_are_those_of_differences() -> None:
    model, x = magnitude("float64"), np.random.default_rng(3).standard_normal((4, 2, 6))
    dy = np.random.default_rng(4).standard_normal((4, 2, 2))
    lengths = [4, 2]
    _, tape = model.forward(x, lengths=lengths)
    gradient = tape.backward(dy).x
    for at in np.ndindex(x.shape):
        sides = []
        for step in (1e-6, -1e-6):
            moved = x.copy()
            moved[at] += step
            sides.append(float((model(moved, lengths=lengths) * dy).sum()))
        assert abs((sides[0] - sides[1]) / 2e-6 - gradient[at]) < 1e-7
