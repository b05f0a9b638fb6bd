"""What exported C takes on a Cortex-M4F: flash, RAM, stack, and instructions a sample.

    python bench/embedded.py

Needs arm-none-eabi-gcc and qemu-system-arm (Debian: gcc-arm-none-eabi, libnewlib-arm-none-eabi, qemu-system-arm).
Compiled with -O2. Flash is code and constants of the model's object file, without what it calls of the C library:
memcpy. RAM is the state, stack what all of its functions together may have at once. Instructions are counted by qemu, a
nanosecond of its clock each (-icount shift=0), as the mean of 256 steps: they are no cycles.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import recurra
from recurra.export import to_c

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: for bench
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from exported import CORTEX_M

from bench.plugins import MODELS, recurrent, with_head

STEPS = 256
MAIN = """\
#include "{name}.h"
#include <string.h>
void say(const char *text);
{name}_state state;

int main(void)
{{
    volatile unsigned *const systick = (volatile unsigned *)0xe000e010; /* control, reload, value; 25 MHz */
    float x[1] = {{0.5f}}, y[1];
    char digits[12] = "";
    {name}_reset(&state);
    systick[1] = 0xffffff, systick[2] = 0, systick[0] = 5;
    const unsigned start = systick[2];
    for (int t = 0; t < {steps}; ++t) {{
        {name}_step(&state, x, y);
        x[0] = -y[0];
    }}
    unsigned ticks = (start - systick[2]) & 0xffffff;
    for (int k = 10; k >= 0; --k, ticks /= 10) digits[k] = (char)('0' + ticks % 10);
    say(digits);
    return 0;
}}
"""


def models() -> dict[str, recurra.Model]:
    """Each with a Linear(1) behind it, for one sample a step."""
    return {
        f"{name}, {kind}": with_head(recurrent(name).quantize("int8") if kind == "int8" else recurrent(name))
        for name in MODELS
        for kind in ("float32", "int8")
    }


def measured(model: recurra.Model, folder: Path) -> tuple[int, int, int, float]:
    """Bytes of flash, of RAM and of stack, and instructions a step."""
    platform = CORTEX_M["Cortex-M4F"]
    _, source = to_c(model, folder, "net")
    made, main, program = folder / "net.o", folder / "main.c", folder / "net.elf"
    main.write_text(MAIN.format(name="net", steps=STEPS))
    flags = ["-std=c99", "-ffp-contract=off"]
    subprocess.run([*platform.compiler, *flags, "-fstack-usage", "-c", source, "-o", made], check=True)
    stack = sum(int(line.split("\t")[1]) for line in (folder / "net.su").read_text().splitlines())
    subprocess.run([*platform.compiler, *flags, main, made, "-o", program, *platform.link], check=True)
    text, data, _ = sizes(made)
    state = symbol(program, "state")
    runner = [*platform.runner]
    runner[1:1] = ["-icount", "shift=0"]
    ran = subprocess.run([*runner, program], capture_output=True, text=True, check=True)
    ticks = int(re.findall(r"\d{11}", ran.stdout + ran.stderr)[0])
    return text + data, state, stack, ticks * 40 / STEPS


def sizes(path: Path) -> tuple[int, int, int]:
    """Of an object file: text with constants, data, bss."""
    lines = subprocess.run(["arm-none-eabi-size", path], capture_output=True, text=True, check=True).stdout.splitlines()
    text, data, bss = map(int, lines[1].split()[:3])
    return text, data, bss


def symbol(path: Path, name: str) -> int:
    """Bytes of an object with this name."""
    lines = subprocess.run(["arm-none-eabi-nm", "-S", path], capture_output=True, text=True, check=True).stdout
    found = re.search(rf"^\w+ (\w+) \w {name}$", lines, re.MULTILINE)
    assert found
    return int(found[1], 16)


def main() -> None:
    """Print the table."""
    if missing := CORTEX_M["Cortex-M4F"].missing:
        sys.exit(f"not installed: {missing}")
    version = subprocess.run(["arm-none-eabi-gcc", "-dumpversion"], capture_output=True, text=True).stdout.strip()
    print(f"Cortex-M4F, arm-none-eabi-gcc {version} -O2; instructions counted by qemu; numpy {np.__version__}\n")
    print("| model + Linear(1) | parameters | flash, bytes | RAM, bytes | stack, bytes | instructions a sample |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models().items():
            flash, ram, stack, count = measured(model, Path(folder))
            size = sum(array.size for array in model.state_dict().values())
            print(f"| {name} | {size:,} | {flash:,} | {ram:,} | {stack:,} | {count:,.0f} |")


if __name__ == "__main__":
    main()
