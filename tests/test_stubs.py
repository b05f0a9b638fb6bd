"""The stubs of the compiled module say what the module has."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import recurra

pytest.importorskip("pybind11_stubgen", reason="the lint extra has it")


def declared(stub: Path) -> dict[str, tuple[list[str], str | None]]:
    """Qualified names of classes, functions and properties, with their parameters' names and docstrings."""
    found = {}
    for node in ast.parse(stub.read_text()).body:
        members = node.body if isinstance(node, ast.ClassDef) else []
        for item in [node, *members]:
            if isinstance(item, (ast.ClassDef, ast.FunctionDef)):
                name = item.name if item is node else f"{getattr(node, 'name', '')}.{item.name}"
                arguments = [a.arg for a in item.args.args] if isinstance(item, ast.FunctionDef) else []
                found[name] = (arguments, ast.get_docstring(item))
    return found


def test_the_stubs_of_the_core_have_not_drifted(tmp_path: Path) -> None:
    # Annotations are left out: how they are spelt changes with pybind11's version.
    subprocess.run([sys.executable, "-m", "pybind11_stubgen", "recurra._core", "-o", str(tmp_path)], check=True)
    written, generated = Path(recurra.__file__).with_name("_core"), tmp_path / "recurra" / "_core"
    names = sorted(stub.name for stub in generated.glob("*.pyi"))
    assert names == sorted(stub.name for stub in written.glob("*.pyi"))
    for name in names:
        assert declared(written / name) == declared(generated / name)
