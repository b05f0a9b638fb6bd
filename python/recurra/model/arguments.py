"""The arguments of a model's call, checked; its arrays as nodes take them, and back as callers know them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._arrays import (
    as_array,
    check,
    check_dtype,
    check_shape,
    require_rows,
    row_lengths,
    unwrapped,
    wrapped,
)
from .._marks import PREVIOUS, checked_flags, marks_of, repeats
from .._options import mapping, shown, split_state
from ..recurrent import Recurrent
from .flow import Flow, Marks
from .operations import Mask

if TYPE_CHECKING:
    from .._arrays import Array
    from ..packed import State
    from .model import Model
    from .operation import Value

__all__ = [
    "Call",
    "by_name",
    "checked_call",
    "checked_inputs",
    "checked_marks",
    "checked_states",
    "final_gradients",
    "pattern",
    "row_axis",
]


class Call(NamedTuple):
    """What a call was given; arrays have a batch axis, where the caller's may have none, and steps first.

    Attributes:
        inputs: names to copies of the values.
        batch: (B,), or () of a call without a batch axis.
        batch_first: the caller's order of axes.
        states: names of recurrent nodes to what they begin with, [L*D, B, O] each, where that was given.
        reset_states: the same, after resets; [L*D, O] where it is that of all rows.
        masked_output: as of the call.
    """

    inputs: dict[str, Flow]
    batch: tuple[int, ...]
    batch_first: bool
    states: dict[str, list[Array]]
    reset_states: dict[str, list[Array]]
    masked_output: str

    def outward(self, array: Array, value: Value) -> Array:
        """An output, or the gradient of an input, as the caller has those: from [T, B, F] or [B, F]."""
        shaped = array.reshape(*array.shape[: 1 + value.time], *value.features)
        if not self.batch:
            return shaped[:, 0] if value.time else shaped[0]
        return shaped.swapaxes(0, 1) if self.batch_first and value.time else shaped

    def outer(self, state: State) -> State:
        """A state, or the gradient of one, as the caller has it."""
        return state if self.batch else unwrapped([h[:, 0] for h in wrapped(state)])

    def inward(self, array: Array, value: Value) -> Array:
        """The inverse."""
        if not self.batch:
            array = array[:, None] if value.time else array[None]
        elif self.batch_first and value.time:
            array = array.swapaxes(0, 1)
        return array.reshape(*array.shape[: 1 + value.time], value.size)


def require_marks(model: Model, resets: Any, reset_state: Any, mask: Any, masked_output: Any) -> None:
    """As `marks_of`, where a `Mask` of the model's own is a mask too.

    Raises:
        ValueError: an argument means nothing without another one.
    """
    repeats(masked_output)
    own = any(isinstance(layer, Mask) for layer in model.layers.values())
    marks_of(resets, reset_state, mask, PREVIOUS if own and mask is None else masked_output)


def checked_call(
    model: Model,
    x: Any,
    state: Any = None,
    lengths: Any = None,
    resets: Any = None,
    reset_state: Any = None,
    mask: Any = None,
    masked_output: str = PREVIOUS,
) -> Call:
    """The arguments of a call.

    Raises:
        TypeError, ValueError: something does not fit.
    """
    require_marks(model, resets, reset_state, mask, masked_output)
    given, batch = checked_inputs(model, x)
    call = Call({}, batch, model.batch_first, {}, {}, masked_output)
    arrays = {name: call.inward(array, model.inputs[name]) for name, array in given.items()}
    steps = {name: len(array) for name, array in arrays.items() if model.inputs[name].time}
    marks = checked_marks(steps, batch, model.batch_first, lengths, resets, mask)
    for name, array in arrays.items():
        time = model.inputs[name].time
        flow = Flow(np.array(array, order="C"), time, marks if time else Marks())
        flow.blank(flow.values)
        call.inputs[name] = flow
    call.states.update(checked_states(model, "state", state, batch))
    call.reset_states.update(checked_states(model, "reset_state", reset_state, batch))
    return call


def final_gradients(model: Model, call: Call, dstate: Any) -> dict[str, Array]:
    """Gradients of final states, by name of the node, as those of the values "node:h", [B, L*D*O]."""
    made = {}
    for name, given in mapping("dstate", dstate).items():
        shapes = _recurrent(model, "dstate", name)._packed.state_shapes(call.batch)
        parts = split_state(f"dstate {name}", given, shapes)
        for (part, shape), (title, array) in zip(shapes.items(), parts.items(), strict=True):
            if array is not None:
                lanes = check(title, array, model.dtype, shape)
                made[f"{name}:{part}"] = flat(lanes if call.batch else lanes[:, None])
    return made


def flat(lanes: Array) -> Array:
    """A state [L*D, B, O] as a value [B, L*D*O]."""
    return lanes.swapaxes(0, 1).reshape(lanes.shape[1], len(lanes) * lanes.shape[2])


def lanes_of(value: Array, lanes: int) -> Array:
    """The inverse."""
    return value.reshape(len(value), lanes, value.shape[1] // lanes).swapaxes(0, 1)


def by_name(model: Model, x: Any) -> dict[str, Any]:
    """The caller's x, apart: one for each input."""
    names = list(model.inputs)
    if isinstance(x, Mapping):
        given = mapping("x", x)
        if set(given) != set(names):
            raise ValueError(f"x: expected arrays for {names}, got {sorted(given)}")
        return {name: given[name] for name in names}
    arrays = x if isinstance(x, tuple) else (x,)
    if len(arrays) != len(names):
        raise ValueError(f"x: expected arrays for {names}, got {len(arrays)}")
    return dict(zip(names, arrays, strict=True))


def checked_inputs(model: Model, x: Any) -> tuple[dict[str, Array], tuple[int, ...]]:
    """Names of inputs to the caller's arrays, and the batch axis that all of them have: (B,), or () for none."""
    arrays: dict[str, Array] = {}
    batch: tuple[int, ...] | None = None
    for name, given in by_name(model, x).items():
        title, value = "x" if len(model.inputs) == 1 else f"x {name}", model.inputs[name]
        array = arrays[name] = as_array(title, given)
        if not value.integer:
            check_dtype(title, array.dtype, model.dtype)
        elif array.dtype.kind not in "iu":
            raise TypeError(f"{title}: expected integers, got {array.dtype}")
        if batch is None:
            check_shape(title, array.shape, pattern(model, value, ("B",)), pattern(model, value, ()))
            batch = ()
            if array.ndim > len(pattern(model, value, ())):
                rows = array.shape[row_axis(model, value)]
                require_rows(title, rows)
                batch = (rows,)
        check_shape(title, array.shape, pattern(model, value, batch))
    return arrays, batch or ()


def pattern(model: Model, value: Value, batch: tuple[int | str, ...], steps: int | str = "T") -> tuple[Any, ...]:
    """The shape of an array that a caller has."""
    axes = (steps,) * value.time
    return (*batch, *axes, *value.features) if model.batch_first else (*axes, *batch, *value.features)


def row_axis(model: Model, value: Value) -> int:
    """Which axis of a caller's array is that of the batch."""
    return 1 if value.time and not model.batch_first else 0


def checked_marks(
    steps: Mapping[str, int], batch: tuple[int, ...], batch_first: bool, lengths: Any, resets: Any, mask: Any
) -> Marks:
    """Those of all sequences among the inputs, which have so many steps."""
    if lengths is resets is mask is None:
        return Marks()
    for name, array in {"lengths": lengths, "resets": resets, "mask": mask}.items():
        if array is not None and not steps:
            raise ValueError(f"{name}: expected None for a model whose inputs have no steps")
    if lengths is not None:
        if not batch:
            raise ValueError("lengths: expected none without a batch axis, got them")
        lengths = row_lengths(lengths, batch[0], min(steps.values()))
    longest = max(steps.values())
    flags = [
        checked_flags(name, value, longest, batch, batch_first) for name, value in (("mask", mask), ("resets", resets))
    ]
    if any(each is not None for each in flags) and len(set(steps.values())) > 1:
        raise ValueError(f"x: expected as many steps of all inputs beside resets or a mask, got {dict(steps)}")
    return Marks(lengths, *flags) if longest else Marks(lengths)  # no steps, nothing that is masked or reset


def checked_states(model: Model, title: str, given: Any, batch: tuple[int, ...]) -> dict[str, list[Array]]:
    """States by name of the node."""
    made = {}
    for name, state in ({} if given is None else mapping(title, given)).items():
        packed: Any = _recurrent(model, title, name)._packed
        if title == "state" and any(node.name == name and len(node.inputs) > 1 for node in model._nodes):
            raise ValueError(f"state: expected none of {name!r}, which begins with what other nodes give it")
        checked = packed.check_state(state, batch, f"{title} {name}", shared=title == "reset_state")
        made[name] = [array if batch else array[:, None] for array in checked.values()]
    return made


def _recurrent(model: Model, title: str, name: str) -> Recurrent:
    layer = model.layers.get(name)
    if not isinstance(layer, Recurrent):
        names = [n for n, each in model.layers.items() if isinstance(each, Recurrent)]
        raise ValueError(f"{title}: expected names of recurrent nodes, {names}, got {shown(name)}")
    return layer
