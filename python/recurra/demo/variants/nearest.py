"""The nearest neighbour of what is sought, found in one pass: an sLSTM, whose exponential gates revise what it stored.

A step has a likeness and a value; asked for is the value that came with the greatest likeness. Whenever a greater one
comes, the value that is kept has to be given up, and an LSTM struggles to do so (Beck et al. 2024, arXiv:2405.04517,
section 1, where the network computes the likeness, too).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import recurra
from recurra.demo.optimise import Arrays, Layer
from recurra.demo.variants import common
from recurra.demo.variants.common import Array, Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUMMARY = "SLSTM: the value that came with the greatest likeness, also in sequences longer than those learned from"
ERROR = Measure("error", ".1%", more_is_better=False)
MAX_ERROR = 0.12  # of the sLSTM, after as many epochs as Settings has


@dataclass(frozen=True)
class Settings:
    """Sizes and the recipe."""

    steps: int = 32
    hidden: int = 32  # of the sLSTM; the others have as many parameters
    batch: int = 64
    batches: int = 200  # of an epoch
    test: int = 4000
    rate: float = 4e-2
    epochs: int = 15
    seed: int = 0


class Sequences(NamedTuple):
    """Likeness and value of each step, -1 to 1 [T, B, 2]; the value of the likest [B]."""

    x: Array
    value: Array


def drawn(count: int, steps: int, rng: np.random.Generator) -> Sequences:
    """So many sequences."""
    x = rng.uniform(-1, 1, (steps, count, 2)).astype(np.float32)
    return Sequences(x, x[x[..., 0].argmax(0), np.arange(count), 1])


class Searcher:
    """A recurrent layer, and a Linear of its last output."""

    def __init__(self, cell: Callable[..., Any], hidden: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.layer = cell(2, hidden, rng=rng)
        self.head = recurra.Linear(hidden, 1, seed=rng)
        self.layers: Mapping[str, Layer] = {"layer": self.layer, "head": self.head}

    def gradients(self, batch: Sequences) -> tuple[float, dict[str, Arrays]]:
        """Of the mean squared error."""
        y, _, tape = self.layer.forward(batch.x)
        guess, head_tape = self.head.forward(y[-1])
        difference = guess[:, 0] - batch.value
        head = head_tape.backward(2 / len(difference) * difference[:, None])
        dy = np.zeros_like(y)
        dy[-1] = head.x
        layer = tape.backward(dy, input_grad=False)
        return float((difference**2).mean()), {"layer": layer.params, "head": head.params}

    def score(self, test: Sequences) -> float:
        """The mean squared error over the variance of the values: 1 is what their mean, 0, would cost."""
        guess = self.head(self.layer(test.x)[0][-1])[:, 0]
        return float(((guess - test.value) ** 2).mean() * 3)


def networks(settings: Settings) -> dict[str, Searcher]:
    """The sLSTM, and plain networks with about as many parameters."""

    def maker(cell: Callable[..., Any]) -> Callable[[int], Searcher]:
        return lambda hidden: Searcher(cell, hidden, settings.seed)

    variant = Searcher(recurra.SLSTM, settings.hidden, settings.seed)
    count = common.parameter_count(variant)
    return {"sLSTM": variant} | {name: common.nearest(maker(cell), count) for name, cell in common.PLAIN.items()}


def run(path: Path, epochs: int | None, settings: Settings | None = None) -> int:
    """Print the demo and draw the plot. Returns 0, or 1 when the sLSTM has an error above MAX_ERROR."""
    settings, start = settings or Settings(), time.perf_counter()
    models, count = networks(settings), epochs or settings.epochs
    print(
        f"{models['sLSTM'].layer} seeks the value that came with the greatest likeness among {settings.steps}, "
        f"{count} epochs of {settings.batches * settings.batch} sequences."
    )

    def batches(epoch: int) -> Iterator[Sequences]:
        rng = np.random.default_rng([settings.seed, 0, epoch])
        return (drawn(settings.batch, settings.steps, rng) for _ in range(settings.batches))

    lengths = [settings.steps // 2, settings.steps, 2 * settings.steps, 4 * settings.steps]
    tests = {steps: drawn(settings.test, steps, np.random.default_rng([settings.seed, 1, steps])) for steps in lengths}
    results = common.compare(models, batches, tests[settings.steps], count, settings.rate, steps=settings.batches)
    by_length = {name: [model.score(test) for test in tests.values()] for name, model in models.items()}

    def panel(axis: Axes) -> None:
        for name, errors in by_length.items():
            axis.plot(list(tests), errors, marker=".", label=name)
        axis.set(xscale="log", xlabel="steps", ylabel="error", title="sequences of other lengths")
        axis.set_xticks(list(tests), [str(steps) for steps in tests])
        axis.minorticks_off()
        axis.legend()

    common.finish(path, results, ERROR, panels=[panel])
    for steps, *errors in zip(tests, *by_length.values(), strict=True):
        print(f"{steps:>4} steps: " + ", ".join(f"{name} {e:.1%}" for name, e in zip(by_length, errors, strict=True)))
    print(f"{time.perf_counter() - start:.1f} s in all.")
    if results[0].score <= MAX_ERROR or count < Settings.epochs:
        return 0
    print(f"FAILED: the sLSTM is expected to have an error of at most {MAX_ERROR:.0%}, got {results[0].score:.1%}")
    return 1
