"""The Frequency-Time demo: bands are the spectrum of the cepstra, networks are of equal size, a short run learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recurra.demo.train_vowels import load
from recurra.demo.variants import common, frequency_time


def test_envelopes_are_the_cepstra_in_another_basis() -> None:
    data = load("train")
    bands = frequency_time.envelopes(data)
    w = np.pi * (np.arange(frequency_time.BANDS) + 0.5) / frequency_time.BANDS
    back = bands @ np.cos(np.outer(w, np.arange(1, 13))) / frequency_time.BANDS
    np.testing.assert_allclose(back, data.frames, atol=1e-5)
    assert bands.dtype == np.float32
    first, second = frequency_time.standardised(data, load("test"))
    valid = first[np.arange(len(first))[:, None] < data.lengths]
    np.testing.assert_allclose([valid.mean(0), valid.std(0)], [np.zeros(26), np.ones(26)], atol=1e-3)
    assert abs(second[0].mean(0)).max() > 0.01  # the test has the training's scale


def test_the_variant_reads_all_bands() -> None:
    model = frequency_time.variant(frequency_time.Settings())
    assert model.layer.chunks == 7 and {"layer", "head"} == model.layers.keys()
    sizes = [common.parameter_count(m) for m in common.plain_classifiers(common.parameter_count(model), 26, 9).values()]
    assert max(abs(size - common.parameter_count(model)) for size in sizes) < 0.03 * common.parameter_count(model)


def test_it_runs_and_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = frequency_time.Settings(frequency_size=6, hidden=16)
    assert frequency_time.run(tmp_path / "a.png", 12, settings) == 0
    out = capsys.readouterr().out
    scores = [float(line.split()[2][:-1]) for line in out.splitlines() if "%  " in line]
    assert len(scores) == 3 and min(scores) > 60
    assert "frequency-time" in out and " here" in out and "CC BY 4.0" in out
    pytest.importorskip("matplotlib")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_it_says_why_it_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(frequency_time.Settings, "epochs", 1)
    assert frequency_time.run(tmp_path / "a.png", 1, frequency_time.Settings(frequency_size=2, hidden=4)) == 1
    assert "FAILED: every network is expected to find 90% of the speakers, got" in capsys.readouterr().out
