"""LSTMs over trees."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._arrays import check, contiguous
from ._cpu_layer import CpuLayer
from ._options import choice, flag, integer, shown
from .forest import Forest
from .graph import Graph, GraphNetwork

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import DTypeLike

    from ._arrays import Array, Input
    from ._options import Seed

__all__ = ["TreeGradients", "TreeLSTM", "TreeTape"]

_CELLS = {"child_sum": "child_sum_tree", "n_ary": "nary_tree", "s_lstm": "s_lstm_tree"}
_MAX_CHILDREN = 4
OPEN = 40.0  # a gate's bias whose sigmoid is 1.0 in float64 too


class TreeGradients(NamedTuple):
    """What `TreeTape.backward` returns.

        >>> layer, forest = recurra.TreeLSTM(12, 64), recurra.Forest.parse("((not bad) !) (yes)")
        >>> h, c, tape = layer.forward(forest, np.zeros((4, 12), "float32"))
        >>> tape.backward(np.ones_like(h)).x.shape
        (4, 12)

    Attributes:
        x: gradient of the input, of its shape; None with input_grad=False or without x.
        leaf_states: gradients of the leaves' states, (h, c) [L, H] each; None if none were given.
        params: names to the gradients of the parameters.
    """

    x: Array | None
    leaf_states: tuple[Array, Array] | None
    params: dict[str, Array]


class TreeTape:
    """What `forward` of a TreeLSTM or a LeafModule keeps for `backward`, which may be called again.

        >>> layer, forest = recurra.TreeLSTM(12, 64), recurra.Forest.parse("((not bad) !) (yes)")
        >>> h, c, tape = layer.forward(forest, np.zeros((4, 12), "float32"))
        >>> sorted(tape.backward(np.ones_like(h)).params)
        ['bias', 'weight_hh', 'weight_ih']

    Attributes:
        nbytes: memory it holds.
    """

    __slots__ = ("_backward", "nbytes")

    def __init__(self, backward: Callable[[Any, Any, bool], TreeGradients], nbytes: int) -> None:
        self._backward, self.nbytes = backward, nbytes

    def backward(self, d_h: Input | None = None, d_c: Input | None = None, *, input_grad: bool = True) -> TreeGradients:
        """Gradients of a loss, from those of the states of all nodes.

            >>> forest, layer = recurra.Forest.parse("((not bad) !)"), recurra.TreeLSTM(12, 64)
            >>> h, c, tape = layer.forward(forest, np.ones((3, 12), "float32"))
            >>> d_h = np.zeros_like(h)
            >>> d_h[forest.roots] = 1  # of a loss that sees the roots only
            >>> gradients = tape.backward(d_h)
            >>> gradients.x.shape, gradients.params["weight_hh"].shape
            ((3, 12), (256, 64))

        Args:
            d_h, d_c: dL/d h and dL/d c, of the shape of h and c and of their dtype; default zero.
            input_grad: whether to compute the gradient of x.

        Raises:
            TypeError, ValueError: wrong shape or dtype.
            ValueError: neither d_h nor d_c was given.
        """
        if d_h is None and d_c is None:
            raise ValueError("d_h, d_c: expected at least one of them, got neither")
        return self._backward(d_h, d_c, flag("input_grad", input_grad))

    def __reduce__(self) -> Any:
        raise TypeError("a TreeTape cannot be copied or pickled")

    def __repr__(self) -> str:
        return f"TreeTape({self.nbytes} bytes)"


class TreeLSTM(CpuLayer):
    """LSTM over trees: a node's state comes from its input and the states of its children.

        >>> forest = recurra.Forest.parse("((not bad) !) (yes)")
        >>> layer = recurra.TreeLSTM(input_size=12, hidden_size=64)
        >>> h, c = layer(forest, np.zeros((4, 12), "float32"))  # a row of x for each word
        >>> h.shape, h[forest.roots].shape
        ((6, 64), (2, 64))

    All nodes of one height, of all trees, are computed together. With x the node's input and h_k, c_k the states of its
    children:

        i = sigmoid(A_i)    f_k = sigmoid(A_fk)    g = tanh(A_g)    o = sigmoid(A_o)
        c = i * g + sum_k f_k * c_k
        h = o * tanh(c)

    kind="child_sum", any number of children, whose order means nothing (Tai, Socher, Manning 2015, arXiv:1503.00075):

        A_i, A_g, A_o = x @ weight_ih^T + sum_k h_k @ weight_hh^T + bias
        A_fk = x @ weight_ih_f^T + h_k @ weight_hh_f^T + bias_f
        weight_ih [4H, I], weight_hh [4H, H], bias [4H], in blocks i, f, g, o

    kind="n_ary", up to K children, each with a place (same paper): every gate sees every child,

        A = x @ weight_ih^T + sum_k h_k @ weight_hh[k]^T + bias
        weight_ih [4H, I] in blocks i, f, g, o, whose f serves every f_k;
        weight_hh [K, (K+3)H, H] and bias [(K+3)H] in blocks i, f_1 .. f_K, g, o

    kind="s_lstm", the same without x, and gates that see cells (Zhu, Sobhani, Guo 2015, arXiv:1503.04881):

        A = sum_k h_k @ weight_hh[k]^T + bias
        A_i, A_f1 .. A_fK  += sum_k c_k @ weight_ch[k]^T,  A_o += c @ weight_co^T
        weight_hh [K, (K+3)H, H], bias [(K+3)H], weight_ch [K, (K+1)H, H], weight_co [H, H]

    A chain of nodes with one child each is an LSTM. The states of leaves are computed from x, or given: from an
    Embedding as h, or from a `LeafModule`. There is no `stream`: a root has to wait for all its leaves, so a tree is
    either complete or has no output. Fixed once made, but for `load_state_dict`; it pickles as its configuration and
    parameters.

    Args:
        input_size: I, values a row of x has; 0, as for "s_lstm", for nodes without inputs, whose leaves are given.
        hidden_size: H.
        kind: "child_sum", "n_ary" or "s_lstm".
        children: K, 1 to 4; None for "child_sum" alone, otherwise 2 by default.
        bias: whether there is one.
        gate_output: False leaves out the block o: h = tanh(c). Not for "s_lstm".
        dtype: float32 or float64.
        device: "cpu".
        seed: for numpy.random.default_rng; parameters start uniform in +-1/sqrt(H).
        rng: the numpy.random.Generator to draw from, in place of a seed.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or value.
        MemoryError: the parameters would not fit this machine; nothing has been allocated.
    """

    kind: str
    children: int | None
    bias: bool
    gate_output: bool

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        kind: str = "child_sum",
        children: int | None = None,
        bias: bool = True,
        *,
        gate_output: bool = True,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        seed: Seed = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        sizes: dict[str, Any] = {"input_size": input_size, "hidden_size": hidden_size, "children": children}
        self._configure(**sizes, kind=kind, bias=bias, gate_output=gate_output, dtype=dtype, device=device)
        self._draw_uniform(seed, rng, 1 / math.sqrt(self.hidden_size))

    def _configure(
        self,
        *,
        input_size: int,
        hidden_size: int,
        kind: str,
        children: int | None,
        bias: bool,
        gate_output: bool,
        dtype: DTypeLike,
        device: str,
    ) -> None:
        inputs, hidden = integer("input_size", input_size, 0), integer("hidden_size", hidden_size)
        choice("kind", kind, _CELLS)
        places = _places(kind, children)
        if kind == "s_lstm" and inputs:
            raise ValueError(f"input_size: expected 0 for kind='s_lstm', whose nodes have no input, got {inputs}")
        gated = flag("gate_output", gate_output)
        if kind == "s_lstm" and not gated:
            raise ValueError("gate_output: expected True for kind='s_lstm', got False")
        shapes = {
            name: _without_output(shape, hidden) if not gated and name != "weight_co" else shape
            for name, shape in GraphNetwork.shapes(_CELLS[kind], inputs, hidden, slots=places or 1).items()
            if (inputs or name != "weight_ih") and (flag("bias", bias) or name != "bias")
        }
        options = {"input_size": inputs, "hidden_size": hidden, "kind": kind, "children": places, "bias": bool(bias)}
        self._fix(options | {"gate_output": gated}, shapes, device, dtype)

    def _pack(self, parameters: dict[str, Array]) -> _Packed:
        cell, sizes = _CELLS[self.kind], (self.input_size, self.hidden_size)
        places = self.children or 1
        whole = dict(parameters)
        if not self.gate_output:
            shapes = GraphNetwork.shapes(cell, *sizes, slots=places)
            dtype = self._placement.parameter_dtype
            whole = {name: np.zeros(shapes[name], dtype) for name in (*parameters, "bias")}
            for name, array in parameters.items():
                _rows(whole[name])[: -self.hidden_size] = _rows(array)
            whole["bias"][-self.hidden_size :] = OPEN
        return _Packed(parameters, GraphNetwork(cell, *sizes, whole, slots=places))

    def __call__(
        self,
        forest: Forest,
        x: Input | None = None,
        leaf_states: tuple[Input, Input | None] | None = None,
    ) -> tuple[Array, Array]:
        """The states of all nodes. Any number of threads may do so at once.

            >>> forest = recurra.Forest.parse("((not bad) !) (yes)")
            >>> table = recurra.Embedding(10, 8)
            >>> words = table(forest.token_indices({"not": 1, "bad": 2, "!": 3, "yes": 4}))
            >>> h, c = recurra.TreeLSTM(8, 8)(forest, words)
            >>> h, c = recurra.TreeLSTM(0, 8, "s_lstm")(forest, leaf_states=(words, None))

        Args:
            forest: the trees, of N nodes and L leaves.
            x: inputs, of the layer's dtype: [N, I] for all nodes, or [L, I] for the leaves alone; the others have none,
                as with zeros. With leaf_states: [N - L, I] for the other nodes, or None.
            leaf_states: (h, c) of the leaves, [L, H] each, in place of an input; c None for zeros.

        Returns:
            (h, c): [N, H] each, in the order of the forest's nodes; those of the roots are h[forest.roots].

        Raises:
            TypeError: wrong dtype or kind of object.
            ValueError: wrong shape, a node with too many children, or neither x nor leaf_states.
        """
        graph, inputs, given = self._arguments(forest, x, leaf_states)
        h, c = self._packed.network(inputs, graph, given)
        return _scattered(h, forest), _scattered(c, forest)

    def forward(
        self,
        forest: Forest,
        x: Input | None = None,
        leaf_states: tuple[Input, Input | None] | None = None,
        *,
        recompute: bool = False,
    ) -> tuple[Array, Array, TreeTape]:
        """As a call, to the same bits, with a tape for backward; x and leaf_states are copied.

            >>> forest, layer = recurra.Forest.parse("((not bad) !)"), recurra.TreeLSTM(12, 64)
            >>> h, c, tape = layer.forward(forest, np.ones((3, 12), "float32"))
            >>> gradients = tape.backward(np.ones_like(h))

        Args:
            forest, x, leaf_states: as of a call.
            recompute: keep only the states and compute gates again in backward, to the same bits.

        Returns:
            (h, c, tape): the first two as a call's, and a `TreeTape`.
        """
        graph, inputs, given = self._arguments(forest, x, leaf_states)
        states, tape = self._packed.network.forward(inputs, graph, given, recompute=flag("recompute", recompute))
        shape, dtype = (forest.num_nodes, self.hidden_size), self._placement.parameter_dtype

        def backward(d_h: Any, d_c: Any, input_grad: bool) -> TreeGradients:
            upstream = [
                None if d is None else check(name, d, dtype, shape)[forest.order]
                for name, d in (("d_h", d_h), ("d_c", d_c))
            ]
            found = tape.backward(upstream, input_grad=input_grad)
            d_leaves = None if given is None else (found.given[0], found.given[1])
            return TreeGradients(found.x, d_leaves, self._cut(found.params))

        h, c = (_scattered(state, forest) for state in states)
        return h, c, TreeTape(backward, tape.nbytes)

    def _cut(self, params: dict[str, Array]) -> dict[str, Array]:
        """The gradients without those of the block that `_pack` has added."""
        if self.gate_output:
            return params
        hidden = self.hidden_size
        return {name: np.array(_rows(_rows(params[name])[:-hidden]), order="C") for name in self._shapes}

    def _arguments(self, forest: Any, x: Any, leaf_states: Any) -> tuple[Graph, Array | None, Any]:
        if not isinstance(forest, Forest):
            raise TypeError(f"forest: expected a Forest, got {shown(forest)}")
        counts = np.diff(forest.offsets)
        if self.children is not None and counts.max() > self.children:
            node = int(counts.argmax())
            raise ValueError(
                f"forest: expected at most children={self.children} a node, got {counts[node]} at node {node}"
            )
        nodes, leaves = forest.num_nodes, len(forest.leaves)
        dtype = self._placement.parameter_dtype
        given = None if leaf_states is None else _checked_states(leaf_states, dtype, (leaves, self.hidden_size))
        if x is None:
            if given is None:
                raise ValueError("x, leaf_states: expected at least one of them, got neither")
            inputs = None
        elif not self.input_size:
            raise ValueError(f"x: expected None with input_size=0, got {shown(type(x).__name__)}")
        else:
            rows = (nodes, leaves) if given is None else (nodes - leaves,)
            inputs = contiguous(check("x", x, dtype, *((count, self.input_size) for count in dict.fromkeys(rows))))
        return _graph(forest, self.children, None if inputs is None else len(inputs), given is not None), inputs, given

    def stream(self, *_: Any, **__: Any) -> Any:
        """There is none: TypeError."""
        raise TypeError("stream: TreeLSTM has none, for the state of a root needs all its leaves before")

    def quantize(self, *_: Any, **__: Any) -> Any:
        """There is none: TypeError."""
        raise TypeError("quantize: TreeLSTM has float32 and float64 kernels only")


class _Packed(NamedTuple):
    """Parameters as the caller knows them, and the network made of them."""

    kept: dict[str, Array]
    network: GraphNetwork

    @property
    def parameters(self) -> dict[str, Array]:
        """Names to new copies."""
        return {name: array.copy() for name, array in self.kept.items()}


def _places(kind: str, children: Any) -> int | None:
    if kind == "child_sum":
        if children is not None:
            raise ValueError(
                f"children: expected None for kind='child_sum', which takes any number, got {shown(children)}"
            )
        return None
    places = integer("children", 2 if children is None else children)
    if places > _MAX_CHILDREN:
        raise ValueError(f"children: expected 1..{_MAX_CHILDREN}, got {shown(places)}")
    return places


def _without_output(shape: tuple[int, ...], hidden: int) -> tuple[int, ...]:
    """A parameter's shape without the rows of the last block."""
    if len(shape) == 3:
        return (shape[0], shape[1] - hidden, shape[2])
    return (shape[0] - hidden, *shape[1:])


def _rows(array: Array) -> Array:
    """View with the rows of the blocks on the first axis."""
    return array.swapaxes(0, 1) if array.ndim == 3 else array


def _checked_states(value: Any, dtype: np.dtype[Any], shape: tuple[int, int]) -> tuple[Array, Array | None]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"leaf_states: expected a tuple (h, c), got {shown(type(value).__name__)}")
    h, c = value
    checked = check("leaf_states h", h, dtype, shape)
    return checked, None if c is None else check("leaf_states c", c, dtype, shape)


def _scattered(rows: Array, forest: Forest) -> Array:
    """Rows of the order of heights, in that of the nodes."""
    nodes = np.empty_like(rows)
    nodes[forest.order] = rows
    return nodes


def _graph(forest: Forest, places: int | None, inputs: int | None, given: bool) -> Graph:
    """Rows are nodes by height, so leaves come first; `inputs` is the number of rows of x."""
    count, leaves = forest.num_nodes, len(forest.leaves)
    row_of = np.empty(count, np.int64)
    row_of[forest.order] = np.arange(count)
    source = np.full(count, -1)
    if given and inputs is not None:
        inner = np.cumsum(forest.heights > 0) - 1
        source[leaves:] = inner[forest.order[leaves:]]
    elif inputs == count:
        source[:] = forest.order
    elif inputs == leaves:
        source[:leaves] = np.arange(leaves)
    counts = np.diff(forest.offsets)
    owner = np.repeat(np.arange(count), counts)
    present = forest.children >= 0
    parents, children = row_of[owner[present]], row_of[forest.children[present]]
    fronts = forest.fronts[1:] if given else forest.fronts
    if places is None:
        by_parent = np.argsort(parents, kind="stable")
        first = np.concatenate(([0], np.cumsum(np.bincount(parents, minlength=count))))
        return Graph(fronts, source=source, children=(first, children[by_parent]))
    before = np.full((places, count), -1)
    place = np.arange(len(owner)) - np.repeat(forest.offsets[:-1], counts)
    before[place[present], parents] = children
    return Graph(fronts, before, source)
