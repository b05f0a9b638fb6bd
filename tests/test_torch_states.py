"""recurra.torch: options about states and directions, beside `recurra`'s layers and with derivatives of any order."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
from checks import assert_same_bits
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
    run,
    tensors,
)

import recurra
from recurra._cells import CELLS

torch = pytest.importorskip("torch", reason="the parity extra is not installed: no torch")

import recurra.torch  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch tells that it is slow

ALL_KINDS = pytest.mark.parametrize("kind", KINDS | OWN_KINDS)


def layer_of(kind: str, **options: Any) -> Any:
    name, more = (KINDS | OWN_KINDS)[kind]
    return getattr(recurra, name)(I, H, dtype="float64", **more, **options)


def check_all_orders(layer: Any) -> None:
    """First and second derivatives, in both modes, of x, states and parameters."""
    x, hx = normal(3, 2, I).requires_grad_(), [part[:, :2].requires_grad_() for part in leaves(make_state(layer, ""))]
    names = [name for name, _ in layer.named_parameters()]

    def function(x: Tensor, *rest: Tensor) -> list[Tensor]:
        state, params = rest[: len(hx)], dict(zip(names, rest[len(hx) :], strict=True))
        call = (x, tuple(state) if len(state) > 1 else state[0])
        return tensors(torch.func.functional_call(layer, params, call, {"lengths": [2, 3]}))

    inputs = (x, *hx, *layer.parameters())
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True, check_forward_ad=True, check_batched_grad=True)


# ---- direction="reverse"


@pytest.mark.parametrize("form", FORMS)
@ALL_KINDS
def test_reverse_is_the_other_half_of_a_bidirectional_module(kind: str, form: str) -> None:
    options = {"batch_first": form == "batch_first"}
    both, back = module(kind, bidirectional=True, **options), module(kind, direction="reverse", **options)
    half = {n.removesuffix("_reverse"): v for n, v in both.state_dict().items() if n.endswith("_reverse")}
    back.load_state_dict(half)
    results = []
    for layer in (both, back):
        x = make_input(form).requires_grad_()
        given: Any = x
        if form.startswith("packed"):
            lengths, sort = (sorted(LENGTHS, reverse=True), True) if form == "packed_sorted" else (LENGTHS, False)
            given = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=sort)
        output, final = layer(given)
        y = output.data if form.startswith("packed") else output
        width = layer.proj_size or H
        y[..., -width:].pow(2).sum().backward()
        results.append([y.detach()[..., -width:], *(part.detach()[-1:] for part in leaves(final)), x.grad])
    assert_close(results[1], results[0], tolerance=0)


@ALL_KINDS
def test_reverse_has_derivatives_of_any_order(kind: str) -> None:
    torch.manual_seed(1)
    check_all_orders(module(kind, num_layers=2, direction="reverse"))


@pytest.mark.parametrize("training", (False, True))
@ALL_KINDS
def test_the_equations_of_reverse_are_the_core(kind: str, training: bool) -> None:
    layer = module(kind, num_layers=2, direction="reverse", dropout=0.2, **noise_of(kind)).train(training)
    x, hx = make_input(""), make_state(layer, "")
    results = []
    for forward_mode in (False, True):
        torch.manual_seed(5)
        if forward_mode:
            with torch.autograd.forward_ad.dual_level():
                dual = torch.autograd.forward_ad.make_dual(x, torch.zeros_like(x))
                found = tensors(layer(dual, hx, lengths=LENGTHS))
                found = [torch.autograd.forward_ad.unpack_dual(part).primal.detach() for part in found]
        else:
            found = [part.detach() for part in tensors(layer(x, hx, lengths=LENGTHS))]
        results.append(found)
    assert_close(results[1], results[0], 1e-12)


def test_reverse_modules_are_named_copied_and_saved() -> None:
    layer, x = module("lstm", direction="reverse"), make_input("")
    assert repr(layer) == "LSTM(3, 4, direction=reverse)"
    assert (layer.direction, module("lstm").direction) == ("reverse", "forward")
    assert module("lstm", bidirectional=True).direction == module("gru", direction="bidirectional").direction
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for other in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
        assert_close(tensors(other(x)), tensors(layer(x)), tolerance=0)
    numpy_layer = layer_of("lstm", direction="reverse")
    numpy_layer.load_state_dict(layer.state_dict())
    with torch.no_grad():
        assert_same_bits([part.numpy() for part in tensors(layer(x))], numpy_layer(x.numpy()))
    with pytest.raises(ValueError, match="direction"):
        module("gru", bidirectional=True, direction="reverse")
    with pytest.raises(ValueError, match="direction='reverse'"):
        recurra.torch.revert(layer)


# ---- return_cells


WITH_CELLS = [kind for kind in KINDS | OWN_KINDS if len(CELLS[module(kind)._cell].states) > 1]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", WITH_CELLS)
def test_cells_are_the_layers_and_have_gradients(kind: str, form: str) -> None:
    options = {"num_layers": 2, "bidirectional": True, "batch_first": form == "batch_first"}
    rnn, layer = module(kind, **options), layer_of(kind, **options)
    layer.load_state_dict(rnn.state_dict())
    x = make_input(form).requires_grad_()
    given, lengths = packed(form, x)
    output, final, cells = rnn(given, return_cells=True)
    without = rnn(given)
    assert_close(tensors((output, final)), tensors(without), tolerance=0)
    if lengths is not None:
        cells, _ = torch.nn.utils.rnn.pad_packed_sequence(cells)
    _, _, tape, want = layer.forward(x.detach().numpy(), lengths=lengths, return_cells=True)
    assert_same_bits(cells.detach().numpy(), want)
    above = normal(*want.shape, seed=9)
    if lengths is not None:
        above = above * (torch.arange(want.shape[0])[:, None] < torch.tensor(lengths)).unsqueeze(-1)
    (cells * above).sum().backward()
    gradients = tape.backward(dcells=above.numpy())
    assert_same_bits(x.grad.numpy(), gradients.x)
    for name, parameter in rnn.named_parameters():
        assert_same_bits(parameter.grad.numpy(), gradients.params[name])


def packed(form: str, x: Tensor) -> tuple[Any, list[int] | None]:
    if not form.startswith("packed"):
        return x, None
    lengths = sorted(LENGTHS, reverse=True) if form == "packed_sorted" else LENGTHS
    return torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False), lengths


@pytest.mark.parametrize("kind", WITH_CELLS)
def test_cells_have_derivatives_of_any_order(kind: str) -> None:
    torch.manual_seed(1)
    layer, x = module(kind, num_layers=2, bidirectional=True), normal(3, 2, I).requires_grad_()

    def function(x: Tensor, *params: Tensor) -> Tensor:
        named = dict(zip(dict(layer.named_parameters()), params, strict=True))
        return torch.func.functional_call(layer, named, (x,), {"lengths": [2, 3], "return_cells": True})[2]

    inputs = (x, *layer.parameters())
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True, check_forward_ad=True, check_batched_grad=True)


def test_cells_with_dropout_between_layers_and_refusals() -> None:
    rnn = module("lstm", num_layers=3, dropout=0.5)
    x = make_input("")
    torch.manual_seed(0)
    output, (_, c), cells = rnn(x, return_cells=True)
    assert_close([cells[-1]], [c[-1]], tolerance=0)
    torch.manual_seed(0)
    assert_close([rnn(x)[0]], [output], tolerance=0)
    with pytest.raises(ValueError, match="return_cells: expected False for cell 'gru', whose only state is h"):
        module("gru")(x, return_cells=True)
    with pytest.raises(TypeError, match="return_cells: expected True or False"):
        rnn(x, return_cells=1)


# ---- grad_clip


@ALL_KINDS
def test_clipped_gradients_are_the_layers_and_the_equations(kind: str) -> None:
    """Gradients of a batch of losses go through the equations."""
    options = {"num_layers": 2, "bidirectional": True}
    rnn, layer = (
        module(kind, grad_clip=0.05, **noise_of(kind), **options).eval(),
        layer_of(kind, zoneout=0.4, **options),
    )
    layer.load_state_dict(rnn.state_dict())
    x = make_input("").requires_grad_()
    output, _ = rnn(x, lengths=LENGTHS)
    dy = normal(*output.shape, seed=4)
    inputs = [x, *rnn.parameters()]
    found = torch.autograd.grad(output, inputs, dy, retain_graph=True)
    _, _, tape = layer.forward(x.detach().numpy(), lengths=LENGTHS)
    want = tape.backward(dy.numpy(), grad_clip=0.05)
    assert_same_bits([part.numpy() for part in found], [want.x, *want.params.values()])
    batched = torch.autograd.grad(output, inputs, torch.stack([dy, 2 * dy]), is_grads_batched=True, retain_graph=True)
    assert_close([part[0] for part in batched], found, 1e-12)
    plain = module(kind, **options)
    plain.load_state_dict(rnn.state_dict())
    (unclipped,) = torch.autograd.grad(plain(x, lengths=LENGTHS)[0], x, dy)
    assert (unclipped - found[0]).abs().max() > 1e-3


def clipped_problem(kind: str, **options: Any) -> tuple[Any, Any, Any]:
    """A function of a module's input, states and parameters, these, and weights of its results that reach the clip."""
    rnn = module(kind, grad_clip=0.05, num_layers=2, bidirectional=True, **options)
    names, hx = [name for name, _ in rnn.named_parameters()], leaves(make_state(rnn, ""))
    flags = torch.from_numpy(np.random.default_rng(0).random((2, T, B)) < 0.7)

    def function(x: Tensor, *rest: Tensor) -> list[Tensor]:
        state, params = rest[: len(hx)], dict(zip(names, rest[len(hx) :], strict=True))
        call = (x, tuple(state) if len(state) > 1 else state[0], LENGTHS)
        marks = {"resets": ~flags[0], "mask": flags[1], "return_cells": len(hx) > 1}
        return tensors(torch.func.functional_call(rnn, params, call, marks))

    inputs = [make_input(""), *hx, *(part.detach() for part in rnn.parameters())]
    return function, inputs, [normal(*part.shape, seed=k) for k, part in enumerate(function(*inputs))]


@ALL_KINDS
def test_second_derivatives_are_those_of_clipped_gradients(kind: str) -> None:
    """Central differences of the core's first gradients: where some are clipped and some are not."""
    function, given, weights = clipped_problem(kind)
    directions = [normal(*part.shape, seed=20 + k) for k, part in enumerate(given)]
    others = [normal(*part.shape, seed=50 + k) for k, part in enumerate(given)]

    def first(sign: float, eps: float = 1e-6) -> Tensor:
        inputs = [(p + sign * eps * d).requires_grad_() for p, d in zip(given, directions, strict=True)]
        found = torch.autograd.grad(function(*inputs), inputs, weights, create_graph=not sign)
        sums = sum((part * other).sum() for part, other in zip(found, others, strict=True))
        if sign:
            return sums
        second = torch.autograd.grad(sums, inputs, create_graph=True)
        return sum((part * other).sum() for part, other in zip(second, directions, strict=True))

    found, want = first(0), (first(1) - first(-1)) / 2e-6
    torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-6)
    assert found.requires_grad


def test_gradients_of_the_upstream_gradient_stop_where_it_is_clipped() -> None:
    """h2 = w h1 and h1 = w h0: what reaches h0 is clip(w clip(w d)), which a large d no longer moves."""
    rnn: Any = recurra.torch.RNN(1, 1, nonlinearity="linear", bias=False, dtype=F64, grad_clip=1.0)
    with torch.no_grad():
        rnn.weight_hh_l0.fill_(0.5)
    h0, x = torch.ones(1, 1, dtype=F64, requires_grad=True), torch.zeros(2, 1, dtype=F64)
    for scale, slope in ((1.0, 0.25), (8.0, 0.0)):
        d = torch.full((2, 1), 0.0, dtype=F64)
        d[-1] = scale
        d.requires_grad_()
        (found,) = torch.autograd.grad(rnn(x, h0)[0], h0, d, create_graph=True)
        assert found.item() == 0.5 * min(1.0, 0.5 * scale)
        (second,) = torch.autograd.grad(found.sum(), d)
        assert second[-1].item() == slope


def test_forward_mode_does_not_see_a_clip() -> None:
    rnn, plain = module("lstm", grad_clip=0.02), module("lstm")
    plain.load_state_dict(rnn.state_dict())
    x, dy, direction = make_input("").requires_grad_(), normal(T, B, H, seed=4), normal(T, B, I, seed=6)
    with torch.autograd.forward_ad.dual_level():
        y, _ = rnn(x)
        with pytest.raises(RuntimeError, match="gradients of gradients are not available with grad_clip in forward"):
            torch.autograd.grad(y, x, dy, create_graph=True)
    with pytest.raises(RuntimeError, match=r"grad_clip is not available in torch\.func"):
        torch.func.grad(lambda x: (rnn(x)[0] * dy).sum())(x.detach())
    tangents = []
    for layer in (rnn, plain):
        with torch.autograd.forward_ad.dual_level():
            y, _ = layer(torch.autograd.forward_ad.make_dual(x.detach(), direction))
            tangents.append(torch.autograd.forward_ad.unpack_dual(y).tangent.detach())
    assert_close([tangents[0]], [tangents[1]], 1e-12)
    with pytest.raises(ValueError, match="grad_clip: expected a positive number"):
        module("gru", grad_clip=0)


# ---- proj_bias


def test_a_projections_bias_trains_as_the_layers() -> None:
    options = {"num_layers": 2, "bidirectional": True, "proj_bias": True}
    rnn, layer = module("lstm_projected", **options), layer_of("lstm_projected", **options)
    assert list(rnn.state_dict()) == list(layer.state_dict())
    layer.load_state_dict(rnn.state_dict())
    x = make_input("").requires_grad_()
    (output, _), _ = run(rnn, "", x, None)
    y, _, _ = layer.forward(x.detach().numpy())
    assert_same_bits(output.detach().numpy(), y)
    check_all_orders(rnn)
    with torch.no_grad():
        one = rnn(x[:1, :1])
    assert_close(tensors(one), tensors(rnn(x[:1, :1])), tolerance=0)
    with pytest.raises(ValueError, match="proj_bias=True"):
        recurra.torch.revert(rnn)
    with pytest.raises(ValueError, match="proj_bias: expected False without proj_size"):
        module("lstm", proj_bias=True)
    filled: Any = recurra.torch.LSTM(3, 4, proj_size=2, proj_bias=True, forget_bias=1.0)
    assert filled.bias_hr_l0.abs().max() < 0.9 and filled.bias_hr_l0.any()


# ---- initial_state


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS | OWN_KINDS if not kind.startswith("slstm")])
def test_a_learned_state_is_a_given_one_whose_gradients_are_summed(kind: str, form: str) -> None:
    options = {"num_layers": 2, "bidirectional": True, "batch_first": form == "batch_first"}
    learned, plain = module(kind, initial_state=True, **options), module(kind, **options)
    names = CELLS[learned._cell].initial_names
    assert list(learned.state_dict()) == [*plain.state_dict(), *names]
    assert not any(getattr(learned, name).any() for name in names)
    with torch.no_grad():
        for k, name in enumerate(names):
            getattr(learned, name).copy_(normal(*getattr(learned, name).shape, seed=k))
    plain.load_state_dict({name: value for name, value in learned.state_dict().items() if name not in names})
    starts = [getattr(learned, name).detach() for name in names]
    if form != "unbatched":
        starts = [part.unsqueeze(1).repeat(1, B, 1) for part in starts]
    starts = [part.requires_grad_() for part in starts]
    x, z = make_input(form).requires_grad_(), make_input(form).requires_grad_()
    result, gradients = run(learned, form, x, None)
    expected, expected_gradients = run(plain, form, z, tuple(starts) if len(starts) > 1 else starts[0])
    assert_close(tensors(result), tensors(expected), tolerance=0)
    count = len(names)
    own = [part.grad for part in starts]
    sums = own if form == "unbatched" else [part.sum(1) for part in own]
    of_weights = expected_gradients[: -count - 1]
    assert_close(gradients, [*of_weights, *sums, z.grad], 1e-12)


def test_learned_states_in_single_steps_copies_and_refusals() -> None:
    rnn = module("lstm", initial_state=True)
    with torch.no_grad():
        rnn.h_0.fill_(0.5)
        rnn.c_0.fill_(-0.5)
        x = make_input("")[:1, :1]
        given = (torch.full((1, 1, H), 0.5, dtype=F64), torch.full((1, 1, H), -0.5, dtype=F64))
        for other in (rnn, copy.deepcopy(rnn)):
            assert_close(tensors(other(x)), tensors(rnn(x, given)), tolerance=0)
    assert repr(rnn) == "LSTM(3, 4, initial_state=True)"
    assert torch.autograd.gradgradcheck(
        lambda *p: torch.func.functional_call(
            rnn, dict(zip(dict(rnn.named_parameters()), p, strict=True)), (make_input(""),)
        )[0],
        tuple(rnn.parameters()),
        fast_mode=True,
    )
    with pytest.raises(ValueError, match="initial_state=True"):
        recurra.torch.revert(rnn)


# ---- compiled


def test_graphs_of_torch_compile_have_them() -> None:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True):
        for kind, options in (
            ("gru", {"direction": "reverse"}),
            ("lstm", {"initial_state": True, "grad_clip": 0.05}),
            ("lstm_projected", {"proj_bias": True}),
        ):
            layer = module(kind, num_layers=2, **options)
            results = []
            for call in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
                layer.zero_grad()
                x = make_input("").requires_grad_()
                output, final = call(x)
                (output.square().sum() + sum(part.sum() for part in leaves(final))).backward()
                results.append([output.detach(), x.grad, *(p.grad.clone() for p in layer.parameters())])
            assert_close(results[1], results[0], tolerance=0)
