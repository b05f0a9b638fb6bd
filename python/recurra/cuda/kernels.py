"""Compiling kernels before they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from .. import _core
from .._cells import CELLS
from .._options import choice, integer, placement
from . import _libraries
from .explain import packed_of

if TYPE_CHECKING:
    from ..recurrent import Recurrent

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


def precompile(
    cells: Iterable[str] | Recurrent | None = None,
    dtypes: Iterable[str] = DTYPES,
    device: str = "cuda",
    *,
    batch: int | Iterable[int] = 1,
) -> int:
    """Compile kernels for a GPU now, into the cache on disk, rather than when a layer first needs them.

        >>> recurra.cuda.precompile(["gru"], ["float32"])
        4
        >>> layer = recurra.GRU(8, 37, device="cuda", engine="exact-resident")
        >>> recurra.cuda.precompile(layer, batch=[1, 16])
        2

    Args:
        cells: names among `recurra.cells()`, default all. Or a layer of sequences on a GPU whose engine is resident:
            what runs all its steps at once, forward and backward, which is compiled for a size. (The rest was compiled
            when it was made.)
        dtypes: of float32, float64, float16 and bfloat16, default all. A layer has its own.
        device: "cuda" (the first GPU) or "cuda:1" (the second). A layer has its own.
        batch: of the layer's calls, one or several: how many rows there are decides which kernels run.

    Returns:
        How many units were compiled; the cache had the others. There is one for each cell and dtype, and for each dtype
        there are those that all cells share.

    Raises:
        TypeError: a layer that is none of sequences, or on the CPU; `batch` is no integer.
        ValueError: there is no such cell, dtype or GPU; `batch` is less than 1.
        RuntimeError: there is no driver or NVRTC; the message says how to get it.
    """
    if hasattr(cells, "_packed"):
        packed, before = packed_of(cells), _core.cuda.compilations()
        for rows in [integer("batch", rows) for rows in (batch if isinstance(batch, Iterable) else [batch])]:
            packed.plan(1, rows, training=True)
        return _core.cuda.compilations() - before
    gpu = placement(device, "float32").gpu
    if gpu is None:
        raise ValueError(f"device: expected 'cuda' or 'cuda:0', got {device!r}")
    wanted = units(cells, dtypes)
    _libraries.locate()
    return sum(not had for had in compiled(wanted, gpu))
