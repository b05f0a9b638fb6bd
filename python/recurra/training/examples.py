"""Inputs and targets of a training, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._arrays import as_array, check, check_shape, row_lengths
from .._options import choice, real, shown
from ..model.arguments import checked_inputs, pattern, row_axis
from ._checks import number
from .losses import mean_squared_error, softmax_cross_entropy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .._arrays import Array
    from ..model import Model, ModelTape, Value

__all__ = ["Examples", "Objective", "objectives", "split"]

_POOL = 16  # batches whose rows are sorted by length together, which leaves enough to chance
_LOSSES: dict[str, Any] = {"mse": mean_squared_error, "cross_entropy": softmax_cross_entropy}


class Objective(NamedTuple):
    """What is asked of an output.

    Attributes:
        title: what its targets are called in errors.
        loss: of output, targets and mask, with its gradient.
        weight: of the loss in the sum over outputs.
    """

    title: str
    loss: Callable[..., Any]
    weight: float


def objectives(model: Model, loss: Any, weights: Any) -> dict[str, Objective]:
    """Those of all outputs by name, from a loss for all or for each, and their weights."""
    names, several = model.outputs, len(model.outputs) > 1
    if weights is not None and not several:
        raise ValueError("weights: expected None for a model with one output")
    losses = _by_output("loss", loss, names) if isinstance(loss, Mapping) and several else dict.fromkeys(names, loss)
    factors = dict.fromkeys(names, 1.0) if weights is None else _by_output("weights", weights, names)
    made = {}
    for name in names:
        end = f" {name}" if several else ""
        of = losses[name] if callable(losses[name]) else choice(f"loss{end}", losses[name], _LOSSES)
        made[name] = Objective(f"y{end}", of, number(f"weights{end}", factors[name]))
    return made


def _by_output(title: str, given: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """One for each output, by name."""
    if isinstance(given, tuple) and len(given) == len(names):
        return dict(zip(names, given, strict=True))
    if not isinstance(given, Mapping) or set(given) != set(names):
        got = sorted(map(str, given)) if isinstance(given, Mapping) else shown(given)
        raise ValueError(f"{title}: expected a tuple or dict of the outputs {list(names)}, got {got}")
    return {name: given[name] for name in names}


class Column(NamedTuple):
    """One array of all examples, in the caller's order of axes.

    Attributes:
        rows: which axis is that of rows.
        time: which one that of steps, or None.
    """

    array: Array
    rows: int
    time: int | None

    def part(self, rows: Any) -> Column:
        """Some rows."""
        return self._replace(array=np.take(self.array, rows, self.rows))

    def first(self, steps: int | None) -> Array:
        """So many steps of all rows."""
        if self.time is None or steps is None:
            return self.array
        return self.array[:, :steps] if self.time else self.array[:steps]


class Examples(NamedTuple):
    """Rows of examples.

    Attributes:
        x: by name of the model's inputs.
        y: targets, by name of the outputs.
        lengths: int64 [rows], or None.
        rows: how many there are.
    """

    x: dict[str, Column]
    y: dict[str, Column]
    lengths: Array | None
    rows: int

    def part(self, rows: Any) -> Examples:
        """Some of them, and with lengths only the steps that these need."""
        lengths = None if self.lengths is None else self.lengths[rows]
        longest = None if lengths is None or not len(lengths) else int(lengths.max())
        x = {name: column.part(rows) for name, column in self.x.items()}
        x = {name: column._replace(array=column.first(longest)) for name, column in x.items()}
        return Examples(x, {name: column.part(rows) for name, column in self.y.items()}, lengths, len(rows))

    def batches(self, rng: np.random.Generator | None, size: int) -> Iterator[Examples]:
        """All rows: in their order without rng, else shuffled, where with lengths those of similar length meet."""
        order = np.arange(self.rows) if rng is None else rng.permutation(self.rows)
        if rng is not None and self.lengths is not None:
            pools = [order[k : k + _POOL * size] for k in range(0, len(order), _POOL * size)]
            order = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools])
        starts = np.arange(0, len(order), size)
        for start in starts if rng is None else rng.permutation(starts):
            yield self.part(order[start : start + size])

    def loss(
        self, model: Model, asked: Mapping[str, Objective], rng: Any
    ) -> tuple[Losses, ModelTape, dict[str, Array]]:
        """Of these rows, by name of the output: losses, each with how many positions it is the mean of; the tape; and
        the gradients of those outputs that have a position."""
        output, tape = model.forward({name: each.array for name, each in self.x.items()}, lengths=self.lengths, rng=rng)
        outputs = output if len(asked) > 1 else {model.outputs[0]: output}
        losses, gradients = {}, {}
        for name, objective in asked.items():
            counts = tape.counts[name]
            if counts is not None and not counts.any():
                continue
            value, dy = self._loss(name, objective, outputs[name], counts, len(model._values[name].features))
            losses[name] = value, self.rows if counts is None else int(counts.sum())
            gradients[name] = dy if objective.weight == 1 else dy * dy.dtype.type(objective.weight)
        return losses, tape, gradients

    def _loss(self, name: str, objective: Objective, y: Array, counts: Array | None, axes: int) -> tuple[float, Array]:
        column, of = self.y[name], objective.loss
        target = column.array if self.lengths is None else column.first(y.shape[column.time or 0])
        ahead = y
        if of is mean_squared_error and axes > 1:
            lead = y.shape[: y.ndim - 2]
            ahead, target = (a.reshape(*lead, a.shape[-2] * a.shape[-1]) for a in (y, target))
        if of in _LOSSES.values():
            value, dy = of(ahead, target, counts, **({} if column.time is None else {"time_axis": column.time}))
            return float(value), dy.reshape(y.shape)
        made = of(ahead, target, counts)
        if not isinstance(made, tuple) or len(made) != 2:
            raise TypeError(f"loss: expected a function that gives (loss, gradient of the output), got {shown(made)}")
        return real("loss", made[0]), check("loss: the gradient of the output", made[1], y.dtype, y.shape)


Losses = dict[str, tuple[float, int]]


def split(
    model: Model, x: Any, y: Any, lengths: Any, validation: Any, asked: Mapping[str, Objective]
) -> tuple[Examples, Examples | None]:
    """The rows to train on, and those to validate with, checked."""
    data = _checked(model, x, y, lengths, asked)
    if validation is None:
        return data, None
    if isinstance(validation, (tuple, list)):
        if len(validation) not in (2, 3):
            raise ValueError(f"validation: expected (x, y) or (x, y, lengths), got {len(validation)} values")
        try:
            return data, _checked(model, *(*validation, None)[:3], asked)  # type: ignore[call-arg]
        except (TypeError, ValueError) as error:
            raise type(error)(f"validation: {error}") from None
    share = real("validation", validation)
    first = data.rows - round(data.rows * share) if 0 < share < 1 else 0
    if not 0 < first < data.rows:
        raise ValueError(f"validation: expected a part of {data.rows} rows that leaves some, got {shown(validation)}")
    return data.part(np.arange(first)), data.part(np.arange(first, data.rows))


def _checked(model: Model, x: Any, y: Any, lengths: Any, asked: Mapping[str, Objective]) -> Examples:
    given, batch = checked_inputs(model, x)
    if not batch or not batch[0]:
        raise ValueError("x: expected a batch axis with at least one row, got none")
    inputs = {name: _column(model, model.inputs[name], array) for name, array in given.items()}
    steps = {name: each.array.shape[each.time] for name, each in inputs.items() if each.time is not None}
    counts = [steps.get(name, 1) for name in inputs]
    targets = _by_output("y", y, model.outputs) if len(asked) > 1 else {model.outputs[0]: y}
    columns = {}
    for k, (name, objective) in enumerate(asked.items()):
        value, title = model._values[name], objective.title
        column = columns[name] = _column(model, value, as_array(title, targets[name]))
        target, shape = column.array, pattern(model, value, batch, model._core().output_steps(k, counts))
        if objective.loss is softmax_cross_entropy:
            if target.dtype.kind not in "iu":
                raise TypeError(f"{title}: expected integers, got {target.dtype}")
            check_shape(title, target.shape, shape[:-1])
        elif objective.loss is mean_squared_error:
            check(title, target, model.dtype, shape)
        elif target.ndim <= column.rows or target.shape[column.rows] != batch[0]:
            raise ValueError(f"{title}: expected {batch[0]} rows, as x, got shape {list(target.shape)}")
    if lengths is not None and not steps:
        raise ValueError("lengths: expected None for a model whose inputs have no steps")
    valid = None if lengths is None else row_lengths(lengths, batch[0], min(steps.values()))
    return Examples(inputs, columns, valid, batch[0])


def _column(model: Model, value: Value, array: Array) -> Column:
    return Column(array, row_axis(model, value), int(model.batch_first) if value.time else None)
