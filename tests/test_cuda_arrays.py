"""CUDA arrays of every library are read in place or refused by name. Here their memory is the host's, and the driver's
part, what it knows of addresses and streams, is made up."""

from __future__ import annotations

import ctypes
import gc
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

import cuda_arrays
import numpy as np
import pytest
from checks import Array, run_python
from cuda_arrays import capsule
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import recurra
from recurra import _core
from recurra.cuda import array_libraries as libraries
from recurra.cuda import arrays, register_library
from recurra.cuda.arrays import View, on_gpu, sequence, single_step, view
from recurra.cuda.launch import empty, ordered, output, written


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


def torch_cuda(array: Any, device: int = 0) -> Any:
    """A torch tensor that says it is on a GPU."""
    torch = pytest.importorskip("torch")

    class OnGpu(torch.Tensor):  # type: ignore[misc,name-defined]
        is_cuda, is_cpu = True, False

        def get_device(self) -> int:
            return device

    return torch.as_tensor(array).as_subclass(OnGpu)


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Torch with a current stream."""
    module = pytest.importorskip("torch")
    monkeypatch.setattr(module._C, "_cuda_getCurrentRawStream", lambda device: 70 + device, raising=False)
    return module


def numbers(array: View | arrays.Sequence, shape: tuple[int, ...], strides: tuple[int, ...], ctype: Any) -> Array:
    """What lies at the addresses of a view."""
    size = ctypes.sizeof(ctype)
    found = np.empty(shape, ctype)
    for index in np.ndindex(shape):
        step = sum(i * stride for i, stride in zip(index, strides, strict=True))
        found[index] = ctype.from_address(array.pointer + size * step).value
    return found


@st.composite
def strided(draw: st.DrawFn) -> Array:
    """Of up to 3 axes: sliced, reversed, transposed, broadcast, shifted, empty."""
    dims = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(0, 4)) for _ in range(dims))
    dtype = draw(st.sampled_from(["float32", "float64", "int64", "int32"]))
    steps = [draw(st.sampled_from([1, 2, -1, -3])) for _ in shape]
    whole = tuple(size * abs(step) + 2 for size, step in zip(shape, steps, strict=True))
    array: Array = np.arange(np.prod(whole), dtype=dtype).reshape(whole)
    for axis, (size, step) in enumerate(zip(shape, steps, strict=True)):
        array = np.moveaxis(np.moveaxis(array, axis, 0)[1:][::step][:size], 0, axis)
    if draw(st.booleans()):
        array = array.transpose(draw(st.permutations(range(dims))))
    if draw(st.booleans()):
        array = np.broadcast_to(array[:1], array.shape)
    return array


def as_torch(array: Array) -> Any:
    tensors = pytest.importorskip("torch")
    try:
        return torch_cuda(tensors.from_numpy(array))
    except ValueError:  # torch has no negative strides
        return torch_cuda(array.copy())


KINDS: dict[str, Callable[[Array], Any]] = {
    "interface": Interface,
    "interface of one without strides": lambda a: Interface(np.ascontiguousarray(a), strides=None),
    "DLPack": Capsules,
    "DLPack before 1.0": OldCapsules,
    "DLPack without strides": lambda a: Capsules(np.ascontiguousarray(a), strides=None),
    "DLPack with an offset": lambda a: Capsules(a, offset=a.itemsize * 5, behind=a.itemsize * 5),
    "managed memory": lambda a: Capsules(a, kind=13),
    "CuPy": FakeArray,
    "torch": as_torch,
}


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("kind", KINDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(array=strided())
def test_every_number_is_found_where_it_lies(kind: str, array: Array, torch: Any) -> None:
    found = view("x", KINDS[kind](array), array.dtype.name, tuple("abc"[: array.ndim]), device=0)
    assert (found.shape, found.dtype, found.device) == (array.shape, array.dtype.name, 0)
    ctype = {"float32": ctypes.c_float, "float64": ctypes.c_double, "int32": ctypes.c_int32, "int64": ctypes.c_int64}
    np.testing.assert_array_equal(numbers(found, found.shape, found.strides, ctype[found.dtype]), array)
    assert all(type(n) is int for n in (found.pointer, *found.shape, *found.strides))


@pytest.mark.parametrize("batch_first", (False, True))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(array=strided())
def test_a_layout_leads_to_the_same_numbers(batch_first: bool, array: Array) -> None:
    array = array.astype("float32") if array.flags.c_contiguous else array.view()
    ctype = {"float32": ctypes.c_float, "float64": ctypes.c_double, "int32": ctypes.c_int32, "int64": ctypes.c_int64}
    found = view("x", Interface(array), array.dtype.name, ("T",), ("T", "I"), ("T", "B", "I"), device=0)
    layouts = []
    if array.ndim > 1:
        expected = array[:, None] if array.ndim == 2 else array.swapaxes(0, 1) if batch_first else array
        layouts.append((sequence(found, batch_first), expected))
    if array.ndim < 3:
        layouts.append((single_step(found), array[None] if array.ndim == 2 else array[None, None]))
    for layout, expected in layouts:
        shape = (layout.steps, layout.rows, array.shape[-1])
        read = numbers(layout, shape, layout[3:], ctype[found.dtype])
        np.testing.assert_array_equal(read, expected)


def test_bfloat16_is_read(torch: Any) -> None:
    bits = np.arange(6, dtype="uint16").reshape(2, 3)
    both = type("Both", (Capsules, Interface), {})(bits, "bfloat16")  # as JAX's and CuPy's
    both.changes = {}
    assert both.__cuda_array_interface__["typestr"] == "<u2"
    type(both).__cuda_array_interface__ = property(lambda self: Interface(bits, typestr="<V2").__cuda_array_interface__)
    for value in (Capsules(bits, "bfloat16"), both, torch_cuda(torch.zeros(2, 3, dtype=torch.bfloat16))):
        assert view("x", value, "bfloat16", (2, 3), device=0).dtype == "bfloat16"
        with pytest.raises(TypeError, match=r"^x: expected float16, got bfloat16$"):
            view("x", value, "float16", (2, 3), device=0)
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert view("x", FakeArray(bits.view(ml_dtypes.bfloat16)), "bfloat16", (2, 3), device=0).strides == (3, 1)


# ---- refusals

X = np.zeros((4, 3), "float32")


def raising(error: Exception, *names: str) -> Any:
    def fail(self: Any, *_: Any, **__: Any) -> Any:
        raise error

    made = {name: property(fail) if name == "__cuda_array_interface__" else fail for name in names}
    return type("Raising", (), made)()


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "NumPy": (lambda: X, ValueError, "expected a CUDA array on cuda:0, got a NumPy array on the CPU"),
    "NumPy, read-only": (lambda: np.broadcast_to(X, (4, 3)), ValueError, "got a NumPy array on the CPU"),
    "list": (X.tolist, TypeError, "expected a CUDA array on cuda:0, got list"),
    "None": (lambda: None, TypeError, "got NoneType"),
    "number": (lambda: 1.5, TypeError, "got float"),
    "class": (lambda: Interface, TypeError, "cannot be read"),
    "CPU through DLPack": (lambda: Capsules(X, kind=1), ValueError, r"an array \(Capsules\) on the CPU"),
    "pinned through DLPack": (lambda: Capsules(X, kind=3), ValueError, r"on the CPU"),
    "ROCm through DLPack": (lambda: Capsules(X, kind=10), ValueError, r"on rocm:0"),
    "unknown device": (lambda: Capsules(X, kind=99), ValueError, r"on DLPack device type 99:0"),
    "other GPU, DLPack": (lambda: Capsules(X, device=1), ValueError, "got one on cuda:1"),
    "other GPU, CuPy": (lambda: FakeArray(X, 1), ValueError, "got a CuPy array on cuda:1"),
    "other GPU, torch": (lambda: torch_cuda(X, 1), ValueError, "got a torch tensor on cuda:1"),
    "dtype, interface": (lambda: Interface(X.astype("float64")), TypeError, "expected float32, got float64"),
    "dtype, DLPack": (lambda: Capsules(X, "float16"), TypeError, "expected float32, got float16"),
    "dtype, complex": (lambda: Capsules(X, "complex64"), TypeError, "expected float32, got complex64"),
    "dtype, bool": (lambda: Capsules(X, "bool"), TypeError, "expected float32, got bool"),
    "dtype, vectors": (lambda: Capsules(X, lanes=4), TypeError, "expected float32, got float32 x 4"),
    "dtype, 4 bits": (lambda: Capsules(X, "int4"), TypeError, "expected float32, got int4"),
    "dtype, CuPy": (lambda: FakeArray(X.astype("int32")), TypeError, "expected float32, got int32"),
    "dtype, torch": (lambda: torch_cuda(X.astype("float64")), TypeError, "expected float32, got float64"),
    "dtype, bytes": (lambda: Interface(X, typestr="|V4"), TypeError, "expected float32, got void32"),
    "byte order": (lambda: Interface(X, typestr=X.dtype.newbyteorder().str), TypeError, "native byte order"),
    "shape": (lambda: Interface(np.zeros((4, 2), "float32")), ValueError, r"expected shape \[T, 3\], got \[4, 2\]"),
    "axes": (lambda: FakeArray(X[None]), ValueError, r"expected shape \[T, 3\], got \[1, 4, 3\]"),
    "mask": (lambda: Interface(X, mask=Interface(X)), TypeError, "masked"),
    "no typestr": (lambda: Interface(X, typestr=...), TypeError, "typestr"),
    "no data": (lambda: Interface(X, data=...), TypeError, "data"),
    "data None": (lambda: Interface(X, data=None), TypeError, "cannot be read through __cuda_array_interface__"),
    "no shape": (lambda: Interface(X, shape=...), TypeError, "shape"),
    "shape of floats": (lambda: Interface(X, shape=(4.0, 3)), TypeError, "float"),
    "negative shape": (lambda: Interface(X, shape=(-4, 3)), TypeError, "-4"),
    "strides of another rank": (lambda: Interface(X, strides=(4,)), TypeError, r"\(4,\)"),
    "strides of half elements": (lambda: Interface(X, strides=(12, 6)), ValueError, "whole elements"),
    "version 1": (lambda: Interface(X, version=1), TypeError, "version 2 or 3, got 1"),
    "version 4": (lambda: Interface(X, version=4), TypeError, "version 2 or 3, got 4"),
    "stream 0": (lambda: Interface(X, stream=0), TypeError, "stream"),
    "stream -1": (lambda: Interface(X, stream=-1), TypeError, "stream"),
    "stream of text": (lambda: Interface(X, stream="1"), TypeError, "str"),
    "address 0": (lambda: Interface(X, data=(0, False)), ValueError, "with memory, got address 0"),
    "negative address": (lambda: Interface(X, data=(-8, False)), TypeError, "-8"),
    "odd address": (lambda: Interface(X, data=(X.ctypes.data + 2, False)), ValueError, "aligned"),
    "odd address, DLPack": (lambda: Capsules(X, offset=2), ValueError, "aligned"),
    "interface raises": (lambda: raising(OSError("no"), "__cuda_array_interface__"), TypeError, "no"),
    "__dlpack_device__ raises": (lambda: raising(KeyError("no"), "__dlpack_device__", "__dlpack__"), TypeError, "no"),
    "no capsule": (
        lambda: type("Odd", (), {"__dlpack_device__": lambda s: (2, 0), "__dlpack__": lambda s, **_: 5})(),
        TypeError,
        "cannot be read through DLPack",
    ),
    "another capsule": (
        lambda: type("Odd", (), {"__dlpack_device__": lambda s: (2, 0), "__dlpack__": lambda s, **_: _api_capsule()})(),
        TypeError,
        "DLPack capsule that has not been used",
    ),
    "DLPack 2": (lambda: Capsules(X, version=2), TypeError, "expected DLPack 1, got version 2"),
    "negative size, DLPack": (lambda: Negative(X), TypeError, "negative"),
}


def _api_capsule() -> Any:
    import datetime

    return datetime.datetime_CAPI


class Negative(Capsules):
    def __dlpack__(self, **_: Any) -> Any:
        return capsule(self, 8, (4, -3), None, "float32", (2, 0), True)


class Elsewhere(Capsules):
    """Says one device, and gives memory of another."""

    def __dlpack__(self, **_: Any) -> Any:
        return capsule(self, 8, (4, 3), None, "float32", (1, 0), True)


REFUSED["capsule of another device"] = (lambda: Elsewhere(X), ValueError, "got one on DLPack device type 1:0")


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_such_array_is_refused_by_name(case: str, torch: Any) -> None:
    make, kind, part = REFUSED[case]
    value = make()
    live = len(cuda_arrays.live)
    with pytest.raises(kind, match=f"^argument: .*{part}"):
        view("argument", value, "float32", ("T", 3), device=0)
    gc.collect()
    assert len(cuda_arrays.live) == live, "a capsule has not been given back"


@pytest.mark.parametrize(("found", "text"), ((1, "memory of cuda:1"), (-1, "memory of no GPU")))
def test_memory_that_the_driver_says_is_elsewhere_is_refused(gpu: Gpu, found: int, text: str) -> None:
    gpu.device = found
    with pytest.raises(ValueError, match=f"^x: expected a CUDA array on cuda:0, got {text}$"):
        view("x", Interface(X), "float32", (4, 3), device=0)
    gpu.device = 1
    assert view("x", Interface(X), "float32", (4, 3), device=1).device == 1


def test_empty_arrays_have_no_address(gpu: Gpu, torch: Any) -> None:
    nothing = np.zeros((0, 3), "float32")
    for value in (Interface(nothing), FakeArray(nothing), Capsules(nothing), torch_cuda(nothing)):
        assert view("x", value, "float32", ("T", 3), device=0).shape == (0, 3)
    assert not gpu.asked, "the driver knows nothing of the address of an empty array"


@pytest.mark.parametrize(
    ("given_stream", "found"), ((..., None), (None, None), (1, 0), (2, 2), (12345, 12345)), ids=str
)
@pytest.mark.parametrize("version", (2, 3))
def test_streams_of_the_interface(given_stream: Any, found: int | None, version: int) -> None:
    value = Interface(X, stream=given_stream, version=version)
    assert view("x", value, "float32", (4, 3), device=0).stream == found


def test_dlpack_producers_are_told_the_stream(torch: Any) -> None:
    for current, told, found in ((0, 1, 0), (1, 1, 0), (2, 2, 2), (99, 99, 99)):
        cupy().streams[0] = current
        value = Capsules(X)
        assert view("x", value, "float32", (4, 3), device=0).stream == found
        assert value.streams == [told]
        assert view("x", FakeArray(X), "float32", (4, 3), device=0).stream == found
    assert view("x", torch_cuda(X), "float32", (4, 3), device=0).stream == 70


def test_read_only_arrays_are_known() -> None:
    fixed = X.copy()
    fixed.flags.writeable = False
    assert view("x", Interface(fixed), "float32", (4, 3), device=0).readonly
    assert not view("x", Interface(X), "float32", (4, 3), device=0).readonly
    assert not view("x", FakeArray(X), "float32", (4, 3), device=0).readonly
    assert view("x", Capsules(X), "float32", (4, 3), device=0).readonly
    for kind, flags, readonly in ((OwnCapsules, 0, False), (OwnCapsules, 1, True), (Capsules, 0, True)):
        assert view("x", kind(X, flags=flags), "float32", (4, 3), device=0).readonly == readonly


def test_several_dtypes_may_be_welcome() -> None:
    lengths = np.array([1, 2], "int32")
    assert view("lengths", Interface(lengths), ("int32", "int64"), (2,), device=0).dtype == "int32"
    with pytest.raises(TypeError, match=r"^lengths: expected int32 or int64, got uint8$"):
        view("lengths", Interface(lengths.astype("uint8")), ("int32", "int64"), (2,), device=0)


def test_on_gpu_tells_devices_apart(torch: Any) -> None:
    for value in (Interface(X), FakeArray(X), Capsules(X), Capsules(X, kind=13), torch_cuda(X)):
        if not isinstance(value, FakeArray):  # CuPy's own arrays have both protocols, this one has none
            assert on_gpu(value)
    for value in (X, [1, 2], None, 3, torch.zeros(3), Capsules(X, kind=1), raising(OSError("no"), "__dlpack_device__")):
        assert not on_gpu(value)


# ---- torch's special tensors


def test_torch_tensors_that_hold_more_than_numbers_are_refused(torch: Any) -> None:
    x = torch_cuda(X)
    cases = {
        "does not require grad": torch_cuda(torch.zeros(4, 3)).requires_grad_(),
        "on the CPU": torch.zeros(4, 3),
        "on meta": torch.zeros(4, 3, device="meta"),
        "layout torch.sparse_coo": x.as_subclass(type("Sparse", (type(x),), {"layout": torch.sparse_coo})),
    }
    for part, tensor in cases.items():
        with pytest.raises((TypeError, ValueError), match=f"^x: .*{part}"):
            view("x", tensor, "float32", (4, 3), device=0)
    with (
        torch.autograd.forward_ad.dual_level(),
        pytest.raises(TypeError, match=r"^x: .*forward-mode derivative"),
    ):
        view("x", torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)), "float32", (4, 3), device=0)
    released = torch_cuda(torch.zeros(4, 3))
    released.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"^x: .*memory has been released"):
        view("x", released, "float32", (4, 3), device=0)


def test_lazily_negated_tensors_are_resolved_for_reading_and_refused_for_writing(torch: Any) -> None:
    pairs = torch.complex(torch.arange(12.0).reshape(4, 3), torch.ones(4, 3)).conj()
    lazy = torch_cuda(pairs.imag)
    assert lazy.is_neg()
    found = view("x", lazy, "float32", (4, 3), device=0)
    np.testing.assert_array_equal(numbers(found, found.shape, found.strides, ctypes.c_float), -np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"^out: expected a writeable array, got one that can only be read"):
        written("out", lazy, "float32", (4, 3), device=0, inputs=())


# ---- lifetimes


@pytest.mark.parametrize("kind", ("interface", "DLPack", "DLPack before 1.0", "CuPy"))
def test_an_array_lives_as_long_as_its_view_and_no_longer(kind: str) -> None:
    value = KINDS[kind](np.ones((4, 3), "float32"))
    memory = weakref.ref(value.array)
    live = len(cuda_arrays.live)
    found = view("x", value, "float32", (4, 3), device=0)
    del value
    gc.collect()
    assert memory() is not None
    assert len(cuda_arrays.live) == live + ("DLPack" in kind)
    del found
    assert memory() is None
    assert len(cuda_arrays.live) == live


def test_a_thousand_views_leave_nothing_behind(torch: Any) -> None:
    values = [Interface(X), Capsules(X), OldCapsules(X), FakeArray(X), torch_cuda(X)]
    for value in values:  # torch keeps something from the first time
        view("x", value, "float32", (4, 3), device=0)
    counts = [sys.getrefcount(value) for value in values]
    live = len(cuda_arrays.live)
    for _ in range(1000):
        for value in values:
            view("x", value, "float32", (4, 3), device=0)
            with pytest.raises(TypeError):
                view("x", value, "float64", (4, 3), device=0)
    assert [sys.getrefcount(value) for value in values] == counts
    assert len(cuda_arrays.live) == live


@pytest.mark.parametrize("versioned", (False, True))
def test_a_capsule_is_used_once(versioned: bool) -> None:
    live = len(cuda_arrays.live)
    made = capsule(X, X.ctypes.data, (4, 3), None, "float32", (2, 0), versioned)
    first = _core.cuda.DLPack(made)
    with pytest.raises(ValueError, match="has not been used"):
        _core.cuda.DLPack(made)
    assert f'"used_dltensor{"_versioned" if versioned else ""}"' in repr(made)
    del made
    assert len(cuda_arrays.live) == live + 1
    del first
    assert len(cuda_arrays.live) == live


# ---- results


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


class OwnCapsules(Capsules):
    """Likewise."""


register_library(Own, OwnLibrary())
register_library(OwnCapsules, OwnLibrary())


def own(array: Array) -> View:
    return view("x", Own(array), array.dtype.name, array.shape, device=0)


def test_results_come_from_the_library_of_x(torch: Any) -> None:
    x = own(X)
    y = output(None, (4, 5), "float32", x)
    assert isinstance(y.owner, Own) and (y.shape, y.strides, y.stream) == ((4, 5), (5, 1), 5)
    out = Own(np.zeros((4, 5), "float32"))
    assert output(out, (4, 5), "float32", x).owner is out
    with pytest.raises(MemoryError, match=r"^output: cannot allocate float32 \[2199023255552\] on cuda:0: full"):
        output(None, (1 << 41,), "float32", x)
    with pytest.raises(TypeError, match=r"^output: cannot allocate float16 \[3\] on cuda:0: no float16 here"):
        output(None, (3,), "float16", x)


@pytest.mark.parametrize(
    ("made", "part"),
    (
        (np.zeros((3, 4), "float32").T, "C-contiguous"),
        (np.zeros((4, 3), "float64"), "float32"),
        (np.zeros((4, 2), "float32"), "shape"),
        (np.broadcast_to(np.float32(0), (4, 3)), "new C-contiguous"),
    ),
)
def test_a_library_that_makes_other_arrays_is_noticed(made: Array, part: str) -> None:
    odd = types.SimpleNamespace(empty=lambda *_: Interface(made), current_stream=lambda _: 0)
    with pytest.raises((TypeError, ValueError), match=f"^output: .*{part}"):
        empty("output", odd, (4, 3), "float32", 0)


def test_libraries_of_types(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Derived(Own):
        pass

    class Other(Own):
        pass

    register_library(Other, other := OwnLibrary())
    assert isinstance(libraries.library_of("x", Derived(X)), OwnLibrary)
    assert libraries.library_of("x", Other(X)) is other
    assert libraries.library_of("x", torch_cuda(X)) is libraries._TORCH
    assert libraries.library_of("x", FakeArray(X)) is libraries._CUPY
    assert libraries.library_of("x", Interface(X)) is libraries._CUPY
    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.setattr(libraries, "_imported_cupy", lambda: None)
    assert libraries.library_of("x", Interface(X)) is libraries._TORCH
    monkeypatch.delitem(sys.modules, "torch")
    with pytest.raises(TypeError, match=r"^x: .*got Interface: install CuPy .*import torch.*register_library"):
        view("x", Interface(X), "float32", (4, 3), device=0).library  # noqa: B018
    assert view("x", Own(X), "float32", (4, 3), device=0).library.current_stream(0) == 5


def test_register_library_checks_its_arguments() -> None:
    with pytest.raises(TypeError, match=r"^kind: expected a type"):
        register_library("Own", OwnLibrary())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^library: expected an object with empty and current_stream, got int"):
        register_library(Own, 3)  # type: ignore[arg-type]


def test_cupy_allocates_on_the_device_of_x(monkeypatch: pytest.MonkeyPatch) -> None:
    x = view("x", FakeArray(X, 1), "float32", (4, 3), device=1)
    y = output(None, (4, 5), "float32", x)
    assert isinstance(y.owner, FakeArray) and y.device == 1 and not cupy().devices
    with pytest.raises(TypeError, match=r"^output: cannot allocate bfloat16 \[4\] on cuda:1: expected CuPy 14 .*13\.0"):
        output(None, (4,), "bfloat16", x)
    pytest.importorskip("ml_dtypes")
    monkeypatch.setattr(FakeCuPy, "__version__", "14.0")
    assert output(None, (4,), "bfloat16", x).dtype == "bfloat16"


def test_torch_allocates_on_the_device_of_x(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def new(shape: Any, dtype: Any, device: Any) -> Any:
        if shape[0] > 1 << 40:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        made.append((shape, dtype, device))
        return torch_cuda(torch.zeros(shape, dtype=dtype), device.index)

    monkeypatch.setattr(torch, "empty", new)
    x = view("x", torch_cuda(X, 1), "float32", (4, 3), device=1)
    for dtype in ("float32", "float64", "float16", "bfloat16", "uint8"):
        assert output(None, (4, 5), dtype, x).dtype == dtype
        assert made.pop() == ((4, 5), getattr(torch, dtype), torch.device("cuda", 1))
    with pytest.raises(MemoryError, match=r"^output: .*CUDA out of memory"):
        output(None, (1 << 41,), "float32", x)


OVERLAPS: list[tuple[str, Callable[[Array], Array], Callable[[Array], Array], bool]] = [
    ("same", lambda m: m, lambda m: m, True),
    ("shifted", lambda m: m[:-1], lambda m: m[1:], True),
    ("beside each other", lambda m: m[:4], lambda m: m[4:], False),
    ("interleaved columns", lambda m: m[:, ::2], lambda m: m[:, 1::2], False),
    ("interleaved halves", lambda m: m[:, :3], lambda m: m[:, 3:], False),
    ("crossing halves", lambda m: m[:, :4], lambda m: m[:, 3:], True),
    ("backwards", lambda m: m[::-1], lambda m: m, True),
    ("transposed", lambda m: m[:6].T, lambda m: m[7:], False),
    ("transposed on it", lambda m: m[:6].T, lambda m: m[5:], True),
    ("empty", lambda m: m[:0], lambda m: m, False),
    ("empty input", lambda m: m, lambda m: m[:0], False),
]


@pytest.mark.parametrize(("first", "second", "overlap"), [case[1:] for case in OVERLAPS], ids=[c[0] for c in OVERLAPS])
def test_out_may_not_overlap_inputs(
    first: Callable[[Array], Array], second: Callable[[Array], Array], overlap: bool
) -> None:
    memory = np.zeros((8, 6), "float32")
    out, x = first(memory), second(memory)
    if overlap:
        with pytest.raises(ValueError, match=r"^out: expected memory of its own, got an array that overlaps x$"):
            output(Own(out), out.shape, "float32", own(x))
    else:
        assert output(Own(out), out.shape, "float32", own(x)).shape == out.shape


def test_out_is_refused_where_it_cannot_be_written() -> None:
    x, fixed = own(X), np.zeros((4, 5), "float32")
    fixed.flags.writeable = False
    self_overlapping = np.lib.stride_tricks.as_strided(np.zeros(8, "float32"), (4, 5), (4, 4))
    cases: dict[str, tuple[Any, type[Exception]]] = {
        "got a NumPy array on the CPU": (np.zeros((4, 5), "float32"), ValueError),
        r"expected shape \[4, 5\], got \[5, 4\]": (Own(np.zeros((5, 4), "float32")), ValueError),
        "expected float32, got float64": (Own(np.zeros((4, 5))), TypeError),
        "expected a writeable array": (Own(fixed), ValueError),
        "expected a writeable array, got one that can only be read": (
            Capsules(np.zeros((4, 5), "float32")),
            ValueError,
        ),
        "expected elements that do not overlap each other": (Own(self_overlapping), ValueError),
        "got list": ([], TypeError),
    }
    for part, (out, kind) in cases.items():
        with pytest.raises(kind, match=f"^out: .*{part}"):
            output(out, (4, 5), "float32", x)
    state = view("state c", Own(X), "float32", (4, 3), device=0)
    with pytest.raises(ValueError, match=r"^out: .*overlaps state c$"):
        output(Own(X), (4, 3), "float32", own(X.copy()), (state,))
    with pytest.raises(ValueError, match=r"^into weight: .*overlaps state c$"):
        written("into weight", Own(X), "float32", (4, 3), device=0, inputs=(state,))


# ---- streams


def test_streams_that_differ_wait_for_each_other(gpu: Gpu) -> None:
    values = {"x": 5, "state h": 7, "state c": 7, "lengths": None, "out": 1}
    views = [view(name, Interface(X, stream=s), "float32", (4, 3), device=0) for name, s in values.items()]
    with ordered(views, 5):
        assert gpu.waits == [(5, 7, 0), (5, 0, 0)]
        gpu.waits.clear()
    assert gpu.waits == [(7, 5, 0), (0, 5, 0)]


def test_one_stream_needs_no_events(gpu: Gpu, torch: Any) -> None:
    cupy().streams[0] = 70
    views = [
        view("x", torch_cuda(X), "float32", (4, 3), device=0),
        view("h", FakeArray(X), "float32", (4, 3), device=0),
        view("c", Interface(X, stream=70), "float32", (4, 3), device=0),
        view("lengths", Interface(X), "float32", (4, 3), device=0),
    ]
    with ordered(views, 70):
        pass
    legacy = Interface(X, stream=1)
    with ordered([view("x", legacy, "float32", (4, 3), device=0)], 0):
        pass
    assert not gpu.waits


def test_a_stream_that_cannot_wait_is_an_error_that_names_the_array(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise RuntimeError("it is being captured")

    monkeypatch.setattr(_core.cuda, "wait", refuse)
    array = view("state h", Interface(X, stream=7), "float32", (4, 3), device=0)
    with pytest.raises(RuntimeError, match=r"^state h: it is being captured"), ordered([array], 5):
        raise AssertionError("launched")


# ---- the CPU's layers


def test_layers_on_the_cpu_refuse_cuda_arrays_by_name(torch: Any) -> None:
    layer: Any = recurra.LSTM(3, 5, seed=0)
    for value in (Interface(X), Capsules(X)):
        with pytest.raises(ValueError, match=r"^x: expected CPU memory, got (a CUDA array|cuda:0)"):
            layer(value)
    with pytest.raises(TypeError, match=r"^out: expected a NumPy array, got a CUDA array, Interface$"):
        layer(X, out=Interface(np.zeros((4, 5), "float32")))
    with pytest.raises(ValueError, match=r"^lengths: expected CPU memory"):
        layer(np.zeros((4, 2, 3), "float32"), lengths=Interface(np.array([1, 2])))


def test_no_gpu_library_is_imported() -> None:
    script = """
import sys
import recurra, recurra.cuda, recurra.cuda.launch
from recurra import _core
loaded = open("/proc/self/maps").read() if sys.platform == "linux" else ""
print([name for name in ("cupy", "torch", "ml_dtypes") if name in sys.modules], "libcuda" in loaded)
"""
    assert run_python(script).split("\n")[0] == "[] False"
