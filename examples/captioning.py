"""A sentence for a picture: its features are the initial state of a GRU, which writes word by word.

    python examples/captioning.py

The pictures are a shape, a colour and a side, seen through a random matrix and noise, as the features of a vision
network would show them; the captions are sentences about them. Training feeds each word of the true caption to
predict the next; then `recurra.generate` writes by itself, greedily and by beam search. (O. Vinyals et al. 2015,
arXiv:1411.4555.) Needs NumPy and recurra only.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

import recurra
from recurra import training

SHAPES, COLOURS, SIDES = ("square", "ring", "cross", "star"), ("red", "green", "blue"), ("left", "right")
WORDS = ("a", *COLOURS, *SHAPES, "on", "the", *SIDES)
END, START = len(WORDS), len(WORDS) + 1
FEATURES, HIDDEN, NOISE = 24, 48, 0.3

Array = Any


def pictures(count: int, seed: int) -> tuple[Array, Array]:
    """Features [count, FEATURES], and captions as numbers of words [words, count], ended by END."""
    rng = np.random.default_rng(seed)
    kinds = list(product(range(4), range(3), range(2)))
    chosen = [kinds[k] for k in rng.integers(0, len(kinds), count)]
    seen = np.zeros((count, 9), np.float32)
    for row, (shape, colour, side) in zip(seen, chosen, strict=True):
        row[[shape, 4 + colour, 7 + side]] = 1
    eye = np.random.default_rng(0).standard_normal((9, FEATURES))  # the same for all pictures
    features = seen @ eye + NOISE * rng.standard_normal((count, FEATURES))
    said = [["a", COLOURS[c], SHAPES[s], "on", "the", SIDES[d]] for s, c, d in chosen]
    return features.astype("float32"), np.array([[*map(WORDS.index, words), END] for words in said]).T


class Captioner:
    """Features to a state, words to vectors, a GRU, and from it logits of the next word."""

    def __init__(self, seed: int = 0) -> None:
        self.gru = recurra.GRU(16, HIDDEN, seed=seed)
        self.table = recurra.Embedding(END + 2, 16, seed=seed + 1)
        self.head = recurra.Linear(HIDDEN, END + 1, seed=seed + 2)
        self.begin = recurra.InitialState(FEATURES, self.gru, seed=seed + 3)
        self.parts: list[Any] = [self.gru, self.table, self.head, self.begin]
        self.params = [part.state_dict() for part in self.parts]
        self.optimisers = [training.Adam(params, lr=0.01) for params in self.params]

    def learn(self, features: Array, captions: Array) -> float:
        """One step of the optimisers; the loss before it."""
        read = np.concatenate([np.full((1, captions.shape[1]), START), captions[:-1]])  # what stands before each word
        state, state_tape = self.begin.forward(features)
        vectors, table_tape = self.table.forward(read)
        h, _, tape = self.gru.forward(vectors, state)
        logits, head_tape = self.head.forward(h)
        loss, slope = training.softmax_cross_entropy(logits, captions)
        head = head_tape.backward(slope)
        gru: Any = tape.backward(head.x)
        found = [gru.params, table_tape.backward(gru.x).params, head.params, state_tape.backward(gru.state).params]
        training.clip_grad_norm(found, 1.0)
        for part, params, optimiser, gradients in zip(self.parts, self.params, self.optimisers, found, strict=True):
            optimiser.step(gradients)
            part.load_state_dict(params)
        return loss

    def caption(self, features: Array, beams: int | None = None) -> Array:
        """Words [pictures, words], of a beam search the best."""
        options: Any = {"start": START, "end": END, "max_length": 8, "batch": len(features), "beams": beams}
        tokens = recurra.generate(self.gru, self.head, self.table, state=self.begin(features), **options).tokens
        return tokens if beams is None else tokens[:, 0]


def train(steps: int = 200, seed: int = 0) -> Captioner:
    captioner, (features, captions) = Captioner(seed), pictures(2000, seed + 1)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        rows = rng.integers(0, len(features), 64)
        captioner.learn(features[rows], captions[:, rows])
    return captioner


def right(captioner: Captioner, beams: int | None = None, count: int = 500) -> float:
    """The share of new pictures whose caption is right to the last word."""
    features, captions = pictures(count, seed=99)
    written = captioner.caption(features, beams)
    if written.shape[1] != len(captions):  # some went on for longer, or all ended early
        written = np.pad(written, ((0, 0), (0, 8)), constant_values=END)[:, : len(captions)]
    return float((written == captions.T).all(axis=1).mean())


def main() -> None:
    captioner = train()
    features, _ = pictures(3, seed=98)
    for tokens in captioner.caption(features):
        print(" ".join(WORDS[token] for token in tokens if token < END))
    print(f"right to the last word: greedy {right(captioner):.1%}, four beams {right(captioner, 4):.1%}")


if __name__ == "__main__":
    main()
