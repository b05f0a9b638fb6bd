"""Multidimensional LSTM: recurrence along every axis of images, volumes or spectrograms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._grid_layer import COMBINE, DirectedLayer, Networks, Walk, dimensions, grid_graph, named_directions
from ._options import choice, flag, integer
from .graph import GraphNetwork

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import DTypeLike

    from ._arrays import Array
    from ._grid_layer import Gradients
    from ._options import Seed

__all__ = ["MultidimensionalLSTM"]


class _Kind(NamedTuple):
    """Blocks of a kind of multidimensional cell, and of its peepholes, as multiples of N and a constant."""

    blocks: tuple[int, int]
    peepholes: tuple[int, int] | None = None


_KINDS = {
    "standard": _Kind((1, 3), (1, 2)),
    "stable": _Kind((1, 3)),
    "leaky": _Kind((1, 2)),
    "leakylp": _Kind((1, 3)),
    "halved": _Kind((1, 3)),
    "time_frequency": _Kind((0, 4), (0, 3)),
}


class MultidimensionalLSTM(DirectedLayer):
    """LSTM that reads grids of N dimensions from every corner.

        >>> layer = recurra.MultidimensionalLSTM(input_size=1, hidden_size=16, dims=2, kind="leakylp")
        >>> y = layer(np.zeros((3, 8, 8, 1), "float32"), sizes=[(8, 8), (5, 8), (2, 3)])
        >>> y.shape  # four directions, from each corner to the opposite one
        (3, 8, 8, 64)

    A node sees its predecessor along each axis d, whose states are h_d and c_d (zero outside the grid). With
    A = x @ weight_ih^T + bias + sum_d h_d @ weight_hh[d]^T, cut into blocks of H values:

        kind        blocks, in order            c'                              h'
        "standard"  i, f_1 .. f_N, g, o         i * g + sum_d f_d * c_d         o * tanh(c')
        "halved"    i, f_1 .. f_N, g, o         i * g + sum_d f_d * c_d / N     o * tanh(c')
        "stable"    i, f, l_1 .. l_{N-1}, g, o  i * g + f * s                   o * tanh(c')
        "leaky"     f, l_1 .. l_{N-1}, g, o     (1 - f) * g + f * s             o * c'
        "leakylp"   f, l_1 .. l_{N-1}, g, o, p  (1 - f) * g + f * s             tanh(o * c' + p * s)
        "time_frequency"  i, f, g, o            i * g + f * c_1                 o * tanh(c')

    where g = tanh(A_g), the others are sigmoids, and s = sum_d w_d * c_d with w = softmax([A_l1, .., A_l{N-1}, 0]).
    Peepholes add p_i * sum_d c_d to A_i, p_fd * c_d to A_fd and p_o * c' to A_o; with "time_frequency" p_i * c_1 to A_i
    and p_f * c_1 to A_f.

    The standard cell (Graves, Fernandez, Schmidhuber 2007, arXiv:0705.2011) adds up what arrives on every path, whose
    number grows as the binomials do, so its cell may overflow on a large grid; the others cannot (Leifert, Strauss,
    Gruening, Wustlich, Labahn 2016, JMLR 17; "halved" divides instead). With dims=1 the standard and the stable cell
    are an LSTM. The joint time-frequency LSTM, of two dimensions, time first, carries a cell along time alone, and only
    h along frequency (Sainath, Li 2016, Interspeech).

    Fixed once made, but for `load_state_dict`; it pickles as its configuration and parameters, which are, for the
    direction "01" for example, weight_ih_01 [G*H, I], weight_hh_01 [N, G*H, H], bias_01 [G*H] and weight_peep_01
    [(N+2)*H] (i, f_1 .. f_N, o; for "time_frequency" [3*H]).

    Args:
        input_size: I, values a node of the input has.
        hidden_size: H, units.
        dims: N, 1 to 4; 2 for "time_frequency".
        kind: see above.
        directions: "all" 2^N, 1 for the forward one alone, or a sequence of strings of N digits: "01" reads the
            first axis forwards and the second backwards, each sample from its own end. Each has parameters of its own.
        combine: what becomes of the directions' outputs: "concat", in their order, "sum" or "mean".
        bias: whether there is one.
        peephole: whether there are peepholes, which "standard" and "time_frequency" may have and by default do.
        dtype: float32 or float64, of parameters, inputs and outputs.
        device: "cpu".
        seed: for numpy.random.default_rng; parameters start uniform in +-1/sqrt(H).
        rng: the numpy.random.Generator to draw from, in place of a seed.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or value.
        MemoryError: the parameters would not fit this machine; nothing has been allocated.
    """

    kind: str
    peephole: bool

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        dims: int = 2,
        kind: str = "standard",
        directions: str | int | Iterable[str] = "all",
        combine: str = "concat",
        bias: bool = True,
        peephole: bool | None = None,
        *,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        seed: Seed = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        sizes: dict[str, Any] = {"input_size": input_size, "hidden_size": hidden_size, "dims": dims}
        options: dict[str, Any] = {"kind": kind, "directions": directions, "combine": combine}
        self._configure(**sizes, **options, bias=bias, peephole=peephole, dtype=dtype, device=device)
        self._draw_uniform(seed, rng, 1 / math.sqrt(self.hidden_size))

    def _configure(
        self,
        *,
        input_size: int,
        hidden_size: int,
        dims: int,
        kind: str,
        directions: str | int | Iterable[str],
        combine: str,
        bias: bool,
        peephole: bool | None,
        dtype: DTypeLike,
        device: str,
    ) -> None:
        inputs, hidden = integer("input_size", input_size), integer("hidden_size", hidden_size)
        n = dimensions(dims)
        cell = choice("kind", kind, _KINDS)
        if kind == "time_frequency" and n != 2:
            raise ValueError(f"dims: expected 2 with kind='time_frequency', got {n}")
        peeps = cell.peepholes is not None if peephole is None else flag("peephole", peephole)
        if peeps and cell.peepholes is None:
            raise ValueError(f"peephole: expected None or False with kind={kind!r}, got True")
        combine = choice("combine", combine, COMBINE)
        names = named_directions(directions, n)
        shapes: dict[str, tuple[int, ...]] = {}
        for name in names:
            rows = (cell.blocks[0] * n + cell.blocks[1]) * hidden
            shapes |= {f"weight_ih_{name}": (rows, inputs), f"weight_hh_{name}": (n, rows, hidden)}
            if flag("bias", bias):
                shapes[f"bias_{name}"] = (rows,)
            if peeps and cell.peepholes:
                shapes[f"weight_peep_{name}"] = ((cell.peepholes[0] * n + cell.peepholes[1]) * hidden,)
        options = {"input_size": inputs, "hidden_size": hidden, "dims": n, "kind": kind, "directions": names}
        self._fix({**options, "combine": combine, "bias": bool(bias), "peephole": peeps}, shapes, device, dtype)
        self.__dict__["_width"] = hidden * (len(names) if combine == "concat" else 1)

    def _pack(self, parameters: dict[str, Any]) -> Networks:
        cell = {"standard": "mdlstm", "time_frequency": "time_frequency"}.get(self.kind, f"mdlstm_{self.kind}")
        parts = Networks.parts(parameters, self.directions)
        return Networks(
            parameters,
            [GraphNetwork(cell, self.input_size, self.hidden_size, part, slots=self.dims) for part in parts],
        )

    def _walk(
        self,
        direction: int,
        x: Array,
        nodes: tuple[int, ...],
        sizes: Array | None,
        flips: tuple[bool, ...],
        recompute: bool | None,
    ) -> Walk:
        rows, graph = grid_graph(nodes, sizes, flips)
        network, name = self._packed.networks[direction], self.directions[direction]
        if recompute is None:
            return Walk(rows, network(x, graph, wanted=("h",)), None, 0)
        (h,), tape = network.forward(x, graph, recompute=recompute, wanted=("h",))

        def back(d_parts: list[Array], input_grad: bool) -> Gradients:
            gradients = tape.backward((*d_parts, None), input_grad=input_grad)
            return gradients.x, {f"{title}_{name}": value for title, value in gradients.params.items()}

        return Walk(rows, (h,), back, tape.nbytes)
