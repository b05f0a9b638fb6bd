"""Plain arguments: numbers, flags and choices, each checked with an error that names it."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    Seed: TypeAlias = int | Sequence[int] | np.random.SeedSequence | np.random.BitGenerator | np.random.Generator | None

T = TypeVar("T")

FLOAT_DTYPES = {np.dtype(name): name for name in ("float32", "float64")}


def shown(value: Any) -> str:
    """`value` as errors show it: its beginning, if it is long."""
    try:
        text = repr(value)
    except Exception:  # whatever the caller's __repr__ raises, and Python's for an integer of thousands of digits
        return f"{'an' if isinstance(value, int) else 'a'} {type(value).__name__} that cannot be shown"
    return text if len(text) <= 100 else f"{text[:100]}..."


def integer(name: str, value: Any, minimum: int = 1) -> int:
    """`value` as an int of at least `minimum`; booleans and floats are refused."""
    try:
        number = None if isinstance(value, (bool, np.ndarray)) else operator.index(value)
    except Exception:  # whatever the caller's __index__ raises
        number = None
    if number is None:
        raise TypeError(f"{name}: expected an integer, got {shown(value)}")
    if number < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {shown(number)}")
    return number


def real(name: str, value: Any) -> float:
    """`value`, an int or float but not NaN, as a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected a number that float64 holds, got {shown(value)}") from None
    if math.isnan(number):
        raise ValueError(f"{name}: expected a number, got NaN")
    return number


def chance(name: str, value: Any) -> float:
    """`value` as a float in 0..1."""
    number = real(name, value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name}: expected a number in 0..1, got {shown(value)}")
    return number


def flag(name: str, value: Any) -> bool:
    """`value` as a bool; anything else is refused, so that a misplaced positional argument is noticed."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {shown(value)}")
    return bool(value)


def choice(name: str, value: Any, choices: Mapping[Any, T]) -> T:
    """What `choices` holds for `value`, of the same type: 1 and 1.0 are not True."""
    wanted = bool(value) if isinstance(value, np.bool_) else value
    for key, chosen in choices.items():
        if isinstance(wanted, type(key)) and wanted == key:
            return chosen
    raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {shown(value)}")


def float_dtype(name: str, value: Any) -> np.dtype[Any]:
    """`value` as one of the two dtypes the core computes in."""
    try:  # NumPy reads much more as float64, None for one
        dtype: Any = np.dtype(value) if isinstance(value, (str, type, np.dtype)) else None
    except Exception:  # TypeError, ValueError, SyntaxError, or what an attribute `dtype` of the caller's raises
        dtype = None
    if dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name}: expected float32 or float64, got {shown(value)}")
    return dtype  # type: ignore[no-any-return]


def mapping(name: str, value: Any) -> dict[str, Any]:
    """`value`, a mapping of names, read once: what is checked is what is used, even if it changes meanwhile."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: expected a mapping of names to arrays, got {type(value).__name__}")
    try:
        found = dict(value)
    except Exception as error:  # whatever the caller's mapping raises
        raise TypeError(f"{name}: cannot be read: {error!r}") from error
    for key in found:
        if not isinstance(key, str):
            raise TypeError(f"{name}: expected names, got {key!r}")
    return found


def generator(seed: Seed, rng: np.random.Generator | None = None) -> np.random.Generator:
    """What initial parameters are drawn from: `rng`, or a new generator from the seed."""
    if rng is not None:
        if seed is not None:
            raise ValueError("rng: expected none beside a seed, got both")
        if not isinstance(rng, np.random.Generator):
            raise TypeError(f"rng: expected a numpy.random.Generator, got {type(rng).__name__}")
        return rng
    if isinstance(seed, (list, tuple)):
        seed = [integer("seed", part, 0) for part in seed]
    elif not isinstance(seed, (type(None), np.random.SeedSequence, np.random.BitGenerator, np.random.Generator)):
        seed = integer("seed", seed, 0)
    return np.random.default_rng(seed)
