"""direction="reverse": the reverse half of a bidirectional layer, and a forward layer on rows turned round."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close, assert_same_bits, states
from gradients import as_state, flat, small_problems, upstream
from hypothesis import given
from hypothesis import strategies as st
from reference import CELLS, kinds, run
from strategies import TOLERANCE, Problem, problems

import recurra
from recurra import functional, training

EVERY_KIND = pytest.mark.parametrize("cell", kinds())


def turned(problem: Problem, array: Array) -> Array:
    """Each row of [T, B, .] from its own end to its beginning."""
    result = array.copy()
    for b in range(problem.batch):
        n = problem.steps if problem.lengths is None else problem.lengths[b]
        result[:n, b] = array[:n, b][::-1]
    return result


def trained(problem: Problem, layer: recurra.Recurrent, back: bool, **options: Any) -> list[Any]:
    """Output, final state and gradients; of a layer that runs backwards, of rows that are turned round."""
    order = (lambda a: turned(problem, a)) if back else (lambda a: a)
    dy, dstate = upstream(problem)
    assert dy is not None
    y, final, tape = layer.forward(order(problem.x()), problem.state(), lengths=problem.lengths, **options)
    gradients = tape.backward(order(dy), as_state(dstate))
    return [order(y), *states(final), order(gradients.x), *flat(gradients)[1:]]


@EVERY_KIND
@given(data=st.data())
def test_it_is_the_forward_layer_on_rows_turned_round(cell: str, data: st.DataObject) -> None:
    problem = data.draw(problems(cell, directions=1))
    ahead, back = problem.layer(), replace(problem, reverse=True).layer(constants=problem.constants)
    y, final = back(turned(problem, problem.x()), problem.state(), lengths=problem.lengths)
    assert_same_bits((turned(problem, y), final), ahead(problem.x(), problem.state(), lengths=problem.lengths))


@EVERY_KIND
@given(data=st.data())
def test_gradients_too_with_what_is_left_out(cell: str, data: st.DataObject) -> None:
    problem = replace(data.draw(small_problems(cell)), directions=1)
    rates: dict[str, Any] = {"zoneout": data.draw(st.sampled_from((0.0, 0.4)))}
    if CELLS[cell].recurrent:
        rates["recurrent_dropout"] = data.draw(st.sampled_from((0.0, 0.3)))
    options = {"recompute": data.draw(st.booleans()), "rng": data.draw(st.sampled_from((None, 5)))}
    ahead = problem.layer(**rates)
    back = replace(problem, reverse=True).layer(constants=problem.constants, **rates)
    assert_same_bits(trained(problem, back, True, **options), trained(problem, ahead, False, **options))


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@EVERY_KIND
def test_it_is_the_oracle_on_rows_turned_round(cell: str, dtype: str) -> None:
    problem = Problem(cell, 3, 6, 5, 3, 4 * CELLS[cell].projected, 2, lengths=(5, 0, 2), with_state=True, dtype=dtype)
    problem = replace(problem, reverse=True)
    layer, state = problem.layer(), states(problem.state())
    y, final = layer(problem.x(), problem.state(), lengths=problem.lengths)
    x, params = turned(problem, problem.x()), layer.state_dict()
    want, want_final = run(cell, x, params, state, problem.lengths, problem.constants)
    assert_close((y, states(final)), (turned(problem, want), want_final), TOLERANCE[dtype])


@pytest.mark.parametrize("precision", (None, "bfloat16", "int8"))
@EVERY_KIND
def test_it_is_the_reverse_half_of_a_bidirectional_layer(cell: str, precision: str | None) -> None:
    problem = Problem(cell, 3, 17, 70, 3, 7 * CELLS[cell].projected, lengths=(70, 0, 33), with_state=True)
    both, back = replace(problem, directions=2).layer(), replace(problem, reverse=True).layer()
    half = {n.removesuffix("_reverse"): v for n, v in both.state_dict().items() if n.endswith("_reverse")}
    assert list(half) == list(back.state_dict())
    back.load_state_dict(half)
    width = problem.proj_size or 17
    if precision is None:
        y, _, tape = back.forward(problem.x(), lengths=problem.lengths)
        expected, _, expected_tape = both.forward(problem.x(), lengths=problem.lengths)
        dy = np.random.default_rng(0).normal(size=y.shape).astype("float32")
        gradients = tape.backward(dy)
        expected_gradients = expected_tape.backward(np.concatenate([np.zeros_like(dy), dy], -1))
        assert_same_bits(y, expected[..., width:])
        for name, gradient in gradients.params.items():
            assert_same_bits(gradient, expected_gradients.params[f"{name}_reverse"])
    else:
        both, back = both.quantize(precision), back.quantize(precision)
    y, final = back(problem.x(), problem.state(), lengths=problem.lengths)
    state = as_state([np.concatenate([part, part]) for part in states(problem.state())])
    expected, expected_final = both(problem.x(), state, lengths=problem.lengths)
    assert_same_bits((y, states(final)), (expected[..., width:], [part[1:] for part in states(expected_final)]))


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("sizes", ((3, 300, 1), (40, 64, 16)))
def test_threads_change_no_bit(sizes: tuple[int, int, int]) -> None:
    inputs, hidden, batch = sizes
    problem = Problem("lstm", inputs, hidden, 70, batch, layers=2, reverse=True)
    layer, results = problem.layer(), []
    for threads in (1, 2):
        recurra.set_num_threads(threads)
        results.append([layer(problem.x()), trained(problem, layer, False)])
    assert_same_bits(*results)


def test_names_shapes_and_attributes() -> None:
    layer = recurra.LSTM(3, 5, 2, direction="reverse", seed=0)
    plain = recurra.LSTM(3, 5, 2, seed=0)
    assert_same_bits(layer.state_dict(), plain.state_dict())
    assert (layer.direction, layer.bidirectional) == ("reverse", False)
    assert (plain.direction, plain.bidirectional) == ("forward", False)
    both = recurra.LSTM(3, 5, direction="bidirectional")
    assert (both.direction, both.bidirectional) == ("bidirectional", True)
    assert both.direction == recurra.LSTM(3, 5, bidirectional=True).direction
    assert repr(layer) == "LSTM(3, 5, num_layers=2, direction='reverse')"
    assert repr(both) == "LSTM(3, 5, bidirectional=True)"
    with pytest.raises(ValueError, match="direction: expected 'forward' or 'bidirectional' with bidirectional=True"):
        recurra.GRU(3, 5, bidirectional=True, direction="reverse")
    with pytest.raises(
        ValueError, match="direction: expected one of 'forward', 'reverse', 'bidirectional', got 'left'"
    ):
        recurra.GRU(3, 5, direction="left")


def test_copies_packs_and_other_places_keep_it() -> None:
    layer = recurra.LSTM(3, 5, direction="reverse", seed=0)
    x = np.random.default_rng(0).normal(size=(6, 2, 3)).astype("float32")
    want = layer(x)
    assert_same_bits(pickle.loads(pickle.dumps(layer))(x), want)
    packed = functional.pack("lstm", layer.state_dict(), direction="reverse")
    assert_same_bits(functional.lstm(x, packed), want)
    assert_same_bits(functional.run(pickle.loads(pickle.dumps(packed)), x), want)
    layer.load_state_dict(layer.state_dict())
    assert_same_bits(layer(x), want)
    both = recurra.LSTM(3, 5, bidirectional=True)
    assert functional.pack("lstm", both.state_dict()).sizes.direction == "bidirectional"
    with pytest.raises(ValueError, match="direction: expected 'bidirectional' with parameters of two directions"):
        functional.pack("lstm", both.state_dict(), direction="reverse")
    with pytest.raises(ValueError, match="weight_ih_l0_reverse"):
        functional.pack("lstm", layer.state_dict(), direction="bidirectional")


def test_what_reads_as_it_comes_refuses_it() -> None:
    layer = recurra.GRU(3, 5, direction="reverse")
    with pytest.raises(ValueError, match="packed: a network of direction='reverse' cannot stream"):
        layer.stream()
    with pytest.raises(ValueError, match="layer: expected one direction, forward"):
        next(iter(training.tbptt(layer, np.zeros((4, 2, 3), "float32"), k1=2)))
    head, embedding = recurra.Linear(5, 4), recurra.Embedding(4, 3)
    with pytest.raises(ValueError, match="layer: expected one direction, forward"):
        recurra.generate(layer, head, embedding, start=0, max_length=3)
