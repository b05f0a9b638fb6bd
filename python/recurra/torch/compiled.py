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
    "recurra::forward",
    mutates_args=(),
    schema="(Tensor x, Tensor[] state, Tensor[] params, Tensor? seed, Tensor module, int layer, bool batch_first, "
    "bool trains, int width, int lanes, int[] state_widths) -> Tensor[]",
)
def sequence(
    x: Tensor,
    state: list[Tensor],
    params: list[Tensor],
    seed: Tensor | None,
    module: Tensor,
    layer: int,
    batch_first: bool,
    trains: bool,
    width: int,
    lanes: int,
    state_widths: list[int],
) -> list[Tensor]:
    """A layer of a registered module, or all of them for -1. Returns y, the final states and, if asked, the tape.

    Args:
        seed: of dropout and zoneout; None where nothing is left out.
        width: of y.
        lanes: layers times directions, the first axis of states.
        state_widths: their last axes.
    """
    plan = _module(module)._plan(layer, x.dtype, params, None, batch_first, seed)
    if not trains:
        return plan.run(x, state)  # type: ignore[no-any-return]
    results, tape = plan.record(x, state)
    return [*results, torch.from_numpy(np.asarray(_Held(tape, plan)))]


@sequence.register_fake  # type: ignore[untyped-decorator,unused-ignore]
def _(
    x: Tensor,
    state: list[Tensor],
    params: list[Tensor],
    seed: Tensor | None,
    module: Tensor,
    layer: int,
    batch_first: bool,
    trains: bool,
    width: int,
    lanes: int,
    state_widths: list[int],
) -> list[Tensor]:
    batch = x.shape[0 if batch_first else 1 : -1][:1]
    final = [x.new_empty((lanes, *batch, size)) for size in state_widths]
    return [
        x.new_empty((*x.shape[:-1], width)),
        *final,
        *([x.new_empty(1, dtype=torch.uint8, device="cpu")] if trains else []),
    ]


@torch.library.custom_op(
    "recurra::backward",
    mutates_args=(),
    schema="(Tensor tape, Tensor[] grads, Tensor[] given, bool input_grad) -> Tensor[]",
)
def _sequence_gradients(tape: Tensor, grads: list[Tensor], given: list[Tensor], input_grad: bool) -> list[Tensor]:
    """From the gradients of y and the final states to those of x (if wanted), initial states and parameters.

    Args:
        given: x and the parameters, for their shapes; and so that torch.compile knows gradients to depend on them.
    """
    held = _tapes.get(tape.data_ptr())
    if held is None:
        raise RuntimeError("recurra.torch: the tape of this call is gone: something copied the tensor that owns it")
    states = len(grads) - 1
    found = held.tape.gradients(states, [input_grad] + [True] * (states + len(given) - 1), grads)
    held.plan.went_back()
    return [tensor for tensor in found if tensor is not None]


@_sequence_gradients.register_fake  # type: ignore[untyped-decorator,unused-ignore]
def _(tape: Tensor, grads: list[Tensor], given: list[Tensor], input_grad: bool) -> list[Tensor]:
    (_, *final), (x, *params) = grads, given
    return [part.new_empty(part.shape) for part in (*([x] if input_grad else []), *final, *params)]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, state, params, seed, module, layer, batch_first, *_ = inputs
    ctx.given, ctx.states, ctx.layer, ctx.batch_first = len(state), len(output) - 2, layer, batch_first
    ctx.module = _module(module) if type(module) is torch.Tensor else None  # none while a graph is being made
    ctx.save_for_backward(output[-1], seed, x, *state, *params)


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    tape, seed, x, *more = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph=True
        if ctx.module is None:
            raise RuntimeError("recurra.torch: gradients of gradients are not available in this graph of torch.compile")
        call = ctx.module._equations(ctx.layer, None, ctx.batch_first, seed)
        needed = [tensor.requires_grad for tensor in (x, *more)]
        found = list(differentiated(call, ctx.given, (x, *more), needed, grads[:-1], True))
        return found[0], found[1 : 1 + ctx.given], found[1 + ctx.given :], *([None] * 8)
    input_grad = bool(ctx.needs_input_grad[0])
    found = _sequence_gradients(tape, grads[:-1], [x, *more[ctx.given :]], input_grad)
    dx = found.pop(0) if input_grad else None
    return dx, found[: ctx.given], found[ctx.states :], *([None] * 8)


sequence.register_autograd(_backward, setup_context=_setup)
