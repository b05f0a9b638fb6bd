"""A small table of times on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from .. import _core
from .._cells import CELLS, Sizes
from .buffers import Buffer
from .direct import LEGACY_STREAM, Direct

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
            networks = [_network(cell, width, dtype, device) for dtype in DTYPES]
            for rows in ROWS:
                yield Row(cell, rows, width, [_step(network, rows, device) for network in networks])


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


def random_parameters(cell: str, sizes: Sizes, seed: int = 0) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """As a layer begins with: uniform in +-1/sqrt(H)."""
    random, bound = np.random.default_rng(seed), sizes.hidden**-0.5
    return {
        name: ((2 * random.random(shape, "float32") - 1) * bound).astype("float32")
        for name, shape in CELLS[cell].shapes(sizes).items()
    }


def _network(cell: str, width: int, dtype: str, device: int) -> Direct:
    sizes = Sizes(width, width, width, 1, 1, True)
    return Direct(cell, sizes, random_parameters(cell, sizes), dtype=dtype, device=device)


def _step(network: Direct, rows: int, device: int) -> float:
    call = network.call(STEPS, rows)
    x = Buffer.of(np.random.default_rng(1).standard_normal(call.x_shape).astype("float32"), network.dtype, device)
    return median_us(lambda: call.forward(x), device) / STEPS
