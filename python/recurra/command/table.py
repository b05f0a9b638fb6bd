"""Tables on the terminal: rich's where it is installed, else plain columns."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["number", "show"]


def show(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, title: str | None = None) -> None:
    """Print rows under headings; all columns but the first `left` are set to the right."""
    if find_spec("rich"):
        _rich(columns, rows, left, title)
    else:
        _plain(columns, rows, left, title)


def number(value: float) -> str:
    """Three digits, or whole with commas."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _rich(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int, title: str | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    for i, name in enumerate(columns):
        table.add_column(escape(name), justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)


def _plain(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int, title: str | None) -> None:
    lines = [list(columns), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if title:
        print(title)
    for line in lines:
        cells = (
            text.ljust(w) if i < left else text.rjust(w) for i, (text, w) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(cells).rstrip())
