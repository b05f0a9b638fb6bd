"""Where the values of a model lie in a step of exported code."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ..model import Model
    from .source import Source

__all__ = ["Nodes", "Place"]


class Place(NamedTuple):
    """Where a value lies in a step.

    Attributes:
        at: a pointer to its first number.
        size: how many there are.
        spare: no other node needs them any more once one has read them, and they are no one else's.
    """

    at: str
    size: int
    spare: bool = False

    def item(self, index: str) -> str:
        """Its number `index`."""
        return f"({self.at})[{index}]" if "+" in self.at else f"{self.at}[{index}]"

    def plus(self, numbers: str | int) -> str:
        """A pointer to a later one."""
        return f"{self.at} + {numbers}" if numbers else self.at

    def copied(self, to: str) -> str:
        """A statement that copies it."""
        return f"memcpy({to}, {self.at}, {self.size} * sizeof(float));"


class Nodes:
    """The nodes that are there so far."""

    def __init__(self, source: Source, model: Model, inputs: dict[str, Place], outputs: dict[str, str]) -> None:
        self.source, self.model, self.outputs = source, model, outputs
        self.places = dict(inputs)
        self.readers = Counter(name for node in model._nodes for name in node.inputs)

    def wants(self, name: str) -> bool:
        """Whether a node or the caller reads it."""
        return name in self.outputs or self.readers[name] > 0

    def result(self, node: Any, over: Place | None = None) -> Place:
        """Where the node's value goes: to the caller, over what it reads, or to memory of its own."""
        size, spare = node.value.size, self.readers[node.name] == 1
        if node.name in self.outputs:
            return Place(self.outputs[node.name], size)
        if over and over.spare and over.size == size:
            return Place(over.at, size, spare)
        name = self.source.name(node.name, "out")
        self.source.steps.append(f"float {name}[{size}];")
        return Place(name, size, spare)

    def each(self, to: Place, value: str) -> Place:
        """A loop that makes each number of a result, of an expression in i."""
        self.source.steps.append(f"for (int i = 0; i < {to.size}; ++i) {to.at}[i] = {value};")
        return to

    def array(self, node: Any, parameter: str, *, flat: bool = True) -> str:
        """A parameter as a constant array, or 0 where the layer has none."""
        values = node.layer.state_dict().get(parameter)
        if values is None:
            return "0"
        rows = values.reshape(len(values), -1) if values.ndim > 1 else values
        name: str = self.source.once(
            (id(node.layer), parameter), lambda: self.source.array(rows, node.name, parameter, flat=flat)
        )
        return name
