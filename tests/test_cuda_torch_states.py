"""recurra.torch on a GPU, or over its stand-in: options about states and directions, beside the CPU."""

from __future__ import annotations

from typing import Any

import pytest
from checks import assert_same_bits
from cuda_arrays import require_gpu
from torch_gpu import Gpu, gpu, numpy, on_cpu, require_stand_in
from torch_modules import LENGTHS, Tensor, assert_close, leaves, make_input, module, rnn_utils, tensors, torch

require_gpu()
require_stand_in()

__all__ = ["gpu"]  # a fixture

OPTIONS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "reverse": ("gru", {"direction": "reverse"}, False),
    "cells": ("lstm", {"bidirectional": True}, True),
    "cells of differences": ("differential_012", {"direction": "reverse"}, True),
    "clip": ("lstm", {"grad_clip": 0.05, "bidirectional": True}, True),
    "clip of h": ("reset_before", {"grad_clip": 0.05}, False),
    "bias": ("lstm_projected", {"proj_bias": True}, True),
    "learned": ("peephole", {"initial_state": True, "bidirectional": True}, False),
}


def trained(layer: Any, form: str, cells: bool) -> list[Tensor]:
    """All results and gradients."""
    layer.zero_grad()
    x = make_input(form).to(layer.weight_ih_l0.dtype).requires_grad_()
    given: Any = x
    if form == "packed":
        given = rnn_utils.pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False)
    results = layer(given, return_cells=cells)
    found = [part.data if isinstance(part, rnn_utils.PackedSequence) else part for part in results[:1] + results[2:]]
    found += leaves(results[1])
    sum((part.square() * (1 + k)).sum() for k, part in enumerate(found)).backward()
    return [*found, x.grad, *(parameter.grad for parameter in layer.parameters())]


@pytest.mark.parametrize("form", ["batch_first", "packed", "unbatched"])
@pytest.mark.parametrize("option", OPTIONS)
def test_results_and_gradients_are_those_of_the_cpu(gpu: Gpu, option: str, form: str) -> None:
    kind, options, cells = OPTIONS[option]
    layer = module(kind, num_layers=2, batch_first=form == "batch_first", engine="exact", **options)
    if layer.initial_state:
        with torch.no_grad():
            layer.h_0.uniform_(-1, 1)
            layer.c_0.uniform_(-1, 1)
    found = numpy(trained(layer, form, cells))
    layer.engine = "cublas"
    close = [part.detach().clone() for part in trained(layer, form, cells)]
    with on_cpu():
        want = trained(layer, form, cells)
    assert_same_bits(found, numpy(want))
    assert_close(close, [part.detach() for part in want], 1e-10)


def test_cells_without_gradients_and_of_lengths_on_the_gpu(gpu: Gpu) -> None:
    layer, x = module("lstm", direction="reverse", engine="exact"), make_input("")
    with torch.no_grad():
        for lengths in (None, LENGTHS, torch.tensor(LENGTHS)):
            found = numpy(tensors(layer(x, lengths=lengths, return_cells=True)))
            with on_cpu():
                want = layer(x, lengths=None if lengths is None else LENGTHS, return_cells=True)
                assert_same_bits(found, numpy(tensors(want)))
