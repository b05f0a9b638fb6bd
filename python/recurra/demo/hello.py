"""Four letters: a small RNN learns to continue "hell" to "ello", and shows its gradients.

The two l must be followed by different letters, so what the network has read before decides: it needs its state.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

import recurra
from recurra import training
from recurra.demo.optimise import Updater
from recurra.demo.report import BLUE, ORANGE, Progress, plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WORD, LETTERS, HIDDEN, RATE, STEPS = "hello", "helo", 8, 3e-2, 150
NUDGE = 1e-6  # of the central difference, in float64

Array = npt.NDArray[Any]


class Model:
    """One-hot letters, an RNN, scores of the next letter. float64, so that a numeric derivative can check it."""

    def __init__(self, seed: int = 0) -> None:
        self.rnn = recurra.RNN(len(LETTERS), HIDDEN, dtype="float64", seed=seed)
        self.head = recurra.Linear(HIDDEN, len(LETTERS), dtype="float64", seed=seed + 1)
        codes = np.array([LETTERS.index(letter) for letter in WORD])
        self.x, self.targets = np.eye(len(LETTERS))[codes[:-1], None], codes[1:, None]

    def gradients(self) -> tuple[float, dict[str, dict[str, Array]]]:
        """The loss, and its gradients by layer and parameter."""
        hidden, _, tape = self.rnn.forward(self.x)
        scores, head_tape = self.head.forward(hidden)
        loss, dscores = training.softmax_cross_entropy(scores, self.targets)
        head = head_tape.backward(dscores)
        return loss, {"rnn": tape.backward(head.x, input_grad=False).params, "head": head.params}

    def continued(self) -> str:
        """The likeliest letter after each of "hell"."""
        return "".join(LETTERS[k] for k in self.head(self.rnn(self.x)[0])[:, 0].argmax(-1))

    def slope(self, name: str, index: tuple[int, ...]) -> float:
        """The loss's derivative by one value of the RNN, from two losses nearby."""
        before, losses = self.rnn.state_dict(), []
        for nudge in (NUDGE, -NUDGE):
            changed = {key: array.copy() for key, array in before.items()}
            changed[name][index] += nudge
            self.rnn.load_state_dict(changed)
            losses.append(self.gradients()[0])
        self.rnn.load_state_dict(before)
        return (losses[0] - losses[1]) / (2 * NUDGE)


class Trained(NamedTuple):
    """What `train` returns: the continuation of "hell", and after every step the loss and the gradients' norm."""

    answer: str
    losses: list[float]
    norms: list[float]


def train(model: Model) -> Trained:
    """Fit the model, STEPS steps of Adam."""
    updater = Updater({"rnn": model.rnn, "head": model.head}, RATE)
    losses, norms = [], []
    with Progress("hello", STEPS) as progress:
        for step in range(STEPS):
            loss, gradients = model.gradients()
            losses.append(loss)
            norms.append(updater.step(gradients))
            progress.advance()
            if step % 25 == 0 or step == STEPS - 1:
                progress.report(f"step {step + 1:3}  loss {loss:.4f}  gradient {norms[-1]:.4f}  {model.continued()}")
    return Trained(model.continued(), losses, norms)


def errors(answer: str) -> int:
    """How many of the four letters are wrong."""
    return sum(a != b for a, b in zip(answer, WORD[1:], strict=True))


def show_gradients(model: Model) -> None:
    """Print every gradient's norm, and one row of one matrix beside its numeric derivative."""
    _, gradients = model.gradients()
    for layer, arrays in gradients.items():
        for name, array in arrays.items():
            print(f"   {layer + '.' + name:<18}{array.shape!s:<9}norm {np.linalg.norm(array):.6f}")
    name, columns = "weight_hh_l0", range(4)
    ours = gradients["rnn"][name][0]
    print(f"   {name}[0, :4]   backward    " + "".join(f"{ours[k]:+13.9f}" for k in columns))
    print(f"   {name}[0, :4]   from losses " + "".join(f"{model.slope(name, (0, k)):+13.9f}" for k in columns))


def run(path: Path) -> int:
    """Print the demo and draw the plot. Returns 0, or 1 when a letter is wrong."""
    start = time.perf_counter()
    model = Model()
    print(f'{model.rnn} learns to continue "{WORD[:-1]}": {model.continued()} before training. Gradients at first:')
    show_gradients(model)
    answer, losses, norms = train(model)
    wrong = errors(answer)
    print("gradients at the end:")
    show_gradients(model)
    seconds = time.perf_counter() - start

    def draw(axes: list[Axes]) -> None:
        axes[0].semilogy(losses, color=BLUE, label="loss, nats a letter")
        axes[0].semilogy(norms, color=ORANGE, label="norm of the gradients")
        axes[0].set(xlabel="step of Adam", title=f'"{WORD[:-1]}" continued: "{answer}", {wrong} of 4 wrong')
        axes[0].legend()

    print(f'"{WORD[:-1]}" -> "{answer}": {wrong} errors, loss {losses[-1]:.4f}, {seconds:.2f} s')
    plot(path, draw)
    if wrong:
        print(f"FAILED: no error is expected after {STEPS} steps")
        return 1
    return 0
