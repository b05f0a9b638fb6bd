"""Problems for GPU layers: small ones, for kernels run in an emulator; and both ways to solve them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
import reference
from checks import Array
from cuda_arrays import DeviceArray, download, upload
from gradients import as_state, blank, upstream
from hypothesis import strategies as st
from reference import CELLS
from strategies import Problem, heads

import recurra

# Numbers and engines that go together.
MODES = (
    ("float32", "exact"),
    ("float64", "exact"),
    ("float32", "cublas"),
    ("float64", "cublas"),
    ("float16", "cublas"),
    ("bfloat16", "cublas"),
)


@dataclass(frozen=True)
class Case:
    """A problem with the options that only a layer in training, or on a GPU, has."""

    problem: Problem
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    zoneout: float = 0.0
    rng: int | None = None
    recompute: bool = False
    on_device: bool = False  # its lengths

    def layer(self, **options: Any) -> recurra.Recurrent:
        rates = {name: getattr(self, name) for name in ("dropout", "recurrent_dropout", "zoneout")}
        if not CELLS[self.problem.cell].recurrent:
            rates["recurrent_dropout"] = 0.0
        return self.problem.layer(**rates, **options)


@st.composite
def cases(draw: st.DrawFn, cell: str, *, noise: bool = True) -> Case:
    """A case for `cell`, in float32 or float64."""
    projected = CELLS[cell].projected
    hidden = draw(st.sampled_from((3, 8, 17, 33) if projected else (1, 3, 8, 17, 33)))
    steps, batch = draw(st.integers(0, 6)), draw(st.integers(0, 5))
    lengths = tuple(draw(st.integers(0, steps)) for _ in range(batch)) if draw(st.booleans()) else None
    problem = Problem(
        cell,
        draw(st.sampled_from((1, 3, 8, 40))),
        hidden,
        steps,
        batch,
        proj_size=draw(st.sampled_from((1, (hidden + 1) // 2, hidden - 1))) if projected else 0,
        layers=draw(st.integers(1, 3)),
        directions=draw(st.integers(1, 2)),
        bias=draw(st.booleans()),
        lengths=lengths,
        with_state=draw(st.booleans()),
        cell_clip=draw(st.sampled_from((None, 0.1))) if cell.startswith("lstm") else None,
        heads=draw(heads(cell, hidden)),
        dtype=draw(st.sampled_from(("float32", "float64"))),
        seed=draw(st.integers(0, 2**16)),
        proj_bias=projected and draw(st.booleans()),
    )
    rates = {name: draw(st.sampled_from((0.0, 0.4))) for name in ("dropout", "recurrent_dropout", "zoneout") if noise}
    rng = draw(st.sampled_from((None, 7))) if noise else None
    return Case(
        problem, **rates, rng=rng, recompute=draw(st.booleans()), on_device=lengths is not None and draw(st.booleans())
    )


def lengths_of(case: Case) -> Any:
    """As the layer on the GPU is given them."""
    lengths = case.problem.lengths
    return DeviceArray.of(np.array(lengths, "int32")) if case.on_device else lengths


def called(case: Case, layer: recurra.Recurrent) -> Any:
    """Output and final state of a call on the GPU, on the host."""
    number, device = str(layer.dtype), int(str(layer.device).partition(":")[2] or 0)
    given = (blank(case.problem, case.problem.x()), case.problem.state())
    x, state = (upload(array, number, device) for array in given)
    return download(layer(x, state, lengths=lengths_of(case)))


def trained(case: Case, layer: recurra.Recurrent, which: str = "both") -> tuple[Any, Any]:
    """Output and final state in training, and gradients, on the host."""
    problem, number = case.problem, str(layer.dtype)
    x, state = upload(blank(problem, problem.x()), number), upload(problem.state(), number)
    y, final, tape = layer.forward(x, state, lengths=lengths_of(case), recompute=case.recompute, rng=case.rng)
    dy, dstate = upload(upstream(problem, which), number)
    return download((y, final)), download(tape.backward(dy, as_state(dstate)))


def trained_on_cpu(case: Case, layer: recurra.Recurrent, which: str = "both") -> tuple[Any, Any]:
    """The same on the CPU."""
    problem = case.problem
    x, state = blank(problem, problem.x()), problem.state()
    y, final, tape = layer.forward(x, state, lengths=problem.lengths, recompute=case.recompute, rng=case.rng)
    dy, dstate = upstream(problem, which)
    return (y, final), tuple(tape.backward(dy, as_state(dstate)))


def rounded(array: Any, number: str) -> Array:
    """To the nearest numbers of 16 bits; a rounding of float64 to float32 first, as on the GPU."""
    if number == "float16":
        return np.asarray(array, "float32").astype("float16").astype("float64")
    if number != "bfloat16":
        return np.asarray(array, "float64")
    bits = np.asarray(array, "float32").view("uint32").astype("uint64")
    return np.asarray(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype("uint32").view("float32"), "float64")


def trained_with_cells(case: Case, layer: recurra.Recurrent, clip: float | None, there: bool) -> Any:
    """(output, final state, cells), gradients, cells of a call; of a layer on the GPU or the CPU."""
    problem, number = case.problem, str(layer.dtype)
    wants = CELLS[problem.cell].states > 1
    move: Any = (lambda value: upload(value, number)) if there else (lambda value: value)
    x, state = move(blank(problem, problem.x())), move(problem.state())
    lengths = lengths_of(case) if there else problem.lengths
    options: dict[str, Any] = {"recompute": case.recompute, "rng": case.rng, "return_cells": wants}
    y, final, tape, *cells = layer.forward(x, state, lengths=lengths, **options)
    dy, dstate = upstream(problem)
    shape = (problem.steps, problem.batch, problem.directions * problem.hidden_size)
    dcells = blank(problem, np.random.default_rng(5).normal(size=shape).astype(problem.dtype)) if wants else None
    gradients = tape.backward(move(dy), as_state(move(dstate)), move(dcells), grad_clip=clip)
    again = layer(x, state, lengths=lengths, return_cells=wants)[2:]
    found = (y, final, cells), tuple(gradients), again
    return download(found) if there else found


@contextmanager
def rounding(number: str) -> Iterator[None]:
    """Inside, the oracle rounds what meets a weight matrix, as a 16-bit layer does; states stay as they are."""
    sides = {name: getattr(reference, name) for name in ("input_side", "recurrent_side")}
    wrapped: Any = {name: lambda v, p, side=side: side(rounded(v, number), p) for name, side in sides.items()}
    with mock.patch.multiple(reference, **wrapped):
        yield


def oracle(case: Case, number: str) -> Any:
    """Output and final state in float64, of weights and products as a layer of these numbers has them."""
    problem = case.problem
    params = {
        name: rounded(value, number) if value.ndim == 2 else value
        for name, value in problem.layer().state_dict().items()
    }
    x, state = rounded(problem.x(), number), problem.state()
    initial = None if state is None else [rounded(v, number) for v in (state if isinstance(state, tuple) else (state,))]
    with rounding(number):
        return reference.run(problem.cell, x, params, initial, problem.lengths, problem.constants)


def plan_of(layer: Any, steps: int, rows: int, training: bool = False) -> str:
    """What a layer's plan tells of such a call."""
    text: str = layer._packed.plan(steps, rows, training=training).explain()
    return text


def in_float64(case: Case) -> Case:
    """The same with parameters in float64."""
    return replace(case, problem=replace(case.problem, dtype="float64"))
