"""Operations between the layers of a model; those with a window over time are in `convolution`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .._arrays import require_memory
from .._options import bound, chance, choice, flag, float_dtype, integer, items, real, shown
from .operation import Operation, Value, one_input, timed_input

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike

__all__ = [
    "Add",
    "Concatenate",
    "Dropout",
    "LayerNorm",
    "Mask",
    "Multiply",
    "Pool",
    "Repeat",
    "Reshape",
    "Reverse",
    "Scale",
    "Select",
    "Softmax",
    "Sqrt",
]


class Softmax(Operation):
    """exp(x) / sum(exp(x)) over the features of each step, or its logarithm.

        >>> model = recurra.Model([recurra.GRU(12, 64), recurra.Linear(64, 9), recurra.Softmax()])
        >>> round(float(model(np.zeros((100, 12), "float32"))[0].sum()), 6)
        1.0

    Args:
        log: whether to give the logarithm, x - log(sum(exp(x))).
    """

    kind = "softmax"
    log: bool

    def __init__(self, log: bool = False) -> None:
        self._set(log=flag("log", log))

    @property
    def configuration(self) -> dict[str, Any]:
        return {"log": self.log}

    def result(self, *inputs: Value) -> Value:
        return one_input(self.kind, inputs)


class Sqrt(Operation):
    """The square root of each number, NaN of negative ones: the magnitude of a spectrum is that of re * re + im * im.

    >>> model = recurra.Model([recurra.Sqrt()], inputs={"x": recurra.Value((3,))})
    >>> model(np.array([[0, 4, 2.25]], "float32"))
    array([[0. , 2. , 1.5]], dtype=float32)
    """

    kind = "sqrt"

    def __init__(self) -> None:
        self._set()

    def result(self, *inputs: Value) -> Value:
        return one_input(self.kind, inputs)


class LayerNorm(Operation):
    """(x - mean) / sqrt(variance + eps) over all features of each step, times weight plus bias (Ba et al. 2016,
    arXiv:1607.06450), with torch.nn.LayerNorm's parameters and initial values.

        >>> model = recurra.Model([recurra.LayerNorm(2)])
        >>> model(np.array([[[1, 3]]], "float32")).round(3).tolist()
        [[[-1.0, 1.0]]]

    Args:
        features: F, of each step. Parameters are weight [F] and bias [F].
        eps: positive.
        weight, bias: whether there is one.
        dtype: float32 or float64.
    """

    kind = "layer_norm"
    has_parameters = True
    features: int
    eps: float

    def __init__(
        self, features: int, eps: float = 1e-5, weight: bool = True, bias: bool = True, *, dtype: DTypeLike = "float32"
    ) -> None:
        size, eps = _room(features, dtype), bound("eps", eps, dtype)
        if math.isinf(eps):
            raise ValueError(f"eps: expected a finite number, got {eps}")
        values = {"weight": np.ones(size, dtype)} if flag("weight", weight) else {}
        values |= {"bias": np.zeros(size, dtype)} if flag("bias", bias) else {}
        self._set(dtype, {name: (size,) for name in values}, values, features=size, eps=eps)

    @property
    def configuration(self) -> dict[str, Any]:
        present = {name: name in self._shapes for name in ("weight", "bias")}
        return {"features": self.features, "eps": self.eps, **present}

    def result(self, *inputs: Value) -> Value:
        return sized(self.kind, inputs, self.features)


class Scale(Operation):
    """x times weight plus bias, a number each for every feature: what a batch normalisation is in inference, where it
    cannot be folded into the layer beside it.

        >>> scale = recurra.Scale(2)
        >>> scale.load_state_dict({"weight": np.array([2, 3], "float32"), "bias": np.array([0, 1], "float32")})
        >>> recurra.Model([scale])(np.ones((1, 1, 2), "float32")).tolist()
        [[[2.0, 4.0]]]

    Args:
        features: F, of each step. Parameters are weight [F], ones at first, and bias [F], zeros.
        dtype: float32 or float64.
    """

    kind = "scale"
    has_parameters = True
    features: int

    def __init__(self, features: int, *, dtype: DTypeLike = "float32") -> None:
        size = _room(features, dtype)
        values = {"weight": np.ones(size, dtype), "bias": np.zeros(size, dtype)}
        self._set(dtype, {name: (size,) for name in values}, values, features=size)

    @property
    def configuration(self) -> dict[str, Any]:
        return {"features": self.features}

    def result(self, *inputs: Value) -> Value:
        return sized(self.kind, inputs, self.features)


class Pool(Operation):
    """One value for each row from those of all its steps, as far as its length goes and its mask lets it.

        >>> model = recurra.Model([recurra.GRU(12, 64), recurra.Pool("last"), recurra.Linear(64, 9)])
        >>> model(np.zeros((100, 8, 12), "float32")).shape
        (8, 9)

    In a stream it gives, after every step, that of the steps so far; a `Mask` before it leaves steps out there too, but
    the mask= of a stream's run and step is refused. A row without steps gives zeros.

    Args:
        mode: "last" or "first" step, "max" or "mean" over time.
    """

    kind = "pool"
    mode: str

    def __init__(self, mode: str) -> None:
        self._set(mode=choice("mode", mode, {name: name for name in ("last", "first", "max", "mean")}))

    @property
    def configuration(self) -> dict[str, Any]:
        return {"mode": self.mode}

    def result(self, *inputs: Value) -> Value:
        return timed_input(self.kind, inputs)._replace(time=False)


class Dropout(Operation):
    """In training, each number becomes 0 with probability p, and the others are divided by 1 - p; else nothing.

        >>> model = recurra.Model([recurra.GRU(12, 64), recurra.Dropout(0.2), recurra.Linear(64, 9)])
        >>> y, tape = model.forward(np.zeros((100, 8, 12), "float32"), rng=7)

    Args:
        p: in 0..1.
    """

    kind = "dropout"
    p: float

    def __init__(self, p: float = 0.5) -> None:
        self._set(p=chance("p", p))

    @property
    def configuration(self) -> dict[str, Any]:
        return {"p": self.p}

    def result(self, *inputs: Value) -> Value:
        return one_input(self.kind, inputs)


class Mask(Operation):
    """Steps all of whose features equal `value` are masked from here on, as by `mask=`: Keras's Masking.

        >>> model = recurra.Model([recurra.Mask(-1), recurra.Pool("last")], inputs={"x": recurra.Value((2,))})
        >>> model(np.array([[1, 2], [-1, 3], [-1, -1]], "float32")).tolist()
        [-1.0, 3.0]

    With a second input, steps are masked by what that holds, for example the integers that an embedding looked up
    (Keras's mask_zero): `recurra.Node(recurra.Mask(0), inputs=("embedding", "tokens"))`.

    Args:
        value: the number that stands for nothing.
    """

    kind = "mask"
    value: float

    def __init__(self, value: float = 0.0) -> None:
        self._set(value=real("value", value))

    @property
    def configuration(self) -> dict[str, Any]:
        return {"value": self.value}

    def result(self, *inputs: Value) -> Value:
        value = timed_input(self.kind, inputs[:1])
        if len(inputs) > 2 or not all(other.time for other in inputs):
            raise ValueError(f"mask: expected one or two sequences, got {len(inputs)} inputs")
        return value


class Select(Operation):
    """Some features of each step, in any order and any number of times: a slice, a permutation.

        >>> model = recurra.Model([recurra.Select([2, 0, 0])], inputs={"x": recurra.Value((3,))})
        >>> model(np.array([[5, 6, 7]], "float32")).tolist()
        [[7.0, 5.0, 5.0]]

    Args:
        indices: of the features, counted over all of them where they are channels by width. The result is flat.
    """

    kind = "select"
    indices: tuple[int, ...]

    def __init__(self, indices: Sequence[int]) -> None:
        self._set(indices=tuple(integer("indices", index, 0) for index in items("indices", indices, " of integers")))
        if not self.indices:
            raise ValueError("indices: expected at least one, got none")

    @property
    def configuration(self) -> dict[str, Any]:
        return {"indices": list(self.indices)}

    def result(self, *inputs: Value) -> Value:
        value = one_input(self.kind, inputs)
        if max(self.indices) >= value.size:
            raise ValueError(f"select: expected indices below {value.size}, got {max(self.indices)}")
        return value._replace(features=(len(self.indices),))


class Reshape(Operation):
    """The features of each step under another shape, in the same order.

        >>> spectrogram = {"x": recurra.Value((64,))}
        >>> model = recurra.Model([recurra.Reshape((1, 64)), recurra.Conv2d(1, 8, 3, padding=1)], inputs=spectrogram)
        >>> model(np.zeros((100, 64), "float32")).shape
        (100, 8, 64)

    Args:
        features: (F,), or (C, W) for channels by width.
    """

    kind = "reshape"
    features: tuple[int, ...]

    def __init__(self, features: Sequence[int]) -> None:
        self._set(features=tuple(integer("features", size) for size in items("features", features, " of sizes")))
        if len(self.features) not in (1, 2):
            raise ValueError(f"features: expected one or two sizes, got {len(self.features)}")

    @property
    def configuration(self) -> dict[str, Any]:
        return {"features": list(self.features)}

    def result(self, *inputs: Value) -> Value:
        value = one_input(self.kind, inputs)
        if math.prod(self.features) != value.size:
            raise ValueError(f"reshape: expected {value.size} features in all, got {self.features}")
        return value._replace(features=self.features)


class Reverse(Operation):
    """The steps of each row from its last to its first, as far as its length goes.

    >>> model = recurra.Model([recurra.Reverse()], inputs={"x": recurra.Value((1,))}, batch_first=True)
    >>> model(np.array([[[1], [2], [3]]], "float32"), lengths=[2]).tolist()
    [[[2.0], [1.0], [0.0]]]
    """

    kind = "reverse"

    def __init__(self) -> None:
        self._set()

    def result(self, *inputs: Value) -> Value:
        return timed_input(self.kind, inputs)


class Repeat(Operation):
    """A sequence of the same value at every step.

        >>> model = recurra.Model([recurra.GRU(12, 8), recurra.Pool("last"), recurra.Repeat(20), recurra.GRU(8, 12)])
        >>> model(np.zeros((100, 12), "float32")).shape
        (20, 12)

    Args:
        steps: how many.
    """

    kind = "repeat"
    steps: int

    def __init__(self, steps: int) -> None:
        self._set(steps=integer("steps", steps))

    @property
    def configuration(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def result(self, *inputs: Value) -> Value:
        value = one_input(self.kind, inputs)
        if value.time:
            raise ValueError("repeat: expected one value for each row, got a sequence")
        return value._replace(time=True)


class _Elementwise(Operation):
    """Of two or more inputs of one shape; those without time count for every step."""

    def __init__(self) -> None:
        self._set()

    def result(self, *inputs: Value) -> Value:
        _require_several(self.kind, inputs)
        if len({value.size for value in inputs}) > 1:
            raise ValueError(f"{self.kind}: expected inputs of one size, got {[value.features for value in inputs]}")
        return inputs[0]._replace(time=any(value.time for value in inputs))


class Add(_Elementwise):
    """The sum of two or more inputs, from left to right: a residual connection.

    >>> nodes = [recurra.Node(recurra.GRU(16, 16), name="gru"), recurra.Node(recurra.Add(), inputs=("gru", "x"))]
    >>> recurra.Model(nodes)(np.zeros((100, 16), "float32")).shape
    (100, 16)
    """

    kind = "add"


class Multiply(_Elementwise):
    """The product of two or more inputs, from left to right: a gain, a gate.

    >>> nodes = [recurra.GRU(16, 16), recurra.Node("sigmoid", name="gain")]
    >>> model = recurra.Model([*nodes, recurra.Node(recurra.Multiply(), inputs=("gain", "x"))])
    >>> model(np.zeros((100, 16), "float32")).shape
    (100, 16)
    """

    kind = "multiply"


class Concatenate(Operation):
    """The features of two or more inputs side by side; channels, where all have the same width.

        >>> inputs = {"audio": recurra.Value((16,)), "speaker": recurra.Value((4,), time=False)}
        >>> both = recurra.Node(recurra.Concatenate(), inputs=("audio", "speaker"))
        >>> model = recurra.Model([both, recurra.GRU(20, 16)], inputs=inputs)
        >>> model((np.zeros((100, 8, 16), "float32"), np.zeros((8, 4), "float32"))).shape
        (100, 8, 16)

    Those without time count for every step.
    """

    kind = "concatenate"

    def __init__(self) -> None:
        self._set()

    def result(self, *inputs: Value) -> Value:
        _require_several(self.kind, inputs)
        time = any(value.time for value in inputs)
        widths = {value.features[1] if len(value.features) == 2 else None for value in inputs}
        if len(widths) == 1 and None not in widths:
            return Value((sum(value.features[0] for value in inputs), *widths), time)  # type: ignore[arg-type]
        return Value((sum(value.size for value in inputs),), time)


def _require_several(kind: str, inputs: tuple[Value, ...]) -> None:
    if len(inputs) < 2:
        raise ValueError(f"{kind}: expected at least two inputs, got {len(inputs)}")
    if any(value.integer for value in inputs):
        raise ValueError(f"{kind}: expected floating-point numbers, got integers")


def _room(features: Any, dtype: Any) -> int:
    """How many there are, each with some parameters of a dtype."""
    size = integer("features", features)
    require_memory(f"features={shown(size)}", 4 * size * float_dtype("dtype", dtype).itemsize)  # made, and kept
    return size


def sized(kind: str, inputs: tuple[Value, ...], features: int) -> Value:
    """The only one of `inputs`, of so many features."""
    value = one_input(kind, inputs)
    if value.size != features:
        raise ValueError(f"{kind}: expected {features} features, got {value.size}")
    return value
