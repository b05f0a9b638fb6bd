"""Convolutions and poolings over time and width as C: a ring of the frames that a window reaches back to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .source import comment, indented

if TYPE_CHECKING:
    from .places import Nodes, Place

__all__ = ["WINDOWS", "convolution", "pooling"]

WINDOWS = ("conv1d", "conv2d", "max_pool2d", "avg_pool2d")


class _Window:
    """The window of a node, with statements that put the frame at hand into the ring."""

    def __init__(self, nodes: Nodes, node: Any, x: Place, nothing: str = "0.0f") -> None:
        layer, source = node.layer, nodes.source
        (self.times, self.widths), (self.reach, self.apart) = layer.kernel_size, layer.dilation
        self.stride, self.left = layer.stride[1], layer.padding[1][0]
        channels, *width = nodes.model._values[node.inputs[0]].features
        self.channels, self.width = channels, width[0] if width else 1
        self.wide = node.value.size // node.value.features[0]
        before, size, self.x = layer.padding[0][0], x.size, x.at
        if not before:
            return
        frames = before + 1
        ring, newest = source.name(node.name, "window"), f"state->{source.name(node.name, 'newest')}"
        source.fields += [f"float {ring}[{frames * size}]; {comment([f'[{frames}][{size}]'])}"]
        source.fields += [f"int32_t {newest.removeprefix('state->')}; {comment([f'frame of {ring}'])}"]
        source.resets += [f"for (int i = 0; i < {frames * size}; ++i) state->{ring}[i] = {nothing};", f"{newest} = 0;"]
        source.steps += [
            f"{newest} = {newest} + 1 < {frames} ? {newest} + 1 : 0;",
            f"memcpy(state->{ring} + {newest} * {size}, {x.at}, {size} * sizeof(float));",
        ]
        self.x = f"state->{ring} + ({newest} + 1 + j * {self.reach}) % {frames} * {size}"

    def frame(self, first: str) -> str:
        """The declaration of the window's frame j, from a channel on."""
        first = first if self.width == 1 else f"{first} * {self.width}"
        return f"const float *frame = {self.x} + {first};"


def convolution(nodes: Nodes, node: Any, x: Place) -> Place:
    """The windows of a group as vectors, in the order of its weights, and an affine map of each."""
    layer, to, weight, bias = node.layer, nodes.result(node), nodes.array(node, "weight"), nodes.array(node, "bias")
    window, taps = _Window(nodes, node, x), nodes.source.name(node.name, "taps")
    channels, outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    row = channels * window.times * window.widths
    own = f"{weight} + g * {outputs * row}, {bias if bias == '0' else f'{bias} + g * {outputs}'}, {taps}"
    made = f"{to.at} + g * {outputs}" if window.wide == 1 else nodes.source.name(node.name, "made")
    copy = [f"{taps}[c * {window.times} + j] = frame[c];"]
    if layer.kind != "conv1d":
        copy = [
            f"for (int k = 0; k < {window.widths}; ++k) {{",
            f"    const int at = w * {window.stride} - {window.left} + k * {window.apart};",
            f"    const float tap = at >= 0 && at < {window.width} ? frame[c * {window.width} + at] : 0.0f;",
            f"    {taps}[(c * {window.times} + j) * {window.widths} + k] = tap;",
            "}",
        ]
    body = [
        f"for (int j = 0; j < {window.times}; ++j) {{",
        f"    {window.frame(f'g * {channels}')}",
        f"    for (int c = 0; c < {channels}; ++c) {{",
        *indented(copy, 2),
        "    }",
        "}",
        f"rc_linear({row}, {outputs}, {own}, {made});",
    ]
    declared = [
        f"float {taps}[{row}]; {comment([f'[{channels}][{window.times * window.widths}]: a window of one group'])}"
    ]
    if window.wide > 1:
        declared.append(f"float {made}[{outputs}];")
        body.append(
            f"for (int o = 0; o < {outputs}; ++o) {to.at}[(g * {outputs} + o) * {window.wide} + w] = {made}[o];"
        )
    loops = [f"for (int g = 0; g < {layer.groups}; ++g)", f"    for (int w = 0; w < {window.wide}; ++w) {{"]
    nodes.source.steps += [*declared, *loops, *indented(body, 2), "    }"]
    return to


def pooling(nodes: Nodes, node: Any, x: Place) -> Place:
    """The largest number of each window, or the mean."""
    largest, to = node.layer.kind == "max_pool2d", nodes.result(node)
    window = _Window(nodes, node, x, "-INFINITY" if largest else "0.0f")
    one = "if (sum < frame[at] || frame[at] != frame[at]) sum = frame[at];" if largest else "sum = sum + frame[at];"
    body = [
        f"float sum = {'-INFINITY' if largest else '0.0f'};",
        f"for (int j = 0; j < {window.times}; ++j) {{",
        f"    {window.frame('c')}",
        f"    for (int k = 0; k < {window.widths}; ++k) {{",
        f"        const int at = w * {window.stride} - {window.left} + k;",
        f"        if (at < 0 || at >= {window.width}) continue;",
        f"        {one}",
        "    }",
        "}",
        f"{to.at}[c * {window.wide} + w] = {'sum' if largest else f'sum / {float(window.times * window.widths)}f'};",
    ]
    loops = [f"for (int c = 0; c < {window.channels}; ++c)", f"    for (int w = 0; w < {window.wide}; ++w) {{"]
    nodes.source.steps += [*loops, *indented(body, 2), "    }"]
    return to
