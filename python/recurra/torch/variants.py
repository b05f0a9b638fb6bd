"""The layers of `recurra` that torch.nn has not, as modules."""

from __future__ import annotations

from typing import Any

import torch

from .._cells import (
    chosen_direction,
    differential_cell,
    indrnn_cell,
    min_gru_cell,
    min_lstm_cell,
    multiplicative_lstm_cell,
    slstm_cell,
    sru_cell,
)
from .modules import _Layers

__all__ = ["SLSTM", "SRU", "DifferentialRNN", "IndRNN", "MinGRU", "MinLSTM", "MultiplicativeLSTM"]


class _Variant(_Layers, torch.nn.RNNBase):  # type: ignore[misc,unused-ignore]
    """What they share: they are made and called as torch.nn.GRU, and torch.nn.RNNBase keeps their parameters."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        direction: str = "forward",
        initial_state: bool = False,
        grad_clip: float | None = None,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, ...] = 0.0,
        recompute: bool = False,
        engine: str = "auto",
        allow_tf32: bool = False,
    ) -> None:
        way = chosen_direction(bidirectional, direction)
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, way, 0)
        noise, on_gpu, states = (recurrent_dropout, zoneout), (engine, allow_tf32), (initial_state, grad_clip)
        self._make(type(self).__name__, shape, device, dtype, recompute, noise, on_gpu, states)

    def _choose(self, cell: str, **options: Any) -> None:
        self.__dict__.update(options, _cell=cell, _constants={})


class MultiplicativeLSTM(_Variant):
    """`recurra.MultiplicativeLSTM` as a module.

        >>> rnn = recurra.torch.MultiplicativeLSTM(40, 128, form="paper")
        >>> output, (h_n, c_n) = rnn(input)

    Args, besides those of torch.nn.GRU:
        form, bias_at: as of `recurra.MultiplicativeLSTM`.
        direction, initial_state, grad_clip, recurrent_dropout, zoneout, recompute, engine, allow_tf32: as of `LSTM`.
    """

    form: str = "standard"
    bias_at: str = "candidate"

    def __init__(self, *args: Any, form: str = "standard", bias_at: str = "candidate", **options: Any) -> None:
        self._choose(multiplicative_lstm_cell(form, bias_at), form=form, bias_at=bias_at)
        super().__init__(*args, **options)


class DifferentialRNN(_Variant):
    """`recurra.DifferentialRNN` as a module.

        >>> rnn = recurra.torch.DifferentialRNN(40, 128, orders=(0, 1))
        >>> output, (h_n, d0_n, d1_n) = rnn(input)

    Args, besides those of torch.nn.GRU:
        orders: as of `recurra.DifferentialRNN`, which decides how many states there are.
        direction, initial_state, grad_clip, recurrent_dropout, zoneout, recompute, engine, allow_tf32: as of `LSTM`.
    """

    orders: tuple[int, ...] = (1,)

    def __init__(self, *args: Any, orders: tuple[int, ...] = (1,), **options: Any) -> None:
        self._choose(differential_cell(orders, True), orders=orders)
        super().__init__(*args, **options)


class SLSTM(_Variant):
    """`recurra.SLSTM` as a module.

        >>> rnn = recurra.torch.SLSTM(40, 128, heads=4)
        >>> output, (h_n, c_n, n_n, m_n) = rnn(input)

    Args, besides those of torch.nn.GRU:
        heads, forget: as of `recurra.SLSTM`.
        direction, grad_clip, recurrent_dropout, zoneout, recompute, engine, allow_tf32: as of `LSTM`.
    """

    forget: str = "sigmoid"

    def __init__(self, *args: Any, heads: int = 1, forget: str = "sigmoid", **options: Any) -> None:
        self._choose(slstm_cell(forget), forget=forget, heads=heads)
        super().__init__(*args, **options)


class IndRNN(_Variant):
    """`recurra.IndRNN` as a module.

        >>> rnn = recurra.torch.IndRNN(40, 128, num_layers=3)
        >>> output, h_n = rnn(input)

    Args, besides those of torch.nn.GRU:
        nonlinearity: "relu" or "tanh".
        direction, initial_state, grad_clip, zoneout, recompute, engine, allow_tf32: as of `LSTM`. There is no recurrent
            product for recurrent_dropout.
    """

    nonlinearity: str = "relu"

    def __init__(self, *args: Any, nonlinearity: str = "relu", **options: Any) -> None:
        self._choose(indrnn_cell(nonlinearity), nonlinearity=nonlinearity)
        super().__init__(*args, **options)


class MinGRU(_Variant):
    """`recurra.MinGRU` as a module.

        >>> rnn = recurra.torch.MinGRU(40, 128)
        >>> output, h_n = rnn(input)

    Args, besides those of torch.nn.GRU:
        candidate: "linear" or "positive", as of `recurra.MinGRU`.
        direction, initial_state, grad_clip, zoneout, recompute, engine, allow_tf32: as of `LSTM`. There is no recurrent
            product for recurrent_dropout.
    """

    candidate: str = "linear"

    def __init__(self, *args: Any, candidate: str = "linear", **options: Any) -> None:
        self._choose(min_gru_cell(candidate), candidate=candidate)
        super().__init__(*args, **options)


class MinLSTM(_Variant):
    """`recurra.MinLSTM` as a module.

        >>> rnn = recurra.torch.MinLSTM(40, 128)
        >>> output, h_n = rnn(input)

    Args, besides those of torch.nn.GRU:
        candidate: "linear" or "positive", as of `recurra.MinLSTM`.
        direction, initial_state, grad_clip, zoneout, recompute, engine, allow_tf32: as of `LSTM`. There is no recurrent
            product for recurrent_dropout.
    """

    candidate: str = "linear"

    def __init__(self, *args: Any, candidate: str = "linear", **options: Any) -> None:
        self._choose(min_lstm_cell(candidate), candidate=candidate)
        super().__init__(*args, **options)


class SRU(_Variant):
    """`recurra.SRU` as a module.

        >>> rnn = recurra.torch.SRU(40, 128)
        >>> output, (h_n, c_n) = rnn(input)

    Args, besides those of torch.nn.GRU:
        nonlinearity: "identity" or "tanh", as of `recurra.SRU`.
        direction, initial_state, grad_clip, zoneout, recompute, engine, allow_tf32: as of `LSTM`. There is no recurrent
            product for recurrent_dropout.
    """

    nonlinearity: str = "identity"

    def __init__(self, *args: Any, nonlinearity: str = "identity", **options: Any) -> None:
        self._choose(sru_cell(nonlinearity), nonlinearity=nonlinearity)
        super().__init__(*args, **options)
