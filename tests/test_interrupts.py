"""A signal that arrives during a long call: its handler runs at once, and what it raises ends the call."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from checks import assert_same_bits

import recurra

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers")


class Interruption(Exception):  # noqa: N818
    """What the handler raises."""


@contextmanager
def signal_after(seconds: float) -> Iterator[None]:
    def handler(number: int, frame: Any) -> None:
        raise Interruption

    old = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


# Each of these would take many seconds, or minutes.
def whole_sequence() -> Callable[[], Any]:
    layer = recurra.LSTM(1, 1024, proj_size=1, seed=0)
    return lambda: layer(np.ones((4_000_000, 1), "float32"))


def shared_by_rows() -> Callable[[], Any]:
    layer = recurra.LSTM(1, 256, proj_size=1, seed=0)
    return lambda: layer(np.ones((100_000, 64, 1), "float32"))


def both_directions_with_lengths() -> Callable[[], Any]:
    layer = recurra.GRU(1, 512, num_layers=2, bidirectional=True, seed=0)
    return lambda: layer(np.ones((60_000, 4, 1), "float32"), lengths=[60_000, 7, 0, 59_000])


def recording() -> Callable[[], Any]:
    layer = recurra.LSTM(1, 1024, proj_size=1, seed=0)
    return lambda: layer.forward(np.ones((400_000, 1), "float32"), recompute=True)


def long_tree() -> Callable[[], Any]:
    layer, nodes = recurra.TreeLSTM(1, 1024, seed=0), 20_000
    forest = recurra.Forest([[node - 1] if node else [] for node in range(nodes)])
    return lambda: layer(forest, np.ones((nodes, 1), "float32"))


def grid() -> Callable[[], Any]:
    layer = recurra.MultidimensionalLSTM(1, 512, directions=1, seed=0)
    return lambda: layer(np.ones((1, 1_000, 40, 1), "float32"))


def matching() -> Callable[[], Any]:
    layer = recurra.MatchLSTM(1, 16, 256, seed=0)
    premise, hypothesis = np.ones((800, 16, 1), "float32"), np.ones((5_000, 16, 1), "float32")
    return lambda: layer(premise, hypothesis)


def model_of_layers() -> Callable[[], Any]:
    model = recurra.Model([recurra.LSTM(1, 1024, proj_size=1, seed=0), "tanh"])
    return lambda: model(np.ones((4_000_000, 1), "float32"))


def convolution() -> Callable[[], Any]:
    model = recurra.Model([recurra.Conv1d(1, 4, 200_000, padding=100_000, seed=0)])
    return lambda: model(np.ones((1_000_000, 1), "float32"))


CALLS = [
    whole_sequence,
    shared_by_rows,
    both_directions_with_lengths,
    recording,
    long_tree,
    grid,
    matching,
    model_of_layers,
    convolution,
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("make", CALLS, ids=lambda make: make.__name__)
def test_a_long_call_is_ended_by_what_a_signal_handler_raises(make: Any, threads: int) -> None:
    recurra.set_num_threads(threads)
    call = make()
    with pytest.raises(Interruption), signal_after(0.2):
        call()
    layer = recurra.GRU(3, 5, seed=0)  # and the library works on
    assert np.isfinite(layer(np.ones((4, 3), "float32"))[0]).all()


# Each gives backward, without arguments; what it returns has x.
def back_over_a_sequence() -> Callable[[], Any]:
    y, _, tape = recurra.LSTM(64, 512, seed=0).forward(np.ones((150, 64, 64), "float32"))
    return lambda: tape.backward(np.ones_like(y))


def back_over_trees() -> Callable[[], Any]:
    forest = recurra.Forest([[node - 1] if node % 100 else [] for node in range(5_000)])
    h, _, tape = recurra.TreeLSTM(64, 512, seed=0).forward(forest, np.ones((5_000, 64), "float32"))
    return lambda: tape.backward(np.ones_like(h))


def back_over_a_grid() -> Callable[[], Any]:
    y, tape = recurra.MultidimensionalLSTM(64, 256, seed=0).forward(np.ones((4, 20, 20, 64), "float32"), recompute=True)
    return lambda: tape.backward(np.ones_like(y))


BACKWARDS = [back_over_a_sequence, back_over_trees, back_over_a_grid]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("make", BACKWARDS, ids=lambda make: make.__name__)
def test_backward_is_ended_too_and_may_be_called_again(make: Any, threads: int) -> None:
    recurra.set_num_threads(threads)
    backward = make()
    whole = backward()
    with pytest.raises(Interruption), signal_after(0.1):
        while True:
            backward()
    again = backward()
    assert_same_bits(again.x, whole.x)
    for name, gradient in whole.params.items():
        assert_same_bits(again.params[name], gradient)


def test_an_interrupted_run_of_a_stream_leaves_its_state() -> None:
    layer = recurra.LSTM(1, 1024, proj_size=1, seed=0)
    stream = layer.stream()
    stream.run(np.ones((5, 1), "float32"))
    before = stream.state
    with pytest.raises(Interruption), signal_after(0.2):
        stream.run(np.ones((4_000_000, 1), "float32"))
    for old, new in zip(before, stream.state, strict=True):
        assert_same_bits(new, old)
    assert_same_bits(stream.run(np.ones((3, 1), "float32")), layer(np.ones((8, 1), "float32"))[0][5:])


def test_signals_wait_for_nothing_in_a_thread_that_is_not_the_main_one() -> None:
    """Handlers run in the main thread: the call of another one goes on."""
    layer, results = recurra.LSTM(1, 512, seed=0), []
    thread = threading.Thread(target=lambda: results.append(layer(np.ones((20_000, 1), "float32"))[0]))
    with pytest.raises(Interruption), signal_after(0.05):
        thread.start()
        time.sleep(60)
    thread.join()
    assert_same_bits(results[0], layer(np.ones((20_000, 1), "float32"))[0])


def test_a_daemon_thread_in_a_long_call_does_not_hinder_the_end_of_the_process() -> None:
    script = """
import threading, time, numpy, recurra
layer, x = recurra.LSTM(1, 1024, proj_size=1, seed=0), numpy.ones((4_000_000, 1), "float32")
threading.Thread(target=lambda: layer(x), daemon=True).start()
time.sleep(0.2)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
