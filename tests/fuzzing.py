"""Files that are a little wrong: seeded mutations of right ones, and what may happen when they are read.

RECURRA_FUZZ=100000 python -m pytest tests/test_fuzz_formats.py
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

COUNT = int(os.environ.get("RECURRA_FUZZ", "2000"))  # files of each format
SLICE = int(os.environ.get("RECURRA_FUZZ_SLICE", "0"))
_STRANGE = [b"0", b"-1", b"1", b"255", b"65536", b"2147483648", b"9007199254740993", b"18446744073709551616", b"1e308"]
_STRANGE += [
    b"1e999",
    b"-0.0",
    b"NaN",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b"[[]]",
    b'"\\u0000"',
    b'"\xff"',
    b"1" * 400,
]
_TOKEN = re.compile(rb'-?[0-9][0-9.eE+-]*|"(?:[^"\\]|\\.)*"|true|false|null')
_MEMORY = 256 << 20


def mutated(data: bytes, random: np.random.Generator, most: int = 4) -> bytes:
    """One to `most` small changes: bits, bytes, numbers and words of a text, parts that go, come twice or change
    places, an end too early."""
    for _ in range(int(random.integers(1, most + 1))):
        if not data:
            break
        data = _CHANGES[int(random.integers(len(_CHANGES)))](data, random)
    return data


def _flip(data: bytes, random: np.random.Generator) -> bytes:
    at = int(random.integers(len(data)))
    return data[:at] + bytes([data[at] ^ 1 << int(random.integers(8))]) + data[at + 1 :]


def _byte(data: bytes, random: np.random.Generator) -> bytes:
    at = int(random.integers(len(data)))
    return data[:at] + random.bytes(1) + data[at + int(random.integers(2)) :]


def _token(data: bytes, random: np.random.Generator) -> bytes:
    """Another number or word in place of one of a text."""
    tokens = list(_TOKEN.finditer(data))
    if not tokens:
        return _byte(data, random)
    token = tokens[int(random.integers(len(tokens)))]
    other = tokens[int(random.integers(len(tokens)))].group()
    new = other if random.random() < 0.4 else _STRANGE[int(random.integers(len(_STRANGE)))]
    return data[: token.start()] + new + data[token.end() :]


def _part(data: bytes, random: np.random.Generator) -> tuple[int, int]:
    begin = int(random.integers(len(data)))
    return begin, min(len(data), begin + int(2 ** random.uniform(0, 8)))


def _remove(data: bytes, random: np.random.Generator) -> bytes:
    begin, end = _part(data, random)
    return data[:begin] + data[end:]


def _repeat(data: bytes, random: np.random.Generator) -> bytes:
    begin, end = _part(data, random)
    return data[:end] + data[begin:end] * int(random.integers(1, 4)) + data[end:]


def _move(data: bytes, random: np.random.Generator) -> bytes:
    begin, end = _part(data, random)
    at = int(random.integers(len(data)))
    return data[:at] + data[begin:end] + data[at + end - begin :]


def _cut(data: bytes, random: np.random.Generator) -> bytes:
    return data[: int(random.integers(len(data)))]


_CHANGES = [_flip, _byte, _token, _token, _token, _remove, _repeat, _move, _cut]


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """A MemoryError for whoever takes much more than this process has, where the system can say so."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (ImportError, OSError):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def fuzz(samples: list[bytes], read: Callable[[Path], Any], path: Path, seed: int, count: int = COUNT) -> int:
    """Let `read` read so many mutated files at `path`. It may return or raise a ValueError that has a text, and nothing
    else; how often it returned, is returned."""
    random, read_well = np.random.default_rng([seed, SLICE]), 0
    with little_memory():
        for i in range(count):
            data = mutated(samples[i % len(samples)], random)
            path.write_bytes(data)
            try:
                read(path)
                read_well += 1
            except ValueError as error:
                assert str(error)
            except BaseException as error:
                raise AssertionError(
                    f"file {i} of seed {seed}, slice {SLICE}: {type(error).__name__}: {error}\n{data[:4000]!r}"
                ) from error
    return read_well
