"""The nodes of a model while it is made: parameters and options, folded where that is exact, and then layers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...activation import Activation
from ...heads import Embedding, Linear
from ...model import (
    Add,
    AvgPool2d,
    Concatenate,
    Conv1d,
    Conv2d,
    Dropout,
    LayerNorm,
    Model,
    Multiply,
    Node,
    Reshape,
    Scale,
    Select,
    Softmax,
    Value,
)
from .view import Refusal, View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..._arrays import Array

__all__ = ["Graph", "Planned"]

_EACH_STEP = (
    Activation,
    Add,
    Concatenate,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    Multiply,
    Reshape,
    Scale,
    Select,
    Softmax,
)


@dataclass(frozen=True)
class Planned:
    """A node to be: what makes its layer, the options for that, and parameters."""

    layer: Any
    options: dict[str, Any]
    parameters: dict[str, Array]
    inputs: tuple[str, ...]

    def made(self, dtype: str) -> Any:
        """The layer."""
        if not self.parameters:
            return self.layer(**self.options)
        layer = self.layer(**self.options, dtype=dtype)
        layer.load_state_dict({n: np.ascontiguousarray(a, dtype) for n, a in self.parameters.items()})
        return layer


@dataclass
class Graph:
    """What has been planned so far.

    Attributes:
        values: names of inputs and nodes to shapes.
        nodes: names to nodes, in order.
        place: where in the module we are; new nodes are called after it.
    """

    values: dict[str, Value] = field(default_factory=dict)
    nodes: dict[str, Planned] = field(default_factory=dict)
    place: str = ""
    operation: str = ""

    def add(
        self,
        layer: Any,
        inputs: Sequence[str],
        features: tuple[int, ...],
        options: dict[str, Any] | None = None,
        parameters: dict[str, Array] | None = None,
        time: bool | None = None,
    ) -> str:
        """Plan a node; returns its name. Without `time` it has time where an input has."""
        start = self.place.replace(".", "_").replace(":", "_") or getattr(layer, "kind", layer.__name__.lower())
        name, count = start, 1
        while name in self.values:
            count += 1
            name = f"{start}_{count}"
        self.nodes[name] = Planned(layer, options or {}, parameters or {}, tuple(inputs))
        timed = any(self.values[each].time for each in inputs) if time is None else time
        self.values[name] = Value(features, timed)
        return name

    def plain(self, view: View) -> str:
        """The value whose features are those of the view, in its order."""
        value = view.value
        if view.pad != (0, 0):
            value = self._cut(value, view.pad)
        indices = view.order.ravel()
        if len(indices) == self.values[value].size and (indices == np.arange(len(indices))).all():
            return value
        if self.values[value].integer:
            raise Refusal("selects integers")
        return self.add(Select, (value,), (len(indices),), {"indices": [int(index) for index in indices]})

    def require_time(self, name: str) -> None:
        """Refuse what is the same at every step, where a sequence is needed."""
        if not self.values[name].time:
            raise Refusal("needs a sequence, and got one value for each row")

    def affine(self, name: str, alpha: float, beta: float) -> str:
        """alpha x + beta; one behind another is one."""
        if (inner := self._applied(name, "affine")) is not None:
            source, a, b = inner
            return self.affine(source, alpha * a, alpha * b + beta)
        tanh = self._applied(name, "tanh") or self._applied(name, "scaled_tanh")
        if tanh is not None and beta == 0:
            source, a, b = tanh
            return self.activation(source, "scaled_tanh", float(alpha * (a or 1.0)), float(b or 1.0))
        return self.activation(name, "affine", float(alpha), float(beta))

    def tanh(self, name: str) -> str:
        """Its hyperbolic tangent; that of a multiple is one function."""
        inner = self._applied(name, "affine")
        if inner is not None and inner[2] == 0:
            return self.activation(inner[0], "scaled_tanh", 1.0, inner[1])
        return self.activation(name, "tanh")

    def hard_sigmoid(self, name: str, alpha: float, beta: float) -> str:
        """min(max(alpha x + beta, 0), 1); that of a multiple plus a number is one function."""
        if (inner := self._applied(name, "affine")) is not None:
            source, a, b = inner
            return self.activation(source, "hard_sigmoid", alpha * a, alpha * b + beta)
        return self.activation(name, "hard_sigmoid", alpha, beta)

    def _applied(self, name: str, function: str) -> tuple[str, Any, Any] | None:
        """What a node applies this function to, its alpha and beta; None if it does not."""
        node = self.nodes.get(name)
        if node is None or node.layer is not Activation or node.options["function"] != function:
            return None
        return node.inputs[0], node.options["alpha"], node.options["beta"]

    def shaped(self, name: str, features: tuple[int, ...]) -> str:
        """A value, its features seen under another shape."""
        if self.values[name].features == features:
            return name
        return self.add(Reshape, (name,), features, {"features": features})

    def activation(self, name: str, function: str, alpha: float | None = None, beta: float | None = None) -> str:
        """A function of every number."""
        options = {"function": function, "alpha": alpha, "beta": beta}
        return self.add(Activation, (name,), self.values[name].features, options)

    def scaled(self, name: str, weight: Array, bias: Array) -> str:
        """Every feature times a number plus a number, folded into a Linear or a convolution that it comes from."""
        node = self.nodes.get(name)
        channels, width = (*self.values[name].features, 1)[:2]
        weights, biases = weight.reshape(channels, width), bias.reshape(channels, width)
        foldable = node is not None and node.layer in (Linear, Conv1d, Conv2d)
        if foldable and (weights == weights[:, :1]).all() and (biases == biases[:, :1]).all():
            assert node is not None
            w, b = weights[:, 0], biases[:, 0]
            old = node.parameters["weight"].astype("float64")
            before = node.parameters.get("bias", np.zeros(channels)).astype("float64")
            parameters = {"weight": old * w.reshape(-1, *[1] * (old.ndim - 1)), "bias": before * w + b}
            features = self.values[name].features
            return self.add(node.layer, node.inputs, features, {**node.options, "bias": True}, parameters)
        if node is not None and node.layer is Scale:
            weight, bias = node.parameters["weight"] * weight, node.parameters["bias"] * weight + bias
            name = node.inputs[0]
        size, parameters = self.values[name].size, {"weight": weight, "bias": bias}
        return self.add(Scale, (name,), self.values[name].features, {"features": size}, parameters)

    def _cut(self, name: str, pad: tuple[int, int]) -> str:
        """A value without some steps at its beginning and end: what makes it pads as much less."""
        node = self.nodes.get(name)
        if max(pad) > 0:
            raise Refusal("pads over time, which only a convolution behind it can take")
        if node is not None and node.layer in (Conv1d, Conv2d, AvgPool2d):
            padding = node.options["padding"]
            sides = padding if node.layer is Conv1d else padding[0]
            stride = node.options["stride"]
            stride = stride if node.layer is Conv1d else stride[0]
            cut = (sides[0] + stride * pad[0], sides[1] + stride * pad[1])
            if min(cut) >= 0 and node.layer is not AvgPool2d and (stride == 1 or pad[1] == 0):
                options = {**node.options, "padding": cut if node.layer is Conv1d else (cut, padding[1])}
                return self.add(node.layer, node.inputs, self.values[name].features, options, node.parameters)
        if node is not None and node.layer in _EACH_STEP:
            inputs = [self._cut(each, pad) if self.values[each].time else each for each in node.inputs]
            return self.add(node.layer, inputs, self.values[name].features, node.options, node.parameters)
        raise Refusal("cuts steps off; only those that a convolution's padding has added can be cut")

    def model(self, inputs: dict[str, Value], outputs: Sequence[str], dtype: str, batch_first: bool) -> Model:
        """The model of all that the outputs need."""
        needed, wanted = set(), [name.partition(":")[0] for name in outputs]
        while wanted:
            name = wanted.pop()
            if name not in needed and name in self.nodes:
                needed.add(name)
                wanted += [each.partition(":")[0] for each in self.nodes[name].inputs]
        nodes = [
            Node(planned.made(dtype), planned.inputs, name) for name, planned in self.nodes.items() if name in needed
        ]
        used = {each for node in nodes for each in node.inputs or ()} | set(outputs)
        inputs = {name: value for name, value in inputs.items() if name in used}
        return Model(nodes, inputs=inputs, outputs=outputs, batch_first=batch_first)

    def without_inputs(self, name: str) -> None:
        """A recurrent node whose initial state is no longer an input of the model."""
        self.nodes[name] = replace(self.nodes[name], inputs=self.nodes[name].inputs[:1])
