"""torch.nn's LSTM, GRU and RNN, computed by recurra's core."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import PackedSequence

from .. import functional
from .._cells import CELLS, Sizes, gru_cell, lstm_cell, lstm_constants, rnn_cell
from .._options import flag, integer, real
from .calls import NOT_PICKLED, CoreModule, gpu_options
from .tensors import check_dtype, compiler_watches, without_compiler

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["GRU", "LSTM", "RNN"]

Tensor = Any  # torch.Tensor, whose types are not there to check where torch is not

# What a repr adds to torch's, unless it is default.
_DEFAULTS: dict[str, Any] = {"nonlinearity": "tanh", "peephole": False, "coupled": False, "cell_clip": None}
_DEFAULTS |= {"form": "standard", "bias_at": "candidate", "orders": (1,), "candidate": "linear"}
_DEFAULTS |= {"reset": "after", "update": "keep", "recurrent_dropout": 0, "zoneout": 0, "recompute": False}
_DEFAULTS |= {"engine": "auto", "allow_tf32": False}


class _Layers(CoreModule):
    """What the three share, beside all that torch.nn.RNNBase gives them."""

    # Of torch.nn.RNNBase.
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size: int
    training: bool

    def _make(
        self,
        mode: str,
        shape: tuple[Any, ...],
        device: Any,
        dtype: Any,
        recompute: bool,
        noise: tuple[Any, Any],
        on_gpu: tuple[Any, Any],
    ) -> None:
        """As torch.nn.RNNBase.__init__, for the parameters of any cell."""
        torch.nn.Module.__init__(self)  # type: ignore[arg-type,unused-ignore]
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size = shape
        self.mode = mode
        self.input_size, self.hidden_size = integer("input_size", input_size), integer("hidden_size", hidden_size)
        self.num_layers, self.proj_size = integer("num_layers", num_layers), integer("proj_size", proj_size, 0)
        self.bias, self.batch_first = flag("bias", bias), flag("batch_first", batch_first)
        self.dropout, self.bidirectional = real("dropout", dropout), flag("bidirectional", bidirectional)
        self.recompute = flag("recompute", recompute)
        self.engine, self.allow_tf32 = gpu_options(*on_gpu)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        check_dtype("dtype", dtype, not torch.empty(0, device=device).is_cpu)
        if self.proj_size >= self.hidden_size:
            raise ValueError(f"proj_size: expected less than hidden_size={hidden_size}, got {proj_size}")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout: expected a number in 0..1, got {dropout}")
        if self.dropout and num_layers == 1:
            warnings.warn(f"dropout={dropout} does nothing: it is between layers, and there is one", stacklevel=3)
        cell = CELLS[self._cell]
        cell.constant_values(self._constants, str(dtype).removeprefix("torch."))
        cell.regularization(0.0, *noise)
        self.recurrent_dropout, self.zoneout = noise
        shapes = cell.shapes(self._sizes)
        for name, size in shapes.items():
            self.register_parameter(name, torch.nn.Parameter(torch.empty(size, device=device, dtype=dtype)))
        self._list_parameters(list(shapes))
        self._settle()
        self.reset_parameters()

    def _list_parameters(self, names: list[str]) -> None:
        """What torch.nn.RNNBase keeps of its parameters."""
        each = len(names) // (self.num_layers * self._sizes.directions)
        self._all_weights = [names[start : start + each] for start in range(0, len(names), each)]
        self._flat_weights: list[Any] = []
        self._flat_weight_refs: list[Any] = []
        self._flat_weights_names = names
        self._init_flat_weights()

    def forward(self, input: Tensor | PackedSequence, hx: Any = None, lengths: Any = None) -> tuple[Any, Any]:
        """Run whole sequences; returns (output, final state).

        Args:
            input: tensor of any strides, or PackedSequence; shapes: package's head. Of the parameters' dtype, on their
                device; under autocast see there too.
            hx: initial state, default zeros. With a PackedSequence in the order of the original batch.
            lengths: valid steps of each sequence, B integers in 0..T in any order, default all; on the CPU, or with the
                parameters on a GPU, see package's head. Outputs past them are zero, the final state is that of each
                sequence's own last step, where the reverse direction starts.

        Raises:
            TypeError: wrong dtype or kind of object.
            ValueError: wrong shape, length or device.
            RuntimeError: recorded by torch.jit.trace, torch.export or torch.onnx.export, and torch.nn has no such
                layer; the message says what it lacks.
        """
        if torch.compiler.is_exporting():
            return self._inherited("torch.export", lengths)(input, hx)  # type: ignore[no-any-return]
        if torch.compiler.is_compiling():
            if lengths is None and not isinstance(input, PackedSequence):
                return self._forward(input, hx, None)
            return without_compiler(self._forward)(input, hx, lengths)  # type: ignore[no-any-return]
        if compiler_watches():
            return without_compiler(self._forward)(input, hx, lengths)  # type: ignore[no-any-return]
        if lengths is None and type(input) is torch.Tensor and input.numel() == self.input_size and not input.is_nested:
            done = self._quick(input, hx, self._quick_shapes(input.dim() == 3))
            if done is not None:
                return done[0], functional.unwrapped(done[1:])
        if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call,unused-ignore]
            return self._inherited("torch.jit.trace", lengths)(input, hx)  # type: ignore[no-any-return]
        if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None:
            return self._inherited("make_fx", lengths)(input, hx)  # type: ignore[no-any-return]
        return self._forward(input, hx, lengths)

    def _forward(self, input: Tensor | PackedSequence, hx: Any, lengths: Any) -> tuple[Any, Any]:
        y, final = self._call_sequence(input, hx, lengths)
        return y, functional.unwrapped(final)

    def _quick_shapes(self, batched: bool) -> tuple[Any, Any, list[Any]]:
        """Of x, y and states, for one step of one row."""
        kept = self.__dict__.get("_shapes")
        if kept is None:
            sizes, rows = self._sizes, self._sizes.layers * self._sizes.directions
            kept = self._shapes = [
                (
                    torch.Size((*ones, sizes.input)),
                    torch.Size((*ones, sizes.directions * sizes.output)),
                    [torch.Size((rows, *ones[1:], width)) for width in self._state_widths],
                )
                for ones in ((1,), (1, 1))
            ]
        return kept[batched]

    @property
    def _names(self) -> Sequence[str]:
        return self._flat_weights_names

    @property
    def _sizes(self) -> Sizes:
        directions = 2 if self.bidirectional else 1
        output = self.proj_size or self.hidden_size
        return Sizes(self.input_size, self.hidden_size, output, self.num_layers, directions, self.bias)

    def flatten_parameters(self) -> None:
        """Nothing: cuDNN's order of weights in memory is not the core's, which packs its own."""

    def __getstate__(self) -> dict[str, Any]:
        of_torch: Any = super().__getstate__
        state = of_torch()
        return {name: value for name, value in state.items() if name not in NOT_PICKLED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        names = state.get("_names")
        if names is None:
            super().__setstate__(state)  # type: ignore[misc]
        else:  # from before these were torch.nn's
            of_module: Any = torch.nn.Module.__setstate__
            of_module(self, {name: value for name, value in state.items() if name not in ("_names", "_packs")})
            self.mode = f"RNN_{self.nonlinearity.upper()}" if isinstance(self, RNN) else type(self).__name__
            self._list_parameters(names)
        self._settle()

    def extra_repr(self) -> str:
        """torch.nn's, and what else is not default."""
        shown = [super().extra_repr()]  # type: ignore[misc]
        for name, default in _DEFAULTS.items():
            default = getattr(type(self), name, default)
            if (value := self.__dict__.get(name, default)) != default:
                shown.append(f"{name}={value}")
        return ", ".join(shown)

    if TYPE_CHECKING:

        def register_parameter(self, name: str, param: Any) -> None: ...
        def reset_parameters(self) -> None: ...
        def _init_flat_weights(self) -> None: ...


class LSTM(_Layers, torch.nn.LSTM):  # type: ignore[misc,unused-ignore]
    """torch.nn.LSTM, or one of its relatives.

        rnn = recurra.torch.LSTM(40, 128, proj_size=64, peephole=True)
        output, (h_n, c_n) = rnn(input, lengths=[100, 7, 31])

    Args, besides those of torch.nn.LSTM:
        peephole, coupled, cell_clip, forget_bias, recurrent_dropout, zoneout: as of `recurra.LSTM`.
        recompute: compute gates again in backward, for less memory: see `recurra.Recurrent.forward`.
        engine, allow_tf32: on a GPU, see the package's head.
    """

    peephole: bool = False
    coupled: bool | str = False
    cell_clip: float | None = None

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
        device: Any = None,
        dtype: Any = None,
        *,
        peephole: bool = False,
        coupled: bool | str = False,
        cell_clip: float | None = None,
        forget_bias: float | None = None,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        recompute: bool = False,
        engine: str = "auto",
        allow_tf32: bool = False,
    ) -> None:
        if forget_bias is not None:
            forget_bias = real("forget_bias", forget_bias)
            if not flag("bias", bias):
                raise ValueError(f"forget_bias: expected None with bias=False, got {forget_bias}")
        own = {"_cell": lstm_cell(coupled, peephole, bool(proj_size)), "_constants": lstm_constants(cell_clip)}
        self.__dict__.update(own, peephole=peephole, coupled=coupled, cell_clip=cell_clip, forget_bias=forget_bias)
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size)
        self._make("LSTM", shape, device, dtype, recompute, (recurrent_dropout, zoneout), (engine, allow_tf32))

    def reset_parameters(self) -> None:
        """As torch.nn's; then the forget gate's biases get a value of their own, if there is one."""
        super().reset_parameters()
        if (value := self.__dict__.get("forget_bias")) is None:
            return
        gates = CELLS[self._cell].gates
        # Without a forget block f = 1 - i = sigmoid(-A_i): the input gate's bias decides.
        gate, value = ("f", value) if "f" in gates else ("i", -value)
        start = gates.index(gate) * self.hidden_size
        with torch.no_grad():
            for name in self._flat_weights_names:
                if name.startswith("bias_"):
                    part = getattr(self, name)[start : start + self.hidden_size]
                    part.fill_(value if name.startswith("bias_ih") else 0)


class GRU(_Layers, torch.nn.GRU):  # type: ignore[misc,unused-ignore]
    """torch.nn.GRU, or one of its relatives.

        rnn = recurra.torch.GRU(40, 128, num_layers=2)
        output, h_n = rnn(input)

    Args, besides those of torch.nn.GRU:
        reset, update, recurrent_dropout, zoneout: as of `recurra.GRU`.
        recompute: compute gates again in backward, for less memory: see `recurra.Recurrent.forward`.
        engine, allow_tf32: on a GPU, see the package's head.
    """

    reset: str = "after"
    update: str = "keep"

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
        reset: str = "after",
        update: str = "keep",
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        recompute: bool = False,
        engine: str = "auto",
        allow_tf32: bool = False,
    ) -> None:
        self.__dict__.update(_cell=gru_cell(reset, update), _constants={}, reset=reset, update=update)
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0)
        self._make("GRU", shape, device, dtype, recompute, (recurrent_dropout, zoneout), (engine, allow_tf32))


class RNN(_Layers, torch.nn.RNN):  # type: ignore[misc,unused-ignore]
    """torch.nn.RNN, with one more nonlinearity.

        rnn = recurra.torch.RNN(40, 128, nonlinearity="relu")
        output, h_n = rnn(input)

    Args, besides those of torch.nn.RNN:
        nonlinearity: "tanh", "relu" or "sigmoid".
        recurrent_dropout, zoneout: as of `recurra.RNN`.
        recompute: compute gates again in backward, for less memory: see `recurra.Recurrent.forward`.
        engine, allow_tf32: on a GPU, see the package's head.
    """

    nonlinearity: str = "tanh"

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
        device: Any = None,
        dtype: Any = None,
        *,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        recompute: bool = False,
        engine: str = "auto",
        allow_tf32: bool = False,
    ) -> None:
        self.__dict__.update(_cell=rnn_cell(nonlinearity), _constants={}, nonlinearity=nonlinearity)
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0)
        self._make(
            f"RNN_{nonlinearity.upper()}",
            shape,
            device,
            dtype,
            recompute,
            (recurrent_dropout, zoneout),
            (engine, allow_tf32),
        )
