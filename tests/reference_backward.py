"""The oracle of training: gradients of every cell in NumPy float64, written from the equations and from nothing else.

One function per family computes one step of all rows that are in it: x [B, I], states [B, .]. It returns the states
after the step and a pullback, which takes their gradients to those of x, of the states before and of the parameters.
`gradients` takes any of them through time, directions and layers, forwards and back.

Letters as in the equations: a is a pre-activation, a leading d a gradient, dL/d(.).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from reference import (
    CELLS,
    Array,
    Constants,
    Params,
    States,
    identity,
    input_side,
    peep,
    positive,
    recurrent_side,
    relu,
    s,
    tanh,
)

Pulled = tuple[Array, States, dict[str, Array]]  # gradients of x, of the states before the step, of the parameters
Pullback = Callable[[States], Pulled]
Step = Callable[[Array, States, Params, Constants], tuple[States, Pullback]]


class Gradients(NamedTuple):
    x: Array
    state: States
    params: dict[str, Array]


def blocks(a: Array, count: int) -> list[Array]:
    return np.split(a, count, axis=-1)


def pack(*parts: Array) -> Array:
    return np.concatenate(parts, axis=-1)


def biases(d_ih: Array, d_hh: Array, p: Params) -> dict[str, Array]:
    return {"bias_ih": d_ih.sum(0), "bias_hh": d_hh.sum(0)} if "bias_ih" in p else {}


def tail(da: Array, x: Array, h_prev: Array, p: Params) -> Pulled:
    """TAIL(dA), for the packed A = x @ weight_ih^T + bias_ih + h_prev @ weight_hh^T + bias_hh."""
    weights = {"weight_ih": da.T @ x, "weight_hh": da.T @ h_prev}
    return da @ p["weight_ih"], (da @ p["weight_hh"],), weights | biases(da, da, p)


# ------------------------------------------------------------------------------------------------ RNN


def rnn(f: Callable[[Array], Array], slope: Callable[[Array], Array]) -> Step:
    """`slope` is f', written in h = f(a)."""

    def step(x: Array, states: States, p: Params, constants: Constants) -> tuple[States, Pullback]:
        (h_prev,) = states
        h = f(input_side(x, p) + recurrent_side(h_prev, p))

        def pull(after: States) -> Pulled:
            (dh,) = after
            return tail(dh * slope(h), x, h_prev, p)

        return (h,), pull

    return step


# ----------------------------------------------------------------------------------------------- LSTM


def lstm(coupled: str | None) -> Step:
    """All options in one place: coupled gates, peepholes, cell clip, projection."""

    def step(x: Array, states: States, p: Params, constants: Constants) -> tuple[States, Pullback]:
        h_prev, c_prev = states
        clip = constants.get("cell_clip", np.inf)
        a = input_side(x, p) + recurrent_side(h_prev, p)
        if coupled is None:
            ai, af, ag, ao = blocks(a, 4)
            p_i, p_f, p_o = 0, 1, 2
            i, f = s(ai + peep(p, p_i, c_prev)), s(af + peep(p, p_f, c_prev))
        elif coupled == "i_from_f":
            af, ag, ao = blocks(a, 3)
            p_f, p_o = 0, 1
            f = s(af + peep(p, p_f, c_prev))
            i = 1 - f
        else:
            ai, ag, ao = blocks(a, 3)
            p_i, p_o = 0, 1
            i = s(ai + peep(p, p_i, c_prev))
            f = 1 - i
        g = tanh(ag)
        c_raw = f * c_prev + i * g
        c = np.clip(c_raw, -clip, clip)
        o = s(ao + peep(p, p_o, c))
        tc = tanh(c)
        q = o * tc
        h = q @ p["weight_hr"].T if "weight_hr" in p else q

        def pull(after: States) -> Pulled:
            dh, dc_next = after
            dq = dh @ p["weight_hr"] if "weight_hr" in p else dh
            dao = dq * tc * o * (1 - o)
            dc = dc_next + dq * o * (1 - tc**2) + peep(p, p_o, dao)
            dc = dc * (np.abs(c_raw) <= clip)
            dag = dc * i * (1 - g**2)
            dc_prev = dc * f
            if coupled is None:
                dai = dc * g * i * (1 - i)
                daf = dc * c_prev * f * (1 - f)
                dc_prev = dc_prev + peep(p, p_i, dai) + peep(p, p_f, daf)
                da, peepholes = pack(dai, daf, dag, dao), pack(dai * c_prev, daf * c_prev, dao * c)
            elif coupled == "i_from_f":
                daf = dc * (c_prev - g) * f * (1 - f)
                dc_prev = dc_prev + peep(p, p_f, daf)
                da, peepholes = pack(daf, dag, dao), pack(daf * c_prev, dao * c)
            else:
                dai = dc * (g - c_prev) * i * (1 - i)
                dc_prev = dc_prev + peep(p, p_i, dai)
                da, peepholes = pack(dai, dag, dao), pack(dai * c_prev, dao * c)
            dx, before, dp = tail(da, x, h_prev, p)
            if "weight_peep" in p:
                dp["weight_peep"] = peepholes.sum(0)
            if "weight_hr" in p:
                dp["weight_hr"] = dh.T @ q
            return dx, (*before, dc_prev), dp

        return (h, c), pull

    return step


# ------------------------------------------------------------------------------------------------ GRU


def gru(reset: str, update: str) -> Step:
    def step(x: Array, states: States, p: Params, constants: Constants) -> tuple[States, Pullback]:
        (h_prev,) = states
        xr, xz, xn = blocks(input_side(x, p), 3)
        hr, hz, hn = blocks(recurrent_side(h_prev, p), 3)
        r, z = s(xr + hr), s(xz + hz)
        n = tanh(xn + (r * hn if reset == "after" else blocks(recurrent_side(r * h_prev, p), 3)[2]))
        kept = z if update == "keep" else 1 - z
        h = kept * h_prev + (1 - kept) * n

        def pull(after: States) -> Pulled:
            (dh,) = after
            dkept = dh * (h_prev - n)
            dz = dkept if update == "keep" else -dkept
            daz = dz * z * (1 - z)
            dan = dh * (1 - kept) * (1 - n**2)
            direct = dh * kept
            if reset == "after":
                dar = dan * hn * r * (1 - r)
                dax, dah = pack(dar, daz, dan), pack(dar, daz, dan * r)
                dh_prev = direct + dah @ p["weight_hh"]
                dweight_hh = dah.T @ h_prev
            else:
                to_rz, to_n = np.split(p["weight_hh"], (2 * h.shape[-1],))
                dq = dan @ to_n  # q = r * h_prev
                dar = dq * h_prev * r * (1 - r)
                dax = dah = pack(dar, daz, dan)
                dh_prev = direct + dq * r + pack(dar, daz) @ to_rz
                dweight_hh = np.concatenate([pack(dar, daz).T @ h_prev, dan.T @ (r * h_prev)])
            weights = {"weight_ih": dax.T @ x, "weight_hh": dweight_hh}
            return dax @ p["weight_ih"], (dh_prev,), weights | biases(dax, dah, p)

        return (h,), pull

    return step


# --------------------------------------------------------------------------------------------- multiplicative LSTM


def multiplicative_lstm(form: str, bias_at: str = "candidate") -> Step:
    def step(x: Array, states: States, p: Params, constants: Constants) -> tuple[States, Pullback]:
        h_prev, c_prev = states
        u, v = x @ p["weight_mx"].T, h_prev @ p["weight_mh"].T
        m = u * v
        b = blocks(p.get("bias_ih", np.zeros(4 * h_prev.shape[-1])), 4)
        b_h = b[2] if bias_at == "output" else 0 * b[2]
        ai, af, ag, ao = blocks(x @ p["weight_ih"].T + m @ p["weight_hh"].T, 4)
        i, f, o = s(ai + b[0]), s(af + b[1]), s(ao + b[3])
        ag = ag + (b[2] - b_h)
        g = ag if form == "paper" else tanh(ag)
        c = f * c_prev + i * g
        h = tanh(c * o + b_h) if form == "paper" else o * tanh(c)

        def pull(after: States) -> Pulled:
            dh, dc_next = after
            if form == "paper":
                k = dh * (1 - h**2)
                do, dc, slope = k * c, dc_next + k * o, np.ones_like(g)
            else:
                k = np.zeros_like(dh)
                do, dc, slope = dh * tanh(c), dc_next + dh * o * (1 - tanh(c) ** 2), 1 - g**2
            dai, daf, dag = dc * g * i * (1 - i), dc * c_prev * f * (1 - f), dc * i * slope
            dao = do * o * (1 - o)
            da = pack(dai, daf, dag, dao)
            dm = da @ p["weight_hh"]
            du, dv = dm * v, dm * u
            dp = {
                "weight_ih": da.T @ x,
                "weight_hh": da.T @ m,
                "weight_mx": du.T @ x,
                "weight_mh": dv.T @ h_prev,
            }
            if "bias_ih" in p:
                dp["bias_ih"] = pack(dai, daf, k if bias_at == "output" else dag, dao).sum(0)
            return da @ p["weight_ih"] + du @ p["weight_mx"], (dv @ p["weight_mh"], dc * f), dp

        return (h, c), pull

    return step


# ------------------------------------------------------------------------------------------------ differential RNN


def differential(*orders: int) -> Step:
    """e[n] is the gradient of the n-th difference after the step, before[n] of the one before it."""

    def step(x: Array, states: States, p: Params, constants: Constants) -> tuple[States, Pullback]:
        h_prev, *d = states
        q = p["weight_dos"].reshape(len(orders), 3, -1)
        ai, af, ag, ao = blocks(input_side(x, p) + recurrent_side(h_prev, p), 4)
        i = s(ai + sum(q[k, 0] * d[n] for k, n in enumerate(orders)))
        f = s(af + sum(q[k, 1] * d[n] for k, n in enumerate(orders)))
        g = tanh(ag)
        new = [f * d[0] + i * g]
        for old in d[:-1]:
            new.append(new[-1] - old)
        o = s(ao + sum(q[k, 2] * new[n] for k, n in enumerate(orders)))
        tc = tanh(new[0])

        def pull(after: States) -> Pulled:
            dh, *rest = after
            e, before = [np.array(part) for part in rest], [np.zeros_like(dh) for _ in rest]
            dao = dh * tc * o * (1 - o)
            for k, n in enumerate(orders):
                e[n] += q[k, 2] * dao
            e[0] += dh * o * (1 - tc**2)
            for n in range(len(d) - 1, 0, -1):
                e[n - 1] += e[n]
                before[n - 1] -= e[n]
            dai, daf, dag = e[0] * g * i * (1 - i), e[0] * d[0] * f * (1 - f), e[0] * i * (1 - g**2)
            before[0] += e[0] * f
            dq = []
            for k, n in enumerate(orders):
                before[n] += q[k, 0] * dai + q[k, 1] * daf
                dq += [(dai * d[n]).sum(0), (daf * d[n]).sum(0), (dao * new[n]).sum(0)]
            dx, first, dp = tail(pack(dai, daf, dag, dao), x, h_prev, p)
            return dx, (*first, *before), dp | {"weight_dos": pack(*dq)}

        return (o * tc, *new), pull

    return step


# ------------------------------------------------------------------------------------------ element-wise recurrences


def input_tail(da: Array, x: Array, p: Params) -> tuple[Array, dict[str, Array]]:
    """TAIL without h(t-1)."""
    dp = {"weight_ih": da.T @ x}
    return da @ p["weight_ih"], dp | ({"bias_ih": da.sum(0)} if "bias_ih" in p else {})


def indrnn(f: Callable[[Array], Array], slope: Callable[[Array], Array]) -> Step:
    def step(x: Array, states: States, p: Params, constants: Constants) -> tuple[States, Pullback]:
        (h_prev,) = states
        h = f(input_side(x, p) + p["weight_u"] * h_prev)

        def pull(after: States) -> Pulled:
            da = after[0] * slope(h)
            dx, dp = input_tail(da, x, p)
            return dx, (da * p["weight_u"],), dp | {"weight_u": (da * h_prev).sum(0)}

        return (h,), pull

    return step


def positive_slope(a: Array) -> Array:
    return np.where(a >= 0, 1.0, s(a) * (1 - s(a)))


def min_gru(g: Callable[[Array], Array], slope: Callable[[Array], Array]) -> Step:
    def step(x: Array, states: States, p: Params, constants: Constants) -> tuple[States, Pullback]:
        (h_prev,) = states
        az, an = blocks(input_side(x, p), 2)
        z, n = s(az), g(an)

        def pull(after: States) -> Pulled:
            (dh,) = after
            dx, dp = input_tail(pack(dh * (n - h_prev) * z * (1 - z), dh * z * slope(an)), x, p)
            return dx, (dh * (1 - z),), dp

        return ((1 - z) * h_prev + z * n,), pull

    return step


def min_lstm(g: Callable[[Array], Array], slope: Callable[[Array], Array]) -> Step:
    def step(x: Array, states: States, p: Params, constants: Constants) -> tuple[States, Pullback]:
        (h_prev,) = states
        af, ai, an = blocks(input_side(x, p), 3)
        f, i, n = s(af), s(ai), g(an)
        share = f / (f + i)

        def pull(after: States) -> Pulled:
            (dh,) = after
            e = dh * (h_prev - n) * share * (1 - share)
            da = pack(e * (1 - f), -e * (1 - i), dh * (1 - share) * slope(an))
            dx, dp = input_tail(da, x, p)
            return dx, (dh * share,), dp

        return (share * h_prev + (1 - share) * n,), pull

    return step


def sru(g: Callable[[Array], Array], slope: Callable[[Array], Array]) -> Step:
    """`slope` is g', written in g(c)."""

    def step(x: Array, states: States, p: Params, constants: Constants) -> tuple[States, Pullback]:
        h_prev, c_prev = states
        u0, u1, u2, u3 = blocks(x @ p["weight_ih"].T, 4)
        v_f, v_r = blocks(p["weight_v"], 2)
        b_f, b_r = blocks(p.get("bias_ih", np.zeros(2 * c_prev.shape[-1])), 2)
        f, r = s(u1 + v_f * c_prev + b_f), s(u2 + v_r * c_prev + b_r)
        c = f * c_prev + (1 - f) * u0

        def pull(after: States) -> Pulled:
            dh, dc = after
            dc = dc + dh * r * slope(g(c))
            daf, dar = dc * (c_prev - u0) * f * (1 - f), dh * (g(c) - u3) * r * (1 - r)
            da = pack(dc * (1 - f), daf, dar, dh * (1 - r))
            dp = {"weight_ih": da.T @ x, "weight_v": pack(daf * c_prev, dar * c_prev).sum(0)}
            if "bias_ih" in p:
                dp["bias_ih"] = pack(daf, dar).sum(0)
            return da @ p["weight_ih"], (np.zeros_like(h_prev), dc * f + v_f * daf + v_r * dar), dp

        return (r * g(c) + (1 - r) * u3, c), pull

    return step


# ------------------------------------------------------------------------------------------------------- registry

STEPS: dict[str, Step] = {
    "rnn_tanh": rnn(tanh, lambda h: 1 - h**2),
    "rnn_relu": rnn(relu, lambda h: np.asarray(h > 0, np.float64)),
    "rnn_sigmoid": rnn(s, lambda h: h * (1 - h)),
    "gru": gru("after", "keep"),
    "gru_write": gru("after", "write"),
    "gru_reset_before": gru("before", "keep"),
    "gru_reset_before_write": gru("before", "write"),
}
for _name, _coupled in (("lstm", None), ("lstm_coupled", "i_from_f"), ("lstm_f_from_i", "f_from_i")):
    for _suffix in ("", "_peephole", "_projected", "_peephole_projected"):
        STEPS[_name + _suffix] = lstm(_coupled)
STEPS["multiplicative_lstm"] = multiplicative_lstm("standard")
STEPS["multiplicative_lstm_paper"] = multiplicative_lstm("paper")
STEPS["multiplicative_lstm_paper_output"] = multiplicative_lstm("paper", "output")
for _orders in ((0,), (1,), (2,), (0, 1), (0, 1, 2)):
    STEPS["differential_" + "".join(map(str, _orders))] = differential(*_orders)
STEPS["indrnn_relu"] = indrnn(relu, lambda h: np.asarray(h > 0, np.float64))
STEPS["indrnn_tanh"] = indrnn(tanh, lambda h: 1 - h**2)
STEPS["sru"], STEPS["sru_tanh"] = sru(identity, np.ones_like), sru(tanh, lambda g: 1 - g**2)
for _g, _slope, _suffix in ((identity, np.ones_like, ""), (positive, positive_slope, "_positive")):
    STEPS["min_gru" + _suffix], STEPS["min_lstm" + _suffix] = min_gru(_g, _slope), min_lstm(_g, _slope)


# -------------------------------------------------------------------------------------------------- the sequence


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

    def back(self, dy: Array, dfinal: States) -> Pulled:
        running = tuple(dh.copy() for dh in dfinal)
        dx = np.zeros(self.input_shape)
        dp = {name: np.zeros_like(array) for name, array in self.p.items()}
        for times, rows, pull in reversed(self.steps):
            dh, *others = (d[rows] for d in running)
            dx[times, rows], before, of_step = pull((dh + dy[times, rows], *others))
            for d, value in zip(running, before, strict=True):
                d[rows] = value
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
) -> Gradients:
    """Gradients of sum(dy * y) + sum(dstate * final state), y and final as `reference.run` returns them.

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
            scans[end] = Scan(cell, below, first, p, valid, direction == 1, constants or {})
        below = pack(*(scans[f"_l{layer}{suffix}"].y for suffix in suffixes))

    dabove = np.zeros_like(below) if dy is None else time_major(dy)
    dinitial, dparams = filled(None), {}
    for layer in reversed(range(layers)):
        dbelow = []
        for direction, (suffix, part) in enumerate(zip(suffixes, blocks(dabove, len(suffixes)), strict=True)):
            end, index = f"_l{layer}{suffix}", layer * len(suffixes) + direction
            dx, before, dp = scans[end].back(part, tuple(d[index] for d in dfinal))
            dbelow.append(dx)
            for d, value in zip(dinitial, before, strict=True):
                d[index] = value
            dparams.update({name + end: value for name, value in dp.items()})
        dabove = sum(dbelow[1:], dbelow[0])
    named = {name: dparams[name] for name in params}
    return Gradients(dabove.swapaxes(0, 1) if batch_first else dabove, dinitial, named)
