"""Models as JSON of RTNeural."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._options import shown
from ...activation import Activation
from ...heads import Linear
from ...model import Add, Conv1d, Conv2d, Dropout, Model, Reshape, Scale, Select, Softmax
from ...recurrent import Recurrent
from ..files import as_path, replace
from ..unsupported import UnsupportedModel

if TYPE_CHECKING:
    import os

    from ..._arrays import Array

__all__ = ["to_rtneural"]


def to_rtneural(model: Model, path: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """The model as JSON of RTNeural, for its `json_parser::parseJson`.

        >>> model = recurra.Model([recurra.LSTM(1, 16), recurra.Linear(16, 1)])
        >>> file = recurra.formats.rtneural.to_rtneural(model, "amp.json")
        >>> [layer["type"] for layer in file["layers"]]
        ['lstm', 'dense']

    It holds chains of Linear, Conv1d and Conv2d (causal, without a stride over time), LSTM, GRU, activations (tanh,
    sigmoid, relu, leaky_relu, elu), Softmax, Scale (as a batch normalisation) and Dropout, which is left out. A Conv2d
    over channels by width may follow the input only if there is one channel. Where the input is added to the last
    layer's output, or a gain stands around the network, as `load_rtneural` reads it from AIDA-X, AIDA-X can read it.

    Args:
        model: of one input and one output.
        path: where to write the file; None for nowhere.

    Returns:
        What `json.dump` writes.

    Raises:
        UnsupportedModel: RTNeural has nothing like a node.
        ValueError: a parameter is not finite.
        OSError: the file cannot be written.
    """
    if not isinstance(model, Model):
        raise TypeError(f"model: expected a recurra.Model, got {shown(model)}")
    file = None if path is None else as_path("path", path)
    nodes = list(model._nodes)
    (name, value), *others = model.inputs.items()
    if others or value.integer or not value.time or model.outputs != (nodes[-1].name,):
        raise UnsupportedModel("RTNeural: expected a model of one sequence in and one out, that of the last node")
    around = _around(name, value.size, nodes)
    writer = _Writer(nodes[0].inputs[0] if nodes else name, value.size)
    features = value.features
    i = 0
    while i < len(nodes):
        node = nodes[i]
        if (alpha := _prelu(nodes, i)) is not None:
            writer.prelu(alpha)
            i += 5
        else:
            _require_chain(node, writer.last)
            writer.node(node, nodes[i + 1] if i + 1 < len(nodes) else None, features)
            i += 1
        writer.last, features = nodes[i - 1].name, nodes[i - 1].value.features
    if writer.plane is not None:
        channels, width = writer.plane
        raise UnsupportedModel(
            f"RTNeural: the last node gives {channels} channels by {width}, where RTNeural has width by channels: put "
            "a Select behind it"
        )
    found = {"in_shape": [None, None, *value.features], "layers": writer.layers, **around}
    if file is not None:
        replace(file, [json.dumps(found, allow_nan=False).encode()])
    return found


class _Writer:
    """Layers as they come.

    Attributes:
        last: the node before.
        plane: channels and width where a step's numbers are in this order, and RTNeural's are width by channels.
    """

    def __init__(self, last: str, width: int) -> None:
        self.layers: list[dict[str, Any]] = []
        self.last, self.width = last, width
        self.plane: tuple[int, int] | None = None

    def node(self, node: Any, following: Any, features: tuple[int, ...]) -> None:
        """One behind a value of these features."""
        layer = node.layer
        if isinstance(layer, Recurrent):
            self.recurrent(node.name, layer)
        elif isinstance(layer, Linear):
            parts = layer.state_dict()
            weights = [self.columns(parts["weight"]).T] + ([parts["bias"]] if "bias" in parts else [])
            self.add(node.name, "dense", layer.out_features, weights)
        elif isinstance(layer, Conv1d):
            self.conv1d(node.name, layer)
        elif isinstance(layer, Conv2d):
            self.conv2d(node.name, layer, features)
        elif isinstance(layer, Activation):
            self.activation(node.name, layer)
        elif isinstance(layer, Softmax) and not layer.log:
            self.function("softmax")
        elif isinstance(layer, Scale):
            weight, bias = (self.columns(layer.state_dict()[name]) for name in ("weight", "bias"))
            weights = [weight, bias, np.zeros(layer.features), np.ones(layer.features)]
            self.add(node.name, "batchnorm", layer.features, weights, {"epsilon": 0.0}, keep_plane=True)
        elif isinstance(layer, Select):
            self.select(node, following)
        elif not isinstance(layer, (Dropout, Reshape)):
            raise _refusal(node.name, shown(layer))

    def add(
        self,
        name: str,
        kind: str,
        width: int,
        weights: list[Array],
        attributes: dict[str, Any] | None = None,
        *,
        keep_plane: bool = False,
    ) -> None:
        if not all(np.isfinite(array).all() for array in weights):
            raise ValueError(f"RTNeural: node {name!r}: expected finite parameters, got NaN or an infinity")
        shape = [None, None, width]
        entries = {"type": kind, "activation": "", "shape": shape, **(attributes or {})}
        self.layers.append(entries | {"weights": [array.astype("float64").tolist() for array in weights]})
        self.width, self.plane = width, self.plane if keep_plane else None

    def columns(self, array: Array) -> Array:
        """With the last axis in RTNeural's order."""
        return array if self.plane is None else array[..., _turned(*self.plane)]

    def recurrent(self, name: str, layer: Recurrent) -> None:
        plain = layer.cell in ("lstm", "gru") and not _finite(layer.constants)
        if not plain or layer.direction != "forward" or layer.initial_state or layer.precision:
            raise _refusal(name, f"{shown(layer)}; of recurrent layers it has LSTM and GRU, forward, plain, from zeros")
        size, gates = layer.hidden_size, 4 if layer.cell == "lstm" else 3
        order = [0, 1, 2, 3] if layer.cell == "lstm" else [1, 0, 2]  # GRU: z, r, candidate
        parts = layer.state_dict()

        def turned(key: str) -> Array:
            array = parts.get(key, np.zeros(gates * size)).astype("float64")
            return array.reshape(gates, size, -1)[order].reshape(array.shape)

        for k in range(layer.num_layers):
            biases = np.stack([turned(f"bias_ih_l{k}"), turned(f"bias_hh_l{k}")])
            bias = biases.sum(0) if layer.cell == "lstm" else biases
            weights = [self.columns(turned(f"weight_ih_l{k}")).T, turned(f"weight_hh_l{k}").T, bias]
            self.add(name, layer.cell, size, weights)
            self.layers[-1]["activation"] = "tanh"

    def conv1d(self, name: str, layer: Conv1d) -> None:
        size, dilation = layer.kernel_size[0], layer.dilation[0]
        if layer.stride[0] != 1 or layer.padding[0] != (dilation * (size - 1), 0):
            raise _refusal(name, "a convolution that is not causal, or has a stride")
        parts = layer.state_dict()
        weights = [parts["weight"].transpose(2, 1, 0), parts.get("bias", np.zeros(layer.out_channels))]
        attributes = {"kernel_size": [size], "dilation": [dilation], "groups": layer.groups}
        self.add(name, "conv1d", layer.out_channels, weights, attributes)

    def conv2d(self, name: str, layer: Conv2d, features: tuple[int, ...]) -> None:
        channels, width = features if len(features) == 2 else (*features, 1)
        (time, reach), (dilation, across), stride = layer.kernel_size, layer.dilation, layer.stride
        sides = layer.padding[1]
        total = max(0, (-(-width // stride[1]) - 1) * stride[1] + reach - width)
        same = (total // 2, total - total // 2)
        if layer.padding[0] != (dilation * (time - 1), 0) or stride[0] != 1 or across != 1 or layer.groups != 1:
            raise _refusal(
                name, "a convolution that is not causal, or has a stride over time, a dilation over width, groups"
            )
        if sides not in ((0, 0), same):
            raise _refusal(name, f"padding {sides} over width; it has (0, 0) and {same}")
        if min(channels, width) > 1 and self.plane != (channels, width):
            raise _refusal(name, f"{channels} channels by {width} that do not come from another Conv2d")
        parts = layer.state_dict()
        weights = [parts["weight"].transpose(2, 3, 1, 0), parts.get("bias", np.zeros(layer.out_channels))]
        windows = (width + sum(sides) - reach) // stride[1] + 1
        attributes = {
            **{"kernel_size_time": time, "kernel_size_feature": reach, "dilation": dilation, "strides": stride[1]},
            **{"num_filters_in": channels, "num_features_in": width, "num_filters_out": layer.out_channels},
            "padding": "valid" if sides == (0, 0) else "same",
        }
        self.add(name, "conv2d", layer.out_channels * windows, weights, attributes)
        self.layers[-1]["shape"] = [None, None, windows, layer.out_channels]
        self.plane = (layer.out_channels, windows) if min(layer.out_channels, windows) > 1 else None

    def activation(self, name: str, layer: Activation) -> None:
        if layer.function in ("tanh", "relu", "sigmoid") or (layer.function == "elu" and layer.alpha == 1):
            self.function(layer.function)
        elif layer.function == "leaky_relu":
            self.prelu(np.array([layer.alpha]))
        elif layer.function != "linear":
            raise _refusal(name, f"{layer}; it has tanh, relu, sigmoid, elu with alpha=1, leaky_relu and Softmax")

    def function(self, function: str) -> None:
        """Joined to the layer before, where that has none yet; templated models of RTNeural expect it there."""
        if (
            self.layers
            and self.layers[-1]["type"] in ("dense", "conv1d", "conv2d")
            and not self.layers[-1]["activation"]
        ):
            self.layers[-1]["activation"] = function
            return
        self.add("", "activation", self.width, [], keep_plane=True)
        self.layers[-1]["activation"] = function

    def prelu(self, alpha: Array) -> None:
        alpha = alpha if len(alpha) == 1 else self.columns(alpha)
        self.add("", "prelu", self.width, [alpha[None]], keep_plane=True)

    def select(self, node: Any, following: Any) -> None:
        indices = np.array(node.layer.indices)
        if self.plane is not None and np.array_equal(indices, _turned(*self.plane)):
            self.plane = None
            return
        shape = following.layer.features if following is not None and isinstance(following.layer, Reshape) else ()
        if self.plane is None and len(shape) == 2 and np.array_equal(indices, _turned(*reversed(shape))):
            self.plane = shape
            return
        raise _refusal(node.name, "a Select, but for one between channels by width and width by channels")


def _turned(channels: int, width: int) -> Array:
    """Where, in channels by width, the numbers of width by channels are."""
    return np.arange(channels * width).reshape(channels, width).T.reshape(-1)


def _around(name: str, width: int, nodes: list[Any]) -> dict[str, Any]:
    """AIDA-X's entries for what stands around the network; takes their nodes away."""
    last = len(nodes) - 1
    has_gain = last > 0 and isinstance(nodes[last].layer, Scale) and isinstance(nodes[last - 1].layer, Add)
    add = last - has_gain
    if not isinstance(nodes[add].layer, Add) or _prelu(nodes, add - 4) is not None:
        return {}
    gain = isinstance(nodes[0].layer, Scale) and nodes[0].inputs == (name,)
    sound = nodes[0].name if gain else name
    chosen = nodes[add - 1]
    taken = 1
    if isinstance(chosen.layer, Select) and chosen.inputs == (sound,) and chosen.layer.indices == (0,):
        sound, taken = chosen.name, 2
    result = nodes[add - taken].name if add >= taken else name
    if set(nodes[add].inputs) != {sound, result} or len(nodes[add].inputs) != 2 or result == sound:
        return {}  # and the chain's own check refuses it
    around: dict[str, Any] = {"in_skip": 1}
    if gain:
        around["in_gain"] = _decibels(nodes[0], [1.0] * (width - 1))
    if has_gain:
        around["out_gain"] = _decibels(nodes[last], [])
    first = nodes[0].name if gain else name
    del nodes[add - taken + 1 :], nodes[: int(gain)]
    if not nodes:
        raise _refusal("in_skip", "nothing between the input and its addition")
    _require_chain(nodes[0], first)
    return around


def _decibels(node: Any, others: list[float]) -> float:
    parts = node.layer.state_dict()
    gain, *rest = parts["weight"].tolist()
    if parts["bias"].any() or not 1e-4 < gain < math.inf or rest != others:
        raise _refusal(node.name, "a Scale around the network that is not one positive gain of the sound")
    return 20 * math.log10(gain)


def _prelu(nodes: list[Any], i: int) -> Array | None:
    """The alphas, where the five nodes from here on are max(x, 0) - alpha max(-x, 0)."""
    if i < 0 or [type(node.layer) for node in nodes[i : i + 5]] != [Scale, Activation, Scale, Activation, Add]:
        return None
    turn, negative, scale, positive, total = nodes[i : i + 5]
    turning, scaling = turn.layer.state_dict(), scale.layer.state_dict()
    relus = negative.layer.function == positive.layer.function == "relu"
    wired = (
        negative.inputs == (turn.name,)
        and scale.inputs == (negative.name,)
        and positive.inputs == turn.inputs
        and total.inputs == (positive.name, scale.name)
    )
    plain = (turning["weight"] == -1).all() and not turning["bias"].any() and not scaling["bias"].any()
    return -scaling["weight"] if relus and wired and plain else None


def _finite(constants: dict[str, float] | None) -> dict[str, float]:
    """Those that bound something."""
    return {name: value for name, value in (constants or {}).items() if not math.isinf(value)}


def _require_chain(node: Any, last: str) -> None:
    if node.inputs != (last,):
        raise _refusal(node.name, f"what takes {list(node.inputs)}; a layer takes the one before, {last!r}")


def _refusal(name: str, what: str) -> UnsupportedModel:
    return UnsupportedModel(f"RTNeural: node {name!r}: it has nothing like {what}")
