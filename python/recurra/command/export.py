"""``recurra export FILE --c FOLDER`` and ``--cpp FOLDER``: a model as source code that needs no library."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from recurra.export import to_c, to_cpp

from . import arguments
from .convert import quantized

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["run"]


def run(path: Path, c: Path | None, cpp: Path | None, name: str | None, precision: str | None) -> int:
    """Write C into one folder or C++ into another, and say how large the files are."""
    model = arguments.load(path)
    if precision:
        model = quantized(model, precision)
    if name is None:
        name = re.sub(r"\W", "_", path.stem, flags=re.ASCII).strip("_") or "model"
        name = f"model_{name}" if name[0].isdigit() else name
    files = to_c(model, c, name) if c is not None else (to_cpp(model, cpp, name),) if cpp is not None else ()
    for written in files:
        print(f"{written}: {written.stat().st_size:,} bytes")
    return 0
