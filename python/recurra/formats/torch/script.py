"""Graphs of TorchScript, interpreted with tensors that record."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch

from .tensor import MODULES, Lengths, Recording, traced
from .view import Refusal, Size

__all__ = ["interpret"]

# Of numbers and lists; what there are tensors in, torch computes itself.
_PLAIN: dict[str, Any] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "floordiv": operator.floordiv,
    "remainder": operator.mod,
    "neg": operator.neg,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "__is__": operator.is_,
    "__isnot__": operator.is_not,
    "__not__": operator.not_,
    "__and__": operator.and_,
    "__or__": operator.or_,
    "__getitem__": operator.getitem,
    "__contains__": operator.contains,
    "len": len,
    "Int": int,
    "Bool": bool,
    "Float": float,
    "list": list,
    "format": lambda text, *values: text.format(*values),
    "warn": lambda *values: None,
    "append": lambda values, value: values.append(value) or values,
    "sqrt": math.sqrt,
    "max": max,
    "min": min,
}

_DTYPES = {3: torch.int32, 4: torch.int64, 5: torch.float16, 6: torch.float32, 7: torch.float64, 15: torch.bfloat16}


def interpret(recording: Recording, module: Any, arguments: list[Any]) -> Any:
    """What the forward of a scripted or traced module returns for these arguments."""
    graph = module.inlined_graph
    inputs = list(graph.inputs())
    values: dict[str, Any] = {inputs[0].debugName(): module}
    arguments = [*arguments, *[None] * (len(inputs) - 1 - len(arguments))]
    values |= {each.debugName(): argument for each, argument in zip(inputs[1:], arguments, strict=True)}
    results = _block(recording, graph, values)
    return results[0] if len(results) == 1 else tuple(results)


MODULES[torch.jit.ScriptModule] = lambda recording, module, *args: interpret(recording, module, list(args))


def _block(recording: Recording, block: Any, values: dict[str, Any]) -> list[Any]:
    for node in block.nodes():
        kind, inputs = node.kind(), [values[each.debugName()] for each in node.inputs()]
        recording.graph.operation = kind.removeprefix("aten::")
        recording.graph.place = node.scopeName().rpartition("/")[2].removeprefix("__module.")
        results = _node(recording, node, kind, inputs, values)
        outputs = list(node.outputs())
        if len(outputs) == 1:
            results = [results]
        values |= {each.debugName(): result for each, result in zip(outputs, results or [], strict=True)}
    return [values[each.debugName()] for each in block.outputs()]


def _node(recording: Recording, node: Any, kind: str, inputs: list[Any], values: dict[str, Any]) -> Any:
    """Its result, or a list of several."""
    if kind == "prim::Constant":
        return node.output().toIValue()
    if kind == "prim::GetAttr":
        return getattr(inputs[0], node.s("name"))
    if kind in ("prim::ListConstruct", "prim::TupleConstruct"):
        return inputs if kind.startswith("prim::List") else tuple(inputs)
    if kind in ("prim::ListUnpack", "prim::TupleUnpack"):
        return list(inputs[0]) if len(list(node.outputs())) != 1 else inputs[0][0]
    if kind == "prim::TupleIndex":
        return inputs[0][inputs[1]]
    if kind == "prim::If":
        branch = list(node.blocks())[0 if bool(inputs[0]) else 1]
        results = _block(recording, branch, values)
        return results[0] if len(results) == 1 else results
    if kind == "prim::Loop":
        return _loop(recording, node, inputs, values)
    if kind in (
        "prim::unchecked_cast",
        "prim::unchecked_unwrap_optional",
        "aten::_unwrap_optional",
        "prim::NumToTensor",
    ):
        return inputs[0]
    if kind in ("aten::Int", "aten::IntImplicit", "aten::ScalarImplicit"):
        given = inputs[0]
        return recording.call("int", None, (given,), {}) if isinstance(given, Lengths) else _scalar(given)
    if kind in ("prim::dtype", "prim::device", "prim::layout") and isinstance(inputs[0], torch.Tensor):
        return getattr(inputs[0], kind.removeprefix("prim::"))
    if kind == "prim::type":
        return inputs[0].type
    if kind == "prim::isinstance":
        return isinstance(inputs[0], torch.Tensor) and any(each.kind() == "TensorType" for each in node.tys("types"))
    if kind == "prim::Uninitialized":
        return None
    if kind == "prim::RaiseException":
        raise Refusal(f"raises {inputs[0]}")
    if kind in ("prim::min", "prim::max"):
        return _PLAIN[kind.removeprefix("prim::")](*inputs)
    if not kind.startswith("aten::"):
        raise Refusal("has no counterpart")
    return _aten(recording, node, kind.removeprefix("aten::"), inputs)


def _scalar(value: Any) -> Any:
    return value if isinstance(value, (int, float)) else value.item()


def _loop(recording: Recording, node: Any, inputs: list[Any], values: dict[str, Any]) -> Any:
    trips, going, carried = inputs[0], inputs[1], inputs[2:]
    if isinstance(trips, Size):
        raise Refusal("is a loop over batch or time")
    (body,) = node.blocks()
    names = [each.debugName() for each in body.inputs()]
    trip = 0
    while going and trip < trips:
        if trip == 10_000:
            raise Refusal("is a loop without an end")
        values |= dict(zip(names, [trip, *carried], strict=True))
        going, *carried = _block(recording, body, values)
        trip += 1
    return carried[0] if len(carried) == 1 else carried


def _aten(recording: Recording, node: Any, name: str, inputs: list[Any]) -> Any:
    tensors = any(isinstance(each, torch.Tensor) for each in inputs)
    if not traced(inputs) and name in _PLAIN and not tensors:
        return _PLAIN[name](*inputs)
    if name in ("__is__", "__isnot__", "__getitem__", "len", "append", "list") and (name[2:4] == "is" or not tensors):
        return _PLAIN[name](*inputs)
    arguments = torch._C.parse_schema(node.schema()).arguments
    args, kwargs = [], {}
    for argument, value in zip(arguments, inputs, strict=True):
        if argument.name == "dtype" and isinstance(value, int):
            value = _DTYPES.get(value, value)
        if argument.kwarg_only:
            kwargs[argument.name] = value
        else:
            args.append(value)
    if traced(inputs):
        result = recording.call(name, None, tuple(args), kwargs)
        return list(result) if name == "size" and isinstance(result, tuple) else result
    return _computed(name, _numbers(args), kwargs)


_LARGEST = 1 << 26  # numbers that a constant may have
_REFUSED = ("from_file", "manual_seed", "set_grad_enabled")  # they do more than compute


def _computed(name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """What an operator makes of constants."""
    sizes = [each for each in args if isinstance(each, list) and all(type(one) is int for one in each)]
    largest = max((math.prod(max(1, abs(one)) for one in each) for each in sizes), default=0)
    largest = max([largest, *(abs(each) for each in args if type(each) is int and name in _COUNTING)])
    if name in _REFUSED or largest > _LARGEST:
        raise Refusal("is nothing that a model computes" if name in _REFUSED else f"makes {largest} numbers")
    result = getattr(torch.ops.aten, name)(*args, **kwargs)
    for each in result if isinstance(result, (list, tuple)) else [result]:
        if isinstance(each, torch.Tensor) and each.numel() > _LARGEST:
            raise Refusal(f"makes {each.numel()} numbers")
    return result


_COUNTING = ("arange", "eye", "linspace", "logspace", "range", "randperm", "hann_window", "hamming_window")


def _numbers(value: Any) -> Any:
    """Sizes as the numbers they stand for."""
    if isinstance(value, list):
        return [_numbers(each) for each in value]
    return int(value) if isinstance(value, Size) else value
