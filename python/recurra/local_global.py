"""Local-Global LSTM: every point of a map reads its neighbours, nine regions and itself, layer upon layer."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _core
from ._arrays import require_memory
from ._grid_layer import GridLayer
from ._options import choice, flag, integer, shown
from .graph import Graph, GraphNetwork

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike

    from ._arrays import Array, Input
    from ._grid_layer import Back, GridTape
    from ._options import Seed

__all__ = ["LocalGlobalLSTM"]

# Up, down, left, right, up-left, up-right, down-left, down-right; the opposite of step n is step OPPOSITE[n].
STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))
OPPOSITE = (1, 0, 3, 2, 7, 6, 5, 4)
BLOCKS = len(STEPS) + 1  # LSTMs of a point: one for each neighbour, and the depth's
REGIONS = 9


class LocalGlobalLSTM(GridLayer):
    """LSTM over maps whose points read the whole map, in nine regions, besides their neighbours.

        >>> layer = recurra.LocalGlobalLSTM(input_size=3, hidden_size=16, num_layers=2)
        >>> x = np.zeros((8, 24, 32, 3), "float32")  # [B, Y, X, I]
        >>> layer(x, sizes=[(24, 32), (9, 32), *[(20, 20)] * 6]).shape
        (8, 24, 32, 16)
        >>> layer(x, every_layer=True).shape  # for deep supervision: see `DeepSupervision`
        (2, 8, 24, 32, 16)

    A point has eight spatial vectors s_1 .. s_8 and a depth vector e, each with a memory m. Before the first layer all
    vectors are x @ weight_transition^T + bias_transition (a convolution of 1 x 1) and all memories zero. A layer reads

        H = [f; s_1 of the 1st neighbour; ..; s_8 of the 8th neighbour; e]

    where the neighbours are up, down, left, right, up-left, up-right, down-left and down-right (zero outside the map),
    and f are the elementwise maxima of e in the map's nine regions, row by row: rows a*Y//3 .. (a+1)*Y//3 - 1 for a =
    0, 1, 2, and columns likewise. For each of the nine vectors, with A = H @ weight^T + bias in blocks of hidden_size
    values, order i, f, g, o:

        m' = sigmoid(A_f) * m + sigmoid(A_i) * tanh(A_g)
        h' = tanh(sigmoid(A_o) * m')            form="paper"
        h' = sigmoid(A_o) * tanh(m')            form="standard"

    (Liang, Shen, Xiang, Feng, Lin, Yan 2016, arXiv:1511.04510.) The output is e after the last layer. The gradient of a
    maximum goes to its first point, row by row.

    Fixed once made, but for `load_state_dict`; it pickles as its configuration and parameters, with H for hidden_size:
    weight_transition [H, I], bias_transition [H], and for each layer l weight_spatial_l0 [8, 4*H, 18*H] (with
    share_spatial [4*H, 18*H]), bias_spatial_l0 [8, 4*H] ([4*H]), weight_depth_l0 [4*H, 18*H] and bias_depth_l0 [4*H].

    Args:
        input_size: I, values a point of the input has.
        hidden_size: H, units of each vector.
        num_layers: layers, each with parameters of its own.
        share_spatial: whether the eight spatial LSTMs of a layer have the same parameters. With memory_from="self" they
            then compute the same.
        memory_from: whose memory m is, for a spatial vector: that of the point itself, "self", or of the "neighbour"
            from which the vector comes.
        form: see above.
        bias: whether there is one.
        dtype, device, seed, rng: as of `MultidimensionalLSTM`.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or value.
        MemoryError: the parameters would not fit this machine; nothing has been allocated.
    """

    dims = 2
    num_layers: int
    share_spatial: bool
    memory_from: str
    form: str
    _least = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        share_spatial: bool = False,
        memory_from: str = "self",
        form: str = "paper",
        bias: bool = True,
        *,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        seed: Seed = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        sizes: dict[str, Any] = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
        options: dict[str, Any] = {"share_spatial": share_spatial, "memory_from": memory_from, "form": form}
        self._configure(**sizes, **options, bias=bias, dtype=dtype, device=device)
        self._draw_uniform(seed, rng, 1 / math.sqrt(self.hidden_size))

    def _configure(
        self,
        *,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        share_spatial: bool,
        memory_from: str,
        form: str,
        bias: bool,
        dtype: DTypeLike,
        device: str,
    ) -> None:
        inputs, hidden = integer("input_size", input_size), integer("hidden_size", hidden_size)
        layers = integer("num_layers", num_layers)
        shared = flag("share_spatial", share_spatial)
        options = {
            **{"input_size": inputs, "hidden_size": hidden, "num_layers": layers, "share_spatial": shared},
            "memory_from": choice("memory_from", memory_from, {name: name for name in ("self", "neighbour")}),
            "form": choice("form", form, {name: name for name in ("paper", "standard")}),
            "bias": flag("bias", bias),
        }
        rows, width, directions = 4 * hidden, (REGIONS + BLOCKS) * hidden, () if shared else (len(STEPS),)
        what = f"hidden_size={shown(hidden)}, num_layers={shown(layers)}"
        require_memory(what, layers * BLOCKS * rows * width * 4)  # before there is a name for each
        shapes: dict[str, tuple[int, ...]] = {"weight_transition": (hidden, inputs), "bias_transition": (hidden,)}
        for layer in range(layers):
            shapes |= {
                f"weight_spatial_l{layer}": (*directions, rows, width),
                f"bias_spatial_l{layer}": (*directions, rows),
                f"weight_depth_l{layer}": (rows, width),
                f"bias_depth_l{layer}": (rows,),
            }
        shapes = {name: shape for name, shape in shapes.items() if bias or name.startswith("weight")}
        self._fix(options, shapes, device, dtype)
        self.__dict__["_width"] = hidden

    def _pack(self, parameters: dict[str, Any]) -> _Packed:
        transition = _core.Linear(parameters["weight_transition"], parameters.get("bias_transition"))
        networks = []
        for layer in range(self.num_layers):
            # All nine LSTMs are one, of 9 * H units, whose input are the regions and whose h is what is near.
            weight = self._joined(parameters, "weight", layer)
            regions = REGIONS * self.hidden_size
            params = {"weight_ih_1": weight[:, :regions], "weight_1": weight[:, regions:]}
            if self.bias:
                params["bias_1"] = self._joined(parameters, "bias", layer)
            networks.append(GraphNetwork("grid", regions, BLOCKS * self.hidden_size, params, slots=1, form=self.form))
        return _Packed(parameters, transition, networks)

    def _joined(self, parameters: dict[str, Array], kind: str, layer: int) -> Array:
        """A layer's weight or bias as a network takes it: i of all nine LSTMs, then f, g, o."""
        spatial, depth = (parameters[f"{kind}_{name}_l{layer}"] for name in ("spatial", "depth"))
        blocks = np.concatenate([np.broadcast_to(spatial, (len(STEPS), *depth.shape)), depth[None]])
        gates = blocks.reshape(BLOCKS, 4, self.hidden_size, *depth.shape[1:]).swapaxes(0, 1)
        return gates.reshape(-1, *depth.shape[1:])

    def _parted(self, joined: Array, kind: str, layer: int) -> dict[str, Array]:
        """The way back, for gradients."""
        gates = joined.reshape(4, BLOCKS, self.hidden_size, *joined.shape[1:]).swapaxes(0, 1)
        blocks = gates.reshape(BLOCKS, -1, *joined.shape[1:])
        spatial = blocks[:-1].sum(0) if self.share_spatial else blocks[:-1].copy()
        return {f"{kind}_spatial_l{layer}": spatial, f"{kind}_depth_l{layer}": blocks[-1].copy()}

    def __call__(
        self, x: Input, sizes: Sequence[Sequence[int]] | Input | None = None, *, every_layer: bool = False
    ) -> Array:
        """Run a batch of maps. Any number of threads may do so at once.

        Args:
            x: [B, Y, X, I] of the layer's dtype, Y and X at least 3, NumPy or any DLPack array on the CPU.
            sizes: [B, 2] integers: how many rows and columns of sample b there are, from the first; at least 3, at most
                Y and X. Default: all. Regions are those of a sample's own map. Points outside are not computed.
            every_layer: whether to return e after every layer.

        Returns:
            The output, [B, Y, X, H], or with every_layer [num_layers, B, Y, X, H]; zero at the points outside.

        Raises:
            TypeError: wrong dtype or kind of object.
            ValueError: wrong shape, maps that are too small, sizes that do not fit.
        """
        return self._forward(x, sizes, None, self._maps(every_layer))[0]

    def forward(
        self,
        x: Input,
        sizes: Sequence[Sequence[int]] | Input | None = None,
        *,
        every_layer: bool = False,
        recompute: bool = False,
    ) -> tuple[Array, GridTape]:
        """As a call, to the same bits, with a tape for backward; x is copied.

            >>> y, tape = recurra.LocalGlobalLSTM(3, 8).forward(np.ones((2, 5, 7, 3), "float32"))
            >>> tape.backward(np.ones_like(y)).x.shape
            (2, 5, 7, 3)

        Args:
            x, sizes, every_layer: as of a call.
            recompute: keep only the states and compute gates again in backward, to the same bits.
        """
        y, tape = self._forward(x, sizes, flag("recompute", recompute), self._maps(every_layer))
        assert tape is not None
        return y, tape

    def _maps(self, every_layer: Any) -> tuple[int, ...]:
        return (self.num_layers,) if flag("every_layer", every_layer) else ()

    def _run(
        self, x: Array, y: Array, nodes: tuple[int, ...], sizes: Array | None, recompute: bool | None
    ) -> tuple[Back | None, int]:
        packed, way, hidden = self._packed, _way(nodes, sizes), self.hidden_size
        rows, count = x[way.nodes], len(way.nodes)
        moving = self.memory_from == "neighbour"
        start = np.empty((count, hidden), x.dtype)
        packed.transition.forward(rows, start)
        h, m = np.repeat(start, BLOCKS, 0).reshape(count, -1), None
        tapes, maxima = [], []
        for layer, network in enumerate(packed.networks):
            depth = h[:, -hidden:]
            found = way.first_maxima(depth)
            regions = depth[found, np.arange(hidden)].reshape(-1, REGIONS * hidden)
            given = way.arriving.take(h), way.arriving.take(m) if moving and m is not None else m
            if recompute is None:
                states = network(regions, way.graph, given)
            else:
                states, tape = network.forward(regions, way.graph, given, recompute=recompute)
                tapes.append(tape)
                maxima.append(found)
            h, m = (state[count:] for state in states)
            if y.ndim == 3:
                y[layer, way.nodes] = h[:, -hidden:]
        if y.ndim == 2:
            y[way.nodes] = h[:, -hidden:]
        if recompute is None:
            return None, 0

        def backward(dy: Array, input_grad: bool) -> tuple[Array | None, dict[str, Array]]:
            params: dict[str, Array] = {}
            d_h, d_m = np.zeros((2, 2 * count, BLOCKS * hidden), x.dtype)  # given rows come first
            for layer in reversed(range(self.num_layers)):
                if dy.ndim == 3 or layer == self.num_layers - 1:
                    d_h[count:, -hidden:] += (dy[layer] if dy.ndim == 3 else dy)[way.nodes]
                gradients = tapes[layer].backward((d_h, d_m))
                weight = np.hstack([gradients.params["weight_ih_1"], gradients.params["weight_1"]])
                params |= self._parted(weight, "weight", layer)
                if self.bias:
                    params |= self._parted(gradients.params["bias_1"], "bias", layer)
                d_h[count:] = way.leaving.take(gradients.given[0])
                d_m[count:] = way.leaving.take(gradients.given[1]) if moving else gradients.given[1]
                assert gradients.x is not None
                d_h[count:, -hidden:][maxima[layer], np.arange(hidden)] += gradients.x.reshape(-1, hidden)
            d_start = d_h[count:].reshape(count, BLOCKS, hidden).sum(1)
            d_rows = np.empty_like(rows) if input_grad else None
            names = ("weight_transition", "bias_transition")
            params |= {name: np.zeros(self._shapes[name], x.dtype) for name in names if name in self._shapes}
            packed.transition.backward(rows, d_start, d_rows, *map(params.get, names))
            params = {name: params[name] for name in self._shapes}
            if d_rows is None:
                return None, params
            dx = np.zeros_like(x, shape=(math.prod(nodes), self.input_size))
            dx[way.nodes] = d_rows
            return dx, params

        return backward, rows.nbytes + sum(tape.nbytes for tape in tapes) + sum(found.nbytes for found in maxima)


class _Packed(NamedTuple):
    """Parameters as kept, and what they make."""

    kept: dict[str, Array]
    transition: _core.Linear
    networks: list[GraphNetwork]

    @property
    def parameters(self) -> dict[str, Array]:
        """Names to new copies."""
        return {name: array.copy() for name, array in self.kept.items()}


class _Shift:
    """Moves each of the nine vectors of all points by a step of its own; zero comes from outside."""

    def __init__(self, source: Array) -> None:
        """Of vectors [R, 9], numbers of vectors, -1 for none."""
        self._source, self._missing = source.reshape(-1), np.flatnonzero(source < 0)

    def take(self, vectors: Array) -> Array:
        """Of vectors [R, 9 * H]."""
        moved = vectors.reshape(len(self._source), -1).take(self._source, axis=0, mode="clip")
        moved[self._missing] = 0
        return moved.reshape(vectors.shape)


class _Way(NamedTuple):
    """The points of a batch of maps as rows: sample by sample, in it region by region, in it row by row.

    Attributes:
        nodes: [R] position of each row's point in a flat array [B, Y, X].
        region: [R] of each row, 0 .. 9 B - 1.
        first_of_region: [9 B] the first row of each.
        arriving: the spatial vectors from the neighbours, and the depth vector as it is.
        leaving: the way back of gradients.
        graph: given rows, one for each point, and the rows that they precede, which read their sample's regions.
    """

    nodes: Array
    region: Array
    first_of_region: Array
    arriving: _Shift
    leaving: _Shift
    graph: Graph

    def first_maxima(self, depth: Array) -> Array:
        """Row of the largest number of each column of depth [R, H] in each region, [9 B, H]; NaN counts as largest."""
        largest = np.maximum.reduceat(depth, self.first_of_region)
        rows = np.arange(len(depth))[:, None]
        is_it = (depth == largest[self.region]) | (depth != depth)
        found: Array = np.minimum.reduceat(np.where(is_it, rows, len(depth)), self.first_of_region)
        return found


# How many are kept for later calls, and above how many nodes none is: 1 << 16 are 16 MB.
_KEPT, _LARGE = 8, 1 << 16


def _way(shape: tuple[int, ...], sizes: Array | None) -> _Way:
    make = _made_way if math.prod(shape) > _LARGE else _kept_way
    return make(shape, None if sizes is None else sizes.tobytes())


def _made_way(shape: tuple[int, ...], sizes: bytes | None) -> _Way:
    batch, height, width = shape
    own = np.tile(shape[1:], (batch, 1)) if sizes is None else np.frombuffer(sizes, np.int64).reshape(batch, 2)
    inside = (np.arange(height)[:, None] < own[:, 0, None, None]) & (np.arange(width) < own[:, 1, None, None])
    at = np.stack(np.nonzero(inside))
    third = [sum((at[axis] >= a * own[at[0], axis - 1] // 3).astype(int) for a in (1, 2)) for axis in (1, 2)]
    region = REGIONS * at[0] + 3 * third[0] + third[1]
    order = np.argsort(region, kind="stable")
    (sample, y, x), region = at[:, order], region[order]
    count = len(order)
    row = np.full((batch, height + 2, width + 2), -1)
    row[sample, y + 1, x + 1] = np.arange(count)
    neighbours = [row[sample, y + 1 + down, x + 1 + right] for down, right in STEPS]
    graph = Graph(
        [count, 2 * count],
        before=np.concatenate([np.full(count, -1), np.arange(count)])[None],
        source=np.concatenate([np.full(count, -1), sample]),
    )
    return _Way(
        nodes=(sample * height + y) * width + x,
        region=region,
        first_of_region=np.searchsorted(region, np.arange(REGIONS * batch)),
        arriving=_shift(neighbours),
        leaving=_shift([neighbours[n] for n in OPPOSITE]),
        graph=graph,
    )


def _shift(rows: list[Array]) -> _Shift:
    """From rows [R] for each step; the depth vector stays."""
    every = np.stack([*rows, np.arange(len(rows[0]))], 1)
    return _Shift(np.where(every < 0, -1, BLOCKS * every + np.arange(BLOCKS)))


_kept_way = lru_cache(_KEPT)(_made_way)
