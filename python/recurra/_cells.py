"""The compiled table of cells, the parameters each one has, and the names of the cells that options stand for."""

from __future__ import annotations

import math
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _core
from ._options import chance, choice, flag, mapping, real

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import DTypeLike


class Sizes(NamedTuple):
    """What, besides the cell, decides the names and shapes of a network's parameters."""

    input: int
    hidden: int
    output: int
    layers: int
    directions: int
    bias: bool

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What the directions add to a parameter's name."""
        return ("", "_reverse")[: self.directions]


class Regularization(NamedTuple):
    """Probabilities, each in 0..1; for their meaning see `Recurrent`. zoneout_c is that of the second state, c in an
    LSTM; zoneout_third and zoneout_fourth are for cells with as many."""

    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    zoneout_h: float = 0.0
    zoneout_c: float = 0.0
    zoneout_third: float = 0.0
    zoneout_fourth: float = 0.0


class Cell(NamedTuple):
    """One line of the compiled table."""

    name: str
    gates: str
    states: list[tuple[str, str]]
    params: list[tuple[str, int, str, str, bool]]
    constants: list[tuple[str, float]]
    projected: bool
    unit_range: bool
    recurrent_product: bool

    def layer_shapes(self, sizes: Sizes, layer: int) -> dict[str, tuple[int, ...]]:
        """Parameter names, without layer and direction, and shapes in one direction of a layer."""
        dims = {
            "one": 1,
            "input": sizes.directions * sizes.output if layer else sizes.input,
            "hidden": sizes.hidden,
            "output": sizes.output,
        }
        return {
            name: (blocks * dims[rows],) if columns == "one" else (blocks * dims[rows], dims[columns])
            for name, blocks, rows, columns, is_bias in self.params
            if sizes.bias or not is_bias
        }

    def shapes(self, sizes: Sizes) -> Mapping[str, tuple[int, ...]]:
        """Every parameter's full name and shape, in torch's order."""
        return _shapes(self.name, sizes)

    def names(self, sizes: Sizes) -> tuple[tuple[str, ...], ...]:
        """Full names as the core counts them: for each layer and direction those of `params`, absent biases too."""
        return _names(self.name, sizes)

    def by_layer(self, sizes: Sizes, arrays: Mapping[str, Any]) -> list[list[Any]]:
        """Arrays by full name in the order of `names`, None for an absent bias."""
        return [[arrays.get(name) for name in names] for names in self.names(sizes)]

    def parameter_count(self, sizes: Sizes) -> int:
        """Number of parameter values, in constant time however absurd the sizes."""
        first, other = (sum(map(math.prod, self.layer_shapes(sizes, layer).values())) for layer in (0, 1))
        return sizes.directions * (first + (sizes.layers - 1) * other)

    def constant_values(self, given: Mapping[str, float] | None, dtype: DTypeLike = "float64") -> dict[str, float]:
        """All constants of the cell, defaults filled in. Each is positive, and neither zero nor, unless it is so
        already, infinite in `dtype`; an infinite clip is none."""
        values, limits = dict(self.constants), np.finfo(dtype)
        least, most = float(limits.tiny), float(limits.max)  # below, numbers count as zero
        for name, value in ({} if given is None else mapping("constants", given)).items():
            if name not in values:
                raise ValueError(f"constants: expected names among {list(values)} for {self.name!r}, got {name!r}")
            values[name] = number = real(f"constants {name}", value)
            if number <= 0:
                raise ValueError(f"constants {name}: expected a positive number, got {value}")
            if not (least <= number <= most or math.isinf(number)):
                raise ValueError(f"constants {name}: expected a normal number of {dtype} or infinity, got {value}")
        return values

    def regularization(self, dropout: Any, recurrent_dropout: Any, zoneout: Any) -> Regularization:
        """The chances that the options of `Recurrent` stand for."""
        names = [name for name, _ in self.states]
        if not isinstance(zoneout, tuple):
            rates = [chance("zoneout", zoneout)] * len(names)
        elif len(zoneout) == len(names):
            rates = [chance(f"zoneout of {name}", rate) for name, rate in zip(names, zoneout, strict=True)]
        else:
            wanted = f"a number or a tuple ({', '.join(names)})" if len(names) > 1 else "a number"
            raise ValueError(f"zoneout: expected {wanted} for cell {self.name!r}, got {zoneout!r}")
        recurrent_dropout = chance("recurrent_dropout", recurrent_dropout)
        if recurrent_dropout and not self.recurrent_product:
            expected = f"0 for cell {self.name!r}, which has no recurrent product"
            raise ValueError(f"recurrent_dropout: expected {expected}, got {recurrent_dropout}")
        return Regularization(chance("dropout", dropout), recurrent_dropout, *rates)


# Kept, because a training loop asks at every step.
@lru_cache(maxsize=64)
def _shapes(cell: str, sizes: Sizes) -> Mapping[str, tuple[int, ...]]:
    return MappingProxyType(
        {
            f"{name}_l{layer}{suffix}": shape
            for layer in range(sizes.layers)
            for suffix in sizes.suffixes
            for name, shape in CELLS[cell].layer_shapes(sizes, layer).items()
        }
    )


@lru_cache(maxsize=64)
def _names(cell: str, sizes: Sizes) -> tuple[tuple[str, ...], ...]:
    return tuple(
        tuple(f"{name}_l{layer}{suffix}" for name, *_ in CELLS[cell].params)
        for layer in range(sizes.layers)
        for suffix in sizes.suffixes
    )


CELLS: dict[str, Cell] = {name: Cell(name=name, **line) for name, line in _core.cells().items()}


def lstm_cell(coupled: Any, peephole: Any, projected: bool) -> str:
    """The LSTM cell that these options stand for."""
    coupling = {False: "", True: "_coupled", "i_from_f": "_coupled", "f_from_i": "_f_from_i"}
    return (
        "lstm"
        + choice("coupled", coupled, coupling)
        + ("_peephole" if flag("peephole", peephole) else "")
        + ("_projected" if projected else "")
    )


def gru_cell(reset: Any, update: Any) -> str:
    """The GRU cell that these options stand for."""
    return (
        "gru"
        + choice("reset", reset, {"after": "", "before": "_reset_before"})
        + choice("update", update, {"keep": "", "write": "_write"})
    )


def rnn_cell(nonlinearity: Any) -> str:
    """The Elman cell with this nonlinearity."""
    return choice("nonlinearity", nonlinearity, {kind: f"rnn_{kind}" for kind in ("tanh", "relu", "sigmoid")})


def lstm_constants(cell_clip: float | None) -> dict[str, float]:
    """The LSTM constants that the options stand for."""
    return {} if cell_clip is None else {"cell_clip": cell_clip}


def multiplicative_lstm_cell(form: Any, bias_at: Any) -> str:
    """The multiplicative LSTM that these options stand for."""
    name = "multiplicative_lstm" + choice("form", form, {"standard": "", "paper": "_paper"})
    at_output = choice("bias_at", bias_at, {"candidate": "", "output": "_output"})
    if at_output and form != "paper":
        raise ValueError(f"bias_at: expected 'candidate' with form={form!r}, got {bias_at!r}")
    return name + at_output


def differential_cell(orders: Any, diagonal: Any) -> str:
    """The differential RNN whose gates see differences of these orders."""
    if not flag("diagonal", diagonal):
        raise ValueError("diagonal: expected True, vectors; matrices are not implemented, got False")
    return choice("orders", orders, {o: "differential_" + "".join(map(str, o)) for o in DIFFERENTIAL_ORDERS})


DIFFERENTIAL_ORDERS = ((0,), (1,), (2,), (0, 1), (0, 1, 2))


def indrnn_cell(nonlinearity: Any) -> str:
    """The IndRNN with this nonlinearity."""
    return choice("nonlinearity", nonlinearity, {kind: f"indrnn_{kind}" for kind in ("relu", "tanh")})


def min_gru_cell(candidate: Any) -> str:
    """The minGRU with this candidate."""
    return choice("candidate", candidate, {"linear": "min_gru", "positive": "min_gru_positive"})


def min_lstm_cell(candidate: Any) -> str:
    """The minLSTM with this candidate."""
    return choice("candidate", candidate, {"linear": "min_lstm", "positive": "min_lstm_positive"})


def sru_cell(nonlinearity: Any) -> str:
    """The SRU with this nonlinearity."""
    return choice("nonlinearity", nonlinearity, {"identity": "sru", "tanh": "sru_tanh"})
