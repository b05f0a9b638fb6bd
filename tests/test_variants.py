"""Multiplicative LSTM, differential RNN, sLSTM, element-wise recurrences: options, and limits where they are others."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close, assert_same_bits, states

import recurra
from recurra import functional

I, H = 3, 5  # noqa: E741
LAYERS: dict[str, Any] = {
    "multiplicative": lambda **o: recurra.MultiplicativeLSTM(I, H, **o),
    "multiplicative paper": lambda **o: recurra.MultiplicativeLSTM(I, H, form="paper", **o),
    "multiplicative output": lambda **o: recurra.MultiplicativeLSTM(I, H, form="paper", bias_at="output", **o),
    **{
        f"differential {orders}": lambda orders=orders, **o: recurra.DifferentialRNN(I, H, orders=orders, **o)
        for orders in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
    },
    "slstm": lambda **o: recurra.SLSTM(I, H, heads=5, **o),
    "slstm exp": lambda **o: recurra.SLSTM(I, H, forget="exp", **o),
    "indrnn": lambda **o: recurra.IndRNN(I, H, **o),
    "indrnn tanh": lambda **o: recurra.IndRNN(I, H, nonlinearity="tanh", **o),
    "min_gru": lambda **o: recurra.MinGRU(I, H, **o),
    "min_gru positive": lambda **o: recurra.MinGRU(I, H, candidate="positive", **o),
    "min_lstm": lambda **o: recurra.MinLSTM(I, H, **o),
    "min_lstm positive": lambda **o: recurra.MinLSTM(I, H, candidate="positive", **o),
    "sru": lambda **o: recurra.SRU(I, H, **o),
    "sru tanh": lambda **o: recurra.SRU(I, H, nonlinearity="tanh", **o),
}
ALL = pytest.mark.parametrize("name", LAYERS)


def data(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def with_values(layer: recurra.Recurrent, **values: Array) -> recurra.Recurrent:
    """The layer with some parameters of its only layer replaced."""
    layer.load_state_dict(layer.state_dict() | {f"{name}_l0": np.asarray(value) for name, value in values.items()})
    return layer


@ALL
def test_a_state_split_at_any_step_is_one_run(name: str) -> None:
    layer, x = LAYERS[name](num_layers=2, seed=1), data(9, 4, I).astype("float32")
    whole = layer(x)
    for cut in range(10):
        first, state = layer(x[:cut])
        second, final = layer(x[cut:], state)
        assert_same_bits([np.concatenate([first, second]), *states(final)], [whole[0], *states(whole[1])])


@ALL
def test_layers_pickle_and_say_what_they_are(name: str) -> None:
    layer, x = LAYERS[name](seed=1), data(4, 2, I).astype("float32")
    again = pickle.loads(pickle.dumps(layer))
    assert repr(again) == repr(layer)
    assert repr(eval(repr(layer), vars(recurra))) == repr(layer)
    assert_same_bits(again(x), layer(x))


@ALL
@pytest.mark.parametrize("precision", ("bfloat16", "int8"))
def test_quantized_layers_are_near(name: str, precision: str) -> None:
    layer, x = LAYERS[name](seed=1), data(12, 2, I).astype("float32")
    small = layer.quantize(precision)
    np.testing.assert_allclose(small(x)[0], layer(x)[0], atol=0.05)
    stream = small.stream(2)
    assert_same_bits(np.stack([stream.step(part) for part in x]), small(x)[0])


FUNCTIONS: tuple[tuple[Any, Any, dict[str, Any]], ...] = (
    (recurra.MultiplicativeLSTM, functional.multiplicative_lstm, {"form": "paper", "bias_at": "output"}),
    (recurra.DifferentialRNN, functional.differential_rnn, {"orders": (0, 1, 2)}),
    (recurra.SLSTM, functional.slstm, {"forget": "exp"}),
    (recurra.IndRNN, functional.indrnn, {"nonlinearity": "tanh"}),
    (recurra.MinGRU, functional.min_gru, {"candidate": "positive"}),
    (recurra.MinLSTM, functional.min_lstm, {"candidate": "positive"}),
    (recurra.SRU, functional.sru, {"nonlinearity": "tanh"}),
)


@pytest.mark.parametrize(("kind", "function", "options"), FUNCTIONS)
def test_functions_are_their_layers(kind: Any, function: Any, options: dict[str, Any]) -> None:
    layer, x = kind(I, H, 2, bidirectional=True, seed=0, **options), data(6, 2, I).astype("float32")
    want = layer(x, lengths=[6, 4])
    assert_same_bits(function(x, layer.state_dict(), lengths=[6, 4], **options), want)
    packed = functional.pack(layer.cell, layer.state_dict())
    assert_same_bits(function(x, packed, lengths=[6, 4], **options), want)
    with pytest.raises(ValueError, match="params: expected"):
        function(x, packed)


# ------------------------------------------------------------------------------------------------------- limits


def test_without_biases_their_place_does_not_matter() -> None:
    x = data(7, 2, I)
    layers = [
        recurra.MultiplicativeLSTM(I, H, form="paper", bias_at=at, dtype="float64", seed=2)
        for at in ("candidate", "output")
    ]
    assert not np.array_equal(layers[0](x)[0], layers[1](x)[0])
    assert_same_bits(*(with_values(layer, bias_ih=np.zeros(4 * H))(x) for layer in layers))


def test_where_the_factors_are_one_and_h_it_is_an_lstm() -> None:
    layer = recurra.MultiplicativeLSTM(I, H, dtype="float64", seed=2)
    x = data(7, 2, I)
    x[..., 0] = 1
    ones = np.zeros((H, I))
    ones[:, 0] = 1
    with_values(layer, weight_mx=ones, weight_mh=np.eye(H))
    lstm = recurra.LSTM(I, H, dtype="float64")
    same = {name: getattr(layer, f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih")}
    assert_close(layer(x), with_values(lstm, **same, bias_hh=np.zeros(4 * H))(x), 1e-12)


@pytest.mark.parametrize("name", ["multiplicative", "multiplicative output", "slstm", "sru", "differential (1,)"])
def test_zoneout_of_each_state_changes_the_output(name: str) -> None:
    x, plain = data(7, 2, I).astype("float32"), LAYERS[name](seed=1)
    others = len(states(plain(x)[1]))
    for state in range(others):
        rates = tuple(0.5 if s == state else 0.0 for s in range(others))
        zoned = LAYERS[name](seed=1, zoneout=rates)
        assert np.abs(zoned(x)[0] - plain(x)[0]).max() > 1e-3
        assert np.abs(zoned.forward(x, rng=1)[0] - plain(x)[0]).max() > 1e-3


def test_a_differential_rnn_of_order_0_is_an_lstm_with_peepholes() -> None:
    x, lstm = data(7, 2, I).astype("float32"), recurra.LSTM(I, H, peephole=True, seed=3)
    layer = recurra.DifferentialRNN(I, H, orders=(0,))
    layer.load_state_dict({name.replace("peep", "dos"): value for name, value in lstm.state_dict().items()})
    assert_same_bits(layer(x), lstm(x))


@pytest.mark.parametrize("orders", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_without_vectors_a_differential_rnn_is_an_lstm(orders: tuple[int, ...]) -> None:
    x, lstm = data(7, 2, I).astype("float32"), recurra.LSTM(I, H, seed=3)
    layer = recurra.DifferentialRNN(I, H, orders=orders)
    layer.load_state_dict(lstm.state_dict() | {"weight_dos_l0": np.zeros(3 * H * len(orders), "float32")})
    y, (h, c, *differences) = layer(x)
    assert_same_bits([y, h, c], [lstm(x)[0], *lstm(x)[1]])
    cells = [np.zeros_like(c), *(lstm(x[: t + 1])[1][1] for t in range(len(x)))]
    for n, difference in enumerate(differences, start=1):
        np.testing.assert_allclose(difference, np.diff(cells, n, axis=0)[-1], atol=1e-6)


def test_an_indrnn_without_memory_is_a_feed_forward_layer() -> None:
    x, layer = data(7, 2, I), with_values(recurra.IndRNN(I, H, dtype="float64", seed=4), weight_u=np.zeros(H))
    want = np.maximum(x @ layer.weight_ih_l0.T + layer.bias_ih_l0, 0)
    np.testing.assert_allclose(layer(x)[0], want, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shift", [-2000.0, -100.0, 0.0, 100.0])
def test_the_gates_of_a_min_lstm_add_up_to_one_however_small_they_are(shift: float, dtype: str) -> None:
    bias = np.array([shift, shift, 3.0], dtype)
    layer = recurra.MinLSTM(1, 1, dtype=dtype)
    layer.load_state_dict({"weight_ih_l0": np.zeros((3, 1), dtype), "bias_ih_l0": bias})
    y, _, tape = layer.forward(np.zeros((3, 1), dtype))
    np.testing.assert_allclose(y[:, 0], [1.5, 2.25, 2.625], rtol=1e-6)
    assert np.isfinite(tape.backward(np.ones_like(y)).params["bias_ih_l0"]).all()


def test_a_highway_of_identity_carries_x() -> None:
    layer = recurra.SRU(H, H, dtype="float64", seed=5)
    weight = np.array(layer.weight_ih_l0)
    weight[3 * H :] = np.eye(H)
    with_values(layer, weight_ih=weight, bias_ih=np.concatenate([np.zeros(H), np.full(H, -800.0)]))
    x = data(7, 2, H)
    np.testing.assert_allclose(layer(x)[0], x, atol=1e-12)


BAD: tuple[tuple[Any, dict[str, Any], str], ...] = (
    (recurra.MultiplicativeLSTM, {"form": "other"}, "form: expected one of 'standard', 'paper'"),
    (recurra.MultiplicativeLSTM, {"bias_at": "output"}, "bias_at: expected 'candidate' with form='standard'"),
    (recurra.MultiplicativeLSTM, {"bias_at": "gate"}, "bias_at: expected one of"),
    (recurra.DifferentialRNN, {"orders": (1, 0)}, "orders: expected one of"),
    (recurra.DifferentialRNN, {"orders": ()}, "orders: expected one of"),
    (recurra.DifferentialRNN, {"orders": 1}, "orders: expected one of"),
    (recurra.DifferentialRNN, {"zoneout": (0.1, 0.1)}, r"zoneout: expected a number or a tuple \(h, d0, d1\)"),
    (recurra.DifferentialRNN, {"zoneout": (0.1, 0.1, 2.0)}, "zoneout of d1"),
    (recurra.IndRNN, {"nonlinearity": "sigmoid"}, "nonlinearity: expected one of"),
    (recurra.MinGRU, {"candidate": "tanh"}, "candidate: expected one of"),
    (recurra.MinLSTM, {"candidate": None}, "candidate: expected one of"),
    (recurra.SRU, {"nonlinearity": "relu"}, "nonlinearity: expected one of"),
    (recurra.SRU, {"recurrent_dropout": 0.5}, "recurrent_dropout: expected 0 for cell 'sru'"),
)


@pytest.mark.parametrize(("kind", "options", "message"), BAD)
def test_bad_options_are_refused(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(I, H, **options)
