"""A wake word: a GRU listens to a microphone's frames and says when a certain word was said.

    python examples/wake_word.py

The audio is synthetic: a "word" is a few gliding tones with harmonics, and the wake word is the one whose tones go up,
then down. Others go up, down, or down and up; all come at random pitches, speeds and loudness, in noise. The features
are energies of bands, frame by frame, as they would come from a microphone. The network is trained on clips, and then
runs as a stream over a minute of audio that it has not heard. Needs NumPy and recurra only.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

import recurra
from recurra import training

RATE, FRAME, BANDS = 8000, 160, 16  # 20 ms a frame
CLIP, WORD = 50, 25  # frames of a clip; most frames of a word
WAKE = (1, -1)
OTHERS = ((1,), (-1,), (-1, 1), (1, 1), (-1, -1))

Array = Any


def word(glides: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Samples of a word: for each part a tone that goes up or down by a third or so."""
    pitch, parts = rng.uniform(250, 500), []
    for glide in glides:
        count = int(rng.uniform(8, WORD / 2) * FRAME)
        ratio = 2 ** (glide * rng.uniform(0.3, 0.6))  # of a few semitones
        frequency = pitch * ratio ** np.linspace(0, 1, count)
        phase = 2 * np.pi * np.cumsum(frequency) / RATE
        tone = np.sin(phase) + np.sin(2 * phase) / 2 + np.sin(3 * phase) / 3
        parts.append(tone * np.hanning(count) ** 0.3)
        pitch *= ratio
    return rng.uniform(0.3, 1.0) * np.concatenate(parts)


def bands(samples: Array) -> Array:
    """Logarithms of energies, [frames, BANDS] of float32, from 0 to 2 kHz."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME) * np.hanning(FRAME)
    power = np.abs(np.fft.rfft(frames, 4 * FRAME)) ** 2
    edges = np.linspace(100, 2000, BANDS + 1) * 4 * FRAME / RATE
    energy = [power[:, int(a) : int(b)].mean(axis=1) for a, b in pairwise(edges)]
    return (np.log10(np.stack(energy, 1) + 1e-2) / 2).astype("float32")


def clips(count: int, seed: int) -> tuple[Array, Array]:
    """Features [count, CLIP, BANDS] of one word each, and whether it is the wake word."""
    rng = np.random.default_rng(seed)
    x, y = np.empty((count, CLIP, BANDS), np.float32), rng.integers(0, 2, count)
    for k in range(count):
        samples = 0.05 * rng.standard_normal(CLIP * FRAME)
        said = word(WAKE if y[k] else OTHERS[rng.integers(len(OTHERS))], rng)
        start = CLIP * FRAME - len(said) - int(rng.integers(1, 10)) * FRAME  # it has just ended
        said = said[max(-start, 0) :]
        samples[max(start, 0) :][: len(said)] += said
        x[k] = bands(samples)
    return x, y


def train(count: int = 1500, epochs: int = 12, seed: int = 0) -> recurra.Model:
    """Reads a clip and gives logits of "another" and "wake" at its last frame."""
    layers = [recurra.GRU(BANDS, 32, seed=seed), recurra.Pool("last"), recurra.Linear(32, 2, seed=seed + 1)]
    model = recurra.Model(layers, batch_first=True)
    x, y = clips(count, seed + 2)
    options: dict[str, Any] = {"loss": "cross_entropy", "lr": 0.01, "clip_norm": 1.0, "seed": seed}
    print(training.fit(model, x, y, epochs=epochs, validation=0.2, **options))
    return model


def listen(model: recurra.Model, samples: Array, threshold: float = 3.0) -> list[float]:
    """Seconds at which the wake word was heard. One frame goes in at a time, as from a microphone."""
    stream, heard, quiet = model.stream(), [], 0
    for number, frame in enumerate(bands(samples)):
        other, wake = stream.step(frame)  # of a pool, after every step: that of the steps so far
        quiet = max(0, quiet - 1)
        if wake - other > threshold and not quiet:
            heard.append((number + 1) * FRAME / RATE)
            quiet = WORD  # the same word is not heard twice
            stream.reset()
    return heard


def minute(seed: int = 5) -> tuple[Array, list[float]]:
    """A minute of audio with a word every two seconds, and where the wake words end."""
    rng = np.random.default_rng(seed)
    samples, ends = 0.05 * rng.standard_normal(60 * RATE), []
    for second in range(1, 59, 2):
        wake = rng.random() < 0.3
        said = word(WAKE if wake else OTHERS[rng.integers(len(OTHERS))], rng)
        samples[second * RATE :][: len(said)] += said
        if wake:
            ends.append(second + len(said) / RATE)
    return samples, ends


def score(heard: list[float], ends: list[float]) -> tuple[int, int]:
    """Wake words that were heard within half a second, and alarms without one."""
    hits = sum(any(abs(end - at) < 0.5 for at in heard) for end in ends)
    return hits, sum(all(abs(end - at) >= 0.5 for end in ends) for at in heard)


def main() -> None:
    model = train()
    x, y = clips(300, seed=77)
    print(f"new clips: {np.mean(model.predict(x).argmax(-1) == y):.1%} right")
    samples, ends = minute()
    hits, false = score(listen(model, samples), ends)
    print(f"a minute of audio: {hits} of {len(ends)} wake words heard, {false} false alarms")


if __name__ == "__main__":
    main()
