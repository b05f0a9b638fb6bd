"""Draws the pictures of docs/variants.md: `python docs/draw_variants.py [folder]`; needs matplotlib."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle

INPUT, STATE, GATE, CELL, PLAIN = "#fbe3cc", "#d5e5f5", "#d8eedd", "#e9e0f4", "#ffffff"
LINE, FAINT = "#333333", "#8a8a8a"
FRONTS = ("#d5e5f5", "#fbe3cc", "#d8eedd", "#e9e0f4", "#f6d9d9", "#e6e6e6", "#d9eef0")


class Picture:
    """Boxes, circles and arrows between them, in units of about a third of an inch."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(0.42 * width, 0.42 * height), dpi=150)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
        self.axes.axis("off")

    def box(self, x: float, y: float, text: str, colour: str = GATE, w: float = 1.8, h: float = 1.0) -> Any:
        """A rounded box around (x, y)."""
        style = "round,pad=0,rounding_size=0.18"
        patch = FancyBboxPatch((x - w / 2, y - h / 2), w, h, boxstyle=style, facecolor=colour, edgecolor=LINE, zorder=3)
        return self._add(patch, x, y, text)

    def dot(self, x: float, y: float, text: str, colour: str = STATE, r: float = 0.55, size: float = 9) -> Any:
        """A circle around (x, y)."""
        return self._add(Circle((x, y), r, facecolor=colour, edgecolor=LINE, zorder=3), x, y, text, size)

    def op(self, x: float, y: float, symbol: str) -> Any:
        """A small circle with an operator."""
        return self.dot(x, y, symbol, PLAIN, 0.32, 9)

    def _add(self, patch: Any, x: float, y: float, text: str, size: float = 9) -> Any:
        self.axes.add_patch(patch)
        self.axes.text(x, y, text, ha="center", va="center", fontsize=size, color=LINE, zorder=4)
        patch.at = (x, y)
        return patch

    def arrow(self, a: Any, b: Any, bend: float = 0.0, colour: str = LINE, style: str = "-") -> None:
        """From patch or point to patch or point."""
        start, end = (p if isinstance(p, tuple) else p.at for p in (a, b))
        patches = [None if isinstance(p, tuple) else p for p in (a, b)]
        self.axes.add_patch(
            FancyArrowPatch(
                start,
                end,
                patchA=patches[0],
                patchB=patches[1],
                connectionstyle=f"arc3,rad={bend}",
                arrowstyle="-|>,head_length=4,head_width=2",
                shrinkA=1,
                shrinkB=1,
                color=colour,
                linestyle=style,
                linewidth=1,
                zorder=2,
            )
        )

    def path(self, *points: Any, colour: str = LINE, style: str = "-") -> None:
        """Along straight pieces, with a head at the last, which may be a patch."""
        *before, end = points
        places = [p if isinstance(p, tuple) else p.at for p in before]
        for (x0, y0), (x1, y1) in pairwise(places):
            self.axes.plot([x0, x1], [y0, y1], color=colour, linestyle=style, linewidth=1, zorder=1)
        self.arrow(places[-1], end, 0.0, colour, style)

    def text(self, x: float, y: float, text: str, size: float = 8.5, colour: str = LINE, **more: Any) -> None:
        """Words."""
        self.axes.text(x, y, text, **{"ha": "center", "va": "center", "fontsize": size, "color": colour, **more})

    def frame(self, x: float, y: float, w: float, h: float, colour: str = "#f5f5f5") -> None:
        """A background from (x, y)."""
        self.axes.add_patch(Rectangle((x, y), w, h, facecolor=colour, edgecolor="none", zorder=0))


def multiplicative() -> Picture:
    """The recurrent vector of an LSTM is m, a product."""
    p = Picture(19, 7)
    h, x, c = p.dot(1, 4.2, "$h_{t-1}$"), p.dot(1, 1.2, "$x_t$", INPUT), p.dot(8.2, 6, "$c_{t-1}$")
    wh, wx = p.box(3.6, 4.2, "$W_{mh}$"), p.box(3.6, 2.4, "$W_{mx}$")
    times, m = p.op(6, 3.3, "$\\odot$"), p.dot(8.2, 3.3, "$m_t$", PLAIN)
    p.box(12.4, 4, "LSTM\ngates  i  f  g  o", CELL, 4.2, 2.6)
    after, out = p.dot(17.6, 4.9, "$c_t$"), p.dot(17.6, 3.1, "$h_t$")
    p.arrow(h, wh)
    p.arrow(x, wx)
    p.arrow(wh, times)
    p.arrow(wx, times)
    p.arrow(times, m)
    p.arrow(m, (10.3, 3.3))
    p.path(x, (12.4, 1.2), (12.4, 2.7))
    p.path(c, (12.4, 6), (12.4, 5.3))
    p.arrow((14.5, 4.9), after)
    p.arrow((14.5, 3.1), out)
    p.text(12.4, 0.6, "$x_t$ as in every LSTM; m in place of $h_{t-1}$", colour=FAINT)
    return p


def layer_norm() -> Picture:
    """Sums are normalised before the gates, the cell before its tanh."""
    p = Picture(20, 7)
    x, h, c = p.dot(1, 1.5, "$x_t$", INPUT), p.dot(1, 3.7, "$h_{t-1}$"), p.dot(1, 6, "$c_{t-1}$")
    wx, wh = p.box(3.4, 1.5, "$W_{ih}$"), p.box(3.4, 3.7, "$W_{hh}$")
    nx, nh = p.box(6.2, 1.5, "norm"), p.box(6.2, 3.7, "norm")
    plus, gates = p.op(8.4, 2.6, "+"), p.box(10.8, 2.6, "i  f  g  o", CELL, 2.6, 1.2)
    cell, after = p.box(13.2, 6, "$f \\odot c + i \\odot g$", GATE, 3.6), p.dot(18.6, 6, "$c_t$")
    nc, out = p.box(16.2, 4.3, "norm"), p.dot(18.6, 2.6, "$h_t$")
    tanh = p.op(16.2, 2.6, "$\\odot$")
    for a, b in ((x, wx), (h, wh), (wx, nx), (wh, nh), (nx, plus), (nh, plus), (plus, gates), (c, cell), (cell, after)):
        p.arrow(a, b)
    p.arrow(gates, (12.6, 5.5))
    p.arrow((14.6, 5.5), nc)
    p.arrow(nc, tanh)
    p.text(16.55, 3.4, "tanh", ha="left")
    p.arrow(gates, tanh)
    p.text(13.9, 2.95, "o")
    p.arrow(tanh, out)
    return p


def differential() -> Picture:
    """Differences of the cell steer the gates."""
    p = Picture(20, 10)
    p.text(2.2, 9.4, "before the step")
    p.text(11.6, 9.4, "after it: each is new minus old of the one below")
    old = [p.dot(2.2, 2.2 + 2.6 * n, f"$d_{n}$", r=0.65) for n in range(3)]
    gates = p.box(6, 0.9, "i , f", CELL, 2.2)
    cell = p.box(8.4, 2.2, "$f \\odot d_0 + i \\odot g$", GATE, 4)
    new = [p.dot(13, 2.2 + 2.6 * n, f"$d_{n}'$", r=0.65) for n in range(3)]
    minus = [p.op(9.6, 2.2 + 2.6 * n, "$-$") for n in (1, 2)]
    o, out = p.box(16.6, 4.8, "o", CELL, 1.6), p.dot(18.6, 2.2, "$h'$")
    last = p.op(16.6, 2.2, "$\\odot$")
    x = p.dot(2.2, 0.5, "", PLAIN, 0.01)
    p.arrow(old[0], cell)
    p.arrow(cell, new[0])
    for n in (0, 1):
        p.arrow(old[n], minus[n], 0.0, FAINT)
        p.arrow(new[n], minus[n])
        p.arrow(minus[n], new[n + 1])
    for d in old:
        p.arrow(d, gates, 0.12 if d is old[0] else -0.16, "#2a8c5a", "--")
    p.arrow(gates, cell)
    for d in new:
        p.arrow(d, o, 0.0, "#2a8c5a", "--")
    p.arrow(o, last)
    p.arrow(new[0], last)
    p.text(14.9, 1.8, "tanh")
    p.arrow(last, out)
    x.set_visible(False)
    p.text(13.2, 0.7, "dashed: what the gates see beside $x_t$ and $h_{t-1}$", colour=FAINT)
    return p


def slstm() -> Picture:
    """Two sums with the same gates, whose quotient is h; and weights that keep heads apart."""
    p = Picture(26, 9.6)
    p.text(7.6, 9.1, "two sums with the same gates, and their quotient")
    gates, x, h = p.box(6, 1.9, "i  f  z  o", CELL, 3.4), p.dot(1, 1.1, "$x_t$", INPUT), p.dot(1, 2.9, "$h_{t-1}$")
    cell, norm = (
        p.box(6, 7, "$f \\odot c_{t-1} + i \\odot z$", GATE, 4.4),
        p.box(6, 4.5, "$f \\odot n_{t-1} + i$", GATE, 4.4),
    )
    c, n = p.dot(10, 7, "$c_t$"), p.dot(10, 4.5, "$n_t$")
    divide, last, out = p.op(12.2, 5.75, "$\\div$"), p.op(14.2, 5.75, "$\\odot$"), p.dot(16.2, 5.75, "$h_t$")
    p.arrow(x, gates)
    p.arrow(h, gates)
    p.arrow(p.dot(1, 7, "$c_{t-1}$"), cell)
    p.arrow(p.dot(1, 4.5, "$n_{t-1}$"), norm)
    p.path((4.9, 2.4), (4.9, 3.3), (2.6, 3.3), (2.6, 5.75), (6, 5.75), cell, colour=FAINT)
    p.arrow((6.4, 2.4), (6.4, 4.0), 0.0, FAINT)
    p.arrow(cell, c)
    p.arrow(norm, n)
    p.arrow(c, divide)
    p.arrow(n, divide)
    p.arrow(divide, last)
    p.path((7.7, 1.9), (14.2, 1.9), last, colour=FAINT)
    p.text(3.1, 5.3, "i, f, z", 8, FAINT)
    p.text(7.0, 3.3, "i, f", 8, FAINT)
    p.text(14.6, 3.6, "o", 8, FAINT)
    p.arrow(last, out)
    p.text(7.6, 0.4, "c and n are kept times exp(-m), which cancels in $h_t$", colour=FAINT)

    p.text(21.9, 9.1, "a gate's recurrent weights, 3 heads")
    p.axes.add_patch(Rectangle((18.9, 2.3), 6, 6, fill=False, edgecolor=FAINT, linewidth=0.9))
    for k in range(3):
        p.axes.add_patch(Rectangle((18.9 + 2 * k, 6.3 - 2 * k), 2, 2, facecolor=GATE, edgecolor=LINE, linewidth=0.9))
        p.text(19.9 + 2 * k, 7.3 - 2 * k, f"$U_{k + 1}$")
        p.box(19.9 + 2 * k, 1.5, f"$h_{{{k + 1}}}$", STATE, 1.7, 0.9)
    p.text(21.9, 0.4, "elsewhere no weights", colour=FAINT)
    return p


def elementwise() -> Picture:
    """Products of all steps at once, then a recurrence of vectors."""
    p = Picture(19, 7)
    p.frame(1.2, 2.3, 16.6, 1.6)
    before: Any = p.dot(1, 5.4, "$h_0$")
    for step in range(1, 5):
        x = 4.2 * step - 1
        gates = p.box(x, 3.1, "$z,\\ n$", w=2.4)
        p.arrow(p.dot(x, 1, f"$x_{step}$", INPUT), gates)
        mix = p.box(x, 5.4, f"$h_{step}$", STATE, 1.3)
        p.arrow(gates, mix)
        p.arrow(before, mix)
        before = mix
    p.text(9.5, 6.5, "each unit for itself, step after step: no product waits", colour=FAINT)
    p.text(5.3, 1.95, "one product for many steps", 8, FAINT)
    return p


def trees() -> Picture:
    """A tree by heights, and the two ways of reading children."""
    p = Picture(25, 9.4)
    for k, (y, colour) in enumerate(zip((1.0, 3.2, 5.4, 7.6), FRONTS, strict=False)):
        p.frame(0.2, y - 0.85, 7.6, 1.7, colour)
        p.text(7.4, y + 0.55, f"{k}", 7.5, FAINT)
    places = {"a": (1, 1), "b": (2.6, 1), "c": (4.2, 1), "d": (5.6, 1), "e": (1.8, 3.2), "f": (5, 3.2), "g": (3.4, 5.4)}
    places |= {"h": (6.95, 1), "r": (4.4, 7.6)}
    nodes = {name: p.dot(*place, "", PLAIN, 0.42) for name, place in places.items()}
    for child, parent in ("ae", "be", "cf", "df", "eg", "fg", "gr", "hr"):
        p.arrow(nodes[child], nodes[parent])
    p.text(3.9, 9.0, "all nodes of one height are one batch")

    p.text(12.4, 9.0, "Child-Sum: any number, no order")
    kids = [p.dot(9.4 + 2.2 * k, 1, f"$h_{k + 1}, c_{k + 1}$", r=0.75, size=8) for k in range(3)]
    forgets = [p.box(9.4 + 2.2 * k, 3.2, f"$f_{k + 1}$", CELL, 1.1) for k in range(3)]
    total, others = p.box(16.4, 3.2, "$\\Sigma\\, h_k$", GATE, 1.6), p.box(16.4, 5.2, "i  g  o", CELL, 1.8)
    node = p.dot(11.6, 7.2, "$h, c$", r=0.75)
    for kid, forget in zip(kids, forgets, strict=True):
        p.arrow(kid, forget)
        p.arrow(kid, total, -0.05, FAINT)
        p.arrow(forget, node)
    p.arrow(total, others)
    p.arrow(others, node)
    p.text(9.2, 5.4, "$f_k \\odot c_k$")

    p.text(21.2, 9.0, "N-ary: each place its own weights")
    left, right = p.dot(19, 1, "$h_L, c_L$", r=0.8, size=8), p.dot(23.4, 1, "$h_R, c_R$", r=0.8, size=8)
    gates = p.box(21.2, 4.2, "i  $f_L$  $f_R$  g  o", CELL, 4, 1.2)
    node = p.dot(21.2, 7.2, "$h, c$", r=0.75)
    p.arrow(left, (20.3, 3.6))
    p.arrow(right, (22.1, 3.6))
    p.text(19.1, 2.6, "$U_L$")
    p.text(23.4, 2.6, "$U_R$")
    p.arrow(gates, node)
    return p


def s_lstm() -> Picture:
    """Both states of both children reach the gates."""
    p = Picture(19, 8.4)
    hl, hr = p.dot(2, 1, "$h_L$"), p.dot(4.4, 1, "$h_R$")
    cl, cr = p.dot(9.4, 1, "$c_L$"), p.dot(12.6, 1, "$c_R$")
    g, i = p.box(2.4, 4, "g", CELL, 1.3), p.box(5.8, 4, "i", CELL, 1.3)
    fl, fr = p.box(9.4, 4, "$f_L$", CELL, 1.3), p.box(12.6, 4, "$f_R$", CELL, 1.3)
    c, o = p.dot(9.4, 7.2, "$c$"), p.box(14.8, 6, "o", CELL, 1.3)
    h = p.dot(17.6, 7.2, "$h$")
    for gate in (i, fl, fr):
        for child in (hl, hr):
            p.arrow(child, gate, 0.0, FAINT)
        for child in (cl, cr):
            p.arrow(child, gate, 0.0, "#2a8c5a", "--")
    p.arrow(hl, g, 0.0, FAINT)
    p.arrow(hr, g, 0.0, FAINT)
    for gate in (g, i, fl, fr):
        p.arrow(gate, c)
    p.arrow(c, o, 0.0, "#2a8c5a", "--")
    p.arrow(c, h)
    p.arrow(o, h)
    p.text(15.9, 4.2, "o sees both h as well\nand the new c", colour=FAINT)
    p.text(15.9, 1.4, "dashed: full matrices\nfrom the cells", colour=FAINT)
    return p


def multidimensional() -> Picture:
    """Anti-diagonals, and one point."""
    p = Picture(23, 9.6)
    p.text(4.6, 9.1, "points of one colour are one batch")
    nodes = {(r, k): p.dot(1.2 + 2.2 * k, 7.6 - 2.1 * r, "", FRONTS[r + k], 0.6) for r in range(4) for k in range(4)}
    for (r, k), node in nodes.items():
        for other in ((r + 1, k), (r, k + 1)):
            if other in nodes:
                p.arrow(node, nodes[other])
    up, left, x = p.dot(15, 8.3, "$h_1, c_1$", r=0.8, size=8), p.dot(11, 4.6, "$h_2, c_2$", r=0.8, size=8), None
    x = p.dot(12, 1.4, "$x_p$", INPUT)
    gates = p.box(15, 4.6, "i  $f_1$  $f_2$  g  o", CELL, 3.8, 1.4)
    node = p.dot(20.6, 4.6, "$h, c$", r=0.8)
    p.arrow(up, gates)
    p.arrow(left, gates)
    p.arrow(x, gates)
    p.arrow(gates, node)
    p.text(18.4, 2.0, "$c = i \\odot g + f_1 \\odot c_1 + f_2 \\odot c_2$")
    p.text(16.3, 8.3, "the point above", ha="left", colour=FAINT)
    p.text(11, 6.1, "the point at the left", colour=FAINT)
    return p


def grid() -> Picture:
    """A grid of blocks over time and depth, and one block."""
    p = Picture(24, 10)
    blocks = {(d, t): p.box(2.8 + 2.8 * t, 2.8 + 2.2 * d, "", CELL, 1.3, 1.1) for d in range(3) for t in range(3)}
    for (d, t), block in blocks.items():
        for other in ((d + 1, t), (d, t + 1)):
            if other in blocks:
                p.arrow(block, blocks[other])
    for t in range(3):
        p.arrow(p.dot(2.8 + 2.8 * t, 0.7, f"$x_{t + 1}$", INPUT), blocks[0, t])
        p.arrow(blocks[2, t], (2.8 + 2.8 * t, 8.9))
    p.text(1.0, 5, "depth", rotation=90)
    p.text(5.6, 9.4, "time goes to the right", colour=FAINT)

    p.frame(13.6, 1.9, 6.8, 6, "#f5f5f5")
    ht, hd = p.dot(11.8, 6, "$h_1, m_1$", r=0.8, size=8), p.dot(18.3, 0.9, "$h_2, m_2$", r=0.8, size=8)
    both = p.box(15.1, 3.4, "$[h_1 ; h_2]$", GATE, 2.2)
    first, second = p.box(15.1, 6, "$LSTM_1$", CELL, 2.2), p.box(18.3, 3.4, "$LSTM_2$", CELL, 2.2)
    out, up = p.dot(22.4, 6, "$h_1', m_1'$", r=0.9, size=8), p.dot(18.3, 8.7, "$h_2', m_2'$", r=0.85, size=8)
    p.arrow(ht, both)
    p.arrow(hd, both)
    p.arrow(both, first)
    p.arrow(both, second)
    p.arrow(ht, first)
    p.text(13.2, 6.4, "$m_1$")
    p.arrow(hd, second)
    p.text(18.8, 2.3, "$m_2$")
    p.arrow(first, out)
    p.arrow(second, up)
    return p


def local_global() -> Picture:
    """One position: its neighbours, nine pooled regions, its own depth vector."""
    p = Picture(25, 9.4)
    for r in range(6):
        for k in range(6):
            near = abs(r - 3) < 2 and abs(k - 2) < 2
            colour = "#e07b1a" if (r, k) == (3, 2) else INPUT if near else PLAIN
            p.axes.add_patch(Rectangle((0.6 + k, 7.2 - r), 1, 1, facecolor=colour, edgecolor=FAINT, linewidth=0.6))
    for k in range(1, 3):
        p.axes.plot([0.6 + 2 * k] * 2, [2.2, 8.2], color="#1f6fb4", linewidth=1.6)
        p.axes.plot([0.6, 6.6], [2.2 + 2 * k] * 2, color="#1f6fb4", linewidth=1.6)
    p.text(3.6, 8.9, "hidden map of layer l")
    p.text(3.6, 1.2, "orange: the position and its 8 neighbours\nblue: 3 x 3 regions, the maximum of each", 8, FAINT)
    local = p.box(10.2, 7.2, "8 neighbours' h", INPUT, 3.6)
    world = p.box(10.2, 5.2, "9 regional maxima", STATE, 3.6)
    own = p.box(10.2, 3.2, "own depth h", INPUT, 3.6)
    joined = p.box(14.4, 5.2, "[ .. ]", GATE, 1.4, 3.4)
    for part in (local, world, own):
        p.arrow((6.7, 5.2), part)
        p.arrow(part, joined)
    spatial, depth = p.box(18, 6.6, "8 spatial LSTMs", CELL, 3.4), p.box(18, 3.8, "depth LSTM", CELL, 3.4)
    p.arrow(joined, spatial)
    p.arrow(joined, depth)
    p.arrow(spatial, p.box(22.8, 6.6, "8 h, 8 m", STATE, 2.4))
    p.arrow(depth, p.box(22.8, 3.8, "h, m", STATE, 2.4))
    p.text(22.8, 2.4, "to layer l + 1,\nsame position", 8, FAINT)
    return p


def matching() -> Picture:
    """Attention over the premise at every word of the hypothesis."""
    p = Picture(23, 10)
    premise = [p.dot(2 + 2.3 * k, 8.6, text) for k, text in enumerate(("$s_1$", "$s_2$", "$s_3$", "$s_M$", "NULL"))]
    premise[-1].set_facecolor(PLAIN)
    p.text(16.2, 8.6, "premise, read by an LSTM", ha="left")
    attention = p.box(6.6, 6.1, "attention", GATE, 3)
    for s in premise:
        p.arrow(s, attention, 0.0, FAINT)
    p.text(9.4, 7.1, "$a_k = \\Sigma\\, \\alpha_{kj} s_j$", ha="left")
    cells = [
        p.box(x, 3.6, text, CELL, 2.8, 1.2)
        for x, text in ((3, "match-LSTM"), (10.2, "match-LSTM"), (17.4, "match-LSTM"))
    ]
    hypothesis = [p.dot(x, 1, text, INPUT) for x, text in ((3, "$q_{k-1}$"), (10.2, "$q_k$"), (17.4, "$q_{k+1}$"))]
    for q, cell in zip(hypothesis, cells, strict=True):
        p.arrow(q, cell)
    for a, b in pairwise(cells):
        p.arrow(a, b)
    p.arrow(attention, cells[1])
    p.text(8.9, 4.9, "$a_k$", ha="left")
    p.arrow(cells[0], attention, 0.0, "#2a8c5a", "--")
    p.path(hypothesis[1], (12.8, 1), (12.8, 6.1), attention, colour="#2a8c5a", style="--")
    p.arrow(cells[2], (21.6, 3.6))
    p.text(14, 3.95, "$h_k$")
    p.text(18.4, 1, "hypothesis,\nread by an LSTM", ha="left")
    p.text(13.2, 6.0, "dashed: what decides where it looks", ha="left", colour=FAINT)
    return p


def frequency_time() -> Picture:
    """Chunks of bands under the F-LSTM, its outputs under the T-LSTM."""
    p = Picture(24, 10.4)
    for k in range(10):
        shade = ("#fdf1e4", "#fbe3cc", "#f3bd8a", "#fbe3cc", "#e99a4d")[k * 3 % 5]
        p.axes.add_patch(Rectangle((1, 1 + 0.8 * k), 1.2, 0.8, facecolor=shade, edgecolor=FAINT, linewidth=0.6))
    p.text(1.6, 9.6, "bands of\nframe t")
    cells, outs = [], []
    for k in range(4):
        low = 1 + 1.6 * k
        x = 2.75 + 0.3 * (k % 2)
        p.axes.plot(
            [x - 0.2, x, x, x - 0.2], [low + 0.1, low + 0.1, low + 3.1, low + 3.1], color="#1f6fb4", linewidth=1.4
        )
        cells.append(p.box(6, low + 1.6, "F-LSTM", CELL, 2.2))
        p.arrow((x + 0.1, low + 1.6), cells[-1])
        outs.append(p.dot(9, low + 1.6, f"$h_{{t,{k}}}$", r=0.6, size=8))
        p.arrow(cells[-1], outs[-1])
    for a, b in pairwise(cells):
        p.arrow(a, b)
    p.text(6, 0.9, "starts from zeros in every frame", 8, FAINT)
    joined = p.box(11.6, 5, "$u_t$", GATE, 1.0, 6)
    for out in outs:
        p.arrow(out, (11.1, out.at[1]))
    times = [p.box(x, 5, "T-LSTM", CELL, 2.2) for x in (14.8, 18.4, 22)]
    p.arrow(joined, times[0])
    for cell, name in zip(times, ("t", "t+1", "t+2"), strict=True):
        p.arrow(cell, p.dot(cell.at[0], 8, f"$h_{{{name}}}$", r=0.7, size=8))
        if name != "t":
            p.arrow(p.dot(cell.at[0], 2, f"$u_{{{name}}}$", GATE, 0.7, 8), cell)
    for a, b in pairwise(times):
        p.arrow(a, b)
    return p


def captions() -> Picture:
    """An image's vector is the initial state; every word is read to write the next."""
    p = Picture(24, 7.6)
    image, linear = p.box(1.6, 4, "image", INPUT, 2, 1.6), p.box(4.6, 4, "Linear", GATE, 1.9)
    p.arrow(image, linear)
    read, written = ("START", "a", "red", "ring"), ("a", "red", "ring", "END")
    before = linear
    for k, (word, following) in enumerate(zip(read, written, strict=True)):
        x = 8.6 + 4.2 * k
        cell = p.box(x, 4, "LSTM", CELL, 2.2)
        below, above = p.box(x, 1, word, INPUT, 1.9, 0.9), p.box(x, 6.8, following, STATE, 1.9, 0.9)
        p.arrow(before, cell)
        p.arrow(below, cell)
        p.arrow(cell, above)
        if k:
            p.arrow((x - 3.2, 6.6), (x - 0.95, 1.2), 0.0, FAINT, "--")
        before = cell
    p.text(6.5, 4.4, "$h_0, c_0$", 8)
    p.text(3, 1.2, "dashed: what was written\nis read next", 8, FAINT)
    return p


PICTURES: dict[str, Callable[[], Picture]] = {
    "multiplicative": multiplicative,
    "layer_norm": layer_norm,
    "differential": differential,
    "slstm": slstm,
    "elementwise": elementwise,
    "trees": trees,
    "s_lstm": s_lstm,
    "multidimensional": multidimensional,
    "grid": grid,
    "local_global": local_global,
    "matching": matching,
    "frequency_time": frequency_time,
    "captions": captions,
}


def draw(pictures: dict[str, Callable[[], Picture]]) -> None:
    """Write them, as SVG, into the folder that the command line names."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"
    matplotlib.rcParams.update({"svg.hashsalt": "recurra", "mathtext.fontset": "dejavusans"})
    for name, picture in pictures.items():
        picture().figure.savefig(folder / f"{name}.svg", facecolor="white", metadata={"Date": None})


def main() -> None:
    draw(PICTURES)


if __name__ == "__main__":
    main()
