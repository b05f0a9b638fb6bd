"""A match-LSTM tells whether a list of adjectives follows from another, contradicts it, or says something new.

Pairs are generated: a premise of adjectives, each of another quality, and a hypothesis of fewer. These are words of the
premise or their synonyms (entailment), or all but one are, which is an antonym of a word there (contradiction) or about
a quality that is not there (neutral).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import recurra
from recurra import training
from recurra.demo.optimise import Arrays, Layer
from recurra.demo.variants import common
from recurra.demo.variants.common import Array, Batch, Classifier, Model

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUMMARY = "MatchLSTM: whether adjectives follow from others, with the attention that finds out"
QUALITIES = """
big large small little, hot warm cold cool, fast quick slow sluggish, happy glad sad gloomy, rich wealthy poor needy,
old ancient new modern, loud noisy quiet silent, bright sunny dark dim, strong sturdy weak frail, wet damp dry arid,
hard firm soft fluffy, clean spotless dirty filthy, brave bold timid fearful, smart clever dull foolish,
full crowded empty vacant, easy simple difficult tricky, near close far distant, thick fat thin slim,
sharp pointed blunt rounded, open unlocked shut locked
"""
WORDS = QUALITIES.replace(",", " ").split()  # four of each quality: two, then two of the opposite
LABELS = ("entailment", "contradiction", "neutral")
SEPARATOR = len(WORDS)
MIN_ACCURACY = 0.95  # of the match-LSTM, after as many epochs as Settings has; a shorter training need not reach it


@dataclass(frozen=True)
class Settings:
    """Sizes and the recipe."""

    premise: int = 6
    hypothesis: int = 3
    pairs: int = 40_000
    test: int = 4_000
    embedding: int = 32
    hidden: int = 32
    batch: int = 64
    rate: float = 5e-3
    epochs: int = 7
    seed: int = 0


class Pairs(NamedTuple):
    """Words by number, premise [M, B] and hypothesis [T, B]; labels [B]."""

    premise: Array
    hypothesis: Array
    labels: Array

    def some(self, rows: Array) -> Pairs:
        """Those of some rows."""
        return Pairs(self.premise[:, rows], self.hypothesis[:, rows], self.labels[rows])


def drawn(count: int, settings: Settings, seed: int) -> Pairs:
    """So many pairs, a third of each label."""
    rng, rows = np.random.default_rng(seed), np.arange(count)
    qualities = rng.permuted(np.tile(np.arange(len(WORDS) // 4), (count, 1)), axis=1)
    there, elsewhere = qualities[:, : settings.premise], qualities[:, settings.premise]
    opposite = rng.integers(0, 2, there.shape)
    premise = 4 * there + 2 * opposite + rng.integers(0, 2, there.shape)
    chosen = rng.permuted(np.tile(np.arange(settings.premise), (count, 1)), axis=1)[:, : settings.hypothesis]
    hypothesis = 2 * (np.take_along_axis(premise, chosen, 1) // 2) + rng.integers(0, 2, chosen.shape)
    labels, odd = rng.integers(0, 3, count), rng.integers(0, settings.hypothesis, count)
    hypothesis[rows, odd] = np.choose(
        labels, [hypothesis[rows, odd], hypothesis[rows, odd] ^ 2, 4 * elsewhere + rng.integers(0, 4, count)]
    )
    return Pairs(premise.T.copy(), hypothesis.T.copy(), labels)


class Reader:
    """Embeddings, a match-LSTM, and an affine map of its last output."""

    def __init__(self, settings: Settings) -> None:
        rng = np.random.default_rng(settings.seed)
        self.embedding = recurra.Embedding(len(WORDS), settings.embedding, seed=rng)
        self.layer = recurra.MatchLSTM(settings.embedding, settings.hidden, rng=rng)
        self.head = recurra.Linear(settings.hidden, len(LABELS), seed=rng)
        self.layers: Mapping[str, Layer] = {"embedding": self.embedding, "layer": self.layer, "head": self.head}

    def gradients(self, batch: Pairs) -> tuple[float, dict[str, Arrays]]:
        """Of the mean cross-entropy."""
        premise, premise_tape = self.embedding.forward(batch.premise)
        hypothesis, hypothesis_tape = self.embedding.forward(batch.hypothesis)
        _, last, tape = self.layer.forward(premise, hypothesis)
        logits, head_tape = self.head.forward(last)
        loss, d_logits = training.softmax_cross_entropy(logits, batch.labels)
        head = head_tape.backward(d_logits)
        layer = tape.backward(d_last=head.x)
        twice = (premise_tape.backward(layer.premise), hypothesis_tape.backward(layer.hypothesis))
        embedding = {"weight": twice[0].params["weight"] + twice[1].params["weight"]}
        return loss, {"embedding": embedding, "layer": layer.params, "head": head.params}

    def read(self, pairs: Pairs) -> tuple[Array, Array]:
        """The likeliest label of each pair [B], and the attention [T, B, M+1]."""
        words = self.embedding(pairs.premise), self.embedding(pairs.hypothesis)
        _, last, attention = self.layer(*words, return_attention=True)
        return np.asarray(self.head(last).argmax(-1)), attention[0]

    def score(self, test: Pairs) -> float:
        """Share of right guesses."""
        return float((self.read(test)[0] == test.labels).mean())


class Joined(Classifier):
    """A plain network over the premise, a separator and the hypothesis."""

    def gradients(self, batch: Any) -> tuple[float, dict[str, Arrays]]:
        return super().gradients(joined(batch))

    def score(self, test: Any) -> float:
        return super().score(joined(test))


def joined(pairs: Pairs) -> Batch:
    """Both sequences as one."""
    between = np.full((1, len(pairs.labels)), SEPARATOR)
    return Batch(np.concatenate([pairs.premise, between, pairs.hypothesis]), pairs.labels)


def plain(parameters: int, settings: Settings) -> dict[str, Joined]:
    """Networks with about as many parameters."""

    def maker(cell: Callable[..., Any]) -> Callable[[int], Joined]:
        sizes = len(LABELS), len(WORDS) + 1, settings.seed
        return lambda hidden: Joined(cell, settings.embedding, hidden, *sizes)

    return {name: common.nearest(maker(cell), parameters) for name, cell in common.PLAIN.items()}


def run(path: Path, epochs: int | None, settings: Settings | None = None) -> int:
    """Print the demo and draw the plot. Returns 0, or 1 when the match-LSTM has less than MIN_ACCURACY."""
    settings, start = settings or Settings(), time.perf_counter()
    train, test = (drawn(count, settings, seed) for seed, count in enumerate((settings.pairs, settings.test)))
    reader, count = Reader(settings), epochs or settings.epochs
    print(f"{reader.layer} reads {settings.pairs} pairs of adjectives, {count} epochs.")
    rows = common.shuffled(settings.pairs, settings.batch, settings.seed)

    def batches(epoch: int) -> Iterator[Pairs]:
        return (train.some(some) for some in rows(epoch))

    models: dict[str, Model] = {"match": reader, **plain(common.parameter_count(reader), settings)}
    results = common.compare(models, batches, test, count, settings.rate)
    example = test.some(np.flatnonzero(test.labels == LABELS.index("contradiction"))[:1])
    guess, attention = reader.read(example)

    def panel(axis: Axes) -> None:
        axis.grid(visible=False)
        axis.imshow(attention[:, 0].T, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axis.set_xticks(range(settings.hypothesis), [WORDS[word] for word in example.hypothesis[:, 0]], rotation=30)
        axis.set_yticks(range(settings.premise + 1), [*(WORDS[word] for word in example.premise[:, 0]), "NULL"])
        axis.set(xlabel="hypothesis", ylabel="premise", title=f"attention; read as {LABELS[guess[0]]}")

    common.finish(path, results, margin=common.chance_margin(results, settings.test), panels=[panel])
    print(f"{time.perf_counter() - start:.1f} s in all.")
    if results[0].score >= MIN_ACCURACY or count < Settings.epochs:
        return 0
    print(f"FAILED: the match-LSTM is expected to read {MIN_ACCURACY:.0%} of the pairs, got {results[0].score:.1%}")
    return 1
