"""Every public function and method, with every kind of wrong value for each argument: TypeError, ValueError or
MemoryError that name the argument, and nothing else.

What there is to call is found by inspection. A new function whose parameters have names that others use already is
tested without an edit here; for a new name this file wants one valid value, and `wrong_values.RIGHT` what is right.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
from checks import Array
from wrong_values import RIGHT, WRONG, B, H, Make, N, T, f32

import recurra
from recurra import functional, graph, training
from recurra.heads import HeadTape


def lstm() -> recurra.LSTM:
    return recurra.LSTM(N, H, seed=0)


def frequency_time() -> recurra.FrequencyTimeLSTM:
    return recurra.FrequencyTimeLSTM(N, H, chunk_size=2, overlap=1, frequency_size=4, seed=0)


def initial_state() -> recurra.InitialState:
    return recurra.InitialState(N, lstm(), seed=0)


def forest() -> recurra.Forest:
    return recurra.Forest([[], [], [0, 1]], tokens=[3, 4, None], labels=[0, 1, 2])


def match_lstm() -> recurra.MatchLSTM:
    return recurra.MatchLSTM(N, H, seed=0)


def rows() -> graph.Graph:
    """Two leaves with inputs and their parent."""
    return graph.Graph([0, 2, 3], before=[[-1, -1, 0], [-1, -1, 1]], source=[0, 1, -1])


def pool_of_two() -> recurra.StreamPool:
    """Streams 0, and 1 with an output and a frame."""
    pool = recurra.StreamPool(chain(), 3)
    pool.add()
    pool.push(pool.add(), f32(2, N))
    pool.step()
    return pool


def chain() -> recurra.Model:
    return recurra.Model([recurra.Conv1d(N, 4, 3, causal=True, seed=0), recurra.GRU(4, H, seed=1)])


def network_params() -> dict[str, Array]:
    return {name: f32(*shape) for name, shape in graph.GraphNetwork.shapes("nary_tree", N, H).items()}


# What can be called


def pooled(pool: Any) -> Any:
    return pool(f32(T, B, N))[1]


def head_tape() -> HeadTape:
    return recurra.Linear(N, H, seed=0).forward(f32(2, N))[1]


# Objects whose methods are tested; the classes of `recurra` that are missing here are made by their constructors.
OBJECTS: dict[str, Make] = {
    "Tape": lambda: lstm().forward(f32(T, B, N))[2],
    "HeadTape": head_tape,
    "Packed": lambda: functional.pack("lstm", lstm().state_dict()),
    "Window": lambda: next(training.tbptt(lstm(), f32(T, B, N), T)),
    "Stream": lambda: lstm().stream(B),
    "StreamPool": lambda: pool_of_two(),
    "FrequencyTimeTape": lambda: frequency_time().forward(f32(T, B, N))[2],
    "FrequencyTimeStream": lambda: frequency_time().stream(B),
    "Forest": forest,
    "TreeTape": lambda: recurra.TreeLSTM(N, H, seed=0).forward(forest(), f32(2, N))[2],
    "MatchTape": lambda: match_lstm().forward(f32(T, B, N), f32(T, B, N))[2],
    "GridTape": lambda: recurra.MultidimensionalLSTM(N, H, directions=1, seed=0).forward(f32(B, 2, T, N))[1],
    "Graph": rows,
    "GraphNetwork": lambda: graph.GraphNetwork("nary_tree", N, H, network_params()),
    "Model": lambda: chain(),
    "ModelStream": lambda: chain().stream(B),
    "ModelTape": lambda: chain().forward(f32(T, B, N))[1],
    "GraphTape": lambda: graph.GraphNetwork("nary_tree", N, H, network_params()).forward(f32(2, N), rows())[1],
}
# Made by the package only, and values that it checks where they are used.
VALUES = {"Generated", "Gradients", "GraphGradients", "ModelGradients", "Regularization", "TreeGradients"}
VALUES |= {"History", "Node", "Value"}
ELSEWHERE = {"fit", "load"}  # with options that let it end; what files may be
NOT_FOR_CALLERS = {"GraphTape", "ModelTape", "Packed", "Tape", "TreeTape", "Window"} | VALUES
# Of two, neither of which must be given, one must.
ALSO_NEEDED = {
    "Tape.backward": "dy",
    "FrequencyTimeTape.backward": "dy",
    "MatchTape.backward": "d_outputs",
    "ModelTape.backward": "dy",
    "TreeTape.backward": "d_h",
    "TreeLSTM.__call__": "x",
    "TreeLSTM.forward": "x",
    "recurra.graph.Graph": "before",
}
# How the package's modules ask each other.
INTERNAL = {
    "Model.save",  # see the tests of files
    "Model.to_c",  # of exported C
    "Model.to_cpp",  # likewise
    "Model.to_onnx",  # likewise
    "Model.to_keras",  # and of Keras
    "Model.to_torch",  # and of PyTorch
    "Packed.at",
    "Packed.run",
    "Packed.forward",
    "Packed.stream",
    "Packed.checked_call",
    "Packed.by_layer",
    "Packed.with_parameters",
    "Packed.state_shapes",
    "Packed.check_state",
    "Packed.empty_state",
}


class Target(NamedTuple):
    """Something to call: its name, what gives it, and the names of its parameters that must be given."""

    name: str
    get: Callable[[], Callable[..., Any]]
    parameters: tuple[str, ...]
    required: tuple[str, ...]


def target(name: str, get: Callable[[], Callable[..., Any]]) -> Target:
    parameters = inspect.signature(get()).parameters.values()
    required = tuple(p.name for p in parameters if p.default is p.empty or ALSO_NEEDED.get(name) == p.name)
    return Target(name, get, tuple(p.name for p in parameters), required)


def methods(name: str, make: Make) -> Iterator[Target]:
    """Public methods, calls, and properties that can be set."""
    cls = type(make())
    own = {n: v for base in cls.__mro__[::-1] if base.__module__.startswith("recurra") for n, v in vars(base).items()}
    for attribute, value in own.items():
        full = f"{name}.{attribute}"
        if (
            full in INTERNAL
            or (attribute in ("result", "__call__") and issubclass(cls, recurra.model.Operation))
            or (attribute.startswith("_") and attribute != "__call__")
        ):
            continue
        if isinstance(value, property):
            if value.fset:
                yield Target(full, partial(setter, make, attribute), (attribute,), (attribute,))
        elif callable(getattr(make(), attribute)) and not only_refuses(getattr(make(), attribute)):
            yield target(full, partial(method, make, attribute))


def only_refuses(function: Callable[..., Any]) -> bool:
    """Whether it takes whatever it is given, as `stream` and `quantize` of layers that have none do, to say so."""
    kinds = {p.kind for p in inspect.signature(function).parameters.values()}
    return kinds == {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


def method(make: Make, attribute: str) -> Any:
    return getattr(make(), attribute)


def setter(make: Make, attribute: str) -> Callable[..., None]:
    return lambda **given: setattr(make(), attribute, given[attribute])


def targets(*modules: Any) -> Iterator[Target]:
    for module in modules:
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value) and name not in NOT_FOR_CALLERS | ELSEWHERE:
                yield target(f"{module.__name__}.{name}", partial(getattr, module, name))
            if inspect.isclass(value) and name not in VALUES:
                yield from methods(name, OBJECTS.get(name) or partial(made, value))


def made(cls: Any) -> Any:
    return cls(**valid(cls.__name__, target("", lambda: cls).required))


def convolved(x: Any, lengths: Any = None, mask: Any = None) -> Any:
    """An operation that takes any number of inputs, of one."""
    return recurra.Conv1d(N, 4, 1, seed=0)(x, lengths=lengths, mask=mask)


# Right values by the parameter's name, and where one function's differ

PARAMS: dict[str, Make] = {
    "layer": lstm,
    "cell": lambda: "lstm",
    "function": lambda: "hard_sigmoid",
    "letter": lambda: "f",
    "packed": lambda: functional.pack("lstm", lstm().state_dict()),
    "params": lambda: lstm().state_dict(),
    "state_dict": lambda: lstm().state_dict(),
    "x": lambda: f32(T, B, N),
    "state": lambda: (f32(1, B, H), f32(1, B, H)),
    "chunk": lambda: f32(T, B, N),
    "device": lambda: "cpu",
    "input_size": lambda: N,
    "hidden_size": lambda: H,
    "in_features": lambda: N,
    "out_features": lambda: H,
    "classes": lambda: 4,
    "num_layers": lambda: 3,
    "maps": lambda: f32(3, B, 1, N),
    "num_embeddings": lambda: 7,
    "embedding_dim": lambda: N,
    "indices": lambda: np.array([1, 2]),
    "precision": lambda: "int8",
    "keep": lambda: [0],
    "n": lambda: 1,
    "dy": lambda: f32(T, B, H),
    "name": lambda: "y",
    "array": lambda: f32(T, B, N),
    "grads": lambda: {"w": f32(3)},
    "max_norm": lambda: 1.0,
    "value": lambda: 1.0,
    "lr": lambda: 0.1,
    "y": lambda: f32(T, B, N),
    "target": lambda: f32(T, B, N),
    "logits": lambda: f32(B, N),
    "targets": lambda: np.array([0, 1]),
    "lengths": lambda: [1, 2],
    "steps": lambda: T,
    "k1": lambda: 2,
    "length": lambda: 2,
    "dpooled": lambda: f32(B, N),
    "chunk_size": lambda: 2,
    "overlap": lambda: 1,
    "frequency_size": lambda: 4,
    "features": lambda: f32(B, N),
    "head": lambda: recurra.Linear(H, 7, seed=0),
    "embedding": lambda: recurra.Embedding(7, N, seed=0),
    "start": lambda: 1,
    "max_length": lambda: 3,
    "children": lambda: [[], [0]],
    "trees": lambda: [(3, 4)],
    "text": lambda: "(not bad)",
    "forests": lambda: [forest(), forest()],
    "forest": forest,
    "premise": lambda: f32(T, B, N),
    "hypothesis": lambda: f32(T, B, N),
    "d_outputs": lambda: f32(T, B, H),
    "d_h": lambda: f32(3, H),
    "fronts": lambda: [0, 1, 2],
    "before": lambda: [[-1, 0]],
    "graph": rows,
    "d_states": lambda: (f32(3, H), None),
    "layers": lambda: [recurra.Linear(N, H, seed=0), "relu"],
    "in_channels": lambda: 4,
    "out_channels": lambda: 8,
    "kernel_size": lambda: 3,
    "mode": lambda: "max",
    "model": chain,
    "capacity": lambda: 2,
    "id": lambda: 0,
    "frames": lambda: f32(N),
    "epochs": lambda: 1,
    "batch_size": lambda: 2,
    "structure": lambda: chain().structure,
    "parameters": lambda: chain().state_dict(),
}


def parameters(kind: Any) -> Make:
    return lambda: kind(N, H, seed=0).state_dict()


PARTICULAR: dict[str, Make] = {
    "recurra.functional.gru params": lambda: recurra.GRU(N, H, seed=0).state_dict(),
    "recurra.functional.rnn params": lambda: recurra.RNN(N, H, seed=0).state_dict(),
    "GRU.load_state_dict state_dict": lambda: recurra.GRU(N, H, seed=0).state_dict(),
    "RNN.load_state_dict state_dict": lambda: recurra.RNN(N, H, seed=0).state_dict(),
    **{
        key: parameters(kind)
        for name, kind in (
            ("multiplicative_lstm", recurra.MultiplicativeLSTM),
            ("differential_rnn", recurra.DifferentialRNN),
            ("slstm", recurra.SLSTM),
            ("indrnn", recurra.IndRNN),
            ("min_gru", recurra.MinGRU),
            ("min_lstm", recurra.MinLSTM),
            ("sru", recurra.SRU),
        )
        for key in (f"recurra.functional.{name} params", f"{kind.__name__}.load_state_dict state_dict")
    },
    "DeepSupervision.loss targets": lambda: np.zeros((B, 1), int),
    "DeepSupervision.load_state_dict state_dict": lambda: recurra.DeepSupervision(N, 4, 3, seed=0).state_dict(),
    "Linear.load_state_dict state_dict": lambda: recurra.Linear(N, H, seed=0).state_dict(),
    "Embedding.load_state_dict state_dict": lambda: recurra.Embedding(7, N, seed=0).state_dict(),
    "FrequencyTimeLSTM.load_state_dict state_dict": lambda: frequency_time().state_dict(),
    "InitialState.load_state_dict state_dict": lambda: initial_state().state_dict(),
    "Stream.step x": lambda: f32(B, N),
    "StreamPool.add state": lambda: chain().stream().state,
    "FrequencyTimeStream.step x": lambda: f32(B, N),
    "recurra.training.SGD params": lambda: {"w": f32(3)},
    "recurra.training.Adam params": lambda: {"w": f32(3)},
    "SGD params": lambda: {"w": f32(3)},
    "Adam params": lambda: {"w": f32(3)},
    "HeadTape.backward dy": lambda: f32(2, H),
    "GridTape.backward dy": lambda: f32(B, 2, T, H),
    "Packed.parameter name": lambda: "weight_ih_l0",
    "recurra.training.windows x": lambda: f32(T, N),
    **{
        f"{kind.__name__}.load_state_dict state_dict": parameters(kind)
        for kind in (
            recurra.GridLSTM,
            recurra.LeafModule,
            recurra.LocalGlobalLSTM,
            recurra.MatchLSTM,
            recurra.MultidimensionalLSTM,
            recurra.TreeLSTM,
        )
    },
    **{
        f"{name}.{method} x": partial(f32, *shape)
        for name, shape in (
            ("GraphNetwork", (2, N)),
            ("GridLSTM", (B, 2, T, N)),
            ("LeafModule", (2, N)),
            ("LocalGlobalLSTM", (B, 3, T, N)),
            ("MultidimensionalLSTM", (B, 2, T, N)),
            ("TreeLSTM", (2, N)),
        )
        for method in ("__call__", "forward")
    },
    "recurra.graph.GraphNetwork cell": lambda: "nary_tree",
    "GraphNetwork.shapes cell": lambda: "nary_tree",
    "recurra.graph.GraphNetwork params": network_params,
    **{
        f"{prefix}{kind.__name__} {parameter}": value
        for kind, parameter, value in (
            (recurra.LayerNorm, "features", lambda: N),
            (recurra.Scale, "features", lambda: N),
            (recurra.Reshape, "features", lambda: (2, 3)),
            (recurra.Select, "indices", lambda: [0, 2]),
        )
        for prefix in ("", "recurra.")
    },
    **{
        f"{type(operation).__name__}.load_state_dict state_dict": operation.state_dict
        for operation in (recurra.Conv1d(4, 8, 3), recurra.Conv2d(4, 8, 3), recurra.LayerNorm(N), recurra.Scale(N))
    },
    **{
        f"{kind.__name__}.load_state_dict state_dict": dict
        for kind in recurra.model.structure.OPERATIONS.values()
        if not kind.has_parameters
    },
    "Model.load_state_dict state_dict": lambda: chain().state_dict(),
    "ModelStream.step x": lambda: f32(B, N),
    **{f"ModelStream.{name} state": lambda: chain().stream(B).state for name in ("state", "reset")},
    "fit y": lambda: f32(T, B, H),
}


# What errors call an argument instead; and arguments that a wrong value may make wrong, being right itself.
CALLED = {"recurra.training.check_finite array": "y", "ModelStream.run chunk": "x"}
DISAGREES = {
    "y": "target",
    "logits": "targets",
    "steps": "lengths",
    "array": "time_axis",
    "fronts": "before",
    "input_size": "params",
    "recurra.functional.differential_rnn diagonal": "params",
    "Graph of children fronts": "children",
    "StreamPool.push id": "frames",
}


Values = Callable[[str], Iterable[str]]  # labels of values, for a parameter
FUNCTIONS = {"loss", "optimiser", "schedule"}  # any one, for what it does with its arguments


def valid(name: str, parameters: tuple[str, ...]) -> dict[str, Any]:
    missing = [p for p in parameters if f"{name} {p}" not in PARTICULAR and p not in PARAMS]
    assert not missing, f"{name}: what is a valid {missing}? PARAMS, please"
    return {p: PARTICULAR.get(f"{name} {p}", PARAMS.get(p, object))() for p in parameters}


def fault(t: Target, parameter: str, label: str, make: Make, right: set[tuple[str, str]]) -> str | None:
    """What is wrong with the answer to one value, if anything."""
    arguments = valid(t.name, t.required) | {parameter: make()}
    call = f"{t.name}({parameter}={label})"
    try:
        result = t.get()(**arguments)
        if inspect.isgenerator(result):
            next(result, None)
    except (TypeError, ValueError, MemoryError) as error:
        key = f"{t.name} {parameter}"
        names = {parameter, CALLED.get(key), DISAGREES.get(key), DISAGREES.get(parameter)} - {None}
        named = parameter in str(error) or any(re.match(rf"{name}[\[: ]", str(error)) for name in names)
        return None if named else f"{call}: {type(error).__name__} names no {parameter}: {error}"
    except Exception as error:
        return f"{call}: {type(error).__name__}: {error}"
    if label not in RIGHT.get(parameter, ()):
        return f"{call}: taken"
    right.add((parameter, label))
    return None


def faults(found: list[Target], right: set[tuple[str, str]], given: Values = lambda parameter: WRONG) -> list[str]:
    """All faults of the values given to each parameter; adds those taken as right."""
    answers = (
        fault(t, parameter, label, WRONG[label], right)
        for t in found
        for parameter in t.parameters
        for label in given(parameter)
        if not (parameter in FUNCTIONS and callable(WRONG[label]()))
    )
    return [answer for answer in answers if answer]


EVERYTHING = [
    *targets(recurra, functional, training, graph),
    *methods("HeadTape", head_tape),
    *methods("FrequencyTimeTape", OBJECTS["FrequencyTimeTape"]),
    *methods("FrequencyTimeStream", OBJECTS["FrequencyTimeStream"]),
    target("last_step backward", lambda: pooled(training.last_step)),
    target("max_over_time backward", lambda: pooled(training.max_over_time)),
    *methods("GridTape", OBJECTS["GridTape"]),
    *methods("MatchTape", OBJECTS["MatchTape"]),
    target("Conv1d.__call__", lambda: convolved),
    target("fit", lambda: partial(training.fit, patience=1, lr=0.0, validation=(f32(T, B, N), f32(T, B, H)))),
    # With options that make others mean something.
    target("Forest.token_indices of words", lambda: partial(forest().token_indices, {3: 0, 4: 1})),
    target("Forest.label_indices of words", lambda: partial(forest().label_indices, {0: 1, 1: 0, 2: 2})),
    target("Graph of children", lambda: partial(graph.Graph, children=([0, 0, 1], [0]))),
    target("TreeLSTM of given leaves", lambda: partial(recurra.TreeLSTM(N, H), leaf_states=(f32(2, H), None))),
    target("GridLSTM of a depth", lambda: partial(recurra.GridLSTM, depth=2)),
    target("GraphNetwork.shapes of a grid", lambda: partial(graph.GraphNetwork.shapes, "grid")),
    target("TreeLSTM of places", lambda: partial(recurra.TreeLSTM, kind="n_ary")),
]


@pytest.mark.parametrize("t", EVERYTHING, ids=[t.name for t in EVERYTHING])
def test_right_values_are_taken_and_wrong_ones_refused_by_name(t: Target, restore_threads: None) -> None:
    t.get()(**valid(t.name, t.required))
    assert not faults([t], set())


def test_no_value_is_called_right_that_none_takes(restore_threads: None) -> None:
    right: set[tuple[str, str]] = set()
    assert not faults(EVERYTHING, right, lambda parameter: RIGHT.get(parameter, ()))
    assert {(parameter, label) for parameter, labels in RIGHT.items() for label in labels} == right


OF_PARAMETERS = [
    t
    for t in EVERYTHING
    if {"params", "state_dict"} & set(t.required) and not re.match(r"(recurra\.training|SGD|Adam)\b", t.name)
]


@pytest.mark.parametrize(
    "label", ["hostile attributes", "hostile detach", "hostile dlpack", "None", "text", "objects", "0-d"]
)
@pytest.mark.parametrize("t", OF_PARAMETERS, ids=[t.name for t in OF_PARAMETERS])
def test_wrong_values_among_the_parameters_are_refused_by_name(t: Target, label: str) -> None:
    arguments = valid(t.name, t.required)
    given = "params" if "params" in arguments else "state_dict"
    for name in arguments[given]:
        wrong = arguments | {given: arguments[given] | {name: WRONG[label]()}}
        with pytest.raises((TypeError, ValueError)) as error:
            t.get()(**wrong)
        assert all(part in str(error.value) for part in name.split("."))


def refusing() -> Iterator[tuple[str, Callable[..., Any]]]:
    """What `methods` leaves out."""
    for name in recurra.__all__:
        value = getattr(recurra, name)
        if inspect.isclass(value) and name not in VALUES:
            made_one = (OBJECTS.get(name) or partial(made, value))()
            for attribute in ("stream", "quantize"):
                if hasattr(made_one, attribute) and only_refuses(getattr(made_one, attribute)):
                    yield f"{name}.{attribute}", getattr(made_one, attribute)


def test_what_a_layer_has_not_says_so() -> None:
    found = dict(refusing())
    layers = ("GridLSTM", "LocalGlobalLSTM", "MatchLSTM", "MultidimensionalLSTM", "TreeLSTM")
    assert set(found) == {f"{layer}.{name}" for layer in layers for name in ("stream", "quantize")}
    for title, function in found.items():
        layer, _, name = title.partition(".")
        for arguments, named in (((), {}), ((1,), {}), (("int8",), {"keep": ()})):
            with pytest.raises(TypeError, match=rf"^{name}: .*{layer}"):
                function(*arguments, **named)


def careless(x: Any, k1: int = 1, dropout: float = 0.0) -> Any:
    """What a new function may get wrong: it takes what it should refuse, and lets errors through that tell nothing."""
    return np.asarray(x) * k1 * math.sqrt(dropout)


def test_a_careless_function_is_caught() -> None:
    with np.errstate(invalid="ignore"):
        found = faults([target("careless", lambda: careless)], set())
    for wanted in (
        r"careless\(x=None\): TypeError names no x",
        r"careless\(x=list of floats\): taken",
        r"careless\(k1=True\): taken",
        r"careless\(k1=nan\): taken",
        r"careless\(dropout=-0.5\): ValueError names no dropout",
        r"careless\(dropout=hostile index\): AngryError",
        r"careless\(dropout=10\*\*400\): OverflowError",
    ):
        assert any(re.match(wanted, line) for line in found), wanted


def test_everything_public_is_called() -> None:
    names = {t.name for t in EVERYTHING}
    assert {"recurra.LSTM", "LSTM.__call__", "Stream.step", "Stream.state", "Adam.lr", "Tape.backward"} <= names
    assert {f"recurra.functional.{n}" for n in functional.__all__ if n not in NOT_FOR_CALLERS} <= names
    assert {f"recurra.training.{n}" for n in training.__all__ if n not in NOT_FOR_CALLERS | ELSEWHERE} <= names
