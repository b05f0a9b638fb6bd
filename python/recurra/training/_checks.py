"""Arguments that several of these modules take, and arrays of NumPy and CuPy alike."""

from __future__ import annotations

import math
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from .._arrays import as_array, check_dtype, check_shape, offers
from .._options import float_dtype, integer, real
from ..cuda.array_libraries import is_cupy, is_torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._arrays import Array, Pattern


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


def is_finite(array: Any) -> bool:
    """A sum is finite only if every value is; only if it is not, it may be finite values that overflowed."""
    xp = namespace_of(array)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(xp.isfinite(array.sum())) or bool(xp.isfinite(array).all())


def require_finite(arrays: Iterable[tuple[str, Array]]) -> None:
    for name, array in arrays:
        if not is_finite(array):
            raise FloatingPointError(f"{name}: expected finite values, got NaN or infinity")


def floats(name: str, value: object) -> Any:
    array = read(name, value)
    float_dtype(name, array.dtype)
    return array


# ---- NumPy and CuPy


def read(name: str, value: object) -> Any:
    """An array of NumPy over the memory of `value`, or CuPy's as it is."""
    if is_cupy(value):
        return value
    if type(value) is not np.ndarray and offers(value, "__cuda_array_interface__"):
        cure = "torch has losses and optimisers for its own" if is_torch(value) else "use cupy.asarray"
        raise TypeError(f"{name}: expected an array of NumPy or CuPy, got {type(value).__name__} on a GPU: {cure}")
    return as_array(name, value)


def namespace_of(array: object) -> Any:
    """The module with the functions for an array: numpy, or cupy, which waits for nothing."""
    return sys.modules["cupy"] if is_cupy(array) else np


def device_of(array: Any) -> Any:
    """Around work on arrays of this one's device."""
    return array.device if is_cupy(array) else nullcontext()


def place(array: Any) -> str:
    """Where it is, for errors and to compare."""
    return f"a CuPy array on cuda:{array.device.id}" if is_cupy(array) else "a NumPy array"


def beside(name: str, value: object, other: Any, dtype: np.dtype[Any], *patterns: Pattern) -> Any:
    """`value` as an array of exactly this dtype and one of the shapes, of the library and on the device of another."""
    array = read(name, value)
    if place(array) != place(other):
        raise ValueError(f"{name}: expected {place(other)}, got {place(array)}")
    check_dtype(name, array.dtype, dtype)
    check_shape(name, array.shape, *patterns)
    return array


def integers(name: str, value: object, other: Any, *patterns: Pattern) -> Any:
    """The same, of any integer dtype."""
    array = read(name, value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got {array.dtype}")
    return beside(name, array, other, array.dtype, *patterns)
