"""What a run found: summaries, ratios, JSON, and what changed since another run."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import recurra

from .shapes import Shape, parse_line

FORMAT = 1
OURS = "recurra"
BINS_A_DECADE = 50  # of the histograms: bin k holds times from 10^(k/50) to 10^((k+1)/50) microseconds


@dataclass(frozen=True)
class Timing:
    """Microseconds of a call, and the largest difference of its result from recurra's float32 result."""

    median: float
    p99: float
    mean: float
    least: float
    samples: int
    error: float
    first_bin: int
    counts: list[int]


def summarise(samples: NDArray[np.float64], error: float) -> Timing:
    """Of the microseconds of every call."""
    median, p99 = (float(value) for value in np.percentile(samples, (50, 99)))
    bins = np.floor(np.log10(samples) * BINS_A_DECADE).astype(int)
    first = int(bins.min())
    counts = np.bincount(bins - first).tolist()
    return Timing(median, p99, float(samples.mean()), float(samples.min()), len(samples), error, first, counts)


@dataclass(frozen=True)
class Result:
    """One shape, and how each contestant did: either a timing or the reason why there is none."""

    shape: Shape
    threads: int
    precision: str
    bound: float | None  # microseconds
    timings: dict[str, Timing] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    together: dict[str, float] | None = None  # medians of what the threads had of each other: "gain", "exchange_ns"

    @property
    def key(self) -> tuple[str, int, str]:
        """What two runs have in common."""
        return str(self.shape), self.threads, self.precision

    @property
    def peers(self) -> dict[str, float]:
        """Medians of the others."""
        return {name: timing.median for name, timing in self.timings.items() if not name.startswith(OURS)}

    @property
    def ratio(self) -> float | None:
        """The best peer's median / ours."""
        return min(self.peers.values()) / self.timings[OURS].median if self.peers and OURS in self.timings else None

    @property
    def percent_of_limit(self) -> float | None:
        """The least time possible / our median, in per cent."""
        return 100 * self.bound / self.timings[OURS].median if self.bound and OURS in self.timings else None


@dataclass(frozen=True)
class Run:
    """Everything that a JSON file holds."""

    machine: dict[str, Any]
    versions: dict[str, str]
    config: dict[str, Any]
    limits: dict[str, Any] | None
    results: list[Result] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """As JSON; shapes as the lines of a shape file."""
        results = [asdict(result) | {"shape": str(result.shape)} for result in self.results]
        path.write_text(json.dumps({"format": FORMAT, **vars(self), "results": results}) + "\n")

    @staticmethod
    def load(path: Path) -> Run:
        """What `save` wrote.

        Raises:
            ValueError: it is something else; OSError: it cannot be read.
        """
        try:
            fields = json.loads(path.read_text())
            if fields.pop("format") != FORMAT:
                raise ValueError("of another version")
            results = fields.pop("results")
            for result in results:
                result["shape"] = parse_line(result["shape"])[0]
                result["timings"] = {name: Timing(**timing) for name, timing in result["timings"].items()}
            return Run(**fields, results=[Result(**result) for result in results])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not a result of this benchmark: {error}") from None


def fastest(runs: Sequence[Run]) -> Run:
    """The last run, with every row of that one in which we were fastest: others on the machine only make us slower."""
    best: dict[tuple[str, int, str], Result] = {}
    for result in (result for run in runs for result in run.results):
        known = best.get(result.key)
        if OURS in result.timings and (not known or result.timings[OURS].median < known.timings[OURS].median):
            best[result.key] = result
    return replace(runs[-1], results=list(best.values()))


class Change(NamedTuple):
    """Our time for a shape in two runs; `percent` above 0 is slower now."""

    key: tuple[str, int, str]
    before: float
    after: float
    percent: float


def mean_ratio(ratios: Iterable[float]) -> float:
    """Geometric mean."""
    return math.exp(float(np.mean(np.log(list(ratios)))))


def changes(old: Run, new: Run) -> list[Change]:
    """How our times changed, for every shape that both runs timed.

    Where the runs have peers in common, times are taken relative to the geometric mean of those peers' medians: a
    machine is faster one day than another, for everybody.
    """
    found, known = [], {result.key: result for result in old.results}
    for after in new.results:
        before = known.get(after.key)
        if not before or OURS not in before.timings or OURS not in after.timings:
            continue
        times = before.timings[OURS].median, after.timings[OURS].median
        shared = before.peers.keys() & after.peers.keys()
        drift = mean_ratio(after.peers[name] / before.peers[name] for name in shared) if shared else 1.0
        found.append(Change(after.key, *times, 100 * (times[1] / times[0] / drift - 1)))
    return found


class Scaling(NamedTuple):
    """How many times as fast we are on several threads as on one, of shapes timed both ways whose steps are long."""

    threads: int
    shapes: int
    median: float
    possible: float | None  # the median of what the bounds say
    least: list[
        tuple[str, float, float | None]
    ]  # shapes with less than ENOUGH a thread, the least first; and by bounds


LONG_STEP = 5.0  # microseconds
ENOUGH = 0.9  # 1.8 times as fast on two


def scalings(run: Run) -> list[Scaling]:
    """One for each number of threads above 1."""
    timed = {result.key: result for result in run.results if OURS in result.timings}
    found = []
    for threads in sorted({result.threads for result in run.results} - {1}):
        gains: list[tuple[str, float, float | None]] = []
        for (shape, count, precision), one in timed.items():
            many = timed.get((shape, threads, precision))
            if count != 1 or many is None or one.timings[OURS].median <= LONG_STEP * one.shape.steps:
                continue
            possible = one.bound / many.bound if one.bound and many.bound else None
            gains.append((one.shape.label, one.timings[OURS].median / many.timings[OURS].median, possible))
        if gains:
            bounds = [possible for _, _, possible in gains if possible]
            least = sorted((gain for gain in gains if gain[1] < ENOUGH * threads), key=lambda gain: gain[1])
            middle = float(np.median([gain for _, gain, _ in gains]))
            found.append(Scaling(threads, len(gains), middle, float(np.median(bounds)) if bounds else None, least))
    return found


def describe_machine() -> dict[str, Any]:
    """The processor, its caches, the system, how busy it is, and what recurra chose."""
    config = recurra.config()
    machine: dict[str, Any] = {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "caches": caches(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    if hasattr(os, "getloadavg"):
        machine["load"] = os.getloadavg()[0]
    return machine | {name: config[name] for name in ("isa", "compiler", "threads") if name in config}


def processor() -> str:
    """The processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    return "{} family {} model {}".format(*(fields.get(key, "?") for key in ("model name", "cpu family", "model")))


def caches() -> list[str]:
    """Caches that the first core sees, where the system tells: "L1 Data 32K", ..."""
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        found.append(f"L{level} {kind} {size}")
    return found
