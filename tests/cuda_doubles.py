"""Arrays of CUDA libraries, and what the driver says of them, made up over host memory."""

from __future__ import annotations

import functools
import sys
import types
from typing import Any

import numpy as np
import pytest
from checks import Array
from cuda_arrays import capsule

from recurra import _core
from recurra.cuda import register_library


class Gpu:
    """What the driver is asked, and what it answers."""

    device = 0
    waits: list[tuple[int, int, int]]

    def __init__(self) -> None:
        self.waits, self.asked = [], 0

    def device_of(self, pointer: int) -> int:
        self.asked += 1
        return self.device

    def wait(self, stream: int, producer: int, device: int) -> None:
        self.waits.append((stream, producer, device))


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    made = Gpu()
    monkeypatch.setattr(_core.cuda, "device_of", made.device_of)
    monkeypatch.setattr(_core.cuda, "wait", made.wait)
    monkeypatch.setitem(sys.modules, "cupy", FakeCuPy())
    return made


class Interface:
    """An array of a library that nobody has registered, over host memory."""

    def __init__(self, array: Array, **changes: Any) -> None:
        self.array, self.changes = array, changes

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        own = {
            "version": 3,
            "shape": self.array.shape,
            "typestr": self.array.dtype.str,
            "data": (self.array.ctypes.data if self.array.size else 0, not self.array.flags.writeable),
            "strides": self.array.strides,
        }
        return {key: value for key, value in (own | self.changes).items() if value is not ...}


class Capsules:
    """An array that has nothing but DLPack."""

    def __init__(self, array: Array, dtype: str = "", kind: int = 2, device: int = 0, **changes: Any) -> None:
        self.array, self.dtype, self.device, self.changes = array, dtype or array.dtype.name, (kind, device), changes
        self.streams: list[int] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, *, stream: int, max_version: tuple[int, int]) -> Any:
        self.streams.append(stream)
        elements = tuple(step // self.array.itemsize for step in self.array.strides)
        more: dict[str, Any] = {"device": self.device, "strides": elements, "versioned": True} | self.changes
        pointer = self.array.ctypes.data - more.pop("behind", 0)
        return capsule(self, pointer, self.array.shape, dtype=self.dtype, **more)


class OldCapsules(Capsules):
    """As they were before DLPack 1."""

    def __dlpack__(self, *, stream: int) -> Any:  # type: ignore[override]
        self.changes["versioned"] = False
        return super().__dlpack__(stream=stream, max_version=(0, 8))


class FakeArray:
    """As CuPy's, over host memory."""

    def __init__(self, array: Array, device: int = 0) -> None:
        self.array, self.shape, self.strides, self.dtype = array, array.shape, array.strides, array.dtype
        self.itemsize = array.itemsize
        self.data = types.SimpleNamespace(ptr=array.ctypes.data, device_id=device)


class FakeCuPy(types.ModuleType):
    ndarray = FakeArray
    __version__ = "13.0"

    def __init__(self) -> None:
        super().__init__("cupy")
        self.devices: list[int] = []  # entered and not left
        self.streams = {0: 0, 1: 0}
        self.cuda = types.SimpleNamespace(
            Device=self._device, get_current_stream=lambda device: types.SimpleNamespace(ptr=self.streams[device])
        )

    def _device(self, number: int) -> Any:
        outer = self

        class Device:
            def __enter__(self) -> None:
                outer.devices.append(number)

            def __exit__(self, *_: object) -> None:
                outer.devices.pop()

        return Device()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> FakeArray:
        if np.dtype(dtype).name == "bfloat16" and self.__version__ < "14":
            raise TypeError("Unsupported dtype bfloat16")
        return FakeArray(np.empty(shape, dtype), self.devices[-1])


def cupy() -> FakeCuPy:
    module: Any = sys.modules["cupy"]
    assert isinstance(module, FakeCuPy)
    return module


@functools.cache
def _on_gpu() -> Any:
    torch = pytest.importorskip("torch")

    class OnGpu(torch.Tensor):  # type: ignore[misc,name-defined]
        is_cuda, is_cpu = True, False

        def get_device(self) -> int:
            return getattr(self, "number", 0)

    return OnGpu


def torch_cuda(array: Any, device: int = 0) -> Any:
    """A torch tensor that says it is on a GPU."""
    tensor = pytest.importorskip("torch").as_tensor(array).as_subclass(_on_gpu())
    tensor.number = device
    return tensor


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Torch with a current stream."""
    module = pytest.importorskip("torch")
    monkeypatch.setattr(module._C, "_cuda_getCurrentRawStream", lambda device: 70 + device, raising=False)
    return module


class OwnCapsules(Capsules):
    """Likewise."""


class Own(Interface):
    """Of a library that is registered."""


class OwnLibrary:
    current = 5

    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        if dtype == "float16":
            raise TypeError("no float16 here")
        if shape and shape[0] > 1 << 40:
            raise MemoryError("full")
        return Own(np.full(shape, np.nan, dtype), stream=self.current)

    def current_stream(self, device: int) -> int:
        return self.current


register_library(Own, OwnLibrary())
register_library(OwnCapsules, OwnLibrary())

X = np.zeros((4, 3), "float32")
