"""Made-up runs of the benchmark, for its tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from recurra.bench import results, shapes

LINE = "cell=LSTM T=100 B=1 I=64 H=32"
LIMITS = {"fma_f32_gflops": 100.0, "fma_bf16_gflops": 200.0, "read_gbs": [[16, 200.0], [256, 100.0], [4096, 20.0]]}


def shape_of(line: str) -> Any:
    (shape,) = shapes.parse_line(line)
    return shape


def timing(median: float) -> Any:
    return results.summarise([np.full(10, median)] * 3, 0.0)


def made_run(ours: float, **others: float) -> Any:
    timings = {name: timing(median) for name, median in {"recurra": ours, **others}.items()}
    machine = {
        "processor": "P",
        "isa": "avx2",
        "cores": 2,
        "date": "2026-01-02 03:04+00:00",
        "commit": "abc",
        "load": 0.1,
    }
    config = {"precision": "float32", "peers": list(others), "absent": []}
    found = results.Result(shape_of(LINE), 1, "float32", 3.0, timings, {"openvino": "is away"})
    return results.Run(machine, {"recurra": "0"}, config, LIMITS, [found])
