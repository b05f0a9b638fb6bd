"""examples/gpu_cupy.py learns its task, over the stand-in for a GPU or on one."""

from __future__ import annotations

import sys
from typing import Any

import documents
import fake_cupy
import pytest
from cuda_arrays import driver, require_gpu

require_gpu()

cupy: Any = fake_cupy if hasattr(driver(), "standin_reset_counts") else pytest.importorskip("cupy")


def test_it_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    example = documents.example("gpu_cupy")
    layer, head, losses = example.train(cupy, 60)
    assert sum(losses[-5:]) < 0.2 * sum(losses[:5])
    assert example.stepped(cupy, layer, head, 0.25) == pytest.approx(2.5, abs=1.0)
