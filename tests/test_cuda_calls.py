"""What calls on a GPU, or over its stand-in, promise besides their results: nothing allocated or waited for, the same
bits every time, capture in CUDA graphs, order between streams, threads, forks, and nothing left behind."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close, assert_same_bits, run_python
from cuda_arrays import (
    LIBRARY,
    DeviceArray,
    Memory,
    begin,
    counted,
    download,
    end,
    new_stream,
    replay,
    require_gpu,
    synchronize,
    upload,
)

import recurra
from recurra import _core
from recurra.cuda.packed import PLANS, CudaPacked

require_gpu()

ENGINES = pytest.mark.parametrize("engine", ("exact", "cublas"))
NUMBERS = pytest.mark.parametrize("number", ("float32", "float64", "float16", "bfloat16"))


def close(actual: Any, expected: Any) -> None:
    assert_close(actual, expected, 1e-5)


def data(*shape: int, dtype: str = "float32") -> Array:
    return np.random.default_rng(0).normal(0, 1, shape).astype(dtype)


def layer_on(engine: str, device: str = "cuda", number: str = "float32", **options: Any) -> recurra.LSTM:
    return recurra.LSTM(3, 5, 2, seed=0, device=device, engine=engine, dtype=number, **options)


def calls(layer: recurra.Recurrent, batch: int = 2) -> dict[str, Callable[[Any], Any]]:
    """Everything that is called in a steady state, each of one x."""
    lengths = upload(np.array([3, 1], "int32"))
    stream: Any = None if layer.bidirectional else layer.stream(batch)

    def trained(x: Any) -> Any:
        y, state, tape = layer.forward(x, rng=3)
        return y, state, tuple(tape.backward(y, state))

    def again(x: Any) -> Any:
        y, state, tape = layer.forward(x, lengths=lengths, recompute=True)
        return y, tuple(tape.backward(y, state, input_grad=False))

    def resets(x: Any) -> Any:
        results = []
        for rows in ([0], None):
            stream.step(x[0])
            stream.reset(rows)
            results.append(stream.step(x[1]))
        return results

    found: dict[str, Callable[[Any], Any]] = {
        "call": layer,
        "call with lengths on the GPU": lambda x: layer(x, lengths=lengths),
        "call with a state": lambda x: layer(x, layer(x)[1]),
        "training": trained,
        "training again": again,
    }
    if stream:
        found |= {
            "two steps": lambda x: (stream.step(x[0]), stream.step(x[1])),
            "a chunk": lambda x: (stream.run(x), stream.state),
            "reset": resets,
        }
    return found


NAMES = list(calls(layer_on("exact")))
ALL_CALLS = pytest.mark.parametrize("name", NAMES)


# ---- the same bits, nothing allocated, nothing waited for


@NUMBERS
@pytest.mark.parametrize("options", ({}, {"bidirectional": True, "dropout": 0.3, "zoneout": 0.1, "proj_size": 2}))
def test_the_same_call_has_the_same_bits(number: str, options: dict[str, Any]) -> None:
    """From the third time on at the same addresses it is a graph that is replayed."""
    layer = layer_on("cublas", number=number, **options)
    x = upload(data(4, 2, 3), number)
    for name, call in calls(layer).items():
        if name not in ("two steps", "a chunk", "reset"):
            graphs = counted("graph_launches", 0)
            results = [download(call(x)) for _ in range(5)]
            for other in results[1:]:
                assert_same_bits(other, results[0])
            assert counted("graph_launches", 1) > graphs, name


def steady() -> list[int]:
    kinds = ("allocations", "synchronisations", "compilations", "live_events", "live_graphs", "live_execs")
    return [counted(kind) for kind in kinds]


@ENGINES
@ALL_CALLS
def test_in_a_steady_state_nothing_is_allocated_or_waited_for(engine: str, name: str) -> None:
    layer = layer_on(engine)
    call, stream = calls(layer)[name], new_stream()
    with LIBRARY.use(stream):
        x = upload(data(4, 2, 3))
        for _ in range(4):
            call(x)
        gc.collect()
        before = [
            counted(what) for what in ("allocations", "synchronisations", "compilations", "live_events", "live_graphs")
        ]
        for _ in range(3):
            call(x)
        after = [
            counted(what) for what in ("allocations", "synchronisations", "compilations", "live_events", "live_graphs")
        ]
        assert after == before
        synchronize(stream)
    assert counted("errors", 0) == 0


def test_host_lengths_allocate_nothing_of_the_core() -> None:
    layer = layer_on("exact")
    x = upload(data(4, 2, 3))
    for lengths in ([3, 1], [2, 2], [4, 0], [3, 1]):
        layer(x, lengths=lengths)
    allocations = counted("allocations") - Memory.allocations
    synchronisations = counted("synchronisations")
    for lengths in ([1, 3], [2, 4], [0, 0]):
        layer(x, lengths=lengths)
    assert counted("allocations") - Memory.allocations == allocations
    assert counted("synchronisations") == synchronisations


@pytest.mark.parametrize("layers", (1, 2))
def test_a_step_is_one_launch_and_allocates_nothing(layers: int) -> None:
    stream = recurra.LSTM(3, 5, layers, device="cuda").stream(2)
    x, out = upload(data(2, 3)), upload(data(2, 5))
    stream.step(x, out)
    pool = sum(map(len, Memory._pool.values()))
    before = counted("launches") + counted("graph_launches"), Memory.allocations
    assert stream.step(x, out) is out
    assert (counted("launches") + counted("graph_launches"), Memory.allocations) == (before[0] + 1, before[1])
    assert sum(map(len, Memory._pool.values())) == pool


def test_plans_are_kept_for_the_shapes_that_come_again() -> None:
    layer = recurra.RNN(1, 1, device="cuda")
    packed: Any = layer._packed
    assert isinstance(packed, CudaPacked)
    x = upload(np.zeros((200, 2, 1), "float32"))
    layer(x[:3])
    first = packed.plan(3, 2)
    assert packed.plan(3, 2) is first
    for steps in range(PLANS + 20):
        layer(x[:steps])
    assert len(packed._resident.plans) == PLANS
    assert packed.plan(3, 2) is not first
    for _ in range(3):
        layer(x[:3], lengths=[1, 2])
    assert len(packed._resident.plans) == PLANS


@ENGINES
@pytest.mark.parametrize("on_host", (False, True))
def test_training_uses_its_networks_again_behind_everybodys_back(engine: str, on_host: bool) -> None:
    """The core allocates nothing, and graphs are replayed; what was made before keeps its parameters."""
    layer, host = layer_on(engine), layer_on(engine).to("cpu")
    x = upload(data(4, 2, 3))
    same = assert_same_bits if engine == "exact" else close
    kept: list[Any] = []
    allocations, graphs = [], []
    for turn in range(12):
        y, state, tape = layer.forward(x)
        y0, state0, tape0 = host.forward(download(x))
        same(download((y, state)), (y0, state0))
        gradients, wanted = tape.backward(y, state), tape0.backward(y0, state0)
        same(download(tuple(gradients)), tuple(wanted))
        if turn == 3:
            kept = [tape, tape0, y, y0, layer.stream(2), host.stream(2)]
        params = {name: array - np.float32(0.1) * wanted.params[name] for name, array in host.state_dict().items()}
        host.load_state_dict(params)
        del tape, gradients
        layer.load_state_dict(params if on_host else upload(params))
        assert_same_bits(layer.state_dict(), params)
        allocations.append(counted("allocations", 0) - Memory.allocations)
        graphs.append(counted("graph_launches", turn))
    assert allocations[-1] == allocations[-3]
    assert graphs[-1] > graphs[-3]
    tape, tape0, y, y0, ours, twin = kept
    same(download(tuple(tape.backward(y))), tuple(tape0.backward(y0)))
    same(download(ours.step(x[0])), twin.step(download(x[0])))
    assert counted("errors", 0) == 0


def test_parameters_are_not_replaced_under_another_stream() -> None:
    layer, x = layer_on("exact"), data(4, 2, 3)
    host = layer.to("cpu")
    for turn in range(8):
        params = {name: array * np.float32(1.1) for name, array in host.state_dict().items()}
        host.load_state_dict(params)
        with LIBRARY.use(new_stream()):
            layer.load_state_dict(upload(params))
        with LIBRARY.use(new_stream()):
            y, _ = layer(upload(x))
            if turn % 2:
                assert_same_bits(download(y), host(x)[0])
    assert counted("errors", 0) == 0


def test_who_replaces_parameters_once_does_not_pay_with_memory() -> None:
    layer = layer_on("exact")
    live = counted("live_bytes")
    layer.load_state_dict(layer.state_dict())
    assert counted("live_bytes") == live


# ---- capture


@ENGINES
@ALL_CALLS
def test_a_call_can_be_captured_and_replayed(engine: str, name: str) -> None:
    """On other numbers: the graph holds no result, and nothing of it is decided on the host."""
    layer, stream = layer_on(engine), new_stream()
    with LIBRARY.use(stream):
        x = upload(data(4, 2, 3))
        other = data(4, 2, 3)[::-1] + 1
        for _ in range(3):  # graphs of our own, and memory in the pool
            calls(layer)[name](x)
        twin = calls(layer)[name]
        want = download(twin(upload(other)))
        captured = calls(layer)[name]
        if name in ("a chunk", "two steps", "reset"):
            # Of a stream whose state another CUDA stream has never touched.
            captured(x)
            twin_state = calls(layer)[name]
            twin_state(x)
            want = download(twin_state(upload(other)))
        synchronize(stream)
        gc.collect()
        before = counted("allocations", 0), counted("synchronisations", 0)
        begin(stream)
        results = captured(x)
        graph = end(stream)
        assert (counted("allocations", 0), counted("synchronisations", 0)) == before
        x.fill(other)
        replay(graph, stream)
        assert_same_bits(download(results), want)
    assert counted("errors", 0) == 0


@pytest.mark.parametrize("count", [1, 2])
def test_captured_steps_go_on_where_they_were(count: int) -> None:
    layer, stream = layer_on("exact"), new_stream()
    with LIBRARY.use(stream):
        x = upload(data(2, 2, 3))
        ours, twin = layer.stream(2), layer.stream(2)
        first = [ours.step(x[0]), ours.step(x[1])]
        del first  # whose memory the capture gets
        ours.reset()
        synchronize(stream)
        begin(stream)
        y = [ours.step(x[i]) for i in range(count)]
        replay(end(stream), stream, times=3)
        for _ in range(3):
            want = [twin.step(x[i]) for i in range(count)]
        assert_same_bits(download(y), download(want))
        assert_same_bits(download([ours.step(x[0])]), download([twin.step(x[0])]))


def test_a_capture_cannot_wait_for_work_that_is_not_in_it() -> None:
    layer, stream, other = layer_on("exact"), new_stream(), new_stream()
    with LIBRARY.use(other):
        h = upload(np.zeros((2, 2, 5), "float32"))
        stepped = layer.stream(2)
        stepped.step(upload(data(2, 3)))
    with LIBRARY.use(stream):
        x = upload(data(4, 2, 3))
        warm = [layer(x, layer(x)[1]) for _ in range(2)], layer.stream(2).step(x[0])
        del warm  # whose memory the capture gets
        gc.collect()
        synchronize(stream)
        begin(stream)
        with pytest.raises(RuntimeError, match=r"^state h: .*captured"):
            layer(x, (h, h))
        with pytest.raises(RuntimeError, match="captured"):
            stepped.step(x[0])
        y, _ = layer(x)
        replay(end(stream), stream)
        assert_same_bits(download(y), layer.to("cpu")(data(4, 2, 3))[0])


@ENGINES
def test_layers_and_streams_may_go_while_something_is_captured(engine: str) -> None:
    """Python may give them back at any time."""
    layer, stream = layer_on(engine), new_stream()
    with LIBRARY.use(stream):
        x = upload(data(4, 2, 3))
        gone: list[Any] = [layer_on(engine)]
        gone += [gone[0].stream(2)]
        for _ in range(3):  # with a graph of its own
            want = download(gone[0](x)[0])
            layer(x)
        gc.collect()
        synchronize(stream)
        begin(stream, for_all=True)
        y, _ = layer(x)
        del gone
        gc.collect()
        replay(end(stream), stream)
        assert_same_bits(download(y), want)
    assert counted("errors", 0) == 0


def test_a_call_makes_its_graph_while_another_thread_captures() -> None:
    layer, stream, other = layer_on("cublas"), new_stream(), new_stream()
    results: list[Any] = []

    def call_again() -> None:
        with LIBRARY.use(other):
            results.append(layer(x)[0])

    with LIBRARY.use(other):
        x = upload(data(4, 2, 3))
        want = download(layer(x)[0])
    with LIBRARY.use(stream):
        there = upload(data(4, 2, 3))
        layer(there)
        gc.collect()
        synchronize(stream)
        begin(stream, for_all=True)
        thread = threading.Thread(target=call_again)
        thread.start()
        thread.join()
        y, _ = layer(there)
        replay(end(stream), stream)
        assert_same_bits(download(y), want)
    with LIBRARY.use(other):
        assert_same_bits(download(results[0]), want)
    assert counted("errors", 0) == 0


# ---- streams, threads


@ENGINES
def test_results_of_one_stream_are_inputs_of_another(engine: str) -> None:
    """The stand-in refuses whatever no event has put in order."""
    layer, streams = layer_on(engine), [new_stream() for _ in range(3)]
    x, host = data(4, 2, 3), layer_on(engine).to("cpu")
    y0, state0, tape0 = host.forward(x)
    want = tuple(tape0.backward(y0, state0))
    running, twin = layer.stream(2), host.stream(2)
    for turn in range(6):
        first, second, third = (streams[(turn + k) % 3] for k in range(3))
        with LIBRARY.use(first):
            given = upload(x)
        with LIBRARY.use(second):
            y, state, tape = layer.forward(given)
            step = running.step(given[turn % 4])
        with LIBRARY.use(third):
            gradients = tape.backward(y, state)
            del tape, given
            same = assert_same_bits if engine == "exact" else close
            same(download(tuple(gradients)), want)
            assert_same_bits(download(step), twin.step(x[turn % 4]))
    assert counted("errors", 0) == 0


@ENGINES
def test_threads_share_a_layer(engine: str) -> None:
    layer = layer_on(engine)
    inputs = [data(4, 2, 3) + number for number in range(4)]
    want = [download(calls(layer)["training"](upload(x))) for x in inputs]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with LIBRARY.use(new_stream()):
                x = upload(inputs[number])
                for _ in range(5):  # each time with a new stream of the layer's
                    assert_same_bits(download(calls(layer)["training"](x)), want[number])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert counted("errors", 0) == 0


def test_a_stream_serves_one_thread_at_a_time() -> None:
    stream: Any = layer_on("exact").stream(2)
    x = upload(data(2, 3))
    stream.step(x)
    stream._lock.acquire()
    for use in (lambda: stream.step(x), lambda: stream.state, stream.reset):
        with pytest.raises(RuntimeError, match="one thread at a time"):
            use()
    stream._lock.release()
    stream.step(x)


def test_gpus_do_not_know_of_each_other() -> None:
    if _core.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    results = []
    for device in (0, 1):
        layer = layer_on("cublas", device=f"cuda:{device}")
        with LIBRARY.use(new_stream(device), device):
            x = DeviceArray.of(data(4, 2, 3), device=device)
            for _ in range(3):
                y, state, tape = layer.forward(x)
                results.append(download((y, state, tuple(tape.backward(y, state)))))
            assert vars(y)["device"] == device
    for other in results[1:]:
        assert_same_bits(other, results[0])
    assert counted("errors", 0) == 0


# ---- forks, leaks


def test_a_forked_child_is_told_and_ends_in_peace() -> None:
    if not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    script = """
import gc, os, pickle
import numpy as np, recurra
from cuda_arrays import DeviceArray
layer = recurra.LSTM(3, 5, 2, seed=0, device="cuda", engine="exact")
x = DeviceArray.of(np.zeros((4, 2, 3), "float32"))
for _ in range(3):
    y, state, tape = layer.forward(x)
stream, params = layer.stream(2), layer.state_dict()
pid = os.fork()
if pid:
    _, status = os.waitpid(pid, 0)
    y2, _ = layer(x)
    assert (y2.to_host() == y.to_host()).all()
    print("child ended with", status)
else:
    calls = {
        "call": lambda: layer(x), "backward": lambda: tape.backward(y), "step": lambda: stream.step(x[0]),
        "state_dict": layer.state_dict, "load": lambda: layer.load_state_dict(params),
        "new": lambda: recurra.GRU(3, 5, device="cuda"), "pickle": lambda: pickle.dumps(layer),
    }
    for name, call in calls.items():
        try:
            call()
            print(name, "done")
        except RuntimeError as error:
            print(name, "refused" if "fork" in str(error) else error)
    del calls, layer, stream, tape, call
    gc.collect()
    print("gone", flush=True)
    os._exit(0)
"""
    lines = run_python(script).splitlines()
    names = ("call", "backward", "step", "state_dict", "load", "new", "pickle")
    assert lines == [*(f"{name} refused" for name in names), "gone", "child ended with 0"]


def test_without_a_gpu_a_pickled_layer_says_so() -> None:
    script = """
import pickle, sys
import recurra
try:
    pickle.loads(bytes.fromhex(sys.argv[1]))
except RuntimeError as error:
    print(error)
"""
    import pickle

    text = pickle.dumps(recurra.GRU(1, 1, seed=0, device="cuda")).hex()
    gone = run_python(script, text, RECURRA_STANDIN_GPUS="0", CUDA_VISIBLE_DEVICES="")
    assert "GPU" in gone


def test_nothing_is_left_behind() -> None:
    def use() -> None:
        for engine in ("exact", "cublas"):
            layer = layer_on(engine)
            x = upload(data(4, 2, 3))
            for call in calls(layer).values():
                for _ in range(3):
                    call(x)
            layer.load_state_dict(layer.state_dict())

    def alive() -> dict[str, int]:
        gc.collect()
        kinds = ("allocations", "streams", "events", "graphs", "execs")
        found = {kind: counted(f"live_{kind}") for kind in kinds}
        found["allocations"] -= Memory.allocations  # the pool keeps those of arrays
        return found

    use()
    before = alive()
    for _ in range(3):
        use()
    assert alive() == before
