"""What happens when a module is called, for layers and single steps alike."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from .._arrays import bounded, require_rows, vector
from .._cells import CELLS, Sizes
from . import compiled, equations
from .gradients import Plan, run_untrained, sequence
from .tensors import check, differentiates_forward, is_transforming
from .weights import OneStep, Weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._arrays import Array

__all__ = ["CoreModule"]

Tensor = Any  # torch.Tensor, whose types are not there to check where torch is not

_HALVES = (torch.bfloat16, torch.float16)


class CoreModule:
    """A mixin for torch.nn's recurrent modules, which keep parameters, attributes and their checks."""

    recurrent_dropout: float = 0.0
    zoneout: float | tuple[float, float] = 0.0
    recompute: bool = False
    _cell: str
    _constants: dict[str, float]
    _number: Tensor
    _weights: Weights
    _step: tuple[OneStep, Any] | None

    def _settle(self) -> None:
        """Make what a module needs beside what it is pickled with."""
        self._number = compiled.register(self)
        self._weights, self._step = Weights(), None

    # ---- what modules say of themselves

    @property
    def _names(self) -> Sequence[str]:
        """Of the attributes that are parameters, in torch's order."""
        raise NotImplementedError

    @property
    def _sizes(self) -> Sizes:
        raise NotImplementedError

    def _parameter(self, name: str) -> Tensor:
        found = self._parameters.get(name)  # type: ignore[attr-defined]  # many times faster, where it is there
        return getattr(self, name) if found is None else found

    def _of_torch(self) -> str | None:
        """Why torch.nn has no module that computes the same, or None where it has."""
        zoneout = self.zoneout if isinstance(self.zoneout, tuple) else (self.zoneout,)
        if self._cell not in ("rnn_tanh", "rnn_relu", "lstm", "lstm_projected", "gru"):
            return f"cell {self._cell!r}"
        if self._constants:
            return ", ".join(f"{name}={value}" for name, value in self._constants.items())
        if any(zoneout):
            return f"zoneout={self.zoneout}"
        return f"recurrent_dropout={self.recurrent_dropout}" if self.recurrent_dropout else None

    def _inherited(self, what: str, lengths: Any) -> Any:
        """torch.nn's own forward, for what records operations of torch's."""
        reason = "lengths" if lengths is not None else self._of_torch()
        if reason is not None:
            raise RuntimeError(f"recurra.torch: {what} needs operations of torch's own, which has none for {reason}")
        return super().forward  # type: ignore[misc]

    def __prepare_scriptable__(self) -> Any:
        raise RuntimeError(
            "recurra.torch: torch.jit.script compiles Python, of which this module is not made; script "
            "recurra.torch.revert(model), which has torch.nn's layers in their place"
        )

    @property
    def qconfig(self) -> Any:
        """Of torch.ao.quantization, which replaces torch.nn's own classes only."""
        raise AttributeError("qconfig")

    @qconfig.setter
    def qconfig(self, value: Any) -> None:
        warnings.warn(
            "recurra.torch: torch.ao.quantization leaves this layer as it is; quantize recurra.torch.revert(model), or "
            "load the parameters into a layer of recurra and call its quantize",
            stacklevel=2,
        )

    @qconfig.deleter
    def qconfig(self) -> None: ...

    # ---- a call

    def _call_sequence(self, input: Any, hx: Any, lengths: Any) -> tuple[Any, list[Tensor]]:
        """(output, final states), of sequences."""
        packed = isinstance(input, PackedSequence)
        x: Tensor = input
        sizes: Tensor = None
        order: Tensor = None
        if packed:  # padded in its own order, by falling length, without a look at its indices
            if lengths is not None:
                raise ValueError("lengths: expected None with a PackedSequence, which has its own")
            data = self._widened(input.data)
            check("input.data", data)
            x, sizes = pad_packed_sequence(PackedSequence(data, input.batch_sizes))
            order = input.sorted_indices
        x = self._widened(x)
        batch = self._check_input(x, packed)
        state = self._checked_state(hx, batch)
        if order is not None:
            state = [part.index_select(1, order) for part in state]
        valid = sizes.numpy() if packed else self._checked_lengths(lengths, x, batch)
        y, final = self._run_layers(x, state, valid, self.batch_first and not packed and bool(batch))  # type: ignore[attr-defined]
        if packed:
            if input.unsorted_indices is not None:
                final = [part.index_select(1, input.unsorted_indices) for part in final]
            y = input._replace(data=pack_padded_sequence(y, sizes).data)
        return y, final

    def _run_layers(
        self, x: Tensor, state: list[Tensor], lengths: Array | None, batch_first: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """All layers in one call, or one after another if there is dropout between them."""
        layers, dropout = self._sizes.layers, getattr(self, "dropout", 0.0)
        if not (self.training and dropout and layers > 1):  # type: ignore[attr-defined]
            return self._run(-1, x, state, lengths, batch_first)
        x = x.transpose(0, 1) if batch_first else x  # a mask in torch.nn runs over [T, B, ...] or over packed data
        finals, each = [], self._sizes.directions
        for layer in range(layers):
            if layer:
                x = self._dropped(x, lengths, dropout)
            own = [part[layer * each : (layer + 1) * each] for part in state]
            x, final = self._run(layer, x, own, lengths, False)
            finals.append(final)
        return x.transpose(0, 1) if batch_first else x, [torch.cat(part) for part in zip(*finals, strict=True)]

    def _dropped(self, x: Tensor, lengths: Array | None, dropout: float) -> Tensor:
        if lengths is None or not (lengths[:-1] >= lengths[1:]).all() or not lengths.all():
            return torch.nn.functional.dropout(x, dropout)
        # On packed data, as torch.nn, for the same masks; by indices, as torch packs in neither forward mode nor vmap.
        places = tuple(map(torch.from_numpy, np.nonzero(np.arange(len(x))[:, None] < lengths)))
        return torch.zeros_like(x).index_put(places, torch.nn.functional.dropout(x[places], dropout))

    def _run(
        self, layer: int, x: Tensor, state: list[Tensor], lengths: Array | None, batch_first: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """One layer, or all of them for -1."""
        params = [check(name, self._parameter(name)) for name in self._names_of(layer)]
        zoneout = self.zoneout if isinstance(self.zoneout, tuple) else (self.zoneout,)
        noisy = self.training and any((self.recurrent_dropout, *zoneout))  # type: ignore[attr-defined]
        seed = torch.randint(1 << 62, (), dtype=torch.int64, device="cpu") if noisy else None
        trains = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *state, *params))
        if torch.compiler.is_compiling() and lengths is None:
            sizes = self._sizes
            lanes = sizes.directions * (sizes.layers if layer < 0 else 1)
            shapes = (sizes.directions * sizes.output, lanes, self._state_widths)
            y, *final = compiled.sequence(x, state, params, seed, self._number, layer, batch_first, trains, *shapes)
            return y, final[:-1] if trains else final
        if is_transforming() or differentiates_forward():
            y, *final = equations.run(self._equations(layer, lengths, batch_first, seed), x, state, params)
            return y, final
        plan = self._plan(layer, params, lengths, batch_first, seed)
        y, *final = sequence(plan, x, state, params) if trains else run_untrained(plan, x, state)
        return y, final

    def _equations(self, layer: int, lengths: Array | None, batch_first: bool, seed: Tensor | None) -> equations.Call:
        sizes = self._sizes
        layers = sizes.layers if layer < 0 else 1
        if seed is not None and torch._C._functorch.is_batchedtensor(seed):
            raise RuntimeError("torch.func.vmap: recurrent_dropout and zoneout need randomness='same', got 'different'")
        drawn = None if seed is None else int(seed)
        return equations.Call(
            self._cell, self._constants, self._rates, layers, sizes.directions, sizes.bias, lengths, batch_first, drawn
        )

    def _plan(
        self, layer: int, params: Sequence[Tensor], lengths: Array | None, batch_first: bool, seed: Tensor | None
    ) -> Plan:
        """For a call of the core, with parameters as they are now."""
        call = self._equations(layer, lengths, batch_first, seed)
        names = self._packed_names[: len(params)]  # the only layer's are those of the lowest
        packed = self._weights.packed(layer, self._cell, self._constants, call.rates, names, params)
        return Plan(call, packed, self._weights, self.recompute)

    def _names_of(self, layer: int) -> Sequence[str]:
        each = len(self._names) // self._sizes.layers
        return self._names if layer < 0 else self._names[layer * each : (layer + 1) * each]

    @property
    def _packed_names(self) -> Sequence[str]:
        """What the core calls the parameters."""
        return self._names

    # ---- one step of one row

    def _quick(self, x: Any, hx: Any, shapes: Any) -> list[Tensor] | None:
        """[y, *final states] where nothing is out of the ordinary; None, and nothing done, if something is."""
        if (
            torch.is_grad_enabled()
            or is_transforming()
            or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call,unused-ignore]
            or torch._C._len_torch_dispatch_stack()
            or differentiates_forward()
            or self.zoneout
            or (self.training and (self.recurrent_dropout or getattr(self, "dropout", 0.0)))  # type: ignore[attr-defined]
        ):
            return None
        first = self._parameters.get(self._names[0])  # type: ignore[attr-defined]
        dtype = getattr(first, "dtype", None)
        if dtype is not torch.float32 and dtype is not torch.float64:
            return None
        kept = self._step
        if kept is None or kept[0].dtype is not dtype:
            kept = self._step = OneStep(self._cell, self._constants, self._sizes, dtype), None
        state = (hx,) if len(shapes[2]) == 1 and hx is not None else hx
        if state is not None and (type(state) is not tuple or len(state) != len(shapes[2])):
            return None
        return kept[0](x, state, [self._parameter(name) for name in self._names], shapes)

    # ---- checks

    def _widened(self, tensor: Any) -> Any:
        """Under autocast, what a module before this one computed in less: recurrent layers run in float32."""
        if not isinstance(tensor, torch.Tensor) or tensor.dtype not in _HALVES or not torch.is_autocast_enabled("cpu"):
            return tensor
        return tensor.float() if self._dtype == torch.float32 else tensor

    def _check_input(self, x: Tensor, packed: bool) -> tuple[int, ...]:
        """The batch's shape: (B,), or () without one."""
        axes = ("B", "T") if self.batch_first and not packed else ("T", "B")  # type: ignore[attr-defined]
        size = self._sizes.input
        patterns = [(*axes, size)] + ([] if packed else [("T", size)])
        shape = check("input", x, self._dtype, *patterns).shape
        if len(shape) != 3:
            return ()
        rows = shape[axes.index("B")]
        require_rows("input", rows)
        return (rows,)

    def _checked_state(self, hx: Any, batch: tuple[int, ...]) -> list[Tensor]:
        if hx is None:
            return []
        states, sizes = CELLS[self._cell].states, self._sizes
        if len(states) == 1:
            hx = (hx,)
        elif not isinstance(hx, (tuple, list)) or len(hx) != len(states):
            got = f"{len(hx)} values" if isinstance(hx, (tuple, list)) else type(hx).__name__
            raise TypeError(f"hx: expected a tuple ({', '.join(name for name, _ in states)}), got {got}")
        hx = [self._widened(part) for part in hx]
        for (name, _), size, value in zip(states, self._state_widths, hx, strict=True):
            check(f"hx {name}", value, self._dtype, (sizes.layers * sizes.directions, *batch, size))
        return list(hx)

    def _checked_lengths(self, lengths: Any, x: Tensor, batch: tuple[int, ...]) -> Array | None:
        if lengths is None:
            return None
        if not batch:
            raise ValueError(
                f"lengths: expected none without a batch axis, got them with input of shape {list(x.shape)}"
            )
        steps = x.shape[1 if self.batch_first else 0]  # type: ignore[attr-defined]
        return bounded("lengths", vector("lengths", lengths, batch[0]), steps)

    @property
    def _dtype(self) -> Any:
        return check(self._names[0], self._parameter(self._names[0])).dtype

    @property
    def _rates(self) -> Any:
        return CELLS[self._cell].regularization(0.0, self.recurrent_dropout, self.zoneout)

    @property
    def _state_widths(self) -> list[int]:
        sizes = self._sizes
        return [sizes.hidden if dim == "hidden" else sizes.output for _, dim in CELLS[self._cell].states]
