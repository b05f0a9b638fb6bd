"""``recurra run FILE in out``: a file of samples or frames through a stream, block by block as audio arrives."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import numpy as np

from . import arguments
from .table import number
from .wav import Encoding, read_wav, write_wav

if TYPE_CHECKING:
    from pathlib import Path

    from recurra._arrays import Array

__all__ = ["run"]


def run(path: Path, source: Path, to: Path, block: int) -> int:
    """Stream it; print how long that took and, of audio, how much faster than real time it is."""
    model = arguments.load(path)
    rate, frames, encoding = read(source)
    value = next(iter(model.inputs.values()))
    if len(model.inputs) > 1 or not value.time:
        raise ValueError(f"{path}: expected a model of one sequence, got inputs {list(model.inputs)}")
    if to.suffix not in (".wav", ".npy") or not to.parent.is_dir():
        raise ValueError(f"{to}: expected .wav or .npy, in a folder that is there")
    frames = frames.reshape(len(frames), math.prod(frames.shape[1:]))
    if frames.shape[1] != value.size:
        raise ValueError(f"{source}: expected {value.size} numbers a step, got {frames.shape[1]}")
    if to.suffix == ".wav" and rate is None:
        raise ValueError(f"{to}: expected .npy for frames that have no sampling rate")
    frames = frames.astype(np.int64 if value.integer else model.dtype).reshape(len(frames), *value.features)
    stream = model.stream()
    begin = time.perf_counter()
    blocks = [stream.run(frames[first : first + block]) for first in range(0, max(1, len(frames)), block)]
    took = time.perf_counter() - begin
    made = np.concatenate(blocks)
    write(to, made, rate, encoding)
    text = f"{len(frames):,} steps in {took:.3g} s, {number(took / max(1, len(frames)) * 1e6)} us each"
    if rate is not None and took > 0:
        text += f"; {number(len(frames) / rate / took)} times faster than real time"
    print(text)
    return 0


def read(path: Path) -> tuple[int | None, Array, Encoding]:
    """Sampling rate, None of a .npy, frames [T, ...], and how they were stored."""
    if path.suffix == ".wav":
        return read_wav(path)
    if path.suffix != ".npy":
        raise ValueError(f"{path}: expected .wav or .npy")
    frames = np.load(path, allow_pickle=False)
    if frames.ndim < 1 or frames.dtype.kind not in "fiu":
        raise ValueError(f"{path}: expected an array [T, features] of numbers, got {frames.dtype} {frames.shape}")
    return None, frames, Encoding(True, 32)


def write(path: Path, frames: Array, rate: int | None, encoding: Encoding) -> None:
    """To .npy as they are, to .wav as the input was stored."""
    if path.suffix == ".npy":
        np.save(path, frames)
    elif path.suffix == ".wav" and rate is not None:
        write_wav(path, frames, rate, encoding)
    else:
        raise ValueError(f"{path}: expected .wav or .npy")
