"""What examples/ says it shows."""

from __future__ import annotations

import inspect
import subprocess
import sys

import documents
import numpy as np
import pytest

from recurra import _core, training

FILES = sorted((documents.ROOT / "examples").glob("*.py"))
NEEDS = {"keras_to_stream": ("keras", "h5py"), "onnx_stream": ("onnx", "onnxruntime")}


def output(name: str) -> str:
    """What an example prints."""
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package, reason=f"the parity extra is not installed: no {package}")
    path = documents.ROOT / "examples" / f"{name}.py"
    return subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=True).stdout


def test_the_policy_learns_to_remember() -> None:
    """Without a memory the prize is found half of the time."""
    said: list[str] = []
    shares = documents.example("recurrent_policy").train(30, seed=1, report=said.append)
    assert np.mean(shares[:3]) < 0.65
    assert np.mean(shares[-10:]) > 0.95
    assert len(said) == 3 and said[-1].startswith("rollout   30")


def test_the_policy_runs_as_a_script() -> None:
    assert output("recurrent_policy").count("the prize in") == 4


def test_ten_lines_make_a_series_a_forecaster() -> None:
    """That is better than what was there a week before."""
    forecast = documents.example("forecast")
    body = inspect.getsource(forecast.forecaster).splitlines()[2:]
    assert len(body) <= 10
    model, history, scaled = forecast.forecaster(forecast.generated())
    assert model.parameter_count < 5000
    held = scaled[len(scaled) * 3 // 4 :]
    x, y = training.windows(held, 168, 5, horizon=24)
    error = np.mean((model.predict(x) - y) ** 2)
    assert error == pytest.approx(history.validation_loss[history.best], rel=1e-5)
    assert error < np.mean((x[:, :24, 0] - y) ** 2)


@pytest.mark.parametrize("name", ["keras_to_stream", "onnx_stream"])
def test_a_file_of_another_library_is_streamed(name: str) -> None:
    said = output(name)
    assert "the stream has the bits of the whole call: True" in said
    difference = said.partition("largest difference from ")[2].partition("\n")[0].replace(";", " ").split()
    assert float(next(word for word in difference if word[0].isdigit())) < 1e-5


def test_the_captioner_writes_whole_sentences() -> None:
    captioning = documents.example("captioning")
    before = captioning.right(captioning.Captioner())
    captioner = captioning.train()
    assert before < 0.05
    assert captioning.right(captioner) > 0.95
    assert captioning.right(captioner, beams=4) > 0.95


def test_the_wake_word_is_heard() -> None:
    wake_word = documents.example("wake_word")
    model = wake_word.train()
    samples, ends = wake_word.minute(6)
    hits, false = wake_word.score(wake_word.listen(model, samples), ends)
    assert len(ends) > 3
    assert hits >= len(ends) - 1 and false <= 1


@pytest.mark.skipif(bool(_core.cuda.device_count()), reason="there is a GPU, and test_cuda_example.py runs it")
def test_without_a_gpu_the_example_says_so() -> None:
    path = documents.ROOT / "examples" / "gpu_cupy.py"
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("this example needs an NVIDIA GPU and CuPy")


def test_the_index_lists_every_example() -> None:
    index = (documents.ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    here = {path.name for path in FILES} | {f"cpp/{path.name}" for path in (FILES[0].parent / "cpp").glob("*.c*")}
    assert {name for name in here if f"({name})" in index} == here
