"""What layers over trees and grids have in common: where they run, their parameters, and how they show themselves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays import check, require_memory
from ._options import generator, placement, shown
from ._parameters import checked_parameters
from .heads import _Head

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import DTypeLike

    from ._arrays import Array, Input
    from ._options import Seed

__all__ = ["CpuLayer"]


class CpuLayer(_Head):
    """A layer of kernels that only the CPU has; its options are its attributes and its configuration."""

    input_size: int
    hidden_size: int
    _options: dict[str, Any]

    def _configuration(self) -> dict[str, Any]:
        return dict(self._options)

    def _fix(self, options: dict[str, Any], shapes: dict[str, tuple[int, ...]], device: Any, dtype: DTypeLike) -> None:
        """Set the attributes, among them where the layer runs and its parameters' shapes."""
        if placement(device, "float32").gpu is not None:  # whose error names what is no device at all
            kind = type(self).__name__
            raise ValueError(f"device: expected 'cpu', for {kind} has no GPU kernels, got {shown(device)}")
        place = placement(device, dtype)
        size = sum(map(math.prod, shapes.values()))
        copies = 3  # as drawn or by the caller; as kept; packed
        require_memory(
            f"input_size={shown(options['input_size'])}, hidden_size={shown(options['hidden_size'])}",
            copies * size * place.parameter_dtype.itemsize,
        )
        options = {**options, "dtype": place.dtype, "device": place.device}
        self.__dict__.update(options, _options=options, _placement=place, _shapes=shapes)

    def _draw_uniform(self, seed: Seed, rng: np.random.Generator | None, bound: float) -> None:
        random = generator(seed, rng)
        self._draw(lambda shape: random.uniform(-bound, bound, shape))

    def load_state_dict(self, state_dict: Mapping[str, Input]) -> None:
        """Replace all parameters, by copies of NumPy, torch or other DLPack arrays of the layer's dtype.

            >>> layer, trained = recurra.TreeLSTM(12, 64, seed=0), recurra.TreeLSTM(12, 64, seed=1)
            >>> layer.load_state_dict(trained.state_dict())

        Raises:
            ValueError: lists all that is missing, unexpected, misshapen or of another dtype; the layer is unchanged.
            TypeError: `state_dict` is not a mapping.
        """
        dtype = self._placement.parameter_dtype

        def read(name: str, value: Any, shape: tuple[int, ...]) -> Array:
            return np.array(check(f"state_dict {name}", value, dtype, shape), order="C")

        self.__dict__["_packed"] = self._pack(checked_parameters("state_dict", state_dict, self._shapes, read))

    @property
    def parameter_count(self) -> int:
        """Number of values in all parameters.

        >>> recurra.LeafModule(12, 64).parameter_count
        1664
        """
        return sum(map(math.prod, self._shapes.values()))

    def __repr__(self) -> str:
        import inspect  # here, so that importing recurra is quick

        parts = []
        for name, parameter in inspect.signature(type(self)).parameters.items():
            if name in self._options and (value := self._options[name]) != parameter.default:
                text = repr(str(value) if name == "dtype" else value)
                parts.append(text if parameter.default is parameter.empty else f"{name}={text}")
        return f"{type(self).__name__}({', '.join(parts)})"
