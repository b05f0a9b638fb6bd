"""Models as C99: compiled here, they have the bits of their streams; what would not is refused by name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exported
import numpy as np
import pytest
from checks import Array
from exported import HOST, Case, case, chained, recurrent

import recurra
from recurra import Node, Value
from recurra.activation import FUNCTIONS
from recurra.export import nodes as exported_nodes
from recurra.export import to_c
from recurra.export.arithmetic import needed
from recurra.export.cells import is_known
from recurra.formats.unsupported import UnsupportedModel

Bits = Callable[[list[Case]], str]
EDGES = [0.0, -0.0, 1.0, -1.0, 0.87, -0.87, 88.0, -88.0, -87.0, 3e38, -3e38, 1e-30, -1e-30, np.inf, -np.inf, np.nan]


def compiler(name: str) -> exported.Platform:
    platform = HOST[name]
    if platform.missing:
        pytest.skip(f"not installed: {platform.missing}")
    if recurra.config()["isa"] == "generic":
        pytest.skip("this machine has no fused multiply-add")
    return platform


@pytest.fixture(params=HOST)
def bits(request: pytest.FixtureRequest, tmp_path: Path) -> Bits:
    """Compiles cases with one of the compilers, runs them, and says what the program says."""
    platform = compiler(request.param)
    return lambda cases: exported.run(platform, exported.write(cases, tmp_path), tmp_path)


@pytest.mark.parametrize("precision", [None, "int8"])
def test_every_cell(bits: Bits, precision: str | None) -> None:
    assert bits(exported.every_cell(precision)) == "same bits"


def test_random_models(bits: Bits) -> None:
    assert bits(exported.random_models(25)) == "same bits"


def test_options_of_layers(bits: Bits) -> None:
    chosen: dict[str, Any] = {"activation": "softsign", "recurrent_activation": "hard_sigmoid", "clip": 0.7}
    again = recurra.GRU(18, 18, seed=9)
    layers = [
        recurra.LSTM(5, 18, cell_clip=0.3, proj_size=7, proj_bias=True, bias=False, seed=1),
        recurra.LSTM(7, 18, **chosen, output_activation="elu", peephole=True, seed=2),
        recurra.LSTM(18, 18, coupled=True, recurrent_activation="relu", seed=3),
        recurra.LSTM(18, 18, coupled="f_from_i", clip=0.5, seed=4),
        recurra.GRU(18, 18, **chosen, reset="before", update="write", seed=5),
        recurra.RNN(18, 18, nonlinearity=recurra.Activation("scaled_tanh", 1.2, 0.7), dropout=0.5, zoneout=0.1, seed=6),
        recurra.RNN(18, 18, nonlinearity=recurra.Activation("affine", 0.4, 0.1), num_layers=3, seed=7).quantize(
            "int8", keep=[1]
        ),
        recurra.LSTM(18, 18, layer_norm=True, cell_clip=0.2, bias=False, zoneout=(0.0, 0.3), seed=8),
        recurra.LSTM(18, 18, proj_size=5, zoneout=(0.3, 0.2), seed=12),
        recurra.SRU(5, 18, zoneout=0.25, seed=13),
        recurra.GRU(18, 18, layer_norm=True, zoneout=0.1, seed=14),
        again,
        again,
        recurra.MultiplicativeLSTM(18, 18, form="paper", bias_at="output", bias=False, seed=10),
        recurra.SLSTM(18, 18, heads=1, seed=11).quantize("int8"),
    ]
    assert bits([case("options", chained(layers))]) == "same bits"


def test_activations_at_their_edges(bits: Bits) -> None:
    nodes = [Node(recurra.Activation(name, *(_given(name))), ("x",), name) for name in FUNCTIONS]
    nodes += [Node(recurra.Softmax(), ("x",), "softmax"), Node(recurra.Sqrt(), ("x",), "root")]
    nodes += [Node(recurra.LayerNorm(9), ("x",), "norm"), Node(recurra.Softmax(log=True), ("x",), "log")]
    names = [node.name for node in nodes if node.name]
    model = recurra.Model(nodes, inputs={"x": Value((9,))}, outputs=names)
    random = np.random.default_rng(0)
    frames = random.standard_normal((600, 9)) * 10.0 ** random.uniform(-3, 2.5, (600, 1))
    frames[: len(EDGES)] = random.choice([*EDGES, 0.5, -3.0], (len(EDGES), 9))
    frames[-50:] = random.standard_normal((50, 9)) * 10.0 ** random.uniform(18, 37, (50, 1))  # squares overflow
    assert bits([case("edges", model, 600, [frames.astype("float32")])]) == "same bits"


def _given(name: str) -> tuple[float, ...]:
    return (
        (0.7, -0.3) if FUNCTIONS[name].parameters == ("alpha", "beta") else (0.3,) if FUNCTIONS[name].parameters else ()
    )


@pytest.mark.parametrize("precision", [None, "int8"])
def test_infinity_and_nan_reach_the_same_places(bits: Bits, precision: str | None) -> None:
    layers = [recurrent("gru", 5, 1), recurra.Linear(18, 5, seed=2), recurrent("lstm", 5, 3)]
    layers = [layer.quantize(precision) if precision and hasattr(layer, "quantize") else layer for layer in layers]
    frames = np.full((len(EDGES), 5), 0.5, "float32")
    frames[:, 3] = [*EDGES[:-3], 1e20, -np.inf, 0]
    assert bits([case("strange", chained(layers), len(EDGES), [frames])]) == "same bits"


def test_states_inputs_and_names(bits: Bits) -> None:
    names = ["int", "a b", "a_b", "größe", "*/", "3", "y", "rc_exp", "memcpy"]
    nodes = [Node(recurra.GRU(5, 4, 2, seed=1), ("x",), names[0])]
    nodes += [Node(recurra.Linear(4, 4, seed=k), (names[0],), name) for k, name in enumerate(names[1:])]
    nodes.append(Node(recurra.Concatenate(), (*names, "gain"), "all"))
    nodes.append(Node(recurra.Linear(8, 2, seed=3), ("int:h",), "ends"))
    inputs = {"x": Value((5,)), "gain": Value((3,), time=False), "unused": Value((), integer=True)}
    model = recurra.Model(nodes, inputs=inputs, outputs=["all", "int:h", "gain", "ends"])
    assert bits([case("names", model)]) == "same bits"


@pytest.mark.parametrize("precision", [None, "int8"])
def test_one_wrong_bit_is_found(tmp_path: Path, precision: str | None) -> None:
    layer = recurrent("gru", 5, 1)
    sources = exported.write([case("one", chained([layer.quantize(precision) if precision else layer]))], tmp_path)
    text = sources[0].read_text()
    first = text.index("layer1_weight_hh[")
    number = re.compile(r"-?0x1\.[0-9a-f]{6}p-\d+f" if precision is None else r"(?<=[ {])-?\d+(?=,)")
    found = number.search(text, text.index("{", first))
    assert found
    old = found.group()
    new = f"({old} + 0x1p-20f)" if precision is None else str(int(old) - 1)
    sources[0].write_text(text[: found.start()] + new + text[found.end() :])
    assert "one: other bits" in exported.run(compiler("gcc"), sources, tmp_path)


def test_code_calls_only_memcpy(tmp_path: Path) -> None:
    compiler("gcc")
    if not shutil.which("nm"):
        pytest.skip("not installed: nm")
    flags = ["-O1", *exported.STRICT, "-fno-stack-protector", "-fno-tree-loop-distribute-patterns", "-c"]
    for each in [*exported.every_cell("int8")[:2], *exported.random_models(8)]:
        _, source = each.model.to_c(tmp_path, each.name)
        made = tmp_path / "code.o"
        subprocess.run(["gcc", *flags, source, "-o", made], check=True)
        called = subprocess.run(["nm", "-u", made], check=True, capture_output=True, text=True).stdout.split()
        assert set(called) - {"U"} <= {"memcpy", "sqrtf", "_GLOBAL_OFFSET_TABLE_"}
        assert ("sqrtf" in source.read_text()) or "sqrtf" not in called


SOFTWARE = """
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#undef __FP_FAST_FMAF
#undef __FMA__
#undef __ARM_FEATURE_FMA
@functions
int main(void)
{
    uint64_t seed = 1;
    for (int i = 0; i < 3000000; ++i) {
        float v[3], got, wanted;
        for (int k = 0; k < 3; ++k) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            uint32_t bits = (uint32_t)(seed >> 32);
            if (i % 3) bits = (bits & 0x81ffffffu) | 0x3e000000u; /* of about one size: ties are common */
            if (i % 3 == 2) bits &= 0xfffff000u;
            memcpy(v + k, &bits, sizeof bits);
        }
        if (i % 5 == 0) v[2] = -(v[0] * v[1]);
        got = rc_fma(v[0], v[1], v[2]), wanted = fmaf(v[0], v[1], v[2]);
        if (memcmp(&got, &wanted, sizeof got) && !(isnan(got) && isnan(wanted)))
            return printf("%a * %a + %a\\n", (double)v[0], (double)v[1], (double)v[2]), 1;
    }
    return 0;
}
"""


def test_the_multiply_add_in_software_rounds_once(tmp_path: Path) -> None:
    compiler("gcc")
    source = tmp_path / "fma.c"
    source.write_text(SOFTWARE.replace("@functions", "\n".join(needed("rc_fma"))))
    command: list[Any] = ["gcc", "-std=c99", "-O2", "-ffp-contract=off", source, "-o", tmp_path / "fma", "-lm"]
    subprocess.run(command, check=True)
    ran = subprocess.run([tmp_path / "fma"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout


def test_c_plus_plus_takes_the_header(tmp_path: Path) -> None:
    if not shutil.which("g++"):
        pytest.skip("not installed: g++")
    of("tanh").to_c(tmp_path, "stateless")
    main = tmp_path / "main.cpp"
    main.write_text('#include "stateless.h"\nint main() { stateless_state s; stateless_reset(&s); return 0; }\n')
    flags = ["-std=c++17", "-Wall", "-Wextra", "-pedantic", "-Werror"]
    subprocess.run(["g++", *flags, "-c", main, "-o", tmp_path / "main.o"], check=True)
    subprocess.run(["gcc", *exported.STRICT, "-c", tmp_path / "stateless.c", "-o", tmp_path / "c.o"], check=True)
    subprocess.run(["g++", tmp_path / "main.o", tmp_path / "c.o", "-o", tmp_path / "main"], check=True)


@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_compilers_need_not_be_told_to_leave_sums_alone(name: str, tmp_path: Path) -> None:
    nodes = [recurra.Scale(5), recurra.LayerNorm(5), "softplus", recurra.GRU(5, 7, zoneout=0.2, seed=1)]
    model = recurra.Model([*nodes, recurra.Softmax(log=True)], inputs={"x": Value((5,))})
    random = np.random.default_rng(0)
    model.load_state_dict({n: random.uniform(-1, 1, a.shape).astype("float32") for n, a in model.state_dict().items()})
    sources = exported.write([case("plain", model, 200)], tmp_path)
    assert exported.run(compiler(name), sources, tmp_path, flags=["-O3"]) == "same bits"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="sets the mode of an x86-64")
def test_where_subnormal_numbers_are_flushed_they_have_the_same_bits_too(tmp_path: Path) -> None:
    layers = [
        recurrent("gru", 5, 1),
        recurra.Linear(18, 18, seed=2),
        recurra.Scale(18),
        recurrent("indrnn_relu", 18, 3),
    ]
    layers += [recurra.LayerNorm(18), "elu", recurra.LSTM(18, 18, bias=False, seed=4), recurra.Softmax()]
    model = chained(layers)
    random = np.random.default_rng(0)
    values = {n: a * random.choice([1, 1e-19, 1.5e-38], a.shape) for n, a in model.state_dict().items()}
    model.load_state_dict({n: a.astype("float32") for n, a in values.items()})
    frames = random.standard_normal((60, 5)) * 10.0 ** random.uniform(-40, 0, (60, 1))
    sources = exported.write([case("small", model, 60, [frames.astype("float32")])], tmp_path)
    platform = compiler("gcc")
    assert exported.run(platform, sources, tmp_path, [*exported.STRICT, "-DFLUSH"]) == "same bits"
    assert "other bits" in exported.run(platform, sources, tmp_path)


def test_flags_that_would_change_bits_do_not_compile(tmp_path: Path) -> None:
    compiler("gcc")
    _, source = chained([recurrent("gru", 5, 1)]).to_c(tmp_path)
    built = subprocess.run(["gcc", "-c", "-Ofast", source, "-o", tmp_path / "x.o"], capture_output=True, text=True)
    assert "-ffast-math and its parts reorder sums" in built.stderr


def of(*layers: Any, size: int = 5, **options: Any) -> recurra.Model:
    return recurra.Model(layers, inputs={"x": Value((size,))}, **options)


REFUSED = {
    "bidirectional": (lambda: of(recurra.GRU(5, 4, bidirectional=True)), "recurrent0.*bidirectional"),
    "reverse": (lambda: of(recurra.GRU(5, 4, direction="reverse")), "recurrent0.*backwards"),
    "bfloat16": (lambda: of(recurra.GRU(5, 4).quantize("bfloat16")), "recurrent0.*bfloat16"),
    "float64": (lambda: of(recurra.GRU(5, 4, dtype="float64")), "float32.*float64"),
    "mask": (lambda: of(recurra.Mask(), recurra.GRU(5, 4)), "'mask0'.*mask cannot be exported"),
    "stride": (lambda: of(recurra.Conv1d(5, 4, 3, 2, causal=True)), "conv1d0.*stride of 1.*got 2"),
    "future": (lambda: of(recurra.Conv1d(5, 4, 3)), "conv1d0.*later steps"),
    "Reverse": (lambda: of(recurra.Reverse()), "reverse0.*whole sequence"),
}


@pytest.mark.parametrize(("make", "match"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_exported_is_named(make: Callable[[], recurra.Model], match: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=f"^C: .*{match}"):
        make().to_c(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_cell_that_is_not_known_is_not_taken_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_known("lstm_new") and not is_known("gru_write_layer_norm") and not is_known("new")
    assert sum(map(is_known, recurra.cells())) >= 58
    monkeypatch.setattr(exported_nodes, "is_known", lambda cell: False)
    with pytest.raises(UnsupportedModel, match=r"^C: node 'recurrent0': cell 'gru' cannot be exported"):
        of(recurra.GRU(5, 4)).to_c(tmp_path)


@pytest.mark.parametrize(
    ("folder", "name", "kind", "match"),
    [
        (3, "model", TypeError, "folder: expected a path, got int"),
        ("x", 3, TypeError, "name: expected text, got int"),
        ("x", "a b", ValueError, "name: expected an identifier of C, got 'a b'"),
        ("x", "int", ValueError, "name: .*'int'"),
        ("x", "string", ValueError, "name: expected one that C and its library do not use, got 'string'"),
        ("x", "é", ValueError, "name: .*'é'"),
        ("x", "", ValueError, "name: .*''"),
    ],
)
def test_wrong_arguments_are_named(folder: Any, name: Any, kind: Any, match: str) -> None:
    with pytest.raises(kind, match=match):
        of(recurra.GRU(5, 4)).to_c(folder, name)
    with pytest.raises(TypeError, match=r"model: expected a recurra\.Model"):
        to_c(folder, ".")


def test_numbers_are_written_exactly(tmp_path: Path) -> None:
    values: Array = np.array([[0.1, -1e-40, 1e4, 65536, 2.0**-126, 3e38, -0.0]], "float32")
    model = of(recurra.Linear(7, 1, bias=False), size=7)
    model.load_state_dict({"linear0.weight": values})
    text = model.to_c(tmp_path)[1].read_text()
    row = re.search(r"linear0_weight\[7\] = .*?\{\s*(.*?)\s*\};", text, re.DOTALL)
    assert row
    numbers = [float.fromhex(n.strip()[:-1]) for n in row[1].split(",")]
    assert numbers == [float(v) if abs(v) > 1e-38 else 0.0 for v in values[0]]
