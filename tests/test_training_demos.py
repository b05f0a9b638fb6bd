"""The demos that train: they learn, forecasts never look ahead, and the command line refuses what it cannot do."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from recurra import __main__ as command_line
from recurra.demo import forecast, hello, report, text, text_data, train_vowels, vowels


def run(monkeypatch: pytest.MonkeyPatch, cwd: Path, *args: str) -> int:
    """``python -m recurra`` in this process, so that sizes can be changed."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", ["recurra", *args])
    return command_line.main()


def written(path: Path) -> bool:
    """A plot is there and is a PNG; skips without matplotlib."""
    pytest.importorskip("matplotlib")
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


def test_hello_learns_without_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path, "demo", "hello") == 0
    out = capsys.readouterr().out
    assert '"hell" -> "ello": 0 errors' in out and "rnn.weight_hh_l0" in out
    assert written(tmp_path / "recurra-hello.png")


def test_hello_gradients_are_the_slopes_of_the_loss() -> None:
    model = hello.Model(seed=3)
    gradient = model.gradients()[1]["rnn"]["weight_hh_l0"]
    for index in np.ndindex(gradient.shape):
        assert gradient[index] == pytest.approx(model.slope("weight_hh_l0", index), abs=1e-8)


def test_text_is_cut_by_time_and_streams_go_on() -> None:
    parts = text_data.split("abcdefghij" * 10)
    assert (len(parts.train), len(parts.held_out)) == (90, 10)
    cuts = list(text_data.chunks(np.arange(100), streams=3, steps=10))
    assert [len(letters) for letters, _ in cuts] == [10, 10, 10, 3]
    for letters, following in cuts:
        np.testing.assert_array_equal(following, letters + 1)
    np.testing.assert_array_equal(np.concatenate([letters for letters, _ in cuts]).T.ravel(), np.arange(99))


TINY = text_data.Settings(embedding=8, hidden=24, streams=4, steps=16, epochs=3)


def test_text_bits_go_down() -> None:
    parts = text_data.split(text_data.topics()[:12000])
    model = text.Model(len(parts.alphabet), TINY)
    before = model.bits(parts.held_out)
    curve = text.train(model, parts, TINY)
    assert before == pytest.approx(np.log2(len(parts.alphabet)), rel=0.1)
    assert before - 1.5 > curve.bits[0] > curve.bits[-1]
    assert len(model.sample(parts.alphabet, "The", 20, seed=0)) == 23


def test_text_bits_do_not_depend_on_how_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = text_data.split(text_data.topics()[:5000])
    model = text.Model(len(parts.alphabet), TINY)
    whole = model.bits(parts.held_out)
    monkeypatch.setattr(text, "CHUNK", 7)
    assert model.bits(parts.held_out) == pytest.approx(whole, rel=1e-12)


@pytest.fixture
def short_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the text demo a matter of seconds."""
    short = text_data.topics()[:20000]
    monkeypatch.setattr(text, "topics", lambda: short)
    monkeypatch.setattr(text, "PROMPTS", ("A", "A"))


@pytest.mark.usefixtures("short_text")
def test_text_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "mine.png"
    assert run(monkeypatch, tmp_path, "demo", "text", "--epochs", "1", "--plot", str(plot)) == 0
    out = capsys.readouterr().out
    assert "epoch  1 of 1" in out and "5 epochs are expected to reach 1.85 bits; 1 need not" in out
    first, second = out.partition("\nheld out:")[0].split("--- written by the model after 'A':\n")[1:]
    assert first.strip() != second.strip()
    assert written(plot)


@pytest.mark.usefixtures("short_text")
def test_text_command_says_why_it_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(text, "MAX_BITS", 0.5)
    assert run(monkeypatch, tmp_path, "demo", "text") == 1
    assert "FAILED: at most 0.5 bits a character are expected of 5 epochs, got" in capsys.readouterr().out


def test_torch_takes_the_same_steps() -> None:
    pytest.importorskip("torch")
    from recurra.demo.text_torch import TorchModel

    parts = text_data.split(text_data.topics()[:6000])
    ours = text.Model(len(parts.alphabet), TINY)
    theirs = TorchModel(ours.layers, TINY)
    state, other = None, None
    for chunk in text_data.chunks(parts.train[:1000], TINY.streams, TINY.steps):
        loss, state = ours.step(chunk, state)
        their_loss, other = theirs.step(chunk, other)
        assert loss == pytest.approx(their_loss, rel=1e-4)
    assert ours.bits(parts.held_out) == pytest.approx(theirs.bits(parts.held_out), rel=1e-4)


def test_forecast_windows_never_look_ahead() -> None:
    hours = np.arange(8 * forecast.WEEK, dtype=np.float32)  # values that say when they were
    train, test = forecast.split(hours, stride=5)
    for part in (train, test):
        when = part.inputs[..., 0]
        np.testing.assert_array_equal(np.diff(when, axis=1), 1)
        np.testing.assert_array_equal(part.targets, when[:, -1:] + np.arange(1, forecast.DAY + 1))
        for period in (forecast.DAY, forecast.WEEK):
            np.testing.assert_array_equal(forecast.naive(part.inputs, period), part.targets - period)
    assert train.targets.max() < test.inputs[..., 0].min()
    assert (test.targets[:, 0] % forecast.DAY == 0).all()


def test_forecast_inputs_and_scale_know_nothing_of_the_future() -> None:
    values, settings = forecast.series(8 * forecast.WEEK), forecast.Settings()
    changed = values.copy()
    changed[6 * forecast.WEEK :] += 100
    first, second = (forecast.split(v, 5)[0] for v in (values, changed))
    np.testing.assert_array_equal(first.inputs, second.inputs)
    np.testing.assert_array_equal(first.targets, second.targets)
    models = [forecast.Model(part, settings) for part in (first, second)]
    np.testing.assert_array_equal(models[0].scaled(values), models[1].scaled(values))


def test_forecast_beats_the_naive_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = forecast.series(20 * forecast.WEEK)
    monkeypatch.setattr(forecast, "series", lambda: values)
    small = forecast.Settings(hidden=24, batch=32, rate=1e-2, epochs=15)
    assert forecast.run(tmp_path / "small.png", small) == 0
    assert "below the better naive forecast" in capsys.readouterr().out
    assert written(tmp_path / "small.png")


def test_demos_say_why_they_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = forecast.series(12 * forecast.WEEK)
    monkeypatch.setattr(forecast, "series", lambda: values)
    assert forecast.run(tmp_path / "a.png", forecast.Settings(hidden=4, epochs=1)) == 1
    assert "FAILED: not below the better naive forecast" in capsys.readouterr().out
    monkeypatch.setattr(hello, "STEPS", 1)
    assert hello.run(tmp_path / "a.png") == 1
    assert "FAILED: no error is expected after 1 steps" in capsys.readouterr().out
    monkeypatch.setattr(vowels, "MIN_ACCURACY", 1.0)
    assert vowels.run() == 1
    assert "FAILED: an accuracy of at least 100% is expected, got" in capsys.readouterr().out


def test_vowels_training_reduces_the_loss() -> None:
    data = train_vowels.load("train")
    model, losses = train_vowels.train(data, seed=0, epochs=6)
    assert losses[-1] < losses[0] / 2
    assert train_vowels.accuracy(model, train_vowels.load("test")) > 0.5
    again, same = train_vowels.train(data, seed=0, epochs=6)
    assert same == losses
    for name, array in model.arrays().items():
        np.testing.assert_array_equal(array, again.arrays()[name])


def test_vowels_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = train_vowels.train
    monkeypatch.setattr(train_vowels, "train", lambda data, seed: full(data, seed, epochs=2))
    assert run(monkeypatch, tmp_path, "demo", "vowels", "--train", "--seeds", "2") == 1  # two epochs are too few
    out = capsys.readouterr().out
    assert "median of 2 seeds" in out and "FAILED: a median of at least 96% is expected, got" in out
    assert written(tmp_path / "recurra-vowels.png")


def test_without_matplotlib_and_rich(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("matplotlib.figure", "rich.progress"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert run(monkeypatch, tmp_path, "demo", "hello") == 0
    out = capsys.readouterr().out
    assert "no plot: matplotlib is not installed" in out and "hello: step   1" in out
    assert not list(tmp_path.iterdir())


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with report.Progress("working", 2) as progress:
        progress.advance()
        progress.report("kept [1]")
        progress.advance()
        progress.report("passing", keep=False)
    out = capsys.readouterr().out
    assert "working: kept [1]" in out and "100%" in out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["hullo"], "hullo"),
        (["vowels", "--seeds", "2"], "--train"),
        (["vowels", "--plot", "a.png"], "--train"),
        (["vowels", "--train", "--seeds", "0"], "at least 1"),
        (["text", "--epochs", "many"], "argument --epochs: expected a whole number of at least 1, got 'many'"),
        (["text", "--epochs", "\u00b2"], "argument --epochs: expected a whole number of at least 1, got '\u00b2'"),
        (["text", "--epochs", "2.5"], "argument --epochs: expected a whole number of at least 1, got '2.5'"),
        (["hello", "--plot", "a.txt"], ".png"),
        (["hello", "--plot", "nowhere/a.png"], "folder that exists"),
        (["forecast", "--compare"], "--compare"),
    ],
)
def test_bad_options(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    words: str,
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, tmp_path, "demo", *args)
    assert stopped.value.code == 2 and words in capsys.readouterr().err


def test_compare_needs_torch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, tmp_path, "demo", "text", "--compare")
    assert stopped.value.code == 2 and "torch" in capsys.readouterr().err
