"""Audio files of `recurra run`."""

from __future__ import annotations

import struct
import wave
from pathlib import Path

import numpy as np
import pytest

from recurra.command.wav import Encoding, read_wav, write_wav

SAMPLES = np.array([[0.0, -1.0], [0.5, -0.5], [0.25, 0.75]])
GUID = bytes.fromhex("000000001000800000aa00389b71")


def part(name: bytes, body: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(body) if size is None else size) + body + b"\0" * (len(body) % 2)


def form(tag: int, bits: int, channels: int = 2, rate: int = 44100, frame: int | None = None) -> bytes:
    frame = channels * bits // 8 if frame is None else frame
    return struct.pack("<HHIIHH", tag, channels, rate, rate * frame, frame, bits)


def riff(*parts: bytes) -> bytes:
    body = b"WAVE" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def whole_numbers(width: int) -> bytes:
    numbers = np.round(SAMPLES * 2.0 ** (8 * width - 1)).astype(np.int64).ravel()
    shift = 128 if width == 1 else 0
    return b"".join(int(v + shift).to_bytes(width, "little", signed=width > 1) for v in numbers)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("extensible", [False, True])
def test_whole_numbers_of_all_widths(tmp_path: Path, width: int, extensible: bool) -> None:
    file, data = tmp_path / "in.wav", whole_numbers(width)
    if extensible:
        more = struct.pack("<HHI", 22, 8 * width, 3) + struct.pack("<H", 1) + GUID
        file.write_bytes(riff(part(b"fmt ", form(0xFFFE, 8 * width) + more), part(b"data", data)))
    else:
        with wave.open(str(file), "wb") as opened:
            opened.setnchannels(2)
            opened.setsampwidth(width)
            opened.setframerate(44100)
            opened.writeframes(data)
    rate, samples, encoding = read_wav(file)
    assert (rate, encoding) == (44100, Encoding(False, 8 * width))
    np.testing.assert_array_equal(samples, SAMPLES.astype("float32"))


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("extensible", [False, True])
def test_floating_point_numbers(tmp_path: Path, bits: int, extensible: bool) -> None:
    samples = (SAMPLES * 3).astype(f"f{bits // 8}")
    more = struct.pack("<HHI", 22, bits, 3) + struct.pack("<H", 3) + GUID if extensible else b"\0\0"
    head = part(b"fmt ", form(0xFFFE if extensible else 3, bits) + more)
    other = part(b"LIST", b"odd") + part(b"fact", struct.pack("<I", 3))
    (tmp_path / "in.wav").write_bytes(riff(other, head, part(b"data", samples.tobytes()), part(b"junk", b"1")))
    rate, read, encoding = read_wav(tmp_path / "in.wav")
    assert (rate, read.dtype, encoding) == (44100, samples.dtype, Encoding(True, bits))
    np.testing.assert_array_equal(read, samples)


@pytest.mark.parametrize("encoding", [Encoding(False, bits) for bits in (8, 16, 24, 32)])
def test_what_is_written_in_whole_numbers_others_read(tmp_path: Path, encoding: Encoding) -> None:
    samples = np.array([[0.3, -2.0], [0.125, 1.5], [0.0, -0.7]], "float32")
    write_wav(tmp_path / "out.wav", samples, 8000, encoding)
    bits = max(16, encoding.bits)
    with wave.open(str(tmp_path / "out.wav")) as opened:
        assert opened.getparams()[:4] == (2, bits // 8, 8000, 3)
    _, read, stored = read_wav(tmp_path / "out.wav")
    assert stored == Encoding(False, bits)
    np.testing.assert_allclose(read, np.clip(samples, -1, 1), atol=2.0 ** (2 - bits), rtol=2e-7)


@pytest.mark.parametrize("bits", [32, 64])
def test_what_is_written_in_floating_point_keeps_its_bits(tmp_path: Path, bits: int) -> None:
    samples = np.random.default_rng(0).normal(0, 5, (7, 3)).astype(f"f{bits // 8}")
    write_wav(tmp_path / "out.wav", samples, 48000, Encoding(True, bits))
    file = (tmp_path / "out.wav").read_bytes()
    assert struct.unpack("<I", file[4:8])[0] == len(file) - 8 and file[20:22] == b"\3\0" and file[38:42] == b"fact"
    rate, read, _ = read_wav(tmp_path / "out.wav")
    assert rate == 48000 and read.tobytes() == samples.tobytes()


def test_a_size_that_nobody_knew_is_the_rest_of_the_file(tmp_path: Path) -> None:
    """What a program writes into a pipe; of a last frame that is not whole nothing is read."""
    data = part(b"data", whole_numbers(2) + b"12", 0xFFFFFFFF)
    (tmp_path / "in.wav").write_bytes(riff(part(b"fmt ", form(1, 16)), data))
    np.testing.assert_array_equal(read_wav(tmp_path / "in.wav")[1], SAMPLES.astype("float32"))


def test_numbers_that_are_not_finite_are_no_whole_numbers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected finite samples"):
        write_wav(tmp_path / "out.wav", np.array([[np.nan]]), 8000, Encoding(False, 16))


DATA = part(b"data", whole_numbers(2))
BAD = {
    "empty": (b"", "begins with"),
    "another file": (b"OggS" + bytes(60), "begins with b'OggS'"),
    "no samples": (riff(part(b"fmt ", form(1, 16))), "no samples"),
    "no format": (riff(DATA), "samples come before their format"),
    "short format": (riff(part(b"fmt ", form(1, 16)[:14]), DATA), "14 bytes, of at least 16"),
    "mu-law": (riff(part(b"fmt ", form(7, 8)), DATA), "encoding is 7 in 8 bits"),
    "12 bits": (riff(part(b"fmt ", form(1, 12)), DATA), "encoding is 1 in 12 bits"),
    "half precision": (riff(part(b"fmt ", form(3, 16)), DATA), "encoding is 3 in 16 bits"),
    "no channels": (riff(part(b"fmt ", form(1, 16, 0)), DATA), "0 channels"),
    "no rate": (riff(part(b"fmt ", form(1, 16, 2, 0)), DATA), "0 steps a second"),
    "frames of another size": (riff(part(b"fmt ", form(1, 16, 2, 8000, 3)), DATA), "3 bytes a step"),
    "ends early": (riff(part(b"fmt ", form(1, 16)), part(b"data", b"1234", 4000)), "4 of 4000 bytes are there"),
    "ends in the format": (riff(part(b"fmt ", form(1, 16), 4000)), "within its part 'fmt '"),
    "unknown subformat": (riff(part(b"fmt ", form(0xFFFE, 16) + bytes(24)), DATA), "extensible format is none"),
}


@pytest.mark.parametrize("name", BAD)
def test_damaged_files_are_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    (tmp_path / "in.wav").write_bytes(content)
    with pytest.raises(ValueError, match=f"in.wav: expected a .wav of .*{message}"):
        read_wav(tmp_path / "in.wav")


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    rng, file = np.random.default_rng(3), tmp_path / "in.wav"
    write_wav(file, SAMPLES.astype("float32"), 8000, Encoding(True, 32))
    whole, read = np.frombuffer(file.read_bytes(), np.uint8), 0
    for _ in range(3000):
        data = whole[: rng.integers(len(whole) + 1) if rng.random() < 0.2 else None].copy()
        for at in rng.integers(0, max(1, len(data)), rng.integers(1, 4)) if len(data) else ():
            data[at] = rng.choice(np.array([0, 1, 255, int(rng.integers(256))]))
        file.write_bytes(data.tobytes())
        try:
            samples = read_wav(file)[1]
        except ValueError as error:
            assert str(error).startswith(str(file))
        else:
            assert samples.nbytes <= 4 * len(data)
            read += 1
    assert read > 300
