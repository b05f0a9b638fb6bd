"""Training in several processes with PyTorch's DistributedDataParallel: layers of `recurra.torch` are torch modules.

    python examples/distributed.py --processes 1 2      # sequences a second with one process, then with two

Each process has its share of every batch, and gradients are averaged between backward and step. On several machines,
start it with torchrun, and leave out `spawn` and the file.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import recurra.torch

STEPS, BATCH, FEATURES, HIDDEN, CLASSES = 100, 64, 40, 128, 9


class Classifier(torch.nn.Module):
    """Of sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = recurra.torch.GRU(FEATURES, HIDDEN, 2)
        self.head = torch.nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[T, B, F] to [B, classes]."""
        scores: torch.Tensor = self.head(self.gru(x)[0][-1])
        return scores


def work(rank: int, processes: int, folder: str, seconds: float) -> None:
    """Of one process; the first writes how many sequences they train on a second, and its CPU time for each."""
    torch.set_num_threads(1)
    recurra.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=processes)
    torch.manual_seed(0)
    model = torch.nn.parallel.DistributedDataParallel(Classifier())
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    mine = BATCH // processes
    x, targets = torch.randn(STEPS, mine, FEATURES), torch.randint(CLASSES, (mine,))
    done, begin, cpu, going = 0, 0.0, 0.0, torch.ones(1)
    while going:
        loss: Any = torch.nn.functional.cross_entropy(model(x), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if not done:  # the first batch makes what others reuse
            begin, cpu = time.perf_counter(), time.process_time()
        done += 1
        going[0] = rank > 0 or time.perf_counter() - begin < seconds or done < 2
        torch.distributed.broadcast(going, 0)
    if rank == 0:
        own = (done - 1) * mine
        rate, cost = own * processes / (time.perf_counter() - begin), (time.process_time() - cpu) / own
        Path(folder, "found").write_text(f"{rate:,.0f} sequences a second, {cost * 1e6:,.0f} us of CPU time each")
    torch.distributed.destroy_process_group()


def measure(processes: int, seconds: float) -> str:
    """What the first of them writes."""
    with tempfile.TemporaryDirectory() as folder:
        processing: Any = torch.multiprocessing
        processing.spawn(work, (processes, folder, seconds), nprocs=processes)
        return Path(folder, "found").read_text()


def main() -> None:
    """Print sequences a second for each number of processes."""
    parser = argparse.ArgumentParser(description="Data-parallel training with recurra.torch.")
    parser.add_argument("--processes", type=int, nargs="+", default=[1])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each; default 5")
    options = parser.parse_args()
    for processes in options.processes:
        print(f"{processes} processes: {measure(processes, options.seconds)}")


if __name__ == "__main__":
    main()
