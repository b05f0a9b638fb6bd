"""The match-LSTM in PyTorch, as one writes it from its equations with a batch in mind, and how long both take.

python bench/variants_torch_match.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

import recurra


class Attention(torch.nn.Module):
    """Parameters named and shaped as those of recurra.MatchLSTM."""

    weight_premise: torch.Tensor
    weight_hypothesis: torch.Tensor
    weight_state: torch.Tensor

    def __init__(self, hidden: int, units: int) -> None:
        super().__init__()
        for name in ("weight_premise", "weight_hypothesis", "weight_state"):
            setattr(self, name, torch.nn.Parameter(torch.empty(units, hidden)))
        self.bias = torch.nn.Parameter(torch.empty(units))
        self.weight_score = torch.nn.Parameter(torch.empty(units))


class TorchMatchLSTM(torch.nn.Module):
    """One direction, shared encoder: its state_dict is that of recurra.MatchLSTM(inputs, hidden, units)."""

    def __init__(self, inputs: int, hidden: int, units: int) -> None:
        super().__init__()
        self.encoder = torch.nn.LSTM(inputs, hidden)
        self.attention = Attention(hidden, units)
        self.match = torch.nn.LSTMCell(2 * hidden, hidden)

    def forward(
        self, premise: Any, hypothesis: Any, premise_lengths: Any = None, hypothesis_lengths: Any = None
    ) -> tuple[Any, Any]:
        """(outputs [T, B, H], last [B, H]); lengths are tensors [B]."""
        s, q = self.encoder(premise)[0], self.encoder(hypothesis)[0]
        words, rows, size = s.shape
        s = torch.cat([s, s.new_zeros(1, rows, size)])
        ends = torch.full((rows,), words) if premise_lengths is None else premise_lengths
        place = torch.arange(words + 1)[:, None]
        padded = (place >= ends) & (place < words)
        s = s.masked_fill(padded[..., None], 0.0)
        a = self.attention
        keys, queries = s @ a.weight_premise.T + a.bias, q @ a.weight_hypothesis.T
        h = c = s.new_zeros(rows, size)
        outputs = []
        for k in range(len(q)):
            score = torch.tanh(keys + queries[k] + h @ a.weight_state.T) @ a.weight_score
            alpha = score.masked_fill(padded, -torch.inf).softmax(0)
            context = (alpha[..., None] * s).sum(0)
            h, c = self.match(torch.cat([context, q[k]], -1), (h, c))
            outputs.append(h)
        y = torch.stack(outputs)
        if hypothesis_lengths is None:
            return y, y[-1]
        valid = torch.arange(len(q))[:, None] < hypothesis_lengths
        return y * valid[..., None], y[hypothesis_lengths - 1, torch.arange(rows)]


class Shape(NamedTuple):
    words: int
    steps: int
    rows: int
    hidden: int


SHAPES = (Shape(20, 12, 1, 64), Shape(20, 12, 32, 64), Shape(20, 12, 32, 150), Shape(40, 40, 32, 128))


def rounds(functions: list[Callable[[], Any]], seconds: float) -> list[float]:
    """Medians in milliseconds, in turns."""
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) * 1e3 for taken in times]


def compared(shape: Shape, seconds: float, compiled: bool) -> list[tuple[str, list[float]]]:
    """Milliseconds of recurra and torch, of a call and of forward and backward."""
    words, steps, rows, hidden = shape
    ours, rng = recurra.MatchLSTM(hidden, hidden, seed=0), np.random.default_rng(0)
    premise, hypothesis = (rng.standard_normal((n, rows, hidden), "float32") for n in (words, steps))
    plain = TorchMatchLSTM(hidden, hidden, hidden)
    plain.load_state_dict({name: torch.from_numpy(array) for name, array in ours.state_dict().items()})
    theirs: Any = torch.compile(plain) if compiled else plain
    tensors = [torch.from_numpy(array).requires_grad_() for array in (premise, hypothesis)]
    d_last = np.ones((rows, hidden), "float32")

    def call_theirs() -> None:
        with torch.no_grad():
            theirs(*tensors)

    def train_ours() -> None:
        ours.forward(premise, hypothesis)[2].backward(d_last=d_last)

    def train_theirs() -> None:
        theirs.zero_grad()
        theirs(*tensors)[1].sum().backward()

    return [
        ("call", rounds([lambda: ours(premise, hypothesis), call_theirs], seconds)),
        ("train", rounds([train_ours, train_theirs], seconds)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=recurra.get_num_threads())
    parser.add_argument("--seconds", type=float, default=1.0, help="for each of two measurements a shape")
    parser.add_argument("--compile", action="store_true", help="torch.compile, whose first call takes a minute or more")
    options = parser.parse_args()
    recurra.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    print(f"{'ms, M T B H':<22} {'torch':>9} {'recurra':>9} {'ratio':>7}")
    for shape in SHAPES:
        for what, (ours, theirs) in compared(shape, options.seconds, options.compile):
            name = f"{what:<6}" + " ".join(map(str, shape))
            print(f"{name:<22} {theirs:>9.3f} {ours:>9.3f} {theirs / ours:>7.2f}", flush=True)


if __name__ == "__main__":
    main()
