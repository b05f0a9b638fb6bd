"""Identities and limiting cases that every cell must obey, whatever its implementation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close, assert_same_bits, states
from reference import CELLS, shapes
from strategies import Problem

from recurra import functional

N, H = 3, 5  # input and hidden size
OPEN = 40.0  # s(40) is 1 in float64, s(-40) is 4e-18


def blocks(array: Array, count: int) -> list[Array]:
    """The gate blocks of a packed weight or bias."""
    return np.split(array, count)


def weights(cell: str, proj_size: int = 0, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(-1, 1, shape) for name, shape in shapes(cell, N, H, proj_size).items()}


def zeros(cell: str, input_size: int = N, hidden_size: int = H) -> dict[str, Array]:
    return {name: np.zeros(shape) for name, shape in shapes(cell, input_size, hidden_size).items()}


def data(steps: int = 6, batch: int = 2) -> Array:
    return np.random.default_rng(9).normal(0, 1, (steps, batch, N))


def with_bias(params: dict[str, Array], values: dict[int, float], count: int) -> dict[str, Array]:
    """Params whose weights of some gate blocks are zero and whose bias there is a constant."""
    changed = {name: array.copy() for name, array in params.items()}
    for block, value in values.items():
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_hh_l0"):
            blocks(changed[name], count)[block][...] = 0
        blocks(changed["bias_ih_l0"], count)[block][...] = value
    return changed


def test_relu_of_unit_weights_is_the_running_sum() -> None:
    params = zeros("rnn_relu", 1, 1) | {"weight_ih_l0": np.ones((1, 1)), "weight_hh_l0": np.ones((1, 1))}
    output, state = functional.rnn(np.arange(1.0, 8.0)[:, None, None], params, nonlinearity="relu")
    assert output.ravel().tolist() == [1, 3, 6, 10, 15, 21, 28]
    assert state.item() == 28


def test_rnn_without_recurrent_weights_is_a_feed_forward_layer() -> None:
    params = weights("rnn_tanh") | {"weight_hh_l0": np.zeros((H, H)), "bias_hh_l0": np.zeros(H)}
    x = data()
    assert_close(functional.rnn(x, params)[0], np.tanh(x @ params["weight_ih_l0"].T + params["bias_ih_l0"]), 1e-15)


def test_all_zero_rnn_is_zero() -> None:
    assert not functional.rnn(data(), zeros("rnn_tanh"))[0].any()


def test_all_zero_lstm_halves_its_cell_every_step() -> None:
    state = (np.zeros((1, 2, H)), np.ones((1, 2, H)))
    output, (h, c) = functional.lstm(data(3), zeros("lstm"), state)
    np.testing.assert_allclose(output[0], 0.2310585786, atol=1e-10)
    assert (c == 0.125).all()
    np.testing.assert_allclose(h, 0.5 * np.tanh(0.125), rtol=1e-15)


def test_all_zero_gru_halves_its_state_every_step() -> None:
    state = np.random.default_rng(0).normal(0, 1, (1, 2, H))
    for reset in ("after", "before"):
        output, _ = functional.gru(data(3), zeros("gru"), state, reset=reset)
        assert_same_bits(output, np.concatenate([state / 2, state / 4, state / 8]))


def test_lstm_with_open_gates_sums_its_candidates() -> None:
    params = with_bias(weights("lstm"), {0: OPEN, 1: OPEN, 3: OPEN}, 4)
    blocks(params["weight_hh_l0"], 4)[2][...] = 0
    x, c0 = data(), np.random.default_rng(1).normal(0, 1, (1, 2, H))
    w, b_ih, b_hh = (blocks(params[name], 4)[2] for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"))
    g = np.tanh(x @ w.T + b_ih + b_hh)
    output, (_, c) = functional.lstm(x, params, (np.zeros((1, 2, H)), c0))
    assert_close(c, c0 + g.sum(0), 1e-14)
    assert_close(output, np.tanh(c0 + g.cumsum(0)), 1e-14)


def test_lstm_with_closed_forget_gate_has_no_cell_memory() -> None:
    params = with_bias(weights("lstm"), {1: -800.0}, 4)
    x, h0 = data(1), np.zeros((1, 2, H))
    one, other = (functional.lstm(x, params, (h0, np.full((1, 2, H), c0))) for c0 in (-1.0, 3.0))
    assert_same_bits(one, other)


def test_zero_peepholes_equal_no_peepholes() -> None:
    for cell, coupled in (("lstm", False), ("lstm_coupled", True), ("lstm_f_from_i", "f_from_i")):
        params = weights(cell)
        peep = {"weight_peep_l0": np.zeros(CELLS[cell + "_peephole"].peepholes * H)}
        with_peep, without = (functional.lstm(data(), p, coupled=coupled)[0] for p in (params | peep, params))
        np.testing.assert_array_equal(with_peep, without)


def test_output_peephole_reads_the_new_cell_and_only_changes_h() -> None:
    params = weights("lstm_peephole")
    peep = params["weight_peep_l0"].copy()
    blocks(peep, 3)[2][...] += 1
    state = (np.zeros((1, 2, H)), np.full((1, 2, H), 0.5))
    _, (h, c) = functional.lstm(data(1), params, state)
    _, (h2, c2) = functional.lstm(data(1), params | {"weight_peep_l0": peep}, state)
    assert_same_bits(c2, c)
    assert (np.abs(h2 - h) > 1e-4).all()


def test_peephole_lstm_of_one_unit_in_closed_form() -> None:
    p_i, p_f, p_o, c0 = 0.3, -0.7, 1.1, 0.8
    params = zeros("lstm_peephole", 1, 1) | {
        "bias_ih_l0": np.array([0.1, 0.2, 0.3, 0.4]),
        "weight_peep_l0": np.array([p_i, p_f, p_o]),
    }
    _, (h, c) = functional.lstm(np.zeros((1, 1, 1)), params, (np.zeros((1, 1, 1)), np.full((1, 1, 1), c0)))

    def s(a: float) -> float:
        return float(1 / (1 + np.exp(-a)))

    new_c = s(0.2 + p_f * c0) * c0 + s(0.1 + p_i * c0) * np.tanh(0.3)
    assert c.item() == pytest.approx(new_c, abs=1e-15)
    assert h.item() == pytest.approx(s(0.4 + p_o * new_c) * np.tanh(new_c), abs=1e-15)


def test_identity_projection_equals_no_projection() -> None:
    params = weights("lstm")
    output, state = functional.lstm(data(), params | {"weight_hr_l0": np.eye(H)})
    want, want_state = functional.lstm(data(), params)
    for a, b in zip((output, *state), (want, *want_state), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("coupled", (True, "f_from_i"))
def test_coupled_lstm_equals_lstm_with_one_gate_the_negated_other(coupled: Any) -> None:
    params = weights("lstm_coupled")
    full = {}
    for name, array in params.items():
        gate, g, o = blocks(array, 3)  # f (seed form) or i
        full[name] = np.concatenate([-gate, gate, g, o] if coupled is True else [gate, -gate, g, o])
    assert_close(functional.lstm(data(), params, coupled=coupled), functional.lstm(data(), full), 1e-14)


def test_the_two_couplings_agree_when_the_gate_is_negated() -> None:
    params = weights("lstm_coupled_peephole")
    negated = {}
    for name, array in params.items():
        gate, *rest = blocks(array, 2 if "peep" in name else 3)
        negated[name] = np.concatenate([-gate, *rest])
    one = functional.lstm(data(), params, coupled=True)
    assert_close(functional.lstm(data(), negated, coupled="f_from_i"), one, 1e-14)


def test_coupled_lstm_with_open_forget_gate_keeps_its_cell_exactly() -> None:
    params = with_bias(weights("lstm_coupled"), {0: 800.0}, 3)
    c0 = np.random.default_rng(3).normal(0, 1, (1, 2, H))
    _, (_, c) = functional.lstm(data(), params, (np.zeros((1, 2, H)), c0), coupled=True)
    assert_same_bits(c, c0)


def test_cell_clip_bounds_the_cell_and_a_wide_one_changes_nothing() -> None:
    params = {name: 3 * array for name, array in weights("lstm").items()}
    free = functional.lstm(data(20), params)
    _, (_, c) = functional.lstm(data(20), params, cell_clip=0.05)
    assert np.abs(c).max() == 0.05
    assert_same_bits(functional.lstm(data(20), params, cell_clip=1e6), free)


def test_gru_resets_agree_when_the_reset_gate_is_open() -> None:
    params = with_bias(weights("gru"), {0: OPEN}, 3)
    assert_close(functional.gru(data(), params, reset="before"), functional.gru(data(), params, reset="after"), 1e-14)


def test_gru_resets_agree_for_a_diagonal_candidate_without_recurrent_bias_only() -> None:
    params = weights("gru")
    blocks(params["weight_hh_l0"], 3)[2][...] = np.diag(np.linspace(-1, 1, H))
    blocks(params["bias_hh_l0"], 3)[2][...] = 0
    assert_close(functional.gru(data(), params, reset="before"), functional.gru(data(), params, reset="after"), 1e-14)
    blocks(params["bias_hh_l0"], 3)[2][...] = 0.5
    after, before = (functional.gru(data(), params, reset=reset)[0] for reset in ("after", "before"))
    assert np.abs(after - before).max() > 1e-3


def test_gru_keep_with_negated_update_gate_is_write() -> None:
    params = weights("gru")
    negated = {}
    for name, array in params.items():
        r, z, n = blocks(array, 3)
        negated[name] = np.concatenate([r, -z, n])
    for reset in ("after", "before"):
        keep = functional.gru(data(), params, reset=reset, update="keep")
        assert_close(functional.gru(data(), negated, reset=reset, update="write"), keep, 1e-14)


@pytest.mark.parametrize(("update", "value"), (("keep", 800.0), ("write", -800.0)))
def test_gru_with_saturated_update_gate_keeps_its_state_exactly(update: str, value: float) -> None:
    params = with_bias(weights("gru"), {1: value}, 3)
    h0 = np.random.default_rng(3).normal(0, 1, (1, 2, H))
    for reset in ("after", "before"):
        _, h = functional.gru(data(), params, h0, reset=reset, update=update)
        assert_same_bits(h, h0)


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_reversed_input_and_swapped_directions_swap_the_output(cell: str) -> None:
    proj = 4 if CELLS[cell].projected else 0
    layer = Problem(cell, N, H, 1, 1, proj, directions=2, dtype="float64").layer()
    output, state = layer(data())

    def swapped(named: Mapping[str, Any]) -> dict[str, Any]:
        turned = {n: n.removesuffix("_reverse") if "_reverse" in n else n + "_reverse" for n in named}
        return {n: named[turned[n]] for n in named if turned[n] in named}

    packed = functional.pack(cell, swapped(layer.state_dict()), swapped(layer._packed.constants))
    turned, turned_state = functional.run(packed, data()[::-1])
    half = output.shape[-1] // 2
    assert_same_bits(turned, np.concatenate([output[::-1, :, half:], output[::-1, :, :half]], -1))
    assert_same_bits([s[::-1] for s in states(turned_state)], list(states(state)))


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_a_stack_is_its_layers_one_after_another(cell: str) -> None:
    proj = 4 if CELLS[cell].projected else 0
    problem = Problem(cell, N, H, 1, 1, proj, layers=3, directions=2, dtype="float64")
    layer = problem.layer()
    params = layer.state_dict()
    x, finals = data(), []
    for k in range(3):
        single = Problem(cell, x.shape[-1], H, 1, 1, proj, directions=2, dtype="float64").layer()
        single.load_state_dict({n.replace(f"_l{k}", "_l0"): array for n, array in params.items() if f"_l{k}" in n})
        x, state = single(x)
        finals.append(states(state))
    output, state = layer(data())
    assert_same_bits(output, x)
    assert_same_bits(list(states(state)), [np.concatenate(part) for part in zip(*finals, strict=True)])
