"""Instructions that a step takes on ARM, counted by an emulator: instructions, not times.

    python bench/arm.py
    python bench/arm.py --cpu cortex-a53 gru:64:1:int8

Builds bench/steps.cpp for AArch64 and runs it under qemu-aarch64-static (Debian: g++-aarch64-linux-gnu,
qemu-user-static). Shapes are CELL:HIDDEN:ROWS:PRECISION, one input, one step of a stream. The emulator logs every block
of instructions that it runs; what four more steps add, divided by four, is a step. `--cpu` is the processor that qemu
plays: the kernels are chosen by what it has, and RECURRA_ISA forces others, as everywhere.
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
SHAPES = [
    f"{cell}:{hidden}:{rows}:{precision}"
    for precision in ("float32", "bfloat16", "int8")
    for cell in ("gru", "lstm")
    for hidden, rows in ((16, 1), (64, 1), (256, 1), (64, 32))
]
KINDS = {  # of mnemonics
    "multiply-adds": re.compile(r"(fmla|fmadd|smull2?|sdot|bfmlal[bt])$"),
    "loads": re.compile(r"(ld|prfm)"),
    "stores": re.compile(r"st"),
}
TRANSLATED = re.compile(r"0x([0-9a-f]+):  ([0-9a-f]{8})  (\S+)")
RAN = re.compile(r"Trace \d+: \S+ \[[0-9a-f]+/([0-9a-f]+)/")
UNKNOWN = {0x4F80E000: "sdot", 0x0FC0F000: "bfmlalb", 0x4FC0F000: "bfmlalt"}  # to qemu's disassembler: by element


def build(folder: Path) -> Path:
    """The program, with the kernels of two cells."""
    settings = {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_CXX_COMPILER": COMPILER,
        "CMAKE_EXE_LINKER_FLAGS": "-static",
        "RECURRA_PYTHON": "OFF",
        "RECURRA_TESTS": "ON",
        "RECURRA_CELLS": "gru;lstm",
        "RECURRA_DOUBLE": "OFF",
        "RECURRA_TRAINING": "OFF",
    }
    defines = [f"-D{name}={value}" for name, value in settings.items()]
    subprocess.run(["cmake", "-S", ROOT, "-B", folder, *defines], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", folder, "--target", "steps"], check=True, stdout=sys.stderr)
    return folder / "bench" / "steps"


def counts(program: Path, cpu: str, shape: str, steps: int) -> collections.Counter[str]:
    """How often each mnemonic runs in so many steps, and in what goes before and after them."""
    blocks: dict[str, list[str]] = {}
    runs: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        log_to = ["-d", "in_asm,exec,nochain", "-D", str(log)]
        command = [EMULATOR, "-cpu", cpu, *log_to, str(program), *shape.split(":"), str(steps)]
        subprocess.run(command, check=True, env={**os.environ, "RECURRA_NUM_THREADS": "1"})
        with log.open() as lines:
            block: list[str] = []
            for line in lines:
                if ran := RAN.match(line):
                    runs[ran[1]] += 1
                elif line.startswith("IN:"):
                    block = []
                elif instruction := TRANSLATED.match(line):
                    if not block:
                        blocks[instruction[1].zfill(16)] = block
                    block.append(UNKNOWN.get(int(instruction[2], 16) & 0xFFC0F400, instruction[3]))
    total: collections.Counter[str] = collections.Counter()
    for address, times in runs.items():
        for mnemonic in blocks[address]:
            total[mnemonic] += times
    return total


def a_step(program: Path, cpu: str, shape: str) -> collections.Counter[str]:
    """How often each mnemonic runs in a step."""
    more, fewer = counts(program, cpu, shape, 6), counts(program, cpu, shape, 2)
    return collections.Counter({name: (times - fewer[name]) // 4 for name, times in more.items()})


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cpu", default="max", help="what qemu plays: max (the default), cortex-a53, cortex-a76, neoverse-n1"
    )
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "arm-steps", help="the folder to build in")
    parser.add_argument("--all", action="store_true", help="print every mnemonic too")
    parser.add_argument("shapes", nargs="*", default=SHAPES, metavar="CELL:HIDDEN:ROWS:PRECISION")
    chosen = parser.parse_args()
    if missing := [name for name in (COMPILER, EMULATOR) if not shutil.which(name)]:
        sys.exit(f"not installed: {', '.join(missing)}")
    program = build(chosen.build)
    print(f"instructions a step, not times; qemu -cpu {chosen.cpu}\n")
    print(f"| cell:hidden:rows:precision | instructions | {' | '.join(KINDS)} | others |")
    print("|---" * (len(KINDS) + 3) + "|")
    for shape in chosen.shapes:
        counted = a_step(program, chosen.cpu, shape)
        kinds = [sum(times for name, times in counted.items() if kind.match(name)) for kind in KINDS.values()]
        total = sum(counted.values())
        print("| " + " | ".join([shape, *(f"{n:,}" for n in (total, *kinds, total - sum(kinds)))]) + " |", flush=True)
        if chosen.all:
            print(*(f"{name} {times}" for name, times in counted.most_common() if times), sep=", ")


if __name__ == "__main__":
    main()
