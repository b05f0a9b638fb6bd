"""Affine maps and tables of rows on a GPU; as in `recurra.heads`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .. import _core
from .._arrays import memory_for
from ..heads import HeadGradients, HeadTape
from ._libraries import require_gpu
from .array_libraries import Library, current_stream
from .arrays import View, view
from .launch import contiguous, empty, ordered, scratch
from .parameters import Parameters, parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._arrays import Array
    from .._options import Placement


class CudaHead:
    """Parameters in a GPU's memory, of these names and shapes."""

    __slots__ = ("_gpu", "_kept", "_number", "_parameter_dtype", "_shapes")

    def __init__(
        self,
        place: Placement,
        shapes: Mapping[str, tuple[int, ...]],
        given: Mapping[str, Any],
        pack: Callable[[Mapping[str, int], int], None] | None = None,
    ) -> None:
        assert place.gpu is not None
        self._gpu, self._number, self._shapes = place.gpu, place.number, shapes
        dtype = place.parameter_dtype
        self._parameter_dtype = dtype.name
        arrays = {
            name: parameter(f"state_dict {name}", given[name], shape, dtype, place.gpu)
            for name, shape in shapes.items()
        }
        with memory_for("state_dict"):
            self._kept = Parameters(arrays, dtype, place.gpu, pack)

    @property
    def parameters(self) -> dict[str, Array]:
        """Names to new copies on the CPU."""
        return {name: self._kept.read(name) for name in self._shapes}

    def _empty(self, name: str, library: Library, shape: tuple[int, ...]) -> View:
        return empty(name, library, shape, self._number, self._gpu)

    def _gradient(self, dy: Any, shape: tuple[int, ...]) -> View:
        return contiguous(view("dy", dy, self._number, shape, device=self._gpu))

    def _new_gradients(self, library: Library) -> dict[str, View]:
        return {
            name: empty(f"gradient of {name}", library, shape, self._parameter_dtype, self._gpu)
            for name, shape in self._shapes.items()
        }


class CudaLinear(CudaHead):
    """y = x W^T + b."""

    __slots__ = ("_inputs", "_outputs", "affine")

    def __init__(self, place: Placement, shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]) -> None:
        assert place.gpu is not None
        require_gpu(place.gpu)  # before an array is read
        self._outputs, self._inputs = shapes["weight"]
        with memory_for(f"in_features={self._inputs}, out_features={self._outputs}"):
            affine = _core.cuda.Linear(
                self._inputs, self._outputs, place.number, place.gpu, place.engine, place.allow_tf32
            )

        def pack(addresses: Mapping[str, int], stream: int) -> None:
            affine.set_parameters(addresses["weight"], addresses.get("bias", 0), stream)

        super().__init__(place, shapes, given, pack)
        self.affine = affine

    def run(self, x: Any) -> Any:
        array = self._rows(x)
        return self._forward(contiguous(array), array.library).owner

    def forward(self, x: Any) -> tuple[Any, HeadTape]:
        array = self._rows(x)
        library = array.library
        rows = contiguous(array, copy=True)
        y = self._forward(rows, library)
        shape = y.shape

        def backward(dy: Any, input_grad: bool) -> HeadGradients:
            gradient = self._gradient(dy, shape)
            params = self._new_gradients(library)
            dx = self._empty("gradient of x", library, rows.shape) if input_grad else None
            workspace = self._workspace(rows, library)
            stream = current_stream(library, self._gpu)
            with ordered((rows, gradient), stream):
                self.affine.backward(
                    rows.pointer,
                    gradient.pointer,
                    _count(rows),
                    0 if dx is None else dx.pointer,
                    params["weight"].pointer,
                    params["bias"].pointer if "bias" in params else 0,
                    False,
                    workspace.pointer,
                    stream,
                )
            return _gradients(dx, params)

        return y.owner, HeadTape(backward)

    def _rows(self, x: Any) -> View:
        array = view("x", x, self._number, (..., self._inputs), device=self._gpu)
        if _count(array) >= 1 << 31:
            raise ValueError(f"x: expected fewer than 2**31 rows, got {_count(array)}")
        return array

    def _forward(self, rows: View, library: Library) -> View:
        y = self._empty("output", library, (*rows.shape[:-1], self._outputs))
        workspace = self._workspace(rows, library)
        stream = current_stream(library, self._gpu)
        with ordered((rows,), stream):
            self.affine.forward(rows.pointer, _count(rows), y.pointer, workspace.pointer, stream)
        return y

    def _workspace(self, rows: View, library: Library) -> View:
        return scratch("workspace", library, self.affine.workspace_bytes(_count(rows)), self._gpu)


class CudaEmbedding(CudaHead):
    """Rows of a table."""

    __slots__ = ()

    def __init__(self, place: Placement, shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]) -> None:
        assert place.gpu is not None
        require_gpu(place.gpu)
        for kernels in {place.number, "float32"}:  # those of float32 copy indices
            _core.cuda.load_rows(kernels, place.gpu)
        super().__init__(place, shapes, given)

    def run(self, indices: Any) -> Any:
        array = self._indices(indices)
        return self._taken(contiguous(array), array.library).owner

    def forward(self, indices: Any) -> tuple[Any, HeadTape]:
        array = self._indices(indices)
        library = array.library
        kept = contiguous(array, copy=True)
        y = self._taken(kept, library)
        shape = y.shape

        def backward(dy: Any, input_grad: bool) -> HeadGradients:
            gradient = self._gradient(dy, shape)
            params, (rows, columns) = self._new_gradients(library), self._shapes["weight"]
            stream = current_stream(library, self._gpu)
            with ordered((kept, gradient), stream):
                _core.cuda.add_rows(
                    self._number,
                    self._gpu,
                    params["weight"].pointer,
                    rows,
                    columns,
                    kept.pointer,
                    kept.dtype == "int64",
                    math.prod(kept.shape),
                    gradient.pointer,
                    False,
                    stream,
                )
            return _gradients(None, params)

        return y.owner, HeadTape(backward)

    def _indices(self, indices: Any) -> View:
        return view("indices", indices, ("int32", "int64"), (...,), device=self._gpu)

    def _taken(self, indices: View, library: Library) -> View:
        rows, columns = self._shapes["weight"]
        y = self._empty("output", library, (*indices.shape, columns))
        stream = current_stream(library, self._gpu)
        with ordered((indices,), stream):
            _core.cuda.take_rows(
                self._number,
                self._gpu,
                self._kept.addresses["weight"],
                rows,
                columns,
                indices.pointer,
                indices.dtype == "int64",
                math.prod(indices.shape),
                y.pointer,
                stream,
            )
        return y


def _count(rows: View) -> int:
    return math.prod(rows.shape[:-1])


def _gradients(dx: View | None, params: Mapping[str, View]) -> HeadGradients:
    return HeadGradients(None if dx is None else dx.owner, {name: array.owner for name, array in params.items()})
