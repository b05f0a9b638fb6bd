"""What the tests of trees share: random trees as nested tuples, and what a recursion says about them."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from hypothesis import strategies as st

import recurra

WORDS = ("it", "'s", "good", "not", "bad", "7", "a-b", "é")


class Node(NamedTuple):
    """A tree: children, and a word where it is a leaf."""

    children: tuple[Any, ...]
    word: str | None
    label: str


def leaves() -> st.SearchStrategy[Node]:
    return st.builds(lambda word, label: Node((), word, label), st.sampled_from(WORDS), st.sampled_from("01234"))


def nodes(max_children: int = 4, max_leaves: int = 12) -> st.SearchStrategy[Node]:
    """Trees with up to that many children a node."""

    def inner(below: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        children = st.lists(below, min_size=1, max_size=max_children).map(tuple)
        return st.builds(lambda below, label: Node(below, None, label), children, st.sampled_from("01234"))

    return st.recursive(leaves(), inner, max_leaves=max_leaves)


def as_nested(node: Node) -> Any:
    return node.word if not node.children else tuple(as_nested(child) for child in node.children)


def as_text(node: Node, labels: bool, alone: bool = True) -> str:
    """As treebanks write it; without labels only a leaf that is alone needs brackets."""
    if not node.children:
        return f"({node.label} {node.word})" if labels else f"({node.word})" if alone else str(node.word)
    below = " ".join(as_text(child, labels, len(node.children) == 1) for child in node.children)
    return f"({node.label} {below})" if labels else f"({below})"


def height(node: Node) -> int:
    return 1 + max(map(height, node.children)) if node.children else 0


def postorder(node: Node) -> list[Node]:
    return [found for child in node.children for found in postorder(child)] + [node]


def child_lists(trees: list[Node]) -> list[list[int]]:
    """Child indices in postorder, by recursion."""
    lists: list[list[int]] = []

    def number(node: Node) -> int:
        made = [number(child) for child in node.children]
        lists.append(made)
        return len(lists) - 1

    for tree in trees:
        number(tree)
    return lists


def as_lists(forest: recurra.Forest) -> list[list[int]]:
    starts = forest.offsets.tolist()
    return [forest.children[a:b].tolist() for a, b in itertools.pairwise(starts)]
