"""What a run found, for the terminal (rich) and in Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .results import ENOUGH, LONG_STEP, OURS, Change, Result, Run, mean_ratio, scalings

RATIO = "best peer / recurra"


def number(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def contestants(run: Run) -> list[str]:
    """Whoever was timed at least once, us first."""
    names = [name for result in run.results for name in (*result.timings, *result.unavailable)]
    timed = {name for result in run.results for name in result.timings}
    return [name for name in dict.fromkeys(names) if name in timed or name == OURS]


def heading(run: Run) -> list[str]:
    """Columns of the table."""
    peers = [name for name in contestants(run) if name != OURS]
    ratio = [RATIO] if run.config["peers"] else []
    limit = ["% of limit"] if run.limits else []
    return ["shape", "threads", OURS, "p99", *peers, *ratio, *limit]


def row(run: Run, result: Result) -> list[str]:
    """Texts of a result, times in microseconds a step."""
    steps = result.shape.steps
    times = {name: number(timing.median / steps) for name, timing in result.timings.items()}
    ours = result.timings.get(OURS)
    peers = [times.get(name, "-") for name in contestants(run) if name != OURS]
    ratio = [number(result.ratio)] if run.config["peers"] else []
    limit = [number(result.percent_of_limit)] if run.limits else []
    return [
        result.shape.label,
        str(result.threads),
        times.get(OURS, "-"),
        number(ours.p99 / steps if ours else None),
        *peers,
        *ratio,
        *limit,
    ]


def title(run: Run) -> str:
    """Where and what."""
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    return (
        f"{run.machine['processor']}, {run.machine['isa']}; {versions}; {run.config['precision']}, "
        "microseconds a step, medians"
    )


def remarks(run: Run) -> Iterator[str]:
    """What to read below the table."""
    ratios: dict[str, list[float]] = defaultdict(list)
    for result in run.results:
        if result.ratio:
            what = "training" if result.shape.training else "inference"
            ratios[f"{what}, threads {result.threads}"].append(result.ratio)
    for what, found in ratios.items():
        of = f"of {len(found)} rows"
        yield f"best peer / recurra, {what}: geometric mean {mean_ratio(found):.2f}, least {min(found):.2f} {of}"
    for scaling in scalings(run):
        yield (
            f"{scaling.threads} threads / one: median {scaling.median:.2f}{_limits(scaling.possible)}, "
            f"of {scaling.shapes} shapes whose step takes more than {LONG_STEP:g} us; "
            f"{len(scaling.least)} below {ENOUGH * scaling.threads:g}"
        )
        yield from (f"  {label}: {gain:.2f}{_limits(possible)}" for label, gain, possible in scaling.least)
    shapes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for result in run.results:
        for name, why in result.unavailable.items():
            shapes[name, why].append(result.shape.label)
    for (name, why), labels in shapes.items():
        where = labels[0] if len(labels) == 1 else f"{len(labels)} of {len(run.results)} rows"
        yield f"{name}: {why} ({where})"
    if run.config["absent"]:
        yield f"not installed: {', '.join(run.config['absent'])}"
    if not run.limits:
        yield "this build measures no limits, so there is no per cent of the limit"
    elif unrest := run.limits.get("unrest"):
        yield f"a microsecond's reading: p99 {unrest:.2f} times the median, by this machine alone"


def _limits(possible: float | None) -> str:
    return f" (limits: {possible:.2f})" if possible else ""


def markdown(run: Run) -> str:
    """The table of README.md."""
    columns = heading(run)
    rows = [columns, ["---"] * len(columns), *(row(run, result) for result in run.results)]
    return "\n".join([title(run), "", *("| " + " | ".join(texts) + " |" for texts in rows)])


def show(run: Run, console: Console) -> None:
    """Print the table and the remarks."""
    table = Table(title=title(run), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = heading(run)
    for k, column in enumerate(columns):
        table.add_column(column, justify="right" if k else "left")
    for result in run.results:
        texts = row(run, result)
        if result.ratio is not None:
            place = columns.index(RATIO)
            texts[place] = f"[{'green' if result.ratio >= 1 else 'red'}]{texts[place]}[/]"
        table.add_row(*texts)
    console.print(table)
    for remark in remarks(run):
        console.print(remark, markup=False, highlight=False)


def show_changes(changes: list[Change], threshold: float, console: Console) -> bool:
    """Print what changed by more than `threshold` per cent; whether anything became slower by more."""
    slower = [change for change in changes if change.percent > threshold]
    faster = [change for change in changes if change.percent < -threshold]
    for word, colour, found in (("slower", "red", slower), ("faster", "green", faster)):
        for (shape, threads, precision), before, after, percent in sorted(found, key=lambda c: -abs(c.percent)):
            times = f"{number(before)} -> {number(after)} us"
            console.print(f"[{colour}]{word} {abs(percent):.0f} %[/] {times}  {shape} threads={threads} {precision}")
    console.print(
        f"{len(changes)} shapes compared: {len(slower)} slower and {len(faster)} faster by more than {threshold:g} %"
    )
    return bool(slower)


def progress(console: Console) -> Progress:
    """A bar that says which shape is being timed."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)
