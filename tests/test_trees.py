"""Tree-LSTMs: against the oracle and central differences, limits, bits, refusals."""

from __future__ import annotations

import pickle
import re
from typing import Any

import numpy as np
import pytest
import reference_trees
from checks import CPUS, Array, arrays, assert_close, assert_same_bits
from hypothesis import given
from hypothesis import strategies as st
from strategies import TOLERANCE
from trees import Node, as_lists, as_nested, nodes

import recurra
from recurra import Forest, LeafModule, TreeLSTM

KINDS: list[dict[str, Any]] = [
    {"kind": "child_sum"},
    {"kind": "n_ary", "children": 4},
    {"kind": "s_lstm", "children": 4},
    {"kind": "child_sum", "bias": False},
    {"kind": "n_ary", "children": 4, "bias": False},
    {"kind": "s_lstm", "children": 4, "bias": False},
    {"kind": "child_sum", "gate_output": False},
    {"kind": "n_ary", "children": 4, "gate_output": False},
    {"kind": "n_ary", "children": 4, "gate_output": False, "bias": False},
]
INPUTS = ("all", "leaves", "given", "given and inner")


def names(options: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in options.items())


CASES = [
    pytest.param(options, inputs, id=f"{names(options)} {inputs}")
    for options in KINDS
    for inputs in INPUTS
    if inputs == "given" or options["kind"] != "s_lstm"
]


def make(options: dict[str, Any], inputs: str, hidden: int, dtype: str = "float64") -> TreeLSTM:
    return TreeLSTM(0 if inputs == "given" else 3, hidden, dtype=dtype, seed=1, **options)


def arguments(forest: Forest, layer: TreeLSTM, inputs: str) -> dict[str, Any]:
    """x and leaf_states of a call."""
    rng, dtype = np.random.default_rng(2), layer.dtype
    rows = {
        "all": forest.num_nodes,
        "leaves": len(forest.leaves),
        "given and inner": forest.num_nodes - len(forest.leaves),
    }
    found: dict[str, Any] = {"x": None, "leaf_states": None}
    if inputs in rows:
        found["x"] = rng.standard_normal((rows[inputs], layer.input_size)).astype(dtype)
    if inputs.startswith("given"):
        found["leaf_states"] = tuple(rng.standard_normal((2, len(forest.leaves), layer.hidden_size)).astype(dtype))
    return found


def oracle(forest: Forest, layer: TreeLSTM, params: dict[str, Array], x: Any, leaf_states: Any) -> tuple[Array, Array]:
    leaves, inner = forest.leaves.tolist(), np.flatnonzero(forest.heights).tolist()
    fed: dict[int, Array] = {}
    if x is not None:
        at = inner if leaf_states is not None else range(forest.num_nodes) if len(x) == forest.num_nodes else leaves
        fed = {node: x[row].astype(np.float64) for row, node in enumerate(at)}
    given_states = {}
    if leaf_states is not None:
        h, c = (state.astype(np.float64) for state in leaf_states)
        given_states = {node: (h[row], c[row]) for row, node in enumerate(leaves)}
    return reference_trees.run(layer.kind, as_lists(forest), params, fed, given_states)


@pytest.mark.parametrize(("options", "inputs"), CASES)
@given(
    trees=st.lists(nodes(), min_size=1, max_size=3),
    hidden=st.sampled_from((1, 3, 17)),
    dtype=st.sampled_from(list(TOLERANCE)),
)
def test_states_are_the_oracles(
    options: dict[str, Any], inputs: str, trees: list[Node], hidden: int, dtype: str
) -> None:
    forest, layer = Forest.nested([as_nested(tree) for tree in trees]), make(options, inputs, hidden, dtype)
    args = arguments(forest, layer, inputs)
    found = layer(forest, **args)
    want = oracle(forest, layer, layer.state_dict(), **args)
    assert_close(found, [array.astype(dtype) for array in want], 4 * TOLERANCE[dtype])
    for recompute in (False, True):
        assert_same_bits(layer.forward(forest, **args, recompute=recompute)[:2], found)


MIXED = Forest([[], [], [0, 1], [], [-1, 3], [2, 4], [], [], [7]])


@pytest.mark.parametrize(("options", "inputs"), CASES)
def test_gradients_are_central_differences(options: dict[str, Any], inputs: str) -> None:
    layer = make(options, inputs, 3)
    args = arguments(MIXED, layer, inputs)
    h, _, tape = layer.forward(MIXED, **args)
    d_h, d_c = np.random.default_rng(3).standard_normal((2, *h.shape))
    found = tape.backward(d_h, d_c)
    params = layer.state_dict()

    def loss() -> float:
        h, c = oracle(MIXED, layer, params, **args)
        return float((h * d_h).sum() + (c * d_c).sum())

    def differences(array: Array) -> Array:
        gradient = np.empty_like(array)
        for at in np.ndindex(array.shape):
            before = array[at]
            array[at] = before + 1e-6
            above = loss()
            array[at] = before - 1e-6
            gradient[at] = (above - loss()) / 2e-6
            array[at] = before
        return gradient

    assert list(found.params) == list(params)
    for name, array in params.items():
        assert_close(found.params[name], differences(array), 1e-7)
    assert (found.x is None) == (args["x"] is None)
    assert (found.leaf_states is None) == (args["leaf_states"] is None)
    if found.x is not None:
        assert_close(found.x, differences(args["x"]), 1e-7)
        assert tape.backward(d_h, d_c, input_grad=False).x is None
    if found.leaf_states is not None:
        assert_close(found.leaf_states, [differences(array) for array in args["leaf_states"]], 1e-7)
    assert_close(
        arrays(list(tape.backward(d_h).params.values())), arrays(list(tape.backward(d_h, 0 * d_c).params.values())), 0
    )


def chain(length: int) -> Forest:
    return Forest([[], *([node] for node in range(length - 1))])


@pytest.mark.parametrize("options", ({"kind": "child_sum"}, {"kind": "n_ary", "children": 1}), ids=names)
def test_a_chain_is_an_lstm(options: dict[str, Any]) -> None:
    layer, lstm = TreeLSTM(3, 7, dtype="float64", seed=0, **options), recurra.LSTM(3, 7, dtype="float64", seed=0)
    params, forest = layer.state_dict(), chain(9)
    zero = np.zeros_like(params["bias"])
    lstm.load_state_dict(
        {
            "weight_ih_l0": params["weight_ih"],
            "weight_hh_l0": params["weight_hh"].reshape(28, 7),
            "bias_ih_l0": params["bias"],
            "bias_hh_l0": zero,
        }
    )
    x = np.random.default_rng(0).standard_normal((9, 3))
    h, c, tape = layer.forward(forest, x)
    y, (_, last), other = lstm.forward(x)
    assert_close((h, c[-1:]), (y, last), 1e-14)
    found, want = tape.backward(np.ones_like(h)), other.backward(np.ones_like(y))
    assert_close(found.x, want.x, 1e-13)
    assert_close(found.params["weight_hh"].reshape(28, 7), want.params["weight_hh_l0"], 1e-13)


def test_single_nodes_are_a_step_from_nothing() -> None:
    layer, forest = TreeLSTM(3, 5, dtype="float64", seed=0), Forest([[]] * 4)
    h, c = layer(forest, x := np.random.default_rng(0).standard_normal((4, 3)))
    i, _, g, o = np.split(x @ layer.state_dict()["weight_ih"].T + layer.state_dict()["bias"], 4, -1)
    want = np.tanh(g) / (1 + np.exp(-i))
    assert_close((h, c), (np.tanh(want) / (1 + np.exp(-o)), want), 1e-14)


def test_an_s_lstm_without_cell_connections_is_an_n_ary_tree_without_x() -> None:
    s_lstm, n_ary = TreeLSTM(0, 5, "s_lstm", dtype="float64", seed=0), TreeLSTM(0, 5, "n_ary", dtype="float64", seed=1)
    params = s_lstm.state_dict()
    n_ary.load_state_dict({name: params[name] for name in ("weight_hh", "bias")})
    s_lstm.load_state_dict({name: array * (name in ("weight_hh", "bias")) for name, array in params.items()})
    leaf_states = tuple(np.random.default_rng(0).standard_normal((2, len(MIXED.leaves), 5)))
    assert_close(s_lstm(MIXED, leaf_states=leaf_states), n_ary(MIXED, leaf_states=leaf_states), 1e-14)


def test_the_order_of_a_child_sums_children_means_nothing() -> None:
    layer, x = TreeLSTM(3, 5, dtype="float64", seed=0), np.random.default_rng(0).standard_normal((4, 3))
    assert_close(layer(Forest([[], [], [], [0, 1, 2]]), x), layer(Forest([[], [], [], [2, 0, 1]]), x), 1e-15)


@pytest.mark.parametrize("options", KINDS[:3], ids=names)
@given(trees=st.lists(nodes(), min_size=2, max_size=4))
def test_a_tree_has_the_same_bits_alone_and_in_any_forest(options: dict[str, Any], trees: list[Node]) -> None:
    parts = [Forest.nested([as_nested(tree)]) for tree in trees]
    forest, layer = Forest.concatenate(parts), make(options, "given", 17, "float32")
    h, c = arguments(forest, layer, "given")["leaf_states"]
    whole, ends = layer(forest, leaf_states=(h, c)), np.cumsum(forest.lengths)
    d_leaves = layer.forward(forest, leaf_states=(h, c))[2].backward(*whole).leaf_states
    assert d_leaves is not None
    for tree, (part, end) in enumerate(zip(parts, ends, strict=True)):
        rows, leaves = forest.trees == tree, slice(end - part.lengths[0], end)
        *alone, tape = layer.forward(part, leaf_states=(h[leaves], c[leaves]))
        assert_same_bits(alone, [state[rows] for state in whole])
        assert_same_bits(tape.backward(*alone).leaf_states, [d[leaves] for d in d_leaves])


def large(options: dict[str, Any]) -> tuple[Forest, TreeLSTM, Any]:
    rng = np.random.default_rng(0)
    lists: list[list[int]] = [[] for _ in range(300)]
    free = list(range(300))
    while len(free) > 3:
        lists.append([free.pop(rng.integers(len(free))) for _ in range(rng.integers(1, 4))])
        free.append(len(lists) - 1)
    forest, layer = Forest(lists), TreeLSTM(0, 65, seed=0, **options)
    return forest, layer, tuple(rng.standard_normal((2, 300, 65), dtype=np.float32))


@pytest.mark.skipif(CPUS < 2, reason="this process may use only one CPU")
@pytest.mark.parametrize("options", KINDS[:3], ids=names)
def test_threads_and_recomputing_change_no_bit(options: dict[str, Any], restore_threads: None) -> None:
    forest, layer, leaf_states = large(options)
    found = []
    for threads in (1, CPUS):
        recurra.set_num_threads(threads)
        for recompute in (False, True):
            h, c, tape = layer.forward(forest, leaf_states=leaf_states, recompute=recompute)
            gradients = tape.backward(h, c)
            found.append(arrays([h, c, gradients.leaf_states, gradients.params]))
    for other in found[1:]:
        assert_same_bits(other, found[0])


def test_a_leaf_module_is_its_equations_and_so_are_its_gradients() -> None:
    for bias in (True, False):
        leaf, x = LeafModule(3, 5, bias, dtype="float64", seed=0), np.random.default_rng(0).standard_normal((4, 3))
        h, c, tape = leaf.forward(x)
        assert_same_bits(leaf(x), (h, c))
        params = leaf.state_dict()
        d_h, d_c = np.random.default_rng(1).standard_normal((2, 4, 5))

        def loss(params: dict[str, Array] = params, x: Array = x, d_h: Array = d_h, d_c: Array = d_c) -> float:
            states = [reference_trees.leaf(row, params) for row in x]
            return float(sum(h @ a + c @ b for (h, c), a, b in zip(states, d_h, d_c, strict=True)))

        assert_close(
            (h, c), [np.stack(s) for s in zip(*(reference_trees.leaf(r, params) for r in x), strict=True)], 1e-14
        )
        found = tape.backward(d_h, d_c)
        assert list(found.params) == list(params)
        for gradient, array in [(found.x, x), *((found.params[name], params[name]) for name in params)]:
            assert gradient is not None
            for at in np.ndindex(array.shape):
                before = array[at]
                array[at] = before + 1e-6
                above = loss()
                array[at] = before - 1e-6
                assert abs((above - loss()) / 2e-6 - gradient[at]) < 1e-7
                array[at] = before


LAYERS: list[Any] = [TreeLSTM(3, 4, seed=0), TreeLSTM(0, 4, "s_lstm", 3, seed=0), LeafModule(3, 4, seed=0)]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_they_pickle_are_fixed_and_take_all_parameters_or_none(layer: Any) -> None:
    other = pickle.loads(pickle.dumps(layer))
    assert repr(other) == repr(layer)
    before = layer.state_dict()
    assert_same_bits(other.state_dict(), before)
    assert layer.parameter_count == sum(array.size for array in before.values())
    with pytest.raises(AttributeError, match="fixed"):
        layer.hidden_size = 3
    with pytest.raises(ValueError, match=r"missing: bias\n  unexpected: b\n"):
        layer.load_state_dict(
            {**{n: a for n, a in before.items() if n != "bias"}, "b": before["bias"], next(iter(before)): 1}
        )
    assert_same_bits(layer.state_dict(), before)


def test_a_tape_copies_what_it_needs() -> None:
    layer, x = TreeLSTM(3, 4, dtype="float64", seed=0), np.random.default_rng(0).standard_normal((9, 3))
    h, _, tape = layer.forward(MIXED, x)
    want = tape.backward(h)
    x[:] = np.nan
    layer.load_state_dict({name: array + 1 for name, array in layer.state_dict().items()})
    assert_same_bits(arrays([want.x, want.params]), arrays([tape.backward(h).x, tape.backward(h).params]))
    assert tape.nbytes > 0
    with pytest.raises(TypeError, match="TreeTape cannot be"):
        pickle.dumps(tape)


X, H = np.zeros((9, 3), "float32"), np.zeros((5, 4), "float32")
REFUSED: list[tuple[Any, type[Exception], str]] = [
    (lambda: TreeLSTM(3, 4, "tree"), ValueError, "kind: expected one of 'child_sum', 'n_ary', 's_lstm', got 'tree'"),
    (lambda: TreeLSTM(3, 0), ValueError, "hidden_size: expected at least 1, got 0"),
    (lambda: TreeLSTM(3, 4, children=2), ValueError, "children: expected None for kind='child_sum'"),
    (lambda: TreeLSTM(3, 4, "n_ary", 5), ValueError, "children: expected 1..4, got 5"),
    (lambda: TreeLSTM(3, 4, "s_lstm"), ValueError, "input_size: expected 0 for kind='s_lstm'"),
    (lambda: TreeLSTM(0, 4, "s_lstm", gate_output=False), ValueError, "gate_output: expected True for kind='s_lstm'"),
    (lambda: TreeLSTM(3, 4, device="cuda"), ValueError, "device: expected 'cpu', for TreeLSTM has no GPU kernels"),
    (lambda: TreeLSTM(3, 4, dtype="float16"), TypeError, "dtype: expected float32 or float64"),
    (lambda: LAYERS[0].stream(), TypeError, "stream: TreeLSTM has none, for the state of a root needs all its leaves"),
    (lambda: LAYERS[0].quantize("int8"), TypeError, "quantize: TreeLSTM has float32 and float64 kernels only"),
    (lambda: LAYERS[0]([[0]], X), TypeError, "forest: expected a Forest, got [[0]]"),
    (lambda: LAYERS[0](MIXED), ValueError, "x, leaf_states: expected at least one of them, got neither"),
    (lambda: LAYERS[0](MIXED, X[:8]), ValueError, "x: expected shape [9, 3] or [5, 3], got [8, 3]"),
    (lambda: LAYERS[0](MIXED, X.astype("float64")), TypeError, "x: expected float32, got float64"),
    (lambda: LAYERS[0](MIXED, X, (H, H)), ValueError, "x: expected shape [4, 3], got [9, 3]"),
    (lambda: LAYERS[0](MIXED, None, H), TypeError, "leaf_states: expected a tuple (h, c), got 'ndarray'"),
    (lambda: LAYERS[0](MIXED, None, (H, H[:3])), ValueError, "leaf_states c: expected shape [5, 4], got [3, 4]"),
    (lambda: LAYERS[1](MIXED, X, (H, H)), ValueError, "x: expected None with input_size=0"),
    (
        lambda: TreeLSTM(3, 4, "n_ary", 1)(MIXED, X),
        ValueError,
        "forest: expected at most children=1 a node, got 2 at node 2",
    ),
    (lambda: LAYERS[0].forward(MIXED, X)[2].backward(), ValueError, "d_h, d_c: expected at least one of them"),
    (lambda: LAYERS[0].forward(MIXED, X)[2].backward(H), ValueError, "d_h: expected shape [9, 4], got [5, 4]"),
    (lambda: LeafModule(3, 4)(X[0]), ValueError, "x: expected shape [L, 3], got [3]"),
    (lambda: LeafModule(3, 4).forward(X)[2].backward(), ValueError, "d_h, d_c: expected at least one of them"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), REFUSED, ids=[message for *_, message in REFUSED])
def test_what_makes_no_sense_is_refused_by_name(wrong: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        wrong()
