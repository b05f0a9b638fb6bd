"""A model as one C++ header for desktops."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .program import REFUSALS, checked, unused, walked, write
from .source import TAKEN, Source, comment, indented
from .vectors import CLOSING, functions

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from ..model import Model
    from .program import Arguments

__all__ = ["to_cpp"]


def to_cpp(model: Model, folder: str | os.PathLike[str], name: str = "model") -> Path:
    """Write a model's stream as a C++17 header for desktops, `name`.hpp, which needs no library of recurra's.

        >>> model = recurra.Model([recurra.GRU(1, 16), recurra.Linear(16, 1)])
        >>> header = model.to_cpp("out", "amplifier")
        >>> print(*[line for line in header.read_text().splitlines() if "void step" in line])
        static inline void step(State &advanced, const float x[1], float y[1])

    What `to_c` writes as C, with vectors of units in place of single ones: AVX-512, AVX2 with FMA, NEON or SSE, by
    what the compiler (GCC or Clang) is told to compile for. Sizes are constants, nothing is allocated, locked or
    thrown. In the namespace `name` are the struct `State`, `reset(state)`, `step(state, x, y)`,
    `run(state, x, y, steps)` and `Flush`, which has small numbers count as zero. Where there are fused multiply-adds,
    outputs have the bits of `model.stream()`; the header says what that asks for.

    Layers in int8, with layer normalisation, and of the cells SLSTM and MinLSTM go unit by unit, as in C.

    Args:
        model: float32, of what a stream can run; docs/embedded.md lists the nodes.
        folder: where to write; it is made if it is not there.
        name: of the file and of the namespace; an identifier of C++ that no included header declares.

    Returns:
        The path of the header.

    Raises:
        TypeError: `model` is no Model, `folder` no path, `name` no text.
        ValueError: `name` is no identifier, or one that C++ or its library uses.
        UnsupportedModel: a node that cannot be exported, by name; nothing is written.
        OSError: the file cannot be written.
    """
    to = checked(model, folder, name, "C++", TAKEN)
    return write(to / f"{name}.hpp", _text(model, name))


_PROMISE = """
{name}::reset(state) begins a sequence; {name}::step(state, {names}) advances it by one step,
{name}::run(state, {names}, steps) by several, whose numbers lie one step behind the other.
{about}
Outputs must not overlap inputs. The state is of this model alone, and any number of states may be in use; each lies at
a multiple of 64 bytes, as variables, members and `new` of C++17 see to, but malloc does not.

Include it in one source file, which is compiled by GCC or Clang as C++17 with -O2, for the processor at hand
(-march=native) or for those that it is to run on (-mavx2 -mfma, -march=x86-64-v4): without such an option x86-64 has
neither wide vectors nor fused multiply-adds. All functions are the source file's own, so files compiled for several
processors can live in one program.

Outputs have the bits of model.stream() in Python, for the same operations are done in the same order:
- where the target has fused multiply-adds (FMA, AVX-512, AArch64); elsewhere products and sums are rounded one by one;
- where numbers below 1.2e-38 count as zero, and results are rounded to nearest. run() sees to the first; for step() it
  is the caller's affair: a `const {name}::Flush flush;` sets the processor's mode until the end of its block, if it
  differs. Where they do not count as zero, results that hang on them differ by about as much, and may take long.
- The payload and sign of NaN are not promised.
"""

_INCLUDES = """\
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif"""

_EXACT = """\
#if defined(__clang__)
#if defined(__x86_64__) /* elsewhere it cannot be taken back, and holds to the end of the source file */
#pragma float_control(push)
#endif
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#endif"""

_AS_BEFORE = """\
#if !defined(__clang__)
#pragma GCC pop_options
#elif defined(__x86_64__)
#pragma float_control(pop)
#endif"""

_FLUSH = """\
/* While there is one, numbers below 1.2e-38 count as zero in this thread. */
struct Flush {
#if defined(__SSE__)
    const unsigned before = _mm_getcsr();
    Flush()
    {
        if ((before & 0x8040u) != 0x8040u) _mm_setcsr(before | 0x8040u);
    }
    ~Flush()
    {
        if ((before & 0x8040u) != 0x8040u) _mm_setcsr(before);
    }
#elif defined(__aarch64__)
    uint64_t before = 0;
    Flush()
    {
        __asm__ volatile("mrs %0, fpcr" : "=r"(before));
        if (!(before >> 24 & 1u)) __asm__ volatile("msr fpcr, %0" : : "r"(before | uint64_t(1) << 24) : "memory");
    }
    ~Flush()
    {
        if (!(before >> 24 & 1u)) __asm__ volatile("msr fpcr, %0" : : "r"(before) : "memory");
    }
#else
    Flush() {}
    ~Flush() {}
#endif
    Flush(const Flush &) = delete;
    Flush &operator=(const Flush &) = delete;
};"""


def _text(model: Model, name: str) -> str:
    source, arguments = walked(model, Source(vectors=True))
    code = "\n".join(["\n".join(source.functions), *source.steps])
    with_vectors = any(called in code for called in ("rc_units", "rc_affine"))
    guard = f"RECURRA_{name}_HPP"
    parts = [
        _about(model, name, arguments),
        f"#ifndef {guard}\n#define {guard}",
        _INCLUDES,
        REFUSALS,
        _EXACT,
        f"namespace {name} {{",
        "\n".join(["struct State {", *indented(_fields(source)), "};"]),
        "namespace {",
        _FLUSH,
        re.sub(r"^static (?!inline|const)", "static inline ", functions(code, with_vectors), flags=re.MULTILINE),
        *source.arrays,
        *(re.sub(r"^static (?!inline)", "static inline ", each, flags=re.MULTILINE) for each in source.functions),
        "}",
        *_calls(source, arguments),
        "}",
        *([CLOSING] if with_vectors else []),
        _AS_BEFORE,
        "#endif",
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _about(model: Model, name: str, arguments: Arguments) -> str:
    from .. import __version__

    names = ", ".join([*(place.at for place in arguments.inputs.values()), *arguments.outputs.values()])
    promise = _PROMISE.format(name=name, names=names, about="\n".join(arguments.about)).strip("\n").split("\n")
    title = f"{name}.hpp: a model of recurra {__version__}, as C++17."
    return comment([title, "", *promise, "", *model.summary().split("\n")])


def _turns(source: Source) -> bool:
    """Whether layers read their weights to and fro."""
    return any("bool back)" in each for each in source.functions)


def _fields(source: Source) -> list[str]:
    about = comment(["whether the next step reads weights backwards"])
    fields = [*source.fields, *([f"bool back; {about}"] if _turns(source) else [])]
    return fields or ["char unused; " + comment(["the model has no state"])]


def _calls(source: Source, arguments: Arguments) -> list[str]:
    """The functions for callers."""
    places = ", ".join([*(place.at for place in arguments.inputs.values()), *arguments.outputs.values()])
    pointers = [re.sub(r"(\w+)\[\d+\]$", r"*\1", each) for each in arguments.declared]
    resets, begin = [*source.resets], ["State *const state = &advanced;"]
    steps = [*unused(source, arguments), *source.steps]
    if _turns(source):
        resets.append("state->back = false;")
        begin += ["const bool back = state->back;", "state->back = !back;"]
    run = [f"step(advanced, {places});", *arguments.forward]
    return [
        _function("reset", ["State &begun"], ["State *const state = &begun;", *(resets or ["(void)state;"])]),
        _function("step", ["State &advanced", *arguments.declared], [*begin, *steps]),
        _function(
            "run",
            ["State &advanced", *pointers, "size_t steps"],
            ["const Flush flush;", "for (; steps > 0; --steps) {", *indented(run), "}"],
        ),
    ]


def _function(name: str, parameters: list[str], lines: list[str]) -> str:
    return "\n".join([f"static inline void {name}({', '.join(parameters)})", "{", *indented(lines), "}"])
