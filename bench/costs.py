"""What every network costs beside what it can do: parameters, multiply-adds and microseconds of a step.

python bench/costs.py                      # prints the table in Markdown; a minute
python bench/costs.py docs/variants.md     # and writes it there, between its markers
"""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import recurra
from recurra.bench.machine import processor
from recurra.bench.report import number
from recurra.bench.run import interleaved

INPUTS, HIDDEN, BATCHES = 64, (64, 128), (1, 32)
STEPS, WORDS, GRID, LEAVES, CHUNK, OVERLAP = 100, 32, (16, 16), 32, 16, 8
SECONDS = 10.0  # for each size of all networks
BEGIN, END = "<!-- costs -->", "<!-- end of costs -->"

Layer = Any
Call = Callable[[], Any]


def weights(layer: Layer, prefix: str = "") -> int:
    """Values in those parameters of this prefix that are no biases."""
    params = layer.state_dict().items()
    return sum(a.size for name, a in params if name.startswith(prefix) and "bias" not in name and "beta" not in name)


def random(*shape: int) -> Any:
    """Standard normal."""
    return np.random.default_rng(0).standard_normal(shape, dtype="float32")


class Work(NamedTuple):
    """What a call does: for how many units (steps, nodes, ..) of each row, from which arguments, made for a layer and a
    batch, and with how many multiply-adds a unit: each weight once wherever it is used."""

    unit: str
    units: int
    arguments: Callable[[Layer, int], tuple[Any, ...]]
    multiply_adds: Callable[[Layer], float] = weights


def forest(trees: int) -> recurra.Forest:
    """Balanced binary trees."""

    def tree(leaves: int) -> Any:
        return (tree(leaves // 2), tree(leaves - leaves // 2)) if leaves > 1 else "x"

    return recurra.Forest.nested([tree(LEAVES)] * trees)


def tree_arguments(layer: recurra.TreeLSTM, batch: int) -> tuple[Any, ...]:
    """Inputs of all nodes, or if there are none states of the leaves."""
    trees = forest(batch)
    if layer.kind == "s_lstm":
        return trees, None, tuple(random(2, len(trees.leaves), layer.hidden_size))
    return trees, random(trees.num_nodes, INPUTS)


def tree_multiply_adds(layer: recurra.TreeLSTM) -> float:
    """Of a node, leaves and inner ones together."""
    params, tree = layer.state_dict(), forest(1)
    inner, edges = tree.num_nodes - len(tree.leaves), len(tree.children)
    uses = {"weight_ih": tree.num_nodes, "weight_hh": inner, "weight_ch": inner, "weight_co": inner}
    total = float(sum(uses[name] * array.size for name, array in params.items() if name != "bias"))
    if layer.kind == "child_sum":  # of its four blocks the forget gate's is used for each child
        total += (edges - inner) * params["weight_hh"].size / 4
    return total / tree.num_nodes


def match_multiply_adds(layer: recurra.MatchLSTM) -> float:
    """Of a word of the hypothesis, with its part of the premise, which has as many words, and NULL."""
    premise, attention = layer.state_dict()["attention.weight_premise"].size, weights(layer, "attention.")
    score = layer.state_dict()["attention.weight_score"].size
    words = (WORDS + 1) * (score + layer.hidden_size)
    encoders = 2 * weights(layer, "encoder.")
    return encoders + (WORDS + 1) / WORDS * premise + attention - premise - score + words + weights(layer, "match.")


def frequency_time_multiply_adds(layer: recurra.FrequencyTimeLSTM) -> float:
    """Of a frame."""
    return layer.chunks * weights(layer, "frequency.") + weights(layer, "time.")


def local_global_multiply_adds(layer: recurra.LocalGlobalLSTM) -> float:
    """Of a point. The regions' part of a layer's products, which is half of them, is made once for all of a map."""
    products = weights(layer, "weight_spatial") + weights(layer, "weight_depth")
    return weights(layer) - products / 2


SEQUENCE = Work("step", STEPS, lambda layer, batch: (random(STEPS, batch, INPUTS),))
FRAMES = SEQUENCE._replace(unit="frame", multiply_adds=frequency_time_multiply_adds)
TREE = Work("node", 2 * LEAVES - 1, tree_arguments, tree_multiply_adds)
PLANE = Work("point", math.prod(GRID), lambda layer, batch: (random(batch, *GRID, INPUTS),))
MAP = PLANE._replace(multiply_adds=local_global_multiply_adds)
LINE = Work("step", STEPS, lambda layer, batch: (random(batch, STEPS, INPUTS),))
SENTENCES = Work("word", WORDS, lambda layer, batch: tuple(random(2, WORDS, batch, INPUTS)), match_multiply_adds)


class Row(NamedTuple):
    """A network: its multiply-adds as a formula (of a tree those of a node with K children), what it can do, and how it
    is made for so many hidden units."""

    name: str
    formula: str
    can: str
    layer: Callable[[int], Layer]
    work: Work = SEQUENCE


def of(network: Any, /, *more: Any, inputs: int = INPUTS, **options: Any) -> Callable[[int], Layer]:
    """Makes networks of this kind and these options."""
    return lambda hidden: network(inputs, hidden, *more, **options)


def bands(hidden: int) -> Layer:
    """Makes Frequency-Time LSTMs."""
    return recurra.FrequencyTimeLSTM(INPUTS, hidden, chunk_size=CHUNK, overlap=OVERLAP, frequency_size=hidden // 4)


grid: Any = recurra.MultidimensionalLSTM
plane: dict[str, Any] = {"directions": 1}
ROWS = [
    Row("RNN", "H(I+H)", "one product with the state, no gates", of(recurra.RNN)),
    Row("LSTM", "4H(I+H)", "a memory and three gates", of(recurra.LSTM)),
    Row("GRU", "3H(I+H)", "a memory and two gates", of(recurra.GRU)),
    Row("LSTM, layer_norm", "4H(I+H)+9H", "gates that weights' size does not move", of(recurra.LSTM, layer_norm=True)),
    Row("GRU, layer_norm", "3H(I+H)+6H", "likewise", of(recurra.GRU, layer_norm=True)),
    Row("MultiplicativeLSTM", "5H(I+H)", "inputs choose the recurrent matrix", of(recurra.MultiplicativeLSTM)),
    Row("DifferentialRNN, N=1", "4H(I+H)+3NH", "gates see how the cell changes", of(recurra.DifferentialRNN)),
    Row(
        "DifferentialRNN, diagonal=False, N=1",
        "4H(I+H)+3NH^2",
        "each gate sees that of all units",
        of(recurra.DifferentialRNN, diagonal=False),
    ),
    Row("SLSTM", "4H(I+H)", "exponential gates revise what is stored", of(recurra.SLSTM)),
    Row("IndRNN", "HI+H", "no product waits for a step", of(recurra.IndRNN)),
    Row("MinGRU", "2HI", "likewise, with a gate", of(recurra.MinGRU)),
    Row("MinLSTM", "3HI", "likewise, with two gates", of(recurra.MinLSTM)),
    Row("SRU", "4HI+2H", "likewise, with two gates and a highway", of(recurra.SRU)),
    Row("TreeLSTM, Child-Sum, K=2", "4HI+(3+K)H^2", "trees, any number of children", of(recurra.TreeLSTM), TREE),
    Row("TreeLSTM, N-ary, K=2", "4HI+K(K+3)H^2", "trees, left told from right", of(recurra.TreeLSTM, "n_ary"), TREE),
    Row("TreeLSTM, S-LSTM, K=2", "2K(K+2)H^2+H^2", "likewise", of(recurra.TreeLSTM, "s_lstm", inputs=0), TREE),
    Row("MultidimensionalLSTM, N=2", "(N+3)H(I+NH)+(N+2)H", "grids", of(grid, **plane), PLANE),
    Row("the same, leakylp", "(N+3)H(I+NH)", "large grids", of(grid, kind="leakylp", **plane), PLANE),
    Row("the same, time_frequency", "4H(I+NH)+3H", "spectra", of(grid, kind="time_frequency", **plane), PLANE),
    Row("GridLSTM, N=2", "4NH(I+NH)", "a memory along each dimension", of(recurra.GridLSTM), PLANE),
    Row("GridLSTM, N=1, D=2", "16DH^2+2HI", "and along the depth", of(recurra.GridLSTM, 1, 2), LINE),
    Row("LocalGlobalLSTM", "324H^2+HI", "a point meets the whole map", of(recurra.LocalGlobalLSTM), MAP),
    Row("FrequencyTimeLSTM, M=7, F=H/4", "4MF(B+F)+4H(MF+H)", "spectra, one network for all bands", bands, FRAMES),
    Row(f"MatchLSTM, M={WORDS}", "8HI+23H^2+2MH", "a sentence against another", of(recurra.MatchLSTM), SENTENCES),
]


def measured(rows: list[Row], seconds: float) -> list[list[str]]:
    """Microseconds of a step of each row, for one row and for many; cells of the table. Of many turns the quietest
    counts, because others may use the machine."""
    cells: list[list[str]] = [[] for _ in rows]
    for batch in BATCHES:
        for_size: list[dict[str, Any]] = []
        for hidden in HIDDEN:
            layers = [row.layer(hidden) for row in rows]
            calls: dict[str, Call] = {
                row.name: partial(layer, *row.work.arguments(layer, batch))
                for row, layer in zip(rows, layers, strict=True)
            }
            for_size.append(interleaved(calls, seconds))
        for row, own in zip(rows, cells, strict=True):
            medians = [min(map(np.median, times[row.name])) for times in for_size]
            own.append(" / ".join(number(float(median) / row.work.units / batch) for median in medians))
    return cells


def counted(row: Row) -> list[str]:
    """A network's cells that take no measuring: name, what it can do, formula, multiply-adds and parameters."""
    layers = [row.layer(hidden) for hidden in HIDDEN]
    each = "" if row.work.unit == "step" else f" a {row.work.unit}"
    sizes = [sum(array.size for array in layer.state_dict().values()) for layer in layers]
    counts = [[row.work.multiply_adds(layer) for layer in layers], sizes]
    return [row.name, row.can, row.formula + each, *(" / ".join(number(n / 1e3) for n in pair) for pair in counts)]


def table(rows: list[Row], seconds: float) -> str:
    """The table in Markdown."""
    columns = ["network", "what it can do", "multiply-adds of a step", "thousands of them", "thousands of parameters"]
    columns += [f"us, {batch} row{'s' * (batch > 1)}" for batch in BATCHES]
    times = measured(rows, seconds)
    lines = [columns, ["---"] * len(columns), *(counted(row) + own for row, own in zip(rows, times, strict=True))]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def note() -> str:
    """What stands above the table."""
    text = (
        f"I = {INPUTS}, H = {' / '.join(map(str, HIDDEN))}, float32, forward, one thread of {processor()}, "
        f"{recurra.config()['isa']}. Microseconds are a step's of one row, alone and in a batch of {BATCHES[1]}, "
        f"medians of the quietest turn, in calls of {STEPS} steps, of {WORDS} and {WORDS} words, of "
        f"{' x '.join(map(str, GRID))} points, or of {2 * LEAVES - 1} nodes, leaves among them."
    )
    return textwrap.fill(text, 100)


def written(text: str, content: str) -> str:
    """The text with this content between its markers.

    Raises:
        ValueError: there are none.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected a file with the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def main(arguments: list[str], seconds: float = SECONDS) -> None:
    """Print the table, and write it into a file, if one is named."""
    files = [Path(name) for name in arguments]
    for file in files:
        written(file.read_text(encoding="utf-8"), "")  # now, rather than after the measuring
    recurra.set_num_threads(1)
    content = f"{note()}\n\n{table(ROWS, seconds)}"
    print(content)
    for file in files:
        file.write_text(written(file.read_text(encoding="utf-8"), content), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
