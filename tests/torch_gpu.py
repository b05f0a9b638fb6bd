"""Torch's tensors on the stand-in for a GPU, of which torch knows nothing: all tensors of the CPU count as lying on
cuda:0, but for those that a test says are the host's. What recurra.torch itself allocates is the stand-in's memory, of
NaN at first, and its work goes to a stream that is not the default one.
"""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from cuda_arrays import LIBRARY, Memory, driver, is_capturing, new_stream, require_gpu
from torch_modules import Tensor, tensors, torch

from recurra.torch import devices
from recurra.torch import weights as of_cpu

DEEP: dict[str, Any] = {"num_layers": 2, "bidirectional": True}

_gpu_of: Callable[[Tensor], int | None] = devices.gpu_of


def require_stand_in() -> None:
    """Skip a file of tests where there is a GPU, which cannot read what torch calls the CPU's memory."""
    require_gpu()
    if not hasattr(driver(), "standin_launches"):
        pytest.skip("on a GPU there is test_torch_gpu.py", allow_module_level=True)


def numpy(values: Any) -> list[Any]:
    return [value.detach().numpy() for value in tensors(tuple(values)) if value is not None]


class Gpu:
    """cuda:0, as it is for recurra.torch while a test runs."""

    lower: Any = None  # the dtype of autocast

    def __init__(self) -> None:
        self.stream = new_stream()
        self.allocated: weakref.WeakSet[Memory] = weakref.WeakSet()
        self._of_host: list[Tensor] = []

    def host(self, tensor: Tensor) -> Tensor:
        """A copy that stays on the CPU."""
        self._of_host.append(tensor.detach().clone())
        return self._of_host[-1].view_as(self._of_host[-1]).requires_grad_(tensor.requires_grad)

    def bytes(self) -> int:
        """Of its memory, what tensors hold."""
        gc.collect()
        return sum(memory.size for memory in self.allocated)

    # ---- what replaces the functions of recurra.torch.devices

    def gpu_of(self, tensor: Tensor) -> int | None:
        if not tensor.is_cpu:
            return _gpu_of(tensor)
        if self._of_host and not torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            storage = tensor.untyped_storage()
            if any(storage.data_ptr() == each.untyped_storage().data_ptr() for each in self._of_host):
                return None
        return 0

    def current_stream(self, gpu: int) -> int:
        assert gpu == 0
        return self.stream

    def is_capturing(self) -> bool:
        return is_capturing(self.stream)

    def empty(self, shape: Sequence[int], dtype: Any, like: Tensor) -> Tensor:
        assert self.gpu_of(like) == 0
        size = torch.Size(shape).numel() * dtype.itemsize
        if not size:
            return torch.empty(shape, dtype=dtype)
        with LIBRARY.use(self.stream):
            memory = Memory(size, 0)
            if not is_capturing(self.stream):
                memory.set(255)
        self.allocated.add(memory)
        kind: Any = type("Bytes", (ctypes.c_char * size,), {})  # a subclass, whose objects can hold others
        holder = kind.from_address(memory.pointer)
        holder.memory = memory
        return torch.frombuffer(holder, dtype=dtype).view(tuple(shape))

    def autocast_dtype(self, gpu: int | None) -> Any:
        return None if gpu is None else self.lower

    @contextmanager
    def autocast(self, dtype: Any) -> Iterator[None]:
        """torch.autocast("cuda", dtype), as far as recurra.torch sees it."""
        self.lower = dtype
        yield
        self.lower = None


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    found = Gpu()
    for name in ("gpu_of", "current_stream", "is_capturing", "empty", "autocast_dtype"):
        monkeypatch.setattr(devices, name, getattr(found, name))
    monkeypatch.setattr(of_cpu, "_is_plain", lambda *_: False)  # which says that a tensor is on the CPU
    return found


@contextmanager
def on_cpu() -> Iterator[None]:
    """Inside, tensors are on the CPU again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "gpu_of", _gpu_of)
        yield
