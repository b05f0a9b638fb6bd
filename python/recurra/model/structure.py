"""The structure of a model as JSON has it, and the layers that it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._options import shown
from ..activation import Activation
from ..heads import Embedding, Linear
from ..recurrent import Recurrent
from . import convolution, operations
from .operation import Operation, Value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "OPERATIONS",
    "RECURRENT",
    "has_parameters",
    "kind_of",
    "made",
    "parameter_shapes",
    "result_of",
    "structure_of",
]

OPERATIONS: dict[str, type[Operation]] = {
    kind.kind: kind
    for module in (operations, convolution)
    for kind in (getattr(module, name) for name in module.__all__)
}

# Attributes of a recurrent layer that a model keeps; batch_first, dtype and device are the model's.
RECURRENT = (
    "cell",
    "input_size",
    "hidden_size",
    "num_layers",
    "bias",
    "direction",
    "proj_size",
    "proj_bias",
    "heads",
    "initial_state",
    "dropout",
    "recurrent_dropout",
    "zoneout",
)


def kind_of(layer: Any) -> str:
    """What a node of this layer is called in a model's structure.

    Raises:
        TypeError: it is nothing that a model may hold.
    """
    if isinstance(layer, Recurrent):
        return "recurrent"
    if isinstance(layer, Linear):
        return "linear"
    if isinstance(layer, Embedding):
        return "embedding"
    if isinstance(layer, Activation):
        return "activation"
    if isinstance(layer, Operation):
        return layer.kind
    raise TypeError(
        "layers: expected recurrent layers, Linear, Embedding, an activation or operations of recurra.model, "
        f"got {shown(layer)}"
    )


def has_parameters(layer: Any) -> bool:
    """Whether it has a `state_dict` with something in it."""
    return layer.has_parameters if isinstance(layer, Operation) else not isinstance(layer, Activation)


def parameter_shapes(layer: Any) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of a layer's parameters."""
    shapes: Mapping[str, tuple[int, ...]] = {}
    if has_parameters(layer):
        shapes = layer._packed.shapes if isinstance(layer, Recurrent) else layer._shapes
    return shapes


def structure_of(layer: Any) -> dict[str, Any]:
    """The layer as JSON holds it: its kind and attributes, without parameters."""
    kind = kind_of(layer)
    if kind == "recurrent":
        attributes = {name: getattr(layer, name) for name in RECURRENT}
        if isinstance(layer.zoneout, tuple):
            attributes["zoneout"] = list(layer.zoneout)
        finite = {name: value for name, value in (layer.constants or {}).items() if abs(value) != float("inf")}
        attributes |= {"constants": finite, "precision": layer.precision, "keep": list(layer.keep)}
    elif kind == "linear":
        attributes = {name: getattr(layer, name) for name in ("in_features", "out_features")}
        attributes["bias"] = "bias" in layer.state_dict()
    elif kind == "embedding":
        attributes = {name: getattr(layer, name) for name in ("num_embeddings", "embedding_dim")}
    elif kind == "activation":
        attributes = {name: getattr(layer, name) for name in ("function", "alpha", "beta")}
    else:
        attributes = layer.configuration
    return {"kind": kind, **attributes}


def made(structure: Mapping[str, Any], dtype: str, parameters: Mapping[str, Any]) -> Any:
    """The layer of such a structure and parameters.

    Raises:
        TypeError, ValueError: there is no such layer, or parameters do not fit.
    """
    attributes = dict(structure)
    kind = attributes.pop("kind", None)
    if kind == "activation":
        return Activation(**attributes)
    if kind == "recurrent":
        precision, keep = attributes.pop("precision"), attributes.pop("keep")
        attributes["zoneout"] = tuple(z) if isinstance(z := attributes["zoneout"], list) else z
        layer: Any = Recurrent(**attributes, dtype=dtype)
        layer.load_state_dict(parameters)
        return layer.quantize(precision, keep=keep) if precision else layer
    if kind not in ("linear", "embedding", *OPERATIONS):
        raise ValueError(f"kind: expected a layer of recurra {sorted(OPERATIONS)}, got {shown(kind)}")
    make: Any = {"linear": Linear, "embedding": Embedding}.get(kind) or OPERATIONS[kind]
    takes_dtype = kind in ("linear", "embedding") or make.has_parameters
    layer = make(**attributes, **({"dtype": dtype} if takes_dtype else {}))
    if takes_dtype:
        layer.load_state_dict(parameters)
    return layer


def result_of(layer: Any, inputs: Sequence[Value]) -> Value:
    """What comes out of a layer for inputs of such shapes.

    Raises:
        ValueError: the layer cannot take them.
    """
    kind = kind_of(layer)
    if isinstance(layer, Operation):
        return layer.result(*inputs)
    if kind == "recurrent":
        return _recurrent_result(layer, inputs)
    value = inputs[0]
    if len(inputs) != 1:
        raise ValueError(f"{kind}: expected one input, got {len(inputs)}")
    if kind == "embedding":
        if not value.integer:
            raise ValueError("embedding: expected integers, got floating-point numbers")
        return Value((layer.embedding_dim,), value.time)
    if value.integer:
        raise ValueError(f"{kind}: expected floating-point numbers, got integers")
    if kind == "activation":
        return value
    if value.size != layer.in_features:
        raise ValueError(f"linear: expected {layer.in_features} features, got {value.size}")
    return Value((layer.out_features,), value.time)


def state_sizes(layer: Recurrent) -> dict[str, int]:
    """Names of a recurrent layer's states to the numbers a row has of each, over all layers and directions."""
    shapes = layer._packed.state_shapes(())
    return {name: shape[0] * shape[-1] for name, shape in shapes.items()}


def _recurrent_result(layer: Recurrent, inputs: Sequence[Value]) -> Value:
    value = inputs[0]
    if value.integer or not value.time or value.size != layer.input_size:
        raise ValueError(f"recurrent: expected a sequence of {layer.input_size} features, got {value}")
    states = list(state_sizes(layer).values())
    if len(inputs) > 1 and [(v.size, v.time, v.integer) for v in inputs[1:]] != [(s, False, False) for s in states]:
        raise ValueError(f"recurrent: expected initial states of sizes {states}, got {list(inputs[1:])}")
    if len(inputs) > 1 and layer.precision == "int8" and layer._packed._cell.unit_range:
        raise ValueError("recurrent: expected no initial states of other nodes for int8, whose scale of h is fixed")
    directions = 2 if layer.bidirectional else 1
    return Value((directions * (layer.proj_size or layer.hidden_size),))
