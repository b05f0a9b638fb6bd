"""What weights of reduced precision ask of parameters and states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._options import integer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ._arrays import Array
    from ._cells import Sizes

__all__ = ["check_precision", "check_unit_range", "kept_layers"]


def check_precision(precision: str | None, dtype: np.dtype[Any], parameters: Mapping[str, Array]) -> None:
    """ValueError unless these parameters can be stored in it."""
    if precision is None:
        return
    if dtype != np.float32:
        raise ValueError(f"precision: expected None for {dtype} parameters, got {precision!r}")
    for name, array in parameters.items():
        if precision == "int8" and not np.isfinite(array).all():
            raise ValueError(f"{name}: expected finite values for int8, got NaN or infinity")


def check_unit_range(name: str, h: Array, sizes: Sizes, keep: tuple[int, ...]) -> None:
    """ValueError if h of a layer in int8 is larger than its scale says."""
    rounded = [k for k in range(len(h)) if k // sizes.directions not in keep]
    if (np.abs(h[rounded]) > 1).any():
        raise ValueError(f"{name}: expected values in -1..1 for int8, whose scale is fixed, got larger ones")


def kept_layers(name: str, numbers: Iterable[int], layers: int) -> tuple[int, ...]:
    """Each number once, in order."""
    if not isinstance(numbers, (list, tuple, set, frozenset, range)):
        raise TypeError(f"{name}: expected numbers of layers, got {numbers!r}")
    found = {integer(name, number, 0) for number in numbers}
    if found and max(found) >= layers:
        raise ValueError(f"{name}: expected layers from 0 to {layers - 1}, got {max(found)}")
    return tuple(sorted(found))
