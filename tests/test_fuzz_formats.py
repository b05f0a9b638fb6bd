"""Mutated files of every format that is read here without another library: a model or a ValueError, little memory, an
end."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import COUNT, SLICE, fuzz, mutated
from test_audio_formats import guitarml_file, nam_file, rtneural_file
from test_model_file import MODELS

import recurra
from recurra.formats.guitarml import load_guitarml
from recurra.formats.nam import load_nam
from recurra.formats.own import load_model
from recurra.formats.rtneural import load_rtneural, to_rtneural


def own_files(folder: Path) -> list[bytes]:
    found = []
    for i, make in enumerate(MODELS.values()):
        make("float32").save(folder / f"{i}.safetensors")
        found.append((folder / f"{i}.safetensors").read_bytes())
    return found


def texts(make: Any, seeds: range) -> list[bytes]:
    return [json.dumps(make(seed)).encode() for seed in seeds]


def check_roundtrip(path: Path) -> None:
    """What was read can be written, and read again to the same model."""
    model = load_model(path)
    again = path.with_name("again")
    model.save(again)
    assert load_model(again).structure == model.structure


def test_own_files(tmp_path: Path) -> None:
    assert fuzz(own_files(tmp_path), check_roundtrip, tmp_path / "model", 0) > 0


def test_own_files_whose_header_still_fits(tmp_path: Path) -> None:
    """Mutations of the text in the metadata alone, behind lengths and offsets that are right."""
    random = np.random.default_rng([1, SLICE])
    samples = []
    for data in own_files(tmp_path):
        (length,) = struct.unpack("<Q", data[:8])
        header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
        samples.append(data)
        for _ in range(COUNT // 6):
            text = mutated(header["__metadata__"]["model"].encode(), random, 2).decode("utf-8", "replace")
            changed = header | {"__metadata__": {"format": "recurra", "version": "1", "model": text}}
            new = json.dumps(changed).encode()
            samples.append(struct.pack("<Q", len(new)) + new + rest)
    assert check_all(samples, tmp_path / "model") >= len(MODELS)


def check_all(samples: list[bytes], path: Path) -> int:
    good = 0
    for data in samples:
        path.write_bytes(data)
        try:
            check_roundtrip(path)
            good += 1
        except ValueError as error:
            assert str(error)
    return good


def export(path: Path) -> None:
    """What was read can be written, too."""
    to_rtneural(load_rtneural(path))


@pytest.mark.parametrize(
    ("make", "read"), [(rtneural_file, export), (nam_file, load_nam), (guitarml_file, load_guitarml)]
)
def test_json_files(make: Any, read: Any, tmp_path: Path) -> None:
    assert fuzz(texts(make, range(16)), read, tmp_path / "model.json", 2) > 0


def test_whatever_it_is(tmp_path: Path) -> None:
    """`recurra.load` of mutated files, which may look like one of another library then; those it has no package for."""
    samples = [*own_files(tmp_path), *texts(nam_file, range(2)), *texts(guitarml_file, range(2))]

    def read(path: Path) -> None:
        try:
            recurra.load(path)
        except ImportError as error:
            raise ValueError(str(error)) from None

    assert fuzz(samples, read, tmp_path / "model", 3) > 0
