"""Cells made of others, as docs/variants.md has them: QRNN, minLSTM without a normalisation, SRU's own highway."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close

import recurra

INPUTS, H, T, B = 3, 5, 9, 4
BIAS_OF_ONE = 40.0  # its sigmoid is 1 in either precision


def sigmoid(a: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-a)))


def qrnn(kernel: int, pooling: str) -> recurra.Model:
    """A convolution for all gates, and an LSTM whose units and gates do not see each other."""
    gates = {"f": 2, "fo": 3, "ifo": 4}[pooling]
    options: dict[str, Any] = {"coupled": pooling != "ifo", "output_activation": "linear", "dtype": "float64"}
    pool = recurra.LSTM(gates * H, H, **options)
    parameters = {name: np.zeros_like(value) for name, value in pool.state_dict().items()}
    np.fill_diagonal(parameters["weight_ih_l0"], 1)
    if pooling == "f":
        parameters["bias_ih_l0"][-H:] = BIAS_OF_ONE
    pool.load_state_dict(parameters)
    return recurra.Model([recurra.Conv1d(INPUTS, gates * H, kernel, causal=True, dtype="float64", seed=0), pool])


def pooled(x: Array, parameters: dict[str, Array], pooling: str) -> Array:
    """Bradbury, Merity, Xiong, Socher 2016, arXiv:1611.01576, equations 2 to 5."""
    weight, bias = parameters["conv1d0.weight"], parameters["conv1d0.bias"]
    kernel = weight.shape[2]
    padded = np.concatenate([np.zeros((kernel - 1, B, INPUTS)), x])
    gates = sum(padded[j : j + T] @ weight[..., j].T for j in range(kernel)) + bias
    named = dict(
        zip({"f": "fz", "fo": "fzo", "ifo": "ifzo"}[pooling], np.split(gates, weight.shape[0] // H, -1), strict=True)
    )
    f, z = sigmoid(named["f"]), np.tanh(named["z"])
    i = sigmoid(named["i"]) if "i" in named else 1 - f
    o = sigmoid(named["o"]) if "o" in named else np.ones_like(f)
    c, out = np.zeros((B, H)), []
    for t in range(T):
        c = f[t] * c + i[t] * z[t]
        out.append(o[t] * c)
    return np.stack(out)


@pytest.mark.parametrize("kernel", [1, 2, 4])
@pytest.mark.parametrize("pooling", ["f", "fo", "ifo"])
def test_a_qrnn_is_a_convolution_and_an_lstm_without_recurrent_weights(kernel: int, pooling: str) -> None:
    model = qrnn(kernel, pooling)
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((T, B, INPUTS)), rng.standard_normal((T, B, H))
    parameters = model.state_dict()
    assert_close(model(x), pooled(x, parameters, pooling), 1e-13)
    y, tape = model.forward(x)
    gradients = tape.backward(dy)
    for name in ("conv1d0.weight", "conv1d0.bias"):
        for index in np.ndindex(*[min(2, n) for n in parameters[name].shape]):
            found = []
            for nudge in (1e-6, -1e-6):
                moved = {key: value.copy() for key, value in parameters.items()}
                moved[name][index] += nudge
                found.append(float((pooled(x, moved, pooling) * dy).sum()))
            assert gradients.params[name][index] == pytest.approx((found[0] - found[1]) / 2e-6, rel=1e-6, abs=1e-8)
    stream = model.stream(batch=B)
    np.testing.assert_array_equal(np.stack([stream.step(x[t]) for t in range(T)]), y)


@pytest.mark.parametrize("candidate", ["linear", "tanh"])
def test_an_lstm_without_recurrent_weights_is_a_min_lstm_whose_gates_do_not_add_up_to_one(candidate: str) -> None:
    """Feng et al. 2024, arXiv:2410.01201: h' = f * h + i * n, all three from x alone."""
    layer = recurra.LSTM(INPUTS, H, activation=candidate, output_activation="linear", dtype="float64", seed=0)
    parameters = layer.state_dict()
    for name in ("weight_hh_l0", "bias_hh_l0"):
        parameters[name][...] = 0
    parameters["weight_ih_l0"][-H:], parameters["bias_ih_l0"][-H:] = 0, BIAS_OF_ONE
    layer.load_state_dict(parameters)
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((T, B, INPUTS)), rng.standard_normal((T, B, H))

    def expected(p: dict[str, Array]) -> Array:
        i, f, n = np.split(x @ p["weight_ih_l0"][: 3 * H].T + p["bias_ih_l0"][: 3 * H], 3, -1)
        h, out = np.zeros((B, H)), []
        for t in range(T):
            h = sigmoid(f[t]) * h + sigmoid(i[t]) * (np.tanh(n[t]) if candidate == "tanh" else n[t])
            out.append(h)
        return np.stack(out)

    y, _, tape = layer.forward(x)
    assert_close(y, expected(parameters), 1e-13)
    gradient = tape.backward(dy).params["weight_ih_l0"]
    for row in range(0, 3 * H, 2):
        found = []
        for nudge in (1e-6, -1e-6):
            moved = {key: value.copy() for key, value in parameters.items()}
            moved["weight_ih_l0"][row, 1] += nudge
            found.append(float((expected(moved) * dy).sum()))
        assert gradient[row, 1] == pytest.approx((found[0] - found[1]) / 2e-6, rel=1e-6, abs=1e-8)
    assert np.abs(gradient[3 * H :]).max() < 1e-15  # a sigmoid at its end has no slope


def test_an_sru_with_a_unit_matrix_has_the_papers_highway() -> None:
    """Lei et al. 2018, arXiv:1709.02755, equations 1 to 4: h = r * c + (1 - r) * x where I = H."""
    layer = recurra.SRU(H, H, dtype="float64", seed=0)
    parameters = layer.state_dict()
    parameters["weight_ih_l0"][-H:] = np.eye(H)
    layer.load_state_dict(parameters)
    x = np.random.default_rng(1).standard_normal((T, B, H))
    u, f, r = np.split(x @ parameters["weight_ih_l0"][: 3 * H].T, 3, -1)
    (v_f, v_r), (b_f, b_r) = (parameters[name].reshape(2, H) for name in ("weight_v_l0", "bias_ih_l0"))
    c, out = np.zeros((B, H)), []
    for t in range(T):
        forget, reset = sigmoid(f[t] + v_f * c + b_f), sigmoid(r[t] + v_r * c + b_r)
        c = forget * c + (1 - forget) * u[t]
        out.append(reset * c + (1 - reset) * x[t])
    assert_close(layer(x)[0], np.stack(out), 1e-13)
