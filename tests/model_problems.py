"""Random models: graphs of every kind of node, of small and odd sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
from checks import Array

import recurra
from recurra.activation import FUNCTIONS

Node, Value = recurra.Node, recurra.Value
NAMES = sorted(FUNCTIONS)


class Drawn:
    """A model under construction: nodes so far, and what may still be read."""

    def __init__(self, seed: int, dtype: str, *, streams: bool, plain: bool) -> None:
        """streams: only what a stream can run; plain: no strides, and no window but those that end at their step."""
        self.random = np.random.default_rng(seed)
        self.dtype, self.streams, self.plain = dtype, streams, plain
        self.nodes: list[Any] = []
        self.inputs = {"x": Value((self.size(),))}
        if self.chance(0.3):
            self.inputs["speaker"] = Value((self.size(),), time=False)
        if self.chance(0.3):
            self.inputs["tokens"] = Value((), integer=True)
        self.values = dict(self.inputs)
        self.rates = {name: 1 for name in self.inputs}
        self.constant = {"speaker"}  # without time, from inputs without time
        self.current = "x"

    def size(self, most: int = 9) -> int:
        return int(self.random.integers(1, most + 1))

    def chance(self, p: float) -> bool:
        return bool(self.random.random() < p)

    def add(self, layer: Any, *inputs: str) -> str:
        name = f"node{len(self.nodes)}"
        sources = inputs or (self.current,)
        self.nodes.append(Node(layer, sources, name))
        model = recurra.Model(self.nodes, inputs=self.inputs)
        self.values[name] = model._values[name]
        of_time = [self.rates[s] for s in sources if self.values[s].time] or [self.rates[s] for s in sources]
        self.rates[name] = of_time[0] * getattr(layer, "stride", (1,))[0]
        if not self.values[name].time and all(s in self.constant for s in sources):
            self.constant.add(name)
        self.current = name
        return name

    def recurrent(self) -> None:
        cell = str(self.random.choice(["lstm", "gru", "rnn_tanh", "lstm_projected", "gru_reset_before", "mingru"]))
        cell = cell if cell in recurra.cells() else "gru"
        direction = "forward" if self.streams else str(self.random.choice(["forward", "reverse", "bidirectional"]))
        hidden = self.size(13) + 2
        self.add(
            recurra.Recurrent(
                cell,
                self.values[self.current].size,
                hidden,
                num_layers=self.size(2),
                direction=direction,
                proj_size=int(self.random.integers(1, hidden)) if "projected" in cell else 0,
                initial_state=self.chance(0.3),
                dtype=self.dtype,
                seed=int(self.random.integers(1000)),
            )
        )

    def wide(self) -> None:
        """Makes channels by width of the current value."""
        size = self.values[self.current].size
        divisors = [d for d in range(1, size + 1) if size % d == 0]
        channels = int(self.random.choice(divisors))
        self.add(recurra.Reshape((channels, size // channels)))

    def window(self) -> None:
        kernel, dilation = self.size(3), self.size(2)
        reach = dilation * (kernel - 1)
        stride = 1 if self.plain else self.size(2)
        before = reach if self.streams or self.plain else int(self.random.integers(0, reach + 2))
        after = 0 if self.streams or self.plain else int(self.random.integers(0, 2))
        seed = int(self.random.integers(1000))
        options: Any = {"dtype": self.dtype, "seed": seed, "bias": self.chance(0.7)}
        size = self.values[self.current].size
        if self.chance(0.5):
            groups = 1 if self.chance(0.5) else size
            if len(self.values[self.current].features) == 2:
                self.add(recurra.Reshape((size,)))
            layer = recurra.Conv1d(
                size, groups * self.size(4), kernel, stride, (before, after), dilation, groups, **options
            )
            self.add(layer)
            return
        self.wide()
        channels, width = self.values[self.current].features
        across, sides = self.size(min(3, width)), (int(self.random.integers(0, 2)), 0)
        if self.chance(0.5):
            groups = 1 if self.chance(0.5) else channels
            padding = ((before, after), sides)
            steps = (stride, self.size(2))
            self.add(
                recurra.Conv2d(
                    channels, groups * self.size(3), (kernel, across), steps, padding, (dilation, 1), groups, **options
                )
            )
            return
        reach = kernel - 1 if self.streams or self.plain else int(self.random.integers(0, 2))
        kernel = kernel if reach <= kernel // 2 else 2 if reach == 1 else 1
        reach = kernel - 1 if self.streams or self.plain else min(reach, kernel // 2)
        across_padding = (min(sides[0], across // 2), 0)
        pool = recurra.MaxPool2d if self.chance(0.5) else recurra.AvgPool2d
        self.add(pool((kernel, across), (stride, self.size(2)), ((reach, 0), across_padding)))

    def plain_node(self) -> None:
        size = self.values[self.current].size
        kind = int(self.random.integers(0, 9))
        if kind == 0:
            self.add(recurra.Linear(size, self.size(), dtype=self.dtype, seed=self.size(100), bias=self.chance(0.7)))
        elif kind == 1:
            name = str(self.random.choice(NAMES))
            needs = name in ("scaled_tanh", "affine")
            self.add(recurra.Activation(name, alpha=0.7, beta=-0.3) if needs else name)
        elif kind == 2:
            self.add(recurra.Softmax(log=self.chance(0.5)))
        elif kind == 3:
            layer = recurra.LayerNorm(size, weight=self.chance(0.7), bias=self.chance(0.7), dtype=self.dtype)
            self.fill(layer)
        elif kind == 4:
            self.fill(recurra.Scale(size, dtype=self.dtype))
        elif kind == 5:
            self.add(recurra.Select([int(i) for i in self.random.integers(0, size, self.size())]))
        elif kind == 6:
            self.add(recurra.Dropout(0.3))
        elif kind == 7:
            self.wide()
        else:
            self.embed()

    def fill(self, layer: Any) -> None:
        layer.load_state_dict(
            {n: self.random.uniform(-1, 1, a.shape).astype(a.dtype) for n, a in layer.state_dict().items()}
        )
        self.add(layer)

    def embed(self) -> None:
        if "tokens" not in self.inputs or self.rates[self.current] != 1 or not self.values[self.current].time:
            return
        before = self.current
        table = self.add(recurra.Embedding(11, self.size(), dtype=self.dtype, seed=self.size(100)), "tokens")
        self.join(before, table)

    def join(self, *names: str) -> None:
        sizes = {self.values[name].size for name in names}
        if len(sizes) == 1 and self.chance(0.6):
            self.add(recurra.Add() if self.chance(0.5) else recurra.Multiply(), *names)
        else:
            self.add(recurra.Concatenate(), *names)

    def branch(self) -> None:
        now, value = self.current, self.values[self.current]
        aligned = [
            name
            for name, other in self.values.items()
            if name != now and not other.integer and (name in self.constant or self.rates[name] == self.rates[now])
        ]
        aligned = [n for n in aligned if self.values[n].time or n in self.constant or not self.streams]
        if not aligned or not value.time or not self.plain:
            return
        self.join(now, str(self.random.choice(aligned)))


def random_model(seed: int, dtype: str = "float32", *, streams: bool = False, plain: bool = True) -> recurra.Model:
    """A model of one to a dozen nodes."""
    drawn = Drawn(seed, dtype, streams=streams, plain=plain)
    for _ in range(drawn.size(8)):
        kind = int(drawn.random.integers(0, 10))
        if kind < 3:
            drawn.recurrent()
        elif kind < 5:
            drawn.window()
        elif kind < 9:
            drawn.plain_node()
        else:
            drawn.branch()
    if not drawn.nodes:
        drawn.plain_node()
    if not drawn.nodes or drawn.chance(0.3):
        drawn.add("tanh")
    outputs = [drawn.current]
    timed = [n.name for n in drawn.nodes if drawn.values[n.name].time]
    if drawn.chance(0.3):
        outputs.append(str(drawn.random.choice(timed)))
    if drawn.chance(0.3):
        drawn.add(recurra.Pool(str(drawn.random.choice(["last", "first", "max", "mean"]))))
        outputs.append(drawn.current)
    outputs = list(dict.fromkeys(outputs))
    return recurra.Model(drawn.nodes, inputs=drawn.inputs, outputs=outputs, batch_first=drawn.chance(0.3))


def random_inputs(model: recurra.Model, steps: int, rows: int, seed: int = 0) -> dict[str, Array]:
    """Arrays for a call."""
    random, arrays = np.random.default_rng(seed), {}
    for name, value in model.inputs.items():
        axes = (rows, steps) if model.batch_first else (steps, rows)
        shape = (*(axes if value.time else (rows,)), *value.features)
        arrays[name] = (
            random.integers(0, 11, shape) if value.integer else random.standard_normal(shape).astype(model.dtype)
        )
    return arrays
