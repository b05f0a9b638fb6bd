"""Resets and masks of a call, from tensors or arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .. import _marks
from .._arrays import as_array, check_shape
from . import devices

if TYPE_CHECKING:
    from .tensors import Home

__all__ = ["Marks", "checked_flags"]

Tensor = Any  # torch.Tensor, whose types are not there to check where torch is not


class Marks(NamedTuple):
    """What decides a result besides tensors that have gradients.

    Attributes:
        resets, mask: booleans [T, B], or None.
        masked_output: "previous" or "zero".
        fresh: how many of a call's states, the last ones, are what resets lead to; 0 for zeros.
    """

    resets: Tensor | None
    mask: Tensor | None
    masked_output: str
    fresh: int

    def split(self, state: Any) -> tuple[list[Tensor], list[Tensor]]:
        """A call's initial states, and its reset states; none for zeros."""
        at = len(state) - self.fresh
        return list(state[:at]), list(state[at:])

    def of_core(self, batch_first: bool, unbatched: bool) -> dict[str, Any]:
        """The flags as functions of the core take them, in the form of x."""

        def array(flags: Tensor | None) -> Any:
            if flags is None:
                return None
            numbers = flags.numpy()
            return numbers[:, 0] if unbatched else numbers.T if batch_first else numbers

        return {"resets": array(self.resets), "mask": array(self.mask), "masked_output": self.masked_output}


def checked_flags(name: str, value: Any, steps: int, batch: tuple[int, ...], batch_first: bool, home: Home) -> Tensor:
    """A copy [T, B] of the caller's booleans, [T, B], with batch_first [B, T], or [T] without a batch axis."""
    if isinstance(value, torch.Tensor):
        if value.dtype != torch.bool:
            raise TypeError(f"{name}: expected torch.bool, got {value.dtype}")
        check_shape(name, value.shape, (*batch, steps) if batch_first and batch else (steps, *batch))
        if (gpu := devices.gpu_of(value)) not in (None, home.gpu) or (gpu is None and not value.is_cpu):
            where = "the CPU" if home.gpu is None else f"cuda:{home.gpu} or the CPU"
            raise ValueError(f"{name}: expected memory of {where}, got {value.device}")
        flags = value if batch else value.unsqueeze(1)
        return (flags.transpose(0, 1) if batch and batch_first else flags).clone(memory_format=torch.contiguous_format)
    return torch.from_numpy(_marks.checked_flags(name, as_array(name, value), steps, batch, batch_first))
