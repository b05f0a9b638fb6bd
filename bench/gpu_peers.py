"""Part 6 of `gpu.py`: what PyTorch's users have beside cuDNN, for one layer in one direction.

torch.compile        of torch.nn's layer, which PyTorch leaves as it is (a graph break): cuDNN once more
compiled step        of a step written in PyTorch's operations, in a loop: a product of cuBLAS and one fused kernel each
compiled step graph  the same loop in a CUDA graph. (The loop compiled whole is not here: 25 steps of training took a
                     minute to compile, on two CPUs.)
TorchRL              its LSTMModule and GRUModule with Triton's kernels: one launch for all steps up to some H

Compiling has a time limit of its own and is no part of what is timed. Who cannot run says why.
"""

from __future__ import annotations

import contextlib
import importlib.util
import signal
from collections.abc import Callable, Iterator
from typing import Any

from . import gpu_shapes, gpu_times
from .gpu_shapes import Shape
from .gpu_task import Task
from .gpu_times import Call, Cudnn, Ours, difference, measure, replayed

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]

COMPILE_SECONDS = 40.0
# TorchRL's own names; its numbers are float32 always, and of 16 bits there are products in bfloat16 alone.
PRECISIONS = {"float32": "ieee", "tf32": "tf32", "bfloat16": "ieee"}


# ---- contestants: like torch.nn's layer, of which `Cudnn` needs `parameters` and a call


class Steps:
    """One layer as a loop over compiled steps; the input product is made for all steps at once."""

    def __init__(self, layer: Any) -> None:
        self.parameters = layer.parameters
        step, self.states = (lstm_step, 2) if layer.mode == "LSTM" else (gru_step, 1)
        self.step = torch.compile(step, dynamic=False)

    def __call__(self, x: Any) -> tuple[Any]:
        """y of [T, B, H]."""
        of_x, weight, bias_of_x, bias = self.parameters()
        state = tuple(x.new_zeros(x.shape[1], weight.shape[1]) for _ in range(self.states))
        outputs = []
        for given in torch.nn.functional.linear(x, of_x, bias_of_x).unbind():
            state = self.step(given, *state, weight, bias)
            outputs.append(state[0])
        return (torch.stack(outputs),)


def lstm_step(given: Any, h: Any, c: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
    """The next h and c."""
    i, f, z, o = (given + torch.nn.functional.linear(h, weight, bias)).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(z)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru_step(given: Any, h: Any, weight: Any, bias: Any) -> tuple[Any]:
    """The next h."""
    r, z, n = given.chunk(3, 1)
    of_r, of_z, of_n = torch.nn.functional.linear(h, weight, bias).chunk(3, 1)
    n = torch.tanh(n + torch.sigmoid(r + of_r) * of_n)
    return (n + torch.sigmoid(z + of_z) * (h - n),)


class Triton:
    """TorchRL's module around the layer; arrays of [T, B, ...] that lie in memory as its [B, T, ...]."""

    def __init__(self, layer: Any, dtype: str, backend: str = "triton") -> None:
        from tensordict import TensorDict
        from torchrl.modules import GRUModule, LSTMModule

        layer.batch_first = True
        self.parameters, self.dictionary = layer.parameters, TensorDict
        self.module: Any
        options: dict[str, Any] = {
            "recurrent_backend": backend,
            "recurrent_compute_dtype": torch.bfloat16 if dtype == "bfloat16" else torch.float32,
            "recurrent_matmul_precision": PRECISIONS[dtype],
            "default_recurrent_mode": True,
        }
        if layer.mode == "LSTM":
            keys: dict[str, Any] = {"in_keys": ["x", "h", "c"], "out_keys": ["y", ("next", "h"), ("next", "c")]}
            self.module = LSTMModule(lstm=layer, **keys, **options)
        else:
            self.module = GRUModule(gru=layer, in_keys=["x", "h"], out_keys=["y", ("next", "h")], **options)
        self.begins: Any = None

    def __call__(self, x: Any) -> tuple[Any]:
        """y of [T, B, H]. No sequence begins midway."""
        x = x.transpose(0, 1)
        if self.begins is None:
            self.begins = torch.zeros((*x.shape[:2], 1), dtype=torch.bool, device=x.device)
        given = self.dictionary({"x": x, "is_init": self.begins}, batch_size=x.shape[:2])
        return (self.module(given)["y"].transpose(0, 1),)


def compiled_layer(ours: Ours) -> Cudnn:
    """torch.nn's."""
    peer = Cudnn(ours)
    peer.module = torch.compile(peer.module, dynamic=False)
    return peer


def compiled_step(ours: Ours) -> Cudnn:
    """A loop."""
    peer = Cudnn(ours)
    peer.module = Steps(peer.module)
    return peer


def torchrl(ours: Ours, backend: str = "triton") -> Cudnn:
    """In float32.

    Raises:
        ValueError: it has no such numbers, or is not installed.
    """
    dtype = ours.shape.dtype
    if importlib.util.find_spec("torchrl") is None:
        raise ValueError("torchrl is not installed")
    if dtype not in PRECISIONS:
        raise ValueError(f"TorchRL's kernels know no {dtype}")
    peer = Cudnn(ours)
    peer.module = Triton(peer.module.float(), dtype, backend)
    peer.x, peer.dy = (a.detach().float().transpose(0, 1).contiguous().transpose(0, 1) for a in (peer.x, peer.dy))
    peer.x.requires_grad_(ours.shape.training)
    return peer


PEERS: dict[str, Callable[[Ours], Cudnn]] = {
    "torch.compile": compiled_layer,
    "compiled step": compiled_step,
    "TorchRL": torchrl,
}


# ---- compiling


class Late(BaseException):
    """Time is up: no `Exception`, which a compiler would take for an error of its own."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises `Late` in what takes longer, as soon as Python goes on there."""

    def stop(*_: object) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def ready(make: Callable[[], Call], seconds: float) -> Call | str:
    """What it makes, called until nothing is left to be compiled; or why not."""
    try:
        with within(seconds):
            call = make()
            for _ in range(gpu_times.WARM_UPS):
                call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
    except Late:
        return f"not compiled within {seconds:.0f} s"
    except Exception as error:  # other people's, of any kind
        return " ".join(str(error).split())[:120] or type(error).__name__
    return call


def contestants(shape: Shape, task: Task) -> Iterator[tuple[str, Call | str]]:
    """Ours, cuDNN, and each peer whose results are the same."""
    ours = Ours(shape)
    yield "recurra", ours
    if shape.dtype in gpu_times.RESIDENT:
        yield from gpu_times.resident(shape)
    if not gpu_times.has_torch():
        yield from ((name, "no PyTorch with a GPU: not timed") for name in ("cuDNN", *PEERS))
        return
    yield "cuDNN", Cudnn(ours)
    torch.compiler.reset()  # which compiles a function for eight shapes, and then no more
    for name, make in PEERS.items():
        call = checked(ours, lambda make=make: make(ours), shape.dtype, min(COMPILE_SECONDS, task.left))  # type: ignore[misc]
        yield name, call
        if name == "compiled step" and not isinstance(call, str):
            graph = ready(lambda call=call: replayed(call), COMPILE_SECONDS)  # type: ignore[misc]
            yield f"{name} graph", graph


def checked(ours: Ours, make: Callable[[], Call], dtype: str, seconds: float) -> Call | str:
    """Ready, with our results."""
    call = ready(make, seconds)
    if isinstance(call, str):
        return call
    wrong = difference(ours, call)
    return call if wrong <= gpu_times.TOLERANCES[dtype] else f"its results differ by {wrong:.1e}"


def run(task: Task) -> dict[str, Any]:
    """Row after row; quick: eight."""
    shapes = gpu_shapes.peers()

    def one(shape: Shape) -> dict[str, Any]:
        return measure(shape, dict(contestants(shape, task)), gpu_times.ROW_SECONDS)

    return gpu_times.rows(task, shapes[:8] if task.quick else shapes, one)
