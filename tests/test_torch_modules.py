"""recurra.torch: results and gradients against torch.nn, bits, parameters."""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from checks import assert_same_bits, states
from torch_modules import (
    F64,
    FORMS,
    KINDS,
    OWN_KINDS,
    H,
    I,
    Tensor,
    assert_close,
    assert_same_training,
    leaves,
    make_input,
    make_state,
    module,
    noise_of,
    normal,
    pair,
    run,
    tensors,
)

import recurra
from recurra import functional

torch = pytest.importorskip("torch", reason="the parity extra is not installed: no torch")

import recurra.torch  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch tells that it is slow


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


NOISE: dict[str, Any] = {"recurrent_dropout": 0.3, "zoneout": 0.4}


def seeded(function: Any, *arguments: Any) -> Any:
    torch.manual_seed(3)
    return function(*arguments)


@pytest.mark.parametrize("recompute", (False, True))
@pytest.mark.parametrize("kind", KINDS | OWN_KINDS)
def test_recurrent_dropout_and_zoneout_are_those_of_the_layer(kind: str, recompute: bool) -> None:
    name, options = (KINDS | OWN_KINDS)[kind]
    both: dict[str, Any] = {"num_layers": 2, "bidirectional": True, **noise_of(kind)}
    ours = module(kind, recompute=recompute, **both)
    layer = getattr(recurra, name)(I, H, dtype="float64", **options, **both)
    layer.load_state_dict(ours.state_dict())
    x = make_input("").requires_grad_()
    seed = int(seeded(torch.randint, 1 << 62, ()))
    y, final, tape = layer.forward(x.detach().numpy(), rng=seed)
    dy = normal(*y.shape, seed=7)
    expected = tape.backward(dy.numpy())
    output, found = seeded(ours, x)
    (output * dy).sum().backward()
    assert_same_bits([t.detach().numpy() for t in tensors((output, found))], [y, *states(final)])
    gradients = [parameter.grad.numpy() for parameter in ours.parameters()]
    assert_same_bits([x.grad.numpy(), *gradients], [expected.x, *expected.params.values()])
    with torch.no_grad():  # in training mode masks don't ask for gradients
        assert_same_bits([t.numpy() for t in tensors(seeded(ours, x))], [y, *states(final)])
        assert not torch.equal(ours(x)[0], output)
    for mode in (torch.no_grad(), torch.enable_grad()):
        with mode:
            assert_same_bits([t.detach().numpy() for t in tensors(ours.eval()(x))], layer(x.detach().numpy()))


@pytest.mark.parametrize("form", FORMS)
def test_all_kinds_of_dropout_go_together(form: str) -> None:
    layer = module("lstm", num_layers=3, dropout=0.2, batch_first=form == "batch_first", **NOISE)
    x, hx = make_input(form).requires_grad_(), make_state(layer, form)
    runs = [seeded(run, layer, form, x, hx) for _ in range(2)]
    first, again = ([t.detach().numpy() for t in tensors((a[0], *a[1], *b)) if t is not None] for a, b in runs)
    assert_same_bits(first, again)
    different = run(layer, form, x, hx)[1]
    assert not np.array_equal(different[0].numpy(), first[-len(different)])


def test_rates_may_change_between_calls() -> None:
    layer, x = module("lstm"), make_input("")
    before = layer(x)[0]
    layer.zoneout, layer.recurrent_dropout = (0.2, 0.6), 0.5
    noisy = module("lstm", zoneout=(0.2, 0.6), recurrent_dropout=0.5)
    noisy.load_state_dict(layer.state_dict())
    assert torch.equal(seeded(layer, x)[0], seeded(noisy, x)[0])
    assert not torch.equal(layer(x)[0], before)
    assert "zoneout=(0.2, 0.6)" in repr(layer)
    layer.zoneout = layer.recurrent_dropout = 0.0
    assert torch.equal(layer(x)[0], before)
    layer.zoneout = 2.0
    with pytest.raises(ValueError, match="zoneout"):
        layer(x)


@pytest.mark.parametrize("kind", KINDS)
def test_modules_that_were_pickled_by_older_releases_load(kind: str) -> None:
    """Before zoneout, and before they were torch.nn's."""
    layer = module(kind, num_layers=2, bidirectional=True)
    state = layer.__getstate__()
    for name in ("zoneout", "recurrent_dropout", "mode", "_all_weights", "_flat_weights"):
        del state[name]
    state["_names"], state["_packs"] = state.pop("_flat_weights_names"), {}
    kind_of: Any = type(layer)
    old = kind_of.__new__(kind_of)
    old.__setstate__(state)
    assert torch.equal(old(make_input(""))[0], layer(make_input(""))[0])
    assert old.mode == layer.mode and old._all_weights == layer._all_weights
    assert pickle.loads(pickle.dumps(old)).all_weights[3][1].equal(layer.weight_hh_l1_reverse)


def test_a_seed_is_drawn_on_the_cpu() -> None:
    layer = module("gru", zoneout=0.5)
    with torch.device("meta"):
        assert layer(make_input(""))[0].isfinite().all()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"recurrent_dropout": 1.5}, "recurrent_dropout: expected a number in 0..1, got 1.5"),
        ({"zoneout": (0.1, 0.2)}, "zoneout: expected a number for cell 'gru'"),
    ],
)
def test_bad_rates_are_refused(options: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        module("gru", **options)


def tape_of(result: Tensor) -> Any:
    """Each result has a node of its own before that of the call."""
    return result.grad_fn.next_functions[0][0].tape


@pytest.mark.parametrize("kind", KINDS)
def test_recompute_gives_the_same_bits_from_a_smaller_tape(kind: str) -> None:
    kept, again = module(kind, num_layers=2), module(kind, num_layers=2, recompute=True)
    again.load_state_dict(kept.state_dict())
    sizes = [tape_of(layer(make_input(""))[0]).tape.nbytes for layer in (again, kept)]
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
    assert tape_of(output) is not None
    output.sum().backward()
    assert tape_of(output) is None
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
        assert isinstance(ours, type(theirs)) and ours.mode == theirs.mode
        assert all(a is b for a, b in zip(ours._flat_weights, ours.parameters(), strict=True))
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
    assert not other._weights._entries  # only the parameters travel
    expected = layer(x)[0]
    assert_close([other(x)[0]], [expected], tolerance=0)
    with torch.no_grad():
        other.weight_hh_l1.zero_()
    assert_close([layer(x)[0]], [expected], tolerance=0)
    assert not torch.equal(other(x)[0], expected)


@pytest.mark.parametrize("grad", [False, True])
def test_one_step_refuses_what_more_steps_refuse(grad: bool) -> None:
    x, h = torch.zeros(1, I, dtype=F64), torch.zeros(1, H, dtype=F64)
    cell = recurra.torch.GRUCell(I, H, dtype=F64)
    with torch.set_grad_enabled(grad):
        for shape in ((1, 1, I), (1, 1, 1, I)):
            with pytest.raises(ValueError, match=r"^input: expected shape"):
                cell(x.reshape(shape))
        with pytest.raises(TypeError, match=r"^hx h: expected a torch\.Tensor, got tuple"):
            cell(x, (h,))
        with pytest.raises(TypeError, match=r"^hx h: expected a torch\.Tensor, got tuple"):
            module("gru")(x.reshape(1, 1, I), (h.reshape(1, 1, H),))


def test_another_thread_may_run_a_module_while_a_backward_ends() -> None:
    layer, x = module("lstm", num_layers=2, dropout=0.5), normal(3, 2, I)
    y, _ = layer(x)
    entries = layer._weights._entries
    first = entries[0]

    class Meanwhile:
        @property
        def packed(self) -> Any:
            layer.eval()(x)  # all layers at once
            return first.packed

    entries[0] = Meanwhile()
    y.sum().backward()
    assert list(entries) == [-1]
    assert all(p.grad is not None for p in layer.parameters())


def _tapes() -> int:
    gc.collect()
    return sum(type(thing).__name__ == "Tape" for thing in gc.get_objects())


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize(("reentrant", "second"), [(False, False), (False, True), (True, False)])
def test_checkpoints_keep_no_tape_and_change_no_gradient(kind: str, reentrant: bool, second: bool) -> None:
    layer = module(kind, num_layers=2, dropout=0.3, recurrent_dropout=0.2)
    before, found = _tapes(), []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        x = normal(5, 2, I).requires_grad_()
        if checkpointed:
            y = torch.utils.checkpoint.checkpoint(lambda x: layer(x)[0], x, use_reentrant=reentrant)
        else:
            y = layer(x)[0]
        assert (_tapes() > before) is not checkpointed
        if second:
            (g,) = torch.autograd.grad(y.pow(2).sum(), x, create_graph=True)
            g.pow(2).sum().backward()
        else:
            y.pow(2).sum().backward()
        found.append([y.detach(), x.grad, *(p.grad for p in layer.parameters())])
        layer.zero_grad()
    assert_same_bits(*([tensor.numpy() for tensor in each] for each in found))


def test_tensors_saved_elsewhere_give_the_same_derivatives() -> None:
    found = []
    for saved in (False, True):
        layer, x = pair("gru")[1], normal(5, 2, I).requires_grad_()
        with torch.autograd.graph.save_on_cpu() if saved else contextlib.nullcontext():
            y = layer(x)[0]
            (g,) = torch.autograd.grad(y.pow(2).sum(), x, create_graph=True)
        (h,) = torch.autograd.grad(g.pow(2).sum(), x, retain_graph=True)
        y.sum().backward(retain_graph=True)
        y.sum().backward()
        found.append([g.detach(), h, x.grad])
        with pytest.raises(RuntimeError, match="second"):
            y.sum().backward()
    assert_same_bits(*([tensor.numpy() for tensor in each] for each in found))
