"""A shape as an ONNX model, for ONNX Runtime and OpenVINO."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from .shapes import Shape

Array = np.ndarray[Any, np.dtype[np.float32]]
ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "GRU-before": (1, 0, 2), "RNN": (0,)}  # ONNX's blocks by ours
RESET_AFTER = {"GRU": 1, "GRU-before": 0}


def state_names(shape: Shape) -> dict[str, str]:
    """Input to output of each state, where a stream hands them on."""
    states = "hc" if shape.cell == "LSTM" else "h"
    return {f"{s}0_{k}": f"{s}n_{k}" for k in range(shape.layers) for s in states} if shape.streaming else {}


def _weights(shape: Shape, params: Mapping[str, Array], layer: int) -> dict[str, Array]:
    """W [D, G*H, I], R [D, G*H, H] and B [D, 2*G*H] of one layer."""

    def packed(name: str) -> list[Array]:
        order = ORDER[shape.cell]
        arrays = [params[f"{name}_l{layer}{suffix}"] for suffix in ("", "_reverse")[: shape.directions]]
        return [a.reshape(len(order), shape.hidden, -1)[list(order)].reshape(a.shape) for a in arrays]

    biases = [np.concatenate(pair) for pair in zip(packed("bias_ih"), packed("bias_hh"), strict=True)]
    values = {"W": packed("weight_ih"), "R": packed("weight_hh"), "B": biases}
    return {f"{name}_{layer}": np.stack(arrays) for name, arrays in values.items()}


def build(shape: Shape, params: Mapping[str, Array]) -> onnx.ModelProto:
    """One node a layer, weights as initialisers so that they are prepacked; "y" is [T, D, B, H], of the last layer."""
    steps, batch, hidden, directions = shape.steps, shape.batch, shape.hidden, shape.directions
    states, lengths = state_names(shape), "lengths" if shape.lengths != "none" else ""
    values: dict[str, Any] = {"joined": np.array([steps, batch, directions * hidden])} if shape.layers > 1 else {}
    nodes, source = [], "x"
    for layer in range(shape.layers):
        weights, last = _weights(shape, params, layer), layer == shape.layers - 1
        values |= weights
        output = "y" if last else f"y_{layer}"
        mine = {start: end for start, end in states.items() if start.endswith(f"_{layer}")}
        options: dict[str, Any] = {"direction": "bidirectional"} if directions == 2 else {}
        if shape.cell in RESET_AFTER:
            options["linear_before_reset"] = RESET_AFTER[shape.cell]
        nodes.append(
            helper.make_node(
                shape.cell.partition("-")[0],
                [source, *weights, lengths, *mine],
                [output, *mine.values()],
                hidden_size=hidden,
                **options,
            )
        )
        if not last:
            source = f"x_{layer + 1}"
            nodes.append(helper.make_node("Transpose", [output], [f"turned_{layer}"], perm=[0, 2, 1, 3]))
            nodes.append(helper.make_node("Reshape", [f"turned_{layer}", "joined"], [source]))
    floats, one = TensorProto.FLOAT, [1, batch, hidden]
    inputs = [helper.make_tensor_value_info("x", floats, [steps, batch, shape.inputs])]
    inputs += [helper.make_tensor_value_info(name, floats, one) for name in states]
    if lengths:
        inputs.append(helper.make_tensor_value_info(lengths, TensorProto.INT32, [batch]))
    outputs = [helper.make_tensor_value_info("y", floats, [steps, directions, batch, hidden])]
    outputs += [helper.make_tensor_value_info(name, floats, one) for name in states.values()]
    initialisers = [onnx.numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "shape", inputs, outputs, initialisers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def quantized(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with ONNX Runtime's dynamic quantisation: DynamicQuantizeLSTM, int8 weights per channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # it advises to optimise first, which there is nothing to
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            quantize_dynamic(model, path, per_channel=True, weight_type=QuantType.QInt8)
            return onnx.load(path)
    finally:
        logging.disable(logging.NOTSET)
