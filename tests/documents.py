"""What the tests of README.md and docs/ share: code blocks, and running them."""

from __future__ import annotations

import doctest
import os
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recurra
from recurra import _core

ROOT = Path(__file__).parents[1]
os.environ.setdefault("KERAS_BACKEND", "torch")


class EndOfInput(Exception):  # noqa: N818
    """There are no more frames."""


def blocks(path: Path, *languages: str) -> list[str]:
    """Of a page, as they follow each other. What a page includes from elsewhere is no part of it."""
    fences = re.findall(r"^```(\w+)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [code for language, code in fences if language in languages]


def names() -> dict[str, Any]:
    """What the examples take for granted, and the names that earlier ones have left."""
    frames = iter(np.ones((5, 12), np.float32))

    def read_frame() -> Any:
        for frame in frames:
            return frame
        raise EndOfInput

    rng = np.random.default_rng(0)
    layers = [recurra.Conv1d(12, 16, 3, causal=True), "relu", recurra.GRU(16, 16), recurra.Linear(16, 12)]
    return {
        "model": recurra.Model(layers),
        "frame": np.ones(12, np.float32),
        "np": np,
        "recurra": recurra,
        "x": rng.standard_normal((100, 8, 12), dtype=np.float32),
        "lengths": [100, 7, 1, 31, 100, 64, 2, 99],
        "targets": rng.integers(0, 9, 8),
        "read_frame": read_frame,
        "new_utterance": lambda: True,
    }


def run(code: str, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A block, with these names; skipped where it needs what is not here."""
    there, load = given["model"], recurra.load
    others = {"silero_vad.onnx": recurra.Model([recurra.GRU(576, 8)])}
    # Files that are not there hold a model all the same.
    monkeypatch.setattr(recurra, "load", lambda p, **_: load(p) if Path(p).exists() else others.get(p, there))
    if ".plot(" in code:
        pytest.importorskip("matplotlib", reason="the bench extra is not installed: no matplotlib")
    if ("cupy" in code or ".cuda()" in code) and not _core.cuda.device_count():
        pytest.skip("there is no GPU")
    if re.search(r"import torch|recurra\.torch|formats\.torch|to_torch", code):
        pytest.importorskip("torch", reason="the parity extra is not installed: no torch")
    if "keras" in code.replace(".keras", ""):
        pytest.importorskip("keras", reason="the parity extra is not installed: no keras")
    try:
        if ">>> " in code:
            printed: list[str] = []
            test = doctest.DocTestParser().get_doctest(code, given, "block", None, 0)
            doctest.DocTestRunner().run(test, out=printed.append, clear_globs=False)
            assert not printed, "".join(printed)
        else:
            exec(code, given)
    except EndOfInput:
        assert "while True" in code


def example(name: str) -> Any:
    """A file of examples/, as a module."""
    found = spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert found and found.loader
    module = module_from_spec(found)
    sys.modules[name] = module  # where its dataclasses look for their module
    try:
        found.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module
