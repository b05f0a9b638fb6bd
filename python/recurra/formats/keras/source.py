"""A Keras model's layers and weights as its files and its live objects have them."""

from __future__ import annotations

import io
import json
import math
import mmap
import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..archive import read_parts
from ..json_text import parse
from ..unsupported import UnsupportedModel
from .layers import LAYERS

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    from ..._arrays import Array

__all__ = ["MODELS", "Layer", "Source", "is_model", "read", "require_path"]

MODELS = ("Sequential", "Functional", "Model")
MASK_OPERATIONS = ("NotEqual", "ZerosLike", "OnesLike", "Any", "ExpandDims", "Squeeze", "LogicalOr")

# Layers, and what stands beside and inside them.
_KNOWN = {*LAYERS, *MODELS, "InputLayer", "StackedRNNCells", "SimpleRNNCell", "LSTMCell", "GRUCell", *MASK_OPERATIONS}

# The most that DEFLATE saves is a factor of 1032: what claims to be larger is no data.
_EXPANSION = 1032


@dataclass
class Layer:
    """A layer as its configuration describes it."""

    kind: str  # the name of its class
    name: str
    config: dict[str, Any]
    parts: dict[str, Layer]  # layers inside: of a model by index, of a wrapper by attribute
    calls: list[Any]  # where a functional model calls it
    weights: dict[str, Array] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"

    @property
    def operation(self) -> bool:
        """Whether it is a function of keras.ops, which a functional model calls on tensors; only these have no
        `trainable`."""
        return self.kind not in ("InputLayer", *MODELS) and "trainable" not in self.config

    def option(self, name: str, *kinds: type, default: Any = ...) -> Any:
        """A value of the configuration.

        Raises:
            ValueError: it is missing, or not of these kinds.
        """
        value = self.config.get(name, default)
        if value is ... or not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ValueError(f"{self}: {name}: expected {wanted}, got {'nothing' if value is ... else repr(value)}")
        return value

    def refuse(self, why: str) -> UnsupportedModel:
        """What to raise for what has no counterpart here."""
        return UnsupportedModel(f"Keras: {self}: {why}")


@dataclass
class Source:
    """A model and what decides how it is to be understood."""

    model: Layer
    version: int  # of Keras, its first number


def is_model(source: Any) -> bool:
    """Whether it is a model in memory."""
    return hasattr(source, "to_json") and hasattr(source, "layers")


def require_path(source: Any) -> Path:
    """A file's path.

    Raises:
        TypeError: it is something else.
    """
    try:
        return Path(source)
    except TypeError:
        raise TypeError(f"source: expected a file's path or a Keras model, got {type(source).__name__}") from None


def read(source: str | os.PathLike[str] | Any) -> Source:
    """The layers and weights of a file or a live model.

    Raises:
        UnsupportedModel: something in it is none of Keras's own layers.
        ValueError: it is damaged.
    """
    if is_model(source):
        return _live(source)
    path = require_path(source)
    if path.is_dir():
        raise UnsupportedModel(f"Keras: {path}: expected a .keras or .h5 file, got a folder")
    with path.open("rb") as opened:
        start = opened.read(8)
    if start.startswith(b"PK\x03\x04"):
        return _keras(path)
    if start == b"\x89HDF\r\n\x1a\n":
        return _h5(path)
    raise ValueError(f"{path}: expected a .keras or .h5 file of Keras, got something else")


# ------------------------------------------------------------------------------------------------ three sources


def _keras(path: Path) -> Source:
    """A .keras file: a zip archive of config.json, metadata.json and model.weights.h5."""
    wanted = ("config.json", "metadata.json", "model.weights.h5")
    parts = read_parts(path, lambda name: name in wanted)

    def content(name: str) -> bytes:
        if (found := parts.get(name)) is None:
            raise ValueError(f"expected {name} in it, got {sorted(parts)[:8]}")
        return found

    config = parse(content("config.json"), "config.json")
    version = _version(parse(content("metadata.json"), "metadata.json").get("keras_version"))
    if "model.weights.json" in parts or "model.weights.npz" in parts:
        raise UnsupportedModel(f"Keras: {path}: expected weights in model.weights.h5, got them in another format")
    model = _layer(config)
    with _opened(io.BytesIO(content("model.weights.h5"))) as file:
        _fill_by_path(model, file, "")
    return Source(model, version)


def _h5(path: Path) -> Source:
    """An .h5 file: the configuration is an attribute, and each layer has a group of named weights."""
    with _opened(path) as file:
        config = _texts(file, "model_config")
        if not config:
            raise UnsupportedModel(f"Keras: {path}: expected a whole model, got weights alone; save it by model.save")
        weights = _group(file, "model_weights")
        version = _version("".join(_texts(file, "keras_version") or _texts(weights, "keras_version")))
        model = _layer(parse("".join(config).encode(), "model_config"))
        names = _names(weights, "layer_names")
        found = {}
        for name in names:
            group = _group(weights, name)
            found[name] = [(each, _array(group, each)) for each in _names(group, "weight_names")]
    _fill_by_order(model, found)
    return Source(model, version)


def _live(model: Any) -> Source:
    """A model in memory, of keras or tf_keras."""
    root = next((c.__module__.split(".")[0] for c in type(model).__mro__ if c.__name__ == "Model"), "keras")
    version = _version(getattr(sys.modules.get(root), "__version__", None))
    kind = type(model)
    if kind.__name__ not in MODELS or kind.__module__.split(".")[0] != root:
        raise UnsupportedModel(
            f"Keras: {kind.__name__} {model.name!r}: expected a Sequential or functional model, got a class of its own"
        )
    if not model.built:
        raise ValueError(f"{kind.__name__} {model.name!r}: expected a model that is built, got one without weights")
    described = _layer(json.loads(model.to_json()))
    found = {}
    for layer in model.layers:
        variables = [*layer.trainable_weights, *layer.non_trainable_weights]
        found[layer.name] = [(getattr(v, "path", v.name), np.array(v.numpy())) for v in variables]
    _fill_by_order(described, found)
    return Source(described, version)


def _version(text: Any) -> int:
    if not isinstance(text, str) or not (found := re.match(r"(\d+)\.", text)):
        raise UnsupportedModel(f"Keras: expected a model of Keras 2 or 3, got one of version {text!r}")
    if (version := int(found[1])) not in (2, 3):
        raise UnsupportedModel(f"Keras: expected a model of Keras 2 or 3, got one of version {text}")
    return version


# ------------------------------------------------------------------------------------------------- configurations


def _layer(entry: Any, depth: int = 0) -> Layer:
    """The layer that such an entry of a configuration describes, without its weights."""
    if depth > 64 or not isinstance(entry, dict) or not isinstance(entry.get("class_name"), str):
        raise ValueError(f"expected the description of a layer, got {str(entry)[:80]}")
    kind, config = entry["class_name"], entry.get("config")
    if isinstance(config, list) and kind == "Sequential":  # Keras 2.0 and 2.1
        config = {"name": "sequential", "layers": config}
    if not isinstance(config, dict):
        raise ValueError(f"{kind}: config: expected its options, got {str(config)[:80]}")
    name = entry.get("name", config.get("name", kind.lower()))
    if not isinstance(name, str):
        raise ValueError(f"{kind}: name: expected text, got {name!r}")
    if kind == "Lambda":
        raise UnsupportedModel(f"Keras: Lambda {name!r}: it holds Python code, which is not run")
    module = entry.get("module", "keras")
    if ">" in kind or not isinstance(module, str) or module.split(".")[0] not in ("keras", "tf_keras"):
        raise UnsupportedModel(f"Keras: {kind} {name!r}: no layer of Keras itself, but of {module}")
    if kind not in _KNOWN:
        raise UnsupportedModel(f"Keras: {kind} {name!r}: there is no such layer here")
    parts: dict[str, Layer] = {}
    if kind in MODELS:
        inside = config.get("layers")
        if not isinstance(inside, list):
            raise UnsupportedModel(f"Keras: {kind} {name!r}: expected layers, got a class of its own")
        parts = {str(i): _layer(each, depth + 1) for i, each in enumerate(inside)}
    elif kind == "Bidirectional":
        parts = _both(config, depth)
    elif kind == "StackedRNNCells":
        cells = config.get("cells")
        if not isinstance(cells, list):
            raise ValueError(f"{kind} {name!r}: cells: expected a list, got {cells!r}")
        parts = {str(i): _layer(each, depth + 1) for i, each in enumerate(cells)}
    else:
        parts = {each: _layer(config[each], depth + 1) for each in ("cell", "layer") if each in config}
    calls = entry.get("inbound_nodes", [])
    if not isinstance(calls, list):
        raise ValueError(f"{kind} {name!r}: inbound_nodes: expected a list, got {calls!r}")
    return Layer(kind, name, config, parts, calls)


def _both(config: dict[str, Any], depth: int) -> dict[str, Layer]:
    """The two layers of a Bidirectional. The second is like the first where nothing is said of it."""
    forward = _layer(config.get("layer"), depth + 1)
    if config.get("backward_layer") is not None:
        return {"forward_layer": forward, "backward_layer": _layer(config["backward_layer"], depth + 1)}
    backward = _layer(config["layer"], depth + 1)
    backward.config = {**backward.config, "go_backwards": not forward.config.get("go_backwards", False)}
    return {"forward_layer": forward, "backward_layer": backward}


# --------------------------------------------------------------------------------------------------------- weights


def _roles(layer: Layer) -> list[tuple[str, bool]]:
    """Names of the layer's own weights in Keras's order, and whether training changes them."""
    kind, config = layer.kind, layer.config
    bias = ["bias"] if config.get("use_bias", True) else []
    if kind in ("Dense", "Conv1D", "Conv2D"):
        names = ["kernel", *bias]
    elif kind.removesuffix("Cell") in ("SimpleRNN", "LSTM", "GRU"):
        names = ["kernel", "recurrent_kernel", *bias]
    elif kind == "Embedding":
        names = ["embeddings"]
    elif kind in ("BatchNormalization", "LayerNormalization"):
        names = [n for n, flag in (("gamma", "scale"), ("beta", "center")) if config.get(flag, True)]
    elif kind == "PReLU":
        names = ["alpha"]
    else:
        names = []
    kept = ["moving_mean", "moving_variance"] if kind == "BatchNormalization" else []
    if kind == "Normalization" and config.get("mean") is None:
        kept = ["mean", "variance", "count"]
    return [(name, True) for name in names] + [(name, False) for name in kept]


def _snake(kind: str) -> str:
    """A class's name as Keras spells it in paths."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", kind))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _fill_by_path(layer: Layer, file: Any, path: str) -> None:
    """Weights of a .keras file, where each layer has a path, and its weights are numbered."""
    if roles := _roles(layer):
        inside = path if layer.kind.removesuffix("Cell") not in ("SimpleRNN", "LSTM", "GRU") else f"{path}/cell"
        inside = path if layer.kind.endswith("Cell") else inside
        group = _group(file, f"{inside}/vars")
        if len(group) != len(roles):
            raise ValueError(f"{layer}: expected {len(roles)} weights, got {len(group)}")
        layer.weights = {role: _array(group, str(i)) for i, (role, _) in enumerate(roles)}
    container = {"StackedRNNCells": "cells"} | dict.fromkeys(MODELS, "layers")
    used: dict[str, int] = {}
    for attribute, part in layer.parts.items():
        inside = f"{path}/{attribute}"
        if layer.kind in container:
            if part.operation or (layer.kind == "Sequential" and part.kind == "InputLayer"):
                continue
            name = _snake(part.kind)
            used[name] = used.get(name, -1) + 1
            inside = f"{path}/{container[layer.kind]}/{name}" + (f"_{used[name]}" if used[name] else "")
        _fill_by_path(part, file, inside)


def _fill_by_order(model: Layer, found: Mapping[str, list[tuple[str, Array]]]) -> None:
    """Weights in Keras's old order: by layer of the model; in each those that training changes, then the others."""
    parts = {part.name: part for part in model.parts.values()}
    for name, weights in found.items():
        if weights and name not in parts:
            raise ValueError(f"expected weights of {sorted(parts)[:8]}, got some of {name!r}")
    for name, part in parts.items():
        leaves = list(_leaves(part, True))
        order = [(leaf, role) for wanted in (True, False) for leaf, role, trained in leaves if trained is wanted]
        weights = found.get(name, [])
        if len(weights) != len(order):
            raise ValueError(f"{part}: expected {len(order)} weights, got {len(weights)}")
        for (leaf, role), (given, array) in zip(order, weights, strict=True):
            if given.split("/")[-1].split(":")[0] != role:
                raise ValueError(f"{leaf}: expected its {role}, got weights {given!r}")
            leaf.weights[role] = array


def _leaves(layer: Layer, trained: bool) -> Iterator[tuple[Layer, str, bool]]:
    """All weights in the order in which Keras lists them."""
    trained = trained and layer.config.get("trainable", True) is not False
    for role, changes in _roles(layer):
        yield layer, role, changes and trained
    for part in layer.parts.values():
        yield from _leaves(part, trained)


# ------------------------------------------------------------------------------------------------------------ HDF5


@contextmanager
def _opened(file: Any) -> Iterator[Any]:
    """An HDF5 file, a path or bytes in memory."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError("Keras: reading a model needs h5py: pip install h5py") from error
    if isinstance(file, io.BytesIO):
        _require_heaps(file.getbuffer())
    else:
        with open(file, "rb") as whole, mmap.mmap(whole.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _require_heaps(content)
    with h5py.File(file, "r") as opened:
        yield opened


def _require_heaps(content: Any) -> None:
    """Text of any length stands in heaps, lists of objects; HDF5's library never ends where one takes no space.

    Raises:
        ValueError: there is such an object.
    """
    for found in re.finditer(rb"GCOL\x01\0\0\0", content):
        place, end = found.end() + 8, found.start() + int.from_bytes(content[found.end() : found.end() + 8], "little")
        while place + 16 <= min(end, len(content)):
            number, size = (int.from_bytes(content[place + i : place + j], "little") for i, j in ((0, 2), (8, 16)))
            taken = (size if number == 0 else 16 + (size + 7) // 8 * 8) % 2**64
            if taken == 0:
                raise ValueError("expected text that takes space, got a damaged heap")
            place += taken


def _child(group: Any, name: str) -> Any:
    """What `name`, a path, stands for in a group, if it lies in this file."""
    import h5py

    for part in name.split("/"):
        if not part:
            continue
        if not isinstance(group, h5py.Group) or part not in group:
            raise ValueError(f"expected weights at {name!r}, got none")
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"expected weights at {name!r}, got a link")
        group = group[part]
    return group


def _group(parent: Any, name: str) -> Any:
    import h5py

    if not isinstance(found := _child(parent, name), h5py.Group):
        raise ValueError(f"expected a group at {name!r}, got something else")
    return found


def _array(parent: Any, name: str) -> Array:
    """A copy of a weight, of which the file holds as much as it says."""
    import h5py

    data = _child(parent, name)
    if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual or data.shape is None:
        raise ValueError(f"expected numbers at {name!r}, got something else")
    size = math.prod(data.shape) * data.dtype.itemsize
    if size > _EXPANSION * data.id.get_storage_size():
        raise ValueError(f"expected {size} bytes at {name!r}, got {data.id.get_storage_size()}")
    if _texts(data, "dtype") == ["bfloat16"]:
        return _bfloat16(np.array(data))
    if data.dtype.kind not in "fiu":
        raise ValueError(f"expected numbers at {name!r}, got {data.dtype}")
    return np.array(data)


def _bfloat16(array: Array) -> Array:
    """float32 of what Keras writes as raw two bytes."""
    if array.dtype.itemsize != 2:
        raise ValueError(f"expected two bytes a number for bfloat16, got {array.dtype}")
    return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _texts(group: Any, attribute: str) -> list[str]:
    """The texts of an attribute, one or a list; none where it is not there."""
    import h5py

    if attribute not in group.attrs:
        return []
    kept = group.attrs.get_id(attribute)
    if kept.shape == (0,):
        return []
    if h5py.check_string_dtype(kept.dtype) is None or len(kept.shape) > 1 or math.prod(kept.shape) > 1 << 20:
        raise ValueError(f"{attribute}: expected text, got {kept.dtype} {kept.shape}")
    found = group.attrs[attribute]
    values = [found] if kept.shape == () else list(found)
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _names(group: Any, attribute: str) -> list[str]:
    """A list of names, which stands in several attributes where it is long."""
    found, i = _texts(group, attribute), 0
    while more := _texts(group, f"{attribute}{i}"):
        found, i = found + more, i + 1
    return found
