"""The timing: contestants take turns (A B C A B C ...) in one process."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import limits, peers
from .machine import Watch
from .peers import PEERS, Contestant, Problem, Unavailable, make_problem
from .results import OURS, Result, summarise
from .shapes import Shape

TURN = 5e-3  # seconds of a turn, if a call takes less
ROUNDS = 3  # at least
# Seconds of calls that don't count, until the threads of the one before have stopped spinning: PyTorch's for 9 ms,
# or 18 beside ours on one core. After so long a sleep everybody's calls would take a quarter longer for a while.
SETTLE = 20e-3
CHECKED_STEPS = 4  # of a stream
# Largest difference from recurra's float32 result that passes for the same computation: outputs lie in -1..1.
TOLERANCE = {"float32": 2e-5, "bfloat16": 0.05, "int8": 0.1}

Floats = NDArray[np.float64]


def stamps(call: Callable[[], Any], times: int) -> Floats:
    """Nanoseconds of each of so many calls."""
    clock = time.perf_counter_ns
    ticks = [clock()]
    tick = ticks.append
    for _ in repeat(None, times):
        call()
        tick(clock())
    return np.diff(ticks).astype(float)


def stopwatch() -> float:
    """Nanoseconds that `stamps` itself takes a call; to be subtracted."""
    clock = time.perf_counter_ns
    ticks = [clock()]
    tick = ticks.append
    for _ in repeat(None, 20000):
        tick(clock())
    return float(np.median(np.diff(ticks)))


def keep_calling(call: Callable[[], Any], seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        call()


def interleaved(
    calls: dict[str, Callable[[], Any]],
    seconds: float,
    threads: int = 1,
    each_round: Callable[[], object] = lambda: None,
) -> dict[str, list[Floats]]:
    """Microseconds of every call, turn by turn. The first calls of a turn don't count: the caches are still the last
    one's."""
    settle = SETTLE if threads > 1 else 0
    times = {}
    for name, call in calls.items():
        keep_calling(call, settle)
        times[name] = max(1, min(5000, int(TURN / (stamps(call, 2)[1] * 1e-9))))
    found: dict[str, list[Floats]] = {name: [] for name in calls}
    own = stopwatch()
    gc.collect()
    gc.disable()
    try:
        end = time.perf_counter() + seconds
        while len(found[next(iter(calls))]) < ROUNDS or time.perf_counter() < end:
            for name, call in calls.items():
                keep_calling(call, settle)
                warm = max(1, times[name] // 4)
                found[name].append(stamps(call, warm + times[name])[warm:])
            each_round()
    finally:
        gc.enable()
    return {name: [np.maximum(turn - own, 1) / 1e3 for turn in turns] for name, turns in found.items()}


def result_of(contestant: Contestant, shape: Shape) -> NDArray[np.float32]:
    """What a contestant computes: its output, after some steps if it is a stream."""
    for _ in range(CHECKED_STEPS if shape.streaming else 1):
        result = contestant.call()
    return np.array(contestant.output(result)).reshape(shape.steps, shape.batch, -1)


def reason(error: Exception) -> str:
    """Why a contestant isn't timed, in one line."""
    text = str(error).strip().partition("\n")[0][:160]
    return text if isinstance(error, Unavailable) else f"{type(error).__name__}: {text}"


def measure(
    shape: Shape,
    chosen: Iterable[str],
    seconds: float,
    threads: int = 1,
    precision: str = "float32",
) -> Result:
    """Set up, check and time recurra and these peers. One that fails or computes something else is left out, with why.

    In reduced precision our own float32 is timed as well, to see what the reduction gains.
    """
    problem = make_problem(shape, threads, precision)
    plain = problem._replace(precision="float32")
    makers: dict[str, Callable[[Problem], Contestant]] = {OURS: peers.ours}
    if precision != "float32":
        makers[f"{OURS} float32"] = lambda _: peers.ours(plain)
    makers |= {name: PEERS[name].make for name in chosen}
    expected = result_of(peers.ours(plain), shape)
    calls, errors, unavailable = {}, {}, {}
    for name, make in makers.items():
        try:
            contestant = make(problem)
            with peers.inference_mode():
                error = float(np.abs(result_of(contestant, shape) - expected).max())
            if not error <= TOLERANCE[precision]:
                raise Unavailable(f"computes something else: off by {error:.2g}")
            calls[name], errors[name] = contestant.call, error
        except Exception as failure:  # whatever a library throws
            unavailable[name] = reason(failure)
    moments: list[limits.Limits] = []
    watch = Watch()
    with peers.inference_mode():
        turns = interleaved(calls, seconds, threads, lambda: moments.append(limits.beside(shape, precision, threads)))
    others, known = watch.others(), limits.median(moments)
    timings = {name: summarise(times, errors[name]) for name, times in turns.items()}
    least = limits.bound(shape, known, precision, threads)
    return Result(shape, threads, precision, least and least * 1e6, timings, unavailable, known, others)
