"""Small trained models of four kinds, to see what reduced precision does to them: random weights say little of that.

Each takes some seconds to train, from a fixed seed, but for the classifier, which ships with the package.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import recurra
from recurra import training
from recurra.demo import text, text_data, vowels
from recurra.demo.optimise import Updater, cosine

Floats = NDArray[np.float32]


class Trained(NamedTuple):
    """`outputs` is what the user of the model gets with this layer, or a quantised copy, in it; `score` judges that."""

    name: str
    layer: recurra.Recurrent
    outputs: Callable[[recurra.Recurrent], Floats]
    score: Callable[[Floats], str]


def classifier() -> Trained:
    """The GRU of ``recurra demo``: scores of nine speakers for 370 utterances."""
    weights = vowels.load_weights()
    layer = recurra.GRU(12, 64, batch_first=True)
    layer.load_state_dict({name: value for name, value in weights.items() if name.endswith("_l0")})
    split = vowels.load_split("test")
    batch, _ = vowels.pad((split.frames - weights["mean"]) / weights["std"], split.lengths)

    def outputs(layer: recurra.Recurrent) -> Floats:
        output, _ = layer(batch, lengths=split.lengths)
        pooled, _ = training.max_over_time(np.ascontiguousarray(output.swapaxes(0, 1)), split.lengths)
        return np.asarray(pooled @ weights["head_weight"].T + weights["head_bias"], np.float32)

    def score(scores: Floats) -> str:
        return f"{(scores.argmax(-1) + 1 == split.speakers).sum()} of 370 right"

    return Trained("vowel classifier, GRU(12, 64)", layer, outputs, score)


def characters(epochs: int = 2) -> Trained:
    """The model of ``recurra demo text``: scores of the next character in held-out text."""
    settings = text_data.Settings(epochs=epochs)
    parts = text_data.split(text_data.topics())
    model = text.Model(len(parts.alphabet), settings)
    with contextlib.redirect_stdout(sys.stderr):  # it reports
        text.train(model, parts, settings)
    read, following = parts.held_out[:-1, None], parts.held_out[1:, None]

    def outputs(layer: recurra.Recurrent) -> Floats:
        return model.head(layer(model.embedding(read))[0])

    def score(scores: Floats) -> str:
        return f"{training.softmax_cross_entropy(scores, following)[0] / math.log(2):.3f} bits a character"

    return Trained("character model, GRU(64, 256)", model.gru, outputs, score)


def fit(
    layers: dict[str, Any], rate: float, batches: Iterable[Any], gradients: Callable[[Any], Any], total: int
) -> None:
    """Adam with a cosine schedule."""
    updater = Updater(layers, rate, max_norm=1.0)
    for done, batch in enumerate(batches):
        updater.rate = cosine(rate, done, total)
        updater.step(gradients(batch))


RATE = 44100  # samples a second
WINDOW, LEAD = 768, 256  # samples trained on; of these those before the loss counts


def plucked(rows: int, seconds: float, rng: np.random.Generator) -> Floats:
    """Strings plucked four times a second, two at a time: [samples, rows], within -0.7..0.7."""
    count = int(RATE * seconds)
    sound = np.zeros((count, rows))
    for row in range(rows):
        for start in range(0, count, RATE // 4):
            t = np.arange(count - start) / RATE
            for pitch in 82.4 * 2 ** (rng.choice(36, 2) / 12):
                for k in range(1, 9):
                    sound[start:, row] += (
                        np.exp(-(2 + k) * t) * np.sin(2 * np.pi * k * pitch * t + 6 * rng.random()) / k
                    )
    return np.asarray(0.7 * sound / np.abs(sound).max(0), np.float32)


def overdriven(sound: Floats) -> Floats:
    """An amplifier's distortion: a high-pass, a skewed clipping whose operating point sags, a low-pass."""
    heard, low, sag, out = np.empty_like(sound), *np.zeros((3, sound.shape[1]))
    for t, sample in enumerate(sound):
        low += 0.02 * (sample - low)
        driven = 12 * (sample - low)
        sag += 0.002 * (np.abs(driven) - sag)
        out = out + 0.35 * (np.tanh(driven + 0.4 - 0.3 * sag) - out)
        heard[t] = out
    return heard


def amplifier(steps: int = 1500) -> Trained:
    """One sample in, one out, as models of guitar amplifiers are made: LSTM(1, 40), Linear, and the input added."""
    rng = np.random.default_rng(0)
    sound = plucked(8, 2.0, rng)
    target = overdriven(sound)
    layer, head = recurra.LSTM(1, 40, rng=rng), recurra.Linear(40, 1, seed=rng)

    def batches() -> Iterable[tuple[NDArray[Any], NDArray[Any]]]:
        for _ in range(steps):
            yield rng.integers(0, len(sound) - WINDOW, 32), rng.integers(0, sound.shape[1], 32)

    def gradients(batch: Any) -> dict[str, Any]:
        places = batch[0] + np.arange(WINDOW)[:, None]
        x = sound[places, batch[1]][:, :, None]
        output, _, tape = layer.forward(x)
        made, head_tape = head.forward(output)
        _, error = training.mean_squared_error(made[LEAD:] + x[LEAD:], target[places, batch[1]][LEAD:, :, None])
        back = head_tape.backward(np.concatenate([np.zeros((LEAD, 32, 1), np.float32), error]))
        return {"layer": tape.backward(back.x, input_grad=False).params, "head": back.params}

    fit({"layer": layer, "head": head}, 8e-3, batches(), gradients, steps)
    other = plucked(8, 0.5, np.random.default_rng(1))
    wanted = overdriven(other)

    def outputs(layer: recurra.Recurrent) -> Floats:
        return (head(layer(other[:, :, None])[0])[:, :, 0] + other)[LEAD:]

    def score(heard: Floats) -> str:
        return f"{decibels(heard, wanted[LEAD:]):.1f} dB from the amplifier"

    return Trained("amplifier, LSTM(1, 40)", layer, outputs, score)


SPEAKERS, BANDS, FRAMES = 40, 40, 80


def spoken(speakers: NDArray[Any], rng: np.random.Generator) -> Floats:
    """Band powers of made-up voices, [FRAMES, N, BANDS]: a speaker has formants, a pitch and a tilt; between vowels
    there are pauses. Not in decibels, so that they span eight powers of ten.
    """
    traits = np.random.default_rng(7).uniform(-1, 1, (SPEAKERS, 5))[speakers]
    bands = np.arange(BANDS)
    frames = np.empty((FRAMES, len(speakers), BANDS))
    formants = np.zeros((len(speakers), 3))
    loud = np.zeros(len(speakers))
    for t in range(FRAMES):
        new = rng.random(len(speakers)) < 0.15
        formants[new] = np.array([6.0, 16.0, 27.0]) + rng.uniform(-2, 2, (new.sum(), 3)) + 3 * traits[new, :3]
        loud[new] = np.where(rng.random(new.sum()) < 0.25, -60, rng.uniform(-12, 0, new.sum()))
        peaks = np.exp(-((bands - formants[:, :, None]) ** 2) / 6).sum(1)
        pitch = np.cos(2 * np.pi * bands / (5 + traits[:, 3:4])) / 3
        level = 25 * peaks + 6 * pitch - (0.5 + 0.3 * traits[:, 4:]) * bands - 25 + loud[:, None]
        frames[t] = 10 ** ((level + rng.normal(0, 3, level.shape)) / 10) + 1e-9
    return frames.astype(np.float32)


def speaker_encoder(steps: int = 800) -> Trained:
    """Three layers read band powers; a Linear of the last state tells whose they are. Powers of high bands are small,
    their weights large.
    """
    rng = np.random.default_rng(0)
    layer, head = recurra.LSTM(BANDS, 96, 3, forget_bias=1.0, rng=rng), recurra.Linear(96, SPEAKERS, seed=rng)
    scale = spoken(np.arange(SPEAKERS), rng).std((0, 1))

    def gradients(speakers: Any) -> dict[str, Any]:
        _, (h, c), tape = layer.forward(spoken(speakers, rng) / scale)
        scores, head_tape = head.forward(h[-1])
        _, error = training.softmax_cross_entropy(scores, speakers)
        back = head_tape.backward(error)
        last: Any = back.x
        state = np.concatenate([np.zeros_like(h[:-1]), last[None]]), np.zeros_like(c)
        return {"layer": tape.backward(dstate=state, input_grad=False).params, "head": back.params}

    fit({"layer": layer, "head": head}, 4e-3, (rng.integers(0, SPEAKERS, 32) for _ in range(steps)), gradients, steps)
    params = layer.state_dict()
    params["weight_ih_l0"] /= scale  # so that the model reads powers as they are
    layer.load_state_dict(params)
    speakers = np.tile(np.arange(SPEAKERS), 5)
    heard = spoken(speakers, np.random.default_rng(1))

    def outputs(layer: recurra.Recurrent) -> Floats:
        return head(layer(heard)[1][0][-1])

    def score(scores: Floats) -> str:
        return f"{(scores.argmax(-1) == speakers).sum()} of {len(speakers)} right"

    return Trained("speaker encoder, LSTM(40, 96, 3)", layer, outputs, score)


def decibels(made: Floats, wanted: Floats) -> float:
    """Error to signal: the squares of the one's difference from the other, by those of the other."""
    error, signal = made.astype(np.float64) - wanted, wanted.astype(np.float64)
    return 10 * math.log10((error**2).sum() / (signal**2).sum())
