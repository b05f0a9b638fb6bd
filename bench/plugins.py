"""A model in a plug-in, one sample a call: by the C++ library, the exported C++ header, exported C, and by others.

    python bench/plugins.py [--library BUILD] [--peer NAME=FILE.so ...] [MODEL ...]

Prints nanoseconds a sample (medians, in turns, in one process), the bytes of a stripped shared library, and what
memory grows by when it is loaded and has run (RSS), of models with a Linear(1) behind them: those of `MODELS`, or such
as GRU-8, LSTM-128x2 (hidden size, layers). Needs g++ and gcc, Linux.
`BUILD` is a folder with librecurra.a (default build/cpp, which CONTRIBUTING.md says how to build; left out where there
is none). A peer is a shared library of yours, built as you think best, with the entry point that bench/plugins.cpp
describes and models named as here; sizes are of the whole file, and ratios are of the fastest peer's time.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import recurra

HERE = Path(__file__).resolve().parent
FAST = ["-O2", "-march=native", "-fPIC", "-shared", "-s", "-fvisibility=hidden"]
ENTRY = """
extern "C" __attribute__((visibility("default"))) auto plugin(const char *) -> void (*)(const float *, float *, int)
{
    return run;
}
"""
SOURCES = {
    "C++ library": """\
#include "recurra/model.h"
static void run(const float *x, float *y, int samples)
{
    static const auto model = recurra::Model<float>::load("@folder/net.safetensors");
    static recurra::ModelStream<float> stream(model, 1);
    for (int i = 0; i < samples; ++i) stream.step(x + i, y + i);
}
""",
    "header": """\
#include "net.hpp"
static void run(const float *x, float *y, int samples)
{
    static net::State state;
    static const bool begun = (net::reset(state), true);
    (void)begun;
    for (int i = 0; i < samples; ++i) net::step(state, x + i, y + i);
}
""",
    "C": """\
#include "net.h"
static void run(const float *x, float *y, int samples)
{
    static net_state state;
    static const bool begun = (net_reset(&state), true);
    (void)begun;
    for (int i = 0; i < samples; ++i) net_step(&state, x + i, y + i);
}
""",
}


MODELS = ("GRU-16", "GRU-64", "LSTM-64", "LSTM-32x2")  # bench/embedded.py counts what these take, too


def recurrent(name: str) -> Any:
    """The layer of a model: cell, hidden size, and how many layers where there are several."""
    found = re.fullmatch(r"(GRU|LSTM)-([1-9]\d*)(?:x([1-9]\d*))?", name)
    if not found:
        sys.exit(f"MODEL: expected such as GRU-8 or LSTM-128x2, got {name!r}")
    return getattr(recurra, found[1])(1, int(found[2]), int(found[3] or 1), seed=1)


def with_head(layer: Any) -> recurra.Model:
    """And a Linear(1) behind it."""
    return recurra.Model([layer, recurra.Linear(layer.hidden_size, 1, seed=2)])


def built(name: str, folder: Path, library: Path) -> Path:
    """One of `SOURCES` as a shared library, in a folder that has the exported files."""
    source, made = folder / "plugin.cpp", folder / f"{name}.so"
    source.write_text(SOURCES[name].replace("@folder", str(folder)) + ENTRY)
    more: list[Any] = []
    if name == "C++ library":
        more = ["-I", HERE.parent / "cpp" / "include", library / "librecurra.a", "-Wl,--gc-sections", "-pthread"]
    elif name == "C":
        subprocess.run(["gcc", *FAST[:3], "-std=c99", "-c", folder / "net.c", "-o", folder / "net.o"], check=True)
        more = [folder / "net.o"]
    subprocess.run(["g++", *FAST, "-std=c++17", source, *more, "-o", made], check=True)
    return made


def asked(program: Path, *arguments: Any) -> list[float]:
    """The numbers that bench/plugins.cpp prints."""
    ran = subprocess.run([program, *arguments], check=True, capture_output=True, text=True)
    return [float(line) for line in ran.stdout.split()]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Time a model in a plug-in, one sample a call.")
    parser.add_argument("--library", type=Path, default=HERE.parent / "build" / "cpp", metavar="BUILD")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=FILE.so")
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    options = parser.parse_args()
    layers = {name: recurrent(name) for name in options.models}
    if missing := [name for name in ("g++", "gcc") if not shutil.which(name)]:
        sys.exit(f"not installed: {', '.join(missing)}")
    peers = {name: Path(file).resolve() for name, _, file in (each.partition("=") for each in options.peer)}
    if absent := [str(file) for file in peers.values() if not file.is_file()]:
        sys.exit(f"--peer: expected NAME=FILE.so, found no file {absent[0]!r}")
    names = [name for name in SOURCES if name != "C++ library" or (options.library / "librecurra.a").is_file()]
    print(f"{recurra.config()['isa']}; g++ {' '.join(FAST[:2])}\n")
    print("| model + Linear(1) | by | ns a sample | best peer / it | bytes | RSS, KiB |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "plugins"
        subprocess.run(["g++", "-O2", "-std=c++17", HERE / "plugins.cpp", "-o", program, "-ldl"], check=True)
        for name, layer in layers.items():
            row(program, name, with_head(layer), names, options.library, peers)


def row(
    program: Path, name: str, model: recurra.Model, names: list[str], library: Path, peers: dict[str, Path]
) -> None:
    """Build, measure and print one model."""
    folder = program.parent / name
    model.to_cpp(folder, "net")
    model.to_c(folder, "net")
    model.save(folder / "net.safetensors")
    files = {each: built(each, folder, library) for each in names} | peers
    times = dict(zip(files, asked(program, "time", name, *files.values()), strict=True))
    best = min((times[peer] for peer in peers if times[peer]), default=0.0)
    empty = min(asked(program, "memory", name)[0] for _ in range(5))
    for each, file in files.items():
        if not times[each]:
            continue
        rss = min(asked(program, "memory", name, file)[0] for _ in range(5)) - empty
        ratio = f"{best / times[each]:.2f}" if best and each not in peers else ""
        print(f"| {name} | {each} | {times[each]:.1f} | {ratio} | {file.stat().st_size:,} | {rss:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
