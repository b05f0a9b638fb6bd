"""Resets and masks for an engine that knows none: the sequences between resets as rows of their own, their valid steps
moved together."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._arrays import Array

__all__ = ["Segments", "segments_of"]


class Segments(NamedTuple):
    """S rows of at most N steps, and where everything comes from: indices, int64.

    Attributes:
        sizes: [S] steps of each.
        parts: [S, 3] int32, of each its row, and how many of the row's valid steps are before and after it.
        place: [N, S] of a step in x, t * B + b; 0 past a segment's end.
        begins: for each direction [S]: a row 0 .. B - 1 for its initial state, or B + that for the state that its
            resets lead to.
        ends: for each direction [B]: the segment whose final state is the row's.
        outputs: for each direction [T, B]: n * S + s for an output of the rows, N * S + s for the state that segment s
            begins with, (N + 1) * S for zeros.
    """

    sizes: Array
    parts: Array
    place: Array
    begins: list[Array]
    ends: list[Array]
    outputs: list[Array]


def segments_of(
    steps: int,
    rows: int,
    lengths: Array | None,
    resets: Array | None,
    mask: Array | None,
    repeats: bool,
    backwards: Sequence[bool],
) -> Segments:
    """The segments of a call [T, B].

    Args:
        resets, mask: booleans [T, B].
        repeats: whether masked steps have the last output, in place of zeros.
        backwards: of each direction, whether it runs from the last step to the first.
    """
    t = np.arange(steps)[:, None]
    within = t < (np.full(rows, steps) if lengths is None else lengths)
    resets = np.zeros((steps, rows), bool) if resets is None else resets & within
    valid = within if mask is None else mask & within

    later = resets & (t > 0)
    number = later.cumsum(0)  # of the segment in its row
    count = number.max(0, initial=0) + 1
    last = count.cumsum() - 1
    first, total = last - count + 1, int(count.sum())
    row = first + number
    done = valid.cumsum(0) - valid  # valid steps of the row before this one, then of the segment
    done = done - np.maximum.accumulate(np.where(later, done, 0), axis=0)
    sizes = np.bincount(row[valid], minlength=total)
    longest = int(sizes.max(initial=0))
    place = np.zeros((longest, total), np.int64)
    place[done[valid], row[valid]] = (t * rows + np.arange(rows))[valid]

    rows_of = np.repeat(np.arange(rows), count)
    before = sizes.cumsum() - sizes
    before -= before[first[rows_of]]
    parts = np.stack([rows_of, before, valid.sum(0)[rows_of] - before - sizes], 1).astype(np.int32)

    begins, ends, outputs = [], [], []
    for backward in backwards:
        start, end = (last, first) if backward else (first, last)
        begin = rows_of + rows
        begin[start] -= rows
        if steps and not backward:
            begin[start] += rows * resets[0]
        step = done if backward else done + valid - 1  # whose output is the last one
        known = (step >= 0) & (step < sizes[row])
        index = np.where(known, step * total + row, longest * total + row)
        outputs.append(np.where(within if repeats else valid, index, (longest + 1) * total))
        begins.append(begin)
        ends.append(end)
    return Segments(sizes, parts, place, begins, ends, outputs)
