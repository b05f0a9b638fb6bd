"""What is promised besides speed: accuracy of reduced precision, and costs that should be small or proportional.

python bench/properties.py            # Markdown; two minutes
python bench/properties.py accuracy   # one table; the others: packing, steps, tails, lengths, marks, free,
                                      # resets, activations, training_memory
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import recurra
from recurra.bench import limits as machine
from recurra.bench import shapes
from recurra.demo import vowels

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: for bench
from bench import trained

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


def accuracy() -> None:
    """Of reduced precision: error to signal, largest error / largest output, and what the model is for."""
    print("| model | precision | error to signal, dB | largest error | result |\n|---|---|---|---|---|")
    for make in (trained.classifier, trained.characters, trained.amplifier, trained.speaker_encoder):
        model = make()
        wanted = model.outputs(model.layer)
        print(f"| {model.name} | float32 | | | {model.score(wanted)} |")
        kept: list[tuple[str, list[int]]] = [(precision, []) for precision in PRECISIONS]
        if model.layer.num_layers > 1:
            kept.append(("int8", [0]))
        for precision, keep in kept:
            made = model.outputs(model.layer.quantize(precision, keep=keep))
            error, largest = trained.decibels(made, wanted), np.abs(made - wanted).max() / np.abs(wanted).max()
            name = f"{precision}, keep={keep}" if keep else precision
            print(f"| | {name} | {error:.1f} | {largest:.1%} | {model.score(made)} |", flush=True)


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


def steps() -> None:
    """What one step of a small stream is made of: a call that has next to nothing to do, such a call with the pointwise
    functions (of a layer that multiplies single numbers), and reading the weights."""
    print("\n| one step from Python, us | a step | of RNN H=I=1 | of I=P=1 and as many units | reading the weights |")
    print("|---|---|---|---|---|")
    known = machine.measure()
    least = recurra.RNN(1, 1, seed=0).stream()
    one, out = np.ones(1, np.float32), np.empty(1, np.float32)
    for kind, hidden in (("LSTM", 64), ("LSTM", 128), ("GRU", 64), ("GRU", 128)):
        stream = getattr(recurra, kind)(hidden, hidden, seed=0).stream()
        x, y = random(hidden), np.empty(hidden, np.float32)
        calls: dict[str, Callable[[], object]] = {
            "step": lambda: [stream.step(x, out=y) for _ in range(100)],  # noqa: B023  (called at once)
            "call": lambda: [least.step(one, out=out) for _ in range(100)],
        }
        if kind == "LSTM":
            units = recurra.LSTM(1, hidden, proj_size=1, seed=0).stream()
            calls["units"] = lambda: [units.step(one, out=out) for _ in range(100)]  # noqa: B023
        median = {name: value / 100 for name, value in in_turns(1.0, **calls).items()}
        (shape,) = shapes.parse_line(f"cell={kind} T=1 B=1 H={hidden}")
        read = 1e6 * (machine.bound(shape, known) or 0)
        of_units = f"{median['units']:.2f}" if "units" in median else "-"
        print(f"| {kind} H=I={hidden} | {median['step']:.2f} | {median['call']:.2f} | {of_units} | {read:.2f} |")


def tails() -> None:
    """How far a step's 99th percentile is from its median while this thread does nothing else."""
    print("\n| a stream alone | median, us | p99 / median |\n|---|---|---|")
    for kind, hidden in (("LSTM", 16), ("LSTM", 64), ("GRU", 64), ("LSTM", 128), ("LSTM", 256), ("GRU", 256)):
        stream = getattr(recurra, kind)(hidden, hidden, seed=0).stream()
        x, y = random(hidden), np.empty(hidden, np.float32)
        times = np.empty(20_000)
        for i in range(len(times)):
            start = time.perf_counter_ns()
            stream.step(x, out=y)
            times[i] = time.perf_counter_ns() - start
        median, p99 = np.percentile(times, (50, 99))
        print(f"| {kind} H=I={hidden} | {median / 1000:.2f} | {p99 / median:.2f} |")


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


def marks() -> None:
    """Time of a call with 1 % of the steps reset, or with as many masked in the middle, against one without."""
    head = ("resets", "mask", "training, resets", "training, mask")
    print(f"\n| layer | {' | '.join(head)} |\n|---|---|---|---|---|")
    recurra.set_num_threads(1)
    for kind in ("LSTM", "GRU"):
        for steps, batch in ((100, 1), (50, 32)):
            for hidden in (64, 256):
                layer: recurra.Recurrent = getattr(recurra, kind)(hidden, hidden, seed=0)
                x, dy = random(steps, batch, hidden), random(steps, batch, hidden)
                y, flags = np.empty_like(x), np.zeros((steps, batch), bool)
                flags.ravel()[50::100] = True
                given: dict[str, dict[str, Any]] = {"plain": {}, "resets": {"resets": flags}, "mask": {"mask": ~flags}}

                def call(name: str) -> object:
                    return layer(x, out=y, **given[name])  # noqa: B023

                def train(name: str) -> object:
                    return layer.forward(x, **given[name])[2].backward(dy)  # noqa: B023

                ratios = []
                for run in (call, train):
                    times = in_turns(2.0, **{name: partial(run, name) for name in given})
                    ratios += [f"{times[name] / times['plain']:.3f}" for name in head[:2]]
                print(f"| {kind} T={steps} B={batch} H=I={hidden} | {' | '.join(ratios)} |")


def free() -> None:
    """Time of a call whose mask is a prefix against one with the lengths it says, and of one with c of every step."""
    print("\n| LSTM | mask / lengths | training | return_cells | training |\n|---|---|---|---|---|")
    recurra.set_num_threads(1)
    for steps, batch in ((100, 1), (50, 32)):
        for hidden in (64, 256):
            layer = recurra.LSTM(hidden, hidden, seed=0)
            x, dy = random(steps, batch, hidden), random(steps, batch, hidden)
            valid = np.random.default_rng(0).integers(steps // 2, steps + 1, batch)
            prefix = np.arange(steps)[:, None] < valid
            pairs: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
                ({"lengths": valid}, {"mask": prefix, "masked_output": "zero"}),
                ({}, {"return_cells": True}),
            )

            def train(**options: Any) -> object:
                return layer.forward(x, **options)[2].backward(dy)  # noqa: B023

            ratios = []
            for less, more in pairs:
                for run in (partial(layer, x), train):
                    times = in_turns(2.0, less=partial(run, **less), more=partial(run, **more))
                    ratios.append(f"{times['more'] / times['less']:.3f}")
            print(f"| T={steps} B={batch} H=I={hidden} | {' | '.join(ratios)} |")


def resets() -> None:
    """GRU reset before the product against reset after it, which is one phase instead of two."""
    print("\n| GRU | reset before / after |\n|---|---|")
    for steps, batch, hidden in ((100, 1, 64), (100, 1, 256), (50, 32, 256)):
        x = random(steps, batch, hidden)
        y = np.empty_like(x)
        after, before = (recurra.GRU(hidden, hidden, reset=kind, seed=0) for kind in ("after", "before"))
        median = in_turns(after=lambda: after(x, out=y), before=lambda: before(x, out=y))  # noqa: B023
        print(f"| T={steps} B={batch} H=I={hidden} | {median['before'] / median['after']:.2f} |")


def activations() -> None:
    """The cells whose activations are chosen at run time against the standard ones, with the standard functions."""
    print("\n| general cell / standard cell | step | T=100 B=1 | T=50 B=32 | T=100 B=1, forward and backward |")
    print("|---|---|---|---|---|")
    cells = ("rnn_tanh", "gru", "gru_reset_before", "lstm", "lstm_peephole")
    for cell, hidden in ((cell, hidden) for hidden in (16, 64, 128, 256) for cell in cells):
        name = "rnn_general" if cell == "rnn_tanh" else f"{cell}_general"
        layers = {kind: recurra.Recurrent(kind, hidden, hidden, seed=0) for kind in (cell, name)}
        streams = {kind: layer.stream() for kind, layer in layers.items()}
        one, long, many = random(hidden), random(100, 1, hidden), random(50, 32, hidden)

        def train(layer: recurra.Recurrent, x: Floats) -> None:
            y, _, tape = layer.forward(x)
            tape.backward(y)

        calls: list[Callable[[str], object]] = [
            lambda kind: streams[kind].step(one),  # noqa: B023
            lambda kind: layers[kind](long),  # noqa: B023
            lambda kind: layers[kind](many),  # noqa: B023
            lambda kind: train(layers[kind], long),  # noqa: B023
        ]
        ratios = []
        for call in calls:
            median = in_turns(0.5, standard=lambda: call(cell), general=lambda: call(name))  # noqa: B023
            ratios.append(f"{median['general'] / median['standard']:.2f}")
        print(f"| {cell} H=I={hidden} | {' | '.join(ratios)} |")


def status(key: str) -> int:
    """A line of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def trainer(who: str, kind: str, hidden: int) -> Callable[[Floats], object]:
    """Forward and backward of "recurra", "recompute" or "torch"."""
    if who == "torch":
        torch = importlib.import_module("torch")
        theirs = getattr(torch.nn, kind)(hidden, hidden)

        def step(x: Floats) -> None:
            y = theirs(torch.from_numpy(x).requires_grad_())[0]
            y.backward(y.detach())

        return step
    layer: recurra.Recurrent = getattr(recurra, kind)(hidden, hidden, seed=0)

    def train(x: Floats) -> object:
        y, _, tape = layer.forward(x, recompute=who == "recompute")
        return tape.backward(y)

    return train


def peak(who: str, kind: str, steps: int, batch: int, hidden: int) -> float:
    """MiB by which this process, a fresh one, grows at most in one forward and backward (Linux)."""
    trainer(who, kind, 8)(random(2, 2, 8))  # what a library sets up once does not count
    train, x = trainer(who, kind, hidden), random(steps, batch, hidden)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    kept = train(x)
    assert kept is None or kept
    return (status("VmHWM") - before) / 1024


def training_memory() -> None:
    """Peak of forward and backward, beside PyTorch's if it is installed, each in a process of its own (Linux)."""
    if not Path("/proc/self/clear_refs").exists():
        return
    who = ["recurra", "recompute", *(["torch"] if importlib.util.find_spec("torch") else [])]
    print(f"\n| train, MiB at the peak | {' | '.join(who)} |\n|---|{'---|' * len(who)}")
    sizes = [(kind, *size) for size in ((200, 32, 256), (5000, 1, 256), (2000, 8, 64)) for kind in ("LSTM", "GRU")]
    for size in sizes:
        peaks = []
        for name in who:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                peaks.append(pool.submit(peak, name, *size).result())
        kind, steps, batch, hidden = size
        print(f"| {kind} T={steps} B={batch} H=I={hidden} | " + " | ".join(f"{value:.0f}" for value in peaks) + " |")


def main(names: list[str]) -> None:
    """Print the tables of these names; without any, all."""
    every = [accuracy, packing, steps, tails, lengths, marks, free, resets, activations, training_memory]
    sections = {section.__name__: section for section in every}
    if unknown := [name for name in names if name not in sections]:
        raise SystemExit(f"expected some of {', '.join(sections)}, got {unknown[0]!r}")
    for name in names or sections:
        sections[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
