"""Subnormal, infinite and NaN numbers: neither flushed to zero, nor spread to where they do not belong."""

from __future__ import annotations

import ctypes
import platform
import sys
from typing import Any

import numpy as np
import pytest
from checks import Array, arrays, assert_same_bits, copies, states
from reference import CELLS, run
from strategies import DTYPES, TOLERANCE, Problem

import recurra
from recurra import functional

ALL_CELLS = pytest.mark.parametrize("cell", sorted(CELLS))
ALL_DTYPES = pytest.mark.parametrize("dtype", DTYPES)


@ALL_DTYPES
@ALL_CELLS
@pytest.mark.parametrize("where", ("input", "weights", "state", "everything"))
def test_subnormal_numbers_count_as_themselves_or_as_zero(cell: str, dtype: str, where: str) -> None:
    """The engine may flush them, for speed: each can then be off by the smallest normal number, and nothing by more."""
    normal = float(np.finfo(dtype).smallest_normal)
    problem = Problem(cell, 7, 17, 5, 3, 5 if CELLS[cell].projected else 0, 2, 2, with_state=True, dtype=dtype)
    layer, x, state = problem.layer(), problem.x(), states(problem.state())
    if where in ("input", "everything"):
        x = (x * normal).astype(dtype)
        assert (np.abs(x) < normal).any()
    if where in ("weights", "everything"):
        layer.load_state_dict({name: (array * normal).astype(dtype) for name, array in layer.state_dict().items()})
    if where in ("state", "everything"):
        state = tuple((part * normal).astype(dtype) for part in state)
    output, final = layer(x, state if len(state) > 1 else state[0])
    relative = {"float32": 1e-5, "float64": 1e-12}[dtype]
    absolute = 100 * normal + (0 if where == "everything" else TOLERANCE[dtype])
    for a, e in zip(
        arrays((output, final)), arrays(run(cell, x, layer.state_dict(), state, None, problem.constants)), strict=True
    ):
        np.testing.assert_allclose(a, e, rtol=relative, atol=absolute)


@ALL_DTYPES
def test_a_call_leaves_the_callers_subnormal_arithmetic_alone(dtype: str) -> None:
    tiny = np.full(64, np.finfo(dtype).smallest_subnormal, dtype)
    layer = recurra.GRU(64, 257, 2, bidirectional=True, dtype=dtype)
    layer(np.zeros((20, 8, 64), dtype))
    stream = recurra.GRU(3, 5, dtype=dtype).stream()
    stream.step(np.zeros(3, dtype))
    stream.run(np.zeros((4, 3), dtype))
    with pytest.raises(ValueError, match="x"):
        stream.step(np.zeros(4, dtype))
    assert_same_bits(tiny * np.dtype(dtype).type(2), tiny + tiny)
    assert (tiny + tiny > tiny).all()
    assert (tiny > 0).all()


def rounding_modes() -> list[int]:
    """FE_UPWARD and FE_DOWNWARD of fenv.h, on the machines whose values are known here."""
    return {"x86_64": [0x800, 0x400], "aarch64": [0x400000, 0x800000]}.get(platform.machine(), [])


@pytest.mark.skipif(sys.platform != "linux" or not rounding_modes(), reason="fesetround's values are not known here")
@pytest.mark.parametrize(
    ("dtype", "precision"), (("float32", None), ("float32", "bfloat16"), ("float32", "int8"), ("float64", None))
)
def test_the_callers_rounding_mode_changes_no_bit_and_is_kept(dtype: str, precision: str | None) -> None:
    """Of packing, of calls and steps, and of gradients; no constant, rate or weight here is a number of 24 bits."""
    math = ctypes.CDLL(None)
    for cell in sorted(CELLS):
        rates = functional.Regularization(0.3, 0.1 * CELLS[cell].recurrent, 0.1, 0.3)
        clip = 0.1 if cell.startswith("lstm") else None
        proj = 5 if CELLS[cell].projected else 0
        problem = Problem(cell, 7, 17, 5, 3, proj, 2, with_state=True, cell_clip=clip, dtype=dtype)
        params, x, state = problem.layer().state_dict(), problem.x(), problem.state()

        def pack(
            cell: str = cell, params: Any = params, constants: Any = problem.constants, rates: Any = rates
        ) -> functional.Packed:
            return functional.pack(cell, params, constants, precision, rates)

        def results(packed: functional.Packed, x: Array = x, state: Any = state) -> list[Array]:
            found = [functional.run(packed, x, state), recurra.Stream(packed, 3).step(x[0])]
            if packed.precision is None:
                y, final, tape = functional.forward(packed, x, state, rng=3)
                found += [y, final, list(tape.backward(y, final))]
            return copies(found)

        kept = pack()
        want = results(kept)
        for mode in rounding_modes():
            nearest = math.fegetround()
            assert math.fesetround(mode) == 0
            try:
                found = [results(kept), results(pack())]
                mode_after = math.fegetround()
            finally:
                math.fesetround(nearest)
            assert mode_after == mode
            for result in found:
                assert_same_bits(result, want)


@ALL_DTYPES
def test_infinite_and_huge_input_saturates(dtype: str) -> None:
    x = np.array([np.inf, -np.inf, 1e30, -1e30], dtype)[None, :, None]

    def weights(blocks: int) -> dict[str, Array]:
        return {"weight_ih_l0": np.ones((blocks, 1), dtype), "weight_hh_l0": np.zeros((blocks, 1), dtype)}

    for nonlinearity, want in (("tanh", [1, -1, 1, -1]), ("sigmoid", [1, 0, 1, 0])):
        output, _ = functional.rnn(x, weights(1), nonlinearity=nonlinearity)
        assert output.ravel().tolist() == want
    output, _ = functional.rnn(x, weights(1), nonlinearity="relu")
    np.testing.assert_array_equal(output, np.maximum(x, 0))
    _, (h, c) = functional.lstm(x, weights(4))
    assert c.ravel().tolist() == [1, 0, 1, 0]
    np.testing.assert_allclose(h.ravel(), np.tanh(c.ravel()), rtol=TOLERANCE[dtype])


@ALL_DTYPES
@ALL_CELLS
@pytest.mark.parametrize("value", (np.inf, -np.inf, np.nan, 1e30))
def test_a_bad_number_gives_what_the_equations_give_and_stays_in_its_row(cell: str, dtype: str, value: float) -> None:
    problem = Problem(cell, 3, 17, 5, 4, 5 if CELLS[cell].projected else 0, 2, 1, with_state=True, dtype=dtype)
    if cell.endswith("layer_norm") and value == 1e30 and dtype == "float32":
        value = 1e15  # whose square the dtype holds
    layer, x = problem.layer(), problem.x()
    clean, clean_state = layer(x, problem.state())
    x[2, 1, 0] = value
    output, state = layer(x, problem.state())

    others = [0, 2, 3]
    assert_same_bits(output[:, others], clean[:, others])
    assert_same_bits([p[:, others] for p in states(state)], [p[:, others] for p in states(clean_state)])
    assert_same_bits(output[:2, 1], clean[:2, 1])  # nor does it travel back in time
    want, want_state = run(cell, x, layer.state_dict(), states(problem.state()), None, problem.constants)
    for a, e in zip((output, *states(state)), (want, *want_state), strict=True):
        # Beside the largest number of its row: sums of huge numbers may cancel, where nothing bounds the output.
        finite = np.isfinite(e)
        bound = TOLERANCE[dtype] * np.maximum(1, np.abs(np.where(finite, e, 0)).max(axis=-1, keepdims=True))
        np.testing.assert_array_equal(a[~finite], e[~finite])
        np.testing.assert_array_less(np.abs(a[finite] - e[finite]), np.broadcast_to(2 * bound, e.shape)[finite])
    if np.isnan(value):
        assert np.isnan(output[2:, 1]).all()


@ALL_CELLS
def test_nan_in_a_state_stays_in_its_row_and_in_a_row_of_length_zero(cell: str) -> None:
    problem = Problem(cell, 3, 5, 4, 3, 2 if CELLS[cell].projected else 0, directions=2, with_state=True)
    layer, lengths = problem.layer(), [4, 0, 2]
    clean, clean_state = layer(problem.x(), problem.state(), lengths=lengths)
    state = tuple(part.copy() for part in states(problem.state()))
    for part in state:
        part[:, 1] = np.nan
    output, final = layer(problem.x(), state if len(state) > 1 else state[0], lengths=lengths)
    assert_same_bits(output, clean)
    for part, other in zip(states(final), states(clean_state), strict=True):
        assert np.isnan(part[:, 1]).all()
        assert_same_bits(part[:, [0, 2]], other[:, [0, 2]])


@ALL_DTYPES
@pytest.mark.parametrize("cell", sorted(name for name in CELLS if name.startswith("lstm")))
def test_cell_clip_bounds_infinities_and_keeps_nan(cell: str, dtype: str) -> None:
    layer = Problem(cell, 3, 5, 1, 1, 2 if CELLS[cell].projected else 0, cell_clip=0.5, dtype=dtype).layer()
    h = np.zeros((1, 3, 2 if CELLS[cell].projected else 5), dtype)
    c = np.stack([np.full((1, 5), value, dtype) for value in (1e30, -1e30, np.nan)], axis=1)
    _, (_, c) = layer(np.zeros((1, 3, 3), dtype), (h, c))
    if "peephole" not in cell:  # a peephole gate may close at 1e30
        assert (c[0, 0] == 0.5).all()
        assert (c[0, 1] == -0.5).all()
    assert (np.abs(c[0, :2]) <= 0.5).all()
    assert np.isnan(c[0, 2]).all()


def test_a_stream_recovers_from_nan_by_reset() -> None:
    layer = recurra.LSTM(3, 5, 2, seed=0)
    x = np.random.default_rng(0).normal(0, 1, (4, 2, 3)).astype("float32")
    stream = layer.stream(2)
    poisoned = x[0].copy()
    poisoned[1] = np.nan
    assert np.isnan(stream.step(poisoned)[1]).all()
    stream.reset([1])
    y = stream.run(x)
    assert np.isfinite(y).all()
    assert_same_bits(y[:, 1:], layer(x[:, 1:])[0])
