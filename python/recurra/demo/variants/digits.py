"""Handwritten digits, pixel by pixel: a multidimensional LSTM reads the image from four corners, others as a sequence.

Needs scikit-learn, which ships the images: pip install scikit-learn.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

import recurra
from recurra import training
from recurra.demo.optimise import Arrays, Layer
from recurra.demo.variants.common import Batch, Model, chance_margin, compare, finish, parameter_count, shuffled
from recurra.demo.variants.common import plain_classifiers as plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUMMARY = "multidimensional LSTM: handwritten digits, pixel by pixel (scikit-learn's 8 x 8 images)"
HIDDEN, EPOCHS, BATCH, RATE, TEST = 12, 25, 32, 1e-2, 450

Array = npt.NDArray[Any]


class Digits(NamedTuple):
    """Images [B, 8, 8, 1], 0 to 1, and labels [B]."""

    images: Array
    labels: Array

    def sequence(self) -> Batch:
        """Pixel after pixel, for plain networks."""
        return Batch(self.images.reshape(len(self.images), -1, 1).swapaxes(0, 1), self.labels)


def load() -> tuple[Digits, Digits]:
    """Training and test images, 1347 and 450, in an order of its own: the file has those of a writer together."""
    from sklearn.datasets import load_digits

    images, labels = load_digits().images, load_digits().target
    order = np.random.default_rng(0).permutation(len(labels))
    everything = Digits((images[order, ..., None] / 16).astype(np.float32), labels[order])
    return Digits(*(part[TEST:] for part in everything)), Digits(*(part[:TEST] for part in everything))


class GridClassifier:
    """A layer over grids, the largest output of each unit over the whole image, and a Linear."""

    def __init__(self, layer: Any, width: int, seed: int = 0) -> None:
        self.layer, self.head = layer, recurra.Linear(width, 10, seed=[seed, 1])
        self.layers: Mapping[str, Layer] = {"layer": self.layer, "head": self.head}

    def gradients(self, batch: Digits) -> tuple[float, dict[str, Arrays]]:
        """Of the mean cross-entropy."""
        y, tape = self.layer.forward(batch.images)
        pooled, unpool = training.max_over_time(_sequence(y))
        logits, head_tape = self.head.forward(pooled)
        loss, dlogits = training.softmax_cross_entropy(logits, batch.labels)
        head = head_tape.backward(dlogits)
        assert head.x is not None
        dy: Any = unpool(head.x)
        gradients = tape.backward(np.ascontiguousarray(dy.swapaxes(0, 1)).reshape(y.shape), input_grad=False)
        return loss, {"layer": gradients.params, "head": head.params}

    def guesses(self, batch: Digits) -> Array:
        """The likeliest digit of each image."""
        pooled, _ = training.max_over_time(_sequence(self.layer(batch.images)))
        return np.asarray(self.head(pooled).argmax(-1))

    def score(self, test: Digits) -> float:
        """Share of right guesses."""
        return float((self.guesses(test) == test.labels).mean())


class PlainClassifier:
    """A plain network over the pixels of the same batches, row after row."""

    def __init__(self, model: Any) -> None:
        self._model, self.layers = model, model.layers

    def gradients(self, batch: Digits) -> tuple[float, Mapping[str, Arrays]]:
        """Of the mean cross-entropy."""
        found: tuple[float, Mapping[str, Arrays]] = self._model.gradients(batch.sequence())
        return found

    def score(self, test: Digits) -> float:
        """Share of right guesses."""
        return float(self._model.score(test.sequence()))


def _sequence(y: Array) -> Array:
    """[B, 8, 8, F] as [64, B, F]."""
    return y.reshape(len(y), -1, y.shape[-1]).swapaxes(0, 1)


def run_models(variants: Mapping[str, GridClassifier], path: Path, epochs: int, rate: float) -> int:
    """Train variants, and LSTM and GRU of the first one's size; print and plot. 1 without scikit-learn."""
    if importlib.util.find_spec("sklearn") is None:
        print("This demo needs scikit-learn, which ships the images: pip install scikit-learn")
        return 1
    train, test = load()
    first = next(iter(variants.values()))
    plain_ones = plain(parameter_count(first), 1, 10)
    models: dict[str, Model] = {**variants, **{name: PlainClassifier(model) for name, model in plain_ones.items()}}
    rows = shuffled(len(train.labels), BATCH)

    def batches(epoch: int) -> Iterator[Digits]:
        return (Digits(*(part[own] for part in train)) for own in rows(epoch))

    results = compare(models, batches, test, epochs, rate)
    finish(path, results, margin=chance_margin(results, TEST), panels=[wrong(first, test)])
    return 0


def wrong(model: GridClassifier, test: Digits) -> Callable[[Axes], None]:
    """A panel of the first images that the model takes for another digit."""

    def draw(axis: Axes) -> None:
        guesses = model.guesses(test)
        rows = np.flatnonzero(guesses != test.labels)[:9]
        picture = np.ones((30, 30))
        for k, row in enumerate(rows):
            top, left = k // 3 * 10 + 1, k % 3 * 10 + 1
            picture[top : top + 8, left : left + 8] = 1 - test.images[row, ..., 0]
            axis.text(left, top - 0.6, f"{test.labels[row]}, taken for {guesses[row]}", fontsize=7)
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axis.set_axis_off()
        axis.set_title("what the first one gets wrong")

    return draw


def run(path: Path, epochs: int | None) -> int:
    """See `recurra.demo.variants`."""
    print(f"Four LSTMs of {HIDDEN} units each read 8 x 8 pixels from the four corners; LSTM and GRU read 64 in a row.")
    variants = {
        f"MDLSTM {kind}": GridClassifier(recurra.MultidimensionalLSTM(1, HIDDEN, 2, kind, seed=0), 4 * HIDDEN)
        for kind in ("leakylp", "standard")
    }
    return run_models(variants, path, epochs or EPOCHS, RATE)
