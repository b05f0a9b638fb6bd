"""The safetensors format: eight bytes with the length of a JSON header, little end first, the header, the data.

https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .files import replace
from .json_text import parse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import BinaryIO

    from .._arrays import Array

__all__ = ["read", "read_metadata", "write"]

_LARGEST_HEADER = 8 << 20  # as the C++ reader's
_DTYPES = {
    **{"BOOL": "u1", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8"},
    **{"I64": "<i8", "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"},
}
_NAMES = {"float32": "F32", "float64": "F64", "int64": "I64"}


def read(path: Path) -> tuple[dict[str, str], dict[str, Array]]:
    """Metadata and tensors. Those of 16-bit floating point are float32 here, which holds all their values.

        >>> path = pathlib.Path("weights.safetensors")
        >>> recurra.formats.safetensors.write(path, {"of": "a GRU"}, recurra.GRU(12, 64).state_dict())
        >>> metadata, tensors = recurra.formats.safetensors.read(path)
        >>> metadata, tensors["weight_ih_l0"].shape
        ({'of': 'a GRU'}, (192, 12))

    Raises:
        ValueError: the file does not follow the format.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        header, room = _header(path, file)
        data = memoryview(file.read(room))
    if len(data) != room:
        raise ValueError(f"{path}: expected {room} bytes behind the header, got {len(data)}")
    metadata, end = _metadata(path, header), 0
    places = {name: _place(path, name, entry, room) for name, entry in header.items()}
    for _, _, begin, stop in sorted(places.values(), key=lambda place: place[2:]):
        if begin != end:
            raise ValueError(f"{path}: the tensors' data overlap, or leave a gap")
        end = stop
    if end != room:
        raise ValueError(f"{path}: bytes follow the last tensor")
    return metadata, {
        name: _array(data[begin:stop], dtype, shape) for name, (dtype, shape, begin, stop) in places.items()
    }


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata alone.

        >>> recurra.formats.safetensors.write(pathlib.Path("weights.safetensors"), {"of": "nothing"}, {})
        >>> recurra.formats.safetensors.read_metadata(pathlib.Path("weights.safetensors"))
        {'of': 'nothing'}

    Raises:
        ValueError: the file does not follow the format.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return _metadata(path, _header(path, file)[0])


def write(path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Array]) -> None:
    """A file of these; one of the same name is replaced when the new one is complete.

        >>> recurra.formats.safetensors.write(pathlib.Path("table.safetensors"), {}, {"table": np.eye(3)})

    Raises:
        ValueError: the header would be too long.
        OSError: the file cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, array in tensors.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _NAMES[str(array.dtype)], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that data are aligned
    if len(text) > _LARGEST_HEADER:
        raise ValueError(f"{path}: expected a header of at most 8 MiB, got {len(text)} bytes")
    data = (array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes() for array in tensors.values())
    replace(path, chain([len(text).to_bytes(8, "little"), text], data))


def _header(path: Path, file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The header, and how many bytes are behind it."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little") if size >= 8 else 0
    if size < 8 or length > size - 8:
        raise ValueError(f"{path}: not a safetensors file, or cut off: the header is longer than the file")
    if length > _LARGEST_HEADER:
        raise ValueError(f"{path}: expected a header of at most 8 MiB, got {length} bytes")
    return parse(file.read(length), f"{path}: header"), size - 8 - length


def _metadata(path: Path, header: dict[str, Any]) -> dict[str, str]:
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError(f"{path}: __metadata__: expected names and texts")
    return metadata


def _place(path: Path, name: str, entry: Any, room: int) -> tuple[str, tuple[int, ...], int, int]:
    """Its dtype, shape, and where its data lie among all data, which are `room` bytes."""
    where = f"{path}: tensor {name[:100]!r}"
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        sizes = [*shape, begin, end]
        itemsize = np.dtype(_DTYPES[dtype]).itemsize
    except (KeyError, TypeError, ValueError, IndexError):
        raise ValueError(f"{where}: expected a known dtype, a shape and two data_offsets") from None
    if not all(type(size) is int and 0 <= size < 1 << 53 for size in sizes) or len(shape) > 32:
        raise ValueError(f"{where}: expected integers of 0 and more for its shape and data_offsets")
    if not begin <= end <= room:
        raise ValueError(f"{where}: its data lie outside the file")
    if end - begin != math.prod(shape) * itemsize:
        raise ValueError(f"{where}: expected as many bytes as dtype and shape need, got {end - begin}")
    return dtype, shape, begin, end


def _array(data: memoryview, dtype: str, shape: tuple[int, ...]) -> Array:
    array: Array = np.frombuffer(data, _DTYPES[dtype])
    if dtype == "BOOL":
        array = array != 0
    elif dtype == "BF16":  # the upper half of a float32
        array = (array.astype("uint32") << 16).view("float32")
    elif dtype == "F16":
        array = array.astype("float32")
    return array.astype(array.dtype.newbyteorder("="), copy=False).reshape(shape)
