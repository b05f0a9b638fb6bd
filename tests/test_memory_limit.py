"""What a call, a tape, a backward pass or a stream would take, which must be refused where the machine has less."""

from __future__ import annotations

import sys

import pytest
from checks import run_python

MEASURE = """
import sys
import numpy as np
import recurra
from recurra import _core

cell, layers, directions, steps, rows, what = sys.argv[1], *map(int, sys.argv[2:6]), sys.argv[6]
layer = recurra.Recurrent(cell, 1, 1, layers, bidirectional=directions == 2, seed=0)
x = np.broadcast_to(np.ones((1, 1, 1), "float32"), (steps, rows, 1))
dy = np.ones((steps, rows, directions), "float32")
out = np.full_like(dy, 7)
layer.forward(x[:, :1])[2].backward(dy[:, :1])
tape = layer.forward(x)[2] if what == "backward" else None
use = {
    "x": lambda: layer(x, out=out),
    "tape of x": lambda: layer.forward(x),
    "backward": lambda: tape.backward(dy, input_grad=False),
    "batch": lambda: layer.stream(rows).step(x[0]),
}[what]


def resident(name):  # ru_maxrss would be that of the process that started this one
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))


with open("/proc/self/clear_refs", "w") as file:  # the peak begins here
    file.write("5")
before = resident("VmRSS")
use()
taken = resident("VmHWM") - before
held = tape.nbytes if tape else 0
recurra.release_memory()
_core.limit_memory(held + int(taken / 1.5))
out.fill(7)
try:
    use()
    print("taken, but it needs", taken)
except MemoryError as error:
    assert str(error).startswith(what), error
    assert (out == 7).all()
_core.limit_memory(held + int(taken * 1.5))
use()
"""


LSTM, STACK, RNN = ("lstm", 1, 1, 4, 1 << 17), ("gru_reset_before", 3, 2, 16, 1 << 14), ("rnn_tanh", 2, 1, 2, 1 << 18)
USES = [(what, *sizes) for what in ("x", "tape of x", "backward") for sizes in (LSTM, STACK, RNN)]
USES += [("batch", *LSTM), ("batch", *RNN)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells the memory of a process so")
@pytest.mark.parametrize(("what", "cell", "layers", "directions", "steps", "rows"), USES)
def test_what_a_call_takes_is_known_before_it_begins(
    what: str, cell: str, layers: int, directions: int, steps: int, rows: int
) -> None:
    assert not run_python(MEASURE, cell, *map(str, (layers, directions, steps, rows)), what)


SPARE = """
import numpy, recurra
from recurra import _core

layer = recurra.LSTM(8, 256, seed=0)


def tape(steps):
    return layer.forward(numpy.zeros((steps, 8, 8), "float32"))[2].nbytes


first = tape(1700)  # its memory stays for a tape of its size
_core.limit_memory(first + tape(10) + (12 << 20))
assert tape(700) > 16 << 20
"""


def test_memory_that_lies_idle_does_not_count_against_a_call() -> None:
    assert not run_python(SPARE)
