"""ONNX files in and out."""

from __future__ import annotations

from .export import to_onnx
from .finish import Imported
from .importer import load_onnx, read_onnx

__all__ = ["Imported", "load_onnx", "read_onnx", "to_onnx"]
