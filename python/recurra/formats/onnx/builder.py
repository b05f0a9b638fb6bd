"""The model while it is put together: nodes, what each value's numbers come from, and what is merged at the end."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...model import Reshape, Select, Value
from ...model.structure import kind_of, result_of, state_sizes
from ...recurrent import Recurrent
from ..unsupported import UnsupportedModel
from .tensor import Atom, Tensor, Time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..._arrays import Array
    from .tensor import Axis

__all__ = ["LARGEST_STEP", "Builder", "Built", "Padding", "plain_name"]

LARGEST_STEP = 1 << 22  # numbers that a step may have: a small damaged file must not ask for a large model


@dataclass(frozen=True)
class Padding:
    """Zeros before and after a sequence; negative for steps that are cut off. It becomes part of a convolution.

    Attributes:
        before, after: over time.
        left, right: over the width of a step's features.
    """

    before: int = 0
    after: int = 0
    left: int = 0
    right: int = 0


@dataclass
class Built:
    """A node of the model to be.

    Attributes:
        states: of a recurrent node, for each state the name of a value, an array [D, units], or None for zeros.
        lengths: the graph input that holds the rows' lengths, where the node knows them.
        label: the ONNX node that it comes from.
    """

    name: str
    layer: Any
    inputs: list[str]
    value: Value
    states: list[str | Array | None] = field(default_factory=list)
    lengths: str | None = None
    label: str = ""


class Builder:
    """Nodes in the order in which they run, and what they give."""

    def __init__(self, inputs: Mapping[str, Value], dtype: str) -> None:
        self.inputs = dict(inputs)
        self.dtype = dtype
        self.nodes: list[Built] = []
        self.values: dict[str, Value] = dict(inputs)
        self.times: list[Time] = []  # of all sequences, the inputs' first
        self.label = ""  # of the ONNX node at work
        self.hint = ""

    def add(self, layer: Any, *inputs: str) -> str:
        """The name of what `layer` makes of `inputs`."""
        if isinstance(layer, Padding):
            value = self.values[inputs[0]]
            if not value.time:
                raise UnsupportedModel("pads: expected a sequence, got one value for each row")
            if layer.left or layer.right:
                channels, width = value.features
                value = value._replace(features=(channels, width + layer.left + layer.right))
        else:
            try:
                value = result_of(layer, [self.values[each] for each in inputs])
            except ValueError as error:
                raise UnsupportedModel(str(error)) from None
        if value.size > LARGEST_STEP:
            raise UnsupportedModel(f"expected at most {LARGEST_STEP} features a step, got {value.features}")
        name = self._name(layer)
        self.nodes.append(Built(name, layer, list(inputs), value, label=self.label))
        self.values[name] = value
        if isinstance(layer, Recurrent):
            self.values |= {f"{name}:{state}": Value((size,), False) for state, size in state_sizes(layer).items()}
        return name

    def _name(self, layer: Any) -> str:
        kind = "pad" if isinstance(layer, Padding) else kind_of(layer)
        if kind in ("select", "reshape", "pad") or not self.hint:
            count = sum(node.name.startswith(kind) for node in self.nodes)
            name = f"{kind}{count}"
        else:
            name = self.hint
        number, unique = 1, name
        while unique in self.values:
            number += 1
            unique = f"{name}_{number}"
        return unique

    def tensor(self, source: str, order: list[Atom], axes: list[Axis], time: Time | None) -> Tensor:
        """A view of a value of this builder."""
        return Tensor(source, self.values[source], tuple(order), tuple(axes), time)

    def moved(self, tensor: Tensor, source: str, axis: int, time: Time) -> Tensor:
        """A view of `source` that is like `tensor` but for its steps."""
        if time not in self.times:
            self.times.append(time)
        axes = [*tensor.axes[:axis], (time,), *tensor.axes[axis + 1 :]]
        return Tensor(source, self.values[source], tensor.order, tuple(axes), time)

    def ordered(self, tensor: Tensor, order: list[Atom]) -> Tensor:
        """The same numbers with the features in another order."""
        if tuple(order) == tensor.order:
            return tensor
        positions = np.arange(tensor.value.size).reshape([atom.size for atom in tensor.order])
        indices = positions.transpose([tensor.order.index(atom) for atom in order]).reshape(-1)
        source = self.add(Select(indices.tolist()), tensor.source)
        return replace(tensor, source=source, value=self.values[source], order=tuple(order))

    def in_axis_order(self, tensor: Tensor) -> Tensor:
        """With features in the order of the axes, and one factor for each axis that has any."""
        atoms = [factor for axis in tensor.axes for factor in axis if isinstance(factor, Atom)]
        tensor = self.ordered(tensor, atoms)
        merged: list[Atom] = []
        axes: list[Axis] = []
        for axis in tensor.axes:
            own = [factor for factor in axis if isinstance(factor, Atom)]
            if own and len(own) < len(axis):  # time or batch stands in the same axis
                merged += own
                axes.append(axis)
            else:
                whole = [Atom(math.prod(atom.size for atom in own))] if own else []
                merged += whole
                axes.append(tuple(whole) or axis)
        return replace(tensor, order=tuple(merged), axes=tuple(axes))

    def selected(self, tensor: Tensor, axis: int, indices: list[int]) -> Tensor:
        """Some of the features of one axis."""
        own = tensor.atoms(axis)
        size = math.prod(atom.size for atom in own)
        if any(not 0 <= index < size for index in indices) or not indices:
            raise UnsupportedModel(f"expected indices below {size}, got {indices[:8]}")
        rest = [atom for atom in tensor.order if atom not in own]
        if own:
            at = min(tensor.order.index(atom) for atom in own)
        else:
            at = sum(isinstance(factor, Atom) for each in tensor.axes[:axis] for factor in each)
        before, after = rest[:at], rest[at:]
        positions = np.arange(tensor.value.size).reshape([atom.size for atom in tensor.order])
        positions = positions.transpose([tensor.order.index(atom) for atom in (*before, *own, *after)])
        positions = positions.reshape(math.prod(atom.size for atom in before), size, -1)[:, indices].reshape(-1)
        new = (Atom(len(indices)),) if len(indices) > 1 else ()
        source = tensor.source
        if not np.array_equal(positions, np.arange(tensor.value.size)):
            source = self.add(Select(positions.tolist()), source)
        axes = [*tensor.axes[:axis], new, *tensor.axes[axis + 1 :]]
        return Tensor(source, self.values[source], (*before, *new, *after), tuple(axes), tensor.time)

    def shaped(self, tensor: Tensor, *groups: list[Atom]) -> tuple[str, tuple[int, ...]]:
        """The value with features (C, W) or (F,), each of which is made of these factors."""
        ordered = self.ordered(tensor, [atom for group in groups for atom in group])
        features = tuple(math.prod(atom.size for atom in group) for group in groups)
        source = ordered.source
        if self.values[source].features != features:
            source = self.add(Reshape(features), source)
        return source, features

    def origins(self, name: str) -> list[tuple[str, int]]:
        """For each number of a value, which one of a graph input, a final state, or a node that computes it is."""
        found: dict[str, list[tuple[str, int]]] = {}
        nodes = {node.name: node for node in self.nodes}

        def of(each: str) -> list[tuple[str, int]]:
            if each not in found:
                node = nodes.get(each)
                kind = None if node is None or isinstance(node.layer, Padding) else kind_of(node.layer)
                if node is None or kind not in ("select", "reshape", "concatenate"):
                    found[each] = [(each, i) for i in range(self.values[each].size)]
                elif kind == "select":
                    below = of(node.inputs[0])
                    found[each] = [below[i] for i in node.layer.indices]
                elif kind == "reshape":
                    found[each] = of(node.inputs[0])
                else:
                    found[each] = [one for source in node.inputs for one in of(source)]
            return found[each]

        return of(name)


def plain_name(node_name: str, op: str) -> str:
    """A node's name in a model from that in a file: "/encoder/rnn/LSTM" is "encoder/rnn", "node_LSTM_7" is "lstm_7"."""
    if match := re.fullmatch(r"node_(\w+)", node_name):
        return match.group(1).lower()
    parts = [part for part in re.sub(r"[.:]", "_", node_name).split("/") if part]
    if len(parts) > 1 and (match := re.fullmatch(rf"{re.escape(op)}(_\d+)?", parts[-1])):
        parts = [*parts[:-2], parts[-2] + (match.group(1) or "")]
    return "/".join(parts)
