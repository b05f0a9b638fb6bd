"""``recurra bench FILE``: a model beside the runtime it came from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import recurra
from recurra.bench.run import interleaved

from .arguments import count
from .inspect import least_time
from .originals import original_of
from .table import number, show
from .verify import called

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["run"]


def run(rest: Sequence[str]) -> int:
    """Print a table: one step, where the model streams, and whole sequences."""
    parser = argparse.ArgumentParser(prog="recurra bench", description="A model beside the runtime it came from.")
    parser.add_argument("file", type=Path, help=".onnx, .keras, .h5 or a TorchScript .pt")
    parser.add_argument("--steps", type=count, default=100, help="of a whole sequence; default 100")
    parser.add_argument("--batch", type=count, default=1, help="default 1")
    parser.add_argument("--threads", type=count, default=1, help="of either, at most the CPUs; default 1")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row; default 1")
    options = parser.parse_args(rest)
    before = recurra.get_num_threads()
    recurra.set_num_threads(options.threads)
    options.threads = recurra.get_num_threads()
    try:
        original = original_of(options.file, options.threads)
        rows = list(_rows(original, options, np.random.default_rng(0)))
    finally:
        recurra.set_num_threads(before)
    columns = ["", "recurra us", f"{original.title} us", "ratio"]
    threads = f"{options.threads} thread{'s'[: options.threads > 1]}"
    show(columns, rows, title=f"{options.file}, batch {options.batch}, {threads}, medians of calls in turns")
    print(f"limit of this machine for a step of a row, one thread: {number(least_time(original.model) * 1e6)} us")
    return 0


def _rows(original: Any, options: Any, random: np.random.Generator) -> Any:
    model = original.model
    one = original.case(1, options.batch, random)
    try:
        stream = model.stream(options.batch, threads=options.threads)
    except ValueError:
        stream = None
    if stream is not None:
        axis = 1 if model.batch_first else 0
        frames = [x.squeeze(axis) if model.inputs[name].time else x for name, x in one.x.items()]
        frame = frames[0] if len(frames) == 1 else tuple(frames)
        yield _row("one step, streamed", lambda: stream.step(frame), lambda: original.run(one.feed), options)
    whole = original.case(options.steps, options.batch, random)
    shape = next(iter(whole.x.values())).shape
    name = f"whole, {' x '.join(map(str, shape))}"
    yield _row(name, lambda: called(model, whole), lambda: original.run(whole.feed), options)


def _row(name: str, ours: Callable[[], Any], theirs: Callable[[], Any], options: Any) -> list[str]:
    mine, other = medians({"ours": ours, "theirs": theirs}, options.seconds, options.threads)
    return [name, number(mine), number(other), number(other / mine)]


def medians(calls: dict[str, Callable[[], Any]], seconds: float, threads: int = 1) -> list[float]:
    """Microseconds of each call, which take turns."""
    return [float(np.median(np.concatenate(turns))) for turns in interleaved(calls, seconds, threads).values()]
