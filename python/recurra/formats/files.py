"""Files that are whole or not there."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._options import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["as_path", "replace"]


def as_path(name: str, value: Any) -> Path:
    """`value` as a path.

    Raises:
        TypeError: it is none.
    """
    try:
        return Path(value)
    except Exception:  # whatever the caller's __fspath__ raises
        raise TypeError(f"{name}: expected a file's path, got {shown(value)}") from None


def replace(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file of these; one of the same name is replaced when the new one is complete.

    Raises:
        OSError: it cannot be written.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with new.open("xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
