"""return_cells, the second state of every step; grad_clip, a clip of the gradient that goes back over a step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference_backward
from checks import Array, assert_close, assert_same_bits, assert_same_bits_on_avx2_and_avx512, states
from gradients import as_state, assert_gradients_close, blank, flat, inputs, sized, small_problems, upstream
from hypothesis import given
from hypothesis import strategies as st
from reference import CELLS
from strategies import Problem, problems

import recurra
from recurra import functional, training

ALL_CELLS = pytest.mark.parametrize("cell", sorted(CELLS))
WITH_CELLS = pytest.mark.parametrize("cell", sorted(name for name, kind in CELLS.items() if kind.states > 1))
LIMIT = 0.05  # reached by many gradients of these problems, and by some not


def both_ways(data: st.DataObject, problem: Problem) -> Problem:
    return replace(problem, reverse=problem.directions == 1 and data.draw(st.booleans()))


def dcells_of(problem: Problem) -> Array:
    shape = (problem.steps, problem.batch, problem.directions * problem.hidden_size)
    return blank(problem, np.random.default_rng(problem.seed + 3).normal(size=shape).astype(problem.dtype))


# ---- cells


@WITH_CELLS
@given(data=st.data())
def test_cells_are_those_of_a_loop_of_steps(cell: str, data: st.DataObject) -> None:
    problem = replace(data.draw(problems(cell, directions=1, lengths=False)), layers=2, steps=7)
    layer = problem.layer()
    stream = layer.stream(problem.batch) if problem.batch else None
    y, final, cells = layer(problem.x(), problem.state(), return_cells=True)
    assert_same_bits((y, final), layer(problem.x(), problem.state()))
    if stream is None:
        return
    if problem.state() is not None:
        stream.state = problem.state()
    for t, x in enumerate(problem.x()):
        assert_same_bits(stream.step(x), y[t])
        assert_same_bits(stream.state[1][-1], cells[t])


@WITH_CELLS
@given(data=st.data())
def test_cells_with_lengths_both_ways_and_on_a_tape(cell: str, data: st.DataObject) -> None:
    problem = both_ways(data, data.draw(problems(cell, lengths=True)))
    layer, hidden = problem.layer(zoneout=data.draw(st.sampled_from((0.0, 0.3)))), problem.hidden_size
    x, state = inputs(problem), problem.state()
    y, final, cells = layer(x, state, lengths=problem.lengths, return_cells=True)
    assert_same_bits((y, final), layer(x, state, lengths=problem.lengths))
    for recompute in (False, True):
        again = layer.forward(x, state, lengths=problem.lengths, recompute=recompute, return_cells=True)
        assert_same_bits((again[0], again[1], again[3]), (y, final, cells))
    assert cells.shape == (problem.steps, problem.batch, problem.directions * hidden)
    for b, n in enumerate(problem.lengths or ()):
        assert not cells[n:, b].any()
        for d in range(problem.directions if n else 0):
            back = problem.reverse or d == 1
            last = cells[0 if back else n - 1, b, d * hidden : (d + 1) * hidden]
            assert_same_bits(last, final[1][d - problem.directions, b])
    batch_first = problem.layer(batch_first=True)
    _, _, turned = batch_first(x.swapaxes(0, 1), state, lengths=problem.lengths, return_cells=True)
    plain = problem.layer()(x, state, lengths=problem.lengths, return_cells=True)
    assert_same_bits(turned.swapaxes(0, 1), plain[2])


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("sizes", ((3, 300, 1), (40, 64, 16), (8, 200, 3)))
def test_threads_change_no_bit_of_cells_and_clipped_gradients(sizes: tuple[int, int, int]) -> None:
    width, hidden, batch = sizes
    for cell, directions in (("lstm", 1), ("lstm_projected", 2), ("multiplicative_lstm", 1)):
        problem = Problem(cell, width, hidden, 30, batch, 7 * CELLS[cell].projected, 2, directions)
        layer, results = problem.layer(), []
        for threads in (1, 2):
            recurra.set_num_threads(threads)
            y, final, tape, cells = layer.forward(problem.x(), return_cells=True)
            gradients = tape.backward(np.ones_like(y), dcells=dcells_of(problem), grad_clip=LIMIT)
            results.append([y, final, cells, flat(gradients)])
        assert_same_bits(*results)


def test_instruction_sets_change_no_bit(tmp_path: Any) -> None:
    script = """
import sys
import numpy as np
from checks import save_results
from gradients import flat, sized
results = {}
for cell in ("lstm", "lstm_projected", "sru", "gru_reset_before"):
    problem = sized(cell, dtype="float32", proj_bias=cell == "lstm_projected")
    layer, wants = problem.layer(), not cell.startswith("gru")
    y, final, tape, *cells = layer.forward(problem.x(), lengths=problem.lengths, return_cells=wants)
    dcells = np.ones_like(cells[0]) if wants else None
    gradients = flat(tape.backward(np.ones_like(y), dcells=dcells, grad_clip=0.05))
    results |= {f"{cell} {k}": array for k, array in enumerate([y, *cells, *gradients])}
save_results(sys.argv[1], results)
"""
    assert_same_bits_on_avx2_and_avx512(script, tmp_path)


# ---- gradients


@ALL_CELLS
@given(data=st.data())
def test_gradients_of_cells_clipped_and_not_are_the_oracles(cell: str, data: st.DataObject) -> None:
    problem = data.draw(small_problems(cell, min_batch=1))
    layer, wants = problem.layer(), CELLS[cell].states > 1 and data.draw(st.booleans())
    clip = data.draw(st.sampled_from((None, LIMIT, 1e-3)))
    results = layer.forward(inputs(problem), problem.state(), lengths=problem.lengths, return_cells=wants)
    dy, dstate = upstream(problem)
    dcells = dcells_of(problem) if wants else None
    gradients = results[2].backward(dy, as_state(dstate), dcells, grad_clip=clip)
    state = problem.state()
    expected = reference_backward.gradients(
        cell,
        inputs(problem),
        layer.state_dict(),
        dy,
        dstate,
        state=None if state is None else states(state),
        lengths=problem.lengths,
        constants=problem.constants,
        dcells=dcells,
        grad_clip=np.inf if clip is None else clip,
    )
    assert_gradients_close(gradients, expected, 1e-9)


@WITH_CELLS
@given(data=st.data())
def test_gradients_of_cells_are_central_differences(cell: str, data: st.DataObject) -> None:
    problem = data.draw(small_problems(cell, min_steps=1, min_batch=1))
    problem = both_ways(data, replace(problem, cell_clip=None, gain=1.0))
    layer, lengths, x = problem.layer(), problem.lengths, problem.x()
    dcells = np.nan_to_num(dcells_of(problem))
    _, _, tape, _ = layer.forward(x, problem.state(), lengths=lengths, return_cells=True)
    gradients = tape.backward(dcells=dcells)
    rng, step = np.random.default_rng(0), 1e-6
    params = layer.state_dict()
    for name in ("x", *params):
        given_array = x if name == "x" else params[name]
        way = rng.normal(size=given_array.shape)
        losses = []
        for sign in (1, -1):
            moved = given_array + sign * step * way
            other = problem.layer()
            if name != "x":
                other.load_state_dict(params | {name: moved})
            result = other(moved if name == "x" else x, problem.state(), lengths=lengths, return_cells=True)
            losses.append(float((dcells * result[2]).sum()))
        gradient = gradients.x if name == "x" else gradients.params[name]
        assert gradient is not None
        np.testing.assert_allclose((gradient * way).sum(), (losses[0] - losses[1]) / 2 / step, rtol=1e-5, atol=1e-6)


@ALL_CELLS
@given(data=st.data())
def test_a_clip_that_is_not_reached_changes_no_bit(cell: str, data: st.DataObject) -> None:
    problem = both_ways(data, data.draw(small_problems(cell)))
    recompute, rng = data.draw(st.booleans()), data.draw(st.sampled_from((None, 5)))
    layer = problem.layer(zoneout=0.3)
    _, _, tape = layer.forward(inputs(problem), problem.state(), lengths=problem.lengths, recompute=recompute, rng=rng)
    dy, dstate = upstream(problem)
    want = tape.backward(dy, as_state(dstate))
    for clip in (1e30, np.inf, None):
        assert_same_bits(flat(tape.backward(dy, as_state(dstate), grad_clip=clip)), flat(want))


@ALL_CELLS
def test_clipped_gradients_of_the_initial_state_are_within_and_nans_stay(cell: str) -> None:
    problem = sized(cell, lengths=(4, 1, 2), dtype="float32")
    y, _, tape = problem.layer().forward(problem.x(), problem.state(), lengths=problem.lengths)
    dy = np.full_like(y, 100)
    gradients = tape.backward(dy, grad_clip=LIMIT)
    largest = max(np.abs(part).max() for part in states(gradients.state))
    assert largest <= np.float32(LIMIT)
    dy[:, 1] = np.nan
    gradients = tape.backward(dy, grad_clip=LIMIT)
    assert gradients.x is not None
    assert np.isnan(gradients.x[:1, 1]).all() and not np.isnan(gradients.x[:, [0, 2]]).any()


def test_windows_clip_too() -> None:
    layer = recurra.GRU(3, 5, seed=0)
    x = np.random.default_rng(0).normal(size=(6, 2, 3)).astype("float32")
    (window,) = training.tbptt(layer, x, k1=6)
    y, _, tape = layer.forward(x)
    dy = np.ones_like(y)
    want = flat(tape.backward(dy, grad_clip=LIMIT))
    assert_same_bits(flat(window.backward(dy, grad_clip=LIMIT)), want)
    assert any((a != b).any() for a, b in zip(want, flat(window.backward(dy)), strict=True))


# ---- forms and refusals


def test_forms_of_calls() -> None:
    layer, x = recurra.LSTM(3, 5, 2, bidirectional=True, seed=0), np.ones((4, 3), "float32")
    y, (h, c), cells = layer(x, return_cells=True)
    assert (y.shape, h.shape, c.shape, cells.shape) == ((4, 10), (4, 5), (4, 5), (4, 10))
    packed = functional.pack("lstm", layer.state_dict())
    assert_same_bits(functional.run(packed, x, return_cells=True)[2], cells)
    y, _, tape, again = functional.forward(packed, x, return_cells=True)
    assert_same_bits(again, cells)
    gradients = tape.backward(dcells=np.ones_like(cells))
    assert gradients.x is not None and gradients.x.shape == x.shape
    out = np.empty_like(y)
    assert layer(x, out=out, return_cells=True)[0] is out
    small = recurra.LSTM(3, 5, seed=0).quantize("int8")
    y, _, cells = small(x, return_cells=True)
    stream = small.stream()
    for t, frame in enumerate(x):
        stream.step(frame)
        assert_close(stream.state[1][0], cells[t], 0)


def test_refusals() -> None:
    gru, lstm, x = recurra.GRU(3, 5), recurra.LSTM(3, 5), np.ones((4, 2, 3), "float32")
    for call in (gru, gru.forward):
        with pytest.raises(ValueError, match="return_cells: expected False for cell 'gru', whose only state is h"):
            call(x, return_cells=True)
    with pytest.raises(TypeError, match="return_cells: expected True or False"):
        lstm(x, return_cells=1)  # type: ignore[call-overload]
    y, _, tape = lstm.forward(x)
    with pytest.raises(ValueError, match="dcells: expected None without return_cells=True"):
        tape.backward(np.ones_like(y), dcells=np.ones_like(y))
    y, _, tape, cells = lstm.forward(x, return_cells=True)
    with pytest.raises(ValueError, match=r"dcells: expected shape \[4, 2, 5\], got \[4, 5\]"):
        tape.backward(dcells=cells[:, 0])
    with pytest.raises(TypeError, match="dcells: expected float32, got float64"):
        tape.backward(dcells=cells.astype("float64"))
    with pytest.raises(ValueError, match="into weight_ih_l0"):
        tape.backward(dcells=cells, into={name: cells for name in lstm.state_dict()})
    for clip, error in (
        (0, ValueError),
        (-1.0, ValueError),
        (np.nan, ValueError),
        (1e-60, ValueError),
        ("1", TypeError),
    ):
        with pytest.raises(error, match="grad_clip: expected a"):
            tape.backward(y, grad_clip=clip)
