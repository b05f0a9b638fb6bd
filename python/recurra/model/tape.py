"""Backpropagation through a model: what a forward pass in training leaves behind."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._arrays import check, unwrapped, wrapped
from .._marks import PREVIOUS
from .._marks import Marks as LayerMarks
from .._options import bound, flag, mapping, shown
from ..heads import Embedding, Linear
from ..recurrent import Recurrent
from .arguments import final_gradients, flat, lanes_of, pattern
from .call import alone, value_of
from .convolution import _Window
from .flow import Flow, Marks, marks_after
from .gradients import backward_of
from .operations import Dropout, Mask, Pool, Reshape, Reverse
from .structure import has_parameters, state_sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .._arrays import Array
    from ..packed import State
    from .arguments import Call
    from .model import Model
    from .placed import Placed

__all__ = ["ModelGradients", "ModelTape", "recorded"]


class _Gradients(NamedTuple):
    x: Any
    state: dict[str, State]
    params: dict[str, Array]


class ModelGradients(_Gradients):
    """What `ModelTape.backward` returns, the tuple (x, state, params).

        >>> model = recurra.Model([recurra.GRU(3, 5), recurra.Linear(5, 2)])
        >>> y, tape = model.forward(np.ones((10, 4, 3), "float32"))
        >>> gradients = tape.backward(np.ones_like(y))
        >>> gradients.x.shape, gradients.params["linear0.weight"].shape, list(gradients.state)
        ((10, 4, 3), (2, 5), ['recurrent0'])

    Attributes:
        x: gradient of the input, of its shape, zero past a row's length; for several inputs a dict by name, without
            those that hold integers. None with input_grad=False, or for integers.
        state: names of recurrent nodes to the gradients of their initial states, in the form of those, but for nodes
            that take them from other nodes.
        params: "node.parameter" to the gradients of the parameters. That of a layer which several nodes share is a
            sum, the same array under each name.
        reset_state: as the call's `reset_state`, its gradients. Not of the tuple.
    """

    reset_state: dict[str, State]


class _Pulled(NamedTuple):
    """What a node makes of the gradients of what came out of it."""

    inputs: Sequence[Array | None]
    params: Mapping[str, Array] = {}
    state: State | None = None  # of a recurrent node that began with the call's
    reset_state: State | None = None


class _Step(NamedTuple):
    """A node's part of a pass."""

    node: Placed
    made: dict[str, Flow]  # its value and, of a recurrent node, its final states
    # Of the gradients of these, whether inputs' are wanted, and grad_clip.
    pull: Callable[[list[Array | None], bool, float | None], _Pulled]


class ModelTape:
    """What `Model.forward` keeps for `backward`, which may be called again: the values of all nodes, and their tapes.

        >>> y, tape = recurra.Model([recurra.GRU(3, 5)]).forward(np.ones((10, 4, 3), "float32"), lengths=[9, 2, 10, 0])
        >>> tape.counts["recurrent0"].sum(axis=0).tolist()
        [9, 2, 10, 0]

    Attributes:
        counts: names of outputs to which of their steps lie within their rows and are not masked: booleans [T, B],
            with batch_first [B, T], or [T]; None where all are, and for those without time.
    """

    counts: dict[str, Array | None]

    def __init__(self, model: Model, call: Call, steps: list[_Step]) -> None:
        self._model, self._call, self._steps = model, call, steps
        self._flows = call.inputs | {name: flow for step in steps for name, flow in step.made.items()}
        self.counts = {}
        for name in model.outputs:
            counts = self._flows[name].counts if self._flows[name].time else None
            if counts is not None:
                counts = counts[:, 0] if not call.batch else counts.T if call.batch_first else counts
            self.counts[name] = counts

    @property
    def output(self) -> Any:
        """What a call returns: an array, or a dict of several by name.

        >>> y, tape = recurra.Model([recurra.GRU(3, 5)]).forward(np.ones((10, 4, 3), "float32"))
        >>> np.array_equal(tape.output, y)
        True
        """
        values = self._model._values
        made = {name: self._call.outward(self._flows[name].values, values[name]).copy() for name in self._model.outputs}
        return made if len(made) > 1 else next(iter(made.values()))

    @property
    def state(self) -> dict[str, State]:
        """Names of recurrent nodes to their final states, as layers give them.

        >>> _, tape = recurra.Model([recurra.GRU(3, 5)]).forward(np.ones((10, 4, 3), "float32"))
        >>> tape.state["recurrent0"].shape
        (1, 4, 5)
        """
        made = {}
        for step in self._steps:
            if isinstance(step.node.layer, Recurrent):
                lanes = _lanes(step.node.layer)
                final = [lanes_of(flow.values, lanes).copy() for flow in [*step.made.values()][1:]]
                made[step.node.name] = self._call.outer(unwrapped(final))
        return made

    def backward(
        self,
        dy: Any = None,
        dstate: Mapping[str, Any] | None = None,
        *,
        grad_clip: float | None = None,
        input_grad: bool = True,
    ) -> ModelGradients:
        """Gradients of a loss, from those of the outputs and of the final states.

            >>> model = recurra.Model([recurra.GRU(12, 64), recurra.Pool("last"), recurra.Linear(64, 9)])
            >>> y, tape = model.forward(np.ones((100, 8, 12), "float32"))
            >>> gradients = tape.backward(np.ones_like(y))
            >>> gradients.x.shape, gradients.params["linear0.weight"].shape
            ((100, 8, 12), (9, 64))

        Args:
            dy: dL/d output, of the output's shape and dtype; values past a row's length are ignored. Of a model with
                several outputs a dict by name, in which what is missing is zero. Default zero.
            dstate: names of recurrent nodes to dL/d final state, in the states' form. Default zero.
            grad_clip: of all recurrent layers, as of a layer's tape: bound of what a step hands to the one before it.
                Default none.
            input_grad: whether to compute the gradient of the input.

        Raises:
            TypeError, ValueError: wrong shape, dtype or names.
            ValueError: neither dy nor dstate was given; a layer cannot clip.
        """
        if dy is None and dstate is None:
            raise ValueError("dy, dstate: expected at least one of them, got neither")
        if grad_clip is not None:
            bound("grad_clip", grad_clip, self._model.dtype)
        above = self._given(dy)
        for name, d in ({} if dstate is None else final_gradients(self._model, self._call, dstate)).items():
            _add(above, name, d)
        wanted = {n for n, v in self._model.inputs.items() if flag("input_grad", input_grad) and not v.integer}
        for step in self._steps:
            layer = step.node.layer
            if isinstance(layer, Recurrent) or has_parameters(layer) or wanted & {*step.node.inputs}:
                wanted |= {*step.made}
        pulls: dict[str, _Pulled] = {}
        for step in reversed(self._steps):
            own = [self._taken(above, name) for name in step.made]
            if all(d is None for d in own):
                continue
            with _errors_name(step.node.name):
                pulled = pulls[step.node.name] = step.pull(own, bool(wanted & {*step.node.inputs}), grad_clip)
            for source, dx in zip(step.node.inputs, pulled.inputs, strict=False):
                if dx is not None and source in wanted:
                    _add(above, source, dx)
        gradients = ModelGradients(self._of_inputs(above, wanted), self._of_states(pulls), self._of_parameters(pulls))
        zeros = {name: [np.zeros_like(h) for h in states] for name, states in self._call.reset_states.items()}
        gradients.reset_state = {name: self._call.outer(unwrapped(states)) for name, states in zeros.items()}
        gradients.reset_state |= {n: p.reset_state for n, p in pulls.items() if p.reset_state is not None}
        return gradients

    def _given(self, dy: Any) -> dict[str, Array]:
        """The gradients of outputs, by name, as those of values."""
        names = self._model.outputs
        if dy is None or (len(names) == 1 and not isinstance(dy, dict)):
            given = {} if dy is None else {names[0]: dy}
        else:
            given = mapping("dy", dy)
        made = {}
        for name, array in given.items():
            if name not in names:
                raise ValueError(f"dy: expected names of outputs, {list(names)}, got {shown(name)}")
            title = "dy" if len(names) == 1 else f"dy {name}"
            value, steps = self._model._values[name], len(self._flows[name].values)
            shape = pattern(self._model, value, self._call.batch, steps)
            made[name] = self._call.inward(check(title, array, self._model.dtype, shape), value)
        return made

    def _taken(self, above: dict[str, Array], name: str) -> Array | None:
        """The gradient of a value, zero past each row's length; None if nothing depends on it."""
        d, valid = above.pop(name, None), self._flows[name].valid
        return d if d is None or valid is None else np.where(valid[..., None], d, d.dtype.type(0))

    def _of_inputs(self, above: dict[str, Array], wanted: set[str]) -> Any:
        made = {}
        for name, value in self._model.inputs.items():
            if name in wanted:
                d = self._taken(above, name)
                made[name] = self._call.outward(np.zeros_like(self._flows[name].values) if d is None else d, value)
        return made.get(next(iter(self._flows))) if len(self._model.inputs) == 1 else made or None

    def _of_states(self, pulls: Mapping[str, _Pulled]) -> dict[str, State]:
        made = {}
        for step in self._steps:
            if isinstance(step.node.layer, Recurrent) and len(step.node.inputs) == 1:
                shapes = step.node.layer._packed.state_shapes(self._call.batch)
                nothing = unwrapped([np.zeros(shape, self._model.dtype) for shape in shapes.values()])
                pulled = pulls.get(step.node.name)
                made[step.node.name] = nothing if pulled is None else pulled.state
        return made

    def _of_parameters(self, pulls: Mapping[str, _Pulled]) -> dict[str, Array]:
        """By name of node and parameter; the sum over all nodes of a layer."""
        sums: dict[int, dict[str, Array]] = {}
        for step in self._steps:
            layer, pulled = step.node.layer, pulls.get(step.node.name)
            if has_parameters(layer):
                have = sums.setdefault(id(layer), {})
                for name, d in ({} if pulled is None else pulled.params).items():
                    _add(have, name, d)
        made = {}
        for step in self._steps:
            have = sums.get(id(step.node.layer), {})
            if has_parameters(step.node.layer) and not have:
                have.update({name: np.zeros_like(array) for name, array in step.node.layer.state_dict().items()})
            made.update({f"{step.node.name}.{name}": d for name, d in have.items()})
        return made

    def __reduce__(self) -> Any:
        raise TypeError("a ModelTape cannot be copied or pickled")


def _add(above: dict[str, Array], name: str, d: Array) -> None:
    above[name] = above[name] + d if name in above else d


# ------------------------------------------------------------------------------------------------- the pass forward


def recorded(model: Model, call: Call, rng: np.random.Generator | None, recompute: bool) -> ModelTape:
    """A pass through all nodes, as a call's, with what goes back over it; what is left out is drawn from rng."""
    flows, steps = dict(call.inputs), []
    for node in model._nodes:
        inputs = [flows[name] for name in node.inputs]
        with _errors_name(node.name):
            if isinstance(node.layer, Recurrent):
                made, pull = _recurrent(node, inputs, call, rng, recompute)
            else:
                made, pull = _stateless(model, node, inputs, rng)
        flows |= made
        steps.append(_Step(node, made, pull))
    return ModelTape(model, call, steps)


@contextmanager
def _errors_name(name: str) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"layers: node {name!r}: {error}") from error


def _recurrent(node: Placed, inputs: list[Flow], call: Call, rng: Any, recompute: bool) -> tuple[dict[str, Flow], Any]:
    layer, name, (x, *given) = node.layer, node.name, inputs
    lanes = _lanes(layer)
    begin = call.states.get(name)
    if given:
        begin = [lanes_of(each.values, lanes) for each in given]
    fresh, (lengths, mask, resets) = call.reset_states.get(name), x.marks
    marks = None
    if not mask is resets is None:
        output = call.masked_output if mask is not None else PREVIOUS
        marks = LayerMarks(resets, None if fresh is None else unwrapped(fresh), mask, output)
    y, final, tape = layer._packed.forward(
        x.values,
        None if begin is None else unwrapped(begin),
        lengths=lengths,
        batch_first=False,
        recompute=recompute,
        rng=rng,
        marks=marks,
    )
    made = {name: Flow(y, True, x.marks)}
    made |= {f"{name}:{key}": Flow(flat(h), False) for key, h in zip(state_sizes(layer), wrapped(final), strict=True)}

    def pull(above: list[Array | None], wanted: bool, clip: float | None) -> _Pulled:
        dy, *d_final = above
        dstate = [None if d is None else lanes_of(d, lanes) for d in d_final]
        found = tape.backward(dy, unwrapped(dstate), grad_clip=clip, input_grad=wanted)
        initial = [flat(h) for h in wrapped(found.state)] if given else []
        reset = None if found.reset_state is None or fresh is None else call.outer(found.reset_state)
        return _Pulled([found.x, *initial], found.params, None if given else call.outer(found.state), reset)

    return made, pull


def _lanes(layer: Recurrent) -> int:
    """L*D."""
    return layer.num_layers * (2 if layer.bidirectional else 1)


def _stateless(model: Model, node: Placed, inputs: list[Flow], rng: Any) -> tuple[dict[str, Flow], Any]:
    layer, x = node.layer, inputs[0]
    pull: Any
    marks = marks_after(layer, inputs)
    if isinstance(layer, (Linear, Embedding)):
        y, tape = layer.forward(x.values[..., 0] if isinstance(layer, Embedding) else x.values)

        def pull(dy: Array, wanted: bool) -> Any:
            found = tape.backward(dy, input_grad=wanted)
            return [found.x], found.params

    elif isinstance(layer, Dropout):
        kept = None if rng is None else _kept(layer.p, x.values, rng)
        y = x.values if kept is None else x.values * kept

        def pull(dy: Array, wanted: bool) -> Any:
            return [dy if kept is None else dy * kept], {}

    else:
        y = _value(model, node, inputs)
        pull = backward_of(layer, inputs, model._values[node.inputs[0]].features, y)
    flow = Flow(y, node.value.time, marks)
    flow.blank(y)
    return {node.name: flow}, lambda above, wanted, _clip: _Pulled(*pull(above[0], wanted))


def _value(model: Model, node: Placed, inputs: list[Flow]) -> Array:
    """What an operation or an activation gives: with the bits of a call, for it is the core's model of it alone."""
    layer, marks = node.layer, inputs[0].marks
    if isinstance(layer, (Mask, Reshape)):
        return inputs[0].values
    key, (kept, core) = getattr(layer, "_parameters", None), model._alone.get(node.name, (None, None))
    if core is None or kept is not key:
        about = {f"x{k}": model._values[name] for k, name in enumerate(node.inputs)}
        core = alone(layer, node.name, about, model.dtype)
        model._alone[node.name] = key, core
    over_time = isinstance(layer, (Pool, Reverse, _Window))
    return value_of(core, [x.values for x in inputs], marks if over_time else Marks(), node.value)


def _kept(p: float, x: Array, rng: np.random.Generator) -> Array:
    """What a dropout multiplies by."""
    return np.asarray((rng.random(x.shape) >= p) * x.dtype.type(1 / (1 - p) if p < 1 else 0))
