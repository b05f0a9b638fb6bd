"""Backpropagation through time on a GPU; as `recurra.tape`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _core
from .._arrays import unwrapped
from .._options import bound, check_names, flag, mapping, split_state
from ..tape import Gradients, cells_of
from .array_libraries import Library, current_stream
from .arrays import View, is_contiguous, strided, view
from .launch import empty, filled, ordered, scratch, written
from .segments import Arrays, Moves

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .packed import CudaPacked


class Tape:
    """What `layer.forward` keeps for `backward`, in an array of the library of x; see `recurra.Tape`.

    Attributes:
        nbytes: memory it holds, the input's copy included.
    """

    __slots__ = (
        "_batch",
        "_batch_first",
        "_cells_shape",
        "_learned",
        "_library",
        "_moves",
        "_packed",
        "_plan",
        "_seeded",
        "_tape",
        "_x_shape",
        "_y_shape",
    )

    def __init__(
        self,
        packed: CudaPacked,
        plan: _core.cuda.Plan,
        tape: View,
        library: Library,
        shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None, tuple[int, ...]],
        batch_first: bool,
        seeded: bool,
        learned: bool,
        moves: Moves | None,
    ) -> None:
        self._learned = learned  # whether it began with what the network has learned, if that has
        self._moves = moves
        self._packed, self._plan, self._tape, self._library = packed, plan, tape, library
        self._x_shape, self._y_shape, self._cells_shape, self._batch = shapes
        self._batch_first, self._seeded = batch_first, seeded

    @property
    def nbytes(self) -> int:
        """Memory the tape holds, in bytes."""
        return self._plan.tape_bytes + (0 if self._moves is None else self._moves.memory.shape[0])

    def backward(
        self,
        dy: Any = None,
        dstate: Any = None,
        dcells: Any = None,
        *,
        grad_clip: float | None = None,
        input_grad: bool = True,
        into: Mapping[str, Any] | None = None,
    ) -> Gradients:
        """Gradients of a loss, from those of the output and of the final state: see `recurra.Tape.backward`.

        They are new arrays of the library of x, on its current stream; those of parameters are float32, or float64 for
        a float64 layer, and so must the arrays of `into` be.
        """
        packed, library = self._packed, self._library
        number, gpu = packed.placement.number, packed.gpu
        if dy is None and dstate is None and dcells is None:
            raise ValueError("dy, dstate: expected at least one of them, got neither")
        clip = float("inf") if grad_clip is None else bound("grad_clip", grad_clip, packed.placement.parameter_dtype)
        cells = None if dcells is None else view("dcells", dcells, number, cells_of(self._cells_shape), device=gpu)
        gradient = None if dy is None else view("dy", dy, number, self._y_shape, device=gpu)
        final = self._checked_dstate(dstate)
        inputs = [array for array in (gradient, cells, *final) if array is not None]
        given = None if into is None else mapping("into", into)
        with_x = flag("input_grad", input_grad)
        params = self._new_params() if given is None else self._checked_into(given, inputs)
        dx = empty("gradient of x", library, self._x_shape, number, gpu) if with_x else None
        initial = packed.new_states("gradient of state", library, self._batch)
        moves = self._moves
        reset = [] if moves is None else [self._like(array) for array in moves.reset]
        workspace = scratch("workspace", library, self._plan.backward_workspace_bytes, gpu)
        stream = packed.used_on(current_stream(library, gpu))
        kept = [self._tape] if moves is None else [self._tape, moves.memory]
        with ordered((*kept, *inputs, *params.values()), stream):
            arrays, batch_first = Arrays(dx, initial, gradient, final, cells), self._batch_first
            if moves is not None:
                arrays, batch_first = moves.gathered_gradients(gradient, final, cells, with_x), False
            packed.network.backward(
                self._plan,
                strided(arrays.y, batch_first),
                [strided(array) for array in arrays.final],
                strided(arrays.x, batch_first),
                [strided(array) for array in arrays.initial or ()],
                filled(packed.by_layer({name: array.pointer for name, array in params.items()})),
                into is not None,
                self._seeded,
                self._tape.pointer,
                workspace.pointer,
                stream,
                d_cells=strided(arrays.cells, batch_first),
                clip=clip,
            )
            if moves is not None:
                moves.put_back_gradients(arrays, dx, initial, reset)
            learned = [initial] if self._learned else []
            if moves is not None and moves.reset_learned:
                learned.append(reset)
            packed.learned.add_gradients(params, learned, into is not None, stream)
        gradients = Gradients(
            None if dx is None else dx.owner,
            unwrapped([array.owner for array in initial]),
            {name: array.owner for name, array in params.items()},
        )
        if moves is not None and reset and not moves.reset_learned:
            gradients.reset_state = unwrapped([array.owner for array in reset])
        return gradients

    def _like(self, array: View) -> View:
        return empty(f"gradient of {array.name}", self._library, array.shape, array.dtype, self._packed.gpu)

    def _new_params(self) -> dict[str, View]:
        packed = self._packed
        number = packed.placement.parameter_dtype.name
        return {
            name: empty(f"gradient of {name}", self._library, shape, number, packed.gpu)
            for name, shape in packed.shapes.items()
        }

    def _checked_dstate(self, dstate: Any) -> list[View | None]:
        packed = self._packed
        shapes = packed.state_shapes(self._batch)
        return [
            None if value is None else view(title, value, packed.placement.number, shape, device=packed.gpu)
            for (title, value), shape in zip(
                split_state("dstate", dstate, shapes).items(), shapes.values(), strict=True
            )
        ]

    def _checked_into(self, into: Mapping[str, Any], inputs: list[View]) -> dict[str, View]:
        packed = self._packed
        number = packed.placement.parameter_dtype.name
        check_names("into", into, packed.shapes)
        checked: dict[str, View] = {}
        for name, shape in packed.shapes.items():
            others = [*inputs, *checked.values()]
            array = written(f"into {name}", into[name], number, shape, device=packed.gpu, inputs=others)
            if not is_contiguous(array):
                raise ValueError(f"into {name}: expected a C-contiguous array, got strides {array.strides}")
            checked[name] = array
        return checked

    def __reduce__(self) -> Any:
        raise TypeError("a Tape cannot be copied or pickled")

    def __repr__(self) -> str:
        return f"Tape({self._packed.cell!r}, {self.nbytes} bytes)"
