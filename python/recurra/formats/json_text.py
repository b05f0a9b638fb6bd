"""JSON from files that may hold anything."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .._options import shown
from .files import as_path

if TYPE_CHECKING:
    import os

    from .._arrays import Array

__all__ = ["entry", "number", "numbers", "parse", "read", "rounded"]


def read(source: str | os.PathLike[str] | dict[str, Any], what: str) -> tuple[dict[str, Any], str]:
    """The object in a file, or one that has been read; and what errors call it."""
    if isinstance(source, dict):
        return source, what
    path = as_path("source", source)
    return parse(path.read_bytes(), str(path)), f"{path}: {what}"


def parse(text: bytes, what: str) -> dict[str, Any]:
    """The object that `text` holds, as UTF-8.

    Raises:
        ValueError: it is no JSON, nests too deep, has a key twice or holds something else; names `what`.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("expected every key only once")
        return found

    def refuse(word: str) -> NoReturn:
        raise ValueError(f"expected a number, got {word}")

    try:
        found = json.loads(text.decode("utf-8-sig"), object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError:
        raise ValueError(f"{what}: no JSON that can be read: it nests too deep") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError too
        raise ValueError(f"{what}: no JSON that can be read: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{what}: expected a JSON object, got {type(found).__name__}")
    return found


def entry(where: str, found: Any, name: str, kinds: type | tuple[type, ...], expected: str, default: Any = ...) -> Any:
    """The value of a key, of one of these types; `default`, if there is one, where the key is missing.

    Raises:
        ValueError: there is none, or of another type.
    """
    value = found.get(name, default) if isinstance(found, dict) else ...
    if value is ...:
        raise ValueError(f"{where}: expected {name}, {expected}, got none")
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        raise ValueError(f"{where}: {name}: expected {expected}, got {shown(value)}")
    return value


def number(where: str, found: Any, name: str, default: Any = ...) -> float:
    """The value of a key, a finite number.

    Raises:
        ValueError: there is none, or something else.
    """
    value = entry(where, found, name, (int, float), "a number", default)
    try:
        real = float(value)
    except OverflowError:
        real = math.inf
    if not math.isfinite(real):
        raise ValueError(f"{where}: {name}: expected a finite number, got {shown(value)}")
    return real


def numbers(where: str, value: Any, *shape: int) -> Array:
    """Nested lists of numbers as float64 of exactly this shape.

    Raises:
        ValueError: they have another shape, or something else is among them.
    """
    rows = [value]
    for size in shape:
        if not all(isinstance(row, list) and len(row) == size for row in rows):
            raise ValueError(f"{where}: expected numbers of shape {list(shape)}, got {_shape(value)}")
        rows = [item for row in rows for item in row]
    if not all(type(number) in (int, float) for number in rows):
        raise ValueError(f"{where}: expected numbers of shape {list(shape)}, got something else among them")
    try:
        found = np.array(rows, "float64").reshape(shape)
    except OverflowError:
        found = np.array([math.inf])
    if not np.isfinite(found).all():
        raise ValueError(f"{where}: expected finite numbers, got {found[~np.isfinite(found)][0]}")
    return found


def rounded(where: str, dtype: np.dtype[Any], **arrays: Array | None) -> dict[str, Array]:
    """Those that are there, in another dtype.

    Raises:
        ValueError: a number is too large for it.
    """
    found = {}
    for name, array in arrays.items():
        if array is None:
            continue
        with np.errstate(over="ignore"):
            found[name] = np.ascontiguousarray(array, dtype)
        wrong = ~np.isfinite(found[name])
        if wrong.any():
            raise ValueError(f"{where}: {name}: expected numbers that {dtype} holds, got {array[wrong][0]}")
    return found


def _shape(value: Any) -> str:
    """The first list at each level, as errors show them."""
    sizes = []
    while isinstance(value, list):
        sizes.append(len(value))
        value = value[0] if value else None
    return f"{sizes} of {shown(value)}"
