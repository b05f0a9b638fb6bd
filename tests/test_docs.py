"""Documentation: its code runs, it has the pictures that it shows, and it shows those that it has."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import documents
import pytest

import recurra
from recurra.export.nodes import KINDS
from recurra.model.structure import OPERATIONS

DOCS = documents.ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path for path in sorted(DOCS.rglob("*.md"))}
EMBEDDED = PAGES["embedded.md"].read_text(encoding="utf-8")
WITH_CODE = [name for name, path in PAGES.items() if documents.blocks(path, "python", "pycon")]


@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One block after another, with the names that those before have made."""
    monkeypatch.chdir(tmp_path)
    given = documents.names()
    for code in documents.blocks(PAGES[page], "python", "pycon"):
        documents.run(code, given, monkeypatch)


def test_the_version_is_the_same_everywhere() -> None:
    header = (documents.ROOT / "cpp" / "include" / "recurra.h").read_text(encoding="utf-8")
    numbers = re.findall(r"#define RECURRA_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", header)
    assert ".".join(numbers) == recurra.__version__
    for name, line in (("CITATION.cff", "version: {}"), ("CHANGELOG.md", "## {} - ")):
        text = (documents.ROOT / name).read_text(encoding="utf-8")
        assert f"\n{line.format(recurra.__version__)}" in text


def test_pictures_are_shown() -> None:
    shown = {
        (path.parent / picture).resolve()
        for path in PAGES.values()
        for picture in re.findall(r"!\[[^\]]+\]\((.*?)\)", path.read_text(encoding="utf-8"))
    }
    assert shown == set((DOCS / "pictures").iterdir())


def test_every_picture_can_be_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(DOCS))
    monkeypatch.setattr("sys.argv", ["draw", str(tmp_path)])
    for name in ("draw_variants", "draw_inside", "draw_speed"):
        importlib.import_module(name).main()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (DOCS / "pictures").iterdir()}
    drawn, kept = (
        re.findall("<dc:description>.*", (folder / "speed.svg").read_text()) for folder in (tmp_path, DOCS / "pictures")
    )
    assert drawn == kept and drawn  # README's numbers, of today


def test_every_page_is_in_the_contents() -> None:
    contents = "\n".join(
        re.findall(r"```\{toctree\}(.*?)```", PAGES["index.md"].read_text(encoding="utf-8"), re.DOTALL)
    )
    listed = {f"{line}.md" for line in re.findall(r"^[a-z][\w/-]*$", contents, re.MULTILINE)}
    assert listed == PAGES.keys() - {"index.md"}


def test_the_program_in_c_plus_plus_is_the_example_that_ci_runs() -> None:
    shown, _ = re.findall(r"```cpp\n(.*?)```", EMBEDDED, re.DOTALL)
    example = DOCS.parent / "examples" / "cpp" / "samples.cpp"
    assert shown == example.read_text(encoding="utf-8")
    (needed,) = re.findall(r"```cmake\n(.*?)```", EMBEDDED, re.DOTALL)
    assert len(shown.splitlines()) <= 10 and len(needed.splitlines()) == 3


def test_every_kind_of_node_is_exported_or_refused() -> None:
    said = EMBEDDED[EMBEDDED.index("### What can be exported") : EMBEDDED.index("### Size and work")]
    assert {kind for kind in (*OPERATIONS, "linear", "embedding", "activation") if f"`{kind}`" not in said} == set()
    exported, refused = said.split("Refused", 1)
    assert {kind for kind in (*OPERATIONS, *KINDS) if f"`{kind}`" in exported} == set(KINDS)
    assert {kind for kind in OPERATIONS if f"`{kind}`" in refused} == set(OPERATIONS) - set(KINDS)
