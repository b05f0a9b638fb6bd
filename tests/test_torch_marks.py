"""Resets and masks of recurra.torch: the bits of recurra's layers, with gradients of every order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close, assert_same_bits, states

import recurra

torch = pytest.importorskip("torch", reason="torch is not installed")
import recurra.torch  # noqa: E402

T, B, N, H = 7, 4, 3, 5
KINDS = ("LSTM", "GRU", "RNN", "MinGRU", "MultiplicativeLSTM")


def tensor(array: Any) -> Any:
    return torch.from_numpy(np.ascontiguousarray(array))


def made(kind: str, dtype: str = "float64", **options: Any) -> tuple[Any, Any]:
    """A module and the layer with its parameters."""
    torch.manual_seed(0)
    module = getattr(recurra.torch, kind)(N, H, dtype=getattr(torch, dtype), **options)
    kept = {k: v for k, v in options.items() if k != "recompute"}
    layer = getattr(recurra, kind)(N, H, dtype=dtype, **kept)
    layer.load_state_dict(module.state_dict())
    return module, layer


def problem(layer: Any, dtype: str = "float64", shared: bool = False) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    lanes = layer.num_layers * (1 + layer.bidirectional)
    shapes = layer._packed.state_shapes((B,)).values()

    def state(batch: tuple[int, ...]) -> list[Array]:
        return [rng.uniform(-1, 1, (lanes, *batch, shape[-1])).astype(dtype) for shape in shapes]

    return {
        "x": rng.standard_normal((T, B, N)).astype(dtype),
        "state": state((B,)),
        "reset_state": state(() if shared else (B,)),
        "resets": rng.random((T, B)) < 0.3,
        "mask": rng.random((T, B)) < 0.6,
    }


def nested(parts: Any) -> Any:
    return parts[0] if len(parts) == 1 else tuple(parts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("masked_output", ["previous", "zero"])
def test_bits_are_those_of_layers(kind: str, batch_first: bool, masked_output: str) -> None:
    module, layer = made(kind, num_layers=2, bidirectional=True, batch_first=batch_first, recompute=batch_first)
    given = problem(layer, shared=batch_first)

    def turn(a: Any) -> Any:
        return a.swapaxes(0, 1) if batch_first else a

    x = tensor(turn(given["x"])).requires_grad_()
    state, fresh = ([tensor(s).requires_grad_() for s in given[k]] for k in ("state", "reset_state"))
    marks = {"resets": turn(given["resets"]), "mask": turn(given["mask"]), "masked_output": masked_output}
    lengths = [7, 0, 5, 7]
    y, final = module(
        x,
        nested(state),
        lengths,
        reset_state=nested(fresh),
        **{k: tensor(v) if k != "masked_output" else v for k, v in marks.items()},
    )
    want, last, tape = layer.forward(
        turn(given["x"]), nested(given["state"]), lengths=lengths, reset_state=nested(given["reset_state"]), **marks
    )
    results: Any = [y, *states(final)]
    assert_same_bits([part.detach() for part in results], [want, *states(last)])
    with torch.no_grad():
        alone = module(x, nested(state), lengths, reset_state=nested(fresh), **marks)[0]
    assert_same_bits(alone, want)
    dy = np.random.default_rng(2).standard_normal(y.shape)
    y.backward(tensor(dy))
    found = tape.backward(dy)
    assert_same_bits(x.grad, found.x)
    assert_same_bits([s.grad for s in state], list(states(found.state)))
    # A state that all rows share is summed up by torch, in an order of its own.
    fresh_gradients = [s.grad for s in fresh]
    assert_close(fresh_gradients, list(states(found.reset_state)), 1e-13)
    if not batch_first:
        assert_same_bits(fresh_gradients, list(states(found.reset_state)))
    assert_same_bits([p.grad for p in module.parameters()], list(found.params.values()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked_output", ["previous", "zero"])
@pytest.mark.parametrize("lengths", [None, [7, 0, 5, 7]])
def test_higher_derivatives(kind: str, masked_output: str, lengths: list[int] | None) -> None:
    """The equations have the core's results and first gradients, and second ones of theirs."""
    module, layer = made(kind, num_layers=2, bidirectional=True)
    given = problem(layer)
    tensors = [tensor(given["x"]), *(tensor(s) for k in ("state", "reset_state") for s in given[k])]
    marks = {"resets": tensor(given["resets"]), "mask": tensor(given["mask"]), "masked_output": masked_output}
    count = len(given["state"])

    def call(*tensors: Any) -> Any:
        x, state, fresh = tensors[0], tensors[1 : 1 + count], tensors[1 + count :]
        y, final = module(x, nested(list(state)), lengths, reset_state=nested(list(fresh)), **marks)
        return [y, *states(final)]

    leaves = [t.clone().requires_grad_() for t in tensors]
    core = call(*leaves)
    by_equations = torch.func.vjp(call, *tensors)
    assert_close([r.detach() for r in core], [r.detach() for r in by_equations[0]], 1e-12)
    upstream = [torch.randn_like(r) for r in core]
    first = torch.autograd.grad(core, leaves, upstream, create_graph=True)
    assert_close([g.detach() for g in first], [g.detach() for g in by_equations[1](upstream)], 1e-11)
    second = torch.autograd.grad(sum((g**2).sum() for g in first), leaves)
    eps, direction = 1e-6, [torch.randn_like(t) for t in tensors]

    def slope(sign: int) -> Any:
        moved = [(t + sign * eps * d).requires_grad_() for t, d in zip(tensors, direction, strict=True)]
        return sum((g**2).sum() for g in torch.autograd.grad(call(*moved), moved, upstream))

    if kind != "MinGRU":  # which has a kink
        want = float((slope(1) - slope(-1)) / (2 * eps))
        got = float(sum((g * d).sum() for g, d in zip(second, direction, strict=True)))
        assert abs(got - want) < 1e-5 * (1 + abs(want))


@pytest.mark.parametrize("rates", [{"zoneout": 0.3, "recurrent_dropout": 0.3}, {"zoneout": 0.3, "dropout": 0.3}])
def test_what_is_left_out_at_random(rates: dict[str, float]) -> None:
    """The equations leave out what the core does."""
    options: dict[str, Any] = dict(rates)
    module, layer = made("GRU", num_layers=2, bidirectional=True, **options)
    given = problem(layer)
    marks = {"resets": given["resets"], "mask": given["mask"]}
    x = tensor(given["x"])
    torch.manual_seed(3)
    y, _ = module(x, **marks)
    torch.manual_seed(3)
    y_func, _ = torch.func.vjp(lambda x: module(x, **marks)[0], x)
    assert_close(y.detach(), y_func.detach(), 1e-12)
    module.eval()
    assert_close(module(x, **marks)[0].detach(), torch.func.vjp(lambda x: module(x, **marks)[0], x)[0].detach(), 1e-12)


def test_one_sequence_without_a_batch_axis() -> None:
    module, layer = made("LSTM", batch_first=True)
    given = problem(layer)
    marks = {"resets": given["resets"][:, 1], "mask": given["mask"][:, 1]}
    fresh = [s[:, 1] for s in given["reset_state"]]
    y, final = module(tensor(given["x"][:, 1]), reset_state=tuple(map(tensor, fresh)), **marks)
    want, last = layer(given["x"][:, 1], reset_state=tuple(fresh), **marks)
    assert_same_bits([y.detach(), *(s.detach() for s in final)], [want, *last])


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (TypeError, r"resets: expected torch\.bool, got torch\.float32", {"resets": torch.ones(T, B)}),
        (TypeError, "mask: expected bool, got int64", {"mask": np.ones((T, B), "int64")}),
        (ValueError, r"mask: expected shape \[7, 4\], got \[4, 7\]", {"mask": torch.ones(B, T, dtype=torch.bool)}),
        (ValueError, "reset_state: expected None without resets", {"reset_state": torch.zeros(1, B, H)}),
        (ValueError, "masked_output: expected 'previous' without a mask", {"masked_output": "zero"}),
        (
            ValueError,
            r"reset_state h: expected shape \[1, 4, 5\] or \[1, 5\], got \[5\]",
            {"resets": torch.ones(T, B, dtype=torch.bool), "reset_state": torch.zeros(H)},
        ),
        (TypeError, "lengths: expected integers, got bool: pass a mask", {"lengths": torch.ones(B, dtype=torch.bool)}),
    ],
)
def test_bad_input(error: type[Exception], message: str, options: dict[str, Any]) -> None:
    module = recurra.torch.GRU(N, H)
    with pytest.raises(error, match=message):
        module(torch.zeros(T, B, N), **options)


def test_what_has_no_marks_says_so() -> None:
    module, flags = recurra.torch.GRU(N, H), torch.ones(T, B, dtype=torch.bool)
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.zeros(T, B, N), [T] * B)
    with pytest.raises(ValueError, match="mask: expected None with a PackedSequence"):
        module(packed, mask=flags)
    with pytest.raises(RuntimeError, match="which has none for resets"):
        torch.jit.trace(lambda x: module(x, resets=flags)[0], torch.zeros(T, B, N))
