"""One part of `gpu.py`, in a process of its own: python -m bench.gpu_part NAME SECONDS FILE [--quick]."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .gpu_task import Task

# Where each part is, so that one whose imports fail leaves the others alone.
PARTS = {
    "about": "gpu_about:run",
    "self-test": "gpu_selftest:run",
    "tests": "gpu_checks:run_tests",
    "sanitizer": "gpu_checks:run_sanitizer",
    "assumptions": "gpu_assumptions:run",
    "times": "gpu_times:run",
    "peers": "gpu_peers:run",
    "tune": "gpu_times:run_tune",
}


def main(arguments: list[str]) -> int:
    """Run a part; or what compute-sanitizer looks at, which ends with the number of wrong results."""
    name = arguments[0]
    if name.startswith("sanitized-"):
        from .gpu_checks import run_sanitized

        return run_sanitized(name.removeprefix("sanitized-"))
    module, function = PARTS[name].split(":")
    part: Callable[[Task], Any] = getattr(importlib.import_module(f"bench.{module}"), function)
    task = Task(float(arguments[1]), "--quick" in arguments, Path(arguments[2]))
    task.write(part(task))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
