"""A call of the core on a GPU: on torch's current stream, in memory of torch's allocator.

Nothing here waits for the GPU, and after a module's first call of a kind nothing is allocated but by torch, so calls
and backward passes can be captured in a CUDA graph.

Weights are packed at every call, into memory that belongs to it. That reads the parameters once and writes them once:
67 MB for an LSTM with 1024 inputs and units in float32, which is 17 us at 4 TB/s, as long as 1 % of the arithmetic of
100 steps of 64 rows takes at 67 TFLOP/s. For that, a change of parameters is never missed, whatever made it, a replayed
graph included (version counters do not see what is written through `.data`, by NCCL or by a graph, and to look at the
values themselves would be to wait for the GPU); calls on different streams and of different threads share nothing; and
backward uses the weights that ran.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .. import _core
from .._arrays import memory_for
from .._cells import CELLS, Regularization, Sizes
from .._options import Placement, placement
from ..cuda import _libraries
from . import devices
from .tensors import settled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .._arrays import Array
    from .equations import Call

__all__ = ["GpuPlan", "GpuTape", "Network", "Networks"]

Tensor = Any  # torch.Tensor, whose types are not there to check where torch is not

_PLANS = 64  # kept by a network, of calls whose lengths the host does not know
_NETWORKS = 16  # kept by a module


class Network:
    """The core's network, without weights, and the plans of its calls."""

    def __init__(
        self, place: Placement, cell: str, sizes: Sizes, constants: Mapping[str, float], rates: Regularization
    ) -> None:
        assert place.gpu is not None
        self.cell, self.sizes, self.gpu = CELLS[cell], sizes, place.gpu
        self.dtype: Any = getattr(torch, place.number)  # of inputs, outputs and states
        self.parameter_dtype: Any = torch.float64 if place.number == "float64" else torch.float32
        _core.cuda.device(place.gpu)  # for its error, before that of a library that is missing too
        _libraries.locate()
        with memory_for("weights"):
            self.core = _core.cuda.Network(
                cell,
                place.number,
                sizes.input,
                sizes.hidden,
                sizes.output,
                sizes.layers,
                sizes.directions,
                list(self.cell.constant_values(constants, place.parameter_dtype, sizes.directions).values()),
                rates,
                place.gpu,
                place.engine,
                place.allow_tf32,
                sizes.reverse,
                sizes.heads,
            )
        self._plans: dict[tuple[int, int, bool, bool, bool, bool], _core.cuda.Plan] = {}

    def pack(self, names: Sequence[str], tensors: Sequence[Tensor]) -> Tensor:
        """These parameters as the core wants them, of float32 or float64."""
        # Kept until the work has been put on the stream; what is given back then is used again after it.
        given = {n: settled(t).to(self.parameter_dtype).contiguous() for n, t in zip(names, tensors, strict=True)}
        packed = devices.empty((self.core.weight_bytes,), torch.uint8, tensors[0])
        self.core.pack(self.addresses(given), packed.data_ptr(), devices.current_stream(self.gpu))
        return packed

    def addresses(self, tensors: Mapping[str, Tensor | None]) -> list[list[int]]:
        """Of parameters, or of memory for their gradients, as the core counts them."""
        lanes = self.cell.by_layer(self.sizes, tensors)
        return [[0 if tensor is None else tensor.data_ptr() for tensor in lane] for lane in lanes]

    def plan(
        self,
        steps: int,
        rows: int,
        lengths: Any,
        packed: bool,
        training: bool,
        recompute: bool,
        cells: bool,
        parts: Array | None,
    ) -> Any:
        """The same object for the same call, for graphs are made from it."""
        on_device = isinstance(lengths, torch.Tensor)
        if lengths is not None and not on_device:
            return self.core.plan(steps, rows, lengths, False, training, recompute, packed, cells, parts)
        key = (steps, rows, on_device, training, recompute, cells)
        found = self._plans.get(key)
        if found is None:
            made = self.core.plan(steps, rows, None, on_device, training, recompute, cells=cells)
            found = self._plans.setdefault(key, made)
            while len(self._plans) > _PLANS:
                self._plans.pop(next(iter(list(self._plans))), None)
        return found


class Networks:
    """The networks of a module: one for each kind of call. They are made again where the module is copied to."""

    def __init__(self) -> None:
        self._made: dict[Any, Network] = {}

    def find(
        self,
        gpu: int,
        dtype: Any,
        engine: str,
        allow_tf32: bool,
        cell: str,
        sizes: Sizes,
        constants: Mapping[str, float],
        rates: Regularization,
    ) -> Network:
        """The network that runs these on a GPU; allow_tf32 is for calls in float32."""
        key = (gpu, dtype, engine, allow_tf32, sizes, rates)
        found = self._made.get(key)
        if found is None:
            number = str(dtype).removeprefix("torch.")
            place = placement(f"cuda:{gpu}", number, engine, allow_tf32 and number == "float32")
            found = self._made.setdefault(key, Network(place, cell, sizes, constants, rates))
            while len(self._made) > _NETWORKS:
                self._made.pop(next(iter(list(self._made))), None)
        return found


class GpuPlan:
    """See `gradients.Plan`. Its weights have been packed, on the current stream."""

    def __init__(
        self, call: Call, network: Network, names: Sequence[str], params: Sequence[Tensor], recompute: bool
    ) -> None:
        self.call, self.network, self.recompute = call, network, recompute
        self.params = {name: param.dtype for name, param in zip(names, params, strict=True)}
        self._weights = network.pack(names, params)

    def run(self, x: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
        if self.call.seed is None:
            return self._forward(x, state, False, False)[0]
        return self._forward(x, state, True, True)[0]  # the core draws for calls with a tape only: a small one

    def record(self, x: Tensor, state: Sequence[Tensor]) -> tuple[list[Tensor], GpuTape]:
        results, tape = self._forward(x, state, True, self.recompute)
        assert tape is not None
        return results, tape

    def went_back(self) -> None:
        self._weights = None

    def _forward(
        self, x: Tensor, state: Sequence[Tensor], training: bool, recompute: bool
    ) -> tuple[list[Tensor], GpuTape | None]:
        network, call, dtype = self.network, self.call, self.network.dtype
        lengths = call.lengths
        steps, batch = _extent(x, call)
        lanes = call.layers * call.directions
        widths = [network.sizes.hidden if dim == "hidden" else network.sizes.output for _, dim in network.cell.states]
        rows, packed = batch[0] if batch else 1, bool(batch) and x.dim() == 2
        plan = network.plan(steps, rows, lengths, packed, training, recompute, call.cells, call.parts)
        width = call.directions * network.sizes.hidden
        cells = [devices.empty((*x.shape[:-1], width), dtype, x)] if call.cells else []
        y = devices.empty((*x.shape[:-1], call.directions * network.sizes.output), dtype, x)
        final = [devices.empty((lanes, *batch, width), dtype, x) for width in widths]
        tape = devices.empty((plan.tape_bytes,), torch.uint8, x) if training else None
        workspace = devices.empty((plan.workspace_bytes,), torch.uint8, x)
        x, state = settled(x), [settled(part) for part in state]
        network.core.forward(
            plan,
            strided(x, call.batch_first),
            [strided(part) for part in state] if state else None,
            lengths.data_ptr() if isinstance(lengths, torch.Tensor) else 0,
            strided(y, call.batch_first),
            [strided(part) for part in final],
            call.seed,
            0 if tape is None else tape.data_ptr(),
            workspace.data_ptr(),
            devices.current_stream(network.gpu),
            self._weights.data_ptr(),
            strided(cells[0], call.batch_first) if cells else None,
        )
        if tape is None:
            return [y, *final, *cells], None
        shapes = [x.shape, *(part.shape for part in final)]
        return [y, *final, *cells], GpuTape(self, self._weights, plan, tape, shapes)


class GpuTape:
    """See `gradients.Tape`. Both the tape and the weights that ran are bytes of torch's."""

    def __init__(
        self, plan: GpuPlan, weights: Tensor, core_plan: _core.cuda.Plan, tape: Tensor, shapes: Sequence[Sequence[int]]
    ) -> None:
        self._call, self._network, self._params = plan.call, plan.network, plan.params
        self._weights, self._plan, self._tape, self._shapes = weights, core_plan, tape, shapes

    def gradients(
        self, states: int, needed: Sequence[bool], grads: Sequence[Tensor | None]
    ) -> tuple[Tensor | None, ...]:
        network, call = self._network, self._call
        dy, *final = [None if grad is None else settled(grad) for grad in grads]
        dcells = final.pop() if call.cells else None
        wanted = dict(zip(self._params, needed[1 + states :], strict=True))
        shapes = network.cell.shapes(network.sizes)
        dx = devices.empty(self._shapes[0], network.dtype, self._tape) if needed[0] else None
        any_state = any(needed[1 : 1 + states])
        initial = [devices.empty(shape, network.dtype, self._tape) for shape in self._shapes[1:]] if any_state else None
        params = {
            name: devices.empty(shapes[name], network.parameter_dtype, self._tape)
            for name, want in wanted.items()
            if want
        }
        workspace = devices.empty((self._plan.backward_workspace_bytes,), torch.uint8, self._tape)
        network.core.backward(
            self._plan,
            None if dy is None else strided(dy, call.batch_first),
            [None if part is None else strided(part) for part in final],
            None if dx is None else strided(dx, call.batch_first),
            None if initial is None else [strided(part) for part in initial],
            network.addresses(params),
            False,
            call.seed is not None,
            self._tape.data_ptr(),
            workspace.data_ptr(),
            devices.current_stream(network.gpu),
            self._weights.data_ptr(),
            None if dcells is None else strided(dcells, call.batch_first),
            float("inf") if call.clip is None else call.clip,
        )
        found = [dx, *(initial or [None] * states)[:states]]
        found += [params[name].to(dtype) if name in params else None for name, dtype in self._params.items()]
        return tuple(tensor if need else None for tensor, need in zip(found, needed, strict=True))


def _extent(x: Tensor, call: Call) -> tuple[int, tuple[int, ...]]:
    """Steps, and the batch axis: (B,), or () without one."""
    lengths: Array | Tensor | None = call.lengths
    if x.dim() == 3:
        steps, rows = x.shape[:2][::-1] if call.batch_first else x.shape[:2]
        return steps, (rows,)
    return (x.shape[0], ()) if lengths is None else (int(lengths[0]), (len(lengths),))


def strided(tensor: Tensor, batch_first: bool = False) -> tuple[int, int, int, int]:
    """A sequence or state as the core takes it: address, strides of the outer axis, of rows and of columns. With two
    axes it lacks that of the batch, or is packed."""
    outer, *middle, column = tensor.stride()
    row = middle[0] if middle else outer
    return (
        (tensor.data_ptr(), row, outer, column) if batch_first and middle else (tensor.data_ptr(), outer, row, column)
    )
