"""Plots of a run of `gpu.py`: python -m bench.gpu_plots FILE FOLDER."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from .gpu_report import floor_us, heading, limits_of, step_us
from .gpu_shapes import Shape
from .plots import LIMIT, PLAIN, legend, panels

STYLES: dict[str, dict[str, Any]] = {
    "cuDNN": {"color": "#1f77b4", "linewidth": 1.4},
    "cuDNN graph": {"color": "#1f77b4", "linewidth": 1.4, "linestyle": ":"},
    "compiled step": {"color": "#2e8b57", "linewidth": 1.4},
    "compiled step graph": {"color": "#2e8b57", "linewidth": 1.4, "linestyle": ":"},
    "TorchRL": {"color": "#8a5fbf", "linewidth": 1.4},
    "recurra": {"color": "#c1272d", "linewidth": 2.4},
    "recurra graph": {"color": "#c1272d", "linewidth": 1.8, "linestyle": ":"},
    "recurra resident": {"color": "#e08214", "linewidth": 1.8},
}


def draw(run: dict[str, Any], folder: Path) -> list[Path]:
    """Microseconds a step against H, B = 64, and against B, H = 1024."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, title, fixed, x in (
        ("gpu-widths", "B = 64, T = 100", ("rows", 64), "hidden"),
        ("gpu-batches", "H = 1024, T = 100", ("hidden", 1024), "rows"),
    ):
        groups = grouped(run, lambda shape, fixed=fixed: getattr(shape, fixed[0]) == fixed[1], x)  # type: ignore[misc]
        if not groups:
            continue
        figure, axes = panels(len(groups), f"Microseconds a step, {title}\n{heading(run['about'])}", 2)
        for panel, (label, rows) in zip(axes, groups.items(), strict=True):
            for contestant, style in STYLES.items():
                points = [(row["shape"][x], us) for row in rows if (us := step_us(row, contestant))]
                if points:
                    panel.plot(
                        *zip(*points, strict=True),
                        "o",
                        ls=style.get("linestyle", "-"),
                        label=contestant,
                        markersize=4,
                        color=style["color"],
                        linewidth=style["linewidth"],
                    )
            bounds = [floor_us(Shape(**row["shape"]), limits_of(run)) / row["shape"]["steps"] for row in rows]
            panel.plot([row["shape"][x] for row in rows], bounds, label="floor", **LIMIT)
            ticks = [row["shape"][x] for row in rows]
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_xticks(ticks, [str(tick) for tick in ticks])
            panel.minorticks_off()
            panel.yaxis.set_major_formatter(PLAIN)
            panel.grid(True, alpha=0.25)
            panel.set_title(label, fontsize=10)
            panel.set_xlabel("H" if x == "hidden" else "B")
        legend(figure, axes)
        written.append(folder / f"{name}.png")
        figure.savefig(written[-1], dpi=110)
        plt.close(figure)
    return written


def grouped(run: dict[str, Any], wanted: Callable[[Shape], bool], x: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of one layer and direction by cell, number type and passes, ordered by x; single points are left out."""
    found: dict[str, list[Any]] = defaultdict(list)
    times: dict[Shape, dict[str, Any]] = defaultdict(dict)
    for part in ("peers", "times"):
        for row in run["parts"].get(part, {}).get("found", {}).get("rows", []):
            times[Shape(**row["shape"])] |= row["times"]
    for shape, of in times.items():
        row = {"shape": shape._asdict(), "times": of}
        plain = not shape.lengths and shape.layers == shape.directions == 1 and shape.steps == 100
        if plain and of and wanted(shape):
            passes = "forward+backward" if shape.training else "forward"
            found[f"{shape.cell} {shape.dtype} {passes}"].append(row)
    return {label: sorted(rows, key=lambda row: int(row["shape"][x])) for label, rows in found.items() if len(rows) > 1}


if __name__ == "__main__":
    for path in draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])):
        print(f"wrote {path}")
