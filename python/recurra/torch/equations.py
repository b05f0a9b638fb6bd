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
from ..activation import CORE_NAMES
from . import devices, noise, variant_equations

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .._arrays import Array
    from .._cells import Cell
    from .marks import Marks

    Function = Callable[[Any], Any]

__all__ = ["Call", "Clip", "run"]

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
        marks: resets and masks, or None. With states that resets lead to, these come after the initial ones.
        reverse: whether the only direction runs backwards in time.
        proj_bias: whether the projection has a bias.
        cells: whether the last layer's second states of all steps are among the results, as the last.
        clip: of what a step hands to the one before it, in gradients; None: of nothing.
        parts: where rows are segments of sequences: see `Segments`. There are no marks then.
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
    marks: Marks | None = None
    reverse: bool = False
    proj_bias: bool = False
    cells: bool = False
    clip: float | None = None
    parts: Array | None = None


class Clip:
    """A clip of gradients, which `run` builds in where there is to be one.

    Attributes:
        limit: gradients are brought into -limit .. limit.
        once: whether gradients of gradients are refused.
        on: False when the gradients have been made: they are differentiated through the values of the call, which are
            not clipped.
    """

    def __init__(self, limit: float, once: bool = False) -> None:
        self.limit, self.once, self.on = limit, once, True


def run(
    call: Call, x: Tensor, state: Sequence[Tensor], params: Sequence[Tensor], clip: Clip | None = None
) -> list[Tensor]:
    """[y, *final states] and, if asked, cells; of x and initial states (none: zeros), in the forms that modules take,
    and all parameters. Whoever has no clip to turn off cannot differentiate gradients."""
    if clip is None and call.clip is not None:
        clip = Clip(call.clip, once=True)
    dtype = x.dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    if isinstance(call.lengths, torch.Tensor):
        call = call._replace(lengths=call.lengths.cpu().numpy())
    with devices.without_autocast(x):  # which would make products of less than float32
        results = _run(call, x.to(wide), [part.to(wide) for part in state], [p.to(wide) for p in params], clip)
    return [result.to(dtype) for result in results]


def _run(call: Call, x: Tensor, state: Sequence[Tensor], params: Sequence[Tensor], clip: Clip | None) -> list[Tensor]:
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
    has = {"bias_hr": call.proj_bias}
    names = [name for name, *_, is_bias in cell.params if has.get(name, call.bias or not is_bias)]
    state, fresh = (state, []) if call.marks is None else call.marks.split(state)
    finals, below = [], x
    for layer in range(call.layers):
        outputs, cells = [], []
        for direction in range(call.directions):
            lane = layer * call.directions + direction
            own = dict(zip(names, params[lane * len(names) : (lane + 1) * len(names)], strict=True))
            initial = [part[lane] for part in state] or _zeros(cell, own, below)
            start = [part[lane] for part in fresh] or _zeros(cell, own, below)
            reverse = direction == 1 or call.reverse
            y, final, of_steps = _direction(call, lane, reverse, below, initial, start, own, clip)
            outputs.append(y)
            finals.append(final)
            cells.append(of_steps)
        below = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
    stacked = [torch.stack([finals[lane][i] for lane in range(lanes)]) for i in range(len(cell.states))]
    sequences = [below, torch.cat(cells, -1)] if call.cells else [below]
    if unbatched:
        stacked, sequences = [part.squeeze(1) for part in stacked], [part.squeeze(1) for part in sequences]
    elif places is not None:
        sequences = [part[places] for part in sequences]
    elif call.batch_first:
        sequences = [part.transpose(0, 1) for part in sequences]
    return [sequences[0], *stacked, *sequences[1:]]


def _zeros(cell: Cell, p: Mapping[str, Tensor], x: Tensor) -> list[Tensor]:
    (_, blocks, *_), *_ = cell.params  # of weight_ih
    hidden = len(p["weight_ih"]) // blocks
    output = len(p["weight_hr"]) if "weight_hr" in p else hidden
    return [x.new_zeros((x.shape[1], hidden if dim == "hidden" else output)) for _, dim in cell.states]


def _direction(
    call: Call,
    lane: int,
    reverse: bool,
    x: Tensor,
    state: list[Tensor],
    start: list[Tensor],
    p: Mapping[str, Tensor],
    clip: Clip | None,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """One layer in one direction: y, final states and, if they are wanted, second states of all steps. Each row starts
    at its own end when it goes backwards; resets lead to `start`."""
    steps, rows, _ = x.shape
    order = _reversal(steps, call.lengths).to(x.device) if reverse else None
    if order is not None:
        x = _in_order(x, order)
    inputs = variant_equations.inputs(call.cell, x, p)
    step = variant_equations.step(call.cell, call.constants.get("cell_clip", np.inf)) or _step(call, reverse)
    mask = _recurrent_mask(call, lane, rows, state[0])
    running = None
    if call.lengths is not None:
        running = torch.from_numpy(np.arange(steps)[:, None, None] < call.lengths[:, None]).to(x.device)
    resets, valid = _flags(call.marks, order, running, reverse, x.device)
    numbers = None if valid is None else (valid.cumsum(0) - 1).clamp(min=0)  # of each row's valid steps
    held = [_zoneout(call, i, lane, reverse, steps, part, numbers) for i, part in enumerate(state)]
    shown = valid if call.marks is not None and call.marks.masked_output == "zero" and valid is not None else running
    clipped: Any = _Clipped.apply
    wanted = range(1 + call.cells)  # states of all steps: h, and maybe the second
    kept: list[list[Tensor]] = [[] for _ in wanted]
    for t in range(steps):
        if resets is not None:
            state = [torch.where(resets[t], new, old) for old, new in zip(state, start, strict=True)]
        seen = state if clip is None else [clipped(part, clip) for part in state]
        h = seen[0]
        new = step(inputs[t], h if mask is None else h * mask, seen, p)
        new = [keep(t, old, now) for keep, old, now in zip(held, seen, new, strict=True)]
        if valid is not None:
            new = [torch.where(valid[t], now, old) for old, now in zip(state, new, strict=True)]
        for i in wanted:
            kept[i].append(new[i] if shown is None else torch.where(shown[t], new[i], torch.zeros_like(new[i])))
        if running is not None:
            new = [torch.where(running[t], now, old) for old, now in zip(state, new, strict=True)]
        state = new
    all_steps = [
        torch.stack(parts) if parts else x.new_zeros((0, rows, state[i].shape[-1])) for i, parts in enumerate(kept)
    ]
    if order is not None:
        all_steps = [_in_order(part, order) for part in all_steps]
    return all_steps[0], state, all_steps[-1]


class _Clipped(torch.autograd.Function):  # type: ignore[misc,unused-ignore]
    """apply(x, clip) -> x, whose gradient is clipped."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, clip: Clip) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.clip = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if ctx.clip.once and torch.is_grad_enabled():
            raise RuntimeError("recurra.torch: gradients of gradients are not available with grad_clip in forward mode")
        return (grad.clamp(-ctx.clip.limit, ctx.clip.limit) if ctx.clip.on else grad), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return tangent.view_as(tangent)


def _flags(
    marks: Marks | None, order: Tensor | None, running: Tensor | None, reverse: bool, device: Any
) -> tuple[Tensor | None, Tensor | None]:
    """Whether rows are reset before a step, and whether they take it: [T, B, 1] each, in the order of the steps."""
    if marks is None:
        return None, None
    found = []
    for flags in (marks.resets, marks.mask):
        if flags is not None:
            flags = flags.to(device).unsqueeze(-1)
            flags = flags if order is None else _in_order(flags, order)
            flags = flags if running is None else flags & running
        found.append(flags)
    resets, valid = found
    if resets is not None and reverse and len(resets):  # between a time and the one before, which comes next
        resets = torch.cat([torch.zeros_like(resets[:1]), resets[:-1]])
        resets = resets if running is None else resets & running
    return resets, valid


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
    numbers, _ = _numbers(call, rows, False)
    hits = noise.hits("recurrent_dropout", rate, call.seed, lane, numbers, np.zeros((1, 1), int), h.shape[-1])[0]
    scale = 1 / (1 - rate) if rate < 1 else 0.0
    return torch.from_numpy(np.where(hits, 0.0, scale)).to(h.device, h.dtype)


def _numbers(call: Call, rows: int, reverse: bool) -> tuple[Array, Array]:
    """Of rows and of their first steps, as what is left out at random counts them."""
    if call.parts is None:
        return np.arange(rows), np.zeros(1, int)
    return call.parts[:, 0], call.parts[:, 2 if reverse else 1]


def _zoneout(
    call: Call, state: int, lane: int, reverse: bool, steps: int, part: Tensor, numbers: Tensor | None
) -> Callable[..., Tensor]:
    """keep(t, old, new): a state after step t, some of whose units are the old ones. Steps may have numbers of their
    own."""
    kind = noise.ZONEOUT[state]
    rate: float = getattr(call.rates, kind)
    if not rate:
        return lambda t, old, new: new
    if call.seed is None:  # the expectation
        return lambda t, old, new: rate * old + (1 - rate) * new
    rows, first = _numbers(call, len(part), reverse)
    places = (rows, first + np.arange(steps)[:, None])
    hits = torch.from_numpy(noise.hits(kind, rate, call.seed, lane, *places, part.shape[-1])).to(part.device)
    if numbers is not None:
        hits = hits.gather(0, numbers.expand(hits.shape))
    return lambda t, old, new: torch.where(hits[t], old, new)


def _step(call: Call, reverse: bool) -> Callable[..., list[Tensor]]:
    """step(input side, h as recurrent products see it, states, parameters) -> new states, of this cell."""
    kind, _, rest = call.cell.partition("_")
    values = CELLS[call.cell].constant_values(call.constants, directions=call.directions)
    use: dict[str, Function] = {"f": torch.sigmoid, "g": torch.tanh, "h": torch.tanh}
    if rest.endswith("general"):
        end = "_reverse" if reverse and "clip_reverse" in values else ""
        use = {n: _activation(n, end, values) for n in use if n in values}
    if kind == "rnn":
        standard = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid}
        function = standard.get(rest) or use["f"]
        return lambda x, source, state, p: [function(x + _linear(source, p["weight_hh"], p.get("bias_hh")))]
    if kind == "gru":
        return _gru("reset_before" in rest, "write" in rest, **use)
    coupling = "f_from_i" if "f_from_i" in rest else "i_from_f" if "coupled" in rest else None
    return _lstm(
        coupling, values["cell_clip_reverse" if reverse and "cell_clip_reverse" in values else "cell_clip"], **use
    )


def _activation(letter: str, end: str, values: Mapping[str, float]) -> Callable[[Tensor], Tensor]:
    """The function that constants choose, of what `clip` bounds, except of the cell."""
    number, alpha, beta = (values[letter + part + end] for part in ("", "_alpha", "_beta"))
    bound = np.inf if letter == "h" else values["clip" + end]
    name = CORE_NAMES[int(number)]
    if name == "sigmoid" and bound == np.inf:
        return torch.sigmoid
    functions: dict[str, Function] = {
        "affine": lambda a: alpha * a + beta,
        "scaled_tanh": lambda a: alpha * torch.tanh(beta * a),
        "sigmoid": torch.sigmoid,
        "thresholded_relu": lambda a: torch.where(a > alpha, a, torch.zeros_like(a)),
        "leaky_relu": lambda a: torch.where(a > 0, a, alpha * a),
        # of the smaller number: what where leaves out would have gradients that are not finite
        "elu": lambda a: torch.where(a > 0, a, alpha * torch.expm1(a.clamp(max=0))),
        "hard_sigmoid": lambda a: (alpha * a + beta).clamp(0, 1),
        "softsign": lambda a: a / (1 + a.abs()),
        "softplus": lambda a: torch.logaddexp(a, torch.zeros_like(a)),
    }
    function = functions[name]
    return function if bound == np.inf else lambda a: function(a.clamp(-bound, bound))


def _gru(before: bool, write: bool, f: Function, g: Function, **_: Function) -> Callable[..., list[Tensor]]:
    def step(x: Tensor, source: Tensor, state: list[Tensor], p: Mapping[str, Tensor]) -> list[Tensor]:
        (h,), weight, bias = state, p["weight_hh"], p.get("bias_hh")
        xr, xz, xn = x.chunk(3, -1)
        size = xr.shape[-1]
        if before:
            first, last = (None, None) if bias is None else (bias[: 2 * size], bias[2 * size :])
            hr, hz = _linear(source, weight[: 2 * size], first).chunk(2, -1)
            n = g(xn + _linear(f(xr + hr) * h, weight[2 * size :], last))
        else:
            hr, hz, hn = _linear(source, weight, bias).chunk(3, -1)
            n = g(xn + f(xr + hr) * hn)
        z = f(xz + hz)
        return [(1 - z) * h + z * n if write else z * h + (1 - z) * n]

    return step


def _lstm(coupling: str | None, clip: float, f: Function, g: Function, h: Function) -> Callable[..., list[Tensor]]:
    def step(x: Tensor, source: Tensor, state: list[Tensor], p: Mapping[str, Tensor]) -> list[Tensor]:
        c, peep = state[1], p.get("weight_peep")
        size = c.shape[-1]

        def seen(a: Tensor, block: int, c: Tensor) -> Tensor:
            return a if peep is None else a + peep[block * size : (block + 1) * size] * c

        *gates, candidate, o = (x + _linear(source, p["weight_hh"], p.get("bias_hh"))).split(size, -1)
        gates = [seen(a, block, c) for block, a in enumerate(gates)]
        first = f(gates[0])
        if coupling is None:
            keep, take = f(gates[1]), first
        else:
            other = f(-gates[0]) if f is torch.sigmoid else 1 - first
            keep, take = (first, other) if coupling == "i_from_f" else (other, first)
        c = keep * c + take * g(candidate)
        if clip < np.inf:
            c = c.clamp(-clip, clip)
        q = f(seen(o, len(gates), c)) * h(c)
        return [_linear(q, p["weight_hr"], p.get("bias_hr")) if "weight_hr" in p else q, c]

    return step
