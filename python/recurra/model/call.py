"""Calls of a model: arrays checked, and run by the core."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core
from .._arrays import as_array, batched, contiguous, empty, memory_for, row_contiguous, unwrapped
from .._marks import PREVIOUS, repeats
from .._options import flag
from ..activation import Activation
from ..heads import CpuEmbedding, CpuLinear
from ..packed import CpuPacked
from ..recurrent import Recurrent
from .arguments import checked_inputs, checked_marks, checked_states, require_marks
from .operation import Operation, Value
from .structure import structure_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .._arrays import Array
    from .flow import Marks
    from .model import Model

__all__ = [
    "Given",
    "alone",
    "compiled",
    "core_states",
    "given_inputs",
    "parts_of",
    "plain_values",
    "results",
    "run",
    "run_operation",
    "run_plain",
    "value_of",
]


class Given(NamedTuple):
    """Inputs, checked, as the core takes them.

    Attributes:
        arrays: [T, B, size], or [T, B] of int64; T is 1 without time.
        batch: (B,), or () without a batch axis.
        steps: T of each of those with time.
    """

    arrays: list[Array]
    batch: tuple[int, ...]
    steps: dict[str, int]


class _Inputs(NamedTuple):
    """What `checked_inputs` asks of a model."""

    inputs: Mapping[str, Value]
    dtype: np.dtype[Any]
    batch_first: bool


def parts_of(layers: Iterable[Any]) -> list[Any]:
    """What the layers have packed: other objects when their parameters change."""
    return [layer._parameters if isinstance(layer, Operation) else getattr(layer, "_packed", None) for layer in layers]


def compiled(structure: Mapping[str, Any], layers: Mapping[str, Any]) -> _core.Model:
    """The core's model of such a structure, which shares the packed weights of the layers.

    Raises:
        ValueError: a layer is of a kind that the core's models do not hold.
    """
    import json  # here, so that importing recurra is quick

    networks: dict[str, _core.Network] = {}
    linears: dict[str, _core.Linear] = {}
    tensors: dict[str, Array] = {}
    for name, layer in layers.items():
        own: Mapping[str, Array] = {}
        if isinstance(layer, Operation):
            own = layer._parameters
        elif not isinstance(layer, Activation):
            packed: Any = layer._packed
            if not isinstance(packed, (CpuPacked, CpuLinear, CpuEmbedding)):
                raise ValueError(f"layers: node {name!r}: expected a layer on the CPU, got one on {layer.device}")
            if isinstance(packed, CpuLinear):
                linears[name] = packed.affine
            elif isinstance(packed, CpuEmbedding):
                own = packed._parameters
            else:
                if not isinstance(packed.network, _core.Network):
                    raise ValueError(f"layers: node {name!r}: expected another cell, {layer.cell!r} has no streams")
                networks[name] = packed.network
                own = packed._initial
        tensors |= {f"{name}.{parameter}": array for parameter, array in own.items()}
    with memory_for("layers"):
        return _core.Model(str(structure["dtype"]), json.dumps(structure), networks, linears, tensors)


def given_inputs(model: Any, x: Any, batch_first: bool) -> Given:
    """The caller's x: an array, or those of several inputs as a tuple or by name."""
    about = _Inputs(model.inputs, model.dtype, batch_first)
    arrays, batch = checked_inputs(about, x)  # type: ignore[arg-type]
    made, steps = [], {}
    for name, array in arrays.items():
        value = model.inputs[name]
        if value.integer:
            array = array.astype(np.int64)  # copied: what is checked is what is used
        if not batch:
            array = array[:, None] if value.time else array[None]
        elif batch_first and value.time:
            array = array.swapaxes(0, 1)
        if not value.time:
            array = array[None]
        else:
            steps[name] = len(array)
        size = () if value.integer else (value.size,)
        made.append(row_contiguous(array.reshape(*array.shape[:2], *size)) if size else array)
    return Given(made, batch, steps)


def core_states(
    recurrent: Mapping[str, Recurrent], given: Mapping[str, list[Array]], batch: tuple[int, ...]
) -> list[list[Array] | None]:
    """States by recurrent node, as the core takes them: [L*D, B, O], those of all rows repeated."""

    def rows(array: Array) -> Array:
        return contiguous(array) if array.ndim == 3 else np.repeat(array[:, None], batch[0] if batch else 1, axis=1)

    return [[rows(array) for array in given[name]] if name in given else None for name in recurrent]


def results(
    outputs: Mapping[str, Value], steps: Sequence[int], batch: tuple[int, ...], dtype: np.dtype[Any], batch_first: bool
) -> tuple[list[Array], list[Array]]:
    """New arrays for outputs: as the caller gets them, and as the core writes them."""
    outward, written = [], []
    for (name, value), count in zip(outputs.items(), steps, strict=True):
        times = (count,) * value.time
        axes = (*batch, *times) if batch_first else (*times, *batch)
        array = empty(name, (*axes, value.size), dtype)
        core = array if batch else array[..., None, :]
        if value.time:
            written.append(core.swapaxes(0, 1) if batch_first and batch else core)
        else:
            written.append(core[None])
        outward.append(array.reshape(*axes, *value.features))
    return outward, written


def run(
    model: Model,
    x: Any,
    state: Any,
    *,
    lengths: Any = None,
    resets: Any = None,
    reset_state: Any = None,
    mask: Any = None,
    masked_output: str = PREVIOUS,
    return_state: Any = False,
    batch_first: bool | None = None,
    core: _core.Model | None = None,
) -> Any:
    """See `Model.__call__`; `core` is that of other parameters than the layers have now."""
    require_marks(model, resets, reset_state, mask, masked_output)
    returns, first = flag("return_state", return_state), model.batch_first if batch_first is None else batch_first
    given, recurrent = given_inputs(model, x, first), model._recurrent
    marks = checked_marks(given.steps, given.batch, first, lengths, resets, mask)
    initial = checked_states(model, "state", state, given.batch)
    fresh = checked_states(model, "reset_state", reset_state, given.batch)
    core = model._core() if core is None else core
    packed: list[Any] = [layer._packed for layer in recurrent.values()]
    final = [each.empty_state(given.batch) for each in packed] if returns else []
    counts = [core.output_steps(k, [len(array) for array in given.arrays]) for k in range(len(model.outputs))]
    outputs, written = results(model._output_values, counts, given.batch, model.dtype, first)
    with memory_for("x"):
        core.forward(
            given.arrays,
            written,
            marks.lengths,
            marks.resets,
            marks.mask,
            repeats(masked_output),
            core_states(recurrent, initial, given.batch),
            core_states(recurrent, fresh, given.batch),
            [[batched(array) for array in states] for states in final],
        )
    y = outputs[0] if len(outputs) == 1 else dict(zip(model.outputs, outputs, strict=True))
    return (y, {name: unwrapped(states) for name, states in zip(recurrent, final, strict=True)}) if returns else y


def plain_values(inputs: list[Value], outputs: list[Value]) -> tuple[Value, Value] | None:
    """Input and output of a model that `run_plain` takes: one of each, of numbers in one axis, the first with time."""
    if len(inputs) > 1 or len(outputs) > 1 or not inputs[0].time or inputs[0].integer or outputs[0].integer:
        return None
    return (inputs[0], outputs[0]) if len(inputs[0].features) == len(outputs[0].features) == 1 else None


_SMALL = 1 << 24  # numbers; beyond it checks cost nothing beside the call


def run_plain(model: Model, x: Any) -> Array | None:
    """The output of a call without options, of an array that the core reads as it is; None if it is anything else, and
    `run` has to look closer: checks take longer than a short call of a small model."""
    if type(x) is not np.ndarray or model._plain is None or x.dtype != model.dtype:
        return None
    value, made = model._plain
    shape, flags = x.shape, x.flags
    dims = len(shape)
    plain = (dims == 3 or dims == 2) and shape[-1] == value.features[0] and flags.c_contiguous and flags.aligned
    if not plain or not 0 < x.size < _SMALL:
        return None
    core, first = model._core(), model.batch_first and dims == 3
    steps = core.output_steps(0, [shape[first]])
    batch, times = (shape[1 - first],) if dims == 3 else (), (steps,) * made.time
    if steps * math.prod(batch) * made.features[0] >= _SMALL:
        return None
    y = np.empty((*batch, *times, *made.features) if first else (*times, *batch, *made.features), model.dtype)
    written = batched(y, first) if made.time else y[None] if batch else y[None, None]
    with memory_for("x"):
        core.forward([batched(x, first)], [written], None, None, None, True, [], [], [])
    return y


def alone(layer: Any, name: str, inputs: Mapping[str, Value], dtype: np.dtype[Any]) -> _core.Model:
    """The core's model of one node of this name."""
    structure = {
        "inputs": [
            {"name": n, "features": list(v.features), "time": v.time, "integer": v.integer} for n, v in inputs.items()
        ],
        "nodes": [{"name": name, "inputs": list(inputs), **structure_of(layer)}],
        "outputs": [name],
        "dtype": str(dtype),
        "batch_first": False,
    }
    return compiled(structure, {name: layer})


def value_of(core: _core.Model, inputs: Sequence[Array], marks: Marks, value: Value) -> Array:
    """The only output of a core's model, [T, B, size] or [B, size], of such inputs."""
    arrays = [array if array.ndim == 3 else array[None] for array in inputs]
    steps = core.output_steps(0, [len(array) for array in arrays])
    y = empty("output", (steps, arrays[0].shape[1], value.size), arrays[0].dtype)
    with memory_for("x"):
        core.forward(arrays, [y], marks.lengths, marks.resets, marks.mask, True, [], [], [])
    return y if value.time else y[0]


def run_operation(operation: Operation, inputs: Sequence[Any], lengths: Any, mask: Any) -> Array:
    """See `Operation.__call__`."""
    arrays = [as_array("x", x) for x in inputs]
    if not arrays:
        raise TypeError("inputs: expected at least one array, got none")
    values: dict[str, Value] = {}
    for array in arrays:
        integer = array.dtype.kind in "iu"
        lead = 2 if array.ndim > 2 or integer else 1
        if not lead + (not integer) <= array.ndim <= (2 if integer else 4):
            raise ValueError(f"x: expected [T, B, F], [T, B, C, W] or [B, F], got {list(array.shape)}")
        values[f"x{len(values)}"] = Value(array.shape[lead:], lead == 2, integer)
    result = operation.result(*values.values())
    dtypes = [operation.dtype] if operation.has_parameters else [a.dtype for a in arrays if a.dtype.kind not in "iu"]
    if dtypes[0] not in (np.float32, np.float64):
        raise TypeError(f"x: expected float32 or float64, got {dtypes[0]}")
    key, kept = (values, dtypes[0]), operation.__dict__.get("_compiled")
    if kept is None or kept[0] != key or kept[1] is not operation._parameters:
        kept = (key, operation._parameters, alone(operation, operation.kind, values, dtypes[0]))
        operation.__dict__["_compiled"] = kept
    core: _core.Model = kept[2]
    given = given_inputs(_Inputs(values, dtypes[0], False), dict(zip(values, arrays, strict=True)), False)
    marks = checked_marks(given.steps, given.batch, False, lengths, None, mask)
    counts = [core.output_steps(0, [len(array) for array in given.arrays])]
    (y,), written = results({"output": result}, counts, given.batch, dtypes[0], False)
    with memory_for("x"):
        core.forward(given.arrays, written, marks.lengths, None, marks.mask, True, [], [], [])
    return y
