"""The match-LSTM: reads one sequence word by word with attention to another."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _core
from ._arrays import bounded, check, contiguous, empty, memory_for, require_memory, require_rows, vector
from ._options import FLOAT_DTYPES, flag, generator, integer, placement
from ._parameters import checked_parameters
from .heads import _Head
from .packed import pack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

    from numpy.typing import DTypeLike

    from ._arrays import Array, Input
    from ._options import Seed
    from .packed import Packed
    from .tape import Tape

__all__ = ["MatchGradients", "MatchLSTM", "MatchTape"]


class MatchGradients(NamedTuple):
    """What `MatchTape.backward` returns.

    Attributes:
        premise, hypothesis: gradients of the inputs, of their shapes; zero at padded words.
        params: names to the gradients of the parameters.
    """

    premise: Array
    hypothesis: Array
    params: dict[str, Array]


class MatchLSTM(_Head):
    """Match-LSTM: encodes two sequences of words, then reads the second, the hypothesis, with attention to the first,
    the premise (Wang, Jiang 2016, NAACL, arXiv:1512.08849, as in the authors' code).

        >>> layer = recurra.MatchLSTM(input_size=16, hidden_size=32)
        >>> premise, hypothesis = np.ones((20, 8, 16), "float32"), np.ones((12, 8, 16), "float32")
        >>> outputs, last = layer(premise, hypothesis, premise_lengths=[20, 7, 9, 20, 3, 5, 1, 20])
        >>> outputs.shape, last.shape
        ((12, 8, 32), (8, 32))
        >>> outputs, last, attention = layer(premise, hypothesis, return_attention=True)
        >>> attention.shape  # over the 20 words and NULL
        (1, 12, 8, 21)

    With s_j the states of an LSTM over the premise, j = 1..M, then s_NULL = 0, and q_k those of an LSTM over the
    hypothesis; h_0 = c_0 = 0:

        score_j  = weight_score . tanh(weight_premise s_j + weight_hypothesis q_k + weight_state h_(k-1) + bias)
        alpha    = softmax(score), over the words of a premise and NULL
        a_k      = sum_j alpha_j s_j
        h_k, c_k = LSTM([a_k; q_k], h_(k-1), c_(k-1))

    Each output depends on its own pair and the parameters alone, to the last bit. On the CPU only, in float32 or
    float64; without `stream` and `quantize`. Fixed once made, but for `load_state_dict`; it pickles as its
    configuration and parameters.

    Args:
        input_size: I, values a word has.
        hidden_size: H, units of all LSTMs.
        attention_size: A, units of the attention; default H.
        shared_encoders: whether both sequences are encoded by the same LSTM. Its parameters have torch's names after
            "encoder.": "encoder.weight_ih_l0", ...; those of two have them after "premise_encoder." and
            "hypothesis_encoder.".
        bidirectional: a second match-LSTM, with parameters "..._reverse", reads the encoded hypothesis backwards;
            outputs are concatenated, D = 2. Encoders have one direction.
        batch_first: inputs and outputs are [B, T, ...] instead of [T, B, ...].
        dtype: float32 or float64, of parameters, inputs and outputs.
        device: "cpu"; there is no other.
        seed: for numpy.random.default_rng; default fresh entropy.
        rng: the numpy.random.Generator to draw from, in place of a seed.

    Parameters start uniform in +-1/sqrt(H). They are those of the encoders, and for each direction
    attention.weight_premise, attention.weight_hypothesis and attention.weight_state [A, H], attention.bias and
    attention.weight_score [A], match.weight_ih [4H, 2H], match.weight_hh [4H, H], match.bias_ih and match.bias_hh [4H],
    with the LSTM's blocks in the order i, f, g, o.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or value.
        MemoryError: the parameters would not fit this machine; nothing has been allocated.
    """

    input_size: int
    hidden_size: int
    attention_size: int
    shared_encoders: bool
    bidirectional: bool
    batch_first: bool
    _packed: _Packed

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        attention_size: int | None = None,
        *,
        shared_encoders: bool = True,
        bidirectional: bool = False,
        batch_first: bool = False,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        seed: Seed = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        options: dict[str, Any] = {
            "shared_encoders": shared_encoders,
            "bidirectional": bidirectional,
            "batch_first": batch_first,
            "dtype": dtype,
            "device": device,
        }
        self._configure(
            input_size=input_size,
            hidden_size=hidden_size,
            attention_size=hidden_size if attention_size is None else attention_size,
            **options,
        )
        random, bound = generator(seed, rng), 1 / math.sqrt(self.hidden_size)
        self._draw(lambda shape: random.uniform(-bound, bound, shape))

    def _configure(
        self,
        *,
        input_size: int,
        hidden_size: int,
        attention_size: int,
        shared_encoders: bool,
        bidirectional: bool,
        batch_first: bool,
        dtype: DTypeLike,
        device: str,
    ) -> None:
        sizes = {
            "input_size": integer("input_size", input_size),
            "hidden_size": integer("hidden_size", hidden_size),
            "attention_size": integer("attention_size", attention_size),
        }
        flags = {
            "shared_encoders": flag("shared_encoders", shared_encoders),
            "bidirectional": flag("bidirectional", bidirectional),
            "batch_first": flag("batch_first", batch_first),
        }
        place = placement(device, "float32")
        if place.gpu is not None:
            raise ValueError(f"device: expected 'cpu' for a MatchLSTM, which runs nowhere else, got {device!r}")
        place = placement(device, dtype)
        shapes = _shapes(*sizes.values(), flags["shared_encoders"], flags["bidirectional"])
        copies = 4  # as drawn, in float64, or by the caller; as kept; packed for forward and for backward
        require_memory(
            ", ".join(f"{name}={size}" for name, size in sizes.items()),
            copies * sum(map(math.prod, shapes.values())) * place.parameter_dtype.itemsize,
        )
        attributes = {**sizes, **flags, "dtype": place.dtype, "device": place.device}
        self.__dict__.update(attributes, _placement=place, _shapes=shapes)

    def _configuration(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in _OPTIONS}

    def _pack(self, parameters: dict[str, Any]) -> _Packed:
        return _Packed(self, parameters)

    def __call__(
        self,
        premise: Input,
        hypothesis: Input,
        *,
        premise_lengths: Sequence[int] | Input | None = None,
        hypothesis_lengths: Sequence[int] | Input | None = None,
        return_attention: bool = False,
    ) -> tuple[Array, ...]:
        """Outputs and last outputs of B pairs.

        Args:
            premise: [M, B, I] of the layer's dtype; M, and lengths, may be 0: all attention then goes to NULL.
            hypothesis: [T, B, I].
            premise_lengths: [B], valid words of each premise, default all. What follows them is not read.
            hypothesis_lengths: likewise; outputs past them are zero.
            return_attention: whether to return alpha too.

        Returns:
            (outputs [T, B, D*H], last [B, D*H]): h of all words, and of those that each direction comes to last, zero
            for an empty hypothesis. With return_attention also alpha [D, T, B, M+1], NULL being the last word; zero at
            padded words. With batch_first [B, T, D*H], [B, D*H] and [D, B, T, M+1].

        Raises:
            TypeError, ValueError: wrong dtype, shape or lengths.
        """
        wanted = flag("return_attention", return_attention)
        inputs, pair = self._checked(premise, hypothesis, premise_lengths, hypothesis_lengths)
        packed = self._packed
        states = [
            encoder.run(x, None, lengths=lengths, out=None, batch_first=False)[0]
            for encoder, x, lengths in zip(packed.encoders, inputs, pair.lengths, strict=True)
        ]
        outputs, last, passes = packed.match(pair, states, recorded=False)
        attention = (self._turned(np.stack([run.alpha for run in passes]), 1),) if wanted else ()
        return (self._turned(outputs, 0), last, *attention)

    def forward(
        self,
        premise: Input,
        hypothesis: Input,
        *,
        premise_lengths: Sequence[int] | Input | None = None,
        hypothesis_lengths: Sequence[int] | Input | None = None,
    ) -> tuple[Array, Array, MatchTape]:
        """As a call, for training: (outputs, last, tape), with the bits of a call; inputs are copied.

        >>> layer = recurra.MatchLSTM(16, 32)
        >>> premise, hypothesis = np.ones((20, 8, 16), "float32"), np.ones((12, 8, 16), "float32")
        >>> outputs, last, tape = layer.forward(premise, hypothesis)
        >>> gradients = tape.backward(d_last=np.ones_like(last))
        >>> gradients.premise.shape, gradients.params["attention.weight_score"].shape
        ((20, 8, 16), (32,))
        """
        inputs, pair = self._checked(premise, hypothesis, premise_lengths, hypothesis_lengths)
        packed = self._packed
        encoded = [
            encoder.forward(x, None, lengths=lengths, batch_first=False, recompute=False, rng=None)
            for encoder, x, lengths in zip(packed.encoders, inputs, pair.lengths, strict=True)
        ]
        outputs, last, passes = packed.match(pair, [y for y, _, _ in encoded], recorded=True)
        if len(passes) == 1:
            outputs = outputs.copy()  # backward reads the other
        tape = MatchTape(self, packed, pair, [tape for _, _, tape in encoded], passes)
        return self._turned(outputs, 0), last, tape

    def _checked(
        self, premise: Any, hypothesis: Any, premise_lengths: Any, hypothesis_lengths: Any
    ) -> tuple[list[Array], _Pair]:
        axes = ("B", "T") if self.batch_first else ("T", "B")
        arrays = [
            self._turned(check(name, value, self.dtype, (*axes, self.input_size)), 0)
            for name, value in (("premise", premise), ("hypothesis", hypothesis))
        ]
        batch = arrays[0].shape[1]
        if arrays[1].shape[1] != batch:
            raise ValueError(f"hypothesis: expected {batch} sequences, as there are premises, got {arrays[1].shape[1]}")
        require_rows("premise", batch)
        given = {"premise_lengths": premise_lengths, "hypothesis_lengths": hypothesis_lengths}
        lengths = [
            None if value is None else bounded(name, vector(name, value, batch), len(array))
            for (name, value), array in zip(given.items(), arrays, strict=True)
        ]
        return arrays, _Pair(len(arrays[0]), len(arrays[1]), batch, lengths)

    def _turned(self, array: Array, axis: int) -> Array:
        """From the caller's order of steps and batch to ours, or back."""
        return array.swapaxes(axis, axis + 1) if self.batch_first else array

    def stream(self, *_: object, **__: object) -> NoReturn:
        """There is none: TypeError."""
        raise TypeError("stream: a MatchLSTM has none, since every step reads the whole premise; call the layer")

    def quantize(self, *_: object, **__: object) -> NoReturn:
        """There are no reduced weights: TypeError."""
        raise TypeError("quantize: a MatchLSTM has float32 and float64 weights only")

    @property
    def parameter_count(self) -> int:
        """Number of values in all parameters."""
        return sum(map(math.prod, self._shapes.values()))

    def __repr__(self) -> str:
        changed = [
            f"{name}={value}"
            for name, usual in (("shared_encoders", True), ("bidirectional", False), ("batch_first", False))
            if (value := self.__dict__[name]) != usual
        ]
        changed += [f"dtype={str(self.dtype)!r}"] if self.dtype != np.float32 else []
        return f"MatchLSTM({', '.join([str(self.__dict__[name]) for name in _OPTIONS[:3]] + changed)})"


class MatchTape:
    """What `MatchLSTM.forward` keeps for `backward`, which may be called again, with other gradients too."""

    __slots__ = ("_encoders", "_layer", "_packed", "_pair", "_passes")

    def __init__(
        self, layer: MatchLSTM, packed: _Packed, pair: _Pair, encoders: list[Tape], passes: list[_Pass]
    ) -> None:
        self._layer, self._packed, self._pair, self._encoders, self._passes = layer, packed, pair, encoders, passes

    def backward(self, d_outputs: Input | None = None, d_last: Input | None = None) -> MatchGradients:
        """Gradients of a loss from those of the outputs and of the last outputs. They depend neither on threads nor on
        the instruction set, and those of inputs not on the batch.

        Args:
            d_outputs: dL/d outputs, of the outputs' shape and dtype; padded words are not read. Default zero.
            d_last: dL/d last outputs. Default zero.

        Raises:
            TypeError, ValueError: wrong dtype or shape; neither was given.
        """
        if d_outputs is None and d_last is None:
            raise ValueError("d_outputs, d_last: expected at least one of them, got neither")
        layer, pair, size = self._layer, self._pair, self._layer.hidden_size
        width = len(self._passes) * size
        dy = np.zeros((pair.steps, pair.rows, width), layer.dtype)
        if d_outputs is not None:
            axes = (pair.rows, pair.steps) if layer.batch_first else (pair.steps, pair.rows)
            dy[...] = layer._turned(check("d_outputs", d_outputs, layer.dtype, (*axes, width)), 0)
        if d_last is not None:
            given = check("d_last", d_last, layer.dtype, (pair.rows, width))
            for d in range(len(self._passes)):
                (steps, rows), columns = pair.ends(d == 1), slice(d * size, (d + 1) * size)
                dy[steps, rows, columns] += given[rows, columns]
        d_states, params = self._packed.backward(pair, self._passes, dy)
        inputs = []
        for (prefix, names), tape, d_state in zip(self._packed.prefixes, self._encoders, d_states, strict=True):
            before = {name: params[prefix + name] for name in names if prefix + name in params}
            found = tape.backward(d_state, into=before or None)
            params |= {prefix + name: array for name, array in found.params.items()}
            inputs.append(layer._turned(found.x, 0))  # type: ignore[arg-type]
        return MatchGradients(inputs[0], inputs[1], {name: params[name] for name in layer._shapes})

    def __reduce__(self) -> Any:
        raise TypeError("a MatchTape cannot be copied or pickled")

    def __repr__(self) -> str:
        return f"MatchTape({self._layer!r})"


_OPTIONS = (
    "input_size",
    "hidden_size",
    "attention_size",
    "shared_encoders",
    "bidirectional",
    "batch_first",
    "dtype",
    "device",
)
_ENCODER = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
_LSTM = ("match.weight_ih", "match.weight_hh", "match.bias_ih", "match.bias_hh")


def _shapes(inputs: int, hidden: int, units: int, shared: bool, bidirectional: bool) -> dict[str, tuple[int, ...]]:
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


class _Pair(NamedTuple):
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


class _Pass(NamedTuple):
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


class _Packed:
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

    def match(self, pair: _Pair, states: list[Array], recorded: bool) -> tuple[Array, Array, list[_Pass]]:
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

    def _pass(self, direction: _Direction, pair: _Pair, values: Array, states: Array, recorded: bool) -> _Pass:
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
        run = _Pass(
            [values, keys, queries, joined, y, alpha], empty("tape", (size,), self._dtype) if recorded else None
        )
        with memory_for("premise, hypothesis"):
            direction.core.forward(run.arrays, run.record, premise_lengths, lengths, direction.reverse)
        return run

    def backward(self, pair: _Pair, passes: list[_Pass], dy: Array) -> tuple[list[Array], dict[str, Array]]:
        """Gradients of the encoders' states, and of all parameters but theirs."""
        d_values = self._zeros("gradient", pair.words + 1, pair.rows, self._hidden)
        d_states = self._zeros("gradient", pair.steps, pair.rows, self._hidden)
        params: dict[str, Array] = {}
        for d, (direction, run) in enumerate(zip(self.directions, passes, strict=True)):
            mine = contiguous(dy[..., d * self._hidden : (d + 1) * self._hidden])
            params |= self._back(direction, pair, run, mine, d_values, d_states)
        return [d_values[:-1], d_states], params

    def _back(
        self, direction: _Direction, pair: _Pair, run: _Pass, dy: Array, d_values: Array, d_states: Array
    ) -> dict[str, Array]:
        """Adds one direction's gradients of the encoders' states; returns those of its parameters."""
        values, keys, queries, joined, y, _ = run.arrays
        found, d_keys, d_chains, d_joined = map(np.zeros_like, (values, keys, queries, joined))
        d_gates = self._zeros("gradient", pair.steps, pair.rows, 4 * self._hidden)
        d_score = np.zeros(self._units, self._dtype)
        with memory_for("gradient"):
            direction.core.backward(
                run.arrays,
                run.record,
                *pair.lengths,
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
