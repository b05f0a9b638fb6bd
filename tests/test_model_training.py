"""Training of models: values beside the oracle's, gradients beside central differences and torch's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_reference
import numpy as np
import pytest
from checks import Array, arrays, assert_close, assert_same_bits, assert_same_bits_on_avx2_and_avx512, copies, states

import recurra
from recurra import Node, Value

F64: dict[str, Any] = {"dtype": "float64", "seed": 1}
T, B = 7, 3
LENGTHS = [7, 3, 0]


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def moved(model: recurra.Model) -> recurra.Model:
    """With parameters that hide nothing: gains of 1 and shifts of 0 do."""
    model.load_state_dict({n: a + normal(*a.shape, seed=7) * 0.3 for n, a in model.state_dict().items()})
    return model


def given(model: recurra.Model, steps: int = T, batch: int = B, seed: int = 3) -> dict[str, Array]:
    """Inputs of a model, [T, B, ...]."""
    made = {}
    for k, (name, value) in enumerate(model.inputs.items()):
        shape = (*((steps, batch) if value.time else (batch,)), *value.features)
        integers = np.random.default_rng(seed + k).integers(0, 5, shape)
        made[name] = integers if value.integer else normal(*shape, seed=seed + k)
    return made


def marked(marks: str) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    made: dict[str, Any] = {}
    if "lengths" in marks:
        made["lengths"] = LENGTHS
    if "resets" in marks:
        made["resets"] = rng.random((T, B)) < 0.3
    if "mask" in marks:
        made["mask"] = rng.random((T, B)) < 0.7
    return made


def named(result: Any, model: recurra.Model) -> dict[str, Array]:
    return result if isinstance(result, dict) else {model.outputs[0]: result}


def check(model: recurra.Model, x: dict[str, Array], tolerance: float = 1e-7, **options: Any) -> None:
    """Values are the oracle's and have a call's bits; gradients of a random loss are those of central differences."""
    y, final, tape = model.forward(x, return_state=True, **options)
    assert_same_bits([y, final], [*model(x, return_state=True, **options)])
    wanted, last = model_reference.run(model, x, **options)
    assert_close(named(y, model), wanted, 1e-12)
    assert_close([states(final[name]) for name in last], [states(s) for s in last.values()], 1e-12)
    dy = {name: normal(*a.shape, seed=11 + k) for k, (name, a) in enumerate(named(y, model).items())}
    dstate = {n: [normal(*a.shape, seed=21 + k) for k, a in enumerate(states(s))] for n, s in final.items()}
    above = {name: tuple(parts) if len(parts) > 1 else parts[0] for name, parts in dstate.items()}
    found = tape.backward(dy if len(dy) > 1 else next(iter(dy.values())), above)

    def loss() -> float:
        y, final, _ = model.forward(x, return_state=True, **options)
        parts = [*(dy[name] * a for name, a in named(y, model).items())]
        parts += [d * a for n, ds in dstate.items() for d, a in zip(ds, states(final[n]), strict=True)]
        return float(sum(part.sum() for part in parts))

    dx = found.x if isinstance(found.x, dict) else {next(iter(model.inputs)): found.x}
    for name, array in x.items():
        if not model.inputs[name].integer:
            assert_close(dx[name], differences(loss, array), tolerance)
    for title in ("state", "reset_state"):
        for name, state in options.get(title, {}).items():
            for d, array in zip(states(getattr(found, title)[name]), states(state), strict=True):
                assert_close(d, differences(loss, array), tolerance)
    params = model.state_dict()
    assert set(found.params) == set(params)
    for name, array in params.items():

        def of_parameter() -> float:
            model.load_state_dict(params)
            return loss()

        assert_close(found.params[name], differences(of_parameter, array), tolerance)
    model.load_state_dict(params)


def differences(loss: Callable[[], float], array: Array, step: float = 1e-6) -> Array:
    """Central, number by number."""
    made = np.zeros(array.shape)
    for at in np.ndindex(array.shape):
        middle = array[at]
        array[at] = middle + step
        above = loss()
        array[at] = middle - step
        made[at] = (above - loss()) / (2 * step)
        array[at] = middle
    return made


FLAT, IMAGE = Value((4,)), Value((2, 5))
ONE: dict[str, tuple[Any, Value]] = {
    "softmax": (recurra.Softmax(), FLAT),
    "log_softmax": (recurra.Softmax(log=True), IMAGE),
    "layer_norm": (recurra.LayerNorm(4, eps=1e-3, dtype="float64"), FLAT),
    "layer_norm_bare": (recurra.LayerNorm(10, weight=False, bias=False, dtype="float64"), IMAGE),
    "scale": (recurra.Scale(4, dtype="float64"), FLAT),
    "select": (recurra.Select([3, 0, 0]), FLAT),
    "reshape": (recurra.Reshape((2, 2)), FLAT),
    "dropout": (recurra.Dropout(0.5), FLAT),
    "linear": (recurra.Linear(10, 3, **F64), IMAGE),
    "embedding": (recurra.Embedding(5, 3, **F64), Value((), integer=True)),
    "tanh": ("tanh", FLAT),
    "sigmoid": ("sigmoid", FLAT),
    "relu": ("relu", FLAT),
    "hard_sigmoid": (recurra.Activation("hard_sigmoid", 0.6, 0.4), FLAT),
    "softsign": ("softsign", FLAT),
    "softplus": ("softplus", FLAT),
    "leaky_relu": (recurra.Activation("leaky_relu", 0.3), FLAT),
    "elu": (recurra.Activation("elu", 0.7), FLAT),
    "thresholded_relu": (recurra.Activation("thresholded_relu", 0.4), FLAT),
    "scaled_tanh": (recurra.Activation("scaled_tanh", 1.7, 0.6), FLAT),
    "scaled_tanh_of_zero": (recurra.Activation("scaled_tanh", 0.0, 0.6), FLAT),
    "affine": (recurra.Activation("affine", -0.3, 2.0), FLAT),
    "linear_function": ("linear", FLAT),
    "gru": (recurra.GRU(4, 3, **F64), FLAT),
}
OVER_TIME: dict[str, tuple[Any, Value]] = {
    "last": (recurra.Pool("last"), FLAT),
    "first": (recurra.Pool("first"), FLAT),
    "max": (recurra.Pool("max"), IMAGE),
    "mean": (recurra.Pool("mean"), FLAT),
    "reverse": (recurra.Reverse(), FLAT),
    "conv1d": (recurra.Conv1d(4, 6, 3, 2, 1, groups=2, **F64), FLAT),
    "conv1d_dilated": (recurra.Conv1d(4, 2, 2, 3, (1, 4), 2, bias=False, **F64), FLAT),
    "conv2d": (recurra.Conv2d(2, 3, (3, 2), (2, 1), 1, **F64), IMAGE),
    "conv2d_groups": (recurra.Conv2d(2, 4, (2, 3), 1, ((1, 0), (2, 1)), (1, 2), 2, **F64), IMAGE),
    "max_pool2d": (recurra.MaxPool2d(2, 1, 1), IMAGE),
    "max_pool2d_apart": (recurra.MaxPool2d((3, 2), (1, 3)), IMAGE),
    "avg_pool2d": (recurra.AvgPool2d((3, 2), (2, 1), (1, 0)), IMAGE),
}
CAUSAL: dict[str, tuple[Any, Value]] = {
    "conv1d": (recurra.Conv1d(4, 3, 3, dilation=2, causal=True, **F64), FLAT),
    "conv2d": (recurra.Conv2d(2, 3, (2, 3), 1, ((1, 0), (1, 1)), **F64), IMAGE),
    "max_pool2d": (recurra.MaxPool2d((2, 2), (1, 2), ((1, 0), (0, 0))), IMAGE),
    "avg_pool2d": (recurra.AvgPool2d((2, 3), 1, ((1, 0), (1, 1))), IMAGE),
    "conv1d_of_one": (recurra.Conv1d(4, 3, 1, **F64), FLAT),
}


def one(*nodes: Any, **inputs: Value) -> recurra.Model:
    """A model of these; a gain behind them makes it one of float64 whatever they are."""
    size = recurra.Model(nodes, inputs=inputs)._nodes[-1].value.size
    return moved(recurra.Model([*nodes, recurra.Scale(size, dtype="float64")], inputs=inputs))


@pytest.mark.parametrize("marks", ["", "lengths", "lengths resets mask"])
@pytest.mark.parametrize("name", ONE)
def test_what_is_done_to_every_step(name: str, marks: str) -> None:
    layer, value = ONE[name]
    model = one(layer, x=value)
    check(model, given(model), **marked(marks))
    if name not in ("gru", "dropout"):
        model = one(layer, x=value._replace(time=False))
        check(model, given(model))


@pytest.mark.parametrize("marks", ["", "lengths"])
@pytest.mark.parametrize("name", OVER_TIME)
def test_what_is_done_over_time(name: str, marks: str) -> None:
    layer, value = OVER_TIME[name]
    model = one(layer, x=value)
    check(model, given(model), **marked(marks))


@pytest.mark.parametrize("marks", ["resets", "lengths resets"])
@pytest.mark.parametrize("name", CAUSAL)
def test_windows_do_not_reach_back_over_a_reset(name: str, marks: str) -> None:
    layer, value = CAUSAL[name]
    model = one(layer, x=value)
    check(model, given(model), **marked(marks))


@pytest.mark.parametrize("mode", ["last", "first", "max", "mean"])
def test_pools_leave_masked_steps_out(mode: str) -> None:
    model = one(recurra.Pool(mode), x=FLAT)
    check(model, given(model), **marked("lengths mask"))
    check(model, given(model), mask=np.zeros((T, B), bool))


@pytest.mark.parametrize(
    "layer", [recurra.Add(), recurra.Multiply(), recurra.Concatenate()], ids=lambda layer: layer.kind
)
def test_several_inputs(layer: Any) -> None:
    """With those that have no time, and with one that comes twice."""
    flat, still = Value((3,)), Value((3,), False)
    model = one(Node(layer, ("v", "x", "z", "x"), "y"), x=flat, v=still, z=flat)
    check(model, given(model), **marked("lengths resets mask"))
    model = one(Node(layer, ("v", "w"), "y"), v=still, w=still)
    check(model, given(model))
    model = one(Node(layer, ("x", "z"), "y"), x=Value((2, 3)), z=Value((4 if layer.kind == "concatenate" else 2, 3)))
    check(model, given(model))


def test_a_mask_of_values_and_one_of_tokens() -> None:
    gru = recurra.GRU(3, 4, **F64)
    model, options = one(recurra.Mask(0.5), gru, x=Value((3,))), {"masked_output": "zero", **marked("mask")}
    x = given(model)["x"]
    hidden = ~options["mask"]
    hidden[[0, 2, 3], [1, 0, 0]] = True
    x[hidden] = 0.5
    y, tape = model.forward(x, **options)
    assert_close([y], [*model_reference.run(model, x, **options)[0].values()], 1e-12)
    plain = recurra.Model([*model.layers.values()][1:])
    wanted, same = plain.forward(x, mask=~hidden, masked_output="zero")
    assert_same_bits(y, wanted)
    assert_same_bits(tape.backward(y).x, same.backward(y).x)
    nodes = [
        Node(recurra.Embedding(5, 3, **F64), name="embedding"),
        Node(recurra.Mask(0), ("embedding", "tokens"), "mask"),
        gru,
        recurra.Pool("mean"),
    ]
    model = recurra.Model(nodes, inputs={"tokens": Value((), integer=True)})
    check(model, given(model), lengths=LENGTHS)


def random_states(model: recurra.Model, *names: str, shared: bool = False, batch: tuple[int, ...] = (B,)) -> Any:
    made = {}
    for k, name in enumerate(names):
        shapes = model.layers[name]._packed.state_shapes(() if shared else batch).values()
        parts = tuple(normal(*shape, seed=31 + k) for shape in shapes)
        made[name] = parts if len(parts) > 1 else parts[0]
    return made


def denoiser() -> recurra.Model:
    """Convolutions over width and time, a stack with a residual, and an output for every step."""
    return recurra.Model(
        [
            recurra.Reshape((1, 6)),
            recurra.Conv2d(1, 2, (2, 3), (1, 2), ((1, 0), (1, 1)), **F64),
            "elu",
            recurra.MaxPool2d((1, 2), 1),
            Node(recurra.Linear(4, 5, **F64), name="narrow"),
            Node(recurra.GRU(5, 5, 2, **F64), name="gru"),
            Node(recurra.Add(), ("gru", "narrow"), "residual"),
            recurra.LayerNorm(5, dtype="float64"),
            Node(recurra.LSTM(5, 3, initial_state=True, **F64), name="lstm"),
            recurra.Linear(3, 6, **F64),
            Node("sigmoid", name="gain"),
            Node(recurra.Multiply(), ("gain", "x")),
        ],
        inputs={"x": Value((6,))},
    )


def translator() -> recurra.Model:
    """An encoder whose final states a decoder begins with, and an attention to what it saw on average."""
    return recurra.Model(
        [
            Node(recurra.Embedding(5, 3, **F64), ("source",), "embedding"),
            Node(recurra.LSTM(3, 4, bidirectional=True, **F64), ("embedding",), "encoder"),
            Node(recurra.Pool("mean"), ("encoder",), "average"),
            Node(recurra.LSTM(2, 4, bidirectional=True, **F64), ("x", "encoder:h", "encoder:c"), "decoder"),
            Node(recurra.Concatenate(), ("decoder", "average", "encoder:c"), "joined"),
            Node(recurra.Linear(24, 5, **F64), name="scores"),
            Node(recurra.Softmax(log=True), name="logs"),
        ],
        inputs={"source": Value((), integer=True), "x": Value((2,))},
        outputs=("logs", "encoder", "encoder:h"),
    )


def autoencoder() -> recurra.Model:
    """All steps into one value, and that into steps again."""
    return recurra.Model(
        [
            Node(recurra.Reverse(), ("x",), "backwards"),
            recurra.Conv1d(3, 4, 3, 2, 1, **F64),
            recurra.AvgPool2d(1),
            recurra.GRU(4, 3, direction="reverse", **F64),
            Node(recurra.Pool("last"), name="code"),
            recurra.Repeat(5),
            Node(recurra.RNN(3, 4, **F64), name="decoder"),
            Node(recurra.Select([0, 2, 1]), name="out"),
        ],
        inputs={"x": Value((3,))},
        outputs=("out", "code", "x"),
    )


@pytest.mark.parametrize("make", [denoiser, translator, autoencoder])
@pytest.mark.parametrize("marks", ["", "lengths"])
def test_whole_models(make: Callable[[], recurra.Model], marks: str) -> None:
    model = moved(make())
    check(model, given(model, steps=6 if marks == "" else T), 1e-6, **marked(marks))


def test_states_marks_and_their_gradients() -> None:
    model = moved(denoiser())
    options = marked("lengths resets")
    check(model, given(model), 1e-6, state=random_states(model, "gru"), **options)
    more = random_states(model, "gru") | random_states(model, "lstm", shared=True)
    check(model, given(model), 1e-6, reset_state=more, **options)


def test_the_gradients_of_torch() -> None:
    torch = pytest.importorskip("torch")
    model = recurra.Model(
        [
            recurra.Conv1d(4, 6, 3, 2, 1, **F64),
            "relu",
            recurra.GRU(6, 5, 2, bidirectional=True, **F64),
            recurra.Linear(10, 3, **F64),
        ],
        batch_first=True,
    )
    conv, gru, head = (
        torch.nn.Conv1d(4, 6, 3, 2, 1),
        torch.nn.GRU(6, 5, 2, True, True, bidirectional=True),
        torch.nn.Linear(10, 3),
    )
    twins = {"conv1d0": conv, "recurrent0": gru, "linear0": head}
    for name, twin in twins.items():
        twin.double().load_state_dict({n: torch.from_numpy(a) for n, a in model.layers[name].state_dict().items()})
    x, dy, dh = normal(3, 9, 4), normal(3, 5, 3, seed=1), normal(4, 3, 5, seed=2)
    y, tape = model.forward(x)
    found = tape.backward(dy, {"recurrent0": dh})
    given = torch.from_numpy(x).requires_grad_()
    theirs, h = gru(conv(given.mT).relu().mT)
    theirs = head(theirs)
    torch.autograd.backward([theirs, h], [torch.from_numpy(dy), torch.from_numpy(dh)])
    assert_close(y, theirs.detach().numpy(), 1e-12)
    assert_close(found.x, given.grad.numpy(), 1e-12)
    for name, twin in twins.items():
        for parameter, tensor in twin.named_parameters():
            assert_close(found.params[f"{name}.{parameter}"], tensor.grad.numpy(), 1e-12)


# ------------------------------------------------------------------------------------------ what holds for any model


def test_a_call_without_a_batch_axis_and_with_batch_first() -> None:
    """The same numbers, in the caller's shapes."""
    model, x = moved(denoiser()), normal(T, B, 6)
    first = recurra.Model.from_structure(model.structure | {"batch_first": True}, model.state_dict())
    state, resets = random_states(model, "gru"), marked("resets")["resets"]
    y, final, tape = model.forward(x, state, resets=resets, return_state=True)
    found = tape.backward(y, final)
    turned, same, other = first.forward(x.swapaxes(0, 1), state, resets=resets.T, return_state=True)
    assert_same_bits([turned.swapaxes(0, 1), same], [y, final])
    again = other.backward(turned, same)
    assert_same_bits([again.x.swapaxes(0, 1), again.state, again.params], [found.x, found.state, found.params])
    for b in range(B):
        alone = {name: h[:, b].copy() for name, h in state.items()}
        own, last, tape = model.forward(x[:, b], alone, resets=resets[:, b], return_state=True)
        assert_same_bits(own, y[:, b])
        assert_same_bits(last, {name: tuple(h[:, b] for h in states(s)) for name, s in final.items()})
        part = tape.backward(own, last)
        assert_same_bits(part.x, found.x[:, b])
        assert_same_bits(part.state, {name: tuple(h[:, b] for h in states(s)) for name, s in found.state.items()})


def test_nobody_looks_past_a_row_and_at_what_comes_from_there() -> None:
    model = moved(denoiser())
    x, lengths = normal(T, B, 6), LENGTHS
    y, tape = model.forward(x, lengths=lengths)
    found = tape.backward(y)
    dirty, above = x.copy(), y.copy()
    for b, n in enumerate(lengths):
        dirty[n:, b] = above[n:, b] = np.nan
        assert not found.x[n:, b].any()
    again, tape = model.forward(dirty, lengths=lengths)
    assert_same_bits(again, y)
    assert_same_bits([*tape.backward(above)], [*found])


def test_grad_clip_and_recompute_are_those_of_the_layers() -> None:
    gru = recurra.GRU(3, 8, seed=1)
    model = recurra.Model([Node(recurra.Linear(3, 3, seed=0), name="in"), Node(gru, name="gru"), recurra.Pool("last")])
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((20, 4, 3), "float32"), 9 * rng.standard_normal((4, 8), "float32")
    for recompute in (False, True):
        _, tape = model.forward(x, recompute=recompute)
        _, _, own = gru.forward(model.layers["in"].forward(x)[0], recompute=recompute)
        for clip in (None, 0.01):
            above = np.zeros((20, 4, 8), "float32")
            above[-1] = dy
            expected = own.backward(above, grad_clip=clip)
            found = tape.backward(dy, grad_clip=clip)
            assert_same_bits(
                {f"gru.{n}": d for n, d in expected.params.items()},
                {n: d for n, d in found.params.items() if n.startswith("gru")},
            )
            assert_same_bits(found.state["gru"], expected.state)
        assert not np.array_equal(tape.backward(dy).x, tape.backward(dy, grad_clip=0.01).x)
    with pytest.raises(ValueError, match="grad_clip: expected"):
        tape.backward(dy, grad_clip=-1.0)
    full = recurra.Model([Node(recurra.DifferentialRNN(3, 4, diagonal=False, seed=0), name="full")])
    y, tape = full.forward(x)
    with pytest.raises(ValueError, match="node 'full': grad_clip: expected None"):
        tape.backward(np.ones_like(y), grad_clip=1.0)


def test_backward_again_gives_the_same() -> None:
    model, x = moved(translator()), given(translator())
    y, tape = model.forward(x)
    before = copies(y)
    first = tape.backward(y)
    y["logs"][...] = 7
    x["x"][...] = np.nan
    model.load_state_dict({name: a + 1 for name, a in model.state_dict().items()})
    again = tape.backward(dict(zip(y, before, strict=True)))
    assert_same_bits([*again], [*first])
    less = tape.backward(dict(zip(y, before, strict=True)), input_grad=False)
    assert less.x is None
    assert_same_bits([less.state, less.params], [first.state, first.params])
    assert set(first.state) == {"encoder"}
    only = tape.backward({"encoder": before[1]})
    assert not only.params["decoder.weight_ih_l0"].any() and not only.x["x"].any()


def test_a_layer_that_two_nodes_share() -> None:
    """Its gradient is that of both."""
    shared = recurra.Linear(3, 3, **F64)
    model = recurra.Model([Node(shared, name="a"), "tanh", Node(shared, name="b")])
    x = normal(4, 2, 3)
    y, tape = model.forward(x)
    found = tape.backward(y).params
    apart = recurra.Model.from_structure(model.structure, model.state_dict())
    each = apart.forward(x)[1].backward(y).params
    for name in ("weight", "bias"):
        assert found[f"a.{name}"] is found[f"b.{name}"]
        assert_same_bits(found[f"a.{name}"], each[f"b.{name}"] + each[f"a.{name}"])
    assert model.parameter_count == 12 and apart.parameter_count == 24
    params = model.state_dict()
    params["a.bias"][0] += 1
    with pytest.raises(ValueError, match=r"^state_dict: node 'b': bias: expected the numbers of 'a', whose"):
        model.load_state_dict(params)
    assert_same_bits(model.forward(x)[0], y)


@pytest.mark.parametrize("seed", [7, np.random.default_rng(7)])
def test_dropout_draws_from_rng(seed: Any) -> None:
    model = one(recurra.Dropout(0.25), x=Value((40,)))
    x = normal(50, 2, 40)
    gain, shift = (model.state_dict()[f"scale0.{name}"] for name in ("weight", "bias"))
    y, tape = model.forward(x, rng=seed)
    kept = y != shift
    assert 0.7 < kept.mean() < 0.8
    assert_close(y, np.where(kept, x / 0.75, 0) * gain + shift, 1e-12)
    assert_close(tape.backward(np.ones_like(y)).x, kept * gain / 0.75, 1e-12)
    again = model.forward(x, rng=7)[0]
    assert (isinstance(seed, int)) == np.array_equal(again, y) or not np.array_equal(again, y)
    assert not np.array_equal(model.forward(x, rng=8)[0], y)
    assert_close(model.forward(x)[0], x * gain + shift, 1e-12)
    assert not (one(recurra.Dropout(1.0), x=Value((40,))).forward(x, rng=1)[0] != shift).any()


def test_dropout_of_layers_draws_too() -> None:
    """Each node draws its own."""
    layer = recurra.GRU(4, 4, recurrent_dropout=0.5, **F64)
    model = recurra.Model([Node(layer, ("x",), "a"), Node(layer, ("x",), "b")], outputs=("a", "b"))
    x = normal(T, B, 4)
    y = model.forward(x, rng=3)[0]
    assert not np.array_equal(y["a"], y["b"])
    assert_same_bits(model.forward(x, rng=3)[0], y)
    assert_same_bits(model.forward(x)[0]["a"], layer(x)[0])


@pytest.mark.parametrize("steps", [0, 1])
def test_few_steps_and_no_rows(steps: int) -> None:
    model = moved(denoiser())
    for batch in (0, 2):
        y, tape = model.forward(normal(steps, batch, 6))
        assert y.shape == (steps, batch, 6)
        found = tape.backward(y)
        assert found.x.shape == y.shape
        assert bool(arrays(found.params)[0].any()) == bool(y.size)


def test_parameters_are_replaced_all_or_not_at_all() -> None:
    model = moved(denoiser())
    before = model.state_dict()
    for name in before:
        for wrong in (before[name][..., None], before[name].astype("float32")):
            with pytest.raises(
                (TypeError, ValueError), match=rf"(?s)node '{name.split('.')[0]}'.*{name.split('.')[1]}"
            ):
                model.load_state_dict({n: a + 1 for n, a in before.items()} | {name: wrong})
            assert_same_bits(model.state_dict(), before)
    with pytest.raises(ValueError, match=r"missing \['gru\.weight_hh_l1'\], unexpected \['gru'\]"):
        model.load_state_dict({n if n != "gru.weight_hh_l1" else "gru": a for n, a in before.items()})
    assert model.parameter_count == sum(a.size for a in before.values())


def test_gradients_have_the_same_bits_on_avx2_and_avx512(tmp_path: Path) -> None:
    script = (
        "import sys, test_model_training as t; from checks import save_results\n"
        "made = {}\n"
        "for name, model in (('denoiser', t.denoiser()), ('autoencoder', t.autoencoder())):\n"
        "    y, tape = t.moved(model).forward(t.given(model), lengths=t.LENGTHS)\n"
        "    found = tape.backward(y)\n"
        "    made |= {f'{name} x': found.x} | {f'{name} {n}': a for n, a in found.params.items()}\n"
        "save_results(sys.argv[1], made)\n"
    )
    assert_same_bits_on_avx2_and_avx512(script, tmp_path)
