"""Where a model's nodes stand: what they are called and take, and the values that come out, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .._options import flag, integer, items, mapping, shown
from ..activation import Activation
from ..heads import Embedding, Linear
from ..recurrent import Recurrent
from .operation import Value
from .structure import kind_of, result_of, state_sizes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .operation import Node

__all__ = ["Placed", "first_value", "given_values", "listed", "named_function", "place"]


class Placed(NamedTuple):
    """A node with all that was left out: see `Node`."""

    name: str
    layer: Any
    inputs: tuple[str, ...]
    value: Value  # what comes out


def first_value(layer: Any) -> Value:
    """The model's input, where only its first layer says what it is."""
    kind = kind_of(layer)
    if isinstance(layer, Recurrent):
        return Value((layer.input_size,))
    if isinstance(layer, Linear):
        return Value((layer.in_features,))
    if isinstance(layer, Embedding):
        return Value((), integer=True)
    if kind == "conv1d":
        return Value((layer.in_channels,))
    if kind in ("layer_norm", "scale"):
        return Value((layer.features,))
    raise ValueError(f"inputs: expected names and shapes, for the first layer, {kind}, does not say them; got None")


def named_function(name: str) -> Activation:
    """An activation, for its name."""
    try:
        return Activation(name)
    except ValueError as error:
        raise ValueError(f"layers: {error}") from None


def given_values(inputs: Any) -> dict[str, Value]:
    """The caller's names and shapes, checked."""
    given = mapping("inputs", inputs)
    if not given:
        raise ValueError("inputs: expected at least one, got none")
    made = {}
    for name, value in given.items():
        if not name or ":" in name or "." in name:
            raise ValueError(f"inputs: expected names without ':' and '.', got {shown(name)}")
        if not isinstance(value, Value):
            raise TypeError(f"inputs {name}: expected a recurra.Value, got {shown(value)}")
        title = f"inputs {name} features"
        features = tuple(integer(title, size) for size in items(title, value.features, " of sizes"))
        if len(features) > 2 or (not features and not value.integer):
            raise ValueError(f"{title}: expected one size or two, got {shown(features)}")
        made[name] = Value(
            features, flag(f"inputs {name} time", value.time), flag(f"inputs {name} integer", value.integer)
        )
    return made


def place(node: Node, placed: list[Placed], given: Mapping[str, Value], values: dict[str, Value]) -> Placed:
    """The node behind those that are `placed`; its value, and a recurrent one's final states, go to `values`."""
    kind = kind_of(node.layer)
    name = node.name
    if name is None:
        name = f"{kind}{sum(kind_of(other.layer) == kind for other in placed)}"
    if not isinstance(name, str) or not name or ":" in name or "." in name:
        raise ValueError(f"name: expected text without ':' and '.', got {shown(name)}")
    if name in values:
        raise ValueError(f"name: expected one that is not used yet, got {name!r}")
    inputs = node.inputs if node.inputs is None else items(f"inputs of {name!r}", node.inputs, " of names")
    if inputs is None:
        if not placed and len(given) > 1:
            raise ValueError(f"inputs: expected the first node to name those it takes, of {listed(given)}, got None")
        inputs = [placed[-1].name if placed else next(iter(given))]
    for each in inputs:
        if not isinstance(each, str) or each not in values:
            raise ValueError(
                f"inputs of {name!r}: expected names of what stands before it, {listed(values)}, got {shown(each)}"
            )
    try:
        value = result_of(node.layer, [values[each] for each in inputs])
    except ValueError as error:
        raise ValueError(f"layers: node {name!r}: {error}") from None
    values[name] = value
    if isinstance(node.layer, Recurrent):
        values.update({f"{name}:{state}": Value((size,), False) for state, size in state_sizes(node.layer).items()})
    return Placed(name, node.layer, tuple(inputs), value)


def listed(values: Mapping[str, Any]) -> str:
    """Their names, for an error."""
    return ", ".join(map(repr, values))
