"""The oracle: every cell in NumPy float64, written from the papers' equations and from nothing else.

One function per cell computes one step of one row: it takes x [I], the states before the step, the parameters of
its layer and direction, and the constants, and returns the states after the step, the emitted one first. `run`
drives any of them through time, row by row, layers and directions. Speed is no aim here; being obvious is.

To add a cell: write its step from its equations and register it in `CELLS` under its name in the compiled table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import reference_general
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
    recurrent: bool = True  # there is a matrix weight_hh
    biases: tuple[str, ...] = ("bias_ih", "bias_hh")
    bias_blocks: int | None = None  # as many as there are gate blocks
    more: tuple[tuple[str, int, str], ...] = ()  # other parameters: name, blocks of H rows, columns
    heads: bool = False  # weight_hh is block diagonal
    taped: int = 0  # values a unit and step on a tape; 0: what the family has


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


def dense(weight: Array, units: int) -> Array:
    """A block-diagonal weight [G*H, H / heads] with all its zeros, [G*H, H]; one that is dense as it is."""
    size = weight.shape[1]
    if size == units:
        return weight
    full = np.zeros((len(weight), units))
    for row, values in enumerate(weight):
        first = row % units // size * size
        full[row, first : first + size] = values
    return full


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
    h = q @ p["weight_hr"].T + p.get("bias_hr", 0.0) if "weight_hr" in p else q
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


# --------------------------------------------------------------------------------------------- multiplicative LSTM


def multiplicative_lstm(form: str, bias_at: str = "candidate") -> Step:
    """6. No factor has a bias."""

    def step(x: Array, states: States, p: Params, constants: Constants) -> States:
        h_prev, c_prev = states
        m = (p["weight_mx"] @ x) * (p["weight_mh"] @ h_prev)
        bias = p.get("bias_ih", np.zeros(4 * len(h_prev)))
        bi, bf, bg, bo = np.split(bias, 4)
        ai, af, ag, ao = np.split(p["weight_ih"] @ x + p["weight_hh"] @ m, 4)
        i, f, o = s(ai + bi), s(af + bf), s(ao + bo)
        if bias_at == "candidate":
            ag, bg = ag + bg, np.zeros_like(bg)
        c = f * c_prev + i * (ag if form == "paper" else tanh(ag))
        return (tanh(c * o + bg) if form == "paper" else o * tanh(c)), c

    return step


# ------------------------------------------------------------------------------------------------ differential RNN


def differential(*orders: int) -> Step:
    """11, differences carried. weight_dos has for each order the vectors, or the matrices, of i, f, o."""

    def step(x: Array, states: States, p: Params, constants: Constants) -> States:
        h, *d = states
        weight = p["weight_dos"]
        q, times = weight.reshape(len(orders), 3, len(h), *weight.shape[1:]), (np.multiply, np.matmul)[weight.ndim - 1]
        ai, af, ag, ao = np.split(input_side(x, p) + recurrent_side(h, p), 4)
        i = s(ai + sum(times(q[k, 0], d[n]) for k, n in enumerate(orders)))
        f = s(af + sum(times(q[k, 1], d[n]) for k, n in enumerate(orders)))
        new = [f * d[0] + i * tanh(ag)]
        for old in d[:-1]:
            new.append(new[-1] - old)
        o = s(ao + sum(times(q[k, 2], new[n]) for k, n in enumerate(orders)))
        return o * tanh(new[0]), *new

    return step


# ------------------------------------------------------------------------------------------------------------ sLSTM


def slstm(forget: str) -> Step:
    """15.1, stabilised."""

    def step(x: Array, states: States, p: Params, constants: Constants) -> States:
        h, c_prev, n_prev, m_prev = states
        p = {**p, "weight_hh": dense(p["weight_hh"], len(h))}
        ai, af, az, ao = np.split(input_side(x, p) + recurrent_side(h, p), 4)
        lf = -np.logaddexp(0, -af) if forget == "sigmoid" else af
        m = np.where(n_prev == 0, ai, np.maximum(lf + m_prev, ai))
        i, f = np.exp(ai - m), np.exp(lf + m_prev - m)
        c, n = f * c_prev + i * tanh(az), f * n_prev + i
        return s(ao) * c / n, c, n, m

    return step


# ------------------------------------------------------------------------------------------ element-wise recurrences


def indrnn(f: Callable[[Array], Array]) -> Step:
    """16.2"""

    def step(x: Array, states: States, p: Params, constants: Constants) -> States:
        return (f(input_side(x, p) + p["weight_u"] * states[0]),)

    return step


def identity(a: Array) -> Array:
    return a


def positive(a: Array) -> Array:
    """16.5, G."""
    return np.where(a >= 0, a + 0.5, s(a))


def min_gru(g: Callable[[Array], Array]) -> Step:
    def step(x: Array, states: States, p: Params, constants: Constants) -> States:
        az, an = np.split(input_side(x, p), 2)
        return ((1 - s(az)) * states[0] + s(az) * g(an),)

    return step


def min_lstm(g: Callable[[Array], Array]) -> Step:
    """Normalised."""

    def step(x: Array, states: States, p: Params, constants: Constants) -> States:
        af, ai, an = np.split(input_side(x, p), 3)
        apart = np.logaddexp(0, -ai) - np.logaddexp(0, -af)  # log(f / i), which does not underflow
        return (s(apart) * states[0] + s(-apart) * g(an),)

    return step


def sru(g: Callable[[Array], Array]) -> Step:
    """16.3, with u3 for the highway whatever the sizes."""

    def step(x: Array, states: States, p: Params, constants: Constants) -> States:
        c_prev = states[1]
        u0, u1, u2, u3 = np.split(p["weight_ih"] @ x, 4)
        v_f, v_r = np.split(p["weight_v"], 2)
        b_f, b_r = np.split(p.get("bias_ih", np.zeros(2 * len(c_prev))), 2)
        f, r = s(u1 + v_f * c_prev + b_f), s(u2 + v_r * c_prev + b_r)
        c = f * c_prev + (1 - f) * u0
        return r * g(c) + (1 - r) * u3, c

    return step


# ----------------------------------------------------------------------------------------- layer normalisation


def normed(y: Array) -> Array:
    """7.1 without gamma and beta, over the last axis."""
    centred = y - y.mean(-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5))


def lstm_layer_norm(x: Array, states: States, p: Params, constants: Constants) -> States:
    """7.2"""
    h, c_prev = states
    a = p["gamma_x"] * normed(p["weight_ih"] @ x) + p["gamma_h"] * normed(p["weight_hh"] @ h)
    ai, af, ag, ao = np.split(a + p.get("bias_ih", 0.0), 4)
    clip = constants.get("cell_clip", np.inf)
    c = np.clip(s(af) * c_prev + s(ai) * tanh(ag), -clip, clip)
    return s(ao) * tanh(p["gamma_c"] * normed(c) + p["beta_c"]), c


def gru_layer_norm(x: Array, states: States, p: Params, constants: Constants) -> States:
    """7.3, joint"""
    (h_prev,) = states
    xr, xz, xn = np.split(p["gamma_x"] * normed(p["weight_ih"] @ x) + p.get("bias_ih", 0.0), 3)
    hr, hz, hn = np.split(p["gamma_h"] * normed(p["weight_hh"] @ h_prev) + p.get("bias_hh", 0.0), 3)
    r, z = s(xr + hr), s(xz + hz)
    return (z * h_prev + (1 - z) * tanh(xn + r * hn),)


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

ONE_BIAS = ("bias_ih",)
FACTORS = (("weight_mx", 1, "input"), ("weight_mh", 1, "hidden"))
for _name, _multiplicative in (
    ("multiplicative_lstm", multiplicative_lstm("standard")),
    ("multiplicative_lstm_paper", multiplicative_lstm("paper")),
    ("multiplicative_lstm_paper_output", multiplicative_lstm("paper", "output")),
):
    CELLS[_name] = Cell(_multiplicative, 4, states=2, biases=ONE_BIAS, more=FACTORS, taped=9)
for _orders in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
    CELLS["differential_" + "".join(map(str, _orders))] = Cell(
        differential(*_orders),
        4,
        states=2 + max(_orders),
        more=(("weight_dos", 3 * len(_orders), "one"),),
        taped=6 + max(_orders),
    )
CELLS["slstm"] = Cell(slstm("sigmoid"), 4, states=4, heads=True, taped=9)
CELLS["slstm_exp"] = Cell(slstm("exp"), 4, states=4, heads=True, taped=8)
GAINS = (("gamma_x", "gamma_h"), ("gamma_c", "beta_c"))
for _step, _blocks, _states in ((lstm_layer_norm, 4, 2), (gru_layer_norm, 3, 1)):
    _more = tuple((n, _blocks, "one") for n in GAINS[0]) + tuple((n, 1, "one") for n in GAINS[1][: 2 * _states - 2])
    CELLS[_step.__name__] = Cell(
        _step,
        _blocks,
        states=_states,
        biases=ONE_BIAS if _states == 2 else ("bias_ih", "bias_hh"),
        more=_more,
        taped=2 * _blocks + _states,
    )
_alone = Cell(relu, 0, recurrent=False, biases=ONE_BIAS)  # type: ignore[arg-type]
for _f in (relu, tanh):
    _more = (("weight_u", 1, "one"),)
    CELLS[f"indrnn_{_f.__name__}"] = replace(_alone, step=indrnn(_f), blocks=1, more=_more, taped=2)
for _g, _suffix in ((identity, ""), (positive, "_positive")):
    CELLS["min_gru" + _suffix] = replace(_alone, step=min_gru(_g), blocks=2, taped=4)
    CELLS["min_lstm" + _suffix] = replace(_alone, step=min_lstm(_g), blocks=3, taped=6)
for _g, _suffix in ((identity, ""), (tanh, "_tanh")):
    _more = (("weight_v", 2, "one"),)
    CELLS["sru" + _suffix] = replace(_alone, step=sru(_g), blocks=4, states=2, bias_blocks=2, more=_more, taped=6)


def general(name: str) -> Step:
    return lambda x, states, p, constants: reference_general.STEPS[name](x, states, p, constants)[0]


for _name in reference_general.STEPS:
    _like = "rnn_tanh" if _name == "rnn_general" else _name.removesuffix("_general")
    _fewer = _name.startswith(("lstm_coupled", "lstm_f_from_i"))  # which keep no gate that is 1 - another
    _taped = 5 + CELLS[_like].projected if _fewer else 0
    CELLS[_name] = replace(CELLS[_like], step=general(_name), taped=_taped)


def kinds() -> list[str]:
    """Of cells whose names differ by options alone, the one with the fewest and one with the most of them: for tests of
    what the engine does with a cell. Tests of what a cell computes take all."""
    options = re.compile("_(coupled|f_from_i|peephole|write|positive|paper|output)(?![a-z])")
    alike: dict[str, list[str]] = {}
    for name in sorted(CELLS):
        alike.setdefault(options.sub("", name), []).append(name)
    return sorted({name for names in alike.values() for name in (min(names, key=len), max(names, key=len))})


# -------------------------------------------------------------------------------------------------- the sequence


def shapes(
    cell: str,
    input_size: int,
    hidden_size: int,
    proj_size: int = 0,
    layers: int = 1,
    directions: int = 1,
    bias: bool = True,
    heads: int = 1,
    proj_bias: bool = False,
) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter, in torch's order."""
    kind = CELLS[cell]
    rows, output = kind.blocks * hidden_size, proj_size or hidden_size
    result: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        for suffix in ("", "_reverse")[:directions]:
            end = f"_l{layer}{suffix}"
            columns = {"input": directions * output if layer else input_size, "hidden": hidden_size}
            result["weight_ih" + end] = (rows, columns["input"])
            if kind.recurrent:
                result["weight_hh" + end] = (rows, output // heads)
            for name in kind.biases if bias else ():
                result[name + end] = ((kind.bias_blocks or kind.blocks) * hidden_size,)
            for name, blocks, width in kind.more:
                size = blocks * hidden_size
                result[name + end] = (size,) if width == "one" else (size, columns[width])
            if kind.peepholes:
                result["weight_peep" + end] = (kind.peepholes * hidden_size,)
            if kind.projected:
                result["weight_hr" + end] = (proj_size, hidden_size)
            if proj_bias:
                result["bias_hr" + end] = (proj_size,)
    return result


def run(
    cell: str,
    x: NDArray[Any],
    params: Mapping[str, NDArray[Any]],
    state: Sequence[NDArray[Any]] | None = None,
    lengths: Sequence[int] | None = None,
    constants: Constants | None = None,
    batch_first: bool = False,
    *,
    resets: NDArray[Any] | None = None,
    reset_state: Sequence[NDArray[Any]] | None = None,
    mask: NDArray[Any] | None = None,
    masked_output: str = "previous",
) -> tuple[Array, States]:
    """The output [T, B, D*O] and the final states [L*D, B, .] of a stack; params carry torch's names.

    Row b has lengths[b] valid steps. The reverse direction starts at the last of them, outputs past
    them are zero, the final state is the one after the row's own last step, and a row of length 0 keeps its state.

    resets[t, b] puts reset_state (default zeros) between steps t - 1 and t of row b, for whichever direction passes.
    Where not mask[t, b] there is no step: the state stays, the output is its h, or with "zero" nothing.
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
    hidden = len(params["weight_ih_l0"]) // CELLS[cell].blocks
    output = len(params["weight_hr_l0"]) if "weight_hr_l0" in params else hidden
    sizes = [output] + [hidden] * (CELLS[cell].states - 1)
    initial = state or [np.zeros((layers * len(suffixes), batch, size)) for size in sizes]
    final = tuple(np.array(h, np.float64) for h in initial)
    lengths = [steps] * batch if lengths is None else lengths
    fresh = reset_state or [np.zeros_like(h) for h in final]
    flags = np.zeros((steps, batch), bool)
    resets, mask = flags if resets is None else resets, ~flags if mask is None else mask

    for layer in range(layers):
        above = np.zeros((steps, batch, len(suffixes), output))
        for direction, suffix in enumerate(suffixes):
            end, index = f"_l{layer}{suffix}", layer * len(suffixes) + direction
            p = {n.removesuffix(end): np.asarray(v, np.float64) for n, v in params.items() if n.endswith(end)}
            own = reference_general.of_direction(constants or {}, direction == 1)
            for row in range(batch):
                now = tuple(h[index, row] for h in final)
                valid = range(lengths[row])
                start = tuple(np.asarray(h[index, row], np.float64) for h in fresh)
                for t in valid if direction == 0 else reversed(valid):
                    if resets[t, row] and direction == 0:
                        now = start
                    if mask[t, row]:
                        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
                            now = CELLS[cell].step(below[t, row], now, p, own)
                    if mask[t, row] or masked_output == "previous":
                        above[t, row, direction] = now[0]
                    if resets[t, row] and direction == 1 and t > 0:
                        now = start
                for h, value in zip(final, now, strict=True):
                    h[index, row] = value
        below = above.reshape(steps, batch, len(suffixes) * output)
    return below.swapaxes(0, 1) if batch_first else below, final
