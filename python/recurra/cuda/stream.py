"""Streams on a GPU: a network that is fed as the data arrive; as `recurra.Stream`."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from .._arrays import memory_for, require_rows, unwrapped
from .._marks import PREVIOUS, Marks, marks_of
from .._options import flag, integer
from ..stream import checked_head, require_forward, reset_rows
from .again import Again
from .array_libraries import Library, current_stream, library_of
from .arrays import View, is_contiguous, sequence, single_step, view
from .launch import ALIGNMENT, empty, item_size, ordered, output, scratch
from .segments import host_flags

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .._arrays import Array
    from ..heads import Linear
    from ..packed import State
    from .again import Core
    from .packed import CudaPacked

_MOST = 65535 * 4  # rows of a launch


class Stream:
    """A network on a GPU and its running state; made by `layer.stream(batch)`. See `recurra.Stream`.

        stream = recurra.LSTM(12, 64).to("cuda").stream()
        for frame in frames:  # CuPy arrays or torch tensors
            stream.step(frame, out=y)

    A step is one launch, and nothing but its output is allocated; a head is one more, or, by cuBLAS, a product and one
    more. Its bits are those of engine="exact" whatever the layer's, before the head; `run` is a call's. Nobody waits
    for the GPU: work of one stream is in order, on whatever CUDA streams its steps are. Steps may be captured in
    a CUDA graph; each launch of it continues from the state that there is. Steps with resets or a mask are calls, with
    a call's bits, and wait.
    """

    __slots__ = (
        "_again",
        "_batch",
        "_batch_first",
        "_head",
        "_last",
        "_library",
        "_lock",
        "_outputs",
        "_packed",
        "_stream",
    )
    _again: Again | None  # of the last step
    _library: Library | None  # of the last array
    _last: int | None  # the CUDA stream that has changed the state last

    def __init__(self, packed: CudaPacked, batch: int | None, batch_first: bool, threads: int, head: Any) -> None:
        require_forward(packed)
        self._outputs = packed.sizes.output if head is None else checked_head(packed, head).out_features
        self._batch = () if batch is None else (integer("batch", batch),)
        self._batch_first = flag("batch_first", batch_first)
        integer("threads", threads)
        rows = self._batch[0] if self._batch else 1
        require_rows("batch", rows)
        if rows > _MOST:
            raise ValueError(f"batch: expected at most {_MOST} sequences on a GPU, got {rows}")
        with memory_for(f"batch={batch}"):
            self._stream = packed.network.stream(rows)
            self._head = None if head is None else _Head(packed, head, rows)
        self._packed, self._library, self._last, self._lock = packed, None, None, threading.Lock()
        self._again = None
        if packed.sizes.initial_state:
            self.reset()

    def step(
        self,
        x: Any,
        out: Any = None,
        *,
        resets: Any = None,
        reset_state: Any = None,
        mask: Any = None,
        masked_output: str = PREVIOUS,
    ) -> Any:
        """Advance all layers by one step.

        Args:
            x: [I], or [batch, I].
            out: [O], or [batch, O]: where to write the output, so that nothing is allocated; must not overlap x. With a
                head it is C-contiguous.
            resets, mask: [batch] booleans, or True or False without a batch axis; these and the others as of a layer
                call: which rows are reset before the step, and which take it.

        Returns:
            The output of the last layer: `out`, or a new array of the library of x.

        Raises:
            TypeError, ValueError: as a layer call; the state is unchanged then.
        """
        plain = resets is None and mask is None and reset_state is None and masked_output is PREVIOUS
        if plain and self._step_again(x, out):
            return out
        packed = self._packed
        number, sizes = packed.placement.number, packed.sizes
        array = view("x", x, number, (*self._batch, sizes.input), device=packed.gpu)
        marks = marks_of(resets, reset_state, mask, masked_output)
        y = self._output(out, self._batch, array, marks is not None)
        if marks is not None:
            flags = {name: self._flags_of_step(name, getattr(marks, name)) for name in ("resets", "mask")}
            self._run_marked(_with_time(array), _with_time(y), False, marks._replace(**flags))
            return y.owner
        library, cores = array.library, (single_step(array).array, single_step(y).array)
        with _InOrder(self, library, (array, y)) as stream:
            self._launch(cores, stream)
        self._again = Again.of(array, y, cores, library, (x, out))
        return y.owner

    def _step_again(self, x: Any, out: Any) -> bool:
        """A step whose arrays and CUDA stream are like those of the last one, for a check takes longer than a step.
        False if they are not, and nothing has been done."""
        again = self._again
        if again is None or (arrays := again.arrays(x, out)) is None:
            return False
        stream = current_stream(again.library, again.device)
        if not self._lock.acquire(False):
            return False
        try:
            if stream != self._last:
                return False
            self._launch(arrays, stream)
        finally:
            self._lock.release()
        return True

    def _launch(self, arrays: tuple[Core, Core], stream: int) -> None:
        x, y = arrays
        if self._head is None:
            self._stream.step(x, y, stream)
        else:
            self._stream.step(x, self._head.hidden, stream)
            self._head.map(y[0], stream)

    def run(
        self,
        chunk: Any,
        out: Any = None,
        *,
        resets: Any = None,
        reset_state: Any = None,
        mask: Any = None,
        masked_output: str = PREVIOUS,
    ) -> Any:
        """Advance by a chunk of any number of steps, zero included: see `recurra.Stream.run`."""
        packed, batch_first = self._packed, self._batch_first
        number, sizes = packed.placement.number, packed.sizes
        axes = (*self._batch, "T") if batch_first else ("T", *self._batch)
        array = view("chunk", chunk, number, (*axes, sizes.input), device=packed.gpu)
        x, library = sequence(array, batch_first), array.library
        marks = marks_of(resets, reset_state, mask, masked_output)
        y = self._output(out, array.shape[:-1], array, marks is not None)
        if marks is not None:
            self._run_marked(array, y, batch_first, marks)
            return y.owner
        h = y if self._head is None else empty("hidden", library, (*array.shape[:-1], sizes.output), number, packed.gpu)
        plan = packed.plan(x.steps, x.rows)
        workspace = scratch("workspace", library, plan.workspace_bytes, packed.gpu)
        with _InOrder(self, library, (array, y)) as stream:
            self._stream.run(plan, x.array, sequence(h, batch_first).array, workspace.pointer, stream)
            if self._head is not None:
                self._head.map_all(h, y, library, stream)
        return y.owner

    def _output(self, out: Any, axes: tuple[int, ...], x: View, marked: bool) -> View:
        y = output(out, (*axes, self._outputs), self._packed.placement.number, x)
        if (marked or self._head is not None) and not is_contiguous(y):
            what = "with resets or a mask" if marked else "with a head"
            raise ValueError(f"out: expected a C-contiguous array {what}, got strides {y.strides}")
        return y

    def _flags_of_step(self, name: str, value: Any) -> Array | None:
        """The caller's booleans of one step as those of a sequence, on the host."""
        if value is None:
            return None
        if not self._batch:
            return np.array([flag(name, value)])
        flags = host_flags(name, value, self._batch[0], (), False, self._packed.gpu)
        return None if flags is None else flags.T

    def _run_marked(self, x: View, y: View, batch_first: bool, marks: Marks) -> None:
        """A chunk's outputs, as of a call from the stream's state, which is the call's final one then."""
        packed, library = self._packed, x.library
        number, gpu = packed.placement.number, packed.gpu
        states = packed.new_states("state", library, self._batch)
        h = y if self._head is None else empty("hidden", library, (*x.shape[:-1], packed.sizes.output), number, gpu)
        call = packed.marked_call(x, self._batch, batch_first, states, None, marks)
        with _InOrder(self, library, (x, y)) as stream:
            self._stream.get_state([sequence(array).array for array in states], stream)
            final = packed.run_views(call, h)
            self._stream.set_state([sequence(array).array for array in final], stream)
            if self._head is not None:
                self._head.map_all(h, y, library, stream)

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
        states = self._packed.check_state(state, self._batch)
        with _InOrder(self, states[0].library, states) as stream:
            self._stream.set_state([sequence(array).array for array in states], stream)

    def reset(self, rows: Sequence[int] | Any | None = None, state: State | None = None) -> None:
        """Set the state to where it began, or to a given one, of all sequences or of some: see `recurra.Stream.reset`.

        Args:
            rows: which sequences of the batch to reset: their indices, or a mask of `batch` booleans, on the CPU.
                Default all.
            state: on the GPU.
        """
        which = reset_rows(rows, self._batch)
        if state is None:
            learned = self._packed.learned.views(())
            begin = None if learned is None else [sequence(array).array for array in learned]
            with _InOrder(self, self._library, ()) as stream:
                self._stream.reset(which, stream, begin)
            return
        batch = self._batch if which is None else (len(which),)
        states = self._packed.check_state(state, batch, shared=True)
        with _InOrder(self, states[0].library, states) as stream:
            self._stream.reset(which, stream, [sequence(array).array for array in states])

    def _known_library(self) -> Library:
        return library_of("state", None) if self._library is None else self._library

    def __reduce__(self) -> Any:
        raise TypeError("a Stream cannot be copied or pickled: make another from its layer and set its state")

    def __repr__(self) -> str:
        batch = self._batch[0] if self._batch else None
        return f"Stream({self._packed.cell!r}, batch={batch}, device={self._packed.placement.device!r})"


class _Head:
    """A map after the last layer, and memory for a step's h and the map's workspace.

    Attributes:
        hidden: h, an array as the core's calls take it.
    """

    __slots__ = ("_affine", "_gpu", "_memory", "_rows", "_workspace", "hidden")

    def __init__(self, packed: CudaPacked, head: Linear, rows: int) -> None:
        self._affine, self._rows, self._gpu = head._packed.affine, rows, packed.gpu
        width = packed.sizes.output
        size = -(-rows * width * item_size(packed.placement.number) // ALIGNMENT) * ALIGNMENT
        self._memory = _core.cuda.Memory(packed.gpu, size + self._affine.workspace_bytes(rows))
        self.hidden = (self._memory.pointer, 0, width, 1)
        self._workspace = self._memory.pointer + size

    def map(self, y: int, stream: int) -> None:
        """The step's h, to an address."""
        self._affine.forward(self.hidden[0], self._rows, y, self._workspace, stream)

    def map_all(self, h: View, y: View, library: Library, stream: int) -> None:
        """Those of a chunk."""
        rows = math.prod(h.shape[:-1])
        workspace = scratch("workspace", library, self._affine.workspace_bytes(rows), self._gpu)
        self._affine.forward(h.pointer, rows, y.pointer, workspace.pointer, stream)


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


def _with_time(array: View) -> View:
    """One step as a sequence."""
    return array._replace(shape=(1, *array.shape), strides=(0, *array.strides))
