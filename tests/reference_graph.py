"""The oracle of cells over graphs: NumPy, row by row, from the equations (Tai 2015, Zhu 2015, Graves 2007,
Leifert 2016, Sainath 2016, Kalchbrenner 2015)."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any


def sigmoid(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


def blocks(a: Array, hidden: int) -> list[Array]:
    return [a[k : k + hidden] for k in range(0, len(a), hidden)]


def tree_inputs(p: dict[str, Array], x: Array | None, slots: int, hidden: int) -> Array:
    """Of chains i, f_1 .. f_K, g, o, from weights of i, f, g, o."""
    if x is None or "weight_ih" not in p:
        return np.zeros((slots + 3) * hidden)
    i, f, g, o = blocks(p["weight_ih"] @ x, hidden)
    return np.concatenate([i, *[f] * slots, g, o])


def nary_tree(p: dict[str, Array], x: Array | None, before: list[Any], hidden: int) -> tuple[Array, ...]:
    slots = len(before)
    a = (
        tree_inputs(p, x, slots, hidden)
        + p.get("bias", 0)
        + sum(p["weight_hh"][k] @ before[k][0] for k in range(slots))
    )
    i, *f, g, o = blocks(a, hidden)
    c = sigmoid(i) * np.tanh(g) + sum(sigmoid(f[k]) * before[k][1] for k in range(slots))
    return sigmoid(o) * np.tanh(c), c


def s_lstm_tree(p: dict[str, Array], x: Array | None, before: list[Any], hidden: int) -> tuple[Array, ...]:
    slots = len(before)
    a = p.get("bias", 0) + sum(p["weight_hh"][k] @ before[k][0] for k in range(slots))
    a[: (slots + 1) * hidden] += sum(p["weight_ch"][k] @ before[k][1] for k in range(slots))
    i, *f, g, o = blocks(a, hidden)
    c = sigmoid(i) * np.tanh(g) + sum(sigmoid(f[k]) * before[k][1] for k in range(slots))
    return sigmoid(o + p["weight_co"] @ c) * np.tanh(c), c


def child_sum_tree(p: dict[str, Array], x: Array | None, children: list[Any], hidden: int) -> tuple[Array, ...]:
    total = sum((h for h, _ in children), np.zeros(hidden))
    from_x = np.zeros(4 * hidden) if x is None or "weight_ih" not in p else p["weight_ih"] @ x
    xi, xf, xg, xo = blocks(from_x + p.get("bias", np.zeros(4 * hidden)), hidden)
    ui, uf, ug, uo = (p["weight_hh"][k * hidden : (k + 1) * hidden] for k in range(4))
    c = sigmoid(xi + ui @ total) * np.tanh(xg + ug @ total)
    c = c + sum(sigmoid(xf + uf @ h) * memory for h, memory in children)
    return sigmoid(xo + uo @ total) * np.tanh(c), c


def chains(p: dict[str, Array], x: Array | None, before: list[Any]) -> Array:
    a = p.get("bias", 0) + sum(w @ h for w, (h, _) in zip(p["weight_hh"], before, strict=True))
    return a if x is None or "weight_ih" not in p else a + p["weight_ih"] @ x


def mdlstm(p: dict[str, Array], x: Array | None, before: list[Any], hidden: int, scale: float = 1) -> tuple[Array, ...]:
    i, *f, g, o = blocks(chains(p, x, before), hidden)
    c_before = [c for _, c in before]
    pi, *pf, po = blocks(p["weight_peep"], hidden) if "weight_peep" in p else [0] * (len(f) + 2)
    c = sigmoid(i + pi * sum(c_before)) * np.tanh(g)
    c = c + scale * sum(sigmoid(f[d] + pf[d] * c_before[d]) * c_before[d] for d in range(len(f)))
    return sigmoid(o + po * c) * np.tanh(c), c


def mdlstm_halved(p: dict[str, Array], x: Array | None, before: list[Any], hidden: int) -> tuple[Array, ...]:
    return mdlstm(p, x, before, hidden, 1 / len(before))


def mix(logits: list[Array], before: list[Any]) -> Array:
    e = np.exp([*logits, 0 * before[0][1]])
    return sum(e[d] / e.sum(0) * before[d][1] for d in range(len(before)))


def mdlstm_stable(p: dict[str, Array], x: Array | None, before: list[Any], hidden: int) -> tuple[Array, ...]:
    i, f, *logits, g, o = blocks(chains(p, x, before), hidden)
    c = sigmoid(i) * np.tanh(g) + sigmoid(f) * mix(logits, before)
    return sigmoid(o) * np.tanh(c), c


def mdlstm_leaky(p: dict[str, Array], x: Array | None, before: list[Any], hidden: int) -> tuple[Array, ...]:
    f, *logits, g, o = blocks(chains(p, x, before), hidden)
    c = (1 - sigmoid(f)) * np.tanh(g) + sigmoid(f) * mix(logits, before)
    return sigmoid(o) * c, c


def mdlstm_leakylp(p: dict[str, Array], x: Array | None, before: list[Any], hidden: int) -> tuple[Array, ...]:
    f, *logits, g, o1, o2 = blocks(chains(p, x, before), hidden)
    mixed = mix(logits, before)
    c = (1 - sigmoid(f)) * np.tanh(g) + sigmoid(f) * mixed
    return np.tanh(sigmoid(o1) * c + sigmoid(o2) * mixed), c


def time_frequency(p: dict[str, Array], x: Array | None, before: list[Any], hidden: int) -> tuple[Array, ...]:
    i, f, g, o = blocks(chains(p, x, before), hidden)
    pi, pf, po = blocks(p["weight_peep"], hidden) if "weight_peep" in p else (0, 0, 0)
    old = before[0][1]
    c = sigmoid(f + pf * old) * old + sigmoid(i + pi * old) * np.tanh(g)
    return sigmoid(o + po * c) * np.tanh(c), c


def grid(
    p: dict[str, Array],
    x: Array | None,
    before: list[Any],
    hidden: int,
    dimensions: Any = None,
    priority: Any = None,
    residual: Any = None,
    form: str = "paper",
) -> tuple[Array, ...]:
    n = len(before)
    dimensions, priority, residual = dimensions or ["lstm"] * n, priority or [False] * n, residual or [False] * n
    seen = [before[d][d] for d in range(n)]
    h, m = [np.zeros(hidden)] * n, [np.zeros(hidden)] * n
    for turn in (False, True):
        vector = np.concatenate(seen)
        for d in range(n):
            if bool(priority[d]) != turn:
                continue
            a = p[f"weight_{d + 1}"] @ vector + p.get(f"bias_{d + 1}", 0)
            if x is not None and f"weight_ih_{d + 1}" in p:
                a = a + p[f"weight_ih_{d + 1}"] @ x
            if dimensions[d] == "lstm":
                i, f, g, o = blocks(a, hidden)
                m[d] = sigmoid(f) * before[d][n + d] + sigmoid(i) * np.tanh(g)
                h[d] = np.tanh(sigmoid(o) * m[d]) if form == "paper" else sigmoid(o) * np.tanh(m[d])
            else:
                h[d] = {"identity": a, "tanh": np.tanh(a), "relu": np.maximum(a, 0)}[dimensions[d]]
            h[d] = h[d] + before[d][d] if residual[d] else h[d]
        if not turn:
            seen = [seen[d] if priority[d] else h[d] for d in range(n)]
    return (*h, *m)


def run(
    cell: str, p: dict[str, Array], x: Any, graph: Any, given: list[Array], hidden: int, **options: Any
) -> list[Array]:
    """The states of every row, each computed when a row first needs it."""
    step = globals()[cell]
    zero = tuple(np.zeros(hidden) for _ in given)
    done: dict[int, tuple[Array, ...]] = {r: tuple(state[r] for state in given) for r in range(graph.given)}
    done[-1] = zero

    def states(row: int) -> tuple[Array, ...]:
        if row not in done:
            if graph.children is None:
                rows = [int(r) for r in graph.before[:, row]]
            else:
                first, listed = graph.children
                rows = [int(r) for r in listed[first[row] : first[row + 1]]]
            source = graph.source[row]
            done[row] = step(p, None if source < 0 else x[source], [states(r) for r in rows], hidden, **options)
        return done[row]

    all_rows = [states(r) for r in range(graph.rows)]
    return [np.array([row[i] for row in all_rows]).reshape(graph.rows, hidden) for i in range(len(zero))]
