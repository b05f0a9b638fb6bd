"""What torch.compile sees of a layer: two operations without insides, forward and backward.

An operation takes and returns tensors and numbers only. So a module travels as a tensor that holds its number in this
process, which graphs therefore neither contain nor depend on, and a tape as a tensor that owns it and lives as long as
the graph keeps it. The tables in which both are found again hold neither alive. (Outside torch.compile a layer is an
autograd.Function, which needs none of this.)
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

__all__ = ["call", "first_order", "register", "rng", "run", "sequence"]

Tensor = Any  # torch.Tensor, whose types are not there to check where torch is not

_count = itertools.count()
_modules: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_tapes: weakref.WeakValueDictionary[int, _Held] = weakref.WeakValueDictionary()


def register(module: Any) -> Tensor:
    """The tensor by which operations find a module of recurra.torch."""
    number = next(_count)
    _modules[number] = module
    return torch.tensor(number)


def call(
    function: Callable[..., Any], packed: functional.Packed, options: dict[str, Any], x: Tensor, state: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tape]]:
    """functional.run or forward, from tensors to tensors over the same memory: [y, *final states], and [tape] or []."""
    initial = functional.unwrapped([part.detach().numpy() for part in state]) if state else None
    y, final, *tape = function(packed, x.detach().numpy(), initial, **options)
    return [torch.from_numpy(array) for array in (y, *functional.wrapped(final))], tape


def rng(seed: Tensor | None) -> int | None:
    """What dropout and zoneout draw from."""
    return None if seed is None else int(seed)


def run(
    packed: functional.Packed, options: dict[str, Any], x: Tensor, state: Sequence[Tensor], seed: Tensor | None
) -> list[Tensor]:
    """[y, *final states] of a call without gradients."""
    if seed is None:
        return call(functional.run, packed, options, x, state)[0]
    # Only calls that can be trained leave something out at random; the tape goes at once, so a small one.
    return call(functional.forward, packed, {**options, "recompute": True, "rng": rng(seed)}, x, state)[0]


def first_order(*grads: Tensor | None) -> tuple[Tensor | None, ...]:
    """These gradients, which refuse to be differentiated."""
    apply: Any = _FirstOrder.apply
    return apply(torch.empty((), requires_grad=True), *grads)  # type: ignore[no-any-return]


class _FirstOrder(torch.autograd.Function):  # type: ignore[misc,unused-ignore]
    """Hands gradients on and refuses to be differentiated. (once_differentiable would let second-order terms vanish in
    silence where the gradient that comes in is a constant, as that of y.sum() is.)"""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, *grads: Tensor | None) -> Any:
        return grads

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError("recurra.torch: gradients of gradients (double backward) are not available")


class _Held:
    """A tape and the memory of the tensor that owns it, whose address tells which tape it is."""

    def __init__(self, tape: Tape) -> None:
        self.tape, self._memory = tape, np.zeros(1, np.uint8)
        self.__array_interface__ = self._memory.__array_interface__
        _tapes[self._memory.ctypes.data] = self


@torch.library.custom_op(
    "recurra::sequence",
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
    owner = _modules.get(int(module))
    if owner is None:
        raise RuntimeError("recurra.torch: the module of this graph is gone")
    packed = owner._packed(layer, params)
    options: dict[str, Any] = {"batch_first": batch_first}
    if not trains:
        return run(packed, options, x, state, seed)
    options |= {"recompute": owner.recompute, "rng": rng(seed)}
    results, (tape,) = call(functional.forward, packed, options, x, state)
    return [*results, torch.from_numpy(np.asarray(_Held(tape)))]


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
    return [x.new_empty((*x.shape[:-1], width)), *final, *([x.new_empty(1, dtype=torch.uint8)] if trains else [])]


@torch.library.custom_op(
    "recurra::sequence_backward",
    mutates_args=(),
    schema="(Tensor tape, Tensor[] grads, SymInt[] shapes, bool input_grad) -> Tensor[]",
)
def _sequence_backward(tape: Tensor, grads: list[Tensor], shapes: list[int], input_grad: bool) -> list[Tensor]:
    """From the gradients of y and the final states to those of x (if wanted), initial states and parameters.

    Args:
        shapes: of x and the parameters, each after its number of axes.
    """
    held = _tapes.get(tape.data_ptr())
    if held is None:
        raise RuntimeError("recurra.torch: the tape of this call is gone: something copied the tensor that owns it")
    dy, *final = (grad.detach().numpy() for grad in grads)
    dx, state, found = held.tape.backward(dy, functional.unwrapped(final), input_grad=input_grad)
    arrays = (*([dx] if input_grad else []), *functional.wrapped(state), *found.values())
    return [torch.from_numpy(array) for array in arrays]


@_sequence_backward.register_fake  # type: ignore[untyped-decorator,unused-ignore]
def _(tape: Tensor, grads: list[Tensor], shapes: list[int], input_grad: bool) -> list[Tensor]:
    dy, *final = grads
    each, rest = [], list(shapes)
    while rest:
        axes = int(rest.pop(0))
        each.append(rest[:axes])
        del rest[:axes]
    x, *params = each
    return [dy.new_empty(shape) for shape in (*([x] if input_grad else []), *(part.shape for part in final), *params)]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, state, params, *_ = inputs
    ctx.shapes = [number for part in (x, *params) for number in (part.dim(), *part.shape)]
    ctx.given, ctx.states = len(state), len(output) - 2
    ctx.save_for_backward(output[-1])


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    input_grad = bool(ctx.needs_input_grad[0])
    found = _sequence_backward(*ctx.saved_tensors, grads[:-1], ctx.shapes, input_grad)
    if torch.is_grad_enabled():  # create_graph=True
        found = list(first_order(*found))
    dx = found.pop(0) if input_grad else None
    return dx, found[: ctx.given], found[ctx.states :], *([None] * 8)


sequence.register_autograd(_backward, setup_context=_setup)
