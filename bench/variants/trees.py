"""Tree-LSTMs as one writes them in PyTorch: node by node, and all nodes of one height at a time.

Both take a forest, x [N, I] (None for kind "s_lstm"), the (h, c) of leaves [L, H] or None, and the parameters of a
`recurra.TreeLSTM` as tensors; both return h and c [N, H], through which PyTorch differentiates.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

import recurra

from . import BY_NODE, Call, Case

Params = Mapping[str, Tensor]
States = tuple[Tensor, Tensor]


def parameters(layer: Any) -> dict[str, Tensor]:
    """Those of a TreeLSTM, to be trained."""
    return {name: torch.tensor(array).requires_grad_() for name, array in layer.state_dict().items()}


def node_by_node(kind: str, forest: recurra.Forest, x: Tensor | None, leaf_states: States | None, p: Params) -> States:
    """A loop over nodes, children first."""
    step = {"child_sum": _child_sum_node, "n_ary": _n_ary_node, "s_lstm": _s_lstm_node}[kind]
    offsets, children = forest.offsets.tolist(), forest.children.tolist()
    leaf_at = {node: at for at, node in enumerate(forest.leaves.tolist())}
    h: list[Tensor] = []
    c: list[Tensor] = []
    for node in range(forest.num_nodes):
        if leaf_states is not None and node in leaf_at:
            states = leaf_states[0][leaf_at[node]], leaf_states[1][leaf_at[node]]
        else:
            below = children[offsets[node] : offsets[node + 1]]
            states = step(None if x is None else x[node], [h[k] for k in below], [c[k] for k in below], p)
        h.append(states[0])
        c.append(states[1])
    return torch.stack(h), torch.stack(c)


def _child_sum_node(x: Tensor | None, h: list[Tensor], c: list[Tensor], p: Params) -> States:
    w = _from_input(x, p)
    ui, uf, ug, uo = p["weight_hh"].chunk(4)
    wi, wf, wg, wo = w.chunk(4)
    if not h:
        return _output(torch.sigmoid(wi) * torch.tanh(wg), torch.sigmoid(wo))
    h_sum = torch.stack(h).sum(0)
    ai, ag, ao = linear(h_sum, torch.cat((ui, ug, uo))).chunk(3)
    f = torch.sigmoid(wf + linear(torch.stack(h), uf))
    cell = torch.sigmoid(wi + ai) * torch.tanh(wg + ag) + (f * torch.stack(c)).sum(0)
    return _output(cell, torch.sigmoid(wo + ao))


def _n_ary_node(x: Tensor | None, h: list[Tensor], c: list[Tensor], p: Params) -> States:
    places = len(p["weight_hh"])
    a = p["bias"] if x is None else p["bias"] + _to_each_child(linear(x, p["weight_ih"]), places)
    for weight, h_k in zip(p["weight_hh"], h, strict=False):
        a = a + linear(h_k, weight)
    ai, *af, ag, ao = a.chunk(places + 3)
    cell = torch.sigmoid(ai) * torch.tanh(ag)
    for af_k, c_k in zip(af, c, strict=False):
        cell = cell + torch.sigmoid(af_k) * c_k
    return _output(cell, torch.sigmoid(ao))


def _s_lstm_node(x: Tensor | None, h: list[Tensor], c: list[Tensor], p: Params) -> States:
    places, size = len(p["weight_hh"]), p["weight_co"].shape[0]
    a = p["bias"]
    seen = torch.zeros((places + 1) * size, dtype=a.dtype)
    for weight, from_cell, h_k, c_k in zip(p["weight_hh"], p["weight_ch"], h, c, strict=False):
        a, seen = a + linear(h_k, weight), seen + linear(c_k, from_cell)
    ai, *af = (a[: len(seen)] + seen).chunk(places + 1)
    ag, ao = a[len(seen) :].chunk(2)
    cell = torch.sigmoid(ai) * torch.tanh(ag)
    for af_k, c_k in zip(af, c, strict=False):
        cell = cell + torch.sigmoid(af_k) * c_k
    return _output(cell, torch.sigmoid(ao + linear(cell, p["weight_co"])))


def by_height(kind: str, forest: recurra.Forest, x: Tensor | None, leaf_states: States | None, p: Params) -> States:
    """A loop over heights; the rows of a height are gathered from those below."""
    step: Callable[..., States] = {"child_sum": _child_sum_rows, "n_ary": _places_rows, "s_lstm": _places_rows}[kind]
    size = p["weight_hh"].shape[-1]
    h, c = (torch.zeros(1, size, dtype=p["weight_hh"].dtype) for _ in range(2))  # row 0: an absent child
    row_of = torch.zeros(forest.num_nodes, dtype=torch.long)
    fronts, order = forest.fronts.tolist(), torch.tensor(forest.order)
    row_of[order] = torch.arange(1, forest.num_nodes + 1)
    for level, (start, end) in enumerate(itertools.pairwise(fronts)):
        nodes = forest.order[start:end]
        if level == 0 and leaf_states is not None:
            rows = leaf_states
        else:
            rows = step(None if x is None else x[torch.tensor(nodes)], forest, nodes, row_of, h, c, p)
        h, c = torch.cat((h, rows[0])), torch.cat((c, rows[1]))
    return h[row_of], c[row_of]


def _child_sum_rows(
    x: Tensor | None, forest: recurra.Forest, nodes: Any, row_of: Tensor, h: Tensor, c: Tensor, p: Params
) -> States:
    w = _from_input(x, p).expand(len(nodes), -1)
    wi, wf, wg, wo = w.chunk(4, -1)
    counts = np.diff(forest.offsets)[nodes]
    if not counts.any():
        return _output(torch.sigmoid(wi) * torch.tanh(wg), torch.sigmoid(wo))
    edges = np.concatenate([np.arange(forest.offsets[n], forest.offsets[n + 1]) for n in nodes])
    owner = torch.tensor(np.repeat(np.arange(len(nodes)), counts))
    below = row_of[torch.tensor(forest.children[edges])]
    h_k, c_k = h[below], c[below]
    ui, uf, ug, uo = p["weight_hh"].chunk(4)
    nothing = torch.zeros(len(nodes), h.shape[1], dtype=h.dtype)
    ai, ag, ao = linear(nothing.index_add(0, owner, h_k), torch.cat((ui, ug, uo))).chunk(3, -1)
    f = torch.sigmoid(wf[owner] + linear(h_k, uf))
    cell = torch.sigmoid(wi + ai) * torch.tanh(wg + ag) + nothing.index_add(0, owner, f * c_k)
    return _output(cell, torch.sigmoid(wo + ao))


def _places_rows(
    x: Tensor | None, forest: recurra.Forest, nodes: Any, row_of: Tensor, h: Tensor, c: Tensor, p: Params
) -> States:
    """For "n_ary" and "s_lstm": the children side by side, and their weights too."""
    places, size = len(p["weight_hh"]), h.shape[1]
    below = torch.zeros(len(nodes), places, dtype=torch.long)
    for at, node in enumerate(nodes):
        children = forest.children[forest.offsets[node] : forest.offsets[node + 1]]
        below[at, : len(children)] = row_of[torch.tensor(children)]
    h_k, c_k = h[below], c[below]
    a = p["bias"] if x is None else p["bias"] + _to_each_child(linear(x, p["weight_ih"]), places)
    a = a + linear(h_k.flatten(1), p["weight_hh"].transpose(0, 1).flatten(1))
    if "weight_co" in p:
        seen = linear(c_k.flatten(1), p["weight_ch"].transpose(0, 1).flatten(1))
        a = torch.cat((a[:, : seen.shape[1]] + seen, a[:, seen.shape[1] :]), -1)
    gates, ag, ao = torch.sigmoid(a[:, : (places + 1) * size]), a[:, -2 * size : -size], a[:, -size:]
    f = gates[:, size:].reshape(-1, places, size)
    cell = gates[:, :size] * torch.tanh(ag) + (f * c_k).sum(1)
    if "weight_co" in p:
        ao = ao + linear(cell, p["weight_co"])
    return _output(cell, torch.sigmoid(ao))


def _from_input(x: Tensor | None, p: Params) -> Tensor:
    return p["bias"] if x is None else linear(x, p["weight_ih"], p["bias"])


def _to_each_child(w: Tensor, places: int) -> Tensor:
    """Blocks i, f, g, o with f once for each child."""
    wi, wf, wg, wo = w.chunk(4, -1)
    return torch.cat((wi, *[wf] * places, wg, wo), -1)


def _output(cell: Tensor, o: Tensor) -> States:
    return o * torch.tanh(cell), cell


def random_forest(trees: int, least: int, most: int, seed: int = 0) -> recurra.Forest:
    """Binary trees of `least` to `most` nodes (an odd number), their shapes drawn by joining two neighbours."""
    rng = np.random.default_rng(seed)

    def tree() -> Any:
        parts: list[Any] = ["x"] * ((int(rng.integers(least, most + 1)) + 1) // 2)
        while len(parts) > 1:
            at = int(rng.integers(len(parts) - 1))
            parts[at : at + 2] = [(parts[at], parts[at + 1])]
        return parts[0]

    return recurra.Forest.nested([tree() for _ in range(trees)])


def multiply_adds(layer: recurra.TreeLSTM, forest: recurra.Forest) -> int:
    """Of the products of a forward and a backward pass over trees whose leaves are given or fed as the others are."""
    hidden, edges, nodes = layer.hidden_size, len(forest.children), forest.num_nodes
    inner = nodes - len(forest.leaves)
    places = layer.children or 1
    each = {
        "child_sum": 3 * inner * hidden**2 + edges * hidden**2,
        "n_ary": edges * (places + 3) * hidden**2,
        "s_lstm": edges * (2 * places + 4) * hidden**2 + inner * hidden**2,
    }
    return 3 * (each[layer.kind] + 4 * nodes * hidden * layer.input_size)


class Shape(NamedTuple):
    """A kind of tree-LSTM, least and most nodes of a tree, trees, hidden units; I = H, but of "s_lstm" 0."""

    kind: str
    least: int
    most: int
    trees: int
    hidden: int

    def layer(self) -> recurra.TreeLSTM:
        """Recurra's."""
        return recurra.TreeLSTM(0 if self.kind == "s_lstm" else self.hidden, self.hidden, self.kind, seed=0)

    def forest(self) -> recurra.Forest:
        """The same at every call."""
        return random_forest(self.trees, self.least, self.most)


def contestants(shape: Shape, alone: bool) -> dict[str, Call]:
    """Forward and backward passes that return h and the gradients of parameters; recurra's alone, or all."""
    layer, forest, rng = shape.layer(), shape.forest(), np.random.default_rng(1)
    given, size = shape.kind == "s_lstm", shape.hidden
    d_h = rng.standard_normal((forest.num_nodes, size), dtype=np.float32)
    x = None if given else rng.standard_normal((forest.num_nodes, size), dtype=np.float32)
    states = tuple(rng.standard_normal((2, len(forest.leaves), size), dtype=np.float32)) if given else None
    params = parameters(layer)

    def ours() -> Any:
        h, _, tape = layer.forward(forest, x, states)
        return [h, *tape.backward(d_h).params.values()]

    def theirs(run: Callable[..., States]) -> Any:
        for tensor in params.values():
            tensor.grad = None
        inputs = None if x is None else torch.tensor(x, requires_grad=True)
        leaf = None if states is None else tuple(torch.tensor(state, requires_grad=True) for state in states)
        h, _ = run(shape.kind, forest, inputs, leaf, params)
        torch.autograd.backward(h, torch.tensor(d_h))
        return [h.detach().numpy(), *(np.asarray(tensor.grad) for tensor in params.values())]

    peers = {} if alone else {"torch": partial(theirs, by_height), BY_NODE: partial(theirs, node_by_node)}
    return {"recurra": ours} | peers


def case(shape: Shape, alone: bool = False) -> Case:
    """A row of the table."""
    kind, least, most, trees, hidden = shape
    nodes = f"{least}-{most}" if least < most else f"{most}"
    layer, forest = shape.layer(), shape.forest()
    return Case(
        f"TreeLSTM {kind} {nodes} nodes B={trees} H={hidden}",
        multiply_adds(layer, forest),
        partial(contestants, shape, alone),
        nodes=forest.num_nodes,
    )


CASES = [case(Shape(kind, 20, 100, 32, 128)) for kind in ("child_sum", "n_ary", "s_lstm")]
# What a node costs in larger and larger trees.
CASES += [case(Shape("child_sum", nodes, nodes, 32, 128), alone=True) for nodes in (50, 100, 200, 400)]
