"""What is promised besides speed: accuracy of reduced precision, and costs that should be small or proportional.

python bench/properties.py            # Markdown; half a minute
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import recurra
from recurra.demo import vowels

Floats = NDArray[np.float32]
PRECISIONS = ("bfloat16", "int8")


def in_turns(seconds: float = 2.0, **calls: Callable[[], object]) -> dict[str, float]:
    """Median microseconds of each, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1e6 * (time.perf_counter() - start))
    return {name: float(np.median(values)) for name, values in times.items()}


def random(*shape: int) -> Floats:
    """Standard normal."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def demo_accuracy(precision: str | None) -> int:
    """How many of the demo's 370 test utterances are recognised."""
    with np.load(vowels.DATA / "vowels_gru64.npz") as file:
        weights = dict(file)
    layer = recurra.GRU(12, 64, batch_first=True)
    layer.load_state_dict({name: value for name, value in weights.items() if name.endswith("_l0")})
    layer = layer.quantize(precision) if precision else layer
    split = vowels.load_split("test")
    batch, valid = vowels.pad((split.frames - weights["mean"]) / weights["std"], split.lengths)
    output, _ = layer(batch, lengths=split.lengths)
    pooled = np.where(valid[:, :, None], output, -np.inf).max(1)
    found = (pooled @ weights["head_weight"].T + weights["head_bias"]).argmax(-1) + 1
    return int((found == split.speakers).sum())


def accuracy() -> None:
    """Of reduced precision: on the demo's task, and as error of random layers over 100 steps."""
    print("| precision | demo: of 370 | layer T=100 B=8 | largest error | root of mean square |\n|---|---|---|---|---|")
    print(f"| float32 | {demo_accuracy(None)} | | | |")
    for precision in PRECISIONS:
        right: int | str = demo_accuracy(precision)
        for kind in ("LSTM", "GRU"):
            for hidden in (64, 512):
                layer: recurra.Recurrent = getattr(recurra, kind)(hidden, hidden, seed=0)
                x = random(100, 8, hidden)
                error = layer.quantize(precision)(x)[0].astype(np.float64) - layer(x)[0]
                print(f"| {precision} | {right} | {kind} H=I={hidden} | {np.abs(error).max():.1e} |", end="")
                print(f" {np.sqrt((error**2).mean()):.1e} |")
                right = ""


def packing() -> None:
    """The one-time cost of a layer, in time of its steps and in bytes of its weights."""
    print("\n| layer | packing, us | a step, us | packing / step | packed bytes / weights |\n|---|---|---|---|---|")
    for kind in ("LSTM", "GRU"):
        for hidden in (64, 256, 512):
            layer: recurra.Recurrent = getattr(recurra, kind)(hidden, hidden, seed=0)
            packed: Any = layer.__dict__["_packed"]
            stream, x, y = layer.stream(), random(hidden), np.empty(hidden, np.float32)
            constants, cell, params = dict(packed.constants), packed.cell, dict(packed.parameters)
            median = in_turns(
                1.0,
                pack=lambda: recurra.functional.pack(cell, params, constants),  # noqa: B023  (called at once)
                steps=lambda: [stream.step(x, out=y) for _ in range(20)],  # noqa: B023
            )
            step = median["steps"] / 20
            ratio = packed.network.weight_bytes / sum(array.nbytes for array in params.values())
            print(f"| {kind} H=I={hidden} | {median['pack']:.0f} | {step:.2f} |", end="")
            print(f" {median['pack'] / step:.0f} | {ratio:.2f} |")


def lengths() -> None:
    """Time with lengths= of the demo's utterances against time of full rows, both per step computed."""
    print("\n| layer, 128 utterances | steps computed / padded steps | time / time padded |\n|---|---|---|")
    rows = np.random.default_rng(0).choice(vowels.load_split("train").lengths, 128)
    recurra.set_num_threads(1)
    for kind in ("LSTM", "GRU"):
        for hidden in (64, 256):
            layer: recurra.Recurrent = getattr(recurra, kind)(hidden, hidden, seed=0)
            x = random(int(rows.max()), len(rows), hidden)
            y = np.empty_like(x)
            median = in_turns(ragged=lambda: layer(x, lengths=rows, out=y), full=lambda: layer(x, out=y))  # noqa: B023
            share = rows.sum() / (rows.max() * len(rows))
            print(f"| {kind} H=I={hidden} | {share:.3f} | {median['ragged'] / median['full']:.3f} |")


def resets() -> None:
    """GRU reset before the product against reset after it, which is one phase instead of two."""
    print("\n| GRU | reset before / after |\n|---|---|")
    for steps, batch, hidden in ((100, 1, 64), (100, 1, 256), (50, 32, 256)):
        x = random(steps, batch, hidden)
        y = np.empty_like(x)
        after, before = (recurra.GRU(hidden, hidden, reset=kind, seed=0) for kind in ("after", "before"))
        median = in_turns(after=lambda: after(x, out=y), before=lambda: before(x, out=y))  # noqa: B023
        print(f"| T={steps} B={batch} H=I={hidden} | {median['before'] / median['after']:.2f} |")


if __name__ == "__main__":
    accuracy()
    packing()
    lengths()
    resets()
