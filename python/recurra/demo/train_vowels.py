"""Train the vowels demo's weights with recurra alone: GRU-64, maximum over time, linear head.

::

    python -m recurra demo vowels --train --seeds 5  # test accuracy of seeds 0 to 4, and a plot; writes no weights
    python -m recurra.demo.train_vowels              # seed 0 -> data/vowels_gru64.npz
    python -m recurra.demo.train_vowels --validate   # five-fold cross-validation inside the training split

The recipe below was fixed before the test split was looked at, except for the epochs: there were 150, with which
``--validate`` leaves 6 of 270 utterances wrong, and 4 with 300. Seed 0 is shipped whatever the others give. Input noise
and dropout are there because the test split was recorded on other occasions than the training split.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

import recurra
from recurra import training
from recurra.demo.optimise import Updater, cosine
from recurra.demo.report import Progress, plot
from recurra.demo.vowels import DATA, MIN_ACCURACY, Floats, Split, load_split, pad

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HIDDEN, NOISE, DROPOUT, RATE, EPOCHS, BATCH = 64, 0.3, 0.3, 3e-3, 300, 30
REPORT = 25  # epochs from one report to the next

Ints = npt.NDArray[np.int64]


class Data(NamedTuple):
    """Utterances side by side: frames [T, N, 12], lengths [N] and labels 0 to 8 [N]."""

    frames: Floats
    lengths: Ints
    labels: Ints

    def take(self, rows: Ints) -> Data:
        """Some of the utterances."""
        lengths = self.lengths[rows]
        return Data(self.frames[: lengths.max(), rows], lengths, self.labels[rows])


def load(name: str) -> Data:
    """A split, padded."""
    split: Split = load_split(name)
    batch, _ = pad(split.frames, split.lengths)
    return Data(np.ascontiguousarray(batch.swapaxes(0, 1)), split.lengths, split.speakers - 1)


class Model:
    """GRU, maximum over the valid steps, linear head, of frames standardised as these utterances' are."""

    def __init__(self, data: Data, seed: int) -> None:
        valid = data.frames.swapaxes(0, 1)[np.arange(len(data.frames)) < data.lengths[:, None]]
        self.mean, self.std = valid.mean(0), valid.std(0, ddof=1)
        weights, self._rng = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
        self.gru = recurra.GRU(valid.shape[1], HIDDEN, rng=weights)
        self.head = recurra.Linear(HIDDEN, 9, seed=weights)

    def standardised(self, data: Data) -> Data:
        """The utterances as the GRU reads them."""
        return data._replace(frames=(data.frames - self.mean) / self.std)

    def gradients(self, data: Data) -> tuple[float, dict[str, dict[str, Any]]]:
        """The loss of standardised utterances under fresh noise and dropout, and its gradients by layer."""
        noise = self._rng.standard_normal(data.frames.shape, dtype=np.float32)
        noise *= NOISE
        noise += data.frames
        output, _, tape = self.gru.forward(noise, lengths=data.lengths)
        pooled, unpool = training.max_over_time(output, data.lengths)
        keep = (self._rng.random(pooled.shape, dtype=np.float32) >= DROPOUT) * np.float32(1 / (1 - DROPOUT))
        scores, head_tape = self.head.forward(pooled * keep)
        loss, dscores = training.softmax_cross_entropy(scores, data.labels)
        head = head_tape.backward(dscores)
        dkept: Any = head.x
        gru = tape.backward(unpool(dkept * keep), input_grad=False)
        return loss, {"gru": gru.params, "head": head.params}

    def guesses(self, data: Data) -> Ints:
        """The label of each utterance."""
        ready = self.standardised(data)
        pooled, _ = training.max_over_time(self.gru(ready.frames, lengths=data.lengths)[0], data.lengths)
        return np.asarray(self.head(pooled).argmax(-1), np.int64)

    def arrays(self) -> dict[str, Any]:
        """All that a file of weights holds."""
        head = {f"head_{name}": array for name, array in self.head.state_dict().items()}
        return {**self.gru.state_dict(), **head, "mean": self.mean, "std": self.std}


def train(data: Data, seed: int, epochs: int = EPOCHS) -> tuple[Model, list[float]]:
    """Fit a model to these utterances alone, mean and deviation of its inputs included; its mean loss by epoch."""
    model, losses = Model(data, seed), []
    ready, order = model.standardised(data), np.random.default_rng([seed, 2])
    updater = Updater({"gru": model.gru, "head": model.head}, RATE)
    with Progress(f"seed {seed}", epochs) as progress:
        for epoch in range(epochs):
            updater.rate, total = cosine(RATE, epoch, epochs), 0.0
            shuffled = order.permutation(len(data.labels))
            for start in range(0, len(shuffled), BATCH):
                rows = shuffled[start : start + BATCH]
                loss, gradients = model.gradients(ready.take(rows))
                updater.step(gradients)
                total += loss * len(rows)
            losses.append(total / len(shuffled))
            progress.advance()
            if (epoch + 1) % REPORT == 0 or epoch + 1 == epochs:
                progress.report(f"epoch {epoch + 1:3}  training loss {losses[-1]:.4f}", keep=False)
    return model, losses


def accuracy(model: Model, data: Data) -> float:
    """Share of the utterances whose speaker is found."""
    return float((model.guesses(data) == data.labels).mean())


def confusion(model: Model, data: Data) -> Ints:
    """How often each speaker [row] was taken for each [column]."""
    table = np.zeros((9, 9), np.int64)
    np.add.at(table, (data.labels, model.guesses(data)), 1)
    return table


def draw(axes: list[Axes], losses: list[list[float]], accuracies: list[float], table: Ints) -> None:
    """Losses of all seeds, and the test split's confusions of seed 0."""
    for seed, (values, share) in enumerate(zip(losses, accuracies, strict=True)):
        axes[0].semilogy(range(1, len(values) + 1), values, label=f"seed {seed}: {share:.1%}", linewidth=1)
    axes[0].set(xlabel="epoch", ylabel="cross-entropy, with noise and dropout", title="training")
    axes[0].legend(title="accuracy on the test split")
    axes[1].grid(visible=False)
    axes[1].imshow(np.log1p(table), cmap="Blues")
    for (true, guess), count in np.ndenumerate(table):
        if count:
            colour = "white" if true == guess else "black"
            axes[1].text(guess, true, str(count), ha="center", va="center", color=colour)
    ticks: dict[str, Any] = {"ticks": range(9), "labels": range(1, 10)}
    axes[1].set_xticks(**ticks)
    axes[1].set_yticks(**ticks)
    axes[1].set(xlabel="taken for speaker", ylabel="speaker", title="seed 0, test split")


def run(seeds: int, path: Path) -> int:
    """Train with seeds 0 to `seeds` - 1, print and plot. Returns 0, or 1 when the median accuracy is below 96 %."""
    data, test = load("train"), load("test")
    print(f"GRU(12, {HIDDEN}) learns to tell nine speakers apart from {len(data.labels)} utterances, {EPOCHS} epochs.")
    losses, accuracies, table = [], [], np.zeros((9, 9), np.int64)
    for seed in range(seeds):
        start = time.perf_counter()
        model, curve = train(data, seed)
        seconds = time.perf_counter() - start
        losses.append(curve)
        accuracies.append(accuracy(model, test))
        if not seed:
            table = confusion(model, test)
        print(
            f"seed {seed}: {accuracies[-1]:.2%} of the {len(test.labels)} test utterances, trained in {seconds:.1f} s"
        )
    median = float(np.median(accuracies))
    print(f"test accuracy, median of {seeds} seed{'s' * (seeds > 1)}: {median:.2%}")
    plot(path, lambda axes: draw(axes, losses, accuracies, table), columns=2)
    if median < MIN_ACCURACY:
        print(f"FAILED: a median of at least {MIN_ACCURACY:.0%} is expected, got {median:.2%}")
        return 1
    return 0


def main() -> None:
    """Command line: see the module."""
    parser = argparse.ArgumentParser(description="Train the demo's GRU on the Japanese Vowels training split.")
    parser.add_argument("--validate", action="store_true", help="cross-validate inside the training split")
    validate, data = parser.parse_args().validate, load("train")
    if validate:
        fold = np.arange(len(data.labels)) % 5  # 30 utterances a speaker in a row: every fold has 6 of each
        for k in range(5):
            inside, outside = (data.take(np.flatnonzero(rows)) for rows in (fold != k, fold == k))
            print(f"fold {k}: {accuracy(train(inside, seed=k)[0], outside):.2%}")
        return
    model, _ = train(data, seed=0)
    print(f"seed 0: {accuracy(model, load('test')):.2%} of the test split")
    half = {name: array.astype(np.float16) for name, array in model.arrays().items()}
    np.savez_compressed(DATA / "vowels_gru64.npz", **half)


if __name__ == "__main__":
    main()
