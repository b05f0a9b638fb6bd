"""Mutated files of formats that are read through other people's libraries: ONNX, Keras, TorchScript.

Mutations are those of what is inside the container: fields of the protobuf, the JSON of a configuration, attributes and
arrays of HDF5, the code and the pickle of a script. So most mutants get past the container, into the reader. As those
libraries may crash or hang, a process of its own reads them:

python tests/fuzz_libraries.py KIND FOLDER FIRST COUNT reads mutants FIRST .. FIRST+COUNT-1 of the files in FOLDER.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import signal
import sys
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from checks import places
from fuzzing import mutated

SECONDS = 20  # that a file may take
_GROWTH = 1 << 30  # bytes of memory
_NUMBERS = (0, 1, -1, 2, 3, 7, 255, 1 << 31, -(1 << 31), (1 << 63) - 1, -(1 << 63), 100_000)
_FLOATS = (0.0, -1.0, 1.0, float("nan"), float("inf"), 1e38, 1e-45)

Random = np.random.Generator


def one_of(values: Any, random: Random) -> Any:
    return values[int(random.integers(len(values)))]


def several(change: Callable[[Random], None], random: Random) -> None:
    """It once, or a few times."""
    for _ in range(one_of((1, 1, 2, 4), random)):
        change(random)


# ------------------------------------------------------------------------------------------------------------- ONNX


def onnx_mutant(data: bytes, random: Random) -> bytes:
    import onnx

    proto = onnx.ModelProto()
    proto.ParseFromString(data)

    def change(random: Random) -> None:
        places = list(_fields(proto))
        message, field, at = one_of(places, random)
        texts = [
            getattr(m, f.name)[i] if i >= 0 else getattr(m, f.name) for m, f, i in places if f.type == f.TYPE_STRING
        ]
        _change_field(message, field, at, random, [*texts, "", "nowhere", *_operators()])

    several(change, random)
    written: bytes = proto.SerializeToString()
    return written


def _operators() -> list[str]:
    from recurra.formats.onnx.folding import FOLDS
    from recurra.formats.onnx.importer import HANDLERS

    return [*HANDLERS, *FOLDS, "If", "Scan"]


def _fields(message: Any) -> Iterator[tuple[Any, Any, int]]:
    """All set fields of a message and those in it, with the place in a repeated one, else -1."""
    for field, value in message.ListFields():
        values = list(enumerate(value)) if field.is_repeated else [(-1, value)]
        for at, each in values[:40]:
            yield message, field, at
            if field.type == field.TYPE_MESSAGE:
                yield from _fields(each)


def _change_field(message: Any, field: Any, at: int, random: Random, texts: list[str]) -> None:
    values = getattr(message, field.name)
    if random.random() < 0.15:
        if at < 0:
            message.ClearField(field.name)
        else:
            del values[at]
        return
    if at >= 0 and random.random() < 0.1:
        values.extend([values[at]])
        return
    if field.type == field.TYPE_MESSAGE:
        if at >= 0:  # another one of its kind
            values[at].CopyFrom(one_of(values, random))
        return
    old = values[at] if at >= 0 else values
    if field.type == field.TYPE_STRING:
        new: Any = one_of(texts, random)
    elif field.type == field.TYPE_BYTES:
        new = mutated(old, random, 2) if random.random() < 0.5 or len(old) % 8 else _other_integer(old, random)
    elif isinstance(old, float):
        new = one_of(_FLOATS, random)
    else:
        new = one_of(_NUMBERS, random) if random.random() < 0.7 else int(random.integers(24))
    with contextlib.suppress(ValueError):  # a number that such a field does not hold
        if at >= 0:
            values[at] = new
        else:
            setattr(message, field.name, new)


def _other_integer(data: bytes, random: Random) -> bytes:
    array = np.frombuffer(data, np.int64).copy()
    if array.size:
        array[int(random.integers(array.size))] = one_of(_NUMBERS, random)
    return array.tobytes()


def read_onnx_file(path: Path) -> None:
    from recurra.formats.onnx import read_onnx

    read_onnx(path.read_bytes())


# ------------------------------------------------------------------------------------------------------------ Keras


def keras_mutant(data: bytes, random: Random) -> bytes:
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        if random.random() < 0.6:
            parts["config.json"] = _json_mutant(parts["config.json"], random)
        else:
            parts["model.weights.h5"] = _hdf5_mutant(parts["model.weights.h5"], random)
        return _zipped(parts)
    return _hdf5_mutant(data, random)


def _zipped(parts: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return content.getvalue()


def _json_mutant(text: bytes, random: Random) -> bytes:
    tree = [json.loads(text)]

    def change(random: Random) -> None:
        inside = places(tree[0])
        if not inside:
            return
        (holder, key), (other, there) = one_of(inside, random), one_of(inside, random)
        how = random.random()
        if how < 0.15:
            del holder[key]
        elif how < 0.25 and isinstance(holder, list):
            holder.insert(key, json.loads(json.dumps(other[there])))
        elif how < 0.6:
            holder[key] = json.loads(json.dumps(other[there]))
        else:
            strange: Any = (
                None,
                -1,
                0,
                1,
                2,
                1 << 40,
                1e30,
                0.5,
                True,
                False,
                "x",
                "same",
                "linear",
                [],
                {},
                [None],
                [1, 2],
            )
            holder[key] = one_of(strange, random)

    several(change, random)
    return json.dumps(tree[0]).encode()


def _hdf5_mutant(data: bytes, random: Random) -> bytes:
    import h5py

    content = io.BytesIO(data)
    with h5py.File(content, "r+") as file:

        def change(random: Random) -> None:
            names: list[str] = []
            file.visit(names.append)
            holders = [file, *(file[name] for name in names)]
            attributes = [(holder, key) for holder in holders for key in holder.attrs]
            if attributes and random.random() < 0.4:
                holder, key = one_of(attributes, random)
                _change_attribute(holder, key, random)
            elif names:
                _change_object(file, one_of(names, random), random)

        several(change, random)
    return content.getvalue()


def _change_attribute(holder: Any, key: str, random: Random) -> None:
    value = holder.attrs[key]
    text = value.decode() if isinstance(value, bytes) else value
    if isinstance(text, str) and text.startswith("{") and random.random() < 0.9:
        holder.attrs[key] = _json_mutant(text.encode(), random).decode()
    elif random.random() < 0.3:
        del holder.attrs[key]
    else:
        holder.attrs[key] = one_of(("x", b"\xff", 3, -1, np.zeros(2), np.array([b"a", b"b"]), np.float32(2)), random)


def _change_object(file: Any, name: str, random: Random) -> None:
    import h5py

    thing, how = file[name], random.random()
    if how < 0.2 or not isinstance(thing, h5py.Dataset):
        if how < 0.5:
            del file[name]
        else:
            file.move(name, name + "x")
        return
    array = thing[()]
    del file[name]
    if how < 0.4:
        file[name] = np.moveaxis(np.atleast_1d(array), 0, -1)
    elif how < 0.6:
        file[name] = np.concatenate([np.atleast_1d(array)] * 2)
    elif how < 0.8:
        with contextlib.suppress(ValueError, TypeError):  # text, after another change
            file[name] = np.asarray(array).astype(one_of(("int8", "float64", "float16", "bool", "S4", ">f4"), random))
    else:
        file[name] = one_of((np.nan, "text", np.zeros((0, 3)), np.zeros((1, 1, 1, 1, 1), "f"), [1, 2]), random)


def read_keras_file(path: Path) -> None:
    from recurra.formats.keras import load_keras

    load_keras(path)


# ------------------------------------------------------------------------------------------------------ TorchScript


def script_mutant(data: bytes, random: Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist() if not name.endswith(".debug_pkl")}
    code = [name for name in parts if name.endswith(".py")]
    words = [word for name in code for word in parts[name].split()]

    def change(random: Random) -> None:
        name = one_of(code, random) if random.random() < 0.6 else one_of(list(parts), random)
        if name in code and random.random() < 0.7:  # another word, or a line that goes
            lines = parts[name].split(b"\n")
            at = int(random.integers(len(lines)))
            own = lines[at].split(b" ")
            own[int(random.integers(len(own)))] = one_of(words, random)
            lines[at : at + 1] = [] if random.random() < 0.2 else [b" ".join(own)]
            parts[name] = b"\n".join(lines)
        elif random.random() < 0.05:
            del parts[name]
            code[:] = [each for each in code if each != name] or [next(iter(parts))]
        else:
            parts[name] = mutated(parts[name], random, 2)

    several(change, random)
    return _zipped(parts)


def read_script_file(path: Path) -> None:
    from recurra.formats.torch import load_torch

    load_torch(path, check=path.stat().st_size % 16 == 0)  # which takes seconds, most of them TorchScript's compiler's


KINDS: dict[str, tuple[Callable[[bytes, Random], bytes], Callable[[Path], None]]] = {
    "onnx": (onnx_mutant, read_onnx_file),
    "keras": (keras_mutant, read_keras_file),
    "torchscript": (script_mutant, read_script_file),
}


def main(kind: str, folder: Path, first: int, count: int) -> str:
    """How many were models, and how many were refused, by which sentence most often; the slowest in seconds."""
    mutant, read = KINDS[kind]
    samples = [path.read_bytes() for path in sorted(folder.glob(f"{kind}-*"))]
    path, good, slowest = folder / f"mutant-{kind}", 0, 0.0
    wrong: list[str] = []
    for sample in samples:  # what is imported and built at first counts as no file's
        path.write_bytes(sample)
        read(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i in range(first, first + count):
        path.write_bytes(mutant(samples[i % len(samples)], np.random.default_rng([11, i])))
        begin = time.monotonic()
        signal.alarm(SECONDS)  # ends the process, which a handler could not while a library computes
        try:
            read(path)
            good += 1
        except ValueError as error:
            assert str(error), f"mutant {i}: an error without a text"
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            wrong.append(f"mutant {i}: {type(error).__name__}: {error}, at {Path(at.filename).name}:{at.lineno}")
        signal.alarm(0)
        slowest = max(slowest, time.monotonic() - begin)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
        assert grown < _GROWTH, f"mutant {i}: {grown >> 20} MB of memory"
    assert not wrong, "\n".join(wrong)
    return f"{good} {count - good} {slowest:.2f} {grown >> 20}"


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    print(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])), flush=True)
