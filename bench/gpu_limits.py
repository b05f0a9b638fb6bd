"""The least time a recurrent layer can take on a Hopper GPU: a floor for `gpu.py`'s table.

A step needs the state of the step before, so the recurrent product of a step runs alone. At best its weights stay on
the chip, spread over multiprocessors, and each step takes, one after the other,

    exchange      every part of h(t) reaches every multiprocessor that needs it
  + broadcast     each reads h of its rows: rows * H numbers at `l2_bytes_per_clock`
  + product       2 * gates * rows * H^2 operations, at the matrix units' rate

Up to H = 128 one multiprocessor holds a layer; up to 512 a cluster of 16, which exchanges through distributed shared
memory; beyond that all of them. Rows are divided, in tiles of 8, over as many copies of the weights as fit. Where it is
less, or the weights do not fit on the chip, a step is an exchange and one product with weights that are read from L2.
The input product and, for training, the products with
transposed weights and of weight gradients are made for all steps at once, at the matrix units' rate or that of memory.

Where a number comes from stands beside it; `with_measured` puts part 4's in place of the estimates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

GATES = {"LSTM": 4, "GRU": 3}
BYTES = {"float32": 4, "tf32": 4, "float16": 2, "bfloat16": 2, "float64": 8}
TILE = 8  # rows of an mma instruction's n


class Limits(NamedTuple):
    """Of an H200; H100's differ in memory alone."""

    multiprocessors: int = 132
    clock_ghz: float = 1.98  # nvidia-smi under load
    on_chip_bytes: float = 400e3  # 256 KB of registers and 227 KB of shared memory, less what a kernel needs itself
    l2_bytes_per_clock: float = 35.0  # estimate, each multiprocessor
    l2_tbs: float = 5.6  # estimate, all of them
    memory_tbs: float = 4.3  # measured, copy
    cluster_exchange_us: float = 0.2  # estimate 0.15 to 0.25: cluster barrier with distributed shared memory
    grid_exchange_us: float = 0.4  # estimate 0.35 to 0.5: a flag in the data
    tflops_16: float = 790.0  # measured, bfloat16 product of 8192^3
    tflops_tf32: float = 395.0  # half of that, as NVIDIA's datasheet has it
    tflops_32: float = 67.0  # datasheet, no matrix units
    tflops_64: float = 67.0  # datasheet, matrix units


class Floor(NamedTuple):
    """Microseconds of a whole call."""

    forward: float
    backward: float

    def of(self, training: bool) -> float:
        """Of the passes that are timed."""
        return self.forward + self.backward * training


def with_measured(limits: Limits, measured: Mapping[str, Mapping[str, Any]]) -> Limits:
    """Part 4's values by the name of the limit; those that are none are left alone."""
    return limits._replace(**{name: one["value"] for name, one in measured.items() if name in Limits._fields})


def rate(limits: Limits, dtype: str) -> float:
    """Operations a microsecond of the whole chip."""
    tflops = {"float32": limits.tflops_32, "tf32": limits.tflops_tf32, "float64": limits.tflops_64}
    return 1e6 * tflops.get(dtype, limits.tflops_16)


def step_us(limits: Limits, cell: str, dtype: str, rows: int, hidden: int) -> float:
    """One step of one layer and direction, forward, without the input product."""
    gates, size, chip = GATES[cell], BYTES[dtype], limits.multiprocessors
    weights = gates * hidden**2 * size
    from_l2 = max(2 * gates * rows * hidden**2 / rate(limits, dtype), weights / (limits.l2_tbs * 1e6))
    needed = max(1, -(-weights // int(limits.on_chip_bytes)))  # multiprocessors that hold the weights once
    if needed > chip:
        return limits.grid_exchange_us + from_l2
    tiles = -(-rows // TILE)
    if needed == 1 and hidden <= 128:
        group, exchange = 1, 0.0
    elif needed <= 16 and hidden <= 512:
        group, exchange = 16, limits.cluster_exchange_us
    else:
        group, exchange = chip // min(tiles, chip // needed), limits.grid_exchange_us
    tile_rows = -(-tiles // min(tiles, chip // group)) * TILE  # of one copy of the weights
    product = 2 * gates * tile_rows * hidden**2 / (rate(limits, dtype) * group / chip)
    read = 0 if group == 1 else min(rows, tile_rows) * hidden * size
    broadcast = read / (limits.l2_bytes_per_clock * limits.clock_ghz * 1e3)
    return min(exchange + broadcast + product, limits.grid_exchange_us + from_l2)


def floor(
    limits: Limits,
    cell: str,
    dtype: str,
    steps: int,
    rows: int,
    inputs: int,
    hidden: int,
    layers: int = 1,
    directions: int = 1,
    valid: float = 1.0,
) -> Floor:
    """Of a call. `valid`: the share of rows' steps that lengths leave; the longest row has all steps.

    Two directions run side by side, layers one after the other.
    """
    gates, size = GATES[cell], BYTES[dtype]
    numbers, forward, backward = steps * rows * valid, 0.0, 0.0
    for layer in range(layers):
        width = directions * hidden if layer else inputs
        weights = gates * hidden * (width + hidden) * directions

        def product(operations: float, moved: float) -> float:
            return max(operations / rate(limits, dtype), moved * size / (limits.memory_tbs * 1e6))

        step = step_us(limits, cell, dtype, max(1, round(rows * valid)) * directions, hidden)
        once = gates * hidden * directions
        forward += steps * step + product(2 * numbers * once * width, numbers * (width + once))
        # The same loop with the gates' gradients, which are not exchanged whole but summed up; then dX and both dW.
        backward += steps * step + product(2 * numbers * (once * width + weights), numbers * 2 * (width + once))
    return Floor(forward, backward)
