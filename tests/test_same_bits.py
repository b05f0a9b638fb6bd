"""Law 1: on CPU an output depends on weights, the inputs of its own sequence and the dtype, and on nothing else.

Everything here compares bytes. Whether the numbers are right is test_reference's question.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import (
    CPUS,
    Array,
    arrays,
    assert_same_bits,
    assert_same_bits_on_avx2_and_avx512,
    copies,
    run_python,
    save_results,
    states,
)
from hypothesis import given
from hypothesis import strategies as st
from reference import CELLS, kinds
from strategies import DTYPES, Problem, problems

import recurra

EVERY_KIND = pytest.mark.parametrize("cell", kinds())


def row(state: Any, b: int) -> Any:
    """Row b of a state, as a batch of one."""
    if state is None:
        return None
    cut = tuple(np.ascontiguousarray(part[:, b : b + 1]) for part in states(state))
    return cut if isinstance(state, tuple) else cut[0]


def whole(problem: Problem) -> tuple[recurra.Recurrent, Array, Any]:
    layer = problem.layer()
    output, state = layer(problem.x(), problem.state(), lengths=problem.lengths)
    return layer, output, state


@EVERY_KIND
@given(st.data())
def test_chunks_and_single_steps_of_a_stream_equal_the_whole_sequence(cell: str, data: st.DataObject) -> None:
    problem = data.draw(problems(cell, directions=1, lengths=False, min_batch=1))
    layer, output, final = whole(problem)
    x, stream = problem.x(), layer.stream(problem.batch)
    if problem.with_state:
        stream.state = problem.state()
    t = 0
    while t < problem.steps:
        size = data.draw(st.integers(0, problem.steps - t), label="chunk, 0 is one step")
        y = stream.run(x[t : t + size]) if size else stream.step(x[t])[None]
        assert_same_bits(y, output[t : t + max(size, 1)])
        t += max(size, 1)
    assert_same_bits(stream.state, final)


@EVERY_KIND
@given(st.data())
def test_calls_that_carry_the_state_equal_the_whole_sequence(cell: str, data: st.DataObject) -> None:
    problem = data.draw(problems(cell, directions=1, lengths=False))
    layer, output, final = whole(problem)
    cut = data.draw(st.integers(0, problem.steps))
    head, state = layer(problem.x()[:cut], problem.state())
    tail, state = layer(problem.x()[cut:], state)
    assert_same_bits((head, tail, state), (output[:cut], output[cut:], final))


@EVERY_KIND
@given(st.data())
def test_a_row_alone_and_unpadded_equals_the_row_in_its_batch(cell: str, data: st.DataObject) -> None:
    problem = data.draw(problems(cell))
    layer, output, final = whole(problem)
    x, state = problem.x(), problem.state()
    for b in range(problem.batch):
        n = problem.steps if problem.lengths is None else problem.lengths[b]
        alone, alone_final = layer(x[:n, b : b + 1], row(state, b))
        assert_same_bits((alone, alone_final), (output[:n, b : b + 1], row(final, b)))
        assert not output[n:, b].any()


@EVERY_KIND
@given(st.data())
def test_a_permuted_batch_gives_the_permuted_output(cell: str, data: st.DataObject) -> None:
    problem = data.draw(problems(cell, min_batch=2))
    layer, output, final = whole(problem)
    order = data.draw(st.permutations(range(problem.batch)))
    state = problem.state()
    if state is not None:
        state = tuple(part[:, order] for part in states(state))
        state = state if len(state) > 1 else state[0]
    lengths = None if problem.lengths is None else [problem.lengths[b] for b in order]
    turned, turned_final = layer(problem.x()[:, order], state, lengths=lengths)
    assert_same_bits(turned, output[:, order])
    assert_same_bits(list(states(turned_final)), [part[:, order] for part in states(final)])


@EVERY_KIND
@given(st.data())
def test_a_longer_padding_whatever_it_holds_changes_nothing(cell: str, data: st.DataObject) -> None:
    problem = data.draw(problems(cell, lengths=True))
    layer, output, final = whole(problem)
    padded = np.full((problem.steps + 3, problem.batch, problem.input_size), np.nan, problem.dtype)
    for b, n in enumerate(problem.lengths or ()):
        padded[:n, b] = problem.x()[:n, b]
    longer, longer_final = layer(padded, problem.state(), lengths=problem.lengths)
    assert_same_bits((longer[: problem.steps], longer_final), (output, final))
    assert not longer[problem.steps :].any()


@EVERY_KIND
@given(st.data())
def test_any_layout_of_input_and_output_gives_the_same_bits(cell: str, data: st.DataObject) -> None:
    problem = data.draw(problems(cell))
    layer, output, final = whole(problem)
    x, state, lengths = problem.x(), problem.state(), problem.lengths

    wide = np.full((2 * problem.steps, problem.batch, 3 * problem.input_size), np.nan, problem.dtype)
    views = {
        "every other step backwards": wide[::-2][: problem.steps, :, : problem.input_size],
        "strided features": wide[: problem.steps, :, ::3],
        "batch outermost": np.empty((problem.batch, problem.steps, problem.input_size), problem.dtype).swapaxes(0, 1),
        "fortran order": np.empty(x.shape, problem.dtype, order="F"),
        "read-only": np.empty(x.shape, problem.dtype),
        "unaligned": np.empty(x.nbytes + 1, np.uint8)[1:].view(problem.dtype).reshape(x.shape),
    }
    for name, view in views.items():
        view[...] = x
        view.flags.writeable = name != "read-only"
        assert_same_bits(layer(view, state, lengths=lengths), (output, final))

    out = np.full(output.shape, np.nan, problem.dtype)
    strided = np.full((2 * problem.steps, problem.batch, output.shape[2]), np.nan, problem.dtype)[::-2]
    both = np.concatenate([x, np.full_like(output, np.nan)], axis=-1)
    beside = both[..., problem.input_size :]
    for given_x, target in ((x, out), (x, strided), (both[..., : problem.input_size], beside)):
        result, result_final = layer(given_x, state, lengths=lengths, out=target)
        assert result is target
        assert_same_bits((target, result_final), (output, final))


@EVERY_KIND
@given(st.data())
def test_batch_first_and_unbatched_give_the_same_bits(cell: str, data: st.DataObject) -> None:
    problem = data.draw(problems(cell, min_batch=1))
    layer, output, final = whole(problem)
    x, state = problem.x(), problem.state()
    first = problem.layer(batch_first=True)
    for given_x in (x.swapaxes(0, 1), np.ascontiguousarray(x.swapaxes(0, 1))):
        for out in (None, np.full((problem.batch, problem.steps, output.shape[2]), np.nan, problem.dtype)):
            turned, turned_final = first(given_x, state, lengths=problem.lengths, out=out)
            assert_same_bits((turned.swapaxes(0, 1), turned_final), (output, final))
            assert out is None or turned is out

    n = problem.steps if problem.lengths is None else problem.lengths[0]
    one = row(state, 0)
    if one is not None:
        one = tuple(part[:, 0] for part in one) if isinstance(one, tuple) else one[:, 0]
    for either, out in ((layer, None), (first, None), (layer, np.full_like(output[:n, 0], np.nan))):
        y, y_final = either(x[:n, 0], one, out=out)
        assert_same_bits(y, output[:n, 0])
        assert out is None or y is out
        assert_same_bits(list(states(y_final)), [part[:, 0] for part in states(final)])


@pytest.mark.skipif(CPUS < 2, reason="this process may use only one CPU")
@pytest.mark.parametrize("dtype", DTYPES)
@EVERY_KIND
def test_one_thread_and_several_give_the_same_bits(cell: str, dtype: str, restore_threads: None) -> None:
    for hidden, batch, directions in ((257, 1, 1), (257, 37, 2), (100, 130, 2)):
        proj = hidden // 2 if CELLS[cell].projected else 0
        lengths = tuple((3 * b) % 7 for b in range(batch)) if directions == 2 else None
        problem = Problem(cell, 100, hidden, 6, batch, proj, 2, directions, True, lengths, True, dtype=dtype)
        results = []
        for threads in (1, 2, CPUS):
            recurra.set_num_threads(threads)
            assert recurra.get_num_threads() == threads
            layer, output, final = whole(problem)
            results.append((output, final))
            if directions == 1:
                stream = layer.stream(batch, threads=threads)
                stream.state = problem.state()
                results.append((np.stack([stream.step(x) for x in problem.x()]), stream.state))
        for result in results[1:]:
            assert_same_bits(result, results[0])


@pytest.mark.parametrize("precision", (None, "bfloat16", "int8"))
@EVERY_KIND
def test_calls_leave_no_trace_in_the_memory_they_share(cell: str, precision: str | None) -> None:
    proj = 9 if CELLS[cell].projected else 0
    layer = recurra.Recurrent(cell, 5, 19, 2, bidirectional=True, proj_size=proj, seed=0)
    layer = layer.quantize(precision) if precision else layer
    x = np.random.default_rng(0).standard_normal((7, 6, 5), dtype=np.float32)
    want = copies(arrays(layer(x)))
    for shape in ((7, 6), (3, 2), (40, 1), (7, 6)):
        layer(np.full((*shape, 5), np.nan, np.float32))
        assert_same_bits(arrays(layer(x)), want)


def isa_problems() -> Iterator[Problem]:
    """Sizes that are and are not a multiple of some vector, and inputs that reach the tails of the activations."""
    for cell in sorted(CELLS):
        for dtype in DTYPES:
            for i, h, batch, gain in ((7, 33, 1, 1.0), (64, 64, 6, 10.0), (17, 100, 13, 100.0), (1, 257, 3, 1e-39)):
                proj = (h + 1) // 2 if CELLS[cell].projected else 0
                clip = 0.5 if cell.startswith("lstm") and batch == 6 else None
                lengths = tuple(b % 5 for b in range(batch))
                yield Problem(cell, i, h, 4, batch, proj, 2, 2, True, lengths, True, clip, dtype, seed=h, gain=gain)


def save_isa_results(path: str) -> None:
    """Run in processes of their own, one per instruction set."""
    results = {}
    for problem in isa_problems():
        _, output, final = whole(problem)
        for k, array in enumerate((output, *states(final))):
            results[f"{problem.cell} {problem.dtype} {problem.hidden_size} {k}"] = array
    save_results(path, results)


def test_avx2_and_avx512_give_the_same_bits(tmp_path: Path) -> None:
    assert_same_bits_on_avx2_and_avx512("import sys, test_same_bits as t; t.save_isa_results(sys.argv[1])", tmp_path)


# ---- NaN: where there is one is promised, its sign and payload are not


def one_nan(result: Any) -> list[Array]:
    """The arrays of a result with one and the same NaN for all."""
    return [np.where(np.isnan(array), array.dtype.type(np.nan), array) for array in arrays(result)]


def nan_problems() -> Iterator[tuple[Problem, str | None, Array]]:
    """Rows with NaNs of both signs, and infinities that become some, among rows that are clean."""
    for cell in sorted(CELLS):
        for dtype, precision in (("float32", None), ("float32", "bfloat16"), ("float32", "int8"), ("float64", None)):
            proj = 20 if CELLS[cell].projected else 0
            problem = Problem(cell, 7, 33, 6, 13, proj, 2, with_state=True, dtype=dtype)
            x = problem.x()
            for b, value in enumerate((np.nan, -np.nan, np.inf, -np.inf)):
                x[b % 3, 3 * b, b] = value
            x[2, 1, :2] = np.nan, -np.nan
            x[3, 4, :2] = np.inf, -np.inf
            yield problem, precision, x


def nan_results(problem: Problem, precision: str | None, x: Array) -> tuple[Any, list[Array]]:
    layer = problem.layer().quantize(precision) if precision else problem.layer()
    found: list[Any] = [layer(x, problem.state())]
    if not precision:
        y, final, tape = layer.forward(x, problem.state())
        found += [y, final, list(tape.backward(y, final))]
    return layer, one_nan(found)


def save_nan_results(path: str) -> None:
    results = {}
    for problem, precision, x in nan_problems():
        for k, array in enumerate(nan_results(problem, precision, x)[1]):
            results[f"{problem.cell} {problem.dtype} {precision} {k}"] = array
    save_results(path, results)


def test_there_are_nans_in_the_same_places_on_avx2_and_avx512(tmp_path: Path) -> None:
    assert_same_bits_on_avx2_and_avx512("import sys, test_same_bits as t; t.save_nan_results(sys.argv[1])", tmp_path)


def test_there_are_nans_in_the_same_places_whatever_the_batch_the_chunks_and_the_threads(restore_threads: None) -> None:
    for problem, precision, x in nan_problems():
        layer, want = nan_results(problem, precision, x)
        output, *finals = want[: 1 + CELLS[problem.cell].states]
        assert np.isnan(output[2:, 1]).all()
        assert np.isfinite(output[:, [2, 5, 7, 8, 10, 11, 12]]).all()
        for b in range(problem.batch):
            alone = one_nan(layer(x[:, b : b + 1], row(problem.state(), b)))
            assert_same_bits(alone, [output[:, b : b + 1], *(final[:, b : b + 1] for final in finals)])
        stream = layer.stream(problem.batch)
        stream.state = problem.state()
        steps = [stream.step(x[0])[None], stream.run(x[1:4]), stream.step(x[4])[None], stream.step(x[5])[None]]
        assert_same_bits(one_nan([np.concatenate(steps), stream.state]), [output, *finals])
        for threads in {1, CPUS}:
            recurra.set_num_threads(threads)
            assert_same_bits(nan_results(problem, precision, x)[1], want)


@pytest.mark.skipif(CPUS < 2, reason="this process may use only one CPU")
def test_the_thread_count_of_the_environment_is_used() -> None:
    script = "import recurra; print(recurra.get_num_threads())"
    for threads in ("1", "2"):
        assert run_python(script, RECURRA_NUM_THREADS=threads).strip() == threads
