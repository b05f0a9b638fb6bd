"""The Frequency-Time LSTM: one LSTM over the bands of each frame, another over the frames."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ._arrays import bounded, check, empty, output, require_batch, vector
from ._fixed import Fixed
from ._options import check_names, flag, generator, integer, mapping
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
        frequency = LSTM(size, units, bidirectional=both, **options)
        time = LSTM(
            chunks * units * (1 + both),
            hidden_size,
            num_layers,
            batch_first=batch_first,
            proj_size=proj_size,
            **options,
        )
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
        """The F-LSTM."""
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
        out: Array | None = None,
    ) -> tuple[Array, State]:
        """Run whole sequences: as a call of `recurra.LSTM`, with F in place of I; the state is the T-LSTM's."""
        frequency, time = self._stages
        array, valid = self._checked(time, x, state, lengths)
        u = empty("input of the T-LSTM", (*array.shape[:-1], time.input_size), time.dtype)
        frequency(self._cut(array), lengths=self._chunk_lengths(array, valid), out=self._side_by_side(u))
        return time(u, state, lengths=valid, out=out)

    def forward(
        self,
        x: Input,
        state: State | None = None,
        *,
        lengths: Sequence[int] | Input | None = None,
        recompute: bool = False,
    ) -> tuple[Array, State, FrequencyTimeTape]:
        """Run whole sequences for training: as `recurra.LSTM.forward`, with a tape to go back over both LSTMs.

        >>> layer = recurra.FrequencyTimeLSTM(26, 32, chunk_size=6, overlap=2, frequency_size=8)
        >>> y, state, tape = layer.forward(np.ones((100, 8, 26), "float32"))
        >>> gradients = tape.backward(np.ones_like(y))
        >>> gradients.x.shape, gradients.params["frequency.weight_hh_l0"].shape
        ((100, 8, 26), (32, 8))
        """
        frequency, time = self._stages
        array, valid = self._checked(time, x, state, lengths)
        chunk_lengths = self._chunk_lengths(array, valid)
        features, _, low = frequency.forward(self._cut(array), lengths=chunk_lengths, recompute=recompute)
        u = empty("input of the T-LSTM", (*array.shape[:-1], time.input_size), time.dtype)
        self._side_by_side(u)[...] = features
        y, final, high = time.forward(u, state, lengths=valid, recompute=recompute)
        return y, final, FrequencyTimeTape(self, low, high, array.shape)

    def stream(self, batch: int | None = None, *, threads: int = 1) -> FrequencyTimeStream:
        """A stream through this layer, its state zero: a frame a step. See `FrequencyTimeStream`.

        >>> stream = recurra.FrequencyTimeLSTM(26, 32, chunk_size=6, overlap=2, frequency_size=8).stream()
        >>> stream.step(np.zeros(26, "float32")).shape
        (32,)
        """
        return FrequencyTimeStream(self, batch, threads)

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters: torch's names, after "frequency." and "time."."""
        return _prefixed(*(stage.state_dict() for stage in self._stages))

    def load_state_dict(self, state_dict: Mapping[str, Input]) -> None:
        """Replace all parameters, by copies of arrays of the same names, shapes and dtype.

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
        """Number of values in all parameters."""
        return sum(stage.parameter_count for stage in self._stages)

    def _checked(self, time: LSTM, x: Any, state: Any, lengths: Any) -> tuple[Array, Array | None]:
        axes = ("B", "T") if self.batch_first else ("T", "B")
        array = check("x", x, time.dtype, (*axes, self.input_size), ("T", self.input_size))
        batch = (array.shape[axes.index("B")],) if array.ndim == 3 else ()
        packed: Any = time._packed
        if state is not None:
            packed.check_state(state, batch)
        if lengths is None:
            return array, None
        require_batch(batch, array.shape)
        return array, bounded("lengths", vector("lengths", lengths, *batch), array.shape[axes.index("T")])

    def _cut(self, x: Array) -> Array:
        """A view of x [..., F] as the F-LSTM reads it, [M, frames, chunk_size]."""
        frames = x.reshape(-1, self.input_size)
        every = np.lib.stride_tricks.sliding_window_view(frames, self.chunk_size, axis=1)
        return every[:, :: self.chunk_size - self.overlap].swapaxes(0, 1)

    def _side_by_side(self, u: Array) -> Array:
        """A view of the T-LSTM's input [..., M * size] as the F-LSTM writes it, [M, frames, size]."""
        return u.reshape(-1, self.chunks, u.shape[-1] // self.chunks).swapaxes(0, 1)

    def _chunk_lengths(self, x: Array, valid: Array | None) -> Array | None:
        """M for each frame, 0 for padded ones, so that nobody reads these."""
        if valid is None:
            return None
        steps = np.arange(x.shape[1 if self.batch_first else 0])
        inside = steps < valid[:, None] if self.batch_first else steps[:, None] < valid
        return np.where(inside, self.chunks, 0).reshape(-1)

    def __repr__(self) -> str:
        cut = f"chunk_size={self.chunk_size}, overlap={self.overlap}"
        return f"FrequencyTimeLSTM({self.input_size}, {cut}: {self.frequency!r}, {self.time!r})"


class FrequencyTimeTape:
    """What `FrequencyTimeLSTM.forward` keeps for `backward`, which may be called again."""

    __slots__ = ("_high", "_layer", "_low", "_shape")

    def __init__(self, layer: FrequencyTimeLSTM, low: Tape, high: Tape, shape: tuple[int, ...]) -> None:
        self._layer, self._low, self._high, self._shape = layer, low, high, shape

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
        below = self._low.backward(layer._side_by_side(above.x), input_grad=wanted)
        params = _prefixed(below.params, above.params)
        return Gradients(None if below.x is None else self._summed(below.x), above.state, params)

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

    def step(self, x: Input, out: Array | None = None) -> Array:
        """Advance by one frame: [O], or [batch, O], from x [F], or [batch, F].

        Where the F-LSTM has one direction and `out` is given, no array is allocated.

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
        self._time.step(self._u if axes else self._u[0], out=written)
        return y

    def run(self, chunk: Input, out: Array | None = None) -> Array:
        """Advance by any number of frames: [T, O] from [T, F], or [T, batch, O] from [T, batch, F], batch first if the
        layer is.

        Raises:
            TypeError, ValueError: as a layer call; the state is unchanged then.
        """
        layer, axes = self._layer, self._time._batch
        shape = (*axes, "T") if layer.batch_first else ("T", *axes)
        frames = check("chunk", chunk, self._u.dtype, (*shape, layer.input_size))
        y, written = output(out, (*frames.shape[:-1], self._time._outputs), self._u.dtype, {"chunk": frames})
        u = empty("input of the T-LSTM", (*frames.shape[:-1], self._u.shape[1]), self._u.dtype)
        self._frequency(layer._cut(frames), out=layer._side_by_side(u))
        self._time.run(u, out=written)
        return y

    @property
    def state(self) -> State:
        """A copy of the T-LSTM's state, which may be set: as of `recurra.Stream`."""
        return self._time.state

    @state.setter
    def state(self, state: State) -> None:
        self._time.state = state

    def reset(self, rows: Sequence[int] | Input | None = None) -> None:
        """Set the state to zero, of all sequences or of some: as of `recurra.Stream`."""
        self._time.reset(rows)

    def __reduce__(self) -> Any:
        raise TypeError("a stream cannot be copied or pickled: make another from its layer and set its state")


_NAMES = ("frequency", "time")


def _prefixed(*parts: Mapping[str, T]) -> dict[str, T]:
    """The F-LSTM's and the T-LSTM's parameters in one mapping."""
    return {f"{name}.{key}": value for name, part in zip(_NAMES, parts, strict=True) for key, value in part.items()}
