"""Gradients of operations and activations: from that of a node's value to those of its inputs and parameters."""

from __future__ import annotations

import functools
import itertools
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..activation import CORE_NAMES, Activation
from .call import alone, value_of
from .convolution import Conv2d
from .flow import Marks
from .operation import Operation, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .._arrays import Array
    from .convolution import _Window
    from .flow import Flow

    Inputs = list[Array | None]
    Backward = Callable[[Array, bool], tuple[Inputs, dict[str, Array]]]

__all__ = ["backward_of"]


def backward_of(layer: Operation | Activation, inputs: Sequence[Flow], features: tuple[int, ...], y: Array) -> Backward:
    """From the gradient of y, and whether those of inputs are wanted, to those of inputs (None where there is none)
    and of parameters. Gradients of steps past a row's length are zero when they come, and are not looked at here.

    Args:
        inputs: of the node, with `features` the shape of a step of the first one.
        y: what came out.
    """
    kind = "activation" if isinstance(layer, Activation) else layer.kind
    pull = _PULLS[kind](layer, inputs, features, y)
    if getattr(layer, "has_parameters", False):
        return pull  # type: ignore[no-any-return]
    return lambda dy, wanted: (pull(dy), {})


# ---------------------------------------------------------------------------------- what is done to every step


def _activation(layer: Activation, inputs: Sequence[Flow], features: Any, y: Array) -> Any:
    x = inputs[0].values
    return lambda dy: [dy * _slope(layer, x, y)]


def _slope(layer: Activation, x: Array, y: Array) -> Any:
    """The derivative at x; see `Activation` for what it is at kinks."""
    constants = layer.constants("f")
    name, alpha, beta = CORE_NAMES[int(constants["f"])], constants["f_alpha"], constants["f_beta"]
    if name == "affine":
        return x.dtype.type(alpha)
    if name == "scaled_tanh":
        return beta * (alpha - y * y / alpha) if alpha else x.dtype.type(0)
    if name == "sigmoid":
        return y * (1 - y)
    if name == "thresholded_relu":
        return x > alpha
    if name == "leaky_relu":
        return np.where(x > 0, x.dtype.type(1), x.dtype.type(alpha))
    if name == "elu":
        return np.where(x > 0, x.dtype.type(1), y + x.dtype.type(alpha))
    if name == "hard_sigmoid":
        return np.where((y > 0) & (y < 1), x.dtype.type(alpha), x.dtype.type(0))
    if name == "softsign":
        return (1 - np.abs(y)) ** 2
    return _of_core(Activation("sigmoid"), x)  # softplus


def _of_core(layer: Any, x: Array) -> Array:
    """What a layer without parameters gives."""
    value = Value(x.shape[-1:], x.ndim == 3)
    return value_of(alone(layer, "y", {"x": value}, x.dtype), [x], Marks(), value)


def _softmax(op: Any, inputs: Sequence[Flow], features: Any, y: Array) -> Any:
    if op.log:
        chances = _of_core(type(op)(), inputs[0].values)
        return lambda dy: [dy - chances * dy.sum(axis=-1, keepdims=True)]
    return lambda dy: [y * (dy - (dy * y).sum(axis=-1, keepdims=True))]


def _sqrt(op: Any, inputs: Sequence[Flow], features: Any, y: Array) -> Any:
    # Infinite at 0; where no gradient comes, as behind a row's end, none goes on.
    return lambda dy: [np.divide(dy, 2 * y, out=np.zeros_like(dy), where=dy != 0)]


def _centred(x: Array) -> tuple[Array, Array]:
    """x without its mean over features, and its variance."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred, np.square(centred).mean(axis=-1, keepdims=True)


def _layer_norm(op: Any, inputs: Sequence[Flow], features: Any, y: Array) -> Backward:
    x, weight = inputs[0].values, op._parameters.get("weight")
    with np.errstate(over="ignore", invalid="ignore"):
        normed, variance = _centred(x)
    small = np.ones_like(variance)
    if not np.isfinite(variance).all():  # as the core does where squares overflow
        small[~np.isfinite(variance)] = 2.0 ** (-100 if x.dtype == np.float32 else -800)
        normed, variance = _centred(x * small)
    scale = 1 / np.sqrt(variance + np.where(small < 1, np.finfo(x.dtype).tiny, op.eps).astype(x.dtype))
    normed *= scale
    scale *= small

    def pull(dy: Array, wanted: bool) -> tuple[Inputs, dict[str, Array]]:
        d = dy if weight is None else dy * weight
        mean, along = d.mean(axis=-1, keepdims=True), (d * normed).mean(axis=-1, keepdims=True)
        params = {"weight": _rows(dy * normed), "bias": _rows(dy)}
        return [scale * (d - mean - normed * along)], {name: params[name] for name in op._parameters}

    return pull


def _scale(op: Any, inputs: Sequence[Flow], features: Any, y: Array) -> Backward:
    x, weight = inputs[0].values, op._parameters["weight"]
    return lambda dy, wanted: ([dy * weight], {"weight": _rows(dy * x), "bias": _rows(dy)})


def _rows(array: Array) -> Array:
    """The sum over all rows, in order."""
    return np.asarray(array.reshape(-1, array.shape[-1]).sum(axis=0))


def _select(op: Any, inputs: Sequence[Flow], features: Any, y: Array) -> Any:
    x, indices = inputs[0].values, list(op.indices)

    def pull(dy: Array) -> Inputs:
        dx = np.zeros_like(x)
        np.add.at(dx.T, indices, dy.T)
        return [dx]

    return pull


def _same(op: Any, inputs: Sequence[Flow], features: Any, y: Array) -> Any:
    return lambda dy: [dy]


# ----------------------------------------------------------------------------------------------------- over time


def _pool(op: Any, inputs: Sequence[Flow], features: Any, y: Array) -> Any:
    x, counts = inputs[0].values, inputs[0].counts
    counts = np.ones(x.shape[:2], bool) if counts is None else counts
    number, rows = counts.sum(axis=0), np.arange(x.shape[1])

    def pull(dy: Array) -> Inputs:
        dx, dy = np.zeros_like(x), np.where(number[:, None] > 0, dy, 0)
        if op.mode == "mean":
            dx[...] = counts[..., None] * (dy / np.maximum(number, 1).astype(dy.dtype)[:, None])
        elif len(x):
            if op.mode == "max":
                at = np.where(counts[..., None], x, -np.inf).argmax(axis=0)
            else:
                at = counts.argmax(axis=0) if op.mode == "first" else len(x) - 1 - counts[::-1].argmax(axis=0)
                at = at[:, None]
            dx[at, rows[:, None], np.arange(x.shape[2])] = dy
        return [dx]

    return pull


def _reverse(op: Any, inputs: Sequence[Flow], features: Any, y: Array) -> Any:
    """Its own inverse."""
    steps, lengths = np.arange(len(y))[:, None], inputs[0].marks.lengths
    at = (len(y) if lengths is None else lengths) - 1 - steps
    return lambda dy: [np.take_along_axis(dy, np.where(at < 0, steps, at)[..., None], axis=0)]


def _repeat(op: Any, inputs: Sequence[Flow], features: Any, y: Array) -> Any:
    return lambda dy: [dy.sum(axis=0)]


# ----------------------------------------------------------------------------------------------- of several inputs


def _shared(x: Flow, d: Array) -> Array:
    """The gradient of an input that, without time, stood at every step."""
    return d.sum(axis=0) if d.ndim > x.values.ndim else d


def _add(op: Any, inputs: Sequence[Flow], features: Any, y: Array) -> Any:
    return lambda dy: [_shared(x, dy) for x in inputs]


def _multiply(op: Any, inputs: Sequence[Flow], features: Any, y: Array) -> Any:
    def pull(dy: Array) -> Inputs:
        values = [x.values for x in inputs]
        others = (functools.reduce(operator.mul, values[:k] + values[k + 1 :], dy) for k in range(len(values)))
        return [_shared(x, d) for x, d in zip(inputs, others, strict=True)]

    return pull


def _concatenate(op: Any, inputs: Sequence[Flow], features: Any, y: Array) -> Any:
    ends = list(itertools.accumulate(x.values.shape[-1] for x in inputs))
    return lambda dy: [_shared(x, d) for x, d in zip(inputs, np.split(dy, ends[:-1], axis=-1), strict=True)]


# -------------------------------------------------------------------------------------- windows over time and width


def taps(window: _Window, steps: int, places: int) -> Iterator[tuple[int, int, slice, slice]]:
    """Each tap (j, k) of the kernel, and where its numbers lie in the padded sequence for all windows."""
    (times, widths), (stride, along), (reach, across) = window.kernel_size, window.stride, window.dilation
    for j, k in itertools.product(range(times), range(widths)):
        first, left = j * reach, k * across
        yield (
            j,
            k,
            slice(first, first + stride * (steps - 1) + 1, stride),
            slice(left, left + along * (places - 1) + 1, along),
        )


class Windows:
    """The windows of a sequence [T, B, F], where C by W are the features."""

    def __init__(self, window: _Window, x: Flow, features: tuple[int, ...]) -> None:
        channels, width = features if len(features) == 2 else (*features, 1)
        self.window, self.flow = window, x
        self.image = x.values.reshape(*x.values.shape[:2], channels, width)
        self.steps, self.places = window.output_length(len(x.values)), window._windows(width, 1)
        self.sides = (window.padding[0], (0, 0), (0, 0), window.padding[1])

    def gathered(self, fill: float = 0.0) -> Array:
        """[T', B, W', C, kernel]; `fill` where there is nothing."""
        _, batch, channels, _ = self.image.shape
        image = self.image
        if fill and (valid := self.flow.valid) is not None:
            image = np.where(valid[..., None, None], image, np.asarray(fill, image.dtype))
        padded = np.pad(image, self.sides, constant_values=fill)
        made = np.empty((self.steps, batch, self.places, channels, *self.window.kernel_size), image.dtype)
        for j, k, times, widths in self._taps():
            made[..., j, k] = padded[times, ..., widths].transpose(0, 1, 3, 2)
            if (cut := self._cut(times)) is not None:
                made[cut, ..., j, k] = fill
        return made

    def ahead(self, dy: Array) -> Array:
        """The gradient of a pooling, [T', B, W', C]."""
        return dy.reshape(*dy.shape[:2], self.image.shape[2], self.places).swapaxes(2, 3)

    def spread(self, d: Array) -> Array:
        """The gradient of the sequence from that of `gathered`."""
        made = np.zeros([n + sum(sides) for n, sides in zip(self.image.shape, self.sides, strict=True)], d.dtype)
        for j, k, times, widths in self._taps():
            tap = d[..., j, k].transpose(0, 1, 3, 2)
            if (cut := self._cut(times)) is not None:
                tap = np.where(cut[..., None, None], tap.dtype.type(0), tap)
            made[times, ..., widths] += tap
        inside = tuple(slice(before, before + n) for n, (before, _) in zip(self.image.shape, self.sides, strict=True))
        return made[inside].reshape(self.flow.values.shape)

    def _taps(self) -> Iterator[tuple[int, int, slice, slice]]:
        return taps(self.window, self.steps, self.places) if self.steps else iter(())

    def _cut(self, times: slice) -> Array | None:
        """Which of these steps, seen from its window's, lies before a reset."""
        resets = self.flow.marks.resets
        if resets is None or self.window.kernel_size[0] == 1:
            return None
        run = resets.cumsum(axis=0)
        return np.asarray(np.pad(run, self.sides[:2])[times] != run)


def _conv(op: Conv2d, inputs: Sequence[Flow], features: Any, y: Array) -> Backward:
    """One affine map of window rows for each group."""
    windows, weight = Windows(op, inputs[0], features), op._parameters["weight"]
    outputs, size = op.out_channels // op.groups, weight[0].size

    def pull(dy: Array, wanted: bool) -> tuple[Inputs, dict[str, Array]]:
        rows = windows.gathered()
        ahead = dy.reshape(*dy.shape[:2], op.groups, outputs, windows.places).transpose(2, 0, 1, 4, 3)
        params = {name: np.zeros_like(array) for name, array in op._parameters.items()}
        d_rows = np.empty_like(rows) if wanted else None
        for group in range(op.groups):
            own, channels = (slice(group * n, (group + 1) * n) for n in (outputs, weight.shape[1]))
            affine = _core.Linear(weight[own].reshape(outputs, size), None)
            seen = np.ascontiguousarray(rows[:, :, :, channels]).reshape(-1, size)
            d_seen = np.empty_like(seen) if d_rows is not None else None
            above = np.ascontiguousarray(ahead[group]).reshape(-1, outputs)
            bias = params["bias"][own] if "bias" in params else None
            affine.backward(seen, above, d_seen, params["weight"][own].reshape(outputs, size), bias)
            if d_rows is not None and d_seen is not None:
                d_rows[:, :, :, channels] = d_seen.reshape(rows[:, :, :, channels].shape)
        return [None if d_rows is None else windows.spread(d_rows)], params

    return pull


def _max_pool(op: Any, inputs: Sequence[Flow], features: Any, y: Array) -> Any:
    """To the first of the largest numbers, in the order of time and then of width."""
    windows = Windows(op, inputs[0], features)

    def pull(dy: Array) -> Inputs:
        seen = windows.gathered(-np.inf)
        flat = seen.reshape(*seen.shape[:4], op.kernel_size[0] * op.kernel_size[1])
        d = np.zeros_like(flat)
        np.put_along_axis(d, flat.argmax(axis=-1)[..., None], windows.ahead(dy)[..., None], axis=-1)
        return [windows.spread(d.reshape(seen.shape))]

    return pull


def _avg_pool(op: Any, inputs: Sequence[Flow], features: Any, y: Array) -> Any:
    windows, size = Windows(op, inputs[0], features), op.kernel_size[0] * op.kernel_size[1]

    def pull(dy: Array) -> Inputs:
        ahead = windows.ahead(dy)[..., None, None] / size
        return [windows.spread(np.broadcast_to(ahead, (*ahead.shape[:4], *op.kernel_size)))]

    return pull


_PULLS: dict[str, Callable[..., Any]] = {
    "activation": _activation,
    "softmax": _softmax,
    "sqrt": _sqrt,
    "layer_norm": _layer_norm,
    "scale": _scale,
    "select": _select,
    "reshape": _same,
    "mask": _same,
    "pool": _pool,
    "reverse": _reverse,
    "repeat": _repeat,
    "add": _add,
    "multiply": _multiply,
    "concatenate": _concatenate,
    "conv1d": _conv,
    "conv2d": _conv,
    "max_pool2d": _max_pool,
    "avg_pool2d": _avg_pool,
}
