"""Kernels of all steps at once: what NVRTC and arithmetic say of them, without a GPU.

    python bench/gpu_resident.py [--ways forward,backward] [--cells gru,lstm] [--sizes 32,64] [--dtypes float32,float64]

The tables of cpp/cuda/NOTES.md, for tiles of 1 and of 4 rows side by side, or in 16 bits for 1 row and for 8: blocks
that share a tile, threads of a block, registers of a thread, weights of a column in them, shared memory, bytes that are
spilled, the time of a step as cpp/cuda/resident.cpp predicts it, and that of the walk by steps as cpp/cuda/choice.h
does. Then the largest sizes that fit, by one block and by a cluster. Nothing here is measured.
"""

from __future__ import annotations

import argparse
import re
from typing import Any, NamedTuple

from recurra import _core
from recurra.cuda import _libraries

CLOCK_MHZ = 1700  # as in cpp/cuda/choice.h
LAUNCH, SLICE, CUBLAS = 1.5, 0.5, 4  # there too: microseconds of a kernel, of 16 numbers of a product, of one by cuBLAS
SHARED_BYTES = 227 << 10  # that a block may have on an H100 or H200
CLUSTERS = (1, 2, 4, 8)


class Kernel(NamedTuple):
    """As `_core.cuda.resident_unit` returns it."""

    source: str
    options: list[str]
    threads: int
    shared: int
    cycles: float
    sources: list[int]  # numbers that a product sums up, of each phase
    blocks: int

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


def kernel(cell: str, dtype: str, hidden: int, rows: int, way: str, most: int = CLUSTERS[-1]) -> Kernel:
    """Without a projection: by one block or the smallest cluster of up to `most` in which it fits."""
    found = None
    for blocks in CLUSTERS[: CLUSTERS.index(most) + 1]:
        try:
            made = _core.cuda.resident_unit(cell, dtype, hidden, hidden, rows, way == "backward", blocks)
        except ValueError:  # of registers
            continue
        found = Kernel(*made, blocks)
        if found.fits():
            break
    if found is None:
        raise ValueError(f"{cell} of hidden size {hidden} fits nowhere")
    return found


def line(cell: str, dtype: str, hidden: int, way: str, architecture: str) -> str:
    """A row of a table."""
    both = [kernel(cell, dtype, hidden, rows, way) for rows in (1, 8 if is_narrow(dtype) else 4)]
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
        f"{both[0].by_steps(is_narrow(dtype)):.1f}",
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
        for most in CLUSTERS:
            print(f"\n| H up to, {way}, blocks: {most} | {' | '.join(cells)} |\n|{' --- |' * (1 + len(cells))}")
            for dtype in dtypes:
                print(f"| {dtype} | {' | '.join(str(largest(cell, dtype, way, most)) for cell in cells)} |")


if __name__ == "__main__":
    main()
