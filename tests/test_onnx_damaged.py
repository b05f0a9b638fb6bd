"""Damaged and hostile ONNX files: a clear error, or a model; never anything else."""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the parity extra is not installed: no onnx")
pytest.importorskip("onnxruntime", reason="the parity extra is not installed: no onnxruntime")

from onnx_files import parsed  # noqa: E402

import recurra  # noqa: E402
from recurra import Node, Value  # noqa: E402
from recurra.formats import UnsupportedModel  # noqa: E402
from recurra.formats.onnx import read_onnx, to_onnx  # noqa: E402


def originals() -> list[Any]:
    """Files in which every kind of node stands."""
    chain = [
        recurra.Conv1d(4, 6, 5, causal=True),
        "elu",
        recurra.LayerNorm(6),
        recurra.LSTM(6, 5, bidirectional=True, peephole=True),
        recurra.Linear(10, 4),
        recurra.Pool("max"),
        recurra.Softmax(),
    ]
    image = [recurra.Conv2d(1, 2, 3, padding=1), recurra.MaxPool2d(2), recurra.GRU(4, 3, reset="before", clip=0.5)]
    graph = [
        Node(recurra.GRU(4, 4), ("x",), "gru"),
        Node(recurra.Add(), ("gru", "x")),
        Node(recurra.Select([1, 0]), name="select"),
        Node(recurra.Concatenate(), ("select", "gru:h")),
    ]
    made = [
        to_onnx(recurra.Model(chain), opset=13),
        to_onnx(recurra.Model(image, inputs={"x": Value((1, 4))})),
        to_onnx(recurra.Model(graph, inputs={"x": Value((4,))}), states=True),
    ]
    shapes = """(float[B,T,4] x, int32[B] n) => (float[B,T,N] y) {
        t = Transpose <perm = [1, 0, 2]> (x) s = Shape (x) r = Slice (s, zero, one) f = Concat <axis = 0> (one, r, five)
        h = ConstantOfShape (f) Y, Yh = GRU <hidden_size = 5> (t, W, R, B, n, h) q = Squeeze (Y, one)
        z = Transpose <perm = [1, 0, 2]> (q) y = Reshape (z, shape) }"""
    generator = np.random.default_rng(1)
    weights = {
        n: generator.uniform(-1, 1, s).astype("f") for n, s in (("W", (1, 15, 4)), ("R", (1, 15, 5)), ("B", (1, 30)))
    }
    constants = {"zero": [0], "one": [1], "five": [5], "shape": [0, 0, -1]}
    made.append(parsed(shapes, **weights, **{n: np.array(v, np.int64) for n, v in constants.items()}))
    return made


ORIGINALS = originals()


def tried(data: bytes) -> bool:
    """Whether it is a model; an error must be the importer's own, and come soon."""
    begin = time.monotonic()
    try:
        read_onnx(data)
    except UnsupportedModel as error:
        assert str(error).startswith("ONNX: ")
        return False
    finally:
        assert time.monotonic() - begin < 20
    return True


@pytest.mark.parametrize("seed", range(4))
def test_bytes_that_were_changed(seed: int) -> None:
    generator, data = random.Random(seed), ORIGINALS[seed].SerializeToString()
    assert tried(data)
    for _ in range(250):
        mutated = bytearray(data)
        for _ in range(generator.choice((1, 1, 2, 8))):
            kind, at = generator.randrange(4), generator.randrange(len(mutated))
            if kind == 0:
                mutated[at] = generator.randrange(256)
            elif kind == 1:
                mutated[at] ^= 1 << generator.randrange(8)
            elif kind == 2:
                del mutated[at : at + generator.randrange(1, 9)]
            else:
                mutated[at:at] = generator.randbytes(generator.randrange(1, 5))
        tried(bytes(mutated))


@pytest.mark.parametrize("seed", range(4))
def test_files_that_were_cut_off(seed: int) -> None:
    data = ORIGINALS[seed].SerializeToString()
    for length in range(0, len(data), max(1, len(data) // 60)):
        tried(data[:length])


NUMBERS = (0, 1, -1, 2, 3, 1 << 31, -(1 << 31), (1 << 63) - 1, -(1 << 63), 100_000)


def mutate(proto: Any, generator: random.Random) -> None:
    """Change one thing of a graph that is still a graph."""
    graph = proto.graph
    node = generator.choice(graph.node)
    kind = generator.randrange(9)
    if kind == 0 and node.attribute:
        attribute = generator.choice(node.attribute)
        if attribute.type == onnx.AttributeProto.INTS and attribute.ints:
            attribute.ints[generator.randrange(len(attribute.ints))] = generator.choice(NUMBERS)
        elif attribute.type == onnx.AttributeProto.INT:
            attribute.i = generator.choice(NUMBERS)
        elif attribute.type == onnx.AttributeProto.FLOAT:
            attribute.f = generator.choice((0.0, -1.0, float("nan"), float("inf"), 1e38))
        else:
            attribute.type = generator.randrange(1, 12)
    elif kind == 1 and node.input:
        names = [name for each in graph.node for name in each.output] + [each.name for each in graph.initializer]
        node.input[generator.randrange(len(node.input))] = generator.choice([*names, "", "nowhere"])
    elif kind == 2:
        node.op_type = generator.choice(graph.node).op_type
    elif kind == 3 and node.attribute:
        del node.attribute[generator.randrange(len(node.attribute))]
    elif kind == 4 and graph.initializer:
        tensor = generator.choice(graph.initializer)
        if tensor.dims:
            tensor.dims[generator.randrange(len(tensor.dims))] = generator.choice(NUMBERS)
    elif kind == 5 and graph.initializer:
        generator.choice(graph.initializer).data_type = generator.randrange(24)
    elif kind == 6 and graph.initializer:
        whole = [each for each in graph.initializer if each.data_type == onnx.TensorProto.INT64]
        if whole:
            tensor = generator.choice(whole)
            array = np.frombuffer(tensor.raw_data, np.int64).copy()
            if array.size:
                array[generator.randrange(array.size)] = generator.choice(NUMBERS)
            tensor.raw_data = array.tobytes()
    elif kind == 7:
        dims = generator.choice(graph.input).type.tensor_type.shape.dim
        if dims:
            generator.choice(dims).dim_value = generator.choice(NUMBERS)
    else:
        del node.input[generator.randrange(len(node.input) + 1) :]


@pytest.mark.parametrize("seed", range(8))
def test_graphs_that_were_changed(seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(150):
        proto = onnx.ModelProto()
        proto.CopyFrom(ORIGINALS[seed % 4])
        for _ in range(generator.choice((1, 1, 2, 3))):
            mutate(proto, generator)
        tried(proto.SerializeToString())


HOSTILE = [
    ("s = Shape (x) y = ConstantOfShape (big)", "constants alone|got a constant"),
    ("c = ConstantOfShape (big) y = Add (x, c)", "is too large"),
    ("c = Expand (w, big) y = Add (x, c)", "is too large"),
    ("c = Range (b, z, d) y = Add (x, c)", "expected a range that ends"),
    ("c = Tile (w, big) y = Add (x, c)", "is too large|cannot be read|shape"),
    ("y = Expand (x, wide)", "shape: expected"),
    ("s = Shape (x) t = Concat <axis = 0> (s, half) c = Expand (w, t) y = Tanh (c)", "is too large"),
    ("y = Pad (x, huge)", "pads"),
    ("a = Unsqueeze (x, deep) y = Tanh (a)", "axis: expected one of"),
]


@pytest.mark.parametrize(("body", "message"), HOSTILE)
def test_sizes_that_do_not_fit_in_memory(body: str, message: str) -> None:
    constants = {
        "big": np.array([1 << 20, 1 << 20, 1 << 20]),
        "w": np.ones((1, 1, 4), np.float32),
        "b": np.array(0),
        "z": np.array(1 << 62),
        "d": np.array(1),
        "wide": np.array([1, 1, 1 << 60]),
        "deep": np.array([1 << 40]),
        "half": np.array([1 << 31]),
        "huge": np.array([0, 0, 1 << 50, 0, 0, 0]),
    }
    proto = parsed("(float[B,T,1] x) => (float[B,T,4] y) {" + body + "}", **constants)
    with pytest.raises(UnsupportedModel, match=message):
        read_onnx(proto)


def test_a_chain_of_many_nodes() -> None:
    body = " ".join(f"x{i + 1} = Transpose <perm = [0, 2, 1]> (x{i})" for i in range(3000))
    proto = parsed("(float[B,T,4] x0) => (float[B,T,4] y) {" + body + " y = Tanh (x3000) }")
    assert list(read_onnx(proto).model.layers) == ["y"]


def test_no_model_at_all() -> None:
    for data in (b"", b"\x00", b"hello", b"\x0a\x00" * 50):
        with pytest.raises(UnsupportedModel, match=r"^ONNX: "):
            read_onnx(data)
    with pytest.raises(TypeError, match=r"source: expected a path, bytes or an onnx.ModelProto, got 3"):
        read_onnx(3)
    with pytest.raises(FileNotFoundError):
        read_onnx("/nowhere/model.onnx")
