"""Structures of models from anywhere, checked before anything is made of them: sizes must be those of the parameters
that are there, so nothing large is allocated for a few numbers in a text."""

from __future__ import annotations

import inspect
from functools import cache
from typing import TYPE_CHECKING, Any

from .._cells import SEQUENCE_CELLS, Sizes, chosen_direction
from .._options import choice, flag, integer, shown
from ..activation import Activation
from ..heads import Embedding, Linear
from .operation import Value
from .structure import OPERATIONS, RECURRENT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Set

    Shapes = dict[str, tuple[int, ...]]

__all__ = ["described_inputs", "described_nodes", "require_entries"]

_LAYERS: dict[str, Any] = {"linear": Linear, "embedding": Embedding, "activation": Activation, **OPERATIONS}
# Options of constructors that a structure does not have: of the whole model, or for a moment.
_ELSEWHERE = {"dtype", "device", "engine", "allow_tf32", "seed", "causal"}


def require_entries(what: str, value: Any, names: Set[str]) -> Mapping[str, Any]:
    """`value`, a mapping with these keys.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{what}: expected names and values, got {shown(value)}")
    if set(value) != names:
        missing, unknown = sorted(names - set(value)), sorted(map(str, set(value) - names))
        raise ValueError(f"{what}: missing {missing}, unknown {shown(unknown)}")
    return value


def described_inputs(inputs: Any) -> dict[str, Value]:
    """The inputs of a model with this entry in its structure.

    Raises:
        TypeError, ValueError: there is no such model.
    """
    found: dict[str, Value] = {}
    for each in _list("inputs", inputs):
        entry = require_entries("inputs", each, {"name", "features", "time", "integer"})
        name, time, whole = _text("name", entry["name"]), flag("time", entry["time"]), flag("integer", entry["integer"])
        features = tuple(integer("features", size) for size in _list("features", entry["features"]))
        if len(features) > 2 or (not features and not whole):
            raise ValueError(f"features of {name!r}: expected one size or two, got {shown(features)}")
        if name in found:
            raise ValueError(f"inputs: expected each name once, got {name!r} again")
        found[name] = Value(features, time, whole)
    return found


def described_nodes(
    nodes: Any, parameters: Mapping[str, Any]
) -> list[tuple[str, tuple[str, ...], dict[str, Any], dict[str, Any]]]:
    """Name, inputs, attributes and parameters of each node; parameters come as arrays by "node.parameter".

    Raises:
        TypeError, ValueError: attributes are not those of the node's kind, or do not go with the parameters.
    """
    own: dict[str, dict[str, Any]] = {}
    for key, array in parameters.items():
        node, _, name = key.partition(".")
        own.setdefault(node, {})[name] = array
    found = []
    for each in _list("nodes", nodes):
        if not isinstance(each, dict):
            raise ValueError(f"nodes: expected names and values, got {shown(each)}")
        attributes = dict(each)
        name = _text("name", attributes.pop("name", None))
        inputs = tuple(
            _text(f"inputs of {name!r}", source) for source in _list("inputs", attributes.pop("inputs", None))
        )
        arrays = own.pop(name, {})
        try:
            _require_shapes(attributes, {key: tuple(array.shape) for key, array in arrays.items()})
        except (TypeError, ValueError) as error:
            raise ValueError(f"node {name!r}: {error}") from None
        found.append((name, inputs, attributes, arrays))
    if own:
        raise ValueError(f"parameters: expected those of the nodes, got some of {shown(sorted(own))}")
    return found


def _require_shapes(attributes: dict[str, Any], shapes: Shapes) -> None:
    kind = _text("kind", attributes.get("kind"))
    if kind != "recurrent" and kind not in _LAYERS:
        raise ValueError(f"kind: expected a layer of recurra, got {shown(kind)}")
    require_entries(kind, attributes, _names(kind))
    wanted = _SHAPES[kind](attributes, len(shapes)) if kind in _SHAPES else {}
    if wanted != shapes:
        raise ValueError(f"expected parameters of shapes {shown(wanted)}, got {shown(shapes)}")


@cache
def _names(kind: str) -> Set[str]:
    """The keys of a node of this kind, but for its name and inputs."""
    if kind == "recurrent":
        return {"kind", *RECURRENT, "constants", "precision", "keep"}
    return {"kind", *inspect.signature(_LAYERS[kind]).parameters} - _ELSEWHERE


def _linear(a: Mapping[str, Any], _: int) -> Shapes:
    outputs, inputs = _sizes(a, "out_features", "in_features")
    return {"weight": (outputs, inputs)} | ({"bias": (outputs,)} if flag("bias", a["bias"]) else {})


def _convolution(a: Mapping[str, Any], _: int) -> Shapes:
    outputs, inputs, groups = _sizes(a, "out_channels", "in_channels", "groups")
    given = a["kernel_size"]
    kernel = tuple(integer("kernel_size", size) for size in (given if isinstance(given, list) else [given]))
    bias = {"bias": (outputs,)} if flag("bias", a["bias"]) else {}
    return {"weight": (outputs, inputs // groups, *kernel), **bias}


def _layer_norm(a: Mapping[str, Any], _: int) -> Shapes:
    return {name: _sizes(a, "features") for name in ("weight", "bias") if flag(name, a[name])}


def _recurrent(a: Mapping[str, Any], count: int) -> Shapes:
    cell = choice("cell", a["cell"], SEQUENCE_CELLS)
    inputs, hidden, layers, heads = _sizes(a, "input_size", "hidden_size", "num_layers", "heads")
    projection = integer("proj_size", a["proj_size"], 0)
    if layers > count:
        raise ValueError(f"num_layers: expected at most as many as there are parameters, {count}, got {shown(layers)}")
    sizes = Sizes(
        input=inputs,
        hidden=hidden,
        output=projection or hidden,
        layers=layers,
        directions=2 if chosen_direction(False, a["direction"]) == "bidirectional" else 1,
        bias=flag("bias", a["bias"]),
        proj_bias=flag("proj_bias", a["proj_bias"]),
        initial_state=flag("initial_state", a["initial_state"]),
        heads=heads,
    )
    # Any size beyond what the parameters hold makes a parameter that is larger than it should be.
    return {name: tuple(shape) for name, shape in cell.shapes(sizes).items()}


_SHAPES: dict[str, Callable[[Mapping[str, Any], int], Shapes]] = {
    "linear": _linear,
    "conv1d": _convolution,
    "conv2d": _convolution,
    "embedding": lambda a, _: {"weight": _sizes(a, "num_embeddings", "embedding_dim")},
    "layer_norm": _layer_norm,
    "scale": lambda a, _: {name: _sizes(a, "features") for name in ("weight", "bias")},
    "recurrent": _recurrent,
}


def _sizes(attributes: Mapping[str, Any], *names: str) -> tuple[int, ...]:
    return tuple(integer(name, attributes[name]) for name in names)


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name}: expected a list, got {shown(value)}")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected text, got {shown(value)}")
    return value
