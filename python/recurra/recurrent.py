"""A stack of recurrent layers of any cell."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from ._arrays import require_memory
from ._cells import SEQUENCE_CELLS, Sizes, chosen_direction, start_value
from ._fixed import Fixed
from ._marks import PREVIOUS, marks_of
from ._options import choice, flag, generator, integer, mapping, moved, placement, shown
from .packed import Packed, packed_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import DTypeLike
    from typing_extensions import Self

    from ._arrays import Array, Input
    from ._options import Seed
    from .heads import Linear
    from .packed import State
    from .stream import Stream
    from .tape import Tape

__all__ = ["Recurrent"]


class Recurrent(Fixed):
    """A stack of layers of one cell, any of `recurra.cells()`. RNN, LSTM, GRU and others translate options to a cell.

        >>> layer = recurra.Recurrent("gru_reset_before_write", 12, 64, num_layers=2)
        >>> y, h = layer(np.zeros((100, 8, 12), "float32"))
        >>> y.shape, h.shape
        ((100, 8, 64), (2, 8, 64))

    A layer is fixed once made, except that `load_state_dict` replaces all its parameters at once; so one layer serves
    many threads. It pickles as its configuration and plain weights. Parameters have torch's names, shapes and gate
    orders, and are attributes: `layer.weight_ih_l0`, `layer.bias_hh_l1_reverse`, ... These are read-only copies, made
    at every access, since a layer holds its parameters in packed form only (and from its first backward pass on a
    second time, transposed).

    Args:
        cell: name of the cell.
        input_size: I, values a step of the input has.
        hidden_size: H, units of a layer.
        num_layers: L, layers on top of each other; each reads the output of the one below.
        bias: whether there are the two bias vectors bias_ih and bias_hh.
        batch_first: input and output are [B, T, ...] instead of [T, B, ...]. States never are.
        dropout: probability that in training (`forward` with rng) a number passed from one layer to the next becomes 0;
            the others are scaled by 1 / (1 - dropout). As torch's.
        bidirectional: a second network reads the sequence backwards; outputs are concatenated, D = 2.
        proj_size: P, size of the output projection of the *_projected cells, 0 < P < H; 0 for all others.
        direction: "forward"; "reverse", from each sequence's last step to its first, with the parameters' plain names
            and D = 1; or "bidirectional", which is bidirectional=True.
        proj_bias: whether the output projection of the *_projected cells has a bias, bias_hr [P].
        constants: values for the cell's constants, for example {"cell_clip": 5.0}.
        heads: of an sLSTM, into how many equal parts, which recurrent products keep apart, H is cut; 1 for all others.
        initial_state: whether the state that calls and streams start from, where none is given, is learned: parameters
            h_0 [L*D, O], and for LSTMs c_0 [L*D, H], zero at first; their gradients are summed over the batch.
            (`recurra.InitialState` is another thing: it makes a state from a vector of features.)
        recurrent_dropout: variational dropout: probability that in training a number of h(t-1) counts as 0 in the
            recurrent product, the same numbers at all steps of a sequence (Gal, Ghahramani 2016, arXiv:1512.05287).
            With reset="before" that is the product of the gates; the candidate's r * h is not masked. Cells without a
            recurrent product have none.
        zoneout: probability that in training a unit keeps its old state in a step; a number for all states, or a tuple
            of one for each, for LSTMs (of h, of c). Without rng, and in calls and streams, each unit keeps that share
            of its old state, the expectation (Krueger et al. 2017, arXiv:1606.01305).
            What `forward` leaves out at random depends on the seed, the layer, the step (masked ones are not counted,
            resets change nothing) and the row's number in the batch: a row that is run alone has the masks of row 0.
        dtype: float32 or float64, of parameters, inputs and outputs. On a GPU also float16 or "bfloat16", of inputs and
            outputs: parameters and their gradients, and sums and states inside a call, are float32 then, and weights
            and the vectors they are multiplied with are rounded.
        device: "cpu", "cuda" (the first GPU) or "cuda:1" (the second): where parameters, inputs and outputs are.
        engine: on a GPU, "exact" has the CPU's bits, of float32 and float64; "cublas" is fast for large layers, and
            has the same bits every time; "auto" chooses. "exact-resident" runs all steps of a layer in one launch,
            forward and backward, whose weights stay on the chip as far as they fit, "exact-steps" each on its own, as
            "exact" does until a GPU has shown more. "cublas-resident", of float16 and "bfloat16" on GPUs of compute
            capability 8.0 or more, is "cublas" with all steps of a layer in one launch, forward and backward, on the
            tensor cores.
        allow_tf32: on a GPU, whether cuBLAS may round what it multiplies to TF32's 11 bits.
        seed: for numpy.random.default_rng; default fresh entropy.
        rng: the numpy.random.Generator to draw from, in place of a seed.

    Parameters start uniform in +-1/sqrt(H), as torch's do; gains gamma start at 1 and shifts beta at 0.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or value.
        MemoryError: the parameters would not fit this machine; nothing has been allocated.
    """

    cell: str
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    recurrent_dropout: float
    zoneout: float | tuple[float, ...]
    bidirectional: bool
    direction: str
    proj_size: int
    proj_bias: bool
    constants: dict[str, float] | None
    heads: int
    initial_state: bool
    dtype: Any  # numpy.dtype; "bfloat16", which NumPy lacks, is a string
    device: str
    engine: str
    allow_tf32: bool
    precision: str | None
    keep: tuple[int, ...]
    _packed: Packed

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        direction: str = "forward",
        proj_bias: bool = False,
        constants: Mapping[str, float] | None = None,
        heads: int = 1,
        initial_state: bool = False,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, ...] = 0.0,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        engine: str = "auto",
        allow_tf32: bool = False,
        seed: Seed = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        spec = choice("cell", cell, SEQUENCE_CELLS)
        constants = None if constants is None else mapping("constants", constants)
        hidden, proj = integer("hidden_size", hidden_size), integer("proj_size", proj_size, 0)
        if proj >= hidden:
            raise ValueError(f"proj_size: expected less than hidden_size={hidden}, got {proj}")
        if bool(proj) != spec.projected:
            wanted = "at least 1" if spec.projected else "0"
            raise ValueError(f"proj_size: expected {wanted} for cell {cell!r}, got {proj}")
        if flag("proj_bias", proj_bias) and not proj:
            raise ValueError("proj_bias: expected False without proj_size, got True")
        direction = chosen_direction(bidirectional, direction)
        sizes = Sizes(
            input=integer("input_size", input_size),
            hidden=hidden,
            output=proj or hidden,
            layers=integer("num_layers", num_layers),
            directions=2 if direction == "bidirectional" else 1,
            bias=flag("bias", bias),
            reverse=direction == "reverse",
            proj_bias=bool(proj_bias),
            initial_state=spec.checked_initial_state(initial_state),
            heads=spec.checked_heads(heads, hidden),
        )
        rates = spec.regularization(dropout, recurrent_dropout, zoneout)
        place = placement(device, dtype, engine, allow_tf32)
        values_dtype = place.parameter_dtype
        configuration = {
            "cell": cell,
            "input_size": sizes.input,
            "hidden_size": sizes.hidden,
            "num_layers": sizes.layers,
            "bias": sizes.bias,
            "batch_first": flag("batch_first", batch_first),
            "dropout": rates.dropout,
            "recurrent_dropout": rates.recurrent_dropout,
            "zoneout": zoneout,
            "bidirectional": direction == "bidirectional",
            "direction": direction,
            "proj_size": proj,
            "proj_bias": sizes.proj_bias,
            "constants": constants or None,
            "heads": sizes.heads,
            "initial_state": sizes.initial_state,
            **place.attributes,
        }
        spec.constant_values(constants, values_dtype, sizes.directions)
        random = generator(seed, rng)
        what = f"input_size={shown(sizes.input)}, hidden_size={shown(hidden)}, num_layers={shown(sizes.layers)}"
        copies = 2  # initial and packed
        require_memory(what, copies * spec.parameter_count(sizes) * values_dtype.itemsize)
        bound = 1 / math.sqrt(hidden)
        initial = {
            name: random.uniform(-bound, bound, shape).astype(values_dtype)
            if (value := start_value(name)) is None
            else np.full(shape, value, values_dtype)
            for name, shape in spec.shapes(sizes).items()
        }
        for name in spec.initial_shapes(sizes):
            initial[name][...] = 0
        packed = packed_at(place, spec, sizes, initial, constants, rates)
        self.__dict__.update(configuration, precision=None, keep=(), _packed=packed)

    @overload
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
        out: Input | None = None,
        return_cells: Literal[False] = False,
    ) -> tuple[Array, State]: ...

    @overload
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
        out: Input | None = None,
        return_cells: bool,
    ) -> tuple[Any, ...]: ...

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
        out: Input | None = None,
        return_cells: bool = False,
    ) -> tuple[Any, ...]:
        """Run whole sequences. Any number of threads may do so at once.

            >>> layer = recurra.GRU(12, 64, batch_first=True)
            >>> x = np.zeros((8, 100, 12), "float32")
            >>> y, h = layer(x, lengths=[100, 7, 0, 31, 100, 64, 2, 99])
            >>> y.shape, h.shape
            ((8, 100, 64), (1, 8, 64))
            >>> y, h = layer(x, h)  # continues from that state

        Args:
            x: [T, B, I], with batch_first [B, T, I], or [T, I] for one sequence without a batch axis. Of the layer's
                dtype, NumPy or any DLPack array on the CPU, may be strided and read-only. T and B may be 0.
            state: initial state, default zeros or what has been learned: h [L*D, B, O], for LSTMs the tuple (h, c) with
                c [L*D, B, H]; without a batch axis if x has none. O is proj_size or else hidden_size.
            lengths: valid steps of each sequence, B integers in 0..T in any order. Outputs past them are zero, the
                final state is that after each sequence's own last step (the initial one if there is none), and the
                reverse direction starts there. Batched x only.
            resets: booleans [T, B], with batch_first [B, T], or [T] without a batch axis: before such a step a row's
                states become zero, or `reset_state`. So a row may hold several sequences one after another, with the
                bits of each alone. The reverse direction is cut at the same places: it starts afresh between such a
                step and the one before, and a reset at time 0 does not concern it. No gradient crosses a reset. The
                final state is that of the last sequence of each row (in reverse, of the first one).
            reset_state: what states become at a reset, as `state`, or [L*D, O] and [L*D, H] for all rows; default
                zeros, or what has been learned.
            mask: booleans as of `resets`: a step that is False is left out, wherever it stands. The states stay as
                they are; layers, directions and what dropout and zoneout draw go on with the next valid step as if it
                came next. With `lengths` steps past them are not looked at.
            masked_output: output of masked steps, "previous": h as it stays, which is the last output, before the first
                valid step that of the initial state; or "zero".
            out: array to write the output to; writeable, last axis contiguous, sharing no memory with x or state.
            return_cells: also return the last layer's second state (c of an LSTM or SRU, the cell d0 of a
                DifferentialRNN) after every step. Masked steps have what `masked_output` says, of it. Cells that have h
                only refuse.

        On a GPU arrays are CuPy's, torch's, or others on that GPU with __cuda_array_interface__ or DLPack; results are
        of the library of x, on its current stream, and nobody waits for them. `lengths` may be an int32 array on the
        GPU, whose values nobody checks: then padded steps are computed too, and a CUDA graph of the call reads them
        whenever it is launched. `resets` and `mask` may be there or on the CPU; with them the host looks at flags and
        lengths, waits for the GPU, and cannot be captured; `out` is C-contiguous then.

        Returns:
            (output, state): output, as x with D*O in place of I (`out` if that was given), and the final state, new.
            With return_cells (output, state, cells): cells, new, as x with D*H in place of I, zero past `lengths`.

        Raises:
            TypeError: wrong dtype or kind of object.
            ValueError: wrong shape, length, device, or unusable `out`.
        """
        options: dict[str, Any] = {"out": out, "batch_first": self.batch_first, "return_cells": return_cells}
        if not (resets is mask is reset_state is None and masked_output is PREVIOUS):
            options["marks"] = marks_of(resets, reset_state, mask, masked_output)
        return self._packed.run(x, state, lengths=lengths, **options)

    @overload
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
        return_cells: Literal[False] = False,
    ) -> tuple[Array, State, Tape]: ...

    @overload
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
        return_cells: bool,
    ) -> tuple[Any, ...]: ...

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
        return_cells: bool = False,
    ) -> tuple[Any, ...]:
        """Run whole sequences for training: as a call, with a tape to go back over.

            >>> layer = recurra.GRU(12, 64, dropout=0.1, num_layers=2)
            >>> y, state, tape = layer.forward(np.ones((100, 8, 12), "float32"), rng=7)
            >>> gradients = tape.backward(dy=np.ones_like(y))
            >>> gradients.x.shape, gradients.params["weight_hh_l0"].shape
            ((100, 8, 12), (192, 64))

        Without rng the output has the bits of a call. Gradients depend neither on threads nor on the instruction set,
        and a row's input gradient not on its batch (backpropagation through time: P. Werbos, Proc. IEEE 78(10), 1990).

        The first call of a process lets glibc, on Linux, keep up to 32 MB of freed memory for the arrays of later ones,
        as after any array of 16 MB (mallopt(3), M_MMAP_THRESHOLD; a threshold that is set from outside stays).

        Args:
            x, state, lengths, resets, reset_state, mask, masked_output: as of a call. x is copied.
            recompute: keep only the states of all steps and compute gates again in backward, to the same bits: 2
                values per unit and step instead of 6 (LSTM), 1 instead of 5 (GRU), for about a third more time. (With
                lengths, dropout or both directions a stack also keeps what each layer passes to the next.)
            rng: what dropout and zoneout draw from: a Generator, or a seed in 0..2**64-1, which draws the same every
                time. Default None: nothing is left out. Draws are hashes of their position and are not stored.
            return_cells: as of a call; `backward` then takes their gradient, dcells.

        Returns:
            (output, state, tape): the first two as a call's, and a `recurra.tape.Tape`; on a GPU one whose gradients
            are arrays of the library of x. With return_cells (output, state, tape, cells).

        Raises:
            TypeError, ValueError: as a call; ValueError also for a quantized layer.
        """
        marks = marks_of(resets, reset_state, mask, masked_output)
        return self._packed.forward(
            x,
            state,
            lengths=lengths,
            batch_first=self.batch_first,
            recompute=recompute,
            rng=rng,
            marks=marks,
            return_cells=return_cells,
        )

    def stream(self, batch: int | None = None, *, threads: int = 1, head: Linear | None = None) -> Stream:
        """A stream through this layer, its state zero: see `recurra.Stream`.

            >>> stream = recurra.GRU(12, 64).stream()
            >>> stream.step(np.zeros(12, "float32")).shape
            (64,)

        Args:
            batch: None for one sequence without a batch axis, or the number of sequences that advance together.
            threads: how many threads a step may use, for wide layers; see `recurra.Stream`. On a GPU it uses none.
            head: a `recurra.Linear` after the last layer, so that both are one call; see `recurra.Stream`.
        """
        return self._packed.stream(batch, self.batch_first, threads, head)  # type: ignore[no-any-return]

    def to(
        self,
        device: str,
        *,
        dtype: DTypeLike | None = None,
        engine: str | None = None,
        allow_tf32: bool | None = None,
    ) -> Self:
        """This layer if nothing changes, else one like it elsewhere or in other numbers.

            >>> layer = recurra.LSTM(64, 256).to("cpu", dtype="float64")  # or to("cuda", dtype="bfloat16")
            >>> layer.dtype
            dtype('float64')

        Args:
            device, dtype, engine, allow_tf32: as of a new layer; what is not given stays as it is, engine and
                allow_tf32 from GPU to GPU. Parameters are rounded to the new dtype; those of 16-bit layers are float32,
                so such a layer has to be given a dtype on its way to the CPU.

        Raises:
            TypeError, ValueError: options that do not go together, or a quantized layer.
            RuntimeError: there is no such GPU, or a library is missing.
        """
        packed = self._packed
        place = moved(packed.placement, device, dtype, engine, allow_tf32)
        if place == packed.placement:
            return self
        layer = copy.copy(self)
        layer.__dict__.update(place.attributes, _packed=packed.at(place))
        return layer

    def quantize(self, precision: str, *, keep: Iterable[int] = ()) -> Self:
        """A layer like this one whose packed weights are of reduced precision; inputs, states and outputs stay float32.

            >>> small = recurra.LSTM(12, 64).quantize("int8")
            >>> small(np.zeros((100, 8, 12), "float32"))[0].dtype
            dtype('float32')

        "bfloat16" rounds weight matrices, and the vectors they are multiplied with, to bfloat16 (8 bits of precision,
        ties to even), and adds their products in float32. Machines with AVX512_BF16 do two products at a
        time, others one, with the same bits. "int8" rounds weights to 8 bits with a scale for each unit's row, needs no
        calibration, and multiplies integers: the recurrent vector has the fixed scale 1/127, since it lies in -1..1
        (where it need not, with a projection or relu, it is scaled as the input is); the input has a scale for each row
        and step, its largest value / 127. Biases, peepholes, states and activations stay float32. Both keep the promise
        of the same bits, on AVX2, AVX-512 and NEON; as in full precision, `generic` has bits of its own.

        The unrounded parameters stay: `state_dict` gives them, and `load_state_dict` rounds new ones.

        How much int8 loses depends on the range of a layer's input: little is left of numbers far below the largest of
        their step. Where the first layer reads such numbers, powers in frequency bands for example, `keep=[0]` removes
        most of the error at a part of the cost.

            small = lstm.quantize("int8", keep=[0])

        Args:
            precision: "bfloat16" or "int8".
            keep: the layers, counted from 0, that stay in float32, in both directions; default none.

        Raises:
            ValueError: another precision, a float64 layer, parameters that are not finite (int8), no such layer to
                keep.
            TypeError: `keep` holds something other than integers.
        """
        choice("precision", precision, dict.fromkeys(("bfloat16", "int8")))
        layer = copy.copy(self)
        packed = self._packed.with_precision(precision, keep)
        layer.__dict__.update(precision=precision, keep=packed.keep, _packed=packed)
        return layer

    def state_dict(self) -> dict[str, Array]:
        """Torch's names to copies of the parameters, NumPy arrays on the CPU; float32 also for 16-bit layers.

        >>> {name: array.shape for name, array in recurra.GRU(12, 64, bias=False).state_dict().items()}
        {'weight_ih_l0': (192, 12), 'weight_hh_l0': (192, 64)}
        """
        return self._packed.parameters

    def load_state_dict(self, state_dict: Mapping[str, Input]) -> None:
        """Replace all parameters, by copies of NumPy, torch or other DLPack arrays of the layer's dtype (float32 for
        16-bit layers). On a GPU they may also be C-contiguous arrays on it.

            >>> layer, trained = recurra.GRU(12, 64, seed=0), recurra.GRU(12, 64, seed=1)
            >>> layer.load_state_dict(trained.state_dict())

        Calls in other threads finish with the old parameters, and existing streams keep them.

        Raises:
            ValueError: lists all that is missing, unexpected, misshapen or of another dtype; the layer is unchanged.
            TypeError: `state_dict` is not a mapping.
        """
        self.__dict__["_packed"] = self._packed.with_parameters(state_dict, "state_dict")

    @property
    def parameter_count(self) -> int:
        """Number of values in all parameters.

        >>> recurra.LSTM(12, 64).parameter_count
        19968
        """
        return sum(map(math.prod, self._packed.shapes.values()))

    def __getattr__(self, name: str) -> Array:
        if not name.startswith("_") and name in self._packed.shapes:
            array = self._packed.parameter(name)
            array.flags.writeable = False  # what is written to a copy would be lost
            return array.view()  # which, unlike an array that owns its memory, cannot be made writeable again
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._packed.shapes]

    def __repr__(self) -> str:
        import inspect  # here, so that importing recurra is quick

        shown = []
        for name, parameter in inspect.signature(type(self)).parameters.items():
            if name == "direction" and self.bidirectional:
                continue
            if name in self.__dict__ and (value := self.__dict__[name]) != parameter.default:
                text = repr(str(value) if name == "dtype" else value)
                shown.append(text if parameter.default is parameter.empty else f"{name}={text}")
        keep = f", keep={list(self.keep)}" if self.keep else ""
        precision = f".quantize({self.precision!r}{keep})" if self.precision else ""
        return f"{type(self).__name__}({', '.join(shown)}){precision}"
