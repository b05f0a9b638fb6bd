"""Layers on NVIDIA GPUs. Nothing of CUDA, and no library of arrays, is loaded before it is used."""

from .array_libraries import Library as Library
from .array_libraries import register_library as register_library
from .explain import explain as explain
from .kernels import precompile as precompile

__all__ = ["Library", "explain", "precompile", "register_library"]
