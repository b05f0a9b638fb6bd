"""A call of the core on the CPU, from tensors to tensors over the same memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .. import functional
from .tensors import as_array

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..tape import Tape
    from .equations import Call
    from .weights import Weights

__all__ = ["CpuPlan", "CpuTape"]

Tensor = Any  # torch.Tensor, whose types are not there to check where torch is not


class CpuPlan(NamedTuple):
    """See `gradients.Plan`. Its weights are packed, in the module's keeping."""

    call: Call
    packed: functional.Packed
    weights: Weights
    recompute: bool

    def run(self, x: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
        if self.call.seed is None:
            return self._results(functional.run, x, state)[0]
        # Only calls that can be trained leave something out at random; the tape goes at once, so a small one.
        return self._results(functional.forward, x, state, recompute=True, rng=self.call.seed)[0]

    def record(self, x: Tensor, state: Sequence[Tensor]) -> tuple[list[Tensor], CpuTape]:
        results, (tape,) = self._results(functional.forward, x, state, recompute=self.recompute, rng=self.call.seed)
        return results, CpuTape(tape, self.call)

    def went_back(self) -> None:
        self.weights.went_back()

    def _results(
        self, function: Callable[..., Any], x: Tensor, state: Sequence[Tensor], **options: Any
    ) -> tuple[list[Tensor], list[Tape]]:
        """functional.run or forward: [y, *final states] and, if asked, cells; and [tape] or []."""
        call = self.call
        options |= {"lengths": call.lengths, "batch_first": call.batch_first, "return_cells": call.cells}
        if call.marks is not None:
            state, fresh = call.marks.split(state)
            options |= call.marks.of_core(call.batch_first, x.dim() == 2)
            options["reset_state"] = functional.unwrapped([as_array(part) for part in fresh]) if fresh else None
        initial = functional.unwrapped([as_array(part) for part in state]) if state else None
        y, final, *more = function(self.packed, as_array(x), initial, **options)
        cells = [more.pop()] if call.cells else []
        return [torch.from_numpy(array) for array in (y, *functional.wrapped(final), *cells)], more


class CpuTape(NamedTuple):
    """See `gradients.Tape`."""

    tape: Tape
    call: Call

    def gradients(
        self, states: int, needed: Sequence[bool], grads: Sequence[Tensor | None]
    ) -> tuple[Tensor | None, ...]:
        dy, *final = [None if grad is None else as_array(grad) for grad in grads]
        dcells = final.pop() if self.call.cells else None
        dstate = None if all(part is None for part in final) else functional.unwrapped(final)
        found = self.tape.backward(dy, dstate, dcells, grad_clip=self.call.clip, input_grad=needed[0])
        fresh = () if found.reset_state is None else functional.wrapped(found.reset_state)
        initial = functional.wrapped(found.state)[: states - len(fresh)]
        arrays = (found.x, *initial, *fresh, *found.params.values())
        return tuple(torch.from_numpy(array) if need else None for array, need in zip(arrays, needed, strict=True))
