"""Resets and masks on a GPU, or over its stand-in, in recurra.torch: the CPU's results. For arrays there is
test_cuda_segments.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import assert_same_bits
from cuda_arrays import counted, require_gpu
from torch_gpu import Gpu, gpu, numpy, on_cpu, require_stand_in
from torch_modules import Tensor, torch

import recurra
import recurra.torch

require_gpu()
require_stand_in()

__all__ = ["gpu"]  # a fixture

T, B, N, H = 7, 4, 3, 5
F64 = torch.float64


def made(kind: str, dtype: Any = F64, **options: Any) -> Any:
    torch.manual_seed(0)
    return getattr(recurra.torch, kind)(N, H, num_layers=2, bidirectional=True, dtype=dtype, **options)


def flags() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(1)
    return torch.from_numpy(rng.random((T, B)) < 0.3), torch.from_numpy(rng.random((T, B)) < 0.6)


def train(layer: Any, lengths: Any = None, **marks: Any) -> list[Any]:
    """All results and gradients of a call."""
    torch.manual_seed(1)
    dtype = layer.weight_ih_l0.dtype
    x = torch.randn(T, B, N, dtype=dtype, requires_grad=True)
    state, fresh = ([torch.rand(4, *b, H, dtype=dtype, requires_grad=True) for _ in "hc"] for b in ((B,), ()))
    given = [tuple(parts) if isinstance(layer, recurra.torch.LSTM) else parts[0] for parts in (state, fresh)]
    y, final = layer(x, given[0], lengths, reset_state=given[1], **marks)
    last = list(final) if isinstance(final, tuple) else [final]
    torch.manual_seed(2)
    layer.zero_grad()
    torch.autograd.backward([y, *last], [torch.randn_like(part) for part in (y, *last)])
    leaves = [x, *state[: len(last)], *fresh[: len(last)], *layer.parameters()]
    return [y, *last, *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("engine", ["exact", "cublas"])
@pytest.mark.parametrize("masked_output", ["previous", "zero"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_training_is_the_cpus(gpu: Gpu, kind: str, masked_output: str, engine: str) -> None:
    resets, mask = flags()
    marks = {"resets": resets, "mask": mask, "masked_output": masked_output}
    launches = counted("launches")
    found = train(made(kind, engine=engine), [7, 0, 5, 7], **marks)
    assert counted("launches") > launches
    with on_cpu():
        want = train(made(kind), [7, 0, 5, 7], **marks)
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
    if engine == "exact":  # outputs and states; gradients of x where none are added up on the way to repeated outputs
        count = (3 if kind == "LSTM" else 2) + (masked_output == "zero")
        assert_same_bits(numpy(found[:count]), numpy(want[:count]))


def test_flags_may_be_anywhere(gpu: Gpu) -> None:
    resets, mask = flags()
    layer = made("GRU")
    want = layer(torch.ones(T, B, N, dtype=F64), resets=resets, mask=mask)
    host = layer(torch.ones(T, B, N, dtype=F64), resets=gpu.host(resets), mask=mask.numpy())
    assert_same_bits(numpy(host), numpy(want))
    on_gpu = layer(torch.ones(T, B, N, dtype=F64), None, torch.tensor([7, 0, 5, 7]), resets=resets)
    assert_same_bits(numpy(on_gpu), numpy(layer(torch.ones(T, B, N, dtype=F64), None, [7, 0, 5, 7], resets=resets)))


@pytest.mark.parametrize("rates", [{"zoneout": 0.3}, {"recurrent_dropout": 0.3}, {"dropout": 0.3}])
@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
def test_what_is_left_out_at_random(gpu: Gpu, direction: str, rates: dict[str, Any]) -> None:
    """What the CPU leaves out, by the kernels; in derivatives of gradients too."""
    resets, mask = flags()
    torch.manual_seed(0)
    layer = recurra.torch.LSTM(N, H, num_layers=2, direction=direction, dtype=F64, engine="exact", **rates)
    given = torch.rand(T, B, N, dtype=F64)

    def results() -> list[Any]:
        torch.manual_seed(3)
        x = given.clone().requires_grad_()
        y, final, cells = layer(x, None, [7, 0, 5, 7], resets=resets, mask=mask, return_cells=True)
        first = torch.autograd.grad(y.square().sum() + cells.sin().sum(), [x, *layer.parameters()], create_graph=True)
        second = torch.autograd.grad(sum(part.square().sum() for part in first), [x, *layer.parameters()])
        return [y, *final, cells, *first, *second]

    launches = counted("launches")
    found = results()
    assert counted("launches") > launches
    assert bool((found[0] != layer.eval()(given, None, [7, 0, 5, 7], resets=resets, mask=mask)[0]).any())
    layer.train()
    if "dropout" in rates:  # torch's own, which draws otherwise there
        return
    with on_cpu():
        want = results()
    assert_same_bits(numpy(found[:4]), numpy(want[:4]))
    torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("masked_output", ["previous", "zero"])
def test_cells_of_every_step(gpu: Gpu, masked_output: str) -> None:
    resets, mask = flags()
    marks: dict[str, Any] = {"resets": resets, "mask": mask, "masked_output": masked_output, "return_cells": True}
    layers = [made("LSTM", batch_first=first, engine="exact") for first in (False, True)]
    x, state = torch.rand(T, B, N, dtype=F64), tuple(torch.rand(4, B, H, dtype=F64) for _ in "hc")
    fresh = tuple(torch.rand(4, H, dtype=F64) for _ in "hc")

    def results() -> list[Any]:
        given = [part.clone().requires_grad_() for part in (x, *state, *fresh)]
        y, final, cells = layers[0](given[0], tuple(given[1:3]), [7, 0, 5, 7], reset_state=tuple(given[3:]), **marks)
        gradients = torch.autograd.grad((y * cells).sum() + final[1].sum(), [*given, *layers[0].parameters()])
        return [y, *final, cells, *gradients]

    found = results()
    with on_cpu():
        want = results()
    assert_same_bits(numpy(found[:4]), numpy(want[:4]))
    torch.testing.assert_close(found, want, rtol=1e-11, atol=1e-11)
    turned = layers[1](x.transpose(0, 1), **{**marks, "resets": resets.T, "mask": mask.T})
    y, final, cells = layers[0](x, **marks)
    assert_same_bits(
        numpy([turned[0].transpose(0, 1), turned[2].transpose(0, 1), *turned[1]]), numpy([y, cells, *final])
    )
    alone = layers[0](x[:, 1], **{**marks, "resets": resets[:, 1], "mask": mask[:, 1]})
    assert_same_bits(numpy([alone[0], alone[2]]), numpy([y[:, 1], cells[:, 1]]))


def test_one_sequence_and_batch_first(gpu: Gpu) -> None:
    resets, mask = flags()
    x = torch.arange(T * B * N, dtype=F64).reshape(T, B, N).sin()
    want, final = made("LSTM")(x, resets=resets, mask=mask)
    turned, _ = made("LSTM", batch_first=True)(x.transpose(0, 1), resets=resets.T, mask=mask.T)
    assert_same_bits(numpy([turned.transpose(0, 1)]), numpy([want]))
    alone, last = made("LSTM")(x[:, 1], resets=resets[:, 1], mask=mask[:, 1])
    assert_same_bits(numpy([alone, *last]), numpy([want[:, 1], *(part[:, 1] for part in final)]))


@pytest.mark.parametrize(("steps", "rows"), [(0, 3), (3, 0), (0, 0), (3, 2)])
def test_nothing_to_run(gpu: Gpu, steps: int, rows: int) -> None:
    """No steps, no rows, or no step that is valid."""
    x, state = torch.ones(steps, rows, N, dtype=F64), torch.rand(4, rows, H, dtype=F64)
    none = torch.zeros(steps, rows, dtype=torch.bool)
    y, h = made("GRU")(x, state, resets=none, mask=none)
    assert y.shape == (steps, rows, 2 * H) and torch.equal(h, state)
    assert torch.equal(y, torch.cat([state[2], state[3]], -1).expand(steps, rows, 2 * H))


@pytest.mark.parametrize("masked_output", ["previous", "zero"])
def test_reverse(gpu: Gpu, masked_output: str) -> None:
    resets, mask = flags()
    x, state, fresh = (torch.rand(*shape, dtype=F64) for shape in ((T, B, N), (2, B, H), (2, H)))
    marks = {"resets": resets, "mask": mask, "masked_output": masked_output, "reset_state": fresh}
    layer = recurra.torch.GRU(N, H, num_layers=2, direction="reverse", dtype=F64, engine="exact")
    found = layer(x, state, [7, 0, 5, 7], **marks)
    with on_cpu():
        assert_same_bits(numpy(found), numpy(layer(x, state, [7, 0, 5, 7], **marks)))
