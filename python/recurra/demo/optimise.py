"""One Adam over the parameters of several layers, as the training demos use it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy.typing as npt

from recurra import training

Arrays = Mapping[str, npt.NDArray[Any]]


class Layer(Protocol):
    """What has parameters: a recurrent layer, a Linear, an Embedding and so on."""

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Names to copies of the parameters."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Replace them all."""


class Updater:
    """Adam with gradient clipping; every step hands the layers their new parameters.

    Args:
        layers: names of your choice to the layers.
        rate: learning rate.
        max_norm: bound of the gradients' common norm; default none.

    Attributes:
        rate: the learning rate, may be set.
    """

    def __init__(self, layers: Mapping[str, Layer], rate: float, max_norm: float = math.inf) -> None:
        self._layers, self._max_norm = layers, max_norm
        self._params = {name: layer.state_dict() for name, layer in layers.items()}
        self._adam = training.Adam(_flat(self._params), rate)

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self._adam.lr

    @rate.setter
    def rate(self, value: float) -> None:
        self._adam.lr = value

    def step(self, gradients: Mapping[str, Arrays]) -> float:
        """Clip the gradients, by layer, in place, and go one step; returns their norm before."""
        norm = training.clip_grad_norm(gradients.values(), self._max_norm)
        self._adam.step(_flat(gradients))
        for name, layer in self._layers.items():
            layer.load_state_dict(self._params[name])
        return norm


def cosine(rate: float, done: int, total: int) -> float:
    """The rate after `done` of `total` steps of a cosine schedule that ends at zero (torch's CosineAnnealingLR)."""
    return rate * (1 + math.cos(math.pi * done / total)) / 2


def _flat(by_layer: Mapping[str, Arrays]) -> dict[str, npt.NDArray[Any]]:
    return {f"{name}.{key}": array for name, arrays in by_layer.items() for key, array in arrays.items()}
