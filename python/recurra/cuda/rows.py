"""Rows of arrays in a GPU's memory, taken and added up by numbers that the host has made."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .. import _core
from .array_libraries import Library, current_stream
from .arrays import View, contiguous_strides
from .launch import item_size, ordered, scratch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._arrays import Array


class Rows:
    """Rows of a network's numbers, and how they move, on the current stream of a library.

    Args:
        number: of the rows.
        indices: numbers of rows by name, in the memory of the GPU when the constructor returns: it waits.
        most: rows of the largest table.

    Attributes:
        memory: of the indices.
    """

    def __init__(self, number: str, gpu: int, library: Library, indices: Mapping[str, Array], most: int) -> None:
        self._number, self._gpu, self._library = number, gpu, library
        self._size = item_size(number)
        # Tables that the kernels read, and those they add to, are of float32 for numbers of 16 bits.
        self._converts = self._size == 2
        every = {"every": np.arange(most)} if self._converts else {}
        self._indices: dict[str, tuple[int, int]] = {}  # offset and count
        total = 0
        for name, index in {**indices, **every}.items():
            self._indices[name] = (total, index.size)
            total += index.size
        host = np.concatenate([index.ravel() for index in (*indices.values(), *every.values())]).astype(np.int64)
        self.memory = uploaded(host, library, gpu)

    def array(self, name: str, shape: tuple[int, ...]) -> View:
        """A new array, of no particular numbers, after which a row more of zeros may be cleared."""
        memory = scratch(name, self._library, (math.prod(shape) + 2) * self._size, self._gpu)
        return self.part(memory, 0, shape)

    def part(self, array: View, start: int, shape: tuple[int, ...]) -> View:
        """Numbers from `start` on, of an array that is contiguous."""
        pointer = array.pointer + start * self._size
        return array._replace(pointer=pointer, shape=shape, strides=contiguous_strides(shape), dtype=self._number)

    def take(self, table: View, index: str, to: View) -> None:
        """to[i] = table[index[i]], of rows as long as those of the table [rows, columns]."""
        source = table
        if self._converts:
            source = self._wide(table.shape)
            self._add("every", source.pointer, table.shape, table, False)
        self._take(source.pointer, table.shape, index, to)

    def add(self, to: View, shape: tuple[int, ...], index: str, *sources: View) -> View:
        """to[index[i]] = the sum of source[i], in their order, for `to` of a shape [rows, columns]; numbers of no row
        are left out."""
        table = self._wide(shape) if self._converts else to
        for number, source in enumerate(sources):
            self._add(index, table.pointer, shape, source, number > 0)
        if self._converts:
            self._take(table.pointer, shape, "every", to)
        return to

    def clear(self, to: View) -> None:
        """Make all of an array zero. For numbers of 16 bits that may be one number more."""
        if size := math.prod(to.shape) * self._size:
            self._add("", to.pointer, (1, -(-size // max(self._size, 4))), to, False)

    def copy(self, array: View, to: View) -> None:
        """All numbers of an array, in C order."""
        _core.cuda.make_contiguous(
            self._number, self._gpu, self._size, array.shape, array.strides, array.pointer, to.pointer, self._stream
        )

    @property
    def _stream(self) -> int:
        return current_stream(self._library, self._gpu)

    def _wide(self, shape: tuple[int, ...]) -> View:
        return scratch("table in float32", self._library, math.prod(shape) * 4, self._gpu)

    def _at(self, index: str, rows: int) -> tuple[int, int]:
        offset, count = self._indices.get(index, (0, 0))
        return self.memory.pointer + offset * 8, min(count, rows) if index == "every" else count

    def _take(self, table: int, shape: tuple[int, ...], index: str, to: View) -> None:
        rows, columns = shape
        pointer, count = self._at(index, rows)
        _core.cuda.take_rows(
            self._number, self._gpu, table, rows, columns, pointer, True, count, to.pointer, self._stream
        )

    def _add(self, index: str, table: int, shape: tuple[int, ...], source: View, more: bool) -> None:
        rows, columns = shape
        if not rows:
            return
        pointer, count = self._at(index, rows)
        _core.cuda.add_rows(
            self._number, self._gpu, table, rows, columns, pointer, True, count, source.pointer, more, self._stream
        )


def uploaded(indices: Array, library: Library, gpu: int) -> View:
    """Numbers of the host, in memory of the library. It waits for the GPU."""
    host = _core.cuda.Memory(gpu, max(indices.nbytes, 8))
    if indices.size:
        host.write(0, indices)
    memory = scratch("indices", library, max(indices.nbytes, 8), gpu)
    stream = current_stream(library, gpu)
    _core.cuda.make_contiguous("float64", gpu, 8, indices.shape, (1,), host.pointer, memory.pointer, stream)
    _core.cuda.synchronize(gpu, stream)  # before the other copy is freed
    return memory


def downloaded(array: View) -> Array:
    """A copy on the host, of a dtype of NumPy's. It waits for the GPU."""
    dtype = np.dtype(array.dtype)
    if 0 in array.shape:
        return np.zeros(array.shape, dtype)
    spans = [stride * (size - 1) for size, stride in zip(array.shape, array.strides, strict=True)]
    first, last = sum(min(span, 0) for span in spans), sum(max(span, 0) for span in spans)
    size, stream = dtype.itemsize, current_stream(array.library, array.device)
    memory = _core.cuda.Memory(array.device, (last - first + 1) * size)
    with ordered((array,), stream):
        memory.copy(0, array.pointer + first * size, memory.bytes, stream)
    _core.cuda.synchronize(array.device, stream)
    numbers = np.empty(last - first + 1, dtype)
    memory.read(0, numbers)
    strides = [stride * size for stride in array.strides]
    return np.ndarray(array.shape, dtype, numbers, -first * size, strides).copy()
