"""What torch.compile sees of a layer: two operations without insides, forward and backward.

An operation takes and returns tensors and numbers only. So a module travels as a tensor that holds its number in this
process, which graphs therefore neither contain nor depend on, and a tape as a tensor that owns it and lives as long as
the graph keeps it. The tables in which both are found again hold neither alive. (Outside torch.compile a layer is an
autograd.Function, which needs none of this.) Torch keeps graphs on disk by the names of operations: whoever changes
what one of these two takes or returns must rename both.
"""

from __future__ import annotations

import itertools
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .gradients import differentiated
from .marks import Marks

if TYPE_CHECKING:
    from .gradients import Plan, Tape

__all__ = ["register", "sequence"]

Tensor = Any  # torch.Tensor, whose types are not there to check where torch is not

_count = itertools.count()
_modules: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_tapes: weakref.WeakValueDictionary[int, _Held] = weakref.WeakValueDictionary()


def register(module: Any) -> Tensor:
    """The tensor by which operations find a module of recurra.torch."""
    number = next(_count)
    _modules[number] = module
    return torch.tensor(number, device="cpu")


def _module(number: Tensor) -> Any:
    owner = _modules.get(int(number))
    if owner is None:
        raise RuntimeError("recurra.torch: the module of this graph is gone")
    return owner


class _Held:
    """A tape and the memory of the tensor that owns it, whose address tells which tape it is."""

    def __init__(self, tape: Tape, plan: Plan) -> None:
        self.tape, self.plan, self._memory = tape, plan, np.zeros(1, np.uint8)
        self.__array_interface__ = self._memory.__array_interface__
        _tapes[self._memory.ctypes.data] = self


@torch.library.custom_op(
    "recurra::run",
    mutates_args=(),
    schema="(Tensor x, Tensor[] state, Tensor[] params, Tensor? resets, Tensor? mask, Tensor? seed, Tensor module, "
    "str masked_output, int fresh, int layer, bool batch_first, bool trains, int width, int cells_width, int lanes, "
    "int[] state_widths) -> Tensor[]",
)
def sequence(
    x: Tensor,
    state: list[Tensor],
    params: list[Tensor],
    resets: Tensor | None,
    mask: Tensor | None,
    seed: Tensor | None,
    module: Tensor,
    masked_output: str,
    fresh: int,
    layer: int,
    batch_first: bool,
    trains: bool,
    width: int,
    cells_width: int,
    lanes: int,
    state_widths: list[int],
) -> list[Tensor]:
    """A layer of a registered module, or all of them for -1. Returns y, the final states and, if asked, cells and the
    tape.

    Args:
        resets, mask, masked_output, fresh: of `Marks`.
        seed: of dropout and zoneout; None where nothing is left out.
        width: of y.
        cells_width: of cells; 0: they are not wanted.
        lanes: layers times directions, the first axis of states.
        state_widths: their last axes.
    """
    marks = _marks(resets, mask, masked_output, fresh)
    plan = _module(module)._plan(layer, x.dtype, params, None, batch_first, seed, marks, cells_width > 0)
    if not trains:
        return plan.run(x, state)  # type: ignore[no-any-return]
    results, tape = plan.record(x, state)
    return [*results, torch.from_numpy(np.asarray(_Held(tape, plan)))]


def _marks(resets: Tensor | None, mask: Tensor | None, masked_output: str, fresh: int) -> Marks | None:
    return None if resets is None and mask is None else Marks(resets, mask, masked_output, fresh)


@sequence.register_fake  # type: ignore[untyped-decorator,unused-ignore]
def _(
    x: Tensor,
    state: list[Tensor],
    params: list[Tensor],
    resets: Tensor | None,
    mask: Tensor | None,
    seed: Tensor | None,
    module: Tensor,
    masked_output: str,
    fresh: int,
    layer: int,
    batch_first: bool,
    trains: bool,
    width: int,
    cells_width: int,
    lanes: int,
    state_widths: list[int],
) -> list[Tensor]:
    batch = x.shape[0 if batch_first else 1 : -1][:1]
    final = [x.new_empty((lanes, *batch, size)) for size in state_widths]
    return [
        x.new_empty((*x.shape[:-1], width)),
        *final,
        *([x.new_empty((*x.shape[:-1], cells_width))] if cells_width else []),
        *([x.new_empty(1, dtype=torch.uint8, device="cpu")] if trains else []),
    ]


@torch.library.custom_op(
    "recurra::run_backward",
    mutates_args=(),
    schema="(Tensor tape, Tensor[] grads, Tensor[] given, int states, bool input_grad) -> Tensor[]",
)
def _sequence_gradients(
    tape: Tensor, grads: list[Tensor], given: list[Tensor], states: int, input_grad: bool
) -> list[Tensor]:
    """From the gradients of y, the final states and cells to those of x (if wanted), states and parameters.

    Args:
        given: x, the states and the parameters, for their shapes; and so that torch.compile knows gradients to depend
            on them.
        states: how many of these are states.
    """
    held = _tapes.get(tape.data_ptr())
    if held is None:
        raise RuntimeError("recurra.torch: the tape of this call is gone: something copied the tensor that owns it")
    found = held.tape.gradients(states, [input_grad] + [True] * (len(given) - 1), grads)
    held.plan.went_back()
    return [tensor for tensor in found if tensor is not None]


@_sequence_gradients.register_fake  # type: ignore[untyped-decorator,unused-ignore]
def _(tape: Tensor, grads: list[Tensor], given: list[Tensor], states: int, input_grad: bool) -> list[Tensor]:
    return [part.new_empty(part.shape) for part in given[0 if input_grad else 1 :]]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, state, params, resets, mask, seed, module, masked_output, fresh, layer, batch_first, _, _, cells_width, *_ = (
        inputs
    )
    ctx.states, ctx.marks = len(state), (masked_output, fresh)
    ctx.layer, ctx.batch_first, ctx.cells = layer, batch_first, cells_width > 0
    ctx.module = _module(module) if type(module) is torch.Tensor else None  # none while a graph is being made
    ctx.save_for_backward(output[-1], resets, mask, seed, x, *state, *params)


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    tape, resets, mask, seed, *given = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph=True
        if ctx.module is None:
            raise RuntimeError("recurra.torch: gradients of gradients are not available in this graph of torch.compile")
        marks = _marks(resets, mask, *ctx.marks)
        call = ctx.module._equations(ctx.layer, None, ctx.batch_first, seed, marks, ctx.cells)
        needed = [tensor.requires_grad for tensor in given]
        found = list(differentiated(call, ctx.states, given, needed, grads[:-1], True))
    else:
        input_grad = bool(ctx.needs_input_grad[0])
        found = _sequence_gradients(tape, grads[:-1], given, ctx.states, input_grad)
        found = found if input_grad else [None, *found]
    return found[0], found[1 : 1 + ctx.states], found[1 + ctx.states :], *([None] * 13)


sequence.register_autograd(_backward, setup_context=_setup)
