"""``python -m recurra bench --shapes variants``: networks that no peer ships, beside PyTorch as one writes them from
the equations: batched, and where that is what people do, node by node. Forward and backward, unless the label says
step, forward or call. All work in float32 with the same parameters, and their results are compared before they are
timed.

The machine's limit is that of `limits.py`: multiply-adds a second, or where few rows share the weights, the bytes a
second at which each step reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import recurra
from recurra import _core

from .. import limits
from ..results import OURS
from ..run import interleaved

if TYPE_CHECKING:
    from rich.console import Console

Call = Callable[[], Any]  # does the work once, and returns the arrays that all contestants must agree on
# Largest difference, in parts of the largest number of a result.
TOLERANCE = 1e-3

# Names of contestants.
BY_NODE = "torch by node"
COMPILED = "torch.compile"  # only if asked for
YARDSTICK = "recurra LSTM"  # of as many multiply-adds: another computation, and no peer


class Case(NamedTuple):
    """What is timed, how many multiply-adds one call needs, who takes part, by name, recurra first; how many bytes of
    weights have to be read anew how often, and how many nodes there are, where somebody wants to know.
    """

    label: str
    multiply_adds: float
    contestants: Callable[[], dict[str, Call]]
    reads: tuple[int, int] = (0, 0)
    nodes: int = 0


class Found(NamedTuple):
    """Medians in microseconds of a call, and of recurra's the per cent of the machine's limit, and a node's part."""

    label: str
    times: dict[str, float]
    percent_of_limit: float
    each_node: float | None

    @property
    def ratio(self) -> float | None:
        """The best peer's time in units of recurra's; None without peers."""
        peers = [time for name, time in self.times.items() if name not in (OURS, YARDSTICK)]
        return min(peers) / self.times[OURS] if peers else None


def least(case: Case, known: limits.Limits, threads: int) -> float:
    """Microseconds that a call takes at least."""
    # Both operations of a multiply-add count in the peak.
    work = 2 * case.multiply_adds / (known["fma_f32_gflops"] * known.get("gain", threads) * 1e3)
    size, times = case.reads
    reading = 1e6 * times * size / limits.bandwidth(known, size, threads) if size else 0.0
    return float(max(work, reading))


def measure(case: Case, seconds: float, threads: int, left_out: Collection[str] = ()) -> Found:
    """Check that all agree, and time them in turns, but for those that are left out.

    Raises:
        ValueError: one computes something else.
    """
    calls = {name: call for name, call in case.contestants().items() if name not in left_out}
    expected = [np.array(array) for array in calls[OURS]()]
    for name, call in calls.items():
        if name in (OURS, YARDSTICK):
            continue
        for ours, theirs in zip(expected, call(), strict=True):
            off = float(np.abs(ours - np.asarray(theirs)).max() / max(np.abs(ours).max(), 1e-30))
            if not off <= TOLERANCE:
                raise ValueError(f"{case.label}: {name} computes something else: off by {off:.2g}")
    moments: list[limits.Limits] = []
    sizes = sorted({max(limits.SMALLEST * threads, case.reads[0] * twice // 1024) for twice in (1, 2)})

    def watch() -> None:
        moments.append(_core.limits(threads, sizes) | _core.together(threads))

    turns = interleaved(calls, seconds, threads, watch)
    times = {name: float(np.median(np.concatenate(found))) for name, found in turns.items()}
    percent = 100 * least(case, limits.median(moments), threads) / times[OURS]
    return Found(case.label, times, percent, times[OURS] / case.nodes if case.nodes else None)


def run(
    cases: Sequence[Case], seconds: float, threads: int, console: Console, left_out: Collection[str] = ()
) -> list[Found]:
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
            found.append(measure(case, seconds, threads, left_out))
            bar.advance(task)
    names = list(dict.fromkeys(name for row in found for name in row.times))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column(f"threads: {threads}", overflow="fold")
    for name in [*names, "best\n/ recurra", "% of\nlimit", "a node"]:
        table.add_column(name if "\n" in name else name.replace(" ", "\n", 1), justify="right")
    for row in found:
        times = [number(row.times.get(name)) for name in names]
        table.add_row(row.label, *times, number(row.ratio), number(row.percent_of_limit), number(row.each_node))
    console.print("Microseconds of a call: medians; and of a node, recurra's.", highlight=False)
    console.print(table)
    return found


def main(threads: Sequence[int], seconds: float, file: Path | None, compiled: bool, console: Console) -> int:
    """Time all cases with each number of threads; to a JSON file, if one is named. Returns the exit status."""
    import torch

    from . import grids, match, sequences, trees

    cases = [*sequences.CASES, *trees.CASES, *grids.CASES, *match.CASES]
    results = {}
    for count in threads:
        torch.set_num_threads(count)
        found = run(cases, seconds, count, console, () if compiled else (COMPILED,))
        results[count] = [row._asdict() | {"ratio": row.ratio} for row in found]
    if file:
        file.write_text(json.dumps(results) + "\n")
    return 0
