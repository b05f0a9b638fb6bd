"""Zip archives, which Keras and PyTorch save models in."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["read_parts"]

_EXPANSION = 32  # how much smaller than its parts an archive may be: of a model's, only text is compressed, if anything


def read_parts(path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes | None]:
    """What an archive has under each name: its content if that is wanted, else None.

    Raises:
        ValueError: it is damaged, encrypted, or compressed in a way that Python does not know; its parts are far larger
            than the file, or two have one name.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
                sizes = {entry.filename: entry.file_size for entry in entries}
                if len(sizes) < len(entries):
                    raise ValueError("two parts have one name")
                if sum(sizes.values()) > _EXPANSION * path.stat().st_size + (1 << 20):
                    raise ValueError("its parts are far larger than the file")
                return {name: archive.read(name) if wanted(name) else None for name in sizes}
        except Exception as error:  # of zipfile and of decompressors, not all of which every Python has
            raise ValueError(f"a damaged zip archive: {str(error) or type(error).__name__}") from None
