"""How far a training is, on a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

    from .fit import History

__all__ = ["Progress"]


class Progress:
    """A bar of epochs where standard output is a terminal: rich's, or a line that is written over."""

    def __init__(self, epochs: int, shows: bool) -> None:
        self._epochs, self._shows = epochs, shows and sys.stdout.isatty()
        self._bar = _bar() if self._shows else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("training", total=self._epochs, text="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._shows:
            print()

    def report(self, history: History) -> None:
        """An epoch is done."""
        if not self._shows:
            return
        text = f"loss {history.loss[-1]:.4g}"
        text += f", validation loss {history.validation_loss[-1]:.4g}" if history.validation_loss else ""
        if self._bar is not None:
            self._bar.update(self._task, advance=1, text=text)
        else:
            print(f"\repoch {len(history.loss)} of {self._epochs}: {text}\033[K", end="", flush=True)


def _bar() -> Any:
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        return None
    left = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*left, TimeRemainingColumn(), TextColumn("{task.fields[text]}"))
