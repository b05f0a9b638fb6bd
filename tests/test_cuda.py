"""The tests of what runs on a GPU, over the stand-in for its driver, NVRTC and cuBLAS (tests/cuda/standin/README.md):
each file in a process of its own, because a process chooses its libraries once."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from checks import TESTS

from recurra import _core

FILES = sorted(path.name for path in TESTS.glob("test_cuda_*.py") if "require_gpu()" in path.read_text())
SOURCES = TESTS / "cuda" / "standin"
LINKS = ("libcuda.so.1", "libnvrtc.so.13", "libcublas.so.13")


def build(folder: Path, compiler: str, number: str) -> None:
    """As the target `standin` of CMake, which not everyone who tests has."""
    library = folder / "libstandin.so"
    defined = {"BUILD": number, "FLAGS": "", "COMPILER": compiler, "SOURCE_DIR": str(SOURCES)}
    flags = ["-std=c++17", "-O2", "-shared", "-fPIC", "-pthread", f"-I{TESTS.parent / 'cpp'}"]
    flags += [f'-DSTANDIN_{name}="{value}"' for name, value in defined.items()]
    sources = [str(path) for path in SOURCES.glob("*.cpp") if not path.name.startswith("test")]
    subprocess.run([compiler, *flags, *sources, "-o", str(library), "-ldl"], check=True)
    for name in LINKS:
        (folder / name).symlink_to(library.name)


@pytest.fixture(scope="session")
def standin(request: pytest.FixtureRequest) -> Path:
    """The folder with the stand-in, built once for its sources, and later that of compiled kernels."""
    compiler = shutil.which("g++")
    if _core.cuda.device_count():
        pytest.skip("these tests run in this process")
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("the stand-in is for Linux on x86-64")
    if not compiler:
        pytest.skip("there is no g++ to build the stand-in")
    version = subprocess.run([compiler, "-dumpversion"], capture_output=True, check=True, text=True).stdout
    if int(version.split(".")[0]) < 12:
        pytest.skip(f"the stand-in needs _Float16, so g++ 12 or newer, not {version.strip()}")
    about = subprocess.run([compiler, "-v"], capture_output=True, check=True).stderr
    texts = [path.read_bytes() for path in sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")])]
    number = hashlib.sha256(b"".join([about, str(SOURCES).encode(), *texts])).hexdigest()[:16]
    cache = getattr(request.config, "cache", None)
    kept = Path(tempfile.mkdtemp()) if cache is None else cache.mkdir("standin")
    folder: Path = kept / number
    if not folder.exists():
        made = Path(tempfile.mkdtemp(dir=kept))
        build(made, compiler, number)
        try:
            made.rename(folder)
        except OSError:  # another worker has been faster
            shutil.rmtree(made)
    return folder


@pytest.mark.parametrize("file", FILES)
def test_over_the_stand_in(standin: Path, file: str) -> None:
    if "torch_modules" in (TESTS / file).read_text():
        pytest.importorskip("torch", reason="the parity extra is not installed: no torch")
    there = {"RECURRA_CUDA_LIBRARIES": str(standin), "RECURRA_CACHE_DIR": str(standin / "kernels")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(TESTS / file)],
        env={**os.environ, "RECURRA_STANDIN_GPUS": "2", **there},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    if find_spec("torch"):  # beside that the stand-in has all that they may need
        assert " skipped" not in done.stdout.splitlines()[-1]


def test_there_are_such_files() -> None:
    assert {"test_cuda_layers.py", "test_cuda_training.py", "test_cuda_calls.py"} <= set(FILES)
