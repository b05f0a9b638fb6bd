"""The sLSTM's demo: what is asked for, networks of equal size, gradients, and that a short run learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checks import assert_gradients_are_slopes

import recurra
from recurra.demo.variants import common, nearest

TINY = nearest.Settings(steps=8, hidden=12, batches=60, test=500)


def test_the_answer_is_the_value_of_the_likest() -> None:
    found = nearest.drawn(500, 7, np.random.default_rng(0))
    assert found.x.shape == (7, 500, 2) and found.x.dtype == np.float32 and np.abs(found.x).max() <= 1
    for (likeness, values), answer in zip(found.x.transpose(1, 2, 0), found.value, strict=True):
        assert answer == max(zip(likeness, values, strict=True))[1]
    assert len(np.unique(found.value)) == 500


def test_networks_are_of_one_size() -> None:
    models = nearest.networks(nearest.Settings())
    assert list(models) == ["sLSTM", "LSTM", "GRU"]
    counts = [common.parameter_count(model) for model in models.values()]
    assert max(counts) - min(counts) < 0.02 * max(counts)


@pytest.mark.parametrize("cell", [recurra.SLSTM, recurra.LSTM, recurra.GRU])
def test_gradients_are_slopes(cell: type) -> None:
    model = nearest.Searcher(cell, 6)
    batch = nearest.drawn(16, 9, np.random.default_rng(1))
    assert model.gradients(batch)[0] == pytest.approx(model.score(batch) / 3, rel=1e-5)
    assert_gradients_are_slopes(model, batch)


def test_a_model_that_says_nothing_has_an_error_of_one() -> None:
    model = nearest.Searcher(recurra.SLSTM, 4)
    model.head.load_state_dict({name: np.zeros_like(value) for name, value in model.head.state_dict().items()})
    assert model.score(nearest.drawn(20_000, 5, np.random.default_rng(0))) == pytest.approx(1, rel=0.03)


def test_it_runs_and_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nearest.run(tmp_path / "a.png", 4, TINY) == 0
    out = capsys.readouterr().out
    table = [line.split() for line in out.splitlines() if line.startswith(("sLSTM  ", "LSTM  ", "GRU  "))]
    assert [row[0] for row in table] == ["sLSTM", "LSTM", "GRU"]
    assert max(float(row[2].rstrip("%")) for row in table) < 50
    assert [line.split()[0] for line in out.splitlines() if " steps: sLSTM " in line] == ["4", "8", "16", "32"]
    assert "sLSTM has" in out and " here" in out
    pytest.importorskip("matplotlib")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_it_says_why_it_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nearest.Settings, "epochs", 1)
    assert nearest.run(tmp_path / "a.png", 1, nearest.Settings(hidden=4, batches=2, test=50)) == 1
    assert "FAILED: the sLSTM is expected to have an error of at most 12%, got" in capsys.readouterr().out
