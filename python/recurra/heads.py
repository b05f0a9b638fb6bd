"""What goes before and after a recurrent layer: an embedding of symbols, and an affine map of every step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _core
from ._arrays import as_array, check, contiguous, empty, memory_for, require_memory
from ._fixed import Fixed
from ._options import flag, float_dtype, generator, integer, mapping

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import DTypeLike

    from ._arrays import Array, Input
    from ._options import Seed

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


class _Head(Fixed):
    """Parameters by name, replaced all at once."""

    dtype: np.dtype[Any]
    _shapes: dict[str, tuple[int, ...]]
    _parameters: dict[str, Array]

    _configure: Callable[..., None]  # checks and keeps all that decides the parameters' names, shapes and dtype

    def _configuration(self) -> dict[str, Any]:
        """The arguments of `_configure`."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Array]:
        """Names to copies of the parameters."""
        return {name: array.copy() for name, array in self._parameters.items()}

    def load_state_dict(self, state_dict: Mapping[str, Input]) -> None:
        """Replace all parameters, by copies of arrays of the same names, shapes and dtype.

        Raises:
            TypeError, ValueError: something does not fit; nothing is changed.
        """
        given = mapping("state_dict", state_dict)
        if set(given) != set(self._shapes):
            raise ValueError(f"state_dict: expected {sorted(self._shapes)}, got {sorted(given)}")
        self._set(
            {name: check(f"state_dict {name}", given[name], self.dtype, shape) for name, shape in self._shapes.items()}
        )

    def _set(self, parameters: dict[str, Array]) -> None:
        own = {name: np.array(array, order="C") for name, array in parameters.items()}
        self.__dict__.update(_parameters=own, **self._made_of(own))

    def _made_of(self, parameters: dict[str, Array]) -> dict[str, Any]:
        """What else is replaced together with the parameters."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {"configuration": self._configuration(), "parameters": self._parameters}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if not isinstance(state, dict) or set(state) != {"configuration", "parameters"}:
            raise TypeError("state: expected a configuration and parameters")
        self._configure(**mapping("configuration", state["configuration"]))
        self.load_state_dict(state["parameters"])


class Linear(_Head):
    """y = x @ weight^T + bias over the last axis, with torch.nn.Linear's parameters and initial values.

        >>> head = recurra.Linear(64, 9)
        >>> logits, tape = head.forward(np.ones((100, 8, 64), "float32"))  # or head(x), without a tape
        >>> gradients = tape.backward(np.ones_like(logits))
        >>> logits.shape, gradients.x.shape, gradients.params["weight"].shape
        ((100, 8, 9), (100, 8, 64), (9, 64))

    Fixed once made, but for `load_state_dict`; it pickles as its configuration and parameters.

    Each output is the sum of four chains of fused multiply-adds, a quarter of the inputs each, ascending, the first
    begun at the bias: (0 + 1) + (2 + 3). So its bits depend on its row and the parameters alone; weight gradients sum
    over rows in order.

    Args:
        in_features: I. out_features: O. Parameters are weight [O, I] and bias [O].
        bias: whether there is one.
        dtype: float32 or float64.
        seed: for numpy.random.default_rng; parameters start uniform in +-1/sqrt(I).

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or value.
        MemoryError: the parameters would not fit this machine; nothing has been allocated.
    """

    in_features: int
    out_features: int
    _affine: _core.Linear

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, dtype: DTypeLike = "float32", seed: Seed = None
    ) -> None:
        self._configure(in_features=in_features, out_features=out_features, bias=bias, dtype=dtype)
        random, bound = generator(seed), 1 / math.sqrt(self.in_features)
        self._set({n: random.uniform(-bound, bound, shape).astype(self.dtype) for n, shape in self._shapes.items()})

    def _configure(self, *, in_features: int, out_features: int, bias: bool, dtype: DTypeLike) -> None:
        inputs, outputs = integer("in_features", in_features), integer("out_features", out_features)
        values_dtype = float_dtype("dtype", dtype)
        shapes = {"weight": (outputs, inputs)} | ({"bias": (outputs,)} if flag("bias", bias) else {})
        copies = 4  # as drawn, in float64, or by the caller; as kept; packed for forward and for backward
        require_memory(
            f"in_features={inputs}, out_features={outputs}", copies * inputs * outputs * values_dtype.itemsize
        )
        self.__dict__.update(in_features=inputs, out_features=outputs, dtype=values_dtype, _shapes=shapes)

    def _configuration(self) -> dict[str, Any]:
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": "bias" in self._shapes,
            "dtype": self.dtype,
        }

    def _made_of(self, parameters: dict[str, Array]) -> dict[str, Any]:
        with memory_for(f"in_features={self.in_features}, out_features={self.out_features}"):
            return {"_affine": _core.Linear(parameters["weight"], parameters.get("bias"))}

    def __call__(self, x: Input) -> Array:
        """[..., O] from x [..., I] of the layer's dtype.

        Raises:
            TypeError, ValueError: wrong dtype or shape.
        """
        return self._run(self._rows(x), self._affine)

    def forward(self, x: Input) -> tuple[Array, HeadTape]:
        """As a call, with a tape for backward; x is copied."""
        core, rows = self._affine, self._rows(x).copy()
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

    def __repr__(self) -> str:
        bias = "" if "bias" in self._shapes else ", bias=False"
        return f"Linear({self.in_features}, {self.out_features}{bias})"


class Embedding(_Head):
    """Row `index` of a table for every index, with torch.nn.Embedding's parameter and initial values.

        >>> table = recurra.Embedding(27, 16)
        >>> table(np.array([[0, 3], [26, 3]])).shape
        (2, 2, 16)

    Fixed once made, but for `load_state_dict`; it pickles as its configuration and parameters.

    Args:
        num_embeddings: N. embedding_dim: E. The parameter is weight [N, E].
        dtype: float32 or float64.
        seed: for numpy.random.default_rng; the table starts standard normal.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or value.
        MemoryError: the table would not fit this machine; nothing has been allocated.
    """

    num_embeddings: int
    embedding_dim: int

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, dtype: DTypeLike = "float32", seed: Seed = None
    ) -> None:
        self._configure(num_embeddings=num_embeddings, embedding_dim=embedding_dim, dtype=dtype)
        self._set({"weight": generator(seed).standard_normal(self._shapes["weight"]).astype(self.dtype)})

    def _configure(self, *, num_embeddings: int, embedding_dim: int, dtype: DTypeLike) -> None:
        rows, size = integer("num_embeddings", num_embeddings), integer("embedding_dim", embedding_dim)
        values_dtype = float_dtype("dtype", dtype)
        copies = 2  # as drawn, in float64, or by the caller; as kept
        require_memory(f"num_embeddings={rows}, embedding_dim={size}", copies * rows * size * values_dtype.itemsize)
        self.__dict__.update(
            num_embeddings=rows, embedding_dim=size, dtype=values_dtype, _shapes={"weight": (rows, size)}
        )

    def _configuration(self) -> dict[str, Any]:
        return {"num_embeddings": self.num_embeddings, "embedding_dim": self.embedding_dim, "dtype": self.dtype}

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
