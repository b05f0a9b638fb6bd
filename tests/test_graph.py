"""Cells over graphs, against NumPy row by row, central differences, and themselves under other conditions."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_graph

import recurra
from recurra.graph import Graph, GraphNetwork

Array = Any
PRIOR: dict[str, Any] = {"dimensions": ["lstm", "tanh", "lstm"], "priority": [False, False, True]}
CELLS: list[tuple[str, int, dict[str, Any]]] = [
    ("nary_tree", 1, {}),
    ("nary_tree", 2, {}),
    ("nary_tree", 4, {}),
    ("child_sum_tree", 0, {}),
    ("s_lstm_tree", 2, {}),
    ("s_lstm_tree", 3, {}),
    *[
        (f"mdlstm{kind}", slots, {})
        for kind in ("", "_halved", "_stable", "_leaky", "_leakylp")
        for slots in (1, 2, 3, 4)
    ],
    ("time_frequency", 2, {}),
    ("grid", 1, {"form": "standard"}),
    ("grid", 2, {}),
    ("grid", 2, {"dimensions": ["lstm", "identity"], "priority": [False, True], "form": "standard"}),
    ("grid", 2, {"dimensions": ["relu", "lstm"], "priority": [True, False]}),
    ("grid", 3, PRIOR),
    ("grid", 4, {"priority": [True, False, True, False]}),
    ("grid", 2, {"residual": [True, True], "priority": [True, False]}),
    ("grid", 2, {"residual": [True, False], "form": "standard"}),
    ("grid", 4, {"residual": [True, True, True, False], "dimensions": ["identity", "tanh", "relu", "lstm"]}),
]
IDS = [f"{cell}-{slots}-{'-'.join(map(str, options.values()))}" for cell, slots, options in CELLS]
every_cell = pytest.mark.parametrize(("cell", "slots", "options"), CELLS, ids=IDS)


def random_graph(random: Any, slots: int, rows: int = 23, given: int = 3) -> Graph:
    """Fronts of any sizes, absent predecessors and inputs, given rows, rows that precede others in several slots."""
    cuts = np.sort(random.choice(np.arange(given + 1, rows), 5, replace=False))
    fronts = [given, *cuts.tolist(), rows]
    start = np.repeat([0, *fronts[:-1]], np.diff([0, *fronts]))
    source = np.full(rows, -1)
    fed = random.permutation(np.arange(given, rows))[: (rows - given) * 2 // 3]
    source[fed] = random.permutation(len(fed))
    if not slots:
        lists: list[list[int]] = [[] for _ in range(rows)]
        for child in random.permutation(rows):
            later = np.flatnonzero(start > child)
            if len(later) and random.random() < 0.9:
                lists[random.choice(later)].append(int(child))
        first = np.cumsum([0, *map(len, lists)])
        return Graph(fronts, source=source, children=(first, [child for rows_of in lists for child in rows_of]))
    before = np.full((slots, rows), -1)
    for s in range(slots):
        used: set[int] = set()
        for r in range(given, rows):
            free = [q for q in range(start[r]) if q not in used]
            if free and random.random() < 0.85:
                before[s, r] = random.choice(free)
                used.add(int(before[s, r]))
    return Graph(fronts, before, source)


class Problem:
    """A cell with random parameters and a graph to run it over."""

    def __init__(self, cell: str, slots: int, options: dict[str, Any], dtype: str = "float64", hidden: int = 5) -> None:
        random = np.random.default_rng(7)
        self.inputs = 0 if cell == "s_lstm_tree" else 4
        sizes = {"slots": slots or 2, **options}
        shapes = GraphNetwork.shapes(cell, self.inputs, hidden, **sizes)
        self.params = {name: random.uniform(-0.8, 0.8, shape).astype(dtype) for name, shape in shapes.items()}
        self.cell, self.slots, self.options, self.sizes, self.hidden = cell, slots, options, sizes, hidden
        self.graph = random_graph(random, slots)
        if not self.inputs:
            g = self.graph
            self.graph = Graph(g.fronts, g.before)
        self.network = self.made(self.params)
        self.x: Any = random.normal(size=(self.graph.inputs, self.inputs)).astype(dtype) if self.inputs else None
        names = self.network.state_names
        self.given = [random.normal(size=(self.graph.given, hidden)).astype(dtype) for _ in names]
        self.d_states = [random.normal(size=(self.graph.rows, hidden)).astype(dtype) for _ in names]

    def made(self, params: dict[str, Array]) -> GraphNetwork:
        return GraphNetwork(self.cell, self.inputs, self.hidden, params, **self.sizes)

    def all_gradients(self, recompute: bool = False) -> list[Array]:
        states, tape = self.network.forward(self.x, self.graph, self.given, recompute=recompute)
        found = tape.backward(self.d_states)
        return [*states, *([] if found.x is None else [found.x]), *found.given, *found.params.values()]

    def loss(self, params: dict[str, Array], x: Array | None, given: list[Array]) -> float:
        states = reference_graph.run(self.cell, params, x, self.graph, given, self.hidden, **self.options)
        return float(sum((s * d).sum() for s, d in zip(states, self.d_states, strict=True)))


def same(first: list[Array], second: list[Array]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@every_cell
@pytest.mark.parametrize("hidden", [1, 5, 16, 37])
def test_forward_is_the_equations(cell: str, slots: int, options: dict[str, Any], hidden: int) -> None:
    problem = Problem(cell, slots, options, hidden=hidden)
    states = problem.network(problem.x, problem.graph, problem.given)
    expected = reference_graph.run(cell, problem.params, problem.x, problem.graph, problem.given, hidden, **options)
    for found, wanted in zip(states, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-12)
    single = Problem(cell, slots, options, "float32", hidden)
    for found, wanted in zip(single.network(single.x, single.graph, single.given), expected, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5)


@every_cell
def test_gradients_are_central_differences_of_the_equations(cell: str, slots: int, options: dict[str, Any]) -> None:
    problem = Problem(cell, slots, options, hidden=3)
    _, tape = problem.network.forward(problem.x, problem.graph, problem.given)
    found = tape.backward(problem.d_states)
    pairs: list[tuple[Array, Array]] = [(problem.params[name], gradient) for name, gradient in found.params.items()]
    pairs += list(zip(problem.given, found.given, strict=True))
    if problem.x is not None:
        pairs.append((problem.x, found.x))
    random, step = np.random.default_rng(1), 1e-6
    for array, gradient in pairs:
        assert gradient.shape == array.shape
        for place in random.permutation(array.size)[:12]:
            at = np.unravel_index(place, array.shape)
            kept, sides = array[at], []
            for value in (kept + step, kept - step):
                array[at] = value
                sides.append(problem.loss(problem.params, problem.x, problem.given))
            array[at] = kept
            np.testing.assert_allclose(gradient[at], (sides[0] - sides[1]) / (2 * step), rtol=2e-6, atol=2e-8)


@every_cell
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_recomputing_changes_no_bit_and_keeps_less(cell: str, slots: int, options: dict[str, Any], dtype: str) -> None:
    problem = Problem(cell, slots, options, dtype, hidden=19)
    assert same(problem.all_gradients(), problem.all_gradients(recompute=True))
    tapes = [problem.network.forward(problem.x, problem.graph, recompute=choice)[1] for choice in (False, True)]
    assert tapes[1].nbytes < tapes[0].nbytes
    first, second = (tapes[0].backward(problem.d_states).params for _ in range(2))
    assert same(list(first.values()), list(second.values()))


@every_cell
def test_states_that_nobody_wants_are_left_out(cell: str, slots: int, options: dict[str, Any]) -> None:
    problem = Problem(cell, slots, options)
    network, arguments = problem.network, (problem.x, problem.graph, problem.given)
    every = dict(zip(network.state_names, network(*arguments), strict=True))
    for wanted in ([network.state_names[-1]], [], list(network.state_names)):
        expected = [every[name] for name in network.state_names if name in wanted]
        assert same(list(network(*arguments, wanted=wanted)), expected)
        assert same(list(network.forward(*arguments, wanted=wanted)[0]), expected)
    with pytest.raises(ValueError, match=r"wanted: expected some of .*, got \['h', 'h'\]"):
        network(*arguments, wanted=["h", "h"])


@every_cell
def test_threads_change_no_bit(cell: str, slots: int, options: dict[str, Any]) -> None:
    problem = Problem(cell, slots, options, "float32", hidden=200)  # wide enough to be worth more threads
    before, found = recurra.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 4):
            recurra.set_num_threads(threads)
            found.append(problem.all_gradients() + problem.all_gradients(recompute=True))
    finally:
        recurra.set_num_threads(before)
    assert all(same(found[0], other) for other in found[1:])


def forest(graphs: list[Graph]) -> tuple[Graph, list[Array]]:
    """Graphs side by side, front by front, and where each one's rows are."""
    fronts = [0]
    places = [np.empty(g.rows, np.int64) for g in graphs]
    bounds = [[0, *g.fronts.tolist()] for g in graphs]
    for f in range(max(map(len, bounds)) - 1):
        for place, bound in zip(places, bounds, strict=True):
            if f + 1 < len(bound):
                size = bound[f + 1] - bound[f]
                place[bound[f] : bound[f + 1]] = np.arange(fronts[-1], fronts[-1] + size)
                fronts[-1] += size
        fronts.append(fronts[-1])
    fronts.pop()
    rows, inputs = fronts[-1], np.cumsum([0, *(g.inputs for g in graphs)])
    source = np.full(rows, -1)
    before = np.full((graphs[0].slots, rows), -1)
    lists: dict[int, list[int]] = {}
    for g, place, shift in zip(graphs, places, inputs, strict=False):
        source[place] = np.where(g.source < 0, -1, g.source + shift)
        if g.children:
            for r in range(g.rows):
                lists[int(place[r])] = place[g.children[1][g.children[0][r] : g.children[0][r + 1]]].tolist()
        else:
            before[:, place] = np.where(g.before < 0, -1, place[g.before])
    if not graphs[0].children:
        return Graph(fronts, before, source), places
    first = np.cumsum([0, *(len(lists[r]) for r in range(rows))])
    return Graph(fronts, source=source, children=(first, [child for r in range(rows) for child in lists[r]])), places


@every_cell
def test_other_graphs_in_the_batch_change_no_bit(cell: str, slots: int, options: dict[str, Any]) -> None:
    problem = Problem(cell, slots, options, "float32", hidden=24)
    random = np.random.default_rng(3)
    others = [random_graph(random, slots, rows=61), random_graph(random, slots, rows=200)]
    if not problem.inputs:
        others = [Graph(g.fronts, g.before) for g in others]
    whole, places = forest([*others, problem.graph])
    x = None
    if problem.inputs:
        x = np.concatenate([random.normal(size=(g.inputs, 4)).astype("float32") for g in others] + [problem.x])
    given = [random.normal(size=(whole.given, 24)).astype("float32") for _ in problem.given]
    d_states = [random.normal(size=(whole.rows, 24)).astype("float32") for _ in problem.given]
    for i, array in enumerate(given):
        array[places[-1][: problem.graph.given]] = problem.given[i]
        d_states[i][places[-1]] = problem.d_states[i]
    states, tape = problem.network.forward(x, whole, given)
    found: Any = tape.backward(d_states)
    alone, alone_tape = problem.network.forward(problem.x, problem.graph, problem.given)
    wanted: Any = alone_tape.backward(problem.d_states)
    assert same([state[places[-1]] for state in states], list(alone))
    assert same([array[places[-1][: problem.graph.given]] for array in found.given], list(wanted.given))
    if problem.inputs:
        assert np.array_equal(found.x[-problem.graph.inputs :], wanted.x)


@every_cell
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.usefixtures("restore_threads")
def test_rows_may_share_a_row_of_x(cell: str, slots: int, options: dict[str, Any], dtype: str) -> None:
    """As if each had a copy, to the same bits, and the gradient of x is the sum of the copies'."""
    if cell == "s_lstm_tree":
        return  # has no input
    alone = Problem(cell, slots, options, dtype, hidden=150)  # wide enough to be worth more threads
    shared = Problem(cell, slots, options, dtype, hidden=150)
    random, g = np.random.default_rng(5), alone.graph
    rows = random.integers(0, 4, g.inputs)  # of the new x, for each of the old one
    shared.graph = Graph(
        g.fronts, g.before if slots else None, np.where(g.source < 0, -1, 1 + rows[g.source]), children=g.children
    )
    shared.x = np.full((6, 4), np.nan, dtype)  # the first and the last row feed nothing
    shared.x[1:5] = random.normal(size=(4, 4))
    alone.x = shared.x[1 + rows]
    states, tape = alone.network.forward(alone.x, g, alone.given)
    wanted: Any = tape.backward(alone.d_states)
    dx = np.zeros((6, 4), dtype)
    np.add.at(dx, 1 + rows, wanted.x)
    tolerance = 1e-4 if dtype == "float32" else 1e-12
    first: list[Array] = []
    for threads in (1, 2, 3):
        recurra.set_num_threads(threads)
        assert same(list(shared.network(shared.x, shared.graph, shared.given)), list(states))
        for recompute in (False, True):
            found_states, tape = shared.network.forward(shared.x, shared.graph, shared.given, recompute=recompute)
            found: Any = tape.backward(shared.d_states)
            assert same(list(found_states), list(states)) and same(list(found.given), list(wanted.given))
            np.testing.assert_allclose(found.x, dx, rtol=tolerance, atol=tolerance)
            for name, value in wanted.params.items():
                np.testing.assert_allclose(found.params[name], value, rtol=tolerance, atol=tolerance, err_msg=name)
            first = first or [found.x, *found.params.values()]
            assert same(first, [found.x, *found.params.values()])


BITS = """
import hashlib, json, sys
sys.path.insert(0, sys.argv[1])
import test_graph as t
digests = []
for cell, slots, options in t.CELLS:
    for dtype in ("float32", "float64"):
        arrays = t.Problem(cell, slots, options, dtype, hidden=21).all_gradients()
        digests.append(hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest())
print(json.dumps(digests))
"""


def test_the_instruction_set_changes_no_bit() -> None:
    sets = [name for name in recurra.config()["isa_available"] if name != "generic"]  # type: ignore[attr-defined]
    found = []
    for name in sets:
        environment = {**os.environ, "RECURRA_ISA": name}
        command = [sys.executable, "-c", BITS, str(Path(__file__).parent)]
        found.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert found
    assert all(other == found[0] for other in found)


def test_a_chain_is_an_lstm_to_the_last_bit() -> None:
    random = np.random.default_rng(0)
    layer = recurra.LSTM(6, 20, seed=1)
    w = layer.state_dict()
    x = random.normal(size=(15, 6)).astype("float32")
    wanted, (h, c) = layer(x)
    params = {"weight_ih": w["weight_ih_l0"], "bias": w["bias_ih_l0"] + w["bias_hh_l0"]}
    hh = w["weight_hh_l0"]
    fronts, rows = np.arange(16), np.arange(15)
    chain = Graph(fronts, (rows - 1)[None], rows)
    for cell in ("nary_tree", "mdlstm"):
        states = GraphNetwork(cell, 6, 20, {**params, "weight_hh": hh[None]}, slots=1)(x, chain)
        assert np.array_equal(states[0], wanted)
        assert np.array_equal(states[1][-1], c[0])
    lists = Graph(fronts, source=rows, children=([0, *range(15)], range(14)))
    states = GraphNetwork("child_sum_tree", 6, 20, {**params, "weight_hh": hh})(x, lists)
    assert np.array_equal(states[0], wanted)
    standard = GraphNetwork("grid", 0, 20, {"weight_1": hh}, slots=1, form="standard")
    start = random.normal(size=(1, 20)).astype("float32")
    bare = recurra.LSTM(6, 20, bias=False)
    bare.load_state_dict({"weight_ih_l0": 0 * w["weight_ih_l0"], "weight_hh_l0": hh})
    (out, _) = bare(x[:3], (start, start))
    steps = standard(None, Graph([1, 2, 3, 4], [[-1, 0, 1, 2]]), (start, start))
    np.testing.assert_array_equal(steps[0][1:], out)
    assert h.shape == (1, 20)


def test_leaky_cells_stay_bounded_on_a_grid_of_many_paths() -> None:
    side = 40
    points = sorted(((a, b) for a in range(side) for b in range(side)), key=lambda p: (sum(p), p))
    row = {p: r for r, p in enumerate(points)}
    before = [[row.get((a - 1, b), -1) for a, b in points], [row.get((a, b - 1), -1) for a, b in points]]
    fronts = np.searchsorted([sum(p) for p in points], np.arange(2 * side))
    graph, high = Graph(fronts, before), np.float64(40)
    standard = {"weight_hh": np.zeros((2, 5, 1)), "bias": np.full(5, high)}
    _, c = GraphNetwork("mdlstm", 0, 1, standard)(None, graph)
    assert c[row[1, 1], 0] == pytest.approx(5)  # binomial(4, 2) - 1
    assert c[-1, 0] > 1e22
    for kind, chains in (("leaky", 4), ("leakylp", 5)):
        params = {"weight_hh": np.zeros((2, chains, 1)), "bias": np.full(chains, high)}
        assert np.abs(GraphNetwork(f"mdlstm_{kind}", 0, 1, params)(None, graph)[1]).max() <= 1


def test_empty_graphs() -> None:
    network = GraphNetwork("nary_tree", 0, 3, {"weight_hh": np.ones((2, 15, 3))})
    states, tape = network.forward(None, Graph([0], np.empty((2, 0), int)))
    assert [s.shape for s in states] == [(0, 3)] * 2
    assert not tape.backward((None, None)).params["weight_hh"].any()
    given = np.ones((2, 3))
    states, tape = network.forward(None, Graph([2], np.full((2, 2), -1)), (given, None))
    assert np.array_equal(states[0], given)
    assert not states[1].any()
    assert np.array_equal(tape.backward((given, None)).given[0], given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 2], None), "before, children"),
        (([2, 1], [[-1, -1]]), "fronts"),
        (([-1, 1], [[-1]]), "fronts"),
        (([0, 1, 2], [[-1, 0, -1]]), r"before\[0\]"),
        (([0, 1, 2], [[-1, 1]]), r"before\[0\]: expected rows of earlier fronts"),  # itself
        (([0, 1, 2], [[1, -1]]), "earlier fronts"),  # a later one: a cycle, or children out of order
        (([0, 2], [[-1, 0]]), "earlier fronts"),  # the same front
        (([0, 1, 3], [[-1, 0, 0]]), "precedes"),
        (([0, 1], [[-2]]), "before"),
        (([1, 2], [[-1, 0]], [0, -1]), "source"),
        (([0, 2], [[-1, -1]], [0, -2]), "source: expected -1 or more, got -2 at position 1"),
        (([0, 2], [[-1, -1]], [0]), "source"),
        (([0, 1], [[-1]] * 5), "slots"),
        (([0, 1], np.empty((0, 1), int)), "slots"),
    ],
)
def test_a_wrong_graph_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Graph(*arguments)


@pytest.mark.parametrize(
    ("children", "message"),
    [
        (([0, 0, 1], [1]), "earlier fronts"),
        (([0, 1, 1], [0]), "earlier fronts"),
        (([0, 0], []), "children first"),
        (([0, 0, 2], [0]), "children first"),
        (([0, 0, 2], [0, 0]), "is a child of"),
        (([0, 0, 1], [-1]), "children"),
    ],
)
def test_wrong_children_are_refused(children: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Graph([0, 1, 2], children=children)


def test_what_does_not_fit_is_refused_by_name() -> None:
    problem = Problem("nary_tree", 2, {})
    network, graph, x = problem.network, problem.graph, problem.x
    chain = Graph([0, 1], [[-1]])
    with pytest.raises(ValueError, match="graph: expected 2 slots, got 1"):
        network(None, chain)
    with pytest.raises(ValueError, match="graph: expected one with slots"):
        network(None, Graph([0, 1], children=([0, 0], [])))
    with pytest.raises(TypeError, match="graph"):
        network(x, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="x: expected an array"):
        network(None, graph)
    with pytest.raises(ValueError, match="x: expected at least"):
        network(x[:-1], graph)
    with pytest.raises(TypeError, match="x: expected float64"):
        network(x.astype("float32"), graph)
    with pytest.raises(ValueError, match="wanted: expected some of h, c, got"):
        network(x, graph, wanted=["h", "x"])
    with pytest.raises(TypeError, match="wanted: expected some of h, c, got"):
        network(x, graph, wanted="h")
    with pytest.raises(ValueError, match="given h"):
        network(x, graph, (problem.given[0][:1], None))
    with pytest.raises(TypeError, match="given"):
        network(x, graph, problem.given[:1])
    with pytest.raises(ValueError, match="weight_hh"):
        problem.made({**problem.params, "weight_hh": problem.params["weight_hh"][:1]})
    with pytest.raises(ValueError, match="unexpected: other"):
        problem.made({**problem.params, "other": x})
    with pytest.raises(ValueError, match="missing: weight_hh"):
        problem.made({})
    _, tape = network.forward(x, graph)
    with pytest.raises(ValueError, match="d_states c"):
        tape.backward((None, problem.d_states[1][1:]))
    with pytest.raises(TypeError, match="recompute"):
        network.forward(x, graph, recompute=1)  # type: ignore[arg-type]
    for wrong in (
        {"slots": 5},
        {"cell": "lstm"},
        {"form": "standard"},
        {"hidden_size": 0},
        {"priority": [True, False]},
        {"residual": [True, False]},
    ):
        arguments: Any = {"cell": "nary_tree", "input_size": 4, "hidden_size": 5, **wrong}
        with pytest.raises(ValueError, match=next(iter(wrong))):
            GraphNetwork(params=problem.params, **arguments)
    with pytest.raises(ValueError, match="dimensions"):
        GraphNetwork.shapes("grid", 0, 3, dimensions=["lstm"])


@pytest.mark.parametrize("cell", ["child_sum_tree", "grid", "mdlstm"])
def test_networks_and_graphs_pickle(cell: str) -> None:
    problem = Problem(cell, 0 if cell == "child_sum_tree" else 2, {})
    network, graph = pickle.loads(pickle.dumps((problem.network, problem.graph)))
    wanted = problem.network(problem.x, problem.graph, problem.given)
    assert same(list(network(problem.x, graph, problem.given)), list(wanted))


def test_optional_parameters_may_be_left_out() -> None:
    for cell, slots, options in CELLS:
        problem = Problem(cell, slots, options)
        kept = {name: v for name, v in problem.params.items() if not name.startswith(("bias", "weight_peep"))}
        network = problem.made(kept)
        states, tape = network.forward(problem.x, problem.graph)
        zeros = [0 * array for array in problem.given]
        expected = reference_graph.run(cell, kept, problem.x, problem.graph, zeros, problem.hidden, **options)
        for found, wanted in zip(states, expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-12)
        assert set(tape.backward(problem.d_states).params) == set(kept)
