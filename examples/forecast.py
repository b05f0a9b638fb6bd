"""From a series to a trained forecaster in eight lines: the next day of an hourly series, from the week before.

    python examples/forecast.py

The series here is made up; one of pandas, such as `pandas.read_csv("load.csv")["load"]`, does as well. Windows never
look ahead: the last quarter of the time is held out before they are cut, and the scale is that of the time before.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import recurra
from recurra import training

DAY, WEEK = 24, 168


def forecaster(series: Any) -> tuple[recurra.Model, training.History, Any]:
    """The model, its history and the series as it reads it."""
    values = np.asarray(series, "float32")
    cut = len(values) * 3 // 4
    scaled = (values - values[:cut].mean()) / values[:cut].std()
    train, held = (training.windows(part, WEEK, 5, horizon=DAY) for part in (scaled[:cut], scaled[cut:]))
    layers = [recurra.GRU(1, 32, seed=0), recurra.Pool("last"), recurra.Linear(32, DAY, seed=1)]
    model = recurra.Model(layers, batch_first=True)
    history = training.fit(model, *train, epochs=30, lr=0.01, validation=held, patience=5, clip_norm=1.0, seed=0)
    return model, history, scaled


def generated(weeks: int = 24, seed: int = 0) -> Any:
    """A pattern of days and weeks, with noise that fades over hours."""
    hour, noise = np.arange(weeks * WEEK), np.random.default_rng(seed).normal(scale=0.1, size=weeks * WEEK)
    for k in range(1, len(noise)):
        noise[k] += 0.8 * noise[k - 1]
    weekend = hour // DAY % 7 >= 5
    return 20 + 5 * (np.where(weekend, 0.4, 1.0) * np.sin(2 * np.pi * hour / DAY) - 0.5 * weekend + noise)


def main() -> None:
    model, history, scaled = forecaster(generated())
    x, y = training.windows(scaled[len(scaled) * 3 // 4 :], WEEK, DAY, horizon=DAY)
    error = np.sqrt(np.mean((model.predict(x) - y) ** 2))
    naive = np.sqrt(np.mean((x[:, :DAY, 0] - y) ** 2))
    print(f"{history}\nroot mean square error {error:.3f}, as a week before {naive:.3f}, of a standard deviation")


if __name__ == "__main__":
    main()
