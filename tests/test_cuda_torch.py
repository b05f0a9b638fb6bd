"""recurra.torch on a GPU, or over its stand-in: against torch.nn, and against itself on the CPU.

torch here is the CPU's: see `torch_gpu`. What needs torch's own CUDA is in test_torch_gpu.py.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from checks import assert_same_bits
from cuda_arrays import counted, require_gpu
from torch_gpu import DEEP, Gpu, gpu, numpy, on_cpu, require_stand_in
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
    assert_same_training,
    leaves,
    make_input,
    make_state,
    module,
    noise_of,
    normal,
    pair,
    rnn_utils,
    run,
    tensors,
    torch,
)

import recurra
import recurra.torch

require_gpu()
require_stand_in()

__all__ = ["gpu"]  # a fixture

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")

FUNC = torch.func


# ---- beside torch.nn


@pytest.mark.parametrize("engine", ["exact", "cublas"])
@pytest.mark.parametrize(("form", "with_state"), [(form, state) for state in (False, True) for form in FORMS])
@pytest.mark.parametrize("kind", KINDS)
def test_layers_train_as_torch_nn(gpu: Gpu, kind: str, form: str, with_state: bool, engine: str) -> None:
    theirs, ours = pair(kind, **DEEP, batch_first=form == "batch_first")
    ours.engine = engine
    assert_same_training(theirs, ours, form, with_state)


def test_the_core_on_the_gpu_is_what_ran(gpu: Gpu) -> None:
    launches = counted("launches")
    run(module("gru"), "", make_input("").requires_grad_(), None)
    assert counted("launches") > launches
    before = counted("launches")
    with on_cpu():
        run(module("gru"), "", make_input("").requires_grad_(), None)
    assert counted("launches") == before


@pytest.mark.parametrize("kind", KINDS)
def test_float32_agrees_to_rounding(gpu: Gpu, kind: str) -> None:
    theirs, ours = pair(kind, **DEEP)
    x = make_input("")
    want = run(theirs, "", x.clone().requires_grad_(), None)
    for engine, tf32 in (("exact", False), ("cublas", False), ("cublas", True)):
        layer = ours.float()
        layer.engine, layer.allow_tf32 = engine, tf32
        found = run(layer, "", x.float().requires_grad_(), None)
        tolerance = 2e-2 if tf32 else 2e-5  # TF32 has 10 bits
        for got, wanted in zip(tensors((found[0], tuple(found[1]))), tensors((want[0], tuple(want[1]))), strict=True):
            assert got.dtype == torch.float32
            torch.testing.assert_close(got.double(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", ["time_major", "packed"])
@pytest.mark.parametrize("kind", KINDS)
def test_16_bits_agree_to_their_rounding(gpu: Gpu, kind: str, form: str, dtype: Any) -> None:
    """Parameters, inputs and all results are of the dtype; a float64 layer with the same weights is the oracle."""
    theirs, ours = pair(kind, **DEEP)
    ours.to(dtype)
    theirs.load_state_dict({name: value.double() for name, value in ours.state_dict().items()})
    x = make_input("").to(dtype)
    want = run(theirs, form, x.double().requires_grad_(), None)
    found = run(ours, form, x.clone().requires_grad_(), None)
    tolerance = 12 * torch.finfo(dtype).eps / 2
    got = tensors((found[0][0].data if form == "packed" else found[0][0], found[0][1], tuple(found[1])))
    wanted = tensors((want[0][0].data if form == "packed" else want[0][0], want[0][1], tuple(want[1])))
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance * max(1, b.abs().max().item()))


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh"])
@pytest.mark.parametrize("shape", [(B, I), (I,)])
def test_single_steps(gpu: Gpu, kind: str, shape: tuple[int, ...]) -> None:
    name = {"lstm": "LSTMCell", "gru": "GRUCell", "rnn_tanh": "RNNCell"}[kind]
    theirs = getattr(torch.nn, name)(I, H, dtype=F64)
    ours = getattr(recurra.torch, name)(I, H, dtype=F64, engine="exact")
    ours.load_state_dict(theirs.state_dict())
    results = []
    for cell in (theirs, ours):
        x, h = normal(*shape).requires_grad_(), normal(*shape[:-1], H, seed=1).requires_grad_()
        state = (h, normal(*shape[:-1], H, seed=2).requires_grad_()) if kind == "lstm" else h
        final = leaves(cell(x, state))
        sum(part.square().sum() for part in final).backward()
        results.append([*final, *(tensor.grad for tensor in (x, *leaves(state), *cell.parameters()))])
    assert_close(results[1], results[0])
    with torch.no_grad():
        assert_close(leaves(ours(normal(*shape))), leaves(theirs(normal(*shape))))


def test_dropout_between_layers(gpu: Gpu) -> None:
    """Masks are those of torch's generator of the device, which here is the CPU's."""
    theirs, ours = pair("lstm", **DEEP, dropout=0.5)
    assert_same_training(theirs, ours, "time_major", True)
    assert_same_training(theirs, ours, "packed", True)


# ---- beside the CPU


@pytest.mark.parametrize("form", ["batch_first", "packed", "unbatched"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS | OWN_KINDS)
def test_the_exact_engine_has_the_bits_of_the_cpu(gpu: Gpu, kind: str, dtype: Any, form: str) -> None:
    zoneout = (0.2, 0.3) if kind in ("lstm", "peephole") else 0.2
    options = {**noise_of(kind), "zoneout": zoneout, "batch_first": form == "batch_first", "dtype": dtype}
    layer = module(kind, **DEEP, **options, engine="exact")
    for training in (True, False):
        layer.train(training)
        x, hx = make_input(form).to(dtype), make_state(layer, form)
        hx = tuple(part.to(dtype) for part in hx) if isinstance(hx, tuple) else hx.to(dtype)

        def both(layer: Any = layer, x: Tensor = x, hx: Any = hx) -> list[Any]:
            torch.manual_seed(5)
            loss_dtype, torch_normal = x.dtype, torch.get_default_dtype()
            torch.set_default_dtype(loss_dtype)
            try:
                (output, final), gradients = run(layer, form, x.clone().requires_grad_(), hx)
            finally:
                torch.set_default_dtype(torch_normal)
            return numpy((output.data if form == "packed" else output, final, tuple(gradients)))

        found = both()
        with on_cpu():
            want = both()
        assert_same_bits(found, want)


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_lengths_of_the_host_and_of_the_gpu(gpu: Gpu, kind: str, on_device: bool) -> None:
    layer = module(kind, **DEEP, engine="exact")
    lengths: Any = [3, 0, 5, 2]

    def results(lengths: Any) -> list[Any]:
        x = make_input("").requires_grad_()
        output, final = layer(x, lengths=lengths)
        loss = output.square().sum() + sum(part.sum() for part in leaves(final))
        return [output, *leaves(final), *torch.autograd.grad(loss, [x, *layer.parameters()])]

    found = results(torch.tensor(lengths) if on_device else lengths)
    with on_cpu():
        want = results(lengths)
    assert_close(found, want)
    if on_device:  # they are not looked at: what is out of range counts as the nearest that is not
        assert_close(results(torch.tensor([3, -2, 9, 2], dtype=torch.int32)), found)
        for wrong, error in ((torch.tensor([1.0] * 4), TypeError), (torch.tensor([1, 2]), ValueError)):
            with pytest.raises(error, match="lengths"):
                layer(make_input(""), lengths=wrong)


@pytest.mark.parametrize("training", [True, False])
def test_noise_without_gradients(gpu: Gpu, training: bool) -> None:
    layer = module("lstm", recurrent_dropout=0.4, zoneout=0.3, engine="exact").train(training)

    def results() -> list[Any]:
        torch.manual_seed(2)
        with torch.no_grad():
            output, final = layer(make_input(""))
        return numpy((output, final))

    found = results()
    with on_cpu():
        assert_same_bits(found, results())


# ---- parameters


def test_parameters_are_used_as_they_are_however_they_were_changed(gpu: Gpu) -> None:
    theirs, ours = pair("lstm")
    alias = ours.weight_hh_l0.detach().numpy()

    def in_place() -> None:
        ours.weight_ih_l0.data.copy_(normal(4 * H, I, seed=5))

    def by_numpy() -> None:
        alias[...] = 0.25

    def another() -> None:
        ours.bias_hh_l0 = torch.nn.Parameter(normal(4 * H, seed=6))

    def stepped() -> None:
        ours(make_input(""))[0].sum().backward()
        torch.optim.SGD(ours.parameters(), 0.1).step()

    for change in (in_place, by_numpy, another, stepped):
        change()
        theirs.load_state_dict(ours.state_dict())
        assert_close(tensors(ours(make_input(""))), tensors(theirs(make_input(""))))


def test_what_is_overwritten_after_forward_does_not_change_gradients(gpu: Gpu) -> None:
    results = []
    for overwrite in (False, True):
        torch.manual_seed(0)
        layer, x, h = module("gru", **DEEP), make_input(""), normal(4, B, H, seed=1)
        output, _ = layer(x, h)
        other, _ = layer(normal(T, B, I, seed=9))
        if overwrite:
            for tensor in (*layer.parameters(), x, h):
                tensor.data.fill_(3)
            layer(x, h)
        (output.square().sum() + other.sum()).backward()
        results.append([p.grad for p in layer.parameters()])
    assert_close(results[1], results[0], 0)


def test_parameters_that_are_views_or_shared(gpu: Gpu) -> None:
    theirs, ours = pair("gru")
    for layer in (theirs, ours):
        flipped = layer.weight_hh_l0.detach().T.contiguous()
        layer.weight_hh_l0.data = flipped.T  # not contiguous
        layer.bias_ih_l0 = layer.bias_hh_l0
    assert not ours.weight_hh_l0.is_contiguous()
    assert_same_training(theirs, ours, "", False)


def test_state_dicts_copies_and_conversion(gpu: Gpu) -> None:
    theirs, ours = pair("lstm", **DEEP)
    x = make_input("")
    want = tensors(ours(x))
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), recurra.torch.convert(copy.deepcopy(theirs))):
        assert_close(tensors(copied(x)), want)
    assert type(recurra.torch.revert(ours)) is torch.nn.LSTM
    assert not {"_networks", "engine", "allow_tf32"} & ours.__dict__.keys()
    with on_cpu():
        assert_close(tensors(recurra.torch.convert(ours)(x)), want)


def test_rates_and_engines_may_be_changed_between_calls(gpu: Gpu) -> None:
    layer = module("gru", dtype=torch.float32, engine="cublas")
    layer(make_input("").float())
    for change in ({"zoneout": 0.5}, {"engine": "exact"}, {"recurrent_dropout": 0.5}):
        for name, value in change.items():
            setattr(layer, name, value)
        fresh = module("gru", dtype=torch.float32, engine=layer.engine, zoneout=layer.zoneout)
        fresh.recurrent_dropout = layer.recurrent_dropout
        fresh.load_state_dict(layer.state_dict())
        found = []
        for each in (layer, fresh):
            torch.manual_seed(1)
            found.append(numpy(each(make_input("").float())))
        assert_same_bits(*found)


# ---- what gradients can be asked


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives(gpu: Gpu, kind: str, form: str) -> None:
    found = []
    for layer in pair(kind, **DEEP, batch_first=form == "batch_first"):
        x = make_input(form).requires_grad_()
        inputs = [x, *layer.parameters()]
        (output, _), _ = run_forward(layer, form, x)
        first = torch.autograd.grad(output.square().sum(), inputs, create_graph=True)
        found.append(torch.autograd.grad(sum(part.square().sum() for part in first), inputs))
    assert_close(found[1], found[0], 1e-9)


def run_forward(layer: Any, form: str, x: Tensor) -> tuple[Any, None]:
    given = x
    if form.startswith("packed"):
        lengths = sorted(LENGTHS, reverse=True) if form == "packed_sorted" else LENGTHS
        given = rnn_utils.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=form == "packed_sorted")
    output, final = layer(given)
    return (output.data if isinstance(output, rnn_utils.PackedSequence) else output, final), None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_second_derivatives_of_16_bits(gpu: Gpu, dtype: Any) -> None:
    theirs, ours = pair("gru")
    ours.to(dtype)
    found = []
    for layer, kind in ((theirs, F64), (ours, dtype)):
        x = make_input("").to(kind).requires_grad_()
        (first,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), x)[0])
    assert found[1].dtype == dtype
    tolerance = 24 * torch.finfo(dtype).eps
    torch.testing.assert_close(found[1].double(), found[0], rtol=tolerance, atol=tolerance)


def test_equations_of_16_bits_round_results_only(gpu: Gpu) -> None:
    half, single = module("lstm", **DEEP).half(), module("lstm", **DEEP, dtype=torch.float32)
    single.load_state_dict(half.state_dict())
    x, tangent = make_input("").half(), normal(T, B, I, seed=4).half()
    found = FUNC.jvp(lambda x: half(x)[0], (x,), (tangent,))
    want = FUNC.jvp(lambda x: single(x)[0], (x.float(),), (tangent.float(),))
    assert_same_bits(numpy(found), numpy([part.half() for part in want]))


def test_forward_mode_and_torch_func(gpu: Gpu) -> None:
    layers = pair("lstm", **DEEP)
    x, tangent = make_input(""), normal(T, B, I, seed=4)
    found = []
    for layer in layers:
        primal, derivative = FUNC.jvp(lambda x, layer=layer: layer(x)[0], (x,), (tangent,))
        with torch.no_grad():
            params = dict(layer.named_parameters())
        gradients = FUNC.grad(lambda p, layer=layer: FUNC.functional_call(layer, p, (x,))[0].square().sum())(params)
        found.append([primal, derivative, *gradients.values()])
    assert_close(found[1], found[0])

    def of_rows(layer: Any, data: Tensor) -> Tensor:
        output: Tensor = layer(rnn_utils.PackedSequence(data, torch.tensor([4, 3, 3, 1, 1])))[0].data
        return output

    rows = normal(12, I)
    want = torch.autograd.functional.jacobian(lambda data: of_rows(layers[0], data), rows)
    assert_close([FUNC.jacrev(lambda data: of_rows(layers[1], data))(rows)], [want])
    single = [torch.stack([layers[0](part.unsqueeze(1))[0] for part in x.unbind(1)])]
    assert_close([FUNC.vmap(lambda part: layers[1](part.unsqueeze(1))[0], in_dims=1)(x)], single)


def test_hooks_and_checkpoints(gpu: Gpu) -> None:
    checkpoint = torch.utils.checkpoint.checkpoint
    theirs, ours = pair("lstm", **DEEP)
    found = []
    for layer in (theirs, ours):
        seen: list[Tensor] = []
        x = make_input("").requires_grad_()
        handle = layer.weight_ih_l0.register_hook(lambda grad, seen=seen: seen.append(grad))
        output = checkpoint(lambda x, layer=layer: layer(x)[0], x, use_reentrant=False)
        output.square().sum().backward()
        handle.remove()
        found.append([x.grad, *seen])
    assert_close(found[1], found[0])


def test_a_batch_of_losses(gpu: Gpu) -> None:
    found = []
    for layer in pair("gru"):
        x = make_input("").requires_grad_()
        y = layer(x)[0]
        found.append(torch.autograd.grad(y, x, normal(3, *y.shape, seed=3), is_grads_batched=True))
    assert_close(found[1], found[0])


def test_only_what_requires_grad_gets_a_gradient(gpu: Gpu) -> None:
    for wanted in ("weight_hh_l0", "input", "h_0", "c_0"):
        found = []
        for layer in pair("lstm"):
            layer.requires_grad_(False)
            x, (h, c) = make_input(""), make_state(layer, "")
            {"weight_hh_l0": layer.weight_hh_l0, "input": x, "h_0": h, "c_0": c}[wanted].requires_grad_()
            found.append(run(layer, "", x, (h, c))[1])
        assert [g is None for g in found[0]] == [g is None for g in found[1]]
        assert_close(found[1], found[0])
