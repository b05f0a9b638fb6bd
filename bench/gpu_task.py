"""Parts of `gpu.py`: each runs in a process of its own, under a time limit, and leaves what it found in a file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

GRACE = 15.0  # seconds that a part may take longer than it was told, before it is killed
LOG = 3000  # characters of what it printed that are kept


class Task:
    """What a part is told: how long it may take, and where to leave what it has found so far."""

    def __init__(self, seconds: float, quick: bool = False, out: Path | None = None) -> None:
        self.quick = quick
        self._end, self._out = time.monotonic() + seconds, out

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()

    def before(self) -> dict[str, Any]:
        """What has been left so far, by the same part in a process that it could not go on in."""
        return _read(self._out) if self._out else {}

    def start_again(self) -> NoReturn:
        """Go on in a new process, which takes this one's place: after an error a GPU may refuse all that a process
        asks of it."""
        assert self._out
        words = ["-m", "bench.gpu_part", self._out.stem, str(self.left), str(self._out), *["--quick"] * self.quick]
        os.execv(sys.executable, [sys.executable, *words])

    def write(self, found: Mapping[str, Any]) -> None:
        """Replace what has been left so far."""
        if self._out:
            part = self._out.with_suffix(".part")
            part.write_text(json.dumps(found))
            os.replace(part, self._out)


class Outcome(NamedTuple):
    """How a part ended: "done", "failed" or "out of time"; what it left, and the end of what it printed."""

    status: str
    seconds: float
    found: dict[str, Any]
    log: str


def run(command: Sequence[str], environment: Mapping[str, str], limit: float, out: Path) -> Outcome:
    """Run a part; the process, and whatever it started, is killed when it takes longer than the limit."""
    log = out.with_suffix(".log")
    start = time.monotonic()
    with log.open("wb") as printed:
        process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = "failed" if process.wait(limit) else "done"
        except subprocess.TimeoutExpired:
            status = "out of time"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also what it left behind
            process.wait()
    text = log.read_text(errors="replace")
    return Outcome(status, time.monotonic() - start, _read(out), text[-LOG:])


def _read(path: Path) -> dict[str, Any]:
    """Nothing where there is no such file, or no whole one."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found
