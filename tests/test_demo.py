"""The demo: its data are the official ones, and the command line does what README says."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import hypothesis.extra.numpy as npst
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import recurra
from recurra.__main__ import main
from recurra.demo import vowels


def command(cwd: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """``python -m recurra`` in a folder that holds no copy of the package."""
    line = [sys.executable, "-m", "recurra", *args]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("split", "frames", "utterances"),
    [("train", 4274, [30] * 9), ("test", 5687, [31, 35, 88, 44, 29, 24, 40, 50, 29])],
)
def test_data_are_the_official_split(split: str, frames: int, utterances: list[int]) -> None:
    data = vowels.load_split(split)
    assert data.frames.shape == (frames, 12) and data.frames.dtype == np.float32
    assert data.frames.flags.c_contiguous  # or every step would first have to copy its frame
    assert data.lengths.sum() == frames and data.lengths.min() >= 7 and data.lengths.max() <= 29
    assert np.bincount(data.speakers).tolist() == [0, *utterances]


@pytest.mark.parametrize(
    ("split", "digest"),
    [
        ("train", "b531e6680122bee893af0ee8794a696bb7caad40d5abe04cc19dd8be9bc61172"),
        ("test", "7c71160980b89a87419481f63e5e0687879d87e97d824d2d77393df866943db5"),
    ],
)
def test_frames_are_the_text_files_numbers_as_float32(split: str, digest: str) -> None:
    """SHA-256 of ``np.array(decimals, np.float64).astype("<f4")``, taken from the text files themselves."""
    assert hashlib.sha256(vowels.load_split(split).frames.astype("<f4").tobytes()).hexdigest() == digest


@given(npst.arrays(np.int64, st.tuples(st.integers(1, 9), st.just(12)), elements=st.integers(-4_000_000, 4_000_000)))
def test_packed_frames_come_back_to_the_bit(millionths: npt.NDArray[np.int64]) -> None:
    frames = (millionths / 1e6).astype(np.float32)
    packed = vowels.pack(frames)
    assert packed.dtype == np.uint8 and packed.shape == (3, *frames.shape)
    assert vowels.unpack(packed).tobytes() == frames.tobytes()


def test_values_are_the_original_ones() -> None:
    first = [1.860936, -0.207383, 0.261557, -0.214562, -0.171253]  # of UCI's ae.train; a normalised copy has others
    np.testing.assert_array_equal(vowels.load_split("train").frames[0, :5], np.array(first, np.float32))


def test_pad_keeps_every_frame_and_zeroes_the_rest() -> None:
    frames, lengths, _ = vowels.load_split("test")
    batch, valid = vowels.pad(frames, lengths)
    assert batch.shape == (370, 29, 12)
    np.testing.assert_array_equal(batch[valid], frames)
    assert not batch[~valid].any()


def test_demo(tmp_path: Path) -> None:
    done = command(tmp_path, "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    accuracy = re.search(r"accuracy ([\d.]+)%", done.stdout)
    assert accuracy and float(accuracy[1]) >= 96
    assert "identical bits" in done.stdout and re.search(r"median [\d.]+ us a step", done.stdout)
    assert "Kudo" in done.stdout and "CC BY 4.0" in done.stdout


def test_demo_fails_when_bits_differ(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    honest = vowels.stream_all

    def one_bit_off(*args: object) -> tuple[vowels.Floats, list[int]]:
        outputs, times = honest(*args)  # type: ignore[arg-type]
        outputs.view(np.uint32)[1000, 7] ^= 1
        return outputs, times

    monkeypatch.setattr(vowels, "stream_all", one_bit_off)
    assert vowels.run() == 1
    assert "BITS DIFFER" in capsys.readouterr().out


def test_info_help_and_bad_command(tmp_path: Path) -> None:
    info = command(tmp_path, "info")
    assert info.returncode == 0 and "isa" in info.stdout
    bare = command(tmp_path)
    assert bare.returncode == 0 and "demo" in bare.stdout and "info" in bare.stdout
    bad = command(tmp_path, "dmeo")
    assert bad.returncode == 2 and "dmeo" in bad.stderr


@pytest.mark.parametrize(("option", "shown"), [("--cmake-dir", "lib/cmake/recurra"), ("--includes", "include")])
def test_where_the_cpp_library_is(
    option: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recurra, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(sys, "argv", ["recurra", option])
    assert main() == 1 and "-C cmake.define.RECURRA_INSTALL=ON" in capsys.readouterr().err
    (tmp_path / "cpp").mkdir()
    assert main() == 0
    assert capsys.readouterr().out.strip().removeprefix("-I") == str(tmp_path / "cpp" / shown)


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("words", [["info"], ["demo"], ["--help"], ["bench", "--help"], ["demo", "hello"]])
def test_a_reader_that_stops_early_leaves_no_traceback(words: list[str], buffered: bool, tmp_path: Path) -> None:
    line = [sys.executable, *["-u"] * (not buffered), "-m", "recurra", *words]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipe = subprocess.PIPE
    writer = subprocess.Popen(line, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True, env=environment)
    assert writer.stdout and writer.stderr
    writer.stdout.close()  # before the first line
    ends = (0, 1) if "--help" in words else (1,)  # argparse may ignore that nobody reads its help
    assert writer.wait(timeout=120) in ends and writer.stderr.read() == ""
    writer.stderr.close()


@pytest.mark.parametrize("words", ["info", "demo"])
def test_nothing_need_be_there_to_write_to(words: str, tmp_path: Path) -> None:
    line = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "recurra", words]
    done = subprocess.run(line, cwd=tmp_path, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("RECURRA_ISA", "sse9", ["info"]),
        ("RECURRA_ISA", "sse9", ["demo"]),
        ("RECURRA_ISA", "sse9", ["demo", "hello"]),
        ("RECURRA_ISA", "sse9", ["bench", "--quick"]),
        ("RECURRA_NUM_THREADS", "none", ["info"]),
        ("RECURRA_NUM_THREADS", "none", ["bench", "--quick"]),
    ],
)
def test_an_environment_that_the_core_refuses_is_named(
    name: str, value: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "bench" in words:
        pytest.importorskip("rich", reason="the bench extra is not installed")
    monkeypatch.setenv(name, value)
    done = command(tmp_path, *words)
    assert done.returncode == 2 and done.stderr.startswith(f"recurra: {name}: ")
    assert repr(value) in done.stderr and done.stderr.count("\n") == 1
