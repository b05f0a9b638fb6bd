"""Forecast the next day of an hourly series from the week before, beside the naive seasonal forecasts.

The series is synthetic, made from a fixed seed: a daily and a weekly pattern without trend, and noise that fades over
hours. So what it shows is that training works, not how well a GRU forecasts real loads; and since the noise is known,
so is the least error that any forecast can reach. The last quarter of the series is for the test: no window that is
trained on reaches into it, and the scale of the inputs comes from the part before.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

import recurra
from recurra import training
from recurra.demo.optimise import Updater, cosine
from recurra.demo.report import BLUE, GREY, ORANGE, Progress, plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DAY, WEEK = 24, 168
HOURS, NOISE, MEMORY = 52 * WEEK, 0.25, 0.9  # noise: e' = MEMORY * e + NOISE * standard normal
SHOWN = 7  # days of forecasts in the plot

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Settings:
    """Sizes and the recipe."""

    hidden: int = 48
    rate: float = 5e-3
    max_norm: float = 1.0
    batch: int = 64
    stride: int = 7  # hours between windows of training: every hour of the day is among their beginnings
    epochs: int = 20
    seed: int = 0


class Windows(NamedTuple):
    """inputs [N, WEEK, 5] and the values of the DAY after each, [N, DAY]."""

    inputs: Floats
    targets: Floats


@dataclass
class Errors:
    """Root mean square errors by hour of the forecast [DAY]."""

    name: str
    by_hour: npt.NDArray[Any] = field(repr=False)

    @property
    def total(self) -> float:
        """Over all hours."""
        return float(np.sqrt(np.mean(self.by_hour**2)))


def series(hours: int = HOURS, seed: int = 0) -> Floats:
    """The values, hour by hour."""
    t = np.arange(hours)
    shape = np.cos(2 * np.pi * (t - 14) / DAY) + 0.5 * np.cos(4 * np.pi * (t - 9) / DAY)
    weekend = (t // DAY) % 7 >= 5
    noise = np.random.default_rng(seed).normal(scale=NOISE, size=hours)
    for k in range(1, hours):
        noise[k] += MEMORY * noise[k - 1]
    return np.asarray(np.where(weekend, 0.5, 1.0) * shape - 0.8 * weekend + noise, np.float32)


def least_errors() -> Errors:
    """Of a forecaster that knows how the series was made: the noise after the last value cannot be known."""
    added = NOISE**2 * MEMORY ** (2.0 * np.arange(DAY))
    return Errors("least possible", np.sqrt(added.cumsum()))


def features(values: Floats) -> Floats:
    """[T, 5]: each value, and where in the day and in the week its hour is."""
    t = np.arange(len(values))
    clock = [f(2 * np.pi * t / period) for period in (DAY, WEEK) for f in (np.sin, np.cos)]
    return np.stack([values, *clock], axis=1).astype(np.float32)


def split(values: Floats, stride: int) -> tuple[Windows, Windows]:
    """Windows of training and of the test: three quarters of the time before the last. The test's begin at midnight."""
    rows = features(values)
    cut = len(rows) * 3 // 4 // WEEK * WEEK
    parts = (rows[:cut], stride), (rows[cut:], DAY)
    train, test = (training.windows(part, WEEK, step, horizon=DAY) for part, step in parts)
    return Windows(train[0], train[1][..., 0]), Windows(test[0], test[1][..., 0])


class Model:
    """A GRU reads a week; a Linear makes the DAY after it from its last output. In units of the training values."""

    def __init__(self, train: Windows, settings: Settings) -> None:
        values = train.inputs[..., 0]
        self._mean, self._std = values.mean(), values.std()
        weights = np.random.default_rng([settings.seed, 0])
        self.gru = recurra.GRU(train.inputs.shape[2], settings.hidden, batch_first=True, rng=weights)
        self.head = recurra.Linear(settings.hidden, DAY, seed=weights)
        self._updater = Updater({"gru": self.gru, "head": self.head}, settings.rate, settings.max_norm)

    def scaled(self, values: Floats) -> Floats:
        """In units of the training values."""
        return np.asarray((values - self._mean) / self._std, np.float32)

    def ready(self, inputs: Floats) -> Floats:
        """Inputs as the GRU reads them."""
        x = inputs.copy()
        x[..., 0] = self.scaled(x[..., 0])
        return x

    def step(self, inputs: Floats, targets: Floats, rate: float) -> float:
        """One step of Adam for scaled windows; returns the loss."""
        _, state, tape = self.gru.forward(inputs)
        forecast, head_tape = self.head.forward(state)  # the last output is the final state
        loss, dforecast = training.mean_squared_error(forecast[0], targets)
        head = head_tape.backward(dforecast[None])
        gru = tape.backward(dstate=head.x, input_grad=False)
        self._updater.rate = rate
        self._updater.step({"gru": gru.params, "head": head.params})
        return loss

    def forecast(self, inputs: Floats) -> Floats:
        """[N, DAY], in the series' own units."""
        _, state = self.gru(self.ready(inputs))
        return np.asarray(self.head(state)[0] * self._std + self._mean, np.float32)


def errors(name: str, forecast: Floats, targets: Floats) -> Errors:
    """Of forecasts [N, DAY]."""
    return Errors(name, np.sqrt(np.mean((forecast - targets) ** 2, axis=0, dtype=np.float64)))


def naive(inputs: Floats, period: int) -> Floats:
    """The values one period before each hour of the DAY, all of which the window holds."""
    start = WEEK - period
    return inputs[:, start : start + DAY, 0]


def train(model: Model, data: Windows, settings: Settings) -> list[float]:
    """Fit the model; returns the mean loss of each epoch."""
    inputs, targets = model.ready(data.inputs), model.scaled(data.targets)
    order, losses = np.random.default_rng([settings.seed, 1]), []
    with Progress("forecast", settings.epochs) as progress:
        for epoch in range(settings.epochs):
            rate, shuffled = cosine(settings.rate, epoch, settings.epochs), order.permutation(len(inputs))
            batches = [shuffled[k : k + settings.batch] for k in range(0, len(shuffled), settings.batch)]
            losses.append(float(np.mean([model.step(inputs[rows], targets[rows], rate) for rows in batches])))
            progress.advance()
            progress.report(f"epoch {epoch + 1:2}  training loss {losses[-1]:.4f}", keep=False)
    return losses


def draw(axes: list[Axes], test: Windows, forecast: Floats, scores: list[Errors]) -> None:
    """A week of one-day forecasts, and errors by hour."""
    days = slice(-SHOWN, None)
    hours = np.arange(SHOWN * DAY)
    axes[0].plot(hours, test.targets[days].ravel(), color="black", linewidth=1, label="the series")
    axes[0].plot(hours, naive(test.inputs, WEEK)[days].ravel(), color=ORANGE, linewidth=1, label="as a week before")
    axes[0].plot(hours, forecast[days].ravel(), color=BLUE, label="GRU")
    axes[0].set_xticks(np.arange(0, SHOWN * DAY + 1, DAY))
    axes[0].set(xlabel="hour; a forecast is made at each line, for the day after it", title=f"the last {SHOWN} days")
    axes[0].legend()
    for score, colour in zip(scores, (BLUE, ORANGE, GREY, "black"), strict=True):
        axes[1].plot(range(1, DAY + 1), score.by_hour, "o-", color=colour, markersize=3, label=score.name)
    axes[1].set(xlabel="hours ahead", ylabel="root mean square error", title="error on the test days", ylim=(0, None))
    axes[1].legend()


def run(path: Path, settings: Settings | None = None) -> int:
    """Print the demo and draw the plot. Returns 0, or 1 when a naive forecast is better than the GRU's."""
    settings = settings or Settings()
    start = time.perf_counter()
    data, test = split(series(), settings.stride)
    model = Model(data, settings)
    print(f"{model.gru} reads a week of a synthetic hourly series and forecasts the next day.")
    train(model, data, settings)
    seconds, forecast = time.perf_counter() - start, model.forecast(test.inputs)
    baselines = {"as a week before": WEEK, "as a day before": DAY}
    scores = [errors("GRU", forecast, test.targets)]
    scores += [errors(name, naive(test.inputs, period), test.targets) for name, period in baselines.items()]
    best = min(score.total for score in scores[1:])
    scores.append(least_errors())
    print(f"root mean square error on the {len(test.targets)} test days, all after the training:")
    for score in scores:
        print(f"   {score.name:<18}{score.total:.3f}")
    better = scores[0].total < best
    verdict = f"{1 - scores[0].total / best:.0%} below" if better else "FAILED: not below"
    print(f"{verdict} the better naive forecast; {seconds:.1f} s")
    plot(path, lambda axes: draw(axes, test, forecast, scores), columns=2)
    return 0 if better else 1
