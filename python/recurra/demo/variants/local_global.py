"""Pixels whose label is decided far away: a Local-Global LSTM labels the pixels of a digit by a marker in a corner.

Needs scikit-learn, which ships the digits: pip install scikit-learn.
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
from recurra.demo.variants import digits
from recurra.demo.variants.common import PLAIN, Model, compare, finish, nearest, parameter_count, shuffled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUMMARY = "Local-Global LSTM: the pixels of a digit, labelled by a marker in the corner opposite to it"
SIDE, HIDDEN, LAYERS, CLASSES = 14, 6, 2, 2
EPOCHS, BATCH, RATE = 5, 32, 1e-2

Array = npt.NDArray[Any]


class Scenes(NamedTuple):
    """Maps [B, SIDE, SIDE, 2] of ink, 0 to 1, and of a marker, -1 or 1 in one corner; labels [B, SIDE, SIDE], 0 or 1 as
    the marker says; which pixels count, those with ink."""

    maps: Array
    labels: Array
    ink: Array


def scenes(images: Array, seed: Any) -> Scenes:
    """Digits [B, 8, 8, 1] on larger sheets, five or six pixels from two sides, the marker where these meet."""
    rng = np.random.default_rng(seed)
    count, size = images.shape[:2]
    maps = np.zeros((count, SIDE, SIDE, 2), np.float32)
    marker = rng.choice([-1, 1], count)
    for sheet, image, mark in zip(maps, images, marker, strict=True):
        top, left = rng.integers(SIDE - size - 1, SIDE - size + 1, 2)
        sheet[top : top + size, left : left + size, 0] = image[..., 0]
        sheet[0, 0, 1] = mark
        axes = tuple(np.flatnonzero(rng.integers(0, 2, 2)).tolist())
        sheet[...] = np.flip(sheet, axes).copy()
    labels = np.broadcast_to((marker > 0).astype(int)[:, None, None], maps.shape[:-1])
    return Scenes(maps, labels, maps[..., 0] > 0)


class LocalGlobal:
    """The variant, with a head and a loss for each of its layers."""

    def __init__(self, hidden: int = HIDDEN, dtype: str = "float32") -> None:
        self.layer = recurra.LocalGlobalLSTM(2, hidden, LAYERS, dtype=dtype, seed=0)
        self.heads = recurra.DeepSupervision(hidden, CLASSES, LAYERS, dtype=dtype, seed=1)
        self.layers: Mapping[str, Layer] = {"layer": self.layer, "heads": self.heads}

    def gradients(self, batch: Scenes) -> tuple[float, dict[str, Arrays]]:
        """Of the sum of the layers' mean cross-entropies; the loss is their mean, to be set beside others."""
        maps, tape = self.layer.forward(batch.maps, every_layer=True)
        loss, gradients = self.heads.loss(maps, batch.labels, batch.ink)
        assert gradients.x is not None
        params = tape.backward(gradients.x, input_grad=False).params
        return loss / LAYERS, {"layer": params, "heads": gradients.params}

    def guesses(self, batch: Scenes) -> Array:
        """The likeliest label of each pixel."""
        return np.asarray(self.heads(self.layer(batch.maps)).argmax(-1))

    def score(self, test: Scenes) -> float:
        """Share of right labels among pixels with ink."""
        return float((self.guesses(test) == test.labels)[test.ink].mean())


class Plain:
    """A plain layer that reads the pixels in both directions, row after row, and a Linear for each."""

    def __init__(self, cell: Callable[..., Any], hidden: int, dtype: str = "float32") -> None:
        self.layer = cell(2, hidden, bidirectional=True, dtype=dtype, seed=0)
        self.head = recurra.Linear(2 * hidden, CLASSES, dtype=dtype, seed=1)
        self.layers: Mapping[str, Layer] = {"layer": self.layer, "head": self.head}

    def gradients(self, batch: Scenes) -> tuple[float, dict[str, Arrays]]:
        """Of the mean cross-entropy."""
        y, _, tape = self.layer.forward(_sequence(batch.maps))
        logits, head_tape = self.head.forward(y)
        loss, dlogits = training.softmax_cross_entropy(logits, _sequence(batch.labels), _sequence(batch.ink))
        head = head_tape.backward(dlogits)
        assert head.x is not None
        return loss, {"layer": tape.backward(head.x, input_grad=False).params, "head": head.params}

    def score(self, test: Scenes) -> float:
        """Share of right labels among pixels with ink."""
        guesses = self.head(self.layer(_sequence(test.maps))[0]).argmax(-1)
        return float((guesses == _sequence(test.labels))[_sequence(test.ink)].mean())


def _sequence(array: Array) -> Array:
    """[B, SIDE, SIDE, ..] as [SIDE * SIDE, B, ..]."""
    return array.reshape(len(array), SIDE * SIDE, *array.shape[3:]).swapaxes(0, 1)


def run(path: Path, epochs: int | None) -> int:
    """See `recurra.demo.variants`. 1 without scikit-learn."""
    if importlib.util.find_spec("sklearn") is None:
        print("This demo needs scikit-learn, which ships the digits: pip install scikit-learn")
        return 1
    print(
        f"A digit on a sheet of {SIDE} x {SIDE} pixels; the marker in the opposite corner says what its pixels are.\n"
        f"{LAYERS} layers of {HIDDEN} units label all pixels at once; LSTM and GRU read them in both directions.\n"
        "Pixels with ink count; half of them would be right by chance."
    )
    train, test = digits.load()
    ours, sheets = LocalGlobal(), scenes(test.images, 0)

    def plain(cell: Callable[..., Any]) -> Plain:
        return nearest(lambda hidden: Plain(cell, hidden), parameter_count(ours))

    models: dict[str, Model] = {"Local-Global LSTM": ours, **{name: plain(cell) for name, cell in PLAIN.items()}}
    rows = shuffled(len(train.labels), BATCH)

    def batches(epoch: int) -> Iterator[Scenes]:
        return (scenes(train.images[own], [1, epoch, k]) for k, own in enumerate(rows(epoch)))

    results = compare(models, batches, sheets, epochs or EPOCHS, RATE)
    finish(path, results, panels=[labelled(ours, sheets)])
    return 0


def labelled(model: LocalGlobal, test: Scenes) -> Callable[[Axes], None]:
    """A panel of the first scenes as the model labels them."""

    def draw(axis: Axes) -> None:
        from matplotlib.colors import ListedColormap

        some = Scenes(*(part[:9] for part in test))
        colours = np.where(some.ink, 1 + model.guesses(some), 0)
        colours[some.maps[..., 1] < 0], colours[some.maps[..., 1] > 0] = 1, 2
        framed = np.pad(colours, ((0, 0), (1, 1), (1, 1)), constant_values=3)
        picture = np.block([[framed[3 * row + column] for column in range(3)] for row in range(3)])
        axis.imshow(picture, cmap=ListedColormap(["white", "#1f6fb4", "#e07b1a", "#bbbbbb"]), vmin=0, vmax=3)
        axis.set_axis_off()
        axis.set_title("markers, and what it makes of the digits")

    return draw
