"""Part 4 of `gpu.py`: what the design of persistent kernels assumes of a GPU, measured (`gpu_assumptions.cu`)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recurra import _core
from recurra.cuda import _libraries
from recurra.cuda.buffers import Buffer

from .gpu_driver import Driver
from .gpu_task import Task

REPEATS = 7
MMA_OPERATIONS = 2 * 16 * 8 * 16
BLOCK = 256


class Measured(NamedTuple):
    """A value beside the design's estimate, which may be empty; the name is gpu_limits.Limits' where that has one."""

    name: str
    what: str
    value: float
    unit: str
    estimate: str


class Arguments(ctypes.Structure):
    """As in gpu_assumptions.cu."""

    _fields_ = (
        ("memory", ctypes.c_uint64),
        ("results", ctypes.c_uint64),
        ("bytes", ctypes.c_int64),
        ("count", ctypes.c_int),
    )


class Bench:
    """The kernels, compiled and loaded, and memory for them."""

    def __init__(self) -> None:
        _libraries.locate()
        self.device = _core.cuda.device(0)
        major, minor = self.device["capability"]
        source = Path(__file__).with_suffix(".cu").read_text()
        variant = "a" if major in (9, 10) else ""
        cubin, _ = _core.cuda.compile(source, [], f"sm_{major}{minor}{variant}")
        self.driver = Driver()
        self._module = self.driver.module(cubin)
        self._memory = Buffer.of(np.zeros(8 << 20, "uint8"))
        self._results = Buffer.of(np.zeros(1024, "uint8"))
        self._timer = _core.cuda.Timer(0)

    @property
    def blocks(self) -> int:
        """One for each multiprocessor."""
        return int(self.device["multiprocessors"])

    def us(self, name: str, count: int, blocks: int, threads: int = BLOCK, *, size: int = 0, cluster: int = 1) -> float:
        """Microseconds of one of a kernel's `count` repetitions: the median of differences of 2 count and count."""
        kernel = self.driver.kernel(self._module, name, cluster)

        def once(repetitions: int) -> float:
            # What blocks meet by begins at 0.
            self._memory._memory.write(0, np.zeros(8192, "uint8"))
            arguments = Arguments(self._memory.pointer, self._results.pointer, size, repetitions)
            self._timer.start(0)
            self.driver.launch(kernel, blocks, threads, arguments, shared=1024 if cluster > 1 else 0)
            self._timer.stop(0)
            return float(self._timer.microseconds)

        once(count)
        return float(np.median([once(2 * count) - once(count) for _ in range(REPEATS)]) / count)

    def launches_us(self, count: int) -> tuple[float, float]:
        """Microseconds of each of so many launches that do nothing: as calls of the driver, and from a graph."""
        kernel, stream = self.driver.kernel(self._module, "nothing"), self.driver.stream()
        arguments = Arguments(0, self._results.pointer, 0, 1)

        def launch() -> None:
            for _ in range(count):
                self.driver.launch(kernel, 1, 32, arguments, stream=stream)

        def timed(run: Callable[[], object]) -> float:
            run()
            found = []
            for _ in range(REPEATS):
                self.driver.synchronize(stream)
                self._timer.start(stream)
                run()
                self._timer.stop(stream)
                found.append(self._timer.microseconds)
            return float(np.median(found)) / count

        graph = self.driver.graph(stream, launch)
        return timed(launch), timed(lambda: self.driver.launch_graph(graph, stream))


def clock(bench: Bench) -> Iterator[Measured]:
    """Of every multiprocessor, none of which is idle."""
    us = bench.us("thousand_cycles", 4096, bench.blocks)
    yield Measured("clock_mhz", "clock", 1e3 / us, "MHz", "1700")


def mma(bench: Bench) -> Iterator[Measured]:
    """Eight warps with eight chains each on every multiprocessor; then one warp with one."""
    us = bench.us("mma_rate", 4096, bench.blocks)
    rate = bench.blocks * BLOCK / 32 * 8 * MMA_OPERATIONS / us / 1e6
    yield Measured("mma_tflops", "mma.m16n8k16 of bfloat16, rate", rate, "TFLOP/s", "790")
    latency = 1e3 * bench.us("mma_latency", 4096, 1, 32)
    yield Measured("mma_latency_ns", "the same, each waiting for the one before", latency, "ns", "")


def l2(bench: Bench) -> Iterator[Measured]:
    """Everybody reads everything, past L1."""
    size = 8 << 20
    us = bench.us("read_l2", 8, bench.blocks, 1024, size=size)
    yield Measured("l2_tbs", "L2, 8 MiB read by every multiprocessor", bench.blocks * size / us / 1e6, "TB/s", "5.6")
    for rows in (8, 16):
        size = rows * 1024 * 2
        us = bench.us("read_l2", 512, bench.blocks, 512, size=size)
        what = f"h of {rows} rows, H=1024, 16 bits, read by every multiprocessor"
        yield Measured(f"broadcast_{rows}_us", what, us, "us", "0.25" if rows == 8 else "0.49")


def cluster(bench: Bench) -> Iterator[Measured]:
    """One cluster. Of 16 blocks last: not every GPU has it."""
    for size in (2, 8, 16):
        us = bench.us(f"cluster_{size}", 4096, size, 128, cluster=size)
        name = "cluster_exchange_us" if size == 16 else f"cluster_{size}_us"
        yield Measured(name, f"exchange in a cluster of {size}", us, "us", "0.15 to 0.25")


def grid(bench: Bench) -> Iterator[Measured]:
    """All multiprocessors meet."""
    us = bench.us("grid_counter", 1024, bench.blocks)
    yield Measured("grid_counter_us", "all meet by a counter", us, "us", "0.8 to 1.1")
    us = bench.us("grid_flag", 1024, bench.blocks)
    yield Measured("grid_exchange_us", "all meet by flags in the data", us, "us", "0.35 to 0.5")


def launch(bench: Bench) -> Iterator[Measured]:
    """Of kernels that do nothing."""
    called, replayed = bench.launches_us(1000)
    yield Measured("launch_us", "launch after launch, from Python", called, "us", "")
    yield Measured("graph_node_us", "node after node of a graph", replayed, "us", "")


ASSUMPTIONS = (launch, clock, mma, l2, cluster, grid)  # last what could hang


def run(task: Task) -> dict[str, Any]:
    """Each assumption, whatever becomes of the others."""
    found: dict[str, Any] = {"measured": {}, "missing": {}}
    bench = Bench()
    for assumption in ASSUMPTIONS:
        try:
            for one in assumption(bench):
                found["measured"][one.name] = one._asdict()
        except RuntimeError as error:
            found["missing"][assumption.__name__] = str(error)
        task.write(found)
    return found
