"""Streams on a GPU: a network that is fed as the data arrive; as `recurra.Stream`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from .._arrays import bounded, memory_for, require_rows, unwrapped, vector
from .._options import flag, integer
from .array_libraries import Library, current_stream, library_of
from .arrays import View, sequence, single_step, view
from .launch import empty, ordered, output, scratch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..packed import State
    from .packed import CudaPacked

_MOST = 65535 * 4  # rows of a launch


class Stream:
    """A network on a GPU and its running state; made by `layer.stream(batch)`. See `recurra.Stream`.

        stream = recurra.LSTM(12, 64).to("cuda").stream()
        for frame in frames:  # CuPy arrays or torch tensors
            stream.step(frame, out=y)

    A step is one launch, and nothing but its output is allocated. Its bits are those of engine="exact" whatever the
    layer's; `run` is a call's. Nobody waits for the GPU: work of one stream is in order, on whatever CUDA streams its
    steps are. A step may be captured in a CUDA graph, and always an even number of them, for a graph that is launched
    again then finds the state where it left it.
    """

    __slots__ = ("_batch", "_batch_first", "_last", "_library", "_lock", "_packed", "_stream")
    _library: Library | None  # of the last array
    _last: int | None  # the CUDA stream that has changed the state last

    def __init__(self, packed: CudaPacked, batch: int | None, batch_first: bool, threads: int, head: Any) -> None:
        if packed.sizes.directions != 1:
            raise ValueError(
                "packed: a bidirectional network cannot stream: its reverse direction starts at the last step, so it"
                " needs the whole sequence before its first output; call the layer instead"
            )
        if head is not None:
            raise ValueError(f"head: expected None on {packed.placement.device}, call it with the stream's output")
        self._batch = () if batch is None else (integer("batch", batch),)
        self._batch_first = flag("batch_first", batch_first)
        integer("threads", threads)
        rows = self._batch[0] if self._batch else 1
        require_rows("batch", rows)
        if rows > _MOST:
            raise ValueError(f"batch: expected at most {_MOST} sequences on a GPU, got {rows}")
        with memory_for(f"batch={batch}"):
            self._stream = packed.network.stream(rows)
        self._packed, self._library, self._last, self._lock = packed, None, None, threading.Lock()

    def step(self, x: Any, out: Any = None) -> Any:
        """Advance all layers by one step.

        Args:
            x: [I], or [batch, I].
            out: [O], or [batch, O]: where to write the output, so that nothing is allocated; must not overlap x.

        Returns:
            The output of the last layer: `out`, or a new array of the library of x.

        Raises:
            TypeError, ValueError: as a layer call; the state is unchanged then.
        """
        packed = self._packed
        number, sizes = packed.placement.number, packed.sizes
        array = view("x", x, number, (*self._batch, sizes.input), device=packed.gpu)
        y = output(out, (*self._batch, sizes.output), number, array)
        with _InOrder(self, array.library, (array, y)) as stream:
            self._stream.step(single_step(array).array, single_step(y).array, stream)
        return y.owner

    def run(self, chunk: Any, out: Any = None) -> Any:
        """Advance by a chunk of any number of steps, zero included: see `recurra.Stream.run`."""
        packed, batch_first = self._packed, self._batch_first
        number, sizes = packed.placement.number, packed.sizes
        axes = (*self._batch, "T") if batch_first else ("T", *self._batch)
        array = view("chunk", chunk, number, (*axes, sizes.input), device=packed.gpu)
        x, library = sequence(array, batch_first), array.library
        y = output(out, (*array.shape[:-1], sizes.output), number, array)
        plan = packed.plan(x.steps, x.rows)
        workspace = scratch("workspace", library, plan.workspace_bytes, packed.gpu)
        with _InOrder(self, library, (array, y)) as stream:
            self._stream.run(plan, x.array, sequence(y, batch_first).array, workspace.pointer, stream)
        return y.owner

    @property
    def state(self) -> State:
        """A copy of the state, of the library of the last x: see `recurra.Stream.state`."""
        packed, library = self._packed, self._known_library()
        states = [
            empty(f"state {name}", library, shape, packed.placement.number, packed.gpu)
            for name, shape in packed.state_shapes(self._batch).items()
        ]
        with _InOrder(self, library, states) as stream:
            self._stream.get_state([sequence(array).array for array in states], stream)
        return unwrapped([array.owner for array in states])

    @state.setter
    def state(self, state: State) -> None:
        states = self._packed.check_state("state", state, self._batch)
        with _InOrder(self, states[0].library, states) as stream:
            self._stream.set_state([sequence(array).array for array in states], stream)

    def reset(self, rows: Sequence[int] | Any | None = None) -> None:
        """Set the state to zero, of all sequences or of some.

        Args:
            rows: which sequences of the batch to reset: their indices, or a mask of `batch` booleans, on the CPU.
                Default all.
        """
        which = None
        if rows is not None:
            if not self._batch:
                raise ValueError("rows: expected None, for this stream has no batch axis")
            array = vector("rows", rows, None, "iub")
            if array.dtype.kind == "b":
                array = np.flatnonzero(vector("rows", array, *self._batch, "b"))
            which = bounded("rows", array, self._batch[0] - 1)
        with _InOrder(self, self._library, ()) as stream:
            self._stream.reset(which, stream)

    def _known_library(self) -> Library:
        return library_of("state", None) if self._library is None else self._library

    def __reduce__(self) -> Any:
        raise TypeError("a Stream cannot be copied or pickled: make another from its layer and set its state")

    def __repr__(self) -> str:
        batch = self._batch[0] if self._batch else None
        return f"Stream({self._packed.cell!r}, batch={batch}, device={self._packed.placement.device!r})"


class _InOrder:
    """Around work on a stream's state: the CUDA stream to put it on, after all that came before. One thread at a
    time."""

    __slots__ = ("_cuda", "_library", "_ordered", "_stream")

    def __init__(self, stream: Stream, library: Library | None, views: Iterable[View]) -> None:
        gpu = stream._packed.gpu
        # A stream that no array has met yet has no library to ask.
        self._cuda = (stream._last or 0) if library is None else current_stream(library, gpu)
        self._stream, self._library, self._ordered = stream, library, ordered(views, self._cuda)

    def __enter__(self) -> int:
        stream = self._stream
        if not stream._lock.acquire(blocking=False):
            raise RuntimeError("stream: expected one thread at a time, another is using it")
        try:
            if stream._last not in (None, self._cuda):
                _core.cuda.wait(self._cuda, stream._last, stream._packed.gpu)
            self._ordered.__enter__()
        except BaseException:
            stream._lock.release()
            raise
        stream._last, stream._library = stream._packed.used_on(self._cuda), self._library
        return self._cuda

    def __exit__(self, *error: object) -> None:
        try:
            self._ordered.__exit__(*error)
        finally:
            self._stream._lock.release()
