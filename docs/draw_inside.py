"""Draws the pictures of docs/inside.md and docs/concepts/cells.md: `python docs/draw_inside.py [folder]`, with
matplotlib."""

from __future__ import annotations

from typing import Any

from draw_variants import CELL, FAINT, GATE, INPUT, PLAIN, STATE, Picture, draw


def cell_rnn() -> Picture:
    """A matrix for the input, one for the state."""
    p = Picture(13, 4.6)
    h, x = p.dot(1, 3.4, "$h_{t-1}$"), p.dot(1, 1, "$x_t$", INPUT)
    wh, wx = p.box(3.8, 3.4, "$W_{hh}$"), p.box(3.8, 1, "$W_{ih}$")
    plus, f, out = p.op(6.4, 2.2, "+"), p.box(8.8, 2.2, "tanh", CELL), p.dot(11.8, 2.2, "$h_t$")
    for a, b in ((h, wh), (x, wx), (wh, plus), (wx, plus), (plus, f), (f, out)):
        p.arrow(a, b)
    return p


def cell_lstm() -> Picture:
    """What the forget gate keeps, and the input gate lets in, is the new cell."""
    p = Picture(19, 7.6)
    c, h, x = p.dot(1, 6.4, "$c_{t-1}$"), p.dot(1, 2.6, "$h_{t-1}$"), p.dot(1, 0.9, "$x_t$", INPUT)
    product = p.box(4.4, 1.75, "$W_{ih}x + W_{hh}h + b$", GATE, 4.0, 1.4)
    gates = {name: p.dot(at, 3.7, f"${name}$", CELL) for name, at in (("f", 6), ("i", 8.6), ("g", 10.6), ("o", 14.8))}
    p.arrow(h, product)
    p.arrow(x, product)
    for gate in gates.values():
        p.path((6.4, 1.75), (gate.at[0], 1.75), gate)
    forget, let_in, plus = p.op(6, 6.4, "$\\odot$"), p.op(9.6, 5.0, "$\\odot$"), p.op(9.6, 6.4, "+")
    after, tanh, opened, out = (
        p.dot(17.9, 6.4, "$c_t$"),
        p.box(12.6, 5.2, "tanh"),
        p.op(14.8, 5.2, "$\\odot$"),
        p.dot(17.9, 4.2, "$h_t$"),
    )
    p.arrow(c, forget)
    p.arrow(gates["f"], forget)
    p.arrow(gates["i"], let_in)
    p.arrow(gates["g"], let_in)
    p.arrow(forget, plus)
    p.arrow(let_in, plus)
    p.arrow(plus, after)
    p.path((12.6, 6.4), tanh)
    p.arrow(tanh, opened)
    p.arrow(gates["o"], opened)
    p.arrow(opened, out)
    p.text(10.2, 0.8, "f, i, o: sigmoid    g: tanh", colour=FAINT)
    return p


def cell_gru() -> Picture:
    """The reset gate decides what of the old state the candidate sees, the update gate how much of it stays."""
    p = Picture(19, 6.8)
    h, x = p.dot(1, 5.6, "$h_{t-1}$"), p.dot(1, 1.2, "$x_t$", INPUT)
    wh, wx = p.box(4.2, 3.8, "$W_{hh}h$", GATE, 2.2), p.box(4.2, 1.2, "$W_{ih}x$", GATE, 2.2)
    r, n, z = p.dot(7.8, 1.2, "$r$", CELL), p.dot(11.6, 2.5, "$n$", CELL), p.dot(14.2, 3.9, "$z$", CELL)
    reset, mix, out = (
        p.op(7.8, 2.9, "$\\odot$"),
        p.box(14.2, 5.6, "z h + (1 - z) n", PLAIN, 3.8),
        p.dot(18, 5.6, "$h_t$"),
    )
    p.arrow(h, (12.3, 5.6))
    p.path(h, (1.9, 3.8), wh)
    p.arrow(x, wx)
    p.arrow(wx, r)
    p.path(wh, (7.8, 3.8), reset)
    p.arrow(r, reset)
    p.path(reset, (10.2, 2.9), n)
    p.path(wx, (4.2, 0.3), (11.6, 0.3), n)
    p.arrow(n, mix)
    p.arrow(z, mix)
    p.arrow(mix, out)
    p.text(15.6, 1.4, "r and z: sigmoid of both products\nn: tanh", colour=FAINT)
    return p


def cells_of(p: Picture, x: float, y: float, labels: list[str], colour: str, w: float = 1.1) -> list[Any]:
    """A row of boxes that touch."""
    return [p.box(x + k * w, y, label, colour, w, 0.9) for k, label in enumerate(labels)]


def chain() -> Picture:
    """One sum, in one order, whoever makes which part of the work."""
    p = Picture(22, 6.4)
    labels = ["b", *(f"$w_{k}x_{k}$" for k in range(4)), *(f"$u_{k}h_{k}$" for k in range(4))]
    row = cells_of(p, 2, 4.4, labels, PLAIN, 1.8)
    for k, box in enumerate(row):
        box.set_facecolor(GATE if k == 0 else INPUT if k < 5 else STATE)
    p.arrow((1.1, 3.4), (17.4, 3.4))
    p.text(9.2, 2.9, "one chain of fused multiply-adds: bias, input with k ascending, state with k ascending")
    cell, h = p.box(19, 4.4, "cell", CELL), p.dot(21.2, 4.4, "$h$")
    p.arrow((17.3, 4.4), cell)
    p.arrow(cell, h)
    p.text(9.2, 5.6, "a unit's pre-activation", size=9.5)
    p.text(
        11,
        1.6,
        "Batches, threads and vector lanes divide the work between chains, chunks between whole steps;",
        colour=FAINT,
    )
    p.text(11, 0.9, "none cuts through a chain, so none changes a bit.", colour=FAINT)
    return p


def phases() -> Picture:
    """A phase is one product and one pointwise function."""
    p = Picture(22, 6.4)
    for y, name, parts in (
        (4.9, "LSTM, GRU after", (("product of h", GATE), ("gates, h'", CELL))),
        (
            2.5,
            "GRU before",
            (("product of h", GATE), ("r, z, r * h", CELL), ("product of r * h", GATE), ("n, h'", CELL)),
        ),
    ):
        p.text(0.3, y, name, ha="left")
        before: Any = p.dot(5.2, y, "$h_{t-1}$")
        for k, (text, colour) in enumerate(parts):
            box = p.box(8 + 3.4 * k, y, text, colour, 2.9)
            p.arrow(before, box)
            before = box
        p.arrow(before, p.dot(8 + 3.4 * len(parts) - 0.6, y, "$h_t$"))
        for k in range(len(parts) // 2):
            p.frame(6.3 + 6.8 * k, y - 0.9, 6.8 - 0.15, 1.8)
            p.text(9.6 + 6.8 * k, y + 1.15, f"phase {k + 1}", colour=FAINT)
    p.text(
        11,
        0.7,
        "Workers that share units meet at the end of a phase: what it made is the next one's input.",
        colour=FAINT,
    )
    return p


def tiles() -> Picture:
    """How packed weights lie in memory, and what is in registers."""
    p = Picture(22, 8.6)
    p.text(8.4, 8.1, "packed weights of one tile of units, in the order in which they are read", size=9.5)
    x = 0.9
    for k in range(2):
        for gate, colour in zip("ifgo", (INPUT, STATE, GATE, CELL), strict=True):
            for lane in range(4):
                p.box(x, 6.9, f"${gate}_{lane}$", colour, 0.5, 0.9)
                x += 0.5
        p.text(x - 4.25, 6.1, f"k = {k}")
        x += 0.25
    p.text(x + 0.2, 6.9, "...")
    p.text(19.8, 6.9, "4 lanes here,\n8 on AVX2,\n16 on AVX-512", colour=FAINT)
    for row in range(3):
        y = 4.6 - row * 1.1
        p.box(1.8, y, f"row {row}: $x_k$", PLAIN, 2.6, 0.8)
        for k, (gate, colour) in enumerate(zip("ifgo", (INPUT, STATE, GATE, CELL), strict=True)):
            p.box(5.6 + 2.3 * k, y, f"sums of ${gate}$", colour, 2.1, 0.8)
        p.box(17.4, y, "cell", CELL, 1.8, 0.8)
        p.arrow((3.1, y), (4.5, y))
        p.arrow((13.6, y), (16.5, y))
        p.arrow((18.3, y), p.dot(20.6, y, f"$h^{row}$", r=0.42))
    p.text(9.1, 1.2, "accumulators: rows x tiles x chains, in registers over the whole sum")
    p.text(
        11,
        0.5,
        "Weights are loaded once for all rows; the cell runs on the sums before they ever reach memory.",
        colour=FAINT,
    )
    return p


def bptt() -> Picture:
    """Backward walks chunks of steps; inside one, steps wait for each other and products do not."""
    p = Picture(22, 7.8)
    for k in range(8):
        x = 1.6 + 2.3 * k
        p.box(x, 6.2, f"step {k + 1}", STATE, 1.9)
        if k:
            p.arrow((x - 0.6, 5.0), (x - 1.7, 5.0))
        p.box(x, 5.0, "$da$", CELL, 1.2, 0.8)
    p.text(20.6, 6.2, "the tape", ha="center")
    p.text(20.6, 5.0, "gradients of\nthe chains")
    for k in range(2):
        p.frame(0.4 + 9.2 * k, 4.3, 9.0, 2.7, "#f0f0f0")
        p.text(4.9 + 9.2 * k, 7.4, "chunk 2, later" if k == 0 else "chunk 1, first")
        out = [
            p.box(2.3 + 9.2 * k, 2.4, "$dx = da\\,W_{ih}$", GATE, 3.4),
            p.box(6.9 + 9.2 * k, 2.4, "$dW = da^T [x, h]$", GATE, 4.2),
        ]
        for box in out:
            p.arrow((4.9 + 9.2 * k, 4.3), box)
    p.text(
        11, 1.1, "Right to left one step waits for the next: a pointwise function and one product each.", colour=FAINT
    )
    p.text(11, 0.5, "Then all rows of the chunk meet the weights together, summed in one fixed order.", colour=FAINT)
    return p


PICTURES = {picture.__name__: picture for picture in (cell_rnn, cell_lstm, cell_gru, chain, phases, tiles, bptt)}


def main() -> None:
    draw(PICTURES)


if __name__ == "__main__":
    main()
