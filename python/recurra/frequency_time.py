"""The Frequency-Time LSTM: one LSTM over the bands of each frame, another over the frames."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from . import _core
from ._arrays import bounded, check, empty, memory_for, output, require_batch, vector
from ._fixed import Fixed
from ._marks import PREVIOUS, checked_flags
from ._options import check_names, flag, generator, integer, mapping, noise_seed, shown
from .layers import LSTM
from .tape import Gradients, Tape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import DTypeLike

    from ._arrays import Array, Input
    from ._options import Seed
    from .packed import State

T = TypeVar("T")

__all__ = ["FrequencyTimeLSTM", "FrequencyTimeStream", "FrequencyTimeTape"]


class FrequencyTimeLSTM(Fixed):
    """Frames of F frequency bands, read band by band by an F-LSTM, then frame by frame by a T-LSTM.

        >>> layer = recurra.FrequencyTimeLSTM(40, 64, chunk_size=8, overlap=4, frequency_size=24)
        >>> layer.chunks, layer.time.input_size
        (9, 216)
        >>> y, (h, c) = layer(np.zeros((100, 8, 40), "float32"))
        >>> y.shape, h.shape
        ((100, 8, 64), (1, 8, 64))

    A frame is cut into M = (F - overlap) / (chunk_size - overlap) chunks, which begin chunk_size - overlap bands apart.
    The F-LSTM starts every frame from zeros and reads its chunks from low to high; the T-LSTM reads all of its outputs
    side by side, in this order (Li, Mohamed, Zweig, Gong 2015, "LSTM time and frequency recurrence for automatic speech
    recognition", ASRU). Outputs have the promise of the same bits.

    Fixed once made, but for `load_state_dict`; it pickles as its configuration and parameters. It runs on the CPU.

    Args:
        input_size: F.
        hidden_size: H, units of the T-LSTM.
        chunk_size: bands in a chunk.
        overlap: bands that a chunk shares with the next; M must be a whole number.
        frequency_size: units of the F-LSTM.
        num_layers: layers of the T-LSTM.
        bias: whether both have biases.
        batch_first: as of `recurra.LSTM`.
        bidirectional_frequency: read the chunks in both directions, which doubles what the T-LSTM reads.
        proj_size: as of `recurra.LSTM`, of the T-LSTM.
        peephole: as of `recurra.LSTM`, of both.
        dropout: as of `recurra.LSTM`, of what the F-LSTM passes to the T-LSTM and its layers to each other.
        zoneout: as of `recurra.LSTM`, of the T-LSTM; the F-LSTM's states last for one frame.
        dtype: float32 or float64, of parameters, inputs and outputs.
        seed, rng: as of `recurra.LSTM`.

    Attributes:
        frequency, time: the two LSTMs, to look at. chunks: M.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or value; chunks do not cover the bands.
        MemoryError: the parameters would not fit this machine; nothing has been allocated.
    """

    input_size: int
    hidden_size: int
    chunk_size: int
    overlap: int
    chunks: int
    batch_first: bool
    _stages: tuple[LSTM, LSTM]  # replaced both at once

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        chunk_size: int,
        overlap: int,
        frequency_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional_frequency: bool = False,
        proj_size: int = 0,
        peephole: bool = False,
        dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        dtype: DTypeLike = "float32",
        seed: Seed = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        bands, size = integer("input_size", input_size), integer("chunk_size", chunk_size)
        shared = integer("overlap", overlap, 0)
        if size > bands:
            raise ValueError(f"chunk_size: expected at most input_size={bands}, got {size}")
        if shared >= size:
            raise ValueError(f"overlap: expected less than chunk_size={size}, got {shared}")
        if (bands - shared) % (size - shared):
            raise ValueError(
                f"chunk_size, overlap: expected chunks that end with the last of {bands} bands: input_size - overlap a"
                f" multiple of chunk_size - overlap, got {bands - shared} and {size - shared}"
            )
        chunks = (bands - shared) // (size - shared)
        units = integer("frequency_size", frequency_size)
        both = flag("bidirectional_frequency", bidirectional_frequency)
        options: dict[str, Any] = {"bias": bias, "peephole": peephole, "dtype": dtype, "rng": generator(seed, rng)}
        over_time: dict[str, Any] = {"proj_size": proj_size, "dropout": dropout, "zoneout": zoneout}
        inputs = chunks * units * (1 + both)
        with memory_for(f"frequency_size={shown(units)}"):
            frequency = LSTM(size, units, bidirectional=both, **options)
            time = LSTM(inputs, hidden_size, num_layers, batch_first=batch_first, **over_time, **options)
        self.__dict__.update(
            input_size=bands,
            hidden_size=time.hidden_size,
            chunk_size=size,
            overlap=shared,
            chunks=chunks,
            batch_first=time.batch_first,
            _stages=(frequency, time),
        )

    @property
    def frequency(self) -> LSTM:
        """The F-LSTM.

        >>> recurra.FrequencyTimeLSTM(40, 64, chunk_size=8, overlap=4, frequency_size=24).frequency.input_size
        8
        """
        return self._stages[0]

    @property
    def time(self) -> LSTM:
        """The T-LSTM."""
        return self._stages[1]

    def __call__(
        self,
        x: Input,
        state: State | None = None,
        *,
        lengths: Sequence[int] | Input | None = None,
        resets: Input | None = None,
        reset_state: State | None = None,
        mask: Input | None = None,
        masked_output: str = PREVIOUS,
        out: Array | None = None,
    ) -> tuple[Array, State]:
        """Run whole sequences: as a call of `recurra.LSTM`, with F in place of I; states are the T-LSTM's."""
        frequency, time = self._stages
        array, valid, read = self._checked(time, x, state, lengths, mask)
        u = empty("input of the T-LSTM", (*array.shape[:-1], time.input_size), time.dtype)
        frequency(self._cut(array), lengths=self._chunk_lengths(array, valid, read), out=self._side_by_side(u))
        marks = _marks(resets, reset_state, mask, masked_output)
        y, final = time(u, state, lengths=valid, out=out, **marks)
        return y, final

    def forward(
        self,
        x: Input,
        state: State | None = None,
        *,
        lengths: Sequence[int] | Input | None = None,
        resets: Input | None = None,
        reset_state: State | None = None,
        mask: Input | None = None,
        masked_output: str = PREVIOUS,
        recompute: bool = False,
        rng: int | np.random.Generator | None = None,
    ) -> tuple[Array, State, FrequencyTimeTape]:
        """Run whole sequences for training: as `recurra.LSTM.forward`, with a tape to go back over both LSTMs.

        >>> layer = recurra.FrequencyTimeLSTM(26, 32, chunk_size=6, overlap=2, frequency_size=8)
        >>> y, state, tape = layer.forward(np.ones((100, 8, 26), "float32"))
        >>> gradients = tape.backward(np.ones_like(y))
        >>> gradients.x.shape, gradients.params["frequency.weight_hh_l0"].shape
        ((100, 8, 26), (32, 8))
        """
        frequency, time = self._stages
        seed = noise_seed(rng)
        array, valid, read = self._checked(time, x, state, lengths, mask)
        chunk_lengths = self._chunk_lengths(array, valid, read)
        features, _, low = frequency.forward(self._cut(array), lengths=chunk_lengths, recompute=recompute)
        u = empty("input of the T-LSTM", (*array.shape[:-1], time.input_size), time.dtype)
        self._side_by_side(u)[...] = features
        self._drop(u, seed, read)
        marks = _marks(resets, reset_state, mask, masked_output)
        y, final, high = time.forward(u, state, lengths=valid, recompute=recompute, rng=seed, **marks)
        return y, final, FrequencyTimeTape(self, low, high, array.shape, seed, read)

    def stream(self, batch: int | None = None, *, threads: int = 1) -> FrequencyTimeStream:
        """A stream through this layer, its state zero: a frame a step. See `FrequencyTimeStream`.

        >>> stream = recurra.FrequencyTimeLSTM(26, 32, chunk_size=6, overlap=2, frequency_size=8).stream()
        >>> stream.step(np.zeros(26, "float32")).shape
        (32,)
        """
        return FrequencyTimeStream(self, batch, threads)

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters: torch's names, after "frequency." and "time.".

        >>> layer = recurra.FrequencyTimeLSTM(40, 64, chunk_size=8, overlap=4, frequency_size=24, bias=False)
        >>> list(layer.state_dict())
        ['frequency.weight_ih_l0', 'frequency.weight_hh_l0', 'time.weight_ih_l0', 'time.weight_hh_l0']
        """
        return _prefixed(*(stage.state_dict() for stage in self._stages))

    def load_state_dict(self, state_dict: Mapping[str, Input]) -> None:
        """Replace all parameters, by copies of arrays of the same names, shapes and dtype.

            >>> layer = recurra.FrequencyTimeLSTM(40, 64, chunk_size=8, overlap=4, frequency_size=24)
            >>> layer.load_state_dict({name: 0.5 * array for name, array in layer.state_dict().items()})

        Calls in other threads finish with the old parameters, and existing streams keep them.

        Raises:
            TypeError, ValueError: something does not fit; the layer is unchanged.
        """
        given = mapping("state_dict", state_dict)
        check_names("state_dict", given, _prefixed(*(stage._packed.shapes for stage in self._stages)))
        stages = []
        for name, stage in zip(_NAMES, self._stages, strict=True):
            part = {key: given[f"{name}.{key}"] for key in stage._packed.shapes}
            changed = copy.copy(stage)
            changed.__dict__["_packed"] = stage._packed.with_parameters(part, f"state_dict {name}")
            stages.append(changed)
        self.__dict__["_stages"] = tuple(stages)

    @property
    def parameter_count(self) -> int:
        """Number of values in all parameters.

        >>> recurra.FrequencyTimeLSTM(40, 64, chunk_size=8, overlap=4, frequency_size=24).parameter_count
        75456
        """
        return sum(stage.parameter_count for stage in self._stages)

    def _checked(
        self, time: LSTM, x: Any, state: Any, lengths: Any, mask: Any
    ) -> tuple[Array, Array | None, Array | None]:
        """x, lengths and which frames [T, B] are read."""
        axes = ("B", "T") if self.batch_first else ("T", "B")
        array = check("x", x, time.dtype, (*axes, self.input_size), ("T", self.input_size))
        batch = (array.shape[axes.index("B")],) if array.ndim == 3 else ()
        packed: Any = time._packed
        if state is not None:
            packed.check_state(state, batch)
        steps = array.shape[axes.index("T") if batch else 0]
        read = checked_flags("mask", mask, steps, batch, self.batch_first)
        if lengths is None:
            return array, None, read
        require_batch(batch, array.shape)
        return array, bounded("lengths", vector("lengths", lengths, *batch), steps), read

    def _cut(self, x: Array) -> Array:
        """A view of x [..., F] as the F-LSTM reads it, [M, frames, chunk_size]."""
        frames = x.reshape(-1, self.input_size)
        every = np.lib.stride_tricks.sliding_window_view(frames, self.chunk_size, axis=1)
        return every[:, :: self.chunk_size - self.overlap].swapaxes(0, 1)

    def _side_by_side(self, u: Array) -> Array:
        """A view of the T-LSTM's input [..., M * size] as the F-LSTM writes it, [M, frames, size]."""
        return u.reshape(-1, self.chunks, u.shape[-1] // self.chunks).swapaxes(0, 1)

    def _drop(self, u: Array, seed: int | None, read: Array | None) -> None:
        """Leave out some of the T-LSTM's input, or of its gradient, as its layers do between each other."""
        if seed is None or not self.time.dropout:
            return
        rows = u[:, None] if u.ndim == 2 else u.swapaxes(0, 1) if self.batch_first else u
        options = (self.time.dropout, seed, self.time.num_layers)  # a lane that none of its layers has
        if read is None:
            return _core.drop_between(rows, *options)
        order = np.argsort(~read, axis=0, kind="stable")[..., None]  # frames are counted without those that are masked
        moved = np.take_along_axis(rows, order, 0)
        _core.drop_between(moved, *options)
        np.put_along_axis(rows, order, moved, 0)

    def _chunk_lengths(self, x: Array, valid: Array | None, read: Array | None) -> Array | None:
        """M for each frame, 0 for padded and masked ones, so that nobody reads these."""
        if valid is None and read is None:
            return None
        steps = x.shape[1 if self.batch_first and x.ndim == 3 else 0]
        inside = np.ones((steps, 1), bool) if read is None else read
        if valid is not None:
            inside = inside & (np.arange(steps)[:, None] < valid)
        return np.where(inside.T if self.batch_first else inside, self.chunks, 0).reshape(-1)

    def __repr__(self) -> str:
        cut = f"chunk_size={self.chunk_size}, overlap={self.overlap}"
        return f"FrequencyTimeLSTM({self.input_size}, {cut}: {self.frequency!r}, {self.time!r})"


class FrequencyTimeTape:
    """What `FrequencyTimeLSTM.forward` keeps for `backward`, which may be called again."""

    __slots__ = ("_high", "_layer", "_low", "_read", "_seed", "_shape")

    def __init__(
        self,
        layer: FrequencyTimeLSTM,
        low: Tape,
        high: Tape,
        shape: tuple[int, ...],
        seed: int | None,
        read: Array | None,
    ) -> None:
        self._layer, self._low, self._high, self._shape = layer, low, high, shape
        self._seed, self._read = seed, read

    @property
    def nbytes(self) -> int:
        """Memory the tape holds, in bytes."""
        return self._low.nbytes + self._high.nbytes

    def backward(self, dy: Input | None = None, dstate: Any = None, *, input_grad: bool = True) -> Gradients:
        """Gradients of a loss, from those of the output and of the final state: as `Tape.backward`.

        Bands that several chunks hold have the sum of their gradients, from the first chunk to the last.
        """
        wanted, layer = flag("input_grad", input_grad), self._layer
        above = self._high.backward(dy, dstate)
        assert above.x is not None
        layer._drop(above.x, self._seed, self._read)
        below = self._low.backward(layer._side_by_side(above.x), input_grad=wanted)
        params = _prefixed(below.params, above.params)
        gradients = Gradients(None if below.x is None else self._summed(below.x), above.state, params)
        gradients.reset_state = above.reset_state
        return gradients

    def _summed(self, chunks: Array) -> Array:
        """The gradient of x from those of its chunks [M, frames, chunk_size]."""
        size, hop = self._layer.chunk_size, self._layer.chunk_size - self._layer.overlap
        dx = np.zeros(self._shape, chunks.dtype)
        frames = dx.reshape(-1, self._layer.input_size)
        for k, chunk in enumerate(chunks):
            frames[:, k * hop : k * hop + size] += chunk
        return dx


class FrequencyTimeStream:
    """A Frequency-Time LSTM and its running state, a frame a step; made by `layer.stream(batch)`.

        >>> layer = recurra.FrequencyTimeLSTM(26, 32, chunk_size=6, overlap=2, frequency_size=8)
        >>> stream, x = layer.stream(), np.ones((3, 26), "float32")
        >>> y = [stream.step(frame) for frame in x]
        >>> bool((np.stack(y) == layer(x)[0]).all())
        True

    Results are those of one call over the whole sequence, bit for bit. A stream keeps the parameters it was made with.
    It serves one thread at a time.

    Args:
        layer: the network.
        batch: None for one sequence without a batch axis, or the number of sequences that advance together.
        threads: how many threads a step may use; see `recurra.Stream`.
    """

    __slots__ = ("_bands", "_chunks", "_frames", "_frequency", "_layer", "_time", "_u", "_written")

    def __init__(self, layer: FrequencyTimeLSTM, batch: int | None = None, threads: int = 1) -> None:
        if not isinstance(layer, FrequencyTimeLSTM):
            raise TypeError(f"layer: expected a FrequencyTimeLSTM, got {type(layer).__name__}")
        frequency, time = layer._stages
        rows = 1 if batch is None else integer("batch", batch)
        self._layer, self._time = layer, time.stream(batch, threads=threads)
        self._frequency = copy.copy(frequency)  # with the parameters of now
        self._bands = None if frequency.bidirectional else frequency.stream(rows, threads=threads)
        self._frames, self._u = (np.zeros((rows, size), time.dtype) for size in (layer.input_size, time.input_size))
        self._chunks, self._written = layer._cut(self._frames), layer._side_by_side(self._u)

    def step(
        self,
        x: Input,
        out: Array | None = None,
        *,
        resets: Input | bool | None = None,
        reset_state: State | None = None,
        mask: Input | bool | None = None,
        masked_output: str = PREVIOUS,
    ) -> Array:
        """Advance by one frame: [O], or [batch, O], from x [F], or [batch, F].

        Where the F-LSTM has one direction and `out` is given, no array is allocated. With resets and mask, which are as
        of `recurra.Stream.step`, some are.

        Raises:
            TypeError, ValueError: as a layer call; the state is unchanged then.
        """
        axes = self._time._batch
        frame = check("x", x, self._u.dtype, (*axes, self._layer.input_size))
        y, written = output(out, (*axes, self._time._outputs), self._u.dtype, {"x": frame})
        self._frames[...] = frame
        if self._bands is None:  # both directions need the whole frame
            self._frequency(self._chunks, out=self._written)
        else:
            self._bands.reset()
            self._bands.run(self._chunks, out=self._written)
        marks = _marks(resets, reset_state, mask, masked_output)
        self._time.step(self._u if axes else self._u[0], out=written, **marks)
        return y

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
        """Advance by any number of frames: [T, O] from [T, F], or [T, batch, O] from [T, batch, F], batch first if the
        layer is. Resets and mask are as of `recurra.Stream.run`.

        Raises:
            TypeError, ValueError: as a layer call; the state is unchanged then.
        """
        layer, axes = self._layer, self._time._batch
        shape = (*axes, "T") if layer.batch_first else ("T", *axes)
        frames = check("chunk", chunk, self._u.dtype, (*shape, layer.input_size))
        y, written = output(out, (*frames.shape[:-1], self._time._outputs), self._u.dtype, {"chunk": frames})
        u = empty("input of the T-LSTM", (*frames.shape[:-1], self._u.shape[1]), self._u.dtype)
        self._frequency(layer._cut(frames), out=layer._side_by_side(u))
        self._time.run(u, out=written, **_marks(resets, reset_state, mask, masked_output))
        return y

    @property
    def state(self) -> State:
        """A copy of the T-LSTM's state, which may be set: as of `recurra.Stream`."""
        return self._time.state

    @state.setter
    def state(self, state: State) -> None:
        self._time.state = state

    def reset(self, rows: Sequence[int] | Input | None = None, state: State | None = None) -> None:
        """Set the state to zero or to `state`, of all sequences or of some: as of `recurra.Stream`."""
        self._time.reset(rows, state)

    def __reduce__(self) -> Any:
        raise TypeError("a stream cannot be copied or pickled: make another from its layer and set its state")


def _marks(resets: Any, reset_state: Any, mask: Any, masked_output: Any) -> dict[str, Any]:
    """Those arguments of the T-LSTM that are not default."""
    given = {"resets": resets, "reset_state": reset_state, "mask": mask}
    marks = {name: value for name, value in given.items() if value is not None}
    return marks if masked_output is PREVIOUS else marks | {"masked_output": masked_output}


_NAMES = ("frequency", "time")


def _prefixed(*parts: Mapping[str, T]) -> dict[str, T]:
    """The F-LSTM's and the T-LSTM's parameters in one mapping."""
    return {f"{name}.{key}": value for name, part in zip(_NAMES, parts, strict=True) for key, value in part.items()}
