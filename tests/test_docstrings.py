"""The examples of the docstrings run and print what they say."""

from __future__ import annotations

import doctest
import inspect
from typing import Any

import numpy as np
import pytest

import recurra
from recurra import (
    _grid_layer,
    forest,
    frequency_time,
    functional,
    generation,
    graph,
    grid_lstm,
    heads,
    initial_state,
    layers,
    leaf_module,
    match,
    multidimensional,
    packed,
    recurrent,
    stream,
    tape,
    training,
    trees,
    variants,
)
from recurra.training import losses, optimisers, truncated

MODULES: Any = (
    recurra,
    frequency_time,
    functional,
    packed,
    recurrent,
    forest,
    layers,
    graph,
    leaf_module,
    heads,
    generation,
    initial_state,
    match,
    _grid_layer,
    grid_lstm,
    multidimensional,
    stream,
    tape,
    trees,
    training,
    losses,
    optimisers,
    truncated,
    variants,
)
NAMES = {"np": np, "recurra": recurra, "functional": functional, "training": training}
EXAMPLES = [
    test
    for module in MODULES
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs=NAMES)
    if test.examples
]
# What a newcomer does not meet: made by what has an example, named tuples, and one line says it all.
WITHOUT = {
    "Generated",
    "Gradients",
    "Tape",
    "TreeGradients",
    "TreeTape",
    "Window",
    "Packed",
    "Regularization",
    "functional",
}
WITHOUT |= {"cells", "config", "show_config", "get_num_threads", "set_num_threads", "release_memory"}


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])
def test_an_example_runs(example: doctest.DocTest) -> None:
    printed: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.REPORT_ONLY_FIRST_FAILURE).run(example, out=printed.append)
    assert not printed, "".join(printed)


def test_everything_public_has_an_example() -> None:
    having = {example.name.rpartition(".")[2] for example in EXAMPLES}
    public = {name for module in (recurra, functional, training) for name in module.__all__}
    assert public - WITHOUT <= having
    assert {"forward", "stream", "quantize", "backward", "__call__"} <= having
    assert public >= WITHOUT


def test_an_example_stands_at_the_top() -> None:
    for module in (recurra, functional, training):
        for name in set(module.__all__) - WITHOUT:
            text = inspect.getdoc(getattr(module, name)) or ""
            paragraphs = text.split("\n\n")
            assert paragraphs[1].lstrip().startswith(">>> "), name
