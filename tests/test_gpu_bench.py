"""bench/gpu.py without a GPU: its command line, how parts are kept apart, its floors, what it reads and writes."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import random
import subprocess
import sys
import time
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest
from checks import TESTS

from recurra import _core
from recurra.cuda import _libraries, selftest

sys.path.insert(0, str(TESTS.parent))

from bench import gpu, gpu_checks, gpu_limits, gpu_report, gpu_selftest, gpu_shapes, gpu_task
from bench.gpu_shapes import Shape

ROOT = TESTS.parent


# ---- the command line


def test_parts_have_numbers() -> None:
    assert gpu.numbers("1,5") == ["self-test", "times"]
    assert gpu.parser().parse_args(["--only", "3", "--minutes", "4"]).only == ["sanitizer"]
    for text in ("0", "8", "", "1,", "a"):
        with pytest.raises(SystemExit):
            gpu.parser().parse_args(["--only", text])


def test_a_wheel_is_unpacked_for_the_parts_alone(tmp_path: Path) -> None:
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    wheel = tmp_path / f"recurra-0-{python}-{python}-linux_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("recurra/__init__.py", "made_up = True")
    variables = gpu.environment(wheel, tmp_path / "site")
    command = [sys.executable, "-c", "import recurra, bench.gpu_task; print(recurra.made_up)"]
    assert subprocess.run(command, env=variables, capture_output=True, text=True, cwd="/").stdout == "True\n"
    for name, content in (("recurra-0-cp27-cp27m-linux_x86_64.whl", b""), (wheel.name, b"no archive"), ("absent", b"")):
        bad = tmp_path / "bad" / name
        bad.parent.mkdir(exist_ok=True)
        if name != "absent":
            bad.write_bytes(content)
        with pytest.raises(ValueError, match="--wheel: "):
            gpu.environment(bad, tmp_path / "other")


def test_without_a_gpu_the_command_says_so(tmp_path: Path) -> None:
    if _core.cuda.device_count():
        pytest.skip("there is a GPU")
    command = [sys.executable, str(ROOT / "bench" / "gpu.py"), "--json", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "driver" in done.stderr
    assert list(tmp_path.iterdir()) == []


# ---- parts

WRITES = """
import os, subprocess, sys, time
from pathlib import Path
from bench.gpu_task import Task
task = Task(1.0, out=Path(sys.argv[1]))
task.write({"seen": [1]})
print("said", flush=True)
"""
ENDS = {
    "self-test": "task.write({'seen': [1, 2]})",
    "tests": "os.abort()",
    "sanitizer": "subprocess.Popen(['sleep', '1000']); Path(sys.argv[1] + '.pid').write_text('x'); time.sleep(1000)",
    "assumptions": "raise RuntimeError('no such thing')",
    "times": "",
}


def test_a_part_that_fails_leaves_what_it_found_and_the_others_alone(tmp_path: Path) -> None:
    saved: list[str] = []

    def start(name: str, seconds: float, limit: float) -> gpu_task.Outcome:
        assert 0 < seconds < limit
        out = tmp_path / f"{name}.json"
        command = [sys.executable, "-c", WRITES + ENDS[name], str(out)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return gpu_task.run(command, environment, 3.0 if name == "sanitizer" else 60.0, out)

    def save(run: dict[str, Any]) -> None:
        saved.append(json.dumps(run))

    run = gpu.run_parts(list(ENDS), 100.0, start, save, {"gpu": None})
    assert {name: part["status"] for name, part in run["parts"].items()} == {
        "self-test": "done",
        "tests": "failed",
        "sanitizer": "out of time",
        "assumptions": "failed",
        "times": "done",
    }
    assert [len(part["found"]["seen"]) for part in run["parts"].values()] == [2, 1, 1, 1, 1]
    assert all("said" in part["log"] for part in run["parts"].values())
    assert "no such thing" in run["parts"]["assumptions"]["log"]
    assert [len(json.loads(text)["parts"]) for text in saved] == [1, 2, 3, 4, 5]
    assert json.loads(saved[-1]) == run
    wrong = gpu_report.problems(run)
    assert [line.split(":")[0] for line in wrong] == ["tests", "sanitizer", "assumptions"]


def test_what_a_part_started_ends_with_it(tmp_path: Path) -> None:
    script = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
print(child.pid, flush=True)
time.sleep(1000)
"""
    outcome = gpu_task.run([sys.executable, "-c", script], os.environ, 2.0, tmp_path / "out.json")
    assert outcome.status == "out of time"
    assert outcome.found == {}
    state = Path("/proc", outcome.log.strip(), "stat")
    end = time.monotonic() + 20
    while state.exists() and state.read_text().split()[2] != "Z":
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_part_may_go_on_in_a_new_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # As gpu_part would, a module of that name counts how often it was started.
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "gpu_task.py").write_bytes((ROOT / "bench" / "gpu_task.py").read_bytes())
    (tmp_path / "bench" / "gpu_part.py").write_text("""
import os, sys
from pathlib import Path
from bench.gpu_task import Task
task = Task(float(sys.argv[2]), "--quick" in sys.argv, Path(sys.argv[3]))
found = task.before() or {"starts": []}
found["starts"].append([os.getpid(), sys.argv[1], task.quick, 0 < task.left <= 50])
task.write(found)
if len(found["starts"]) < 3:
    task.start_again()
""")
    out = tmp_path / "times.json"
    command = [sys.executable, "-m", "bench.gpu_part", "times", "50", str(out), "--quick"]
    outcome = gpu_task.run(command, {**os.environ, "PYTHONPATH": str(tmp_path)}, 60.0, out)
    assert outcome.status == "done", outcome.log
    starts = outcome.found["starts"]
    assert len(starts) == 3
    assert {pid for pid, *_ in starts} == {starts[0][0]}
    assert all(rest == ["times", True, True] for _, *rest in starts)


def test_time_that_a_part_leaves_goes_to_the_others() -> None:
    told: dict[str, float] = {}

    def start(name: str, seconds: float, limit: float) -> gpu_task.Outcome:
        told[name] = limit
        return gpu_task.Outcome("done", 0.0, {}, "")

    gpu.run_parts(["self-test", "times"], 130.0, start, lambda run: None, {})
    assert told["self-test"] == pytest.approx(30, abs=1)
    assert told["times"] == pytest.approx(130, abs=1)
    run = gpu.run_parts(["self-test", "times"], 0.0, start, lambda run: None, {})
    assert {part["status"] for part in run["parts"].values()} == {"out of time"}


# ---- floors


@pytest.mark.parametrize(
    ("hidden", "rows", "expected"),
    # What the design's arithmetic gave for an LSTM in 16 bits, microseconds a step.
    [
        (128, 16, 0.3),
        (256, 16, 0.4),
        (512, 16, 0.7),
        (1024, 16, 1.1),
        (2048, 16, 1.9),
        (1024, 64, 1.6),
        (2048, 256, 11),
    ],
)
def test_floors_are_those_of_the_design(hidden: int, rows: int, expected: float) -> None:
    found = gpu_limits.step_us(gpu_limits.Limits(), "LSTM", "bfloat16", rows, hidden)
    assert 0.55 * expected < found < 1.25 * expected


def test_a_floor_by_hand() -> None:
    limits = gpu_limits.Limits()
    # 67 MB of weights are more than the chip holds. Reading them takes 12 us, the product 33.
    product = 2 * 4 * 64 * 2048**2 / 67e6
    assert gpu_limits.step_us(limits, "LSTM", "float32", 64, 2048) == pytest.approx(0.4 + product)
    # One multiprocessor has 1 / 132 of the operations, and nothing to exchange.
    alone = 2 * 3 * 8 * 64**2 / (790e6 / 132)
    assert gpu_limits.step_us(limits, "GRU", "float16", 1, 64) == pytest.approx(alone)
    found = gpu_limits.floor(limits, "GRU", "float16", 10, 1, 64, 64)
    inputs = max(2 * 10 * 3 * 64 * 64 / 790e6, 10 * (64 + 192) * 2 / 4.3e6)
    assert found.forward == pytest.approx(10 * alone + inputs)
    assert found.of(True) == found.forward + found.backward > 2 * found.of(False)


def test_more_work_takes_no_less() -> None:
    limits = gpu_limits.Limits()

    def us(**changed: Any) -> float:
        sizes: dict[str, Any] = {
            "cell": "LSTM",
            "dtype": "float32",
            "steps": 50,
            "rows": 64,
            "inputs": 512,
            "hidden": 512,
        }
        return gpu_limits.floor(limits, **(sizes | changed)).forward

    for changed in ({"rows": 128}, {"hidden": 1024}, {"steps": 51}, {"layers": 2}, {"directions": 2}, {"inputs": 4096}):
        assert us(**changed) > us()
    assert us(valid=0.5) < us()
    assert us(dtype="bfloat16") < us(dtype="tf32") < us()
    assert us(cell="GRU") < us()


def test_every_call_that_is_timed_has_a_floor() -> None:
    shapes = [*gpu_shapes.select(False), *gpu_shapes.peers(), *gpu_shapes.tuned(False)]
    assert {shape.dtype for shape in shapes} == {"float32", "float64", "tf32", "float16", "bfloat16"}
    for shape in shapes:
        assert 0.01 * shape.steps < gpu_report.floor_us(shape, gpu_limits.Limits()) < 1e5


def test_what_was_measured_replaces_estimates() -> None:
    measured = {"l2_tbs": {"value": 8.0}, "mma_tflops": {"value": 600.0}}
    limits = gpu_limits.with_measured(gpu_limits.Limits(), measured)
    assert limits == gpu_limits.Limits()._replace(l2_tbs=8.0)


# ---- what is timed and tried


def test_the_most_valuable_shapes_come_first() -> None:
    shapes = gpu_shapes.select(False)
    assert len(set(shapes)) == len(shapes) > 100
    assert all(shape.rows >= 64 and shape.hidden >= 512 for shape in shapes[:40])
    assert {(s.cell, s.dtype, s.training) for s in shapes[:8]} == {
        (cell, dtype, training)
        for cell in ("LSTM", "GRU")
        for dtype in ("float32", "bfloat16")
        for training in (False, True)
    }
    assert {shape.dtype for shape in shapes} == {"float32", "tf32", "float16", "bfloat16"}
    assert {shape.rows for shape in shapes} >= {1, 16, 64, 128, 256}
    assert {shape.hidden for shape in shapes} == {128, 256, 512, 1024, 2048}
    assert {shape.layers for shape in shapes} == {1, 2, 3, 4}
    assert {shape.directions for shape in shapes} == {1, 2}
    assert set(gpu_shapes.select(True)) < set(shapes)
    assert any(shape.lengths for shape in gpu_shapes.select(True))


def test_lengths_of_a_shape() -> None:
    shape = Shape("GRU", "float32", 64, 512, lengths=True)
    lengths = shape.row_lengths()
    assert lengths is not None
    assert lengths.max() == 100
    assert lengths.min() >= 20
    assert shape.valid == lengths.mean() / 100
    assert Shape("GRU", "float32", 64, 512).valid == 1
    assert str(shape) == "GRU float32 B=64 H=512 lengths forward"
    assert str(shape._replace(layers=2, directions=2, training=True, steps=9)) == (
        "GRU float32 B=64 H=512 T=9 layers=2 bidirectional lengths forward+backward"
    )


def test_random_cases_can_be_run() -> None:
    draw = random.Random(0)
    cases = [gpu_selftest.random_case(draw, small) for small in (True, False) for _ in range(300)]
    for case in cases:
        if case.hidden_size < 40:
            assert selftest._layer(case, 0).cell == case.cell
        assert case.engine == "cublas" or case.engine.startswith("exact") == (case.dtype in ("float32", "float64"))
        assert case.lengths is None or len(case.lengths) == case.rows
    assert {case.engine for case in cases} == {"exact", "exact-resident", "cublas", "cublas-resident"}
    for name in ("bidirectional", "device_lengths", "recompute", "training", "bias"):
        assert {getattr(case, name) for case in cases} == {True, False}
    assert {case.cell for case in cases} >= {"gru_reset_before_write", "lstm_peephole_projected"}
    again = random.Random(0)
    assert [gpu_selftest.random_case(again, True) for _ in range(300)] == cases[:300]


# ---- contestants


def ours_on_the_cpu(shape: Shape) -> Any:
    """Like `gpu_times.Ours`."""
    import torch
    from bench import gpu_times

    layer = gpu_times.layer_on_cpu(shape.cell, shape.hidden, shape.layers, shape.directions, "float32")
    draw = torch.Generator().manual_seed(0)
    widths = (shape.hidden, shape.directions * shape.hidden)
    x, dy = (torch.randn(shape.steps, shape.rows, width, generator=draw) for width in widths)

    class Ours:
        on_cpu, lengths = layer, shape.row_lengths()

        def __call__(self) -> Any:
            y, _, tape = layer.forward(x, lengths=self.lengths)
            if not shape.training:
                return torch.tensor(y)
            return torch.tensor(y), types.SimpleNamespace(x=torch.tensor(tape.backward(dy).x))

    ours: Any = Ours()
    ours.shape, ours.x, ours.dy = shape, x, dy
    return ours


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
def test_the_peer_computes_the_same(training: bool, lengths: bool) -> None:
    torch = pytest.importorskip("torch")
    from bench import gpu_times

    shape = Shape("LSTM", "float32", 4, 5, steps=6, layers=2, directions=2, lengths=lengths, training=training)
    ours = ours_on_the_cpu(shape)
    cudnn = gpu_times.Cudnn(ours)
    assert gpu_times.difference(ours, cudnn) < 1e-6
    assert gpu_times.difference(lambda: (2 * ours()[0], ours()[1]) if training else 2 * ours(), cudnn) > 0.5
    if lengths:
        before = cudnn.packed_before()()
        y = before[0] if training else before
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            torch.tensor(ours.on_cpu(ours.x, lengths=shape.row_lengths())[0]),
            torch.tensor(shape.row_lengths()),
            enforce_sorted=False,
        )
        assert torch.allclose(y, packed.data, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_peers_that_compile_compute_the_same(cell: str, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from bench import gpu_peers

    # Traced as ever, but without the compiler of GPUs' code, which takes half a minute.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    ours = ours_on_the_cpu(Shape(cell, "float32", 4, 5, steps=6, training=training))
    for make in (gpu_peers.compiled_layer, gpu_peers.compiled_step):
        call = gpu_peers.checked(ours, lambda make=make: make(ours), "float32", 300.0)  # type: ignore[misc]
        assert not isinstance(call, str), call


def test_peers_that_cannot_run_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from bench import gpu_peers

    ours = ours_on_the_cpu(Shape("GRU", "float32", 2, 3, steps=2))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert gpu_peers.ready(lambda: gpu_peers.torchrl(ours), 60.0) == "torchrl is not installed"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    half = ours_on_the_cpu(Shape("GRU", "float16", 2, 3, steps=2))
    assert gpu_peers.ready(lambda: gpu_peers.torchrl(half), 60.0) == "TorchRL's kernels know no float16"
    start = time.monotonic()
    assert gpu_peers.ready(lambda: lambda: time.sleep(60), 0.1) == "not compiled within 0 s"
    assert time.monotonic() - start < 30
    twice = gpu_peers.checked(ours, lambda: lambda: 2 * ours(), "float32", 60.0)
    assert twice == "its results differ by 5.0e-01"
    right = gpu_peers.checked(ours, lambda: ours, "float32", 60.0)
    assert right is ours


def test_kernels_for_the_assumptions_compile() -> None:
    _libraries.locate()
    if _core.cuda.found()[1]["problem"]:
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc")
    source = (ROOT / "bench" / "gpu_assumptions.cu").read_text()
    for architecture in ("sm_80", "sm_90a", "sm_100a", "sm_120"):
        cubin, log = _core.cuda.compile(source, [], architecture)
        if not cubin.startswith(b"\x7fELF"):
            pytest.skip("NVRTC is the stand-in's")
        assert b"mma_rate" in cubin
        assert (b"cluster_16" in cubin) == (architecture != "sm_80")
        assert "warning" not in log
        assert log.count("0 bytes spill stores, 0 bytes spill loads") == log.count("Function properties for")


# ---- what others print


def test_a_test_run_is_read() -> None:
    found = gpu_checks.outcome(
        """<testsuites><testsuite>
        <testcase classname="tests.a" name="fine" time="1"/>
        <testcase classname="tests.a" name="bad"><failure message="assert 1 == 2">...</failure></testcase>
        <testcase classname="tests.a" name="worse"><error message="no fixture"/></testcase>
        <testcase classname="tests.a" name="left"><skipped message="one GPU"/></testcase>
        </testsuite></testsuites>"""
    )
    assert (found["passed"], found["failed"], found["skipped"]) == (1, 2, 1)
    assert found["failures"] == {"tests/a.py::bad": "assert 1 == 2", "tests/a.py::worse": "no fixture"}
    assert found["skips"] == {"one GPU": 1}


def test_what_failed_is_tried_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_checks, "ROOT", tmp_path)
    (tmp_path / "test_it.py").write_text("def test_fine(): pass\ndef test_bad(): assert False\n")
    failures = {"test_it.py::test_fine": "poisoned", "test_it.py::test_bad": "assert False"}
    still, passed = gpu_checks.alone(failures, gpu_task.Task(60.0))
    assert still == {"test_it.py::test_bad": "assert False"}
    assert passed == ["test_it.py::test_fine"]


def test_what_the_sanitizer_says_is_read() -> None:
    text = """========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 4 bytes
=========     at forward_0+0x120 in recurra.cu:12
========= ERROR SUMMARY: 1 error
"""
    found = gpu_checks.summary(text, 9)
    assert found["errors"] == 1
    assert found["lines"][1] == "Invalid __global__ write of size 4 bytes"
    fine = "========= COMPUTE-SANITIZER\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
    assert gpu_checks.summary(fine, 0)["errors"] == 0
    assert "Device not supported" in gpu_checks.summary("========= Error: Device not supported\n", 1)["missing"]


def test_the_sanitizer_is_given_kernels_that_share_memory() -> None:
    cases = gpu_checks.sanitized_cases("memcheck")
    assert {case.engine for case in cases} == {"exact", "exact-resident", "cublas", "cublas-resident"}
    assert {case.engine for case in gpu_checks.sanitized_cases("racecheck")} == {
        "exact",
        "exact-resident",
        "cublas-resident",
    }
