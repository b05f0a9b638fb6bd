"""What happens when a module is called, for layers and single steps alike."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from .._arrays import check_shape, require_rows, row_lengths
from .._cells import CELLS, Sizes
from .._marks import PREVIOUS
from .._options import placement
from . import compiled, devices, equations, segments
from .cpu import CpuPlan
from .gpu import GpuPlan, Networks
from .gradients import sequence
from .marks import Marks, checked_flags
from .tensors import HALVES, Home, check, differentiates_forward, is_transforming
from .weights import OneStep, Weights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .. import _marks
    from .._arrays import Array
    from .gradients import Plan

__all__ = ["NOT_PICKLED", "CoreModule", "gpu_options"]

Tensor = Any  # torch.Tensor, whose types are not there to check where torch is not


NOT_PICKLED = ("_number", "_weights", "_networks", "_step", "_shapes")  # attributes that are made again


def gpu_options(engine: Any, allow_tf32: Any) -> tuple[str, bool]:
    """The options about GPUs, checked as far as they can be before there is one."""
    narrow = isinstance(engine, str) and engine == "cublas-resident"  # for 16 bits, which a module may be converted to
    place = placement("cuda", "float16" if narrow else "float32", engine, allow_tf32)
    return place.engine, place.allow_tf32


class CoreModule:
    """A mixin for torch.nn's recurrent modules, which keep parameters, attributes and their checks."""

    recurrent_dropout: float = 0.0
    zoneout: float | tuple[float, ...] = 0.0
    recompute: bool = False
    grad_clip: float | None = None
    engine: str = "auto"
    allow_tf32: bool = False
    heads: int = 1
    _cell: str
    _constants: dict[str, float]
    _number: Tensor
    _weights: Weights
    _networks: Networks
    _step: tuple[OneStep, Any] | None

    def _settle(self) -> None:
        """Make what a module needs beside what it is pickled with."""
        self._number = compiled.register(self)
        self._weights, self._networks, self._step = Weights(), Networks(), None

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
        if self._sizes.reverse:
            return "direction='reverse'"
        if self._sizes.proj_bias:
            return "proj_bias=True"
        if getattr(self, "initial_state", False):
            return "initial_state=True"
        if self.grad_clip is not None:
            return f"grad_clip={self.grad_clip}"
        if any(zoneout):
            return f"zoneout={self.zoneout}"
        return f"recurrent_dropout={self.recurrent_dropout}" if self.recurrent_dropout else None

    def _inherited(self, what: str, argument: str | None) -> Any:
        """torch.nn's own forward, for what records operations of torch's; without an argument that it has not."""
        reason = argument or self._of_torch()
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

    def _call_sequence(
        self, input: Any, hx: Any, lengths: Any, given: _marks.Marks | None = None, cells: bool = False
    ) -> tuple[Any, list[Tensor], Any]:
        """(output, final states, cells or None), of sequences."""
        packed, home = isinstance(input, PackedSequence), self._home
        x: Tensor = input
        sizes: Tensor = None
        order: Tensor = None
        if packed:  # padded in its own order, by falling length, without a look at its indices
            if lengths is not None:
                raise ValueError("lengths: expected None with a PackedSequence, which has its own")
            data = self._cast(input.data)
            check("input.data", data, home=home)
            if home.gpu is not None:
                return self._call_packed(input._replace(data=data), hx, home, cells)
            x, sizes = pad_packed_sequence(PackedSequence(data, input.batch_sizes))
            order = input.sorted_indices
        x = self._cast(x)
        batch = self._check_input(x, packed, home)
        state = self._checked_state(hx, batch, home)
        if order is not None:
            state = [part.index_select(1, order) for part in state]
        valid = sizes.numpy() if packed else self._checked_lengths(lengths, x, batch)
        marks, fresh = (None, []) if given is None else self._checked_marks(given, x, batch, home)
        by_batch = self.batch_first and not packed and bool(batch)  # type: ignore[attr-defined]
        of_steps: Any
        y, final, of_steps = self._run_layers(x, [*state, *fresh], valid, by_batch, marks, cells)
        if packed:
            if input.unsorted_indices is not None:
                final = [part.index_select(1, input.unsorted_indices) for part in final]
            y = input._replace(data=pack_padded_sequence(y, sizes).data)
            if cells:
                of_steps = input._replace(data=pack_padded_sequence(of_steps, sizes).data)
        return y, final, of_steps

    def _call_packed(
        self, input: PackedSequence, hx: Any, home: Home, cells: bool
    ) -> tuple[PackedSequence, list[Tensor], Any]:
        """The same, on a GPU: the core takes the packed rows as they are."""
        data = check("input.data", input.data, home.number, ("N", self._sizes.input))
        lengths = _lengths_of(input.batch_sizes, len(data))
        state = self._checked_state(hx, (len(lengths),), home)
        if input.sorted_indices is not None:
            state = [part.index_select(1, input.sorted_indices) for part in state]
        of_steps: Any
        y, final, of_steps = self._run_layers(data, state, lengths, False, None, cells)
        if input.unsorted_indices is not None:
            final = [part.index_select(1, input.unsorted_indices) for part in final]
        return input._replace(data=y), final, input._replace(data=of_steps) if cells else None

    def _run_layers(
        self,
        x: Tensor,
        state: list[Tensor],
        lengths: Array | Tensor | None,
        batch_first: bool,
        marks: Marks | None = None,
        cells: bool = False,
    ) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """All layers in one call, or one after another if there is dropout between them."""
        layers, dropout = self._sizes.layers, getattr(self, "dropout", 0.0)
        if not (self.training and dropout and layers > 1):  # type: ignore[attr-defined]
            return self._run(-1, x, state, lengths, batch_first, marks, cells)
        x = x.transpose(0, 1) if batch_first else x  # a mask in torch.nn runs over [T, B, ...] or over packed data
        finals, each, of_steps = [], self._sizes.directions, None
        for layer in range(layers):
            if layer:
                x = self._dropped(x, lengths, dropout)
            own = [part[layer * each : (layer + 1) * each] for part in state]
            x, final, of_steps = self._run(layer, x, own, lengths, False, marks, cells and layer == layers - 1)
            finals.append(final)
        if batch_first:
            x, of_steps = x.transpose(0, 1), None if of_steps is None else of_steps.transpose(0, 1)
        return x, [torch.cat(part) for part in zip(*finals, strict=True)], of_steps

    def _dropped(self, x: Tensor, lengths: Array | Tensor | None, dropout: float) -> Tensor:
        if (
            lengths is None
            or devices.gpu_of(x) is not None
            or not (lengths[:-1] >= lengths[1:]).all()
            or not lengths.all()
        ):
            return torch.nn.functional.dropout(x, dropout)
        # On packed data, as torch.nn, for the same masks; by indices, as torch packs in neither forward mode nor vmap.
        places = tuple(map(torch.from_numpy, np.nonzero(np.arange(len(x))[:, None] < lengths)))
        return torch.zeros_like(x).index_put(places, torch.nn.functional.dropout(x[places], dropout))

    def _run(
        self,
        layer: int,
        x: Tensor,
        state: list[Tensor],
        lengths: Array | Tensor | None,
        batch_first: bool,
        marks: Marks | None = None,
        cells: bool = False,
    ) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """One layer, or all of them for -1."""
        home = self._home
        params = [check(name, self._parameter(name), home=home) for name in self._names_of(layer)]
        zoneout = self.zoneout if isinstance(self.zoneout, tuple) else (self.zoneout,)
        noisy = self.training and any((self.recurrent_dropout, *zoneout))  # type: ignore[attr-defined]
        if noisy and home.gpu is not None and devices.is_capturing():
            raise RuntimeError(
                "recurra.torch: recurrent_dropout and zoneout in training mode cannot be captured in a CUDA graph: "
                "every replay would leave out the same"
            )
        seed = torch.randint(1 << 62, (), dtype=torch.int64, device="cpu") if noisy else None
        trains = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *state, *params))
        if torch.compiler.is_compiling() and lengths is None:
            sizes, (resets, mask, *rest) = self._sizes, (None, None, PREVIOUS, 0) if marks is None else marks
            lanes = sizes.directions * (sizes.layers if layer < 0 else 1)
            widths = (sizes.directions * sizes.output, sizes.directions * sizes.hidden if cells else 0)
            flags = (resets, mask, seed, self._number, *rest, layer, batch_first, trains)
            y, *final = compiled.sequence(x, state, params, *flags, *widths, lanes, self._state_widths)
            final = final[:-1] if trains else final
            return y, final, final.pop() if cells else None
        if self.grad_clip is not None and is_transforming():
            raise RuntimeError("recurra.torch: grad_clip is not available in torch.func")
        if is_transforming() or differentiates_forward():
            call = self._equations(layer, lengths, batch_first, seed, marks, cells)
            y, *final = equations.run(call, x, state, params)
        elif home.gpu is not None and marks is not None:

            def run_rows(x: Tensor, state: list[Tensor], lengths: Array, parts: Array) -> list[Tensor]:
                plan = self._plan(layer, x.dtype, params, lengths, False, seed, None, cells, parts)
                return sequence(plan, x, state, params) if trains else plan.run(x, state)

            y, *final = self._run_segments(run_rows, x, state, lengths, batch_first, marks, cells)
        else:
            plan = self._plan(layer, x.dtype, params, lengths, batch_first, seed, marks, cells)
            y, *final = sequence(plan, x, state, params) if trains else plan.run(x, state)
        return y, final, final.pop() if cells else None

    def _run_segments(
        self,
        run_rows: Callable[..., list[Tensor]],
        x: Tensor,
        state: list[Tensor],
        lengths: Array | Tensor | None,
        batch_first: bool,
        marks: Marks,
        cells: bool,
    ) -> list[Tensor]:
        """A call with marks, by one without: of the sequences between resets."""
        unbatched = x.dim() == 2
        if unbatched:
            x, state = x.unsqueeze(1), [part.unsqueeze(1) for part in state]
        x = x.transpose(0, 1) if batch_first else x
        results = segments.run(run_rows, x, state, lengths, marks, cells, self._sizes.backwards)
        if unbatched:
            return [part.squeeze(1) for part in results]
        sequences = (0, len(results) - 1) if cells else (0,)
        return [part.transpose(0, 1) if batch_first and k in sequences else part for k, part in enumerate(results)]

    def _equations(
        self,
        layer: int,
        lengths: Array | Tensor | None,
        batch_first: bool,
        seed: Tensor | None,
        marks: Marks | None = None,
        cells: bool = False,
        parts: Array | None = None,
    ) -> equations.Call:
        sizes = self._sizes
        layers = sizes.layers if layer < 0 else 1
        if seed is not None and torch._C._functorch.is_batchedtensor(seed):
            raise RuntimeError("torch.func.vmap: recurrent_dropout and zoneout need randomness='same', got 'different'")
        drawn = None if seed is None else int(seed)
        return equations.Call(
            self._cell,
            self._constants,
            self._rates,
            layers,
            sizes.directions,
            sizes.bias,
            lengths,
            batch_first,
            drawn,
            marks,
            sizes.reverse,
            sizes.proj_bias,
            cells,
            self.grad_clip,
            parts,
        )

    def _plan(
        self,
        layer: int,
        dtype: Any,
        params: Sequence[Tensor],
        lengths: Array | Tensor | None,
        batch_first: bool,
        seed: Tensor | None,
        marks: Marks | None = None,
        cells: bool = False,
        parts: Array | None = None,
    ) -> Plan:
        """For a call of the core with an input of this dtype, with parameters as they are now."""
        call = self._equations(layer, lengths, batch_first, seed, marks, cells, parts)
        names = self._packed_names[: len(params)]  # the only layer's are those of the lowest
        gpu = devices.gpu_of(params[0])
        if gpu is None:
            way = self._sizes.direction
            packed = self._weights.packed(layer, self._cell, self._constants, call.rates, way, names, params)
            return CpuPlan(call, packed, self._weights, self.recompute)
        sizes = self._sizes
        if layer >= 0:
            sizes = sizes._replace(layers=1, input=sizes.directions * sizes.output if layer else sizes.input)
        for name, param, shape in zip(
            self._names_of(layer), params, CELLS[self._cell].shapes(sizes).values(), strict=True
        ):
            check(name, param, params[0].dtype, shape)
        options = (self.engine, self.allow_tf32, self._cell, sizes, self._constants, call.rates)
        return GpuPlan(call, self._networks.find(gpu, dtype, *options), names, params, self.recompute)

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
            or self.heads > 1
            or self.zoneout
            or (self.training and (self.recurrent_dropout or getattr(self, "dropout", 0.0)))  # type: ignore[attr-defined]
        ):
            return None
        first = self._parameters.get(self._names[0])  # type: ignore[attr-defined]
        dtype = getattr(first, "dtype", None)
        if (dtype is not torch.float32 and dtype is not torch.float64) or not first.is_cpu:
            return None
        kept = self._step
        if kept is None or kept[0].dtype is not dtype:
            kept = self._step = OneStep(self._cell, self._constants, self._sizes, dtype), None
        state = (hx,) if len(shapes[2]) == 1 and hx is not None else hx
        if state is not None and (type(state) is not tuple or len(state) != len(shapes[2])):
            return None
        return kept[0](x, state, [self._parameter(name) for name in self._names], shapes)

    # ---- checks

    def _cast(self, tensor: Any) -> Any:
        """An input or state under autocast: on a GPU in its dtype, as torch.nn's layers run there. On the CPU recurrent
        layers run in float32, whatever a module before this one computed in less."""
        if not isinstance(tensor, torch.Tensor):
            return tensor
        gpu = devices.gpu_of(tensor)
        if gpu is not None:
            lowers = devices.autocast_dtype(gpu) and tensor.is_floating_point() and tensor.dtype != torch.float64
            return tensor.to(self._home.number) if lowers else tensor
        if tensor.dtype not in HALVES or not torch.is_autocast_enabled("cpu"):
            return tensor
        return tensor.float() if self._home.dtype == torch.float32 else tensor

    def _check_input(self, x: Tensor, packed: bool, home: Home) -> tuple[int, ...]:
        """The batch's shape: (B,), or () without one."""
        axes = ("B", "T") if self.batch_first and not packed else ("T", "B")  # type: ignore[attr-defined]
        size = self._sizes.input
        patterns = [(*axes, size)] + ([] if packed else [("T", size)])
        shape = check("input", x, home.number, *patterns, home=home).shape
        if len(shape) != 3:
            return ()
        rows = shape[axes.index("B")]
        require_rows("input", rows)
        return (rows,)

    def _checked_state(self, hx: Any, batch: tuple[int, ...], home: Home) -> list[Tensor]:
        return self._checked_states("hx", hx, batch, home)

    def _checked_states(
        self, title: str, hx: Any, batch: tuple[int, ...], home: Home, shared: bool = False
    ) -> list[Tensor]:
        """With a batch axis all; `shared`: they may be given without."""
        if hx is None:
            return self._learned_state(batch, home)
        states, sizes = CELLS[self._cell].states, self._sizes
        if len(states) == 1:
            hx = (hx,)
        elif not isinstance(hx, (tuple, list)) or len(hx) != len(states):
            got = f"{len(hx)} values" if isinstance(hx, (tuple, list)) else type(hx).__name__
            raise TypeError(f"{title}: expected a tuple ({', '.join(name for name, _ in states)}), got {got}")
        hx = [self._cast(part) for part in hx]
        lanes = sizes.layers * sizes.directions
        for (name, _), size, value in zip(states, self._state_widths, hx, strict=True):
            patterns = ((lanes, *batch, size), (lanes, size)) if shared else ((lanes, *batch, size),)
            check(f"{title} {name}", value, home.number, *patterns, home=home)
        return [part.unsqueeze(1).expand(-1, *batch, -1) if batch and part.dim() == 2 else part for part in hx]

    def _checked_marks(
        self, given: _marks.Marks, x: Tensor, batch: tuple[int, ...], home: Home
    ) -> tuple[Marks, list[Tensor]]:
        """What a call is to do, and the states that resets lead to."""
        batch_first = bool(batch) and self.batch_first  # type: ignore[attr-defined]
        steps = x.shape[1 if batch_first else 0]
        resets, mask = (
            None if value is None else checked_flags(name, value, steps, batch, batch_first, home)
            for name, value in (("resets", given.resets), ("mask", given.mask))
        )
        fresh = []
        if given.resets is not None:
            fresh = self._checked_states("reset_state", given.reset_state, batch, home, shared=True)
        return Marks(resets, mask, given.masked_output, len(fresh)), fresh

    def _learned_state(self, batch: tuple[int, ...], home: Home) -> list[Tensor]:
        """What a call starts from that is given no state: none for zeros."""
        return []

    def _checked_lengths(self, lengths: Any, x: Tensor, batch: tuple[int, ...]) -> Array | Tensor | None:
        if lengths is None:
            return None
        if not batch:
            raise ValueError(
                f"lengths: expected none without a batch axis, got them with input of shape {list(x.shape)}"
            )
        steps = x.shape[1 if self.batch_first else 0]  # type: ignore[attr-defined]
        gpu = self._home.gpu
        if gpu is None or not isinstance(lengths, torch.Tensor) or devices.gpu_of(lengths) != gpu:
            return row_lengths(lengths, batch[0], steps)
        if lengths.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"lengths: expected torch.int32 or torch.int64 on a GPU, got {lengths.dtype}")
        check_shape("lengths", lengths.shape, batch)
        # Nothing outside 0..T reaches the core. To look for it, and complain, would be to wait for the GPU.
        return devices.empty(lengths.shape, torch.int32, lengths).copy_(lengths.clamp(0, steps))

    @property
    def _home(self) -> Home:
        name = self._names[0]
        first = check(name, self._parameter(name))
        gpu, dtype = devices.gpu_of(first), first.dtype
        lower = None if dtype == torch.float64 else devices.autocast_dtype(gpu)
        return Home(name, gpu, dtype, dtype if lower is None else lower)

    @property
    def _rates(self) -> Any:
        return CELLS[self._cell].regularization(0.0, self.recurrent_dropout, self.zoneout)

    @property
    def _state_widths(self) -> list[int]:
        sizes = self._sizes
        return [sizes.hidden if dim == "hidden" else sizes.output for _, dim in CELLS[self._cell].states]


def _lengths_of(batch_sizes: Tensor, rows: int) -> Array:
    """Steps of the sequences of a PackedSequence, which fall."""
    sizes = np.array(batch_sizes.tolist())  # which torch.func lets through, as not .numpy()
    if not len(sizes) or sizes[-1] < 1 or (sizes[:-1] < sizes[1:]).any() or sizes.sum() != rows:
        raise ValueError(f"input: expected batch_sizes that fall to 1 or more and sum to {rows}, got {sizes.tolist()}")
    return np.searchsorted(-sizes, -np.arange(sizes[0]))  # how many are more than each row's number
