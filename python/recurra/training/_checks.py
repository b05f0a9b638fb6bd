"""Arguments that several of these modules take."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .._arrays import as_array
from .._options import float_dtype, integer, real

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._arrays import Array


def number(name: str, value: Any, below: float = math.inf) -> float:
    number = real(name, value)
    if not 0 <= number < below:
        raise ValueError(f"{name}: expected at least 0 and less than {below}, got {value}")
    return number


def positive(name: str, value: Any) -> float:
    number = real(name, value)
    if number <= 0:
        raise ValueError(f"{name}: expected a number above 0, got {value}")
    return number


def checked_axis(value: Any, axes: int) -> int:
    axis = integer("time_axis", value, 0)
    if axis >= axes:
        raise ValueError(f"time_axis: expected less than {axes}, got {axis}")
    return axis


def is_finite(array: Array) -> bool:
    """A sum is finite only if every value is; only if it is not, it may be finite values that overflowed."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum())) or bool(np.isfinite(array).all())


def require_finite(arrays: Iterable[tuple[str, Array]]) -> None:
    for name, array in arrays:
        if not is_finite(array):
            raise FloatingPointError(f"{name}: expected finite values, got NaN or infinity")


def floats(name: str, value: object) -> Array:
    array = as_array(name, value)
    float_dtype(name, array.dtype)
    return array
