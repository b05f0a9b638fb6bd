"""What befalls single steps of a call: resets and masks, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _core
from ._arrays import as_array, batched, check_shape, contiguous
from ._options import choice, flag

if TYPE_CHECKING:
    from ._arrays import Array
    from .packed import CpuPacked

__all__ = ["PREVIOUS", "Marks", "checked_flags", "checked_marks", "marks_of", "repeats", "step_flags"]

PREVIOUS = "previous"
_MASKED_OUTPUTS = {PREVIOUS: True, "zero": False}


class Marks(NamedTuple):
    """The caller's arguments, at least one of which is not default."""

    resets: Any
    reset_state: Any
    mask: Any
    masked_output: Any


def marks_of(resets: Any, reset_state: Any, mask: Any, masked_output: Any) -> Marks | None:
    """None for a call without any; what means nothing without another argument is refused."""
    repeats(masked_output)
    if resets is None and reset_state is not None:
        raise ValueError("reset_state: expected None without resets")
    if mask is None and masked_output != PREVIOUS:
        raise ValueError(f"masked_output: expected {PREVIOUS!r} without a mask, got {masked_output!r}")
    return None if resets is None and mask is None else Marks(resets, reset_state, mask, masked_output)


def repeats(masked_output: Any) -> bool:
    """Whether masked steps have the last output."""
    return masked_output is PREVIOUS or choice("masked_output", masked_output, _MASKED_OUTPUTS)


def checked_flags(name: str, value: Any, steps: int, batch: tuple[int, ...], batch_first: bool = False) -> Array | None:
    """A copy [T, B] of the caller's booleans: [T, B], with batch_first [B, T], or [T] without a batch axis."""
    if value is None:
        return None
    array = as_array(name, value)
    if array.dtype != bool:
        raise TypeError(f"{name}: expected bool, got {array.dtype}")
    check_shape(name, array.shape, (*batch, steps) if batch_first else (steps, *batch))
    if not batch:
        array = array[:, None]
    return np.array(array.T if batch_first and batch else array, order="C")  # copied: what was checked is what is used


def step_flags(name: str, value: Any, batch: tuple[int, ...]) -> Array | None:
    """The caller's booleans of one step, [B], or True or False without a batch axis, as those of a sequence."""
    if value is None:
        return None
    if not batch:
        return np.array([flag(name, value)])
    flags = checked_flags(name, value, batch[0], ())
    return None if flags is None else flags.T


def checked_marks(
    packed: CpuPacked, marks: Marks | None, shape: tuple[int, ...], batch: tuple[int, ...], batch_first: bool
) -> tuple[_core.Marks | None, dict[str, Array]]:
    """The marks of a call with an x of this shape, as the core takes them; and the caller's reset_state by the names
    that errors call it, [L*D, B, size] or [L*D, size] for all rows."""
    if marks is None:
        return None, {}
    steps = shape[1 if batch and batch_first else 0]
    resets = checked_flags("resets", marks.resets, steps, batch, batch_first)
    mask = checked_flags("mask", marks.mask, steps, batch, batch_first)
    given = marks.reset_state
    state = {} if given is None else packed.check_state(given, batch, "reset_state", shared=True)
    rows = [
        batched(contiguous(array)) if array.ndim == 3 or not batch else np.repeat(array[:, None], batch[0], axis=1)
        for array in state.values()
    ]
    start = rows or (None if resets is None else packed._begin({}, batch))
    return _core.Marks(resets, mask, start, repeats(marks.masked_output)), state
