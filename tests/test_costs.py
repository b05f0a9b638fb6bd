"""bench/costs.py: what it counts, against counts by hand, and the table that it has written into docs/variants.md."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from checks import TESTS

import recurra

pytest.importorskip("rich", reason="the bench extra is not installed: no rich")
sys.path.insert(0, str(TESTS.parent))

from bench import costs

DOCS = TESTS.parent / "docs" / "variants.md"
# The formulas' letters, but for I and H: dimensions or orders, children, depth, chunks, their bands.
LETTERS = {"N": 2, "K": 2, "D": 2, "M": 7, "B": 16}


def value(formula: str, hidden: int, **letters: int) -> int:
    """Of "4H(I+H)" and the like."""
    products = re.sub(r"(?<=[\w)])(?=[A-Z(])", "*", formula).replace("^", "**")
    return int(eval(products, LETTERS | {"I": costs.INPUTS, "H": hidden, "F": hidden // 4} | letters))


@pytest.mark.parametrize("hidden", [8, 64])
@pytest.mark.parametrize("row", costs.ROWS, ids=lambda row: row.name)
def test_multiply_adds_counted_are_those_of_the_formula(row: costs.Row, hidden: int) -> None:
    letters = {letter: int(number) for letter, number in re.findall(r"(\w)=(\d+)", row.name)}
    each = value(row.formula, hidden, **letters)
    found = row.work.multiply_adds(row.layer(hidden))
    if row.work.unit == "node":  # a leaf has the input's products alone, if any
        leaf = 0 if "S-LSTM" in row.name else 4 * hidden * costs.INPUTS
        assert found * 63 == pytest.approx(31 * each + 32 * leaf)
    elif row.work.unit == "word":  # NULL is a word more
        assert found - each == pytest.approx(hidden**2 / costs.WORDS + 2 * hidden)
    else:
        assert found == each


def test_multiply_adds_by_hand() -> None:
    """Matrix by matrix."""
    rows = {row.name: row for row in costs.ROWS}
    by_hand = {
        "LSTM": 256 * 64 + 256 * 64,
        "MultiplicativeLSTM": 64 * 64 + 64 * 64 + 256 * 64 + 256 * 64,
        "MinGRU": 128 * 64,
        "GridLSTM, N=2": 512 * 64 + 512 * 128,
        "the same, leakylp": 320 * 64 + 2 * 320 * 64,
        "FrequencyTimeLSTM, M=7, F=H/4": 7 * (64 * 16 + 64 * 16) + 256 * (7 * 16) + 256 * 64,
    }
    for name, count in by_hand.items():
        assert rows[name].work.multiply_adds(rows[name].layer(64)) == count, name


def test_every_public_network_has_a_row() -> None:
    public = {name for name in recurra.__all__ if hasattr(getattr(recurra, name), "parameter_count")}
    parts = {"Embedding", "InitialState", "LeafModule", "Linear", "Model", "Recurrent"}
    assert {type(row.layer(4)).__name__ for row in costs.ROWS} == public - parts
    assert len({row.name for row in costs.ROWS}) == len(costs.ROWS)


def test_every_row_can_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "HIDDEN", (4, 5))
    monkeypatch.setattr(costs, "BATCHES", (1, 3))
    lines = costs.table(costs.ROWS, 0.01).splitlines()
    assert len(lines) == len(costs.ROWS) + 2
    for row, line in zip(costs.ROWS, lines[2:], strict=True):
        cells = line.strip("| ").split(" | ")
        assert cells[: len(costs.counted(row))] == costs.counted(row)
        assert all(float(time) > 0 for cell in cells[-2:] for time in cell.split(" / "))


def test_the_table_of_the_docs_is_of_these_networks() -> None:
    text = DOCS.read_text(encoding="utf-8")
    shown = text[text.index(costs.BEGIN) : text.index(costs.END)]
    rows = [line.strip("| ").split(" | ") for line in shown.splitlines() if line.startswith("| ")][2:]
    expected = [costs.counted(row) for row in costs.ROWS]
    assert [cells[: len(expected[0])] for cells in rows] == expected


@pytest.mark.usefixtures("restore_threads")
def test_the_table_is_written_between_markers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(costs, "ROWS", costs.ROWS[:2])
    file = tmp_path / "page.md"
    file.write_text(f"before\n{costs.BEGIN}\nold\n{costs.END}\nafter\n", encoding="utf-8")
    costs.main([str(file)], 0.01)
    printed = capsys.readouterr().out
    assert printed.count("\n| LSTM |") == 1
    assert file.read_text(encoding="utf-8") == f"before\n{costs.BEGIN}\n{printed}{costs.END}\nafter\n"
    file.write_text("no markers\n", encoding="utf-8")
    with pytest.raises(ValueError, match="expected a file with the lines"):
        costs.main([str(file)], 0.01)
    assert file.read_text(encoding="utf-8") == "no markers\n"
