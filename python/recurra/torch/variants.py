"""The layers of `recurra` that torch.nn has not, as modules."""

from __future__ import annotations

from typing import Any

import torch

from .._cells import differential_cell, indrnn_cell, min_gru_cell, min_lstm_cell, multiplicative_lstm_cell, sru_cell
from .modules import _Layers

__all__ = ["SRU", "DifferentialRNN", "IndRNN", "MinGRU", "MinLSTM", "MultiplicativeLSTM"]


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
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, ...] = 0.0,
        recompute: bool = False,
        engine: str = "auto",
        allow_tf32: bool = False,
    ) -> None:
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0)
        noise, on_gpu = (recurrent_dropout, zoneout), (engine, allow_tf32)
        self._make(type(self).__name__, shape, device, dtype, recompute, noise, on_gpu)

    def _choose(self, cell: str, **options: Any) -> None:
        self.__dict__.update(options, _cell=cell, _constants={})


class MultiplicativeLSTM(_Variant):
    """`recurra.MultiplicativeLSTM` as a module.

        rnn = recurra.torch.MultiplicativeLSTM(40, 128, form="paper")
        output, (h_n, c_n) = rnn(input)

    Args, besides those of torch.nn.GRU:
        form, bias_at: as of `recurra.MultiplicativeLSTM`.
        recurrent_dropout, zoneout, recompute, engine, allow_tf32: as of `LSTM`.
    """

    form: str = "standard"
    bias_at: str = "candidate"

    def __init__(self, *args: Any, form: str = "standard", bias_at: str = "candidate", **options: Any) -> None:
        self._choose(multiplicative_lstm_cell(form, bias_at), form=form, bias_at=bias_at)
        super().__init__(*args, **options)


class DifferentialRNN(_Variant):
    """`recurra.DifferentialRNN` as a module.

        rnn = recurra.torch.DifferentialRNN(40, 128, orders=(0, 1))
        output, (h_n, d0_n, d1_n) = rnn(input)

    Args, besides those of torch.nn.GRU:
        orders: as of `recurra.DifferentialRNN`, which decides how many states there are.
        recurrent_dropout, zoneout, recompute, engine, allow_tf32: as of `LSTM`.
    """

    orders: tuple[int, ...] = (1,)

    def __init__(self, *args: Any, orders: tuple[int, ...] = (1,), **options: Any) -> None:
        self._choose(differential_cell(orders, True), orders=orders)
        super().__init__(*args, **options)


class IndRNN(_Variant):
    """`recurra.IndRNN` as a module.

        rnn = recurra.torch.IndRNN(40, 128, num_layers=3)
        output, h_n = rnn(input)

    Args, besides those of torch.nn.GRU:
        nonlinearity: "relu" or "tanh".
        zoneout, recompute, engine, allow_tf32: as of `LSTM`. There is no recurrent product for recurrent_dropout.
    """

    nonlinearity: str = "relu"

    def __init__(self, *args: Any, nonlinearity: str = "relu", **options: Any) -> None:
        self._choose(indrnn_cell(nonlinearity), nonlinearity=nonlinearity)
        super().__init__(*args, **options)


class MinGRU(_Variant):
    """`recurra.MinGRU` as a module.

        rnn = recurra.torch.MinGRU(40, 128)
        output, h_n = rnn(input)

    Args, besides those of torch.nn.GRU:
        candidate: "linear" or "positive", as of `recurra.MinGRU`.
        zoneout, recompute, engine, allow_tf32: as of `LSTM`. There is no recurrent product for recurrent_dropout.
    """

    candidate: str = "linear"

    def __init__(self, *args: Any, candidate: str = "linear", **options: Any) -> None:
        self._choose(min_gru_cell(candidate), candidate=candidate)
        super().__init__(*args, **options)


class MinLSTM(_Variant):
    """`recurra.MinLSTM` as a module.

        rnn = recurra.torch.MinLSTM(40, 128)
        output, h_n = rnn(input)

    Args, besides those of torch.nn.GRU:
        candidate: "linear" or "positive", as of `recurra.MinLSTM`.
        zoneout, recompute, engine, allow_tf32: as of `LSTM`. There is no recurrent product for recurrent_dropout.
    """

    candidate: str = "linear"

    def __init__(self, *args: Any, candidate: str = "linear", **options: Any) -> None:
        self._choose(min_lstm_cell(candidate), candidate=candidate)
        super().__init__(*args, **options)


class SRU(_Variant):
    """`recurra.SRU` as a module.

        rnn = recurra.torch.SRU(40, 128)
        output, (h_n, c_n) = rnn(input)

    Args, besides those of torch.nn.GRU:
        nonlinearity: "identity" or "tanh", as of `recurra.SRU`.
        zoneout, recompute, engine, allow_tf32: as of `LSTM`. There is no recurrent product for recurrent_dropout.
    """

    nonlinearity: str = "identity"

    def __init__(self, *args: Any, nonlinearity: str = "identity", **options: Any) -> None:
        self._choose(sru_cell(nonlinearity), nonlinearity=nonlinearity)
        super().__init__(*args, **options)
