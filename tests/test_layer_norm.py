"""Layer-normalised LSTM and GRU: beside torch's layer_norm, what normalisation does not see, and what is refused."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import reference
from checks import Array, assert_close, assert_same_bits, states

import recurra
from recurra import functional

I, H = 3, 5  # noqa: E741
KINDS = pytest.mark.parametrize("kind", [recurra.LSTM, recurra.GRU])


def data(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def made(kind: Any, input_size: int = I, hidden_size: int = H, **options: Any) -> recurra.Recurrent:
    """In float64, with gains and shifts that are not 1 and 0."""
    options = {"dtype": "float64", "seed": 1, **options}
    layer: recurra.Recurrent = kind(input_size, hidden_size, layer_norm=True, **options)
    state = layer.state_dict()
    for name, value in state.items():
        if name.startswith(("gamma", "beta")):
            value += (0.3 * data(*value.shape, seed=2)).astype(value.dtype)
    layer.load_state_dict(state)
    return layer


def changed(layer: recurra.Recurrent, **values: Array) -> recurra.Recurrent:
    again: recurra.Recurrent = pickle.loads(pickle.dumps(layer))
    again.load_state_dict(layer.state_dict() | {f"{name}_l0": np.asarray(value) for name, value in values.items()})
    return again


# --------------------------------------------------------------------------------------------------------- torch


@KINDS
@pytest.mark.parametrize("bias", [True, False])
def test_results_and_gradients_are_those_of_torchs_layer_norm(kind: Any, bias: bool) -> None:
    torch = pytest.importorskip("torch", reason="the parity extra is not installed: no torch")
    linear, norm = torch.nn.functional.linear, torch.nn.functional.layer_norm
    layer, x = made(kind, bias=bias), data(7, 4, I)
    p = {n.removesuffix("_l0"): torch.from_numpy(v).requires_grad_() for n, v in layer.state_dict().items()}
    their_x = torch.from_numpy(x).requires_grad_()
    h = c = torch.zeros(4, H, dtype=torch.float64)
    outputs = []
    for now in their_x:
        a = norm(linear(now, p["weight_ih"]), [len(p["gamma_x"])], p["gamma_x"], p.get("bias_ih"))
        r = norm(linear(h, p["weight_hh"]), [len(p["gamma_h"])], p["gamma_h"], p.get("bias_hh"))
        if kind is recurra.LSTM:
            i, f, g, o = (a + r).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * norm(c, [H], p["gamma_c"], p["beta_c"]).tanh()
        else:
            (xr, xz, xn), (hr, hz, hn) = a.chunk(3, -1), r.chunk(3, -1)
            z = (xz + hz).sigmoid()
            h = z * h + (1 - z) * (xn + (xr + hr).sigmoid() * hn).tanh()
        outputs.append(h)
    want, dy = torch.stack(outputs), data(7, 4, H, seed=3)
    y, _, tape = layer.forward(x)
    gradients = tape.backward(dy)
    assert_close(y, want.detach().numpy(), 1e-12)
    theirs = torch.autograd.grad(want, [their_x, *p.values()], torch.from_numpy(dy))
    assert_close([gradients.x, *gradients.params.values()], [g.numpy() for g in theirs], 1e-11)


# ------------------------------------------------------------------------------------------------------ invariance


@KINDS
def test_the_size_of_weights_and_what_all_gates_have_in_common_do_not_matter(kind: Any) -> None:
    layer, x = made(kind), data(6, 2, I)
    want = layer(x)[0]
    ih, hh = layer.weight_ih_l0, layer.weight_hh_l0
    large = changed(layer, weight_ih=1e4 * ih, weight_hh=1e4 * hh)
    np.testing.assert_allclose(changed(large, weight_ih=3e4 * ih, weight_hh=2e4 * hh)(x)[0], large(x)[0], atol=1e-7)
    assert np.abs(changed(layer, weight_ih=3 * ih)(x)[0] - want).max() > 1e-9  # by as much as 1e-5 says
    common = changed(layer, weight_ih=ih + data(I), weight_hh=hh + data(H))
    np.testing.assert_allclose(common(x)[0], want, atol=1e-12)


@KINDS
@pytest.mark.parametrize("hidden_size", [5, 16, 33])
def test_a_large_mean_leaves_the_spread_what_it_is(kind: Any, hidden_size: int) -> None:
    """The difference of the mean square and the square of the mean would have no right digit."""
    layer, x = made(kind, I, hidden_size, dtype="float32"), (np.abs(data(6, 2, I)) + 1).astype("float32")
    layer = changed(layer, weight_ih=layer.weight_ih_l0 + np.float32(3e3))
    want, _ = reference.run(layer.cell, x, layer.state_dict())
    np.testing.assert_allclose(layer(x)[0], want, atol=0.02)


def test_of_one_unit_the_cell_is_its_shift_alone() -> None:
    layer, x = made(recurra.LSTM, I, 1), data(6, 2, I)
    other = changed(layer, gamma_c=layer.gamma_c_l0 + 7)
    assert_same_bits(other(x), layer(x))
    y, _, tape = layer.forward(x)
    gradients = tape.backward(np.ones_like(y)).params
    assert not gradients["gamma_c_l0"].any() and gradients["beta_c_l0"].all()


@KINDS
def test_inputs_without_spread_give_the_biases(kind: Any) -> None:
    layer = made(kind)
    y, _, tape = layer.forward(np.zeros((1, 2, I)))
    gradients = tape.backward(np.ones_like(y)).params
    assert not gradients["gamma_x_l0"].any() and not gradients["gamma_h_l0"].any()
    assert np.isfinite(gradients["weight_ih_l0"]).all()
    want, _ = reference.run(layer.cell, np.zeros((1, 2, I)), layer.state_dict())
    assert_close(y, want, 1e-14)


# --------------------------------------------------------------------------------------------------------- options


@KINDS
def test_gains_start_at_one_and_shifts_at_zero(kind: Any) -> None:
    layer = kind(I, H, 2, bidirectional=True, layer_norm=True, seed=1)
    for name, value in layer.state_dict().items():
        if name.startswith(("gamma", "beta")):
            assert (value == (1 if name.startswith("gamma") else 0)).all()
        else:
            assert np.abs(value).max() <= 1 / np.sqrt(H) and len(set(value.ravel().tolist())) == value.size


def test_a_forget_bias_is_the_only_biass() -> None:
    layer = recurra.LSTM(I, H, layer_norm=True, forget_bias=1.5, seed=1)
    assert (layer.bias_ih_l0[H : 2 * H] == 1.5).all() and not hasattr(layer, "bias_hh_l0")


@KINDS
def test_modules_start_as_layers_do(kind: Any) -> None:
    pytest.importorskip("torch", reason="the parity extra is not installed: no torch")
    import recurra.torch

    module = getattr(recurra.torch, kind.__name__)(I, H, num_layers=2, layer_norm=True)
    layer = kind(I, H, 2, layer_norm=True)
    assert {n: tuple(p.shape) for n, p in module.named_parameters()} == {
        n: p.shape for n, p in layer.state_dict().items()
    }
    for name, parameter in module.named_parameters():
        if name.startswith(("gamma", "beta")):
            assert (parameter == float(name.startswith("gamma"))).all()
    assert "layer_norm=True" in repr(module)


@KINDS
def test_a_state_split_at_any_step_is_one_run(kind: Any) -> None:
    layer, x = made(kind, num_layers=2), data(9, 4, I)
    whole = layer(x)
    for cut in range(10):
        first, state = layer(x[:cut])
        second, final = layer(x[cut:], state)
        assert_same_bits([np.concatenate([first, second]), *states(final)], [whole[0], *states(whole[1])])


@KINDS
def test_layers_pickle_and_say_what_they_are(kind: Any) -> None:
    layer, x = made(kind, dtype="float32"), data(4, 2, I).astype("float32")
    again = pickle.loads(pickle.dumps(layer))
    assert again.layer_norm and repr(again) == repr(layer) == repr(eval(repr(layer), vars(recurra)))
    assert_same_bits(again(x), layer(x))


@KINDS
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_quantized_layers_are_near(kind: Any, precision: str) -> None:
    layer, x = made(kind, hidden_size=21, dtype="float32"), data(12, 2, I).astype("float32")
    small = layer.quantize(precision)
    np.testing.assert_allclose(small(x)[0], layer(x)[0], atol=0.1)
    stream = small.stream(2)
    assert_same_bits(np.stack([stream.step(part) for part in x]), small(x)[0])


@KINDS
def test_functions_take_it_from_the_parameters(kind: Any) -> None:
    layer, x = made(kind, num_layers=2, bidirectional=True), data(6, 2, I)
    function = getattr(functional, kind.__name__.lower())
    assert_same_bits(function(x, layer.state_dict(), lengths=[6, 4]), layer(x, lengths=[6, 4]))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (recurra.LSTM, {"peephole": True}, "layer_norm: expected False with coupled gates, peepholes or a projection"),
        (recurra.LSTM, {"coupled": True}, "layer_norm: expected False with coupled"),
        (recurra.LSTM, {"proj_size": 2}, "layer_norm: expected False with coupled"),
        (recurra.LSTM, {"coupled": "x"}, "coupled: expected one of"),
        (recurra.GRU, {"reset": "before"}, "layer_norm: expected False with reset='before' or update='write'"),
        (recurra.GRU, {"update": "write"}, "layer_norm: expected False with reset='before' or update='write'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(kind: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(I, H, layer_norm=True, **options)
    if message.startswith("layer_norm") and "proj_size" not in options:
        params = kind(I, H, layer_norm=True).state_dict() | kind(I, H, **options).state_dict()
        named = {name: value for name, value in options.items() if name != "peephole"}
        with pytest.raises(ValueError, match="layer_norm"):
            getattr(functional, kind.__name__.lower())(data(2, 1, I).astype("float32"), params, **named)


@pytest.mark.parametrize("value", [None, 1, "per_gate"])
@KINDS
def test_layer_norm_is_a_flag(kind: Any, value: Any) -> None:
    with pytest.raises(TypeError, match="layer_norm: expected True or False"):
        kind(I, H, layer_norm=value)
