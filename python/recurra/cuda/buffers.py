"""Arrays in a GPU's memory that need no library of arrays: for `python -m recurra cuda` and benchmarks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core

if TYPE_CHECKING:
    from .._arrays import Array


class Buffer:
    """A C-contiguous array on a GPU, of float32, float64, float16, bfloat16, int32 or uint8. It begins as whatever the
    memory held. Copies from and to the host come in the order of the legacy stream.

        >>> x = Buffer.of(np.zeros((3, 4), "float32"), "bfloat16")
        >>> x.to_host().dtype
        dtype('float32')
    """

    __slots__ = ("_memory", "dtype", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: str = "float32", device: int = 0) -> None:
        self.shape, self.dtype = shape, dtype
        self._memory = _core.cuda.Memory(math.prod(shape) * stored(dtype).itemsize, device)

    @classmethod
    def of(cls, array: Array, dtype: str | None = None, device: int = 0) -> Buffer:
        """A copy of a host array, rounded to the dtype if one is given."""
        new = cls(array.shape, dtype or array.dtype.name, device)
        values = bfloat16_bits(array) if new.dtype == "bfloat16" else array.astype(new.dtype)
        new._memory.write(np.ascontiguousarray(values))
        return new

    def to_host(self) -> Array:
        """A copy on the host; bfloat16 as float32."""
        host = np.empty(self.shape, stored(self.dtype))
        self._memory.read(host)
        return from_bfloat16_bits(host) if self.dtype == "bfloat16" else host

    @property
    def pointer(self) -> int:
        """Address of the first element; 0 if there is none."""
        return self._memory.pointer


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
