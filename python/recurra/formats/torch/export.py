"""A module of PyTorch that computes what a model computes."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..unsupported import UnsupportedModel
from .cells import recurrent_module

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...model import Model, Value

__all__ = ["to_torch"]


def to_torch(model: Model) -> torch.fx.GraphModule:
    """A torch.nn.Module, in evaluation, that computes what a model does for whole sequences without lengths.

        >>> model = recurra.Model([recurra.GRU(12, 64), recurra.Linear(64, 9)], batch_first=True)
        >>> recurra.formats.torch.to_torch(model)(torch.randn(8, 100, 12)).shape
        torch.Size([8, 100, 9])

    It takes the model's inputs in their order, batched, and returns a tensor, or a dict of several outputs. Recurrent
    layers start from zeros, or what they have learned. They are torch.nn's where those compute the same, else
    recurra.torch's. `module.code` shows what is done between them.

    Raises:
        UnsupportedModel: a node that has no counterpart in PyTorch: a Mask, a quantized layer.
    """
    writer = _Writer(model)
    for node in model._nodes:
        writer.place(node)
    found = {name: writer.values[name] for name in model.outputs}
    writer.graph.output(found if len(found) > 1 else found[model.outputs[0]])
    module = torch.fx.GraphModule(writer.root, writer.graph, "Model")
    return module.to(torch.float64 if str(model.dtype) == "float64" else torch.float32).eval()


class _Writer:
    """What has been written so far: values are [B, T, *features], or [T, B, *features], or [B, *features]."""

    def __init__(self, model: Model) -> None:
        self.model, self.root, self.graph = model, nn.Module(), torch.fx.Graph()
        self.shapes: dict[str, Value] = dict(model.inputs)
        self.values: dict[str, Any] = {name: self.graph.placeholder(name) for name in model.inputs}
        self.batch, self.time = (0, 1) if model.batch_first else (1, 0)

    def place(self, node: Any) -> None:
        """Write one node."""
        kind = _kind(node.layer)
        handler = _HANDLERS.get(kind)
        if handler is None:
            raise UnsupportedModel(f"torch: node {node.name!r}, {kind}: PyTorch has no counterpart")
        try:
            self.values[node.name] = handler(self, node)
        except _Missing as error:
            raise UnsupportedModel(f"torch: node {node.name!r}, {kind}: {error}") from None
        self.shapes[node.name] = node.value

    def call(self, name: str, module: nn.Module, *args: Any) -> Any:
        """A module at work, with the name of its node."""
        self.root.add_module(name, module)
        return self.graph.call_module(name, args)

    def method(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """A method of a tensor."""
        return self.graph.call_method(name, args, kwargs)

    def function(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A function of tensors."""
        return self.graph.call_function(function, args, kwargs)

    def flat(self, name: str) -> Any:
        """A value with one axis of features."""
        value = self.shapes[name]
        return self.values[name] if len(value.features) == 1 else self._flattened(name, value)

    def _flattened(self, name: str, value: Value) -> Any:
        if not value.features:
            return self.method("unsqueeze", self.values[name], -1)
        return self.method("flatten", self.values[name], 2 if value.time else 1)

    def shaped(self, tensor: Any, value: Value) -> Any:
        """A tensor with one axis of features under the shape of a value."""
        if len(value.features) == 1:
            return tensor
        return self.method("unflatten", tensor, 2 if value.time else 1, value.features)

    def channels(self, name: str) -> Any:
        """A sequence as a window over two axes wants it: [B, C, T, W]."""
        value = self.shapes[name]
        tensor = self.values[name]
        if len(value.features) == 1:
            tensor = self.method("unsqueeze", tensor, -1)
        return self.method("permute", tensor, self.batch, 2, self.time, 3)

    def sequence(self, tensor: Any) -> Any:
        """[B, C, T, W] as a sequence again."""
        return self.method("permute", tensor, *((0, 2) if self.model.batch_first else (2, 0)), 1, 3)

    def at_every_step(self, name: str, like: str | None) -> Any:
        """A flat value; one without time is seen at every step of another, if that has time."""
        tensor = self.flat(name)
        if like is None or self.shapes[name].time:
            return tensor
        steps = self.method("size", self.values[like], self.time)
        sizes = (-1, steps, -1) if self.model.batch_first else (steps, -1, -1)
        return self.method("expand", self.method("unsqueeze", tensor, self.time), *sizes)


class _Missing(Exception):  # noqa: N818
    """What PyTorch lacks."""


def _kind(layer: Any) -> str:
    from ...model.structure import kind_of

    return kind_of(layer)


def _parameters(module: nn.Module, layer: Any) -> nn.Module:
    """The module with a layer's parameters."""
    with torch.no_grad():
        for name, array in layer.state_dict().items():
            own = getattr(module, name)
            setattr(module, name, nn.Parameter(torch.from_numpy(array).reshape(own.shape)))
    return module


def _linear(writer: _Writer, node: Any) -> Any:
    layer = node.layer
    module = nn.Linear(layer.in_features, layer.out_features, "bias" in layer.state_dict())
    return writer.call(node.name, _parameters(module, layer), writer.flat(node.inputs[0]))


def _embedding(writer: _Writer, node: Any) -> Any:
    module = nn.Embedding(node.layer.num_embeddings, node.layer.embedding_dim)
    return writer.call(node.name, _parameters(module, node.layer), writer.values[node.inputs[0]])


def _activation(writer: _Writer, node: Any) -> Any:
    layer, x = node.layer, writer.values[node.inputs[0]]
    name, alpha, beta = layer.function, layer.alpha, layer.beta
    if name == "affine":
        return writer.function(operator.add, writer.function(operator.mul, x, alpha), beta)
    if name == "scaled_tanh":
        inner = writer.call(node.name, nn.Tanh(), writer.function(operator.mul, x, beta))
        return writer.function(operator.mul, inner, alpha)
    if name == "hard_sigmoid" and (alpha, beta) != (1 / 6, 0.5):
        inner = writer.function(operator.add, writer.function(operator.mul, x, alpha), beta)
        return writer.call(node.name, nn.Hardtanh(0.0, 1.0), inner)
    if name == "thresholded_relu" and alpha < 0:
        raise _Missing(f"alpha={alpha} is negative")
    modules: dict[str, Callable[[], nn.Module]] = {
        "tanh": nn.Tanh,
        "sigmoid": nn.Sigmoid,
        "relu": nn.ReLU,
        "linear": nn.Identity,
        "hard_sigmoid": nn.Hardsigmoid,
        "softsign": nn.Softsign,
        "softplus": nn.Softplus,
        "leaky_relu": lambda: nn.LeakyReLU(alpha),
        "elu": lambda: nn.ELU(alpha),
        "thresholded_relu": lambda: nn.Threshold(alpha, 0.0),
    }
    return writer.call(node.name, modules[name](), x)


def _softmax(writer: _Writer, node: Any) -> Any:
    module = nn.LogSoftmax(dim=-1) if node.layer.log else nn.Softmax(dim=-1)
    return writer.shaped(writer.call(node.name, module, writer.flat(node.inputs[0])), node.value)


def _sqrt(writer: _Writer, node: Any) -> Any:
    return writer.function(torch.sqrt, writer.values[node.inputs[0]])


def _layer_norm(writer: _Writer, node: Any) -> Any:
    there = node.layer.state_dict()
    if "bias" in there and "weight" not in there:
        raise _Missing("it has a bias, and no weight")
    own = nn.LayerNorm(node.layer.features, node.layer.eps, "weight" in there, bias="bias" in there)
    module = _parameters(own, node.layer)
    return writer.shaped(writer.call(node.name, module, writer.flat(node.inputs[0])), node.value)


def _scale(writer: _Writer, node: Any) -> Any:
    holder = nn.Module()
    for name, array in node.layer.state_dict().items():
        holder.register_parameter(name, nn.Parameter(torch.from_numpy(array)))
    writer.root.add_module(node.name, holder)
    weight, bias = (writer.graph.get_attr(f"{node.name}.{name}") for name in ("weight", "bias"))
    scaled = writer.function(operator.mul, writer.flat(node.inputs[0]), weight)
    return writer.shaped(writer.function(operator.add, scaled, bias), node.value)


def _pool(writer: _Writer, node: Any) -> Any:
    x, time = writer.values[node.inputs[0]], writer.time
    if node.layer.mode in ("max", "mean"):
        return writer.method("amax" if node.layer.mode == "max" else "mean", x, time)
    return writer.method("select", x, time, -1 if node.layer.mode == "last" else 0)


def _dropout(writer: _Writer, node: Any) -> Any:
    return writer.call(node.name, nn.Dropout(node.layer.p), writer.values[node.inputs[0]])


def _select(writer: _Writer, node: Any) -> Any:
    return writer.function(operator.getitem, writer.flat(node.inputs[0]), (Ellipsis, list(node.layer.indices)))


def _reshape(writer: _Writer, node: Any) -> Any:
    return writer.shaped(writer.flat(node.inputs[0]), node.value)


def _reverse(writer: _Writer, node: Any) -> Any:
    return writer.method("flip", writer.values[node.inputs[0]], writer.time)


def _repeat(writer: _Writer, node: Any) -> Any:
    sizes = [-1, node.layer.steps] if writer.model.batch_first else [node.layer.steps, -1]
    tensor = writer.method("unsqueeze", writer.values[node.inputs[0]], writer.time)
    return writer.method("expand", tensor, *sizes, *[-1] * len(node.value.features))


def _elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    def handler(writer: _Writer, node: Any) -> Any:
        like = next((name for name in node.inputs if writer.shapes[name].time), None)
        tensors = [writer.at_every_step(name, like) for name in node.inputs]
        result = tensors[0]
        for tensor in tensors[1:]:
            result = writer.function(function, result, tensor)
        return writer.shaped(result, node.value)

    return handler


def _concatenate(writer: _Writer, node: Any) -> Any:
    like = next((name for name in node.inputs if writer.shapes[name].time), None)
    tensors = [writer.at_every_step(name, like) for name in node.inputs]
    return writer.shaped(writer.function(torch.cat, tensors, -1), node.value)


def _padded(writer: _Writer, tensor: Any, padding: Any) -> tuple[Any, tuple[int, ...]]:
    """A tensor whose last axes are padded where both sides differ, and how much the module pads each itself."""
    if all(before == after for before, after in padding):
        return tensor, tuple(before for before, _ in padding)
    own = tuple(0 if before != after else before for before, after in padding)
    sides = [side for pair in reversed(padding) for side in (pair if pair[0] != pair[1] else (0, 0))]
    return writer.function(nn.functional.pad, tensor, sides), own


def _conv1d(writer: _Writer, node: Any) -> Any:
    layer = node.layer
    tensor = writer.method("permute", writer.flat(node.inputs[0]), writer.batch, 2, writer.time)
    tensor, padding = _padded(writer, tensor, layer.padding[:1])
    bias = "bias" in layer.state_dict()
    window = layer.kernel_size[0], layer.stride[0], padding[0], layer.dilation[0]
    module = nn.Conv1d(layer.in_channels, layer.out_channels, *window, layer.groups, bias)
    result = writer.call(node.name, _parameters(module, layer), tensor)
    return writer.method("permute", result, *((0, 2) if writer.model.batch_first else (2, 0)), 1)


def _conv2d(writer: _Writer, node: Any) -> Any:
    layer = node.layer
    tensor, padding = _padded(writer, writer.channels(node.inputs[0]), layer.padding)
    bias = "bias" in layer.state_dict()
    window: dict[str, Any] = {n: getattr(layer, n) for n in ("kernel_size", "stride", "dilation", "groups")}
    module = nn.Conv2d(layer.in_channels, layer.out_channels, padding=padding, bias=bias, **window)  # type: ignore[arg-type]
    return writer.sequence(writer.call(node.name, _parameters(module, layer), tensor))


def _pool2d(kind: Any) -> Callable[..., Any]:
    def handler(writer: _Writer, node: Any) -> Any:
        if any(before != after for before, after in node.layer.padding):
            raise _Missing(f"its padding {node.layer.padding} differs before and after")
        padding = tuple(before for before, _ in node.layer.padding)
        module = kind(node.layer.kernel_size, node.layer.stride, padding)
        return writer.sequence(writer.call(node.name, module, writer.channels(node.inputs[0])))

    return handler


def _recurrent(writer: _Writer, node: Any) -> Any:
    layer = node.layer
    try:
        module = recurrent_module(layer, writer.model.batch_first)
    except ValueError as error:
        raise _Missing(str(error)) from None
    args: list[Any] = [writer.flat(node.inputs[0])]
    lanes = layer.num_layers * (2 if layer.bidirectional else 1)
    names = list(layer._packed.state_shapes(()))
    if len(node.inputs) > 1:
        states = [writer.method("unflatten", writer.values[each], 1, (lanes, -1)) for each in node.inputs[1:]]
        states = [writer.method("contiguous", writer.method("transpose", each, 0, 1)) for each in states]
        args.append(tuple(states) if len(states) > 1 else states[0])
    result = writer.call(node.name, module, *args)
    for place, name in enumerate(names):
        full = f"{node.name}:{name}"
        if any(full in other.inputs for other in writer.model._nodes) or full in writer.model.outputs:
            state = writer.function(operator.getitem, result, 1)
            state = state if len(names) == 1 else writer.function(operator.getitem, state, place)
            writer.values[full] = writer.method("flatten", writer.method("transpose", state, 0, 1), 1)
            writer.shapes[full] = node.value._replace(features=(-1,), time=False)
    return writer.function(operator.getitem, result, 0)


_HANDLERS: dict[str, Callable[..., Any]] = {
    "recurrent": _recurrent,
    "linear": _linear,
    "embedding": _embedding,
    "activation": _activation,
    "softmax": _softmax,
    "sqrt": _sqrt,
    "layer_norm": _layer_norm,
    "scale": _scale,
    "pool": _pool,
    "dropout": _dropout,
    "select": _select,
    "reshape": _reshape,
    "reverse": _reverse,
    "repeat": _repeat,
    "add": _elementwise(operator.add),
    "multiply": _elementwise(operator.mul),
    "concatenate": _concatenate,
    "conv1d": _conv1d,
    "conv2d": _conv2d,
    "max_pool2d": _pool2d(nn.MaxPool2d),
    "avg_pool2d": _pool2d(nn.AvgPool2d),
}
