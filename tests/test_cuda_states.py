"""Options about states and directions, on a GPU or over its stand-in, beside the CPU's bits."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from checks import assert_close, assert_same_bits
from cuda_arrays import download, require_gpu, upload
from cuda_problems import MODES, Case, called, cases, trained, trained_on_cpu, trained_with_cells
from gradients import blank
from hypothesis import given
from hypothesis import strategies as st
from reference import CELLS, kinds
from strategies import Problem

import recurra

require_gpu()

EVERY_KIND = pytest.mark.parametrize("cell", kinds())
# Of gradients of a few dozen products, and the rounding of 16-bit numbers once a layer.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12, "float16": 2e-2, "bfloat16": 1e-1}


def reverse(case: Case) -> Case:
    """The same case in one direction, backwards."""
    return Case(**{**vars(case), "problem": Problem(**{**vars(case.problem), "directions": 1, "reverse": True})})


# ---- direction="reverse"


@EVERY_KIND
@given(data=st.data())
def test_reverse_has_the_bits_of_the_cpu(cell: str, data: st.DataObject) -> None:
    case = reverse(data.draw(cases(cell)))
    problem, layer = case.problem, case.layer()
    there = layer.to("cuda", engine="exact")
    want = layer(blank(problem, problem.x()), problem.state(), lengths=problem.lengths)
    assert_same_bits(called(case, there), want)
    want, want_gradients = trained_on_cpu(case, layer)
    found, gradients = trained(case, there)
    assert_same_bits(found, want)
    if case.on_device:  # weight gradients sum rows in another order
        assert_same_bits(gradients[:2], want_gradients[:2])
        assert_close(gradients[2], want_gradients[2], TOLERANCE[problem.dtype])
    else:
        assert_same_bits(gradients, want_gradients)


@pytest.mark.parametrize(("number", "engine"), MODES)
@pytest.mark.parametrize("cell", ("lstm_projected", "gru_reset_before", "sru"))
def test_reverse_on_both_engines_and_in_all_numbers(cell: str, number: str, engine: str) -> None:
    dtype = "float64" if number == "float64" else "float32"
    proj = 4 * CELLS[cell].projected
    problem = Problem(cell, 3, 6, 4, 3, proj, 2, lengths=(4, 0, 2), with_state=True, dtype=dtype, reverse=True)
    for case in (Case(problem), Case(problem, recompute=True, on_device=True)):
        layer = case.layer()
        found, want = trained(case, layer.to("cuda", dtype=number, engine=engine)), trained_on_cpu(case, layer)
        assert_close(found, want, TOLERANCE[number])


def test_reverse_is_kept_and_refuses_to_stream() -> None:
    layer = recurra.LSTM(3, 5, direction="reverse", seed=0).to("cuda")
    x = upload(np.random.default_rng(0).normal(size=(4, 2, 3)).astype("float32"), "float32")
    assert_same_bits(download(pickle.loads(pickle.dumps(layer))(x)), download(layer(x)))
    with pytest.raises(ValueError, match="packed: a network of direction='reverse' cannot stream"):
        layer.stream()


# ---- stream.reset(rows, state)


@pytest.mark.parametrize("number", ("float32", "float64", "float16", "bfloat16"))
@pytest.mark.parametrize("cell", ("lstm_projected", "gru", "differential_012"))
def test_streams_are_reset_to_given_states(cell: str, number: str) -> None:
    dtype = "float64" if number == "float64" else "float32"
    problem = Problem(cell, 3, 6, 4, 5, 4 * CELLS[cell].projected, 2, with_state=True, dtype=dtype)
    layer = problem.layer()
    here, there = layer.stream(5), layer.to("cuda", dtype=number).stream(5)
    x, state = problem.x(), problem.state()

    def part(take: Any) -> Any:
        return tuple(take(array) for array in state) if isinstance(state, tuple) else take(state)

    for rows, given_state in (
        ([3, 0], part(lambda a: a[:, 1:3])),
        (None, state),
        ([4, 1], part(lambda a: np.ascontiguousarray(a[:, 2]))),
        (None, part(lambda a: np.ascontiguousarray(a[:, 3]))),
        ([2, 4], None),
    ):
        here.run(x)
        there.run(upload(x, number))
        here.reset(rows, given_state)
        there.reset(rows, upload(given_state, number))
        assert_close(download(there.state), here.state, TOLERANCE[number])
    with pytest.raises(ValueError, match=r"state h?"):
        there.reset([1], upload(state, number))


# ---- return_cells and grad_clip


@EVERY_KIND
@given(data=st.data())
def test_cells_and_clipped_gradients_have_the_bits_of_the_cpu(cell: str, data: st.DataObject) -> None:
    case, clip = data.draw(cases(cell)), data.draw(st.sampled_from((None, 0.05)))
    layer = case.layer()
    want = trained_with_cells(case, layer, clip, False)
    found = trained_with_cells(case, layer.to("cuda", engine="exact"), clip, True)
    assert_same_bits(found[0], want[0])
    assert_same_bits(found[1][:2], want[1][:2])
    if case.on_device:
        assert_close(found[1][2], want[1][2], TOLERANCE[case.problem.dtype])
    else:
        assert_same_bits(found[1][2], want[1][2])
    assert_same_bits(found[2], want[2])


@pytest.mark.parametrize(("number", "engine"), MODES)
@pytest.mark.parametrize("cell", ("lstm_projected", "differential_012"))
def test_cells_and_clips_on_both_engines_and_in_all_numbers(cell: str, number: str, engine: str) -> None:
    dtype = "float64" if number == "float64" else "float32"
    proj = 4 * CELLS[cell].projected
    problem = Problem(cell, 3, 6, 4, 3, proj, 2, 2, lengths=(4, 0, 2), with_state=True, dtype=dtype)
    for case in (Case(problem), Case(problem, recompute=True, on_device=True)):
        layer = case.layer()
        for clip in (None, 0.5):
            found = trained_with_cells(case, layer.to("cuda", dtype=number, engine=engine), clip, True)
            assert_close(found, trained_with_cells(case, layer, clip, False), TOLERANCE[number])


def test_graphs_are_told_apart_by_their_clip() -> None:
    layer = recurra.LSTM(3, 5, seed=0)
    there, x = layer.to("cuda"), np.random.default_rng(0).normal(size=(4, 2, 3)).astype("float32")
    _, _, tape = there.forward(upload(x, "float32"))
    want_y, _, want_tape = layer.forward(x)
    dy = np.ones_like(want_y)
    for clip in (None, 0.05, 0.01, 0.05, None, 0.01, 0.05):
        found = download(tuple(tape.backward(upload(dy, "float32"), grad_clip=clip)))
        assert_same_bits(found, tuple(want_tape.backward(dy, grad_clip=clip)))


def test_refusals() -> None:
    x = upload(np.ones((4, 2, 3), "float32"), "float32")
    with pytest.raises(ValueError, match="return_cells: expected False for cell 'gru', whose only state is h"):
        recurra.GRU(3, 5, device="cuda")(x, return_cells=True)
    layer = recurra.LSTM(3, 5, device="cuda")
    y, _, tape = layer.forward(x)
    with pytest.raises(ValueError, match="dcells: expected None without return_cells=True"):
        tape.backward(dcells=y)
    with pytest.raises(ValueError, match="grad_clip: expected a positive number"):
        tape.backward(y, grad_clip=0)
