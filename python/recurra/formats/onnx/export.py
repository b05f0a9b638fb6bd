"""From a model to an ONNX graph. Inside of it every sequence is [T, B, features], features flattened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..._options import flag, integer, shown
from ...activation import CORE_NAMES, FUNCTIONS
from ...model import Model
from ...model.structure import kind_of
from ...recurrent import Recurrent
from ..files import as_path, replace
from ..unsupported import UnsupportedModel
from .recurrent import GATES, PEEPHOLES

if TYPE_CHECKING:
    import os

    from ..._arrays import Array

__all__ = ["to_onnx"]

# The earliest opset that has Pad, Squeeze, Split and Reduce as they are written here.
_FIRST, _LAST = 13, 22
_SPELLED = {
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "relu": "Relu",
    "affine": "Affine",
    "leaky_relu": "LeakyRelu",
    "thresholded_relu": "ThresholdedRelu",
    "scaled_tanh": "ScaledTanh",
    "hard_sigmoid": "HardSigmoid",
    "elu": "Elu",
    "softsign": "Softsign",
    "softplus": "Softplus",
}


def to_onnx(model: Model, path: str | os.PathLike[str] | None = None, *, opset: int = 17, states: bool = False) -> Any:
    """The model as an onnx.ModelProto, with the axes that calls have, the sizes of time and batch left open.

        >>> model = recurra.Model([recurra.GRU(12, 64), recurra.Linear(64, 9)])
        >>> proto = recurra.formats.onnx.to_onnx(model, "model.onnx")
        >>> [node.op_type for node in proto.graph.node if node.op_type in ("GRU", "MatMul", "Gemm")]
        ['GRU', 'MatMul']

    Inputs and outputs have the model's names ("gru:h" is "gru_h"). Rows are all T long: lengths, masks and resets are
    not part of the file.

    Args:
        model: of layers that ONNX's operators express.
        path: where to write it too.
        opset: of ONNX, 13 to 22.
        states: whether initial states are inputs, "node_h_in", and final ones outputs, "node_h_out", [L*D, B, units].

    Raises:
        UnsupportedModel: a layer has no counterpart; names node, layer and option.
        ImportError: the package onnx is not installed.
        OSError: the file cannot be written.
    """
    if not isinstance(model, Model):
        raise TypeError(f"model: expected a recurra.Model, got {shown(model)}")
    file = None if path is None else as_path("path", path)
    opset, states = integer("opset", opset), flag("states", states)
    if not _FIRST <= opset <= _LAST:
        raise ValueError(f"opset: expected {_FIRST} to {_LAST}, got {opset}")
    proto = _Writer(model, opset, states).proto()
    if file is not None:
        replace(file, [proto.SerializeToString()])
    return proto


class _Writer:
    """The graph while it grows."""

    def __init__(self, model: Model, opset: int, states: bool) -> None:
        try:
            import onnx
        except ImportError:
            raise ImportError("ONNX files need the package onnx: pip install onnx") from None
        self.onnx = onnx
        self.model, self.opset, self.states = model, opset, states
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.names: dict[str, str] = {}  # of the model's values to those of tensors
        self.shapes: dict[str, tuple[int, ...]] = {}  # features of each value
        self.timed: dict[str, bool] = {}
        self.count = 0
        self.type = onnx.TensorProto.DOUBLE if model.dtype == np.float64 else onnx.TensorProto.FLOAT

    def proto(self) -> Any:
        """The whole file."""
        model, helper = self.model, self.onnx.helper
        for name, value in model.inputs.items():
            steps = f"T_{name}" if any(self.timed.values()) else "T"  # inputs may differ in length
            axes: list[Any] = ([steps, "B"][:: -1 if model.batch_first else 1]) if value.time else ["B"]
            kind = self.onnx.TensorProto.INT64 if value.integer else self.type
            self.inputs.append(helper.make_tensor_value_info(name, kind, [*axes, *value.features]))
            self._keep(name, value.features, value.time, self._inward(name, value))
        for node in model._nodes:
            self._node(node)
        for name in dict.fromkeys(model.outputs):
            self._output(name)
        graph = helper.make_graph(self.nodes, "recurra", self.inputs, self.outputs, self.constants)
        opsets = [helper.make_opsetid("", self.opset)]
        proto = helper.make_model(graph, opset_imports=opsets, producer_name="recurra", ir_version=8)
        self.onnx.checker.check_model(proto)
        return proto

    def _keep(self, name: str, features: tuple[int, ...], timed: bool, tensor: str) -> None:
        self.names[name], self.shapes[name], self.timed[name] = tensor, features, timed

    def op(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """The name of a node's first output."""
        self.count += 1
        name = f"{kind}:{self.count}" if output is None else output
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, array: Any) -> str:
        """The name of a constant."""
        self.count += 1
        name = f"constant:{self.count}"
        array = np.array(array, order="C")
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def number(self, value: float) -> str:
        """The name of a constant of the model's dtype."""
        return self.constant(np.array(value, self.model.dtype))

    def integers(self, *values: int) -> str:
        """The name of a constant of whole numbers."""
        return self.constant(np.array(values, np.int64))

    def _inward(self, name: str, value: Any) -> str:
        tensor = name
        if self.model.batch_first and value.time:
            tensor = self.op("Transpose", tensor, perm=[1, 0, *range(2, 2 + len(value.features))])
        return self._flat(tensor, value.features, value.time)

    def _flat(self, tensor: str, features: tuple[int, ...], timed: bool) -> str:
        """With features in one axis."""
        if len(features) == 2:
            tensor = self.op("Reshape", tensor, self.integers(*([0, 0] if timed else [0]), int(np.prod(features))))
        return tensor

    def _output(self, name: str) -> None:
        tensor, features, timed = self.names[name], self.shapes[name], self.timed[name]
        if len(features) == 2:
            tensor = self.op("Reshape", tensor, self.integers(*([0, 0] if timed else [0]), *features))
        own = name.replace(":", "_") if name not in self.model.inputs else f"{name}_out"
        axes: list[Any] = [f"T_{own}", "B"] if timed else ["B"]
        if self.model.batch_first and timed:
            self.op("Transpose", tensor, perm=[1, 0, *range(2, 2 + len(features))], output=own)
            axes.reverse()
        else:
            self.op("Identity", tensor, output=own)
        self.outputs.append(self.onnx.helper.make_tensor_value_info(own, self.type, [*axes, *features]))

    def _node(self, node: Any) -> None:
        kind = kind_of(node.layer)
        write = getattr(self, f"_{kind}", None)
        if write is None:
            raise UnsupportedModel(f"ONNX: node {node.name!r} ({type(node.layer).__name__}): has no counterpart")
        tensors = [self.names[each] for each in node.inputs]
        try:
            tensor = write(node, tensors)
        except UnsupportedModel as error:
            raise UnsupportedModel(f"ONNX: node {node.name!r} ({type(node.layer).__name__}): {error}") from None
        self._keep(node.name, node.value.features, node.value.time, tensor)

    # One method for each kind of layer: the node, its inputs' tensors, the name of what comes out.

    def _linear(self, node: Any, tensors: list[str]) -> str:
        parameters = node.layer.state_dict()
        product = self.op("MatMul", tensors[0], self.constant(parameters["weight"].T))
        return self.op("Add", product, self.constant(parameters["bias"])) if "bias" in parameters else product

    def _embedding(self, node: Any, tensors: list[str]) -> str:
        return self.op("Gather", self.constant(node.layer.state_dict()["weight"]), tensors[0])

    def _activation(self, node: Any, tensors: list[str]) -> str:
        layer, x = node.layer, tensors[0]
        function = layer.function
        if function == "linear":
            return self.op("Identity", x)
        if function in ("affine", "scaled_tanh"):
            inner = self.op("Mul", x, self.number(layer.alpha if function == "affine" else layer.beta))
            if function == "affine":
                return self.op("Add", inner, self.number(layer.beta))
            return self.op("Mul", self.op("Tanh", inner), self.number(layer.alpha))
        own = {name: getattr(layer, name) for name in ("alpha", "beta") if getattr(layer, name) is not None}
        return self.op(_SPELLED[function], x, **own)

    def _softmax(self, node: Any, tensors: list[str]) -> str:
        return self.op("LogSoftmax" if node.layer.log else "Softmax", tensors[0], axis=-1)

    def _sqrt(self, node: Any, tensors: list[str]) -> str:
        return self.op("Sqrt", tensors[0])

    def _layer_norm(self, node: Any, tensors: list[str]) -> str:
        layer, x = node.layer, tensors[0]
        parameters = layer.state_dict()
        weight = parameters.get("weight", np.ones(layer.features, layer.dtype))
        if self.opset >= 17:
            more = [self.constant(parameters["bias"])] if "bias" in parameters else []
            return self.op("LayerNormalization", x, self.constant(weight), *more, axis=-1, epsilon=layer.eps)
        centred = self.op("Sub", x, self._mean(x))
        variance = self._mean(self.op("Mul", centred, centred))
        root = self.op("Sqrt", self.op("Add", variance, self.number(layer.eps)))
        scaled = self.op("Mul", self.op("Div", centred, root), self.constant(weight))
        return self.op("Add", scaled, self.constant(parameters["bias"])) if "bias" in parameters else scaled

    def _mean(self, x: str) -> str:
        return self.op("ReduceMean", x, axes=[-1], keepdims=1)

    def _scale(self, node: Any, tensors: list[str]) -> str:
        parameters = node.layer.state_dict()
        scaled = self.op("Mul", tensors[0], self.constant(parameters["weight"]))
        return self.op("Add", scaled, self.constant(parameters["bias"]))

    def _pool(self, node: Any, tensors: list[str]) -> str:
        mode, x = node.layer.mode, tensors[0]
        if mode in ("first", "last"):
            return self.op("Gather", x, self.constant(np.array(0 if mode == "first" else -1, np.int64)), axis=0)
        if mode == "max" and self.opset >= 18:
            return self.op("ReduceMax", x, self.integers(0), keepdims=0)
        if mode == "mean" and self.opset >= 18:
            return self.op("ReduceMean", x, self.integers(0), keepdims=0)
        return self.op("ReduceMax" if mode == "max" else "ReduceMean", x, axes=[0], keepdims=0)

    def _dropout(self, node: Any, tensors: list[str]) -> str:
        return self.op("Identity", tensors[0])

    def _select(self, node: Any, tensors: list[str]) -> str:
        return self.op("Gather", tensors[0], self.integers(*node.layer.indices), axis=-1)

    def _reshape(self, node: Any, tensors: list[str]) -> str:
        return tensors[0]

    def _reverse(self, node: Any, tensors: list[str]) -> str:
        ends = [self.integers(each) for each in (-1, -(1 << 62), 0, -1)]
        return self.op("Slice", tensors[0], *ends)

    def _repeat(self, node: Any, tensors: list[str]) -> str:
        sequence = self.op("Unsqueeze", tensors[0], self.integers(0))
        return self.op("Expand", sequence, self.integers(node.layer.steps, 1, 1))

    def _add(self, node: Any, tensors: list[str]) -> str:
        return self._elementwise("Add", tensors)

    def _multiply(self, node: Any, tensors: list[str]) -> str:
        return self._elementwise("Mul", tensors)

    def _elementwise(self, kind: str, tensors: list[str]) -> str:
        """[B, F] broadcasts to [T, B, F]."""
        result = tensors[0]
        for tensor in tensors[1:]:
            result = self.op(kind, result, tensor)
        return result

    def _concatenate(self, node: Any, tensors: list[str]) -> str:
        timed = [self.timed[each] for each in node.inputs]
        if any(timed) and not all(timed):
            steps = self.op("Shape", tensors[timed.index(True)])
            steps = self.op("Gather", steps, self.integers(0))
            shape = self.op("Concat", steps, self.integers(1, 1), axis=0)
            tensors = [
                tensor if own else self.op("Expand", self.op("Unsqueeze", tensor, self.integers(0)), shape)
                for tensor, own in zip(tensors, timed, strict=True)
            ]
        return self.op("Concat", *tensors, axis=-1)

    def _conv1d(self, node: Any, tensors: list[str]) -> str:
        layer = node.layer
        x = self.op("Transpose", tensors[0], perm=[1, 2, 0])
        before, after = layer.padding[0]
        window = {"strides": [layer.stride[0]], "dilations": [layer.dilation[0]], "pads": [before, after]}
        return self.op("Transpose", self._convolution(layer, x, window), perm=[2, 0, 1])

    def _conv2d(self, node: Any, tensors: list[str]) -> str:
        layer = node.layer
        window = {name: list(getattr(layer, each)) for name, each in (("strides", "stride"), ("dilations", "dilation"))}
        return self._over_image(node, tensors[0], lambda x, pads: self._convolution(layer, x, {**window, "pads": pads}))

    def _convolution(self, layer: Any, x: str, window: dict[str, Any]) -> str:
        parameters = [self.constant(array) for array in layer.state_dict().values()]
        kernel = list(layer.state_dict()["weight"].shape[2:])
        return self.op("Conv", x, *parameters, kernel_shape=kernel, group=layer.groups, **window)

    def _max_pool2d(self, node: Any, tensors: list[str]) -> str:
        return self._windows(node, tensors[0], "MaxPool", {})

    def _avg_pool2d(self, node: Any, tensors: list[str]) -> str:
        return self._windows(node, tensors[0], "AveragePool", {"count_include_pad": 1})

    def _windows(self, node: Any, x: str, kind: str, more: dict[str, Any]) -> str:
        layer = node.layer
        window = {"kernel_shape": list(layer.kernel_size), "strides": list(layer.stride), **more}
        return self._over_image(node, x, lambda image, pads: self.op(kind, image, pads=pads, **window))

    def _over_image(self, node: Any, x: str, function: Any) -> str:
        """From [T, B, C*W] to [B, C, T, W], and back."""
        features = self.shapes[node.inputs[0]]
        channels, width = features if len(features) == 2 else (*features, 1)
        image = self.op("Reshape", x, self.integers(0, 0, channels, width))
        image = self.op("Transpose", image, perm=[1, 2, 0, 3])
        (top, bottom), (left, right) = node.layer.padding
        result = self.op("Transpose", function(image, [top, left, bottom, right]), perm=[2, 0, 1, 3])
        return self.op("Reshape", result, self.integers(0, 0, int(np.prod(node.value.features))))

    def _recurrent(self, node: Any, tensors: list[str]) -> str:
        layer, x = node.layer, tensors[0]
        kind, attributes, fixed = _described(layer)
        letters = list(layer._packed.state_shapes(()))
        directions = 2 if layer.bidirectional else 1
        given = self._initial_states(node, letters, tensors[1:], directions)
        parameters = layer.state_dict()
        final: dict[str, list[str]] = {letter: [] for letter in letters}
        for number in range(layer.num_layers):
            weights = _weights(layer, kind, parameters, number, fixed)
            inputs = {name: self.constant(array) for name, array in weights.items()}
            states = [self._state(each, node, letter, number, directions) for letter, each in given.items()]
            self.count += 1
            names = [f"{node.name}:{number}:{each}" for each in ("y", *letters)]
            operands = [x, inputs["W"], inputs["R"], inputs.get("B", ""), "", *states]
            if "P" in inputs:
                operands += [""] * (7 - len(operands)) + [inputs["P"]]
            while operands[-1] == "":
                operands.pop()
            own = f"{node.name}/{kind}" if layer.num_layers == 1 else f"{node.name}_{number}/{kind}"
            self.nodes.append(self.onnx.helper.make_node(kind, operands, names, name=own, **attributes))
            for letter, name in zip(letters, names[1:], strict=True):
                final[letter].append(name)
            y = self.op("Transpose", names[0], perm=[0, 2, 1, 3])
            x = self.op("Reshape", y, self.integers(0, 0, directions * layer.hidden_size))
        for letter, parts in final.items():
            self._final_state(node, letter, parts, directions)
        return x

    def _initial_states(self, node: Any, letters: list[str], tensors: list[str], directions: int) -> dict[str, Any]:
        """For each state the name of a tensor [L*D, B, H], an array [L*D, H], or None."""
        layer = node.layer
        count = layer.num_layers * directions
        if tensors:
            shaped = [self.op("Reshape", each, self.integers(0, count, layer.hidden_size)) for each in tensors]
            return {x: self.op("Transpose", each, perm=[1, 0, 2]) for x, each in zip(letters, shaped, strict=True)}
        if self.states:
            names = {letter: f"{node.name}_{letter}_in" for letter in letters}
            shape = [count, "B", layer.hidden_size]
            self.inputs += [self.onnx.helper.make_tensor_value_info(n, self.type, shape) for n in names.values()]
            return names
        return {letter: layer.state_dict().get(f"{letter}_0") for letter in letters}

    def _state(self, given: Any, node: Any, letter: str, number: int, directions: int) -> str:
        """One layer's part of it, [D, B, H]."""
        if given is None:
            return ""
        rows = slice(number * directions, (number + 1) * directions)
        if isinstance(given, str):
            if node.layer.num_layers == 1:
                return given
            ends = [self.integers(each) for each in (rows.start, rows.stop, 0)]
            return self.op("Slice", given, *ends)
        first = next(iter(self.names.values()))
        batch_axis = 1 if next(iter(self.timed.values())) else 0
        batch = self.op("Gather", self.op("Shape", first), self.integers(batch_axis))
        shape = self.op("Concat", self.integers(1), batch, self.integers(1), axis=0)
        return self.op("Expand", self.constant(given[rows][:, None]), shape)

    def _final_state(self, node: Any, letter: str, parts: list[str], directions: int) -> None:
        """The value "node:h", [B, L*D*H], where somebody uses it, and an output of its own where that is wanted."""
        layer, name = node.layer, f"{node.name}:{letter}"
        size = layer.num_layers * directions * layer.hidden_size
        if self.states:
            own = f"{node.name}_{letter}_out"
            self.op("Concat", *parts, axis=0, output=own)
            shape = [layer.num_layers * directions, "B", layer.hidden_size]
            self.outputs.append(self.onnx.helper.make_tensor_value_info(own, self.type, shape))
        if name in self.model.outputs or any(name in each.inputs for each in self.model._nodes):
            rows = self.op("Transpose", self.op("Concat", *parts, axis=0), perm=[1, 0, 2])
            self._keep(name, (size,), False, self.op("Reshape", rows, self.integers(0, size)))


def _described(layer: Recurrent) -> tuple[str, dict[str, Any], str]:
    """ONNX's operator, its attributes, and which of our variants it is.

    Raises:
        UnsupportedModel: it is of another cell, or has an option that the operator lacks.
    """
    cell = layer.cell.removesuffix("_general")
    attributes: dict[str, Any] = {"hidden_size": layer.hidden_size, "direction": layer.direction}
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "rnn": ("RNN", {}), "rnn_tanh": ("RNN", {}), "rnn_relu": ("RNN", {"activations": ["Relu"]}),
        "rnn_sigmoid": ("RNN", {"activations": ["Sigmoid"]}),
        "gru": ("GRU", {"linear_before_reset": 1}), "gru_reset_before": ("GRU", {"linear_before_reset": 0}),
        "lstm": ("LSTM", {}), "lstm_peephole": ("LSTM", {}),
        "lstm_f_from_i": ("LSTM", {"input_forget": 1}), "lstm_f_from_i_peephole": ("LSTM", {"input_forget": 1}),
    }  # fmt: skip
    if cell not in kinds:
        raise UnsupportedModel(f"cell {layer.cell!r} has no counterpart")
    if layer.precision is not None:
        raise UnsupportedModel(f"precision: expected none, got {layer.precision!r}")
    if any(layer.zoneout if isinstance(layer.zoneout, tuple) else (layer.zoneout,)):
        raise UnsupportedModel(f"zoneout: expected 0, got {layer.zoneout}")
    kind, more = kinds[cell]
    attributes |= {
        name: value * (2 if layer.bidirectional else 1) if isinstance(value, list) else value
        for name, value in more.items()
    }
    constants = _constants(layer)
    if np.isfinite(constants.get("cell_clip", np.inf)):
        raise UnsupportedModel(f"cell_clip: expected none, got {constants['cell_clip']}")
    if layer.cell.endswith("_general"):
        attributes |= _activation_lists(constants, kind, 2 if layer.bidirectional else 1)
    return kind, attributes, cell


def _constants(layer: Recurrent) -> dict[str, float]:
    from ..._cells import CELLS

    return CELLS[layer.cell].constant_values(layer.constants, layer.dtype, 2 if layer.bidirectional else 1)


def _activation_lists(constants: dict[str, float], kind: str, directions: int) -> dict[str, Any]:
    clips = {constants.get(name, np.inf) for name in ("clip", "clip_reverse") if name in constants}
    if len(clips) > 1:
        raise UnsupportedModel("clip: expected the same for both directions")
    lists: dict[str, list[Any]] = {"activations": [], "activation_alpha": [], "activation_beta": []}
    for end in ("", "_reverse")[:directions]:
        for letter in {"RNN": "f", "GRU": "fg", "LSTM": "fgh"}[kind]:
            own = end if f"{letter}{end}" in constants else ""
            core = CORE_NAMES[int(constants[f"{letter}{own}"])]
            alpha, beta = (constants[f"{letter}_{each}{own}"] for each in ("alpha", "beta"))
            name = _named(core, alpha, beta)
            lists["activations"].append(_SPELLED[name])
            parameters = FUNCTIONS[name].parameters
            lists["activation_alpha"] += [alpha] * ("alpha" in parameters)
            lists["activation_beta"] += [beta] * ("beta" in parameters)
    found: dict[str, Any] = {name: values for name, values in lists.items() if values}
    clip = clips.pop() if clips else np.inf
    return found | ({"clip": float(clip)} if np.isfinite(clip) else {})


def _named(core: str, alpha: float, beta: float) -> str:
    """The function that is this one of the core with these parameters."""
    for name, function in FUNCTIONS.items():
        if function.core == core and name in _SPELLED:
            own = (
                None if "alpha" in function.parameters else function.alpha,
                None if "beta" in function.parameters else function.beta,
            )
            if all(fixed is None or fixed == value for fixed, value in zip(own, (alpha, beta), strict=True)):
                return name
    raise UnsupportedModel(f"activation {core!r} has no counterpart")


def _weights(layer: Recurrent, kind: str, parameters: dict[str, Array], number: int, cell: str) -> dict[str, Array]:
    """W, R, B and P of one layer."""
    coupled = "f_from_i" in cell
    found: dict[str, list[Array]] = {}
    for end in ("", "_reverse")[: 2 if layer.bidirectional else 1]:
        own = {
            name: parameters.get(f"{name}_l{number}{end}")
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_peep")
        }
        blocks = {
            n: _theirs(array, GATES[kind], coupled)
            for n, array in own.items()
            if array is not None and n != "weight_peep"
        }
        found.setdefault("W", []).append(blocks["weight_ih"])
        found.setdefault("R", []).append(blocks["weight_hh"])
        if "bias_ih" in blocks:
            found.setdefault("B", []).append(np.concatenate([blocks["bias_ih"], blocks["bias_hh"]]))
        if own["weight_peep"] is not None:
            found.setdefault("P", []).append(_theirs(own["weight_peep"], PEEPHOLES, coupled))
    return {name: np.stack(arrays) for name, arrays in found.items()}


def _theirs(array: Array, order: tuple[int, ...], coupled: bool) -> Array:
    """Blocks in ONNX's order; zeros for f, which is not read where it is 1 - i."""
    blocks = np.split(array, len(order) - coupled)
    if coupled:
        blocks.insert(1, np.zeros_like(blocks[0]))
    return np.concatenate([blocks[i] for i in np.argsort(order)])
