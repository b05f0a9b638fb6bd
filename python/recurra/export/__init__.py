"""Models as source code: C99 for microcontrollers, a C++ header for desktops."""

from .cpp import to_cpp
from .program import to_c

__all__ = ["to_c", "to_cpp"]
