"""Tensors that callers hand in: checked here, and turned into arrays over the same memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .._arrays import check_memory, check_shape
from . import devices

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._arrays import Array

__all__ = [
    "Home",
    "as_array",
    "check",
    "check_dtype",
    "compiler_watches",
    "differentiates_forward",
    "is_batched",
    "is_transforming",
    "settled",
    "without_compiler",
]

Tensor = Any  # torch.Tensor, whose types are not there to check where torch is not

HALVES = (torch.bfloat16, torch.float16)
DTYPES = (torch.float32, torch.float64)  # on the CPU

# torch has no public names for these.
is_transforming = torch._C._are_functorch_transforms_active  # by torch.func
is_batched = torch._C._functorch.is_legacy_batchedtensor  # by is_grads_batched=True


def differentiates_forward() -> bool:
    """Whether forward-mode derivatives may travel with tensors."""
    return bool(torch.autograd.forward_ad._current_level >= 0)


# What torch.compile has set to look at each Python function that is called, or None or False.
_watcher: Callable[[], Any] = getattr(torch._C._dynamo.eval_frame, "get_eval_frame_callback", lambda: None)


def compiler_watches() -> bool:
    """Whether this runs between graphs of torch.compile, which would go on and compile whatever is called."""
    return callable(_watcher())


def without_compiler(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, and all that it calls, out of torch.compile's sight."""
    opaque: Any = torch.compiler.disable  # not a decorator: that would load the compiler with this module
    return opaque(function)  # type: ignore[no-any-return]


class Home(NamedTuple):
    """Where a module's parameters are, and of what dtype.

    Attributes:
        name: of the first one, which decides.
        gpu: its GPU's number, None for the CPU.
        dtype: the parameters'.
        number: dtype of inputs, states and results, which differs under autocast.
    """

    name: str
    gpu: int | None
    dtype: Any
    number: Any


def check(
    name: str, value: Any, dtype: Any = None, *patterns: tuple[int | str, ...], home: Home | None = None
) -> Tensor:
    """`value`, if it is a tensor the core can read, of this dtype, of one of the shapes, and at home."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if not torch.compiler.is_compiling():
        _check_kind(name, value)
    gpu = devices.gpu_of(value)
    if home is not None and (gpu != home.gpu or (gpu is None and not value.is_cpu)):
        expected = "CPU memory" if home.gpu is None else f"memory of cuda:{home.gpu}"
        raise ValueError(f"{name}: expected {expected}, where {home.name} is, got {value.device}")
    if gpu is None and not value.is_cpu:
        raise ValueError(f"{name}: expected memory of the CPU or of an NVIDIA GPU, got {value.device}")
    if not (torch.compiler.is_compiling() or is_transforming()):
        check_memory(name, value)
    check_dtype(name, value.dtype, gpu is not None)
    if dtype not in (None, value.dtype):
        raise TypeError(f"{name}: expected {dtype}, got {value.dtype}")
    if patterns:
        check_shape(name, value.shape, *patterns)
    return value


def check_dtype(name: str, dtype: Any, on_gpu: bool) -> None:
    """TypeError unless layers can run in it."""
    if dtype in DTYPES or (on_gpu and dtype in HALVES):
        return
    more = ", torch.float16 or torch.bfloat16" if on_gpu else ""
    raise TypeError(f"{name}: expected torch.float32{',' if on_gpu else ' or'} torch.float64{more}, got {dtype}")


def _check_kind(name: str, value: Tensor) -> None:
    if torch.nn.parameter.is_lazy(value):
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}, whose shape is not yet known")
    if value.is_nested or value.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got {'a nested one' if value.is_nested else value.layout}")
    if type(value).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        raise TypeError(f"{name}: expected a tensor with memory of its own, got {type(value).__name__}")


def settled(tensor: Tensor) -> Tensor:
    """A tensor that has been checked, or is a gradient of one, with its numbers as they are in memory."""
    tensor = tensor.detach()
    return tensor.clone() if tensor._is_zerotensor() else tensor.resolve_neg()


def as_array(tensor: Tensor) -> Array:
    """The numbers of such a tensor."""
    array: Array = settled(tensor).numpy()
    return array
