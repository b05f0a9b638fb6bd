"""Kernels of the benchmark's own, through the CUDA driver: for `gpu_assumptions.py`."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

NON_PORTABLE_CLUSTERS = 14  # CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED


class Driver:
    """The driver that the core uses, with its context of the first GPU current in this thread."""

    def __init__(self) -> None:
        self._driver = ctypes.CDLL(str(Path(os.environ.get("RECURRA_CUDA_LIBRARIES", ""), "libcuda.so.1")))
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxPushCurrent_v2", context)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function; RuntimeError unless it succeeds."""
        if status := getattr(self._driver, name)(*arguments):
            text = ctypes.c_char_p()
            self._driver.cuGetErrorName(status, ctypes.byref(text))
            raise RuntimeError(f"{name}: {(text.value or b'error').decode()} ({status})")

    def module(self, cubin: bytes) -> ctypes.c_void_p:
        """Load compiled kernels."""
        module = ctypes.c_void_p()
        self.call("cuModuleLoadData", ctypes.byref(module), cubin)
        return module

    def kernel(self, module: ctypes.c_void_p, name: str, cluster: int = 1) -> ctypes.c_void_p:
        """A kernel of a module; clusters of more than 8 blocks have to be allowed."""
        function = ctypes.c_void_p()
        self.call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        if cluster > 8:
            self.call("cuFuncSetAttribute", function, NON_PORTABLE_CLUSTERS, 1)
        return function

    def launch(
        self,
        kernel: ctypes.c_void_p,
        grid: int,
        block: int,
        arguments: ctypes.Structure,
        *,
        shared: int = 0,
        stream: int = 0,
    ) -> None:
        """Launch a kernel that takes one struct."""
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        self.call("cuLaunchKernel", kernel, grid, 1, 1, block, 1, 1, shared, ctypes.c_void_p(stream), parameters, None)

    def stream(self) -> int:
        """A new stream, which is never destroyed."""
        stream = ctypes.c_void_p()
        self.call("cuStreamCreate", ctypes.byref(stream), 1)
        return stream.value or 0

    def synchronize(self, stream: int = 0) -> None:
        """Wait for a stream."""
        self.call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def graph(self, stream: int, launches: Any) -> ctypes.c_void_p:
        """What `launches()` puts on a stream, as a graph that can be launched."""
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), 1)
        launches()
        self.call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        self.call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        return executable

    def launch_graph(self, executable: ctypes.c_void_p, stream: int) -> None:
        """Run a graph."""
        self.call("cuGraphLaunch", executable, ctypes.c_void_p(stream))
