"""What a model's nodes hand on to each other in training: values, and which of their steps count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .convolution import _Window
from .operation import Operation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._arrays import Array

__all__ = ["Flow", "Marks", "marks_after"]


class Marks(NamedTuple):
    """Of the steps of a sequence; None where there is nothing to say.

    Attributes:
        lengths: int64 [B].
        mask: bool [T, B], False for steps that are left out.
        resets: bool [T, B].
    """

    lengths: Array | None = None
    mask: Array | None = None
    resets: Array | None = None


class Flow(NamedTuple):
    """A value of a model: [T, B, F], or [B, F] without time, zero past each row's length."""

    values: Array
    time: bool
    marks: Marks = Marks()

    @property
    def valid(self) -> Array | None:
        """Which steps lie within their rows, [T, B]; None for all."""
        lengths = self.marks.lengths
        return None if lengths is None or not self.time else np.arange(len(self.values))[:, None] < lengths

    @property
    def counts(self) -> Array | None:
        """Which of these are not masked either."""
        valid, mask = self.valid, self.marks.mask
        return mask if valid is None else valid if mask is None else valid & mask

    def blank(self, array: Array) -> Array:
        """An array like the values, in place made zero past each row's length."""
        if (valid := self.valid) is not None:
            array[~valid] = 0
        return array


def marks_after(layer: Any, inputs: Sequence[Flow]) -> Marks:
    """Those of what comes out of a layer; what a mask or resets would make ambiguous is refused.

    Raises:
        ValueError: which.
    """
    first, kind = inputs[0].marks, layer.kind if isinstance(layer, Operation) else ""
    if kind in ("pool", "reverse"):
        _require(kind, first, resets=False, mask=kind == "pool")
        return Marks() if kind == "pool" else first
    if isinstance(layer, _Window):
        return _after_window(layer, inputs[0])
    if kind in ("add", "multiply", "concatenate"):
        return _together(kind, [each for each in inputs if each.time])
    if kind == "mask" and len(inputs[0].values):
        valid = (inputs[-1].values != layer.value).any(axis=2)
        return first._replace(mask=valid if first.mask is None else first.mask & valid)
    return Marks() if kind == "repeat" else first


def _require(kind: str, marks: Marks, *, resets: bool, mask: bool) -> None:
    """ValueError where there is one that may not be."""
    for name, array, may in (("resets", marks.resets, resets), ("mask", marks.mask, mask)):
        if array is not None and not may:
            raise ValueError(f"{kind}: expected no {name} here")


def _after_window(window: _Window, x: Flow) -> Marks:
    (size, _), (stride, _), (sides, _) = window.kernel_size, window.stride, window.padding
    if size == stride == 1 and sides == (0, 0):
        return x.marks
    aligned = stride == 1 and window.future == 0 and sides[1] == 0
    _require(f"{window.kind} over time", x.marks, resets=aligned, mask=False)
    lengths = x.marks.lengths
    if lengths is not None:
        lengths = np.array([window.output_length(n) for n in lengths.tolist()], np.int64)
    return Marks(lengths, None, x.marks.resets)


def _together(kind: str, timed: Sequence[Flow]) -> Marks:
    """A step that one of several inputs masks is masked, and a row is as long as the shortest."""
    if len({len(each.values) for each in timed}) > 1:
        raise ValueError(f"{kind}: expected as many steps in all, got {[len(each.values) for each in timed]}")

    def of(name: str, join: Any) -> Array | None:
        found = [array for each in timed if (array := getattr(each.marks, name)) is not None]
        return join.reduce(found) if found else None

    return Marks(of("lengths", np.minimum), of("mask", np.logical_and), of("resets", np.logical_or))
