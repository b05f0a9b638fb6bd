"""Streams of a model: fed as the data arrive, one step or one chunk at a time."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from .._arrays import as_array, batched, check, contiguous, memory_for, output, require_rows, unwrapped
from .._marks import checked_flags, step_flags
from .._options import check_names, integer, mapping
from ..stream import reset_rows
from . import call
from .arguments import by_name, checked_states

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._arrays import Array, Input
    from .model import Model

__all__ = ["ModelStream"]


class ModelStream:
    """A model and its running state; made by `model.stream(batch)`.

        >>> model = recurra.Model([recurra.Conv1d(12, 32, 5, causal=True), "relu", recurra.GRU(32, 64)])
        >>> stream = model.stream()
        >>> stream.step(np.zeros(12, "float32")).shape
        (64,)
        >>> list(stream.state)
        ['recurrent0', 'conv1d0:window']

    Everything a step needs is allocated here, once. Results are those of one call over the whole sequence, bit for bit;
    a pooling gives, after every step, its value of the steps so far. The stream keeps the parameters that the model has
    when it is made. It serves one thread at a time (a second one gets a RuntimeError).

    Args:
        model: the model.
        batch: None for one sequence without a batch axis, or the number of sequences that advance together.
        threads: how many threads a step may use for its recurrent layers; see `recurra.Stream`.

    Raises:
        TypeError: `model` is something else.
        ValueError: `batch` or `threads` is less than 1, or a node needs the whole sequence: a reverse direction,
            `Reverse`, `Repeat`, a window that sees later steps, an initial state that comes from other nodes, or what
            mixes a sequence with a value of all its steps.
    """

    __slots__ = {
        "_batch": None,
        "_compiled": None,
        "_model": None,
        "_others": None,
        "_stream": None,
        "step": """step(x, out=None, *, resets=None, mask=None): advance the model by one step.

        Args:
            x: one frame, [*features], or [batch, *features]; several inputs as a tuple or by name, those without time
                in every step. Fastest as a C-contiguous NumPy array.
            out: where to write the only output, so that nothing is allocated; must not overlap x.
            resets, mask: [batch] booleans, or True or False without a batch axis, as of a call: which rows are reset
                before the step, and which take it. With them arrays are allocated. A step that is left out is refused
                where the stream has states besides those of recurrent layers: of convolutions and pools.

        Returns:
            The frame that comes out: `out`, or a new array; None while a stride waits for more steps. Of several
            outputs a dict.

        Raises:
            TypeError, ValueError: as a call; the state is unchanged then.
        """,
    }
    _compiled: _core.Model  # with the parameters of this stream, which the model's may no longer be
    _stream: _core.ModelStream
    step: Any  # not a method, because it is the hot path: a call goes straight to the core

    def __init__(self, model: Model, batch: int | None = None, threads: int = 1) -> None:
        from .model import Model

        if not isinstance(model, Model):
            raise TypeError(f"model: expected a recurra.Model, got {type(model).__name__}")
        self._batch = () if batch is None else (integer("batch", batch),)
        rows = self._batch[0] if self._batch else 1
        require_rows("batch", rows)
        workers = min(integer("threads", threads), _core.get_num_threads())
        self._model = model
        self._compiled = model._core()
        with memory_for(f"batch={batch}"):
            self._stream = self._compiled.stream(rows, batch is None, workers)
        self._others = self._stream.states()
        _STEP.__set__(self, self._stream.step(_checked_step(self)))

    def run(self, chunk: Any, *, resets: Input | None = None, mask: Input | None = None) -> Any:
        """Advance by a chunk of any number of steps, zero included.

            >>> stream = recurra.Model([recurra.GRU(3, 5), recurra.Linear(5, 2)]).stream()
            >>> stream.run(np.zeros((100, 3), "float32")).shape
            (100, 2)

        Args:
            chunk: as x of a call, [T, *features], or [T, batch, *features] ([batch, T, *features] if the model is
                batch_first); inputs without time once.
            resets, mask: as of a call; steps that are left out as by `step`.

        Returns:
            The frames that come out, which a stride makes fewer; outputs without time have one for each step. Of
            several outputs a dict.

        Raises:
            TypeError, ValueError: as a call; the state is unchanged then.
        """
        return _run(self, chunk, resets, mask, self._model.batch_first)

    @property
    def state(self) -> dict[str, Any]:
        """A copy of the state. May be set to such a dict.

        Recurrent nodes by name, as the layer has it; of a convolution or pooling over time "node:window", the frames it
        reaches back to, [steps, batch, size], and with a stride "node:position"; of a `Pool` "node:pool" [batch, size]
        and "node:position" [batch], how many steps that is of. Without a batch axis they have none.
        """
        state: dict[str, Any] = {}
        for number, (name, layer) in enumerate(self._model._recurrent.items()):
            packed: Any = layer._packed
            own = packed.empty_state(self._batch)
            self._stream.get_recurrent(number, [batched(array) for array in own])
            state[name] = unwrapped(own)
        for number, (name, shape, whole) in enumerate(self._others):
            array = np.empty(shape, np.int64 if whole else self._model.dtype)
            self._stream.get_state(number, array)
            state[name] = array.reshape(self._shape(name, shape))
        return state

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        given, recurrent = mapping("state", state), self._model._recurrent
        check_names("state", given, dict.fromkeys([*recurrent, *(name for name, *_ in self._others)]))
        own = {name: given[name] for name in recurrent}
        checked = call.core_states(recurrent, checked_states(self._model, "state", own, self._batch), self._batch)
        others = []
        for name, shape, whole in self._others:
            dtype: np.dtype[Any] = np.dtype(np.int64) if whole else self._model.dtype
            array = contiguous(check(f"state {name!r}", given[name], dtype, self._shape(name, shape)))
            if whole and (array.min(initial=0) < 0 or array.max(initial=0) > self._most(name)):
                raise ValueError(
                    f"state {name!r}: expected 0 to {self._most(name)}, got {array.min()} to {array.max()}"
                )
            others.append(array.reshape(shape))
        for number, states in enumerate(checked):
            self._stream.set_recurrent(number, states or [])
        for number, array in enumerate(others):
            self._stream.set_state(number, array)

    def _shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """That of the core's, without its batch axis if this stream has none."""
        if self._batch or not shape:
            return shape
        return (shape[0], *shape[2:]) if name.endswith(":window") else shape[1:]

    def _most(self, name: str) -> int:
        """The largest position."""
        layer = self._model.layers[name.rpartition(":")[0]]
        return layer.stride[0] - 1 if hasattr(layer, "stride") else (1 << 62)

    def reset(self, rows: Sequence[int] | Input | None = None, state: Mapping[str, Any] | None = None) -> None:
        """Set the state to where it began, of all sequences or of some.

            >>> stream = recurra.Model([recurra.GRU(3, 5), recurra.Linear(5, 2)]).stream(batch=8)
            >>> stream.reset([2, 5])  # two of eight

        Args:
            rows: which sequences of the batch: their indices, or a mask of `batch` booleans. Default all, as a model
                with a stride over time needs it.
            state: states for recurrent nodes, by name, each as of `Stream.reset`; default zero, or what the layer has
                learned.

        Raises:
            TypeError, ValueError: wrong rows, names, shape or dtype; the state is unchanged then.
        """
        which = reset_rows(rows, self._batch)
        batch = self._batch if which is None else (len(which),)
        given = checked_states(self._model, "reset_state", state, batch)
        checked = call.core_states(self._model._recurrent, given, batch)
        self._stream.reset(which)
        for number, states in enumerate(checked):
            if states is not None:
                self._stream.reset_recurrent(number, which, states)

    def __reduce__(self) -> Any:
        raise TypeError("a ModelStream cannot be copied or pickled: make another from its model and set its state")

    def __repr__(self) -> str:
        return f"ModelStream(batch={self._batch[0] if self._batch else None})"


_STEP: Any = ModelStream.__dict__["step"]  # for __init__: what a subclass calls step is not to be overwritten


def _checked_step(stream: ModelStream) -> Any:
    """A step for arrays that have to be normalised or refused, and with marks; the core takes only plain ones."""
    model, batch = stream._model, stream._batch

    def step(x: Any, out: Array | None = None, *, resets: Any = None, mask: Any = None) -> Any:
        frames = _frames(model, x)
        again, valid = (step_flags(name, value, batch) for name, value in (("resets", resets), ("mask", mask)))
        if out is not None:
            if len(model.outputs) > 1:
                raise ValueError("out: expected None for a model of several outputs")
            (value,) = model._output_values.values()
            given = {n: a for n, a in frames.items() if isinstance(a, np.ndarray)}
            _, written = output(out, (*batch, *value.features), model.dtype, given)
        made = _run(stream, frames, again, valid, False)
        all_made = made if isinstance(made, dict) else {model.outputs[0]: made}
        values = {name: array[0] if len(array) else None for name, array in all_made.items()}
        if len(values) > 1:
            return values
        (result,) = values.values()
        if out is None or result is None:
            return result
        written[...] = result
        return out

    step.__qualname__ = "ModelStream.step"
    return step


def _frames(model: Model, x: Any) -> dict[str, Any]:
    """One frame of each input as a sequence of one step."""
    frames = {}
    for name, given in by_name(model, x).items():
        value, title = model.inputs[name], "x" if len(model.inputs) == 1 else f"x {name}"
        if value.integer and isinstance(given, (int, np.integer)) and not isinstance(given, (bool, np.bool_)):
            given = np.array(int(given) if 0 <= given < 1 << 63 else -1)
        array = as_array(title, given)
        frames[name] = array[None] if value.time else array
    return frames


def _run(stream: ModelStream, chunk: Any, resets: Any, mask: Any, batch_first: bool) -> Any:
    model, batch = stream._model, stream._batch
    given = call.given_inputs(model, chunk, batch_first)
    if given.batch != batch:
        wanted = f"{batch[0]} sequences" if batch else "no batch axis"
        raise ValueError(
            f"x: expected {wanted}, got {f'{given.batch[0]} sequences' if given.batch else 'no batch axis'}"
        )
    if len(set(given.steps.values())) > 1:
        raise ValueError(f"x: expected as many steps of all inputs, got {given.steps}")
    steps = max(given.steps.values(), default=1)
    befalls = {n: checked_flags(n, v, steps, batch, batch_first) for n, v in (("resets", resets), ("mask", mask))}
    again, valid = befalls["resets"], befalls["mask"]
    if valid is not None and not valid.all():
        return _run_masked(stream, chunk, resets, mask, batch_first)
    starts = [] if again is None else [int(t) for t in np.flatnonzero(again.any(1))]
    if starts and any(not shape for _, shape, _ in stream._others):
        partial = [t for t in starts if not again[t].all()]  # type: ignore[index]
        if partial:
            raise ValueError("resets: expected those of all sequences together, for a stride counts their steps")
    before = stream.state if starts else {}
    try:
        parts = _parts(stream, given, again, [*starts, steps], batch_first)
    except BaseException:
        if starts:
            stream.state = before
        raise
    axis = 1 if batch_first and batch else 0
    arrays = parts[0] if len(parts) == 1 else [np.concatenate(each, axis) for each in zip(*parts, strict=True)]
    return arrays[0] if len(arrays) == 1 else dict(zip(model.outputs, arrays, strict=True))


def _parts(
    stream: ModelStream, given: call.Given, resets: Array | None, ends: list[int], batch_first: bool
) -> list[list[Array]]:
    """The outputs of the steps up to each of these, before which rows are reset."""
    parts = [_run_plain(stream, given, 0, ends[0], batch_first)]
    for start, end in pairwise(ends):
        stream._stream.reset(np.flatnonzero(resets[start]))  # type: ignore[index]
        parts.append(_run_plain(stream, given, start, end, batch_first))
    return parts


def _run_plain(stream: ModelStream, given: call.Given, start: int, end: int, batch_first: bool) -> list[Array]:
    """The outputs of steps start .. end-1."""
    model = stream._model
    values = {name: value._replace(time=True) for name, value in model._output_values.items()}
    counts = [stream._stream.frames(k, end - start) for k in range(len(values))]
    arrays, written = call.results(values, counts, stream._batch, model.dtype, batch_first)
    inputs = [
        array[start:end] if value.time else array
        for array, value in zip(given.arrays, model.inputs.values(), strict=True)
    ]
    stream._stream.run(end - start, inputs, written)
    return arrays


def _run_masked(stream: ModelStream, chunk: Any, resets: Any, mask: Any, batch_first: bool) -> Any:
    """As of a call from the stream's state, which is the call's final one then."""
    for name, *_ in stream._others:
        raise ValueError(f"mask: expected None, for the stream has a state besides those of recurrent layers, {name!r}")
    for name, value in stream._model._output_values.items():
        if not value.time:
            raise ValueError(f"mask: expected None, for output {name!r} is no sequence")
    state = stream.state
    options: dict[str, Any] = {"resets": resets, "mask": mask, "return_state": True}
    y, final = call.run(stream._model, chunk, state, **options, batch_first=batch_first, core=stream._compiled)
    stream.state = final
    return y
