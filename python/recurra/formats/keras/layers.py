"""What each of Keras's layers is here, but for recurrent ones and windows over time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...activation import Activation
from ...heads import Embedding, Linear
from ...model import (
    Add,
    Concatenate,
    Conv2d,
    Dropout,
    LayerNorm,
    Multiply,
    Pool,
    Repeat,
    Scale,
)
from . import activations, recurrent, windows
from .builder import UNSURE, Source, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._arrays import Array
    from .builder import Builder
    from .source import Layer

__all__ = ["LAYERS", "Call"]


class Call(NamedTuple):
    """A call of a layer."""

    layer: Layer
    tensors: list[Any]  # and constants
    states: list[Any]  # of initial_state=
    mask: Source | None  # given by mask=
    mask_given: bool
    inner: bool = False  # in a TimeDistributed: the layer does not see the time axis

    @property
    def tensor(self) -> Tensor:
        """The only one."""
        if len(self.tensors) != 1 or not isinstance(self.tensors[0], Tensor):
            raise self.layer.refuse(f"expected one tensor, got {len(self.tensors)} arguments")
        return self.tensors[0]

    @property
    def seen_mask(self) -> Source | None:
        """The mask of the first tensor, as given or as it has it."""
        mask = self.mask if self.mask_given else self.tensors[0].mask
        if mask is UNSURE:
            raise self.layer.refuse("mask: expected inputs that all have one, or none; in Keras 3 it depends on which")
        return mask

    @property
    def unmasked(self) -> Tensor:
        """The only tensor, of a layer at which masks stop."""
        tensor = self.tensor
        if tensor.dirty:
            raise self.layer.refuse("it ignores the mask of its input, whose masked steps are not Keras's here")
        return tensor._replace(mask=None, under=False)

    def array(self, b: Builder, role: str, axes: int) -> Array:
        """A weight, in the model's dtype."""
        array = self.layer.weights[role]
        if array.ndim != axes:
            raise ValueError(f"{self.layer}: {role}: expected {axes} axes, got {array.shape}")
        return np.asarray(array, b.dtype)

    def axis(self, option: str, rank: int) -> list[int]:
        """Axes of a tensor of so many, counted from 0 for the batch."""
        value = self.layer.config.get(option, -1)
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(v, int) and not isinstance(v, bool) and -rank <= v < rank for v in values):
            raise ValueError(f"{self.layer}: {option}: expected axes of {rank}, got {value!r}")
        return sorted(v % rank for v in values)

    def rank(self, tensor: Tensor) -> int:
        """Axes of the tensor as the layer sees it."""
        return 1 + len(tensor.shape) + (tensor.time and not self.inner)


def _dense(b: Builder, call: Call) -> list[Tensor]:
    tensor, layer = call.tensor, call.layer
    kernel = call.array(b, "kernel", 2)
    if not tensor.shape or kernel.shape[0] != tensor.shape[-1]:
        raise ValueError(f"{layer}: expected {kernel.shape[0]} features, got {tensor.shape}")
    params: dict[str, Any] = {"weight": kernel.T} | (
        {"bias": call.array(b, "bias", 1)} if "bias" in layer.weights else {}
    )
    function = activations.function_of(layer, "activation", b.version)
    name = f"{layer.name}_linear" if function.steps else layer.name
    if len(tensor.shape) == 1:
        linear: Any = Linear(kernel.shape[0], kernel.shape[1], bias="bias" in params, dtype=b.dtype)
        linear.load_state_dict({n: np.ascontiguousarray(w) for n, w in params.items()})
        made = b.add(linear, [b.flat(tensor)], name)
    else:  # on the channels at every place of the width
        require_one_width(call, tensor, function)
        linear = Conv2d(kernel.shape[0], kernel.shape[1], 1, bias="bias" in params, dtype=b.dtype)
        linear.load_state_dict(params | {"weight": kernel.T[:, :, None, None]})
        made = b.add(linear, [b.image(tensor)], name)
    made = activations.add(b, function, made, layer.name)
    return [tensor._replace(name=made, shape=(*tensor.shape[:-1], kernel.shape[1]), channels=len(tensor.shape) == 2)]


def require_one_width(call: Call, tensor: Tensor, function: activations.Function) -> None:
    """A softmax is over channels alone, and here over all features of a step."""
    softmax = any(not isinstance(step, Activation) for step in function.steps)
    if softmax and len(tensor.shape) == 2 and tensor.shape[0] > 1:
        raise call.layer.refuse(f"activation: expected no softmax at {tensor.shape[0]} places of a step")


def _activation(b: Builder, call: Call) -> list[Tensor]:
    tensor, layer = call.tensor, call.layer
    if layer.kind == "Activation":
        function = activations.function_of(layer, "activation", b.version)
    else:
        function = activations.layer_function(layer, call.rank(tensor))
    require_one_width(call, tensor, function)
    if layer.kind == "Softmax" and not layer.operation and call.seen_mask is not None:
        raise layer.refuse("mask: expected none, which it would take for one of features")
    return [tensor._replace(name=activations.add(b, function, tensor.name, layer.name))]


def _prelu(b: Builder, call: Call) -> list[Tensor]:
    """max(x, 0) - alpha * max(-x, 0), with an alpha for each feature."""
    tensor, layer = call.tensor, call.layer
    alpha = np.asarray(layer.weights["alpha"], b.dtype)
    wanted = ((1,) if tensor.time and not call.inner else ()) + tensor.shape
    if alpha.shape != wanted:
        raise layer.refuse(f"shared_axes: expected the time axis alone, for alpha {wanted}, got {alpha.shape}")
    source = b.flat(tensor)
    positive = b.add(Activation("relu"), [source], f"{layer.name}_positive")
    negative = b.add(Activation("affine", alpha=-1.0, beta=0.0), [source], f"{layer.name}_minus")
    negative = b.add(Activation("relu"), [negative], f"{layer.name}_negative")
    negative = b.add(_scale(b, -alpha.reshape(-1), np.zeros(alpha.size, b.dtype)), [negative], f"{layer.name}_alpha")
    return [tensor._replace(name=b.add(Add(), [positive, negative], layer.name), channels=False)]


def _scale(b: Builder, weight: Array, bias: Array) -> Scale:
    scale = Scale(weight.size, dtype=b.dtype)
    scale.load_state_dict({"weight": np.asarray(weight, b.dtype), "bias": np.asarray(bias, b.dtype)})
    return scale


def _same(b: Builder, call: Call) -> list[Tensor]:
    """What is nothing in inference."""
    return [call.tensor]


def _dropout(b: Builder, call: Call) -> list[Tensor]:
    rate = call.layer.option("rate", int, float)
    tensor = call.tensor
    return [tensor._replace(name=b.add(Dropout(float(rate)), [tensor.name], call.layer.name))]


# -------------------------------------------------------------------------------------------------- normalisation


def _batch_norm(b: Builder, call: Call) -> list[Tensor]:
    tensor, layer = call.tensor, call.layer
    rank = call.rank(tensor)
    if call.axis("axis", rank) != [rank - 1]:
        raise layer.refuse(f"axis: expected the last one, got {layer.config.get('axis')}")
    if layer.config.get("renorm"):
        raise layer.refuse("renorm: expected False, got True")
    w = {role: np.asarray(array, "float64") for role, array in layer.weights.items()}
    if {array.shape for array in w.values()} != {tensor.shape[-1:]}:
        raise ValueError(f"{layer}: expected weights of {tensor.shape[-1:]}, got {[a.shape for a in w.values()]}")
    weight = w.get("gamma", np.ones(1)) / np.sqrt(w["moving_variance"] + layer.option("epsilon", int, float))
    return [_scaled(b, tensor, weight, w.get("beta", np.zeros(1)) - weight * w["moving_mean"], layer.name)]


def _normalization(b: Builder, call: Call) -> list[Tensor]:
    tensor, layer = call.tensor, call.layer
    rank = call.rank(tensor)
    if layer.config.get("invert"):
        raise layer.refuse("invert: expected False, got True")
    if call.axis("axis", rank) != [rank - 1] if layer.config.get("axis") is not None else True:
        raise layer.refuse(f"axis: expected the last one, got {layer.config.get('axis')}")
    given = layer.weights or layer.config
    mean, variance = (np.asarray(given.get(each), "float64").reshape(-1) for each in ("mean", "variance"))
    weight = 1 / np.maximum(np.sqrt(variance), 1e-7)
    weight, mean = np.broadcast_to(weight, tensor.shape[-1:]), np.broadcast_to(mean, tensor.shape[-1:])
    return [_scaled(b, tensor, weight, -mean * weight, layer.name)]


def _scaled(b: Builder, tensor: Tensor, weight: Array, bias: Array, name: str) -> Tensor:
    """Keras's last axis times weight plus bias: in the convolution or Linear before it, if there is one."""
    weight, bias = (np.broadcast_to(each, tensor.shape[-1:]) for each in (weight, bias))
    node = b.nodes.get(tensor.name)
    before = node.layer if node is not None else None
    if isinstance(before, (Linear, Conv2d)) and (tensor.channels or len(tensor.shape) == 1):
        layer, params = windows.copied(before, bias=True), before.state_dict()
        own = params["weight"].astype("float64") * weight.reshape(-1, *[1] * (params["weight"].ndim - 1))
        added = params.get("bias", np.zeros(1)).astype("float64") * weight + bias
        layer.load_state_dict({"weight": own.astype(b.dtype), "bias": added.astype(b.dtype)})
        return tensor._replace(name=b.add(layer, node.inputs or (), name))  # type: ignore[union-attr]
    source, channels = b.channelwise(tensor)
    if channels:
        weight, bias = (np.repeat(each, tensor.shape[0]) for each in (weight, bias))
    return tensor._replace(name=b.add(_scale(b, weight, bias), [source], name), channels=channels)


def _layer_norm(b: Builder, call: Call) -> list[Tensor]:
    tensor, layer = call.tensor, call.layer
    rank = call.rank(tensor)
    axes, own = call.axis("axis", rank), list(range(rank - len(tensor.shape), rank))
    if axes != own and not (axes == own[-1:] and tensor.size == tensor.shape[-1]):
        raise layer.refuse(f"axis: expected all features of a step, {own}, got {axes}")
    if layer.config.get("rms_scaling"):
        raise layer.refuse("rms_scaling: expected False, got True")
    gamma, beta = layer.weights.get("gamma"), layer.weights.get("beta")
    norm = LayerNorm(
        tensor.size,
        layer.option("epsilon", int, float),
        weight=gamma is not None,
        bias=beta is not None,
        dtype=b.dtype,
    )
    given = {"weight": gamma, "bias": beta}
    norm.load_state_dict({n: np.asarray(w, b.dtype).reshape(-1) for n, w in given.items() if w is not None})
    return [tensor._replace(name=b.add(norm, [b.flat(tensor)], layer.name), channels=False)]


# -------------------------------------------------------------------------------------------- embedding and masks


def _embedding(b: Builder, call: Call) -> list[Tensor]:
    tensor, layer = call.tensor, call.layer
    table = call.array(b, "embeddings", 2)
    if not b.values[tensor.name].integer:
        raise layer.refuse("expected an input of the model, got what another layer gives")
    embedding = Embedding(*table.shape, dtype=b.dtype)
    embedding.load_state_dict({"weight": table})
    mask = Source(tensor.name, 0.0) if layer.option("mask_zero", bool, default=False) and tensor.time else None
    return [tensor._replace(name=b.add(embedding, [tensor.name], layer.name), shape=(table.shape[1],), mask=mask)]


def _masking(b: Builder, call: Call) -> list[Tensor]:
    """Keras also makes masked steps zero."""
    tensor, layer = call.tensor, call.layer
    if not tensor.time or len(tensor.shape) != 1:
        raise layer.refuse(f"expected [B, T, F], got steps of {tensor.shape}")
    value = float(layer.option("mask_value", int, float))
    if tensor.dirty:
        raise layer.refuse("expected an input that has no mask yet")
    return [tensor._replace(mask=Source(tensor.name, value), dirty=value != 0, under=False)]


# -------------------------------------------------------------------------------------------- several tensors


def _merge(b: Builder, call: Call) -> list[Tensor]:
    layer, tensors = call.layer, call.tensors
    if layer.operation:
        if len(numbers := [each for each in tensors if not isinstance(each, Tensor)]) == 1 and len(tensors) == 2:
            return _with_number(b, call, numbers[0])
        if len({call.rank(each) for each in tensors}) > 1:
            raise layer.refuse("expected tensors of as many axes")
    if len(tensors) < 2 or not all(isinstance(each, Tensor) for each in tensors):
        raise layer.refuse("expected two tensors or more")
    if {each.steps for each in tensors if each.time} != {1}:
        tensors = [_for_every_step(b, each) for each in tensors]
    masks = {each.mask for each in tensors}
    if b.version == 2 and len(masks) == 2:
        masks -= {None}
    if len(masks) > 1 and (None not in masks or layer.kind == "Multiply" or any(each.dirty for each in tensors)):
        raise layer.refuse("expected inputs of one mask, got several")
    mask = masks.pop() if len(masks) == 1 else UNSURE
    time = any(each.time for each in tensors)
    known = {each.steps for each in tensors if each.time} - {None}
    if len(known) > 1:
        raise layer.refuse(f"expected sequences of one length, got {sorted(known)}")
    first = tensors[0]._replace(time=time, steps=known.pop() if known else None, mask=mask)
    dirty = any(each.dirty for each in tensors) or (layer.kind == "Multiply" and mask is not None and b.version == 3)
    first = first._replace(dirty=dirty, under=any(each.under for each in tensors))
    if layer.kind == "Concatenate":
        return [_concatenated(b, call, first)]
    if len({each.shape for each in tensors}) > 1:
        raise layer.refuse(f"expected tensors of one shape, got {[each.shape for each in tensors]}")
    channels = all(each.channels for each in tensors)
    names = [each.name if channels else b.flat(each) for each in tensors]
    if layer.kind == "Subtract":
        names[1] = b.add(Activation("affine", alpha=-1.0, beta=0.0), [names[1]], f"{layer.name}_minus")
    name = f"{layer.name}_sum" if layer.kind == "Average" else layer.name
    made = b.add(Multiply() if layer.kind == "Multiply" else Add(), names, name)
    if layer.kind == "Average":
        made = b.add(Activation("affine", alpha=1 / len(names), beta=0.0), [made], layer.name)
    return [first._replace(name=made, channels=channels)]


def _for_every_step(b: Builder, tensor: Tensor) -> Tensor:
    """A sequence of one step, as pooling with keepdims makes it, as a value for all steps of what it meets."""
    if not tensor.time or tensor.steps != 1:
        return tensor
    return tensor._replace(name=b.add(Pool("first"), [tensor.name], f"{tensor.name}_value"), time=False, steps=None)


def _with_number(b: Builder, call: Call, number: Any) -> list[Tensor]:
    """A tensor and a number."""
    layer, first = call.layer, isinstance(call.tensors[0], Tensor)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise layer.refuse(f"expected tensors or a number, got {str(number)[:80]}")
    tensor = call._replace(tensors=[each for each in call.tensors if isinstance(each, Tensor)]).unmasked
    if layer.kind == "Concatenate" or (layer.kind == "TrueDivide" and not (first and number)):
        raise layer.refuse("expected two tensors or more")
    sides = {
        "Add": (1.0, number),
        "Subtract": (1.0, -number) if first else (-1.0, number),
        "Multiply": (number, 0.0),
        "TrueDivide": (1 / number if number else 0.0, 0.0),
    }
    alpha, beta = sides[layer.kind]
    affine = Activation("affine", alpha=float(alpha), beta=float(beta))
    return [tensor._replace(name=b.add(affine, [tensor.name], layer.name))]


def _concatenated(b: Builder, call: Call, first: Tensor) -> Tensor:
    tensors, layer = call.tensors, call.layer
    ranks = {call.rank(each) for each in tensors}
    if len(ranks) > 1 or len({each.time for each in tensors}) > 1:
        raise layer.refuse("expected tensors of as many axes")
    rank = ranks.pop()
    if call.axis("axis", rank) != [rank - 1]:
        raise layer.refuse(f"axis: expected the last one, got {layer.config.get('axis')}")
    shape = (*first.shape[:-1], sum(each.shape[-1] for each in tensors))
    if len({each.shape[:-1] for each in tensors}) > 1:
        raise layer.refuse(f"expected tensors of one width, got {[each.shape for each in tensors]}")
    names = [b.channelwise(each)[0] for each in tensors]
    return first._replace(name=b.add(Concatenate(), names, layer.name), shape=shape, channels=len(shape) == 2)


# ------------------------------------------------------------------------------------------------------------ shapes


def _regrouped(b: Builder, call: Call, tensor: Tensor, shape: tuple[int, ...]) -> list[Tensor]:
    """The features of each step under another shape, in Keras's order."""
    if shape == tensor.shape:
        return [tensor]
    if len(shape) not in (1, 2) or math.prod(shape) != tensor.size:
        raise call.layer.refuse(f"expected {tensor.size} features of a step along one or two axes, got {shape}")
    return [tensor._replace(name=b.flat(tensor), shape=shape, channels=False)]


def _flatten(b: Builder, call: Call) -> list[Tensor]:
    tensor = call.unmasked
    if tensor.time and not call.inner:
        raise call.layer.refuse("it mixes steps; expected TimeDistributed(Flatten) or a pooling over time")
    windows.require_channels_last(call.layer)
    return _regrouped(b, call, tensor, (tensor.size,))


def _reshape(b: Builder, call: Call) -> list[Tensor]:
    tensor, layer = call.unmasked, call.layer
    target = layer.option("target_shape", list)
    if not all(isinstance(size, int) and not isinstance(size, bool) for size in target) or target.count(-1) > 1:
        raise ValueError(f"{layer}: target_shape: expected sizes, got {target}")
    if not tensor.time or call.inner:
        known = math.prod(size for size in target if size != -1)
        shape = tuple(tensor.size // max(known, 1) if size == -1 else size for size in target)
        return _regrouped(b, call, tensor, shape)
    if -1 in target[1:] and tensor.steps == target[0]:
        rest = math.prod(size for size in target[1:] if size != -1)
        target = [target[0], *(tensor.size // max(rest, 1) if size == -1 else size for size in target[1:])]
    if len(target) < 2 or target[0] not in (-1, tensor.steps) or math.prod(target[1:]) != tensor.size:
        raise layer.refuse(
            f"target_shape: expected the features of each step regrouped, "
            f"[{tensor.steps or -1}, ...] of {tensor.size}, got {target}"
        )
    return _regrouped(b, call, tensor, tuple(target[1:]))


def _permute(b: Builder, call: Call) -> list[Tensor]:
    tensor, layer = call.unmasked, call.layer
    dims = layer.option("dims", list)
    first = [] if call.inner or not tensor.time else [1]
    own = [len(first) + 1 + i for i in range(len(tensor.shape))]
    if dims == first + own:
        return [tensor]
    if len(own) != 2 or dims != first + own[::-1]:
        raise layer.refuse(f"dims: expected {first + own[::-1]}, which leaves time where it is, got {dims}")
    width, channels = tensor.shape
    name = b.reshape(b.image(tensor), (tensor.size,), layer.name)  # in the order in which the permuted one has it
    return [tensor._replace(name=name, shape=(channels, width), channels=False)]


def _repeat(b: Builder, call: Call) -> list[Tensor]:
    tensor = call.unmasked
    if tensor.time or len(tensor.shape) != 1:
        raise call.layer.refuse("expected [B, F]")
    steps = call.layer.option("n", int)
    return [tensor._replace(name=b.add(Repeat(steps), [tensor.name], call.layer.name), time=True, steps=steps)]


def _global_pool(b: Builder, call: Call) -> list[Tensor]:
    """The mean heeds a mask, the maximum does not."""
    layer = call.layer
    mean = "Average" in layer.kind
    tensor = call.tensor if mean and layer.kind.endswith("1D") else call.unmasked
    if not tensor.time or len(tensor.shape) != int(layer.kind[-2]):
        raise layer.refuse(f"expected steps of {layer.kind[-2]} axes, got {tensor.shape}")
    windows.require_channels_last(layer)
    mask = call.seen_mask if mean and layer.kind.endswith("1D") else None
    name, shape = b.masked(tensor, mask), tensor.shape[-1:]
    if len(tensor.shape) == 2:
        name = windows.pooled_width(b, tensor, mean, layer.name)
    name = b.add(Pool("mean" if mean else "max"), [name], layer.name)
    made = Tensor(name, shape, False)
    if layer.config.get("keepdims"):
        if len(tensor.shape) == 2:
            raise layer.refuse("keepdims: expected False, got True")
        made = made._replace(name=b.add(Repeat(1), [name], f"{layer.name}_step"), time=True, steps=1)
    return [made]


# ---------------------------------------------------------------------------------------------------- operations


def _get_item(b: Builder, call: Call) -> list[Tensor]:
    """x[:, -1] and x[:, 0]: the last and the first step."""
    layer, (tensor, *key) = call.layer, call.tensors
    whole = {"class_name": "__slice__", "config": {"start": None, "stop": None, "step": None}}
    key = [each for each in key if each != whole and each != "..." and each is not None]
    first = call.tensors[1] == whole if len(call.tensors) > 2 else False
    if not first or len(key) != 1 or key[0] not in (0, -1) or isinstance(key[0], bool) or not tensor.time:
        raise layer.refuse("expected x[:, -1] or x[:, 0]")
    if call.tensors[2] != key[0]:
        raise layer.refuse("expected x[:, -1] or x[:, 0]")
    name = b.add(Pool("last" if key[0] else "first"), [tensor.name], layer.name)
    return [tensor._replace(name=name, time=False, steps=None)]


def _flip(b: Builder, call: Call) -> list[Tensor]:
    tensor = call.tensor
    if not tensor.time or call.layer.config.get("axis") not in (1, [1]):
        raise call.layer.refuse(f"axis: expected time, 1, got {call.layer.config.get('axis')}")
    return [tensor._replace(name=b.reversed(tensor.name, call.layer.name))]


def _take(b: Builder, call: Call) -> list[Tensor]:
    """Some features of each step."""
    layer, tensor = call.layer, call.tensors[0]
    constant = call.tensors[1] if len(call.tensors) == 2 else None
    indices = constant.get("config", {}).get("value") if isinstance(constant, dict) else constant
    if call.axis("axis", call.rank(tensor)) != [call.rank(tensor) - 1] or len(tensor.shape) != 1:
        raise layer.refuse(f"axis: expected the features, -1, got {layer.config.get('axis')}")
    if not isinstance(indices, list) or not all(type(i) is int and -tensor.size <= i < tensor.size for i in indices):
        raise layer.refuse("indices: expected a list of constants")
    name = b.select(b.flat(tensor), [i % tensor.size for i in indices], layer.name)
    return [tensor._replace(name=name, shape=(len(indices),), channels=False)]


def _time_distributed(b: Builder, call: Call) -> list[Tensor]:
    inner = call.layer.parts.get("layer")
    if inner is None or inner.kind not in _INNER:
        raise call.layer.refuse(f"layer: there is no {inner} of every step here")
    if not call.tensor.time:
        raise call.layer.refuse("expected a sequence")
    inside = type(inner)(inner.kind, call.layer.name, inner.config, inner.parts, [], inner.weights)
    kept: dict[str, Any] = {"mask": call.seen_mask, "dirty": call.tensor.dirty, "under": call.tensor.under}
    tensor = call.tensor._replace(mask=None, dirty=False)
    made = LAYERS[inner.kind](b, call._replace(layer=inside, tensors=[tensor], mask=None, mask_given=False, inner=True))
    return [each._replace(**kept) for each in made]


_EVERY_STEP: dict[str, Callable[[Builder, Call], list[Tensor]]] = {
    "Dense": _dense,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "Normalization": _normalization,
    "PReLU": _prelu,
    "Dropout": _dropout,
}
_EVERY_STEP |= dict.fromkeys(
    ("Activation", "ReLU", "LeakyReLU", "ELU", "ThresholdedReLU", "Softmax", "Rescaling"), _activation
)
_EVERY_STEP |= dict.fromkeys(
    ("Identity", "GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization"), _same
)
_EVERY_STEP |= dict.fromkeys(("SpatialDropout1D", "SpatialDropout2D"), _same)
LAYERS: dict[str, Callable[[Builder, Call], list[Tensor]]] = _EVERY_STEP | {
    "Embedding": _embedding,
    "Masking": _masking,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Permute": _permute,
    "RepeatVector": _repeat,
    "GetItem": _get_item,
    "Flip": _flip,
    "Take": _take,
    "TrueDivide": _merge,
    "TimeDistributed": _time_distributed,
}
LAYERS |= dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Concatenate"), _merge)
LAYERS |= {f"Global{kind}Pooling{n}D": _global_pool for kind in ("Average", "Max") for n in (1, 2)}
LAYERS |= dict.fromkeys(activations.OPERATIONS, _activation)
LAYERS |= windows.LAYERS | recurrent.LAYERS
_INNER = (*_EVERY_STEP, "Flatten", "Reshape", "Permute", "Conv1D", "MaxPooling1D", "AveragePooling1D")
