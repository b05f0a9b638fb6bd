"""``python -m recurra cuda``: what there is for GPUs, and what is missing."""

from __future__ import annotations

from pathlib import Path

from .. import _core
from . import _libraries

NAMES = {"driver": "driver", "nvrtc": "NVRTC", "cublas": "cuBLAS"}


def run() -> int:
    """Print the report; returns 0 when layers can run on a GPU, else 1."""
    _libraries.locate()
    found = _core.cuda.found()
    for library in found:
        print(f"{NAMES[library['name']]:<8}{about(library)}")
    gpus = 0 if found[0]["problem"] else _core.cuda.device_count()
    for ordinal in range(gpus):
        print(f"cuda:{ordinal:<3}{about_gpu(ordinal)}")
    print(f"cache   {about_cache()}")
    problems = [library["problem"] for library in found if library["problem"]]
    if problems:
        print("", *problems, sep="\n")
    if not gpus:
        print("\nThere is no GPU that recurra can use.")
    return 1 if problems or not gpus else 0


def about(library: dict[str, str]) -> str:
    """Version and path."""
    if not library["path"]:
        return "missing"
    version = f"CUDA {library['version']}" if library["name"] == "driver" else library["version"]
    return f"{version}  {library['path']}"


def about_gpu(ordinal: int) -> str:
    """Name and size."""
    gpu = _core.cuda.device(ordinal)
    major, minor = gpu["capability"]
    return f"{gpu['name']}, compute capability {major}.{minor}, {gpu['multiprocessors']} multiprocessors"


def about_cache() -> str:
    """The folder and what is in it."""
    folder = _core.cuda.cache_folder()
    if not folder:
        return "off: kernels are compiled anew in every process"
    sizes = [file.stat().st_size for file in Path(folder).glob("*.cubin")]
    return f"{folder} ({len(sizes)} kernels, {sum(sizes) / 2**20:.1f} MiB)"
