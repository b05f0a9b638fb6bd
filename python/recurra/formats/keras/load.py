"""A recurra.Model of a Keras model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...model import Model
from ..unsupported import UnsupportedModel
from . import graph
from .builder import Builder, Tensor
from .source import Layer, Source, is_model, read, require_path

if TYPE_CHECKING:
    import os

__all__ = ["load_keras"]

# What reading something damaged may raise, here or in h5py.
_WRONG = (ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, TypeError)
_DAMAGE = (*_WRONG, ValueError)


def load_keras(source: str | os.PathLike[str] | Any) -> Model:
    """The model that Keras 2 or 3 saved as a `.keras` or `.h5` file, or has in memory, in inference.

        >>> layers = [keras.layers.GRU(64, return_sequences=True), keras.layers.Dense(9)]
        >>> model = recurra.formats.keras.load_keras(keras.Sequential([keras.Input((None, 12)), *layers]))
        >>> model(np.zeros((8, 100, 12), "float32")).shape  # [B, T, F], as in Keras
        (8, 100, 9)

    A file is read by h5py alone: neither Keras nor TensorFlow is needed, and nothing in it is executed. Nodes have the
    names of Keras's layers. What only training sees (dropout of recurrent layers, noise, regularizers, constraints,
    initializers, `trainable`) is left out. A stateful layer starts from zero in a call, as any other; its state is a
    stream's, or `state=` and `return_state=True` of calls. docs/formats-keras.md lists layers and attributes.

    Args:
        source: a file's path, or a live Sequential or functional model of keras or tf_keras.

    Raises:
        UnsupportedModel: something has no counterpart here; names layer and attribute.
        ValueError: the file is damaged.
        ImportError: h5py is not installed.
        OSError: the file cannot be read.
    """
    what = getattr(source, "name", None) if is_model(source) else require_path(source)
    try:
        found = read(source)
        return _built(found)
    except (UnsupportedModel, ImportError, FileNotFoundError, PermissionError):
        raise
    except _DAMAGE as error:
        raise ValueError(f"Keras: {what}: {error}") from error


def _built(found: Source) -> Model:
    b = Builder(found.version, _dtype(found.model))
    outputs = graph.run(b, found.model, list(graph.inputs_of(b, found.model)))
    tensors = [b.settled(each, found.model) for each in outputs]
    names = [b.flat(each) if len(each.shape) == 1 else _as_in_keras(b, each) for each in tensors]
    if len(set(names)) < len(names):
        raise found.model.refuse(f"outputs: expected different ones, got {names}")
    return b.model(names)


def _as_in_keras(b: Builder, tensor: Tensor) -> str:
    """An output whose steps have width by channels, in that order."""
    return b.reshape(b.flat(tensor), tensor.shape, f"{tensor.name}_output")


def _dtype(model: Layer) -> str:
    """float64 where all weights are, else float32.

    Raises:
        UnsupportedModel: some are neither floating-point numbers nor counts.
    """
    kinds = set()
    waiting = [model]
    while waiting:
        layer = waiting.pop()
        waiting += layer.parts.values()
        if "quant" in str(layer.config.get("dtype", "")).lower() or layer.config.get("lora_rank"):
            raise layer.refuse("dtype: expected floating-point weights, got quantized or LoRA ones")
        for role, array in layer.weights.items():
            if array.dtype.kind != "f" and role != "count":
                raise layer.refuse(f"{role}: expected floating-point weights, got {array.dtype}")
            kinds |= {str(array.dtype)} if role != "count" else set()
    return "float64" if kinds == {"float64"} else "float32"
