"""Parts 2 and 3 of `gpu.py`: the tests that take a device, and compute-sanitizer."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from recurra.cuda import selftest
from recurra.cuda.selftest import Case

from .gpu_task import Task

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
LINES = 20
PROCESSES = min(8, os.cpu_count() or 1)


def run_tests(task: Task) -> dict[str, Any]:
    """Those of tests/ that are for a GPU, on the one that is there."""
    files = [str(path) for path in sorted(TESTS.glob("test_cuda_*.py")) if "require_gpu()" in path.read_text()]
    files.append(str(TESTS / "test_torch_gpu.py"))
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "junit.xml")
        command = [sys.executable, "-m", "pytest", *files, "-q", "--tb=short", f"--junitxml={report}"]
        command += ["-p", "no:cacheprovider", *parallel()]
        try:
            status = subprocess.run(command, cwd=ROOT, timeout=max(1.0, task.left), check=False).returncode
        except subprocess.TimeoutExpired:
            return {"missing": "the tests took too long and were stopped"}
        if not report.exists():
            return {"missing": f"pytest ended with status {status}"}
        found = outcome(report.read_text())
    task.write(found)
    found["failures"], found["together"] = alone(found["failures"], task)
    task.write(found)
    return found


def alone(failures: dict[str, str], task: Task) -> tuple[dict[str, str], list[str]]:
    """Tests that failed, each again in a process of its own, as long as there is time: those that still fail, and
    those that do not. For after an error a GPU may refuse all that the process asks of it."""

    def passes(test: str) -> bool:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", test]
        try:
            limit = max(1.0, task.left)
            return not subprocess.run(
                command, cwd=ROOT, timeout=limit, stdout=subprocess.DEVNULL, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return False

    with ThreadPoolExecutor(PROCESSES) as pool:
        passed = [test for test, fine in zip(failures, pool.map(passes, failures), strict=True) if fine]
    return {test: why for test, why in failures.items() if test not in passed}, passed


def parallel() -> list[str]:
    """Options for several processes, where pytest-xdist is installed."""
    return ["-n", str(PROCESSES)] if importlib.util.find_spec("xdist") else []


def outcome(junit: str) -> dict[str, Any]:
    """Numbers of tests by outcome, and what failed, of JUnit's XML."""
    found: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, "failures": {}, "skips": {}}
    for test in ET.fromstring(junit).iter("testcase"):
        bad = [child for child in test if child.tag in ("failure", "error")]
        skips = [child.get("message") or "" for child in test if child.tag == "skipped"]
        if bad:
            found["failed"] += 1
            name = f"{(test.get('classname') or '').replace('.', '/')}.py::{test.get('name')}"
            found["failures"][name] = " ".join((bad[0].get("message") or "").split())[:200]
        elif skips:
            found["skipped"] += 1
            found["skips"][skips[0]] = found["skips"].get(skips[0], 0) + 1
        else:
            found["passed"] += 1
    return found


# ---- compute-sanitizer


def sanitizer() -> str | None:
    """Its path."""
    folders = [os.environ.get("PATH", ""), "/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer"]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def sanitized_cases(tool: str) -> list[Case]:
    """Small ones; racecheck looks at shared memory, which engine "exact" uses however it walks, and all
    resident ones."""
    lengths, found = (7, 3, 0, 5, 1), []
    for cell in ("lstm", "gru_reset_before", "lstm_peephole_projected", "lstm_layer_norm"):
        proj = 20 if "projected" in cell else 0
        found.append(Case(cell, "float32", "exact", 7, 5, 6, 33, proj, 2, True, lengths=lengths, recompute=True))
        found.append(Case(cell, "float64", "exact", 3, 70, 33, 65, proj))
        found.append(Case(cell, "float32", "exact-resident", 7, 5, 6, 33, proj, 2, True, lengths=lengths))
        found.append(Case(cell, "bfloat16", "cublas-resident", 7, 5, 6, 33, proj, 2, True, lengths=lengths))
        if tool == "memcheck":
            found += [
                Case(cell, dtype, "cublas", 7, 5, 6, 33, proj, 2, True, rates=(0.3, 0.2, 0.1), lengths=lengths, seed=1)
                for dtype in ("float32", "float16", "bfloat16")
            ]
    # By a cluster of blocks, where a GPU has them, and by a grid.
    for hidden in (200, 450):
        found.append(Case("lstm", "float32", "exact-resident", 7, 5, 6, hidden, lengths=lengths))
        found.append(Case("gru_layer_norm", "float32", "exact-resident", 7, 5, 6, hidden + 50, lengths=lengths))
    for hidden in (300, 680):
        found.append(Case("lstm", "float16", "cublas-resident", 7, 5, 6, hidden, lengths=lengths))
    return found


def run_sanitized(tool: str) -> int:
    """What runs under the tool: the number of wrong results."""
    outcome = selftest.run(sanitized_cases(tool), 1e9)
    print(*outcome.failures, sep="\n")
    return len(outcome.failures)


def run_sanitizer(task: Task) -> dict[str, Any]:
    """memcheck and racecheck."""
    found: dict[str, Any] = {}
    path = sanitizer()
    if path is None:
        return {"missing": "compute-sanitizer is neither on the PATH nor in /usr/local/cuda"}
    for tool in ("memcheck", "racecheck"):
        command = [
            path,
            "--tool",
            tool,
            "--target-processes",
            "all",
            "--error-exitcode",
            "9",
            "--print-limit",
            str(LINES),
        ]
        command += [sys.executable, "-m", "bench.gpu_part", f"sanitized-{tool}"]
        try:
            done = subprocess.run(
                command, cwd=ROOT, timeout=max(1.0, task.left), capture_output=True, text=True, check=False
            )
        except subprocess.TimeoutExpired:
            found[tool] = {"missing": "took too long and was stopped"}
            break
        print(done.stdout, done.stderr)
        found[tool] = summary(done.stdout + done.stderr, done.returncode)
        task.write(found)
    return found


def summary(text: str, status: int) -> dict[str, Any]:
    """Errors that the tool counted, and its first lines."""
    counts = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:errors?|hazards?)", text)
    lines = [line.removeprefix("=========").strip() for line in text.splitlines() if line.startswith("=========")]
    if not counts:
        return {"missing": f"no summary, status {status}: {' '.join(text.split())[-300:]}"}
    return {"errors": sum(map(int, counts)), "status": status, "lines": [line for line in lines if line][:LINES]}
