"""Multiplicative LSTM, layer-normalised LSTM and GRU, differential RNN, sLSTM and MinGRU as one writes them in PyTorch:
the products with all of a sequence's inputs at once, and a loop over its steps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

import recurra

from . import COMPILED, YARDSTICK, Call, Case

Params = dict[str, Tensor]
States = tuple[Tensor, ...]
Step = Callable[[tuple[Tensor, ...], States, Params], States]


class Cell(NamedTuple):
    """recurra's layer, its products with the inputs, what a step makes of them and of the states, how many states,
    and a step's multiply-adds in units of H * I with inputs and H * H with states."""

    layer: Any
    inputs: Callable[[Tensor, Params], tuple[Tensor, ...]]
    step: Step
    states: int
    blocks: tuple[int, int]


def _products(x: Tensor, p: Params) -> tuple[Tensor, ...]:
    return (linear(x, p["weight_ih_l0"], p["bias_ih_l0"]),)


def _multiplicative_products(x: Tensor, p: Params) -> tuple[Tensor, ...]:
    return *_products(x, p), linear(x, p["weight_mx_l0"])


def _multiplicative_step(from_x: tuple[Tensor, ...], states: States, p: Params) -> States:
    h, c = states
    m = from_x[1] * linear(h, p["weight_mh_l0"])
    i, f, g, o = (from_x[0] + linear(m, p["weight_hh_l0"])).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _normed_layer(kind: Any, *sizes: int, **options: Any) -> Any:
    """With recurrent gains at which a rounding does not grow from step to step, as at 1 it does."""
    layer = kind(*sizes, layer_norm=True, **options)
    params = layer.state_dict()
    layer.load_state_dict(params | {"gamma_h_l0": params["gamma_h_l0"] / 4})
    return layer


def _normed_products(x: Tensor, p: Params) -> tuple[Tensor, ...]:
    return (_normed(linear(x, p["weight_ih_l0"]), p["gamma_x_l0"], p["bias_ih_l0"]),)


def _normed(a: Tensor, gamma: Tensor, beta: Tensor | None = None) -> Tensor:
    return layer_norm(a, a.shape[-1:], gamma, beta)


def _normed_lstm_step(from_x: tuple[Tensor, ...], states: States, p: Params) -> States:
    h, c = states
    i, f, g, o = (from_x[0] + _normed(linear(h, p["weight_hh_l0"]), p["gamma_h_l0"])).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(_normed(c, p["gamma_c_l0"], p["beta_c_l0"])), c


def _normed_gru_step(from_x: tuple[Tensor, ...], states: States, p: Params) -> States:
    (h,) = states
    xr, xz, xn = from_x[0].chunk(3, -1)
    hr, hz, hn = _normed(linear(h, p["weight_hh_l0"]), p["gamma_h_l0"], p["bias_hh_l0"]).chunk(3, -1)
    z = torch.sigmoid(xz + hz)
    return (z * h + (1 - z) * torch.tanh(xn + torch.sigmoid(xr + hr) * hn),)


def _differential_step(from_x: tuple[Tensor, ...], states: States, p: Params) -> States:
    """Of order 1 alone."""
    h, cell, difference = states
    q = p["weight_dos_l0"].chunk(3)
    i, f, g, o = (from_x[0] + linear(h, p["weight_hh_l0"], p["bias_hh_l0"])).chunk(4, -1)
    new = torch.sigmoid(f + q[1] * difference) * cell + torch.sigmoid(i + q[0] * difference) * torch.tanh(g)
    difference = new - cell
    return torch.sigmoid(o + q[2] * difference) * torch.tanh(new), new, difference


def _slstm_step(heads: int, from_x: tuple[Tensor, ...], states: States, p: Params) -> States:
    h, c, n, m = states
    weight, size = p["weight_hh_l0"], h.shape[-1] // heads
    if heads == 1:
        a = linear(h, weight)
    else:
        blocks = weight.view(4, heads, size, size)
        a = torch.einsum("...hi,ghoi->...gho", h.reshape(*h.shape[:-1], heads, size), blocks).flatten(-3)
    i, f, z, o = (from_x[0] + a + p["bias_hh_l0"]).chunk(4, -1)
    before = torch.nn.functional.logsigmoid(f) + m
    m = torch.where(n == 0, i, torch.maximum(i, before))
    i, f = torch.exp(i - m), torch.exp(before - m)
    c, n = f * c + i * torch.tanh(z), f * n + i
    return torch.sigmoid(o) * c / n, c, n, m


def _min_gru_step(from_x: tuple[Tensor, ...], states: States, p: Params) -> States:
    z, n = from_x[0].chunk(2, -1)
    z = torch.sigmoid(z)
    return ((1 - z) * states[0] + z * n,)


CELLS = {
    "MultiplicativeLSTM": Cell(recurra.MultiplicativeLSTM, _multiplicative_products, _multiplicative_step, 2, (5, 5)),
    "LayerNormLSTM": Cell(partial(_normed_layer, recurra.LSTM), _normed_products, _normed_lstm_step, 2, (4, 4)),
    "LayerNormGRU": Cell(partial(_normed_layer, recurra.GRU), _normed_products, _normed_gru_step, 1, (3, 3)),
    "DifferentialRNN": Cell(recurra.DifferentialRNN, _products, _differential_step, 3, (4, 4)),
    "SLSTM": Cell(recurra.SLSTM, _products, partial(_slstm_step, 1), 4, (4, 4)),
    "SLSTM heads=4": Cell(partial(recurra.SLSTM, heads=4), _products, partial(_slstm_step, 4), 4, (4, 1)),
    "MinGRU": Cell(recurra.MinGRU, _products, _min_gru_step, 1, (2, 0)),
}
_compiled = functools.cache(torch.compile)


def compiled(step: Step) -> Step:
    """By torch.compile, at the first call."""
    return lambda from_x, states, p: _compiled(step)(from_x, states, p)


class Shape(NamedTuple):
    """A cell, steps (None: one of a stream), rows, hidden units; I = H."""

    cell: str
    steps: int | None
    rows: int
    hidden: int

    @property
    def multiply_adds(self) -> int:
        """Of a step or a call."""
        return (self.steps or 1) * self.rows * self.hidden**2 * sum(CELLS[self.cell].blocks)

    @property
    def reads(self) -> tuple[int, int]:
        """Bytes of the weights that each step reads anew, and steps: of a stream all."""
        blocks = CELLS[self.cell].blocks
        return 4 * self.hidden**2 * (blocks[1] if self.steps else sum(blocks)), self.steps or 1


def equal_lstm(shape: Shape) -> int:
    """Hidden units of the LSTM over the same inputs whose multiply-adds are nearest."""
    size = shape.hidden
    wanted = size**2 * sum(CELLS[shape.cell].blocks)
    return min(range(1, 4 * size), key=lambda hidden: abs(4 * hidden * (size + hidden) - wanted))


def unroll(cell: Cell, step: Step, x: Tensor, p: Params) -> Tensor:
    """Output [T, B, H] of a sequence [T, B, I]."""
    states = (x.new_zeros(x.shape[1:]),) * cell.states
    outputs = []
    for from_x in zip(*cell.inputs(x, p), strict=True):
        states = step(from_x, states, p)
        outputs.append(states[0])
    return torch.stack(outputs)


def stream_step(cell: Cell, step: Step, x: Tensor, p: Params) -> Call:
    """A step from the states of the one before; a row x [I]."""
    states: States = (torch.zeros_like(x),) * cell.states

    def call() -> Any:
        nonlocal states
        with torch.inference_mode():
            states = step(cell.inputs(x, p), states, p)
            return [states[0].numpy()]

    return call


def stream_contestants(shape: Shape) -> dict[str, Call]:
    """One step a call."""
    cell, threads = CELLS[shape.cell], recurra.get_num_threads()
    layer = cell.layer(shape.hidden, shape.hidden, seed=0)
    yardstick = recurra.LSTM(shape.hidden, equal_lstm(shape), seed=0)
    x = np.random.default_rng(0).standard_normal(shape.hidden, "float32")
    params, their_x = {name: torch.from_numpy(array) for name, array in layer.state_dict().items()}, torch.from_numpy(x)
    step, y = layer.stream(threads=threads).step, np.empty(shape.hidden, "float32")
    lstm_step, lstm_y = yardstick.stream(threads=threads).step, np.empty(yardstick.hidden_size, "float32")
    return {
        "recurra": lambda: [step(x, y)],
        "torch": stream_step(cell, cell.step, their_x, params),
        COMPILED: stream_step(cell, compiled(cell.step), their_x, params),
        YARDSTICK: lambda: lstm_step(x, lstm_y),
    }


def contestants(shape: Shape, training: bool) -> dict[str, Call]:
    """Whole sequences; of a training's results the outputs and the gradients of inputs and parameters are compared."""
    if shape.steps is None:
        return stream_contestants(shape)
    cell, rng = CELLS[shape.cell], np.random.default_rng(0)
    layer = cell.layer(shape.hidden, shape.hidden, seed=0)
    yardstick = recurra.LSTM(shape.hidden, equal_lstm(shape), seed=0)
    x, dy = rng.standard_normal((2, shape.steps, shape.rows, shape.hidden), "float32")
    y = np.empty_like(x)
    lstm_dy = np.ones((*x.shape[:2], yardstick.hidden_size), "float32")
    lstm_y = np.empty_like(lstm_dy)
    params = {name: torch.from_numpy(array).requires_grad_(training) for name, array in layer.state_dict().items()}
    their_x, their_dy = torch.from_numpy(x.copy()).requires_grad_(training), torch.from_numpy(dy)

    def train(layer: Any, dy: Any) -> Any:
        y, _, tape = layer.forward(x)
        found = tape.backward(dy)
        return [y, found.x, *found.params.values()]

    def theirs(step: Step) -> Any:
        if not training:
            with torch.inference_mode():
                return [unroll(cell, step, their_x, params).numpy()]
        leaves = [their_x, *params.values()]
        output = unroll(cell, step, their_x, params)
        gradients = torch.autograd.grad(output, leaves, their_dy)
        return [output.detach().numpy(), *(gradient.numpy() for gradient in gradients)]

    peers = {"torch": partial(theirs, cell.step), COMPILED: partial(theirs, compiled(cell.step))}
    if training:
        return {"recurra": partial(train, layer, dy), **peers, YARDSTICK: partial(train, yardstick, lstm_dy)}
    return {
        "recurra": lambda: [layer(x, out=y)[0]],
        **peers,
        YARDSTICK: lambda: yardstick(x, out=lstm_y),
    }


def case(shape: Shape, training: bool = False) -> Case:
    """A row of the table."""
    cell, steps, rows, hidden = shape
    work = f"T={steps}" if steps else "step"
    label = f"{cell} {work} B={rows} H=I={hidden}{' forward' * (steps is not None and not training)}"
    passes = 3 if training else 1
    size, times = shape.reads
    return Case(
        label,
        shape.multiply_adds * passes,
        partial(contestants, shape, training),
        reads=(size, times * (2 if training else 1)),
    )


CASES = [case(Shape("MultiplicativeLSTM", None, 1, hidden)) for hidden in (64, 256)]
CASES += [case(Shape("MultiplicativeLSTM", 100, rows, hidden)) for rows in (1, 32) for hidden in (64, 256)]
CASES.append(case(Shape("MultiplicativeLSTM", 100, 32, 256), training=True))
for name in ("LayerNormLSTM", "LayerNormGRU", "DifferentialRNN", "SLSTM", "SLSTM heads=4", "MinGRU"):
    CASES.append(case(Shape(name, None, 1, 64)))
    CASES += [case(Shape(name, 100, 32, 256), training) for training in (False, True)]
