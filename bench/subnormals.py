"""How much slower a step is when weights, state or input are subnormal numbers.

    python bench/subnormals.py

On many processors each operation on a subnormal number costs a hundred cycles or more, and a network that listens to
silence, or whose cell state fades, is full of them. recurra treats them as zero, so its time must not depend on them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

import recurra

SIZE = 128
TINY = 1e-39  # subnormal: the smallest normal float32 is 1.2e-38


def median_ratio(normal: Callable[[], object], subnormal: Callable[[], object]) -> float:
    """Median time of `subnormal` over that of `normal`, measured in turns."""
    times: dict[Callable[[], object], list[float]] = {normal: [], subnormal: []}
    for _ in range(300):
        for call, samples in times.items():
            start = time.perf_counter()
            for _ in range(20):
                call()
            samples.append(time.perf_counter() - start)
    return statistics.median(times[subnormal]) / statistics.median(times[normal])


def step_of(cell: str, weights: float = 1, inputs: float = 1, state: float = 1) -> Callable[[], object]:
    """A stream's step from a given state, with weights, input and state scaled by these numbers."""
    layer = getattr(recurra, cell)(SIZE, SIZE, bias=False, seed=0)
    layer.load_state_dict({name: value * np.float32(weights) for name, value in layer.state_dict().items()})
    random = np.random.default_rng(0)
    x = random.standard_normal(SIZE, dtype=np.float32) * np.float32(inputs)
    h = random.standard_normal((1, SIZE), dtype=np.float32) * np.float32(state)
    stream = layer.stream()

    def step() -> object:
        stream.state = (h, h) if cell == "LSTM" else h
        return stream.step(x)

    return step


def main() -> None:
    """Print the ratios."""
    print(f"time of a step with subnormal numbers / without, H = I = {SIZE}, {recurra.config()['isa']}")
    for cell in ("LSTM", "GRU", "RNN"):
        ratios = {
            what: median_ratio(step_of(cell), step_of(cell, **{what: TINY})) for what in ("weights", "inputs", "state")
        }
        print(f"  {cell:5}", "  ".join(f"{what} {ratio:.2f}" for what, ratio in ratios.items()))


if __name__ == "__main__":
    main()
