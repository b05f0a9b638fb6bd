"""Resets, masks and learned initial states on a GPU, or over its stand-in, for arrays: the CPU's results."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close, assert_same_bits, states
from cuda_arrays import LIBRARY, DeviceArray, download, new_stream, require_gpu, upload
from cuda_problems import MODES, Case, cases, lengths_of
from gradients import as_state, blank, upstream
from hypothesis import given
from hypothesis import strategies as st
from reference import CELLS, kinds
from strategies import Problem

import recurra
from recurra import functional
from recurra.cuda.buffers import Buffer

require_gpu()

EVERY_KIND = pytest.mark.parametrize("cell", kinds())
LEARNING = pytest.mark.parametrize("cell", [name for name in kinds() if not CELLS[name].heads])
GRADIENTS = {"float32": 1e-4, "float64": 1e-11}  # which are summed in another order
TOLERANCE = GRADIENTS | {"float16": 2e-2, "bfloat16": 1e-1}
T, B, N, H = 7, 4, 3, 6

densities = st.sampled_from((0.0, 0.2, 0.6, 1.0))


@st.composite
def marks(draw: st.DrawFn, problem: Problem, *, resets: bool | None = None) -> dict[str, Any]:
    """The arguments of a call, host arrays."""
    rng, shape = np.random.default_rng(problem.seed + 3), (problem.steps, problem.batch)
    made: dict[str, Any] = {}
    if draw(st.booleans()) if resets is None else resets:
        made["resets"] = rng.random(shape) < draw(densities)
        if (rows := draw(st.sampled_from(((), (problem.batch,), None)))) is not None:
            made["reset_state"] = state_of(problem, rng, rows)
    if not made or draw(st.booleans()):
        made["mask"] = rng.random(shape) < draw(densities)
        made["masked_output"] = draw(st.sampled_from(("previous", "zero")))
    return made


def state_of(problem: Problem, rng: np.random.Generator, rows: tuple[int, ...]) -> Any:
    sizes = [problem.proj_size or problem.hidden_size] + [problem.hidden_size] * (CELLS[problem.cell].states - 1)
    lanes = problem.layers * problem.directions
    state = [rng.uniform(-1, 1, (lanes, *rows, size)).astype(problem.dtype) for size in sizes]
    if CELLS[problem.cell].heads:
        state[2] += 2  # n divides
    return as_state(state)


def there(given_marks: dict[str, Any], number: str, flags_too: bool = False) -> dict[str, Any]:
    """The same for a layer on the GPU, where flags may stay on the host."""
    moved = dict(given_marks)
    if "reset_state" in moved:
        moved["reset_state"] = upload(moved["reset_state"], number)
    return moved | {name: upload(moved[name]) for name in ("resets", "mask") if flags_too and name in moved}


def trained(
    layer: recurra.Recurrent, case: Case, given_marks: dict[str, Any], clip: float | None = None
) -> tuple[Any, Any]:
    """All results of a call in training, and all gradients, on the host."""
    problem, on_gpu = case.problem, layer.device != "cpu"
    number = str(layer.dtype)
    x, state = blank(problem, problem.x()), problem.state()
    dy, dstate = upstream(problem)
    cells = CELLS[problem.cell].states > 1
    options: dict[str, Any] = {"recompute": case.recompute, "rng": case.rng, "return_cells": cells}
    lengths: Any = problem.lengths
    above: Any = np.nan_to_num(np.asarray(dy))
    if on_gpu:
        x, state, above, dstate = (upload(values, number) for values in (x, state, above, dstate))
        lengths, given_marks = lengths_of(case), there(given_marks, number)
    y, final, tape, *more = layer.forward(x, state, lengths=lengths, **options, **given_marks)
    width = problem.directions * problem.hidden_size
    dcells: Any = np.random.default_rng(5).normal(size=(problem.steps, problem.batch, width)).astype(problem.dtype)
    dcells = [upload(dcells, number) if on_gpu else dcells] if cells else []
    gradients = tape.backward(above, as_state(dstate), *dcells, grad_clip=clip)
    found = [*gradients, [] if gradients.reset_state is None else list(states(gradients.reset_state))]
    return download((y, final, more)), download(found)


# ---- results


@EVERY_KIND
@given(data=st.data())
def test_calls_have_the_bits_of_the_cpu(cell: str, data: st.DataObject) -> None:
    case = data.draw(cases(cell, noise=False))
    if data.draw(st.booleans()):
        case = replace(case, problem=replace(case.problem, directions=1, reverse=True))
    problem, layer = case.problem, case.layer()
    given_marks = data.draw(marks(problem))
    want = layer(blank(problem, problem.x()), problem.state(), lengths=problem.lengths, **given_marks)
    x, state = upload(blank(problem, problem.x())), upload(problem.state())
    options = there(given_marks, problem.dtype, flags_too=data.draw(st.booleans()))
    found = layer.to("cuda", engine="exact")(x, state, lengths=lengths_of(case), **options)
    assert_same_bits(download(found), want)


@EVERY_KIND
@given(data=st.data())
def test_training_has_the_bits_of_the_cpu_and_its_gradients(cell: str, data: st.DataObject) -> None:
    case = data.draw(cases(cell))
    if data.draw(st.booleans()):
        case = replace(case, problem=replace(case.problem, directions=1, reverse=True))
    given_marks, clip = data.draw(marks(case.problem)), data.draw(st.sampled_from((None, 0.1)))
    layer = case.layer()
    found, gradients = trained(layer.to("cuda", engine="exact"), case, given_marks, clip)
    want, want_gradients = trained(layer, case, given_marks, clip)
    assert_same_bits(found, want)
    assert_close(gradients, want_gradients, GRADIENTS[case.problem.dtype])


@pytest.mark.parametrize(("number", "engine"), (*MODES, ("float32", "exact-resident")))
@pytest.mark.parametrize("cell", ("lstm_projected", "gru_reset_before", "sru"))
def test_all_numbers_and_engines(cell: str, number: str, engine: str) -> None:
    """Odd sizes too: 16-bit rows of three numbers end in the middle of a word."""
    proj = 5 * CELLS[cell].projected
    dtype = "float64" if number == "float64" else "float32"
    problem = Problem(cell, N, 7, T, B, proj, 1, 2, lengths=(7, 0, 5, 7), with_state=True, dtype=dtype)
    rng = np.random.default_rng(1)
    given_marks = {"resets": rng.random((T, B)) < 0.3, "mask": rng.random((T, B)) < 0.6}
    given_marks["reset_state"] = state_of(problem, rng, ())
    layer = problem.layer()
    found, gradients = trained(layer.to("cuda", dtype=number, engine=engine), Case(problem), given_marks)
    want, want_gradients = trained(layer, Case(problem), given_marks)
    assert_close(found, want, TOLERANCE[number])
    assert_close(gradients, want_gradients, 5 * TOLERANCE[number])


@pytest.mark.parametrize("cell", ("gru", "lstm", "gru_layer_norm"))
@pytest.mark.parametrize("names", (("resets",), ("mask",), ("resets", "mask")))
@pytest.mark.parametrize("rates", ({"dropout": 0.4}, {"zoneout": 0.3}, {"recurrent_dropout": 0.4}))
def test_marks_leave_the_draws_as_they_are(cell: str, names: tuple[str, ...], rates: dict[str, Any]) -> None:
    """Of the row's number, and of its steps that are not masked, whichever segments are run."""
    for directions, reverse in ((2, False), (1, True)):
        problem = Problem(cell, N, H, T, B, 0, 2, directions, lengths=(7, 0, 5, 7), dtype="float64", reverse=reverse)
        rng = np.random.default_rng(2)
        case, flags = Case(problem, **rates, rng=7), {name: rng.random((T, B)) < 0.6 for name in names}
        layer = case.layer()
        want, want_gradients = trained(layer, case, flags)
        assert not np.array_equal(want[0], trained(layer, replace(case, rng=None), flags)[0][0])
        for recompute in (False, True):
            found, gradients = trained(layer.to("cuda", engine="exact"), replace(case, recompute=recompute), flags)
            assert_same_bits(found, want)
            assert_close(gradients, want_gradients, 1e-11)
        found, gradients = trained(layer.to("cuda", engine="cublas"), case, flags)
        assert_close(found, want, 1e-11)
        assert_close(gradients, want_gradients, 1e-11)


# ---- arrays


def example(**options: Any) -> tuple[recurra.GRU, Array, Array, Array]:
    rng = np.random.default_rng(0)
    layer = recurra.GRU(N, H, 2, dtype="float64", seed=0, **options)
    return layer, rng.normal(size=(T, B, N)), rng.random((T, B)) < 0.3, rng.random((T, B)) < 0.6


def test_forms_of_arrays() -> None:
    """Flags in any layout here and there, batch first, strided inputs, one sequence, functions, an output given."""
    layer, x, resets, mask = example(bidirectional=True)
    want, final = layer(x, resets=resets, mask=mask)
    first, wide = recurra.GRU(N, H, 2, True, batch_first=True, bidirectional=True, dtype="float64", seed=0), x.copy()
    across, other = layer.to("cuda", engine="exact"), first.to("cuda", engine="exact")
    spread = np.zeros((2 * T, B + 2), bool)
    spread[::-2, 1:-1] = mask
    there_mask = DeviceArray.of(spread)[::-2, 1:-1]
    y, h = across(DeviceArray.of(wide[::-1])[::-1], resets=upload(resets), mask=there_mask)
    assert_same_bits(download((y, h)), (want, final))
    turned = DeviceArray.of(x).transpose(1, 0, 2)
    y, h = other(turned, resets=resets.T, mask=there_mask.transpose(1, 0))
    assert_same_bits(download((y, h)), (want.swapaxes(0, 1), final))
    y, h, tape = other.forward(turned, resets=resets.T, mask=mask.T)
    gradients, expected = tape.backward(y, h), layer.forward(x, resets=resets, mask=mask)[2].backward(want, final)
    assert_close(download(gradients.x), np.asarray(expected.x).swapaxes(0, 1), 1e-12)
    y, h = across(upload(x[:, 1]), resets=upload(resets[:, 1]), mask=mask[:, 1])
    assert_same_bits(download((y, h)), (want[:, 1], final[:, 1]))
    out = DeviceArray((T, B, 2 * H), "float64")
    packed = functional.pack("gru", layer.state_dict(), device="cuda", engine="exact")
    y, _ = functional.run(packed, upload(x), out=out, resets=resets, mask=mask)
    assert y is out
    assert_same_bits(download(y), want)
    buffer: Any = Buffer.of(x)
    buffered: Any = across(buffer, resets=resets, mask=mask)
    assert_same_bits(buffered[0].to_host(), want)


def test_streams_of_the_gpu_and_a_tape_used_twice() -> None:
    """Forward, backward and the arrays on streams of their own."""
    layer, x, resets, mask = example(bidirectional=True)
    reset_state = np.random.default_rng(1).normal(size=(4, H))
    y, final, tape = layer.forward(x, resets=resets, mask=mask, reset_state=reset_state)
    want = tape.backward(y, final)
    across = layer.to("cuda", engine="exact")
    with LIBRARY.use(new_stream()):
        given_x, given_resets, state = upload(x), upload(resets), upload(reset_state)
    with LIBRARY.use(new_stream()):
        y2, final2, tape2 = across.forward(given_x, resets=given_resets, mask=mask, reset_state=state)
        assert_same_bits(download((y2, final2)), (y, final))
    given_x.fill(np.nan)
    with LIBRARY.use(new_stream()):
        one, two = (tape2.backward(y2, final2) for _ in range(2))
        found = [download([*g, g.reset_state]) for g in (one, two)]
    assert_same_bits(found[0], found[1])
    assert_close(found[0], [*want, want.reset_state], 1e-12)
    more = tape2.backward(y2, final2, into=one.params, input_grad=False)
    assert more.x is None
    assert_close(download(more.params), {name: 2 * np.asarray(d) for name, d in want.params.items()}, 1e-12)


@pytest.mark.parametrize(("steps", "rows"), [(0, 3), (3, 0), (0, 0), (3, 2)])
@pytest.mark.parametrize("number", ["float64", "bfloat16"])
def test_nothing_to_run(steps: int, rows: int, number: str) -> None:
    """No steps, no rows, or no step that is valid."""
    layer = recurra.GRU(N, 5, 2, bidirectional=True, device="cuda", dtype=number)
    state = np.full((4, rows, 5), 0.25)
    none, given_state = np.zeros((steps, rows), bool), upload(state, number)
    y, h, tape = layer.forward(upload(np.ones((steps, rows, N)), number), given_state, resets=none, mask=none)
    assert y.shape == (steps, rows, 10) and (download(y) == 0.25).all() and (download(h) == 0.25).all()
    gradients = tape.backward(y, h)
    assert_close(
        download(gradients.state), np.full(state.shape, 0.25) + 0.25 * steps * (np.arange(4) > 1)[:, None, None], 0
    )
    assert not download(gradients.x).any()


def test_bad_input() -> None:
    layer, x, resets, mask = example()
    across, given_x = layer.to("cuda"), upload(x)
    wide = DeviceArray((T, B, 2 * H), "float64")[:, :, ::2]
    for error, message, options in (
        (TypeError, "resets: expected bool, got int64", {"resets": resets.astype("int64")}),
        (TypeError, "mask: expected bool, got float32", {"mask": upload(mask.astype("float32"))}),
        (TypeError, "mask: expected a NumPy or DLPack array, got list", {"mask": mask.tolist()}),
        (ValueError, r"resets: expected shape \[7, 4\], got \[4, 7\]", {"resets": upload(resets.T)}),
        (ValueError, "mask: expected a CUDA array on cuda:0", {"mask": DeviceArray.of(mask, device=1)}),
        (ValueError, "reset_state: expected None without resets", {"reset_state": upload(x)}),
        (ValueError, "reset_state h: expected a CUDA array", {"resets": resets, "reset_state": np.zeros((2, H))}),
        (
            ValueError,
            r"reset_state h: expected shape \[2, 4, 6\] or \[2, 6\], got \[3, 6\]",
            {"resets": resets, "reset_state": upload(np.zeros((3, H)))},
        ),
        (ValueError, "masked_output: expected 'previous' without a mask", {"masked_output": "zero"}),
        (ValueError, "out: expected a C-contiguous array with resets or a mask", {"mask": mask, "out": wide}),
    ):
        with pytest.raises(error, match=message):
            across(given_x, **options)


# ---- streams


@pytest.mark.parametrize("with_head", [False, True])
@pytest.mark.parametrize("cell", ["lstm_projected", "gru", "sru"])
@given(data=st.data())
def test_streams(cell: str, with_head: bool, data: st.DataObject) -> None:
    """Step by step and in chunks: a call's bits."""
    problem = replace(data.draw(cases(cell, noise=False)).problem, directions=1, lengths=None)
    if not problem.batch:
        problem = replace(problem, batch=2)
    given_marks, layer = data.draw(marks(problem)), problem.layer()
    head = recurra.Linear(layer._packed.sizes.output, 3, dtype=problem.dtype, seed=1) if with_head else None
    want, last = layer(problem.x(), problem.state(), **given_marks)
    if head is not None:
        want, head = head(want), head.to("cuda", engine="exact")
    across, x = layer.to("cuda", engine="exact"), upload(problem.x())
    by_step, by_chunk = (across.stream(problem.batch, head=head) for _ in range(2))
    if problem.with_state:
        by_step.state = by_chunk.state = upload(problem.state())
    flags_too, cut = data.draw(st.booleans()), data.draw(st.integers(0, problem.steps))
    pieces = []
    for part in (slice(0, cut), slice(cut, None)):
        own = {k: v[part] if k in ("resets", "mask") else v for k, v in given_marks.items()}
        pieces.append(download(by_chunk.run(x[part], **there(own, problem.dtype, flags_too))))
    assert_same_bits(np.concatenate(pieces), want)
    for t in range(problem.steps):
        own = {k: v[t] if k in ("resets", "mask") else v for k, v in given_marks.items()}
        assert_same_bits(download(by_step.step(x[t], **there(own, problem.dtype, flags_too))), want[t])
    if problem.steps:
        assert_same_bits(download([by_chunk.state, by_step.state]), [last, last])


def test_a_stream_without_a_batch_axis() -> None:
    layer, x, resets, mask = example()
    across, given_x = layer.to("cuda", engine="exact"), upload(x[:, 0])
    want, final = layer(x[:, 0], resets=resets[:, 0], mask=mask[:, 0])
    stream: Any = across.stream()
    out = DeviceArray((H,), "float64")
    for t in range(T):
        y = stream.step(given_x[t], out, resets=bool(resets[t, 0]), mask=mask[t, 0])
        assert y is out
        assert_same_bits(download(y), want[t])
    assert_same_bits(download(stream.state), final)
    with pytest.raises(TypeError, match="resets: expected True or False, got"):
        stream.step(given_x[0], resets=resets[0])
    with pytest.raises(ValueError, match=r"mask: expected shape \[4\], got \[7\]"):
        across.stream(B).step(upload(x[0]), mask=mask[:, 0])
    assert_same_bits(download(stream.state), final)


# ---- a learned initial state


def learned(problem: Problem) -> tuple[recurra.Recurrent, Any]:
    """A layer with a learned state that is not zero, and that state of a batch."""
    layer = problem.layer(initial_state=True)
    names = [name for name in layer.state_dict() if name.endswith("_0")]
    rng = np.random.default_rng(problem.seed + 4)
    parts = {name: rng.uniform(-1, 1, layer.state_dict()[name].shape).astype(problem.dtype) for name in names}
    layer.load_state_dict(layer.state_dict() | parts)
    return layer, as_state([np.repeat(part[:, None], problem.batch, axis=1) for part in parts.values()])


@LEARNING
def test_calls_begin_with_the_learned_state_and_resets_lead_to_it(cell: str) -> None:
    proj = 4 * CELLS[cell].projected
    problem = Problem(cell, N, H, T, B, proj, 2, 2, lengths=(7, 0, 5, 7), dtype="float64")
    layer, begin = learned(problem)
    plain, across = problem.layer(), layer.to("cuda", engine="exact")
    x, lengths, rng = problem.x(), problem.lengths, np.random.default_rng(1)
    dy = rng.normal(size=layer(x)[0].shape)
    assert_same_bits(download(across(upload(x[:, 0]))), layer(x[:, 0]))
    choices: list[dict[str, Any]] = [{}, {"resets": rng.random((T, B)) < 0.3, "mask": rng.random((T, B)) < 0.6}]
    for options in choices:
        known: dict[str, Any] = options | ({"reset_state": begin} if options else {})
        y, final, tape = plain.forward(x, begin, lengths=lengths, **known)
        y2, final2, tape2 = across.forward(upload(x), lengths=lengths, **options)
        assert_same_bits(download((y2, final2)), (y, final))
        want, found = tape.backward(dy), tape2.backward(upload(dy))
        assert found.reset_state is None
        params = dict(want.params)
        resets = states(want.reset_state) if options else [0] * len(states(want.state))
        for name, of_state, of_resets in zip(across._packed.initial_names, states(want.state), resets, strict=True):
            params[name] = np.sum(of_state + of_resets, axis=1)
        assert list(found.params) == list(layer.state_dict())
        assert_close(download([found.x, found.state, found.params]), [want.x, want.state, params], 1e-12)
        twice = tape2.backward(upload(dy), into=dict(found.params))
        assert_close(download(twice.params), {name: 2 * value for name, value in params.items()}, 1e-12)
    given_state = across.forward(upload(x), upload(begin))[2].backward(upload(dy))
    assert not any(download(given_state.params[name]).any() for name in across._packed.initial_names)


@pytest.mark.parametrize("number", ["float32", "float64", "float16", "bfloat16"])
def test_learned_states_in_streams_and_state_dicts(number: str) -> None:
    dtype = "float64" if number == "float64" else "float32"
    layer, begin = learned(Problem("lstm", N, 5, T, B, layers=2, dtype=dtype))
    across, x = layer.to("cuda", dtype=number), upload(np.ones((T, B, N)), number)
    assert_same_bits(across.state_dict(), layer.state_dict())
    rounded = download(upload(begin, number))
    stream = across.stream(B)
    stream.run(x[:0])  # which tells it the library of its state
    assert_same_bits(download(stream.state), rounded)
    want = download(across(x, upload(begin, number)))
    assert_same_bits(download(across(x)), want)
    stream.run(x)
    stream.reset([2, 0])
    for found, part, start in zip(download(stream.state), want[1], rounded, strict=True):
        assert_same_bits(found[:, [2, 0]], start[:, [2, 0]])
        assert_same_bits(found[:, [1, 3]], part[:, [1, 3]])
    resets, again = np.random.default_rng(0).random((T, B)) < 0.4, across.stream(B)
    assert_same_bits(download([again.run(x, resets=resets), again.state]), download(across(x, resets=resets)))
    _, _, tape = across.forward(x)
    params = tape.backward(dstate=upload(begin, number)).params
    assert str(params["h_0"].dtype) == dtype and download(params["h_0"]).any()
    copy = pickle.loads(pickle.dumps(across))
    assert_same_bits(download(copy(x)), want)
    across.load_state_dict({name: np.zeros_like(value) for name, value in layer.state_dict().items()})
    assert not download(across(x)[0]).any() and not download(across.stream(B).step(x[0])).any()
    stream.reset()
    assert_same_bits(download(stream.state), rounded)
