"""A pool for minutes, ``python -m recurra bench pool --soak MINUTES``: clients of every kind come and go; every frame's
output is accounted for, those of some clients compared with a stream alone, and memory is watched."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from queue import Full
from typing import Any

import numpy as np

import recurra

SAMPLES, CAPACITY, EACH, QUEUE = 160, 320, 100, 8  # EACH: clients of one of the three threads that play them
TICK = 0.01
KINDS = {"brisk": 0.7, "slow": 0.25, "stuck": 0.05}
LONGEST = 400  # frames of a client
PATIENCE = 2.0  # seconds that a server waits for a stuck client
GIVES_UP = 20.0  # seconds that a client waits for its last outputs
Array = np.ndarray[Any, np.dtype[Any]]
FRAMES = np.random.default_rng(0).standard_normal((4096, SAMPLES), dtype=np.float32)


class Client:
    """One that sends a number of frames, reads their outputs, and leaves; or stops reading."""

    def __init__(self, pool: recurra.StreamPool, random: np.random.Generator) -> None:
        self.pool, self.random, self.id = pool, random, pool.add()
        self.kind = str(random.choice(list(KINDS), p=list(KINDS.values())))
        self.first, self.frames = int(random.integers(len(FRAMES))), int(random.integers(LONGEST // 20, LONGEST))
        self.sampled = random.random() < 0.05
        self.sent = self.received = self.refused = 0
        self.outputs: list[Array] = []
        self.stuck_since: float | None = None
        self.heard = time.monotonic()

    def frame(self, number: Any) -> Array:
        """Of any number: nothing has to be kept to compare."""
        frames: Array = FRAMES[(self.first + number) % len(FRAMES)]
        return frames

    def act(self) -> bool:
        """Of one tick; whether it has left."""
        if self.sent < self.frames:
            burst = min(self.frames - self.sent, int(self.random.integers(1, 4)) if self.random.random() < 0.3 else 1)
            try:
                self.pool.push(self.id, self.frame(np.arange(self.sent, self.sent + burst)))
                self.sent += burst
            except Full:
                self.refused += 1
        if self.kind == "stuck" and self.sent > self.frames // 2:
            self.stuck_since = self.stuck_since or time.monotonic()
            if time.monotonic() - self.stuck_since > PATIENCE:
                self.pool.remove(self.id, drop=True)
                return True
            return False
        if self.kind == "slow" and self.random.random() < 0.9:
            return False
        outputs = self.pool.pull(self.id)
        self.received += len(outputs)
        if self.sampled:
            self.outputs.append(outputs)
        if len(outputs) or self.sent < self.frames:
            self.heard = time.monotonic()
        if self.received < self.frames and time.monotonic() - self.heard > GIVES_UP:
            self.pool.remove(self.id, drop=True)
            return True
        return self.received == self.frames

    def leave(self, layer: recurra.Recurrent) -> bool:
        """Whether a stream alone has the same bits."""
        state = self.pool.remove(self.id)
        if not self.sampled:
            return True
        stream = layer.stream()
        alone = stream.run(self.frame(np.arange(self.frames)))
        return bool(np.array_equal(alone, np.concatenate(self.outputs)) and np.array_equal(stream.state, state))


class Tally:
    """What all clients of a thread have seen."""

    def __init__(self) -> None:
        self.clients = self.sent = self.received = self.dropped = self.refused = self.compared = self.wrong = 0

    def add(self, client: Client, layer: recurra.Recurrent) -> None:
        """One that has left."""
        self.clients += 1
        self.sent += client.sent
        self.received += client.received
        self.refused += client.refused
        if client.stuck_since:
            self.dropped += client.sent - client.received
        elif client.received == client.frames:
            self.compared += client.sampled
            self.wrong += not client.leave(layer)


def play(pool: recurra.StreamPool, layer: recurra.Recurrent, tally: Tally, seed: int, end: float) -> None:
    """Clients until `end`; then those that there are finish."""
    random, clients = np.random.default_rng(seed), list[Client]()
    while clients or time.monotonic() < end:
        tick = time.monotonic()
        while tick < end and len(clients) < EACH and random.random() < 0.9:
            clients.append(Client(pool, random))
        left = [client for client in clients if client.act()]
        for client in left:
            tally.add(client, layer)
            clients.remove(client)
        time.sleep(max(0.0, TICK - (time.monotonic() - tick)))


def memory() -> float:
    """MB that this process holds; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return 0.0


def run(seconds: float) -> int:
    """Print what came out; returns 1 if a frame was lost, a bit was wrong or memory grew by a tenth."""
    layer = recurra.GRU(SAMPLES, 64, 2, seed=0)
    pool = recurra.StreamPool(layer, CAPACITY, queue=QUEUE, max_wait=2e-3)
    start = time.monotonic()
    tallies, running = [Tally() for _ in range(3)], threading.Event()
    running.set()

    def step() -> None:
        while running.is_set():
            pool.step(timeout=0.01)

    stepper = threading.Thread(target=step)
    players = [
        threading.Thread(target=play, args=(pool, layer, tally, seed, start + seconds))
        for seed, tally in enumerate(tallies)
    ]
    for thread in (stepper, *players):
        thread.start()
    held: list[float] = []
    while any(player.is_alive() for player in players):
        time.sleep(min(5.0, seconds / 20))
        held.append(memory())
    running.clear()
    stepper.join()
    total = {name: sum(getattr(tally, name) for tally in tallies) for name in vars(tallies[0])}
    lost = total["sent"] - total["received"] - total["dropped"]
    early, late = held[len(held) // 5], held[-1]
    print(
        f"{(time.monotonic() - start) / 60:.1f} minutes, {total['clients']:,} clients, {len(pool)} streams left\n"
        f"{total['sent']:,} frames pushed = {total['received']:,} outputs pulled + {total['dropped']:,} dropped with"
        f" stuck clients + {lost:,} lost; {total['refused']:,} pushes refused and made again\n"
        f"{total['compared']:,} clients compared with a stream alone, {total['wrong']:,} differ\n"
        f"memory {early:.1f} MB after a fifth of the time, {late:.1f} MB at the end, {max(held):.1f} MB at most"
    )
    return int(bool(lost or total["wrong"] or len(pool) or late > 1.1 * early))
