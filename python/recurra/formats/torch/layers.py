"""Functions of torch with parameters or windows: Linear, convolutions, poolings, normalisations, embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ...heads import Embedding, Linear
from ...model import AvgPool2d, Conv1d, Conv2d, LayerNorm, MaxPool2d
from .arithmetic import reduced
from .tensor import Lengths, Mismatch, Recording, Traced, function, traced
from .view import Misread, Refusal, Size, View

__all__ = ["array"]

Sides = tuple[int, int]


def array(tensor: Any) -> Any:
    """A constant as NumPy has it."""
    if traced(tensor) or not isinstance(tensor, torch.Tensor):
        raise Refusal("has parameters that the input decides")
    return tensor.detach().cpu().numpy()


def _parameters(weight: Any, bias: Any) -> dict[str, Any]:
    return {"weight": array(weight)} | ({} if bias is None else {"bias": array(bias)})


@function("linear")
def _linear(recording: Recording, x: Traced, weight: Any, bias: Any = None) -> Any:
    view, axis = x.seen, len(x.seen.axes) - 1
    if not view.is_features(axis):
        raise Misread(f"is applied to an axis of {' and '.join(map(str, view.axes[axis]))}, not to features")
    parameters = _parameters(weight, bias)
    outputs, inputs = parameters["weight"].shape
    recording.require("features", view.size(axis), inputs)
    if view.features != inputs:
        raise Refusal(f"is applied to a part of the {view.features} features of a step")
    options = {"in_features": inputs, "out_features": outputs, "bias": bias is not None}
    name = recording.graph.add(Linear, (recording.graph.plain(view),), (outputs,), options, parameters)
    return recording.value(name, (outputs,), view)


@function("matmul", "mm", "bmm")
def _matmul(recording: Recording, x: Any, other: Any) -> Any:
    if not isinstance(x, Traced) or isinstance(other, Traced) or other.dim() != 2:
        raise Refusal("multiplies by something other than a constant matrix")
    return _linear(recording, x, other.detach().t().contiguous())


@function("addmm")
def _addmm(recording: Recording, bias: Any, x: Any, weight: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    if not isinstance(x, Traced) or isinstance(weight, Traced) or isinstance(bias, Traced) or (beta, alpha) != (1, 1):
        raise Refusal("is no Linear")
    return _linear(recording, x, weight.detach().t().contiguous(), bias)


@function("F.embedding")
def _embedding(
    recording: Recording,
    x: Any,
    weight: Any,
    padding_idx: Any = None,
    max_norm: Any = None,
    norm_type: Any = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    if max_norm is not None:
        raise Refusal(f"has max_norm={max_norm}; expected None")
    if not isinstance(x, Traced) or not recording.graph.values[x.seen.value].integer:
        raise Refusal("looks up something other than an integer input")
    table = array(weight)
    count, size = table.shape
    options = {"num_embeddings": count, "embedding_dim": size}
    name = recording.graph.add(Embedding, (recording.graph.plain(x.seen),), (size,), options, {"weight": table})
    return recording.value(name, (size,), x.seen.unsqueeze(len(x.seen.axes)))


@function("embedding")
def _embedding_of_table(recording: Recording, weight: Any, indices: Any, *args: Any, **kwargs: Any) -> Any:
    return _embedding(recording, indices, weight)


def _window_axes(view: View, count: int) -> list[str]:
    """What each of the last axes, over which a window goes, is: "T" or "W"."""
    kinds = []
    for axis in range(len(view.axes) - count, len(view.axes)):
        kinds.append("T" if view.axes[axis] == ("T",) else "W")
        if kinds[-1] == "W" and not view.is_features(axis):
            raise Misread(f"has a window over {' and '.join(map(str, view.axes[axis]))}")
    if kinds.count("T") > 1 or kinds.count("W") > 1:
        raise Refusal("has a window over several axes of features")
    return kinds


def _numbers(value: Any, count: int) -> list[int]:
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    return [int(each) for each in (values * count if len(values) == 1 else values)]


def _time_and_width(kinds: list[str], values: list[Any], missing: Any) -> tuple[Any, Any]:
    """Numbers of the axes that a window goes over, in the order time, width."""
    found = dict(zip(kinds, values, strict=True))
    return found.get("T", missing), found.get("W", missing)


def _windows(size: int, kernel: int, stride: int, sides: Sides, dilation: int) -> int:
    return (size + sum(sides) - dilation * (kernel - 1) - 1) // stride + 1


def _conv(
    recording: Recording,
    x: Traced,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    count: int,
) -> Any:
    view, graph = x.seen, recording.graph
    if len(view.axes) != count + 2:
        raise Refusal(f"expected {count + 2} axes, got {list(view.shape)}")
    kinds = _window_axes(view, count)
    if not view.is_features(1):
        raise Misread(f"has channels along {' and '.join(map(str, view.axes[1]))}")
    parameters = _parameters(weight, bias)
    kernel = parameters["weight"]
    outputs, channels = kernel.shape[0], kernel.shape[1] * groups
    recording.require("channels", view.size(1), channels)
    strides, dilations = _numbers(stride, count), _numbers(dilation, count)
    if isinstance(padding, str):
        whole = [d * (k - 1) for d, k in zip(dilations, kernel.shape[2:], strict=True)]
        sides = [(each // 2, each - each // 2) if padding == "same" else (0, 0) for each in whole]
    else:
        sides = [(each, each) for each in _numbers(padding, count)]
    time, width = _time_and_width(kinds, list(range(count)), None)

    def pick(values: Any, axis: int | None, missing: Any) -> Any:
        return missing if axis is None else values[axis]

    sizes = [
        (pick(kernel.shape[2:], axis, 1), pick(strides, axis, 1), pick(dilations, axis, 1)) for axis in (time, width)
    ]
    pads = [pick(sides, axis, (0, 0)) for axis in (time, width)]
    before, after = (max(0, side) for side in view.pad)
    pads[0] = (pads[0][0] + before, pads[0][1] + after)
    given = int(view.steps or 0) - before - after
    view = replace(view, pad=(view.pad[0] - before, view.pad[1] - after))  # what is cut off is not what is padded
    if width is None:
        wide, columns = 1, 1
    else:
        wide = int(view.size(2 + width))
        columns = _windows(wide, sizes[1][0], sizes[1][1], pads[1], sizes[1][2])
        if columns < 1:
            raise Mismatch(f"has a window wider than {wide}")
    if view.features != channels * wide:
        raise Refusal(f"reads a part of the {view.features} features of a step")
    order = [0, 1, *(2 + axis for axis in (time, width) if axis is not None)]
    steps = view.steps if time is None else _windows(given, sizes[0][0], sizes[0][1], pads[0], sizes[0][2])
    source = graph.plain(view.permute(order))
    graph.require_time(source)
    options = {"in_channels": channels, "out_channels": outputs, "groups": groups, "bias": bias is not None}
    if width is None:
        window = dict(zip(("kernel_size", "stride", "dilation"), sizes[0], strict=True)) | {"padding": pads[0]}
        name = graph.add(Conv1d, (graph.shaped(source, (channels,)),), (outputs,), options | window, parameters)
    else:
        window = {name: (sizes[0][i], sizes[1][i]) for i, name in enumerate(("kernel_size", "stride", "dilation"))}
        shape = (outputs, kernel.shape[1], sizes[0][0], sizes[1][0])
        if time is not None and time > width:
            kernel = kernel.transpose(0, 1, 3, 2)
        parameters["weight"] = kernel.reshape(shape)
        window["padding"] = (pads[0], pads[1])
        source = graph.shaped(source, (channels, wide))
        name = graph.add(Conv2d, (source,), (outputs, columns), options | window, parameters)
    return _windowed(recording, view, name, outputs, columns, steps, order)


def _windowed(
    recording: Recording, view: View, name: str, channels: int, columns: int, steps: Any, order: list[int]
) -> Any:
    """What comes out of a window, under the axes that went in; `order` is that of the value's features."""
    axes = list(view.permute(order).axes)
    axes[1] = (channels,) if channels > 1 else ()
    for place in range(2, len(axes)):
        if axes[place] != ("T",):
            axes[place] = (columns,) if columns > 1 else ()
    result = replace(view.with_value(name, tuple(axes)), steps=steps)
    return recording.tensor(result.permute([order.index(axis) for axis in range(len(order))]))


@function("conv1d")
def _conv1d(
    recording: Recording, x: Traced, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Any:  # fmt: skip
    return _conv(recording, x, weight, bias, stride, padding, dilation, groups, 1)


@function("conv2d")
def _conv2d(
    recording: Recording, x: Traced, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Any:  # fmt: skip
    return _conv(recording, x, weight, bias, stride, padding, dilation, groups, 2)


@function("convolution", "_convolution")
def _convolution(
    recording: Recording, x: Traced, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int, *flags: Any,
) -> Any:  # fmt: skip
    count = len(x.seen.axes) - 2
    if transposed or count not in (1, 2):
        raise Refusal("is no convolution over one or two axes")
    return _conv(recording, x, weight, bias, stride, padding, dilation, groups, count)


def _pool(recording: Recording, x: Traced, kind: Any, kernel: Any, stride: Any, padding: Any, count: int) -> Any:
    view, graph = x.seen, recording.graph
    kinds = _window_axes(view, count)
    kernels, sides = _numbers(kernel, count), _numbers(padding, count)
    strides = kernels if stride in (None, [], ()) else _numbers(stride, count)
    time, width = _time_and_width(kinds, list(range(len(view.axes) - count, len(view.axes))), None)
    values = list(zip(kernels, strides, sides, strict=True))
    over = [_time_and_width(kinds, [each[i] for each in values], (1, 1, 0)[i]) for i in range(3)]
    others = [axis for axis in range(len(view.axes)) if axis not in (time, width)]
    order = [*others, *(axis for axis in (time, width) if axis is not None)]
    moved = view.permute(order)
    wide = 1 if width is None else int(view.size(width))
    columns = _windows(wide, over[0][1], over[1][1], (over[2][1],) * 2, 1)
    if columns < 1:
        raise Mismatch(f"has a window wider than {wide}")
    channels = view.features // wide
    name = graph.shaped(graph.plain(moved), (channels, wide))
    graph.require_time(name)
    options = {"kernel_size": over[0], "stride": over[1], "padding": tuple((each, each) for each in over[2])}
    name = graph.add(kind, (name,), (channels, columns), options)
    axes = list(moved.axes)
    if width is not None:
        axes[-1] = (columns,) if columns > 1 else ()
    steps = view.steps
    if time is not None:
        steps = _windows(int(steps or 0), over[0][0], over[1][0], (over[2][0],) * 2, 1)
    result = replace(moved.with_value(name, tuple(axes)), steps=steps)
    return recording.tensor(result.permute([order.index(axis) for axis in range(len(order))]))


def _max_pool(count: int) -> Any:
    def handler(
        recording: Recording, x: Traced, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, return_indices: bool = False,
    ) -> Any:  # fmt: skip
        if any(each != 1 for each in _numbers(dilation, count)) or ceil_mode or return_indices:
            raise Refusal(f"has dilation={dilation}, ceil_mode={ceil_mode}, return_indices={return_indices}")
        return _pool(recording, x, MaxPool2d, kernel_size, stride, padding, count)

    return handler


def _avg_pool(count: int) -> Any:
    def handler(
        recording: Recording, x: Traced, kernel_size: Any, stride: Any = None, padding: Any = 0,
        ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: Any = None,
    ) -> Any:  # fmt: skip
        if ceil_mode or divisor_override is not None or (any(_numbers(padding, count)) and not count_include_pad):
            raise Refusal(
                f"has ceil_mode={ceil_mode}, count_include_pad={count_include_pad}, divisor_override={divisor_override}"
            )
        return _pool(recording, x, AvgPool2d, kernel_size, stride, padding, count)

    return handler


for _count in (1, 2):
    function(f"max_pool{_count}d")(_max_pool(_count))
    function(f"avg_pool{_count}d")(_avg_pool(_count))


def _adaptive(count: int, mode: str) -> Any:
    def handler(recording: Recording, x: Traced, output_size: Any, return_indices: bool = False) -> Any:
        if return_indices:
            raise Refusal("has return_indices=True")
        sizes = list(output_size) if isinstance(output_size, (tuple, list)) else [output_size] * count
        axes = range(len(x.seen.axes) - count, len(x.seen.axes))
        over = [axis for axis, size in zip(axes, sizes, strict=True) if size == 1]
        for axis, size in zip(axes, sizes, strict=True):
            if size not in (None, 1) and int(size) != int(x.seen.size(axis)):
                raise Refusal(f"has output_size={output_size}; expected 1, or what is there")
        return recording.tensor(reduced(recording, x.seen, over, True, mode))

    return handler


for _count in (1, 2):
    function(f"adaptive_avg_pool{_count}d")(_adaptive(_count, "mean"))
    function(f"adaptive_max_pool{_count}d")(_adaptive(_count, "max"))


@function("layer_norm")
def _layer_norm(
    recording: Recording, x: Traced, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5,
    *flags: Any,
) -> Any:  # fmt: skip
    view, sizes = x.seen, list(normalized_shape)
    axes = range(len(view.axes) - len(sizes), len(view.axes))
    for axis, size in zip(axes, sizes, strict=True):
        if not view.is_features(axis):
            raise Refusal(f"normalises over {' and '.join(map(str, view.axes[axis]))}")
        recording.require("features", view.size(axis), size)
    if view.features != int(np.prod(sizes)):
        raise Refusal(f"normalises a part of the {view.features} features of a step")
    parameters = {n: array(p).ravel() for n, p in (("weight", weight), ("bias", bias)) if p is not None}
    present = {name: name in parameters for name in ("weight", "bias")}
    options = {"features": view.features, "eps": float(eps), **present}
    name = recording.graph.plain(view)
    name = recording.graph.add(LayerNorm, (name,), recording.graph.values[name].features, options, parameters)
    return recording.tensor(view.with_value(name))


@function("F.batch_norm")
def _batch_norm(
    recording: Recording, x: Traced, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: Any = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    if training or running_mean is None:
        raise Refusal("normalises by the statistics of its input: track_running_stats=False, or training")
    view = x.seen
    if not view.is_features(1):
        raise Misread(f"has channels along {' and '.join(map(str, view.axes[1]))}")
    mean, variance = array(running_mean).astype("float64"), array(running_var).astype("float64")
    recording.require("channels", view.size(1), len(mean))
    scale = (1.0 if weight is None else array(weight).astype("float64")) / np.sqrt(variance + eps)
    shift = (0.0 if bias is None else array(bias).astype("float64")) - mean * scale
    shape = [len(mean) if axis == 1 else 1 for axis in range(len(view.axes))]
    vectors = [np.broadcast_to(each.reshape(shape), view.order.shape).ravel() for each in (scale, shift)]
    return recording.tensor(view.with_value(recording.graph.scaled(recording.graph.plain(view), *vectors)))


@function("batch_norm", "cudnn_batch_norm")
def _batch_norm_of_aten(
    recording: Recording, x: Traced, weight: Any, bias: Any, mean: Any, variance: Any, training: bool,
    momentum: Any, eps: float, *flags: Any,
) -> Any:  # fmt: skip
    return _batch_norm(recording, x, mean, variance, weight, bias, training, momentum, eps)


@function("_pack_padded_sequence")
def _pack(recording: Recording, x: Traced, lengths: Any, batch_first: bool) -> Any:
    if not isinstance(lengths, Lengths):
        raise Refusal("packs by lengths that are no argument of the module")
    view = x.seen.permute([1, 0, *range(2, len(x.seen.axes))]) if batch_first else x.seen
    if view.axes[:2] != (("T",), ("B",)):
        raise Refusal(f"packs {'[batch, time' if batch_first else '[time, batch'}, ...], and gets {view.axes}")
    recording.packed = True
    rest = [int(size) for size in view.shape[2:]]
    data = view.reshape([int(view.size(0)) * int(view.size(1)), *rest])
    return recording.tensor(data), recording.tensor(lengths.seen, Lengths)


@function("_pad_packed_sequence")
def _pad_packed(
    recording: Recording, data: Traced, batch_sizes: Any, batch_first: bool, padding_value: float, total_length: Any
) -> Any:
    if padding_value:
        raise Refusal(f"has padding_value={padding_value}; expected 0")
    view = data.seen
    view = view.reshape(
        [int(view.steps or 1), int(Size(view.size(0))) // int(view.steps or 1), *map(int, view.shape[1:])]
    )
    if batch_first:
        view = view.permute([1, 0, *range(2, len(view.axes))])
    return recording.tensor(view), batch_sizes
