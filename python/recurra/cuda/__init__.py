"""NVIDIA GPUs. No GPU library is imported here, or needed before the first CUDA array or layer."""

from .libraries import Library as Library
from .libraries import register_library as register_library

__all__ = ["Library", "register_library"]
