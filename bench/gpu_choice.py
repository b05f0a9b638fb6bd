"""The table of cpp/cuda/choice.h: as it is, and as a run of `gpu.py --tune` would have it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Found = dict[str, Any]
FILE = Path(__file__).resolve().parent.parent / "cpp" / "cuda" / "choice.h"
LINE = re.compile(r"^constexpr (\w+) (k\w+) = ([\d.]+);", re.MULTILINE)
Clock = float  # cycles of a microsecond
MULTIPROCESSOR_TENSORS, OPERATIONS = 4, 2 * 16 * 8 * 16  # quarters; of one mma.m16n8k16


def constants() -> dict[str, float]:
    """As they are."""
    return {name: float(value) for _, name, value in LINE.findall(FILE.read_text())}


def settled(run: Found) -> Iterator[str]:
    """Every line of the table, with what this run found in place of arithmetic, or why it did not."""
    clock = measured(run, "clock_mhz") or constants()["kCyclesOfMicrosecond"]
    for kind, name, value in LINE.findall(FILE.read_text()):
        if name not in SETTLERS:
            yield f"constexpr {kind} {name} = {value};  // as it was: no run settles it"
            continue
        found = SETTLERS[name](run, clock)
        line = f"constexpr {kind} {name} = {value if found is None else written(found)};"
        yield line + ("  // as it was: not measured" if found is None else f"  // measured; it was {value}")


def written(value: float) -> str:
    """Three digits, as C++ reads them."""
    return f"{float(f'{value:.3g}'):g}"


# ---- each of them; None: not measured


def measured(run: Found, name: str) -> float | None:
    """Of part 4."""
    one = run.get("parts", {}).get("assumptions", {}).get("found", {}).get("measured", {}).get(name)
    return one["value"] if one else None


def cycles(*names: str) -> Callable[[Found, Clock], float | None]:
    """Of microseconds of part 4, the first that there is."""
    return lambda run, clock: next((us * clock for name in names if (us := measured(run, name)) is not None), None)


def exact_sources(run: Found, clock: Clock) -> float | None:
    """Where "exact" loses least, in float32."""
    rows = [row for row in tuned(run, dtype="float32") if {"exact", "cublas"} <= row["times"].keys()]
    return threshold(rows)[0] if rows else None


def threshold(rows: list[Found]) -> tuple[int, float]:
    """The H up to which "exact" is chosen that loses least, and the mean loss as a factor."""

    def loss(most: int) -> float:
        logs = []
        for row in rows:
            log = math.log(row["times"]["exact"]["median"] / row["times"]["cublas"]["median"])
            logs.append(max(0.0, log if row["shape"]["hidden"] <= most else -log))
        return sum(logs) / len(logs)

    best = min((0, *sorted({row["shape"]["hidden"] for row in rows})), key=loss)
    return best, math.exp(loss(best))


def of_exact_steps(run: Found) -> tuple[float, float] | None:
    """Microseconds of a kernel, and of a slice of 16 numbers: a step of one row is two kernels, with slices in one."""
    rows = [row for row in tuned(run, dtype="float32", rows=1, training=False) if "exact" in row["times"]]
    if len({row["shape"]["hidden"] for row in rows}) < 3:
        return None
    slices = [math.ceil(row["shape"]["hidden"] / 16) for row in rows]
    each, both = np.polyfit(slices, [step_us(row, "exact") for row in rows], 1)
    return float(both) / 2, float(each)


def launch(run: Found, clock: Clock) -> float | None:
    """A kernel."""
    found = of_exact_steps(run)
    return found[0] if found else None


def exact_slice(run: Found, clock: Clock) -> float | None:
    """16 numbers."""
    found = of_exact_steps(run)
    return found[1] if found else None


def cublas(run: Found, clock: Clock) -> float | None:
    """A step of few rows less its pointwise kernel."""
    kernel = launch(run, clock) or constants()["kLaunchMicroseconds"]
    rows = tuned(run, dtype="bfloat16", training=False)
    return median(step_us(row, "cublas") - kernel for row in rows if row["shape"]["rows"] < 64)


def step(dtype: str) -> Callable[[Found, Clock], float | None]:
    """What one launch takes a step beside what is in the table already: of one block with one row."""
    name = "kStepCycles" if dtype == "float32" else "kWideStepCycles"

    def found(run: Found, clock: Clock) -> float | None:
        return median(
            step_us(row, "recurra resident") * clock - cycles_of_plan + constants()[name]
            for row in tuned(run, dtype=dtype, rows=1, training=False)
            if (cycles_of_plan := one_block(row["said"].get("plan", "")))
        )

    return found


def one_block(plan: str) -> float | None:
    """The cycles that a plan tells, where a block has no cluster."""
    told = re.search(r"a block of .*?; (\d+) cycles", plan.split("; backward")[0])
    return float(told[1]) if told else None


def tensor(run: Found, clock: Clock) -> float | None:
    """By the rate of all multiprocessors."""
    rate, gpu = measured(run, "mma_tflops"), run.get("about", {}).get("gpu")
    if not rate or not gpu:
        return None
    return float(gpu["multiprocessors"] * MULTIPROCESSOR_TENSORS * OPERATIONS * clock / (1e6 * rate))


def tensor_latency(run: Found, clock: Clock) -> float | None:
    """Of a chain."""
    ns = measured(run, "mma_latency_ns")
    return None if ns is None else ns * clock / 1e3


SETTLERS: dict[str, Callable[[Found, Clock], float | None]] = {
    "kExactSources": exact_sources,
    "kCyclesOfMicrosecond": lambda run, clock: measured(run, "clock_mhz"),
    "kLaunchMicroseconds": launch,
    "kSliceMicroseconds": exact_slice,
    "kCublasMicroseconds": cublas,
    "kStepCycles": step("float32"),
    "kWideStepCycles": step("float64"),
    "kExchangeCycles": cycles("cluster_8_us", "cluster_exchange_us"),
    "kGridCycles": cycles("grid_counter_us"),
    "kTensorCycles": tensor,
    "kTensorLatencyCycles": tensor_latency,
}


# ---- rows of the part


def tuned(run: Found, **wanted: Any) -> list[Found]:
    """Those of such shapes."""
    rows = run.get("parts", {}).get("tune", {}).get("found", {}).get("rows", [])
    return [row for row in rows if all(row["shape"][name] == value for name, value in wanted.items())]


def step_us(row: Found, name: str) -> float:
    """A contestant's median microseconds a step; NaN if it has none."""
    timing = row["times"].get(name)
    return float(timing["median"]) / row["shape"]["steps"] if timing else math.nan


def median(values: Iterator[float]) -> float | None:
    """Of those that are numbers."""
    known = [value for value in values if not math.isnan(value)]
    return max(0.0, float(np.median(known))) if known else None


def predicted(run: Found) -> Iterator[str]:
    """How long one launch takes beside what its plan tells, by the blocks of a tile."""
    by: dict[int, list[float]] = {}
    clock = measured(run, "clock_mhz") or constants()["kCyclesOfMicrosecond"]
    for row in tuned(run, training=False):
        told = re.search(
            r"(?:(?:cluster|grid) of (\d+) blocks|block) of .*?; (\d+) cycles .*?waves: (\d+)",
            row["said"].get("plan", ""),
        )
        us = step_us(row, "recurra resident")
        if told and not math.isnan(us):
            by.setdefault(int(told[1] or 1), []).append(us * clock / (float(told[2]) * float(told[3])))
    for blocks, ratios in sorted(by.items()):
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        yield f"one launch, blocks of a tile {blocks}: {mean:.2f} x its predicted time, of {len(ratios)} calls"
