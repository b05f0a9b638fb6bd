"""The steps of every cell and the way back over them in NumPy float64, written from the equations and nothing else.

One function per family computes one step of all rows that are in it: x [B, I], states [B, .]. It returns the states
after the step and a pullback, which takes their gradients to those of x, of the states before and of the parameters.

Letters as in the equations: a is a pre-activation, a leading d a gradient, dL/d(.).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import reference_general
from reference import (
    Array,
    Constants,
    Params,
    States,
    dense,
    identity,
    input_side,
    normed,
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
        h = q @ p["weight_hr"].T + p.get("bias_hr", 0.0) if "weight_hr" in p else q

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
            if "bias_hr" in p:
                dp["bias_hr"] = dh.sum(axis=0)
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


# ------------------------------------------------------------------------------------------------------------ sLSTM


def slstm(forget: str) -> Step:
    """15.1, and through m as well, which is one of two: ai, or lf + m_prev."""

    def step(x: Array, states: States, p: Params, constants: Constants) -> tuple[States, Pullback]:
        h_prev, c_prev, n_prev, m_prev = states
        full = {**p, "weight_hh": dense(p["weight_hh"], h_prev.shape[-1])}
        ai, af, az, ao = blocks(input_side(x, p) + recurrent_side(h_prev, full), 4)
        before = m_prev + (-np.logaddexp(0, -af) if forget == "sigmoid" else af)
        from_before = (n_prev != 0) & (before >= ai)
        m = np.where(from_before, before, ai)
        i, f, z, o = np.exp(ai - m), np.exp(before - m), tanh(az), s(ao)
        c, n = f * c_prev + i * z, f * n_prev + i

        def pull(after: States) -> Pulled:
            dh, dc, dn, dm = after
            dc, dn = dc + dh * o / n, dn - dh * o * c / n**2
            di, df = (dc * z + dn) * i, (dc * c_prev + dn * n_prev) * f  # of the exponents
            dm = dm - di - df
            dbefore = df + dm * from_before
            daf = dbefore * s(-af) if forget == "sigmoid" else dbefore
            da = pack(di + dm * ~from_before, daf, dc * i * (1 - z**2), dh * c / n * o * (1 - o))
            dx, (dh_prev,), dp = tail(da, x, h_prev, full)
            size, units = p["weight_hh"].shape[1], h_prev.shape[-1]
            rows = [row % units // size * size for row in range(4 * units)]
            dp["weight_hh"] = np.stack([dp["weight_hh"][r, first : first + size] for r, first in enumerate(rows)])
            return dx, (dh_prev, dc * f, dn * f, dbefore), dp

        return (o * c / n, c, n, m), pull

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


# ----------------------------------------------------------------------------------------- layer normalisation


def layer_norm(y: Array) -> tuple[Array, Callable[[Array], Array]]:
    """7.1 without gamma and beta, over the last axis; and its pullback."""
    yhat = normed(y)
    rstd = 1 / np.sqrt(y.var(-1, keepdims=True) + 1e-5)

    def pull(t: Array) -> Array:
        return np.asarray(rstd * (t - t.mean(-1, keepdims=True) - yhat * (t * yhat).mean(-1, keepdims=True)))

    return yhat, pull


def lstm_layer_norm(x: Array, states: States, p: Params, constants: Constants) -> tuple[States, Pullback]:
    h_prev, c_prev = states
    clip = constants.get("cell_clip", np.inf)
    x_hat, pull_x = layer_norm(x @ p["weight_ih"].T)
    h_hat, pull_h = layer_norm(h_prev @ p["weight_hh"].T)
    ai, af, ag, ao = blocks(p["gamma_x"] * x_hat + p["gamma_h"] * h_hat + p.get("bias_ih", 0.0), 4)
    i, f, g, o = s(ai), s(af), tanh(ag), s(ao)
    c_raw = f * c_prev + i * g
    c = np.clip(c_raw, -clip, clip)
    c_hat, pull_c = layer_norm(c)
    q = tanh(p["gamma_c"] * c_hat + p["beta_c"])

    def pull(after: States) -> Pulled:
        dh, dc_next = after
        dcn = dh * o * (1 - q**2)
        dc = (dc_next + pull_c(dcn * p["gamma_c"])) * (np.abs(c_raw) <= clip)
        da = pack(dc * g * i * (1 - i), dc * c_prev * f * (1 - f), dc * i * (1 - g**2), dh * q * o * (1 - o))
        dpx, dph = pull_x(da * p["gamma_x"]), pull_h(da * p["gamma_h"])
        dp = {"weight_ih": dpx.T @ x, "weight_hh": dph.T @ h_prev}
        dp |= {"gamma_x": (da * x_hat).sum(0), "gamma_h": (da * h_hat).sum(0)}
        dp |= {"gamma_c": (dcn * c_hat).sum(0), "beta_c": dcn.sum(0)}
        if "bias_ih" in p:
            dp["bias_ih"] = da.sum(0)
        return dpx @ p["weight_ih"], (dph @ p["weight_hh"], dc * f), dp

    return (o * q, c), pull


def gru_layer_norm(x: Array, states: States, p: Params, constants: Constants) -> tuple[States, Pullback]:
    (h_prev,) = states
    x_hat, pull_x = layer_norm(x @ p["weight_ih"].T)
    h_hat, pull_h = layer_norm(h_prev @ p["weight_hh"].T)
    xr, xz, xn = blocks(p["gamma_x"] * x_hat + p.get("bias_ih", 0.0), 3)
    hr, hz, hn = blocks(p["gamma_h"] * h_hat + p.get("bias_hh", 0.0), 3)
    r, z = s(xr + hr), s(xz + hz)
    n = tanh(xn + r * hn)

    def pull(after: States) -> Pulled:
        (dh,) = after
        dan, daz = dh * (1 - z) * (1 - n**2), dh * (h_prev - n) * z * (1 - z)
        dar = dan * hn * r * (1 - r)
        dax, dah = pack(dar, daz, dan), pack(dar, daz, dan * r)
        dpx, dph = pull_x(dax * p["gamma_x"]), pull_h(dah * p["gamma_h"])
        dp = {"weight_ih": dpx.T @ x, "weight_hh": dph.T @ h_prev}
        dp |= {"gamma_x": (dax * x_hat).sum(0), "gamma_h": (dah * h_hat).sum(0)}
        return dpx @ p["weight_ih"], (dh * z + dph @ p["weight_hh"],), dp | biases(dax, dah, p)

    return (z * h_prev + (1 - z) * n,), pull


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
STEPS["lstm_layer_norm"], STEPS["gru_layer_norm"] = lstm_layer_norm, gru_layer_norm
STEPS["multiplicative_lstm"] = multiplicative_lstm("standard")
STEPS["multiplicative_lstm_paper"] = multiplicative_lstm("paper")
STEPS["multiplicative_lstm_paper_output"] = multiplicative_lstm("paper", "output")
for _orders in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
    STEPS["differential_" + "".join(map(str, _orders))] = differential(*_orders)
STEPS["slstm"], STEPS["slstm_exp"] = slstm("sigmoid"), slstm("exp")
STEPS["indrnn_relu"] = indrnn(relu, lambda h: np.asarray(h > 0, np.float64))
STEPS["indrnn_tanh"] = indrnn(tanh, lambda h: 1 - h**2)
STEPS["sru"], STEPS["sru_tanh"] = sru(identity, np.ones_like), sru(tanh, lambda g: 1 - g**2)
for _g, _slope, _suffix in ((identity, np.ones_like, ""), (positive, positive_slope, "_positive")):
    STEPS["min_gru" + _suffix], STEPS["min_lstm" + _suffix] = min_gru(_g, _slope), min_lstm(_g, _slope)
STEPS |= reference_general.STEPS
