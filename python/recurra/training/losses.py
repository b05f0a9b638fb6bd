"""Losses and pooling with their gradients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .._arrays import bounded, check_shape, require_memory, vector
from .._options import flag, integer
from ..cuda.array_libraries import is_cupy
from ._checks import (
    beside,
    checked_axis,
    device_of,
    floats,
    integers,
    is_finite,
    namespace_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._arrays import Array, Input

    Lengths = Sequence[int] | Input


def softmax_cross_entropy(
    logits: Input, targets: Input, mask: Input | None = None, *, time_axis: int = 0
) -> tuple[float, Array]:
    """Mean of -log softmax(logits)[target] over the counted positions, and its gradient, (softmax - one-hot) / count.

        >>> loss, dlogits = training.softmax_cross_entropy(np.zeros((1, 2)), np.array([1]))
        >>> round(loss, 4), dlogits.tolist()
        (0.6931, [[0.5, -0.5]])

    Args:
        logits: [..., K], float32 or float64, of NumPy or CuPy; the other arrays are where they are.
        targets: [...], integers in 0..K-1; values at positions that do not count are ignored.
        mask: [...], bool, which positions count; default all. See `step_mask`.
        time_axis: which of the leading axes are steps, for the error message.

    Returns:
        (loss, dlogits): a float, summed in float64, and an array like logits, zero where positions do not count. On a
        GPU the loss is an array of no axes, which nobody has waited for: it is NaN where no position counts or a target
        is none, as is that position's gradient.

    Raises:
        ValueError: no position counts, on the CPU.
        FloatingPointError: the loss is not finite, on the CPU; names the first step at which it is not.
    """
    scores, counts, axis = _positions("logits", logits, mask, time_axis)
    labels = integers("targets", targets, scores, scores.shape[:-1])
    xp, classes = namespace_of(scores), scores.shape[-1]
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"), device_of(scores):
        labels = (labels if counts is None else xp.where(counts, labels, 0)).reshape(-1)
        if xp is np:
            index = bounded("targets", labels, classes - 1)
        else:  # where nobody waits to see them: the loss becomes NaN
            index = xp.clip(labels.astype(np.int64), 0, classes - 1)
        at = xp.arange(index.size), index
        gradient = xp.ascontiguousarray(scores - scores.max(axis=-1, keepdims=True))
        flat = gradient.reshape(-1, classes)
        chosen = flat[at].astype(np.float64)
        xp.exp(gradient, out=gradient)
        total = flat.sum(axis=-1, keepdims=True)
        if xp is not np:
            total[:, 0] = xp.where(index == labels, total[:, 0], np.nan)
        losses = xp.log(total[:, 0], dtype=np.float64) - chosen
        loss, count = _mean(losses.reshape(scores.shape[:-1]), counts, axis)
        flat /= total
        flat[at] -= 1
        _scale(gradient, 1 / count, counts)
    return loss, gradient


def mean_squared_error(
    y: Input, target: Input, mask: Input | None = None, *, time_axis: int = 0
) -> tuple[float, Array]:
    """Mean of (y - target)^2 over counted positions and features, and its gradient, 2 (y - target) / (count * F).

        >>> loss, dy = training.mean_squared_error(np.array([[1.0, 3.0]]), np.array([[1.0, 1.0]]))
        >>> loss, dy.tolist()
        (2.0, [[0.0, 2.0]])

    Args:
        y: [..., F], float32 or float64, of NumPy or CuPy; the other arrays are where it is.
        target: of y's shape and dtype.
        mask: [...], bool, which positions count; default all. See `step_mask`.
        time_axis: which of the leading axes are steps, for the error message.

    Returns:
        (loss, dy): a float, summed in float64, and an array like y, zero where positions do not count. On a GPU the
        loss is an array of no axes, which nobody has waited for: it is NaN where no position counts.

    Raises:
        ValueError: no position counts, on the CPU.
        FloatingPointError: the loss is not finite, on the CPU; names the first step at which it is not.
    """
    values, counts, axis = _positions("y", y, mask, time_axis)
    wanted = beside("target", target, values, values.dtype, values.shape)
    xp = namespace_of(values)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"), device_of(values):
        gradient = values - wanted
        loss, count = _mean(xp.square(gradient, dtype=np.float64).mean(axis=-1), counts, axis)
        _scale(gradient, 2 / (count * values.shape[-1]), counts)
    return loss, gradient


def step_mask(lengths: Lengths, steps: int) -> Array:
    """Which steps of each sequence are valid: bool [T, B].

        >>> training.step_mask([2, 0], steps=3).tolist()
        [[True, False], [True, False], [False, False]]

    Args:
        lengths: B integers in 0..T. Those of CuPy give a mask of CuPy, and are not checked.
        steps: T.
    """
    count = integer("steps", steps, 0)
    valid = _valid(lengths, None, count)
    require_memory("steps", count * (8 + len(valid)))
    with device_of(valid):
        mask: Array = namespace_of(valid).arange(count)[:, None] < valid
    return mask


def last_step(y: Input, lengths: Lengths | None = None) -> tuple[Array, Callable[[Input], Array]]:
    """The output of each sequence's last valid step.

        >>> y = np.arange(6.0).reshape(3, 2, 1)
        >>> pooled, backward = training.last_step(y, lengths=[3, 1])
        >>> pooled.tolist(), backward(np.ones((2, 1)))[:, 0, 0].tolist()
        ([[4.0], [1.0]], [0.0, 0.0, 1.0])

    Args:
        y: [T, B, F], float32 or float64, T at least 1, of NumPy or CuPy.
        lengths: B integers in 1..T; default T. With y of CuPy they may be too; others then count as 1 or T.

    Returns:
        (pooled, backward): pooled is [B, F]; backward(dpooled) is dy, of y's shape and dtype, zero at all other steps.
    """
    array, valid = _sequences(y, lengths)
    with device_of(array):
        return _picked(array, valid[:, None] - 1)


def max_over_time(y: Input, lengths: Lengths | None = None) -> tuple[Array, Callable[[Input], Array]]:
    """The largest value of each feature over each sequence's valid steps.

        >>> y = np.array([[[1.0]], [[3.0]], [[2.0]]])
        >>> pooled, backward = training.max_over_time(y)
        >>> pooled.tolist(), backward(np.ones((1, 1))).ravel().tolist()
        ([[3.0]], [0.0, 1.0, 0.0])

    Args:
        y: [T, B, F], float32 or float64, T at least 1, of NumPy or CuPy.
        lengths: B integers in 1..T; default T. With y of CuPy they may be too; others then count as 1 or T.

    Returns:
        (pooled, backward): pooled is [B, F]; backward(dpooled) is dy, of y's shape and dtype: each gradient goes to the
        step of the maximum, the first if there are several.
    """
    array, valid = _sequences(y, lengths)
    xp = namespace_of(array)
    with device_of(array):
        inside = array if lengths is None else xp.where(step_mask(valid, len(array))[..., None], array, -np.inf)
        return _picked(array, inside.argmax(axis=0))


def check_finite(name: str, array: Input, time_axis: int = 0, *, backward: bool = False) -> None:
    """Raise FloatingPointError, naming the step at which it arose, if a value is NaN or infinite.

        >>> training.check_finite("y", np.array([[0.0], [1.0], [np.inf]]))
        Traceback (most recent call last):
        FloatingPointError: y: expected finite values, got NaN or infinity, which arose at step 2

    Args:
        name: of the array, for the message.
        array: float32 or float64, with at least one axis, of NumPy or CuPy; for the latter this waits.
        time_axis: which axis are the steps.
        backward: the values were computed from the last step to the first, as the gradients of inputs are; so the step
            named is the last bad one, not the first.
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected a string, got {name!r}")
    values = floats(name, array)
    axis, backwards = checked_axis(time_axis, values.ndim), flag("backward", backward)
    xp = namespace_of(values)
    with device_of(values):
        if is_finite(values):
            return
        bad = ~xp.isfinite(xp.moveaxis(values, axis, 0)).reshape(values.shape[axis], -1).all(axis=1)
        step = np.flatnonzero(bad.get() if is_cupy(bad) else bad)[-1 if backwards else 0]
    raise FloatingPointError(f"{name}: expected finite values, got NaN or infinity, which arose at step {step}")


def _positions(name: str, value: Input, mask: Input | None, time_axis: int) -> tuple[Any, Any, int]:
    """A loss's values [..., K], which positions [...] count, None for all, and the time axis."""
    values = floats(name, value)
    if not values.ndim or not values.size:
        raise ValueError(f"{name}: expected at least one position and feature, got shape {list(values.shape)}")
    shape = values.shape[:-1]
    counts = None if mask is None else beside("mask", mask, values, np.dtype(np.bool_), shape)
    if isinstance(counts, np.ndarray) and not counts.any():
        raise ValueError("mask: expected at least one position that counts, got none")
    return values, counts, checked_axis(time_axis, max(1, len(shape)))


def _mean(losses: Any, counts: Any, time_axis: int) -> tuple[Any, Any]:
    """Mean of the counted losses, float64, and how many they are; FloatingPointError names the first step at which
    their sum is not finite. On a GPU nobody waits for it."""
    xp = namespace_of(losses)
    counted = losses if counts is None else xp.where(counts, losses, 0.0)
    count = math.prod(losses.shape) if counts is None else xp.count_nonzero(counts)
    mean = counted.sum() / count
    if xp is not np:
        return mean, count
    if not math.isfinite(mean):
        steps = np.moveaxis(np.atleast_1d(counted), time_axis, 0)
        step = int((~np.isfinite(steps.reshape(len(steps), -1).sum(axis=1).cumsum())).argmax())
        raise FloatingPointError(f"loss: expected a finite number, got {mean}, which arose at step {step}")
    return float(mean), count


def _scale(gradient: Any, factor: Any, counts: Any) -> None:
    """Multiply in place, and let positions that do not count have none."""
    xp = namespace_of(gradient)
    gradient *= xp.asarray(factor, gradient.dtype)
    if counts is not None:
        xp.copyto(gradient, 0, where=~counts[..., None])


def _sequences(y: Input, lengths: Lengths | None) -> tuple[Any, Any]:
    """Outputs [T, B, F] and each sequence's number of valid steps, at least one."""
    array = floats("y", y)
    check_shape("y", array.shape, ("T", "B", "F"))
    steps, batch, _ = array.shape
    if not steps:
        raise ValueError(f"y: expected at least one step, got shape {list(array.shape)}")
    valid = np.full(batch, steps) if lengths is None else _valid(lengths, batch, steps)
    with device_of(array):
        if is_cupy(valid):
            beside("lengths", valid, array, valid.dtype, (batch,))
            return array, valid.clip(1, steps)
        if not valid.all():
            raise ValueError(f"lengths: expected at least 1, got 0 at position {int(valid.argmin())}")
        return array, namespace_of(array).asarray(valid)


def _valid(lengths: Lengths, batch: int | None, steps: int) -> Any:
    """Numbers of valid steps: int64 in 0..steps, or, on a GPU, whatever they are."""
    if is_cupy(lengths):
        return integers("lengths", lengths, lengths, ("B" if batch is None else batch,))
    return bounded("lengths", vector("lengths", lengths, batch), steps)


def _picked(y: Any, index: Any) -> tuple[Any, Callable[[Input], Any]]:
    """For each sequence and feature, the value at one step: index is [B, F] or [B, 1]."""
    shape, dtype, xp = y.shape, y.dtype, namespace_of(y)
    at = index, xp.arange(shape[1])[:, None], xp.arange(shape[2])

    def backward(dpooled: Input) -> Any:
        gradient = beside("dpooled", dpooled, index, dtype, shape[1:])
        with device_of(gradient):
            dy = xp.zeros(shape, dtype)
            dy[at] = gradient
        return dy

    return y[at], backward
