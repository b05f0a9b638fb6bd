"""Keras's activation functions out of those that there are here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ...activation import Activation
from ...model import Multiply, Softmax

if TYPE_CHECKING:
    from .builder import Builder
    from .source import Layer

__all__ = ["OPERATIONS", "Function", "add", "function_of", "layer_function", "one_activation"]


class Function(NamedTuple):
    """Functions one after the other; where `times` is set, x times what they give."""

    steps: tuple[Any, ...] = ()
    times: bool = False


def _affine(alpha: float, beta: float = 0.0) -> Activation:
    return Activation("affine", alpha=alpha, beta=beta)


def _below(limit: float) -> Function:
    """min(max(x, 0), limit)."""
    return Function((Activation("hard_sigmoid", alpha=1 / limit, beta=0.0), _affine(limit)))


# Klambauer et al. 2017, arXiv:1706.02515.
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805
_HARD_3 = Activation("hard_sigmoid", alpha=1 / 6)
_SIMPLE = ("tanh", "sigmoid", "relu", "softsign", "softplus", "elu")
_NAMED = {name: Function((Activation(name),)) for name in _SIMPLE} | {
    "linear": Function(),
    "leaky_relu": Function((Activation("leaky_relu", alpha=0.2),)),
    "hard_sigmoid": Function((_HARD_3,)),
    "sparse_sigmoid": Function((Activation("hard_sigmoid", alpha=0.5),)),
    "celu": Function((Activation("elu"),)),
    "softmax": Function((Softmax(),)),
    "log_softmax": Function((Softmax(log=True),)),
    "relu6": _below(6.0),
    "hard_tanh": Function((Activation("hard_sigmoid", alpha=0.5), _affine(2.0, -1.0))),
    "log_sigmoid": Function((_affine(-1.0), Activation("softplus"), _affine(-1.0))),
    "selu": Function((Activation("elu", alpha=_SELU_ALPHA), _affine(_SELU_SCALE))),
    "silu": Function((Activation("sigmoid"),), True),
    "swish": Function((Activation("sigmoid"),), True),
    "hard_silu": Function((_HARD_3,), True),
    "hard_swish": Function((_HARD_3,), True),
    "mish": Function((Activation("softplus"), Activation("tanh")), True),
}

# Functions of keras.ops that a functional model may call: what they are called as functions, or as layers.
OPERATIONS = {"Relu": "relu", "Relu6": "relu6", "Selu": "selu", "Silu": "silu", "Tanh": "tanh", "Sigmoid": "sigmoid"}
OPERATIONS |= {"Softplus": "softplus", "Softsign": "softsign", "LogSigmoid": "log_sigmoid", "LogSoftmax": "log_softmax"}
OPERATIONS |= {"HardSigmoid": "hard_sigmoid", "HardSilu": "hard_silu", "HardTanh": "hard_tanh"}
OPERATIONS |= {"Elu": "ELU", "LeakyRelu": "LeakyReLU"}


def function_of(layer: Layer, option: str, version: int) -> Function:
    """The function that an option of a layer chooses, by name or as a layer of its own."""
    value = layer.config.get(option, "linear")
    if isinstance(value, dict) and isinstance(value.get("config"), dict) and "class_name" in value:
        from .source import Layer

        inside = Layer(str(value["class_name"]), f"{layer.name}.{option}", value["config"], {}, [])
        if inside.kind in ("ReLU", "LeakyReLU", "ELU", "Softmax", "ThresholdedReLU"):
            return layer_function(inside, 1)
        raise layer.refuse(f"{option}: there is no {inside.kind} here")
    if value is None:
        return Function()
    if value == "hard_sigmoid" and version == 2:
        return Function((Activation("hard_sigmoid"),))
    if not isinstance(value, str) or value not in _NAMED:
        raise layer.refuse(f"{option}: there is no {value!r} here; there are {', '.join(_NAMED)}")
    return _NAMED[value]


def one_activation(layer: Layer, option: str, version: int) -> Activation:
    """The same, in the place of a recurrent layer's tanh or sigmoid."""
    function = function_of(layer, option, version)
    steps = function.steps or (Activation("linear"),)
    if function.times or len(steps) > 1 or not isinstance(steps[0], Activation):
        raise layer.refuse(f"{option}: there is no {layer.config.get(option)!r} inside recurrent layers here")
    return steps[0]


def layer_function(layer: Layer, rank: int) -> Function:
    """What a layer that is an activation does with tensors of so many axes."""

    def number(name: str, default: float) -> float:
        value = layer.config.get(name, default)
        value = value[0] if isinstance(value, list) and len(value) == 1 else value  # Keras 2.0 to 2.2
        if isinstance(value, dict) and "value" in value:  # a NumPy scalar of Keras 2
            value = value["value"]
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{layer}: {name}: expected a number, got {value!r}")
        return float(value)

    kind = OPERATIONS.get(layer.kind, layer.kind)
    if kind in _NAMED and kind != "log_softmax":
        return _NAMED[kind]
    if kind == "LeakyReLU":
        slope = number("negative_slope", ...) if "negative_slope" in layer.config else number("alpha", 0.3)  # type: ignore[arg-type]
        return Function((Activation("leaky_relu", alpha=slope),))
    if kind == "ELU":
        return Function((Activation("elu", alpha=number("alpha", 1.0)),))
    if layer.kind == "ThresholdedReLU":
        return Function((Activation("thresholded_relu", alpha=number("theta", 1.0)),))
    if kind in ("Softmax", "log_softmax"):
        axis = layer.config.get("axis", -1)
        axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
        if axis not in (-1, rank - 1):
            raise layer.refuse(f"axis: expected the last one, got {axis}")
        return Function((Softmax(log=kind == "log_softmax"),))
    if layer.kind == "Rescaling":
        return Function((_affine(number("scale", 1.0), number("offset", 0.0)),))
    limit, slope, threshold = layer.config.get("max_value"), number("negative_slope", 0.0), number("threshold", 0.0)
    if limit is None and threshold == 0:
        return Function((Activation("leaky_relu", alpha=slope) if slope else Activation("relu"),))
    if limit is None and slope == 0:
        return Function((Activation("thresholded_relu", alpha=threshold),))
    if slope == 0 and threshold == 0 and number("max_value", 0.0) > 0:
        return _below(number("max_value", 0.0))
    raise layer.refuse(f"expected max_value, negative_slope or threshold alone, got {limit}, {slope} and {threshold}")


def add(b: Builder, function: Function, source: str, name: str) -> str:
    """The node that has the function of `source`; the last of those it takes is called `name`."""
    given = source
    for i, step in enumerate(function.steps):
        last = i == len(function.steps) - 1 and not function.times
        kind = step.function if isinstance(step, Activation) else step.kind
        source = b.add(step, [source], name if last else f"{name}_{kind}")
    return b.add(Multiply(), [given, source], name) if function.times else source
