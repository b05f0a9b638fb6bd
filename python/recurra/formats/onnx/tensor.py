"""What a tensor of an ONNX graph is here: a value of the model, and which of its axes is time, batch and features."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from ..unsupported import UnsupportedModel
from .sizes import Size, divided, product

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...model import Value
    from .sizes import Extent

__all__ = ["Atom", "Axis", "Batch", "Factor", "Misread", "Tensor", "Time", "count", "reshaped"]


class Misread(UnsupportedModel):
    """Axes are not what an operator wants, so perhaps those of an input are not what they were taken for."""


@dataclass(frozen=True, eq=False)
class Atom:
    """One factor of a step's features, larger than 1."""

    size: int


@dataclass(frozen=True)
class Time:
    """Time, of which so many steps are left of the input's T: each pair (n, s) makes (T + n) // s of it."""

    known: int | None
    chain: tuple[tuple[int, int], ...] = ()

    @property
    def size(self) -> Extent:
        """How many steps."""
        if self.known is None:
            return Size.variable(f"T{''.join(f'({n:+})/{s}' for n, s in self.chain)}")
        size = self.known
        for more, stride in self.chain:
            size = (size + more) // stride
        return size

    def windows(self, more: int, stride: int) -> Time:
        """What (T + more) // stride + 1 windows leave of it."""
        more += stride
        chain = self.chain
        if chain and chain[-1][1] == 1:
            more, chain = more + chain[-1][0], chain[:-1]
        return replace(self, chain=chain if (more, stride) == (0, 1) else (*chain, (more, stride)))


@dataclass(frozen=True)
class Batch:
    """The rows of a batch."""

    known: int | None

    @property
    def size(self) -> Extent:
        """How many rows."""
        return Size.variable("B") if self.known is None else self.known


Factor: TypeAlias = Atom | Time | Batch
Axis: TypeAlias = tuple[Factor, ...]


@dataclass(frozen=True)
class Tensor:
    """A view of a model's value.

    Time and batch that are of size 1 in the file stand in no axis: any axis of size 1 may be theirs.

    Attributes:
        source: name of the value.
        value: its kind.
        order: the factors of its flattened features, outermost first.
        axes: factors of each axis of the ONNX tensor, outermost first; none where its size is 1.
        time: the steps of the value; None if it has none. Where an axis has Time all the same, each step has the same.
    """

    source: str
    value: Value
    order: tuple[Atom, ...]
    axes: tuple[Axis, ...]
    time: Time | None = None

    @property
    def shape(self) -> tuple[Extent, ...]:
        """The size of each axis."""
        return tuple(product(factor.size for factor in axis) for axis in self.axes)

    @property
    def rank(self) -> int:
        """How many axes there are."""
        return len(self.axes)

    def has(self, kind: type) -> bool:
        """Whether Time, or Batch, stands in an axis."""
        return any(isinstance(factor, kind) for axis in self.axes for factor in axis)

    def atoms(self, axis: int) -> tuple[Atom, ...]:
        """The features of an axis, which has nothing else."""
        factors = self.axes[axis]
        if any(not isinstance(factor, Atom) for factor in factors):
            raise Misread(f"expected features in axis {axis}, got {self.shown(axis)}")
        return factors  # type: ignore[return-value]

    def is_features(self, axis: int) -> bool:
        """Whether an axis has features alone, or is of size 1."""
        return all(isinstance(factor, Atom) for factor in self.axes[axis])

    def is_time(self, axis: int) -> bool:
        """Whether an axis is time, and has more than one step."""
        return len(self.axes[axis]) == 1 and isinstance(self.axes[axis][0], Time)

    def may_be(self, kind: type, axis: int) -> bool:
        """Whether an axis is Time, or Batch, or of size 1 where that is too."""
        factors = self.axes[axis]
        return not self.has(kind) if not factors else len(factors) == 1 and isinstance(factors[0], kind)

    def shown(self, axis: int) -> str:
        """What an axis is, for errors."""
        names = [
            "time" if isinstance(f, Time) else "batch" if isinstance(f, Batch) else "features" for f in self.axes[axis]
        ]
        return " by ".join(names) or "size 1"

    def with_axes(self, axes: list[Axis]) -> Tensor:
        """The same under other axes."""
        return replace(self, axes=tuple(axes))


def count(factors: Iterable[Factor]) -> int:
    """How many features these are, among which neither time nor batch is."""
    return math.prod(int(factor.size) for factor in factors)


def reshaped(tensor: Tensor, target: list[Extent]) -> Tensor:
    """Under a shape of which one size may be -1."""
    unknown = [i for i, size in enumerate(target) if not isinstance(size, Size) and size == -1]
    if len(unknown) > 1 or any(not isinstance(size, Size) and size < -1 for size in target):
        raise UnsupportedModel(f"expected sizes of which at most one is -1, got {target}")
    left = [factor for axis in tensor.axes for factor in axis]
    splits: dict[Atom, tuple[Atom, Atom]] = {}
    cut = unknown[0] if unknown else len(target)
    front = [_taken(left, size, splits, False) for size in target[:cut]]
    back = [_taken(left, size, splits, True) for size in reversed(target[cut + 1 :])][::-1]
    if left and not unknown:
        raise UnsupportedModel(f"expected a shape of as many numbers as {list(tensor.shape)}, got {target}")
    order: list[Atom] = list(tensor.order)
    for atom, parts in splits.items():
        order[order.index(atom) : order.index(atom) + 1] = parts
    return replace(tensor, order=tuple(order), axes=(*front, *([tuple(left)] if unknown else []), *back))


def _taken(left: list[Factor], size: Extent, splits: dict[Atom, tuple[Atom, Atom]], last: bool) -> Axis:
    """Factors from one end of `left` whose product is `size`; one of features is split for it if need be."""
    taken: list[Factor] = []
    rest = size
    while isinstance(rest, Size) or rest != 1:
        end = -1 if last else 0
        factor = left[end] if left else None
        quotient = None if factor is None else divided(rest, factor.size)
        if factor is not None and quotient is not None:
            taken.append(left.pop(end))
            rest = quotient
        elif isinstance(factor, Atom) and isinstance(rest, int) and rest > 1 and factor.size % rest == 0:
            sizes = (factor.size // rest, rest) if last else (rest, factor.size // rest)
            parts = (Atom(sizes[0]), Atom(sizes[1]))
            splits[factor] = parts
            taken.append(parts[end])
            left[end] = parts[0] if last else parts[1]
            rest = 1
        else:
            raise Misread(f"expected a shape that keeps time and batch whole, got an axis of size {size}")
    return tuple(reversed(taken) if last else taken)
