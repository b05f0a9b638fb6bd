"""Operators that compute, but for recurrent ones and windows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...activation import Activation
from ...heads import Linear
from ...model import Add, Conv2d, LayerNorm, Multiply, Scale, Softmax, Sqrt
from ..unsupported import UnsupportedModel
from .folding import checked_axis, options_of
from .recurrent import ACTIVATIONS
from .shapes import aligned, pooled, require_tensor
from .tensor import Atom, Axis, Tensor, count
from .windows import reduced_features

if TYPE_CHECKING:
    from ..._arrays import Array
    from .builder import Builder
    from .graph import Node

__all__ = ["OPERATORS"]


def _applied(builder: Builder, x: Tensor, layer: Any, *more: str) -> Tensor:
    """What a layer that keeps shapes makes of a tensor."""
    source = builder.add(layer, x.source, *more)
    return replace(x, source=source, value=builder.values[source])


def _scaled(builder: Builder, x: Tensor, weight: Any, bias: Any) -> Tensor:
    """x * weight + bias, with constants that broadcast to its axes."""
    arrays = [np.asarray(each, np.float64) for each in (weight, bias)]
    rank = max(x.rank, *(array.ndim for array in arrays))
    x = x.with_axes([()] * (rank - x.rank) + list(x.axes))
    arrays = [array.reshape((1,) * (rank - array.ndim) + array.shape) for array in arrays]
    for axis in range(rank):
        size = max(array.shape[axis] for array in arrays)
        if not x.is_features(axis):
            for i, array in enumerate(arrays):
                if not (array == array.take([0], axis)).all():
                    raise UnsupportedModel(f"expected constants that are the same along {x.shown(axis)}")
                arrays[i] = array.take([0], axis)
        elif not x.axes[axis] and size > 1:
            if size * x.value.size > 1 << 20:
                raise UnsupportedModel(f"a constant of shape {arrays[0].shape} is too large")
            x = builder.selected(x, axis, [0] * size)
        elif size not in (1, x.shape[axis]):
            raise UnsupportedModel(f"expected a constant of size 1 or {x.shape[axis]} in axis {axis}, got {size}")
    layer = Scale(x.value.size, dtype=builder.dtype)
    parameters = [_flat(x, array).astype(builder.dtype) for array in arrays]
    layer.load_state_dict(dict(zip(("weight", "bias"), parameters, strict=True)))
    return _applied(builder, x, layer)


def _flat(x: Tensor, array: Array) -> Array:
    """One number for each of the flattened features."""
    shape: list[int] = []
    atoms: list[Atom] = []
    for axis, own in enumerate(x.axes):
        if not x.is_features(axis):
            continue  # of size 1
        sizes = [atom.size for atom in x.atoms(axis)]
        shape += sizes if array.shape[axis] > 1 or not own else [1] * len(sizes)
        atoms += x.atoms(axis)
    array = array.reshape(shape).transpose([atoms.index(atom) for atom in x.order])
    return np.broadcast_to(array, [atom.size for atom in x.order]).reshape(-1).copy()


def _constant(value: Any, what: str) -> Array:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise UnsupportedModel(f"{what}: expected constant numbers")
    return value


def _arithmetic(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    a, b = inputs
    op = node.op
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        a, b = aligned(builder, [require_tensor(a), require_tensor(b)])
        if op == "Div":
            raise UnsupportedModel("B: expected a constant")
        if op == "Sub":
            b = _scaled(builder, b, -1.0, 0.0)
        return [_combined(builder, Multiply() if op == "Mul" else Add(), [a, b])]
    if isinstance(a, Tensor):
        x, c = require_tensor(a), _constant(b, "B").astype(np.float64)
        if op == "Div" and not c.all():
            raise UnsupportedModel("B: expected no zeros")
        weight, bias = {"Add": (1.0, c), "Sub": (1.0, -c), "Mul": (c, 0.0)}.get(op) or (1 / c, 0.0)
        return [_scaled(builder, x, weight, bias)]
    x, c = require_tensor(b), _constant(a, "A")
    if op == "Div":
        raise UnsupportedModel("A: expected what depends on an input, got a constant")
    weight, bias = {"Add": (1.0, c), "Sub": (-1.0, c), "Mul": (c, 0.0)}[op]
    return [_scaled(builder, x, weight, bias)]


def _combined(builder: Builder, layer: Any, tensors: list[Tensor]) -> Tensor:
    source = builder.add(layer, *(tensor.source for tensor in tensors))
    first = tensors[0]
    axes: list[Axis] = [next((t.axes[i] for t in tensors if t.axes[i]), ()) for i in range(first.rank)]
    order = tuple(factor for axis in axes for factor in axis if isinstance(factor, Atom))
    time = next((tensor.time for tensor in tensors if tensor.time is not None), None)
    return Tensor(source, builder.values[source], order, tuple(axes), time)


def _sum(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    if len(inputs) == 1:
        return inputs
    return [_combined(builder, Add(), aligned(builder, [require_tensor(each) for each in inputs]))]


def _activation(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    x = require_tensor(inputs[0], "X")
    name = ACTIVATIONS[node.op.casefold()]
    own: dict[str, float] = {}
    if name in ("leaky_relu", "elu", "thresholded_relu", "hard_sigmoid"):
        own = {parameter: node.get(parameter) for parameter in ("alpha", "beta") if parameter in node.attributes}
    return [_applied(builder, x, Activation(name, **own))]


def _clip(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    x = require_tensor(inputs[0])
    limits = []
    for position, name, default in ((1, "min", -math.inf), (2, "max", math.inf)):
        given = inputs[position] if position < len(inputs) else None
        value = node.get(name, default) if given is None else _constant(given, name).item()
        limits.append(value if abs(value) < np.finfo(np.float32).max else math.copysign(math.inf, value))
    low, high = limits
    if not low < high:
        raise UnsupportedModel(f"min: expected less than max, got {low} and {high}")
    return [_clipped(builder, x, low, high)]


def _clipped(builder: Builder, x: Tensor, low: float, high: float) -> Tensor:
    relu = Activation("relu")
    if math.isinf(low) and math.isinf(high):
        return x
    if low == 0 and math.isinf(high):
        return _applied(builder, x, relu)
    if math.isinf(high):
        return _scaled(builder, _applied(builder, _scaled(builder, x, 1.0, -low), relu), 1.0, low)
    if math.isinf(low):
        return _scaled(builder, _applied(builder, _scaled(builder, x, -1.0, high), relu), -1.0, high)
    width = high - low
    inner = _applied(builder, x, Activation("hard_sigmoid", 1 / width, -low / width))
    return inner if (low, high) == (0, 1) else _scaled(builder, inner, width, low)


def _product(builder: Builder, x: Tensor, gate: Tensor) -> Tensor:
    return _applied(builder, x, Multiply(), gate.source)


def _composed(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    """Activations that are made of others."""
    x, op = require_tensor(inputs[0], "X"), node.op
    if op == "HardSwish":
        return [_product(builder, x, _applied(builder, x, Activation("hard_sigmoid", 1 / 6, 0.5)))]
    if op == "Swish":
        alpha = node.get("alpha", 1.0)
        inner = x if alpha == 1 else _scaled(builder, x, alpha, 0.0)
        return [_product(builder, x, _applied(builder, inner, Activation("sigmoid")))]
    if op == "Mish":
        inner = _applied(builder, x, Activation("softplus"))
        return [_product(builder, x, _applied(builder, inner, Activation("tanh")))]
    if op == "Selu":
        alpha, gamma = node.get("alpha", 1.67326319217681884765625), node.get("gamma", 1.05070102214813232421875)
        return [_scaled(builder, _applied(builder, x, Activation("elu", alpha)), gamma, 0.0)]
    if op == "Celu":
        alpha = node.get("alpha", 1.0)
        return [_scaled(builder, _applied(builder, _scaled(builder, x, 1 / alpha, 0.0), Activation("elu")), alpha, 0.0)]
    if op == "Neg":
        return [_scaled(builder, x, -1.0, 0.0)]
    positive = _applied(builder, x, Activation("relu"))
    negative = _applied(builder, _scaled(builder, x, -1.0, 0.0), Activation("relu"))
    if op == "PRelu":
        slope = _constant(inputs[1], "slope")
        if slope.size == 1:
            return [_applied(builder, x, Activation("leaky_relu", float(slope.item())))]
        negative = _scaled(builder, negative, -slope.astype(np.float64), 0.0)
    return [_applied(builder, positive, Add(), negative.source)]  # Abs, PRelu


def _extreme(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    """max(a, b) = b + relu(a - b), min(a, b) = b - relu(b - a)."""
    if len(inputs) != 2:
        raise UnsupportedModel(f"expected two inputs, got {len(inputs)}")
    sign = 1.0 if node.op == "Max" else -1.0
    a, b = inputs if isinstance(inputs[0], Tensor) else inputs[::-1]
    a = require_tensor(a)
    if not isinstance(b, Tensor):
        b = _constant(b, "input").astype(np.float64)
        inner = _applied(builder, _scaled(builder, a, sign, -sign * b), Activation("relu"))
        return [_scaled(builder, inner, sign, b)]
    a, b = aligned(builder, [a, require_tensor(b)])
    difference = [_scaled(builder, a, sign, 0.0), _scaled(builder, b, -sign, 0.0)]
    over = _applied(builder, _combined(builder, Add(), difference), Activation("relu"))
    return [_combined(builder, Add(), [b, over if sign > 0 else _scaled(builder, over, -1.0, 0.0)])]


def _power(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    x, exponent = require_tensor(inputs[0], "X"), _constant(inputs[1], "Y")
    if exponent.size != 1 or exponent.item() not in (0.5, 1, 2, 3):
        raise UnsupportedModel("Y: expected 0.5, 1, 2 or 3")
    if exponent.item() == 0.5:
        return [_applied(builder, x, Sqrt())]
    times = int(exponent.item())
    return [x if times == 1 else _applied(builder, x, Multiply(), *[x.source] * (times - 1))]


def _contracted(builder: Builder, x: Tensor, axis: int, weight: Array, bias: Array | None) -> Tensor:
    """The features of one axis multiplied by weight [N, K]; they stay in that axis."""
    own = list(x.atoms(axis))
    outputs, inputs = weight.shape
    if 0 in weight.shape or count(own) != inputs:
        raise UnsupportedModel(f"B: expected weights for {count(own)} features, got {weight.shape[::-1]}")
    rest = [atom for atom in x.order if atom not in own]
    parameters = {"weight": weight} | ({} if bias is None else {"bias": bias})
    if rest:
        if x.time is None:
            raise UnsupportedModel("A: expected a sequence or features in one axis alone")
        source, _ = builder.shaped(x, own, rest)
        layer: Any = Conv2d(inputs, outputs, 1, bias=bias is not None, dtype=builder.dtype, seed=0)
        parameters["weight"] = weight[:, :, None, None]
    else:
        source, _ = builder.shaped(x, own)
        layer = Linear(inputs, outputs, bias is not None, dtype=builder.dtype, seed=0)
    layer.load_state_dict({name: np.ascontiguousarray(array, builder.dtype) for name, array in parameters.items()})
    source = builder.add(layer, source)
    new = (Atom(outputs),) if outputs > 1 else ()
    axes = [*x.axes[:axis], new, *x.axes[axis + 1 :]]
    return Tensor(source, builder.values[source], (*new, *rest), tuple(axes), x.time)


def _matmul(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    a, b = inputs
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        raise UnsupportedModel("B: expected constant weights, got what depends on an input")
    x, weight = (a, b) if isinstance(a, Tensor) else (b, a)
    x, weight = require_tensor(x, "A"), _constant(weight, "B")
    while weight.ndim > 2 and weight.shape[0] == 1 and weight.ndim <= x.rank:
        weight = weight[0]
    if weight.ndim != 2 or x.rank < 2:
        raise UnsupportedModel(f"B: expected weights of two axes, got {weight.ndim}")
    if isinstance(a, Tensor):
        return [_contracted(builder, x, x.rank - 1, weight.T, None)]
    return [_contracted(builder, x, x.rank - 2, weight, None)]


def _gemm(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    x, weight = require_tensor(inputs[0], "A"), _constant(inputs[1], "B")
    if x.rank != 2 or weight.ndim != 2:
        raise UnsupportedModel("A: expected two axes")
    if node.get("transA", 0):
        x = x.with_axes(list(x.axes[::-1]))
    weight = weight if node.get("transB", 0) else weight.T
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    c = inputs[2] if len(inputs) > 2 else None
    plain = (
        c is not None
        and isinstance(c, np.ndarray)
        and c.size == weight.shape[0]
        and c.ndim <= 2
        and c.shape[-1] == c.size
    )
    if alpha != 1:
        weight = weight.astype(np.float64) * alpha
    bias = None
    if c is not None and plain:
        bias = c.reshape(-1) if beta == 1 else c.reshape(-1).astype(np.float64) * beta
    result = _contracted(builder, x, 1, weight, bias)
    if c is not None and not plain:
        if isinstance(c, Tensor):
            c = _scaled(builder, require_tensor(c, "C"), beta, 0.0) if beta != 1 else require_tensor(c, "C")
            return [_combined(builder, Add(), aligned(builder, [result, c]))]
        return [_scaled(builder, result, 1.0, _constant(c, "C").astype(np.float64) * beta)]
    return [result]


def _batch_norm(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    x = require_tensor(inputs[0], "X")
    if node.get("training_mode", 0) or any(node.outputs[1:]):
        raise UnsupportedModel("training_mode: expected 0")
    if node.get("spatial", 1) != 1:
        raise UnsupportedModel("spatial: expected 1")
    scale, shift, mean, variance = (_constant(each, "scale, B, mean, var").astype(np.float64) for each in inputs[1:5])
    factor = scale / np.sqrt(variance + node.get("epsilon", 1e-5))
    shape = [1] * x.rank
    shape[1 if x.rank > 1 else 0] = -1
    return [_scaled(builder, x, factor.reshape(shape), (shift - mean * factor).reshape(shape))]


def _sqrt(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    return [_applied(builder, require_tensor(inputs[0], "X"), Sqrt())]


def _all_features(x: Tensor, axes: range | list[int]) -> None:
    """Refuse what normalises over anything but all features of a step."""
    for axis in axes:
        x.atoms(axis)
    if any(isinstance(f, Atom) for axis in range(x.rank) if axis not in axes for f in x.axes[axis]):
        raise UnsupportedModel("axis: expected all features of a step")


def _softmax(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    x = require_tensor(inputs[0])
    axis = checked_axis(node.get("axis", 1 if node.opset < 13 else -1), x.rank)
    _all_features(x, range(axis, x.rank) if node.opset < 13 else [axis])
    return [_applied(builder, x, Softmax(node.op == "LogSoftmax"))]


def _layer_norm(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    x = require_tensor(inputs[0], "X")
    if any(node.outputs[1:]):
        raise UnsupportedModel("Mean: expected one output")
    given = node.get("axes") or range(checked_axis(node.get("axis", -1), x.rank), x.rank)
    _all_features(x, [checked_axis(axis, x.rank) for axis in given])
    parts = {name: array for name, array in zip(("weight", "bias"), inputs[1:], strict=False) if array is not None}
    present = {name: name in parts for name in ("weight", "bias")}
    layer = LayerNorm(x.value.size, node.get("epsilon", 1e-5), **present, dtype=builder.dtype)
    parameters = {}
    for name, array in parts.items():
        array = _constant(array, name)
        array = array.reshape((1,) * (x.rank - array.ndim) + array.shape)
        parameters[name] = _flat(x, array).astype(builder.dtype)
    layer.load_state_dict(parameters)
    return [_applied(builder, x, layer)]


def _reduce(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    x = require_tensor(inputs[0], "data")
    given = options_of(node, inputs, "axes", 1)
    if not given and node.get("noop_with_empty_axes", 0):
        return [x]
    axes = [checked_axis(axis, x.rank) for axis in given] if given else list(range(x.rank))
    mode = {"ReduceMean": "mean", "ReduceMax": "max", "ReduceSum": "sum"}[node.op]
    timed = [axis for axis in axes if x.is_time(axis)]
    features = [axis for axis in axes if axis not in timed and x.axes[axis]]
    for axis in features:
        x.atoms(axis)
    if timed and mode == "sum":
        raise UnsupportedModel("axes: expected features, got time")
    if features:
        x = reduced_features(builder, x, features, mode)
    for axis in timed:
        x = pooled(builder, x, axis, mode, True)
    if not node.get("keepdims", 1):
        x = x.with_axes([own for axis, own in enumerate(x.axes) if axis not in axes])
    return [x]


_PLAIN = ("Tanh", "Sigmoid", "Relu", "LeakyRelu", "ThresholdedRelu", "HardSigmoid", "Elu", "Softsign", "Softplus")

OPERATORS: dict[str, Any] = {
    **dict.fromkeys(_PLAIN, _activation),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic),
    **dict.fromkeys(("HardSwish", "Swish", "Mish", "Selu", "Celu", "Neg", "Abs", "PRelu"), _composed),
    **dict.fromkeys(("Max", "Min"), _extreme),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceSum"), _reduce),
    "Sum": _sum,
    "Sqrt": _sqrt,
    "Clip": _clip,
    "Pow": _power,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
}
