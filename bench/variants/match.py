"""The match-LSTM in PyTorch, as one writes it from its equations with a batch in mind."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

import recurra

from . import Call, Case


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
    """Words of a premise, words of a hypothesis, rows, hidden units."""

    words: int
    steps: int
    rows: int
    hidden: int

    @property
    def multiply_adds(self) -> float:
        """Of a call: two encoders, keys, and for each step query, scores, context and LSTM."""
        words, steps, rows, size = self
        encoders = 8 * size**2 * (words + steps)
        attention = size**2 * (words + 1 + 2 * steps) + steps * 2 * size * (words + 1)
        return rows * (encoders + attention + steps * 12 * size**2)


def contestants(shape: Shape, training: bool) -> dict[str, Call]:
    """recurra and PyTorch; of a training's results the gradient of the premise is compared."""
    words, steps, rows, hidden = shape
    ours, rng = recurra.MatchLSTM(hidden, hidden, seed=0), np.random.default_rng(0)
    premise, hypothesis = (rng.standard_normal((n, rows, hidden), "float32") for n in (words, steps))
    theirs = TorchMatchLSTM(hidden, hidden, hidden)
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in ours.state_dict().items()})
    tensors = [torch.from_numpy(array.copy()).requires_grad_() for array in (premise, hypothesis)]
    d_last = np.ones((rows, hidden), "float32")

    def call_theirs() -> Any:
        with torch.no_grad():
            return [theirs(*tensors)[1].numpy()]

    def train_ours() -> Any:
        return [ours.forward(premise, hypothesis)[2].backward(d_last=d_last).premise]

    def train_theirs() -> Any:
        theirs.zero_grad()
        tensors[0].grad = None
        theirs(*tensors)[1].sum().backward()
        assert tensors[0].grad is not None
        return [tensors[0].grad.numpy()]

    if training:
        return {"recurra": train_ours, "torch": train_theirs}
    return {"recurra": lambda: [ours(premise, hypothesis)[1]], "torch": call_theirs}


CASES = [
    Case(
        f"MatchLSTM{' call' * (not training)} {shape.words}, {shape.steps} words B={shape.rows} H=I={shape.hidden}",
        shape.multiply_adds * (3 if training else 1),
        partial(contestants, shape, training),
    )
    for shape in (Shape(20, 12, 1, 64), Shape(20, 12, 32, 64), Shape(20, 12, 32, 150), Shape(40, 40, 32, 128))
    for training in (False, True)
]
