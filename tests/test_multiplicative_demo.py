"""The multiplicative LSTM's demo: the text goes by once, gradients are slopes, states carry on, a short run learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics as by_name
from typing import Any

import numpy as np
import pytest
from checks import assert_gradients_are_slopes

import recurra
from recurra.demo.text_data import split, split_topics, topics
from recurra.demo.variants import common, multiplicative

TINY = multiplicative.Settings(embedding=12, hidden=24, streams=8, steps=16, rate=1e-2, plain_rate=1e-2, epochs=2)
TEXT = split(topics()[:20_000])


def test_topics_are_held_out_whole() -> None:
    found = split_topics()
    train, held_out = ("".join(found.alphabet[code] for code in part) for part in (found.train, found.held_out))
    assert len(train) + len(held_out) == len(topics()) and sorted(train + held_out) == sorted(topics())
    assert 0.05 < len(held_out) / len(topics()) < 0.15
    names = sorted(by_name)
    assert held_out == "".join(by_name[name] for name in names[5::10])
    assert all(by_name[name] in train for name in set(names) - set(names[5::10]))


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
    assert_gradients_are_slopes(model, batch, 0.02)


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
    assert "FAILED: the multiplicative LSTM is expected to need at most 1.7 bits, got" in capsys.readouterr().out
