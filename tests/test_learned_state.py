"""initial_state=True: a state that calls and streams start from is among the parameters, and is trained."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from checks import Array, arrays, assert_close, assert_same_bits, states
from gradients import as_state, flat, small_problems, upstream
from hypothesis import given
from hypothesis import strategies as st
from reference import CELLS
from strategies import Problem, problems

import recurra
from recurra import functional, training

# All but sLSTM's, whose n divides and starts from zero.
LEARNING = pytest.mark.parametrize("cell", [name for name, cell in sorted(CELLS.items()) if not cell.heads])


def learned(problem: Problem, **options: Any) -> tuple[recurra.Recurrent, recurra.Recurrent, list[Array]]:
    """A layer with a learned state that is not zero, its plain twin, and the state's parameters."""
    layer, plain = problem.layer(initial_state=True, **options), problem.layer(**options)
    names = list(layer.state_dict())[len(plain.state_dict()) :]
    rng = np.random.default_rng(problem.seed + 4)
    parts = {name: rng.uniform(-1, 1, layer.state_dict()[name].shape).astype(problem.dtype) for name in names}
    layer.load_state_dict(layer.state_dict() | parts)
    return layer, plain, list(parts.values())


def repeated(problem: Problem, parts: list[Array]) -> Any:
    return as_state([np.repeat(part[:, None], problem.batch, axis=1) for part in parts])


@LEARNING
@given(data=st.data())
def test_a_call_without_a_state_starts_from_it(cell: str, data: st.DataObject) -> None:
    problem = data.draw(problems(cell))
    layer, plain, parts = learned(problem)
    x, lengths = problem.x(), problem.lengths
    assert_same_bits(layer(x, lengths=lengths), plain(x, repeated(problem, parts), lengths=lengths))
    given_state = problem.state() if problem.with_state else repeated(problem, [2 * part for part in parts])
    assert_same_bits(layer(x, given_state, lengths=lengths), plain(x, given_state, lengths=lengths))
    if problem.batch and problem.lengths is None:
        assert_same_bits(layer(x[:, 0]), plain(x[:, 0], as_state(parts)))


@LEARNING
@given(data=st.data())
def test_its_gradient_is_that_of_the_state_summed_over_the_batch(cell: str, data: st.DataObject) -> None:
    problem = data.draw(small_problems(cell))
    layer, plain, parts = learned(problem)
    recompute, dy_dstate = data.draw(st.booleans()), upstream(problem)
    dy, dstate = dy_dstate
    options: dict[str, Any] = {"lengths": problem.lengths, "recompute": recompute}
    y, _, tape = layer.forward(problem.x(), **options)
    expected_y, _, expected_tape = plain.forward(problem.x(), repeated(problem, parts), **options)
    assert_same_bits(y, expected_y)
    found, expected = (t.backward(dy, as_state(dstate)) for t in (tape, expected_tape))
    assert_same_bits([found.x, found.state], [expected.x, expected.state])
    assert_same_bits([found.params[name] for name in expected.params], list(expected.params.values()))
    own = [found.params[name] for name in list(found.params)[len(expected.params) :]]
    for total, rows in zip(own, states(found.state), strict=True):
        want = np.zeros_like(total)
        for b in range(problem.batch):
            want = want + rows[:, b]
        assert_close(total, want, 1e-12)
    again = tape.backward(dy, as_state(dstate), into={name: array.copy() for name, array in found.params.items()})
    for name, total in found.params.items():
        assert_close(again.params[name], 2 * total, 1e-9)
    # A call with a state of its own has no use for it.
    _, _, other = layer.forward(problem.x(), repeated(problem, parts), **options)
    gradients = other.backward(dy, as_state(dstate))
    assert not any(gradients.params[name].any() for name in list(found.params)[len(expected.params) :])


@LEARNING
def test_its_gradient_is_a_central_difference(cell: str) -> None:
    proj = 2 * CELLS[cell].projected
    problem = Problem(cell, 3, 5, 4, 3, proj, layers=2, directions=2, lengths=(4, 1, 3), dtype="float64")
    layer, _, _ = learned(problem)
    dy, params = np.random.default_rng(0).normal(size=(4, 3, 2 * (proj or 5))), layer.state_dict()
    _, _, tape = layer.forward(problem.x(), lengths=problem.lengths)
    gradients = tape.backward(dy).params
    for name in [name for name in params if name.endswith("_0")]:
        way, losses = np.random.default_rng(1).normal(size=params[name].shape), []
        for step in (1e-6, -1e-6):
            layer.load_state_dict(params | {name: params[name] + step * way})
            losses.append(float((layer(problem.x(), lengths=problem.lengths)[0] * np.nan_to_num(dy)).sum()))
        layer.load_state_dict(params)
        difference = (losses[0] - losses[1]) / 2e-6
        np.testing.assert_allclose((gradients[name] * way).sum(), difference, rtol=1e-6, atol=1e-8)


@LEARNING
def test_streams_start_from_it_and_are_reset_to_it(cell: str) -> None:
    problem = Problem(cell, 3, 5, 6, 4, 2 * CELLS[cell].projected, layers=2)
    layer, plain, parts = learned(problem)
    x = problem.x()
    stream = layer.stream(4)
    assert_same_bits(stream.run(x), layer(x)[0])
    stream.reset()
    assert_same_bits(stream.run(x), layer(x)[0])
    before = states(stream.state)
    stream.reset([3, 0])
    for now, old, part in zip(states(stream.state), before, parts, strict=True):
        assert_same_bits(now[:, [1, 2]], old[:, [1, 2]])
        assert_same_bits(now[:, [3, 0]], np.repeat(part[:, None], 2, axis=1))
    zeros = as_state([np.zeros_like(part) for part in parts])
    stream.reset(state=zeros)
    assert_same_bits(stream.run(x), plain(x)[0])
    layer.load_state_dict({name: np.zeros_like(value) for name, value in layer.state_dict().items()})
    stream.reset()
    assert_same_bits(stream.run(x[:, :]), plain(x, repeated(problem, parts))[0])  # of the parameters it was made with
    single = plain.stream()
    single.state = as_state(parts)
    twin, _, _ = learned(problem)
    assert_same_bits(twin.stream().run(x[:, 0]), single.run(x[:, 0]))


def test_names_shapes_first_values_and_copies() -> None:
    layer = recurra.LSTM(3, 5, 2, bidirectional=True, proj_size=2, initial_state=True, seed=0)
    plain = recurra.LSTM(3, 5, 2, bidirectional=True, proj_size=2, seed=0)
    parameters = layer.state_dict()
    assert list(parameters) == [*plain.state_dict(), "h_0", "c_0"]
    assert_same_bits([parameters[name] for name in plain.state_dict()], list(plain.state_dict().values()))
    assert (layer.h_0.shape, layer.c_0.shape) == ((4, 2), (4, 5))
    assert not layer.h_0.any() and not layer.c_0.any()
    assert layer.parameter_count == plain.parameter_count + 4 * 7
    assert repr(recurra.GRU(3, 5, initial_state=True)) == "GRU(3, 5, initial_state=True)"
    layer.load_state_dict(parameters | {"h_0": parameters["h_0"] + 0.5, "c_0": parameters["c_0"] - 0.5})
    x = np.ones((4, 2, 3), "float32")
    want = layer(x)
    assert_same_bits(pickle.loads(pickle.dumps(layer))(x), want)
    assert_same_bits(functional.lstm(x, layer.state_dict()), want)
    assert_same_bits(layer.to("cpu")(x), want)
    assert_close(layer.to("cpu", dtype="float64")(x.astype("float64"))[0], want[0], 1e-5)
    for precision in ("bfloat16", "int8"):
        small = layer.quantize(precision)
        assert_same_bits(small.h_0, layer.h_0)
        zeros = plain.quantize(precision)(x)
        assert np.abs(small(x)[0] - zeros[0]).max() > 1e-2
    assert_same_bits(
        arrays(want), arrays(layer(x, (np.repeat(layer.h_0[:, None], 2, 1), np.repeat(layer.c_0[:, None], 2, 1))))
    )


def test_training_moves_it() -> None:
    """A sequence whose first outputs nothing but the initial state can make."""
    layer = recurra.GRU(1, 4, initial_state=True, seed=0)
    x, target = np.zeros((3, 8, 1), "float32"), np.full((3, 8, 4), 0.5, "float32")
    params = layer.state_dict()
    optimizer, losses = training.Adam(params, lr=0.05), []
    for _ in range(60):
        y, _, tape = layer.forward(x)
        loss, dy = training.mean_squared_error(y, target)
        losses.append(float(loss))
        optimizer.step(tape.backward(dy).params)
        layer.load_state_dict(params)
    assert losses[-1] < 0.02 * losses[0]
    assert np.abs(layer.h_0).min() > 0.2
    (window,) = training.tbptt(layer, x, k1=3)
    assert_same_bits(window.y, layer(x)[0])
    assert_same_bits(flat(window.backward(dy)), flat(layer.forward(x)[2].backward(dy)))


def test_refusals() -> None:
    layer = recurra.LSTM(3, 5, initial_state=True, seed=0)
    parameters = layer.state_dict()
    with pytest.raises(ValueError, match="missing: c_0"):
        layer.load_state_dict({name: value for name, value in parameters.items() if name != "c_0"})
    with pytest.raises(ValueError, match=r"h_0: expected shape \[1, 5\], got \[5\]"):
        layer.load_state_dict(parameters | {"h_0": np.zeros(5, "float32")})
    with pytest.raises(ValueError, match="unexpected: h_0"):
        recurra.LSTM(3, 5).load_state_dict(parameters)
    layer.load_state_dict(parameters | {"h_0": np.full((1, 5), 2, "float32")})
    with pytest.raises(ValueError, match=r"h_0: expected values in -1\.\.1 for int8"):
        layer.quantize("int8")
