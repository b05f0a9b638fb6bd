"""Whether a pattern of bits has an odd number of ones: a Grid LSTM of depth alone, whose blocks have a memory that goes
up through them (Kalchbrenner, Danihelka, Graves 2015, arXiv:1507.01526, section 4.1).

It sees all bits at once, as the same network without memories does: there every block is a layer of tanh. LSTM and GRU
read the bits one after another. A quarter of all patterns is held out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import recurra
from recurra import training
from recurra.demo.optimise import Arrays, Layer
from recurra.demo.variants import common
from recurra.demo.variants.common import Batch, Classifier

SUMMARY = "Grid LSTM: the parity of twelve bits, by memories along the depth"


@dataclass(frozen=True)
class Settings:
    """Sizes and the recipe."""

    bits: int = 12
    hidden: int = 40  # of the Grid LSTM; all others have as many parameters
    depth: int = 6
    batch: int = 32
    rate: float = 2e-3
    epochs: int = 60
    seed: int = 0


class Deep:
    """Blocks on top of each other, with memories or without, and a Linear; it reads steps of one bit as one vector."""

    def __init__(self, settings: Settings, hidden: int, memory: bool) -> None:
        options: dict[str, Any] = {} if memory else {"non_lstm": {0: "tanh"}, "proj_m": False}
        rng = np.random.default_rng(settings.seed)
        self.layer = recurra.GridLSTM(settings.bits, hidden, 0, settings.depth, rng=rng, **options)
        self.head = recurra.Linear(hidden, 2, seed=rng)
        self.layers: Mapping[str, Layer] = {"layer": self.layer, "head": self.head}

    def gradients(self, batch: Batch) -> tuple[float, dict[str, Arrays]]:
        """Of the mean cross-entropy."""
        y, tape = self.layer.forward(batch.x[..., 0].T)
        logits, head_tape = self.head.forward(y)
        loss, dlogits = training.softmax_cross_entropy(logits, batch.labels)
        head = head_tape.backward(dlogits)
        assert head.x is not None
        return loss, {"layer": tape.backward(head.x, input_grad=False).params, "head": head.params}

    def score(self, test: Batch) -> float:
        """Share of right guesses."""
        return float((self.head(self.layer(test.x[..., 0].T)).argmax(-1) == test.labels).mean())


def patterns(settings: Settings) -> tuple[Batch, Batch]:
    """All there are, as steps of -1 and 1, in an order of its own; a quarter of them to test."""
    order = np.random.default_rng(settings.seed).permutation(1 << settings.bits)
    ones = order >> np.arange(settings.bits)[:, None] & 1
    everything = Batch((2 * ones[..., None] - 1).astype(np.float32), ones.sum(0) % 2)
    held_out = len(order) // 4
    return (
        Batch(everything.x[:, held_out:], everything.labels[held_out:]),
        Batch(everything.x[:, :held_out], everything.labels[:held_out]),
    )


def run(path: Path, epochs: int | None, settings: Settings | None = None) -> int:
    """Print the demo and draw the plot. Returns 0."""
    settings = settings or Settings()
    train, test = patterns(settings)
    grid = Deep(settings, settings.hidden, memory=True)
    parameters = common.parameter_count(grid)
    print(
        f"Are the ones among {settings.bits} bits odd? {len(train.labels)} patterns to learn from, "
        f"{len(test.labels)} held out, {settings.depth} blocks deep."
    )
    models: dict[str, Any] = {
        "Grid LSTM": grid,
        "tanh net": common.nearest(lambda hidden: Deep(settings, hidden, memory=False), parameters),
    }
    plain: dict[str, Classifier] = common.plain_classifiers(parameters, 1, 2, seed=settings.seed)
    rows = common.shuffled(len(train.labels), settings.batch, settings.seed)

    def batches(epoch: int) -> Iterator[Batch]:
        return (Batch(train.x[:, own], train.labels[own]) for own in rows(epoch))

    results = common.compare(models | plain, batches, test, epochs or settings.epochs, settings.rate)
    common.finish(path, results, margin=common.chance_margin(results, len(test.labels)))
    return 0
