"""A model file mapped over a data set of sequences with Ray Data: each worker loads the model once.

    pip install "ray[data]"
    python examples/bulk_inference.py --workers 1 2     # sequences a second with one worker, then with two

Sequences differ in length; a batch is padded, and no padded step is computed. A prediction does not depend on the batch
or the worker that made it, to the bit, so what failed can be run again, anywhere, and parts of runs can be compared.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import recurra

FEATURES, CLASSES, BATCH = 40, 9, 64


class Predictor:
    """Made once in every worker."""

    def __init__(self, path: str) -> None:
        recurra.set_num_threads(1)  # as many workers as cores do better than threads in them
        self.model = recurra.load(path)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """`sequence`, frames [T, F] of any T, becomes `scores` [CLASSES]."""
        sequences = batch.pop("sequence")
        lengths = [len(sequence) for sequence in sequences]
        x = np.zeros((max(lengths), len(lengths), FEATURES), np.float32)
        for row, sequence in enumerate(sequences):
            x[: len(sequence), row] = sequence
        return batch | {"scores": self.model(x, lengths=lengths)}


def write_model(path: Path) -> None:
    """Any model file does; this one classifies sequences."""
    layers = [recurra.GRU(FEATURES, 128, 2, seed=0), recurra.Pool("last"), recurra.Linear(128, CLASSES, seed=1)]
    recurra.Model(layers).save(path)


def some_sequences(count: int) -> list[dict[str, Any]]:
    """Of 50 to 400 frames, as utterances have them."""
    random = np.random.default_rng(0)
    lengths = random.integers(50, 400, count)
    return [
        {"id": number, "sequence": random.standard_normal((length, FEATURES), dtype=np.float32)}
        for number, length in enumerate(lengths.tolist())
    ]


def predictions(sequences: Any, path: Path, workers: int) -> Any:
    """The data set with scores, not computed yet."""
    import ray.data

    return sequences.map_batches(
        Predictor,
        fn_constructor_args=(str(path),),
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
    )


def main() -> None:
    """Print sequences a second for each number of workers."""
    parser = argparse.ArgumentParser(description="A model file over many sequences, with Ray Data.")
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    parser.add_argument("--sequences", type=int, default=4000)
    options = parser.parse_args()
    import ray
    import ray.data

    ray.init(num_cpus=max(options.workers), include_dashboard=False, log_to_driver=False)
    blocks = -(-options.sequences // BATCH)
    sequences = ray.data.from_items(some_sequences(options.sequences), override_num_blocks=blocks).materialize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "classifier.safetensors"
        write_model(path)
        for workers in options.workers:
            counts, times = [], []
            for batch in predictions(sequences, path, workers).iter_batches(batch_size=None):
                counts.append(len(batch["id"]))
                times.append(time.perf_counter())
            rate = sum(counts[1:]) / (times[-1] - times[0])  # from the first result on: without the start of workers
            print(f"{workers} workers: {sum(counts):,} sequences, {rate:,.0f} a second")
    ray.shutdown()


if __name__ == "__main__":
    main()
