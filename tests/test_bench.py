"""The benchmark: its shape files, its arithmetic, its files, and that its peers compute the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_runs import LIMITS, LINE, made_run, shape_of, timing

import recurra
from recurra.bench import limits, peers, results, run, shapes


def test_a_line_is_a_shape_and_back() -> None:
    shape = shape_of(f"{LINE} layers=2 directions=2")
    assert shape_of(f"{LINE} layers=2 directions=2".removeprefix("cell=")) == shape
    assert shape == ("LSTM", 100, 1, 64, 32, 2, 2, "none", "forward") and shape.stack == [64, 64]
    training = shape_of(f"{LINE} pass=train")
    assert training.training and shape_of(str(training)) == training and "train" in training.label
    assert shape_of(str(shape)) == shape
    assert shape_of("cell=RNN T=1 B=1 H=8").inputs == 8


def test_a_list_is_every_combination() -> None:
    found = shapes.parse_line("cell=LSTM,GRU T=1 B=1,2 H=8,16")
    assert len(set(found)) == 8 and {(s.hidden, s.inputs) for s in found} == {(8, 8), (16, 16)}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("cell=LSTM T=1 B=1", "missing H"),
        (f"{LINE} H=8", "H is given twice"),
        (f"{LINE} size=8", "unknown key 'size'"),
        (f"{LINE} layers", "expected key=value, got 'layers'"),
        (f"{LINE} layers=0", "layers: expected a whole number above 0, got '0'"),
        (f"{LINE} layers=two", "layers: expected a whole number above 0, got 'two'"),
        (f"{LINE} directions=3", "directions: expected one of 1, 2, got '3'"),
        (f"{LINE} pass=back", "pass: expected one of forward, train, got 'back'"),
        (f"{LINE} lengths=words", "lengths: expected one of none, vowels, got 'words'"),
        (f"{LINE} lengths=vowels", "T: expected 29 with lengths=vowels, got 100"),
        ("cell=QRNN T=1 B=1 H=8", "cell: expected one of LSTM, GRU, GRU-before, RNN, got 'QRNN'"),
        ("cell=LSTM T=1 B=1 H=8,", "H: expected a whole number above 0, got ''"),
    ],
)
def test_a_bad_line_is_named(line: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text(f"# a comment\n\n{LINE}  # fine\n{line}\n")
    with pytest.raises(ValueError, match=r"mine\.txt:4: ") as error:
        shapes.select([str(file)])
    assert complaint in str(error.value)


def test_shipped_shapes_are_all_good() -> None:
    everything = shapes.select([",".join(shapes.names())])
    assert {"streaming", "sequences", "batches", "stacks", "lengths", "published", "readme"} <= set(shapes.names())
    assert len(everything) == len(set(everything)) > 80
    assert {s.hidden for s in shapes.select(["streaming"]) if s.cell == "LSTM"} == {16, 32, 64, 128, 256, 512, 1024}
    assert shapes.select(["quick", "LSTM T=100 B=1 H=64,65", "quick"]) == [
        *shapes.select(["quick"]),
        shape_of("LSTM T=100 B=1 H=65"),
    ]
    with pytest.raises(ValueError, match=r"expected a line .* or one of batches, .* got 'nothing'"):
        shapes.select(["streaming,nothing"])
    with pytest.raises(ValueError, match="H: expected a whole number above 0, got 'x'"):
        shapes.select(["LSTM T=100 B=1 H=x"])


def test_lengths_come_from_the_recordings() -> None:
    lengths = shape_of("cell=GRU T=29 B=128 H=8 lengths=vowels").row_lengths()
    assert lengths.shape == (128,) and lengths.min() >= 7 and lengths.max() <= 29 and len(set(lengths)) > 10
    assert shape_of(LINE).row_lengths().tolist() == [100]


def test_bandwidth_is_that_of_the_largest_block_that_is_no_larger() -> None:
    sizes = {8: 200, 16: 200, 255: 200, 256: 100, 1000: 100, 4095: 100, 4096: 20, 1 << 20: 20}  # KiB to GB/s
    for kib, gbs in sizes.items():
        assert limits.bandwidth(LIMITS, kib * 1024) == pytest.approx(gbs * 1e9)


def test_bandwidth_of_threads_is_what_they_read_together_or_else_each_ones_own() -> None:
    measured = LIMITS | {"threads": 2, "read_together_gbs": [(32, 300.0), (8192, 25.0)]}
    for known, threads, kib, gbs in (
        (measured, 2, 16, 300),
        (measured, 2, 8192, 25),
        (measured, 1, 8192, 20),
        (measured | {"read_together_gbs": [(32, 300.0), (64, 7.0), (128, 90.0)]}, 2, 64, 90),  # disturbed there
        (measured, 4, 4 * 4096, 4 * 20),
        (LIMITS, 2, 2 * 256, 2 * 100),
    ):
        assert limits.bandwidth(known, kib * 1024, threads) == pytest.approx(gbs * 1e9)
    step = shape_of("cell=LSTM T=1 B=1 H=1024")  # 32 MiB
    assert limits.bound(step, measured, threads=2) == pytest.approx((32 << 20) / 25e9)


def test_limits_are_of_so_many_threads_as_were_asked_for() -> None:
    cores = recurra.get_num_threads()
    known = limits.measure(cores)
    assert known["threads"] == cores == recurra.get_num_threads()
    assert (known["read_together_gbs"] != []) == (cores > 1)
    for readings in filter(None, (known["read_gbs"], known["read_together_gbs"])):
        sizes, rates = [kib for kib, _ in readings], [rate for _, rate in readings]
        assert sizes == sorted(sizes) and sizes[-1] == 128 << 10 and min(rates) > 0


def test_bound_of_a_stream_is_reading_all_weights() -> None:
    shape = shape_of("cell=LSTM T=1 B=1 H=64 layers=2")  # 4 * 64 * 128 * 2 weights: 256 KiB
    assert limits.bound(shape, LIMITS) == pytest.approx(262144 / 100e9)
    assert limits.bound(shape, LIMITS, "bfloat16") == pytest.approx(131072 / 200e9)
    assert limits.bound(shape, LIMITS, threads=2) == pytest.approx(131072 / 200e9)
    # 32 rows: 65536 weights * 2 * 32 operations
    assert limits.bound(shape._replace(batch=32), LIMITS) == pytest.approx(65536 * 64 / 100e9)


def test_bound_of_a_sequence_is_reading_recurrent_weights_and_computing_inputs() -> None:
    shape = shape_of("cell=GRU T=100 B=1 I=32 H=64")  # recurrent 3 * 64 * 64 * 4 bytes = 48 KiB, input 6144 weights
    recurrent = 100 * 49152 / 200e9
    inputs = 100 * 6144 * 2 / 100e9
    assert limits.bound(shape, LIMITS) == pytest.approx(recurrent + inputs)
    assert limits.bound(shape._replace(directions=2), LIMITS) == pytest.approx(2 * (recurrent + inputs))


def test_bound_of_training_adds_transposed_products_and_weight_gradients() -> None:
    shape = shape_of("cell=GRU T=100 B=1 I=32 H=64")
    training = shape._replace(passes="train")
    gradients = 100 * (12288 + 6144) * 2 / 100e9
    forward = limits.bound(shape, LIMITS)
    assert forward and limits.bound(training, LIMITS) == pytest.approx(2 * forward + gradients)
    assert not training._replace(steps=1).streaming


def test_bound_of_threads_that_share_a_sequence_counts_the_news_between_them() -> None:
    shape = shape_of("cell=GRU-before T=100 B=1 H=256")
    beside = LIMITS | {"gain": 1.5, "exchange_ns": 250.0}
    # On two cores: recurrent 3 * 256 * 256 * 4 / 2 bytes = 384 KiB, input at 1.5 times the peak; two phases a step.
    each = 2 * 250e-9 + 393216 / 100e9
    inputs = 100 * 3 * 256 * 256 * 2 / 150e9
    assert limits.bound(shape, beside, threads=2) == pytest.approx(100 * each + inputs)
    sides = 2 * (100 * 393216 / 100e9 + inputs)  # two directions can go side by side and hear nothing of each other
    assert limits.bound(shape._replace(directions=2), beside, threads=2) == pytest.approx(sides)
    step = shape_of("cell=LSTM T=1 B=1 H=256")  # 2 MiB
    assert limits.bound(step, beside, threads=2) == pytest.approx((1 << 20) / 100e9 + 2 * 250e-9)
    through = shape_of("cell=LSTM T=1 B=1 H=256 layers=3")  # a sequence could be in several layers at once
    assert limits.bound(through, beside, threads=2) == pytest.approx((3 << 20) / 100e9 + 4 * 250e-9)
    stack = shape._replace(layers=2)
    assert limits.bound(stack, beside, threads=2) == pytest.approx(sides)
    far = LIMITS | {"gain": 2.0, "exchange_ns": 1e6}  # then one thread is faster
    assert limits.bound(shape, far, threads=2) == limits.bound(shape, LIMITS)


@pytest.mark.parametrize(
    ("line", "precision", "sizes"),
    [
        ("GRU T=100 B=1 I=32 H=64", "float32", [24, 48, 96]),  # input 24 KiB, recurrent 48
        ("LSTM T=1 B=1 H=64 layers=2", "bfloat16", [128, 256]),  # a stream reads all weights of a step
        ("RNN T=9 B=1 H=8", "float32", [16]),
        ("LSTM T=9 B=1 H=4096", "float32", [131072]),
    ],
)
def test_a_row_has_limits_of_its_own_of_the_blocks_that_it_reads(line: str, precision: str, sizes: list[int]) -> None:
    recurra.set_num_threads(1)
    shape = shape_of(line)
    moments = [limits.beside(shape, precision, 1) for _ in range(2)]
    known = limits.median(moments)
    assert [size for size, _ in known["read_gbs"]] == sizes
    first, second = (moment["fma_f32_gflops"] for moment in moments)
    assert known["fma_f32_gflops"] == pytest.approx((first + second) / 2) and known["gain"] == 1
    assert (limits.bound(shape, known, precision) or 1) > 0


def test_the_limits_refuse_blocks_that_they_cannot_read() -> None:
    from recurra import _core

    for size in (7, 131073):
        with pytest.raises(ValueError, match=rf"sizes_kib: expected 8 to 131072, got {size}"):
            _core.limits(1, [16, size])


def test_scaling_is_of_shapes_with_long_steps_timed_both_ways() -> None:
    def timed(line: str, threads: int, microseconds: float, bound: float) -> Any:
        timing = results.summarise([np.full(10, microseconds)], 0.0)
        return results.Result(shape_of(line), threads, "float32", bound, {"recurra": timing})

    short, long, longer = (f"cell=LSTM T=10 B=1 H={hidden}" for hidden in (32, 64, 128))
    rows = [timed(short, 1, 50, 40), timed(short, 2, 500, 40), timed(long, 1, 60, 50), timed(long, 2, 40, 25)]
    rows += [timed(longer, 1, 600, 500), timed(longer, 2, 600, 250), timed("cell=RNN T=10 B=1 H=8", 2, 99, 9)]
    run_ = results.Run({}, {}, {}, {}, rows)
    least: list[tuple[str, float, float | None]] = [("LSTM T=10 B=1 H=I=128", 1.0, 2.0)]
    least.append(("LSTM T=10 B=1 H=I=64", 1.5, 2.0))
    assert results.scalings(run_) == [results.Scaling(2, 2, 1.25, 2.0, least)]
    quick = replace(run_, results=[*rows[:3], timed(long, 2, 31, 25)])
    assert results.scalings(quick) == [results.Scaling(2, 1, 60 / 31, 2.0, [])]
    assert results.scalings(results.Run({}, {}, {}, {}, rows[:1])) == []


def test_bound_counts_no_padding() -> None:
    shape = shape_of("cell=RNN T=29 B=128 H=256 lengths=vowels")
    assert limits.bound(shape, LIMITS) == pytest.approx(shape.row_lengths().sum() * 2 * 256 * 512 / 100e9)


def test_bound_is_unknown_without_a_measurement() -> None:
    assert limits.bound(shape_of(LINE), LIMITS, "int8") is None


def test_summary() -> None:
    samples = np.array([1.0] * 98 + [10.0, 100.0])
    summary = results.summarise(np.split(samples, 4), 0.5)
    assert (summary.median, summary.mean, summary.least, summary.samples) == (1.0, 2.08, 1.0, 100)
    assert summary.p99 == pytest.approx(np.percentile(samples, 99)) and summary.error == 0.5
    places = {summary.first_bin + k: count for k, count in enumerate(summary.counts) if count}
    assert places == {0: 98, results.BINS_A_DECADE: 1, 2 * results.BINS_A_DECADE: 1}


def test_the_spread_is_that_of_the_turns() -> None:
    turns = [np.array([level, level, 50.0]) for level in (1.0, 2.0, 3.0, 4.0, 5.0)]
    summary = results.summarise(turns, 0.0)
    assert (summary.low, summary.high) == (2.0, 4.0) and summary.samples == 15


def test_ratio_and_per_cent_of_the_limit() -> None:
    (result,) = made_run(4.0, torch=10.0, onnxruntime=6.0).results
    assert result.ratio == pytest.approx(1.5) and result.percent_of_limit == pytest.approx(75)
    (alone,) = made_run(4.0).results
    assert alone.ratio is None
    # Our own float32 beside our int8 is no peer.
    both = replace(result, timings={"recurra": timing(4.0), "recurra float32": timing(2.0), "torch": timing(8.0)})
    assert both.ratio == pytest.approx(2)
    assert results.mean_ratio([1.0, 4.0]) == pytest.approx(2)


def test_json_round_trip(tmp_path: Path) -> None:
    before = made_run(4.0, torch=10.0)
    before.save(tmp_path / "run.json")
    assert results.Run.load(tmp_path / "run.json") == before
    for text in ("{}", "[]", "no", json.dumps({"format": 0}), json.dumps({"format": 1, "results": [{"shape": "x"}]})):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=r"bad\.json: not a result"):
            results.Run.load(tmp_path / "bad.json")


def test_fastest_keeps_each_librarys_own_fastest() -> None:
    one = made_run(4.0, torch=10.0, onnxruntime=9.0)
    two = made_run(3.0, torch=12.0, openvino=5.0)
    (row,) = one.results
    second = replace(two.results[0], bound=2.0, unavailable={"onnxruntime": "only today"})
    extra = replace(row, threads=2)
    merged = results.fastest([replace(one, results=[row, extra]), replace(two, results=[second])])
    assert len(merged.results) == 2 and merged.results[1] == extra
    best = merged.results[0]
    assert {name: timing.median for name, timing in best.timings.items()} == {
        "recurra": 3.0,
        "torch": 10.0,
        "onnxruntime": 9.0,
        "openvino": 5.0,
    }
    assert best.bound == 2.0 and not best.unavailable and best.ratio == pytest.approx(5 / 3)
    assert set(merged.config["peers"]) == {"torch", "onnxruntime", "openvino"}
    assert results.fastest([one]).results == one.results


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("processor", {"machine": {"processor": "Q", "isa": "avx2", "commit": "abc"}}),
        ("commit", {"machine": {"processor": "P", "isa": "avx2", "commit": "def"}}),
        ("recurra", {"versions": {"recurra": "1"}}),
        ("precision", {"config": {"precision": "int8", "peers": [], "absent": []}}),
    ],
)
def test_runs_that_do_not_belong_together_are_not_merged(what: str, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"--load: expected runs of one {what}, got "):
        results.fastest([made_run(4.0), replace(made_run(4.0), **change)])


def test_a_contestant_that_computes_something_else_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(problem: Any) -> Any:
        return peers.Contestant(lambda: None, lambda _: np.ones_like(problem.x))

    def broken(problem: Any) -> Any:
        raise RuntimeError("no such kernel\nand more")

    made = {"torch": peers.Peer(wrong, ()), "openvino": peers.Peer(broken, ())}
    monkeypatch.setattr(run, "PEERS", made)
    result = run.measure(shape_of("cell=RNN T=3 B=2 H=4"), made, 0.01)
    assert list(result.timings) == ["recurra"] and result.ratio is None
    assert result.unavailable["torch"].startswith("computes something else: off by")
    assert result.unavailable["openvino"] == "RuntimeError: no such kernel"


@pytest.mark.parametrize("name", [name for name in peers.PEERS if name != "torch.compile"])  # which takes half a minute
@pytest.mark.parametrize(
    "line",
    [
        "cell=LSTM T=1 B=1 I=3 H=8 layers=2",
        "cell=GRU T=1 B=2 I=3 H=8",
        "cell=RNN T=5 B=2 I=3 H=8 layers=2 directions=2",
        "cell=GRU-before T=5 B=2 I=3 H=8",
        "cell=LSTM T=29 B=4 I=3 H=8 lengths=vowels directions=2",
        "cell=LSTM T=5 B=2 I=3 H=8 layers=2 pass=train",
        "cell=GRU T=29 B=4 I=3 H=8 lengths=vowels directions=2 pass=train",
        "cell=RNN T=1 B=1 I=3 H=8 pass=train",
    ],
)
def test_peers_compute_the_same(line: str, name: str) -> None:
    if name not in peers.installed():
        pytest.skip(f"the parity extra is not installed: no {' or '.join(peers.PEERS[name].packages)}")
    result = run.measure(shape_of(line), [name], 0.0)
    if name == "torch" and "GRU-before" in line:
        assert "resets before" in result.unavailable[name]
    elif name != "torch" and "pass=train" in line:
        assert result.unavailable[name] == "only infers"
    else:
        assert not result.unavailable and result.timings[name].error < 1e-5
