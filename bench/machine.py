"""Where a run was timed: the processor and its caches, the build, the date, and how busy others kept the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import recurra


def describe() -> dict[str, Any]:
    """Processor, caches, system, what recurra chose, the build's commit if it lies in a checkout, date and load."""
    config = recurra.config()
    machine: dict[str, Any] = {
        "processor": processor(),
        "cores": len(cpus()),
        "caches": caches(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "date": datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        "commit": commit(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
    return machine | {name: config[name] for name in ("isa", "compiler", "threads") if name in config}


def processor() -> str:
    """The processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    return "{} family {} model {}".format(*(fields.get(key, "?") for key in ("model name", "cpu family", "model")))


def caches() -> list[str]:
    """Caches that the first core sees, where the system tells: "L1 Data 32K", ..."""
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        found.append(f"L{level} {kind} {size}")
    return found


def cpus() -> set[int]:
    """The CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def commit() -> str | None:
    """Of the checkout that this file is part of, with "-dirty" if it has changes; None where it is installed."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # a copy in a checkout's virtual environment is of another time
        return git("describe", "--always", "--dirty", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None


class Watch:
    """What others did on this process's CPUs, other guests of a virtual machine's host included, since it was made."""

    def __init__(self) -> None:
        self._start = _clocks()

    def others(self) -> float | None:
        """How many CPUs they kept busy on average; None where the system does not tell."""
        if not (self._start and (now := _clocks())):
            return None
        seconds, busy, own = (after - before for after, before in zip(now, self._start, strict=True))
        return max(0.0, (busy - own) / seconds)


def _clocks() -> tuple[float, float, float] | None:
    """Seconds: the time, of all that our CPUs did, of what this process did."""
    try:
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    except OSError:
        return None
    ours = {f"cpu{number}" for number in cpus()}
    # user, nice, system, idle, iowait, irq, softirq, steal
    ticks = sum(sum(map(int, words[1:4])) + sum(map(int, words[6:9])) for words in lines if words[0] in ours)
    own = os.times()
    return time.perf_counter(), ticks / os.sysconf("SC_CLK_TCK"), own.user + own.system
