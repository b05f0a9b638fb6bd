"""Groups of nodes that older exporters write for one operator."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from .graph import Node

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["with_layer_norms"]


def with_layer_norms(nodes: list[Node], constants: Mapping[str, Any]) -> list[Node]:
    """(x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) as one LayerNormalization without scale and bias."""
    by_output = {name: node for node in nodes for name in node.outputs if name}
    known = {name: array for name, array in constants.items() if isinstance(array, np.ndarray)}
    known |= {
        n.outputs[0]: n.get("value") for n in nodes if n.op == "Constant" and isinstance(n.get("value"), np.ndarray)
    }
    replaced: dict[int, Node] = {}
    for node in nodes:
        if node.op == "Div" and (norm := _layer_norm(node, by_output, known)) is not None:
            replaced[id(node)] = norm
    if not replaced:
        return nodes
    nodes = [replaced.get(id(node), node) for node in nodes]
    uses = Counter(name for node in nodes for name in node.inputs)
    gone = {"ReduceMean", "Sub", "Pow", "Add", "Sqrt", "Mul"}
    inner = {name for norm in replaced.values() for name in norm.get("inner")}
    kept: list[Node] = []
    for node in reversed(nodes):  # those that nothing else uses
        if node.op in gone and node.outputs[0] in inner and not uses[node.outputs[0]]:
            uses.subtract(node.inputs)
        else:
            kept.append(node)
    return kept[::-1]


def _layer_norm(div: Node, by_output: Mapping[str, Node], known: Mapping[str, Any]) -> Node | None:
    def made_by(name: str, op: str) -> Node | None:
        node = by_output.get(name)
        return node if node is not None and node.op == op else None

    def axes(mean: Node) -> Any:
        if not mean.get("keepdims", 1):
            return None
        given = known.get(mean.input(1)) if mean.input(1) else mean.get("axes")
        return None if given is None else [int(axis) for axis in np.asarray(given).flat]

    centred, root = made_by(div.input(0), "Sub"), made_by(div.input(1), "Sqrt")
    total = made_by(root.input(0), "Add") if root else None
    mean = made_by(centred.input(1), "ReduceMean") if centred else None
    if centred is None or root is None or total is None or mean is None or mean.input(0) != centred.input(0):
        return None
    constant = [name for name in total.inputs if name in known and np.size(known[name]) == 1]
    others = [name for name in total.inputs if name not in constant]
    variance = made_by(others[0], "ReduceMean") if len(constant) == len(others) == 1 else None
    if variance is None or axes(variance) is None or axes(variance) != axes(mean):
        return None
    square = by_output.get(variance.input(0))
    own = div.input(0)
    is_power = square is not None and square.op == "Pow" and np.all(known.get(square.input(1), 0) == np.float64(2))
    is_product = square is not None and square.op == "Mul" and square.inputs == [own, own]
    if square is None or not (is_product or (is_power and square.input(0) == own)):
        return None
    inner = [each.outputs[0] for each in (centred, root, total, mean, variance, square)]
    attributes = {"axes": axes(mean), "epsilon": float(np.asarray(known[constant[0]]).item()), "inner": inner}
    return Node("LayerNormalization", div.name, [centred.input(0), "", ""], list(div.outputs), attributes, div.opset)
