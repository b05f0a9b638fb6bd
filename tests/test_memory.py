"""What the process keeps of the memory that calls and tapes took."""

from __future__ import annotations

import os
import sys

import pytest
from checks import run_python

import recurra

ON_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/statm")

TRAINED = """
import numpy as np
import recurra
def mebibytes(): return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
layers = [recurra.LSTM(64, 64, seed=0) for _ in range(10)]
x = np.random.default_rng(0).standard_normal((200, 64, 64), dtype="float32")
def train(layers):
    passes = [layer.forward(x) for layer in layers]
    for y, _, tape in passes:
        tape.backward(y)
before = mebibytes()
"""


@ON_LINUX
def test_ten_trained_layers_keep_no_more_memory_than_one_process_may() -> None:
    """Each kept 35 MiB for itself, ten of them 350."""
    script = """
train(layers)
kept = mebibytes() - before
recurra.release_memory()
print(kept, mebibytes() - before)
"""
    kept, left = map(float, run_python(TRAINED + script).split())
    assert kept < 128 + 32 + 16  # the store, glibc's heap, and what else a first training brings in
    assert left < 16


@ON_LINUX
def test_layers_trained_one_after_another_share_one_workspace() -> None:
    script = """
train(layers[:1])
one = mebibytes() - before
for layer in layers: train([layer])
print(one, mebibytes() - before)
"""
    one, all_ten = map(float, run_python(TRAINED + script).split())
    assert all_ten < one + 16


@ON_LINUX
def test_a_stream_does_not_hold_a_large_block_of_a_training() -> None:
    script = """
train(layers[:1])
streams = [layer.stream() for layer in layers]
recurra.release_memory()
print(mebibytes() - before)
"""
    assert float(run_python(TRAINED + script)) < 16


def test_release_memory_may_be_called_at_any_time() -> None:
    layer = recurra.GRU(64, 64, seed=0)
    stream = layer.stream()
    recurra.release_memory()
    recurra.release_memory()
    assert stream.step(layer.weight_ih_l0[0]).any()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_child_forked_while_others_are_at_the_store_can_use_and_empty_it() -> None:
    script = """
import os, signal, threading
stop = threading.Event()
def work(layer):
    while not stop.is_set():
        layer(small)
        recurra.release_memory()
small = x[:4, :2]
want = layers[0](small)[0].tobytes()
threads = [threading.Thread(target=work, args=(layer,)) for layer in layers[:4]]
for thread in threads: thread.start()
failed = 0
for _ in range(30):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        recurra.release_memory()
        train(layers[:1])
        os._exit(layers[0](small)[0].tobytes() != want)
    failed += os.waitpid(child, 0)[1] != 0
stop.set()
for thread in threads: thread.join()
print(failed)
"""
    assert run_python(TRAINED.replace("(200, 64, 64)", "(20, 8, 64)") + script).strip() == "0"
