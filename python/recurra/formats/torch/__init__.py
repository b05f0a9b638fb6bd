"""Models from PyTorch, and for it."""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("recurra.formats.torch: expected PyTorch, which is not installed; pip install torch") from error

from .export import to_torch
from .files import load_torch

__all__ = ["load_torch", "to_torch"]
