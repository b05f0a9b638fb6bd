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
    resets     bool [T, B], with batch_first [B, T], or [T]: before such a step states become zero, or reset_state
    mask       likewise: steps that are False are left out; masked_output "previous" repeats the last output there,
               "zero" does not (both as of `Recurrent.__call__`)
    out        where to write the output: a writeable array of its shape and dtype whose last axis is contiguous

Arrays are NumPy's, or of any library that shares CPU memory through DLPack; they may be strided and read-only. All are
of one dtype, that of the parameters, float32 or float64. Nothing is cast or copied to another device: TypeError is
raised for a wrong dtype or kind of object, ValueError for a wrong shape, length, value or device and for an `out` that
overlaps an input. Returned states are new arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays import as_array, check_distinct, detached
from ._arrays import unwrapped as unwrapped
from ._arrays import wrapped as wrapped
from ._cells import (
    SEQUENCE_CELLS,
    Regularization,
    differential_cell,
    gru_cell,
    gru_choice,
    indrnn_cell,
    lstm_cell,
    lstm_choice,
    min_gru_cell,
    min_lstm_cell,
    multiplicative_lstm_cell,
    rnn_choice,
    slstm_cell,
    sru_cell,
)
from ._marks import PREVIOUS, marks_of
from ._options import mapping
from .packed import Packed, pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ._arrays import Array, Input
    from .activation import Activations
    from .packed import State

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
    "slstm",
    "sru",
]


def run(
    packed: Packed,
    x: Input,
    state: State | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    resets: Input | None = None,
    reset_state: State | None = None,
    mask: Input | None = None,
    masked_output: str = PREVIOUS,
    out: Input | None = None,
    batch_first: bool = False,
    return_cells: bool = False,
) -> tuple[Any, ...]:
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
        resets, reset_state, mask, masked_output: as of `Recurrent.__call__`.
        out: array to write the output to, and to return. Must not overlap x or the state.
        batch_first: x and output are [B, T, ...] instead of [T, B, ...].
        return_cells: also return c of every step, as `Recurrent.__call__` does.
    """
    marks = marks_of(resets, reset_state, mask, masked_output)
    options: dict[str, Any] = {"out": out, "batch_first": batch_first, "return_cells": return_cells}
    return _known(packed).run(x, state, lengths=lengths, marks=marks, **options)


def forward(
    packed: Packed,
    x: Input,
    state: State | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    resets: Input | None = None,
    reset_state: State | None = None,
    mask: Input | None = None,
    masked_output: str = PREVIOUS,
    batch_first: bool = False,
    recompute: bool = False,
    rng: int | np.random.Generator | None = None,
    return_cells: bool = False,
) -> tuple[Any, ...]:
    """As `run`, for training: returns (output, final state, tape); see `Recurrent.forward`.

    >>> packed = functional.pack("gru", recurra.GRU(12, 64).state_dict())
    >>> y, h, tape = functional.forward(packed, np.ones((100, 8, 12), "float32"))
    >>> tape.backward(np.ones_like(y)).x.shape
    (100, 8, 12)
    """
    marks = marks_of(resets, reset_state, mask, masked_output)
    options: dict[str, Any] = {"recompute": recompute, "rng": rng, "batch_first": batch_first}
    options["return_cells"] = return_cells
    return _known(packed).forward(x, state, lengths=lengths, marks=marks, **options)


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
    resets: Input | None = None,
    reset_state: State | None = None,
    mask: Input | None = None,
    masked_output: str = PREVIOUS,
    out: Input | None = None,
    batch_first: bool = False,
    coupled: bool | str = False,
    cell_clip: float | None = None,
    activation: Activations = "tanh",
    recurrent_activation: Activations = "sigmoid",
    output_activation: Activations | None = None,
    clip: float | None = None,
) -> tuple[Array, tuple[Array, Array]]:
    """LSTM over whole sequences; returns (output, (h, c)). Equations, options: `recurra.LSTM`; shapes: the module.

        >>> params = recurra.LSTM(12, 64, peephole=True).state_dict()
        >>> y, (h, c) = functional.lstm(np.zeros((100, 8, 12), "float32"), params, cell_clip=5.0)
        >>> y.shape, h.shape, c.shape
        ((100, 8, 64), (1, 8, 64), (1, 8, 64))

    Peepholes, a projection, its bias and layer normalisation are used if `params` holds weight_peep_l0, weight_hr_l0,
    bias_hr_l0, gamma_x_l0. A `Packed` in place of the mapping must have been packed for the same cell and constants,
    else ValueError.
    """
    params, names = _names(params)
    cell = lstm_cell(coupled, "weight_peep_l0" in names, "weight_hr_l0" in names, "gamma_x_l0" in names)
    own = (activation, recurrent_activation, output_activation)
    cell, constants = lstm_choice(cell, cell_clip, own, clip, "weight_ih_l0_reverse" in names)
    marks = marks_of(resets, reset_state, mask, masked_output)
    packed = _packed(cell, params, out, constants)
    y, final = _known(packed).run(x, state, lengths=lengths, out=out, batch_first=batch_first, marks=marks)
    return y, final


def gru(
    x: Input,
    params: Mapping[str, Input] | Packed,
    state: Input | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    resets: Input | None = None,
    reset_state: State | None = None,
    mask: Input | None = None,
    masked_output: str = PREVIOUS,
    out: Input | None = None,
    batch_first: bool = False,
    reset: str = "after",
    update: str = "keep",
    activation: Activations = "tanh",
    recurrent_activation: Activations = "sigmoid",
    clip: float | None = None,
) -> tuple[Array, Array]:
    """GRU over whole sequences; returns (output, h). Equations, options: `recurra.GRU`; shapes: the module.

    >>> params = recurra.GRU(12, 64).state_dict()
    >>> y, h = functional.gru(np.zeros((100, 8, 12), "float32"), params, reset="after")
    >>> y.shape, h.shape
    ((100, 8, 64), (1, 8, 64))

    Layer normalisation is used if `params` holds gamma_x_l0.
    """
    params, names = _names(params)
    standard, both = gru_cell(reset, update, "gamma_x_l0" in names), "weight_ih_l0_reverse" in names
    cell, constants = gru_choice(standard, activation, recurrent_activation, clip, both)
    marks = marks_of(resets, reset_state, mask, masked_output)
    packed = _packed(cell, params, out, constants)
    y, final = _known(packed).run(x, state, lengths=lengths, out=out, batch_first=batch_first, marks=marks)
    return y, final


def rnn(
    x: Input,
    params: Mapping[str, Input] | Packed,
    state: Input | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    resets: Input | None = None,
    reset_state: State | None = None,
    mask: Input | None = None,
    masked_output: str = PREVIOUS,
    out: Input | None = None,
    batch_first: bool = False,
    nonlinearity: Activations = "tanh",
    clip: float | None = None,
) -> tuple[Array, Array]:
    """Elman RNN over whole sequences; returns (output, h). Equations: `recurra.RNN`; shapes: the module.

    >>> params = recurra.RNN(12, 64).state_dict()
    >>> y, h = functional.rnn(np.zeros((100, 8, 12), "float32"), params, nonlinearity="tanh")
    >>> y.shape, h.shape
    ((100, 8, 64), (1, 8, 64))
    """
    params, names = _names(params)
    cell, constants = rnn_choice(nonlinearity, clip, "weight_ih_l0_reverse" in names)
    marks = marks_of(resets, reset_state, mask, masked_output)
    packed = _packed(cell, params, out, constants)
    y, final = _known(packed).run(x, state, lengths=lengths, out=out, batch_first=batch_first, marks=marks)
    return y, final


def multiplicative_lstm(
    x: Input,
    params: Mapping[str, Input] | Packed,
    state: tuple[Input, Input] | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    resets: Input | None = None,
    reset_state: State | None = None,
    mask: Input | None = None,
    masked_output: str = PREVIOUS,
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
    marks = marks_of(resets, reset_state, mask, masked_output)
    packed = _packed(multiplicative_lstm_cell(form, bias_at), params, out)
    y, final = _known(packed).run(x, state, lengths=lengths, out=out, batch_first=batch_first, marks=marks)
    return y, final


def differential_rnn(
    x: Input,
    params: Mapping[str, Input] | Packed,
    state: tuple[Input, ...] | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    resets: Input | None = None,
    reset_state: State | None = None,
    mask: Input | None = None,
    masked_output: str = PREVIOUS,
    out: Input | None = None,
    batch_first: bool = False,
    orders: tuple[int, ...] = (1,),
    diagonal: bool = True,
) -> tuple[Array, tuple[Array, ...]]:
    """Differential RNN over whole sequences; returns (output, state). Equations, options:
    `recurra.DifferentialRNN`; shapes: the module.

    >>> params = recurra.DifferentialRNN(12, 64).state_dict()
    >>> y, (h, d0, d1) = functional.differential_rnn(np.zeros((100, 8, 12), "float32"), params)
    >>> y.shape, h.shape
    ((100, 8, 64), (1, 8, 64))
    """
    marks = marks_of(resets, reset_state, mask, masked_output)
    packed = _packed(differential_cell(orders, diagonal), params, out)
    y, final = _known(packed).run(x, state, lengths=lengths, out=out, batch_first=batch_first, marks=marks)
    return y, final


def slstm(
    x: Input,
    params: Mapping[str, Input] | Packed,
    state: tuple[Input, ...] | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    resets: Input | None = None,
    reset_state: State | None = None,
    mask: Input | None = None,
    masked_output: str = PREVIOUS,
    out: Input | None = None,
    batch_first: bool = False,
    forget: str = "sigmoid",
) -> tuple[Array, tuple[Array, ...]]:
    """sLSTM over whole sequences; returns (output, state). Equations, options: `recurra.SLSTM`; shapes: the module.

    >>> params = recurra.SLSTM(12, 64, heads=4).state_dict()
    >>> y, (h, c, n, m) = functional.slstm(np.zeros((100, 8, 12), "float32"), params)
    >>> y.shape, h.shape
    ((100, 8, 64), (1, 8, 64))

    The number of heads is told by the shape of weight_hh_l0, [4H, H / heads].
    """
    marks = marks_of(resets, reset_state, mask, masked_output)
    packed = _packed(slstm_cell(forget), params, out)
    y, final = _known(packed).run(x, state, lengths=lengths, out=out, batch_first=batch_first, marks=marks)
    return y, final


def indrnn(
    x: Input,
    params: Mapping[str, Input] | Packed,
    state: Input | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    resets: Input | None = None,
    reset_state: State | None = None,
    mask: Input | None = None,
    masked_output: str = PREVIOUS,
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
    marks = marks_of(resets, reset_state, mask, masked_output)
    packed = _packed(indrnn_cell(nonlinearity), params, out)
    y, final = _known(packed).run(x, state, lengths=lengths, out=out, batch_first=batch_first, marks=marks)
    return y, final


def min_gru(
    x: Input,
    params: Mapping[str, Input] | Packed,
    state: Input | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    resets: Input | None = None,
    reset_state: State | None = None,
    mask: Input | None = None,
    masked_output: str = PREVIOUS,
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
    marks = marks_of(resets, reset_state, mask, masked_output)
    packed = _packed(min_gru_cell(candidate), params, out)
    y, final = _known(packed).run(x, state, lengths=lengths, out=out, batch_first=batch_first, marks=marks)
    return y, final


def min_lstm(
    x: Input,
    params: Mapping[str, Input] | Packed,
    state: Input | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    resets: Input | None = None,
    reset_state: State | None = None,
    mask: Input | None = None,
    masked_output: str = PREVIOUS,
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
    marks = marks_of(resets, reset_state, mask, masked_output)
    packed = _packed(min_lstm_cell(candidate), params, out)
    y, final = _known(packed).run(x, state, lengths=lengths, out=out, batch_first=batch_first, marks=marks)
    return y, final


def sru(
    x: Input,
    params: Mapping[str, Input] | Packed,
    state: tuple[Input, Input] | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    resets: Input | None = None,
    reset_state: State | None = None,
    mask: Input | None = None,
    masked_output: str = PREVIOUS,
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
    marks = marks_of(resets, reset_state, mask, masked_output)
    packed = _packed(sru_cell(nonlinearity), params, out)
    y, final = _known(packed).run(x, state, lengths=lengths, out=out, batch_first=batch_first, marks=marks)
    return y, final


def _names(params: Mapping[str, Input] | Packed) -> tuple[Mapping[str, Input] | Packed, Iterable[str]]:
    """`params` if it is one or the other, and the names in it."""
    if isinstance(params, Packed):
        return params, params.shapes
    params = mapping("params", params)
    return params, params


def _packed(
    cell: str, params: Mapping[str, Input] | Packed, out: object, constants: Mapping[str, float] | None = None
) -> Packed:
    """`params` packed for these options, or found to be so already."""
    if isinstance(params, Packed):
        dtype, directions = params.placement.parameter_dtype, params.sizes.directions
        want, have = SEQUENCE_CELLS[cell].constant_values(constants, dtype, directions), dict(params.constants)
        if (params.cell, have) != (cell, want):
            raise ValueError(f"params: expected {cell!r} with constants {want}, got {params.cell!r} packed with {have}")
        return params
    params = mapping("params", params)
    packed = pack(cell, params, constants)
    if isinstance(out, np.ndarray):
        check_distinct(out, {name: as_array(name, detached(value)) for name, value in params.items()})
    return packed
