"""Arrays in device memory, and the order of streams: on a GPU, or over its stand-in, which refuses work that is not
ordered behind what it reads and overwrites."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_same_bits, run_python
from cuda_arrays import (
    LIBRARY,
    DeviceArray,
    Memory,
    begin,
    call,
    driver,
    end,
    new_stream,
    on_device,
    replay,
    require_gpu,
    synchronize,
    wait,
)

from recurra import _core
from recurra.cuda import register_library
from recurra.cuda.arrays import View, view
from recurra.cuda.launch import empty, item_size, ordered, output, written


@pytest.fixture(autouse=True)
def gpu() -> None:
    require_gpu()


@pytest.fixture
def counts() -> Any:
    """The stand-in's counters of what the driver was asked, from now on."""
    library = driver()
    if not hasattr(library, "standin_reset_counts"):
        pytest.skip("a real driver counts nothing")
    library.standin_reset_counts()
    return lambda name: int(getattr(library, f"standin_{name}")())


X = np.arange(24, dtype="float32").reshape(4, 2, 3)


def copy(to: View, source: View, stream: int) -> int:
    """The simplest launch; what the driver says."""
    size = ctypes.c_size_t(4 * int(np.prod(source.shape)))
    with on_device(source.device) as cuda:
        return int(
            cuda.cuMemcpyDtoDAsync_v2(
                ctypes.c_uint64(to.pointer), ctypes.c_uint64(source.pointer), size, ctypes.c_void_p(stream)
            )
        )


def read(name: str, value: Any, device: int = 0) -> View:
    return view(name, value, "float32", X.shape, device=device)


def made_on(stream: int, device: int = 0) -> DeviceArray:
    """X, written on a stream that nobody has waited for."""
    with LIBRARY.use(stream, device):
        source, made = DeviceArray.of(X, device=device), DeviceArray(X.shape, device=device)
        call(copy(read("to", made, device), read("from", source, device), stream))
    return made


# ---- the arrays of the tests themselves


@pytest.mark.parametrize("dtype", ("float32", "float64", "float16", "bfloat16", "int64"))
def test_arrays_go_to_the_gpu_and_back(dtype: str) -> None:
    numbers = np.array([[1, -2.5, 3], [0.25, 1e3, -0.0]], "float32")
    numbers = numbers if "float" in dtype else numbers.astype("int64")
    array = DeviceArray.of(numbers, dtype)
    assert (array.shape, array.dtype) == ((2, 3), dtype)
    host = np.float32 if dtype == "bfloat16" else dtype
    assert_same_bits(array.to_host(), numbers.astype(host))
    parts: list[Any] = [np.s_[1], np.s_[:, ::-2], np.s_[::-1, 1:], np.s_[:0]]
    for key in parts:
        assert_same_bits(array[key].to_host(), numbers.astype(host)[key])
    assert_same_bits(array.transpose(1, 0).to_host(), numbers.astype(host).T)
    assert_same_bits(array[:1].broadcast_to((5, 3)).to_host(), np.repeat(numbers[:1], 5, 0).astype(host))
    array[:, ::2].fill([[7, 8], [9, 10]])
    assert_same_bits(array[:, 1].to_host(), numbers[:, 1].astype(host))
    assert_same_bits(array[:, ::2].to_host(), np.array([[7, 8], [9, 10]], host))


def test_bfloat16_is_rounded_to_nearest_even() -> None:
    torch = pytest.importorskip("torch")
    numbers = np.random.default_rng(0).standard_normal(1000).astype("float32")
    numbers[:3] = 1 + 2.0**-8, 1 + 3 * 2.0**-8, np.inf
    want = torch.from_numpy(numbers).bfloat16().float().numpy()
    assert_same_bits(DeviceArray.of(numbers, "bfloat16").to_host(), want)


@pytest.mark.parametrize("dtype", ("float32", "float64", "float16", "bfloat16", "uint8"))
def test_results_can_be_of_every_dtype(dtype: str) -> None:
    x = read("x", DeviceArray.of(X))
    made = output(None, (2, 5), dtype, x)
    assert (made.shape, made.dtype, made.readonly) == ((2, 5), dtype, False)
    out = DeviceArray((5, 2), dtype).transpose(1, 0)
    assert output(out, (2, 5), dtype, x).owner is out
    with pytest.raises(ValueError, match=r"^out: expected a writeable array"):
        output(out.exported(readonly=True), (2, 5), dtype, x)


@pytest.mark.parametrize("key", (np.s_[:], np.s_[::-1, :, ::2], np.s_[1:, 1], np.s_[:0]), ids=str)
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_a_view_lies_where_the_array_does(dtype: str, key: Any) -> None:
    array = DeviceArray.of(X, dtype)[key]
    found = view("x", array, dtype, array.shape, device=0)
    assert found.pointer == array.pointer
    size = item_size(dtype)
    assert found.shape == array.shape and found.strides == tuple(step // size for step in array.strides)
    assert found.library is LIBRARY


def test_new_arrays_come_from_the_pool_of_the_stream() -> None:
    stream = new_stream()
    with LIBRARY.use(stream):
        first = empty("output", LIBRARY, (5, 7), "float32", 0)
        assert first.stream == stream and np.isnan(first.owner.to_host()).all()
        pointer, before = first.pointer, Memory.allocations
        del first
        assert empty("output", LIBRARY, (5, 7), "float32", 0).pointer == pointer
    assert Memory.allocations == before
    assert empty("output", LIBRARY, (5, 7), "float32", 0).pointer != pointer


# ---- what the driver knows


def test_memory_of_the_host_or_another_gpu_is_refused() -> None:
    class Interface:
        def __init__(self, array: Array) -> None:
            self.__cuda_array_interface__ = dict(array.__array_interface__, version=2)

    with pytest.raises(ValueError, match=r"^x: expected a CUDA array on cuda:0, got memory of no GPU$"):
        read("x", Interface(X.copy()))


def test_arrays_of_two_gpus_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECURRA_STANDIN_GPUS", "2")
    if _core.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    there = made_on(new_stream(1), device=1)
    with pytest.raises(ValueError, match=r"^x: expected a CUDA array on cuda:0, got memory of cuda:1$"):
        read("x", there)
    with pytest.raises(ValueError, match=r"^x: expected a CUDA array on cuda:0, got one on cuda:1$"):
        view("x", DeviceArray.of(X, "bfloat16", device=1), "bfloat16", X.shape, device=0)
    stream = new_stream(1)
    with LIBRARY.use(stream, device=1):
        x = read("x", there, device=1)
        y = output(None, X.shape, "float32", x)
        with ordered([x, y], stream):
            call(copy(y, x, stream))
        assert y.device == 1
        assert_same_bits(y.owner.to_host(), X)


# ---- order


def handle(name: str) -> int:
    """Of a new stream, the legacy default one or the thread's."""
    return {"legacy": 0, "thread": 2}[name] if name != "new" else new_stream()


class Capsules:
    """A DeviceArray that has nothing but DLPack."""

    def __init__(self, array: DeviceArray) -> None:
        self.__dlpack__, self.__dlpack_device__ = array.__dlpack__, array.__dlpack_device__


register_library(Capsules, LIBRARY)


@pytest.mark.parametrize("producer", ("new", "legacy", "thread"))
@pytest.mark.parametrize("consumer", ("new", "legacy", "thread"))
@pytest.mark.parametrize("kind", (DeviceArray.exported, Capsules))
def test_a_launch_comes_after_its_input(producer: str, consumer: str, kind: Any) -> None:
    other, stream = handle(producer), handle(consumer)
    value = made_on(other)
    with LIBRARY.use(stream):
        x = read("x", kind(value))
        y = output(None, X.shape, "float32", x)
        with ordered([x, y], stream):
            call(copy(y, x, stream))
        assert_same_bits(y.owner.to_host(), X)


def test_without_that_order_the_stand_in_objects(counts: Any) -> None:
    value, stream = made_on(new_stream()), new_stream()
    with LIBRARY.use(stream):
        x = read("x", value.exported(stream=None))  # says that there is nothing to wait for
        y = output(None, X.shape, "float32", x)
        with ordered([x, y], stream):
            assert copy(y, x, stream) != 0
    synchronize(stream)


def test_the_producer_may_overwrite_its_array_after_the_call() -> None:
    """Or free it, and get the same memory again: what its stream does next waits for the launch."""
    other, stream = new_stream(), new_stream()
    value = made_on(other)
    with LIBRARY.use(stream):
        x = read("x", value)
        y = output(None, X.shape, "float32", x)
        with ordered([x], stream):
            call(copy(y, x, stream))
    del x, value
    with LIBRARY.use(other):
        again = DeviceArray(X.shape)  # of the pool, and filled with NaN
        again.memory.set(0)
    with LIBRARY.use(stream):
        assert_same_bits(y.owner.to_host(), X)
    synchronize(other)


@pytest.mark.parametrize("kind", (DeviceArray.exported, Capsules))
def test_who_made_out_reads_it_on_its_own_stream(kind: Any) -> None:
    other, stream = new_stream(), new_stream()
    with LIBRARY.use(stream):
        value = DeviceArray.of(X)
    with LIBRARY.use(other):
        out = DeviceArray(X.shape)
        y = written("out", kind(out), "float32", X.shape, device=0, inputs=())
    with LIBRARY.use(stream):
        x = read("x", value)
        with ordered([x, y], stream):
            call(copy(y, x, stream))
    with LIBRARY.use(other):
        assert_same_bits(out.to_host(), X)


def test_nobody_waits_and_no_event_is_left(counts: Any) -> None:
    value, stream = made_on(new_stream()), new_stream()
    live = driver().standin_live_events()
    before = counts("synchronisations")
    for _ in range(3):
        with ordered([read("x", value)], stream):
            pass
    assert counts("synchronisations") == before
    assert driver().standin_live_events() == live


# ---- capture


def test_a_call_on_one_stream_can_be_captured() -> None:
    stream = new_stream()
    with LIBRARY.use(stream):
        value = DeviceArray.of(X)
        DeviceArray(X.shape)  # leaves memory in the pool
        begin(stream)
        x = read("x", value)
        y = output(None, X.shape, "float32", x)
        with ordered([x, y], stream):
            call(copy(y, x, stream))
        graph = end(stream)
        value.fill(X + 1)
        replay(graph, stream)
        assert_same_bits(y.owner.to_host(), X + 1)


def test_streams_of_one_capture_wait_for_each_other() -> None:
    stream, other = new_stream(), new_stream()
    with LIBRARY.use(other):
        value = DeviceArray.of(X)
        middle = DeviceArray(X.shape)
    with LIBRARY.use(stream):
        y = empty("output", LIBRARY, X.shape, "float32", 0)
    synchronize(stream)
    synchronize(other)
    begin(stream)
    wait(other, stream)
    call(copy(read("middle", middle), read("value", value), other))
    x = read("x", middle)
    with ordered([x, y], stream):
        call(copy(y, x, stream))
    wait(stream, other)  # which the capture wants: the producer has waited for the launch, and so has joined again
    replay(end(stream), stream)
    with LIBRARY.use(stream):
        assert_same_bits(y.owner.to_host(), X)


@pytest.mark.parametrize("producer", ("new", "legacy", "thread"))
def test_what_a_capture_cannot_wait_for_is_an_error_and_the_capture_goes_on(producer: str) -> None:
    other, stream = handle(producer), new_stream()
    value = made_on(other)
    with LIBRARY.use(stream):
        own = DeviceArray.of(X)
        y = empty("output", LIBRARY, X.shape, "float32", 0)
    synchronize(other)
    begin(stream)
    with pytest.raises(RuntimeError, match=r"^state h: .*captured"), ordered([read("state h", value)], stream):
        raise AssertionError("launched")
    call(copy(y, read("x", own), stream))
    replay(end(stream), stream)
    with LIBRARY.use(stream):
        assert_same_bits(y.owner.to_host(), X)


# ---- threads, lifetimes, processes


def test_each_thread_has_its_own_stream() -> None:
    results, failures = {}, []

    def work(number: int) -> None:
        try:
            stream = new_stream()
            with LIBRARY.use(stream):
                value = DeviceArray.of(X + number)
                for _ in range(20):
                    x = read("x", value)
                    y = output(None, X.shape, "float32", x)
                    with ordered([x, y], stream):
                        call(copy(y, x, stream))
                    value = y.owner
                results[number] = value.to_host()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert_same_bits(results, {number: X + number for number in results})
    assert len(results) == 4


def test_views_give_memory_back() -> None:
    stream = new_stream()
    with LIBRARY.use(stream):
        pool = Memory._pool
        for dtype in ("float32", "bfloat16"):
            key = (0, stream, 24 * item_size(dtype))
            found = view("x", DeviceArray.of(X, dtype), dtype, X.shape, device=0)
            gc.collect()
            assert not pool[key], "the array is gone before its view"
            del found
            assert len(pool[key]) == 1


def test_a_forked_child_is_told() -> None:
    if not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    script = """
import os
import numpy as np
from cuda_arrays import DeviceArray
from recurra.cuda.arrays import view
x = DeviceArray.of(np.zeros((2, 3), "float32"))
view("x", x, "float32", (2, 3), device=0)
child = os.fork()
if not child:
    try:
        view("x", x, "float32", (2, 3), device=0)
    except RuntimeError as error:
        print("refused:", error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    assert "refused: " in run_python(script) and "fork" in run_python(script)
