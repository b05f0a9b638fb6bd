"""proj_bias: the bias of an LSTM's output projection. Oracle, gradients, bits and streams have it wherever a test draws
problems of projected cells; here is what the draw does not reach."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from checks import assert_close, assert_same_bits, states
from gradients import assert_gradients_close, oracle, run, sized
from reference import CELLS
from reference import run as run_oracle
from strategies import TOLERANCE

import recurra
from recurra import functional

PROJECTED = pytest.mark.parametrize("cell", sorted(name for name, kind in CELLS.items() if kind.projected))


@pytest.mark.parametrize("bias", (True, False))
@pytest.mark.parametrize("dtype", ("float32", "float64"))
@PROJECTED
def test_outputs_and_gradients_are_the_oracles(cell: str, dtype: str, bias: bool) -> None:
    problem = sized(cell, dtype=dtype, bias=bias, proj_bias=True)
    layer = problem.layer()
    want = run_oracle(
        cell, problem.x(), layer.state_dict(), states(problem.state()), problem.lengths, problem.constants
    )
    y, final, gradients = run(problem, layer)
    assert_close((y, states(final)), want, TOLERANCE[dtype])
    assert_gradients_close(gradients, oracle(problem, layer), 1e-4 if dtype == "float32" else 1e-10)


@PROJECTED
def test_a_bias_of_zero_changes_no_bit(cell: str) -> None:
    with_bias, without = sized(cell, dtype="float32", proj_bias=True).layer(), sized(cell, dtype="float32")
    plain = without.layer()
    with_bias.load_state_dict(
        with_bias.state_dict()
        | plain.state_dict()
        | {name: np.zeros_like(value) for name, value in with_bias.state_dict().items() if name.startswith("bias_hr")}
    )
    assert_same_bits(with_bias(without.x(), lengths=without.lengths), plain(without.x(), lengths=without.lengths))
    for precision in ("bfloat16", "int8"):
        small = with_bias.quantize(precision)
        assert_same_bits(small(without.x())[0], plain.quantize(precision)(without.x())[0])


def test_names_shapes_copies_and_refusals() -> None:
    layer = recurra.LSTM(3, 5, 2, proj_size=2, proj_bias=True, bias=False, seed=0)
    assert [name for name in layer.state_dict() if "l0" in name] == [
        "weight_ih_l0",
        "weight_hh_l0",
        "weight_hr_l0",
        "bias_hr_l0",
    ]
    assert layer.bias_hr_l1.shape == (2,) and layer.proj_bias
    assert layer.bias_hr_l1.any()
    assert repr(layer) == "LSTM(3, 5, num_layers=2, bias=False, proj_size=2, proj_bias=True)"
    x = np.ones((4, 2, 3), "float32")
    assert_same_bits(pickle.loads(pickle.dumps(layer))(x), layer(x))
    assert_same_bits(functional.lstm(x, layer.state_dict()), layer(x))
    clipped = recurra.LSTM(3, 5, proj_size=2, proj_bias=True, forget_bias=1.0, seed=0)
    untouched = recurra.LSTM(3, 5, proj_size=2, proj_bias=True, seed=0)
    assert_same_bits(clipped.bias_hr_l0, untouched.bias_hr_l0)
    for make in (recurra.LSTM, lambda *a, **k: recurra.Recurrent("lstm", *a, **k)):
        builder: Any = make
        with pytest.raises(ValueError, match="proj_bias: expected False without proj_size"):
            builder(3, 5, proj_bias=True)
