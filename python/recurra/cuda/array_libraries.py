"""Array libraries: they allocate what a call returns, and name the stream that the call belongs to."""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any, Protocol

import numpy as np

__all__ = ["Library", "register_library"]

# The legacy default stream is 1 in the array interface and DLPack, 0 in CuPy and torch; here it is 0.
LEGACY_STREAM = 0


class Library(Protocol):
    """What `register_library` wants to know of a library of CUDA arrays."""

    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        """A new array on GPU number `device`, C-contiguous, allocated in the order of the library's current stream.

        It has `__cuda_array_interface__` or `__dlpack__`. dtype is "float32", "float64", "float16", "bfloat16" or, for
        workspaces, "uint8"; TypeError if the library lacks it, MemoryError if the GPU has no room.
        """

    def current_stream(self, device: int) -> int:
        """The handle of this thread's current stream on GPU number `device`: a cudaStream_t, 0 or 1 for the legacy
        default stream, or 2 for the thread's."""


def register_library(kind: type, library: Library) -> None:
    """Have results for arrays of a type made by a library; PyTorch's and CuPy's need no registration.

        >>> class Numba:
        ...     def empty(self, shape, dtype, device):
        ...         with numba.cuda.gpus[device]:
        ...             return numba.cuda.device_array(shape, dtype)
        ...
        ...     def current_stream(self, device):
        ...         return 1
        >>> recurra.cuda.register_library(numba.cuda.devicearray.DeviceNDArray, Numba())

    A call returns arrays of the library of its x, on that library's current stream. For types that nobody has
    registered that is CuPy, or where it is not installed PyTorch, if it has been imported.

    Args:
        kind: type of arrays; its subclasses count as such too, unless they are registered themselves.
        library: how to make arrays and to find the current stream, see `Library`. A later one replaces it.

    Raises:
        TypeError: `kind` is not a type, or `library` lacks a method.
    """
    if not isinstance(kind, type):
        raise TypeError(f"kind: expected a type, got {kind!r}")
    for method in ("empty", "current_stream"):
        if not callable(getattr(library, method, None)):
            raise TypeError(f"library: expected an object with empty and current_stream, got {type(library).__name__}")
    global _registered
    _registered = {**_registered, kind: library}


def library_of(name: str, value: object) -> Library:
    """The library that makes results for such an array; TypeError naming the argument if there is none."""
    if (library := registered(value)) is not None:
        return library
    if is_torch(value):
        return _TORCH
    if _cupy() is not None:
        return _CUPY
    if "torch" in sys.modules:
        return _TORCH
    raise TypeError(
        f"{name}: expected an array of a library that can make the results, got {type(value).__name__}: install CuPy"
        " (pip install cupy-cuda13x), import torch or use recurra.cuda.register_library"
    )


def registered(value: object) -> Library | None:
    """The library that was registered for arrays of this type."""
    for kind in type(value).__mro__:
        if kind in _registered:
            return _registered[kind]
    return None


def registrations() -> object:
    """Another object after each registration."""
    return _registered


def current_stream(library: Library, device: int) -> int:
    """The handle of the library's current stream on a GPU."""
    handle = library.current_stream(device)
    return LEGACY_STREAM if handle == 1 else handle


def is_torch(value: object) -> bool:
    """Whether it is a torch tensor, by its true type."""
    return issubclass(type(value), getattr(sys.modules.get("torch"), "Tensor", ()))


def is_cupy(value: object) -> bool:
    """Whether it is a CuPy array, by its true type."""
    return issubclass(type(value), getattr(sys.modules.get("cupy"), "ndarray", ()))


class _Torch:
    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        torch: Any = sys.modules["torch"]
        try:
            return torch.empty(shape, dtype=getattr(torch, dtype), device=torch.device("cuda", device))
        except torch.cuda.OutOfMemoryError as error:
            raise MemoryError(str(error)) from error

    def current_stream(self, device: int) -> int:
        # torch.cuda.current_stream(device).cuda_stream, without the Python object in between
        return sys.modules["torch"]._C._cuda_getCurrentRawStream(device)  # type: ignore[no-any-return]


class _CuPy:
    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        cupy = _cupy()
        with cupy.cuda.Device(device):
            if dtype != "bfloat16":
                return cupy.empty(shape, dtype)
            try:
                return cupy.empty(shape, _bfloat16())
            except (ImportError, TypeError, ValueError) as error:
                need = "expected CuPy 14 or newer with ml_dtypes, which it takes bfloat16 from"
                raise TypeError(f"{need}, got CuPy {cupy.__version__}: {error}") from error

    def current_stream(self, device: int) -> int:
        return _cupy().cuda.get_current_stream(device).ptr  # type: ignore[no-any-return]


_TORCH, _CUPY = _Torch(), _CuPy()
_registered: dict[type, Library] = {}


def _cupy() -> Any:
    """CuPy, imported if need be; None where it cannot be."""
    return sys.modules.get("cupy") or _imported_cupy()


@functools.cache
def _imported_cupy() -> Any:
    try:
        return importlib.import_module("cupy")
    except ImportError:  # also what CuPy raises without a driver
        return None


def _bfloat16() -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    return dtype
