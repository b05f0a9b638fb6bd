"""The GPU backend on a real GPU, in one command of a few minutes: is it right, and how fast?

python bench/gpu.py                                  # on the recurra of this checkout, or the one that is installed
python bench/gpu.py --wheel recurra-*.whl --json gpu.json --plots plots

Parts, the most valuable first, each in a process of its own and under a time limit; after each all is saved:

1. self-test: networks drawn at random beside the CPU, engine "exact" to the bit
2. tests: those of tests/ that are for a GPU, on this one
3. sanitizer: compute-sanitizer's memcheck and racecheck on small calls, where it is installed
4. assumptions: what the design assumes of a GPU: matrix units, L2, exchange in a cluster and a grid, launches
5. times: beside PyTorch's cuDNN, where PyTorch is installed, and beside the floor of `gpu_limits.py`
6. peers: beside torch.compile, and TorchRL's Triton kernels where it is installed
7. tune, with --tune: engine "exact" beside "cublas", and the constants of cpp/cuda/choice.h

A machine with a GPU may have no network. Such a wheel, for the Python that is there, can be made elsewhere (here for
CPython 3.12; it runs where glibc is not older than on the machine that made it) and is used without being installed:

    python3.12 -m pip wheel --no-deps --wheel-dir dist .

To rehearse this without a GPU, set RECURRA_CUDA_LIBRARIES to the folder of the tests' stand-in: calls are then small,
the table says that its times mean nothing, and nothing is saved.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a script: for bench

from bench import gpu_report, gpu_task  # noqa: E402

PARTS = ("self-test", "tests", "sanitizer", "assumptions", "times", "peers", "tune")
SHARES = {"self-test": 60, "tests": 90, "sanitizer": 60, "assumptions": 30, "times": 200, "peers": 100, "tune": 60}
Run = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(
        prog="python bench/gpu.py",
        description="The GPU backend on a real GPU: is it right, and how fast? Parts: "
        + ", ".join(f"{number} {name}" for number, name in enumerate(PARTS, 1)),
    )
    add = made.add_argument
    add("--wheel", type=Path, metavar="FILE", help="the recurra to use, for this Python; it is not installed")
    add("--only", type=numbers, metavar="PARTS", help="numbers of the parts to run, comma-separated; default 1 to 6")
    add("--tune", action="store_true", help="part 7 too")
    add("--minutes", type=float, default=7.5, help="how long all of it may take, default 7.5")
    add("--quick", action="store_true", help="fewer calls")
    add("--json", type=Path, metavar="FILE", help="write everything there, and the tables beside it as .md")
    add("--plots", type=Path, metavar="FOLDER", help="draw plots there (needs matplotlib and --json)")
    return made


def numbers(text: str) -> list[str]:
    """Parts' names from "1,5"."""
    found = []
    for word in text.split(","):
        if not (word.isascii() and word.isdigit() and 1 <= int(word) <= len(PARTS)):
            raise argparse.ArgumentTypeError(f"expected numbers from 1 to {len(PARTS)}, got {text!r}")
        found.append(PARTS[int(word) - 1])
    return found


def environment(wheel: Path | None, folder: Path) -> dict[str, str]:
    """For the parts: the wheel unpacked, or this checkout where it has been built, or what is installed.

    Raises:
        ValueError: the wheel is for another Python, or cannot be read.
    """
    paths = [str(ROOT)]
    if wheel:
        python = f"cp{sys.version_info.major}{sys.version_info.minor}"
        if python not in wheel.name.split("-"):
            raise ValueError(f"--wheel: expected one for {python}, got {wheel.name}")
        try:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"--wheel: {wheel}: {error}") from None
        paths.insert(0, str(folder))
    elif any((ROOT / "python" / "recurra" / f"_core{suffix}").exists() for suffix in EXTENSION_SUFFIXES):
        paths.insert(0, str(ROOT / "python"))
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "MPLBACKEND": "Agg"}


def run_parts(
    names: list[str],
    seconds: float,
    start: Callable[[str, float, float], gpu_task.Outcome],
    save: Callable[[Run], None],
    about: Mapping[str, Any],
) -> Run:
    """Run parts one after the other; `start` runs one, which is told one time and killed after the other. What a part
    leaves of its share of the time goes to those that follow."""
    run: Run = {"about": dict(about), "parts": {}}
    end = time.monotonic() + seconds
    for number, name in enumerate(names):
        left = end - time.monotonic()
        allowed = left * SHARES[name] / sum(SHARES[other] for other in names[number:])
        if allowed < 2:
            outcome = gpu_task.Outcome("out of time", 0.0, {}, "")
        else:
            outcome = start(name, allowed - min(gpu_task.GRACE, allowed / 5), allowed)
        run["parts"][name] = outcome._asdict()
        print(f"{name}: {outcome.status}, {outcome.seconds:.0f} s", flush=True)
        save(run)
    return run


def main(arguments: list[str]) -> int:
    """Run the command line: 0 when everything ran and nothing is wrong, 1 if not, 2 when there is nothing to run."""
    options = parser().parse_args(arguments)
    names = options.only or list(PARTS[:6])
    names += ["tune"] * (options.tune and "tune" not in names)
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        try:
            variables = environment(options.wheel, scratch / "site")
        except ValueError as error:
            print(f"python bench/gpu.py: {error}", file=sys.stderr)
            return 2

        def start(name: str, seconds: float, limit: float) -> gpu_task.Outcome:
            out = scratch / f"{name}.json"
            command = [sys.executable, "-m", "bench.gpu_part", name, str(seconds), str(out)]
            return gpu_task.run(command + ["--quick"] * options.quick, variables, limit, out)

        about = start("about", 60, 60)
        if about.status != "done" or about.found["problem"]:
            print(about.found.get("problem") or about.log, file=sys.stderr)
            return 2
        saved = None if about.found["stand_in"] else options.json

        def save(run: Run) -> None:
            if saved:
                saved.write_text(json.dumps(run, indent=1) + "\n")
                saved.with_suffix(".md").write_text(gpu_report.markdown(run) + "\n")

        print(gpu_report.heading(about.found), flush=True)
        run = run_parts(names, end - time.monotonic(), start, save, about.found)
        if saved and options.plots:
            command = [sys.executable, "-m", "bench.gpu_plots", str(saved), str(options.plots)]
            print(gpu_task.run(command, variables, 60, scratch / "plots").log)
    print("", gpu_report.markdown(run, brief=saved is not None), sep="\n")
    wrong = gpu_report.problems(run)
    print("", *(wrong or ["all is right"]), sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
