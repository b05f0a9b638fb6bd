"""Resets and masks on a GPU: the sequences between resets as rows of their own, as `_segments` has it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._arrays import require_rows
from .._marks import Marks, checked_flags, repeats
from .._segments import Segments, segments_of
from .arrays import View, on_gpu, view
from .launch import contiguous
from .rows import Rows, downloaded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._arrays import Array
    from .array_libraries import Library
    from .packed import CudaPacked


class Arrays(NamedTuple):
    """What the engine runs over, or backwards: of the caller, or of segments.

    Attributes:
        x, y, cells: [T, B, size]; None where it is not wanted, or a gradient is zero.
        initial, final: states [L*D, B, size]; `initial` may be None for zeros, and so may single gradients in `final`.
    """

    x: View | None
    initial: list[View] | None
    y: View | None
    final: Sequence[View | None]
    cells: View | None


class Moves:
    """From the arrays of a call to those of segments, and back, and so for gradients.

    Attributes:
        sizes, parts: of `Segments`.
        steps, rows: N and S of the segments.
        reset: the states that resets lead to, the caller's or what has been learned; none for zeros.
        reset_learned: whether it is the latter.
        memory: which every use reads.
    """

    def __init__(
        self,
        packed: CudaPacked,
        segments: Segments,
        axes: tuple[int, int],
        batch_first: bool,
        reset: list[View],
        reset_learned: bool,
        library: Library,
    ) -> None:
        self._packed, self.reset, self.reset_learned = packed, reset, reset_learned
        self.sizes, self.parts, (self.steps, self.rows) = segments.sizes, segments.parts, segments.place.shape
        require_rows("x", self.rows)
        sizes = packed.sizes
        self._directions, self._lanes = sizes.directions, sizes.layers * sizes.directions
        self._times, self._batch = axes
        self._initial_rows = self._lanes * self._batch
        self._reset_rows = math.prod(reset[0].shape[:-1]) if reset else 0
        self._lead = self.steps * self.rows * self._directions  # rows of y, before those of the states it begins with
        self._outputs = self._lead + self._lanes * self.rows + 1  # rows, the last one of zeros
        self._origins = self._initial_rows + self._reset_rows + 1  # likewise, of what segments begin with
        most = max(self._outputs, self._origins, self._times * self._batch)
        indices = self._indices(segments, batch_first)
        self._rows = Rows(packed.placement.number, packed.gpu, library, indices, most)
        self.memory = self._rows.memory

    def _indices(self, segments: Segments, batch_first: bool) -> dict[str, Array]:
        """Rows of the tables of x, of states that segments begin with, of final states, and of what outputs are."""
        steps, rows, times, batch = self.steps, self.rows, self._times, self._batch
        lane = np.arange(self._lanes)[:, None]
        direction = lane[:, 0] % self._directions
        place = segments.place
        if batch_first:
            place = place // max(batch, 1) + place % max(batch, 1) * times
        begin = np.stack(segments.begins)[direction]
        reset = lane * batch + begin - batch if self._reset_rows == self._initial_rows else lane
        reset = self._initial_rows + reset if self._reset_rows else self._origins - 1
        starts = np.where(begin < batch, lane * batch + begin, reset)
        output = np.stack(segments.outputs, -1)
        d = np.arange(self._directions)
        outputs = np.where(
            output < steps * rows,
            output * self._directions + d,
            np.where(
                output < (steps + 1) * rows,
                self._lead + (self._lanes - self._directions + d) * rows + output - steps * rows,
                self._outputs - 1,
            ),
        )
        return {
            "x": np.where(np.arange(steps)[:, None] < self.sizes, place, -1),
            "starts": starts,
            "reset": starts - self._initial_rows,
            "ends": lane * rows + np.stack(segments.ends)[direction],
            "outputs": outputs.swapaxes(0, 1) if batch_first else outputs,
        }

    # ---- forward

    def gathered(self, x: View, initial: list[View] | None, final: list[View], cells: bool) -> Arrays:
        """Of the segments, from the caller's x and initial states; new ones for results."""
        steps, rows, move = self.steps, self.rows, self._rows
        given = contiguous(x)
        x_rows = move.array("x", (steps, rows, self._packed.sizes.input))
        move.take(move.part(given, 0, (self._times * self._batch, self._packed.sizes.input)), "x", x_rows)
        begins, outputs = [], []
        for number, (name, size) in enumerate(self._packed.states):
            origins = self._table_of_origins(name, size, None if initial is None else initial[number], number)
            lead = self._lead if number <= int(cells) else 0
            pool = move.array(f"outputs and state {name}", (lead + self._lanes * rows + 1, size))
            begin = move.part(pool, lead * size, (self._lanes, rows, size))
            move.take(origins, "starts", begin)
            move.clear(move.part(pool, (lead + self._lanes * rows) * size, (1, size)))
            begins.append(begin)
            outputs.append(move.part(pool, 0, (steps, rows, self._directions * size)))
        return Arrays(x_rows, begins, outputs[0], final, outputs[1] if cells else None)

    def _table_of_origins(self, name: str, size: int, initial: View | None, number: int) -> View:
        """A table of all that segments may begin with."""
        move, rows = self._rows, self._initial_rows
        table = move.array(f"origins of {name}", (self._origins, size))
        start = move.part(table, 0, (rows, size))
        if initial is None:
            move.clear(start)
        else:
            move.copy(initial, start)
        if self.reset:
            move.copy(self.reset[number], move.part(table, rows * size, (self._reset_rows, size)))
        move.clear(move.part(table, (self._origins - 1) * size, (1, size)))
        return table

    def put_back(self, segments: Arrays, y: View, final: Sequence[View], cells: View | None) -> None:
        """The results of the segments, to the caller's arrays."""
        move = self._rows
        for array, to in ((segments.y, y), (segments.cells, cells)):
            if array is not None and to is not None:
                move.take(self._pool(array), "outputs", to)
        for array, to in zip(segments.final, final, strict=True):
            assert array is not None
            move.take(move.part(array, 0, (self._lanes * self.rows, array.shape[-1])), "ends", to)

    def _pool(self, outputs: View) -> View:
        size = outputs.shape[-1] // self._directions
        return self._rows.part(outputs, 0, (self._outputs, size))

    # ---- backward

    def gathered_gradients(
        self, dy: View | None, final: Sequence[View | None], cells: View | None, with_x: bool
    ) -> Arrays:
        """Of the segments, from the caller's; new ones for results."""
        move, rows = self._rows, self.rows
        above: list[View | None] = []
        for gradient in (dy, cells):
            if gradient is None:
                above.append(None)
                continue
            size = gradient.shape[-1] // self._directions
            pool = move.array("gradient of outputs", (self._outputs, size))
            move.add(pool, pool.shape, "outputs", contiguous(gradient))
            above.append(move.part(pool, 0, (self.steps, rows, gradient.shape[-1])))
        ends: list[View | None] = []
        for part in final:
            if part is None:
                ends.append(None)
                continue
            end = move.array(f"gradient of {part.name}", (self._lanes, rows, part.shape[-1]))
            ends.append(move.add(end, (self._lanes * rows, part.shape[-1]), "ends", contiguous(part)))
        x = move.array("gradient of x", (self.steps, rows, self._packed.sizes.input)) if with_x else None
        begins = [move.array(f"gradient of {n}", (self._lanes, rows, size)) for n, size in self._packed.states]
        return Arrays(x, begins, above[0], ends, above[1])

    def put_back_gradients(
        self, segments: Arrays, x: View | None, initial: Sequence[View], reset: Sequence[View]
    ) -> None:
        """The gradients of what the segments were given, to the caller's arrays."""
        move = self._rows
        if x is not None and segments.x is not None:
            move.add(x, (self._times * self._batch, x.shape[-1]), "x", segments.x)
        for number, begin in enumerate(segments.initial or ()):
            size = begin.shape[-1]
            of_outputs = (segments.y, segments.cells)[number] if number < 2 else None
            sources = [begin]
            if of_outputs is not None:  # those that the state they begin with has been
                sources.append(move.part(of_outputs, self._lead * size, begin.shape))
            move.add(initial[number], (self._initial_rows, size), "starts", *sources)
            if reset:
                move.add(reset[number], (self._reset_rows, size), "reset", *sources)


def moves_of(
    packed: CudaPacked, marks: Marks, x: View, batch: tuple[int, ...], lengths: Array | View | None, batch_first: bool
) -> Moves:
    """The marks of a call, checked. It waits for flags and lengths that are on the GPU."""
    steps = x.shape[1 if batch and batch_first else 0]
    resets = host_flags("resets", marks.resets, steps, batch, batch_first, packed.gpu)
    mask = host_flags("mask", marks.mask, steps, batch, batch_first, packed.gpu)
    given = marks.reset_state
    learned = packed.learned.views(()) if given is None and resets is not None else None
    reset = learned or []
    if given is not None:
        reset = packed.check_state(given, batch, "reset_state", shared=True)
    if isinstance(lengths, View):
        lengths = downloaded(lengths).clip(0, steps)
    rows = batch[0] if batch else 1
    repeat = repeats(marks.masked_output)
    segments = segments_of(steps, rows, lengths, resets, mask, repeat, packed.sizes.backwards)
    return Moves(packed, segments, (steps, rows), bool(batch) and batch_first, reset, learned is not None, x.library)


def host_flags(
    name: str, value: Any, steps: int, batch: tuple[int, ...], batch_first: bool, gpu: int | None
) -> Array | None:
    """As `checked_flags`, of booleans that may be on the GPU: then it waits."""
    if value is not None and gpu is not None and on_gpu(value):
        shape = (*batch, steps) if batch_first else (steps, *batch)
        value = downloaded(view(name, value, "bool", shape, device=gpu))
    return checked_flags(name, value, steps, batch, batch_first)
