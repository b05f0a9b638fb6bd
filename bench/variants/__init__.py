"""``python -m recurra bench --shapes variants``: networks that no peer ships, beside PyTorch as one writes them from
the equations: batched, and where that is what people do, node by node. Forward and backward, unless the label says step
or call. All work in float32 with the same parameters, and their results are compared before they are timed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import recurra

from .. import limits
from ..results import OURS
from ..run import interleaved

if TYPE_CHECKING:
    from rich.console import Console

Call = Callable[[], Any]  # does the work once, and returns the arrays that all contestants must agree on
# Largest difference, in parts of the largest number of a result.
TOLERANCE = 1e-3


class Case(NamedTuple):
    """What is timed, how many multiply-adds one call needs, and who takes part, by name, recurra first."""

    label: str
    multiply_adds: float
    contestants: Callable[[], dict[str, Call]]


class Found(NamedTuple):
    """Medians in microseconds of a call, and per cent of the machine's limit that recurra reached."""

    label: str
    times: dict[str, float]
    percent_of_limit: float


def measure(case: Case, seconds: float, threads: int) -> Found:
    """Check that all agree, and time them in turns.

    Raises:
        ValueError: one computes something else.
    """
    calls = case.contestants()
    expected = [np.asarray(array) for array in calls[OURS]()]
    for name, call in calls.items():
        for ours, theirs in zip(expected, call(), strict=True):
            off = float(np.abs(ours - np.asarray(theirs)).max() / max(np.abs(ours).max(), 1e-30))
            if not off <= TOLERANCE:
                raise ValueError(f"{case.label}: {name} computes something else: off by {off:.2g}")
    turns = interleaved(calls, seconds, threads)
    times = {name: float(np.median(np.concatenate(found))) for name, found in turns.items()}
    known = limits.measure(threads)
    # Both operations of a multiply-add count in the peak.
    least = 2 * case.multiply_adds / (known["fma_f32_gflops"] * known.get("gain", threads) * 1e3)
    return Found(case.label, times, 100 * least / times[OURS])


def run(cases: Sequence[Case], seconds: float, threads: int, console: Console) -> list[Found]:
    """Time each case, and print a table."""
    from rich import box
    from rich.table import Table

    from ..report import number, progress

    recurra.set_num_threads(threads)
    found = []
    with progress(console) as bar:
        task = bar.add_task("", total=len(cases))
        for case in cases:
            bar.update(task, description=case.label)
            found.append(measure(case, seconds, threads))
            bar.advance(task)
    names = list(dict.fromkeys(name for row in found for name in row.times))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column(f"threads: {threads}", overflow="fold")
    for name in [*names, "best\n/ recurra", "% of\nlimit"]:
        table.add_column(name, justify="right")
    for row in found:
        ratio = min(time for name, time in row.times.items() if name != OURS) / row.times[OURS]
        times = [number(row.times.get(name)) for name in names]
        table.add_row(row.label, *times, number(ratio), number(row.percent_of_limit))
    console.print("Microseconds of a call: medians.", highlight=False)
    console.print(table)
    return found


def main(threads: Sequence[int], seconds: float, file: Path | None, console: Console) -> int:
    """Time all cases with each number of threads; to a JSON file, if one is named. Returns the exit status."""
    import torch

    from . import match

    results = {}
    for count in threads:
        torch.set_num_threads(count)
        results[count] = [row._asdict() for row in run(match.CASES, seconds, count, console)]
    if file:
        file.write_text(json.dumps(results) + "\n")
    return 0
