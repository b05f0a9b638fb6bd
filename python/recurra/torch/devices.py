"""Where tensors are, and what torch provides there: its current stream, memory of its allocator, autocast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["autocast_dtype", "current_stream", "empty", "gpu_of", "is_capturing", "without_autocast"]

Tensor = Any  # torch.Tensor, whose types are not there to check where torch is not


def gpu_of(tensor: Tensor) -> int | None:
    """The number of the GPU that a tensor is on; None for any other device."""
    return tensor.get_device() if tensor.is_cuda else None


def current_stream(gpu: int) -> int:
    """The handle of torch's current stream."""
    return int(torch._C._cuda_getCurrentRawStream(gpu))


def is_capturing() -> bool:
    """Whether torch's current stream is being captured in a CUDA graph."""
    return bool(torch.cuda.is_current_stream_capturing())


def empty(shape: Sequence[int], dtype: Any, like: Tensor) -> Tensor:
    """A new contiguous tensor on the device of another, in the order of the current stream."""
    return torch.empty(shape, dtype=dtype, device=like.device)


def autocast_dtype(gpu: int | None) -> Any:
    """What layers on a GPU run in under autocast; None without it, and on the CPU, where they stay in float32."""
    enabled = gpu is not None and torch.is_autocast_enabled("cuda")
    return torch.get_autocast_dtype("cuda") if enabled else None


def without_autocast(tensor: Tensor) -> Any:
    """A context in which autocast leaves operations on tensors like this one as they are."""
    return torch.autocast(tensor.device.type, enabled=False)
