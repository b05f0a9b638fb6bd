"""The equations of the cells, for comments in exported code; s is the sigmoid, or what was chosen in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..recurrent import Recurrent

__all__ = ["equations_of"]

_NORM = "N(y) = (y - mean(y)) / sqrt(mean((y - mean(y))^2) + 1e-5), over all gates of all units"


def equations_of(layer: Recurrent) -> tuple[str, ...]:
    """Lines, of the layer's cell."""
    cell = layer._packed._cell.name
    family = cell.partition("_")[0]
    if "layer_norm" in cell:
        return (*_NORMALISED[family], _NORM)
    if family == "lstm":
        return _lstm(cell)
    if family == "gru":
        return _gru(cell)
    if family == "min":
        return _EQUATIONS["_".join(cell.split("_")[:2])]
    return _EQUATIONS[family]


def _lstm(cell: str) -> tuple[str, ...]:
    peep = "peephole" in cell
    gate = {name: f"{name} = s(W_{name} x + U_{name} h + b_{name}{f' + p_{name} c' if peep else ''})" for name in "ifo"}
    if "coupled" in cell:
        gate["i"] = "i = 1 - f"
    if "f_from_i" in cell:
        gate["f"] = "f = 1 - i"
    result = "h = W_hr (o tanh(c)) + b_hr" if "projected" in cell else "h = o tanh(c)"
    order = [gate["f"], gate["i"]] if "coupled" in cell else [gate["i"], gate["f"]]
    first = "    ".join(order)
    return first, f"g = tanh(W_g x + U_g h + b_g)    c = f c + i g    {gate['o']}    {result}"


def _gru(cell: str) -> tuple[str, ...]:
    inner = "U_n (r h) + b_hn" if "before" in cell else "r (U_n h + b_hn)"
    update = "(1 - z) h + z n" if "write" in cell else "z h + (1 - z) n"
    gates = "r = s(W_r x + U_r h + b_r)    z = s(W_z x + U_z h + b_z)"
    return gates, f"n = tanh(W_n x + b_in + {inner})    h = {update}"


_EQUATIONS = {
    "rnn": ("h = f(W x + U h + b)",),
    "multiplicative": (
        "m = (W_mx x) * (W_mh h)",
        "i, f, o = s(W x + U m + b)    g = tanh(W_g x + U_g m + b_g), or without tanh",
        "c = f c + i g    h = o tanh(c), or tanh(o c), or tanh(o c + b_g)",
    ),
    "differential": (
        "i, f = s(W x + U h + b + sum_n q_n d_n)    g = tanh(W_g x + U_g h + b_g)",
        "d_0 = f d_0 + i g    d_n = d_(n-1) - d_(n-1)(t-1)    o = s(W_o x + U_o h + b_o + sum_n q_on d_n)",
        "h = o tanh(d_0)",
    ),
    "indrnn": ("h = f(W x + b + u h)",),
    "min_gru": ("z = s(W_z x + b_z)    n = G(W_n x + b_n)    h = (1 - z) h + z n",),
    "min_lstm": (
        "f = s(W_f x + b_f)    i = s(W_i x + b_i)    n = G(W_n x + b_n)",
        "p = f / (f + i)    h = p h + (1 - p) n",
    ),
    "sru": (
        "f = s(W_f x + v_f c + b_f)    r = s(W_r x + v_r c + b_r)",
        "c = f c + (1 - f) W_u x    h = r g(c) + (1 - r) W_s x",
    ),
    "slstm": (
        "i = exp(W_i x + U_i h + b_i)    f = s(W_f x + U_f h + b_f), or exp of it",
        "z = tanh(W_z x + U_z h + b_z)    o = s(W_o x + U_o h + b_o)",
        "C = f C + i z    N = f N + i    h = o C / N, where c = C exp(-m) and n = N exp(-m) are kept",
    ),
}

_NORMALISED = {
    "lstm": (
        "A = gx N(W x), R = gh N(U h)    i, f, o = s(A + R + b)    g = tanh(A_g + R_g + b_g)",
        "c = f c + i g    h = o tanh(gc N(c) + bc)",
    ),
    "gru": (
        "A = gx N(W x), R = gh N(U h)    r, z = s(A + b_i + R + b_h)",
        "n = tanh(A_n + b_in + r (R_n + b_hn))    h = z h + (1 - z) n",
    ),
}
