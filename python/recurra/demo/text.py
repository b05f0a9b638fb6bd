"""A character model on text that ships with CPython: the help topics of ``pydoc``, about 460 000 characters.

Embedding, GRU, Linear, trained by truncated backpropagation with carried state. The last tenth of the text is held out:
it is never trained on, and the score is the bits that a character of it costs, in one pass from start to end.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import recurra
from recurra import training
from recurra.demo.optimise import Updater
from recurra.demo.report import BLUE, ORANGE, Progress, plot
from recurra.demo.text_data import CHUNK, Array, Chunk, Settings, Text, chunks, split, topics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_BITS = 1.85  # after as many epochs as Settings has
SMOOTH = 25  # steps of training loss that one point of the plot is the mean of
PROMPTS = ("The ", "If the ", "A class ")


@dataclass
class Curve:
    """How a training went: the loss of every step, and after every epoch the seconds it took and the held-out bits."""

    name: str
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    bits: list[float] = field(default_factory=list)


class Model:
    """Embedding, GRU and Linear."""

    def __init__(self, letters: int, settings: Settings) -> None:
        seeds = iter(np.random.SeedSequence(settings.seed).spawn(3))
        self.embedding = recurra.Embedding(letters, settings.embedding, seed=next(seeds))
        self.gru = recurra.GRU(settings.embedding, settings.hidden, seed=next(seeds))
        self.head = recurra.Linear(settings.hidden, letters, seed=next(seeds))
        self._updater = Updater(self.layers, settings.rate, settings.max_norm)

    @property
    def layers(self) -> dict[str, Any]:
        """The three, by name."""
        return {"embedding": self.embedding, "gru": self.gru, "head": self.head}

    def step(self, chunk: Chunk, state: Array | None) -> tuple[float, Array]:
        """One step of training from a state, which gradients do not cross: loss in nats, and the state after it."""
        x, embedding_tape = self.embedding.forward(chunk[0])
        hidden, after, gru_tape = self.gru.forward(x, state)
        scores, head_tape = self.head.forward(hidden)
        loss, dscores = training.softmax_cross_entropy(scores, chunk[1])
        head = head_tape.backward(dscores)
        gru = gru_tape.backward(head.x)
        dx: Any = gru.x
        embedding = embedding_tape.backward(dx)
        self._updater.step({"embedding": embedding.params, "gru": gru.params, "head": head.params})
        return loss, after

    def bits(self, codes: Array) -> float:
        """Bits per character, of all but the first, in one pass."""
        state, nats = None, 0.0
        for letters, following in chunks(codes, 1, CHUNK):
            hidden, state = self.gru(self.embedding(letters), state)
            nats += training.softmax_cross_entropy(self.head(hidden), following)[0] * len(letters)
        return nats / (len(codes) - 1) / math.log(2)

    def sample(self, alphabet: str, prompt: str, length: int, seed: int, temperature: float = 0.5) -> str:
        """The prompt and `length` characters more, drawn one by one."""
        codes = np.array([alphabet.index(letter) for letter in prompt])
        _, state = self.gru(self.embedding(codes[:-1]))
        written = recurra.generate(
            self.gru,
            self.head,
            self.embedding,
            start=codes[-1],
            max_length=length,
            state=state,
            temperature=temperature,
            rng=seed,
        )
        return prompt + "".join(alphabet[code] for code in written.tokens)


def train(model: Any, text: Text, settings: Settings, name: str = "recurra") -> Curve:
    """Train a model that has `step` and `bits`, and report the held-out bits of every epoch."""
    curve, seconds = Curve(name), 0.0
    cuts = list(chunks(text.train, settings.streams, settings.steps))
    with Progress(name, settings.epochs * len(cuts)) as progress:
        for epoch in range(settings.epochs):
            start, state = time.perf_counter(), None
            for chunk in cuts:
                loss, state = model.step(chunk, state)
                curve.losses.append(loss)
                progress.advance()
            seconds += time.perf_counter() - start
            curve.seconds.append(seconds)
            curve.bits.append(model.bits(text.held_out))
            trained = np.mean(curve.losses[-len(cuts) :]) / math.log(2)
            progress.report(
                f"epoch {epoch + 1:2} of {settings.epochs}  {seconds:5.1f} s  bits a character: "
                f"{trained:.3f} in training, {curve.bits[-1]:.3f} held out"
            )
    return curve


def draw_curves(axes: list[Axes], curves: list[Curve]) -> None:
    """Training loss by step, and held-out bits by seconds of training."""
    for curve, colour, dash in zip(curves, (BLUE, ORANGE), ("-", "--"), strict=False):
        whole = len(curve.losses) // SMOOTH * SMOOTH
        bits = np.array(curve.losses[:whole]).reshape(-1, SMOOTH).mean(1) / math.log(2)
        style: dict[str, Any] = {"color": colour, "label": curve.name, "linestyle": dash}
        axes[0].plot(np.arange(1, len(bits) + 1) * SMOOTH, bits, **style)
        axes[1].plot(curve.seconds, curve.bits, **style, marker="o", markersize=4)
    axes[0].set(xlabel="step of Adam", ylabel="bits a character", title=f"training text, means of {SMOOTH} steps")
    last = ", ".join(f"{curve.name} {curve.bits[-1]:.3f} in {curve.seconds[-1]:.0f} s" for curve in curves)
    axes[1].set(xlabel="seconds of training", ylabel="bits a character", title=f"held-out text: {last}")
    for axis in axes:
        axis.legend()


def run(path: Path, epochs: int, compare: bool) -> int:
    """Print the demo and draw the plot. Returns 0, or 1 when held-out text costs more than MAX_BITS bits a character,
    which is expected only of a model that was trained for as many epochs as Settings has.
    """
    start, settings = time.perf_counter(), Settings(epochs=epochs)
    text = split(topics())
    model = Model(len(text.alphabet), settings)
    print(
        f"{model.gru} reads Python's help topics: {len(text.train)} characters to train on, "
        f"the {len(text.held_out)} after them held out, {len(text.alphabet)} different ones."
    )
    other: Any = None
    if compare:
        from recurra.demo.text_torch import TorchModel

        other = TorchModel(model.layers, settings)  # before training: the same initial weights
    curves = [train(model, text, settings)]
    seconds = time.perf_counter() - start
    for seed, prompt in enumerate(PROMPTS):
        print(f"--- written by the model after {prompt!r}:\n{model.sample(text.alphabet, prompt, 240, seed)}")
    if compare:
        curves.append(train(other, text, settings, "PyTorch"))
    bits = curves[0].bits[-1]
    print(f"\nheld out: {bits:.3f} bits a character; {seconds:.1f} s with evaluation")
    for curve in curves:
        print(f"{curve.name:>8}: {curve.bits[-1]:.3f} bits a character, {curve.seconds[-1]:.1f} s of training")
    plot(path, lambda axes: draw_curves(axes, curves), columns=2)
    if bits <= MAX_BITS:
        return 0
    if epochs < Settings.epochs:
        print(f"{Settings.epochs} epochs are expected to reach {MAX_BITS} bits; {epochs} need not")
        return 0
    print(f"FAILED: at most {MAX_BITS} bits a character are expected of {epochs} epochs, got {bits:.3f}")
    return 1
