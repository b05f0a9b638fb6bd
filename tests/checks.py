"""What several test files share: comparing results, and running a script in a fresh interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import recurra

Array = NDArray[Any]
TESTS = Path(__file__).parent
CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def states(state: Any) -> tuple[Array, ...]:
    """The final state of a layer as a tuple, also where it is one array."""
    return state if isinstance(state, tuple) else (state,)


def isa_available() -> list[str]:
    """The instruction sets of this build that this machine has."""
    available: Any = recurra.config()["isa_available"]
    return list(available)


def save_results(path: str, results: dict[str, Array]) -> None:
    """For `assert_same_bits_on_avx2_and_avx512`: what a process computed, and on which instruction set."""
    np.savez(path, isa=recurra.config()["isa"], **results)  # type: ignore[arg-type]


def assert_same_bits_on_avx2_and_avx512(script: str, folder: Path) -> None:
    """`script` saves results to the path that it is given; the instruction set of a process is chosen once."""
    wanted = {"avx2", "avx512"}
    if not wanted <= set(isa_available()):
        pytest.skip("this machine does not have both AVX2 and AVX-512")
    saved = {}
    for isa in wanted:
        path = folder / f"{isa}.npz"
        run_python(script, str(path), RECURRA_ISA=isa)
        saved[isa] = dict(np.load(path))
        assert saved[isa].pop("isa").item() == isa
    assert saved["avx2"].keys() == saved["avx512"].keys()
    for name, array in saved["avx2"].items():
        try:
            assert_same_bits(array, saved["avx512"][name])
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


def arrays(result: Any) -> list[Array]:
    """The arrays in a nest of tuples, lists and dictionaries, in order."""
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, (tuple, list)):
        return [array for part in result for array in arrays(part)]
    return [np.asarray(result)]


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    """Every number within tolerance * max(1, |expected|); infinities and NaN in the same places."""
    for a, e in zip(arrays(actual), arrays(expected), strict=True):
        assert a.shape == e.shape
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance)


def assert_same_bits(actual: Any, expected: Any) -> None:
    """The same dtypes, shapes and bytes: -0.0 is not 0.0 here."""
    for a, e in zip(arrays(actual), arrays(expected), strict=True):
        assert (a.dtype, a.shape) == (e.dtype, e.shape)
        if a.tobytes() != e.tobytes():
            bits = np.dtype(f"u{a.dtype.itemsize}")
            different = np.ascontiguousarray(a).view(bits) != np.ascontiguousarray(e).view(bits)
            where = tuple(int(i) for i in np.argwhere(different)[0])
            raise AssertionError(f"{different.sum()} of {a.size} differ: at {where} {a[where]!r} is not {e[where]!r}")


def assert_gradients_are_slopes(model: Any, batch: Any, step: float = 0.01, tolerance: float = 0.02) -> None:
    """Of each layer of a demo's model: along its gradient, in float32, the loss rises by the gradient's norm."""
    _, gradients = model.gradients(batch)
    assert gradients.keys() == model.layers.keys()
    for name, layer in model.layers.items():
        before, losses = layer.state_dict(), []
        norm = np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in gradients[name].values()))
        for way in (step, -step):
            moved = {key: array + np.float32(way / norm) * gradients[name][key] for key, array in before.items()}
            layer.load_state_dict(moved)
            losses.append(model.gradients(batch)[0])
        layer.load_state_dict(before)
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(norm, rel=tolerance)


def places(value: Any) -> list[tuple[Any, Any]]:
    """All that is inside lists and dicts, as (the list or dict, its index or key)."""
    found = []
    for key, inside in list(value.items() if isinstance(value, dict) else enumerate(value)):
        found.append((value, key))
        if isinstance(inside, (dict, list)):
            found += places(inside)
    return found


def copies(result: Any) -> list[Array]:
    """Copies of the arrays of a result, to compare with later."""
    return [array.copy() for array in arrays(result)]


def run_python(script: str, *arguments: str, **environment: str) -> str:
    """Run a script in a fresh interpreter that can import the tests; return what it printed."""
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
