"""Nodes of a model that do the work of their neighbours: merged, or left out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ...heads import Linear
from ...model import Conv1d, Conv2d, LayerNorm, Reshape, Scale, Select
from ...model.structure import kind_of
from .builder import Padding

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._arrays import Array
    from .builder import Builder, Built

__all__ = ["simplified"]


def simplified(builder: Builder, outputs: dict[str, str], states: set[str]) -> None:
    """Merge scales, permutations and padding into the layers beside them, and drop what no output needs.

    Args:
        outputs: names of the graph's outputs to those of values, which are changed where a node goes.
        states: nodes whose final states are outputs too.
    """
    _drop_unused(builder, outputs, states)
    changed = True
    while changed:
        changed = any(_merge(builder, outputs, rule) for rule in (_scale, _select, _selected_inputs, _pad, _crop))
    for node in builder.nodes:
        if isinstance(node.layer, Padding):
            node.layer = _as_convolution(builder, node)
    _drop_reshapes(builder, outputs)
    _drop_unused(builder, outputs, states)


def _inputs(node: Built) -> list[str]:
    return node.inputs + [state for state in node.states if isinstance(state, str)]


def _drop_unused(builder: Builder, outputs: dict[str, str], states: set[str]) -> None:
    names = {node.name for node in builder.nodes}
    needed = states | {_owner(each, names) for each in outputs.values()}
    kept = []
    for node in reversed(builder.nodes):
        if node.name in needed:
            kept.append(node)
            needed |= {_owner(each, names) for each in _inputs(node)}
    builder.nodes[:] = kept[::-1]


def _owner(value: str, names: set[str]) -> str:
    """The node that gives a value, "gru" for "gru:h"."""
    return value if value in names else value.rsplit(":", 1)[0]


def _merge(builder: Builder, outputs: dict[str, str], rule: Callable[[Builder, Built, Built, int], Any]) -> bool:
    """Let the rule look at each node and the one before it; it returns a layer for both, or None."""
    nodes = {node.name: node for node in builder.nodes}
    uses = Counter(each for node in builder.nodes for each in _inputs(node))
    uses.update(outputs.values())
    for node in builder.nodes:
        before = nodes.get(node.inputs[0])
        if before is None or len(node.inputs) > 1 or ":" in node.inputs[0]:
            continue
        layer = rule(builder, before, node, uses[before.name])
        if layer is None:
            continue
        # What merges into the node behind it leaves its other users alone.
        keep, gone = (node, before) if isinstance(before.layer, (Select, Padding)) else (before, node)
        keep.layer, keep.inputs, keep.value = layer, before.inputs, node.value
        builder.values[keep.name] = node.value
        if uses[before.name] == 1:
            builder.nodes.remove(gone)
            if gone is node:
                _redirect(builder, outputs, node.name, before.name)
        return True
    return False


def _redirect(builder: Builder, outputs: dict[str, str], old: str, new: str) -> None:
    for node in builder.nodes:
        node.inputs = [new if each == old else each for each in node.inputs]
        node.states = [new if isinstance(each, str) and each == old else each for each in node.states]
    for name, value in outputs.items():
        outputs[name] = new if value == old else value


def _remade(layer: Any, parameters: dict[str, Array], **changes: Any) -> Any:
    """A layer with other parameters, a bias among them or not as they say."""
    if isinstance(layer, Linear):
        new: Any = Linear(layer.in_features, layer.out_features, "bias" in parameters, dtype=layer.dtype, seed=0)
    else:
        options = layer.configuration | changes
        options |= {name: name in parameters for name in ("weight", "bias") if isinstance(options.get(name), bool)}
        new = type(layer)(**options, dtype=layer.dtype)
    dtype = layer.dtype
    new.load_state_dict({name: np.ascontiguousarray(array, dtype) for name, array in parameters.items()})
    return new


def _scale(builder: Builder, before: Built, node: Built, uses: int) -> Any:
    """A scale behind a linear layer, a convolution, a normalisation or another scale."""
    if not isinstance(node.layer, Scale) or uses != 1:
        return None
    layer, scale = before.layer, node.layer.state_dict()
    weight, bias = scale["weight"].astype(np.float64), scale["bias"].astype(np.float64)
    if not isinstance(layer, (Linear, Conv1d, Conv2d, LayerNorm, Scale)):
        return None
    own = {name: array.astype(np.float64) for name, array in layer.state_dict().items()}
    channels = len(own["weight"]) if not isinstance(layer, LayerNorm) else layer.features
    columns = weight.reshape(channels, -1), bias.reshape(channels, -1)
    if any((each != each[:, :1]).any() for each in columns):
        return None
    weight, bias = (each[:, 0] for each in columns)
    if isinstance(layer, LayerNorm):
        merged = {"weight": own.get("weight", 1.0) * weight, "bias": own.get("bias", 0.0) * weight + bias}
        return _remade(layer, merged)
    merged = {"weight": own["weight"] * weight.reshape(-1, *[1] * (own["weight"].ndim - 1))}
    if "bias" in own or bias.any():
        merged["bias"] = own.get("bias", 0.0) * weight + bias
    return _remade(layer, merged)


def _select(builder: Builder, before: Built, node: Built, uses: int) -> Any:
    """A selection of what a linear layer or another selection gives."""
    if not isinstance(node.layer, Select) or uses != 1:
        return None
    indices = list(node.layer.indices)
    if isinstance(before.layer, Select):
        return Select([before.layer.indices[i] for i in indices])
    if isinstance(before.layer, Linear) and len(indices) == before.layer.out_features:
        return _remade(before.layer, {name: array[indices] for name, array in before.layer.state_dict().items()})
    return None


def _selected_inputs(builder: Builder, before: Built, node: Built, uses: int) -> Any:
    """A permutation of what a linear layer takes."""
    if not isinstance(before.layer, Select) or not isinstance(node.layer, Linear):
        return None
    indices = np.array(before.layer.indices)
    if sorted(indices) != list(range(builder.values[before.inputs[0]].size)):
        return None
    parameters = node.layer.state_dict()
    parameters["weight"] = parameters["weight"][:, np.argsort(indices)]
    return _remade(node.layer, parameters)


def _pad(builder: Builder, before: Built, node: Built, uses: int) -> Any:
    """Zeros in front of a convolution, which may have them itself."""
    pad = before.layer
    if not isinstance(pad, Padding) or not isinstance(node.layer, Conv2d):
        return None
    if min(pad.before, pad.after) < 0 or (isinstance(node.layer, Conv1d) and (pad.left or pad.right)):
        return None
    time, width = node.layer.padding
    more = (time[0] + pad.before, time[1] + pad.after), (width[0] + pad.left, width[1] + pad.right)
    return _padded(node.layer, more)


def _crop(builder: Builder, before: Built, node: Built, uses: int) -> Any:
    """Steps cut off behind a convolution whose own padding made them."""
    pad, layer = node.layer, before.layer
    if not isinstance(pad, Padding) or not isinstance(layer, Conv2d) or uses != 1 or layer.stride[0] != 1:
        return None
    time, width = layer.padding
    left = (time[0] + pad.before, time[1] + pad.after)
    if max(pad.before, pad.after) > 0 or min(left) < 0 or pad.left or pad.right:
        return None
    return _padded(layer, (left, width))


def _padded(layer: Conv2d, padding: Any) -> Any:
    padding = padding[0] if isinstance(layer, Conv1d) else padding
    return _remade(layer, layer.state_dict(), padding=padding)


def _as_convolution(builder: Builder, node: Built) -> Any:
    """Padding and cutting as a convolution of each channel alone with one number that is 1."""
    pad, value = node.layer, builder.values[node.inputs[0]]
    kernel = 1 + max(0, -pad.before) + max(0, -pad.after)
    time = (max(0, pad.before), max(0, pad.after))
    channels = value.features[0]
    if len(value.features) == 1:
        layer: Any = Conv1d(channels, channels, kernel, 1, time, 1, channels, False, dtype=builder.dtype, seed=0)
    else:
        padding = (time, (pad.left, pad.right))
        layer = Conv2d(channels, channels, (kernel, 1), 1, padding, 1, channels, False, dtype=builder.dtype, seed=0)
    weight = np.zeros_like(layer.state_dict()["weight"])
    weight[:, :, max(0, -pad.before)] = 1
    layer.load_state_dict({"weight": weight})
    return layer


def _drop_reshapes(builder: Builder, outputs: dict[str, str]) -> None:
    """Leave out reshapes that nobody needs: these layers look at flattened features alone."""
    flattening = ("recurrent", "linear", "select", "reshape")
    for node in list(builder.nodes):
        if not isinstance(node.layer, Reshape) or node.name in outputs.values():
            continue
        users = [each for each in builder.nodes if node.name in _inputs(each)]
        if all(kind_of(each.layer) in flattening for each in users):
            builder.nodes.remove(node)
            _redirect(builder, outputs, node.name, node.inputs[0])
