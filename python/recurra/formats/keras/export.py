"""A Keras 3 model of a recurra.Model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...activation import FUNCTIONS, Activation
from ...heads import Embedding, Linear
from ...recurrent import Recurrent
from ..unsupported import UnsupportedModel
from .export_recurrent import Exported, keras_name, plain, recurrent, refused

if TYPE_CHECKING:
    from ...model import Model

__all__ = ["to_keras"]


def to_keras(model: Model) -> Any:
    """A functional Keras 3 model that gives what this one gives, on sequences [B, T, ...] without lengths and resets.

        >>> model = recurra.Model([recurra.GRU(12, 64), recurra.Linear(64, 9)])
        >>> recurra.formats.keras.to_keras(model).save("tagger.keras")

    Layers have the names of nodes. Under a mask the outputs of masked steps are Keras's.

    Raises:
        UnsupportedModel: Keras has no counterpart of something; names node and attribute.
        ImportError: Keras 3 is not installed.
    """
    try:
        import keras
    except ImportError as error:
        raise ImportError("Keras: making a model of it needs keras 3 and a backend: pip install keras") from error
    if not keras.__version__.startswith("3."):
        raise ImportError(f"Keras: expected version 3, got {keras.__version__}")
    return _Exporter(keras, model).model()


class _Exporter:
    """Keras tensors, [B, T, F] or [B, F], of a model's values; and the masks that those have here."""

    def __init__(self, keras: Any, model: Model) -> None:
        self.keras = keras
        self.source = model
        self.dtype = str(model.dtype)
        self.tensors: dict[str, Any] = {}
        self.masks: dict[str, Any] = {}
        self.names = {plain(name) for name in (*model.inputs, *model.layers)}
        self.uses: dict[str, list[str]] = {}  # what takes a value
        self.skipped: dict[str, str] = {}  # pools that the layer before them does

    def model(self) -> Any:
        source = self.source
        for node in source._nodes:
            for each in node.inputs:
                self.uses.setdefault(each, []).append(node.name)
        for name in source.outputs:
            self.uses.setdefault(name, []).append("")
        inputs = []
        for name, value in source.inputs.items():
            shape = ((None,) if value.time else ()) + value.features
            given = self.keras.Input(shape, dtype="int32" if value.integer else self.dtype, name=plain(name))
            inputs.append(given)
            self.tensors[name] = self.flat(given, value) if len(value.features) == 2 else given
        for node in source._nodes:
            self.add(node)
        outputs = [self.shaped(name) for name in source.outputs]
        return self.keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs if len(outputs) > 1 else outputs[0])

    def layer(self, kind: str, *args: Any, **options: Any) -> Any:
        """A new Keras layer, called what no other is."""
        options.setdefault("name", self.unique(kind.lower()))
        return getattr(self.keras.layers, kind)(*args, dtype=self.dtype, **options)

    def unique(self, like: str) -> str:
        number, name = 0, like
        while name in self.names:
            number += 1
            name = f"{like}_{number}"
        self.names.add(name)
        return name

    def flat(self, tensor: Any, value: Any) -> Any:
        return self.layer("Reshape", (-1, value.size) if value.time else (value.size,))(tensor)

    def shaped(self, name: str) -> Any:
        """An output with all axes of its features."""
        node = next((node for node in self.source._nodes if node.name == name), None)
        value = node.value if node is not None else self.source.inputs.get(name)
        if value is None or len(value.features) < 2:
            return self.tensors[name]
        return self.layer("Reshape", (-1, *value.features) if value.time else value.features)(self.tensors[name])

    def add(self, node: Any) -> None:
        """The Keras layers of one node."""
        name, layer = node.name, node.layer
        inputs = [self.tensors[each] for each in node.inputs]
        masks = [self.masks[each] for each in node.inputs if each in self.masks]
        distinct = list({id(mask): mask for mask in masks}.values())
        mask = distinct[0] if distinct else None
        for other in distinct[1:]:
            mask = self.keras.ops.logical_and(mask, other)
        if isinstance(layer, Recurrent):
            made = recurrent(self.exported(node, mask), layer, inputs)
            self.tensors |= made
        elif isinstance(layer, (Linear, Embedding)):
            self.tensors[name] = self.head(layer, inputs[0], plain(name))
        elif isinstance(layer, Activation):
            self.tensors[name] = self.activation(layer, inputs[0], name)
        elif name in self.skipped:
            self.tensors[name] = inputs[0]
        else:
            make = getattr(self, f"_{layer.kind}", None)
            if make is None:
                raise refused(node, "there is nothing like it in Keras")
            self.tensors[name] = make(node, inputs, mask)
        if mask is not None and node.value.time and name not in self.masks:
            self.masks[name] = mask

    def exported(self, node: Any, mask: Any) -> Exported:
        """What the export of a recurrent layer needs. A pool behind it that is its only use becomes part of it."""
        users = self.uses.get(node.name, [])
        after = next((n for n in self.source._nodes if n.name == users[0]), None) if len(users) == 1 else None
        wanted = {"forward": "last", "reverse": "first"}.get(node.layer.direction)
        last = after is not None and wanted is not None and getattr(after.layer, "mode", None) == wanted
        if last and after is not None:
            self.skipped[after.name] = node.name
        states = any(each.startswith(f"{node.name}:") for each in self.uses)
        return Exported(self.keras, node, self.dtype, mask, last, states, self.unique)

    def head(self, layer: Linear | Embedding, x: Any, name: str) -> Any:
        params = layer.state_dict()
        if isinstance(layer, Embedding):
            made = self.layer("Embedding", layer.num_embeddings, layer.embedding_dim, name=name)
            y = made(x)
            made.set_weights([params["weight"]])
            return y
        made = self.layer("Dense", layer.out_features, use_bias="bias" in params, name=name)
        y = made(x)
        made.set_weights([params["weight"].T, *([params["bias"]] if "bias" in params else [])])
        return y

    def activation(self, layer: Activation, x: Any, name: str) -> Any:
        name = plain(name)
        function = FUNCTIONS[layer.function]
        alpha, beta = (getattr(layer if n in function.parameters else function, n) for n in ("alpha", "beta"))
        if (known := keras_name(function.core, alpha, beta)) is not None:
            return self.layer("Activation", known, name=name)(x)
        if function.core in ("leaky_relu", "elu"):
            kind, option = {"leaky_relu": ("LeakyReLU", "negative_slope"), "elu": ("ELU", "alpha")}[function.core]
            return self.layer(kind, name=name, **{option: alpha})(x)
        if function.core == "affine":
            return self.layer("Rescaling", alpha, beta, name=name)(x)
        if function.core == "scaled_tanh":
            x = self.layer("Activation", "tanh")(self.layer("Rescaling", beta)(x))
            return self.layer("Rescaling", alpha, name=name)(x)
        if function.core == "hard_sigmoid":
            return self.layer("ReLU", 1.0, name=name)(self.layer("Rescaling", alpha, beta)(x))
        if alpha < 0:
            raise UnsupportedModel(f"Keras: node {name!r}: thresholded_relu: expected a threshold of 0 at least")
        return self.layer("ReLU", threshold=alpha, name=name)(x)

    # ------------------------------------------------------------------------------------------- operations

    def _softmax(self, node: Any, inputs: list[Any], mask: Any) -> Any:
        return self.layer("Activation", "log_softmax" if node.layer.log else "softmax", name=plain(node.name))(
            inputs[0]
        )

    def _layer_norm(self, node: Any, inputs: list[Any], mask: Any) -> Any:
        params = node.layer.state_dict()
        options = {"epsilon": node.layer.eps, "scale": "weight" in params, "center": "bias" in params}
        made = self.layer("LayerNormalization", name=plain(node.name), **options)
        y = made(inputs[0])
        made.set_weights([params[n] for n in ("weight", "bias") if n in params])
        return y

    def _scale(self, node: Any, inputs: list[Any], mask: Any) -> Any:
        """A batch normalisation of mean 0 and variance 1."""
        params = node.layer.state_dict()
        made = self.layer("BatchNormalization", epsilon=0.0, name=plain(node.name))
        y = made(inputs[0])
        zeros = np.zeros_like(params["bias"])
        made.set_weights([params["weight"], params["bias"], zeros, zeros + 1])
        return y

    def _dropout(self, node: Any, inputs: list[Any], mask: Any) -> Any:
        return self.layer("Dropout", node.layer.p, name=plain(node.name))(inputs[0])

    def _reshape(self, node: Any, inputs: list[Any], mask: Any) -> Any:
        return inputs[0]

    def _select(self, node: Any, inputs: list[Any], mask: Any) -> Any:
        return self.keras.ops.take(inputs[0], np.array(node.layer.indices, "int32"), axis=-1)

    def _repeat(self, node: Any, inputs: list[Any], mask: Any) -> Any:
        return self.layer("RepeatVector", node.layer.steps, name=plain(node.name))(inputs[0])

    def _reverse(self, node: Any, inputs: list[Any], mask: Any) -> Any:
        return self.keras.ops.flip(inputs[0], axis=1)

    def _mask(self, node: Any, inputs: list[Any], mask: Any) -> Any:
        ops, by = self.keras.ops, inputs[-1]
        own = ops.not_equal(by, node.layer.value)
        own = ops.any(own, axis=-1) if len(by.shape) == 3 else own
        self.masks[node.name] = own if mask is None else ops.logical_and(mask, own)
        return inputs[0]

    def _pool(self, node: Any, inputs: list[Any], mask: Any) -> Any:
        mode, name = node.layer.mode, plain(node.name)
        if mode == "mean":
            options = {} if mask is None else {"mask": mask}
            return self.layer("GlobalAveragePooling1D", name=name)(inputs[0], **options)
        if mask is not None:
            raise refused(node, f"mode: Keras has no {mode!r} of masked steps")
        if mode == "max":
            return self.layer("GlobalMaxPooling1D", name=name)(inputs[0])
        return inputs[0][:, -1 if mode == "last" else 0]

    def _merged(self, kind: str, node: Any, inputs: list[Any]) -> Any:
        return self.layer(kind, name=plain(node.name))(inputs)

    def _add(self, node: Any, inputs: list[Any], mask: Any) -> Any:
        return self._merged("Add", node, inputs)

    def _multiply(self, node: Any, inputs: list[Any], mask: Any) -> Any:
        return self._merged("Multiply", node, inputs)

    def _concatenate(self, node: Any, inputs: list[Any], mask: Any) -> Any:
        if len({len(each.shape) for each in inputs}) > 1:
            raise refused(node, "Keras joins no sequence with a value of all its steps")
        return self._merged("Concatenate", node, inputs)

    # ---------------------------------------------------------------------------------------------- windows

    def _window(self, node: Any, x: Any, mask: Any, kind: str, *args: Any, **options: Any) -> tuple[Any, Any]:
        """A Keras layer over (time, width) of channels last, and what it gives, flat with channels first."""
        layer = node.layer
        if mask is not None:
            raise refused(node, "expected no mask")
        value = next((n.value for n in self.source._nodes if n.name == node.inputs[0]), None)
        features = (value or self.source.inputs[node.inputs[0]]).features
        channels, width = features if len(features) == 2 else (*features, 1)
        x = self.layer("Reshape", (-1, channels, width))(x)
        x = self.layer("Permute", (1, 3, 2))(x)
        if layer.padding != ((0, 0), (0, 0)):
            x = self.layer("ZeroPadding2D", layer.padding)(x)
        made = self.layer(kind, *args, layer.kernel_size, strides=layer.stride, name=plain(node.name), **options)
        x = self.layer("Permute", (1, 3, 2))(made(x))
        return made, self.layer("Reshape", (-1, node.value.size))(x)

    def _conv1d(self, node: Any, inputs: list[Any], mask: Any) -> Any:
        layer, params, x = node.layer, node.layer.state_dict(), inputs[0]
        if mask is not None:
            raise refused(node, "expected no mask")
        size, stride, dilation = layer.kernel_size[0], layer.stride[0], layer.dilation[0]
        sides, padding = layer.padding[0], "valid"
        if sides == (dilation * (size - 1), 0):
            padding = "causal"
        elif sides != (0, 0):
            x = self.layer("ZeroPadding1D", sides)(x)
        options = {"dilation_rate": dilation, "groups": layer.groups, "use_bias": "bias" in params}
        made = self.layer(
            "Conv1D", layer.out_channels, size, strides=stride, padding=padding, name=plain(node.name), **options
        )
        y = made(x)
        made.set_weights([params["weight"].transpose(2, 1, 0), *([params["bias"]] if "bias" in params else [])])
        return y

    def _conv2d(self, node: Any, inputs: list[Any], mask: Any) -> Any:
        layer, params = node.layer, node.layer.state_dict()
        options = {"dilation_rate": layer.dilation, "groups": layer.groups, "use_bias": "bias" in params}
        made, y = self._window(node, inputs[0], mask, "Conv2D", layer.out_channels, **options)
        made.set_weights([params["weight"].transpose(2, 3, 1, 0), *([params["bias"]] if "bias" in params else [])])
        return y

    def _max_pool2d(self, node: Any, inputs: list[Any], mask: Any) -> Any:
        if node.layer.padding != ((0, 0), (0, 0)):
            raise refused(node, f"padding: expected none, got {node.layer.padding}")
        return self._window(node, inputs[0], mask, "MaxPooling2D")[1]

    def _avg_pool2d(self, node: Any, inputs: list[Any], mask: Any) -> Any:
        return self._window(node, inputs[0], mask, "AveragePooling2D")[1]
