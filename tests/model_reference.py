"""The oracle of `recurra.Model`: NumPy float64, from the equations and from nothing else.

Every row runs alone and without padding, so a row's result cannot depend on batch or padding. In a row a sequence is
`Steps`, values [n, F] with a mask and resets [n] each; a value without time is an array [F]. Recurrent nodes are those
of `reference`. Speed is no aim here; being obvious is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import reference
from checks import states
from numpy.typing import NDArray
from reference_general import FUNCTIONS

import recurra
from recurra.activation import FUNCTIONS as NAMES
from recurra.model.operation import Operation

Array = NDArray[Any]


class Steps(NamedTuple):
    """A sequence of one row."""

    values: Array  # [n, F]
    mask: Array  # [n], False for steps that are left out
    resets: Array  # [n], True for steps before which the row begins anew


def run(
    model: recurra.Model,
    x: Any,
    state: dict[str, Any] | None = None,
    lengths: Any = None,
    mask: Array | None = None,
    resets: Array | None = None,
    *,
    reset_state: dict[str, Any] | None = None,
    masked_output: str = "previous",
) -> tuple[dict[str, Array], dict[str, Any]]:
    """All of the model's outputs by name, [T, B, *features] or [B, *features], zero past each row's length; and the
    final states of its recurrent nodes, as layers give them.

    Arguments are those of a call: x an array, a tuple in the order of the inputs, or a dict; each [T, B, *features]
    ([B, T, *features] of a model with batch_first), or [T, *features] for one row.
    """
    names = list(model.inputs)
    given = x if isinstance(x, dict) else dict(zip(names, x if isinstance(x, tuple) else (x,), strict=True))
    arrays = {name: np.asarray(given[name]) for name in names}
    first = next((n for n in names if model.inputs[n].time), names[0])
    batched = arrays[first].ndim == len(model.inputs[first].features) + model.inputs[first].time + 1
    swap = batched and model.batch_first

    def columns(array: Array | None, time: bool) -> Any:
        """[T, B, ...] or [B, ...]."""
        if array is None or not batched:
            return None if array is None else array[:, None] if time else array[None]
        return array.swapaxes(0, 1) if swap and time else array

    inputs = {name: columns(array, model.inputs[name].time) for name, array in arrays.items()}
    mask, resets = (columns(None if a is None else np.asarray(a), True) for a in (mask, resets))
    batch = next(a.shape[1 if model.inputs[n].time else 0] for n, a in inputs.items())
    steps = {name: len(a) if model.inputs[name].time else None for name, a in inputs.items()}
    rows = []
    for b in range(batch):
        values: dict[str, Any] = {}
        for name, array in inputs.items():
            if not model.inputs[name].time:
                values[name] = array[b].reshape(-1)
                continue
            n = len(array) if lengths is None else int(lengths[b])
            valid = np.ones(n, bool) if mask is None else mask[:n, b]
            begun = np.zeros(n, bool) if resets is None else resets[:n, b]
            values[name] = Steps(array[:n, b].reshape(n, model.inputs[name].size), valid, begun)
        begin, fresh = ({n: row_of(s, b, batched) for n, s in (each or {}).items()} for each in (state, reset_state))
        rows.append(run_row(model, values, begin, fresh, masked_output))

    outputs = {}
    for name in model.outputs:
        value, count = value_of(model, name), padded_steps(model, name, steps)
        parts = [row[0][name] for row in rows]
        if value.time:
            output = np.zeros((count, batch, *value.features))
            for b, part in enumerate(parts):
                output[: len(part.values), b] = part.values.reshape(-1, *value.features)
            outputs[name] = output.swapaxes(0, 1) if swap else output if batched else output[:, 0]
        else:
            output = np.zeros((batch, *value.features))
            for b, part in enumerate(parts):
                output[b] = part.reshape(value.features)
            outputs[name] = output if batched else output[0]
    final = {}
    for name, layer in model.layers.items():
        if isinstance(layer, recurra.Recurrent):
            together = [np.concatenate(each, 1) for each in zip(*(row[1][name] for row in rows), strict=True)]
            together = together or [np.zeros((n, 0, s)) for n, s in state_shapes(layer)]
            together = together if batched else [each[:, 0] for each in together]
            final[name] = tuple(together) if len(together) > 1 else together[0]
    return outputs, final


def row_of(state: Any, b: int, batched: bool) -> list[Array]:
    """Of a state [L*D, B, O], [L*D, 1, O]; one [L*D, O] is that of all rows."""
    return [s[:, b : b + 1] if batched and np.ndim(s) == 3 else np.asarray(s)[:, None] for s in states(state)]


def run_row(
    model: recurra.Model, values: dict[str, Any], state: dict[str, Any], fresh: dict[str, Any], masked_output: str
) -> tuple[dict[str, Any], dict[str, list[Array]]]:
    """All values of one row, and the final states [L*D, 1, O] of its recurrent nodes."""
    values, final = dict(values), {}
    for node in model._nodes:
        name, layer, inputs = node.name, node.layer, [values[each] for each in node.inputs]
        if isinstance(layer, recurra.Recurrent):
            begin = state.get(name)
            if len(inputs) > 1:
                begin = [v.reshape(n, 1, s) for v, (n, s) in zip(inputs[1:], state_shapes(layer), strict=True)]
            values[name], final[name] = recurrent(layer, inputs[0], begin, fresh.get(name), masked_output)
            values |= {f"{name}:{key}": s.reshape(-1) for key, s in zip("hcnm", final[name], strict=False)}
        elif not isinstance(layer, Operation):
            values[name] = each_step(inputs[0], lambda v, layer=layer: head(layer, v))
        elif layer.kind in WINDOWS:
            values[name] = over_windows(layer, inputs[0], value_of(model, node.inputs[0]).features)
        else:
            values[name] = OPERATIONS[layer.kind](layer, *inputs)
        if isinstance(values[name], Steps) and not len(values[name].values):
            values[name] = values[name]._replace(values=np.zeros((0, node.value.size)))
    return values, final


def padded_steps(model: recurra.Model, name: str, steps: dict[str, int | None]) -> int:
    """T of a value, where inputs have so many."""
    steps = dict(steps)
    for node in model._nodes:
        own = [count for each in node.inputs if (count := steps.get(each)) is not None]
        made: Any = own[0] if own else None
        if isinstance(node.layer, recurra.Repeat):
            made = node.layer.steps
        elif isinstance(node.layer, recurra.Pool):
            made = None
        elif hasattr(node.layer, "output_length"):
            made = windows(made, node.layer, 0)
        steps[node.name] = made
    return steps.get(name) or 0


def value_of(model: recurra.Model, name: str) -> recurra.Value:
    """Shape of an output."""
    for node in model._nodes:
        if node.name == name:
            return node.value
        if name.startswith(f"{node.name}:"):
            sizes = dict(zip("hcnm", (n * s for n, s in state_shapes(node.layer)), strict=False))
            return recurra.Value((sizes[name.rpartition(":")[2]],), False)
    return model.inputs[name]


# ------------------------------------------------------------------------------------- recurrent layers and heads


def state_shapes(layer: recurra.Recurrent) -> list[tuple[int, int]]:
    """(L*D, size) of each state."""
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    sizes = [layer.proj_size or layer.hidden_size] + [layer.hidden_size] * (reference.CELLS[layer.cell].states - 1)
    return [(count, size) for size in sizes]


def recurrent(layer: Any, x: Steps, begin: Any, fresh: Any, masked_output: str) -> tuple[Steps, list[Array]]:
    assert not layer.zoneout and not layer.precision, "the oracle has neither"
    params = layer.state_dict()
    learned = [params.pop(name)[:, None] for name in ("h_0", "c_0") if name in params]
    flip, resets = slice(None), x.resets
    if layer.direction == "reverse":  # the steps in the other order, which is cut at the same places
        flip = slice(None, None, -1)
        resets = np.concatenate([np.zeros(1, bool), x.resets[:0:-1]])[: len(x.resets)]
    y, final = reference.run(
        layer.cell,
        x.values[flip, None],
        params,
        begin or learned or None,
        None,
        layer.constants,
        resets=resets[:, None],
        reset_state=fresh or learned or None,
        mask=x.mask[flip, None],
        masked_output=masked_output,
    )
    return x._replace(values=y[flip, 0]), list(final)


def head(layer: Any, x: Array) -> Any:
    """A Linear, an Embedding or an activation, of one step."""
    if isinstance(layer, recurra.Activation):
        name, function = NAMES[layer.function].core, NAMES[layer.function]
        alpha, beta = (getattr(layer if n in function.parameters else function, n) for n in ("alpha", "beta"))
        return FUNCTIONS[name][0](np.asarray(x, np.float64), alpha, beta)
    params = {name: array.astype(np.float64) for name, array in layer.state_dict().items()}
    if isinstance(layer, recurra.Embedding):
        return params["weight"][int(x[0])]
    return params["weight"] @ x + params.get("bias", 0.0)


def each_step(x: Any, function: Any) -> Any:
    """A function of one step's features [F], on a sequence or on a value without time."""
    if isinstance(x, Steps):
        return x._replace(values=np.array([function(values) for values in x.values]))
    return np.asarray(function(x))


# ------------------------------------------------------------------------------------------------ operations


def softmax(op: Any, x: Any) -> Any:
    def of(v: Array) -> Any:
        log = v - np.logaddexp.reduce(np.asarray(v, np.float64))
        return log if op.log else np.exp(log)

    return each_step(x, of)


def sqrt(op: Any, x: Any) -> Any:
    return each_step(x, np.sqrt)


def layer_norm(op: Any, x: Any) -> Any:
    p = op.state_dict()

    def of(v: Array) -> Any:
        v = np.asarray(v, np.float64)
        centred = v - v.mean()
        return centred / np.sqrt((centred**2).mean() + op.eps) * p.get("weight", 1.0) + p.get("bias", 0.0)

    return each_step(x, of)


def scale(op: Any, x: Any) -> Any:
    p = {name: array.astype(np.float64) for name, array in op.state_dict().items()}
    return each_step(x, lambda v: v * p["weight"] + p["bias"])


def pool(op: Any, x: Steps) -> Any:
    seen = np.asarray(x.values, np.float64)[x.mask]
    if not len(seen):
        return np.zeros(x.values.shape[1])
    return {"last": seen[-1], "first": seen[0], "max": seen.max(0), "mean": seen.mean(0)}[op.mode]


def mask(op: Any, x: Steps, by: Steps | None = None) -> Steps:
    seen = (by or x).values
    return x._replace(mask=x.mask & ~(seen == op.value).all(1))


def reverse(op: Any, x: Steps) -> Steps:
    assert x.mask.all() and not x.resets[1:].any()
    return x._replace(values=x.values[::-1])


def repeat(op: Any, x: Array) -> Steps:
    return Steps(np.tile(x, (op.steps, 1)), np.ones(op.steps, bool), np.zeros(op.steps, bool))


def together(*inputs: Any) -> tuple[Any, ...]:
    """Inputs of the same steps: values without time stand at every one. A step that one of them masks is masked."""
    timed = [each for each in inputs if isinstance(each, Steps)]
    if not timed:
        return inputs
    n = min(len(each.values) for each in timed)
    flags = np.all([each.mask[:n] for each in timed], 0), np.any([each.resets[:n] for each in timed], 0)
    values = (each.values[:n] if isinstance(each, Steps) else np.tile(each, (n, 1)) for each in inputs)
    return tuple(Steps(each, *flags) for each in values)


def merge(function: Any) -> Any:
    def of(op: Any, *inputs: Any) -> Any:
        inputs = together(*inputs)
        if isinstance(inputs[0], Steps):
            return inputs[0]._replace(values=function([each.values for each in inputs]))
        return function(inputs)

    return of


# --------------------------------------------------------------------------------------- windows over time and width


def windows(size: int, op: Any, axis: int) -> int:
    """How many windows begin within the padded row, and end within it."""
    size += sum(op.padding[axis])
    reach = op.dilation[axis] * (op.kernel_size[axis] - 1)
    return len(range(0, max(0, size - reach), op.stride[axis]))


def seen(op: Any, x: Array, resets: Array, t: int, w: int) -> tuple[Array, Array]:
    """Of x [n, C, W], what the window at step t and place w holds, [C, kernel], and which of it there is."""
    n, channels, width = x.shape
    values, there = np.zeros((channels, *op.kernel_size)), np.zeros(op.kernel_size, bool)
    begun = np.flatnonzero(resets[: t + 1])  # the last of these steps began anew
    for j in range(op.kernel_size[0]):
        for k in range(op.kernel_size[1]):
            frame = t * op.stride[0] + j * op.dilation[0] - op.padding[0][0]
            place = w * op.stride[1] + k * op.dilation[1] - op.padding[1][0]
            if (begun[-1] if len(begun) else 0) <= frame < n and 0 <= place < width:
                values[:, j, k], there[j, k] = x[frame, :, place], True
    return values, there


def over_windows(op: Any, x: Steps, features: tuple[int, ...]) -> Steps:
    """What the operation makes of its window at every step and place."""
    n, (channels, width) = len(x.values), features if len(features) == 2 else (*features, 1)
    image = np.asarray(x.values, np.float64).reshape(n, channels, width)
    if x.resets[1:].any() and op.kernel_size[0] > 1:
        assert op.stride[0] == 1 and op.future == 0 and windows(n, op, 0) == n
    made = [
        np.array(
            [WINDOWS[op.kind](op, *seen(op, image, x.resets, t, w)) for w in range(windows(width, op, 1))]
        ).T.reshape(-1)
        for t in range(windows(n, op, 0))
    ]
    if len(made) == n:
        return x._replace(values=np.array(made))
    return Steps(np.array(made), np.ones(len(made), bool), np.zeros(len(made), bool))


def conv(op: Any, values: Array, there: Array) -> Array:
    p = {name: array.astype(np.float64) for name, array in op.state_dict().items()}
    outputs, inputs = op.out_channels // op.groups, op.in_channels // op.groups
    weight = p["weight"].reshape(op.out_channels, inputs, *op.kernel_size)
    out = np.array(p.get("bias", np.zeros(op.out_channels)))
    for o in range(op.out_channels):
        first = o // outputs * inputs
        out[o] += (weight[o] * values[first : first + inputs]).sum()
    return out


def max_pool(op: Any, values: Array, there: Array) -> Any:
    return values[:, there].max(1) if there.any() else np.zeros(len(values))


def avg_pool(op: Any, values: Array, there: Array) -> Any:
    return values.reshape(len(values), -1).mean(1)


OPERATIONS: dict[str, Any] = {
    "softmax": softmax,
    "sqrt": sqrt,
    "layer_norm": layer_norm,
    "scale": scale,
    "pool": pool,
    "dropout": lambda op, x: x,
    "mask": mask,
    "select": lambda op, x: each_step(x, lambda v: v[list(op.indices)]),
    "reshape": lambda op, x: x,
    "reverse": reverse,
    "repeat": repeat,
    "add": merge(sum),
    "multiply": merge(lambda inputs: np.prod(inputs, 0)),
    "concatenate": merge(lambda inputs: np.concatenate(inputs, -1)),
}
WINDOWS: dict[str, Any] = {"conv1d": conv, "conv2d": conv, "max_pool2d": max_pool, "avg_pool2d": avg_pool}
