"""Layers on NVIDIA GPUs. Nothing of CUDA, and no library of arrays, is loaded before it is used."""

from .array_libraries import Library as Library
from .array_libraries import register_library as register_library
from .kernels import precompile as precompile

__all__ = ["Library", "precompile", "register_library"]
