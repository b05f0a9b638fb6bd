"""The oracle of training: gradients of every cell in NumPy float64.

`gradients` takes the steps of `reference_pullbacks` through time, directions and layers, forwards and back. A leading d
is a gradient, dL/d(.).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import reference_general
from numpy.typing import NDArray
from reference import CELLS, Array, Constants, Params, States
from reference_pullbacks import STEPS, Pullback, Pulled, blocks, pack


class Gradients(NamedTuple):
    x: Array
    state: States
    params: dict[str, Array]


class Scan:
    """One direction of one layer over [T, B, .], rows as long as `lengths`; `back` returns through it.

    Its step k is step k of each row longer than k or, `backwards`, the k-th from that row's own end.
    """

    def __init__(
        self,
        cell: str,
        x: Array,
        initial: States,
        p: Params,
        lengths: NDArray[np.int64],
        backwards: bool,
        constants: Constants,
    ) -> None:
        self.p, self.final = p, tuple(h.copy() for h in initial)
        self.input_shape = x.shape
        self.y = np.zeros((*x.shape[:2], initial[0].shape[-1]))
        self.steps: list[tuple[NDArray[np.int64], NDArray[np.int64], Pullback]] = []
        for k in range(x.shape[0]):
            rows = np.flatnonzero(lengths > k)
            times = lengths[rows] - 1 - k if backwards else np.full(len(rows), k)
            after, pull = STEPS[cell](x[times, rows], tuple(h[rows] for h in self.final), p, constants)
            self.y[times, rows] = after[0]
            for h, value in zip(self.final, after, strict=True):
                h[rows] = value
            self.steps.append((times, rows, pull))

    def back(self, dy: Array, dfinal: States, dcells: Array | None, clip: float) -> Pulled:
        running = tuple(dh.copy() for dh in dfinal)
        dx = np.zeros(self.input_shape)
        dp = {name: np.zeros_like(array) for name, array in self.p.items()}
        for times, rows, pull in reversed(self.steps):
            dh, *others = (d[rows] for d in running)
            if dcells is not None:
                others[0] = others[0] + dcells[times, rows]
            dx[times, rows], before, of_step = pull((dh + dy[times, rows], *others))
            for d, value in zip(running, before, strict=True):
                d[rows] = np.clip(value, -clip, clip)
            for name, value in of_step.items():
                dp[name] += value
        return dx, running, dp


def gradients(
    cell: str,
    x: NDArray[Any],
    params: Mapping[str, NDArray[Any]],
    dy: NDArray[Any] | None = None,
    dstate: Sequence[NDArray[Any] | None] | None = None,
    *,
    state: Sequence[NDArray[Any]] | None = None,
    lengths: Sequence[int] | None = None,
    constants: Constants | None = None,
    batch_first: bool = False,
    dcells: NDArray[Any] | None = None,
    grad_clip: float = np.inf,
) -> Gradients:
    """Gradients of sum(dy * y) + sum(dstate * final state) + sum(dcells * second states of the last layer's steps),
    y and final as `reference.run` returns them; every step's gradients of the states before it are clipped.

    What is None is zero. Values of x and dy past a row's length are not looked at.
    """
    if x.ndim == 2:  # unbatched
        one = None if state is None else [h[:, None] for h in state]
        last = None if dstate is None else [None if d is None else d[:, None] for d in dstate]
        above = None if dy is None else dy[:, None]
        got = gradients(cell, x[:, None], params, above, last, state=one, constants=constants)
        return Gradients(got.x[:, 0], tuple(d[:, 0] for d in got.state), got.params)

    def time_major(array: NDArray[Any]) -> Array:
        return np.asarray(array.swapaxes(0, 1) if batch_first else array, np.float64)

    below = time_major(x)
    steps, batch, _ = below.shape
    valid = np.full(batch, steps) if lengths is None else np.array(lengths, np.int64)
    layers = sum(name.startswith("weight_ih_l") and not name.endswith("_reverse") for name in params)
    suffixes = ("", "_reverse")[: 2 if "weight_ih_l0_reverse" in params else 1]
    hidden = len(params["weight_ih_l0"]) // CELLS[cell].blocks
    output = len(params["weight_hr_l0"]) if "weight_hr_l0" in params else hidden
    shapes = [(layers * len(suffixes), batch, size) for size in [output] + [hidden] * (CELLS[cell].states - 1)]

    def filled(given: Sequence[NDArray[Any] | None] | None) -> States:
        values = given or [None] * len(shapes)
        return tuple(
            np.zeros(n) if d is None else np.asarray(d, np.float64) for d, n in zip(values, shapes, strict=True)
        )

    initial, dfinal = filled(state), filled(dstate)
    scans: dict[str, Scan] = {}
    for layer in range(layers):
        for direction, suffix in enumerate(suffixes):
            end, index = f"_l{layer}{suffix}", layer * len(suffixes) + direction
            p = {n.removesuffix(end): np.asarray(v, np.float64) for n, v in params.items() if n.endswith(end)}
            first = tuple(h[index] for h in initial)
            own = reference_general.of_direction(constants or {}, direction == 1)
            scans[end] = Scan(cell, below, first, p, valid, direction == 1, own)
        below = pack(*(scans[f"_l{layer}{suffix}"].y for suffix in suffixes))

    of_cells = None if dcells is None else blocks(time_major(dcells), len(suffixes))
    dabove = np.zeros_like(below) if dy is None else time_major(dy)
    dinitial, dparams = filled(None), {}
    for layer in reversed(range(layers)):
        dbelow = []
        for direction, (suffix, part) in enumerate(zip(suffixes, blocks(dabove, len(suffixes)), strict=True)):
            end, index = f"_l{layer}{suffix}", layer * len(suffixes) + direction
            dc = of_cells[direction] if of_cells is not None and layer == layers - 1 else None
            dx, before, dp = scans[end].back(part, tuple(d[index] for d in dfinal), dc, grad_clip)
            dbelow.append(dx)
            for d, value in zip(dinitial, before, strict=True):
                d[index] = value
            dparams.update({name + end: value for name, value in dp.items()})
        dabove = sum(dbelow[1:], dbelow[0])
    named = {name: dparams[name] for name in params}
    return Gradients(dabove.swapaxes(0, 1) if batch_first else dabove, dinitial, named)
