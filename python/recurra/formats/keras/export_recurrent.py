"""Keras 3 layers of a recurrent layer."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...activation import CORE_NAMES
from ..unsupported import UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._arrays import Array

__all__ = ["Exported", "keras_name", "plain", "recurrent", "refused"]

# Our cells that Keras has: its layer, and what else it is told.
_CELLS: dict[str, tuple[str, dict[str, Any]]] = {
    "rnn_tanh": ("SimpleRNN", {"activation": "tanh"}),
    "rnn_relu": ("SimpleRNN", {"activation": "relu"}),
    "rnn_sigmoid": ("SimpleRNN", {"activation": "sigmoid"}),
    "rnn_general": ("SimpleRNN", {}),
    "lstm": ("LSTM", {}),
    "lstm_general": ("LSTM", {}),
    "gru": ("GRU", {"reset_after": True}),
    "gru_general": ("GRU", {"reset_after": True}),
    "gru_reset_before": ("GRU", {"reset_after": False}),
    "gru_reset_before_general": ("GRU", {"reset_after": False}),
}
# Of Keras 3, by our function, alpha and beta.
_FUNCTIONS = {
    ("scaled_tanh", 1.0, 1.0): "tanh",
    ("sigmoid", 0.0, 0.0): "sigmoid",
    ("thresholded_relu", 0.0, 0.0): "relu",
    ("affine", 1.0, 0.0): "linear",
    ("hard_sigmoid", 1 / 6, 0.5): "hard_sigmoid",
    ("hard_sigmoid", 0.5, 0.5): "sparse_sigmoid",
    ("softsign", 0.0, 0.0): "softsign",
    ("softplus", 0.0, 0.0): "softplus",
    ("leaky_relu", 0.2, 0.0): "leaky_relu",
    ("elu", 1.0, 0.0): "elu",
}


# What Keras calls its operations, of which each model has every name once.
_OF_OPERATIONS = re.compile(r"(flip|take|get_item|not_equal|any|logical_and)(_\d+)?")


class Exported(NamedTuple):
    """A recurrent node on its way to Keras."""

    keras: Any
    node: Any
    dtype: str
    mask: Any
    last: bool  # whether it gives the last output in place of the sequence
    states: bool  # whether its final states are needed
    unique: Callable[[str], str]  # a name for a layer that no other has


def plain(name: str) -> str:
    """A name as Keras takes it for a layer."""
    name = name.replace("/", "_")
    return f"{name}_layer" if _OF_OPERATIONS.fullmatch(name) else name


def refused(node: Any, why: str) -> UnsupportedModel:
    """What to raise for what Keras does not have."""
    return UnsupportedModel(f"Keras: node {node.name!r}: {type(node.layer).__name__}: {why}")


def keras_name(core: str, alpha: float, beta: float) -> str | None:
    """What Keras calls a function of the core, if it has it."""
    for (own, a, b), name in _FUNCTIONS.items():
        if own == core and math.isclose(a, alpha, rel_tol=1e-6) and math.isclose(b, beta, rel_tol=1e-6):
            return name
    return None


def recurrent(e: Exported, layer: Any, inputs: list[Any]) -> dict[str, Any]:
    """Keras tensors of the node and of its final states."""
    _require_keras(e, layer)
    kind, options = _CELLS[layer.cell]
    x, *begin = inputs
    directions, count = 2 if layer.bidirectional else 1, 2 if kind == "LSTM" else 1
    finals: list[list[Any]] = [[] for _ in range(count)]
    for level in range(layer.num_layers):
        top = level == layer.num_layers - 1
        name = plain(e.node.name) if top else e.unique(f"{plain(e.node.name)}_layer{level}")
        both = [options | _functions(e, layer, kind, end) for end in ("", "_reverse")[:directions]]
        first = level * directions * layer.hidden_size
        cuts = [first + d * layer.hidden_size for d in range(directions)]
        own = [_cut(each, cut, layer) for cut in cuts for each in begin]
        sequences = not (top and e.last)
        made = _keras_layer(e, layer, kind, both, name, sequences)
        call = ({"mask": e.mask} if e.mask is not None else {}) | ({"initial_state": own} if own else {})
        found = made(x, **call)
        x, *states = found if e.states else (found,)
        made.set_weights([w for end in ("", "_reverse")[:directions] for w in _weights(layer, kind, f"_l{level}{end}")])
        if layer.direction == "reverse" and sequences:
            x = e.keras.ops.flip(x, axis=1)
        for i, state in enumerate(states):
            finals[i % count].append(state)
    joined = {}
    for letter, own in zip("hc", finals, strict=False):
        if own:
            join = e.keras.layers.Concatenate(dtype=e.dtype, name=e.unique("states"))
            both = own[0] if len(own) == 1 else join(own)
            joined[f"{e.node.name}:{letter}"] = both
    return {e.node.name: x, **joined}


def _require_keras(e: Exported, layer: Any) -> None:
    """Raises: there is something that Keras's layers have not."""
    if layer.cell not in _CELLS:
        raise refused(e.node, f"cell: Keras has no {layer.cell!r}")
    if layer.initial_state:
        raise refused(e.node, "initial_state: Keras's layers start from zero, and learn no state")
    if layer.precision:
        raise refused(e.node, f"precision: expected unquantized weights, got {layer.precision}")
    if layer.zoneout not in (0, (0,), (0, 0)) and np.any(layer.zoneout):
        raise refused(e.node, f"zoneout: expected 0, got {layer.zoneout}")
    for name, value in (layer.constants or {}).items():
        if "clip" in name and not math.isinf(value):
            raise refused(e.node, f"{name}: Keras has none, got {value}")


def _cut(state: Any, start: int, layer: Any) -> Any:
    """Of a state of all layers and directions, that of one."""
    whole = layer.num_layers * (2 if layer.bidirectional else 1)
    return state if whole == 1 else state[:, start : start + layer.hidden_size]


def _functions(e: Exported, layer: Any, kind: str, end: str) -> dict[str, str]:
    """The activations of a general cell in one direction."""
    constants = layer.constants or {}
    if not layer.cell.endswith("_general"):
        return {}

    def named(letter: str) -> str:
        keys = (letter, f"{letter}_alpha", f"{letter}_beta")
        number, alpha, beta = (constants[key + end if key + end in constants else key] for key in keys)
        core = CORE_NAMES[int(number)]
        name = keras_name(core, alpha, beta)
        if name is None:
            raise refused(e.node, f"activation: Keras's recurrent layers have no {core} of {alpha:g} and {beta:g}")
        return name

    if kind == "SimpleRNN":
        return {"activation": named("f")}
    if kind == "LSTM" and named("h") != named("g"):
        raise refused(e.node, f"output_activation: Keras's is that of the candidate, {named('g')}, got {named('h')}")
    return {"activation": named("g"), "recurrent_activation": named("f")}


def _keras_layer(e: Exported, layer: Any, kind: str, options: list[dict[str, Any]], name: str, sequences: bool) -> Any:
    """A Keras layer, or two in a Bidirectional."""
    make = getattr(e.keras.layers, kind)
    common = {"use_bias": layer.bias, "return_sequences": sequences, "return_state": e.states, "dtype": e.dtype}
    if len(options) == 1:
        backwards = layer.direction == "reverse"
        return make(layer.hidden_size, go_backwards=backwards, name=name, **common, **options[0])
    forward = make(layer.hidden_size, name=f"{name}_forward", **common, **options[0])
    backward = make(layer.hidden_size, go_backwards=True, name=f"{name}_backward", **common, **options[1])
    return e.keras.layers.Bidirectional(forward, backward_layer=backward, name=name, dtype=e.dtype)


def _weights(layer: Any, kind: str, end: str) -> list[Array]:
    """Of one direction of a layer, as Keras has them."""
    params = layer.state_dict()

    def theirs(array: Array) -> Array:
        if kind == "GRU":  # r, z, n here
            r, z, n = np.split(array, 3)
            array = np.concatenate([z, r, n])
        return np.ascontiguousarray(array.T)

    found = [theirs(params[f"weight_ih{end}"]), theirs(params[f"weight_hh{end}"])]
    if layer.bias:
        both = theirs(params[f"bias_ih{end}"]), theirs(params[f"bias_hh{end}"])
        after = _CELLS[layer.cell][1].get("reset_after", False)
        found.append(np.stack(both) if after else both[0] + both[1])
    return found
