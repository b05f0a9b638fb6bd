"""Training: the gradients are right.

`reference_backward` is the oracle; it, and the library, are also compared with central differences of the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference
import reference_backward
from checks import Array, assert_same_bits, states
from gradients import (
    ALL_CELLS,
    EVERY_KIND,
    UPSTREAM,
    as_state,
    assert_gradients_close,
    inputs,
    oracle,
    run,
    sized,
    small_problems,
    upstream,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import CELLS
from strategies import Problem, tolerance

from recurra import functional

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
@settings(max_examples=settings.default.max_examples * 2 if settings.default else 12)
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


@EVERY_KIND
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
    for steps, batch, hidden, width in ((1, 1, smallest, 1), (1, 3, 17, 1), (5, 1, 33, 2), (2, 2, 65, 19)):
        for bias in (True, False):
            sizes = {"steps": steps, "batch": batch, "hidden_size": hidden, "input_size": width, "lengths": None}
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
    assert_gradients_close(run(problem, layer)[2], oracle(problem, layer), 10 * tolerance(problem))


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
    problem = replace(problem, cell_clip=None, proj_bias=False)  # torch has neither
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
