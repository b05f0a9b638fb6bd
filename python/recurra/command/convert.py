"""``recurra convert A B``: a model's file in another format."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from recurra.model import Model, Node
from recurra.recurrent import Recurrent

from . import arguments

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["run"]


def run(path: Path, to: Path, precision: str | None) -> int:
    """Convert it, and say what was written."""
    writers = {".safetensors": _own, ".onnx": _onnx, ".keras": _keras, ".json": _rtneural}
    if to.suffix not in writers:
        raise ValueError(f"{to}: expected a suffix of {', '.join(writers)}")
    model = arguments.load(path)
    if precision:
        if to.suffix != ".safetensors":
            raise ValueError(f"--quantize: expected a .safetensors to write to, which keeps it, got {to}")
        model = quantized(model, precision)
    writers[to.suffix](model, to)
    print(f"{to}: {to.stat().st_size:,} bytes")
    return 0


def quantized(model: Model, precision: str) -> Model:
    """The model with its recurrent layers in reduced precision."""
    nodes = [
        Node(layer.quantize(precision) if isinstance(layer, Recurrent) else layer, inputs, name)
        for name, layer, inputs, *_ in model._nodes
    ]
    return Model(nodes, inputs=model.inputs, outputs=model.outputs, batch_first=model.batch_first)


def _own(model: Model, to: Path) -> None:
    model.save(to)


def _onnx(model: Model, to: Path) -> None:
    from recurra.formats.onnx import to_onnx

    to_onnx(model, to)


def _keras(model: Model, to: Path) -> None:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    from recurra.formats.keras import to_keras

    to_keras(model).save(to)


def _rtneural(model: Model, to: Path) -> None:
    from recurra.formats.rtneural import to_rtneural

    to_rtneural(model, to)
