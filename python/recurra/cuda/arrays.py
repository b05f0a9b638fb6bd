"""CUDA arrays that callers hand in, read without a copy: CuPy's, torch's, and all that have `__cuda_array_interface__`
(https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html) or DLPack. Beside `_arrays`, for the CPU.

Nothing is cast, moved between devices or waited for.
"""

from __future__ import annotations

import functools
import math
import operator
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core
from .._arrays import HOST, check_shape, device_name, offers, settled
from .array_libraries import LEGACY_STREAM, Library, current_stream, is_cupy, is_torch, library_of, registered
from .buffers import Buffer

if TYPE_CHECKING:
    from .._arrays import Pattern

# DLPack device types: GPU memory, and memory that the driver moves to whoever touches it.
_CUDA = (2, 13)


class View(NamedTuple):
    """An array in a GPU's memory, which lives as long as the view.

    Attributes:
        name: the argument, for errors.
        pointer: address of the first element; 0 is possible only if there is none.
        shape: sizes of the axes.
        strides: elements from one to the next along each axis; may be 0 or negative.
        dtype: "float32", "float64", "float16", "bfloat16", or whatever else was asked for.
        device: number of the GPU.
        readonly: whether it must not be written.
        stream: on which the array was made, as far as its library says; None if there is nothing to wait for.
        owner: the caller's array.
        memory: what else keeps the memory alive.
    """

    name: str
    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    device: int
    readonly: bool
    stream: int | None
    owner: Any
    memory: Any = None

    @property
    def library(self) -> Library:
        """Which makes results for such an array; TypeError if there is none."""
        return library_of(self.name, self.owner)


class Sequence(NamedTuple):
    """A view as the core takes it: [steps, rows, features] with strides in elements."""

    pointer: int
    steps: int
    rows: int
    step_stride: int
    row_stride: int
    feature_stride: int

    @property
    def array(self) -> tuple[int, int, int, int]:
        """Address and strides, as the core's calls take them."""
        return (self.pointer, self.step_stride, self.row_stride, self.feature_stride)


# ---- reading


def view(name: str, value: Any, dtype: str | tuple[str, ...], *patterns: Pattern, device: int) -> View:
    """`value`, a CUDA array on this GPU, of exactly this dtype (or one of these) and of one of the shapes, in which a
    string stands for any size.

        >>> x = view("x", value, "float32", ("T", "B", 12), ("T", 12), device=0)

    Raises:
        TypeError: another kind of object or another dtype.
        ValueError: another shape, the memory of a CPU or another GPU, or none.
    """
    found = _read(name, value, device)
    wanted = (dtype,) if isinstance(dtype, str) else dtype
    if found.dtype not in wanted:
        raise TypeError(f"{name}: expected {' or '.join(wanted)}, got {found.dtype}")
    check_shape(name, found.shape, *patterns)
    return found


def on_gpu(value: object) -> bool:
    """Whether `value` claims to be a CUDA array; for arguments that may as well be on the CPU."""
    if is_torch(value):
        return bool(value.is_cuda)  # type: ignore[attr-defined]
    if offers(value, "__cuda_array_interface__"):
        return True
    try:
        return int(value.__dlpack_device__()[0]) in _CUDA  # type: ignore[attr-defined]
    except Exception:  # it has none, or whatever it raises
        return False


def _read(name: str, value: Any, device: int) -> View:
    if is_torch(value):
        return _read_torch(name, value, device)
    if is_cupy(value):
        return _read_cupy(name, value, device)
    if type(value) is Buffer:
        return _read_buffer(name, value, device)
    problem = None
    try:
        interface = getattr(value, "__cuda_array_interface__", None)
        dtype = None if interface is None else np.dtype(interface["typestr"])
    except Exception as error:  # whatever the property raises, or nonsense in place of an interface
        dtype, problem = None, error
    dlpack = offers(value, "__dlpack__")
    if dtype is not None and not (dtype.kind == "V" and dlpack):  # the interface has no name for bfloat16
        return _read_interface(name, value, device, interface, dtype)
    if dlpack:
        return _read_dlpack(name, value, device)
    if problem is not None:
        raise TypeError(f"{name}: cannot be read through __cuda_array_interface__: {problem!r}") from problem
    raise TypeError(f"{name}: expected a CUDA array on cuda:{device}, got {type(value).__name__}")


def _read_torch(name: str, value: Any, device: int) -> View:
    if not value.is_cuda:
        raise _wrong_device(name, device, f"a torch tensor on {'the CPU' if value.is_cpu else value.device}")
    if value.requires_grad:
        raise TypeError(f"{name}: expected a tensor that does not require grad, got one that does: use x.detach()")
    tensor = settled(name, value)
    if tensor.layout is not sys.modules["torch"].strided:
        raise TypeError(f"{name}: expected a dense tensor, got one of layout {tensor.layout}")
    number = tensor.get_device()
    if number != device:
        raise _wrong_device(name, device, f"a torch tensor on cuda:{number}")
    dtype = str(tensor.dtype).removeprefix("torch.")
    stream = current_stream(library_of(name, value), device)
    readonly = tensor is not value  # a copy, of what was lazily negated
    return View(name, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), dtype, device, readonly, stream, tensor)


def _read_cupy(name: str, value: Any, device: int) -> View:
    number = value.data.device_id
    if number != device:
        raise _wrong_device(name, device, f"a CuPy array on cuda:{number}")
    strides = _elements(name, value.shape, value.strides, value.itemsize)
    stream = current_stream(library_of(name, value), device)
    return View(name, value.data.ptr, value.shape, strides, _name(value.dtype), device, False, stream, value)


def _read_buffer(name: str, value: Buffer, device: int) -> View:
    if value.device != device:
        raise _wrong_device(name, device, f"a buffer on cuda:{value.device}")
    strides = contiguous_strides(value.shape)
    return View(name, value.pointer, value.shape, strides, value.dtype, device, False, LEGACY_STREAM, value)


@functools.lru_cache(maxsize=32)
def _name(dtype: np.dtype[Any]) -> str:
    return dtype.name  # which NumPy puts together in two microseconds


def _read_interface(name: str, value: Any, device: int, interface: Any, dtype: np.dtype[Any]) -> View:
    try:
        version, pointer = operator.index(interface["version"]), operator.index(interface["data"][0])
        readonly = bool(interface["data"][1])
        shape = tuple(map(operator.index, interface["shape"]))
        given, mask, stream = (interface.get(key) for key in ("strides", "mask", "stream"))
        strides = contiguous_strides(shape, dtype.itemsize) if given is None else tuple(map(operator.index, given))
        stream = None if stream is None else operator.index(stream)
        if version not in (2, 3):
            raise ValueError(f"expected version 2 or 3, got {version}")
        if min(shape, default=0) < 0 or len(strides) != len(shape) or pointer < 0:
            raise ValueError(f"expected shape, strides and address, got {shape}, {strides} and {pointer}")
        if stream is not None and stream < 1:
            raise ValueError(f"expected a stream other than {stream}, which may be any")
    except Exception as error:
        raise TypeError(f"{name}: cannot be read through __cuda_array_interface__: {error!r}") from error
    if mask is not None:
        raise TypeError(f"{name}: expected a plain array, got a masked one (its mask would be lost)")
    if not dtype.isnative:
        raise TypeError(f"{name}: expected native byte order, got {dtype}")
    if math.prod(shape):
        number = _core.cuda.device_of(_checked(name, pointer, dtype.itemsize))
        if number != device:
            raise _wrong_device(name, device, f"memory of {'no GPU' if number < 0 else f'cuda:{number}'}")
    stream = LEGACY_STREAM if stream == 1 else stream
    strides = _elements(name, shape, strides, dtype.itemsize)
    return View(name, pointer, shape, strides, dtype.name, device, readonly, stream, value)


def _read_dlpack(name: str, value: Any, device: int) -> View:
    try:
        kind, number = map(int, value.__dlpack_device__())
    except Exception as error:
        raise TypeError(f"{name}: cannot be read through DLPack: {error}") from error
    if kind not in _CUDA:
        where = "the CPU" if kind in HOST else f"{device_name(kind)}:{number}"
        what = "a NumPy array" if isinstance(value, np.ndarray) else f"an array ({type(value).__name__})"
        raise _wrong_device(name, device, f"{what} on {where}")
    if number != device:
        raise _wrong_device(name, device, f"one on cuda:{number}")
    stream = current_stream(library_of(name, value), device)
    try:
        capsule = _capsule(value, stream)
        memory = _core.cuda.DLPack(capsule)
    except Exception as error:
        raise TypeError(f"{name}: cannot be read through DLPack: {error}") from error
    if memory.device != (kind, number):
        raise _wrong_device(name, device, f"one on {device_name(memory.device[0])}:{memory.device[1]}")
    if math.prod(memory.shape):
        _checked(name, memory.pointer, memory.item_size)
    strides = contiguous_strides(memory.shape) if memory.strides is None else memory.strides
    # What is written to it would be read on a stream that DLPack does not tell: a registered library does.
    readonly = memory.readonly or registered(value) is None
    return View(name, memory.pointer, memory.shape, strides, memory.dtype, device, readonly, stream, value, memory)


def _capsule(value: Any, stream: int) -> Any:
    """A capsule of an array whose producer has made this stream wait for it."""
    stream = 1 if stream == LEGACY_STREAM else stream
    try:
        return value.__dlpack__(stream=stream, max_version=(1, 0))
    except TypeError:  # made before DLPack 1.0
        return value.__dlpack__(stream=stream)


def _wrong_device(name: str, device: int, got: str) -> ValueError:
    return ValueError(f"{name}: expected a CUDA array on cuda:{device}, got {got}")


def _checked(name: str, pointer: int, item_size: int) -> int:
    """The address of an array that is not empty."""
    if not pointer:
        raise ValueError(f"{name}: expected an array with memory, got address 0")
    if pointer % item_size:
        raise ValueError(f"{name}: expected aligned data, got address {pointer:#x}")
    return pointer


def is_contiguous(array: View) -> bool:
    """Whether its elements follow each other in memory in C order."""
    wanted = contiguous_strides(array.shape)
    return 0 in array.shape or all(
        size == 1 or have == want for size, have, want in zip(array.shape, array.strides, wanted, strict=True)
    )


def contiguous_strides(shape: tuple[int, ...], item_size: int = 1) -> tuple[int, ...]:
    """Strides of a C-contiguous array."""
    strides, step = [], item_size
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def _elements(name: str, shape: tuple[int, ...], strides: tuple[int, ...], item_size: int) -> tuple[int, ...]:
    """Strides in elements from those in bytes."""
    if any([stride % item_size and size > 1 for size, stride in zip(shape, strides, strict=True)]):
        raise ValueError(f"{name}: expected strides of whole elements of {item_size} bytes, got {strides}")
    return tuple([stride // item_size for stride in strides])


# ---- layouts


def sequence(array: View, batch_first: bool = False) -> Sequence:
    """x or an output [T, B, size], with batch_first [B, T, size], or a state [L*D, B, size]; each may lack the batch
    axis."""
    if len(array.shape) == 2:
        (steps, _), (step, feature) = array.shape, array.strides
        return Sequence(array.pointer, steps, 1, step, 0, feature)
    (steps, rows, _), (step, row, feature) = array.shape, array.strides
    if batch_first:
        steps, rows, step, row = rows, steps, row, step
    return Sequence(array.pointer, steps, rows, step, row, feature)


def strided(array: View | None, batch_first: bool = False) -> tuple[int, int, int, int] | None:
    """The same as the core's calls take it, if there is one."""
    return None if array is None else sequence(array, batch_first).array


def single_step(array: View) -> Sequence:
    """One step: [B, size], or [size] without a batch axis."""
    rows, row = (array.shape[0], array.strides[0]) if len(array.shape) == 2 else (1, 0)
    return Sequence(array.pointer, 1, rows, 0, row, array.strides[-1])
