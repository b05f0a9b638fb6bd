"""sLSTM: heads, its scaled states, and limits where it is something else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from checks import Array, assert_close, assert_same_bits, assert_same_bits_on_avx2_and_avx512, copies
from hypothesis import given
from hypothesis import strategies as st

import recurra
from recurra import functional

I, H = 3, 12  # noqa: E741
FORGET = pytest.mark.parametrize("forget", ["sigmoid", "exp"])
HEADS = pytest.mark.parametrize("heads", [1, 2, 3, 12])


def data(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def state_of(layer: recurra.SLSTM, batch: int, seed: int = 0) -> tuple[Array, ...]:
    """|c| <= n, as if there had been a past."""
    rng, shape = np.random.default_rng(seed), (layer.num_layers * (2 if layer.bidirectional else 1), batch, H)
    h, c, m = (rng.uniform(-1, 1, shape).astype(layer.dtype) for _ in range(3))
    return h, c, (np.abs(c) + rng.uniform(0.5, 1, shape)).astype(layer.dtype), m


def dense_twin(layer: recurra.SLSTM) -> recurra.SLSTM:
    """The same layer with one head, whose weights hold the zeros between the blocks."""
    params = {
        name: reference.dense(value, layer.hidden_size).astype(value.dtype) if name.startswith("weight_hh") else value
        for name, value in layer.state_dict().items()
    }
    twin = recurra.SLSTM(
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        bidirectional=layer.bidirectional,
        forget=layer.forget,
        dtype=str(layer.dtype),
    )
    twin.load_state_dict(params)
    return twin


# -------------------------------------------------------------------------------------------------------- equations


def plain_step(x: Array, state: tuple[Array, ...], p: dict[str, Array], forget: str) -> tuple[Array, ...]:
    """h, C and N without a scale: exponentials as they stand."""
    h, c, n = state
    p = {**p, "weight_hh": reference.dense(p["weight_hh"], len(h))}
    ai, af, az, ao = np.split(reference.input_side(x, p) + reference.recurrent_side(h, p), 4)
    i, f = np.exp(ai), reference.s(af) if forget == "sigmoid" else np.exp(af)
    c, n = f * c + i * np.tanh(az), f * n + i
    return reference.s(ao) * c / n, c, n


@FORGET
@HEADS
@pytest.mark.parametrize("with_state", [False, True])
def test_it_is_what_plain_exponentials_give(forget: str, heads: int, with_state: bool) -> None:
    layer = recurra.SLSTM(I, H, heads=heads, forget=forget, dtype="float64", seed=1)
    x, start = data(9, 1, I), state_of(layer, 1) if with_state else None
    y, (h, c, n, m) = layer(x, start)
    now = tuple(np.zeros(H) for _ in range(3))
    if start is not None:
        h0, c0, n0, m0 = (part[0, 0] for part in start)
        now = h0, c0 * np.exp(m0), n0 * np.exp(m0)
    params = {name.removesuffix("_l0"): value for name, value in layer.state_dict().items()}
    for t in range(9):
        now = plain_step(x[t, 0], now, params, forget)
        np.testing.assert_allclose(y[t, 0], now[0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(h[0, 0], now[0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose((c * np.exp(m))[0, 0], now[1], rtol=1e-11)
    np.testing.assert_allclose((n * np.exp(m))[0, 0], now[2], rtol=1e-11)


@FORGET
@given(
    seed=st.integers(0, 1000), gain=st.sampled_from((1.0, 30.0, 1000.0)), dtype=st.sampled_from(("float32", "float64"))
)
def test_whatever_comes_in_numbers_stay_in_range(forget: str, seed: int, gain: float, dtype: str) -> None:
    """exp of pre-activations alone would be infinite."""
    layer = recurra.SLSTM(I, H, 2, heads=3, forget=forget, dtype=dtype, seed=seed)
    y, (h, c, n, m) = layer((gain * data(40, 2, I, seed=seed)).astype(dtype))
    assert all(np.isfinite(part).all() for part in (y, h, c, n, m))
    assert (n >= 1).all() and (np.abs(c) <= n * (1 + 1e-6)).all()
    assert np.abs(y).max() <= 1


@FORGET
def test_an_output_does_not_depend_on_how_states_are_scaled(forget: str) -> None:
    layer = recurra.SLSTM(I, H, heads=2, forget=forget, dtype="float64", seed=1)
    x, (h, c, n, m) = data(6, 2, I), state_of(layer, 2)
    shift = np.random.default_rng(3).uniform(-20, 20, m.shape)
    scaled = h, c * np.exp(-shift), n * np.exp(-shift), m + shift
    assert_close(layer(x, scaled)[0], layer(x, (h, c, n, m))[0], 1e-12)


@FORGET
def test_a_constant_candidate_comes_out_as_it_is(forget: str) -> None:
    layer = recurra.SLSTM(I, H, heads=2, forget=forget, dtype="float64", seed=1)
    params = layer.state_dict()
    for name, value in params.items():
        value[2 * H : 3 * H] = 0.35 if name == "bias_ih_l0" else 0
    layer.load_state_dict(params)
    _, (_, c, n, _) = layer(data(6, 2, I))
    np.testing.assert_allclose(c / n, np.tanh(0.35), rtol=1e-13)


def test_the_first_step_has_no_past() -> None:
    """m is the input gate's exponent, also where it is too small for a number beside the forget gate's."""
    layer = recurra.SLSTM(1, 2, seed=0)
    params = {name: np.zeros_like(value) for name, value in layer.state_dict().items()}
    params["bias_ih_l0"][:] = [-500, 5, 3, 3, 0.5, 0.5, 1, 1]
    layer.load_state_dict(params)
    _, (h, c, n, m) = layer(np.zeros((1, 1, 1), "float32"))
    np.testing.assert_array_equal(m[0, 0], [-500, 5])
    np.testing.assert_array_equal(n[0, 0], [1, 1])
    np.testing.assert_allclose(c[0, 0], np.tanh([0.5, 0.5]), rtol=1e-6)
    np.testing.assert_allclose(h[0, 0], np.tanh([0.5, 0.5]) / (1 + np.exp(-1)), rtol=1e-6)


# ------------------------------------------------------------------------------------------------------------ heads


SIZES = pytest.mark.parametrize(
    ("hidden", "heads"), [(12, 3), (12, 12), (20, 2), (35, 5), (35, 7), (48, 3), (96, 2), (130, 10), (192, 3), (260, 4)]
)


@SIZES
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_heads_are_zeros_of_a_dense_layer(hidden: int, heads: int, dtype: str) -> None:
    """In every bit, and so are gradients, with and without recomputing."""
    layer = recurra.SLSTM(I, hidden, 2, heads=heads, bidirectional=True, dtype=dtype, seed=1)
    twin, x = dense_twin(layer), data(7, 5, I).astype(dtype)
    lengths = [7, 0, 3, 7, 5]
    assert_same_bits(layer(x, lengths=lengths), twin(x, lengths=lengths))
    for recompute in (False, True):
        found = []
        for each in (layer, twin):
            y, state, tape = each.forward(x, lengths=lengths, recompute=recompute)
            found.append((y, state, tape.backward(y, tuple(data(*part.shape).astype(dtype) for part in state))))
        (y, state, mine), (twin_y, twin_state, full) = found
        assert_same_bits((y, state, mine.x, mine.state), (twin_y, twin_state, full.x, full.state))
        for name, gradient in mine.params.items():
            if name.startswith("weight_hh"):
                size = hidden // heads
                starts = np.arange(len(gradient)) % hidden // size * size
                kept = [row[start : start + size] for row, start in zip(full.params[name], starts, strict=True)]
                assert_same_bits(gradient, np.stack(kept))
            else:
                assert_same_bits(gradient, full.params[name])


@SIZES
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_heads_are_zeros_of_a_dense_layer_of_reduced_precision(hidden: int, heads: int, precision: str) -> None:
    layer = recurra.SLSTM(I, hidden, 2, heads=heads, seed=1)
    x = data(7, 5, I).astype("float32")
    assert_same_bits(layer.quantize(precision)(x), dense_twin(layer).quantize(precision)(x))


@SIZES
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parameters_of_heads_come_back(hidden: int, heads: int, dtype: str) -> None:
    layer = recurra.SLSTM(I, hidden, heads=heads, dtype=dtype)
    given = {name: data(*value.shape).astype(dtype) for name, value in layer.state_dict().items()}
    layer.load_state_dict(given)
    assert_same_bits(layer.state_dict(), given)


@SIZES
@pytest.mark.parametrize("options", [{}, {"dropout": 0.2, "recurrent_dropout": 0.3, "zoneout": 0.1}])
def test_heads_have_the_same_bits_on_any_number_of_threads(
    hidden: int, heads: int, options: dict[str, Any], restore_threads: None
) -> None:
    layer = recurra.SLSTM(I, hidden, 2, heads=heads, seed=1, **options)
    found = []
    for threads in (1, 2):
        recurra.set_num_threads(threads)
        for batch in (1, 3, 40):
            x = data(7, 40, I).astype("float32")[:, :batch]
            y, state, tape = layer.forward(x, rng=1)
            gradients = tape.backward(np.ones_like(y))
            found.append(copies([y, state, gradients.x, gradients.params]))
    for one, two in zip(found[:3], found[3:], strict=True):
        assert_same_bits(one, two)
    assert_same_bits(found[0][0][:, 0], found[2][0][:, 0])


@SIZES
def test_streams_of_heads_have_the_layers_bits(hidden: int, heads: int) -> None:
    layer, x = recurra.SLSTM(I, hidden, 2, heads=heads, seed=1), data(6, 3, I).astype("float32")
    head = recurra.Linear(hidden, 2, seed=1)
    y, state = layer(x)
    for each, expected in ((None, y), (head, head(y))):
        stream = layer.stream(3, head=each)
        assert_same_bits(np.stack([stream.step(part) for part in x]), expected)
        assert_same_bits(stream.state, state)
    stream = layer.stream(3, threads=2)
    assert_same_bits(stream.run(x), y)


def test_what_is_not_a_number_reaches_the_same_units_everywhere(tmp_path: Any) -> None:
    """How many units a vector has decides what lies in one tile with a head's; it must not decide what is NaN."""
    script = """
import sys
import numpy as np
import recurra
from checks import save_results

results = {}
for dtype in ("float32", "float64"):
    for hidden, heads in ((48, 6), (48, 12), (60, 5), (100, 4), (256, 4)):
        layer = recurra.SLSTM(3, hidden, heads=heads, dtype=dtype, seed=1)
        x = np.random.default_rng(0).standard_normal((3, hidden, 3)).astype(dtype)
        state = [np.ones((1, hidden, hidden), dtype) for _ in range(4)]
        state[0][0, np.arange(hidden), np.arange(hidden)] = np.nan
        y, final, tape = layer.forward(x, tuple(state))
        gradients = tape.backward(np.ones_like(y))
        for k, array in enumerate((y, *final, gradients.x, *gradients.state)):
            results[f"{dtype} {hidden} {heads} {k}"] = np.isnan(array)
save_results(sys.argv[1], results)
"""
    assert_same_bits_on_avx2_and_avx512(script, tmp_path)


@pytest.mark.parametrize("heads", [5, 24])
def test_heads_that_do_not_divide_the_units_are_refused(heads: int) -> None:
    with pytest.raises(ValueError, match=f"heads: expected a divisor of hidden_size=12, got {heads}"):
        recurra.SLSTM(I, H, heads=heads)


def test_other_cells_have_no_heads() -> None:
    with pytest.raises(ValueError, match="heads: expected 1 for cell 'lstm', got 2"):
        recurra.Recurrent("lstm", I, H, heads=2)


def test_a_weight_of_another_number_of_heads_is_refused() -> None:
    params = recurra.SLSTM(I, H, heads=3).state_dict()
    with pytest.raises(ValueError, match="weight_hh_l0: expected"):
        recurra.SLSTM(I, H, heads=4).load_state_dict(params)
    with pytest.raises(ValueError, match="weight_hh_l0: expected"):
        functional.slstm(data(2, 1, I).astype("float32"), params | {"weight_hh_l0": np.zeros((4 * H, 5), "float32")})


# -------------------------------------------------------------------------------------------------------- gradients


@FORGET
@HEADS
@pytest.mark.parametrize("bidirectional", [False, True])
def test_gradients_are_those_of_small_differences(forget: str, heads: int, bidirectional: bool) -> None:
    """Of all four states, initial and final, too."""
    layer = recurra.SLSTM(I, H, heads=heads, forget=forget, bidirectional=bidirectional, dtype="float64", seed=1)
    x, start, params = data(4, 2, I), state_of(layer, 2), layer.state_dict()
    y, final, tape = layer.forward(x, start, lengths=[4, 3])
    dy, dstate = data(*y.shape, seed=5), tuple(data(*part.shape, seed=6 + k) for k, part in enumerate(final))

    def loss() -> float:
        got, state = functional.slstm(x, params, start, lengths=[4, 3], forget=forget)
        return float((got * dy).sum() + sum((a * b).sum() for a, b in zip(state, dstate, strict=True)))

    gradients = tape.backward(dy, dstate)
    pairs = [(x, gradients.x), *zip(start, gradients.state, strict=True)]
    pairs += [(value, gradients.params[name]) for name, value in params.items()]
    rng, step = np.random.default_rng(0), 1e-6
    for values, gradient in pairs:
        for _ in range(12):
            at = tuple(int(rng.integers(size)) for size in values.shape)
            kept = values[at]
            values[at] = kept + step
            more = loss()
            values[at] = kept - step
            slope = (more - loss()) / (2 * step)
            values[at] = kept
            assert abs(slope - gradient[at]) < 1e-7 * max(1.0, np.abs(gradient).max())


@FORGET
def test_from_zeros_initial_states_have_gradients_too(forget: str) -> None:
    """h is smooth where n = 0 and c = 0, though m is not."""
    layer = recurra.SLSTM(I, H, heads=2, forget=forget, dtype="float64", seed=1)
    x, zeros = data(4, 2, I), tuple(np.zeros((1, 2, H)) for _ in range(4))
    y, _, tape = layer.forward(x)
    gradients = tape.backward(dy := data(*y.shape, seed=5))
    for k in range(4):
        for at in ((0, 0, 1), (0, 1, 7)):
            moved = []
            for step in (1e-6, -1e-6):
                start = [part.copy() for part in zeros]
                start[k][at] = step
                moved.append(float((layer(x, tuple(start))[0] * dy).sum()))
            assert abs((moved[0] - moved[1]) / 2e-6 - gradients.state[k][at]) < 1e-7


@FORGET
def test_of_a_loss_of_outputs_the_scale_has_no_gradient_of_its_own(forget: str) -> None:
    """It moves as c and n do: exp(m) c and exp(m) n are what counts."""
    layer = recurra.SLSTM(I, H, heads=2, forget=forget, dtype="float64", seed=1)
    x, (h, c, n, m) = data(6, 2, I), state_of(layer, 2)
    y, _, tape = layer.forward(x, (h, c, n, m))
    _, dc, dn, dm = tape.backward(data(*y.shape, seed=5)).state
    np.testing.assert_allclose(dm, dc * c + dn * n, atol=1e-13)


@FORGET
def test_gradients_in_float32_do_not_lose_digits_over_many_steps(forget: str) -> None:
    """The gradient of m is a difference that is zero for outputs; its rounding errors must not add up."""
    x, dy = data(1000, 1, I), data(1000, 1, H, seed=5)
    found = []
    for dtype in ("float64", "float32"):
        layer = recurra.SLSTM(I, H, heads=2, forget=forget, dtype="float64", seed=1)
        params = layer.state_dict()
        params["bias_ih_l0"][H : 2 * H] = 3 if forget == "sigmoid" else -0.05  # remembers
        layer = recurra.SLSTM(I, H, heads=2, forget=forget, dtype=dtype)
        layer.load_state_dict({name: value.astype(dtype) for name, value in params.items()})
        *_, tape = layer.forward(x.astype(dtype))
        found.append(tape.backward(dy.astype(dtype)))
    for name, exact in found[0].params.items():
        assert np.abs(found[1].params[name] - exact).max() < 2e-5 * np.abs(exact).max()


def test_no_initial_state_is_learned() -> None:
    """n divides: it starts from zero, and no step of a training may take it below."""
    with pytest.raises(ValueError, match="initial_state: expected False for cell 'slstm_exp'"):
        recurra.Recurrent("slstm_exp", 3, 4, initial_state=True)
    pytest.importorskip("torch", reason="the parity extra is not installed: no torch")
    from recurra import torch as of_torch

    with pytest.raises(ValueError, match="initial_state: expected False for cell 'slstm'"):
        of_torch.SLSTM(3, 4, initial_state=True)
