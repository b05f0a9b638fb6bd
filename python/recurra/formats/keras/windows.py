"""Keras's convolutions and poolings over time, and what pads and cuts time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...heads import Linear
from ...model import AvgPool2d, Conv1d, Conv2d, MaxPool2d
from . import activations

if TYPE_CHECKING:
    from collections.abc import Callable

    from .builder import Builder, Tensor
    from .layers import Call
    from .source import Layer

    Sides = tuple[int, int]

__all__ = ["LAYERS", "copied", "pooled_width", "require_channels_last"]


def copied(layer: Any, bias: bool | None = None, padding: tuple[Sides, Sides] | None = None) -> Any:
    """A Linear or convolution like this one, but for its parameters."""
    bias = "bias" in layer.state_dict() if bias is None else bias
    if isinstance(layer, Linear):
        return Linear(layer.in_features, layer.out_features, bias=bias, dtype=layer.dtype)
    given = layer.configuration | {"bias": bias}
    if padding is not None:
        given["padding"] = padding[0] if isinstance(layer, Conv1d) else padding
    return type(layer)(**given, dtype=layer.dtype)


def require_channels_last(layer: Layer) -> None:
    """Raises: channels are not the last axis."""
    if layer.config.get("data_format") not in (None, "channels_last"):
        raise layer.refuse(f"data_format: expected 'channels_last', got {layer.config['data_format']!r}")


def _sizes(layer: Layer, option: str, count: int) -> tuple[int, ...]:
    """One or two positive numbers."""
    value = layer.config.get(option)
    values: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value] * count
    if len(values) != count or not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in values):
        raise ValueError(f"{layer}: {option}: expected {count} sizes, got {value!r}")
    return tuple(values)


def _padding(layer: Layer, steps: int | None, kernel: int, stride: int, dilation: int = 1) -> Sides:
    """Before and after, along one axis of so many steps."""
    kind, reach = layer.option("padding", str), dilation * (kernel - 1)
    if kind == "valid":
        return (0, 0)
    if kind == "causal":
        return (reach, 0)
    if kind != "same":
        raise layer.refuse(f"padding: there is no {kind!r} here")
    if stride == 1:
        total = reach
    elif steps is None:
        raise layer.refuse("padding: 'same' with strides depends on the length, which the model leaves open")
    else:
        total = max((-(-steps // stride) - 1) * stride + reach + 1 - steps, 0)
    return (total // 2, total - total // 2)


def _count(steps: int | None, kernel: int, stride: int, padding: Sides, dilation: int = 1) -> int | None:
    """How many windows there are over so many steps."""
    return None if steps is None else max(0, (steps + sum(padding) - dilation * (kernel - 1) - 1) // stride + 1)


# ------------------------------------------------------------------------------------------------------ convolutions


def _conv(b: Builder, call: Call) -> list[Tensor]:
    from .layers import require_one_width

    layer, tensor = call.layer, call.unmasked
    axes = int(layer.kind[-2])
    over_time = tensor.time and not call.inner
    if len(tensor.shape) + over_time != axes + 1 or not tensor.time:
        raise layer.refuse(f"expected {axes + 2} axes with time as the second, got steps of {tensor.shape}")
    require_channels_last(layer)
    kernel = call.array(b, "kernel", axes + 2)
    groups = layer.option("groups", int, default=1)
    size, stride, dilation = (_sizes(layer, o, axes) for o in ("kernel_size", "strides", "dilation_rate"))
    if kernel.shape[:-2] != size or kernel.shape[-2] * groups != tensor.shape[-1]:
        raise ValueError(f"{layer}: expected a kernel of {size} for {tensor.shape[-1]} channels, got {kernel.shape}")
    if axes == 2 and layer.config.get("padding") == "causal":
        raise layer.refuse("padding: there is no 'causal' here")
    # Which of (time, width) the axes are.
    place = [0, 1] if axes == 2 else [0] if over_time else [1]
    extent = [tensor.steps, tensor.shape[0] if len(tensor.shape) == 2 else 1]
    window: dict[str, Any] = {
        "kernel_size": [1, 1],
        "stride": [1, 1],
        "dilation": [1, 1],
        "padding": [(0, 0)] * 2,
    }
    for i, axis in enumerate(place):
        window["kernel_size"][axis], window["stride"][axis], window["dilation"][axis] = size[i], stride[i], dilation[i]
        window["padding"][axis] = _padding(layer, extent[axis], size[i], stride[i], dilation[i])
    own = window["padding"]
    steps = _count(tensor.steps, size[0], stride[0], own[0], dilation[0]) if 0 in place else tensor.steps
    width = _count(extent[1], window["kernel_size"][1], window["stride"][1], own[1], window["dilation"][1])
    weight = np.moveaxis(kernel, (-1, -2), (0, 1))
    source, outer = b.unpadded(b.flat(tensor) if len(tensor.shape) == 1 else b.image(tensor))
    window["padding"] = [(x[0] + y[0], x[1] + y[1]) for x, y in zip(own, outer, strict=True)]
    options: dict[str, Any] = {"groups": groups, "bias": "bias" in layer.weights, "dtype": b.dtype}
    channels = (kernel.shape[-2] * groups, kernel.shape[-1])
    if len(tensor.shape) == 1:
        options |= {name: value[0] for name, value in window.items()}
        conv: Any = Conv1d(channels[0], channels[1], **options)
    else:
        options |= {name: tuple(value) for name, value in window.items()}
        conv = Conv2d(channels[0], channels[1], **options)
        weight = weight if axes == 2 else weight[:, :, None]
    params = {"weight": np.ascontiguousarray(weight)}
    conv.load_state_dict(params | ({"bias": call.array(b, "bias", 1)} if "bias" in layer.weights else {}))
    function = activations.function_of(layer, "activation", b.version)
    made = b.add(conv, [source], f"{layer.name}_conv" if function.steps else layer.name)
    shape = (kernel.shape[-1],) if len(tensor.shape) == 1 else (int(width or 0), kernel.shape[-1])
    tensor = tensor._replace(shape=shape, steps=steps, channels=len(shape) == 2)
    require_one_width(call, tensor, function)
    return [tensor._replace(name=activations.add(b, function, made, layer.name))]


def _identity(b: Builder, tensor: Tensor, kernel: int, place: int, padding: tuple[Sides, Sides]) -> Any:
    """A convolution of each channel alone that takes the frame at `place` of its window."""
    channels = tensor.shape[-1]
    weight = np.zeros((channels, 1, kernel), b.dtype)
    weight[:, :, place] = 1
    options: dict[str, Any] = {"groups": channels, "bias": False, "dtype": b.dtype}
    if len(tensor.shape) == 1:
        conv: Any = Conv1d(channels, channels, kernel, padding=padding[0], **options)
    else:
        conv, weight = Conv2d(channels, channels, (kernel, 1), padding=padding, **options), weight[..., None]
    conv.load_state_dict({"weight": weight})
    return conv


def _ends(layer: Layer, option: str, axes: int) -> list[Sides]:
    """What is added or cut before and after, along each axis."""
    value: Any = layer.config.get(option)
    values: list[Any] = value if isinstance(value, list) else [value] * (2 if axes == 1 else axes)
    values = [values] if axes == 1 else [v if isinstance(v, list) else [v, v] for v in values]
    if len(values) != axes or any(
        len(pair) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in pair)
        for pair in values
    ):
        raise ValueError(f"{layer}: {option}: expected numbers of steps, got {value!r}")
    return [(pair[0], pair[1]) for pair in values]


def _zero_padding(b: Builder, call: Call) -> list[Tensor]:
    """Zeros at the ends, which a convolution behind takes over."""
    layer, tensor = call.layer, call.unmasked
    axes = _require_axes(call, tensor)
    ends = [*_ends(layer, "padding", axes), (0, 0)][:2]
    source = b.flat(tensor) if axes == 1 else b.image(tensor)
    name = b.add(_identity(b, tensor, 1, 0, (ends[0], ends[1])), [source], layer.name)
    b.pads[name] = (source, (ends[0], ends[1]))
    shape = tensor.shape if axes == 1 else (tensor.shape[0] + sum(ends[1]), tensor.shape[1])
    steps = None if tensor.steps is None else tensor.steps + sum(ends[0])
    return [tensor._replace(name=name, shape=shape, steps=steps, channels=axes == 2)]


def _cropping(b: Builder, call: Call) -> list[Tensor]:
    """Steps that a convolution before made of its padding, or others."""
    layer, tensor = call.layer, call.unmasked
    _require_axes(call, tensor)
    (before, after) = _ends(layer, "cropping", 1)[0]
    steps = None if tensor.steps is None else tensor.steps - before - after
    if steps is not None and steps < 1:
        raise ValueError(f"{layer}: cropping: expected less than {tensor.steps} steps, got {before} and {after}")
    conv = b.conv(tensor.name)
    if conv is not None and conv.stride[0] == 1 and conv.padding[0][0] >= before and conv.padding[0][1] >= after:
        shorter = (conv.padding[0][0] - before, conv.padding[0][1] - after)
        made = copied(conv, padding=(shorter, conv.padding[1]))
        made.load_state_dict(conv.state_dict())
        name = b.add(made, b.nodes[tensor.name].inputs or (), layer.name)
    else:
        whole = _identity(b, tensor, before + after + 1, before, ((0, 0), (0, 0)))
        name = b.add(whole, [b.flat(tensor)], layer.name)
    return [tensor._replace(name=name, steps=steps)]


def _require_axes(call: Call, tensor: Tensor) -> int:
    """How many axes a layer named ...1D or ...2D works on.

    Raises:
        UnsupportedModel: the first of them is not time.
    """
    axes = int(call.layer.kind[-2])
    if not tensor.time or call.inner or len(tensor.shape) != axes:
        raise call.layer.refuse(f"expected {axes + 2} axes with time as the second, got steps of {tensor.shape}")
    require_channels_last(call.layer)
    return axes


# ---------------------------------------------------------------------------------------------------------- poolings


def _pooling(b: Builder, call: Call) -> list[Tensor]:
    layer, tensor = call.layer, call.unmasked
    axes = int(layer.kind[-2])
    if not tensor.time or len(tensor.shape) + (not call.inner) != axes + 1:
        raise layer.refuse(f"expected {axes + 2} axes with time as the second, got steps of {tensor.shape}")
    require_channels_last(layer)
    size = _sizes(layer, "pool_size", axes)
    stride = size if layer.config.get("strides") is None else _sizes(layer, "strides", axes)
    place = [0, 1] if axes == 2 else [1] if call.inner else [0]
    extent = [tensor.steps, tensor.shape[0] if len(tensor.shape) == 2 else 1]
    kernel, strides, padding, count = [1, 1], [1, 1], [(0, 0), (0, 0)], list(extent)
    for i, axis in enumerate(place):
        kernel[axis], strides[axis] = size[i], stride[i]
        padding[axis] = _padding(layer, extent[axis], size[i], stride[i])
        count[axis] = _count(extent[axis], size[i], stride[i], padding[axis])
    mean = layer.kind.startswith("Average")
    if mean and padding != [(0, 0), (0, 0)]:
        raise layer.refuse("padding: expected 'valid', for a mean that leaves padding out is not here, got 'same'")
    pool: Any = (AvgPool2d if mean else MaxPool2d)((kernel[0], kernel[1]), (strides[0], strides[1]), tuple(padding))
    if len(tensor.shape) == 1:
        name = b.add(pool, [b.flat(tensor)], f"{layer.name}_pool")
        return [tensor._replace(name=b.reshape(name, tensor.shape, layer.name), steps=count[0])]
    name = b.add(pool, [b.image(tensor)], layer.name)
    shape = (int(count[1] or 0), tensor.shape[1])
    return [tensor._replace(name=name, shape=shape, steps=count[0], channels=True)]


def pooled_width(b: Builder, tensor: Tensor, mean: bool, name: str) -> str:
    """The node of the mean or maximum over the width of each step."""
    window = (1, tensor.shape[0])
    pooled = b.add(AvgPool2d(window) if mean else MaxPool2d(window), [b.image(tensor)], f"{name}_width")
    return b.reshape(pooled, tensor.shape[1:], f"{name}_channels")


LAYERS: dict[str, Callable[[Builder, Call], list[Tensor]]] = {
    "Conv1D": _conv,
    "Conv2D": _conv,
    "ZeroPadding1D": _zero_padding,
    "ZeroPadding2D": _zero_padding,
    "Cropping1D": _cropping,
}
LAYERS |= {f"{kind}Pooling{axes}D": _pooling for kind in ("Average", "Max") for axes in (1, 2)}
