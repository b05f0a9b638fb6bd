"""The command line: ``python -m recurra bench``."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import recurra

from . import limits, peers, shapes
from .results import Run, changes, describe_machine, fastest

if TYPE_CHECKING:
    from rich.console import Console

EVERYTHING = "streaming,sequences,batches,stacks,lengths,published,training"
USUAL = {"shapes": EVERYTHING, "seconds": 3.0}
QUICK = {"shapes": "quick", "seconds": 0.5}


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m recurra bench",
        description="Time recurra beside every other library that is installed: one process, in turns, medians.",
    )
    add = made.add_argument
    add("--shapes", help=f"what to time: {', '.join(shapes.names())}, or files of your own, comma-separated")
    add("--quick", action="store_true", help="a few shapes, half a second each")
    add("--seconds", type=float, help="time spent on each shape, default 3")
    add("--threads", default="1", help="numbers of threads, comma-separated; 'all' is every core; default 1")
    add("--precision", choices=list(limits.PEAKS), default="float32", help="of the weights, default float32")
    add("--peers", help=f"whom to time: of {', '.join(peers.PEERS)}; default all that are installed")
    add("--json", type=Path, metavar="FILE", help="write everything there")
    add("--plots", type=Path, metavar="FOLDER", help="draw plots there")
    add("--markdown", action="store_true", help="print the table in Markdown")
    add(
        "--load",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="time nothing, show the run of this JSON file; of several, every row of that in which recurra was fastest",
    )
    add("--compare", type=Path, metavar="FILE", help="compare with this JSON file; exit with 1 if something got slower")
    add("--threshold", type=float, default=10, metavar="PERCENT", help="a change worth telling, default 10")
    return made


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    options = parser().parse_args(arguments)
    for name, value in (QUICK if options.quick else USUAL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    wanted = ["rich", "matplotlib"] if options.plots else ["rich"]
    if missing := [name for name in wanted if not importlib.util.find_spec(name)]:
        print(f'The benchmark needs {" and ".join(missing)}: pip install "recurra[bench]"', file=sys.stderr)
        return 2
    from rich.console import Console

    from . import report

    console = Console(width=None if sys.stdout.isatty() else 150)
    try:
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
    if old:
        return int(report.show_changes(changes(old, run), options.threshold, console))
    return 0


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
        if word != "all" and not (word.isdigit() and 0 < int(word) <= most):
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


def benchmark(options: argparse.Namespace, console: Console) -> Run:
    """Time what the options say. An interrupt ends it early and keeps what there is.

    Raises:
        ValueError: the options make no sense.
    """
    from . import report
    from .run import measure

    counts = thread_counts(options.threads)
    everything = [(n, shape) for n in counts for shape in shapes.select(options.shapes)]
    chosen = chosen_peers(options.peers)
    config = {name: getattr(options, name) for name in ("shapes", "seconds", "threads", "precision")}
    config |= {"peers": chosen, "absent": [name for name in peers.PEERS if name not in peers.installed()]}
    versions = {"recurra": recurra.__version__} | peers.versions(chosen)
    run = Run(describe_machine(), versions, config, limits.measure(max(counts)))
    with report.progress(console) as progress:
        task = progress.add_task("", total=len(everything))
        try:
            for threads, shape in everything:
                progress.update(task, description=f"{shape.label}, threads: {threads}")
                run.results.append(measure(shape, chosen, options.seconds, threads, options.precision, run.limits))
                progress.advance(task)
        except KeyboardInterrupt:
            pass
    return run
