"""What a pool steps: the states of its streams, and batches of some of them. Those on a GPU are in `cuda/pool.py`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._arrays import batched, empty
from .heads import Embedding
from .model import Model, ModelStream
from .recurrent import Recurrent
from .stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._arrays import Array
    from .cuda.pool import DeviceStates

_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # rows that batches have


class About(NamedTuple):
    """Frames and outputs of a network."""

    frame: tuple[int, ...]
    dtype: np.dtype[Any]
    symbols: int | None  # how many, where frames are such
    output: tuple[int, ...]
    output_dtype: np.dtype[Any]


def about_of(model: Any) -> About:
    """Of what can be pooled, but for what its stream refuses."""
    if isinstance(model, Recurrent):
        sizes, dtype, number = model._packed.sizes, model._packed.dtype, model._packed.placement.number
        if model.device != "cpu" and number not in ("float32", "float64"):
            raise ValueError(
                f"model: expected float32 or float64 on a GPU, got {number}: states of a step are float32 there, and"
                " would be rounded between steps"
            )
        return About((sizes.input,), dtype, None, (sizes.output,), dtype)
    if not isinstance(model, Model):
        raise TypeError(f"model: expected a recurra.Model or a recurrent layer, got {type(model).__name__}")
    if len(model.inputs) > 1 or len(model.outputs) > 1:
        raise ValueError(
            f"model: expected one input and one output, got {list(model.inputs)} and {list(model.outputs)}"
        )
    ((name, value),), (output,) = model.inputs.items(), model._output_values.values()
    if not value.time:
        raise ValueError(f"model: expected an input that is a sequence, got {name!r}")
    if not value.integer:
        return About(value.features, model.dtype, None, output.features, model.dtype)
    symbols = min(node.num_embeddings for node in model.layers.values() if isinstance(node, Embedding))
    return About((), np.dtype(np.int64), symbols, output.features, model.dtype)


def stream_of(model: Model | Recurrent, batch: int | None) -> Any:
    try:
        stream = model.stream(batch)
    except (TypeError, ValueError) as error:
        raise ValueError(f"model: {error}") from error
    for name, shape, _ in stream._others if isinstance(stream, ModelStream) else ():
        if not shape:
            raise ValueError(f"model: {name}: a stride over time counts the steps of all rows together")
    return stream


class _Part(NamedTuple):
    """States that the core hands over together."""

    arrays: list[Array]
    axis: int  # of rows
    get: Callable[[], None]
    set: Callable[[], None]


def _parts(stream: Stream | ModelStream, rows: int) -> list[_Part]:
    """All states of a stream of so many rows."""

    def part(axis: int, arrays: list[Array], core: Any, get: str, *which: Any) -> _Part:
        ways = (partial(getattr(core, f"{way}_{get}"), *which) for way in ("get", "set"))
        return _Part(arrays, axis, *ways)

    if isinstance(stream, Stream):
        arrays = [batched(array) for array in stream._packed.empty_state((rows,))]
        return [part(1, arrays, stream._stream, "state", arrays)]
    found = []
    for number, layer in enumerate(stream._model._recurrent.values()):
        packed: Any = layer._packed
        arrays = packed.empty_state((rows,))
        found.append(part(1, arrays, stream._stream, "recurrent", number, arrays))
    for number, (name, shape, whole) in enumerate(stream._others):
        array = np.empty(shape, np.int64 if whole else stream._model.dtype)
        axis = 1 if name.endswith(":window") else 0
        found.append(part(axis, [array], stream._stream, "state", number, array))
    return found


class _Batch:
    """A stream of a number of rows, and the arrays for one step of it."""

    def __init__(self, model: Model | Recurrent, rows: int, about: About) -> None:
        self.stream = stream_of(model, rows)
        self.parts = _parts(self.stream, rows)
        self.x, self.y = (
            np.empty((rows, *about.frame), about.dtype),
            np.empty((rows, *about.output), about.output_dtype),
        )
        self.rows, self.slots = np.empty((2, rows), np.int64)


class HostStates:
    """Those of a network on the CPU.

    Attributes:
        most: rows of a batched step.
    """

    most = _SIZES[-1]  # more make it no cheaper a row, and states leave the second-level cache

    def __init__(self, model: Model | Recurrent, capacity: int, about: About) -> None:
        self._single = stream_of(model, None)
        self._make = lambda rows: _Batch(model, rows, about)
        self._capacity, self._parts = capacity, _parts(self._single, 1)
        self._arrays = [
            empty("capacity", (*a.shape[: p.axis], capacity, *a.shape[p.axis + 1 :]), a.dtype)
            for p in self._parts
            for a in p.arrays
        ]

    def batches(self) -> list[_Batch]:
        """New ones, for 1, 2, ... rows."""
        return by_rows(self._make, _SIZES, self._capacity)

    def begin(self, row: int, state: Any) -> None:
        """Set a row to a state, or to where sequences begin; errors are those of a stream's state."""
        if state is None:
            self._single.reset()
        else:
            self._single.state = state
        for part in self._parts:
            part.get()
        for whole, array, axis in self._whole(self._parts):
            whole.swapaxes(0, axis)[row] = array.swapaxes(0, axis)[0]

    def end(self, row: int) -> Any:
        """The state of a row, as that of a stream."""
        for whole, array, axis in self._whole(self._parts):
            array.swapaxes(0, axis)[0] = whole.swapaxes(0, axis)[row]
        for part in self._parts:
            part.set()
        return self._single.state

    def step(self, batch: _Batch, rows: Array, slots: Array, x: Array, y: Array) -> None:
        """One step of these rows, which nobody else touches meanwhile, from and to these slots of x and y. A batch may
        have some more rows; these do what the first one does, for nothing."""
        count = len(rows)
        for mine, given in ((batch.rows, rows), (batch.slots, slots)):
            mine[:count], mine[count:] = given, given[0]
        np.take(x, batch.slots, 0, batch.x, "clip")  # "raise" would make a copy of x
        for whole, array, axis in self._whole(batch.parts):
            np.take(whole, batch.rows, axis, array, "clip")
        for part in batch.parts:
            part.set()
        batch.stream.step(batch.x, batch.y)
        for part in batch.parts:
            part.get()
        y[slots] = batch.y[:count]
        for whole, array, axis in self._whole(batch.parts):
            whole.swapaxes(0, axis)[rows] = array.swapaxes(0, axis)[:count]

    def _whole(self, parts: list[_Part]) -> Any:
        """Each array of states of all rows, with the one of a batch or stream and the axis of rows of both."""
        arrays = ((array, part.axis) for part in parts for array in part.arrays)
        return ((whole, array, axis) for whole, (array, axis) in zip(self._arrays, arrays, strict=True))


def states_of(model: Model | Recurrent, capacity: int, about: About) -> HostStates | DeviceStates:
    """Of a pool."""
    if isinstance(model, Recurrent) and model.device != "cpu":
        from .cuda.pool import DeviceStates

        return DeviceStates(model, capacity, about)
    return HostStates(model, capacity, about)


def by_rows(make: Callable[[int], Any], sizes: Sequence[int], capacity: int) -> list[Any]:
    """For 1, 2, ... rows what is made for the smallest of the sizes that has so many."""
    fitting = [next(size for size in sizes if size >= rows) for rows in range(1, min(sizes[-1], capacity) + 1)]
    made = {size: make(size) for size in sorted(set(fitting))}
    return [made[size] for size in fitting]
