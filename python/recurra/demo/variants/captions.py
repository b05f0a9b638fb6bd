"""A sentence for an image: the image's vector enters a recurrent network, which then writes word by word.

Scenes are generated: one to three coloured shapes in the quadrants of a small noisy image, moved by a pixel or not. The
caption names them in reading order, and is right if every word is. The image enters through one linear map, as the
initial state or as the first input (Vinyals et al. 2015, arXiv:1411.4555, compare such ways).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import recurra
from recurra import training
from recurra.demo.optimise import Arrays, Layer
from recurra.demo.report import plot
from recurra.demo.variants import common
from recurra.demo.variants.common import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUMMARY = "captions of generated scenes: an image as the initial state or the first input, greedy and beam search"
MIN_ACCURACY = 0.9  # of the best network, after as many epochs as Settings has

SHAPES = {  # 5 x 5 pixels
    "square": "##### ##### ##### ##### #####",
    "ring": "##### #...# #...# #...# #####",
    "cross": "..#.. ..#.. ##### ..#.. ..#..",
}
COLOURS = ("red", "green", "blue")
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")
WORDS = ("a", "and", *COLOURS, *SHAPES, "top", "bottom", "left", "right")
END, START = len(WORDS), len(WORDS) + 1
SIDE, SIZE = 6, 12  # pixels of a quadrant and of an image
SHOWN = 3  # scenes in the plot


@dataclass(frozen=True)
class Settings:
    """Sizes and the recipe."""

    scenes: int = 12000
    test: int = 1000
    embedding: int = 48
    hidden: int = 96
    batch: int = 96
    rate: float = 5e-3
    epochs: int = 10
    beams: int = 4


class Scenes(NamedTuple):
    """images [N, SIZE * SIZE * 3]; words [T, N], each caption ended by END, and how many each has, END included [N]."""

    images: Array
    words: Array
    lengths: Array

    def take(self, rows: Array) -> Scenes:
        """Some of the scenes."""
        lengths = self.lengths[rows]
        return Scenes(self.images[rows], self.words[: lengths.max(), rows], lengths)


def scenes(count: int, seed: int) -> Scenes:
    """Random scenes with their captions."""
    rng, masks = np.random.default_rng(seed), [_mask(rows) for rows in SHAPES.values()]
    images = rng.normal(scale=0.15, size=(count, SIZE, SIZE, 3)).astype(np.float32)
    captions = []
    for image in images:
        phrases = []
        for quadrant in sorted(rng.choice(4, size=rng.integers(1, 4), replace=False)):
            shape, colour = rng.integers(len(SHAPES)), rng.integers(3)
            top, left = np.array(divmod(quadrant, 2)) * SIDE + rng.integers(0, 2, size=2)
            image[top : top + 5, left : left + 5, colour] += masks[shape] * rng.uniform(0.7, 1)
            phrases.append(f"a {COLOURS[colour]} {list(SHAPES)[shape]} {QUADRANTS[quadrant]}")
        captions.append([WORDS.index(word) for word in " and ".join(phrases).split()] + [END])
    lengths = np.array(list(map(len, captions)))
    words = np.full((lengths.max(), count), END)
    for column, caption in zip(words.T, captions, strict=True):
        column[: len(caption)] = caption
    return Scenes(images.reshape(count, -1), words, lengths)


def sentence(words: Array) -> str:
    """Words up to END as a text."""
    return " ".join(WORDS[word] for word in words if word != END)


class Captioner:
    """Embedding, a recurrent layer and a Linear; an image enters as the initial state or as the first input."""

    def __init__(
        self, cell: Callable[..., Any], as_state: bool, hidden: int, settings: Settings, seed: int = 0
    ) -> None:
        rng = np.random.default_rng(seed)
        self.embedding = recurra.Embedding(len(WORDS) + 2, settings.embedding, seed=rng)
        self.layer = cell(settings.embedding, hidden, rng=rng)
        self.head = recurra.Linear(hidden, len(WORDS) + 1, seed=rng)
        pixels = SIZE * SIZE * 3
        self.image: Any = (
            recurra.InitialState(pixels, self.layer, seed=rng)
            if as_state
            else recurra.Linear(pixels, settings.embedding, seed=rng)
        )
        self.layers: Mapping[str, Layer] = {
            "embedding": self.embedding,
            "layer": self.layer,
            "head": self.head,
            "image": self.image,
        }
        self._as_state = as_state

    def gradients(self, batch: Scenes) -> tuple[float, dict[str, Arrays]]:
        """Of the mean cross-entropy of all words, each after the right ones before it."""
        before = np.concatenate([np.full_like(batch.words[:1], START), batch.words[:-1]])
        x, embedding_tape = self.embedding.forward(before)
        vector, image_tape = self.image.forward(batch.images)
        if self._as_state:
            y, _, tape = self.layer.forward(x, vector, lengths=batch.lengths)
        else:
            y, _, tape = self.layer.forward(np.concatenate([vector[None], x]), lengths=batch.lengths + 1)
        skipped = len(y) - len(x)
        logits, head_tape = self.head.forward(y[skipped:])
        mask = training.step_mask(batch.lengths, len(x))
        loss, dlogits = training.softmax_cross_entropy(logits, batch.words, mask)
        head = head_tape.backward(dlogits)
        assert head.x is not None
        layer = tape.backward(np.concatenate([np.zeros_like(y[:skipped]), head.x]))
        image = image_tape.backward(layer.state if self._as_state else layer.x[0], input_grad=False)
        embedding = embedding_tape.backward(layer.x[skipped:])
        found = {"embedding": embedding, "layer": layer, "head": head, "image": image}
        return loss, {name: gradient.params for name, gradient in found.items()}

    def captions(self, images: Array, beams: int | None = None) -> Array:
        """The words [N, T] for images, greedily or the best of a beam search; END after a caption."""
        vector = self.image(images)
        given = {"state": vector} if self._as_state else {"first_input": vector}
        longest = 3 * 5 + 2 + 1
        network = self.layer, self.head, self.embedding
        written = recurra.generate(
            *network, start=START, end=END, max_length=longest, batch=len(images), beams=beams, **given
        )
        return written.tokens if beams is None else written.tokens[:, 0]

    def score(self, test: Scenes, beams: int | None = None) -> float:
        """Share of the scenes whose caption is right to the last word."""
        written = self.captions(test.images, beams)
        columns = max(written.shape[1], len(test.words))
        ours, theirs = np.full((2, len(written), columns), END)
        ours[:, : written.shape[1]], theirs[:, : len(test.words)] = written, test.words.T
        return float((ours == theirs).all(axis=1).mean())


def draw_scene(axis: Axes, image: Array, right: Array, written: Array) -> None:
    """An image under its caption."""
    axis.grid(visible=False)
    axis.imshow(image.reshape(SIZE, SIZE, 3).clip(0, 1))
    axis.set_xticks([])
    axis.set_yticks([])
    said, wanted = (sentence(words).replace(" and ", "\nand ") for words in (written, right))
    axis.set_title(said, fontsize=10, color="black" if said == wanted else "#b03a3a")
    if said != wanted:
        axis.set_xlabel(f"is:\n{wanted}", fontsize=9)


def networks(settings: Settings) -> dict[str, Captioner]:
    """Both cells with both ways in, of nearly as many parameters as the first has."""
    found = {"LSTM, state": Captioner(recurra.LSTM, True, settings.hidden, settings)}
    parameters = common.parameter_count(found["LSTM, state"])

    def add(name: str, cell: Callable[..., Any], as_state: bool) -> None:
        found[name] = common.nearest(lambda hidden: Captioner(cell, as_state, hidden, settings), parameters)

    add("GRU, state", recurra.GRU, True)
    add("LSTM, input", recurra.LSTM, False)
    add("GRU, input", recurra.GRU, False)
    return found


def run(path: Path, epochs: int | None, settings: Settings | None = None) -> int:
    """Print the demo and draw the plot. Returns 0, or 1 when the best network has less than MIN_ACCURACY."""
    settings, start = settings or Settings(), time.perf_counter()
    train, test = scenes(settings.scenes, seed=0), scenes(settings.test, seed=1)
    print(
        f"{settings.scenes} scenes to learn from, {settings.test} to try; the first is {sentence(train.words[:, 0])!r}."
        "\nThe image is the initial state or the first input; right is a caption of which every word is."
    )
    models, rows = networks(settings), common.shuffled(settings.scenes, settings.batch)
    results = common.compare(
        models, lambda epoch: map(train.take, rows(epoch)), test, epochs or settings.epochs, settings.rate
    )
    common.show_table(results)
    searched = [f"{name} {model.score(test, settings.beams):.1%}" for name, model in models.items()]
    print(f"That was greedy; with {settings.beams} beams: {', '.join(searched)}.")
    first = max(results, key=lambda result: result.score)
    print(f"The best way in is {first.name} with {first.score:.1%}; {time.perf_counter() - start:.1f} s in all.")

    def draw(axes: list[Axes]) -> None:
        common.draw_losses(axes[0], results)
        written = models[first.name].captions(test.images)
        for axis, scene in zip(axes[1:], np.argsort(-test.lengths, kind="stable"), strict=False):
            draw_scene(axis, test.images[scene], test.words[:, scene], written[scene])

    plot(path, draw, columns=1 + SHOWN)
    if first.score >= MIN_ACCURACY or (epochs or settings.epochs) < Settings.epochs:
        return 0
    print(f"FAILED: at least {MIN_ACCURACY:.0%} of the captions are expected to be right, got {first.score:.1%}")
    return 1


def _mask(rows: str) -> Array:
    return np.array([[pixel == "#" for pixel in row] for row in rows.split()], np.float32)
