"""A call with gradients, as PyTorch's autograd sees it.

The core makes outputs and first gradients, to its own bits. What is asked of gradients themselves (create_graph=True)
and gradients of a batch of losses (is_grads_batched=True) go through `equations`, computed anew from the tensors of the
call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch

from . import devices, equations
from .tensors import is_batched, is_transforming

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Plan", "Tape", "differentiated", "sequence"]

Tensor = Any  # torch.Tensor, whose types are not there to check where torch is not
Grads = tuple[Tensor | None, ...]

# Whether the backward pass now running retains the graph. If not, tapes are freed as torch frees what it saves: scripts
# keep losses, and with them all nodes. torch has no public name for it; where it has none at all, a tape lives on.
_keeps_graph: Callable[[], bool] = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)

# The hooks that see what is saved for backward now, or None: activation checkpointing is made of them. They see
# tensors, which a tape is not: none is kept while there are such hooks, but made anew in backward.
_saving_hooks: Callable[[bool], Any] = getattr(
    torch._C._autograd, "_top_saved_tensors_default_hooks", lambda ignore_is_tracing: None
)


class Tape(Protocol):
    """What a call keeps for going back."""

    def gradients(self, states: int, needed: Sequence[bool], grads: Sequence[Tensor | None]) -> Grads:
        """Of x, the given initial states and the parameters, None where they are not needed; from those of y, the
        final states and, if the call has them, cells."""


class Plan(Protocol):
    """How a call of the core runs, with its packed weights."""

    @property
    def call(self) -> equations.Call: ...

    def run(self, x: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
        """[y, *final states] and, if the call has them, cells, without gradients."""

    def record(self, x: Tensor, state: Sequence[Tensor]) -> tuple[list[Tensor], Tape]:
        """The same, and the tape."""

    def went_back(self) -> None:
        """A tape has been used up."""


def sequence(plan: Plan, x: Tensor, state: Sequence[Tensor], params: Sequence[Tensor]) -> list[Tensor]:
    """The results of the plan, with gradients."""
    apply: Any = _Sequence.apply
    # A node of their own for each: hooks on a result that no loss uses would be called, with None.
    return [result.view_as(result) for result in apply(plan, len(state), x, *state, *params)]


class _Sequence(torch.autograd.Function):  # type: ignore[misc,unused-ignore]
    """apply(plan, number of states, x, *states, *parameters) -> y, *final states."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, states: int, *tensors: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.plan, ctx.states, ctx.tape = plan, states, None
        ctx.keeps_tape = _saving_hooks(False) is None
        x, state = tensors[0], tensors[1 : 1 + states]
        if ctx.keeps_tape:
            results, ctx.tape = plan.record(x, state)
        else:
            results = plan.run(x, state)
        ctx.save_for_backward(*tensors)  # looked at for second derivatives only: others may have been overwritten
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        if ctx.keeps_tape and ctx.tape is None:
            raise RuntimeError(
                "recurra.torch: a second backward through this call needs retain_graph=True in the first"
            )
        needed = ctx.needs_input_grad[2:]
        if all(grad is None for grad in grads):
            return (None,) * (2 + len(needed))
        again = torch.is_grad_enabled()  # create_graph=True
        batched = is_transforming() or any(grad is not None and is_batched(grad) for grad in grads)
        tape = ctx.tape
        # Not looked at without need: they may have been overwritten. And once only: checkpoints make them anew.
        tensors: Sequence[Tensor] = ctx.saved_tensors if batched or again or tape is None else ()
        if batched:
            found = differentiated(ctx.plan.call, ctx.states, tensors, needed, grads, again)
        else:
            if tape is None:
                _, tape = ctx.plan.record(tensors[0], tensors[1 : 1 + ctx.states])
            if again:
                apply: Any = _Gradients.apply
                found = apply(ctx.plan.call, tape, ctx.states, needed, len(grads), *grads, *tensors)
            else:
                found = tape.gradients(ctx.states, needed, grads)
        if not _keeps_graph():
            ctx.tape = None
            ctx.plan.went_back()
        return None, None, *found


class _Gradients(torch.autograd.Function):  # type: ignore[misc,unused-ignore]
    """apply(call, tape, number of states, what is needed, number of gradients, *gradients of results, *tensors) ->
    *gradients of tensors: the core's, with their derivatives from the equations."""

    @staticmethod
    def forward(
        ctx: Any, call: equations.Call, tape: Tape, states: int, needed: Sequence[bool], outputs: int, *tensors: Any
    ) -> Any:
        ctx.set_materialize_grads(False)
        ctx.call, ctx.states, ctx.needed, ctx.outputs = call, states, needed, outputs
        ctx.save_for_backward(*tensors)
        return tape.gradients(states, needed, tensors[:outputs])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        wanted, again = ctx.needs_input_grad[5:], torch.is_grad_enabled()
        if all(grad is None for grad in grads):
            return (None,) * (5 + len(wanted))
        with torch.enable_grad():
            tensors = _fresh(ctx.saved_tensors, wanted)
            incoming, given = tensors[: ctx.outputs], tensors[ctx.outputs :]
            found = differentiated(ctx.call, ctx.states, given, ctx.needed, incoming, True)
        return None, None, None, None, None, *_vector_jacobian(found, tensors, wanted, grads, again)


def differentiated(
    call: equations.Call,
    states: int,
    tensors: Sequence[Tensor],
    needed: Sequence[bool],
    grads: Sequence[Tensor | None],
    again: bool,
) -> Grads:
    """The same through the equations; `again`: to be differentiated in their turn."""
    clip = None if call.clip is None else equations.Clip(call.clip)
    with torch.enable_grad():
        fresh = _fresh(tensors, needed)
        results = equations.run(call, fresh[0], fresh[1 : 1 + states], fresh[1 + states :], clip)
    found = _vector_jacobian(results, fresh, needed, grads, again)
    if clip is not None:
        clip.on = False
    return found


def _vector_jacobian(
    results: Sequence[Tensor | None],
    tensors: Sequence[Tensor],
    needed: Sequence[bool],
    grads: Sequence[Tensor | None],
    again: bool,
) -> Grads:
    pairs = [
        (result, grad)
        for result, grad in zip(results, grads, strict=True)
        if result is not None and grad is not None and result.requires_grad
    ]
    inputs = [tensor for tensor, need in zip(tensors, needed, strict=True) if need]
    if not pairs or not inputs:
        return tuple(torch.zeros_like(t) if need else None for t, need in zip(tensors, needed, strict=True))
    outputs, incoming = zip(*pairs, strict=True)
    with devices.without_autocast(inputs[0]):
        found = torch.autograd.grad(
            outputs, inputs, incoming, create_graph=again, allow_unused=True, materialize_grads=True
        )
    rest = iter(found)
    return tuple(next(rest) if need else None for need in needed)


def _fresh(tensors: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor]:
    """Tensors to differentiate by: hooks of the caller's own are not to see what is computed in between."""
    return [tensor.view_as(tensor) if need else tensor for tensor, need in zip(tensors, needed, strict=True)]
