"""What the training demos share: a progress bar, a plot, and where to write it. Works without rich and matplotlib."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from typing_extensions import Self

BLUE, ORANGE, GREY = "#1f6fb4", "#e07b1a", "#808080"


class Progress:
    """A bar of `total` steps, with rich on a terminal; elsewhere a plain line for what is reported.

    Args:
        what: shown before the bar, and before plain lines.
        total: how many calls of advance() fill the bar.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what, self._bar, self._task = what, _bar() if sys.stdout.isatty() else None, None
        if self._bar is not None:
            self._task = self._bar.add_task(what, total=total, text="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self) -> None:
        """One step is done."""
        if self._bar is not None:
            self._bar.advance(self._task)

    def report(self, text: str, keep: bool = True) -> None:
        """Show how far it is: a line, or, where there is a bar and the line need not be kept, next to the bar."""
        if self._bar is None:
            print(f"{self._what}: {text}", flush=True)
            return
        self._bar.update(self._task, text=text)
        if keep:
            self._bar.console.print(f"{self._what}: {text}", highlight=False, markup=False)


def _bar() -> Any:
    try:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    except ImportError:
        return None
    left = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    return Progress(*left, TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[text]}"))


def plot(path: Path, draw: Callable[[list[Axes]], None], columns: int = 1) -> bool:
    """Draw into `columns` axes side by side and write the figure to `path`; prints and returns whether that worked."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: matplotlib is not installed (pip install matplotlib)")
        return False
    figure = Figure(figsize=(4 + 3.5 * columns, 4.5), dpi=120, layout="constrained")
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    draw(axes)
    figure.savefig(path)
    print(f"plot: {path}")
    return True


def check_plot(path: Path) -> None:
    """Raise ValueError unless `plot` can write there: now, rather than when the training is over."""
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"expected a file that ends in .png, .pdf or .svg, got {str(path)!r}")
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"expected a file in a folder that exists, got {str(path)!r}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"expected a writeable file, got {str(path)!r}")
