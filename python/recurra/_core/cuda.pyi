"""
The GPU. No library of CUDA is opened before it is needed.
"""
from __future__ import annotations
import collections.abc
import typing
__all__: list[str] = ['cache_folder', 'cached', 'compile', 'device', 'device_count', 'found', 'set_library_path']
def cache_folder() -> str:
    """
    Where compiled kernels are kept; empty when they are not.
    """
def cached(source: str, options: collections.abc.Sequence[str], architecture: str) -> bytes:
    """
    The cubin, from the cache on disk or put there.
    """
def compile(source: str, options: collections.abc.Sequence[str], architecture: str) -> tuple[bytes, str]:
    """
    The cubin and the compiler's log. Needs NVRTC and no GPU.
    """
def device(ordinal: typing.SupportsInt | typing.SupportsIndex) -> dict:
    """
    A GPU's name, compute capability and number of multiprocessors.
    """
def device_count() -> int:
    """
    How many GPUs there are; 0 without a driver.
    """
def found() -> list[dict[str, str]]:
    """
    What there is of driver, nvrtc and cublas: name, path, version, problem; empty where there is none.
    """
def set_library_path(library: str, path: str) -> None:
    """
    Where "nvrtc" or "cublas" is, unless one is loaded already.
    """
