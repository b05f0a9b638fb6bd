"""The training loop that most models need."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .._options import choice, flag, generator, integer, shown
from ..model import Model
from ._checks import number, positive
from .examples import objectives, split
from .optimisers import SGD, Adam, clip_grad_norm
from .progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from .._arrays import Array, Input
    from .._options import Seed
    from .examples import Losses, Objective

    Loss = str | Callable[[Array, Array, Array | None], tuple[float, Array]]

_OPTIMISERS: dict[str, Any] = {"adam": Adam, "sgd": SGD}


@dataclass(eq=False, repr=False)
class History:
    """What `fit` returns: numbers of every epoch.

        >>> training.History(loss=[1.0, 0.5, 0.25], validation_loss=[1.1, 0.6, 0.7])
        History(3 epochs, best 1: loss 0.5, validation loss 0.6)

    Attributes:
        loss: mean of the training loss, as parameters were when each batch came.
        validation_loss: mean of the loss over the validation rows after the epoch; empty without them.
        lr: learning rates.
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)

    @property
    def best(self) -> int:
        """The epoch, from 0, with the least validation loss, or without validation training loss.

        >>> training.History(loss=[1.0, 0.5, 0.25], validation_loss=[1.1, 0.6, 0.7]).best
        1
        """
        return int(np.argmin(self.validation_loss or self.loss))

    def plot(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure of the losses, which is written to a path if one is given.

        Raises:
            ImportError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("plot: matplotlib is not installed (pip install matplotlib)") from error
        figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
        axes = figure.subplots()
        axes.plot(self.loss, label="training")
        if self.validation_loss:
            axes.plot(self.validation_loss, label="validation")
        axes.axvline(self.best, color="grey", linewidth=1, linestyle=":", label="best")
        axes.set(xlabel="epoch", ylabel="loss")
        if min(self.loss + self.validation_loss) > 0:
            axes.set_yscale("log")
        axes.legend()
        if path is not None:
            figure.savefig(path)
        return figure

    def __repr__(self) -> str:
        losses = [f"loss {self.loss[self.best]:.4g}"]
        losses += [f"validation loss {self.validation_loss[self.best]:.4g}"] if self.validation_loss else []
        return f"History({len(self.loss)} epochs, best {self.best}: {', '.join(losses)})"


def fit(
    model: Model,
    x: Any,
    y: Input | tuple[Any, ...] | Mapping[str, Any],
    *,
    epochs: int,
    loss: Loss | Mapping[str, Loss] = "mse",
    weights: Mapping[str, float] | tuple[float, ...] | None = None,
    batch_size: int = 32,
    lengths: Sequence[int] | Input | None = None,
    validation: float | tuple[Any, ...] | None = None,
    patience: int | None = None,
    optimiser: str | Callable[..., Any] = "adam",
    lr: float = 1e-3,
    schedule: Callable[[int], float] | None = None,
    clip_norm: float | None = None,
    seed: Seed = None,
    progress: bool = True,
) -> History:
    """Train a model.

        >>> x = np.random.default_rng(0).uniform(-1, 1, (64, 10, 1)).astype("float32")
        >>> layers = [recurra.GRU(1, 16, seed=0), recurra.Pool("last"), recurra.Linear(16, 1, seed=1)]
        >>> model = recurra.Model(layers, batch_first=True)
        >>> history = training.fit(model, x, x.sum(axis=1), epochs=40, lr=0.03, validation=0.25, patience=9, seed=0)
        >>> history.validation_loss[history.best] < 0.2 * history.validation_loss[0]
        True

    Batches are drawn anew in every epoch; with lengths they have rows of similar length, and the steps that these need.
    What `Dropout`, dropout and zoneout leave out is drawn for each batch.

    Args:
        model: whose parameters are replaced.
        x: as of a call of the model, with a batch axis: one row for each example.
        y: targets, of the shape and dtype of the model's output; for "cross_entropy" integers, of that shape without
            the last axis, beside outputs that are logits. Of a model with several outputs a dict by name, or a tuple in
            their order.
        epochs: how many times to go through all rows, at most.
        loss: "mse", "cross_entropy", or a function of an output, its targets and the mask of positions that count or
            None (as of `mean_squared_error`), which gives a float and the gradient of the output. A dict by name has
            one for each of several outputs.
        weights: of the losses of several outputs, whose sum is what is made small: a dict by name, or a tuple in their
            order, of numbers of at least 0. Default 1 each.
        batch_size: rows of a batch, at most.
        lengths: valid steps of each row. Steps past them and masked ones do not count.
        validation: (x, y) or (x, y, lengths), or the part of the rows, the last ones, that is kept for it.
        patience: after so many epochs without a smaller validation loss, or without validation training loss, training
            ends; in any case the model then has the parameters of the best epoch. Default None: those of the last.
        optimiser: "adam", "sgd", or a function of parameters and a learning rate, such as
            `lambda params, lr: training.SGD(params, lr, momentum=0.9)`.
        lr: learning rate.
        schedule: of the epoch, from 0, to its learning rate, in place of lr.
        clip_norm: bound of the norm of all gradients; see `clip_grad_norm`. Default none.
        seed: for numpy.random.default_rng, of all that is left to chance.
        progress: whether to show a bar where standard output is a terminal (rich's if that is installed).

    Raises:
        TypeError, ValueError: something does not fit; nothing is changed.
        FloatingPointError: the loss or a gradient is not finite; the model has the parameters of the step before.
    """
    if not isinstance(model, Model):
        raise TypeError(f"model: expected a recurra.Model, got {type(model).__name__}")
    asked = objectives(model, loss, weights)
    make = optimiser if callable(optimiser) else choice("optimiser", optimiser, _OPTIMISERS)
    if schedule is not None and not callable(schedule):
        raise TypeError(f"schedule: expected a function of the epoch or None, got {shown(schedule)}")
    size, last = integer("batch_size", batch_size), integer("epochs", epochs)
    waits = None if patience is None else integer("patience", patience)
    clip = None if clip_norm is None else positive("clip_norm", clip_norm)
    rate, shows, rng = number("lr", lr), flag("progress", progress), generator(seed)
    data, held = split(model, x, y, lengths, validation, asked)
    params, history, best = model.state_dict(), History(), model.state_dict()
    stepper = make(params, rate)
    with Progress(last, shows) as bar:
        for epoch in range(last):
            if schedule is not None:
                stepper.lr = number("schedule", schedule(epoch))
            history.lr.append(stepper.lr)
            done = []
            for batch in data.batches(rng, size):
                losses, tape, dy = batch.loss(model, asked, rng)
                if not losses:
                    continue
                given = dy if len(asked) > 1 else next(iter(dy.values()))
                gradients = tape.backward(given, input_grad=False).params
                if clip is not None:
                    clip_grad_norm(gradients, clip)
                stepper.step(gradients)
                model.load_state_dict(params)
                done.append(losses)
            history.loss.append(_mean(done, asked))
            if held is not None:
                batches = held.batches(None, size)
                found = [batch.loss(model, asked, None)[0] for batch in batches]
                history.validation_loss.append(_mean(found, asked))
            bar.report(history)
            if waits is not None:
                if history.best == epoch:
                    best = model.state_dict()
                if epoch - history.best >= waits:
                    break
    if waits is not None:
        model.load_state_dict(best)
    return history


def _mean(batches: Iterable[Losses], asked: Mapping[str, Objective]) -> float:
    """The sum over outputs of the mean over all positions, from those of batches."""
    batches, total = list(batches), 0.0
    for name, objective in asked.items():
        counted = [losses[name] for losses in batches if name in losses]
        if not counted:
            raise ValueError(f"x: expected at least one step that counts{objective.title[1:]}, got none")
        values, counts = zip(*counted, strict=True)
        total += objective.weight * float(np.average(values, weights=counts))
    return total
