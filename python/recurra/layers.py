"""Layers: torch.nn's recurrent layers."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from . import functional
from ._arrays import require_memory
from ._cells import CELLS, Sizes, gru_cell, lstm_cell, lstm_constants, rnn_cell
from ._fixed import Fixed
from ._options import choice, flag, float_dtype, generator, integer, mapping, real, shown
from .packed import Packed
from .stream import Stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import DTypeLike
    from typing_extensions import Self

    from ._arrays import Array, Input
    from ._options import Seed
    from .heads import Linear
    from .packed import State
    from .tape import Tape

__all__ = ["GRU", "LSTM", "RNN", "Recurrent"]


class Recurrent(Fixed):
    """A stack of layers of one cell, any of `recurra.cells()`. RNN, LSTM and GRU translate their options to a cell.

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
        constants: values for the cell's constants, for example {"cell_clip": 5.0}.
        recurrent_dropout: variational dropout: probability that in training a number of h(t-1) counts as 0 in the
            recurrent product, the same numbers at all steps of a sequence (Gal, Ghahramani 2016, arXiv:1512.05287).
            With reset="before" that is the product of the gates; the candidate's r * h is not masked.
        zoneout: probability that in training a unit keeps its old state in a step; a number for all states, or for
            LSTMs a pair (of h, of c). Without rng, and in calls and streams, each unit keeps that share of its old
            state, the expectation (Krueger et al. 2017, arXiv:1606.01305).
            What `forward` leaves out at random depends on the seed, the layer, the step and the row's number in the
            batch: a row that is run alone has the masks of row 0.
        dtype: float32 or float64, of parameters, inputs and outputs.
        seed: for numpy.random.default_rng; default fresh entropy.
        rng: the numpy.random.Generator to draw from, in place of a seed.

    Parameters start uniform in +-1/sqrt(H), as torch's do.

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
    zoneout: float | tuple[float, float]
    bidirectional: bool
    proj_size: int
    constants: dict[str, float] | None
    dtype: np.dtype[Any]
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
        constants: Mapping[str, float] | None = None,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        dtype: DTypeLike = "float32",
        seed: Seed = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        spec = choice("cell", cell, CELLS)
        constants = None if constants is None else mapping("constants", constants)
        hidden, proj = integer("hidden_size", hidden_size), integer("proj_size", proj_size, 0)
        if proj >= hidden:
            raise ValueError(f"proj_size: expected less than hidden_size={hidden}, got {proj}")
        if bool(proj) != spec.projected:
            wanted = "at least 1" if spec.projected else "0"
            raise ValueError(f"proj_size: expected {wanted} for cell {cell!r}, got {proj}")
        sizes = Sizes(
            input=integer("input_size", input_size),
            hidden=hidden,
            output=proj or hidden,
            layers=integer("num_layers", num_layers),
            directions=2 if flag("bidirectional", bidirectional) else 1,
            bias=flag("bias", bias),
        )
        rates = spec.regularization(dropout, recurrent_dropout, zoneout)
        values_dtype = float_dtype("dtype", dtype)
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
            "bidirectional": bool(bidirectional),
            "proj_size": proj,
            "constants": constants or None,
            "dtype": values_dtype,
        }
        spec.constant_values(constants, values_dtype)
        random = generator(seed, rng)
        what = f"input_size={shown(sizes.input)}, hidden_size={shown(hidden)}, num_layers={shown(sizes.layers)}"
        copies = 2  # initial and packed
        require_memory(what, copies * spec.parameter_count(sizes) * values_dtype.itemsize)
        bound = 1 / math.sqrt(hidden)
        initial = {
            name: random.uniform(-bound, bound, shape).astype(values_dtype)
            for name, shape in spec.shapes(sizes).items()
        }
        packed = Packed(spec, sizes, values_dtype, initial, constants, None, rates)
        self.__dict__.update(configuration, precision=None, keep=(), _packed=packed)

    def __call__(
        self,
        x: Input,
        state: State | None = None,
        *,
        lengths: Sequence[int] | Input | None = None,
        out: Array | None = None,
    ) -> tuple[Array, State]:
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
            state: initial state, default zeros: h [L*D, B, O], for LSTMs the tuple (h, c) with c [L*D, B, H]; without
                a batch axis if x has none. O is proj_size or else hidden_size.
            lengths: valid steps of each sequence, B integers in 0..T in any order. Outputs past them are zero, the
                final state is that after each sequence's own last step (the initial one if there is none), and the
                reverse direction starts there. Batched x only.
            out: array to write the output to; writeable, last axis contiguous, sharing no memory with x or state.

        Returns:
            (output, state): output, as x with D*O in place of I (`out` if that was given), and the final state, new.

        Raises:
            TypeError: wrong dtype or kind of object.
            ValueError: wrong shape, length, device, or unusable `out`.
        """
        return functional.run(self._packed, x, state, lengths=lengths, out=out, batch_first=self.batch_first)

    def forward(
        self,
        x: Input,
        state: State | None = None,
        *,
        lengths: Sequence[int] | Input | None = None,
        recompute: bool = False,
        rng: int | np.random.Generator | None = None,
    ) -> tuple[Array, State, Tape]:
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
            x, state, lengths: as of a call. x is copied.
            recompute: keep only the states of all steps and compute gates again in backward, to the same bits: 2
                values per unit and step instead of 6 (LSTM), 1 instead of 5 (GRU), for about a third more time. (With
                lengths, dropout or both directions a stack also keeps what each layer passes to the next.)
            rng: what dropout and zoneout draw from: a Generator, or a seed in 0..2**64-1, which draws the same every
                time. Default None: nothing is left out. Draws are hashes of their position and are not stored.

        Returns:
            (output, state, tape): the first two as a call's, and a `recurra.tape.Tape`.

        Raises:
            TypeError, ValueError: as a call; ValueError also for a quantized layer.
        """
        return functional.forward(
            self._packed, x, state, lengths=lengths, batch_first=self.batch_first, recompute=recompute, rng=rng
        )

    def stream(self, batch: int | None = None, *, threads: int = 1, head: Linear | None = None) -> Stream:
        """A stream through this layer, its state zero: see `recurra.Stream`.

            >>> stream = recurra.GRU(12, 64).stream()
            >>> stream.step(np.zeros(12, "float32")).shape
            (64,)

        Args:
            batch: None for one sequence without a batch axis, or the number of sequences that advance together.
            threads: how many threads a step may use, for wide layers; see `recurra.Stream`.
            head: a `recurra.Linear` after the last layer, so that both are one call; see `recurra.Stream`.
        """
        return Stream(self._packed, batch, self.batch_first, threads, head)

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
        """Torch's names to copies of the parameters."""
        return self._packed.parameters

    def load_state_dict(self, state_dict: Mapping[str, Input]) -> None:
        """Replace all parameters, by copies of NumPy, torch or other DLPack arrays of the layer's dtype.

        Calls in other threads finish with the old parameters, and existing streams keep them.

        Raises:
            ValueError: lists all that is missing, unexpected, misshapen or of another dtype; the layer is unchanged.
            TypeError: `state_dict` is not a mapping.
        """
        self.__dict__["_packed"] = self._packed.with_parameters(state_dict, "state_dict")

    @property
    def parameter_count(self) -> int:
        """Number of values in all parameters."""
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
            if name in self.__dict__ and (value := self.__dict__[name]) != parameter.default:
                text = repr(str(value) if name == "dtype" else value)
                shown.append(text if parameter.default is parameter.empty else f"{name}={text}")
        keep = f", keep={list(self.keep)}" if self.keep else ""
        precision = f".quantize({self.precision!r}{keep})" if self.precision else ""
        return f"{type(self).__name__}({', '.join(shown)}){precision}"


class LSTM(Recurrent):
    """Long short-term memory, with torch.nn.LSTM's signature, parameters and results.

        >>> layer = recurra.LSTM(input_size=12, hidden_size=64, num_layers=2, bidirectional=True)
        >>> y, (h, c) = layer(np.zeros((100, 8, 12), "float32"))
        >>> y.shape, h.shape, c.shape
        ((100, 8, 128), (4, 8, 64), (4, 8, 64))

    With A = x @ weight_ih^T + bias_ih + h @ weight_hh^T + bias_hh, cut into blocks of H values in the order i, f, g, o:

        i  = sigmoid(A_i)               f  = sigmoid(A_f)               g = tanh(A_g)
        c' = f * c + i * g
        o  = sigmoid(A_o)
        h' = o * tanh(c')

    (Hochreiter, Schmidhuber 1997, Neural Computation 9(8); with the forget gate of Gers, Schmidhuber, Cummins 2000,
    Neural Computation 12(10).)

    Args, besides those of `Recurrent` (no cell, constants):
        proj_size: P > 0 makes h' = (o * tanh(c')) @ weight_hr^T with weight_hr [P, H] (Sak, Senior, Beaufays 2014,
            Interspeech).
        peephole: gates see the cell: A_i + p_i * c, A_f + p_f * c, A_o + p_o * c', with weight_peep = [p_i; p_f; p_o]
            (Gers, Schraudolph, Schmidhuber 2002, JMLR 3).
        coupled: True or "i_from_f": i = 1 - f, blocks f, g, o, weight_peep = [p_f; p_o]. "f_from_i": f = 1 - i, blocks
            i, g, o, weight_peep = [p_i; p_o] (Greff et al. 2015, arXiv:1503.04069).
        cell_clip: bounds c' to +-cell_clip before o and h' see it; positive, default none.
        forget_bias: initial value of the forget gate's bias_ih, its bias_hh being 0 then; 1.0 is the usual advice
            (Jozefowicz, Zaremba, Sutskever 2015, ICML). With "f_from_i" the input gate's is minus that.
    """

    peephole: bool
    coupled: bool | str
    cell_clip: float | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        peephole: bool = False,
        coupled: bool | str = False,
        cell_clip: float | None = None,
        forget_bias: float | None = None,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        dtype: DTypeLike = "float32",
        seed: Seed = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        if forget_bias is not None:
            forget_bias, largest = real("forget_bias", forget_bias), float(np.finfo(float_dtype("dtype", dtype)).max)
            if abs(forget_bias) > largest:
                raise ValueError(f"forget_bias: expected at most {largest:.3g} either way, got {forget_bias}")
            if not flag("bias", bias):
                raise ValueError(f"forget_bias: expected None with bias=False, got {forget_bias}")
        cell = lstm_cell(coupled, peephole, projected=integer("proj_size", proj_size, 0) > 0)
        constants = lstm_constants(cell_clip)
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size)
        noise: dict[str, Any] = {"recurrent_dropout": recurrent_dropout, "zoneout": zoneout}
        super().__init__(cell, *shape, constants=constants, dtype=dtype, seed=seed, rng=rng, **noise)
        self.__dict__.update(peephole=bool(peephole), coupled=coupled, cell_clip=cell_clip)
        if forget_bias is not None:
            self.load_state_dict(self._with_forget_bias(forget_bias))

    def _with_forget_bias(self, value: float) -> dict[str, Array]:
        gates = CELLS[self.cell].gates
        # Without a forget block f = 1 - i = sigmoid(-A_i): the input gate's bias decides.
        gate, bias_ih = ("f", value) if "f" in gates else ("i", -value)
        start = gates.index(gate) * self.hidden_size
        parameters = self.state_dict()
        for name, array in parameters.items():
            if name.startswith("bias_"):
                array[start : start + self.hidden_size] = bias_ih if name.startswith("bias_ih") else 0
        return parameters


class GRU(Recurrent):
    """Gated recurrent unit, with torch.nn.GRU's signature, parameters and, by default, results.

        >>> layer = recurra.GRU(input_size=12, hidden_size=64)
        >>> y, h = layer(np.zeros((100, 12), "float32"))  # one sequence without a batch axis
        >>> y.shape, h.shape
        ((100, 64), (1, 64))

    With X = x @ weight_ih^T + bias_ih and R = h @ weight_hh^T + bias_hh, cut into blocks of H values, order r, z, n:

        r  = sigmoid(X_r + R_r)         z = sigmoid(X_z + R_z)
        n  = tanh(X_n + r * R_n)                                        reset="after"
        n  = tanh(X_n + (r * h) @ weight_hh_n^T + bias_hh_n)            reset="before"
        h' = z * h + (1 - z) * n                                        update="keep"
        h' = (1 - z) * h + z * n                                        update="write"

    (Cho et al. 2014, arXiv:1406.1078: "before" in its version 3, "after" in its version 1; "write" is the h' of Chung
    et al. 2014, arXiv:1412.3555. torch and cuDNN have after and keep; ONNX, by default, before and keep.)

    Args, besides those of `Recurrent` (no cell, proj_size, constants):
        reset: whether the reset gate acts "after" or "before" the recurrent product.
        update: whether z says how much of the old state to "keep" or how much of the candidate to "write".
    """

    reset: str
    update: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        reset: str = "after",
        update: str = "keep",
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        dtype: DTypeLike = "float32",
        seed: Seed = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        noise: dict[str, Any] = {"recurrent_dropout": recurrent_dropout, "zoneout": zoneout}
        super().__init__(gru_cell(reset, update), *shape, dtype=dtype, seed=seed, rng=rng, **noise)
        self.__dict__.update(reset=reset, update=update)


class RNN(Recurrent):
    """Elman's recurrent network, with torch.nn.RNN's signature, parameters and results.

        >>> layer = recurra.RNN(input_size=12, hidden_size=64, nonlinearity="relu")
        >>> y, h = layer(np.zeros((100, 8, 12), "float32"))
        >>> y.shape, h.shape
        ((100, 8, 64), (1, 8, 64))

        h' = f(x @ weight_ih^T + bias_ih + h @ weight_hh^T + bias_hh)

    (Elman 1990, Cognitive Science 14(2).)

    Args, besides those of `Recurrent` (no cell, proj_size, constants):
        nonlinearity: f, one of "tanh", "relu", "sigmoid".
    """

    nonlinearity: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        dtype: DTypeLike = "float32",
        seed: Seed = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        noise: dict[str, Any] = {"recurrent_dropout": recurrent_dropout, "zoneout": zoneout}
        super().__init__(rnn_cell(nonlinearity), *shape, dtype=dtype, seed=seed, rng=rng, **noise)
        self.__dict__.update(nonlinearity=nonlinearity)
