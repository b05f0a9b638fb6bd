"""The tree LSTMs' demo: values are those of the expressions, trees and texts agree, a short run learns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from checks import assert_gradients_are_slopes

import recurra
from recurra.demo.optimise import Arrays, Updater
from recurra.demo.variants import common, listops

TINY = listops.Settings(train=2000, test=300, depth=1, hidden=16, batch=25)
NAMES = {index: symbol for symbol, index in listops.SYMBOLS.items()}


def value(text: list[str]) -> int:
    """Of an expression in prefix form, whose symbols are taken from the front."""
    symbol = text.pop(0)
    if symbol.isdigit():
        return int(symbol)
    values = []
    while text[0] != "]":
        values.append(value(text))
    text.pop(0)
    if symbol == "MED":
        return int(np.partition(values, len(values) // 2)[len(values) // 2])
    return {"MAX": max(values), "MIN": min(values), "SUM": sum(values) % 10}[symbol]


def written(tree: recurra.Forest, node: int) -> list[str]:
    """A node as text."""
    parts = [
        symbol
        for child in tree.children[tree.offsets[node] : tree.offsets[node + 1]]
        for symbol in written(tree, child)
    ]
    token = NAMES[int(tree.token_indices()[node])]
    return [token, *parts, "]"] if parts else [token]


def test_values_and_trees_are_those_of_the_text() -> None:
    rng, depths = np.random.default_rng(0), set()
    for _ in range(200):
        found = listops.expression(rng, 3)
        text = [NAMES[symbol] for symbol in found.symbols]
        assert written(found.tree, int(found.tree.roots[0])) == text
        depths.add(max(np.cumsum([(s in listops.OPERATIONS) - (s == "]") for s in text])))
        assert value(text) == found.value and not text
    assert depths == {1, 2, 3}


def test_a_batch_has_the_expressions_both_ways() -> None:
    rng = np.random.default_rng(1)
    data = [listops.expression(rng, 2) for _ in range(7)]
    batch = listops.gathered(data)
    assert list(batch.text.labels) == [item.value for item in data]
    assert batch.text.lengths is not None and len(batch.forest.roots) == 7
    for column, item in enumerate(data):
        assert list(batch.text.x[: batch.text.lengths[column], column]) == item.symbols
    symbols = [symbol for item in data for symbol in item.symbols if NAMES[symbol] != "]"]
    assert sorted(batch.forest.token_indices()) == sorted(symbols)


@pytest.mark.parametrize("kind", ["n_ary", "child_sum"])
def test_gradients_are_slopes(kind: str) -> None:
    rng = np.random.default_rng(2)
    batch = listops.gathered([listops.expression(rng, 3) for _ in range(9)])
    model = listops.TreeClassifier(kind, listops.Settings(inputs=5), 6)
    assert_gradients_are_slopes(model, batch)


def test_it_runs_and_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert listops.run(tmp_path / "a.png", 2, TINY) == 0
    out = capsys.readouterr().out
    table = {line[:9].strip(): line.split() for line in out.splitlines() if line.endswith(tuple("0123456789"))}
    scores = {name: float(table[name][-2].rstrip("%")) for name in ("Child-Sum", "N-ary", "LSTM", "GRU")}
    assert min(scores.values()) > 45, scores
    assert " has the advantage here" in out or " has no advantage here" in out
    pytest.importorskip("matplotlib")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_it_says_why_it_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(listops.Settings, "epochs", 1)
    few = listops.Settings(train=50, test=50, depth=1, hidden=3)
    assert listops.run(tmp_path / "a.png", 1, few) == 1
    assert "FAILED: the N-ary Tree-LSTM is expected to reach 59%, got" in capsys.readouterr().out


def test_rates_fall_within_an_epoch_or_between_them_and_may_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []

    class Watched(Updater):
        def step(self, gradients: Mapping[str, Arrays]) -> float:
            rates.append(self.rate)
            return super().step(gradients)

    monkeypatch.setattr(common, "Updater", Watched)
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((4, 8, 2)).astype(np.float32), rng.integers(0, 3, 8)
    models = common.plain_classifiers(200, 2, 3)
    batch = common.Batch(x, labels)
    common.compare({"GRU": models["GRU"]}, lambda epoch: [batch] * 3, batch, 2, 0.1, steps=3)
    assert rates == pytest.approx([0.05 * (1 + np.cos(np.pi * k / 6)) for k in range(6)])
    rates.clear()
    common.compare({"GRU": models["GRU"]}, lambda epoch: [batch] * 3, batch, 2, 0.1)
    assert rates == pytest.approx([0.1] * 3 + [0.05] * 3)
    rates.clear()
    common.compare(models, lambda epoch: [batch], batch, 1, {"LSTM": 0.2, "GRU": 0.3})
    assert rates == [0.2, 0.3]
