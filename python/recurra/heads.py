"""What goes before and after a recurrent layer: an embedding of symbols, and an affine map of every step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _core
from ._arrays import as_array, check, contiguous, empty, memory_for, require_memory
from ._fixed import Fixed
from ._options import flag, generator, integer, mapping, moved, placement

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import DTypeLike
    from typing_extensions import Self

    from ._arrays import Array, Input
    from ._options import Placement, Seed

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

    __slots__ = ("_backward",)

    def __init__(self, backward: Callable[[Any, bool], HeadGradients]) -> None:
        self._backward = backward

    def backward(self, dy: Input, *, input_grad: bool = True) -> HeadGradients:
        """Gradients of a loss from that of the output.

        On a GPU they are new arrays of the library of x, on its current stream; those of parameters are float32, or
        float64 for a float64 layer.

        Args:
            dy: dL/d output, of the output's shape and dtype.
            input_grad: whether to compute the gradient of the input.

        Raises:
            TypeError, ValueError: wrong shape or dtype.
        """
        return self._backward(dy, flag("input_grad", input_grad))


class _Head(Fixed):
    """Parameters by name, replaced all at once, and packed for where they are."""

    dtype: Any  # numpy.dtype; "bfloat16", which NumPy lacks, is a string
    device: str
    _placement: Placement
    _shapes: dict[str, tuple[int, ...]]
    _packed: Any  # CpuLinear, CpuEmbedding, or their twins in recurra.cuda.heads

    _configure: Callable[..., None]  # checks and keeps all that decides the parameters' names, shapes, dtype and place

    def _configuration(self) -> dict[str, Any]:
        """The arguments of `_configure`."""
        raise NotImplementedError

    def _pack(self, parameters: dict[str, Any]) -> Any:
        """Parameters, which have the right names, checked and copied to where they belong."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Array]:
        """Names to copies of the parameters, NumPy arrays on the CPU; float32 also for 16-bit layers.

        >>> {name: array.shape for name, array in recurra.Linear(64, 10).state_dict().items()}
        {'weight': (10, 64), 'bias': (10,)}
        """
        parameters: dict[str, Array] = self._packed.parameters
        return parameters

    def load_state_dict(self, state_dict: Mapping[str, Input]) -> None:
        """Replace all parameters, by copies of arrays of the same names, shapes and dtype (float32 for 16-bit layers).
        On a GPU they may also be C-contiguous arrays on it.

            >>> head, trained = recurra.Linear(64, 10, seed=0), recurra.Linear(64, 10, seed=1)
            >>> head.load_state_dict(trained.state_dict())

        Raises:
            TypeError, ValueError: something does not fit; nothing is changed.
        """
        given = mapping("state_dict", state_dict)
        if set(given) != set(self._shapes):
            raise ValueError(f"state_dict: expected {sorted(self._shapes)}, got {sorted(given)}")
        self.__dict__["_packed"] = self._pack(given)

    def _draw(self, numbers: Callable[[tuple[int, ...]], Array]) -> None:
        """Initial parameters."""
        dtype = self._placement.parameter_dtype
        self.load_state_dict({name: numbers(shape).astype(dtype) for name, shape in self._shapes.items()})

    def _moved(self, place: Placement) -> Self:
        if place == self._placement:
            return self
        head = type(self).__new__(type(self))
        options = self._configuration()
        options |= {name: value for name, value in place.attributes.items() if name in options}
        parameters = {name: array.astype(place.parameter_dtype) for name, array in self.state_dict().items()}
        head.__setstate__({"configuration": options, "parameters": parameters})
        return head

    def __getstate__(self) -> dict[str, Any]:
        return {"configuration": self._configuration(), "parameters": self.state_dict()}

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
        dtype, device, engine, allow_tf32: as of `Recurrent`. There are no steps, so "exact-steps" and "exact-resident"
            are "exact", and "cublas-resident" is "cublas".
        seed: for numpy.random.default_rng; parameters start uniform in +-1/sqrt(I).

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or value.
        MemoryError: the parameters would not fit this machine; nothing has been allocated.
        RuntimeError: there is no GPU, or a library is missing.
    """

    in_features: int
    out_features: int
    engine: str
    allow_tf32: bool

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        engine: str = "auto",
        allow_tf32: bool = False,
        seed: Seed = None,
    ) -> None:
        sizes: dict[str, Any] = {"in_features": in_features, "out_features": out_features, "bias": bias}
        self._configure(**sizes, dtype=dtype, device=device, engine=engine, allow_tf32=allow_tf32)
        random, bound = generator(seed), 1 / math.sqrt(self.in_features)
        self._draw(lambda shape: random.uniform(-bound, bound, shape))

    def _configure(
        self,
        *,
        in_features: int,
        out_features: int,
        bias: bool,
        dtype: DTypeLike,
        device: str,
        engine: str,
        allow_tf32: bool,
    ) -> None:
        inputs, outputs = integer("in_features", in_features), integer("out_features", out_features)
        place = placement(device, dtype, engine, allow_tf32)
        shapes = {"weight": (outputs, inputs)} | ({"bias": (outputs,)} if flag("bias", bias) else {})
        copies = 4  # as drawn, in float64, or by the caller; as kept; packed for forward and for backward
        require_memory(
            f"in_features={inputs}, out_features={outputs}", copies * inputs * outputs * place.parameter_dtype.itemsize
        )
        attributes = {"in_features": inputs, "out_features": outputs, **place.attributes}
        self.__dict__.update(attributes, _placement=place, _shapes=shapes)

    def _configuration(self) -> dict[str, Any]:
        sizes = {"in_features": self.in_features, "out_features": self.out_features, "bias": "bias" in self._shapes}
        return sizes | self._placement.attributes

    def _pack(self, parameters: dict[str, Any]) -> Any:
        if self._placement.gpu is None:
            return CpuLinear(self._placement, self._shapes, parameters)
        from .cuda.heads import CudaLinear  # which nobody without a GPU should wait for

        return CudaLinear(self._placement, self._shapes, parameters)

    def to(
        self,
        device: str,
        *,
        dtype: DTypeLike | None = None,
        engine: str | None = None,
        allow_tf32: bool | None = None,
    ) -> Self:
        """This layer if nothing changes, else one like it elsewhere or in other numbers: see `Recurrent.to`.

        >>> recurra.Linear(64, 10).to("cpu", dtype="float64").dtype
        dtype('float64')
        """
        return self._moved(moved(self._placement, device, dtype, engine, allow_tf32))

    def __call__(self, x: Input) -> Array:
        """[..., O] from x [..., I] of the layer's dtype, on its device.

        Raises:
            TypeError, ValueError: wrong dtype or shape.
        """
        y: Array = self._packed.run(x)
        return y

    def forward(self, x: Input) -> tuple[Array, HeadTape]:
        """As a call, with a tape for backward; x is copied."""
        y, tape = self._packed.forward(x)
        return y, tape

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
        dtype, device: as of `Recurrent`.
        seed: for numpy.random.default_rng; the table starts standard normal.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or value.
        MemoryError: the table would not fit this machine; nothing has been allocated.
        RuntimeError: there is no GPU, or a library is missing.
    """

    num_embeddings: int
    embedding_dim: int

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        seed: Seed = None,
    ) -> None:
        self._configure(num_embeddings=num_embeddings, embedding_dim=embedding_dim, dtype=dtype, device=device)
        self._draw(generator(seed).standard_normal)

    def _configure(self, *, num_embeddings: int, embedding_dim: int, dtype: DTypeLike, device: str) -> None:
        rows, size = integer("num_embeddings", num_embeddings), integer("embedding_dim", embedding_dim)
        place = placement(device, dtype)
        copies = 2  # as drawn, in float64, or by the caller; as kept
        size_of_table = rows * size * place.parameter_dtype.itemsize
        require_memory(f"num_embeddings={rows}, embedding_dim={size}", copies * size_of_table)
        attributes = {"num_embeddings": rows, "embedding_dim": size, "dtype": place.dtype, "device": place.device}
        self.__dict__.update(attributes, _placement=place, _shapes={"weight": (rows, size)})

    def _configuration(self) -> dict[str, Any]:
        sizes = {"num_embeddings": self.num_embeddings, "embedding_dim": self.embedding_dim}
        return {**sizes, "dtype": self.dtype, "device": self.device}

    def _pack(self, parameters: dict[str, Any]) -> Any:
        if self._placement.gpu is None:
            return CpuEmbedding(self._placement, self._shapes, parameters)
        from .cuda.heads import CudaEmbedding

        return CudaEmbedding(self._placement, self._shapes, parameters)

    def to(self, device: str, *, dtype: DTypeLike | None = None) -> Self:
        """This table if nothing changes, else one like it elsewhere or in other numbers: see `Recurrent.to`.

        >>> recurra.Embedding(27, 16).to("cpu", dtype="float64").dtype
        dtype('float64')
        """
        return self._moved(moved(self._placement, device, dtype, None, None))

    def __call__(self, indices: Input) -> Array:
        """[..., E] from integers [...] in 0..N-1.

        On a GPU they are int32 or int64, and nobody waits to see them: one that is out of range gives a row of NaN, and
        no gradient to the table.

        Raises:
            TypeError, ValueError: no integers, or, on the CPU, out of range.
        """
        rows: Array = self._packed.run(indices)
        return rows

    def forward(self, indices: Input) -> tuple[Array, HeadTape]:
        """As a call, with a tape for backward; the gradient of a row is the sum over its uses, in order.

        >>> rows, tape = recurra.Embedding(27, 16).forward(np.array([0, 3, 3]))
        >>> tape.backward(np.ones_like(rows)).params["weight"][:4, 0].tolist()
        [1.0, 0.0, 0.0, 2.0]
        """
        rows, tape = self._packed.forward(indices)
        return rows, tape

    def __repr__(self) -> str:
        return f"Embedding({self.num_embeddings}, {self.embedding_dim})"


class _CpuHead:
    """Copies of parameters of these names, shapes and dtype."""

    __slots__ = ("_dtype", "_parameters")
    _parameters: dict[str, Array]

    def __init__(self, place: Placement, shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]) -> None:
        self._dtype = place.parameter_dtype
        checked = {name: check(f"state_dict {name}", given[name], self._dtype, shape) for name, shape in shapes.items()}
        self._parameters = {name: np.array(array, order="C") for name, array in checked.items()}

    @property
    def parameters(self) -> dict[str, Array]:
        """Names to new copies."""
        return {name: array.copy() for name, array in self._parameters.items()}

    def _gradient(self, dy: Any, shape: tuple[int, ...]) -> Array:
        return contiguous(check("dy", dy, self._dtype, shape))


class CpuLinear(_CpuHead):
    """y = x W^T + b."""

    __slots__ = ("affine",)
    affine: _core.Linear

    def __init__(self, place: Placement, shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]) -> None:
        super().__init__(place, shapes, given)
        outputs, inputs = shapes["weight"]
        with memory_for(f"in_features={inputs}, out_features={outputs}"):
            self.affine = _core.Linear(self._parameters["weight"], self._parameters.get("bias"))

    def run(self, x: Any) -> Array:
        return self._mapped(self._rows(x))

    def forward(self, x: Any) -> tuple[Array, HeadTape]:
        rows = self._rows(x).copy()
        y = self._mapped(rows)
        shape = y.shape

        def backward(dy: Any, input_grad: bool) -> HeadGradients:
            gradient = self._gradient(dy, shape)
            params = {name: np.zeros_like(array) for name, array in self._parameters.items()}
            dx = np.empty_like(rows) if input_grad else None
            self.affine.backward(
                _flat(rows), _flat(gradient), None if dx is None else _flat(dx), params["weight"], params.get("bias")
            )
            return HeadGradients(dx, params)

        return y, HeadTape(backward)

    def _rows(self, x: Any) -> Array:
        return contiguous(check("x", x, self._dtype, (..., self._parameters["weight"].shape[1])))

    def _mapped(self, rows: Array) -> Array:
        y = empty("output", (*rows.shape[:-1], len(self._parameters["weight"])), self._dtype)
        self.affine.forward(_flat(rows), _flat(y))
        return y


class CpuEmbedding(_CpuHead):
    """Rows of a table."""

    __slots__ = ()

    def run(self, indices: Any) -> Array:
        rows: Array = self._parameters["weight"][self._checked(indices)]
        return rows

    def forward(self, indices: Any) -> tuple[Array, HeadTape]:
        checked, table = self._checked(indices).copy(), self._parameters["weight"]
        y = table[checked]
        shape = y.shape

        def backward(dy: Any, input_grad: bool) -> HeadGradients:
            gradient = np.zeros_like(table)
            np.add.at(gradient, checked.reshape(-1), _flat(self._gradient(dy, shape)))
            return HeadGradients(None, {"weight": gradient})

        return y, HeadTape(backward)

    def _checked(self, indices: Any) -> Array:
        array, rows = as_array("indices", indices), len(self._parameters["weight"])
        if array.dtype.kind not in "iu":
            raise TypeError(f"indices: expected integers, got {array.dtype}")
        if array.size and (array.min() < 0 or array.max() >= rows):
            raise ValueError(f"indices: expected 0..{rows - 1}, got {array.min()}..{array.max()}")
        return array


def _flat(array: Array) -> Array:
    """The last axis of all rows."""
    return array.reshape(-1, array.shape[-1])
