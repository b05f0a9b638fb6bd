"""Trees: many of them as one batch, from child indices, nested tuples or bracketed text."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ._arrays import as_array, vector
from ._fixed import Fixed
from ._options import flag, integer, items, shown

if TYPE_CHECKING:
    from ._arrays import Array, Input

__all__ = ["Forest"]

Symbol: TypeAlias = str | int | None  # a token or a label; None where there is none


class Forest(Fixed):
    """Trees, one or many, whose nodes are numbered together so that children come before their parents.

        >>> forest = recurra.Forest([[], [], [0, 1], [], [2, 3]], tokens=["not", "bad", None, "!", None])
        >>> forest
        Forest(1 tree, 5 nodes)
        >>> forest.roots, forest.leaves, forest.heights
        (array([4]), array([0, 1, 3]), array([0, 0, 1, 0, 2]))
        >>> forest.token_indices({"not": 0, "bad": 1, "!": 2})
        array([0, 1, 2])

    `Forest.nested` makes the same one of `[(("not", "bad"), "!")]` and `Forest.parse` of `"((not bad) !)"`. Both number
    nodes in postorder, so leaves in the order of the words. A forest never changes.

    Args:
        children: for each of N >= 1 nodes the indices of its children, all of them below its own; a list of lists, or
            integers [N, K]. -1 stands for a child that is absent, which matters where children have places: [-1, 3]
            has a right child only. A node with no children is a leaf, one that is nobody's child a root.
        tokens: for each node a string, an integer or None; default no tokens.
        labels: the same, for what a node is to be classified as; default no labels.

    Attributes, int64 arrays that cannot be written:
        children, offsets: [E] and [N + 1]; the children of node n are children[offsets[n] : offsets[n + 1]].
        parents: [N], -1 for a root.
        heights: [N], 0 for a leaf, otherwise one more than the highest child's.
        roots: [R], ascending, a root for each tree.
        leaves: [L], ascending.
        trees: [N], to which tree a node belongs: a position in `roots`.
        sizes: [R], nodes of each tree.
        lengths: [R], leaves of each tree.
        order: [N], the nodes by height, those of one height ascending: the order in which they are computed.
        fronts: [heights.max() + 2]; the nodes of height k are order[fronts[k] : fronts[k + 1]].

    And tuples of N:
        tokens, labels: as given.

    Raises:
        TypeError: something is not of the kind that is expected.
        ValueError: no nodes, an index out of range, a cycle, a child that does not come before its parent, a child of
            two nodes or twice of one, or tokens or labels of another number.
    """

    children: Array
    offsets: Array
    parents: Array
    heights: Array
    roots: Array
    leaves: Array
    trees: Array
    sizes: Array
    lengths: Array
    order: Array
    fronts: Array
    tokens: tuple[Symbol, ...]
    labels: tuple[Symbol, ...]

    def __init__(
        self,
        children: Sequence[Sequence[int]] | Input,
        tokens: Iterable[Symbol] | None = None,
        labels: Iterable[Symbol] | None = None,
    ) -> None:
        offsets, flat = _child_lists(children)
        count = len(offsets) - 1
        parents = _parents(offsets, flat)
        heights, trees = _heights_and_trees(parents)
        self._keep(
            offsets, flat, parents, heights, trees, _symbols("tokens", tokens, count), _symbols("labels", labels, count)
        )

    def _keep(
        self,
        offsets: Array,
        children: Array,
        parents: Array,
        heights: Array,
        trees: Array,
        tokens: tuple[Symbol, ...],
        labels: tuple[Symbol, ...],
    ) -> None:
        roots, leaves = np.flatnonzero(parents < 0), np.flatnonzero(heights == 0)
        arrays = {
            "offsets": offsets,
            "children": children,
            "parents": parents,
            "heights": heights,
            "trees": trees,
            "roots": roots,
            "leaves": leaves,
            "sizes": np.bincount(trees, minlength=len(roots)),
            "lengths": np.bincount(trees[leaves], minlength=len(roots)),
            "order": np.argsort(heights, kind="stable"),
            "fronts": np.concatenate(([0], np.cumsum(np.bincount(heights)))),
        }
        for array in arrays.values():
            array.flags.writeable = False
        self.__dict__.update(arrays, tokens=tokens, labels=labels)

    @classmethod
    def nested(cls, trees: Iterable[Any]) -> Forest:
        """A forest of nested tuples or lists; what is neither is a leaf's token: a string, an integer or None.

            >>> recurra.Forest.nested([(("not", "bad"), "!"), "yes"]).tokens
            ('not', 'bad', None, '!', None, 'yes')

        Args:
            trees: the trees.

        Raises:
            TypeError: something else than tuples, lists, strings, integers and None.
            ValueError: no trees, an empty tuple or list, or a list that contains itself.
        """
        builder = _Builder()
        for number, tree in enumerate(items("trees", trees, " of trees")):
            builder.add_nested(f"trees[{number}]", tree)
        if not builder.children:
            raise ValueError("trees: expected at least one tree, got none")
        return cls(builder.children, builder.tokens)

    @classmethod
    def parse(cls, text: str, *, labels: bool = False) -> Forest:
        """A forest of any number of bracketed trees, as treebanks have them a line each.

            >>> recurra.Forest.parse("((not bad) !) (yes)").tokens
            ('not', 'bad', None, '!', None, 'yes')
            >>> forest = recurra.Forest.parse("(3 (2 It) (4 (2 's) good))", labels=True)
            >>> forest.tokens
            ('It', "'s", 'good', None, None)
            >>> forest.label_indices()
            array([ 2,  2, -1,  4,  3])

        Brackets hold the children of a node, words are leaves, and a word alone in brackets is a leaf too.

        Args:
            text: trees in round brackets; white space separates words and means nothing else.
            labels: the first word in brackets is the node's label, as in the Stanford Sentiment and Penn treebanks:
                "(2 It)" is a leaf of label 2.

        Raises:
            TypeError: not a string.
            ValueError: no tree, empty brackets, a label with nothing behind it, brackets that do not match, or a word
                outside of them, with its position.
        """
        if not isinstance(text, str):
            raise TypeError(f"text: expected a string, got {shown(text)}")
        builder = _Builder()
        builder.add_text(text, flag("labels", labels))
        if not builder.children:
            raise ValueError("text: expected at least one tree, got none")
        return cls(builder.children, builder.tokens, builder.labels)

    @classmethod
    def concatenate(cls, forests: Iterable[Forest]) -> Forest:
        """One forest of the trees of several, in their order: batches are made so.

            >>> a, b = recurra.Forest.parse("(not bad)"), recurra.Forest.parse("(yes)")
            >>> recurra.Forest.concatenate([a, b]).roots
            array([2, 3])

        Raises:
            TypeError: something is not a forest.
            ValueError: there are none.
        """
        parts = items("forests", forests, " of forests")
        if not all(isinstance(part, Forest) for part in parts):
            raise TypeError(f"forests: expected a list of forests, got {shown(forests)}")
        if not parts:
            raise ValueError("forests: expected at least one, got none")
        nodes = _starts([len(part.parents) for part in parts])
        edges = _starts([len(part.children) for part in parts])
        roots = _starts([len(part) for part in parts])

        def moved(name: str, starts: Array) -> Array:
            arrays = [getattr(part, name) for part in parts]
            return np.concatenate(
                [np.where(array < 0, -1, array + start) for array, start in zip(arrays, starts[:-1], strict=True)]
            )

        forest: Forest = cls.__new__(cls)
        forest._keep(
            np.concatenate(
                [part.offsets[:-1] + start for part, start in zip(parts, edges[:-1], strict=True)] + [edges[-1:]]
            ),
            moved("children", nodes),
            moved("parents", nodes),
            np.concatenate([part.heights for part in parts]),
            moved("trees", roots),
            tuple(itertools.chain.from_iterable(part.tokens for part in parts)),
            tuple(itertools.chain.from_iterable(part.labels for part in parts)),
        )
        return forest

    @property
    def num_nodes(self) -> int:
        """N, nodes of all trees.

        >>> recurra.Forest([[], [], [0, 1]]).num_nodes
        3
        """
        return len(self.parents)

    def token_indices(self, vocabulary: Mapping[Any, int] | None = None, *, unknown: int | None = None) -> Array:
        """The tokens as int64, for an Embedding whose rows are a TreeLSTM's input.

            >>> forest = recurra.Forest.parse("((not bad) !)")
            >>> recurra.Embedding(10, 4)(forest.token_indices({"not": 7, "bad": 8}, unknown=0)).shape
            (3, 4)

        Args:
            vocabulary: tokens to indices >= 0; default: the tokens are integers, or strings of digits.
            unknown: index >= 0 of tokens that `vocabulary` lacks; default: they are an error.

        Returns:
            [N] if all nodes have a token, [L] if the leaves and no others have.

        Raises:
            ValueError: neither is so, an unknown token, an index that int64 does not hold, or `unknown` without a
                vocabulary.
            TypeError: a token that is no number, without a vocabulary; a vocabulary that is no mapping.
        """
        missing = [node for node, token in enumerate(self.tokens) if token is None]
        nodes = self.leaves if missing else np.arange(self.num_nodes)
        if missing and missing != np.flatnonzero(self.heights).tolist():
            raise ValueError(f"tokens: expected them at all nodes or at all leaves only, got none at {shown(missing)}")
        return _indices("tokens", [self.tokens[node] for node in nodes], vocabulary, unknown)

    def label_indices(self, vocabulary: Mapping[Any, int] | None = None, *, unknown: int | None = None) -> Array:
        """The labels as int64 [N], -1 for a node without one.

            >>> recurra.Forest.parse("(good (bad not) (bad bad))", labels=True).label_indices({"bad": 0, "good": 1})
            array([0, 0, 1])

        Args:
            vocabulary, unknown: as of `token_indices`.

        Raises:
            TypeError, ValueError: as there.
        """
        found = np.full(self.num_nodes, -1)
        nodes = [node for node, label in enumerate(self.labels) if label is not None]
        found[nodes] = _indices("labels", [self.labels[node] for node in nodes], vocabulary, unknown)
        return found

    def __len__(self) -> int:
        """R, the number of trees."""
        return len(self.roots)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("offsets", "children", "tokens", "labels")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        flat, offsets = state["children"].tolist(), state["offsets"].tolist()
        lists = [flat[start:end] for start, end in itertools.pairwise(offsets)]
        self.__init__(lists, state["tokens"], state["labels"])  # type: ignore[misc]  # checked as any others

    def __repr__(self) -> str:
        return f"Forest({_counted(len(self), 'tree')}, {_counted(self.num_nodes, 'node')})"


class _Builder:
    """Nodes in postorder, from trees of other forms. No recursion: trees may be deeper than Python's stack."""

    def __init__(self) -> None:
        self.children: list[list[int]] = []
        self.tokens: list[Symbol] = []
        self.labels: list[Symbol] = []

    def add(self, children: list[int], token: Symbol, label: Symbol = None) -> int:
        self.children.append(children)
        self.tokens.append(token)
        self.labels.append(label)
        return len(self.children) - 1

    def add_nested(self, name: str, tree: Any) -> None:
        """A leaf, or tuples and lists of trees."""
        done: list[int] = []  # of an imaginary node above the tree
        path: list[tuple[Any, Any, list[int]]] = []  # nodes begun: themselves, children to come, children made
        on_path: set[int] = set()
        item = tree
        while True:
            if isinstance(item, (tuple, list)):
                if not item:
                    raise ValueError(f"{name}: expected nodes with children, got an empty {type(item).__name__}")
                if id(item) in on_path:
                    raise ValueError(f"{name}: expected a tree, got a cycle: a list that contains itself")
                on_path.add(id(item))
                path.append((item, iter(item), []))
            else:
                (path[-1][2] if path else done).append(self.add([], _symbol(f"{name}: token", item)))
            while path:
                node, rest, made = path[-1]
                try:
                    item = next(rest)
                    break
                except StopIteration:
                    path.pop()
                    on_path.remove(id(node))
                    (path[-1][2] if path else done).append(self.add(made, None))
            if not path:
                return

    def add_text(self, text: str, labelled: bool) -> None:
        """Trees in brackets."""
        path: list[_Bracket] = []
        for match in re.finditer(r"[()]|[^()\s]+", text):
            word, where = match.group(), match.start()
            if word == "(":
                path.append(_Bracket(where))
            elif not path:
                raise ValueError(f"text: expected '(' at position {where}, got {shown(word)}")
            elif word == ")":
                node = self._closed(path.pop(), labelled)
                if path:
                    path[-1].items.append(node)
            else:
                path[-1].items.append(word)
                if not labelled or len(path[-1].items) > 1:
                    self._add_word(path[-1])
        if path:
            raise ValueError(f"text: expected ')' for the '(' at position {path[-1].start}, got the end")

    def _add_word(self, bracket: _Bracket) -> None:
        bracket.items[-1] = self.add([], bracket.items[-1])
        bracket.words += 1

    def _closed(self, bracket: _Bracket, labelled: bool) -> int:
        label, children = None, bracket.items
        if labelled and children and isinstance(children[0], str):
            label, children = children[0], children[1:]
        if not children:
            got = "empty brackets" if label is None else f"label {label!r} alone"
            raise ValueError(f"text: expected a tree at position {bracket.start}, got {got}")
        if len(children) == bracket.words == 1:  # a word alone is a leaf
            self.labels[children[0]] = label
            return int(children[0])
        return self.add(children, None, label)


class _Bracket:
    """An open one: where it is, its label and children so far, how many of them are words."""

    def __init__(self, start: int) -> None:
        self.start, self.words = start, 0
        self.items: list[Any] = []


def _child_lists(children: Any) -> tuple[Array, Array]:
    """Offsets and children, without absent ones behind the last child."""
    if isinstance(children, (list, tuple)):
        for node, row in enumerate(children):
            if not isinstance(row, (list, tuple, np.ndarray)):
                raise TypeError(f"children: expected a list of indices for node {node}, got {shown(row)}")
        counts = np.array([len(row) for row in children], np.int64)
        flat = vector("children", list(itertools.chain.from_iterable(children)), None).astype(np.int64)
    else:
        table = as_array("children", children)
        if table.dtype.kind not in "iu":
            raise TypeError(f"children: expected integers, got {table.dtype}")
        if table.ndim != 2:
            raise ValueError(f"children: expected shape [N, K], got {list(table.shape)}")
        counts = np.full(len(table), table.shape[1], np.int64)
        flat = table.astype(np.int64).reshape(-1)
    if not len(counts):
        raise ValueError("children: expected at least one node, got none")
    if flat.size and (flat.min() < -1 or flat.max() >= len(counts)):
        worst = flat.min() if flat.min() < -1 else flat.max()
        raise ValueError(f"children: expected indices in 0..{len(counts) - 1}, or -1 for none, got {worst}")
    owner = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(flat)) - np.repeat(_starts(counts)[:-1], counts)
    kept = np.zeros_like(counts)
    np.maximum.at(kept, owner[flat >= 0], place[flat >= 0] + 1)
    return _starts(kept), flat[place < kept[owner]]


def _parents(offsets: Array, children: Array) -> Array:
    """The parent of every node, -1 for roots, once it is clear that these are trees in order."""
    count = len(offsets) - 1
    present = children >= 0
    owner, children = np.repeat(np.arange(count), np.diff(offsets))[present], children[present]
    uses = np.bincount(children, minlength=count)
    if (uses > 1).any():
        node = int(uses.argmax())
        users = owner[children == node].tolist()
        raise ValueError(f"children: expected every node once at most, got node {node} as a child of {users}")
    parents = np.full(count, -1)
    parents[children] = owner
    if (children >= owner).any():
        at = int((children >= owner).argmax())
        child, parent = int(children[at]), int(owner[at])
        if cycle := _cycle(parents):
            raise ValueError(f"children: expected trees, got a cycle: {' -> '.join(map(str, cycle))}")
        raise ValueError(f"children: expected children before their parents, got child {child} of node {parent}")
    return parents


def _cycle(parents: Array) -> list[int]:
    """Nodes, the first of them again at the end, of which each is a child of the next; empty if there is no cycle."""
    above = parents.tolist()
    seen_from = [-1] * len(above)
    for start in range(len(above)):
        node = start
        while node >= 0 and seen_from[node] < 0:
            seen_from[node] = start
            node = above[node]
        if node >= 0 and seen_from[node] == start:
            cycle = [node]
            while len(cycle) == 1 or cycle[-1] != node:
                cycle.append(above[cycle[-1]])
            return cycle
    return []


def _heights_and_trees(parents: Array) -> tuple[Array, Array]:
    above, count = parents.tolist(), len(parents)
    heights, trees = [0] * count, [0] * count
    for node, parent in enumerate(above):
        if parent >= 0:
            heights[parent] = max(heights[parent], heights[node] + 1)
    tree = int((parents < 0).sum())
    for node in reversed(range(count)):
        if above[node] < 0:
            tree -= 1
            trees[node] = tree
        else:
            trees[node] = trees[above[node]]
    return np.array(heights, np.int64), np.array(trees, np.int64)


def _starts(counts: Sequence[int] | Array) -> Array:
    """Where each of several runs of these lengths begins, and where the last one ends."""
    return np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))


def _symbol(name: str, value: Any) -> Symbol:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return int(value)
    raise TypeError(f"{name}: expected a string, an integer or None, got {shown(value)}")


def _symbols(name: str, values: Any, count: int) -> tuple[Symbol, ...]:
    if values is None:
        return (None,) * count
    found = tuple(_symbol(name, value) for value in items(name, values, ", one for each node"))
    if len(found) != count:
        raise ValueError(f"{name}: expected {count}, one for each node, got {len(found)}")
    return found


def _indices(name: str, symbols: Sequence[Symbol], vocabulary: Mapping[Any, int] | None, unknown: int | None) -> Array:
    if vocabulary is None:
        if unknown is not None:
            raise ValueError(f"unknown: expected None without a vocabulary, got {shown(unknown)}")
        return np.array([_number(name, symbol) for symbol in symbols], np.int64)
    if not isinstance(vocabulary, Mapping):
        raise TypeError(f"vocabulary: expected a mapping of symbols to indices, got {shown(vocabulary)}")
    other = None if unknown is None else _index("unknown", unknown)
    found = []
    for symbol in symbols:
        try:
            index = vocabulary.get(symbol, other)
        except Exception as error:  # whatever the caller's mapping raises
            raise TypeError(f"vocabulary: cannot be read: {error!r}") from error
        if index is None:
            raise ValueError(f"{name}: expected symbols of the vocabulary, got {shown(symbol)}")
        found.append(_index(f"vocabulary[{shown(symbol)}]", index))
    return np.array(found, np.int64)


def _index(name: str, value: Any) -> int:
    index = integer(name, value, 0)
    if index >= 1 << 63:
        raise ValueError(f"{name}: expected an index that int64 holds, got {shown(index)}")
    return index


def _number(name: str, symbol: Symbol) -> int:
    if isinstance(symbol, str) and symbol.isascii() and symbol.isdigit() and len(symbol) < 19:
        symbol = int(symbol)
    if isinstance(symbol, int) and 0 <= symbol < 1 << 63:
        return symbol
    raise TypeError(f"{name}: expected whole numbers without a vocabulary, got {shown(symbol)}")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
