"""A Frequency-Time LSTM tells the nine speakers of `demo vowels` apart, from spectral envelopes.

The recordings are 12 cepstral coefficients a frame; their cosine series is the envelope of the spectrum, here in 26
bands. It has the neighbouring bands that the F-LSTM is made for, and nothing that the coefficients had not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import recurra
from recurra.demo.report import BLUE
from recurra.demo.train_vowels import Data, load
from recurra.demo.variants import common
from recurra.demo.variants.common import Array, Batch, Classifier
from recurra.demo.vowels import ATTRIBUTION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUMMARY = "FrequencyTimeLSTM: speakers of vowels from the bands of their spectral envelope"
BANDS = 26
MIN_ACCURACY = 0.9  # of every network, after as many epochs as Settings has; a shorter training need not reach it


@dataclass(frozen=True)
class Settings:
    """Sizes and the recipe."""

    chunk_size: int = 8
    overlap: int = 5
    frequency_size: int = 12
    hidden: int = 40
    noise: float = 0.3  # added to standardised bands, for the test was recorded on other occasions
    batch: int = 30
    rate: float = 5e-3
    epochs: int = 150
    seed: int = 0


def envelopes(data: Data) -> Array:
    """[T, N, BANDS]: log spectra, 2 sum c_n cos(n w), at the middles w of equal bands in 0..pi."""
    order = np.arange(1, data.frames.shape[-1] + 1)
    middles = np.pi * (np.arange(BANDS) + 0.5) / BANDS
    return np.asarray(data.frames @ (2 * np.cos(np.outer(order, middles))), np.float32)


def standardised(train: Data, test: Data) -> tuple[Array, Array]:
    """Envelopes of which each band has mean 0 and deviation 1 over the valid frames of the training."""
    first, second = envelopes(train), envelopes(test)
    valid = first[np.arange(len(first))[:, None] < train.lengths]
    mean, deviation = valid.mean(0), valid.std(0)
    return (first - mean) / deviation, (second - mean) / deviation


def variant(settings: Settings) -> Classifier:
    """The Frequency-Time LSTM under a classifier's head."""

    def cell(inputs: int, hidden: int, rng: np.random.Generator) -> Any:
        return recurra.FrequencyTimeLSTM(
            inputs,
            hidden,
            chunk_size=settings.chunk_size,
            overlap=settings.overlap,
            frequency_size=settings.frequency_size,
            rng=rng,
        )

    return Classifier(cell, BANDS, settings.hidden, 9, seed=settings.seed)


def run(path: Path, epochs: int | None, settings: Settings | None = None) -> int:
    """Print the demo and draw the plot. Returns 0, or 1 when a network has less than MIN_ACCURACY."""
    settings, start = settings or Settings(), time.perf_counter()
    train, test = load("train"), load("test")
    x, unseen = standardised(train, test)
    model = variant(settings)
    print(f"{model.layer} reads {len(train.labels)} utterances, {epochs or settings.epochs} epochs.")
    plain = common.plain_classifiers(common.parameter_count(model), BANDS, 9, seed=settings.seed)
    rows = common.shuffled(len(train.labels), settings.batch, settings.seed)

    def batches(epoch: int) -> Iterator[Batch]:
        rng = np.random.default_rng([settings.seed, epoch])
        for some in rows(epoch):
            lengths = train.lengths[some]
            bands = x[: lengths.max(), some]
            noise = settings.noise * rng.standard_normal(bands.shape, dtype=np.float32)
            yield Batch(bands + noise, train.labels[some], lengths)

    models = {"frequency-time": model, **plain}
    unseen_batch = Batch(unseen, test.labels, test.lengths)
    results = common.compare(models, batches, unseen_batch, epochs or settings.epochs, settings.rate)

    def panel(axis: Axes) -> None:
        axis.grid(visible=False)
        frames = x[: train.lengths[0], 0]
        axis.imshow(frames.T, origin="lower", aspect="auto", cmap="viridis")
        hop = settings.chunk_size - settings.overlap
        for k in range(model.layer.chunks):
            edges = [k * hop - 0.5, k * hop + settings.chunk_size - 0.5]
            axis.plot([len(frames) + k % 3 * 0.5] * 2, edges, color=BLUE, linewidth=2, clip_on=False)
        axis.set(xlabel="frame; at the right the chunks", ylabel="band", title="envelope of an utterance")

    common.finish(path, results, margin=common.chance_margin(results, len(test.labels)), panels=[panel])
    print(f"{time.perf_counter() - start:.1f} s in all.\n\n{ATTRIBUTION}")
    least = min(result.score for result in results)
    if least >= MIN_ACCURACY or (epochs or settings.epochs) < Settings.epochs:
        return 0
    print(f"FAILED: every network is expected to find {MIN_ACCURACY:.0%} of the speakers, got {least:.1%}")
    return 1
