"""Products of a recurrent layer as C, and what such a layer has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .arithmetic import literal
from .source import indented

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._arrays import Array
    from ..recurrent import Recurrent
    from .cells import Blocks, Phase
    from .source import Source

__all__ = ["Layer", "cell", "own_numbers", "product", "quantised"]


class Layer(NamedTuple):
    """One layer of a recurrent node.

    Attributes:
        of: the node's layers.
        number: which of them, from 0.
        name: of the C function that makes a step.
        params: the layer's own parameters, by the names of the cell's table.
        int8: whether products are of whole numbers.
        vectors: whether a step runs over vectors of units.
    """

    of: Recurrent
    number: int
    name: str
    params: Mapping[str, Array]
    int8: bool
    vectors: bool = False

    @property
    def inputs(self) -> int:
        """Size of x."""
        return self.outputs if self.number else int(self.of.input_size)

    @property
    def hidden(self) -> int:
        """Units of the cell."""
        return int(self.of.hidden_size)

    @property
    def outputs(self) -> int:
        """Size of h."""
        return int(self.of.proj_size or self.of.hidden_size)

    @property
    def states(self) -> list[tuple[str, int]]:
        """Names and sizes."""
        cell = self.of._packed._cell
        return [(name, self.hidden if dim == "hidden" else self.outputs) for name, dim in cell.states]

    def zoned(self, state: str, new: str, old: str) -> str:
        """A state's new value mixed with its old one, as zoneout does outside of training; `new` is a factor."""
        rates, names = self.of.zoneout, [name for name, _ in self.states]
        share = np.float32(rates[names.index(state)] if isinstance(rates, tuple) else rates)
        return f"{literal(share)} * {old} + {literal(1 - share)} * {new}" if share > 0 else new


def quantised(vector: str, size: int, within: bool) -> list[str]:
    """Statements that make whole numbers of a vector; `within`: its numbers are known to lie in -1..1."""
    scale = f"const float {vector}_scale = rc_quantise({vector}, {size}, {'1.0f' if within else '0.0f'}, {vector}_q);"
    return [f"int8_t {vector}_q[{size}];", scale]


def product(source: Source, layer: Layer, blocks: Blocks, units: int, vector: str, size: int) -> list[str]:
    """Statements that add a product to the chains: a fused multiply-add for each weight, k ascending; in int8 one for
    each sum of whole numbers. Weights lie as they are read: unit, k, gate."""
    gates = len(blocks.chains)
    weight = layer.params[blocks.name]
    columns = weight.shape[1]  # those of one head, where there are several
    rows = weight.reshape(-1, units, columns)[blocks.first : blocks.first + gates]
    start = "" if columns == size else f"u / {columns} * {columns} + "
    letter = vector[0]
    numbers = f"{vector}_q" if layer.int8 else vector
    values, scales = _int8(rows) if layer.int8 else (rows, rows[..., 0])
    name = source.array(values.transpose(1, 2, 0).reshape(units, -1), layer.name, blocks.name)
    lines = [f"const {'int8_t' if layer.int8 else 'float'} *w{letter} = {name}[u];"]
    if layer.int8:
        sums = [f"s{letter}{k}" for k in range(gates)]
        lines.append("int32_t " + ", ".join(f"{each} = 0" for each in sums) + ";")
        body = [f"{each} += {numbers}[{start}k] * w{letter}[{k}];" for k, each in enumerate(sums)]
    else:
        body = [f"a{c} = rc_fma({numbers}[{start}k], w{letter}[{k}], a{c});" for k, c in enumerate(blocks.chains)]
    lines += [f"for (int k = 0; k < {columns}; ++k, w{letter} += {gates}) {{", *indented(body), "}"]
    if layer.int8:
        name = source.array(scales.T, layer.name, blocks.name, "scale")
        for k, c in enumerate(blocks.chains):
            lines.append(f"a{c} = rc_fma((float){sums[k]}, {name}[u][{k}] * {vector}_scale, a{c});")
    return lines


def own_numbers(layer: Layer, phase: Phase, units: int) -> Array:
    """Of each unit: what its chains start from, then the parameters of its own."""
    starts = np.zeros((units, phase.chains + phase.vectors), np.float32)  # of chains, then the unit's own parameters
    for blocks in phase.biases:
        if blocks.name in layer.params:
            rows = layer.params[blocks.name].reshape(-1, units)[blocks.first :]
            for c, row in zip(blocks.chains, rows, strict=False):
                starts[:, c] += row
    return starts


def cell(layer: Layer, phase: Phase, result: str, last: bool) -> list[str]:
    """The cell on its chains, and what zoneout does to the states that it makes."""
    lines, mixed = [*phase.statements], []
    for state, _ in layer.states[1:]:
        zoned = layer.zoned(state, f"{state}[u]", f"old_{state}")
        if zoned != f"{state}[u]" and any(f"{state}[u] =" in line for line in lines):
            lines.insert(0, f"const float old_{state} = {state}[u];")
            mixed.append(f"{state}[u] = {zoned};")
    if last and layer.zoned("h", "made", "h[u]") != "made":
        return [
            *lines,
            f"const float made = {phase.result};",
            f"{result} = {layer.zoned('h', 'made', 'h[u]')};",
            *mixed,
        ]
    return [*lines, f"{result} = {phase.result};", *mixed]


def _int8(rows: Any) -> tuple[Array, Array]:
    """Rows as whole numbers and their scales, as engine/pack.cpp rounds them."""
    scales = np.abs(rows).max(axis=-1) / np.float32(127)
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = np.clip(np.rint(rows / scales[..., None]), -127, 127)
    return np.where(scales[..., None] > 0, whole, 0).astype(np.int8), scales
