"""The functional core: parameters go in with every call, layers are thin wrappers around it.

    y, (h, c) = functional.lstm(x, params)                 # packs the weights anew at every call
    packed = functional.pack("lstm", params)               # packs them once ...
    y, (h, c) = functional.lstm(x, packed)                 # ... for as many calls and threads as you like

Shapes, in torch's conventions (T steps, B sequences, I = input_size, H = hidden_size, L layers, D directions, O = H or,
with a projection to P values, O = P):

    x          [T, B, I], with batch_first [B, T, I]; one sequence without a batch axis [T, I]
    output     as x with D*O in place of I; forward direction first
    state      h [L*D, B, O], for LSTMs a tuple (h, c) with c [L*D, B, H]; no B axis if x has none; never batch_first
    lengths    B integers in 0..T, in any order: outputs past a sequence's length are zero, its final state is that of
               its own last step (the initial state if it has none), the reverse direction starts at that step
    out        where to write the output: a writeable array of its shape and dtype whose last axis is contiguous

Arrays are NumPy's, or of any library that shares CPU memory through DLPack; they may be strided and read-only. All are
of one dtype, that of the parameters, float32 or float64. Nothing is cast or copied to another device: TypeError is
raised for a wrong dtype or kind of object, ValueError for a wrong shape, length, value or device and for an `out` that
overlaps an input. Returned states are new arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from ._arrays import (
    as_array,
    batched,
    bounded,
    check,
    check_distinct,
    contiguous,
    empty,
    output,
    require_memory,
    row_contiguous,
    vector,
)
from ._cells import CELLS, Cell, Regularization, Sizes, gru_cell, lstm_cell, lstm_constants, rnn_cell
from ._options import FLOAT_DTYPES, chance, choice, flag, float_dtype

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TypeAlias

    from ._arrays import Array, Input
    from .tape import Tape

    State: TypeAlias = Any  # h of an RNN or GRU; the tuple (h, c) of an LSTM

__all__ = ["Packed", "Regularization", "forward", "gru", "lstm", "pack", "rnn", "run"]

NO_REGULARIZATION = Regularization()


class Packed:
    """Parameters laid out for this machine's instruction set. Immutable, so many threads may use one at once.

    Made by `pack`. It pickles as plain weights and is packed anew, for the machine it wakes up on, when it is loaded.

    Attributes:
        cell: name of the cell, one of `recurra.cells()`.
        sizes: input, hidden, output, layers, directions and bias.
        dtype: numpy.dtype of parameters, inputs and outputs.
        constants: name to value, for example {"cell_clip": inf}.
        shapes: torch's names of the parameters to their shapes.
        network: the compiled network, which holds the parameters.
        precision: None, "bfloat16" or "int8": what packed weights, and vectors that meet them, are rounded to.
        regularization: chances of dropout and zoneout.
    """

    __slots__ = (
        "_cell",
        "_states",
        "_unrounded",
        "constants",
        "dtype",
        "network",
        "precision",
        "regularization",
        "shapes",
        "sizes",
    )
    _cell: Cell
    _states: list[tuple[str, int]]
    _unrounded: Mapping[str, Array]  # none in full precision, where packed weights can be read back
    sizes: Sizes
    dtype: np.dtype[Any]
    constants: Mapping[str, float]
    shapes: Mapping[str, tuple[int, ...]]
    network: _core.Network
    precision: str | None
    regularization: Regularization

    def __init__(
        self,
        cell: Cell,
        sizes: Sizes,
        dtype: np.dtype[Any],
        params: Mapping[str, Input],
        constants: Mapping[str, float] | None,
        precision: str | None = None,
        regularization: Regularization = NO_REGULARIZATION,
    ) -> None:
        shapes = cell.shapes(sizes)
        parameters = _checked(params, shapes, dtype)
        if precision:  # what is checked, packed and kept must be the same, whatever other threads write
            parameters = {name: array.copy() for name, array in parameters.items()}
        values = cell.constant_values(constants)
        _check_precision(precision, dtype, parameters)
        network = _core.Network(
            cell.name,
            FLOAT_DTYPES[dtype],
            sizes.input,
            sizes.hidden,
            sizes.output,
            sizes.layers,
            sizes.directions,
            cell.by_layer(sizes, parameters),
            list(values.values()),
            precision or "full",
            list(regularization),
        )
        fields = {
            "_cell": cell,
            "_states": [(name, sizes.hidden if dim == "hidden" else sizes.output) for name, dim in cell.states],
            "sizes": sizes,
            "dtype": dtype,
            "constants": MappingProxyType(values),
            "precision": precision,
            "regularization": regularization,
            "shapes": shapes,
            "network": network,
            "_unrounded": parameters if precision else {},
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @property
    def cell(self) -> str:
        """Name of the cell."""
        return self._cell.name

    def parameter(self, name: str) -> Array:
        """A new copy of one parameter, never rounded."""
        if self.precision:
            return self._unrounded[name].copy()
        array = np.empty(self.shapes[name], self.dtype)
        for layer, names in enumerate(self._cell.names(self.sizes)):
            if name in names:
                self.network.get_parameter(layer, names.index(name), array)
        return array

    @property
    def parameters(self) -> dict[str, Array]:
        """Torch's names to new copies of the parameters, never rounded."""
        return {name: self.parameter(name) for name in self.shapes}

    def with_parameters(self, params: Mapping[str, Input]) -> Packed:
        """The same network with other parameters, of the same names, shapes and dtype."""
        more = (self.constants, self.precision, self.regularization)
        return Packed(self._cell, self.sizes, self.dtype, _mapping(params), *more)

    def with_precision(self, precision: str) -> Packed:
        """The same network with its weights stored in a reduced precision."""
        return Packed(
            self._cell, self.sizes, self.dtype, self.parameters, self.constants, precision, self.regularization
        )

    def by_layer(self, arrays: Mapping[str, Array]) -> list[list[Array | None]]:
        """Arrays by parameter's name in the core's order: for each layer and direction, None for an absent bias."""
        return self._cell.by_layer(self.sizes, arrays)

    def values_a_step(self, recompute: bool) -> int:
        """About what a tape holds of each row and step."""
        kept = len(self._cell.states) + (0 if recompute else len(self._cell.gates))
        return self.sizes.layers * self.sizes.directions * kept * self.sizes.hidden

    def state_shapes(self, batch: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Name and shape of each state; `batch` is (B,), or () without a batch axis."""
        stack = self.sizes.layers * self.sizes.directions
        return {name: (stack, *batch, size) for name, size in self._states}

    def check_state(self, state: State, batch: tuple[int, ...]) -> dict[str, Array]:
        """The caller's state, checked: its arrays by the name that errors call them."""
        shapes = self.state_shapes(batch)
        if len(shapes) == 1:
            state = (state,)
        elif not isinstance(state, (tuple, list)) or len(state) != len(shapes):
            got = f"{len(state)} values" if isinstance(state, (tuple, list)) else type(state).__name__
            raise TypeError(f"state: expected a tuple ({', '.join(shapes)}), got {got}")
        given = {}
        for (name, shape), value in zip(shapes.items(), state, strict=True):
            title = f"state {name}"
            given[title] = check(title, value, self.dtype, shape)
        if self.precision == "int8" and self._cell.unit_range and (np.abs(given["state h"]) > 1).any():
            raise ValueError("state h: expected values in -1..1 for int8, whose scale is fixed, got larger ones")
        return given

    def empty_state(self, batch: tuple[int, ...]) -> list[Array]:
        """New arrays, one a state."""
        return [empty(f"state {name}", shape, self.dtype) for name, shape in self.state_shapes(batch).items()]

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Packed is immutable, cannot set {name!r}")

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def __reduce__(self) -> tuple[Any, ...]:
        return pack, (self.cell, self.parameters, dict(self.constants), self.precision, self.regularization)

    def __repr__(self) -> str:
        return f"Packed({self.cell!r}, {self.sizes}, dtype={self.dtype})"


def pack(
    cell: str,
    params: Mapping[str, Input],
    constants: Mapping[str, float] | None = None,
    precision: str | None = None,
    regularization: Regularization = NO_REGULARIZATION,
) -> Packed:
    """Copy and pack parameters for many calls. Sizes, layers, directions, bias, projection, dtype are read off them.

    Args:
        cell: one of `recurra.cells()`.
        params: torch's names (weight_ih_l0, weight_hh_l0_reverse, bias_ih_l1, weight_hr_l0, ..., and weight_peep_l0) to
            NumPy, torch or other DLPack arrays, all float32 or all float64.
        constants: values for the cell's constants, for example {"cell_clip": 5.0}.
        precision: None, or "bfloat16" or "int8" for float32 parameters: see `Recurrent.quantize`.
        regularization: chances of dropout and zoneout, default none: see `Recurrent`.

    Raises:
        ValueError: unknown cell, constant or precision; parameters missing, unexpected, misshapen or of mixed dtypes,
            all listed.
        TypeError: `params` is no mapping, or its dtype is not float32 or float64.
    """
    spec = choice("cell", cell, CELLS)
    if regularization is not NO_REGULARIZATION:
        rates = zip(Regularization._fields, regularization, strict=True)
        regularization = Regularization(*(chance(name, value) for name, value in rates))
    params = _mapping(params)
    return Packed(spec, *_inferred(spec, params), params, constants, precision, regularization)


def run(
    packed: Packed,
    x: Input,
    state: State | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    out: Array | None = None,
    batch_first: bool = False,
) -> tuple[Array, State]:
    """Run a packed network over whole sequences; returns (output, final state). Shapes: module's head.

    Args:
        packed: made by `pack`.
        x: input.
        state: initial state, default zeros.
        lengths: valid steps of each sequence, default all. No step beyond them is computed. Batched input only.
        out: array to write the output to, and to return. Must not overlap x or the state.
        batch_first: x and output are [B, T, ...] instead of [T, B, ...].
    """
    if state is None and lengths is None and isinstance(packed, Packed):
        done: tuple[Array, State] | None = packed.network.call(x, out, flag("batch_first", batch_first))
        if done is not None:  # arrays that need no checks here; with these a call takes 5 us longer
            return done
    x, batch, initial, valid = _checked_call(packed, x, state, lengths, batch_first)
    given = {"x": x} | {f"state {name}": array for name, array in initial.items()}
    y = output(out, (*x.shape[:-1], packed.sizes.directions * packed.sizes.output), packed.dtype, given)
    final = packed.empty_state(batch)
    packed.network.forward(
        row_contiguous(batched(x, batch_first)),
        None if state is None else [batched(contiguous(array)) for array in initial.values()],
        valid,
        batched(y, batch_first),
        [batched(array) for array in final],
    )
    return y, unwrapped(final)


def forward(
    packed: Packed,
    x: Input,
    state: State | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    batch_first: bool = False,
    recompute: bool = False,
    rng: int | np.random.Generator | None = None,
) -> tuple[Array, State, Tape]:
    """As `run`, for training: returns (output, final state, tape); see `Recurrent.forward`."""
    from .tape import Tape  # here, because it needs this module

    x, batch, initial, valid = _checked_call(packed, x, state, lengths, batch_first)
    if packed.precision:
        raise ValueError(
            f"forward: expected weights in full precision, got {packed.precision}, which cannot be trained"
        )
    again = flag("recompute", recompute)
    seed = _noise_seed(rng)
    values = packed.values_a_step(again) * math.prod(x.shape[:-1])
    require_memory("tape", (values + x.size) * packed.dtype.itemsize)
    y = empty("output", (*x.shape[:-1], packed.sizes.directions * packed.sizes.output), packed.dtype)
    final = packed.empty_state(batch)
    recorded = packed.network.record(
        row_contiguous(batched(x, batch_first)),
        None if state is None else [batched(contiguous(array)) for array in initial.values()],
        valid,
        batched(y, batch_first),
        [batched(array) for array in final],
        again,
        seed,
    )
    return y, unwrapped(final), Tape(packed, recorded, x.shape, y.shape, batch, batch_first)


def _noise_seed(rng: Any) -> int | None:
    """64 bits that decide all that is left out at random."""
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(1 << 64, dtype=np.uint64))
    if rng is None or (isinstance(rng, (int, np.integer)) and not isinstance(rng, bool) and 0 <= rng < 1 << 64):
        return None if rng is None else int(rng)
    raise TypeError(f"rng: expected None, an integer in 0..2**64-1 or a numpy.random.Generator, got {rng!r}")


def _checked_call(
    packed: Packed, x: Input, state: State | None, lengths: Any, batch_first: bool
) -> tuple[Array, tuple[int, ...], dict[str, Array], Array | None]:
    """The arguments of a call, checked: x, its batch axis, the initial state by name, lengths."""
    if not isinstance(packed, Packed):
        raise TypeError(f"packed: expected what functional.pack returns, got {type(packed).__name__}")
    axes = ("B", "T") if flag("batch_first", batch_first) else ("T", "B")
    array = check("x", x, packed.dtype, (*axes, packed.sizes.input), ("T", packed.sizes.input))
    sequence = batched(array, batch_first)
    batch = sequence.shape[1:2] if array.ndim == 3 else ()
    initial = {} if state is None else packed.check_state(state, batch)
    if lengths is None:
        return array, batch, initial, None
    if not batch:
        raise ValueError(f"lengths: expected none without a batch axis, got them with x of shape {list(array.shape)}")
    return array, batch, initial, bounded("lengths", vector("lengths", lengths, *batch), sequence.shape[0])


def lstm(
    x: Input,
    params: Mapping[str, Input] | Packed,
    state: tuple[Input, Input] | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    out: Array | None = None,
    batch_first: bool = False,
    coupled: bool | str = False,
    cell_clip: float | None = None,
) -> tuple[Array, tuple[Array, Array]]:
    """LSTM over whole sequences; returns (output, (h, c)). Equations, options: `recurra.LSTM`; shapes: module's head.

    Peepholes and a projection are used if `params` holds weight_peep_l0, weight_hr_l0. A `Packed` in place of the
    mapping must have been packed for the same cell and constants, else ValueError.
    """
    names = params.shapes if isinstance(params, Packed) else _mapping(params)
    cell = lstm_cell(coupled, "weight_peep_l0" in names, "weight_hr_l0" in names)
    packed = _packed(cell, params, out, lstm_constants(cell_clip))
    return run(packed, x, state, lengths=lengths, out=out, batch_first=batch_first)


def gru(
    x: Input,
    params: Mapping[str, Input] | Packed,
    state: Input | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    out: Array | None = None,
    batch_first: bool = False,
    reset: str = "after",
    update: str = "keep",
) -> tuple[Array, Array]:
    """GRU over whole sequences; returns (output, h). Equations, options: `recurra.GRU`; shapes: module's head."""
    packed = _packed(gru_cell(reset, update), params, out)
    return run(packed, x, state, lengths=lengths, out=out, batch_first=batch_first)


def rnn(
    x: Input,
    params: Mapping[str, Input] | Packed,
    state: Input | None = None,
    *,
    lengths: Sequence[int] | Input | None = None,
    out: Array | None = None,
    batch_first: bool = False,
    nonlinearity: str = "tanh",
) -> tuple[Array, Array]:
    """Elman RNN over whole sequences; returns (output, h). Equations: `recurra.RNN`; shapes: module's head."""
    packed = _packed(rnn_cell(nonlinearity), params, out)
    return run(packed, x, state, lengths=lengths, out=out, batch_first=batch_first)


def unwrapped(states: list[Array]) -> State:
    """States as callers know them: h alone, or a tuple."""
    return states[0] if len(states) == 1 else tuple(states)


def wrapped(state: State) -> tuple[Array, ...]:
    """The other way."""
    return state if isinstance(state, tuple) else (state,)


def _packed(
    cell: str, params: Mapping[str, Input] | Packed, out: object, constants: Mapping[str, float] | None = None
) -> Packed:
    """`params` packed for these options, or found to be so already."""
    if isinstance(params, Packed):
        want, have = CELLS[cell].constant_values(constants), dict(params.constants)
        if (params.cell, have) != (cell, want):
            raise ValueError(f"params: expected {cell!r} with constants {want}, got {params.cell!r} packed with {have}")
        return params
    packed = pack(cell, params, constants)
    if isinstance(out, np.ndarray):
        check_distinct(out, {name: as_array(name, _detached(value)) for name, value in params.items()})
    return packed


def _check_precision(precision: str | None, dtype: np.dtype[Any], parameters: Mapping[str, Array]) -> None:
    choice("precision", precision, dict.fromkeys((None, "bfloat16", "int8")))
    if precision is None:
        return
    if dtype != np.float32:
        raise ValueError(f"precision: expected None for {dtype} parameters, got {precision!r}")
    for name, array in parameters.items():
        if precision == "int8" and not np.isfinite(array).all():
            raise ValueError(f"{name}: expected finite values for int8, got NaN or infinity")


def _mapping(params: object) -> Mapping[str, Any]:
    if not isinstance(params, Mapping):
        raise TypeError(f"params: expected a mapping of names to arrays, got {type(params).__name__}")
    return params


def _detached(value: Any) -> Any:
    """A parameter without its history: those of torch modules require grad, which inference may ignore."""
    return value.detach() if type(value) is not np.ndarray and hasattr(value, "detach") else value


def _inferred(cell: Cell, params: Mapping[str, Input]) -> tuple[Sizes, np.dtype[Any]]:
    """What names and shapes say about the network; whether they all agree is found out by `_checked`."""
    for name in ("weight_ih_l0", "weight_hh_l0"):
        if name not in params:
            raise ValueError(f"params: expected {name} among the names, got {_listed(params)}")
    weight_ih, weight_hh = (as_array(name, _detached(params[name])) for name in ("weight_ih_l0", "weight_hh_l0"))
    gates = len(cell.gates)
    if weight_ih.ndim != 2 or not weight_ih.size or weight_ih.shape[0] % gates:
        raise ValueError(f"weight_ih_l0: expected shape [{gates}*H, I] for {cell.name!r}, got {list(weight_ih.shape)}")
    hidden = weight_ih.shape[0] // gates
    if weight_hh.ndim != 2 or not weight_hh.size:
        raise ValueError(f"weight_hh_l0: expected a matrix, got shape {list(weight_hh.shape)}")
    names, layers = set(params), 1
    while f"weight_ih_l{layers}" in names or f"weight_hh_l{layers}" in names:
        layers += 1
    sizes = Sizes(
        input=weight_ih.shape[1],
        hidden=hidden,
        output=weight_hh.shape[1] if cell.projected else hidden,
        layers=layers,
        directions=2 if "weight_ih_l0_reverse" in params else 1,
        bias=any(f"{name}_l0" in params for name, *_, is_bias in cell.params if is_bias),
    )
    return sizes, float_dtype("weight_ih_l0", weight_ih.dtype)


def _checked(
    params: Mapping[str, Input], shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype[Any]
) -> dict[str, Array]:
    """Exactly the parameters in `shapes`, C-contiguous; one ValueError lists everything that does not fit."""
    found, problems = {}, []
    if missing := [name for name in shapes if name not in params]:
        problems.append(f"missing: {_listed(missing)}")
    if unexpected := [name for name in params if name not in shapes]:
        problems.append(f"unexpected: {_listed(unexpected)}")
    for name, shape in shapes.items():
        if name in params:
            try:
                found[name] = check(name, _detached(params[name]), dtype, shape)
            except (TypeError, ValueError) as error:
                problems.append(str(error))
    if problems:
        raise ValueError("the parameters do not fit:\n  " + "\n  ".join(problems))
    return {name: contiguous(array) for name, array in found.items()}


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "none"
