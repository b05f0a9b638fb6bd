"""The match-LSTM: reads one sequence word by word with attention to another."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._arrays import bounded, check, require_memory, require_rows, vector
from ._match import PackedMatch, Pair, Pass, parameter_shapes
from ._options import flag, generator, integer, placement
from .heads import _Head

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from numpy.typing import DTypeLike

    from ._arrays import Array, Input
    from ._options import Seed
    from .tape import Tape

__all__ = ["MatchGradients", "MatchLSTM", "MatchTape"]


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

    There are neither resets nor masks: a pair is read once, from its beginning, and the lengths of both leave padding
    out.

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
    _packed: PackedMatch

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
        shapes = parameter_shapes(
            sizes["input_size"],
            sizes["hidden_size"],
            sizes["attention_size"],
            shared=flags["shared_encoders"],
            bidirectional=flags["bidirectional"],
        )
        copies = 4  # as drawn, in float64, or by the caller; as kept; packed for forward and for backward
        require_memory(
            ", ".join(f"{name}={size}" for name, size in sizes.items()),
            copies * sum(map(math.prod, shapes.values())) * place.parameter_dtype.itemsize,
        )
        attributes = {**sizes, **flags, "dtype": place.dtype, "device": place.device}
        self.__dict__.update(attributes, _placement=place, _shapes=shapes)

    def _configuration(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in _OPTIONS}

    def _pack(self, parameters: dict[str, Any]) -> PackedMatch:
        return PackedMatch(self, parameters)

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
    ) -> tuple[list[Array], Pair]:
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
        return arrays, Pair(len(arrays[0]), len(arrays[1]), batch, lengths)

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
        """Number of values in all parameters.

        >>> recurra.MatchLSTM(12, 64).parameter_count
        82048
        """
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
        self, layer: MatchLSTM, packed: PackedMatch, pair: Pair, encoders: list[Tape], passes: list[Pass]
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
