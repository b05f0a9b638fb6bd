"""Hypothesis strategies: a whole problem (cell, sizes, options, lengths) in one value, made into arrays on demand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from checks import Array
from hypothesis import strategies as st
from reference import CELLS
from reference_general import of_direction, random_constants

import recurra

SIZES = (1, 3, 7, 17, 100, 257)  # no multiple of a vector among them
DTYPES = ("float32", "float64")
TOLERANCE = {"float32": 2e-6, "float64": 1e-12}


def tolerance(problem: Problem) -> float:
    """Of what the dtype may do to results. A normalisation divides a row by its spread, and its rounding with it."""
    return TOLERANCE[problem.dtype] * (16 if problem.cell.endswith("layer_norm") else 1)


@dataclass(frozen=True)
class Problem:
    """Everything that decides a result. Two equal problems make equal weights and data."""

    cell: str
    input_size: int
    hidden_size: int
    steps: int
    batch: int
    proj_size: int = 0
    layers: int = 1
    directions: int = 1
    bias: bool = True
    lengths: tuple[int, ...] | None = None
    with_state: bool = False
    cell_clip: float | None = None
    dtype: str = "float32"
    seed: int = 0
    gain: float = 1.0
    heads: int = 1
    reverse: bool = False
    proj_bias: bool = False

    @property
    def constants(self) -> dict[str, float]:
        clip = {} if self.cell_clip is None else {"cell_clip": self.cell_clip}
        if not self.cell.endswith("_general"):
            return clip
        if self.reverse:  # those of a bidirectional layer's second half
            return clip | dict(of_direction(random_constants(self.cell, 2, self.seed), True))
        return clip | random_constants(self.cell, self.directions, self.seed)

    def layer(self, **options: Any) -> recurra.Recurrent:
        layer = recurra.Recurrent(
            self.cell,
            self.input_size,
            self.hidden_size,
            self.layers,
            bias=self.bias,
            bidirectional=self.directions == 2,
            direction="reverse" if self.reverse else "forward",
            proj_size=self.proj_size,
            proj_bias=self.proj_bias,
            heads=self.heads,
            dtype=self.dtype,
            seed=self.seed,
            **({"constants": self.constants} | options),
        )
        gains = {n: v for n, v in layer.state_dict().items() if n.startswith(("gamma", "beta"))}
        rng = np.random.default_rng(self.seed + 3)  # 1 and 0 to start with, where mistakes would not show
        moved = {name: value + rng.uniform(-0.5, 0.5, value.shape).astype(value.dtype) for name, value in gains.items()}
        layer.load_state_dict(layer.state_dict() | moved)
        return layer

    def x(self) -> Array:
        """The input [T, B, I], scaled to pre-activations of about `gain` whatever the sizes."""
        scale = self.gain * min(1.0, self.hidden_size / self.input_size) ** 0.5
        numbers = np.random.default_rng(self.seed).normal(0, scale, (self.steps, self.batch, self.input_size))
        return numbers.astype(self.dtype)

    def state(self) -> Any:
        """An initial state as the layer takes it, or None."""
        if not self.with_state:
            return None
        rng = np.random.default_rng(self.seed + 1)
        sizes = [self.proj_size or self.hidden_size] + [self.hidden_size] * (CELLS[self.cell].states - 1)
        rows = (self.layers * self.directions, self.batch)
        state = tuple(rng.uniform(-1, 1, (*rows, size)).astype(self.dtype) for size in sizes)
        if CELLS[self.cell].heads:
            state[2][:] += 2  # n divides
        return state if len(state) > 1 else state[0]


def heads(cell: str, hidden: int) -> st.SearchStrategy[int]:
    """How many heads there may be."""
    divisors = [count for count in range(1, hidden + 1) if hidden % count == 0]
    return st.sampled_from(divisors) if CELLS[cell].heads else st.just(1)


@st.composite
def problems(
    draw: st.DrawFn,
    cell: str,
    *,
    directions: int | None = None,
    lengths: bool | None = None,
    min_steps: int = 0,
    min_batch: int = 0,
    min_length: int = 0,
    dtypes: tuple[str, ...] = DTYPES,
) -> Problem:
    """A problem for `cell`; None leaves directions, or whether there are lengths, to the draw."""
    projected = CELLS[cell].projected
    hidden = draw(st.sampled_from(SIZES[1:] if projected else SIZES))
    batch = draw(st.integers(min_batch, 5))
    few, many = st.integers(min_steps, 7), st.integers(60, 140)  # more than one pass's worth of steps
    steps = draw(few if hidden > 17 else st.one_of(few, many))
    with_lengths = draw(st.booleans()) if lengths is None else lengths
    return Problem(
        cell,
        draw(st.sampled_from(SIZES)),
        hidden,
        steps,
        batch,
        proj_size=draw(st.sampled_from((1, (hidden + 1) // 2, hidden - 1))) if projected else 0,
        layers=draw(st.integers(1, 3 if hidden < 100 else 2)),
        directions=directions or draw(st.integers(1, 2)),
        bias=draw(st.booleans()),
        lengths=tuple(draw(st.integers(min_length, steps)) for _ in range(batch)) if with_lengths else None,
        with_state=draw(st.booleans()),
        cell_clip=draw(st.sampled_from((None, 0.25))) if cell.startswith("lstm") else None,
        heads=draw(heads(cell, hidden)),
        dtype=draw(st.sampled_from(dtypes)),
        seed=draw(st.integers(0, 2**16)),
        proj_bias=projected and draw(st.booleans()),
    )
