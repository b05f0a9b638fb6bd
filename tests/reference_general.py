"""The oracle of RNN, LSTM and GRU with any activations: NumPy float64, from the equations and from nothing else.

A step takes x [..., I], the states [..., .] before it, the parameters of its layer and direction and the constants of
its direction, and returns the states after it and a pullback: from their gradients to those of x, of the states before
and of the parameters, for rows [B, .]. f is the gates' function, g the candidate's, h the one that an LSTM's output
gate multiplies. A leading d is a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
States = tuple[Array, ...]
Params = Mapping[str, Array]
Constants = Mapping[str, float]
Pulled = tuple[Array, States, dict[str, Array]]
Step = Callable[[Array, States, Params, Constants], tuple[States, Callable[[States], Pulled]]]

# In the order of their numbers: function and slope, of a, alpha and beta.
FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "affine": (lambda a, p, q: p * a + q, lambda a, p, q: p + 0 * a),
    "scaled_tanh": (lambda a, p, q: p * np.tanh(q * a), lambda a, p, q: p * q * (1 - np.tanh(q * a) ** 2)),
    "sigmoid": (lambda a, p, q: 1 / (1 + np.exp(-a)), lambda a, p, q: 1 / (2 + np.exp(a) + np.exp(-a))),
    "thresholded_relu": (lambda a, p, q: np.where(a >= p, a, 0), lambda a, p, q: np.where(a > p, 1.0, 0.0)),
    "leaky_relu": (lambda a, p, q: np.where(a >= 0, a, p * a), lambda a, p, q: np.where(a > 0, 1.0, p)),
    "elu": (
        lambda a, p, q: np.where(a >= 0, a, p * np.expm1(np.minimum(a, 0))),
        lambda a, p, q: np.where(a > 0, 1.0, p * np.exp(np.minimum(a, 0))),
    ),
    "hard_sigmoid": (
        lambda a, p, q: np.clip(p * a + q, 0, 1),
        lambda a, p, q: np.where((p * a + q > 0) & (p * a + q < 1), p, 0.0),
    ),
    "softsign": (lambda a, p, q: a / (1 + np.abs(a)), lambda a, p, q: 1 / (1 + np.abs(a)) ** 2),
    "softplus": (lambda a, p, q: np.logaddexp(0, a), lambda a, p, q: 1 / (1 + np.exp(-a))),
}


class Function(NamedTuple):
    """One of them, of what a bound leaves of its argument."""

    name: str
    alpha: float
    beta: float
    bound: float

    def __call__(self, a: Array) -> Array:
        return np.asarray(FUNCTIONS[self.name][0](np.clip(a, -self.bound, self.bound), self.alpha, self.beta))

    def slope(self, a: Array) -> Array:
        inside = FUNCTIONS[self.name][1](np.clip(a, -self.bound, self.bound), self.alpha, self.beta)
        return np.asarray(np.where(np.abs(a) <= self.bound, inside, 0))


def chosen(constants: Constants, letter: str, standard: str) -> Function:
    bound = np.inf if letter == "h" else constants.get("clip", np.inf)
    if letter not in constants:
        return Function(standard, 1.0, 1.0, bound)
    name = list(FUNCTIONS)[int(constants[letter])]
    return Function(name, constants[letter + "_alpha"], constants[letter + "_beta"], bound)


def of_direction(constants: Constants, reverse: bool) -> Constants:
    """The constants of one direction, without what names tell of it."""
    own = {name: value for name, value in constants.items() if not name.endswith("_reverse")}
    if reverse:
        own |= {name.removesuffix("_reverse"): v for name, v in constants.items() if name.endswith("_reverse")}
    return own


def blocks(a: Array, count: int) -> list[Array]:
    return np.split(a, count, axis=-1)


def pack(*parts: Array) -> Array:
    return np.concatenate(parts, axis=-1)


def side(x: Array, p: Params, end: str) -> Array:
    return x @ p["weight_" + end].T + p.get("bias_" + end, 0)


def tail(dax: Array, dah: Array, x: Array, p: Params) -> tuple[Array, dict[str, Array]]:
    """From the gradients of both sides' pre-activations: that of x, and those of all but weight_hh."""
    biases = {"bias_ih": dax.sum(0), "bias_hh": dah.sum(0)} if "bias_ih" in p else {}
    return dax @ p["weight_ih"], {"weight_ih": dax.T @ x} | biases


def rnn(x: Array, states: States, p: Params, constants: Constants) -> tuple[States, Callable[[States], Pulled]]:
    (h_prev,), f = states, chosen(constants, "f", "scaled_tanh")
    a = side(x, p, "ih") + side(h_prev, p, "hh")

    def pull(after: States) -> Pulled:
        da = after[0] * f.slope(a)
        dx, dp = tail(da, da, x, p)
        return dx, (da @ p["weight_hh"],), dp | {"weight_hh": da.T @ h_prev}

    return (f(a),), pull


def gru(before: bool, write: bool) -> Step:
    def step(x: Array, states: States, p: Params, constants: Constants) -> tuple[States, Callable[[States], Pulled]]:
        (h_prev,) = states
        f, g = chosen(constants, "f", "sigmoid"), chosen(constants, "g", "scaled_tanh")
        xr, xz, xn = blocks(side(x, p, "ih"), 3)
        hr, hz, hn = blocks(side(h_prev, p, "hh"), 3)
        ar, az = xr + hr, xz + hz
        r, z = f(ar), f(az)
        an = xn + (blocks(side(r * h_prev, p, "hh"), 3)[2] if before else r * hn)
        n = g(an)
        h = (1 - z) * h_prev + z * n if write else z * h_prev + (1 - z) * n

        def pull(after: States) -> Pulled:
            (dh,) = after
            daz = dh * ((n - h_prev) if write else (h_prev - n)) * f.slope(az)
            dan = dh * (z if write else 1 - z) * g.slope(an)
            direct = dh * ((1 - z) if write else z)
            to_rz, to_n = np.split(p["weight_hh"], [2 * h.shape[-1]])
            if before:
                dq = dan @ to_n
                dar = dq * h_prev * f.slope(ar)
                dah = dax = pack(dar, daz, dan)
                dweight = np.concatenate([pack(dar, daz).T @ h_prev, dan.T @ (r * h_prev)])
                dh_prev = direct + dq * r + pack(dar, daz) @ to_rz
            else:
                dar = dan * hn * f.slope(ar)
                dax, dah = pack(dar, daz, dan), pack(dar, daz, dan * r)
                dweight, dh_prev = dah.T @ h_prev, direct + dah @ p["weight_hh"]
            dx, dp = tail(dax, dah, x, p)
            return dx, (dh_prev,), dp | {"weight_hh": dweight}

        return (h,), pull

    return step


def lstm(coupled: str | None) -> Step:
    def step(x: Array, states: States, p: Params, constants: Constants) -> tuple[States, Callable[[States], Pulled]]:
        h_prev, c_prev = states
        size, clip = c_prev.shape[-1], constants.get("cell_clip", np.inf)
        f, g, h_of = (chosen(constants, *pair) for pair in zip("fgh", ("sigmoid", *2 * ["scaled_tanh"]), strict=True))
        *gates, ag, ao = blocks(side(x, p, "ih") + side(h_prev, p, "hh"), 3 if coupled else 4)
        peep = p.get("weight_peep", np.zeros((len(gates) + 1) * size)).reshape(-1, size)
        gates = [a + peep[k] * c_prev for k, a in enumerate(gates)]
        first, last = f(gates[0]), f(gates[-1])
        i = 1 - first if coupled == "i_from_f" else first
        forget = 1 - first if coupled == "f_from_i" else last
        c_raw = forget * c_prev + i * g(ag)
        c = np.clip(c_raw, -clip, clip)
        ao = ao + peep[-1] * c
        q = f(ao) * h_of(c)
        h = q @ p["weight_hr"].T + p.get("bias_hr", 0.0) if "weight_hr" in p else q

        def pull(after: States) -> Pulled:
            dh, dc = after
            dq = dh @ p["weight_hr"] if "weight_hr" in p else dh
            dao = dq * h_of(c) * f.slope(ao)
            dc = dc + dq * f(ao) * h_of.slope(c) + dao * peep[-1]
            dc = dc * (np.abs(c_raw) <= clip)
            di, dforget = dc * g(ag), dc * c_prev
            d_gates = {
                None: [di, dforget],
                "i_from_f": [dforget - di],
                "f_from_i": [di - dforget],
            }[coupled]
            da = [d * f.slope(a) for d, a in zip(d_gates, gates, strict=True)]
            dc_prev = dc * forget + sum(d * peep[k] for k, d in enumerate(da))
            all_da = pack(*da, dc * i * g.slope(ag), dao)
            dx, dp = tail(all_da, all_da, x, p)
            dp["weight_hh"] = all_da.T @ h_prev
            if "weight_peep" in p:
                dp["weight_peep"] = pack(*(d * c_prev for d in da), dao * c).sum(0)
            if "weight_hr" in p:
                dp["weight_hr"] = dh.T @ q
            if "bias_hr" in p:
                dp["bias_hr"] = dh.sum(0)
            return dx, (all_da @ p["weight_hh"], dc_prev), dp

        return (h, c), pull

    return step


STEPS: dict[str, Step] = {"rnn_general": rnn}
for _before, _reset in ((False, ""), (True, "_reset_before")):
    for _write, _update in ((False, ""), (True, "_write")):
        STEPS[f"gru{_reset}{_update}_general"] = gru(_before, _write)
for _coupled, _name in ((None, ""), ("i_from_f", "_coupled"), ("f_from_i", "_f_from_i")):
    for _more in ("", "_peephole", "_projected", "_peephole_projected"):
        STEPS[f"lstm{_name}{_more}_general"] = lstm(_coupled)


def random_constants(cell: str, directions: int, seed: int) -> dict[str, float]:
    """Functions for a general cell, others in each direction: gates in 0..1, others bounded, so that nothing grows."""
    rng = np.random.default_rng(seed)
    constants: dict[str, float] = {}
    for letter in {"r": "f", "g": "fg", "l": "fgh"}[cell[0]]:
        gate = letter == "f" and cell[0] != "r"
        for end in ("", "_reverse")[:directions]:
            name = rng.choice(["sigmoid", "hard_sigmoid"] if gate else ["scaled_tanh", "sigmoid", "softsign"])
            constants[letter + end] = float(list(FUNCTIONS).index(name))
            constants[f"{letter}_alpha{end}"] = float(rng.uniform(0.05, 0.1) if gate else rng.uniform(0.5, 1))
            constants[f"{letter}_beta{end}"] = 0.5 if gate else float(rng.uniform(0.5, 1))
    return constants
