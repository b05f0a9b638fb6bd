"""python -m recurra cuda on a GPU, or over its stand-in: kernels compiled ahead, the self-test, times; bench/gpu.py."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import TESTS, Array
from cuda_arrays import require_gpu

import recurra
import recurra.__main__
from recurra import _core
from recurra.cuda import buffers, kernels, report, selftest, times
from recurra.cuda.array_libraries import current_stream, library_of
from recurra.cuda.buffers import Buffer
from recurra.cuda.selftest import Case

require_gpu()

SMALL = Case("gru", "float32", "exact", 4, 3, 5, 6)
ON_STAND_IN = "stand-in" in _core.cuda.device(0)["name"]


def runs_as_documented(thing: Any, **names: Any) -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(
        thing, thing.__name__, extraglobs={"recurra": recurra, **names}
    )
    printed: list[str] = []
    doctest.DocTestRunner().run(example, out=printed.append)
    assert example.examples and not printed, "".join(printed)


def test_a_library_is_registered_as_documented() -> None:
    class DeviceNDArray:
        """Numba's is this one's namesake."""

    found = types.SimpleNamespace(devicearray=types.SimpleNamespace(DeviceNDArray=DeviceNDArray))
    runs_as_documented(recurra.cuda.register_library, numba=types.SimpleNamespace(cuda=found))
    library = library_of("x", DeviceNDArray())
    assert type(library).__name__ == "Numba" and current_stream(library, 0) == 0


# ---- compiling


def test_what_is_compiled_ahead_is_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECURRA_CACHE_DIR", str(tmp_path))
    wanted = kernels.units(["gru"], ["float32"])
    runs_as_documented(recurra.cuda.precompile)
    assert len(wanted) + 2 == len(list(tmp_path.iterdir()))
    assert recurra.cuda.precompile(["gru"], ["float32"]) == 0
    recurra.GRU(2, 3, device="cuda")
    assert len(list(tmp_path.iterdir())) == len(wanted) + 2


@pytest.mark.parametrize(
    ("engine", "dtype", "of_tiles"), [("exact-resident", "float32", 2), ("cublas-resident", "bfloat16", 0)]
)
def test_what_runs_all_steps_is_compiled_ahead_for_a_layer(
    engine: str, dtype: str, of_tiles: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for the number of rows, but for what it decides: 900 are in tiles of 4, in 16 bits all are in tiles of 8."""
    monkeypatch.setenv("RECURRA_CACHE_DIR", str(tmp_path))
    x: Any = Buffer.of(np.ones((3, 2, 5), "float32"), dtype)
    layer = recurra.LSTM(5, 90, device="cuda", dtype=dtype, engine=engine)  # a size that no other test here has
    before = _core.cuda.compilations()
    assert recurra.cuda.precompile(layer.to("cuda", engine="auto"), batch=2) == 0
    assert recurra.cuda.precompile(layer, batch=[2, 3, 1]) == _core.cuda.compilations() - before == 2
    _, _, tape = layer.forward(x)
    dy: Any = Buffer.of(np.ones((3, 2, 90), "float32"), dtype)
    tape.backward(dy)
    assert recurra.cuda.precompile(layer, batch=2) == 0
    assert _core.cuda.compilations() == before + 2
    assert recurra.cuda.precompile(layer, batch=900) == of_tiles


def test_every_cell_and_dtype_is_compiled() -> None:
    everything = kernels.units()
    assert {unit.name for unit in everything} > set(recurra.cells())
    assert len({(unit.name, unit.dtype) for unit in everything}) == len(everything)
    assert len({(unit.source, *unit.options) for unit in everything}) == len(everything)
    assert {unit.dtype for unit in everything} == {"float32", "float64", "float16", "bfloat16"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"cells": ["mgu"]}, "cells: expected one of .*, got 'mgu'"),
        ({"dtypes": ["int8"]}, "dtypes: expected one of .*, got 'int8'"),
        ({"device": "cuda:99"}, "got cuda:99"),
        ({"device": "cpu"}, "device: expected 'cuda' or 'cuda:0', got 'cpu'"),
    ],
)
def test_what_cannot_be_compiled_is_named(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        recurra.cuda.precompile(**arguments)


def test_a_layer_that_cannot_be_compiled_ahead_is_named() -> None:
    with pytest.raises(TypeError, match=r"layer: expected a layer of sequences on a GPU, got GRU on the CPU"):
        recurra.cuda.precompile(recurra.GRU(2, 3))
    layer = recurra.GRU(2, 3, device="cuda", engine="exact-resident")
    with pytest.raises(ValueError, match=r"^batch: "):
        recurra.cuda.precompile(layer, batch=[1, 0])
    with pytest.raises(TypeError, match=r"^batch: expected an integer"):
        recurra.cuda.precompile(layer, batch=1.5)  # type: ignore[arg-type]


# ---- plans


def test_a_plan_is_explained() -> None:
    runs_as_documented(recurra.cuda.explain)
    layer = recurra.GRU(2, 3, device="cuda", engine="exact-steps")
    assert recurra.cuda.explain(layer, 5, 2).startswith("exact")
    assert "backward" in recurra.cuda.explain(layer, 5, 2, training=True)
    for wrong, complaint in (
        ((recurra.GRU(2, 3), 5, 2), "layer: expected a layer of sequences on a GPU, got GRU on the CPU"),
        ((recurra.Linear(2, 3, device="cuda"), 5, 2), "layer: expected a layer of sequences on a GPU, got Linear$"),
        (("gru", 5, 2), "layer: expected a layer of sequences on a GPU, got str"),
        ((layer, 2.5, 2), "steps: expected an integer"),
        ((layer, 5, True), "batch: expected an integer"),
    ):
        with pytest.raises(TypeError, match=f"^{complaint}"):
            recurra.cuda.explain(*wrong)
    for steps, batch, name in ((0, 2, "steps"), (5, -1, "batch")):
        with pytest.raises(ValueError, match=f"^{name}: "):
            recurra.cuda.explain(layer, steps, batch)
    with pytest.raises(TypeError, match=r"^training: "):
        recurra.cuda.explain(layer, 5, 2, training=1)  # type: ignore[arg-type]


# ---- buffers


def test_a_buffer_keeps_and_rounds_numbers() -> None:
    numbers = np.array([[0.0, -0.0, 1.0, 1.00390625, 1.01171875, -3.0e38, 1e-40, np.inf, np.nan]], "float32")
    assert Buffer.of(numbers).to_host().tobytes() == numbers.tobytes()
    # Halfway between two bfloat16, 1.00390625 goes down and 1.01171875 up, to even.
    want = np.array([[0.0, -0.0, 1.0, 1.0, 1.015625, -3.004055e38, 9.18355e-41, np.inf, np.nan]], "float32")
    np.testing.assert_allclose(Buffer.of(numbers, "bfloat16").to_host(), want, rtol=1e-5)
    np.testing.assert_array_equal(Buffer.of(numbers[:, :5], "bfloat16").to_host(), want[:, :5])
    np.testing.assert_array_equal(Buffer.of(numbers[:, :5], "float16").to_host(), numbers[:, :5].astype("float16"))
    np.testing.assert_array_equal(buffers.rounded(numbers[:, :5], "bfloat16"), want[:, :5])
    empty = Buffer.of(np.zeros((3, 0, 2)))
    assert empty.pointer == 0
    assert empty.to_host().shape == (3, 0, 2)


def test_memory_of_a_buffer_that_has_died_is_used_again() -> None:
    first = Buffer((1, 12345), "float32")
    pointer = first.pointer
    other = Buffer((1, 12345), "float32")
    assert other.pointer != pointer
    del first
    assert Buffer((12345,), "float32").pointer == pointer


def test_layers_take_buffers_and_return_them() -> None:
    x = np.random.default_rng(0).standard_normal((4, 3, 5), "float32")
    layer = recurra.LSTM(5, 6, seed=0)
    there: Any = layer.to("cuda", engine="exact")
    y, (_, c) = there(Buffer.of(x))
    want, (_, want_c) = layer(x)
    assert isinstance(y, Buffer)
    assert y.to_host().tobytes() == want.tobytes()
    assert c.to_host().tobytes() == want_c.tobytes()
    with pytest.raises(TypeError, match="x: expected float32, got float16"):
        there(Buffer.of(x, "float16"))
    elsewhere = Buffer.of(x)
    elsewhere.device = 1
    with pytest.raises((TypeError, ValueError), match=r"x: expected .* got a buffer on cuda:1"):
        there(elsewhere)
    elsewhere.device = 0


# ---- the self-test


def test_the_self_test_takes_every_cell_engine_and_dtype() -> None:
    everything = list(selftest.cases())
    assert {case.cell for case in everything if case.engine == "exact"} == set(recurra.cells())
    assert {case.cell for case in everything if case.engine == "cublas"} == set(recurra.cells())
    assert {(case.engine, case.dtype) for case in everything} == {
        ("exact", "float32"),
        ("exact", "float64"),
        ("exact-resident", "float32"),
        ("exact-resident", "float64"),
        ("cublas", "float32"),
        ("cublas", "float64"),
        ("cublas", "float16"),
        ("cublas", "bfloat16"),
        ("cublas-resident", "float16"),
        ("cublas-resident", "bfloat16"),
    }


@pytest.mark.parametrize("case", list(selftest.cases(("gru", "lstm_projected"))), ids=str)
def test_the_gpu_passes_the_self_test(case: Case) -> None:
    assert [str(one) for one in selftest.compare(case) if one.wrong] == []


def altered(monkeypatch: pytest.MonkeyPatch, name: str, change: Any) -> None:
    """Changes one of the CPU's results."""
    right = selftest._on_cpu

    def wrong(*arguments: Any) -> dict[str, Array]:
        found = right(*arguments)
        found[name] = change(found[name].copy())
        return found

    monkeypatch.setattr(selftest, "_on_cpu", wrong)


def one_bit(array: Array) -> Array:
    array.view("uint32").flat[-1] ^= 1
    return array


def some_nan(array: Array) -> Array:
    array.flat[0] = np.nan
    return array


@pytest.mark.parametrize("name", ["y", "final state 0", "d x", "d initial state 0", "d weight_hh_l0", "d bias_ih_l0"])
def test_the_self_test_sees_a_single_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    altered(monkeypatch, name, one_bit)
    assert [one.result for one in selftest.compare(SMALL) if one.wrong] == [name]


@pytest.mark.parametrize("change", [lambda a: a + 1e-3, some_nan])
def test_the_self_test_sees_what_rounding_does_not_explain(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    altered(monkeypatch, "d weight_ih_l0", change)
    case = SMALL._replace(engine="cublas")
    assert [one.result for one in selftest.compare(case) if one.wrong] == ["d weight_ih_l0"]


def test_minus_zero_is_not_zero() -> None:
    assert not selftest.same_bits(np.array([-0.0], "float32"), np.array([0.0], "float32"))
    assert not selftest.same_bits(np.zeros(2, "float32"), np.zeros(2))
    assert selftest.difference(np.zeros(3), np.zeros(3)) == 0
    assert selftest.difference(np.array([1e-20]), np.zeros(1)) > 1


def test_a_case_says_what_is_special_about_it() -> None:
    assert str(SMALL) == "gru float32 exact T=4 B=3 I=5 H=6"
    assert str(SMALL._replace(layers=2, lengths=(1, 2, 4))) == "gru float32 exact T=4 B=3 I=5 H=6 layers=2 lengths"


def test_the_self_test_leaves_out_what_a_gpu_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    on_tensor_cores = SMALL._replace(engine="cublas-resident", dtype="float16")
    assert selftest.runs_on(SMALL, (7, 5)) and selftest.runs_on(on_tensor_cores, (8, 0))
    assert not selftest.runs_on(on_tensor_cores, (7, 5))
    monkeypatch.setattr(selftest, "runs_on", lambda case, capability: case.engine == "exact")
    assert selftest.run([on_tensor_cores, SMALL], 1000.0) == (1, 0, [])


def test_the_self_test_ends_in_time_and_reports_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert selftest.run([SMALL] * 3, -1.0) == (0, 3, [])

    def refuse(*arguments: Any) -> Any:
        raise RuntimeError("cuLaunchKernel: no")

    monkeypatch.setattr(selftest, "compare", refuse)
    assert selftest.run([SMALL], 9.0) == (1, 0, [f"{SMALL}: cuLaunchKernel: no"])


# ---- the command


def test_the_command_compiles_and_tests(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "SELF_TEST_SECONDS", 1000.0)  # a busy machine leaves nothing out
    assert report.run("tested", cells=("gru",)) == 0
    text = capsys.readouterr().out
    assert "cuda:0" in text
    assert "compiled for cuda:0: " in text
    assert "calls forward and backward: all as on the CPU" in text
    assert "Microseconds" not in text


def test_the_command_fails_where_a_result_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    altered(monkeypatch, "y", one_bit)
    monkeypatch.setattr(selftest, "cases", lambda cells: iter([SMALL]))
    assert report.run("timed", cells=("gru",)) == 1
    text = capsys.readouterr().out
    assert "1 WRONG RESULTS" in text
    assert f"  {SMALL}: y differs by" in text
    assert "expected the same bits" in text
    assert "Microseconds" not in text


def test_the_command_says_what_stopped_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Any:
        raise RuntimeError("NVRTC 13.0 cannot compile for sm_999")

    monkeypatch.setattr(kernels, "compiled", refuse)
    assert report.run("found") == 0
    assert report.run("compiled") == 1
    assert capsys.readouterr().out.endswith("\nNVRTC 13.0 cannot compile for sm_999\n")


def test_the_command_compiles_for_layers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECURRA_CACHE_DIR", str(tmp_path))

    def command(*layers: str) -> int:
        monkeypatch.setattr(sys, "argv", ["recurra", "cuda", "--until", "compiled", *layers])
        return int(recurra.__main__.main())

    monkeypatch.setattr(report, "compile_all", lambda cells: None)
    words = ("--layer", "rnn_relu:float64:35:1", "--layer", "lstm:float16:40:3")
    assert [command(*words), command(*words)] == [0, 0]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("compiled for ")]
    names = ["compiled for rnn_relu of 35 units, float64, 1 rows: ", "compiled for lstm of 40 units, float16, 3 rows: "]
    assert lines == [f"{name}{count}" for counts in ((2, 2), (0, 0)) for name, count in zip(names, counts, strict=True)]
    assert command("--layer", "lstm:float32:5000:1") == 1
    assert "lstm of hidden_size 5000 does not fit" in capsys.readouterr().out
    for wrong, complaint in (("lstm:32", "expected CELL:DTYPE:H:BATCH"), ("lstm:float32:0:1", "a whole number")):
        with pytest.raises(SystemExit):
            command("--layer", wrong)
        assert complaint in capsys.readouterr().err


def test_the_command_prints_times(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CELL_NAMES": ("gru",), "ROWS": (1, 2), "WIDTHS": (8,), "STEPS": 3}.items():
        monkeypatch.setattr(times, name, value)
    monkeypatch.setattr(selftest, "cases", lambda cells: iter([SMALL]))
    assert report.run(cells=("gru",)) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("Microseconds a step, forward, T=3, I=H, median:")
    assert lines[at + 1].split() == ["B", "H", "float32", "bfloat16"]
    assert [line.split()[:3] for line in lines[at + 2 :]] == [["GRU", "1", "8"], ["GRU", "2", "8"]]
    assert all(float(word) > 0 for line in lines[at + 2 :] for word in line.split()[3:])


# ---- bench/gpu.py


@pytest.mark.skipif(not ON_STAND_IN, reason="bench/gpu.py is to be run by itself")
def test_the_benchmark_can_be_rehearsed(tmp_path: Path) -> None:
    saved = tmp_path / "gpu.json"
    script = TESTS.parent / "bench" / "gpu.py"
    command = [sys.executable, str(script), "--only", "1,4,5,6,7", "--quick", "--minutes", "60", "--json", str(saved)]
    # What the tests of this file have compiled serves here too.
    environment = os.environ | {"PYTHONPATH": str(Path(recurra.__file__).parents[1])}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert "STAND-IN" in done.stdout, done.stderr
    for part in ("self-test", "assumptions", "times", "peers", "tune"):
        assert f"## {part}: done" in done.stdout
    assert "none wrong" in done.stdout
    assert "| cublas | resident | exact / cublas | faster of both / resident | floor |" in done.stdout
    assert "no GPU: not timed" in done.stdout
    assert "- TorchRL, 8 rows: no PyTorch with a GPU: not timed" in done.stdout
    assert "kExactSources = " in done.stdout
    assert done.stdout.endswith("all is right\n")
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_times_go_on_after_an_error_of_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TESTS.parent))
    from bench import gpu_shapes, gpu_times
    from bench.gpu_shapes import Shape
    from bench.gpu_task import Task

    shapes = [Shape("GRU", "float32", 1, hidden) for hidden in (1, 2, 3, 4)]
    monkeypatch.setattr(gpu_shapes, "shrunk", lambda shape: shape)
    monkeypatch.setattr(gpu_times, "works", lambda: False)
    restarts = []

    class Restarted(Exception):  # noqa: N818
        pass

    def restart(task: Task) -> None:
        restarts.append(task)
        raise Restarted

    def one(shape: Shape) -> dict[str, Any]:
        if shape.hidden % 2 == 0:
            raise RuntimeError("illegal address")
        return {"shape": shape._asdict(), "times": {}, "said": {}}

    monkeypatch.setattr(Task, "start_again", restart)
    task = Task(100.0, out=tmp_path / "times.json")
    for _ in range(2):
        with pytest.raises(Restarted):
            gpu_times.rows(task, shapes, one)
    found = gpu_times.rows(task, shapes, one)
    assert [row["shape"]["hidden"] for row in found["rows"]] == [1, 2, 3, 4]
    assert [row["said"] for row in found["rows"]] == [{}, {"recurra": "illegal address"}] * 2
    assert json.loads((tmp_path / "times.json").read_text()) == found


def test_parts_of_the_benchmark_leave_json(tmp_path: Path) -> None:
    out = tmp_path / "about.json"
    command = [sys.executable, "-m", "bench.gpu_part", "about", "60", str(out)]
    path = os.pathsep.join([str(Path(recurra.__file__).parents[1]), str(TESTS.parent)])
    subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=True)
    found = json.loads(out.read_text())
    assert found["gpu"]["name"] == _core.cuda.device(0)["name"]
    assert found["stand_in"] == ON_STAND_IN
    assert not found["problem"]
