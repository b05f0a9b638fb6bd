"""Sequences from a recurrent network: each token is read to make the next one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._arrays import bounded, check, memory_for, require_memory, require_rows, vector
from ._options import integer, noise_seed, real
from .heads import Embedding, Linear
from .recurrent import Recurrent
from .stream import checked_head

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._arrays import Array, Input
    from .packed import State

__all__ = ["Generated", "generate"]


class Generated(NamedTuple):
    """What `generate` returns. Without `batch` there is no axis B, without `beams` no axis of beams.

        >>> layer, table, head = recurra.GRU(8, 16), recurra.Embedding(5, 8), recurra.Linear(16, 4)
        >>> tokens, lengths, scores = recurra.generate(layer, head, table, start=4, max_length=6, batch=3)
        >>> tokens.shape, lengths.tolist(), scores.dtype.name
        ((3, 6), [6, 6, 6], 'float64')

    Attributes:
        tokens: int64 [B, beams, T], T the longest of the lengths; `end` after a sequence's own.
        lengths: int64 [B, beams], tokens that each sequence has, its `end` included.
        scores: float64 [B, beams], log-probability of each sequence, its `end` included: the sum of log softmax(logits)
            over its tokens, whatever temperature and top_k chose them. Beams are sorted, the best first; where there
            are fewer different sequences than beams, the others have the score -inf.
    """

    tokens: Array
    lengths: Array
    scores: Array


def generate(
    layer: Recurrent,
    head: Linear,
    embedding: Embedding,
    *,
    start: int | Sequence[int] | Input,
    end: int | None = None,
    max_length: int,
    batch: int | None = None,
    state: State | None = None,
    first_input: Input | None = None,
    beams: int | None = None,
    length_penalty: float = 0.0,
    temperature: float | None = None,
    top_k: int | None = None,
    rng: int | np.random.Generator | None = None,
) -> Generated:
    """Sequences that the network `head(layer(embedding(tokens)))` writes: the likeliest token after each, a draw, or
    the best of a beam search.

        >>> layer, table = recurra.LSTM(16, 32, seed=0), recurra.Embedding(27, 16, seed=1)
        >>> head = recurra.Linear(32, 27, seed=2)
        >>> likeliest = recurra.generate(layer, head, table, start=0, end=26, max_length=5)
        >>> likeliest.tokens.shape, likeliest.scores.shape
        ((5,), ())
        >>> drawn = recurra.generate(layer, head, table, start=0, max_length=5, batch=3, temperature=0.8, rng=0)
        >>> drawn.tokens.shape
        (3, 5)
        >>> best = recurra.generate(layer, head, table, start=0, max_length=5, batch=3, beams=4)
        >>> best.tokens.shape, bool((best.scores[:, 0] >= best.scores[:, 3]).all())
        ((3, 4, 5), True)

    To continue a text, run the layer over all of it but its last token, and give that token as `start` and the final
    state as `state`. A vector of features enters as `state` (see `recurra.InitialState`), as `first_input`, or as both
    (Vinyals et al. 2015, arXiv:1411.4555).

    There are neither resets nor masks: a sequence is written once, from its start, and no step of it can be left out.
    Give them to the layer's call over a text that is to be continued.

    In a beam search each step keeps the `beams` best of all sequences that are one token longer, or finished, ranked by
    log-probability / length ** length_penalty; lower beams and tokens win ties. All beams of all samples are one batch.

    Without `beams` and `temperature` tokens have the promise of the same bits: they depend neither on the batch nor on
    the machine.

    Args:
        layer: of one direction, on the CPU, of any cell, and of as many layers as you like.
        head: maps the layer's output to K logits.
        embedding: of at least K rows, of the layer's input_size.
        start: the token that is read first, 0..rows of the embedding - 1; with `batch` also [B], one for each.
        end: the token, 0..K-1, that finishes a sequence; default none does.
        max_length: how many tokens a sequence may have, its `end` included.
        batch: None for one sequence without a batch axis, or B, the number of sequences.
        state: initial state, as of a layer call; default zeros.
        first_input: [B, I], of the layer's dtype: what the layer reads before `start`; its output is not used.
        beams: how many sequences a beam search keeps; default None, no search.
        length_penalty: 0 ranks by log-probability, 1 by its mean over a sequence's tokens; more favours long ones.
        temperature: above 0: draw from softmax(logits / temperature); default None, the largest.
        top_k: draw only from the k likeliest tokens; default all.
        rng: what is drawn from: a numpy.random.Generator, or a seed in 0..2**64-1; default fresh entropy.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, value, shape or dtype, or of no use beside the others;
            the layer runs backwards or both ways, or is on a GPU.
        FloatingPointError: a largest logit is not finite; names the step.
        MemoryError: the tokens, or the network's states, would not fit this machine; nothing has been allocated.
    """
    _check_network(layer, head, embedding)
    axes, limit = () if batch is None else (integer("batch", batch),), integer("max_length", max_length)
    rows = axes[0] if axes else 1
    ending = -1 if end is None else _token("end", end, head.out_features)
    width = 1 if beams is None else integer("beams", beams)
    require_rows("batch, beams", rows * width)
    require_memory("batch, beams, max_length", rows * width * limit * np.dtype(np.int64).itemsize)
    tokens = _start(start, axes, embedding.num_embeddings)
    penalty = _penalty(length_penalty, beams)
    choose = _chooser(beams, temperature, top_k, rng)
    network = _Network(layer, head, embedding, width, state, first_input, axes)
    if beams is None:
        found = _one_each(network, tokens, ending, limit, choose)
    else:
        found = _search(network, np.repeat(tokens, width).reshape(rows, width), ending, limit, penalty)
    return found if axes else Generated(*(array[0] for array in found))


class _Network:
    """What the network makes of the tokens so far: `width` copies of each sample side by side."""

    def __init__(
        self,
        layer: Recurrent,
        head: Linear,
        embedding: Embedding,
        width: int,
        state: Any,
        first_input: Any,
        axes: tuple[int, ...],
    ) -> None:
        packed: Any = layer._packed
        given = None if state is None else packed.check_state(state, axes)
        first = (
            None if first_input is None else check("first_input", first_input, layer.dtype, (*axes, layer.input_size))
        )
        self._embedding = embedding
        with memory_for("batch, beams"):
            self._stream = layer.stream((axes[0] if axes else 1) * width, head=head)
        if given is not None:
            copied = [
                np.repeat(array.reshape(len(array), -1, array.shape[-1]), width, axis=1) for array in given.values()
            ]
            self._stream.state = copied[0] if len(copied) == 1 else tuple(copied)
        if first is not None:
            self._stream.step(np.repeat(first.reshape(-1, layer.input_size), width, axis=0))

    def __call__(self, tokens: Array, step: int) -> Array:
        """The logits [rows, K] after one token more of every sequence."""
        logits = self._stream.step(self._embedding(tokens.reshape(-1)))
        if not np.isfinite(logits.max(axis=-1)).all():
            raise FloatingPointError(f"logits: expected finite values, got NaN or infinity at step {step}")
        return logits

    def reorder(self, rows: Array) -> None:
        """Go on from the states of these rows."""
        state = self._stream.state
        self._stream.state = tuple(array[:, rows] for array in state) if isinstance(state, tuple) else state[:, rows]


def _one_each(network: _Network, tokens: Array, end: int, limit: int, choose: Callable[[Array], Array]) -> Generated:
    """One sequence a sample, [B, T]: at each step `choose` gives the token [B] for logits [B, K]."""
    rows = np.arange(len(tokens))
    done, lengths, scores = np.zeros(len(rows), bool), np.zeros(len(rows), np.int64), np.zeros(len(rows))
    written: list[Array] = []
    while len(written) < limit and not done.all():
        logits = network(tokens, len(written))
        tokens = np.where(done, end, choose(logits))
        scores += np.where(done, 0, _log_softmax(logits)[rows, tokens])
        lengths += ~done
        done |= tokens == end
        written.append(tokens)
    return Generated(np.stack(written, axis=-1), lengths, scores)


def _search(network: _Network, tokens: Array, end: int, limit: int, penalty: float) -> Generated:
    """The beams of every sample, from start tokens [B, beams]."""
    batch, beams = tokens.shape
    first_rows, parents = np.arange(batch)[:, None] * beams, np.arange(beams)
    done, lengths = np.zeros(tokens.shape, bool), np.zeros(tokens.shape, np.int64)
    scores = np.full(tokens.shape, -np.inf)
    scores[:, 0] = 0  # all beams are still the same
    steps: list[tuple[Array, Array]] = []
    while len(steps) < limit and not (done | np.isneginf(scores)).all():
        if (parents != np.arange(beams)).any():
            network.reorder((first_rows + parents).reshape(-1))
        following = _log_softmax(network(tokens, len(steps))).reshape(batch, beams, -1)
        if done.any():  # what is finished has one way on, which is free
            following[done] = -np.inf
            following[done, end] = 0
        total = scores[..., None] + following
        lengths = lengths + ~done
        ranked = total / lengths[..., None] ** penalty
        chosen = _largest(ranked.reshape(batch, -1), beams)
        parents, tokens = np.divmod(chosen, total.shape[-1])
        scores = np.take_along_axis(total.reshape(batch, -1), chosen, axis=1)
        lengths = np.take_along_axis(lengths, parents, axis=1)
        done = np.take_along_axis(done, parents, axis=1) | (tokens == end)
        steps.append((parents, tokens))
    return Generated(_traced(steps), lengths, scores)


def _traced(steps: list[tuple[Array, Array]]) -> Array:
    """The tokens [B, beams, T] of the last step's beams, from each step's parents and tokens [B, beams]."""
    beam = np.broadcast_to(np.arange(steps[0][0].shape[1]), steps[0][0].shape)
    backwards = []
    for parents, tokens in reversed(steps):
        backwards.append(np.take_along_axis(tokens, beam, axis=1))
        beam = np.take_along_axis(parents, beam, axis=1)
    return np.stack(backwards[::-1], axis=-1)


def _log_softmax(logits: Array) -> Array:
    """In float64."""
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        values -= np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return values


def _largest(values: Array, count: int) -> Array:
    """Where the `count` largest of each row are, the largest first; of equal ones the first."""
    least = -np.partition(-values, count - 1, axis=-1)[:, count - 1]
    rows = []
    for row, bound in zip(values, least, strict=True):
        enough = np.flatnonzero(row >= bound)
        rows.append(enough[np.argsort(-row[enough], kind="stable")[:count]])
    return np.stack(rows)


def _chooser(beams: Any, temperature: Any, top_k: Any, rng: Any) -> Callable[[Array], Array]:
    if temperature is None:
        for name, value in (("top_k", top_k), ("rng", rng)):
            if value is not None:
                raise ValueError(f"{name}: expected None without a temperature, got {value!r}")
        return lambda logits: np.asarray(logits.argmax(axis=-1))
    if beams is not None:
        raise ValueError(f"temperature: expected None with beams, got {temperature!r}")
    heat = real("temperature", temperature)
    if not 0 < heat < math.inf:
        raise ValueError(f"temperature: expected a finite number above 0, got {temperature!r}")
    count = None if top_k is None else integer("top_k", top_k)
    random = rng if isinstance(rng, np.random.Generator) else np.random.default_rng(noise_seed(rng))

    def draw(logits: Array) -> Array:
        with np.errstate(over="ignore"):  # far below the largest is as good as -inf
            scores = (logits - logits.max(axis=-1, keepdims=True)).astype(np.float64) / heat
        if count is not None and count < scores.shape[-1]:
            kept = np.full_like(scores, -np.inf)
            likeliest = _largest(scores, count)
            np.put_along_axis(kept, likeliest, np.take_along_axis(scores, likeliest, axis=1), axis=1)
            scores = kept
        # The largest of scores with Gumbel noise is a draw from their softmax.
        return np.asarray((scores + random.gumbel(size=scores.shape)).argmax(axis=-1))

    return draw


def _check_network(layer: object, head: object, embedding: object) -> None:
    if not isinstance(layer, Recurrent):
        raise TypeError(f"layer: expected a recurra layer, got {type(layer).__name__}")
    if layer.direction != "forward":
        raise ValueError(
            f"layer: expected one direction, forward, for a sequence is read as it is written, got {layer!r}"
        )
    if layer.device != "cpu":
        raise ValueError(f"layer: expected one on the CPU, got one on {layer.device}")
    outputs = checked_head(layer._packed, head).out_features  # type: ignore[arg-type]
    if not isinstance(embedding, Embedding):
        raise TypeError(f"embedding: expected a recurra.Embedding, got {type(embedding).__name__}")
    if embedding.embedding_dim != layer.input_size:
        raise ValueError(f"embedding: expected embedding_dim={layer.input_size}, got {embedding.embedding_dim}")
    if embedding.num_embeddings < outputs:
        raise ValueError(f"embedding: expected at least {outputs} rows, as head has, got {embedding.num_embeddings}")
    if (embedding.dtype, embedding.device) != (layer.dtype, layer.device):
        raise ValueError(
            f"embedding: expected {layer.dtype} on {layer.device}, got {embedding.dtype} on {embedding.device}"
        )


def _token(name: str, value: Any, count: int) -> int:
    token = integer(name, value, 0)
    if token >= count:
        raise ValueError(f"{name}: expected 0..{count - 1}, got {token}")
    return token


def _start(start: Any, axes: tuple[int, ...], count: int) -> Array:
    """The first token of every sample."""
    if axes and not isinstance(start, (int, np.integer)):
        return bounded("start", vector("start", start, axes[0]), count - 1)
    return np.full(axes or 1, _token("start", start, count))


def _penalty(value: Any, beams: Any) -> float:
    penalty = real("length_penalty", value)
    if math.isinf(penalty) or (penalty and beams is None):
        wanted = "0 without beams" if beams is None else "a finite number"
        raise ValueError(f"length_penalty: expected {wanted}, got {value!r}")
    return penalty
