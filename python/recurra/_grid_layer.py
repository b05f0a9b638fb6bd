"""What layers over grids have in common: a batch of which each sample fills a corner, parameters and a tape."""

from __future__ import annotations

import math
from functools import lru_cache
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

    Back: TypeAlias = Callable[[Array, bool], tuple[Array | None, dict[str, Array]]]

__all__ = ["GridLayer", "GridTape", "Networks", "dimensions", "grid_graph"]

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

        Args:
            x, sizes: as of a call.
            recompute: keep only the states and compute gates again in backward, to the same bits.
        """
        y, tape = self._forward(x, sizes, flag("recompute", recompute))
        assert tape is not None
        return y, tape

    def _forward(self, x: Any, sizes: Any, recompute: bool | None) -> tuple[Array, GridTape | None]:
        """With recompute=None there is no tape."""
        shape: tuple[int | str, ...] = ("B", *(f"D{axis + 1}" for axis in range(self.dims)), self.input_size)
        array = check("x", x, self._placement.parameter_dtype, shape)
        x_shape, nodes = array.shape, array.shape[:-1]
        own = checked_sizes(sizes, nodes)
        y = empty("output", (*nodes, self._width), array.dtype)
        if own is not None:
            y[...] = 0
        y_shape = y.shape
        rows = contiguous(array).reshape(-1, self.input_size)
        back, nbytes = self._run(rows, y.reshape(-1, self._width), nodes, own, recompute)
        if back is None:
            return y, None
        walk = back

        def backward(dy: Any, input_grad: bool) -> HeadGradients:
            gradient = contiguous(check("dy", dy, array.dtype, y_shape))
            dx, params = walk(gradient.reshape(-1, self._width), input_grad)
            return HeadGradients(None if dx is None else dx.reshape(x_shape), params)

        return y, GridTape(backward, nbytes)

    def _run(
        self, x: Array, y: Array, nodes: tuple[int, ...], sizes: Array | None, recompute: bool | None
    ) -> tuple[Back | None, int]:
        """Write y [nodes, width] at all nodes of the samples. With recompute=None there is no way back.

        Returns:
            What leads from dy to the gradients of x [nodes, I] and of the parameters, and the memory that it holds.
        """
        raise NotImplementedError

    def stream(self, *_: Any, **__: Any) -> Any:
        """There is none: TypeError."""
        raise TypeError(
            f"stream: {type(self).__name__} has none, for a node of a grid waits for predecessors along several axes"
        )

    def quantize(self, *_: Any, **__: Any) -> Any:
        """There is none: TypeError."""
        raise TypeError(f"quantize: {type(self).__name__} has float32 and float64 kernels only")


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
