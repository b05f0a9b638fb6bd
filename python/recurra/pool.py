"""Pools: many streams of one network that come and go, each at its own pace, stepped together."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from ._arrays import bounded, check, empty, memory_for, vector
from ._options import flag, integer, real, shown
from ._pool_states import about_of, states_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._arrays import Array, Input
    from .model import Model
    from .recurrent import Recurrent

__all__ = ["StreamPool"]

_LAST_ID = np.iinfo(np.int64).max


class StreamPool:
    """Many streams of one layer or model. They join and leave at any time, and a step advances in one call of the core
    those that have a frame: outputs have the bits of a stream alone, whoever shares the step.

        >>> pool = recurra.StreamPool(recurra.GRU(12, 64, seed=0), capacity=100)
        >>> first, second = pool.add(), pool.add()
        >>> pool.push(first, np.zeros((3, 12), "float32"))  # three frames
        >>> pool.push(second, np.zeros(12, "float32"))  # and one
        >>> pool.step()  # the next frame of both: ids of what advanced
        array([0, 1])
        >>> pool.step(), pool.step()
        (array([0]), array([0]))
        >>> pool.pull(first).shape, pool.pull(second).shape
        ((3, 64), (1, 64))
        >>> state = pool.remove(first)  # h [1, 64], for `add(state)` of another pool, or the state of a `Stream`

    Any number of threads may push, pull, add and remove; usually one or more others do nothing but step. Frames wait
    in a queue of each stream, and outputs in its place until they are pulled, so a client that stops reading is told
    so by its own next push and holds up nobody. (A callback would run clients' code in the thread that steps for
    all.) Streams take turns: none has a second step before all others that wait have had one. Frames, outputs and
    states have their memory from the beginning; a step makes nothing but small arrays of indices.

    Args:
        model: a `recurra.Model` with one input, a sequence, and one output; or a recurrent layer. The pool keeps the
            parameters that it has now. That of a layer on a GPU has the states of its streams there, and takes and
            returns NumPy arrays all the same: frames, outputs, and states, which a pool on the CPU goes on from.
        capacity: how many streams there may be at once.
        queue: how many frames of a stream may be under way: pushed, and their outputs not yet pulled.
        max_wait: how many seconds a frame may wait for company. `step` waits until every stream has a frame, or 256
            have (what one call of the core takes; on a GPU 4096), or the oldest frame is as old as this. Default 0:
            it takes what is there.
        threads: how many threads may be in `step` at once, at most `recurra.get_num_threads()`; each has arrays of its
            own. Others wait for their turn.

    Raises:
        TypeError: `model` is something else, or a number is none.
        ValueError: a number is too small; the model cannot stream (see `recurra.Stream` and `recurra.ModelStream`), has
            several inputs or outputs or a stride over time, or is a layer of 16-bit numbers on a GPU.
        MemoryError: this machine or its GPU has less memory than capacity and queue ask for.
    """

    def __init__(
        self, model: Model | Recurrent, capacity: int, *, queue: int = 8, max_wait: float = 0.0, threads: int = 1
    ) -> None:
        import queue as errors  # here, so that `import recurra` does not wait for them
        import threading

        about = about_of(model)
        self._frame, self._dtype, self._symbols = about.frame, about.dtype, about.symbols
        self._capacity, self._queue = integer("capacity", capacity), integer("queue", queue)
        self._max_wait = _seconds("max_wait", max_wait)
        workers = min(integer("threads", threads), _core.get_num_threads())
        title = f"capacity={self._capacity}, queue={self._queue}"
        with memory_for(title):
            slots = self._capacity * self._queue
            self._x = empty(title, (slots, *about.frame), about.dtype)  # slot row * queue + number of the frame % queue
            self._y = empty(title, (slots, *about.output), about.output_dtype)
            self._arrived = empty(title, (slots,), np.dtype(np.float64))
            self._states = states_of(model, self._capacity, about)
            self._idle: list[list[Any]] = [self._states.batches() for _ in range(workers)]
            # By row; the three counts are of frames since the stream has joined.
            self._ids = np.full(self._capacity, -1, np.int64)
            self._pushed, self._stepped, self._pulled = np.zeros((3, self._capacity), np.int64)
            self._stepping = np.zeros(self._capacity, bool)
            # A ring of rows with a frame that no step has taken, each once, in the order in which they came to have it.
            self._line = np.empty(self._capacity, np.int64)
            self._seen = np.empty(self._capacity, np.int64)
        self._first = self._waiting = self._taken = 0  # where the line begins, its length, how many rows are stepping
        self._free = [(row, row) for row in reversed(range(self._capacity))]  # rows, and the ids they will have
        self._changed, self._longest = threading.Condition(threading.Lock()), threading.TIMEOUT_MAX
        self._full, self._empty = errors.Full, errors.Empty

    def __len__(self) -> int:
        """How many streams there are."""
        return self._capacity - len(self._free)

    def __repr__(self) -> str:
        return f"StreamPool(capacity={self._capacity}, queue={self._queue}, max_wait={self._max_wait})"

    def __reduce__(self) -> Any:
        raise TypeError("a StreamPool cannot be copied or pickled: remove its streams and add their states to another")

    def add(self, state: Any = None) -> int:
        """A new stream.

        Args:
            state: where it begins, as the state of a `Stream` or `ModelStream` without a batch axis, on the CPU; what
                `remove` has returned. Default where sequences begin.

        Returns:
            Its id, which no other stream of this pool ever has.

        Raises:
            queue.Full: there are as many streams as the pool has room for.
            TypeError, ValueError: the state is not one of this network.
        """
        with self._changed:
            if not self._free:
                raise self._full(f"add: expected at most {self._capacity} streams, remove one first")
            row, number = self._free[-1]
            self._states.begin(row, state)
            self._free.pop()
            for counts in (self._pushed, self._stepped, self._pulled):
                counts[row] = 0
            self._ids[row] = number
            return number

    def remove(self, id: int, *, drop: bool = False) -> Any:
        """Let a stream go.

        Args:
            id: what `add` has returned.
            drop: whether to throw away frames that have not been stepped and outputs that have not been pulled.

        Returns:
            Its state after its last step, as that of a `Stream` or `ModelStream` without a batch axis. It pickles, and
            `add` of a pool in another process goes on from it, to the bit.

        Raises:
            TypeError, ValueError: there is no such stream; without `drop`, frames or outputs of it are under way.
        """
        drop = flag("drop", drop)
        with self._changed:
            row = self._row(id)
            while self._stepping[row]:
                self._changed.wait()
                row = self._row(id)
            if not drop and (under_way := self._pushed[row] - self._pulled[row]):
                raise ValueError(
                    f"id: expected a stream with nothing under way, got {id} with {under_way} frames or outputs: step"
                    " and pull them first, or say drop=True"
                )
            state = self._states.end(row)  # first, for it may fail
            if self._pushed[row] > self._stepped[row]:
                line = self._in_line(self._waiting)
                kept = line[line != row]
                self._line[: len(kept)] = kept
                self._first, self._waiting = 0, len(kept)
            self._ids[row] = -1
            self._free.append((row, int(id) + self._capacity))
            self._changed.notify_all()  # perhaps everybody else has a frame
            return state

    def push(self, id: int | Sequence[int] | Input, frames: Any) -> None:
        """Hand in frames of one stream, or one frame of each of several.

            >>> pool = recurra.StreamPool(recurra.GRU(12, 64, seed=0), capacity=100)
            >>> ids = [pool.add() for _ in range(100)]
            >>> pool.push(ids, np.zeros((100, 12), "float32"))  # far cheaper than a hundred calls

        Args:
            id: of a stream; or different ones, [k].
            frames: [*features] or [n, *features] of the one; or [k, *features].

        Raises:
            queue.Full: a queue has no room for them. Nothing was pushed: pull outputs, and push again.
            TypeError, ValueError: there is no such stream; wrong shape or dtype; more frames than fit an empty queue.
        """
        if _several(id):
            ids = _checked_ids(id)
            return self._push_each(ids, self._checked(frames, (len(ids), *self._frame)))
        array = self._checked(frames, self._frame, ("n", *self._frame))
        array = array[None] if array.ndim == len(self._frame) else array
        count = len(array)
        if count > self._queue:
            raise ValueError(f"frames: expected at most queue={self._queue} at once, got {count}")
        with self._changed:
            row = self._row(id)
            pushed = int(self._pushed[row])
            if pushed + count - int(self._pulled[row]) > self._queue:
                raise self._full(
                    f"frames: the queue of stream {id} has no room for {count} of them: pull its outputs first"
                )
            now, base = time.monotonic(), row * self._queue
            for number, frame in enumerate(array, pushed):
                slot = base + number % self._queue
                self._x[slot], self._arrived[slot] = frame, now
            self._pushed[row] += count
            if count and pushed == self._stepped[row] and not self._stepping[row]:
                self._line[(self._first + self._waiting) % self._capacity] = row
                self._lengthened(1)

    def step(self, timeout: float = 0.0) -> Array:
        """Advance all streams that have a frame, or the 256 (on a GPU 4096) of them that have waited for the longest
        time, by one.

        Args:
            timeout: how many seconds to wait for a first frame, if there is none. From then on `max_wait` says when the
                step begins.

        Returns:
            The ids of the streams, [k] int64. Each has one more output to pull, unless another thread has pulled it.

        Raises:
            TypeError, ValueError: wrong timeout.
        """
        seconds = _seconds("timeout", timeout)
        with self._changed:
            if not self._gather(seconds):
                return np.empty(0, np.int64)
            rows = self._in_line(min(self._waiting, self._states.most))
            self._first = (self._first + len(rows)) % self._capacity
            self._waiting -= len(rows)
            self._taken += len(rows)
            self._stepping[rows] = True
            slots = rows * self._queue + self._stepped[rows] % self._queue
            worker = self._idle.pop()
        advanced = 0
        try:
            self._states.step(worker[len(rows) - 1], rows, slots, self._x, self._y)
            advanced = 1
        finally:
            with self._changed:
                self._stepped[rows] += advanced
                self._stepping[rows] = False
                self._taken -= len(rows)
                self._idle.append(worker)
                self._line_up(rows[self._pushed[rows] > self._stepped[rows]])
                ids: Array = self._ids[rows]
                self._changed.notify_all()
        return ids

    def pull(self, id: int | Sequence[int] | Input) -> Array:
        """Take outputs of one stream, all there are; or the oldest one of each of several.

        Args:
            id: of a stream; or different ones, [k], as `step` has returned.

        Returns:
            [n, *features] of the one, n may be 0; or [k, *features].

        Raises:
            queue.Empty: one of several streams has none. Nothing was taken.
            TypeError, ValueError: there is no such stream.
        """
        with self._changed:
            if _several(id):
                rows = self._several_rows(_checked_ids(id))
                first = self._pulled[rows]
                if (none := self._stepped[rows] == first).any():
                    raise self._empty(f"pull: stream {self._ids[rows[none.argmax()]]} has no output")
                self._pulled[rows] += 1
                return self._y[rows * self._queue + first % self._queue]
            row = self._row(id)
            numbers = np.arange(self._pulled[row], self._stepped[row])
            self._pulled[row] += len(numbers)
            return self._y[row * self._queue + numbers % self._queue]  # type: ignore[no-any-return]

    def _push_each(self, ids: Array, frames: Array) -> None:
        with self._changed:
            rows = self._several_rows(ids)
            pushed = self._pushed[rows]
            if (full := pushed - self._pulled[rows] == self._queue).any():
                raise self._full(
                    f"frames: the queue of stream {self._ids[rows[full.argmax()]]} is full: pull its outputs first"
                )
            slots = rows * self._queue + pushed % self._queue
            self._x[slots] = frames
            self._arrived[slots] = time.monotonic()
            self._pushed[rows] += 1
            self._line_up(rows[(pushed == self._stepped[rows]) & ~self._stepping[rows]])

    def _checked(self, frames: Any, *patterns: tuple[Any, ...]) -> Array:
        if self._symbols is None:
            return check("frames", frames, self._dtype, *patterns)
        if isinstance(frames, (int, np.integer)):
            frames = np.array(integer("frames", frames, 0))
        array = check("frames", frames, self._dtype, *patterns)
        return bounded("frames", np.atleast_1d(array), self._symbols - 1).reshape(array.shape)

    def _row(self, id: Any) -> int:
        """The row of a stream. (Ids of a row are `capacity` apart.)"""
        row = integer("id", id, 0) % self._capacity
        if self._ids[row] != id:
            raise ValueError(f"id: expected that of a stream of this pool, got {shown(id)}")
        return row

    def _several_rows(self, ids: Array) -> Array:
        rows: Array = ids % self._capacity
        if (unknown := self._ids[rows] != ids).any():
            raise ValueError(f"id: expected those of streams of this pool, got {ids[unknown.argmax()]}")
        order = np.arange(len(rows))
        self._seen[rows] = order
        if (again := self._seen[rows] != order).any():
            raise ValueError(f"id: expected different streams, got {ids[again.argmax()]} twice")
        return rows

    def _in_line(self, count: int) -> Array:
        rows: Array = self._line[(self._first + np.arange(count)) % self._capacity]
        return rows

    def _line_up(self, rows: Array) -> None:
        """At the end of the line."""
        self._line[(self._first + self._waiting + np.arange(len(rows))) % self._capacity] = rows
        self._lengthened(len(rows))

    def _lengthened(self, count: int) -> None:
        """Wakes those that step if they now may, or if these are the first, which set when a step is due."""
        self._waiting += count
        if count and (self._waiting == count or self._enough()):
            self._changed.notify_all()

    def _enough(self) -> bool:
        return self._waiting >= min(self._states.most, len(self) - self._taken)

    def _gather(self, seconds: float) -> bool:
        """Wait for a step's company; whether there is anything to step."""
        end = time.monotonic() + seconds
        while True:
            if not self._waiting:
                if (left := end - time.monotonic()) <= 0:
                    return False
            elif not self._idle:
                left = math.inf
            elif not self._max_wait or self._enough():
                return True
            else:
                rows = self._in_line(self._waiting)
                oldest = self._arrived[rows * self._queue + self._stepped[rows] % self._queue].min()
                if (left := float(oldest) + self._max_wait - time.monotonic()) <= 0:
                    return True
            self._changed.wait(min(left, self._longest))


def _several(id: Any) -> bool:
    return isinstance(id, (list, tuple, range)) or (issubclass(type(id), np.ndarray) and id.ndim > 0)


def _checked_ids(id: Any) -> Array:
    return bounded("id", vector("id", id, None), _LAST_ID)


def _seconds(name: str, value: Any) -> float:
    seconds = real(name, value)
    if seconds < 0:
        raise ValueError(f"{name}: expected at least 0 seconds, got {shown(value)}")
    return seconds
