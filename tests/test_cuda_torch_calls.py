"""recurra.torch on a GPU, or over its stand-in: autocast, memory, streams and graphs, and what is refused.

torch here is the CPU's: see `torch_gpu`. What needs torch's own CUDA is in test_torch_gpu.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from checks import assert_same_bits
from cuda_arrays import begin, counted, end, replay, require_gpu
from torch_gpu import DEEP, Gpu, gpu, require_stand_in
from torch_modules import (
    F64,
    LENGTHS,
    B,
    H,
    I,
    T,
    Tensor,
    assert_close,
    assert_same_training,
    make_input,
    make_state,
    module,
    normal,
    pair,
    rnn_utils,
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
        with pytest.raises(ValueError, match=r"^engine: expected 'auto' or 'cublas' or 'cublas-resident' for bfloat16"):
            module("gru", dtype=torch.float32, engine="exact")(make_input("").float())


def test_all_steps_of_16_bits_in_one_launch(gpu: Gpu) -> None:
    x = make_input("")
    layers = [module("gru", dtype=torch.float32, engine=engine) for engine in ("cublas", "cublas-resident")]
    layers[1].load_state_dict(layers[0].state_dict())
    with pytest.raises(ValueError, match=r"^engine: expected .* for float32 on a GPU, got 'cublas-resident'"):
        layers[1](x.float())
    with gpu.autocast(torch.bfloat16):
        by_steps, resident = (layer(x.float())[0] for layer in layers)
    torch.testing.assert_close(by_steps, resident, rtol=0.02, atol=0.02)
    by_steps, resident = (layer.half()(x.half())[0] for layer in layers)
    torch.testing.assert_close(by_steps, resident, rtol=0.005, atol=0.005)
    assert "engine=cublas-resident" in repr(layers[1])


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
        marks = (None, None, None, layer._number, "previous", 0)
        given = (x, [h], params, *marks, -1, False, trains, 2 * H, 0, 4, [H])
        torch.library.opcheck(compiled.sequence, given, test_utils=("test_faketensor",))
        if not trains:
            return
        y, final, tape = compiled.sequence(*given)
        for with_input in (True, False):  # by hand, for opcheck gives it a copy of the tape
            asked = (tape, [y, final], [x, h, *params], 1, with_input)
            real = torch.ops.recurra.run_backward(*asked)
            with FakeTensorMode() as mode:
                fake = torch.ops.recurra.run_backward(
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
        "engine": (
            lambda: half(x.half()),
            ValueError,
            "^engine: expected 'auto' or 'cublas' or 'cublas-resident' for float16",
        ),
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
        ({"engine": "fast"}, "^engine: expected one of 'auto', 'exact', .*, got 'fast'"),
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
