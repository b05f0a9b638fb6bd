"""The learned initial state of a network on a GPU: one for all rows of a batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .. import _core
from .arrays import View
from .launch import item_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class LearnedState:
    """What parameters of these shapes [L*D, size] say, if there are any, in the numbers of states."""

    __slots__ = ("_addresses", "_gpu", "_lanes", "_memory", "_number", "_shapes")
    _lanes: dict[int, _core.cuda.Memory]  # by the size of a batch: of each of its states the row in a parameter

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], number: str, gpu: int) -> None:
        self._shapes, self._number, self._gpu, self._lanes = shapes, number, gpu, {}
        self._addresses: dict[str, int] = {}
        # Those of 16-bit networks are rounded.
        self._memory = {
            name: _core.cuda.Memory(gpu, lanes * size * 2)
            for name, (lanes, size) in shapes.items()
            if item_size(number) == 2
        }

    def set_parameters(self, addresses: Mapping[str, int], stream: int) -> None:
        """Of the network's parameters, which stay where they are."""
        for name, (lanes, size) in self._shapes.items():
            self._addresses[name] = addresses[name]
            if name in self._memory:
                to = self._memory[name].pointer
                _core.cuda.take_rows(
                    self._number, self._gpu, addresses[name], lanes, size, self._lane(1), False, lanes, to, stream
                )
                self._addresses[name] = to

    def views(self, batch: tuple[int, ...]) -> list[View] | None:
        """As the initial states of a call; None if nothing is learned."""
        found = []
        for name, (lanes, size) in self._shapes.items():
            shape, strides = (lanes, *batch, size), (size, *[0 for _ in batch], 1)
            found.append(View(name, self._addresses[name], shape, strides, self._number, self._gpu, True, None, self))
        return found or None

    def add_gradients(
        self, params: Mapping[str, View], sources: Sequence[Sequence[View]], add: bool, stream: int
    ) -> None:
        """Those of states that it has been, summed: states [L*D, B, size] or [L*D, size] in each source. Without `add`
        what was there before counts as zero."""
        for number, (name, (lanes, size)) in enumerate(self._shapes.items()):
            to = params[name].pointer
            if not add:
                _core.cuda.add_rows(self._number, self._gpu, to, lanes, size, 0, False, 0, 0, False, stream)
            for states in sources:
                rows, pointer = math.prod(states[number].shape[1:-1]), states[number].pointer
                if rows:
                    index, count = self._lane(rows), lanes * rows
                    _core.cuda.add_rows(
                        self._number, self._gpu, to, lanes, size, index, False, count, pointer, True, stream
                    )

    def _lane(self, rows: int) -> int:
        """The address of lane 0 `rows` times, then lane 1, and so on. It is written once."""
        if rows not in self._lanes:
            lanes = next(iter(self._shapes.values()))[0]
            indices = np.repeat(np.arange(lanes, dtype=np.int32), rows)
            memory = _core.cuda.Memory(self._gpu, indices.nbytes)
            memory.write(0, indices)
            self._lanes[rows] = memory
        return self._lanes[rows].pointer
