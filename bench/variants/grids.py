"""Multidimensional and Grid LSTMs as one writes them in PyTorch: batched by anti-diagonals, and node by node. And
Local-Global LSTMs, of which a layer is one batch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

import recurra

from . import BY_NODE, Call, Case

Params = dict[str, torch.Tensor]
Pairs = tuple[torch.Tensor, torch.Tensor]


def multidimensional_node(a: torch.Tensor, h: torch.Tensor, c: torch.Tensor, p: Params) -> Pairs:
    """(h, c) [n, H] of nodes from their input products a [n, G*H] and their predecessors' h, c [N, n, H]; the standard
    cell with peepholes."""
    dims, _, hidden = h.shape
    peep = p["weight_peep"].reshape(dims + 2, 1, hidden)
    a = a + h.permute(1, 0, 2).flatten(1) @ p["weight_hh"].permute(1, 0, 2).flatten(1).T
    ai, *af, ag, ao = a.chunk(dims + 3, -1)
    i = torch.sigmoid(ai + peep[0] * c.sum(0))
    f = torch.sigmoid(torch.stack(af) + peep[1:-1] * c)
    new_c = i * torch.tanh(ag) + (f * c).sum(0)
    return torch.sigmoid(ao + peep[-1] * new_c) * torch.tanh(new_c), new_c


def grid_node(a: torch.Tensor, h: torch.Tensor, c: torch.Tensor, p: Params) -> Pairs:
    """(h', m') [n, N*H] of nodes from a [n, N*4*H] and their predecessors' pairs [N, n, H]; form "paper"."""
    dims, count, hidden = h.shape
    a = a + h.permute(1, 0, 2).flatten(1) @ p["weight_hh_l0"].T
    i, f, g, o = a.reshape(count, dims, 4, hidden).unbind(2)
    new_c = torch.sigmoid(f) * c.transpose(0, 1) + torch.sigmoid(i) * torch.tanh(g)
    return torch.tanh(torch.sigmoid(o) * new_c).flatten(1), new_c.flatten(1)


class Cell(NamedTuple):
    """A node's function, the names of the input's weight and bias, and whether each dimension has a pair of its own."""

    node: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Params], Pairs]
    weight: str
    bias: str
    own_pairs: bool


CELLS = {
    "multidimensional": Cell(multidimensional_node, "weight_ih", "bias", False),
    "grid": Cell(grid_node, "weight_ih_l0", "bias_l0", True),
}


def of_dimension(cell: Cell, states: torch.Tensor, axis: int, hidden: int) -> torch.Tensor:
    """The part of a node's states that its successor along an axis reads."""
    return states[:, axis * hidden : (axis + 1) * hidden] if cell.own_pairs else states


def by_fronts(shape: tuple[int, ...]) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
    """For each anti-diagonal of a batch of grids its nodes, and along each axis their predecessors' rows in the one
    before it; the row past its end stands for the border."""
    points = [(b, *point) for b in range(shape[0]) for point in itertools.product(*map(range, shape[1:]))]
    fronts: list[list[tuple[int, ...]]] = [[] for _ in range(sum(shape[1:]) - len(shape) + 2)]
    for point in points:
        fronts[sum(point[1:])].append(point)
    nodes, before = [], []
    rows: dict[tuple[int, ...], int] = {}
    for front in fronts:
        nodes.append(torch.tensor([int(np.ravel_multi_index(point, shape)) for point in front]))
        before.append(
            [
                torch.tensor([rows.get((*p[:axis], p[axis] - 1, *p[axis + 1 :]), len(rows)) for p in front])
                for axis in range(1, len(shape))
            ]
        )
        rows = {point: row for row, point in enumerate(front)}
    return nodes, before


def run_by_fronts(cell: Cell, x: torch.Tensor, p: Params, hidden: int, plan: Any) -> torch.Tensor:
    """h of all nodes [nodes, H or N*H]: the input products of all at once, then one front after another."""
    a = x.flatten(0, -2) @ p[cell.weight].T + p[cell.bias]
    axes = range(x.ndim - 2)
    width = hidden * len(axes) if cell.own_pairs else hidden
    border = x.new_zeros(1, width)
    h = c = x.new_zeros(0, width)
    outputs = []
    for nodes, before in zip(*plan, strict=True):
        h, c = torch.cat([h, border]), torch.cat([c, border])
        h_in, c_in = (
            torch.stack([of_dimension(cell, states, axis, hidden)[before[axis]] for axis in axes]) for states in (h, c)
        )
        h, c = cell.node(a[nodes], h_in, c_in, p)
        outputs.append(h)
    return torch.cat(outputs)[torch.argsort(torch.cat(plan[0]))]


def run_by_nodes(cell: Cell, x: torch.Tensor, p: Params, hidden: int) -> torch.Tensor:
    """The same, node by node, the batch in one."""
    shape, axes = x.shape[1:-1], range(x.ndim - 2)
    a = x @ p[cell.weight].T + p[cell.bias]
    zero = x.new_zeros(len(x), hidden * len(axes) if cell.own_pairs else hidden)
    states: dict[tuple[int, ...], Pairs] = {}
    for point in itertools.product(*map(range, shape)):
        pairs = [states.get((*point[:k], point[k] - 1, *point[k + 1 :]), (zero, zero)) for k in axes]
        h_in, c_in = (
            torch.stack([of_dimension(cell, pair[which], axis, hidden) for axis, pair in zip(axes, pairs, strict=True)])
            for which in (0, 1)
        )
        at: Any = (slice(None), *point)
        states[point] = cell.node(a[at], h_in, c_in, p)
    return torch.stack([h for h, _ in states.values()], 1).flatten(0, 1)


class Shape(NamedTuple):
    """A cell, the batch and the grid's sizes, inputs, and hidden units."""

    cell: str
    sizes: tuple[int, ...]
    inputs: int
    hidden: int

    def layer(self) -> Any:
        """Recurra's."""
        sizes = (self.inputs, self.hidden, len(self.sizes) - 1)
        if self.cell == "grid":
            return recurra.GridLSTM(*sizes, input="every", seed=0)
        return recurra.MultidimensionalLSTM(*sizes, directions=1, seed=0)

    @property
    def multiply_adds(self) -> int:
        """Of a forward and a backward pass: a node's products with its input and its predecessors."""
        dims = len(self.sizes) - 1
        rows = 4 * dims if self.cell == "grid" else dims + 3
        return 3 * math.prod(self.sizes) * rows * self.hidden * (self.inputs + dims * self.hidden)


def contestants(shape: Shape) -> dict[str, Call]:
    """Forward and backward passes that return output and gradient of x, [nodes, .]."""
    rng = np.random.default_rng(1)
    layer = shape.layer()
    x = rng.standard_normal((*shape.sizes, shape.inputs), dtype=np.float32)
    dy = rng.standard_normal(layer(x).shape, dtype=np.float32)
    own = {name.removesuffix("_" + "0" * (len(shape.sizes) - 1)): value for name, value in layer.state_dict().items()}
    params = {name: torch.from_numpy(value).requires_grad_() for name, value in own.items()}
    their_x, their_dy = torch.from_numpy(x.copy()).requires_grad_(), torch.from_numpy(dy).flatten(0, -2)
    plan, cell = by_fronts(shape.sizes), CELLS[shape.cell]

    def ours() -> Any:
        y, tape = layer.forward(x)
        return [y.reshape(-1, y.shape[-1]), tape.backward(dy).x.reshape(-1, shape.inputs)]

    def theirs(run: Callable[[], torch.Tensor]) -> Any:
        for tensor in (their_x, *params.values()):
            tensor.grad = None
        y = run()
        y.backward(their_dy)  # type: ignore[no-untyped-call,unused-ignore]
        assert their_x.grad is not None
        return [y.detach().numpy(), their_x.grad.flatten(0, -2).numpy()]

    return {
        "recurra": ours,
        "torch": partial(theirs, lambda: run_by_fronts(cell, their_x, params, shape.hidden, plan)),
        BY_NODE: partial(theirs, lambda: run_by_nodes(cell, their_x, params, shape.hidden)),
    }


def case(shape: Shape) -> Case:
    """A row of the table."""
    name = type(shape.layer()).__name__
    batch, *sizes = shape.sizes
    label = f"{name} {'x'.join(map(str, sizes))} B={batch} I={shape.inputs} H={shape.hidden}"
    return Case(label, shape.multiply_adds, partial(contestants, shape), nodes=math.prod(shape.sizes))


STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))


def local_global(x: torch.Tensor, p: Params, layers: int) -> torch.Tensor:
    """The last depth map [B, Y, X, H]; form "paper"."""
    e = torch.nn.functional.linear(x, p["weight_transition"], p["bias_transition"])
    batch, height, width, hidden = e.shape
    s, m = e[..., None, :].expand(batch, height, width, 8, hidden), e.new_zeros(batch, height, width, 9, hidden)
    rows, columns = ([slice(a * n // 3, (a + 1) * n // 3) for a in range(3)] for n in (height, width))
    for layer in range(layers):
        maxima = torch.cat([e[:, row, column].amax((1, 2)) for row in rows for column in columns], -1)
        padded = torch.nn.functional.pad(s, (0, 0, 0, 0, 1, 1, 1, 1))
        near = [
            padded[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width, n]
            for n, (down, right) in enumerate(STEPS)
        ]
        joined = torch.cat([maxima[:, None, None].expand(batch, height, width, 9 * hidden), *near, e], -1)
        weight, bias = (
            torch.cat([p[f"{kind}_spatial_l{layer}"], p[f"{kind}_depth_l{layer}"][None]]).flatten(0, 1)
            for kind in ("weight", "bias")
        )
        a = torch.nn.functional.linear(joined, weight, bias)
        i, f, g, o = a.reshape(batch, height, width, 9, 4, hidden).unbind(-2)
        m = torch.sigmoid(f) * m + torch.sigmoid(i) * torch.tanh(g)
        h = torch.tanh(torch.sigmoid(o) * m)
        s, e = h[..., :8, :], h[..., 8, :]
    return e


class Maps(NamedTuple):
    """The batch and the map's sizes, inputs, hidden units and layers."""

    sizes: tuple[int, int, int]
    inputs: int
    hidden: int
    layers: int

    @property
    def multiply_adds(self) -> int:
        """Of a forward and a backward pass: products with the neighbours at each point, with the maxima once a map."""
        points = math.prod(self.sizes)
        return 3 * self.hidden * (points * self.inputs + self.layers * 324 * self.hidden * (points + self.sizes[0]))


def map_contestants(maps: Maps) -> dict[str, Call]:
    """Forward and backward passes that return output and gradient of x."""
    layer = recurra.LocalGlobalLSTM(maps.inputs, maps.hidden, maps.layers, seed=0)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((*maps.sizes, maps.inputs), dtype=np.float32)
    dy = rng.standard_normal((*maps.sizes, maps.hidden), dtype=np.float32)
    params = {name: torch.from_numpy(value).requires_grad_() for name, value in layer.state_dict().items()}
    their_x, their_dy = torch.from_numpy(x.copy()).requires_grad_(), torch.from_numpy(dy)

    def ours() -> Any:
        y, tape = layer.forward(x)
        return [y, tape.backward(dy).x]

    def theirs() -> Any:
        for tensor in (their_x, *params.values()):
            tensor.grad = None
        y = local_global(their_x, params, maps.layers)
        y.backward(their_dy)  # type: ignore[no-untyped-call,unused-ignore]
        assert their_x.grad is not None
        return [y.detach().numpy(), their_x.grad.numpy()]

    return {"recurra": ours, "torch": theirs}


def map_case(maps: Maps) -> Case:
    """A row of the table."""
    batch, *sizes = maps.sizes
    label = f"LocalGlobalLSTM {'x'.join(map(str, sizes))} B={batch} I={maps.inputs} H={maps.hidden} x{maps.layers}"
    return Case(label, maps.multiply_adds, partial(map_contestants, maps), nodes=math.prod(maps.sizes))


CASES = [
    *(case(Shape(cell, (8, 32, 32), 32, 32)) for cell in ("multidimensional", "grid")),
    map_case(Maps((8, 16, 16), 16, 16, 2)),
]
