"""Which axis of a tensor is batch, time or features, through everything that only moves them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..._arrays import Array

__all__ = ["BATCH", "STEPS", "Misread", "Refusal", "Size", "View"]

# Stand for the sizes of batch and time while a module is followed: prime, so that a product says what it is made of.
BATCH, STEPS = 211, 1009

Atoms = tuple["str | int", ...]


class Refusal(Exception):  # noqa: N818  (what it is, not that it is an error)
    """What cannot be followed; whoever knows the node makes an `UnsupportedModel` of it."""


class Misread(Refusal):
    """An axis is not what a layer reads it as: more likely than other refusals, another meaning of the inputs fits."""


class Size(int):
    """A size of batch or time, or one computed from them. The module must not decide anything by it."""

    def _compared(self, other: Any, how: str) -> bool:
        if int(self) == other:  # both come from the same size
            return how in ("==", "<=", ">=")
        raise Refusal(f"the module compares the size of its batch or time ({how}), and may do something else by it")

    def __eq__(self, other: object) -> bool:
        return self._compared(other, "==")

    def __ne__(self, other: object) -> bool:
        return not self._compared(other, "==")

    def __lt__(self, other: int) -> bool:
        return self._compared(other, "<")

    def __le__(self, other: int) -> bool:
        return self._compared(other, "<=")

    def __gt__(self, other: int) -> bool:
        return self._compared(other, ">")

    def __ge__(self, other: int) -> bool:
        return self._compared(other, ">=")

    def __bool__(self) -> bool:
        return self._compared(0, "== 0")

    def __hash__(self) -> int:
        return hash(int(self))


def _size_operator(name: str) -> Any:
    plain = getattr(int, name)

    def apply(self: Size, other: Any) -> Any:
        result = plain(int(self), int(other) if isinstance(other, int) else other)
        return Size(result) if isinstance(result, int) else result

    return apply


def _refused(self: Size, *others: Any) -> Any:
    raise Refusal("the module computes with the size of its batch or time")


for _name in ("truediv", "rtruediv", "pow", "rpow", "float"):
    setattr(Size, f"__{_name}__", _refused)
for _name in ("add", "sub", "mul", "floordiv", "mod"):
    setattr(Size, f"__{_name}__", _size_operator(f"__{_name}__"))
    setattr(Size, f"__r{_name}__", _size_operator(f"__r{_name}__"))
Size.__neg__ = lambda self: Size(-int(self))  # type: ignore[method-assign]


@dataclass(frozen=True)
class View:
    """A tensor of a module as seen from a value of the model.

    Attributes:
        value: name of the value, whose features are numbered row-major.
        axes: for each axis of the tensor what it runs over, outermost first: "B", "T", numbers for sizes of features;
            nothing for a size of 1.
        order: numbers of features, as many along each axis as its features make.
        steps: of the time axis; None without time. A value of one step may do without the axis.
        pad: steps of zeros before and after those of the value, that only a convolution can take; negative where steps
            are cut off.
    """

    value: str
    axes: tuple[Atoms, ...]
    order: Array
    steps: int | None
    pad: tuple[int, int] = (0, 0)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return tuple(self.size(axis) for axis in range(len(self.axes)))

    def size(self, axis: int) -> int:
        """Of one axis."""
        atoms = self.axes[axis]
        found = math.prod(map(self._atom_size, atoms))
        return Size(found) if any(isinstance(atom, str) for atom in atoms) else found

    def _atom_size(self, atom: str | int) -> int:
        return BATCH if atom == "B" else self.steps or 1 if atom == "T" else int(atom)

    @property
    def features(self) -> int:
        """How many there are in each step."""
        return int(self.order.size)

    @property
    def time_axis(self) -> int | None:
        """The axis that is time and nothing else."""
        return self.axes.index(("T",)) if ("T",) in self.axes else None

    def axis(self, number: Any) -> int:
        """An axis counted from the front."""
        if not isinstance(number, int) or not -len(self.axes) <= number < len(self.axes):
            raise Refusal(f"expected an axis of {len(self.axes)}, got {number}")
        return int(number) % len(self.axes)

    def is_features(self, axis: int) -> bool:
        """Whether an axis holds features only, or is of size 1."""
        return not any(isinstance(atom, str) for atom in self.axes[axis])

    def permute(self, axes: Sequence[int]) -> View:
        """As numpy.transpose."""
        axes = [self.axis(axis) for axis in axes]
        if sorted(axes) != list(range(len(self.axes))):
            raise Refusal(f"expected all axes, got {list(axes)}")
        return replace(self, axes=tuple(self.axes[axis] for axis in axes), order=self.order.transpose(axes))

    def unsqueeze(self, axis: int) -> View:
        """With an axis of size 1 before `axis`."""
        axis = axis if axis >= 0 else axis + len(self.axes) + 1
        axes = (*self.axes[:axis], (), *self.axes[axis:])
        return replace(self, axes=axes, order=np.expand_dims(self.order, axis))

    def squeeze(self, axes: Sequence[int] | None) -> View:
        """Without these axes of size 1, or without all."""
        chosen = range(len(self.axes)) if axes is None else [self.axis(axis) for axis in axes]
        gone = tuple(axis for axis in chosen if not self.axes[axis])
        kept = tuple(atoms for axis, atoms in enumerate(self.axes) if axis not in gone)
        return replace(self, axes=kept, order=self.order.squeeze(gone))

    def reshape(self, sizes: Sequence[int]) -> View:
        """As torch.Tensor.reshape, where no batch or time is cut into pieces."""
        sizes = [int(size) for size in sizes]
        if -1 in sizes:
            known = -math.prod(sizes)
            total = math.prod(map(int, self.shape))
            if known <= 0 or total % known:
                raise Refusal(f"cannot see {list(self.shape)} as {sizes}")
            sizes[sizes.index(-1)] = total // known
        left: list[str | int] = [atom for atoms in self.axes for atom in atoms]
        axes: list[Atoms] = []
        for size in sizes:
            taken: list[str | int] = []
            while size > 1:
                atom = left.pop(0) if left else 1
                length = self._atom_size(atom)
                if atom == 1:
                    raise Refusal(f"cannot see {list(self.shape)} as {sizes}")
                if size % length == 0:
                    taken.append(atom)
                    size //= length
                elif length % size == 0 and not isinstance(atom, str):
                    taken.append(size)
                    left.insert(0, length // size)
                    size = 1
                else:
                    raise Refusal(f"cuts batch or time in pieces: {list(self.shape)} as {sizes}")
            axes.append(tuple(taken))
        if left:
            raise Refusal(f"cannot see {list(self.shape)} as {sizes}")
        counts = [math.prod(int(atom) for atom in atoms if not isinstance(atom, str)) for atoms in axes]
        return replace(self, axes=tuple(axes), order=self.order.reshape(counts))

    def expand(self, sizes: Sequence[int]) -> View:
        """As torch.Tensor.expand."""
        sizes = [int(size) for size in sizes]
        view = self
        while len(view.axes) < len(sizes):
            view = view.unsqueeze(0)
        axes, counts = list(view.axes), list(view.order.shape)
        for axis, size in enumerate(sizes):
            if size in (-1, int(view.size(axis))):
                continue
            if axes[axis]:
                raise Refusal(f"cannot expand {list(view.shape)} to {sizes}")
            if size == BATCH:
                raise Refusal("makes a batch of one row")
            if size == STEPS or (view.steps is not None and size == view.steps):
                return view._with_time(axis, size).expand(sizes)
            axes[axis], counts[axis] = ((size,) if size > 1 else ()), size
        return replace(view, axes=tuple(axes), order=np.broadcast_to(view.order, counts))

    def _with_time(self, axis: int, steps: int) -> View:
        """The same value at every step."""
        if self.steps is not None:
            raise Refusal("repeats a sequence over time")
        axes = (*self.axes[:axis], ("T",), *self.axes[axis + 1 :])
        return replace(self, axes=axes, steps=steps)

    def take(self, axis: int, index: Any) -> View:
        """Some features along an axis; an integer drops the axis."""
        try:
            order = self.order[(slice(None),) * axis + (index,)]
        except IndexError as error:
            raise Refusal(str(error)) from None
        axes = list(self.axes)
        if order.ndim < self.order.ndim:
            del axes[axis]
        else:
            axes[axis] = (order.shape[axis],) if order.shape[axis] != 1 else ()
        return replace(self, axes=tuple(axes), order=order)

    def with_value(self, value: str, axes: tuple[Atoms, ...] | None = None, order: Array | None = None) -> View:
        """The same axes over a value whose features are numbered as they come."""
        axes = self.axes if axes is None else axes
        if order is None:
            counts = [math.prod(int(atom) for atom in atoms if not isinstance(atom, str)) for atoms in axes]
            order = np.arange(math.prod(counts)).reshape(counts)
        return replace(self, value=value, axes=axes, order=order, pad=(0, 0))
