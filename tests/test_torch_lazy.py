"""Torch tensors that are not what lies in their memory: resolved, or refused by name, wherever one is taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import assert_same_bits, states
from torch_modules import (
    F64,
    KINDS,
    OWN_KINDS,
    B,
    H,
    I,
    T,
    Tensor,
    leaves,
    make_input,
    make_state,
    module,
    normal,
    tensors,
)

import recurra

torch = pytest.importorskip("torch", reason="the parity extra is not installed: no torch")

import recurra.torch  # noqa: E402


def negated(tensor: Tensor) -> Tensor:
    """The same numbers, as a view of memory that holds the others."""
    view = torch._neg_view(-tensor.detach())
    assert view.is_neg() and torch.equal(view, tensor)
    return view


def conjugated(tensor: Tensor) -> Tensor:
    """The same numbers, as the imaginary part of a conjugate: what losses on complex spectrograms hand back."""
    view = torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
    assert view.is_neg() and torch.equal(view, tensor)
    return view


LAZY = pytest.mark.parametrize("lazy", [negated, conjugated])


@LAZY
@pytest.mark.parametrize("kind", ["lstm", "gru", "peephole"])
def test_the_numpy_api_takes_negated_views_everywhere(kind: str, lazy: Any) -> None:
    name, options = (KINDS | OWN_KINDS)[kind]
    layer = getattr(recurra, name)(I, H, dtype="float64", seed=0, **options)
    x, state = make_input(""), make_state(module(kind), "")
    plain = tuple(leaves(state)) if kind != "gru" else state
    lazy_state = tuple(map(lazy, leaves(state))) if kind != "gru" else lazy(state)
    expected = layer(x.numpy(), tuple(s.numpy() for s in leaves(state)) if kind != "gru" else state.numpy())
    assert_same_bits(layer(lazy(x), lazy_state), expected)
    lengths = torch.tensor([5, 2, 0, 3])
    assert_same_bits(layer(x, plain, lengths=torch._neg_view(-lengths)), layer(x, plain, lengths=lengths))
    assert_same_bits(layer.stream(B).step(lazy(x[0])), layer.stream(B).step(x[0].numpy()))
    assert_same_bits(layer.stream(B).run(lazy(x)), layer.stream(B).run(x.numpy()))
    stream = layer.stream(B)
    stream.state = lazy_state
    assert_same_bits(states(stream.state), [s.numpy() for s in leaves(state)])
    stream.reset(torch._neg_view(-torch.tensor([1])))
    y, _, tape = layer.forward(lazy(x), lazy_state)
    dy = normal(*y.shape, seed=8)
    gradients, of_lazy = layer.forward(x, plain)[2].backward(dy), tape.backward(lazy(dy))
    assert_same_bits([of_lazy.x, *of_lazy.params.values()], [gradients.x, *gradients.params.values()])
    other = getattr(recurra, name)(I, H, dtype="float64", seed=1, **options)
    other.load_state_dict({name: lazy(torch.from_numpy(value)) for name, value in layer.state_dict().items()})
    assert_same_bits(other.state_dict(), layer.state_dict())


@LAZY
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("steps", [1, T])
def test_modules_take_negated_views(lazy: Any, grad: bool, steps: int) -> None:
    layer, x = module("lstm"), make_input("")[:steps, :1].contiguous()
    state = tuple(part[:, :1].contiguous() for part in make_state(layer, ""))
    with torch.set_grad_enabled(grad):
        expected = tensors(layer(x, state))
        found = tensors(layer(lazy(x), tuple(map(lazy, state))))
        assert_same_bits([t.detach().numpy() for t in found], [t.detach().numpy() for t in expected])
        layer.weight_hh_l0.data = lazy(layer.weight_hh_l0)
        found = tensors(layer(x, state))
        assert_same_bits([t.detach().numpy() for t in found], [t.detach().numpy() for t in expected])


def test_a_complex_loss_hands_back_gradients_that_are_negated() -> None:
    found: list[Any] = []
    for layer in (torch.nn.GRU(I, H, dtype=F64), module("gru")):
        layer.load_state_dict(torch.nn.GRU(I, H, dtype=F64).state_dict() if not found else found[0][0])
        x = make_input("").requires_grad_()
        y, h = layer(x)
        seen: list[bool] = []
        y.register_hook(lambda g, seen=seen: seen.append(g.is_neg()))
        spectrum = torch.complex(h[-1].expand_as(y), y).conj() * torch.complex(y.detach(), y.detach())
        spectrum.real.pow(2).sum().backward()
        assert seen == [True]
        found.append((layer.state_dict(), [x.grad, *(p.grad for p in layer.parameters())]))
    for a, b in zip(found[1][1], found[0][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    layer = module("gru")
    for lazy in (lambda t: t, negated, conjugated):
        layer.zero_grad()
        layer(make_input(""))[0].backward(lazy(normal(T, B, H)))  # type: ignore[no-untyped-call,unused-ignore]
        found.append((None, [p.grad for p in layer.parameters()]))
    assert_same_bits([g.numpy() for g in found[3][1]], [g.numpy() for g in found[2][1]])
    assert_same_bits([g.numpy() for g in found[4][1]], [g.numpy() for g in found[2][1]])


def fake() -> Tensor:
    import importlib

    with importlib.import_module("torch._subclasses.fake_tensor").FakeTensorMode():
        return torch.zeros(T, B, I, dtype=F64)


X = make_input("")
UNREADABLE = {
    "sparse": lambda: X.to_sparse(),
    "compressed": lambda: X[0].to_sparse_csr(),
    "nested": lambda: torch.nested.nested_tensor([X[0], X[1]]),
    "jagged": lambda: torch.nested.nested_tensor([X[0], X[1]], layout=torch.jagged),
    "meta": lambda: X.to("meta"),
    "fake": fake,
    "uninitialised": torch.nn.parameter.UninitializedParameter,
    "quantised": lambda: torch.quantize_per_tensor(X.float(), 0.1, 0, torch.qint8),
    "complex": lambda: X.to(torch.complex128).conj(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", UNREADABLE)
def test_what_has_no_numbers_in_memory_is_refused_by_name(what: str) -> None:
    value = UNREADABLE[what]()
    layer = recurra.GRU(I, H, dtype="float64", seed=0)
    with pytest.raises((TypeError, ValueError), match=r"^x: "):
        layer(value)
    with pytest.raises((TypeError, ValueError), match=r"^state h: "):
        layer(X, value)
    with pytest.raises(ValueError, match=r"weight_hh_l0: |uninitialized"):
        layer.load_state_dict({**layer.state_dict(), "weight_hh_l0": value})
    ours, cell = module("gru"), recurra.torch.GRUCell(I, H, dtype=F64)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            with pytest.raises((TypeError, ValueError), match=r"^input: "):
                ours(value)
            with pytest.raises((TypeError, ValueError), match=r"^hx h: "):
                ours(X, value)
            with pytest.raises((TypeError, ValueError), match=r"^input: "):
                cell(value)


def test_tensors_in_the_hands_of_torch_func_are_refused_by_layers() -> None:
    layer = recurra.GRU(I, H, dtype="float64", seed=0)
    for transform in (torch.func.vmap, torch.func.grad, lambda f: lambda x: torch.func.jvp(f, (x,), (x,))):
        with pytest.raises(TypeError, match=r"^x: .*torch\.func"):
            transform(lambda x: layer(x)[0])(X)
    with torch.autograd.forward_ad.dual_level():
        with pytest.raises(TypeError, match=r"^x: .*forward-mode"):
            layer(torch.autograd.forward_ad.make_dual(X, X))
        assert_same_bits(layer(X), layer(X.numpy()))


class Named(torch.Tensor):  # type: ignore[name-defined,misc,unused-ignore]
    """A subclass with memory like any tensor's."""


def test_a_subclass_with_memory_is_read_as_it_is() -> None:
    layer = module("gru")
    with torch.no_grad():
        expected, found = layer(X), layer(X.as_subclass(Named))
        one = layer(X[:1, :1]), layer(X[:1, :1].as_subclass(Named))
    for a, b in ((expected, found), one):
        assert_same_bits([t.numpy() for t in tensors(a)], [np.asarray(t) for t in tensors(b)])
    plain = recurra.GRU(I, H, dtype="float64", seed=0)
    assert_same_bits(plain(X.as_subclass(Named)), plain(X.numpy()))


def test_a_graph_maker_records_torchs_layer_and_not_a_constant() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    layer = module("gru")
    with torch.no_grad():
        for mode in ("real", "fake"):
            graph = make_fx(lambda x: layer(x)[0], tracing_mode=mode, _allow_non_fake_inputs=True)(X)
            torch.testing.assert_close(graph(2 * X), layer(2 * X)[0])
        with pytest.raises(RuntimeError, match=r"make_fx.*gru_write"):
            make_fx(lambda x: module("write")(x)[0])(X)


@pytest.mark.parametrize("steps", [1, T])
def test_zeros_without_memory_are_zeros(steps: int) -> None:
    for kind in ("gru", "lstm"):
        layer = module(kind)
        zeros = torch._efficientzerotensor((steps, 1, I), dtype=F64)
        with torch.no_grad():
            assert_same_bits(tensors(layer(zeros)), tensors(layer(torch.zeros(steps, 1, I, dtype=F64))))
    cell = recurra.torch.GRUCell(I, H, dtype=F64)
    x = normal(1, I)
    with torch.no_grad():
        assert_same_bits([cell(x, torch._efficientzerotensor((1, H), dtype=F64))], [cell(x)])


def _released(tensor: Tensor) -> Tensor:
    tensor.untyped_storage().resize_(0)
    return tensor


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("steps", [1, T])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_memory_that_has_been_released_is_never_read(kind: str, steps: int, grad: bool) -> None:
    x, state = normal(steps, 1, I), [normal(1, 1, H) for _ in range(2 if kind == "lstm" else 1)]
    wrapped: Any = tuple if kind == "lstm" else lambda parts: parts[0]
    with torch.set_grad_enabled(grad):
        for form in (_released, torch._to_functional_tensor):
            with pytest.raises(ValueError, match=r"^input: expected a tensor with memory"):
                module(kind)(form(x.clone()))
            with pytest.raises(ValueError, match=r"^hx h: expected a tensor with memory"):
                module(kind)(x, wrapped([form(state[0].clone()), *state[1:]]))
        layer = module(kind)
        _released(layer.weight_hh_l0)
        with pytest.raises(ValueError, match=r"^weight_hh_l0: expected a tensor with memory"):
            layer(x)
    with pytest.raises(ValueError, match=r"^x: expected a tensor with memory"):
        recurra.GRU(I, H, dtype="float64")(_released(x.clone()))
