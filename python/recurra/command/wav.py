"""Audio in .wav files: whole numbers of 8 to 32 bits (PCM) and floating-point numbers (IEEE)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from recurra._arrays import Array

__all__ = ["Encoding", "read_wav", "write_wav"]

_PCM, _IEEE_FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_SUBFORMAT = bytes.fromhex("000000001000800000aa00389b71")  # of WAVE_FORMAT_EXTENSIBLE, behind the tag
_UNKNOWN = 0xFFFFFFFF  # the size that a program writes which cannot go back to the header


class Encoding(NamedTuple):
    """How samples are stored.

    Attributes:
        floating: whether as floating-point numbers.
        bits: of a sample.
    """

    floating: bool
    bits: int


def read_wav(path: Path) -> tuple[int, Array, Encoding]:
    """Sampling rate, samples [T, channels] and their encoding; whole numbers become float32 in -1..1.

    Raises:
        ValueError: it is no such file, or ends too early.
        OSError: it cannot be read.
    """
    try:
        return _read(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: expected a .wav of whole numbers (PCM) or floating-point ones: {error}") from None


def _read(file: bytes) -> tuple[int, Array, Encoding]:
    if len(file) < 12 or file[:4] != b"RIFF" or file[8:12] != b"WAVE":
        raise ValueError(f"it begins with {file[:4]!r}, not with a header RIFF, WAVE")
    form, at = None, 12
    while at + 8 <= len(file):
        name, size = file[at : at + 4], struct.unpack_from("<I", file, at + 4)[0]
        body = memoryview(file)[at + 8 : at + 8 + size]
        whole = len(body) == size or (name == b"data" and size == _UNKNOWN)
        if name in (b"fmt ", b"data") and not whole:
            raise ValueError(
                f"it ends within its part {name.decode()!r}, of which {len(body)} of {size} bytes are there"
            )
        if name == b"fmt ":
            form = _format(bytes(body))
        elif name == b"data":
            if form is None:
                raise ValueError("its samples come before their format")
            return _samples(body, *form)
        at += 8 + size + size % 2
    raise ValueError("it has no samples")


def _format(body: bytes) -> tuple[int, int, Encoding]:
    """Sampling rate, channels and encoding."""
    if len(body) < 16:
        raise ValueError(f"its format has {len(body)} bytes, of at least 16")
    tag, channels, rate, _, frame, bits = struct.unpack_from("<HHIIHH", body)
    if tag == _EXTENSIBLE:
        if len(body) < 40 or body[26:40] != _SUBFORMAT:
            raise ValueError("its extensible format is none that is known")
        tag = struct.unpack_from("<H", body, 24)[0]
    known = {_PCM: (8, 16, 24, 32), _IEEE_FLOAT: (32, 64)}
    if bits not in known.get(tag, ()):
        raise ValueError(f"its encoding is {tag} in {bits} bits")
    if not channels or not rate or frame != channels * bits // 8:
        raise ValueError(f"its format has {channels} channels, {rate} steps a second and {frame} bytes a step")
    return rate, channels, Encoding(tag == _IEEE_FLOAT, bits)


def _samples(body: memoryview, rate: int, channels: int, encoding: Encoding) -> tuple[int, Array, Encoding]:
    width = encoding.bits // 8
    body = body[: len(body) // (width * channels) * width * channels]
    if encoding.floating:
        return rate, np.frombuffer(body, f"<f{width}").astype(f"f{width}").reshape(-1, channels), encoding
    bytes_: Any = np.frombuffer(body, np.uint8).reshape(-1, width)
    if width == 1:  # the only one without a sign
        bytes_ = bytes_ ^ 0x80
    whole = np.zeros((len(bytes_), 4), np.uint8)
    whole[:, 4 - width :] = bytes_
    return rate, (whole.view("<i4").reshape(-1, channels) / 2.0**31).astype(np.float32), encoding


def write_wav(path: Path, samples: Array, rate: int, encoding: Encoding) -> None:
    """Samples [T, channels]; in whole numbers cut at -1 and 1, those of 8 bits in 16.

    Raises:
        ValueError: they are more than such a file holds, or not finite and to be whole numbers.
        OSError: it cannot be written.
    """
    samples = samples.reshape(len(samples), -1)
    floating, bits = encoding.floating, max(16, encoding.bits)
    width, channels = bits // 8, max(1, samples.shape[1])
    if samples.size * width > 0xFFFFFF00 or channels * width > 0xFFFF:
        raise ValueError(f"{path}: expected samples of less than 4 GB in a .wav, got {samples.shape}")
    if floating:
        data = samples.astype(f"<f{width}").tobytes()
    elif not np.isfinite(samples).all():
        raise ValueError(f"{path}: expected finite samples, got NaN or infinity")
    else:
        whole: Any = np.rint(np.clip(samples.astype(np.float64), -1, 1) * (2 ** (bits - 1) - 1)).astype("<i4")
        data = whole.reshape(-1, 1).view(np.uint8)[:, :width].tobytes()
    frame = channels * width
    form = struct.pack("<HHIIHH", _IEEE_FLOAT if floating else _PCM, channels, rate, rate * frame, frame, bits)
    parts = [(b"fmt ", form + b"\0\0"), (b"fact", struct.pack("<I", len(samples)))] if floating else [(b"fmt ", form)]
    parts.append((b"data", data))
    body = b"".join(name + struct.pack("<I", len(part)) + part + b"\0" * (len(part) % 2) for name, part in parts)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WAVE" + body)
