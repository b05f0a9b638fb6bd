"""Recurrent layers as C++: the phases of `cells`, a vector of units at a time, with weights in tiles."""

from __future__ import annotations

import re
from itertools import chain
from typing import TYPE_CHECKING

from .products import cell, own_numbers
from .source import indented, padded_units

if TYPE_CHECKING:
    from .cells import Blocks, Phase
    from .products import Layer
    from .source import Source

__all__ = ["fits", "vector_phases"]


def fits(layer: Layer, phases: tuple[Phase, ...]) -> bool:
    """Whether a vector of units can do what one unit does: not whole numbers, heads, or what asks about a number."""
    columns = {blocks.name: layer.params[blocks.name].shape[1] for phase in phases if (blocks := phase.source)}
    whole = all(count in (layer.hidden, layer.outputs) for count in columns.values())
    asks = any("?" in line for phase in phases for line in (*phase.statements, phase.result))
    return not layer.int8 and whole and not asks


def vector_phases(source: Source, layer: Layer, phases: tuple[Phase, ...]) -> list[str]:
    """Statements of a step."""
    lines = [
        f"alignas(64) float {name}[{padded_units(layer.hidden)}];"
        for name in chain.from_iterable(phase.keeps for phase in phases)
    ]
    vector = "h"
    for number, phase in enumerate(phases):
        last = number == len(phases) - 1
        units = layer.outputs if phase.projects else layer.hidden
        result = "next" if last else f"result{number}"
        widest = phase.source or phase.input
        read = [blocks for blocks in (phase.input, phase.source) if blocks and layer.of.num_layers == 1]
        weights = sum(len(blocks.chains) * int(layer.params[blocks.name].shape[1]) for blocks in read)
        sizes = f"{units}, {phase.chains}, {len(widest.chains) if widest else 0}, {weights}"
        direct = last and (number > 0 or phase.source is None)  # nobody reads what is written over
        if direct:
            lines.append("float *const next = h;")
        elif last:
            lines.append(f"alignas(64) float fresh[{padded_units(units)}];")
            lines.append(f"float *const next = rc_at_once<{sizes}>() ? h : fresh;")
        else:
            lines.append(f"alignas(64) float {result}[{padded_units(units)}];")
        lines.append(f"rc_units<{sizes}>(back, [&](auto block, int u) RC_ALWAYS {{")
        lines += indented(_block(source, layer, phase, units, vector, f"{result}[u]", last))
        lines.append("});")
        if last and not direct:
            lines.append("if (next != h) memcpy(h, fresh, sizeof fresh);")
        vector = result
    return lines


def _block(source: Source, layer: Layer, phase: Phase, units: int, vector: str, result: str, last: bool) -> list[str]:
    """Statements of some vectors of units: all chains, then the cell."""
    numbers = own_numbers(layer, phase, units)
    starts, own = numbers[:, : phase.chains], numbers[:, phase.chains :]
    lines = ["using B = decltype(block);", "using V = typename B::V;", f"V a[B::N][{phase.chains}];"]
    lines.append(f"rc_begin<B::W>(a, {source.tiles(starts, layer.name, 'bias') if starts.any() else 'nullptr'}, u);")
    if phase.input:
        lines.append(_product(source, layer, phase.input, units, "x"))
    if phase.source:
        lines.append(_product(source, layer, phase.source, units, vector))
    table = source.tiles(own, layer.name, "vectors") if phase.vectors else ""
    if table:
        lines.append(f"const float *const table = rc_unit<B::W, {phase.vectors}>({table}, u);")
    lines += ["RC_UNROLL", "for (int vector = 0; vector < B::N; ++vector, u += V::lanes) {"]
    body = ["const V " + ", ".join(f"a{k} = a[vector][{k}]" for k in range(phase.chains)) + ";"]
    if table:
        body.append(f"const float *const v = table + rc_apart<V::lanes, {phase.vectors}>(vector);")
    body += [_of_vectors(line) for line in cell(layer, phase, result, last)]
    return [*lines, *indented(body), "}"]


def _product(source: Source, layer: Layer, blocks: Blocks, units: int, vector: str) -> str:
    """A statement that adds a product to the chains; weights lie as they are read: tile, k, gate, unit."""
    gates, weight = len(blocks.chains), layer.params[blocks.name]
    rows = weight.reshape(-1, units, weight.shape[1])[blocks.first : blocks.first + gates]
    table = source.tiles(rows.transpose(1, 2, 0).reshape(units, -1), layer.name, blocks.name)
    chains = ", ".join(map(str, blocks.chains))
    return f"rc_product<B::W, {weight.shape[1]}, {chains}>(a, {table}, u, {vector});"


def _of_vectors(line: str) -> str:
    """A statement of one unit as one of a vector of them."""
    line = re.sub(r"\bfloat\b", "V", line)
    stored = re.fullmatch(r"(\w+)\[u\] = (.*);", line)
    line = stored[2] if stored else line
    line = re.sub(r"\bv\[(\d+)\]", r"V::load(v + \1 * B::W)", line)
    line = re.sub(r"\b(\w+)\[u\]", r"V::load(\1 + u)", line)
    return f"V({line}).store({stored[1]} + u);" if stored else line
