"""recurra.torch on a GPU, or over its stand-in: against torch.nn, and against itself on the CPU.

torch here is the CPU's: see `torch_gpu`. What needs torch's own CUDA is in test_torch_gpu.py.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from checks import assert_same_bits
from cuda_arrays import begin, counted, end, replay, require_gpu
from torch_gpu import Gpu, gpu, on_cpu, require_stand_in
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
    normal,
    pair,
    rnn_utils,
    run,
    tensors,
    torch,
)

import recurra
import recurra.torch
from recurra.torch import compiled

require_gpu()
require_stand_in()
FakeTensorMode = torch._subclasses.fake_tensor.FakeTensorMode

__all__ = ["gpu"]  # a fixture

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")

DEEP: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
FUNC = torch.func


def numpy(values: Any) -> list[Any]:
    return [value.detach().numpy() for value in tensors(tuple(values)) if value is not None]


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
    options = {"zoneout": zoneout, "recurrent_dropout": 0.25, "batch_first": form == "batch_first", "dtype": dtype}
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


# ---- autocast


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["LSTM", "GRUCell"])
def test_autocast_runs_in_its_dtype_and_gradients_stay_in_the_parameters(gpu: Gpu, name: str, dtype: Any) -> None:
    torch.manual_seed(0)
    theirs, ours = getattr(torch.nn, name)(I, H, dtype=F64), getattr(recurra.torch, name)(I, H)
    ours.load_state_dict(theirs.state_dict())
    shape = (B, I) if name == "GRUCell" else (T, B, I)
    x, wide = normal(*shape).float().requires_grad_(), normal(*shape).requires_grad_()
    with gpu.autocast(dtype):
        output, want = ours(x), theirs(wide)
        again = ours(x.to(dtype))  # what a Linear before it would give
    results = tensors(output) if name == "LSTM" else [output]
    assert all(result.dtype == dtype for result in results)
    assert_same_bits(*([t.detach().float().numpy() for t in tensors((a,))] for a in (output, again)))
    sum(result.float().square().sum() for result in results).backward()
    sum(result.square().sum() for result in (tensors(want) if name == "LSTM" else [want])).backward()
    tolerance = 12 * torch.finfo(dtype).eps / 2
    for a, b in zip((x, *ours.parameters()), (wide, *theirs.parameters()), strict=True):
        assert a.grad.dtype == torch.float32
        scale = max(1, b.grad.abs().max().item())
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=tolerance, atol=tolerance * scale)


def test_autocast_leaves_float64_and_refuses_what_it_cannot_keep(gpu: Gpu) -> None:
    with gpu.autocast(torch.bfloat16):
        assert module("gru")(make_input(""))[0].dtype == F64
        assert module("gru", dtype=torch.float32, allow_tf32=True)(make_input("").float())[0].dtype == torch.bfloat16
        with pytest.raises(ValueError, match=r"^engine: expected 'auto' or 'cublas' for bfloat16"):
            module("gru", dtype=torch.float32, engine="exact")(make_input("").float())


# ---- memory, streams, graphs


def test_tapes_go_with_the_backward_pass_and_losses_keep_none(gpu: Gpu) -> None:
    layer = module("lstm", **DEEP)
    losses = []
    for retain in (False, True):
        x = make_input("")
        loss = layer(x)[0].square().sum()
        held = gpu.bytes()
        loss.backward(retain_graph=retain)
        layer.zero_grad(set_to_none=True)
        losses.append(loss)
        assert (gpu.bytes() < held // 4) != retain
    losses[1].backward()
    layer.zero_grad(set_to_none=True)
    output = layer(make_input(""))[0]
    only_output = output.detach().clone()
    del output
    assert gpu.bytes() < 8 * only_output.nbytes
    with pytest.raises(RuntimeError, match="retain_graph"):
        losses[0].backward()


@pytest.mark.parametrize("engine", ["exact", "cublas"])
def test_a_steady_state_allocates_by_torch_alone_and_waits_for_nothing(gpu: Gpu, engine: str) -> None:
    layer = module("lstm", **DEEP, engine=engine, recurrent_dropout=0.2)
    packed = rnn_utils.pack_padded_sequence(make_input(""), torch.tensor(LENGTHS), enforce_sorted=False)
    inputs: list[tuple[Any, Any]] = [(make_input(""), None), (make_input(""), [3, 2, 1, 1]), (packed, None)]
    inputs.append((make_input(""), torch.tensor([3, 2, 5, 0])))

    def step() -> None:
        for x, lengths in inputs:
            output = layer(x, lengths=lengths)[0]
            y = output.data if isinstance(output, rnn_utils.PackedSequence) else output
            y.square().sum().backward()
        with torch.no_grad():
            layer(make_input(""))

    def counts() -> list[int]:
        return [counted(kind) for kind in ("allocations", "synchronisations", "compilations", "live_streams")]

    for _ in range(4):
        step()
    before = counts()
    for _ in range(3):
        step()
    assert counts() == before


@pytest.mark.parametrize("engine", ["exact", "cublas"])
def test_forward_and_backward_can_be_captured_in_a_graph(gpu: Gpu, engine: str) -> None:
    layer, x = module("lstm", **DEEP, engine=engine), make_input("").requires_grad_()
    wanted = [x, *layer.parameters()]

    def step() -> tuple[Tensor, ...]:
        output, (h, c) = layer(x, lengths=lengths)
        return (output, h, c, *torch.autograd.grad((output, h, c), wanted, ones))

    lengths = None
    ones = [torch.ones(T, B, 2 * H, dtype=F64), *(torch.ones(4, B, H, dtype=F64) for _ in range(2))]
    step()
    begin(gpu.stream)
    captured = step()
    graph = end(gpu.stream)
    with torch.no_grad():
        for tensor in wanted:
            tensor += 0.125
    want = step()
    replay(graph, gpu.stream)
    assert_close(captured, want, 0)


def test_noise_is_not_captured(gpu: Gpu) -> None:
    layer = module("gru", zoneout=0.1)
    begin(gpu.stream)
    with pytest.raises(RuntimeError, match="zoneout in training mode cannot be captured"):
        layer(make_input(""))
    end(gpu.stream)


def test_a_compiled_model_runs_the_layer_as_one_operation(gpu: Gpu) -> None:
    theirs, ours = pair("lstm", **DEEP)
    with torch._dynamo.config.patch(allow_rnn=True):
        model = torch.compile(ours, backend="aot_eager", fullgraph=True)
        launches = counted("launches")
        assert_same_training(theirs, model, "time_major", False)
        assert counted("launches") > launches
        hx = make_state(ours, "")
        assert_close(tensors(model(make_input(""), hx)), tensors(theirs(make_input(""), hx)))


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.float16])
@pytest.mark.parametrize("trains", [True, False])
def test_operations_of_graphs_return_what_they_say(gpu: Gpu, dtype: Any, trains: bool) -> None:
    layer, x, h = module("gru", **DEEP).to(dtype), make_input("").to(dtype), normal(4, B, H).to(dtype)
    params = list(layer.parameters())
    with torch.no_grad():
        given = (x, [h], params, None, layer._number, -1, False, trains, 2 * H, 4, [H])
        torch.library.opcheck(compiled.sequence, given, test_utils=("test_faketensor",))
        if not trains:
            return
        y, final, tape = compiled.sequence(*given)
        for with_input in (True, False):  # by hand, for opcheck gives it a copy of the tape
            asked = (tape, [y, final], [x, *params], with_input)
            real = torch.ops.recurra.backward(*asked)
            with FakeTensorMode() as mode:
                fake = torch.ops.recurra.backward(
                    *torch.utils._pytree.tree_map_only(torch.Tensor, mode.from_tensor, asked)
                )
            assert [(t.shape, t.dtype, t.device) for t in real] == [(t.shape, t.dtype, t.device) for t in fake]


# ---- errors


def wrong_calls(gpu: Gpu) -> dict[str, tuple[Callable[[], Any], type[Exception], str]]:
    layer, x, h = module("gru"), make_input(""), normal(1, B, H)
    on_host, mixed = copy.deepcopy(layer), copy.deepcopy(layer)
    for name, parameter in on_host.named_parameters():
        setattr(on_host, name, torch.nn.Parameter(gpu.host(parameter)))
    half_on_host = copy.deepcopy(layer)
    for name, parameter in half_on_host.named_parameters():
        setattr(half_on_host, name, torch.nn.Parameter(gpu.host(parameter.half())))
    mixed.weight_hh_l0 = torch.nn.Parameter(gpu.host(mixed.weight_hh_l0))
    unlike = copy.deepcopy(layer)
    unlike.bias_hh_l0 = torch.nn.Parameter(unlike.bias_hh_l0.float())
    resized = copy.deepcopy(layer)
    resized.bias_hh_l0 = torch.nn.Parameter(torch.zeros(5, dtype=F64))
    packed = rnn_utils.pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False)
    half = module("gru").half()
    half.engine = "exact"
    gpu_memory, cpu_memory = r"expected memory of cuda:0, where weight_ih_l0 is, got cpu", "expected CPU memory, where"
    return {
        "input on the host": (lambda: layer(gpu.host(x)), ValueError, f"^input: {gpu_memory}"),
        "state on the host": (lambda: layer(x, gpu.host(h)), ValueError, f"^hx h: {gpu_memory}"),
        "packed on the host": (
            lambda: layer(packed._replace(data=gpu.host(packed.data))),
            ValueError,
            rf"^input\.data: {gpu_memory}",
        ),
        "module on the host": (lambda: on_host(x), ValueError, f"^input: {cpu_memory} weight_ih_l0 is"),
        "state of a module on the host": (lambda: on_host(gpu.host(x), h), ValueError, f"^hx h: {cpu_memory}"),
        "one weight on the host": (lambda: mixed(x), ValueError, f"^weight_hh_l0: {gpu_memory}"),
        "input's dtype": (lambda: layer(x.float()), TypeError, "^input: expected torch.float64, got torch.float32"),
        "input of 16 bits": (lambda: layer(x.half()), TypeError, "^input: expected torch.float64, got torch.float16"),
        "input of integers": (
            lambda: layer(x.long()),
            TypeError,
            "^input: expected torch.float32, torch.float64, torch.float16 or torch.bfloat16, got torch.int64",
        ),
        "input's shape": (lambda: layer(x[..., :2]), ValueError, r"^input: expected shape \[T, B, 3\]"),
        "state's dtype": (lambda: layer(x, h.float()), TypeError, "^hx h: expected torch.float64"),
        "a parameter's dtype": (lambda: unlike(x), TypeError, "^bias_hh_l0: expected torch.float64, got torch.float32"),
        "a parameter's shape": (lambda: resized(x), ValueError, r"^bias_hh_l0: expected shape \[12\], got \[5\]"),
        "batch_sizes": (
            lambda: layer(rnn_utils.PackedSequence(packed.data, torch.tensor([4, 3, 3, 1, 2]))),
            ValueError,
            "^input: expected batch_sizes that fall to 1 or more and sum to 12",
        ),
        "engine": (lambda: half(x.half()), ValueError, "^engine: expected 'auto' or 'cublas' for float16"),
        "16 bits on the host": (
            lambda: half_on_host(gpu.host(x.half())),
            TypeError,
            "^weight_ih_l0: expected torch.float32 or torch.float64, got torch.float16",
        ),
        "lengths": (lambda: layer(x, lengths=[1, 2, 3, 6]), ValueError, r"^lengths: expected values in 0\.\.5, got 6"),
    }


@pytest.mark.parametrize("name", list(wrong_calls(Gpu())))
@pytest.mark.parametrize("grad", [True, False])
def test_what_does_not_fit_is_refused_by_name(gpu: Gpu, name: str, grad: bool) -> None:
    call, error, match = wrong_calls(gpu)[name]
    with torch.set_grad_enabled(grad), pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"engine": "fast"}, "^engine: expected one of 'auto', 'exact', 'cublas', got 'fast'"),
        ({"engine": "exact", "allow_tf32": True}, "^allow_tf32: expected False .*with engine='exact', got True"),
    ],
)
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_wrong_options(name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        getattr(recurra.torch, name)(I, H, **options)


def test_the_engine_and_tf32_are_seen_in_a_repr() -> None:
    assert "engine=exact" in repr(recurra.torch.GRU(2, 3, engine="exact"))
    assert "allow_tf32=True" in repr(recurra.torch.GRU(2, 3, allow_tf32=True))
    assert "engine" not in repr(recurra.torch.GRU(2, 3))
