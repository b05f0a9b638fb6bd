"""Activation functions, to be chosen for RNN, LSTM and GRU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _core
from ._options import choice, real

if TYPE_CHECKING:
    from typing import TypeAlias

__all__ = ["Activation"]


class _Function(NamedTuple):
    """A function of the core, with what its parameters are fixed to or default to."""

    core: str
    alpha: float | None = 0.0  # None: has to be given
    beta: float | None = 0.0
    parameters: tuple[str, ...] = ()


_BOTH = ("alpha", "beta")

# Formulas are in the docstring of Activation; parameters that have no default in ONNX have none here.
FUNCTIONS = {
    "tanh": _Function("scaled_tanh", 1.0, 1.0),
    "sigmoid": _Function("sigmoid"),
    "relu": _Function("thresholded_relu"),
    "linear": _Function("affine", 1.0),
    "hard_sigmoid": _Function("hard_sigmoid", 0.2, 0.5, _BOTH),
    "softsign": _Function("softsign"),
    "softplus": _Function("softplus"),
    "leaky_relu": _Function("leaky_relu", 0.01, parameters=("alpha",)),
    "elu": _Function("elu", 1.0, parameters=("alpha",)),
    "thresholded_relu": _Function("thresholded_relu", 1.0, parameters=("alpha",)),
    "scaled_tanh": _Function("scaled_tanh", None, None, _BOTH),
    "affine": _Function("affine", None, None, _BOTH),
}

CORE_NAMES: list[str] = _core.activations()


@dataclass(frozen=True)
class Activation:
    """An activation function and its parameters, for options such as `activation` of `recurra.LSTM`.

        >>> recurra.Activation("leaky_relu", alpha=0.1)
        Activation(function='leaky_relu', alpha=0.1, beta=None)
        >>> layer = recurra.GRU(12, 64, activation=recurra.Activation("leaky_relu", alpha=0.1))

    The name alone, "leaky_relu", stands for the function with its default parameters, which are ONNX's.

        function            value at a                                  alpha   beta
        "tanh"              tanh(a)
        "sigmoid"           1 / (1 + exp(-a))
        "relu"              max(a, 0)
        "linear"            a
        "hard_sigmoid"      min(max(alpha a + beta, 0), 1)              0.2     0.5
        "softsign"          a / (1 + |a|)
        "softplus"          log(1 + exp(a))
        "leaky_relu"        a, or alpha a for a < 0                     0.01
        "elu"               a, or alpha (exp(a) - 1) for a < 0          1.0
        "thresholded_relu"  a, or 0 for a < alpha                       1.0
        "scaled_tanh"       alpha tanh(beta a)                          required
        "affine"            alpha a + beta                              required

    Keras 2's hard sigmoid is that with the defaults, Keras 3's and PyTorch's has alpha=1 / 6; Keras 3's leaky ReLU has
    alpha=0.2. At a kink the slope is that below it, and at those of the hard sigmoid 0, as in PyTorch.

    Args:
        function: one of these names.
        alpha, beta: its parameters, finite numbers; None, the default, for the function's own.

    Raises:
        ValueError: unknown name; a parameter that the function does not have, or lacks; NaN or infinity.
        TypeError: a parameter that is no number.
    """

    function: str
    alpha: float | None = None
    beta: float | None = None

    def __post_init__(self) -> None:
        function = choice("function", self.function, FUNCTIONS)
        for name in _BOTH:
            value = getattr(self, name)
            if value is not None:
                if name not in function.parameters:
                    raise ValueError(f"{name}: expected None for {self.function!r}, which has no {name}, got {value!r}")
                value = real(name, value)
                if math.isinf(value):
                    raise ValueError(f"{name}: expected a finite number, got {value}")
            elif name in function.parameters:
                value = getattr(function, name)
                if value is None:
                    raise ValueError(f"{name}: expected a number for {self.function!r}, which has no default, got None")
            object.__setattr__(self, name, value)

    def constants(self, letter: str) -> dict[str, float]:
        """This choice as constants of a general cell.

            >>> recurra.Activation("relu").constants("g")
            {'g': 3.0, 'g_alpha': 0.0, 'g_beta': 0.0}
            >>> layer = recurra.Recurrent("gru_general", 12, 64, constants=recurra.Activation("relu").constants("g"))

        Args:
            letter: "f", "g" or "h", with "_reverse" behind it for the reverse direction alone.
        """
        function, (letter, end) = FUNCTIONS[self.function], choice("letter", letter, _LETTERS)
        alpha, beta = (getattr(self if n in function.parameters else function, n) for n in _BOTH)
        number = float(CORE_NAMES.index(function.core))
        return {f"{letter}{end}": number, f"{letter}_alpha{end}": alpha, f"{letter}_beta{end}": beta}


_LETTERS = {letter + end: (letter, end) for letter in "fgh" for end in ("", "_reverse")}

if TYPE_CHECKING:
    OneActivation: TypeAlias = str | Activation
    Activations: TypeAlias = OneActivation | tuple[OneActivation, OneActivation]


def activations(name: str, value: Any, bidirectional: bool) -> tuple[Activation, ...]:
    """The option `name` of a layer: the activation of each direction, one if they have the same."""
    if isinstance(value, tuple):
        if not bidirectional or len(value) != 2:
            wanted = "one activation, or a tuple of two" if bidirectional else "one activation for one direction"
            raise ValueError(f"{name}: expected {wanted}, got {value!r}")
        both = tuple(_activation(name, each) for each in value)
        return both if both[0] != both[1] else both[:1]
    return (_activation(name, value),)


def _activation(name: str, value: Any) -> Activation:
    if isinstance(value, Activation):
        return value
    function = choice(name, value, FUNCTIONS)
    for parameter in function.parameters:
        if getattr(function, parameter) is None:
            raise ValueError(f"{name}: expected a recurra.Activation, for {value!r} has parameters, got {value!r}")
    return Activation(value)
