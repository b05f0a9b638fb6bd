"""recurra.torch on a GPU that torch itself has: what the stand-in (test_cuda_torch.py) cannot show. Torch's allocator,
streams, autocast, graphs and compiler, and torch.nn on cuDNN beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    leaves,
    make_input,
    make_state,
    module,
    noise_of,
    normal,
    pair,
    rnn_utils,
    tensors,
    torch,
)

import recurra
import recurra.torch

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch has no GPU"),
    pytest.mark.filterwarnings("ignore:LSTM with projections"),
]

DEVICE = "cuda"
DEEP: dict[str, Any] = {"num_layers": 2, "bidirectional": True}


def there(value: Any, dtype: Any = None) -> Any:
    """Tensors, in a nest of tuples, on the GPU, as leaves."""
    if isinstance(value, tuple):
        return tuple(there(part, dtype) for part in value)
    return None if value is None else value.detach().to(DEVICE, dtype)


def train(layer: Any, form: str, hx: Any = None, dtype: Any = F64) -> list[Tensor]:
    """All results and all gradients of a call, on the CPU."""
    x, hx = there(make_input(form), dtype).requires_grad_(), there(hx, dtype)
    for part in leaves(hx):
        part.requires_grad_()
    layer.zero_grad()
    given = x
    if form.startswith("packed"):
        lengths = sorted(LENGTHS, reverse=True) if form == "packed_sorted" else LENGTHS
        given = rnn_utils.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=form == "packed_sorted")
    output, final = layer(given, hx)
    results = [output.data if isinstance(output, rnn_utils.PackedSequence) else output, *leaves(final)]
    loss = sum((v * there(normal(*v.shape, seed=7 + k), v.dtype)).sum() for k, v in enumerate(results))
    loss.backward()
    return [t.detach().cpu() for t in (*results, x.grad, *(p.grad for p in (*leaves(hx), *layer.parameters())))]


def assert_agree(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for a, b in zip([part.detach().cpu() for part in found], [part.detach().cpu() for part in wanted], strict=True):
        scale = max(1.0, b.abs().max().item()) if b.numel() else 1.0
        torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("engine", ["exact", "cublas"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_float64_agrees_with_torch_nn(kind: str, form: str, engine: str) -> None:
    theirs, ours = pair(kind, **DEEP, batch_first=form == "batch_first")
    ours.engine = engine
    hx = make_state(ours, form)
    assert_agree(train(ours.to(DEVICE), form, hx), train(theirs.to(DEVICE), form, hx), 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", ["time_major", "packed"])
@pytest.mark.parametrize("kind", KINDS)
def test_other_dtypes_agree_with_float64(kind: str, form: str, dtype: Any) -> None:
    theirs, ours = pair(kind, **DEEP)
    ours.to(DEVICE, dtype)
    theirs.load_state_dict({name: value.double() for name, value in ours.state_dict().items()})
    found, wanted = train(ours, form, dtype=dtype), train(theirs.to(DEVICE), form)
    assert all(part.dtype == dtype for part in found)
    assert_agree(found, wanted, 2e-5 if dtype == torch.float32 else 24 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS | OWN_KINDS)
def test_the_exact_engine_has_the_bits_of_the_cpu_there_and_back(kind: str, dtype: Any) -> None:
    layer = module(kind, **DEEP, dtype=dtype, engine="exact", **noise_of(kind))
    results = []
    for device in ("cpu", DEVICE, "cpu"):
        layer.to(device)
        torch.manual_seed(5)
        x = make_input("").to(device, dtype).requires_grad_()
        output, final = layer(x)
        (output.sum() + sum(part.sum() for part in leaves(final))).backward()
        results.append([t.detach().cpu().numpy() for t in (output, *leaves(final), x.grad, *gradients(layer))])
        layer.zero_grad()
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


def gradients(layer: Any) -> list[Any]:
    return [parameter.grad for parameter in layer.parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives(kind: str) -> None:
    found = []
    for layer, device in zip(pair(kind, **DEEP), ("cpu", DEVICE), strict=True):  # cuDNN has none
        layer.to(device)
        x = make_input("").to(device).requires_grad_()
        first = torch.autograd.grad(layer(x)[0].square().sum(), [x, *layer.parameters()], create_graph=True)
        second = torch.autograd.grad(sum(part.square().sum() for part in first), [x, *layer.parameters()])
        found.append([part.cpu() for part in second])
    assert_agree(found[1], found[0], 1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_does_as_torch_nn(dtype: Any) -> None:
    theirs, ours = pair("lstm", **DEEP)
    theirs, ours = theirs.float().to(DEVICE), ours.float().to(DEVICE)
    found = []
    for layer in (theirs, ours):
        x = there(make_input(""), torch.float32).requires_grad_()
        with torch.autocast("cuda", dtype=dtype):
            output, final = layer(x)
        loss = output.float().square().sum() + sum(part.float().sum() for part in leaves(final))
        layer.zero_grad()
        loss.backward()
        found.append([output, *leaves(final), x.grad, *gradients(layer)])
    assert [part.dtype for part in found[0]] == [part.dtype for part in found[1]]
    assert_agree(found[1], found[0], 24 * torch.finfo(dtype).eps)


def test_lengths_on_the_gpu_and_nothing_waits() -> None:
    layer = module("lstm", **DEEP, device=DEVICE, zoneout=0.1)
    x, packed = (
        there(make_input("")).requires_grad_(),
        rnn_utils.pack_padded_sequence(there(make_input("")), torch.tensor(LENGTHS), enforce_sorted=False),
    )
    lengths = torch.tensor([3, 0, 5, 2], device=DEVICE)
    layer(x, lengths=lengths), layer(packed)  # makes what it needs
    torch.cuda.set_sync_debug_mode("error")
    try:
        output, _ = layer(x, lengths=lengths)
        rows, _ = layer(packed)
        (output.sum() + rows.data.sum()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    layer.eval()
    assert_agree(tensors(layer(x, lengths=lengths)), tensors(layer(x, lengths=lengths.tolist())), 1e-12)


def test_a_training_step_replayed_from_a_graph_sees_what_has_changed() -> None:
    torch.manual_seed(0)
    eager, graphed = (recurra.torch.LSTM(I, H, **DEEP, device=DEVICE) for _ in range(2))
    graphed.load_state_dict(eager.state_dict())
    x = torch.randn(T, B, I, device=DEVICE)

    def step(layer: Any, optimiser: Any) -> Tensor:
        optimiser.zero_grad(set_to_none=True)
        loss: Tensor = layer(x)[0].square().sum()
        loss.backward()
        optimiser.step()
        return loss

    optimisers = [torch.optim.SGD(layer.parameters(), 0.01) for layer in (eager, graphed)]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(graphed, optimisers[1])
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(graphed, optimisers[1])
    for _ in range(3):
        step(eager, optimisers[0])
    for _ in range(4):
        x.copy_(torch.randn(T, B, I, device=DEVICE))
        graph.replay()
        want = step(eager, optimisers[0])
        assert_agree([loss], [want], 1e-4)
    assert_agree(list(graphed.parameters()), list(eager.parameters()), 1e-4)


def test_graphed_callables() -> None:
    layer = recurra.torch.GRU(I, H, device=DEVICE)
    x = torch.randn(T, B, I, device=DEVICE, requires_grad=True)
    want = layer(x)[0]
    gradient = torch.autograd.grad(want.sum(), x)[0]
    graphed = torch.cuda.make_graphed_callables(layer, (x.detach().clone().requires_grad_(),))
    found = graphed(x)[0]
    assert_agree([found, torch.autograd.grad(found.sum(), x)[0]], [want, gradient], 1e-5)


def test_noise_is_not_captured() -> None:
    layer = recurra.torch.GRU(I, H, zoneout=0.1, device=DEVICE)
    x = torch.randn(T, B, I, device=DEVICE)
    layer(x)
    torch.cuda.synchronize()
    graph, match = torch.cuda.CUDAGraph(), "zoneout in training mode cannot be captured"
    with pytest.raises(RuntimeError, match=match), torch.cuda.graph(graph):
        layer(x)


@pytest.mark.parametrize("allow_rnn", [True, False])
def test_a_compiled_model_trains_alike(allow_rnn: bool) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(I, I), recurra.torch.LSTM(I, H, **DEEP)).to(DEVICE)
    x = torch.randn(T, B, I, device=DEVICE)

    def gradients_of(run: Any) -> list[Tensor]:
        model.zero_grad()
        output, (h, _) = run(x)
        (output.square().sum() + h.sum()).backward()
        return [output.detach().cpu(), *(p.grad.cpu() for p in model.parameters())]

    want = gradients_of(model)
    with torch._dynamo.config.patch(allow_rnn=allow_rnn):
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=allow_rnn)
        assert_agree(gradients_of(compiled), want, 1e-4)
        assert_agree(gradients_of(compiled), want, 1e-4)


def test_calls_on_other_streams_and_threads_share_nothing() -> None:
    layer = recurra.torch.LSTM(I, H, device=DEVICE, engine="exact")
    inputs = [torch.randn(T, B, I, device=DEVICE) for _ in range(4)]
    with torch.no_grad():
        want = [layer(x)[0] for x in inputs]
        torch.cuda.synchronize()
        found = []
        for x in inputs:
            with torch.cuda.stream(torch.cuda.Stream()):
                found.append(layer(x)[0])
        torch.cuda.synchronize()
    assert_same_bits(*([y.cpu().numpy() for y in each] for each in (found, want)))


def test_memory_goes_with_the_backward_pass_and_is_torchs() -> None:
    layer = recurra.torch.LSTM(I, H, **DEEP, device=DEVICE)
    x = torch.randn(T, B, I, device=DEVICE)
    losses = []
    used = []
    for _ in range(4):
        loss = layer(x)[0].sum()
        loss.backward()
        losses.append(loss)
        layer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        used.append(torch.cuda.memory_allocated())
    assert used[3] - used[1] <= 2 * 512  # of the losses
    with torch.autograd.graph.save_on_cpu():
        output = layer(x)[0]
    output.sum().backward()
    saved = [gradient.clone() for gradient in gradients(layer)]
    layer.zero_grad()
    layer(x)[0].sum().backward()
    assert_agree(saved, gradients(layer), 1e-5)


def test_models_are_converted_where_they_are() -> None:
    theirs = torch.nn.LSTM(I, H, **DEEP, dtype=F64, device=DEVICE)
    want = train(theirs, "packed")
    ours = recurra.torch.convert(theirs)
    ours.flatten_parameters()
    assert_agree(train(ours, "packed"), want, 1e-9)
    assert recurra.torch.GRU(I, H, device=DEVICE, dtype=torch.bfloat16).weight_hh_l0.is_cuda
    peephole = recurra.torch.LSTM(I, H, peephole=True).cuda()
    assert peephole(torch.randn(T, B, I, device=DEVICE))[0].is_cuda


def test_devices_do_not_meet() -> None:
    layer = recurra.torch.GRU(I, H, device=DEVICE)
    x, h = torch.randn(T, B, I), torch.zeros(1, B, H)
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: layer(x), "^input: expected memory of cuda:0, where weight_ih_l0 is, got cpu"),
        (lambda: layer(x.to(DEVICE), h), "^hx h: expected memory of cuda:0, where weight_ih_l0 is, got cpu"),
        (lambda: recurra.torch.GRU(I, H)(x.to(DEVICE)), "^input: expected CPU memory, where weight_ih_l0 is, got cuda"),
        (lambda: recurra.torch.GRU(I, H)(x, lengths=torch.ones(B, device=DEVICE)), "^lengths: expected CPU memory"),
    ]
    for call, match in calls:
        with pytest.raises(ValueError, match=match):
            call()


def test_single_steps() -> None:
    for name in ("LSTMCell", "GRUCell", "RNNCell"):
        theirs, ours = (getattr(of, name)(I, H, dtype=F64, device=DEVICE) for of in (torch.nn, recurra.torch))
        ours.load_state_dict(theirs.state_dict())
        x = there(normal(B, I))
        found = []
        for cell in (ours, theirs):
            result = leaves(cell(x))
            found.append([*result, *torch.autograd.grad(sum(part.sum() for part in result), list(cell.parameters()))])
        assert_agree(found[0], found[1], 1e-9)
