"""Grid LSTM: a vector and a memory along every dimension of a grid, its depth among them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from . import _core
from ._arrays import require_memory
from ._grid_layer import COMBINE, MAX_DIMS, DirectedLayer, Networks, Walk, dimensions, grid_graph, named_directions
from ._options import choice, flag, integer, shown
from .graph import GraphNetwork

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import DTypeLike

    from ._arrays import Array
    from ._grid_layer import Gradients
    from ._options import Seed
    from .graph import Graph

T = TypeVar("T")

__all__ = ["GridLSTM"]


class GridLSTM(DirectedLayer):
    """LSTM whose nodes pass on, along each dimension of a grid, a vector and a memory of that dimension's own.

        >>> layer = recurra.GridLSTM(input_size=12, hidden_size=32, dims=1, depth=3)  # sequences, three blocks deep
        >>> y = layer(np.zeros((8, 100, 12), "float32"), sizes=[[100], [7], [31], [100], [64], [2], [99], [1]])
        >>> y.shape
        (8, 100, 32)
        >>> recurra.GridLSTM(1, 16, dims=2, input="every")(np.zeros((8, 5, 5, 1), "float32")).shape  # no depth
        (8, 5, 5, 32)

    Each block reads H = [h_1; ..; h_N], the vectors that arrive along its N dimensions, and their memories m_1 .. m_N.
    For each dimension d, with A = H @ weight_hh_d^T + bias_d in blocks of hidden_size values, order i, f, g, o:

        m_d' = sigmoid(A_f) * m_d + sigmoid(A_i) * tanh(A_g)
        h_d' = tanh(sigmoid(A_o) * m_d')            form="paper"
        h_d' = sigmoid(A_o) * tanh(m_d')            form="standard"

    (Kalchbrenner, Danihelka, Graves 2015, arXiv:1507.01526.) The grid has the `dims` axes of the input and, with
    `depth`, one more dimension, the last, in which blocks lie on top of each other.

    Fixed once made, but for `load_state_dict`; it pickles as its configuration and parameters: for each layer l of the
    depth (l = 0 without, or with tied_depth) weight_hh_l0 [R, N*H], where R has 4*H rows for each dimension, or H for
    one in non_lstm, one after another; bias_l0 [R]; with input="every" weight_ih_l0 [R, I]; and proj_h, proj_m [H, I].
    Unless there is the forward direction alone, each name ends with the digits of its direction: weight_hh_l0_01.

    Args:
        input_size: I, values a node of the input has.
        hidden_size: H, units of each dimension.
        dims: axes of the input besides batch and values. N = dims, and one more with depth; N is 1 to 4.
        depth: blocks on top of each other; None for no such dimension.
        input: "side": x enters along the depth, as h = x @ proj_h^T and m = x @ proj_m^T, or "every" block: weight_ih
            @ x is added to its A. Default "side" with a depth, else "every".
        proj_m: False leaves the memory that enters along the depth at zero.
        form: see above.
        priority: dimensions, counted from 0, whose transforms are computed last and see the others' new vectors.
        non_lstm: dimensions without a memory, and their functions: {1: "tanh"} makes h_1' = tanh(H @ weight_hh_1^T +
            bias_1). "identity", "relu" or "tanh".
        residual: dimensions along which a block adds the vector that enters it, h_d, to h_d'; dimensions with priority
            see the sum.
        tied: whether all dimensions share one transform.
        tied_depth: whether all layers of the depth share theirs.
        bias: whether there is one.
        directions, combine: as of `MultidimensionalLSTM`, but by default 1; each direction has a depth of its own.
        dtype, device, seed, rng: as of `MultidimensionalLSTM`.

    The output of a direction is the vector on top of the depth, or without depth those of all dimensions, N*H values.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or value.
        MemoryError: the parameters would not fit this machine; nothing has been allocated.
    """

    depth: int | None
    input: str
    proj_m: bool
    form: str
    priority: tuple[int, ...]
    non_lstm: dict[int, str]
    residual: tuple[int, ...]
    tied: bool
    tied_depth: bool
    _tails: tuple[str, ...]  # of the directions' parameters

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        dims: int = 2,
        depth: int | None = None,
        input: str | None = None,
        proj_m: bool = True,
        form: str = "paper",
        priority: Sequence[int] = (),
        non_lstm: Mapping[int, str] | None = None,
        residual: Sequence[int] = (),
        tied: bool = False,
        tied_depth: bool = False,
        bias: bool = True,
        directions: str | int | Iterable[str] = 1,
        combine: str = "concat",
        *,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        seed: Seed = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        sizes: dict[str, Any] = {"input_size": input_size, "hidden_size": hidden_size, "dims": dims, "depth": depth}
        options: dict[str, Any] = {"input": input, "proj_m": proj_m, "form": form, "priority": priority}
        options |= {"non_lstm": non_lstm, "residual": residual, "tied": tied, "tied_depth": tied_depth, "bias": bias}
        options |= {"directions": directions, "combine": combine}
        self._configure(**sizes, **options, dtype=dtype, device=device)
        self._draw_uniform(seed, rng, 1 / math.sqrt(self.hidden_size))

    def _configure(
        self,
        *,
        input_size: int,
        hidden_size: int,
        dims: int,
        depth: int | None,
        input: str | None,
        proj_m: bool,
        form: str,
        priority: Sequence[int],
        non_lstm: Mapping[int, str] | None,
        residual: Sequence[int],
        tied: bool,
        tied_depth: bool,
        bias: bool,
        directions: str | int | Iterable[str],
        combine: str,
        dtype: DTypeLike,
        device: str,
    ) -> None:
        inputs, hidden = integer("input_size", input_size), integer("hidden_size", hidden_size)
        layers = None if depth is None else integer("depth", depth)
        walked = dimensions(dims, *((1, MAX_DIMS) if depth is None else (0, MAX_DIMS - 1)))
        n = walked + (layers is not None)
        entry = choice("input", ("every" if layers is None else "side") if input is None else input, _ENTRIES)
        if entry == "side" and layers is None:
            raise ValueError("input: expected 'every' without a depth, got 'side'")
        if not flag("proj_m", proj_m) and entry == "every":
            raise ValueError("proj_m: expected True with input='every', got False")
        linear = _non_lstm(non_lstm, n)
        if flag("tied", tied) and linear:
            raise ValueError(f"non_lstm: expected none with tied=True, got {linear}")
        if flag("tied_depth", tied_depth) and layers is None:
            raise ValueError("tied_depth: expected False without a depth, got True")
        names = named_directions(directions, walked)
        tails = ("",) if names == ("0" * walked,) else tuple(f"_{name}" for name in names)
        options = {
            **{"input_size": inputs, "hidden_size": hidden, "dims": walked, "depth": layers, "input": entry},
            **{
                "proj_m": bool(proj_m),
                "form": choice("form", form, _FORMS),
                "priority": _some("priority", priority, n),
            },
            **{"non_lstm": linear, "residual": _some("residual", residual, n), "tied": bool(tied)},
            **{"tied_depth": bool(tied_depth), "bias": flag("bias", bias)},
            **{"directions": names, "combine": choice("combine", combine, COMBINE)},
        }
        rows = sum(hidden if d in linear else 4 * hidden for d in range(1 if tied else n))
        shapes: dict[str, tuple[int, ...]] = {}
        own = 1 if tied_depth else layers or 1
        what = f"hidden_size={shown(hidden)}, depth={shown(layers)}"
        require_memory(what, len(tails) * own * rows * n * hidden * 4)  # before there is a name for each
        for tail in tails:
            for layer in range(own):
                if entry == "every":
                    shapes[f"weight_ih_l{layer}{tail}"] = (rows, inputs)
                shapes[f"weight_hh_l{layer}{tail}"] = (rows, n * hidden)
                if bias:
                    shapes[f"bias_l{layer}{tail}"] = (rows,)
            if entry == "side":
                shapes |= {f"{name}{tail}": (hidden, inputs) for name in _PROJECTIONS[: 1 + bool(proj_m)]}
        self._fix(options, shapes, device, dtype)
        width = hidden if layers else n * hidden
        self.__dict__.update(_tails=tails, _width=width * (len(tails) if combine == "concat" else 1))

    def _pack(self, parameters: dict[str, Any]) -> Networks:
        n, hidden = self.dims + (self.depth is not None), self.hidden_size
        sizes = (self.input_size if self.input == "every" else 0, hidden)
        options: dict[str, Any] = {
            "slots": n,
            "dimensions": [self.non_lstm.get(d, "lstm") for d in range(n)],
            "priority": [d in self.priority for d in range(n)],
            "residual": [d in self.residual for d in range(n)],
            "form": self.form,
        }
        layers = 1 if self.tied_depth else self.depth or 1
        parts = Networks.parts(parameters, [f"l{layer}{tail}" for tail in self._tails for layer in range(layers)])
        return Networks(parameters, [GraphNetwork("grid", *sizes, self._by_dimension(p), **options) for p in parts])

    def _rows_of_dimensions(self) -> list[slice]:
        """Of a layer's parameters."""
        rows, start = [], 0
        for d in range(self.dims + (self.depth is not None)):
            start = 0 if self.tied else start
            rows.append(slice(start, start + (self.hidden_size if d in self.non_lstm else 4 * self.hidden_size)))
            start = rows[-1].stop
        return rows

    def _by_dimension(self, part: dict[str, Array]) -> dict[str, Array]:
        """A layer's parameters as a network takes them."""
        titles = {title: name for title, name in _TITLES.items() if title in part}
        rows = enumerate(self._rows_of_dimensions(), 1)
        return {f"{name}_{d}": part[title][own] for d, own in rows for title, name in titles.items()}

    def _walk(
        self,
        direction: int,
        x: Array,
        nodes: tuple[int, ...],
        sizes: Array | None,
        flips: tuple[bool, ...],
        recompute: bool | None,
    ) -> Walk:
        rows, graph = grid_graph(nodes, sizes, flips, self.depth is not None, self.input == "every")
        run = self._walk_flat if self.depth is None else self._walk_deep
        return run(self._tails[direction], x, rows, graph, recompute)

    def _walk_flat(self, tail: str, x: Array, rows: Array, graph: Graph, recompute: bool | None) -> Walk:
        n, network = self.dims, self._networks(tail)[0]
        states, tape = _forward(network, x, graph, None, recompute)

        def back(d_parts: list[Array], input_grad: bool) -> Gradients:
            gradients = tape.backward([*d_parts, *[None] * n], input_grad=input_grad)
            params = self._zeros(tail)
            self._collect(params, 0, gradients.params)
            return gradients.x, {name + tail: value for name, value in params.items()}

        return Walk(rows, states[:n], back, 0 if tape is None else tape.nbytes)

    def _walk_deep(self, tail: str, x: Array, rows: Array, graph: Graph, recompute: bool | None) -> Walk:
        """Layer by layer: what a layer passes up the depth is given to the next."""
        n, count, tapes = self.dims + 1, len(rows), []
        side = _Side(self._of_direction(self._packed.kept, tail), x, rows) if self.input == "side" else None
        h, m = (None, None) if side is None else side.entering()
        networks = self._networks(tail) * (self.depth or 1 if self.tied_depth else 1)
        for network in networks:
            given = [*[None] * (n - 1), h, *[None] * (n - 1), m]
            states, tape = _forward(network, x if side is None else None, graph, given, recompute)
            tapes.append(tape)
            h, m = states[n - 1][count:], states[-1][count:]
        assert h is not None
        if recompute is None:
            return Walk(rows, (h,), None, 0)

        def back(d_parts: list[Array], input_grad: bool) -> Gradients:
            params = self._zeros(tail)
            dx: Array | None = None
            d_h: Any = d_parts[0]
            d_m: Any = None
            for layer in reversed(range(len(networks))):
                d_above = [None if d is None else np.concatenate([np.zeros_like(d), d]) for d in (d_h, d_m)]
                d_states = [*[None] * (n - 1), d_above[0], *[None] * (n - 1), d_above[1]]
                gradients = tapes[layer].backward(d_states, input_grad=input_grad and side is None)
                self._collect(params, 0 if self.tied_depth else layer, gradients.params)
                d_h, d_m = gradients.given[n - 1], gradients.given[-1]
                dx = gradients.x if dx is None or gradients.x is None else np.add(dx, gradients.x, out=dx)
            if side is not None:
                dx = side.backward((d_h, d_m), params, input_grad)
            return dx, {name + tail: value for name, value in params.items()}

        return Walk(rows, (h,), back, sum(tape.nbytes for tape in tapes) + (0 if side is None else side.nbytes))

    def _networks(self, tail: str) -> list[GraphNetwork]:
        """A direction's, one a layer."""
        networks: list[GraphNetwork] = self._packed.networks
        each, k = len(networks) // len(self._tails), self._tails.index(tail)
        return networks[k * each : (k + 1) * each]

    @staticmethod
    def _of_direction(parameters: Mapping[str, T], tail: str) -> dict[str, T]:
        """A direction's, by the names they would have if it were alone."""
        return {name.removesuffix(tail): value for name, value in parameters.items() if name.endswith(tail)}

    def _zeros(self, tail: str) -> dict[str, Array]:
        shapes = self._of_direction(self._shapes, tail)
        return {name: np.zeros(shape, self._placement.parameter_dtype) for name, shape in shapes.items()}

    def _collect(self, params: dict[str, Array], layer: int, gradients: dict[str, Array]) -> None:
        """Add a network's gradients to those of a layer."""
        for d, own in enumerate(self._rows_of_dimensions(), 1):
            for title, name in _TITLES.items():
                if f"{name}_{d}" in gradients:
                    params[f"{title}_l{layer}"][own] += gradients[f"{name}_{d}"]


class _Side:
    """x where it enters the depth."""

    def __init__(self, parameters: dict[str, Array], x: Array, rows: Array) -> None:
        self._maps = {name: _core.Linear(parameters[name], None) for name in _PROJECTIONS if name in parameters}
        self._hidden, self._shape = len(parameters["proj_h"]), x.shape
        self._rows, self._x = rows, x[rows]
        self.nbytes = self._x.nbytes

    def entering(self) -> list[Array | None]:
        """h and m of each row."""
        states: list[Array | None] = [None, None]
        for k, affine in enumerate(self._maps.values()):
            states[k] = state = np.empty((len(self._rows), self._hidden), self._x.dtype)
            affine.forward(self._x, state)
        return states

    def backward(self, gradients: tuple[Array, Array], params: dict[str, Array], input_grad: bool) -> Array | None:
        """Gradient of x from those of h and m; adds to those of the projections."""
        total = None
        for (name, affine), gradient in zip(self._maps.items(), gradients, strict=False):
            dx = np.empty_like(self._x) if input_grad else None
            affine.backward(self._x, gradient, dx, params[name], None)
            total = dx if total is None or dx is None else np.add(total, dx, out=total)
        if total is None:
            return None
        placed = np.zeros(self._shape, total.dtype)
        placed[self._rows] = total
        return placed


_PROJECTIONS = ("proj_h", "proj_m")
_TITLES = {"weight_hh": "weight", "weight_ih": "weight_ih", "bias": "bias"}  # the layer's names and the network's
_ENTRIES = {name: name for name in ("side", "every")}
_FORMS = {name: name for name in ("paper", "standard")}
_ACTIVATIONS = {name: name for name in ("identity", "relu", "tanh")}


def _dimension(name: str, value: Any, dims: int) -> int:
    d = integer(name, value, 0)
    if d >= dims:
        raise ValueError(f"{name}: expected dimensions in 0..{dims - 1}, got {shown(d)}")
    return d


def _some(name: str, value: Any, dims: int) -> tuple[int, ...]:
    """Dimensions, sorted."""
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name}: expected a sequence of dimensions, got {shown(value)}")
    found = tuple(sorted(_dimension(name, d, dims) for d in value))
    if len(set(found)) < len(found):
        raise ValueError(f"{name}: expected each dimension once, got {shown(value)}")
    return found


def _non_lstm(value: Any, dims: int) -> dict[int, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"non_lstm: expected a mapping of dimensions to functions, got {shown(value)}")
    try:
        given = dict(value)
    except Exception as error:  # whatever the caller's mapping raises
        raise TypeError(f"non_lstm: cannot be read: {error!r}") from error
    found = {
        _dimension("non_lstm", d, dims): choice(f"non_lstm {shown(d)}", function, _ACTIVATIONS)
        for d, function in given.items()
    }
    return dict(sorted(found.items()))


def _forward(
    network: GraphNetwork, x: Array | None, graph: Graph, given: Any, recompute: bool | None
) -> tuple[tuple[Array, ...], Any]:
    """The states of all rows, and a tape unless recompute is None."""
    if recompute is None:
        return network(x, graph, given), None
    return network.forward(x, graph, given, recompute=recompute)
