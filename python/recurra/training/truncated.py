"""Truncated backpropagation through time, and windows of a series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._arrays import as_array, check
from .._marks import PREVIOUS, marks_of
from .._options import flag, integer
from ..cuda.array_libraries import is_cupy
from ..cuda.arrays import on_gpu
from ..cuda.segments import host_flags
from ..layers import Recurrent
from ._checks import beside, device_of, namespace_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .._arrays import Array, Input
    from ..packed import State
    from ..tape import Gradients, Tape

    Lengths = Sequence[int] | Input


@dataclass(frozen=True, eq=False, repr=False)
class Window:
    """A window of `tbptt`.

        >>> x = np.zeros((100, 1, 3), "float32")
        >>> [(window.start, window.stop) for window in training.tbptt(recurra.GRU(3, 5), x, 40)]
        [(0, 40), (40, 80), (80, 100)]

    Attributes:
        start, stop: the steps start..stop-1 of the series are this window's own: those of `y`, and of its loss.
        origin: the first step that gradients reach, at most start; the state there counts as constant.
        y: the output at its own steps, [stop - start, B, O], with batch_first [B, stop - start, O].
        state: the state after them, which is carried on; to be read only.
    """

    start: int
    stop: int
    origin: int
    y: Array
    state: State
    _axis: int
    _tape: Tape

    def backward(
        self,
        dy: Input,
        *,
        grad_clip: float | None = None,
        input_grad: bool = True,
        into: Mapping[str, Array] | None = None,
    ) -> Gradients:
        """Gradients over the steps origin..stop-1 of the loss of the window's own steps.

            >>> layer, x = recurra.GRU(3, 5), np.zeros((100, 1, 3), "float32")
            >>> for window in training.tbptt(layer, x, 40):
            ...     gradients = window.backward(np.ones_like(window.y))

        Args:
            dy: dL/dy, of the shape and dtype of `y`.
            grad_clip, input_grad, into: as of `Tape.backward`.

        Returns:
            Gradients(x, state, params): `x` is of the input at origin..stop-1, `state` of the state before origin, and
            `reset_state` that of the window's resets, if the caller gave one.
        """
        gradient: Any = dy
        if self.origin < self.start:  # no loss, and so no gradient, at the steps before its own
            gradient, xp = beside("dy", dy, self.y, self.y.dtype, self.y.shape), namespace_of(self.y)
            shape = list(self.y.shape)
            shape[self._axis] = self.start - self.origin
            with device_of(self.y):
                gradient = xp.concatenate([xp.zeros(shape, gradient.dtype), gradient], axis=self._axis)
        return self._tape.backward(gradient, grad_clip=grad_clip, input_grad=input_grad, into=into)


def tbptt(
    layer: Recurrent,
    x: Input,
    k1: int,
    k2: int | None = None,
    state: State | None = None,
    *,
    lengths: Lengths | None = None,
    resets: Input | None = None,
    reset_state: State | None = None,
    mask: Input | None = None,
    masked_output: str = PREVIOUS,
    recompute: bool = False,
    rng: np.random.Generator | None = None,
) -> Iterator[Window]:
    """Truncated backpropagation through time: every k1 steps, gradients go back over k2 steps.

        >>> layer, x, target = recurra.GRU(1, 4), np.ones((100, 1, 1), "float32"), np.zeros((100, 1, 4), "float32")
        >>> params = layer.state_dict()
        >>> optimizer = training.Adam(params)
        >>> for window in training.tbptt(layer, x, k1=20):
        ...     loss, dy = training.mean_squared_error(window.y, target[window.start : window.stop])
        ...     optimizer.step(window.backward(dy).params)
        ...     layer.load_state_dict(params)

    The state is carried forward, gradients are cut. Each window uses the parameters that the layer has when it begins.
    With k2 > k1 it runs the k2 - k1 steps before it again, from the state that was remembered there; as long as
    parameters stay the same, outputs are those of one call over all steps, to the bit, whatever k1 and k2. Loss is that
    of a window's own k1 steps only, so nothing counts twice. (R. Williams, J. Peng 1990, Neural Computation 2(4).)

    Args:
        layer: one-directional, in full precision.
        x: the series, as of a call of the layer: [T, B, I], with batch_first [B, T, I], or [T, I]. On a GPU an array
            that can be cut and, with k2 > k1, one of CuPy.
        k1: steps from one window to the next; the last window may have fewer.
        k2: steps that gradients go back over, at least k1; the first windows have fewer. Default k1.
        state: initial state, default zeros.
        lengths: valid steps of each sequence, B integers in 0..T; default all.
        resets, reset_state, mask, masked_output: as of a call of the layer, of all steps.
        recompute: as of `layer.forward`.
        rng: what dropout and zoneout draw from, afresh for each window; default None: nothing is left out. Only with
            k2 = k1, for steps that are run again would be drawn again.

    Returns:
        An iterator over the `Window`s.
    """
    if not isinstance(layer, Recurrent):
        raise TypeError(f"layer: expected a recurra layer, got {type(layer).__name__}")
    if layer.direction != "forward" or layer.precision:
        raise ValueError(f"layer: expected one direction, forward, and full precision, got {layer!r}")
    stride = integer("k1", k1)
    reach = stride if k2 is None else integer("k2", k2, stride)
    again = flag("recompute", recompute)
    if rng is not None and not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng: expected None or a numpy.random.Generator, got {rng!r}")
    if rng is not None and reach > stride:
        raise ValueError(f"rng: expected None with k2 > k1, got {rng!r}")
    packed, batch_first = layer._packed, layer.batch_first
    array, batch, _, valid = packed.checked_call(x, state, lengths, batch_first)
    axis = 1 if batch and batch_first else 0
    marks = marks_of(resets, reset_state, mask, masked_output)
    steps, gpu = array.shape[axis], packed.placement.gpu
    flags = {
        name: host_flags(name, value, steps, batch, batch_first, gpu)
        for name, value in (("resets", resets), ("mask", mask))
    }
    if reset_state is not None:
        packed.check_state(reset_state, batch, "reset_state", shared=True)
    if layer.device != "cpu":  # its arrays can be cut themselves
        if reach > stride and not is_cupy(x):
            raise ValueError(f"k2: expected k1 with arrays other than CuPy's, got {reach} with {type(x).__name__}")
        array, valid = x, lengths if on_gpu(lengths) else valid

    def part(begin: int, end: int) -> tuple[Any, dict[str, Any]]:
        """Arguments of a call of these steps."""
        options: dict[str, Any] = {}
        if valid is not None:
            options["lengths"] = (valid - begin).clip(0, end - begin)
        if marks is not None:
            own = {n: None if f is None else _as_sequence(f[begin:end], batch, axis) for n, f in flags.items()}
            options.update(marks._replace(**own)._asdict())
        return _cut(array, axis, begin, end), options

    return _tbptt(layer, part, steps, stride, reach, state, {"recompute": again, "rng": rng}, axis)


def _tbptt(
    layer: Recurrent,
    part: Callable[[int, int], tuple[Any, dict[str, Any]]],
    steps: int,
    k1: int,
    k2: int,
    state: Any,
    options: dict[str, Any],
    axis: int,
) -> Iterator[Window]:
    origin = 0
    for start in range(0, steps, k1):  # here `state` is that before step `origin`
        stop = min(start + k1, steps)
        inputs, own = part(origin, stop)
        outputs, final, tape = layer.forward(inputs, state, **own, **options)
        y = _cut(outputs, axis, start - origin, stop - origin)
        window = Window(start, stop, origin, y, final, axis, tape)
        following = max(0, min(stop + k1, steps) - k2)
        if following == stop:
            state = final
        elif following > origin:  # with the parameters of now: those of the next window may be others
            inputs, own = part(origin, following)
            state = layer(inputs, state, **own)[1]
        origin = following
        yield window


def _as_sequence(flags: Array, batch: tuple[int, ...], axis: int) -> Array:
    """Booleans [T, B] in the form of a sequence."""
    return (flags.T if axis else flags) if batch else flags[:, 0]


def windows(x: Any, length: int, stride: int | None = None, horizon: int = 0) -> tuple[Array, Array]:
    """Overlapping windows of a series, and the steps that follow each. Split train and test by time before.

        >>> inputs, targets = training.windows(np.arange(6.0)[:, None], length=3, stride=2, horizon=1)
        >>> inputs[..., 0].tolist(), targets[..., 0].tolist()
        ([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]], [[3.0], [5.0]])

    Args:
        x: [T, F], of any dtype, with T at least length + horizon, or a series [T]; also of
            pandas.
        length: steps of a window.
        stride: steps from one window to the next; default length // 2, at least 1.
        horizon: steps after a window that are its target; default 0. No window sees any of its own.

    Returns:
        (inputs, targets): read-only views of x, [N, length, F] and [N, horizon, F], for all N windows that fit whole;
        of a series, as layers read it and a Linear gives it, [N, length, 1] and [N, horizon].
    """
    series = as_array("x", x.to_numpy() if type(x).__module__.partition(".")[0] == "pandas" else x)
    check("x", series, series.dtype, ("T", "F"), ("T",))
    size, ahead = integer("length", length), integer("horizon", horizon, 0)
    step = max(1, size // 2) if stride is None else integer("stride", stride)
    if len(series) < size + ahead:
        raise ValueError(f"x: expected at least length + horizon = {size + ahead} steps, got {len(series)}")
    cut = np.lib.stride_tricks.sliding_window_view(series, size + ahead, axis=0)[::step]
    if series.ndim == 1:
        return cut[:, :size, None], cut[:, size:]
    cut = cut.swapaxes(1, 2)
    return cut[:, :size], cut[:, size:]


def _cut(array: Any, axis: int, start: int, stop: int) -> Any:
    return array[:, start:stop] if axis else array[start:stop]
