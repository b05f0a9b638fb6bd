"""What the axes of a module's inputs are: tried one after another, until the whole module makes sense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ...model import Value
from .tensor import Lengths, Recording, Traced
from .view import STEPS, View

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MOST_INPUTS", "Layout", "batch_first", "holes", "layouts", "layouts_of"]

# Stand for sizes that are not known yet; prime, and unlike any that a module has.
HOLES = {
    "F": (10007, 10009, 10037, 10039, 10079, 10091, 10093, 10099),
    "C": (227, 229, 233, 239, 241, 251, 257, 263),
    "W": (1013, 1019, 1021, 1031, 1033, 1039, 1049, 1051),
    "S": (307, 311, 313, 317, 331, 337, 347, 349),
    "H": (10061, 10067, 10069, 10103, 10111, 10133, 10139, 10141),
}
MOST_INPUTS = len(HOLES["F"])


class Layout(NamedTuple):
    """What an input is.

    Attributes:
        axes: a letter for each axis: B, T, and any others for features.
        kind: "real", "integer", "lengths", "state", or "constant": no tensor at all.
        one_step: whether it is one step of a sequence, without an axis for time.
        parts: how many such tensors there are, in a tuple; 0 for one that is in none.
        value: of a constant.
    """

    axes: str
    kind: str = "real"
    one_step: bool = False
    parts: int = 0
    value: Any = None

    @classmethod
    def constant(cls, value: Any) -> Layout:
        """Of an argument that stays as it is in the example."""
        return cls("", "constant", value=value)

    @property
    def time(self) -> bool:
        """Whether the model's input is a sequence."""
        return "T" in self.axes or self.one_step

    def names(self, name: str) -> list[str]:
        """Of the model's inputs that it stands for."""
        if self.kind == "constant":
            return []
        return [f"{name}_{i}" for i in range(self.parts)] if self.parts else [name]

    def letters(self) -> str:
        """Of features."""
        return "".join(letter for letter in self.axes if letter not in "BT")

    def made(self, recording: Recording, name: str, sizes: Mapping[tuple[str, str], int]) -> Any:
        """The tensor, or tuple of tensors, that the module gets; the model's inputs go to the recording."""
        if self.kind == "constant":
            return self.value
        found = [self._one(recording, each, name, sizes) for each in self.names(name)]
        return tuple(found) if self.parts else found[0]

    def _one(self, recording: Recording, name: str, title: str, sizes: Mapping[tuple[str, str], int]) -> Any:
        features = tuple(sizes[(title, letter)] for letter in self.letters())
        counts = [sizes[(title, letter)] if letter not in "BT" else 1 for letter in self.axes]
        axes = tuple(
            (letter,) if letter in "BT" else (size,) if size > 1 else ()
            for letter, size in zip(self.axes, counts, strict=True)
        )
        order = np.arange(int(np.prod(counts))).reshape(counts)
        integer = self.kind in ("integer", "lengths")
        shape = features if len(features) < 2 or self.kind != "state" else (features[0] * features[1],)
        recording.graph.values[name] = Value(shape or (() if integer else (1,)), self.time, integer)
        steps = STEPS if "T" in self.axes else 1 if self.one_step else None
        view = View(name, axes, order, steps)
        return recording.tensor(view, Lengths if self.kind == "lengths" else Traced)

    def fits(self, example: Any) -> bool:
        """Whether an example may be such an input."""
        if isinstance(example, (tuple, list)) or self.parts:
            alike = isinstance(example, (tuple, list)) and len(example) == self.parts
            return alike and all(self._replaced().fits(each) for each in example)
        integer = not (example.is_floating_point() or example.is_complex())
        return example.dim() == len(self.axes) and integer == (self.kind in ("integer", "lengths"))

    def _replaced(self) -> Layout:
        return self._replace(parts=0)

    def example_sizes(self, name: str, example: Any) -> dict[tuple[str, str], int]:
        """Sizes of features that an example has."""
        if self.kind == "constant":
            return {}
        one = example[0] if self.parts else example
        return {
            (name, letter): int(size) for letter, size in zip(self.axes, one.shape, strict=True) if letter not in "BT"
        }


_SEQUENCES = (
    Layout("BTF"),
    Layout("TBF"),
    Layout("BFT"),
    Layout("BCTW"),
    Layout("BCWT"),
    Layout("BTCW"),
    Layout("TBCW"),
    Layout("BF", one_step=True),
    Layout("BT", "integer"),
    Layout("TB", "integer"),
    Layout("B", "integer", one_step=True),
    Layout("BF"),
    Layout("BT"),
    Layout("TB"),
)
_ONE_ROW = (Layout("TF"), Layout("T", "integer"))  # too easily taken for a batch
_LENGTHS = Layout("B", "lengths")
_STATES = (
    Layout("SBH", "state"),
    Layout("SBH", "state", parts=2),
    Layout("BH", "state"),
    Layout("BH", "state", parts=2),
)


def layouts(first: bool) -> tuple[Layout, ...]:
    """Those to try for the first input of a module, or for another."""
    return _SEQUENCES if first else (_LENGTHS, *_STATES, *_SEQUENCES)


def layouts_of(example: Any, first: bool) -> list[Layout]:
    """Those that an example may be of."""
    parts = example if isinstance(example, (tuple, list)) else (example,)
    if not parts or not all(isinstance(part, torch.Tensor) for part in parts):
        return [Layout.constant(example)]
    every = (*_SEQUENCES, *_ONE_ROW, *_STATES) if first else (*layouts(False), *_ONE_ROW)
    return [each for each in every if each.fits(example)]


def holes(chosen: Mapping[str, Layout]) -> dict[int, tuple[str, str]]:
    """What stands for every size of features that is not known."""
    return {
        HOLES[letter][place % MOST_INPUTS]: (name, letter)
        for place, (name, layout) in enumerate(chosen.items())
        for letter in layout.letters()
    }


def batch_first(chosen: Mapping[str, Layout]) -> bool:
    """Of the model: as the first sequence has it."""
    for layout in chosen.values():
        if layout.time and layout.kind in ("real", "integer"):
            return "B" in layout.axes and ("T" not in layout.axes or layout.axes.index("B") < layout.axes.index("T"))
    return False
