"""Models as source code: C99 for microcontrollers."""

from .program import to_c

__all__ = ["to_c"]
