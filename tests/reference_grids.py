"""The oracle of grids: multidimensional, joint time-frequency, Grid and Local-Global LSTMs in NumPy float64.

One function computes one node from the states of its N predecessors, stacked [N, H] and zero outside the grid;
`multidimensional` and `grid` visit the nodes of one sample in the order of nested loops. A Local-Global LSTM computes
all nodes of a layer at once. Speed is no aim here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from reference import Array, relu, s, tanh

Params = Mapping[str, Array]


# ------------------------------------------------------------------------------------ multidimensional LSTM


def pre_activations(x: Array, h: Array, p: Params) -> Array:
    """A = x @ weight_ih^T + bias + sum_d h_d @ weight_hh[d]^T, its blocks as rows."""
    a = x @ p["weight_ih"].T + p.get("bias", 0.0)
    for h_d, weight in zip(h, p["weight_hh"], strict=True):
        a = a + h_d @ weight.T
    return np.asarray(a.reshape(-1, h.shape[-1]))


def peepholes(p: Params, count: int, hidden: int) -> Array:
    """The vectors of weight_peep, zero without it."""
    if "weight_peep" not in p:
        return np.zeros((count, hidden))
    return p["weight_peep"].reshape(count, hidden)


def convex(logits: Array, hidden: int) -> Array:
    """softmax([al_1 .. al_{N-1}, 0]) over the dimensions."""
    e = np.exp(np.concatenate([logits, np.zeros((1, hidden))]))
    return np.asarray(e / e.sum(0))


def standard(x: Array, h: Array, c: Array, p: Params) -> tuple[Array, Array]:
    """Graves, Fernandez, Schmidhuber 2007: blocks i, f_1 .. f_N, g, o; peepholes i, f_1 .. f_N, o."""
    n, hidden = h.shape
    a, peep = pre_activations(x, h, p), peepholes(p, n + 2, hidden)
    i = s(a[0] + peep[0] * c.sum(0))
    f = s(a[1 : n + 1] + peep[1 : n + 1] * c)
    g = tanh(a[n + 1])
    new_c = i * g + (f * c).sum(0)
    o = s(a[n + 2] + peep[n + 1] * new_c)
    return o * tanh(new_c), new_c


def halved(x: Array, h: Array, c: Array, p: Params) -> tuple[Array, Array]:
    """As standard without peepholes, with the mean of the gated cells in place of their sum."""
    n = len(h)
    a = pre_activations(x, h, p)
    new_c = s(a[0]) * tanh(a[n + 1]) + (s(a[1 : n + 1]) * c).sum(0) / n
    return s(a[n + 2]) * tanh(new_c), new_c


def stable(x: Array, h: Array, c: Array, p: Params) -> tuple[Array, Array]:
    """Blocks i, f, l_1 .. l_{N-1}, g, o."""
    n, hidden = h.shape
    a = pre_activations(x, h, p)
    mixed = (convex(a[2 : n + 1], hidden) * c).sum(0)
    new_c = s(a[0]) * tanh(a[n + 1]) + s(a[1]) * mixed
    return s(a[n + 2]) * tanh(new_c), new_c


def leaky_cell(a: Array, c: Array) -> tuple[Array, Array]:
    """(new cell, mixed cells) of a leaky cell from blocks f, l_1 .. l_{N-1}, g, ..."""
    n, hidden = c.shape
    f, g = s(a[0]), tanh(a[n])
    mixed = (convex(a[1:n], hidden) * c).sum(0)
    return (1 - f) * g + f * mixed, mixed


def leaky(x: Array, h: Array, c: Array, p: Params) -> tuple[Array, Array]:
    """Leifert et al. 2016: blocks f, l_1 .. l_{N-1}, g, o; the output is not squashed."""
    a = pre_activations(x, h, p)
    new_c, _ = leaky_cell(a, c)
    return s(a[len(h) + 1]) * new_c, new_c


def leakylp(x: Array, h: Array, c: Array, p: Params) -> tuple[Array, Array]:
    """Leifert et al. 2016: blocks f, l_1 .. l_{N-1}, g, o1, o2."""
    n = len(h)
    a = pre_activations(x, h, p)
    new_c, mixed = leaky_cell(a, c)
    return tanh(s(a[n + 1]) * new_c + s(a[n + 2]) * mixed), new_c


def time_frequency(x: Array, h: Array, c: Array, p: Params) -> tuple[Array, Array]:
    """Sainath, Li 2016: blocks i, f, g, o; only the first dimension, time, carries a cell; peepholes i, f, o."""
    a, peep = pre_activations(x, h, p), peepholes(p, 3, h.shape[-1])
    i, f, g = s(a[0] + peep[0] * c[0]), s(a[1] + peep[1] * c[0]), tanh(a[2])
    new_c = i * g + f * c[0]
    return s(a[3] + peep[2] * new_c) * tanh(new_c), new_c


@dataclass(frozen=True)
class Kind:
    """A node's function, and the number of its blocks and peephole vectors in n dimensions."""

    node: Callable[[Array, Array, Array, Params], tuple[Array, Array]]
    blocks: Callable[[int], int]
    peepholes: Callable[[int], int]


KINDS = {
    "standard": Kind(standard, lambda n: n + 3, lambda n: n + 2),
    "halved": Kind(halved, lambda n: n + 3, lambda n: 0),
    "stable": Kind(stable, lambda n: n + 3, lambda n: 0),
    "leaky": Kind(leaky, lambda n: n + 2, lambda n: 0),
    "leakylp": Kind(leakylp, lambda n: n + 3, lambda n: 0),
    "time_frequency": Kind(time_frequency, lambda n: 4, lambda n: 3),
}


def multidimensional(kind: str, x: Array, p: Params, flips: Sequence[int] = ()) -> tuple[Array, Array]:
    """(h, c) [D1, .., DN, H] of one sample x [D1, .., DN, I], whose axes with a flip are read backwards."""
    axes = tuple(axis for axis, flip in enumerate(flips) if flip)
    x = np.flip(x, axes)
    dims, hidden = x.ndim - 1, p["weight_hh"].shape[-1]
    h, c = np.zeros((*x.shape[:-1], hidden)), np.zeros((*x.shape[:-1], hidden))
    for point in np.ndindex(x.shape[:-1]):
        before = [tuple(np.subtract(point, step)) for step in np.eye(dims, dtype=int)]
        h_before, c_before = (
            np.stack([states[q] if min(q) >= 0 else np.zeros(hidden) for q in before]) for states in (h, c)
        )
        h[point], c[point] = KINDS[kind].node(x[point], h_before, c_before, p)
    return np.flip(h, axes), np.flip(c, axes)


# --------------------------------------------------------------------------------------------------- Grid LSTM


@dataclass(frozen=True)
class Grid:
    """What a Grid LSTM is besides its parameters. Dimensions are counted from 0, the depth, if any, comes last."""

    dims: int  # that a sample's grid has
    depth: int = 0  # blocks on top of each other at every point; 0: no such dimension
    form: str = "paper"
    priority: tuple[int, ...] = ()
    linear: Mapping[int, str] = field(default_factory=dict)  # dimensions without a memory: their activation
    residual: tuple[int, ...] = ()  # dimensions whose own vector is added to the new one, as those with priority see it
    tied: bool = False
    tied_depth: bool = False
    every: bool = False  # x enters every block

    @property
    def all_dims(self) -> int:
        return self.dims + bool(self.depth)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"identity": lambda a: a, "relu": relu, "tanh": tanh}


def transform(a: Array, m_d: Array, d: int, spec: Grid) -> tuple[Array, Array]:
    """(h', m') of dimension d from its pre-activations."""
    if d in spec.linear:
        return ACTIVATIONS[spec.linear[d]](a), m_d * 0
    ai, af, ag, ao = a.reshape(4, -1)
    m = s(af) * m_d + s(ai) * tanh(ag)
    return tanh(s(ao) * m) if spec.form == "paper" else s(ao) * tanh(m), m


def block(x: Array | None, h: Array, m: Array, p: Params, spec: Grid) -> tuple[Array, Array]:
    """Kalchbrenner, Danihelka, Graves 2015: from a vector and a memory of each dimension the new ones, [N, H]."""
    n, hidden = h.shape
    rows = [hidden if d in spec.linear else 4 * hidden for d in range(n)]
    starts = [0] * n if spec.tied else [sum(rows[:d]) for d in range(n)]
    new_h, new_m = np.zeros_like(h), np.zeros_like(m)
    others = [d for d in range(n) if d not in spec.priority]
    seen = h.copy()
    for group in (others, spec.priority):
        for d in group:
            part = slice(starts[d], starts[d] + rows[d])
            a = p["weight_hh"][part] @ seen.reshape(-1)
            if "bias" in p:
                a = a + p["bias"][part]
            if x is not None:
                a = a + p["weight_ih"][part] @ x
            new_h[d], new_m[d] = transform(a, m[d], d, spec)
            new_h[d] += h[d] if d in spec.residual else 0
        seen[others] = new_h[others]
    return new_h, new_m


def grid(x: Array, p: Params, spec: Grid) -> Array:
    """Output of one sample x [D1, .., Dn, I]: [D1, .., Dn, H] on top of the depth, without depth [D1, .., Dn, n*H],
    the vectors of all dimensions. Parameters are called weight_hh_l0, ..."""
    shape, layers = x.shape[:-1], max(spec.depth, 1)
    hidden, n = p["weight_hh_l0"].shape[1] // spec.all_dims, spec.all_dims
    h, m = (np.zeros((*shape, layers, n, hidden)) for _ in range(2))
    for point in np.ndindex(*shape, layers):
        layer = point[-1]
        h_in, m_in = np.zeros((n, hidden)), np.zeros((n, hidden))
        for d in range(n):
            before = tuple(np.subtract(point, np.eye(len(point), dtype=int)[d]))
            if min(before) >= 0:
                h_in[d], m_in[d] = h[before][d], m[before][d]
            elif d == spec.dims:
                h_in[d] = p["proj_h"] @ x[point[:-1]] if "proj_h" in p else 0
                m_in[d] = p["proj_m"] @ x[point[:-1]] if "proj_m" in p else 0
        own = {name: p[f"{name}_l{0 if spec.tied_depth else layer}"] for name in names(p)}
        h[point], m[point] = block(x[point[:-1]] if spec.every else None, h_in, m_in, own, spec)
    return np.asarray(h[..., -1, -1, :] if spec.depth else h[..., 0, :, :].reshape(*shape, n * hidden))


def names(p: Params) -> list[str]:
    """Of the parameters that a block has."""
    return [name.removesuffix("_l0") for name in p if name.endswith("_l0")]


# -------------------------------------------------------------------------------------------- Local-Global LSTM


def lstm_blocks(a: Array, m: Array, form: str) -> tuple[Array, Array]:
    """(h', m') [.., H] of LSTMs without a recurrent product, from pre-activations [.., 4 H], blocks i, f, g, o."""
    ai, af, ag, ao = np.split(a, 4, -1)
    m = s(af) * m + s(ai) * tanh(ag)
    return tanh(s(ao) * m) if form == "paper" else s(ao) * tanh(m), m


def regional_maxima(e: Array) -> Array:
    """Of e [Y, X, H] in three by three regions, one after another, [9 H]."""
    height, width, _ = e.shape
    rows, columns = ([slice(a * n // 3, (a + 1) * n // 3) for a in range(3)] for n in (height, width))
    return np.concatenate([e[row, column].max((0, 1)) for row in rows for column in columns])


def neighbours(maps: Array) -> Array:
    """[Y, X, 8, H]: of map n [Y, X, n, H] what the n-th neighbour of each point has, zero outside."""
    found = np.zeros_like(maps)
    height, width = maps.shape[:2]
    for n, (down, right) in enumerate([(-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)]):
        for y in range(max(0, -down), min(height, height - down)):
            for x in range(max(0, -right), min(width, width - right)):
                found[y, x, n] = maps[y + down, x + right, n]
    return found


def local_global(x: Array, p: Params, form: str = "paper", memory_from: str = "self") -> Array:
    """The depth vectors after each layer, [layers, Y, X, H], of one sample x [Y, X, I]."""
    start = x @ p["weight_transition"].T + p.get("bias_transition", 0.0)
    height, width, hidden = start.shape
    spatial, depth = np.repeat(start[:, :, None], 8, 2), start
    m_spatial, m_depth = np.zeros_like(spatial), np.zeros_like(depth)
    maps: list[Array] = []
    while f"weight_depth_l{len(maps)}" in p:
        weight_s, weight_e = (p[f"weight_{name}_l{len(maps)}"] for name in ("spatial", "depth"))
        bias_s, bias_e = (p.get(f"bias_{name}_l{len(maps)}", np.zeros(4 * hidden)) for name in ("spatial", "depth"))
        maxima = np.broadcast_to(regional_maxima(depth), (height, width, 9 * hidden))
        joined = np.concatenate([maxima, neighbours(spatial).reshape(height, width, -1), depth], -1)
        if memory_from == "neighbour":
            m_spatial = neighbours(m_spatial)
        each = np.broadcast_to(weight_s, (8, *weight_e.shape))
        a_s = np.stack([joined @ weight.T for weight in each], 2) + bias_s
        spatial, m_spatial = lstm_blocks(a_s, m_spatial, form)
        depth, m_depth = lstm_blocks(joined @ weight_e.T + bias_e, m_depth, form)
        maps.append(depth)
    return np.stack(maps)


# --------------------------------------------------------------------------------------------- gradients


def central_differences(
    loss: Callable[[dict[str, Array]], float], arrays: Mapping[str, Array], step: float = 1e-5
) -> dict[str, Array]:
    """dL/d every number of the arrays."""
    copies = {name: array.copy() for name, array in arrays.items()}
    gradients = {name: np.zeros_like(array) for name, array in arrays.items()}
    for name, array in copies.items():
        for at in np.ndindex(array.shape):
            value = array[at]
            array[at] = value + step
            up = loss(copies)
            array[at] = value - step
            gradients[name][at] = (up - loss(copies)) / (2 * step)
            array[at] = value
    return gradients
