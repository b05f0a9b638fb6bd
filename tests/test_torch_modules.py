"""recurra.torch: results and gradients against torch.nn, and all that training scripts do with modules."""

from __future__ import annotations

import copy
import datetime
import io
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import assert_same_bits, run_python, states

import recurra
from recurra import functional

torch = pytest.importorskip("torch", reason="the parity extra is not installed: no torch")
torch.set_num_threads(1)  # these shapes are small: more would only get into each other's way

import recurra.torch  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch tells that it is slow

rnn_utils = torch.nn.utils.rnn
Tensor = Any
F64 = torch.float64

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("LSTM", {}),
    "lstm_projected": ("LSTM", {"proj_size": 2}),
    "gru": ("GRU", {}),
    "rnn_tanh": ("RNN", {}),
    "rnn_relu": ("RNN", {"nonlinearity": "relu"}),
}
OWN_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "reset_before": ("GRU", {"reset": "before"}),
    "write": ("GRU", {"update": "write"}),
    "peephole": ("LSTM", {"peephole": True}),
    "coupled_clipped": ("LSTM", {"coupled": True, "cell_clip": 0.3}),
    "f_from_i_peephole_projected": ("LSTM", {"coupled": "f_from_i", "peephole": True, "proj_size": 2}),
    "sigmoid": ("RNN", {"nonlinearity": "sigmoid"}),
}
FORMS = ("time_major", "batch_first", "unbatched", "packed", "packed_sorted")
LENGTHS = [3, 5, 1, 3]
I, H, T, B = 3, 4, 5, 4  # noqa: E741


def module(kind: str, **options: Any) -> Any:
    name, more = (KINDS | OWN_KINDS)[kind]
    return getattr(recurra.torch, name)(I, H, **{"dtype": F64, **more, **options})


def pair(kind: str, **options: Any) -> tuple[Any, Any]:
    """torch's module and ours with the same weights."""
    torch.manual_seed(0)
    name, more = KINDS[kind]
    theirs = getattr(torch.nn, name)(I, H, **{"dtype": F64, **more, **options})
    ours = module(kind, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def make_input(form: str) -> Tensor:
    return normal(*{"batch_first": (B, T, I), "unbatched": (T, I)}.get(form, (T, B, I)))


def make_state(layer: Any, form: str) -> Any:
    batch = () if form == "unbatched" else (B,)
    stack = layer.num_layers * (2 if layer.bidirectional else 1)
    h = normal(stack, *batch, layer.proj_size or H, seed=1)
    return (h, normal(stack, *batch, H, seed=2)) if isinstance(layer, (torch.nn.LSTM, recurra.torch.LSTM)) else h


def leaves(value: Any) -> list[Tensor]:
    return [] if value is None else list(states(value))


def tensors(result: Any) -> list[Tensor]:
    """The tensors of a nest of tuples, PackedSequences included."""
    if isinstance(result, tuple):
        return [tensor for part in result for tensor in tensors(part)]
    return [] if result is None else [result]


def run(layer: Any, form: str, x: Tensor, hx: Any, parts: tuple[int, ...] = (0, 1, 2)) -> tuple[Any, list[Any]]:
    """The result for leaves x, hx, and after backward of a loss on `parts` of it (output, h, c) all gradients."""
    layer.zero_grad()
    given = x
    if form == "packed":
        given = rnn_utils.pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False)
    elif form == "packed_sorted":
        given = rnn_utils.pack_padded_sequence(x, torch.tensor(sorted(LENGTHS, reverse=True)))
    output, final = layer(given, hx)
    y = output.data if isinstance(output, rnn_utils.PackedSequence) else output
    loss = sum((v * normal(*v.shape, seed=7 + k)).sum() for k, v in enumerate((y, *states(final))) if k in parts)
    loss.backward()
    return (output, final), [p.grad for p in (*layer.parameters(), *leaves(hx), x)]


def assert_close(ours: Any, theirs: Any, tolerance: float = 1e-10) -> None:
    ours, theirs = tensors(tuple(ours)), tensors(tuple(theirs))
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def assert_same_training(theirs: Any, ours: Any, form: str, with_state: bool, **options: Any) -> None:
    results = []
    for layer in (theirs, ours):
        x, hx = make_input(form).requires_grad_(), make_state(layer, form) if with_state else None
        for part in leaves(hx):
            part.requires_grad_()
        torch.manual_seed(3)  # for dropout
        results.append(run(layer, form, x, hx, **options))
    (result, gradients), (expected, expected_gradients) = results[1], results[0]
    assert type(result[0]) is type(expected[0])
    assert_close(result, expected)
    assert_close(gradients, expected_gradients)
    assert all(gradient is not None for gradient in gradients)


@pytest.mark.parametrize("with_state", [False, True], ids=["zeros", "state"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_all_gradients_are_those_of_torch(kind: str, form: str, with_state: bool) -> None:
    for layers, bidirectional, bias in itertools.product((1, 2), (False, True), (False, True)):
        options = {"num_layers": layers, "bidirectional": bidirectional, "bias": bias}
        options["batch_first"] = form == "batch_first"
        assert_same_training(*pair(kind, **options), form, with_state)


@pytest.mark.parametrize("form", FORMS)
def test_batch_first_concerns_neither_packed_nor_unbatched_input(form: str) -> None:
    theirs, ours = pair("lstm", batch_first=True)
    if form != "time_major":
        assert_same_training(theirs, ours, form, with_state=True)


@pytest.mark.parametrize("parts", [(0,), (1,), (2,), (0, 2)], ids=str)
def test_a_loss_may_use_some_of_the_results(parts: tuple[int, ...]) -> None:
    theirs, ours = pair("lstm", num_layers=2, bidirectional=True)
    assert_same_training(theirs, ours, "packed", with_state=True, parts=parts)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["lstm_projected", "gru"])
def test_dropout_in_training_is_that_of_torch_for_the_same_seed(kind: str, form: str) -> None:
    for bidirectional in (False, True):
        options = {
            "num_layers": 3,
            "dropout": 0.4,
            "bidirectional": bidirectional,
            "batch_first": form == "batch_first",
        }
        theirs, ours = pair(kind, **options)
        assert_same_training(theirs, ours, form, with_state=True)
        dropped = ours(make_input(form))[0] if "packed" not in form else None
        theirs.eval(), ours.eval()
        assert_same_training(theirs, ours, form, with_state=False)
        assert dropped is None or not torch.allclose(dropped, ours(make_input(form))[0])


@pytest.mark.parametrize("kind", OWN_KINDS)
def test_gradients_of_cells_that_torch_lacks(kind: str) -> None:
    layer = module(kind, num_layers=2, bidirectional=True)
    x, hx = normal(3, 2, I).requires_grad_(), [part[:, :2].requires_grad_() for part in leaves(make_state(layer, ""))]
    names = [name for name, _ in layer.named_parameters()]

    def results(x: Tensor, *rest: Tensor) -> list[Tensor]:
        state = rest[: len(hx)]
        params = dict(zip(names, rest[len(hx) :], strict=True))
        called = torch.func.functional_call(layer, params, (x, tuple(state) if len(state) > 1 else state[0]))
        return tensors(called)

    assert torch.autograd.gradcheck(results, (x, *hx, *layer.parameters()), fast_mode=True)


@pytest.mark.parametrize("kind", KINDS | OWN_KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_are_those_of_the_layer_with_and_without_gradients(kind: str, dtype: str) -> None:
    name, options = (KINDS | OWN_KINDS)[kind]
    ours = module(kind, num_layers=2, bidirectional=True, dtype=getattr(torch, dtype))
    layer = getattr(recurra, name)(I, H, num_layers=2, bidirectional=True, dtype=dtype, **options)
    layer.load_state_dict(ours.state_dict())
    x = make_input("").to(getattr(torch, dtype))
    expected = layer(x)
    trained = ours(x)
    assert trained[0].requires_grad
    assert_same_bits([t.detach().numpy() for t in tensors(trained)], expected)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert not ours(x)[0].requires_grad
            assert_same_bits([t.numpy() for t in tensors(ours(x))], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_recompute_gives_the_same_bits_from_a_smaller_tape(kind: str) -> None:
    kept, again = module(kind, num_layers=2), module(kind, num_layers=2, recompute=True)
    again.load_state_dict(kept.state_dict())
    sizes = [layer(make_input(""))[0].grad_fn.tape.nbytes for layer in (again, kept)]
    assert sizes[0] < sizes[1] or kind.startswith("rnn")  # which has no gates
    results = [run(layer, "packed", make_input("").requires_grad_(), None) for layer in (kept, again)]
    assert_same_bits(*([t.detach().numpy() for t in tensors((a, tuple(b)))] for a, b in results))


@pytest.mark.parametrize("wanted", ["one parameter", "input", "h_0", "c_0"])
def test_only_what_requires_grad_gets_a_gradient(wanted: str) -> None:
    found = []
    for layer in pair("lstm", num_layers=2):
        layer.requires_grad_(False)
        x, (h, c) = make_input(""), make_state(layer, "")
        {"one parameter": layer.bias_hh_l1, "input": x, "h_0": h, "c_0": c}[wanted].requires_grad_()
        found.append(run(layer, "", x, (h, c))[1])
    assert [g is None for g in found[0]] == [g is None for g in found[1]]
    assert sum(g is not None for g in found[1]) == 1
    assert_close(found[1], found[0])


def test_the_gradient_of_the_input_is_computed_only_if_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    from recurra.tape import Tape

    asked, backward = [], Tape.backward

    def spy(tape: Tape, *args: Any, **options: Any) -> Any:
        asked.append(options["input_grad"])
        return backward(tape, *args, **options)

    monkeypatch.setattr(Tape, "backward", spy)
    for needed in (False, True):
        run(module("gru"), "", make_input("").requires_grad_(needed), None)
    assert asked == [False, True]


def test_tensors_are_handed_over_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x, calls, original = module("gru"), make_input("")[::2], [], functional.run

    def spy(packed: Any, array: Any, *args: Any, **options: Any) -> Any:
        result = original(packed, array, *args, **options)
        calls.append((array, result))
        return result

    monkeypatch.setattr(functional, "run", spy)
    with torch.no_grad():
        y, h = layer(x)
    (array, (array_y, array_h)) = calls[0]
    assert array.ctypes.data == x.data_ptr() and not array.flags.c_contiguous
    assert (array_y.ctypes.data, array_h.ctypes.data) == (y.data_ptr(), h.data_ptr())


def test_gradients_accumulate_over_calls_and_over_retained_graphs() -> None:
    layer = module("lstm")
    output, _ = layer(make_input(""))
    output.sum().backward(retain_graph=True)
    once = layer.weight_hh_l0.grad.clone()
    output.sum().backward()
    layer(make_input(""))[0].sum().backward()
    assert_close([layer.weight_hh_l0.grad], [3 * once])


def test_a_backward_frees_the_tape_unless_the_graph_is_retained() -> None:
    output, _ = module("gru")(make_input(""))
    output.sum().backward(retain_graph=True)
    assert output.grad_fn.tape is not None
    output.sum().backward()
    assert output.grad_fn.tape is None
    with pytest.raises(RuntimeError, match="retain_graph"):
        output.sum().backward()


def test_what_is_overwritten_after_forward_does_not_change_gradients() -> None:
    results = []
    for overwrite in (False, True):
        torch.manual_seed(0)
        layer, x = module("lstm", num_layers=2), make_input("")
        output, (h, _) = layer(x)
        loss = (output.clone() ** 2).sum() + h.clone().sum()
        if overwrite:
            with torch.no_grad():
                for tensor in (*layer.parameters(), x, output, h):
                    tensor.fill_(9)
        loss.backward()
        results.append([p.grad for p in layer.parameters()])
    assert_close(results[1], results[0], tolerance=0)


def test_double_backward_is_refused_also_where_the_incoming_gradient_is_constant() -> None:
    layer, x = module("gru"), make_input("").requires_grad_()
    (expected,) = torch.autograd.grad(layer(x)[0].sum(), x)
    for power in (1, 2):
        (gradient,) = torch.autograd.grad((layer(x)[0] ** power).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="double backward"):
            (x.sum() + gradient.pow(2).sum()).backward()
    (gradient,) = torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)  # first order as ever
    assert_close([gradient.detach()], [expected], tolerance=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_has_torchs_parameters_initial_values_and_repr(kind: str) -> None:
    for options in ({}, {"num_layers": 2, "bidirectional": True, "bias": False, "batch_first": True, "dropout": 0.5}):
        torch.manual_seed(5)
        name, more = KINDS[kind]
        theirs = getattr(torch.nn, name)(I, H, **more, **options)
        torch.manual_seed(5)
        ours = module(kind, **{"dtype": None, **options})
        assert list(theirs.state_dict()) == list(ours.state_dict()) == [n for n, _ in ours.named_parameters()]
        assert_close(ours.parameters(), theirs.parameters(), tolerance=0)
        assert all(type(p) is torch.nn.Parameter for p in ours.parameters())
        assert repr(ours).replace(", nonlinearity=relu", "") == repr(theirs)
        assert [[w.shape for w in row] for row in ours.all_weights] == [
            [w.shape for w in r] for r in theirs.all_weights
        ]
        ours.flatten_parameters()


def test_a_state_dict_goes_to_torch_and_back() -> None:
    theirs, ours = pair("lstm_projected", num_layers=2, bidirectional=True)
    ours.reset_parameters()
    theirs.load_state_dict(ours.state_dict())
    assert_same_training(theirs, ours, "packed", with_state=True)
    with pytest.raises(RuntimeError, match="weight_peep_l0"):
        module("peephole").load_state_dict(torch.nn.LSTM(I, H, dtype=F64).state_dict())


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies_compute_the_same_and_are_independent(way: str) -> None:
    layer, x = module("coupled_clipped", num_layers=2, dropout=0.1), make_input("")
    layer(x)  # so that there is something packed
    layer.eval()
    if way == "deepcopy":
        other = copy.deepcopy(layer)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(layer))
    else:
        torch.save(layer, buffer := io.BytesIO())
        other = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    assert not other._packs  # only the parameters travel
    expected = layer(x)[0]
    assert_close([other(x)[0]], [expected], tolerance=0)
    with torch.no_grad():
        other.weight_hh_l1.zero_()
    assert_close([layer(x)[0]], [expected], tolerance=0)
    assert not torch.equal(other(x)[0], expected)


def step(layer: Any) -> None:
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.1)
    layer(make_input(""))[0].sum().backward()
    optimiser.step()


def assign_twice(layer: Any) -> None:
    for _ in range(2):  # the second may well lie where the first was
        layer.weight_hh_l0.data = layer.weight_hh_l0.data * 0.5


def in_place(layer: Any) -> None:
    with torch.no_grad():
        layer.weight_ih_l0[0] += 1


CHANGES: dict[str, Callable[[Any], Any]] = {
    "optimiser step": step,
    "in place": in_place,
    "data assigned": assign_twice,
    "written through data": lambda layer: layer.weight_hh_l0.data.mul_(0.5),
    "written through NumPy": lambda layer: layer.bias_ih_l0.detach().numpy().fill(1),
    "load_state_dict": lambda layer: layer.load_state_dict(module("gru").state_dict()),
    "load_state_dict, assigned": lambda layer: layer.load_state_dict(module("gru").state_dict(), assign=True),
    "another parameter": lambda layer: setattr(layer, "bias_hh_l0", torch.nn.Parameter(normal(3 * H))),
    "reset": lambda layer: layer.reset_parameters(),
    "NaN": lambda layer: layer.weight_hh_l0.data.fill_(torch.nan),
    "another dtype": lambda layer: layer.float().weight_hh_l0.data.mul_(0.5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_parameter_is_used_by_the_next_call(change: str) -> None:
    theirs, ours = pair("gru")
    x = make_input("")
    with torch.no_grad():
        before = ours(x)[0]
    CHANGES[change](ours)
    theirs.to(ours.weight_ih_l0.dtype).load_state_dict(ours.state_dict())
    x = x.to(ours.weight_ih_l0.dtype)
    with torch.no_grad():
        after, expected = ours(x)[0], theirs(x)[0]
    torch.testing.assert_close(after, expected, rtol=1e-6, atol=1e-6, equal_nan=True)
    assert not torch.allclose(after.double(), before)


def test_unchanged_parameters_are_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packs, init = [], functional.Packed.__init__

    def spy(self: functional.Packed, *args: Any) -> None:
        packs.append(args)
        init(self, *args)

    monkeypatch.setattr(functional.Packed, "__init__", spy)
    layer, x = module("lstm", num_layers=2), make_input("")
    for _ in range(3):
        layer(x)[0].sum().backward()
        with torch.no_grad():
            layer(x)
    assert len(packs) == 1
    in_place(layer)
    layer(x)
    assert len(packs) == 2


def train(nn: Any, steps: int = 12) -> list[float]:
    """A training script. What it is tested for: that only `nn` differs."""
    torch.manual_seed(0)
    recurrent = nn.GRU(I, H, num_layers=2, bidirectional=True, batch_first=True, dropout=0.2, dtype=F64)
    head = torch.nn.Linear(2 * H, 2, dtype=F64)
    model = torch.nn.ModuleList([recurrent, head])
    x = torch.randn(24, T, I, dtype=F64)
    lengths = torch.randint(1, T + 1, (24,))
    labels = (x.sum((1, 2)) > 0).long()
    generator = torch.Generator().manual_seed(1)
    data = torch.utils.data.TensorDataset(x, lengths, labels)
    loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True, generator=generator)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.02)
    losses: list[float] = []
    while len(losses) < steps:
        for batch, valid, wanted in loader:
            packed = rnn_utils.pack_padded_sequence(batch, valid, batch_first=True, enforce_sorted=False)
            output, h_n = recurrent(packed)
            padded, _ = rnn_utils.pad_packed_sequence(output, batch_first=True)
            features = padded.mean(1) + torch.cat([h_n[-2], h_n[-1]], 1)
            loss = torch.nn.functional.cross_entropy(head(features), wanted)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimiser.step()
            losses.append(loss.item())
    return losses


def test_a_training_script_has_the_same_losses_with_either_module() -> None:
    expected, losses = train(torch.nn), train(recurra.torch)
    np.testing.assert_allclose(losses, expected, rtol=1e-9)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant: bool) -> None:
    layer, x = module("gru"), make_input("").requires_grad_()
    (_, expected) = run(layer, "", x, None)
    expected, x.grad = [gradient.clone() for gradient in expected], None

    def checkpointed(x: Tensor, hx: Any) -> Any:
        return torch.utils.checkpoint.checkpoint(layer, x, hx, use_reentrant=reentrant)

    checkpointed.zero_grad, checkpointed.parameters = layer.zero_grad, layer.parameters  # type: ignore[attr-defined]
    assert_close(run(checkpointed, "", x, None)[1], expected, tolerance=0)


def test_reparametrised_weights_get_their_gradients() -> None:
    theirs, ours = (torch.nn.utils.parametrizations.weight_norm(m, "weight_hh_l0") for m in pair("gru"))
    assert_same_training(theirs, ours, "", with_state=True)


X = torch.zeros(T, B, I, dtype=F64)
STATE = torch.zeros(1, B, H, dtype=F64)
BAD_CALLS: dict[str, tuple[str, Any, Any, type[Exception], str]] = {
    "array": ("gru", X.numpy(), None, TypeError, "input: expected a torch.Tensor, got ndarray"),
    "float32": ("gru", X.float(), None, TypeError, "input: expected float64, got float32"),
    "bfloat16": ("gru", X.bfloat16(), None, TypeError, "input: expected torch.float32 or .* got torch.bfloat16"),
    "device": ("gru", X.to("meta"), None, ValueError, "input: expected CPU memory, got meta"),
    "1-D": ("gru", X[0, 0], None, ValueError, r"input: expected shape \[T, B, 3\] or \[T, 3\], got \[3\]"),
    "width": ("gru", X[..., :2], None, ValueError, r"input: expected .* got \[5, 4, 2\]"),
    "packed width": (
        "gru",
        rnn_utils.pack_sequence([X[:, 0, :2]]),
        None,
        ValueError,
        r"input: expected shape \[T, B, 3\], got \[5, 1, 2\]",
    ),
    "packed numbers": ("gru", rnn_utils.pack_sequence([X[:, 0, 0]]), None, ValueError, "input: expected"),
    "packed dtype": ("gru", rnn_utils.pack_sequence([X[:, 0].half()]), None, TypeError, "input.data: .* torch.float16"),
    "state shape": ("gru", X, STATE[:, :2], ValueError, r"hx h: expected shape \[1, 4, 4\], got \[1, 2, 4\]"),
    "state for another form": ("gru", X[:, 0], STATE, ValueError, r"hx h: expected shape \[1, 4\], got \[1, 4, 4\]"),
    "state too deep": ("gru", X, torch.cat([STATE, STATE]), ValueError, r"hx h: .* got \[2, 4, 4\]"),
    "state dtype": ("gru", X, STATE.float(), TypeError, "hx h: expected float64, got float32"),
    "state device": ("gru", X, STATE.to("meta"), ValueError, "hx h: expected CPU memory, got meta"),
    "pair": ("gru", X, (STATE, STATE), TypeError, "hx h: expected a torch.Tensor, got tuple"),
    "no pair": ("lstm", X, STATE, TypeError, r"hx: expected a tuple \(h, c\), got Tensor"),
    "c shape": ("lstm_projected", X, (STATE[..., :2], STATE[..., :2]), ValueError, r"hx c: expected shape \[1, 4, 4\]"),
}


@pytest.mark.parametrize("call", BAD_CALLS)
def test_a_wrong_call_is_refused(call: str) -> None:
    kind, x, hx, error, message = BAD_CALLS[call]
    with pytest.raises(error, match=message):
        module(kind)(x, hx)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": torch.float16}, TypeError, "dtype: expected torch.float32 or torch.float64, got torch.float16"),
        ({"input_size": 0}, ValueError, "input_size: expected at least 1, got 0"),
        ({"hidden_size": 4.0}, TypeError, "hidden_size"),
        ({"num_layers": 0}, ValueError, "num_layers"),
        ({"bias": 1}, TypeError, "bias"),
        ({"batch_first": "yes"}, TypeError, "batch_first"),
        ({"dropout": 1.5}, ValueError, "dropout"),
        ({"proj_size": 4}, ValueError, "proj_size: expected less than hidden_size=4, got 4"),
        ({"proj_size": -1}, ValueError, "proj_size"),
        ({"coupled": "both"}, ValueError, "coupled"),
        ({"cell_clip": -1.0}, ValueError, "cell_clip"),
        ({"recompute": 1}, TypeError, "recompute"),
    ],
    ids=str,
)
def test_a_wrong_option_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        recurra.torch.LSTM(**{"input_size": 3, "hidden_size": 4, **options})


def test_weights_that_cannot_run_are_refused() -> None:
    layer = module("gru")
    for change, error in ((layer.half, TypeError), (lambda: layer.to("meta"), ValueError)):
        change()
        with pytest.raises(error, match="weight_ih_l0: expected"):
            layer(X)


def test_dropout_of_one_layer_is_warned_about() -> None:
    with pytest.warns(UserWarning, match="dropout=0.5 does nothing"):
        module("gru", dropout=0.5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_tracing_is_refused() -> None:
    with pytest.raises(RuntimeError, match="constant"):
        torch.jit.trace(module("gru"), (X,))


def test_neither_torch_nor_its_compiler_is_loaded_unasked() -> None:
    script = """
import sys, recurra
assert "torch" not in sys.modules
import torch
before = set(sys.modules)
import recurra.torch
recurra.torch.GRU(3, 4)(torch.zeros(5, 2, 3))[0].sum().backward()
print(sorted(name for name in set(sys.modules) - before if name.startswith("torch.") or name.startswith("torch_")))
"""
    assert run_python(script).strip() == "[]"


def test_a_compiled_model_trains() -> None:
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = torch.nn.ModuleList([torch.nn.Linear(I, I), recurra.torch.GRU(I, H), torch.nn.Linear(H, 1)])

        def loss_of(x: Tensor, model: Any = model) -> Tensor:
            before, recurrent, after = model
            return (after(recurrent(before(x).relu())[0]) - 1).pow(2).mean()

        # No code is generated for a layer, so that of inductor for the rest would only cost time.
        compute_loss = torch.compile(loss_of, backend="aot_eager") if compiled else loss_of
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(4):
            loss = compute_loss(make_input("").float())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    np.testing.assert_allclose(losses[4:], losses[:4], rtol=1e-5)
    assert losses[3] < losses[0]


def distributed_worker(rank: int, folder: str) -> None:
    """Two steps on this process's half of the batch; then rank 0 writes what the weights have become."""
    torch.set_num_threads(1)
    distributed = torch.distributed
    timeout = datetime.timedelta(seconds=60)
    distributed.init_process_group("gloo", f"file://{folder}/init", timeout=timeout, rank=rank, world_size=2)
    torch.manual_seed(rank)  # DDP makes the weights those of rank 0
    model = torch.nn.parallel.DistributedDataParallel(module("lstm", num_layers=2))
    distributed_steps(model, make_input("")[:, 2 * rank : 2 * rank + 2])
    torch.save(model.module.state_dict(), f"{folder}/rank{rank}")
    distributed.destroy_process_group()


def distributed_steps(model: Any, x: Tensor) -> None:
    for _ in range(2):
        output, (h_n, _) = model(x)
        model.zero_grad()
        ((output**2).mean() + h_n.mean()).backward()
        with torch.no_grad():  # an optimiser would load the compiler: a second in each process
            for parameter in model.parameters():
                parameter -= 0.5 * parameter.grad


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch has no gloo here"
)
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(distributed_worker, (str(tmp_path),), nprocs=2)
    torch.manual_seed(0)
    alone = module("lstm", num_layers=2)
    start = copy.deepcopy(alone.state_dict())
    distributed_steps(alone, make_input(""))
    for rank in range(2):
        trained = torch.load(tmp_path / f"rank{rank}")
        assert_close(trained.values(), alone.state_dict().values())
        assert not torch.allclose(trained["weight_hh_l0"], start["weight_hh_l0"])
