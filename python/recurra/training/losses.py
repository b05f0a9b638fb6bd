"""Losses and pooling with their gradients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .._arrays import as_array, bounded, check, require_memory, vector
from .._options import flag, integer
from ._checks import checked_axis, floats, is_finite

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
        logits: [..., K], float32 or float64.
        targets: [...], integers in 0..K-1; values at positions that do not count are ignored.
        mask: [...], bool, which positions count; default all. See `step_mask`.
        time_axis: which of the leading axes are steps, for the error message.

    Returns:
        (loss, dlogits): a float, summed in float64, and an array like logits, zero where positions do not count.

    Raises:
        ValueError: no position counts.
        FloatingPointError: the loss is not finite; names the first step at which it is not.
    """
    scores, counts, axis = _positions("logits", logits, mask, time_axis)
    labels = as_array("targets", targets)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"targets: expected integers, got {labels.dtype}")
    labels = np.where(counts, check("targets", labels, labels.dtype, counts.shape), 0)
    index = bounded("targets", labels.reshape(-1), scores.shape[-1] - 1).reshape(*counts.shape, 1)
    with np.errstate(invalid="ignore", over="ignore"):
        gradient = scores - scores.max(axis=-1, keepdims=True)
        chosen = np.take_along_axis(gradient, index, -1)[..., 0].astype(np.float64)
        np.exp(gradient, out=gradient)
        total = gradient.sum(axis=-1, keepdims=True)
        loss = _mean(np.log(total[..., 0], dtype=np.float64) - chosen, counts, axis)
        gradient /= total
    np.put_along_axis(gradient, index, np.take_along_axis(gradient, index, -1) - 1, -1)
    gradient *= 1 / np.count_nonzero(counts)
    gradient[~counts] = 0
    return loss, gradient


def mean_squared_error(
    y: Input, target: Input, mask: Input | None = None, *, time_axis: int = 0
) -> tuple[float, Array]:
    """Mean of (y - target)^2 over counted positions and features, and its gradient, 2 (y - target) / (count * F).

        >>> loss, dy = training.mean_squared_error(np.array([[1.0, 3.0]]), np.array([[1.0, 1.0]]))
        >>> loss, dy.tolist()
        (2.0, [[0.0, 2.0]])

    Args:
        y: [..., F], float32 or float64.
        target: of y's shape and dtype.
        mask: [...], bool, which positions count; default all. See `step_mask`.
        time_axis: which of the leading axes are steps, for the error message.

    Returns:
        (loss, dy): a float, summed in float64, and an array like y, zero where positions do not count.

    Raises:
        ValueError: no position counts.
        FloatingPointError: the loss is not finite; names the first step at which it is not.
    """
    values, counts, axis = _positions("y", y, mask, time_axis)
    wanted = check("target", target, values.dtype, values.shape)
    with np.errstate(invalid="ignore", over="ignore"):
        gradient = values - wanted
        loss = _mean(np.square(gradient, dtype=np.float64).mean(axis=-1), counts, axis)
    gradient *= 2 / (np.count_nonzero(counts) * values.shape[-1])
    gradient[~counts] = 0
    return loss, gradient


def step_mask(lengths: Lengths, steps: int) -> Array:
    """Which steps of each sequence are valid: bool [T, B].

        >>> training.step_mask([2, 0], steps=3).tolist()
        [[True, False], [True, False], [False, False]]

    Args:
        lengths: B integers in 0..T.
        steps: T.
    """
    count = integer("steps", steps, 0)
    valid = bounded("lengths", vector("lengths", lengths, None), count)
    require_memory("steps", count * (8 + len(valid)))
    return np.arange(count)[:, None] < valid


def last_step(y: Input, lengths: Lengths | None = None) -> tuple[Array, Callable[[Input], Array]]:
    """The output of each sequence's last valid step.

        >>> y = np.arange(6.0).reshape(3, 2, 1)
        >>> pooled, backward = training.last_step(y, lengths=[3, 1])
        >>> pooled.tolist(), backward(np.ones((2, 1)))[:, 0, 0].tolist()
        ([[4.0], [1.0]], [0.0, 0.0, 1.0])

    Args:
        y: [T, B, F], float32 or float64, T at least 1.
        lengths: B integers in 1..T; default T.

    Returns:
        (pooled, backward): pooled is [B, F]; backward(dpooled) is dy, of y's shape and dtype, zero at all other steps.
    """
    array, valid = _sequences(y, lengths)
    return _picked(array, np.broadcast_to(valid[:, None] - 1, array.shape[1:]))


def max_over_time(y: Input, lengths: Lengths | None = None) -> tuple[Array, Callable[[Input], Array]]:
    """The largest value of each feature over each sequence's valid steps.

        >>> y = np.array([[[1.0]], [[3.0]], [[2.0]]])
        >>> pooled, backward = training.max_over_time(y)
        >>> pooled.tolist(), backward(np.ones((1, 1))).ravel().tolist()
        ([[3.0]], [0.0, 1.0, 0.0])

    Args:
        y: [T, B, F], float32 or float64, T at least 1.
        lengths: B integers in 1..T; default T.

    Returns:
        (pooled, backward): pooled is [B, F]; backward(dpooled) is dy, of y's shape and dtype: each gradient goes to the
        step of the maximum, the first if there are several.
    """
    array, valid = _sequences(y, lengths)
    inside = array if lengths is None else np.where(step_mask(valid, len(array))[..., None], array, -np.inf)
    return _picked(array, inside.argmax(axis=0))


def check_finite(name: str, array: Input, time_axis: int = 0, *, backward: bool = False) -> None:
    """Raise FloatingPointError, naming the step at which it arose, if a value is NaN or infinite.

        >>> training.check_finite("y", np.array([[0.0], [1.0], [np.inf]]))
        Traceback (most recent call last):
        FloatingPointError: y: expected finite values, got NaN or infinity, which arose at step 2

    Args:
        name: of the array, for the message.
        array: float32 or float64, with at least one axis.
        time_axis: which axis are the steps.
        backward: the values were computed from the last step to the first, as the gradients of inputs are; so the step
            named is the last bad one, not the first.
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected a string, got {name!r}")
    values = floats(name, array)
    axis, backwards = checked_axis(time_axis, values.ndim), flag("backward", backward)
    if is_finite(values):
        return
    bad = ~np.isfinite(np.moveaxis(values, axis, 0)).reshape(values.shape[axis], -1).all(axis=1)
    step = np.flatnonzero(bad)[-1 if backwards else 0]
    raise FloatingPointError(f"{name}: expected finite values, got NaN or infinity, which arose at step {step}")


def _positions(name: str, value: Input, mask: Input | None, time_axis: int) -> tuple[Array, Array, int]:
    """A loss's values [..., K], which positions [...] count, and the time axis."""
    values = floats(name, value)
    if not values.ndim or not values.size:
        raise ValueError(f"{name}: expected at least one position and feature, got shape {list(values.shape)}")
    shape = values.shape[:-1]
    counts = np.ones(shape, np.bool_) if mask is None else check("mask", mask, np.dtype(np.bool_), shape)
    if not counts.any():
        raise ValueError("mask: expected at least one position that counts, got none")
    return values, counts, checked_axis(time_axis, max(1, len(shape)))


def _mean(losses: Array, counts: Array, time_axis: int) -> float:
    """Mean of the counted losses, float64; FloatingPointError names the first step at which their sum is not finite."""
    counted = np.atleast_1d(np.where(counts, losses, 0.0))
    mean = float(counted.sum() / np.count_nonzero(counts))
    if not math.isfinite(mean):
        sums = np.moveaxis(counted, time_axis, 0).reshape(counted.shape[time_axis], -1).sum(axis=1).cumsum()
        step = int((~np.isfinite(sums)).argmax())
        raise FloatingPointError(f"loss: expected a finite number, got {mean}, which arose at step {step}")
    return mean


def _sequences(y: Input, lengths: Lengths | None) -> tuple[Array, Array]:
    """Outputs [T, B, F] and each sequence's number of valid steps, at least one."""
    array = floats("y", y)
    steps, batch, _ = check("y", array, array.dtype, ("T", "B", "F")).shape
    if not steps:
        raise ValueError(f"y: expected at least one step, got shape {list(array.shape)}")
    valid = np.full(batch, steps) if lengths is None else bounded("lengths", vector("lengths", lengths, batch), steps)
    if not valid.all():
        raise ValueError(f"lengths: expected at least 1, got 0 at position {int(valid.argmin())}")
    return array, valid


def _picked(y: Array, index: Array) -> tuple[Array, Callable[[Input], Array]]:
    """For each sequence and feature, the value at one step: index is [B, F]."""
    shape, dtype, steps = y.shape, y.dtype, index[None]

    def backward(dpooled: Input) -> Array:
        gradient = check("dpooled", dpooled, dtype, shape[1:])
        dy = np.zeros(shape, dtype)
        np.put_along_axis(dy, steps, gradient[None], 0)
        return dy

    return np.take_along_axis(y, steps, 0)[0], backward
