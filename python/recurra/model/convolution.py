"""Operations with a window over time, and over the width of a step's features."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from .._arrays import require_memory
from .._options import flag, float_dtype, generator, integer, shown
from .operation import Operation, Value, timed_input

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from .._options import Seed

    Pair = int | tuple[int, int]
    Sides = tuple[int, int]

__all__ = ["AvgPool2d", "Conv1d", "Conv2d", "MaxPool2d"]


class _Window(Operation):
    """The window of a Conv2d or a pooling: time first, then width."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[Sides, Sides]

    def _windows(self, steps: int, axis: int) -> int:
        """How many there are over so many steps, or so wide a step."""
        reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
        return max(0, (steps + sum(self.padding[axis]) - reach) // self.stride[axis] + 1)

    def output_length(self, steps: int) -> int:
        """How many steps come out of so many.

        >>> recurra.Conv1d(12, 32, 5, stride=2).output_length(100)
        48
        """
        return self._windows(integer("steps", steps, 0), 0)

    @property
    def future(self) -> int:
        """How many steps after its own a window looks at; 0 if it is causal, as a stream needs it.

        >>> recurra.Conv1d(12, 32, 5, padding=2).future, recurra.Conv1d(12, 32, 5, causal=True).future
        (2, 0)
        """
        return self.dilation[0] * (self.kernel_size[0] - 1) - self.padding[0][0]

    @property
    def configuration(self) -> dict[str, Any]:
        window = {name: list(getattr(self, name)) for name in ("kernel_size", "stride", "dilation")}
        return window | {"padding": [list(sides) for sides in self.padding]}

    def _set_window(self, kernel_size: Any, stride: Any, padding: Any, dilation: Any) -> None:
        window = {
            "kernel_size": _pair("kernel_size", kernel_size),
            "stride": _pair("stride", stride),
            "dilation": _pair("dilation", dilation),
            "padding": tuple(_sides("padding", sides) for sides in _two("padding", padding)),
        }
        self.__dict__.update(window)

    def _require_width(self, width: int) -> int:
        """The width of the result."""
        if (windows := self._windows(width, 1)) < 1:
            raise ValueError(f"{self.kind}: expected a width that holds a window, got {width}")
        return windows


class Conv2d(_Window):
    """A convolution over time and over the width of a step's features, with torch.nn.Conv2d's parameters and initial
    values: out[t, o, w] = bias[o] + sum over i, j, k of weight[o, i, j, k] x[t s + j d - p, i, w s' + k d' - p'].

        >>> inputs = {"x": recurra.Value((1, 64))}  # one channel, 64 bands
        >>> model = recurra.Model([recurra.Conv2d(1, 8, 3, stride=(1, 2), padding=((2, 0), 1))], inputs=inputs)
        >>> model(np.zeros((100, 1, 64), "float32")).shape
        (100, 8, 32)

    Beyond the ends of a row, which its length says, x is zero. So a row gives `output_length` of its length steps. A
    stream needs no step after its own: padding before of dilation * (kernel_size - 1) at least.

    Args:
        in_channels: I. out_channels: O. Parameters are weight [O, I / groups, kernel_size] and bias [O].
        kernel_size, stride, dilation: over (time, width), or one number for both.
        padding: of zeros: a number for all sides, (time, width), or ((before, after), (left, right)).
        groups: into how many groups, each seen by its own outputs, channels are cut.
        bias: whether there is one.
        dtype: float32 or float64.
        seed: for numpy.random.default_rng; parameters start uniform in +-1/sqrt(I / groups * size of the kernel).
    """

    kind: ClassVar[str] = "conv2d"
    has_parameters = True
    in_channels: int
    out_channels: int
    groups: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Any = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        dtype: DTypeLike = "float32",
        seed: Seed = None,
    ) -> None:
        self._set_window(kernel_size, stride, padding, dilation)
        self._set_channels(in_channels, out_channels, groups, bias, dtype, seed)

    def _set_channels(self, inputs: Any, outputs: Any, groups: Any, bias: Any, dtype: Any, seed: Any) -> None:
        inputs, outputs = integer("in_channels", inputs), integer("out_channels", outputs)
        groups = integer("groups", groups)
        if inputs % groups or outputs % groups:
            raise ValueError(f"groups: expected a divisor of {inputs} and {outputs}, got {groups}")
        shapes = {"weight": (outputs, inputs // groups, *self._kernel)}
        shapes |= {"bias": (outputs,)} if flag("bias", bias) else {}
        what = f"in_channels={shown(inputs)}, out_channels={shown(outputs)}, kernel_size={shown(self._kernel)}"
        copies = 3  # as drawn, in float64; as kept
        require_memory(what, copies * math.prod(shapes["weight"]) * float_dtype("dtype", dtype).itemsize)
        random, bound = generator(seed), 1 / math.sqrt(math.prod(shapes["weight"][1:]))
        values = {name: random.uniform(-bound, bound, shape).astype(dtype) for name, shape in shapes.items()}
        self._set(dtype, shapes, values, in_channels=inputs, out_channels=outputs, groups=groups)

    @property
    def _kernel(self) -> tuple[int, ...]:
        return self.kernel_size

    @property
    def configuration(self) -> dict[str, Any]:
        sizes = {"in_channels": self.in_channels, "out_channels": self.out_channels}
        return sizes | super().configuration | {"groups": self.groups, "bias": "bias" in self._shapes}

    def result(self, *inputs: Value) -> Value:
        value = timed_input(self.kind, inputs)
        _, width = _channels(self.kind, value, self.in_channels)
        return value._replace(features=(self.out_channels, self._require_width(width)))


class Conv1d(Conv2d):
    """A convolution over time, with torch.nn.Conv1d's parameters and initial values, on [T, B, I] to [T, B, O]; as
    `Conv2d` with a width of 1.

        >>> recurra.Conv1d(16, 32, 5, causal=True).output_length(100)
        100

    Args:
        in_channels: I. out_channels: O. Parameters are weight [O, I / groups, kernel_size] and bias [O].
        kernel_size, stride, dilation: over time.
        padding: of zeros: a number for both ends, or (before, after).
        groups: into how many groups, each seen by its own outputs, channels are cut.
        bias: whether there is one.
        causal: whether padding is what lets each step see only itself and earlier ones: (dilation * (kernel_size - 1),
            0). `padding` is 0 then.
        dtype, seed: as of `Conv2d`.
    """

    kind = "conv1d"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | Sides = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        causal: bool = False,
        dtype: DTypeLike = "float32",
        seed: Seed = None,
    ) -> None:
        size, reach = integer("kernel_size", kernel_size), integer("dilation", dilation)
        sides = _sides("padding", padding)
        if flag("causal", causal):
            if sides != (0, 0):
                raise ValueError(f"padding: expected 0 with causal=True, got {padding!r}")
            sides = (reach * (size - 1), 0)
        self._set_window((size, 1), (integer("stride", stride), 1), (sides, 0), (reach, 1))
        self._set_channels(in_channels, out_channels, groups, bias, dtype, seed)

    @property
    def _kernel(self) -> tuple[int, ...]:
        return self.kernel_size[:1]

    @property
    def configuration(self) -> dict[str, Any]:
        window = {name: getattr(self, name)[0] for name in ("kernel_size", "stride", "dilation")}
        return super().configuration | window | {"padding": list(self.padding[0])}

    def result(self, *inputs: Value) -> Value:
        value = timed_input(self.kind, inputs)
        if len(value.features) != 1 or value.size != self.in_channels:
            raise ValueError(f"conv1d: expected {self.in_channels} features, got {value.features}")
        return value._replace(features=(self.out_channels,))


class _Pool2d(_Window):
    def __init__(self, kernel_size: Pair, stride: Pair | None = None, padding: Any = 0) -> None:
        self._set_window(kernel_size, kernel_size if stride is None else stride, padding, 1)
        if any(max(sides) > size // 2 for sides, size in zip(self.padding, self.kernel_size, strict=True)):
            raise ValueError(f"padding: expected at most half of kernel_size={self.kernel_size}, got {padding!r}")
        self._set()

    @property
    def configuration(self) -> dict[str, Any]:
        return {name: value for name, value in super().configuration.items() if name != "dilation"}

    def result(self, *inputs: Value) -> Value:
        value = timed_input(self.kind, inputs)
        channels, width = _channels(self.kind, value, None)
        return value._replace(features=(channels, self._require_width(width)))


class MaxPool2d(_Pool2d):
    """The largest number of each window over time and width, of each channel alone; beyond the ends there is nothing.

        >>> model = recurra.Model([recurra.MaxPool2d((1, 2))], inputs={"x": recurra.Value((8, 64))})
        >>> model(np.zeros((100, 8, 64), "float32")).shape
        (100, 8, 32)

    A window that lies beyond the ends altogether, of a row without steps, gives zero.

    Args:
        kernel_size: over (time, width), or one number for both.
        stride: the same; default kernel_size.
        padding: a number for all sides, (time, width), or ((before, after), (left, right)), at most half of
            kernel_size.
    """

    kind = "max_pool2d"


class AvgPool2d(_Pool2d):
    """The mean of each window over time and width, of each channel alone; beyond the ends there are zeros, which count
    (torch.nn.AvgPool2d's count_include_pad).

        >>> model = recurra.Model([recurra.AvgPool2d((1, 2))], inputs={"x": recurra.Value((1, 4))})
        >>> model(np.array([[[1, 3, 5, 5]]], "float32")).tolist()
        [[[2.0, 5.0]]]

    Args:
        kernel_size, stride, padding: as of `MaxPool2d`.
    """

    kind = "avg_pool2d"


def _channels(kind: str, value: Value, wanted: int | None) -> tuple[int, int]:
    """Channels and width of `value`; features alone are channels of width 1."""
    channels, width = value.features if len(value.features) == 2 else (*value.features, 1)
    if wanted is not None and channels != wanted:
        raise ValueError(f"{kind}: expected {wanted} channels, got features {value.features}")
    return channels, width


def _two(name: str, value: Any) -> tuple[Any, Any]:
    """One for time and one for width."""
    if not isinstance(value, (tuple, list)):
        return value, value
    if len(value) != 2:
        raise ValueError(f"{name}: expected one number or two, got {value!r}")
    return tuple(value)


def _pair(name: str, value: Any) -> tuple[int, int]:
    time, width = _two(name, value)
    return integer(name, time), integer(name, width)


def _sides(name: str, value: Any) -> tuple[int, int]:
    before, after = _two(name, value)
    return integer(name, before, 0), integer(name, after, 0)
