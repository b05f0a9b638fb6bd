"""Where NVRTC and cuBLAS are. The core finds what is loaded already and what the system's loader knows; here are the
places that only Python knows: NVIDIA's wheels and conda's environment."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

from .. import _core

FILES = {"nvrtc": ("libnvrtc.so.13", "libnvrtc.so.12"), "cublas": ("libcublas.so.13", "libcublas.so.12")}
WHEELS = {"nvrtc": ("cu13", "cuda_nvrtc"), "cublas": ("cu13", "cublas")}  # folders in nvidia/: of CUDA 13, of CUDA 12


def locate() -> None:
    """Tell the core where the libraries are. To be called before they are first used; what is installed between two
    calls is found by the second."""
    if sys.platform != "linux":
        return
    for library in FILES:
        path = from_pathfinder(library) or next(from_folders(library), None)
        if path:
            _core.cuda.set_library_path(library, path)


def require_gpu(number: int) -> None:
    """RuntimeError unless there is this GPU; what its layers need can be found then."""
    _core.cuda.device(number)
    locate()


def from_pathfinder(library: str) -> str | None:
    """The path that NVIDIA's own finder knows, where it is installed."""
    try:
        pathfinder = importlib.import_module("cuda.pathfinder")
    except ImportError:
        return None
    try:
        path: str | None = pathfinder.load_nvidia_dynamic_lib(library).abs_path
    except (RuntimeError, OSError):  # its DynamicLibNotFoundError is a RuntimeError
        return None
    return path


def from_folders(library: str) -> Iterator[str]:
    """The files in the wheels' folders, and in conda's."""
    folders = [Path(entry, "nvidia", wheel, "lib") for entry in sys.path for wheel in WHEELS[library]]
    for folder in [*folders, Path(sys.prefix, "lib")]:
        for name in FILES[library]:
            if (folder / name).is_file():
                yield str(folder / name)
