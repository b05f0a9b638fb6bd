"""A model as one C header and one C file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..formats.unsupported import UnsupportedModel
from .arithmetic import needed
from .nodes import add_nodes
from .places import Place
from .source import KEYWORDS, Source, comment, indented

if TYPE_CHECKING:
    from ..model import Model

__all__ = ["REFUSALS", "Arguments", "checked", "to_c", "unused", "walked", "write"]

_HEADERS = frozenset({"math", "stdint", "string"})


def to_c(model: Model, folder: str | os.PathLike[str], name: str = "model") -> tuple[Path, Path]:
    """Write a model's stream as C99 for a microcontroller: `name`.h and `name`.c, which need no library of recurra's.

        >>> model = recurra.Model([recurra.GRU(1, 16), recurra.Linear(16, 1)])
        >>> header, source = model.to_c("out", "amplifier")
        >>> print(header.read_text().splitlines()[-7])
        void amplifier_step(amplifier_state *state, const float x[1], float y[1]);

    The code takes no memory from a heap and calls no function but memcpy, and sqrtf for square roots and layer norm.
    Weights are constants, float32 or, of layers quantised to int8, whole numbers with their scales; the state is a
    struct that the caller owns. `name_reset(&state)` begins a sequence, `name_step(&state, x, y)` advances it. The
    operations are those of `model.stream()`, in their order, so the outputs have the same bits wherever float is IEEE's
    binary32 and is neither widened nor contracted; the header says what that asks of a compiler.

    Args:
        model: float32, of what a stream can run; docs/embedded.md lists the nodes.
        folder: where to write; it is made if it is not there.
        name: of the files and before all names that they export; an identifier of C.

    Returns:
        The paths of the header and of the source file.

    Raises:
        TypeError: `model` is no Model, `folder` no path, `name` no text.
        ValueError: `name` is no identifier, or one of C's headers.
        UnsupportedModel: a node that cannot be exported, by name; nothing is written.
        OSError: a file cannot be written.
    """
    to = checked(model, folder, name, "C", _HEADERS)
    header, source = texts(model, name)
    return write(to / f"{name}.h", header), write(to / f"{name}.c", source)


def checked(model: Model, folder: str | os.PathLike[str], name: str, language: str, taken: frozenset[str]) -> Path:
    """The folder, of arguments that are what they should be; `taken` are names that the language has itself."""
    from ..model import Model

    if not isinstance(model, Model):
        raise TypeError(f"model: expected a recurra.Model, got {type(model).__name__}")
    to = Path(os.fspath(folder) if isinstance(folder, (str, os.PathLike)) else _no_path(folder))
    if not isinstance(name, str):
        raise TypeError(f"name: expected text, got {type(name).__name__}")
    if not (name.isascii() and name.isidentifier()) or name in KEYWORDS or name.startswith("_"):
        raise ValueError(f"name: expected an identifier of {language}, got {name!r}")
    if name in taken:
        raise ValueError(f"name: expected one that {language} and its library do not use, got {name!r}")
    return to


def write(path: Path, text: str) -> Path:
    """Write it; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii", newline="\n")
    return path


def _no_path(folder: object) -> str:
    raise TypeError(f"folder: expected a path, got {type(folder).__name__}")


def texts(model: Model, name: str) -> tuple[str, str]:
    """The header and the source file."""
    source, arguments = walked(model, Source())
    return _header(model, name, source, arguments), _source(name, source, arguments)


def walked(model: Model, source: Source) -> tuple[Source, Arguments]:
    """What the nodes of a model add to its source, and the parameters of its step."""
    if model.dtype != "float32":
        raise UnsupportedModel(f"{source.language}: expected a model of float32, got {model.dtype}")
    try:
        model.stream()
    except ValueError as error:
        raise UnsupportedModel(f"{source.language}: {error}") from None
    arguments = Arguments(source, model)
    add_nodes(source, model, arguments.inputs, arguments.outputs)
    return source, arguments


class Arguments:
    """The parameters of the step function beside the state: inputs, then outputs."""

    def __init__(self, source: Source, model: Model) -> None:
        self.inputs: dict[str, Place] = {}
        self.outputs: dict[str, str] = {}
        self.declared: list[str] = []
        self.forward: list[str] = []  # statements that go on to the next step's
        self.about: list[str] = []
        for each, value in model.inputs.items():
            pointer = "x" if len(model.inputs) == 1 else source.name("in", each)
            self.inputs[each] = Place(pointer, value.size)
            kind = "int32_t" if value.integer else "float"
            self._add(
                f"const {kind} {pointer}[{value.size}]", pointer, each, "" if value.time else ", the same in all steps"
            )
            if value.time:
                self.forward.append(f"{pointer} += {value.size};")
        for each in model.outputs:
            pointer = "y" if len(model.outputs) == 1 else source.name("out", each)
            self.outputs[each] = pointer
            size = model._values[each].size
            self._add(
                f"float {pointer}[{size}]", pointer, each, "" if model._values[each].time else ", of the steps so far"
            )
            if model._values[each].time:
                self.forward.append(f"{pointer} += {size};")

    def _add(self, declared: str, pointer: str, name: str, more: str) -> None:
        self.declared.append(declared)
        self.about.append(f"  {pointer}: {name!a}{more}")


_PROMISE = """
{name}_reset(&state) begins a sequence; {name}_step(&state, {names}) advances it by one step.
{about}
Outputs must not overlap inputs. The state is of this model alone, and any number of states may be in use.

Outputs have the bits of model.stream() in Python, for the same operations are done in the same order:
- float must be IEEE binary32. -ffast-math is refused. Other compilers than GCC and Clang have to be told not to make
  one operation of a product and a sum.
- Multiply-adds round once. Where the processor has no instruction for that, a function does it, in double.
- Numbers below 1.2e-38 count as zero in recurra. Where the processor keeps them, results that hang on them differ by
  about as much; a flush-to-zero mode (FZ of the FPSCR or FPCR, FTZ and DAZ of the MXCSR) gives the bits there too.
- The payload and sign of NaN are not promised.
"""


def _header(model: Model, name: str, source: Source, arguments: Arguments) -> str:
    from .. import __version__

    names = ", ".join([*(place.at for place in arguments.inputs.values()), *arguments.outputs.values()])
    about = "\n".join(arguments.about)
    promise = _PROMISE.format(name=name, names=names, about=about).strip("\n").split("\n")
    guard = f"{name}_H"
    return "\n".join(
        [
            comment(
                [f"{name}.h: a model of recurra {__version__}, as C99.", "", *promise, "", *model.summary().split("\n")]
            ),
            f"#ifndef {guard}",
            f"#define {guard}",
            "",
            "#include <stdint.h>",
            "",
            "#ifdef __cplusplus",
            'extern "C" {',
            "#endif",
            "",
            "typedef struct {",
            *indented(source.fields or ["char unused; " + comment(["the model has no state"])]),
            f"}} {name}_state;",
            "",
            f"void {name}_reset({name}_state *state);",
            f"void {name}_step({', '.join([f'{name}_state *state', *arguments.declared])});",
            "",
            "#ifdef __cplusplus",
            "}",
            "#endif",
            "",
            "#endif",
            "",
        ]
    )


REFUSALS = """\
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || \
    defined(__NO_SIGNED_ZEROS__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "-ffast-math and its parts reorder sums: results would not be the model's"
#endif
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16
#error "float is computed in a wider format here: results would not be the model's"
#endif"""

_OPENING = """\
#include "{name}.h"

#include <float.h>
#include <math.h>
#include <string.h>

{refusals}
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif
"""


def _source(name: str, source: Source, arguments: Arguments) -> str:
    body = "\n".join(["\n".join(source.functions), *source.steps])
    functions = needed(body)
    step = [
        f"void {name}_step({', '.join([f'{name}_state *state', *arguments.declared])})",
        "{",
        *indented([*unused(source, arguments), *source.steps[source.steps[:1] == [""] :]]),
        "}",
    ]
    reset = [f"void {name}_reset({name}_state *state)", "{", *indented(source.resets or ["(void)state;"]), "}"]
    parts = [
        _OPENING.format(name=name, refusals=REFUSALS),
        *functions,
        *source.arrays,
        *source.functions,
        "\n".join(reset),
        "\n".join(step),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def unused(source: Source, arguments: Arguments) -> list[str]:
    """Statements that name parameters which the step does not use."""
    pointers = [place.at for place in arguments.inputs.values()]
    lines = [f"(void){pointer};" for pointer in pointers if not any(pointer in line for line in source.steps)]
    return lines if source.fields else ["(void)state;", *lines]
