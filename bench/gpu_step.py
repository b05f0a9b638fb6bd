"""What a step of a GPU's stream costs: its host's part, and on a GPU all of it.

python bench/gpu_step.py                   # on a GPU, with arrays of CuPy and PyTorch
python bench/gpu_step.py --fake [--profile]  # without one: the host's part

With --fake the driver does nothing (tests/cuda/fake, which takes a C++ compiler), and arrays have the attributes of
CuPy's. Then neither what a launch costs nor any time of the GPU is in the numbers, nor how long CuPy's own attributes
take.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
FAKES = ("libcuda.so.1", "libnvrtc.so.13", "libcublas.so.13")
HIDDEN, STEPS, ROUNDS = 512, 1000, 30


class Data:
    """As cupy.ndarray.data."""

    __slots__ = ("device_id", "ptr")

    def __init__(self, pointer: int) -> None:
        self.ptr, self.device_id = pointer, 0


class Array:
    """As cupy.ndarray, over host memory that nobody touches."""

    __slots__ = ("data", "dtype", "itemsize", "memory", "shape", "strides")

    def __init__(self, *shape: int) -> None:
        self.memory = np.zeros(shape, "float32")
        self.data, self.shape, self.strides = Data(self.memory.ctypes.data), shape, self.memory.strides
        self.dtype, self.itemsize = self.memory.dtype, 4


def use_fakes(folder: Path) -> None:
    """A driver that does nothing, and a CuPy of these arrays; before the core opens any library."""
    sources = [str(ROOT / "tests" / "cuda" / "fake" / name) for name in ("fake.cpp", "everything.cpp")]
    subprocess.run(["c++", "-std=c++17", "-O2", "-shared", "-fPIC", *sources, "-o", str(folder / FAKES[0])], check=True)
    for name in FAKES[1:]:
        (folder / name).symlink_to(FAKES[0])
    os.environ |= {"RECURRA_CUDA_LIBRARIES": str(folder), "RECURRA_CACHE_DIR": ""}
    cupy: Any = types.ModuleType("cupy")
    stream = types.SimpleNamespace(ptr=0)
    cupy.ndarray, cupy.cuda = Array, types.SimpleNamespace(get_current_stream=lambda device: stream)
    sys.modules["cupy"] = cupy


def kinds(real: bool) -> dict[str, Callable[[], Any]]:
    """What makes an array, of the libraries that there are."""
    if not real:
        return {"like CuPy's": lambda: Array(HIDDEN)}
    found: dict[str, Callable[[], Any]] = {}
    if find_spec("cupy"):
        found["CuPy"] = lambda: import_module("cupy").zeros(HIDDEN, "float32")
    if find_spec("torch"):
        found["PyTorch"] = lambda: import_module("torch").zeros(HIDDEN, device="cuda")
    return found


def times(work: Callable[[], object], wait: Callable[[], object]) -> tuple[float, float]:
    """Microseconds of a call among many on end, the least of some rounds, and of one that is waited for, the median."""
    many, one = [], []
    for _ in range(ROUNDS):
        wait()
        start = time.perf_counter()
        for _ in range(STEPS):
            work()
        wait()
        many.append(1e6 * (time.perf_counter() - start) / STEPS)
        start = time.perf_counter()
        work()
        wait()
        one.append(1e6 * (time.perf_counter() - start))
    return min(many), float(np.median(one))


def main() -> None:
    parser = argparse.ArgumentParser(description="What a step of a GPU's stream costs.")
    parser.add_argument("--fake", action="store_true", help="a driver that does nothing: the host's part")
    parser.add_argument("--profile", action="store_true", help="profile the first kind of arrays")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.fake:
            use_fakes(Path(folder))
        recurra = import_module("recurra")
        core = recurra._core.cuda
        if not core.device_count():
            raise SystemExit("there is no GPU: --fake has the host's part")
        layer = recurra.LSTM(HIDDEN, HIDDEN, seed=0).to("cuda")
        print(
            f"LSTM, I = H = {HIDDEN}, float32, one row: us of a step",
            "| arrays | on end | waited for | on end, each checked |",
            sep="\n\n",
        )
        print("|---|---|---|---|")
        for name, make in kinds(not options.fake).items():
            stream, x, out = layer.stream(), make(), make()
            step, wait = partial(stream.step, x, out), partial(core.synchronize, 0, 0)

            def checked(stream: Any = stream, step: Callable[[], object] = step) -> None:
                stream._again = None
                step()

            on_end, waited = times(step, wait)
            print(f"| {name} | {on_end:.2f} | {waited:.2f} | {times(checked, wait)[0]:.2f} |")
            if options.profile:
                with cProfile.Profile() as profile:
                    for _ in range(20 * STEPS):
                        step()
                profile.print_stats("tottime")
                break


if __name__ == "__main__":
    main()
