"""ONNX models for tests: made, run in ONNX Runtime, and run as the model that is imported from them."""

from __future__ import annotations

import inspect
import io
import warnings
from typing import Any

import model_reference
import numpy as np
import onnx
import onnxruntime as ort
from checks import Array, assert_close

from recurra.formats.onnx import Imported, read_onnx

TYPES = {
    np.dtype("float32"): onnx.TensorProto.FLOAT,
    np.dtype("float64"): onnx.TensorProto.DOUBLE,
    np.dtype("float16"): onnx.TensorProto.FLOAT16,
    np.dtype("int32"): onnx.TensorProto.INT32,
    np.dtype("int64"): onnx.TensorProto.INT64,
}


def graph_of(
    nodes: list[Any],
    inputs: dict[str, tuple[Any, list[Any]]],
    outputs: list[str],
    constants: dict[str, Array],
    opset: int = 17,
) -> Any:
    """A model; inputs are name to (dtype, sizes)."""
    values = [onnx.helper.make_tensor_value_info(n, TYPES[np.dtype(d)], s) for n, (d, s) in inputs.items()]
    results = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in outputs]
    initializers = [onnx.numpy_helper.from_array(np.array(a, order="C"), n) for n, a in constants.items()]
    graph = onnx.helper.make_graph(nodes, "g", values, results, initializers)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)


def runtime(proto: Any, feeds: dict[str, Array]) -> dict[str, Array]:
    """What ONNX Runtime gives, by name of the output."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # the graph as it is written
    data = proto if isinstance(proto, bytes) else proto.SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def ours(imported: Imported, feeds: dict[str, Array]) -> dict[str, Array]:
    """What the imported model gives for the file's inputs, as the file's outputs: the oracle and the model itself."""
    model = imported.model
    given = {name: binding.to_model(np.asarray(feeds[name])) for name, binding in imported.inputs.items()}
    given = {name: a if a.dtype.kind in "iu" else a.astype(model.dtype) for name, a in given.items()}
    shaped = {}
    for name, array in given.items():
        value = model.inputs[name]
        array = array if value.integer else array.reshape(*array.shape[:-1], *value.features)
        shaped[name] = array.swapaxes(0, 1) if model.batch_first and value.time else array
    state = imported.state(feeds) or None
    lengths = None if imported.lengths is None else feeds[imported.lengths]
    results, final = model_reference.run(model, shaped, state, lengths)
    if hasattr(model, "forward"):
        x = shaped if len(shaped) > 1 else next(iter(shaped.values()))
        computed, states = model(x, state, lengths=lengths, return_state=True)
        computed = computed if isinstance(computed, dict) else {model.outputs[0]: computed}
        for name, expected in results.items():
            assert_close(computed[name], expected.astype(model.dtype), 3e-6)
        results, final = computed, states
    outputs = {}
    for name, binding in imported.outputs.items():
        array = results[binding.value]
        outputs[name] = binding.from_model(array.swapaxes(0, 1) if model.batch_first and binding.timed else array)
    for name in imported.final:
        outputs[name] = imported.final_state(name, final)
    return outputs


def check(proto: Any, feeds: dict[str, Array], tolerance: float = 2e-6, **options: Any) -> Imported:
    """Import, run both, compare all outputs; returns what was imported."""
    imported = read_onnx(proto if isinstance(proto, bytes) else proto.SerializeToString(), **options)
    expected, found = runtime(proto, feeds), ours(imported, feeds)
    assert set(expected) == set(found)
    for name, array in expected.items():
        assert found[name].shape == array.shape, (name, found[name].shape, array.shape)
        scale = max(1.0, float(np.abs(array).max(initial=0)))
        difference = float(np.abs(found[name] - array).max(initial=0)) / scale
        assert difference <= tolerance, (name, difference)
    return imported


def variadic(module: Any) -> bool:
    """Whether forward takes *arguments."""
    return any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(module.forward).parameters.values())


def exported(
    module: Any, arguments: tuple[Any, ...], names: list[str], dynamic: dict[str, dict[int, str]], **options: Any
) -> bytes:
    """The bytes that torch.onnx.export writes, of its TorchScript exporter unless dynamo=True."""
    import torch

    module.eval()
    buffer: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if options.pop("dynamo", False):
            dims: dict[str, Any] = {}
            shapes = tuple(
                {
                    axis: dims.setdefault(n, torch.export.Dim(n, min=2, max=4096))
                    for axis, n in dynamic.get(name, {}).items()
                }
                for name in names
            )
            torch.onnx.export(
                module,
                arguments,
                buffer,
                dynamo=True,
                dynamic_shapes=(shapes,) if variadic(module) else shapes,
                input_names=names,
                verbose=False,
                **options,
            )
        else:
            torch.onnx.export(
                module, arguments, buffer, dynamo=False, input_names=names, dynamic_axes=dynamic, **options
            )
    return bytes(buffer.getvalue())


def parsed(text: str, opset: int = 17, /, **constants: Any) -> Any:
    """A model in ONNX's textual syntax, "(float[B,T,4] x) => (float[B,T,3] y) { y = MatMul (x, w) }"."""
    head = f'<ir_version: 8, opset_import: ["" : {opset}]> g '
    model = onnx.parser.parse_model(head + text)
    for name, array in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(array, order="C"), name))
    return model
