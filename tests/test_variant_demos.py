"""The variants' demos: they are found and run, comparisons are fair, verdicts are what the scores say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recurra
from recurra import __main__ as command_line
from recurra.demo import variants
from recurra.demo.variants import common

TOY = """
from recurra.demo.variants import common
SUMMARY = "a toy"
def run(path, epochs):
    print(f"{path} {epochs}")
    return 3
"""


def command(monkeypatch: pytest.MonkeyPatch, cwd: Path, *args: str) -> int:
    """``python -m recurra demo variants`` in this process."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", ["recurra", "demo", "variants", *args])
    return command_line.main()


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A demo in a folder of its own."""
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setattr(variants, "__path__", [*variants.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "recurra.demo.variants.toy", raising=False)


@pytest.mark.usefixtures("toy")
def test_demos_are_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch, tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == variants.names()
    assert any(line.startswith("toy ") and line.endswith(" a toy") for line in lines)


@pytest.mark.usefixtures("toy")
def test_a_demo_is_given_its_options(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, tmp_path, "toy") == 3
    assert capsys.readouterr().out == "recurra-toy.png None\n"
    assert command(monkeypatch, tmp_path, "toy", "--epochs", "4", "--plot", "a.svg") == 3
    assert capsys.readouterr().out == "a.svg 4\n"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["hullo"], "expected one of"),
        (["common"], "got 'common'"),
        (["toy", "--epochs", "0"], "at least 1"),
        (["toy", "--plot", "a.txt"], ".png"),
        (["--epochs", "2"], "need a name"),
        (["--plot", "a.png"], "need a name"),
    ],
)
@pytest.mark.usefixtures("toy")
def test_bad_options(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    words: str,
) -> None:
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, tmp_path, *args)
    assert stopped.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize("symbols", [None, 7])
@pytest.mark.parametrize("parameters", [50, 1234, 20000])
def test_plain_networks_have_the_nearest_count(parameters: int, symbols: int | None) -> None:
    for name, model in common.plain_classifiers(parameters, inputs=5, classes=3, symbols=symbols).items():
        hidden = model.layer.hidden_size
        sizes = range(max(1, hidden - 2), hidden + 3)
        others = [common.Classifier(common.PLAIN[name], 5, size, 3, symbols) for size in sizes]
        away = [abs(common.parameter_count(other) - parameters) for other in others]
        assert abs(common.parameter_count(model) - parameters) == min(away)
        assert type(model.layer).__name__ == name


@pytest.mark.parametrize("symbols", [None, 4])
def test_classifier_gradients_are_slopes(symbols: int | None) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 3, 2)) if symbols is None else rng.integers(0, symbols, (5, 3))
    batch = common.Batch(x, np.array([0, 2, 1]), np.array([5, 1, 3]))
    model = common.Classifier(recurra.GRU, 2, 4, 3, symbols)
    model.layer = model.layer.to("cpu", dtype="float64")
    model.head = model.head.to("cpu", dtype="float64")
    model.embedding = model.embedding and model.embedding.to("cpu", dtype="float64")
    layers = {"layer": model.layer, "head": model.head, "embedding": model.embedding}
    _, gradients = model.gradients(batch)
    assert gradients.keys() == model.layers.keys()
    for name, arrays in gradients.items():
        layer = layers[name]
        for key, gradient in arrays.items():
            losses = []
            for nudge in (1e-6, -1e-6):
                before = layer.state_dict()
                changed = layer.state_dict()
                changed[key].flat[1] += nudge
                layer.load_state_dict(changed)
                losses.append(model.gradients(batch)[0])
                layer.load_state_dict(before)
            assert gradient.flat[1] == pytest.approx((losses[0] - losses[1]) / 2e-6, abs=1e-8)


def test_compare_trains_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 60, 2)).astype(np.float32)
    labels = (x[0, :, 0] > 0).astype(np.int64)
    rows = common.shuffled(40, 16)
    assert sorted(np.concatenate(rows(0))) == list(range(40)) and not np.array_equal(rows(0)[0], rows(1)[0])
    models = {"ours": common.Classifier(recurra.RNN, 2, 12, 2), **common.plain_classifiers(200, 2, 2)}

    def batches(epoch: int) -> list[common.Batch]:
        return [common.Batch(x[:, some], labels[some]) for some in rows(epoch)]

    test = common.Batch(x[:, 40:], labels[40:])
    results = common.compare(models, batches, test, epochs=15, rate=5e-2)
    for result, model in zip(results, models.values(), strict=True):
        assert len(result.losses) == len(result.seconds) == 15
        assert result.losses[-1] < result.losses[0] / 2
        assert result.parameters == common.parameter_count(model)
        assert result.score == model.score(test) > 0.7
    drawn: list[Any] = []
    common.finish(tmp_path / "a.png", results, panels=[drawn.append])
    out = capsys.readouterr().out
    assert (
        "training: ours, epoch 15 of 15" in out
        and "parameters    accuracy  seconds" in out
        and common.verdict(results) in out
    )
    pytest.importorskip("matplotlib")
    assert len(drawn) == 1
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("scores", "more", "words"),
    [
        ((0.9, 0.8, 0.7), True, "a has the advantage here: 0.90, LSTM 0.80"),
        ((0.8, 0.7, 0.82), True, "a has no advantage here: 0.80, GRU 0.82"),
        ((0.82, 0.8, 0.7), True, "a has no advantage here: 0.82, LSTM 0.80"),
        ((0.7, 0.8, 0.9), True, "a has no advantage here, GRU is better: 0.70, GRU 0.90"),
        ((0.7, 0.8, 0.9), False, "a has the advantage here: 0.70, LSTM 0.80"),
        ((0.9, 0.8, 0.9), False, "a has no advantage here, LSTM is better: 0.90, LSTM 0.80"),
    ],
)
def test_verdicts(scores: tuple[float, ...], more: bool, words: str) -> None:
    results = [common.Result(name, 1, score=s) for name, s in zip(("a", "LSTM", "GRU"), scores, strict=True)]
    said = common.verdict(results, common.Measure("score", ".2f", more), margin=0.05)
    assert said == f"{words} (differences up to 0.05 are noise)."


def test_noise_shrinks_with_the_test_set() -> None:
    results = [common.Result(name, 1, score=0.5) for name in ("a", "LSTM")]
    assert common.chance_margin(results, 100) == pytest.approx(2 * np.sqrt(2 * 0.25 / 100))
