"""Forests: what is read, in which order, and what is refused."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import numpy as np
import pytest
from checks import arrays, assert_same_bits
from hypothesis import given
from hypothesis import strategies as st
from trees import Node, as_lists, as_nested, as_text, child_lists, height, nodes, postorder

import recurra
from recurra import Forest

ARRAYS = (
    "children",
    "offsets",
    "parents",
    "heights",
    "roots",
    "leaves",
    "trees",
    "sizes",
    "lengths",
    "order",
    "fronts",
)
FORESTS = st.lists(nodes(), min_size=1, max_size=4)


def everything(forest: Forest) -> list[Any]:
    return [getattr(forest, name) for name in ARRAYS]


def assert_same_forest(actual: Forest, expected: Forest) -> None:
    assert_same_bits(arrays(everything(actual)), arrays(everything(expected)))
    assert (actual.tokens, actual.labels) == (expected.tokens, expected.labels)


@given(FORESTS)
def test_everything_is_as_a_recursion_says(trees: list[Node]) -> None:
    forest, all_nodes = (
        Forest.nested([as_nested(tree) for tree in trees]),
        [n for tree in trees for n in postorder(tree)],
    )
    assert as_lists(forest) == child_lists(trees)
    assert forest.heights.tolist() == [height(node) for node in all_nodes]
    assert forest.tokens == tuple(node.word for node in all_nodes)
    assert forest.leaves.tolist() == [at for at, node in enumerate(all_nodes) if not node.children]
    sizes = [len(postorder(tree)) for tree in trees]
    assert forest.sizes.tolist() == sizes
    assert forest.roots.tolist() == (np.cumsum(sizes) - 1).tolist()
    assert forest.trees.tolist() == np.repeat(np.arange(len(trees)), sizes).tolist()
    assert forest.lengths.tolist() == [sum(not node.children for node in postorder(tree)) for tree in trees]
    assert (len(forest), forest.num_nodes) == (len(trees), len(all_nodes))
    want = [-1] * len(all_nodes)
    for parent, children in enumerate(as_lists(forest)):
        for child in children:
            want[child] = parent
    assert forest.parents.tolist() == want


@given(FORESTS)
def test_order_goes_by_height_and_fronts_bound_the_heights(trees: list[Node]) -> None:
    forest = Forest.nested([as_nested(tree) for tree in trees])
    heights = forest.heights.tolist()
    assert forest.order.tolist() == sorted(range(forest.num_nodes), key=lambda node: (heights[node], node))
    for level, (start, end) in enumerate(zip(forest.fronts[:-1], forest.fronts[1:], strict=True)):
        assert set(forest.heights[forest.order[start:end]].tolist()) == {level}
    assert forest.fronts[-1] == forest.num_nodes


@given(FORESTS, st.booleans())
def test_text_nested_tuples_and_child_lists_make_the_same_forest(trees: list[Node], labels: bool) -> None:
    found = [node for tree in trees for node in postorder(tree)]
    tokens, marks = [node.word for node in found], [node.label for node in found] if labels else None
    want = Forest(child_lists(trees), tokens, marks)
    assert_same_forest(Forest.parse("\n".join(as_text(tree, labels) for tree in trees), labels=labels), want)
    if not labels:
        assert_same_forest(Forest.nested([as_nested(tree) for tree in trees]), want)


@given(FORESTS)
def test_a_concatenation_is_the_forest_of_all_trees(trees: list[Node]) -> None:
    texts = [as_text(tree, True) for tree in trees]
    parts = [Forest.parse(text, labels=True) for text in texts]
    assert_same_forest(Forest.concatenate(parts), Forest.parse(" ".join(texts), labels=True))
    assert_same_forest(Forest.concatenate([Forest.concatenate(parts[:2]), *parts[2:]]), Forest.concatenate(parts))


@given(FORESTS, st.randoms())
def test_any_order_with_children_first_keeps_the_trees(trees: list[Node], random: Any) -> None:
    lists = child_lists(trees)
    todo = list(range(len(lists)))
    new: dict[int, int] = {}
    while todo:
        ready = [node for node in todo if all(child in new for child in lists[node])]
        node = random.choice(ready)
        new[node] = len(new)
        todo.remove(node)
    shuffled: list[list[int]] = [[] for _ in lists]
    for node, children in enumerate(lists):
        shuffled[new[node]] = [new[child] for child in children]
    forest, want = Forest(shuffled), Forest(lists)
    at = [new[node] for node in range(len(lists))]
    assert forest.heights[at].tolist() == want.heights.tolist()
    same_tree = forest.trees[at][:, None] == forest.trees[at]
    assert same_tree.tolist() == (want.trees[:, None] == want.trees).tolist()
    assert sorted(forest.sizes.tolist()) == sorted(want.sizes.tolist())
    assert set(forest.roots.tolist()) == {new[root] for root in want.roots.tolist()}


def test_children_may_be_a_table_and_a_place_may_be_empty() -> None:
    table = np.array([[-1, -1], [-1, -1], [0, -1], [-1, 1], [2, 3]])
    forest = Forest(table)
    assert as_lists(forest) == [[], [], [0], [-1, 1], [2, 3]]
    assert_same_forest(forest, Forest([[], [-1], [0, -1, -1], (-1, 1), [2, 3]]))
    assert forest.heights.tolist() == [0, 0, 1, 1, 2]
    other = Forest.concatenate([Forest([[]]), forest])
    assert as_lists(other) == [[], [], [], [1], [-1, 2], [3, 4]]
    assert other.roots.tolist() == [0, 5]


def test_a_forest_copies_what_it_is_given_and_cannot_be_written() -> None:
    table = np.array([[-1], [0]])
    forest = Forest(table)
    table[:] = -1
    assert forest.parents.tolist() == [1, -1]
    for name in ARRAYS:
        with pytest.raises(ValueError, match="read-only"):
            getattr(forest, name)[...] = 0
    with pytest.raises(AttributeError, match="fixed"):
        forest.roots = np.zeros(1, np.int64)


def test_it_pickles_and_copies() -> None:
    forest = Forest.parse("(3 (2 It) (4 (2 's) good)) (1 no)", labels=True)
    for other in (pickle.loads(pickle.dumps(forest)), copy.deepcopy(forest), copy.copy(forest)):
        assert_same_forest(other, forest)
        with pytest.raises(ValueError, match="read-only"):
            other.heights[:] = 0


def test_examples_of_treebanks() -> None:
    first = Forest.parse("(3 (2 It) (4 (4 's) good))", labels=True)
    assert (first.tokens, first.labels) == (("It", "'s", "good", None, None), ("2", "4", None, "4", "3"))
    assert as_lists(first) == [[], [], [], [1, 2], [0, 3]]
    second = Forest.parse("( (S (NP (PRP I)) (VP go)))", labels=True)
    assert second.labels == ("PRP", "NP", "VP", "S", None)
    assert second.tokens == ("I", None, "go", None, None)
    assert as_lists(second) == [[], [0], [], [1, 2], [3]]


def test_trees_may_be_deeper_than_the_stack() -> None:
    depth = 20_000
    nested: Any = "x"
    for _ in range(depth):
        nested = [nested, "y"]
    forest = Forest.nested([nested])
    assert (forest.heights.max(), forest.num_nodes) == (depth, 2 * depth + 1)
    assert_same_forest(Forest.parse("(" * depth + "x" + " y)" * depth), forest)


def test_tokens_become_indices_of_all_nodes_or_of_the_leaves() -> None:
    forest = Forest.parse("((not bad) (not good))")
    vocabulary = {"not": 3, "bad": 1, "good": 2}
    assert forest.token_indices(vocabulary).tolist() == [3, 1, 3, 2]
    assert forest.token_indices({"not": 3}, unknown=0).tolist() == [3, 0, 3, 0]
    everywhere = Forest([[], [], [0, 1]], tokens=[4, "5", 0])
    assert everywhere.token_indices().tolist() == [4, 5, 0]
    assert everywhere.token_indices().dtype == np.int64
    with pytest.raises(ValueError, match="tokens: expected symbols of the vocabulary, got 'good'"):
        forest.token_indices({"not": 3, "bad": 1})
    with pytest.raises(TypeError, match="tokens: expected whole numbers without a vocabulary, got 'not'"):
        forest.token_indices()
    for tokens in ([None, "a", None], ["a", "b", None, None], [None, None, "a"]):
        with pytest.raises(ValueError, match="tokens: expected them at all nodes or at all leaves only"):
            Forest([[], [], [0, 1], []][: len(tokens)], tokens).token_indices({"a": 0, "b": 1})


def test_labels_become_indices_of_all_nodes() -> None:
    forest = Forest.parse("(good (bad not) so)", labels=True)
    assert forest.label_indices({"bad": 0, "good": 1}).tolist() == [0, -1, 1]
    assert forest.label_indices({"bad": 5}, unknown=7).tolist() == [5, -1, 7]
    assert Forest([[], [0]]).label_indices().tolist() == [-1, -1]
    with pytest.raises(TypeError, match="labels: expected whole numbers"):
        forest.label_indices()
    with pytest.raises(ValueError, match=re.escape("vocabulary['bad']: expected at least 0, got -1")):
        forest.label_indices({"bad": -1, "good": 1})


def contains_itself() -> list[Any]:
    tree: list[Any] = ["a"]
    tree.append(["b", tree])
    return tree


REFUSED: list[tuple[Any, type[Exception], str]] = [
    (lambda: Forest([]), ValueError, "children: expected at least one node, got none"),
    (lambda: Forest(np.zeros((0, 2), int)), ValueError, "children: expected at least one node, got none"),
    (lambda: Forest([[0]]), ValueError, "children: expected trees, got a cycle: 0 -> 0"),
    (lambda: Forest([[], [3], [1], [2, 0]]), ValueError, "children: expected trees, got a cycle: 3 -> 1 -> 2 -> 3"),
    (lambda: Forest([[1], []]), ValueError, "children: expected children before their parents, got child 1 of node 0"),
    (lambda: Forest([[], [0, 0]]), ValueError, "every node once at most, got node 0 as a child of [1, 1]"),
    (lambda: Forest([[], [0], [0]]), ValueError, "every node once at most, got node 0 as a child of [1, 2]"),
    (lambda: Forest([[], [2]]), ValueError, "children: expected indices in 0..1, or -1 for none, got 2"),
    (lambda: Forest([[], [-2]]), ValueError, "children: expected indices in 0..1, or -1 for none, got -2"),
    (lambda: Forest([[], [0.0]]), TypeError, "children: expected integers"),  # type: ignore[list-item]
    (lambda: Forest([[], [False]]), TypeError, "children: expected integers"),
    (lambda: Forest([[], 0]), TypeError, "children: expected a list of indices for node 1, got 0"),  # type: ignore[list-item]
    (lambda: Forest(np.zeros(3, int)), ValueError, "children: expected shape [N, K], got [3]"),
    (lambda: Forest(np.zeros((3, 1))), TypeError, "children: expected integers, got float64"),
    (lambda: Forest("(a b)"), TypeError, "children: expected a NumPy or DLPack array, got str"),  # type: ignore[arg-type]
    (lambda: Forest([[]], tokens=[]), ValueError, "tokens: expected 1, one for each node, got 0"),
    (lambda: Forest([[]], tokens="a"), TypeError, "tokens: expected a list, one for each node, got 'a'"),
    (lambda: Forest([[]], labels=[1.5]), TypeError, "labels: expected a string, an integer or None, got 1.5"),  # type: ignore[list-item]
    (lambda: Forest([[]], labels=[True]), TypeError, "labels: expected a string, an integer or None, got True"),
    (lambda: Forest.nested([]), ValueError, "trees: expected at least one tree, got none"),
    (lambda: Forest.nested("ab"), TypeError, "trees: expected a list of trees, got 'ab'"),
    (lambda: Forest.nested(3), TypeError, "trees: expected a list of trees, got 3"),  # type: ignore[arg-type]
    (lambda: Forest.nested(["a", ("b", [])]), ValueError, "trees[1]: expected nodes with children, got an empty list"),
    (lambda: Forest.nested([()]), ValueError, "trees[0]: expected nodes with children, got an empty tuple"),
    (lambda: Forest.nested([contains_itself()]), ValueError, "trees[0]: expected a tree, got a cycle"),
    (lambda: Forest.nested([("a", 1.5)]), TypeError, "trees[0]: token: expected a string, an integer or None"),
    (lambda: Forest.parse(""), ValueError, "text: expected at least one tree, got none"),
    (lambda: Forest.parse(["(a)"]), TypeError, "text: expected a string, got ['(a)']"),  # type: ignore[arg-type]
    (lambda: Forest.parse("(a)", labels=1), TypeError, "labels: expected True or False, got 1"),  # type: ignore[arg-type]
    (lambda: Forest.parse("(a b"), ValueError, "text: expected ')' for the '(' at position 0, got the end"),
    (lambda: Forest.parse("(a) b)"), ValueError, "text: expected '(' at position 4, got 'b'"),
    (lambda: Forest.parse("(a))"), ValueError, "text: expected '(' at position 3, got ')'"),
    (lambda: Forest.parse("(a ())"), ValueError, "text: expected a tree at position 3, got empty brackets"),
    (
        lambda: Forest.parse("(1 (2))", labels=True),
        ValueError,
        "text: expected a tree at position 3, got label '2' alone",
    ),
    (lambda: Forest.concatenate([]), ValueError, "forests: expected at least one, got none"),
    (lambda: Forest.concatenate([Forest([[]]), 1]), TypeError, "forests: expected a list of forests"),  # type: ignore[list-item]
    (lambda: Forest.concatenate(3), TypeError, "forests: expected a list of forests, got 3"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("wrong", "error", "message"), REFUSED, ids=[message for *_, message in REFUSED])
def test_what_is_no_forest_is_refused_by_name(wrong: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        wrong()


def test_it_says_what_it_is() -> None:
    assert repr(recurra.Forest.parse("(a b) (c)")) == "Forest(2 trees, 4 nodes)"
