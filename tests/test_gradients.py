"""Training: the gradients are right, and law 1 holds for them too.

`reference_backward` is the oracle; it, and the library, are also compared with central differences of the forward pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import reference_backward
from checks import CPUS, Array, arrays, assert_close, assert_same_bits, copies, isa_available, run_python, states
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import CELLS
from strategies import DTYPES, Problem, problems

import recurra
from recurra import functional
from recurra.tape import Gradients, Tape

ALL_CELLS = pytest.mark.parametrize("cell", sorted(CELLS))
UPSTREAM = ("dy", "h", "c", "state", "both")
Upstream = tuple[Array | None, tuple[Array | None, ...] | None]


@pytest.fixture
def restore_threads() -> Iterator[None]:
    before = recurra.get_num_threads()
    yield
    recurra.set_num_threads(before)


@st.composite
def small_problems(
    draw: st.DrawFn, cell: str, *, min_steps: int = 0, min_batch: int = 0, min_length: int = 0
) -> Problem:
    """As `problems`, in float64 and of sizes at which the oracle is quick."""
    projected = CELLS[cell].projected
    hidden = draw(st.sampled_from((3, 7, 17, 33) if projected else (1, 3, 7, 17, 33)))
    steps, batch = draw(st.integers(min_steps, 7)), draw(st.integers(min_batch, 5))
    with_lengths = draw(st.booleans())
    return Problem(
        cell,
        draw(st.sampled_from((1, 3, 7, 17, 40))),
        hidden,
        steps,
        batch,
        proj_size=draw(st.sampled_from((1, (hidden + 1) // 2, hidden - 1))) if projected else 0,
        layers=draw(st.integers(1, 3)),
        directions=draw(st.integers(1, 2)),
        bias=draw(st.booleans()),
        lengths=tuple(draw(st.integers(min_length, steps)) for _ in range(batch)) if with_lengths else None,
        with_state=draw(st.booleans()),
        cell_clip=draw(st.sampled_from((None, 0.1))) if cell.startswith("lstm") else None,
        dtype="float64",
        seed=draw(st.integers(0, 2**16)),
        gain=draw(st.sampled_from((1.0, 5.0))),
    )


def sized(cell: str, **sizes: Any) -> Problem:
    """A float64 problem with two layers, two directions, lengths and states, unless `sizes` say otherwise."""
    usual: dict[str, Any] = {
        "input_size": 3,
        "hidden_size": 5,
        "steps": 4,
        "batch": 3,
        "layers": 2,
        "directions": 2,
        "lengths": (4, 0, 2),
        "with_state": True,
        "dtype": "float64",
    }
    usual |= sizes
    return Problem(cell, proj_size=(usual["hidden_size"] + 1) // 2 if CELLS[cell].projected else 0, **usual)


def blank(problem: Problem, array: Array) -> Array:
    """NaN at padded steps of [T, B, .]: nobody may look at them."""
    for b, n in enumerate(problem.lengths or ()):
        array[n:, b] = np.nan
    return array


def inputs(problem: Problem) -> Array:
    return blank(problem, problem.x())


def upstream(problem: Problem, which: str = "both") -> Upstream:
    """The gradients of the output and of the final states, always a tuple."""
    rng = np.random.default_rng(problem.seed + 2)
    output = problem.proj_size or problem.hidden_size
    dy = rng.normal(size=(problem.steps, problem.batch, problem.directions * output)).astype(problem.dtype)
    rows = (problem.layers * problem.directions, problem.batch)
    sizes = [output] + [problem.hidden_size] * (CELLS[problem.cell].states - 1)
    dstate = [rng.normal(size=(*rows, size)).astype(problem.dtype) for size in sizes]
    wanted = {"h": (0,), "c": (len(sizes) - 1,)}.get(which, (0, 1))
    chosen = tuple(d if k in wanted else None for k, d in enumerate(dstate))
    return blank(problem, dy) if which in ("dy", "both") else None, None if which == "dy" else chosen


def as_state(values: Sequence[Any] | None) -> Any:
    """States as a layer takes them: h alone, or a tuple."""
    return None if values is None else values[0] if len(values) == 1 else tuple(values)


def run(
    problem: Problem, layer: recurra.Recurrent | None = None, which: str = "both", recompute: bool = False
) -> tuple[Array, Any, Gradients]:
    """Output, final state and gradients of a problem."""
    layer = layer or problem.layer()
    y, final, tape = layer.forward(inputs(problem), problem.state(), lengths=problem.lengths, recompute=recompute)
    dy, dstate = upstream(problem, which)
    return y, final, tape.backward(dy, as_state(dstate))


def flat(gradients: Gradients) -> list[Array]:
    """All gradients, in one order."""
    return arrays([gradients.x, gradients.state, list(gradients.params.values())])


def assert_same_gradients(actual: Gradients, expected: Gradients) -> None:
    assert list(actual.params) == list(expected.params)
    assert_same_bits(flat(actual), flat(expected))


def assert_gradients_close(actual: Any, expected: Any, tolerance: float) -> None:
    """Every number within tolerance of the largest of its array (of 0.01, where all are less)."""
    assert list(actual.params) == list(expected.params)
    names = ["x", *("hc"[: len(expected.state)]), *expected.params]
    got = [actual.x, *states(actual.state), *actual.params.values()]
    for name, a, e in zip(names, got, [expected.x, *expected.state, *expected.params.values()], strict=True):
        assert a.shape == e.shape, name
        scale = max(0.01, np.abs(e).max(initial=0))
        np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * scale, err_msg=f"gradient of {name}")


def oracle(problem: Problem, layer: recurra.Recurrent, which: str = "both") -> reference_backward.Gradients:
    dy, dstate = upstream(problem, which)
    state = problem.state()
    return reference_backward.gradients(
        problem.cell,
        inputs(problem),
        layer.state_dict(),
        dy,
        dstate,
        state=None if state is None else states(state),
        lengths=problem.lengths,
        constants=problem.constants,
    )


# ------------------------------------------------------------------------------------------- central differences

Forward = Callable[[Array, Mapping[str, Array], Sequence[Array]], tuple[Array, Sequence[Array]]]


def assert_central_differences(
    problem: Problem, forward: Forward, params: Mapping[str, Array], gradients: Any, *, every: bool
) -> None:
    """`gradients` against differences of the loss: in every coordinate, or in some random directions of each array."""
    dy, dstate = upstream(problem)
    assert dy is not None and dstate is not None
    dy = np.nan_to_num(dy)
    initial = states(problem.state())
    point = {"x": np.nan_to_num(inputs(problem))} | {f"state {k}": h for k, h in enumerate(initial)} | dict(params)
    found = {"x": gradients.x} | {f"state {k}": g for k, g in enumerate(states(gradients.state))} | gradients.params

    def loss(at: Mapping[str, Array]) -> float:
        y, final = forward(
            at["x"], {name: at[name] for name in params}, [at[f"state {k}"] for k in range(len(initial))]
        )
        parts = [(dy * y).sum(), *((d * h).sum() for d, h in zip(dstate, final, strict=True) if d is not None)]
        return float(sum(parts))

    step, rng = 1e-6, np.random.default_rng(problem.seed)
    assert found.keys() == point.keys()
    for name, array in point.items():
        if every:
            ways = list(np.eye(array.size).reshape(array.size, *array.shape))
        else:
            ways = [rng.choice((-1.0, 1.0), array.shape) for _ in range(2)]
        slopes = [(loss(point | {name: array + step * w}) - loss(point | {name: array - step * w})) for w in ways]
        want = np.array(slopes) / (2 * step)
        have = np.array([(found[name] * w).sum() for w in ways])
        scale = max(1.0, np.abs(want).max(initial=0))
        np.testing.assert_allclose(have, want, rtol=0, atol=1e-6 * scale, err_msg=f"gradient of {name}")


def difference_problems(cell: str) -> Iterator[tuple[Problem, bool]]:
    clip = 0.15 if cell.startswith("lstm") else None
    one = sized(cell, hidden_size=3, batch=2, layers=1, directions=1, lengths=None, cell_clip=clip, seed=3)
    yield one, True
    yield replace(one, bias=False, cell_clip=None, seed=4), True
    yield sized(cell, hidden_size=3, cell_clip=clip, seed=5), False


@ALL_CELLS
def test_the_oracle_agrees_with_central_differences_of_the_reference(cell: str) -> None:
    for problem, _ in difference_problems(cell):
        layer = problem.layer()

        def forward(
            x: Array, params: Mapping[str, Array], state: Sequence[Array], problem: Problem = problem
        ) -> tuple[Array, Sequence[Array]]:
            return reference.run(cell, x, params, state, problem.lengths, problem.constants)

        assert_central_differences(problem, forward, layer.state_dict(), oracle(problem, layer), every=False)


@ALL_CELLS
def test_gradients_agree_with_central_differences_of_the_library(cell: str) -> None:
    for problem, every in difference_problems(cell):
        layer = problem.layer()

        def forward(
            x: Array, params: Mapping[str, Array], state: Sequence[Array], problem: Problem = problem
        ) -> tuple[Array, Sequence[Array]]:
            packed = functional.pack(cell, params, problem.constants)
            y, final = functional.run(packed, x, as_state(state), lengths=problem.lengths)
            return y, states(final)

        gradients = run(problem, layer)[2]
        assert_central_differences(problem, forward, layer.state_dict(), gradients, every=every)


# ---------------------------------------------------------------------------------------------------- the oracle


@ALL_CELLS
@settings(max_examples=settings.default.max_examples * 2 if settings.default else 24)
@given(st.data())
def test_gradients_are_the_oracles(cell: str, data: st.DataObject) -> None:
    problem = data.draw(small_problems(cell))
    which, recompute = data.draw(st.sampled_from(UPSTREAM)), data.draw(st.booleans())
    layer = problem.layer()
    gradients = run(problem, layer, which, recompute)[2]
    assert_gradients_close(gradients, oracle(problem, layer, which), 1e-10)
    assert gradients.x is not None
    for b, n in enumerate(problem.lengths or ()):
        assert not gradients.x[n:, b].any()


@ALL_CELLS
@given(st.data())
def test_batch_first_and_unbatched_gradients_are_the_oracles(cell: str, data: st.DataObject) -> None:
    problem = data.draw(small_problems(cell, min_batch=1))
    layer, first = problem.layer(), problem.layer(batch_first=True)
    x, state = inputs(problem), problem.state()
    dy, dstate = upstream(problem)
    assert dy is not None and dstate is not None
    expected = oracle(problem, layer)
    for turn in (lambda a: a.swapaxes(0, 1), lambda a: np.ascontiguousarray(a.swapaxes(0, 1))):
        y, _, tape = first.forward(turn(x), state, lengths=problem.lengths)
        got = tape.backward(turn(dy), as_state(dstate))
        assert got.x is not None and got.x.shape == turn(x).shape and y.shape == turn(dy).shape
        assert_gradients_close(got._replace(x=got.x.swapaxes(0, 1)), expected, 1e-10)

    n = problem.steps if problem.lengths is None else problem.lengths[0]
    one = None if state is None else [h[:, 0] for h in states(state)]
    last = [None if d is None else d[:, 0] for d in dstate]
    alone = reference_backward.gradients(
        cell, x[:n, 0], layer.state_dict(), dy[:n, 0], last, state=one, constants=problem.constants
    )
    for either in (layer, first):
        _, _, tape = either.forward(x[:n, 0], as_state(one))
        assert_gradients_close(tape.backward(dy[:n, 0], as_state(last)), alone, 1e-10)


@ALL_CELLS
@pytest.mark.parametrize("recompute", (False, True))
def test_gradients_across_the_borders_of_chunks_are_the_oracles(cell: str, recompute: bool) -> None:
    """The engine goes back in chunks of about 256 rows, and of one step at least."""
    uneven = tuple((7 * b) % 41 for b in range(13))
    clip = 0.3 if cell.startswith("lstm") else None
    for steps, batch, lengths in ((300, 1, None), (40, 13, uneven), (3, 261, None)):
        layers = 2 if batch == 13 else 1
        problem = sized(cell, hidden_size=9, steps=steps, batch=batch, lengths=lengths, layers=layers, cell_clip=clip)
        layer = problem.layer()
        assert_gradients_close(run(problem, layer, recompute=recompute)[2], oracle(problem, layer), 1e-10)


@ALL_CELLS
def test_gradients_at_the_smallest_and_at_odd_sizes_are_the_oracles(cell: str) -> None:
    smallest = 2 if CELLS[cell].projected else 1
    for steps, batch, hidden, inputs in ((1, 1, smallest, 1), (1, 3, 17, 1), (5, 1, 33, 2), (2, 2, 65, 19)):
        for bias in (True, False):
            sizes = {"steps": steps, "batch": batch, "hidden_size": hidden, "input_size": inputs, "lengths": None}
            problem = sized(cell, bias=bias, **sizes)
            layer = problem.layer()
            assert_gradients_close(run(problem, layer, recompute=bias)[2], oracle(problem, layer), 1e-10)


@ALL_CELLS
@pytest.mark.parametrize(
    "sizes",
    (
        {"steps": 0, "lengths": (0, 0, 0)},
        {"steps": 0, "lengths": None},
        {"batch": 0, "lengths": ()},
        {"batch": 0, "lengths": None},
        {"steps": 0, "batch": 0, "lengths": None},
        {"lengths": (0, 0, 0)},
    ),
    ids=str,
)
def test_where_no_step_runs_the_final_states_gradient_is_the_initial_ones(cell: str, sizes: dict[str, Any]) -> None:
    problem = sized(cell, **sizes)
    for recompute in (False, True):
        gradients = run(problem, recompute=recompute)[2]
        _, dstate = upstream(problem)
        assert_same_bits(list(states(gradients.state)), list(dstate or ()))
        assert gradients.x is not None and gradients.x.shape == problem.x().shape and not gradients.x.any()
        assert not any(g.any() for g in gradients.params.values())


@ALL_CELLS
def test_a_clip_that_bites_stops_the_gradient(cell: str) -> None:
    """And the oracle's tests above do see it bite."""
    if not cell.startswith("lstm"):
        return
    problem = sized(cell, cell_clip=0.1, lengths=None)
    free = replace(problem, cell_clip=None)
    layer = problem.layer()
    got, unclipped = run(problem, layer)[2], run(free, free.layer())[2]
    assert_gradients_close(got, oracle(problem, layer), 1e-10)
    assert np.abs(got.params["weight_ih_l0"] - unclipped.params["weight_ih_l0"]).max() > 1e-3


@ALL_CELLS
@settings(max_examples=6)
@given(st.data())
def test_float32_gradients_are_the_oracles_to_rounding(cell: str, data: st.DataObject) -> None:
    problem = replace(data.draw(small_problems(cell)), dtype="float32", gain=1.0)
    layer = problem.layer()
    assert_gradients_close(run(problem, layer)[2], oracle(problem, layer), 2e-5)


# --------------------------------------------------------------------------------------------------------- torch


@pytest.fixture(scope="module")
def peer() -> Any:
    """How test_torch makes modules."""
    pytest.importorskip("torch", reason="the parity extra is not installed: no torch")
    import test_torch

    return test_torch


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("cell", ("rnn_tanh", "rnn_relu", "lstm", "lstm_projected", "gru"))
@given(st.data())
def test_gradients_are_those_of_torch(cell: str, peer: Any, data: st.DataObject) -> None:
    torch = peer.torch
    problem = data.draw(small_problems(cell, min_steps=1, min_batch=1, min_length=1))
    problem = replace(problem, cell_clip=None)
    which = data.draw(st.sampled_from(UPSTREAM))
    module, layer = peer.torch_module(problem), problem.layer()
    layer.load_state_dict(module.state_dict())
    dy, dstate = upstream(problem, which)

    def tensor(array: Array) -> Any:
        return torch.from_numpy(np.nan_to_num(array)).requires_grad_()

    x = tensor(problem.x())
    zeros = [np.zeros_like(d) for d in upstream(problem)[1] or () if d is not None]
    initial = [tensor(h) for h in (states(problem.state()) if problem.with_state else zeros)]
    rnn = torch.nn.utils.rnn
    lengths = None if problem.lengths is None else torch.tensor(problem.lengths)
    given_x = x if lengths is None else rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    output, final = module(given_x, as_state(initial))
    if lengths is not None:
        output, _ = rnn.pad_packed_sequence(output, total_length=problem.steps)
    pairs = [(output, dy), *zip(states(final), dstate or [None] * len(initial), strict=True)]
    loss = sum((t * torch.from_numpy(np.nan_to_num(d))).sum() for t, d in pairs if d is not None)
    wanted = [x, *initial, *module.parameters()]
    found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    want = [g.numpy() for g in found]
    names = [name for name, _ in module.named_parameters()]
    expected = reference_backward.Gradients(
        want[0], tuple(want[1 : 1 + len(initial)]), dict(zip(names, want[1 + len(initial) :], strict=True))
    )
    assert_gradients_close(run(problem, layer, which)[2], expected, 1e-10)


# ------------------------------------------------------------------------------------------------------ same bits


@ALL_CELLS
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


@ALL_CELLS
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


@ALL_CELLS
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


@ALL_CELLS
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
    """Rows shared out, tiles shared out, two directions."""
    lengths = tuple((3 * b) % 7 for b in range(37))
    yield sized(cell, input_size=20, hidden_size=257, steps=6, batch=37, layers=1, lengths=lengths, dtype="float32")
    yield sized(cell, hidden_size=100, steps=5, batch=4, lengths=None)
    if cell in ("rnn_tanh", "gru", "gru_reset_before", "lstm", "lstm_coupled_peephole_projected"):
        wide = {"layers": 1, "directions": 1, "lengths": None, "dtype": "float32"}
        yield sized(cell, hidden_size=512, steps=40, batch=1, **wide)


@pytest.mark.skipif(CPUS < 2, reason="this process may use only one CPU")
@ALL_CELLS
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
    np.savez(path, isa=recurra.config()["isa"], **results)  # type: ignore[arg-type]


def test_avx2_and_avx512_give_the_same_gradients(tmp_path: Path) -> None:
    wanted = {"avx2", "avx512"}
    if not wanted <= set(isa_available()):
        pytest.skip("this machine does not have both AVX2 and AVX-512")
    saved = {}
    for isa in wanted:
        path = tmp_path / f"{isa}.npz"
        run_python("import sys, test_gradients as t; t.save_isa_gradients(sys.argv[1])", str(path), RECURRA_ISA=isa)
        saved[isa] = dict(np.load(path))
        assert saved[isa].pop("isa").item() == isa
    assert saved["avx2"].keys() == saved["avx512"].keys()
    for name, array in saved["avx2"].items():
        try:
            assert_same_bits(array, saved["avx512"][name])
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


# ---------------------------------------------------------------------------------------------- into, zero, lifetime


def new_params(layer: recurra.Recurrent, fill: float | None = 0.0) -> dict[str, Array]:
    """Arrays for `into`: one value, or with None random ones."""
    rng = np.random.default_rng(9)
    return {
        name: rng.normal(size=a.shape).astype(a.dtype) if fill is None else np.full_like(a, fill)
        for name, a in layer.state_dict().items()
    }


@ALL_CELLS
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


@ALL_CELLS
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


@ALL_CELLS
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
def test_a_tape_holds_what_it_says(cell: str) -> None:
    """Values a unit and step, beside the input: states, and unless they are recomputed the gates."""
    hidden, steps, batch = 256, 50, 4
    plain = 6 if cell.startswith("lstm") else 5 if cell.startswith("gru") else 2
    plain += CELLS[cell].projected
    for steps_here in (steps, 2 * steps):
        lengths = {"layers": 1, "directions": 1, "lengths": None}
        problem = sized(cell, input_size=64, hidden_size=hidden, steps=steps_here, batch=batch, **lengths)
        layer, x = problem.layer(), problem.x()
        for recompute, values in ((False, plain), (True, CELLS[cell].states)):
            _, _, tape = layer.forward(x, recompute=recompute)
            a_unit = (tape.nbytes - x.nbytes) / (steps_here * batch * hidden * x.itemsize)
            assert a_unit == pytest.approx(values, rel=0.05)
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
    ("into number name", with_into(lambda i: i | {1: DY}), ValueError, ["into", "unexpected"]),
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
            layer.forward(x, recompute=wrong)  # type: ignore[arg-type]
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
