"""README's examples run, and what it says that no other test looks at."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path

import documents
import numpy as np
import pytest
from checks import assert_same_bits, run_python

import recurra

EXAMPLES = documents.blocks(documents.ROOT / "README.md", "python")


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_runs(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = documents.names()
    monkeypatch.chdir(tmp_path)  # where examples write their files
    if "recurra.torch" in example:
        torch = pytest.importorskip("torch")
        given["model"] = torch.nn.Sequential(torch.nn.Linear(12, 12), torch.nn.GRU(12, 64))
    documents.run(example, given, monkeypatch)


def test_a_step_with_out_allocates_nothing_in_python() -> None:
    stream = recurra.GRU(12, 64, seed=0).stream()
    x, y = np.ones(12, np.float32), np.empty(64, np.float32)
    stream.step(x, out=y)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        stream.step(x, out=y)
        stream.step(x, out=y)
        peak = tracemalloc.get_traced_memory()[1]
        stream.step(x)  # and this one does
        assert tracemalloc.get_traced_memory()[1] - before >= y.nbytes
    finally:
        tracemalloc.stop()
    assert peak - before < 100  # bytes of the first number above


ON_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/statm")
MEASURE = """
import numpy as np
import recurra
def mebibytes():
    recurra.release_memory()
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
def train(layer):
    x = np.ones((1, 1, layer.input_size), "float32")
    y, _, tape = layer.forward(x)
    tape.backward(y)
    layer.quantize("int8")(x)
train(recurra.GRU(3, 5))  # what a first training brings in
before = mebibytes()
"""


@ON_LINUX
@pytest.mark.parametrize(("cell", "weights"), [("LSTM", 32), ("GRU", 24)])
def test_a_layer_holds_its_weights_once_and_from_its_first_backward_on_once_more(cell: str, weights: int) -> None:
    script = f"""
layer = recurra.{cell}(1024, 1024, seed=0)
once = mebibytes() - before
train(layer)
print(once, mebibytes() - before)
"""
    once, twice = map(float, run_python(MEASURE + script).split())
    assert once == pytest.approx(weights, abs=3)
    assert twice == pytest.approx(2 * weights, abs=4)


@ON_LINUX
def test_a_quantized_layer_keeps_the_unrounded_weights_and_a_linear_three_copies() -> None:
    script = """
layer = recurra.LSTM(1024, 1024, seed=0).quantize("int8")
quantized = mebibytes() - before
linear = recurra.Linear(2048, 2048, seed=0)
print(quantized, mebibytes() - before - quantized)
"""
    quantized, linear = map(float, run_python(MEASURE + script).split())
    assert quantized == pytest.approx(32 + 8, abs=4)
    assert linear == pytest.approx(3 * 16, abs=4)


@ON_LINUX
def test_streams_of_one_layer_share_its_weights() -> None:
    script = """
layer = recurra.LSTM(1024, 1024, seed=0)
weights = mebibytes() - before
streams = [layer.stream() for _ in range(4)]
print(weights, mebibytes() - before - weights)
"""
    weights, streams = map(float, run_python(MEASURE + script).split())
    assert streams < weights / 4


def test_a_row_alone_has_the_masks_of_row_0() -> None:
    layer = recurra.GRU(3, 8, recurrent_dropout=0.5, seed=0)
    x = np.random.default_rng(0).standard_normal((6, 1, 3), dtype=np.float32)
    alone = layer.forward(x, rng=7)[0]
    twins = layer.forward(np.repeat(x, 2, axis=1), rng=7)[0]
    assert_same_bits(twins[:, :1], alone)
    assert not np.array_equal(twins[:, 1:], alone)
