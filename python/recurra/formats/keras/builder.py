"""Nodes of a model in the making, and what is known of the values between them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ...model import Conv1d, Conv2d, Mask, Model, Node, Reshape, Reverse, Select, Value
from ...model.structure import result_of, state_sizes
from ...recurrent import Recurrent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .source import Layer

__all__ = ["UNSURE", "Builder", "Source", "Tensor", "Undecided"]


class Source(NamedTuple):
    """What masks steps: those at which all of a value's features are this number."""

    name: str
    value: float


# Of tensors with and without a mask together: versions of Keras 3 differ in whether that has one.
UNSURE = Source("", 0.0)


class Tensor(NamedTuple):
    """A Keras tensor: the node that has its numbers, and how Keras sees them.

    Keras's masks stop at some layers, and those of a `recurra.Model` do not. So a mask is only known here, until a
    layer that heeds it gets a `Mask` node in front.
    """

    name: str
    shape: tuple[int, ...]  # of one step: (F,), (W, C) for width by channels, or () for one integer
    time: bool = True
    steps: int | None = None  # how many, where Keras knows it
    channels: bool = False  # whether the node has (C, W) where the shape is (W, C)
    mask: Source | None = None
    dirty: bool = False  # whether numbers at masked steps are not Keras's: nothing that ignores masks may follow
    under: bool = False  # whether the node has the mask already, from a Mask node before it

    @property
    def size(self) -> int:
        """Features of a step."""
        size = 1
        for each in self.shape:
            size *= each
        return size


class Undecided(NamedTuple):
    """An input of the model, before the first layer that takes it says whether it holds integers."""

    name: str
    dims: tuple[int | None, ...]  # without the batch


class Builder:
    """A model in the making."""

    def __init__(self, version: int, dtype: str) -> None:
        self.version = version
        self.dtype = dtype
        self.nodes: dict[str, Node] = {}
        self.values: dict[str, Value] = {}
        self.inputs: dict[str, Undecided] = {}
        # Nodes that only put zeros at the ends of time and width: what they do it to, and how many.
        self.pads: dict[str, tuple[str, tuple[tuple[int, int], tuple[int, int]]]] = {}
        self._settled: dict[str, Tensor] = {}
        self._masked: dict[tuple[str, Source], str] = {}

    # ------------------------------------------------------------------------------------------------- nodes

    def unique(self, name: str) -> str:
        """A name for a node that is like this one."""
        name = re.sub(r"[.:]", "_", name) or "layer"
        taken = self.nodes.keys() | self.inputs.keys()
        number, found = 1, name
        while found in taken:
            found, number = f"{name}_{number}", number + 1
        return found

    def add(self, layer: Any, inputs: Sequence[str], name: str) -> str:
        """The name of a new node of this layer, which is like `name`."""
        name = self.unique(name)
        value = result_of(layer, [self.values[each] for each in inputs])
        self.nodes[name] = Node(layer, tuple(inputs), name)
        self.values[name] = value
        if isinstance(layer, Recurrent):
            self.values |= {f"{name}:{state}": Value((size,), False) for state, size in state_sizes(layer).items()}
        return name

    def input(self, name: str, dims: tuple[int | None, ...]) -> Undecided:
        """A new input of the model."""
        made = Undecided(self.unique(name), dims)
        self.inputs[made.name] = made
        return made

    def settled(self, tensor: Tensor | Undecided, layer: Layer | None, integer: bool = False) -> Tensor:
        """An input as the layer that takes it needs it."""
        if isinstance(tensor, Tensor):
            return tensor
        name, dims = tensor
        known = self._settled.get(name)
        if known is not None:
            if integer is not self.values[name].integer:
                raise ValueError(f"input {name!r}: expected an Embedding's integers or numbers, got a use as both")
            return known
        time = len(dims) > (0 if integer else 1)
        features = dims[1:] if time else dims
        if len(features) > 2 or (integer and features) or (not integer and not features):
            why = f"input {name!r}: expected [B, T, F], [B, T, W, C], [B, F] or integers [B, T], got {list(dims)}"
            raise layer.refuse(why) if layer else ValueError(why)
        if None in features:
            raise ValueError(f"input {name!r}: expected a known number of features, got {list(dims)}")
        shape: tuple[int, ...] = tuple(int(size or 0) for size in features)
        self.values[name] = Value(shape, time, integer)
        self._settled[name] = Tensor(name, shape, time, dims[0] if time else None)
        return self._settled[name]

    # ------------------------------------------------------------------------------------------------ layouts

    def flat(self, tensor: Tensor) -> str:
        """The node with the features of a step in Keras's order, along one axis."""
        features, like = self.values[tensor.name].features, f"{tensor.name}_flat"
        if tensor.channels and min(features) > 1:
            channels, width = features
            return self.select(tensor.name, [c * width + w for w in range(width) for c in range(channels)], like)
        return self.reshape(tensor.name, (tensor.size,), like)

    def image(self, tensor: Tensor) -> str:
        """The node with channels by width, of a tensor of width by channels."""
        (width, channels), name, like = tensor.shape, tensor.name, f"{tensor.name}_channels"
        if not tensor.channels and min(width, channels) > 1:
            name = self.select(name, [w * channels + c for c in range(channels) for w in range(width)], like)
        return self.reshape(name, (channels, width), like)

    def select(self, name: str, order: list[int], like: str) -> str:
        """The node with these features of `name`; what earlier nodes only moved about is not moved twice."""
        name = self._unshaped(name)
        layer = self.nodes[name].layer if name in self.nodes else None
        if isinstance(layer, Select):
            order = [layer.indices[i] for i in order]
            name = self._unshaped((self.nodes[name].inputs or ("",))[0])
        if order == list(range(self.values[name].size)):
            return self.reshape(name, (len(order),), like)
        return self.add(Select(order), [name], like)

    def reshape(self, name: str, features: tuple[int, ...], like: str) -> str:
        """The node with the features of `name` under this shape."""
        name = self._unshaped(name)
        return name if self.values[name].features == features else self.add(Reshape(features), [name], like)

    def _unshaped(self, name: str) -> str:
        """What stands before nodes that only give features another shape."""
        while name in self.nodes and isinstance(self.nodes[name].layer, Reshape):
            name = (self.nodes[name].inputs or ("",))[0]
        return name

    def channelwise(self, tensor: Tensor) -> tuple[str, bool]:
        """The node on whose last axis in Keras a layer works, and whether it is laid out as channels by width."""
        if len(tensor.shape) == 1:
            return self.flat(tensor), False
        return self.image(tensor), True

    def unpadded(self, name: str) -> tuple[str, tuple[tuple[int, int], tuple[int, int]]]:
        """What stands before nodes that only pad, and how much they do."""
        total = ((0, 0), (0, 0))
        while name in self.pads:
            name, ends = self.pads[name]
            time, width = ((x[0] + y[0], x[1] + y[1]) for x, y in zip(total, ends, strict=True))
            total = (time, width)
        return name, total

    def reversed(self, name: str, like: str) -> str:
        """The node of the same steps from the last to the first."""
        node = self.nodes.get(name)
        if node is not None and isinstance(node.layer, Reverse) and node.inputs:
            return node.inputs[0]
        return self.add(Reverse(), [name], like)

    def masked(self, tensor: Tensor, mask: Source | None) -> str:
        """The node of a tensor under a mask."""
        if mask is None or (tensor.under and mask == tensor.mask):
            return tensor.name
        if mask.name not in self.values:
            raise ValueError(f"mask: expected one that an Embedding or Masking makes, got one of {mask.name!r}")
        key = (tensor.name, mask)
        if key not in self._masked:
            inputs = [tensor.name] if mask.name == tensor.name else [tensor.name, mask.name]
            self._masked[key] = self.add(Mask(mask.value), inputs, f"{tensor.name}_mask")
        return self._masked[key]

    # -------------------------------------------------------------------------------------------------- whole

    def model(self, outputs: Sequence[str]) -> Model:
        """The model of all nodes that the outputs need."""
        needed = [each.split(":")[0] for each in outputs]
        live: set[str] = set()
        while needed:
            name = needed.pop()
            if name in self.nodes and name not in live:
                live.add(name)
                needed += [each.split(":")[0] for each in self.nodes[name].inputs or ()]
        for name, each in self.inputs.items():
            if name not in self._settled:
                self.settled(each, None)
        inputs = {name: self.values[name] for name in self.inputs}
        nodes = [node for name, node in self.nodes.items() if name in live]
        if not nodes:
            raise ValueError("expected layers between inputs and outputs, got none")
        return Model(nodes, inputs=inputs, outputs=list(dict.fromkeys(outputs)), batch_first=True)

    def conv(self, name: str) -> Conv1d | Conv2d | None:
        """The convolution that this node is."""
        layer = self.nodes[name].layer if name in self.nodes else None
        return layer if isinstance(layer, Conv2d) else None
