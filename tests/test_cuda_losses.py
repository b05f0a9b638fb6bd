"""recurra.training on CuPy arrays: the results of the CPU, and nobody waits. Over the stand-in for a GPU with one for
CuPy, whose results have the CPU's bits; on a GPU with CuPy, whose sums and functions are others."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import fake_cupy
import numpy as np
import pytest
from checks import Array, arrays, assert_close, assert_same_bits
from cuda_arrays import DeviceArray, driver, require_gpu
from hypothesis import given
from hypothesis import strategies as st

import recurra
from recurra import _core, training

require_gpu()

FAKE = hasattr(driver(), "standin_reset_counts")
cupy: Any = fake_cupy if FAKE else pytest.importorskip("cupy")
LAST = _core.cuda.device_count() - 1
DTYPES = pytest.mark.parametrize("dtype", ("float32", "float64"))


@pytest.fixture(autouse=True, scope="module")
def fake() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", cupy)
        yield


@contextmanager
def nobody_waits() -> Iterator[None]:
    """What waits unnoticed fails by itself in the stand-in for CuPy."""
    before = fake_cupy.waits
    yield
    assert fake_cupy.waits == before


def normal(*shape: int, seed: int = 0, dtype: str = "float64", scale: float = 1.0) -> Array:
    return np.random.default_rng(seed).normal(0, scale, shape).astype(dtype)


def there(values: Any, device: int = 0) -> Any:
    """A nest of tuples, lists and dictionaries on the GPU."""
    if isinstance(values, dict):
        return {name: there(value, device) for name, value in values.items()}
    if isinstance(values, (tuple, list)):
        return type(values)(there(value, device) for value in values)
    if values is None:
        return None
    with cupy.Device(device):
        return cupy.asarray(values)


def here(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: here(value) for name, value in values.items()}
    if isinstance(values, (tuple, list)):
        return tuple(here(value) for value in values)
    return None if values is None else values.get()


def assert_same_numbers(got: Any, want: Any) -> None:
    """The same bits, of results on the GPU and on the CPU, where a float is float64; on a GPU nearly so."""
    found = here(got)
    if FAKE:
        return assert_same_bits(found, want)
    for a, b in zip(arrays(found), arrays(want), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert_close(a, b, 2e-6 if a.dtype == np.float32 else 1e-13)


# ---- losses

LOSSES: dict[str, tuple[Callable[..., Any], Callable[[tuple[int, ...], str], Array]]] = {
    "entropy": (
        training.softmax_cross_entropy,
        lambda shape, dtype: np.random.default_rng(2).integers(0, shape[-1], shape[:-1]),
    ),
    "square": (training.mean_squared_error, lambda shape, dtype: normal(*shape, seed=3, dtype=dtype)),
}
BOTH = pytest.mark.parametrize("name", LOSSES)


@BOTH
@DTYPES
@given(
    shape=st.sampled_from(((3,), (1, 1), (4, 5), (3, 2, 4), (2, 2, 2, 3))),
    masked=st.booleans(),
    transposed=st.booleans(),
    device=st.integers(0, LAST),
)
def test_losses_are_the_cpus(
    name: str, dtype: str, shape: tuple[int, ...], masked: bool, transposed: bool, device: int
) -> None:
    loss, target_of = LOSSES[name]
    y, target = normal(*shape, dtype=dtype), target_of(shape, dtype)
    mask = np.asarray(np.random.default_rng(1).random(shape[:-1]) < 0.7) if masked else None
    if mask is not None:
        mask.flat[0] = True
        if name == "entropy":
            target = np.where(mask, target, -100)
        else:
            y[~mask] = np.nan
    if transposed and len(shape) > 2:
        y, target = np.asfortranarray(y), target.copy(order="F")
    moved = there((y, target, mask), device)
    with nobody_waits():
        got = loss(*moved)
    assert {array.device.id for array in got} == {device}
    want = loss(y, target, mask)
    np.testing.assert_allclose(here(got[0]), want[0], rtol=1e-14)  # a sum, in the order of the memory
    assert_same_numbers(got[1], want[1])


@BOTH
def test_a_loss_over_no_position_is_nan_and_has_no_gradient(name: str) -> None:
    loss, target_of = LOSSES[name]
    y = normal(3, 4)
    value, gradient = loss(*there((y, target_of(y.shape, "float64"), np.zeros(3, bool))))
    assert math.isnan(here(value))
    assert not here(gradient).any()


@pytest.mark.parametrize(("kind", "bad"), (("int64", -1), ("int64", 5), ("int32", 5), ("uint8", 255), ("int64", 2**40)))
def test_a_target_that_is_none_makes_the_loss_nan(kind: str, bad: int) -> None:
    logits = normal(3, 5)
    targets = np.array([0, bad % 2**8 if kind == "uint8" else bad, 4], kind)
    loss, gradient = training.softmax_cross_entropy(*there((logits, targets)))
    assert math.isnan(here(loss))
    assert np.isnan(here(gradient)).all(axis=-1).tolist() == [False, True, False]
    mask = np.array([True, False, True])
    got = training.softmax_cross_entropy(*there((logits, targets, mask)))
    assert_same_numbers(got, training.softmax_cross_entropy(logits, targets, mask))


@BOTH
def test_a_loss_that_is_not_finite_is_no_error(name: str) -> None:
    loss, target_of = LOSSES[name]
    y = normal(3, 4)
    y[1, 2] = np.nan
    assert math.isnan(here(loss(*there((y, target_of(y.shape, "float64"))))[0]))


# ---- masks and pooling


@DTYPES
@pytest.mark.parametrize("pool", (training.last_step, training.max_over_time))
@pytest.mark.parametrize("lengths", (None, "host", "int32", "int64"))
def test_pooling_is_the_cpus(pool: Any, lengths: str | None, dtype: str) -> None:
    y, dpooled = np.round(normal(4, 3, 5, dtype=dtype)), normal(3, 5, seed=1, dtype=dtype)
    valid = None if lengths is None else [4, 1, 2]
    given_lengths = valid if lengths in (None, "host") else there(np.array(valid, lengths), LAST)
    with nobody_waits():
        pooled, backward = pool(there(y, LAST), given_lengths)
        dy = backward(there(dpooled, LAST))
    want, backward_here = pool(y, valid)
    assert_same_numbers([pooled, dy], [want, backward_here(dpooled)])


def test_lengths_out_of_range_count_as_the_nearest() -> None:
    y, lengths = there(normal(4, 3, 2)), there(np.array([0, 9, -3]))
    for pool in (training.last_step, training.max_over_time):
        assert_same_bits(here(pool(y, lengths)[0]), pool(here(y), [1, 4, 1])[0])


def test_step_mask_is_where_lengths_are() -> None:
    mask: Any = training.step_mask(there(np.array([2, 0, 3], "int32"), LAST), 3)
    assert mask.device.id == LAST
    assert_same_bits(here(mask), training.step_mask([2, 0, 3], 3))


@pytest.mark.parametrize("backward", (False, True))
def test_check_finite_waits_and_names_the_step(backward: bool) -> None:
    y = normal(6, 2, 3)
    with fake_cupy.waiting_allowed() if FAKE else nullcontext():
        training.check_finite("y", there(y, LAST))
        y[[2, 4], 1, 1] = np.inf
        with pytest.raises(FloatingPointError, match=rf"y: .* step {4 if backward else 2}$"):
            training.check_finite("y", there(y, LAST), backward=backward)


# ---- optimisers and clipping

SHAPES = {"matrix": (3, 5), "vector": (7,), "one": (1,), "none": (0, 4)}
MAKERS: dict[str, Callable[[Any], Any]] = {
    "SGD": lambda params: training.SGD(params, 0.1),
    "momentum": lambda params: training.SGD(params, 0.1, momentum=0.9),
    "Adam": lambda params: training.Adam(params, 0.1),
}
MAKE = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def gradients(seed: int, dtype: str = "float64", scale: float = 1.0) -> dict[str, Array]:
    return {name: normal(*shape, seed=seed, dtype=dtype, scale=scale) for name, shape in SHAPES.items()}


@MAKE
@DTYPES
@pytest.mark.parametrize("device", sorted({0, LAST}))
def test_optimisers_are_the_cpus_and_nobody_waits(make: Callable[[Any], Any], dtype: str, device: int) -> None:
    params = gradients(0, dtype)
    twins = there(params, device)
    ours, theirs = make(twins), make(params)
    pointers = {name: array.data.ptr for name, array in twins.items()}
    with nobody_waits():
        for step in range(5):
            ours.step(there(gradients(step + 1, dtype), device))
            theirs.step(gradients(step + 1, dtype))
            if step == 2:
                ours.lr = theirs.lr = 0.025
    assert {name: array.data.ptr for name, array in twins.items()} == pointers
    assert_same_numbers(twins, params)


@MAKE
def test_parameters_may_be_in_several_places(make: Callable[[Any], Any]) -> None:
    host = gradients(0)
    mixed = {"matrix": there(host["matrix"]), "vector": there(host["vector"], LAST), "one": host["one"].copy()}
    plain = {name: host[name].copy() for name in mixed}
    for params, move in ((plain, False), (mixed, True)):
        optimiser = make(params)
        for seed in (1, 2):
            grads: dict[str, Any] = {name: gradients(seed)[name] for name in params}
            if move:
                grads |= {"matrix": there(grads["matrix"]), "vector": there(grads["vector"], LAST)}
            optimiser.step(grads)
    assert_same_bits([here(mixed["matrix"]), here(mixed["vector"]), mixed["one"]], list(plain.values()))


@pytest.mark.parametrize("max_norm", (0.5, 1e3, math.inf))
def test_clip_grad_norm_is_the_cpus(max_norm: float) -> None:
    several = [gradients(1), gradients(2, "float32")]
    on_gpu = there(several, LAST)
    with nobody_waits():
        norm = training.clip_grad_norm([*on_gpu, {"again": on_gpu[0]["matrix"]}], max_norm)
    want = training.clip_grad_norm(several, max_norm)
    np.testing.assert_allclose(here(norm), want, rtol=1e-15)
    for got, expected in zip(arrays(here(on_gpu)), arrays(several), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6 if got.dtype == np.float32 else 1e-14)


def test_gradients_that_are_not_finite_become_nan() -> None:
    grads = there({"a": normal(3), "b": np.array([1.0, np.inf])})
    training.clip_grad_norm(grads, 1.0)
    assert np.isnan(here(grads["b"])[1])
    params = there({"a": normal(3), "b": normal(2)})
    training.Adam(params).step(grads)
    assert np.isnan(here(params["b"])[1])


def test_clip_grad_value_is_the_cpus() -> None:
    grads = gradients(1)
    on_gpu = there(grads, LAST)
    training.clip_grad_value(on_gpu, 0.5)
    training.clip_grad_value(grads, 0.5)
    assert_same_numbers(on_gpu, grads)


# ---- a whole training


def on_the_cpu(values: Any) -> Any:
    return values


@pytest.mark.parametrize("make", (MAKERS["momentum"], MAKERS["Adam"]), ids=("momentum", "Adam"))
def test_a_training_on_the_gpu_is_that_on_the_cpu(make: Callable[[Any], Any]) -> None:
    x, targets = normal(6, 3, 4, dtype="float32"), np.random.default_rng(1).integers(0, 5, (6, 3))
    results = []
    for device, move in (("cpu", on_the_cpu), ("cuda", there)):
        options: Any = {"seed": 0, "device": device, "engine": "auto" if device == "cpu" else "exact"}
        layer, head = recurra.LSTM(4, 7, **options), recurra.Linear(7, 5, **options)
        # As on the CPU, but for one copy to the GPU.
        params = {"layer": move(layer.state_dict()), "head": move(head.state_dict())}
        optimisers = {name: make(arrays) for name, arrays in params.items()}
        losses = []
        for _ in range(4):
            with nobody_waits():
                y, _, tape = layer.forward(move(x))
                logits, head_tape = head.forward(y)
                loss, dlogits = training.softmax_cross_entropy(logits, move(targets))
                back = head_tape.backward(dlogits)
                grads = {"layer": tape.backward(back.x).params, "head": back.params}
                for name, optimiser in optimisers.items():
                    training.clip_grad_value(grads[name], 0.05)
                    optimiser.step(grads[name])
                layer.load_state_dict(params["layer"])
                head.load_state_dict(params["head"])
            losses.append(loss)
        assert isinstance(tape, recurra.tape.Tape) == (device == "cpu")
        results.append((losses, layer.state_dict(), head.state_dict()))
    (want, *parameters), (got, *others) = results
    assert want[-1] < want[0]
    if FAKE:
        assert_same_bits([here(got), *arrays(others)], [want, *arrays(parameters)])
    else:
        assert_close([here(got), *arrays(others)], [want, *arrays(parameters)], 1e-4)


@pytest.mark.parametrize(("k1", "k2"), ((3, 3), (2, 5), (10, 10)))
@pytest.mark.parametrize("lengths", (None, "host", "device"))
@pytest.mark.parametrize("batch_first", (False, True))
def test_truncated_backpropagation_is_the_cpus(k1: int, k2: int, lengths: str | None, batch_first: bool) -> None:
    layer = recurra.GRU(3, 4, 2, batch_first=batch_first, seed=0)
    x = normal(7, 2, 3, dtype="float32")
    x = x.swapaxes(0, 1) if batch_first else x
    valid = None if lengths is None else np.array([7, 4], "int32")
    results = []
    for net, move in ((layer, on_the_cpu), (layer.to("cuda", engine="exact"), there)):
        given_lengths = move(valid) if lengths == "device" else valid
        for window in training.tbptt(net, move(x), k1, k2, lengths=given_lengths):
            gradients = window.backward(window.y)
            results.append((move is there, [window.y, window.state, gradients.x, gradients.state, gradients.params]))
    want, got = ([arrays(here(r) if gpu else r) for gpu, r in results if gpu == side] for side in (False, True))
    for ours, theirs in zip(got, want, strict=True):
        if lengths == "device":  # whose weight gradients have other sums: padded rows are among them
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        else:
            assert_same_bits(ours, theirs)


@pytest.mark.parametrize(("k1", "k2"), ((3, 3), (2, 5)))
@pytest.mark.parametrize("batch_first", (False, True))
def test_truncated_backpropagation_with_marks_is_the_cpus(k1: int, k2: int, batch_first: bool) -> None:
    layer, rng = recurra.GRU(3, 4, 2, batch_first=batch_first, seed=0), np.random.default_rng(0)
    x, resets, mask = normal(7, 2, 3, dtype="float32"), rng.random((7, 2)) < 0.3, rng.random((7, 2)) < 0.6
    if batch_first:
        x, resets, mask = x.swapaxes(0, 1), resets.T, mask.T
    fresh, results = normal(2, 4, dtype="float32"), []
    for net, move in ((layer, on_the_cpu), (layer.to("cuda", engine="exact"), there)):
        marks = {"resets": move(resets), "mask": mask, "reset_state": move(fresh), "masked_output": "zero"}
        own = []
        for window in training.tbptt(net, move(x), k1, k2, lengths=np.array([7, 4]), **marks):
            d = window.backward(window.y)
            own.append([[window.y, window.state], [d.x, d.state, d.reset_state, d.params]])
        results.append(own)
    for (want, gradients), (got, found) in zip(*results, strict=True):
        assert_same_bits([here(array) for array in got], want)
        assert_close(arrays([here(part) for part in found]), arrays(gradients), 1e-5)


# ---- refusals


def bad() -> Iterator[tuple[Any, Any, str]]:
    y, host = there(normal(2, 3)), normal(2, 3)
    other = there(host, LAST)
    params, grads = {"w": there(normal(3))}, {"w": normal(3)}
    device: Any = DeviceArray.of(host)
    yield (
        lambda: training.mean_squared_error(y, host),
        ValueError,
        "target: expected a CuPy array on cuda:0, got a NumPy",
    )
    yield lambda: training.mean_squared_error(host, y), ValueError, "target: expected a NumPy array, got a CuPy array"
    if LAST:
        yield lambda: training.mean_squared_error(y, other), ValueError, "target: expected .*cuda:0, got .*cuda:1"
    yield lambda: training.mean_squared_error(y, y, np.ones(2, bool)), ValueError, "mask: expected a CuPy"
    yield lambda: training.mean_squared_error(y, y[:1]), ValueError, r"target: .*\[2, 3\].*\[1, 3\]"
    yield lambda: training.mean_squared_error(y, y.astype("float32")), TypeError, "target: .*float64.*float32"
    yield lambda: training.mean_squared_error(y.astype("float16"), y), TypeError, "y: .*float32.*float16"
    yield lambda: training.mean_squared_error(device, y), TypeError, "y: .*NumPy or CuPy.*DeviceArray.*cupy.asarray"
    yield lambda: training.softmax_cross_entropy(y, np.zeros(2, int)), ValueError, "targets: expected a CuPy array"
    yield lambda: training.softmax_cross_entropy(y, there(np.zeros(2))), TypeError, "targets: .*integers.*float64"
    yield lambda: training.last_step(host[None], there(np.ones(2, int))), ValueError, "lengths: expected a NumPy"
    yield lambda: training.last_step(y[None], there(np.ones(3, int))), ValueError, r"lengths: .*\[2\].*\[3\]"
    yield lambda: training.last_step(y[None], [0, 1]), ValueError, "lengths: .*at least 1"
    yield lambda: training.last_step(y[None])[1](host), ValueError, "dpooled: expected a CuPy"
    yield lambda: training.SGD(params, 0.1).step(grads), ValueError, "grads w: expected a CuPy array.*got a NumPy"
    yield lambda: training.SGD(grads, 0.1).step(params), ValueError, "grads w: expected a NumPy array, got a CuPy"
    yield lambda: training.SGD({"w": there(np.zeros(3, int))}, 0.1), TypeError, "params w: .*float32.*int64"
    yield lambda: training.SGD({"w": device}, 0.1), TypeError, "params w: expected a NumPy .*DeviceArray"
    yield lambda: training.Adam({"a": y[:, :2], "b": y[:, 1:]}), ValueError, "params b: .*overlaps params a"
    yield lambda: training.clip_grad_norm({"a": y, "b": host}, 1.0), ValueError, "grads b: expected a CuPy.*as grads a"
    yield lambda: training.clip_grad_norm({"b": host, "a": y}, 1.0), ValueError, "grads a: expected a NumPy.*as grads b"
    yield lambda: training.clip_grad_norm({"a": y, "b": y[:, :1]}, 1.0), ValueError, "grads b: .*overlaps grads a"


def test_wrong_input_is_refused_by_name() -> None:
    for call, error, match in bad():
        with pytest.raises(error, match=match):
            call()


def test_truncation_refuses_what_it_cannot_pad() -> None:
    x: Any = DeviceArray.of(normal(5, 1, 3, dtype="float32"))
    with pytest.raises(ValueError, match=r"k2: expected k1 with arrays other than CuPy's, got 4 with DeviceArray"):
        training.tbptt(recurra.GRU(3, 2, device="cuda"), x, 2, 4)
