"""The match-LSTM in NumPy float64, pair by pair, from the equations of Wang and Jiang (2016, arXiv 1512.08849)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import reference
from numpy.typing import NDArray
from reference import Array, lstm


def step(s: Array, q: Array, h: Array, c: Array, p: Mapping[str, Array]) -> tuple[Array, Array, Array]:
    """h, c and the attention of one step of one pair; s [M, H] with NULL, q [H]."""
    score = np.empty(len(s))
    for j, word in enumerate(s):
        inside = p["weight_premise"] @ word + p["weight_hypothesis"] @ q + p["weight_state"] @ h + p["bias"]
        score[j] = p["weight_score"] @ np.tanh(inside)
    alpha = np.exp(score - score.max())
    alpha /= alpha.sum()
    a = sum(weight * word for weight, word in zip(alpha, s, strict=True))
    h, c = lstm(np.concatenate([a, q]), (h, c), p, {})
    return h, c, alpha


def run(
    premise: NDArray[Any],
    hypothesis: NDArray[Any],
    params: Mapping[str, NDArray[Any]],
    premise_lengths: Sequence[int] | None = None,
    hypothesis_lengths: Sequence[int] | None = None,
) -> tuple[Array, Array, Array]:
    """Outputs [T, B, D*H], last outputs [B, D*H] and attention [D, T, B, M+1]; what is padded is zero."""
    wide = {name: np.asarray(array, np.float64) for name, array in params.items()}

    def encoded(role: str, x: NDArray[Any], lengths: Sequence[int] | None) -> Array:
        prefix = "encoder." if "encoder.weight_ih_l0" in wide else f"{role}_encoder."
        own = {name.removeprefix(prefix): array for name, array in wide.items() if name.startswith(prefix)}
        return reference.run("lstm", x, own, lengths=lengths)[0]

    s, q = encoded("premise", premise, premise_lengths), encoded("hypothesis", hypothesis, hypothesis_lengths)
    (words, batch, hidden), steps = s.shape, len(q)
    suffixes = ("", "_reverse") if "match.weight_ih_reverse" in wide else ("",)
    outputs, last = np.zeros((steps, batch, len(suffixes) * hidden)), np.zeros((batch, len(suffixes) * hidden))
    attention = np.zeros((len(suffixes), steps, batch, words + 1))
    for d, suffix in enumerate(suffixes):
        names = [name for name in wide if name.startswith(("attention.", "match."))]
        own = {
            name.partition(".")[2].removesuffix(suffix): wide[name]
            for name in names
            if name.endswith("_reverse") == bool(suffix)
        }
        columns = slice(d * hidden, (d + 1) * hidden)
        for b in range(batch):
            m = words if premise_lengths is None else premise_lengths[b]
            n = steps if hypothesis_lengths is None else hypothesis_lengths[b]
            with_null = np.concatenate([s[:m, b], np.zeros((1, hidden))])
            h, c = np.zeros(hidden), np.zeros(hidden)
            for k in reversed(range(n)) if suffix else range(n):
                h, c, alpha = step(with_null, q[k, b], h, c, own)
                outputs[k, b, columns] = last[b, columns] = h
                attention[d, k, b, :m], attention[d, k, b, words] = alpha[:-1], alpha[-1]
    return outputs, last, attention
