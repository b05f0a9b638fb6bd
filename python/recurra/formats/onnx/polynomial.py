"""Vectors of polynomials: what a graph computes, as sums of products that are the same however it was written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..unsupported import UnsupportedModel
from .folding import checked_axis, integers, sliced, split_sizes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..._arrays import Array
    from .graph import Node

__all__ = ["LARGEST_VECTOR", "Key", "Part", "Polynomial", "chosen", "operated", "summed", "whole"]

_LARGEST_SUM, _LARGEST_PRODUCT, LARGEST_VECTOR = 32, 3, 1 << 16  # more than any cell has


@dataclass(frozen=True, eq=False)
class Part:
    """A vector that polynomials are made of: an input of the body, `matrix` times `of`, or `function` of `of`.

    Attributes:
        function: its name and its numbers alpha and beta.
    """

    name: str
    size: int
    of: Polynomial | None = None
    matrix: Array | None = None
    function: tuple[str, tuple[float, ...], tuple[float, ...]] | None = None


Key: TypeAlias = tuple[tuple[Part, tuple[int, ...]], ...]  # factors, each with its elements, -1 where there is none


@dataclass(frozen=True, eq=False)
class Polynomial:
    """A vector of sums of products: for each product of factors a number for each element, for none the constant."""

    size: int
    terms: dict[Key, Array] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Polynomial)
            and self.terms.keys() == other.terms.keys()
            and all(np.array_equal(other.terms[key], numbers) for key, numbers in self.terms.items())
        )

    def __str__(self) -> str:
        def product(key: Key, numbers: Array) -> str:
            same = "" if key and (numbers == 1).all() else f"{numbers.flat[0]:g}"
            return " * ".join([*([same] if same else []), *(part.name for part, _ in key)])

        return " + ".join(product(*term) for term in self.terms.items()) or "0"


def summed(size: int, terms: Iterable[tuple[Key, Array]]) -> Polynomial:
    total: dict[Key, Array] = {}
    for key, numbers in terms:
        there = numbers != 0
        if not there.all():
            key = tuple((p, tuple(np.where(there, elements, -1).tolist())) for p, elements in key)
        key = tuple(sorted(key, key=lambda factor: (id(factor[0]), factor[1])))
        total[key] = total[key] + numbers if key in total else numbers
    total = {key: numbers for key, numbers in total.items() if numbers.any()}
    if len(total) > _LARGEST_SUM or any(len(key) > _LARGEST_PRODUCT for key in total) or size > LARGEST_VECTOR:
        raise UnsupportedModel("larger than any cell")
    return Polynomial(size, total)


def whole(part: Part) -> Polynomial:
    return Polynomial(part.size, {((part, tuple(range(part.size))),): np.ones(part.size)})


def chosen(p: Polynomial, rows: Array) -> Polynomial:
    """Some elements."""

    def picked(elements: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(np.array(elements)[rows].tolist())

    terms = ((tuple((q, picked(e)) for q, e in key), n[rows]) for key, n in p.terms.items())
    return summed(len(rows), terms)


def _concatenated(parts: list[Polynomial]) -> Polynomial:
    size, start, terms = sum(p.size for p in parts), 0, []
    for p in parts:
        ends = (start, size - start - p.size)
        for key, numbers in p.terms.items():
            wide = tuple((q, (-1,) * ends[0] + elements + (-1,) * ends[1]) for q, elements in key)
            terms.append((wide, np.pad(numbers, ends)))
        start += p.size
    return summed(size, terms)


def _plus(a: Polynomial, b: Polynomial, sign: float = 1.0) -> Polynomial:
    return summed(a.size, [*a.terms.items(), *((key, sign * numbers) for key, numbers in b.terms.items())])


def _times(a: Polynomial, b: Polynomial) -> Polynomial:
    return summed(a.size, [(k + l, m * n) for k, m in a.terms.items() for l, n in b.terms.items()])  # noqa: E741


# Activations with the defaults of their alpha and beta.
_FUNCTIONS: dict[str, dict[str, float]] = {
    "Sigmoid": {},
    "Tanh": {},
    "Relu": {},
    "Softsign": {},
    "Softplus": {},
    "LeakyRelu": {"alpha": 0.01},
    "ThresholdedRelu": {"alpha": 1.0},
    "Elu": {"alpha": 1.0},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
}


def operated(node: Node, inputs: list[Any]) -> list[Polynomial]:
    """What a node of the body makes of polynomials and constants. All have the axes batch and features."""
    op, x, name = node.op, inputs[0], node.outputs[0]
    if op in _FUNCTIONS:
        numbers = {key: float(node.get(key, default)) for key, default in _FUNCTIONS[op].items()}
        alpha, beta = (tuple(v for key, v in numbers.items() if key == which) for which in ("alpha", "beta"))
        return [whole(Part(name, x.size, x, function=(op, alpha, beta)))]
    if op in ("Identity", "Cast") and (op == "Identity" or node.get("to") in (1, 10, 11, 16)):
        return [x]
    if op in ("MatMul", "Gemm"):
        return [_product(node, inputs)]
    if op == "Neg":
        return [_plus(Polynomial(x.size), x, -1.0)]
    if op in ("Add", "Sub", "Mul", "Div", "Sum"):
        size = max(p.size if isinstance(p, Polynomial) else _constant(p).size for p in inputs)
        if op == "Div":
            if isinstance(inputs[1], Polynomial) or not np.all(inputs[1]):
                raise UnsupportedModel("expected a constant other than 0 as divisor")
            inputs = [x, 1 / np.asarray(inputs[1], np.float64)]
        result, *rest = [_sized(each, size) for each in inputs]
        for p in rest:
            result = _times(result, p) if op in ("Mul", "Div") else _plus(result, p, -1.0 if op == "Sub" else 1.0)
        return [result]
    if op == "Concat" and all(isinstance(p, Polynomial) for p in inputs):
        _require_features(node.get("axis", 0))
        return [_concatenated(inputs)]
    if op in ("Split", "Slice", "Gather") and isinstance(x, Polynomial):
        return [chosen(x, rows) for rows in _places(node, inputs, x.size)]
    raise UnsupportedModel("operator is not supported in the body of a Scan")


def _places(node: Node, inputs: list[Any], size: int) -> list[Array]:
    """Which elements each output has."""
    rows = np.arange(size)
    if node.op == "Split":
        _require_features(node.get("axis", 0))
        return np.split(rows, np.cumsum(split_sizes(node, inputs, size))[:-1])
    if node.op == "Gather":
        _require_features(node.get("axis", 0))
        if np.ndim(inputs[1]) != 1:
            raise UnsupportedModel("indices: expected a list")
        return [rows[integers(inputs[1], "indices")]]
    for axis, start, end, step in sliced(node, inputs, (None, size)):
        _require_features(axis)
        start, end = int(start), int(end)
        rows = rows[slice(start, None if step < 0 and end < -size else end, step)]
    return [rows]


def _require_features(axis: int) -> None:
    if checked_axis(axis, 2) != 1:
        raise UnsupportedModel("axis: expected that of features, 1, got 0")


def _constant(constant: Any) -> Array:
    """A constant that is the same for all rows of a batch."""
    array = np.asarray(constant)
    if array.dtype.kind != "f" or not np.isfinite(array).all() or array.size not in (*array.shape[-1:], 1):
        raise UnsupportedModel(f"expected finite numbers for each feature, got {array.dtype} {array.shape}")
    if array.ndim > 2 or array.size == 0:
        raise UnsupportedModel(f"expected constants of at most two axes, got {array.shape}")
    return array.astype(np.float64).reshape(-1)


def _sized(value: Any, size: int) -> Polynomial:
    if not isinstance(value, Polynomial):
        return summed(size, [((), np.broadcast_to(_constant(value), size))])
    if value.size != size:
        raise UnsupportedModel(f"expected {size} features as the other operand has, got {value.size}")
    return value


def _product(node: Node, inputs: list[Any]) -> Polynomial:
    x, matrix = inputs[:2]
    if not isinstance(x, Polynomial) or isinstance(matrix, Polynomial) or node.get("transA", 0):
        raise UnsupportedModel("expected rows of a batch times a constant matrix")
    if matrix.ndim != 2 or matrix.dtype.kind != "f" or not np.isfinite(matrix).all() or 0 in matrix.shape:
        raise UnsupportedModel(f"expected a matrix of finite numbers, got {matrix.dtype} {matrix.shape}")
    if not (node.op == "Gemm" and node.get("transB", 0)):
        matrix = matrix.T
    if matrix.shape[1] != x.size:
        raise UnsupportedModel(f"expected a matrix for {x.size} features, got {matrix.shape[1]}")
    scale = float(node.get("alpha", 1.0)) if node.op == "Gemm" else 1.0
    product = whole(Part(node.outputs[0], len(matrix), x, scale * matrix.astype(np.float64)))
    if node.op == "MatMul" or len(inputs) < 3 or inputs[2] is None:
        return product
    factor = _sized(np.array(node.get("beta", 1.0), np.float64), product.size)
    return _plus(product, _times(factor, _sized(inputs[2], product.size)))
