"""The exact engine with all steps of a layer in one launch: the bits of the CPU, what it refuses, when it is taken."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close, assert_same_bits, states
from cuda_arrays import LIBRARY, begin, counted, download, end, new_stream, require_gpu, synchronize, upload
from cuda_problems import Case, called, oracle, plan_of, trained, trained_on_cpu, trained_with_cells
from reference import CELLS
from strategies import Problem

import recurra

require_gpu()

TOO_LARGE = "the recurrent weights do not fit into "
TOLERANCE = {"float32": 2e-6, "float64": 1e-13}


def data(*shape: int, dtype: str = "float32") -> Array:
    return np.random.default_rng(0).normal(0, 1, shape).astype(dtype)


def case_of(cell: str, **options: Any) -> Case:
    sizes: dict[str, Any] = {"input_size": 3, "hidden_size": 18, "steps": 5, "batch": 3, "layers": 2, "directions": 2}
    sizes |= {"lengths": (5, 0, 2), "with_state": True, "dtype": "float32", "seed": 3}
    sizes |= {"proj_size": 7 if CELLS[cell].projected else 0, "heads": 2 if CELLS[cell].heads else 1}
    return Case(Problem(cell, **sizes), **options)


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_every_cell_is_its_oracle_and_has_the_bits_of_the_cpu(cell: str) -> None:
    case = case_of(cell)
    layer = case.layer()
    got = called(case, layer.to("cuda", engine="exact-resident"))
    assert_same_bits(got, layer(case.problem.x(), case.problem.state(), lengths=case.problem.lengths))
    y, final = got
    want_y, want_final = oracle(case, "float32")
    assert_close([y, *states(final)], [want_y, *want_final], TOLERANCE["float32"])


@pytest.mark.parametrize("on_device", (False, True))
@pytest.mark.parametrize("dtype", sorted(TOLERANCE))
@pytest.mark.parametrize("cell", ("gru", "gru_reset_before", "gru_layer_norm", "lstm", "lstm_peephole_projected"))
def test_training_with_noise_has_the_bits_of_the_cpu(cell: str, dtype: str, on_device: bool) -> None:
    rates = {"dropout": 0.4, "recurrent_dropout": 0.4, "zoneout": 0.4, "rng": 7}
    case = case_of(cell, on_device=on_device, **rates)
    case = replace(case, problem=replace(case.problem, dtype=dtype))
    layer = case.layer()
    there = layer.to("cuda", engine="exact-resident")
    outputs, gradients = trained(case, there)
    want, want_gradients = trained_on_cpu(case, layer)
    assert_same_bits(outputs, want)
    assert_same_bits(gradients[0], want_gradients[0])
    for name, gradient in want_gradients[2].items():
        if on_device:  # sums over rows have another order
            assert_close(gradients[2][name], gradient, 10 * TOLERANCE[dtype])
        else:
            assert_same_bits(gradients[2][name], gradient)


# One of each kind: two products a step and one, states beside h, projected, in heads, without a product, of whole rows.
KINDS = (
    "gru_reset_before",
    "lstm_peephole_projected",
    "multiplicative_lstm",
    "slstm",
    "sru",
    "differential_012",
    "lstm_layer_norm",
)


@pytest.mark.parametrize("clip", (None, 0.05))
@pytest.mark.parametrize("cell", KINDS)
def test_every_option_of_training_has_the_bits_of_the_cpu(cell: str, clip: float | None) -> None:
    """Both directions, and one that runs backwards; cells; gradients that are clipped, and not; what is recomputed."""
    for reverse, recompute in ((False, True), (True, False)):
        case = case_of(cell, recompute=recompute, rng=None if reverse else 7, zoneout=0.3)
        case = replace(case, problem=replace(case.problem, reverse=reverse, directions=2 - reverse, seed=4))
        layer = case.layer()
        there = layer.to("cuda", engine="exact-resident")
        assert_same_bits(trained_with_cells(case, there, clip, True), trained_with_cells(case, layer, clip, False))


def test_more_than_48_kilobytes_of_shared_memory() -> None:
    layer, rows = recurra.LSTM(5, 128, seed=0), 70  # more blocks would have to wait for each other
    x = data(3, rows, 5)
    there = layer.to("cuda", engine="exact-resident")
    told = plan_of(there, 3, rows, training=True)
    assert told.startswith("exact, resident: ")
    sizes = re.findall(r"; \d rows a .*?, (\d+) bytes of shared memory", told)
    assert len(sizes) == 2 and all(int(size) > 48 << 10 for size in sizes)
    want, _, tape = layer.forward(x)
    y, _, there_tape = there.forward(upload(x))
    assert_same_bits(download(y), want)
    assert_same_bits(download(tuple(there_tape.backward(y))), tuple(tape.backward(want)))


def check_shared(cell: str, number: int, blocks: str) -> None:
    """On a GPU whose blocks have little shared memory, small layers are several blocks', of which some have no unit."""
    case = case_of(cell, dropout=0.3, zoneout=0.3, recurrent_dropout=0.3)
    layer, (x, state, lengths) = case.layer(), (case.problem.x(), case.problem.state(), case.problem.lengths)
    there = layer.to(f"cuda:{number}", engine="exact-resident")
    assert f" rows a {blocks} of " in plan_of(there, 5, 3)
    given = upload(x, device=number), upload(state, device=number)
    assert_same_bits(download(there(*given, lengths=lengths)), layer(x, state, lengths=lengths))
    y, final, tape = there.forward(*given, lengths=lengths, rng=7)
    want, want_final, want_tape = layer.forward(x, state, lengths=lengths, rng=7)
    assert_same_bits(download((y, final)), (want, want_final))
    assert_same_bits(download(tuple(tape.backward(y))), tuple(want_tape.backward(want)))


@pytest.mark.parametrize("cell", KINDS)
def test_a_cluster_of_blocks_has_the_bits_of_the_cpu(cell: str, other_gpu: Callable[..., str]) -> None:
    number, size = (6, 1000) if "layer_norm" in cell else (1, 300)  # of which whole rows need more
    other_gpu(number, SHARED_BYTES=size)
    check_shared(cell, number, "cluster")


@pytest.mark.parametrize(
    ("cell", "dtype", "hidden", "blocks", "back"),
    (
        ("lstm", "float32", 150, 8, 4),
        ("gru", "float64", 200, 4, 4),
        ("gru_reset_before", "float64", 151, 2, 4),
        ("lstm_layer_norm", "float32", 137, 8, 4),
        ("lstm", "float32", 257, 8, 8),
        ("lstm", "float32", 300, 8, 8),
    ),
)
def test_what_no_block_holds_a_cluster_does(cell: str, dtype: str, hidden: int, blocks: int, back: int) -> None:
    layer = recurra.Recurrent(cell, 2, hidden, seed=0, dtype=dtype, bidirectional=hidden % 2 == 1)
    there = layer.to("cuda", engine="exact-resident")
    told = plan_of(there, 3, 2, training=True)
    forward, backward = told.split("; backward")
    assert f"; 1 rows a cluster of {blocks} blocks of " in forward
    assert f"; 1 rows a cluster of {back} blocks of " in backward
    x = data(3, 2, 2, dtype=dtype)
    want, _, tape = layer.forward(x, lengths=(3, 1))
    y, _, there_tape = there.forward(upload(x), lengths=(3, 1))
    assert_same_bits(download(y), want)
    assert_same_bits(download(tuple(there_tape.backward(y))), tuple(tape.backward(want)))


def test_a_cluster_has_several_rows_where_there_are_many(other_gpu: Callable[..., str]) -> None:
    gpu = other_gpu(3, MULTIPROCESSORS=4)
    layer, x, lengths = recurra.LSTM(2, 150, seed=0), data(3, 7, 2), (3, 0, 2, 3, 1, 2, 3)
    there = layer.to(gpu, engine="exact-resident")
    assert "; 4 rows a cluster of 2 blocks of " in plan_of(there, 3, 7)
    assert_same_bits(download(there(upload(x, device=3), lengths=lengths)), layer(x, lengths=lengths))


def test_blocks_are_those_that_should_take_least_time(
    other_gpu: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an LSTM of 128 units: for few rows more blocks than need be; fewer, and tiles of rows, where clusters would
    have to wait for each other, or where the GPU has no room for them."""
    layer = recurra.LSTM(2, 128)
    there = layer.to("cuda", engine="exact-resident")

    def told(rows: int, layer: Any = there) -> tuple[int, int, int]:
        pattern = r"; (\d) rows a (?:cluster of (\d) blocks|block) of .*; (\d+) cycles"
        found = re.search(pattern, plan_of(layer, 3, rows))
        assert found
        return int(found[1]), int(found[2] or 1), int(found[3])

    wanted = {1: (1, 4), 3: (1, 4), 40: (1, 2), 70: (1, 1), 150: (1, 1), 900: (4, 1)}
    assert {rows: told(rows)[:2] for rows in wanted} == wanted
    assert told(1)[2] < told(40)[2] < told(70)[2] < told(900)[2]
    assert plan_of(there, 3, 150).endswith(" us) a step, waves: 2; the least of 44 ways by arithmetic, not measured")
    monkeypatch.setenv("RECURRA_STANDIN_MULTIPROCESSORS", "3")
    assert told(2)[:2] == (1, 2)
    small = layer.to(other_gpu(3, MULTIPROCESSORS=4), engine="exact-resident")
    assert [told(rows, small)[:2] for rows in (1, 2)] == [(1, 4), (1, 2)]


def test_without_room_for_a_cluster_a_grid_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = recurra.LSTM(2, 300, seed=0), data(3, 2, 2)
    there = layer.to("cuda", engine="exact-resident")
    counted("errors")  # or skip
    assert " rows a cluster of 8 blocks of " in plan_of(there, 3, 2)
    monkeypatch.setenv("RECURRA_STANDIN_MULTIPROCESSORS", "7")
    assert " rows a grid of 24 blocks of " in plan_of(there, 3, 3)
    monkeypatch.delenv("RECURRA_STANDIN_MULTIPROCESSORS")  # which has no room for that either
    assert_same_bits(download(there(upload(x))), layer(x))


@pytest.mark.parametrize("cell", KINDS)
def test_a_grid_of_blocks_has_the_bits_of_the_cpu(
    cell: str, other_gpu: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a GPU has no clusters, blocks exchange through memory."""
    number, size = (7, 1000) if "layer_norm" in cell else (4, 300)
    other_gpu(number, SHARED_BYTES=size, CAPABILITY=80, MULTIPROCESSORS=16)
    monkeypatch.setenv("RECURRA_STANDIN_CAPABILITY", "80")  # for kernels, too
    check_shared(cell, number, "grid")


@pytest.mark.parametrize(
    ("cell", "dtype", "hidden", "blocks"),
    (
        ("lstm", "float32", 450, 32),
        ("gru_reset_before", "float32", 481, 16),
        ("gru", "float64", 333, 16),
        ("gru_layer_norm", "float32", 481, 24),
    ),
)
def test_what_no_cluster_holds_a_grid_does(cell: str, dtype: str, hidden: int, blocks: int) -> None:
    layer = recurra.Recurrent(cell, 2, hidden, seed=0, dtype=dtype)
    there = layer.to("cuda", engine="exact-resident")
    assert f" rows a grid of {blocks} blocks of " in plan_of(there, 3, 2)
    x = data(3, 2, 2, dtype=dtype)
    assert_same_bits(download(there(upload(x), lengths=(3, 1))), layer(x, lengths=(3, 1)))


def test_more_rows_than_a_grid_takes_at_once_come_one_after_another(
    other_gpu: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = other_gpu(5, MULTIPROCESSORS=9, SHARED_BYTES=1600, CAPABILITY=80)
    monkeypatch.setenv("RECURRA_STANDIN_CAPABILITY", "80")  # for kernels, too
    layer = recurra.GRU(2, 70, seed=0, bidirectional=True)
    there = layer.to(gpu, engine="exact-resident")
    x, lengths = data(3, 21, 2), (3, 0, 2, 3, 1, 2, 3) * 3
    assert " rows a grid of 2 blocks of " in plan_of(there, 3, 21)  # of two directions, on 8 of 9 multiprocessors
    want = layer(x, lengths=lengths)
    for _ in range(4):  # the third is a graph
        assert_same_bits(download(there(upload(x, device=5), lengths=lengths)), want)


def test_without_room_for_a_grid_steps_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = recurra.LSTM(2, 450, seed=0), data(3, 2, 2)
    there = layer.to("cuda", engine="exact-resident")
    counted("errors")  # or skip
    monkeypatch.setenv("RECURRA_STANDIN_ACTIVE_BLOCKS", "0")
    assert plan_of(there, 3, 2).endswith("phase of a step; the GPU has no room for so many blocks at the same time")
    assert_same_bits(download(there(upload(x))), layer(x))


def test_what_is_too_large_for_a_gpu_is_refused(other_gpu: Callable[..., str]) -> None:
    gpu = other_gpu(2, CAPABILITY=80, MULTIPROCESSORS=1)
    with pytest.raises(ValueError, match="lstm of hidden_size 300 does not fit into all multiprocessors"):
        recurra.LSTM(3, 300, device=gpu, engine="exact-resident")


def test_all_steps_are_one_launch_where_that_is_wanted() -> None:
    x, want = data(12, 2, 3), recurra.GRU(3, 20, seed=0)(data(12, 2, 3))
    launches = []
    for engine in ("exact-steps", "exact-resident"):
        there = recurra.GRU(3, 20, seed=0, device="cuda", engine=engine)
        before = counted("launches", 0)
        assert_same_bits(download(there(upload(x))), want)
        launches.append(counted("launches", 0) - before)
    assert launches[0] - launches[1] in (2 * 12 - 1, 0)  # a GPU counts nothing
    assert plan_of(there, 12, 2).startswith("exact, resident: one launch")
    assert "backward" not in plan_of(there, 12, 2)


@pytest.mark.parametrize("bidirectional", (False, True))
def test_backward_is_one_launch_too(bidirectional: bool) -> None:
    launches, found = [], []
    for engine in ("exact-steps", "exact-resident"):
        layer = recurra.LSTM(3, 20, seed=0, device="cuda", engine=engine, bidirectional=bidirectional)
        y, _, tape = layer.forward(upload(data(12, 2, 3)))
        before = counted("launches", 0)
        found.append(download(tuple(tape.backward(y))))
        launches.append(counted("launches", 0) - before)
    assert_same_bits(found[1], found[0])
    assert launches[0] - launches[1] in (2 * 12 - 1, 0)  # both directions are


def test_where_forward_does_not_fit_it_goes_by_steps(
    other_gpu: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = other_gpu(2, CAPABILITY=80, MULTIPROCESSORS=1)  # without clusters
    monkeypatch.setenv("RECURRA_STANDIN_CAPABILITY", "80")  # for kernels, too
    layer, x = recurra.GRU(2, 163, seed=0), data(3, 2, 2)
    there = layer.to(gpu, engine="exact-resident")
    told = plan_of(there, 3, 2, training=True)
    assert told.startswith(
        "exact: a product and a pointwise kernel for each phase of a step; " + TOO_LARGE + "all multi"
    )
    assert "; backward, resident: one launch for all steps of a layer; 1 rows a block of " in told
    want, _, tape = layer.forward(x)
    y, _, there_tape = there.forward(upload(x, device=2))
    assert_same_bits(download(y), want)
    assert_same_bits(download(tuple(there_tape.backward(y))), tuple(tape.backward(want)))


def test_where_backward_does_not_fit_it_goes_by_steps(
    other_gpu: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = other_gpu(2, CAPABILITY=80, MULTIPROCESSORS=1)
    monkeypatch.setenv("RECURRA_STANDIN_CAPABILITY", "80")  # for kernels, too
    layer = recurra.LSTM(2, 100, seed=0, dtype="float64")
    there = layer.to(gpu, engine="exact-resident")
    told = plan_of(there, 3, 2, training=True)
    assert told.startswith("exact, resident: one launch for all steps of a layer; 1 rows a block of ")
    assert told.endswith(
        "a product and a pointwise kernel for each phase of a step; " + TOO_LARGE + "all multiprocessors"
    )
    x = data(3, 2, 2, dtype="float64")
    want, _, tape = layer.forward(x)
    y, _, there_tape = there.forward(upload(x, device=2))
    assert_same_bits(download(y), want)
    assert_same_bits(download(tuple(there_tape.backward(y))), tuple(tape.backward(want)))


def test_a_plan_tells_what_arithmetic_says_of_one_launch() -> None:
    layer = recurra.GRU(3, 20, seed=0, device="cuda")
    assert plan_of(layer, 12, 2).endswith("; a resident one should be faster, by arithmetic that no GPU has shown")
    assert plan_of(layer, 3, 2).endswith("; a short sequence")
    assert plan_of(recurra.GRU(3, 1700, device="cuda", engine="exact"), 12, 2).endswith("into all multiprocessors")
    assert plan_of(recurra.GRU(3, 20, device="cuda", dtype="float16"), 12, 2).startswith("cublas: ")
    assert plan_of(recurra.LSTM(3, 128, device="cuda"), 12, 5000).endswith("a resident one is slower, by arithmetic")
    assert "; backward: a product and a pointwise kernel" in plan_of(layer, 12, 2, training=True)
    assert plan_of(layer, 12, 2, training=True).count("; a resident one should be faster") == 2


def test_a_plan_can_be_made_while_a_stream_captures() -> None:
    """Then its kernel is compiled and loaded, which no capture may hold."""
    layer, stream = recurra.RNN(3, 37, seed=0, device="cuda", engine="exact-resident"), new_stream()
    with LIBRARY.use(stream):
        x = upload(data(4, 2, 3))
        layer.to("cuda", engine="exact-steps")(x)
        synchronize(stream)
        begin(stream)
        plan_of(layer, 9, 2)
        end(stream)
    assert counted("errors", 0) == 0


@pytest.mark.parametrize(
    ("make", "match"),
    ((lambda **o: recurra.LSTM(3, 1500, **o), "lstm of hidden_size 1500 does not fit into all multiprocessors"),),
)
def test_what_does_not_fit_is_refused(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make(device="cuda", engine="exact-resident")
