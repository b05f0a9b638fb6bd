"""Training and streaming on an NVIDIA GPU, with CuPy's arrays.

    python examples/gpu_cupy.py

Needs a GPU and the extra `cuda13` (`pip install "recurra[cuda13]"`); where there is none it says so and stops. The
task: the sum of ten numbers, from one number a step.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import recurra
from recurra import training


def train(cupy: Any, steps: int = 300) -> tuple[Any, Any, list[float]]:
    """Layer, head and the losses. Nothing but them comes to the CPU, at the end."""
    layer: Any = recurra.GRU(1, 32, seed=0, device="cuda")
    head: Any = recurra.Linear(32, 1, seed=1, device="cuda")
    params = [{name: cupy.asarray(a) for name, a in part.state_dict().items()} for part in (layer, head)]
    optimisers = [training.Adam(values, lr=0.01) for values in params]
    rng, losses = np.random.default_rng(0), list[Any]()
    for _ in range(steps):
        x = cupy.asarray(rng.uniform(-1, 1, (10, 64, 1)).astype("float32"))
        y, _, tape = layer.forward(x)
        out, head_tape = head.forward(y[-1])
        loss, slope = training.mean_squared_error(out, x.sum(axis=0))
        losses.append(loss)
        below = head_tape.backward(slope)
        last = cupy.zeros_like(y)
        last[-1] = below.x
        found = [tape.backward(last).params, below.params]
        training.clip_grad_norm(found, 1.0)
        for part, values, optimiser, gradients in zip((layer, head), params, optimisers, found, strict=True):
            optimiser.step(gradients)
            part.load_state_dict(values)
    return layer, head, [float(loss.get()) for loss in losses]


def stepped(cupy: Any, layer: Any, head: Any, number: float) -> float:
    """What the network makes of ten times a number. The stream's state stays on the GPU, and a step is one launch."""
    stream = layer.stream(batch=1)
    x = cupy.asarray(np.full((10, 1, 1), number, "float32"))
    for t in range(10):
        h = stream.step(x[t])
    return float(head(h).get()[0, 0])


def main() -> None:
    try:
        import cupy  # type: ignore[import-not-found, unused-ignore]

        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy is not installed, or finds no driver or GPU
        sys.exit(f"this example needs an NVIDIA GPU and CuPy: {error}")
    layer, head, losses = train(cupy)
    print(f"mean squared error {losses[0]:.3f}, later {losses[-1]:.4f}")
    print(f"ten times 0.25: {stepped(cupy, layer, head, 0.25):.2f}")


if __name__ == "__main__":
    main()
