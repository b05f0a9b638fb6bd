"""The last part of an import: outputs, states and lengths, and the model itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...model import AvgPool2d, Conv2d, MaxPool2d, Model, Node, Pool, Reverse, Scale
from ...recurrent import Recurrent
from ..unsupported import UnsupportedModel
from .builder import Padding
from .simplify import simplified
from .tensor import Atom, Batch, Tensor, Time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..._arrays import Array
    from .builder import Builder, Built

__all__ = ["Binding", "Imported", "finished"]


class Binding(NamedTuple):
    """How a tensor of an ONNX graph and a value of a model hold the same numbers.

    Attributes:
        value: the name of the model's input, or of the node that gives an output.
        axes: for each axis of the ONNX tensor what it is made of: "time", "batch", and sizes of features.
        timed: whether the value has time; that is 1 where no axis has it.
    """

    value: str
    axes: tuple[tuple[str | int, ...], ...]
    timed: bool

    def to_model(self, array: Array) -> Array:
        """An input of the graph as [T, B, features], without time [B, features]; [T, B] or [B] for integers."""
        order = [*(axis for name in ("time", "batch") for axis, own in enumerate(self.axes) if own == (name,))]
        front = [array.shape[axis] for axis in order]
        rest = [axis for axis in range(array.ndim) if axis not in order]
        moved = array.transpose([*order, *rest])
        present = {own[0] for own in self.axes if own and isinstance(own[0], str)}
        if "batch" not in present:
            front = [*front, 1]
        if self.timed and "time" not in present:
            front = [1, *front]
        return moved.reshape(*front, *([-1] if array.dtype.kind == "f" else []))

    def from_model(self, array: Array) -> Array:
        """An output of the graph, from [T, B, features] or [B, features]."""
        sizes = [size for own in self.axes for size in own if not isinstance(size, str)]
        front = dict(zip(("time", "batch") if self.timed else ("batch",), array.shape, strict=False))
        factors = [*front, *range(len(sizes))]
        full = array.reshape([*front.values(), *sizes])
        position = 0
        wanted, shape = [], []
        for own in self.axes:
            size = 1
            for factor in own:
                if isinstance(factor, str):
                    wanted.append(factors.index(factor))
                    size *= front[factor]
                else:
                    wanted.append(factors.index(position))
                    position += 1
                    size *= factor
            shape.append(size)
        hidden = [i for i in range(full.ndim) if i not in wanted]
        return full.transpose([*hidden, *wanted]).reshape(shape)


class Imported(NamedTuple):
    """What an ONNX file is here, as `read_onnx` returns it.

        >>> proto = recurra.Model([recurra.Node(recurra.GRU(12, 64), name="gru")]).to_onnx(states=True)
        >>> found = recurra.formats.onnx.read_onnx(proto)
        >>> list(found.inputs), list(found.state_inputs), list(found.final)
        (['x'], ['gru_h_in'], ['gru_h_out'])

    Attributes:
        model: the model; time-major calls take and give what `inputs` and `outputs` say.
        inputs, outputs: names in the file to how they are held here.
        state_inputs: names of graph inputs that are initial states, to how they are held.
        initial: for each recurrent node that has any, for each state the graph input it comes from and which of that
            one's numbers it is, [D, units]; None for zeros.
        final: names of graph outputs that are final states, to how they are held and, for each of their numbers, the
            node, the state and which of its numbers [D * units] it is.
        lengths: the graph input that holds the rows' lengths.
    """

    model: Model
    inputs: dict[str, Binding]
    outputs: dict[str, Binding]
    state_inputs: dict[str, Binding]
    initial: dict[str, list[tuple[str, Array] | None]]
    final: dict[str, tuple[Binding, list[tuple[str, int, int]]]]
    lengths: str | None

    def state(self, arrays: Mapping[str, Array]) -> dict[str, Any]:
        """What a call's `state=` is for the graph's inputs."""
        held = {name: binding.to_model(arrays[name]) for name, binding in self.state_inputs.items()}
        batch = next(iter(held.values())).shape[0] if held else 1
        result: dict[str, Any] = {}
        for node, slots in self.initial.items():
            layer = self.model.layers[node]
            directions = 2 if layer.bidirectional else 1
            states = [
                np.zeros((directions, batch, layer.hidden_size), self.model.dtype)
                if slot is None
                else np.ascontiguousarray(held[slot[0]][:, slot[1]].swapaxes(0, 1))
                for slot in slots
            ]
            result[node] = tuple(states) if len(states) > 1 else states[0]
        return result

    def final_state(self, name: str, states: Mapping[str, Any]) -> Array:
        """A graph output, from the states that a call returns."""
        binding, where = self.final[name]
        columns = []
        for node, state, index in where:
            own = states[node]
            array = own[state] if isinstance(own, tuple) else own
            units = array.shape[-1]
            columns.append(array[index // units, :, index % units])
        return binding.from_model(np.stack(columns, -1))


def finished(
    builder: Builder,
    names: list[str],
    environment: Mapping[str, Any],
    inputs: Mapping[str, Tensor],
    chosen: Mapping[str, tuple[int, int]],
) -> Imported:
    """The model of what has been built.

    Args:
        names: of the graph's outputs.
        environment: what each name of the graph is.
        inputs: what the graph's inputs are.
        chosen: which of their axes are time and batch.

    Raises:
        UnsupportedModel: an output or a state cannot be represented.
    """
    outputs: dict[str, Tensor] = {}
    for name in names:
        tensor = environment.get(name)
        if not isinstance(tensor, Tensor):
            raise UnsupportedModel(f"output {name!r}: expected what depends on an input, got a constant")
        if tensor.time is None and tensor.has(Time):
            raise UnsupportedModel(f"output {name!r}: expected a sequence, got one value repeated for each step")
        atoms = [factor for axis in tensor.axes for factor in axis if isinstance(factor, Atom)]
        outputs[name] = builder.ordered(tensor, atoms)
    final = _final_states(builder, outputs)
    lengths = _lengths(builder, environment, inputs)
    state_inputs, initial = _initial_states(builder, inputs, outputs, final)
    values = {name: tensor.source for name, tensor in outputs.items() if name not in final}
    kept_states = {node for _, where in final.values() for node, _, _ in where}
    simplified(builder, values, kept_states)
    renamed = _named_after_outputs(builder, values)
    _set_initial_states(builder)
    left = {name: v for name, v in builder.inputs.items() if name not in state_inputs and name != lengths}
    nodes = [Node(node.layer, tuple([*node.inputs, *_wired(node)]), node.name) for node in builder.nodes]
    if not nodes:
        raise UnsupportedModel("expected at least one operator that computes, got none")
    timed = [name for name in left if left[name].time]
    first = inputs[timed[0]] if timed else None
    time, batch = chosen[timed[0]] if timed else (0, 0)
    try:
        model = Model(
            nodes,
            inputs=left,
            outputs=list(dict.fromkeys(values.values())),
            batch_first=first is not None and 0 <= batch < time,
        )
    except ValueError as error:
        raise UnsupportedModel(str(error)) from None
    return Imported(
        model,
        {name: _binding(inputs[name], name) for name in left},
        {name: _binding(outputs[name], value) for name, value in values.items()},
        {name: _binding(inputs[name], name) for name in state_inputs},
        {renamed.get(node, node): slots for node, slots in initial.items()},
        {name: (_binding(outputs[name], name), where) for name, (_, where) in final.items()},
        lengths,
    )


def _binding(tensor: Tensor, value: str) -> Binding:
    def shown(factor: Any) -> str | int:
        return "time" if isinstance(factor, Time) else "batch" if isinstance(factor, Batch) else int(factor.size)

    return Binding(value, tuple(tuple(map(shown, axis)) for axis in tensor.axes), tensor.time is not None)


def _final_states(builder: Builder, outputs: dict[str, Tensor]) -> dict[str, tuple[Tensor, list[tuple[str, int, int]]]]:
    """Outputs that are nothing but final states of recurrent nodes, if there are others too."""
    letters = {node.name: [*_letters(node.layer)] for node in builder.nodes if isinstance(node.layer, Recurrent)}
    found = {}
    for name, tensor in outputs.items():
        where = []
        for source, index in builder.origins(tensor.source):
            node, _, letter = source.rpartition(":")
            if node not in letters or letter not in letters[node]:
                break
            where.append((node, letters[node].index(letter), index))
        else:
            found[name] = (tensor, where)
    return found if len(found) < len(outputs) else {}


def _letters(layer: Recurrent) -> list[str]:
    return list(layer._packed.state_shapes(()))


def _lengths(builder: Builder, environment: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> str | None:
    """The graph input that gives each row's length; whatever looks at several steps must know them then."""
    sources = {node.lengths for node in builder.nodes if node.lengths}
    if not sources:
        return None
    if len(sources) > 1 or not sources <= set(inputs):
        raise UnsupportedModel(f"sequence_lens: expected one graph input for all nodes, got {sorted(sources)}")
    for node in builder.nodes:
        layer = node.layer
        windowed = isinstance(layer, (Conv2d, MaxPool2d, AvgPool2d)) and (layer.kernel_size[0], layer.stride[0]) != (
            1,
            1,
        )
        over_time = windowed or isinstance(layer, (Pool, Reverse, Recurrent))
        if (over_time or (isinstance(layer, Padding) and (layer.before or layer.after))) and not node.lengths:
            raise UnsupportedModel(
                f"{node.label}: looks at several steps without sequence_lens, which other nodes have"
            )
    name = sources.pop()
    if any(name in node.inputs for node in builder.nodes):
        raise UnsupportedModel(f"sequence_lens: input {name!r} is also used otherwise")
    return name


def _initial_states(
    builder: Builder, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor], final: Mapping[str, Any]
) -> tuple[list[str], dict[str, list[tuple[str, Array] | None]]]:
    """Graph inputs that are nothing but initial states, and what each recurrent node has of them, which then has no
    other inputs for its states."""
    candidates = {name for name, tensor in inputs.items() if tensor.time is None and not tensor.value.integer}
    moving = ("select", "reshape", "concatenate")
    for node in builder.nodes:
        if getattr(node.layer, "kind", "") not in moving:
            candidates -= {leaf for each in node.inputs for leaf, _ in builder.origins(each)}
    for name, tensor in outputs.items():
        if name not in final:
            candidates -= {leaf for leaf, _ in builder.origins(tensor.source)}
    recurrent = [node for node in builder.nodes if any(isinstance(state, str) for state in node.states)]
    while True:
        initial: dict[str, list[tuple[str, Array] | None]] = {}
        spoiled: set[str] = set()
        for node in recurrent:
            slots = [_slot(builder, node, state) for state in node.states]
            leaves = {leaf for slot in slots if slot for leaf in slot[0]}
            simple = all(slot is None or len(slot[0]) == 1 for slot in slots)
            constant = any(isinstance(state, np.ndarray) for state in node.states)
            if simple and not constant and leaves <= candidates:
                initial[node.name] = [None if slot is None else (slot[0][0], slot[1]) for slot in slots]
            else:
                spoiled |= leaves
        if not spoiled & candidates:
            break
        candidates -= spoiled
    used = {slot[0] for slots in initial.values() for slot in slots if slot is not None}
    for node in recurrent:
        if node.name in initial:
            node.states = [None] * len(node.states)
    return [name for name in inputs if name in used], initial


def _slot(builder: Builder, node: Built, state: Any) -> tuple[list[str], Array] | None:
    """The values that a state's numbers come from, and which of theirs they are, [D, units]."""
    if not isinstance(state, str):
        return None
    origins = builder.origins(state)
    names = list(dict.fromkeys(name for name, _ in origins))
    units = node.layer.hidden_size
    return names, np.array([index for _, index in origins]).reshape(-1, units)


def _wired(node: Built) -> list[str]:
    return [state for state in node.states if isinstance(state, str)]


def _set_initial_states(builder: Builder) -> None:
    """Constant initial states become parameters; zeros beside a state that is computed are computed too."""
    for node in list(builder.nodes):
        wired = _wired(node)
        if not wired:
            if any(state is not None for state in node.states):
                node.layer = _with_initial_state(node)
            node.states = []
        elif len(wired) < len(node.states):
            for i, state in enumerate(node.states):
                if not isinstance(state, str):
                    node.states[i] = _constant_value(builder, node, wired[0], state)


def _with_initial_state(node: Built) -> Recurrent:
    layer = node.layer
    options = {name: getattr(layer, name) for name in ("input_size", "hidden_size", "bias", "direction", "constants")}
    learned = Recurrent(layer.cell, **options, initial_state=True, dtype=layer.dtype, seed=0)
    parameters = layer.state_dict()
    directions = 2 if layer.bidirectional else 1
    for letter, state in zip(_letters(layer), node.states, strict=True):
        zeros = np.zeros((directions, layer.hidden_size), layer.dtype)
        parameters[f"{letter}_0"] = zeros if state is None else state
    learned.load_state_dict(parameters)
    return learned


def _constant_value(builder: Builder, node: Built, like: str, state: Array | None) -> str:
    """A value that is the same for all rows, from one of the same size."""
    layer = Scale(builder.values[like].size, dtype=builder.dtype)
    bias = np.zeros(layer.features, builder.dtype) if state is None else state.reshape(-1)
    layer.load_state_dict({"weight": np.zeros_like(bias), "bias": bias})
    builder.hint = f"{node.name}_state"
    name = builder.add(layer, like)
    builder.nodes.insert(builder.nodes.index(node), builder.nodes.pop())
    return name


def _named_after_outputs(builder: Builder, values: dict[str, str]) -> dict[str, str]:
    """Give nodes that compute an output of the graph its name."""
    renamed: dict[str, str] = {}
    nodes = {node.name: node for node in builder.nodes}
    for name, value in values.items():
        new = re.sub(r"[.:]", "_", name)
        node = nodes.get(value)
        if (
            node is None
            or isinstance(node.layer, Recurrent)
            or value in renamed
            or new in builder.values
            or new.isdigit()
        ):
            continue
        renamed[value] = node.name = new
        builder.values[new] = builder.values[value]
    for node in builder.nodes:
        node.inputs = [renamed.get(each, each) for each in node.inputs]
        node.states = [renamed.get(each, each) if isinstance(each, str) else each for each in node.states]
    values.update({name: renamed.get(value, value) for name, value in values.items()})
    return renamed
