"""What `gpu.py` found, in Markdown. Reads what the parts left, whatever is missing of it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from . import gpu_choice
from .gpu_limits import Limits, floor, with_measured
from .gpu_shapes import Shape

Found = dict[str, Any]
PEERS = {
    "torch.compile": "of torch.nn's layer, which it leaves to cuDNN",
    "compiled step": "torch.compile of a step in PyTorch's operations, called in a loop",
    "compiled step graph": "that loop in a CUDA graph",
    "TorchRL": 'its module with recurrent_backend="triton", of float32 numbers; bfloat16: in its products alone',
}
SHOWN = 20
STAND_IN = "**STAND-IN: no GPU ran this. Its times mean nothing.**"
PROMISED = 1.0  # cuDNN's time / ours from B = 64 and H = 512 on, in float32 and bfloat16
LENGTHS_PROMISED = 1.15  # time with lengths / padded time scaled by the valid steps
RESETS_WANTED = 1.05  # time with resets / without


def markdown(run: Found, brief: bool = False) -> str:
    """All parts that have run; brief: without the long tables."""
    about = run.get("about", {})
    lines = [heading(about)]
    if about.get("stand_in"):
        lines += ["", STAND_IN]
    for name, part in run.get("parts", {}).items():
        show: Callable[[Found, Found], Iterable[str]] = SECTIONS[name]
        lines += ["", f"## {name}: {part['status']}, {part['seconds']:.0f} s", ""]
        found = part["found"]
        if "missing" in found and isinstance(found["missing"], str):
            lines.append(f"not run: {found['missing']}")
        elif found:
            lines += [line for line in show(found, run) if not (brief and name in LONG and line.startswith("|"))]
        if part["status"] != "done" and part["log"]:
            lines += ["", "```", *part["log"].splitlines()[-15:], "```"]
    return "\n".join(lines)


def heading(about: Found) -> str:
    """GPU, versions, date."""
    gpu = about.get("gpu") or {"name": "no GPU"}
    versions = ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items())
    return "; ".join(filter(None, [gpu["name"], versions, str(about.get("date", ""))]))


def problems(run: Found) -> list[str]:
    """Why the run is no success; empty if it is one."""
    said = [f"{name}: {part['status']}" for name, part in run["parts"].items() if part["status"] != "done"]
    for name, part in run["parts"].items():
        found = part["found"]
        count = len(found.get("failures", ()))
        count += sum(tool.get("errors", 0) for tool in found.values() if isinstance(tool, dict))
        count += sum(str(row["said"].get("error", "")).startswith("WRONG") for row in found.get("rows", ()))
        count += sum("recurra" in row["said"] for row in found.get("rows", ()))
        said += [f"{name}: {count} failures"] * (count > 0)
    return said


# ---- parts


def self_test(found: Found, run: Found) -> Iterator[str]:
    """Part 1."""
    yield f"{found['compiled']} of {found['units']} units compiled in {found['compile_seconds']} s, the others cached"
    verdict = f"{len(found['failures'])} WRONG" if found["failures"] else "none wrong"
    yield f"\n{found['calls']} calls beside the CPU, {verdict}: " + ", ".join(
        f"{count} {kind}" + (f" (at most {found['worst'][kind]:.1e})" if kind in found["worst"] else " (all bits)")
        for kind, count in sorted(found["by"].items())
    )
    yield from (f"- {failure}" for failure in found["failures"])


def tests(found: Found, run: Found) -> Iterator[str]:
    """Part 2."""
    yield ", ".join(f"{found[name]} {name}" for name in ("passed", "failed", "skipped"))
    if found.get("together"):
        names = ", ".join(found["together"][:SHOWN])
        yield f"- {len(found['together'])} that failed pass when each is run alone: {names}"
    yield from (f"- {test}: {why}" for test, why in list(found["failures"].items())[:SHOWN])
    yield from (f"- skipped, {count}: {why}" for why, count in found["skips"].items())


def sanitizer(found: Found, run: Found) -> Iterator[str]:
    """Part 3."""
    for tool, one in found.items():
        yield f"- {tool}: " + (f"not run: {one['missing']}" if "missing" in one else f"{one['errors']} errors")
        if one.get("errors"):
            yield from (f"  - {line}" for line in one["lines"])


def assumptions(found: Found, run: Found) -> Iterator[str]:
    """Part 4."""
    yield "| what | measured | the design's estimate |"
    yield "| --- | --- | --- |"
    for one in found["measured"].values():
        estimate = f"{one['estimate']} {one['unit']}" if one["estimate"] else "none"
        yield f"| {one['what']} | {number(one['value'])} {one['unit']} | {estimate} |"
    yield from (f"| {name} | not measured: {why} | |" for name, why in found["missing"].items())


def times(found: Found, run: Found) -> Iterator[str]:
    """Part 5: microseconds a step."""
    limits = limits_of(run)
    yield "Microseconds a step, medians; forward+backward to the gradients of input and parameters; I=H, T=100."
    yield ""
    columns = ["recurra", "recurra graph", "recurra exact", "recurra resident", "cuDNN", "cuDNN graph"]
    yield f"| call | {' | '.join(columns)} | cuDNN / recurra | graphs | floor | % of floor |"
    yield "| --- |" + " --- |" * (len(columns) + 4)
    for row in found["rows"]:
        shape, bound = Shape(**row["shape"]), floor_us(Shape(**row["shape"]), limits)
        cells = [number(step_us(row, name)) for name in columns]
        best = min(filter(None, (step_us(row, "recurra"), step_us(row, "recurra graph"))), default=None)
        share = "-" if best is None else f"{100 * bound / shape.steps / best:.0f}"
        ratios = [number(ratio(row, "cuDNN", "recurra")), number(ratio(row, "cuDNN graph", "recurra graph"))]
        yield f"| {shape} | {' | '.join([*cells, *ratios, number(bound / shape.steps), share])} |"
    yield ""
    yield from remarks(found)


def remarks(found: Found) -> Iterator[str]:
    """What to read below the table of part 5."""
    promised, by = [], defaultdict(list)
    for row in found["rows"]:
        shape, value = Shape(**row["shape"]), ratio(row, "cuDNN", "recurra")
        if value is None:
            continue
        by[
            "lengths" if shape.lengths else f"{shape.dtype} {'forward+backward' if shape.training else 'forward'}"
        ].append(value)
        plain = not shape.lengths and shape.layers == shape.directions == 1
        if plain and shape.dtype in ("float32", "bfloat16") and shape.rows >= 64 and shape.hidden >= 512:
            promised.append((value, shape))
    if promised:
        below = [
            f"{shape} {value:.2f}" for value, shape in sorted(promised, key=lambda one: one[0]) if value < PROMISED
        ]
        yield f"- cuDNN / recurra where at least {PROMISED} is promised: {spread([value for value, _ in promised])}"
        yield from (f"  - below: {one}" for one in below)
    yield from (f"- cuDNN / recurra, {kind}: {spread(values)}" for kind, values in by.items())
    before = [one for row in found["rows"] if (one := ratio(row, "cuDNN packed before", "recurra")) is not None]
    if before:
        yield f"- cuDNN / recurra, packed before the time is taken: {spread(before)}"
    for name in ("recurra", "recurra lengths on GPU"):
        shares = [
            one / Shape(**row["shape"]).valid
            for row in found["rows"]
            if row["shape"]["lengths"] and (one := ratio(row, name, "recurra padded")) is not None
        ]
        if shares:
            promise = f"at most {LENGTHS_PROMISED} is promised"
            yield f"- {name}, lengths: padded time x share of valid steps x {spread(shares)}; {promise}"
    resets = [one for row in found["rows"] if (one := ratio(row, "recurra resets", "recurra")) is not None]
    if resets:
        yield f"- recurra, a reset every 20 steps: time x {spread(resets)}; at most {RESETS_WANTED} is wanted"
    yield from left_out(found)


def left_out(found: Found) -> Iterator[str]:
    """Who did not run, and why."""
    said: dict[tuple[str, str], int] = defaultdict(int)
    for row in found["rows"]:
        for name, text in row["said"].items():
            if name != "plan" and (name != "error" or text.startswith("WRONG")):
                said[name, text] += 1
    yield from (f"- {name}, {count} rows: {text}" for (name, text), count in said.items())
    if found["left_out"]:
        yield f"- {found['left_out']} rows left out for time"


def peers(found: Found, run: Found) -> Iterator[str]:
    """Part 6: microseconds a step."""
    ours, others = ("recurra", "recurra resident"), ("cuDNN", *PEERS)
    yield "Microseconds a step, medians, without what compiling took; I=H, T=100. " + "; ".join(
        f"{name}: {what}" for name, what in PEERS.items()
    )
    yield ""
    yield f"| call | {' | '.join((*ours, *others))} | fastest of them / of ours | floor |"
    yield "| --- |" + " --- |" * (len(ours) + len(others) + 2)
    for row in found["rows"]:
        shape = Shape(**row["shape"])
        values = [step_us(row, name) for name in (*ours, *others)]
        best = [min(filter(None, of), default=None) for of in (values[: len(ours)], values[len(ours) :])]
        ratio_of_best = best[1] / best[0] if best[0] and best[1] else None
        cells = [*values, ratio_of_best, floor_us(shape, limits_of(run)) / shape.steps]
        yield f"| {shape} | {' | '.join(map(number, cells))} |"
    yield ""
    for name in others:
        ratios = [one for row in found["rows"] if (one := ratio(row, name, "recurra")) is not None]
        if ratios:
            yield f"- {name} / recurra: {spread(ratios)}"
    yield from left_out(found)


def tune(found: Found, run: Found) -> Iterator[str]:
    """Part 7."""
    yield "| call | exact | cublas | resident | exact / cublas | faster of both / resident | floor |"
    yield "| --- |" + " --- |" * 6
    for row in found["rows"]:
        steps = [step_us(row, name) for name in ("exact", "cublas", "recurra resident")]
        best = min(ratio(row, name, "recurra resident") or math.inf for name in ("exact", "cublas"))
        cells = [*map(number, steps), number(ratio(row, "exact", "cublas")), number(best if best < math.inf else None)]
        shape = Shape(**row["shape"])
        cells.append(number(floor_us(shape, limits_of(run)) / shape.steps))
        yield f"| {shape} | {' | '.join(cells)} |"
    yield ""
    for dtype in dict.fromkeys(row["shape"]["dtype"] for row in found["rows"]):
        yield from (f"- {dtype}: {line}" for line in thresholds(found["rows"], dtype))
    yield from (f"- {line}" for line in gpu_choice.predicted(run))
    yield from ("", "The table of cpp/cuda/choice.h:", "", "```c++", *gpu_choice.settled(run), "```")


def thresholds(rows: list[Found], dtype: str) -> Iterator[str]:
    """The largest H for engine "exact", for all B and for each."""
    timed = [row for row in rows if row["shape"]["dtype"] == dtype and ratio(row, "exact", "cublas")]
    for batch in (None, *sorted({row["shape"]["rows"] for row in timed})):
        of = [row for row in timed if batch in (None, row["shape"]["rows"])]
        if of:
            best, loss = gpu_choice.threshold(of)
            name = "kExactSources" if batch is None else f"of B = {batch} alone kExactSources"
            yield f"{name} = {best}: calls take {loss:.2f} x the faster engine's time on the mean"


LONG = ("times", "tune")
SECTIONS = {
    "self-test": self_test,
    "tests": tests,
    "sanitizer": sanitizer,
    "assumptions": assumptions,
    "times": times,
    "peers": peers,
    "tune": tune,
}


# ---- numbers


def limits_of(run: Found) -> Limits:
    """With what part 4 measured."""
    part = run.get("parts", {}).get("assumptions", {}).get("found", {})
    return with_measured(Limits(), part.get("measured", {}))


def floor_us(shape: Shape, limits: Limits) -> float:
    """Of a call."""
    s = shape
    least = floor(limits, s.cell, s.dtype, s.steps, s.rows, s.hidden, s.hidden, s.layers, s.directions, s.valid)
    return least.of(s.training)


def step_us(row: Found, name: str) -> float | None:
    """A contestant's median microseconds a step."""
    timing = row["times"].get(name)
    return timing["median"] / row["shape"]["steps"] if timing else None


def ratio(row: Found, one: str, other: str) -> float | None:
    """Of two contestants' times."""
    first, second = step_us(row, one), step_us(row, other)
    return first / second if first and second else None


def spread(values: list[float]) -> str:
    """Geometric mean and extremes."""
    mean = math.exp(sum(map(math.log, values)) / len(values))
    return f"geometric mean {mean:.2f}, {min(values):.2f} to {max(values):.2f}, {len(values)} rows"


def number(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
