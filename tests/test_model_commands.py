"""recurra inspect, convert, verify, run and bench FILE, as a user types them."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recurra
from recurra import __main__ as command_line
from recurra.command import table
from recurra.command.wav import Encoding, read_wav, write_wav

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def recurra_(monkeypatch: pytest.MonkeyPatch) -> Command:
    """``recurra ARGUMENTS``: exit status, what it prints, what it complains of."""

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["recurra", *map(str, arguments)])
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                status = command_line.main()
            except SystemExit as end:
                status = int(end.code or 0)
        return status, out.getvalue(), err.getvalue()

    return command


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where rich is not installed."""
    monkeypatch.setattr(table, "find_spec", lambda name: None)


def amplifier() -> recurra.Model:
    return recurra.Model([recurra.GRU(1, 8, seed=1), recurra.Linear(8, 1, seed=2)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "amplifier.safetensors"
    amplifier().save(path)
    return path


def test_inspect_counts_what_there_is(recurra_: Command, file: Path) -> None:
    status, out, _ = recurra_("inspect", file)
    assert status == 0
    parameters = 3 * 8 * (1 + 8 + 2) + 8 + 1
    multiply_adds = 3 * 8 * (1 + 8) + 8
    assert f"{file.stat().st_size:,} bytes" in out and f"{parameters:,}" in out and f"{multiply_adds:,}" in out
    assert "state of recurrent0: h 8 numbers a row" in out and "one step of a stream" in out


def test_inspect_says_why_there_is_no_stream(recurra_: Command, tmp_path: Path) -> None:
    recurra.Model([recurra.GRU(3, 4, bidirectional=True, seed=0)]).save(tmp_path / "both.safetensors")
    status, out, _ = recurra_("inspect", tmp_path / "both.safetensors")
    assert status == 0 and "no stream:" in out and "recurrent0" in out


def test_convert_keeps_every_bit(recurra_: Command, file: Path, tmp_path: Path) -> None:
    status, out, _ = recurra_("convert", file, tmp_path / "again.safetensors")
    assert status == 0 and "again.safetensors" in out
    one, other = recurra.load(file).state_dict(), recurra.load(tmp_path / "again.safetensors").state_dict()
    assert {name: array.tobytes() for name, array in one.items()} == {n: a.tobytes() for n, a in other.items()}


def test_convert_to_rtneural_and_back(recurra_: Command, file: Path, tmp_path: Path) -> None:
    assert recurra_("convert", file, tmp_path / "amplifier.json")[0] == 0
    x = np.random.default_rng(0).standard_normal((20, 1, 1), dtype="float32")
    back = recurra.load(tmp_path / "amplifier.json")
    np.testing.assert_allclose(back(x), amplifier()(x), atol=1e-6)


def test_convert_quantizes_recurrent_layers(recurra_: Command, file: Path, tmp_path: Path) -> None:
    status, _, _ = recurra_("convert", file, tmp_path / "small.safetensors", "--quantize", "int8")
    layers = recurra.load(tmp_path / "small.safetensors").layers
    assert status == 0 and layers["recurrent0"].precision == "int8"


def test_run_streams_frames(recurra_: Command, file: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((150, 1)).astype("float32")
    np.save(tmp_path / "in.npy", x)
    status, out, _ = recurra_("run", file, tmp_path / "in.npy", tmp_path / "out.npy", "--block", "64")
    assert status == 0 and "150 steps" in out and "real time" not in out
    assert np.load(tmp_path / "out.npy").tobytes() == amplifier()(x).tobytes()


@pytest.mark.parametrize("encoding", [Encoding(False, 16), Encoding(False, 24), Encoding(True, 32)])
def test_run_streams_audio(recurra_: Command, file: Path, tmp_path: Path, encoding: Encoding) -> None:
    x = (0.5 * np.sin(np.arange(800) / 9)).astype("float32")[:, None]
    write_wav(tmp_path / "in.wav", x, 8000, encoding)
    status, out, _ = recurra_("run", file, tmp_path / "in.wav", tmp_path / "out.wav")
    assert status == 0 and "faster than real time" in out
    rate, heard, stored = read_wav(tmp_path / "out.wav")
    assert (rate, stored) == (8000, encoding)
    expected = amplifier()(read_wav(tmp_path / "in.wav")[1])
    if encoding.floating:
        assert heard.tobytes() == expected.tobytes()
    np.testing.assert_allclose(heard, expected, atol=2 * 2.0 ** (1 - encoding.bits), rtol=2e-7)


def test_run_of_nothing_is_nothing(recurra_: Command, file: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.zeros((0, 1), "float32"))
    assert recurra_("run", file, tmp_path / "in.npy", tmp_path / "out.npy")[0] == 0
    assert np.load(tmp_path / "out.npy").shape == (0, 1)


def cases(file: Path, tmp_path: Path) -> dict[str, tuple[list[Any], str]]:
    """Bad arguments, and what the complaint has to hold."""
    (tmp_path / "broken.safetensors").write_bytes(file.read_bytes()[:-5])
    (tmp_path / "text.txt").write_text("hello")
    np.save(tmp_path / "wide.npy", np.zeros((4, 2), "float32"))
    np.save(tmp_path / "names.npy", np.array(["a"]))
    return {
        "no file": (["inspect", tmp_path / "missing.onnx"], "there is no such file"),
        "broken": (["inspect", tmp_path / "broken.safetensors"], "broken.safetensors"),
        "no model": (["inspect", tmp_path / "text.txt"], "text.txt"),
        "unknown suffix": (["convert", file, tmp_path / "a.pb"], "expected a suffix of"),
        "quantized elsewhere": (["convert", file, tmp_path / "a.json", "--quantize", "int8"], "--quantize"),
        "own file alone": (["verify", file], "runtime of their own"),
        "wide": (["run", file, tmp_path / "wide.npy", tmp_path / "o.npy"], "expected 1 numbers a step, got 2"),
        "names": (["run", file, tmp_path / "names.npy", tmp_path / "o.npy"], "expected an array"),
        "no rate": (["run", file, tmp_path / "wide.npy", tmp_path / "o.wav"], "expected"),
        "no folder": (
            ["run", file, tmp_path / "wide.npy", tmp_path / "missing" / "o.wav"],
            "in a folder that is there",
        ),
        "no audio": (["run", file, tmp_path / "text.txt", tmp_path / "o.wav"], "expected .wav or .npy"),
        "bench of no original": (["bench", file], "runtime of their own"),
    }


@pytest.mark.parametrize(
    "name",
    [
        "no file",
        "broken",
        "no model",
        "unknown suffix",
        "quantized elsewhere",
        "own file alone",
        "wide",
        "names",
        "no rate",
        "no folder",
        "no audio",
        "bench of no original",
    ],
)
def test_what_cannot_be_done_is_one_sentence(recurra_: Command, file: Path, tmp_path: Path, name: str) -> None:
    arguments, expected = cases(file, tmp_path)[name]
    status, out, complaint = recurra_(*arguments)
    assert status == 2 and not out and complaint.count("\n") == 1
    assert complaint.startswith(f"recurra {arguments[0]}: ") and expected in complaint
    assert not (tmp_path / "o.npy").exists() and not (tmp_path / "o.wav").exists()


def onnx_file(tmp_path: Path) -> Path:
    pytest.importorskip("onnxruntime", reason="the parity extra is not installed: no ONNX Runtime")
    amplifier().to_onnx(tmp_path / "amplifier.onnx")
    return tmp_path / "amplifier.onnx"


@pytest.mark.usefixtures("plain")
def test_verify_passes_a_right_model(recurra_: Command, tmp_path: Path) -> None:
    status, out, _ = recurra_("verify", onnx_file(tmp_path), "--steps", "13", "--batch", "2")
    assert status == 0 and "ONNX Runtime" in out and "differ" not in out and "13" in out


@pytest.mark.usefixtures("plain")
def test_verify_finds_a_changed_model(recurra_: Command, tmp_path: Path) -> None:
    original = onnx_file(tmp_path)
    model = recurra.load(original)
    parameters = model.state_dict()
    name = next(name for name in parameters if name.endswith("weight_hh_l0"))
    parameters[name] = parameters[name] + np.float32(0.1)
    model.load_state_dict(parameters)
    model.save(tmp_path / "changed.safetensors")
    status, out, _ = recurra_("verify", tmp_path / "changed.safetensors", "--against", original)
    assert status == 1 and "they differ by more than" in out and name.split(".")[0] in out
    assert recurra_("convert", original, tmp_path / "same.safetensors")[0] == 0
    assert recurra_("verify", tmp_path / "same.safetensors", "--against", original)[0] == 0


@pytest.mark.usefixtures("plain")
def test_bench_prints_a_row_for_a_step_and_for_the_whole(recurra_: Command, tmp_path: Path) -> None:
    status, out, _ = recurra_("bench", onnx_file(tmp_path), "--seconds", "0.05", "--steps", "20")
    assert status == 0 and "one step, streamed" in out and "whole, " in out and "ONNX Runtime us" in out
    assert "1 thread, medians" in " ".join(out.split())


@pytest.mark.usefixtures("plain")
def test_bench_says_on_how_many_threads_it_ran(recurra_: Command, tmp_path: Path) -> None:
    file, before = onnx_file(tmp_path), recurra.get_num_threads()
    most = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    status, out, _ = recurra_("bench", file, "--threads", "1000", "--seconds", "0.05", "--steps", "5")
    (threads,) = re.findall(r"(\d+) threads?, medians", " ".join(out.split()))
    assert status == 0 and 1 <= int(threads) <= most and recurra.get_num_threads() == before
    status, _, complaint = recurra_("bench", file, "--threads", "0")
    assert status == 2 and "--threads: expected a whole number of at least 1, got '0'" in complaint


def test_what_has_to_be_installed_is_named(recurra_: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx", reason="the parity extra is not installed: no onnx")
    amplifier().to_onnx(tmp_path / "amplifier.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    status, _, complaint = recurra_("verify", tmp_path / "amplifier.onnx")
    assert status == 2 and complaint == "recurra verify: needs onnxruntime: pip install onnxruntime\n"


def test_export_writes_c(recurra_: Command, file: Path, tmp_path: Path) -> None:
    status, out, _ = recurra_("export", file, "--c", tmp_path / "new" / "out")
    assert status == 0
    header, source = (tmp_path / "new" / "out" / f"amplifier.{end}" for end in "hc")
    assert re.search(rf"amplifier\.h: {header.stat().st_size:,} bytes\n.*amplifier\.c: ", out)
    assert "float amplifier" not in source.read_text() and "int8_t" not in source.read_text()
    status, _, _ = recurra_("export", file, "--c", tmp_path, "--name", "amp", "--quantize", "int8")
    assert status == 0
    assert "amp_step" in (tmp_path / "amp.h").read_text() and "int8_t" in (tmp_path / "amp.c").read_text()
    odd = tmp_path / "8-bit é.safetensors"
    odd.write_bytes(file.read_bytes())
    assert recurra_("export", odd, "--c", tmp_path)[0] == 0
    assert (tmp_path / "model_8_bit.c").exists()
    status, _, err = recurra_("export", file, "--c", tmp_path, "--name", "a b")
    assert (status, err) == (2, "recurra export: name: expected an identifier of C, got 'a b'\n")


def test_export_writes_cpp(recurra_: Command, file: Path, tmp_path: Path) -> None:
    status, out, _ = recurra_("export", file, "--cpp", tmp_path / "out")
    header = tmp_path / "out" / "amplifier.hpp"
    assert (status, out) == (0, f"{header}: {header.stat().st_size:,} bytes\n")
    assert "namespace amplifier {" in header.read_text()
    assert recurra_("export", file, "--cpp", tmp_path, "--c", tmp_path)[0] == 2
    assert recurra_("export", file)[0] == 2
