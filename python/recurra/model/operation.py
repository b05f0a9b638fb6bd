"""What every operation of a model has in common, and how it is put into one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from .._arrays import check
from .._fixed import Fixed
from .._options import float_dtype, mapping

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import DTypeLike

    from .._arrays import Array, Input
    from ..activation import Activation
    from ..heads import Embedding, Linear
    from ..recurrent import Recurrent

__all__ = ["Node", "Operation", "Value"]


class Value(NamedTuple):
    """What flows between the nodes of a model, but for its numbers.

        >>> recurra.Value((12,)), recurra.Value((), integer=True)  # steps of 12 numbers, and of a symbol
        (Value(features=(12,), time=True, integer=False), Value(features=(), time=True, integer=True))

    Attributes:
        features: the shape of one step of one row: (F,), (C, W) for channels by width, or () for one integer.
        time: whether there is one for each step ([T, B, *features]), or one for each row ([B, *features]).
        integer: whether it holds indices, as an `Embedding` takes them.
    """

    features: tuple[int, ...]
    time: bool = True
    integer: bool = False

    @property
    def size(self) -> int:
        """Numbers of one step of one row.

        >>> recurra.Value((3, 40)).size
        120
        """
        return math.prod(self.features)


class Node(NamedTuple):
    """A layer's place in a `recurra.Model`: a chain needs none but where it branches.

        >>> model = recurra.Model(
        ...     [
        ...         recurra.Node(recurra.GRU(16, 16), name="gru"),
        ...         recurra.Node(recurra.Add(), inputs=("gru", "x")),  # a residual connection
        ...         recurra.Linear(16, 1),
        ...     ]
        ... )

    Attributes:
        layer: a recurrent layer, a `Linear`, an `Embedding`, an `Activation` or its name, or an operation of this
            module.
        inputs: names of nodes that stand before this one, or of inputs of the model; default the node before, for the
            first one the model's input. "gru:h" is the final state h of the recurrent node "gru", "lstm:c" the cell of
            an LSTM, [B, L*D*O] in the order layer, direction, unit. A recurrent node takes, behind its sequence,
            values of this kind for its initial states, all of them or none.
        name: default the kind of the layer with a number, such as "linear0".
    """

    layer: Recurrent | Linear | Embedding | Activation | Operation | str
    inputs: tuple[str, ...] | None = None
    name: str | None = None


class Operation(Fixed):
    """Something without a state of its own that a model does between recurrent layers; see `recurra.Model`.

        >>> recurra.Pool("max").result(recurra.Value((12,)))
        Value(features=(12,), time=False, integer=False)

    A subclass says what it is by `kind` and `configuration`, which are also what a model file holds, and which shape
    its result has by `result`. Parameters, where it has any, are of the dtype it was made with.
    """

    kind: ClassVar[str]
    has_parameters: ClassVar[bool] = False
    dtype: np.dtype[Any]
    _shapes: dict[str, tuple[int, ...]]
    _parameters: dict[str, Array]

    def _set(
        self,
        dtype: DTypeLike = "float32",
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        values: Mapping[str, Input] | None = None,
        **attributes: Any,
    ) -> None:
        self.__dict__.update(attributes, dtype=float_dtype("dtype", dtype), _shapes=dict(shapes or {}), _parameters={})
        self.load_state_dict(values or {})

    @property
    def configuration(self) -> dict[str, Any]:
        """The arguments that make another one like this, as JSON holds them; parameters are not among them."""
        return {}

    def result(self, *inputs: Value) -> Value:
        """What comes out of inputs of such shapes.

        Raises:
            ValueError: it cannot take them.
        """
        raise NotImplementedError

    def __call__(
        self, *inputs: Input, lengths: Sequence[int] | Input | None = None, mask: Input | None = None
    ) -> Array:
        """This operation alone, as a model of one node.

            >>> recurra.Conv1d(12, 32, 5, causal=True)(np.zeros((100, 8, 12), "float32")).shape
            (100, 8, 32)

        Args:
            inputs: [T, B, F] or [T, B, C, W], or [B, F] without time; integers are [T, B].
            lengths, mask: as of a model's call.

        Raises:
            TypeError, ValueError: as of a model's call.
        """
        from .call import run_operation

        return run_operation(self, inputs, lengths, mask)

    def state_dict(self) -> dict[str, Array]:
        """Names to copies of the parameters.

        >>> {name: array.shape for name, array in recurra.Conv1d(12, 32, 5).state_dict().items()}
        {'weight': (32, 12, 5), 'bias': (32,)}
        """
        return {name: array.copy() for name, array in self._parameters.items()}

    def load_state_dict(self, state_dict: Mapping[str, Input]) -> None:
        """Replace all parameters, by copies of arrays of the same names, shapes and dtype.

            >>> convolution, trained = recurra.Conv1d(12, 32, 5, seed=0), recurra.Conv1d(12, 32, 5, seed=1)
            >>> convolution.load_state_dict(trained.state_dict())

        Raises:
            TypeError, ValueError: something does not fit; nothing is changed.
        """
        given = mapping("state_dict", state_dict)
        if set(given) != set(self._shapes):
            raise ValueError(f"state_dict: expected {sorted(self._shapes)}, got {sorted(given)}")
        checked = {n: check(f"state_dict {n}", given[n], self.dtype, shape) for n, shape in self._shapes.items()}
        self.__dict__["_parameters"] = {name: np.array(array, order="C") for name, array in checked.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {"configuration": self.configuration, "dtype": str(self.dtype), "parameters": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        options = state["configuration"] | ({"dtype": state["dtype"]} if self.has_parameters else {})
        type(self).__init__(self, **options)
        self.load_state_dict(state["parameters"])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.configuration.items())})"


def one_input(kind: str, inputs: tuple[Value, ...]) -> Value:
    """The only one of `inputs`, of floating-point numbers."""
    if len(inputs) != 1:
        raise ValueError(f"{kind}: expected one input, got {len(inputs)}")
    if inputs[0].integer:
        raise ValueError(f"{kind}: expected floating-point numbers, got integers")
    return inputs[0]


def timed_input(kind: str, inputs: tuple[Value, ...]) -> Value:
    """The only one of `inputs`, a sequence."""
    value = one_input(kind, inputs)
    if not value.time:
        raise ValueError(f"{kind}: expected a sequence, got one value for each row")
    return value
