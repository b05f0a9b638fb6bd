"""The functional core: parameters go in with every call, layers are thin wrappers around it.

    >>> params = recurra.LSTM(12, 64).state_dict()
    >>> x = np.zeros((100, 8, 12), "float32")
    >>> y, (h, c) = functional.lstm(x, params)  # packs the weights again at every call
    >>> packed = functional.pack("lstm", params)  # packs them once ...
    >>> y, (h, c) = functional.lstm(x, packed)  # ... for as many calls and threads as you like

Shapes, in torch's conventions (T steps, B sequences, I = input_size, H = hidden_size, L layers, D directions, O = H or,
with a projection to P values, O = P):

    x          [T, B, I], with batch_first [B, T, I]; one sequence without a batch axis [T, I]
    output     as x with D*O in place of I; forward direction first
    state      h [L*D, B, O], for LSTMs a tuple (h, c) with c [L*D, B, H]; no B axis if x has none; never batch_first
    lengths    B integers in 0..T, in any order: outputs past a sequence's length are zero, its final state is that of
               its own last step (the initial state if it has none), the reverse direction starts at that step
    out        where to write the output: a writeable array of its shape and dtype whose last axis is contiguous

Arrays are NumPy's, or of any library that shares CPU memory through DLPack; they may be strided and read-only. All are
of one dtype, that of the parameters, float32 or float64. Nothing is cast or copied to another device: TypeError is
raised for a wrong dtype or kind of object, ValueError for a wrong shape, length, value or device and for an `out` that
overlaps an input. Returned states are new arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._arrays import as_array, check_distinct, detached
from ._arrays import unwrapped as unwrapped
from ._arrays import wrapped as wrapped
from ._cells import (
    CELLS,
    Regularization,
    differential_cell,
    gru_cell,
    indrnn_cell,
    lstm_cell,
    lstm_constants,
    min_gru_cell,
    min_lstm_cell,
    multiplicative_lstm_cell,
    rnn_cell,
    sru_cell,
)
from ._options import mapping
from .packed import Packed, pack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._arrays import Array, Input
    from .packed import State
    from .tape import Tape

__all__ = [
    "Packed",
    "Regularization",
    "differential_rnn",
    "forward",
    "gru",
    "indrnn",
    "lstm",
    "min_gru",
    "min_lstm",
    "multiplicative_lstm",
    "pack",
    "rnn",
    "run",
    "sru",
]


def run(
    packed: Packed,
    x: Input,
    state: State | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    out: Input | None = None,
    batch_first: bool = False,
) -> tuple[Array, State]:
    """Run a packed network over whole sequences; returns (output, final state). Shapes: see the module.

        >>> packed = functional.pack("gru", recurra.GRU(12, 64).state_dict())
        >>> y, h = functional.run(packed, np.zeros((100, 8, 12), "float32"))
        >>> y.shape, h.shape
        ((100, 8, 64), (1, 8, 64))

    Args:
        packed: made by `pack`.
        x: input.
        state: initial state, default zeros.
        lengths: valid steps of each sequence, default all. No step beyond them is computed. Batched input only.
        out: array to write the output to, and to return. Must not overlap x or the state.
        batch_first: x and output are [B, T, ...] instead of [T, B, ...].
    """
    return _known(packed).run(x, state, lengths=lengths, out=out, batch_first=batch_first)


def forward(
    packed: Packed,
    x: Input,
    state: State | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    batch_first: bool = False,
    recompute: bool = False,
    rng: int | np.random.Generator | None = None,
) -> tuple[Array, State, Tape]:
    """As `run`, for training: returns (output, final state, tape); see `Recurrent.forward`.

    >>> packed = functional.pack("gru", recurra.GRU(12, 64).state_dict())
    >>> y, h, tape = functional.forward(packed, np.ones((100, 8, 12), "float32"))
    >>> tape.backward(np.ones_like(y)).x.shape
    (100, 8, 12)
    """
    return _known(packed).forward(x, state, lengths=lengths, batch_first=batch_first, recompute=recompute, rng=rng)


def _known(packed: Packed) -> Packed:
    if not isinstance(packed, Packed):
        raise TypeError(f"packed: expected what functional.pack returns, got {type(packed).__name__}")
    return packed


def lstm(
    x: Input,
    params: Mapping[str, Input] | Packed,
    state: tuple[Input, Input] | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    out: Input | None = None,
    batch_first: bool = False,
    coupled: bool | str = False,
    cell_clip: float | None = None,
) -> tuple[Array, tuple[Array, Array]]:
    """LSTM over whole sequences; returns (output, (h, c)). Equations, options: `recurra.LSTM`; shapes: the module.

        >>> params = recurra.LSTM(12, 64, peephole=True).state_dict()
        >>> y, (h, c) = functional.lstm(np.zeros((100, 8, 12), "float32"), params, cell_clip=5.0)
        >>> y.shape, h.shape, c.shape
        ((100, 8, 64), (1, 8, 64), (1, 8, 64))

    Peepholes and a projection are used if `params` holds weight_peep_l0, weight_hr_l0. A `Packed` in place of the
    mapping must have been packed for the same cell and constants, else ValueError.
    """
    params = params if isinstance(params, Packed) else mapping("params", params)
    names = params.shapes if isinstance(params, Packed) else params
    cell = lstm_cell(coupled, "weight_peep_l0" in names, "weight_hr_l0" in names)
    packed = _packed(cell, params, out, lstm_constants(cell_clip))
    return run(packed, x, state, lengths=lengths, out=out, batch_first=batch_first)


def gru(
    x: Input,
    params: Mapping[str, Input] | Packed,
    state: Input | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    out: Input | None = None,
    batch_first: bool = False,
    reset: str = "after",
    update: str = "keep",
) -> tuple[Array, Array]:
    """GRU over whole sequences; returns (output, h). Equations, options: `recurra.GRU`; shapes: the module.

    >>> params = recurra.GRU(12, 64).state_dict()
    >>> y, h = functional.gru(np.zeros((100, 8, 12), "float32"), params, reset="after")
    >>> y.shape, h.shape
    ((100, 8, 64), (1, 8, 64))
    """
    packed = _packed(gru_cell(reset, update), params, out)
    return run(packed, x, state, lengths=lengths, out=out, batch_first=batch_first)


def rnn(
    x: Input,
    params: Mapping[str, Input] | Packed,
    state: Input | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    out: Input | None = None,
    batch_first: bool = False,
    nonlinearity: str = "tanh",
) -> tuple[Array, Array]:
    """Elman RNN over whole sequences; returns (output, h). Equations: `recurra.RNN`; shapes: the module.

    >>> params = recurra.RNN(12, 64).state_dict()
    >>> y, h = functional.rnn(np.zeros((100, 8, 12), "float32"), params, nonlinearity="tanh")
    >>> y.shape, h.shape
    ((100, 8, 64), (1, 8, 64))
    """
    packed = _packed(rnn_cell(nonlinearity), params, out)
    return run(packed, x, state, lengths=lengths, out=out, batch_first=batch_first)


def multiplicative_lstm(
    x: Input,
    params: Mapping[str, Input] | Packed,
    state: tuple[Input, Input] | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    out: Input | None = None,
    batch_first: bool = False,
    form: str = "standard",
    bias_at: str = "candidate",
) -> tuple[Array, tuple[Array, Array]]:
    """Multiplicative LSTM over whole sequences; returns (output, state). Equations, options:
    `recurra.MultiplicativeLSTM`; shapes: the module.

    >>> params = recurra.MultiplicativeLSTM(12, 64).state_dict()
    >>> y, (h, c) = functional.multiplicative_lstm(np.zeros((100, 8, 12), "float32"), params)
    >>> y.shape, h.shape
    ((100, 8, 64), (1, 8, 64))
    """
    packed = _packed(multiplicative_lstm_cell(form, bias_at), params, out)
    return run(packed, x, state, lengths=lengths, out=out, batch_first=batch_first)


def differential_rnn(
    x: Input,
    params: Mapping[str, Input] | Packed,
    state: tuple[Input, ...] | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    out: Input | None = None,
    batch_first: bool = False,
    orders: tuple[int, ...] = (1,),
) -> tuple[Array, tuple[Array, ...]]:
    """Differential RNN over whole sequences; returns (output, state). Equations, options:
    `recurra.DifferentialRNN`; shapes: the module.

    >>> params = recurra.DifferentialRNN(12, 64).state_dict()
    >>> y, (h, d0, d1) = functional.differential_rnn(np.zeros((100, 8, 12), "float32"), params)
    >>> y.shape, h.shape
    ((100, 8, 64), (1, 8, 64))
    """
    packed = _packed(differential_cell(orders, True), params, out)
    return run(packed, x, state, lengths=lengths, out=out, batch_first=batch_first)


def indrnn(
    x: Input,
    params: Mapping[str, Input] | Packed,
    state: Input | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    out: Input | None = None,
    batch_first: bool = False,
    nonlinearity: str = "relu",
) -> tuple[Array, Array]:
    """IndRNN over whole sequences; returns (output, h). Equations, options:
    `recurra.IndRNN`; shapes: the module.

    >>> params = recurra.IndRNN(12, 64).state_dict()
    >>> y, h = functional.indrnn(np.zeros((100, 8, 12), "float32"), params)
    >>> y.shape, h.shape
    ((100, 8, 64), (1, 8, 64))
    """
    packed = _packed(indrnn_cell(nonlinearity), params, out)
    return run(packed, x, state, lengths=lengths, out=out, batch_first=batch_first)


def min_gru(
    x: Input,
    params: Mapping[str, Input] | Packed,
    state: Input | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    out: Input | None = None,
    batch_first: bool = False,
    candidate: str = "linear",
) -> tuple[Array, Array]:
    """minGRU over whole sequences; returns (output, h). Equations, options:
    `recurra.MinGRU`; shapes: the module.

    >>> params = recurra.MinGRU(12, 64).state_dict()
    >>> y, h = functional.min_gru(np.zeros((100, 8, 12), "float32"), params)
    >>> y.shape, h.shape
    ((100, 8, 64), (1, 8, 64))
    """
    packed = _packed(min_gru_cell(candidate), params, out)
    return run(packed, x, state, lengths=lengths, out=out, batch_first=batch_first)


def min_lstm(
    x: Input,
    params: Mapping[str, Input] | Packed,
    state: Input | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    out: Input | None = None,
    batch_first: bool = False,
    candidate: str = "linear",
) -> tuple[Array, Array]:
    """minLSTM over whole sequences; returns (output, h). Equations, options:
    `recurra.MinLSTM`; shapes: the module.

    >>> params = recurra.MinLSTM(12, 64).state_dict()
    >>> y, h = functional.min_lstm(np.zeros((100, 8, 12), "float32"), params)
    >>> y.shape, h.shape
    ((100, 8, 64), (1, 8, 64))
    """
    packed = _packed(min_lstm_cell(candidate), params, out)
    return run(packed, x, state, lengths=lengths, out=out, batch_first=batch_first)


def sru(
    x: Input,
    params: Mapping[str, Input] | Packed,
    state: tuple[Input, Input] | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    out: Input | None = None,
    batch_first: bool = False,
    nonlinearity: str = "identity",
) -> tuple[Array, tuple[Array, Array]]:
    """SRU over whole sequences; returns (output, state). Equations, options:
    `recurra.SRU`; shapes: the module.

    >>> params = recurra.SRU(12, 64).state_dict()
    >>> y, (h, c) = functional.sru(np.zeros((100, 8, 12), "float32"), params)
    >>> y.shape, h.shape
    ((100, 8, 64), (1, 8, 64))
    """
    packed = _packed(sru_cell(nonlinearity), params, out)
    return run(packed, x, state, lengths=lengths, out=out, batch_first=batch_first)


def _packed(
    cell: str, params: Mapping[str, Input] | Packed, out: object, constants: Mapping[str, float] | None = None
) -> Packed:
    """`params` packed for these options, or found to be so already."""
    if isinstance(params, Packed):
        want, have = CELLS[cell].constant_values(constants, params.placement.parameter_dtype), dict(params.constants)
        if (params.cell, have) != (cell, want):
            raise ValueError(f"params: expected {cell!r} with constants {want}, got {params.cell!r} packed with {have}")
        return params
    params = mapping("params", params)
    packed = pack(cell, params, constants)
    if isinstance(out, np.ndarray):
        check_distinct(out, {name: as_array(name, detached(value)) for name, value in params.items()})
    return packed
