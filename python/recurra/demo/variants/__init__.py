"""The variants at work: every file here, except `common`, is a demo of one, on a task that the variant is known for.

A demo is a module with

    SUMMARY: str                                       # one line, for the list
    def run(path: Path, epochs: int | None) -> int:    # print, plot to `path`; returns the exit status

where `epochs` is None for as many as the demo is made for.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Protocol, cast


class Demo(Protocol):
    """What each of the modules has."""

    SUMMARY: str

    def run(self, path: Path, epochs: int | None) -> int:
        """See the package."""


def names() -> list[str]:
    """Of all demos, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "common")


def load(name: str) -> Demo:
    """The demo of that name."""
    return cast(Demo, importlib.import_module(f"{__name__}.{name}"))


def show() -> None:
    """Print the names, a line each."""
    width = max(map(len, names()), default=0)
    for name in names():
        print(f"{name:<{width}}  {load(name).SUMMARY}")
