"""Differential RNNs tell the nine speakers of `demo vowels` apart.

Gates that see how the cell changes were made for videos of actions, with their bursts of motion (Veeriah, Zhuang, Qi
2015, arXiv:1504.06678). Speech changes too, from sound to sound; whether it helps here is what the demo looks at.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import recurra
from recurra.demo.train_vowels import Data, load
from recurra.demo.variants import common
from recurra.demo.variants.common import Array, Batch, Classifier
from recurra.demo.vowels import ATTRIBUTION

SUMMARY = "DifferentialRNN: speakers of vowels, with gates that see the cell's differences of several orders"
SPEAKERS = 9
MIN_ACCURACY = 0.9  # of every network, after as many epochs as Settings has


@dataclass(frozen=True)
class Settings:
    """Sizes and the recipe."""

    hidden: int = 48
    orders: tuple[tuple[int, ...], ...] = ((1,), (0, 1, 2))
    noise: float = 0.3  # added to standardised frames, for the test was recorded on other occasions
    batch: int = 30
    rate: float = 5e-3
    epochs: int = 100
    seed: int = 0


def standardised(train: Data, test: Data) -> tuple[Array, Array]:
    """Frames [T, N, 12] of which each coefficient has mean 0 and deviation 1 over the valid frames of the training."""
    valid = train.frames[np.arange(len(train.frames))[:, None] < train.lengths]
    mean, deviation = valid.mean(0), valid.std(0)
    return (train.frames - mean) / deviation, (test.frames - mean) / deviation


def networks(inputs: int, settings: Settings) -> dict[str, Classifier]:
    """A differential RNN for each choice of orders, and plain networks with about as many parameters."""

    def variant(orders: tuple[int, ...]) -> Classifier:
        def cell(inputs: int, hidden: int, rng: np.random.Generator) -> Any:
            return recurra.DifferentialRNN(inputs, hidden, orders=orders, rng=rng)

        return Classifier(cell, inputs, settings.hidden, SPEAKERS, seed=settings.seed)

    variants = {f"orders {', '.join(map(str, orders))}": variant(orders) for orders in settings.orders}
    count = common.parameter_count(variants[max(variants, key=len)])
    return variants | common.plain_classifiers(count, inputs, SPEAKERS, seed=settings.seed)


def run(path: Path, epochs: int | None, settings: Settings | None = None) -> int:
    """Print the demo and draw the plot. Returns 0, or 1 when a network has less than MIN_ACCURACY."""
    settings, start = settings or Settings(), time.perf_counter()
    train, test = load("train"), load("test")
    x, unseen = standardised(train, test)
    models, count = networks(x.shape[-1], settings), epochs or settings.epochs
    first = next(iter(models.values()))
    print(f"{first.layer}, and others, read {len(train.labels)} utterances, {count} epochs.")
    rows = common.shuffled(len(train.labels), settings.batch, settings.seed)

    def batches(epoch: int) -> Iterator[Batch]:
        rng = np.random.default_rng([settings.seed, epoch])
        for some in rows(epoch):
            lengths = train.lengths[some]
            frames = x[: lengths.max(), some]
            noise = settings.noise * rng.standard_normal(frames.shape, dtype=np.float32)
            yield Batch(frames + noise, train.labels[some], lengths)

    results = common.compare(models, batches, Batch(unseen, test.labels, test.lengths), count, settings.rate)
    common.finish(path, results, margin=common.chance_margin(results, len(test.labels)))
    print(f"{time.perf_counter() - start:.1f} s in all.\n\n{ATTRIBUTION}")
    least = min(result.score for result in results)
    if least >= MIN_ACCURACY or count < Settings.epochs:
        return 0
    print(f"FAILED: every network is expected to find {MIN_ACCURACY:.0%} of the speakers, got {least:.1%}")
    return 1
