"""The exact engine with all steps of a layer in one launch: the CPU's bits, what it refuses, when it is taken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close, assert_same_bits, states
from cuda_arrays import LIBRARY, begin, counted, download, end, new_stream, require_gpu, synchronize, upload
from cuda_problems import Case, called, oracle, trained, trained_on_cpu
from reference import CELLS
from strategies import Problem

import recurra

require_gpu()

FITTING = sorted(cell for cell in CELLS if "layer_norm" not in cell)
TOLERANCE = {"float32": 2e-6, "float64": 1e-13}


def data(*shape: int, dtype: str = "float32") -> Array:
    return np.random.default_rng(0).normal(0, 1, shape).astype(dtype)


def plan_of(layer: Any, steps: int, rows: int) -> str:
    text: str = layer._packed.plan(steps, rows).explain()
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
    outputs, gradients = trained(case, layer.to("cuda", engine="exact-resident"))
    want, want_gradients = trained_on_cpu(case, layer)
    assert_same_bits(outputs, want)
    assert_same_bits(gradients[0], want_gradients[0])
    for name, gradient in want_gradients[2].items():
        if on_device:  # sums over rows have another order
            assert_close(gradients[2][name], gradient, 10 * TOLERANCE[dtype])
        else:
            assert_same_bits(gradients[2][name], gradient)


def test_more_than_48_kilobytes_of_shared_memory() -> None:
    layer = recurra.LSTM(5, 128, seed=0)
    x = data(3, 2, 5)
    there = layer.to("cuda", engine="exact-resident")
    assert "exact, resident: " in plan_of(there, 3, 2)
    assert_same_bits(download(there(upload(x))), layer(x))


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


def test_a_plan_tells_what_arithmetic_says_of_one_launch() -> None:
    layer = recurra.GRU(3, 20, seed=0, device="cuda")
    assert plan_of(layer, 12, 2).endswith("; a resident one should be faster, by arithmetic that no GPU has shown")
    assert plan_of(layer, 3, 2).endswith("; a short sequence")
    assert plan_of(recurra.GRU(3, 200, device="cuda", engine="exact"), 12, 2).endswith("do not fit into a block")
    assert plan_of(recurra.LSTM(3, 20, layer_norm=True, device="cuda"), 12, 2).endswith("needs whole rows")
    assert plan_of(recurra.GRU(3, 20, device="cuda", dtype="float16"), 12, 2).startswith("cublas: ")
    assert plan_of(recurra.LSTM(3, 128, device="cuda"), 12, 5000).endswith("a resident one is slower, by arithmetic")


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
