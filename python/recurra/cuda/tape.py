"""Backpropagation through time on a GPU; as `recurra.tape`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _core
from .._arrays import unwrapped
from .._options import check_names, flag, mapping, split_state
from ..tape import Gradients
from .array_libraries import Library, current_stream
from .arrays import View, is_contiguous, sequence, view
from .launch import empty, filled, ordered, scratch, written

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .packed import CudaPacked


class Tape:
    """What `layer.forward` keeps for `backward`, in an array of the library of x; see `recurra.Tape`.

    Attributes:
        nbytes: memory it holds, the input's copy included.
    """

    __slots__ = ("_batch", "_batch_first", "_library", "_packed", "_plan", "_seeded", "_tape", "_x_shape", "_y_shape")

    def __init__(
        self,
        packed: CudaPacked,
        plan: _core.cuda.Plan,
        tape: View,
        library: Library,
        shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
        batch_first: bool,
        seeded: bool,
    ) -> None:
        self._packed, self._plan, self._tape, self._library = packed, plan, tape, library
        self._x_shape, self._y_shape, self._batch = shapes
        self._batch_first, self._seeded = batch_first, seeded

    @property
    def nbytes(self) -> int:
        """Memory the tape holds, in bytes."""
        return self._plan.tape_bytes

    def backward(
        self,
        dy: Any = None,
        dstate: Any = None,
        *,
        input_grad: bool = True,
        into: Mapping[str, Any] | None = None,
    ) -> Gradients:
        """Gradients of a loss, from those of the output and of the final state: see `recurra.Tape.backward`.

        They are new arrays of the library of x, on its current stream; those of parameters are float32, or float64 for
        a float64 layer, and so must the arrays of `into` be.
        """
        packed, library = self._packed, self._library
        number, gpu = packed.placement.number, packed.gpu
        if dy is None and dstate is None:
            raise ValueError("dy, dstate: expected at least one of them, got neither")
        gradient = None if dy is None else view("dy", dy, number, self._y_shape, device=gpu)
        final = self._checked_dstate(dstate)
        inputs = [array for array in (gradient, *final) if array is not None]
        given = None if into is None else mapping("into", into)
        with_x = flag("input_grad", input_grad)
        params = self._new_params() if given is None else self._checked_into(given, inputs)
        dx = empty("gradient of x", library, self._x_shape, number, gpu) if with_x else None
        initial = [
            empty(f"gradient of state {name}", library, shape, number, gpu)
            for name, shape in packed.state_shapes(self._batch).items()
        ]
        workspace = scratch("workspace", library, self._plan.backward_workspace_bytes, gpu)
        stream = packed.used_on(current_stream(library, gpu))
        addresses = {name: array.pointer for name, array in params.items()}
        with ordered((self._tape, *inputs, *params.values()), stream):
            packed.network.backward(
                self._plan,
                None if gradient is None else sequence(gradient, self._batch_first).array,
                [None if array is None else sequence(array).array for array in final],
                None if dx is None else sequence(dx, self._batch_first).array,
                [sequence(array).array for array in initial],
                filled(packed.by_layer(addresses)),
                into is not None,
                self._seeded,
                self._tape.pointer,
                workspace.pointer,
                stream,
            )
        return Gradients(
            None if dx is None else dx.owner,
            unwrapped([array.owner for array in initial]),
            {name: array.owner for name, array in params.items()},
        )

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
