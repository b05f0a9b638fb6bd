"""The nodes of grids in the order in which they can be computed: by anti-diagonals, all of one in one front."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._arrays import as_array, vector
from ._options import shown

if TYPE_CHECKING:
    from ._arrays import Array


class Order(NamedTuple):
    """Rows of nodes: those of a front, a sum of coordinates, follow each other.

    Attributes:
        nodes: [R] position of each row's node in a flat array [B, D1, .., DN].
        fronts: [F+1] rows fronts[f] .. fronts[f+1]-1 are front f.
        before: [N, R] row of the predecessor along each axis, -1 at the border.
    """

    nodes: Array
    fronts: Array
    before: Array


def grid_order(shape: tuple[int, ...], sizes: bytes | None, flips: tuple[bool, ...]) -> Order:
    """The order of B samples' nodes.

    Args:
        shape: B, D1, .., DN.
        sizes: [B, N] int64 sizes of the samples, each in the first corner of its D1 x .. x DN; None where all are full.
        flips: for each axis whether it is read backwards, from a sample's own end.
    """
    batch, *extent = shape
    dims, count = len(extent), math.prod(shape)
    own = np.tile(extent, (batch, 1)) if sizes is None else np.frombuffer(sizes, np.int64).reshape(batch, dims)
    strides = [math.prod(extent[axis + 1 :]) for axis in range(dims)]
    position = np.arange(count).reshape(batch, -1)
    steps, inside = np.empty((dims, *position.shape), np.int64), np.ones(position.shape, bool)
    for axis, stride in enumerate(strides):
        coordinate, size = position // stride % extent[axis], own[:, axis, None]
        inside &= coordinate < size
        steps[axis] = size - 1 - coordinate if flips[axis] else coordinate
    inner = position[inside]
    steps = steps[:, inside]
    front = steps.sum(0)
    order = np.argsort(front, kind="stable")
    nodes = inner[order]
    row = np.full(count, -1)
    row[nodes] = np.arange(len(nodes))
    before = np.full((dims, len(nodes)), -1)
    for axis, stride in enumerate(strides):
        rows = np.flatnonzero(steps[axis, order])
        before[axis, rows] = row[nodes[rows] + (stride if flips[axis] else -stride)]
    fronts = np.concatenate([[0], np.cumsum(np.bincount(front))])
    return Order(nodes, fronts, before)


def checked_sizes(sizes: Any, shape: tuple[int, ...], least: int = 1) -> Array | None:
    """A caller's sizes [B, N] as int64, `least` or more, for a batch of this shape B, D1, .., DN; None if every sample
    is full."""
    if 0 in shape:
        raise ValueError(f"x: expected at least one sample and no empty axis, got {list(shape)} nodes")
    if min(shape[1:], default=least) < least:
        raise ValueError(f"x: expected at least {least} nodes along each axis, got {list(shape)} nodes")
    if sizes is None:
        return None
    batch, dims = shape[0], len(shape) - 1
    if isinstance(sizes, (list, tuple)):
        if len(sizes) != batch:
            raise ValueError(f"sizes: expected {batch} rows of {dims} integers, got {len(sizes)}")
        rows: Any = [vector(f"sizes[{sample}]", row, dims) for sample, row in enumerate(sizes)]
        own = np.array([row.astype(np.int64) for row in rows])
    else:
        rows = as_array("sizes", sizes)
        if rows.dtype.kind not in "iu":
            raise TypeError(f"sizes: expected integers, got {rows.dtype}")
        if rows.shape != (batch, dims):
            raise ValueError(f"sizes: expected shape [{batch}, {dims}], got {list(rows.shape)}")
        own = rows.astype(np.int64)  # copied first: what is checked is what is used
    wrong = (own < least) | (own > shape[1:])
    if wrong.any():
        sample = int(wrong.any(1).argmax())
        raise ValueError(
            f"sizes: expected {least}..{list(shape[1:])}, got {shown(rows[sample].tolist())} for sample {sample}"
        )
    return None if (own == shape[1:]).all() else own
