"""Layers of a stack as a wavefront of chunks of steps: the bits of one after another, in lanes that a graph has."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from checks import assert_same_bits
from cuda_arrays import LIBRARY, begin, counted, download, end, new_stream, replay, require_gpu, synchronize, upload
from cuda_problems import Case, plan_of, trained, trained_on_cpu
from reference import CELLS
from strategies import Problem

import recurra

require_gpu()

CHUNKS = re.compile(r"; layers in a wavefront of (\d+) steps a chunk")


def case_of(cell: str, **options: Any) -> Case:
    """Steps of several chunks, also of those backward, which are made of whole blocks of rows' gradients."""
    sizes: dict[str, Any] = {"input_size": 3, "hidden_size": 12, "steps": 44, "batch": 32, "layers": 3, "directions": 1}
    sizes |= {"proj_size": 7 if CELLS[cell].projected else 0, "with_state": True, "dtype": "float32", "seed": 3}
    return Case(Problem(cell, **sizes), **options)


@pytest.mark.parametrize(
    ("cell", "options"),
    (
        ("lstm", {}),
        ("gru", {"dropout": 0.4, "recurrent_dropout": 0.4, "zoneout": 0.4, "rng": 7, "recompute": True}),
        ("lstm_peephole_projected", {"dropout": 0.4, "rng": 7}),
        ("gru_reset_before", {"recompute": True}),
    ),
)
def test_the_first_call_and_those_of_its_graph_have_the_bits_of_the_cpu(cell: str, options: Any) -> None:
    case = case_of(cell, **options)
    layer = case.layer()
    there = layer.to("cuda", engine="exact-resident")
    assert len(CHUNKS.findall(plan_of(there, 44, 32, training=True))) == 2
    outputs, gradients = trained_on_cpu(case, layer)
    for _ in range(3):
        got, got_gradients = trained(case, there)
        assert_same_bits(got, outputs)
        assert_same_bits(got_gradients[:2], gradients[:2])
        assert_same_bits(list(got_gradients[2].values()), [gradients[2][name] for name in got_gradients[2]])
    assert counted("errors", 0) == 0


def test_lanes_are_made_for_a_graph_and_go_with_the_layer() -> None:
    streams, events = counted("live_streams"), counted("live_events")
    there = recurra.GRU(3, 20, 4, seed=0, device="cuda", engine="exact-resident")
    x = upload(np.ones((100, 1, 3), "float32"))
    there(x)
    assert counted("live_streams") == streams + 1
    there(x)
    assert counted("live_streams") == streams + 4
    assert counted("live_events") == events + 4
    del there
    assert (counted("live_streams"), counted("live_events")) == (streams, events)


@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
def test_layers_of_16_bits_repeat_their_bits(dtype: str) -> None:
    """Each lane has memory of its own for cuBLAS; what layers above read is rounded chunk by chunk."""
    case = case_of("lstm", dropout=0.4, rng=7)
    there = case.layer().to("cuda", dtype=dtype, engine="cublas-resident")
    assert len(CHUNKS.findall(plan_of(there, 44, 32, training=True))) == 2
    first = trained(case, there)
    for _ in range(2):
        assert_same_bits(trained(case, there), first)
    assert counted("errors", 0) == 0


def test_lengths_that_the_host_knows_and_captures_of_the_caller_have_one_lane() -> None:
    layer = recurra.LSTM(3, 20, 3, seed=0)
    there = layer.to("cuda", engine="exact-resident")
    x = np.random.default_rng(0).normal(size=(60, 3, 3)).astype("float32")
    for lengths in (None, (60, 11, 0)):
        want = layer(x, lengths=lengths)
        stream = new_stream()
        with LIBRARY.use(stream):
            given = upload(x)
            there(given, lengths=lengths)
            synchronize(stream)
            if lengths is None:
                begin(stream)
                y = there(given)
                replay(end(stream), stream)
                synchronize(stream)
                assert_same_bits(download(y), want)
            assert_same_bits(download(there(given, lengths=lengths)), want)
    assert counted("errors", 0) == 0


def steps_of(layer: recurra.Recurrent, steps: int, rows: int) -> list[int]:
    return [int(each) for each in CHUNKS.findall(plan_of(layer, steps, rows))]


def test_a_wavefront_is_taken_where_arithmetic_says_that_it_gains() -> None:
    there: dict[str, Any] = {"seed": 0, "device": "cuda", "engine": "exact-resident"}
    assert len(steps_of(recurra.LSTM(3, 64, 2, **there), 1000, 1)) == 1
    assert not steps_of(recurra.LSTM(3, 64, 1, **there), 1000, 1)  # one layer
    # Blocks that leave room for the others, where a layer alone has more.
    blocks = [plan_of(recurra.LSTM(3, 700, layers, **there), 1000, 1).split(" blocks of ")[0] for layers in (1, 4)]
    assert [text.split("grid of ")[1] for text in blocks] == ["48", "32"]
    assert len(steps_of(recurra.LSTM(3, 700, 4, **there), 1000, 1)) == 1
    assert not steps_of(recurra.LSTM(3, 64, 2, bidirectional=True, **there), 1000, 1)  # both need all below
    assert not steps_of(recurra.LSTM(3, 64, 2, **there), 12, 1)  # a chunk costs more than it gains
    assert not steps_of(recurra.LSTM(3, 64, 2, **there), 1000, 500)  # no room for both
    assert not steps_of(recurra.LSTM(3, 64, 2, seed=0, device="cuda", engine="exact-steps"), 1000, 1)
    packed: Any = recurra.LSTM(3, 64, 2, **there)._packed
    assert "wavefront" in packed.plan(1000, 2).explain()
    assert "wavefront" not in packed.plan(1000, 2, lengths=np.array([1000, 7])).explain()  # no graph is made
