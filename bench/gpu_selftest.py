"""Part 1 of `gpu.py`: random networks on the GPU beside the CPU, engine "exact" to the bit."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from recurra import _core
from recurra._cells import CELLS
from recurra.cuda import _libraries, kernels, selftest
from recurra.cuda.selftest import Case

from .gpu_task import Task

KEPT = 20  # failures


def random_case(draw: random.Random, small: bool) -> Case:
    """Any cell, sizes around the edges of tiles, every option."""
    cell = draw.choice(list(CELLS))
    spec = CELLS[cell]
    hidden = draw.choice((2, 3, 5, 17, 33) if small else (2, 5, 16, 31, 64, 65, 128, 130, 257))
    layers = draw.choice((1, 1, 2, 3))
    steps = draw.choice((0, 1, 2, 5, 9) if small else (0, 1, 2, 9, 33))
    rows = draw.choice((0, 1, 2, 5) if small else (0, 1, 3, 8, 64, 70))
    dtype = draw.choice(("float32", "float32", "float64", "float16", "bfloat16"))
    exact = dtype in ("float32", "float64") and draw.random() < 0.7
    has_resident = exact or dtype in ("float16", "bfloat16")
    resident = has_resident and hidden <= 65 and draw.random() < 0.4
    training = draw.random() < 0.7
    lengths = tuple(draw.randint(0, steps) for _ in range(rows)) if draw.random() < 0.5 else None
    clipped = draw.random() < 0.3 and any(name == "cell_clip" for name, _ in spec.constants)
    return Case(
        cell,
        dtype,
        ("exact" if exact else "cublas") + ("-resident" if resident else ""),
        steps,
        rows,
        draw.choice((1, 2, 7, 40)),
        hidden,
        draw.randint(1, hidden - 1) if spec.projected else 0,
        layers,
        draw.random() < 0.4,
        draw.random() < 0.8,
        {"cell_clip": 0.3} if clipped else None,
        (
            draw.choice((0.0, 0.5)) * (layers > 1),
            draw.choice((0.0, 0.0, 0.3)) * spec.recurrent_product,
            draw.choice((0.0, 0.0, 0.2)),
        ),
        lengths,
        lengths is not None and draw.random() < 0.4,
        training,
        training and draw.random() < 0.4,
        7 if training and draw.random() < 0.5 else None,
    )


def cases(small: bool, seed: int = 0) -> Iterator[Case]:
    """First every cell, as `python -m recurra cuda` has it, then random ones without end."""
    draw = random.Random(seed)
    yield from selftest.cases()
    if not small:  # more input products than are in memory at a time: all steps are two launches
        yield Case("lstm", "float32", "exact-resident", 1100, 64, 8, 64, bidirectional=True)
        # By clusters of blocks where a GPU has them, and by grids, of which the last come group after group.
        for cell, rows, hidden in (("lstm", 3, 257), ("lstm", 90, 200), ("gru_reset_before", 5, 201), ("gru", 40, 600)):
            yield Case(cell, "float32", "exact-resident", 300, rows, 8, hidden, bidirectional=True)
        for cell, rows, hidden in (
            ("lstm", 3, 512),
            ("lstm", 90, 257),
            ("gru_reset_before", 9, 400),
            ("lstm", 70, 1024),
        ):
            yield Case(cell, "bfloat16", "cublas-resident", 100, rows, 8, hidden, bidirectional=True)
        # Layers of a stack that overlap, from the second call on: by blocks, clusters and grids.
        for cell, dtype, hidden in (("gru", "float32", 64), ("lstm", "float32", 200), ("lstm", "bfloat16", 768)):
            engine = "exact-resident" if dtype == "float32" else "cublas-resident"
            yield Case(cell, dtype, engine, 400, 4, 8, hidden, layers=3)
    yield from (random_case(draw, small) for _ in itertools.count())


def run(task: Task) -> dict[str, Any]:
    """Compile everything, then check cases until the time is over."""
    _libraries.locate()
    small = "stand-in" in _core.cuda.device(0)["name"]
    start = time.monotonic()
    wanted = kernels.units()
    had = sum(kernels.compiled(wanted, 0))
    found: dict[str, Any] = {
        "units": len(wanted),
        "compiled": len(wanted) - had,
        "compile_seconds": round(time.monotonic() - start, 1),
        "calls": 0,
        "by": {},
        "worst": {},
        "failures": [],
    }
    task.write(found)
    by: Counter[str] = Counter()
    capability = tuple(_core.cuda.device(0)["capability"])
    for number, case in enumerate(case for case in cases(small) if selftest.runs_on(case, capability)):
        if task.left < 0 or (task.quick and number >= 80):
            break
        kind = f"{case.engine} {case.dtype}"
        try:
            compared = selftest.compare(case, data_seed=number)
            wrong = [f"{case}: {one}" for one in compared if one.wrong]
            if case.engine.startswith("cublas"):
                worst = max((one.error for one in compared), default=0.0)
                found["worst"][kind] = max(worst, found["worst"].get(kind, 0.0))
        except (RuntimeError, MemoryError) as error:
            wrong = [f"{case}: {error}"]
        by[kind] += 1
        found |= {"calls": number + 1, "by": dict(by)}
        found["failures"] = (found["failures"] + wrong)[:KEPT]
        if wrong or number % 20 == 0:
            task.write(found)
    task.write(found)
    return found
