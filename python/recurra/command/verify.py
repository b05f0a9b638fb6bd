"""``recurra verify FILE``: outputs beside those of the runtime the model came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from recurra.model import Model, Node

from . import arguments
from .originals import original_of
from .table import show

if TYPE_CHECKING:
    from pathlib import Path

    from recurra._arrays import Array

    from .originals import Case, Original

__all__ = ["run"]


def run(path: Path, against: Path | None, *, steps: int, batch: int, seed: int, tolerance: float) -> int:
    """Print each output's error; returns 1 if one is too large, and names the first node that differs."""
    original = original_of(against or path)
    model = arguments.load(path) if against else original.model
    about = original.case(steps, batch, np.random.default_rng(seed))
    expected = original.run(about.feed)
    made = original.outputs(*called(model, about))
    rows, right = [], True
    for name, value, wanted in zip(original.names, made, expected, strict=True):
        error, alike = difference(value, wanted), value.shape == wanted.shape
        right = right and alike and error <= tolerance
        shapes = str(list(value.shape)) if alike else f"{list(value.shape)}, not {list(wanted.shape)}"
        rows.append([name, shapes, f"{float(np.abs(wanted).max(initial=0)):.3g}", f"{error:.1e}"])
    show(["output", "shape", "largest", "largest error"], rows, left=2, title=f"{path} beside {original.title}")
    if not right:
        print(f"they differ by more than {tolerance:g}; first {first_different(original, model, about, tolerance)}")
    return 0 if right else 1


def called(model: Model, about: Case) -> tuple[dict[str, Array], dict[str, Any]]:
    """The model's outputs by name, and its final states."""
    output, state = model(about.x, about.state, return_state=True)
    return (output if isinstance(output, dict) else {model.outputs[0]: output}), state


def difference(value: Array, wanted: Array) -> float:
    """The largest of any number; infinite where only one of two is NaN, or shapes differ."""
    if value.shape != wanted.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):
        apart = np.abs(value.astype(np.float64) - wanted)
    apart[(value == wanted) | (np.isnan(value) & np.isnan(wanted))] = 0
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0))


def first_different(original: Original, model: Model, about: Case, tolerance: float) -> str:
    """Which node's values are not those of the runtime's node of the same name, in whatever order it holds them."""
    theirs = original.inner(about.feed)
    names = [name for name in model.layers if name in theirs]
    if not names:
        return "node unknown: none has the name of one in the file"
    nodes = [Node(node.layer, node.inputs, node.name) for node in model._nodes]
    whole = Model(nodes, inputs=model.inputs, outputs=names, batch_first=model.batch_first)
    ours, _ = called(whole, about)
    for name in names:
        value, wanted = np.sort(ours[name], axis=None), np.sort(theirs[name], axis=None)
        if value.shape == wanted.shape and difference(value, wanted) > tolerance:
            return f"in node {name!r}"
    return f"after node {names[-1]!r}, the last of those that have the name of one in the file"
