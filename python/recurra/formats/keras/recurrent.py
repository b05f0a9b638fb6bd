"""Keras's recurrent layers: SimpleRNN, LSTM, GRU, RNN of their cells, and Bidirectional."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...activation import Activation
from ...layers import GRU, LSTM, RNN
from ...model import Add, Concatenate, Multiply, Pool
from . import activations
from .builder import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..._arrays import Array
    from .builder import Builder
    from .layers import Call
    from .source import Layer

__all__ = ["LAYERS"]

_KINDS: dict[str, Any] = {"SimpleRNN": RNN, "LSTM": LSTM, "GRU": GRU}


class _Cell(NamedTuple):
    """One of Keras's cells: options and parameters of one direction of a layer here."""

    kind: str
    units: int
    inputs: int
    options: dict[str, Any]
    params: dict[str, Array]  # without layer and direction


class _Run(NamedTuple):
    """What comes out of cells that ran over a sequence."""

    name: str  # of the sequence
    states: list[str]
    units: int


def _cell(b: Builder, layer: Layer) -> _Cell:
    kind = layer.kind.removesuffix("Cell")
    if kind not in _KINDS:
        raise layer.refuse("there is no such cell here")
    units, bias = layer.option("units", int), layer.option("use_bias", bool)
    w = {role: np.asarray(array, b.dtype) for role, array in layer.weights.items()}
    gates = {"SimpleRNN": 1, "LSTM": 4, "GRU": 3}[kind]
    inputs = w["kernel"].shape[0] if w["kernel"].ndim == 2 else 0
    wanted: dict[str, tuple[int, ...]] = {"kernel": (inputs, gates * units), "recurrent_kernel": (units, gates * units)}
    options: dict[str, Any] = {"bias": bias, "activation": activations.one_activation(layer, "activation", b.version)}
    both = False  # biases of input and state
    if kind == "SimpleRNN":
        options["nonlinearity"] = options.pop("activation")
    else:
        options["recurrent_activation"] = activations.one_activation(layer, "recurrent_activation", b.version)
    if kind == "GRU":
        after = layer.option("reset_after", bool, default=w["bias"].ndim == 2 if bias else ...)
        options["reset"] = "after" if after else "before"
        both = after
    if bias:
        wanted["bias"] = (2, gates * units) if both else (gates * units,)
    if not inputs or (shapes := {role: array.shape for role, array in w.items()}) != wanted:
        raise ValueError(f"{layer}: expected weights {wanted}, got {shapes if inputs else w['kernel'].shape}")
    if kind == "GRU":  # z, r, h there
        for role, array in w.items():
            z, r, h = np.split(array, 3, -1)
            w[role] = np.concatenate([r, z, h], -1)
    params = {"weight_ih": w["kernel"].T, "weight_hh": w["recurrent_kernel"].T}
    if bias:
        params["bias_ih"], params["bias_hh"] = w["bias"] if both else (w["bias"], np.zeros_like(w["bias"]))
    return _Cell(kind, units, inputs, options, {n: np.ascontiguousarray(array) for n, array in params.items()})


def _cells(b: Builder, layer: Layer) -> list[_Cell]:
    """The cells of a recurrent layer, from the input on."""
    inside = layer.parts.get("cell") if layer.kind == "RNN" else layer
    if inside is None:
        raise ValueError(f"{layer}: cell: expected one, got none")
    if inside.kind == "StackedRNNCells":
        return [_cell(b, each) for each in inside.parts.values()]
    return [_cell(b, inside)]


def _layer_of(b: Builder, cells: Sequence[_Cell], direction: str) -> Any:
    """A layer here, of one cell or of those of two directions."""
    options = dict(cells[0].options)
    if len(cells) == 2:
        for name, value in options.items():
            other = cells[1].options[name]
            options[name] = (value, other) if isinstance(value, Activation) and value != other else value
    layer = _KINDS[cells[0].kind](cells[0].inputs, cells[0].units, direction=direction, dtype=b.dtype, **options)
    ends = ("_l0", "_l0_reverse")
    params = {n + end: w for cell, end in zip(cells, ends, strict=False) for n, w in cell.params.items()}
    layer.load_state_dict(params)
    return layer


def _run(b: Builder, cells: list[_Cell], source: str, states: list[str], reverse: bool, name: str) -> _Run:
    """Nodes of cells on top of each other."""
    final: list[str] = []
    for cell in cells:
        count = 2 if cell.kind == "LSTM" else 1
        layer = _layer_of(b, [cell], "reverse" if reverse else "forward")
        own = states[len(final) : len(final) + count] if states else []
        source = b.add(layer, [source, *own], name)
        final += [f"{source}:{each}" for each in "hc"[:count]]
    return _Run(source, final, cells[-1].units)


class _Options(NamedTuple):
    """What a recurrent layer is told beside its cell."""

    sequences: bool
    state: bool
    backwards: bool
    zero: bool  # whether outputs of masked steps are zero


def _options(layer: Layer) -> _Options:
    if layer.config.get("time_major"):
        raise layer.refuse("time_major: expected False, got True")
    names = ("return_sequences", "return_state", "go_backwards", "zero_output_for_mask")
    return _Options(*(layer.option(name, bool, default=False) for name in names))


def _input(b: Builder, call: Call, cells: list[_Cell]) -> tuple[Tensor, str, list[str]]:
    """The sequence; its node, under the mask that the layer heeds; and nodes of initial states."""
    layer, (tensor, *others) = call.layer, call.tensors
    states = [*others, *call.states]
    if not isinstance(tensor, Tensor) or not tensor.time or len(tensor.shape) != 1:
        raise layer.refuse("expected a sequence [B, T, F]")
    if tensor.shape[0] != cells[0].inputs:
        raise ValueError(f"{layer}: expected {cells[0].inputs} features, got {tensor.shape[0]}")
    if any(not isinstance(each, Tensor) or each.time or len(each.shape) != 1 for each in states):
        raise layer.refuse("initial_state: expected tensors [B, units]")
    # Keras 3 finds the mask of a call by itself only where the call has one tensor alone.
    heeded = call.mask_given or not states or b.version == 2
    mask = call.seen_mask if heeded else None
    if not heeded and tensor.dirty:
        raise layer.refuse("initial_state: Keras 3 ignores the mask then, and masked steps are not Keras's here")
    source = b.flat(tensor)
    source = b.masked(tensor._replace(name=source), mask)
    heeds = mask is not None
    tensor = tensor._replace(mask=call.seen_mask, dirty=heeds, under=heeds)
    return tensor, source, [b.flat(each) for each in states]


def _recurrent(b: Builder, call: Call) -> list[Tensor]:
    layer, options, cells = call.layer, _options(call.layer), _cells(b, call.layer)
    tensor, source, states = _input(b, call, cells)
    _require_states(layer, states, sum(2 if cell.kind == "LSTM" else 1 for cell in cells))
    run = _run(b, cells, source, states, options.backwards, layer.name)
    outputs = [_output(b, layer, run, tensor, options)]
    sizes = [size for cell in cells for size in [cell.units] * (2 if cell.kind == "LSTM" else 1)]
    if options.state:
        outputs += [Tensor(name, (size,), False) for name, size in zip(run.states, sizes, strict=True)]
    return outputs


def _require_states(layer: Layer, states: list[str], count: int) -> None:
    if states and len(states) != count:
        raise layer.refuse(f"initial_state: expected {count} tensors, got {len(states)}")


def _output(b: Builder, layer: Layer, run: _Run, tensor: Tensor, options: _Options, flip: bool = True) -> Tensor:
    """The sequence of outputs, in Keras's order of steps unless `flip` is False, or the last one."""
    if options.sequences:
        name = run.name
        if options.backwards and flip:
            if tensor.mask is not None:
                raise layer.refuse("go_backwards: its mask would belong to other steps than its outputs")
            name = b.reversed(name, f"{layer.name}_reversed")
        return tensor._replace(name=name, shape=(run.units,), channels=False)
    if options.zero and tensor.mask is not None:
        raise layer.refuse("zero_output_for_mask: expected False without return_sequences, got True")
    name = b.add(Pool("first" if options.backwards else "last"), [run.name], f"{layer.name}_last")
    return Tensor(name, (run.units,), False)


# -------------------------------------------------------------------------------------------------- bidirectional


def _bidirectional(b: Builder, call: Call) -> list[Tensor]:
    layer = call.layer
    forward, backward = layer.parts["forward_layer"], layer.parts["backward_layer"]
    one, other = _options(forward), _options(backward)
    merge = layer.option("merge_mode", str, type(None))
    if merge not in ("concat", "sum", "ave", "mul", None):
        raise layer.refuse(f"merge_mode: there is no {merge!r} here")
    if one.backwards or not other.backwards:
        raise layer.refuse("go_backwards: expected it of the backward layer alone")
    if (one.sequences, one.state) != (other.sequences, other.state):
        raise ValueError(f"{layer}: expected layers that return the same, got {one} and {other}")
    cells = [_cells(b, forward), _cells(b, backward)]
    tensor, source, states = _input(b, call, cells[0])
    if merge == "concat" and not states and not one.state and _alike(*cells):
        return [_together(b, layer, [each[0] for each in cells], source, tensor, one)]
    half = len(states) // 2
    _require_states(layer, states, 2 * half if half else 1)
    runs, outputs, finals = [], [], []
    for cell, own, name in zip(cells, (states[:half], states[half:]), ("forward", "backward"), strict=True):
        _require_states(layer, own, sum(2 if each.kind == "LSTM" else 1 for each in cell))
        run = _run(b, cell, source, own, name == "backward", f"{layer.name}_{name}")
        options = one._replace(backwards=name == "backward", zero=False)
        outputs.append(_output(b, layer, run, tensor, options, flip=False))
        sizes = [size for each in cell for size in [each.units] * (2 if each.kind == "LSTM" else 1)]
        finals += [Tensor(state, (size,), False) for state, size in zip(run.states, sizes, strict=True)]
        runs.append(run)
    merged = outputs if merge is None else [_merged(b, layer, merge, outputs)]
    return merged + (finals if one.state else [])


def _alike(forward: list[_Cell], backward: list[_Cell]) -> bool:
    """Whether one layer here can hold both directions: they differ in parameters and activations alone."""
    if len(forward) != 1 or len(backward) != 1:
        return False
    kept = [{n: v for n, v in cell.options.items() if not isinstance(v, Activation)} for cell in (*forward, *backward)]
    return forward[0][:3] == backward[0][:3] and kept[0] == kept[1]


def _together(b: Builder, layer: Layer, cells: list[_Cell], source: str, tensor: Tensor, options: _Options) -> Tensor:
    """Both directions as one layer here. Its final states stand side by side, as "concat" has them."""
    name = b.add(_layer_of(b, cells, "bidirectional"), [source], layer.name)
    shape = (2 * cells[0].units,)
    if options.sequences:
        return tensor._replace(name=name, shape=shape, channels=False)
    return Tensor(f"{name}:h", shape, False)


def _merged(b: Builder, layer: Layer, merge: str, outputs: list[Tensor]) -> Tensor:
    names = [each.name for each in outputs]
    if merge == "concat":
        made = b.add(Concatenate(), names, layer.name)
        return outputs[0]._replace(name=made, shape=(outputs[0].size + outputs[1].size,))
    if outputs[0].shape != outputs[1].shape:
        raise layer.refuse(f"merge_mode: expected layers of as many units, got {[each.size for each in outputs]}")
    if merge == "mul":
        return outputs[0]._replace(name=b.add(Multiply(), names, layer.name))
    name = b.add(Add(), names, layer.name if merge == "sum" else f"{layer.name}_sum")
    if merge == "ave":
        name = b.add(Activation("affine", alpha=0.5, beta=0.0), [name], layer.name)
    return outputs[0]._replace(name=name)


LAYERS: dict[str, Callable[[Builder, Call], list[Tensor]]] = {
    "SimpleRNN": _recurrent,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "Bidirectional": _bidirectional,
}
