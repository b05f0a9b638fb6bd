"""A small table of times on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import _core
from ..recurrent import Recurrent
from .array_libraries import LEGACY_STREAM
from .buffers import Buffer

STEPS = 100
CELL_NAMES, ROWS, WIDTHS, DTYPES = ("lstm", "gru"), (1, 64), (128, 512, 1024), ("float32", "bfloat16")


class Row(NamedTuple):
    """Microseconds a step of a call of so many steps, of every dtype."""

    cell: str
    rows: int
    width: int
    us: list[float]


def measure(device: int = 0) -> Iterator[Row]:
    """Row by row; inputs are as wide as the layer."""
    for cell in CELL_NAMES:
        for width in WIDTHS:
            layers = [Recurrent(cell, width, width, device=f"cuda:{device}", dtype=dtype, seed=0) for dtype in DTYPES]
            for rows in ROWS:
                yield Row(cell, rows, width, [_step(layer, rows, device) for layer in layers])


def median_us(call: Callable[[], object], device: int = 0, warm_ups: int = 3, samples: int = 15) -> float:
    """Of the legacy stream's work for a call, by events."""
    timer, found = _core.cuda.Timer(device), []
    for number in range(warm_ups + samples):
        timer.start(LEGACY_STREAM)
        call()
        timer.stop(LEGACY_STREAM)
        us = timer.microseconds
        if number >= warm_ups:
            found.append(us)
    return float(np.median(found))


def table(rows: list[Row]) -> list[str]:
    """Lines of text."""
    heads = [f"{'':<6}{'B':>4}{'H':>6}" + "".join(f"{dtype:>10}" for dtype in DTYPES)]
    return heads + [
        f"{row.cell.upper():<6}{row.rows:>4}{row.width:>6}" + "".join(f"{us:>10.2f}" for us in row.us) for row in rows
    ]


def _step(layer: Any, rows: int, device: int) -> float:
    x = np.random.default_rng(1).standard_normal((STEPS, rows, layer.input_size), "float32")
    there = Buffer.of(x, str(layer.dtype), device)
    return median_us(lambda: layer(there), device) / STEPS
