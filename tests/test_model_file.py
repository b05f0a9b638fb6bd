"""recurra's own file: the same model comes back, bit for bit, and what is damaged is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import assert_same_bits

import recurra
from recurra import Node, Value
from recurra._cells import SEQUENCE_CELLS
from recurra.formats import UnsupportedModel
from recurra.formats.guitarml import load_guitarml
from recurra.formats.nam import load_nam
from recurra.formats.rtneural import load_rtneural, to_rtneural
from recurra.formats.safetensors import read
from recurra.model.structure import OPERATIONS, kind_of, structure_of

MODELS: dict[str, Callable[[str], recurra.Model]] = {
    "chain": lambda dtype: recurra.Model(
        [
            recurra.Conv1d(12, 8, 3, dilation=2, groups=4, causal=True, dtype=dtype, seed=0),
            recurra.Activation("leaky_relu", alpha=0.1),
            recurra.GRU(8, 8, num_layers=2, dropout=0.1, zoneout=0.1, clip=3.0, dtype=dtype, seed=1),
            recurra.LayerNorm(8, bias=False, dtype=dtype),
            recurra.Dropout(0.25),
            recurra.Linear(8, 2, bias=False, dtype=dtype, seed=2),
            "relu",
            recurra.Sqrt(),
            recurra.Softmax(log=True),
        ],
        batch_first=True,
    ),
    "graph": lambda dtype: recurra.Model(
        [
            Node(recurra.Embedding(9, 6, dtype=dtype, seed=0), ("tokens",), "table"),
            Node(recurra.Mask(0.0), ("table", "tokens")),
            Node(recurra.LSTM(6, 5, bidirectional=True, dtype=dtype, seed=1), name="encoder"),
            Node(recurra.Select([1, 0, 1]), ("picture",)),
            Node(
                recurra.LSTM(3, 10, initial_state=False, dtype=dtype), ("select0", "encoder:h", "encoder:c"), "ébauche"
            ),
            Node(recurra.Pool("mean"), ("encoder",)),
            Node(recurra.Repeat(4)),
            Node(recurra.Add(), ("ébauche", "pool0")),
            Node(recurra.Scale(10, dtype=dtype)),
            Node(recurra.Concatenate(), ("scale0", "ébauche")),
            Node(recurra.Multiply(), ("concatenate0", "concatenate0")),
            Node(recurra.Reverse()),
        ],
        inputs={"tokens": Value((), integer=True), "picture": Value((2, 2))},
        outputs=["reverse0", "encoder:c"],
    ),
    "two dimensions": lambda dtype: recurra.Model(
        [
            recurra.Reshape((2, 16)),
            recurra.Conv2d(2, 4, (3, 5), (1, 2), ((2, 0), 2), dtype=dtype, seed=0),
            recurra.MaxPool2d((1, 2)),
            recurra.AvgPool2d((2, 1), 1, ((1, 0), 0)),
            recurra.LSTM(
                16, 6, proj_size=3, proj_bias=True, peephole=True, cell_clip=2.0, initial_state=True, dtype=dtype
            ),
        ],
        inputs={"x": Value((32,))},
    ),
}
SMALL = MODELS["chain"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_to_the_bit(name: str, dtype: str, tmp_path: Path) -> None:
    model = MODELS[name](dtype)
    found, random = assert_comes_back(model, tmp_path), np.random.default_rng(0)
    x: dict[str, Any] = {}
    for key, value in model.inputs.items():
        shape = (6, 6, *value.features)
        x[key] = random.integers(0, 9, shape) if value.integer else random.standard_normal(shape).astype(dtype)
    assert_same_bits(found(x), model(x))


@pytest.mark.parametrize("cell", sorted(SEQUENCE_CELLS))
def test_every_cell_comes_back(cell: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"proj_size": 2} if SEQUENCE_CELLS[cell].projected else {}
    assert_comes_back(recurra.Model([recurra.Recurrent(cell, 4, 4, 2, **options, seed=0)]), tmp_path)


@pytest.mark.parametrize(("precision", "keep"), [("int8", []), ("int8", [1]), ("bfloat16", [0])])
def test_precision_comes_back_with_unrounded_parameters(precision: str, keep: list[int], tmp_path: Path) -> None:
    layer = recurra.GRU(5, 40, num_layers=2, seed=0).quantize(precision, keep=keep)
    found = assert_comes_back(recurra.Model([layer]), tmp_path).layers["recurrent0"]
    assert (found.precision, found.keep) == (precision, tuple(keep))
    x = np.random.default_rng(0).standard_normal((7, 3, 5), "float32")
    assert found(x)[0].tobytes() == layer(x)[0].tobytes()


def test_strange_numbers_come_back(tmp_path: Path) -> None:
    layer = recurra.Linear(3, 2)
    weight = np.array([[np.nan, np.inf, -0.0], [1e-45, -np.inf, 3.4e38]], "float32")
    layer.load_state_dict({"weight": weight, "bias": np.zeros(2, "float32")})
    found = assert_comes_back(recurra.Model([layer]), tmp_path)
    assert found.state_dict()["linear0.weight"].tobytes() == weight.tobytes()


def assert_comes_back(model: recurra.Model, folder: Path) -> recurra.Model:
    first, second = folder / "first.safetensors", folder / "second"
    model.save(first)
    found = recurra.load(first)
    assert found.structure == model.structure
    parameters = found.state_dict()
    assert parameters.keys() == model.state_dict().keys()
    for name, array in model.state_dict().items():
        assert (parameters[name].dtype, parameters[name].shape) == (array.dtype, array.shape)
        assert parameters[name].tobytes() == array.tobytes()
    found.save(second)
    assert second.read_bytes() == first.read_bytes()
    return found


DOCS = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")


def test_the_page_about_the_file_lists_all_nodes_and_their_attributes() -> None:
    table = DOCS[DOCS.index("| `kind` |") : DOCS.index("What each computes")]
    rows = [line.strip("|").split(" | ") for line in table.splitlines()[2:] if line.startswith("|")]
    listed = {kind: row[1] for row in rows for kind in re.findall(r"`(\w+)`", row[0])}
    layers: list[Any] = [layer for make in MODELS.values() for layer in make("float32").layers.values()]
    layers.append(recurra.Recurrent("gru", 2, 2))
    assert set(listed) == {"recurrent", "linear", "embedding", "activation", *OPERATIONS}
    assert set(listed) == {kind_of(layer) for layer in layers}
    for layer in layers:
        for name in set(structure_of(layer)) - {"kind"}:
            text = listed[kind_of(layer)]
            assert f"`{name}`" in text or "the same" in text or "as of `conv2d`" in text, (kind_of(layer), name)


def test_a_reader_of_one_page_reads_the_file(tmp_path: Path) -> None:
    model = MODELS["graph"]("float64")
    model.save(tmp_path / "model")
    data = (tmp_path / "model").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = header.pop("__metadata__")
    assert (metadata["format"], metadata["version"]) == ("recurra", "1") and (8 + length) % 8 == 0
    assert json.loads(metadata["model"]) == model.structure
    assert header.keys() == model.state_dict().keys()
    for name, tensor in header.items():
        begin, end = tensor["data_offsets"]
        array = np.frombuffer(rest[begin:end], {"F32": "<f4", "F64": "<f8"}[tensor["dtype"]]).reshape(tensor["shape"])
        assert array.tobytes() == model.state_dict()[name].tobytes()
    assert len(rest) == sum(array.nbytes for array in model.state_dict().values())


def test_other_software_reads_the_file(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    from safetensors.numpy import load_file, save_file  # type: ignore[import-not-found, unused-ignore]

    model = SMALL("float32")
    model.save(tmp_path / "model.safetensors")
    with safetensors.safe_open(tmp_path / "model.safetensors", "numpy") as file:
        assert file.metadata()["format"] == "recurra" and file.metadata()["version"] == "1"
        assert json.loads(file.metadata()["model"]) == model.structure
        metadata = file.metadata()
    arrays = load_file(tmp_path / "model.safetensors")
    assert {name: array.tobytes() for name, array in arrays.items()} == {
        name: array.tobytes() for name, array in model.state_dict().items()
    }
    save_file(arrays, tmp_path / "theirs.safetensors", metadata)
    assert_same(recurra.load(tmp_path / "theirs.safetensors"), model)
    wide = {"half": np.arange(6, dtype="float16").reshape(2, 3), "flag": np.array([True, False]), "n": np.arange(3)}
    save_file(wide, tmp_path / "wide.safetensors")
    _, found = read(tmp_path / "wide.safetensors")
    assert found["half"].dtype == np.float32 and (found["half"] == wide["half"]).all()
    assert (found["flag"] == wide["flag"]).all() and (found["n"] == wide["n"]).all()


def assert_same(found: recurra.Model, wanted: recurra.Model) -> None:
    assert found.structure == wanted.structure
    for name, array in wanted.state_dict().items():
        assert found.state_dict()[name].tobytes() == array.tobytes()


def test_bfloat16_of_others_is_read_as_float32(tmp_path: Path) -> None:
    values = np.array([1.5, -2.0, 3e38, np.inf], "float32")
    halves = (values.view("uint32") >> 16).astype("<u2").tobytes()
    write_file(tmp_path / "b", {"w": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}, halves)
    _, found = read(tmp_path / "b")
    rounded = (values.view("uint32") & 0xFFFF0000).view("float32")
    assert found["w"].dtype == np.float32 and found["w"].tobytes() == rounded.tobytes()


def test_empty_tensors_of_others_are_read(tmp_path: Path) -> None:
    entries = {"none": {"dtype": "F32", "shape": [0, 3], "data_offsets": [4, 4]}}
    entries["one"] = {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}
    write_file(tmp_path / "e", entries, np.float32(7).tobytes())
    _, found = read(tmp_path / "e")
    assert found["none"].shape == (0, 3) and found["one"].shape == () and found["one"] == 7


def write_file(path: Path, header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    model = recurra.Model([recurra.Linear(2, 2, seed=0)])
    model.save(tmp_path / "whole")
    whole, file = (tmp_path / "whole").read_bytes(), tmp_path / "cut.safetensors"
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.safetensors"):
            recurra.load(file)
    file.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="bytes follow the last tensor"):
        recurra.load(file)


def linear(bias: bool = True) -> dict[str, Any]:
    return {"name": "a", "inputs": ["x"], "kind": "linear", "in_features": 2, "out_features": 2, "bias": bias}


WHOLE: dict[str, Any] = {
    "inputs": [{"name": "x", "features": [2], "time": True, "integer": False}],
    "nodes": [linear()],
    "outputs": ["a"],
    "dtype": "float32",
    "batch_first": False,
}
RECURRENT = recurra.Model([recurra.GRU(2, 2)]).structure["nodes"][0] | {"name": "a"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": []}, "parameters: expected those of the nodes"),
        ({"nodes": [linear() | {"out_features": 2**40}]}, "'a': expected parameters of shapes"),
        ({"nodes": [linear() | {"out_features": 2.0}]}, "out_features: expected an integer"),
        ({"nodes": [linear() | {"kind": "pickle"}]}, "kind: expected a layer of recurra"),
        ({"nodes": [linear() | {"kind": ["linear"]}]}, "kind: expected text"),
        ({"nodes": [linear() | {"device": "cuda"}]}, r"unknown \['device'\]"),
        ({"nodes": [linear() | {"seed": 1}]}, r"unknown \['seed'\]"),
        ({"nodes": [linear() | {"bias": 1}]}, "bias: expected True or False"),
        ({"nodes": [linear(False)]}, "expected parameters of shapes"),
        ({"nodes": [linear(), linear()]}, "expected parameters of shapes"),
        ({"nodes": [linear() | {"inputs": ["y"]}]}, "inputs of 'a': expected names of what stands before"),
        ({"nodes": [linear() | {"inputs": [["x"]]}]}, "inputs of 'a': expected text"),
        ({"nodes": [RECURRENT | {"num_layers": 2**62}]}, "num_layers"),
        ({"nodes": [RECURRENT | {"hidden_size": 2**62}]}, "expected parameters of shapes"),
        ({"nodes": [RECURRENT | {"cell": "nonesuch"}]}, "cell: expected one of"),
        ({"nodes": [RECURRENT | {"zoneout": {}}]}, "expected"),
        ({"nodes": [RECURRENT | {"keep": [0]}]}, "expected"),
        ({"nodes": "a"}, "nodes: expected a list"),
        ({"outputs": []}, "outputs"),
        ({"outputs": ["b"]}, "outputs"),
        ({"outputs": [["a"]]}, "outputs"),
        ({"dtype": "float64"}, "expected float64, got float32"),
        ({"dtype": "float16"}, "dtype"),
        ({"dtype": None}, "dtype"),
        ({"batch_first": 0}, "batch_first"),
        ({"inputs": []}, "expected at least one"),
        ({"inputs": [{"name": "x", "features": ["a"], "time": True, "integer": False}]}, "features"),
        ({"inputs": [{"name": "x", "features": [2, 1, 1], "time": True, "integer": False}]}, "features"),
        ({"inputs": WHOLE["inputs"] * 2}, "'x' again"),
        ({"version": 2}, r"unknown \['version'\]"),
    ],
)
def test_wrong_structures_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    text = json.dumps(WHOLE | change)
    write_own(tmp_path / "wrong", text)
    with pytest.raises(ValueError, match=message):
        recurra.load(tmp_path / "wrong")


def write_own(path: Path, model: str, **metadata: str) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "recurra", "version": "1", "model": model} | metadata}
    header["a.weight"] = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    header["a.bias"] = {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]}
    write_file(path, header, bytes(24))


def test_the_structure_of_these_tests_is_right(tmp_path: Path) -> None:
    write_own(tmp_path / "right", json.dumps(WHOLE))
    assert recurra.load(tmp_path / "right").structure == WHOLE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nests too deep"),
        ("{" * 3, "no JSON"),
        ('{"inputs": 1, "inputs": 2}', "every key only once"),
        ('{"inputs": NaN}', "expected a number, got NaN"),
        ('{"inputs": 1' + "0" * 5000 + "}", "no JSON"),
        ("[]", "expected a JSON object"),
        (json.dumps(WHOLE).replace("[2]", "[1e400]"), "features"),
    ],
)
def test_text_that_is_no_structure_is_refused(text: str, message: str, tmp_path: Path) -> None:
    write_own(tmp_path / "wrong", text)
    with pytest.raises(ValueError, match=message):
        recurra.load(tmp_path / "wrong")


def test_later_versions_are_refused(tmp_path: Path) -> None:
    write_own(tmp_path / "later", json.dumps(WHOLE), version="2")
    with pytest.raises(ValueError, match="expected version 1, got '2'"):
        recurra.load(tmp_path / "later")


def test_an_infinity_among_attributes_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    model = recurra.Model([recurra.Mask(float("inf"))], inputs={"x": Value((2,))})
    with pytest.raises(ValueError, match="finite numbers"):
        model.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model"
    recurra.Model([recurra.Linear(2, 2, seed=0)]).save(path)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        recurra.Model([recurra.Linear(2, 2, seed=1)]).save(path)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.tflite", b"anything", "TFLite"),
        ("model", b"\x1c\0\0\0TFL3", "TFLite"),
        ("model.bin", b"hello", "got something else"),
        ("empty", b"", "got something else"),
        ("model.json", b'{"name": "x"}', 'an object of "name"'),
        ("model.json", b'  {"a": [}', "no JSON"),
        ("model.keras", b"PK\x03\x04 damaged", "damaged zip"),
    ],
)
def test_other_files_are_refused_by_name(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        recurra.load(tmp_path / name)


def test_folders_and_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="got a folder"):
        recurra.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        recurra.load(tmp_path / "missing.onnx")


class Angry:
    """A path that cannot be had."""

    def __fspath__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("path", [None, 3, b"model", ["model"], Angry()])
def test_what_is_no_path_is_refused(path: Any) -> None:
    model = recurra.Model([recurra.Linear(1, 1)])
    uses: list[Callable[[Any], Any]] = [recurra.load, model.save]
    uses += [] if path is None else [partial(to_rtneural, model)]
    for use in uses:
        with pytest.raises(TypeError, match="path: expected a file's path"):
            use(path)
    for load in (load_rtneural, load_nam, load_guitarml):
        with pytest.raises(TypeError, match="source: expected a file's path"):
            load(path)
