"""The examples of the docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import pathlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recurra
from recurra import (
    _cells,
    _grid_layer,
    activation,
    deep_supervision,
    forest,
    formats,
    frequency_time,
    functional,
    generation,
    graph,
    grid_lstm,
    heads,
    initial_state,
    layers,
    leaf_module,
    local_global,
    match,
    multidimensional,
    packed,
    pool,
    recurrent,
    stream,
    tape,
    training,
    trees,
    variants,
)
from recurra import model as model_package
from recurra.export import cpp, program
from recurra.model import convolution, model, operation, operations
from recurra.model import stream as model_stream
from recurra.model import tape as model_tape
from recurra.training import losses, optimisers, truncated

os.environ.setdefault("KERAS_BACKEND", "torch")
MODULES: Any = (
    recurra,
    _cells,
    activation,
    cpp,
    program,
    formats,
    importlib.import_module("recurra.formats.unsupported"),
    frequency_time,
    functional,
    packed,
    pool,
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
    local_global,
    deep_supervision,
    multidimensional,
    convolution,
    model,
    model_tape,
    operation,
    operations,
    model_stream,
    stream,
    tape,
    trees,
    training,
    importlib.import_module("recurra.training.fit"),  # which a function of that name hides
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
MODULES_TOO = {"formats", "functional"}
# Public methods without an example: those that always raise; those that `recurra.formats` has examples of, run where
# their packages are; and what this library's own code asks for.
NO_EXAMPLES = {
    *(f"{kind}.{name}" for kind in ("GridLayer", "MatchLSTM", "TreeLSTM") for name in ("quantize", "stream")),
    *(f"Model.to_{package}" for package in ("keras", "onnx", "torch")),
    *(f"Packed.{name}" for name in ("at", "by_layer", "check_state", "checked_call", "initial_names")),
    "History.plot",  # which needs matplotlib
    "Operation.configuration",
}
# What needs other packages: by them, the modules, whose public names all have examples.
OTHERS = {
    (): ("formats.rtneural", "formats.own", "formats.safetensors", "formats.nam", "formats.guitarml"),
    ("onnx",): ("formats.onnx",),
    ("torch",): ("formats.torch", "torch"),
    ("keras", "h5py"): ("formats.keras",),
}


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])
def test_an_example_runs(example: doctest.DocTest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # some write files
    printed: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.REPORT_ONLY_FIRST_FAILURE).run(example, out=printed.append)
    assert not printed, "".join(printed)


def torch_inputs(torch: Any, one_step: bool) -> dict[str, Any]:
    return {
        "input": torch.zeros((3, 40) if one_step else (100, 3, 40)),
        "h": torch.zeros(3, 128),
        "c": torch.zeros(3, 128),
    }


@pytest.mark.parametrize(("packages", "name"), [(packages, name) for packages in OTHERS for name in OTHERS[packages]])
def test_examples_of_what_needs_other_packages(
    packages: tuple[str, ...], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for package in packages:
        pytest.importorskip(package, reason=f"the parity extra is not installed: no {package}")
    module: Any = importlib.import_module(f"recurra.{name}")
    given = NAMES | {package: importlib.import_module(package) for package in packages} | {"pathlib": pathlib}
    for public in module.__all__:
        if name == "torch":
            given |= torch_inputs(given["torch"], public.endswith("Cell"))
        (example,) = doctest.DocTestFinder(recurse=False).find(getattr(module, public), public, extraglobs=given)
        assert example.examples, public
        printed: list[str] = []
        doctest.DocTestRunner(optionflags=doctest.REPORT_ONLY_FIRST_FAILURE).run(example, out=printed.append)
        assert not printed, "".join(printed)


def test_everything_public_has_an_example() -> None:
    having = {example.name.rpartition(".")[2] for example in EXAMPLES}
    public = {name for module in (recurra, functional, training) for name in module.__all__}
    assert public - MODULES_TOO <= having
    assert {"forward", "stream", "quantize", "backward", "__call__"} <= having
    assert public >= MODULES_TOO


def examples_of(thing: object) -> str:
    """The statements of its docstring's examples."""
    return "".join(example.source for example in doctest.DocTestParser().get_examples(inspect.getdoc(thing) or ""))


def test_every_public_method_has_an_example() -> None:
    """In its own docstring or in that of its class."""
    without = set()
    for kind in {
        getattr(module, name) for module in (recurra, functional, training, model_package) for name in module.__all__
    }:
        if not inspect.isclass(kind):
            continue
        of_classes = "".join(map(examples_of, (base for base in kind.__mro__ if base.__module__.startswith("recurra"))))
        for name in dir(kind):
            member: Any = inspect.getattr_static(kind, name)
            member = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            public = inspect.isfunction(member) and member.__module__.startswith("recurra") and member.__doc__
            if public and name[0] != "_" and not examples_of(member) and not re.search(rf"\b{name}\b", of_classes):
                without.add(member.__qualname__)
    assert without == NO_EXAMPLES


def test_an_example_stands_at_the_top() -> None:
    for module in (recurra, functional, training):
        for name in set(module.__all__) - MODULES_TOO:
            text = inspect.getdoc(getattr(module, name)) or ""
            paragraphs = text.split("\n\n")
            assert paragraphs[1].lstrip().startswith(">>> "), name
