"""Many threads and processes at one layer, and an import without side effects."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from checks import CPUS, Array, arrays, assert_same_bits, copies, isa_available, run_python
from strategies import Problem

import recurra

ON_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")

PROBLEMS = [
    Problem("lstm", 17, 100, 20, 9, layers=2, directions=2, lengths=(0, 20, 3, 7, 20, 1, 19, 8, 2), seed=1),
    Problem("gru", 100, 257, 12, 1, dtype="float64", seed=2),
    Problem("gru_reset_before", 7, 64, 30, 40, seed=3),
    Problem("lstm_peephole_projected", 3, 100, 10, 5, proj_size=33, directions=2, seed=4),
]


def result(problem: Problem, layer: Any) -> list[Array]:
    return arrays(layer(problem.x(), lengths=problem.lengths))


def test_eight_threads_at_one_layer_get_the_bits_of_one() -> None:
    jobs = [(problem, problem.layer()) for problem in PROBLEMS]
    want = [copies(result(*job)) for job in jobs]
    failures: list[BaseException] = []
    start = threading.Barrier(8)

    def work(first: int) -> None:
        try:
            start.wait()
            for k in range(12):
                index = (first + k) % len(jobs)
                assert_same_bits(result(*jobs[index]), want[index])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


def test_eight_threads_with_a_stream_each_get_the_bits_of_a_whole_call() -> None:
    layer = recurra.LSTM(17, 64, 2, seed=0)
    xs = np.random.default_rng(0).normal(0, 1, (8, 200, 17)).astype("float32")
    want = [layer(x)[0] for x in xs]
    outputs: list[Any] = [None] * 8

    def work(k: int) -> None:
        stream = layer.stream()
        outputs[k] = np.stack([stream.step(frame) for frame in xs[k]])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same_bits(outputs, want)


def test_loading_parameters_while_others_run_gives_the_old_or_the_new_output() -> None:
    layer = recurra.GRU(17, 100, seed=0)
    x = np.random.default_rng(0).normal(0, 1, (30, 8, 17)).astype("float32")
    old, new = layer.state_dict(), recurra.GRU(17, 100, seed=1).state_dict()
    wanted = set()
    for params in (new, old):
        layer.load_state_dict(params)
        wanted.add(layer(x)[0].tobytes())
    seen: set[bytes] = set()
    calls: list[None] = []

    def work() -> None:
        for _ in range(40):
            seen.add(layer(x)[0].tobytes())
            calls.append(None)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for params in (new, old):
            layer.load_state_dict(params)
    assert len(calls) == 120
    assert seen <= wanted


def test_other_python_threads_run_on_while_a_long_call_computes() -> None:
    layer = recurra.LSTM(256, 256, seed=0)
    x = np.zeros((1500, 8, 256), "float32")
    stop = threading.Event()
    seen: list[float] = []

    def work() -> None:
        while not stop.wait(0.001):
            seen.append(time.monotonic())

    thread = threading.Thread(target=work)
    thread.start()
    start = time.monotonic()
    layer(x)
    end = time.monotonic()
    stop.set()
    thread.join()
    middle = (end - start) / 4
    assert any(start + middle < moment < end - middle for moment in seen)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_gets_the_same_bits_and_so_does_its_parent_after() -> None:
    """Threads are started before the fork: the child has none of them. Not in pytest's process, which may have more."""
    script = """
import os, signal
import recurra
from checks import assert_same_bits, copies
from test_threads import PROBLEMS, result
recurra.set_num_threads(2)
jobs = [(problem, problem.layer()) for problem in PROBLEMS]
want = [copies(result(*job)) for job in jobs]
stream = recurra.LSTM(3, 5, seed=0).stream()
for _ in range(2):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        code = 1
        try:
            for job, expected in zip(jobs, want):
                assert_same_bits(result(*job), expected)
            assert_same_bits(result(PROBLEMS[0], PROBLEMS[0].layer()), want[0])
            assert stream.step(PROBLEMS[0].x()[0, 0, :3]).any()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    for job, expected in zip(jobs, want):
        assert_same_bits(result(*job), expected)
print("done")
"""
    assert run_python(script).strip() == "done"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_child_forked_during_a_layers_first_backward_can_train_it() -> None:
    """The first backward turns the weights about, here for milliseconds; the child has not got the thread that does.

    (It would hang where std::call_once guards this and the C library does not mend it in a child, as glibc does.)
    """
    script = """
import os, signal, threading, time
import numpy as np
import recurra
x = np.ones((1, 1, 8), "float32")
def gradient(tape):
    return tape.backward(np.ones((1, 1, 1024), "float32")).x
def tape(): return recurra.LSTM(8, 1024, seed=0).forward(x)[2]
want = gradient(tape())
for milliseconds in range(1, 10):
    shared = tape()
    parent = threading.Thread(target=gradient, args=(shared,))
    parent.start()
    time.sleep(milliseconds / 1000)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(not np.array_equal(gradient(shared), want))
    status = os.waitpid(child, 0)[1]
    parent.join()
    assert status == 0, (milliseconds, status)
print("done")
"""
    assert run_python(script).strip() == "done"


def spawned(job: tuple[Problem, Any]) -> list[bytes]:
    return [array.tobytes() for array in result(*job)]


def test_a_spawned_child_gets_the_layer_by_pickle_and_the_same_bits() -> None:
    jobs = [(problem, problem.layer()) for problem in PROBLEMS]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(spawned, jobs) == [spawned(job) for job in jobs]


@ON_LINUX
def test_import_and_making_small_layers_starts_no_thread_and_imports_no_framework() -> None:
    script = """
import os, sys
import numpy
def count(): return len(os.listdir("/proc/self/task"))
before = count()
import recurra
after_import = count()
layer = recurra.LSTM(3, 5, seed=0)
stream = layer.stream()
frameworks = {"torch", "onnxruntime", "scipy", "multiprocessing"}
print(after_import - before, count() - before, sorted(frameworks & set(sys.modules)))
"""
    assert run_python(script).strip() == "0 0 []"


@ON_LINUX
@pytest.mark.skipif(CPUS < 2, reason="one CPU only")
@pytest.mark.parametrize("threads", (1, 2))
def test_a_large_layer_is_packed_by_as_many_threads_as_were_asked_for(threads: int) -> None:
    script = """
import os
import recurra
before = len(os.listdir("/proc/self/task"))
recurra.LSTM(512, 512)
print(len(os.listdir("/proc/self/task")) - before)
"""
    assert run_python(script, RECURRA_NUM_THREADS=str(threads)).strip() == str(threads - 1)


@ON_LINUX
@pytest.mark.parametrize("threads", (1, pytest.param(2, marks=pytest.mark.skipif(CPUS < 2, reason="one CPU only"))))
def test_as_many_threads_run_as_were_asked_for(threads: int) -> None:
    """The caller's own is one of them. Work as large as this is worth a second."""
    script = """
import os
import numpy
before = len(os.listdir("/proc/self/task"))
from test_threads import PROBLEMS, result
for problem in PROBLEMS:
    assert result(problem, problem.layer())
print(len(os.listdir("/proc/self/task")) - before)
"""
    assert run_python(script, RECURRA_NUM_THREADS=str(threads)).strip() == str(threads - 1)


def test_an_unknown_instruction_set_or_thread_count_in_the_environment_fails_loudly() -> None:
    script = """
import recurra
try:
    recurra.RNN(3, 5)(__import__("numpy").zeros((1, 1, 3), "float32"))
except Exception as error:
    print(type(error).__name__, error)
"""
    for name, value in (("RECURRA_ISA", "nonesuch"), ("RECURRA_NUM_THREADS", "many")):
        printed = run_python(f"try:\n    exec({script!r})\nexcept Exception as error: print(error)", **{name: value})
        assert name in printed
        assert value in printed


@ON_LINUX
@pytest.mark.skipif(CPUS < 2, reason="one CPU only")
@pytest.mark.parametrize(("hidden", "threads"), ((8, 2), (240, 1), (240, 2)))
def test_a_stream_uses_the_threads_it_was_given_if_its_steps_are_worth_it(hidden: int, threads: int) -> None:
    script = f"""
import os
import numpy
import recurra
before = len(os.listdir("/proc/self/task"))
stream = recurra.LSTM(8, {hidden}).stream(threads={threads})
stream.step(numpy.zeros(8, "float32"))
print(len(os.listdir("/proc/self/task")) - before)
"""
    assert run_python(script).strip() == str(threads - 1 if hidden == 240 else 0)


def test_the_error_of_an_unknown_instruction_set_says_what_can_be_set() -> None:
    script = """
import recurra
try:
    recurra.config()
except RuntimeError as error:
    print(error)
"""
    printed = run_python(script, RECURRA_ISA="nonesuch")
    for word in ("RECURRA_ISA", *isa_available(), "or nothing", "'nonesuch'"):
        assert word in printed


@pytest.mark.parametrize("first", ("", "import recurra"))
def test_an_import_in_a_subinterpreter_is_refused(first: str) -> None:
    """It hung, before or after an import in the main interpreter."""
    inner = "try:\n    import recurra\nexcept ImportError as error:\n    print(error, flush=True)"
    script = f"""
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
{first}
interpreters.run_string(interpreters.create(), f"import sys; sys.path[:] = {{sys.path}}\\n" + {inner!r})
import recurra
print(recurra.GRU(3, 5)(__import__("numpy").zeros((1, 3), "float32"))[0].shape)
"""
    refusal, shape = run_python(script).splitlines()
    assert "subinterpreter" in refusal
    assert shape == "(1, 5)"
