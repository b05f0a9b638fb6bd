"""The least time a shape can take on this machine.

The machine's limits are measured by the compiled core: multiply-adds a second from registers, and bytes a second read
from blocks of memory, in order or to and fro. They change from second to second, so each shape has its own: `beside`
measures them in every round of its timing, and their medians count, as everybody's medians do. A recurrent layer makes
two products:

- **recurrent**, once a step, because step t needs step t-1. Its weights are read once a step, from the level of the
  memory where those of one layer and direction stay.
- **input**, for many steps at once where they are known: its weights are read once per chunk of 64 steps. One step of a
  stream has no such chunk: all the weights of all layers are read, from where all of them stay.

Each product takes max(bytes / bandwidth, operations / peak), and they follow each other:

    bound = sum over layers and directions of recurrent + input

With n threads each core holds an n-th of the weights, and all read at once as fast as so many did; if that was not
measured, each adds a bandwidth of its own, and shared caches and memory make that generous. Peaks add up to what all
cores did at once ("gain"). Cores that share the steps of one sequence have to hear from each other in every phase of
every layer, which takes what it took then ("exchange_ns"), unless they can be in different directions or, in a
sequence, layers; if one thread alone could be faster, that is the bound.

Activations, inputs and outputs are not counted. So nothing can be faster while the machine stays as it is, and 100 % is
not quite possible; a row above that is one during which the machine changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from recurra import _core

from .shapes import Shape

CHUNK = 64  # steps
PHASES = {"GRU-before": 2}  # of a step; others have one
GATES = {"LSTM": 4, "GRU": 3, "GRU-before": 3, "RNN": 1}
PEAKS = {"float32": "fma_f32_gflops", "bfloat16": "fma_bf16_gflops", "int8": "dot_int8_gops"}
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
SMALLEST, LARGEST = 16, 128 << 10  # KiB of blocks read by one thread

# PEAKS' values: 1e9 operations a second; "read_gbs": a list of (KiB, 1e9 bytes a second); "read_together_gbs": the same
# of "threads" threads, KiB and bytes of all; "gain", "exchange_ns": what they have of each other.
Limits = dict[str, Any]


def measure(threads: int = 1) -> Limits:
    """This machine's limits, of blocks of all sizes: some seconds."""
    before = _core.get_num_threads()
    _core.set_num_threads(threads)
    try:
        return _core.limits(threads)
    finally:
        _core.set_num_threads(before)


def beside(shape: Shape, precision: str, threads: int) -> Limits:
    """Those that bound this shape, as they are just now: some milliseconds. Threads must have been set."""
    # Twice as much as well: what a larger block gives, a smaller one can, and a single reading may be disturbed.
    sizes = [size // 1024 * twice for size in resident(shape, precision) for twice in (1, 2)]
    blocks = {max(SMALLEST * threads, min(LARGEST, size)) for size in sizes}
    return _core.limits(threads, sorted(blocks)) | _core.together(threads)


def median(moments: Sequence[Limits]) -> Limits:
    """Of each number."""

    def middle(values: list[Any]) -> Any:
        if not isinstance(values[0], list):
            return float(np.median(values))
        return [[readings[0][0], middle([rate for _, rate in readings])] for readings in zip(*values, strict=True)]

    return {name: middle([moment[name] for moment in moments]) for name in moments[0]}


def weights_of(shape: Shape) -> tuple[int, list[int]]:
    """How many numbers the recurrent matrix of a layer and direction holds, and each layer's input matrix."""
    gates = GATES[shape.cell]
    return gates * shape.hidden**2, [gates * shape.hidden * size for size in shape.stack]


def resident(shape: Shape, precision: str) -> list[int]:
    """Bytes of the blocks of weights that are read again and again."""
    recurrent, inputs = weights_of(shape)
    blocks = [sum(inputs) + shape.layers * recurrent] if shape.streaming else [recurrent, *inputs]
    return sorted({BYTES[precision] * block for block in blocks})


def bandwidth(limits: Limits, size: float, threads: int = 1) -> float:
    """Bytes a second when `size` bytes are read again and again, by so many threads each its part of them: at most as
    for the largest block that is no larger, or any that is larger still.
    """
    together = threads > 1 and threads == limits.get("threads")
    readings = sorted(limits["read_together_gbs" if together else "read_gbs"])
    parts = 1 if together else threads
    fitting = sum(kib * 1024 <= size / parts for kib, _ in readings)
    return 1e9 * parts * float(max(rate for _, rate in readings[max(fitting - 1, 0) :]))


def bound(
    shape: Shape,
    limits: Limits,
    precision: str = "float32",
    threads: int = 1,
) -> float | None:
    """Seconds that one call takes at least; None where the limit is not known. Without "gain" and "exchange_ns" there
    are n cores and no delay.
    """
    gain, exchange = float(limits.get("gain", threads)), float(limits.get("exchange_ns", 0))
    shared = _bound(shape, limits, precision, threads, gain)
    apart = shape.batch > 1 or shape.directions > 1 or (shape.layers > 1 and not shape.streaming)
    if shared is None or threads == 1 or apart:
        return shared
    phases = PHASES.get(shape.cell, 1) * shape.layers
    # A step of a stream is begun by its caller, who wants its result.
    news = phases + 1 if shape.streaming else phases * int(shape.row_lengths().max())
    alone = _bound(shape, limits, precision, 1, 1)
    assert alone is not None
    return min(alone, shared + news * exchange * 1e-9 * (2 if shape.training else 1))


def _bound(shape: Shape, limits: Limits, precision: str, threads: int, gain: float) -> float | None:
    """Seconds, exchanges not counted."""
    peak = limits.get(PEAKS[precision])
    if not peak:
        return None
    operations: float = peak * 1e9 * gain

    def product(weights: int, readings: float, rows: float, resident: int) -> float:
        """Seconds for `weights` numbers read so many times and used for so many rows in all."""
        size = BYTES[precision]
        read = readings * weights * size / bandwidth(limits, resident * size, threads)
        return max(read, 2 * weights * rows / operations)

    lengths = shape.row_lengths()
    rows, steps = int(lengths.sum()), int(lengths.max())
    recurrent, inputs = weights_of(shape)
    if shape.streaming:
        everything = sum(inputs) + shape.layers * recurrent
        return product(everything, 1, rows, everything)
    chunks = math.ceil(steps / CHUNK)
    each = product(recurrent, steps, rows, recurrent)
    forward = sum(each + product(size, chunks, rows, size) for size in inputs)
    if not shape.training:
        return shape.directions * forward
    # Backward: the same two products with transposed weights, and a multiply-add a weight and row for its gradient.
    weights = sum(2 * (recurrent + size) * rows / operations for size in inputs)
    return shape.directions * (2 * forward + weights)
