"""recurra.torch under torch.compile: one graph, the same numbers and gradients, and no tape that outlives its use."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import run_python
from torch_modules import (
    F64,
    FORMS,
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
    run,
)

import recurra

torch = pytest.importorskip("torch", reason="the parity extra is not installed: no torch")

import recurra.torch  # noqa: E402
from recurra.torch import compiled as compiled_ops  # noqa: E402

X = make_input("")


@pytest.fixture(autouse=True)
def one_graph() -> Iterator[None]:
    """Without this torch.compile breaks its graph at whatever is a torch.nn.RNN, GRU or LSTM."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True):
        yield


def compiled(layer: Any, **options: Any) -> Any:
    """No code is generated for a layer: inductor, for what is around it, would only cost the tests time."""
    return torch.compile(layer, **{"backend": "aot_eager", "fullgraph": True, **options})


def description(
    layer: Any,
    batch_first: bool = False,
    trains: bool = True,
    seed: int | None = None,
    flags: Any = None,
    fresh: int = 0,
) -> tuple[Any, ...]:
    """What an operation is told of all layers of a module, after its parameters; with flags it gives cells."""
    directions = 2 if layer.bidirectional else 1
    cells = directions * layer._sizes.hidden if flags is not None else 0
    sizes = (directions * layer._sizes.output, cells, directions * layer.num_layers, layer._state_widths)
    marks = (None, None) if flags is None else flags
    drawn = None if seed is None else torch.tensor(seed)
    return (*marks, drawn, layer._number, "previous", fresh, -1, batch_first, trains, *sizes)


def assert_equal(found: Any, expected: Any) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def assert_trains_alike(layer: Any, form: str, with_state: bool, **options: Any) -> None:
    results = []
    for function in (layer, compiled(layer, **options)):
        x, hx = make_input(form).requires_grad_(), make_state(layer, form) if with_state else None
        for part in leaves(hx):
            part.requires_grad_()
        torch.manual_seed(3)  # for dropout
        (output, final), gradients = run(function, form, x, hx)
        results.append([getattr(output, "data", output), *leaves(final), *gradients])
    assert_equal(results[1], results[0])


@pytest.mark.parametrize("with_state", (False, True))
@pytest.mark.parametrize("kind", (*KINDS, *OWN_KINDS))
def test_a_layer_is_one_graph_and_trains_alike(kind: str, with_state: bool) -> None:
    assert_trains_alike(module(kind, num_layers=2, bidirectional=True), "time_major", with_state)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_input(form: str) -> None:
    layer = module("lstm", batch_first=form == "batch_first", num_layers=2)
    assert_trains_alike(layer, form, True, fullgraph=not form.startswith("packed"))


@pytest.mark.parametrize("backend", ("aot_eager", "inductor"))
def test_dropout_and_other_backends(backend: str) -> None:
    """Inductor draws its own numbers, so there only a layer without dropout can be compared."""
    dropout = 0.5 if backend == "aot_eager" else 0
    assert_trains_alike(module("gru", num_layers=3, dropout=dropout), "time_major", True, backend=backend)


def marked(layer: Any, form: str, names: tuple[str, ...]) -> Any:
    """function(call) -> all results and gradients of a call with marks."""
    rng, turn = np.random.default_rng(0), form == "batch_first"
    flags = {name: torch.from_numpy(rng.random((T, B)) < 0.5) for name in names}
    if form == "unbatched":
        flags = {name: each[:, 0] for name, each in flags.items()}
    options: dict[str, Any] = {name: each.T if turn else each for name, each in flags.items()}
    options |= {"masked_output": "zero"} if "mask" in names and turn else {}

    def trained(call: Any) -> list[Tensor]:
        layer.zero_grad()
        torch.manual_seed(3)
        x, hx = make_input(form).requires_grad_(), make_state(layer, form)
        fresh = [part[:, 0] if form == "time_major" else 2 * part for part in leaves(hx)]
        given = [part.requires_grad_() for part in (*leaves(hx), *fresh)]
        state, begin = given[: len(fresh)], given[len(fresh) :]
        nested = [tuple(parts) if len(parts) > 1 else parts[0] for parts in (state, begin)]
        more = {"reset_state": nested[1]} if "resets" in names else {}
        y, final, *cells = call(x, nested[0], **options, **more, return_cells=len(fresh) > 1)
        results = [y, *leaves(final), *cells]
        torch.autograd.backward(results, [normal(*part.shape, seed=k) for k, part in enumerate(results)])
        inputs = [x, *state, *(begin if more else []), *layer.parameters()]
        return [*(part.detach() for part in results), *(part.grad for part in inputs)]

    return trained


@pytest.mark.parametrize("names", (("resets",), ("mask",), ("resets", "mask"), ()))
@pytest.mark.parametrize("form", ("time_major", "batch_first", "unbatched"))
@pytest.mark.parametrize("kind", ("lstm_projected", "gru", "min_lstm"))
def test_marks_and_cells_are_of_the_graph(kind: str, form: str, names: tuple[str, ...]) -> None:
    layer = module(kind, num_layers=2, bidirectional=True, batch_first=form == "batch_first", initial_state=not names)
    trained = marked(layer, form, names)
    assert_equal(trained(compiled(layer)), trained(layer))


def test_marks_in_other_graphs() -> None:
    """With what is left out at random, through inductor, without gradients, and where the graph breaks."""
    layer = module("lstm", num_layers=2, dropout=0.3, zoneout=0.2)
    trained = marked(layer, "time_major", ("resets", "mask"))
    assert_equal(trained(compiled(layer)), trained(layer))
    layer.eval()
    assert_equal(trained(compiled(layer, backend="inductor")), trained(layer))
    resets = np.random.default_rng(1).random((T, B)) < 0.5
    with torch.no_grad():
        want = leaves(layer(X, resets=resets, return_cells=True))
        given = torch.from_numpy(resets)
        assert_equal(leaves(compiled(layer)(X, resets=given, return_cells=True)), want)
        for options in ({"resets": resets}, {"resets": given, "lengths": [T] * B}):
            found = compiled(layer, fullgraph=False)(X, return_cells=True, **options)
            assert_equal(leaves(found), want)
    with pytest.raises(TypeError, match=r"resets: expected torch\.bool, got torch\.int64"):
        compiled(layer, fullgraph=False)(X, resets=given.long())


@pytest.mark.parametrize("backend", ("eager", "aot_eager"))
def test_recurrent_dropout_and_zoneout(backend: str) -> None:
    layer = module("lstm", num_layers=2, recurrent_dropout=0.3, zoneout=(0.1, 0.4))
    assert_trains_alike(layer, "time_major", True, backend=backend)
    function = compiled(layer, backend=backend)
    with torch.no_grad():
        assert not torch.equal(function(X)[0], function(X)[0])
        layer.eval()
        assert_equal([function(X)[0]], [layer(X)[0]])


def test_one_graph_serves_every_length_and_batch() -> None:
    layer = module("lstm", num_layers=2)
    graphs = []

    def count(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    function = compiled(layer, dynamic=True, backend=count)
    for steps, batch in ((6, 2), (5, 7), (9, 3)):
        x = normal(steps, batch, I)
        assert_equal([function(x)[0]], [layer(x)[0]])
    assert len(graphs) == 1


@pytest.mark.parametrize("seed", (None, 5))
@pytest.mark.parametrize("trains", (False, True))
@pytest.mark.parametrize("with_state", (False, True))
@pytest.mark.parametrize("batch_first", (False, True))
@pytest.mark.parametrize("with_marks", (False, True))
def test_the_operation_is_what_torch_demands(
    with_state: bool, batch_first: bool, trains: bool, seed: int | None, with_marks: bool
) -> None:
    layer = module("lstm_projected", num_layers=2, bidirectional=True, batch_first=batch_first, zoneout=0.2)
    x = make_input("batch_first" if batch_first else "").requires_grad_(trains)
    parameters = [p.detach().requires_grad_(trains) for p in layer.parameters()]
    state = [part.requires_grad_(trains) for part in leaves(make_state(layer, "") if with_state else None)]
    flags, fresh = None, []
    if with_marks:
        flags = [torch.from_numpy(np.random.default_rng(k).random((T, B)) < 0.5) for k in range(2)]
        fresh = [part.requires_grad_(trains) for part in leaves(make_state(layer, ""))]
    arguments = (x, state + fresh, parameters, *description(layer, batch_first, trains, seed, flags, len(fresh)))
    tests = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic")
    found = torch.library.opcheck(torch.ops.recurra.run.default, arguments, test_utils=tests)
    assert found == dict.fromkeys(tests, "SUCCESS")


def test_weights_that_change_are_seen_and_copies_have_their_own() -> None:
    layer = module("gru")
    other = copy.deepcopy(layer)
    first, second = compiled(layer), compiled(other)
    with torch.no_grad():
        before = first(X)[0]
        assert_equal([second(X)[0]], [before])
        for parameter in other.parameters():
            parameter.mul_(2)
        assert_equal([first(X)[0], second(X)[0]], [before, other(X)[0]])
        assert not torch.equal(second(X)[0], before)


@pytest.mark.filterwarnings("ignore:.*donated")
def test_tapes_live_as_long_as_the_graph() -> None:
    gc.collect()
    before = len(compiled_ops._tapes)  # none, unless a test that failed holds one
    function = compiled(module("lstm"))
    loss = function(X)[0].sum()
    gc.collect()
    assert len(compiled_ops._tapes) == before + 1
    loss.backward()
    gc.collect()
    assert len(compiled_ops._tapes) == before
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    del loss
    function(X)  # never followed by a backward
    gc.collect()
    assert len(compiled_ops._tapes) == before


def test_a_copied_tape_is_told() -> None:
    layer = module("gru")
    parameters = list(layer.parameters())
    *results, tape = torch.ops.recurra.run(X, [], parameters, *description(layer))
    grads = [torch.ones_like(result) for result in results]
    found = torch.ops.recurra.run_backward(tape, grads, [X, *parameters], 0, True)
    assert [part.shape for part in found] == [part.shape for part in (X, *parameters)]
    with pytest.raises(RuntimeError, match="tape of this call is gone"):
        torch.ops.recurra.run_backward(tape.clone(), grads, [X, *parameters], 0, True)


def test_a_module_that_is_gone_is_told() -> None:
    layer = module("gru")
    arguments = (X, [], [p.detach() for p in layer.parameters()], *description(layer, trains=False))
    torch.ops.recurra.run(*arguments)
    del layer
    gc.collect()
    with pytest.raises(RuntimeError, match="module of this graph is gone"):
        torch.ops.recurra.run(*arguments)


LOSSES = pytest.mark.parametrize("loss", (lambda y: y.sum(), lambda y: y.square().sum()), ids=("linear", "square"))


def second_gradients(layer: Any, x: Tensor, loss: Any, **options: Any) -> Any:
    (gradient,) = torch.autograd.grad(loss(layer(x, **options)[0]), x, create_graph=True)
    return torch.autograd.grad(gradient.square().sum(), [x, layer.weight_hh_l0], allow_unused=True)


@LOSSES
def test_gradients_of_gradients_are_refused_where_torch_makes_the_graph_of_gradients_too(loss: Any) -> None:
    """Of a linear loss too, whose own second derivative is nothing."""
    with pytest.raises(RuntimeError, match=r"double backward|create_graph"):
        second_gradients(compiled(module("gru")), make_input("").requires_grad_(), loss)


@LOSSES
def test_gradients_of_gradients_are_right_where_autograd_makes_it(loss: Any) -> None:
    layer, x = module("gru"), make_input("").requires_grad_()
    resets, mask = (torch.from_numpy(np.random.default_rng(k).random((T, B)) < 0.5) for k in range(2))
    choices: tuple[dict[str, Any], ...] = ({}, {"resets": resets, "mask": mask})
    for options in choices:
        found = second_gradients(compiled(layer, backend="eager"), x, loss, **options)
        torch.testing.assert_close(found, second_gradients(layer, x, loss, **options), rtol=1e-9, atol=1e-9)
        assert all(part.abs().max() > 1e-3 for part in found)


def test_forward_mode_is_refused_or_right() -> None:
    layer, x, tangent = module("gru"), make_input(""), normal(*X.shape, seed=4)
    expected = torch.func.jvp(lambda x: layer(x)[0], (x,), (tangent,))[1]
    try:
        found = torch.func.jvp(lambda x: compiled(layer, fullgraph=False)(x)[0], (x,), (tangent,))[1]
    except RuntimeError as error:
        assert "forward" in str(error).lower() or "jvp" in str(error).lower() or "functorch" in str(error).lower()
    else:
        torch.testing.assert_close(found, expected)


def test_without_the_option_the_graph_breaks_at_a_layer_and_the_results_are_the_same() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(I, I, dtype=F64), module("gru"))
    with torch._dynamo.config.patch(allow_rnn=False):
        function = compiled(model, fullgraph=False)
        assert_equal([function(X)[0]], [model(X)[0]])
        torch._dynamo.reset()
        with pytest.raises(torch._dynamo.exc.Unsupported, match="allow_rnn"):
            compiled(model)(X)


def test_parametrized_weights_train_alike() -> None:
    layer = torch.nn.utils.parametrizations.weight_norm(module("gru"), "weight_hh_l0")
    assert_trains_alike(layer, "time_major", False)


def test_many_layers_share_what_is_compiled() -> None:
    """More than torch compiles one function anew for."""
    layers = [module("gru") for _ in range(torch._dynamo.config.recompile_limit + 2)]
    for layer in layers:
        assert_equal([compiled(layer)(X)[0]], [layer(X)[0]])


def test_graphs_in_the_disk_cache_fit_other_modules(tmp_path: Path) -> None:
    """Two processes, whose only modules have the same number and the same shapes of parameters."""
    script = """
import torch, recurra.torch
torch.manual_seed(0)
x = torch.randn(5, 2, 8)
layer = recurra.torch.LSTM(8, 8, {option})
compiled = torch.compile(layer)
assert torch.equal(compiled(x)[0], layer(x)[0])
compiled(x)[0].sum().backward()
"""
    for option in ("num_layers=2", "bidirectional=True"):
        run_python(script.replace("{option}", option), TORCHINDUCTOR_CACHE_DIR=str(tmp_path))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (X[..., :2], ValueError, r"input: expected shape \[T, B, 3\] or \[T, 3\], got \[5, 4, 2\]"),
        (X.float(), TypeError, "input: expected torch.float64, got torch.float32"),
        (X.numpy(), TypeError, "input: expected a torch.Tensor"),
    ],
    ids=("shape", "dtype", "kind"),
)
def test_a_wrong_call_is_refused(x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        compiled(module("gru"), fullgraph=False)(x)


def test_a_compiled_model_trains() -> None:
    losses = []
    for opaque in (False, True):
        torch.manual_seed(0)
        model = torch.nn.ModuleList([torch.nn.Linear(I, I), recurra.torch.GRU(I, H), torch.nn.Linear(H, 1)])

        def loss_of(x: Tensor, model: Any = model) -> Tensor:
            before, recurrent, after = model
            return (after(recurrent(before(x).relu())[0]) - 1).pow(2).mean()

        compute_loss = compiled(loss_of) if opaque else loss_of
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(4):
            loss = compute_loss(make_input("").float())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    np.testing.assert_allclose(losses[4:], losses[:4], rtol=1e-5)
    assert losses[3] < losses[0]
