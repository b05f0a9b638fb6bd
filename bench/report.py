"""What a run found, for the terminal (rich) and in Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .results import ENOUGH, LONG_STEP, OURS, Change, Result, Run, Timing, changes, drift, mean_ratio, scalings

RATIO = "best peer / recurra"
BROKEN = {  # headings on two lines
    RATIO: "best peer\n/ recurra",
    "% of limit": "% of\nlimit",
    "torch.compile": "torch.\ncompile",
    f"{OURS} float32": f"{OURS}\nfloat32",
}


class Cell(NamedTuple):
    """A median and a 99th percentile; or, with an empty one, any text."""

    text: str
    p99: str = ""


def number(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def contestants(run: Run) -> list[str]:
    """Whoever was timed at least once, us first."""
    timed = [name for result in run.results for name in result.timings]
    return list(dict.fromkeys([OURS, *timed]))


def by_threads(run: Run) -> dict[int, list[Result]]:
    """Rows of each number of threads, which has a table of its own."""
    tables: dict[int, list[Result]] = {}
    for result in run.results:
        tables.setdefault(result.threads, []).append(result)
    return tables


def heading(run: Run) -> list[str]:
    """Columns of the table."""
    ratio = [RATIO] if run.config["peers"] else []
    return ["shape", *contestants(run), *ratio, "% of limit"]


def row(run: Run, result: Result) -> list[Cell]:
    """A result, times in microseconds a step."""

    def cell(timing: Timing | None) -> Cell:
        steps = result.shape.steps
        return Cell(number(timing.median / steps), number(timing.p99 / steps)) if timing else Cell("-")

    ratio = [Cell(number(result.ratio))] if run.config["peers"] else []
    return [
        Cell(result.shape.label if result.quiet else f"{result.shape.label} (*)"),
        *(cell(result.timings.get(name)) for name in contestants(run)),
        *ratio,
        Cell(number(result.percent_of_limit)),
    ]


def origin(run: Run) -> str:
    """Machine, versions, and when."""
    machine = run.machine
    commit = f" ({machine['commit']})" if machine.get("commit") else ""
    versions = ", ".join(f"{name} {version}{commit * (name == OURS)}" for name, version in run.versions.items())
    words = [f"{machine['processor']}, {machine['isa']}", versions, run.config["precision"]]
    words += [str(machine["date"])] * bool(machine.get("date"))
    if machine.get("load") is not None:
        words.append(f"load before {machine['load']:.1f}")
    return "; ".join(words)


def warning(run: Run) -> str:
    """What others did to the run; empty if the machine was quiet as far as is known."""
    noisy = [result.others for result in run.results if result.others is not None and not result.quiet]
    if not noisy:
        return ""
    return (
        f"NOT QUIET: other processes kept up to {max(noisy):.1f} of {run.machine.get('cores', '?')} CPUs busy during "
        f"{len(noisy)} of {len(run.results)} rows, marked (*), whose times say little"
    )


def remarks(run: Run) -> Iterator[str]:
    """What to read below the table."""
    if above := [result.shape.label for result in run.results if (result.percent_of_limit or 0) > 100]:
        yield f"above 100 % of the limit: the machine changed during {', '.join(above)}"
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
    if any(result.others is None for result in run.results):
        yield "how busy others kept the machine is not known: this system does not tell"


def _limits(possible: float | None) -> str:
    return f" (limits: {possible:.2f})" if possible else ""


def markdown(run: Run) -> str:
    """The tables of README.md."""
    lines = [f"{origin(run)}. Microseconds a step: medians, and 99th percentiles in brackets."]
    lines += ["", f"**{warning(run)}**"] * bool(warning(run))
    columns = heading(run)
    for threads, results in by_threads(run).items():
        texts = [[f"{cell.text} ({cell.p99})" if cell.p99 else cell.text for cell in row(run, r)] for r in results]
        rows = [columns, ["---"] * len(columns), *texts]
        lines += ["", f"Threads: {threads}", "", *("| " + " | ".join(texts) + " |" for texts in rows)]
    return "\n".join(lines)


def show(run: Run, console: Console) -> None:
    """Print tables and remarks. 80 columns suffice: 99th percentiles stand below medians, and shapes may wrap."""
    console.print(origin(run), markup=False, highlight=False)
    console.print("Microseconds a step: medians, and below them 99th percentiles.", highlight=False)
    if text := warning(run):
        console.print(f"[bold red]{escape(text)}[/]", highlight=False)
    for threads, results in by_threads(run).items():
        console.print(f"\nThreads: {threads}", highlight=False)
        console.print(_table(run, results))
    console.print()
    for remark in remarks(run):
        console.print(remark, markup=False, highlight=False)


def _table(run: Run, results: list[Result]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    columns = heading(run)
    table.add_column(columns[0], overflow="fold")
    for column in columns[1:]:
        table.add_column(BROKEN.get(column, column), justify="right", no_wrap=True)
    for result in results:
        cells = row(run, result)
        texts = [escape(cells[0].text), *(f"{cell.text}\n[dim]{cell.p99}[/]" for cell in cells[1:])]
        if result.ratio is not None:
            colour = "green" if result.ratio >= 1 else "red"
            texts[columns.index(RATIO)] = f"[{colour}]{number(result.ratio)}[/]"
        table.add_row(*texts)
    return table


def compare(old: Run, new: Run, threshold: float, console: Console) -> int:
    """Print how our times changed since an old run; returns the exit status.

    A row is slower or faster if its median changed by more than `threshold` per cent and the spreads of the two runs,
    the quartiles of their turns, leave a gap. Peers decide nothing: their noise is not ours.

    Returns:
        0; 1 if a row is slower; 2 if nothing can be compared.
    """
    console.print()
    for when, run in (("before", old), ("now", new)):
        console.print(f"{when}: {origin(run)}", markup=False, highlight=False)
    if old.machine["processor"] != new.machine["processor"]:
        console.print("nothing compared: two processors")
        return 2
    found = changes(old, new)
    if not found:
        console.print("nothing compared: the runs have no row (shape, threads, precision) in common")
        return 2
    large = sorted((change for change in found if abs(change.percent) > threshold), key=lambda change: -change.percent)
    slower = [change for change in large if change.clear and change.percent > 0]
    faster = [change for change in large if change.clear and change.percent < 0]
    unclear = [change for change in large if not change.clear]
    for word, colour, some in (("slower", "red", slower), ("faster", "green", faster), ("unclear", "yellow", unclear)):
        for change in some:
            console.print(f"[{colour}]{word} {abs(change.percent):.0f} %[/]  {_times(change)}", highlight=False)
    console.print(
        f"{len(found)} rows compared: {len(slower)} slower and {len(faster)} faster by more than {threshold:g} %, "
        f"{len(unclear)} unclear, the two runs' spreads overlapping",
        highlight=False,
    )
    if left := len({result.key for run in (old, new) for result in run.results}) - len(found):
        console.print(f"{left} rows are in one run only", highlight=False)
    if text := warning(old):
        console.print(f"before: {text}", markup=False, highlight=False)
    if (peers := drift(old, new)) is not None:
        console.print(
            f"peers take {peers:.2f} times as long as before: how the machine itself changed", highlight=False
        )
    return 1 if slower else 0


def _times(change: Change) -> str:
    """Medians and quartiles before and now."""
    result, steps = change.result, change.result.shape.steps

    def words(timing: Timing) -> str:
        median, low, high = (number(value / steps) for value in (timing.median, timing.low, timing.high))
        return f"{median} ({low} to {high})"

    what = escape(f"{result.shape.label}, threads: {result.threads}, {result.precision}")
    return f"{words(change.before)} -> {words(change.after)} us a step  {what}"


def progress(console: Console) -> Progress:
    """A bar that says which shape is being timed."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)
