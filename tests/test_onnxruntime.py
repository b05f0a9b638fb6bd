"""Parity with ONNX Runtime on random one-node models, and with ONNX's own node cases.

ONNX Runtime's activations are good to about 3e-7. layout=1, double, and clip through h are avoided there.
"""

from __future__ import annotations

import importlib
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close, states
from hypothesis import given
from hypothesis import strategies as st
from strategies import Problem, problems

from recurra import Activation, functional

ort = pytest.importorskip("onnxruntime", reason="the parity extra is not installed: no onnxruntime")
onnx = pytest.importorskip("onnx", reason="the parity extra is not installed: no onnx")

# ONNX's block k is our block ORDER[k] (ONNX: LSTM i o f c, P i o f, GRU z r h).
ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
PEEP_ORDER = (0, 2, 1)
TOLERANCE = 3e-6


def reorder(packed: Array, order: tuple[int, ...], inverse: bool = False) -> Array:
    blocks = np.split(packed, len(order))
    return np.concatenate([blocks[k] for k in (np.argsort(order) if inverse else order)])


def from_onnx(op: str, inputs: dict[str, Array], input_forget: bool = False) -> dict[str, Array]:
    """Our params from the node's W [D, G*H, I], R [D, G*H, H], B [D, 2*G*H], P [D, 3*H]."""
    params = {}
    for d, suffix in enumerate(("_l0", "_l0_reverse")[: inputs["W"].shape[0]]):
        parts = {"weight_ih": inputs["W"][d], "weight_hh": inputs["R"][d]}
        if "B" in inputs:
            parts["bias_ih"], parts["bias_hh"] = np.split(inputs["B"][d], 2)
        parts = {name: reorder(array, ORDER[op], inverse=True) for name, array in parts.items()}
        if "P" in inputs:
            parts["weight_peep"] = reorder(inputs["P"][d], PEEP_ORDER, inverse=True)
        if input_forget:  # the runtime takes f = 1 - i and never reads the rows of f, our block 1
            parts = {n: np.delete(a.reshape(3 if "peep" in n else 4, -1, *a.shape[1:]), 1, 0) for n, a in parts.items()}
            parts = {name: array.reshape(-1, *array.shape[2:]) for name, array in parts.items()}
        params.update({name + suffix: np.ascontiguousarray(array) for name, array in parts.items()})
    return params


def runtime(op: str, inputs: dict[str, Array], **attributes: Any) -> list[Array]:
    """Y [T, D, B, H], Y_h and for LSTM Y_c [D, B, H] of a one-node model."""
    names = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
    if op != "LSTM":
        names = names[:6]
    while names[-1] not in inputs:
        names.pop()
    outputs = ["Y", "Y_h", "Y_c"] if op == "LSTM" else ["Y", "Y_h"]
    node = onnx.helper.make_node(op, [n if n in inputs else "" for n in names], outputs, **attributes)
    types = {np.dtype("float32"): onnx.TensorProto.FLOAT, np.dtype("int32"): onnx.TensorProto.INT32}
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [onnx.helper.make_tensor_value_info(n, types[a.dtype], a.shape) for n, a in inputs.items()],
        [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in outputs],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def random_inputs(problem: Problem, op: str, peephole: bool = False) -> dict[str, Array]:
    rng = np.random.default_rng(problem.seed)
    h, g, d = problem.hidden_size, len(ORDER[op]), problem.directions
    shapes: dict[str, tuple[int, ...]] = {"W": (d, g * h, problem.input_size), "R": (d, g * h, h)}
    if problem.bias:
        shapes["B"] = (d, 2 * g * h)
    if peephole:
        shapes["P"] = (d, 3 * h)
    inputs = {name: rng.uniform(-(h**-0.5), h**-0.5, shape).astype("float32") for name, shape in shapes.items()}
    inputs["X"] = problem.x()
    if problem.lengths is not None:
        inputs["sequence_lens"] = np.array(problem.lengths, np.int32)
    if problem.with_state:
        for name in ("initial_h", "initial_c")[: 2 if op == "LSTM" else 1]:
            inputs[name] = rng.uniform(-1, 1, (d, problem.batch, h)).astype("float32")
    return inputs


CASES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("rnn_tanh", "RNN", {"activations": ["Tanh"]}, {"nonlinearity": "tanh"}),
    ("rnn_relu", "RNN", {"activations": ["Relu"]}, {"nonlinearity": "relu"}),
    ("rnn_sigmoid", "RNN", {"activations": ["Sigmoid"]}, {"nonlinearity": "sigmoid"}),
    ("gru", "GRU", {"linear_before_reset": 1}, {"reset": "after"}),
    ("gru_reset_before", "GRU", {"linear_before_reset": 0}, {"reset": "before"}),
    ("gru_reset_before", "GRU", {}, {"reset": "before"}),
    ("lstm", "LSTM", {}, {}),
    ("lstm_peephole", "LSTM", {}, {}),
    ("lstm_f_from_i", "LSTM", {"input_forget": 1}, {"coupled": "f_from_i"}),
    ("lstm_f_from_i_peephole", "LSTM", {"input_forget": 1}, {"coupled": "f_from_i"}),
]


@pytest.mark.parametrize(("cell", "op", "attributes", "options"), CASES)
@given(st.data())
def test_random_models_give_what_onnx_runtime_gives(
    cell: str, op: str, attributes: dict[str, Any], options: dict[str, Any], data: st.DataObject
) -> None:
    # a row of length 0 ends in zeros there and keeps its initial state here: lengths start at 1
    problem = data.draw(problems(cell, min_steps=1, min_batch=1, min_length=1, dtypes=("float32",)))
    inputs = random_inputs(problem, op, peephole="peephole" in cell)
    if "activations" in attributes:
        attributes = {"activations": attributes["activations"] * problem.directions}
    direction = ("forward", "bidirectional")[problem.directions - 1]
    y, *final = runtime(op, inputs, hidden_size=problem.hidden_size, direction=direction, **attributes)

    state = tuple(inputs[n] for n in ("initial_h", "initial_c") if n in inputs) or None
    params = from_onnx(op, inputs, input_forget="input_forget" in attributes)
    call = getattr(functional, op.lower())
    given_state = state[0] if state and op != "LSTM" else state
    output, ours = call(inputs["X"], params, given_state, lengths=problem.lengths, **options)
    expected = y.transpose(0, 2, 1, 3).reshape(problem.steps, problem.batch, -1)
    assert_close((output, states(ours)), (expected, tuple(final)), TOLERANCE)


@pytest.mark.parametrize(("cell", "op", "attributes", "options"), CASES)
def test_a_row_of_length_zero_is_zero_in_the_output_of_both(
    cell: str, op: str, attributes: dict[str, Any], options: dict[str, Any]
) -> None:
    problem = Problem(cell, 3, 7, 4, 3, directions=2, lengths=(2, 0, 4))
    inputs = random_inputs(problem, op, peephole="peephole" in cell)
    if "activations" in attributes:
        attributes = {"activations": attributes["activations"] * 2}
    y, *_ = runtime(op, inputs, hidden_size=7, direction="bidirectional", **attributes)
    params = from_onnx(op, inputs, input_forget="input_forget" in attributes)
    output, _ = getattr(functional, op.lower())(inputs["X"], params, lengths=[2, 0, 4], **options)
    assert_close(output, y.transpose(0, 2, 1, 3).reshape(4, 3, -1), TOLERANCE)
    assert not output[:, 1].any()


# Ours, ONNX's, and which of alpha and beta it has.
FUNCTIONS = {
    "tanh": ("Tanh", ""),
    "sigmoid": ("Sigmoid", ""),
    "relu": ("Relu", ""),
    "softsign": ("Softsign", ""),
    "softplus": ("Softplus", ""),
    "leaky_relu": ("LeakyRelu", "a"),
    "elu": ("Elu", "a"),
    "thresholded_relu": ("ThresholdedRelu", "a"),
    "hard_sigmoid": ("HardSigmoid", "ab"),
    "scaled_tanh": ("ScaledTanh", "ab"),
    "affine": ("Affine", "ab"),
}


@pytest.mark.parametrize(
    ("op", "attributes", "options"),
    (
        ("RNN", {}, {}),
        ("GRU", {"linear_before_reset": 1}, {"reset": "after"}),
        ("GRU", {"linear_before_reset": 0}, {"reset": "before"}),
        ("LSTM", {}, {}),
        ("LSTM", {"input_forget": 1}, {"coupled": "f_from_i"}),
    ),
)
@given(st.data())
def test_activation_lists_and_clip_give_what_onnx_runtime_gives(
    op: str, attributes: dict[str, Any], options: dict[str, Any], data: st.DataObject
) -> None:
    """Lists f, g, h with alpha and beta, others in each direction, and a clip that is reached."""
    cell = {"RNN": "rnn_tanh", "GRU": "gru", "LSTM": "lstm"}[op]
    problem = data.draw(problems(cell, min_steps=1, min_batch=1, min_length=1, dtypes=("float32",)))
    problem = replace(problem, steps=min(problem.steps, 5), hidden_size=min(problem.hidden_size, 17), gain=2.0)
    problem = replace(problem, lengths=problem.lengths and tuple(min(n, problem.steps) for n in problem.lengths))
    inputs = random_inputs(problem, op, peephole=op == "LSTM" and data.draw(st.booleans()))
    places = {"RNN": ["nonlinearity"], "GRU": ["recurrent_activation", "activation"]}.get(
        op, ["recurrent_activation", "activation", "output_activation"]
    )
    chosen: list[list[Activation]] = []
    theirs: dict[str, list[Any]] = {"activations": [], "activation_alpha": [], "activation_beta": []}
    for _ in range(problem.directions):
        chosen.append([])
        for place in places:
            # Products of gates that grow soon leave nothing to compare.
            gate = place == "recurrent_activation"
            name = data.draw(st.sampled_from(["sigmoid", "hard_sigmoid", "softsign"] if gate else sorted(FUNCTIONS)))
            alpha, beta = data.draw(st.sampled_from(((0.2, 0.5), (0.25, 0.4), (0.9, 0.3))))
            onnx_name, has = FUNCTIONS[name]
            chosen[-1].append(Activation(name, alpha if "a" in has else None, beta if "b" in has else None))
            theirs["activations"].append(onnx_name)
            theirs["activation_alpha"] += [alpha] * ("a" in has)
            theirs["activation_beta"] += [beta] * ("b" in has)
    clip = data.draw(st.sampled_from((None, 0.3, 1.0)))
    more = {name: values for name, values in theirs.items() if values} | ({} if clip is None else {"clip": clip})
    direction = ("forward", "bidirectional")[problem.directions - 1]
    y, *final = runtime(op, inputs, hidden_size=problem.hidden_size, direction=direction, **attributes, **more)

    state = tuple(inputs[n] for n in ("initial_h", "initial_c") if n in inputs) or None
    params = from_onnx(op, inputs, input_forget="input_forget" in attributes)
    own = {place: pair if len(pair) > 1 else pair[0] for place, *pair in zip(places, *chosen, strict=True)}
    own = {place: tuple(value) if isinstance(value, list) else value for place, value in own.items()}
    output, ours = getattr(functional, op.lower())(
        inputs["X"], params, state[0] if state and op != "LSTM" else state, lengths=problem.lengths, clip=clip,
        **options, **own,
    )  # fmt: skip
    expected = y.transpose(0, 2, 1, 3).reshape(problem.steps, problem.batch, -1)
    scale = max(1.0, np.abs(expected).max())
    assert_close((output / scale, states(ours)[0] / scale), (expected / scale, final[0] / scale), 5 * TOLERANCE)


NODE_CASES = [
    f"test_{op}_{case}"
    for op in ("lstm", "gru", "simple_rnn")
    for case in ("defaults", "with_initial_bias", "batchwise", "reverse", "bidirectional")
] + ["test_lstm_with_peepholes", "test_gru_seq_length", "test_rnn_seq_length"]


@pytest.fixture(scope="module")
def node_cases() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        node = importlib.import_module("onnx.backend.test.case.node")
        for module in ("lstm", "gru", "rnn"):  # all three before the collector, which filters what it imports
            importlib.import_module(f"onnx.backend.test.case.node.{module}")
        return {case.name: case for case in node.collect_testcases("LSTM")}


@pytest.mark.parametrize("name", NODE_CASES)
def test_onnx_node_case(name: str, node_cases: dict[str, Any]) -> None:
    if name not in node_cases:
        pytest.skip(f"this release of onnx has no {name}")
    case = node_cases[name]
    node = case.model.graph.node[0]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    known = {"hidden_size", "direction", "layout", "linear_before_reset"}
    assert set(attributes) <= known
    op, layout = node.op_type, attributes.get("layout", 0)
    for given_inputs, expected in case.data_sets:
        inputs = dict(zip([n for n in node.input if n], given_inputs, strict=True))
        outputs = dict(zip([n for n in node.output if n], expected, strict=True))
        params = from_onnx(op, inputs)
        x = inputs["X"]
        backwards = attributes.get("direction") == b"reverse"
        if backwards:
            x = x[::-1]
        state = None
        if "initial_h" in inputs:
            state = (inputs["initial_h"], inputs["initial_c"]) if op == "LSTM" else inputs["initial_h"]
        options = {} if op != "GRU" else {"reset": ("before", "after")[attributes.get("linear_before_reset", 0)]}
        lengths = inputs.get("sequence_lens")
        y, final = getattr(functional, op.lower())(
            x, params, state, lengths=lengths, batch_first=bool(layout), **options
        )
        for result, key in zip(states(final), ("Y_h", "Y_c"), strict=False):
            if key in outputs:
                assert_close(result.swapaxes(0, 1) if layout else result, outputs[key], 1e-5)
        if "Y" in outputs:
            y = y.reshape(*y.shape[:2], inputs["W"].shape[0], -1)
            y = y if layout else y.transpose(0, 2, 1, 3)
            assert_close(y[::-1] if backwards else y, outputs["Y"], 1e-5)
