"""Pools of streams: the bits of streams alone, whoever comes, goes and shares a step; nothing lost; errors by name."""

from __future__ import annotations

import io
import math
import pickle
import threading
import tracemalloc
from collections.abc import Callable
from queue import Empty, Full
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_same_bits, run_python

import recurra

N, H = 6, 17  # sizes of frames and networks
CHAIN: Callable[[], list[Any]] = lambda: [  # noqa: E731
    recurra.Conv1d(N, 5, 3, dilation=2, causal=True, seed=0),
    "relu",
    recurra.GRU(5, H, 2, seed=1),
    recurra.LSTM(H, 9, seed=2),
    recurra.Linear(9, 4, seed=3),
]
NETWORKS: dict[str, Callable[[], Any]] = {
    "gru": lambda: recurra.GRU(N, H, 2, seed=0),
    "lstm": lambda: recurra.LSTM(N, H, 2, proj_size=7, seed=0, batch_first=True),
    "slstm": lambda: recurra.SLSTM(N, 16, heads=4, seed=0),
    "sru": lambda: recurra.SRU(N, H, seed=0),
    "float64": lambda: recurra.GRU(N, H, dtype="float64", seed=0),
    "int8": lambda: recurra.LSTM(N, H, seed=0).quantize("int8"),
    "learned": lambda: recurra.LSTM(N, H, initial_state=True, seed=0),
    "chain": lambda: recurra.Model(CHAIN()),
    "maximum": lambda: recurra.Model([recurra.GRU(N, H, seed=0), recurra.Pool("max")]),
    "image": lambda: recurra.Model(
        [recurra.Conv2d(2, 3, (3, 1), padding=((2, 0), 0), seed=0), recurra.Reshape([9]), recurra.GRU(9, H, seed=0)],
        inputs={"x": recurra.Value((2, 3))},
    ),
    "symbols": lambda: recurra.Model([recurra.Embedding(11, N, seed=0), recurra.GRU(N, H, seed=0)], batch_first=True),
}


def some_frames(network: Any, count: int, rng: np.random.Generator) -> Array:
    value = network.inputs["x"] if isinstance(network, recurra.Model) else recurra.Value((N,))
    if value.integer:
        return rng.integers(0, 11, count)
    return rng.standard_normal((count, *value.features)).astype(network.dtype)


def alone(network: Any, frames: Array) -> tuple[Array, Any]:
    """Outputs and final state of a stream that nobody shares."""
    stream = network.stream()
    outputs = [stream.step(int(frame) if frame.dtype.kind == "i" else frame) for frame in frames]
    return np.stack(outputs), stream.state


@pytest.mark.parametrize("name", NETWORKS)
def test_streams_that_come_and_go_have_the_bits_of_streams_alone(name: str) -> None:
    network, rng = NETWORKS[name](), np.random.default_rng(0)
    pool = recurra.StreamPool(network, 9, queue=3)
    pushed: dict[int, list[Array]] = {}
    pulled: dict[int, list[Array]] = {}
    ended = 0
    while ended < 25:
        if len(pushed) < 9 and rng.random() < 0.3:
            stream = pool.add()
            pushed[stream], pulled[stream] = [], []
        for stream in pushed:
            room = 3 - sum(map(len, pushed[stream])) + sum(map(len, pulled[stream]))
            if rng.random() < 0.6 and room:
                frames = some_frames(network, int(rng.integers(0, room + 1)), rng)
                pool.push(stream, frames)
                pushed[stream].append(frames)
        pool.step()
        for stream in pushed:
            if rng.random() < 0.5:
                pulled[stream].append(pool.pull(stream))
        done = [stream for stream in pushed if sum(map(len, pushed[stream])) > 12]
        for stream in done:
            while len(pool.step()):
                pass
            pulled[stream].append(pool.pull(stream))
            assert_same_bits(
                (np.concatenate(pulled.pop(stream)), pool.remove(stream)),
                alone(network, np.concatenate(pushed.pop(stream))),
            )
            ended += 1
    assert len(pool) == len(pushed)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 97, 255, 256, 257, 600])
def test_any_number_shares_a_step(count: int) -> None:
    network = NETWORKS["chain"]()
    pool = recurra.StreamPool(network, 700)
    ids = [pool.add() for _ in range(count)]
    frames = some_frames(network, 3 * count, np.random.default_rng(count)).reshape(3, count, N)
    outputs = []
    for frame in frames:
        pool.push(ids, frame)
        stepped = [pool.step() for _ in range(-(-count // 256))]
        assert [len(each) for each in stepped[:-1]] == [256] * (len(stepped) - 1) and not len(pool.step())
        assert np.concatenate(stepped).tolist() == ids
        outputs.append(pool.pull(ids))
    assert_same_bits(np.stack(outputs), network.stream(count).run(frames))


def test_threads_push_and_pull_while_two_step(restore_threads: None) -> None:
    recurra.set_num_threads(2)
    network = recurra.LSTM(N, H, seed=0)
    pool = recurra.StreamPool(network, 40, queue=4, max_wait=1e-3, threads=2)
    running, failures = threading.Event(), []
    running.set()

    def step() -> None:
        while running.is_set():
            pool.step(timeout=0.01)

    def client(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(3):
                stream, frames, sent = pool.add(), some_frames(network, 60, rng), 0
                parts: list[Array] = []
                while sum(map(len, parts)) < len(frames):
                    count = int(rng.integers(1, 4))
                    try:
                        pool.push(stream, frames[sent : sent + count])
                        sent += len(frames[sent : sent + count])
                    except Full:
                        pass
                    parts.append(pool.pull(stream))
                assert_same_bits((np.concatenate(parts), pool.remove(stream)), alone(network, frames))
        except BaseException as error:
            failures.append(error)

    steppers = [threading.Thread(target=step) for _ in range(2)]
    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(12)]
    for thread in (*steppers, *clients):
        thread.start()
    for thread in clients:
        thread.join()
    running.clear()
    for thread in steppers:
        thread.join()
    assert not failures and len(pool) == 0


def test_a_full_queue_refuses_and_loses_nothing() -> None:
    network, rng = recurra.GRU(N, H, seed=0), np.random.default_rng(0)
    pool, frames = recurra.StreamPool(network, 2, queue=3), some_frames(network, 7, rng)
    slow, other = pool.add(), pool.add()
    pool.push(slow, frames[:2])
    with pytest.raises(Full, match=f"frames: the queue of stream {slow} has no room for 2"):
        pool.push(slow, frames[2:4])
    pool.push(slow, frames[2])
    with pytest.raises(Full, match=f"frames: the queue of stream {slow} is full"):
        pool.push([other, slow], frames[:2])
    with pytest.raises(ValueError, match="frames: expected at most queue=3 at once, got 4"):
        pool.push(other, frames[:4])
    with pytest.raises(Full, match="add: expected at most 2 streams"):
        pool.add()
    assert pool.step().tolist() == [slow]
    with pytest.raises(Full):  # an output that nobody has pulled takes its place
        pool.push(slow, frames[3])
    with pytest.raises(Empty, match=f"pull: stream {other} has no output"):
        pool.pull([slow, other])
    parts = [pool.pull([slow])]
    pool.push(slow, frames[3])
    while len(pool.step()):
        pass
    parts.append(pool.pull(slow))
    assert not len(pool.pull(other)) and not len(pool.pull(slow))
    assert_same_bits((np.concatenate(parts), pool.remove(slow)), alone(network, frames[:4]))


@pytest.mark.parametrize("name", ["lstm", "learned", "chain", "maximum"])
def test_a_stream_moves_to_another_pool(name: str) -> None:
    network = NETWORKS[name]()
    frames = some_frames(network, 8, np.random.default_rng(0))
    outputs, final = alone(network, frames)
    pools = [recurra.StreamPool(network, 3) for _ in range(2)]
    pools[1].add()
    first = pools[0].add()
    pools[0].push(first, frames[:5])
    while len(pools[0].step()):
        pass
    parts = [pools[0].pull(first)]
    second = pools[1].add(pickle.loads(pickle.dumps(pools[0].remove(first))))
    pools[1].push(second, frames[5:])
    while len(pools[1].step()):
        pass
    parts.append(pools[1].pull(second))
    assert_same_bits((np.concatenate(parts), pools[1].remove(second)), (outputs, final))


def test_a_stream_moves_to_another_process_through_a_file(tmp_path: Any) -> None:
    network = recurra.LSTM(N, H, seed=0)
    frames = some_frames(network, 8, np.random.default_rng(0))
    pool = recurra.StreamPool(network, 1)
    stream = pool.add()
    pool.push(stream, frames[:5])
    while len(pool.step()):
        pass
    pool.pull(stream)
    h, c = pool.remove(stream)
    path = tmp_path / "state.npz"
    np.savez(path, h=h, c=c, frames=frames[5:])
    script = f"""
import sys, numpy as np, recurra
given = np.load(sys.argv[1])
pool = recurra.StreamPool(recurra.LSTM({N}, {H}, seed=0), 4)
stream = pool.add((given["h"], given["c"]))
pool.push(stream, given["frames"])
while len(pool.step()):
    pass
np.save(sys.argv[1] + ".npy", pool.pull(stream))
"""
    run_python(script, str(path))
    assert_same_bits(np.load(str(path) + ".npy"), alone(network, frames)[0][5:])


def test_a_state_that_a_stream_was_given_is_that_of_a_stream() -> None:
    network = NETWORKS["chain"]()
    stream = network.stream()
    stream.run(some_frames(network, 4, np.random.default_rng(0)))
    pool = recurra.StreamPool(network, 2)
    assert_same_bits(pool.remove(pool.add(stream.state)), stream.state)
    assert_same_bits(pool.remove(pool.add()), network.stream().state)  # nothing is left of the one before


def test_streams_take_turns() -> None:
    network = recurra.GRU(N, H, seed=0)
    pool = recurra.StreamPool(network, 300, queue=4)
    ids = [pool.add() for _ in range(300)]
    busy = ids[0]
    pool.push(busy, np.zeros((4, N), "float32"))
    pool.push(ids[1:], np.zeros((299, N), "float32"))
    assert pool.step().tolist() == ids[:256]
    assert pool.step().tolist() == [*ids[256:], busy]
    assert pool.step().tolist() == [busy]


def stepped_beside(pool: recurra.StreamPool, act: Callable[[], Any]) -> list[int]:
    """What a step that has to wait returns, once another thread has acted."""
    found: list[list[int]] = []
    thread = threading.Thread(target=lambda: found.append(pool.step(math.inf).tolist()))
    thread.start()
    act()
    thread.join()
    return found[0]


def test_a_step_waits_for_company_but_not_for_ever() -> None:
    network, frame = recurra.GRU(N, H, seed=0), np.zeros(N, "float32")
    pool = recurra.StreamPool(network, 3, max_wait=math.inf)
    first, second, third = (pool.add() for _ in range(3))

    def push(*ids: int) -> None:
        for stream in ids:
            pool.push(stream, frame)

    assert stepped_beside(pool, lambda: push(second, first, third)) == [second, first, third]
    push(third, first)
    pool.pull(second)
    assert sorted(stepped_beside(pool, lambda: pool.remove(second))) == [first, third]
    pool = recurra.StreamPool(network, 3, max_wait=1e-3)
    first, stuck = pool.add(), pool.add()
    pool.push(first, np.zeros((2, N), "float32"))
    assert [pool.step().tolist() for _ in range(3)] == [[first], [first], []]
    assert stuck != first


def test_ids_are_not_used_again() -> None:
    pool = recurra.StreamPool(recurra.GRU(N, H, seed=0), 2)
    old = pool.add()
    pool.push(old, np.zeros((3, N), "float32"))
    pool.step()
    with pytest.raises(
        ValueError, match="id: expected a stream with nothing under way, got 0 with 3 frames or outputs"
    ):
        pool.remove(old)
    pool.remove(old, drop=True)
    new = pool.add()
    for call in (pool.pull, pool.remove, lambda stream: pool.push(stream, np.zeros(N, "float32"))):
        for stream in (old, 7, -1):
            with pytest.raises(ValueError, match=r"id: expected"):
                call(stream)
    with pytest.raises(ValueError, match=r"id: expected those of streams of this pool, got 0"):
        pool.pull([new, old])
    with pytest.raises(ValueError, match=r"id: expected different streams, got 2 twice"):
        pool.push([new, new], np.zeros((2, N), "float32"))
    with pytest.raises(ValueError, match=r"frames: expected shape \[1, 6\], got \[2, 6\]"):
        pool.push([new], np.zeros((2, N), "float32"))
    assert new != old and not len(pool.step()) and len(pool) == 1
    assert_same_bits(pool.remove(new), np.zeros((1, H), "float32"))


def test_a_stream_whose_removal_fails_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU that has no memory left, or at Ctrl-C."""
    pool = recurra.StreamPool(recurra.GRU(N, H, seed=0), capacity=2)
    stream, frames = pool.add(), np.ones((2, N), "float32")
    pool.push(stream, frames)

    def fails(row: int) -> Any:
        raise MemoryError("state")

    with monkeypatch.context() as patch:
        patch.setattr(pool._states, "end", fails)
        with pytest.raises(MemoryError, match="state"):
            pool.remove(stream, drop=True)
    assert [list(pool.step()) for _ in range(3)] == [[stream], [stream], []]


def test_a_step_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    network = recurra.GRU(N, H, seed=0)
    pool, frames = recurra.StreamPool(network, 1), some_frames(network, 2, np.random.default_rng(0))
    stream = pool.add()
    pool.push(stream, frames)

    class Broken:
        def step(self, *_: Any) -> None:
            raise MemoryError("no")

    with monkeypatch.context() as patch:
        patch.setattr(pool._idle[0][0], "stream", Broken())
        with pytest.raises(MemoryError):
            pool.step()
    while len(pool.step()):
        pass
    assert_same_bits((pool.pull(stream), pool.remove(stream)), alone(network, frames))


def test_symbols_that_the_embedding_has_not_are_refused_when_pushed() -> None:
    pool = recurra.StreamPool(NETWORKS["symbols"](), 2)
    stream = pool.add()
    for wrong in (11, [3, -1], [11]):
        with pytest.raises(ValueError, match=r"frames: expected"):
            pool.push(stream, np.array(wrong) if isinstance(wrong, list) else wrong)
    pool.push(stream, 10)
    assert pool.step().tolist() == [stream]


def test_a_pool_keeps_its_parameters() -> None:
    network, other = recurra.GRU(N, H, seed=0), recurra.GRU(N, H, seed=1)
    frames = some_frames(network, 2, np.random.default_rng(0))
    wanted = alone(network, frames)[0]
    pool = recurra.StreamPool(network, 1)
    network.load_state_dict(other.state_dict())
    stream = pool.add()
    pool.push(stream, frames)
    while len(pool.step()):
        pass
    assert_same_bits(pool.pull(stream), wanted)


def test_what_cannot_be_pooled_is_refused_by_name() -> None:
    strided = recurra.Model([recurra.Conv1d(N, 4, 3, stride=2, causal=True), recurra.GRU(4, H)])
    two = recurra.Model([recurra.GRU(N, H), recurra.Linear(H, 2)], outputs=["recurrent0", "linear0"])
    constant = recurra.Model([recurra.Linear(N, 2)], inputs={"x": recurra.Value((N,), time=False)})
    full = recurra.DifferentialRNN(N, H, diagonal=False, seed=0)
    cases: Any = (
        (recurra.GRU(N, H, bidirectional=True), ValueError, "^model: .*bidirectional"),
        (recurra.GRU(N, H, direction="reverse"), ValueError, "^model: .*reverse"),
        (recurra.Model([recurra.GRU(N, H), recurra.Reverse()]), ValueError, "^model: .*reverse0"),
        (strided, ValueError, "^model: conv1d0:position: a stride over time"),
        (two, ValueError, r"^model: expected one input and one output, got \['x'\] and \['recurrent0', 'linear0'\]"),
        (constant, ValueError, "^model: expected an input that is a sequence, got 'x'"),
        (full, ValueError, "^model: "),
        (recurra.Linear(N, H), TypeError, "^model: expected a recurra.Model or a recurrent layer, got Linear"),
    )
    for network, error, message in cases:
        with pytest.raises(error, match=message):
            recurra.StreamPool(network, 2)
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        pickle.dump(recurra.StreamPool(recurra.GRU(N, H), 2), io.BytesIO())


def test_in_a_steady_state_nothing_of_the_size_of_frames_or_states_is_allocated() -> None:
    network = recurra.LSTM(64, 64, 2, seed=0)
    pool = recurra.StreamPool(network, 256)
    ids = np.array([pool.add() for _ in range(256)])
    frames = np.zeros((256, 64), "float32")
    for _ in range(2):
        pool.push(ids, frames)
        pool.step()
        pool.pull(ids)
    tracemalloc.start()
    try:
        for _ in range(4):
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            pool.push(ids, frames)
            pool.step()
            assert tracemalloc.get_traced_memory()[1] - before < frames.nbytes // 3  # some indices of 2 KB
            pool.pull(ids)
    finally:
        tracemalloc.stop()
