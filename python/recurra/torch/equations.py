"""The cells in PyTorch's own operations, for what the core does not do: derivatives of gradients, forward mode and
torch.func.

Results are those of the core to rounding, with the same numbers left out at random. A step is a handful of operations,
so this is many times slower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from .._cells import CELLS, Regularization
from . import devices, noise, variant_equations

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .._arrays import Array
    from .._cells import Cell

__all__ = ["Call", "run"]

Tensor = Any  # torch.Tensor, whose types are not there to check where torch is not

_linear = torch.nn.functional.linear


class Call(NamedTuple):
    """What decides a result, besides tensors.

    Attributes:
        cell, constants, rates: as of `recurra.functional.pack`.
        layers, directions, bias: of the stack that runs.
        lengths: of the sequences, or None; on a GPU maybe a tensor there. An x of two axes is packed then, and so is y:
            the rows of all steps, one after another.
        batch_first: axis order of x and of the output.
        seed: of what is left out at random; None where nothing is.
    """

    cell: str
    constants: Mapping[str, float]
    rates: Regularization
    layers: int
    directions: int
    bias: bool
    lengths: Array | Tensor | None
    batch_first: bool
    seed: int | None


def run(call: Call, x: Tensor, state: Sequence[Tensor], params: Sequence[Tensor]) -> list[Tensor]:
    """[y, *final states], of x and initial states (none: zeros) in the forms that modules take, and all parameters."""
    dtype = x.dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    if isinstance(call.lengths, torch.Tensor):
        call = call._replace(lengths=call.lengths.cpu().numpy())
    with devices.without_autocast(x):  # which would make products of less than float32
        results = _run(call, x.to(wide), [part.to(wide) for part in state], [param.to(wide) for param in params])
    return [result.to(dtype) for result in results]


def _run(call: Call, x: Tensor, state: Sequence[Tensor], params: Sequence[Tensor]) -> list[Tensor]:
    unbatched, places = x.dim() == 2 and call.lengths is None, None
    if x.dim() == 2 and call.lengths is not None:
        # By indices, as torch packs in neither forward mode nor vmap.
        running = np.arange(call.lengths[0])[:, None] < call.lengths
        places = tuple(torch.from_numpy(axis).to(x.device) for axis in np.nonzero(running))
        x = x.new_zeros((*running.shape, x.shape[-1])).index_put(places, x)
    elif unbatched:
        x, state = x.unsqueeze(1), [part.unsqueeze(1) for part in state]
    elif call.batch_first:
        x = x.transpose(0, 1)
    cell, lanes = CELLS[call.cell], call.layers * call.directions
    names = [name for name, *_, is_bias in cell.params if call.bias or not is_bias]
    finals, below = [], x
    for layer in range(call.layers):
        outputs = []
        for direction in range(call.directions):
            lane = layer * call.directions + direction
            own = dict(zip(names, params[lane * len(names) : (lane + 1) * len(names)], strict=True))
            initial = [part[lane] for part in state] or _zeros(cell, own, below)
            y, final = _direction(call, lane, direction == 1, below, initial, own)
            outputs.append(y)
            finals.append(final)
        below = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
    stacked = [torch.stack([finals[lane][i] for lane in range(lanes)]) for i in range(len(cell.states))]
    if unbatched:
        return [below.squeeze(1), *(part.squeeze(1) for part in stacked)]
    if places is not None:
        return [below[places], *stacked]
    return [below.transpose(0, 1) if call.batch_first else below, *stacked]


def _zeros(cell: Cell, p: Mapping[str, Tensor], x: Tensor) -> list[Tensor]:
    (_, blocks, *_), *_ = cell.params  # of weight_ih
    hidden = len(p["weight_ih"]) // blocks
    output = len(p["weight_hr"]) if "weight_hr" in p else hidden
    return [x.new_zeros((x.shape[1], hidden if dim == "hidden" else output)) for _, dim in cell.states]


def _direction(
    call: Call, lane: int, reverse: bool, x: Tensor, state: list[Tensor], p: Mapping[str, Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """One layer in one direction. Each row starts at its own end when it goes backwards."""
    steps, rows, _ = x.shape
    order = _reversal(steps, call.lengths).to(x.device) if reverse else None
    if order is not None:
        x = _in_order(x, order)
    inputs, step = variant_equations.inputs(call.cell, x, p), variant_equations.step(call.cell) or _step(call)
    mask = _recurrent_mask(call, lane, rows, state[0])
    held = [_zoneout(call, i, lane, steps, rows, part) for i, part in enumerate(state)]
    running = None
    if call.lengths is not None:
        running = torch.from_numpy(np.arange(steps)[:, None, None] < call.lengths[:, None]).to(x.device)
    outputs = []
    for t in range(steps):
        h = state[0]
        new = step(inputs[t], h if mask is None else h * mask, state, p)
        new = [keep(t, old, now) for keep, old, now in zip(held, state, new, strict=True)]
        if running is not None:
            outputs.append(torch.where(running[t], new[0], torch.zeros_like(new[0])))
            new = [torch.where(running[t], now, old) for old, now in zip(state, new, strict=True)]
        else:
            outputs.append(new[0])
        state = new
    y = torch.stack(outputs) if outputs else x.new_zeros((0, rows, state[0].shape[-1]))
    return y if order is None else _in_order(y, order), state


def _reversal(steps: int, lengths: Array | None) -> Tensor:
    """The order [steps, rows or 1] that turns each sequence round and back, and leaves its padding where it is."""
    t = np.arange(steps)[:, None]
    if lengths is None:
        return torch.from_numpy(t[::-1].copy())
    return torch.from_numpy(np.where(t < lengths, lengths - 1 - t, t))


def _in_order(x: Tensor, order: Tensor) -> Tensor:
    return x.gather(0, order.unsqueeze(-1).expand(x.shape))


def _recurrent_mask(call: Call, lane: int, rows: int, h: Tensor) -> Tensor | None:
    rate = call.rates.recurrent_dropout
    if call.seed is None or not rate:
        return None
    hits = noise.hits("recurrent_dropout", rate, call.seed, lane, 1, rows, h.shape[-1])[0]
    scale = 1 / (1 - rate) if rate < 1 else 0.0
    return torch.from_numpy(np.where(hits, 0.0, scale)).to(h.device, h.dtype)


def _zoneout(call: Call, state: int, lane: int, steps: int, rows: int, part: Tensor) -> Callable[..., Tensor]:
    """keep(t, old, new): a state after step t, some of whose units are the old ones."""
    kind = noise.ZONEOUT[state]
    rate: float = getattr(call.rates, kind)
    if not rate:
        return lambda t, old, new: new
    if call.seed is None:  # the expectation
        return lambda t, old, new: rate * old + (1 - rate) * new
    hits = torch.from_numpy(noise.hits(kind, rate, call.seed, lane, steps, rows, part.shape[-1])).to(part.device)
    return lambda t, old, new: torch.where(hits[t], old, new)


def _step(call: Call) -> Callable[..., list[Tensor]]:
    """step(input side, h as recurrent products see it, states, parameters) -> new states, of this cell."""
    kind, _, rest = call.cell.partition("_")
    if kind == "rnn":
        function = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid}[rest]
        return lambda x, source, state, p: [function(x + _linear(source, p["weight_hh"], p.get("bias_hh")))]
    if kind == "gru":
        return _gru("reset_before" in rest, "write" in rest)
    coupling = "f_from_i" if "f_from_i" in rest else "i_from_f" if "coupled" in rest else None
    return _lstm(coupling, call.constants.get("cell_clip", np.inf))


def _gru(before: bool, write: bool) -> Callable[..., list[Tensor]]:
    def step(x: Tensor, source: Tensor, state: list[Tensor], p: Mapping[str, Tensor]) -> list[Tensor]:
        (h,), weight, bias = state, p["weight_hh"], p.get("bias_hh")
        xr, xz, xn = x.chunk(3, -1)
        size = xr.shape[-1]
        if before:
            first, last = (None, None) if bias is None else (bias[: 2 * size], bias[2 * size :])
            hr, hz = _linear(source, weight[: 2 * size], first).chunk(2, -1)
            n = torch.tanh(xn + _linear(torch.sigmoid(xr + hr) * h, weight[2 * size :], last))
        else:
            hr, hz, hn = _linear(source, weight, bias).chunk(3, -1)
            n = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
        z = torch.sigmoid(xz + hz)
        return [(1 - z) * h + z * n if write else z * h + (1 - z) * n]

    return step


def _lstm(coupling: str | None, clip: float) -> Callable[..., list[Tensor]]:
    def step(x: Tensor, source: Tensor, state: list[Tensor], p: Mapping[str, Tensor]) -> list[Tensor]:
        c, peep = state[1], p.get("weight_peep")
        size = c.shape[-1]

        def seen(a: Tensor, block: int, c: Tensor) -> Tensor:
            return a if peep is None else a + peep[block * size : (block + 1) * size] * c

        *gates, g, o = (x + _linear(source, p["weight_hh"], p.get("bias_hh"))).split(size, -1)
        gates = [seen(a, block, c) for block, a in enumerate(gates)]
        if coupling is None:
            i, f = gates
        else:
            i, f = (-gates[0], gates[0]) if coupling == "i_from_f" else (gates[0], -gates[0])
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        if clip < np.inf:
            c = c.clamp(-clip, clip)
        h = torch.sigmoid(seen(o, len(gates), c)) * torch.tanh(c)
        return [_linear(h, p["weight_hr"]) if "weight_hr" in p else h, c]

    return step
