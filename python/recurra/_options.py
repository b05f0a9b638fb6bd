"""Plain arguments: numbers, flags and choices, each checked with an error that names it."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Set
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    Seed: TypeAlias = int | Sequence[int] | np.random.SeedSequence | np.random.BitGenerator | np.random.Generator | None

T = TypeVar("T")

FLOAT_DTYPES = {np.dtype(name): name for name in ("float32", "float64")}


def shown(value: Any) -> str:
    """`value` as errors show it: its beginning, if it is long."""
    try:
        text = repr(value)
    except Exception:  # whatever the caller's __repr__ raises, and Python's for an integer of thousands of digits
        return f"{'an' if isinstance(value, int) else 'a'} {type(value).__name__} that cannot be shown"
    return text if len(text) <= 100 else f"{text[:100]}..."


def integer(name: str, value: Any, minimum: int = 1) -> int:
    """`value` as an int of at least `minimum`; booleans and floats are refused."""
    try:
        number = None if isinstance(value, (bool, np.ndarray)) else operator.index(value)
    except Exception:  # whatever the caller's __index__ raises
        number = None
    if number is None:
        raise TypeError(f"{name}: expected an integer, got {shown(value)}")
    if number < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {shown(number)}")
    return number


def real(name: str, value: Any) -> float:
    """`value`, an int or float but not NaN, as a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected a number that float64 holds, got {shown(value)}") from None
    if math.isnan(number):
        raise ValueError(f"{name}: expected a number, got NaN")
    return number


def chance(name: str, value: Any) -> float:
    """`value` as a float in 0..1."""
    number = real(name, value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name}: expected a number in 0..1, got {shown(value)}")
    return number


def bound(name: str, value: Any, dtype: Any = "float64") -> float:
    """`value` as a positive float, and neither zero nor, unless it is so already, infinite in `dtype`."""
    number, limits = real(name, value), np.finfo(dtype)
    if number <= 0:
        raise ValueError(f"{name}: expected a positive number, got {shown(value)}")
    if not (float(limits.tiny) <= number <= float(limits.max) or math.isinf(number)):  # below, numbers count as zero
        raise ValueError(f"{name}: expected a normal number of {np.dtype(dtype)} or infinity, got {shown(value)}")
    return number


def flag(name: str, value: Any) -> bool:
    """`value` as a bool; anything else is refused, so that a misplaced positional argument is noticed."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {shown(value)}")
    return bool(value)


def choice(name: str, value: Any, choices: Mapping[Any, T]) -> T:
    """What `choices` holds for `value`, of the same type: 1 and 1.0 are not True."""
    wanted = bool(value) if isinstance(value, np.bool_) else value
    for key, chosen in choices.items():
        if isinstance(wanted, type(key)) and wanted == key:
            return chosen
    raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {shown(value)}")


def float_dtype(name: str, value: Any) -> np.dtype[Any]:
    """`value` as one of the two dtypes the core computes in."""
    try:  # NumPy reads much more as float64, None for one
        dtype: Any = np.dtype(value) if isinstance(value, (str, type, np.dtype)) else None
    except Exception:  # TypeError, ValueError, SyntaxError, or what an attribute `dtype` of the caller's raises
        dtype = None
    if dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name}: expected float32 or float64, got {shown(value)}")
    return dtype  # type: ignore[no-any-return]


class Placement(NamedTuple):
    """Where a network runs, and in which numbers.

    Attributes:
        gpu: number of the GPU, None for the CPU.
        number: of inputs and outputs: "float32", "float64" or, on a GPU, "float16" or "bfloat16".
        engine, allow_tf32: see `Recurrent`.
    """

    gpu: int | None
    number: str
    engine: str = "auto"
    allow_tf32: bool = False

    @property
    def device(self) -> str:
        """As callers spell it."""
        return "cpu" if self.gpu is None else f"cuda:{self.gpu}"

    @property
    def dtype(self) -> np.dtype[Any] | str:
        """Of inputs and outputs; "bfloat16", which NumPy lacks, as a string."""
        return self.number if self.number == "bfloat16" else np.dtype(self.number)

    @property
    def parameter_dtype(self) -> np.dtype[Any]:
        """Parameters are never of 16 bits."""
        return np.dtype("float64" if self.number == "float64" else "float32")

    @property
    def attributes(self) -> dict[str, Any]:
        """A layer's, which are options of its constructor."""
        return {"dtype": self.dtype, "device": self.device, "engine": self.engine, "allow_tf32": self.allow_tf32}


def placement(device: Any, dtype: Any, engine: Any = "auto", allow_tf32: Any = False) -> Placement:
    """The options of a layer about where it runs, checked."""
    gpu, tf32 = _gpu("device", device), flag("allow_tf32", allow_tf32)
    exact = ("exact", "exact-steps", "exact-resident")
    engine = choice("engine", engine, {name: name for name in ("auto", *exact, "cublas", "cublas-resident")})
    number = _number(dtype)
    if gpu is None:
        if number in _NUMBERS[2:]:
            raise TypeError(f"dtype: expected float32 or float64 on the CPU, got {number}")
        number = FLOAT_DTYPES[float_dtype("dtype", dtype)]
    elif number not in _NUMBERS:
        raise TypeError(f"dtype: expected float32, float64, float16 or bfloat16, got {shown(dtype)}")
    engines: tuple[str, ...] = ("auto", *exact, "cublas")
    if gpu is None or number in _NUMBERS[2:]:
        engines = ("auto",) if gpu is None else ("auto", "cublas", "cublas-resident")
    where = f"for {number} on {'the CPU' if gpu is None else 'a GPU'}"
    if engine not in engines:
        raise ValueError(f"engine: expected {' or '.join(map(repr, engines))} {where}, got {engine!r}")
    if tf32 and (gpu is None or number != "float32" or engine in exact):
        raise ValueError(f"allow_tf32: expected False {where} with engine={engine!r}, got True")
    return Placement(gpu, number, engine, tf32)


def moved(have: Placement, device: Any, dtype: Any, engine: Any, allow_tf32: Any) -> Placement:
    """A placement of which some options change, those that are not None. The CPU has no engine or TF32 to keep."""
    keeps = _gpu("device", device) is not None
    return placement(
        device,
        have.dtype if dtype is None else dtype,
        (have.engine if keeps else "auto") if engine is None else engine,
        (have.allow_tf32 and keeps) if allow_tf32 is None else allow_tf32,
    )


_NUMBERS = ("float32", "float64", "float16", "bfloat16")


def _number(value: Any) -> str:
    """The name of a dtype, empty if it is none."""
    if isinstance(value, str) and value == "bfloat16":
        return value
    try:
        dtype: np.dtype[Any] | None = np.dtype(value) if isinstance(value, (str, type, np.dtype)) else None
    except Exception:  # as in float_dtype
        dtype = None
    return dtype.name if dtype is not None and dtype.isnative else ""


def _gpu(name: str, value: Any) -> int | None:
    """The number of the GPU that a device's name means; None for the CPU."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected 'cpu', 'cuda' or 'cuda:0', got {shown(value)}")
    kind, colon, number = value.partition(":")
    if value == "cpu":
        return None
    if kind != "cuda" or (colon and not (number.isascii() and number.isdecimal() and len(number) < 4)):
        raise ValueError(f"{name}: expected 'cpu', 'cuda' or 'cuda:0', got {shown(value)}")
    return int(number) if colon else 0


def noise_seed(rng: Any) -> int | None:
    """64 bits that decide all that is left out at random."""
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(1 << 64, dtype=np.uint64))
    if rng is None:
        return None
    if isinstance(rng, bool) or not isinstance(rng, (int, np.integer)):
        raise TypeError(f"rng: expected None, an integer or a numpy.random.Generator, got {rng!r}")
    if not 0 <= rng < 1 << 64:
        raise ValueError(f"rng: expected an integer in 0..2**64-1, got {rng}")
    return int(rng)


def items(name: str, value: Any, what: str) -> list[Any]:
    """`value`, an iterable in an order that means something, read once; errors expect "a list" and `what`."""
    if isinstance(value, (str, bytes, Mapping, Set)) or not isinstance(value, Iterable):
        raise TypeError(f"{name}: expected a list{what}, got {shown(value)}")
    try:
        return list(value)
    except Exception as error:  # whatever the caller's iterator raises
        raise TypeError(f"{name}: cannot be read: {error!r}") from error


def mapping(name: str, value: Any) -> dict[str, Any]:
    """`value`, a mapping of names, read once: what is checked is what is used, even if it changes meanwhile."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: expected a mapping of names to arrays, got {type(value).__name__}")
    try:
        found = dict(value)
    except Exception as error:  # whatever the caller's mapping raises
        raise TypeError(f"{name}: cannot be read: {error!r}") from error
    for key in found:
        if not isinstance(key, str):
            raise TypeError(f"{name}: expected names, got {key!r}")
    return found


def generator(seed: Seed, rng: np.random.Generator | None = None) -> np.random.Generator:
    """What initial parameters are drawn from: `rng`, or a new generator from the seed."""
    if rng is not None:
        if seed is not None:
            raise ValueError("rng: expected none beside a seed, got both")
        if not isinstance(rng, np.random.Generator):
            raise TypeError(f"rng: expected a numpy.random.Generator, got {type(rng).__name__}")
        return rng
    if isinstance(seed, (list, tuple)):
        seed = [integer("seed", part, 0) for part in seed]
    elif not isinstance(seed, (type(None), np.random.SeedSequence, np.random.BitGenerator, np.random.Generator)):
        seed = integer("seed", seed, 0)
    return np.random.default_rng(seed)


def split_state(name: str, state: Any, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a caller's state, h or a tuple, by the names that errors call them; None stands for all None."""
    if state is None or len(shapes) == 1:
        values = [state] * len(shapes)
    elif isinstance(state, (tuple, list)) and len(state) == len(shapes):
        values = list(state)
    else:
        got = f"{len(state)} values" if isinstance(state, (tuple, list)) else type(state).__name__
        raise TypeError(f"{name}: expected a tuple ({', '.join(shapes)}), got {got}")
    return {f"{name} {part}": value for part, value in zip(shapes, values, strict=True)}


def check_names(name: str, given: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """ValueError unless they have the same keys."""
    if set(given) != set(wanted):
        missing, unexpected = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
        raise ValueError(f"{name}: expected all parameters' names, missing {missing}, unexpected {unexpected}")
