"""CUDA arrays of every library are read in place or refused by name. Here their memory is the host's, and the driver's
part, what it knows of addresses and streams, is made up."""

from __future__ import annotations

import ctypes
import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any

import cuda_arrays
import numpy as np
import pytest
from checks import Array
from cuda_arrays import capsule
from cuda_doubles import Capsules, FakeArray, Gpu, Interface, OldCapsules, OwnCapsules, X, cupy, gpu, torch, torch_cuda
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recurra import _core
from recurra.cuda import arrays
from recurra.cuda.arrays import View, on_gpu, sequence, single_step, view
from recurra.cuda.launch import written

__all__ = ["gpu", "torch"]  # fixtures


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
