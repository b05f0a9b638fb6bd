"""Parameters, checked and packed: what functions, layers, streams and tapes work on."""

from __future__ import annotations

from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from ._arrays import (
    batched,
    check,
    contiguous,
    empty,
    memory_for,
    output,
    require_batch,
    require_rows,
    row_contiguous,
    row_lengths,
    unwrapped,
)
from ._cells import GRAPH_CELLS, SEQUENCE_CELLS, Cell, Regularization, Sizes, chosen_direction
from ._marks import Marks, checked_marks, repeats
from ._options import (
    FLOAT_DTYPES,
    Placement,
    chance,
    choice,
    flag,
    mapping,
    noise_seed,
    placement,
    split_state,
)
from ._parameters import checked_parameters, inferred
from ._precision import check_precision, check_unit_range, kept_layers
from ._sequence_graph import SequenceNetwork
from .tape import Tape, TapeShapes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeAlias

    from numpy.typing import DTypeLike

    from ._arrays import Array, Input

    State: TypeAlias = Any  # h of an RNN or GRU; the tuple (h, c) of an LSTM

__all__ = ["Packed", "Regularization", "pack"]

NO_REGULARIZATION = Regularization()


class Packed:
    """Parameters laid out for where they run. Immutable, so many threads may use one at once.

        >>> packed = functional.pack("gru", recurra.GRU(12, 64).state_dict())
        >>> packed.cell, packed.dtype.name, packed.shapes["weight_hh_l0"]
        ('gru', 'float32', (192, 64))

    Made by `pack`. It pickles as plain weights and is packed again, for the machine at hand, when it is loaded.

    Attributes:
        cell: name of the cell, one of `recurra.cells()`.
        sizes: input, hidden, output, layers, directions, bias, reverse, proj_bias, initial_state and heads.
        placement: device, number, engine and allow_tf32.
        dtype: numpy.dtype of inputs and outputs, or "bfloat16"; parameters of 16-bit networks are float32.
        constants: name to value, for example {"cell_clip": inf}.
        shapes: torch's names of the parameters to their shapes.
        network: the compiled network, which holds the parameters.
        regularization: chances of dropout and zoneout.
        precision: None, "bfloat16" or "int8": what packed weights, and vectors multiplied with them, are rounded to on
            the CPU.
        keep: the layers, counted from 0, that are not.
    """

    __slots__ = (
        "_cell",
        "_initial",
        "_states",
        "constants",
        "dtype",
        "keep",
        "network",
        "placement",
        "precision",
        "regularization",
        "shapes",
        "sizes",
    )
    _cell: Cell
    _initial: Mapping[str, Array]  # by parameter's name: a learned initial state, if there is one
    _states: list[tuple[str, int]]
    placement: Placement
    sizes: Sizes
    dtype: Any
    constants: Mapping[str, float]
    shapes: Mapping[str, tuple[int, ...]]
    network: Any
    regularization: Regularization
    precision: str | None
    keep: tuple[int, ...]

    def _set(
        self,
        place: Placement,
        cell: Cell,
        sizes: Sizes,
        constants: Mapping[str, float],
        regularization: Regularization,
        network: Any,
        **more: Any,
    ) -> None:
        fields = {
            "_cell": cell,
            "_states": [(name, sizes.hidden if dim == "hidden" else sizes.output) for name, dim in cell.states],
            "placement": place,
            "sizes": sizes,
            "dtype": place.dtype,
            "constants": MappingProxyType(constants),
            "shapes": cell.shapes(sizes),
            "network": network,
            "regularization": regularization,
            "precision": None,
            "keep": (),
            "_initial": {},
        }
        for name, value in (fields | more).items():
            object.__setattr__(self, name, value)

    @property
    def cell(self) -> str:
        """Name of the cell."""
        return self._cell.name

    def parameter(self, name: str) -> Array:
        """A new copy of one parameter on the CPU, never rounded.

        >>> functional.pack("gru", recurra.GRU(12, 64).state_dict()).parameter("bias_ih_l0").shape
        (192,)
        """
        raise NotImplementedError

    @property
    def initial_names(self) -> list[str]:
        """Of the parameters that are a learned initial state, in the order of states."""
        return list(self._initial)

    @property
    def parameters(self) -> dict[str, Array]:
        """Torch's names to new copies of the parameters on the CPU, never rounded.

        >>> packed = functional.pack("gru", recurra.GRU(12, 64, bias=False).state_dict())
        >>> list(packed.parameters)
        ['weight_ih_l0', 'weight_hh_l0']
        """
        return {name: self.parameter(name) for name in self.shapes}

    def with_parameters(self, params: Mapping[str, Any], title: str = "params") -> Packed:
        """The same network with other parameters, of the same names, shapes and dtype; errors call them by a title.

        >>> packed = functional.pack("gru", recurra.GRU(12, 64, seed=0).state_dict())
        >>> other = packed.with_parameters(recurra.GRU(12, 64, seed=1).state_dict())
        """
        raise NotImplementedError

    def with_precision(self, precision: str, keep: Iterable[int]) -> Packed:
        """The same network with its weights stored in a reduced precision, but for those of some layers.

        >>> functional.pack("gru", recurra.GRU(12, 64).state_dict()).with_precision("int8", ()).precision
        'int8'
        """
        raise NotImplementedError

    def at(self, place: Placement) -> Packed:
        """The same network elsewhere, or in other numbers, which parameters are rounded to."""
        params = {name: array.astype(place.parameter_dtype) for name, array in self.parameters.items()}
        return packed_at(place, self._cell, self.sizes, params, self.constants, self.regularization)

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
        """As `functional.run`.

        >>> packed = functional.pack("gru", recurra.GRU(12, 64).state_dict())
        >>> y, h = functional.run(packed, np.zeros((100, 8, 12), "float32"))
        """
        raise NotImplementedError

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
        """As `functional.forward`.

        >>> packed = functional.pack("gru", recurra.GRU(12, 64).state_dict())
        >>> y, h, tape = functional.forward(packed, np.zeros((100, 8, 12), "float32"))
        """
        raise NotImplementedError

    def checked_call(
        self, x: Any, state: State | None, lengths: Any, batch_first: bool
    ) -> tuple[Any, tuple[int, ...], Any, Any]:
        """The arguments of a call, checked: x, its batch axis, the initial state, lengths."""
        raise NotImplementedError

    def check_state(self, state: Any, batch: tuple[int, ...], title: str = "state", *, shared: bool = False) -> Any:
        """The caller's state, checked. `shared`: all of its arrays may lack the batch axis."""
        raise NotImplementedError

    def stream(self, batch: int | None, batch_first: bool, threads: int, head: Any) -> Any:
        """See `Recurrent.stream`; or `recurra.Stream`, which has defaults.

        >>> packed = functional.pack("gru", recurra.GRU(12, 64).state_dict())
        >>> recurra.Stream(packed).step(np.zeros(12, "float32")).shape
        (64,)
        """
        raise NotImplementedError

    def by_layer(self, arrays: Mapping[str, Any]) -> list[list[Any]]:
        """Arrays by parameter's name in the core's order: for each layer and direction, None for an absent bias."""
        return self._cell.by_layer(self.sizes, arrays)

    def _cells_shape(self, return_cells: Any, x_shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Of the second state of every step, if it is wanted."""
        if not flag("return_cells", return_cells):
            return None
        if len(self._states) == 1:
            raise ValueError(f"return_cells: expected False for cell {self.cell!r}, whose only state is h, got True")
        return (*x_shape[:-1], self.sizes.directions * self.sizes.hidden)

    def state_shapes(self, batch: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Name and shape of each state; `batch` is (B,), or () without a batch axis.

        >>> functional.pack("lstm", recurra.LSTM(12, 64).state_dict()).state_shapes((8,))
        {'h': (1, 8, 64), 'c': (1, 8, 64)}
        """
        stack = self.sizes.layers * self.sizes.directions
        return {name: (stack, *batch, size) for name, size in self._states}

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Packed is immutable, cannot set {name!r}")

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def __repr__(self) -> str:
        device = "" if self.placement.gpu is None else f", device={self.placement.device!r}"
        return f"Packed({self.cell!r}, {self.sizes}, dtype={self.dtype}{device})"


class CpuPacked(Packed):
    """Parameters laid out for this machine's instruction set."""

    __slots__ = ("_unrounded",)
    _unrounded: Mapping[str, Array]  # none in full precision, where packed weights can be read back
    network: Any  # _core.Network or SequenceNetwork

    def __init__(
        self,
        cell: Cell,
        sizes: Sizes,
        dtype: np.dtype[Any],
        params: Mapping[str, Input],
        constants: Mapping[str, float] | None,
        precision: str | None = None,
        regularization: Regularization = NO_REGULARIZATION,
        keep: Iterable[int] = (),
        title: str = "params",
    ) -> None:
        parameters = checked_parameters(title, params, cell.shapes(sizes), lambda n, v, s: check(n, v, dtype, s))
        parameters = {name: contiguous(array) for name, array in parameters.items()}
        choice("precision", precision, dict.fromkeys((None, "bfloat16", "int8")))
        if precision:  # what is checked, packed and kept must be the same, whatever other threads write
            parameters = {name: array.copy() for name, array in parameters.items()}
        values = cell.constant_values(constants, dtype, sizes.directions)
        check_precision(precision, dtype, parameters)
        kept = kept_layers("keep", keep, sizes.layers)
        initial = {name: parameters[name].copy() for name in cell.initial_shapes(sizes)}
        if initial and precision == "int8" and cell.unit_range:
            check_unit_range("h_0", initial["h_0"], sizes, kept)
        by_layer = cell.by_layer(sizes, parameters)
        with memory_for(title):
            if cell.name in GRAPH_CELLS:
                network: Any = SequenceNetwork(cell, sizes, by_layer, precision, regularization)
            else:
                network = _core.Network(
                    cell.name,
                    FLOAT_DTYPES[dtype],
                    sizes.input,
                    sizes.hidden,
                    sizes.output,
                    sizes.layers,
                    sizes.directions,
                    by_layer,
                    list(values.values()),
                    precision or "full",
                    list(kept),
                    list(regularization),
                    sizes.reverse,
                    sizes.heads,
                )
        place = Placement(None, FLOAT_DTYPES[dtype])
        more = {"precision": precision, "keep": kept, "_unrounded": parameters if precision else {}}
        more["_initial"] = initial
        self._set(place, cell, sizes, values, regularization, network, **more)

    def parameter(self, name: str) -> Array:
        """A new copy of one parameter, never rounded."""
        choice("name", name, dict.fromkeys(self.shapes))
        if self.precision:
            return self._unrounded[name].copy()
        if name in self._initial:
            return self._initial[name].copy()
        array = np.empty(self.shapes[name], self.dtype)
        for layer, names in enumerate(self._cell.names(self.sizes)):
            if name in names:
                self.network.get_parameter(layer, names.index(name), array)
        return array

    def with_parameters(self, params: Mapping[str, Input], title: str = "params") -> CpuPacked:
        """The same network with other parameters, of the same names, shapes and dtype; errors call them by a title."""
        more = (self.constants, self.precision, self.regularization, self.keep, title)
        return CpuPacked(self._cell, self.sizes, self.dtype, params, *more)

    def with_precision(self, precision: str, keep: Iterable[int]) -> CpuPacked:
        """The same network with its weights stored in a reduced precision, but for those of some layers."""
        more = (self.constants, precision, self.regularization, keep)
        return CpuPacked(self._cell, self.sizes, self.dtype, self.parameters, *more)

    def at(self, place: Placement) -> Packed:
        if self.precision:
            got = f"{place.device!r} and {place.dtype}"
            raise ValueError(f"device, dtype: expected 'cpu' and float32 for a layer in {self.precision}, got {got}")
        return super().at(place)

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
        # Arrays that need no checks here; with these a call takes 5 us longer.
        if state is None and lengths is None and return_cells is False and not self._initial:
            done: tuple[Array, State] | None = None
            if marks is None:
                done = self.network.call(x, out, flag("batch_first", batch_first))
            elif marks.reset_state is None:
                flags = (marks.resets, marks.mask, repeats(marks.masked_output))
                done = self.network.call(x, out, flag("batch_first", batch_first), *flags)
            if done is not None:
                return done
        x, batch, initial, valid = self.checked_call(x, state, lengths, batch_first)
        marked, shared = checked_marks(self, marks, x.shape, batch, batch_first)
        given = {"x": x} | {f"state {name}": array for name, array in initial.items()} | shared
        y, written = output(out, (*x.shape[:-1], self.sizes.directions * self.sizes.output), self.dtype, given)
        shape = self._cells_shape(return_cells, x.shape)
        cells = None if shape is None else empty("cells", shape, self.dtype)
        final = self.empty_state(batch)
        with memory_for("x"):
            self.network.forward(
                row_contiguous(batched(x, batch_first)),
                self._begin(initial, batch),
                valid,
                batched(written, batch_first),
                [batched(array) for array in final],
                marked,
                None if cells is None else batched(cells, batch_first),
            )
        return (y, unwrapped(final)) if cells is None else (y, unwrapped(final), cells)

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
        x, batch, initial, valid = self.checked_call(x, state, lengths, batch_first)
        if self.precision:
            raise ValueError(
                f"forward: expected weights in full precision, got {self.precision}, which cannot be trained"
            )
        again = flag("recompute", recompute)
        marked, reset_state = checked_marks(self, marks, x.shape, batch, batch_first)
        shape = self._cells_shape(return_cells, x.shape)
        seed = noise_seed(rng)
        cells = None if shape is None else empty("cells", shape, self.dtype)
        y = empty("output", (*x.shape[:-1], self.sizes.directions * self.sizes.output), self.dtype)
        final = self.empty_state(batch)
        with memory_for("tape of x"):
            recorded = self.network.record(
                row_contiguous(batched(x, batch_first)),
                self._begin(initial, batch),
                valid,
                batched(y, batch_first),
                [batched(array) for array in final],
                again,
                seed,
                marked,
                None if cells is None else batched(cells, batch_first),
            )
        reset_shapes = [array.shape for array in reset_state.values()]
        shapes = TapeShapes(x.shape, y.shape, shape, batch, reset_shapes)
        learned = (state is None, marks is not None and marks.resets is not None and not reset_state)
        tape = Tape(self, recorded, shapes, batch_first, learned)
        return (y, unwrapped(final), tape) if cells is None else (y, unwrapped(final), tape, cells)

    def _begin(self, state: Mapping[str, Array], batch: tuple[int, ...]) -> list[Array] | None:
        """What a call starts from, as the core takes it: the caller's state, or the one that is learned; or zeros."""
        if state:
            return [batched(contiguous(array)) for array in state.values()]
        rows = batch[0] if batch else 1
        return [np.repeat(array[:, None], rows, axis=1) for array in self._initial.values()] or None

    def stream(self, batch: int | None, batch_first: bool, threads: int, head: Any) -> Any:
        from .stream import Stream  # which knows this module

        return Stream(self, batch, batch_first, threads, head)

    def checked_call(
        self, x: Input, state: State | None, lengths: Any, batch_first: bool
    ) -> tuple[Array, tuple[int, ...], dict[str, Array], Array | None]:
        """The arguments of a call, checked: x, its batch axis, the initial state by name, lengths."""
        axes = ("B", "T") if flag("batch_first", batch_first) else ("T", "B")
        array = check("x", x, self.dtype, (*axes, self.sizes.input), ("T", self.sizes.input))
        sequence = batched(array, batch_first)
        require_rows("x", sequence.shape[1])
        batch = sequence.shape[1:2] if array.ndim == 3 else ()
        initial = {} if state is None else self.check_state(state, batch)
        if lengths is None:
            return array, batch, initial, None
        require_batch(batch, array.shape)
        return array, batch, initial, row_lengths(lengths, batch[0], sequence.shape[0])

    def check_state(
        self, state: State, batch: tuple[int, ...], title: str = "state", *, shared: bool = False
    ) -> dict[str, Array]:
        """The caller's state, checked: its arrays by the name that errors call them; `shared`: all may lack the batch
        axis."""
        shapes = self.state_shapes(batch)
        forms = [(shape, self.state_shapes(())[part]) if shared else (shape,) for part, shape in shapes.items()]
        given = {
            name: check(name, value, self.dtype, *patterns)
            for (name, value), patterns in zip(split_state(title, state, shapes).items(), forms, strict=True)
        }
        require_same_axes({name: array.ndim for name, array in given.items()})
        if self.precision == "int8" and self._cell.unit_range:
            check_unit_range(f"{title} h", given[f"{title} h"], self.sizes, self.keep)
        return given

    def empty_state(self, batch: tuple[int, ...]) -> list[Array]:
        """New arrays, one a state."""
        return [empty(f"state {name}", shape, self.dtype) for name, shape in self.state_shapes(batch).items()]

    def __reduce__(self) -> tuple[Any, ...]:
        packs = partial(pack, direction=self.sizes.direction)
        return packs, (self.cell, self.parameters, dict(self.constants), self.precision, self.regularization, self.keep)


def pack(
    cell: str,
    params: Mapping[str, Input],
    constants: Mapping[str, float] | None = None,
    precision: str | None = None,
    regularization: Regularization = NO_REGULARIZATION,
    keep: Iterable[int] = (),
    *,
    device: str = "cpu",
    dtype: DTypeLike | None = None,
    engine: str = "auto",
    allow_tf32: bool = False,
    direction: str = "forward",
) -> Packed:
    """Copy and pack parameters for many calls. Sizes, layers, directions, bias, projection, dtype come from them.

        >>> packed = functional.pack("lstm", recurra.LSTM(12, 64).state_dict(), {"cell_clip": 5.0}, "bfloat16")
        >>> packed.sizes.hidden, packed.dtype
        (64, dtype('float32'))

    Args:
        cell: one of `recurra.cells()`.
        params: torch's names (weight_ih_l0, weight_hh_l0_reverse, bias_ih_l1, weight_hr_l0, ..., and weight_peep_l0) to
            NumPy, torch or other DLPack arrays, all float32 or all float64; for a GPU also to arrays on it.
        constants: values for the cell's constants, for example {"cell_clip": 5.0}.
        precision: None, or "bfloat16" or "int8" for float32 parameters: see `Recurrent.quantize`.
        regularization: chances of dropout and zoneout, default none: see `Recurrent`.
        keep: layers, from 0, that stay in float32 whatever the precision; default none.
        device, engine, allow_tf32: see `Recurrent`.
        direction: "reverse" for a network that runs backwards in time only; one with parameters "..._reverse" runs both
            ways.
        dtype: of inputs and outputs, default that of the parameters. "float16" or "bfloat16" on a GPU, for float32
            parameters; else it is theirs.

    Raises:
        ValueError: unknown cell, constant, precision or layer; parameters missing, unexpected, misshapen or of mixed
            dtypes, all listed.
        TypeError: `params` is not a mapping, or its dtype is not float32 or float64.
    """
    spec = choice("cell", cell, SEQUENCE_CELLS)
    if regularization is not NO_REGULARIZATION:
        if not isinstance(regularization, tuple) or len(regularization) != len(Regularization._fields):
            raise TypeError(f"regularization: expected a functional.Regularization, got {regularization!r}")
        rates = zip(Regularization._fields, regularization, strict=True)
        regularization = Regularization(*(chance(f"regularization {name}", value) for name, value in rates))
    params = mapping("params", params)
    gpu = placement(device, "float32", engine).gpu
    sizes, found = inferred(spec, params, gpu, chosen_direction(False, direction))
    place = placement(device, found if dtype is None else dtype, engine, allow_tf32)
    if place.parameter_dtype != found:
        raise TypeError(f"dtype: expected that of the parameters, {found}, or 16 bits of float32, got {place.dtype}")
    return packed_at(place, spec, sizes, params, constants, regularization, precision, keep)


def packed_at(
    place: Placement,
    cell: Cell,
    sizes: Sizes,
    params: Mapping[str, Any],
    constants: Mapping[str, float] | None,
    regularization: Regularization,
    precision: str | None = None,
    keep: Iterable[int] = (),
) -> Packed:
    """Parameters of these sizes packed for a device."""
    if place.gpu is None:
        return CpuPacked(cell, sizes, place.parameter_dtype, params, constants, precision, regularization, keep)
    if precision is not None or keep != ():
        raise ValueError(f"precision, keep: expected None and () for {place.device}, use dtype; got {precision!r}")
    if cell.name in GRAPH_CELLS:
        raise ValueError(f"device: expected 'cpu' for cell {cell.name!r}, got {place.device!r}")
    from .cuda.packed import CudaPacked  # which nobody without a GPU should wait for

    return CudaPacked(place, cell, sizes, params, constants, regularization)


def require_same_axes(axes: Mapping[str, int]) -> None:
    """ValueError unless all arrays of a state have a batch axis, or none."""
    if len(set(axes.values())) > 1:
        raise ValueError(f"state: expected as many axes for {', '.join(axes)}, got {list(axes.values())}")
