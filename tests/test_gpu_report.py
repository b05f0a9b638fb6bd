"""What bench/gpu.py says of a run: tables, summaries, thresholds, plots."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from checks import TESTS

sys.path.insert(0, str(TESTS.parent))

from bench import gpu_choice, gpu_report
from bench.gpu_shapes import Shape


def timing(us: float) -> dict[str, float]:
    return {"median": us, "low": us, "high": us, "samples": 9}


def row(shape: Shape, said: dict[str, str] | None = None, **times: float) -> dict[str, Any]:
    named = {name.replace("_", " "): timing(us) for name, us in times.items()}
    return {"shape": shape._asdict(), "times": named, "said": said or {}}


def made_run(stand_in: bool = False) -> dict[str, Any]:
    shape = Shape("LSTM", "bfloat16", 64, 512)
    rows = [
        row(
            shape,
            recurra=500.0,
            recurra_resets=520.0,
            cuDNN=1000.0,
            recurra_graph=400.0,
            cuDNN_graph=600.0,
            recurra_resident=250.0,
        ),
        row(shape._replace(training=True), recurra=2000.0, cuDNN=1000.0),
        row(shape._replace(lengths=True), recurra=600.0, recurra_padded=1000.0, cuDNN=9000.0),
        row(shape._replace(hidden=2048), {"recurra": "out of memory"}),
    ]
    said = {"TorchRL": "torchrl is not installed"}
    beside = [row(shape._replace(rows=1, hidden=128), said, recurra=200.0, recurra_resident=100.0, cuDNN=150.0)]
    beside[0]["times"]["compiled step graph"] = timing(120.0)
    tuned = [
        row(Shape("LSTM", "float32", 1, hidden), exact=exact, cublas=100.0, recurra_resident=40.0)
        for hidden, exact in ((64, 50.0), (128, 80.0), (256, 200.0))
    ]
    parts: dict[str, Any] = {
        "self-test": {
            "units": 84,
            "compiled": 84,
            "compile_seconds": 9.1,
            "calls": 7,
            "by": {"exact float32": 5, "cublas bfloat16": 2},
            "worst": {"cublas bfloat16": 0.01},
            "failures": ["gru float32 exact: y differs"],
        },
        "tests": {
            "passed": 3,
            "failed": 1,
            "skipped": 2,
            "failures": {"a.py::b": "c"},
            "together": ["a.py::d"],
            "skips": {"two GPUs": 2},
        },
        "sanitizer": {"memcheck": {"errors": 0, "lines": []}, "racecheck": {"missing": "took too long"}},
        "assumptions": {
            "measured": {
                "l2_tbs": {"what": "L2", "value": 7.0, "unit": "TB/s", "estimate": "5.6"},
                "launch_us": {"what": "launch", "value": 2.5, "unit": "us", "estimate": ""},
            },
            "missing": {"cluster": "CUDA_ERROR_NOT_FOUND"},
        },
        "times": {"rows": rows, "left_out": 3},
        "peers": {"rows": beside, "left_out": 0},
        "tune": {"rows": tuned, "left_out": 0},
    }
    return {
        "about": {"gpu": {"name": "NVIDIA H200"}, "versions": {"torch": "2"}, "date": "today", "stand_in": stand_in},
        "parts": {name: {"status": "done", "seconds": 1.0, "found": found, "log": ""} for name, found in parts.items()},
    }


def test_the_report_has_every_part() -> None:
    text = gpu_report.markdown(made_run())
    assert text.startswith("NVIDIA H200; torch 2; today\n")
    assert "STAND-IN" not in text
    for line in (
        "7 calls beside the CPU, 1 WRONG: 2 cublas bfloat16 (at most 1.0e-02), 5 exact float32 (all bits)",
        "3 passed, 1 failed, 2 skipped",
        "- 1 that failed pass when each is run alone: a.py::d",
        "- a.py::b: c",
        "- skipped, 2: two GPUs",
        "- memcheck: 0 errors",
        "- racecheck: not run: took too long",
        "| L2 | 7.00 TB/s | 5.6 TB/s |",
        "| launch | 2.50 us | none |",
        "| cluster | not measured: CUDA_ERROR_NOT_FOUND | |",
        "| LSTM bfloat16 B=64 H=512 forward | 5.00 | 4.00 | - | 2.50 | 10.0 | 6.00 | 2.00 | 1.50 |",
        "- cuDNN / recurra where at least 1.0 is promised: geometric mean 1.00, 0.50 to 2.00, 2 rows",
        "  - below: LSTM bfloat16 B=64 H=512 forward+backward 0.50",
        "- recurra, 1 rows: out of memory",
        "- 3 rows left out for time",
        "compiled step: torch.compile of a step in PyTorch's operations, called in a loop",
        "TorchRL | fastest of them / of ours | floor |",
        "| LSTM bfloat16 B=1 H=128 forward | 2.00 | 1.00 | 1.50 | - | - | 1.20 | - | 1.20 | 0.",
        "- compiled step graph / recurra: geometric mean 0.60, 0.60 to 0.60, 1 rows",
        "- TorchRL, 1 rows: torchrl is not installed",
        "| LSTM float32 B=1 H=256 forward | 2.00 | 1.00 | 0.40 | 2.00 | 2.50 | 0.",
        "- float32: kExactSources = 128: calls take 1.00 x the faster engine's time on the mean",
    ):
        assert line in text
    share = Shape("LSTM", "bfloat16", 64, 512, lengths=True).valid
    assert "- recurra, a reset every 20 steps: time x geometric mean 1.04" in text
    assert f"- recurra, lengths: padded time x share of valid steps x geometric mean {0.6 / share:.2f}" in text
    assert gpu_report.problems(made_run()) == ["self-test: 1 failures", "tests: 1 failures", "times: 1 failures"]


def test_a_brief_report_has_no_long_tables() -> None:
    full, brief = (gpu_report.markdown(made_run(), brief) for brief in (False, True))
    assert set(brief.splitlines()) < set(full.splitlines())
    assert "H=512 forward |" not in brief
    assert "| L2 |" in brief


def test_times_of_a_stand_in_are_called_so() -> None:
    assert gpu_report.STAND_IN in gpu_report.markdown(made_run(stand_in=True))


def test_a_part_that_failed_shows_what_it_printed() -> None:
    run = made_run()
    run["parts"]["times"] |= {"status": "failed", "found": {}, "log": "Traceback\nRuntimeError: no"}
    text = gpu_report.markdown(run)
    assert "## times: failed" in text
    assert "RuntimeError: no" in text
    run["parts"]["times"] |= {"found": {"missing": "no PyTorch"}}
    assert "not run: no PyTorch" in gpu_report.markdown(run)


def test_a_threshold_loses_least() -> None:
    shape = Shape("LSTM", "float32", 1, 64)

    def rows(*ratios: float) -> list[dict[str, Any]]:
        return [row(shape._replace(hidden=64 << i), exact=100 * r, cublas=100.0) for i, r in enumerate(ratios)]

    assert gpu_choice.threshold(rows(0.5, 0.8, 2.0)) == (128, 1.0)
    assert gpu_choice.threshold(rows(2.0, 2.0)) == (0, 1.0)
    most, loss = gpu_choice.threshold(rows(0.5, 1.1, 0.5))
    assert most == 256
    assert loss == pytest.approx(1.1 ** (1 / 3))


def tuned_run() -> dict[str, Any]:
    """Of a GPU of 2000 cycles a microsecond, whose kernels take 1.25 us, slices 0.25 and products by cuBLAS 3."""
    rows = []
    for hidden in (32, 64, 128, 256):
        exact = 2.5 + 0.25 * hidden / 16
        for batch in (1, 8):
            shape = Shape("LSTM", "float32", batch, hidden)
            tile = "cluster of 8 blocks" if hidden == 256 else "block"
            said = {
                "plan": f"exact, resident: 1 rows a {tile} of 64 threads; 1400 cycles (0.82 us) a step, waves: 2; x"
            }
            rows.append(row(shape, said, exact=100 * exact, cublas=425.0, recurra_resident=150.0))
            rows.append(row(shape._replace(dtype="bfloat16"), cublas=425.0))
    measured = {"clock_mhz": 2000.0, "cluster_8_us": 0.2, "cluster_exchange_us": 0.3, "mma_tflops": 700.0}
    return {
        "about": {"gpu": {"name": "NVIDIA H200", "multiprocessors": 132}},
        "parts": {
            "assumptions": {"found": {"measured": {name: {"value": value} for name, value in measured.items()}}},
            "tune": {"status": "done", "seconds": 1.0, "found": {"rows": rows, "left_out": 0}, "log": ""},
        },
    }


def test_the_table_of_choices_is_printed_anew() -> None:
    was = gpu_choice.constants()
    assert gpu_choice.SETTLERS.keys() < was.keys()
    unsettled = {"kUnitCycles", "kTileRows", "kResidentSteps", "kMemoryCycles", "kMemoryBytes", "kChunkMicroseconds"}
    unsettled |= {"kMeanCycles", "kWideMeanCycles", "kShareCycles"}
    assert was.keys() - gpu_choice.SETTLERS.keys() == unsettled
    lines = list(gpu_choice.settled(tuned_run()))
    assert len(lines) == len(was)
    found = {line.split()[2]: line.split(" = ")[1].split(";")[0] for line in lines}
    assert {name: float(value) for name, value in found.items()} == was | {
        "kExactSources": 64,  # 3.5 us, at 128 it is 4.5, by cuBLAS 4.25
        "kCyclesOfMicrosecond": 2000,
        "kLaunchMicroseconds": 1.25,
        "kSliceMicroseconds": 0.25,
        "kCublasMicroseconds": 3,
        "kStepCycles": was["kStepCycles"] + 1600,  # 1.5 us are 3000 cycles
        "kExchangeCycles": 400,
        "kTensorCycles": 6.18,
    }
    assert f"constexpr double kLaunchMicroseconds = 1.25;  // measured; it was {was['kLaunchMicroseconds']:g}" in lines
    assert any(line.startswith("constexpr double kTensorLatencyCycles") and "not measured" in line for line in lines)
    run = tuned_run()
    assert gpu_report.markdown({**run, "parts": {"tune": run["parts"]["tune"]}}).count("constexpr ") == len(was)
    assert list(gpu_choice.predicted(tuned_run())) == [
        "one launch, blocks of a tile 1: 1.07 x its predicted time, of 6 calls",
        "one launch, blocks of a tile 8: 1.07 x its predicted time, of 2 calls",
    ]


def test_without_a_measurement_the_table_stays() -> None:
    values = [line.split(" = ")[1].split(";")[0] for line in gpu_choice.settled({"parts": {}})]
    assert [float(value) for value in values] == list(gpu_choice.constants().values())


def test_plots_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bench import gpu_plots

    run = made_run()
    shape = Shape("LSTM", "bfloat16", 64, 512)
    run["parts"]["times"]["found"]["rows"] = [
        row(shape._replace(rows=rows, hidden=hidden), recurra=500.0, cuDNN=900.0, recurra_graph=300.0)
        for rows, hidden in ((64, 512), (64, 1024), (256, 1024))
    ]
    run["parts"]["peers"]["found"]["rows"] = [
        row(shape._replace(hidden=256), recurra=1.0, TorchRL=700.0),
        row(shape, recurra=1.0, TorchRL=600.0),
    ]
    (panel,) = gpu_plots.grouped(run, lambda shape: shape.rows == 64, "hidden").values()
    named = [{name: one["median"] for name, one in of["times"].items()} for of in panel]
    both = {"recurra": 500.0, "cuDNN": 900.0, "recurra graph": 300.0}
    assert named == [{"recurra": 1.0, "TorchRL": 700.0}, both | {"TorchRL": 600.0}, both]
    paths = gpu_plots.draw(run, tmp_path)
    assert [path.name for path in paths] == ["gpu-widths.png", "gpu-batches.png"]
    assert all(path.stat().st_size > 10000 for path in paths)
    assert gpu_plots.draw(made_run(), tmp_path / "none") == []
