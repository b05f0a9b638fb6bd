"""The compiled table of cells, the parameters each one has, and the names of the cells that options stand for."""

from __future__ import annotations

import math
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _core
from ._options import bound, chance, choice, flag, integer, mapping, real
from .activation import CORE_NAMES, Activation, activations

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import DTypeLike


class Sizes(NamedTuple):
    """What, besides the cell, decides the names and shapes of a network's parameters; and which way it runs."""

    input: int
    hidden: int
    output: int
    layers: int
    directions: int
    bias: bool
    reverse: bool = False  # the only direction runs backwards in time
    proj_bias: bool = False  # the projection has one
    initial_state: bool = False  # it is learned
    heads: int = 1

    @property
    def direction(self) -> str:
        """As callers spell it."""
        return "bidirectional" if self.directions == 2 else "reverse" if self.reverse else "forward"

    @property
    def backwards(self) -> tuple[bool, ...]:
        """Of each direction, whether it runs backwards in time."""
        return (self.reverse, True)[: self.directions]

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What the directions add to a parameter's name."""
        return ("", "_reverse")[: self.directions]


def present(name: str, is_bias: bool, sizes: Sizes) -> bool:
    """Whether a network of these sizes has this parameter of its cell."""
    return sizes.proj_bias if name == "bias_hr" else sizes.bias or not is_bias


class Regularization(NamedTuple):
    """Probabilities, each in 0..1; for their meaning see `Recurrent`. zoneout_c is that of the second state, c in an
    LSTM; zoneout_third and zoneout_fourth are for cells with as many.

        >>> rates = functional.Regularization(dropout=0.1, zoneout_h=0.05)
        >>> packed = functional.pack("gru", recurra.GRU(12, 64, num_layers=2).state_dict(), regularization=rates)
    """

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
    has_heads: bool

    @property
    def initial_names(self) -> list[str]:
        """What a learned initial state's parameters are called."""
        return [f"{name}_0" for name, _ in self.states]

    def initial_shapes(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        """Their shapes, if there are any."""
        lanes = sizes.layers * sizes.directions
        return {
            f"{name}_0": (lanes, sizes.hidden if dim == "hidden" else sizes.output)
            for name, dim in self.states
            if sizes.initial_state
        }

    def layer_shapes(self, sizes: Sizes, layer: int) -> dict[str, tuple[int, ...]]:
        """Parameter names, without layer and direction, and shapes in one direction of a layer."""
        dims = {
            "one": 1,
            "input": sizes.directions * sizes.output if layer else sizes.input,
            "hidden": sizes.hidden,
            "output": sizes.output,
            "head": sizes.hidden // sizes.heads,
        }
        return {
            name: (blocks * dims[rows],) if columns == "one" else (blocks * dims[rows], dims[columns])
            for name, blocks, rows, columns, is_bias in self.params
            if present(name, is_bias, sizes)
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
        initial = sum(map(math.prod, self.initial_shapes(sizes).values()))
        return sizes.directions * (first + (sizes.layers - 1) * other) + initial

    def constant_values(
        self, given: Mapping[str, float] | None, dtype: DTypeLike = "float64", directions: int = 1
    ) -> dict[str, float]:
        """All constants of the cell, defaults filled in. Where the second of two directions has others, all of its own
        follow, with "_reverse" behind their names."""
        given = {} if given is None else mapping("constants", given)
        values, own = dict(self.constants), {}
        for name, value in given.items():
            base = name.removesuffix("_reverse") if isinstance(name, str) else name
            if base not in values:
                raise ValueError(f"constants: expected names among {list(values)} for {self.name!r}, got {name!r}")
            if base != name and directions == 1:
                raise ValueError(f"constants: expected none of the reverse direction, which is not there, got {name!r}")
            own[name] = _constant(name, base, value, dtype)
        values |= {name: own[name] for name in values if name in own}
        if any(name not in values for name in own):
            values |= {f"{name}_reverse": own.get(f"{name}_reverse", value) for name, value in values.items()}
        return values

    def checked_initial_state(self, initial_state: Any) -> bool:
        """Whether an initial state is to be learned, where it may be."""
        learned = flag("initial_state", initial_state)
        if learned and self.has_heads:
            raise ValueError(
                f"initial_state: expected False for cell {self.name!r}, whose n starts from zero, got True"
            )
        return learned

    def checked_heads(self, heads: Any, hidden: int) -> int:
        """A number of heads that this cell may have, and that cuts its units into equal parts."""
        count = integer("heads", heads)
        if count > 1 and not self.has_heads:
            raise ValueError(f"heads: expected 1 for cell {self.name!r}, got {heads}")
        if hidden % count:
            raise ValueError(f"heads: expected a divisor of hidden_size={hidden}, got {heads}")
        return count

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


def _constant(name: str, base: str, value: Any, dtype: DTypeLike) -> float:
    """A constant's value: a bound, of which an infinite one is none; an activation, as an index into `CORE_NAMES`; or
    its parameter, zero or a normal number."""
    if base.endswith("clip"):
        return bound(f"constants {name}", value, dtype)
    limits, number = np.finfo(dtype), real(f"constants {name}", value)
    normal = float(limits.tiny) <= abs(number) <= float(limits.max)  # below, numbers count as zero
    if base in ("f", "g", "h"):
        if number not in range(len(CORE_NAMES)):
            raise ValueError(f"constants {name}: expected what Activation.constants gives, got {value}")
    elif not (normal or number == 0):
        raise ValueError(f"constants {name}: expected 0 or a normal number of {dtype}, got {value}")
    return number


# Kept, because a training loop asks at every step.
@lru_cache(maxsize=64)
def _shapes(cell: str, sizes: Sizes) -> Mapping[str, tuple[int, ...]]:
    return MappingProxyType(
        {
            f"{name}_l{layer}{suffix}": shape
            for layer in range(sizes.layers)
            for suffix in sizes.suffixes
            for name, shape in SEQUENCE_CELLS[cell].layer_shapes(sizes, layer).items()
        }
        | SEQUENCE_CELLS[cell].initial_shapes(sizes)
    )


@lru_cache(maxsize=64)
def _names(cell: str, sizes: Sizes) -> tuple[tuple[str, ...], ...]:
    return tuple(
        tuple(f"{name}_l{layer}{suffix}" for name, *_ in SEQUENCE_CELLS[cell].params)
        for layer in range(sizes.layers)
        for suffix in sizes.suffixes
    )


def chosen_direction(bidirectional: Any, direction: Any) -> str:
    """The direction that both options stand for."""
    both = flag("bidirectional", bidirectional)
    chosen = choice("direction", direction, {name: name for name in ("forward", "reverse", "bidirectional")})
    if both and chosen == "reverse":
        raise ValueError("direction: expected 'forward' or 'bidirectional' with bidirectional=True, got 'reverse'")
    return "bidirectional" if both else chosen


CELLS: dict[str, Cell] = {name: Cell(name=name, **line) for name, line in _core.cells().items()}

DIFFERENTIAL_ORDERS = ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))


def _differential_full(orders: tuple[int, ...]) -> Cell:
    """The differential RNN with matrices."""
    diagonal = CELLS[_differential("", orders)]
    params = [
        (name, blocks, rows, "hidden" if name == "weight_dos" else columns, is_bias)
        for name, blocks, rows, columns, is_bias in diagonal.params
    ]
    return diagonal._replace(name=_differential("full_", orders), params=params)


def _differential(kind: str, orders: tuple[int, ...]) -> str:
    return f"differential_{kind}{''.join(map(str, orders))}"


# Of sequences, but steps of the engine of graphs: see _sequence_graph.py.
GRAPH_CELLS = {cell.name: cell for cell in map(_differential_full, DIFFERENTIAL_ORDERS)}
SEQUENCE_CELLS = CELLS | GRAPH_CELLS


def start_value(name: str) -> float | None:
    """What all values of the parameter of this name are in a new layer; None: they are drawn."""
    return 1.0 if name.startswith("gamma") else 0.0 if name.startswith("beta") else None


def lstm_cell(coupled: Any, peephole: Any, projected: bool, layer_norm: Any = False) -> str:
    """The LSTM cell that these options stand for."""
    coupling = {False: "", True: "_coupled", "i_from_f": "_coupled", "f_from_i": "_f_from_i"}
    name = (
        "lstm"
        + choice("coupled", coupled, coupling)
        + ("_peephole" if flag("peephole", peephole) else "")
        + ("_projected" if projected else "")
    )
    return _layer_norm(name, "lstm", layer_norm, "coupled gates, peepholes or a projection")


def gru_cell(reset: Any, update: Any, layer_norm: Any = False) -> str:
    """The GRU cell that these options stand for."""
    name = (
        "gru"
        + choice("reset", reset, {"after": "", "before": "_reset_before"})
        + choice("update", update, {"keep": "", "write": "_write"})
    )
    return _layer_norm(name, "gru", layer_norm, "reset='before' or update='write'")


def _layer_norm(cell: str, plain: str, layer_norm: Any, others: str) -> str:
    if not flag("layer_norm", layer_norm):
        return cell
    if cell != plain:
        raise ValueError(f"layer_norm: expected False with {others}, got True")
    return plain + "_layer_norm"


def rnn_cell(nonlinearity: Any) -> str:
    """The Elman cell with this nonlinearity."""
    return choice("nonlinearity", nonlinearity, {kind: f"rnn_{kind}" for kind in ("tanh", "relu", "sigmoid")})


def lstm_choice(
    cell: str, cell_clip: Any, activations_of: tuple[Any, Any, Any], clip: Any, bidirectional: bool
) -> tuple[str, dict[str, float]]:
    """The LSTM cell and constants that these options stand for; activations: g, f and h, None for that of g."""
    activation, recurrent, output = activations_of
    chosen = {
        "g": activations("activation", activation, bidirectional),
        "f": activations("recurrent_activation", recurrent, bidirectional),
    }
    chosen["h"] = chosen["g"] if output is None else activations("output_activation", output, bidirectional)
    constants = {} if cell_clip is None else {"cell_clip": cell_clip}
    return _general(cell, constants, chosen, clip)


def gru_choice(
    cell: str, activation: Any, recurrent_activation: Any, clip: Any, bidirectional: bool
) -> tuple[str, dict[str, float]]:
    """The GRU cell and constants that these options stand for."""
    chosen = {
        "g": activations("activation", activation, bidirectional),
        "f": activations("recurrent_activation", recurrent_activation, bidirectional),
    }
    return _general(cell, {}, chosen, clip)


def rnn_choice(nonlinearity: Any, clip: Any, bidirectional: bool) -> tuple[str, dict[str, float]]:
    """The Elman cell and constants that these options stand for."""
    chosen = activations("nonlinearity", nonlinearity, bidirectional)
    if clip is None and len(chosen) == 1 and f"rnn_{chosen[0].function}" in CELLS:
        return rnn_cell(chosen[0].function), {}
    return _general("rnn", {}, {"f": chosen}, clip)


def _general(
    cell: str, constants: dict[str, float], chosen: Mapping[str, tuple[Activation, ...]], clip: Any
) -> tuple[str, dict[str, float]]:
    """`cell` where these are its own activations and there is no clip, else the general one like it."""
    standard = {"f": "sigmoid", "g": "tanh", "h": "tanh"}
    if cell != "rnn" and clip is None and all(own == (Activation(standard[n]),) for n, own in chosen.items()):
        return cell, constants
    if cell.endswith("layer_norm"):
        raise ValueError("layer_norm: expected False with other activations or a clip, got True")
    constants = constants if clip is None else {**constants, "clip": bound("clip", clip)}
    for letter, own in chosen.items():
        for activation, end in zip(own, ("", "_reverse"), strict=False):
            constants = constants | activation.constants(letter + end)
    return f"{cell}_general", constants


def multiplicative_lstm_cell(form: Any, bias_at: Any) -> str:
    """The multiplicative LSTM that these options stand for."""
    name = "multiplicative_lstm" + choice("form", form, {"standard": "", "paper": "_paper"})
    at_output = choice("bias_at", bias_at, {"candidate": "", "output": "_output"})
    if at_output and form != "paper":
        raise ValueError(f"bias_at: expected 'candidate' with form={form!r}, got {bias_at!r}")
    return name + at_output


def differential_cell(orders: Any, diagonal: Any) -> str:
    """The differential RNN whose gates see differences of these orders."""
    kind = "" if flag("diagonal", diagonal) else "full_"
    return choice("orders", orders, {known: _differential(kind, known) for known in DIFFERENTIAL_ORDERS})


def indrnn_cell(nonlinearity: Any) -> str:
    """The IndRNN with this nonlinearity."""
    return choice("nonlinearity", nonlinearity, {kind: f"indrnn_{kind}" for kind in ("relu", "tanh")})


def min_gru_cell(candidate: Any) -> str:
    """The minGRU with this candidate."""
    return choice("candidate", candidate, {"linear": "min_gru", "positive": "min_gru_positive"})


def min_lstm_cell(candidate: Any) -> str:
    """The minLSTM with this candidate."""
    return choice("candidate", candidate, {"linear": "min_lstm", "positive": "min_lstm_positive"})


def slstm_cell(forget: Any) -> str:
    """The sLSTM with this forget gate."""
    return choice("forget", forget, {"sigmoid": "slstm", "exp": "slstm_exp"})


def sru_cell(nonlinearity: Any) -> str:
    """The SRU with this nonlinearity."""
    return choice("nonlinearity", nonlinearity, {"identity": "sru", "tanh": "sru_tanh"})
