"""From an ONNX graph to a model.

A file does not say which axis of an input is time and which is batch. So the graph is read under one assumption after
another, the likeliest first, until everything in it makes sense: a recurrent operator wants time, batch, features, a
convolution batch, channels and so on. Whatever is accepted computes the same numbers, since each operator is checked
for what it does along each axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._options import integer, shown
from ...model import Value
from ..unsupported import UnsupportedModel
from .builder import LARGEST_STEP, Builder, plain_name
from .finish import finished
from .folding import FOLDS, folded
from .graph import Graph, GraphInput, Node, read
from .operators import OPERATORS
from .patterns import with_layer_norms
from .recurrent import recurrent
from .scan import scanned
from .shapes import SHAPES
from .tensor import Atom, Axis, Batch, Misread, Tensor, Time
from .windows import WINDOWS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ..._arrays import Array, Input
    from ...model import Model
    from .finish import Imported
    from .graph import Source

__all__ = ["load_onnx", "read_onnx"]

HANDLERS: dict[str, Any] = {**SHAPES, **OPERATORS, **WINDOWS, **dict.fromkeys(("RNN", "GRU", "LSTM"), recurrent)}

_ATTEMPTS = 400
_HIDDEN, _NONE = -1, -2  # time or batch of size 1, which is in no axis; no time


def load_onnx(
    source: Source,
    *,
    constants: Mapping[str, Input] | None = None,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
) -> Model:
    """The model in an ONNX file.

        >>> proto = recurra.Model([recurra.GRU(12, 64), recurra.Linear(64, 12)]).to_onnx("denoiser.onnx")
        >>> stream = recurra.formats.onnx.load_onnx("denoiser.onnx").stream()
        >>> stream.step(np.zeros(12, "float32")).shape
        (12,)

    Graph inputs that are initial states become the model's `state=`, and sequence_lens its `lengths=`; graph outputs
    that are final states become what `return_state=True` returns, where there are other outputs. `read_onnx` says
    which belong together.

    Args:
        source: a path, the file's bytes, or an onnx.ModelProto.
        constants: values that inputs of the graph always have, by name; the model has no such inputs.
        shapes: of inputs of the graph, by name, where sizes that the file leaves open are known; None for those that
            stay open. Only an axis of known size may be features.

    Raises:
        UnsupportedModel: the file is damaged, or something in it cannot be represented: names node, operator and
            attribute.
        ImportError: the package onnx is not installed.
        OSError: the file cannot be read.
    """
    return read_onnx(source, constants=constants, shapes=shapes).model


def read_onnx(
    source: Source,
    *,
    constants: Mapping[str, Input] | None = None,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
) -> Imported:
    """As `load_onnx`, with what belongs together: inputs, outputs and states of the file and of the model.

    >>> proto = recurra.Model([recurra.GRU(12, 64)]).to_onnx()
    >>> list(recurra.formats.onnx.read_onnx(proto).model.layers)
    ['recurrent0']
    """
    graph = read(source)
    names = [each.name for each in graph.inputs]
    for argument, mapping in (("constants", constants), ("shapes", shapes)):
        if not isinstance(mapping, (Mapping, type(None))):
            raise TypeError(f"{argument}: expected a mapping by names of inputs, got {shown(mapping)}")
        if unknown := [name for name in mapping or {} if name not in names]:
            raise ValueError(f"{argument}: expected names of inputs {names}, got {shown(unknown[0])}")
    given = {name: np.asarray(array) for name, array in (constants or {}).items()}
    sizes = shapes or {}
    inputs = [_sized(each, sizes.get(each.name)) for each in graph.inputs if each.name not in given]
    try:
        return _imported(graph, inputs, given)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"ONNX: {error}") from error.__cause__
    except RecursionError:
        raise UnsupportedModel("ONNX: a graph that is nested too deep") from None
    except Exception as error:  # what attributes of any kind make of the code around the operators
        raise UnsupportedModel(f"ONNX: a damaged model: {type(error).__name__}: {error}") from error


def _sized(given: GraphInput, shape: Sequence[int | None] | None) -> GraphInput:
    """The input with sizes that a caller knows."""
    if shape is None:
        return given
    what = f"shapes of {given.name!r}"
    if not isinstance(shape, (tuple, list)) or len(shape) != len(given.dims):
        raise ValueError(f"{what}: expected {len(given.dims)} sizes, got {shown(shape)}")
    sizes = [None if size is None else integer(what, size) for size in shape]
    for size, dim in zip(sizes, given.dims, strict=True):
        if size is not None and isinstance(dim, int) and dim != size:
            raise ValueError(f"{what}: expected {dim} as the file has it, got {size}")
    return replace(given, dims=[d if size is None else size for size, d in zip(sizes, given.dims, strict=True)])


def _imported(graph: Graph, inputs: list[GraphInput], given: dict[str, Array]) -> Imported:
    environment: dict[str, Any] = {name: _checked(name, array) for name, array in (graph.constants | given).items()}
    nodes = with_layer_norms(_needed(graph.nodes, graph.outputs), environment)
    used = {name for node in nodes for name in _names(node)} | set(graph.outputs)
    inputs = [each for each in inputs if each.name in used]
    if not inputs:
        raise UnsupportedModel("expected outputs that depend on inputs, got constants alone")
    double = any(each.double for each in inputs)
    _fold(nodes, environment)
    states = _state_inputs(nodes)
    first = next((each for each in inputs if each.name not in states), None)
    choices = [list(_choices(each, each is first, each.name in states)) for each in inputs]
    failure: tuple[tuple[int, bool], UnsupportedModel] | None = None
    impossible: list[dict[str, tuple[int, int]]] = []
    for attempts, chosen in enumerate(_combinations([each.name for each in inputs], choices, impossible)):
        if attempts >= _ATTEMPTS:
            break
        attempt = _Attempt(inputs, chosen, environment, "float64" if double else "float32")
        try:
            attempt.run(nodes)
            return finished(attempt.builder, graph.outputs, attempt.environment, attempt.tensors, chosen)
        except UnsupportedModel as error:
            reached = (attempt.done, not isinstance(error, Misread))
            if failure is None or reached > failure[0]:
                failure = (reached, error)
            impossible.append({name: chosen[name] for name in attempt.blamed})
    if failure is None:
        raise UnsupportedModel("expected inputs of which each axis of open size may be time or batch")
    raise failure[1]


def _checked(name: str, array: Array) -> Array:
    if array.dtype.kind not in "fiubOSU" or array.dtype.itemsize == 0:
        raise UnsupportedModel(f"constant {name!r} has numbers of an unknown kind, {array.dtype}")
    return array


def _needed(nodes: list[Node], outputs: list[str]) -> list[Node]:
    """Those that outputs depend on."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed & set(node.outputs):
            needed |= _names(node)
            kept.append(node)
    return kept[::-1]


def _names(node: Node) -> set[str]:
    """What a node and its subgraphs take."""
    names = {name for name in node.inputs if name}
    for attribute in node.attributes.values():
        if isinstance(attribute, Graph):
            names |= {name for inner in attribute.nodes for name in _names(inner)} | set(attribute.outputs)
    return names


def _fold(nodes: list[Node], environment: dict[str, Any]) -> None:
    """Compute once what depends on constants alone."""
    for node in nodes:
        inputs = [environment.get(name) if name else None for name in node.inputs]
        known = all(not name or name in environment for name in node.inputs)
        if node.op in FOLDS and known and all(name not in environment for name in node.outputs):
            with _located(node):
                environment.update(zip(node.outputs, folded(node, inputs), strict=False))


class _located:  # noqa: N801  (used as a function)
    """Says in errors which node they concern."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, UnsupportedModel) and not str(error).startswith("node "):
            raise type(error)(f"{self.node.label}: {error}") from None
        if isinstance(error, Exception) and not isinstance(error, (UnsupportedModel, RecursionError)):
            # A damaged file has attributes and constants of any kind and shape.
            raise UnsupportedModel(f"{self.node.label}: cannot be read: {type(error).__name__}: {error}") from error


class _Attempt:
    """The graph read under one assumption on the axes of its inputs."""

    def __init__(
        self, inputs: list[GraphInput], chosen: dict[str, tuple[int, int]], environment: dict[str, Any], dtype: str
    ) -> None:
        self.tensors = {each.name: _input_tensor(each, *chosen[each.name]) for each in inputs}
        self.builder = Builder({name: tensor.value for name, tensor in self.tensors.items()}, dtype)
        self.builder.times = list(dict.fromkeys(t.time for t in self.tensors.values() if t.time is not None))
        self.environment = environment | self.tensors
        self.roots: dict[str, frozenset[str]] = {name: frozenset([name]) for name in self.tensors}
        self.done = 0
        self.blamed = frozenset(chosen)

    def run(self, nodes: list[Node]) -> None:
        """Make the nodes' outputs."""
        for node in nodes:
            if all(name in self.environment for name in node.outputs if name):
                continue
            roots = frozenset().union(*(self.roots.get(name, frozenset()) for name in _names(node)))
            self.builder.label = node.label
            self.builder.hint = plain_name(node.name, node.op)
            try:
                with _located(node):
                    results = self._results(node)
            except UnsupportedModel:
                self.blamed = roots or self.blamed
                raise
            self.environment.update(zip(node.outputs, results, strict=False))
            self.roots |= dict.fromkeys(node.outputs, roots)
            self.done += 1
        self.blamed = frozenset(self.tensors)

    def _results(self, node: Node) -> list[Any]:
        for name in node.inputs:
            if name and name not in self.environment:
                raise UnsupportedModel(f"input {name!r} comes from nowhere")
        inputs = [self.environment[name] if name else None for name in node.inputs]
        if node.op == "If":
            return self._branch(node, inputs[0])
        if node.op == "Scan":
            return scanned(self.builder, node, inputs, self.environment)
        if any(isinstance(each, Tensor) for each in inputs):
            if node.op not in HANDLERS:
                raise UnsupportedModel("operator is not supported")
            results: list[Any] = HANDLERS[node.op](self.builder, node, inputs)
            return results
        return folded(node, inputs)

    def _branch(self, node: Node, condition: Any) -> list[Any]:
        """The outputs of the branch that is taken, which a constant must say."""
        if not isinstance(condition, np.ndarray) or condition.size != 1:
            raise UnsupportedModel("cond: expected a constant, got what depends on a call")
        branch = node.get("then_branch" if condition.item() else "else_branch")
        if not isinstance(branch, Graph):
            raise UnsupportedModel("then_branch: expected a graph")
        inner = {name for inside in branch.nodes for name in inside.outputs if name} | set(branch.constants)
        if repeated := inner & set(self.environment):
            raise UnsupportedModel(f"then_branch: defines {min(repeated)!r} again")
        self.environment |= branch.constants
        self.run(with_layer_norms(_needed(branch.nodes, branch.outputs), branch.constants))
        return [self.environment[name] for name in branch.outputs]


def _input_tensor(given: GraphInput, time: int, batch: int) -> Tensor:
    """An input with time and batch in these axes."""
    axes: list[Axis] = []
    order: list[Atom] = []
    sizes = []
    own_time = (
        None if time == _NONE else Time(1 if time == _HIDDEN or given.dims[time] == 1 else _known(given.dims[time]))
    )
    for axis, dim in enumerate(given.dims):
        if axis in (time, batch):
            factor: Any = own_time if axis == time else Batch(_known(dim))
            axes.append(() if dim == 1 else (factor,))
        else:
            size = int(dim)  # type: ignore[arg-type]
            sizes.append(size)
            axes.append((Atom(size),) if size > 1 else ())
            order += axes[-1]  # type: ignore[arg-type]
    if given.integer:
        features: tuple[int, ...] = ()
    else:
        features = tuple(sizes) if len(sizes) in (1, 2) else (int(np.prod(sizes, dtype=np.int64)),)
    value = Value(features, own_time is not None, given.integer)
    return Tensor(given.name, value, tuple(order), tuple(axes), own_time)


def _known(dim: int | str | None) -> int | None:
    return dim if isinstance(dim, int) else None


_TIME_NAMES = ("time", "seq", "len", "step", "frame", "sample")
_BATCH_NAMES = ("batch", "bs")


_MOVING = ("Identity", "Cast", "Slice", "Split", "Gather", "Squeeze", "Unsqueeze", "Transpose", "Reshape", "Concat")


def _state_inputs(nodes: list[Node], wanted: Iterable[str] = ()) -> set[str]:
    """Names that `wanted` ones and initial states of recurrent operators are made of by moving alone, inputs of the
    graph among them."""
    names = set(wanted)
    for node in reversed(nodes):
        if node.op in ("RNN", "GRU", "LSTM"):
            names |= {node.input(5), node.input(6)}
        elif node.op == "Scan":
            names |= set(node.inputs[:-1])
        elif node.op in _MOVING and names & set(node.outputs):
            names |= set(node.inputs if node.op == "Concat" else node.inputs[:1])
        for branch in node.attributes.values():
            if isinstance(branch, Graph):
                results = zip(branch.outputs, node.outputs, strict=False)
                names |= _state_inputs(branch.nodes, [inner for inner, outer in results if outer in names])
    return names


def _choices(given: GraphInput, first: bool, state: bool) -> Iterator[tuple[int, int]]:
    """(time, batch), the axes that they may be, the likeliest first; a state has no time."""
    rank = len(given.dims)
    ranked = []
    for time, batch in itertools.product([*range(rank), _HIDDEN, _NONE], [*range(rank), _HIDDEN]):
        if time == batch and time != _HIDDEN:
            continue
        rest = [dim for axis, dim in enumerate(given.dims) if axis not in (time, batch)]
        sizes = [dim for dim in rest if isinstance(dim, int)]
        if len(sizes) < len(rest) or math.prod(sizes) > LARGEST_STEP:
            continue
        if given.integer and any(dim != 1 for dim in rest):
            continue
        score = _unlikely(given, time, batch, first)
        if state:
            score += 100 * (time != _NONE) + 10 * (batch != rank - 2)
        ranked.append((score, time, batch))
    return iter([(time, batch) for _, time, batch in sorted(ranked)])


def _unlikely(given: GraphInput, time: int, batch: int, first: bool) -> float:
    """How unlikely that time and batch are in these axes."""
    score = 0.0
    if time >= 0:
        name = str(given.dims[time]).lower()
        score += time * 0.5 - (10 if any(each in name for each in _TIME_NAMES) or name == "t" else 0)
        score += 10 if any(each in name for each in _BATCH_NAMES) or name in ("b", "n") else 0
        score += 2 if given.dims[time] == 1 else 0
        score += 4 if not first and isinstance(given.dims[time], int) else 0
    else:
        score += (3 if time == _HIDDEN else 4) if first else (4 if time == _HIDDEN else 3)
    if batch >= 0:
        name = str(given.dims[batch]).lower()
        score += batch * 0.6 - (10 if any(each in name for each in _BATCH_NAMES) or name in ("b", "n") else 0)
        score += 10 if any(each in name for each in _TIME_NAMES) or name == "t" else 0
    else:
        score += 2.5
    return score


def _combinations(
    names: list[str], choices: list[list[tuple[int, int]]], impossible: list[dict[str, tuple[int, int]]]
) -> Iterator[dict[str, tuple[int, int]]]:
    """One choice for each input, but for those that contain what turned out impossible."""

    def extended(chosen: dict[str, tuple[int, int]]) -> Iterator[dict[str, tuple[int, int]]]:
        if any(all(chosen.get(name) == choice for name, choice in each.items()) for each in impossible):
            return
        if len(chosen) == len(names):
            yield chosen
            return
        for choice in choices[len(chosen)]:
            yield from extended({**chosen, names[len(chosen)]: choice})

    return extended({})
