"""Cells whose step has several predecessors: trees, grids and other graphs without cycles.

A `Graph` says which rows depend on which, a `GraphNetwork` runs a cell over its rows, front by front, and back.
`TreeLSTM`, `MultidimensionalLSTM`, `GridLSTM` and `LocalGlobalLSTM` are made of these two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _core
from ._arrays import as_array, check, contiguous, detached, empty, memory_for, require_memory, vector
from ._cells import GRAPH_CELLS
from ._fixed import Fixed
from ._options import choice, flag, float_dtype, integer, items, mapping, shown
from ._parameters import checked_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import DTypeLike

    from ._arrays import Array, Input

__all__ = ["Graph", "GraphGradients", "GraphNetwork", "GraphTape"]


_CELLS = (
    "nary_tree",
    "child_sum_tree",
    "s_lstm_tree",
    "mdlstm",
    "mdlstm_halved",
    "mdlstm_stable",
    "mdlstm_leaky",
    "mdlstm_leakylp",
    "time_frequency",
    "grid",
    *GRAPH_CELLS,
)
_MAX_SLOTS = 4


class Graph(Fixed):
    """Rows in fronts, their predecessors and their inputs; checked once, and fixed.

    A row is one step of a cell: a node of a tree, a point of a grid. All rows of a front are computed together.

        >>> from recurra.graph import Graph
        >>> # Two given leaves, their parent, and a root above it and the second row of x:
        >>> graph = Graph([2, 3, 4], before=[[-1, -1, 0, 2], [-1, -1, 1, -1]], source=[-1, -1, -1, 0])
        >>> graph.rows, graph.given, graph.slots
        (4, 2, 2)

    Args:
        fronts: [F+1], ascending, integers. Rows fronts[f] .. fronts[f+1]-1 are front f; fronts[F] is N, the number of
            rows. Rows 0 .. fronts[0]-1 are given: the caller supplies their states.
        before: [S, N], the row of the predecessor in each slot, -1 where there is none (its states count as zero). A
            predecessor is given or in an earlier front, and in the same slot of no other row.
        source: [N], the row of x that feeds this row, -1 where none does (then there is the bias alone). Where rows
            share one, its products are made once, to the same bits. Default: -1 for all.
        children: instead of `before`, for cells with any number of predecessors, which are all alike: (first [N+1],
            rows [C]). Those of row r are rows[first[r]:first[r+1]], in the order in which they are summed. They are
            given or in earlier fronts, and each has one parent.

    Attributes:
        rows: N. given: number of given rows. slots: S, 0 with children.
        fronts, before, source: as above; before is [0, N] with children.
        children: as above; None without.
        inputs: the least number of rows that x must have.

    Raises:
        TypeError, ValueError: something is not as described.
        MemoryError: so many rows would not fit this machine; nothing has been allocated.
    """

    rows: int
    given: int
    slots: int
    inputs: int
    fronts: Array
    before: Array
    source: Array
    children: tuple[Array, Array] | None
    _core: _core.Graph

    def __init__(
        self,
        fronts: Sequence[int] | Array,
        before: Sequence[Sequence[int]] | Array | None = None,
        source: Sequence[int] | Array | None = None,
        *,
        children: tuple[Sequence[int] | Array, Sequence[int] | Array] | None = None,
    ) -> None:
        if (before is None) == (children is None):
            raise ValueError(f"before, children: expected one of them, got {'neither' if before is None else 'both'}")
        front_starts = _int64("fronts", fronts, None)
        if not len(front_starts) or front_starts[0] < 0 or (np.diff(front_starts) < 0).any():
            raise ValueError("fronts: expected at least one number, none below 0, ascending")
        rows, given = int(front_starts[-1]), int(front_starts[0])
        require_memory("fronts", 3 * rows * front_starts.itemsize)  # start, sources, and a slot or children
        # The first row of each row's front: what it depends on lies before. Given rows depend on nothing.
        start = np.repeat(np.concatenate(([0], front_starts[:-1])), np.diff(front_starts, prepend=0))
        sources = np.full(rows, -1) if source is None else _int64("source", source, rows)
        if (sources < -1).any():
            at = int((sources < -1).argmax())
            raise ValueError(f"source: expected -1 or more, got {sources[at]} at position {at}")
        if (sources[:given] >= 0).any():
            raise ValueError("source: expected -1 for given rows, whose states are known")
        slots, lists = np.empty((0, rows), np.int64), None
        if children is None:
            slots = _slots(before, rows)
            for s, row_before in enumerate(slots):
                _check_once(f"before[{s}]", row_before, start, "row", "precedes")
        else:
            lists = _child_lists(children, rows)
            first, child_rows = lists
            _check_once("children", child_rows, np.repeat(start, np.diff(first)), "row", "is a child of", none=False)
        inputs = int(sources.max(initial=-1)) + 1
        arrays = [front_starts, slots, sources, *(lists or ())]
        for array in arrays:
            array.flags.writeable = False
        with memory_for("graph"):
            core = _core.Graph(front_starts, slots, sources, *(lists or (None, None)))
        self.__dict__.update(rows=rows, given=given, slots=len(slots), inputs=inputs, fronts=front_starts)
        self.__dict__.update(before=slots, source=sources, children=lists, _core=core)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.fronts, None if self.children else self.before, self.source, self.children)

    def __repr__(self) -> str:
        kind = "children" if self.children else f"{self.slots} slots"
        return f"Graph({self.rows} rows in {len(self.fronts) - 1} fronts, {self.given} given, {kind})"


def _rebuilt(fronts: Array, before: Array | None, source: Array, children: tuple[Array, Array] | None) -> Graph:
    return Graph(fronts, before, source, children=children)


def _int64(name: str, value: Any, size: int | None) -> Array:
    array = vector(name, value, size)
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name}: expected numbers that int64 holds, got {array.max()}")
    return np.array(array, np.int64, order="C")


def _slots(before: Any, rows: int) -> Array:
    """[S, N], read slot by slot, so that errors say which is wrong."""
    if not isinstance(before, (list, tuple)):
        before = as_array("before", before)
        if before.ndim != 2:
            raise ValueError(f"before: expected shape [S, {rows}], got {list(before.shape)}")
    slots = [_int64(f"before[{s}]", row, rows) for s, row in enumerate(before)]
    if not 0 < len(slots) <= _MAX_SLOTS:
        raise ValueError(f"before: expected 1 to {_MAX_SLOTS} slots, got {len(slots)}")
    return np.stack(slots)


def _child_lists(children: Any, rows: int) -> tuple[Array, Array]:
    if not isinstance(children, tuple) or len(children) != 2:
        raise TypeError("children: expected a tuple (first [N+1], rows [C])")
    first = _int64("children first", children[0], rows + 1)
    listed = _int64("children rows", children[1], None)
    if first[0] != 0 or first[-1] != len(listed) or (np.diff(first) < 0).any():
        raise ValueError(f"children first: expected ascending numbers from 0 to the number of rows, {len(listed)}")
    return first, listed


def _check_once(name: str, values: Array, limits: Array, kind: str, does: str, none: bool = True) -> None:
    """Each value is -1 (if `none` may be) or 0 .. its limit - 1, and there only once."""
    wrong = (values < (-1 if none else 0)) | (values >= limits)
    if wrong.any():
        at = int(wrong.argmax())
        least = "-1 or more" if none else "0 or more"
        earlier = f"{kind}s of earlier fronts, 0..{int(limits[at]) - 1}"
        raise ValueError(f"{name}: expected {earlier}, {least}, got {values[at]} at position {at}")
    used, counts = np.unique(values[values >= 0], return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"{name}: expected every {kind} once at the most, got one that {does} two rows: {used[counts.argmax()]}"
        )


class GraphGradients(NamedTuple):
    """What `GraphTape.backward` returns.

    Attributes:
        x: [X, I], the gradient of the input, zero for rows that feed nothing; None with input_grad=False or without x.
        given: the gradients of the given rows' states, [G, H] each, in their order.
        params: the parameters' names to their gradients.
    """

    x: Array | None
    given: tuple[Array, ...]
    params: dict[str, Array]


class GraphNetwork(Fixed):
    """A cell with parameters, packed for the CPU; it runs over any graph. Fixed, so many threads may use it at once.

        >>> from recurra.graph import Graph, GraphNetwork
        >>> shapes = GraphNetwork.shapes("nary_tree", 3, 8, slots=2)
        >>> shapes["weight_hh"]
        (2, 40, 8)
        >>> random = np.random.default_rng(0)
        >>> tree = GraphNetwork("nary_tree", 3, 8, {name: random.normal(size=shapes[name]) for name in shapes}, slots=2)
        >>> graph = Graph([0, 2, 3], before=[[-1, -1, 0], [-1, -1, 1]], source=[0, 1, -1])  # two leaves and a root
        >>> (h, c), tape = tree.forward(np.ones((2, 3)), graph)
        >>> gradients = tape.backward((np.ones_like(h), None))
        >>> h.shape, gradients.x.shape, gradients.params["weight_hh"].shape
        ((3, 8), (2, 3), (2, 40, 8))

    Cells, with K or N for the number of slots and a row's states (cells.md numbers in brackets):

        "nary_tree" (h, c)       [8.3] blocks i, f_1..f_K, g, o: weight_ih [4H, I] (i, f, g, o), weight_hh
                                 [K, (K+3)H, H], bias [(K+3)H], one forget bias a child
        "child_sum_tree" (h, c)  [8.2] blocks i, f, g, o: weight_ih [4H, I], weight_hh [4H, H], bias [4H]; needs a graph
                                 with children
        "s_lstm_tree" (h, c)     [8.1] weight_hh [K, (K+3)H, H], weight_ch [K, (K+1)H, H], weight_co [H, H],
                                 bias [(K+3)H]; no input
        "mdlstm" (h, c)          [9.1] blocks i, f_1..f_N, g, o: weight_ih [(N+3)H, I], weight_hh [N, (N+3)H, H],
                                 bias [(N+3)H], weight_peep [(N+2)H] (i, f_1..f_N, o)
        "mdlstm_halved", "mdlstm_stable", "mdlstm_leaky", "mdlstm_leakylp" (h, c)
                                 [9.2] as mdlstm without peepholes, with the blocks of the section: (N+3)H, for leaky
                                 (N+2)H
        "time_frequency" (h, c)  [14.2] slot 0 is time, 1 frequency; blocks i, f, g, o: weight_ih [4H, I],
                                 weight_hh [2, 4H, H], bias [4H], weight_peep [3H] (i, f, o)
        "grid" (h_1..h_N, m_1..m_N)
                                 [10] weight_d [4H, N*H] (H rows for a dimension that is no LSTM), bias_d [4H],
                                 weight_ih_d [4H, I] of x in every block, d = 1..N
        "differential_full_..." (h, d0, ..)
                                 [11] `DifferentialRNN` with matrices and orders 0, 1, 2, 01, 02, 12 or 012; one slot;
                                 blocks i, f, g, o: weight_ih [4H, I], weight_hh [4H, H], weight_dos, for each order
                                 i, f, o: [3H, H], bias [4H]

    Biases, peepholes and, where nothing is fed from x, weight_ih may be left out of `params`. A pre-activation is one
    chain of fused multiply-adds: bias, x, then the states of the slots in order (for "s_lstm_tree" all h, then all c).

    Args:
        cell: one of the above.
        input_size: I, 0 for none.
        hidden_size: H.
        params: the parameters' names to arrays of the shapes above; copied.
        slots: K or N, 1 to 4; it does not matter for "child_sum_tree".
        dtype: float32 or float64; default that of the parameters.
        dimensions: of "grid": "lstm", "identity", "tanh" or "relu" for each; default all "lstm". The last three have no
            memory: m of such a dimension is zero.
        priority: of "grid": whether each dimension sees the new h of those without priority; default none.
        residual: of "grid": whether the new h of each dimension has the old one added; default none.
        form: of "grid": "paper", h = tanh(o * m), or "standard", h = o * tanh(m).

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, value or shape.
    """

    cell: str
    input_size: int
    hidden_size: int
    slots: int
    dtype: np.dtype[Any]
    state_names: tuple[str, ...]
    _options: dict[str, Any]
    _names: tuple[str, ...]  # of the cell's table
    _parameters: dict[str, Array]
    _core: _core.GraphNetwork

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        params: Mapping[str, Input],
        *,
        slots: int = 2,
        dtype: DTypeLike | None = None,
        dimensions: Sequence[str] | None = None,
        priority: Sequence[bool] | None = None,
        residual: Sequence[bool] | None = None,
        form: str = "paper",
    ) -> None:
        options = _cell_options(cell, input_size, hidden_size, slots, dimensions, priority, residual, form)
        states, described = _core.graph_cell(**options)
        given = mapping("params", params)
        if dtype is None:
            numbers = next((_dtype(name, array) for name, array in given.items()), np.dtype("float32"))
        else:
            numbers = float_dtype("dtype", dtype)
        needed = {name: tuple(shape) for name, shape, optional in described if name in given or not optional}
        checked = checked_parameters(
            "params", given, needed, lambda name, value, shape: _copied(name, value, numbers, shape)
        )
        with memory_for("params"):
            core = _core.GraphNetwork(
                **options, dtype=numbers.name, params=[checked.get(name) for name, *_ in described]
            )
        self.__dict__.update(cell=cell, input_size=options["input_size"], hidden_size=options["hidden_size"])
        self.__dict__.update(slots=options["slots"], dtype=numbers, state_names=tuple(states))
        self.__dict__.update(_options=options, _parameters=checked, _core=core)
        self.__dict__.update(_names=tuple(name for name, *_ in described))

    @staticmethod
    def shapes(
        cell: str,
        input_size: int,
        hidden_size: int,
        *,
        slots: int = 2,
        dimensions: Sequence[str] | None = None,
        priority: Sequence[bool] | None = None,
        residual: Sequence[bool] | None = None,
        form: str = "paper",
    ) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all parameters that a network with these arguments may have."""
        options = _cell_options(cell, input_size, hidden_size, slots, dimensions, priority, residual, form)
        return {name: tuple(shape) for name, shape, _ in _core.graph_cell(**options)[1]}

    @property
    def parameters(self) -> dict[str, Array]:
        """The parameters' names to copies."""
        return {name: array.copy() for name, array in self._parameters.items()}

    def __call__(
        self,
        x: Input | None,
        graph: Graph,
        given: Sequence[Input | None] | None = None,
        *,
        wanted: Sequence[str] | None = None,
    ) -> tuple[Array, ...]:
        """The states of every row, [N, H] each, in the order of `state_names`; those of given rows are theirs.

        Args:
            x: [X, I], of the network's dtype, X at least `graph.inputs`; None when the graph has no sources.
            graph: rows, predecessors and sources.
            given: the states of the given rows, [G, H] each; None for zero.
            wanted: names of the states to return, in the order of `state_names`; others are not written. Default all.

        Raises:
            TypeError, ValueError: wrong dtype or shape, a graph that does not suit the cell, or an unknown state.
        """
        states, _ = self._run(x, graph, given, None, wanted)
        return states

    def forward(
        self,
        x: Input | None,
        graph: Graph,
        given: Sequence[Input | None] | None = None,
        *,
        recompute: bool = False,
        wanted: Sequence[str] | None = None,
    ) -> tuple[tuple[Array, ...], GraphTape]:
        """As a call, with a tape for backward; x is copied.

        Args:
            x, graph, given, wanted: as of a call.
            recompute: keep the states alone, and compute the gates again in backward: the same bits from less memory.
        """
        states, tape = self._run(x, graph, given, flag("recompute", recompute), wanted)
        assert tape is not None
        return states, tape

    def _run(
        self, x: Any, graph: Graph, given: Any, recompute: bool | None, wanted: Any
    ) -> tuple[tuple[Array, ...], GraphTape | None]:
        if not isinstance(graph, Graph):
            raise TypeError(f"graph: expected a Graph, got {type(graph).__name__}")
        if (graph.children is not None) != (self.slots == 0):
            raise ValueError(f"graph: expected one with {'children' if self.slots == 0 else 'slots'} for {self.cell!r}")
        if graph.slots != self.slots:
            raise ValueError(f"graph: expected {self.slots} slots, got {graph.slots}")
        inputs = self._inputs(x, graph)
        states = self._checked_states("given", given, graph.given)
        names = self.state_names if wanted is None else self._names_of_states(wanted)
        shape = graph.rows, self.hidden_size
        out = [empty(f"state {name}", shape, self.dtype) if name in names else None for name in self.state_names]
        with memory_for("graph"):
            tape = self._core.forward(inputs, graph._core, states, out, recompute)
        found = tuple(array for array in out if array is not None)
        return found, None if tape is None else GraphTape(self, graph, None if x is None else len(inputs), tape)

    def _inputs(self, x: Any, graph: Graph) -> Array:
        if x is None:
            if graph.inputs:
                raise ValueError(f"x: expected an array, since the graph takes {graph.inputs} rows of it, got None")
            return np.empty((0, self.input_size), self.dtype)
        if not self.input_size or not any(name.startswith("weight_ih") for name in self._parameters):
            raise ValueError("x: expected None for a network without weight_ih, got an array")
        array = contiguous(check("x", x, self.dtype, ("X", self.input_size)))
        if len(array) < graph.inputs:
            raise ValueError(f"x: expected at least {graph.inputs} rows, as the graph's source says, got {len(array)}")
        return array

    def _names_of_states(self, wanted: Any) -> Sequence[str]:
        expected = f"some of {', '.join(self.state_names)}"
        if not isinstance(wanted, (tuple, list)) or not all(isinstance(name, str) for name in wanted):
            raise TypeError(f"wanted: expected {expected}, got {shown(wanted)}")
        if len(set(wanted)) != len(wanted) or not set(wanted) <= set(self.state_names):
            raise ValueError(f"wanted: expected {expected}, got {shown(wanted)}")
        return wanted

    def _checked_states(self, name: str, values: Any, rows: int) -> list[Array | None]:
        if values is None:
            return [None] * len(self.state_names)
        if not isinstance(values, (tuple, list)) or len(values) != len(self.state_names):
            raise TypeError(f"{name}: expected a tuple ({', '.join(self.state_names)})")
        return [
            None if value is None else contiguous(check(f"{name} {state}", value, self.dtype, (rows, self.hidden_size)))
            for state, value in zip(self.state_names, values, strict=True)
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (self._options, self._parameters, self.dtype)

    def __repr__(self) -> str:
        return f"GraphNetwork({self.cell!r}, {self.input_size}, {self.hidden_size}, slots={self.slots}, {self.dtype})"


class GraphTape:
    """What `GraphNetwork.forward` keeps for `backward`, which may be called again.

    Attributes:
        nbytes: memory it holds.
    """

    __slots__ = ("_graph", "_inputs", "_network", "_tape")

    def __init__(self, network: GraphNetwork, graph: Graph, inputs: int | None, tape: _core.GraphTape) -> None:
        self._network, self._graph, self._inputs, self._tape = network, graph, inputs, tape

    @property
    def nbytes(self) -> int:
        """Memory the tape holds, in bytes."""
        return self._tape.nbytes

    def backward(self, d_states: Sequence[Input | None], *, input_grad: bool = True) -> GraphGradients:
        """Gradients of a loss from those of the rows' states.

        Args:
            d_states: dL/d states of every row, [N, H] each in the order of `state_names`; None for zero. Those of given
                rows reach the given states.
            input_grad: whether to compute the gradient of x.

        Raises:
            TypeError, ValueError: wrong shape or dtype.
        """
        network, graph = self._network, self._graph
        if d_states is None:
            raise TypeError(f"d_states: expected a tuple ({', '.join(network.state_names)}), got None")
        from_states = network._checked_states("d_states", d_states, graph.rows)
        dx = None
        if flag("input_grad", input_grad) and self._inputs is not None:
            dx = empty("gradient of x", (self._inputs, network.input_size), network.dtype)
        given = [np.empty((graph.given, network.hidden_size), network.dtype) for _ in network.state_names]
        params = {name: np.empty_like(array) for name, array in network._parameters.items()}
        with memory_for("backward"):
            self._tape.backward(from_states, dx, given, [params.get(name) for name in network._names])
        return GraphGradients(dx, tuple(given), params)

    def __reduce__(self) -> Any:
        raise TypeError("a GraphTape cannot be copied or pickled")

    def __repr__(self) -> str:
        return f"GraphTape({self._network.cell!r}, {self.nbytes} bytes)"


def _cell_options(
    cell: Any, input_size: Any, hidden_size: Any, slots: Any, dimensions: Any, priority: Any, residual: Any, form: Any
) -> dict[str, Any]:
    """The arguments of the core, checked."""
    name = choice("cell", cell, {known: known for known in _CELLS})
    count = 0 if name == "child_sum_tree" else integer("slots", slots)
    if count > _MAX_SLOTS:
        raise ValueError(f"slots: expected at most {_MAX_SLOTS}, got {count}")
    fixed = 2 if name == "time_frequency" else 1 if name in GRAPH_CELLS else count
    if count != fixed:
        raise ValueError(f"slots: expected {fixed} for {name!r}, got {count}")
    standard = choice("form", form, {"paper": False, "standard": True})
    if name != "grid":
        if any(option is not None for option in (dimensions, priority, residual)) or standard:
            raise ValueError(f"dimensions, priority, residual, form: expected none for {name!r}, they are of 'grid'")
        kinds, first, added = [], [], []
    else:
        wanted = {kind: kind for kind in ("lstm", "identity", "tanh", "relu")}
        given = ["lstm"] * count if dimensions is None else items("dimensions", dimensions, " of their kinds")
        kinds = [choice("dimensions", kind, wanted) for kind in given]
        first, added = _flags("priority", priority, count), _flags("residual", residual, count)
        lengths = len(kinds), len(first), len(added)
        if lengths != (count,) * 3:
            got = "{}, {} and {}".format(*lengths)
            raise ValueError(f"dimensions, priority, residual: expected {count} each, one a slot, got {got}")
    sizes = {"input_size": integer("input_size", input_size, 0), "hidden_size": integer("hidden_size", hidden_size)}
    for title, size in sizes.items():
        if size > 1 << 24:
            raise ValueError(f"{title}: expected at most 2**24, got {size}")
    marks = {"priority": first, "residual": added}
    return {"cell": name, **sizes, "slots": count, "dimensions": kinds, **marks, "standard": standard}


def _flags(name: str, value: Any, count: int) -> list[bool]:
    """As given, or False for each slot."""
    return [flag(name, each) for each in ([False] * count if value is None else items(name, value, " of booleans"))]


def _remade(options: dict[str, Any], parameters: dict[str, Array], dtype: np.dtype[Any]) -> GraphNetwork:
    sizes = {name: options[name] for name in ("input_size", "hidden_size")}
    sizes["slots"] = options["slots"] or 2
    of_grid = {}
    if options["cell"] == "grid":
        form = "standard" if options["standard"] else "paper"
        of_grid = {**{name: options[name] for name in ("dimensions", "priority", "residual")}, "form": form}
    return GraphNetwork(options["cell"], params=parameters, dtype=dtype, **sizes, **of_grid)


def _dtype(name: str, value: Any) -> np.dtype[Any]:
    return float_dtype(f"params {name}", as_array(f"params {name}", detached(value)).dtype)


def _copied(name: str, value: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    return np.array(check(f"params {name}", value, dtype, shape), order="C")
