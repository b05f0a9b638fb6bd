"""``recurra export FILE --c FOLDER``: a model as C99 for microcontrollers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from recurra.export import to_c

from . import arguments
from .convert import quantized

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["run"]


def run(path: Path, folder: Path, name: str | None, precision: str | None) -> int:
    """Write the header and the source, and say how large they are."""
    model = arguments.load(path)
    if precision:
        model = quantized(model, precision)
    if name is None:
        name = re.sub(r"\W", "_", path.stem, flags=re.ASCII).strip("_") or "model"
        name = f"model_{name}" if name[0].isdigit() else name
    for written in to_c(model, folder, name):
        print(f"{written}: {written.stat().st_size:,} bytes")
    return 0
