"""Resets and masks: steps of a call that something befalls."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import reference
from checks import Array, assert_close, assert_same_bits, states
from gradients import EVERY_KIND, as_state, small_problems, upstream
from hypothesis import given
from hypothesis import strategies as st
from reference import CELLS
from strategies import DTYPES, TOLERANCE, Problem, problems

import recurra
from recurra import functional

Layer = recurra.Recurrent


@dataclass(frozen=True)
class Marks:
    """How dense resets and valid steps are, and what there is beside them. Equal ones make equal arrays."""

    resets: float | None
    valid: float | None
    reset_state: str = "zero"  # or "shared" or "own" of each row
    masked_output: str = "previous"

    def of(self, problem: Problem) -> dict[str, Any]:
        """The arguments of a call."""
        rng = np.random.default_rng(problem.seed + 3)
        shape = (problem.steps, problem.batch)
        made: dict[str, Any] = {}
        if self.resets is not None:
            made["resets"] = rng.random(shape) < self.resets
            if self.reset_state != "zero":
                made["reset_state"] = fresh_state(problem, rng, self.reset_state == "shared")
        if self.valid is not None:
            made |= {"mask": rng.random(shape) < self.valid, "masked_output": self.masked_output}
        return made


def fresh_state(problem: Problem, rng: np.random.Generator, shared: bool) -> Any:
    sizes = [problem.proj_size or problem.hidden_size] + [problem.hidden_size] * (CELLS[problem.cell].states - 1)
    rows = (problem.layers * problem.directions, *(() if shared else (problem.batch,)))
    state = [rng.uniform(-1, 1, (*rows, size)).astype(problem.dtype) for size in sizes]
    if CELLS[problem.cell].heads:
        state[2] += 2  # n divides
    return as_state(state)


def above(problem: Problem) -> tuple[Array, list[Array]]:
    """The gradients of the output and of the final states; zero at padded steps."""
    dy, dstate = upstream(problem)
    return np.nan_to_num(np.asarray(dy)), [np.asarray(d) for d in dstate or ()]


densities = st.sampled_from((0.0, 0.1, 0.5, 0.9, 1.0))
all_marks = st.builds(
    Marks,
    st.one_of(st.none(), densities),
    st.one_of(st.none(), densities),
    st.sampled_from(("zero", "shared", "own")),
    st.sampled_from(("previous", "zero")),
)


def as_reference(problem: Problem, marks: dict[str, Any]) -> dict[str, Any]:
    """The same for the oracle, which knows no shared state."""
    given = dict(marks)
    if "reset_state" in given:
        parts = states(given["reset_state"])
        given["reset_state"] = [p if p.ndim == 3 else np.repeat(p[:, None], problem.batch, 1) for p in parts]
    return given


def oracle(problem: Problem, layer: Layer, marks: dict[str, Any]) -> Any:
    state = problem.state()
    return reference.run(
        problem.cell,
        problem.x(),
        layer.state_dict(),
        None if state is None else states(state),
        problem.lengths,
        problem.constants,
        **as_reference(problem, marks),
    )


@EVERY_KIND
@given(data=st.data())
def test_the_oracle_agrees(cell: str, data: st.DataObject) -> None:
    problem, marks = data.draw(problems(cell)), data.draw(all_marks)
    layer, given = problem.layer(), marks.of(problem)
    y, final = layer(problem.x(), problem.state(), lengths=problem.lengths, **given)
    want, last = oracle(problem, layer, given)
    assert_close(y, want, 20 * TOLERANCE[problem.dtype])
    assert_close(states(final), last, 20 * TOLERANCE[problem.dtype])


@EVERY_KIND
@given(data=st.data())
def test_training_has_the_bits_of_a_call(cell: str, data: st.DataObject) -> None:
    problem, marks = data.draw(problems(cell)), data.draw(all_marks)
    layer, options = problem.layer(), {"lengths": problem.lengths, **marks.of(problem)}
    want = layer(problem.x(), problem.state(), **options)
    first, *_ = found = [layer.forward(problem.x(), problem.state(), recompute=r, **options) for r in (False, True)]
    for y, final, _ in found:
        assert_same_bits([y, final], list(want))
    dy = np.ones_like(first[0])
    backward = [tape.backward(dy) for _, _, tape in found]
    assert_same_bits(
        *[[g.x, g.state, [] if g.reset_state is None else g.reset_state, list(g.params.values())] for g in backward]
    )


# ------------------------------------------------------------------------------------- the long way round


def segments(problem: Problem, resets: Array, row: int) -> list[slice]:
    """The sequences that a row's resets divide it into; one that has no step is left out."""
    end = problem.lengths[row] if problem.lengths else problem.steps
    cuts = [0, *(t for t in range(1, end) if resets[t, row]), end]
    return [slice(a, b) for a, b in itertools.pairwise(cuts)]


def row_of(state: Any, row: int) -> Any:
    return as_state([part[:, row : row + 1] for part in states(state)])


def zero_state(problem: Problem) -> Any:
    return as_state([np.zeros_like(s) for s in states(fresh_state(problem, np.random.default_rng(), False))])


def mixed(problem: Problem, forward: Any, reverse: Any) -> Any:
    """Some lanes of a state are of one direction, some of the other."""
    if problem.directions == 1:
        return forward
    out = [np.array(part) for part in states(forward)]
    for part, other in zip(out, states(reverse), strict=True):
        part[1::2] = other[1::2]
    return as_state(out)


@EVERY_KIND
@given(data=st.data())
def test_resets_are_segments_run_alone(cell: str, data: st.DataObject) -> None:
    """In every bit: outputs, final states, and gradients of inputs and states."""
    problem = data.draw(small_problems(cell, min_steps=1, min_batch=1, min_length=1))
    layer, marks = problem.layer(), data.draw(st.builds(Marks, densities, st.none(), st.sampled_from(("zero", "own"))))
    given, x = marks.of(problem), problem.x()
    start = problem.state() if problem.with_state else zero_state(problem)
    fresh = given.get("reset_state", zero_state(problem))
    dy, dstate = above(problem)
    y, final, tape = layer.forward(x, start, lengths=problem.lengths, **given)
    gradients: Any = tape.backward(dy, as_state(dstate))
    nothing = as_state([np.zeros_like(d) for d in dstate])
    for row in range(problem.batch):
        parts = segments(problem, given["resets"], row)
        d_fresh = [np.zeros_like(s[:, row : row + 1]) for s in states(start)]
        for k, part in list(enumerate(parts))[::-1]:
            first, last = k == 0, k == len(parts) - 1
            begins = fresh if given["resets"][0, row] and first else start if first else fresh
            own = row_of(mixed(problem, begins, start if last else fresh), row)
            here = x[part, row : row + 1]
            y_alone, final_alone, tape_alone = layer.forward(here, own)
            assert_same_bits(y[part, row : row + 1], y_alone)
            back = as_state(dstate)
            reaches = row_of(mixed(problem, back if last else nothing, back if first else nothing), row)
            alone = tape_alone.backward(dy[part, row : row + 1], reaches)
            assert_same_bits(gradients.x[part, row : row + 1], alone.x)
            for lane in range(layer.num_layers * problem.directions):
                forward = problem.directions == 1 or lane % 2 == 0
                ends_there = last if forward else first
                for f, s in zip(states(final), states(final_alone), strict=True):
                    if ends_there:
                        assert_same_bits(f[lane, row], s[lane, 0])
                is_start = (first and not given["resets"][0, row]) if forward else last
                for d, total, a in zip(states(gradients.state), d_fresh, states(alone.state), strict=True):
                    if is_start:
                        assert_same_bits(d[lane, row], a[lane, 0])
                    else:
                        total[lane, 0] += a[lane, 0]
        if "reset_state" in given:
            for got, want in zip(states(gradients.reset_state), d_fresh, strict=True):
                np.testing.assert_allclose(got[:, row], want[:, 0], rtol=1e-12, atol=1e-12)
        if given["resets"][0, row]:
            for d in states(gradients.state):
                assert not d[:: problem.directions, row].any()


def moved_together(array: Array, mask: Array) -> Array:
    """Valid steps of each row first."""
    out = np.zeros_like(array)
    for row in range(mask.shape[1]):
        valid = array[mask[:, row], row]
        out[: len(valid), row] = valid
    return out


@EVERY_KIND
@given(data=st.data())
def test_a_mask_is_valid_steps_moved_together(cell: str, data: st.DataObject) -> None:
    """In every bit, with what is left out at random too; nobody looks at masked inputs."""
    problem = data.draw(small_problems(cell))
    marks = data.draw(st.builds(Marks, st.none(), densities, st.none(), st.just("zero")))
    given, x, (dy, dstate) = marks.of(problem), problem.x(), above(problem)
    mask = given["mask"] & (np.arange(problem.steps)[:, None] < (problem.lengths or [problem.steps] * problem.batch))
    x[~mask], dy[~mask] = np.nan, np.nan
    noise = {"zoneout": 0.3, "dropout": 0.3} if data.draw(st.booleans()) else {}
    layer = problem.layer(**noise)
    y, final, tape = layer.forward(x, problem.state(), lengths=problem.lengths, rng=3 if noise else None, **given)
    want, last, other = layer.forward(
        moved_together(x, mask), problem.state(), lengths=mask.sum(0), rng=3 if noise else None
    )
    assert_same_bits(moved_together(y, mask), want)
    assert_same_bits(final, last)
    assert not y[~mask].any()
    got: Any = tape.backward(dy, as_state(dstate))
    long = other.backward(moved_together(dy, mask), as_state(dstate))
    assert_same_bits(moved_together(got.x, mask), long.x)
    assert not got.x[~mask].any()
    assert_same_bits([got.state, list(got.params.values())], [long.state, list(long.params.values())])


@EVERY_KIND
@given(data=st.data())
def test_a_call_in_pieces(cell: str, data: st.DataObject) -> None:
    """The state that is handed on holds all there is to know, masked beginnings included."""
    problem = data.draw(problems(cell, directions=1, lengths=False, min_steps=2))
    layer, marks = problem.layer(), data.draw(all_marks)
    given, cut = marks.of(problem), data.draw(st.integers(0, problem.steps))
    want, last = layer(problem.x(), problem.state(), **given)
    state, pieces = problem.state(), []
    for part in (slice(0, cut), slice(cut, None)):
        own = {k: v[part] if k in ("resets", "mask") else v for k, v in given.items()}
        y, state = layer(problem.x()[part], state, **own)
        pieces.append(y)
    assert_same_bits([np.concatenate(pieces), state], [want, last])


@EVERY_KIND
@given(data=st.data())
def test_a_mask_that_is_a_prefix_is_lengths(cell: str, data: st.DataObject) -> None:
    problem = data.draw(problems(cell, lengths=True))
    layer, lengths = problem.layer(), np.array(problem.lengths, np.int64)
    mask = np.arange(problem.steps)[:, None] < lengths
    want = layer(problem.x(), problem.state(), lengths=lengths)
    assert_same_bits(list(layer(problem.x(), problem.state(), mask=mask, masked_output="zero")), list(want))
    y, final = layer(problem.x(), problem.state(), mask=mask)
    assert_same_bits([y[mask], final], [want[0][mask], want[1]])
    size, start = layer._packed.sizes.output, problem.state()
    for row, n in enumerate(lengths):
        h = states(want[1])[0][-problem.directions, row] if start is not None or n else np.zeros(size)
        np.testing.assert_array_equal(y[n:, row, :size], np.broadcast_to(h, (problem.steps - n, size)))


# ------------------------------------------------------------------------------------------------- gradients


SMOOTH = [name for name in sorted(CELLS) if not ("relu" in name or "positive" in name)]  # those have kinks


@pytest.mark.parametrize("cell", SMOOTH)
@given(data=st.data())
def test_central_differences(cell: str, data: st.DataObject) -> None:
    """Along a random direction of everything that has a gradient, by the oracle."""
    drawn, marks = data.draw(small_problems(cell, min_steps=1, min_batch=1)), data.draw(all_marks)
    started = drawn.with_state or CELLS[drawn.cell].heads  # an n of zero is the start, and no number beside it is
    problem = replace(drawn, gain=1.0, cell_clip=None, with_state=started)
    layer, given = problem.layer(), marks.of(problem)
    rng = np.random.default_rng(problem.seed)
    (dy, dstate), start = above(problem), problem.state() if problem.with_state else zero_state(problem)
    _, _, tape = layer.forward(problem.x(), start, lengths=problem.lengths, **given)
    found = tape.backward(dy, as_state(dstate))
    values = {"x": problem.x(), **{f"s{k}": s for k, s in enumerate(states(start))}, **layer.state_dict()}
    slopes: dict[str, Any] = {"x": found.x, **{f"s{k}": s for k, s in enumerate(states(found.state))}, **found.params}
    if "reset_state" in given:
        values |= {f"r{k}": s for k, s in enumerate(states(given["reset_state"]))}
        slopes |= {f"r{k}": s for k, s in enumerate(states(found.reset_state))}
    direction = {name: rng.normal(size=v.shape) for name, v in values.items()}

    def loss(eps: float) -> float:
        at = {name: v + eps * direction[name] for name, v in values.items()}
        marked = dict(given)
        if "reset_state" in given:
            marked["reset_state"] = as_state([at[f"r{k}"] for k in range(len(states(start)))])
        y, final = reference.run(
            problem.cell,
            at["x"],
            {name: at[name] for name in found.params},
            [at[f"s{k}"] for k in range(len(states(start)))],
            problem.lengths,
            problem.constants,
            **as_reference(problem, marked),
        )
        return float((dy * y).sum() + sum((d * f).sum() for d, f in zip(dstate, final, strict=True)))

    eps = 1e-6  # with an error of its fourth power: a normalisation bends fast
    want = (8 * (loss(eps) - loss(-eps)) - (loss(2 * eps) - loss(-2 * eps))) / (12 * eps)
    terms = [float((slopes[name] * direction[name]).sum()) for name in values]
    assert abs(sum(terms) - want) < 1e-6 * (1 + sum(map(abs, terms)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40, 64, 9, 2), (200, 1, 70, 1), (30, 3, 100, 2)])
def test_threads_change_no_bit(shape: tuple[int, int, int, int], dtype: str) -> None:
    steps, batch, hidden, layers = shape
    rng = np.random.default_rng(0)
    layer = recurra.LSTM(8, hidden, layers, bidirectional=layers == 2, dtype=dtype, seed=0)
    x = rng.standard_normal((steps, batch, 8)).astype(dtype)
    options: dict[str, Any] = {"resets": rng.random((steps, batch)) < 0.1, "mask": rng.random((steps, batch)) < 0.8}
    fresh = tuple(rng.uniform(-1, 1, (layers * (1 + (layers == 2)), hidden)).astype(dtype) for _ in "hc")

    def run() -> Any:
        y, final, tape = layer.forward(x, reset_state=fresh, **options)
        found = tape.backward(np.ones_like(y))
        again = layer(x, reset_state=fresh, **options)[0]
        return [y, again, final, found.x, found.state, found.reset_state, list(found.params.values())]

    before = recurra.get_num_threads()
    try:
        recurra.set_num_threads(1)
        one = run()
        recurra.set_num_threads(before)
        assert_same_bits(run(), one)
    finally:
        recurra.set_num_threads(before)


# ---------------------------------------------------------------------------------------------- forms and errors


@pytest.mark.parametrize("batch_first", [False, True])
def test_forms(batch_first: bool) -> None:
    """Strided, read-only and batch-first flags, one sequence without a batch axis, functions."""
    rng = np.random.default_rng(0)
    layer = recurra.GRU(3, 5, 2, bidirectional=True, batch_first=batch_first, seed=0)
    x, resets, mask = rng.standard_normal((6, 4, 3), "float32"), rng.random((6, 4)) < 0.3, rng.random((6, 4)) < 0.6
    want, final = recurra.GRU(3, 5, 2, bidirectional=True, seed=0)(x, resets=resets, mask=mask)

    def turn(a: Array) -> Array:
        return a.swapaxes(0, 1) if batch_first else a

    wide = np.zeros((12, 8), bool)
    wide[::2, ::-2] = mask
    strided = wide[::2, ::-2]
    strided.flags.writeable = False
    y, h = layer(turn(x), resets=turn(resets), mask=turn(strided))
    assert_same_bits([turn(y), h], [want, final])
    alone, h_alone = layer(x[:, 1], resets=resets[:, 1], mask=mask[:, 1])
    assert_same_bits([alone, h_alone], [want[:, 1], final[:, 1]])
    params = layer.state_dict()
    by_function = functional.gru(turn(x), params, batch_first=batch_first, resets=turn(resets), mask=turn(mask))
    assert_same_bits([turn(by_function[0]), by_function[1]], [want, final])
    out = np.empty_like(y)
    assert layer(turn(x), resets=turn(resets), mask=turn(mask), out=out)[0] is out
    assert_same_bits(turn(out), want)


def test_a_row_without_a_valid_step_is_of_length_0() -> None:
    layer, x = recurra.LSTM(3, 5, 2, bidirectional=True, seed=0), np.ones((4, 3, 3), "float32")
    state = tuple(np.full((4, 3, 5), v, "float32") for v in (0.25, 0.5))
    mask = np.ones((4, 3), bool)
    mask[:, 1] = False
    y, final, tape = layer.forward(x, state, mask=mask)
    assert_same_bits(list(final), list(layer(x, state, lengths=[4, 0, 4])[1]))
    assert (y[:, 1] == 0.25).all()
    found: Any = tape.backward(np.ones_like(y))
    assert (found.state[0][2:, 1] == 4).all() and not found.state[0][:2, 1].any() and not found.x[:, 1].any()
    assert not layer(x, state, mask=mask, masked_output="zero")[0][:, 1].any()
    everything, h = layer(x, state, mask=np.zeros((4, 3), bool))
    assert (everything == 0.25).all() and (h[0] == 0.25).all()


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_reduced_precision(precision: str) -> None:
    rng = np.random.default_rng(0)
    layer = recurra.LSTM(8, 24, 2, seed=0).quantize(precision)
    x = rng.standard_normal((20, 3, 8), "float32")
    resets = np.zeros((20, 3), bool)
    resets[7] = True
    y, final = layer(x, resets=resets)
    assert_same_bits(y[:7], layer(x[:7])[0])
    assert_same_bits([y[7:], final], list(layer(x[7:])))
    if precision == "int8":
        big = tuple(np.full((2, 24), 2, "float32") for _ in "hc")
        with pytest.raises(ValueError, match=r"reset_state h: expected values in -1\.\.1"):
            layer(x, resets=resets, reset_state=big)


def flags(*shape: int) -> Array:
    return np.ones(shape, bool)


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (TypeError, "resets: expected bool, got int64", {"resets": flags(4, 3).astype("int64")}),
        (TypeError, "mask: expected bool, got float32", {"mask": flags(4, 3).astype("float32")}),
        (TypeError, "mask: expected a NumPy or DLPack array, got list", {"mask": [[True] * 3] * 4}),
        (ValueError, r"resets: expected shape \[4, 3\], got \[3, 4\]", {"resets": flags(3, 4)}),
        (ValueError, r"mask: expected shape \[4, 3\], got \[4\]", {"mask": flags(4)}),
        (ValueError, "reset_state: expected None without resets", {"reset_state": np.zeros((1, 3, 5), "float32")}),
        (TypeError, "reset_state h: expected float32", {"resets": flags(4, 3), "reset_state": np.zeros((1, 3, 5))}),
        (
            ValueError,
            r"reset_state h: expected shape \[1, 3, 5\] or \[1, 5\], got \[3, 5\]",
            {"resets": flags(4, 3), "reset_state": np.zeros((3, 5), "float32")},
        ),
        (
            ValueError,
            "masked_output: expected one of 'previous', 'zero'",
            {"mask": flags(4, 3), "masked_output": "last"},
        ),
        (ValueError, "masked_output: expected 'previous' without a mask", {"masked_output": "zero"}),
        (TypeError, "lengths: expected integers, got bool: pass a mask of booleans as mask=", {"lengths": flags(4, 3)}),
        (TypeError, "lengths: expected integers, got bool: pass a mask of booleans as mask=", {"lengths": [True] * 3}),
    ],
)
def test_bad_input(error: type[Exception], message: str, options: dict[str, Any]) -> None:
    layer, x = recurra.GRU(3, 5), np.zeros((4, 3, 3), "float32")
    for call in (layer, layer.forward):
        with pytest.raises(error, match=message):
            call(x, **options)


# -------------------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize("with_head", [False, True])
@pytest.mark.parametrize("cell", ["lstm_projected", "gru", "rnn_tanh"])
@given(data=st.data())
def test_streams(cell: str, with_head: bool, data: st.DataObject) -> None:
    """Step by step and in chunks: a call's bits."""
    problem = data.draw(problems(cell, directions=1, lengths=False, min_batch=1))
    given, layer = data.draw(all_marks).of(problem), problem.layer()
    size = layer._packed.sizes.output
    head = recurra.Linear(size, 3, dtype=problem.dtype, seed=1) if with_head else None
    want, last = layer(problem.x(), problem.state(), **given)
    if head is not None:
        want = head(want)
    cut = data.draw(st.integers(0, problem.steps))
    by_step, by_chunk = layer.stream(problem.batch, head=head), layer.stream(problem.batch, head=head)
    if problem.with_state:
        by_step.state = by_chunk.state = problem.state()
    pieces = []
    for part in (slice(0, cut), slice(cut, None)):
        own = {k: v[part] if k in ("resets", "mask") else v for k, v in given.items()}
        pieces.append(by_chunk.run(problem.x()[part], **own))
    assert_same_bits([np.concatenate(pieces), by_chunk.state], [want, last])
    for t, x in enumerate(problem.x()):
        own = {k: v[t] if k in ("resets", "mask") else v for k, v in given.items()}
        assert_same_bits(by_step.step(x, **own), want[t])
    assert_same_bits(by_step.state, last)


def test_a_stream_without_a_batch_axis() -> None:
    layer, x = recurra.LSTM(3, 5, seed=0), np.ones((4, 3), "float32")
    stream, want = layer.stream(), layer(x[:2])[0]
    first = stream.step(x[0], resets=True, mask=np.True_).copy()
    assert_same_bits(stream.step(x[1], mask=False), first)
    assert_same_bits(stream.step(x[1], resets=False), want[1])
    out = np.empty(5, "float32")
    assert stream.step(x[0], out, resets=True, mask=False) is out and not out.any()
    assert_same_bits(stream.run(x[:2], resets=np.array([True, False])), want)
    with pytest.raises(TypeError, match="resets: expected True or False, got"):
        stream.step(x[0], resets=np.array([True]))
    with pytest.raises(ValueError, match=r"mask: expected shape \[2\], got \[3\]"):
        layer.stream(2).step(x[:2], mask=flags(3))
    with pytest.raises(ValueError, match=r"resets: expected shape \[4, 2\], got \[2, 4\]"):
        layer.stream(2).run(np.ones((4, 2, 3), "float32"), resets=flags(2, 4))
    before = stream.state
    with pytest.raises(TypeError, match="mask: expected bool, got float32"):
        stream.run(x, mask=x[:, 0])
    assert_same_bits(stream.state, before)
