"""What stands around recurrent operators: each operator of the table in docs/formats-onnx.md, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close

ort = pytest.importorskip("onnxruntime", reason="the parity extra is not installed: no onnxruntime")
onnx = pytest.importorskip("onnx", reason="the parity extra is not installed: no onnx")

from onnx_files import check, ours, parsed, runtime  # noqa: E402

import recurra  # noqa: E402
from recurra.formats import UnsupportedModel  # noqa: E402
from recurra.formats.onnx import load_onnx, read_onnx  # noqa: E402


def random(*shape: int) -> Array:
    return np.random.default_rng(abs(hash(shape)) % 1000).uniform(-1, 1, shape).astype("float32")


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


GRU = {"W": random(1, 15, 4), "R": random(1, 15, 5), "B": random(1, 30)}
STEPS = "(float[B,T,4] x) => (float[B,T,N] y) "
RUN = " t = Transpose <perm = [1, 0, 2]> (x) Y, Yh = GRU <hidden_size = 5> (t, W, R, B) "

# Body behind the input x [B, T, 4], constants, kinds of the model's nodes.
BODIES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("y = MatMul (x, w)", {"w": random(4, 3)}, ["linear"]),
    ("a = MatMul (x, w) y = Add (a, b)", {"w": random(4, 3), "b": random(3)}, ["linear"]),
    ("a = MatMul (x, w) y = Add (b, a)", {"w": random(4, 3), "b": random(1, 1, 3)}, ["linear"]),
    ("y = Add (x, b)", {"b": random(4)}, ["scale"]),
    ("y = Sub (b, x)", {"b": random(4)}, ["scale"]),
    ("y = Div (x, b)", {"b": random(4) + 2}, ["scale"]),
    ("y = Mul (x, b)", {"b": random(1)}, ["scale"]),
    ("y = Mul (x, x)", {}, ["multiply"]),
    ("a = Relu (x) y = Sub (x, a)", {}, ["activation", "scale", "add"]),
    ("a = Sigmoid (x) b = Tanh (x) y = Sum (a, b, x)", {}, ["activation", "activation", "add"]),
    ("a = Slice (x, s, e, ax) y = Mul (x, a)", {"s": ints(1), "e": ints(2), "ax": ints(2)}, ["select", "multiply"]),
    ("y = Softmax <axis = -1> (x)", {}, ["softmax"]),
    ("y = LogSoftmax <axis = 2> (x)", {}, ["softmax"]),
    ("y = LeakyRelu <alpha = 0.3> (x)", {}, ["activation"]),
    ("y = Elu (x)", {}, ["activation"]),
    ("y = HardSigmoid <alpha = 0.3> (x)", {}, ["activation"]),
    ("y = ThresholdedRelu <alpha = 0.3> (x)", {}, ["activation"]),
    ("y = Softplus (x)", {}, ["activation"]),
    ("y = Softsign (x)", {}, ["activation"]),
    ("y = Selu (x)", {}, ["activation", "scale"]),
    ("y = Celu <alpha = 0.5> (x)", {}, ["scale", "activation", "scale"]),
    ("y = HardSwish (x)", {}, ["activation", "multiply"]),
    ("y = Mish (x)", {}, ["activation", "activation", "multiply"]),
    ("y = Abs (x)", {}, ["activation", "scale", "activation", "add"]),
    ("y = Neg (x)", {}, ["scale"]),
    ("a = Mul (x, x) y = Sqrt (a)", {}, ["multiply", "sqrt"]),
    ("a = Pow (x, e) y = Pow (a, f)", {"e": np.float32(2), "f": np.float32(0.5)}, ["multiply", "sqrt"]),
    ("y = PRelu (x, s)", {"s": random(4)}, ["activation", "scale", "activation", "scale", "add"]),
    ("y = PRelu (x, s)", {"s": random(1)}, ["activation"]),
    ("y = Clip (x, a, b)", {"a": np.float32(-0.3), "b": np.float32(0.6)}, ["activation", "scale"]),
    ("y = Clip (x, a)", {"a": np.float32(-0.3)}, ["scale", "activation", "scale"]),
    ("y = Clip (x, , b)", {"b": np.float32(0.3)}, ["scale", "activation", "scale"]),
    ("y = Max (x, b)", {"b": random(4)}, ["scale", "activation", "scale"]),
    ("y = Min (x, b)", {"b": random(1)}, ["scale", "activation", "scale"]),
    ("a = Tanh (x) y = Max (x, a)", {}, ["activation", "scale", "scale", "add", "activation", "add"]),
    ("y = Pow (x, b)", {"b": np.float32(3)}, ["multiply"]),
    ("y = LayerNormalization <axis = -1> (x, s, b)", {"s": random(4), "b": random(4)}, ["layer_norm"]),
    ("y = LayerNormalization <epsilon = 0.1> (x, s)", {"s": random(4)}, ["layer_norm"]),
    ("y = ReduceMean <axes = [2]> (x)", {}, ["linear"]),
    ("y = ReduceMax <axes = [-1]> (x)", {}, ["reshape", "max_pool2d"]),
    ("y = ReduceSum (x, a)", {"a": ints(2)}, ["linear"]),
    ("y = Gather <axis = 2> (x, i)", {"i": ints(3, 0, -1)}, ["select"]),
    ("y = Slice (x, s, e, a, p)", {"s": ints(-1), "e": ints(-99), "a": ints(2), "p": ints(-2)}, ["select"]),
    (
        "a, b = Split <axis = -1> (x, s) y = Concat <axis = 2> (b, a, x)",
        {"s": ints(1, 3)},
        ["select", "select", "concatenate"],
    ),
    ("a = Unsqueeze (x, i) b = Squeeze (a, i) y = Identity (b)", {"i": ints(1)}, []),
    (
        "a = Reshape (x, s) b = MatMul (a, w) y = Reshape (b, r)",
        {"s": ints(0, -1, 2, 2), "w": random(2, 3), "r": ints(0, 0, 6)},
        ["select", "reshape", "conv2d", "select"],
    ),
    ("a = Dropout (x) y = Cast <to = 1> (a)", {}, []),
    (
        "a = Transpose <perm = [0, 2, 1]> (x) b = BatchNormalization (a, s, o, m, v) "
        "y = Transpose <perm = [0, 2, 1]> (b)",
        {"s": random(4), "o": random(4) / 2, "m": random(4) / 3, "v": random(4) ** 2 + 1},
        ["scale"],
    ),
    (
        "a = Pad (x, p) y = MatMul (a, w)",
        {"p": ints(0, 0, 1, 0, 0, 2), "w": random(7, 3)},
        ["reshape", "conv2d", "linear"],
    ),
    ('y = Pad <mode = "reflect"> (x, p)', {"p": ints(0, 0, 2, 0, 0, 1)}, ["select"]),
    ("y = Pad (x, p)", {"p": ints(0, 2, 0, 0, 1, 0)}, ["conv1d"]),
    ("y = Slice (x, s, e, a)", {"s": ints(1), "e": ints(-2), "a": ints(1)}, ["conv1d"]),
    (
        "y = Slice (x, s, e, a, p)",
        {"s": ints(1), "e": ints(1 << 62), "a": ints(1), "p": ints(2)},
        ["conv1d", "max_pool2d"],
    ),
    ("y = Slice (x, s, e, a, p)", {"s": ints(-1), "e": ints(-(1 << 62)), "a": ints(1), "p": ints(-1)}, ["reverse"]),
    ("y = MatMul (x, w) ", {"w": random(1, 4, 2)}, ["linear"]),
    ("y = Tile (x, r)", {"r": ints(1, 1, 3)}, ["select"]),
    (
        "a = Reshape (x, s) b = Tile (a, r) y = Reshape (b, f)",
        {"s": ints(0, 0, 2, 2), "r": ints(1, 1, 3, 2), "f": ints(0, 0, 24)},
        ["select"],
    ),
    (
        "a = Reshape (x, s) b = Tile (a, r) y = Reshape (b, f)",
        {"s": ints(0, 0, 1, 4), "r": ints(1, 1, 2, 1), "f": ints(0, 0, 8)},
        ["select"],
    ),
    (
        "a = DequantizeLinear (q, s, z) y = MatMul (x, a)",
        {"q": np.arange(12, dtype=np.int8).reshape(4, 3), "s": np.float32(0.1), "z": np.int8(4)},
        ["linear"],
    ),
]


@pytest.mark.parametrize(("body", "constants", "kinds"), BODIES, ids=[body for body, *_ in BODIES])
def test_operators_on_sequences(body: str, constants: dict[str, Any], kinds: list[str]) -> None:
    opset = 18 if "Mish" in body else 17
    proto = parsed(STEPS + "{" + body + "}", opset, **constants)
    if not kinds:  # a model needs a node
        proto = parsed(STEPS + "{" + body.replace("y =", "z =") + " y = Tanh (z)}", opset, **constants)
        kinds = ["activation"]
    imported = check(proto, {"x": random(3, 7, 4)}, 2e-6)
    assert [node["kind"] for node in imported.model.structure["nodes"]] == kinds
    assert imported.model.batch_first


POOLED = "(float[B,T,4] x) => (float[B,N] y) "
ENDS: list[tuple[str, dict[str, Any]]] = [
    ("y = Squeeze (Yh, i)", {"i": ints(0)}),
    ("s = Squeeze (Y, j) y = Gather <axis = 0> (s, k)", {"j": ints(1), "k": np.array(-1)}),
    (
        "s = Squeeze (Y, j) b = Transpose <perm = [1, 0, 2]> (s) l = Slice (b, f, e, j) y = Squeeze (l, j)",
        {"j": ints(1), "f": ints(-1), "e": ints(1 << 40)},
    ),
    ("s = Squeeze (Y, j) y = ReduceMean <axes = [0], keepdims = 0> (s)", {"j": ints(1)}),
    ("s = Squeeze (Y, j) y = ReduceMax <axes = [0], keepdims = 0> (s)", {"j": ints(1)}),
    (
        "s = Squeeze (Y, j) b = Transpose <perm = [1, 2, 0]> (s) p = GlobalAveragePool (b) y = Flatten (p)",
        {"j": ints(1)},
    ),
    (
        "s = Squeeze (Y, j) b = Transpose <perm = [1, 2, 0]> (s) p = GlobalMaxPool (b) y = Squeeze (p, k)",
        {"j": ints(1), "k": ints(2)},
    ),
    (
        "s = Squeeze (Y, j) l = Gather <axis = 0> (s, k) y = Gemm <transB = 1> (l, w, c)",
        {"j": ints(1), "k": np.array(-1), "w": random(3, 5), "c": random(3)},
    ),
    (
        "s = Squeeze (Yh, i) y = Gemm <alpha = 0.5, beta = 2.0> (s, w, c)",
        {"i": ints(0), "w": random(5, 3), "c": random(1, 3)},
    ),
    (
        "s = Squeeze (Y, j) l = Gather <axis = 0> (s, z) h = Squeeze (Yh, i) y = Concat <axis = 1> (l, h)",
        {"j": ints(1), "z": np.array(0), "i": ints(0)},
    ),
]


@pytest.mark.parametrize(("body", "constants"), ENDS, ids=[body for body, _ in ENDS])
def test_one_value_for_each_row(body: str, constants: dict[str, Any]) -> None:
    check(parsed(POOLED + "{" + RUN + body + "}", **GRU, **constants), {"x": random(3, 7, 4)}, 3e-6)


CHANNELS = "(float[B,4,T] x) => (float[B,N,M] y) "
CONVOLUTIONS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("y = Conv (x, w, b)", {"w": random(6, 4, 3), "b": random(6)}, ["conv1d"]),
    ("y = Conv <pads = [4, 0], dilations = [2]> (x, w)", {"w": random(6, 4, 3)}, ["conv1d"]),
    ("y = Conv <strides = [2], pads = [1, 1]> (x, w)", {"w": random(6, 4, 4)}, ["conv1d"]),
    ("y = Conv <group = 4, pads = [1, 1]> (x, w)", {"w": random(8, 1, 3)}, ["conv1d"]),
    ('y = Conv <auto_pad = "SAME_UPPER"> (x, w)', {"w": random(6, 4, 4)}, ["conv1d"]),
    ('y = Conv <auto_pad = "SAME_LOWER"> (x, w)', {"w": random(6, 4, 4)}, ["conv1d"]),
    ("y = Conv (x, w)", {"w": random(6, 4, 1)}, ["linear"]),
    ("p = Pad (x, q) y = Conv (p, w)", {"q": ints(0, 0, 4, 0, 0, 0), "w": random(6, 4, 5)}, ["conv1d"]),
    (
        "c = Conv <pads = [4, 4]> (x, w) y = Slice (c, s, e, a)",
        {"w": random(6, 4, 5), "s": ints(0), "e": ints(-4), "a": ints(2)},
        ["conv1d"],
    ),
    (
        "c = Conv (x, w) b = BatchNormalization (c, s, o, m, v) y = Relu (b)",
        {"w": random(6, 4, 3), "s": random(6), "o": random(6), "m": random(6), "v": random(6) ** 2 + 1},
        ["conv1d", "activation"],
    ),
    (
        "u = Unsqueeze (x, i) c = Conv <pads = [0, 1, 0, 1]> (u, w) y = Squeeze (c, i)",
        {"i": ints(2), "w": random(6, 4, 1, 3)},
        ["conv1d"],
    ),
    ("y = MaxPool <kernel_shape = [3], strides = [2], pads = [1, 1]> (x)", {}, ["max_pool2d"]),
    ("y = AveragePool <kernel_shape = [2], strides = [2]> (x)", {}, ["avg_pool2d"]),
    (
        "y = AveragePool <kernel_shape = [3], strides = [1], pads = [1, 1], count_include_pad = 1> (x)",
        {},
        ["avg_pool2d"],
    ),
    (
        "c = Conv (x, w) e = Slice (x, s, f, a) y = Add (c, e)",
        {"w": random(4, 4, 3), "s": ints(2), "f": ints(1 << 40), "a": ints(2)},
        ["conv1d", "conv1d", "add"],
    ),
    ("y = MatMul (w, x)", {"w": random(3, 4)}, ["linear"]),
]


@pytest.mark.parametrize(("body", "constants", "kinds"), CONVOLUTIONS, ids=[body for body, *_ in CONVOLUTIONS])
def test_windows_over_time(body: str, constants: dict[str, Any], kinds: list[str]) -> None:
    imported = check(parsed(CHANNELS + "{" + body + "}", **constants), {"x": random(2, 4, 13)}, 3e-6)
    assert [node["kind"] for node in imported.model.structure["nodes"]] == kinds


IMAGES: list[tuple[str, str, dict[str, Any], list[int]]] = [
    ("1,T,8", "y = Conv <pads = [2, 1, 0, 1]> (x, w, b)", {"w": random(3, 1, 3, 3), "b": random(3)}, [2, 1, 9, 8]),
    (
        "2,8,T",
        "y = Conv <strides = [2, 1], dilations = [1, 2], pads = [0, 2, 0, 2]> (x, w)",
        {"w": random(3, 2, 4, 3)},
        [2, 2, 8, 9],
    ),
    ("2,8,T", "y = MaxPool <kernel_shape = [2, 3], strides = [2, 1], pads = [0, 1, 0, 1]> (x)", {}, [2, 2, 8, 9]),
    ("2,T,8", "y = AveragePool <kernel_shape = [1, 4], strides = [1, 4]> (x)", {}, [2, 2, 9, 8]),
    (
        "2,T,8",
        "c = Conv (x, w) y = BatchNormalization (c, s, o, m, v)",
        {"w": random(3, 2, 1, 3), "s": random(3), "o": random(3) / 2, "m": random(3) / 3, "v": random(3) ** 2 + 1},
        [2, 2, 9, 8],
    ),
    ("4,T,8", "y = Conv <group = 2> (x, w)", {"w": random(6, 2, 2, 3)}, [2, 4, 9, 8]),
    ("2,T,8", "y = ReduceMean <axes = [3]> (x)", {}, [2, 2, 9, 8]),
    ("2,T,8", "y = ReduceMax <axes = [1]> (x)", {}, [2, 2, 9, 8]),
    ("2,T,8", "y = Pad (x, p)", {"p": ints(0, 0, 0, 1, 0, 0, 0, 2)}, [2, 2, 9, 8]),
    ("2,T,8", 'y = Pad <mode = "edge"> (x, p)', {"p": ints(0, 0, 0, 1, 0, 0, 0, 2)}, [2, 2, 9, 8]),
]


@pytest.mark.parametrize(("shape", "body", "constants", "sizes"), IMAGES, ids=[body for _, body, *_ in IMAGES])
def test_windows_over_time_and_width(shape: str, body: str, constants: dict[str, Any], sizes: list[int]) -> None:
    proto = parsed(f"(float[B,{shape}] x) => (float[B,M,N,K] y) {{{body}}}", **constants)
    check(proto, {"x": random(*sizes)}, 3e-6)


def test_directions_written_as_two_operators() -> None:
    """As Keras's Bidirectional is exported: forwards, and backwards over what ReverseSequence gives."""
    body = """{
        t = Transpose <perm = [1, 0, 2]> (x)
        shape = Shape (x) steps = Gather <axis = 0> (shape, one) rows = Slice (shape, zero, ones)
        many = Expand (steps, rows) lengths = Cast <to = 6> (many) long = Cast <to = 7> (many)
        Y, Yh = GRU <hidden_size = 5> (t, W, R, B, lengths)
        r = ReverseSequence <time_axis = 0, batch_axis = 1> (t, long)
        Z, Zh = GRU <hidden_size = 5> (r, W, R, B)
        back = Squeeze (Z, ones) again = ReverseSequence <time_axis = 0, batch_axis = 1> (back, long)
        there = Squeeze (Y, ones) both = Concat <axis = 2> (there, again)
        y = Transpose <perm = [1, 0, 2]> (both)
    }"""
    constants = {"one": np.array(1), "ones": ints(1), "zero": ints(0)}
    imported = check(parsed(STEPS + body, **GRU, **constants), {"x": random(3, 7, 4)}, 3e-6)
    kinds = [node["kind"] for node in imported.model.structure["nodes"]]
    assert kinds == ["recurrent", "reverse", "recurrent", "reverse", "concatenate"]


def test_zero_states_made_from_shapes() -> None:
    body = """{
        t = Transpose <perm = [1, 0, 2]> (x)
        shape = Shape (x) rows = Gather <axis = 0> (shape, zero) r = Unsqueeze (rows, zeros)
        full = Concat <axis = 0> (ones, r, five) h = ConstantOfShape (full)
        Y, Yh = GRU <hidden_size = 5> (t, W, R, B, , h)
        y = Squeeze (Y, ones)
    }"""
    constants = {"zero": np.array(0), "zeros": ints(0), "ones": ints(1), "five": ints(5)}
    imported = check(parsed(STEPS + body, **GRU, **constants), {"x": random(3, 7, 4)}, 3e-6)
    assert not imported.state_inputs and not imported.initial


def test_a_condition_that_is_constant_chooses_its_branch() -> None:
    body = """{
        c = Equal (rate, wanted)
        y = If (c) <then_branch = a () => (float[B,T,4] p) { p = Tanh (x) },
                    else_branch = b () => (float[B,T,4] q) { q = Exp (x) }>
    }"""
    proto = parsed("(float[B,T,4] x, int64 rate) => (float[B,T,N] y) " + body, wanted=np.array(16000))
    x = random(2, 3, 4)
    model = load_onnx(proto, constants={"rate": np.array(16000)})
    assert_close(recurra_call(model, x), np.tanh(x), 1e-6)
    with pytest.raises(UnsupportedModel, match=r"q|Exp.*operator is not supported"):
        load_onnx(proto, constants={"rate": np.array(8000)})
    with pytest.raises(ValueError, match="constants: expected names of inputs"):
        load_onnx(proto, constants={"speed": np.array(8000)})


def recurra_call(model: recurra.Model, x: Array) -> Array:
    y: Array = model(x)
    return y


def test_sizes_that_a_file_leaves_open_can_be_given() -> None:
    """Samples of one frame, which a file calls just a sequence, are features then."""
    body = """(float[B,samples] x, float[1,B,5] h) => (float[B,5] y, float[1,B,5] g) {
        c = Unsqueeze (x, one) f = Conv <strides = [4]> (c, w) s = ReduceMax <axes = [2], keepdims = 0> (f)
        t = Unsqueeze (s, zero) Y, g = GRU <hidden_size = 5> (t, W, R, B, , h) q = Squeeze (Y, one)
        y = Squeeze (q, zero) }"""
    proto = parsed(body, **GRU, one=ints(1), zero=ints(0), w=random(4, 1, 4))
    with pytest.raises(UnsupportedModel, match="expected a sequence"):
        read_onnx(proto)
    imported = check(proto, {"x": random(3, 32), "h": random(1, 3, 5)}, 3e-6, shapes={"x": (None, 32)})
    assert imported.model.inputs["x"].features == (32,)
    for shapes, message in (
        ({"z": (None,)}, "shapes: expected names of inputs"),
        ({"x": (None,)}, "shapes of 'x': expected 2 sizes"),
        ({"h": (2, None, 5)}, "shapes of 'h': expected 1 as the file has it, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            read_onnx(proto, shapes=shapes)


REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    (STEPS, "y = Erf (x)", {}, r"'y' \(Erf\): operator is not supported"),
    (
        STEPS,
        "a = Transpose <perm = [0, 2, 1]> (x) y = MatMul (x, a)",
        {},
        r"'y' \(MatMul\): B: expected constant weights",
    ),
    (STEPS, "y = Softmax <axis = 1> (x)", {}, r"'y' \(Softmax\): expected features in axis 1"),
    (STEPS, "a = Tanh (x) y = Div (x, a)", {}, r"'y' \(Div\): B: expected a constant"),
    (STEPS, "y = Concat <axis = 1> (x, x)", {}, r"'y' \(Concat\): axis: expected features, got time"),
    (STEPS, "y = Tile (x, r)", {"r": ints(1, 2, 1)}, r"'y' \(Tile\): expected sizes .* got a comparison of T"),
    (STEPS, "y = Tile (x, r)", {"r": ints(1, 1, 0)}, r"'y' \(Tile\): repeats: expected some of features, got 0"),
    (STEPS, "y = Tile (x, r)", {"r": ints(2, 1)}, r"'y' \(Tile\): repeats: expected one for each of 3 axes, got 2"),
    (STEPS, "y = CumSum (x, a)", {"a": np.array(1)}, r"'y' \(CumSum\): operator is not supported"),
    (STEPS, "y = Reshape (x, s)", {"s": ints(0, -1, 8)}, r"'y' \(Reshape\): expected a shape that keeps time"),
    (
        STEPS,
        'y = Pad <mode = "reflect"> (x, p)',
        {"p": ints(0, 2, 0, 0, 2, 0)},
        r"'y' \(Pad\): mode: expected constant",
    ),
    (STEPS, "y = Pad (x, p, v)", {"p": ints(0, 2, 0, 0, 2, 0), "v": np.float32(1)}, r"'y' \(Pad\): value: expected 0"),
    (STEPS, "y = Gather <axis = 1> (x, i)", {"i": ints(3)}, r"'y' \(Gather\): indices: expected the first or the last"),
    (STEPS, "y = Cast <to = 7> (x)", {}, r"'y' \(Cast\): to: expected floating-point numbers, as goes in, got type 7"),
    (STEPS, "y = Cast <to = 9> (x)", {}, r"'y' \(Cast\): to: expected floating-point numbers, as goes in, got type 9"),
    (STEPS, "y = Pow (x, e)", {"e": np.float32(1.5)}, r"'y' \(Pow\): Y: expected 0.5, 1, 2 or 3"),
    (STEPS, "y = ReduceSum (x, a)", {"a": ints(1)}, r"'y' \(ReduceSum\): axes: expected features, got time"),
    (
        CHANNELS,
        "y = AveragePool <kernel_shape = [3], pads = [1, 1]> (x)",
        {},
        r"'y' \(AveragePool\): count_include_pad",
    ),
    (CHANNELS, "y = MaxPool <kernel_shape = [3], strides = [2], ceil_mode = 1> (x)", {}, r"'y' \(MaxPool\): ceil_mode"),
    (
        CHANNELS,
        'y = Conv <strides = [2], auto_pad = "SAME_UPPER"> (x, w)',
        {"w": random(4, 4, 3)},
        r"'y' \(Conv\): auto_pad",
    ),
    (CHANNELS, "y = ConvTranspose (x, w)", {"w": random(4, 4, 3)}, r"'y' \(ConvTranspose\): operator is not supported"),
]


@pytest.mark.parametrize(("head", "body", "constants", "message"), REFUSED, ids=[body for _, body, *_ in REFUSED])
def test_what_cannot_be_represented_is_refused_by_name(
    head: str, body: str, constants: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedModel, match=f"^ONNX: node {message}"):
        read_onnx(parsed(head + "{" + body + "}", **constants))


def test_windows_that_do_not_know_the_lengths_are_refused() -> None:
    text = "(float[B,T,4] x, int32[B] n) => (float[B,N] y) {" + RUN.replace("B)", "B, n)")
    for body in ("s = Squeeze (Y, j) y = ReduceMax <axes = [0], keepdims = 0> (s) }",):
        with pytest.raises(UnsupportedModel, match=r"ReduceMax.*looks at several steps without sequence_lens"):
            read_onnx(parsed(text + body, **GRU, j=ints(1)))
    proto = parsed(text + "y = Squeeze (Yh, i) }", **GRU, i=ints(0))
    assert check(proto, {"x": random(3, 7, 4), "n": np.array([3, 7, 1], np.int32)}, 3e-6).lengths == "n"


def test_axes_of_open_size_may_be_batch_or_time_whatever_they_are_called() -> None:
    text = "(float[{}] x) => (float[M,N,K] y) {{ {} }}"
    run = "Y, Yh = GRU <hidden_size = 5> (t, W, R, B) y = Squeeze (Y, i)"
    for shape, layout, first in (
        ("a,b,4", "t = Identity (x)", False),
        ("a,b,4", "t = Transpose <perm = [1, 0, 2]> (x)", True),
        ("batch,time,4", "t = Identity (x)", False),  # names that mislead
        ("4,a,b", "t = Transpose <perm = [2, 1, 0]> (x)", True),
        ("3,7,4", "t = Transpose <perm = [1, 0, 2]> (x)", True),
        ("1,1,4", "t = Identity (x)", None),
    ):
        proto = parsed(text.format(shape, layout + " " + run), **GRU, i=ints(1))
        sizes = [{"a": 3, "b": 7, "batch": 3, "time": 7}.get(each, 0) or int(each) for each in shape.split(",")]
        imported = check(proto, {"x": random(*sizes)}, 3e-6)
        assert first is None or imported.model.batch_first == first


def test_a_step_of_a_stream_as_a_file_is_a_stream_here() -> None:
    """x [B, 4] and h in, y and h out: the file knows one step, and the model any number."""
    body = """(float[B,4] x, float[1,B,5] h) => (float[B,2] y, float[1,B,5] g) {
        t = Unsqueeze (x, i) Y, g = GRU <hidden_size = 5> (t, W, R, B, , h)
        s = Squeeze (Y, j) z = Squeeze (s, i) y = Gemm (z, w) }"""
    proto = parsed(body, **GRU, i=ints(0), j=ints(1), w=random(5, 2))
    imported = check(proto, {"x": random(3, 4), "h": random(1, 3, 5)}, 3e-6)
    assert list(imported.model.inputs) == ["x"] and imported.model.inputs["x"].time
    x, h = random(6, 3, 4), np.zeros((1, 3, 5), np.float32)
    stream = imported.model.stream(3)
    for frame in x:
        expected = runtime(proto, {"x": frame, "h": h})
        h = expected["g"]
        assert_close(stream.step(frame), expected["y"], 3e-6)


def test_the_two_lines(tmp_path: Any) -> None:
    proto = parsed(STEPS + "{" + RUN + " s = Squeeze (Y, j) y = Transpose <perm = [1, 0, 2]> (s)}", **GRU, j=ints(1))
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    model = recurra.load(path)
    x = random(1, 9, 4)
    expected = runtime(proto, {"x": x})["y"]
    assert_close(model(x), expected, 3e-6)
    stream = model.stream()
    assert_close(np.stack([stream.step(frame) for frame in x[0]]), expected[0], 3e-6)
    assert_close(ours(read_onnx(path), {"x": x})["y"], expected, 3e-6)
