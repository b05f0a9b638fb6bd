"""Operators on constants, and on shapes, which are arrays of sizes that may depend on a call."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..unsupported import UnsupportedModel
from .sizes import Size, divided, same

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._arrays import Array
    from .graph import Node

__all__ = ["Spread", "folded", "integers", "options_of", "sliced"]

LARGEST = 1 << 26  # numbers that a folded constant may have
LARGEST_FILLED = 1 << 22  # those that are made of fewer


class Spread:
    """A constant that is the same along an axis whose size depends on a call, where the array's is 1."""

    __slots__ = ("array",)

    def __init__(self, array: Array) -> None:
        self.array = array


def folded(node: Node, inputs: list[Any]) -> list[Any]:
    """What comes out of a node whose inputs are constants, None where there is none.

    Raises:
        UnsupportedModel: the operator is not among those that are folded.
    """
    fold = FOLDS.get(node.op)
    if fold is None:
        raise UnsupportedModel("operator is not supported")
    if any(isinstance(each, Spread) for each in inputs):
        if node.op not in _SPREADABLE:
            raise UnsupportedModel("expected an operand of known shape")
        results = folded(node, [each.array if isinstance(each, Spread) else each for each in inputs])
        return [Spread(each) for each in results]
    with np.errstate(all="ignore"):
        result = fold(node, *inputs)
    results = list(result) if isinstance(result, (list, tuple)) else [result]
    return [_tidy(each) for each in results]


_SPREADABLE = (
    "Slice",
    "Gather",
    "Transpose",
    "Unsqueeze",
    "Squeeze",
    "Identity",
    "Cast",
    "Split",
    "Concat",
    "Mul",
    "Add",
)


def _tidy(result: Any) -> Any:
    """Sizes that turned out constant, as int64."""
    if isinstance(result, Spread):
        return result
    array = np.asarray(result)
    if array.size > LARGEST:
        raise UnsupportedModel(f"a constant of {array.size} numbers is too large")
    if array.dtype == object and not any(isinstance(each, Size) for each in array.flat):
        return array.astype(np.int64)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def integers(array: Any, what: str) -> list[int]:
    """A constant as plain ints."""
    if array is None:
        raise UnsupportedModel(f"{what}: expected a constant, got none")
    if not isinstance(array, np.ndarray):
        raise UnsupportedModel(f"{what}: expected a constant, got what depends on a call")
    return [int(each) for each in array.flat]


def options_of(node: Node, inputs: list[Any], attribute: str, position: int) -> list[int] | None:
    """Whole numbers that were an attribute in older opsets and are an input now."""
    if position < len(inputs) and inputs[position] is not None:
        return integers(inputs[position], attribute)
    value = node.get(attribute)
    return None if value is None else [int(each) for each in value]


def _axes(node: Node, inputs: list[Any], rank: int, position: int = 1) -> list[int] | None:
    axes = options_of(node, inputs, "axes", position)
    return None if axes is None else [checked_axis(axis, rank) for axis in axes]


def checked_axis(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    if not -rank <= axis < rank:
        raise UnsupportedModel(f"axis: expected one of {rank} axes, got {axis}")
    return axis % rank


def _squeeze(node: Node, *inputs: Any) -> Any:
    axes = _axes(node, list(inputs), inputs[0].ndim)
    return np.squeeze(inputs[0], None if axes is None else tuple(axes))


def unsqueezed_axes(node: Node, inputs: list[Any], rank: int) -> list[int]:
    """Where in the result the new axes are."""
    axes = options_of(node, inputs, "axes", 1)
    if axes is None:
        raise UnsupportedModel("axes: expected them, got none")
    return sorted(checked_axis(axis, rank + len(axes)) for axis in axes)


def _unsqueeze(node: Node, *inputs: Any) -> Any:
    return np.expand_dims(inputs[0], tuple(unsqueezed_axes(node, list(inputs), inputs[0].ndim)))


def sliced(node: Node, inputs: list[Any], shape: tuple[Any, ...]) -> list[tuple[int, Any, Any, int]]:
    """(axis, start, end, step) of each axis that a Slice cuts."""
    rank = len(shape)
    if node.opset < 10:
        starts, ends = node.get("starts"), node.get("ends")
        axes, steps = node.get("axes"), None
        if starts is None or ends is None:
            raise UnsupportedModel("starts: expected them, got none")
    else:
        if len(inputs) < 3 or inputs[1] is None or inputs[2] is None:
            raise UnsupportedModel("starts: expected them, got none")
        if not all(isinstance(each, np.ndarray) for each in inputs[1:] if each is not None):
            raise UnsupportedModel("starts: expected constants, got what depends on a call")
        starts, ends = list(inputs[1].flat), list(inputs[2].flat)
        axes = options_of(node, inputs, "", 3) if len(inputs) > 3 else None
        steps = options_of(node, inputs, "", 4) if len(inputs) > 4 else None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise UnsupportedModel(f"axes: expected as many as starts and ends, got {axes}")
    return [
        (checked_axis(int(axis), rank), start, end, step)
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    ]


def _slice(node: Node, *inputs: Any) -> Any:
    data = inputs[0]
    index = [slice(None)] * data.ndim
    for axis, start, end, step in sliced(node, list(inputs), data.shape):
        start, end = int(start), int(end)
        low = -data.shape[axis] - 1  # what counts from before the first one, and is no -1
        index[axis] = slice(start, None if step < 0 and end <= low else end, step)
    return data[tuple(index)]


def _shape(node: Node, data: Any) -> Any:
    return np.array(data.shape[node.get("start", 0) : node.get("end")], np.int64)


def target_of(array: Any) -> list[Any]:
    """A shape as a list of ints and sizes."""
    if not isinstance(array, np.ndarray):
        raise UnsupportedModel("shape: expected one that is known, got what depends on a call's numbers")
    return [each if isinstance(each, Size) else int(each) for each in array.flat]


def _filled(value: Any, target: list[Any]) -> Any:
    """The value, broadcast to a shape."""
    rank = max(value.ndim, len(target))
    old = (1,) * (rank - value.ndim) + value.shape
    new = [1] * (rank - len(target)) + target
    if not any(isinstance(size, Size) for size in new):
        if math.prod(new) > LARGEST_FILLED or min(new, default=0) < 0:
            raise UnsupportedModel(f"shape: a constant of shape {new} is too large")
        return np.broadcast_to(value.reshape(old), np.broadcast_shapes(old, tuple(new)))
    if any(isinstance(size, Size) and o != 1 for o, size in zip(old, new, strict=True)):
        raise UnsupportedModel("shape: expected sizes that fit a constant, got what depends on a call")
    known = tuple(1 if isinstance(size, Size) else size for size in new)
    if math.prod(known) > LARGEST_FILLED or min(known) < 0:
        raise UnsupportedModel(f"shape: a constant of shape {new} is too large")
    return Spread(np.broadcast_to(value.reshape(old), np.broadcast_shapes(old, known)))


def _constant_of_shape(node: Node, shape: Any) -> Any:
    value = node.get("value")
    value = np.zeros(1, np.float32) if value is None else value
    if value.size != 1:
        raise UnsupportedModel("value: expected one number")
    return _filled(value.reshape(()), target_of(shape))


def _constant(node: Node) -> Any:
    for name, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if name in node.attributes:
            return np.array(node.attributes[name], dtype)
    if not isinstance(node.get("value"), np.ndarray):
        raise UnsupportedModel(f"{'/'.join(node.attributes) or 'value'}: expected a tensor or numbers")
    return node.get("value")


_TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float32",
    11: "float64",
    16: "float32",
}


def _cast(node: Node, data: Any) -> Any:
    kind = _TYPES.get(node.get("to"))
    if kind is None:
        raise UnsupportedModel(f"to: expected numbers, got type {node.get('to')}")
    return data if data.dtype == object else data.astype(kind)


def _reshape(node: Node, data: Any, shape: Any) -> Any:
    target = target_of(shape)
    if not node.get("allowzero", 0):
        target = [data.shape[i] if not isinstance(n, Size) and n == 0 else n for i, n in enumerate(target)]
    return data.reshape(target)


def _concat(node: Node, *inputs: Any) -> Any:
    return np.concatenate(inputs, node.get("axis", 0))


def split_sizes(node: Node, inputs: list[Any], total: int) -> list[int]:
    """Sizes of the parts."""
    sizes = options_of(node, inputs, "split", 1)
    if sizes is None:
        count = node.get("num_outputs") or len(node.outputs)
        each = -(-total // max(1, count))
        sizes = [min(each, max(0, total - each * i)) for i in range(count)]
    if sum(sizes) != total or min(sizes) < 0 or len(sizes) < len(node.outputs):
        raise UnsupportedModel(f"split: expected sizes whose sum is {total}, got {sizes}")
    return sizes


def _split(node: Node, *inputs: Any) -> Any:
    axis = checked_axis(node.get("axis", 0), inputs[0].ndim)
    sizes = split_sizes(node, list(inputs), inputs[0].shape[axis])
    return np.split(inputs[0], np.cumsum(sizes)[:-1], axis)


def _binary(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def fold(node: Node, a: Any, b: Any) -> Any:
        if math.prod(np.broadcast_shapes(a.shape, b.shape)) > max(LARGEST_FILLED, a.size, b.size):
            raise UnsupportedModel("a constant is too large")
        return function(a, b)

    return fold


def _div(node: Node, a: Any, b: Any) -> Any:
    if a.dtype == object or b.dtype == object:
        return np.frompyfunc(_quotient, 2, 1)(a, b)
    if a.dtype.kind in "iu":
        return np.trunc(a / b).astype(a.dtype) if np.all(b) else a
    return a / b


def _quotient(a: Any, b: Any) -> Any:
    if (quotient := divided(a, b)) is None:
        raise UnsupportedModel(f"expected a whole size, got {a} / {b}")
    return quotient


def _equal(node: Node, a: Any, b: Any) -> Any:
    if a.dtype == object or b.dtype == object:
        return np.asarray(np.frompyfunc(same, 2, 1)(a, b)).astype(bool)
    return a == b


def _reduce(function: Callable[..., Any]) -> Callable[..., Any]:
    def fold(node: Node, *inputs: Any) -> Any:
        axes = _axes(node, list(inputs), inputs[0].ndim)
        if not axes and node.get("noop_with_empty_axes", 0):
            return inputs[0]
        return function(inputs[0], axis=tuple(axes) if axes else None, keepdims=bool(node.get("keepdims", 1)))

    return fold


def _range(node: Node, start: Any, limit: Any, delta: Any) -> Any:
    if any(each.dtype == object for each in (start, limit, delta)):
        raise UnsupportedModel("expected limits that do not depend on a call")
    if not delta.item() or not 0 <= (limit.item() - start.item()) / delta.item() < LARGEST_FILLED:
        raise UnsupportedModel("expected a range that ends")
    return np.arange(start.item(), limit.item(), delta.item()).astype(start.dtype)


def _dequantized(node: Node, *inputs: Any) -> Any:
    data, scale = inputs[:2]
    zero = inputs[2] if len(inputs) > 2 and inputs[2] is not None else np.zeros(1, data.dtype)
    if node.get("block_size", 0):
        raise UnsupportedModel("block_size: expected 0")
    if scale.size > 1:
        shape = [1] * data.ndim
        shape[checked_axis(node.get("axis", 1), data.ndim)] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return ((data.astype(np.int64) - zero.astype(np.int64)) * scale.astype(np.float64)).astype(np.float32)


def _pad(node: Node, *inputs: Any) -> Any:
    pads = options_of(node, list(inputs), "pads", 1) or []
    data, rank = inputs[0], inputs[0].ndim
    if (
        node.get("mode", "constant") != "constant"
        or len(pads) != 2 * rank
        or min(pads) < 0
        or (len(inputs) > 3 and inputs[3] is not None)
    ):
        raise UnsupportedModel("mode: expected constant padding of all axes")
    if math.prod(n + pads[i] + pads[rank + i] for i, n in enumerate(data.shape)) > LARGEST_FILLED:
        raise UnsupportedModel("pads: too large")
    value = inputs[2].item() if len(inputs) > 2 and inputs[2] is not None else node.get("value", 0)
    return np.pad(data, [(pads[i], pads[rank + i]) for i in range(rank)], constant_values=value)


def _tile(node: Node, data: Any, repeats: Any) -> Any:
    times = target_of(repeats)
    if not any(isinstance(each, Size) for each in times) and data.size * math.prod(times) <= LARGEST_FILLED:
        return np.tile(data, times)
    return _filled(data, [n * t if isinstance(t, Size) else int(n) * t for n, t in zip(data.shape, times, strict=True)])


def _flatten(node: Node, data: Any) -> Any:
    axis = node.get("axis", 1)
    return data.reshape(math.prod(data.shape[:axis]), -1)


def _matmul(node: Node, a: Any, b: Any) -> Any:
    if a.dtype.kind != "f" or b.dtype.kind != "f":
        raise UnsupportedModel("expected floating-point constants")
    return a @ b


def _transpose(node: Node, data: Any) -> Any:
    return np.transpose(data, node.get("perm"))


def _where(node: Node, condition: Any, a: Any, b: Any) -> Any:
    return np.where(condition, a, b)


FOLDS: dict[str, Callable[..., Any]] = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Identity": lambda node, a: a,
    "Cast": _cast,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Slice": _slice,
    "Gather": lambda node, a, i: np.take(a, i.astype(np.int64), node.get("axis", 0)),
    "Split": _split,
    "Shape": _shape,
    "Size": lambda node, a: np.array(a.size, np.int64),
    "Expand": lambda node, a, shape: _filled(a, target_of(shape)),
    "Tile": _tile,
    "Range": _range,
    "Where": _where,
    "Equal": _equal,
    "Add": _binary(lambda a, b: a + b),
    "Sub": _binary(lambda a, b: a - b),
    "Mul": _binary(lambda a, b: a * b),
    "Div": _div,
    "Pow": _binary(lambda a, b: np.power(a, b).astype(a.dtype)),
    "Greater": _binary(np.greater),
    "GreaterOrEqual": _binary(np.greater_equal),
    "Less": _binary(np.less),
    "LessOrEqual": _binary(np.less_equal),
    "And": _binary(np.logical_and),
    "Or": _binary(np.logical_or),
    "Not": lambda node, a: np.logical_not(a),
    "Neg": lambda node, a: -a,
    "Abs": lambda node, a: np.abs(a),
    "Sqrt": lambda node, a: np.sqrt(a),
    "Exp": lambda node, a: np.exp(a),
    "Log": lambda node, a: np.log(a),
    "Reciprocal": lambda node, a: 1 / a,
    "Floor": lambda node, a: np.floor(a),
    "Ceil": lambda node, a: np.ceil(a),
    "Tanh": lambda node, a: np.tanh(a),
    "Sigmoid": lambda node, a: 1 / (1 + np.exp(-a)),
    "Relu": lambda node, a: np.maximum(a, 0),
    "Min": lambda node, *a: np.min(np.broadcast_arrays(*a), 0),
    "Max": lambda node, *a: np.max(np.broadcast_arrays(*a), 0),
    "ReduceSum": _reduce(np.sum),
    "ReduceMean": _reduce(np.mean),
    "ReduceProd": _reduce(np.prod),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "MatMul": _matmul,
    "Flatten": _flatten,
    "Pad": _pad,
    "DequantizeLinear": _dequantized,
}
