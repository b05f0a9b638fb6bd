"""Plain arguments: numbers, flags and choices, each checked with an error that names it."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

FLOAT_DTYPES = {np.dtype(name): name for name in ("float32", "float64")}


def integer(name: str, value: Any, minimum: int = 1) -> int:
    """`value` as an int of at least `minimum`; booleans and floats are refused."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, (bool, np.ndarray)):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if number < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {number}")
    return number


def real(name: str, value: Any) -> float:
    """`value`, an int or float but not NaN, as a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    number = float(value)
    if math.isnan(number):
        raise ValueError(f"{name}: expected a number, got NaN")
    return number


def chance(name: str, value: Any) -> float:
    """`value` as a float in 0..1."""
    number = real(name, value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name}: expected a number in 0..1, got {value}")
    return number


def flag(name: str, value: Any) -> bool:
    """`value` as a bool; anything else is refused, so that a misplaced positional argument is noticed."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def choice(name: str, value: Any, choices: Mapping[Any, T]) -> T:
    """What `choices` holds for `value`."""
    try:
        return choices[value]
    except (KeyError, TypeError):
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}") from None


def float_dtype(name: str, value: Any) -> np.dtype[Any]:
    """`value` as one of the two dtypes the core computes in."""
    try:
        dtype: np.dtype[Any] = np.dtype(value)
    except TypeError:
        raise TypeError(f"{name}: expected float32 or float64, got {value!r}") from None
    if value is None or dtype not in FLOAT_DTYPES:  # NumPy reads None as float64
        raise TypeError(f"{name}: expected float32 or float64, got {value}")
    return dtype
