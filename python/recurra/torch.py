"""recurra's layers as modules of torch, to train with. Needs torch 2.7 or newer, which nothing else in recurra imports.

    rnn = recurra.torch.GRU(40, 128, num_layers=2)      # where torch.nn.GRU(40, 128, num_layers=2) stood
    output, h_n = rnn(input)

LSTM, GRU and RNN have the constructors, attributes, parameters (names, shapes, order, initial values) and results of
their namesakes in torch.nn, so that state_dicts go both ways, and recurra's options besides, by keyword. They run on
the CPU, in float32 and float64, and take

    input   [T, B, I], with batch_first [B, T, I]; [T, I] for one sequence without a batch axis; or a PackedSequence
    hx      initial state, default zeros: h_0 [L*D, B, O], for LSTMs the tuple (h_0, c_0) with c_0 [L*D, B, H], where
            O is proj_size or else H; without a B axis if input has none

and return (output, h_n), for LSTMs (output, (h_n, c_n)): output as input with D*O in place of I, states as hx. Wrong
dtypes and kinds of object raise TypeError, wrong shapes, values and devices ValueError: nothing is cast or moved.
With recompute=True backward computes the gates again, for less memory: see `recurra.Recurrent.forward`.

What differs from torch.nn:

- Outputs and gradients have recurra's bits: see README. They agree with torch's to rounding.
- Gradients are first order: RuntimeError where a gradient of one is asked for.
- The parameters are copied and packed at the first call, and again when a call finds that their values have changed, in
  whatever way that happened: each call compares them, which reads them once.
- Dropout, in training, runs the layers one after another. Its masks are those of torch.nn for the same seed.
- recurrent_dropout and zoneout, which torch.nn has not, are those of `recurra.Recurrent`, in training mode, with or
  without gradients. Their masks are made from a seed that each call (with dropout: each layer) takes from torch's
  generator for the CPU. All rates may be changed between calls.
- To torch.compile a layer is one opaque operation (with a PackedSequence a graph break); with fullgraph=True it reports
  errors of a call in its own words. torch.jit.trace and torch.export are refused.
- Writing to a parameter between forward and backward is allowed: gradients are those of the values that ran.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from . import _torch_ops, functional
from ._arrays import check_shape
from ._cells import CELLS, Sizes, gru_cell, lstm_cell, lstm_constants, rnn_cell
from ._options import flag, integer, real

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ._arrays import Array

__all__ = ["GRU", "LSTM", "RNN"]

Tensor = Any  # torch.Tensor, whose types are not there to check where torch is not

_DTYPES = (torch.float32, torch.float64)

# Whether the backward pass now running retains the graph. If not, tapes are freed as torch frees what it saves: scripts
# keep losses, and with them all nodes. torch has no public name for it; where it has none at all, a tape lives on.
_keeps_graph: Callable[[], bool] = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)

# What a repr leaves out, in its order.
_DEFAULTS: dict[str, Any] = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0}
_DEFAULTS |= {"bidirectional": False, "nonlinearity": "tanh", "peephole": False, "coupled": False, "cell_clip": None}
_DEFAULTS |= {"reset": "after", "update": "keep", "recurrent_dropout": 0, "zoneout": 0, "recompute": False}


class _Layers(torch.nn.Module):  # type: ignore[misc,unused-ignore]
    """What the three modules share: the parameters of a cell, packed when their values are new, and the call."""

    recurrent_dropout: float = 0.0  # here for modules that were pickled before there was any
    zoneout: float | tuple[float, float] = 0.0

    def __init__(
        self,
        cell: str,
        constants: Mapping[str, float],
        shape: tuple[Any, ...],
        device: Any,
        dtype: Any,
        recompute: bool,
        recurrent_dropout: float,
        zoneout: float | tuple[float, float],
    ) -> None:
        super().__init__()
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size = shape
        self.input_size, self.hidden_size = integer("input_size", input_size), integer("hidden_size", hidden_size)
        self.num_layers, self.proj_size = integer("num_layers", num_layers), integer("proj_size", proj_size, 0)
        self.bias, self.batch_first = flag("bias", bias), flag("batch_first", batch_first)
        self.dropout, self.bidirectional = real("dropout", dropout), flag("bidirectional", bidirectional)
        self.recompute = flag("recompute", recompute)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if dtype not in _DTYPES:
            raise TypeError(f"dtype: expected torch.float32 or torch.float64, got {dtype}")
        if self.proj_size >= self.hidden_size:
            raise ValueError(f"proj_size: expected less than hidden_size={hidden_size}, got {proj_size}")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout: expected a number in 0..1, got {dropout}")
        if self.dropout and num_layers == 1:
            warnings.warn(f"dropout={dropout} does nothing: it is between layers, and there is one", stacklevel=3)
        self._cell, self._constants = cell, dict(constants)
        CELLS[cell].constant_values(constants)
        CELLS[cell].regularization(0.0, recurrent_dropout, zoneout)
        self.recurrent_dropout, self.zoneout = recurrent_dropout, zoneout
        sizes = Sizes(
            self.input_size, self.hidden_size, self._output_size, self.num_layers, self._directions, self.bias
        )
        shapes = CELLS[cell].shapes(sizes)
        for name, shape in shapes.items():
            self.register_parameter(name, torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self._names = list(shapes)
        self._packs: dict[int, tuple[dict[str, Array], functional.Packed]] = {}  # and what they were made of
        self._number = _torch_ops.register(self)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew, uniform in +-1/sqrt(hidden_size), as torch.nn does and in its order."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            torch.nn.init.uniform_(parameter, -bound, bound)

    def flatten_parameters(self) -> None:
        """Does nothing; here because scripts call it, for cuDNN."""

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The parameters, a list for each layer and direction."""
        weights = [getattr(self, name) for name in self._names]
        each = len(weights) // (self.num_layers * self._directions)
        return [weights[start : start + each] for start in range(0, len(weights), each)]

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        """Run whole sequences; returns (output, final state).

        Args:
            input: tensor of any strides, or PackedSequence; shapes: module's head. The parameters' dtype, on the CPU.
            hx: initial state, default zeros. With a PackedSequence in the order of the original batch.

        Raises:
            TypeError: wrong dtype or kind of object.
            ValueError: wrong shape or device.
            RuntimeError: in torch.jit.trace and torch.export.
        """
        if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call,unused-ignore]
            raise RuntimeError("recurra.torch: torch.jit.trace would record this output as a constant")
        if torch.compiler.is_exporting():
            raise RuntimeError("recurra.torch: torch.export would record a module of this process, not its weights")
        if torch.compiler.is_compiling() and isinstance(input, PackedSequence):
            opaque: Any = torch.compiler.disable  # not a decorator: that would load the compiler with this module
            return opaque(self._forward)(input, hx)  # type: ignore[no-any-return]
        return self._forward(input, hx)

    def _forward(self, input: Tensor | PackedSequence, hx: Any) -> tuple[Any, Any]:
        sequence = input if isinstance(input, PackedSequence) else None
        x: Tensor = input
        lengths: Tensor = None
        if sequence is not None:  # padded in its own order, by falling length, without a look at its indices
            _check("input.data", sequence.data)
            x, lengths = pad_packed_sequence(PackedSequence(sequence.data, sequence.batch_sizes))
        batch = self._check_input(x, sequence is not None)
        state = self._checked_state(hx, batch)
        if sequence is not None and sequence.sorted_indices is not None:
            state = [part.index_select(1, sequence.sorted_indices) for part in state]
        output, final = self._layers(x, state, lengths, self.batch_first and sequence is None and bool(batch))
        if sequence is not None:
            if sequence.unsorted_indices is not None:
                final = [part.index_select(1, sequence.unsorted_indices) for part in final]
            output = sequence._replace(data=pack_padded_sequence(output, lengths).data)
        return output, functional.unwrapped(final)

    def _layers(
        self, x: Tensor, state: list[Tensor], lengths: Tensor | None, batch_first: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """All layers in one call, or one after another if there is dropout between them."""
        if not (self.training and self.dropout and self.num_layers > 1):
            return self._run(-1, x, state, lengths, batch_first)
        x = x.transpose(0, 1) if batch_first else x  # a mask in torch.nn runs over [T, B, ...] or over packed data
        finals, each = [], self._directions
        for layer in range(self.num_layers):
            if layer and lengths is not None:
                data, sizes, *_ = pack_padded_sequence(x, lengths)
                x, _ = pad_packed_sequence(PackedSequence(torch.nn.functional.dropout(data, self.dropout), sizes))
            elif layer:
                x = torch.nn.functional.dropout(x, self.dropout)
            own = [part[layer * each : (layer + 1) * each] for part in state]
            x, final = self._run(layer, x, own, lengths, False)
            finals.append(final)
        return x.transpose(0, 1) if batch_first else x, [torch.cat(part) for part in zip(*finals, strict=True)]

    def _run(
        self, layer: int, x: Tensor, state: list[Tensor], lengths: Tensor | None, batch_first: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """One layer, or all of them for -1."""
        params = [getattr(self, name) for name in self._names_of(layer)]
        for name, param in zip(self._names_of(layer), params, strict=True):
            _check(name, param)
        trains = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *state, *params))
        zoneout = self.zoneout if isinstance(self.zoneout, tuple) else (self.zoneout,)
        noisy = self.training and any((self.recurrent_dropout, *zoneout))
        seed = torch.randint(1 << 62, (), dtype=torch.int64, device="cpu") if noisy else None
        if torch.compiler.is_compiling():
            lanes = self._directions * (self.num_layers if layer < 0 else 1)
            sizes = (self._directions * self._output_size, lanes, self._state_widths)
            y, *final = _torch_ops.sequence(x, state, params, seed, self._number, layer, batch_first, trains, *sizes)
            return y, final[:-1] if trains else final
        packed = self._packed(layer, params)
        options = {"lengths": None if lengths is None else lengths.numpy(), "batch_first": batch_first}
        if trains:
            options |= {"recompute": self.recompute, "rng": _torch_ops.rng(seed)}
            apply: Any = _Sequence.apply
            y, *final = apply(packed, options, len(state), x, *state, *params)
        else:
            y, *final = _torch_ops.run(packed, options, x, state, seed)
        return y, final

    def _names_of(self, layer: int) -> list[str]:
        each = len(self._names) // self.num_layers
        return self._names if layer < 0 else self._names[layer * each : (layer + 1) * each]

    def _packed(self, layer: int, tensors: Sequence[Tensor]) -> functional.Packed:
        """These parameters, packed anew if a value has changed.

        Version counters and addresses would tell sooner, but neither changes when p.data.mul_() (as in target networks
        and moving averages), NumPy or another process writes to the memory.
        """
        names = self._names[: len(tensors)]  # the only layer's are those of the lowest
        params = {name: tensor.detach().numpy() for name, tensor in zip(names, tensors, strict=True)}
        rates = CELLS[self._cell].regularization(0.0, self.recurrent_dropout, self.zoneout)
        kept, found = self._packs.get(layer, ({}, None))
        if found is not None and found.regularization != rates:
            found = None
        if found is None or not all(_same_bits(array, kept[name]) for name, array in params.items()):
            kept = {name: array.copy() for name, array in params.items()}
            if found is None or found.dtype != kept[names[0]].dtype:
                found = functional.pack(self._cell, kept, self._constants, None, rates)
            else:  # which keeps the workspace
                found = found.with_parameters(kept)
            self._packs[layer] = kept, found
        return found

    def _check_input(self, x: Tensor, packed: bool) -> tuple[int, ...]:
        """The batch's shape: (B,), or () without one."""
        axes = ("B", "T") if self.batch_first and not packed else ("T", "B")
        patterns = [(*axes, self.input_size)] + ([] if packed else [("T", self.input_size)])
        shape = _check("input", x, self._dtype, *patterns).shape
        return (shape[axes.index("B")],) if len(shape) == 3 else ()

    def _checked_state(self, hx: Any, batch: tuple[int, ...]) -> list[Tensor]:
        if hx is None:
            return []
        states = CELLS[self._cell].states
        if len(states) == 1:
            hx = (hx,)
        elif not isinstance(hx, (tuple, list)) or len(hx) != len(states):
            got = f"{len(hx)} values" if isinstance(hx, (tuple, list)) else type(hx).__name__
            raise TypeError(f"hx: expected a tuple ({', '.join(name for name, _ in states)}), got {got}")
        for (name, _), size, value in zip(states, self._state_widths, hx, strict=True):
            shape = (self.num_layers * self._directions, *batch, size)
            _check(f"hx {name}", value, self._dtype, shape)
        return list(hx)

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def _state_widths(self) -> list[int]:
        return [self.hidden_size if dim == "hidden" else self._output_size for _, dim in CELLS[self._cell].states]

    @property
    def _output_size(self) -> int:
        return self.proj_size or self.hidden_size

    @property
    def _dtype(self) -> Any:
        return _check("weight_ih_l0", self.weight_ih_l0).dtype

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_packs": {}}  # packed again where it wakes up
        del state["_number"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call,unused-ignore]
        self._number = _torch_ops.register(self)

    def extra_repr(self) -> str:
        """As torch.nn's: sizes, and what is not default."""
        shown = [str(self.input_size), str(self.hidden_size)]
        for name, default in _DEFAULTS.items():
            if (value := self.__dict__.get(name, default)) != default:
                shown.append(f"{name}={value}")
        return ", ".join(shown)


class LSTM(_Layers):
    """torch.nn.LSTM, or one of its relatives.

    Args, besides those of torch.nn.LSTM:
        peephole, coupled, cell_clip, recurrent_dropout, zoneout: as of `recurra.LSTM`.
    """

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
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        recompute: bool = False,
    ) -> None:
        cell, constants = lstm_cell(coupled, peephole, projected=bool(proj_size)), lstm_constants(cell_clip)
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size)
        super().__init__(cell, constants, shape, device, dtype, recompute, recurrent_dropout, zoneout)
        self.peephole, self.coupled, self.cell_clip = peephole, coupled, cell_clip


class GRU(_Layers):
    """torch.nn.GRU, or one of its relatives.

    Args, besides those of torch.nn.GRU:
        reset, update, recurrent_dropout, zoneout: as of `recurra.GRU`.
    """

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
    ) -> None:
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0)
        super().__init__(gru_cell(reset, update), {}, shape, device, dtype, recompute, recurrent_dropout, zoneout)
        self.reset, self.update = reset, update


class RNN(_Layers):
    """torch.nn.RNN, with one more nonlinearity.

    Args, besides those of torch.nn.RNN:
        nonlinearity: "tanh", "relu" or "sigmoid".
        recurrent_dropout, zoneout: as of `recurra.RNN`.
    """

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
    ) -> None:
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0)
        super().__init__(rnn_cell(nonlinearity), {}, shape, device, dtype, recompute, recurrent_dropout, zoneout)
        self.nonlinearity = nonlinearity


class _Sequence(torch.autograd.Function):  # type: ignore[misc,unused-ignore]
    """A call with gradients: apply(packed, options, number of states, x, *states, *parameters) -> y, *final states."""

    @staticmethod
    def forward(
        ctx: Any, packed: functional.Packed, options: dict[str, Any], states: int, x: Tensor, *more: Tensor
    ) -> Any:
        ctx.set_materialize_grads(False)
        ctx.states = states
        results, (ctx.tape,) = _torch_ops.call(functional.forward, packed, options, x, more[:states])
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        if ctx.tape is None:
            raise RuntimeError(
                "recurra.torch: a second backward through this call needs retain_graph=True in the first"
            )
        needed = ctx.needs_input_grad
        if all(grad is None for grad in grads):
            return (None,) * len(needed)
        dy, *final = [None if grad is None else grad.detach().numpy() for grad in grads]
        dstate = None if all(part is None for part in final) else functional.unwrapped(final)  # type: ignore[arg-type]
        dx, state, params = ctx.tape.backward(dy, dstate, input_grad=needed[3])
        if not _keeps_graph():
            ctx.tape = None
        initial = functional.wrapped(state)[: ctx.states]
        arrays = (None, None, None, dx, *initial, *params.values())
        found = tuple(torch.from_numpy(array) if need else None for array, need in zip(arrays, needed, strict=True))
        if torch.is_grad_enabled():  # create_graph=True
            return _torch_ops.first_order(*found)
        return found


def _check(name: str, value: Any, dtype: Any = None, *patterns: tuple[int | str, ...]) -> Tensor:
    """`value`, if it is a tensor the core can read, of this dtype and of one of the shapes, if any are given."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if value.device.type != "cpu":
        raise ValueError(f"{name}: expected CPU memory, got {value.device}")
    if value.dtype not in _DTYPES:
        raise TypeError(f"{name}: expected torch.float32 or torch.float64, got {value.dtype}")
    if dtype not in (None, value.dtype):
        raise TypeError(f"{name}: expected {dtype}, got {value.dtype}")
    if patterns:
        check_shape(name, value.shape, *patterns)
    return value


def _same_bits(a: Array, b: Array) -> bool:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    integers = f"i{a.itemsize}"  # NaN is not equal to itself, and -0.0 is to 0.0
    return np.array_equal(a.view(integers), b.view(integers))
