"""What torch.compile sees of a layer: two operations without insides, forward and backward.

An operation takes and returns tensors and numbers only. So a module is known by a number, `register`'s, and a tape
travels as a tensor that owns it: it lives as long as the graph keeps that tensor. (Outside torch.compile a layer is an
autograd.Function, which costs less: see bench/NOTES.md.)
"""

from __future__ import annotations

import itertools
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from . import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .tape import Tape

__all__ = ["call", "register", "sequence"]

Tensor = Any  # torch.Tensor, whose types are not there to check where torch is not

_count = itertools.count()
_modules: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_tapes: weakref.WeakValueDictionary[int, _Held] = weakref.WeakValueDictionary()


def register(module: Any) -> int:
    """The number by which operations find a module of recurra.torch."""
    key = next(_count)
    _modules[key] = module
    return key


def call(
    function: Callable[..., Any], packed: functional.Packed, options: dict[str, Any], x: Tensor, state: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tape]]:
    """functional.run or forward, from tensors to tensors over the same memory: [y, *final states], and [tape] or []."""
    initial = functional.unwrapped([part.detach().numpy() for part in state]) if state else None
    y, final, *tape = function(packed, x.detach().numpy(), initial, **options)
    return [torch.from_numpy(array) for array in (y, *functional.wrapped(final))], tape


class _Held:
    """A tape and the memory of the tensor that owns it, whose address tells which tape it is."""

    def __init__(self, tape: Tape) -> None:
        self.tape, self._memory = tape, np.zeros(1, np.uint8)
        self.__array_interface__ = self._memory.__array_interface__
        _tapes[self._memory.ctypes.data] = self


@torch.library.custom_op(
    "recurra::sequence",
    mutates_args=(),
    schema="(Tensor x, Tensor[] state, Tensor[] params, int module, int layer, bool batch_first, bool trains)"
    " -> Tensor[]",
)
def sequence(
    x: Tensor, state: list[Tensor], params: list[Tensor], module: int, layer: int, batch_first: bool, trains: bool
) -> list[Tensor]:
    """A layer of a registered module, or all of them for -1. Returns y, the final states and, if asked, the tape."""
    owner = _modules[module]
    packed = owner._packed(layer, params)
    options = {"batch_first": batch_first}
    if not trains:
        return call(functional.run, packed, options, x, state)[0]
    results, (tape,) = call(functional.forward, packed, {**options, "recompute": owner.recompute}, x, state)
    return [*results, torch.from_numpy(np.asarray(_Held(tape)))]


@sequence.register_fake  # type: ignore[untyped-decorator,unused-ignore]
def _(
    x: Tensor, state: list[Tensor], params: list[Tensor], module: int, layer: int, batch_first: bool, trains: bool
) -> list[Tensor]:
    owner = _modules[module]
    lanes = owner._directions * (1 if layer >= 0 else owner.num_layers)
    batch = x.shape[0 if batch_first else 1 : -1][:1]
    y = x.new_empty((*x.shape[:-1], owner._directions * owner._output_size))
    final = [x.new_empty((lanes, *batch, width)) for width in owner._state_widths]
    return [y, *final, *([x.new_empty(1, dtype=torch.uint8)] if trains else [])]


@torch.library.custom_op(
    "recurra::sequence_backward",
    mutates_args=(),
    schema="(Tensor tape, Tensor[] grads, SymInt[] x, bool input_grad, int module, int layer) -> Tensor[]",
)
def _sequence_backward(
    tape: Tensor, grads: list[Tensor], x: list[int], input_grad: bool, module: int, layer: int
) -> list[Tensor]:
    """From the gradients of y and the final states to those of x (if wanted; its shape), initial states, parameters."""
    held = _tapes.get(tape.data_ptr())
    if held is None:
        raise RuntimeError("recurra.torch: the tape of this call is gone: something copied the tensor that owns it")
    dy, *final = (grad.detach().numpy() for grad in grads)
    dx, state, params = held.tape.backward(dy, functional.unwrapped(final), input_grad=input_grad)
    arrays = (*([dx] if input_grad else []), *functional.wrapped(state), *params.values())
    return [torch.from_numpy(array) for array in arrays]


@_sequence_backward.register_fake  # type: ignore[untyped-decorator,unused-ignore]
def _(tape: Tensor, grads: list[Tensor], x: list[int], input_grad: bool, module: int, layer: int) -> list[Tensor]:
    owner, (dy, *final) = _modules[module], grads
    params = [getattr(owner, name).shape for name in owner._names_of(layer)]
    return [dy.new_empty(shape) for shape in (*([x] if input_grad else []), *(part.shape for part in final), *params)]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, state, _, ctx.module, ctx.layer, *_ = inputs
    ctx.x, ctx.given, ctx.states = x.shape, len(state), len(output) - 2
    ctx.save_for_backward(output[-1])


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    input_grad = bool(ctx.needs_input_grad[0])
    found = _sequence_backward(*ctx.saved_tensors, grads[:-1], ctx.x, input_grad, ctx.module, ctx.layer)
    dx = found.pop(0) if input_grad else None
    return dx, found[: ctx.given], found[ctx.states :], None, None, None, None


sequence.register_autograd(_backward, setup_context=_setup)
