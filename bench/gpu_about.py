"""What `gpu.py` runs on."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from datetime import datetime
from typing import Any

import recurra
from recurra import _core
from recurra.cuda import _libraries

from .gpu_task import Task


def run(task: Task) -> dict[str, Any]:
    """GPU, versions, date; `problem` where nothing can run."""
    _libraries.locate()
    libraries = _core.cuda.found()
    versions = {"recurra": recurra.__version__, "python": platform.python_version()}
    versions |= {library["name"]: library["version"] or "missing" for library in libraries}
    for name in ("torch", "triton", "torchrl", "cupy-cuda13x", "nvidia-cudnn-cu13"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "missing"
    problems = [library["problem"] for library in libraries if library["problem"]]
    gpus = 0 if libraries[0]["problem"] else _core.cuda.device_count()
    found: dict[str, Any] = {
        "gpu": _core.cuda.device(0) if gpus else None,
        "versions": versions,
        "processor": platform.processor() or platform.machine(),
        "date": datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        "isa": recurra.config()["isa"],
        "problem": " ".join(problems) if problems else "" if gpus else "There is no GPU that recurra can use.",
    }
    smi = shutil.which("nvidia-smi")
    if smi:
        command = [smi, "--query-gpu=driver_version,clocks.sm,clocks.max.sm,temperature.gpu", "--format=csv,noheader"]
        found["nvidia-smi"] = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    found["stand_in"] = bool(gpus) and "stand-in" in found["gpu"]["name"]
    return found
