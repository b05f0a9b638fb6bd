"""Arrays in a GPU's memory that need no library of arrays: for `python -m recurra cuda` and benchmarks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from .array_libraries import LEGACY_STREAM, register_library

if TYPE_CHECKING:
    from .._arrays import Array


class Buffer:
    """A C-contiguous array on a GPU, of float32, float64, float16, bfloat16, int32 or uint8. It begins as whatever the
    memory held. All that is done with it comes in the order of the legacy stream.

        >>> x = Buffer.of(np.zeros((100, 8, 64), "float32"), "bfloat16")
        >>> y, state = recurra.LSTM(64, 256, device="cuda", dtype="bfloat16")(x)
        >>> y.to_host().dtype
        dtype('float32')
    """

    __slots__ = ("_memory", "device", "dtype", "shape")
    # Memory that nobody uses, by GPU and size: in a steady state nothing is allocated, which would wait for the GPU.
    _free: dict[tuple[int, int], list[_core.cuda.Memory]] = {}  # noqa: RUF012

    def __init__(self, shape: tuple[int, ...], dtype: str, device: int = 0) -> None:
        self.shape, self.dtype, self.device = shape, dtype, device
        size = math.prod(shape) * stored(dtype).itemsize
        free = self._free.get((device, size))
        self._memory = free.pop() if free else _core.cuda.Memory(device, size)

    def __del__(self) -> None:
        if hasattr(self, "_memory"):
            self._free.setdefault((self.device, self._memory.bytes), []).append(self._memory)

    @classmethod
    def of(cls, array: Array, dtype: str | None = None, device: int = 0) -> Buffer:
        """A copy of a host array, rounded to the dtype if one is given."""
        new = cls(array.shape, dtype or array.dtype.name, device)
        values = bfloat16_bits(array) if new.dtype == "bfloat16" else array.astype(new.dtype)
        new._memory.write(0, np.ascontiguousarray(values))
        return new

    def to_host(self) -> Array:
        """A copy on the host; bfloat16 as float32."""
        host = np.empty(self.shape, stored(self.dtype))
        self._memory.read(0, host)
        return from_bfloat16_bits(host) if self.dtype == "bfloat16" else host

    @property
    def pointer(self) -> int:
        """Address of the first element; 0 if there is none."""
        return self._memory.pointer

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        typestr = "|V2" if self.dtype == "bfloat16" else stored(self.dtype).str
        return {"version": 3, "shape": self.shape, "typestr": typestr, "data": (self.pointer, False), "stream": 1}


class Buffers:
    """The library of buffers."""

    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> Buffer:
        return Buffer(shape, dtype, device)

    def current_stream(self, device: int) -> int:
        return LEGACY_STREAM


register_library(Buffer, Buffers())


def stored(dtype: str) -> np.dtype[Any]:
    """What NumPy has for it: bfloat16 is kept as its bits."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype)


def bfloat16_bits(array: Array) -> Array:
    """Numbers rounded to the nearest bfloat16, to even between two; NaN stays NaN."""
    bits = array.astype("float32").view("uint32")
    rounded = (bits.astype("uint64") + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(array), 0x7FC0, rounded).astype("uint16")


def from_bfloat16_bits(bits: Array) -> Array:
    """As float32."""
    return np.asarray((bits.astype("uint32") << 16).view("float32"))


def rounded(array: Array, dtype: str) -> Array:
    """Numbers that the dtype has, in the dtype of the array."""
    if dtype == "bfloat16":
        return from_bfloat16_bits(bfloat16_bits(array)).astype(array.dtype)
    return array.astype(dtype).astype(array.dtype)
