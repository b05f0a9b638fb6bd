"""The multiplicative LSTM's demo: the text goes by once, gradients are slopes, states carry on, a short run learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recurra
from recurra.demo.text_data import split, topics
from recurra.demo.variants import common, multiplicative

TINY = multiplicative.Settings(embedding=12, hidden=24, streams=8, steps=16, rate=1e-2, epochs=2)
TEXT = split(topics()[:20_000])


def test_a_stream_reads_its_part_of_the_text_once() -> None:
    found = list(multiplicative.pieces(TEXT.train, TINY))
    assert [piece.first for piece in found] == [True] + [False] * (len(found) - 1)
    letters, following = (np.concatenate([piece[k] for piece in found]) for k in (0, 1))
    length = (len(TEXT.train) - 1) // TINY.streams
    np.testing.assert_array_equal(letters.T.ravel(), TEXT.train[: length * TINY.streams])
    np.testing.assert_array_equal(following.T.ravel(), TEXT.train[1 : length * TINY.streams + 1])


@pytest.mark.parametrize("cell", [recurra.MultiplicativeLSTM, recurra.LSTM, recurra.GRU])
def test_gradients_are_slopes(cell: Callable[..., Any]) -> None:
    model = multiplicative.Speller(cell, 16, len(TEXT.alphabet), TINY)
    batch = next(multiplicative.pieces(TEXT.train, TINY))
    _, gradients = model.gradients(batch)
    assert gradients.keys() == model.layers.keys()
    for name, layer in model.layers.items():
        before, losses = layer.state_dict(), []
        norm = np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in gradients[name].values()))
        for step in (0.02, -0.02):  # along the gradient, in float32
            layer.load_state_dict(
                {key: (array + step / norm * gradients[name][key]).astype(np.float32) for key, array in before.items()}
            )
            losses.append(model.gradients(batch)[0])
        layer.load_state_dict(before)
        assert (losses[0] - losses[1]) / 0.04 == pytest.approx(norm, rel=0.02)


def test_states_carry_on_but_not_into_the_next_epoch() -> None:
    model = multiplicative.Speller(recurra.MultiplicativeLSTM, 16, len(TEXT.alphabet), TINY)
    first, second, *_ = multiplicative.pieces(TEXT.train, TINY)
    losses = [model.gradients(piece)[0] for piece in (first, second, first, second._replace(first=True))]
    assert losses[2] == losses[0] and losses[3] != losses[1]
    letters, following = (np.concatenate([first[k], second[k]]) for k in (0, 1))
    both = multiplicative.Piece(letters, following, True)
    assert model.gradients(both)[0] == pytest.approx((losses[0] + losses[1]) / 2, rel=1e-5)


def test_a_model_that_knows_nothing_needs_the_alphabets_bits() -> None:
    model = multiplicative.Speller(recurra.MultiplicativeLSTM, 16, len(TEXT.alphabet), TINY)
    model.head.load_state_dict({name: np.zeros_like(value) for name, value in model.head.state_dict().items()})
    assert model.score(TEXT.held_out) == pytest.approx(np.log2(len(TEXT.alphabet)), rel=1e-6)


def test_networks_are_of_one_size() -> None:
    counts = [common.parameter_count(m) for m in multiplicative.networks(103, multiplicative.Settings()).values()]
    assert max(counts) - min(counts) < 0.01 * max(counts)


def test_it_runs_and_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert multiplicative.run(tmp_path / "a.png", 2, TINY, TEXT) == 0
    out = capsys.readouterr().out
    table = [line.split() for line in out.splitlines() if line.startswith(("multiplicative  ", "LSTM  ", "GRU  "))]
    assert [row[0] for row in table] == ["multiplicative", "LSTM", "GRU"]
    assert max(float(row[2]) for row in table) < np.log2(len(TEXT.alphabet)) - 2
    assert "multiplicative has" in out and " here" in out
    pytest.importorskip("matplotlib")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_it_says_why_it_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(multiplicative.Settings, "epochs", 1)
    few = multiplicative.Settings(embedding=4, hidden=4)
    assert multiplicative.run(tmp_path / "a.png", 1, few, split(topics()[:3000])) == 1
    assert "FAILED: the multiplicative LSTM is expected to need at most 1.85 bits, got" in capsys.readouterr().out
