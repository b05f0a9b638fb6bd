"""
The GPU. No library of CUDA is opened before it is needed.
"""
from __future__ import annotations
import collections.abc
import typing
import typing_extensions
__all__: list[str] = ['DLPack', 'cache_folder', 'cached', 'compile', 'device', 'device_count', 'device_of', 'found', 'set_library_path', 'wait']
class DLPack:
    """
    The array of a DLPack capsule, which is used up.
    """
    def __init__(self, capsule: typing_extensions.CapsuleType) -> None:
        ...
    @property
    def device(self) -> tuple[int, int]:
        """
        DLPack's device type, and number.
        """
    @property
    def dtype(self) -> str:
        ...
    @property
    def item_size(self) -> int:
        ...
    @property
    def pointer(self) -> int:
        ...
    @property
    def readonly(self) -> bool:
        ...
    @property
    def shape(self) -> tuple:
        ...
    @property
    def strides(self) -> typing.Any:
        """
        In elements; None for a C-contiguous array.
        """
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
def device_of(pointer: typing.SupportsInt | typing.SupportsIndex) -> int:
    """
    The number of the GPU that the memory belongs to, -1 if it is of none.
    """
def found() -> list[dict[str, str]]:
    """
    What there is of driver, nvrtc and cublas: name, path, version, problem; empty where there is none.
    """
def set_library_path(library: str, path: str) -> None:
    """
    Where "nvrtc" or "cublas" is, unless one is loaded already.
    """
def wait(stream: typing.SupportsInt | typing.SupportsIndex, producer: typing.SupportsInt | typing.SupportsIndex, device: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Makes a stream wait for what another has been given so far.
    """
