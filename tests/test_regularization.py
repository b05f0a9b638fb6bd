"""Dropout between layers, variational dropout, zoneout: what they leave out, and that gradients go with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import CPUS, Array, arrays, assert_same_bits, states
from reference import CELLS

import recurra

RATES: tuple[dict[str, Any], ...] = (
    {"dropout": 0.4},
    {"recurrent_dropout": 0.4},
    {"zoneout": 0.3},
    {"dropout": 0.3, "recurrent_dropout": 0.3, "zoneout": 0.4},
)


def layer_of(cell: str, hidden: int = 5, **options: Any) -> recurra.Recurrent:
    if not CELLS[cell].recurrent:
        options.pop("recurrent_dropout", None)
    return recurra.Recurrent(cell, 3, hidden, proj_size=3 if CELLS[cell].projected else 0, seed=1, **options)


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def identity(size: int, layers: int = 1, **options: Any) -> recurra.RNN:
    """A relu network that adds its input to what it had: with no noise y(t) = x(0) + ... + x(t) for x >= 0."""
    layer = recurra.RNN(size, size, layers, bias=False, nonlinearity="relu", **options)
    layer.load_state_dict({name: np.eye(size, dtype=np.float32) for name in layer.state_dict()})
    return layer


def central_difference(loss: Any, array: Array, index: tuple[int, ...], step: float = 1e-6) -> float:
    old = array[index]
    array[index] = old + step
    above = loss()
    array[index] = old - step
    below = loss()
    array[index] = old
    return float((above - below) / (2 * step))


@pytest.mark.parametrize("rates", RATES, ids=lambda rates: "+".join(rates))
@pytest.mark.parametrize("seed", (None, 5))
@pytest.mark.parametrize("cell", sorted(CELLS))
def test_gradients_are_those_of_what_was_drawn(cell: str, seed: int | None, rates: dict[str, Any]) -> None:
    layer = layer_of(cell, num_layers=2, bidirectional=True, dtype="float64", **rates)
    x, lengths, parameters = random(5, 4, 3), [5, 2, 0, 4], layer.state_dict()
    given = [random(*part.shape, seed=9) / 2 for part in states(layer(x)[1])]

    def run(recompute: bool = False) -> Any:
        layer.load_state_dict(parameters)
        state = given[0] if len(given) == 1 else tuple(given)
        return layer.forward(x, state, lengths=lengths, rng=seed, recompute=recompute)

    y, final, tape = run()
    dy, d_final = random(*y.shape, seed=2), [random(*part.shape, seed=3) for part in states(final)]
    d_state = d_final[0] if len(d_final) == 1 else tuple(d_final)
    gradients = tape.backward(dy, d_state)
    again = run(recompute=True)[2].backward(dy, d_state)
    assert_same_bits(arrays(again), arrays(gradients))

    def loss() -> float:
        y, final, _ = run()
        return float((y * dy).sum() + sum((a * b).sum() for a, b in zip(states(final), d_final, strict=True)))

    checked = [(x, gradients.x), *zip(given, states(gradients.state), strict=True)]
    checked += [(parameters[name], gradients.params[name]) for name in parameters]
    rng = np.random.default_rng(0)
    for array, gradient in checked:
        for _ in range(3):
            index = tuple(int(rng.integers(n)) for n in array.shape)
            assert central_difference(loss, array, index) == pytest.approx(gradient[index], rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_no_rate_or_no_rng_leaves_nothing_out(cell: str) -> None:
    x = random(6, 4, 3).astype(np.float32)
    plain = layer_of(cell, num_layers=2)
    assert_same_bits(plain.forward(x, rng=3)[:2], plain(x))
    dropping = layer_of(cell, num_layers=2, dropout=0.5, recurrent_dropout=0.5)
    assert_same_bits(dropping.forward(x)[:2], plain(x))
    zoning = layer_of(cell, num_layers=2, zoneout=0.3)
    assert_same_bits(zoning.forward(x)[:2], zoning(x))


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_the_same_seed_draws_the_same_and_another_does_not(cell: str) -> None:
    layer = layer_of(cell, 17, num_layers=2, dropout=0.3, recurrent_dropout=0.3, zoneout=0.3)
    x = random(6, 4, 3).astype(np.float32)
    want = layer.forward(x, rng=7)[:2]
    assert_same_bits(layer.forward(x, rng=7)[:2], want)
    assert not np.array_equal(layer.forward(x, rng=8)[0], want[0])
    generator = np.random.default_rng(0)
    first, second = layer.forward(x, rng=generator)[0], layer.forward(x, rng=generator)[0]
    assert not np.array_equal(first, second)
    assert_same_bits(layer.forward(x, rng=np.random.default_rng(0))[0], first)


@pytest.mark.skipif(CPUS < 2, reason="this process may use only one CPU")
@pytest.mark.parametrize(("hidden", "batch"), ((257, 37), (400, 1)))
def test_draws_do_not_depend_on_threads(hidden: int, batch: int, restore_threads: None) -> None:
    x = random(9, batch, 3).astype(np.float32)
    layer = layer_of("lstm", hidden, num_layers=2, dropout=0.3, recurrent_dropout=0.3, zoneout=0.3)
    found = []
    for threads in (1, CPUS):
        recurra.set_num_threads(threads)
        y, state, tape = layer.forward(x, rng=1)
        found.append((y, state, tape.backward(y)))
    assert_same_bits(arrays(found[1]), arrays(found[0]))


def test_draws_of_a_row_do_not_depend_on_the_lengths_of_others() -> None:
    layer = layer_of("gru", num_layers=2, dropout=0.3, recurrent_dropout=0.3, zoneout=0.3)
    x = random(6, 3, 3).astype(np.float32)
    y = layer.forward(x, lengths=[6, 6, 6], rng=1)[0]
    other = layer.forward(x, lengths=[2, 6, 4], rng=1)[0]
    assert_same_bits(other[:, 1], y[:, 1])
    assert_same_bits(other[:4, 2], y[:4, 2])


def test_dropout_between_layers_is_fresh_at_every_number_and_scaled() -> None:
    x = np.zeros((50, 40, 60), np.float32)
    x[:] = 1
    layer = recurra.RNN(60, 60, 2, bias=False, nonlinearity="relu", dropout=0.3)
    parameters = {name: np.zeros((60, 60), np.float32) for name in layer.state_dict()}
    for name in ("weight_ih_l0", "weight_ih_l1"):
        parameters[name] = np.eye(60, dtype=np.float32)
    layer.load_state_dict(parameters)
    y = layer.forward(x, rng=0)[0]
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.7)}
    assert (y == 0).mean() == pytest.approx(0.3, abs=0.005)
    for axis in range(3):  # neither the same mask along an axis nor a repeated one
        share = (np.diff(y, axis=axis) != 0).mean()
        assert share == pytest.approx(2 * 0.3 * 0.7, abs=0.01)


def test_variational_dropout_has_one_mask_for_a_whole_sequence() -> None:
    h0 = np.ones((1, 200, 50), np.float32)
    y = identity(50, recurrent_dropout=0.25).forward(np.zeros((4, 200, 50), np.float32), h0, rng=0)[0]
    kept = y[0] > 0
    assert kept.mean() == pytest.approx(0.75, abs=0.02)
    for step in range(4):
        np.testing.assert_allclose(y[step], np.where(kept, (4 / 3) ** (step + 1), 0), rtol=1e-5)


ZONED = ["rnn_tanh", "gru", "lstm", "gru_reset_before", "lstm_peephole", "lstm_projected", "sru", "min_gru"]
ZONED += ["multiplicative_lstm", "multiplicative_lstm_paper_output", "differential_1", "differential_012", "slstm"]


@pytest.mark.parametrize("cell", ZONED)
def test_zoneout_keeps_old_values_or_takes_new_ones(cell: str) -> None:
    all_rates = (0.3, 0.6, 0.2, 0.5)[: CELLS[cell].states]
    rates = all_rates if len(all_rates) > 1 else 0.3
    layer, plain = layer_of(cell, 40, zoneout=rates), layer_of(cell, 40)
    x = np.broadcast_to(random(1, 1, 3), (1, 3000, 3)).astype(np.float32)
    old = [
        np.broadcast_to(random(*part.shape[::2], seed=k)[:, None], part.shape).astype(np.float32)
        for k, part in enumerate(states(layer(x)[1]))
    ]
    state = old[0] if len(old) == 1 else tuple(old)
    zoned, new = states(layer.forward(x, state, rng=0)[1]), states(plain(x, state)[1])
    expected = states(layer(x, state)[1])
    for part, before, after, mean, rate in zip(zoned, old, new, expected, all_rates, strict=True):
        kept = part == before
        assert (kept | (part == after)).all()
        assert kept.mean() == pytest.approx(rate, abs=0.01)
        deviations = 4 * (rate * (1 - rate) / 3000) ** 0.5 * np.abs(after - before) + 1e-5
        assert (np.abs(part.mean(1) - mean[:, 0]) < deviations[:, 0]).all()  # the expectation is what a call computes
        np.testing.assert_allclose(mean, rate * before + (1 - rate) * after, rtol=1e-5, atol=1e-6)


def test_zoneout_of_one_keeps_the_state() -> None:
    layer = layer_of("lstm", zoneout=1.0)
    state = tuple(random(1, 4, 5, seed=k).astype(np.float32) for k in range(2))
    for run in (
        layer.forward(random(6, 4, 3).astype(np.float32), state, rng=0)[:2],
        layer(random(6, 4, 3).astype("f"), state),
    ):
        assert_same_bits(run[1], state)


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_streams_zone_out_as_calls_do(cell: str) -> None:
    layer = layer_of(cell, 19, num_layers=2, zoneout=0.3)
    x = random(7, 4, 3).astype(np.float32)
    y, state = layer(x)
    stream = layer.stream(4)
    assert_same_bits(np.stack([stream.step(part) for part in x]), y)
    assert_same_bits(stream.state, state)


BAD: tuple[tuple[str, dict[str, Any], Any], ...] = (
    ("recurrent_dropout", {"recurrent_dropout": 1.5}, ValueError),
    ("recurrent_dropout", {"recurrent_dropout": "a"}, TypeError),
    ("zoneout", {"zoneout": -0.1}, ValueError),
    ("zoneout of c", {"zoneout": (0.1, 2)}, ValueError),
    ("zoneout", {"zoneout": (0.1, 0.1, 0.1)}, ValueError),
)


@pytest.mark.parametrize(("name", "options", "error"), BAD)
def test_bad_rates_are_refused(name: str, options: dict[str, Any], error: Any) -> None:
    with pytest.raises(error, match=name):
        recurra.LSTM(3, 5, **options)


@pytest.mark.parametrize("cell", sorted(name for name in CELLS if not CELLS[name].recurrent))
def test_there_is_no_dropout_of_a_product_that_is_none(cell: str) -> None:
    with pytest.raises(ValueError, match=f"recurrent_dropout: expected 0 for cell '{cell}'.*got 0.1"):
        recurra.Recurrent(cell, 3, 5, recurrent_dropout=0.1)
    params = recurra.Recurrent(cell, 3, 5).state_dict()
    with pytest.raises(ValueError, match=f"recurrent_dropout: expected 0 for cell '{cell}'.*got 0.1"):
        recurra.functional.pack(cell, params, regularization=recurra.functional.Regularization(0.0, 0.1))


def test_a_pair_of_rates_is_for_lstms() -> None:
    with pytest.raises(ValueError, match="zoneout"):
        recurra.GRU(3, 5, zoneout=(0.1, 0.1))


@pytest.mark.parametrize("rng", (-1, 1 << 64, 1.5, "a", True, np.random.RandomState(0)))
def test_bad_rngs_are_refused(rng: Any) -> None:
    with pytest.raises(ValueError if isinstance(rng, int) and rng is not True else TypeError, match="rng"):
        layer_of("gru", zoneout=0.1).forward(np.zeros((2, 3, 3), np.float32), rng=rng)
