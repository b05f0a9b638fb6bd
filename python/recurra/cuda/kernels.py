"""Compiling kernels before they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from .. import _core
from .._cells import CELLS
from .._options import choice, placement
from . import _libraries

__all__ = ["precompile"]

DTYPES = ("float32", "float64", "float16", "bfloat16")


class Unit(NamedTuple):
    """What is compiled at once: the kernels of a cell, or those that all cells share."""

    name: str
    dtype: str
    source: str
    options: list[str]


def units(cells: Iterable[str] | None = None, dtypes: Iterable[str] = DTYPES) -> list[Unit]:
    """All that layers of these cells and dtypes need."""
    wanted = list(CELLS) if cells is None else [choice("cells", cell, CELLS).name for cell in cells]
    return [
        Unit(name, dtype, source, options)
        for dtype in [choice("dtypes", dtype, {name: name for name in DTYPES}) for dtype in dtypes]
        for name, source, options in _core.cuda.units(dtype)
        if name in wanted or name not in CELLS
    ]


def compiled(wanted: Iterable[Unit], device: int) -> Iterator[bool]:
    """Compile units that the cache lacks, on all CPUs; for each that is done, whether the cache had it."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(lambda unit: _core.cuda.precompile(unit.source, unit.options, device), wanted)


def precompile(cells: Iterable[str] | None = None, dtypes: Iterable[str] = DTYPES, device: str = "cuda") -> int:
    """Compile kernels for a GPU now, into the cache on disk, rather than when a layer first needs them.

        >>> recurra.cuda.precompile(["gru"], ["float32"])
        4

    Args:
        cells: names among `recurra.cells()`, default all.
        dtypes: of float32, float64, float16 and bfloat16, default all.
        device: "cuda" (the first GPU) or "cuda:1" (the second).

    Returns:
        How many units were compiled; the cache had the others. There is one for each cell and dtype, and for each dtype
        there are those that all cells share. What runs all steps of a layer at once is compiled for a size, by the
        first call that takes it.

    Raises:
        ValueError: there is no such cell, dtype or GPU.
        RuntimeError: there is no driver or NVRTC; the message says how to get it.
    """
    gpu = placement(device, "float32").gpu
    if gpu is None:
        raise ValueError(f"device: expected 'cuda' or 'cuda:0', got {device!r}")
    wanted = units(cells, dtypes)
    _libraries.locate()
    return sum(not had for had in compiled(wanted, gpu))
