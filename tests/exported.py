"""Exported models beside the streams that they were made from: compiled for a platform, run there, and compared."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from checks import Array
from model_problems import random_model

import recurra
from recurra.export import to_c, to_cpp
from recurra.export.cells import is_known

HERE = Path(__file__).parent / "export"
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror")
STRICT = ("-std=c99", *WARNINGS, "-ffp-contract=off")
STRICT_CPP = ("-std=c++17", *WARNINGS)


class Platform(NamedTuple):
    """A compiler, what it links with besides, and what runs its programs."""

    compiler: tuple[str, ...]
    link: tuple[str, ...] = ("-lm",)
    runner: tuple[str, ...] = ()

    @property
    def missing(self) -> str:
        """Programs that are not on this machine."""
        return ", ".join(name for name in (self.compiler[0], *self.runner[:1]) if not shutil.which(name))


def cortex(core: str, fpu: str | None, machine: str, code: int = 0, data: int = 0x20000000) -> Platform:
    """A Cortex-M on a board of qemu's, with a floating-point unit or without."""
    floats = (f"-mfpu={fpu}", "-mfloat-abi=hard") if fpu else ("-mfloat-abi=soft",)
    flags = (f"-mcpu={core}", "-mthumb", *floats, "-ffunction-sections", "-DBARE")
    at = f"-Wl,--defsym=code_at={code:#x},--defsym=data_at={data:#x}"
    script = f"-T{HERE / 'cortex_m.ld'}"
    link = (str(HERE / "cortex_m.c"), "-nostartfiles", script, at, "-Wl,--gc-sections", "-lm")
    qemu = ("qemu-system-arm", "-M", machine, "-display", "none", "-monitor", "none", "-serial", "null")
    semihosting = ("-semihosting-config", "enable=on,target=native", "-kernel")
    return Platform(("arm-none-eabi-gcc", "-O2", *flags), link, (*qemu, *semihosting))


CORTEX_M = {
    "Cortex-M3": cortex("cortex-m3", None, "mps2-an385"),
    "Cortex-M4F": cortex("cortex-m4", "fpv4-sp-d16", "mps2-an386"),
    "Cortex-M7": cortex("cortex-m7", "fpv5-sp-d16", "mps2-an500"),
    "Cortex-M33": cortex("cortex-m33", "fpv5-sp-d16", "mps2-an505", 0x10000000, 0x38000000),
}
EMULATED = CORTEX_M | {
    "AArch64": Platform(("aarch64-linux-gnu-gcc", "-O2"), ("-lm", "-static"), ("qemu-aarch64-static",)),
    "RISC-V": Platform(("riscv64-linux-gnu-gcc", "-O2"), ("-lm", "-static"), ("qemu-riscv64-static",)),
}


class Case(NamedTuple):
    """A model, the frames that go into it, and what its stream makes of them: [T, numbers] each."""

    name: str
    model: recurra.Model
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]


def case(
    name: str, model: recurra.Model, steps: int = 12, inputs: Sequence[Array] | None = None, seed: int = 0
) -> Case:
    """With random frames of about 1, or those that are given."""
    random = np.random.default_rng(seed)
    frames: dict[str, Array] = {}
    for k, (each, value) in enumerate(model.inputs.items()):
        if inputs is not None:
            frames[each] = inputs[k]
        elif value.integer:
            frames[each] = random.integers(0, 2, (steps,))
        else:
            shape = (steps, *value.features) if value.time else value.features
            frames[each] = random.standard_normal(shape, dtype="float32")
    stream, made = model.stream(), []
    for t in range(steps):
        frame = {each: frames[each][t] if value.time else frames[each] for each, value in model.inputs.items()}
        y = stream.step(frame if len(frame) > 1 else next(iter(frame.values())))
        made.append([y[each] for each in model.outputs] if len(model.outputs) > 1 else [y])
    given = [
        np.broadcast_to(
            frames[each].reshape(-1, value.size) if value.time else frames[each].reshape(1, -1), (steps, value.size)
        )
        for each, value in model.inputs.items()
    ]
    return Case(
        name, model, tuple(given), tuple(np.array([y[k].ravel() for y in made]) for k in range(len(model.outputs)))
    )


_MAIN = """\
/* Runs each model twice, the second time after a reset, and compares its outputs with the bits that are expected. */
#include <stdint.h>
#include <string.h>
#if defined(BARE)
void say(const char *text);
#else
#include <stdio.h>
#define say puts
#endif
#if defined(FLUSH)
#include <xmmintrin.h>
#endif
@includes

static int differ(const float *y, const uint32_t *wanted, int size)
{
    for (int i = 0; i < size; ++i) {
        uint32_t bits;
        memcpy(&bits, y + i, sizeof bits);
        const int nan = (bits & 0x7fffffffu) > 0x7f800000u && (wanted[i] & 0x7fffffffu) > 0x7f800000u;
        if (bits != wanted[i] && !nan) return 1;
    }
    return 0;
}

@models

int main(void)
{
    int wrong = 0;
#if defined(FLUSH)
    _mm_setcsr(0x9fc0); /* subnormal numbers are zero, as in the engine */
#endif
@calls
    if (!wrong) say("same bits");
    return wrong;
}
"""


def _numbers(name: str, values: Array) -> str:
    """An array of bits, or of whole numbers."""
    flat = values.ravel()
    if values.dtype != np.float32:
        return f"static const int32_t {name}[] = {{{', '.join(map(str, flat.tolist()))}}};"
    return f"static const uint32_t {name}[] = {{{', '.join(f'{bits:#x}u' for bits in flat.view(np.uint32).tolist())}}};"


def _run(each: Case) -> str:
    n, steps = each.name, len(each.outputs[0])
    lines = [_numbers(f"{n}_x{k}", np.ascontiguousarray(x)) for k, x in enumerate(each.inputs)]
    lines += [_numbers(f"{n}_y{k}", y) for k, y in enumerate(each.outputs)]
    lines += [f"static int run_{n}(void)", "{", f"    static {n}_state state;", "    int wrong = 0;"]
    lines += [f"    static float out{k}[{y.shape[1]}];" for k, y in enumerate(each.outputs)]
    lines += ["    for (int run = 0; run < 2; ++run) {", f"        {n}_reset(&state);"]
    lines.append(f"        for (int t = 0; t < {steps}; ++t) {{")
    passed = []
    for k, x in enumerate(each.inputs):
        size = x.shape[1]
        if x.dtype == np.float32:
            lines.append(f"            static float in{k}[{size}];")
            lines.append(f"            memcpy(in{k}, {n}_x{k} + t * {size}, sizeof in{k});")
            passed.append(f"in{k}")
        else:
            passed.append(f"{n}_x{k} + t * {size}")
    passed += [f"out{k}" for k in range(len(each.outputs))]
    lines.append(f"            {n}_step(&state, {', '.join(passed)});")
    for k, y in enumerate(each.outputs):
        differs = f"differ(out{k}, {n}_y{k} + t * {y.shape[1]}, {y.shape[1]})"
        said = f"{n}: other bits of output {each.model.outputs[k]!a}, number {k}".replace("\\", "?")
        lines.append(f'            if (!wrong && {differs}) say("{said}"), wrong = 1;')
    return "\n".join([*lines, "        }", "    }", "    return wrong;", "}"])


def _whole(each: Case) -> str:
    """In C++: all steps by one call."""
    n, steps = each.name, len(each.outputs[0])
    lines = [f"static int whole_{n}()", "{", f"    {n}::State state;", "    int wrong = 0;"]
    for k, x in enumerate(each.inputs):
        if x.dtype == np.float32:
            lines += [f"    static float in{k}[{x.size}];", f"    memcpy(in{k}, {n}_x{k}, sizeof in{k});"]
    passed = [f"in{k}" if x.dtype == np.float32 else f"{n}_x{k}" for k, x in enumerate(each.inputs)]
    timed = [each.model._values[output].time for output in each.model.outputs]
    lines += [f"    static float out{k}[{y.size}];" for k, y in enumerate(each.outputs)]
    passed += [f"out{k}" for k in range(len(each.outputs))]
    lines += [f"    {n}::reset(state);", f"    {n}::run(state, {', '.join(passed)}, {steps});"]
    for k, y in enumerate(each.outputs):
        wanted, size = (f"{n}_y{k}", y.size) if timed[k] else (f"{n}_y{k} + {y.size - y.shape[1]}", y.shape[1])
        lines.append(f"    if (differ(out{k}, {wanted}, {size})) wrong = 1;")
    return "\n".join([*lines, f'    if (wrong) say("{n}: other bits of all steps");', "    return wrong;", "}"])


def write_cpp(cases: Sequence[Case], folder: Path) -> list[Path]:
    """Every model as a header, and a program that runs them all."""
    for each in cases:
        to_cpp(each.model, folder, each.name)
    names = "|".join(each.name for each in cases)
    runs = re.sub(rf"\b({names})_(reset|step)\(&state", r"\1::\2(state", "\n\n".join(map(_run, cases)))
    runs = re.sub(rf"\b({names})_state\b", r"\1::State", runs)
    parts = {
        "includes": "\n".join(f'#include "{each.name}.hpp"' for each in cases),
        "models": runs + "\n\n" + "\n\n".join(map(_whole, cases)),
        "calls": "\n".join(f"    wrong += run_{each.name}() + whole_{each.name}();" for each in cases),
    }
    return [_main(parts, folder / "main.cpp")]


def write(cases: Sequence[Case], folder: Path) -> list[Path]:
    """Every model, and a program that runs them all; returns the C files."""
    sources = [to_c(each.model, folder, each.name)[1] for each in cases]
    parts = {
        "includes": "\n".join(f'#include "{each.name}.h"' for each in cases),
        "models": "\n\n".join(map(_run, cases)),
        "calls": "\n".join(f"    wrong += run_{each.name}();" for each in cases),
    }
    return [*sources, _main(parts, folder / "main.c")]


def _main(parts: dict[str, str], path: Path) -> Path:
    text = _MAIN
    for name, part in parts.items():
        text = text.replace(f"@{name}", part)
    path.write_text(text)
    return path


def run(platform: Platform, sources: Sequence[Path], folder: Path, flags: Sequence[str] = STRICT) -> str:
    """What the program says, or the compiler where it does not like it."""
    program = folder / "program"
    command: list[Any] = [*platform.compiler, *flags, *sources, "-o", program, *platform.link]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode:
        return built.stderr
    ran = subprocess.run([*platform.runner, program], capture_output=True, text=True, timeout=300)
    return (ran.stdout + ran.stderr + (f"status {ran.returncode}" if ran.returncode else "")).strip()


AARCH64_CPP = Platform(("aarch64-linux-gnu-g++", "-O1"), ("-lm", "-static"), ("qemu-aarch64-static",))

# What compiles on this machine: with fused multiply-adds as instructions, and on x86-64 without.
_FUSED = ("-mfma",) if os.uname().machine == "x86_64" else ()
HOST = {
    "gcc": Platform(("gcc", "-O2", *_FUSED)),
    "clang": Platform(("clang", "-O1", *_FUSED)),
}
if _FUSED:
    HOST["gcc without FMA"] = Platform(("gcc", "-O1"))


# The same for C++: each way in which vectors are made here.
_WIDE = {"AVX-512": ("-march=x86-64-v4",), "AVX2": ("-mavx2", "-mfma"), "FMA": ("-mfma",)} if _FUSED else {"NEON": ()}
HOST_CPP = {
    f"{compiler}, {name}": Platform((compiler, "-O1", *flags))
    for name, flags in _WIDE.items()
    for compiler in ("g++", "clang++")
}


def scattered(layer: Any, seed: int) -> Any:
    """The layer with parameters that matter: biases, gains and initial states too."""
    random = np.random.default_rng(seed)
    values = {
        name: random.uniform(-0.4 if array.ndim > 1 else -0.9, 0.4 if array.ndim > 1 else 0.9, array.shape).astype(
            "float32"
        )
        for name, array in layer.state_dict().items()
    }
    layer.load_state_dict(values)
    return layer


def recurrent(cell: str, inputs: int, seed: int, **options: Any) -> Any:
    """Two layers, of 18 units unless told: more than the 16 parts of a sum over units."""
    given: dict[str, Any] = {"num_layers": 2, "proj_size": 7 if "projected" in cell else 0}
    given |= {"heads": 3} if "slstm" in cell else {"initial_state": True}
    return scattered(recurra.Recurrent(cell, inputs, seed=seed, **{"hidden_size": 18} | given | options), seed)


def chained(layers: Sequence[Any]) -> recurra.Model:
    """Each reads the one before it, and is an output."""
    nodes, x = [], "x"
    for k, layer in enumerate(layers):
        nodes.append(recurra.Node(layer, (x,), f"node{k}"))
        x = f"node{k}"
    return recurra.Model(nodes, inputs={"x": recurra.Value((5,))}, outputs=[f"node{k}" for k in range(len(nodes))])


def every_cell(precision: str | None, **options: Any) -> list[Case]:
    """All of them, a few to a model."""
    cells, cases = [cell for cell in recurra.cells() if is_known(cell)], []
    for first in range(0, len(cells), 10):
        layers: list[Any] = []
        for cell in cells[first : first + 10]:
            layer = recurrent(cell, (layers[-1].proj_size or 18) if layers else 5, seed=len(layers) + first, **options)
            layers.append(layer.quantize(precision) if precision else layer)
        cases.append(case(f"cells{first}_{precision or 'float32'}", chained(layers)))
    return cases


def all_widths() -> list[Case]:
    """GRUs and LSTMs whose last tiles have all widths, alone and behind others, and Linear layers; with numbers of all
    sizes, so that gates come to their ends, infinity and NaN among them."""
    layers: list[Any] = []
    for k, size in enumerate((1, 7, 17, 80, 31, 16)):
        inputs = layers[-1].out_features if layers else 5
        options = {"hidden_size": size, "num_layers": 2 if size == 17 else 1}
        layers.append(recurrent("gru" if k % 2 else "lstm", inputs, k, **options))
        layers.append(scattered(recurra.Linear(size, 3 + 7 * k % 19), k))
    frames = np.random.default_rng(1).standard_normal((40, 5)) * 10.0 ** np.linspace(-3, 3, 40)[:, None]
    edges = np.full((13, 5), 0.5, "float32")
    edges[:, 3] = [0.0, -0.0, 0.87, -0.87, 88.0, -88.0, 3e38, -3e38, 1e20, np.inf, np.nan, -np.inf, 0.5]
    strange = chained([recurrent("gru", 5, 1), recurra.Linear(18, 5, seed=2), recurrent("lstm", 5, 3)])
    return [
        case("widths", chained(layers), 40, [frames.astype("float32")]),
        case("strange", strange, len(edges), [edges]),
    ]


def random_models(count: int) -> list[Case]:
    """Graphs of all kinds of nodes, of those that have a result in every step."""
    models = [random_model(seed, streams=True) for seed in range(count)]
    return [case(f"model{seed}", model, seed=seed) for seed, model in enumerate(models)]
