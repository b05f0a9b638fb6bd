"""Results, streams and refusals around arrays whose memory is the host's: see cuda_doubles."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from checks import Array, run_python
from cuda_doubles import (
    Capsules,
    FakeArray,
    FakeCuPy,
    Gpu,
    Interface,
    Own,
    OwnLibrary,
    X,
    cupy,
    gpu,
    torch,
    torch_cuda,
)

import recurra
from recurra import _core
from recurra.cuda import array_libraries as libraries
from recurra.cuda import register_library
from recurra.cuda.arrays import View, view
from recurra.cuda.launch import empty, ordered, output, written

__all__ = ["gpu", "torch"]  # fixtures


# ---- results


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
