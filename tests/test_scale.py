"""Examples of more than one process: a pool behind websockets, Ray Data, DistributedDataParallel."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import assert_same_bits, run_python

import recurra

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Examples can be imported."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    for name in ("server", "bulk_inference"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("examples")
def test_clients_of_a_server_get_the_bits_of_streams_alone() -> None:
    pytest.importorskip("websockets", reason="no websockets")
    import server
    from websockets.asyncio.client import connect
    from websockets.asyncio.server import serve
    from websockets.exceptions import ConnectionClosed

    layer = recurra.GRU(server.SAMPLES, 64, 2, seed=0)
    frames = np.random.default_rng(0).standard_normal((5, 40, server.SAMPLES), dtype="float32")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]

    async def refused(message: Any) -> int | None:
        async with connect(f"ws://localhost:{port}") as connection:
            await connection.send(message)
            with pytest.raises(ConnectionClosed):
                await connection.recv()
            code: int | None = connection.close_code
            return code

    async def run() -> tuple[list[Any], list[int | None]]:
        serving = server.Server(layer, 5)
        try:
            async with serve(serving.connected, "localhost", port, compression=None):
                found = await asyncio.gather(*(server.client(port, each, 1e-4) for each in frames))
                wrong = [await refused(message) for message in (b"123", "text", b"1234")]
                while len(serving.pool):
                    await asyncio.sleep(0.01)
                return found, wrong
        finally:
            serving.close()

    found, wrong = asyncio.run(asyncio.wait_for(run(), 30))
    for (outputs, _), each in zip(found, frames, strict=True):
        assert_same_bits(outputs, layer.stream().run(each))
    assert wrong == [1003] * 3


@pytest.mark.usefixtures("examples")
def test_ray_maps_a_model_file_over_sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="no ray")
    import bulk_inference as bulk

    path = tmp_path / "classifier.safetensors"
    bulk.write_model(path)
    model, sequences = recurra.load(path), bulk.some_sequences(200)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")]))  # of workers
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        rows = bulk.predictions(ray.data.from_items(sequences), path, workers=2).take_all()
    finally:
        ray.shutdown()
    scores = {row["id"]: row["scores"] for row in rows}
    assert sorted(scores) == list(range(200))
    for each in sequences[::10]:
        assert_same_bits(np.asarray(scores[each["id"]]), model(each["sequence"]))


@pytest.mark.usefixtures("examples")
def test_a_batch_of_sequences_is_predicted_as_each_alone(tmp_path: Path) -> None:
    """Without Ray: what its workers do."""
    import bulk_inference as bulk

    path = tmp_path / "classifier.safetensors"
    bulk.write_model(path)
    threads = recurra.get_num_threads()
    try:
        predictor = bulk.Predictor(str(path))
    finally:
        recurra.set_num_threads(threads)
    sequences = [each["sequence"] for each in bulk.some_sequences(6)]
    made = predictor({"id": np.arange(6), "sequence": sequences})
    assert made["id"].tolist() == list(range(6))
    assert_same_bits(made["scores"], np.stack([predictor.model(each) for each in sequences]))


def test_processes_train_together() -> None:
    torch = pytest.importorskip("torch", reason="no torch")
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("torch has no gloo here")
    script = f"""
import runpy, sys
if __name__ == "__main__":
    sys.argv = ["distributed.py", "--processes", "2", "--seconds", "0.2"]
    sys.path.insert(0, {str(EXAMPLES)!r})
    import distributed
    distributed.main()
"""
    lines = run_python(script).splitlines()
    assert [line.split(":")[0] for line in lines] == ["2 processes"]
