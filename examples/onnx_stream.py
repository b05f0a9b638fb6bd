"""An ONNX file, frame by frame, beside ONNX Runtime over the whole sequence.

    python examples/onnx_stream.py [model.onnx]

Needs onnx, and for the comparison onnxruntime (`pip install onnx onnxruntime`). Without a file of yours it writes one.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import recurra

STEPS = 100


def write(path: Path) -> None:
    """What an exporter would have written: two GRUs and a head."""
    layers = [recurra.GRU(24, 64, num_layers=2, seed=0), recurra.Linear(64, 24, seed=1), "sigmoid"]
    recurra.Model(layers, batch_first=True).to_onnx(path)


def compare(path: Path) -> tuple[float, bool]:
    """The largest difference from ONNX Runtime, and whether a stream has the bits of the whole call."""
    model = recurra.load(path)
    print(model.summary())
    (name, value), *more = model.inputs.items()
    if more or len(model.outputs) > 1:
        raise SystemExit("this example is for one input and one output")
    axes = (1, STEPS) if model.batch_first else (STEPS, 1)
    x = np.random.default_rng(0).standard_normal((*axes, *value.features), dtype=np.float32)
    whole = model(x)

    stream = model.stream()
    frames = [stream.step(frame) for frame in x.reshape(STEPS, *value.features)]
    same = np.array_equal([frame for frame in frames if frame is not None], whole.reshape(-1, *whole.shape[2:]))

    import onnxruntime

    (theirs,) = onnxruntime.InferenceSession(str(path)).run(None, {name: x})
    return float(np.abs(theirs - whole).max()), same


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "model.onnx"
        if len(sys.argv) < 2:
            write(path)
        difference, same = compare(path)
    print(f"largest difference from ONNX Runtime {difference:.1e}; the stream has the bits of the whole call: {same}")


if __name__ == "__main__":
    main()
