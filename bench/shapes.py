"""What is timed: shapes, and the text files that list them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent / "shapes"
CELLS = ("LSTM", "GRU", "GRU-before", "RNN")
LENGTHS = ("none", "vowels")
PASSES = ("forward", "train")
LONGEST_VOWEL = 29  # steps of the longest utterance in recurra.demo
FIELDS = {"cell": "cell", "T": "steps", "B": "batch", "I": "inputs", "H": "hidden", "pass": "passes"}
DEFAULTS = {"pass": "forward", "layers": "1", "directions": "1", "lengths": "none"}  # and I, which is H


class Shape(NamedTuple):
    """One call: a sequence [steps, batch, inputs] through a stack of layers; one step is timed as a stream's.

    With passes="train" it is forward and backward, to the gradients of input and parameters.
    """

    cell: str
    steps: int
    batch: int
    inputs: int
    hidden: int
    layers: int = 1
    directions: int = 1
    lengths: str = "none"
    passes: str = "forward"

    @property
    def streaming(self) -> bool:
        """Whether this is one step of a stream, which hands its state on."""
        return self.steps == 1 and self.directions == 1 and self.lengths == "none" and not self.training

    @property
    def training(self) -> bool:
        """Whether this goes backward too."""
        return self.passes == "train"

    @property
    def stack(self) -> list[int]:
        """Input size of each layer."""
        return [self.inputs] + [self.hidden * self.directions] * (self.layers - 1)

    def row_lengths(self) -> NDArray[np.int64]:
        """Steps of each row of the batch: all, or drawn with a fixed seed from the utterances in recurra.demo."""
        if self.lengths == "none":
            return np.full(self.batch, self.steps)
        from recurra.demo.vowels import load_split  # here, because parsing needs no data

        known = np.concatenate([load_split(split).lengths for split in ("train", "test")])
        return np.random.default_rng(0).choice(known, self.batch)

    def __str__(self) -> str:
        """The line of a shape file that means this shape."""
        names = {value: key for key, value in FIELDS.items()}
        return " ".join(f"{names.get(name, name)}={value}" for name, value in self._asdict().items())

    @property
    def label(self) -> str:
        """Short, for tables."""
        sizes = f"H=I={self.hidden}" if self.inputs == self.hidden else f"I={self.inputs} H={self.hidden}"
        words = [self.cell, "step" if self.streaming else f"T={self.steps}", f"B={self.batch}", sizes]
        words += [f"layers={self.layers}"] * (self.layers > 1)
        words += ["bidirectional"] * (self.directions == 2)
        words += [f"lengths={self.lengths}"] * (self.lengths != "none")
        words += ["train"] * self.training
        return " ".join(words)


def parse_line(line: str) -> list[Shape]:
    """The shapes of one line: `key=value` words, of which the first may be the cell alone, `LSTM T=1 B=1 H=64`. A value
    may be a list `a,b,c` that stands for each of them.

    Raises:
        ValueError: says what is wrong with the line.
    """
    words: dict[str, str] = dict(DEFAULTS)
    given = set()
    for k, word in enumerate(line.split()):
        key, equals, value = word.partition("=") if k or "=" in word else ("cell", "=", word)
        if not equals or not value:
            raise ValueError(f"expected key=value, got {word!r}")
        if key not in FIELDS and key not in DEFAULTS:
            raise ValueError(f"unknown key {key!r}; keys are {', '.join([*FIELDS, *DEFAULTS])}")
        if key in given:
            raise ValueError(f"{key} is given twice")
        given.add(key)
        words[key] = value
    if missing := [key for key in FIELDS if key not in words and key not in ("I", "pass")]:
        raise ValueError(f"missing {', '.join(missing)}")
    shapes = []
    for values in product(*(value.split(",") for value in words.values())):
        chosen = dict(zip(words, values, strict=True))
        chosen.setdefault("I", chosen["H"])
        shapes.append(_checked(chosen))
    return shapes


def _checked(words: dict[str, str]) -> Shape:
    fields: dict[str, Any] = {}
    for key, value in words.items():
        if key in ("cell", "lengths", "pass"):
            fields[FIELDS.get(key, key)] = value
        elif value.isascii() and value.isdigit() and int(value) > 0:
            fields[FIELDS.get(key, key)] = int(value)
        else:
            raise ValueError(f"{key}: expected a whole number above 0, got {value!r}")
    shape = Shape(**fields)
    for name, known in (("cell", CELLS), ("lengths", LENGTHS), ("directions", ("1", "2")), ("pass", PASSES)):
        if words[name] not in known:
            raise ValueError(f"{name}: expected one of {', '.join(known)}, got {words[name]!r}")
    if shape.lengths == "vowels" and shape.steps != LONGEST_VOWEL:
        raise ValueError(f"T: expected {LONGEST_VOWEL} with lengths=vowels, got {shape.steps}")
    return shape


def parse_file(path: Path) -> list[Shape]:
    """The shapes of a file; empty lines and what follows a # don't count.

    Raises:
        ValueError: names the file, the line and what is wrong there; or there is no shape.
    """
    shapes = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            if words := line.partition("#")[0].strip():
                shapes += parse_line(words)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None
    if not shapes:
        raise ValueError(f"{path}: expected a shape a line, got none")
    return shapes


def names() -> list[str]:
    """The shipped files, by the name that --shapes takes."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def select(chosen: Iterable[str]) -> list[Shape]:
    """Each shape once, of lines like "LSTM T=100 B=1 H=64" and comma-separated lists of shipped names and paths.

    Raises:
        ValueError: there is no such file, or a line is bad.
    """
    shapes: list[Shape] = []
    for text in chosen:
        if "=" in text and not Path(text).is_file():
            shapes += parse_line(text)
            continue
        for name in text.split(","):
            path = FOLDER / f"{name}.txt" if name in names() else Path(name)
            if not path.is_file():
                raise ValueError(
                    f"expected a line like 'LSTM T=100 B=1 H=64', a file's path or one of {', '.join(names())}, "
                    f"got {name!r}"
                )
            shapes += parse_file(path)
    return list(dict.fromkeys(shapes))
