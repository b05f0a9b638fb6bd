"""What a model consists of, as a table."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from ..activation import Activation
from ..recurrent import Recurrent
from .convolution import Conv2d, _Window
from .structure import has_parameters

if TYPE_CHECKING:
    from .._arrays import Array
    from .model import Model

__all__ = ["Row", "rows", "table"]


class Row(NamedTuple):
    """A node of a model.

    Attributes:
        name: of the node.
        kind: its layer's class, cell or function.
        output: shape of what comes out; "T/2" where strides leave one of two steps.
        parameters: how many numbers; 0 for a layer that was counted before.
        multiply_adds: in products with weights, for each step of the input.
        bytes: of the parameters, as they are kept.
    """

    name: str
    kind: str
    output: str
    parameters: int
    multiply_adds: int
    bytes: int


def rows(model: Model) -> list[Row]:
    """One for each node."""
    made, counted = [], set()
    strides = dict.fromkeys(model.inputs, Fraction(1))
    for node in model._nodes:
        layer, stride = node.layer, max(strides.get(name, Fraction(1)) for name in node.inputs)
        if isinstance(layer, _Window):
            stride *= layer.stride[0]
        strides[node.name] = stride if node.value.time else Fraction(1)
        axes = [f"T/{stride}" if stride > 1 else "T"] if node.value.time else []
        axes = ["B", *axes] if model.batch_first else [*axes, "B"]
        output = f"[{', '.join(map(str, (*axes, *node.value.features)))}]"
        params = layer.state_dict() if has_parameters(layer) and id(layer) not in counted else {}
        counted.add(id(layer))
        size = sum(array.size for array in params.values())
        kept = sum(_bytes(layer, name, array) for name, array in params.items())
        made.append(Row(node.name, _kind(layer), output, size, round(_products(node) / stride), kept))
    return made


def _kind(layer: Any) -> str:
    if isinstance(layer, Activation):
        return layer.function
    return layer.cell if type(layer) is Recurrent else type(layer).__name__


def _products(node: Any) -> int:
    """Multiply-adds of a step, in products with weights: a matrix counts once, a convolution's once a place."""
    layer = node.layer
    if isinstance(layer, Recurrent):
        shapes = layer._packed.shapes
        return sum(shape[0] * shape[1] for name, shape in shapes.items() if len(shape) == 2 and name not in _STATES)
    if isinstance(layer, Conv2d):
        return int(layer._parameters["weight"].size) * int(node.value.size // layer.out_channels)
    return int(layer.in_features * layer.out_features) if hasattr(layer, "in_features") else 0


_STATES = ("h_0", "c_0")


def _bytes(layer: Any, name: str, array: Array) -> int:
    """Rounded weights are of 1 byte or 2; their scales are not counted."""
    if getattr(layer, "precision", None) and array.ndim == 2 and name not in _STATES:
        number = re.search(r"_l(\d+)", name)
        if number and int(number[1]) not in layer.keep:
            return array.size * {"int8": 1, "bfloat16": 2}[layer.precision]
    return array.nbytes


def table(model: Model) -> str:
    """All of them, and their sums."""
    found = rows(model)
    total = Row("total", "", "", *(sum(column) for column in zip(*(row[3:] for row in found), strict=True)))
    lines: list[tuple[str, ...]] = [("layer", "kind", "output", "parameters", "multiply-adds", "bytes")]
    lines += [(*row[:3], *(f"{number:,}" for number in row[3:])) for row in (*found, total)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            cell.ljust(width) if k < 3 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    rule = "-" * len(text[0])
    return "\n".join([text[0], rule, *text[1:-1], rule, text[-1]])
