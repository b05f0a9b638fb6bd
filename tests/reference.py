"""The oracle: every cell in NumPy float64, written from the papers' equations and from nothing else.

One function per cell computes one step of one row: it takes x [I], the states before the step, the parameters of
its layer and direction, and the constants, and returns the states after the step, the emitted one first. `run`
drives any of them through time, row by row, layers and directions. Speed is no aim here; being obvious is.

To add a cell: write its step from its equations and register it in `CELLS` under its name in the compiled table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
States = tuple[Array, ...]
Params = Mapping[str, Array]
Constants = Mapping[str, float]
Step = Callable[[Array, States, Params, Constants], States]


@dataclass(frozen=True)
class Cell:
    """A step function and what is needed to shape its parameters."""

    step: Step
    blocks: int  # gate blocks of weight_ih and weight_hh, each H rows
    states: int = 1  # the first has the output's size, the others H
    peepholes: int = 0  # blocks of weight_peep
    projected: bool = False  # h = weight_hr q


CELLS: dict[str, Cell] = {}


# -------------------------------------------------------------------------------- scalar functions


def s(a: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-a)))


def tanh(a: Array) -> Array:
    return np.tanh(a)


def relu(a: Array) -> Array:
    return np.maximum(a, 0)


# ------------------------------------------------------------------------------------------- shared by the cells


def input_side(x: Array, p: Params) -> Array:
    """x @ weight_ih^T + bias_ih; `bias=False` drops the bias."""
    a = x @ p["weight_ih"].T
    return a + p["bias_ih"] if "bias_ih" in p else a


def recurrent_side(h: Array, p: Params) -> Array:
    """h @ weight_hh^T + bias_hh."""
    a = h @ p["weight_hh"].T
    return a + p["bias_hh"] if "bias_hh" in p else a


def peep(p: Params, block: int, c: Array) -> Array | float:
    """p_k * c for the k-th block of weight_peep; without peepholes the term is dropped."""
    if "weight_peep" not in p:
        return 0.0
    p_k = p["weight_peep"].reshape(-1, c.shape[-1])[block]
    return np.asarray(p_k * c)


def lstm_output(c: Array, ao: Array, p_o: int, p: Params, constants: Constants) -> States:
    """The end of every LSTM step (4.1): clip c, output gate on the NEW c, then the projection if there is one."""
    clip = constants.get("cell_clip", np.inf)
    c = np.clip(c, -clip, clip)
    o = s(ao + peep(p, p_o, c))
    q = o * tanh(c)
    h = q @ p["weight_hr"].T if "weight_hr" in p else q
    return h, c


# ------------------------------------------------------------------------------------------------ RNN


def rnn(f: Callable[[Array], Array]) -> Step:
    def step(x: Array, states: States, p: Params, constants: Constants) -> States:
        (h,) = states
        return (f(input_side(x, p) + recurrent_side(h, p)),)

    return step


# ----------------------------------------------------------------------------------------------- LSTM


def lstm(x: Array, states: States, p: Params, constants: Constants) -> States:
    h, c_prev = states
    ai, af, ag, ao = np.split(input_side(x, p) + recurrent_side(h, p), 4)
    i = s(ai + peep(p, 0, c_prev))
    f = s(af + peep(p, 1, c_prev))
    g = tanh(ag)
    c = f * c_prev + i * g
    return lstm_output(c, ao, 2, p, constants)


def lstm_coupled(x: Array, states: States, p: Params, constants: Constants) -> States:
    """4.2, i = 1 - f; the complement is s(-a)."""
    h, c_prev = states
    af, ag, ao = np.split(input_side(x, p) + recurrent_side(h, p), 3)
    af = af + peep(p, 0, c_prev)
    g = tanh(ag)
    c = s(af) * c_prev + s(-af) * g
    return lstm_output(c, ao, 1, p, constants)


def lstm_f_from_i(x: Array, states: States, p: Params, constants: Constants) -> States:
    """4.2, f = 1 - i."""
    h, c_prev = states
    ai, ag, ao = np.split(input_side(x, p) + recurrent_side(h, p), 3)
    ai = ai + peep(p, 0, c_prev)
    g = tanh(ag)
    c = s(-ai) * c_prev + s(ai) * g
    return lstm_output(c, ao, 1, p, constants)


# ------------------------------------------------------------------------------------------------ GRU


def gru(reset: str, update: str) -> Step:
    def step(x: Array, states: States, p: Params, constants: Constants) -> States:
        (h_prev,) = states
        xr, xz, xn = np.split(input_side(x, p), 3)
        hr, hz, hn = np.split(recurrent_side(h_prev, p), 3)
        r = s(xr + hr)
        z = s(xz + hz)
        if reset == "before":
            hn = np.split(recurrent_side(r * h_prev, p), 3)[2]
            n = tanh(xn + hn)
        else:
            n = tanh(xn + r * hn)
        if update == "keep":
            return (z * h_prev + (1 - z) * n,)
        return ((1 - z) * h_prev + z * n,)

    return step


# ------------------------------------------------------------------------------------------------------- registry

CELLS["rnn_tanh"] = Cell(rnn(tanh), blocks=1)
CELLS["rnn_relu"] = Cell(rnn(relu), blocks=1)
CELLS["rnn_sigmoid"] = Cell(rnn(s), blocks=1)
CELLS["gru"] = Cell(gru("after", "keep"), blocks=3)
CELLS["gru_write"] = Cell(gru("after", "write"), blocks=3)
CELLS["gru_reset_before"] = Cell(gru("before", "keep"), blocks=3)
CELLS["gru_reset_before_write"] = Cell(gru("before", "write"), blocks=3)
for _step, _blocks in ((lstm, 4), (lstm_coupled, 3), (lstm_f_from_i, 3)):
    _name = _step.__name__
    CELLS[_name] = Cell(_step, _blocks, states=2)
    CELLS[_name + "_peephole"] = replace(CELLS[_name], peepholes=_blocks - 1)
    CELLS[_name + "_projected"] = replace(CELLS[_name], projected=True)
    CELLS[_name + "_peephole_projected"] = replace(CELLS[_name + "_peephole"], projected=True)


# -------------------------------------------------------------------------------------------------- the sequence


def shapes(
    cell: str,
    input_size: int,
    hidden_size: int,
    proj_size: int = 0,
    layers: int = 1,
    directions: int = 1,
    bias: bool = True,
) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter, in torch's order."""
    kind = CELLS[cell]
    rows, output = kind.blocks * hidden_size, proj_size or hidden_size
    result: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        for suffix in ("", "_reverse")[:directions]:
            end = f"_l{layer}{suffix}"
            result["weight_ih" + end] = (rows, directions * output if layer else input_size)
            result["weight_hh" + end] = (rows, output)
            if bias:
                result["bias_ih" + end] = result["bias_hh" + end] = (rows,)
            if kind.peepholes:
                result["weight_peep" + end] = (kind.peepholes * hidden_size,)
            if kind.projected:
                result["weight_hr" + end] = (proj_size, hidden_size)
    return result


def run(
    cell: str,
    x: NDArray[Any],
    params: Mapping[str, NDArray[Any]],
    state: Sequence[NDArray[Any]] | None = None,
    lengths: Sequence[int] | None = None,
    constants: Constants | None = None,
    batch_first: bool = False,
) -> tuple[Array, States]:
    """The output [T, B, D*O] and the final states [L*D, B, .] of a stack; params carry torch's names.

    Row b has lengths[b] valid steps. The reverse direction starts at the last of them, outputs past
    them are zero, the final state is the one after the row's own last step, and a row of length 0 keeps its state.
    """
    if x.ndim == 2:  # unbatched
        one = None if state is None else [h[:, None] for h in state]
        y, final = run(cell, x[:, None], params, one, None, constants)
        return y[:, 0], tuple(h[:, 0] for h in final)
    below = np.asarray(x, np.float64)
    if batch_first:
        below = below.swapaxes(0, 1)
    steps, batch, _ = below.shape
    layers = sum(name.startswith("weight_ih_l") and not name.endswith("_reverse") for name in params)
    suffixes = ("", "_reverse")[: 2 if "weight_ih_l0_reverse" in params else 1]
    output = params["weight_hh_l0"].shape[1]
    hidden = params["weight_hr_l0"].shape[1] if "weight_hr_l0" in params else output
    sizes = [output] + [hidden] * (CELLS[cell].states - 1)
    initial = state or [np.zeros((layers * len(suffixes), batch, size)) for size in sizes]
    final = tuple(np.array(h, np.float64) for h in initial)
    lengths = [steps] * batch if lengths is None else lengths

    for layer in range(layers):
        above = np.zeros((steps, batch, len(suffixes), output))
        for direction, suffix in enumerate(suffixes):
            end, index = f"_l{layer}{suffix}", layer * len(suffixes) + direction
            p = {n.removesuffix(end): np.asarray(v, np.float64) for n, v in params.items() if n.endswith(end)}
            for row in range(batch):
                now = tuple(h[index, row] for h in final)
                valid = range(lengths[row])
                for t in valid if direction == 0 else reversed(valid):
                    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
                        now = CELLS[cell].step(below[t, row], now, p, constants or {})
                    above[t, row, direction] = now[0]
                for h, value in zip(final, now, strict=True):
                    h[index, row] = value
        below = above.reshape(steps, batch, len(suffixes) * output)
    return below.swapaxes(0, 1) if batch_first else below, final
