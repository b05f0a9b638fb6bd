"""A recurrent node as C: its weights, its states, and a function for a step of each layer."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from .cells import phases_of
from .equations import equations_of
from .layer_norm import normalised_layer
from .places import Place
from .products import Layer, product, quantised
from .source import comment, indented

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._arrays import Array
    from ..recurrent import Recurrent
    from .cells import Phase
    from .source import Source

__all__ = ["add_recurrent"]


def add_recurrent(source: Source, name: str, layer: Recurrent, x: str) -> dict[str, Place]:
    """Add the node; returns where each of its states lies after a step, all layers of it one behind the other."""
    count = int(layer.num_layers)
    params = layer.state_dict()
    layers = [_layer(source, name, layer, number, params) for number in range(count)]
    places: dict[str, Place] = {}
    for state, size in layers[0].states:
        field = source.name(name, state)
        source.fields.append(f"float {field}[{count * size}]; {comment([f'[{count}][{size}]: {state} of each layer'])}")
        places[state] = Place(f"state->{field}", count * size)
        if layer.initial_state:
            start = source.array(params[f"{state}_0"].reshape(-1), name, state, "start")
            source.resets.append(f"memcpy(state->{field}, {start}, sizeof {start});")
        else:
            source.resets.append(f"for (int i = 0; i < {count * size}; ++i) state->{field}[i] = 0.0f;")
    for each in layers:
        own = [places[state].plus(each.number * size) for state, size in each.states]
        source.steps.append(f"{each.name}({', '.join([x, *own])});")
        x = own[0]
    return places


def _layer(source: Source, node: str, layer: Recurrent, number: int, params: Mapping[str, Array]) -> Layer:
    """The layer with its function, which it has once, however many nodes it is."""

    def make() -> Layer:
        ending = f"_l{number}"
        own = {name[: -len(ending)]: array for name, array in params.items() if name.endswith(ending)}
        int8 = layer.precision == "int8" and number not in layer.keep
        made = Layer(layer, number, source.name(node, f"layer{number}"), own, int8)
        phases = phases_of(layer._packed._cell.name, layer._packed.constants)
        lines = normalised_layer(source, made) if phases is None else _phases(source, made, phases)
        source.functions.append(_function(made, lines))
        return made

    made: Layer = source.once((id(layer), number), make)
    return made


def _function(layer: Layer, lines: list[str]) -> str:
    about = f"{layer.of._packed._cell.name}, layer {layer.number}: x[{layer.inputs}]"
    states = "".join(f", {name}[{size}]" for name, size in layer.states)
    head = comment([about + states + (", weights in int8" if layer.int8 else ""), *equations_of(layer.of)])
    pointers = ", ".join(f"float *{name}" for name, _ in layer.states)
    return "\n".join([head, f"static void {layer.name}(const float *x, {pointers})", "{", *indented(lines), "}"])


def _phases(source: Source, layer: Layer, phases: tuple[Phase, ...]) -> list[str]:
    lines: list[str] = []
    if layer.int8 and any(phase.input for phase in phases):
        lines += quantised("x", layer.inputs, False)
    for name in chain.from_iterable(phase.keeps for phase in phases):
        lines.append(f"float {name}[{layer.hidden}];")
    vector, size, within = "h", layer.outputs, phases[-1].unit_range
    for number, phase in enumerate(phases):
        last = number == len(phases) - 1
        units = layer.outputs if phase.projects else layer.hidden
        direct = last and (number > 0 or phase.source is None)  # nobody reads what is written over
        result = "h" if direct else "next" if last else f"result{number}"
        if not direct:
            lines.append(f"float {result}[{units}];")
        if layer.int8 and phase.source:
            lines += quantised(vector, size, within)
        lines.append(f"for (int u = 0; u < {units}; ++u) {{")
        lines += indented(_unit(source, layer, phase, units, vector, size, f"{result}[u]", last))
        lines.append("}")
        if result == "next":
            lines.append("memcpy(h, next, sizeof next);")
        vector, size, within = result, units, phase.unit_range
    return lines


def _unit(
    source: Source, layer: Layer, phase: Phase, units: int, vector: str, size: int, result: str, last: bool
) -> list[str]:
    """Statements of one unit: the chains, then the cell."""
    starts = np.zeros((units, phase.chains + phase.vectors), np.float32)  # of chains, then the unit's own parameters
    for blocks in phase.biases:
        if blocks.name in layer.params:
            rows = layer.params[blocks.name].reshape(-1, units)[blocks.first :]
            for c, row in zip(blocks.chains, rows, strict=False):
                starts[:, c] += row
    lines = []
    if starts[:, : phase.chains].any():
        name = source.array(starts[:, : phase.chains], layer.name, "bias")
        lines.append(f"const float *b = {name}[u];")
        lines.append("float " + ", ".join(f"a{k} = b[{k}]" for k in range(phase.chains)) + ";")
    else:
        lines.append("float " + ", ".join(f"a{k} = 0.0f" for k in range(phase.chains)) + ";")
    if phase.input:
        lines += product(source, layer, phase.input, units, "x", layer.inputs)
    if phase.source:
        lines += product(source, layer, phase.source, units, vector, size)
    if phase.vectors:
        name = source.array(starts[:, phase.chains :], layer.name, "vectors")
        lines.append(f"const float *v = {name}[u];")
    return [*lines, *_cell(layer, phase, result, last)]


def _cell(layer: Layer, phase: Phase, result: str, last: bool) -> list[str]:
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
