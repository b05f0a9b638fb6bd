"""Whole models: recurrent layers with what stands before, between and behind them, as one chain or small graph."""

from .convolution import AvgPool2d, Conv1d, Conv2d, MaxPool2d
from .model import Model
from .operation import Node, Operation, Value
from .operations import (
    Add,
    Concatenate,
    Dropout,
    LayerNorm,
    Mask,
    Multiply,
    Pool,
    Repeat,
    Reshape,
    Reverse,
    Scale,
    Select,
    Softmax,
    Sqrt,
)
from .stream import ModelStream
from .tape import ModelGradients, ModelTape

__all__ = [
    "Add",
    "AvgPool2d",
    "Concatenate",
    "Conv1d",
    "Conv2d",
    "Dropout",
    "LayerNorm",
    "Mask",
    "MaxPool2d",
    "Model",
    "ModelGradients",
    "ModelStream",
    "ModelTape",
    "Multiply",
    "Node",
    "Operation",
    "Pool",
    "Repeat",
    "Reshape",
    "Reverse",
    "Scale",
    "Select",
    "Softmax",
    "Sqrt",
    "Value",
]
