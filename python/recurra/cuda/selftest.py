"""The GPU's results beside the CPU's: of engines "exact..." the same bits, of "cublas..." nearly the same numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core
from .._arrays import unwrapped, wrapped
from .._cells import CELLS
from ..recurrent import Recurrent
from .buffers import Buffer, rounded

if TYPE_CHECKING:
    from .._arrays import Array

# Of ||gpu - cpu|| / ||cpu|| on engines "cublas...". In 16 bits the CPU computes with weights, x and gradients that are
# rounded as the GPU's are, so what is left is the rounding of h in every step.
TOLERANCES = {"float32": 1e-5, "float64": 1e-13, "float16": 1e-2, "bfloat16": 8e-2}
# Gradients of parameters where lengths are in device memory: the rows that do not run are zeros in the sums.
REORDERED = {"float32": 1e-5, "float64": 1e-13}


class Case(NamedTuple):
    """One call of a network, and backward if it is for training.

    Attributes:
        lengths: steps of each row; None for all.
        device_lengths: whether they are given in device memory.
        seed: of what is left out at random in training; None: nothing is.
    """

    cell: str
    dtype: str
    engine: str
    steps: int
    rows: int
    input_size: int
    hidden_size: int
    proj_size: int = 0
    layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    constants: dict[str, float] | None = None
    rates: tuple[float, float, float] = (0.0, 0.0, 0.0)  # dropout, recurrent dropout, zoneout
    lengths: tuple[int, ...] | None = None
    device_lengths: bool = False
    training: bool = True
    recompute: bool = False
    seed: int | None = None

    def __str__(self) -> str:
        """What differs from the defaults."""
        more = [
            f"{name}={value}"
            for name, value in list(self._asdict().items())[7:]
            if value != Case._field_defaults[name] and name != "lengths"
        ]
        more += ["lengths"] * (self.lengths is not None)
        sizes = f"T={self.steps} B={self.rows} I={self.input_size} H={self.hidden_size}"
        return " ".join([self.cell, self.dtype, self.engine, sizes, *more])


class Compared(NamedTuple):
    """A result beside the CPU's: whether all bits are equal; ||gpu - cpu|| / ||cpu||, and the most that is allowed,
    where 0 asks for the same bits."""

    result: str
    same_bits: bool
    error: float
    allowed: float

    @property
    def wrong(self) -> bool:
        """NaN is wrong too."""
        return not (self.error <= self.allowed if self.allowed else self.same_bits)

    def __str__(self) -> str:
        allowed = f"allowed {self.allowed:.0e}" if self.allowed else "expected the same bits"
        return f"{self.result} differs by {self.error:.1e}, {allowed}"


def compare(case: Case, device: int = 0, data_seed: int = 0) -> list[Compared]:
    """Run a case on both devices."""
    random = np.random.default_rng(data_seed)
    layer = _layer(case, data_seed)
    shapes = list(layer._packed.state_shapes((case.rows,)).values())
    outputs = (1 + case.bidirectional) * (case.proj_size or case.hidden_size)

    def drawn(*shape: int) -> Array:
        return rounded(random.standard_normal(shape).astype(layer.dtype), case.dtype)

    x, initial = drawn(case.steps, case.rows, case.input_size), [drawn(*shape) for shape in shapes]
    if CELLS[case.cell].has_heads:  # an sLSTM, whose n divides: near zero it would make any rounding large
        initial[2] = rounded(np.abs(initial[2]) + 1, case.dtype)
    dy, d_final = drawn(case.steps, case.rows, outputs), [drawn(*shape) for shape in shapes]
    gpu = _on_gpu(case, layer, x, initial, dy, d_final, device)
    cpu = _on_cpu(case, layer, x, initial, dy, d_final)
    assert gpu.keys() == cpu.keys()
    return [
        Compared(name, same_bits(gpu[name], cpu[name]), difference(gpu[name], cpu[name]), _allowed(case, name))
        for name in cpu
    ]


def difference(one: Array, other: Array) -> float:
    """||one - other|| / ||other||, where both are equal 0."""
    distance = float(np.linalg.norm(one.astype("float64") - other))
    return distance / max(float(np.linalg.norm(other)), 1e-30) if distance else 0.0


def same_bits(one: Array, other: Array) -> bool:
    """Whether all bits of two arrays are equal."""
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _allowed(case: Case, result: str) -> float:
    if case.engine.startswith("exact"):
        return REORDERED[case.dtype] if case.device_lengths and result.startswith(("d weight", "d bias")) else 0.0
    return TOLERANCES[case.dtype]


def _layer(case: Case, seed: int) -> Recurrent:
    dropout, recurrent_dropout, zoneout = case.rates
    layer = Recurrent(
        case.cell,
        case.input_size,
        case.hidden_size,
        case.layers,
        case.bias,
        dropout=dropout,
        bidirectional=case.bidirectional,
        proj_size=case.proj_size,
        constants=case.constants,
        recurrent_dropout=recurrent_dropout,
        zoneout=zoneout,
        dtype="float64" if case.dtype == "float64" else "float32",
        seed=seed,
    )
    if case.dtype in ("float16", "bfloat16"):
        matrices = ("weight_ih", "weight_hh", "weight_hr")
        layer.load_state_dict(
            {
                name: rounded(array, case.dtype) if name.startswith(matrices) else array
                for name, array in layer.state_dict().items()
            }
        )
    return layer


def _on_gpu(
    case: Case, layer: Recurrent, x: Array, initial: list[Array], dy: Array, d_final: list[Array], device: int
) -> dict[str, Array]:
    def sent(array: Array) -> Buffer:
        return Buffer.of(array, case.dtype, device)

    there: Any = layer.to(f"cuda:{device}", dtype=case.dtype, engine=case.engine)
    given, start = sent(x), unwrapped([sent(state) for state in initial])
    d_given, d_end = sent(dy), unwrapped([sent(state) for state in d_final])
    lengths: Any = case.lengths
    if case.device_lengths:
        lengths = Buffer.of(np.array(lengths, "int32"), device=device)
    for _ in range(3):  # a call may be captured the second time and replayed the third
        if case.training:
            y, final, tape = there.forward(given, start, lengths=lengths, rng=case.seed, recompute=case.recompute)
            gradients = tape.backward(d_given, d_end)
        else:
            y, final = there(given, start, lengths=lengths)
    found = {"y": y} | _states("final state", final)
    if case.training:
        found |= {"d x": gradients.x} | _states("d initial state", gradients.state)
        found |= {f"d {name}": array for name, array in gradients.params.items()}
    return {name: buffer.to_host() for name, buffer in found.items()}


def _on_cpu(
    case: Case, layer: Recurrent, x: Array, initial: list[Array], dy: Array, d_final: list[Array]
) -> dict[str, Array]:
    state = unwrapped(initial)
    if not case.training:
        y, final = layer(x, state, lengths=case.lengths)
        return {"y": y} | _states("final state", final)
    y, final, tape = layer.forward(x, state, lengths=case.lengths, rng=case.seed, recompute=case.recompute)
    gradients = tape.backward(dy, unwrapped(d_final))
    found = {"y": y} | _states("final state", final) | {"d x": gradients.x}
    found |= _states("d initial state", gradients.state)
    return found | {f"d {name}": array for name, array in gradients.params.items()}


def _states(title: str, state: Any) -> dict[str, Any]:
    return {f"{title} {i}": array for i, array in enumerate(wrapped(state))}


# ---- what the command tries


def cases(cells: tuple[str, ...] = tuple(CELLS)) -> Iterator[Case]:
    """Every cell on both engines in float32, the others' number types on some; lengths, stacks, both directions."""
    lengths = (7, 3, 0, 5, 1)
    for cell in cells:
        proj = 9 if CELLS[cell].projected else 0
        shape: dict[str, Any] = {
            "steps": 7,
            "rows": 5,
            "input_size": 6,
            "hidden_size": 17,
            "proj_size": proj,
            "lengths": lengths,
        }
        yield Case(cell, "float32", "exact", **shape)
        yield Case(cell, "float32", "cublas", **shape, layers=2, bidirectional=True)
    for cell in [name for name in ("lstm", "gru", "lstm_projected") if name in cells]:
        proj = 40 if CELLS[cell].projected else 0
        for dtype, engine in (
            ("float64", "exact"),
            ("float64", "cublas"),
            ("float16", "cublas"),
            ("bfloat16", "cublas"),
        ):
            yield Case(cell, dtype, engine, 5, 70, 33, 70, proj, bidirectional=True, recompute=engine == "exact")
        dtype, some = "float16" if cell == "gru" else "bfloat16", (4, 0, 3) * 3 + (2, 4)
        yield Case(cell, dtype, "cublas-resident", 4, 11, 9, 70, proj, bidirectional=True, lengths=some)
        for dtype, hidden in (("float32", 100), ("float64", 50)):  # more weights than registers hold
            yield Case(cell, dtype, "exact-resident", 4, 3, 3, hidden, proj, bidirectional=True, lengths=(4, 0, 3))
        rates = (0.3, 0.2, 0.1)
        yield Case(cell, "float32", "exact-resident", 3, 140, 3, 10, proj and 9, rates=rates, seed=3)
        yield Case(cell, "float32", "exact", 9, 4, 3, 65, proj, layers=2, rates=rates, seed=3)
        yield Case(cell, "float32", "exact", 9, 5, 3, 64, proj, lengths=(9, 0, 4, 9, 2), device_lengths=True)


def runs_on(case: Case, capability: tuple[int, int]) -> bool:
    """Whether a GPU of this compute capability has what a case asks for: tensor cores for bfloat16 too."""
    return case.engine != "cublas-resident" or capability >= (8, 0)


class Outcome(NamedTuple):
    """What a self-test found; `failures` are lines to print."""

    calls: int
    left_out: int
    failures: list[str]


def run(
    tests: list[Case],
    seconds: float,
    device: int = 0,
    progress: Callable[[int, Case], None] = lambda number, case: None,
    seed: int = 0,
) -> Outcome:
    """Check cases that the GPU has the means for, until the time is over."""
    capability = tuple(_core.cuda.device(device)["capability"])
    tests = [case for case in tests if runs_on(case, capability)]
    end = time.monotonic() + seconds
    failures: list[str] = []
    for number, case in enumerate(tests):
        if time.monotonic() > end:
            return Outcome(number, len(tests) - number, failures)
        progress(number, case)
        try:
            failures += [f"{case}: {one}" for one in compare(case, device, seed + number) if one.wrong]
        except RuntimeError as error:  # what the driver or a compiler says
            failures.append(f"{case}: {error}")
    return Outcome(len(tests), 0, failures)
