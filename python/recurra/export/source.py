"""C source under construction: names, constant arrays, the state, functions, and the statements of a step."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from .arithmetic import literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .._arrays import Array

__all__ = ["KEYWORDS", "Source", "comment", "indented", "padded_units"]

_OF_C_AND_CPP = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl const constexpr const_cast
continue decltype default delete do double dynamic_cast else enum explicit export extern false float for friend goto
if inline int long mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public
register reinterpret_cast restrict return short signed sizeof static static_assert static_cast struct switch
template this thread_local throw true try typedef typeid typename typeof union unsigned using virtual void volatile
wchar_t while xor xor_eq
"""
KEYWORDS = frozenset(_OF_C_AND_CPP.split())

# What a namespace cannot be called either: keywords of C++20, macros, and names of <math.h>, <string.h> and <stdint.h>.
# Platforms declare others, which their compilers tell of.
_OF_HEADERS = """
char8_t concept consteval constinit co_await co_return co_yield requires linux unix
acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh drem erf erfc exp exp10 exp2 expm1 fabs fdim finite
floor fma fmax fmaximum fmin fminimum fmod fpclassify frexp fromfp gamma hypot ilogb isfinite isgreater isgreaterequal
isinf isless islessequal islessgreater isnan isnormal issignaling issubnormal isunordered iszero j0 j1 jn ldexp lgamma
lgamma_r llogb llrint llround log log10 log1p log2 logb lrint lround modf nan nearbyint nextafter nextdown nexttoward
nextup pow remainder remquo rint round roundeven scalb scalbln scalbn significand signbit signgam sin sincos sinh sqrt
tan tanh tgamma trunc ufromfp y0 y1 yn
bcmp bcopy bzero ffs index memchr memcmp memcpy memmove memset rindex strcat strchr strcmp strcoll strcpy strcspn strdup
strerror strlen strncat strncmp strncpy strpbrk strrchr strspn strstr strtok strxfrm
double_t float_t int16_t int32_t int64_t int8_t intmax_t intptr_t locale_t max_align_t nullptr_t ptrdiff_t size_t
uint16_t uint32_t uint64_t uint8_t uintmax_t uintptr_t std
"""
TAKEN = frozenset(name + more for name in _OF_HEADERS.split() for more in ("", "f", "l"))


class Source:
    """What the nodes of a model add to its file.

    Attributes:
        vectors: whether it is C++, whose hot loops run over vectors of units.
        arrays: definitions of constant arrays.
        functions: definitions of functions, which stand behind all arrays.
        fields: members of the state's struct.
        resets: statements of the function that begins a sequence.
        steps: statements of the function that advances by a step.
    """

    def __init__(self, *, vectors: bool = False) -> None:
        self.vectors = vectors
        self.arrays: list[str] = []
        self.functions: list[str] = []
        self.fields: list[str] = []
        self.resets: list[str] = []
        self.steps: list[str] = []
        self._names: set[str] = set()
        self._made: dict[Any, Any] = {}

    @property
    def language(self) -> str:
        """Its name."""
        return "C++" if self.vectors else "C"

    def name(self, *parts: str) -> str:
        """An identifier of such parts that is not used yet. With two parts at least it is no word of C's own."""
        wanted = name = "_".join(re.sub(r"\W", "_", part, flags=re.ASCII).strip("_") or "_" for part in parts)
        wanted = name = f"n{wanted}" if wanted[0].isdigit() or wanted[0] == "_" or wanted.startswith("rc_") else wanted
        number = 2
        while name in self._names:
            name, number = f"{wanted}_{number}", number + 1
        self._names.add(name)
        return name

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once for each key: a layer that several nodes share has one set of weights."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def array(self, values: Array, *name: str, flat: bool = False) -> str:
        """A constant array of one or two dimensions, of float32 or of whole numbers; flat: one of two as one of one."""
        kind = "float" if values.dtype == np.float32 else {"int8": "int8_t", "int32": "int32_t"}[str(values.dtype)]
        written = self.name(*name)
        shape = f"[{values.size}]" if flat else "".join(f"[{size}]" for size in values.shape)
        numbers = ",\n".join(map(_numbers, np.atleast_2d(values))) if flat else _numbers(values)
        about = comment(["".join(f"[{size}]" for size in values.shape)]) + " " if flat and values.ndim > 1 else ""
        aligned = "alignas(64) " if self.vectors else ""
        self.arrays.append(f"{aligned}static const {kind} {written}{shape} = {about}{{\n{numbers}\n}};")
        return written

    def tiles(self, values: Array, *name: str) -> str:
        """Rows of numbers, one of each unit, as a constant array of tiles: [tile][number][unit], of 16 units each."""
        padded = np.zeros((padded_units(len(values)), values.shape[1]), np.float32)
        padded[: len(values)] = values
        tiles = [padded[first : first + 16].T.ravel() for first in range(0, len(padded), 16)]
        return self.array(np.concatenate(tiles), *name)


def padded_units(units: int) -> int:
    """How many units the tiles have: 16 each, the last one 4, 8 or 16."""
    rest = units % 16
    return units - rest + (0 if rest == 0 else 4 if rest <= 4 else 8 if rest <= 8 else 16)


def _numbers(values: Array) -> str:
    if values.ndim == 2:
        return ",\n".join(map(_row, values))
    texts = map(literal, values) if values.dtype == np.float32 else map(str, values.tolist())
    return textwrap.fill(", ".join(texts), 96, initial_indent="    ", subsequent_indent="    ")


def _row(values: Array) -> str:
    numbers = _numbers(values)
    return f"    {{\n{textwrap.indent(numbers, '    ')}\n    }}" if "\n" in numbers else f"    {{{numbers.strip()}}}"


def comment(lines: Iterable[str]) -> str:
    """A block comment; nothing in it ends it early."""
    text = [re.sub(r"[^ -~]", "?", line).replace("*/", "* /").replace("/*", "/ *") for line in lines]
    return "/* " + "\n * ".join(text).replace(" \n", "\n") + " */"


def indented(lines: Iterable[str], depth: int = 1) -> list[str]:
    """The lines, further to the right."""
    return ["    " * depth + line if line else line for line in lines]
