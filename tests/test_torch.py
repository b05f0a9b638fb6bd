"""Parity with torch.nn on random shapes, and state_dict interchange both ways."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close, assert_same_bits, states
from hypothesis import given
from hypothesis import strategies as st
from strategies import TOLERANCE, Problem, problems

import recurra

torch = pytest.importorskip("torch", reason="the parity extra is not installed: no torch")
torch.set_num_threads(1)  # these shapes are small: more would only get into each other's way

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch tells that it is slow

MODULES = {"rnn_tanh": "RNN", "rnn_relu": "RNN", "lstm": "LSTM", "lstm_projected": "LSTM", "gru": "GRU"}
TORCH_CELLS = pytest.mark.parametrize("cell", MODULES)


def torch_module(problem: Problem, **options: Any) -> Any:
    """The module of torch.nn for a problem, with its own random weights."""
    torch.manual_seed(problem.seed)
    if problem.cell.startswith("rnn"):
        options["nonlinearity"] = problem.cell.removeprefix("rnn_")
    if problem.proj_size:
        options["proj_size"] = problem.proj_size
    return getattr(torch.nn, MODULES[problem.cell])(
        problem.input_size,
        problem.hidden_size,
        problem.layers,
        bias=problem.bias,
        bidirectional=problem.directions == 2,
        dtype=getattr(torch, problem.dtype),
        **options,
    )


def numpy_states(state: Any) -> tuple[Array, ...]:
    return tuple(part.numpy() for part in (state if isinstance(state, tuple) else (state,)))


def torch_run(module: Any, problem: Problem) -> Any:
    """The module's output and state on the problem's data, as arrays."""
    x = torch.from_numpy(problem.x())
    state = problem.state()
    if state is not None:
        state = tuple(torch.from_numpy(part) for part in states(state))
        state = state if len(state) > 1 else state[0]
    with torch.no_grad():
        if problem.lengths is not None:
            x = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(problem.lengths), enforce_sorted=False)
        output, final = module(x, state)
        if problem.lengths is not None:
            output, _ = torch.nn.utils.rnn.pad_packed_sequence(output, total_length=problem.steps)
    return output.numpy(), numpy_states(final)


@TORCH_CELLS
@given(st.data())
def test_layer_with_torch_weights_gives_what_torch_gives(cell: str, data: st.DataObject) -> None:
    # torch takes neither an empty sequence nor an empty packed batch
    problem = data.draw(problems(cell, min_steps=1, min_batch=1, min_length=1))
    problem = replace(problem, cell_clip=None, proj_bias=False)
    module, layer = torch_module(problem), problem.layer()
    layer.load_state_dict(module.state_dict())
    output, final = layer(problem.x(), problem.state(), lengths=problem.lengths)
    assert_close((output, states(final)), torch_run(module, problem), TOLERANCE[problem.dtype])


@TORCH_CELLS
def test_state_dict_goes_to_torch_and_back_without_a_change(cell: str) -> None:
    problem = Problem(cell, 3, 7, 4, 2, proj_size=5 if "projected" in cell else 0, layers=2, directions=2)
    layer, module = problem.layer(), torch_module(problem)
    ours = layer.state_dict()
    assert list(ours) == list(module.state_dict())
    assert [v.shape for v in ours.values()] == [tuple(v.shape) for v in module.state_dict().values()]
    assert layer.parameter_count == sum(p.numel() for p in module.parameters())

    module.load_state_dict({name: torch.tensor(array) for name, array in ours.items()})
    assert_close(layer(problem.x())[0], torch_run(module, problem)[0], 2e-6)
    other = replace(problem, seed=5).layer()
    other.load_state_dict(module.state_dict())
    for name, array in other.state_dict().items():
        assert_same_bits(array, ours[name])


def test_batch_first_and_unbatched_results_have_torch_shapes() -> None:
    for cell in MODULES:
        problem = Problem(cell, 3, 7, 4, 2, proj_size=5 if "projected" in cell else 0, layers=2, directions=2)
        module, layer = torch_module(problem, batch_first=True), problem.layer(batch_first=True)
        layer.load_state_dict(module.state_dict())
        for x in (np.ascontiguousarray(problem.x().swapaxes(0, 1)), problem.x()[:, 0].copy()):
            with torch.no_grad():
                output, final = module(torch.from_numpy(x))
            result, result_final = layer(x)
            assert_close((result, states(result_final)), (output.numpy(), numpy_states(final)), 2e-6)


def test_torch_tensors_are_taken_as_input_state_and_weights() -> None:
    layer = recurra.LSTM(3, 5, seed=0)
    x = np.random.default_rng(0).normal(0, 1, (4, 2, 3)).astype("float32")
    h, c = np.ones((1, 2, 5), "float32"), np.full((1, 2, 5), 0.5, "float32")
    tensors = torch.from_numpy(x), (torch.from_numpy(h), torch.from_numpy(c))
    assert_same_bits(layer(*tensors), layer(x, (h, c)))
    assert_same_bits(layer(tensors[0].transpose(0, 1).contiguous().transpose(0, 1)), layer(x))
    stream, other = layer.stream(2), layer.stream(2)
    assert_same_bits(stream.step(tensors[0][0]), other.step(x[0]))
    with pytest.raises(TypeError, match="float32"):
        layer(tensors[0].double())


def test_parameters_that_require_grad_are_loaded_and_an_input_that_does_is_refused() -> None:
    problem = Problem("gru", 3, 5, 4, 2)
    module, layer = torch_module(problem), problem.layer()
    layer.load_state_dict(dict(module.named_parameters()))
    assert_close(layer(problem.x())[0], torch_run(module, problem)[0], 2e-6)
    x = torch.from_numpy(problem.x()).requires_grad_()
    with pytest.raises((TypeError, ValueError), match=r"x.*grad"):
        layer(x)


def test_default_initialisation_has_torch_bounds() -> None:
    """Uniform in +-1/sqrt(H), as torch.nn.RNNBase.reset_parameters."""
    for kind in ("RNN", "LSTM", "GRU"):
        ours = getattr(recurra, kind)(30, 100, 2, seed=0).state_dict()
        theirs = {name: p.detach().numpy() for name, p in getattr(torch.nn, kind)(30, 100, 2).named_parameters()}
        for name, array in ours.items():
            assert abs(array).max() <= 0.1
            assert abs(array).max() == pytest.approx(abs(theirs[name]).max(), rel=0.05)
            assert array.std() == pytest.approx(theirs[name].std(), rel=0.2)
