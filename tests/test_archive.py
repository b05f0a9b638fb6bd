"""Zip archives that are damaged or hostile, as files of Keras and PyTorch may be."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

import recurra
from recurra.formats.archive import read_parts

TEXT = b"".join(str(i * i).encode() for i in range(400))
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def archive(method: int = zipfile.ZIP_DEFLATED, names: tuple[str, ...] = ("a", "b")) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(content, "w", method) as written:
        warnings.simplefilter("ignore")  # of a name given twice
        for name in names:
            written.writestr(name, TEXT)
    return content.getvalue()


def with_field(data: bytes, at: int, value: int) -> bytes:
    """Changes a field of the first local header, and of the central directory that repeats it 2 bytes later."""
    central = data.index(b"PK\x01\x02")
    for place in (at, central + at + 2):
        data = data[:place] + struct.pack("<H", value) + data[place + 2 :]
    return data


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.keras"


@pytest.mark.parametrize("method", METHODS)
def test_parts_are_read(method: int, path: Path) -> None:
    path.write_bytes(archive(method))
    assert read_parts(path, lambda name: name == "b") == {"a": None, "b": TEXT}


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_part_that_cannot_be_decompressed(method: int, path: Path) -> None:
    data = archive(method)
    path.write_bytes(data[:60] + bytes(b ^ 0xA5 for b in data[60:300]) + data[300:])
    with pytest.raises(ValueError, match=r"a damaged zip archive: ."):
        read_parts(path, lambda name: True)


BOMB = io.BytesIO()
with zipfile.ZipFile(BOMB, "w", zipfile.ZIP_DEFLATED) as bomb:
    bomb.writestr("config.json", bytes(50_000_000))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"PK\x03\x04 damaged", "not a zip file"),
        (archive()[:-30], "not a zip file"),
        (with_field(archive(), 6, 1), "encrypted"),
        (with_field(archive(), 8, 77), "compression method is not supported"),
        (archive(names=("a", "b", "a")), "two parts have one name"),
        (BOMB.getvalue(), "its parts are far larger than the file"),
    ],
)
def test_what_is_refused(data: bytes, complaint: str, path: Path) -> None:
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"^a damaged zip archive: .*{complaint}"):
        read_parts(path, lambda name: True)
    with pytest.raises(ValueError, match=r"model\.keras: "):
        recurra.load(path)


def test_a_file_that_is_not_there(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_parts(path, lambda name: True)


@pytest.mark.parametrize("method", METHODS)
def test_any_other_bytes_are_read_or_refused(method: int, path: Path) -> None:
    whole, random, refused = archive(method), np.random.default_rng(method), 0
    for _ in range(400):
        data = bytearray(whole)
        for at in random.integers(len(data), size=random.integers(1, 5)):
            data[at] = random.integers(256)
        path.write_bytes(data)
        try:
            read_parts(path, lambda name: True)
        except ValueError as error:
            assert str(error).startswith("a damaged zip archive: ")
            refused += 1
    assert refused > 200
