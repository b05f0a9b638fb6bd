"""Networks on a GPU: parameters, calls and what they need."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import _core
from .._arrays import memory_for, require_batch, require_rows, row_lengths, unwrapped
from .._marks import Marks
from .._options import choice, flag, noise_seed, split_state
from .._parameters import checked_parameters
from ..packed import Packed, pack, require_same_axes
from ._libraries import require_gpu
from .array_libraries import current_stream
from .arrays import View, is_contiguous, on_gpu, sequence, strided, view
from .initial_state import LearnedState
from .launch import empty, filled, ordered, output, scratch
from .parameters import Parameters, parameter, stream_of
from .segments import Arrays, Moves, moves_of
from .stream import Stream
from .tape import Tape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._arrays import Array
    from .._cells import Cell, Regularization, Sizes
    from .._options import Placement
    from ..packed import State
    from .array_libraries import Library

PLANS = 64  # kept by a network, of calls whose lengths the host does not know


class Call(NamedTuple):
    """The arguments of a call, checked, and its plan."""

    x: View
    batch_first: bool
    initial: list[View] | None
    lengths: View | None
    batch: tuple[int, ...]
    plan: _core.cuda.Plan
    cells_shape: tuple[int, ...] | None
    moves: Moves | None  # to the segments of a call with marks

    @property
    def inputs(self) -> list[View]:
        """All but x."""
        moves = () if self.moves is None else (self.moves.memory, *self.moves.reset)
        return [*(self.initial or ()), *(() if self.lengths is None else (self.lengths,)), *moves]


class Resident(NamedTuple):
    """What a network has on the GPU, to be used again with other parameters."""

    network: _core.cuda.Network
    kept: Parameters
    learned: LearnedState
    plans: dict[tuple[int, int, bool, bool, bool, bool], _core.cuda.Plan]
    streams: set[int]  # on which it has been used


class CudaPacked(Packed):
    """Parameters in a GPU's memory: as the caller gave them, and packed."""

    __slots__ = ("_resident", "_spare", "_turn")
    network: _core.cuda.Network
    _resident: Resident
    # In training parameters are replaced at every step: the network of the step before is used again, with its CUDA
    # graphs, and nothing is allocated. Who replaces parameters once should not pay with memory.
    _spare: list[Resident]
    _turn: int

    def __init__(
        self,
        place: Placement,
        cell: Cell,
        sizes: Sizes,
        params: Mapping[str, Any],
        constants: Mapping[str, float] | None,
        regularization: Regularization,
        title: str = "params",
        former: CudaPacked | None = None,
    ) -> None:
        assert place.gpu is not None
        gpu, dtype = place.gpu, place.parameter_dtype
        values = cell.constant_values(constants, dtype, sizes.directions)
        if former is None:
            require_gpu(gpu)  # before an array is read
        given = checked_parameters(title, params, cell.shapes(sizes), lambda n, v, s: parameter(n, v, s, dtype, gpu))

        def set_weights(addresses: Mapping[str, int], stream: int) -> None:
            network.set_parameters(filled(cell.by_layer(sizes, addresses)), stream)
            learned.set_parameters(addresses, stream)

        resident = None if former is None else former._free(stream_of(given, gpu))
        if resident is None:
            with memory_for(title):
                network = _core.cuda.Network(
                    cell.name,
                    place.number,
                    sizes.input,
                    sizes.hidden,
                    sizes.output,
                    sizes.layers,
                    sizes.directions,
                    list(values.values()),
                    regularization,
                    gpu,
                    place.engine,
                    place.allow_tf32,
                    sizes.reverse,
                    sizes.heads,
                )
                learned = LearnedState(cell.initial_shapes(sizes), place.number, gpu)
                resident = Resident(network, Parameters(given, dtype, gpu, set_weights), learned, {}, set())
        else:
            network, learned = resident.network, resident.learned
            resident.kept.replace(given, set_weights)
        spare, turn = ([], 0) if former is None else (former._spare, former._turn + 1)
        more = {"_resident": resident, "_spare": spare, "_turn": turn, "_initial": cell.initial_shapes(sizes)}
        self._set(place, cell, sizes, values, regularization, network, **more)

    def __del__(self) -> None:
        if getattr(self, "_turn", 0) and not self._spare:
            self._spare.append(self._resident)

    def _free(self, stream: int) -> Resident | None:
        """A network whose parameters can be replaced on this stream: nobody has it, and no other stream has used it."""
        try:
            found = self._spare.pop()
        except IndexError:
            return None
        return found if found.streams <= {stream} else None

    @property
    def gpu(self) -> int:
        """Number of the GPU."""
        assert self.placement.gpu is not None
        return self.placement.gpu

    def parameter(self, name: str) -> Array:
        choice("name", name, dict.fromkeys(self.shapes))
        return self._resident.kept.read(name)

    def with_parameters(self, params: Mapping[str, Any], title: str = "params") -> CudaPacked:
        more = (self.constants, self.regularization, title, self)
        return CudaPacked(self.placement, self._cell, self.sizes, params, *more)

    def with_precision(self, precision: str, keep: object) -> Packed:
        raise ValueError(
            f"precision: expected a layer on the CPU, got one on {self.placement.device}: use"
            ' layer.to("cuda", dtype="bfloat16")'
        )

    def run(
        self,
        x: Any,
        state: State | None,
        *,
        lengths: Any,
        out: Any,
        batch_first: bool,
        marks: Marks | None = None,
        return_cells: bool = False,
    ) -> tuple[Any, ...]:
        call = self._call(x, state, lengths, batch_first, False, False, return_cells, marks)
        y = output(out, self._output_shape(call.x), self.placement.number, call.x, call.inputs)
        if marks is not None and not is_contiguous(y):
            raise ValueError(f"out: expected a C-contiguous array with resets or a mask, got strides {y.strides}")
        cells = self._cells(call)
        final = unwrapped([array.owner for array in self.run_views(call, y, cells)])
        return (y.owner, final) if cells is None else (y.owner, final, cells.owner)

    def forward(
        self,
        x: Any,
        state: State | None,
        *,
        lengths: Any,
        batch_first: bool,
        recompute: bool,
        rng: Any,
        marks: Marks | None = None,
        return_cells: bool = False,
    ) -> tuple[Any, ...]:
        call = self._call(x, state, lengths, batch_first, True, flag("recompute", recompute), return_cells, marks)
        seed, library = noise_seed(rng), call.x.library
        y = empty("output", library, self._output_shape(call.x), self.placement.number, self.gpu)
        tape = scratch("tape of x", library, call.plan.tape_bytes, self.gpu)
        cells = self._cells(call)
        final = unwrapped([array.owner for array in self.run_views(call, y, cells, tape, seed)])
        shapes = (call.x.shape, y.shape, call.cells_shape, call.batch)
        made = Tape(self, call.plan, tape, library, shapes, batch_first, seed is not None, state is None, call.moves)
        return (y.owner, final, made) if cells is None else (y.owner, final, made, cells.owner)

    def stream(self, batch: int | None, batch_first: bool, threads: int, head: Any) -> Any:
        return Stream(self, batch, batch_first, threads, head)

    def _cells(self, call: Call) -> View | None:
        if call.cells_shape is None:
            return None
        return empty("cells", call.x.library, call.cells_shape, self.placement.number, self.gpu)

    def run_views(
        self, call: Call, y: View, cells: View | None = None, tape: View | None = None, seed: int | None = None
    ) -> list[View]:
        """A call's final state, new; y and cells are written to."""
        library, moves = call.x.library, call.moves
        final = self.new_states("state", library, call.batch)
        workspace = scratch("workspace", library, call.plan.workspace_bytes, self.gpu)
        stream = self.used_on(current_stream(library, self.gpu))
        with ordered((call.x, *call.inputs, y), stream):
            arrays, batch_first = Arrays(call.x, call.initial, y, final, cells), call.batch_first
            if moves is not None:
                ends = self.new_states("state", library, (moves.rows,))
                arrays, batch_first = moves.gathered(call.x, call.initial, ends, cells is not None), False
            assert arrays.x is not None and arrays.y is not None
            self.network.forward(
                call.plan,
                sequence(arrays.x, batch_first).array,
                None if arrays.initial is None else [sequence(array).array for array in arrays.initial],
                0 if call.lengths is None else call.lengths.pointer,
                sequence(arrays.y, batch_first).array,
                [strided(array) for array in arrays.final],
                seed,
                0 if tape is None else tape.pointer,
                workspace.pointer,
                stream,
                cells=strided(arrays.cells, batch_first),
            )
            if moves is not None:
                moves.put_back(arrays, y, final, cells)
        return final

    def new_states(self, name: str, library: Library, batch: tuple[int, ...]) -> list[View]:
        """New arrays, one a state."""
        return [
            empty(f"{name} {part}", library, shape, self.placement.number, self.gpu)
            for part, shape in self.state_shapes(batch).items()
        ]

    @property
    def states(self) -> list[tuple[str, int]]:
        """Name and size of each state."""
        return self._states

    @property
    def learned(self) -> LearnedState:
        """The state that calls and streams begin with where none is given."""
        return self._resident.learned

    def _output_shape(self, x: View) -> tuple[int, ...]:
        return (*x.shape[:-1], self.sizes.directions * self.sizes.output)

    def _call(
        self,
        x: Any,
        state: State | None,
        lengths: Any,
        batch_first: bool,
        training: bool,
        recompute: bool,
        return_cells: bool,
        marks: Marks | None,
    ) -> Call:
        array, batch, initial, valid = self.checked_call(x, state, lengths, batch_first)
        if initial is None:
            initial = self.learned.views(batch)
        cells = self._cells_shape(return_cells, array.shape)
        if marks is not None:
            more = (training, recompute, cells)
            return self.marked_call(array, batch, batch_first, initial, valid, marks, *more)
        found, device = sequence(array, batch_first), valid if isinstance(valid, View) else None
        host = None if isinstance(valid, View) else valid
        plan = self.plan(found.steps, found.rows, host, device is not None, training, recompute, cells is not None)
        return Call(array, batch_first, initial, device, batch, plan, cells, None)

    def marked_call(
        self,
        x: View,
        batch: tuple[int, ...],
        batch_first: bool,
        initial: list[View] | None,
        lengths: Array | View | None,
        marks: Marks,
        training: bool = False,
        recompute: bool = False,
        cells: tuple[int, ...] | None = None,
    ) -> Call:
        """A call with marks, whose other arguments have been checked."""
        moves = moves_of(self, marks, x, batch, lengths, batch_first)
        options = (False, training, recompute, cells is not None)
        plan = self.plan(moves.steps, moves.rows, moves.sizes, *options, moves.parts)
        return Call(x, batch_first, initial, None, batch, plan, cells, moves)

    def checked_call(
        self, x: Any, state: State | None, lengths: Any, batch_first: bool
    ) -> tuple[View, tuple[int, ...], list[View] | None, Array | View | None]:
        """The arguments of a call, checked: x, its batch axis, the initial state, lengths."""
        number, inputs = self.placement.number, self.sizes.input
        axes = ("B", "T") if flag("batch_first", batch_first) else ("T", "B")
        array = view("x", x, number, (*axes, inputs), ("T", inputs), device=self.gpu)
        found = sequence(array, batch_first)
        require_rows("x", found.rows)
        batch = (found.rows,) if len(array.shape) == 3 else ()
        initial = None if state is None else self.check_state(state, batch)
        if lengths is None:
            return array, batch, initial, None
        require_batch(batch, array.shape)
        if on_gpu(lengths):
            return array, batch, initial, self._device_lengths(lengths, batch)
        return array, batch, initial, row_lengths(lengths, found.rows, found.steps)

    def plan(
        self,
        steps: int,
        rows: int,
        lengths: Array | None = None,
        on_device: bool = False,
        training: bool = False,
        recompute: bool = False,
        cells: bool = False,
        parts: Array | None = None,
    ) -> _core.cuda.Plan:
        """The same object for the same call, for graphs are made from it."""
        if lengths is not None:
            return self.network.plan(steps, rows, lengths, False, training, recompute, cells=cells, segments=parts)
        key = (steps, rows, on_device, training, recompute, cells)
        plans = self._resident.plans
        plan = plans.get(key)
        if plan is None:
            made = self.network.plan(steps, rows, None, on_device, training, recompute, cells=cells)
            plan = plans.setdefault(key, made)
            while len(plans) > PLANS:
                plans.pop(next(iter(list(plans))), None)
        return plan

    def used_on(self, stream: int) -> int:
        """Take note of a stream, before the network is used on it."""
        self._resident.streams.add(stream)
        return stream

    def _device_lengths(self, lengths: Any, batch: tuple[int, ...]) -> View:
        array = view("lengths", lengths, ("int32", "int64"), batch, device=self.gpu)
        if array.dtype != "int32" or not is_contiguous(array):
            raise TypeError(
                f"lengths: expected int32, contiguous on the GPU, got {array.dtype} with strides {array.strides}: use"
                " lengths.int() of torch or lengths.astype('int32') of CuPy"
            )
        return array

    def check_state(
        self, state: Any, batch: tuple[int, ...], title: str = "state", *, shared: bool = False
    ) -> list[View]:
        """The caller's state, checked. `shared`: all of its arrays may lack the batch axis."""
        shapes, number = self.state_shapes(batch), self.placement.number
        given = [
            view(name, value, number, shape, *([(shape[0], shape[-1])] if shared else []), device=self.gpu)
            for (name, value), shape in zip(split_state(title, state, shapes).items(), shapes.values(), strict=True)
        ]
        require_same_axes({array.name: len(array.shape) for array in given})
        return given

    def __reduce__(self) -> tuple[Any, ...]:
        place = self.placement
        there: dict[str, Any] = {
            "device": place.device,
            "dtype": place.number,
            "engine": place.engine,
            "allow_tf32": place.allow_tf32,
            "direction": self.sizes.direction,
        }
        return partial(pack, **there), (self.cell, self.parameters, dict(self.constants), None, self.regularization)
