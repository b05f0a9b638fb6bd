"""The benchmark of networks that no peer ships: with tiny cases, and what its command line refuses."""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recurra.bench import variants

torch = pytest.importorskip("torch", reason="the parity extra is not installed: no torch")
rich_console = pytest.importorskip("rich.console", reason="the bench extra is not installed: no rich")

from recurra.bench.cli import main  # noqa: E402
from recurra.bench.variants import grids, match, sequences, trees  # noqa: E402

TINY = {
    sequences: [
        sequences.case(sequences.Shape(cell, steps, rows, 8), training)
        for cell in sequences.CELLS
        for steps, rows, training in ((None, 1, False), (4, 3, False), (4, 3, True))
    ],
    trees: [
        *(trees.case(trees.Shape(kind, 3, 9, 2, 5)) for kind in ("child_sum", "n_ary", "s_lstm")),
        trees.case(trees.Shape("child_sum", 7, 7, 2, 5), alone=True),
    ],
    grids: [
        *(grids.case(grids.Shape(cell, (2, 3, 4), 5, 6)) for cell in grids.CELLS),
        grids.map_case(grids.Maps((2, 3, 4), 5, 6, 2)),
    ],
    match: [
        variants.Case("MatchLSTM", 1.0, partial(match.contestants, match.Shape(4, 3, 2, 5), training))
        for training in (False, True)
    ],
}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> int:
    """Puts them in the place of the real ones; how many there are."""
    for module, cases in TINY.items():
        monkeypatch.setattr(module, "CASES", cases)
    return sum(map(len, TINY.values()))


@pytest.mark.usefixtures("restore_threads")
def test_all_agree_and_the_file_has_every_row(tiny: int, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "variants.json"
    assert main(["--shapes", "variants", "--seconds", "0.001", "--json", str(file)]) == 0
    text = capsys.readouterr().out
    rows = json.loads(file.read_text())["1"]
    assert len(rows) == tiny
    for row, case in zip(rows, (case for cases in TINY.values() for case in cases), strict=True):
        assert row["label"] == case.label and case.label.split()[0] in text
        assert variants.COMPILED not in row["times"] and row["times"]["recurra"] > 0
        peers = {name: time for name, time in row["times"].items() if name not in ("recurra", variants.YARDSTICK)}
        assert row["ratio"] == (min(peers.values()) / row["times"]["recurra"] if peers else None)
        assert (row["each_node"] is None) == (case.nodes == 0)
        assert 0 < row["percent_of_limit"] < 100


@pytest.mark.parametrize("change", [1e-2, np.nan])
def test_a_contestant_that_computes_something_else_is_refused(change: float) -> None:
    result = np.linspace(-1, 1, 5)
    case = variants.Case("sum", 1.0, lambda: {"recurra": lambda: [result], "torch": lambda: [result + change]})
    with pytest.raises(ValueError, match="sum: torch computes something else: off by"):
        variants.measure(case, 0.001, 1)


def test_the_yardstick_takes_part_in_no_comparison_and_no_ratio() -> None:
    calls = {"recurra": lambda: [np.ones(3)], variants.YARDSTICK: lambda: [np.zeros(7)]}
    found = variants.measure(variants.Case("sum", 1.0, lambda: calls), 0.001, 1)
    assert set(found.times) == set(calls) and found.ratio is None


def test_the_limit_is_the_slower_of_multiply_adds_and_weights_read() -> None:
    known = {"fma_f32_gflops": 100.0, "read_gbs": [[16, 50.0], [1024, 20.0]]}
    case = variants.Case("sum", 1e6, dict, reads=(1 << 20, 2))
    assert variants.least(case, known, 1) == pytest.approx(2 * (1 << 20) / 20e3)
    assert variants.least(case._replace(multiply_adds=1e7), known, 1) == pytest.approx(2e7 / 100e3)
    assert variants.least(case._replace(reads=(0, 0)), known, 2) == pytest.approx(2e6 / 200e3)


def test_the_yardstick_has_as_many_multiply_adds() -> None:
    for hidden in (64, 256):
        shape = sequences.Shape("MultiplicativeLSTM", 1, 1, hidden)
        found = sequences.equal_lstm(shape)
        assert 4 * found * (hidden + found) == pytest.approx(shape.multiply_adds, rel=0.01)


@pytest.mark.parametrize("more", [("--peers", "openvino"), ("--precision", "int8"), ("--markdown",), ("--plots", "p")])
def test_options_that_variants_have_not_are_refused(
    more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--shapes", "variants", *more]) == 2
    assert more[0] in capsys.readouterr().err


def test_the_table_shows_a_missing_contestant_as_a_dash() -> None:
    text = io.StringIO()
    cases = [
        variants.Case("both", 1.0, lambda: {name: lambda: [np.ones(3)] for name in ("recurra", "torch")}),
        variants.Case("alone", 1.0, lambda: {"recurra": lambda: [np.ones(3)]}, nodes=10),
    ]
    variants.run(cases, 0.001, 1, rich_console.Console(file=text, width=100))
    (alone,) = (line.split() for line in text.getvalue().splitlines() if "alone" in line)
    assert alone[2:4] == ["-", "-"] and float(alone[-1]) == pytest.approx(float(alone[1]) / 10, rel=0.1)
