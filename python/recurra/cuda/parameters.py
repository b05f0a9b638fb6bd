"""Parameters in a GPU's memory, as the caller gave them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from .._arrays import check, contiguous
from .array_libraries import current_stream
from .arrays import View, is_contiguous, on_gpu, view
from .launch import ALIGNMENT, ordered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._arrays import Array


class Parameters:
    """Copies of arrays, which are on a GPU or the CPU, in memory of this package's own.

    Args:
        given: names to what `parameter` returned.
        dtype: of all.
        gpu: number of the GPU.
        pack: puts on a stream what is made of them once, from their addresses. It has been done when the constructor
            returns, so that calls on any stream may read it.

    Attributes:
        addresses: by name.
    """

    __slots__ = ("_dtype", "_gpu", "_memory", "_offsets", "_shapes", "_sizes", "addresses")
    addresses: Mapping[str, int]

    def __init__(
        self,
        given: Mapping[str, View | Array],
        dtype: np.dtype[Any],
        gpu: int,
        pack: Callable[[Mapping[str, int], int], None] | None = None,
    ) -> None:
        self._dtype, self._gpu, self._shapes = dtype, gpu, {name: array.shape for name, array in given.items()}
        self._sizes = {name: math.prod(shape) * dtype.itemsize for name, shape in self._shapes.items()}
        self._offsets, total = {}, 0
        for name, size in self._sizes.items():
            self._offsets[name] = total
            total += -(-size // ALIGNMENT) * ALIGNMENT
        self._memory = _core.cuda.Memory(gpu, total)
        self.addresses = {name: self._memory.pointer + offset for name, offset in self._offsets.items()}
        self.replace(given, pack)

    def replace(
        self, given: Mapping[str, View | Array], pack: Callable[[Mapping[str, int], int], None] | None = None
    ) -> None:
        """Copy other arrays of the same shapes over them, on the stream that `stream_of` tells."""
        stream = stream_of(given, self._gpu)
        views = {name: array for name, array in given.items() if isinstance(array, View)}
        for name, array in given.items():
            if not isinstance(array, View):
                self._memory.write(self._offsets[name], array)
        with ordered(views.values(), stream):
            for name, array in views.items():
                self._memory.copy(self._offsets[name], array.pointer, self._sizes[name], stream)
            if pack is not None:
                pack(self.addresses, stream)
        _core.cuda.synchronize(self._gpu, stream)

    def read(self, name: str) -> Array:
        """A new copy of one on the CPU."""
        array = np.empty(self._shapes[name], self._dtype)
        self._memory.read(self._offsets[name], array)
        return array


def stream_of(given: Mapping[str, View | Array], gpu: int) -> int:
    """The current stream of the library of the arrays on the GPU; the legacy stream if none is."""
    for array in given.values():
        if isinstance(array, View):
            return current_stream(array.library, gpu)
    return 0


def parameter(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any], gpu: int) -> View | Array:
    """A parameter, C-contiguous: on the GPU, or on the CPU."""
    if not on_gpu(value):
        return contiguous(check(name, value, dtype, shape))
    array = view(name, value, dtype.name, shape, device=gpu)
    if not is_contiguous(array):
        raise ValueError(f"{name}: expected a C-contiguous array on the GPU, got strides {array.strides}")
    return array
