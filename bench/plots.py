"""Plots of a run: latency against H, throughput against B, and the spread of a stream's step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from .results import BINS_A_DECADE, OURS, Result, Run

COLOURS = {
    OURS: "#c1272d",
    f"{OURS} float32": "#e8837e",
    "torch": "#1f77b4",
    "torch.compile": "#7fb3d9",
    "onnxruntime": "#2a9d55",
    "openvino": "#8e5ea2",
}
LIMIT: dict[str, Any] = {"color": "0.35", "linestyle": "--", "linewidth": 1.2}
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")  # 0.1 and not 10^-1


def draw(run: Run, folder: Path) -> list[Path]:
    """Write the plots that this run has data for, and say where."""
    folder.mkdir(parents=True, exist_ok=True)
    fewest = min((result.threads for result in run.results), default=1)
    results = [result for result in run.results if result.threads == fewest]
    quiet = "" if all(result.quiet for result in results) else "; the machine was NOT QUIET"
    about = (
        f"{run.machine['processor']}, {run.machine['isa']}, {run.config['precision']}, threads: {fewest}, "
        f"{run.machine['date']}{quiet}"
    )
    figures = {"latency": latency, "throughput": throughput, "histogram": histogram}
    written = []
    for name, make in figures.items():
        if (figure := make(results)) is not None:
            figure.suptitle(f"{figure.get_suptitle()}\n{about}", fontsize=10)
            written.append(folder / f"{name}.png")
            figure.savefig(written[-1], dpi=130)
            plt.close(figure)
    return written


def groups(
    results: list[Result], key: Callable[[Result], Hashable | None], x: Callable[[Result], int]
) -> dict[Hashable, list[Result]]:
    """Results by key, ordered by x; those with the key None, and lines of one point, are left out."""
    found = defaultdict(list)
    for result in results:
        if (name := key(result)) is not None:
            found[name].append(result)
    return {name: sorted(group, key=x) for name, group in found.items() if len({x(result) for result in group}) > 1}


def panels(number: int, title: str, columns: int) -> tuple[Any, list[Axes]]:
    """A figure with so many axes, at most `columns` beside each other."""
    columns = min(number, columns)
    rows = -(-number // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(max(4.4 * columns, 9), 3.6 * rows + 0.9), squeeze=False, layout="constrained"
    )
    figure.suptitle(title)
    axes = list(grid.flat)
    for empty in axes[number:]:
        empty.remove()
    return figure, axes[:number]


def curves(axes: Axes, group: list[Result], x: Callable[[Result], int], y: Callable[[Result, float], float]) -> None:
    """A line a contestant over x, and the limit; y makes a value of a result and its microseconds."""
    names = dict.fromkeys(name for result in group for name in result.timings)
    for name in [*(n for n in names if n != OURS), OURS]:  # ours on top
        points = [(x(r), y(r, r.timings[name].median)) for r in group if name in r.timings]
        width = 2.4 if name == OURS else 1.4
        axes.plot(*zip(*points, strict=True), "o-", label=name, color=COLOURS.get(name), linewidth=width, markersize=4)
    if bounds := [(x(r), y(r, r.bound)) for r in group if r.bound]:
        axes.plot(*zip(*bounds, strict=True), label="limit of the machine", **LIMIT)
    axes.set_xscale("log", base=2)
    ticks = sorted({x(result) for result in group})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(True, alpha=0.25)


def legend(figure: Any, axes: list[Axes]) -> None:
    """One for all panels, below."""
    entries = {label: line for panel in axes for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=len(entries), fontsize=8)


def latency(results: list[Result]) -> Any:
    """Microseconds a step against H, for one sequence through one layer."""

    def key(result: Result) -> Hashable | None:
        s = result.shape
        plain = s.batch == s.layers == s.directions == 1 and s.inputs == s.hidden and s.lengths == "none"
        return (s.steps, s.cell, s.passes) if plain else None

    found = groups(results, key, lambda r: r.shape.hidden)
    if not found:
        return None
    cells = len({group[0].shape.cell for group in found.values()})
    figure, axes = panels(len(found), "Latency of a step, one sequence, I = H", cells)
    for panel, group in zip(axes, sorted(found.values(), key=lambda group: group[0].shape.steps), strict=True):
        curves(panel, group, lambda r: r.shape.hidden, lambda r, us: us / r.shape.steps)
        shape = group[0].shape
        words = [shape.cell, "stream" if shape.streaming else f"sequence of {shape.steps}"] + ["train"] * shape.training
        panel.set_title(", ".join(words), fontsize=10)
        panel.set_yscale("log")
        panel.minorticks_off()
        panel.yaxis.set_major_formatter(PLAIN)
        panel.set_xlabel("H")
        panel.set_ylabel("microseconds a step, median")
    legend(figure, axes)
    return figure


def throughput(results: list[Result]) -> Any:
    """Steps a second against B, all else equal."""

    def key(result: Result) -> Hashable | None:
        s = result.shape
        return s._replace(batch=0) if s.lengths == "none" else None

    found = groups(results, key, lambda r: r.shape.batch)
    if not found:
        return None
    figure, axes = panels(len(found), "Throughput against batch size", 3)
    for panel, group in zip(axes, found.values(), strict=True):
        shape = group[0].shape
        curves(panel, group, lambda r: r.shape.batch, lambda r, us: 1e3 * r.shape.batch * r.shape.steps / us)
        panel.set_ylim(bottom=0)
        panel.set_title(shape.label.replace(f" B={shape.batch}", ""), fontsize=10)
        panel.set_xlabel("B")
        panel.set_ylabel("thousand steps a second")
    legend(figure, axes)
    return figure


def histogram(results: list[Result]) -> Any:
    """How the times of a step spread, for each cell's stream nearest to H = 64."""
    streams: dict[str, Result] = {}
    for result in sorted(results, key=lambda r: abs(r.shape.hidden - 64)):
        if result.shape.streaming and result.shape.batch == result.shape.layers == 1:
            streams.setdefault(result.shape.cell, result)
    if not streams:
        return None
    figure, axes = panels(len(streams), "How long each step of a stream took", 1)
    for panel, result in zip(axes, streams.values(), strict=True):
        for name, timing in result.timings.items():
            edges = 10 ** (np.arange(timing.first_bin, timing.first_bin + len(timing.counts) + 1) / BINS_A_DECADE)
            shares = 100 * np.array(timing.counts) / timing.samples
            label = f"{name}: median {timing.median:.3g}, p99 {timing.p99:.3g}"
            panel.stairs(shares, edges, fill=True, alpha=0.5, color=COLOURS.get(name), label=label)
        if result.bound:
            panel.axvline(result.bound, label=f"limit {result.bound:.3g}", **LIMIT)
        panel.set_xscale("log")
        panel.set_yscale("log")  # a linear one would hide the slow ones
        panel.set_ylim(0.01, 100)
        low = min(timing.least for timing in result.timings.values())
        panel.set_xlim(min(low, result.bound or low) / 1.3, 3 * max(timing.p99 for timing in result.timings.values()))
        panel.xaxis.set_major_formatter(PLAIN)
        panel.yaxis.set_major_formatter(PLAIN)
        panel.set_title(result.shape.label, fontsize=10)
        panel.set_xlabel("microseconds")
        panel.set_ylabel("% of the steps")
        panel.legend(fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        panel.grid(True, alpha=0.25)
    return figure
