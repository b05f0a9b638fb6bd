"""All steps of a 16-bit layer in one launch, by the tensor cores: beside the oracle and the cublas engine's steps."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close, assert_same_bits, states
from cuda_arrays import counted, download, require_gpu, upload
from cuda_problems import Case, called, oracle, plan_of, trained
from gradients import assert_gradients_close, sized
from gradients import oracle as gradients_of
from reference import CELLS
from strategies import Problem

import recurra
from recurra import _core
from recurra.tape import Gradients

require_gpu()

RESIDENT = "cublas-resident"
# As in test_cuda_layers.py: twice the rounding of the type; gradients have more roundings on their way.
TOLERANCE = {"float16": 2**-10, "bfloat16": 2**-7}
# One of each kind: a product a step and two, chains that have none, projected, states beside h, without a product, of
# whole rows.
KINDS = {
    "gru": "float16",
    "gru_reset_before": "bfloat16",
    "lstm_peephole_projected": "float16",
    "slstm": "float16",
    "sru": "bfloat16",
    "gru_layer_norm": "bfloat16",
}
ALL_KINDS = pytest.mark.parametrize(("cell", "number"), KINDS.items())


def case_of(cell: str, hidden: int = 19, **options: Any) -> Case:
    sizes: dict[str, Any] = {"input_size": 3, "steps": 4, "batch": 3, "directions": 2, "with_state": True}
    sizes |= {"dtype": "float32", "seed": 3, "proj_size": 7 if CELLS[cell].projected else 0}
    rates = {name: options.pop(name) for name in ("dropout", "recurrent_dropout", "zoneout", "rng") if name in options}
    on_device = options.pop("on_device", False)
    return Case(Problem(cell, hidden_size=hidden, **(sizes | options)), on_device=on_device, **rates)


def check(case: Case, number: str, device: str = "cuda") -> Any:
    """A call beside the oracle and beside the walk by steps; returns the layer."""
    layer = case.layer().to(device, dtype=number, engine=RESIDENT)
    y, final = called(case, layer)
    want_y, want_final = oracle(case, number)
    assert_close([y, *states(final)], [want_y, *want_final], TOLERANCE[number])
    assert_close((y, final), called(case, layer.to(device, engine="cublas")), TOLERANCE[number])
    assert_same_bits(called(case, layer), (y, final))
    return layer


SHAPES: tuple[dict[str, Any], ...] = (
    {"batch": 1},
    {"batch": 3, "steps": 5, "lengths": (5, 0, 2)},
    {"batch": 8, "steps": 1, "directions": 1, "reverse": True},
    {"batch": 9, "steps": 3, "layers": 1, "with_state": False},
    {"batch": 17, "steps": 3, "lengths": (3, 1, 0) * 5 + (2, 3), "on_device": True},
    {"batch": 2, "steps": 0},
)


@ALL_KINDS
def test_every_kind_of_cell_is_its_oracle(cell: str, number: str) -> None:
    for shape in SHAPES:
        layer = check(case_of(cell, **shape), number)
        told = plan_of(layer, 12, shape["batch"])
        assert told.startswith("cublas, resident: one launch for all steps of a layer; 8 rows a block of "), told


@pytest.mark.parametrize(
    ("cell", "number", "hidden", "batch", "blocks"),
    (
        ("lstm", "float16", 128, 25, "a block of 256"),
        ("gru", "bfloat16", 161, 25, "a block of 256"),
        ("gru_reset_before", "float16", 150, 1, "a block of 256"),
        ("lstm", "bfloat16", 257, 2, "a cluster of 4 blocks of 256"),
        ("gru", "float16", 290, 9, "a grid of 4 blocks of 256"),
    ),
)
def test_more_weights_than_registers_hold(
    cell: str,
    number: str,
    hidden: int,
    batch: int,
    blocks: str,
    other_gpu: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With four multiprocessors, clusters of blocks would have to wait for each other."""
    gpu = other_gpu(3, MULTIPROCESSORS=4)
    if "grid" in blocks:
        gpu = other_gpu(5, MULTIPROCESSORS=4, CAPABILITY=80)
        monkeypatch.setenv("RECURRA_STANDIN_CAPABILITY", "80")  # for kernels, too
    case = case_of(cell, hidden, batch=batch, steps=2, directions=1)
    told = plan_of(check(case, number, gpu), 2, batch)
    found = re.search(f"; 8 rows {blocks} threads, (\\d+).* of {hidden}.* weights a column in registers, ", told)
    assert found, told
    assert int(found[1]) < hidden


@pytest.mark.parametrize(
    ("cell", "hidden", "back", "blocks"),
    (("lstm", 160, 184, 1), ("gru", 192, 224, 1), ("lstm", 544, 512, 8), ("gru", 672, 597, 8)),
)
def test_the_largest_that_fit_are_those_of_the_readme(cell: str, hidden: int, back: int, blocks: int) -> None:
    most = 227 << 10  # bytes of shared memory that a block of an H100 may have
    for way, last in ((False, hidden), (True, back)):
        fits = [
            any(_core.cuda.resident_unit(cell, "float16", n, n, 1, way, blocks, False, r)[3] <= most for r in (4, 8))
            for n in (last, last + 1)
        ]
        assert fits == [True, False]


@pytest.mark.parametrize("cell", ("gru", "gru_reset_before", "lstm"))
def test_2048_units_fit_the_multiprocessors_of_an_h100_both_ways(cell: str) -> None:
    for back in (False, True):
        assert _core.cuda.resident_unit(cell, "bfloat16", 2048, 2048, 1, back, 128, True, 4)[3] <= 227 << 10


@pytest.mark.parametrize("capability", (80, 90))
@pytest.mark.parametrize("cell", ("gru", "gru_reset_before", "lstm_peephole_projected", "slstm"))
def test_clusters_and_grids_of_blocks(
    cell: str, capability: int, other_gpu: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where blocks have little shared memory, several share a small layer, of which some then have no unit."""
    ordinal = 1 if capability == 90 else 4
    gpu = other_gpu(ordinal, SHARED_BYTES=1700, CAPABILITY=capability, MULTIPROCESSORS=16)
    monkeypatch.setenv("RECURRA_STANDIN_CAPABILITY", str(capability))  # for kernels, too
    number = KINDS[cell]
    case = case_of(cell, batch=9, lengths=(4, 0, 2, 4, 1, 3, 4, 4, 2))
    layer = case.layer()
    there, by_steps = (layer.to(gpu, dtype=number, engine=engine) for engine in (RESIDENT, "cublas"))
    assert f" rows a {'cluster' if capability == 90 else 'grid'} of " in plan_of(there, 4, 9)
    problem = case.problem
    given = tuple(upload(one, number, device=ordinal) for one in (problem.x(), problem.state()))
    y, final = download(there(*given, lengths=problem.lengths))
    want_y, want_final = oracle(case, number)
    assert_close([y, *states(final)], [want_y, *want_final], TOLERANCE[number])
    assert_close((y, final), download(by_steps(*given, lengths=problem.lengths)), TOLERANCE[number])


def check_training(case: Case, number: str) -> None:
    """Outputs and gradients beside those of the walk by steps."""
    layer = case.layer().to("cuda", dtype=number, engine=RESIDENT)
    outputs, gradients = trained(case, layer)
    want, want_gradients = trained(case, layer.to("cuda", engine="cublas"))
    assert_close(outputs, want, TOLERANCE[number])
    assert_close(gradients, want_gradients, 6 * TOLERANCE[number])
    assert_same_bits(trained(case, layer)[1], gradients)


@ALL_KINDS
def test_training_is_one_launch_each_way(cell: str, number: str) -> None:
    rates: dict[str, Any] = {"dropout": 0.3, "zoneout": 0.3, "recurrent_dropout": 0.3}
    case = case_of(cell, lengths=(4, 0, 2), rng=7, **rates)
    layer = case.layer().to("cuda", dtype=number, engine=RESIDENT)
    told = plan_of(layer, 4, 3, training=True)
    assert told.startswith("cublas, resident: one launch for all steps of a layer; 8 rows a block of "), told
    assert "; backward, resident: one launch for all steps of a layer; 8 rows a block of " in told
    check_training(case, number)
    # More rows than a tile's, lengths that only the GPU knows, a direction that runs backwards, what is computed again.
    options: dict[str, Any] = {"batch": 9, "steps": 3, "lengths": (3, 1, 2, 0, 3, 2, 1, 3, 2), "directions": 1}
    check_training(replace(case_of(cell, reverse=True, **options), recompute=True), number)
    check_training(case_of(cell, on_device=True, **options), number)
    quiet = replace(case, rng=None)
    assert_same_bits(trained(quiet, layer)[0], called(quiet, layer))


@ALL_KINDS
def test_gradients_are_the_oracles(cell: str, number: str) -> None:
    case = Case(sized(cell, dtype="float32", layers=1, seed=5))
    layer = case.layer()
    _, gradients = trained(case, layer.to("cuda", dtype=number, engine=RESIDENT))
    # As in test_cuda_training.py.
    assert_gradients_close(Gradients(*gradients), gradients_of(case.problem, layer), 6 * TOLERANCE[number])


def test_rows_do_not_meet_in_a_tile() -> None:
    """A row whose gradient is infinite leaves the others as they are."""
    layer = recurra.LSTM(3, 19, seed=0, device="cuda", dtype="float16", engine=RESIDENT)
    y, _, tape = layer.forward(upload(data(3, 3, 3), "float16"))
    dy = data(*y.shape)
    want = download(tape.backward(upload(dy, "float16")).x)
    dy[:, 1] = np.inf
    got = download(tape.backward(upload(dy, "float16")).x)
    assert not np.isfinite(got[:, 1]).any()
    assert_same_bits(got[:, ::2], want[:, ::2])


def test_backward_weights_beyond_registers() -> None:
    case = case_of("lstm", 160, batch=200, steps=1)
    layer = case.layer().to("cuda", dtype="bfloat16", engine=RESIDENT)
    told = plan_of(layer, 1, 200, training=True)
    assert (
        "a cluster of 2 blocks of 256 threads, 448 of 640 weights a column in registers" in told.split("; backward")[1]
    )
    check_training(case, "bfloat16")


@pytest.mark.parametrize(
    ("cell", "hidden", "batch", "blocks"),
    (
        ("lstm", 150, 2, "cluster of 8 blocks of 256 threads, 640 of 600 "),  # four warps share a tile backward
        ("gru_reset_before", 130, 2, "cluster of 4 blocks of 256 threads, 320 and 160 of 260 and 130 "),
        ("rnn_tanh", 519, 9, "cluster of 8 blocks of "),  # and two forward
    ),
)
def test_warps_share_tiles_where_there_are_few(cell: str, hidden: int, batch: int, blocks: str) -> None:
    case = case_of(cell, hidden, batch=batch, steps=2, directions=1)
    layer = case.layer().to("cuda", dtype="float16", engine=RESIDENT)
    assert blocks in plan_of(layer, 2, batch, training=True).split("; backward")[1]
    check_training(case, "float16")
    check(case, "float16")


def test_stacks_and_graphs() -> None:
    """The third call with the same memory is replayed; a stack goes layer after layer."""
    case = case_of("gru", layers=2, lengths=(4, 1, 3))
    layer = case.layer().to("cuda", dtype="float16", engine=RESIDENT)
    first = called(case, layer)
    assert_close(first, called(case, layer.to("cuda", engine="cublas")), TOLERANCE["float16"])
    plain = case_of("gru", layers=2)
    results = [called(plain, layer) for _ in range(4)]
    for result in results[1:]:
        assert_same_bits(result, results[0])


def data(*shape: int) -> Array:
    return np.random.default_rng(0).normal(0, 1, shape).astype("float32")


def test_all_steps_are_one_launch() -> None:
    launches = []
    for engine in ("cublas", RESIDENT):
        there = recurra.GRU(3, 20, seed=0, device="cuda", dtype="float16", engine=engine)
        before = counted("launches", 0) + counted("products", 0)
        there(upload(data(12, 2, 3), "float16"))
        launches.append(counted("launches", 0) + counted("products", 0) - before)
    assert launches[0] - launches[1] in (2 * 12 - 1, 0)  # a GPU counts nothing


def test_a_plan_tells_what_was_chosen_and_why(other_gpu: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    layer = recurra.LSTM(3, 20, seed=0, device="cuda", dtype="float16")
    by_steps = "cublas: a product and a pointwise kernel for each phase of a step"
    assert plan_of(layer, 12, 2) == by_steps + "; a resident one should be faster, by arithmetic that no GPU has shown"
    assert plan_of(layer, 3, 2) == by_steps + "; a short sequence"
    assert plan_of(recurra.LSTM(3, 20, device="cuda", engine="cublas"), 12, 2) == by_steps
    assert plan_of(layer.to("cuda", engine=RESIDENT), 12, 2).endswith(" ways by arithmetic, not measured")
    wide, x = recurra.LSTM(2, 257, seed=0), data(3, 2, 2)
    there = wide.to("cuda", dtype="float16", engine=RESIDENT)
    monkeypatch.setenv("RECURRA_STANDIN_MULTIPROCESSORS", "1")
    monkeypatch.setenv("RECURRA_STANDIN_ACTIVE_BLOCKS", "0")
    assert plan_of(there, 3, 2) == by_steps + "; the GPU has no room for so many blocks at the same time"
    assert_close(download(there(upload(x, "float16"))), wide(x), TOLERANCE["float16"])
    old = other_gpu(2, CAPABILITY=75)
    with pytest.raises(ValueError, match="lstm of hidden_size 20 needs a GPU of compute capability 8"):
        recurra.LSTM(3, 20, device=old, dtype="float16", engine=RESIDENT)


@pytest.mark.parametrize(
    ("make", "match"),
    (
        (lambda **o: recurra.LSTM(3, 20, **o), "engine: expected .* for float32 on a GPU, got 'cublas-resident'"),
        (lambda **o: recurra.LSTM(3, 20, **(o | {"device": "cpu"})), "engine: expected 'auto' for float32 on the CPU"),
        (lambda **o: recurra.LSTM(3, 2100, dtype="float16", **o), "lstm of hidden_size 2100 does not fit into all"),
    ),
)
def test_what_cannot_be_is_refused(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make(device="cuda", engine=RESIDENT)
