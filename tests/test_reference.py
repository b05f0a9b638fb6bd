"""Every compiled cell against the NumPy float64 oracle, over shapes, layers, directions, lengths and options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import arrays, assert_close, assert_same_bits, isa_available, run_python, states
from hypothesis import given
from hypothesis import strategies as st
from reference import CELLS, run, shapes
from strategies import DTYPES, SIZES, Problem, problems, tolerance

import recurra
from recurra import functional

ALL_CELLS = pytest.mark.parametrize("cell", sorted(CELLS))


def assert_matches_oracle(problem: Problem) -> None:
    """The layer, and where it can stream a stream too, within the tolerance of the dtype."""
    layer, x, state = problem.layer(), problem.x(), problem.state()
    initial = None if state is None else states(state)
    want = run(problem.cell, x, layer.state_dict(), initial, problem.lengths, problem.constants)
    output, final = layer(x, state, lengths=problem.lengths)
    assert {array.dtype for array in arrays((output, final))} == {np.dtype(problem.dtype)}
    assert_close((output, states(final)), want, tolerance(problem))
    if problem.directions == 1 and problem.lengths is None and problem.batch:
        stream = layer.stream(problem.batch)
        if state is not None:
            stream.state = state
        assert_close((stream.run(x), states(stream.state)), want, tolerance(problem))


def test_every_compiled_cell_has_an_oracle_and_every_oracle_a_cell() -> None:
    assert set(recurra.cells()) == set(CELLS)


@ALL_CELLS
def test_parameters_have_the_names_shapes_and_order_of_cells_md(cell: str) -> None:
    proj = 4 if CELLS[cell].projected else 0
    for layers, directions, bias in ((1, 1, True), (3, 2, True), (2, 2, False)):
        layer = Problem(cell, 7, 5, 1, 1, proj, layers, directions, bias).layer()
        named = {name: array.shape for name, array in layer.state_dict().items()}
        assert list(named.items()) == list(shapes(cell, 7, 5, proj, layers, directions, bias).items())


@ALL_CELLS
@given(st.data())
def test_layer_matches_oracle(cell: str, data: st.DataObject) -> None:
    assert_matches_oracle(data.draw(problems(cell)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden_size", SIZES)
@pytest.mark.parametrize("input_size", SIZES)
def test_every_pair_of_awkward_sizes_matches_oracle(input_size: int, hidden_size: int, dtype: str) -> None:
    for cell in ("rnn_relu", "lstm_peephole", "gru", "gru_reset_before"):
        assert_matches_oracle(Problem(cell, input_size, hidden_size, 3, 2, with_state=True, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", (*range(1, 21), 33, 70))
def test_every_number_of_rows_matches_oracle(batch: int, dtype: str) -> None:
    lengths = tuple(n % 5 for n in range(batch))
    for cell in ("rnn_tanh", "lstm", "lstm_projected", "gru", "gru_reset_before"):
        proj = 9 if CELLS[cell].projected else 0
        problem = Problem(cell, 7, 17, 4, batch, proj, directions=2, lengths=lengths, with_state=True, dtype=dtype)
        assert_matches_oracle(problem)


@pytest.mark.parametrize(
    "problem",
    [
        Problem("lstm", 3, 17, 700, 2, layers=1, directions=2, lengths=(650, 700), dtype="float64"),
        Problem("gru", 3, 7, 1100, 1, layers=3, dtype="float64"),
        Problem("gru_reset_before_write", 3, 17, 300, 6, layers=3, lengths=(300, 0, 65, 64, 129, 1), dtype="float64"),
        Problem("lstm_coupled_peephole_projected", 7, 17, 300, 2, 5, 2, 2, lengths=(63, 255), dtype="float64"),
        Problem("lstm", 257, 257, 60, 5, layers=2, lengths=(60, 1, 59, 23, 24), dtype="float64"),
        Problem("rnn_tanh", 100, 100, 150, 3, layers=2, with_state=True, dtype="float64"),
    ],
    ids=lambda problem: problem.cell,
)
def test_long_sequences_match_oracle(problem: Problem) -> None:
    assert_matches_oracle(problem)


OPTIONS: list[tuple[type[recurra.Recurrent], dict[str, Any], str]] = [
    *((recurra.RNN, {"nonlinearity": f}, f"rnn_{f}") for f in ("tanh", "relu", "sigmoid")),
    (recurra.RNN, {}, "rnn_tanh"),
    (recurra.GRU, {}, "gru"),
    (recurra.GRU, {"reset": "after", "update": "keep"}, "gru"),
    (recurra.GRU, {"update": "write"}, "gru_write"),
    (recurra.GRU, {"reset": "before"}, "gru_reset_before"),
    (recurra.GRU, {"reset": "before", "update": "write"}, "gru_reset_before_write"),
    *(
        (recurra.LSTM, {"coupled": coupled, "peephole": peephole, "proj_size": proj}, f"lstm{name}{peep}{end}")
        for coupled, name in ((False, ""), (True, "_coupled"), ("i_from_f", "_coupled"), ("f_from_i", "_f_from_i"))
        for peephole, peep in ((False, ""), (True, "_peephole"))
        for proj, end in ((0, ""), (2, "_projected"))
    ),
    (recurra.LSTM, {"cell_clip": 0.1}, "lstm"),
    (recurra.LSTM, {"layer_norm": True}, "lstm_layer_norm"),
    (recurra.LSTM, {"layer_norm": True, "cell_clip": 0.1}, "lstm_layer_norm"),
    (recurra.GRU, {"layer_norm": True}, "gru_layer_norm"),
]


@pytest.mark.parametrize(("kind", "options", "cell"), OPTIONS)
def test_layer_and_functional_options_mean_the_equations_of_cells_md(kind: Any, options: Any, cell: str) -> None:
    layer = kind(3, 5, 2, bidirectional=True, dtype="float64", seed=1, **options)
    x = np.random.default_rng(2).normal(0, 2, (6, 3, 3))
    constants = {k: v for k, v in options.items() if k == "cell_clip"}
    lengths = [4, 0, 6]
    want = run(cell, x, layer.state_dict(), None, lengths, constants)
    output, state = layer(x, lengths=lengths)
    assert_close((output, states(state)), want, 1e-13)

    call = getattr(functional, kind.__name__.lower())
    read_from_params = ("peephole", "proj_size", "layer_norm")
    named = {k: v for k, v in options.items() if k not in read_from_params}
    assert_same_bits(call(x, layer.state_dict(), lengths=lengths, **named), (output, state))


DIFFERENT: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("lstm", "coupled", {"coupled": True}, {"coupled": "f_from_i"}),
    ("lstm", "cell_clip", {}, {"cell_clip": 0.1}),
    ("gru", "reset", {"reset": "after"}, {"reset": "before"}),
    ("gru", "update", {"update": "keep"}, {"update": "write"}),
    ("rnn", "nonlinearity", {"nonlinearity": "tanh"}, {"nonlinearity": "relu"}),
    ("rnn", "nonlinearity", {"nonlinearity": "tanh"}, {"nonlinearity": "sigmoid"}),
]


@pytest.mark.parametrize(("kind", "option", "one", "other"), DIFFERENT)
def test_one_option_changed_on_equal_weights_changes_the_output(kind: str, option: str, one: Any, other: Any) -> None:
    cell = {"lstm": "lstm_coupled" if option == "coupled" else "lstm", "gru": "gru", "rnn": "rnn_tanh"}[kind]
    params = Problem(cell, 3, 5, 1, 1, dtype="float64").layer().state_dict()
    x = np.random.default_rng(0).normal(0, 1, (4, 2, 3))
    call = getattr(functional, kind)
    assert np.abs(call(x, params, **one)[0] - call(x, params, **other)[0]).max() > 1e-3


@pytest.mark.parametrize("name", ("bias_ih_l0", "bias_hh_l0", "weight_peep_l0", "weight_hr_l0", "weight_ih_l0_reverse"))
def test_every_optional_parameter_changes_the_output(name: str) -> None:
    cell = "lstm_peephole_projected"
    layer = Problem(cell, 3, 5, 1, 1, 4, directions=2, dtype="float64").layer()
    x = np.random.default_rng(0).normal(0, 1, (4, 2, 3))
    before = layer(x)[0]
    params = layer.state_dict()
    layer.load_state_dict({**params, name: params[name] + 0.5})
    assert np.abs(layer(x)[0] - before).max() > 1e-3


@pytest.mark.parametrize("isa", ("generic", "avx2", "avx512", "avx512bf16", "neon", "neondot", "neonbf16"))
def test_every_instruction_set_matches_oracle(isa: str) -> None:
    """In a process of its own, as the instruction set is chosen once."""
    if isa not in isa_available():
        pytest.skip(f"this build or machine has no {isa}")
    script = """
import recurra
from reference import CELLS
from strategies import Problem
from test_reference import assert_matches_oracle
for cell in sorted(CELLS):
    for dtype, batch in (("float32", 5), ("float64", 9)):
        proj = 19 if CELLS[cell].projected else 0
        problem = Problem(cell, 7, 37, 4, batch, proj, 2, 2, lengths=(4, 0, 3, 1, 4, 2, 2, 3, 4)[:batch], dtype=dtype)
        assert_matches_oracle(problem)
print(recurra.config()["isa"])
"""
    assert run_python(script, RECURRA_ISA=isa).strip() == isa
