"""Which format a file has."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from .archive import read_parts
from .json_text import parse
from .safetensors import read_metadata
from .unsupported import UnsupportedModel

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["format_of"]

_KNOWN = "a model of recurra, ONNX, Keras (.keras, .h5), PyTorch (.pt, .safetensors), RTNeural, GuitarML or NAM"


def format_of(file: Path) -> str:
    """What it is, seen by its content: a key of recurra.formats._LOADERS.

    Raises:
        UnsupportedModel: it is nothing that can be read.
    """
    if file.is_dir():
        raise UnsupportedModel(f"{file}: expected {_KNOWN}, got a folder; of a TensorFlow model save a .keras file")
    suffix = file.suffix.lower()
    with file.open("rb") as opened:
        start = opened.read(65536)
        size = os.fstat(opened.fileno()).st_size
    if suffix == ".tflite" or start[4:8] == b"TFL3":
        raise UnsupportedModel(f"{file}: TFLite: no model of it can be read; export the Keras or ONNX model instead")
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "keras"
    if start.startswith(b"PK\x03\x04"):
        return _zip(file)
    if size > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
        return "recurra" if read_metadata(file).get("format") == "recurra" else "torch"
    if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{":
        return _json(file)
    if suffix == ".onnx":
        return "onnx"
    if suffix in (".pt", ".pth"):
        return "torch"
    raise UnsupportedModel(f"{file}: expected {_KNOWN}, got something else")


def _zip(file: Path) -> str:
    try:
        names = read_parts(file, lambda name: False)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if "config.json" in names:
        return "keras"
    if any(name.endswith(("/data.pkl", "/constants.pkl", "/version")) for name in names):
        return "torch"
    raise UnsupportedModel(f"{file}: expected {_KNOWN}, got a zip archive of something else")


def _json(file: Path) -> str:
    found = parse(file.read_bytes(), str(file))
    if "layers" in found and "in_shape" in found:
        return "rtneural"
    if "architecture" in found:
        return "nam"
    if "model_data" in found or "state_dict" in found:
        return "guitarml"
    keys = ", ".join(map(json.dumps, list(found)[:8]))
    if found and all(isinstance(_innermost(value), (int, float)) for value in found.values()):
        raise UnsupportedModel(
            f"{file}: a state_dict as JSON, without the layers that it belongs to; make those and use load_state_dict: "
            f"{keys[:200]}"
        )
    raise UnsupportedModel(f"{file}: expected JSON of RTNeural, GuitarML or NAM, got an object of {keys[:200]}")


def _innermost(value: Any) -> Any:
    while isinstance(value, list) and value:
        value = value[0]
    return value
