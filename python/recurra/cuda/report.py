"""``python -m recurra cuda``: what there is for GPUs and what is missing; whether it works, and how fast."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from .. import _core
from ..recurrent import Recurrent
from . import _libraries, kernels, selftest, times

NAMES = {"driver": "driver", "nvrtc": "NVRTC", "cublas": "cuBLAS"}
STAGES = ("found", "compiled", "tested", "timed")
SELF_TEST_SECONDS = 10.0


def run(
    until: str = "timed", cells: tuple[str, ...] | None = None, layers: Iterable[tuple[str, str, int, int]] = ()
) -> int:
    """Print the report, up to one of STAGES; returns 0 when layers can run on a GPU and compute what they should, else
    1. `cells`: those to compile and test, default all. `layers`: cell, dtype, hidden size and batch of those whose
    kernels of all steps are compiled too."""
    if not report():
        return 1
    stages = STAGES[1 : STAGES.index(until) + 1]
    try:
        if "compiled" in stages:
            compile_all(cells)
            compile_layers(layers)
        if "tested" in stages and not test(cells):
            return 1
        if "timed" in stages:
            print_times()
    except (RuntimeError, MemoryError, ValueError) as error:  # of NVRTC or the driver; no room; no such layer
        progress("")
        print(f"\n{error}")
        return 1
    return 0


def report() -> bool:
    """What was found; returns whether it is enough."""
    _libraries.locate()
    found = _core.cuda.found()
    for library in found:
        print(f"{NAMES[library['name']]:<8}{about(library)}")
    gpus = 0 if found[0]["problem"] else _core.cuda.device_count()
    for ordinal in range(gpus):
        print(f"cuda:{ordinal:<3}{about_gpu(ordinal)}")
    print(f"cache   {about_cache()}")
    problems = [library["problem"] for library in found if library["problem"]]
    if problems:
        print("", *problems, sep="\n")
    if not gpus:
        print("\nThere is no GPU that recurra can use.")
    return not problems and gpus > 0


def about(library: dict[str, str]) -> str:
    """Version and path."""
    if not library["path"]:
        return "missing"
    version = f"CUDA {library['version']}" if library["name"] == "driver" else library["version"]
    return f"{version}  {library['path']}"


def about_gpu(ordinal: int) -> str:
    """Name and size."""
    gpu = _core.cuda.device(ordinal)
    major, minor = gpu["capability"]
    return f"{gpu['name']}, compute capability {major}.{minor}, {gpu['multiprocessors']} multiprocessors"


def about_cache() -> str:
    """The folder and what is in it."""
    folder = _core.cuda.cache_folder()
    if not folder:
        return "off: kernels are compiled anew in every process"
    sizes = [file.stat().st_size for file in Path(folder).glob("*.cubin")]
    return f"{folder} ({len(sizes)} kernels, {sum(sizes) / 2**20:.1f} MiB)"


# ---- does it work?


def compile_all(cells: tuple[str, ...] | None) -> None:
    """Every cell and dtype, for the first GPU."""
    wanted, had, start = kernels.units(cells), 0, time.monotonic()
    for number, was_there in enumerate(kernels.compiled(wanted, 0), 1):
        had += was_there
        progress(f"compiling for cuda:0: {number} of {len(wanted)}")
    progress("")
    seconds = time.monotonic() - start
    print(f"\ncompiled for cuda:0: {len(wanted) - had} in {seconds:.1f} s; the cache had {had}")


def compile_layers(layers: Iterable[tuple[str, str, int, int]]) -> None:
    """What runs all their steps at once."""
    for cell, dtype, size, batch in layers:
        engine = "exact-resident" if dtype in ("float32", "float64") else "cublas-resident"
        layer = Recurrent(cell, 1, size, dtype=dtype, device="cuda", engine=engine)
        made = kernels.precompile(layer, batch=batch)
        print(f"compiled for {cell} of {size} units, {dtype}, {batch} rows: {made}")


def test(cells: tuple[str, ...] | None) -> bool:
    """The self-test; returns whether all is right."""
    start = time.monotonic()
    tests = list(selftest.cases() if cells is None else selftest.cases(cells))
    outcome = selftest.run(tests, SELF_TEST_SECONDS, progress=lambda number, case: progress(f"self-test: {case}"))
    progress("")
    left_out = f", {outcome.left_out} more left out for time" if outcome.left_out else ""
    verdict = f"{len(outcome.failures)} WRONG RESULTS" if outcome.failures else "all as on the CPU"
    print(
        f"self-test: {outcome.calls} calls forward and backward{left_out}: {verdict}; {time.monotonic() - start:.1f} s"
    )
    print(*(f"  {failure}" for failure in outcome.failures), sep="\n", end="\n" if outcome.failures else "")
    return not outcome.failures


def print_times() -> None:
    """A small table."""
    print(f"\nMicroseconds a step, forward, T={times.STEPS}, I=H, median:")
    rows = []
    for row in times.measure():
        progress(f"{row.cell} H={row.width}")
        rows.append(row)
    progress("")
    print(*times.table(rows), sep="\n")


def progress(text: str) -> None:
    """Replace the last line of a terminal; elsewhere nothing."""
    if sys.stdout.isatty():
        print(f"\r\033[K{text[: os.get_terminal_size().columns - 1]}", end="", flush=True)
