"""Exported C and C++ on other processors, under qemu: they have the bits of this machine's Python."""

from __future__ import annotations

import os
from pathlib import Path

import exported
import pytest

import recurra


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    cases = [*exported.every_cell(None), *exported.every_cell("int8"), *exported.random_models(20)]
    return exported.write(cases, tmp_path_factory.mktemp("exported"))


@pytest.mark.parametrize("name", exported.EMULATED)
def test_other_processors_have_the_same_bits(name: str, sources: list[Path], tmp_path: Path) -> None:
    platform = exported.EMULATED[name]
    if platform.missing and "RECURRA_EMULATED" not in os.environ:
        pytest.skip(f"not installed: {platform.missing}")
    if recurra.config()["isa"] == "generic":
        pytest.skip("this machine has no fused multiply-add")
    assert exported.run(platform, sources, tmp_path) == "same bits"


def test_exported_cpp_has_the_same_bits_with_neon(tmp_path: Path) -> None:
    platform = exported.AARCH64_CPP
    if platform.missing and "RECURRA_EMULATED" not in os.environ:
        pytest.skip(f"not installed: {platform.missing}")
    if recurra.config()["isa"] == "generic":
        pytest.skip("this machine has no fused multiply-add")
    sources = exported.write_cpp(exported.all_widths(), tmp_path)
    assert exported.run(platform, sources, tmp_path, exported.STRICT_CPP) == "same bits"
