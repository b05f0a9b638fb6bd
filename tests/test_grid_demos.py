"""The demos of grids: what they train and print, and that they name what is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recurra
from recurra.demo.variants import digits, grid, local_global

LAYERS: dict[str, tuple[Callable[[], Any], int]] = {
    "multidimensional": (lambda: recurra.MultidimensionalLSTM(1, 3, 2, "leakylp", dtype="float64", seed=0), 12),
    "grid": (lambda: recurra.GridLSTM(1, 3, 2, input="every", dtype="float64", seed=0), 6),
}


@pytest.mark.parametrize(("make", "width"), LAYERS.values(), ids=LAYERS)
def test_gradients_of_a_classifier_go_down_the_loss(make: Callable[[], Any], width: int) -> None:
    """A step along the gradients of the recurrent layer changes the loss by what they say."""
    model = digits.GridClassifier(make(), width)
    model.head = recurra.Linear(width, 10, dtype="float64", seed=1)
    rng = np.random.default_rng(0)
    batch = digits.Digits(rng.random((4, 8, 8, 1)), rng.integers(0, 10, 4))
    _, gradients = model.gradients(batch)
    start, step, losses = model.layer.state_dict(), 1e-5, []
    for sign in (1, -1):
        moved = {name: value + sign * step * gradients["layer"][name] for name, value in start.items()}
        model.layer.load_state_dict(moved)
        losses.append(model.gradients(batch)[0])
    expected = sum((value**2).sum() for value in gradients["layer"].values())
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("demo", [digits, grid, local_global])
def test_an_epoch_of_a_demo_prints_its_table(
    demo: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(digits, "load", drawn)
    assert demo.run(tmp_path / "plot.png", 1) == 0
    printed = capsys.readouterr().out
    assert "parameters" in printed and "LSTM" in printed and "GRU" in printed and "advantage" in printed


def drawn() -> tuple[digits.Digits, digits.Digits]:
    """In place of the images, so that an epoch is short."""
    rng = np.random.default_rng(0)
    images, labels = rng.random((80, 8, 8, 1), dtype=np.float32), rng.integers(0, 10, 80)
    return digits.Digits(images[:40], labels[:40]), digits.Digits(images[40:], labels[40:])


def test_the_images_are_all_there_once() -> None:
    pytest.importorskip("sklearn")
    train, test = digits.load()
    assert train.images.shape == (1347, 8, 8, 1) and test.images.shape == (450, 8, 8, 1)
    assert train.images.dtype == np.float32 and train.images.max() == 1 and train.images.min() == 0
    both = np.concatenate([train.images, test.images]).reshape(1797, -1)
    assert len(np.unique(both, axis=0)) == 1797
    assert (np.bincount(test.labels) > 30).all()


@pytest.mark.parametrize("demo", [digits, grid, local_global])
def test_without_scikit_learn_a_demo_says_what_it_needs(
    demo: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert demo.run(tmp_path / "plot.png", 1) == 1
    assert "pip install scikit-learn" in capsys.readouterr().out


def some_scenes() -> local_global.Scenes:
    return local_global.scenes(drawn()[0].images[:6], 3)


def test_a_marker_lies_opposite_to_its_digit_and_says_the_label() -> None:
    found = some_scenes()
    for sheet, labels, ink in zip(*found, strict=True):
        (at,) = np.argwhere(sheet[..., 1])
        assert set(at.tolist()) <= {0, local_global.SIDE - 1}
        assert (labels == (sheet[(*at, 1)] > 0)).all()
        distance = np.abs(np.argwhere(ink) - at)
        assert distance.min() >= 5 and distance.max() < local_global.SIDE and ink.sum() == 64
    assert len({int(sheet[..., 1].sum()) for sheet in found.maps}) == 2


@pytest.mark.parametrize(
    "model",
    [
        local_global.LocalGlobal(2, "float64"),
        local_global.Plain(recurra.LSTM, 2, "float64"),
        local_global.Plain(recurra.GRU, 2, "float64"),
    ],
    ids=["local-global", "LSTM", "GRU"],
)
def test_gradients_of_pixels_go_down_the_loss(model: Any) -> None:
    """The loss of several layers is reported as their mean, of which the gradients are a multiple."""
    found = some_scenes()
    batch = found._replace(maps=found.maps.astype("float64"))
    _, gradients = model.gradients(batch)
    losses: list[float] = []
    start, step = {name: layer.state_dict() for name, layer in model.layers.items()}, 1e-5
    for sign in (1, -1):
        for name, layer in model.layers.items():
            moved = {key: value + sign * step * gradients[name][key] for key, value in start[name].items()}
            layer.load_state_dict(moved)
        losses.append(model.gradients(batch)[0])
    expected = sum((value**2).sum() for arrays in gradients.values() for value in arrays.values())
    if isinstance(model, local_global.LocalGlobal):
        expected /= local_global.LAYERS
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(expected, rel=1e-6)
    assert 0 <= model.score(batch) <= 1
