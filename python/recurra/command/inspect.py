"""``recurra inspect FILE``: what is in it, and how fast it is here."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from recurra import _core
from recurra.model.structure import state_sizes
from recurra.model.summary import rows
from recurra.recurrent import Recurrent

from . import arguments
from .table import number

if TYPE_CHECKING:
    from pathlib import Path

    from recurra.model import Model

__all__ = ["run"]


def run(path: Path) -> int:
    """Print it all."""
    model = arguments.load(path)
    print(f"{path}: {path.stat().st_size:,} bytes")
    print(model.summary())
    for name, layer in model.layers.items():
        if isinstance(layer, Recurrent):
            sizes = ", ".join(f"{state} {size}" for state, size in state_sizes(layer).items())
            print(f"state of {name}: {sizes} numbers a row")
    try:
        median = step_time(model)
    except ValueError as error:
        print(f"no stream: {error}")
        return 0
    share = 100 * least_time(model) / median
    print(f"one step of a stream: {number(median * 1e6)} us, {share:.0f} % of this machine's limit")
    return 0


def step_time(model: Model, seconds: float = 0.5) -> float:
    """Seconds of a stream's step, the median of many, each the mean of a few."""
    stream = model.stream()
    frames = [random_frame(value) for value in model.inputs.values()]
    x: Any = frames[0] if len(frames) == 1 else tuple(frames)
    begin = time.perf_counter()
    stream.step(x)
    count = max(1, int(1e-4 / (time.perf_counter() - begin + 1e-9)))
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        for _ in range(count):
            stream.step(x)
        times.append((time.perf_counter() - begin) / count)
    return float(np.median(times))


def least_time(model: Model) -> float:
    """Seconds in which one core can make a step's multiply-adds, and read its weights from where they stay."""
    table = rows(model)
    multiply_adds, weights = sum(row.multiply_adds for row in table), sum(row.bytes for row in table)
    limits = _core.limits(1, [max(16, weights // 1024)])
    arithmetic = multiply_adds / (limits["fma_f32_gflops"] * 1e9 / 2)
    memory = weights / (limits["read_gbs"][-1][1] * 1e9)
    return float(max(arithmetic, memory))


def random_frame(value: Any, *leading: int, random: np.random.Generator | None = None) -> Any:
    """A frame of an input, or [*leading] of them; whole numbers are 0 or 1, which every embedding has."""
    random = random or np.random.default_rng(0)
    shape = (*leading, *value.features)
    return random.integers(0, 2, shape) if value.integer else random.standard_normal(shape, dtype="float32")
