"""A recurrent node as C: its weights, its states, and a function for a step of each layer."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from .cells import phases_of
from .equations import equations_of
from .lanes import fits, vector_phases
from .layer_norm import normalised_layer
from .places import Place
from .products import Layer, cell, own_numbers, product, quantised
from .source import comment, indented, padded_units

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from .._arrays import Array
    from ..recurrent import Recurrent
    from .cells import Phase
    from .source import Source

__all__ = ["add_recurrent"]


def add_recurrent(
    source: Source, name: str, layer: Recurrent, x: str, wanted: Collection[str]
) -> tuple[Place, dict[str, Place]]:
    """Add the node; returns where the result lies after a step, and each of the states that are wanted, with all layers
    of it one behind the other."""
    count = int(layer.num_layers)
    params = layer.state_dict()
    layers = [_layer(source, name, layer, number, params) for number in range(count)]
    fields: dict[str, Place] = {}
    for state, size in layers[0].states:
        field = source.name(name, state)
        room = padded_units(size) if source.vectors else size
        aligned = "alignas(64) " if source.vectors else ""
        about = comment([f"[{count}][{room}]: {state} of each layer"])
        source.fields.append(f"{aligned}float {field}[{count * room}]; {about}")
        fields[state] = Place(f"state->{field}", room)
        if layer.initial_state:
            values = np.zeros((count, room), np.float32)
            values[:, :size] = params[f"{state}_0"].reshape(count, size)
            start = source.array(values.reshape(-1), name, state, "start")
            source.resets.append(f"memcpy(state->{field}, {start}, sizeof {start});")
        else:
            source.resets.append(f"for (int i = 0; i < {count * room}; ++i) state->{field}[i] = 0.0f;")
    for each in layers:
        own = [place.plus(each.number * place.size) for place in fields.values()]
        source.steps.append(f"{each.name}({', '.join([x, *own, *(['back'] if each.vectors else [])])});")
        x = own[0]
    sizes = dict(layers[0].states)
    together = {state: _together(source, name, state, fields[state], count, sizes[state]) for state in wanted}
    return Place(x, layers[0].outputs), together


def _together(source: Source, name: str, state: str, place: Place, count: int, size: int) -> Place:
    """A state of all layers without room between them."""
    if count == 1 or place.size == size:
        return Place(place.at, count * size)
    copy = source.name(name, state, "all")
    source.steps.append(f"float {copy}[{count * size}];")
    for k in range(count):
        source.steps.append(Place(place.plus(k * place.size), size).copied(f"{copy} + {k * size}"))
    return Place(copy, count * size)


def _layer(source: Source, node: str, layer: Recurrent, number: int, params: Mapping[str, Array]) -> Layer:
    """The layer with its function, which it has once, however many nodes it is."""

    def make() -> Layer:
        ending = f"_l{number}"
        own = {name[: -len(ending)]: array for name, array in params.items() if name.endswith(ending)}
        int8 = layer.precision == "int8" and number not in layer.keep
        made = Layer(layer, number, source.name(node, f"layer{number}"), own, int8)
        phases = phases_of(layer._packed._cell.name, layer._packed.constants)
        if source.vectors and phases is not None and fits(made, phases):
            made = made._replace(vectors=True)
            source.functions.append(_function(made, vector_phases(source, made, phases)))
            return made
        lines = normalised_layer(source, made) if phases is None else _phases(source, made, phases)
        source.functions.append(_function(made, lines))
        return made

    made: Layer = source.once((id(layer), number), make)
    return made


def _function(layer: Layer, lines: list[str]) -> str:
    about = f"{layer.of._packed._cell.name}, layer {layer.number}: x[{layer.inputs}]"
    states = "".join(f", {name}[{size}]" for name, size in layer.states)
    head = comment([about + states + (", weights in int8" if layer.int8 else ""), *equations_of(layer.of)])
    parameters = ", ".join(["const float *x", *(f"float *{name}" for name, _ in layer.states)])
    start = f"static void {layer.name}({parameters})"
    if layer.vectors:
        start = f"RC_INLINE void {layer.name}({parameters}, bool back)"
    return "\n".join([head, start, "{", *indented(lines), "}"])


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
    starts = own_numbers(layer, phase, units)
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
    return [*lines, *cell(layer, phase, result, last)]
