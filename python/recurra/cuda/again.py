"""Arrays of a stream's next step, which need not be checked where they are like those of the last one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .array_libraries import is_cupy, is_torch, registrations
from .arrays import View, single_step
from .launch import item_size

if TYPE_CHECKING:
    from collections.abc import Callable

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

    __slots__ = ("_kind", "_layouts", "_read", "_registrations", "_spans", "_strides", "device", "library")

    def __init__(self, x: View, y: View, read: Read) -> None:
        self._read, self._kind, self.library, self.device = read, type(x.owner), x.library, x.device
        self._layouts = read(x.owner)[1], read(y.owner)[1]
        self._spans, self._strides = (_span(x), _span(y)), (single_step(x).array[1:], single_step(y).array[1:])
        self._registrations = registrations()

    @classmethod
    def of(cls, x: View, y: View, value: Any, out: Any) -> Again | None:
        """Of arrays that have just been checked; None for such as only a check can tell about."""
        read = _read_cupy if is_cupy(value) else _read_torch if is_torch(value) else None
        alike = type(out) is type(value) and x.owner is value and y.owner is out
        return cls(x, y, read) if read is not None and alike else None

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
        if (x_layout, y_layout) != self._layouts or not x_at or not y_at:
            return None
        (x_low, x_high), (y_low, y_high) = self._spans
        if x_at + x_high > y_at + y_low and y_at + y_high > x_at + x_low:  # they may overlap
            return None
        x_strides, y_strides = self._strides
        return (x_at, *x_strides), (y_at, *y_strides)


def _span(array: View) -> tuple[int, int]:
    """Where its bytes begin and end, from its address on."""
    ways = [stride * (size - 1) for size, stride in zip(array.shape, array.strides, strict=True)]
    size = item_size(array.dtype)
    return size * sum(way for way in ways if way < 0), size * (1 + sum(way for way in ways if way > 0))
