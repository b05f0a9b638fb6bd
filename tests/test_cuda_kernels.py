"""Every kernel, compiled by NVRTC itself, which needs no GPU, for four generations of them."""

from __future__ import annotations

import re

import pytest

from recurra import _core
from recurra.cuda import _libraries
from recurra.cuda.kernels import DTYPES, units


@pytest.fixture(scope="module", autouse=True)
def nvrtc() -> None:
    _libraries.locate()
    problems = {found["name"]: found["problem"] for found in _core.cuda.found()}
    if problems["nvrtc"]:
        pytest.skip("no NVRTC: pip install nvidia-cuda-nvrtc")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a", "sm_100a", "sm_120"])
def test_no_kernel_spills(architecture: str, dtype: str) -> None:
    for unit in units(dtypes=[dtype]):
        cubin, log = _core.cuda.compile(unit.source, [*unit.options, "-Xptxas", "-v"], architecture)
        kernels = re.findall(r"Compiling entry function '(\w+)'", log)
        frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
        assert cubin and kernels and len(frames) == len(kernels), log
        assert set(frames) == {("0", "0", "0")}, f"{unit.name}: {dict(zip(kernels, frames, strict=True))}"
        assert "warning" not in log, log
