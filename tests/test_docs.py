"""Documentation has the pictures that it shows, and shows those that it has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def test_pictures_are_shown() -> None:
    shown = re.findall(r"!\[[^\]]+\]\((.*?)\)", (DOCS / "variants.md").read_text(encoding="utf-8"))
    assert len(shown) == len(set(shown))
    assert set(shown) == {path.relative_to(DOCS).as_posix() for path in (DOCS / "pictures").iterdir()}


def test_every_picture_can_be_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(DOCS))
    monkeypatch.setattr("sys.argv", ["draw_variants.py", str(tmp_path)])
    import draw_variants  # type: ignore[import-not-found, unused-ignore]

    draw_variants.main()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (DOCS / "pictures").iterdir()}
