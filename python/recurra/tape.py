"""Backpropagation through time: what a forward pass in training leaves behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._arrays import batched, check, check_distinct, contiguous, empty, memory_for, own_array, row_contiguous, unwrapped
from ._options import check_names, flag, mapping, split_state

if TYPE_CHECKING:
    from collections.abc import Mapping

    from . import _core
    from ._arrays import Array, Input
    from .packed import CpuPacked, State

__all__ = ["Gradients", "Tape"]


class Gradients(NamedTuple):
    """What `Tape.backward` returns.

    Attributes:
        x: gradient of the input, of its shape; None with input_grad=False. Zero at padded steps.
        state: gradient of the initial state, in its form: h, for LSTMs (h, c).
        params: torch's names to the gradients of the parameters.
    """

    x: Array | None
    state: State
    params: dict[str, Array]


class Tape:
    """What `layer.forward` keeps for `backward`: a copy of the input, the states of all steps and, unless they are to
    be recomputed, the gates. Never overwritten: backward may be called again, with other gradients too.

    Attributes:
        nbytes: memory it holds, the input's copy included.
    """

    __slots__ = ("_batch", "_batch_first", "_packed", "_tape", "_x_shape", "_y_shape")

    def __init__(
        self,
        packed: CpuPacked,
        tape: _core.Tape,
        x_shape: tuple[int, ...],
        y_shape: tuple[int, ...],
        batch: tuple[int, ...],
        batch_first: bool,
    ) -> None:
        self._packed, self._tape, self._x_shape, self._y_shape = packed, tape, x_shape, y_shape
        self._batch, self._batch_first = batch, batch_first

    @property
    def nbytes(self) -> int:
        """Memory the tape holds, in bytes."""
        return self._tape.nbytes

    def backward(
        self,
        dy: Input | None = None,
        dstate: Any = None,
        *,
        input_grad: bool = True,
        into: Mapping[str, Array] | None = None,
    ) -> Gradients:
        """Gradients of a loss, from those of the output and of the final state.

            >>> y, (h, c), tape = recurra.LSTM(12, 64).forward(np.ones((100, 8, 12), "float32"))
            >>> gradients = tape.backward(dstate=(np.ones_like(h), None))  # of a loss that sees the last h only
            >>> gradients = tape.backward(np.ones_like(y), into=gradients.params)  # and of another, added up

        Args:
            dy: dL/d output, of the output's shape and dtype; values at padded steps are ignored. Default zero.
            dstate: dL/d final state, in the state's form: h, for LSTMs a tuple (h, c) of which one may be None. Default
                zero.
            input_grad: whether to compute the gradient of the input.
            into: the parameters' names to arrays that their gradients are added to, all of them, C-contiguous and
                writeable; default new ones. So gradients of several batches accumulate. (A call that a signal ends
                may have added those of some layers.)

        Returns:
            Gradients(x, state, params); `params` holds the arrays of `into` if they were given.

        Raises:
            TypeError, ValueError: wrong shape, dtype, names, or unusable `into`; nothing has been written.
            ValueError: neither dy nor dstate was given.
        """
        packed = self._packed
        if dy is None and dstate is None:
            raise ValueError("dy, dstate: expected at least one of them, got neither")
        gradient = None if dy is None else check("dy", dy, packed.dtype, self._y_shape)
        final = self._checked_dstate(dstate)
        given = None if into is None else mapping("into", into)
        params = self._new_params() if given is None else self._checked_into(given, gradient, final)
        dx = empty("gradient of x", self._x_shape, packed.dtype) if flag("input_grad", input_grad) else None
        initial = packed.empty_state(self._batch)
        with memory_for("backward"):
            self._tape.backward(
                None if gradient is None else row_contiguous(batched(gradient, self._batch_first)),
                [None if array is None else batched(contiguous(array)) for array in final],
                None if dx is None else batched(dx, self._batch_first),
                [batched(array) for array in initial],
                packed.by_layer(params),
                into is not None,
            )
        return Gradients(dx, unwrapped(initial), params if given is None else {name: given[name] for name in params})

    def _new_params(self) -> dict[str, Array]:
        return {name: np.empty(shape, self._packed.dtype) for name, shape in self._packed.shapes.items()}

    def _checked_dstate(self, dstate: Any) -> list[Array | None]:
        shapes = self._packed.state_shapes(self._batch)
        return [
            None if value is None else check(title, value, self._packed.dtype, shape)
            for (title, value), shape in zip(
                split_state("dstate", dstate, shapes).items(), shapes.values(), strict=True
            )
        ]

    def _checked_into(self, into: Mapping[str, Array], dy: Array | None, final: list[Array | None]) -> dict[str, Array]:
        shapes = self._packed.shapes
        check_names("into", into, shapes)
        checked: dict[str, Array] = {}
        names = ["dy", *(f"dstate {name}" for name in self._packed.state_shapes(self._batch))]
        others = {name: array for name, array in zip(names, [dy, *final], strict=True) if array is not None}
        for name, shape in shapes.items():
            title = f"into {name}"
            array = check(title, own_array(title, into[name]), self._packed.dtype, shape)
            if not (array.flags.writeable and array.flags.c_contiguous and array.flags.aligned):
                raise ValueError(f"{title}: expected a writeable C-contiguous array")
            check_distinct(array, others, title)
            others[title] = checked[name] = array
        return checked

    def __reduce__(self) -> Any:
        raise TypeError("a Tape cannot be copied or pickled")

    def __repr__(self) -> str:
        return f"Tape({self._packed.cell!r}, {self.nbytes} bytes)"
