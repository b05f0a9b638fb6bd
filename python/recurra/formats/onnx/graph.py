"""An ONNX file as plain Python: nodes with their attributes, and constants as arrays."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..._options import shown
from ..unsupported import UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..._arrays import Array

    Source: TypeAlias = str | os.PathLike[str] | bytes | Any  # the last one is an onnx.ModelProto

__all__ = ["Graph", "GraphInput", "Node", "Source", "read"]

FIRST_OPSET, LAST_OPSET = 7, 26
_BYTES_PER_CONSTANT = 1 << 30


@dataclass
class Node:
    """One node.

    Attributes:
        op: its operator, with the domain before it where that is not ONNX's own.
        attributes: numbers, str, lists, arrays or, for a subgraph, a `Graph`.
        inputs, outputs: names of tensors, "" for none.
    """

    op: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]
    opset: int

    def get(self, attribute: str, default: Any = None) -> Any:
        """The value of an attribute."""
        return self.attributes.get(attribute, default)

    def input(self, position: int) -> str:
        """The name at a position, "" if there is none."""
        return self.inputs[position] if position < len(self.inputs) else ""

    @property
    def label(self) -> str:
        """What it is called in errors."""
        return (
            f"node {self.name or self.outputs[0]!r} ({self.op})" if self.outputs else f"node {self.name!r} ({self.op})"
        )


@dataclass
class GraphInput:
    """An input that a caller gives.

    Attributes:
        dims: each size, a name for it, or None.
        integer: whether it holds whole numbers or booleans.
    """

    name: str
    dims: list[int | str | None]
    integer: bool
    double: bool = False


@dataclass
class Graph:
    """A graph or subgraph."""

    nodes: list[Node]
    inputs: list[GraphInput]
    outputs: list[str]
    constants: dict[str, Array] = field(default_factory=dict)


def read(source: Source) -> Graph:
    """The graph of a file, its bytes, or an onnx.ModelProto.

    Raises:
        UnsupportedModel: it is none, or none of opsets 7 to 26.
        ImportError: the package onnx is not installed.
    """
    try:
        import onnx
        import onnx.inliner
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError:
        raise ImportError("ONNX files need the package onnx: pip install onnx") from None
    if isinstance(source, (str, os.PathLike)):
        try:
            model = onnx.load(os.fspath(source))
        except OSError:
            raise
        except Exception as error:  # protobuf's, onnx's own for external data, UnicodeDecodeError
            raise UnsupportedModel(f"ONNX: {os.fspath(source)}: no ONNX model: {error}") from None
    elif isinstance(source, (bytes, bytearray, memoryview)):
        model = onnx.ModelProto()
        try:
            model.ParseFromString(bytes(source))
        except (DecodeError, UnicodeDecodeError) as error:
            raise UnsupportedModel(f"ONNX: no ONNX model: {error}") from None
    elif isinstance(source, onnx.ModelProto):
        model = source
    else:
        raise TypeError(f"source: expected a path, bytes or an onnx.ModelProto, got {shown(source)}")
    if not model.graph.node and not model.graph.output:
        raise UnsupportedModel("ONNX: expected a model with a graph, got none")
    opset = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=1)
    if not FIRST_OPSET <= opset <= LAST_OPSET:
        raise UnsupportedModel(f"ONNX: expected opset {FIRST_OPSET} to {LAST_OPSET}, got {opset}")
    try:
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        return _graph(model.graph, opset)
    except UnsupportedModel:
        raise
    except Exception as error:  # whatever onnx and numpy make of damaged tensors and attributes
        raise UnsupportedModel(f"ONNX: a damaged model: {type(error).__name__}: {error}") from None


def _graph(proto: Any, opset: int) -> Graph:
    constants = {_text(tensor.name): _array(tensor) for tensor in proto.initializer}
    for sparse in proto.sparse_initializer:
        raise UnsupportedModel(f"ONNX: constant {sparse.values.name!r} is sparse")
    given = {_text(each.name) for each in proto.input}
    names = Counter(name for node in proto.node for name in map(_text, node.output) if name)
    names.update(given | set(constants))
    if repeated := [name for name, times in names.items() if times > 1]:
        raise UnsupportedModel(f"ONNX: {repeated[0]!r} is defined more than once")
    return Graph(
        [_node(node, opset) for node in proto.node],
        [_input(each) for each in proto.input if _text(each.name) not in constants],
        [_text(output.name) for output in proto.output],
        constants,
    )


def _text(value: str | bytes) -> str:
    """Protobuf gives bytes for text of a damaged file."""
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _node(proto: Any, opset: int) -> Node:
    domain = "" if proto.domain in ("", "ai.onnx") else f"{_text(proto.domain)}."
    names = list(map(_text, proto.input)), list(map(_text, proto.output))
    node = Node(domain + _text(proto.op_type), _text(proto.name), *names, {}, opset)
    for attribute in proto.attribute:
        node.attributes[_text(attribute.name)] = _attribute(attribute, opset)
    return node


def _attribute(proto: Any, opset: int) -> Any:
    import onnx

    kind = proto.type
    if kind == onnx.AttributeProto.GRAPH:
        return _graph(proto.g, opset)
    if kind == onnx.AttributeProto.TENSOR:
        return _array(proto.t)
    value = onnx.helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if kind == onnx.AttributeProto.STRINGS:
        return [each.decode("utf-8", "replace") for each in value]
    return list(value) if kind in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS) else value


def _array(proto: Any) -> Array:
    """A tensor; 16-bit numbers as float32."""
    import onnx

    if _count(proto.dims) * 8 > _BYTES_PER_CONSTANT:
        raise UnsupportedModel(f"ONNX: constant {proto.name!r} of shape {list(proto.dims)} is too large")
    array = onnx.numpy_helper.to_array(proto)
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        array = array.astype(np.float32) if array.dtype.kind == "V" or "float" in str(array.dtype) else array
    if array.dtype == np.float16 or str(array.dtype) == "bfloat16":
        array = array.astype(np.float32)
    return array


def _count(dims: Iterable[int]) -> int:
    count = 1
    for size in dims:
        count *= max(0, size)
    return count


def _input(proto: Any) -> GraphInput:
    import onnx

    kinds = onnx.TensorProto
    kind = proto.type.tensor_type
    if not proto.type.HasField("tensor_type"):
        raise UnsupportedModel(f"ONNX: input {proto.name!r} is no tensor")
    dims: list[int | str | None] = []
    for dim in kind.shape.dim:
        known = dim.WhichOneof("value")
        named = _text(dim.dim_param) or None
        dims.append(named if known != "dim_value" else dim.dim_value if dim.dim_value > 0 else None)
    if not kind.HasField("shape"):
        raise UnsupportedModel(f"ONNX: input {proto.name!r} has no shape")
    floating = (kinds.FLOAT, kinds.FLOAT16, kinds.BFLOAT16, kinds.DOUBLE)
    return GraphInput(_text(proto.name), dims, kind.elem_type not in floating, kind.elem_type == kinds.DOUBLE)
