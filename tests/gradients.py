"""What the tests of gradients share: problems, what comes from above, and how results are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import reference_backward
from checks import Array, arrays, assert_same_bits, states
from hypothesis import strategies as st
from reference import CELLS, kinds
from strategies import Problem, heads

import recurra
from recurra.tape import Gradients

ALL_CELLS = pytest.mark.parametrize("cell", sorted(CELLS))
EVERY_KIND = pytest.mark.parametrize("cell", kinds())
UPSTREAM = ("dy", "h", "c", "state", "both")
Upstream = tuple[Array | None, tuple[Array | None, ...] | None]


@st.composite
def small_problems(
    draw: st.DrawFn, cell: str, *, min_steps: int = 0, min_batch: int = 0, min_length: int = 0
) -> Problem:
    """As `problems`, in float64 and of sizes at which the oracle is quick."""
    projected = CELLS[cell].projected
    sizes = (1, 6, 12, 33, 96) if CELLS[cell].heads else (1, 3, 7, 17, 33)
    hidden = draw(st.sampled_from((3, 7, 17, 33) if projected else sizes))
    steps, batch = draw(st.integers(min_steps, 7)), draw(st.integers(min_batch, 5))
    with_lengths = draw(st.booleans())
    return Problem(
        cell,
        draw(st.sampled_from((1, 3, 7, 17, 40))),
        hidden,
        steps,
        batch,
        proj_size=draw(st.sampled_from((1, (hidden + 1) // 2, hidden - 1))) if projected else 0,
        layers=draw(st.integers(1, 3)),
        directions=draw(st.integers(1, 2)),
        bias=draw(st.booleans()),
        lengths=tuple(draw(st.integers(min_length, steps)) for _ in range(batch)) if with_lengths else None,
        with_state=draw(st.booleans()),
        cell_clip=draw(st.sampled_from((None, 0.1))) if cell.startswith("lstm") else None,
        heads=draw(heads(cell, hidden)),
        dtype="float64",
        seed=draw(st.integers(0, 2**16)),
        gain=draw(st.sampled_from((1.0, 5.0))),
        proj_bias=projected and draw(st.booleans()),
    )


def sized(cell: str, **sizes: Any) -> Problem:
    """A float64 problem with two layers, two directions, lengths and states, unless `sizes` say otherwise."""
    usual: dict[str, Any] = {
        "input_size": 3,
        "hidden_size": 5,
        "steps": 4,
        "batch": 3,
        "layers": 2,
        "directions": 2,
        "lengths": (4, 0, 2),
        "with_state": True,
        "dtype": "float64",
    }
    usual |= sizes
    return Problem(cell, proj_size=(usual["hidden_size"] + 1) // 2 if CELLS[cell].projected else 0, **usual)


def blank(problem: Problem, array: Array) -> Array:
    """NaN at padded steps of [T, B, .]: nobody may look at them."""
    for b, n in enumerate(problem.lengths or ()):
        array[n:, b] = np.nan
    return array


def inputs(problem: Problem) -> Array:
    return blank(problem, problem.x())


def upstream(problem: Problem, which: str = "both") -> Upstream:
    """The gradients of the output and of the final states, always a tuple."""
    rng = np.random.default_rng(problem.seed + 2)
    output = problem.proj_size or problem.hidden_size
    dy = rng.normal(size=(problem.steps, problem.batch, problem.directions * output)).astype(problem.dtype)
    rows = (problem.layers * problem.directions, problem.batch)
    sizes = [output] + [problem.hidden_size] * (CELLS[problem.cell].states - 1)
    dstate = [rng.normal(size=(*rows, size)).astype(problem.dtype) for size in sizes]
    wanted = {"h": (0,), "c": (len(sizes) - 1,)}.get(which, range(len(sizes)))
    chosen = tuple(d if k in wanted else None for k, d in enumerate(dstate))
    return blank(problem, dy) if which in ("dy", "both") else None, None if which == "dy" else chosen


def as_state(values: Sequence[Any] | None) -> Any:
    """States as a layer takes them: h alone, or a tuple."""
    return None if values is None else values[0] if len(values) == 1 else tuple(values)


def run(
    problem: Problem, layer: recurra.Recurrent | None = None, which: str = "both", recompute: bool = False
) -> tuple[Array, Any, Gradients]:
    """Output, final state and gradients of a problem."""
    layer = layer or problem.layer()
    y, final, tape = layer.forward(inputs(problem), problem.state(), lengths=problem.lengths, recompute=recompute)
    dy, dstate = upstream(problem, which)
    return y, final, tape.backward(dy, as_state(dstate))


def flat(gradients: Gradients) -> list[Array]:
    """All gradients, in one order."""
    return arrays([gradients.x, gradients.state, list(gradients.params.values())])


def assert_same_gradients(actual: Gradients, expected: Gradients) -> None:
    assert list(actual.params) == list(expected.params)
    assert_same_bits(flat(actual), flat(expected))


def assert_gradients_close(actual: Any, expected: Any, tolerance: float) -> None:
    """Every number within tolerance of the largest of its array (of 0.01, where all are less)."""
    assert list(actual.params) == list(expected.params)
    names = ["x", *(f"state {k}" for k in range(len(expected.state))), *expected.params]
    got = [actual.x, *states(actual.state), *actual.params.values()]
    for name, a, e in zip(names, got, [expected.x, *expected.state, *expected.params.values()], strict=True):
        assert a.shape == e.shape, name
        scale = max(0.01, np.abs(e).max(initial=0))
        np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * scale, err_msg=f"gradient of {name}")


def oracle(problem: Problem, layer: recurra.Recurrent, which: str = "both") -> reference_backward.Gradients:
    dy, dstate = upstream(problem, which)
    state = problem.state()
    return reference_backward.gradients(
        problem.cell,
        inputs(problem),
        layer.state_dict(),
        dy,
        dstate,
        state=None if state is None else states(state),
        lengths=problem.lengths,
        constants=problem.constants,
    )
