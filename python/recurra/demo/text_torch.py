"""The model of ``demo text`` in PyTorch, for ``--compare``: the same initial weights, batches and recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from recurra.demo.text_data import CHUNK, Array, Chunk, Settings, chunks


class TorchModel:
    """Embedding, GRU and Linear, started from recurra's weights."""

    def __init__(self, layers: Mapping[str, Any], settings: Settings) -> None:
        weights = {name: layer.state_dict() for name, layer in layers.items()}
        letters = len(weights["embedding"]["weight"])
        self._modules = nn.ModuleDict(
            {
                "embedding": nn.Embedding(letters, settings.embedding),
                "gru": nn.GRU(settings.embedding, settings.hidden),
                "head": nn.Linear(settings.hidden, letters),
            }
        )
        for name, arrays in weights.items():
            self._modules[name].load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})
        self._max_norm = settings.max_norm
        self._adam = torch.optim.Adam(self._modules.parameters(), lr=settings.rate, fused=True)

    def _scores(self, letters: Array, state: Any) -> tuple[Any, Any]:
        x = self._modules["embedding"](torch.from_numpy(letters))
        hidden, after = self._modules["gru"](x, state)
        return self._modules["head"](hidden).flatten(0, 1), after

    def step(self, chunk: Chunk, state: Any) -> tuple[float, Any]:
        """As that of recurra's model."""
        scores, after = self._scores(chunk[0], state)
        loss = nn.functional.cross_entropy(scores, torch.from_numpy(chunk[1]).flatten())
        self._adam.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._modules.parameters(), self._max_norm)
        self._adam.step()
        return loss.item(), after.detach()

    def bits(self, codes: Array) -> float:
        """As that of recurra's model."""
        state, nats = None, 0.0
        with torch.no_grad():
            for letters, following in chunks(codes, 1, CHUNK):
                scores, state = self._scores(letters, state)
                target = torch.from_numpy(following).flatten()
                nats += float(nn.functional.cross_entropy(scores, target, reduction="sum"))
        return nats / (len(codes) - 1) / math.log(2)
