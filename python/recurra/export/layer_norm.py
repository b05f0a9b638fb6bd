"""Layers with layer normalisation as C: both products go through memory, and means run over all of a row's units.

The steps are those of `cpp/cells/layer_norm.h`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .cells import Blocks, clipped
from .products import product, quantised
from .source import indented

if TYPE_CHECKING:
    from .products import Layer
    from .source import Source

__all__ = ["normalised_layer"]


def normalised_layer(source: Source, layer: Layer) -> list[str]:
    """Statements of a step."""
    lstm = "c" in dict(layer.states)
    gates, units = 4 if lstm else 3, layer.hidden
    lines = [*_sides(source, layer, gates)]
    lines.append(
        f"const struct rc_norm of_x = rc_norm(from_x, {units}, {gates}), of_h = rc_norm(from_h, {units}, {gates});"
    )
    names = ["gamma_x", "gamma_h", "bias_ih"] + ([] if lstm else ["bias_hh"]) + (["gamma_c", "beta_c"] if lstm else [])
    counts = [gates, gates, gates] + ([1, 1] if lstm else [gates])
    rows = [
        layer.params[name].reshape(count, units) if name in layer.params else np.zeros((count, units), np.float32)
        for name, count in zip(names, counts, strict=True)
    ]
    table = source.array(np.concatenate(rows).T + np.float32(0), layer.name, "vectors")

    def side(which: str, gate: int, gain: int, bias: str) -> str:
        return (
            f"rc_fma(v[{gain}], ({which}[{gates} * u + {gate}] - of_{which[-1]}.mean) * of_{which[-1]}.scale, {bias})"
        )

    unit = [f"const float *v = {table}[u];"]
    if lstm:
        lines.append(f"float o[{units}];")
        for k, gate in enumerate(("i", "f", "g", "output")):
            total = side("from_x", k, k, side("from_h", k, 4 + k, f"v[{8 + k}]"))
            unit.append(f"const float {gate} = {'rc_tanh' if gate == 'g' else 'rc_sigmoid'}({total});")
        bound = layer.of._packed.constants["cell_clip"]
        unit += [f"c[u] = {clipped('rc_fma(f, c[u], i * g)', bound)};", "o[u] = output;"]
        if layer.zoned("c", "c", "") != "c":
            lines.append(f"float old_c[{units}];")
            lines.append("memcpy(old_c, c, sizeof old_c);")
    else:
        for k, gate in enumerate("rzn"):
            unit.append(f"const float x{gate} = {side('from_x', k, k, f'v[{6 + k}]')};")
            unit.append(f"const float h{gate} = {side('from_h', k, 3 + k, f'v[{9 + k}]')};")
        unit += [
            "const float r = rc_sigmoid(xr + hr), z = rc_sigmoid(xz + hz), n = rc_tanh(rc_fma(r, hn, xn));",
            "const float made = rc_fma(z, h[u], (1.0f - z) * n);",
            f"h[u] = {layer.zoned('h', 'made', 'h[u]')};",
        ]
    lines += [f"for (int u = 0; u < {units}; ++u) {{", *indented(unit), "}"]
    if lstm:
        lines.append(f"const struct rc_norm of_c = rc_norm(c, {units}, 1);")
        normed = f"rc_fma({table}[u][12], (c[u] - of_c.mean) * of_c.scale, {table}[u][13])"
        unit = [f"const float made = o[u] * rc_tanh({normed});", f"h[u] = {layer.zoned('h', 'made', 'h[u]')};"]
        if layer.zoned("c", "c", "") != "c":
            unit.append(f"c[u] = {layer.zoned('c', 'c[u]', 'old_c[u]')};")
        lines += [f"for (int u = 0; u < {units}; ++u) {{", *indented(unit), "}"]
    return lines


def _sides(source: Source, layer: Layer, gates: int) -> list[str]:
    """Both products, [unit][gate]."""
    chains = tuple(range(gates))
    lines = [f"float from_x[{gates * layer.hidden}], from_h[{gates * layer.hidden}];"]
    if layer.int8:
        lines += quantised("x", layer.inputs, False) + quantised("h", layer.outputs, True)
    for vector, name, size in (("x", "weight_ih", layer.inputs), ("h", "weight_hh", layer.outputs)):
        unit = ["float " + ", ".join(f"a{k} = 0.0f" for k in chains) + ";"]
        unit += product(source, layer, Blocks(name, chains), layer.hidden, vector, size)
        unit += [f"from_{vector}[{gates} * u + {k}] = a{k};" for k in chains]
        lines += [f"for (int u = 0; u < {layer.hidden}; ++u) {{", *indented(unit), "}"]
    return lines
