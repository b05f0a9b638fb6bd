"""Tree-LSTMs as one writes them in PyTorch: node by node, and all nodes of one height at a time.

Both take a forest, x [N, I] (None for kind "s_lstm"), the (h, c) of leaves [L, H] or None, and the parameters of a
`recurra.TreeLSTM` as tensors; both return h and c [N, H], through which PyTorch differentiates.

    python bench/variants_torch.py --threads 2

times a forward and a backward pass of each beside recurra's, and says how far their gradients are apart.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

import recurra

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


def report(layer: recurra.TreeLSTM, forest: recurra.Forest, turns: int, threads: int) -> None:
    """Print medians of passes in turns."""
    rng, given = np.random.default_rng(1), layer.kind == "s_lstm"
    size, leaves = layer.hidden_size, len(forest.leaves)
    d_h = rng.standard_normal((forest.num_nodes, size), dtype=np.float32)
    x = None if given else rng.standard_normal((forest.num_nodes, layer.input_size), dtype=np.float32)
    states = tuple(rng.standard_normal((2, leaves, size), dtype=np.float32)) if given else None
    params = parameters(layer)

    def ours() -> dict[str, Any]:
        _, _, tape = layer.forward(forest, x, states)
        return tape.backward(d_h).params

    def theirs(run: Callable[..., States]) -> Callable[[], dict[str, Any]]:
        def passes() -> dict[str, Any]:
            for tensor in params.values():
                tensor.grad = None
            inputs = None if x is None else torch.tensor(x, requires_grad=True)
            leaf = None if states is None else tuple(torch.tensor(state, requires_grad=True) for state in states)
            torch.autograd.backward(run(layer.kind, forest, inputs, leaf, params)[0], torch.tensor(d_h))
            return {name: tensor.grad for name, tensor in params.items() if tensor.grad is not None}

        return passes

    contestants = {"recurra": ours, "by height": theirs(by_height), "node by node": theirs(node_by_node)}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    results = {name: call() for name, call in contestants.items()}  # warms up
    for _ in range(turns):
        for name, call in contestants.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    apart = max(
        float(np.abs(results["recurra"][name] - np.asarray(array)).max() / np.abs(np.asarray(array)).max())
        for other in ("by height", "node by node")
        for name, array in results[other].items()
    )
    rate = multiply_adds(layer, forest) / seconds["recurra"] / 1e9
    print(f"{layer!r}, {forest!r}, {threads} threads")
    for name, value in seconds.items():
        print(f"  {name:<13} {value * 1e3:9.2f} ms  {value / seconds['recurra']:6.1f} x")
    print(f"  {rate:.1f} G multiply-adds a second; gradients apart by {apart:.1e} of the largest", flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--hidden", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recurra.set_num_threads(options.threads)
    for nodes in (20, 60, 100):
        forest = random_forest(32, nodes - 1, nodes)
        for kind in ("child_sum", "n_ary", "s_lstm"):
            inputs = 0 if kind == "s_lstm" else options.hidden
            report(recurra.TreeLSTM(inputs, options.hidden, kind, seed=0), forest, options.turns, options.threads)


if __name__ == "__main__":
    main()
