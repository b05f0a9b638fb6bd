"""The nodes of a model as C: where each one's value lies, and the statements that make it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..activation import Activation
from ..formats.unsupported import UnsupportedModel
from ..model.structure import kind_of
from ..recurrent import Recurrent
from .arithmetic import literal
from .cells import chosen, is_known
from .places import Nodes, Place
from .recurrent import add_recurrent
from .source import comment
from .windows import WINDOWS, convolution, pooling

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..model import Model
    from .source import Source

__all__ = ["KINDS", "add_nodes"]


def add_nodes(source: Source, model: Model, inputs: dict[str, Place], outputs: dict[str, str]) -> None:
    """Add all nodes of a model.

    Args:
        inputs: where the caller's values lie, by the names of the model's inputs.
        outputs: names of nodes to the pointers they are to write to.

    Raises:
        UnsupportedModel: a node that cannot be exported.
    """
    for node in model._nodes:
        _require(node, source.language)
    nodes = Nodes(source, model, inputs, outputs)
    for name in [name for name in model.outputs if name in inputs]:
        source.steps.append(inputs[name].copied(outputs[name]))
    for node in model._nodes:
        _add(nodes, node)
    for name, place in nodes.places.items():
        if ":" in name and name in outputs:
            source.steps.append(place.copied(outputs[name]))


def _add(nodes: Nodes, node: Any) -> None:
    source = nodes.source
    x = [nodes.places[name] for name in node.inputs]
    source.steps += ["", comment([f"{node.name}: {_about(node.layer)}"])]
    if isinstance(node.layer, Recurrent):
        wanted = [state for state, _ in node.layer._packed._cell.states if nodes.wants(f"{node.name}:{state}")]
        made, states = add_recurrent(source, node.name, node.layer, x[0].at, wanted)
        nodes.places |= {f"{node.name}:{name}": place for name, place in states.items()}
    else:
        made = KINDS[kind_of(node.layer)](nodes, node, x)
    if node.name in nodes.outputs and made.at != nodes.outputs[node.name]:
        source.steps.append(made.copied(nodes.outputs[node.name]))
    nodes.places[node.name] = made


def _require(node: Any, language: str) -> None:
    """UnsupportedModel, by name, for what would not be the same program."""
    layer, kind = node.layer, kind_of(node.layer)
    reason = ""
    if isinstance(layer, Recurrent):
        if not is_known(layer._packed._cell.name):
            reason = f"cell {layer._packed._cell.name!r} cannot be exported"
        elif layer.precision == "bfloat16":
            reason = "expected weights in float32 or int8, got precision 'bfloat16'"
    elif kind not in KINDS:
        reason = f"{kind} cannot be exported"
    elif kind in WINDOWS and layer.stride[0] > 1:
        reason = f"expected a stride of 1, for every step has a result, got {layer.stride[0]} over time"
    if reason:
        raise UnsupportedModel(f"{language}: node {node.name!r}: {reason}")


def _about(layer: Any) -> str:
    if isinstance(layer, (Recurrent, Activation)):
        return layer._packed._cell.name if isinstance(layer, Recurrent) else layer.function
    return kind_of(layer)


def _linear(nodes: Nodes, node: Any, x: list[Place]) -> Place:
    if nodes.source.vectors and node.layer.out_features > 3:
        return _linear_of_vectors(nodes, node, x[0])
    to, weight, bias = nodes.result(node), nodes.array(node, "weight"), nodes.array(node, "bias")
    sizes = f"{node.layer.in_features}, {node.layer.out_features}"
    if nodes.source.vectors:
        nodes.source.steps.append(f"rc_affine_of_few<{sizes}>({weight}, {bias}, {x[0].at}, {to.at});")
        return to
    nodes.source.steps.append(f"rc_linear({sizes}, {weight}, {bias}, {x[0].at}, {to.at});")
    return to


def _linear_of_vectors(nodes: Nodes, node: Any, x: Place) -> Place:
    to, layer, names = nodes.result(node), node.layer, [node.name, "weight"]
    params = layer.state_dict()
    weight = nodes.source.once((id(layer), "tiles"), lambda: nodes.source.tiles(params["weight"], *names))
    bias = "0"
    if "bias" in params:
        rows = params["bias"][:, None]
        bias = nodes.source.once((id(layer), "bias tiles"), lambda: nodes.source.tiles(rows, node.name, "bias"))
    sizes = f"{layer.in_features}, {layer.out_features}"
    nodes.source.steps.append(f"rc_affine<{sizes}>({weight}, {bias}, {x.at}, {to.at});")
    return to


def _embedding(nodes: Nodes, node: Any, x: list[Place]) -> Place:
    layer, table, to = node.layer, nodes.array(node, "weight", flat=False), nodes.result(node)
    inside = f"{x[0].at}[0] >= 0 && {x[0].at}[0] < {layer.num_embeddings}"
    return nodes.each(to, f"{inside} ? {table}[{x[0].at}[0]][i] : 0.0f")


def _activation(nodes: Nodes, node: Any, x: list[Place]) -> Place:
    return nodes.each(nodes.result(node, x[0]), chosen(node.layer.constants("f"), "f")(x[0].item("i")))


def _softmax(nodes: Nodes, node: Any, x: list[Place]) -> Place:
    to = nodes.result(node, x[0])
    function = "rc_log_softmax" if node.layer.log else "rc_softmax"
    nodes.source.steps.append(f"{function}({x[0].at}, {to.at}, {to.size});")
    return to


def _layer_norm(nodes: Nodes, node: Any, x: list[Place]) -> Place:
    to, eps = nodes.result(node, x[0]), literal(node.layer.eps)
    weight, bias = nodes.array(node, "weight"), nodes.array(node, "bias")
    nodes.source.steps.append(f"rc_layer_norm({x[0].at}, {to.at}, {to.size}, {eps}, {weight}, {bias});")
    return to


def _scale(nodes: Nodes, node: Any, x: list[Place]) -> Place:
    weight, bias = nodes.array(node, "weight"), nodes.array(node, "bias")
    return nodes.each(nodes.result(node, x[0]), f"{x[0].item('i')} * {weight}[i] + {bias}[i]")


def _sqrt(nodes: Nodes, node: Any, x: list[Place]) -> Place:
    return nodes.each(nodes.result(node, x[0]), f"sqrtf({x[0].item('i')})")


def _elementwise(sign: str) -> Callable[[Nodes, Any, list[Place]], Place]:
    def add(nodes: Nodes, node: Any, x: list[Place]) -> Place:
        return nodes.each(nodes.result(node), f" {sign} ".join(place.item("i") for place in x))

    return add


def _concatenate(nodes: Nodes, node: Any, x: list[Place]) -> Place:
    to, first = nodes.result(node), 0
    for place in x:
        nodes.source.steps.append(place.copied(to.plus(first)))
        first += place.size
    return to


def _select(nodes: Nodes, node: Any, x: list[Place]) -> Place:
    indices = np.array(node.layer.indices, np.int32)
    table = nodes.source.array(indices, node.name, "indices")
    return nodes.each(nodes.result(node), x[0].item(f"{table}[i]"))


def _pool(nodes: Nodes, node: Any, x: list[Place]) -> Place:
    """Of the steps so far."""
    source, size, mode = nodes.source, node.value.size, node.layer.mode
    if mode == "last":
        return x[0]._replace(spare=False)
    value, steps = source.name(node.name, "value"), source.name(node.name, "steps")
    source.fields += [f"float {value}[{size}];", f"uint64_t {steps};"]
    source.resets += [f"for (int i = 0; i < {size}; ++i) state->{value}[i] = 0.0f;", f"state->{steps} = 0;"]
    old, new = f"state->{value}[i]", x[0].item("i")
    update = {
        "first": f"state->{steps} ? {old} : {new}",
        "max": f"!state->{steps} || {old} < {new} || {new} != {new} ? {new} : {old}",
        "mean": f"{old} + {new}",
    }[mode]
    source.steps += [f"for (int i = 0; i < {size}; ++i) {old} = {update};", f"++state->{steps};"]
    if mode == "mean":
        return nodes.each(nodes.result(node), f"{old} / (float)state->{steps}")
    return Place(f"state->{value}", size)


def _same(nodes: Nodes, node: Any, x: list[Place]) -> Place:
    return x[0]._replace(spare=False)


KINDS: dict[str, Callable[[Nodes, Any, list[Place]], Place]] = {
    "linear": _linear,
    "embedding": _embedding,
    "activation": _activation,
    "conv1d": lambda nodes, node, x: convolution(nodes, node, x[0]),
    "conv2d": lambda nodes, node, x: convolution(nodes, node, x[0]),
    "max_pool2d": lambda nodes, node, x: pooling(nodes, node, x[0]),
    "avg_pool2d": lambda nodes, node, x: pooling(nodes, node, x[0]),
    "softmax": _softmax,
    "layer_norm": _layer_norm,
    "scale": _scale,
    "sqrt": _sqrt,
    "add": _elementwise("+"),
    "multiply": _elementwise("*"),
    "concatenate": _concatenate,
    "select": _select,
    "pool": _pool,
    "dropout": _same,
    "reshape": _same,
}
