"""Kernels of all steps at once: what NVRTC and arithmetic say of them, without a GPU.

    python bench/gpu_resident.py [--ways forward,grid_backward] [--cells gru,lstm] [--sizes 32,64] [--dtypes float64]

The tables of cpp/cuda/NOTES.md, side by side for a call of 1 row and for one of very many in tiles of 4, or in 16 bits
for 1 row and for 8: blocks that share a tile, threads of a block, registers of a thread, weights of a column in them,
shared memory, bytes that are spilled, the time of a step as cpp/cuda/resident.cpp predicts it, and that of the walk by
steps as cpp/cuda/choice.h does. Ways: forward and backward by one block or a cluster; grid and grid_backward by blocks
of a grid on the 132 multiprocessors of an H100 or H200. Then the largest sizes that fit. Nothing is measured.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from recurra import _core
from recurra.cuda import _libraries

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script: for bench

from bench import gpu_choice

# As in cpp/cuda/choice.h.
CLOCK_MHZ, LAUNCH, SLICE, CUBLAS = (
    gpu_choice.constants()[f"k{name}"]
    for name in ("CyclesOfMicrosecond", "LaunchMicroseconds", "SliceMicroseconds", "CublasMicroseconds")
)
SHARED_BYTES = 227 << 10  # that a block may have on an H100 or H200
CLUSTERS = (1, 2, 4, 8)
GRIDS = (2, 4, *range(8, 133, 8))  # as choose_walk.cpp tries them on their 132 multiprocessors


class Kernel(NamedTuple):
    """As `_core.cuda.resident_unit` returns it."""

    source: str
    options: list[str]
    threads: int
    shared: int
    cycles: float
    sources: list[int]  # numbers that a product sums up, of each phase
    blocks: int

    def cost(self, many: bool) -> float:
        """Cycles of a step; of many tiles, those of all multiprocessors that share one."""
        return self.cycles * (self.blocks if many else 1)

    def fits(self) -> bool:
        """Whether a block has shared memory enough."""
        return self.shared <= SHARED_BYTES

    def defined(self, name: str) -> str:
        return str(re.findall(rf"#define RECURRA_{name} (.*)", self.source)[0])

    def by_steps(self, narrow: bool) -> float:
        """Microseconds of a step whose phases are kernels of their own, for few rows."""
        columns = map(int, self.defined("COLUMNS").split(","))
        products = [CUBLAS if narrow else LAUNCH + SLICE * ((n + 15) // 16) for n in self.sources]
        sums = [product if c else 0 for product, c in zip(products, columns, strict=False)]
        return sum(LAUNCH + one for one in sums)


def is_narrow(dtype: str) -> bool:
    """Whether the tensor cores make its products."""
    return dtype in ("float16", "bfloat16")


def kernel(
    cell: str, dtype: str, hidden: int, rows: int, way: str, most: int = GRIDS[-1], many: bool = False
) -> Kernel:
    """Without a projection: by up to `most` blocks, as `resident_of` of cpp/cuda/choose_walk.cpp chooses for one tile,
    or for `many`, where blocks have to wait for each other."""
    found = None
    grid = way.startswith("grid")
    for blocks in GRIDS if grid else CLUSTERS:
        if blocks > most:
            break
        for fragment_rows in (8, 4) if is_narrow(dtype) else (8,):
            back, own = way.endswith("backward"), min(rows, fragment_rows)
            try:
                made = _core.cuda.resident_unit(cell, dtype, hidden, hidden, own, back, blocks, grid, fragment_rows)
            except ValueError:  # of registers
                continue
            one = Kernel(*made, blocks)
            if found is None or not found.fits() or (one.fits() and one.cost(many) < found.cost(many)):
                found = one
            if one.fits():
                break
    if found is None:
        raise ValueError(f"{cell} of hidden size {hidden} fits nowhere")
    return found


def line(cell: str, dtype: str, hidden: int, way: str, architecture: str) -> str:
    """A row of a table."""
    narrow = is_narrow(dtype)
    both = [kernel(cell, dtype, hidden, 1, way), kernel(cell, dtype, hidden, 8 if narrow else 4, way, many=not narrow)]
    logs = [_core.cuda.compile(one.source, one.options, architecture)[1] for one in both]

    def beside(*values: Any, between: str = ", ") -> str:
        return between.join(dict.fromkeys(map(str, values)))

    fits = [one.fits() for one in both]
    times = [f"{one.cycles / CLOCK_MHZ:.2f}" if fit else "-" for one, fit in zip(both, fits, strict=True)]
    values = [
        cell,
        dtype,
        hidden,
        beside(*(one.blocks for one in both)),
        beside(*(one.threads for one in both)),
        beside(*(re.findall(r"Used (\d+) registers", log)[0] for log in logs)),
        beside(*(one.defined("HELD") for one in both), between="; "),
        beside(*(f"{one.shared / 1024:.0f}" for one in both)),
        beside(*(re.findall(r"(\d+) bytes spill stores", log)[0] for log in logs)),
        ", ".join(times) if any(fits) else "does not fit",
        f"{both[0].by_steps(narrow):.1f}",
    ]
    return " | ".join(["", *map(str, values), ""]).strip()


def largest(cell: str, dtype: str, way: str, most: int) -> int:
    """The largest H up to 2048 that fits, with one row a tile, and up to `most` blocks."""

    def fits(hidden: int) -> bool:
        try:
            return kernel(cell, dtype, hidden, 1, way, most).fits()
        except ValueError:
            return False

    return max(filter(fits, range(2, 2049)), default=0)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", default="forward,backward")
    parser.add_argument("--cells", default="rnn_tanh,gru,gru_reset_before,lstm")
    parser.add_argument("--sizes", default="32,64,96,128")
    parser.add_argument("--dtypes", default="float32,float64")
    parser.add_argument("--architecture", default="sm_90a")
    args = parser.parse_args()
    _libraries.locate()
    cells, dtypes = args.cells.split(","), args.dtypes.split(",")
    titles = [
        "cell",
        "numbers",
        "H",
        "blocks",
        "threads",
        "registers",
        "held",
        "KB shared",
        "spills",
        "us a step",
        "by steps",
    ]
    for way in args.ways.split(","):
        print(f"\n{way}\n\n| {' | '.join(titles)} |\n|{' --- |' * len(titles)}")
        for cell in cells:
            for dtype in dtypes:
                for hidden in map(int, args.sizes.split(",")):
                    print(line(cell, dtype, hidden, way, args.architecture), flush=True)
    for way in args.ways.split(","):
        for most in GRIDS[-1:] if way.startswith("grid") else CLUSTERS:
            print(f"\n| H up to, {way}, blocks: {most} | {' | '.join(cells)} |\n|{' --- |' * (1 + len(cells))}")
            for dtype in dtypes:
                print(f"| {dtype} | {' | '.join(str(largest(cell, dtype, way, most)) for cell in cells)} |")


if __name__ == "__main__":
    main()
