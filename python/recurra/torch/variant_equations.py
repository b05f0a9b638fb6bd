"""The cells of `variants` in PyTorch's own operations: the part of `equations` that is about them.

A step takes the input side of a step (what `inputs` makes of x), h as recurrent products see it, states and parameters.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Tensor = Any  # torch.Tensor, whose types are not there to check where torch is not
    Params = Mapping[str, Tensor]
    Step = Callable[[Tensor, Tensor, list[Tensor], Params], list[Tensor]]

__all__ = ["inputs", "step"]

_linear = torch.nn.functional.linear


def inputs(cell: str, x: Tensor, p: Params) -> Tensor:
    """What the products of the input are at all steps, with their biases where steps do not add them."""
    if cell.startswith("multiplicative"):
        return _linear(x, torch.cat([p["weight_ih"], p["weight_mx"]]))
    if cell.endswith("layer_norm"):
        return _normed(_linear(x, p["weight_ih"]), p["gamma_x"], p.get("bias_ih"))
    return _linear(x, p["weight_ih"], None if cell.startswith("sru") else p.get("bias_ih"))


def step(cell: str, clip: float) -> Step | None:
    """The step of this cell, whose c is clipped where cells have that; None for others."""
    kind, _, rest = cell.rpartition("_")
    if cell.startswith("multiplicative_lstm"):
        return _multiplicative("paper" in cell, rest == "output")
    if cell.startswith("slstm"):
        return _slstm(_same if rest == "exp" else torch.nn.functional.logsigmoid)
    if cell.endswith("layer_norm"):
        return _gru_layer_norm if kind.startswith("gru") else _lstm_layer_norm(clip)
    if kind == "differential":
        return _differential(*map(int, rest))
    if kind == "indrnn":
        return _indrnn({"relu": torch.relu, "tanh": torch.tanh}[rest])
    if cell.startswith("min_"):
        candidate = _positive if rest == "positive" else _same
        return _min_gru(candidate) if cell.startswith("min_gru") else _min_lstm(candidate)
    return _sru(torch.tanh if rest == "tanh" else _same) if cell.startswith("sru") else None


def _normed(a: Tensor, gamma: Tensor, beta: Tensor | None) -> Tensor:
    return torch.nn.functional.layer_norm(a, a.shape[-1:], gamma, beta, 1e-5)


def _lstm_layer_norm(clip: float) -> Step:
    def step(x: Tensor, source: Tensor, state: list[Tensor], p: Params) -> list[Tensor]:
        ai, af, ag, ao = (x + _normed(_linear(source, p["weight_hh"]), p["gamma_h"], None)).chunk(4, -1)
        c = torch.sigmoid(af) * state[1] + torch.sigmoid(ai) * torch.tanh(ag)
        if clip < math.inf:
            c = c.clamp(-clip, clip)
        return [torch.sigmoid(ao) * torch.tanh(_normed(c, p["gamma_c"], p["beta_c"])), c]

    return step


def _gru_layer_norm(x: Tensor, source: Tensor, state: list[Tensor], p: Params) -> list[Tensor]:
    xr, xz, xn = x.chunk(3, -1)
    hr, hz, hn = _normed(_linear(source, p["weight_hh"]), p["gamma_h"], p.get("bias_hh")).chunk(3, -1)
    z = torch.sigmoid(xz + hz)
    return [z * state[0] + (1 - z) * torch.tanh(xn + torch.sigmoid(xr + hr) * hn)]


def _same(a: Tensor) -> Tensor:
    return a


def _positive(a: Tensor) -> Tensor:
    return torch.where(a > 0, a + 0.5, torch.sigmoid(a))


def _multiplicative(paper: bool, at_output: bool) -> Step:
    def step(x: Tensor, source: Tensor, state: list[Tensor], p: Params) -> list[Tensor]:
        c, bias = state[1], p.get("bias_ih")
        size = c.shape[-1]
        m = x[..., 4 * size :] * _linear(source, p["weight_mh"])
        ai, af, ag, ao = (x[..., : 4 * size] + _linear(m, p["weight_hh"])).chunk(4, -1)
        last = 0.0
        if bias is not None:
            bi, bf, bg, bo = bias.chunk(4)
            ai, af, ao = ai + bi, af + bf, ao + bo
            ag, last = (ag, bg) if at_output else (ag + bg, 0.0)
        o = torch.sigmoid(ao)
        c = torch.sigmoid(af) * c + torch.sigmoid(ai) * (ag if paper else torch.tanh(ag))
        return [torch.tanh(c * o + last) if paper else o * torch.tanh(c), c]

    return step


def _differential(*orders: int) -> Step:
    def step(x: Tensor, source: Tensor, state: list[Tensor], p: Params) -> list[Tensor]:
        _, *d = state
        q = p["weight_dos"].reshape(len(orders), 3, -1)

        def seen(a: Tensor, gate: int, d: list[Tensor]) -> Tensor:
            return torch.sigmoid(a + sum(q[k, gate] * d[n] for k, n in enumerate(orders)))

        ai, af, ag, ao = (x + _linear(source, p["weight_hh"], p.get("bias_hh"))).chunk(4, -1)
        new = [seen(af, 1, d) * d[0] + seen(ai, 0, d) * torch.tanh(ag)]
        for old in d[:-1]:
            new.append(new[-1] - old)
        return [seen(ao, 2, new) * torch.tanh(new[0]), *new]

    return step


def _slstm(log_of_forget: Callable[[Tensor], Tensor]) -> Step:
    def step(x: Tensor, source: Tensor, state: list[Tensor], p: Params) -> list[Tensor]:
        _, c, n, m = state
        weight = p["weight_hh"].reshape(4, -1, *[p["weight_hh"].shape[1]] * 2)  # gate, head, to, from
        heads = source.reshape(*source.shape[:-1], *weight.shape[1:3])
        a = x + torch.einsum("...hi,ghoi->...gho", heads, weight).flatten(-3)
        if (bias := p.get("bias_hh")) is not None:
            a = a + bias
        ai, af, az, ao = a.chunk(4, -1)
        before = log_of_forget(af) + m
        m = torch.where(n == 0, ai, torch.maximum(ai, before))
        i, f = torch.exp(ai - m), torch.exp(before - m)
        c, n = f * c + i * torch.tanh(az), f * n + i
        return [torch.sigmoid(ao) * (c / n), c, n, m]

    return step


def _indrnn(f: Callable[[Tensor], Tensor]) -> Step:
    return lambda x, source, state, p: [f(x + p["weight_u"] * state[0])]


def _min_gru(candidate: Callable[[Tensor], Tensor]) -> Step:
    def step(x: Tensor, source: Tensor, state: list[Tensor], p: Params) -> list[Tensor]:
        az, an = x.chunk(2, -1)
        z = torch.sigmoid(az)
        return [(1 - z) * state[0] + z * candidate(an)]

    return step


def _min_lstm(candidate: Callable[[Tensor], Tensor]) -> Step:
    log = torch.nn.functional.logsigmoid

    def step(x: Tensor, source: Tensor, state: list[Tensor], p: Params) -> list[Tensor]:
        af, ai, an = x.chunk(3, -1)
        share = torch.sigmoid(log(af) - log(ai))  # f / (f + i), also where both are too small for a number
        return [share * state[0] + (1 - share) * candidate(an)]

    return step


def _sru(g: Callable[[Tensor], Tensor]) -> Step:
    def step(x: Tensor, source: Tensor, state: list[Tensor], p: Params) -> list[Tensor]:
        c = state[1]
        u, f, r, s = x.chunk(4, -1)
        if (bias := p.get("bias_ih")) is not None:
            bf, br = bias.chunk(2)
            f, r = f + bf, r + br
        vf, vr = p["weight_v"].chunk(2)
        f, r = torch.sigmoid(f + vf * c), torch.sigmoid(r + vr * c)
        c = f * c + (1 - f) * u
        return [r * g(c) + (1 - r) * s, c]

    return step
