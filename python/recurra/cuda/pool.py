"""What a pool steps on a GPU: the states of its streams in the GPU's memory, and batches of some of them. See
`_pool_states`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from .._arrays import check, contiguous, unwrapped
from .._options import split_state
from .._pool_states import About, by_rows, stream_of
from .launch import ALIGNMENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._arrays import Array
    from ..recurrent import Recurrent
    from .packed import CudaPacked

_SIZES = tuple(2**n for n in range(13))  # rows that batches have
_STREAM = 0  # the legacy stream: copies from and to the host are in its order too


class _Batch:
    """A stream of a number of rows, and memory for one step of it: on the GPU indices, x, the states and y; on the host
    indices and x, which go there by one copy, and y."""

    def __init__(self, layer: Recurrent, rows: int, about: About) -> None:
        packed: Any = layer._packed
        self.stream = stream_of(layer, rows)._stream
        item, (inputs,), (outputs,) = about.dtype.itemsize, about.frame, about.output
        shapes = list(packed.state_shapes((rows,)).values())
        lanes = shapes[0][0]
        arrays = ((rows, inputs), *shapes, (rows, outputs))
        bytes_ = [lanes * rows * 8, *[math.prod(shape) * item for shape in arrays]]
        at = np.cumsum([0, *[-(-size // ALIGNMENT) * ALIGNMENT for size in bytes_]]).tolist()
        self.memory = _core.cuda.Memory(packed.gpu, at[-1])
        self.given = np.zeros(at[1] + bytes_[1], np.uint8)
        self.indices = self.given[: bytes_[0]].view(np.int64).reshape(lanes, rows)
        self.x_host = self.given[at[1] :].view(about.dtype).reshape(rows, inputs)
        self.y_host = np.empty((rows, outputs), about.dtype)
        pointer, self.offsets = self.memory.pointer, at[2:-2]
        self.x = (pointer + at[1], 0, inputs, 1)
        self.y_offset = at[-2]
        self.y = (pointer + self.y_offset, 0, outputs, 1)
        self.states = [(pointer + p, rows * shape[-1], shape[-1], 1) for p, shape in zip(at[2:-2], shapes, strict=True)]


class DeviceStates:
    """Those of a layer on a GPU. Frames, outputs, and states that streams begin and end with, are on the host.

    Attributes:
        most: rows of a batched step.
    """

    most = _SIZES[-1]

    def __init__(self, layer: Recurrent, capacity: int, about: About) -> None:
        packed: Any = layer._packed
        self._packed: CudaPacked = packed
        self._make: Callable[[int], _Batch] = lambda rows: _Batch(layer, rows, about)
        self._capacity, self._dtype = capacity, about.dtype
        self._shapes = packed.state_shapes(())
        self._lanes = np.arange(packed.sizes.layers)[:, None] * capacity  # where those of a layer begin
        self._tables = [
            _core.cuda.Memory(packed.gpu, lanes * capacity * size * about.dtype.itemsize)
            for lanes, size in self._shapes.values()
        ]
        self._one = self._make(1)
        self._one.stream.get_state(self._one.states, _STREAM)
        self._initial = self._read_one()

    def batches(self) -> list[_Batch]:
        """See `HostStates`."""
        return by_rows(self._make, _SIZES, self._capacity)

    def begin(self, row: int, state: Any) -> None:
        """See `HostStates`; the state's arrays are on the host."""
        arrays = self._initial
        if state is not None:
            given = split_state("state", state, self._shapes).items()
            checked = [check(n, v, self._dtype, s) for (n, v), s in zip(given, self._shapes.values(), strict=True)]
            arrays = [contiguous(array) for array in checked]
        for offset, array in zip(self._one.offsets, arrays, strict=True):
            self._one.memory.write(offset, array)
        self._tell(self._one, np.array([row]))
        self._move(_core.cuda.put_rows, self._one)

    def end(self, row: int) -> Any:
        """See `HostStates`; arrays of the host."""
        self._tell(self._one, np.array([row]))
        self._move(_core.cuda.take_rows, self._one)
        return unwrapped(self._read_one())

    def step(self, batch: _Batch, rows: Array, slots: Array, x: Array, y: Array) -> None:
        """See `HostStates`."""
        count = len(rows)
        np.take(x, slots, 0, batch.x_host[:count], "clip")
        self._tell(batch, rows)
        self._move(_core.cuda.take_rows, batch)
        batch.stream.set_state(batch.states, _STREAM)
        batch.stream.step(batch.x, batch.y, _STREAM)
        batch.stream.get_state(batch.states, _STREAM)
        batch.memory.read(batch.y_offset, batch.y_host)  # waits, so that what fails does so before states are replaced
        y[slots] = batch.y_host[:count]
        self._move(_core.cuda.put_rows, batch)

    def _tell(self, batch: _Batch, rows: Array) -> None:
        """Indices of these rows, and x, to the GPU. Rows that a batch has more are none: nothing is put there."""
        batch.indices[:, : len(rows)], batch.indices[:, len(rows) :] = self._lanes + rows, -1
        batch.memory.write(0, batch.given)

    def _move(self, rows: Any, batch: _Batch) -> None:
        """Take states from the tables, or put them there."""
        number, gpu, indices = self._packed.placement.number, self._packed.gpu, batch.memory.pointer
        for table, (lanes, size), state in zip(self._tables, self._shapes.values(), batch.states, strict=True):
            count = batch.indices.size
            rows(number, gpu, table.pointer, lanes * self._capacity, size, indices, True, count, state[0], _STREAM)

    def _read_one(self) -> list[Array]:
        arrays = [np.empty(shape, self._dtype) for shape in self._shapes.values()]
        for offset, array in zip(self._one.offsets, arrays, strict=True):
            self._one.memory.read(offset, array)
        return arrays
