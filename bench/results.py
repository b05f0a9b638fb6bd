"""What a run found: summaries, ratios, JSON, and what changed since another run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .shapes import Shape, parse_line

FORMAT = 2
OURS = "recurra"
QUIET = 0.1  # CPUs that others may keep busy
Key = tuple[str, int, str]
BINS_A_DECADE = 50  # of the histograms: bin k holds times from 10^(k/50) to 10^((k+1)/50) microseconds


@dataclass(frozen=True)
class Timing:
    """Microseconds of a call, and the largest difference of its result from recurra's float32 result.

    Calls are timed in turns; `low` and `high` are the quartiles of the turns' medians, the spread over the whole time.
    """

    median: float
    low: float
    high: float
    p99: float
    mean: float
    least: float
    samples: int
    error: float
    first_bin: int
    counts: list[int]


def summarise(turns: Sequence[NDArray[np.float64]], error: float) -> Timing:
    """Of the microseconds of every call in every turn."""
    samples = np.concatenate(turns)
    median, p99 = (float(value) for value in np.percentile(samples, (50, 99)))
    low, high = (float(value) for value in np.percentile([np.median(turn) for turn in turns], (25, 75)))
    bins = np.floor(np.log10(samples) * BINS_A_DECADE).astype(int)
    first = int(bins.min())
    counts = np.bincount(bins - first).tolist()
    mean, least = float(samples.mean()), float(samples.min())
    return Timing(median, low, high, p99, mean, least, len(samples), error, first, counts)


@dataclass(frozen=True)
class Result:
    """One shape, and how each contestant did: either a timing or the reason why there is none."""

    shape: Shape
    threads: int
    precision: str
    bound: float | None  # microseconds
    timings: dict[str, Timing] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)  # of the machine, measured in between
    others: float | None = None  # CPUs that others kept busy meanwhile

    @property
    def key(self) -> Key:
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
    def quiet(self) -> bool:
        """Whether others left the machine to us, as far as is known."""
        return self.others is None or self.others <= QUIET

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
    limits: dict[str, Any]  # of the machine, before the first shape
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
    """Runs of one build on one machine as one, with the fastest timing of each library for every row: others on the
    machine only make them slower. A row's limit is that of the run in which we were fastest.

    Raises:
        ValueError: the runs are of different machines, builds, versions or precisions.
    """
    versions: dict[str, str] = {}
    for run in runs:
        versions = run.versions | versions
        for what, mine, first in (
            *((name, run.machine.get(name), runs[0].machine.get(name)) for name in ("processor", "isa", "commit")),
            *((name, run.versions[name], versions[name]) for name in run.versions),
            ("precision", run.config["precision"], runs[0].config["precision"]),
        ):
            if mine != first:
                raise ValueError(f"--load: expected runs of one {what}, got {first} and {mine}")
    merged: dict[Key, Result] = {}
    for result in (result for run in runs for result in run.results):
        merged[result.key] = _faster(merged[result.key], result) if result.key in merged else result
    config = runs[-1].config | {
        "peers": list(dict.fromkeys(name for run in runs for name in run.config["peers"])),
        "absent": [name for name in runs[-1].config["absent"] if all(name in run.config["absent"] for run in runs)],
    }
    machine = runs[-1].machine | {"date": ", ".join(str(run.machine.get("date")) for run in runs)}
    loads = [load for run in runs if (load := run.machine.get("load")) is not None]
    machine["load"] = max(loads, default=None)
    return replace(runs[-1], machine=machine, versions=versions, config=config, results=list(merged.values()))


def _faster(one: Result, other: Result) -> Result:
    """Each library's faster timing."""
    best = dict(one.timings)
    for name, timing in other.timings.items():
        if name not in best or timing.median < best[name].median:
            best[name] = timing
    chosen = other if best.get(OURS) is other.timings.get(OURS) else one
    unavailable = {name: why for name, why in (one.unavailable | other.unavailable).items() if name not in best}
    return replace(chosen, timings=best, unavailable=unavailable)


class Change(NamedTuple):
    """Our time for a row that two runs have in common."""

    result: Result
    before: Timing
    after: Timing

    @property
    def percent(self) -> float:
        """How much longer a call takes now; below 0, shorter."""
        return 100 * (self.after.median / self.before.median - 1)

    @property
    def clear(self) -> bool:
        """Whether the two spreads leave a gap: otherwise it may be chance."""
        return self.after.low > self.before.high or self.after.high < self.before.low


def mean_ratio(ratios: Iterable[float]) -> float:
    """Geometric mean."""
    return math.exp(float(np.mean(np.log(list(ratios)))))


def changes(old: Run, new: Run) -> list[Change]:
    """Our time before and now, for every row that both runs timed."""
    known = {result.key: result for result in old.results if OURS in result.timings}
    return [
        Change(after, known[after.key].timings[OURS], after.timings[OURS])
        for after in new.results
        if after.key in known and OURS in after.timings
    ]


def drift(old: Run, new: Run) -> float | None:
    """How many times as long the peers that both runs timed take now: the geometric mean; None if there are none."""
    known = {result.key: result.peers for result in old.results}
    ratios = [
        time / known[result.key][name]
        for result in new.results
        for name, time in result.peers.items()
        if name in known.get(result.key, {})
    ]
    return mean_ratio(ratios) if ratios else None


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
