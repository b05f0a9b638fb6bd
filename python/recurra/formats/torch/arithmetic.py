"""Functions of torch that compute each number from those at the same place, or reduce axes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...model import Add, AvgPool2d, Dropout, MaxPool2d, Multiply, Softmax, Sqrt
from .moves import pooled
from .tensor import FUNCTIONS, Recording, Traced, function
from .view import Refusal, View

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["reduced"]


def _alike(recording: Recording, one: View, other: View) -> tuple[View, View]:
    """Both with the axes of the result, as torch broadcasts."""
    while len(one.axes) < len(other.axes):
        one = one.unsqueeze(0)
    while len(other.axes) < len(one.axes):
        other = other.unsqueeze(0)
    if one.steps is not None and other.steps is not None and int(one.steps) != int(other.steps):
        raise Refusal(f"takes sequences of different lengths: {list(one.shape)} and {list(other.shape)}")
    for axis in range(len(one.axes)):
        one, other = _stretched(one, other, axis), _stretched(other, one, axis)
        if one.axes[axis] != other.axes[axis]:
            if not one.is_features(axis) or not other.is_features(axis):
                raise Refusal(f"takes values that do not go together: {list(one.shape)} and {list(other.shape)}")
            recording.require("features", one.size(axis), other.size(axis))
            axes = (*one.axes[:axis], (one.size(axis),), *one.axes[axis + 1 :])
            one, other = replace(one, axes=axes), replace(other, axes=axes)
    steps = other.steps if one.steps is None else one.steps
    return replace(one, steps=steps), replace(other, steps=steps)


def _stretched(view: View, to: View, axis: int) -> View:
    """With the axis of another view, if its own is of size 1."""
    if view.axes[axis] or not to.axes[axis]:
        return view
    if not to.is_features(axis):
        if to.axes[axis] != ("T",) or view.steps is not None:
            raise Refusal("takes values with and without a batch, or of different times, together")
        return replace(view, axes=(*view.axes[:axis], ("T",), *view.axes[axis + 1 :]))
    counts = [to.order.shape[axis] if each == axis else size for each, size in enumerate(view.order.shape)]
    axes = (*view.axes[:axis], to.axes[axis], *view.axes[axis + 1 :])
    return replace(view, axes=axes, order=np.broadcast_to(view.order, counts))


def _together(recording: Recording, kind: Any, one: Traced, other: Traced) -> Any:
    """Add or Multiply of two values."""
    first, second = _alike(recording, one.seen, other.seen)
    names = [recording.graph.plain(first), recording.graph.plain(second)]
    name = recording.graph.add(kind, names, recording.graph.values[names[0]].features)
    return recording.tensor(first.with_value(name))


def _number(value: Any, features: int) -> float | None:
    """A constant that is one number, for all of several features."""
    if isinstance(value, (int, float)):
        return float(value)  # of a Size it is refused
    if isinstance(value, torch.Tensor) and value.numel() == 1 and (features > 1 or not value.dim()):
        return float(value)
    return None


def _with_constant(recording: Recording, x: Traced, weight: Any, bias: Any) -> Any:
    """x times a constant plus another."""
    numbers = _number(weight, x.seen.features), _number(bias, x.seen.features)
    if numbers[0] is not None and numbers[1] is not None:
        name = recording.graph.plain(x.seen)
        return recording.tensor(x.seen.with_value(recording.graph.affine(name, numbers[0], numbers[1])))
    view = x.seen
    tensors = [torch.as_tensor(each, dtype=torch.float64).detach() for each in (weight, bias)]
    for tensor in tensors:
        while len(view.axes) < tensor.dim():
            view = view.unsqueeze(0)
        for axis, size in enumerate(tensor.shape, len(view.axes) - tensor.dim()):
            if size > 1 and not view.axes[axis]:
                view = view.expand([size if each == axis else -1 for each in range(len(view.axes))])
            elif size > 1 and not view.is_features(axis):
                raise Refusal(f"takes a constant of shape {list(tensor.shape)} with {list(view.shape)}")
            elif size > 1:
                recording.require("features", view.size(axis), size)
    arrays = [np.broadcast_to(tensor.numpy(), view.order.shape).ravel() for tensor in tensors]
    name = recording.graph.scaled(recording.graph.plain(view), *arrays)
    return recording.tensor(view.with_value(name))


def _scaled(other: Any, alpha: float) -> Any:
    return other if alpha == 1 else other * alpha


@function("add")
def _add(recording: Recording, x: Any, other: Any, *, alpha: float = 1) -> Any:
    if isinstance(other, Traced):
        other = _scaled(other, alpha)
        return _together(recording, Add, x, other) if isinstance(x, Traced) else _with_constant(recording, other, 1, x)
    return _with_constant(recording, x, 1, _scaled(other, alpha))


@function("radd")
def _radd(recording: Recording, x: Any, other: Any) -> Any:
    return _add(recording, other, x)


@function("sub", "subtract")
def _sub(recording: Recording, x: Any, other: Any, *, alpha: float = 1) -> Any:
    return _add(recording, x, _scaled(other, -alpha))


@function("rsub")
def _rsub(recording: Recording, x: Any, other: Any, alpha: float = 1) -> Any:
    return _add(recording, other, _scaled(x, -alpha))


@function("mul", "multiply")
def _mul(recording: Recording, x: Any, other: Any) -> Any:
    if isinstance(x, Traced) and isinstance(other, Traced):
        return _together(recording, Multiply, x, other)
    one, constant = (x, other) if isinstance(x, Traced) else (other, x)
    return _with_constant(recording, one, constant, 0)


@function("rmul")
def _rmul(recording: Recording, x: Any, other: Any) -> Any:
    return _mul(recording, x, other)


@function("div", "true_divide", "divide", "truediv")
def _div(recording: Recording, x: Any, other: Any, *, rounding_mode: Any = None) -> Any:
    if rounding_mode is not None or isinstance(other, Traced):
        raise Refusal("divides by a value, or rounds")
    divisor = other.double() if isinstance(other, torch.Tensor) else float(other)
    return _with_constant(recording, x, 1 / divisor, 0)


@function("neg", "negative")
def _neg(recording: Recording, x: Traced) -> Any:
    return _with_constant(recording, x, -1, 0)


@function("pow", "square")
def _pow(recording: Recording, x: Any, exponent: Any = 2) -> Any:
    if exponent not in (0.5, 2, 3) or not isinstance(x, Traced):
        raise Refusal(f"takes a power of {exponent}; expected 0.5, 2 or 3")
    if exponent == 0.5:
        return _sqrt(recording, x)
    square = _mul(recording, x, x)
    return square if exponent == 2 else _mul(recording, square, x)


@function("sqrt")
def _sqrt(recording: Recording, x: Traced) -> Any:
    name = recording.graph.plain(x.seen)
    name = recording.graph.add(Sqrt, (name,), recording.graph.values[name].features)
    return recording.tensor(x.seen.with_value(name))


def _applied(recording: Recording, x: Traced, function: str, alpha: Any = None, beta: Any = None) -> Any:
    """An activation that recurra has."""
    name = recording.graph.activation(recording.graph.plain(x.seen), function, alpha, beta)
    return recording.tensor(x.seen.with_value(name))


def _same_name(name: str) -> Callable[..., Any]:
    return lambda recording, x, *inplace, **kwargs: _applied(recording, x, name)


@function("tanh")
def _tanh(recording: Recording, x: Traced) -> Any:
    return recording.tensor(x.seen.with_value(recording.graph.tanh(recording.graph.plain(x.seen))))


for _name in ("sigmoid", "relu", "softsign"):
    function(_name)(_same_name(_name))


@function("leaky_relu")
def _leaky_relu(recording: Recording, x: Traced, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    return _applied(recording, x, "leaky_relu", float(negative_slope))


@function("prelu")
def _prelu(recording: Recording, x: Traced, weight: Any) -> Any:
    if weight.numel() != 1:
        raise Refusal(f"has a slope for each of {weight.numel()} channels; expected one slope")
    return _applied(recording, x, "leaky_relu", float(weight))


@function("elu")
def _elu(
    recording: Recording, x: Traced, alpha: float = 1.0, scale: Any = 1, input_scale: Any = 1, inplace: bool = False
) -> Any:
    if input_scale != 1:
        raise Refusal(f"has input_scale={input_scale}; expected 1")
    scale = 1 if isinstance(scale, bool) else scale  # of torch.nn.functional it is `inplace`
    return (
        _with_constant(recording, _applied(recording, x, "elu", float(alpha)), scale, 0)
        if scale != 1
        else (_applied(recording, x, "elu", float(alpha)))
    )


@function("selu")
def _selu(recording: Recording, x: Traced, inplace: bool = False) -> Any:
    # Klambauer et al. 2017, arXiv:1706.02515
    return _with_constant(recording, _applied(recording, x, "elu", 1.6732632423543772), 1.0507009873554805, 0)


@function("celu")
def _celu(recording: Recording, x: Traced, alpha: float = 1.0, inplace: bool = False) -> Any:
    if alpha == 1:
        return _applied(recording, x, "elu", 1.0)
    smaller = _with_constant(recording, x, 1 / alpha, 0)
    return _with_constant(recording, _applied(recording, smaller, "elu", 1.0), alpha, 0)


@function("silu", "swish")
def _silu(recording: Recording, x: Traced, inplace: bool = False) -> Any:
    return _mul(recording, x, _applied(recording, x, "sigmoid"))


@function("mish")
def _mish(recording: Recording, x: Traced, inplace: bool = False) -> Any:
    return _mul(recording, x, _tanh(recording, _applied(recording, x, "softplus")))


@function("gelu")
def _gelu(recording: Recording, x: Traced, approximate: str = "none") -> Any:
    if approximate != "tanh":
        raise Refusal("has approximate='none', the error function, which no operation computes; expected 'tanh'")
    # Hendrycks, Gimpel 2016, arXiv:1606.08415
    root = math.sqrt(2 / math.pi)
    cube = _with_constant(recording, _pow(recording, x, 3), root * 0.044715, 0)
    inner = _add(recording, _with_constant(recording, x, root, 0), cube)
    return _mul(recording, x, _with_constant(recording, _applied(recording, inner, "scaled_tanh", 0.5, 1.0), 1, 0.5))


@function("softplus")
def _softplus(recording: Recording, x: Traced, beta: float = 1.0, threshold: float = 20.0) -> Any:
    if threshold < 20:
        raise Refusal(f"has threshold={threshold}, below which it is another function; expected 20")
    if beta == 1:
        return _applied(recording, x, "softplus")
    larger = _with_constant(recording, x, beta, 0)
    return _with_constant(recording, _applied(recording, larger, "softplus"), 1 / beta, 0)


@function("log_sigmoid", "logsigmoid")
def _log_sigmoid(recording: Recording, x: Traced) -> Any:
    return _neg(recording, _applied(recording, _neg(recording, x), "softplus"))


@function("tanhshrink")
def _tanhshrink(recording: Recording, x: Traced) -> Any:
    return _sub(recording, x, _tanh(recording, x))


@function("hardsigmoid")
def _hardsigmoid(recording: Recording, x: Traced, inplace: bool = False) -> Any:
    return _applied(recording, x, "hard_sigmoid", 1 / 6, 0.5)


@function("hardswish")
def _hardswish(recording: Recording, x: Traced, inplace: bool = False) -> Any:
    return _mul(recording, x, _hardsigmoid(recording, x))


@function("hardtanh")
def _hardtanh(
    recording: Recording, x: Traced, min_val: float = -1.0, max_val: float = 1.0, inplace: Any = False
) -> Any:
    width = float(max_val) - float(min_val)
    name = recording.graph.hard_sigmoid(recording.graph.plain(x.seen), 1 / width, (0.0 - float(min_val)) / width)
    if (width, min_val) != (1, 0):
        name = recording.graph.affine(name, width, float(min_val))
    return recording.tensor(x.seen.with_value(name))


@function("relu6")
def _relu6(recording: Recording, x: Traced, inplace: bool = False) -> Any:
    return _hardtanh(recording, x, 0.0, 6.0)


@function("clamp", "clip", "clamp_min")
def _clamp(recording: Recording, x: Traced, min: Any = None, max: Any = None) -> Any:
    if min == 0 and max is None:
        return _applied(recording, x, "relu")
    if not isinstance(min, (int, float)) or not isinstance(max, (int, float)):
        raise Refusal(f"has min={min}, max={max}; expected two numbers, or min=0")
    return _hardtanh(recording, x, min, max)


@function("threshold", "_threshold")
def _threshold(recording: Recording, x: Traced, threshold: float, value: float, inplace: bool = False) -> Any:
    if value != 0 or threshold < 0:
        raise Refusal(f"has threshold={threshold}, value={value}; expected value=0")
    return _applied(recording, x, "thresholded_relu", float(threshold))


@function("glu")
def _glu(recording: Recording, x: Traced, dim: int = -1) -> Any:
    half = int(x.seen.size(x.seen.axis(dim))) // 2
    one, other = FUNCTIONS["split"](recording, x, half, dim)
    return _mul(recording, one, _applied(recording, other, "sigmoid"))


@function("dropout", "feature_dropout", "alpha_dropout", "dropout1d", "dropout2d")
def _dropout(recording: Recording, x: Traced, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    if training:
        raise Refusal("is at work although the module is in evaluation; pass training=self.training")
    if recording.graph.operation != "dropout" or not p:
        return x
    name = recording.graph.plain(x.seen)
    name = recording.graph.add(Dropout, (name,), recording.graph.values[name].features, {"p": float(p)})
    return recording.tensor(x.seen.with_value(name))


def _softmax(log: bool) -> Callable[..., Any]:
    def handler(recording: Recording, x: Traced, dim: Any = None, *args: Any, **kwargs: Any) -> Any:
        if dim is None:
            raise Refusal("has no dim")
        axis = x.seen.axis(int(dim))
        others = x.seen.features // x.seen.order.shape[axis]
        if not x.seen.is_features(axis) or others != 1:
            raise Refusal(f"has dim={dim}, which is not all features of a step")
        name = recording.graph.plain(x.seen)
        name = recording.graph.add(Softmax, (name,), recording.graph.values[name].features, {"log": log})
        return recording.tensor(x.seen.with_value(name))

    return handler


function("softmax", "_softmax")(_softmax(False))
function("log_softmax", "_log_softmax")(_softmax(True))


def reduced(recording: Recording, view: View, dims: Any, keepdim: bool, mode: str) -> View:
    """The mean or the largest over axes of features and of time."""
    axes = sorted(view.axis(int(dim)) for dim in ([dims] if isinstance(dims, int) else dims))
    graph = recording.graph
    for axis in axes:
        if view.is_features(axis) and view.axes[axis]:
            last = [each for each in range(len(view.axes)) if each != axis]
            moved = view.permute([*last, axis])
            width = moved.order.shape[-1]
            channels = moved.features // width
            name = graph.shaped(graph.plain(moved), (channels, width))
            kind = AvgPool2d if mode == "mean" else MaxPool2d
            options = {"kernel_size": (1, width), "stride": (1, width), "padding": ((0, 0), (0, 0))}
            if not graph.values[name].time:
                raise Refusal("reduces features of what has no time")
            name = graph.add(kind, (name,), (channels, 1), options)
            view = view.with_value(name, (*view.axes[:axis], (), *view.axes[axis + 1 :]))
        elif view.axes[axis] == ("T",):
            view = pooled(recording, view, axis, mode).unsqueeze(axis)
        elif view.axes[axis]:
            raise Refusal(f"reduces axis {axis}, which is {' and '.join(map(str, view.axes[axis]))}")
    return view if keepdim else view.squeeze(axes) if axes else view


@function("mean")
def _mean(recording: Recording, x: Traced, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    if dim is None:
        raise Refusal("takes the mean over everything")
    return recording.tensor(reduced(recording, x.seen, dim, keepdim, "mean"))


@function("sum")
def _sum(recording: Recording, x: Traced, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    axes = [] if dim is None else [x.seen.axis(int(d)) for d in ([dim] if isinstance(dim, int) else dim)]
    if not axes or not all(x.seen.is_features(axis) for axis in axes):
        raise Refusal("sums over time or batch; expected features")
    count = math.prod(x.seen.order.shape[axis] for axis in axes)
    result = recording.tensor(reduced(recording, x.seen, axes, keepdim, "mean"))
    return _with_constant(recording, result, count, 0)


@function("amax")
def _amax(recording: Recording, x: Traced, dim: Any = (), keepdim: bool = False) -> Any:
    return recording.tensor(reduced(recording, x.seen, dim, keepdim, "max"))


@function("max")
def _max(recording: Recording, x: Traced, dim: Any = None, keepdim: bool = False) -> Any:
    if not isinstance(dim, int):
        raise Refusal("takes the largest of everything, or of two values")
    values = recording.tensor(reduced(recording, x.seen, dim, keepdim, "max"))
    return torch.return_types.max((values, Indices()))  # type: ignore[arg-type,unused-ignore]


class Indices:
    """Where the largest value is, which no operation says; anything done with it fails."""

    def __getattr__(self, name: str) -> Any:
        raise Refusal("uses the indices of the largest values")
