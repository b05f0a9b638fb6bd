"""Arrays that callers hand in: checked here, so that the compiled core sees only valid views. (In calls and steps it
recognises plain arrays of the right shapes itself.)

Nothing is cast, moved between devices or guessed. Callers check everything before they let `row_contiguous` or
`contiguous` copy anything.
"""

from __future__ import annotations

import math
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from ._options import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import EllipsisType
    from typing import Protocol, TypeAlias

    from numpy.typing import NDArray

    class DLPack(Protocol):
        """An array of another library that offers its memory through DLPack."""

        def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...
        def __dlpack_device__(self) -> tuple[Any, Any]: ...

    Array: TypeAlias = NDArray[Any]
    Input: TypeAlias = NDArray[Any] | DLPack
    Pattern: TypeAlias = tuple[int | str | EllipsisType, ...]

# DLPack device types: ordinary and pinned host memory, which the CPU reads in place, and names for error messages.
HOST = (1, 3, 11)
_DEVICES = {2: "cuda", 4: "opencl", 7: "vulkan", 8: "metal", 10: "rocm", 13: "cuda managed", 14: "oneapi", 15: "webgpu"}

# Effort np.may_share_memory may spend to tell interleaved views apart; beyond it the answer is "perhaps".
_OVERLAP_WORK = 10_000

# Smaller allocations are not compared with the machine's memory: the question costs more than it can save.
_SMALL_BYTES = 1 << 28


def as_array(name: str, value: Any) -> Array:
    """`value` as a NumPy array over the same memory: an ndarray, or anything with __dlpack__ on the CPU."""
    if type(value) is np.ndarray:
        return value
    kind_of_value: type = type(value)  # which, unlike __class__, no object can make up
    if issubclass(kind_of_value, np.ndarray):
        if issubclass(kind_of_value, np.ma.MaskedArray):
            raise TypeError(f"{name}: expected a plain array, got a masked one (its mask would be lost)")
        plain: Array = np.ndarray.view(value, np.ndarray)  # a subclass may have overridden its own
        return plain
    if not offers(value, "__dlpack__"):
        if offers(value, "__cuda_array_interface__"):
            raise ValueError(f"{name}: expected CPU memory, got a CUDA array ({kind_of_value.__name__})")
        raise TypeError(f"{name}: expected a NumPy or DLPack array, got {kind_of_value.__name__}")
    plain_numbers = settled(name, value)
    try:
        kind, index = map(int, plain_numbers.__dlpack_device__())
        array: Array | None = np.from_dlpack(plain_numbers) if kind in HOST else None
    except Exception as error:
        # The reasons are many: it requires grad, NumPy lacks its dtype, there is no memory behind it, ...
        raise TypeError(f"{name}: cannot be read through DLPack: {error}") from error
    if array is None:
        raise ValueError(f"{name}: expected CPU memory, got {device_name(kind)}:{index}")
    return array


def device_name(kind: int) -> str:
    """What errors call a DLPack device type."""
    return _DEVICES.get(kind, f"DLPack device type {kind}")


def settled(name: str, value: Any) -> Any:
    """A torch tensor whose memory holds its numbers; DLPack hands out what is lazily negated, or traced, as it lies."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not isinstance(value, getattr(torch, "Tensor", ())):
        return value
    tensor: Any = value
    unreadable = {
        "a nested tensor": tensor.is_nested,
        "an uninitialised parameter": torch.nn.parameter.is_lazy(tensor),
        "a tensor that torch.func transforms": torch._C._functorch.is_functorch_wrapped_tensor(tensor),
        f"a {type(tensor).__name__}, which has no memory of its own": (
            type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
        ),
    }
    for what, so in unreadable.items():
        if so:
            raise TypeError(f"{name}: expected an array, got {what}")
    if (
        torch.autograd.forward_ad._current_level >= 0
        and torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None
    ):
        raise TypeError(f"{name}: expected an array, got a tensor with a forward-mode derivative, which would be lost")
    if tensor.layout is torch.strided and (tensor.is_cpu or tensor.is_cuda):
        check_memory(name, tensor)
    return tensor.clone() if tensor._is_zerotensor() else tensor.resolve_conj().resolve_neg()


def check_memory(name: str, tensor: Any) -> None:
    """ValueError if a dense torch tensor has numbers and no memory: released (as sharded training does between calls),
    or a wrapper of another. NumPy would read whatever lies elsewhere."""
    if not tensor.data_ptr() and tensor.numel() and not tensor._is_zerotensor():
        raise ValueError(f"{name}: expected a tensor with memory, got one whose memory has been released")


def check(name: str, value: object, dtype: np.dtype[Any], *patterns: Pattern) -> Array:
    """`value` as an array of exactly this dtype and one of the shapes, in which a string stands for any size, and `...`
    in front for any axes."""
    array = as_array(name, value)
    check_dtype(name, array.dtype, dtype)
    check_shape(name, array.shape, *patterns)
    return array


def check_dtype(name: str, dtype: np.dtype[Any], wanted: np.dtype[Any]) -> None:
    """TypeError unless it is this dtype."""
    if dtype != wanted:
        swapped = "" if dtype.isnative else " (not in native byte order)"
        raise TypeError(f"{name}: expected {wanted}, got {dtype}{swapped}")


def check_shape(name: str, shape: tuple[int, ...], *patterns: Pattern) -> None:
    """ValueError unless it is one of the shapes, as of `check`."""
    for pattern in patterns:
        if _fits(shape, pattern):
            return
    expected = " or ".join(_text(pattern) for pattern in patterns)
    raise ValueError(f"{name}: expected shape {expected}, got {_text(shape)}")


def row_contiguous(array: Array) -> Array:
    """The array itself if it is aligned and its last axis contiguous, else such a copy."""
    return array if _has_plain_rows(array) else np.array(array, order="C")


def contiguous(array: Array) -> Array:
    """The array itself if it is aligned and C-contiguous, else such a copy."""
    return array if array.flags.c_contiguous and array.flags.aligned else np.array(array, order="C")


def batched(array: Array, batch_first: bool = False) -> Array:
    """View with the batch on axis 1, as the core takes sequences and states: [T, B, size] or [L*D, B, size]."""
    if array.ndim == 2:
        return array[:, None]
    return array.swapaxes(0, 1) if batch_first else array


def detached(value: Any) -> Any:
    """A parameter without its history: those of torch modules require grad, which inference may ignore."""
    if type(value) is np.ndarray or not offers(value, "detach"):
        return value
    try:
        return value.detach()
    except Exception:  # whatever an object of another kind raises; `as_array` says what it is
        return value


def unwrapped(states: list[Any]) -> Any:
    """States as callers know them: h alone, or a tuple."""
    return states[0] if len(states) == 1 else tuple(states)


def wrapped(state: Any) -> tuple[Any, ...]:
    """The inverse of `unwrapped`."""
    return state if isinstance(state, tuple) else (state,)


def empty(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A new array; MemoryError naming it if the machine cannot hold it."""
    require_memory(name, math.prod(shape) * dtype.itemsize)
    try:
        return np.empty(shape, dtype)
    except (ValueError, MemoryError) as error:
        raise MemoryError(f"{name}: cannot allocate shape {_text(shape)}: {error}") from error


def output(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: Mapping[str, Array]) -> tuple[Array, Array]:
    """The array to return, a new one or the caller's `out`, and a plain view of it, which the core can write without
    touching `inputs`."""
    if out is None:
        array = empty("output", shape, dtype)
        return array, array
    array = check("out", own_array("out", out), dtype, shape)
    if not array.flags.writeable:
        raise ValueError("out: expected a writeable array, got a read-only one")
    if not _has_plain_rows(array):
        raise ValueError(f"out: expected aligned data with a contiguous last axis, got strides {array.strides}")
    if may_overlap_itself(array):
        raise ValueError(f"out: expected elements that do not overlap each other, got strides {array.strides}")
    check_distinct(array, inputs)
    return out, array


def own_array(name: str, value: object) -> Array:
    """A plain view of an array that is to be written, which must be NumPy's."""
    if not issubclass(type(value), np.ndarray):
        cuda = "a CUDA array, " if offers(value, "__cuda_array_interface__") else ""  # CuPy's are called ndarray too
        raise TypeError(f"{name}: expected a NumPy array, got {cuda}{type(value).__name__}")
    return as_array(name, value)


def check_distinct(out: Array, inputs: Mapping[str, Array], title: str = "out") -> None:
    """ValueError naming the first of `inputs` that shares memory with `out`, which errors call by its title."""
    for name, array in inputs.items():
        if np.may_share_memory(out, array, max_work=_OVERLAP_WORK):  # type: ignore[arg-type,unused-ignore]
            raise ValueError(f"{title}: expected memory of its own, got an array that overlaps {name}")


def vector(name: str, value: object, size: int | None, kinds: str = "iu", of_booleans: str = "") -> Array:
    """`value`, an array or a flat sequence, as a 1-D array whose dtype is of one of `kinds`; `of_booleans` is added to
    the error about those."""
    wanted = f"integers{' or booleans' if 'b' in kinds else ''}"
    if isinstance(value, (list, tuple, range)):
        try:
            array = np.array(value) if len(value) else np.empty(0, np.int64)
            mixed = array.dtype.kind in "iu" and any(_is_bool(item) for item in value)
        except Exception as error:  # ragged, or whatever an element's __array__ raises
            refusal = ValueError if isinstance(error, ValueError) else TypeError
            raise refusal(f"{name}: expected a flat sequence of {wanted}: {error}") from error
        if mixed:
            raise TypeError(f"{name}: expected {wanted}, got both")
    else:
        array = as_array(name, value)
    if array.dtype.kind not in kinds:
        raise TypeError(f"{name}: expected {wanted}, got {array.dtype}{of_booleans if array.dtype == bool else ''}")
    if array.ndim != 1 or size not in (None, len(array)):
        raise ValueError(f"{name}: expected shape [{'any' if size is None else size}], got {_text(array.shape)}")
    return array


def row_lengths(value: object, rows: int, steps: int) -> Array:
    """The caller's lengths as int64 in 0..steps."""
    hint = ": pass a mask of booleans as mask="
    return bounded("lengths", vector("lengths", value, rows, of_booleans=hint), steps)


def bounded(name: str, array: Array, limit: int) -> Array:
    """An int64 copy of an integer array, every value of which lies in 0..limit."""
    copy = array.astype(np.int64)  # copied first: what was checked is what is used
    wrong = (copy < 0) | (copy > limit)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"{name}: expected values in 0..{limit}, got {array[row]} at position {row}")
    return copy


def require_memory(name: str, size: int) -> None:
    """MemoryError if `size` bytes are more than the machine has."""
    if size > _SMALL_BYTES and size > (memory := machine_memory()):
        raise MemoryError(f"{name}: needs {shown(size)} bytes, this machine has {memory}")


class memory_for:  # noqa: N801  (a `with` statement reads so)
    """Around a core call: a MemoryError that names the argument if the core gets no memory."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if isinstance(error, MemoryError):
            raise MemoryError(f"{self._name}: {error}") from error


def require_batch(batch: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """ValueError unless x, of this shape, has a batch axis for the lengths that came with it."""
    if not batch:
        raise ValueError(f"lengths: expected none without a batch axis, got them with x of shape {list(shape)}")


def require_rows(name: str, batch: int) -> None:
    """ValueError if there are more sequences than the core can count."""
    if batch >= 1 << 31:
        raise ValueError(f"{name}: expected fewer than 2**31 sequences, got {batch}")


def offers(value: object, protocol: str) -> bool:
    """Whether it has an attribute of this name: "__dlpack__", "__cuda_array_interface__", "detach"."""
    try:
        return hasattr(value, protocol)
    except Exception:  # whatever the caller's __getattr__ raises
        return False


def _is_bool(value: object) -> bool:
    return type(value) is not int and np.asarray(value).dtype.kind == "b"


def machine_memory() -> int:
    """Bytes of memory that this machine has."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system tells
        return sys.maxsize


def _fits(shape: tuple[int, ...], pattern: Pattern) -> bool:
    if shape == pattern:
        return True
    if pattern[:1] == (...,):
        pattern = pattern[1:]
        shape = shape[max(0, len(shape) - len(pattern)) :]
    return len(shape) == len(pattern) and all(  # over a list: a generator would take twice as long
        [want == have or isinstance(want, str) for have, want in zip(shape, pattern, strict=True)]
    )


def _text(shape: Pattern) -> str:
    return f"[{', '.join('...' if size is ... else str(size) for size in shape)}]"


def _has_plain_rows(array: Array) -> bool:
    flags = array.flags
    return flags.aligned and (flags.c_contiguous or array.shape[-1] == 1 or array.strides[-1] == array.itemsize)


def may_overlap_itself(array: Array) -> bool:
    """Exact for every view that slicing and transposing can make: each axis must step over all the finer ones."""
    if array.flags.c_contiguous:
        return False
    extent = array.itemsize
    for stride, size in sorted((abs(stride), size) for stride, size in zip(array.strides, array.shape, strict=True)):
        if size > 1:
            if stride < extent:
                return True
            extent += stride * (size - 1)
    return False
