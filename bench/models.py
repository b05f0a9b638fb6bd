"""Whole models beside ONNX Runtime: ``python bench/models.py``.

A GRU of 64 units with a Linear on single samples, as audio effects have it, and a denoiser of three GRUs of 256 units
between two Linears on spectra of 257 bands. Each is written as ONNX, read again, and timed by ``recurra bench FILE``;
then a streamed step of the same model with reduced weights.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np

import recurra
from recurra.command import bench
from recurra.command.convert import quantized
from recurra.command.table import number

SECONDS = 3.0


def models() -> dict[str, recurra.Model]:
    """By name."""
    effect = [recurra.GRU(1, 64, seed=0), recurra.Linear(64, 1, seed=1)]
    denoiser = [
        recurra.Linear(257, 256, seed=0),
        "relu",
        recurra.GRU(256, 256, 3, seed=1),
        recurra.Linear(256, 257, seed=2),
        "sigmoid",
    ]
    return {"gru64": recurra.Model(effect), "denoiser": recurra.Model(denoiser)}


def main() -> None:
    """Print all times."""
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models().items():
            path = Path(folder) / f"{name}.onnx"
            model.to_onnx(path)
            for threads in ("1", "2"):
                bench.run([str(path), "--seconds", str(SECONDS), "--threads", threads])
            _print_reduced(model)


def _print_reduced(model: recurra.Model) -> None:
    frame = np.zeros(next(iter(model.inputs.values())).size, "float32")
    streams = {each: quantized(model, each).stream() for each in ("bfloat16", "int8")}
    times = bench.medians({name: partial(stream.step, frame) for name, stream in streams.items()}, SECONDS)
    texts = (f"{name} {number(time)} us" for name, time in zip(streams, times, strict=True))
    print("a step in", ", ".join(texts))


if __name__ == "__main__":
    main()
