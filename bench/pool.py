"""Thousands of live streams: ``python -m recurra bench pool``.

Audio of 16 kHz in frames of 10 ms, so a stream has 100 frames of 160 samples a second. What is timed: `StreamPool`, a
`Stream` for each, ONNX Runtime with batches made by hand, and where there is a GPU `StreamPool` on that, on one thread;
then 10,000 streams in pools of two processes. `--soak` lets clients join, leave, dawdle and get stuck.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np

import recurra
from recurra.command.table import number, show

from . import machine

RATE, SAMPLES = 100, 160  # frames a second and samples a frame
QUEUE = 8
AT_ONCE = 4096  # arrivals that are looked at together; more only where steps do not keep up
Array = np.ndarray[Any, np.dtype[Any]]
NETWORKS: dict[str, Callable[[], recurra.Recurrent]] = {
    "GRU-64 x 2": lambda: recurra.GRU(SAMPLES, 64, 2, seed=0),
    "LSTM-256": lambda: recurra.LSTM(SAMPLES, 256, seed=0),
}


class Pool:
    """Ours."""

    title = "StreamPool"

    def __init__(self, layer: recurra.Recurrent, streams: int) -> None:
        self.pool = recurra.StreamPool(layer, streams, queue=QUEUE)
        self.ids = np.array([self.pool.add() for _ in range(streams)])  # 0, 1, ..., as the others number theirs

    def offer(self, ids: Array, frames: Array) -> None:
        """A frame each of different streams."""
        self.pool.push(ids, frames)

    def advance(self) -> Array:
        """Makes outputs of some streams, an oldest frame each, and takes them; returns which these are."""
        ids = self.pool.step()
        self.pool.pull(ids)
        return ids


class PoolOnGpu(Pool):
    """Ours, with states and arithmetic on the first GPU, frames and outputs on the host as before."""

    title = "on a GPU"

    def __init__(self, layer: recurra.Recurrent, streams: int) -> None:
        super().__init__(layer.to("cuda"), streams)


class ByHand:
    """What a server without a pool does: the frames that have come, in their order, a batch at a time."""

    most = 256

    def __init__(self) -> None:
        self._offered: deque[tuple[Array, Array]] = deque()

    def offer(self, ids: Array, frames: Array) -> None:
        """See `Pool`."""
        for first in range(0, len(ids), self.most):
            self._offered.append((ids[first : first + self.most], frames[first : first + self.most]))

    def advance(self) -> Array:
        """See `Pool`."""
        if not self._offered:
            return np.empty(0, np.int64)
        ids, frames = self._offered.popleft()
        self.run(ids, frames)
        return ids

    def run(self, ids: Array, frames: Array) -> None:
        """One step of these streams."""
        raise NotImplementedError


class Streams(ByHand):
    """A `Stream` for each."""

    title = "a Stream each"
    most = 8  # which are told of together; they are stepped one by one

    def __init__(self, layer: recurra.Recurrent, streams: int) -> None:
        super().__init__()
        self._steps = [layer.stream().step for _ in range(streams)]
        self._y = np.empty((streams, layer.hidden_size), np.float32)

    def run(self, ids: Array, frames: Array) -> None:
        """See `ByHand`."""
        for stream, frame in zip(ids.tolist(), frames, strict=True):
            self._steps[stream](frame, self._y[stream])


class OnnxRuntime(ByHand):
    """States of all streams in arrays, of which a batch takes rows and to which it gives them back."""

    title = "ONNX Runtime"

    def __init__(self, layer: recurra.Recurrent, streams: int) -> None:
        import onnxruntime

        from . import onnx_model
        from .shapes import Shape

        super().__init__()
        shape = Shape(type(layer).__name__, 1, -1, SAMPLES, layer.hidden_size, layer.num_layers)  # any batch
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        model = onnx_model.build(shape, layer.state_dict()).SerializeToString()
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._names = onnx_model.state_names(shape)
        self._states = {name: np.zeros((1, streams, layer.hidden_size), np.float32) for name in self._names}
        self._y = np.empty((streams, layer.hidden_size), np.float32)

    def run(self, ids: Array, frames: Array) -> None:
        """See `ByHand`."""
        feed = {name: array[:, ids] for name, array in self._states.items()}
        y, *states = self._session.run(["y", *self._names.values()], {"x": frames[None], **feed})
        self._y[ids] = y[0, 0]
        for array, state in zip(self._states.values(), states, strict=True):
            array[:, ids] = state


class Found(NamedTuple):
    """Of one run."""

    latencies: Array  # seconds from a frame's arrival to its output, of those that were answered
    offered: int
    seconds: float
    cpu: float  # seconds of CPU time, the clients' included


class Clients:
    """Who sends when: Poisson arrivals over all streams. A stream sends on only when it has room."""

    def __init__(self, streams: int, seconds: float) -> None:
        random = np.random.default_rng(0)
        count = int(streams * RATE * seconds)
        self.times = np.cumsum(random.exponential(1 / (streams * RATE), count))
        self.ids = random.integers(0, streams, count)
        self.frames = random.standard_normal((1024, SAMPLES), dtype=np.float32)
        self.sent = np.zeros((streams, QUEUE))  # when frames under way have come, in the place of their number
        self.begun, self.done = np.zeros((2, streams), np.int64)
        self.next = 0
        self.held: Array = np.empty(0, np.int64)  # arrivals that found their stream sending, or full
        self.latencies: list[Array] = []

    def due(self, now: float) -> tuple[Array, Array]:
        """Different streams that send now, and their frames."""
        most = max(0, AT_ONCE - len(self.held))
        end = self.next + int(np.searchsorted(self.times[self.next : self.next + most], now))
        arrivals = np.concatenate([self.held, np.arange(self.next, end)])
        self.next = end
        ids, first = np.unique(self.ids[arrivals], return_index=True)
        room = self.begun[ids] - self.done[ids] < QUEUE
        ids, chosen = ids[room], arrivals[first[room]]
        self.held = np.delete(arrivals, first[room])
        self.sent[ids, self.begun[ids] % QUEUE] = self.times[chosen]
        self.begun[ids] += 1
        order = np.argsort(chosen)
        return ids[order], self.frames[chosen[order] % len(self.frames)]

    def answered(self, ids: Array, now: float) -> None:
        """The oldest frames of these streams have outputs."""
        self.latencies.append(now - self.sent[ids, self.done[ids] % QUEUE])
        self.done[ids] += 1

    @property
    def over(self) -> bool:
        """Whether all have been sent and answered."""
        return self.next == len(self.times) and not len(self.held) and bool((self.begun == self.done).all())


def on_one_thread(contestant: Any, streams: int, seconds: float) -> Found:
    """Clients, queues and steps take turns. Ends when all is answered, or late by as long again as it should take."""
    clients = Clients(streams, seconds)
    start, cpu = time.perf_counter(), time.process_time()
    while not clients.over and (now := time.perf_counter() - start) < 2 * seconds:
        ids, frames = clients.due(now)
        if len(ids):
            contestant.offer(ids, frames)
        while len(ids := contestant.advance()):
            clients.answered(ids, time.perf_counter() - start)
        if clients.next < len(clients.times):
            time.sleep(max(0.0, clients.times[clients.next] - (time.perf_counter() - start)))
    return _found(clients, start, cpu)


def on_two_cores(streams: int, seconds: float) -> Found:
    """A pool of half of the streams, of one GRU-64, and their clients in each of two processes."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as executor:
        begin = time.time() + 2  # when both are there
        found = list(executor.map(_half, [streams // 2] * 2, [seconds] * 2, [begin] * 2))
    latencies, offered, took, cpu = zip(*found, strict=True)
    return Found(np.concatenate(latencies), sum(offered), max(took), sum(cpu))


def _half(streams: int, seconds: float, begin: float) -> Found:
    recurra.set_num_threads(1)
    pool = Pool(recurra.GRU(SAMPLES, 64, seed=0), streams)
    time.sleep(max(0.0, begin - time.time()))
    return on_one_thread(pool, streams, seconds)


def _found(clients: Clients, start: float, cpu: float) -> Found:
    seconds = time.perf_counter() - start
    return Found(np.concatenate(clients.latencies), len(clients.times), seconds, time.process_time() - cpu)


def microseconds_a_frame(contestant: Any, streams: int, seconds: float) -> float:
    """CPU time of a frame where there are always 256 that wait: the least there can be."""
    clients = Clients(streams, 1)
    size = min(256, streams)
    batches = [np.arange(first, first + size) % streams for first in range(0, 8 * size, size)]
    frames, done, begin = clients.frames[:size], 0, 0.0
    end = time.perf_counter() + 1.2 * seconds
    while (now := time.perf_counter()) < end or not begin or not done:
        if not begin and now > end - seconds:
            begin, done = time.thread_time(), 0
        for ids in batches:
            contestant.offer(ids, frames)
            while len(made := contestant.advance()):
                done += len(made)
    return (time.thread_time() - begin) / done * 1e6


def one_by_one() -> tuple[float, float]:
    """Microseconds of CPU time of a `push` of one frame and of a `pull` of one output."""
    streams = 10000
    pool, frame = recurra.StreamPool(recurra.GRU(SAMPLES, 64, seed=0), streams), np.zeros(SAMPLES, np.float32)
    ids, times = [pool.add() for _ in range(streams)], []
    for _ in range(2):  # the first time memory is new
        times = [time.thread_time()]
        for stream in ids:
            pool.push(stream, frame)
        times.append(time.thread_time())
        while len(pool.step()):
            pass
        times.append(time.thread_time())
        for stream in ids:
            pool.pull(stream)
        times.append(time.thread_time())
    return (times[1] - times[0]) / streams * 1e6, (times[3] - times[2]) / streams * 1e6


def contestants() -> Iterator[Any]:
    """Those that can run here."""
    yield from (Pool, Streams)
    if all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")):
        yield OnnxRuntime
    if recurra._core.cuda.device_count():
        yield PoolOnGpu


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(prog="python -m recurra bench pool", description="Thousands of live streams.")
    made.add_argument("--seconds", type=float, default=5.0, help="of each run, default 5")
    made.add_argument("--streams", type=int, default=1000, help="of a comparison, default 1000")
    made.add_argument("--most", type=int, default=10000, help="of the pools of two processes, default 10000")
    made.add_argument("--soak", type=float, metavar="MINUTES", help="instead: a pool under joins, leaves, slow clients")
    return made


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    options = parser().parse_args(arguments)
    for name in ("seconds", "streams", "most", "soak"):
        if (value := getattr(options, name)) is not None and not value > 0:
            parser().error(f"--{name}: expected a number above 0, got {value}")
    if options.soak:
        from . import soak

        return soak.run(options.soak * 60)
    recurra.set_num_threads(1)
    watch, columns = machine.Watch(), ["p50 ms", "p99", "p99.9", "done", "frames/s", "CPUs"]
    for name, make in NETWORKS.items():
        rows = []
        for kind in contestants():
            cost = microseconds_a_frame(kind(make(), options.streams), options.streams, options.seconds / 2)
            found = on_one_thread(kind(make(), options.streams), options.streams, options.seconds)
            rows.append([kind.title, number(cost), number(int(1e6 / RATE / cost)), *shown(found)])
        title = f"{name}: {options.streams:,} streams of {RATE} frames a second, Poisson, one thread"
        show(["", "us/frame", "a core", *columns], rows, title=title)
    found = on_two_cores(options.most, options.seconds)
    title = f"{options.most:,} streams of a GRU-64 in two processes"
    each = number(found.cpu / len(found.latencies) * 1e6)
    show(["", "us/frame with clients", *columns], [["StreamPool", each, *shown(found)]], title=title)
    push, pull = one_by_one()
    print(f"a push of one frame takes {push:.1f} us, a pull of one output {pull:.1f} us")
    others = watch.others()
    print(f"others kept {'?' if others is None else f'{others:.1f}'} of {len(machine.cpus())} CPUs busy meanwhile")
    return 0


def shown(found: Found) -> list[str]:
    """Of the table: latencies in milliseconds, how many of the frames were answered in twice the time, and how fast."""
    quantiles = np.quantile(found.latencies, [0.5, 0.99, 0.999]) * 1e3
    answered = len(found.latencies)
    rate = number(int(answered / found.seconds))
    return [
        *map(number, quantiles.tolist()),
        f"{answered / found.offered:.1%}",
        rate,
        f"{found.cpu / found.seconds:.2f}",
    ]
