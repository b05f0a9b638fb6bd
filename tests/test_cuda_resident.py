"""The exact engine with all steps of a layer in one launch: the bits of the CPU, what it refuses, when it is taken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close, assert_same_bits, states
from cuda_arrays import LIBRARY, begin, counted, download, end, new_stream, require_gpu, synchronize, upload
from cuda_problems import Case, called, oracle, trained, trained_on_cpu, trained_with_cells
from reference import CELLS
from strategies import Problem

import recurra

require_gpu()

FITTING = sorted(cell for cell in CELLS if "layer_norm" not in cell)
TOLERANCE = {"float32": 2e-6, "float64": 1e-13}


def data(*shape: int, dtype: str = "float32") -> Array:
    return np.random.default_rng(0).normal(0, 1, shape).astype(dtype)


def plan_of(layer: Any, steps: int, rows: int, training: bool = False) -> str:
    text: str = layer._packed.plan(steps, rows, training=training).explain()
    return text


def case_of(cell: str, **options: Any) -> Case:
    sizes: dict[str, Any] = {"input_size": 3, "hidden_size": 18, "steps": 5, "batch": 3, "layers": 2, "directions": 2}
    sizes |= {"lengths": (5, 0, 2), "with_state": True, "dtype": "float32", "seed": 3}
    sizes |= {"proj_size": 7 if CELLS[cell].projected else 0, "heads": 2 if CELLS[cell].heads else 1}
    return Case(Problem(cell, **sizes), **options)


@pytest.mark.parametrize("cell", FITTING)
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
@pytest.mark.parametrize("cell", ("gru", "gru_reset_before", "lstm", "lstm_peephole_projected"))
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


# One of each kind: two products a step and one, states beside h, projected, in heads, without a product.
KINDS = ("gru_reset_before", "lstm_peephole_projected", "multiplicative_lstm", "slstm", "sru", "differential_012")


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
    layer = recurra.LSTM(5, 128, seed=0)
    x = data(3, 2, 5)
    there = layer.to("cuda", engine="exact-resident")
    assert "exact, resident: " in plan_of(there, 3, 2)
    assert "; backward, resident: " in plan_of(there, 3, 2, training=True)
    want, _, tape = layer.forward(x)
    y, _, there_tape = there.forward(upload(x))
    assert_same_bits(download(y), want)
    assert_same_bits(download(tuple(there_tape.backward(y))), tuple(tape.backward(want)))


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


@pytest.mark.parametrize(
    ("cell", "dtype", "hidden", "forward"), (("lstm", "float64", 100, True), ("gru", "float32", 163, False))
)
def test_where_one_way_does_not_fit_the_other_is_taken(cell: str, dtype: str, hidden: int, forward: bool) -> None:
    layer = recurra.Recurrent(cell, 2, hidden, seed=0, dtype=dtype)
    there = layer.to("cuda", engine="exact-resident")
    told = plan_of(there, 3, 2, training=True)
    assert told.startswith("exact, resident: ") == forward
    assert ("; backward, resident: " in told) != forward
    assert (
        told.count("a product and a pointwise kernel for each phase of a step; the recurrent weights do not fit") == 1
    )
    x = data(3, 2, 2, dtype=dtype)
    want, _, tape = layer.forward(x)
    y, _, there_tape = there.forward(upload(x))
    assert_same_bits(download(y), want)
    assert_same_bits(download(tuple(there_tape.backward(y))), tuple(tape.backward(want)))


def test_a_plan_tells_what_arithmetic_says_of_one_launch() -> None:
    layer = recurra.GRU(3, 20, seed=0, device="cuda")
    assert plan_of(layer, 12, 2).endswith("; a resident one should be faster, by arithmetic that no GPU has shown")
    assert plan_of(layer, 3, 2).endswith("; a short sequence")
    assert plan_of(recurra.GRU(3, 200, device="cuda", engine="exact"), 12, 2).endswith("do not fit into a block")
    assert plan_of(recurra.LSTM(3, 20, layer_norm=True, device="cuda"), 12, 2).endswith("needs whole rows")
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
    (
        (lambda **o: recurra.LSTM(3, 300, **o), "lstm of hidden_size 300 does not fit into a block"),
        (lambda **o: recurra.GRU(3, 20, layer_norm=True, **o), "gru_layer_norm of hidden_size 20 needs whole rows"),
    ),
)
def test_what_does_not_fit_is_refused(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make(device="cuda", engine="exact-resident")
