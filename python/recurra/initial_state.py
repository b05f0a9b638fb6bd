"""The state that a network starts from, made from features: an image's for its caption, a sentence's for its
translation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays import check
from ._fixed import Fixed
from ._options import split_state
from .heads import HeadGradients, HeadTape, Linear
from .recurrent import Recurrent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._arrays import Array, Input
    from ._options import Seed
    from .packed import State

__all__ = ["InitialState"]


class InitialState(Fixed):
    """A `recurra.Linear` from features to a layer's initial state: all of its states, layers and directions.

        >>> layer = recurra.LSTM(16, 32, num_layers=2)
        >>> begin = recurra.InitialState(10, layer)
        >>> state, state_tape = begin.forward(np.ones((8, 10), "float32"))  # or begin(features), without a tape
        >>> y, final, tape = layer.forward(np.ones((5, 8, 16), "float32"), state)
        >>> gradients = state_tape.backward(tape.backward(np.ones_like(y)).state)
        >>> gradients.x.shape, gradients.params["weight"].shape
        ((8, 10), (128, 10))

    Fixed once made, but for `load_state_dict`; it pickles as its configuration and parameters. It does not hold the
    layer, only the sizes of its states.

    Args:
        in_features: F, numbers in a vector of features.
        layer: whose states these are, on the CPU. Parameters are weight [S, F] and bias [S], of its dtype, where S
            counts the numbers of a whole state: h of all layers (and directions) first, for LSTMs c of all after it.
        bias: whether there is one.
        seed: for numpy.random.default_rng; parameters start uniform in +-1/sqrt(F).

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or value.
        MemoryError: the parameters would not fit this machine; nothing has been allocated.
    """

    in_features: int
    _linear: Linear
    _shapes: dict[str, tuple[int, ...]]  # of each state, without a batch axis

    def __init__(self, in_features: int, layer: Recurrent, bias: bool = True, *, seed: Seed = None) -> None:
        if not isinstance(layer, Recurrent):
            raise TypeError(f"layer: expected a recurra layer, got {type(layer).__name__}")
        if layer.device != "cpu":
            raise ValueError(f"layer: expected one on the CPU, got one on {layer.device}")
        shapes = layer._packed.state_shapes(())
        numbers = sum(rows * size for rows, size in shapes.values())
        linear = Linear(in_features, numbers, bias, dtype=layer.dtype, seed=seed)
        self.__dict__.update(in_features=linear.in_features, _linear=linear, _shapes=shapes)

    def __call__(self, features: Input) -> State:
        """The state of a batch, h [L*D, B, O] or for LSTMs (h, c), from features [B, F]; from [F] without a batch axis.

        Raises:
            TypeError, ValueError: wrong dtype or shape.
        """
        return self._cut(self._linear(self._checked(features)))

    def forward(self, features: Input) -> tuple[State, HeadTape]:
        """As a call, with a tape, whose backward takes the gradient of the state: `Gradients.state` of a layer's tape.
        Of a tuple one may be None."""
        numbers, tape = self._linear.forward(self._checked(features))
        batch = numbers.shape[:-1]

        def backward(dstate: Any, input_grad: bool) -> HeadGradients:
            return tape.backward(self._joined(dstate, batch), input_grad=input_grad)

        return self._cut(numbers), HeadTape(backward)

    def state_dict(self) -> dict[str, Array]:
        """Names to copies of the parameters.

        >>> list(recurra.InitialState(3, recurra.GRU(5, 8)).state_dict())
        ['weight', 'bias']
        """
        return self._linear.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Input]) -> None:
        """Replace all parameters, by copies of arrays of the same names, shapes and dtype.

            >>> start, trained = (recurra.InitialState(3, recurra.GRU(5, 8), seed=seed) for seed in (0, 1))
            >>> start.load_state_dict(trained.state_dict())

        Raises:
            TypeError, ValueError: something does not fit; nothing is changed.
        """
        self._linear.load_state_dict(state_dict)

    def _checked(self, features: Any) -> Array:
        size = self.in_features
        return check("features", features, self._linear.dtype, ("B", size), (size,))

    def _cut(self, numbers: Array) -> State:
        """States [L*D, B, size] from rows [B, S], or unbatched ones from [S]."""
        states, start = [], 0
        for rows, size in self._shapes.values():
            part = numbers[..., start : start + rows * size].reshape(*numbers.shape[:-1], rows, size)
            states.append(np.array(np.moveaxis(part, -2, 0), order="C"))
            start += rows * size
        return states[0] if len(states) == 1 else tuple(states)

    def _joined(self, dstate: Any, batch: tuple[int, ...]) -> Array:
        """The inverse, with zeros for None."""
        parts = []
        given = split_state("dstate", dstate, self._shapes)
        for (name, value), (rows, size) in zip(given.items(), self._shapes.values(), strict=True):
            shape, dtype = (rows, *batch, size), self._linear.dtype
            array = np.zeros(shape, dtype) if value is None else check(name, value, dtype, shape)
            parts.append(np.moveaxis(array, 0, -2).reshape(*batch, rows * size))
        return np.concatenate(parts, axis=-1)

    def __repr__(self) -> str:
        states = ", ".join(f"{name} {list(shape)}" for name, shape in self._shapes.items())
        return f"InitialState({self.in_features} features to {states})"
