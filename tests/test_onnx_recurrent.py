"""One recurrent operator, imported, against ONNX's own cases and ONNX Runtime."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close
from hypothesis import given
from hypothesis import strategies as st

ort = pytest.importorskip("onnxruntime", reason="the parity extra is not installed: no onnxruntime")
onnx = pytest.importorskip("onnx", reason="the parity extra is not installed: no onnx")

from onnx_files import check, graph_of, ours, runtime  # noqa: E402

from recurra.formats import UnsupportedModel  # noqa: E402
from recurra.formats.onnx import read_onnx  # noqa: E402

SLOTS = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def one_node(
    op: str, arrays: dict[str, Array], attributes: dict[str, Any], *, opset: int = 14, fixed: bool = False, **more: Any
) -> Any:
    """A model of one node; weights are constants, everything else inputs. T and B are open unless `fixed`."""
    slots = SLOTS if op == "LSTM" else SLOTS[:6]
    used = [name if name in arrays else "" for name in slots]
    while not used[-1]:
        used.pop()
    outputs = ["Y", "Y_h", "Y_c"] if op == "LSTM" else ["Y", "Y_h"]
    node = onnx.helper.make_node(op, used, outputs, name="cell", **attributes)
    constants = {n: a for n, a in arrays.items() if n in ("W", "R", "B", "P", *more.get("constants", ()))}
    first = attributes.get("layout", 0)
    axes = {"X": ["B", "T"] if first else ["T", "B"], "sequence_lens": ["B"]}
    inputs = {}
    for name, array in arrays.items():
        if name in constants:
            continue
        shape: list[Any] = list(array.shape)
        if not fixed:
            opened = axes.get(name, ["B"] if first else [shape[0], "B"])
            shape = [*opened, *shape[len(opened) :]]
        inputs[name] = (array.dtype, shape)
    return graph_of([node], inputs, outputs, constants, opset)


def feeds_of(arrays: dict[str, Array], proto: Any) -> dict[str, Array]:
    return {each.name: arrays[each.name] for each in proto.graph.input}


@pytest.fixture(scope="module")
def node_cases() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        node = importlib.import_module("onnx.backend.test.case.node")
        for module in ("lstm", "gru", "rnn"):  # all three before the collector, which filters what it imports
            importlib.import_module(f"onnx.backend.test.case.node.{module}")
        cases = {case.name: case for op in GATES for case in node.collect_testcases(op)}
        return {name: c for name, c in cases.items() if c.model.graph.node[0].op_type in GATES}


def test_every_node_case_of_onnx_gives_its_values(node_cases: dict[str, Any]) -> None:
    assert len(node_cases) >= 14
    for name, case in node_cases.items():
        node = case.model.graph.node[0]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        for given_inputs, expected in case.data_sets:
            arrays = dict(zip([n for n in node.input if n], given_inputs, strict=True))
            slots = dict(zip([s for s, n in zip(SLOTS, node.input, strict=False) if n], arrays.values(), strict=True))
            model = one_node(node.op_type, slots, attributes, opset=case.model.opset_import[0].version)
            imported = read_onnx(model)
            found = ours(imported, feeds_of(slots, model))
            wanted = dict(zip(["Y", "Y_h", "Y_c"], node.output, strict=False))
            values = dict(zip([n for n in node.output if n], expected, strict=True))
            for ours_name, theirs in wanted.items():
                if theirs:
                    assert_close(found[ours_name], values[theirs], 1e-5)
                    assert found[ours_name].shape == values[theirs].shape, name


# Names, and which of alpha and beta they have.
FUNCTIONS = {
    "Tanh": "",
    "Sigmoid": "",
    "Relu": "",
    "Softsign": "",
    "Softplus": "",
    "LeakyRelu": "a",
    "Elu": "a",
    "ThresholdedRelu": "a",
    "HardSigmoid": "ab",
    "ScaledTanh": "ab",
    "Affine": "ab",
}
PLACES = {"RNN": 1, "GRU": 2, "LSTM": 3}


@st.composite
def nodes(draw: st.DrawFn) -> tuple[str, dict[str, Array], dict[str, Any], dict[str, Any]]:
    """(operator, arrays, attributes, options of one_node)."""
    op = draw(st.sampled_from(sorted(GATES)))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    d, gates = 1 + (direction == "bidirectional"), GATES[op]
    t, b, i, h = (draw(st.integers(1, n)) for n in (6, 4, 7, 9))
    random = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    shapes: dict[str, tuple[int, ...]] = {"X": (t, b, i), "W": (d, gates * h, i), "R": (d, gates * h, h)}
    if draw(st.booleans()):
        shapes["B"] = (d, 2 * gates * h)
    if draw(st.booleans()):
        shapes["initial_h"] = (d, b, h)
    if op == "LSTM" and draw(st.booleans()):
        shapes["initial_c"] = (d, b, h)
    if op == "LSTM" and draw(st.booleans()):
        shapes["P"] = (d, 3 * h)
    arrays = {name: random.uniform(-0.7, 0.7, shape).astype("float32") for name, shape in shapes.items()}
    if draw(st.booleans()):
        arrays["sequence_lens"] = random.integers(1, t + 1, b).astype(np.int32)
    attributes: dict[str, Any] = {"hidden_size": h}
    if direction != "forward" or draw(st.booleans()):
        attributes["direction"] = direction
    if op == "GRU":
        attributes["linear_before_reset"] = draw(st.integers(0, 1))
    if op == "LSTM":
        attributes["input_forget"] = draw(st.integers(0, 1))
    if draw(st.booleans()):
        lists: dict[str, list[Any]] = {"activations": [], "activation_alpha": [], "activation_beta": []}
        for k in range(PLACES[op] * d):
            gate = op != "RNN" and k % PLACES[op] == 0
            name = draw(st.sampled_from(["Sigmoid", "HardSigmoid", "Softsign"] if gate else sorted(FUNCTIONS)))
            lists["activations"].append(name)
            lists["activation_alpha"] += [draw(st.sampled_from((0.2, 0.25, 0.9)))] * ("a" in FUNCTIONS[name])
            lists["activation_beta"] += [draw(st.sampled_from((0.5, 0.4, 0.3)))] * ("b" in FUNCTIONS[name])
        attributes |= {name: values for name, values in lists.items() if values}
    if draw(st.booleans()):
        attributes["clip"] = draw(st.sampled_from((0.3, 1.0)))
    return op, arrays, attributes, {"opset": draw(st.integers(7, 22)), "fixed": draw(st.booleans())}


@given(nodes())
def test_random_nodes_give_what_onnx_runtime_gives(
    node: tuple[str, dict[str, Array], dict[str, Any], dict[str, Any]],
) -> None:
    op, arrays, attributes, options = node
    proto = one_node(op, arrays, attributes, **options)
    check(proto, feeds_of(arrays, proto), 3e-5 if "activations" in attributes else 3e-6)


@given(nodes())
def test_layout_1_is_layout_0_with_batch_and_time_exchanged(
    node: tuple[str, dict[str, Array], dict[str, Any], dict[str, Any]],
) -> None:
    """ONNX Runtime has no layout 1 on the CPU, so it runs layout 0."""
    op, arrays, attributes, options = node
    proto = one_node(op, arrays, attributes, **options)
    expected = runtime(proto, feeds_of(arrays, proto))
    moved = {n: a.swapaxes(0, 1) if n in ("X", "initial_h", "initial_c") else a for n, a in arrays.items()}
    proto = one_node(op, moved, attributes | {"layout": 1}, **options | {"opset": max(14, options["opset"])})
    found = ours(read_onnx(proto), feeds_of(moved, proto))
    for name, array in expected.items():
        wanted = array.transpose(2, 0, 1, 3) if name == "Y" else array.swapaxes(0, 1)
        scale = max(1.0, float(np.abs(wanted).max()))
        assert_close(found[name] / scale, wanted / scale, 3e-5)


def example(op: str, **sizes: int) -> dict[str, Array]:
    random = np.random.default_rng(3)
    d, t, b, i, h = (sizes.get(n, k) for n, k in (("d", 1), ("t", 5), ("b", 3), ("i", 4), ("h", 6)))
    shapes: dict[str, tuple[int, ...]] = {
        "X": (t, b, i),
        "W": (d, GATES[op] * h, i),
        "R": (d, GATES[op] * h, h),
        "B": (d, 2 * GATES[op] * h),
    }
    return {n: random.uniform(-1, 1, s).astype("float32") for n, s in shapes.items()}


DIFFERENCES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("GRU", {"linear_before_reset": 0}, {"linear_before_reset": 1}),
    ("LSTM", {}, {"input_forget": 1}),
    ("LSTM", {}, {"clip": 0.5}),
    ("GRU", {}, {"clip": 0.5}),
    ("RNN", {}, {"clip": 0.5}),
    ("RNN", {}, {"direction": "reverse"}),
    ("GRU", {}, {"direction": "reverse"}),
    ("LSTM", {}, {"direction": "reverse"}),
    ("RNN", {}, {"activations": ["Relu"]}),
    ("GRU", {}, {"activations": ["HardSigmoid", "Tanh"]}),
    ("GRU", {}, {"activations": ["Sigmoid", "Relu"]}),
    ("LSTM", {}, {"activations": ["HardSigmoid", "Tanh", "Tanh"]}),
    ("LSTM", {}, {"activations": ["Sigmoid", "Softsign", "Tanh"]}),
    ("LSTM", {}, {"activations": ["Sigmoid", "Tanh", "Softsign"]}),
    ("RNN", {"activations": ["LeakyRelu"]}, {"activations": ["LeakyRelu"], "activation_alpha": [0.3]}),
    (
        "RNN",
        {"activations": ["HardSigmoid"], "activation_alpha": [0.2]},
        {"activations": ["HardSigmoid"], "activation_alpha": [0.2], "activation_beta": [0.1]},
    ),
]


@pytest.mark.parametrize(("op", "one", "other"), DIFFERENCES)
def test_models_that_differ_in_one_attribute_give_different_results(
    op: str, one: dict[str, Any], other: dict[str, Any]
) -> None:
    arrays = example(op)
    results = []
    for attributes in (one, other):
        proto = one_node(op, arrays, {"hidden_size": 6, **attributes})
        check(proto, {"X": arrays["X"]}, 1e-5)
        results.append(ours(read_onnx(proto), {"X": arrays["X"]})["Y"])
    assert np.abs(results[0] - results[1]).max() > 1e-2


@pytest.mark.parametrize("name", ["B", "P", "initial_h", "initial_c"])
def test_each_optional_input_counts(name: str) -> None:
    arrays = example("LSTM")
    random = np.random.default_rng(5)
    more = {"B": arrays.pop("B"), "P": random.uniform(-1, 1, (1, 18)).astype("f")}
    more |= {n: random.uniform(-1, 1, (1, 3, 6)).astype("f") for n in ("initial_h", "initial_c")}
    without = one_node("LSTM", arrays, {"hidden_size": 6})
    with_it = one_node("LSTM", arrays | {name: more[name]}, {"hidden_size": 6})
    plain = check(without, {"X": arrays["X"]}, 3e-6)
    other = check(with_it, feeds_of(arrays | more, with_it), 3e-6)
    y = ours(plain, {"X": arrays["X"]})["Y"]
    assert np.abs(y - ours(other, feeds_of(arrays | more, with_it))["Y"]).max() > 1e-2


def test_states_of_the_file_are_states_of_the_model() -> None:
    arrays = example("LSTM", d=2)
    for name in ("initial_h", "initial_c"):
        arrays[name] = np.random.default_rng(7).uniform(-1, 1, (2, 3, 6)).astype("float32")
    proto = one_node("LSTM", arrays, {"hidden_size": 6, "direction": "bidirectional"})
    imported = check(proto, feeds_of(arrays, proto), 3e-6)
    assert list(imported.model.inputs) == ["X"] and imported.model.outputs == ("cell",)
    assert set(imported.state_inputs) == {"initial_h", "initial_c"} and set(imported.final) == {"Y_h", "Y_c"}
    h, c = imported.state(arrays)["cell"]
    assert np.array_equal(h, arrays["initial_h"]) and np.array_equal(c, arrays["initial_c"])


def test_constant_initial_states_become_parameters() -> None:
    arrays = example("GRU")
    arrays["initial_h"] = np.repeat(np.linspace(-1, 1, 6, dtype="float32")[None, None], 3, 1)
    proto = one_node("GRU", arrays, {"hidden_size": 6}, constants=["initial_h"], fixed=True)
    imported = check(proto, {"X": arrays["X"]}, 3e-6)
    assert np.array_equal(imported.model.state_dict()["cell.h_0"][0], np.linspace(-1, 1, 6, dtype="float32"))
    arrays["initial_h"][0, 1] += 1
    with pytest.raises(UnsupportedModel, match=r"cell.*GRU.*initial_h: expected the same constants for all rows"):
        read_onnx(one_node("GRU", arrays, {"hidden_size": 6}, constants=["initial_h"], fixed=True))


def test_lengths_are_an_input_or_all_steps() -> None:
    arrays = example("GRU")
    arrays["sequence_lens"] = np.array([5, 5, 5], np.int32)
    proto = one_node("GRU", arrays, {"hidden_size": 6}, constants=["sequence_lens"], fixed=True)
    assert check(proto, {"X": arrays["X"]}, 3e-6).lengths is None
    arrays["sequence_lens"][1] = 2
    with pytest.raises(UnsupportedModel, match=r"cell.*sequence_lens: expected a graph input or the number of steps"):
        read_onnx(one_node("GRU", arrays, {"hidden_size": 6}, constants=["sequence_lens"], fixed=True))


def test_a_row_of_length_0_keeps_its_initial_state_as_the_operators_text_says() -> None:
    arrays = example("LSTM", d=2)
    random = np.random.default_rng(9)
    arrays |= {n: random.uniform(-1, 1, (2, 3, 6)).astype("f") for n in ("initial_h", "initial_c")}
    arrays["sequence_lens"] = np.array([4, 0, 2], np.int32)
    proto = one_node("LSTM", arrays, {"hidden_size": 6, "direction": "bidirectional"})
    found = ours(read_onnx(proto), feeds_of(arrays, proto))
    assert_close(found["Y_h"][:, 1], arrays["initial_h"][:, 1], 0)
    assert_close(found["Y_c"][:, 1], arrays["initial_c"][:, 1], 0)
    assert not found["Y"][:, :, 1].any()


def test_float16_files_are_read_as_float32_and_double_ones_as_float64() -> None:
    arrays = {n: a.astype(np.float16) for n, a in example("GRU").items()}
    proto = one_node("GRU", arrays, {"hidden_size": 6})
    imported = read_onnx(proto)
    wide = {n: a.astype(np.float32) for n, a in arrays.items()}
    expected = runtime(one_node("GRU", wide, {"hidden_size": 6}), {"X": wide["X"]})
    assert imported.model.dtype == np.float32
    assert_close(ours(imported, {"X": wide["X"]})["Y"], expected["Y"], 3e-6)
    double = {n: a.astype(np.float64) for n, a in arrays.items()}
    imported = read_onnx(one_node("GRU", double, {"hidden_size": 6}))
    assert imported.model.dtype == np.float64
    assert_close(ours(imported, {"X": double["X"]})["Y"], expected["Y"], 3e-6)


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("GRU", {"direction": "sideways"}, {}, "direction: expected forward, reverse or bidirectional, got 'sideways'"),
    ("GRU", {"direction": "bidirectional"}, {}, "W: expected shape"),
    ("GRU", {"activations": ["Sigmoid"]}, {}, "activations: expected 2"),
    ("GRU", {"activations": ["Sigmoid", "Gelu"]}, {}, "activations: 'Gelu' is not supported"),
    ("GRU", {"activations": ["Sigmoid", "Affine"]}, {}, "activation_alpha: expected a number for Affine"),
    ("GRU", {"activation_alpha": [0.5]}, {}, "activation_alpha: expected no more than functions have"),
    ("GRU", {"clip": -1.0}, {}, "clip: expected a positive number, got -1.0"),
    ("GRU", {"linear_before_reset": 2}, {}, "linear_before_reset: expected 0 or 1, got 2"),
    ("GRU", {"hidden_size": 5}, {}, "hidden_size: expected 6 as R has it, got 5"),
    ("GRU", {"swing": 3}, {}, "swing: the operator has no such attribute"),
    ("GRU", {}, {"W": (1, 18, 5)}, "X: expected 5 features, got 4"),
    ("GRU", {}, {"R": (1, 17, 6)}, "R: expected shape"),
    ("GRU", {}, {"B": (1, 18)}, "B: expected shape"),
]


@pytest.mark.parametrize(("op", "attributes", "shapes", "message"), REFUSED)
def test_what_cannot_be_represented_is_refused_by_name(
    op: str, attributes: dict[str, Any], shapes: dict[str, Any], message: str
) -> None:
    arrays = example(op) | {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    proto = one_node(op, arrays, {"hidden_size": 6, **attributes})
    with pytest.raises(UnsupportedModel, match=f"ONNX: node 'cell' .{op}.: {message}"):
        read_onnx(proto)


@pytest.mark.parametrize("opset", [6, 99])
def test_other_opsets_are_refused(opset: int) -> None:
    with pytest.raises(UnsupportedModel, match=f"ONNX: expected opset 7 to 26, got {opset}"):
        read_onnx(one_node("GRU", example("GRU"), {"hidden_size": 6}, opset=opset))
