"""Arrays in GPU memory that need no library but the driver, or the stand-in for it; and a library of theirs."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import Array

from recurra import _core
from recurra.cuda import register_library


@functools.cache
def driver() -> ctypes.CDLL:
    """The driver that the core uses, initialised."""
    library = ctypes.CDLL(str(Path(os.environ.get("RECURRA_CUDA_LIBRARIES", "")) / "libcuda.so.1"))
    call(library.cuInit(0))
    return library


def require_gpu() -> None:
    """Skip a test, or a file of tests, where there is neither a GPU nor the stand-in."""
    if not _core.cuda.device_count():
        why = "no GPU, and RECURRA_CUDA_LIBRARIES does not name the stand-in's folder, as test_cuda.py has it"
        pytest.skip(why, allow_module_level=True)


def call(status: int) -> None:
    assert status == 0, f"the driver refused with error {status}"


@functools.cache
def _context(device: int) -> ctypes.c_void_p:
    handle, context = ctypes.c_int(), ctypes.c_void_p()
    call(driver().cuDeviceGet(ctypes.byref(handle), device))
    call(driver().cuDevicePrimaryCtxRetain(ctypes.byref(context), handle))
    return context


@contextlib.contextmanager
def on_device(device: int) -> Iterator[ctypes.CDLL]:
    """The driver, with the GPU's context current."""
    call(driver().cuCtxPushCurrent_v2(_context(device)))
    try:
        yield driver()
    finally:
        call(driver().cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p())))


def new_stream(device: int = 0, blocking: bool = False) -> int:
    """The handle of a new stream, which is never destroyed."""
    stream = ctypes.c_void_p()
    with on_device(device) as cuda:
        call(cuda.cuStreamCreate(ctypes.byref(stream), 0 if blocking else 1))
    return stream.value or 0


def synchronize(stream: int, device: int = 0) -> None:
    """Wait for all that a stream has been given."""
    with on_device(device) as cuda:
        call(cuda.cuStreamSynchronize(ctypes.c_void_p(stream)))


def is_capturing(stream: int, device: int = 0) -> bool:
    """Whether work for the stream goes to a graph."""
    status = ctypes.c_int()
    with on_device(device) as cuda:
        call(cuda.cuStreamIsCapturing(ctypes.c_void_p(stream), ctypes.byref(status)))
    return status.value != 0


def wait(stream: int, producer: int, device: int = 0) -> None:
    """Make a stream wait for what another has been given."""
    event = ctypes.c_void_p()
    with on_device(device) as cuda:
        call(cuda.cuEventCreate(ctypes.byref(event), 2))
        call(cuda.cuEventRecord(event, ctypes.c_void_p(producer)))
        call(cuda.cuStreamWaitEvent(ctypes.c_void_p(stream), event, 0))
        call(cuda.cuEventDestroy_v2(event))


def begin(stream: int, for_all: bool = False) -> None:
    """Begin to capture a stream, for `end`; `for_all` forbids what may not be done meanwhile to all threads, as PyTorch
    does."""
    with on_device(0) as cuda:
        call(cuda.cuStreamBeginCapture_v2(ctypes.c_void_p(stream), 0 if for_all else 1))


def end(stream: int) -> ctypes.c_void_p:
    """The graph of what the stream has been given since."""
    graph = ctypes.c_void_p()
    with on_device(0) as cuda:
        call(cuda.cuStreamEndCapture(ctypes.c_void_p(stream), ctypes.byref(graph)))
    return graph


def replay(graph: ctypes.c_void_p, stream: int, times: int = 1) -> None:
    """Launch a graph, wait for it and destroy it."""
    exec_ = ctypes.c_void_p()
    with on_device(0) as cuda:
        call(cuda.cuGraphInstantiateWithFlags(ctypes.byref(exec_), graph, ctypes.c_uint64(0)))
        for _ in range(times):
            call(cuda.cuGraphLaunch(exec_, ctypes.c_void_p(stream)))
        call(cuda.cuStreamSynchronize(ctypes.c_void_p(stream)))
        call(cuda.cuGraphExecDestroy(exec_))
        call(cuda.cuGraphDestroy(graph))


class Memory:
    """Bytes of a GPU. When free they go to a pool of the stream that was current, as those of real libraries do: in a
    steady state the driver allocates nothing, and what is done with them next comes later in the same stream."""

    _pool: dict[tuple[int, int, int], list[int]] = {}  # noqa: RUF012
    allocations = 0  # of the driver

    def __init__(self, size: int, device: int) -> None:
        self.size, self.device, self.stream = size, device, LIBRARY.current_stream(device)
        self._free = self._pool.setdefault((device, self.stream, size), [])
        self.pointer = self._free.pop() if self._free else self._allocated()

    def _allocated(self) -> int:
        pointer = ctypes.c_uint64(0)
        if self.size:
            with on_device(self.device) as cuda:
                call(cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(self.size)))
            Memory.allocations += 1
        return pointer.value

    def __del__(self) -> None:
        if hasattr(self, "pointer"):
            self._free.append(self.pointer)

    def set(self, byte: int) -> None:
        """All bytes, in the stream."""
        if self.size:
            where, stream, size = (
                ctypes.c_uint64(self.pointer),
                ctypes.c_void_p(self.stream),
                ctypes.c_size_t(self.size),
            )
            with on_device(self.device) as cuda:
                call(cuda.cuMemsetD8Async(where, ctypes.c_ubyte(byte), size, stream))

    def read(self) -> Array:
        """A copy on the host, after what this thread's current stream has been given, and nothing else."""
        data = np.empty(self.size, "uint8")
        if self.size:
            synchronize(LIBRARY.current_stream(self.device), self.device)
            with on_device(self.device) as cuda:
                call(cuda.cuMemcpyDtoH_v2(data.ctypes, ctypes.c_uint64(self.pointer), ctypes.c_size_t(self.size)))
        return data

    def write(self, data: Array) -> None:
        """A copy of the host's, likewise; it has arrived when this returns."""
        if self.size:
            synchronize(LIBRARY.current_stream(self.device), self.device)
            with on_device(self.device) as cuda:
                call(cuda.cuMemcpyHtoD_v2(ctypes.c_uint64(self.pointer), data.ctypes, ctypes.c_size_t(self.size)))
            synchronize(0, self.device)


class _Addresses:
    def __init__(self, pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.__array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": f"|V{dtype.itemsize}",
            "data": (pointer, False),
        }


class DeviceArray:
    """An array in a GPU's memory, with the array interface or, for bfloat16, which that cannot name, DLPack.

        >>> x = DeviceArray.of(np.zeros((3, 4), "float32"))
        >>> x[:, ::-2].to_host()

    Slices and transposes are views. `stream` is what the interface says of its producer; `readonly` likewise.
    """

    readonly = False

    def __init__(self, shape: tuple[int, ...], dtype: str = "float32", device: int = 0) -> None:
        """A new array of no particular numbers (of NaN, for those who forget to write), of the current stream."""
        self.dtype, self.device = dtype, device
        self._numbers = np.dtype("uint16" if dtype == "bfloat16" else dtype)
        self.memory = Memory(math.prod(shape) * self._numbers.itemsize, device)
        self.stream: int | None = self.memory.stream or 1
        self._addresses = np.asarray(_Addresses(self.memory.pointer, shape, self._numbers))  # never read
        if not is_capturing(self.memory.stream, device):
            self.memory.set(255)

    @classmethod
    def of(cls, array: Any, dtype: str | None = None, device: int = 0) -> DeviceArray:
        """A copy of a host array; with dtype "bfloat16" one of float32 numbers, rounded to nearest even."""
        host = np.asarray(array)
        new = cls(host.shape, dtype or host.dtype.name, device)
        new.memory.write(np.ascontiguousarray(_rounded(host) if dtype == "bfloat16" else host.astype(new._numbers)))
        return new

    def to_host(self) -> Array:
        """A copy on the host; bfloat16 as float32."""
        offset = self.pointer - self.memory.pointer if self._addresses.size else 0
        host: Array = np.ndarray(self.shape, self._numbers, self.memory.read(), offset, self.strides).copy()
        return np.asarray((host.astype("uint32") << 16).view("float32")) if self.dtype == "bfloat16" else host

    def fill(self, array: Any) -> None:
        """Write host numbers to the elements of this view, and to no others."""
        data = self.memory.read()
        host: Array = np.ndarray(self.shape, self._numbers, data, self.pointer - self.memory.pointer, self.strides)
        host[...] = _rounded(np.asarray(array, "float32")) if self.dtype == "bfloat16" else array
        self.memory.write(data)

    def _view(self, addresses: Array) -> DeviceArray:
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__, _addresses=addresses)
        return new

    def __getitem__(self, key: Any) -> DeviceArray:
        addresses = self._addresses[key]
        assert np.may_share_memory(addresses, self._addresses) or not addresses.size, "not a view"
        return self._view(addresses)

    def transpose(self, *axes: int) -> DeviceArray:
        return self._view(self._addresses.transpose(*axes))

    def broadcast_to(self, shape: tuple[int, ...]) -> DeviceArray:
        return self._view(np.broadcast_to(self._addresses, shape))

    def exported(self, **changes: Any) -> DeviceArray:
        """The same array with another `stream` or `readonly`."""
        new = self._view(self._addresses)
        new.__dict__.update(changes)
        return new

    @property
    def pointer(self) -> int:
        return int(self._addresses.__array_interface__["data"][0]) if self._addresses.size else 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self._addresses.shape

    @property
    def strides(self) -> tuple[int, ...]:
        return self._addresses.strides

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": "<V2" if self.dtype == "bfloat16" else self._numbers.str,
            "data": (self.pointer, self.readonly),
            "strides": self.strides,
            "stream": self.stream,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, self.device)

    def __dlpack__(self, stream: int | None = None, max_version: tuple[int, int] | None = None) -> Any:
        assert stream is not None and stream != 0
        if stream != -1 and self.stream not in (None, stream):
            wait(stream, self.stream or 0, self.device)
        elements = tuple(step // self._numbers.itemsize for step in self.strides)
        versioned, flags = max_version is not None, int(self.readonly)
        return capsule(self, self.pointer, self.shape, elements, self.dtype, (2, self.device), versioned, flags=flags)


def _rounded(array: Array) -> Array:
    """The upper 16 bits of float32 numbers, rounded to nearest even; NaN must not be among them."""
    bits = array.astype("float32").view("uint32").astype("uint64")
    rounded: Array = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("uint16")
    return rounded


class DeviceLibrary:
    """A library of `DeviceArray`s: each thread has a current stream on every GPU."""

    def __init__(self) -> None:
        self._current = threading.local()

    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> DeviceArray:
        return DeviceArray(shape, dtype, device)

    def current_stream(self, device: int) -> int:
        stream: int = getattr(self._current, str(device), 0)
        return stream

    @contextlib.contextmanager
    def use(self, stream: int, device: int = 0) -> Iterator[None]:
        """Inside, `stream` is the current stream of this thread."""
        before = self.current_stream(device)
        setattr(self._current, str(device), stream)
        try:
            yield
        finally:
            setattr(self._current, str(device), before)


LIBRARY = DeviceLibrary()
register_library(DeviceArray, LIBRARY)


# ---- DLPack capsules

_CODES = {"int": 0, "uint": 1, "float": 2, "bfloat": 4, "complex": 5, "bool": 6}


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    )


_Release = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("release", _Release))


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("release", _Release),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_api = ctypes.pythonapi
_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(("PyCapsule_New", _api))
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))

live: dict[int, Any] = {}  # address of a managed tensor to all that belongs to it, until it is released


def _release_one(address: int) -> None:
    del live[address]


def _destroy_capsule(address: int) -> None:
    """Give back what nobody has used."""
    for name in (b"dltensor", b"dltensor_versioned"):
        if _is_valid(address, name):
            _release_one(_pointer(address, name))


_release, _destroy = _Release(_release_one), _Destructor(_destroy_capsule)


def capsule(
    owner: Any,
    pointer: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None,
    dtype: str,
    device: tuple[int, int],
    versioned: bool,
    *,
    lanes: int = 1,
    offset: int = 0,
    version: int = 1,
    flags: int = 0,
) -> Any:
    """A DLPack capsule; `live` holds its owner until it is released."""
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    steps = (ctypes.c_int64 * len(strides or ()))(*(strides or ()))
    kind = dtype.rstrip("0123456789")
    bits = int(dtype[len(kind) :] or 8)
    managed: Any = _Versioned(version, 0) if versioned else _Managed()
    if versioned:
        managed.flags = flags
    managed.release = _release
    managed.tensor = _Tensor(pointer, *device, len(shape), _CODES[kind], bits, lanes)
    managed.tensor.shape = ctypes.cast(sizes, ctypes.POINTER(ctypes.c_int64))
    if strides is not None:
        managed.tensor.strides = ctypes.cast(steps, ctypes.POINTER(ctypes.c_int64))
    managed.tensor.offset = offset
    address = ctypes.addressof(managed)
    live[address] = (owner, sizes, steps, managed)
    name = b"dltensor_versioned" if versioned else b"dltensor"
    return _new(address, name, ctypes.cast(_destroy, ctypes.c_void_p))


# ---- whole calls


def upload(values: Any, dtype: str | None = None, device: int = 0) -> Any:
    """The host arrays in a nest of tuples, lists and dictionaries on the GPU; None stays."""
    if isinstance(values, dict):
        return {name: upload(value, dtype, device) for name, value in values.items()}
    if isinstance(values, (tuple, list)):
        return tuple(upload(value, dtype, device) for value in values)
    return None if values is None else DeviceArray.of(values, dtype, device)


def download(values: Any) -> Any:
    """The inverse: a nest of tuples and dictionaries of host arrays, those of 16 bits as float32."""
    if isinstance(values, dict):
        return {name: download(value) for name, value in values.items()}
    if isinstance(values, (tuple, list)):
        return tuple(download(value) for value in values)
    if not isinstance(values, DeviceArray):
        return values
    host = values.to_host()
    return host.astype("float32") if host.dtype == np.float16 else host


def counted(name: str, on_gpu: int | None = None) -> int:
    """What the stand-in has counted, or how much of it is alive. A real driver counts nothing: `on_gpu`, or skip."""
    library = driver()
    if not hasattr(library, "standin_reset_counts"):
        if on_gpu is None:
            pytest.skip("a real driver counts nothing")
        return on_gpu
    count = getattr(library, f"standin_{name}")
    count.restype = ctypes.c_uint64
    return int(count())
