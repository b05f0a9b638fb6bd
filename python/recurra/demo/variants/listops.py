"""Tree-LSTMs compute nested lists of digits, such as [MAX 2 9 [MIN 4 7 ] 0 ] (Nangia, Bowman 2018, arXiv:1804.06028).

The trees are given, as a parser would; LSTM and GRU read the same expressions symbol by symbol.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import recurra
from recurra import training
from recurra.demo.optimise import Arrays
from recurra.demo.variants import common
from recurra.demo.variants.common import Batch, Classifier

SUMMARY = "TreeLSTM: values of nested lists such as [MAX 2 9 [MIN 4 7 ] 0 ]"
OPERATIONS: dict[str, Callable[[list[int]], int]] = {
    "MAX": max,
    "MIN": min,
    "MED": lambda values: sorted(values)[len(values) // 2],
    "SUM": lambda values: sum(values) % 10,
}
SYMBOLS = {symbol: index for index, symbol in enumerate([*map(str, range(10)), *OPERATIONS, "]"])}
MAX_ARGUMENTS = 4
MIN_ACCURACY = 0.59  # of the N-ary Tree-LSTM, after as many epochs as Settings has


@dataclass(frozen=True)
class Settings:
    """Sizes and the recipe."""

    train: int = 24_000
    test: int = 4_000
    depth: int = 3
    inputs: int = 16
    hidden: int = 32  # of the N-ary Tree-LSTM; all others have as many parameters
    batch: int = 50
    rate: float = 1e-2
    epochs: int = 3
    seed: int = 0


class Expression(NamedTuple):
    """What is to be computed: as a tree, and as the symbols of its text."""

    tree: recurra.Forest
    symbols: list[int]
    value: int


def expression(rng: np.random.Generator, depth: int) -> Expression:
    """A random one, of lists at most `depth` deep in each other."""
    children: list[list[int]] = []
    tokens: list[int] = []
    symbols: list[int] = []

    def add(below: list[int], symbol: int) -> int:
        children.append(below)
        tokens.append(symbol)
        return len(tokens) - 1

    def draw(level: int) -> tuple[int, int]:
        if level < depth and (level == 0 or rng.random() < 0.5):
            name = list(OPERATIONS)[rng.integers(len(OPERATIONS))]
            symbols.append(SYMBOLS[name])
            parts = [draw(level + 1) for _ in range(rng.integers(2, MAX_ARGUMENTS + 1))]
            symbols.append(SYMBOLS["]"])
            return add([node for node, _ in parts], SYMBOLS[name]), OPERATIONS[name]([value for _, value in parts])
        digit = int(rng.integers(10))
        symbols.append(digit)
        return add([], digit), digit

    _, value = draw(0)
    return Expression(recurra.Forest(children, tokens), symbols, value)


class Trees(NamedTuple):
    """Expressions of a batch both ways."""

    forest: recurra.Forest
    text: Batch


def gathered(expressions: list[Expression]) -> Trees:
    """A batch; its text is padded with "]"."""
    lengths = np.array([len(item.symbols) for item in expressions])
    text = np.full((lengths.max(), len(expressions)), SYMBOLS["]"])
    for column, item in enumerate(expressions):
        text[: len(item.symbols), column] = item.symbols
    values = np.array([item.value for item in expressions])
    return Trees(recurra.Forest.concatenate([item.tree for item in expressions]), Batch(text, values, lengths))


class TreeClassifier:
    """An Embedding of every node's symbol, a TreeLSTM, and a Linear of the roots."""

    def __init__(self, kind: str, settings: Settings, hidden: int) -> None:
        rng = np.random.default_rng(settings.seed)
        children = MAX_ARGUMENTS if kind == "n_ary" else None
        self.embedding = recurra.Embedding(len(SYMBOLS), settings.inputs, seed=rng)
        self.layer = recurra.TreeLSTM(settings.inputs, hidden, kind, children, rng=rng)
        self.head = recurra.Linear(hidden, 10, seed=rng)
        self.layers: Mapping[str, Any] = {"embedding": self.embedding, "layer": self.layer, "head": self.head}

    def gradients(self, batch: Trees) -> tuple[float, dict[str, Arrays]]:
        """Of the mean cross-entropy."""
        x, embedding_tape = self.embedding.forward(batch.forest.token_indices())
        h, _, tape = self.layer.forward(batch.forest, x)
        logits, head_tape = self.head.forward(h[batch.forest.roots])
        loss, dlogits = training.softmax_cross_entropy(logits, batch.text.labels)
        head, d_h = head_tape.backward(dlogits), np.zeros_like(h)
        d_h[batch.forest.roots] = head.x
        layer = tape.backward(d_h)
        assert layer.x is not None
        embedding = embedding_tape.backward(layer.x)
        return loss, {"embedding": embedding.params, "layer": layer.params, "head": head.params}

    def score(self, test: Trees) -> float:
        """Share of right values."""
        h, _ = self.layer(test.forest, self.embedding(test.forest.token_indices()))
        return float((self.head(h[test.forest.roots]).argmax(-1) == test.text.labels).mean())


class TextClassifier:
    """A plain network on the text of the same batches."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier, self.layers = classifier, classifier.layers

    def gradients(self, batch: Trees) -> tuple[float, Mapping[str, Arrays]]:
        """Of the mean cross-entropy."""
        return self.classifier.gradients(batch.text)

    def score(self, test: Trees) -> float:
        """Share of right values."""
        return self.classifier.score(test.text)


def run(path: Path, epochs: int | None, settings: Settings | None = None) -> int:
    """Print the demo and draw the plot. Returns 0, or 1 when the N-ary Tree-LSTM has less than MIN_ACCURACY."""
    settings, start = settings or Settings(), time.perf_counter()
    rng = np.random.default_rng(settings.seed)
    data = [expression(rng, settings.depth) for _ in range(settings.train + settings.test)]
    n_ary = TreeClassifier("n_ary", settings, settings.hidden)
    parameters = common.parameter_count(n_ary)
    child_sum = common.nearest(lambda hidden: TreeClassifier("child_sum", settings, hidden), parameters)
    count = epochs or settings.epochs
    print(f"{settings.train} expressions to learn from, {settings.test} to test, {count} epochs.")
    plain = common.plain_classifiers(parameters, settings.inputs, 10, len(SYMBOLS), settings.seed)
    models: dict[str, Any] = {"Child-Sum": child_sum, "N-ary": n_ary}
    models |= {name: TextClassifier(model) for name, model in plain.items()}
    rows = common.shuffled(settings.train, settings.batch, settings.seed)

    def batches(epoch: int) -> Iterator[Trees]:
        for some in rows(epoch):
            yield gathered([data[row] for row in some])

    test = gathered(data[settings.train :])
    steps = len(rows(0))
    results = common.compare(models, batches, test, count, settings.rate, steps=steps)
    common.finish(path, results, margin=common.chance_margin(results, settings.test))
    print(f"{time.perf_counter() - start:.1f} s in all.")
    if results[1].score >= MIN_ACCURACY or count < Settings.epochs:
        return 0
    print(f"FAILED: the N-ary Tree-LSTM is expected to reach {MIN_ACCURACY:.0%}, got {results[1].score:.1%}")
    return 1
