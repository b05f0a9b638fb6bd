"""The libraries, each set up as its documentation advises: threads set, weights prepacked, buffers ready.

A library is a function from a `Problem` to a `Contestant`, whose `call` is what is timed. In a stream every call goes
on from the state that the call before left, as a user's must.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import recurra

from .shapes import Shape

Array = np.ndarray[Any, np.dtype[np.float32]]
COMPILE_SECONDS = 120


class Unavailable(Exception):  # noqa: N818  (it is no error, and its name is what the report says)
    """A library has no such thing; the text says what."""


class Problem(NamedTuple):
    """What all contestants are given: the same weights, and the same random input [T, B, I]."""

    shape: Shape
    layer: recurra.Recurrent
    x: Array
    lengths: NDArray[np.int64]
    threads: int = 1
    precision: str = "float32"

    @property
    def dy(self) -> Array:
        """A gradient of the output, to train with; the same every time."""
        shape = (self.shape.steps, self.shape.batch, self.shape.directions * self.shape.hidden)
        return np.random.default_rng(2).standard_normal(shape, dtype=np.float32)


class Contestant(NamedTuple):
    """`call` does the work once; `output` makes an array [T, B, D*H] of what it returned, and is not timed."""

    call: Callable[[], Any]
    output: Callable[[Any], Array]


def make_problem(shape: Shape, threads: int = 1, precision: str = "float32") -> Problem:
    """Random weights and inputs, the same every time."""
    options: dict[str, Any] = {"reset": "before"} if shape.cell == "GRU-before" else {}
    layer: recurra.Recurrent = getattr(recurra, shape.cell.partition("-")[0])(
        shape.inputs, shape.hidden, shape.layers, bidirectional=shape.directions == 2, seed=0, **options
    )
    x = np.random.default_rng(1).standard_normal((shape.steps, shape.batch, shape.inputs), dtype=np.float32)
    return Problem(shape, layer, x, shape.row_lengths(), threads, precision)


def ours(problem: Problem) -> Contestant:
    """recurra, into an array that is there already."""
    shape, layer, x = problem.shape, problem.layer, problem.x
    if problem.precision != "float32":
        if shape.training:
            raise Unavailable("trains in full precision only")
        layer = layer.quantize(problem.precision)
    y = np.empty((shape.steps, shape.batch, shape.directions * shape.hidden), np.float32)
    recurra.set_num_threads(problem.threads)
    if shape.streaming:
        one = shape.batch == 1
        step = layer.stream(None if one else shape.batch, threads=problem.threads).step
        frame, out = (x[0, 0], y[0, 0]) if one else (x[0], y[0])
        return Contestant(partial(step, frame, out), lambda _: y)
    lengths = problem.lengths if shape.lengths != "none" else None
    if not shape.training:
        return Contestant(partial(layer, x, lengths=lengths, out=y), lambda _: y)

    dy = problem.dy

    def train() -> Any:
        tape = layer.forward(x, lengths=lengths)[2]
        dx: Any = tape.backward(dy).x
        return dx

    return Contestant(train, lambda dx: dx)


def _torch_layer(problem: Problem) -> Any:
    import torch

    shape = problem.shape
    if shape.cell == "GRU-before":
        raise Unavailable("has no GRU that resets before the product")
    kind = getattr(torch.nn, shape.cell)
    layer = kind(shape.inputs, shape.hidden, shape.layers, bidirectional=shape.directions == 2).eval()
    layer.load_state_dict({name: torch.from_numpy(value) for name, value in problem.layer.state_dict().items()})
    if problem.precision == "bfloat16":
        return layer.bfloat16()
    if problem.precision == "int8":
        quantize: Any = torch.ao.quantization.quantize_dynamic
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it will move to another package
            model = quantize(torch.nn.Sequential(layer), {kind}, dtype=torch.qint8)
        if type(model[0]) is type(layer):
            raise Unavailable(f"does not quantise nn.{shape.cell}")
        return model[0]
    return layer


def _torch_contestant(problem: Problem, layer: Any) -> Contestant:
    import torch

    shape = problem.shape
    torch.set_num_threads(problem.threads)
    if shape.training and problem.precision != "float32":
        raise Unavailable("is timed in training in float32 only")
    dtype = torch.bfloat16 if problem.precision == "bfloat16" else torch.float32
    x = torch.from_numpy(problem.x).to(dtype)
    zeros = torch.zeros(shape.layers * shape.directions, shape.batch, shape.hidden, dtype=dtype)
    state: Any = (zeros, zeros.clone()) if shape.cell == "LSTM" else zeros

    def step() -> Any:
        nonlocal state
        y, state = layer(x, state)
        return y

    def ragged(lengths: Any) -> Any:
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        return torch.nn.utils.rnn.pad_packed_sequence(layer(packed)[0], total_length=shape.steps)[0]

    def output(y: Any) -> Array:
        array: Array = y.float().numpy()
        return array

    if shape.streaming:
        return Contestant(step, output)
    if shape.training:
        return Contestant(_torch_training(problem, layer, x), output)
    if shape.lengths != "none":
        return Contestant(partial(ragged, torch.from_numpy(problem.lengths)), output)
    return Contestant(lambda: layer(x, state)[0], output)


def _torch_training(problem: Problem, layer: Any, x: Any) -> Callable[[], Any]:
    """Forward and backward, to the gradients of input and parameters; returns that of the input."""
    import torch

    layer.train()
    x.requires_grad_()
    dy = torch.from_numpy(problem.dy)
    lengths = torch.from_numpy(problem.lengths)

    def train() -> Any:
        layer.zero_grad()
        x.grad = None
        with torch.inference_mode(False), torch.enable_grad():
            if problem.shape.lengths == "none":
                y = layer(x)[0]
            else:
                packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
                y = torch.nn.utils.rnn.pad_packed_sequence(layer(packed)[0], total_length=problem.shape.steps)[0]
            y.backward(dy)
        return x.grad

    return train


def torch_eager(problem: Problem) -> Contestant:
    """PyTorch as it is, in inference mode unless it trains; int8 by its dynamic quantisation."""
    return _torch_contestant(problem, _torch_layer(problem))


class _Late(BaseException):
    """Time is over; no Exception, for the compiler swallows those."""


@contextlib.contextmanager
def _deadline(seconds: int, what: str) -> Iterator[None]:
    """Raises Unavailable in the main thread when this takes too long, where the system has such an alarm."""

    def late(*_: object) -> None:
        raise _Late

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    except _Late:
        raise Unavailable(f"{what} took more than {seconds} s") from None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def torch_compiled(problem: Problem) -> Contestant:
    """PyTorch's compiler, for a step. It has nothing to give a sequence."""
    import torch

    if problem.precision != "float32":
        raise Unavailable("is timed in float32 only")
    if problem.shape.steps > 1 or problem.shape.training:
        raise Unavailable("leaves whole sequences to eager PyTorch (or, with allow_rnn, unrolls every step)")
    layer = _torch_layer(problem)
    torch._dynamo.reset()
    # A GRU or RNN is traced into and fused; an LSTM is faster left as the one operator that it is (206 us against 100).
    torch._dynamo.config.allow_rnn = problem.shape.cell != "LSTM"
    compiled = torch.compile(layer)
    with torch.inference_mode(), _deadline(COMPILE_SECONDS, "compiling"):
        _torch_contestant(problem, compiled).call()
    return _torch_contestant(problem, compiled)


def _onnx_model(problem: Problem) -> bytes:
    from . import onnx_model

    if problem.shape.training:
        raise Unavailable("only infers")
    model = onnx_model.build(problem.shape, problem.layer.state_dict())
    if problem.precision == "int8":
        if problem.shape.cell != "LSTM":
            raise Unavailable(f"quantises LSTM only, not {problem.shape.cell}")
        model = onnx_model.quantized(model)
    serialised: bytes = model.SerializeToString()
    return serialised


def _joined(y: Array) -> Array:
    """ONNX's [T, D, B, H] as [T, B, D*H]."""
    return y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], -1)


def onnxruntime(problem: Problem) -> Contestant:
    """ONNX Runtime with I/O binding; a stream's states go to and fro between two sets of buffers."""
    if problem.precision == "bfloat16":
        raise Unavailable("has no bfloat16 recurrent kernels on CPU")
    import onnxruntime as ort

    from .onnx_model import state_names

    shape, settings = problem.shape, ort.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = problem.threads, 1
    # Between calls its threads would spin on the cores of whoever is timed next.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(_onnx_model(problem), settings, providers=["CPUExecutionProvider"])

    def value(array: NDArray[Any]) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(array)

    states = state_names(shape)
    x, y = value(problem.x), value(np.empty((shape.steps, shape.directions, shape.batch, shape.hidden), np.float32))
    lengths = value(problem.lengths.astype(np.int32))
    sets = [[value(np.zeros((1, shape.batch, shape.hidden), np.float32)) for _ in states] for _ in range(2)]
    runs = []
    for before, after in (sets, sets[::-1]):
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", x)
        binding.bind_ortvalue_output("y", y)
        if shape.lengths != "none":
            binding.bind_ortvalue_input("lengths", lengths)
        for (start, end), from_buffer, to_buffer in zip(states.items(), before, after, strict=True):
            binding.bind_ortvalue_input(start, from_buffer)
            binding.bind_ortvalue_output(end, to_buffer)
        runs.append(partial(session.run_with_iobinding, binding))
    turns = itertools.cycle(runs)
    call = (lambda: next(turns)()) if states else runs[0]
    return Contestant(call, lambda _: _joined(y.numpy()))


def openvino(problem: Problem) -> Contestant:
    """OpenVINO, from the same model: latency hint, precision forced, shared tensors; streams as stateful models."""
    if problem.precision == "int8":
        raise Unavailable("quantises with another package, NNCF, and calibration data")
    import openvino as ov
    from openvino.passes import MakeStateful, Manager

    from .onnx_model import state_names

    shape, core = problem.shape, ov.Core()
    model = core.read_model(_onnx_model(problem), b"")
    if states := state_names(shape):
        manager = Manager()
        manager.register_pass(MakeStateful(states))
        manager.run_passes(model)
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": problem.threads,
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[problem.precision],
    }
    request = core.compile_model(model, "CPU", options).create_infer_request()
    request.set_tensor("x", ov.Tensor(problem.x, shared_memory=True))
    if shape.lengths != "none":
        request.set_tensor("lengths", ov.Tensor(problem.lengths.astype(np.int32)))
    return Contestant(partial(request.infer, share_outputs=True), lambda results: _joined(results["y"]))


class Peer(NamedTuple):
    """How a library is made a contestant, and the packages that it needs."""

    make: Callable[[Problem], Contestant]
    packages: tuple[str, ...]


PEERS = {
    "torch": Peer(torch_eager, ("torch",)),
    "torch.compile": Peer(torch_compiled, ("torch",)),
    "onnxruntime": Peer(onnxruntime, ("onnxruntime", "onnx")),
    "openvino": Peer(openvino, ("openvino", "onnx")),
}


def installed() -> list[str]:
    """Peers whose packages are there."""
    return [name for name, peer in PEERS.items() if all(map(importlib.util.find_spec, peer.packages))]


def versions(chosen: list[str]) -> dict[str, str]:
    """Versions of the packages of these peers."""
    from importlib.metadata import version

    packages = [package for name in chosen for package in PEERS[name].packages]
    return {package: version(package) for package in dict.fromkeys(packages)}


def inference_mode() -> contextlib.AbstractContextManager[Any]:
    """PyTorch's, if anyone has imported it."""
    torch = sys.modules.get("torch")
    return torch.inference_mode() if torch else contextlib.nullcontext()
