"""A pool behind a websocket server: every connection is a stream, and one thread steps them all.

    pip install websockets
    python examples/server.py                   # serve ws://localhost:8765
    python examples/server.py --load 200        # and play 200 clients from another process, 5 seconds

A client sends binary messages of float32 frames, [n, 160], and gets back their outputs, [n, 64], in order and as they
are made, perhaps in several messages. Who sends faster than the pool steps, or does not read, finds that its connection
takes no more: the queue of its stream is full, so the server stops reading from it, and TCP does the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import multiprocessing.process
import threading
import time
from queue import Full
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

import recurra

Array = NDArray[Any]
SAMPLES = 160  # 10 ms at 16 kHz


def floats(message: str | bytes) -> Array:
    """Of a binary message."""
    if isinstance(message, str):
        raise TypeError("expected bytes, got text")
    return np.frombuffer(message, np.float32)


class Server:
    """Streams of one layer or model."""

    def __init__(self, model: recurra.Recurrent | recurra.Model, capacity: int) -> None:
        self.pool = recurra.StreamPool(model, capacity, queue=16, max_wait=1e-3)
        self.stepped: dict[int, asyncio.Event] = {}  # by stream: there is something to pull
        self.loop = asyncio.get_running_loop()
        self.running = True
        self.thread = threading.Thread(target=self.step)
        self.thread.start()

    def step(self) -> None:
        """Of the thread that does nothing else."""
        while self.running:
            ids = self.pool.step(timeout=0.1)
            if len(ids):
                self.loop.call_soon_threadsafe(self.tell, ids.tolist())

    def tell(self, ids: list[int]) -> None:
        """Wake the connections of these streams."""
        for stream in ids:
            if stream in self.stepped:
                self.stepped[stream].set()

    async def connected(self, connection: ServerConnection) -> None:
        """One client, until it leaves."""
        try:
            stream = self.pool.add()
        except Full as error:
            await connection.close(1013, str(error))  # try again later
            return
        self.stepped[stream] = asyncio.Event()
        room = asyncio.Event()
        writer = asyncio.create_task(self.write(connection, stream, room))
        try:
            async for message in connection:
                for frame in floats(message).reshape(-1, SAMPLES):
                    while True:
                        room.clear()
                        try:
                            self.pool.push(stream, frame)
                            break
                        except Full:
                            await room.wait()
        except (TypeError, ValueError) as error:  # text, or half a frame
            await connection.close(1003, f"expected float32 [n, {SAMPLES}]: {error}"[:120])
        finally:
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer
            del self.stepped[stream]
            self.pool.remove(stream, drop=True)  # or keep the state that this returns, for when the client is back

    async def write(self, connection: ServerConnection, stream: int, room: asyncio.Event) -> None:
        """Outputs as they are made; waits while the client does not read."""
        while True:
            await self.stepped[stream].wait()
            self.stepped[stream].clear()
            outputs = self.pool.pull(stream)
            room.set()
            if len(outputs):
                await connection.send(outputs.tobytes())

    def close(self) -> None:
        """Ends the thread."""
        self.running = False
        self.thread.join()


async def run(port: int, capacity: int, forever: bool = True) -> None:
    """Serve, until interrupted or, not `forever`, until nobody has been there for a second."""
    server = Server(recurra.GRU(SAMPLES, 64, 2, seed=0), capacity)
    try:
        async with serve(server.connected, "localhost", port, compression=None):
            idle = 0
            while forever or idle < 10:
                await asyncio.sleep(0.1)
                idle = 0 if len(server.pool) else idle + 1
    finally:
        server.close()


async def client(port: int, frames: Array, pace: float) -> tuple[Array, Array]:
    """Outputs of these frames, sent one every `pace` seconds, and the seconds from each frame to its output."""
    sent: list[float] = []
    received: list[float] = []
    outputs: list[Array] = []

    async with connect(f"ws://localhost:{port}", compression=None) as connection:

        async def read() -> None:
            while len(received) < len(frames):
                made = floats(await connection.recv()).reshape(-1, 64)
                outputs.append(made)
                received.extend([time.perf_counter()] * len(made))

        reader = asyncio.create_task(read())
        start = time.perf_counter()
        for number, frame in enumerate(frames):
            await asyncio.sleep(max(0.0, start + number * pace - time.perf_counter()))
            sent.append(time.perf_counter())
            await connection.send(frame.tobytes())
        await reader
    return np.concatenate(outputs), np.array(received) - np.array(sent)


async def load(port: int, clients: int, seconds: float) -> None:
    """Print latencies of this many clients of 100 frames a second."""
    random = np.random.default_rng(0)
    frames = random.standard_normal((clients, max(1, int(100 * seconds)), SAMPLES), dtype=np.float32)

    async def late(each: Array) -> tuple[Array, Array]:
        await asyncio.sleep(random.random() * 0.5)  # they do not come all at once
        return await client(port, each, 0.01)

    start = time.perf_counter()
    found = await asyncio.gather(*map(late, frames))
    took = time.perf_counter() - start
    same = np.array_equal(found[0][0], recurra.GRU(SAMPLES, 64, 2, seed=0).stream().run(frames[0]))
    latencies = np.concatenate([latency for _, latency in found]) * 1e3
    p50, p99 = np.quantile(latencies, [0.5, 0.99])
    print(f"{clients} clients, {len(latencies):,} frames in {took:.1f} s, all answered")
    print(f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, the longest {latencies.max():.1f} ms")
    print(f"the first client's bits are{'' if same else ' not'} those of a stream alone")


def in_background(port: int, capacity: int) -> multiprocessing.process.BaseProcess:
    """A server in a process of its own, which ends when all clients have gone."""
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(port, capacity))
    process.start()
    return process


def _serve(port: int, capacity: int) -> None:
    asyncio.run(run(port, capacity, forever=False))


async def reachable(port: int) -> None:
    """Wait until somebody serves there."""
    while True:
        try:
            _, writer = await asyncio.open_connection("localhost", port)
            writer.close()
            return
        except OSError:
            await asyncio.sleep(0.05)


async def _play(port: int, clients: int, seconds: float) -> None:
    await reachable(port)
    await load(port, clients, seconds)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="A pool of streams behind websockets.")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--capacity", type=int, default=1000, help="most clients at once; default 1000")
    parser.add_argument("--load", type=int, metavar="CLIENTS", help="play so many clients against it, and end")
    parser.add_argument("--seconds", type=float, default=5.0, help="of the load; default 5")
    options = parser.parse_args()
    if not options.load:
        asyncio.run(run(options.port, options.capacity))
        return
    server = in_background(options.port, max(options.capacity, options.load))
    try:
        asyncio.run(_play(options.port, options.load, options.seconds))
    finally:
        server.join(10)
        server.kill()


if __name__ == "__main__":
    main()
