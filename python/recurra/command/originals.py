"""The runtimes that models come from: what they make of the same input, for ``verify`` and ``bench``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from recurra._arrays import Array
    from recurra.model import Model

__all__ = ["Case", "Original", "original_of"]

_STATES = 0.5  # range of random initial states


class Case(NamedTuple):
    """One input, for the runtime and for the model.

    Attributes:
        x: the model's inputs by name.
        state: its initial states.
        feed: the runtime's inputs.
    """

    x: dict[str, Array]
    state: dict[str, Any] | None
    feed: Any


class Original(NamedTuple):
    """A file in the runtime it was made for.

    Attributes:
        title: of the runtime.
        model: what recurra makes of the file.
        names: of the outputs.
        case: (steps, batch, random) -> a random input.
        run: the runtime's outputs for a feed.
        outputs: the model's, as the runtime has them, from its outputs by name and its final states.
        inner: values inside the runtime for a feed, by name of the model's node.
    """

    title: str
    model: Model
    names: list[str]
    case: Callable[[int, int, np.random.Generator], Case]
    run: Callable[[Any], list[Array]]
    outputs: Callable[[dict[str, Array], dict[str, Any]], list[Array]]
    inner: Callable[[Any], dict[str, Array]]


def original_of(path: Path, threads: int = 1) -> Original:
    """The file in its own runtime, which computes on so many threads.

    Raises:
        ValueError: there is none for such files.
        ImportError: it is not installed.
    """
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return _onnx(path, threads)
    if suffix in (".keras", ".h5", ".hdf5"):
        return _keras(path, threads)
    if suffix in (".pt", ".pth"):
        return _torch(path, threads)
    if suffix in (".json", ".nam"):
        raise ValueError(f"{path}: the runtime of such files is a C++ library, which Python does not reach")
    raise ValueError(f"{path}: expected .onnx, .keras, .h5 or a TorchScript .pt, which have a runtime of their own")


def random_inputs(model: Model, steps: int, batch: int, random: np.random.Generator) -> dict[str, Array]:
    """Of a call, in the model's order of axes; whole numbers are below the smallest table that is read."""
    tables = [layer.num_embeddings for layer in model.layers.values() if hasattr(layer, "num_embeddings")]
    axes = (batch, steps) if model.batch_first else (steps, batch)
    arrays: dict[str, Array] = {}
    for name, value in model.inputs.items():
        shape = (*(axes if value.time else (batch,)), *value.features)
        if value.integer:
            arrays[name] = random.integers(0, min(tables, default=2), shape)
        else:
            arrays[name] = random.standard_normal(shape).astype(model.dtype)
    return arrays


def _onnx(path: Path, threads: int) -> Original:
    import onnx
    import onnxruntime

    from recurra.formats.onnx import read_onnx
    from recurra.formats.onnx.builder import plain_name

    imported = read_onnx(path)
    model = imported.model
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Between calls its threads would spin on the cores of whoever is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = {each.name: each for each in session.get_inputs()}
    numbers = {"tensor(float)": "f4", "tensor(double)": "f8", "tensor(float16)": "f2", "tensor(int64)": "i8"}
    names = [*imported.outputs, *imported.final]

    def typed(name: str, array: Array) -> Array:
        return np.ascontiguousarray(array.astype(numbers.get(given[name].type, "i4")))

    def time_major(array: Array, timed: bool) -> Array:
        return array.swapaxes(0, 1) if timed and model.batch_first else array

    def case(steps: int, batch: int, random: np.random.Generator) -> Case:
        x = random_inputs(model, steps, batch, random)
        held = imported.inputs.items()
        feed = {name: typed(name, own.from_model(time_major(x[own.value], own.timed))) for name, own in held}
        states = {}
        for name in imported.state_inputs:
            shape = [size if isinstance(size, int) else batch for size in given[name].shape]
            states[name] = typed(name, random.uniform(-_STATES, _STATES, shape))
        if imported.lengths:
            feed[imported.lengths] = typed(imported.lengths, np.full(batch, steps))
        state = imported.state({name: array.astype(model.dtype) for name, array in states.items()}) if states else None
        return Case(x, state, feed | states)

    def outputs(made: dict[str, Array], final: dict[str, Any]) -> list[Array]:
        held = imported.outputs
        return [
            own.from_model(time_major(made[own.value], own.timed))
            if (own := held.get(name))
            else imported.final_state(name, final)
            for name in names
        ]

    def inner(feed: Any) -> dict[str, Array]:
        whole = onnx.load(str(path))
        first = {name: node.output[0] for node in whole.graph.node if (name := plain_name(node.name, node.op_type))}
        there = {each.name for each in whole.graph.output}
        wanted = [name for name in first.values() if name and name not in there]
        whole.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in wanted)
        opened = onnxruntime.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])
        values = dict(zip(wanted, opened.run(wanted, feed), strict=True))
        return {name: values[output] for name, output in first.items() if output in values}

    return Original("ONNX Runtime", model, names, case, lambda feed: list(session.run(names, feed)), outputs, inner)


def _keras(path: Path, threads: int) -> Original:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    from recurra.formats.keras import load_keras

    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(threads)

    model, whole = load_keras(path), keras.saving.load_model(path, compile=False)
    names = [tensor.name for tensor in whole.outputs]

    def predicted(keras_model: Any, feed: Any) -> list[Array]:
        made = keras_model(feed, training=False)
        made = made if isinstance(made, (list, tuple)) else [made]
        return [keras.ops.convert_to_numpy(each) for each in made]

    def case(steps: int, batch: int, random: np.random.Generator) -> Case:
        fixed = [tensor.shape for tensor in whole.inputs]
        steps = next((shape[1] for shape in fixed if len(shape) > 2 and shape[1]), steps)
        batch = next((shape[0] for shape in fixed if shape[0]), batch)
        x = random_inputs(model, steps, batch, random)
        feed = list(x.values())
        return Case(x, None, feed if len(feed) > 1 else feed[0])

    def inner(feed: Any) -> dict[str, Array]:
        layers = [layer for layer in whole.layers if isinstance(getattr(layer, "output", None), keras.KerasTensor)]
        values = predicted(keras.Model(whole.inputs, [layer.output for layer in layers]), feed)
        return {layer.name: value for layer, value in zip(layers, values, strict=True)}

    return Original(
        "Keras", model, names, case, lambda feed: predicted(whole, feed), lambda made, final: list(made.values()), inner
    )


def _torch(path: Path, threads: int) -> Original:
    import torch

    from recurra.formats.torch import load_torch

    torch.set_num_threads(threads)
    model = load_torch(path)
    try:
        module: Any = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
        module.eval()
    except RuntimeError as error:
        raise ValueError(f"{path}: expected a TorchScript file, which can be run: {error}") from None
    names = list(model.outputs)

    def case(steps: int, batch: int, random: np.random.Generator) -> Case:
        x = random_inputs(model, steps, batch, random)
        return Case(x, None, [torch.from_numpy(array) for array in x.values()])

    def run(feed: Any) -> list[Array]:
        with torch.inference_mode():
            made = module(*feed)
        flat = torch.utils._pytree.tree_leaves(made)
        if len(flat) < len(names):
            raise ValueError(f"{path}: expected {len(names)} results, got {len(flat)}")
        return [tensor.numpy() for tensor in flat[: len(names)]]

    return Original("PyTorch", model, names, case, run, lambda made, final: list(made.values()), lambda feed: {})
