"""Pools of streams on a GPU, or over its stand-in: the bits of streams alone on the CPU, whoever shares a step."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close, assert_same_bits
from cuda_arrays import DeviceArray, counted, require_gpu
from test_pool import NETWORKS, H, N, alone, some_frames

import recurra
from recurra import _core
from recurra.bench import pool as bench

require_gpu()

LAYERS = ("gru", "lstm", "slstm", "sru", "float64", "learned")


def drained(pool: recurra.StreamPool, stream: int) -> Array:
    while len(pool.step()):
        pass
    return pool.pull(stream)


@pytest.mark.parametrize("name", LAYERS)
def test_streams_that_come_and_go_have_the_bits_of_streams_alone(name: str) -> None:
    layer, rng = NETWORKS[name](), np.random.default_rng(0)
    pool = recurra.StreamPool(layer.to("cuda"), 5, queue=3)
    pushed: dict[int, list[Array]] = {}
    pulled: dict[int, list[Array]] = {}
    ended = 0
    while ended < 8:
        if len(pushed) < 5 and rng.random() < 0.5:
            stream = pool.add()
            pushed[stream], pulled[stream] = [], []
        for stream in pushed:
            room = 3 - sum(map(len, pushed[stream])) + sum(map(len, pulled[stream]))
            if rng.random() < 0.6 and room:
                frames = some_frames(layer, int(rng.integers(0, room + 1)), rng)
                pool.push(stream, frames)
                pushed[stream].append(frames)
        pool.step()
        for stream in pushed:
            pulled[stream].append(pool.pull(stream))
        for stream in [stream for stream in pushed if sum(map(len, pushed[stream])) > 6]:
            pulled[stream].append(drained(pool, stream))
            for other in set(pushed) - {stream}:
                pulled[other].append(pool.pull(other))
            assert_same_bits(
                (np.concatenate(pulled.pop(stream)), pool.remove(stream)),
                alone(layer, np.concatenate(pushed.pop(stream))),
            )
            ended += 1
    assert counted("errors", 0) == 0


@pytest.mark.parametrize("count", [1, 3, 33, 300])
def test_any_number_shares_a_step(count: int) -> None:
    layer = NETWORKS["lstm"]()
    last = f"cuda:{_core.cuda.device_count() - 1}"
    pool = recurra.StreamPool(layer.to(last), 310)
    ids = [pool.add() for _ in range(count)]
    frames = some_frames(layer, 2 * count, np.random.default_rng(count)).reshape(count, 2, N)
    outputs = []
    for step in range(2):
        pool.push(ids, np.ascontiguousarray(frames[:, step]))
        assert pool.step().tolist() == ids
        outputs.append(pool.pull(ids))
    assert_same_bits(np.stack(outputs, 1), layer.stream(count).run(frames))


def test_a_step_takes_at_most_4096() -> None:
    layer = recurra.RNN(2, 3, seed=0)
    pool = recurra.StreamPool(layer.to("cuda"), 4100, queue=1)
    ids = [pool.add() for _ in range(4100)]
    frames = np.random.default_rng(0).standard_normal((4100, 2), dtype="float32")
    pool.push(ids, frames)
    assert [len(pool.step()) for _ in range(3)] == [4096, 4, 0]
    assert_same_bits(pool.pull(ids), layer.stream(4100).step(frames))


@pytest.mark.parametrize("name", ["lstm", "learned"])
@pytest.mark.parametrize("there_first", [True, False])
def test_a_stream_moves_to_a_pool_on_the_cpu_and_back(name: str, there_first: bool) -> None:
    layer = NETWORKS[name]()
    frames = some_frames(layer, 8, np.random.default_rng(0))
    pools = [
        recurra.StreamPool(layer.to(device), 3) for device in (("cuda", "cpu") if there_first else ("cpu", "cuda"))
    ]
    pools[1].add()
    first = pools[0].add()
    pools[0].push(first, frames[:5])
    outputs = [drained(pools[0], first)]
    second = pools[1].add(pickle.loads(pickle.dumps(pools[0].remove(first))))
    pools[1].push(second, frames[5:])
    outputs.append(drained(pools[1], second))
    assert_same_bits((np.concatenate(outputs), pools[1].remove(second)), alone(layer, frames))


def test_two_threads_step() -> None:
    layer = recurra.LSTM(N, H, seed=0)
    pool = recurra.StreamPool(layer.to("cuda"), 6, queue=40, threads=2)
    frames = some_frames(layer, 6 * 40, np.random.default_rng(0)).reshape(6, 40, N)
    ids = [pool.add() for _ in frames]
    for stream, mine in zip(ids, frames, strict=True):
        pool.push(stream, mine)
    failures = []

    def step() -> None:
        try:
            while len(pool.step(timeout=0.1)):
                pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=step) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for stream, mine in zip(ids, frames, strict=True):
        assert_same_bits((pool.pull(stream), pool.remove(stream)), alone(layer, mine))


def test_a_step_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = recurra.GRU(N, H, seed=0)
    pool, frames = recurra.StreamPool(layer.to("cuda"), 1), some_frames(layer, 2, np.random.default_rng(0))
    stream = pool.add()
    pool.push(stream, frames)
    with monkeypatch.context() as patch:

        def broken(self: Any, *_: Any) -> None:
            raise RuntimeError("no")

        patch.setattr(pool._idle[0][0], "memory", type("Broken", (), {"read": broken, "write": broken})())
        with pytest.raises(RuntimeError, match="no"):
            pool.step()
    assert_same_bits((drained(pool, stream), pool.remove(stream)), alone(layer, frames))


def test_in_a_steady_state_nothing_is_allocated() -> None:
    pool = recurra.StreamPool(recurra.LSTM(N, H, 2, seed=0).to("cuda"), 9)
    ids = [pool.add() for _ in range(9)]
    frames, found = np.zeros((9, N), "float32"), []
    for _ in range(4):
        pool.push(ids, frames)
        pool.step()
        pool.pull(ids)
        pool.remove(ids.pop())
        ids.append(pool.add())
        found.append([counted(what) for what in ("allocations", "compilations", "live_graphs")])
    assert found[1:] == found[:1] * 3


def test_a_pool_keeps_its_parameters() -> None:
    layer, other = recurra.GRU(N, H, seed=0), recurra.GRU(N, H, seed=1)
    frames = some_frames(layer, 2, np.random.default_rng(0))
    there = layer.to("cuda")
    pool = recurra.StreamPool(there, 1)
    for _ in range(3):  # the third would have the memory of the first, were it free
        there.load_state_dict(other.state_dict())
    stream = pool.add()
    pool.push(stream, frames)
    assert_same_bits(drained(pool, stream), alone(layer, frames)[0])


def test_what_cannot_be_pooled_there_is_refused_by_name() -> None:
    for number in ("float16", "bfloat16"):
        with pytest.raises(ValueError, match=f"^model: expected float32 or float64 on a GPU, got {number}"):
            recurra.StreamPool(recurra.GRU(N, H).to("cuda", dtype=number), 2)
    with pytest.raises(ValueError, match=r"^model: .*bidirectional"):
        recurra.StreamPool(recurra.GRU(N, H, bidirectional=True).to("cuda"), 2)
    pool = recurra.StreamPool(recurra.LSTM(N, H).to("cuda"), 1)
    state = np.zeros((1, H), "float32")
    wrong: Any = (
        (state, TypeError, "^state: "),
        ((state, state.astype("float64")), TypeError, "^state c: expected float32, got float64"),
        ((state[:, 1:], state), ValueError, r"^state h: expected shape \[1, 17\], got \[1, 16\]"),
        ((DeviceArray.of(state), state), ValueError, "^state h: expected CPU memory, got cuda:0"),
    )
    for value, error, message in wrong:
        with pytest.raises(error, match=message):
            pool.add(value)
    stream = pool.add((state, state + 1))  # of which there was room for one
    for frames in (DeviceArray.of(np.zeros((1, N), "float32")), np.zeros((1, N))):
        with pytest.raises((TypeError, ValueError), match=r"^frames: expected"):
            pool.push(stream, frames)
    assert_same_bits(pool.remove(stream), (state, state + 1))


def test_rows_are_put_where_the_indices_say_and_nowhere_else() -> None:
    rng = np.random.default_rng(0)
    for dtype in ("float32", "float64"):
        table, rows = (rng.standard_normal((n, 150)).astype(dtype) for n in (7, 5))
        rows[0, :3] = -0.0, 1e-40, np.nan
        there = [DeviceArray.of(array) for array in (table, rows, np.array([4, -1, 0, 7, 6]))]
        where, given, indices = (array.pointer for array in there)
        _core.cuda.put_rows(dtype, 0, where, 7, 150, indices, True, 5, given, 0)
        table[[4, 0, 6]] = rows[[0, 2, 4]]
        assert_same_bits(there[0].to_host(), table)


def test_the_benchmark_has_it_where_there_is_a_gpu() -> None:
    assert bench.PoolOnGpu in list(bench.contestants())
    layer = recurra.GRU(160, 8, seed=0)
    contestant = bench.PoolOnGpu(layer, 3)
    frames = np.random.default_rng(0).standard_normal((3, 160), dtype="float32")
    contestant.offer(np.arange(3), frames)
    assert contestant.pool.step().tolist() == [0, 1, 2]
    assert_close(contestant.pool.pull([0, 1, 2]), layer.stream(3).step(frames), 1e-6)
    assert bench.on_one_thread(contestant, 3, 0.1).offered == 30
