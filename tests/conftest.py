"""Fixtures, and Hypothesis profiles: the default draws the same examples every time; `thorough` searches."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

import recurra

settings.register_profile(
    "default",
    max_examples=6,
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=300, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True)
def the_same_draws_every_time() -> None:
    """PyTorch's, where a test has loaded it: weights may otherwise lie at a kink of relu once in a hundred runs."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture
def restore_threads() -> Iterator[None]:
    """Lets a test change the number of threads."""
    before = recurra.get_num_threads()
    yield
    recurra.set_num_threads(before)


@pytest.fixture
def other_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """GPUs of the stand-in that are unlike the first: what one is when it is first used, it remains."""
    from cuda_arrays import counted

    from recurra import _core

    counted("errors")  # or skip

    def make(number: int, **settings: int) -> str:
        monkeypatch.setenv("RECURRA_STANDIN_GPUS", "8")
        for name, value in settings.items():
            monkeypatch.setenv(f"RECURRA_STANDIN_{name}", str(value))
        _core.cuda.device(number)
        for name in settings:
            monkeypatch.delenv(f"RECURRA_STANDIN_{name}")
        return f"cuda:{number}"

    return make
