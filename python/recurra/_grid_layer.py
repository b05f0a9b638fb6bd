"""What layers over grids have in common: a batch of which each sample fills a corner, parameters and a tape."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from ._arrays import check, contiguous, empty
from ._cpu_layer import CpuLayer
from ._fronts import checked_sizes, grid_order
from ._options import flag, integer, shown
from .graph import Graph
from .heads import HeadGradients

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ._arrays import Array, Input
    from .graph import GraphNetwork

    Gradients: TypeAlias = tuple[Array | None, dict[str, Array]]  # of x [nodes, I] and of parameters
    Back: TypeAlias = Callable[[Array, bool], Gradients]

__all__ = ["DirectedLayer", "GridLayer", "GridTape", "Networks", "Walk", "dimensions", "grid_graph", "named_directions"]

MAX_DIMS = 4

# How many graphs are kept for later calls, which in training often have the same shapes, and above how many nodes none
# is: 1 << 19 nodes of two dimensions are 20 MB.
_KEPT, _LARGE = 32, 1 << 19


class GridTape:
    """What `forward` of a layer over grids keeps for `backward`, which may be called again, with other gradients too.

    Attributes:
        nbytes: memory it holds.
    """

    __slots__ = ("_backward", "nbytes")

    def __init__(self, backward: Callable[[Any, bool], HeadGradients], nbytes: int) -> None:
        self._backward, self.nbytes = backward, nbytes

    def backward(self, dy: Input, *, input_grad: bool = True) -> HeadGradients:
        """Gradients of a loss from that of the output.

            >>> y, tape = recurra.MultidimensionalLSTM(1, 8).forward(np.ones((2, 5, 4, 1), "float32"))
            >>> gradients = tape.backward(np.ones_like(y))
            >>> gradients.x.shape, gradients.params["weight_ih_01"].shape
            ((2, 5, 4, 1), (40, 1))

        Args:
            dy: dL/d output, of the output's shape and dtype; values at padded nodes are ignored.
            input_grad: whether to compute the gradient of the input.

        Returns:
            HeadGradients(x, params): zero at padded nodes; None with input_grad=False.

        Raises:
            TypeError, ValueError: wrong shape or dtype.
        """
        return self._backward(dy, flag("input_grad", input_grad))

    def __reduce__(self) -> Any:
        raise TypeError("a GridTape cannot be copied or pickled")

    def __repr__(self) -> str:
        return f"GridTape({self.nbytes} bytes)"


class GridLayer(CpuLayer):
    """What layers over grids have in common: x [B, D1, .., DN, I] of which each sample fills a corner."""

    dims: int
    bias: bool
    _least = 1  # nodes along an axis
    _width: int  # values that the output has at a node

    def __call__(self, x: Input, sizes: Sequence[Sequence[int]] | Input | None = None) -> Array:
        """Run a batch of grids. Any number of threads may do so at once.

        Args:
            x: [B, D1, .., DN, I] of the layer's dtype, NumPy or any DLPack array on the CPU.
            sizes: [B, N] integers: how far sample b reaches along each axis, from index 0; at least 1, at most D1, ..,
                DN. Default: all the way. Nodes outside are not computed.

        Returns:
            The output, [B, D1, .., DN, .], zero at the nodes outside.

        Raises:
            TypeError: wrong dtype or kind of object.
            ValueError: wrong shape, empty grids, sizes that do not fit.
        """
        return self._forward(x, sizes, None)[0]

    def forward(
        self, x: Input, sizes: Sequence[Sequence[int]] | Input | None = None, *, recompute: bool = False
    ) -> tuple[Array, GridTape]:
        """As a call, to the same bits, with a tape for backward; x is copied.

            >>> y, tape = recurra.MultidimensionalLSTM(3, 8).forward(np.ones((2, 5, 7, 3), "float32"))
            >>> tape.backward(np.ones_like(y)).x.shape
            (2, 5, 7, 3)

        Args:
            x, sizes: as of a call.
            recompute: keep only the states and compute gates again in backward, to the same bits.
        """
        y, tape = self._forward(x, sizes, flag("recompute", recompute))
        assert tape is not None
        return y, tape

    def _forward(
        self, x: Any, sizes: Any, recompute: bool | None, maps: tuple[int, ...] = ()
    ) -> tuple[Array, GridTape | None]:
        """With recompute=None there is no tape. `maps` are axes of the output before those of the nodes."""
        shape: tuple[int | str, ...] = ("B", *(f"D{axis + 1}" for axis in range(self.dims)), self.input_size)
        array = check("x", x, self._placement.parameter_dtype, shape)
        x_shape, nodes = array.shape, array.shape[:-1]
        own = checked_sizes(sizes, nodes, self._least)
        y = empty("output", (*maps, *nodes, self._width), array.dtype)
        if own is not None:
            y[...] = 0
        y_shape = y.shape
        rows = contiguous(array).reshape(-1, self.input_size)
        back, nbytes = self._run(rows, y.reshape(*maps, -1, self._width), nodes, own, recompute)
        if back is None:
            return y, None
        walk = back

        def backward(dy: Any, input_grad: bool) -> HeadGradients:
            gradient = contiguous(check("dy", dy, array.dtype, y_shape))
            dx, params = walk(gradient.reshape(*maps, -1, self._width), input_grad)
            return HeadGradients(None if dx is None else dx.reshape(x_shape), params)

        return y, GridTape(backward, nbytes)

    def _run(
        self, x: Array, y: Array, nodes: tuple[int, ...], sizes: Array | None, recompute: bool | None
    ) -> tuple[Back | None, int]:
        """Write y [.., nodes, width] at all nodes of the samples. With recompute=None there is no way back.

        Returns:
            What leads from dy to the gradients of x [nodes, I] and of the parameters, and the memory that it holds.
        """
        raise NotImplementedError

    def stream(self, *_: Any, **__: Any) -> Any:
        """There is none: TypeError."""
        raise TypeError(f"stream: {type(self).__name__} has none, for a node of a grid needs others along several axes")

    def quantize(self, *_: Any, **__: Any) -> Any:
        """There is none: TypeError."""
        raise TypeError(f"quantize: {type(self).__name__} has float32 and float64 kernels only")


class Walk(NamedTuple):
    """What one direction has found, and the way back.

    Attributes:
        rows: [R] positions of nodes.
        parts: [R, H] each: side by side they are the output.
        back: leads from the parts' gradients to those of x and of the direction's parameters.
        nbytes: memory that `back` holds.
    """

    rows: Array
    parts: Sequence[Array]
    back: Callable[[list[Array], bool], Gradients] | None
    nbytes: int


class DirectedLayer(GridLayer):
    """A layer that walks over its grids in some of the 2^N directions, each with parameters of its own."""

    directions: tuple[str, ...]
    combine: str

    def _run(
        self, x: Array, y: Array, nodes: tuple[int, ...], sizes: Array | None, recompute: bool | None
    ) -> tuple[Back | None, int]:
        walks = []
        for k, name in enumerate(self.directions):
            walk = self._walk(k, x, nodes, sizes, tuple(digit == "1" for digit in name), recompute)
            for part, columns in zip(walk.parts, self._columns(k), strict=True):
                at = walk.rows, columns
                y[at] = part if self.combine == "concat" or not k else y[at] + part
            walks.append(walk._replace(parts=()))
        if self.combine == "mean":
            y /= len(walks)
        if recompute is None:
            return None, 0
        return lambda dy, input_grad: self._run_back(walks, dy, input_grad), sum(walk.nbytes for walk in walks)

    def _run_back(self, walks: Sequence[Walk], dy: Array, input_grad: bool) -> Gradients:
        dx: Array | None = None
        params: dict[str, Array] = {}
        if self.combine == "mean":
            dy = dy / dy.dtype.type(len(walks))
        for k, walk in enumerate(walks):
            assert walk.back is not None
            own, of_direction = walk.back([dy[walk.rows, columns] for columns in self._columns(k)], input_grad)
            params |= of_direction
            dx = own if dx is None or own is None else np.add(dx, own, out=dx)
        return dx, {name: params[name] for name in self._shapes}

    def _columns(self, direction: int) -> list[slice]:
        """Of the output: those of a direction's parts."""
        each = self.combine == "concat"
        width = self._width // len(self.directions) if each else self._width
        start = direction * width * each
        return [slice(at, at + self.hidden_size) for at in range(start, start + width, self.hidden_size)]

    def _walk(
        self,
        direction: int,
        x: Array,
        nodes: tuple[int, ...],
        sizes: Array | None,
        flips: tuple[bool, ...],
        recompute: bool | None,
    ) -> Walk:
        """Over x [nodes, I], in one direction; with recompute=None there is no way back."""
        raise NotImplementedError


class Networks(NamedTuple):
    """Parameters as kept, and the networks made of them."""

    kept: dict[str, Array]
    networks: list[GraphNetwork]

    @property
    def parameters(self) -> dict[str, Array]:
        """Names to new copies."""
        return {name: array.copy() for name, array in self.kept.items()}

    @staticmethod
    def parts(parameters: Mapping[str, Array], suffixes: Sequence[str]) -> list[dict[str, Array]]:
        """The parameters with each suffix, by names without it."""
        return [
            {
                name.removesuffix(f"_{suffix}"): array
                for name, array in parameters.items()
                if name.endswith(f"_{suffix}")
            }
            for suffix in suffixes
        ]


def dimensions(value: Any, least: int = 1, most: int = MAX_DIMS) -> int:
    """The argument `dims`, checked."""
    dims = integer("dims", value, least)
    if dims > most:
        raise ValueError(f"dims: expected {least}..{most}, got {shown(dims)}")
    return dims


def named_directions(value: Any, dims: int) -> tuple[str, ...]:
    """The argument `directions`, checked: the directions that it stands for."""
    every = tuple(map("".join, product("01", repeat=dims)))
    expected = f"'all', 1 or some of {', '.join(every[:4])}{', ..' * (len(every) > 4)}"
    if isinstance(value, str) and value == "all":
        return every
    if isinstance(value, int) and not isinstance(value, bool) and value == 1:
        return every[:1]
    if not isinstance(value, (tuple, list)) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"directions: expected {expected}, got {shown(value)}")
    names = tuple(value)
    if not names or not set(names) <= set(every) or len(set(names)) < len(names):
        raise ValueError(f"directions: expected {expected}, each once, got {shown(value)}")
    return names


COMBINE = {name: name for name in ("concat", "sum", "mean")}


def grid_graph(
    shape: tuple[int, ...], sizes: Array | None, flips: tuple[bool, ...], deep: bool = False, fed: bool = True
) -> tuple[Array, Graph]:
    """Positions [R] of the nodes in a flat array [B, D1, .., DN], in the order of a graph's rows, and that graph.

    Args:
        shape, sizes, flips: as of `grid_order`.
        deep: whether there is a last slot, in which each row has a given one; the R given rows come first.
        fed: whether each row reads x.
    """
    make = _graph if math.prod(shape) > _LARGE else _kept_graph
    return make(shape, None if sizes is None else sizes.tobytes(), flips, deep, fed)


def _graph(
    shape: tuple[int, ...], sizes: bytes | None, flips: tuple[bool, ...], deep: bool, fed: bool
) -> tuple[Array, Graph]:
    nodes, fronts, before = grid_order(shape, sizes, flips)
    source = nodes if fed else np.full(len(nodes), -1)
    if deep:
        given, none = len(nodes), np.full((len(flips) + 1, len(nodes)), -1)
        before = np.vstack([np.where(before < 0, -1, before + given), np.arange(given)])
        before, source, fronts = np.hstack([none, before]), np.concatenate([none[0], source]), fronts + given
    return nodes, Graph(fronts, before, source)


_kept_graph = lru_cache(_KEPT)(_graph)
