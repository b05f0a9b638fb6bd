"""torch.nn's LSTM, GRU and RNN, computed by recurra's core."""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import PackedSequence

from .. import functional
from .._cells import (
    CELLS,
    Sizes,
    chosen_direction,
    gru_cell,
    gru_choice,
    lstm_cell,
    lstm_choice,
    rnn_choice,
    start_value,
)
from .._marks import PREVIOUS, Marks, marks_of
from .._options import bound, flag, integer, real
from .calls import NOT_PICKLED, CoreModule, gpu_options
from .tensors import check, check_dtype, compiler_watches, without_compiler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..activation import Activations
    from .tensors import Home

__all__ = ["GRU", "LSTM", "RNN"]

Tensor = Any  # torch.Tensor, whose types are not there to check where torch is not

# What a repr adds to torch's, unless it is default.
_DEFAULTS: dict[str, Any] = {"nonlinearity": "tanh", "peephole": False, "coupled": False, "cell_clip": None}
_DEFAULTS |= {"layer_norm": False}
_DEFAULTS |= {"activation": "tanh", "recurrent_activation": "sigmoid", "output_activation": None, "clip": None}
_DEFAULTS |= {"form": "standard", "bias_at": "candidate", "orders": (1,), "candidate": "linear"}
_DEFAULTS |= {"heads": 1, "forget": "sigmoid"}
_DEFAULTS |= {"reset": "after", "update": "keep", "recurrent_dropout": 0, "zoneout": 0, "recompute": False}
_DEFAULTS |= {"engine": "auto", "allow_tf32": False, "proj_bias": False, "initial_state": False, "grad_clip": None}


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
    _reverse: bool = False
    proj_bias: bool = False
    initial_state: bool = False

    def _make(
        self,
        mode: str,
        shape: tuple[Any, ...],
        device: Any,
        dtype: Any,
        recompute: bool,
        noise: tuple[Any, Any],
        on_gpu: tuple[Any, Any],
        states: tuple[Any, Any],
        proj_bias: Any = False,
    ) -> None:
        """As torch.nn.RNNBase.__init__, for the parameters of any cell."""
        torch.nn.Module.__init__(self)  # type: ignore[arg-type,unused-ignore]
        input_size, hidden_size, num_layers, bias, batch_first, dropout, direction, proj_size = shape
        self.mode = mode
        self.input_size, self.hidden_size = integer("input_size", input_size), integer("hidden_size", hidden_size)
        self.num_layers, self.proj_size = integer("num_layers", num_layers), integer("proj_size", proj_size, 0)
        self.bias, self.batch_first = flag("bias", bias), flag("batch_first", batch_first)
        self.dropout, self.bidirectional = real("dropout", dropout), direction == "bidirectional"
        self._reverse = direction == "reverse"
        self.recompute = flag("recompute", recompute)
        self.engine, self.allow_tf32 = gpu_options(*on_gpu)
        initial_state, grad_clip = states
        self.initial_state = CELLS[self._cell].checked_initial_state(initial_state)
        self.proj_bias = flag("proj_bias", proj_bias)
        if self.proj_bias and not self.proj_size:
            raise ValueError("proj_bias: expected False without proj_size, got True")
        dtype = torch.get_default_dtype() if dtype is None else dtype
        check_dtype("dtype", dtype, not torch.empty(0, device=device).is_cpu)
        if self.proj_size >= self.hidden_size:
            raise ValueError(f"proj_size: expected less than hidden_size={hidden_size}, got {proj_size}")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout: expected a number in 0..1, got {dropout}")
        if self.dropout and num_layers == 1:
            warnings.warn(f"dropout={dropout} does nothing: it is between layers, and there is one", stacklevel=3)
        cell, number = CELLS[self._cell], "float64" if dtype == torch.float64 else "float32"
        self.grad_clip = None if grad_clip is None else bound("grad_clip", grad_clip, number)
        cell.constant_values(self._constants, str(dtype).removeprefix("torch."), self._sizes.directions)
        cell.regularization(0.0, *noise)
        cell.checked_heads(self.heads, self.hidden_size)
        self.recurrent_dropout, self.zoneout = noise
        shapes = cell.shapes(self._sizes)
        for name, size in shapes.items():
            self.register_parameter(name, torch.nn.Parameter(torch.empty(size, device=device, dtype=dtype)))
        for name, width in zip(self._initial_names, self._state_widths if initial_state else [], strict=True):
            value = torch.empty((self.num_layers * self._sizes.directions, width), device=device, dtype=dtype)
            self.register_parameter(name, torch.nn.Parameter(value))
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

    def reset_parameters(self) -> None:
        """As torch.nn's, but for what starts at a value of its own; a learned initial state starts from zero."""
        super().reset_parameters()  # type: ignore[misc]
        with torch.no_grad():
            for name in self._flat_weights_names:
                if (value := start_value(name)) is not None:
                    getattr(self, name).fill_(value)
            for name in self._initial_names:
                getattr(self, name).zero_()

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        lengths: Any = None,
        *,
        resets: Any = None,
        reset_state: Any = None,
        mask: Any = None,
        masked_output: str = PREVIOUS,
        return_cells: bool = False,
    ) -> tuple[Any, ...]:
        """Run whole sequences; returns (output, final state) and, with `return_cells`, cells.

        Args:
            input: tensor of any strides, or PackedSequence; shapes: package's head. Of the parameters' dtype, on their
                device; under autocast see there too.
            hx: initial state, default zeros, or with initial_state=True what has been learned. With a PackedSequence in
                the order of the original batch.
            lengths: valid steps of each sequence, B integers in 0..T in any order, default all; on the CPU, or with the
                parameters on a GPU, see package's head. Outputs past them are zero, the final state is that of each
                sequence's own last step, where the reverse direction starts.
            resets, reset_state, mask, masked_output: as of `recurra.Recurrent.__call__`, of tensors; booleans also as
                arrays, and on the CPU where parameters are on a GPU. Not with a PackedSequence.
            return_cells: also return the last layer's second state, c, after every step: as output, with D*hidden_size.

        Raises:
            TypeError: wrong dtype or kind of object.
            ValueError: wrong shape, length or device.
            RuntimeError: recorded by torch.jit.trace, torch.export or torch.onnx.export, and torch.nn has no such
                layer; the message says what it lacks.
        """
        cells = flag("return_cells", return_cells)
        if cells and len(CELLS[self._cell].states) == 1:
            raise ValueError(f"return_cells: expected False for cell {self._cell!r}, whose only state is h, got True")
        if not (resets is mask is reset_state is None and masked_output is PREVIOUS):
            marks = marks_of(resets, reset_state, mask, masked_output)
            if marks is not None:
                return self._forward_marked(input, hx, lengths, marks, cells)
        missing = _named(lengths, cells)
        if torch.compiler.is_exporting():
            return self._inherited("torch.export", missing)(input, hx)  # type: ignore[no-any-return]
        if torch.compiler.is_compiling():
            if lengths is None and not isinstance(input, PackedSequence):
                return self._forward(input, hx, None, None, cells)
            return without_compiler(self._forward)(input, hx, lengths, None, cells)  # type: ignore[no-any-return]
        if compiler_watches():
            return without_compiler(self._forward)(input, hx, lengths, None, cells)  # type: ignore[no-any-return]
        usual = lengths is None and not cells and not (hx is None and self.initial_state)
        if usual and type(input) is torch.Tensor and input.numel() == self.input_size and not input.is_nested:
            done = self._quick(input, hx, self._quick_shapes(input.dim() == 3))
            if done is not None:
                return done[0], functional.unwrapped(done[1:])
        if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call,unused-ignore]
            return self._inherited("torch.jit.trace", missing)(input, hx)  # type: ignore[no-any-return]
        if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None:
            return self._inherited("make_fx", missing)(input, hx)  # type: ignore[no-any-return]
        return self._forward(input, hx, lengths, None, cells)

    def _forward(
        self, input: Tensor | PackedSequence, hx: Any, lengths: Any, marks: Marks | None, cells: bool
    ) -> tuple[Any, ...]:
        y, final, of_steps = self._call_sequence(input, hx, lengths, marks, cells)
        return (y, functional.unwrapped(final), of_steps) if cells else (y, functional.unwrapped(final))

    @property
    def _initial_names(self) -> list[str]:
        return CELLS[self._cell].initial_names if self.initial_state else []

    def _learned_state(self, batch: tuple[int, ...], home: Home) -> list[Tensor]:
        """One for all rows. Autograd sums their gradients."""
        parts = [check(name, self._parameter(name), home=home) for name in self._initial_names]
        if batch:
            parts = [part.unsqueeze(1).expand(-1, *batch, -1) for part in parts]
        return [part.to(home.number) for part in parts]

    def _forward_marked(
        self, input: Tensor | PackedSequence, hx: Any, lengths: Any, marks: Marks, cells: bool
    ) -> tuple[Any, ...]:
        """Nothing of torch's own has marks. On the CPU graphs of torch.compile take them as tensors."""
        what = "resets" if marks.resets is not None else "mask"
        if isinstance(input, PackedSequence):
            raise ValueError(f"{what}: expected None with a PackedSequence, which keeps no place for them")
        if torch.compiler.is_exporting():
            self._inherited("torch.export", what)
        if torch.compiler.is_compiling() or compiler_watches():
            flags = [each for each in (marks.resets, marks.mask) if each is not None]
            whole = torch.compiler.is_compiling() and lengths is None and self._home.gpu is None
            if whole and all(isinstance(each, torch.Tensor) for each in flags):
                return self._forward(input, hx, None, marks, cells)
            return without_compiler(self._forward)(input, hx, lengths, marks, cells)  # type: ignore[no-any-return]
        if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call,unused-ignore]
            self._inherited("torch.jit.trace", what)
        if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None:
            self._inherited("make_fx", what)
        return self._forward(input, hx, lengths, marks, cells)

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
        return Sizes(
            self.input_size,
            self.hidden_size,
            output,
            self.num_layers,
            directions,
            self.bias,
            self._reverse,
            self.proj_bias,
            heads=self.heads,
        )

    @property
    def direction(self) -> str:
        """ "forward", "reverse" or "bidirectional"."""
        return self._sizes.direction

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
            self.mode = f"RNN_{self.nonlinearity}".upper() if isinstance(self, RNN) else type(self).__name__
            self._list_parameters(names)
        self._settle()

    def extra_repr(self) -> str:
        """torch.nn's, and what else is not default."""
        shown = [super().extra_repr()]  # type: ignore[misc]
        for name, default in _DEFAULTS.items():
            default = getattr(type(self), name, default)
            if (value := self.__dict__.get(name, default)) != default:
                shown.append(f"{name}={value}")
        if self._reverse:
            shown.append("direction=reverse")
        return ", ".join(shown)

    if TYPE_CHECKING:

        def register_parameter(self, name: str, param: Any) -> None: ...
        def _init_flat_weights(self) -> None: ...


# torch.onnx.export passes by its place whatever a signature has a default for.
_Layers.forward.__dict__["__signature__"] = inspect.signature(lambda self, input, hx=None, lengths=None: None)


def _named(lengths: Any, cells: bool) -> str | None:
    """An argument that torch.nn's layers have not."""
    return "lengths" if lengths is not None else "return_cells" if cells else None


class LSTM(_Layers, torch.nn.LSTM):  # type: ignore[misc,unused-ignore]
    """torch.nn.LSTM, or one of its relatives.

        >>> rnn = recurra.torch.LSTM(40, 128, proj_size=64, peephole=True)
        >>> output, (h_n, c_n) = rnn(input, lengths=[100, 7, 31])

    Args, besides those of torch.nn.LSTM:
        proj_bias, peephole, coupled, cell_clip, forget_bias, layer_norm, recurrent_dropout, zoneout: as of
            `recurra.LSTM`.
        activation, recurrent_activation, output_activation, clip: likewise.
        direction: "forward", "reverse" or "bidirectional": see `recurra.Recurrent`.
        initial_state: whether the state that a call starts from without hx is learned: parameters h_0, and for LSTMs
            c_0, [layers * directions, size], zero at first.
        grad_clip: a clip of the states' gradients at every step back: see `recurra.Tape.backward`. Gradients of
            gradients are those of the clipped ones; forward mode does not see it, and torch.func refuses it
            (RuntimeError).
        recompute: compute gates again in backward, for less memory: see `recurra.Recurrent.forward`.
        engine, allow_tf32: on a GPU, see the package's head.
    """

    peephole: bool = False
    coupled: bool | str = False
    cell_clip: float | None = None
    layer_norm: bool = False
    activation: Activations = "tanh"
    recurrent_activation: Activations = "sigmoid"
    output_activation: Activations | None = None
    clip: float | None = None

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
        proj_bias: bool = False,
        peephole: bool = False,
        coupled: bool | str = False,
        cell_clip: float | None = None,
        forget_bias: float | None = None,
        layer_norm: bool = False,
        activation: Activations = "tanh",
        recurrent_activation: Activations = "sigmoid",
        output_activation: Activations | None = None,
        clip: float | None = None,
        direction: str = "forward",
        initial_state: bool = False,
        grad_clip: float | None = None,
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
        cell = lstm_cell(coupled, peephole, bool(proj_size), layer_norm)
        functions = (activation, recurrent_activation, output_activation)
        way = chosen_direction(bidirectional, direction)
        cell, constants = lstm_choice(cell, cell_clip, functions, clip, way == "bidirectional")
        self.__dict__.update(_cell=cell, _constants=constants, peephole=peephole, coupled=coupled, cell_clip=cell_clip)
        self.__dict__.update(activation=activation, recurrent_activation=recurrent_activation, clip=clip)
        self.__dict__.update(output_activation=output_activation, forget_bias=forget_bias, layer_norm=layer_norm)
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, way, proj_size)
        noise, on_gpu, states = (recurrent_dropout, zoneout), (engine, allow_tf32), (initial_state, grad_clip)
        self._make("LSTM", shape, device, dtype, recompute, noise, on_gpu, states, proj_bias)

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
                if name.startswith(("bias_ih", "bias_hh")):
                    part = getattr(self, name)[start : start + self.hidden_size]
                    part.fill_(value if name.startswith("bias_ih") else 0)


class GRU(_Layers, torch.nn.GRU):  # type: ignore[misc,unused-ignore]
    """torch.nn.GRU, or one of its relatives.

        >>> rnn = recurra.torch.GRU(40, 128, num_layers=2)
        >>> output, h_n = rnn(input)

    Args, besides those of torch.nn.GRU:
        reset, update, layer_norm, recurrent_dropout, zoneout: as of `recurra.GRU`.
        activation, recurrent_activation, clip: likewise.
        direction: "forward", "reverse" or "bidirectional": see `recurra.Recurrent`.
        initial_state: whether the state that a call starts from without hx is learned: parameters h_0, and for LSTMs
            c_0, [layers * directions, size], zero at first.
        grad_clip: a clip of the states' gradients at every step back: see `recurra.Tape.backward`. Gradients of
            gradients are those of the clipped ones; forward mode does not see it, and torch.func refuses it
            (RuntimeError).
        recompute: compute gates again in backward, for less memory: see `recurra.Recurrent.forward`.
        engine, allow_tf32: on a GPU, see the package's head.
    """

    reset: str = "after"
    update: str = "keep"
    layer_norm: bool = False
    activation: Activations = "tanh"
    recurrent_activation: Activations = "sigmoid"
    clip: float | None = None

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
        layer_norm: bool = False,
        activation: Activations = "tanh",
        recurrent_activation: Activations = "sigmoid",
        clip: float | None = None,
        direction: str = "forward",
        initial_state: bool = False,
        grad_clip: float | None = None,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        recompute: bool = False,
        engine: str = "auto",
        allow_tf32: bool = False,
    ) -> None:
        way = chosen_direction(bidirectional, direction)
        standard, both = gru_cell(reset, update, layer_norm), way == "bidirectional"
        cell, constants = gru_choice(standard, activation, recurrent_activation, clip, both)
        self.__dict__.update(_cell=cell, _constants=constants, reset=reset, update=update, clip=clip)
        self.__dict__.update(activation=activation, recurrent_activation=recurrent_activation, layer_norm=layer_norm)
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, way, 0)
        noise, on_gpu, states = (recurrent_dropout, zoneout), (engine, allow_tf32), (initial_state, grad_clip)
        self._make("GRU", shape, device, dtype, recompute, noise, on_gpu, states)


class RNN(_Layers, torch.nn.RNN):  # type: ignore[misc,unused-ignore]
    """torch.nn.RNN, with more nonlinearities.

        >>> rnn = recurra.torch.RNN(40, 128, nonlinearity="relu")
        >>> output, h_n = rnn(input)

    Args, besides those of torch.nn.RNN:
        nonlinearity, clip, recurrent_dropout, zoneout: as of `recurra.RNN`.
        direction: "forward", "reverse" or "bidirectional": see `recurra.Recurrent`.
        initial_state: whether the state that a call starts from without hx is learned: parameters h_0, and for LSTMs
            c_0, [layers * directions, size], zero at first.
        grad_clip: a clip of the states' gradients at every step back: see `recurra.Tape.backward`. Gradients of
            gradients are those of the clipped ones; forward mode does not see it, and torch.func refuses it
            (RuntimeError).
        recompute: compute gates again in backward, for less memory: see `recurra.Recurrent.forward`.
        engine, allow_tf32: on a GPU, see the package's head.
    """

    nonlinearity: Activations = "tanh"
    clip: float | None = None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: Activations = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        clip: float | None = None,
        direction: str = "forward",
        initial_state: bool = False,
        grad_clip: float | None = None,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        recompute: bool = False,
        engine: str = "auto",
        allow_tf32: bool = False,
    ) -> None:
        way = chosen_direction(bidirectional, direction)
        cell, constants = rnn_choice(nonlinearity, clip, way == "bidirectional")
        self.__dict__.update(_cell=cell, _constants=constants, nonlinearity=nonlinearity, clip=clip)
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, way, 0)
        noise, on_gpu, states = (recurrent_dropout, zoneout), (engine, allow_tf32), (initial_state, grad_clip)
        self._make(cell.upper(), shape, device, dtype, recompute, noise, on_gpu, states)
