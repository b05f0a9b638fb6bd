"""Operators that move numbers without computing: axes, slices, pieces, and where time is cut."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...model import Concatenate, MaxPool2d, Pool, Repeat, Reverse
from ..unsupported import UnsupportedModel
from .builder import Padding
from .folding import checked_axis, integers, options_of, sliced, split_sizes, target_of, unsqueezed_axes
from .sizes import Size, same
from .tensor import Atom, Axis, Batch, Tensor, Time, count, reshaped

if TYPE_CHECKING:
    from .builder import Builder
    from .graph import Node

__all__ = ["SHAPES", "aligned", "pooled", "require_tensor"]

_LARGEST_SELECTION = 1 << 20


def require_tensor(value: Any, what: str = "input") -> Tensor:
    """A tensor of floating-point numbers that depends on an input of the graph."""
    if not isinstance(value, Tensor):
        raise UnsupportedModel(f"{what}: expected what depends on an input of the graph, got a constant")
    if value.value.integer:
        raise UnsupportedModel(f"{what}: expected floating-point numbers, got integers")
    return value


def _identity(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    return [inputs[0]]


def _dropout(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    if len(inputs) > 2 and inputs[2] is not None and np.any(inputs[2]):
        raise UnsupportedModel("training_mode: expected False")
    return [inputs[0], None]


_FLOATS, _INTEGERS = (1, 10, 11, 16), (6, 7)  # float, float16, double, bfloat16; int32, int64


def _cast(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    if node.get("to") not in (_INTEGERS if inputs[0].value.integer else _FLOATS):
        kind = "int32 or int64" if inputs[0].value.integer else "floating-point numbers"
        raise UnsupportedModel(f"to: expected {kind}, as goes in, got type {node.get('to')}")
    return [inputs[0]]


def _transpose(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    x = inputs[0]
    order = node.get("perm") or list(range(x.rank))[::-1]
    if sorted(order) != list(range(x.rank)):
        raise UnsupportedModel(f"perm: expected a permutation of {x.rank} axes, got {order}")
    return [x.with_axes([x.axes[axis] for axis in order])]


def _reshape(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    x = inputs[0]
    target = target_of(inputs[1])
    shape = x.shape
    if not node.get("allowzero", 0):
        target = [shape[i] if not isinstance(n, Size) and n == 0 and i < x.rank else n for i, n in enumerate(target)]
    return [reshaped(x, target)]


def _flatten(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    x = inputs[0]
    axis = node.get("axis", 1)
    axis = axis + x.rank if axis < 0 else axis
    parts = (x.axes[:axis], x.axes[axis:])
    return [x.with_axes([tuple(factor for each in part for factor in each) for part in parts])]


def _squeeze(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    x = inputs[0]
    given = options_of(node, inputs, "axes", 1)
    axes = [i for i in range(x.rank) if not x.axes[i]] if given is None else [checked_axis(a, x.rank) for a in given]
    for axis in axes:
        if x.axes[axis]:
            raise UnsupportedModel(f"axes: expected axes of size 1, got {x.shown(axis)} in axis {axis}")
    return [x.with_axes([own for i, own in enumerate(x.axes) if i not in axes])]


def _unsqueeze(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    x = inputs[0]
    axes: list[Axis] = list(x.axes)
    for axis in unsqueezed_axes(node, inputs, x.rank):
        axes.insert(axis, ())
    return [x.with_axes(axes)]


def _shape(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    shape = inputs[0].shape[node.get("start", 0) : node.get("end")]
    open_sizes = any(isinstance(size, Size) for size in shape)
    array = np.empty(len(shape), object if open_sizes else np.int64)
    array[:] = shape
    return [array]


def _expand(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    x = inputs[0]
    if node.op == "Tile":
        x, target = _tiled(builder, x, target_of(inputs[1]))
    else:
        target = target_of(inputs[1])
    x = x.with_axes([()] * max(0, len(target) - x.rank) + list(x.axes))
    target = [1] * (x.rank - len(target)) + target
    for axis, size in enumerate(target):
        if not isinstance(size, Size) and size == 1:
            continue
        if x.axes[axis]:
            if not same(x.shape[axis], size):
                raise UnsupportedModel(
                    f"shape: expected the {x.shown(axis)} of axis {axis} as they are, got size {size}"
                )
            continue
        x = _repeated(builder, x, axis, size)
    return [x]


def _tiled(builder: Builder, x: Tensor, repeats: list[Any]) -> tuple[Tensor, list[Any]]:
    """Features several times over, and the shape that axes of size 1 are still to have."""
    if len(repeats) != x.rank:
        raise UnsupportedModel(f"repeats: expected one for each of {x.rank} axes, got {len(repeats)}")
    for axis, times in enumerate(repeats):
        if x.axes[axis] and x.is_features(axis) and not isinstance(times, Size) and times != 1:
            size = count(x.atoms(axis))
            if not 0 < times <= _LARGEST_SELECTION // max(1, x.value.size):
                raise UnsupportedModel(f"repeats: expected some of features, got {times} in axis {axis}")
            x = builder.selected(x, axis, list(range(size)) * times)
            repeats = [*repeats[:axis], 1, *repeats[axis + 1 :]]
    return x, [size * times for size, times in zip(x.shape, repeats, strict=True)]


def _repeated(builder: Builder, x: Tensor, axis: int, size: Any) -> Tensor:
    """An axis of size 1 made larger."""
    for time in builder.times:
        if x.time is None and not x.has(Time) and _is(time.size, size):
            return x.with_axes([*x.axes[:axis], (time,), *x.axes[axis + 1 :]])
    if isinstance(size, Size) or not 0 < size <= _LARGEST_SELECTION // max(1, x.value.size):
        raise UnsupportedModel(f"shape: expected to repeat features or all steps, got size {size} in axis {axis}")
    if x.time is None and not x.has(Time) and x.rank == 3 and axis < 2:
        source, time = builder.add(Repeat(size), x.source), Time(size)
        axes = [*x.axes[:axis], (time,), *x.axes[axis + 1 :]]
        return Tensor(source, builder.values[source], x.order, tuple(axes), time)
    return builder.selected(x, axis, [0] * size)


def _is(a: Any, b: Any) -> bool:
    difference = a - b
    return not isinstance(difference, Size) and difference == 0


def pooled(builder: Builder, x: Tensor, axis: int, mode: str, keep: bool) -> Tensor:
    """One value in place of an axis that is time."""
    source = x.source if x.time is None else builder.add(Pool(mode), x.source)
    axes = [*x.axes[:axis], *([()] if keep else []), *x.axes[axis + 1 :]]
    return Tensor(source, builder.values[source], x.order, tuple(axes), None)


def _end_of(time: Time, index: Any, what: str) -> str:
    """Which step of a sequence an index means."""
    index = index if isinstance(index, Size) else int(index)
    if not isinstance(index, Size) and index == 0:
        return "first"
    if _is(index, -1) or _is(time.size - 1, index):
        return "last"
    raise UnsupportedModel(f"{what}: expected the first or the last step, got step {index}")


def _gather(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    data, indices = inputs[0], inputs[1]
    if not isinstance(data, Tensor):
        return [_embedding(builder, node, data, indices)]
    if not isinstance(indices, np.ndarray):
        raise UnsupportedModel("indices: expected constants, got what depends on a call")
    axis = checked_axis(node.get("axis", 0), data.rank)
    if indices.ndim > 1:
        raise UnsupportedModel(f"indices: expected a number or a list, got {indices.ndim} axes")
    if data.is_time(axis):
        if indices.size != 1:
            raise UnsupportedModel(f"indices: expected one step, got {indices.size}")
        time = data.axes[axis][0]
        end = _end_of(time, indices.flat[0], "indices")  # type: ignore[arg-type]
        return [pooled(builder, data, axis, end, indices.ndim == 1)]
    size = count(data.atoms(axis))
    wanted = [i + size if i < 0 else i for i in integers(indices, "indices")]
    result = builder.selected(data, axis, wanted)
    if indices.ndim == 0:
        result = result.with_axes([own for i, own in enumerate(result.axes) if i != axis])
    return [result]


def _embedding(builder: Builder, node: Node, table: Any, indices: Any) -> Tensor:
    from ...heads import Embedding

    if not isinstance(table, np.ndarray) or table.ndim != 2 or table.dtype.kind != "f":
        raise UnsupportedModel("data: expected a table of two axes")
    if not isinstance(indices, Tensor) or not indices.value.integer:
        raise UnsupportedModel("indices: expected whole numbers that an input of the graph gives")
    if node.get("axis", 0) not in (0, -2):
        raise UnsupportedModel(f"axis: expected 0, got {node.get('axis')}")
    if 0 in table.shape or indices.order:
        raise UnsupportedModel("indices: expected one number for each step")
    layer = Embedding(*table.shape, dtype=builder.dtype, seed=0)
    layer.load_state_dict({"weight": np.ascontiguousarray(table, builder.dtype)})
    source = builder.add(layer, indices.source)
    size = table.shape[1]
    order = (Atom(size),) if size > 1 else ()
    return Tensor(source, builder.values[source], order, (*indices.axes, order), indices.time)


def _slice(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    x = inputs[0]
    for axis, start, end, step in sliced(node, inputs, x.shape):
        size = x.shape[axis]
        if x.is_features(axis):
            indices = list(range(int(size)))[slice(*_limits(start, end, step, int(size)))]
            if indices != list(range(int(size))):
                x = builder.selected(x, axis, indices)
        elif x.is_time(axis):
            x = _cut(builder, x, axis, start, end, step)
        elif not (_is(start, 0) and step == 1 and _whole(end, size)):
            raise UnsupportedModel(f"axes: expected features or time, got {x.shown(axis)} in axis {axis}")
    return [x]


def _limits(start: Any, end: Any, step: int, size: int) -> tuple[int, int | None, int]:
    start, end = int(start), int(end)
    return start, None if step < 0 and end <= -size - 1 else end, step


def _whole(end: Any, size: Any) -> bool:
    return _is(end, size) or (not isinstance(end, Size) and int(end) >= (1 << 31) - 1)


def _cut(builder: Builder, x: Tensor, axis: int, start: Any, end: Any, step: int) -> Tensor:
    """Some steps of a sequence: the first, the last, all but some at either end, every so many, or all backwards."""
    time, size = x.axes[axis][0], x.shape[axis]
    assert isinstance(time, Time)
    if x.time is None:
        raise UnsupportedModel("axes: expected a sequence, got one value for each row")
    far = not isinstance(end, Size) and int(end) < -(1 << 30)
    if (
        step == -1
        and (_is(start, -1) or _is(start, size - 1) or (not isinstance(start, Size) and int(start) > 1 << 30))
        and far
    ):
        source = builder.add(Reverse(), x.source)
        return replace(x, source=source, value=builder.values[source])
    if step < 1:
        raise UnsupportedModel(f"steps: expected whole sequences backwards or a positive number, got {step}")
    first = start if isinstance(start, Size) or int(start) >= 0 else size + int(start)
    if not _whole(end, size) and not isinstance(end, Size) and int(end) < 0:
        end = size + int(end)
    behind = 0 if _whole(end, size) else size - end
    if step == 1 and _is(first, 0) and _is(end, 1):
        return pooled(builder, x, axis, "first", True)
    if step == 1 and _is(first, size - 1) and _is(behind, 0):
        return pooled(builder, x, axis, "last", True)
    if isinstance(first, Size) or isinstance(behind, Size) or first < 0 or behind < 0:
        raise UnsupportedModel("starts: expected to cut a fixed number of steps from either end, or one end to be kept")
    source = x.source
    if first or behind:
        source = builder.add(Padding(-first, -behind), source)
    time = time.windows(-first - behind - 1, 1)
    if step > 1:
        source = builder.add(MaxPool2d(1, (step, 1)), source)
        time = time.windows(-1, step)
    return builder.moved(x, source, axis, time)


def _split(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    x = inputs[0]
    axis = checked_axis(node.get("axis", 0), x.rank)
    total = count(x.atoms(axis))
    parts, start = [], 0
    for size in split_sizes(node, inputs, total):
        parts.append(builder.selected(x, axis, list(range(start, start + size))) if size else None)
        start += size
    return parts


def _concat(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    tensors = [require_tensor(each) for each in inputs]
    if "axis" not in node.attributes:
        raise UnsupportedModel("axis: expected one, got none")
    axis = checked_axis(node.get("axis"), tensors[0].rank)
    for tensor in tensors:
        if not tensor.is_features(axis):
            raise UnsupportedModel(f"axis: expected features, got {tensor.shown(axis)}")
    if len(tensors) == 1:
        return [tensors[0]]
    tensors = aligned(builder, tensors, skip=axis)
    sources = []
    for tensor in tensors:
        rest = [atom for atom in tensor.order if atom not in tensor.axes[axis]]
        sources.append(builder.ordered(tensor, [*tensor.atoms(axis), *rest]).source)
    source = builder.add(Concatenate(), *sources)
    new = Atom(sum(count(tensor.atoms(axis)) for tensor in tensors))
    first = next((tensor for tensor in tensors if tensor.time is not None), tensors[0])
    axes = [*first.axes[:axis], (new,), *first.axes[axis + 1 :]]
    others = [factor for i, own in enumerate(axes) if i != axis for factor in own if isinstance(factor, Atom)]
    return [Tensor(source, builder.values[source], (new, *others), tuple(axes), first.time)]


def aligned(builder: Builder, tensors: list[Tensor], skip: int | None = None) -> list[Tensor]:
    """All of one rank, with features in the order of their axes and repeated where another one has more of them; but
    for the axis `skip`.

    Raises:
        UnsupportedModel: axes do not go together.
    """
    rank = max(tensor.rank for tensor in tensors)
    if skip is not None and any(tensor.rank != rank for tensor in tensors):
        raise UnsupportedModel("axis: expected inputs of the same number of axes")
    tensors = [builder.in_axis_order(t.with_axes([()] * (rank - t.rank) + list(t.axes))) for t in tensors]
    for axis in range(rank):
        if axis == skip:
            continue
        model = next((t for t in tensors if t.axes[axis]), None)
        if model is None:
            continue
        for i, tensor in enumerate(tensors):
            tensors[i] = _aligned_axis(builder, tensor, model, axis)
    timed = {tensor.has(Time) for tensor in tensors if tensor.time is not None}
    if len(timed) > 1 or len({t.time.chain for t in tensors if t.time is not None}) > 1:
        raise UnsupportedModel("expected sequences of the same steps, got others")
    if len({tensor.has(Batch) for tensor in tensors}) > 1:
        raise UnsupportedModel("expected inputs of the same batch, got one without")
    return tensors


def _aligned_axis(builder: Builder, tensor: Tensor, model: Tensor, axis: int) -> Tensor:
    own, wanted = tensor.axes[axis], model.axes[axis]
    if not own:
        if all(isinstance(factor, Atom) for factor in wanted):
            return builder.selected(tensor, axis, [0] * count(wanted))
        if len(wanted) == 1 and isinstance(wanted[0], Time) and tensor.time is None:
            return tensor.with_axes([*tensor.axes[:axis], wanted, *tensor.axes[axis + 1 :]])
    kinds = [
        [(type(f), f.size if isinstance(f, Atom) else getattr(f, "chain", ())) for f in each] for each in (own, wanted)
    ]
    if kinds[0] != kinds[1]:
        raise UnsupportedModel(
            f"expected inputs of the same shape, got {tensor.shown(axis)} and {model.shown(axis)} in axis {axis}"
        )
    return tensor


def _pad(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    x = require_tensor(inputs[0])
    pads = options_of(node, inputs, "pads" if node.opset > 1 else "paddings", 1)
    given = options_of(node, inputs, "", 3) if len(inputs) > 3 else None
    axes = list(range(x.rank)) if given is None else given
    axes = [checked_axis(axis, x.rank) for axis in axes]
    if pads is None or len(pads) != 2 * len(axes):
        raise UnsupportedModel(f"pads: expected two for each of {len(axes)} axes, got {pads}")
    mode = node.get("mode", "constant")
    value = node.get("value", 0.0) if len(inputs) < 3 or inputs[2] is None else inputs[2].item()
    if mode == "constant" and value != 0:
        raise UnsupportedModel(f"value: expected 0, got {value}")
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        if not before and not after:
            continue
        if x.is_time(axis):
            if mode != "constant" or min(before, after) < 0:
                raise UnsupportedModel(f"mode: expected constant over time, got {mode!r} {before, after}")
            source = builder.add(Padding(before, after), x.source)
            x = builder.moved(x, source, axis, x.axes[axis][0].windows(before + after - 1, 1))  # type: ignore[union-attr]
        elif not x.is_features(axis):
            raise UnsupportedModel(f"pads: expected to pad features or time, got {x.shown(axis)} in axis {axis}")
        else:
            x = _padded_features(builder, x, axis, before, after, mode)
    return [x]


def _padded_features(builder: Builder, x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    size = int(x.shape[axis])
    if before + size + after > _LARGEST_SELECTION:
        raise UnsupportedModel(f"pads: too large, {before, after}")
    if mode in ("reflect", "edge", "wrap"):
        positions = np.pad(np.arange(size), (before, after), mode=mode)  # type: ignore[call-overload]
        return builder.selected(x, axis, positions.tolist())
    if mode != "constant" or min(before, after) < 0:
        raise UnsupportedModel(f"mode: expected constant, reflect, edge or wrap, got {mode!r} {before, after}")
    rest = [atom for atom in x.order if atom not in x.axes[axis]]
    source, _ = builder.shaped(x, rest, list(x.atoms(axis)))
    source = builder.add(Padding(left=before, right=after), source)
    new = Atom(size + before + after)
    axes = [*x.axes[:axis], (new,), *x.axes[axis + 1 :]]
    return Tensor(source, builder.values[source], (*rest, new), tuple(axes), x.time)


def _reverse_sequence(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    x, lengths = require_tensor(inputs[0]), inputs[1]
    t, b = node.get("time_axis", 0), node.get("batch_axis", 1)
    if not (0 <= t < x.rank and 0 <= b < x.rank and x.may_be(Time, t) and x.may_be(Batch, b)) or x.time is None:
        raise UnsupportedModel(f"time_axis: expected time and batch in axes {t} and {b}")
    known = () if isinstance(lengths, Tensor) else np.asarray(getattr(lengths, "array", lengths)).flat
    if not all(same(each, x.time.size) for each in known):
        raise UnsupportedModel("sequence_lens: expected the number of steps or a graph input")
    source = builder.add(Reverse(), x.source)
    builder.nodes[-1].lengths = lengths.source if isinstance(lengths, Tensor) else None
    return [replace(x, source=source, value=builder.values[source])]


SHAPES: dict[str, Any] = {
    "Identity": _identity,
    "Dropout": _dropout,
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Shape": _shape,
    "Expand": _expand,
    "Tile": _expand,
    "Gather": _gather,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "Pad": _pad,
    "ReverseSequence": _reverse_sequence,
}
