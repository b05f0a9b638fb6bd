"""Which arrays of a stream's next step need no check: those that are like the last one's in all that a check looks at.
As in test_cuda_arrays, memory is the host's, and what the driver knows is made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda_doubles import Capsules, FakeArray, Interface, gpu, torch, torch_cuda

from recurra.cuda import register_library
from recurra.cuda.again import Again
from recurra.cuda.arrays import single_step, view

__all__ = ["gpu", "torch"]  # fixtures

Array = Any
CHECKED: Array = np.arange(24, dtype="float32").reshape(4, 6)


def again(x: Any, out: Any) -> Again | None:
    """After a check of a step of [2, 3]."""
    views = [view(name, value, "float32", (2, 3), device=0) for name, value in (("x", x), ("out", out))]
    cores = single_step(views[0]).array, single_step(views[1]).array
    return Again.of(views[0], views[1], cores, views[0].library, (x, out))


def numbers(first: int = 0) -> Array:
    """Of two rows, which do not follow each other in memory."""
    return (CHECKED + first)[::2, ::2]


KINDS: dict[str, Callable[[Array], Any]] = {"CuPy": FakeArray, "torch": lambda a: torch_cuda(as_torch(a))}
BOTH = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def as_torch(array: Array) -> Any:
    return pytest.importorskip("torch").from_numpy(array)


@BOTH
def test_arrays_alike_are_found_where_they_are(kind: Callable[[Array], Any], torch: Any) -> None:
    x, out = kind(numbers()), kind(numbers())
    found = again(x, out)
    assert found is not None and found.device == 0
    for a, b in ((x, out), (kind(numbers(1)), out), (x, kind(numbers(2))), (out, x)):
        want = [single_step(view("x", value, "float32", (2, 3), device=0)).array for value in (a, b)]
        assert list(found.arrays(a, b) or ()) == want


@BOTH
def test_arrays_that_overlap_are_checked(kind: Callable[[Array], Any], torch: Any) -> None:
    found = again(kind(numbers()), kind(numbers()))
    assert found is not None
    memory = np.zeros(200, "float32")

    def at(first: int) -> Any:
        return kind(np.lib.stride_tricks.as_strided(memory[first:], (2, 3), (48, 8)))

    for apart in range(-40, 41):
        overlap = abs(apart) < 17  # two rows of three, from 0 to 16
        assert (found.arrays(at(80), at(80 + apart)) is None) == overlap, apart


@BOTH
@pytest.mark.parametrize("which", (0, 1))
def test_every_other_array_is_checked(kind: Callable[[Array], Any], which: int, torch: Any) -> None:
    arrays = [kind(numbers()), kind(numbers())]
    found = again(*arrays)
    assert found is not None

    def checked(other: Any) -> bool:
        return found.arrays(*(other if i == which else array for i, array in enumerate(arrays))) is None

    assert not checked(kind(numbers()))
    others = [numbers().copy(), numbers()[:1], numbers()[:, :2], numbers()[0], numbers().T.copy().T]
    others += [numbers().astype(dtype) for dtype in ("float64", "float16", "int32")]
    for other in others:
        assert checked(kind(other)), other
    unlike = [numbers(), Interface(numbers()), Capsules(numbers()), None, 3, FakeArray(numbers(), device=1)]
    unlike += [FakeArray(numbers())] if kind is not FakeArray else []
    for other in unlike:
        assert checked(other), other


def test_torch_tensors_of_another_state_are_checked(torch: Any) -> None:
    x, out = torch_cuda(as_torch(numbers())), torch_cuda(as_torch(numbers()))
    found = again(x, out)
    assert found is not None and found.arrays(x, out)
    assert found.arrays(as_torch(numbers()), out) is None  # on the CPU, by its type
    assert found.arrays(torch_cuda(as_torch(numbers()), device=1), out) is None
    assert found.arrays(torch_cuda(as_torch(numbers())._neg_view()), out) is None
    with torch.autograd.forward_ad.dual_level():
        assert found.arrays(x, out) is None
    assert found.arrays(x, out)
    assert found.arrays(x.requires_grad_(), out) is None
    x.requires_grad_(False)
    x.t_()
    assert found.arrays(x, out) is None
    x.t_()
    assert found.arrays(x, out)
    assert again(torch_cuda(as_torch(numbers())._neg_view()), out) is None  # which is a copy's


def test_changes_in_place_are_seen(gpu: Any) -> None:
    x, out = FakeArray(numbers()), FakeArray(numbers())
    found = again(x, out)
    assert found is not None and found.arrays(x, out)
    for name, value in (
        ("shape", (3, 2)),
        ("strides", (8, 48)),
        ("dtype", np.dtype("int32")),
        ("data", FakeArray(numbers(), device=1).data),
        ("data", out.data),
    ):
        before = getattr(x, name)
        setattr(x, name, value)
        assert found.arrays(x, out) is None, name
        setattr(x, name, before)
    x.data = FakeArray(kept := numbers()).data  # elsewhere
    assert (found.arrays(x, out) or ((0,),))[0][0] == kept.ctypes.data
    for address in (0, kept.ctypes.data + 2):  # none, and one that no number may have
        x.data.ptr = address
        assert found.arrays(x, out) is None


def test_only_arrays_that_say_all_are_known_again() -> None:
    for kind in (Interface, Capsules):
        assert again(FakeArray(numbers()), FakeArray(numbers()))
        x, out = Interface(numbers()), Interface(numbers())
        assert again(x, out) is None
        assert again(FakeArray(numbers()), out) is None
        assert again(kind(numbers()), FakeArray(numbers())) is None


def test_after_a_registration_arrays_are_checked() -> None:
    class Library:
        def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> Any: ...
        def current_stream(self, device: int) -> int:
            return 7

    class Other(FakeArray):
        pass

    x, out = FakeArray(numbers()), FakeArray(numbers())
    found = again(x, out)
    assert found is not None and found.arrays(x, out)
    assert found.arrays(Other(numbers()), out) is None  # which may be another library's
    assert found.arrays(x, Other(numbers())) is None
    register_library(Other, Library())
    assert found.arrays(x, out) is None
