"""States of a tree's leaves from their inputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays import check
from ._cpu_layer import CpuLayer
from ._options import flag, integer
from .heads import CpuLinear
from .layers import LSTM
from .trees import OPEN, TreeGradients, TreeTape

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from ._arrays import Array, Input
    from ._options import Seed

__all__ = ["LeafModule"]


class LeafModule(CpuLayer):
    """States of leaves from their inputs, as the authors of Tree-LSTMs make them (Tai, Socher, Manning 2015).

        >>> forest = recurra.Forest.parse("((not bad) !)")
        >>> leaf, layer = recurra.LeafModule(12, 64), recurra.TreeLSTM(0, 64, "n_ary")
        >>> h, c, leaf_tape = leaf.forward(np.ones((3, 12), "float32"))  # or h, c = leaf(x), without a tape
        >>> h, c, tape = layer.forward(forest, leaf_states=(h, c))
        >>> gradients = leaf_tape.backward(*tape.backward(np.ones_like(h)).leaf_states)
        >>> gradients.x.shape, gradients.params["weight"].shape
        ((3, 12), (128, 12))

        c = x @ weight_c^T + bias_c
        h = sigmoid(x @ weight_o^T + bias_o) * tanh(c)

    Parameters are weight [2H, I] and bias [2H], in blocks c, o.

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there is one.
        dtype, device, seed, rng: as of `TreeLSTM`; parameters start uniform in +-1/sqrt(I).

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or value.
        MemoryError: the parameters would not fit this machine; nothing has been allocated.
    """

    bias: bool

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        seed: Seed = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        self._configure(input_size=input_size, hidden_size=hidden_size, bias=bias, dtype=dtype, device=device)
        self._draw_uniform(seed, rng, 1 / math.sqrt(self.input_size))

    def _configure(self, *, input_size: int, hidden_size: int, bias: bool, dtype: DTypeLike, device: str) -> None:
        inputs, hidden = integer("input_size", input_size), integer("hidden_size", hidden_size)
        shapes: dict[str, tuple[int, ...]] = {"weight": (2 * hidden, inputs)}
        shapes |= {"bias": (2 * hidden,)} if flag("bias", bias) else {}
        self._fix({"input_size": inputs, "hidden_size": hidden, "bias": bool(bias)}, shapes, device, dtype)

    def _pack(self, parameters: dict[str, Array]) -> _PackedLeaf:
        return _PackedLeaf(self, parameters)

    def __call__(self, x: Input) -> tuple[Array, Array]:
        """(h, c), [L, H] each, from x [L, I] of the layer's dtype.

        Raises:
            TypeError, ValueError: wrong dtype or shape.
        """
        h, c, _ = self._packed.forward(self._checked(x))
        return h, c

    def forward(self, x: Input) -> tuple[Array, Array, TreeTape]:
        """As a call, with a tape for backward; x is copied."""
        h, c, tape = self._packed.forward(self._checked(x))
        return h, c, tape

    def _checked(self, x: Any) -> Array:
        return check("x", x, self._placement.parameter_dtype, ("L", self.input_size))


class _PackedLeaf:
    """A linear c, then a step of an LSTM from (0, c) that keeps it: f = 1, g = 0. So it has an LSTM's bits."""

    def __init__(self, layer: LeafModule, parameters: dict[str, Array]) -> None:
        self._kept, size, dtype = parameters, layer.hidden_size, layer._placement.parameter_dtype
        halves = [
            {name: array[part] for name, array in parameters.items()} for part in (slice(size), slice(size, None))
        ]
        shapes = {name: array.shape for name, array in halves[0].items()}
        self._cell = CpuLinear(layer._placement, shapes, halves[0])
        self._step = LSTM(layer.input_size, size, dtype=dtype, seed=0)
        wanted = {name: np.zeros_like(array) for name, array in self._step.state_dict().items()}
        wanted["weight_ih_l0"][3 * size :] = halves[1]["weight"]
        wanted["bias_ih_l0"][size : 2 * size] = OPEN
        wanted["bias_ih_l0"][3 * size :] = halves[1].get("bias", 0)
        self._step.load_state_dict(wanted)

    @property
    def parameters(self) -> dict[str, Array]:
        return {name: array.copy() for name, array in self._kept.items()}

    def forward(self, x: Array) -> tuple[Array, Array, TreeTape]:
        c, cell_tape = self._cell.forward(x)
        size, shape = c.shape[1], c.shape
        _, (h, kept), tape = self._step.forward(x[None], (np.zeros_like(c)[None], c[None]))

        def backward(d_h: Any, d_c: Any, input_grad: bool) -> TreeGradients:
            upstream = [
                None if d is None else check(name, d, c.dtype, shape)[None] for name, d in (("d_h", d_h), ("d_c", d_c))
            ]
            step = tape.backward(dstate=tuple(upstream), input_grad=input_grad)
            cell = cell_tape.backward(step.state[1][0], input_grad=input_grad)
            params = {"weight": np.concatenate((cell.params["weight"], step.params["weight_ih_l0"][3 * size :]))}
            if "bias" in self._kept:
                params["bias"] = np.concatenate((cell.params["bias"], step.params["bias_ih_l0"][3 * size :]))
            dx = None if cell.x is None or step.x is None else cell.x + step.x[0]
            return TreeGradients(dx, None, params)

        return h[0], kept[0], TreeTape(backward, tape.nbytes + x.nbytes)
