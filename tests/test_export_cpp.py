"""Models as C++ headers: compiled here, they have the bits of their streams."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import exported
import numpy as np
import pytest
from exported import HOST_CPP, STRICT_CPP, case, chained, recurrent

import recurra
from recurra.export import to_cpp
from recurra.formats.unsupported import UnsupportedModel


def compiler(name: str) -> exported.Platform:
    platform, isa = HOST_CPP[name], str(recurra.config()["isa"])
    if platform.missing:
        pytest.skip(f"not installed: {platform.missing}")
    if isa == "generic" or ("AVX-512" in name and "avx512" not in isa):
        pytest.skip(f"this machine does not run {name}")
    return platform


@pytest.fixture
def one() -> exported.Platform:
    """What g++ has here: for what does not depend on the vectors."""
    return compiler("g++, AVX2" if "g++, AVX2" in HOST_CPP else next(iter(HOST_CPP)))


@pytest.mark.parametrize("name", HOST_CPP)
def test_all_widths(name: str, tmp_path: Path) -> None:
    sources = exported.write_cpp(exported.all_widths(), tmp_path)
    assert exported.run(compiler(name), sources, tmp_path, [*STRICT_CPP, "-O2"]) == "same bits"


def test_every_cell(one: exported.Platform, tmp_path: Path) -> None:
    sources = exported.write_cpp(exported.every_cell(None, num_layers=1), tmp_path)
    assert exported.run(one, sources, tmp_path, STRICT_CPP) == "same bits"


def test_random_models(one: exported.Platform, tmp_path: Path) -> None:
    cases = [*exported.random_models(6), case("int8", chained([recurra.GRU(5, 18, 2, seed=1).quantize("int8")]))]
    assert exported.run(one, exported.write_cpp(cases, tmp_path), tmp_path, STRICT_CPP) == "same bits"


@pytest.mark.parametrize("name", list(HOST_CPP)[-2:])
def test_compilers_need_not_be_told_to_leave_sums_alone(name: str, tmp_path: Path) -> None:
    nodes = [recurra.Scale(5), recurra.LayerNorm(5), "softplus", recurra.GRU(5, 7, zoneout=0.2, seed=1)]
    model = recurra.Model([*nodes, recurra.Softmax(log=True)], inputs={"x": recurra.Value((5,))})
    random = np.random.default_rng(0)
    model.load_state_dict({n: random.uniform(-1, 1, a.shape).astype("float32") for n, a in model.state_dict().items()})
    sources = exported.write_cpp([case("plain", model, 200)], tmp_path)
    assert exported.run(compiler(name), sources, tmp_path, ["-std=c++17", "-O3"]) == "same bits"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="looks at instructions of an x86-64")
@pytest.mark.parametrize("name", list(HOST_CPP)[-2:])
def test_sums_behind_the_header_are_the_compilers_affair_again(name: str, tmp_path: Path) -> None:
    recurra.Model([recurra.GRU(1, 4)]).to_cpp(tmp_path, "net")
    source = tmp_path / "own.cpp"
    source.write_text('#include "net.hpp"\nfloat own(float a, float b, float c) { return a * b + c; }\n')
    command: list[Any] = [*compiler(name).compiler, "-O2", "-S", source, "-o", "-"]
    assert "vfmadd" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_one_wrong_bit_is_found(one: exported.Platform, tmp_path: Path) -> None:
    sources = exported.write_cpp([case("one", chained([recurrent("gru", 5, 1)]))], tmp_path)
    header = tmp_path / "one.hpp"
    text = header.read_text()
    found = re.compile(r"-?0x1\.[0-9a-f]{6}p-\d+f").search(text, text.index("layer1_weight_hh["))
    assert found
    header.write_text(f"{text[: found.start()]}({found.group()} + 0x1p-20f){text[found.end() :]}")
    said = exported.run(one, sources, tmp_path, STRICT_CPP)
    assert "one: other bits of output" in said and "one: other bits of all steps" in said


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="looks at the mode of an x86-64")
def test_run_counts_small_numbers_as_zero_and_puts_the_mode_back(one: exported.Platform, tmp_path: Path) -> None:
    model = chained([recurrent("gru", 5, 1), recurra.Scale(18), recurrent("indrnn_relu", 18, 3)])
    random = np.random.default_rng(0)
    values = {n: a * random.choice([1, 1e-19, 1.5e-38], a.shape) for n, a in model.state_dict().items()}
    model.load_state_dict({n: a.astype("float32") for n, a in values.items()})
    frames = random.standard_normal((60, 5)) * 10.0 ** random.uniform(-40, 0, (60, 1))
    sources = exported.write_cpp([case("small", model, 60, [frames.astype("float32")])], tmp_path)
    steps = exported.run(one, sources, tmp_path, STRICT_CPP)
    assert "other bits of output" in steps and "all steps" not in steps
    main, call = sources[0].read_text(), "wrong += run_small() + whole_small();"
    look = "(void)run_small; wrong += _mm_getcsr() != 0x1f80 || whole_small() || _mm_getcsr() != 0x1f80;"
    sources[0].write_text(main.replace(call, look))
    assert exported.run(one, sources, tmp_path, STRICT_CPP) == "same bits"
    sources[0].write_text(main.replace(call, f"const small::Flush flush; {call}"))
    assert exported.run(one, sources, tmp_path, STRICT_CPP) == "same bits"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="of two kinds of x86-64")
def test_files_for_several_processors_live_in_one_program(one: exported.Platform, tmp_path: Path) -> None:
    recurra.Model([recurra.GRU(1, 17, seed=1)]).to_cpp(tmp_path, "net")
    objects = []
    for name, flags in {"old": [], "wide": ["-mavx2", "-mfma"]}.items():
        source = tmp_path / f"{name}.cpp"
        source.write_text(
            f'#include "net.hpp"\nint {name}(net::State &s)\n{{\n    float x[1] = {{1}}, y[17];\n'
            "    const net::Flush flush;\n    net::reset(s), net::step(s, x, y);\n    return int(1000 * y[3]);\n}\n"
        )
        objects.append(source.with_suffix(".o"))
        command: list[Any] = ["g++", "-O0", *STRICT_CPP, *flags, "-c", source, "-o", objects[-1]]
        subprocess.run(command, check=True)
    main = tmp_path / "main.cpp"
    main.write_text(
        '#include "net.hpp"\nint old(net::State &);\nint wide(net::State &);\n'
        "int main() { net::State s; return old(s) != wide(s); }\n"
    )
    subprocess.run(["g++", main, "-std=c++17", *objects, "-o", tmp_path / "main"], check=True)
    assert subprocess.run([tmp_path / "main"]).returncode == 0
    # Nothing that a linker would have once for both.
    names = [subprocess.run(["nm", "-C", each], check=True, capture_output=True, text=True).stdout for each in objects]
    assert not any(re.search(r" [WVu] .*net::", each) for each in names)


def test_flags_that_would_change_bits_do_not_compile(one: exported.Platform, tmp_path: Path) -> None:
    header = recurra.Model([recurra.GRU(1, 4)]).to_cpp(tmp_path)
    for flag in (
        "-Ofast",
        "-funsafe-math-optimizations",
        "-freciprocal-math",
        "-fno-signed-zeros",
        "-ffinite-math-only",
    ):
        command: list[Any] = [one.compiler[0], "-x", "c++", "-c", flag, header, "-o", tmp_path / "x.o"]
        assert "-ffast-math and its parts" in subprocess.run(command, capture_output=True, text=True).stderr


def test_names_that_differ_in_case_are_two_models(one: exported.Platform, tmp_path: Path) -> None:
    source = tmp_path / "both.cpp"
    for name in ("net", "Net"):
        recurra.Model([recurra.GRU(1, 4)]).to_cpp(tmp_path, name)
    source.write_text('#include "net.hpp"\n#include "Net.hpp"\nnet::State one;\nNet::State other;\n')
    subprocess.run([*one.compiler, *STRICT_CPP, "-c", source, "-o", tmp_path / "both.o"], check=True)


def test_what_cannot_be_exported_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"^C\+\+: .*recurrent0.*bidirectional"):
        recurra.Model([recurra.GRU(5, 4, bidirectional=True)]).to_cpp(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("folder", "name", "kind", "match"),
    [
        (3, "model", TypeError, "folder: expected a path, got int"),
        ("x", 3, TypeError, "name: expected text, got int"),
        ("x", "a b", ValueError, r"name: expected an identifier of C\+\+, got 'a b'"),
        ("x", "namespace", ValueError, "name: .*'namespace'"),
        ("x", "gamma", ValueError, r"name: expected one that C\+\+ and its library do not use, got 'gamma'"),
        ("x", "tanhf", ValueError, r"name: expected one that C\+\+ and its library do not use, got 'tanhf'"),
        ("x", "linux", ValueError, r"name: expected one that C\+\+ and its library do not use, got 'linux'"),
        ("x", "concept", ValueError, r"name: expected one that C\+\+ and its library do not use, got 'concept'"),
    ],
)
def test_wrong_arguments_are_named(folder: Any, name: Any, kind: Any, match: str) -> None:
    with pytest.raises(kind, match=match):
        recurra.Model([recurra.GRU(5, 4)]).to_cpp(folder, name)
    with pytest.raises(TypeError, match=r"model: expected a recurra\.Model"):
        to_cpp(folder, ".")


def test_the_plug_in_of_the_documentation_compiles(one: exported.Platform, tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "embedded.md").read_text(encoding="utf-8")
    _, shown = re.findall(r"```cpp\n(.*?)```", page, re.DOTALL)
    recurra.Model([recurra.GRU(1, 4), recurra.Linear(4, 1)]).to_cpp(tmp_path, "amplifier")
    source = tmp_path / "plugin.cpp"
    source.write_text(f"{shown}\nvoid use(Channel &c, const float *in, float *out) {{ c.process(in, out, 64); }}\n")
    command: list[Any] = [*one.compiler, *STRICT_CPP, "-c", source, "-o", tmp_path / "plugin.o"]
    subprocess.run(command, check=True)
