"""Scan whose body is a step of an RNN, a GRU or an LSTM.

The body is computed with polynomials in place of numbers: each element of a tensor is a sum of products of elements
of the step's input, of the states, of activations, and of matrices times such sums. Whatever way a cell was written,
stacked gates, n + z * (h - n) for (1 - z) * n + z * h, one matrix for input and state, its states come out as the same
polynomials, which are compared with those of the cells. So only what is a cell for all numbers is taken for one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..unsupported import UnsupportedModel
from .folding import LARGEST, Spread, checked_axis, folded
from .graph import Graph, Node
from .polynomial import LARGEST_VECTOR, Part, Polynomial, chosen, operated, summed, whole
from .recurrent import recurrent
from .tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..._arrays import Array
    from .builder import Builder
    from .polynomial import Key

__all__ = ["scanned"]


@dataclass
class _Cell:
    """A recognised one: its operator, gates (W, R, b) in ONNX's order, functions, and attributes of the operator."""

    op: str
    gates: list[tuple[Array, Array, Array]]
    functions: list[Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    recurrent_bias: Array | None = None  # of a GRU's candidate, which its reset gate multiplies


class _Recogniser:
    """The cell of which the states' polynomials are a step."""

    def __init__(self, x: Part, states: list[Part], results: list[Polynomial]) -> None:
        self.x, self.states, self.results = x, states, results
        self.h = states[0]
        self._below: dict[Part, dict[Key, Array]] = {}

    def cell(self) -> tuple[_Cell, list[int]]:
        """It, and which of the states are its h and c."""
        if len(self.states) == 1:
            return self._gru() or self._rnn(), [0]
        for order in ([0, 1], [1, 0]) if len(self.states) == 2 else ():
            if (lstm := self._lstm(*order)) is not None:
                return lstm, order
        states = zip(self.states, self.results, strict=True)
        equations = ", ".join(f"{state.name} becomes {result}" for state, result in states)
        raise UnsupportedModel(f"body: expected the equations of an RNN, a GRU or an LSTM, got {equations}")

    def _refused(self, what: str, p: Polynomial) -> UnsupportedModel:
        return UnsupportedModel(f"body: expected {what}, got {p}")

    def _products(self, p: Polynomial, *states: Part) -> list[tuple[float, list[Part], list[Part]]] | None:
        """Number, states and activations of each product; None if there is anything else."""
        found = []
        for key, numbers in p.terms.items():
            if (numbers != numbers[0]).any():
                return None
            own, activations = [], []
            for part, elements in key:
                if part in states and elements == tuple(range(part.size)):
                    own.append(part)
                elif part.of is not None and part.function is not None and min(elements) >= 0:
                    activations.append(_activation(part, elements))
                else:
                    return None
            found.append((float(numbers[0]), own, activations))
        return found

    def _rnn(self) -> _Cell:
        products = self._products(self.results[0], self.h)
        if products is None or len(products) != 1 or products[0][0] != 1 or products[0][1] or len(products[0][2]) != 1:
            raise self._refused("the equations of an RNN or a GRU", self.results[0])
        part = products[0][2][0]
        return _Cell("RNN", [self._gate(part)], [part.function])

    def _gru(self) -> _Cell | None:
        """h' = n - z n + z h, or h' = h - z h + z n, where z is a sigmoid: of the negative, as the first one has it."""
        h = self.h
        products = self._products(self.results[0], h)
        if products is None or len(products) != 3:
            return None
        with_h = {len(a): (number, a) for number, own, a in products if own == [h]}
        without = {len(a): (number, a) for number, own, a in products if not own}
        if with_h.keys() == {1} and without.keys() == {1, 2}:
            (kept, (z,)), (taken, (n,)), (both, pair) = with_h[1], without[1], without[2]
            wanted, sign = (1, 1, -1), 1.0
        elif with_h.keys() == {0, 1} and without.keys() == {2}:
            (kept, (z,)), (taken, _), (both, pair) = with_h[1], with_h[0], without[2]
            n = next((each for each in pair if not _alike(each, z)), z)
            wanted, sign = (-1, 1, 1), -1.0
        else:
            return None
        if (kept, taken, both) != wanted or not _same_pair(pair, (z, n)):
            return None
        if sign < 0 and z.function != ("Sigmoid", (), ()):
            raise UnsupportedModel(f"body: expected a sigmoid as update gate, got {z.function[0]}")  # type: ignore[index]
        candidate, r, attributes, bias = self._candidate(n)
        if r.function != z.function:
            raise UnsupportedModel("body: expected one activation of both gates, got two")
        update = tuple(sign * array for array in self._gate(z))
        gates = [update, self._gate(r), candidate]
        return _Cell("GRU", gates, [z.function, n.function], attributes, bias)  # type: ignore[arg-type]

    def _candidate(self, n: Part) -> tuple[tuple[Array, Array, Array], Part, dict[str, Any], Array | None]:
        """Its W, R and b, the reset gate, how that acts, and the bias that it multiplies."""
        h, p = self.h, n.of
        assert p is not None
        gates = {f for key in p.terms for f in key if f[0].function}
        if not gates:  # r * h goes into the matrix
            forms = self._linear(p)
            resets = [key for key in forms if len(key) == 2]
            factors = {part: (part, elements) for part, elements in resets[0]} if len(resets) == 1 else {}
            own = factors.pop(h, None)
            if own is None or own[1] != tuple(range(h.size)) or len(factors) != 1:
                raise self._refused("a reset gate times the state in the candidate", p)
            ((part, elements),) = factors.values()
            if part.function is None:
                raise self._refused("a reset gate times the state in the candidate", p)
            matrix = forms.pop(resets[0])
            if _key(h) in forms:
                raise self._refused("the state in the candidate only as the reset gate leaves it", p)
            w, _, b = self._taken(forms, p)
            return (w, matrix, b), _activation(part, elements), {"linear_before_reset": 0}, None
        if len(gates) > 1:
            raise self._refused("one reset gate in the candidate", p)
        ((part, elements),) = gates
        inside = summed(
            p.size, [(_without(k, (part, elements)), v) for k, v in p.terms.items() if (part, elements) in k]
        )
        outside = summed(p.size, [(k, v) for k, v in p.terms.items() if (part, elements) not in k])
        forms, rest = self._linear(inside), self._linear(outside)
        if min(elements) < 0 or set(forms) - {(), _key(h)} or _key(h) in rest:
            raise self._refused("a reset gate times the state's product alone, and all of that", p)
        _, r, bias = self._taken(forms, inside)
        w, _, b = self._taken(rest, outside)
        return (w, r, b), _activation(part, elements), {"linear_before_reset": 1}, bias

    def _lstm(self, at_h: int, at_c: int) -> _Cell | None:
        """c' = f c + i g, and h' = o act(c')."""
        h, c = self.states[at_h], self.states[at_c]
        new_h, new_c = self._products(self.results[at_h]), self._products(self.results[at_c], c)
        if h.size != c.size or new_h is None or new_c is None or len(new_h) != 1 or new_h[0][0] != 1:
            return None
        pair = new_h[0][2]
        outside = [part for part in pair if part.of == self.results[at_c]]
        if len(pair) != 2 or len(outside) != 1:
            return None
        (o,) = [part for part in pair if part is not outside[0]]
        with_c = {len(a): (number, a) for number, own, a in new_c if own == [c]}
        without = {len(a): (number, a) for number, own, a in new_c if not own}
        if len(with_c) + len(without) != len(new_c) or 1 not in with_c or 2 not in without:
            return None
        (number, (f,)), (other, parts) = with_c[1], without[2]
        if with_c.keys() != {1} or without.keys() != {2} or (number, other) != (1, 1):
            raise self._refused("f * c + i * g", self.results[at_c])
        i, g = parts if parts[0].function == f.function else parts[::-1]
        if not i.function == f.function == o.function:
            raise UnsupportedModel("body: expected one activation of the gates i, f and o, got others")
        self.h = h
        gates = [self._gate(part) for part in (i, o, f, g)]
        return _Cell("LSTM", gates, [i.function, g.function, outside[0].function])

    def _gate(self, part: Part) -> tuple[Array, Array, Array]:
        assert part.of is not None
        return self._taken(self._linear(part.of), part.of)

    def _taken(self, forms: Mapping[Key, Array], p: Polynomial) -> tuple[Array, Array, Array]:
        """W [H, I], R [H, H] and b [H] of W x + R h + b."""
        keys = (_key(self.x), _key(self.h), ())
        if not set(forms) <= set(keys):
            raise self._refused("W x + R h + b of the step's input x and the state h alone", p)
        sizes = (self.x.size, self.h.size, 1)
        w, r, b = (forms.get(key, np.zeros((p.size, size))) for key, size in zip(keys, sizes, strict=True))
        return w, r, b[:, 0]

    def _linear(self, p: Polynomial) -> dict[Key, Array]:
        """Matrices [size, K] with which vectors make a polynomial: of K elements of the input, a state, an activation
        or a product, or of the number 1."""
        forms: dict[Key, Array] = {}
        for key, numbers in p.terms.items():
            part, elements = key[0] if len(key) == 1 else (None, ())
            if part is not None and part.of is not None and part.matrix is not None:
                if part not in self._below:
                    self._below[part] = self._linear(part.of)
                rows = numbers[:, None] * part.matrix[list(elements)]
                own = {below: rows @ matrix for below, matrix in self._below[part].items()}
            else:
                there = np.flatnonzero(numbers)
                base = tuple((q, tuple(e[i] for i in there)) for q, e in key) if len(key) > 1 else ()
                columns, size = (there * 0, 1) if not key else (np.arange(len(there)), len(there))
                if part is not None:
                    base, columns, size = _key(part), np.array(elements)[there], part.size
                if p.size * size > LARGEST:
                    raise UnsupportedModel("larger than any cell")
                matrix = np.zeros((p.size, size))
                matrix[there, columns] = numbers[there]
                own = {base: matrix}
            for base, matrix in own.items():
                forms[base] = forms[base] + matrix if base in forms else matrix
        return {base: matrix for base, matrix in forms.items() if matrix.any()}


def _key(part: Part) -> Key:
    return ((part, tuple(range(part.size))),)


def _activation(part: Part, elements: tuple[int, ...]) -> Part:
    """Some elements of one."""
    assert part.of is not None
    return replace(part, size=len(elements), of=chosen(part.of, np.array(elements)))


def _alike(a: Part, b: Part) -> bool:
    return a.function == b.function and a.of == b.of


def _same_pair(a: list[Part], b: tuple[Part, Part]) -> bool:
    return any(_alike(a[0], b[i]) and _alike(a[1], b[1 - i]) for i in (0, 1))


def _without(key: Key, factor: tuple[Part, tuple[int, ...]]) -> Key:
    at = key.index(factor)
    return key[:at] + key[at + 1 :]


def scanned(builder: Builder, node: Node, inputs: list[Any], environment: Mapping[str, Any]) -> list[Any]:
    """The outputs of a Scan, as those of the operator whose step its body is."""
    body, states = node.get("body"), inputs[:-1]
    if not isinstance(body, Graph) or node.opset < 9:
        raise UnsupportedModel("body: expected a graph, and opset 9 or newer")
    if node.get("num_scan_inputs") != 1 or not 1 <= len(states) <= 2 or len(body.inputs) != len(inputs):
        count = node.get("num_scan_inputs")
        raise UnsupportedModel(f"num_scan_inputs: expected one, and one or two states, got {count} of {len(inputs)}")
    if len(set(body.outputs)) < len(body.outputs):  # ONNX Runtime then gives states that are none of the body's
        raise UnsupportedModel(f"body: expected outputs of different names, got {body.outputs}")
    if unknown := set(node.attributes) - _ATTRIBUTES:
        raise UnsupportedModel(f"{min(unknown)}: the operator has no such attribute")
    x, outputs = inputs[-1], len(body.outputs) - len(states)
    if not isinstance(x, Tensor) or x.rank != 3:
        raise UnsupportedModel("expected a sequence of three axes that depends on an input")
    reverse = _listed(node, "scan_input_directions", 1)[0]
    if any(each != reverse for each in _listed(node, "scan_output_directions", outputs)) or reverse not in (0, 1):
        raise UnsupportedModel("scan_output_directions: expected that of the input")
    axis = checked_axis(_listed(node, "scan_input_axes", 1)[0], 3)
    x = x.with_axes([x.axes[axis], *(own for i, own in enumerate(x.axes) if i != axis)])
    sizes = [*(_features(state) for state in states), _features(x)]
    parts = [Part(given.name, size) for given, size in zip(body.inputs, sizes, strict=True)]
    results = _computed(body, parts, environment)
    for state, result in zip(parts[:-1], results, strict=False):
        if result.size != state.size:
            raise UnsupportedModel(f"body: expected {state.size} features of {state.name!r}, got {result.size}")
    cell, order = _Recogniser(parts[-1], parts[:-1], results[: len(states)]).cell()
    for name, result in zip(body.outputs[len(states) :], results[len(states) :], strict=True):
        if result != results[order[0]]:
            raise UnsupportedModel(f"body: expected output {name!r} to be the new state, got {result}")
    arrays = _parameters(cell, builder.dtype)
    initial = [_unsqueezed(states[i]) for i in order]
    attributes = cell.attributes | {"direction": "reverse" if reverse else "forward"} | _activations(cell)
    own = Node(cell.op, node.name, [], list(node.outputs), attributes, node.opset)
    y, *final = recurrent(builder, own, [x, *arrays, None, *initial])
    t, _, b, h = y.axes
    sequences = []
    for axis in _listed(node, "scan_output_axes", outputs):
        axes = [b, h]
        axes.insert(checked_axis(axis, 3), t)
        sequences.append(y.with_axes(axes))
    ends = [final[order.index(i)] for i in range(len(states))]
    return [*(end.with_axes(end.axes[1:]) for end in ends), *sequences]


_ATTRIBUTES = {
    "body", "num_scan_inputs", "scan_input_axes", "scan_input_directions", "scan_output_axes", "scan_output_directions",
}  # fmt: skip


def _listed(node: Node, attribute: str, count: int) -> list[int]:
    values = node.get(attribute) or [0] * count
    if len(values) != count:
        raise UnsupportedModel(f"{attribute}: expected {count}, got {values}")
    return list(values)


def _features(value: Any) -> int:
    shape = getattr(value.array if isinstance(value, Spread) else value, "shape", ())
    size = shape[-1] if shape else None
    if not isinstance(size, int) or not 0 < size <= LARGEST_VECTOR:
        raise UnsupportedModel(f"expected features of a fixed size in the last axis, got {size}")
    return size


def _unsqueezed(state: Any) -> Any:
    """With an axis for the direction."""
    if isinstance(state, Tensor):
        return state.with_axes([(), *state.axes])
    return Spread(state.array[None]) if isinstance(state, Spread) else state[None]


def _computed(body: Graph, parts: list[Part], environment: Mapping[str, Any]) -> list[Polynomial]:
    """The body's outputs."""
    values: dict[str, Any] = dict(body.constants) | {part.name: whole(part) for part in parts}

    def value(name: str) -> Any:
        if not name:
            return None
        found = values.get(name, environment.get(name))
        if not isinstance(found, (np.ndarray, Polynomial)):
            raise UnsupportedModel(f"expected constants, states and the step's input, got {name!r}")
        return found

    needed, nodes = set(body.outputs), []
    for node in reversed(body.nodes):
        if needed & set(node.outputs):
            needed |= set(node.inputs)
            nodes.append(node)
    for node in reversed(nodes):
        try:
            inputs = [value(name) for name in node.inputs]
            known = not any(isinstance(each, Polynomial) for each in inputs)
            results = folded(node, inputs) if known else operated(node, inputs)
        except UnsupportedModel as error:
            raise UnsupportedModel(f"body: {node.label}: {error}") from None
        values |= zip(node.outputs, results, strict=False)
    results = [value(name) for name in body.outputs]
    if not all(isinstance(result, Polynomial) for result in results):
        raise UnsupportedModel("body: expected outputs that depend on states and input, got constants")
    return results


def _parameters(cell: _Cell, dtype: str) -> list[Array]:
    """W [1, G*H, I], R [1, G*H, H] and B [1, 2*G*H]."""
    w, r, b = (np.concatenate(arrays).astype(dtype) for arrays in zip(*cell.gates, strict=True))
    recurrent_bias = np.zeros_like(b)
    if cell.recurrent_bias is not None:
        recurrent_bias[-len(cell.recurrent_bias) :] = cell.recurrent_bias
    return [w[None], r[None], np.concatenate([b, recurrent_bias])[None]]


def _activations(cell: _Cell) -> dict[str, list[Any]]:
    names, alphas, betas = zip(*cell.functions, strict=True)
    return {
        "activations": list(names),
        "activation_alpha": [number for numbers in alphas for number in numbers],
        "activation_beta": [number for numbers in betas for number in numbers],
    }
