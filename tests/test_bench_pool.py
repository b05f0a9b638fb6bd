"""`recurra bench pool`: what is timed computes the same, and the soak finds what is lost."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from checks import assert_close

import recurra
from recurra.__main__ import main
from recurra.bench import pool as bench
from recurra.bench import soak


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["recurra", "bench", "pool", *arguments])
    return main()


@pytest.mark.parametrize("network", bench.NETWORKS)
def test_all_contestants_step_the_same_network(network: str) -> None:
    layer = bench.NETWORKS[network]()
    random = np.random.default_rng(0)
    batches = [(random.permutation(9)[:5], random.standard_normal((5, 160), dtype="float32")) for _ in range(6)]
    streams = [layer.stream() for _ in range(9)]
    wanted = np.zeros((9, layer.hidden_size), "float32")
    for ids, frames in batches:
        for stream, frame in zip(ids, frames, strict=True):
            wanted[stream] = streams[stream].step(frame)
    for kind in bench.contestants():
        contestant: Any = kind(layer, 9)
        outputs = np.zeros_like(wanted)
        for ids, frames in batches:
            contestant.offer(ids, frames)
            while len(ids := contestant.pool.step() if issubclass(kind, bench.Pool) else contestant.advance()):
                outputs[ids] = contestant.pool.pull(ids) if issubclass(kind, bench.Pool) else contestant._y[ids]
        assert_close(outputs, wanted, 1e-5)


def test_it_prints_latencies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], restore_threads: None
) -> None:
    assert command(monkeypatch, "--seconds", "0.05", "--streams", "20", "--most", "50") == 0
    text = capsys.readouterr().out
    assert "GRU-64 x 2: 20 streams of 100 frames a second" in text and "50 streams of a GRU-64" in text
    assert text.count("100.0%") == len(bench.NETWORKS) * len(list(bench.contestants())) + 1  # every frame is answered
    with pytest.raises(SystemExit):
        command(monkeypatch, "--seconds", "0")


def test_a_soak_accounts_for_every_frame(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], restore_threads: None
) -> None:
    monkeypatch.setattr(soak, "EACH", 10)
    monkeypatch.setattr(soak, "LONGEST", 40)
    monkeypatch.setattr(soak, "PATIENCE", 0.1)
    assert command(monkeypatch, "--soak", "0.02") == 0
    assert "+ 0 lost" in capsys.readouterr().out


class Forgetful(recurra.StreamPool):
    """Drops the first output now and then."""

    pulls = 0

    def pull(self, id: Any) -> Any:
        outputs = super().pull(id)
        self.pulls += 1
        return outputs[1:] if self.pulls % 50 == 0 else outputs


def test_a_soak_finds_what_is_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], restore_threads: None
) -> None:
    monkeypatch.setattr(soak, "EACH", 3)
    monkeypatch.setattr(soak, "LONGEST", 40)
    monkeypatch.setattr(soak, "PATIENCE", 0.1)
    monkeypatch.setattr(soak, "GIVES_UP", 0.1)
    monkeypatch.setattr(recurra, "StreamPool", Forgetful)
    assert command(monkeypatch, "--soak", "0.01") == 1
