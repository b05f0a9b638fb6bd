"""Training: the same bits, what `into=` and a tape promise, memory, refusals."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import (
    CPUS,
    Array,
    arrays,
    assert_close,
    assert_same_bits,
    assert_same_bits_on_avx2_and_avx512,
    copies,
    run_python,
    save_results,
    states,
)
from gradients import ALL_CELLS, EVERY_KIND, as_state, assert_same_gradients, flat, inputs, run, sized, upstream
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import CELLS
from strategies import DTYPES, Problem, problems

import recurra
from recurra.tape import Tape

# ------------------------------------------------------------------------------------------------------ same bits


@EVERY_KIND
@given(st.data())
def test_forward_has_the_bits_of_a_call_and_recomputing_changes_none(cell: str, data: st.DataObject) -> None:
    problem = data.draw(problems(cell))
    layer = problem.layer()
    plain = layer(inputs(problem), problem.state(), lengths=problem.lengths)
    y, final, gradients = run(problem, layer)
    assert_same_bits((y, final), plain)
    again_y, again_final, recomputed = run(problem, layer, recompute=True)
    assert_same_bits((again_y, again_final), plain)
    assert_same_gradients(recomputed, gradients)


@EVERY_KIND
@given(st.data())
def test_gradients_of_a_row_do_not_depend_on_its_batch(cell: str, data: st.DataObject) -> None:
    problem = data.draw(problems(cell, min_batch=1))
    layer, state = problem.layer(), problem.state()
    x, (dy, dstate) = inputs(problem), upstream(problem)
    assert dy is not None and dstate is not None
    gradients = run(problem, layer)[2]
    assert gradients.x is not None

    for b in range(problem.batch):
        n = problem.steps if problem.lengths is None else problem.lengths[b]
        one = None if state is None else as_state([h[:, b : b + 1] for h in states(state)])
        _, _, tape = layer.forward(x[:n, b : b + 1], one)
        alone = tape.backward(dy[:n, b : b + 1], as_state([d[:, b : b + 1] for d in dstate if d is not None]))
        assert_same_bits(alone.x, gradients.x[:n, b : b + 1])
        assert_same_bits(list(states(alone.state)), [d[:, b : b + 1] for d in states(gradients.state)])

    order = data.draw(st.permutations(range(problem.batch)))
    turned = None if state is None else as_state([h[:, order] for h in states(state)])
    lengths = None if problem.lengths is None else [problem.lengths[b] for b in order]
    _, _, tape = layer.forward(x[:, order], turned, lengths=lengths)
    permuted = tape.backward(dy[:, order], as_state([d[:, order] for d in dstate if d is not None]))
    assert_same_bits(permuted.x, gradients.x[:, order])
    assert_same_bits(list(states(permuted.state)), [d[:, order] for d in states(gradients.state)])


@EVERY_KIND
@settings(max_examples=6)
@given(st.data())
def test_backward_again_gives_the_same_whatever_ran_between(cell: str, data: st.DataObject) -> None:
    problem = data.draw(problems(cell, dtypes=("float32",)))
    layer = problem.layer()
    recompute = data.draw(st.booleans())
    _, _, tape = layer.forward(inputs(problem), problem.state(), lengths=problem.lengths, recompute=recompute)
    dy, dstate = upstream(problem)
    assert dy is not None and dstate is not None
    first = tape.backward(dy, as_state(dstate))
    kept, size = copies(flat(first)), tape.nbytes

    tape.backward(np.full_like(dy, np.nan), as_state([None if d is None else np.full_like(d, np.inf) for d in dstate]))
    other = np.full((5, 2, problem.input_size), np.nan, problem.dtype)
    y, _, larger = layer.forward(other)
    larger.backward(y)
    tape.backward(dy)
    without = tape.backward(dy, as_state(dstate), input_grad=False)
    assert without.x is None
    assert_same_bits(arrays([without.state, *without.params.values()]), flat(first)[1:])
    assert_same_gradients(tape.backward(dy, as_state(dstate)), first)
    assert_same_bits(flat(first), kept)
    assert tape.nbytes == size


@EVERY_KIND
def test_any_layout_of_the_upstream_gradient_gives_the_same_bits(cell: str) -> None:
    problem = sized(cell, lengths=(4, 1, 2))
    layer = problem.layer()
    x = inputs(problem)
    wide_x = np.full((2 * problem.steps, problem.batch, 2 * problem.input_size), np.nan)[::-2, :, ::2]
    wide_x[...] = x
    expected = run(problem, layer)[2]
    dy, dstate = upstream(problem)
    assert dy is not None
    views = (
        np.full((8, *dy.shape[1:]), np.nan)[::-2],
        np.full((*dy.shape[:2], 3 * dy.shape[2]), np.nan)[..., ::3],
        np.empty(dy.shape, order="F"),
        np.empty(dy.nbytes + 1, np.uint8)[1:].view(dy.dtype).reshape(dy.shape),
    )
    for view in views:
        view[...] = dy
        view.flags.writeable = False
        turned = [np.asfortranarray(d) for d in dstate or () if d is not None]
        _, _, tape = layer.forward(wide_x, problem.state(), lengths=problem.lengths)
        assert_same_gradients(tape.backward(view, as_state(turned)), expected)


def thread_problems(cell: str) -> Iterator[Problem]:
    """Rows shared out, of different lengths and of one, tiles shared out, two directions."""
    for lengths in (tuple((3 * b) % 7 for b in range(37)), None):
        yield sized(cell, input_size=20, hidden_size=257, steps=6, batch=37, layers=1, lengths=lengths, dtype="float32")
    yield sized(cell, hidden_size=100, steps=5, batch=4, lengths=None)
    if cell in ("rnn_tanh", "gru", "gru_reset_before", "lstm", "lstm_coupled_peephole_projected"):
        wide = {"layers": 1, "directions": 1, "lengths": None, "dtype": "float32"}
        yield sized(cell, hidden_size=512, steps=40, batch=1, **wide)
        # With several gates, on two threads: forward by tiles, backward by rows.
        yield sized(cell, input_size=500, hidden_size=600, steps=3, batch=20, **wide)


@pytest.mark.skipif(CPUS < 2, reason="this process may use only one CPU")
@EVERY_KIND
def test_one_thread_and_several_give_the_same_gradients(cell: str, restore_threads: None) -> None:
    for problem in thread_problems(cell):
        layer, results = problem.layer(), []
        for threads in sorted({1, 2, CPUS}):
            recurra.set_num_threads(threads)
            plain = layer(inputs(problem), problem.state(), lengths=problem.lengths)
            for recompute in (False, True):
                y, final, gradients = run(problem, layer, recompute=recompute)
                assert_same_bits((y, final), plain)
                results.append([y, final, *flat(gradients)])
        for result in results[1:]:
            assert_same_bits(result, results[0])


def test_threads_of_the_caller_may_go_back_over_one_tape_at_once() -> None:
    problem = sized("lstm", hidden_size=64, steps=30, lengths=(30, 0, 17))
    layer = problem.layer()
    dy, dstate = upstream(problem)
    for recompute in (False, True):
        _, _, tape = layer.forward(inputs(problem), problem.state(), lengths=problem.lengths, recompute=recompute)
        expected = tape.backward(dy, as_state(dstate))
        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(tape.backward, dy, as_state(dstate)) for _ in range(12)]:
                assert_same_gradients(future.result(), expected)


def isa_problems() -> Iterator[Problem]:
    for cell in sorted(CELLS):
        for dtype in DTYPES:
            for i, h, batch, gain in ((7, 33, 1, 1.0), (17, 100, 13, 30.0), (1, 64, 3, 1e-39)):
                lengths = tuple(b % 5 for b in range(batch))
                clip = 0.5 if cell.startswith("lstm") and batch == 13 else None
                proj = (h + 1) // 2 if CELLS[cell].projected else 0
                yield Problem(cell, i, h, 4, batch, proj, 2, 2, True, lengths, True, clip, dtype, seed=h, gain=gain)


def save_isa_gradients(path: str) -> None:
    """Run in processes of their own, one per instruction set."""
    results = {}
    for problem in isa_problems():
        y, final, gradients = run(problem, recompute=problem.batch == 3)
        for k, array in enumerate([y, *states(final), *flat(gradients)]):
            results[f"{problem.cell} {problem.dtype} {problem.hidden_size} {k}"] = array
    save_results(path, results)


def test_avx2_and_avx512_give_the_same_gradients(tmp_path: Path) -> None:
    assert_same_bits_on_avx2_and_avx512(
        "import sys, test_gradients_bits as t; t.save_isa_gradients(sys.argv[1])", tmp_path
    )


# ---------------------------------------------------------------------------------------------- into, zero, lifetime


def new_params(layer: recurra.Recurrent, fill: float | None = 0.0) -> dict[str, Array]:
    """Arrays for `into`: one value, or with None random ones."""
    rng = np.random.default_rng(9)
    return {
        name: rng.normal(size=a.shape).astype(a.dtype) if fill is None else np.full_like(a, fill)
        for name, a in layer.state_dict().items()
    }


@EVERY_KIND
def test_gradients_are_added_to_what_into_holds(cell: str) -> None:
    problem = sized(cell)
    layer = problem.layer()
    expected = run(problem, layer)[2]
    dy, dstate = upstream(problem)
    _, _, tape = layer.forward(inputs(problem), problem.state(), lengths=problem.lengths)

    zeros = new_params(layer)
    into_zeros = tape.backward(dy, as_state(dstate), into=zeros)
    assert_same_gradients(into_zeros, expected)

    into = new_params(layer, None)
    before = {name: array.copy() for name, array in into.items()}
    shuffled = dict(reversed(into.items()))
    got = tape.backward(dy, as_state(dstate), into=shuffled)
    assert_same_bits([got.x, got.state], [expected.x, expected.state])
    for name, array in into.items():
        assert got.params[name] is array
        assert_close(array, before[name] + expected.params[name], 1e-12)
    tape.backward(dy, as_state(dstate), into=into)
    for name, array in into.items():
        assert_close(array, before[name] + 2 * expected.params[name], 1e-12)


@EVERY_KIND
def test_zero_upstream_gives_exactly_zero(cell: str) -> None:
    for recompute in (False, True):
        problem = sized(cell, seed=7)
        layer = problem.layer()
        dy, dstate = upstream(problem)
        assert dy is not None and dstate is not None
        _, _, tape = layer.forward(inputs(problem), problem.state(), lengths=problem.lengths, recompute=recompute)
        none = as_state([None if d is None else np.zeros_like(d) for d in dstate])
        for zero_dy, zero_state in ((np.zeros_like(dy), none), (np.zeros_like(dy), None), (None, none)):
            assert not any(array.any() for array in flat(tape.backward(zero_dy, zero_state)))
        into = new_params(layer, None)
        before = copies(list(into.values()))
        tape.backward(np.zeros_like(dy), into=into)
        assert_same_bits(list(into.values()), before)


@EVERY_KIND
@pytest.mark.parametrize("recompute", (False, True))
def test_what_the_caller_does_afterwards_changes_nothing(cell: str, recompute: bool) -> None:
    problem = sized(cell)
    layer = problem.layer()
    expected = copies(flat(run(problem, layer)[2]))
    x, state, lengths = inputs(problem), problem.state(), np.array(problem.lengths)
    dy, dstate = upstream(problem)
    assert dy is not None and dstate is not None
    y, final, tape = layer.forward(x, state, lengths=lengths, recompute=recompute)
    for array in (x, *states(state), y, *states(final), lengths):
        array[...] = 99
    layer.load_state_dict({name: array + 1 for name, array in layer.state_dict().items()})
    first = tape.backward(dy, as_state(dstate))
    assert_same_bits(flat(first), expected)
    given_dy, given_dstate = dy.copy(), copies([d for d in dstate if d is not None])
    kept = copies(flat(first))
    dy[...] = 99
    for d in dstate:
        if d is not None:
            d[...] = 99
    assert_same_bits(flat(first), kept)
    for array in flat(first):
        array[...] = 99

    del layer
    assert_same_bits(flat(tape.backward(given_dy, as_state(given_dstate))), expected)


# --------------------------------------------------------------------------------------------------------- memory


@ALL_CELLS
@pytest.mark.parametrize("layers", (1, 3))
def test_a_tape_holds_what_it_says(cell: str, layers: int) -> None:
    """Values a unit and step, beside the input: states, and unless they are recomputed the gates. A layer's output is
    one of its states, not to be kept again for the layer above."""
    hidden, steps, batch = 256, 50, 4
    plain = 6 if cell.startswith("lstm") else 5 if cell.startswith("gru") else 2
    plain += CELLS[cell].projected
    plain = CELLS[cell].taped or plain
    for steps_here in (steps, 2 * steps):
        form = {"layers": layers, "directions": 1, "lengths": None}
        problem = sized(cell, input_size=64, hidden_size=hidden, steps=steps_here, batch=batch, **form)
        layer, x = problem.layer(), problem.x()
        for recompute, values in ((False, plain), (True, CELLS[cell].states)):
            _, _, tape = layer.forward(x, recompute=recompute)
            a_unit = (tape.nbytes - x.nbytes) / (steps_here * batch * hidden * x.itemsize)
            assert a_unit == pytest.approx(layers * values, rel=0.05)
            assert re.fullmatch(rf"Tape\('{cell}', {tape.nbytes} bytes\)", repr(tape))


@pytest.mark.parametrize("recompute", (False, True))
def test_memory_is_linear_in_steps_and_long_sequences_train(recompute: bool) -> None:
    layer = recurra.LSTM(1, 4, seed=0)
    sizes = []
    for steps in (50_000, 100_000):
        x = np.random.default_rng(0).standard_normal((steps, 1, 1), np.float32)
        y, _, tape = layer.forward(x, recompute=recompute)
        gradients = tape.backward(np.full_like(y, 1 / steps))
        assert all(np.isfinite(array).all() for array in flat(gradients))
        assert all(array.any() for array in gradients.params.values())
        sizes.append(tape.nbytes)
    assert sizes[1] == pytest.approx(2 * sizes[0], rel=0.01)


FAULTS = """
import resource
import numpy as np, recurra

recurra.set_num_threads(1)
layer = recurra.LSTM(256, 256, seed=0)
x = np.random.default_rng(0).standard_normal((50, 32, 256), np.float32)
faults = []
for _ in range(8):
    y, _, tape = layer.forward(x)
    gradients = tape.backward(y)
    del tape, gradients
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[-3])
"""


OTHER_HEAP = ("LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in OTHER_HEAP),
    reason="counts the pages of glibc's heap, as it is when nobody has changed it",
)
def test_a_training_loop_gets_no_new_pages() -> None:
    """Once it runs: its arrays, 7 MB or 1700 pages, take the places of those of the call before."""
    assert int(run_python(FAULTS)) < 300


# ------------------------------------------------------------------------------------------------------ wrong input

T, B, N, H = 4, 2, 3, 5
DY, DH, DC = (np.full(shape, 0.5, "float32") for shape in ((T, B, H), (1, B, H), (1, B, H)))
Call = Callable[[Any, dict[str, Array]], Any]  # a tape, and arrays that fit its parameters
Edit = Callable[[dict[str, Array]], Any]


def with_into(edit: Edit) -> Call:
    def call(tape: Tape, into: dict[str, Array]) -> Any:
        changed = dict(into)
        return tape.backward(DY, into=edit(changed) or changed)

    return call


def set_to(name: str, value: Any) -> Call:
    return with_into(lambda into: into.update({name: value}))


def read_only_bias(into: dict[str, Array]) -> None:
    into["bias_hh_l0"] = into["bias_hh_l0"].copy()
    into["bias_hh_l0"].flags.writeable = False


def shared_biases(into: dict[str, Array]) -> None:
    into["bias_ih_l0"] = into["bias_hh_l0"]


def partly_shared_biases(into: dict[str, Array]) -> None:
    memory = np.zeros(4 * H + 1, "float32")
    into["bias_ih_l0"], into["bias_hh_l0"] = memory[1:], memory[:-1]


def call_with_dy_in_into(tape: Tape, into: dict[str, Array]) -> Any:
    memory = np.zeros(T * B * H, "float32")
    return tape.backward(memory.reshape(T, B, H), into=into | {"bias_ih_l0": memory[: 4 * H]})


def call_with_dstate_in_into(tape: Tape, into: dict[str, Array]) -> Any:
    memory = np.zeros(4 * H, "float32")
    return tape.backward(DY, (None, memory[: B * H].reshape(1, B, H)), into=into | {"bias_ih_l0": memory})


# What is wrong, the call, the error, and what the message must say.
CALLS: list[tuple[str, Call, Any, list[str]]] = [
    ("neither", lambda t, i: t.backward(into=i), ValueError, ["dy", "dstate", "neither"]),
    ("nothing in dstate", lambda t, i: t.backward(None, (DH, DC, DC), into=i), TypeError, ["dstate", "3"]),
    ("dy steps", lambda t, i: t.backward(DY[1:], into=i), ValueError, ["dy", "4, 2, 5", "3, 2, 5"]),
    ("dy batch", lambda t, i: t.backward(DY[:, :1], into=i), ValueError, ["dy", "4, 2, 5", "4, 1, 5"]),
    ("dy features", lambda t, i: t.backward(DY[..., 1:], into=i), ValueError, ["dy", "4, 2, 5", "4, 2, 4"]),
    ("dy rank", lambda t, i: t.backward(DY[0], into=i), ValueError, ["dy", "4, 2, 5", "2, 5"]),
    ("dy dtype", lambda t, i: t.backward(DY.astype("float64"), into=i), TypeError, ["dy", "float32", "float64"]),
    ("dy list", lambda t, i: t.backward(DY.tolist(), into=i), TypeError, ["dy", "list"]),
    ("dstate alone", lambda t, i: t.backward(DY, DH, into=i), TypeError, ["dstate", "h, c", "ndarray"]),
    ("dstate of one", lambda t, i: t.backward(DY, (DH,), into=i), TypeError, ["dstate", "h, c", "1"]),
    ("dstate shape", lambda t, i: t.backward(DY, (DH, DC[..., 1:]), into=i), ValueError, ["dstate c", "1, 2, 4"]),
    ("dstate layers", lambda t, i: t.backward(DY, (DH[0], DC), into=i), ValueError, ["dstate h", "1, 2, 5"]),
    ("dstate dtype", lambda t, i: t.backward(DY, (DH.astype("f8"), None), into=i), TypeError, ["dstate h", "float64"]),
    ("input_grad", lambda t, i: t.backward(DY, input_grad=1, into=i), TypeError, ["input_grad", "1"]),
    ("into empty", lambda t, i: t.backward(DY, into={}), ValueError, ["into", "missing", "weight_ih_l0"]),
    ("into missing", with_into(lambda i: i.pop("bias_hh_l0") is None), ValueError, ["into", "missing", "bias_hh_l0"]),
    ("into unexpected", set_to("weight_hr_l0", DY), ValueError, ["into", "unexpected", "weight_hr_l0"]),
    ("into number name", with_into(lambda i: i | {1: DY}), TypeError, ["into", "names", "1"]),
    ("into list", set_to("bias_hh_l0", [0.0] * 4 * H), TypeError, ["bias_hh_l0", "list"]),
    ("into shape", set_to("bias_hh_l0", np.zeros(H, "f4")), ValueError, ["bias_hh_l0", "20", "5"]),
    ("into dtype", set_to("bias_hh_l0", np.zeros(4 * H)), TypeError, ["bias_hh_l0", "float32", "float64"]),
    ("into read-only", with_into(read_only_bias), ValueError, ["bias_hh_l0", "writeable"]),
    ("into strided", set_to("bias_hh_l0", np.zeros(8 * H, "f4")[::2]), ValueError, ["bias_hh_l0", "contiguous"]),
    ("into Fortran", set_to("weight_hh_l0", np.zeros((H, 4 * H), "f4").T), ValueError, ["weight_hh_l0", "contiguous"]),
    (
        "into unaligned",
        set_to("bias_hh_l0", np.zeros(16 * H + 1, np.uint8)[1:].view("f4")),
        ValueError,
        ["bias_hh_l0"],
    ),
    ("into masked", set_to("bias_hh_l0", np.ma.zeros(4 * H, "f4")), TypeError, ["bias_hh_l0", "mask"]),
    ("into twice", with_into(shared_biases), ValueError, ["bias_hh_l0", "bias_ih_l0"]),
    ("into overlapping", with_into(partly_shared_biases), ValueError, ["bias_hh_l0", "bias_ih_l0"]),
    ("into is dy", call_with_dy_in_into, ValueError, ["bias_ih_l0", "dy"]),
    ("into is dstate", call_with_dstate_in_into, ValueError, ["bias_ih_l0", "dstate"]),
    ("into a list", lambda t, i: t.backward(DY, into=list(i)), (TypeError, ValueError), ["into"]),
    ("into a number", lambda t, i: t.backward(DY, into=3), (TypeError, ValueError), ["into"]),
]


@pytest.mark.parametrize(("call", "error", "says"), [row[1:] for row in CALLS], ids=[row[0] for row in CALLS])
def test_wrong_gradients_raise_and_write_nothing(call: Any, error: Any, says: list[str]) -> None:
    layer = recurra.LSTM(N, H, seed=0)
    _, _, tape = layer.forward(np.full((T, B, N), 0.5, "float32"))
    expected = flat(tape.backward(DY))
    into = new_params(layer, 0.25)
    with pytest.raises(error) as caught:
        call(tape, into)
    for text in says:
        assert text in str(caught.value)
    assert all((array == 0.25).all() for array in into.values())
    assert_same_bits(flat(tape.backward(DY)), expected)


def test_a_gru_takes_its_states_gradient_bare() -> None:
    _, _, tape = recurra.GRU(N, H, seed=0).forward(np.zeros((T, B, N), "float32"))
    assert tape.backward(dstate=DH).state.shape == DH.shape
    for wrong in ((DH,), (DH, DC), [DH]):
        with pytest.raises(TypeError, match="dstate"):
            tape.backward(DY, wrong)


def test_forward_refuses_what_it_cannot_train() -> None:
    layer, x = recurra.LSTM(N, H, seed=0), np.zeros((T, B, N), "float32")
    for precision in ("bfloat16", "int8"):
        with pytest.raises(ValueError, match=rf"full precision.*{precision}"):
            layer.quantize(precision).forward(x)
    for wrong in (1, 0, "yes", None, np.ones(2)):
        with pytest.raises(TypeError, match="recompute"):
            layer.forward(x, recompute=wrong)  # type: ignore[call-overload]
    calls: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: layer.forward(x.astype("float64")), TypeError, "x"),
        (lambda: layer.forward(x[..., 1:]), ValueError, "x"),
        (lambda: layer.forward(x, DH), TypeError, "state"),
        (lambda: layer.forward(x, (DH, DC[..., 1:])), ValueError, "state c"),
        (lambda: layer.forward(x, lengths=[T + 1, 1]), ValueError, "lengths"),
        (lambda: layer.forward(x[:, 0], lengths=[1]), ValueError, "lengths"),
    ]
    for call, error, says in calls:
        with pytest.raises(error, match=says):
            call()


def test_a_tape_is_neither_copied_nor_pickled() -> None:
    import copy
    import pickle

    _, _, tape = recurra.LSTM(N, H, seed=0).forward(np.zeros((T, B, N), "float32"))
    for call in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="Tape"):
            call(tape)
