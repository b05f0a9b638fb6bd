"""Streams as objects: state, reset, out, independence. That their bits equal a whole call's is in test_same_bits."""

from __future__ import annotations

import gc
import inspect
import sys
import threading
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from checks import Array, arrays, assert_close, assert_same_bits, copies, states
from gradients import as_state
from hypothesis import given
from hypothesis import strategies as st
from reference import CELLS, run
from strategies import DTYPES, TOLERANCE, Problem

import recurra

ALL_CELLS = pytest.mark.parametrize("cell", sorted(CELLS))


def make(cell: str, dtype: str = "float32", **changes: Any) -> Problem:
    proj = 7 if CELLS[cell].projected else 0
    return Problem(cell, 3, 17, 6, 2, proj, layers=2, with_state=True, dtype=dtype, **changes)


@pytest.mark.parametrize("dtype", DTYPES)
@ALL_CELLS
def test_steps_match_the_oracle(cell: str, dtype: str) -> None:
    problem = make(cell, dtype)
    layer = problem.layer()
    stream = layer.stream(problem.batch)
    stream.state = problem.state()
    y = np.stack([stream.step(x) for x in problem.x()])
    want = run(cell, problem.x(), layer.state_dict(), states(problem.state()), None, problem.constants)
    assert_close((y, states(stream.state)), want, TOLERANCE[dtype])


@ALL_CELLS
def test_shapes_with_and_without_a_batch_axis(cell: str) -> None:
    problem = make(cell)
    layer, x = problem.layer(), problem.x()
    output, sizes = (problem.proj_size or 17), [problem.proj_size or 17] + [17] * (CELLS[cell].states - 1)
    for batch in (None, 1, 2):
        stream, axes = layer.stream(batch), () if batch is None else (batch,)
        some = x[:, 0] if batch is None else x[:, :batch]
        assert stream.step(some[0]).shape == (*axes, output)
        assert stream.run(some[1:]).shape == (5, *axes, output)
        assert stream.run(some[:0]).shape == (0, *axes, output)
        assert [part.shape for part in states(stream.state)] == [(2, *axes, size) for size in sizes]
        assert {part.dtype for part in states(stream.state)} == {np.dtype("float32")}


def test_a_stream_without_a_batch_axis_equals_a_batch_of_one() -> None:
    problem = make("lstm")
    layer, x = problem.layer(), problem.x()
    single, batched = layer.stream(), layer.stream(1)
    for frame in x[:3, 0]:
        assert_same_bits(single.step(frame), batched.step(frame[None])[0])
    assert_same_bits(single.run(x[3:, 0]), batched.run(x[3:, :1])[:, 0])
    assert_same_bits([part[:, None] for part in single.state], list(batched.state))


def test_run_of_a_batch_first_layer_has_the_batch_first() -> None:
    problem = make("gru")
    x = problem.x()
    output, _ = problem.layer()(x)
    stream = problem.layer(batch_first=True).stream(2)
    assert_same_bits(stream.run(x[:4].swapaxes(0, 1)).swapaxes(0, 1), output[:4])
    assert_same_bits(stream.step(x[4]), output[4])


@ALL_CELLS
def test_state_is_zero_at_first_and_read_and_written_by_copy(cell: str) -> None:
    problem = make(cell)
    layer, x = problem.layer(), problem.x()
    stream = layer.stream(2)
    assert not any(part.any() for part in states(stream.state))
    given = problem.state()
    stream.state = given
    kept = copies(given)
    for part in (*states(given), *states(stream.state)):
        part[...] = 9
    assert_same_bits(list(states(stream.state)), kept)
    given = tuple(kept) if len(kept) > 1 else kept[0]
    assert_same_bits(stream.step(x[0]), layer(x[:1], given)[0][0])


@ALL_CELLS
def test_saved_state_resumes_elsewhere(cell: str) -> None:
    problem = make(cell)
    layer, x = problem.layer(), problem.x()
    output, final = layer(x)
    first, second = layer.stream(2), layer.stream(2)
    first.run(x[:4])
    second.state = first.state
    assert_same_bits(second.run(x[4:]), output[4:])
    assert_same_bits(layer(x[4:], first.state), (output[4:], final))


@ALL_CELLS
def test_reset_to_given_states(cell: str) -> None:
    problem = Problem(cell, 3, 5, 6, 4, 2 * CELLS[cell].projected, layers=2, with_state=True)
    layer, x, state = problem.layer(), problem.x(), problem.state()
    stream = layer.stream(4)

    def part(take: Any) -> Any:
        return as_state([take(array) for array in states(state)])

    stream.run(x)
    before = states(stream.state)
    stream.reset([3, 0], part(lambda a: a[:, 1:3]))
    for now, old, given_state in zip(states(stream.state), before, states(state), strict=True):
        assert_same_bits(now[:, [1, 2]], old[:, [1, 2]])
        assert_same_bits(now[:, [3, 0]], given_state[:, 1:3])
    stream.reset(np.array([False, True, True, False]), part(lambda a: a[:, 3]))  # one state for both
    for now, given_state in zip(states(stream.state), states(state), strict=True):
        assert_same_bits(now[:, [3, 0, 1, 2]], given_state[:, [1, 2, 3, 3]])
    stream.reset(state=state)
    assert_same_bits(stream.run(x), layer(x, state)[0])
    stream.reset(state=part(lambda a: a[:, 0]))
    assert_same_bits(stream.run(x), layer(x, part(lambda a: np.repeat(a[:, :1], 4, axis=1)))[0])
    stream.reset([2, 2], part(lambda a: a[:, :2]))
    assert_same_bits([now[:, 2] for now in states(stream.state)], [a[:, 1] for a in states(state)])
    single = layer.stream()
    single.step(x[0, 0])
    single.reset(state=part(lambda a: a[:, 0]))
    assert_same_bits(single.run(x[:, 0]), layer(x[:, 0], part(lambda a: a[:, 0]))[0])


def test_a_reset_to_what_does_not_fit_changes_nothing() -> None:
    layer = recurra.LSTM(3, 5, 2, seed=0)
    stream = layer.stream(4)
    stream.run(np.ones((2, 4, 3), "float32"))
    before = copies(stream.state)
    h = np.zeros((2, 2, 5), "float32")
    for rows, state, error, message in (
        ([1, 2], (h, h[:, :1]), ValueError, r"state c: expected shape \[2, 2, 5\] or \[2, 5\], got \[2, 1, 5\]"),
        ([1, 2], (h, h[:, 0]), ValueError, r"state: expected as many axes for state h, state c, got \[3, 2\]"),
        (None, (h, h), ValueError, r"state h: expected shape \[2, 4, 5\]"),
        ([1, 4], (h, h), ValueError, r"rows: expected values in 0\.\.3"),
        ([1, 2], h, TypeError, r"state: expected a tuple \(h, c\)"),
        ([1, 2], (h, h.astype("float64")), TypeError, "state c: expected float32"),
    ):
        with pytest.raises(error, match=message):
            stream.reset(rows, state)
        assert_same_bits(stream.state, before)
    small = layer.quantize("int8").stream(1)
    with pytest.raises(ValueError, match=r"state h: expected values in -1\.\.1 for int8"):
        small.reset(state=(h[:, 0] + 2, h[:, 0]))


@pytest.mark.parametrize("rows", ([1, 3], np.array([3, 1, 1]), np.array([False, True, False, True]), (1, 3)))
def test_reset_zeroes_the_given_rows_only(rows: Any) -> None:
    for cell in ("lstm_projected", "gru"):
        problem = Problem(cell, 3, 5, 6, 4, 2 if cell == "lstm_projected" else 0, layers=2)
        layer, x = problem.layer(), problem.x()
        stream = layer.stream(4)
        stream.run(x)
        before = states(stream.state)
        stream.reset(rows)
        for part, old in zip(states(stream.state), before, strict=True):
            assert not part[:, [1, 3]].any()
            assert_same_bits(part[:, [0, 2]], old[:, [0, 2]])
        assert_same_bits(stream.run(x)[:, [1, 3]], layer(x[:, [1, 3]])[0])
        stream.reset([])
        assert any(part.any() for part in states(stream.state))
        stream.reset()
        assert not any(part.any() for part in states(stream.state))


@ALL_CELLS
@given(st.data())
def test_any_mix_of_steps_chunks_resets_and_state_writes_equals_layer_calls(cell: str, data: st.DataObject) -> None:
    problem = make(cell, data.draw(st.sampled_from(DTYPES)))
    layer, rng = problem.layer(), np.random.default_rng(data.draw(st.integers(0, 99)))
    stream, state = layer.stream(2), [np.zeros_like(part) for part in states(problem.state())]
    for _ in range(data.draw(st.integers(1, 12))):
        action = data.draw(st.sampled_from(("step", "step", "run", "reset", "row", "write")))
        if action in ("step", "run"):
            x = rng.normal(0, 1, (data.draw(st.integers(0, 40)) if action == "run" else 1, 2, 3)).astype(problem.dtype)
            y, final = layer(x, tuple(state) if len(state) > 1 else state[0])
            state = list(states(final))
            assert_same_bits(stream.run(x) if action == "run" else stream.step(x[0])[None], y)
        elif action == "write":
            state = [rng.uniform(-1, 1, part.shape).astype(problem.dtype) for part in state]
            stream.state = tuple(state) if len(state) > 1 else state[0]
        else:
            rows = [0, 1] if action == "reset" else [data.draw(st.integers(0, 1))]
            stream.reset(None if action == "reset" else rows)
            for part in state:
                part[:, rows] = 0
        assert_same_bits(list(states(stream.state)), state)


def test_reset_without_a_batch_axis() -> None:
    problem = make("lstm")
    layer, x = problem.layer(), problem.x()[:, 0]
    stream = layer.stream()
    first = stream.run(x)
    stream.reset()
    assert_same_bits(stream.run(x), first)


@ALL_CELLS
def test_out_is_filled_and_returned(cell: str) -> None:
    problem = make(cell)
    layer, x = problem.layer(), problem.x()
    output, _ = layer(x)
    stream, size = layer.stream(2), problem.proj_size or 17
    y = np.full((2, size), np.nan, "float32")
    rows = np.full((2, 2 * size), np.nan, "float32")[::-1, :size]  # not contiguous: the slower path
    for t, out in enumerate((y, y, rows)):
        assert stream.step(x[t], out=out) is out
        assert_same_bits(out, output[t])
    chunk = np.full((3, 2, size), np.nan, "float32")
    assert stream.run(x[3:], out=chunk) is chunk
    assert_same_bits(chunk, output[3:])


def test_outputs_are_new_arrays() -> None:
    problem = make("lstm")
    stream = problem.layer().stream(2)
    outputs = [stream.step(x) for x in problem.x()]
    kept = copies(outputs)
    stream.run(problem.x())
    assert_same_bits(copies(outputs), kept)
    assert not any(np.shares_memory(a, b) for a, b in pairwise(outputs))


def test_a_step_is_called_as_its_signature_says() -> None:
    layer = recurra.GRU(3, 5, seed=0)
    x, out = np.random.default_rng(0).standard_normal(3, dtype=np.float32), np.empty(5, np.float32)
    want = layer.stream().step(x)
    calls: list[Any] = [
        lambda step: step(x, out),
        lambda step: step(x, None),
        lambda step: step(x, out=out),
        lambda step: step(x=x),
        lambda step: step(out=out, x=x),
    ]
    for call in calls:
        assert_same_bits(call(layer.stream().step), want)
    stream: Any = layer.stream()
    wrong: list[Any] = [
        lambda: stream.step(),
        lambda: stream.step(out=out),
        lambda: stream.step(x, out, out),
        lambda: stream.step(x, into=out),
        lambda: stream.step(x, x=x),
    ]
    for call in wrong:
        with pytest.raises(TypeError, match=r"Stream\.step\(\)"):
            call()
    assert_same_bits(stream.step(x), want)


def test_a_subclass_may_have_a_step_of_its_own() -> None:
    class Twice(recurra.Stream):
        def step(self, x: Any, out: Any = None, **marks: Any) -> Any:  # type: ignore[override]
            super().step(x)
            return super().step(x, out)

    layer = recurra.GRU(3, 5, seed=0)
    plain, x = layer.stream(), np.ones(3, np.float32)
    plain.step(x)
    assert_same_bits(Twice(layer.__dict__["_packed"]).step(x), plain.step(x))
    assert "out:" in (inspect.getdoc(vars(recurra.Stream)["step"]) or "")
    marks = ["resets", "reset_state", "mask", "masked_output"]
    assert list(inspect.signature(plain.step).parameters) == ["x", "out", *marks]


def test_a_stream_goes_with_its_last_reference() -> None:
    """No cycle that only the garbage collector would find: the core's part of it is out of its sight."""
    packed = recurra.GRU(3, 5, seed=0).__dict__["_packed"]
    gc.disable()
    try:
        before = sys.getrefcount(packed)
        for _ in range(3):
            recurra.Stream(packed).step(np.zeros(3, np.float32))
        assert sys.getrefcount(packed) == before
    finally:
        gc.enable()


def test_steps_take_strided_unaligned_and_read_only_input() -> None:
    problem = make("gru")
    layer, x = problem.layer(), problem.x()
    output, _ = layer(x)
    unaligned = np.empty(x[0].nbytes + 1, np.uint8)[1:].view("float32").reshape(x[0].shape)
    wide: Array = np.empty((4, 6), "float32")
    views = [wide[:2, ::2], wide[:3, :2].T, wide[::2, :3]]
    stream = layer.stream(2)
    for t, view in enumerate([*views, unaligned, np.empty((2, 3), "float32")]):
        view[...] = x[t]
        view.flags.writeable = False
        assert_same_bits(stream.step(view), output[t])


def test_streams_of_one_layer_are_independent_and_outlive_it() -> None:
    problem = make("lstm")
    layer, x = problem.layer(), problem.x()
    want = layer(x)[0]
    one, other = layer.stream(2), layer.stream(2)
    del layer
    for t in range(6):
        assert_same_bits(one.step(x[t]), want[t])
        assert_same_bits(other.step(x[0] if t == 0 else x[t]), want[t])


def test_a_stream_keeps_the_parameters_it_was_made_with() -> None:
    problem = make("gru")
    layer, x = problem.layer(), problem.x()
    want = layer(x)[0]
    stream = layer.stream(2)
    assert_same_bits(stream.run(x[:3]), want[:3])
    layer.load_state_dict({name: 0 * array for name, array in layer.state_dict().items()})
    assert_same_bits(stream.run(x[3:]), want[3:])
    assert not np.array_equal(layer.stream(2).run(x[3:]), want[3:])


def test_a_stream_used_by_two_threads_at_once_raises_and_stays_usable() -> None:
    layer = recurra.GRU(64, 256, seed=0)
    stream = layer.stream(4)
    chunk = np.zeros((200, 4, 64), "float32")
    errors: list[str] = []
    deadline = time.monotonic() + 20

    def use() -> None:
        while not errors and time.monotonic() < deadline:
            try:
                stream.run(chunk)
            except RuntimeError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors
    assert "stream" in errors[0].lower()
    stream.reset()
    x = np.random.default_rng(0).normal(0, 1, (3, 4, 64)).astype("float32")
    assert_same_bits(arrays((stream.run(x), stream.state)), arrays(layer(x)))
