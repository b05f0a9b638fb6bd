"""All steps of a layer backward by a cluster of blocks: the bits of the CPU, or in 16 bits near those by steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from checks import assert_close, assert_same_bits
from cuda_arrays import download, require_gpu, upload
from cuda_problems import Case, plan_of
from reference import CELLS
from strategies import Problem

import recurra

require_gpu()

# GPUs whose blocks have so little shared memory that layers of these sizes need clusters of the stand-in's; some blocks
# then have no unit. One of each kind: projected, two products a step, one, without states beside h.
BYTES = {1: 500, 2: 2100, 3: 20000, 4: 4500, 5: 50000}
EXACT = (
    ("gru_reset_before", 40, 2),
    ("lstm_peephole_projected", 18, 1),
    ("multiplicative_lstm", 18, 1),
    ("slstm", 40, 2),
    ("differential_012", 70, 3),
    ("lstm_layer_norm", 40, 4),
    ("gru_layer_norm", 40, 2),
)
NARROW = (("gru", "float16", 3), ("gru_reset_before", "bfloat16", 3), ("gru_layer_norm", "float16", 5))


def case_of(cell: str, hidden: int, **options: Any) -> Case:
    sizes: dict[str, Any] = {"input_size": 3, "steps": 4, "batch": 3, "directions": 2, "lengths": (4, 0, 2)}
    sizes |= {"with_state": True, "dtype": "float32", "seed": 3, "proj_size": 7 if CELLS[cell].projected else 0}
    return Case(Problem(cell, hidden_size=hidden, **sizes), **options)


def trained(case: Case, layer: recurra.Recurrent, device: int, recompute: bool, clip: float | None) -> Any:
    """Output and gradients of a call on a GPU, or with device -1 on the CPU."""
    problem, number = case.problem, str(layer.dtype)
    move: Any = (lambda value: upload(value, number, device=device)) if device >= 0 else (lambda value: value)
    given = move(problem.x()), move(problem.state())
    y, final, tape = layer.forward(*given, lengths=problem.lengths, rng=7, recompute=recompute)
    found = y, tuple(tape.backward(y, final, grad_clip=clip))
    return download(found) if device >= 0 else found


OPTIONS: tuple[tuple[bool, float | None], ...] = ((False, None), (True, 0.05))


@pytest.mark.parametrize(("cell", "hidden", "number"), EXACT)
def test_backward_by_a_cluster_has_the_bits_of_the_cpu(
    cell: str, hidden: int, number: int, other_gpu: Callable[..., str]
) -> None:
    gpu = other_gpu(number, SHARED_BYTES=BYTES[number])
    layer = (case := case_of(cell, hidden, dropout=0.3, zoneout=0.3, recurrent_dropout=0.3)).layer()
    there = layer.to(gpu, engine="exact-resident")
    assert " rows a cluster of " in plan_of(there, 4, 3, training=True).split("; backward")[1]
    for options in OPTIONS:
        assert_same_bits(trained(case, there, number, *options), trained(case, layer, -1, *options))


@pytest.mark.parametrize(("cell", "dtype", "number"), NARROW)
def test_of_16_bits_too(cell: str, dtype: str, number: int, other_gpu: Callable[..., str]) -> None:
    gpu = other_gpu(number, SHARED_BYTES=BYTES[number])
    case = case_of(cell, 150, zoneout=0.3, recurrent_dropout=0.3)
    there = case.layer().to(gpu, dtype=dtype, engine="cublas-resident")
    assert " rows a cluster of " in plan_of(there, 4, 3, training=True).split("; backward")[1]
    for options in OPTIONS:
        found, steps = (trained(case, layer, number, *options) for layer in (there, there.to(gpu, engine="cublas")))
        assert_close(found, steps, 6 * {"float16": 2**-10, "bfloat16": 2**-7}[dtype])  # as in test_cuda_tensor_cores.py
