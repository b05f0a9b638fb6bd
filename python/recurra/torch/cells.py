"""torch.nn's single steps, computed by recurra's core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .._arrays import require_rows
from .._cells import CELLS, Sizes, rnn_cell
from .._options import flag, integer
from .calls import NOT_PICKLED, CoreModule, gpu_options
from .tensors import Home, check, check_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]

Tensor = Any  # torch.Tensor, whose types are not there to check where torch is not


class _Cell(CoreModule):
    """What the three share: a sequence of one step."""

    # Of torch.nn.RNNCellBase.
    input_size: int
    hidden_size: int
    bias: bool
    batch_first = False  # of the sequence

    def __init__(
        self,
        cell: str,
        sizes: tuple[int, int],
        bias: bool,
        device: Any,
        dtype: Any,
        on_gpu: tuple[Any, Any],
        **options: Any,
    ) -> None:
        on_cpu = torch.empty(0, device=device).is_cpu
        check_dtype("dtype", torch.get_default_dtype() if dtype is None else dtype, not on_cpu)
        input_size, hidden_size = integer("input_size", sizes[0]), integer("hidden_size", sizes[1])
        engine, allow_tf32 = gpu_options(*on_gpu)
        of_torch: Any = super().__init__
        of_torch(input_size, hidden_size, flag("bias", bias), **options, device=device, dtype=dtype)
        self.engine, self.allow_tf32 = engine, allow_tf32
        self._cell, self._constants = cell, {}
        self._settle()

    def _next(self, input: Tensor, hx: Any) -> list[Tensor]:
        """The states after a step."""
        if torch.compiler.is_compiling():
            plain = False
        else:
            plain = type(input) is torch.Tensor and input.numel() == self.input_size and not input.is_nested
        if plain and input.dim() <= 2:
            ones = tuple(input.shape[:-1])
            states = [torch.Size((*ones, self.hidden_size))] * len(CELLS[self._cell].states)
            done = self._quick(input, hx, (torch.Size((*ones, self.input_size)), None, states))
            if done is not None:
                return done[1:]
        if torch.jit.is_tracing() or torch.compiler.is_exporting():  # type: ignore[attr-defined,no-untyped-call,unused-ignore]
            result = self._inherited("recording", None)(input, hx)
            return list(result) if isinstance(result, tuple) else [result]
        input = self._cast(input)
        home = self._home
        check("input", input, home.number, ("B", self.input_size), (self.input_size,), home=home)
        require_rows("input", input.shape[:-1].numel())
        state = [part.unsqueeze(0) for part in self._checked_state(hx, tuple(input.shape[:-1]), home)]
        _, final, _ = self._run_layers(input.unsqueeze(0), state, None, False)
        return [part.squeeze(0) for part in final]

    def _checked_state(self, hx: Any, batch: tuple[int, ...], home: Home) -> list[Tensor]:
        if hx is None:
            return []
        count = len(CELLS[self._cell].states)
        if count > 1 and (not isinstance(hx, (tuple, list)) or len(hx) != count):
            got = f"{len(hx)} values" if isinstance(hx, (tuple, list)) else type(hx).__name__
            raise TypeError(f"hx: expected a tuple (h, c), got {got}")
        parts = [self._cast(part) for part in (hx if count > 1 else (hx,))]
        for (name, _), part in zip(CELLS[self._cell].states, parts, strict=True):
            check(f"hx {name}", part, home.number, (*batch, self.hidden_size), home=home)
        return parts

    @property
    def _names(self) -> Sequence[str]:
        return ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if self.bias else 2]

    @property
    def _packed_names(self) -> Sequence[str]:
        return [f"{name}_l0" for name in self._names]

    @property
    def _sizes(self) -> Sizes:
        return Sizes(self.input_size, self.hidden_size, self.hidden_size, 1, 1, self.bias)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in NOT_PICKLED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        self._settle()


class LSTMCell(_Cell, torch.nn.LSTMCell):  # type: ignore[misc,unused-ignore]
    """torch.nn.LSTMCell.

        >>> cell = recurra.torch.LSTMCell(40, 128)
        >>> h, c = cell(input, (h, c))  # input [B, 40] or [40], states [B, 128] or [128], default zeros

    Args, besides those of torch.nn.LSTMCell:
        engine, allow_tf32: on a GPU, see the package's head.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        engine: str = "auto",
        allow_tf32: bool = False,
    ) -> None:
        super().__init__("lstm", (input_size, hidden_size), bias, device, dtype, (engine, allow_tf32))

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """(h, c) after a step. Errors as of `LSTM`."""
        h, c = self._next(input, hx)
        return h, c


class GRUCell(_Cell, torch.nn.GRUCell):  # type: ignore[misc,unused-ignore]
    """torch.nn.GRUCell.

        >>> cell = recurra.torch.GRUCell(40, 128)
        >>> h = cell(input, h)  # input [B, 40] or [40], h [B, 128] or [128], default zeros

    Args, besides those of torch.nn.GRUCell:
        engine, allow_tf32: on a GPU, see the package's head.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        engine: str = "auto",
        allow_tf32: bool = False,
    ) -> None:
        super().__init__("gru", (input_size, hidden_size), bias, device, dtype, (engine, allow_tf32))

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """h after a step. Errors as of `GRU`."""
        return self._next(input, hx)[0]


class RNNCell(_Cell, torch.nn.RNNCell):  # type: ignore[misc,unused-ignore]
    """torch.nn.RNNCell.

        >>> cell = recurra.torch.RNNCell(40, 128, nonlinearity="relu")
        >>> h = cell(input, h)  # input [B, 40] or [40], h [B, 128] or [128], default zeros

    Args, besides those of torch.nn.RNNCell:
        nonlinearity: "tanh", "relu" or "sigmoid".
        engine, allow_tf32: on a GPU, see the package's head.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
        *,
        engine: str = "auto",
        allow_tf32: bool = False,
    ) -> None:
        sizes, cell = (input_size, hidden_size), rnn_cell(nonlinearity)
        super().__init__(cell, sizes, bias, device, dtype, (engine, allow_tf32), nonlinearity=nonlinearity)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """h after a step. Errors as of `RNN`."""
        return self._next(input, hx)[0]
