"""Importing recurra is quick: it brings in NumPy, its own modules, and little else."""

from __future__ import annotations

from checks import run_python

SCRIPT = """
import sys
import numpy
before = set(sys.modules)
import recurra
print(*{name.split(".")[0] for name in set(sys.modules) - before} - {"recurra"})
"""


def test_no_module_is_imported_that_only_some_functions_need() -> None:
    assert set(run_python(SCRIPT).split()) <= {"__future__", "copy", "dataclasses", "_core"}
