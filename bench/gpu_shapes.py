"""What `gpu.py` times, the most valuable first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CELLS = ("LSTM", "GRU")


class Shape(NamedTuple):
    """One call: I = H; with `lengths` each row has steps of its own, from a fifth of all to all."""

    cell: str
    dtype: str  # float32, tf32, float16, bfloat16
    rows: int
    hidden: int
    steps: int = 100
    layers: int = 1
    directions: int = 1
    lengths: bool = False
    training: bool = False

    def __str__(self) -> str:
        words = [self.cell, self.dtype, f"B={self.rows}", f"H={self.hidden}"]
        words += [f"T={self.steps}"] * (self.steps != 100)
        words += [f"layers={self.layers}"] * (self.layers > 1)
        words += ["bidirectional"] * (self.directions == 2)
        words += ["lengths"] * self.lengths
        return " ".join([*words, "forward+backward" if self.training else "forward"])

    def row_lengths(self) -> NDArray[np.int64] | None:
        """The same ones every time."""
        if not self.lengths:
            return None
        drawn = np.random.default_rng(0).integers(max(1, self.steps // 5), self.steps + 1, self.rows)
        drawn[0] = self.steps
        return drawn

    @property
    def valid(self) -> float:
        """Share of the steps that lengths leave."""
        lengths = self.row_lengths()
        return 1.0 if lengths is None else float(lengths.sum()) / (self.steps * self.rows)


def everything() -> Iterator[Shape]:
    """In order, some more than once."""

    def both(**fields: object) -> Iterator[Shape]:
        for cell in CELLS:
            for training in (False, True):
                yield Shape(cell=cell, training=training, **fields)  # type: ignore[arg-type]

    # What is promised: not slower than cuDNN from B = 64 and H = 512 on.
    for rows, hidden in ((64, 512), (64, 1024), (256, 1024), (128, 512), (256, 2048), (64, 2048)):
        for dtype in ("float32", "bfloat16"):
            yield from both(dtype=dtype, rows=rows, hidden=hidden)
    # Lengths beside packed sequences.
    for dtype in ("float32", "bfloat16"):
        yield from both(dtype=dtype, rows=64, hidden=512, lengths=True)
        yield from both(dtype=dtype, rows=64, hidden=512, layers=2, directions=2, lengths=True)
    # Small layers and batches.
    for rows, hidden in (
        (1, 128),
        (1, 512),
        (16, 128),
        (16, 256),
        (64, 128),
        (64, 256),
        (1, 1024),
        (16, 1024),
        (1, 256),
    ):
        for dtype in ("float32", "bfloat16"):
            yield from both(dtype=dtype, rows=rows, hidden=hidden)
    # Other number types; float16 is what cuDNN has persistent kernels for.
    for rows, hidden in ((64, 512), (64, 1024), (16, 512), (256, 1024)):
        for dtype in ("float16", "tf32"):
            yield from both(dtype=dtype, rows=rows, hidden=hidden)
    # Stacks and both directions.
    for layers, directions in ((2, 1), (1, 2), (4, 1), (3, 2)):
        for dtype in ("float32", "bfloat16"):
            yield from both(dtype=dtype, rows=64, hidden=512, layers=layers, directions=directions)
    yield from both(dtype="bfloat16", rows=32, hidden=512, steps=1000)


def select(quick: bool) -> list[Shape]:
    """Each once; quick: a dozen."""
    shapes = list(dict.fromkeys(everything()))
    return (
        [shape for shape in shapes if shape.rows == 64 and shape.hidden == 512 and not shape.lengths][:8]
        + [shape for shape in shapes if shape.lengths and shape.layers == 1][:4]
        if quick
        else shapes
    )


def peers() -> list[Shape]:
    """Beside what has to be compiled for each: small and large, then those between."""
    return [
        Shape(cell, dtype, rows, hidden, training=training)
        for rows, hidden in ((64, 512), (1, 128), (64, 128), (16, 256), (64, 1024), (256, 1024), (1, 512), (64, 2048))
        for dtype in ("float32", "bfloat16")
        for training in (False, True)
        for cell in CELLS
    ]


def tuned(quick: bool) -> list[Shape]:
    """For engine beside engine; in 16 bits there is one."""
    return [
        Shape("LSTM", dtype, rows, hidden, training=training)
        for hidden in ((64, 128, 256) if quick else (32, 64, 96, 128, 192, 256, 384, 512))
        for rows in (1, 8, 64)
        for dtype in ("float32", "float64", "bfloat16")
        for training in ((False,) if dtype == "bfloat16" else (False, True))
    ]


def shrunk(shape: Shape) -> Shape:
    """The same for a stand-in, which is slow."""
    return shape._replace(rows=min(shape.rows, 3), hidden=16, steps=4)
