"""Backpropagation through time: what a forward pass in training leaves behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._arrays import batched, check, check_distinct, contiguous, empty, memory_for, own_array, row_contiguous, unwrapped
from ._options import bound, check_names, flag, mapping, split_state

if TYPE_CHECKING:
    from collections.abc import Mapping

    from . import _core
    from ._arrays import Array, Input
    from .packed import CpuPacked, State

__all__ = ["Gradients", "Tape"]


class _Gradients(NamedTuple):
    x: Array | None
    state: State
    params: dict[str, Array]


class Gradients(_Gradients):
    """What `Tape.backward` returns, the tuple (x, state, params).

        >>> y, state, tape = recurra.GRU(3, 5).forward(np.ones((10, 4, 3), "float32"))
        >>> x, (dh, params) = tape.backward(np.ones_like(y)).x, tape.backward(np.ones_like(y))[1:]

    Attributes:
        x: gradient of the input, of its shape; None with input_grad=False. Zero at padded and masked steps.
        state: gradient of the initial state, in its form: h, for LSTMs (h, c).
        params: torch's names to the gradients of the parameters.
        reset_state: gradient of the call's `reset_state`, in its form; None without. Not of the tuple.
    """

    reset_state: State | None = None


class TapeShapes(NamedTuple):
    """Of a call: arrays', None for cells where there are none, the batch axis or (), and those of `reset_state`."""

    x: tuple[int, ...]
    y: tuple[int, ...]
    cells: tuple[int, ...] | None
    batch: tuple[int, ...]
    reset: list[tuple[int, ...]]


class Tape:
    """What `layer.forward` keeps for `backward`: a copy of the input, the states of all steps and, unless they are to
    be recomputed, the gates. Never overwritten: backward may be called again, with other gradients too.

        >>> x = np.ones((10, 4, 3), "float32")
        >>> y, state, tape = recurra.GRU(3, 5).forward(x)
        >>> tape.nbytes > x.nbytes
        True

    Attributes:
        nbytes: memory it holds, the input's copy included.
    """

    __slots__ = ("_batch_first", "_learned", "_packed", "_shapes", "_tape")

    def __init__(
        self,
        packed: CpuPacked,
        tape: _core.Tape,
        shapes: TapeShapes,
        batch_first: bool,
        learned: tuple[bool, bool],
    ) -> None:
        self._packed, self._tape, self._shapes, self._batch_first = packed, tape, shapes, batch_first
        # Whether it began with what the network has learned, and resets led to that, if it has learned something.
        self._learned = learned if packed.initial_names else (False, False)

    @property
    def nbytes(self) -> int:
        """Memory the tape holds, in bytes."""
        return self._tape.nbytes

    def backward(
        self,
        dy: Input | None = None,
        dstate: Any = None,
        dcells: Input | None = None,
        *,
        grad_clip: float | None = None,
        input_grad: bool = True,
        into: Mapping[str, Array] | None = None,
    ) -> Gradients:
        """Gradients of a loss, from those of the output and of the final state.

            >>> y, (h, c), tape = recurra.LSTM(12, 64).forward(np.ones((100, 8, 12), "float32"))
            >>> gradients = tape.backward(dstate=(np.ones_like(h), None))  # of a loss that sees the last h only
            >>> gradients = tape.backward(np.ones_like(y), into=gradients.params)  # and of another, added up

        Args:
            dy: dL/d output, of the output's shape and dtype; values at padded steps, and at masked ones that are zero,
                are ignored. Default zero.
            dstate: dL/d final state, in the state's form: h, for LSTMs a tuple (h, c) of which one may be None. Default
                zero.
            dcells: dL/d cells, where `forward` returned them: of their shape and dtype; values at padded steps are
                ignored. Default zero.
            grad_clip: what a step hands to the one before it in time, the gradients of h and of all other states, is
                brought into -grad_clip .. grad_clip, number by number, at every step of every layer; so is the
                gradient of the initial state. That is no gradient of the loss any more. (A. Graves 2013,
                arXiv:1308.0850, clips the gradients of the gates' inputs instead.) Default: nothing is clipped.
            input_grad: whether to compute the gradient of the input.
            into: the parameters' names to arrays that their gradients are added to, all of them, C-contiguous and
                writeable; default new ones. So gradients of several batches accumulate. (A call that a signal ends
                may have added those of some layers.)

        Returns:
            Gradients(x, state, params); `params` holds the arrays of `into` if they were given.

        Raises:
            TypeError, ValueError: wrong shape, dtype, names, or unusable `into`; nothing has been written.
            ValueError: neither dy nor dstate nor dcells was given.
        """
        packed = self._packed
        if dy is None and dstate is None and dcells is None:
            raise ValueError("dy, dstate: expected at least one of them, got neither")
        clip = np.inf if grad_clip is None else bound("grad_clip", grad_clip, packed.dtype)
        cells = None if dcells is None else check("dcells", dcells, packed.dtype, cells_of(self._shapes.cells))
        gradient = None if dy is None else check("dy", dy, packed.dtype, self._shapes.y)
        final = self._checked_dstate(dstate)
        given = None if into is None else mapping("into", into)
        params = self._new_params() if given is None else self._checked_into(given, [gradient, cells], final)
        dx = empty("gradient of x", self._shapes.x, packed.dtype) if flag("input_grad", input_grad) else None
        initial = packed.empty_state(self._shapes.batch)
        shapes = packed.state_shapes(self._shapes.batch).values() if self._shapes.reset or self._learned[1] else ()
        reset = [np.zeros(shape, packed.dtype) for shape in shapes]
        with memory_for("backward"):
            self._tape.backward(
                None if gradient is None else row_contiguous(batched(gradient, self._batch_first)),
                [None if array is None else batched(contiguous(array)) for array in final],
                None if dx is None else batched(dx, self._batch_first),
                [batched(array) for array in initial],
                packed.by_layer(params),
                into is not None,
                [batched(array) for array in reset] or None,
                None if cells is None else row_contiguous(batched(cells, self._batch_first)),
                clip,
            )
        for k, name in enumerate(packed.initial_names):
            sources = [arrays[k] for arrays, learns in zip((initial, reset), self._learned, strict=True) if learns]
            total = sum([d.sum(axis=1) if self._shapes.batch else d for d in sources], np.zeros_like(params[name]))
            params[name][...] = total if into is None else params[name] + total
        own = zip(reset, self._shapes.reset, strict=False)
        d_reset = [d if d.shape == shape else d.sum(1) for d, shape in own]
        names = params if given is None else {name: given[name] for name in params}
        gradients = Gradients(dx, unwrapped(initial), names)
        gradients.reset_state = unwrapped(d_reset) if d_reset else None
        return gradients

    def _new_params(self) -> dict[str, Array]:
        return {name: np.empty(shape, self._packed.dtype) for name, shape in self._packed.shapes.items()}

    def _checked_dstate(self, dstate: Any) -> list[Array | None]:
        shapes = self._packed.state_shapes(self._shapes.batch)
        return [
            None if value is None else check(title, value, self._packed.dtype, shape)
            for (title, value), shape in zip(
                split_state("dstate", dstate, shapes).items(), shapes.values(), strict=True
            )
        ]

    def _checked_into(
        self, into: Mapping[str, Array], above: list[Array | None], final: list[Array | None]
    ) -> dict[str, Array]:
        shapes = self._packed.shapes
        check_names("into", into, shapes)
        checked: dict[str, Array] = {}
        names = ["dy", "dcells", *(f"dstate {name}" for name in self._packed.state_shapes(self._shapes.batch))]
        others = {name: array for name, array in zip(names, [*above, *final], strict=True) if array is not None}
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


def cells_of(shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape of dcells; ValueError if there is none."""
    if shape is None:
        raise ValueError("dcells: expected None without return_cells=True in forward, got a gradient")
    return shape
