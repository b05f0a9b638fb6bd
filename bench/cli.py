"""The command line: ``python -m recurra bench``."""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import recurra

from . import limits, machine, peers, shapes
from .results import Run, fastest

if TYPE_CHECKING:
    from rich.console import Console

EVERYTHING = "streaming,sequences,batches,stacks,lengths,published,training"
USUAL = {"shapes": [EVERYTHING], "seconds": 3.0}
QUICK = {"shapes": ["quick"], "seconds": 0.5}


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m recurra bench",
        description="Time recurra beside every other library that is installed: one process, in turns, medians.",
    )
    add = made.add_argument
    add(
        "--shapes",
        nargs="+",
        metavar="SHAPES",
        help=f"what to time: lines like 'LSTM,GRU T=100 B=1 H=64,128', and of {', '.join(shapes.names())} and files "
        "of your own, comma-separated; default all that are shipped; or 'variants' alone: networks that no peer ships, "
        "beside PyTorch as one writes them, with --peers torch.compile compiled too",
    )
    add("--quick", action="store_true", help="a few shapes, half a second each")
    add("--seconds", type=positive, help="time spent on each shape, default 3")
    add("--threads", default="1", help="numbers of threads, comma-separated; 'all' is every core; default 1")
    add(
        "--precision",
        type=lambda name: {"bf16": "bfloat16"}.get(name, name),
        choices=list(limits.PEAKS),
        default="float32",
        help="of the weights, default float32; bf16 is bfloat16",
    )
    add("--peers", help=f"whom to time: of {', '.join(peers.PEERS)}; default all that are installed")
    add("--json", type=Path, metavar="FILE", help="write everything there")
    add("--plots", type=Path, metavar="FOLDER", help="draw plots there")
    add("--markdown", action="store_true", help="print the table in Markdown")
    add(
        "--load",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="time nothing, show the run of this JSON file; of several, each library's fastest timing of each row",
    )
    add(
        "--compare",
        type=Path,
        metavar="FILE",
        help="compare our times with those of this JSON file; exit with 1 if a row got slower, by more than the "
        "threshold and the spread of both runs, with 2 if nothing can be compared",
    )
    add("--threshold", type=percentage, default=10, metavar="PERCENT", help="a change worth telling, default 10")
    return made


def positive(text: str) -> float:
    """A finite number above 0."""
    if not (number(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return float(text)


def percentage(text: str) -> float:
    """A finite number of at least 0."""
    if not (number(text) >= 0):
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return float(text)


def number(text: str) -> float:
    """What the text says, or NaN if that is no finite number."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    options = parser().parse_args(arguments)
    for name, value in (QUICK if options.quick else USUAL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    wanted = ["rich", "matplotlib"] if options.plots else ["rich"]
    if missing := [name for name in wanted if not importlib.util.find_spec(name)]:
        needed = " and ".join(missing)
        print(f"python -m recurra bench: needs {needed}: pip install {' '.join(missing)}", file=sys.stderr)
        return 2
    from rich.console import Console

    from . import report

    console = Console()
    try:
        check_paths(options)
        if options.shapes == ["variants"]:
            return time_variants(options, console)
        old = Run.load(options.compare) if options.compare else None
        run = fastest([Run.load(path) for path in options.load]) if options.load else benchmark(options, console)
        if options.json:
            run.save(options.json)
    except (ValueError, OSError) as error:
        print(f"python -m recurra bench: {error}", file=sys.stderr)
        return 2
    if options.markdown:
        print(report.markdown(run))
    else:
        report.show(run, console)
    if options.plots:
        from . import plots

        for path in plots.draw(run, options.plots):
            console.print(f"wrote {path}")
    return report.compare(old, run, options.threshold, console) if old else 0


def check_paths(options: argparse.Namespace) -> None:
    """Now, rather than when the run is over. Makes the folder of the plots.

    Raises:
        ValueError: something cannot be written where it is to go.
    """
    file: Path | None = options.json
    if file and (
        file.is_dir() or not file.parent.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK)
    ):
        raise ValueError(f"--json: expected a file that can be written, in a folder that exists, got {str(file)!r}")
    folder: Path | None = options.plots
    if folder:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"--plots: expected a folder, or a name for one, got {str(folder)!r}: {error}") from None
        if not os.access(folder, os.W_OK):
            raise ValueError(f"--plots: expected a folder that can be written to, got {str(folder)!r}")


def thread_counts(text: str) -> list[int]:
    """Of "1,all"; never more than the process may use.

    Raises:
        ValueError: one is no number.
    """
    before = recurra.get_num_threads()
    recurra.set_num_threads(1 << 20)  # granted up to the cores
    most = recurra.get_num_threads()
    recurra.set_num_threads(before)
    counts = []
    for word in text.split(","):
        if word != "all" and not (word.isascii() and word.isdigit() and 0 < int(word) <= most):
            raise ValueError(f"--threads: expected 'all' or numbers from 1 to {most}, got {word!r}")
        counts.append(most if word == "all" else int(word))
    return list(dict.fromkeys(counts))


def chosen_peers(text: str | None) -> list[str]:
    """Of "torch,openvino", or all that are installed.

    Raises:
        ValueError: there is no such peer, or it is not installed.
    """
    installed = peers.installed()
    chosen = installed if text is None else list(filter(None, text.split(",")))
    for name in chosen:
        if name not in peers.PEERS:
            raise ValueError(f"--peers: expected some of {', '.join(peers.PEERS)}, got {name!r}")
        if name not in installed:
            raise ValueError(f"--peers: {name} needs {' and '.join(peers.PEERS[name].packages)}, not installed")
    return chosen


def time_variants(options: argparse.Namespace, console: Console) -> int:
    """Networks that no peer ships, beside PyTorch; returns the exit status."""
    if not importlib.util.find_spec("torch"):
        raise ValueError("--shapes variants: needs torch, not installed")
    from . import variants

    for name, usual in (("load", None), ("compare", None), ("plots", None), ("markdown", False)):
        if getattr(options, name) != usual:
            raise ValueError(f"--{name}: not there for --shapes variants")
    if options.precision != "float32":
        raise ValueError(f"--precision: of variants expected float32, got {options.precision!r}")
    named = options.peers.split(",") if options.peers else []
    if not set(named) <= {"torch", variants.COMPILED}:
        raise ValueError(f"--peers: of variants expected torch or {variants.COMPILED}, got {options.peers!r}")
    compiled = variants.COMPILED in named
    return variants.main(thread_counts(options.threads), options.seconds, options.json, compiled, console)


def benchmark(options: argparse.Namespace, console: Console) -> Run:
    """Time what the options say. An interrupt ends it early and keeps what there is.

    Raises:
        ValueError: the options make no sense, or a shape does not fit this machine's memory.
    """
    from . import report
    from .run import measure

    counts = thread_counts(options.threads)
    try:
        everything = [(n, shape) for n in counts for shape in shapes.select(options.shapes)]
    except ValueError as error:
        raise ValueError(f"--shapes: {error}") from None
    chosen = chosen_peers(options.peers)
    config = {name: getattr(options, name) for name in ("shapes", "seconds", "threads", "precision")}
    config |= {"peers": chosen, "absent": [name for name in peers.PEERS if name not in peers.installed()]}
    versions = {"recurra": recurra.__version__} | peers.versions(chosen)
    run = Run(machine.describe(), versions, config, limits.measure(max(counts)))
    with report.progress(console) as progress:
        task = progress.add_task("", total=len(everything))
        try:
            for threads, shape in everything:
                progress.update(task, description=f"{shape.label}, threads: {threads}")
                run.results.append(measure(shape, chosen, options.seconds, threads, options.precision))
                progress.advance(task)
        except KeyboardInterrupt:
            pass
        except MemoryError as error:
            raise ValueError(f"--shapes: {shape.label}: {error}") from None
    return run
