"""The differential RNN's demo: frames have one scale, networks one size, a short run learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recurra.demo.train_vowels import load
from recurra.demo.variants import common, differential


def test_frames_have_the_scale_of_the_training() -> None:
    train, test = load("train"), load("test")
    x, unseen = differential.standardised(train, test)
    valid = x[np.arange(len(x))[:, None] < train.lengths]
    np.testing.assert_allclose([valid.mean(0), valid.std(0)], [np.zeros(12), np.ones(12)], atol=1e-4)
    assert x.dtype == unseen.dtype == np.float32
    assert abs(unseen[0].mean(0)).max() > 0.01


def test_networks_are_of_one_size_and_see_the_orders_they_are_named_after() -> None:
    models = differential.networks(12, differential.Settings())
    counts = {name: common.parameter_count(model) for name, model in models.items()}
    assert list(models) == ["orders 1", "orders 0, 1, 2", "LSTM", "GRU"]
    assert max(counts.values()) - min(counts.values()) < 0.03 * max(counts.values())
    assert models["orders 0, 1, 2"].layer.orders == (0, 1, 2) and models["orders 1"].layer.orders == (1,)


def test_it_runs_and_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert differential.run(tmp_path / "a.png", 12, differential.Settings(hidden=16)) == 0
    out = capsys.readouterr().out
    scores = [float(line.split("%")[0].split()[-1]) for line in out.splitlines() if "%  " in line]
    assert len(scores) == 4 and min(scores) > 60
    assert "orders 1" in out and " here" in out and "CC BY 4.0" in out
    pytest.importorskip("matplotlib")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_it_says_why_it_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(differential.Settings, "epochs", 1)
    assert differential.run(tmp_path / "a.png", 1, differential.Settings(hidden=4)) == 1
    assert "FAILED: every network is expected to find 90% of the speakers, got" in capsys.readouterr().out
