"""recurra.torch's layers that torch.nn has not, against the NumPy oracle and their namesakes in recurra.

What holds for modules of every kind is tested where it is tested for torch.nn's: `torch_modules.OWN_KINDS` has these.
"""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from typing import Any

import numpy as np
import pytest
import reference
import reference_backward
from checks import assert_close as assert_arrays_close
from checks import assert_same_bits
from torch_modules import LENGTHS, OWN_KINDS, B, H, I, T, leaves, make_input, make_state, module, normal, tensors, torch

import recurra
import recurra.torch
from recurra._cells import CELLS
from recurra.torch import variants

VARIANTS = [kind for kind, (name, _) in OWN_KINDS.items() if name in variants.__all__]
ALL = pytest.mark.parametrize("kind", VARIANTS)


def layer_of(kind: str, **options: Any) -> Any:
    name, more = OWN_KINDS[kind]
    return getattr(recurra, name)(I, H, dtype="float64", **more, **options)


def test_every_layer_and_every_cell_is_among_them() -> None:
    assert {OWN_KINDS[kind][0] for kind in VARIANTS} == set(variants.__all__)
    others = {f"differential_{orders}" for orders in ("1", "2", "01", "02", "12")}
    assert {module(kind)._cell for kind in VARIANTS} | others == {
        cell for cell in CELLS if not cell.startswith(("lstm", "gru", "rnn"))
    }


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("recompute", [False, True])
@ALL
def test_results_and_gradients_are_the_oracles(kind: str, recompute: bool, bias: bool) -> None:
    """Two layers, both directions, lengths, a given state, a loss on everything that comes out."""
    torch.manual_seed(2)
    rnn = module(kind, num_layers=2, bidirectional=True, bias=bias, recompute=recompute)
    x, hx = make_input("").requires_grad_(), make_state(rnn, "")
    parts = leaves(hx)
    for part in parts:
        part.requires_grad_()
    output, final = rnn(x, hx, lengths=LENGTHS)
    results = [output, *leaves(final)]
    above = [normal(*part.shape, seed=7 + k) for k, part in enumerate(results)]
    torch.autograd.backward(results, above)

    params = {name: value.numpy() for name, value in rnn.state_dict().items()}
    arguments = rnn._cell, x.detach().numpy(), params
    given: dict[str, Any] = {"state": [part.detach().numpy() for part in parts], "lengths": LENGTHS}
    y, last = reference.run(*arguments, **given)
    assert_arrays_close([part.detach().numpy() for part in results], [y, *last], 1e-12)
    dy, *dstate = (part.numpy() for part in above)
    expected = reference_backward.gradients(*arguments, dy, dstate, **given)
    assert_arrays_close(x.grad.numpy(), expected.x, 1e-11)
    assert_arrays_close([part.grad.numpy() for part in parts], list(expected.state), 1e-11)
    for name, parameter in rnn.named_parameters():
        assert_arrays_close(parameter.grad.numpy(), expected.params[name], 1e-11)


@ALL
def test_state_dicts_go_to_recurras_layer_and_back(kind: str) -> None:
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
    rnn, layer, x = module(kind, **options), layer_of(kind, seed=5, **options), make_input("")
    assert list(rnn.state_dict()) == list(layer.state_dict())
    rnn.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in layer.state_dict().items()})
    with torch.no_grad():
        assert_same_bits([part.numpy() for part in tensors(rnn(x, lengths=LENGTHS))], layer(x.numpy(), lengths=LENGTHS))
    other = layer_of(kind, seed=6, **options)
    other.load_state_dict(rnn.state_dict())
    assert_same_bits(other(x.numpy()), layer(x.numpy()))


@ALL
def test_initial_values_are_of_the_range_of_torchs(kind: str) -> None:
    torch.manual_seed(0)
    values = torch.cat([parameter.detach().flatten() for parameter in module(kind, num_layers=3).parameters()])
    assert values.abs().max() <= H**-0.5 and values.std() == pytest.approx((3 * H) ** -0.5, rel=0.15)


@ALL
def test_single_steps_continue_and_are_the_layers(kind: str) -> None:
    """Without gradients such a step takes a way of its own."""
    rnn, layer, x = module(kind, num_layers=2), layer_of(kind, num_layers=2), normal(T, 1, I)
    layer.load_state_dict(rnn.state_dict())
    y, final = layer(x.numpy())
    for grad in (False, True):
        hx, found = None, []
        with torch.set_grad_enabled(grad):
            for step in x:
                output, hx = rnn(step[None], hx)
                found.append(output.detach()[0].numpy())
        assert_same_bits([np.stack(found), *(part.detach().numpy() for part in leaves(hx))], [y, *tensors_of(final)])


def tensors_of(state: Any) -> list[Any]:
    return list(state) if isinstance(state, tuple) else [state]


@ALL
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies_compute_the_same_and_are_independent(kind: str, way: str) -> None:
    rnn, x = module(kind, num_layers=2, bidirectional=True, zoneout=0.1).eval(), make_input("")
    expected = rnn(x)[0].detach()
    if way == "deepcopy":
        other = copy.deepcopy(rnn)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(rnn))
    else:
        torch.save(rnn, buffer := io.BytesIO())
        other = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    assert repr(other) == repr(rnn) and type(other) is type(rnn)
    assert torch.equal(other(x)[0], expected)
    with torch.no_grad():
        other.weight_ih_l1.zero_()
    assert torch.equal(rnn(x)[0], expected) and not torch.equal(other(x)[0], expected)


@pytest.mark.parametrize("shift", [-2000.0, 0.0, 100.0])
def test_second_order_of_a_min_lstm_is_finite_however_small_its_gates(shift: float) -> None:
    rnn: Any = recurra.torch.MinLSTM(1, 1, dtype=torch.float64)
    with torch.no_grad():
        rnn.weight_ih_l0.zero_()
        rnn.bias_ih_l0.copy_(torch.tensor([shift, shift, 3.0]))
    y = torch.func.functional_call(rnn, dict(rnn.named_parameters()), torch.zeros(3, 1, dtype=torch.float64))[0]
    (first,) = torch.autograd.grad(y.sum(), rnn.bias_ih_l0, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), rnn.bias_ih_l0)
    assert torch.isfinite(first).all() and torch.isfinite(second).all()
    torch.testing.assert_close(first[2], torch.tensor(0.5 + 0.75 + 0.875, dtype=torch.float64))


def test_they_train() -> None:
    """Each to tell the sign of the sum of a sequence at its end."""
    torch.manual_seed(0)
    x = torch.randn(8, 64, 1)
    wanted = (x.sum((0, 2)) > 0).float()
    for kind in variants.__all__:
        rnn, head = getattr(recurra.torch, kind)(1, 16), torch.nn.Linear(16, 1)
        optimiser = torch.optim.Adam([*rnn.parameters(), *head.parameters()], lr=0.02)
        losses = []
        for _ in range(150):
            optimiser.zero_grad()
            logits = head(rnn(x)[0][-1])[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < 0.5 * losses[0], kind


@ALL
def test_reprs_tell_the_options(kind: str) -> None:
    name, options = OWN_KINDS[kind]
    shown = repr(module(kind, zoneout=0.25))
    assert shown.startswith(f"{name}({I}, {H}") and "zoneout=0.25" in shown
    for option, value in options.items():
        assert f"{option}={value}" in shown


BAD: tuple[tuple[str, dict[str, Any], type[Exception], str], ...] = (
    ("MultiplicativeLSTM", {"form": "other"}, ValueError, "form: expected one of"),
    ("MultiplicativeLSTM", {"bias_at": "output"}, ValueError, "bias_at: expected 'candidate' with form='standard'"),
    ("DifferentialRNN", {"orders": (1, 0)}, ValueError, "orders: expected one of"),
    ("DifferentialRNN", {"zoneout": (0.1, 0.1)}, ValueError, r"zoneout: expected a number or a tuple \(h, d0, d1\)"),
    ("SLSTM", {"heads": 3}, ValueError, "heads: expected a divisor of hidden_size=4, got 3"),
    ("SLSTM", {"heads": 0}, ValueError, "heads: expected"),
    ("SLSTM", {"heads": 2.0}, TypeError, "heads: expected"),
    ("SLSTM", {"forget": "tanh"}, ValueError, "forget: expected one of"),
    ("IndRNN", {"nonlinearity": "sigmoid"}, ValueError, "nonlinearity: expected one of"),
    ("MinGRU", {"candidate": "tanh"}, ValueError, "candidate: expected one of"),
    ("MinLSTM", {"candidate": None}, ValueError, "candidate: expected one of"),
    ("SRU", {"recurrent_dropout": 0.5}, ValueError, "recurrent_dropout: expected 0 for cell 'sru'"),
    ("SRU", {"proj_size": 2}, TypeError, "proj_size"),
    ("SRU", {"dtype": torch.bfloat16}, TypeError, "dtype: expected torch.float32 or torch.float64"),
)


@pytest.mark.parametrize(("name", "options", "error", "message"), BAD)
def test_bad_options_are_refused(name: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        getattr(recurra.torch, name)(I, H, **options)


def test_a_rate_that_a_cell_has_not_is_refused_later_too() -> None:
    rnn = module("sru")
    rnn.recurrent_dropout = 0.5
    with pytest.raises(ValueError, match="recurrent_dropout: expected 0 for cell 'sru'"):
        rnn(make_input(""))


@pytest.mark.parametrize("kind", ["differential_012", "multiplicative", "slstm", "indrnn"])
def test_wrong_states_are_refused(kind: str) -> None:
    rnn, x = module(kind), make_input("")
    hx = leaves(make_state(rnn, ""))
    with pytest.raises((TypeError, ValueError), match="hx"):
        rnn(x, tuple(hx[:-1]))
    hx[-1] = hx[-1][:, :-1]
    with pytest.raises(ValueError, match=rf"hx \w+: expected shape \[1, {B}, {H}\]"):
        rnn(x, tuple(hx) if len(hx) > 1 else hx[0])


@pytest.mark.parametrize("name", variants.__all__)
def test_options_and_defaults_are_the_layers(name: str) -> None:
    """But for those of where and how: `diagonal`, which is always True, seeds, and where a module is."""
    ours, layers = getattr(recurra.torch, name), getattr(recurra, name)
    own = {
        option: parameter.default
        for option, parameter in inspect.signature(ours).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    shared = set(inspect.signature(variants._Variant).parameters)
    expected = {
        option: parameter.default
        for option, parameter in inspect.signature(layers).parameters.items()
        if option not in shared | {"seed", "rng", "diagonal"}
    }
    assert own == expected
