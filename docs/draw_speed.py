"""Draws the picture of docs/speed.md from the first table of README.md, "How fast", which the benchmark has printed:
`python docs/draw_speed.py [folder]`; needs matplotlib."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

README = Path(__file__).parents[1] / "README.md"
COLOURS = {"recurra": "#d1495b", "torch": "#8d99ae", "onnxruntime": "#5b8e7d", "openvino": "#bc9c5c"}


def table() -> dict[str, dict[str, float]]:
    """By shape and library: the median, microseconds a step."""
    text = README.read_text(encoding="utf-8").partition("## How fast")[2]
    head, _, *rows = re.findall(r"^\| (.*) \|$", text.partition("A single sequence is bound")[0], re.MULTILINE)
    names = head.split(" | ")
    found = {}
    for row in rows:
        shape, *cells = row.split(" | ")
        cells_of = dict(zip(names[1:], cells, strict=True))
        found[shape] = {name: float(cells_of[name].split(" ")[0]) for name in COLOURS}
    return found


def speed() -> Figure:
    """A dot for each library, a line for each shape."""
    rows = table()
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    axes = figure.subplots()
    for name, colour in COLOURS.items():
        x = [row[name] for row in rows.values()]
        size = 70 if name == "recurra" else 40
        axes.scatter(x, range(len(rows)), s=size, color=colour, label=name, zorder=3 if name == "recurra" else 2)
    for y, row in enumerate(rows.values()):
        axes.plot([min(row.values()), max(row.values())], [y, y], color="#dddddd", linewidth=2, zorder=1)
    axes.set(xscale="log", xlabel="microseconds a step, one thread; left is faster", ylim=(len(rows) - 0.4, -0.6))
    axes.set_yticks(range(len(rows)), list(rows))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(axis="x", color="#eeeeee")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower left", frameon=False)
    return figure


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"
    matplotlib.rcParams.update({"svg.hashsalt": "recurra"})
    speed().savefig(folder / "speed.svg", facecolor="white", metadata={"Date": None, "Description": str(table())})


if __name__ == "__main__":
    main()
