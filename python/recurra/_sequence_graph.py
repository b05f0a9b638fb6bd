"""What does for cells of sequences that only the engine of graphs can step what `_core.Network` does for others."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .graph import Graph, GraphNetwork

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._arrays import Array
    from ._cells import Cell, Regularization, Sizes
    from .graph import GraphTape

__all__ = ["SequenceNetwork"]


class SequenceNetwork:
    """A stack of layers, in one or both directions, each a `GraphNetwork` over the steps of all rows.

    It has the methods of `_core.Network`, with the same arguments; streams, dropout and zoneout it refuses.
    """

    def __init__(
        self, cell: Cell, sizes: Sizes, params: list[list[Array | None]], precision: str | None, rates: Regularization
    ) -> None:
        """params[layer * directions + direction] in the order of the cell's table, None for an absent bias; copied."""
        if precision:
            raise ValueError(f"precision: expected None for cell {cell.name!r}, got {precision!r}")
        for name, rate in rates._asdict().items():
            if rate:
                option = "zoneout" if name.startswith("zoneout") else name
                raise ValueError(f"{option}: expected 0 for cell {cell.name!r}, got {rate}")
        self._cell, self._sizes = cell, sizes
        self._params = [[None if array is None else array.copy() for array in lane] for lane in params]
        self._networks = [self._network(lane) for lane in range(len(params))]

    def _network(self, lane: int) -> GraphNetwork:
        named = {name: array for name, array in zip(self._names, self._params[lane], strict=True) if array is not None}
        biases = [array for name, array in named.items() if name.startswith("bias")]
        given = {name: array for name, array in named.items() if name.startswith("weight")}
        if biases:
            given["bias"] = biases[0] + biases[1]
        return GraphNetwork(self._cell.name, named["weight_ih"].shape[1], self._sizes.hidden, given, slots=1)

    @property
    def _names(self) -> list[str]:
        return [name for name, *_ in self._cell.params]

    def get_parameter(self, lane: int, number: int, out: Array) -> None:
        """Writes params[lane][number]."""
        out[...] = self._params[lane][number]

    def call(self, *arrays: Any) -> None:
        """None: there is no shorter way for plain arrays."""

    def stream(self, *options: Any) -> Any:
        """ValueError."""
        raise ValueError(f"stream: expected another cell, {self._cell.name!r} has no streams")

    def forward(
        self,
        x: Array,
        h0: list[Array] | None,
        lengths: Array | None,
        out: Array,
        hn: list[Array],
        marks: Any = None,
        cells: Array | None = None,
    ) -> None:
        """Writes out, the final states hn and cells."""
        self._run(x, h0, lengths, out, hn, marks, cells, None)

    def record(
        self,
        x: Array,
        h0: list[Array] | None,
        lengths: Array | None,
        out: Array,
        hn: list[Array],
        recompute: bool,
        seed: int | None,
        marks: Any = None,
        cells: Array | None = None,
    ) -> SequenceTape:
        """As forward, and returns a tape."""
        tapes = self._run(x, h0, lengths, out, hn, marks, cells, recompute)
        return SequenceTape(self, tapes, x.shape, None if lengths is None else lengths.copy(), marks)

    def _run(
        self,
        x: Array,
        h0: list[Array] | None,
        lengths: Array | None,
        out: Array,
        hn: list[Array],
        marks: Any,
        cells: Array | None,
        recompute: bool | None,
    ) -> list[GraphTape]:
        hidden, tapes = self._sizes.hidden, []
        fresh = None if marks is None else marks.reset_state
        outputs = x  # of the layer below
        for lane, network in enumerate(self._networks):
            layer, direction = divmod(lane, self._sizes.directions)
            above = layer == self._sizes.layers - 1
            if direction == 0:
                flat = outputs.reshape(math.prod(x.shape[:2]), network.input_size)
                outputs = np.zeros((*x.shape[:2], self._sizes.directions * hidden), x.dtype)
            way = self.way(lane, x.shape, lengths, marks)
            given = None
            if some := h0 or fresh:
                zeros = [np.zeros_like(states) for states in some]
                given = [way.given(*both, lane) for both in zip(h0 or zeros, fresh or zeros, strict=True)]
            if recompute is None:
                states = network(flat, way.graph, given)
            else:
                states, tape = network.forward(flat, way.graph, given, recompute=recompute)
                tapes.append(tape)
            own = slice(direction * hidden, (direction + 1) * hidden)
            outputs[way.times, way.rows, own] = states[0][way.shown]
            for final, state in zip(hn, states, strict=True):
                final[lane] = state[way.last]
            if above and cells is not None:
                cells[..., own] = 0
                cells[way.times, way.rows, own] = states[1][way.shown]
        out[...] = outputs
        return tapes

    def way(self, lane: int, x_shape: tuple[int, ...], lengths: Array | None, marks: Any) -> _Way:
        """How this direction of a layer goes through sequences [T, B, ..]."""
        backwards = self._sizes.reverse or lane % self._sizes.directions == 1
        steps, rows = x_shape[:2]
        make = _made_way if steps * rows > _LARGE else _kept_way
        resets, mask, repeat = (None, None, False) if marks is None else (marks.resets, marks.mask, marks.repeat)
        own, reset, valid = (None if table is None else table.tobytes() for table in (lengths, resets, mask))
        return make(steps, rows, own, reset, valid, repeat and valid is not None, backwards)


class SequenceTape:
    """What `SequenceNetwork.record` returns: it has the methods of `_core.Tape`."""

    __slots__ = ("_lengths", "_marks", "_network", "_shape", "_tapes")

    def __init__(
        self,
        network: SequenceNetwork,
        tapes: list[GraphTape],
        x_shape: tuple[int, ...],
        lengths: Array | None,
        marks: Any,
    ) -> None:
        self._network, self._tapes, self._shape = network, tapes, x_shape
        self._lengths, self._marks = lengths, marks

    @property
    def nbytes(self) -> int:
        """Memory it holds."""
        return sum(tape.nbytes for tape in self._tapes)

    def backward(
        self,
        dy: Array | None,
        d_final: Sequence[Array | None],
        dx: Array | None,
        d_initial: list[Array],
        params: list[list[Array | None]],
        add: bool,
        d_reset: list[Array] | None,
        d_cells: Array | None,
        clip: float,
    ) -> None:
        """Writes dx, d_initial and d_reset; writes params, or adds to them."""
        cell, sizes = self._network._cell, self._network._sizes
        if clip != np.inf:
            raise ValueError(f"grad_clip: expected None for cell {cell.name!r}, got {clip}")
        above, below = dy, None
        for lane in reversed(range(len(self._tapes))):
            layer, direction = divmod(lane, sizes.directions)
            tape, way = self._tapes[lane], self._network.way(lane, self._shape, self._lengths, self._marks)
            own = slice(direction * sizes.hidden, (direction + 1) * sizes.hidden)
            from_steps = [above, d_cells if layer == sizes.layers - 1 else None] + [None] * (len(d_final) - 2)
            d_states = [
                self._d_state(way, None if steps is None else steps[..., own], None if final is None else final[lane])
                for steps, final in zip(from_steps, d_final, strict=True)
            ]
            gradients = tape.backward(d_states, input_grad=layer > 0 or dx is not None)
            for initial, given in zip(d_initial, gradients.given, strict=True):
                initial[lane] = given[: len(way.last)]
            for reset, given in zip(d_reset or (), gradients.given, strict=False):
                reset[lane] = 0
                np.add.at(reset[lane], way.reset_rows, given[len(way.last) :])
            for name, to in zip(self._network._names, params[lane], strict=True):
                if to is not None:
                    gradient = gradients.params["bias" if name.startswith("bias") else name]
                    to[...] = to + gradient if add else gradient
            if gradients.x is not None:
                below = gradients.x if below is None else below + gradients.x
            if direction == 0 and below is not None:
                above, below = below.reshape(*self._shape[:2], below.shape[1]), None
        if dx is not None:
            dx[...] = above

    def _d_state(self, way: _Way, steps: Array | None, final: Array | None) -> Array | None:
        """Of all rows of the graph, from the gradients of every step and of the final state."""
        if steps is None and final is None:
            return None
        like = steps if steps is not None else final
        d_state = np.zeros_like(like, shape=(way.graph.rows, self._network._sizes.hidden))
        if steps is not None and way.repeats:
            np.add.at(d_state, way.shown, steps[way.times, way.rows])
        elif steps is not None:
            d_state[way.shown] = steps[way.times, way.rows]
        if final is not None:
            d_state[way.last] += final
        return d_state


class _Way(NamedTuple):
    """Sequences as a graph: given rows, the initial states and those that resets lead to; then step after step all rows
    that have it.

    Attributes:
        graph: it reads x [T * B, I].
        times, rows: of each output that is not zero, its place in [T, B].
        shown: of each of these, the row of the graph that is the output.
        repeats: whether a row may be several outputs.
        reset_rows: of each reset, its row in [B].
        last: [B] the row of the graph with each sequence's final state.
    """

    graph: Graph
    times: Array
    rows: Array
    shown: Array
    repeats: bool
    reset_rows: Array
    last: Array

    def given(self, initial: Array, reset: Array, lane: int) -> Array:
        """States of the given rows, from those of all lanes [L*D, B, H]."""
        return np.concatenate([initial[lane], reset[lane, self.reset_rows]])


# How many are kept for later calls, and above how many steps of all rows none is: 1 << 16 are 5 MB.
_KEPT, _LARGE = 8, 1 << 16


def _made_way(
    steps: int,
    rows: int,
    lengths: bytes | None,
    resets: bytes | None,
    mask: bytes | None,
    repeat: bool,
    backwards: bool,
) -> _Way:
    own = np.full(rows, steps) if lengths is None else np.frombuffer(lengths, np.int64)
    step, every = np.arange(steps)[:, None], np.arange(rows)
    inside = step < own
    time = np.where(inside, own - 1 - step, step) if backwards else np.broadcast_to(step, inside.shape)

    def by_step(flags: bytes | None, default: bool) -> Array:
        table = np.full(inside.shape, default)
        if flags is not None:
            table = np.frombuffer(flags, bool).reshape(inside.shape)[time, every]
        return table & inside

    reset, valid = by_step(resets, False), by_step(mask, True)
    if backwards:  # a reset is between a time and the one before, which comes next
        reset[1:], reset[:1] = reset[:-1] & inside[1:], False
    given = rows + np.cumsum(reset).reshape(reset.shape) - 1  # rows of the graph: of resets, then of steps
    taken = rows + reset.sum() + np.cumsum(valid).reshape(valid.shape) - 1
    before, now = np.empty((steps, rows), np.int64), np.empty((steps, rows), np.int64)
    state = every
    for t in range(steps):
        before[t] = state = np.where(reset[t], given[t], state)
        now[t] = state = np.where(valid[t], taken[t], state)
    none = np.full(rows + int(reset.sum()), -1)
    graph = Graph(
        len(none) + np.concatenate([[0], valid.sum(1).cumsum()]).astype(np.int64),
        before=np.concatenate([none, before[valid]])[None],
        source=np.concatenate([none, (time * rows + every)[valid]]),
    )
    shown = np.nonzero(inside if repeat else valid)
    return _Way(graph, time[shown], shown[1], now[shown], repeat, np.nonzero(reset)[1], state)


_kept_way = lru_cache(_KEPT)(_made_way)
