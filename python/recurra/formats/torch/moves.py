"""Functions of torch that only move numbers: views, permutations, slices, concatenations."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ...model import Concatenate, Pool, Reverse
from .tensor import Derived, Recording, Traced, Unknown, function
from .view import Refusal, Size, View

__all__ = ["sizes_of"]


def sizes_of(sizes: tuple[Any, ...]) -> list[int]:
    """Sizes given as one sequence or one by one."""
    found = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    if not all(isinstance(size, int) for size in found):
        raise Refusal(f"expected sizes, got {found}")
    return list(found)


@function("shape", "size")
def _size(recording: Recording, x: Traced, dim: int | None = None) -> Any:
    shape = tuple(_said(recording, size) for size in x.seen.shape)
    return shape if dim is None else shape[x.seen.axis(dim)]


def _said(recording: Recording, size: int) -> int:
    """A size as the module may see it."""
    if isinstance(size, Size) or not recording.holes:
        return size
    if size in recording.holes:
        unknown = Unknown(size)
        unknown.name = recording.holes[size]
        return unknown
    return Derived(size) if any(letter in "FW" for _, letter in recording.holes.values()) else size


@function("dim", "ndim", "ndimension")
def _dim(recording: Recording, x: Traced) -> int:
    return len(x.seen.axes)


@function("len")
def _len(recording: Recording, x: Traced) -> Any:
    return x.seen.size(0)


@function("numel")
def _numel(recording: Recording, x: Traced) -> Any:
    return Size(math.prod(map(int, x.seen.shape)))


@function("clone")
def _clone(recording: Recording, x: Traced, *args: Any, **kwargs: Any) -> Any:
    return recording.tensor(x.seen)


@function("contiguous", "detach", "cpu", "requires_grad", "data", "alias", "lift_fresh_copy")
def _same(recording: Recording, x: Traced, *args: Any, **kwargs: Any) -> Any:
    return x


@function("to", "type_as", "float", "double", "long", "int", "type", "_to_copy")
def _to(recording: Recording, x: Traced, *args: Any, **kwargs: Any) -> Any:
    wanted = {each for each in (*args, *kwargs.values()) if isinstance(each, torch.dtype)}
    by_name = {"float": torch.float32, "double": torch.float64, "long": torch.int64, "int": torch.int32}
    if recording.graph.operation in by_name:
        wanted.add(by_name[recording.graph.operation])
    integer = recording.graph.values[x.seen.value].integer
    if any(dtype.is_floating_point == integer or dtype in (torch.float16, torch.bfloat16) for dtype in wanted):
        raise Refusal(f"changes numbers to {wanted.pop()}")
    return x


@function("permute")
def _permute(recording: Recording, x: Traced, *axes: Any, dims: Any = None) -> Any:
    return recording.tensor(x.seen.permute(sizes_of(axes) if dims is None else dims))


@function("transpose", "swapaxes", "swapdims")
def _transpose(recording: Recording, x: Traced, dim0: int, dim1: int) -> Any:
    axes = list(range(len(x.seen.axes)))
    one, other = x.seen.axis(dim0), x.seen.axis(dim1)
    axes[one], axes[other] = other, one
    return recording.tensor(x.seen.permute(axes))


@function("movedim", "moveaxis")
def _movedim(recording: Recording, x: Traced, source: int, destination: int) -> Any:
    axes = [axis for axis in range(len(x.seen.axes)) if axis != x.seen.axis(source)]
    axes.insert(x.seen.axis(destination), x.seen.axis(source))
    return recording.tensor(x.seen.permute(axes))


@function("mT")
def _matrix_transpose(recording: Recording, x: Traced) -> Any:
    return _transpose(recording, x, -2, -1)


@function("t", "T")
def _reversed_axes(recording: Recording, x: Traced) -> Any:
    return recording.tensor(x.seen.permute(range(len(x.seen.axes))[::-1]))


@function("unsqueeze")
def _unsqueeze(recording: Recording, x: Traced, dim: int) -> Any:
    return recording.tensor(x.seen.unsqueeze(dim))


@function("squeeze")
def _squeeze(recording: Recording, x: Traced, dim: Any = None) -> Any:
    axes = None if dim is None else [dim] if isinstance(dim, int) else list(dim)
    chosen = range(len(x.seen.axes)) if axes is None else [x.seen.axis(axis) for axis in axes]
    if any(x.seen.axes[axis] in (("B",), ("T",)) for axis in chosen):
        raise Refusal("would drop the axis of a batch or time of one")
    return recording.tensor(x.seen.squeeze(axes))


@function("view", "reshape", "_unsafe_view")
def _reshape(recording: Recording, x: Traced, *shape: Any, size: Any = None) -> Any:
    if size is None and shape and isinstance(shape[0], torch.dtype):
        raise Refusal("reinterprets the bits of numbers")
    return recording.tensor(x.seen.reshape(sizes_of(shape) if size is None else size))


@function("view_as", "reshape_as")
def _reshape_as(recording: Recording, x: Traced, other: Any) -> Any:
    return recording.tensor(x.seen.reshape([int(size) for size in other.shape]))


@function("flatten")
def _flatten(recording: Recording, x: Traced, start_dim: int = 0, end_dim: int = -1) -> Any:
    first, last, shape = x.seen.axis(start_dim), x.seen.axis(end_dim), list(map(int, x.seen.shape))
    return recording.tensor(x.seen.reshape([*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]]))


@function("unflatten")
def _unflatten(recording: Recording, x: Traced, dim: int, sizes: Any) -> Any:
    axis, shape = x.seen.axis(dim), list(map(int, x.seen.shape))
    sizes, known = list(sizes), -math.prod(sizes)
    if -1 in sizes:
        sizes[sizes.index(-1)] = shape[axis] // known
    return recording.tensor(x.seen.reshape([*shape[:axis], *sizes, *shape[axis + 1 :]]))


@function("expand")
def _expand(recording: Recording, x: Traced, *sizes: Any, implicit: bool = False) -> Any:
    return recording.tensor(x.seen.expand(sizes_of(sizes)))


@function("expand_as")
def _expand_as(recording: Recording, x: Traced, other: Any) -> Any:
    return recording.tensor(x.seen.expand(list(map(int, other.shape))))


@function("repeat", "tile")
def _repeat(recording: Recording, x: Traced, *sizes: Any) -> Any:
    counts, view = sizes_of(sizes), x.seen
    while len(view.axes) < len(counts):
        view = view.unsqueeze(0)
    for axis, count in enumerate(map(int, counts), len(view.axes) - len(counts)):
        if count != 1 and not view.axes[axis]:
            view = view.expand([count if each == axis else -1 for each in range(len(view.axes))])
        elif count != 1:
            _need_features(view, axis)
            view = view.take(axis, np.tile(np.arange(view.order.shape[axis]), count))
    return recording.tensor(view)


@function("repeat_interleave")
def _repeat_interleave(recording: Recording, x: Traced, repeats: Any, dim: int) -> Any:
    axis = x.seen.axis(dim)
    _need_features(x.seen, axis)
    return recording.tensor(x.seen.take(axis, np.repeat(np.arange(x.seen.order.shape[axis]), repeats)))


def _need_features(view: View, axis: int) -> None:
    if not view.is_features(axis):
        raise Refusal(f"axis {axis} is {' and '.join(map(str, view.axes[axis]))}, where only features can be meant")


def _slice(recording: Recording, view: View, axis: int, index: slice) -> View:
    """Along one axis."""
    if index.step is None and index.start in (None, 0) and index.stop is None:
        return view
    length = int(view.size(axis))
    start, stop, step = slice(*(None if i is None else int(i) for i in (index.start, index.stop, index.step))).indices(
        length
    )
    if (start, stop, step) == (0, length, 1):
        return view
    if view.is_features(axis):
        return view.take(axis, slice(start, stop, step))
    if view.axes[axis] == ("T",) and step == 1 and max(start, length - stop) < length // 2:
        pad = (view.pad[0] - start, view.pad[1] - (length - stop))
        return replace(view, pad=pad, steps=stop - start)
    raise Refusal(f"takes only a part of {'time' if view.axes[axis] == ('T',) else 'what holds batch or time'}")


def _at(recording: Recording, view: View, axis: int, index: int) -> View:
    """One place of an axis, which is gone then."""
    length = int(view.size(axis))
    if not -length <= index < length:
        raise Refusal(f"takes place {index} of {length}")
    if view.is_features(axis):
        return view.take(axis, index)
    if view.axes[axis] == ("T",) and index in (0, -1, length - 1):
        return pooled(recording, view, axis, "last" if index else "first")
    raise Refusal(f"takes place {index} of {'time' if view.axes[axis] == ('T',) else 'batch'}")


def pooled(recording: Recording, view: View, axis: int, mode: str) -> View:
    """One value for each row from those at all its steps; the time axis is gone then."""
    axes = (*view.axes[:axis], *view.axes[axis + 1 :])
    name = recording.graph.plain(view)
    recording.graph.require_time(name)
    name = recording.graph.add(Pool, (name,), recording.graph.values[name].features, {"mode": mode}, time=False)
    return replace(view.with_value(name, axes), steps=None)


@function("getitem")
def _getitem(recording: Recording, x: Traced, index: Any) -> Any:
    parts = list(index) if isinstance(index, tuple) else [index]
    view = x.seen
    real = sum(1 for part in parts if part is not None and part is not Ellipsis)
    if any(part is Ellipsis for part in parts):
        place = next(i for i, part in enumerate(parts) if part is Ellipsis)
        parts[place : place + 1] = [slice(None)] * (len(view.axes) - real)
    axis, lists = 0, 0
    for part in parts:
        if axis >= len(view.axes) and part is not None:
            raise Refusal(f"has too many indices: {index}")
        if part is None:
            view = view.unsqueeze(axis)
            axis += 1
        elif isinstance(part, slice):
            view = _slice(recording, view, axis, part)
            axis += 1
        elif isinstance(part, int) and not isinstance(part, bool):
            view = _at(recording, view, axis, int(part))
        else:
            view, lists = _picked(view, axis, part), lists + 1
            axis += 1
    if lists > 1:
        raise Refusal("has several lists of indices")
    return recording.tensor(view)


def _picked(view: View, axis: int, indices: Any) -> View:
    if isinstance(indices, Traced):  # known only when the module runs
        raise Refusal("takes places that the input says")
    places = np.asarray(indices)
    _need_features(view, axis)
    if places.ndim != 1:
        raise Refusal(f"takes places {places}")
    return view.take(axis, places)


@function("select")
def _select(recording: Recording, x: Traced, dim: int, index: int) -> Any:
    return recording.tensor(_at(recording, x.seen, x.seen.axis(dim), int(index)))


@function("narrow")
def _narrow(recording: Recording, x: Traced, dim: int, start: int, length: int) -> Any:
    return recording.tensor(_slice(recording, x.seen, x.seen.axis(dim), slice(start, int(start) + int(length))))


@function("slice")
def _slice_along(
    recording: Recording, x: Traced, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    return recording.tensor(_slice(recording, x.seen, x.seen.axis(dim), slice(start, end, None if step == 1 else step)))


@function("index_select")
def _index_select(recording: Recording, x: Traced, dim: int, index: Any) -> Any:
    return recording.tensor(_picked(x.seen, x.seen.axis(dim), index))


@function("split", "split_with_sizes")
def _split(recording: Recording, x: Traced, sizes: Any, dim: int = 0) -> Any:
    axis = x.seen.axis(dim)
    _need_features(x.seen, axis)
    length = int(x.seen.size(axis))
    if isinstance(sizes, int):
        sizes = [min(sizes, length - start) for start in range(0, length, sizes)]
    ends = np.cumsum(sizes)
    return tuple(
        recording.tensor(x.seen.take(axis, slice(end - size, end))) for size, end in zip(sizes, ends, strict=True)
    )


@function("chunk", "tensor_split")
def _chunk(recording: Recording, x: Traced, chunks: int, dim: int = 0) -> Any:
    length = int(x.seen.size(x.seen.axis(dim)))
    return _split(recording, x, -(-length // chunks), dim)


@function("unbind")
def _unbind(recording: Recording, x: Traced, dim: int = 0) -> Any:
    axis = x.seen.axis(dim)
    _need_features(x.seen, axis)
    return tuple(recording.tensor(x.seen.take(axis, i)) for i in range(int(x.seen.size(axis))))


@function("flip")
def _flip(recording: Recording, x: Traced, *dims: Any) -> Any:
    view = x.seen
    for axis in map(view.axis, sizes_of(dims)):
        if view.is_features(axis):
            view = view.take(axis, slice(None, None, -1))
        elif view.axes[axis] == ("T",):
            name = recording.graph.plain(view)
            view = view.with_value(recording.graph.add(Reverse, (name,), recording.graph.values[name].features))
        else:
            raise Refusal("reverses the batch")
    return recording.tensor(view)


@function("F.pad", "pad", "constant_pad_nd")
def _pad(recording: Recording, x: Traced, pad: Any, mode: Any = "constant", value: Any = None) -> Any:
    if not isinstance(mode, str):  # of constant_pad_nd it is the value
        mode, value = "constant", mode
    view = x.seen
    for place in range(0, len(pad), 2):
        before, after = int(pad[place]), int(pad[place + 1])
        axis = len(view.axes) - 1 - place // 2
        if before == after == 0:
            continue
        if mode != "constant" or value:
            raise Refusal(f"pads with mode={mode!r}, value={value}; expected zeros")
        if view.axes[axis] != ("T",):
            raise Refusal("pads features or batch; expected time")
        view = replace(view, pad=(view.pad[0] + before, view.pad[1] + after), steps=(view.steps or 0) + before + after)
        if min(before, after) < 0 < max(view.pad):
            raise Refusal("pads and cuts")
    return recording.tensor(view)


@function("cat", "concat", "concatenate")
def _cat(recording: Recording, tensors: Any, dim: int = 0, axis: int | None = None) -> Any:
    if not all(isinstance(each, Traced) for each in tensors):
        raise Refusal("puts constants beside values")
    views = [each.seen for each in tensors]
    if len(views) == 1:
        return tensors[0]
    place = views[0].axis(dim if axis is None else axis)
    rest = [(*view.axes[:place], *view.axes[place + 1 :]) for view in views]
    if len({len(view.axes) for view in views}) > 1 or any(axes != rest[0] for axes in rest):
        raise Refusal(f"puts side by side what does not go together: {[list(view.shape) for view in views]}")
    if len({view.steps for view in views if view.steps is not None}) > 1:
        raise Refusal("puts side by side sequences of different lengths")
    for view in views:
        _need_features(view, place)
    if all(view.value == views[0].value and view.pad == views[0].pad for view in views):
        joined = views[0]
    else:
        names = [recording.graph.plain(view) for view in views]
        size = sum(view.features for view in views)
        name = recording.graph.add(Concatenate, names, _side_by_side(recording, names) or (size,))
        joined = next((view for view in views if view.steps is not None), views[0])
        starts = np.cumsum([0, *(view.features for view in views)])
        views = [
            view.with_value(name, order=start + np.arange(view.features).reshape(view.order.shape))
            for view, start in zip(views, starts, strict=False)
        ]
        joined = replace(views[0], steps=joined.steps)
    order = np.concatenate([view.order for view in views], place)
    count = order.shape[place]
    axes = (*joined.axes[:place], (count,) if count > 1 else (), *joined.axes[place + 1 :])
    return recording.tensor(replace(joined, axes=axes, order=order))


def _side_by_side(recording: Recording, names: list[str]) -> tuple[int, ...] | None:
    """Channels by width, where all have the same width."""
    shapes = [recording.graph.values[name].features for name in names]
    if all(len(shape) == 2 and shape[1] == shapes[0][1] for shape in shapes):
        return (sum(shape[0] for shape in shapes), shapes[0][1])
    return None


@function("stack")
def _stack(recording: Recording, tensors: Any, dim: int = 0) -> Any:
    if not all(isinstance(each, Traced) for each in tensors):
        raise Refusal("puts constants beside values")
    return _cat(recording, [recording.tensor(each.seen.unsqueeze(dim)) for each in tensors], dim)
