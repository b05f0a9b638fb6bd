"""RNN, GRU and LSTM."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ...activation import FUNCTIONS, Activation
from ...layers import GRU, LSTM, RNN
from ..unsupported import UnsupportedModel
from .folding import Spread
from .sizes import same
from .tensor import Atom, Axis, Batch, Misread, Tensor, Time

if TYPE_CHECKING:
    from ..._arrays import Array
    from ...recurrent import Recurrent
    from .builder import Builder
    from .graph import Node

__all__ = ["ACTIVATIONS", "GATES", "PEEPHOLES", "recurrent"]

# Where our blocks stand in ONNX's: of gates (LSTM i o f c, GRU z r h), and of peepholes (i o f).
GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
PEEPHOLES = (0, 2, 1)
STATES = {"LSTM": ("h", "c"), "GRU": ("h",), "RNN": ("h",)}

# ONNX's names of activations to ours.
ACTIVATIONS = {
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "relu": "relu",
    "affine": "affine",
    "leakyrelu": "leaky_relu",
    "thresholdedrelu": "thresholded_relu",
    "scaledtanh": "scaled_tanh",
    "hardsigmoid": "hard_sigmoid",
    "elu": "elu",
    "softsign": "softsign",
    "softplus": "softplus",
}
_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_OPTIONS = {
    "LSTM": ("recurrent_activation", "activation", "output_activation"),
    "GRU": ("recurrent_activation", "activation"),
    "RNN": ("nonlinearity",),
}
_KNOWN = {
    "activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "layout",
    "input_forget", "linear_before_reset", "output_sequence",
}  # fmt: skip


def recurrent(builder: Builder, node: Node, inputs: list[Any]) -> list[Any]:
    """The node's Y, Y_h and Y_c."""
    inputs = inputs + [None] * (8 - len(inputs))
    if unknown := set(node.attributes) - _KNOWN:
        raise UnsupportedModel(f"{min(unknown)}: the operator has no such attribute")
    arrays = _parameters(node, inputs, builder.dtype)
    layer = _layer(node, arrays, builder.dtype)
    hidden, directions = layer.hidden_size, arrays["W"].shape[0]
    batch_first = _flag(node, "layout")
    x, time = _sequence(inputs[0], batch_first, layer.input_size)
    batch = next((f for axis in x.axes for f in axis if isinstance(f, Batch)), None)
    features = [f for f in x.axes[2] if isinstance(f, Atom)]
    states = [
        _initial_state(builder, inputs[5 + i], f"initial_{letter}", (directions, hidden), batch_first)
        for i, letter in enumerate(STATES[node.op])
    ]
    source = builder.add(layer, builder.ordered(x, features).source)
    built = builder.nodes[-1]
    built.states = states
    built.lengths = _lengths(inputs[4], time)

    t: Axis = (time,) if x.has(Time) else ()
    b: Axis = (batch,) if batch else ()
    d, h = _atoms(directions), _atoms(hidden)
    y_axes = [b, t, d, h] if batch_first else [t, d, b, h]
    state_axes = [b, d, h] if batch_first else [d, b, h]
    final = [builder.tensor(f"{source}:{s}", [*d, *h], state_axes, None) for s in STATES[node.op]]
    return [builder.tensor(source, [*d, *h], y_axes, time), *final]


def _atoms(size: int) -> tuple[Atom, ...]:
    return (Atom(size),) if size > 1 else ()


def _flag(node: Node, name: str) -> bool:
    value = node.get(name, 0)
    if value not in (0, 1):
        raise UnsupportedModel(f"{name}: expected 0 or 1, got {value}")
    return bool(value)


def _parameters(node: Node, inputs: list[Any], dtype: str) -> dict[str, Array]:
    """W [D, G*H, I], R [D, G*H, H], and B [D, 2*G*H] and P [D, 3*H] where they are there."""
    given = dict(zip("WRB", inputs[1:4], strict=True)) | ({"P": inputs[7]} if node.op == "LSTM" else {})
    arrays = {}
    for name, array in given.items():
        if array is None and name in "BP":
            continue
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            raise UnsupportedModel(f"{name}: expected constant weights, got {'none' if array is None else 'others'}")
        arrays[name] = np.ascontiguousarray(array, dtype)
    gates = len(GATES[node.op])
    directions = {"forward": 1, "reverse": 1, "bidirectional": 2}.get(node.get("direction", "forward"))
    if directions is None:
        raise UnsupportedModel(f"direction: expected forward, reverse or bidirectional, got {node.get('direction')!r}")
    if arrays["R"].ndim != 3 or arrays["W"].ndim != 3:
        raise UnsupportedModel("W: expected arrays of three axes")
    hidden, size = arrays["R"].shape[2], arrays["W"].shape[2]
    wanted = {
        "W": (directions, gates * hidden, size),
        "R": (directions, gates * hidden, hidden),
        "B": (directions, 2 * gates * hidden),
        "P": (directions, 3 * hidden),
    }
    for name, array in arrays.items():
        if array.shape != wanted[name] or 0 in array.shape:
            raise UnsupportedModel(f"{name}: expected shape {wanted[name]}, got {array.shape}")
    if node.get("hidden_size", hidden) != hidden:
        raise UnsupportedModel(f"hidden_size: expected {hidden} as R has it, got {node.get('hidden_size')}")
    return arrays


def _layer(node: Node, arrays: dict[str, Array], dtype: str) -> Recurrent:
    hidden, size = arrays["R"].shape[2], arrays["W"].shape[2]
    options = _activations(node, arrays["W"].shape[0])
    if (clip := node.get("clip")) is not None:
        if not 0 < clip < math.inf:
            raise UnsupportedModel(f"clip: expected a positive number, got {clip}")
        options["clip"] = clip if clip < np.finfo(np.float32).max else None  # ONNX Runtime's "none"
    coupled = node.op == "LSTM" and _flag(node, "input_forget")
    if node.op == "LSTM":
        options |= {"peephole": "P" in arrays, "coupled": "f_from_i" if coupled else False}
    if node.op == "GRU":
        options["reset"] = "after" if _flag(node, "linear_before_reset") else "before"
    kind: Any = {"LSTM": LSTM, "GRU": GRU, "RNN": RNN}[node.op]
    direction = node.get("direction", "forward")
    layer: Recurrent = kind(size, hidden, bias="B" in arrays, direction=direction, dtype=dtype, seed=0, **options)
    parameters: dict[str, Array] = {}
    for d, end in enumerate(("_l0", "_l0_reverse")[: arrays["W"].shape[0]]):
        parts = {"weight_ih": arrays["W"][d], "weight_hh": arrays["R"][d]}
        if "B" in arrays:
            parts["bias_ih"], parts["bias_hh"] = np.split(arrays["B"][d], 2)
        own = {name: _blocks(array, GATES[node.op], coupled) for name, array in parts.items()}
        if "P" in arrays:
            own["weight_peep"] = _blocks(arrays["P"][d], PEEPHOLES, coupled)
        parameters |= {name + end: array for name, array in own.items()}
    layer.load_state_dict(parameters)
    return layer


def _blocks(array: Array, order: tuple[int, ...], coupled: bool) -> Array:
    """Blocks in our order; f, which is 1 - i where it is coupled, left out."""
    blocks = np.split(array, len(order))
    return np.concatenate([blocks[k] for i, k in enumerate(order) if not (coupled and i == 1)])


def _activations(node: Node, directions: int) -> dict[str, Any]:
    """Options of the layer. Numbers alpha and beta are taken by those functions that have one, in the order of the
    list; where they run out, functions have their defaults."""
    places = _OPTIONS[node.op]
    names = node.get("activations") or list(_DEFAULTS[node.op]) * directions
    if len(names) != len(places) * directions:
        raise UnsupportedModel(f"activations: expected {len(places) * directions}, got {names}")
    numbers = {"alpha": list(node.get("activation_alpha") or []), "beta": list(node.get("activation_beta") or [])}
    chosen = []
    for name in names:
        function = ACTIVATIONS.get(name.casefold())
        if function is None:
            raise UnsupportedModel(f"activations: {name!r} is not supported")
        own = {}
        for parameter in FUNCTIONS[function].parameters:
            if numbers[parameter]:
                own[parameter] = numbers[parameter].pop(0)
            elif getattr(FUNCTIONS[function], parameter) is None:
                raise UnsupportedModel(f"activation_{parameter}: expected a number for {name}, got none")
        chosen.append(Activation(function, **own))
    for parameter, left in numbers.items():
        if any(left):  # exporters write zeros for functions without parameters
            raise UnsupportedModel(f"activation_{parameter}: expected no more than functions have, got {left} too many")
    pairs = zip(chosen[: len(places)], chosen[-len(places) :], strict=True)
    return {place: pair[0] if directions == 1 else pair for place, pair in zip(places, pairs, strict=True)}


def _sequence(x: Any, batch_first: bool, size: int) -> tuple[Tensor, Time]:
    """The input, and its time."""
    if not isinstance(x, Tensor) or x.value.integer:
        raise UnsupportedModel("X: expected floating-point numbers that depend on an input")
    if x.rank != 3:
        raise UnsupportedModel(f"X: expected three axes, got {x.rank}")
    t, b = (1, 0) if batch_first else (0, 1)
    if x.time is None:
        raise Misread("X: expected a sequence, got one value for each row")
    if not (x.may_be(Time, t) and x.may_be(Batch, b) and x.is_features(2)):
        shown = ", ".join(x.shown(axis) for axis in range(3))
        raise Misread(f"X: expected axes {'batch, time' if batch_first else 'time, batch'}, features, got {shown}")
    if math.prod(atom.size for atom in x.atoms(2)) != size:
        raise Misread(f"X: expected {size} features, got {x.shape[2]}")
    return x, x.time


def _initial_state(
    builder: Builder, state: Any, what: str, shape: tuple[int, int], batch_first: bool
) -> str | Array | None:
    """The name of a value [B, D*H], an array [D, H], or None for zeros."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        d, b = (1, 0) if batch_first else (0, 1)
        if state.rank != 3 or state.time is not None or not state.may_be(Batch, b) or state.value.integer:
            shown = ", ".join(state.shown(axis) for axis in range(state.rank))
            raise Misread(f"{what}: expected axes directions, batch, units without time, got {shown}")
        if state.shape[d] != shape[0] or state.shape[2] != shape[1]:
            raise UnsupportedModel(f"{what}: expected {shape} directions and units, got {state.shape}")
        ordered = builder.ordered(state, [*state.atoms(d), *state.atoms(2)])
        return ordered.source
    array = state.array if isinstance(state, Spread) else state
    if array.ndim != 3 or array.dtype.kind != "f":
        raise UnsupportedModel(
            f"{what}: expected three axes of floating-point numbers, got {array.dtype} {array.shape}"
        )
    rows = array.swapaxes(0, 1) if batch_first else array
    if rows.shape[1] < 1 or not (rows == rows[:, :1]).all():
        raise UnsupportedModel(f"{what}: expected the same constants for all rows of a batch")
    if (rows[:, 0].shape) != shape:
        raise UnsupportedModel(f"{what}: expected {shape} directions and units, got {rows[:, 0].shape}")
    return np.ascontiguousarray(rows[:, 0], builder.dtype) if rows.any() else None


def _lengths(lengths: Any, time: Time) -> str | None:
    """The graph input that holds the rows' lengths. Lengths that are all T are none."""
    if lengths is None:
        return None
    if isinstance(lengths, Tensor):
        if not lengths.value.integer or lengths.time is not None or lengths.rank != 1:
            raise UnsupportedModel("sequence_lens: expected a graph input of one axis")
        return lengths.source
    array = lengths.array if isinstance(lengths, Spread) else lengths
    if all(same(each, time.size) for each in array.flat):
        return None
    raise UnsupportedModel(f"sequence_lens: expected a graph input or the number of steps, got constants {array}")
