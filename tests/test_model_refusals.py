"""What models refuse by name: when they are made, in training, and where the core is handed their structure."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
from checks import Array

import recurra
from recurra import Node, Value
from recurra.model.call import compiled

F64: dict[str, Any] = {"dtype": "float64", "seed": 1}


def normal(*shape: int) -> Array:
    return np.random.default_rng(0).normal(size=shape)


def pooled() -> recurra.Model:
    return recurra.Model([recurra.Conv1d(3, 4, 3, 2, **F64), recurra.GRU(4, 4, **F64), recurra.Pool("last")])


X = normal(6, 2, 3)
FLAGS = np.ones((6, 2), bool)
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": X[..., :2]}, ValueError, r"x: expected shape \[T, B, 3\] or \[T, 3\], got \[6, 2, 2\]"),
    ({"x": X.astype("float32")}, TypeError, "x: expected float64, got float32"),
    ({"state": {"gru": X}}, ValueError, r"state: expected names of recurrent nodes, \['recurrent0'\], got 'gru'"),
    ({"state": {"recurrent0": X}}, ValueError, r"state recurrent0 h: expected shape \[1, 2, 4\], got \[6, 2, 3\]"),
    ({"lengths": [7, 1]}, ValueError, r"lengths: expected values in 0\.\.6, got 7"),
    ({"mask": FLAGS}, ValueError, "node 'conv1d0': .*mask"),
    ({"resets": FLAGS}, ValueError, "node 'conv1d0': .*resets"),
    ({"reset_state": {}}, ValueError, "reset_state: expected None without resets"),
    ({"masked_output": "zero"}, ValueError, "masked_output: .*without a mask"),
    ({"return_state": 1}, TypeError, "return_state: expected True or False"),
]


@pytest.mark.parametrize(("given", "error", "message"), REFUSED, ids=[row[2] for row in REFUSED])
def test_training_refuses_what_a_call_refuses(given: dict[str, Any], error: type[Exception], message: str) -> None:
    model = pooled()
    for run in (model.forward, model):
        with pytest.raises(error, match=message):
            run(**({"x": X} | given))


@pytest.mark.parametrize(
    ("layers", "marks"),
    [
        ([recurra.Pool("last")], "resets"),
        ([recurra.Reverse()], "mask"),
        ([recurra.Reverse()], "resets"),
        ([recurra.Conv1d(3, 3, 3, padding=1, **F64)], "resets"),
        ([recurra.AvgPool2d((2, 1), 1)], "mask"),
        ([recurra.Mask(0), recurra.Conv1d(3, 3, 3, causal=True, **F64)], ""),
    ],
)
def test_marks_that_a_node_cannot_keep_are_refused_by_its_name(layers: list[Any], marks: str) -> None:
    model = recurra.Model([*layers, recurra.Scale(3, dtype="float64")], inputs={"x": Value((3,))})
    name = model._nodes[len(layers) - 1].name
    given: dict[str, Any] = {marks: FLAGS} if marks else {}
    for run in (model.forward, model):
        with pytest.raises(ValueError, match=rf"^layers: node '{name}': .*(resets|mask)"):
            run(X, **given)


@pytest.mark.parametrize("layers", [[recurra.Pool("last")], [recurra.Reverse()], [recurra.Mask(0), recurra.Reverse()]])
@pytest.mark.parametrize("marks", ["resets", "mask"])
def test_of_no_steps_none_is_marked(layers: list[Any], marks: str) -> None:
    """By a call as in training."""
    model, x = recurra.Model(layers, inputs={"x": Value((3,))}), X[:0].astype("float32")
    marked: dict[str, Any] = {marks: FLAGS[:0]}
    y, _ = model.forward(x, **marked)
    for given in (marked, {}):
        np.testing.assert_array_equal(model(x, **given), y)


def test_a_quantized_layer_is_not_trained() -> None:
    model = recurra.Model([recurra.GRU(3, 4).quantize("int8")])
    with pytest.raises(ValueError, match="node 'recurrent0': forward: expected weights in full precision"):
        model.forward(X.astype("float32"))


def test_gradients_that_do_not_fit_are_refused() -> None:
    model = recurra.Model(
        [Node(recurra.LSTM(3, 4, **F64), name="lstm"), Node(recurra.Pool("max"), name="top")], outputs=("top", "lstm")
    )
    y, tape = model.forward(X)
    for given, error, message in (
        ({}, ValueError, "dy, dstate: expected at least one"),
        ({"dy": y["top"]}, TypeError, "dy: expected a mapping"),
        ({"dy": {"x": X}}, ValueError, r"dy: expected names of outputs, \['top', 'lstm'\], got 'x'"),
        ({"dy": {"top": X}}, ValueError, r"dy top: expected shape \[2, 4\], got \[6, 2, 3\]"),
        ({"dy": {"top": y["top"].astype("float32")}}, TypeError, "dy top: expected float64, got float32"),
        ({"dy": y, "dstate": {"top": X}}, ValueError, r"dstate: expected names of recurrent nodes, \['lstm'\]"),
        ({"dy": y, "dstate": {"lstm": X}}, TypeError, r"dstate lstm: expected a tuple \(h, c\)"),
        ({"dy": y, "dstate": {"lstm": (X, None)}}, ValueError, r"dstate lstm h: expected shape \[1, 2, 4\]"),
        ({"dy": y, "input_grad": 1}, TypeError, "input_grad: expected True or False"),
    ):
        with pytest.raises(error, match=message):
            tape.backward(**given)
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        copy.deepcopy(tape)


def test_an_output_is_named_once() -> None:
    with pytest.raises(ValueError, match="outputs: expected each name once"):
        recurra.Model([recurra.Node(recurra.GRU(3, 4), name="gru")], outputs=["gru", "gru"])


def test_int8_begins_where_no_other_node_says() -> None:
    decoder = recurra.GRU(3, 4).quantize("int8")
    nodes = [recurra.Node(recurra.GRU(3, 4), name="e"), Node(decoder, ("x", "e:h"), "d")]
    with pytest.raises(ValueError, match=r"node 'd': .*int8"):
        recurra.Model(nodes)


def spoilt(model: recurra.Model, key: str, value: Any) -> dict[str, Any]:
    structure: dict[str, Any] = json.loads(json.dumps(model.structure))
    structure["nodes"][0][key] = value
    return structure


@pytest.mark.parametrize(
    ("layer", "key", "values"),
    [
        (recurra.Select([0, 1]), "indices", [[3], [-1], [], "a", [2**40], [0.5]]),
        (recurra.Reshape((3, 1)), "features", [[2, 1], [0], [], [3, 1, 1], [-3]]),
        (recurra.Conv1d(3, 2, 2), "kernel_size", [3, 0, -1, 2**40, "a", [2, 1]]),
        (recurra.Conv1d(3, 2, 2), "groups", [2, 0]),
        (recurra.Conv1d(3, 2, 2), "padding", [[1], [-1, 0], [2**33, 0], 1]),
        (recurra.Conv1d(3, 2, 2), "stride", [0, -2]),
        (recurra.Repeat(2), "steps", [0, -1]),
        (recurra.Activation("relu"), "function", ["nothing", 1]),
        (recurra.Pool("last"), "mode", ["none", 1]),
        (recurra.LayerNorm(3), "eps", [0, -1, "a", 1e-60]),
        (recurra.LayerNorm(3), "features", [2, 0]),
        (recurra.Pool("last"), "kind", ["nothing", "", 1]),
        (recurra.Pool("last"), "inputs", [[], ["y"], ["pool0"], "x", [1]]),
    ],
)
def test_the_core_refuses_structures_that_are_none(layer: Any, key: str, values: list[Any]) -> None:
    value = Value((3,), time=not isinstance(layer, recurra.Repeat))
    model = recurra.Model([layer], inputs={"x": value})
    compiled(model.structure, model.layers)
    for value in values:
        with pytest.raises(ValueError, match=r"node|kind|expected"):
            compiled(spoilt(model, key, value), model.layers)
