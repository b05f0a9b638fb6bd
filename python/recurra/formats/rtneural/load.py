"""JSON files of RTNeural, and of AIDA-X, which adds gains and a way around the network.

https://github.com/jatinchowdhury18/RTNeural, https://github.com/AidaDSP/AIDA-X

What a layer means is what RTNeural's own loader makes of it: convolutions over time are causal and start from zeros,
whatever padding the model was trained with.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._options import float_dtype, shown
from ...activation import Activation
from ...heads import Linear
from ...layers import GRU, LSTM
from ...model import Add, Conv1d, Conv2d, Model, Node, Reshape, Scale, Select, Softmax, Value
from ..json_text import entry, number, numbers, read, rounded
from ..unsupported import UnsupportedModel

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from numpy.typing import DTypeLike

    from ..._arrays import Array

__all__ = ["load_rtneural"]

_MOST_MADE = 1 << 18
_ACTIVATIONS = ("tanh", "relu", "sigmoid", "softmax", "elu")


def load_rtneural(source: str | os.PathLike[str] | dict[str, Any], *, dtype: DTypeLike = "float32") -> Model:
    """The model in a JSON file of RTNeural or AIDA-X, of one input "x", which it may stream.

        >>> file = recurra.formats.rtneural.to_rtneural(recurra.Model([recurra.GRU(1, 16), recurra.Linear(16, 1)]))
        >>> list(recurra.formats.rtneural.load_rtneural(file).layers)
        ['gru0', 'dense1']

    Values are [T, B, features], one step for each call of RTNeural's `forward`. Where a step is features by channels
    (conv2d), it is so here too.

    Args:
        source: path of the file, or what JSON has been read as.
        dtype: float32 or float64, which the file's decimal numbers are rounded to.

    Raises:
        UnsupportedModel: a layer, an activation or an attribute has no counterpart here.
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    found, where = read(source, "RTNeural")
    chain = _Chain(where, float_dtype("dtype", dtype), entry(where, found, "in_shape", list, "a list of sizes"))
    with_gain = _gain(where, found, "in_gain")
    if with_gain != 1:
        weight = np.ones(chain.making(chain.width))
        weight[0] = with_gain  # the sound's; what follows are positions of knobs
        chain.scale("in_gain", weight)
    sound = chain.last
    layers = entry(where, found, "layers", list, "a list of layers")
    for i, layer in enumerate(layers):
        kind = entry(f"{where}: layer {i}", layer, "type", str, "text")
        where_layer = f"{where}: layer {i}, {shown(kind)}"
        if kind not in _LAYERS:
            raise UnsupportedModel(f"{where_layer}: expected a type among {', '.join(map(repr, _LAYERS))}")
        make, attributes = _LAYERS[kind]
        for name in set(layer) - {"type", "activation", "shape", "weights", *attributes}:
            raise UnsupportedModel(f"{where_layer}: attribute {shown(name)} = {shown(layer[name])} is not known")
        make(chain, where_layer, layer, f"{kind}{i}")
    if chain.plane is not None:
        channels, width = chain.plane
        chain.flatten()
        chain.add(f"{chain.last}_shape", Reshape((width, channels)))
    _add_input(where, found, chain, sound)
    with_gain = _gain(where, found, "out_gain")
    if with_gain != 1:
        chain.scale("out_gain", np.full(chain.making(chain.width), with_gain))
    return chain.model()


class _Chain:
    """Layers as they come.

    Attributes:
        width: numbers of a step so far.
        plane: channels and width where they are in this order, the core's, and not, as RTNeural has them, width by
            channels.
        flat: whether a step has one axis.
    """

    def __init__(self, where: str, dtype: Any, in_shape: list[Any]) -> None:
        self.where, self.dtype = where, dtype
        self.nodes: list[Node] = []
        self.last = "x"
        self.features = _sizes(f"{where}: in_shape", in_shape)
        self.width = math.prod(self.features)
        self.plane: tuple[int, int] | None = None
        self.flat = len(self.features) == 1
        self._made = 0

    def add(self, name: str, layer: Any, *inputs: str) -> str:
        self.nodes.append(Node(layer, inputs or (self.last,), name))
        self.last = name
        return name

    def put(self, name: str, layer: Any, width: int) -> None:
        """A layer whose steps have one axis."""
        self.add(name, layer)
        self.width, self.flat = width, True

    def making(self, count: int) -> int:
        """`count` numbers that are not in the file, of which a small file could want any."""
        self._made += count
        if self._made > _MOST_MADE:
            raise UnsupportedModel(f"{self.where}: expected steps of fewer numbers, got {shown(self.width)}")
        return count

    def flatten(self, one_axis: bool = False) -> None:
        """RTNeural's order of a step's numbers."""
        if self.plane is not None and min(self.plane) > 1:
            order = np.arange(self.making(self.width)).reshape(self.plane).T.reshape(-1)
            self.add(f"{self.last}_flat", Select(order.tolist()))
            self.flat = True
        if one_axis and not self.flat:
            self.add(f"{self.last}_flat", Reshape((self.width,)))
            self.flat = True
        self.plane = None

    def unflatten(self, channels: int, width: int) -> None:
        """The core's order for these channels."""
        if self.plane != (channels, width):
            self.flatten()
            if min(channels, width) > 1:
                order = np.arange(self.making(self.width)).reshape(width, channels).T.reshape(-1)
                self.add(f"{self.last}_plane", Select(order.tolist()))
            self.add(f"{self.last}_shape", Reshape((channels, width)))
        self.plane, self.flat = (channels, width), False

    def scale(self, name: str, weight: Array, bias: Array | None = None) -> None:
        weight, bias = weight.astype(self.dtype), np.zeros(len(weight)) if bias is None else bias
        scale = Scale(len(weight), dtype=self.dtype)
        scale.load_state_dict({"weight": weight, "bias": bias.astype(self.dtype)})
        self.add(name, scale)

    def fold(self, scale: Array, shift: Array) -> bool:
        """Whether the last layer's outputs could be scaled and shifted by its own parameters."""
        layer = self.nodes[-1].layer if self.nodes else None
        if not isinstance(layer, (Linear, Conv2d)):
            return False
        old = layer.state_dict()
        if "bias" not in old or old["bias"].shape != scale.shape:
            return False
        weight = scale.reshape(-1, *[1] * (old["weight"].ndim - 1)) * old["weight"]
        new = {"weight": weight, "bias": scale * old["bias"] + shift}
        layer.load_state_dict(rounded(self.where, self.dtype, **new))
        return True

    def model(self) -> Model:
        if not self.nodes:
            raise ValueError(f"{self.where}: expected layers, got none")
        return Model(self.nodes, inputs={"x": Value(self.features)})


def _dense(chain: _Chain, where: str, layer: dict[str, Any], name: str) -> None:
    chain.flatten()
    size, weights = _width(where, layer), _weights(where, layer, 1, 2)
    weight = numbers(f"{where}: kernel", weights[0], chain.width, size).T
    bias = numbers(f"{where}: bias", weights[1], size) if len(weights) > 1 else None
    linear = Linear(chain.width, size, bias is not None, dtype=chain.dtype)
    linear.load_state_dict(rounded(where, chain.dtype, weight=weight, bias=bias))
    chain.put(name, linear, size)
    _activation(chain, where, layer, name)


def _conv1d(chain: _Chain, where: str, layer: dict[str, Any], name: str) -> None:
    chain.flatten(one_axis=True)
    size, weights = _width(where, layer), _weights(where, layer, 2, 2)
    kernel, dilation = _last(where, layer, "kernel_size"), _last(where, layer, "dilation")
    groups = _last(where, layer, "groups") if "groups" in layer else 1
    if chain.width % groups or size % groups:
        raise ValueError(f"{where}: groups: expected a divisor of {chain.width} and {size}, got {groups}")
    weight = numbers(f"{where}: kernel", weights[0], kernel, chain.width // groups, size).transpose(2, 1, 0)
    bias = numbers(f"{where}: bias", weights[1], size)
    convolution = Conv1d(chain.width, size, kernel, dilation=dilation, groups=groups, causal=True, dtype=chain.dtype)
    convolution.load_state_dict(rounded(where, chain.dtype, weight=weight, bias=bias))
    chain.put(name, convolution, size)
    _activation(chain, where, layer, name)


def _conv2d(chain: _Chain, where: str, layer: dict[str, Any], name: str) -> None:
    channels, width, outputs, time, reach, dilation, stride = (
        _last(where, layer, each)
        for each in (
            *("num_filters_in", "num_features_in", "num_filters_out"),
            *("kernel_size_time", "kernel_size_feature", "dilation", "strides"),
        )
    )
    if channels * width != chain.width:
        raise ValueError(f"{where}: expected {chain.width} features in all, got {width} by {channels} channels")
    padding = entry(where, layer, "padding", str, "'valid' or 'same'")
    if padding not in ("valid", "same"):
        raise UnsupportedModel(f"{where}: padding: expected 'valid' or 'same', got {shown(padding)}")
    weights = _weights(where, layer, 2, 2)
    weight = numbers(f"{where}: kernel", weights[0], time, reach, channels, outputs).transpose(3, 2, 0, 1)
    bias = numbers(f"{where}: bias", weights[1], outputs)
    # TensorFlow's padding over the width: what makes ceil(width / stride) windows, the odd one on the right.
    total = max(0, (-(-width // stride) - 1) * stride + reach - width) if padding == "same" else 0
    convolution = Conv2d(
        *(channels, outputs, (time, reach), (1, stride)),
        padding=((dilation * (time - 1), 0), (total // 2, total - total // 2)),
        dilation=(dilation, 1),
        dtype=chain.dtype,
    )
    convolution.load_state_dict(rounded(where, chain.dtype, weight=weight, bias=bias))
    chain.unflatten(channels, width)
    chain.add(name, convolution)
    windows = (width + total - reach) // stride + 1
    if windows < 1 or outputs * windows != _width(where, layer):
        raise ValueError(f"{where}: shape: expected {windows} features by {outputs} channels, got {layer['shape']}")
    chain.plane, chain.width = (outputs, windows), outputs * windows
    _activation(chain, where, layer, name)


def _gru(chain: _Chain, where: str, layer: dict[str, Any], name: str) -> None:
    chain.flatten()
    size, weights = _width(where, layer), _weights(where, layer, 3, 3)
    order = [1, 0, 2]  # from Keras's z, r, candidate to r, z, n
    parts = {
        "weight_ih_l0": numbers(f"{where}: kernel", weights[0], chain.width, 3 * size).T,
        "weight_hh_l0": numbers(f"{where}: recurrent kernel", weights[1], size, 3 * size).T,
    }
    bias = numbers(f"{where}: bias", weights[2], 2, 3 * size)
    parts |= {"bias_ih_l0": bias[0], "bias_hh_l0": bias[1]}
    parts = {n: a.reshape(3, size, -1)[order].reshape(a.shape) for n, a in parts.items()}
    _recurrent(chain, where, layer, name, GRU(chain.width, size, dtype=chain.dtype), parts)


def _lstm(chain: _Chain, where: str, layer: dict[str, Any], name: str) -> None:
    chain.flatten()
    size, weights = _width(where, layer), _weights(where, layer, 3, 3)  # gates i, f, g, o in both
    parts = {
        "weight_ih_l0": numbers(f"{where}: kernel", weights[0], chain.width, 4 * size).T,
        "weight_hh_l0": numbers(f"{where}: recurrent kernel", weights[1], size, 4 * size).T,
        "bias_ih_l0": numbers(f"{where}: bias", weights[2], 4 * size),
        "bias_hh_l0": np.zeros(4 * size),
    }
    _recurrent(chain, where, layer, name, LSTM(chain.width, size, dtype=chain.dtype), parts)


def _recurrent(
    chain: _Chain, where: str, layer: dict[str, Any], name: str, cell: GRU | LSTM, parts: dict[str, Array]
) -> None:
    activation = entry(where, layer, "activation", str, "text", "")
    if activation not in ("", "tanh"):
        raise UnsupportedModel(f"{where}: activation: expected 'tanh', got {shown(activation)}")
    cell.load_state_dict(rounded(where, chain.dtype, **parts))
    chain.put(name, cell, cell.hidden_size)


def _prelu(chain: _Chain, where: str, layer: dict[str, Any], name: str) -> None:
    weights = _weights(where, layer, 1, 1)
    count = len(weights[0][0]) if isinstance(weights[0], list) and weights[0] and isinstance(weights[0][0], list) else 0
    alpha = numbers(f"{where}: alpha", weights[0], 1, 1 if count == 1 else chain.width)[0]
    rounded(where, chain.dtype, alpha=alpha)
    if (alpha == alpha[0]).all():
        chain.add(name, Activation("leaky_relu", alpha=float(alpha[0])))
        return
    # max(x, 0) - alpha max(-x, 0), without a rounding but that of the product
    chain.flatten()
    source = chain.last
    chain.scale(f"{name}_turned", -np.ones(len(alpha)))
    chain.add(f"{name}_negative", Activation("relu"))
    chain.scale(f"{name}_alpha", -alpha)
    negative = chain.last
    positive = chain.add(f"{name}_positive", Activation("relu"), source)
    chain.add(name, Add(), positive, negative)


def _batchnorm(chain: _Chain, where: str, layer: dict[str, Any], name: str) -> None:
    chain.flatten()
    scale, shift = _normalization(chain, where, layer, chain.width)
    if not chain.fold(scale, shift):
        chain.scale(name, scale, shift)


def _batchnorm2d(chain: _Chain, where: str, layer: dict[str, Any], name: str) -> None:
    channels, width = _last(where, layer, "num_filters_in"), _last(where, layer, "num_features_in")
    if channels * width != chain.width:
        raise ValueError(f"{where}: expected {chain.width} features in all, got {width} by {channels} channels")
    chain.unflatten(channels, width)
    scale, shift = _normalization(chain, where, layer, channels)
    if not chain.fold(scale, shift):
        chain.making(chain.width)
        chain.scale(name, np.repeat(scale, width), np.repeat(shift, width))


def _normalization(chain: _Chain, where: str, layer: dict[str, Any], size: int) -> tuple[Array, Array]:
    """The factor and the summand of each channel."""
    weights = _weights(where, layer, 2, 4)
    if len(weights) == 3:
        raise UnsupportedModel(f"{where}: weights: expected those with both gamma and beta or neither, got one of them")
    eps = number(where, layer, "epsilon")
    *affine, mean, variance = (numbers(f"{where}: weights", part, size) for part in weights)
    with np.errstate(all="ignore"):
        scale = (affine[0] if affine else 1) / np.sqrt(variance + eps)
        shift = (affine[1] if affine else 0) - mean * scale
    rounded(where, chain.dtype, scale=scale, shift=shift)
    return scale, shift


def _lone_activation(chain: _Chain, where: str, layer: dict[str, Any], name: str) -> None:
    _activation(chain, where, layer, name)


_LAYERS: dict[str, tuple[Callable[[_Chain, str, dict[str, Any], str], None], tuple[str, ...]]] = {
    "dense": (_dense, ()),
    "time-distributed-dense": (_dense, ()),
    "conv1d": (_conv1d, ("kernel_size", "dilation", "groups")),
    "conv2d": (
        _conv2d,
        (
            *("kernel_size_time", "kernel_size_feature", "dilation", "strides"),
            *("num_filters_in", "num_features_in", "num_filters_out", "padding"),
        ),
    ),
    "gru": (_gru, ()),
    "lstm": (_lstm, ()),
    "prelu": (_prelu, ()),
    "batchnorm": (_batchnorm, ("epsilon",)),
    "batchnorm2d": (_batchnorm2d, ("epsilon", "num_filters_in", "num_features_in")),
    "activation": (_lone_activation, ()),
}


def _activation(chain: _Chain, where: str, layer: dict[str, Any], name: str) -> None:
    function = entry(where, layer, "activation", str, "text", "")
    if not function:
        return
    if function not in _ACTIVATIONS:
        raise UnsupportedModel(f"{where}: activation: expected {', '.join(_ACTIVATIONS)}, got {shown(function)}")
    chain.add(f"{name}_{function}", Softmax() if function == "softmax" else Activation(function))


def _add_input(where: str, found: dict[str, Any], chain: _Chain, sound: str) -> None:
    """AIDA-X's way around the network: the sound is added to what comes out of it."""
    skip = entry(where, found, "in_skip", int, "0 or 1", 0)
    if skip not in (0, 1):
        raise UnsupportedModel(f"{where}: in_skip: expected 0 or 1, got {shown(skip)}")
    if not skip:
        return
    if chain.width != 1:
        raise UnsupportedModel(f"{where}: in_skip: expected 0 for {chain.width} outputs, got 1")
    result = chain.last
    if math.prod(chain.features) > 1:
        sound = chain.add("in_skip_sound", Select([0]), sound)
    chain.add("in_skip", Add(), sound, result)


def _gain(where: str, found: dict[str, Any], name: str) -> float:
    """AIDA-X's decibels as a factor."""
    decibels = number(where, found, name, 0)
    if not abs(decibels) <= 300:
        raise ValueError(f"{where}: {name}: expected decibels in -300..300, got {shown(decibels)}")
    return 10 ** (decibels / 20) if decibels > -90 else 0.0


def _weights(where: str, layer: dict[str, Any], least: int, most: int) -> list[Any]:
    weights: list[Any] = entry(where, layer, "weights", list, "a list of arrays")
    if not least <= len(weights) <= most:
        raise ValueError(f"{where}: weights: expected {least} to {most} arrays, got {len(weights)}")
    return weights


def _width(where: str, layer: dict[str, Any]) -> int:
    return math.prod(_sizes(f"{where}: shape", entry(where, layer, "shape", list, "a list of sizes")))


def _sizes(where: str, shape: list[Any]) -> tuple[int, ...]:
    """Of a step: the last of (batch, time, features), the last two of (batch, time, features, channels)."""
    sizes = shape[-2:] if len(shape) == 4 else shape[-1:]
    if not sizes or not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"{where}: expected sizes of 1 and more, got {shown(shape)}")
    return tuple(sizes)


def _last(where: str, layer: dict[str, Any], name: str) -> int:
    """A positive integer, or the last of a list of them."""
    value = entry(where, layer, name, (int, list), "an integer")
    value = value[-1] if isinstance(value, list) and value else value
    if type(value) is not int or value < 1:
        raise ValueError(f"{where}: {name}: expected an integer of 1 and more, got {shown(value)}")
    return value
