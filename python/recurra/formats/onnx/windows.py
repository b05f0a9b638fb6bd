"""Convolutions and poolings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...heads import Linear
from ...model import AvgPool2d, Conv1d, Conv2d, MaxPool2d
from ..unsupported import UnsupportedModel
from .shapes import pooled, require_tensor
from .sizes import Size
from .tensor import Atom, Axis, Tensor, count

if TYPE_CHECKING:
    from ..._arrays import Array
    from .builder import Builder
    from .graph import Node

__all__ = ["WINDOWS", "reduced_features"]


class _Window(NamedTuple):
    """What a window is along one axis."""

    kernel: int
    stride: int = 1
    dilation: int = 1
    before: int = 0
    after: int = 0

    @property
    def reach(self) -> int:
        return self.dilation * (self.kernel - 1) + 1

    def outputs(self, size: int) -> int:
        """How many there are over so wide an axis."""
        return (size + self.before + self.after - self.reach) // self.stride + 1


def _windows(node: Node, kernel: list[int], shape: tuple[Any, ...]) -> list[_Window]:
    """Of each spatial axis, with sizes `shape`."""
    axes = len(kernel)
    strides = node.get("strides") or [1] * axes
    dilations = node.get("dilations") or [1] * axes
    pads = node.get("pads") or [0] * (2 * axes)
    auto = node.get("auto_pad", "NOTSET")
    if not len(strides) == len(dilations) == axes or len(pads) != 2 * axes or axes != len(shape):
        raise UnsupportedModel(f"kernel_shape: expected windows over {len(shape)} axes, got {kernel}")
    if min([*kernel, *strides, *dilations]) < 1 or min(pads) < 0:
        raise UnsupportedModel("strides: expected positive numbers, and no negative pads")
    found = []
    for i, size in enumerate(shape):
        window = _Window(kernel[i], strides[i], dilations[i], pads[i], pads[axes + i])
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            window = _same_size(window, size, auto == "SAME_UPPER")
        elif auto == "VALID":
            window = window._replace(before=0, after=0)
        elif auto != "NOTSET":
            raise UnsupportedModel(f"auto_pad: expected NOTSET, SAME_UPPER, SAME_LOWER or VALID, got {auto!r}")
        found.append(window)
    return found


def _same_size(window: _Window, size: Any, upper: bool) -> _Window:
    if window.stride == 1:
        total = window.reach - 1
    elif isinstance(size, Size):
        raise UnsupportedModel("auto_pad: expected NOTSET for a stride over a time that the file does not fix")
    else:
        total = max(0, (-(-size // window.stride) - 1) * window.stride + window.reach - size)
    less, more = total // 2, total - total // 2
    return window._replace(before=less if upper else more, after=more if upper else less)


def _conv(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    x, weight = require_tensor(inputs[0], "X"), inputs[1]
    bias = inputs[2] if len(inputs) > 2 else None
    if not isinstance(weight, np.ndarray) or weight.dtype.kind != "f" or weight.ndim != x.rank or x.rank < 3:
        raise UnsupportedModel(f"W: expected constant weights of {x.rank} axes, one for each of X")
    if bias is not None and not isinstance(bias, np.ndarray):
        raise UnsupportedModel("B: expected constants")
    if 0 in weight.shape:
        raise UnsupportedModel(f"W: expected weights, got shape {weight.shape}")
    groups = node.get("group", 1)
    channels = count(x.atoms(1))
    if groups < 1 or channels != weight.shape[1] * groups or weight.shape[0] % groups:
        raise UnsupportedModel(f"group: expected {weight.shape[1]} channels in each of {groups} groups, got {channels}")
    if node.get("kernel_shape", list(weight.shape[2:])) != list(weight.shape[2:]):
        raise UnsupportedModel(f"kernel_shape: expected that of W, got {node.get('kernel_shape')}")
    windows = _windows(node, list(weight.shape[2:]), x.shape[2:])
    kept: list[int] = []
    for axis in range(x.rank - 1, 1, -1):  # from the last one, so that axes of the weight keep their places
        window = windows[axis - 2]
        if not x.axes[axis] and window.outputs(1) == 1:
            weight = _only_tap(weight, axis, window)
        else:
            kept.insert(0, axis)
    time, width = _time_and_width(x, kept)
    if weight.ndim == 4 and width is not None and time is not None and width < time:
        weight = weight.swapaxes(2, 3)
    over = {axis: windows[axis - 2] for axis in kept}
    return [_convolved(builder, x, time, width, over, weight, bias, groups)]


def _only_tap(weight: Array, axis: int, window: _Window) -> Array:
    """The weight without an axis along which only one of its numbers meets anything but padding."""
    tap, odd = divmod(window.before, window.dilation)
    if odd or tap >= window.kernel:
        weight, tap = np.zeros_like(weight), 0
    one: Array = weight.take(tap, axis)
    return one


def _time_and_width(x: Tensor, axes: list[int]) -> tuple[int | None, int | None]:
    time = [axis for axis in axes if x.is_time(axis)]
    width = [axis for axis in axes if axis not in time]
    if len(width) > 1:
        raise UnsupportedModel("X: expected time and at most one more axis for windows, got two axes of features")
    if width:
        x.atoms(width[0])
    if time and x.time is None:
        raise UnsupportedModel("X: expected a sequence, got one value for each row")
    return time[0] if time else None, width[0] if width else None


def _convolved(
    builder: Builder,
    x: Tensor,
    time: int | None,
    width: int | None,
    windows: dict[int, _Window],
    weight: Array,
    bias: Array | None,
    groups: int,
) -> Tensor:
    """Weight: [O, I / groups, time, width], without axes that are not there."""
    outputs, inputs = weight.shape[0], weight.shape[1] * groups
    t = windows[time] if time is not None else _Window(1)
    w = windows[width] if width is not None else _Window(1)
    channels = list(x.atoms(1))
    spread = list(x.atoms(width)) if width is not None else []
    others = [atom for atom in x.order if atom not in channels and atom not in spread]
    if others:
        raise UnsupportedModel("X: expected features in the axis of channels and in those of the window alone")
    if width is None:
        source, _ = builder.shaped(x, channels)
        kernel: Array = weight.reshape(outputs, -1, weight.shape[2] if time is not None else 1)
        if t == _Window(1) and groups == 1:
            layer: Any = Linear(inputs, outputs, bias is not None, dtype=builder.dtype, seed=0)
            kernel = kernel[:, :, 0]
        else:
            options = {"stride": t.stride, "padding": (t.before, t.after), "dilation": t.dilation, "groups": groups}
            layer = Conv1d(inputs, outputs, t.kernel, bias=bias is not None, dtype=builder.dtype, seed=0, **options)  # type: ignore[arg-type]
    else:
        source, _ = builder.shaped(x, channels, spread)
        kernel = weight.reshape(outputs, weight.shape[1], t.kernel, w.kernel)
        layer = Conv2d(
            inputs, outputs, (t.kernel, w.kernel), (t.stride, w.stride), ((t.before, t.after), (w.before, w.after)),
            (t.dilation, w.dilation), groups, bias is not None, dtype=builder.dtype, seed=0,
        )  # fmt: skip
    parameters = {"weight": np.ascontiguousarray(kernel, builder.dtype)}
    if bias is not None:
        parameters["bias"] = np.ascontiguousarray(bias, builder.dtype)
    layer.load_state_dict(parameters)
    source = builder.add(layer, source)
    order = [Atom(outputs)] if outputs > 1 else []
    axes: list[Axis] = [x.axes[0], tuple(order), *[()] * (x.rank - 2)]
    if width is not None:
        size = w.outputs(count(spread))
        axes[width] = (Atom(size),) if size > 1 else ()
        order += axes[width]  # type: ignore[arg-type]
    result = Tensor(source, builder.values[source], tuple(order), tuple(axes), x.time)
    if time is not None:
        assert x.time is not None
        result = builder.moved(result, source, time, x.time.windows(t.before + t.after - t.reach, t.stride))
    return result


def _pool(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    x = require_tensor(inputs[0], "X")
    kernel = node.get("kernel_shape")
    if kernel is None or len(kernel) != x.rank - 2:
        raise UnsupportedModel(f"kernel_shape: expected windows over {x.rank - 2} axes, got {kernel}")
    if any(each for each in node.outputs[1:]):
        raise UnsupportedModel("Indices: expected no second output")
    windows = _windows(node, kernel, x.shape[2:])
    largest = node.op == "MaxPool"
    for axis, window in enumerate(windows, 2):
        if window == _Window(1):
            continue
        if window.dilation != 1:
            raise UnsupportedModel(f"dilations: expected 1, got {window.dilation}")
        if not largest and (window.before or window.after) and not node.get("count_include_pad", 0):
            raise UnsupportedModel("count_include_pad: expected 1 where there is padding")
        if node.get("ceil_mode", 0) and window.stride > 1:
            size = x.shape[axis]
            if isinstance(size, Size) or (size + window.before + window.after - window.kernel) % window.stride:
                raise UnsupportedModel("ceil_mode: expected 0")
    if node.get("storage_order", 0):
        raise UnsupportedModel("storage_order: expected 0")
    over = [axis for axis, window in enumerate(windows, 2) if window != _Window(1)]
    times = [axis for axis in over if x.is_time(axis)]
    widths = [axis for axis in over if axis not in times]
    for pair in [(times[0] if times else None, widths[0] if widths else None), *((None, w) for w in widths[1:])]:
        x = _pooled_windows(builder, x, pair, windows, MaxPool2d if largest else AvgPool2d)
    return [x]


def _pooled_windows(
    builder: Builder, x: Tensor, axes: tuple[int | None, int | None], windows: list[_Window], kind: Any
) -> Tensor:
    """Windows over time and one axis of features, everything else being channels."""
    time, width = axes
    if time is None and width is None:
        return x
    t = windows[time - 2] if time is not None else _Window(1)
    w = windows[width - 2] if width is not None else _Window(1)
    spread = list(x.atoms(width)) if width is not None else []
    rest = [atom for atom in x.order if atom not in spread]
    groups = (rest, spread) if width is not None else (rest,)
    source, _ = builder.shaped(x, *groups)
    try:
        layer = kind((t.kernel, w.kernel), (t.stride, w.stride), ((t.before, t.after), (w.before, w.after)))
    except ValueError as error:
        raise UnsupportedModel(f"pads: {error}") from None
    source = builder.add(layer, source)
    new: tuple[Atom, ...] = ()
    own_axes = list(x.axes)
    if width is not None:
        size = w.outputs(count(spread))
        new = (Atom(size),) if size > 1 else ()
        own_axes[width] = new
    result = Tensor(source, builder.values[source], (*rest, *new), tuple(own_axes), x.time)
    if time is not None:
        if x.time is None:
            raise UnsupportedModel("X: expected a sequence, got one value for each row")
        result = builder.moved(result, source, time, x.time.windows(t.before + t.after - t.reach, t.stride))
    return result


def _global_pool(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    x = require_tensor(inputs[0], "X")
    mode = "max" if node.op == "GlobalMaxPool" else "mean"
    for axis in range(2, x.rank):
        if x.is_time(axis):
            x = pooled(builder, x, axis, mode, True)
        elif x.axes[axis]:
            x = reduced_features(builder, x, [axis], mode)
    return [x]


def reduced_features(builder: Builder, x: Tensor, axes: list[int], mode: str) -> Tensor:
    """The largest, the mean or the sum of the features of some axes, which become of size 1."""
    own = [atom for axis in axes for atom in x.atoms(axis)]
    rest = [atom for atom in x.order if atom not in own]
    size, others = count(own), count(rest)
    if mode == "max":
        source, _ = builder.shaped(x, rest, own)
        source = builder.add(MaxPool2d((1, size)), source)
    else:
        weight = 1 / size if mode == "mean" else 1.0
        if rest:
            source, _ = builder.shaped(x, own, rest)
            layer: Any = Conv2d(size, 1, 1, bias=False, dtype=builder.dtype, seed=0)
        else:
            source, _ = builder.shaped(x, own)
            layer = Linear(size, 1, bias=False, dtype=builder.dtype, seed=0)
        layer.load_state_dict({name: np.full_like(array, weight) for name, array in layer.state_dict().items()})
        source = builder.add(layer, source)
    assert builder.values[source].size == others
    reduced: list[Axis] = [() if axis in axes else each for axis, each in enumerate(x.axes)]
    return Tensor(source, builder.values[source], tuple(rest), tuple(reduced), x.time)


WINDOWS: dict[str, Any] = {
    "Conv": _conv,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
}
