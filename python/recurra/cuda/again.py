"""Arrays of a stream's next step, which need not be checked where they are like those of the last one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .array_libraries import is_cupy, is_torch, registrations
from .launch import item_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from .array_libraries import Library
    from .arrays import View

    Core = tuple[int, int, int, int]
    Read = Callable[[Any], tuple[int, Any]]


def _read_cupy(value: Any) -> tuple[int, Any]:
    data = value.data
    return data.ptr, (data.device_id, value.shape, value.strides, value.dtype)


def _read_torch(value: Any) -> tuple[int, Any]:
    torch: Any = sys.modules["torch"]
    kind = value.layout, value.dtype, value.get_device(), value.requires_grad, value.is_neg(), value.is_conj()
    traced = torch._C._functorch.is_functorch_wrapped_tensor(value), torch.autograd.forward_ad._current_level
    return value.data_ptr(), (value.shape, value.stride(), kind, traced)


class Again:
    """What was found to be right in a step: the type of its arrays, and all that a check looks at but their addresses.

    Attributes:
        library: of the arrays, which are on its current stream.
        device: number of their GPU.
    """

    __slots__ = ("_kind", "_layouts", "_read", "_registrations", "_size", "_spans", "_strides", "device", "library")

    def __init__(self, x: View, y: View, cores: tuple[Core, Core], library: Library, read: Read) -> None:
        self._read, self._kind, self.library, self.device = read, type(x.owner), library, x.device
        self._layouts, self._registrations = (read(x.owner)[1], read(y.owner)[1]), registrations()
        self._spans, self._strides = (_span(x), _span(y)), (cores[0][1:], cores[1][1:])
        self._size = item_size(x.dtype)  # y's, too

    @classmethod
    def of(cls, x: View, y: View, cores: tuple[Core, Core], library: Library, given: tuple[Any, Any]) -> Again | None:
        """Of arrays that have just been checked, and as the core takes them; None for such as only a check can tell
        about."""
        value, out = given
        if x.owner is not value or y.owner is not out or type(out) is not type(value):
            return None
        read = _read_cupy if is_cupy(value) else _read_torch if is_torch(value) else None
        return None if read is None else cls(x, y, cores, library, read)

    def arrays(self, x: Any, out: Any) -> tuple[Core, Core] | None:
        """Both as the core takes them; None if they have to be checked."""
        kind = self._kind
        if type(x) is not kind or type(out) is not kind or registrations() is not self._registrations:
            return None
        try:
            x_at, x_layout = self._read(x)
            y_at, y_layout = self._read(out)
        except Exception:  # whatever it is, a check says it better
            return None
        if (x_layout, y_layout) != self._layouts or not x_at or not y_at or (x_at | y_at) % self._size:
            return None
        (x_low, x_high), (y_low, y_high) = self._spans
        if x_at + x_high > y_at + y_low and y_at + y_high > x_at + x_low:  # they may overlap
            return None
        x_strides, y_strides = self._strides
        return (x_at, *x_strides), (y_at, *y_strides)


def _span(array: View) -> tuple[int, int]:
    """Where its bytes begin and end, from its address on."""
    low, high, size = 0, 1, item_size(array.dtype)
    for count, stride in zip(array.shape, array.strides, strict=True):
        low, high = (low + stride * (count - 1), high) if stride < 0 else (low, high + stride * (count - 1))
    return size * low, size * high
