"""The oracle of trees: every kind of node in NumPy float64, by recursion from the roots, one node at a time.

Child-Sum and N-ary: Tai, Socher, Manning 2015 (arXiv:1503.00075). S-LSTM: Zhu, Sobhani, Guo 2015 (arXiv:1503.04881).
A node function takes x [I] or None, the (h, c) of its children, None where a child is absent, and the parameters, in
blocks i, f, g, o or i, f_1..f_K, g, o; a block o that is missing stands for a gate that is always open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from reference import Array, s, tanh

Params = Mapping[str, Array]
State = tuple[Array, Array]  # h, c
Children = Sequence[State | None]
Node = Callable[[Array | None, Children, Params], State]


def child_sum(x: Array | None, children: Children, p: Params) -> State:
    """One forget gate for each child, from its own h."""
    present = [child for child in children if child is not None]
    size = p["weight_hh"].shape[1]
    u = p["weight_hh"].reshape(-1, size, size)
    h_sum = sum((h for h, _ in present), np.zeros(size))
    w = with_bias(blocks(x, p, size), p, size)
    i, g = s(w[0] + u[0] @ h_sum), tanh(w[2] + u[2] @ h_sum)
    c = i * g
    for h_k, c_k in present:
        c = c + s(w[1] + u[1] @ h_k) * c_k
    o = s(w[3] + u[3] @ h_sum) if len(w) > 3 else 1.0
    return o * tanh(c), c


def n_ary(x: Array | None, children: Children, p: Params) -> State:
    """Every gate sees every child; the forget gates share what comes from x, each has a bias of its own."""
    places, rows, size = p["weight_hh"].shape
    at = padded(children, places, size)
    w = blocks(x, p, size)
    a = np.stack([w[0], *[w[1]] * places, *w[2:]])
    for k, (h, _) in enumerate(at):
        a = a + (p["weight_hh"][k] @ h).reshape(rows // size, size)
    a = with_bias(a, p, size)
    c = s(a[0]) * tanh(a[places + 1])
    for k, (_, c_k) in enumerate(at):
        c = c + s(a[1 + k]) * c_k
    o = s(a[places + 2]) if len(a) > places + 2 else 1.0
    return o * tanh(c), c


def s_lstm(x: Array | None, children: Children, p: Params) -> State:
    """The input gate and all forget gates see the children's c too, o the new one, by full matrices; no input."""
    assert x is None
    places, rows, size = p["weight_hh"].shape
    at = padded(children, places, size)
    a = with_bias(np.zeros((rows // size, size)), p, size)
    for k, (h, c) in enumerate(at):
        a = a + (p["weight_hh"][k] @ h).reshape(-1, size)
        a[: places + 1] += (p["weight_ch"][k] @ c).reshape(-1, size)
    c = s(a[0]) * tanh(a[places + 1])
    for k, (_, c_k) in enumerate(at):
        c = c + s(a[1 + k]) * c_k
    return s(a[places + 2] + p["weight_co"] @ c) * tanh(c), c


KINDS: dict[str, Node] = {"child_sum": child_sum, "n_ary": n_ary, "s_lstm": s_lstm}


def leaf(x: Array, p: Params) -> State:
    """The authors' module for leaves: blocks c, o; c is linear."""
    c, ao = np.split(p["weight"] @ x + p.get("bias", 0), 2)
    return s(ao) * tanh(c), c


def blocks(x: Array | None, p: Params, size: int) -> Array:
    """x @ weight_ih^T, one row for each of i, f, g and, unless it is missing, o."""
    recurrent = p["weight_hh"]
    count = recurrent.shape[-2] // size - (len(recurrent) - 1 if recurrent.ndim == 3 else 0)
    return np.zeros((count, size)) if x is None else (p["weight_ih"] @ x).reshape(count, size)


def with_bias(a: Array, p: Params, size: int) -> Array:
    return np.asarray(a + p["bias"].reshape(-1, size) if "bias" in p else a)


def padded(children: Children, places: int, size: int) -> list[State]:
    """An absent child counts as zeros."""
    nothing = (np.zeros(size), np.zeros(size))
    return [child or nothing for child in (*children, *[None] * (places - len(children)))]


def run(
    kind: str,
    lists: Sequence[Sequence[int]],
    params: Params,
    x: Mapping[int, Array],
    leaf_states: Mapping[int, State],
) -> State:
    """h and c [N, H] of all nodes: `lists` holds their children, `x` and `leaf_states` what some nodes have."""
    p = {name: np.asarray(array, np.float64) for name, array in params.items()}
    done: dict[int, State] = {}

    def visit(node: int) -> State:
        children = [None if child < 0 else visit(child) for child in lists[node]]
        done[node] = leaf_states[node] if node in leaf_states else KINDS[kind](x.get(node), children, p)
        return done[node]

    below = {child for children in lists for child in children}
    for node in range(len(lists)):
        if node not in below:
            visit(node)
    h, c = zip(*(done[node] for node in range(len(lists))), strict=True)
    return np.stack(h), np.stack(c)
