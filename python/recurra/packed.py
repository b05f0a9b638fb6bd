"""Parameters, checked and packed: what functions, layers, streams and tapes work on."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from ._arrays import as_array, check, contiguous, empty, memory_for
from ._cells import CELLS, Cell, Regularization, Sizes
from ._options import FLOAT_DTYPES, chance, choice, float_dtype, integer, mapping

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeAlias

    from ._arrays import Array, Input

    State: TypeAlias = Any  # h of an RNN or GRU; the tuple (h, c) of an LSTM

__all__ = ["Packed", "Regularization", "pack"]

NO_REGULARIZATION = Regularization()


class Packed:
    """Parameters laid out for this machine's instruction set. Immutable, so many threads may use one at once.

    Made by `pack`. It pickles as plain weights and is packed again, for the machine at hand, when it is loaded.

    Attributes:
        cell: name of the cell, one of `recurra.cells()`.
        sizes: input, hidden, output, layers, directions and bias.
        dtype: numpy.dtype of parameters, inputs and outputs.
        constants: name to value, for example {"cell_clip": inf}.
        shapes: torch's names of the parameters to their shapes.
        network: the compiled network, which holds the parameters.
        precision: None, "bfloat16" or "int8": what packed weights, and vectors multiplied with them, are rounded to.
        keep: the layers, counted from 0, that are not.
        regularization: chances of dropout and zoneout.
    """

    __slots__ = (
        "_cell",
        "_states",
        "_unrounded",
        "constants",
        "dtype",
        "keep",
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
    keep: tuple[int, ...]
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
        keep: Iterable[int] = (),
        title: str = "params",
    ) -> None:
        shapes = cell.shapes(sizes)
        parameters = _checked(title, mapping(title, params), shapes, dtype)
        choice("precision", precision, dict.fromkeys((None, "bfloat16", "int8")))
        if precision:  # what is checked, packed and kept must be the same, whatever other threads write
            parameters = {name: array.copy() for name, array in parameters.items()}
        values = cell.constant_values(constants, dtype)
        _check_precision(precision, dtype, parameters)
        kept = _layers("keep", keep, sizes.layers)
        with memory_for(title):
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
                list(kept),
                list(regularization),
            )
        fields = {
            "_cell": cell,
            "_states": [(name, sizes.hidden if dim == "hidden" else sizes.output) for name, dim in cell.states],
            "sizes": sizes,
            "dtype": dtype,
            "constants": MappingProxyType(values),
            "precision": precision,
            "keep": kept,
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
        choice("name", name, dict.fromkeys(self.shapes))
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

    def with_parameters(self, params: Mapping[str, Input], title: str = "params") -> Packed:
        """The same network with other parameters, of the same names, shapes and dtype; errors call them by a title."""
        more = (self.constants, self.precision, self.regularization, self.keep, title)
        return Packed(self._cell, self.sizes, self.dtype, params, *more)

    def with_precision(self, precision: str, keep: Iterable[int]) -> Packed:
        """The same network with its weights stored in a reduced precision, but for those of some layers."""
        more = (self.constants, precision, self.regularization, keep)
        return Packed(self._cell, self.sizes, self.dtype, self.parameters, *more)

    def by_layer(self, arrays: Mapping[str, Array]) -> list[list[Array | None]]:
        """Arrays by parameter's name in the core's order: for each layer and direction, None for an absent bias."""
        return self._cell.by_layer(self.sizes, arrays)

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
        rounded = [k for k in range(len(given["state h"])) if k // self.sizes.directions not in self.keep]
        if self.precision == "int8" and self._cell.unit_range and (np.abs(given["state h"][rounded]) > 1).any():
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
        return pack, (self.cell, self.parameters, dict(self.constants), self.precision, self.regularization, self.keep)

    def __repr__(self) -> str:
        return f"Packed({self.cell!r}, {self.sizes}, dtype={self.dtype})"


def pack(
    cell: str,
    params: Mapping[str, Input],
    constants: Mapping[str, float] | None = None,
    precision: str | None = None,
    regularization: Regularization = NO_REGULARIZATION,
    keep: Iterable[int] = (),
) -> Packed:
    """Copy and pack parameters for many calls. Sizes, layers, directions, bias, projection, dtype come from them.

        >>> functional.pack("lstm", recurra.LSTM(12, 64).state_dict(), {"cell_clip": 5.0}, precision="bfloat16")
        Packed('lstm', Sizes(input=12, hidden=64, output=64, layers=1, directions=1, bias=True), dtype=float32)

    Args:
        cell: one of `recurra.cells()`.
        params: torch's names (weight_ih_l0, weight_hh_l0_reverse, bias_ih_l1, weight_hr_l0, ..., and weight_peep_l0) to
            NumPy, torch or other DLPack arrays, all float32 or all float64.
        constants: values for the cell's constants, for example {"cell_clip": 5.0}.
        precision: None, or "bfloat16" or "int8" for float32 parameters: see `Recurrent.quantize`.
        regularization: chances of dropout and zoneout, default none: see `Recurrent`.
        keep: layers, from 0, that stay in float32 whatever the precision; default none.

    Raises:
        ValueError: unknown cell, constant, precision or layer; parameters missing, unexpected, misshapen or of mixed
            dtypes, all listed.
        TypeError: `params` is not a mapping, or its dtype is not float32 or float64.
    """
    spec = choice("cell", cell, CELLS)
    if regularization is not NO_REGULARIZATION:
        if not isinstance(regularization, tuple) or len(regularization) != len(Regularization._fields):
            raise TypeError(f"regularization: expected a functional.Regularization, got {regularization!r}")
        rates = zip(Regularization._fields, regularization, strict=True)
        regularization = Regularization(*(chance(f"regularization {name}", value) for name, value in rates))
    params = mapping("params", params)
    return Packed(spec, *_inferred(spec, params), params, constants, precision, regularization, keep)


def unwrapped(states: list[Array]) -> State:
    """States as callers know them: h alone, or a tuple."""
    return states[0] if len(states) == 1 else tuple(states)


def wrapped(state: State) -> tuple[Array, ...]:
    """The inverse of `unwrapped`."""
    return state if isinstance(state, tuple) else (state,)


def _check_precision(precision: str | None, dtype: np.dtype[Any], parameters: Mapping[str, Array]) -> None:
    if precision is None:
        return
    if dtype != np.float32:
        raise ValueError(f"precision: expected None for {dtype} parameters, got {precision!r}")
    for name, array in parameters.items():
        if precision == "int8" and not np.isfinite(array).all():
            raise ValueError(f"{name}: expected finite values for int8, got NaN or infinity")


def _layers(name: str, numbers: Iterable[int], layers: int) -> tuple[int, ...]:
    """Each number once, in order."""
    if not isinstance(numbers, (list, tuple, set, frozenset, range)):
        raise TypeError(f"{name}: expected numbers of layers, got {numbers!r}")
    found = {integer(name, number, 0) for number in numbers}
    if found and max(found) >= layers:
        raise ValueError(f"{name}: expected layers from 0 to {layers - 1}, got {max(found)}")
    return tuple(sorted(found))


def detached(value: Any) -> Any:
    """A parameter without its history: those of torch modules require grad, which inference may ignore."""
    return value.detach() if type(value) is not np.ndarray and hasattr(value, "detach") else value


def _inferred(cell: Cell, params: Mapping[str, Input]) -> tuple[Sizes, np.dtype[Any]]:
    """What names and shapes say about the network; whether they all agree `_checked` finds out."""
    for name in ("weight_ih_l0", "weight_hh_l0"):
        if name not in params:
            raise ValueError(f"params: expected {name} among the names, got {_listed(params)}")
    weight_ih, weight_hh = (
        as_array(f"params {name}", detached(params[name])) for name in ("weight_ih_l0", "weight_hh_l0")
    )
    gates = len(cell.gates)
    if weight_ih.ndim != 2 or not weight_ih.size or weight_ih.shape[0] % gates:
        expected = f"shape [{gates}*H, I] for {cell.name!r}"
        raise ValueError(f"params weight_ih_l0: expected {expected}, got {list(weight_ih.shape)}")
    hidden = weight_ih.shape[0] // gates
    if weight_hh.ndim != 2 or not weight_hh.size:
        raise ValueError(f"params weight_hh_l0: expected a matrix, got shape {list(weight_hh.shape)}")
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
    return sizes, float_dtype("params weight_ih_l0", weight_ih.dtype)


def _checked(
    title: str, params: Mapping[str, Input], shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype[Any]
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
                found[name] = check(name, detached(params[name]), dtype, shape)
            except (TypeError, ValueError) as error:
                problems.append(str(error))
    if problems:
        raise ValueError(f"{title}: expected other parameters:\n  " + "\n  ".join(problems))
    return {name: contiguous(array) for name, array in found.items()}


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "none"
