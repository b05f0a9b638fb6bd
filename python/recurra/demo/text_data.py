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
    """Training text before held-out text, 90 to 10."""
    cut = len(text) * 9 // 10
    return coded(text[:cut], text[cut:])


def split_topics(every: int = 10) -> Text:
    """The help topics, of which one in so many is held out, so that both parts are about the same things."""
    from pydoc_data.topics import topics as by_name

    texts = [by_name[name] for name in sorted(by_name)]
    held_out = texts[every // 2 :: every]
    return coded("".join(text for k, text in enumerate(texts) if k % every != every // 2), "".join(held_out))


def coded(train: str, held_out: str) -> Text:
    """Both parts; the alphabet is that of both."""
    alphabet = "".join(sorted(set(train + held_out)))
    position = {letter: k for k, letter in enumerate(alphabet)}
    return Text(alphabet, *(np.array([position[letter] for letter in part]) for part in (train, held_out)))


def chunks(codes: Array, streams: int, steps: int) -> Iterator[Chunk]:
    """The text as `streams` equal pieces side by side, cut into [steps, streams]; the last one is shorter."""
    length = (len(codes) - 1) // streams
    letters = codes[: length * streams].reshape(streams, length).T
    following = codes[1 : length * streams + 1].reshape(streams, length).T
    for start in range(0, length, steps):
        yield letters[start : start + steps], following[start : start + steps]
