"""The captioning demo: captions say what is in the scenes, gradients are slopes, a short training learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import assert_gradients_are_slopes

import recurra
from recurra.demo.variants import captions, common

TINY = captions.Settings(scenes=800, test=50, embedding=12, hidden=32, batch=16, epochs=3)


def test_captions_say_what_is_there() -> None:
    data = captions.scenes(200, seed=3)
    assert data.images.shape == (200, 432) and data.images.dtype == np.float32
    assert data.words.shape[1] == 200 and set(data.lengths) == {6, 12, 18}
    for image, words, length in zip(data.images.reshape(200, 2, 6, 2, 6, 3), data.words.T, data.lengths, strict=True):
        assert (words[: length - 1] != captions.END).all() and (words[length - 1 :] == captions.END).all()
        said = captions.sentence(words)
        for k, place in enumerate(captions.QUADRANTS):
            quadrant = image[k // 2, :, k % 2]
            brightest = captions.COLOURS[int(quadrant.mean((0, 1)).argmax())]
            lit = quadrant.mean((0, 1)).max() > 0.1
            assert (place in said) == lit
            if lit:
                assert any(f"a {brightest} {shape} {place}" in said for shape in captions.SHAPES)


def test_scenes_depend_on_the_seed_alone() -> None:
    first, same, other = (captions.scenes(20, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.images, same.images)
    np.testing.assert_array_equal(first.words, same.words)
    assert (first.images != other.images).any()
    few = first.take(np.array([3, 7]))
    np.testing.assert_array_equal(few.words, first.words[: few.lengths.max(), [3, 7]])


@pytest.mark.parametrize("as_state", [True, False])
@pytest.mark.parametrize("cell", [recurra.LSTM, recurra.GRU])
def test_gradients_are_slopes(cell: Callable[..., Any], as_state: bool) -> None:
    model = captions.Captioner(cell, as_state, 16, TINY)
    batch = captions.scenes(20, seed=0)
    assert_gradients_are_slopes(model, batch, 0.02, 0.01)


def test_networks_are_of_one_size() -> None:
    counts = [common.parameter_count(model) for model in captions.networks(captions.Settings()).values()]
    assert max(counts) - min(counts) < 0.02 * max(counts)


def test_a_score_is_the_share_of_whole_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    model, test = captions.Captioner(recurra.GRU, True, 8, TINY), captions.scenes(10, seed=0)
    written = np.full((10, len(test.words) + 2), captions.END)
    written[:, : len(test.words)] = test.words.T
    written[0, 0] += 1
    monkeypatch.setattr(model, "captions", lambda images, beams: written)
    assert model.score(test) == 0.9
    monkeypatch.setattr(model, "captions", lambda images, beams: written[:, :6])
    assert model.score(test) == ((test.lengths == 6).sum() - (test.lengths[0] == 6)) / 10


def test_it_runs_and_learns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = captions.networks(TINY)["LSTM, state"].gradients(captions.scenes(100, seed=1))[0]
    monkeypatch.setattr(captions, "SHOWN", 2)
    assert captions.run(tmp_path / "a.png", 2, TINY) == 0
    out = capsys.readouterr().out
    assert "with 4 beams: LSTM, state" in out and "The best way in is" in out
    last = float(out.split("LSTM, state, epoch 2 of 2  loss ")[1].split()[0])
    assert last < first - 1
    pytest.importorskip("matplotlib")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_it_says_why_it_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = captions.Settings(scenes=32, test=10, embedding=4, hidden=4, batch=32)
    assert captions.run(tmp_path / "a.png", None, few) == 1
    assert "FAILED: at least 90% of the captions are expected to be right, got" in capsys.readouterr().out
