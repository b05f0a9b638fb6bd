"""Kernels of all steps at once (cpp/cuda/kernels/resident.cuh): what NVRTC and arithmetic say of them, without a GPU.

    python bench/gpu_resident.py [--cells gru,lstm] [--sizes 32,64,96,128] [--architecture sm_90a]

One line each, the table of cpp/cuda/NOTES.md: threads, registers of a thread, shared memory, and the time of a step as
cpp/cuda/resident.cpp predicts it. Nothing here is measured.
"""

from __future__ import annotations

import argparse
import re

from recurra import _core
from recurra.cuda import _libraries

CLOCK_MHZ = 1700  # as in cpp/cuda/choice.h
SHARED_BYTES = 227 << 10  # that a block may have on an H100 or H200


def line(cell: str, dtype: str, hidden: int, rows: int, architecture: str) -> str:
    """A row of the table."""
    source, options, threads, shared, cycles = _core.cuda.resident_unit(cell, dtype, hidden, hidden, rows)
    held = re.findall(r"#define RECURRA_HELD (.*)", source)[0]
    _, log = _core.cuda.compile(source, options, architecture)
    registers, spills = re.findall(r"Used (\d+) registers", log)[0], re.findall(r"(\d+) bytes spill stores", log)[0]
    values: list[object] = [cell, dtype, hidden, rows, threads, registers, held, f"{shared / 1024:.0f}"]
    time = f"{cycles / CLOCK_MHZ:.2f}" if shared <= SHARED_BYTES else "does not fit"
    return " | ".join(map(str, ["", *values, spills, time, ""])).strip()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default="rnn_tanh,gru,gru_reset_before,lstm")
    parser.add_argument("--sizes", default="32,64,96,128")
    parser.add_argument("--architecture", default="sm_90a")
    args = parser.parse_args()
    _libraries.locate()
    titles = [
        "cell",
        "numbers",
        "H",
        "rows",
        "threads",
        "registers",
        "weights held",
        "KB shared",
        "spills",
        "us a step",
    ]
    print("| " + " | ".join(titles) + " |\n|" + " --- |" * len(titles))
    for cell in args.cells.split(","):
        for dtype in ("float32", "float64"):
            for hidden in map(int, args.sizes.split(",")):
                for rows in (1, 4):
                    print(line(cell, dtype, hidden, rows, args.architecture), flush=True)


if __name__ == "__main__":
    main()
