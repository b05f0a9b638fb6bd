"""Resets and masks together with direction="reverse", return_cells, grad_clip and a learned initial state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close, assert_same_bits, states
from gradients import as_state
from reference import CELLS
from strategies import Problem

ALL_CELLS = pytest.mark.parametrize("cell", sorted(CELLS))
WITH_CELLS = pytest.mark.parametrize("cell", sorted(name for name, kind in CELLS.items() if kind.states > 1))
T, B, H = 7, 4, 6


def problem_of(cell: str, **options: Any) -> Problem:
    return Problem(cell, 3, H, T, B, 4 * CELLS[cell].projected, 2, with_state=True, dtype="float64", seed=1, **options)


def flags(seed: int) -> Array:
    return np.random.default_rng(seed).random((T, B)) < 0.6


def marks(repeat: bool) -> dict[str, Any]:
    return {"resets": ~flags(3), "mask": flags(4), "masked_output": "previous" if repeat else "zero"}


@pytest.mark.parametrize("repeat", (True, False))
@ALL_CELLS
def test_reverse_is_the_reverse_half(cell: str, repeat: bool) -> None:
    both, back = problem_of(cell, directions=2), problem_of(cell, reverse=True)
    wide, layer = Problem(**{**vars(both), "layers": 1}), Problem(**{**vars(back), "layers": 1})
    two, one = wide.layer(), layer.layer()
    one.load_state_dict({n.removesuffix("_reverse"): v for n, v in two.state_dict().items() if n.endswith("_reverse")})
    options: dict[str, Any] = {"lengths": [7, 5, 0, 6], "return_cells": CELLS[cell].states > 1, **marks(repeat)}
    state, reset = layer.state(), as_state([np.tanh(part) for part in states(layer.state())])
    doubled = [as_state([np.concatenate([p, p]) for p in states(part)]) for part in (state, reset)]
    y, final, tape, *cells = one.forward(layer.x(), state, reset_state=reset, **options)
    want, want_final, want_tape, *want_cells = two.forward(layer.x(), doubled[0], reset_state=doubled[1], **options)
    width = y.shape[-1]
    assert_same_bits(y, want[..., width:])
    assert_same_bits(list(states(final)), [part[1:] for part in states(want_final)])
    for some, all_of in zip(cells, want_cells, strict=True):
        assert_same_bits(some, all_of[..., H:])
    dy = np.random.default_rng(5).normal(size=y.shape)
    dcells = [np.random.default_rng(6).normal(size=c.shape) for c in cells]
    wide_dcells = [np.concatenate([np.zeros_like(d), d], -1) for d in dcells]
    for clip in (None, 0.05):
        found = tape.backward(dy, None, *dcells, grad_clip=clip)
        wanted = want_tape.backward(np.concatenate([np.zeros_like(dy), dy], -1), None, *wide_dcells, grad_clip=clip)
        for name, gradient in found.params.items():
            assert_same_bits(gradient, wanted.params[f"{name}_reverse"])
        assert_same_bits(list(states(found.state)), [part[1:] for part in states(wanted.state)])
        assert_same_bits(list(states(found.reset_state)), [part[1:] for part in states(wanted.reset_state)])
    assert_same_bits(one(layer.x(), state, reset_state=reset, **options)[0], y)


@pytest.mark.parametrize("reverse", (False, True))
@pytest.mark.parametrize("repeat", (True, False))
@WITH_CELLS
def test_cells_of_valid_steps_are_those_of_the_steps_moved_together(cell: str, repeat: bool, reverse: bool) -> None:
    problem, mask = problem_of(cell, reverse=reverse), flags(4)
    layer, x, state = problem.layer(), problem.x(), states(problem.state())
    _, _, cells = layer(x, problem.state(), mask=mask, masked_output=marks(repeat)["masked_output"], return_cells=True)
    for b in range(B):
        own = as_state([part[:, b : b + 1] for part in state])
        _, _, alone = layer(x[mask[:, b], b : b + 1], own, return_cells=True)
        assert_same_bits(cells[mask[:, b], b], alone[:, 0])
        last = state[1][-1, b]
        for t in range(T - 1, -1, -1) if reverse else range(T):
            last = cells[t, b] if mask[t, b] else last
            assert_same_bits(cells[t, b], last if mask[t, b] or repeat else np.zeros(H))


@pytest.mark.parametrize("repeat", (True, False))
@WITH_CELLS
def test_gradients_of_cells_are_central_differences(cell: str, repeat: bool) -> None:
    for problem in (problem_of(cell, directions=2), problem_of(cell, reverse=True)):
        layer, options = problem.layer(), {"return_cells": True, **marks(repeat)}
        x, state = problem.x(), problem.state()
        _, _, tape, cells = layer.forward(x, state, **options)
        dcells, way = (np.random.default_rng(k).normal(size=a.shape) for k, a in ((5, cells), (6, x)))
        gradients, losses = tape.backward(dcells=dcells), []
        for step in (1e-6, -1e-6):
            losses.append(float((layer(x + step * way, state, **options)[2] * dcells).sum()))
        assert gradients.x is not None
        np.testing.assert_allclose((gradients.x * way).sum(), (losses[0] - losses[1]) / 2e-6, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("directions", (1, 2))
@pytest.mark.parametrize("cell", sorted(name for name, kind in CELLS.items() if not kind.heads))
def test_resets_lead_to_the_learned_state(cell: str, directions: int) -> None:
    problem = problem_of(cell, directions=directions)
    layer, plain = problem.layer(initial_state=True), problem.layer()
    names = list(layer.state_dict())[len(plain.state_dict()) :]
    parts = {n: np.random.default_rng(k).uniform(-1, 1, layer.state_dict()[n].shape) for k, n in enumerate(names)}
    layer.load_state_dict(layer.state_dict() | parts)
    begin = as_state([np.repeat(part[:, None], B, axis=1) for part in parts.values()])
    x, options = problem.x(), marks(True)
    y, final, tape = layer.forward(x, **options)
    want, want_final, want_tape = plain.forward(x, begin, reset_state=begin, **options)
    assert_same_bits((y, final), (want, want_final))
    assert_same_bits(layer(x, **options), (y, final))
    dy = np.random.default_rng(5).normal(size=y.shape)
    found, wanted = tape.backward(dy), want_tape.backward(dy)
    for name, of_state, of_resets in zip(names, states(wanted.state), states(wanted.reset_state), strict=True):
        assert_close(found.params[name], of_state.sum(1) + of_resets.sum(1), 1e-12)
    given = layer.forward(x, begin, reset_state=begin, **options)[2].backward(dy)
    assert not any(given.params[name].any() for name in names)
    if directions == 1:
        stream = layer.stream(B)
        assert_same_bits(stream.run(x, **options), y)
