"""A multiplicative LSTM as a character model of the text of `demo text`, the help topics that ship with CPython.

Each network is an Embedding, one recurrent layer and a Linear, trained by truncated backpropagation with carried state.
Every tenth topic is held out: the score is the bits that a character of them costs, in one pass. (Language models are
what Krause et al. 2016, arXiv:1609.07959, made this LSTM for.)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import recurra
from recurra import training
from recurra.demo.optimise import Arrays, Layer
from recurra.demo.text_data import CHUNK, Text, chunks, split_topics
from recurra.demo.variants import common
from recurra.demo.variants.common import Array, Measure

SUMMARY = "MultiplicativeLSTM: the next character of Python's help topics, in bits of held-out text"
BITS = Measure("bits", ".3f", more_is_better=False)
MAX_BITS = 1.7  # of the multiplicative LSTM, after as many epochs as Settings has


@dataclass(frozen=True)
class Settings:
    """Sizes and the recipe."""

    embedding: int = 64
    hidden: int = 160
    streams: int = 64
    steps: int = 16
    rate: float = 3e-3
    plain_rate: float = 1e-2  # of the LSTM and the GRU; the multiplicative LSTM diverges at 6e-3
    epochs: int = 5
    seed: int = 0


class Piece(NamedTuple):
    """Letters and those that follow them [T, B]; whether they are the first of the text."""

    letters: Array
    following: Array
    first: bool


class Speller:
    """Embedding, a recurrent layer that goes on from piece to piece, and a Linear."""

    def __init__(self, cell: Callable[..., Any], hidden: int, letters: int, settings: Settings) -> None:
        rng = np.random.default_rng(settings.seed)
        self.embedding = recurra.Embedding(letters, settings.embedding, seed=rng)
        self.layer = cell(settings.embedding, hidden, rng=rng)
        self.head = recurra.Linear(hidden, letters, seed=rng)
        self.layers: Mapping[str, Layer] = {"embedding": self.embedding, "layer": self.layer, "head": self.head}
        self._state: Any = None

    def gradients(self, batch: Piece) -> tuple[float, dict[str, Arrays]]:
        """Of the mean cross-entropy; they do not cross the state that the piece before this one left."""
        x, embedding_tape = self.embedding.forward(batch.letters)
        y, self._state, tape = self.layer.forward(x, None if batch.first else self._state)
        logits, head_tape = self.head.forward(y)
        loss, dlogits = training.softmax_cross_entropy(logits, batch.following)
        head = head_tape.backward(dlogits)
        layer = tape.backward(head.x)
        embedding = embedding_tape.backward(layer.x)
        return loss, {"embedding": embedding.params, "layer": layer.params, "head": head.params}

    def score(self, test: Array) -> float:
        """Bits per character of a text, of all but the first, in one pass."""
        state, nats = None, 0.0
        for letters, following in chunks(test, 1, CHUNK):
            y, state = self.layer(self.embedding(letters), state)
            nats += training.softmax_cross_entropy(self.head(y), following)[0] * len(letters)
        return nats / (len(test) - 1) / math.log(2)


def pieces(codes: Array, settings: Settings) -> Iterator[Piece]:
    """The text once."""
    for k, (letters, following) in enumerate(chunks(codes, settings.streams, settings.steps)):
        yield Piece(letters, following, k == 0)


def networks(letters: int, settings: Settings) -> dict[str, Speller]:
    """The multiplicative LSTM, and plain networks with about as many parameters."""

    def maker(cell: Callable[..., Any]) -> Callable[[int], Speller]:
        return lambda hidden: Speller(cell, hidden, letters, settings)

    variant = Speller(recurra.MultiplicativeLSTM, settings.hidden, letters, settings)
    count = common.parameter_count(variant)
    return {"multiplicative": variant} | {
        name: common.nearest(maker(cell), count) for name, cell in common.PLAIN.items()
    }


def run(path: Path, epochs: int | None, settings: Settings | None = None, text: Text | None = None) -> int:
    """Print the demo and draw the plot. Returns 0, or 1 when the multiplicative LSTM needs more than MAX_BITS."""
    settings, text, start = settings or Settings(), text or split_topics(), time.perf_counter()
    models, count = networks(len(text.alphabet), settings), epochs or settings.epochs
    print(
        f"{models['multiplicative'].layer} reads Python's help topics, {count} epochs: {len(text.train)} characters "
        f"to train on, {len(text.held_out)} held out, {len(text.alphabet)} different ones."
    )
    rates = dict.fromkeys(models, settings.plain_rate) | {"multiplicative": settings.rate}
    steps = sum(1 for _ in pieces(text.train, settings))
    results = common.compare(
        models, lambda epoch: pieces(text.train, settings), text.held_out, count, rates, steps=steps
    )
    common.finish(path, results, BITS)
    print(f"{time.perf_counter() - start:.1f} s in all.")
    if results[0].score <= MAX_BITS or count < Settings.epochs:
        return 0
    print(f"FAILED: the multiplicative LSTM is expected to need at most {MAX_BITS} bits, got {results[0].score:.3f}")
    return 1
