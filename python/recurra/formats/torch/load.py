"""A `recurra.Model` of a module of PyTorch."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import PackedSequence

from ...recurrent import Recurrent
from ..unsupported import UnsupportedModel
from . import arithmetic, layers, moves, recurrent  # noqa: F401  (they register what they handle)
from .layout import MOST_INPUTS, Layout, batch_first, holes, layouts, layouts_of
from .script import interpret
from .tensor import FUNCTIONS, Found, Lengths, Mismatch, Recording, Traced, leaves, recorded
from .view import Misread, Refusal, View

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ...model import Model

__all__ = ["Followed", "follow"]

_WIDEST, _TRIES = 1024, 500


@dataclass
class Followed:
    """A module that has been followed.

    Attributes:
        model: what does the same.
        layouts: of the module's inputs.
        sizes: of their features, by name and letter.
        results: views of the module's results that the model's outputs are, by where they stand.
        states: inputs of the module that start a recurrent node, to the node's name.
        recording: all that was seen on the way.
    """

    model: Model
    layouts: dict[str, Layout]
    sizes: dict[tuple[str, str], int]
    results: dict[tuple[Any, ...], View]
    states: dict[str, str]
    recording: Recording


def follow(module: torch.nn.Module, example: tuple[Any, ...] | None) -> Followed:
    """Run the module's own forward with tensors that record, under every meaning that its inputs may have."""
    names = _inputs(module, example)
    if example is None and len(names) > MOST_INPUTS:
        raise UnsupportedModel(f"torch: {type(module).__name__}: has {len(names)} inputs; give example=")
    choices: list[Sequence[Layout]] = []
    for place, name in enumerate(names):
        fitting = layouts(not place) if example is None else layouts_of(example[place], not place)
        if not fitting:
            raise ValueError(f"example: expected a tensor that {name!r} may be, got {example and example[place]}")
        choices.append(fitting)
    failed: list[dict[str, Layout]] = []
    best: tuple[tuple[int, bool, int], UnsupportedModel] | None = None
    with evaluated(module):
        for chosen in _combinations(list(zip(names, choices, strict=True)), {}, failed):
            if len(failed) == _TRIES:
                assert best is not None
                why = f"no meaning of {', '.join(names)} fits so far, for example: {best[1]}; give example="
                raise UnsupportedModel(f"torch: {type(module).__name__}: {why}")
            try:
                return _sized(module, chosen, example)
            except _Failed as failure:
                failed.append({name: chosen[name] for name in failure.used if name in chosen})
                if best is None or failure.reached > best[0]:
                    best = failure.reached, failure.error
    assert best is not None
    raise best[1]


def _combinations(
    inputs: Sequence[tuple[str, Sequence[Layout]]], chosen: dict[str, Layout], failed: list[dict[str, Layout]]
) -> Iterator[dict[str, Layout]]:
    """What the inputs may mean, together with what is chosen, but for what holds a combination that has failed, of
    which there may be more by then: nothing is put together that its first inputs rule out."""
    if any(bad.items() <= chosen.items() for bad in failed):
        return
    if not inputs:
        yield chosen
        return
    (name, meanings), *others = inputs
    for meaning in meanings:
        yield from _combinations(others, chosen | {name: meaning}, failed)


class Open(UnsupportedModel):
    """Everything fits, and a size is missing."""


class _Failed(Exception):  # noqa: N818
    """Inputs that were used until then cannot all mean what they were taken for."""

    def __init__(self, recording: Recording, error: UnsupportedModel) -> None:
        super().__init__(str(error))
        self.used, self.error = set(recording.used), error
        misread = isinstance(error.__cause__, Misread)
        self.reached = len(recording.graph.nodes), not misread, recording.calls


def _inputs(module: torch.nn.Module, example: tuple[Any, ...] | None) -> list[str]:
    """Names of the inputs: those of forward that have no default, or as many as there are in the example."""
    if isinstance(module, torch.jit.ScriptModule):
        if not hasattr(module, "forward"):  # overloaded, as that of a layer alone
            raise UnsupportedModel(
                f"torch: {module.original_name}: has several forwards; script a module that holds it"
            )
        arguments = [(each.name, each.has_default_value()) for each in module.forward.schema.arguments[1:]]  # type: ignore[attr-defined,unused-ignore]
    else:
        parameters = inspect.signature(module.forward).parameters.values()
        by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        arguments = [(each.name, each.default is not each.empty) for each in parameters if each.kind in by_place]
    found = [name for name, default in arguments if not default]
    if example is not None:
        if not len(found) <= len(example) <= max(len(arguments), len(found)):
            raise ValueError(f"example: expected {len(found)} to {len(arguments)} inputs, got {len(example)}")
        found = [name for name, _ in arguments[: len(example)]]
    if not found:
        raise UnsupportedModel(f"torch: {type(module).__name__}: forward names no input; wrap it in a module that does")
    if len(set(found)) < len(found):  # in a damaged script
        raise UnsupportedModel(f"torch: {type(module).__name__}: forward has two inputs of one name")
    return [name.replace(".", "_") for name in found]


@contextmanager
def evaluated(module: torch.nn.Module) -> Iterator[None]:
    """While this lasts it is in evaluation, and no gradients are recorded."""
    modes = [(each, each.training) for each in module.modules() if hasattr(each, "training")]  # a damaged script's
    for each, _ in modes:
        each.training = False  # what eval() does, which modules of torch.export lack
    try:
        with torch.no_grad():
            yield
    finally:
        for each, mode in modes:
            each.training = mode


def _sized(module: torch.nn.Module, chosen: dict[str, Layout], example: tuple[Any, ...] | None) -> Followed:
    """With sizes of features as the module itself says them."""
    sizes: dict[tuple[str, str], int] = {}
    if example is not None:
        for (name, layout), each in zip(chosen.items(), example, strict=True):
            sizes |= layout.example_sizes(name, each)
    for _ in range(16):
        try:
            return _followed(module, chosen, sizes)
        except Found as found:
            if found.name in sizes:
                break
            sizes[found.name] = found.size
        except _Failed as failure:
            width = next(
                ((n, c) for n, each in chosen.items() for c in each.axes if c in "FW" and (n, c) not in sizes), None
            )
            if width is None or not isinstance(failure.error.__cause__, Mismatch):
                raise
            return _of_width(module, chosen, sizes, width, failure)
    recording = Recording({}, torch.float32)
    recording.used = set(chosen)
    raise _Failed(recording, UnsupportedModel("torch: an input's features would have two sizes"))


def _of_width(
    module: torch.nn.Module,
    chosen: dict[str, Layout],
    sizes: dict[tuple[str, str], int],
    name: tuple[str, str],
    last: Any,
) -> Followed:
    """With the only width of an input that fits what the module does to it."""
    found, said = None, set()
    for width in (_WIDEST, _WIDEST // 2 + 1):
        try:
            _followed(module, chosen, {**sizes, name: width})
        except _Failed as failure:
            said.add(str(failure.error))
    if said == {str(last.error)}:  # whatever it is that does not fit, it is not the width
        raise last
    for width in range(1, _WIDEST + 1):
        try:
            followed = _followed(module, chosen, {**sizes, name: width})
        except _Failed:
            if found is not None:
                break
            continue
        if found is not None:
            raise UnsupportedModel(
                f"torch: input {name[0]!r}: widths of {found.sizes[name]} and {width} both fit; give example="
            )
        found = followed
    if found is None:
        raise last
    return found


def _followed(module: torch.nn.Module, chosen: dict[str, Layout], sizes: Mapping[tuple[str, str], int]) -> Followed:
    """With these sizes; those that are missing are left open."""
    open_sizes = {hole: name for hole, name in holes(chosen).items() if name not in sizes}
    recording = Recording(open_sizes, _dtype(module))
    known = {name: hole for hole, name in open_sizes.items()} | dict(sizes)
    try:
        given = [layout.made(recording, name, known) for name, layout in chosen.items()]
        for name, each in zip(chosen, given, strict=True):
            recording.given |= {id(one): name for one in (each if isinstance(each, tuple) else (each,))}
        recording.used |= {name for name, each in zip(chosen, given, strict=True) if isinstance(each, tuple)}  # unseen
        if isinstance(module, torch.jit.ScriptModule):
            result = interpret(recording, module, given)
        else:
            with recorded(recording, module):
                result = module(*given)
        return _finished(recording, chosen, dict(sizes), result)
    except (Found, Open):
        raise
    except UnsupportedModel as error:
        raise _Failed(recording, error) from None
    except Exception as error:  # whatever the module raises for an input it cannot take
        graph = recording.graph
        where = f"node {graph.place!r}, " if graph.place else ""
        said = str(error) if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"
        unsupported = UnsupportedModel(f"torch: {where}{graph.operation or type(module).__name__}: {said}")
        unsupported.__cause__ = error
        raise _Failed(recording, unsupported) from error


def _finished(
    recording: Recording, chosen: dict[str, Layout], sizes: dict[tuple[str, str], int], result: Any
) -> Followed:
    graph = recording.graph
    graph.place, graph.operation = "", "result"
    results: dict[tuple[Any, ...], View] = {}
    for path, each in leaves(result):
        if isinstance(each, PackedSequence):
            each = FUNCTIONS["_pad_packed_sequence"](recording, each.data, each.batch_sizes, False, 0.0, None)[0]
        if isinstance(each, Traced):
            if not isinstance(each, Lengths):
                results[path] = each.seen
        elif isinstance(each, torch.Tensor):
            raise Refusal("is a constant")
    results = {path: view for i, (path, view) in enumerate(results.items()) if not i or not _is_state(recording, view)}
    if not results:
        raise Refusal("holds no tensor that depends on the inputs")
    names = {path: graph.shaped(graph.plain(view), _features(view)) for path, view in results.items()}
    for (path, name), view in zip(names.items(), results.values(), strict=True):
        if any(
            not all(isinstance(a, str) for a in axis) and not view.is_features(i) for i, axis in enumerate(view.axes)
        ):
            raise Refusal(f"has features and batch or time in one axis, at {list(path)}")
        if (view.steps is not None) != graph.values[name].time:
            raise Refusal(f"repeats one value for each row over time, at {list(path)}")
    results = {path: view.with_value(names[path]) for path, view in results.items()}
    states = _state_inputs(recording, chosen)
    inputs = {each: graph.values[each] for name, layout in chosen.items() for each in layout.names(name)}
    inputs = {name: value for name, value in inputs.items() if name not in states}
    dtype = str(recording.dtype).removeprefix("torch.")
    model = graph.model(inputs, list(dict.fromkeys(names.values())), dtype, batch_first(chosen))
    for name, letter in recording.holes.values():
        if any(each in model.inputs for each in chosen[name].names(name)):
            raise Open(f"torch: nothing says how many features ({letter}) input {name!r} has; give example=")
    return Followed(model, chosen, sizes, results, states, recording)


def _features(view: View) -> tuple[int, ...]:
    """The shape of a step, as the tensor has it."""
    sizes = tuple(int(view.size(axis)) for axis in range(len(view.axes)) if view.axes[axis] and view.is_features(axis))
    return sizes if len(sizes) == 2 else (view.features,)


def _is_state(recording: Recording, view: View) -> bool:
    """Whether it is what `return_state` gives: all of a recurrent node's final state, or the output of a cell."""
    if view.order.ravel().tolist() != list(range(recording.graph.values[view.value].size)):
        return False
    node, is_state, _ = view.value.partition(":")
    batch = ("B",) in view.axes
    return node in recording.stepped or (bool(is_state) and len(view.axes) == 2 + batch)


def _state_inputs(recording: Recording, chosen: dict[str, Layout]) -> dict[str, str]:
    """Inputs that do nothing but start one recurrent node, to that node: it starts from `state=` instead."""
    graph = recording.graph
    inputs = {each for n, layout in chosen.items() if layout.kind == "state" for each in layout.names(n)}
    found: dict[str, str] = {}
    for name, node in list(graph.nodes.items()):
        is_recurrent = isinstance(node.layer, type) and issubclass(node.layer, Recurrent)
        starts = node.inputs[1:] if is_recurrent else ()
        alone = all(sum(other.inputs.count(each) for other in graph.nodes.values()) == 1 for each in starts)
        if starts and alone and set(starts) <= inputs:
            found |= dict.fromkeys(starts, name)
            graph.without_inputs(name)
    return found


def _dtype(module: torch.nn.Module) -> torch.dtype:
    """Of all its parameters."""
    dtypes = {each.dtype for each in (*module.parameters(), *module.buffers()) if each.is_floating_point()}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        raise UnsupportedModel(
            f"torch: {type(module).__name__}: expected float32 or float64, got {sorted(map(str, dtypes))}"
        )
    return dtypes.pop() if dtypes else torch.float32
