"""Around a launch: arrays to write results to, and streams in order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from .._arrays import check_distinct, may_overlap_itself
from .array_libraries import current_stream
from .arrays import View, contiguous_strides, is_contiguous, view

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._arrays import Array, Pattern
    from .array_libraries import Library

ALIGNMENT = 256  # of memory that the core divides up


def empty(name: str, library: Library, shape: tuple[int, ...], dtype: str, device: int) -> View:
    """A new C-contiguous array of a library, on its current stream: the owner of the view."""
    try:
        array = library.empty(shape, dtype, device)
    except (MemoryError, TypeError) as error:
        raise type(error)(f"{name}: cannot allocate {dtype} {list(shape)} on cuda:{device}: {error}") from error
    made = view(name, array, dtype, shape, device=device)
    if made.readonly or not is_contiguous(made):
        raise ValueError(f"{name}: expected a new C-contiguous array from {type(library).__name__}.empty, got another")
    return made


def scratch(name: str, library: Library, size: int, device: int) -> View:
    """New bytes of a library, for the core alone."""
    memory = empty(name, library, (size,), "uint8", device)
    if memory.pointer % ALIGNMENT:
        raise ValueError(f"{name}: expected memory aligned to {ALIGNMENT} bytes, got address {memory.pointer:#x}")
    return memory


def contiguous(array: View, copy: bool = False) -> View:
    """The array itself if it is C-contiguous, else, or with `copy`, a copy on the current stream of its library."""
    if is_contiguous(array) and not copy:
        return array
    library, size = array.library, item_size(array.dtype)
    memory = scratch(f"copy of {array.name}", library, math.prod(array.shape) * size, array.device)
    stream = current_stream(library, array.device)
    # Kernels come in sets, one a number type; which one matters only in that it is likely to be loaded.
    kernels = array.dtype if array.dtype in ("float64", "float16", "bfloat16") else "float32"
    try:
        with ordered((array,), stream):
            _core.cuda.make_contiguous(
                kernels, array.device, size, array.shape, array.strides, array.pointer, memory.pointer, stream
            )
    except ValueError as error:  # more axes than a kernel counts
        raise ValueError(f"{array.name}: {error}") from error
    return memory._replace(
        name=array.name, shape=array.shape, strides=contiguous_strides(array.shape), dtype=array.dtype
    )


def filled(by_layer: list[list[int | None]]) -> list[list[int]]:
    """Addresses of parameters as the core takes them."""
    return [[address or 0 for address in lane] for lane in by_layer]


def written(name: str, value: Any, dtype: str, *patterns: Pattern, device: int, inputs: Iterable[View]) -> View:
    """As `view`, of an array to write to; ValueError unless that can be done without touching itself or `inputs`."""
    target = view(name, value, dtype, *patterns, device=device)
    if target.readonly:
        raise ValueError(f"{name}: expected a writeable array, got one that can only be read")
    where = addresses(target)
    if may_overlap_itself(where):
        raise ValueError(f"{name}: expected elements that do not overlap each other, got strides {target.strides}")
    check_distinct(where, {other.name: addresses(other) for other in inputs}, name)
    return target


def output(out: Any, shape: tuple[int, ...], dtype: str, x: View, inputs: Iterable[View] = ()) -> View:
    """Where to write results: a new array of the library of x, or the caller's `out`, which may share no memory with x
    and `inputs`. The owner of the view is what to return."""
    if out is None:
        return empty("output", x.library, shape, dtype, x.device)
    return written("out", out, dtype, shape, device=x.device, inputs=(x, *inputs))


class _Addresses:
    def __init__(self, array: View) -> None:
        size = item_size(array.dtype)
        self.__array_interface__ = {
            "version": 3,
            "shape": array.shape,
            "typestr": f"|V{size}",
            "data": (array.pointer, True),
            "strides": tuple([stride * size for stride in array.strides]),
        }


def addresses(array: View) -> Array:
    """An array at the same addresses, for NumPy's arithmetic on them. It must never be read."""
    return np.asarray(_Addresses(array))


def item_size(dtype: str) -> int:
    """Bytes of a number."""
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


class ordered:  # noqa: N801  (a `with` statement reads so)
    """What is launched on `stream` inside comes after all that made the views, and before what their makers do next.

        >>> with ordered((x, h, y), stream):
        ...     launch(stream)

    Events do that, where streams differ, and nobody waits for the GPU. So a caller may drop an array, or read what was
    written to it, as if all were one stream.

    Raises:
        RuntimeError: `stream` is being captured, and a view was made on a stream that is not.
    """

    __slots__ = ("_device", "_others", "_stream")

    def __init__(self, views: Iterable[View], stream: int) -> None:
        self._stream, self._device = stream, 0
        self._others: dict[int, str] = {}
        for array in views:
            if array.stream is not None and array.stream != stream:
                self._others.setdefault(array.stream, array.name)
                self._device = array.device

    def __enter__(self) -> None:
        for other, name in self._others.items():
            try:
                _core.cuda.wait(self._stream, other, self._device)
            except RuntimeError as error:
                raise RuntimeError(f"{name}: {error}") from error

    def __exit__(self, *_: object) -> None:
        for other in self._others:
            _core.cuda.wait(other, self._stream, self._device)
