"""DifferentialRNN with matrices: beside its oracle, where it must equal something simpler, and what it refuses."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from checks import Array, assert_close, assert_same_bits, assert_same_bits_on_avx2_and_avx512, states
from reference_grids import central_differences

import recurra
from recurra import functional
from recurra.graph import GraphNetwork

I, H, T, B = 2, 3, 5, 4  # noqa: E741
LENGTHS = [5, 0, 2, 3]
ORDERS = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
ALL = pytest.mark.parametrize("orders", ORDERS)


def data(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def made(orders: tuple[int, ...] = (0, 1, 2), hidden: int = H, **options: Any) -> recurra.DifferentialRNN:
    options = {"dtype": "float64", "seed": 1, **options}
    return recurra.DifferentialRNN(I, hidden, orders=orders, diagonal=False, **options)


def state_of(layer: recurra.DifferentialRNN, batch: int = B) -> tuple[Array, ...]:
    lanes = layer.num_layers * (2 if layer.bidirectional else 1)
    return tuple(0.5 * data(2 + max(layer.orders), lanes, batch, layer.hidden_size, seed=3).astype(layer.dtype))


def oracle(layer: recurra.DifferentialRNN, x: Array, state: Any, params: Any = None) -> tuple[Array, ...]:
    """Output and final states, with lengths."""
    params = layer.state_dict() if params is None else params
    y, final = reference.run(layer.cell.replace("full_", ""), x, params, list(state), LENGTHS)
    return y, *final


# ------------------------------------------------------------------------------------------------------- oracle


@ALL
@pytest.mark.parametrize("hidden", [1, 3, 17])
@pytest.mark.parametrize("bias", [True, False])
def test_results_are_the_oracles(orders: tuple[int, ...], hidden: int, bias: bool) -> None:
    """Two layers, both directions, lengths, a given state; padded steps are looked at by nobody."""
    layer = made(orders, hidden, num_layers=2, bidirectional=True, bias=bias)
    shapes = {name: value.shape for name, value in layer.state_dict().items()}
    assert shapes["weight_dos_l1_reverse"] == (3 * len(orders) * hidden, hidden)
    x, state = data(T, B, I), state_of(layer)
    want = oracle(layer, x, state)
    for row, length in enumerate(LENGTHS):
        x[length:, row] = np.nan
    y, final = layer(x, state, lengths=LENGTHS)
    assert_close([y, *final], list(want), 1e-13)
    single = made(orders, hidden, num_layers=2, bidirectional=True, bias=bias, dtype="float32")
    single.load_state_dict({name: value.astype("float32") for name, value in layer.state_dict().items()})
    y, final = single(x.astype("float32"), tuple(part.astype("float32") for part in state), lengths=LENGTHS)
    assert y.dtype == np.float32
    assert_close([y.astype("float64"), *(part.astype("float64") for part in final)], list(want), 3e-6)


@ALL
@pytest.mark.parametrize("layers", [1, 2])
def test_gradients_are_central_differences(orders: tuple[int, ...], layers: int) -> None:
    """Of x, the initial state and every parameter, for a loss on everything that comes out."""
    layer = made(orders, 2, num_layers=layers, bidirectional=True)
    x, state = data(T, B, I), state_of(layer)
    y, final, tape = layer.forward(x, state, lengths=LENGTHS)
    called = layer(x, state, lengths=LENGTHS)
    assert_same_bits([y, *final], [called[0], *called[1]])
    upstream = [data(*part.shape, seed=5 + k) for k, part in enumerate([y, *final])]
    names = [f"state {n}" for n in range(len(state))]

    def loss(values: dict[str, Array]) -> float:
        found = oracle(layer, values["x"], [values[name] for name in names], values)
        return float(sum((part * d).sum() for part, d in zip(found, upstream, strict=True)))

    dy = upstream[0].copy()
    for row, length in enumerate(LENGTHS):
        dy[length:, row] = np.nan  # nobody may look at it
    gradients = tape.backward(dy, tuple(upstream[1:]))
    wanted = central_differences(loss, {**layer.state_dict(), "x": x, **dict(zip(names, state, strict=True))})
    found = {**gradients.params, "x": gradients.x, **dict(zip(names, gradients.state, strict=True))}
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        assert value is not None
        np.testing.assert_allclose(value, wanted[name], rtol=1e-6, atol=1e-8, err_msg=name)


def test_a_loss_of_cells_has_gradients_too() -> None:
    layer, x = made(num_layers=2), data(T, B, I)
    _, _, tape, cells = layer.forward(x, lengths=LENGTHS, return_cells=True)
    assert_same_bits(layer(x, lengths=LENGTHS, return_cells=True)[2], cells)
    for row, length in enumerate(LENGTHS):
        assert not cells[length:, row].any()
        for t in range(length):
            assert_same_bits(cells[t, row], layer(x[: t + 1, row])[1][1][1])
    d_cells = data(*cells.shape, seed=7)
    found = tape.backward(dcells=d_cells)

    def loss(values: dict[str, Array]) -> float:
        layer.load_state_dict({name: values[name] for name in found.params})
        return float((layer(values["x"], lengths=LENGTHS, return_cells=True)[2] * d_cells).sum())

    wanted = central_differences(loss, {**layer.state_dict(), "x": x})
    for name, value in {**found.params, "x": found.x}.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-6, atol=1e-8, err_msg=name)


@ALL
def test_the_graph_networks_states_are_the_differences(orders: tuple[int, ...]) -> None:
    name = "differential_full_" + "".join(map(str, orders))
    shapes = GraphNetwork.shapes(name, I, H, slots=1)
    network = GraphNetwork(name, I, H, {n: np.zeros(shape) for n, shape in shapes.items()}, slots=1)
    assert network.state_names == ("h", "d0", "d1", "d2")[: 2 + max(orders)]
    with pytest.raises(ValueError, match=f"slots: expected 1 for '{name}', got 2"):
        GraphNetwork.shapes(name, I, H)


# ------------------------------------------------------------------------------------------------------- limits


@ALL
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_without_matrices_it_is_an_lstm(orders: tuple[int, ...], dtype: str) -> None:
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "dtype": dtype}
    lstm, layer, x = recurra.LSTM(I, H, **options, seed=3), made(orders, **options), data(T, B, I).astype(dtype)
    zeros = {name: 0 * value for name, value in layer.state_dict().items() if "dos" in name}
    layer.load_state_dict(lstm.state_dict() | zeros)
    y, (h, c, *_) = layer(x, lengths=LENGTHS)
    assert_same_bits([y, h, c], [*states(lstm(x, lengths=LENGTHS)[0]), *lstm(x, lengths=LENGTHS)[1]])


@ALL
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_diagonal_matrices_are_vectors(orders: tuple[int, ...], dtype: str) -> None:
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "dtype": dtype}
    vectors = recurra.DifferentialRNN(I, H, orders=orders, **options, seed=3)
    layer, x = made(orders, **options), data(T, B, I).astype(dtype)

    def full(vector: Array) -> Array:
        return np.concatenate([np.diag(part) for part in vector.reshape(-1, H)])

    params = vectors.state_dict()
    layer.load_state_dict({name: full(v) if "dos" in name else v for name, v in params.items()})
    got, want = layer.forward(x, lengths=LENGTHS), vectors.forward(x, lengths=LENGTHS)
    assert_same_bits([got[0], *got[1]], [want[0], *want[1]])
    upstream = [data(*part.shape, seed=k).astype(dtype) for k, part in enumerate([got[0], *got[1]])]
    found, wanted = (tape.backward(upstream[0], tuple(upstream[1:])) for tape in (got[2], want[2]))
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    assert_close([found.x, *found.state], [wanted.x, *wanted.state], tolerance)
    for name, gradient in found.params.items():
        if "dos" in name:
            gradient = np.concatenate([np.diag(part) for part in gradient.reshape(-1, H, H)])
        np.testing.assert_allclose(gradient, wanted.params[name], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("way", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("names", [("resets",), ("mask",), ("resets", "mask")])
@pytest.mark.parametrize("masked_output", ["previous", "zero"])
def test_resets_and_masks_are_those_of_vectors(masked_output: str, names: tuple[str, ...], way: str) -> None:
    """With diagonal matrices it is the layer whose marks the other engine runs."""
    options: dict[str, Any] = {"orders": (0, 2), "num_layers": 2, "direction": way, "seed": 3, "dtype": "float64"}
    vectors, layer = recurra.DifferentialRNN(I, H, **options), recurra.DifferentialRNN(I, H, diagonal=False, **options)
    layer.load_state_dict(
        {
            name: np.concatenate([np.diag(part) for part in v.reshape(-1, H)]) if "dos" in name else v
            for name, v in vectors.state_dict().items()
        }
    )
    rng, state, fresh = np.random.default_rng(0), state_of(layer), state_of(layer)
    marks: dict[str, Any] = {name: rng.random((T, B)) < 0.5 for name in names}
    marks |= {"masked_output": masked_output} if "mask" in names else {}
    x = data(T, B, I)
    x[~marks.get("mask", np.ones((T, B), bool))] = np.nan
    begins: list[Any] = [None, state]
    ends: list[dict[str, Any]] = [{}]
    if "resets" in names:
        ends += [{"reset_state": tuple(0.7 * part for part in fresh)}, {"reset_state": tuple(p[:, 1] for p in fresh)}]
    for begin in begins:
        for end in ends:
            results = []
            for each in (layer, vectors):
                y, final, tape, cells = each.forward(x, begin, lengths=LENGTHS, return_cells=True, **marks, **end)
                called = each(x, begin, lengths=LENGTHS, return_cells=True, **marks, **end)
                assert_same_bits([y, *final, cells], [called[0], *called[1], called[2]])
                upstream = [data(*part.shape, seed=k) for k, part in enumerate([y, *final, cells])]
                d = tape.backward(upstream[0], tuple(upstream[1:-1]), upstream[-1])
                again = tape.backward(upstream[0], tuple(upstream[1:-1]), upstream[-1], into=dict(d.params))
                assert_same_bits(states(again.state), states(d.state))
                given = [] if d.reset_state is None else list(states(d.reset_state))
                results.append(([y, *final, cells], [d.x, *d.state, *given, d.params["weight_hh_l0"]]))
            assert_same_bits(results[0][0], results[1][0])
            assert_close(results[0][1], results[1][1], 1e-12)


def test_a_learned_state_is_where_resets_lead() -> None:
    layer, resets, x = made(initial_state=True), np.zeros((T, B), bool), data(T, B, I)
    resets[2] = True
    layer.load_state_dict({name: v + 0.1 if name.endswith("_0") else v for name, v in layer.state_dict().items()})
    y, final, tape = layer.forward(x, resets=resets)
    parts = [layer.forward(x[:2]), layer.forward(x[2:])]
    assert_same_bits([y, *final], [np.concatenate([parts[0][0], parts[1][0]]), *parts[1][1]])
    found, wanted = tape.backward(y), [part[2].backward(part[0]) for part in parts]
    for name, gradient in found.params.items():
        assert_close(gradient, wanted[0].params[name] + wanted[1].params[name], 1e-12)


def test_reverse_is_the_flipped_sequence() -> None:
    x = data(T, B, I)
    forward, reverse = made(), made(direction="reverse")
    y, final = reverse(x)
    want = forward(x[::-1])
    assert_same_bits([y, *final], [want[0][::-1].copy(), *want[1]])


def test_a_state_split_at_any_step_is_one_run() -> None:
    layer, x = made(num_layers=2), data(9, B, I)
    whole = layer(x)
    for cut in range(10):
        first, state = layer(x[:cut])
        second, final = layer(x[cut:], state)
        assert_same_bits([np.concatenate([first, second]), *final], [whole[0], *whole[1]])


# ------------------------------------------------------------------------------------------- ways to call a layer


def results(layer: recurra.DifferentialRNN, x: Array, **options: Any) -> list[Any]:
    y, final, tape = layer.forward(x, lengths=LENGTHS * (x.shape[1] // B), **options)
    gradients = tape.backward(np.ones_like(y), tuple(np.ones_like(part) for part in final))
    return [y, *final, gradients.x, *gradients.state, *gradients.params.values()]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("hidden", "batch"), [(150, 4), (40, 64)])
def test_threads_and_recompute_do_not_change_a_bit(hidden: int, batch: int, dtype: str) -> None:
    """Wide layers, whose units threads share; many rows, of which each has some."""
    layer, x = made(hidden=hidden, num_layers=2, bidirectional=True, dtype=dtype), data(T, batch, I).astype(dtype)
    recurra.set_num_threads(1)
    alone = results(layer, x)
    assert_same_bits(results(layer, x, recompute=True), alone)
    recurra.set_num_threads(2)
    assert_same_bits(results(layer, x), alone)
    assert_same_bits(results(layer, x, recompute=True), alone)


def test_a_row_has_the_bits_of_itself_alone() -> None:
    layer, x = made(num_layers=2, bidirectional=True), data(T, B, I)
    y, final, tape = layer.forward(x, lengths=LENGTHS)
    dx = tape.backward(np.ones_like(y)).x
    assert dx is not None
    for row, length in enumerate(LENGTHS):
        own = layer.forward(x[:length, row])
        assert_same_bits([own[0], *own[1]], [y[:length, row], *(part[:, row] for part in final)])
        if length:
            assert_same_bits(own[2].backward(np.ones_like(own[0])).x, dx[:length, row])


SCRIPT = """
import sys
import numpy as np
import recurra
from checks import save_results
from test_differential_full import B, T, data, made, results
layer = made(hidden=37, num_layers=2, bidirectional=True, dtype="float32")
found = results(layer, data(T, B, 2).astype("float32"))
save_results(sys.argv[1], {str(k): value for k, value in enumerate(found)})
"""


def test_instruction_sets_do_not_change_a_bit(tmp_path: Path) -> None:
    assert_same_bits_on_avx2_and_avx512(SCRIPT, tmp_path)


def test_batch_first_strides_out_and_functions_change_nothing() -> None:
    layer, x = made(num_layers=2, bidirectional=True), data(T, B, I)
    y, final = layer(x, lengths=LENGTHS)
    first = made(num_layers=2, bidirectional=True, batch_first=True)
    out = np.full((B, T, 2 * H), np.nan)
    got = first(x.swapaxes(0, 1), lengths=LENGTHS, out=out)
    assert got[0] is out
    assert_same_bits([out.swapaxes(0, 1).copy(), *got[1]], [y, *final])
    strided = np.full((2 * T, B, 2 * I), np.nan)[::2, :, :I]
    strided[...] = x
    assert_same_bits(layer(strided, lengths=LENGTHS)[0], y)
    params = layer.state_dict()
    options: dict[str, Any] = {"orders": (0, 1, 2), "diagonal": False}
    assert_same_bits(functional.differential_rnn(x, params, lengths=LENGTHS, **options)[0], y)
    packed = functional.pack(layer.cell, params)
    assert_same_bits(functional.differential_rnn(x, packed, lengths=LENGTHS, **options)[0], y)
    with pytest.raises(ValueError, match="params: expected 'differential_012'"):
        functional.differential_rnn(x, packed, orders=(0, 1, 2))


def test_gradients_add_up_where_they_are_told_to() -> None:
    layer, x = made(num_layers=2, bidirectional=True), data(T, B, I)
    y, _, tape = layer.forward(x)
    dy = data(*y.shape)
    once = tape.backward(dy)
    into = {name: value.copy() for name, value in once.params.items()}
    again = tape.backward(dy, input_grad=False, into=into)
    assert again.x is None and all(again.params[name] is into[name] for name in into)
    assert_same_bits(list(into.values()), [value + value for value in once.params.values()])
    assert tape.nbytes > x.nbytes


def test_a_learned_initial_state_is_what_a_given_one_would_be() -> None:
    layer, x = made(num_layers=2, initial_state=True), data(T, B, I)
    params = layer.state_dict()
    starts = [f"{name}_0" for name in ("h", "d0", "d1", "d2")]
    params |= {name: data(2, H, seed=k) for k, name in enumerate(starts)}
    layer.load_state_dict(params)
    y, final, tape = layer.forward(x, lengths=LENGTHS)
    plain = made(num_layers=2)
    plain.load_state_dict({name: value for name, value in params.items() if name not in starts})
    given = tuple(np.repeat(params[name][:, None], B, 1) for name in starts)
    want = plain.forward(x, given, lengths=LENGTHS)
    assert_same_bits([y, *final], [want[0], *want[1]])
    found, wanted = tape.backward(np.ones_like(y)), want[2].backward(np.ones_like(y))
    for name, value in zip(starts, wanted.state, strict=True):
        assert_close(found.params[name], value.sum(1), 1e-12)


@pytest.mark.parametrize(("steps", "batch"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_gives_nothing(steps: int, batch: int) -> None:
    layer = made(num_layers=2, bidirectional=True)
    state = state_of(layer, batch)
    y, final, tape = layer.forward(np.zeros((steps, batch, I)), state)
    assert y.shape == (steps, batch, 2 * H)
    assert_same_bits(list(final), list(state))
    gradients = tape.backward(y, state)
    assert gradients.x is not None and gradients.x.shape == (steps, batch, I)
    assert_same_bits(list(gradients.state), list(state))
    assert not any(value.any() for value in gradients.params.values())


def test_layers_pickle_and_say_what_they_are() -> None:
    layer, x = made(num_layers=2, direction="reverse"), data(T, B, I)
    again = pickle.loads(pickle.dumps(layer))
    assert repr(again) == repr(layer) == repr(eval(repr(layer), vars(recurra)))
    assert "diagonal=False" in repr(layer)
    assert_same_bits(again(x), layer(x))
    assert layer.parameter_count == sum(value.size for value in layer.state_dict().values())
    assert_same_bits(np.array(layer.weight_dos_l1), layer.state_dict()["weight_dos_l1"])
    other = made(num_layers=2, direction="reverse", seed=9)
    other.load_state_dict(layer.state_dict())
    assert_same_bits(other(x), layer(x))


# --------------------------------------------------------------------------------------------------- refusals

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dropout": ({"dropout": 0.5, "num_layers": 2}, "dropout: expected 0 for cell 'differential_full_012', got 0.5"),
    "recurrent_dropout": ({"recurrent_dropout": 0.5}, "recurrent_dropout: expected 0 for cell 'differential_full_012'"),
    "zoneout": ({"zoneout": (0.0, 0.0, 0.0, 0.25)}, "zoneout: expected 0 for cell 'differential_full_012', got 0.25"),
    "orders": ({"orders": (1, 0)}, "orders: expected one of"),
    "GPU": ({"device": "cuda"}, "device: expected 'cpu' for cell 'differential_full_012', got 'cuda"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_options_that_it_has_not_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recurra.DifferentialRNN(I, H, **{"orders": (0, 1, 2), "diagonal": False, **options})


def test_calls_that_it_has_not_are_refused() -> None:
    layer, x = made(dtype="float32"), data(T, B, I).astype("float32")
    with pytest.raises(ValueError, match="stream: expected another cell, 'differential_full_012' has no streams"):
        layer.stream()
    for precision in ("bfloat16", "int8"):
        with pytest.raises(ValueError, match=f"precision: expected None for cell .*, got '{precision}'"):
            layer.quantize(precision)
    with pytest.raises(ValueError, match="device: expected 'cpu'"):
        layer.to("cuda")
    y, _, tape = layer.forward(x)
    with pytest.raises(ValueError, match=r"grad_clip: expected None for cell 'differential_full_012', got 0\.5"):
        tape.backward(y, grad_clip=0.5)


def test_wrong_arrays_are_refused() -> None:
    layer, x = made(), data(T, B, I)
    with pytest.raises(TypeError, match="x: expected float64, got float32"):
        layer(x.astype("float32"))
    with pytest.raises(ValueError, match="state d2: expected shape"):
        layer(x, (*state_of(layer)[:3], np.zeros((1, B, H + 1))))
    with pytest.raises(ValueError, match="lengths: expected"):
        layer(x, lengths=[T + 1] * B)
    params = layer.state_dict()
    with pytest.raises(ValueError, match=r"weight_dos_l0: expected shape \[27, 3\], got \[27\]"):
        layer.load_state_dict({**params, "weight_dos_l0": params["weight_dos_l0"][:, 0].copy()})
