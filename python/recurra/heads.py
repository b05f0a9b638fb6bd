"""What goes before and after a recurrent layer: an embedding of symbols, and an affine map of every step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _core
from ._arrays import as_array, check, contiguous, empty
from ._options import flag, float_dtype, integer

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import DTypeLike

    from ._arrays import Array, Input

__all__ = ["Embedding", "HeadGradients", "HeadTape", "Linear"]


class HeadGradients(NamedTuple):
    """What `HeadTape.backward` returns.

    Attributes:
        x: gradient of the input; None with input_grad=False and for an Embedding, whose input are indices.
        params: names to the gradients of the parameters.
    """

    x: Array | None
    params: dict[str, Array]


class HeadTape:
    """What `forward` of a Linear or an Embedding keeps for `backward`, which may be called again."""

    __slots__ = ("_backward", "_dtype", "_shape")

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], backward: Callable[[Array, bool], HeadGradients]
    ) -> None:
        self._shape, self._dtype, self._backward = shape, dtype, backward

    def backward(self, dy: Input, *, input_grad: bool = True) -> HeadGradients:
        """Gradients of a loss from that of the output.

        Args:
            dy: dL/d output, of the output's shape and dtype.
            input_grad: whether to compute the gradient of the input.

        Raises:
            TypeError, ValueError: wrong shape or dtype.
        """
        return self._backward(contiguous(check("dy", dy, self._dtype, self._shape)), flag("input_grad", input_grad))


class _Head:
    """Parameters by name, replaced all at once."""

    dtype: np.dtype[Any]
    _parameters: dict[str, Array]

    def state_dict(self) -> dict[str, Array]:
        """Names to copies of the parameters."""
        return {name: array.copy() for name, array in self._parameters.items()}

    def load_state_dict(self, state_dict: Mapping[str, Input]) -> None:
        """Replace all parameters, by copies of arrays of the same names, shapes and dtype.

        Raises:
            TypeError, ValueError: something does not fit; nothing is changed.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: expected a mapping of names to arrays, got {type(state_dict).__name__}")
        if set(state_dict) != set(self._parameters):
            raise ValueError(f"state_dict: expected {sorted(self._parameters)}, got {sorted(state_dict)}")
        self._set(
            {name: check(name, state_dict[name], self.dtype, old.shape) for name, old in self._parameters.items()}
        )

    def _set(self, parameters: dict[str, Array]) -> None:
        self._parameters = {name: np.array(array, order="C") for name, array in parameters.items()}


class Linear(_Head):
    """y = x @ weight^T + bias over the last axis, with torch.nn.Linear's parameters and initial values.

    Each output is one chain of fused multiply-adds over ascending inputs, begun at the bias, so its bits depend on its
    row and the parameters alone; weight gradients sum over rows in order.

    Args:
        in_features: I. out_features: O. Parameters are weight [O, I] and bias [O].
        bias: whether there is one.
        dtype: float32 or float64.
        seed: for numpy.random.default_rng; parameters start uniform in +-1/sqrt(I).

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or value.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, dtype: DTypeLike = "float32", seed: Any = None
    ) -> None:
        self.in_features, self.out_features = integer("in_features", in_features), integer("out_features", out_features)
        self.dtype = float_dtype("dtype", dtype)
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.in_features)}
        if flag("bias", bias):
            shapes["bias"] = (self.out_features,)
        rng, bound = np.random.default_rng(seed), 1 / math.sqrt(self.in_features)
        self._set({name: rng.uniform(-bound, bound, shape).astype(self.dtype) for name, shape in shapes.items()})

    def _set(self, parameters: dict[str, Array]) -> None:
        super()._set(parameters)
        self._core = _core.Linear(self._parameters["weight"], self._parameters.get("bias"))

    def __call__(self, x: Input) -> Array:
        """[..., O] from x [..., I] of the layer's dtype.

        Raises:
            TypeError, ValueError: wrong dtype or shape.
        """
        return self._run(self._rows(x), self._core)

    def forward(self, x: Input) -> tuple[Array, HeadTape]:
        """As a call, with a tape for backward; x is copied."""
        core, rows = self._core, self._rows(x).copy()
        parameters = self._parameters
        y = self._run(rows, core)

        def backward(dy: Array, input_grad: bool) -> HeadGradients:
            params = {name: np.zeros_like(array) for name, array in parameters.items()}
            dx = np.empty_like(rows) if input_grad else None
            flat = None if dx is None else dx.reshape(-1, rows.shape[-1])
            inputs = rows.reshape(-1, rows.shape[-1])
            core.backward(inputs, dy.reshape(-1, dy.shape[-1]), flat, params["weight"], params.get("bias"))
            return HeadGradients(dx, params)

        return y, HeadTape(y.shape, self.dtype, backward)

    def _rows(self, x: Input) -> Array:
        array = as_array("x", x)
        return contiguous(check("x", array, self.dtype, (*array.shape[:-1], self.in_features)))

    def _run(self, rows: Array, core: _core.Linear) -> Array:
        y = empty("output", (*rows.shape[:-1], self.out_features), self.dtype)
        core.forward(rows.reshape(-1, self.in_features), y.reshape(-1, self.out_features))
        return y

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_core"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._set(self._parameters)

    def __repr__(self) -> str:
        bias = "" if "bias" in self._parameters else ", bias=False"
        return f"Linear({self.in_features}, {self.out_features}{bias})"


class Embedding(_Head):
    """Row `index` of a table for every index, with torch.nn.Embedding's parameter and initial values.

    Args:
        num_embeddings: N. embedding_dim: E. The parameter is weight [N, E].
        dtype: float32 or float64.
        seed: for numpy.random.default_rng; the table starts standard normal.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or value.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, dtype: DTypeLike = "float32", seed: Any = None
    ) -> None:
        self.num_embeddings = integer("num_embeddings", num_embeddings)
        self.embedding_dim = integer("embedding_dim", embedding_dim)
        self.dtype = float_dtype("dtype", dtype)
        table = np.random.default_rng(seed).standard_normal((self.num_embeddings, self.embedding_dim))
        self._set({"weight": table.astype(self.dtype)})

    def __call__(self, indices: Input) -> Array:
        """[..., E] from integers [...] in 0..N-1.

        Raises:
            TypeError, ValueError: no integers, or out of range.
        """
        table: Array = self._parameters["weight"]
        rows: Array = table[self._checked(indices)]
        return rows

    def forward(self, indices: Input) -> tuple[Array, HeadTape]:
        """As a call, with a tape for backward; the gradient of a row is the sum over its uses, in order."""
        checked, shape = self._checked(indices).copy(), self._parameters["weight"].shape
        y = self._parameters["weight"][checked]

        def backward(dy: Array, input_grad: bool) -> HeadGradients:
            gradient = np.zeros(shape, self.dtype)
            np.add.at(gradient, checked.reshape(-1), dy.reshape(-1, shape[1]))
            return HeadGradients(None, {"weight": gradient})

        return y, HeadTape(y.shape, self.dtype, backward)

    def _checked(self, indices: Input) -> Array:
        array = as_array("indices", indices)
        if array.dtype.kind not in "iu":
            raise TypeError(f"indices: expected integers, got {array.dtype}")
        if array.size and (array.min() < 0 or array.max() >= self.num_embeddings):
            raise ValueError(f"indices: expected 0..{self.num_embeddings - 1}, got {array.min()}..{array.max()}")
        return array

    def __repr__(self) -> str:
        return f"Embedding({self.num_embeddings}, {self.embedding_dim})"
