"""The benchmark's command line: options, tables, comparisons, and a small real run without peers."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_runs import LINE, made_run, shape_of, timing
from checks import run_python

from recurra.bench import limits, results, run, shapes


@pytest.fixture
def rich() -> None:
    pytest.importorskip("rich", reason="the bench extra is not installed: no rich")


def command(*arguments: str) -> tuple[int, str]:
    """Exit status and output of the benchmark's command line, in this process."""
    from recurra.bench.cli import main

    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            status = main(list(arguments))
        except SystemExit as stopped:  # argparse's
            status = int(str(stopped.code))
    return status, text.getvalue()


@pytest.mark.usefixtures("rich")
def test_a_run_without_peers(tmp_path: Path) -> None:
    chosen, file = tmp_path / "mine.txt", tmp_path / "run.json"
    chosen.write_text("cell=LSTM T=1 B=1 H=16,32\ncell=GRU T=4 B=2,4 I=3 H=8\n")
    common = ("--shapes", str(chosen), "--peers", "", "--seconds", "0.01")
    status, text = command(*common, "--threads", "1,all", "--json", str(file))
    assert status == 0 and "LSTM step B=1 H=I=16" in text and "GRU T=4 B=2 I=3 H=8" in text
    done = results.Run.load(file)
    assert len(done.results) in (4, 8)  # on one core, "1,all" is "1"
    assert all(r.timings["recurra"].median > 0 and r.ratio is None for r in done.results)
    status, text = command("--load", str(file), "--markdown")
    tables = len({result.threads for result in done.results})  # each with two lines above its rows
    assert status == 0 and text.count("\n| ") == len(done.results) + 2 * tables


def test_reduced_precision_is_timed_beside_float32() -> None:
    result = run.measure(shape_of("cell=LSTM T=1 B=1 H=16"), [], 0.01, precision="int8")
    assert set(result.timings) == {"recurra", "recurra float32"}


@pytest.mark.usefixtures("rich")
def test_bf16_is_bfloat16() -> None:
    from recurra.bench import cli

    for name in ("bf16", "bfloat16"):
        assert cli.parser().parse_args(["--precision", name]).precision == "bfloat16"


@pytest.mark.usefixtures("rich")
def test_compare_and_load_from_the_command_line(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    made_run(400, torch=900).save(old)
    made_run(500, torch=800).save(new)
    status, text = command("--load", str(new), "--compare", str(old))
    assert status == 1 and "slower 25 %" in text and "1 slower and 0 faster" in text
    assert command("--load", str(new), "--compare", str(old), "--threshold", "30")[0] == 0
    status, text = command("--load", str(old), "--compare", str(new))
    assert status == 0 and "faster 20 %" in text
    status, text = command("--load", str(old), str(new), "--markdown")
    assert status == 0 and "| 4.00 (4.00) | 8.00 (8.00) | 2.00 |" in text


@pytest.mark.usefixtures("rich")
def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the bench extra is not installed: no matplotlib")
    lines = "cell=LSTM T=1 B=1 H=8,64\ncell=GRU T=4 B=2,4 H=8"
    found = [
        replace(made_run(4.0, torch=10.0).results[0], shape=shape)
        for line in lines.splitlines()
        for shape in shapes.parse_line(line)
    ]
    replace(made_run(4.0, torch=10.0), results=found).save(tmp_path / "run.json")
    assert command("--load", str(tmp_path / "run.json"), "--plots", str(tmp_path / "plots"))[0] == 0
    written = {path.name: path.stat().st_size for path in (tmp_path / "plots").iterdir()}
    assert set(written) == {"latency.png", "throughput.png", "histogram.png"} and min(written.values()) > 10000


@pytest.mark.usefixtures("rich")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--shapes", "nothing"), "--shapes: expected a line like 'LSTM T=100 B=1 H=64', a file's path or one of"),
        (("--shapes", "LSTM T=1"), "--shapes: missing B, H"),
        (("--shapes", "EMPTY"), "empty.txt: expected a shape a line, got none"),
        (("--threads", "0"), "--threads: expected 'all' or numbers from 1 to"),
        (("--threads", "\u00b2"), "--threads: expected 'all' or numbers from 1 to"),
        (("--peers", "tensorflow"), "--peers: expected some of torch"),
        (("--load", "/nowhere.json"), "/nowhere.json"),
        (("--compare", "/nowhere.json"), "/nowhere.json"),
        (("--json", "/nowhere/run.json"), "--json: expected a file that can be written, in a folder that exists"),
        (("--json", "FOLDER"), "--json: expected a file that can be written"),
        (("--plots", "EMPTY"), "--plots: expected a folder, or a name for one"),
        (("--seconds", "0"), "--seconds: expected a number above 0, got '0'"),
        (("--seconds", "nan"), "--seconds: expected a number above 0, got 'nan'"),
        (("--seconds", "inf"), "--seconds: expected a number above 0, got 'inf'"),
        (("--seconds", "x"), "--seconds: expected a number above 0, got 'x'"),
        (("--threshold", "nan"), "--threshold: expected a number of at least 0, got 'nan'"),
        (("--threshold", "-1"), "--threshold: expected a number of at least 0, got '-1'"),
        (("--precision", "int4"), "--precision: invalid choice: 'int4'"),
    ],
)
def test_bad_options_are_named_before_anything_is_timed(
    arguments: tuple[str, ...], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("timed")

    monkeypatch.setattr(run, "measure", never)
    monkeypatch.setattr(limits, "measure", never)
    (tmp_path / "empty.txt").write_text("# nothing\n")
    places = {"EMPTY": str(tmp_path / "empty.txt"), "FOLDER": str(tmp_path)}
    status, text = command(*(places.get(argument, argument) for argument in arguments))
    assert status == 2 and complaint in text


@pytest.mark.usefixtures("rich")
def test_a_shape_that_does_not_fit_the_memory_is_named() -> None:
    status, text = command("--shapes", "LSTM T=99999999999 B=99999 H=4", "--seconds", "0.01", "--peers", "")
    assert status == 2 and "--shapes: LSTM T=99999999999 B=99999 H=I=4: " in text and "Traceback" not in text


def test_a_missing_package_is_named() -> None:
    script = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in ("rich", "matplotlib") else find(name, *rest)
sys.argv = ["recurra", "bench", "--plots", "x"]
from recurra.__main__ import main
sys.stderr = sys.stdout
assert main() == 2
"""
    assert "needs rich and matplotlib: pip install rich matplotlib" in run_python(script)


@pytest.mark.usefixtures("rich")
def test_the_table_tells_date_commit_load_and_whether_the_machine_was_quiet() -> None:
    from recurra.bench import report

    quiet = made_run(10, torch=20)
    text = report.markdown(quiet)
    assert "recurra 0 (abc)" in text and "2026-01-02 03:04+00:00; load before 0.1" in text and "NOT QUIET" not in text
    (result,) = quiet.results
    busy = replace(quiet, results=[replace(result, others=0.05), replace(result, others=1.7)])
    text = report.markdown(busy)
    assert "NOT QUIET: other processes kept up to 1.7 of 2 CPUs busy during 1 of 2 rows" in text
    assert text.count("H=32 (*) |") == 1 and text.count("H=32 |") == 1
    unknown = replace(quiet, results=[replace(result, others=None)])
    assert [remark for remark in report.remarks(unknown) if "not known" in remark]


def test_others_are_noticed() -> None:
    from recurra.bench.machine import Watch

    if not Path("/proc/stat").exists():
        pytest.skip("this system does not tell what its CPUs do")
    watch = Watch()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(1.0)
        others = watch.others()
    finally:
        busy.kill()
        busy.wait()
    assert others is not None and others > 0.3


@pytest.mark.usefixtures("rich")
def test_a_row_above_its_limit_is_explained() -> None:
    from recurra.bench import report

    (remark,) = (remark for remark in report.remarks(made_run(2.0)) if "limit" in remark)
    assert remark == "above 100 % of the limit: the machine changed during LSTM T=100 B=1 I=64 H=32"
    assert not [remark for remark in report.remarks(made_run(4.0)) if "limit" in remark]


@pytest.mark.usefixtures("rich")
def test_the_table_fits_80_columns_and_cuts_no_name() -> None:
    from rich.console import Console

    from recurra.bench import report

    times = {name: 12345.0 for name in ("torch", "torch.compile", "onnxruntime", "openvino")}
    made = made_run(1000.0, **times)
    (result,) = made.results
    long = shape_of("GRU-before T=29 B=128 I=1000 H=1000 layers=2 directions=2 lengths=vowels pass=train")
    printed = io.StringIO()
    report.show(replace(made, results=[result, replace(result, shape=long)]), Console(width=80, file=printed))
    text = printed.getvalue()
    assert max(map(len, text.splitlines())) <= 80 and "\u2026" not in text
    for word in (*long.label.split(), "recurra", "torch.", "compile", "onnxruntime", "openvino", "123", "limit"):
        assert re.search(rf"(^|\s){re.escape(word)}(\s|$)", text), word


@pytest.mark.usefixtures("rich")
def test_the_remarks_tell_the_ratios_of_each_number_of_threads_and_of_training() -> None:
    from recurra.bench import report

    one, (two,) = made_run(10, torch=20), made_run(10, torch=40).results
    training = replace(two, shape=shape_of(LINE + " pass=train"))
    both = replace(one, results=[*one.results, replace(two, threads=2), training])
    assert [remark for remark in report.remarks(both) if "best peer" in remark] == [
        "best peer / recurra, inference, threads 1: geometric mean 2.00, least 2.00 of 1 rows",
        "best peer / recurra, inference, threads 2: geometric mean 4.00, least 4.00 of 1 rows",
        "best peer / recurra, training, threads 1: geometric mean 4.00, least 4.00 of 1 rows",
    ]


def spread(run_: Any, low: float, high: float) -> Any:
    """The run, our quartiles so far from the median."""
    (result,) = run_.results
    ours = result.timings["recurra"]
    wide = replace(ours, low=ours.median * low, high=ours.median * high)
    return replace(run_, results=[replace(result, timings=result.timings | {"recurra": wide})])


def compared(before: Any, after: Any, threshold: float = 10) -> tuple[int, str]:
    """Exit status and output of `--compare`."""
    from rich.console import Console

    from recurra.bench import report

    text = io.StringIO()
    status = report.compare(before, after, threshold, Console(width=200, file=text))
    return status, text.getvalue()


@pytest.mark.usefixtures("rich")
@pytest.mark.parametrize(
    ("before", "after", "status", "words"),
    [
        ({"ours": 400}, {"ours": 500}, 1, "slower 25 %  4.00 (4.00 to 4.00) -> 5.00 (5.00 to 5.00) us a step"),
        ({"ours": 400}, {"ours": 300}, 0, "faster 25 %"),
        ({"ours": 400}, {"ours": 420}, 0, "0 slower and 0 faster by more than 10 %"),
        # Whatever peers did: they are another library's noise.
        ({"ours": 338, "torch": 1000}, {"ours": 332, "torch": 500}, 0, "0 slower and 0 faster"),
        ({"ours": 400, "torch": 1000}, {"ours": 500, "torch": 2000}, 1, "peers take 2.00 times as long"),
        ({"ours": 400, "torch": 1000}, {"ours": 300, "onnxruntime": 100}, 0, "faster 25 %"),
    ],
)
def test_compare_holds_our_times_against_ours(
    before: dict[str, float], after: dict[str, float], status: int, words: str
) -> None:
    done, text = compared(made_run(**before), made_run(**after))
    assert done == status and words in text and "1 rows compared" in text


@pytest.mark.usefixtures("rich")
def test_compare_calls_nothing_slower_that_the_spread_of_both_runs_explains() -> None:
    steady, restless = made_run(400), spread(made_run(500), 0.7, 1.1)  # 350 to 550
    status, text = compared(steady, restless)
    assert status == 0 and "unclear 25 %  4.00 (4.00 to 4.00) -> 5.00 (3.50 to 5.50) us a step" in text
    assert compared(spread(steady, 0.9, 1.3), made_run(500))[0] == 0  # 360 to 520
    assert compared(spread(steady, 0.9, 1.2), made_run(500))[0] == 1  # 360 to 480
    assert compared(spread(steady, 0.9, 1.2), made_run(500), threshold=30)[0] == 0


@pytest.mark.usefixtures("rich")
def test_compare_says_when_nothing_can_be_compared() -> None:
    run_ = made_run(400)
    (result,) = run_.results
    others = {
        "no row": replace(run_, results=[replace(result, precision="int8")]),
        "(shape, threads, precision)": replace(run_, results=[replace(result, threads=2)]),
        "two processors": replace(run_, machine=run_.machine | {"processor": "Q"}),
        "in common": replace(run_, results=[replace(result, timings={"torch": timing(1.0)})]),
    }
    for words, other in others.items():
        status, text = compared(other, run_)
        assert status == 2 and words in text and "rows compared" not in text
    more = replace(run_, results=[result, replace(result, threads=2)])
    status, text = compared(more, run_)
    assert status == 0 and "1 rows are in one run only" in text
