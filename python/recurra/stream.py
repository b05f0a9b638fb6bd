"""Streams: a network that is fed as the data arrive, one step or one chunk at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from . import _core
from ._arrays import (
    batched,
    bounded,
    check,
    contiguous,
    memory_for,
    output,
    require_rows,
    row_contiguous,
    unwrapped,
    vector,
    wrapped,
)
from ._marks import PREVIOUS, Marks, marks_of, step_flags
from ._options import flag, integer
from .heads import Linear
from .packed import CpuPacked, Packed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._arrays import Array, Input
    from .heads import CpuLinear
    from .packed import State

__all__ = ["Stream"]


class Step(Protocol):
    """The type of `Stream.step`."""

    def __call__(
        self,
        x: Input,
        out: Array | None = None,
        *,
        resets: Any = None,
        reset_state: State | None = None,
        mask: Any = None,
        masked_output: str = PREVIOUS,
    ) -> Array:
        """See `Stream`."""


class Stream:
    """A network and its running state; made by `layer.stream(batch)`, or from a `functional.Packed`.

        >>> stream = recurra.LSTM(12, 64).stream()
        >>> y = np.empty(64, "float32")
        >>> for frame in np.zeros((100, 12), "float32"):
        ...     _ = stream.step(frame, out=y)  # nothing is allocated
        >>> h, c = stream.state
        >>> stream.reset()

        >>> head = recurra.Linear(64, 1)
        >>> recurra.LSTM(12, 64).stream(head=head).step(np.zeros(12, "float32")).shape  # layer and head in one call
        (1,)

    Everything a step needs is allocated here, once. Results are those of one call over the whole sequence, bit for bit.
    A stream keeps the parameters it was made with: a later `load_state_dict` of its layer does not change it. It serves
    one thread at a time (a second one gets a RuntimeError); for more, make more streams, which share the parameters.

    Args:
        packed: the network.
        batch: None for one sequence without a batch axis, or the number of sequences that advance together.
        batch_first: axis order of `run`.
        threads: how many threads a step may use, at most `recurra.get_num_threads()`; steps below some ten microseconds
            use one all the same. Between steps the other threads spin for a moment and then sleep, and waking them is
            a system call; with one thread, the default, a step makes none. No result depends on it.
        head: a `recurra.Linear` that maps the last layer's h in every step: outputs then have its `out_features` in
            place of O, and the bits of `head(layer(x)[0])`. A later `load_state_dict` does not change it either. On a
            GPU it is its own launch, on the same CUDA stream.

    Raises:
        TypeError: `packed` or `head` is something else.
        ValueError: `batch` or `threads` is less than 1; the network runs backwards, or both ways; the head's
            `in_features` or dtype are not those of the network's output.
    """

    __slots__ = {
        "_batch": None,
        "_batch_first": None,
        "_head": None,
        "_outputs": None,
        "_packed": None,
        "_start": None,
        "_stream": None,
        "step": """step(x, out=None, *, resets=None, reset_state=None, mask=None, masked_output="previous"): advance all
        layers by one step.

        Args:
            x: [I], or [batch, I]. Fastest as a C-contiguous NumPy array.
            out: [O], or [batch, O]: where to write the output, so that nothing is allocated; must not overlap x.
            resets, mask: [batch] booleans, or True or False without a batch axis; these and the others as of a layer
                call: which rows are reset before the step, and which take it. With them arrays are allocated.

        Returns:
            The output of the last layer: `out`, or a new array.

        Raises:
            TypeError, ValueError: as a layer call; the state is unchanged then.
        """,
    }
    _start: list[Array] | None  # a learned initial state, one for all rows
    _stream: _core.Stream
    step: Step  # not a method, because it is the hot path: a call goes straight to the core

    def __init__(
        self,
        packed: Packed,
        batch: int | None = None,
        batch_first: bool = False,
        threads: int = 1,
        head: Linear | None = None,
    ) -> None:
        if not isinstance(packed, CpuPacked):
            got = type(packed).__name__ if not isinstance(packed, Packed) else f"one on {packed.placement.device}"
            raise TypeError(f"packed: expected what functional.pack returns, on the CPU, got {got}")
        require_forward(packed)
        self._batch = () if batch is None else (integer("batch", batch),)
        self._batch_first = flag("batch_first", batch_first)
        self._packed = packed
        self._outputs = packed.sizes.output if head is None else checked_head(packed, head).out_features
        self._head = None if head is None else head._packed
        rows = self._batch[0] if self._batch else 1
        require_rows("batch", rows)
        workers = min(integer("threads", threads), _core.get_num_threads())
        with memory_for(f"batch={batch}"):
            self._stream = packed.network.stream(
                rows, batch is None, workers, None if head is None else head._packed.affine
            )
        self._start = packed._begin({}, ())
        self._stream.reset(None, self._start)
        step = _checked_step(packed, self._batch, self._outputs, self._stream, self._head)
        _STEP.__set__(self, self._stream.step(step))

    def run(
        self,
        chunk: Input,
        out: Array | None = None,
        *,
        resets: Input | None = None,
        reset_state: State | None = None,
        mask: Input | None = None,
        masked_output: str = PREVIOUS,
    ) -> Array:
        """Advance by a chunk of any number of steps, zero included.

            >>> stream = recurra.GRU(12, 64).stream()
            >>> stream.run(np.zeros((100, 12), "float32")).shape
            (100, 64)

        Args:
            chunk: [T, I], or [T, batch, I] ([batch, T, I] if the layer is batch_first).
            out: where to write the output, as chunk with O in place of I; must not overlap chunk.
            resets, reset_state, mask, masked_output: as of a layer call. (The last output before the first step is h of
            the state that the stream has.)

        Returns:
            The outputs of the last layer: `out`, or a new array.

        Raises:
            TypeError, ValueError: as a layer call; the state is unchanged then.
        """
        size, dtype = self._packed.sizes, self._packed.dtype
        axes = (*self._batch, "T") if self._batch_first else ("T", *self._batch)
        x = check("chunk", chunk, dtype, (*axes, size.input))
        y, written = output(out, (*x.shape[:-1], self._outputs), dtype, {"chunk": x})
        marks = marks_of(resets, reset_state, mask, masked_output)
        if marks is not None:
            own = (self._packed, self._batch, self._stream, self._head)
            written[...] = _run_marked(*own, x, self._batch_first, marks)
            return y
        self._stream.run(row_contiguous(batched(x, self._batch_first)), batched(written, self._batch_first))
        return y

    @property
    def state(self) -> State:
        """A copy of the state: h [L, batch, O], for LSTMs (h, c) with c [L, batch, H]; unbatched without batch axis.

        May be set to arrays of the same shapes and dtype, for example the state a layer call returned.
        """
        states = self._packed.empty_state(self._batch)
        self._stream.get_state([batched(array) for array in states])
        return unwrapped(states)

    @state.setter
    def state(self, state: State) -> None:
        states = self._packed.check_state(state, self._batch)
        self._stream.set_state([batched(contiguous(array)) for array in states.values()])

    def reset(self, rows: Sequence[int] | Input | None = None, state: State | None = None) -> None:
        """Set the state to where it began, or to a given one, of all sequences or of some.

            >>> stream = recurra.GRU(12, 64).stream(batch=8)
            >>> stream.reset([2, 5])  # two of eight to zero
            >>> stream.reset([2, 5], np.ones((1, 2, 64), "float32"))  # or to states of their own
            >>> stream.reset(state=np.ones((1, 64), "float32"))  # or all to the same

        Args:
            rows: which sequences of the batch to reset: their indices, or a mask of `batch` booleans. Default all.
            state: of these n sequences, in the order of `rows`: h [L, n, O], for LSTMs (h, c) with c [L, n, H]; or one
                for all of them, without the axis of n. Default zero, or what the layer has learned. If a row is
                named twice, its last one counts.

        Raises:
            TypeError, ValueError: wrong rows, shape or dtype; the state is unchanged then.
        """
        which = reset_rows(rows, self._batch)
        if state is None:
            self._stream.reset(which, self._start)
            return
        batch = self._batch if which is None else (len(which),)
        states = self._packed.check_state(state, batch, shared=True)
        self._stream.reset(which, [batched(contiguous(array)) for array in states.values()])

    def __reduce__(self) -> Any:
        raise TypeError("a Stream cannot be copied or pickled: make another from its layer and set its state")

    def __repr__(self) -> str:
        return f"Stream({self._packed.cell!r}, batch={self._batch[0] if self._batch else None})"


_STEP: Any = Stream.__dict__["step"]  # for __init__: what a subclass calls step is not to be overwritten


def reset_rows(rows: Any, batch: tuple[int, ...]) -> Array | None:
    """The caller's choice of sequences of a stream, as their indices; None for all."""
    if rows is None:
        return None
    if not batch:
        raise ValueError("rows: expected None, for this stream has no batch axis")
    array = vector("rows", rows, None, "iub")
    if array.dtype.kind == "b":
        array = np.flatnonzero(vector("rows", array, batch[0], "b"))
    return bounded("rows", array, batch[0] - 1)


def require_forward(packed: Packed) -> None:
    """ValueError unless the network's steps are made as their input arrives."""
    if packed.sizes.direction == "forward":
        return
    if packed.sizes.reverse:
        what = "a network of direction='reverse' cannot stream: it starts"
    else:
        what = "a bidirectional network cannot stream: its reverse direction starts"
    raise ValueError(
        f"packed: {what} at the last step, so it needs the whole sequence before its first output; call the layer"
        " instead"
    )


def checked_head(packed: Packed, head: Linear) -> Linear:
    """A head that goes with this network."""
    if not isinstance(head, Linear):
        raise TypeError(f"head: expected a recurra.Linear, got {type(head).__name__}")
    if head.in_features != packed.sizes.output:
        raise ValueError(f"head: expected in_features={packed.sizes.output}, got {head.in_features}")
    if head.dtype != packed.dtype:
        raise ValueError(f"head: expected {packed.dtype}, got {head.dtype}")
    if head.device != packed.placement.device:
        raise ValueError(f"head: expected one on {packed.placement.device}, got one on {head.device}")
    return head


def _checked_step(
    packed: CpuPacked, batch: tuple[int, ...], outputs: int, stream: _core.Stream, head: CpuLinear | None
) -> Step:
    """A step for arrays that have to be normalised or refused, and with marks; the core takes only plain ones."""

    def step(
        x: Input,
        out: Array | None = None,
        *,
        resets: Any = None,
        reset_state: State | None = None,
        mask: Any = None,
        masked_output: str = PREVIOUS,
    ) -> Array:
        x = check("x", x, packed.dtype, (*batch, packed.sizes.input))
        y, written = output(out, (*batch, outputs), packed.dtype, {"x": x})
        flags = [step_flags(name, value, batch) for name, value in (("resets", resets), ("mask", mask))]
        marks = marks_of(flags[0], reset_state, flags[1], masked_output)
        if marks is not None and _befalls(marks):
            written[...] = _run_marked(packed, batch, stream, head, x[None], False, marks)[0]
            return y
        stream.run(row_contiguous(batched(x[None])), batched(written[None]))
        return y

    step.__qualname__ = "Stream.step"
    return step


def _befalls(marks: Marks) -> bool:
    """Whether these checked flags of one step do anything; with a reset_state, which is to be checked, they may."""
    idle = (marks.resets is None or not marks.resets.any()) and (marks.mask is None or bool(marks.mask.all()))
    return not idle or marks.reset_state is not None


def _run_marked(
    packed: CpuPacked,
    batch: tuple[int, ...],
    stream: _core.Stream,
    head: CpuLinear | None,
    x: Array,
    batch_first: bool,
    marks: Marks,
) -> Array:
    """The outputs of a chunk, as of a call from the stream's state, which is the call's final one then."""
    states = packed.empty_state(batch)
    stream.get_state([batched(array) for array in states])
    h, final = packed.run(x, unwrapped(states), lengths=None, out=None, batch_first=batch_first, marks=marks)
    y = h if head is None else head.run(h)
    stream.set_state([batched(array) for array in wrapped(final)])
    return y
