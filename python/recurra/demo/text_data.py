"""What both models of ``demo text`` share, recurra's and PyTorch's: the text, how it is cut, and the settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

CHUNK = 4096  # steps of held-out text at once

Array = npt.NDArray[Any]
Chunk = tuple[Array, Array]  # letters and the letters that follow them


@dataclass(frozen=True)
class Settings:
    """Sizes and the recipe."""

    embedding: int = 64
    hidden: int = 256
    streams: int = 32
    steps: int = 64
    rate: float = 3e-3
    max_norm: float = 5.0
    epochs: int = 5
    seed: int = 0


class Text(NamedTuple):
    """The alphabet, and the two parts of the text as positions in it."""

    alphabet: str
    train: Array
    held_out: Array


def topics() -> str:
    """The help topics of this Python, in the order of their names."""
    from pydoc_data.topics import topics as by_name

    return "".join(by_name[name] for name in sorted(by_name))


def split(text: str) -> Text:
    """Training text before held-out text, 90 to 10; the alphabet is that of both."""
    alphabet = "".join(sorted(set(text)))
    position = {letter: k for k, letter in enumerate(alphabet)}
    codes = np.array([position[letter] for letter in text])
    cut = len(codes) * 9 // 10
    return Text(alphabet, codes[:cut], codes[cut:])


def chunks(codes: Array, streams: int, steps: int) -> Iterator[Chunk]:
    """The text as `streams` equal pieces side by side, cut into [steps, streams]; the last one is shorter."""
    length = (len(codes) - 1) // streams
    letters = codes[: length * streams].reshape(streams, length).T
    following = codes[1 : length * streams + 1].reshape(streams, length).T
    for start in range(0, length, steps):
        yield letters[start : start + steps], following[start : start + steps]
