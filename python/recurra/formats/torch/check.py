"""Whether a model does what the module does that it was made of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from ...model import Model
from ..unsupported import UnsupportedModel
from .load import Followed, evaluated
from .tensor import leaves

if TYPE_CHECKING:
    from .view import View

__all__ = ["check"]

_BOUND = 1e-4
_ROWS = 3


def check(module: torch.nn.Module, followed: Followed) -> None:
    """Run both on the same random numbers, twice, for sequences of different lengths.

    Raises:
        UnsupportedModel: they differ; the text says where first.
    """
    for steps in (23, 64):
        given, lengths, found = _results(module, followed, steps)
        for path, error in errors(followed, given, lengths, found).items():
            if error > _BOUND:
                where = _first(module, followed, given, lengths)
                raise UnsupportedModel(
                    f"torch: the result at {list(path)} differs by {error:.3g} from the module's{where}"
                )


def _results(module: torch.nn.Module, followed: Followed, steps: int) -> tuple[list[Any], Any, Any]:
    """Random inputs of so many steps, or of more if the module needs them; lengths; and what the module returns."""
    for longer in (1, 8, 64):
        given, lengths = _arguments(followed, steps * longer)
        try:
            with evaluated(module):
                return given, lengths, module(*given)
        except RuntimeError:
            if longer == 64:
                raise
    raise AssertionError


def errors(followed: Followed, given: list[Any], lengths: Any, found: Any) -> dict[tuple[Any, ...], float]:
    """How far each of the module's results is from the model's, in parts of its largest number."""
    outputs, by_path = _run(followed.model, followed, given, lengths), dict(leaves(found))
    return {
        path: _error(_as_value(by_path[path], view), outputs[view.value], followed.model, lengths)
        for path, view in followed.results.items()
    }


def _arguments(followed: Followed, steps: int) -> tuple[list[Any], Any]:
    """Random inputs of the module, and lengths if it takes any."""
    random = torch.Generator().manual_seed(7)
    lengths = torch.tensor([steps, steps // 2 + 1, max(1, steps // 5)])
    given: list[Any] = []
    ragged = None
    for name, layout in followed.layouts.items():
        rows = len(lengths) if "B" in layout.axes else 1
        shape = [{"B": rows, "T": steps}.get(c) or followed.sizes.get((name, c), 1) for c in layout.axes]
        if layout.kind == "constant":
            given.append(layout.value)
        elif layout.kind == "lengths":
            if not followed.recording.packed:
                lengths = torch.full_like(lengths, steps)
            given.append(lengths)
            ragged = lengths if followed.recording.packed else None
        elif layout.kind == "integer":
            given.append(torch.randint(0, _vocabulary(followed, name), shape, generator=random))
        else:
            made = [
                torch.randn(shape, generator=random, dtype=followed.recording.dtype)
                for _ in range(max(1, layout.parts))
            ]
            given.append(tuple(made) if layout.parts else made[0])
    return given, ragged


def _vocabulary(followed: Followed, name: str) -> int:
    """How many integers an input may hold."""
    model = followed.model
    sizes = [
        model.layers[node.name].num_embeddings
        for node in model._nodes
        if name in node.inputs and hasattr(node.layer, "num_embeddings")
    ]
    return min(sizes, default=2)


def _run(model: Model, followed: Followed, given: list[Any], lengths: Any) -> dict[str, Any]:
    """Outputs of the model by name, [B, T, ...] with batch_first, for the module's inputs."""
    inputs: dict[str, Any] = {}
    state: dict[str, list[Any]] = {}
    for (name, layout), each in zip(followed.layouts.items(), given, strict=True):
        for one, title in zip(each if layout.parts else [each], layout.names(name), strict=layout.kind != "constant"):
            array = one.numpy()
            if title in followed.states:
                state.setdefault(followed.states[title], []).append(array if array.ndim == 3 else array[None])
            elif title in model.inputs:
                value = model.inputs[title]
                letters = layout.axes.replace("B", "").replace("T", "")
                wanted = ("BT" if model.batch_first else "TB") + letters if value.time else "B" + letters
                for letter in wanted[: 2 if value.time else 1]:
                    if letter not in layout.axes:
                        array, layout = array[..., None], layout._replace(axes=layout.axes + letter)
                array = array.transpose([layout.axes.index(letter) for letter in wanted])
                leading = array.shape[: 2 if value.time else 1]
                inputs[title] = np.ascontiguousarray(array.reshape(*leading, *value.features))
    states = {name: parts[0] if len(parts) == 1 else tuple(parts) for name, parts in state.items()}
    lengths = None if lengths is None else lengths.numpy()
    y = model(inputs, states or None, lengths=lengths)
    return y if isinstance(y, dict) else {model.outputs[0]: y}


def _as_value(tensor: Any, view: View) -> Any:
    """A result of the module as the model has it: [T, B, features], or [B, features]."""
    if isinstance(tensor, PackedSequence):
        tensor = pad_packed_sequence(tensor)[0]
    array = tensor.detach().numpy()
    atoms = [atom for axis in view.axes for atom in axis]
    sizes, rest = [], list(array.shape)
    for axis, size in zip(view.axes, rest, strict=True):
        known = math.prod(atom for atom in axis if not isinstance(atom, str))
        letters = [atom for atom in axis if isinstance(atom, str)]
        left = size // known
        for atom in axis:
            if not isinstance(atom, str):
                sizes.append(atom)
            elif len(letters) == 1:
                sizes.append(left)
            else:
                sizes.append(_ROWS if atom == "B" else left // _ROWS)
    array = array.reshape(sizes)
    for letter in ("B", "T"):
        if letter not in atoms and (letter == "B" or view.steps is not None):
            array, atoms = array[..., None], [*atoms, letter]
    first = [atoms.index("T")] if view.steps is not None else []
    first.append(atoms.index("B"))
    array = array.transpose([*first, *(i for i in range(len(atoms)) if i not in first)])
    return array.reshape(*array.shape[: len(first)], -1)


def _error(theirs: Any, ours: Any, model: Model, lengths: Any) -> float:
    """The largest difference where both have something to say, in parts of the largest number."""
    ours = np.asarray(ours)
    if theirs.ndim == 3:
        ours = ours.swapaxes(0, 1) if model.batch_first else ours
        ours = ours.reshape(*ours.shape[:2], -1)
        steps = min(len(theirs), len(ours))
        if lengths is None and len(theirs) != len(ours):
            return math.inf
        theirs, ours = theirs[:steps], ours[:steps]
        if lengths is not None:
            valid = np.arange(steps)[:, None] < np.asarray(model.output_lengths(lengths.numpy()))
            theirs, ours = theirs * valid[..., None], ours * valid[..., None]
    else:
        ours = ours.reshape(len(ours), -1)
    if theirs.shape != ours.shape:
        return math.inf
    difference = np.abs(theirs - ours).max(initial=0)
    return float(difference / max(1.0, np.abs(theirs).max(initial=0))) if np.isfinite(difference) else math.inf


def _first(module: torch.nn.Module, followed: Followed, given: list[Any], lengths: Any) -> str:
    """The first submodule whose result differs."""
    if isinstance(module, torch.jit.ScriptModule):
        return ""
    model, hooks = followed.model, []
    results: dict[str, dict[tuple[Any, ...], Any]] = {}

    def keep(name: str, result: Any) -> None:  # before anything changes it in place
        results[name] = {path: each.clone() for path, each in leaves(result) if isinstance(each, torch.Tensor)}

    for name, each in module.named_modules():
        hooks.append(each.register_forward_hook(lambda m, i, result, name=name: keep(name, result)))
    try:
        with evaluated(module):
            module(*given)
    finally:
        for hook in hooks:
            hook.remove()
    timed = [node.name for node in model._nodes]
    everything = Model.from_structure({**model.structure, "outputs": timed}, model.state_dict())
    outputs = _run(everything, followed, given, lengths)
    for name, views in followed.recording.seen.items():
        for path, view in views.items():
            if view.value in outputs and path in results.get(name, {}):
                wanted, got = _as_value(results[name][path], view), np.asarray(outputs[view.value])
                picked = got.reshape(*got.shape[: wanted.ndim - 1], -1)[..., view.order.ravel()]
                if _error(wanted, picked, model, lengths) > _BOUND:
                    return f"; first in {name or 'its forward'} ({type(module.get_submodule(name)).__name__})"
    return "; its submodules agree, so what its forward does between them differs"
