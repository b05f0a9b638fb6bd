"""recurra.torch: derivatives of gradients, forward mode and torch.func, against torch.nn and finite differences."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from torch_modules import (
    F64,
    FORMS,
    KINDS,
    LENGTHS,
    OWN_KINDS,
    B,
    H,
    I,
    T,
    Tensor,
    assert_close,
    leaves,
    make_input,
    make_state,
    module,
    noise_of,
    normal,
    pair,
    rnn_utils,
    tensors,
)

import recurra
from recurra.torch import equations, noise

torch = pytest.importorskip("torch", reason="the parity extra is not installed: no torch")

import recurra.torch  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch tells that it is slow

FUNC = torch.func


def results(layer: Any, form: str, x: Tensor, hx: Any) -> list[Tensor]:
    if form == "packed":
        x = rnn_utils.pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False)
    elif form == "packed_sorted":
        x = rnn_utils.pack_padded_sequence(x, torch.tensor(sorted(LENGTHS, reverse=True)))
    output, final = layer(x, hx)
    return [output.data if isinstance(output, rnn_utils.PackedSequence) else output, *leaves(final)]


def gradient_penalty(layer: Any, form: str, with_state: bool) -> list[Tensor]:
    """The gradients of a loss that has gradients of x, states and parameters in it."""
    x = make_input(form).requires_grad_()
    hx = make_state(layer, form) if with_state else None
    inputs = [x, *(part.requires_grad_() for part in leaves(hx)), *layer.parameters()]
    torch.manual_seed(3)  # for dropout
    y = results(layer, form, x, hx)
    first = torch.autograd.grad(sum(part.square().sum() for part in y), inputs, create_graph=True)
    loss = sum((part.square() * (1 + k)).sum() for k, part in enumerate((*first, *y)))
    return [*first, *torch.autograd.grad(loss, inputs)]


@pytest.mark.parametrize("with_state", [False, True], ids=["zeros", "state"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_penalty_has_torchs_gradients(kind: str, form: str, with_state: bool) -> None:
    for layers, bidirectional, bias in ((1, False, True), (2, True, True), (1, True, False)):
        options = {"num_layers": layers, "bidirectional": bidirectional, "bias": bias}
        options["batch_first"] = form == "batch_first"
        theirs, ours = pair(kind, **options)
        assert_close(gradient_penalty(ours, form, with_state), gradient_penalty(theirs, form, with_state), 1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_dropout_is_the_same_at_second_order(form: str) -> None:
    theirs, ours = pair("gru", num_layers=3, dropout=0.4, batch_first=form == "batch_first")
    assert_close(gradient_penalty(ours, form, True), gradient_penalty(theirs, form, True), 1e-9)


def test_first_gradients_keep_the_cores_bits_where_second_ones_may_follow() -> None:
    layer, x = module("lstm", num_layers=2), make_input("").requires_grad_()
    expected = torch.autograd.grad(layer(x)[0].sum(), [x, *layer.parameters()])
    found = torch.autograd.grad(layer(x)[0].sum(), [x, *layer.parameters()], create_graph=True)
    assert_close([part.detach() for part in found], expected, tolerance=0)


def test_nothing_is_silently_zero() -> None:
    for loss, layer in itertools.product((lambda y: y.sum(), lambda y: y.pow(2).sum()), pair("gru")):
        x = make_input("").requires_grad_()
        (g,) = torch.autograd.grad(loss(layer(x)[0]), x, create_graph=True)
        for part in torch.autograd.grad(g.pow(2).sum(), [x, layer.weight_hh_l0], allow_unused=True):
            assert part is not None and part.abs().max() > 0


@pytest.mark.parametrize("kind", KINDS | OWN_KINDS)
def test_gradgradcheck_of_every_cell(kind: str) -> None:
    torch.manual_seed(1)
    layer = module(kind, num_layers=2, bidirectional=True)
    x, hx = normal(3, 2, I).requires_grad_(), [part[:, :2].requires_grad_() for part in leaves(make_state(layer, ""))]
    names = [name for name, _ in layer.named_parameters()]

    def function(x: Tensor, *rest: Tensor) -> list[Tensor]:
        state, params = rest[: len(hx)], dict(zip(names, rest[len(hx) :], strict=True))
        call = (x, tuple(state) if len(state) > 1 else state[0])
        return tensors(torch.func.functional_call(layer, params, call, {"lengths": [2, 3]}))

    inputs = (x, *hx, *layer.parameters())
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True, check_forward_ad=True, check_batched_grad=True)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", KINDS | OWN_KINDS)
def test_the_equations_are_the_core_with_what_is_left_out(kind: str, training: bool) -> None:
    """Forward mode runs them: its values, with one seed, must be the core's. Lengths, zoneout, dropout and all."""
    layer = module(kind, num_layers=2, bidirectional=True, dropout=0.2, **noise_of(kind)).train(training)
    x, hx = make_input(""), make_state(layer, "")
    found = []
    for forward in (False, True):
        torch.manual_seed(5)
        with torch.autograd.forward_ad.dual_level() if forward else torch.no_grad():
            found.append(tensors(layer(x, hx, lengths=LENGTHS)))
    assert_close([part.detach() for part in found[1]], found[0], 1e-12)


@pytest.mark.parametrize("rate", [1e-9, 0.25, 0.9, 1.0])
@pytest.mark.parametrize("kind", ["zoneout_h", "zoneout_c", "recurrent_dropout"])
def test_draws_are_those_of_the_core_to_the_bit(kind: str, rate: float) -> None:
    """Zoneout shows in what is still the old state; dropout of h, in a network that does nothing but hand it on."""
    rows, steps, size, seed = 3, 4, 37, 2**63 + 12345
    rates: dict[str, Any] = {"recurrent_dropout": {"recurrent_dropout": rate}, "zoneout_h": {"zoneout": (rate, 0.0)}}
    options = rates.get(kind, {"zoneout": (0.0, rate)})
    layer: Any
    if kind == "recurrent_dropout":
        layer = recurra.RNN(1, size, 1, "relu", bidirectional=True, dtype="float64", **options)
        params = {name: np.zeros_like(value) for name, value in layer.state_dict().items()}
        for name in params:
            if name.startswith("weight_hh"):
                params[name][...] = np.eye(size)
        layer.load_state_dict(params)
        _, final, _ = layer.forward(np.zeros((1, rows, 1)), np.ones((2, rows, size)), rng=seed)
        found = [final[lane] == 0 for lane in range(2)]
        expected = [
            noise.hits(kind, rate, seed, lane, np.arange(rows), np.zeros((1, 1), int), size)[0] for lane in range(2)
        ]
    else:
        layer = recurra.LSTM(1, size, bidirectional=True, dtype="float64", seed=0, **options)
        state, found = (np.full((2, rows, size), 7.0), np.full((2, rows, size), 7.0)), []
        expected = [
            noise.hits(kind, rate, seed, lane, np.arange(rows), np.arange(steps)[:, None], size) for lane in range(2)
        ]
        _, (h, c), _ = layer.forward(np.zeros((steps, rows, 1)), state, rng=seed)
        final = h if kind == "zoneout_h" else c
        found = [final[lane] == 7.0 for lane in range(2)]  # kept in all steps
        expected = [hits.all(0) for hits in expected]
    np.testing.assert_array_equal(found, expected)


def flat(layer: Any) -> tuple[list[str], tuple[Tensor, ...]]:
    names, params = zip(*((name, p.detach()) for name, p in layer.named_parameters()), strict=True)
    return list(names), params


@pytest.mark.parametrize("kind", KINDS)
def test_hessian_and_products_with_it(kind: str) -> None:
    values = []
    for layer in pair(kind, num_layers=2):
        names, params = flat(layer)
        fast = isinstance(layer, recurra.torch.modules._Layers)  # torch.nn's cannot

        def loss(x: Tensor, *params: Tensor, layer: Any = layer, names: list[str] = names) -> Tensor:
            y, final = FUNC.functional_call(layer, dict(zip(names, params, strict=False)), (x,))
            return y.pow(2).sum() + sum(part.sin().sum() for part in leaves(final))

        x, functional = normal(2, 2, I), torch.autograd.functional
        vectors = (normal(2, 2, I, seed=9), *(normal(*p.shape, seed=k) for k, p in enumerate(params)))
        values.append(
            [
                functional.hvp(loss, (x, *params), vectors)[1],
                functional.vhp(loss, (x, *params), vectors)[1],
                functional.hessian(loss, x),
                functional.hessian(loss, x, vectorize=fast),
                functional.jvp(loss, (x, *params), vectors)[1],
                functional.jacobian(lambda x, layer=layer: layer(x)[0], x, vectorize=fast),
                functional.jacobian(
                    lambda x, layer=layer: layer(x)[0],
                    x,
                    vectorize=fast,
                    strategy="forward-mode" if fast else "reverse-mode",
                ),
                functional.jacobian(lambda x, layer=layer: layer(x)[0], x, create_graph=True, vectorize=fast).detach(),
            ]
        )
    assert_close(values[1], values[0], 1e-9)
    assert all(part.abs().max() > 1e-6 for part in tensors(tuple(values[1])))


@pytest.mark.parametrize("kind", KINDS)
def test_torch_func(kind: str) -> None:
    values = []
    for layer in pair(kind, num_layers=2, bidirectional=True):
        names, params = flat(layer)

        def loss(params: tuple[Tensor, ...], x: Tensor, layer: Any = layer, names: list[str] = names) -> Tensor:
            y, final = FUNC.functional_call(layer, dict(zip(names, params, strict=True)), (x,))
            return y.pow(2).sum() + leaves(final)[0].sum()

        def output(x: Tensor, layer: Any = layer) -> Tensor:
            return layer(x)[0]

        x = normal(T, B, I)
        values.append(
            [
                FUNC.grad(loss)(params, x),
                FUNC.vjp(output, x)[1](torch.ones_like(output(x)))[0],
                FUNC.jvp(output, (x,), (normal(T, B, I, seed=2),))[1],
                FUNC.jacrev(output)(x[:2, :1]),
                FUNC.jacfwd(output)(x[:2, :1]),
                FUNC.hessian(lambda x, loss=loss, params=params: loss(params, x))(x[:2, :1]),
                FUNC.grad(lambda p, loss=loss, x=x: sum(g.pow(2).sum() for g in FUNC.grad(loss)(p, x)))(params),
            ]
        )
    assert_close(values[1], values[0], 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_vmap(kind: str) -> None:
    """Which torch.nn's layers do not have; against them one by one."""
    theirs, ours = pair(kind, num_layers=2, bidirectional=True)
    names, params = flat(ours)

    def output(x: Tensor, layer: Any = ours) -> Tensor:
        return layer(x)[0]

    def loss(params: tuple[Tensor, ...], x: Tensor, layer: Any = ours) -> Tensor:
        y, final = FUNC.functional_call(layer, dict(zip(names, params, strict=True)), (x,))
        return y.pow(2).sum() + leaves(final)[0].sum()

    def gradients(params: tuple[Tensor, ...], x: Tensor) -> Any:
        return FUNC.grad(loss)(params, x, layer=theirs)

    def stacked(results: list[tuple[Tensor, ...]]) -> list[Tensor]:
        return [torch.stack(part) for part in zip(*results, strict=True)]

    x, batch = normal(T, B, I), normal(3, T, B, I)
    with torch.no_grad():
        assert_close([FUNC.vmap(output)(batch)], [torch.stack([output(one, theirs) for one in batch])], 1e-9)
        rows = FUNC.vmap(output, in_dims=1, out_dims=1)(x)  # each sequence without a batch axis
        assert_close([rows], [output(x, theirs)], 1e-9)
    samples = FUNC.vmap(FUNC.grad(loss), (None, 1))(params, x)  # per-sample gradients
    assert_close(samples, stacked([gradients(params, x[:, row]) for row in range(B)]), 1e-9)
    many = tuple(torch.stack([p, 2 * p]) for p in params)  # an ensemble
    alone = [tuple(p[k] for p in many) for k in range(2)]
    assert_close([FUNC.vmap(loss, (0, None))(many, x)], [torch.stack([loss(p, x, theirs) for p in alone])], 1e-9)
    assert_close(FUNC.vmap(FUNC.grad(loss), (0, None))(many, x), stacked([gradients(p, x) for p in alone]), 1e-9)


@pytest.mark.parametrize("option", ["recurrent_dropout", "zoneout"])
def test_vmap_draws_one_mask_or_says_that_it_draws_no_others(option: str) -> None:
    rates: dict[str, Any] = {option: 0.5}
    layer = recurra.torch.GRU(I, H, **rates)
    x = torch.ones(3, T, B, I)
    y = FUNC.vmap(lambda x: layer(x)[0], randomness="same")(x)
    assert_close([y[1], y[2]], [y[0], y[0]], 1e-6)
    assert not torch.allclose(y[0, :, 0], y[0, :, 1], atol=1e-3)  # each row has its own
    with pytest.raises(RuntimeError, match="recurrent_dropout and zoneout need randomness='same', got 'different'"):
        FUNC.vmap(lambda x: layer(x)[0], randomness="different")(x)


def test_a_step_of_second_order_maml_is_torchs() -> None:
    """Inner step by gradients that keep their graph; the outer gradient goes through them (Finn et al. 2017)."""
    gradients = []
    for layer in pair("lstm"):
        names = [name for name, _ in layer.named_parameters()]
        support, query = normal(T, B, I), normal(T, B, I, seed=1)
        inner = layer(support)[0].pow(2).sum()
        steps = torch.autograd.grad(inner, list(layer.parameters()), create_graph=True)
        adapted = {n: p - 0.1 * g for n, p, g in zip(names, layer.parameters(), steps, strict=True)}
        torch.func.functional_call(layer, adapted, (query,))[0].pow(2).sum().backward()
        gradients.append([p.grad for p in layer.parameters()])
    assert_close(gradients[1], gradients[0], 1e-9)


def test_a_loss_with_a_gradient_penalty_trains() -> None:
    losses = []
    for layer in pair("gru"):
        optimiser, losses_of = torch.optim.SGD(layer.parameters(), lr=0.05), []
        for _ in range(8):
            x = make_input("").requires_grad_()
            y = layer(x)[0]
            (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            loss = (y - 0.5).pow(2).mean() + (g.norm(dim=-1) - 0.3).pow(2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses_of.append(loss.item())
        losses.append(losses_of)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-9)
    assert losses[1][-1] < losses[1][0]


def test_third_derivatives() -> None:
    values = []
    for layer in pair("gru"):
        x = make_input("").requires_grad_()
        value = layer(x)[0].sum()
        for _ in range(3):
            (g,) = torch.autograd.grad(value, x, create_graph=True)
            value = g.pow(2).sum()
        values.append(g.detach())
    assert_close([values[1]], [values[0]], 1e-8)


def test_hooks_of_the_callers_tensors_see_one_gradient_each() -> None:
    layer, seen = module("gru"), []
    x = make_input("").requires_grad_()
    x.register_hook(lambda g: seen.append("x"))
    layer.weight_hh_l0.register_hook(lambda g: seen.append("w"))
    first = torch.autograd.grad(layer(x)[0].sum(), [x, layer.weight_hh_l0], create_graph=True)
    assert sorted(seen) == ["w", "x"]
    sum(g.pow(2).sum() for g in first).backward()
    assert sorted(seen) == ["w", "w", "x", "x"]


def test_second_derivatives_of_overwritten_inputs_are_refused() -> None:
    layer, x = module("gru"), make_input("").requires_grad_()
    y = layer(x)[0].sum()
    with torch.no_grad():
        layer.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y, x, create_graph=True)


def test_empty_sequences_have_no_derivatives() -> None:
    layer = module("lstm")
    h = normal(1, B, H).requires_grad_()
    _, (final, _) = layer(torch.zeros(0, B, I, dtype=F64), (h, normal(1, B, H)))
    (g,) = torch.autograd.grad(final.pow(2).sum(), h, create_graph=True)
    assert_close(torch.autograd.grad(g.sum(), h), [torch.full_like(h, 2)])
    call = equations.Call("lstm", {"cell_clip": np.inf}, layer._rates, 1, 1, True, None, False, None)
    assert equations.run(call, torch.zeros(0, B, I, dtype=F64), [], list(layer.parameters()))[0].shape == (0, B, H)


@pytest.mark.parametrize("kind", [*KINDS, *OWN_KINDS])
def test_autocast_does_not_reach_derivatives(kind: str) -> None:
    """They run in float32 as the layer does, not in bfloat16; only what torch.func goes back through is torch's own."""
    layer, x = module(kind, dtype=torch.float32), make_input("").float().requires_grad_()

    def found() -> list[Tensor]:
        (g,) = torch.autograd.grad(layer(x)[0].pow(2).sum(), x, create_graph=True)
        second = torch.autograd.grad(g.pow(2).sum(), x)
        value, tangent = FUNC.jvp(lambda x: layer(x)[0], (x.detach(),), (x.detach(),))
        _, back = FUNC.vjp(lambda x: layer(x)[0], x.detach())
        return [*second, value, tangent, FUNC.vmap(lambda row: layer(row)[0], 1)(x.detach()), back]

    expected = found()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halved = found()
    for a, b in zip(
        [*halved[:-1], *halved[-1](halved[1].detach())],
        [*expected[:-1], *expected[-1](halved[1].detach())],
        strict=True,
    ):
        assert a.dtype == b.dtype and torch.equal(a, b)


def test_forward_mode_and_vmap_go_through_dropout_between_layers_with_lengths() -> None:
    layer, x, v = module("gru", num_layers=3, dropout=0.4), normal(3, 2, I), normal(3, 2, I, seed=1)

    def output(x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return layer(x, lengths=[3, 2])[0]

    value, tangent = FUNC.jvp(output, (x,), (v,))
    step = 1e-5
    assert_close([value, tangent], [output(x), (output(x + step * v) - output(x - step * v)) / (2 * step)])
    rows = FUNC.vmap(lambda x: layer(x, lengths=[3, 2])[0], randomness="different")(torch.stack([x, x]))
    assert not torch.equal(rows[0], rows[1])
