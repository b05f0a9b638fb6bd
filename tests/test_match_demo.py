"""The match-LSTM's demo: labels are what the words say, networks are of equal size, a short run learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recurra.demo.variants import common, match

SETTINGS = match.Settings()


def test_there_are_four_different_words_of_each_quality() -> None:
    assert len(match.WORDS) == len(set(match.WORDS)) == 4 * len(match.QUALITIES.split(","))


def test_labels_follow_from_the_words() -> None:
    pairs = match.drawn(3000, SETTINGS, 0)
    assert pairs.premise.shape == (6, 3000) and pairs.hypothesis.shape == (3, 3000)
    for premise, hypothesis, label in zip(pairs.premise.T, pairs.hypothesis.T, pairs.labels, strict=True):
        said = {word // 4: word // 2 for word in premise}
        assert len(said) == 6
        found = [word // 4 in said and word // 2 == said[word // 4] for word in hypothesis]
        opposed = [word // 4 in said and word // 2 != said[word // 4] for word in hypothesis]
        expected = {0: (3, 0), 1: (2, 1), 2: (2, 0)}[label]
        assert (sum(found), sum(opposed)) == expected
    assert np.bincount(pairs.labels).min() > 900
    assert not np.array_equal(match.drawn(3000, SETTINGS, 1).premise, pairs.premise)


def test_plain_networks_read_both_sequences_and_are_of_equal_size() -> None:
    pairs = match.drawn(2, SETTINGS, 0)
    batch = match.joined(pairs)
    assert batch.x.shape == (10, 2)
    assert list(batch.x[:, 1]) == [*pairs.premise[:, 1], match.SEPARATOR, *pairs.hypothesis[:, 1]]
    parameters = common.parameter_count(match.Reader(SETTINGS))
    for model in match.plain(parameters, SETTINGS).values():
        assert common.parameter_count(model) == pytest.approx(parameters, rel=0.02)
        assert np.isfinite(model.gradients(pairs)[0]) and 0 <= model.score(pairs) <= 1


def test_gradients_are_slopes() -> None:
    model, pairs = match.Reader(match.Settings(embedding=4, hidden=5)), match.drawn(20, SETTINGS, 0)
    _, gradients = model.gradients(pairs)
    for name, layer in model.layers.items():
        parameters, largest = layer.state_dict(), {}
        for key, gradient in gradients[name].items():
            largest[key] = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
        for key, index in largest.items():
            losses = []
            for nudge in (1e-2, -1e-2):
                changed = {n: array.copy() for n, array in parameters.items()}
                changed[key][index] += nudge
                layer.load_state_dict(changed)
                losses.append(model.gradients(pairs)[0])
            layer.load_state_dict(parameters)
            assert gradients[name][key][index] == pytest.approx((losses[0] - losses[1]) / 2e-2, rel=2e-2, abs=1e-4)


def test_it_runs_and_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = match.Settings(premise=2, hypothesis=1, pairs=16000, test=500, hidden=24, rate=1e-2)
    assert match.run(tmp_path / "a.png", 5, settings) == 0
    out = capsys.readouterr().out
    scores = {line.split()[0]: float(line.split()[2][:-1]) for line in out.splitlines() if "%  " in line}
    assert scores.keys() == {"match", "LSTM", "GRU"} and scores["match"] > 80
    pytest.importorskip("matplotlib")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_it_says_why_it_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(match.Settings, "epochs", 1)
    assert match.run(tmp_path / "a.png", 1, match.Settings(pairs=200, test=200, hidden=4, embedding=4)) == 1
    assert "FAILED: the match-LSTM is expected to read 95% of the pairs, got" in capsys.readouterr().out
