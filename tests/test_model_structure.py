"""What models and their operations refuse when they are made, and that a structure makes the same model again."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from checks import assert_same_bits

import recurra
from recurra import Model, Node, Value

FLAT, STILL, IMAGE, WHOLE = Value((6,)), Value((6,), False), Value((2, 3)), Value((), integer=True)

OPERATIONS: list[tuple[Callable[[], Any], str]] = [
    (lambda: recurra.Conv1d(4, 6, 3, groups=3), "groups: expected a divisor of 4 and 6, got 3"),
    (lambda: recurra.Conv1d(4, 6, 3, padding=1, causal=True), "padding: expected 0 with causal=True, got 1"),
    (lambda: recurra.Conv1d(4, 6, 0), "kernel_size: expected at least 1, got 0"),
    (lambda: recurra.Conv2d(4, 6, (3, 3, 3)), "kernel_size: expected one number or two"),  # type: ignore[arg-type]
    (lambda: recurra.Conv2d(4, 6, 3, padding=((1, 2), (-1, 0))), "padding: expected at least 0, got -1"),
    (lambda: recurra.MaxPool2d(3, padding=2), "padding: expected at most half of kernel_size"),
    (lambda: recurra.LayerNorm(4, eps=0.0), "eps: expected a positive number, got 0.0"),
    (lambda: recurra.LayerNorm(4, eps=1e-60), "eps: expected a normal number of float32"),
    (lambda: recurra.LayerNorm(4, eps=np.inf), "eps: expected a finite number, got inf"),
    (lambda: recurra.Pool("median"), "mode: expected one of 'last', 'first', 'max', 'mean', got 'median'"),
    (lambda: recurra.Dropout(1.5), r"p: expected a number in 0\.\.1, got 1.5"),
    (lambda: recurra.Select([]), "indices: expected at least one, got none"),
    (lambda: recurra.Select([-1]), "indices: expected at least 0, got -1"),
    (lambda: recurra.Reshape((1, 2, 3)), "features: expected one or two sizes, got 3"),
    (lambda: recurra.Repeat(0), "steps: expected at least 1, got 0"),
]


@pytest.mark.parametrize(("make", "message"), OPERATIONS, ids=[row[1] for row in OPERATIONS])
def test_wrong_operations(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


# A layer and its inputs, and what is said of it.
SHAPES: list[tuple[Any, tuple[Value, ...], str]] = [
    (recurra.Linear(5, 2), (FLAT,), "linear: expected 5 features, got 6"),
    (recurra.Linear(6, 2), (WHOLE,), "linear: expected floating-point numbers, got integers"),
    (recurra.Embedding(5, 2), (FLAT,), "embedding: expected integers, got floating-point numbers"),
    (recurra.Activation("tanh"), (WHOLE,), "activation: expected floating-point numbers"),
    (recurra.GRU(5, 2), (FLAT,), "recurrent: expected a sequence of 5 features"),
    (recurra.GRU(6, 2), (STILL,), "recurrent: expected a sequence of 6 features"),
    (recurra.GRU(6, 2), (FLAT, STILL), r"recurrent: expected initial states of sizes \[2\]"),
    (recurra.Conv1d(5, 2, 3), (FLAT,), r"conv1d: expected 5 features, got \(6,\)"),
    (recurra.Conv1d(6, 2, 3), (IMAGE,), r"conv1d: expected 6 features, got \(2, 3\)"),
    (recurra.Conv1d(6, 2, 3), (STILL,), "conv1d: expected a sequence, got one value for each row"),
    (recurra.Conv2d(3, 2, 1), (IMAGE,), r"conv2d: expected 3 channels, got features \(2, 3\)"),
    (recurra.Conv2d(2, 2, (1, 4)), (IMAGE,), "conv2d: expected a width that holds a window, got 3"),
    (recurra.AvgPool2d((1, 4)), (IMAGE,), "avg_pool2d: expected a width that holds a window, got 3"),
    (recurra.LayerNorm(5), (FLAT,), "layer_norm: expected 5 features, got 6"),
    (recurra.Scale(5), (FLAT,), "scale: expected 5 features, got 6"),
    (recurra.Select([6]), (FLAT,), "select: expected indices below 6, got 6"),
    (recurra.Reshape((4,)), (FLAT,), "reshape: expected 6 features in all"),
    (recurra.Pool("max"), (STILL,), "pool: expected a sequence"),
    (recurra.Reverse(), (STILL,), "reverse: expected a sequence"),
    (recurra.Mask(0), (FLAT, STILL), "mask: expected one or two sequences"),
    (recurra.Repeat(3), (FLAT,), "repeat: expected one value for each row, got a sequence"),
    (recurra.Add(), (FLAT,), "add: expected at least two inputs, got 1"),
    (recurra.Multiply(), (FLAT, Value((5,))), "multiply: expected inputs of one size"),
    (recurra.Concatenate(), (FLAT, WHOLE), "concatenate: expected floating-point numbers, got integers"),
    (recurra.Softmax(), (FLAT, FLAT), "softmax: expected one input, got 2"),
]


@pytest.mark.parametrize(("layer", "values", "message"), SHAPES, ids=[row[2] for row in SHAPES])
def test_shapes_that_do_not_go_together(layer: Any, values: tuple[Value, ...], message: str) -> None:
    inputs = {f"x{k}": value for k, value in enumerate(values)}
    with pytest.raises(ValueError, match=f"^layers: node 'it': {message}"):
        Model([Node(layer, tuple(inputs), "it")], inputs=inputs)


GRU = recurra.GRU(6, 6)
MODELS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"layers": []}, ValueError, "layers: expected at least one, got none"),
    ({"layers": "tanh"}, TypeError, "layers: expected a list of layers, got 'tanh'"),
    ({"layers": ["swish"]}, ValueError, "layers: function: expected one of"),
    ({"layers": [recurra.Forest]}, TypeError, "layers: expected recurrent layers, Linear"),
    ({"layers": ["tanh"]}, ValueError, "inputs: expected names and shapes, for the first layer"),
    ({"layers": [Node(GRU, name="a.b")]}, ValueError, "name: expected text without ':' and '.', got 'a.b'"),
    ({"layers": [Node(GRU, name="x")]}, ValueError, "name: expected one that is not used yet, got 'x'"),
    ({"layers": [Node(GRU, ("z",))]}, ValueError, "inputs of 'recurrent0': expected names of what stands before it"),
    ({"layers": [Node(GRU, "x")]}, TypeError, "inputs of 'recurrent0': expected a list of names, got 'x'"),  # type: ignore[arg-type]
    ({"layers": [Node(GRU, (1,))]}, ValueError, "inputs of 'recurrent0': expected names .* got 1"),  # type: ignore[arg-type]
    ({"layers": [GRU, recurra.Linear(6, 2, dtype="float64")]}, ValueError, "layers: expected all of one dtype"),
    ({"inputs": {}}, ValueError, "inputs: expected at least one"),
    ({"inputs": [("x", FLAT)]}, TypeError, "inputs: expected a mapping"),
    ({"inputs": {"x": (6,)}}, TypeError, r"inputs x: expected a recurra.Value, got \(6,\)"),
    ({"inputs": {"x": Value(6)}}, TypeError, "inputs x features: expected a list of sizes, got 6"),  # type: ignore[arg-type]
    ({"inputs": {"x": Value(())}}, ValueError, "inputs x features: expected one size or two"),
    ({"inputs": {"x": Value((6, 0))}}, ValueError, "inputs x features: expected at least 1, got 0"),
    ({"inputs": {"x": Value((6,), 1)}}, TypeError, "inputs x time: expected True or False, got 1"),  # type: ignore[arg-type]
    ({"inputs": {"x": FLAT, "y": FLAT}}, ValueError, "inputs: expected the first node to name those it takes"),
    ({"inputs": {"a:b": FLAT}}, ValueError, "inputs: expected names without ':' and '.', got 'a:b'"),
    ({"outputs": ()}, ValueError, "outputs: expected at least one name, got none"),
    ({"outputs": "recurrent0"}, TypeError, "outputs: expected a list of names"),
    (
        {"outputs": ["gru"]},
        ValueError,
        "outputs: expected names of nodes, 'x', 'recurrent0', 'recurrent0:h', got 'gru'",
    ),
    ({"batch_first": 1}, TypeError, "batch_first: expected True or False"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), MODELS, ids=[f"{k}-{row[2]}" for k, row in enumerate(MODELS)])
def test_wrong_models(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        Model(**({"layers": [GRU]} | wrong))


def test_a_structure_and_a_pickle_make_the_same_model() -> None:
    nodes = [
        recurra.Conv1d(6, 4, 3, 1, (2, 0), groups=2, bias=False, seed=0),
        recurra.Activation("leaky_relu", 0.2),
        Node(recurra.LSTM(4, 3, 2, bidirectional=True, initial_state=True, seed=1), name="lstm"),
        recurra.LayerNorm(6, 1e-3, bias=False),
        recurra.Dropout(0.3),
        Node(recurra.Add(), ("dropout0", "x"), "sum"),
        recurra.Softmax(True),
    ]
    model = Model(nodes, outputs=("softmax0", "lstm:c"), batch_first=True)
    x = np.random.default_rng(0).normal(size=(2, 5, 6)).astype("float32")
    want = model(x)
    for again in (
        Model.from_structure(json.loads(json.dumps(model.structure)), model.state_dict()),
        pickle.loads(pickle.dumps(model)),
    ):
        assert again.structure == model.structure
        assert_same_bits(again.state_dict(), model.state_dict())
        assert_same_bits(again(x), want)
