"""What the variants' demos share: training several models in turn, plain networks of equal size, table and verdict."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

import recurra
from recurra import training
from recurra.demo.optimise import Arrays, Layer, Updater, cosine
from recurra.demo.report import BLUE, GREY, ORANGE, Progress, plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLAIN = {"LSTM": recurra.LSTM, "GRU": recurra.GRU}  # what every variant is set beside

Array = npt.NDArray[Any]


class Model(Protocol):
    """What `compare` trains.

    Attributes:
        layers: names of your choice to all that has parameters.
    """

    layers: Mapping[str, Layer]

    def gradients(self, batch: Any) -> tuple[float, Mapping[str, Arrays]]:
        """The loss of a batch, and its gradients by layer."""

    def score(self, test: Any) -> float:
        """How good it is on data that it was not trained on."""


M = TypeVar("M", bound=Model)


class Measure(NamedTuple):
    """What `Model.score` returns: its name, how it is printed, and whether more is better."""

    name: str
    form: str
    more_is_better: bool


ACCURACY = Measure("accuracy", ".1%", True)


@dataclass
class Result:
    """What became of a model: its mean loss by epoch, the seconds of training after each, and the final score."""

    name: str
    parameters: int
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    score: float = math.nan


def parameter_count(model: Model) -> int:
    """Number of values in all parameters."""
    return sum(array.size for layer in model.layers.values() for array in layer.state_dict().values())


def nearest(make: Callable[[int], M], parameters: int) -> M:
    """The model `make(size)` whose parameter count, which grows with size = 1, 2, ..., is nearest to `parameters`."""
    low, high = 1, 2
    while parameter_count(make(high)) < parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameter_count(make(middle)) < parameters else (low, middle)
    return min(map(make, (low, high)), key=lambda model: abs(parameter_count(model) - parameters))


class Batch(NamedTuple):
    """For a `Classifier`: x float32 [T, B, I], or symbols [T, B]; labels [B]; valid steps [B], None for T each."""

    x: Array
    labels: Array
    lengths: Array | None = None


class Classifier:
    """A plain recurrent layer, of symbols with an Embedding before it, the maximum over time, and a Linear.

    Args:
        cell: recurra.LSTM, recurra.GRU or one like them.
        inputs: numbers in a step, or size of the embedding.
        hidden: units.
        classes: how many there are.
        symbols: how many different ones there are, for sequences of symbols.
        seed: of all parameters.
    """

    def __init__(
        self,
        cell: Callable[..., Any],
        inputs: int,
        hidden: int,
        classes: int,
        symbols: int | None = None,
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.embedding = recurra.Embedding(symbols, inputs, seed=rng) if symbols else None
        self.layer = cell(inputs, hidden, rng=rng)
        self.head = recurra.Linear(hidden, classes, seed=rng)
        before = {"embedding": self.embedding} if self.embedding else {}
        self.layers: Mapping[str, Layer] = {**before, "layer": self.layer, "head": self.head}

    def gradients(self, batch: Batch) -> tuple[float, dict[str, Arrays]]:
        """Of the mean cross-entropy."""
        x, embedding_tape = self.embedding.forward(batch.x) if self.embedding else (batch.x, None)
        y, _, tape = self.layer.forward(x, lengths=batch.lengths)
        pooled, unpool = training.max_over_time(y, batch.lengths)
        logits, head_tape = self.head.forward(pooled)
        loss, dlogits = training.softmax_cross_entropy(logits, batch.labels)
        head = head_tape.backward(dlogits)
        assert head.x is not None
        layer = tape.backward(unpool(head.x), input_grad=embedding_tape is not None)
        gradients: dict[str, Arrays] = {"layer": layer.params, "head": head.params}
        if embedding_tape is not None:
            gradients["embedding"] = embedding_tape.backward(layer.x).params
        return loss, gradients

    def guesses(self, batch: Batch) -> Array:
        """The likeliest label of each sequence [B]."""
        x = self.embedding(batch.x) if self.embedding else batch.x
        pooled, _ = training.max_over_time(self.layer(x, lengths=batch.lengths)[0], batch.lengths)
        return np.asarray(self.head(pooled).argmax(-1))

    def score(self, test: Batch) -> float:
        """Share of right guesses."""
        return float((self.guesses(test) == test.labels).mean())


def plain_classifiers(
    parameters: int, inputs: int, classes: int, symbols: int | None = None, seed: int = 0
) -> dict[str, Classifier]:
    """LSTM and GRU with as many parameters as a variant has, or as near as a hidden size can make it."""

    def maker(cell: Callable[..., Any]) -> Callable[[int], Classifier]:
        return lambda hidden: Classifier(cell, inputs, hidden, classes, symbols, seed)

    return {name: nearest(maker(cell), parameters) for name, cell in PLAIN.items()}


def compare(
    models: Mapping[str, Model],
    batches: Callable[[int], Iterable[Any]],
    test: Any,
    epochs: int,
    rate: float | Mapping[str, float],
    max_norm: float = 1.0,
    steps: int = 1,
) -> list[Result]:
    """Train the models one after another, each by Adam with a cosine schedule, on the same batches; then score them.

    Args:
        models: names to models.
        batches: the batches of epoch 0, 1, ...: the same ones whenever it is asked.
        test: what `Model.score` is given.
        epochs: how many.
        rate: learning rate at the start, of all or by name.
        max_norm: bound of the gradients' norm.
        steps: how often the rate falls in an epoch, before each of so many batches.
    """
    results = []
    with Progress("training", epochs * len(models)) as progress:
        for name, model in models.items():
            highest = rate[name] if isinstance(rate, Mapping) else rate
            result, updater = Result(name, parameter_count(model)), Updater(model.layers, highest, max_norm)
            start = time.perf_counter()
            for epoch in range(epochs):
                losses = []
                for k, batch in enumerate(batches(epoch)):
                    updater.rate = cosine(highest, epoch * steps + min(k, steps - 1), epochs * steps)
                    loss, gradients = model.gradients(batch)
                    updater.step(gradients)
                    losses.append(loss)
                result.losses.append(float(np.mean(losses)))
                result.seconds.append(time.perf_counter() - start)
                progress.advance()
                progress.report(f"{name}, epoch {epoch + 1} of {epochs}  loss {result.losses[-1]:.4f}", keep=False)
            result.score = model.score(test)
            results.append(result)
    return results


def shuffled(count: int, size: int, seed: int = 0) -> Callable[[int], list[Array]]:
    """For `compare`, over data at hand: the rows of each batch of an epoch, each row once an epoch."""

    def rows(epoch: int) -> list[Array]:
        order = np.random.default_rng([seed, epoch]).permutation(count)
        return [order[start : start + size] for start in range(0, count, size)]

    return rows


def chance_margin(results: Sequence[Result], samples: int) -> float:
    """Two standard errors of the difference of two accuracies on `samples` samples: less is as good as nothing."""
    p = max(result.score for result in results)
    return 2 * math.sqrt(2 * p * (1 - p) / samples)


def verdict(results: Sequence[Result], measure: Measure = ACCURACY, margin: float = 0.0) -> str:
    """A sentence: whether the best variant beats the best plain network (named as in PLAIN) by more than `margin`."""
    sign = 1 if measure.more_is_better else -1
    variants = [result for result in results if result.name not in PLAIN]
    plain = [result for result in results if result.name in PLAIN]
    ours, theirs = (max(group, key=lambda result: sign * result.score) for group in (variants, plain))
    lead = sign * (ours.score - theirs.score)
    scores = f"{ours.score:{measure.form}}, {theirs.name} {theirs.score:{measure.form}}"
    noise = f" (differences up to {margin:{measure.form}} are noise)" if margin else ""
    if lead > margin:
        return f"{ours.name} has the advantage here: {scores}{noise}."
    if -lead > margin:
        return f"{ours.name} has no advantage here, {theirs.name} is better: {scores}{noise}."
    return f"{ours.name} has no advantage here: {scores}{noise}."


def show_table(results: Sequence[Result], measure: Measure = ACCURACY) -> None:
    """Print a line for each."""
    width = max(len(result.name) for result in results)
    print(f"{'':<{width}}  parameters  {measure.name:>10}  seconds")
    for result in results:
        score = f"{result.score:{measure.form}}"
        print(f"{result.name:<{width}}  {result.parameters:>10}  {score:>10}  {result.seconds[-1]:7.1f}")


def finish(
    path: Path,
    results: Sequence[Result],
    measure: Measure = ACCURACY,
    margin: float = 0.0,
    panels: Sequence[Callable[[Axes], None]] = (),
) -> None:
    """Print table and verdict, and plot losses, scores and the demo's own panels to `path`."""
    show_table(results, measure)
    print(verdict(results, measure, margin))

    def draw(axes: list[Axes]) -> None:
        draw_losses(axes[0], results)
        _draw_scores(axes[1], results, measure)
        for axis, panel in zip(axes[2:], panels, strict=True):
            panel(axis)

    plot(path, draw, columns=2 + len(panels))


def _colours(results: Sequence[Result]) -> list[str]:
    others = iter((BLUE, "#2a8c5a", "#8a4fb0", "#b03a3a", "#1a9aa8"))
    return [{"LSTM": ORANGE, "GRU": GREY}.get(result.name) or next(others) for result in results]


def draw_losses(axis: Axes, results: Sequence[Result]) -> None:
    for result, colour in zip(results, _colours(results), strict=True):
        axis.semilogy(result.seconds, result.losses, color=colour, label=result.name, marker=".", markersize=3)
    axis.set(xlabel="seconds of training", ylabel="training loss", title="training")
    axis.legend()


def _draw_scores(axis: Axes, results: Sequence[Result], measure: Measure) -> None:
    names = ["\n".join([*wrap(result.name, 12), str(result.parameters)]) for result in results]
    bars = axis.bar(names, [result.score for result in results], color=_colours(results), width=0.6)
    axis.bar_label(bars, [f"{result.score:{measure.form}}" for result in results], padding=2)
    axis.margins(y=0.12)
    axis.grid(visible=False, axis="x")
    axis.set(xlabel="parameters", ylabel=measure.name, title=f"{measure.name} on test data")
