"""Recurrent layers: torch's functions, to which torch.nn's modules come, and recurra.torch's modules."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence

from ... import torch as modules
from ..._cells import CELLS
from ...layers import GRU, LSTM, RNN
from ...model import Repeat, Value
from ...recurrent import Recurrent
from .layers import array
from .tensor import MODULES, Recording, Traced, function
from .view import BATCH, Misread, Refusal, View

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__: list[str] = []


class _Network(NamedTuple):
    """A recurrent layer to be."""

    layer: Any
    options: dict[str, Any]
    parameters: dict[str, Any]
    cell: str
    sizes: tuple[int, int, int, int, int]  # input, hidden, output, layers, directions


def _run(recording: Recording, view: View, hx: Sequence[Any], network: _Network) -> tuple[Any, list[Any]]:
    """The output, under the axes [time, batch, features] that went in, and final states."""
    graph, (size, hidden, output, layers, directions) = recording.graph, network.sizes
    lanes, features = layers * directions, directions * output
    view = _sequence(recording, view)
    recording.require("features", view.size(2), size)
    if view.features != size:
        raise Refusal(f"reads a part of the {view.features} features of a step")
    names = [graph.plain(view)]
    graph.require_time(names[0])
    states = CELLS[network.cell].states
    widths = [hidden if dim == "hidden" else output for _, dim in states]
    parts = [(state, lanes, width) for (state, _), width in zip(states, widths, strict=True)]
    network, given = _initial(recording, hx, network, parts)
    name = graph.add(network.layer, [*names, *given], (features,), network.options, network.parameters, time=True)
    finals = []
    for (state, _), width in zip(states, widths, strict=True):
        graph.values[f"{name}:{state}"] = Value((lanes * width,), False)
        axes = ((lanes,) if lanes > 1 else (), *view.axes[1:2], (width,) if width > 1 else ())
        order = np.arange(lanes * width).reshape(lanes, 1, width)
        finals.append(recording.tensor(View(f"{name}:{state}", axes, order, None)))
    return recording.value(name, (features,), view), finals


def _sequence(recording: Recording, view: View) -> View:
    """A view of [time, batch, features], where one step of a value may be without its time axis."""
    if len(view.axes) != 3:
        raise Refusal(f"expected three axes, got {list(view.shape)}")
    atoms = {atom for axis in view.axes for atom in axis}
    if view.steps is None and view.is_features(0):  # one value at every step
        if not (view.order == view.order[:1]).all():
            raise Refusal("reads features as time")
        steps, one = view.order.shape[0], replace(view.take(0, slice(0, 1)))
        name = recording.graph.plain(one)
        name = recording.graph.add(Repeat, (name,), recording.graph.values[name].features, {"steps": steps}, time=True)
        return replace(one.with_value(name, (("T",) if steps > 1 else (), *one.axes[1:])), steps=steps)
    one_step, one_row = view.steps == 1 and "T" not in atoms, "B" not in atoms
    if view.axes[0] != ("T",) and not (one_step and view.axes[0] == ()):
        raise Misread(f"reads {_said(view.axes[0])} as time")
    if view.axes[1] != ("B",) and not (one_row and view.axes[1] == ()):
        raise Misread(f"reads {_said(view.axes[1])} as batch")
    return view


def _said(axis: tuple[Any, ...]) -> str:
    return " and ".join({"B": "batch", "T": "time"}.get(atom, "features") for atom in axis) or "an axis of 1"


def _initial(
    recording: Recording, hx: Sequence[Any], network: _Network, parts: list[tuple[str, int, int]]
) -> tuple[_Network, list[str]]:
    """The layer with what it starts from, if that is constant, and the values it starts from, if it is not."""
    if not hx:
        return network, []
    if len(hx) != len(parts):
        raise Refusal(f"starts from {len(hx)} states; expected {len(parts)}")
    fixed = [None if isinstance(each, Traced) else array(each) for each in hx]
    if all(each is not None for each in fixed):
        if not any(each.any() for each in fixed):  # type: ignore[union-attr]
            return network, []
        rows = {}
        for (state, lanes, width), each in zip(parts, fixed, strict=True):
            assert each is not None
            table = np.broadcast_to(each, (lanes, BATCH, width))
            if (table != table[:, :1]).any():
                raise Refusal("starts each row from a constant of its own")
            rows[f"{state}_0"] = table[:, 0]
        options, parameters = {**network.options, "initial_state": True}, {**network.parameters, **rows}
        return network._replace(options=options, parameters=parameters), []
    names: list[Any] = []
    for (_, lanes, width), each in zip(parts, hx, strict=True):
        if not isinstance(each, Traced):
            names.append(None)
            continue
        view = each.seen
        if len(view.axes) != 3:
            raise Refusal(f"starts from a state of {len(view.axes)} axes; expected [layers, batch, features]")
        recording.require("layers", view.size(0), lanes)
        recording.require("features", view.size(2), width)
        if view.axes[1] not in (("B",), ()) or view.features != lanes * width:
            raise Refusal(f"starts from {list(view.shape)}; expected [{lanes}, batch, {width}]")
        names.append(recording.graph.plain(view))
        if recording.graph.values[names[-1]].time:
            names[-1] = _last(recording, names[-1], view)
    for place, name in enumerate(names):
        if name is None:
            other = next(each for each in names if each is not None)
            if array(hx[place]).any() or recording.graph.values[other].size != parts[place][1] * parts[place][2]:
                raise Refusal("starts from values and constants")
            names[place] = recording.graph.affine(other, 0, 0)
    return network, names


def _last(recording: Recording, name: str, view: View) -> str:
    """The value of the only step of a sequence that is one step long."""
    from ...model import Pool

    if view.steps != 1:
        raise Refusal("starts from a sequence")
    return recording.graph.add(Pool, (name,), recording.graph.values[name].features, {"mode": "last"}, time=False)


def _of_torch(
    kind: str, flat: Sequence[Any], biases: bool, layers: int, dropout: float, bidirectional: bool
) -> _Network:
    """A layer of torch.nn from the list of its parameters."""
    directions = 2 if bidirectional else 1
    each = len(flat) // (layers * directions)
    names = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if biases else [])]
    names += ["weight_hr"] * (each - len(names))
    parameters = {
        f"{name}_l{layer}{'_reverse' if reverse else ''}": array(flat[(layer * directions + reverse) * each + place])
        for layer in range(layers)
        for reverse in range(directions)
        for place, name in enumerate(names)
    }
    rows, inputs = parameters["weight_ih_l0"].shape
    hidden = rows // {"lstm": 4, "gru": 3}.get(kind, 1)
    projected = parameters["weight_hh_l0"].shape[1] if "weight_hr_l0" in parameters else 0
    options: dict[str, Any] = {"input_size": inputs, "hidden_size": hidden, "num_layers": layers, "bias": biases}
    options |= {"dropout": float(dropout) if layers > 1 else 0.0, "bidirectional": bidirectional}
    options |= {"proj_size": projected} if kind == "lstm" else {}
    options |= {"nonlinearity": kind.removeprefix("rnn_")} if kind.startswith("rnn") else {}
    layer = {"lstm": LSTM, "gru": GRU}.get(kind, RNN)
    cell = "lstm_projected" if projected else kind
    return _Network(layer, options, parameters, cell, (inputs, hidden, projected or hidden, layers, directions))


def _sequence_function(kind: str) -> None:
    """What torch.nn.LSTM and its like call, and what a graph of TorchScript or torch.export has of them."""

    @function(kind)
    def handler(recording: Recording, x: Any, second: Any, third: Any, fourth: Any, *rest: Any) -> Any:
        packed = (
            isinstance(second, torch.Tensor) and isinstance(third, (list, tuple)) and isinstance(fourth, (list, tuple))
        )
        packed = packed or (isinstance(second, Traced) and isinstance(third, torch.Tensor))
        if packed:
            hx, flat, (biases, layers, dropout, _training, bidirectional), batch_first = third, fourth, rest, False
        else:
            hx, flat, biases = second, third, fourth
            layers, dropout, _training, bidirectional, batch_first = rest
        network = _of_torch(kind, flat, biases, int(layers), dropout, bidirectional)
        view = x.seen
        if packed:
            steps = int(view.steps or 1)
            view = view.reshape([steps, int(view.size(0)) // steps, int(view.size(1))])
        elif batch_first:
            view = view.permute([1, 0, 2])
        y, states = _run(recording, view, list(hx) if isinstance(hx, (tuple, list)) else [hx], network)
        if packed:
            rows = int(y.seen.size(0)) * int(y.seen.size(1))
            y = recording.tensor(y.seen.reshape([rows, int(y.seen.size(2))]))
        elif batch_first:
            y = recording.tensor(y.seen.permute([1, 0, 2]))
        return (y, *states)


def _cell_function(kind: str) -> None:
    """What torch.nn.LSTMCell and its like call."""

    @function(f"{kind}_cell")
    def handler(recording: Recording, x: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> Any:
        flat = [w_ih, w_hh] if b_ih is None else [w_ih, w_hh, b_ih, b_hh]
        network = _of_torch(kind, flat, b_ih is not None, 1, 0.0, False)
        return _step(recording, x, list(hx) if isinstance(hx, (tuple, list)) else [hx], network)


def _step(recording: Recording, x: Any, hx: list[Any], network: _Network) -> Any:
    """A cell: a sequence of one step; its h is the output."""
    y, states = _run(recording, x.seen.unsqueeze(0), [each.unsqueeze(0) for each in hx], network)
    h = recording.tensor(y.seen.squeeze([0]))
    recording.stepped.add(y.seen.value)
    return (h, recording.tensor(states[1].seen.squeeze([0]))) if len(states) > 1 else h


for _kind in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
    _sequence_function(_kind)
    _cell_function(_kind)


def _of_recurra(recording: Recording, module: Any) -> _Network:
    """A layer of recurra.torch."""
    parameters = {n: array(getattr(module, n)) for n in module._names}
    cell, sizes = module._cell, module._sizes
    single = not hasattr(module, "num_layers")
    if single:
        parameters = {f"{name}_l0": value for name, value in parameters.items()}
    options: dict[str, Any] = {"cell": cell, "input_size": sizes.input, "hidden_size": sizes.hidden}
    options |= {"num_layers": sizes.layers, "bias": sizes.bias, "direction": sizes.direction}
    options |= {"proj_size": sizes.output if CELLS[cell].projected else 0, "proj_bias": sizes.proj_bias}
    options |= {"heads": sizes.heads, "constants": dict(module._constants) or None}
    if not single:
        options |= {"dropout": module.dropout, "zoneout": module.zoneout, "initial_state": module.initial_state}
        options["recurrent_dropout"] = module.recurrent_dropout
        parameters |= {n: array(getattr(module, n)) for n in module._initial_names}
    shape = (sizes.input, sizes.hidden, sizes.output, sizes.layers, sizes.directions)
    return _Network(Recurrent, options, parameters, cell, shape)


def _layer(recording: Recording, module: Any, input: Any, hx: Any = None, lengths: Any = None, **marks: Any) -> Any:
    if any(value not in (None, "previous", False) for value in marks.values()):
        raise Refusal(f"is called with {', '.join(marks)}; give these to the model")
    recording.packed |= lengths is not None
    hx = [] if hx is None else list(hx) if isinstance(hx, (tuple, list)) else [hx]
    network = _of_recurra(recording, module)
    packed = isinstance(input, PackedSequence)
    view = input.data.seen if packed else input.seen
    if packed:
        steps = int(view.steps or 1)
        view = view.reshape([steps, int(view.size(0)) // steps, int(view.size(1))])
    one_row = len(view.axes) == 2
    if one_row:
        view, hx = view.unsqueeze(1), [each.unsqueeze(1) for each in hx]
    swap = module.batch_first and not packed and not one_row
    y, states = _run(recording, view.permute([1, 0, 2]) if swap else view, hx, network)
    view = y.seen
    if packed:
        view = view.reshape([int(view.size(0)) * int(view.size(1)), int(view.size(2))])
    elif one_row:
        view, states = view.squeeze([1]), [each.squeeze(1) for each in states]
    y = recording.tensor(view.permute([1, 0, 2]) if swap else view)
    if packed:
        y = PackedSequence(y, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
    return y, tuple(states) if len(states) > 1 else states[0]


def _single(recording: Recording, module: Any, input: Any, hx: Any = None) -> Any:
    hx = [] if hx is None else list(hx) if isinstance(hx, (tuple, list)) else [hx]
    return _step(recording, input, hx, _of_recurra(recording, module))


for _name in modules.__all__:
    if isinstance(getattr(modules, _name), type):
        MODULES[getattr(modules, _name)] = _single if _name.endswith("Cell") else _layer
