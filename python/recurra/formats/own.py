"""recurra's own file: a safetensors file with a model's structure in its metadata. docs/formats.md describes it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .._options import shown
from ..model import Model
from . import safetensors
from .files import as_path
from .json_text import parse

if TYPE_CHECKING:
    import os

__all__ = ["load_model", "save_model"]

_VERSION = "1"


def save_model(model: Model, path: str | os.PathLike[str]) -> None:
    """See `recurra.Model.save`.

    >>> recurra.formats.own.save_model(recurra.Model([recurra.GRU(12, 64)]), "model.safetensors")
    """
    file = as_path("path", path)
    try:
        structure = json.dumps(model.structure, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        raise ValueError("model: expected finite numbers in the attributes of its layers, got an infinity") from None
    safetensors.write(file, {"format": "recurra", "version": _VERSION, "model": structure}, model.state_dict())


def load_model(path: str | os.PathLike[str]) -> Model:
    """The model in a file that `recurra.Model.save` has written.

        >>> recurra.Model([recurra.GRU(12, 64)]).save("model.safetensors")
        >>> list(recurra.formats.own.load_model("model.safetensors").layers)
        ['recurrent0']

    Raises:
        ValueError: the file is damaged, of a later version, or something else.
        OSError: it cannot be read.
    """
    file = as_path("path", path)
    metadata, tensors = safetensors.read(file)
    if metadata.get("format") != "recurra" or "model" not in metadata:
        raise ValueError(f"{file}: expected a file of recurra, got one of {shown(metadata.get('format'))}")
    if metadata.get("version") != _VERSION:
        raise ValueError(f"{file}: expected version {_VERSION}, got {shown(metadata.get('version'))}")
    structure = parse(metadata["model"].encode(), f"{file}: model")
    try:
        return Model.from_structure(structure, tensors)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{file}: {error}") from None
