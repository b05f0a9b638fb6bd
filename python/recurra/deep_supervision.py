"""Deep supervision: class scores, and a loss, from the map of every layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._arrays import check, require_memory
from ._options import generator, integer, items, placement, real, shown
from .heads import CpuLinear, HeadGradients, _Head

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike

    from ._arrays import Array, Input
    from ._options import Seed

__all__ = ["DeepSupervision"]


class DeepSupervision(_Head):
    """A head for every layer of a stack, y = x @ weight^T + bias at each point: class scores from each layer's map.

        >>> layer = recurra.LocalGlobalLSTM(3, 16, num_layers=2, seed=0)
        >>> heads = recurra.DeepSupervision(16, classes=4, num_layers=2, seed=1)
        >>> x, targets = np.zeros((8, 9, 9, 3), "float32"), np.ones((8, 9, 9), int)
        >>> maps, tape = layer.forward(x, every_layer=True)  # a step of training; maps are [2, 8, 9, 9, 16]
        >>> loss, gradients = heads.loss(maps, targets)
        >>> gradients.params["weight_l0"].shape, tape.backward(gradients.x).params["weight_depth_l1"].shape
        ((4, 16), (64, 288))
        >>> heads(layer(x)).shape  # scores
        (8, 9, 9, 4)

    In training all of them have the same targets, and their losses are added up: so lower layers learn from a loss of
    their own too. Afterwards the last head gives the scores.

    Fixed once made, but for `load_state_dict`; it pickles as its configuration and parameters. It runs on the CPU.

    Args:
        in_features: H, values of a point.
        classes: K. Parameters are, for each layer l, weight_l0 [K, H] and bias_l0 [K].
        num_layers: L.
        dtype: float32 or float64.
        seed: for numpy.random.default_rng; parameters start uniform in +-1/sqrt(H).

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or value.
        MemoryError: the parameters would not fit this machine; nothing has been allocated.
    """

    in_features: int
    classes: int
    num_layers: int

    def __init__(
        self, in_features: int, classes: int, num_layers: int, *, dtype: DTypeLike = "float32", seed: Seed = None
    ) -> None:
        self._configure(in_features=in_features, classes=classes, num_layers=num_layers, dtype=dtype)
        random, bound = generator(seed), 1 / math.sqrt(self.in_features)
        self._draw(lambda shape: random.uniform(-bound, bound, shape))

    def _configure(self, *, in_features: int, classes: int, num_layers: int, dtype: DTypeLike) -> None:
        inputs, outputs = integer("in_features", in_features), integer("classes", classes)
        layers, place = integer("num_layers", num_layers), placement("cpu", dtype)
        what = f"in_features={shown(inputs)}, classes={shown(outputs)}, num_layers={shown(layers)}"
        require_memory(what, 4 * layers * (inputs + 1) * outputs * place.parameter_dtype.itemsize)  # as of Linear
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(layers):
            shapes |= {f"weight_l{layer}": (outputs, inputs), f"bias_l{layer}": (outputs,)}
        attributes = {"in_features": inputs, "classes": outputs, "num_layers": layers, "dtype": place.dtype}
        self.__dict__.update(attributes, _placement=place, _shapes=shapes)

    def _configuration(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("in_features", "classes", "num_layers", "dtype")}

    def _pack(self, parameters: dict[str, Any]) -> _Packed:
        dtype = self._placement.parameter_dtype
        checked = {
            name: check(f"state_dict {name}", parameters[name], dtype, self._shapes[name]) for name in parameters
        }
        shapes = {"weight": (self.classes, self.in_features), "bias": (self.classes,)}
        return _Packed(
            [
                CpuLinear(self._placement, shapes, {name: checked[f"{name}_l{layer}"] for name in shapes})
                for layer in range(self.num_layers)
            ]
        )

    def __call__(self, x: Input) -> Array:
        """Class scores [..., K] of the last layer's map x [..., H].

        Raises:
            TypeError, ValueError: wrong dtype or shape.
        """
        scores: Array = self._packed.heads[-1].run(x)
        return scores

    def loss(
        self,
        maps: Input,
        targets: Input,
        mask: Input | None = None,
        weights: Sequence[float] | None = None,
    ) -> tuple[float, HeadGradients]:
        """The sum over layers of weight * `training.softmax_cross_entropy`, and its gradients.

        Args:
            maps: [L, ..., H], each layer's map.
            targets: [...], integers in 0..K-1.
            mask: [...], bool, which points count; default all. Give one where samples have `sizes`.
            weights: L numbers, at least 0; default 1 for each.

        Returns:
            (loss, gradients): gradients.x is that of `maps`, for the layer's tape; gradients.params the heads'.

        Raises:
            TypeError, ValueError: wrong dtype, shape or value, or no point counts.
            FloatingPointError: the loss is not finite.
        """
        from .training import softmax_cross_entropy  # here, so that importing recurra is quick

        array = check("maps", maps, self._placement.parameter_dtype, (..., self.in_features))
        if array.ndim < 2 or len(array) != self.num_layers:
            expected = f"[{self.num_layers}, ..., {self.in_features}]"
            raise ValueError(f"maps: expected shape {expected}, got {list(array.shape)}")
        factors = _weights(weights, self.num_layers)
        total, dx = 0.0, np.empty_like(array, order="C")
        params: dict[str, Array] = {}
        for layer, (head, factor) in enumerate(zip(self._packed.heads, factors, strict=True)):
            scores, tape = head.forward(array[layer])
            loss, gradient = softmax_cross_entropy(scores, targets, mask)
            total += factor * loss
            gradients = tape.backward(gradient * gradient.dtype.type(factor))
            dx[layer] = gradients.x
            params |= {f"{name}_l{layer}": value for name, value in gradients.params.items()}
        return total, HeadGradients(dx, params)

    def __repr__(self) -> str:
        dtype = "" if self.dtype == np.float32 else f", dtype='{self.dtype}'"
        return f"DeepSupervision({self.in_features}, {self.classes}, {self.num_layers}{dtype})"


class _Packed(NamedTuple):
    heads: list[CpuLinear]

    @property
    def parameters(self) -> dict[str, Array]:
        """Names to new copies."""
        every = enumerate(head.parameters for head in self.heads)
        return {f"{name}_l{layer}": array for layer, one in every for name, array in one.items()}


def _weights(weights: Any, layers: int) -> list[float]:
    if weights is None:
        return [1.0] * layers
    factors = [real("weights", factor) for factor in items("weights", weights, " of numbers")]
    if len(factors) != layers:
        raise ValueError(f"weights: expected {layers} numbers, one a layer, got {len(factors)}")
    if not all(0 <= factor < math.inf for factor in factors):
        raise ValueError(f"weights: expected finite numbers, at least 0, got {shown(weights)}")
    return factors
