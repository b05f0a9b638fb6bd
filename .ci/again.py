"""A plugin of pytest, `-p again`: what has passed, as the JUnit file named by RECURRA_PASSED says, is not run again.

But for tests that run other tests in processes of their own: what was skipped there does not show.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

NESTED = "tests.test_cuda"


def passed(report: Path) -> Iterator[tuple[str, str]]:
    for case in ElementTree.parse(report).iter("testcase"):
        if case.get("classname") != NESTED and not len(case):  # neither skipped nor failed
            yield case.get("classname", ""), case.get("name", "")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    report = Path(os.environ["RECURRA_PASSED"])
    done = set(passed(report)) if report.exists() else set()
    keys = [item.nodeid.split("::", 1) for item in items]
    again = [(path.removesuffix(".py").replace("/", "."), name) not in done for path, name in keys]
    config.hook.pytest_deselected(items=[item for item, it in zip(items, again, strict=True) if not it])
    items[:] = [item for item, it in zip(items, again, strict=True) if it]
