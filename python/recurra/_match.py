"""Parameters of a match-LSTM, packed, and what runs on them: for both directions, forward and backward."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _core
from ._arrays import check, contiguous, empty, memory_for
from ._options import FLOAT_DTYPES
from ._parameters import checked_parameters
from .packed import pack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._arrays import Array
    from .match import MatchLSTM
    from .packed import Packed

_ENCODER = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
_LSTM = ("match.weight_ih", "match.weight_hh", "match.bias_ih", "match.bias_hh")


def parameter_shapes(
    inputs: int, hidden: int, units: int, *, shared: bool, bidirectional: bool
) -> dict[str, tuple[int, ...]]:
    """Every parameter's name and shape."""
    gates = 4 * hidden
    encoder = dict(zip(_ENCODER, ((gates, inputs), (gates, hidden), (gates,), (gates,)), strict=True))
    match = {
        "attention.weight_premise": (units, hidden),
        "attention.weight_hypothesis": (units, hidden),
        "attention.weight_state": (units, hidden),
        "attention.bias": (units,),
        "attention.weight_score": (units,),
    } | dict(zip(_LSTM, ((gates, 2 * hidden), (gates, hidden), (gates,), (gates,)), strict=True))
    prefixes = ("encoder.",) if shared else ("premise_encoder.", "hypothesis_encoder.")
    shapes: dict[str, tuple[int, ...]] = {
        prefix + name: shape for prefix in prefixes for name, shape in encoder.items()
    }
    suffixes = ("", "_reverse") if bidirectional else ("",)
    return shapes | {name + suffix: shape for suffix in suffixes for name, shape in match.items()}


class Pair(NamedTuple):
    """Sizes of a call: M, T, B, and valid words of each premise and hypothesis."""

    words: int
    steps: int
    rows: int
    lengths: list[Array | None]

    def ends(self, reverse: bool) -> tuple[Array, Array]:
        """Where in [T, B] the rows that have words come to their last one."""
        lengths = np.full(self.rows, self.steps) if self.lengths[1] is None else self.lengths[1]
        rows = np.flatnonzero(lengths)
        return np.zeros_like(rows) if reverse else lengths[rows] - 1, rows


class Pass(NamedTuple):
    """What one direction read and wrote: values, keys, queries, joined, y, alpha, as `_core.Match` has them."""

    arrays: list[Array]
    record: Array | None

    @property
    def alpha(self) -> Array:
        return self.arrays[5]


class _Direction:
    """Parameters of one direction, packed."""

    __slots__ = ("core", "hypothesis", "premise", "reverse", "suffix")

    def __init__(self, layer: MatchLSTM, suffix: str, given: Mapping[str, Array]) -> None:
        def named(name: str) -> Array:
            return given[name + suffix]

        self.suffix, self.reverse = suffix, suffix == "_reverse"
        self.premise = _core.Linear(named("attention.weight_premise"), named("attention.bias"))
        self.hypothesis = _core.Linear(named("attention.weight_hypothesis"), None)
        self.core = _core.Match(
            FLOAT_DTYPES[layer.dtype],
            layer.hidden_size,
            layer.attention_size,
            named("attention.weight_state"),
            named("attention.weight_score"),
            [named(name) for name in _LSTM],
        )


class PackedMatch:
    """Copies of a layer's parameters, and the same packed; immutable."""

    __slots__ = ("_dtype", "_hidden", "_parameters", "_units", "directions", "encoders", "prefixes")
    encoders: list[Packed]
    prefixes: list[tuple[str, tuple[str, ...]]]  # of premise and hypothesis: before which names the parameters have

    def __init__(self, layer: MatchLSTM, given: Mapping[str, Any]) -> None:
        self._dtype, self._hidden, self._units = layer.dtype, layer.hidden_size, layer.attention_size
        checked = checked_parameters(
            "state_dict", given, layer._shapes, lambda name, value, shape: check(name, value, layer.dtype, shape)
        )
        self._parameters = {name: np.array(array, order="C") for name, array in checked.items()}
        shared = layer.shared_encoders
        prefixes = ("encoder.", "encoder.") if shared else ("premise_encoder.", "hypothesis_encoder.")
        self.prefixes = [(prefix, _ENCODER) for prefix in prefixes]
        with memory_for(f"hidden_size={self._hidden}"):
            packed = {
                prefix: pack("lstm", {name: self._parameters[prefix + name] for name in _ENCODER})
                for prefix in dict.fromkeys(prefixes)
            }
            suffixes = ("", "_reverse") if layer.bidirectional else ("",)
            self.directions = [_Direction(layer, suffix, self._parameters) for suffix in suffixes]
        self.encoders = [packed[prefix] for prefix in prefixes]

    @property
    def parameters(self) -> dict[str, Array]:
        """Names to new copies."""
        return {name: array.copy() for name, array in self._parameters.items()}

    def match(self, pair: Pair, states: list[Array], recorded: bool) -> tuple[Array, Array, list[Pass]]:
        """Outputs, last outputs, and what each direction leaves, from the encoders' states."""
        values = self._zeros("premise", pair.words + 1, pair.rows, self._hidden)
        values[:-1] = states[0]
        passes = [self._pass(direction, pair, values, states[1], recorded) for direction in self.directions]
        outputs = passes[0].arrays[4] if len(passes) == 1 else np.concatenate([run.arrays[4] for run in passes], -1)
        last = self._zeros("output", pair.rows, len(passes) * self._hidden)
        for d, direction in enumerate(self.directions):
            steps, rows = pair.ends(direction.reverse)
            last[rows, d * self._hidden : (d + 1) * self._hidden] = passes[d].arrays[4][steps, rows]
        return outputs, last, passes

    def _pass(self, direction: _Direction, pair: Pair, values: Array, states: Array, recorded: bool) -> Pass:
        words, steps, rows, (premise_lengths, lengths) = pair
        keys = empty("premise", (words + 1, rows, self._units), self._dtype)
        direction.premise.forward(_flat(values), _flat(keys))
        queries = empty("hypothesis", (steps, rows, self._units), self._dtype)
        direction.hypothesis.forward(_flat(states), _flat(queries))
        joined = self._zeros("hypothesis", steps, rows, 2 * self._hidden)
        joined[..., self._hidden :] = states
        y = self._zeros("output", steps, rows, self._hidden)
        alpha = self._zeros("attention", steps, rows, words + 1)
        size = direction.core.record_size(steps, rows)
        run = Pass([values, keys, queries, joined, y, alpha], empty("tape", (size,), self._dtype) if recorded else None)
        with memory_for("premise, hypothesis"):
            direction.core.forward(run.arrays, run.record, premise_lengths, lengths, direction.reverse)
        return run

    def backward(self, pair: Pair, passes: list[Pass], dy: Array) -> tuple[list[Array], dict[str, Array]]:
        """Gradients of the encoders' states, and of all parameters but theirs."""
        d_values = self._zeros("gradient", pair.words + 1, pair.rows, self._hidden)
        d_states = self._zeros("gradient", pair.steps, pair.rows, self._hidden)
        params: dict[str, Array] = {}
        for d, (direction, run) in enumerate(zip(self.directions, passes, strict=True)):
            mine = contiguous(dy[..., d * self._hidden : (d + 1) * self._hidden])
            params |= self._back(direction, pair, run, mine, d_values, d_states)
        return [d_values[:-1], d_states], params

    def _back(
        self, direction: _Direction, pair: Pair, run: Pass, dy: Array, d_values: Array, d_states: Array
    ) -> dict[str, Array]:
        """Adds one direction's gradients of the encoders' states; returns those of its parameters."""
        values, keys, queries, joined, y, _ = run.arrays
        premise_lengths, lengths = pair.lengths
        found, d_keys, d_chains, d_joined = map(np.zeros_like, (values, keys, queries, joined))
        d_gates = self._zeros("gradient", pair.steps, pair.rows, 4 * self._hidden)
        d_score = np.zeros(self._units, self._dtype)
        with memory_for("gradient"):
            direction.core.backward(
                run.arrays,
                run.record,
                premise_lengths,
                lengths,
                direction.reverse,
                [dy, found, d_keys, d_chains, d_joined, d_gates, d_score],
            )
        d_premise, d_hypothesis, d_state = (np.zeros((self._units, self._hidden), self._dtype) for _ in range(3))
        d_bias = np.zeros(self._units, self._dtype)
        through_keys, through_queries = np.empty_like(values), np.empty_like(d_states)
        direction.premise.backward(_flat(values), _flat(d_keys), _flat(through_keys), d_premise, d_bias)
        states = contiguous(joined[..., self._hidden :])
        direction.hypothesis.backward(_flat(states), _flat(d_chains), _flat(through_queries), d_hypothesis, None)
        d_values += found
        d_values += through_keys
        d_states += d_joined[..., self._hidden :]
        d_states += through_queries

        before = np.zeros_like(y)  # h of the step before; past a row's length all gradients are zero
        if direction.reverse:
            before[:-1] = y[1:]
        else:
            before[1:] = y[:-1]
        _sums(self._units, self._hidden, self._dtype).backward(_flat(before), _flat(d_chains), None, d_state, None)
        d_lstm = np.zeros((4 * self._hidden, 3 * self._hidden), self._dtype)
        d_lstm_bias = np.zeros(4 * self._hidden, self._dtype)
        read = np.concatenate([joined, before], -1)
        _sums(*d_lstm.shape, self._dtype).backward(_flat(read), _flat(d_gates), None, d_lstm, d_lstm_bias)
        gradients = {
            "attention.weight_premise": d_premise,
            "attention.weight_hypothesis": d_hypothesis,
            "attention.weight_state": d_state,
            "attention.bias": d_bias,
            "attention.weight_score": d_score,
            "match.weight_ih": contiguous(d_lstm[:, : 2 * self._hidden]),
            "match.weight_hh": contiguous(d_lstm[:, 2 * self._hidden :]),
            "match.bias_ih": d_lstm_bias,
            "match.bias_hh": d_lstm_bias.copy(),
        }
        return {name + direction.suffix: array for name, array in gradients.items()}

    def _zeros(self, name: str, *shape: int) -> Array:
        array = empty(name, shape, self._dtype)
        array.fill(0)
        return array


@lru_cache(maxsize=16)
def _sums(outputs: int, inputs: int, dtype: np.dtype[Any]) -> _core.Linear:
    """For the gradient of a product's weights, a sum over rows that does not depend on them."""
    return _core.Linear(np.zeros((outputs, inputs), dtype), np.zeros(outputs, dtype))


def _flat(array: Array) -> Array:
    """The last axis of all rows."""
    return array.reshape(-1, array.shape[-1])
