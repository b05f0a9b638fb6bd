"""The demo of a Grid LSTM along the depth: its patterns, its gradients, and that it learns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recurra
from recurra.demo.variants import common, parity


def test_patterns_are_all_there_once() -> None:
    train, test = parity.patterns(parity.Settings())
    assert train.x.shape == (12, 3072, 1) and test.x.shape == (12, 1024, 1) and train.x.dtype == np.float32
    both = np.concatenate([train.x, test.x], axis=1)[..., 0]
    assert len(np.unique(both, axis=1).T) == 4096 and set(np.unique(both)) == {-1, 1}
    labels = np.concatenate([train.labels, test.labels])
    assert (labels == (both > 0).sum(0) % 2).all()


@pytest.mark.parametrize("memory", [True, False])
def test_gradients_go_down_the_loss(memory: bool) -> None:
    """A step along the gradients of the layer changes the loss by what they say."""
    model = parity.Deep(parity.Settings(bits=4, depth=3), 5, memory)
    options: dict[str, Any] = {} if memory else {"non_lstm": {0: "tanh"}, "proj_m": False}
    model.layer = recurra.GridLSTM(4, 5, 0, 3, dtype="float64", seed=0, **options)
    model.head = recurra.Linear(5, 2, dtype="float64", seed=1)
    rng = np.random.default_rng(0)
    batch = common.Batch(rng.standard_normal((4, 6, 1)), rng.integers(0, 2, 6))
    gradients = model.gradients(batch)[1]["layer"]
    start, step, losses = model.layer.state_dict(), 1e-5, []
    for sign in (1, -1):
        model.layer.load_state_dict({name: value + sign * step * gradients[name] for name, value in start.items()})
        losses.append(model.gradients(batch)[0])
    expected = sum((value**2).sum() for value in gradients.values())
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(expected, rel=1e-6)


def test_an_epoch_prints_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert parity.run(tmp_path / "plot.png", 1, parity.Settings(bits=6, hidden=8, depth=2)) == 0
    printed = capsys.readouterr().out
    assert "48 patterns to learn from, 16 held out, 2 blocks deep" in printed and "advantage" in printed
    names = ["Grid LSTM", "tanh net", "LSTM", "GRU"]
    assert [line[:9].strip() for line in printed.splitlines()[-6:-2]] == names


def test_the_grid_learns() -> None:
    settings = parity.Settings(bits=8, depth=6, hidden=24)
    train, _ = parity.patterns(settings)
    rows = common.shuffled(len(train.labels), settings.batch)

    def batches(epoch: int) -> Iterator[common.Batch]:
        return (common.Batch(train.x[:, own], train.labels[own]) for own in rows(epoch))

    models = {"grid": parity.Deep(settings, settings.hidden, memory=True)}
    (grid,) = common.compare(models, batches, train, 40, 1e-2)
    assert grid.score > 0.9
