"""Part 5 of `gpu.py`: our layers beside PyTorch's, which are cuDNN's; and engine beside engine, for `--tune`."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

import recurra
from recurra import _core
from recurra.cuda.buffers import Buffer

from . import gpu_shapes
from .gpu_shapes import Shape
from .gpu_task import Task

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]

Call = Callable[[], Any]
WARM_UPS, LEAST, MOST = 3, 3, 30
EXACT_UP_TO = 64 * 1024  # B * H; beyond, engine "exact" only takes time
ROW_SECONDS = 0.5
# All steps of a layer in one launch, where they fit.
RESIDENT = dict.fromkeys(("float32", "float64"), "exact-resident")
RESIDENT |= dict.fromkeys(("float16", "bfloat16"), "cublas-resident")
# Of ||ours - cuDNN's|| / ||cuDNN's||: rounding in both.
TOLERANCES = {"float32": 1e-4, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 8e-2}


def has_torch() -> bool:
    """Whether there is PyTorch with a GPU."""
    return torch is not None and torch.cuda.is_available()


# ---- contestants


class Ours:
    """A layer of ours on arrays of PyTorch, or of our own where there is none."""

    def __init__(self, shape: Shape, engine: str = "auto") -> None:
        self.shape = shape
        number = "float32" if shape.dtype == "tf32" else shape.dtype
        self.on_cpu = layer_on_cpu(shape.cell, shape.hidden, shape.layers, shape.directions, base(number))
        self.layer = self.on_cpu.to("cuda", dtype=number, engine=engine, allow_tf32=shape.dtype == "tf32")
        self.x = random(1, (shape.steps, shape.rows, shape.hidden), number)
        self.dy = random(2, (shape.steps, shape.rows, shape.directions * shape.hidden), number)
        self.lengths = shape.row_lengths()

    def __call__(self) -> Any:
        return self.run(self.lengths)

    def run(self, lengths: Any, resets: Any = None) -> Any:
        """The output, and with training the gradients."""
        if not self.shape.training:
            return self.layer(self.x, lengths=lengths, resets=resets)[0]
        y, _, tape = self.layer.forward(self.x, lengths=lengths, resets=resets)
        return y, tape.backward(self.dy)

    def with_resets(self) -> Call:
        """The same, with a reset of each row every 20 steps or so."""
        resets = np.random.default_rng(3).random((self.shape.steps, self.shape.rows)) < 0.05
        given = torch.tensor(resets, device="cuda") if has_torch() else Buffer.of(resets)
        return lambda: self.run(None, given)

    def with_lengths_on_device(self) -> Call:
        """The same, with lengths in device memory."""
        lengths = torch.tensor(self.lengths, dtype=torch.int32, device="cuda")
        return lambda: self.run(lengths)


class Cudnn:
    """torch.nn's layer with the same weights; lengths make it pack, run and unpack."""

    def __init__(self, ours: Ours) -> None:
        shape = self.shape = ours.shape
        torch.backends.cudnn.allow_tf32 = shape.dtype == "tf32"  # which PyTorch allows, and so is not float32
        kind = torch.nn.LSTM if shape.cell == "LSTM" else torch.nn.GRU
        self.module: Any = kind(shape.hidden, shape.hidden, shape.layers, bidirectional=shape.directions == 2)
        self.module.load_state_dict({name: torch.tensor(a) for name, a in ours.on_cpu.state_dict().items()})
        self.module.to(ours.x.device, ours.x.dtype)
        self.x, self.dy = ours.x, ours.dy
        if shape.training:
            self.x = ours.x.clone().requires_grad_()
        self.lengths: Any = None if ours.lengths is None else torch.tensor(ours.lengths)

    def __call__(self) -> Any:
        """The output, and with training the gradients."""
        with torch.set_grad_enabled(self.shape.training):
            if self.lengths is None:
                return self._back(self.module(self.x)[0], self.dy)
            y = torch.nn.utils.rnn.pad_packed_sequence(self.module(self._packed())[0])[0]
            return self._back(y, self.dy)

    def packed_before(self) -> Call:
        """The same without packing and unpacking."""
        with torch.no_grad():
            packed = self._packed()
            x = packed.data.requires_grad_(self.shape.training)
            packed = packed._replace(data=x)
            dy = torch.nn.utils.rnn.pack_padded_sequence(self.dy, self.lengths, enforce_sorted=False).data

        def call() -> Any:
            with torch.set_grad_enabled(self.shape.training):
                return self._back(self.module(packed)[0].data, dy, x)

        return call

    def _packed(self) -> Any:
        return torch.nn.utils.rnn.pack_padded_sequence(self.x, self.lengths, enforce_sorted=False)

    def _back(self, y: Any, dy: Any, x: Any = None) -> Any:
        if not self.shape.training:
            return y
        return y, torch.autograd.grad(y, [self.x if x is None else x, *self.module.parameters()], dy)


def base(number: str) -> str:
    """Of the layer on the CPU that weights come from."""
    return "float64" if number == "float64" else "float32"


@functools.lru_cache(maxsize=4)
def layer_on_cpu(cell: str, hidden: int, layers: int, directions: int, dtype: str) -> recurra.Recurrent:
    """With random weights."""
    kind = recurra.LSTM if cell == "LSTM" else recurra.GRU
    return kind(hidden, hidden, layers, bidirectional=directions == 2, seed=0, dtype=dtype)


def random(seed: int, shape: tuple[int, ...], number: str) -> Any:
    """Normal numbers on the GPU."""
    if has_torch():
        generator = torch.Generator("cuda").manual_seed(seed)
        return torch.randn(shape, generator=generator, device="cuda").to(getattr(torch, number))
    return Buffer.of(np.random.default_rng(seed).standard_normal(shape).astype(base(number)), number)


def replayed(call: Call) -> Call:
    """The call captured in a CUDA graph."""
    side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call()

    def replay() -> Any:
        graph.replay()
        return kept

    return replay


# ---- timing


def in_turns(calls: Mapping[str, Call], seconds: float) -> dict[str, dict[str, float]]:
    """Microseconds of each call on the current stream, by events, each alone on the GPU: medians and quartiles."""
    timer = _core.cuda.Timer(0)
    stream = torch.cuda.current_stream().cuda_stream if has_torch() else 0
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = time.monotonic() + seconds
    for turn in range(WARM_UPS + MOST):
        if turn >= WARM_UPS + LEAST and time.monotonic() > end:
            break
        for name, call in calls.items():
            _core.cuda.synchronize(0, stream)
            timer.start(stream)
            call()
            timer.stop(stream)
            us = timer.microseconds
            if turn >= WARM_UPS:
                samples[name].append(us)
    found = {}
    for name, times in samples.items():
        low, median, high = (float(value) for value in np.percentile(times, (25, 50, 75)))
        found[name] = {"median": median, "low": low, "high": high, "samples": len(times)}
    return found


def contestants(shape: Shape) -> Iterator[tuple[str, Call | str]]:
    """Each that can run, or why it cannot."""
    ours = Ours(shape)
    cudnn: Cudnn | None = None
    yield "recurra", ours
    if has_torch():
        cudnn = Cudnn(ours)
        yield "cuDNN", cudnn
        wrong = difference(ours, cudnn)
        yield "error", f"{wrong:.1e}" if wrong <= TOLERANCES[shape.dtype] else f"WRONG: results differ by {wrong:.1e}"
    else:
        yield "cuDNN", "no GPU: not timed"
    if shape.lengths:
        yield "recurra padded", lambda: ours.run(None)
    elif shape.layers == shape.directions == 1:
        yield "recurra resets", ours.with_resets()
    if shape.dtype == "float32" and shape.rows * shape.hidden <= EXACT_UP_TO:
        yield "recurra exact", Ours(shape, "exact")
    if shape.dtype in RESIDENT:
        yield from resident(shape)
    if not has_torch():
        return
    calls: list[tuple[str, Call]] = [("recurra graph", ours)]
    if shape.lengths:
        yield "recurra lengths on GPU", ours.with_lengths_on_device()
        if cudnn:
            yield "cuDNN packed before", cudnn.packed_before()
    elif cudnn:
        calls.append(("cuDNN graph", cudnn))
    for name, call in calls:
        try:
            yield name, replayed(call)
        except RuntimeError as error:
            with contextlib.suppress(RuntimeError):
                torch.cuda.synchronize()
            yield name, f"cannot be captured: {str(error).splitlines()[0][:120]}"


def resident(shape: Shape) -> Iterator[tuple[str, Call | str]]:
    """One launch for all steps, and what the arithmetic says of it."""
    try:
        ours = Ours(shape, RESIDENT[shape.dtype])
        yield "plan", recurra.cuda.explain(ours.layer, shape.steps, shape.rows, training=shape.training)
        yield "recurra resident", ours
    except ValueError as error:  # what fits nowhere is refused
        yield "recurra resident", str(error)[:120]


def difference(ours: Call, theirs: Call) -> float:
    """||ours - theirs|| / ||theirs||, the largest of the outputs' and, with training, the input's gradients'."""
    one, other = ours(), theirs()
    pairs = [(one[0], other[0]), (one[1].x, other[1][0])] if isinstance(one, tuple) else [(one, other)]
    numbers = [[array.detach().double() for array in pair] for pair in pairs]
    errors = [float((a - b).norm() / b.norm()) for a, b in numbers]
    return float(np.max(errors))


def measure(shape: Shape, found: Mapping[str, Call | str], seconds: float) -> dict[str, Any]:
    """A row of the table, of contestants."""
    calls = {name: what for name, what in found.items() if not isinstance(what, str)}
    said = {name: what for name, what in found.items() if isinstance(what, str)}
    return {"shape": shape._asdict(), "times": in_turns(calls, seconds), "said": said}


def rows(task: Task, shapes: list[Shape], one: Callable[[Shape], dict[str, Any]]) -> dict[str, Any]:
    """Row after row, as far as the time goes; one that fails leaves the others."""
    stand_in = "stand-in" in _core.cuda.device(0)["name"]
    if stand_in:
        shapes = list(dict.fromkeys(map(gpu_shapes.shrunk, shapes)))
    found: dict[str, Any] = task.before() or {"rows": [], "left_out": 0}
    for shape in shapes[len(found["rows"]) :]:
        if task.left < ROW_SECONDS:
            found["left_out"] = len(shapes) - len(found["rows"])
            break
        try:
            found["rows"].append(one(shape))
        except (RuntimeError, MemoryError) as error:
            message = " ".join(str(error).split())[:200]
            found["rows"].append({"shape": shape._asdict(), "times": {}, "said": {"recurra": message}})
            task.write(found)
            if not works():
                task.start_again()
        if has_torch():
            torch.cuda.empty_cache()
        task.write(found)
    task.write(found)
    return found


def works() -> bool:
    """Whether the GPU still takes what this process asks of it."""
    try:
        _core.cuda.synchronize(0, 0)
    except RuntimeError:
        return False
    return True


def run(task: Task) -> dict[str, Any]:
    """Beside cuDNN."""
    return rows(
        task, gpu_shapes.select(task.quick), lambda shape: measure(shape, dict(contestants(shape)), ROW_SECONDS)
    )


# ---- for cpp/cuda/choice.h


def run_tune(task: Task) -> dict[str, Any]:
    """Engine "exact" beside "cublas", and all steps in one launch."""

    def one(shape: Shape) -> dict[str, Any]:
        engines = ("cublas",) if shape.dtype == "bfloat16" else ("exact", "cublas")
        found: dict[str, Call | str] = {engine: Ours(shape, engine) for engine in engines}
        return measure(shape, found | dict(resident(shape)), ROW_SECONDS / 3)

    return rows(task, gpu_shapes.tuned(task.quick), one)
