"""What calls of recurra.torch cost: one step a call beside torch.nn, and weights' memory beside PyTorch's own.

python bench/torch_calls.py --threads 1
python bench/torch_calls.py --memory
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import recurra.torch

SIZES = (16, 32, 64, 128, 256, 512, 1024)


def median_us(function: Callable[[], Any], seconds: float) -> float:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def call(layer: Any, x: Any, state: Any) -> Callable[[], Any]:
    return lambda: layer(x, state)


def steps(seconds: float) -> None:
    """A step with its state, B = 1, I = H, in eval mode without gradients: medians of three turns, in turns."""
    print(f"{'us a call':<12} {'torch.nn':>10} {'recurra':>10} {'ratio':>7}")
    for kind in ("LSTM", "GRU"):
        for size in SIZES:
            layers = [getattr(module, kind)(size, size).eval() for module in (torch.nn, recurra.torch)]
            x, h = torch.randn(1, 1, size), torch.randn(1, 1, size)
            state = (h, torch.randn(1, 1, size)) if kind == "LSTM" else h
            turns = []
            with torch.no_grad():
                for layer in layers * 2:  # warm, at the clock that work brings
                    median_us(call(layer, x, state), seconds / 4)
                for _ in range(3):
                    turns.append([median_us(call(m, x, state), seconds) for m in layers])
            theirs, ours = (statistics.median(turn) for turn in zip(*turns, strict=True))
            print(f"{kind + ' ' + str(size):<12} {theirs:>10.1f} {ours:>10.1f} {theirs / ours:>7.2f}", flush=True)


def resident_mb() -> float:
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096 / 1e6


def memory() -> None:
    """What a process holds, less what PyTorch holds of the same model: parameters, and gradients after training."""
    # What is not of the layer, libraries and threads, a small one loads first.
    for warm in (torch.nn, recurra.torch):
        warm.LSTM(8, 8, 2, dropout=0.1)(torch.zeros(4, 4, 8))[0].sum().backward()
    layer = recurra.torch.LSTM(1024, 1024, num_layers=3, dropout=0.1)
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    weights = sum(p.numel() for p in layer.parameters()) * 4 / 1e6
    optimiser = torch.optim.SGD(layer.parameters(), lr=1e-3)  # which loads the compiler
    x, start = torch.zeros(4, 2, 1024), resident_mb()
    print(f"{weights:.0f} MB of weights")

    def report(what: str) -> None:
        print(f"{what:<40} {resident_mb() - start:>6.0f} MB more")

    layer.eval()
    with torch.no_grad():
        layer(x[:1, :1])
        report("one step of one row")
        layer(x)
        report("a call in eval mode")
        layer(x)
        report("another")
    layer.train()
    for step in range(2):
        layer(x)[0].sum().backward()
        report(f"training with dropout, backward {step + 1}")
        optimiser.step()
    layer.eval()
    with torch.no_grad():
        layer(x)
    report("a call in eval mode")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each turn")
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recurra.set_num_threads(options.threads)
    memory() if options.memory else steps(options.seconds)
