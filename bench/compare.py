"""Times recurra beside PyTorch and ONNX Runtime: one process, one thread each, interleaved (A B C A B C ...).

    python bench/compare.py                 # the table in README.md
    python bench/compare.py --seconds 0.5   # quicker and noisier

Every peer is set up as its documentation advises (one thread, prepacked weights, inference mode), its output is checked
against recurra's before it is timed, and medians are reported. Inputs are random numbers, never zeros.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

import recurra

Array = np.ndarray[Any, np.dtype[np.float32]]
Call = Callable[[], Array]

GATES = {"LSTM": (4, [0, 3, 1, 2]), "GRU": (3, [1, 0, 2])}  # number of blocks, and ONNX's order of ours


class Shape(NamedTuple):
    """What is timed: `steps` 0 stands for one step at a time, as a stream."""

    cell: str
    steps: int
    batch: int
    size: int

    @property
    def label(self) -> str:
        what = "one step" if self.steps == 0 else f"T={self.steps}"
        return f"{self.cell} {what} B={self.batch} H=I={self.size}"


SHAPES = [
    Shape(cell, steps, batch, size)
    for cell in ("LSTM", "GRU")
    for steps, batch, sizes in ((0, 1, (64, 128)), (100, 1, (64, 128, 256, 512)), (50, 32, (256,)))
    for size in sizes
]


def recurra_call(torch_layer: Any, shape: Shape, x: Array) -> Call:
    """Ours: a stream for one step, a layer call for a sequence."""
    layer = getattr(recurra, shape.cell)(shape.size, shape.size)
    layer.load_state_dict(torch_layer.state_dict())
    if shape.steps:
        return lambda: layer(x)[0]
    stream, frame = layer.stream(), np.ascontiguousarray(x[0, 0])
    return lambda: stream.step(frame)


def torch_call(layer: Any, shape: Shape, x: Array) -> Call:
    """PyTorch: inference mode; tensors are made beforehand and share the arrays' memory."""
    tensor = torch.from_numpy(x)
    zeros = torch.zeros(1, shape.batch, shape.size)
    state = (zeros, zeros) if shape.cell == "LSTM" else zeros

    def call() -> Array:
        y: Array = layer(tensor, state)[0].numpy()
        return y

    return call


def onnx_call(torch_layer: Any, shape: Shape, x: Array) -> Call:
    """ONNX Runtime: one node, weights as initialisers so that they are prepacked, states as inputs and outputs."""
    blocks, order = GATES[shape.cell]
    size = shape.size

    def packed(name: str) -> Array:
        value: Array = torch_layer.state_dict()[name].numpy()
        return value.reshape(blocks, size, -1)[order].reshape(1, blocks * size, -1)

    bias = np.concatenate([packed("bias_ih_l0"), packed("bias_hh_l0")], 1)[..., 0]
    weights = {"W": packed("weight_ih_l0"), "R": packed("weight_hh_l0"), "B": bias}
    states = ["h", "c"] if shape.cell == "LSTM" else ["h"]
    options: dict[str, Any] = {"linear_before_reset": 1} if shape.cell == "GRU" else {}
    node = helper.make_node(
        shape.cell,
        ["x", "W", "R", "B", "", *(f"{s}0" for s in states)],
        ["y", *(f"{s}n" for s in states)],
        hidden_size=size,
        **options,
    )
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        shape.cell,
        [helper.make_tensor_value_info("x", floats, list(x.shape))]
        + [helper.make_tensor_value_info(f"{s}0", floats, [1, shape.batch, size]) for s in states],
        [helper.make_tensor_value_info("y", floats, None)]
        + [helper.make_tensor_value_info(f"{s}n", floats, None) for s in states],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    feed = {"x": x} | {f"{s}0": np.zeros((1, shape.batch, size), np.float32) for s in states}
    return lambda: session.run(None, feed)[0][:, 0]


def interleaved(calls: dict[str, Call], seconds: float) -> dict[str, float]:
    """Median microseconds of each call, taken in turns; short calls are repeated within a turn."""
    clock = time.perf_counter
    repeats = {}
    for name, call in calls.items():
        start = clock()
        call()
        repeats[name] = max(1, min(1000, int(200e-6 / max(clock() - start, 1e-7))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = clock() + seconds
    while clock() < end:
        for name, call in calls.items():
            start = clock()
            for _ in range(repeats[name]):
                call()
            times[name].append((clock() - start) / repeats[name] * 1e6)
    return {name: statistics.median(samples[len(samples) // 10 :]) for name, samples in times.items()}


def measure(shape: Shape, seconds: float) -> dict[str, float]:
    """Checks the peers against ours, then times all; microseconds, of a step where the shape has several."""
    torch.manual_seed(0)
    torch_layer = getattr(torch.nn, shape.cell)(shape.size, shape.size)
    x = np.random.default_rng(0).standard_normal((shape.steps or 1, shape.batch, shape.size)).astype(np.float32)
    makers = {"recurra": recurra_call, "torch": torch_call, "onnxruntime": onnx_call}
    with torch.inference_mode():
        calls = {name: maker(torch_layer, shape, x) for name, maker in makers.items()}
        ours = calls["recurra"]()
        for name in ("torch", "onnxruntime"):
            theirs = calls[name]().reshape(ours.shape)
            np.testing.assert_allclose(theirs, ours, atol=5e-6, err_msg=f"{name} computes something else")
        medians = interleaved(calls, seconds)
    return {name: median / (shape.steps or 1) for name, median in medians.items()}


def processor() -> str:
    """The processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    pairs = (line.partition(":") for line in lines)
    fields = {key.strip(): value.strip() for key, _, value in pairs}
    return "{} family {} model {}".format(*(fields.get(key, "?") for key in ("model name", "cpu family", "model")))


def main() -> None:
    """Print the table, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="time spent on each shape (default %(default)s)")
    parser.add_argument("--only", default="", help="only shapes whose label contains this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recurra.set_num_threads(1)
    print(
        f"{processor()}, {recurra.config()['isa']}, one thread; torch {torch.__version__}, "
        f"onnxruntime {onnxruntime.__version__}; microseconds a step, median\n"
    )
    print("| shape | recurra | torch | onnxruntime | best peer / recurra |")
    print("|---|---|---|---|---|")
    for shape in SHAPES:
        if arguments.only in shape.label:
            us = measure(shape, arguments.seconds)
            ratio = min(us["torch"], us["onnxruntime"]) / us["recurra"]
            print(
                f"| {shape.label} | {us['recurra']:.2f} | {us['torch']:.2f} | {us['onnxruntime']:.2f} | {ratio:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
