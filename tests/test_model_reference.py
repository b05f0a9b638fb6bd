"""The oracle of models against torch."""

from __future__ import annotations

from typing import Any

import model_reference
import numpy as np
import pytest
from checks import Array, assert_close, assert_same_bits

import recurra

torch = pytest.importorskip("torch")
Value = recurra.Value


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def one(layer: Any, x: Array, features: tuple[int, ...], **options: Any) -> Array:
    model = recurra.Model([layer], inputs={"x": Value(features)})
    (output,) = model_reference.run(model, x, **options)[0].values()
    return output


def of_torch(module: Any, image: Array) -> Array:
    """[T, B, C, W] through a module that wants [B, C, T, W]."""
    made = module(torch.from_numpy(image).permute(1, 2, 0, 3))
    return np.asarray(made.detach().permute(2, 0, 1, 3).numpy())


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"),
    [(1, 1, 0, 1, 1), (3, 1, 1, 1, 1), (5, 2, 2, 1, 2), (2, 3, 0, 3, 4), (3, 2, 4, 2, 1)],
)
def test_conv1d(kernel: int, stride: int, padding: int, dilation: int, groups: int) -> None:
    x = normal(17, 3, 4)
    layer = recurra.Conv1d(4, 8, kernel, stride, padding, dilation, groups, dtype="float64", seed=1)
    module = torch.nn.Conv1d(4, 8, kernel, stride, padding, dilation, groups, dtype=torch.float64)
    module.load_state_dict({name: torch.from_numpy(a) for name, a in layer.state_dict().items()})
    want = module(torch.from_numpy(x).permute(1, 2, 0)).permute(2, 0, 1).detach().numpy()
    assert_close(one(layer, x, (4,)), want, 1e-12)
    lengths = [17, 9, 13]
    rows = one(layer, x, (4,), lengths=lengths)
    for b, n in enumerate(lengths):
        alone = module(torch.from_numpy(x[:n, b]).T).T.detach().numpy()
        assert len(alone) == layer.output_length(n)
        assert_close(rows[: len(alone), b], alone, 1e-12)
        assert not rows[len(alone) :, b].any()


def test_causal_conv1d_sees_only_the_past() -> None:
    x = normal(9, 2, 3)
    layer = recurra.Conv1d(3, 5, 3, dilation=2, causal=True, bias=False, dtype="float64", seed=1)
    weight = torch.from_numpy(layer.state_dict()["weight"])
    padded = torch.nn.functional.pad(torch.from_numpy(x).permute(1, 2, 0), (4, 0))
    want = torch.nn.functional.conv1d(padded, weight, dilation=2).permute(2, 0, 1).numpy()
    y = one(layer, x, (3,))
    assert_close(y, want, 1e-12)
    resets = np.zeros((9, 2), bool)
    resets[4, 1] = True
    cut = one(layer, x, (3,), resets=resets)
    assert_same_bits(cut[:, 0], y[:, 0])
    assert_same_bits(cut[:4, 1], y[:4, 1])
    assert_same_bits(cut[4:, 1], one(layer, x[4:, 1], (3,)))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"),
    [((3, 3), 1, 1, 1, 1), ((2, 5), (1, 2), (0, 3), (3, 1), 2), ((1, 4), (2, 1), (1, 0), 1, 1), (3, 2, 2, 2, 4)],
)
def test_conv2d(kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> None:
    x = normal(9, 2, 4, 11)
    layer = recurra.Conv2d(4, 8, kernel, stride, padding, dilation, groups, dtype="float64", seed=1)
    module = torch.nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups, dtype=torch.float64)
    module.load_state_dict({name: torch.from_numpy(a) for name, a in layer.state_dict().items()})
    assert_close(one(layer, x, (4, 11)), of_torch(module, x), 1e-12)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(2, None, 0), ((3, 2), (1, 2), (1, 0)), ((1, 4), None, (0, 2)), (3, 2, 1)]
)
@pytest.mark.parametrize("kind", ["MaxPool2d", "AvgPool2d"])
def test_pools_of_windows(kind: str, kernel: Any, stride: Any, padding: Any) -> None:
    x = normal(9, 2, 3, 11)
    module = getattr(torch.nn, kind)(kernel, stride, padding)
    assert_close(one(getattr(recurra, kind)(kernel, stride, padding), x, (3, 11)), of_torch(module, x), 1e-12)


def test_what_is_done_to_every_step() -> None:
    x = normal(5, 2, 6, seed=3)
    given = torch.from_numpy(x)
    norm = recurra.LayerNorm(6, eps=1e-3, dtype="float64")
    norm.load_state_dict({"weight": normal(6, seed=1), "bias": normal(6, seed=2)})
    weight, bias = (torch.from_numpy(norm.state_dict()[name]) for name in ("weight", "bias"))
    want = torch.nn.functional.layer_norm(given, (6,), weight, bias, 1e-3)
    assert_close(one(norm, x, (6,)), want.numpy(), 1e-12)
    assert_close(one(recurra.Softmax(), x, (6,)), given.softmax(-1).numpy(), 1e-12)
    assert_close(one(recurra.Softmax(log=True), x, (6,)), given.log_softmax(-1).numpy(), 1e-12)
    assert_close(one("elu", x, (6,)), torch.nn.functional.elu(given).numpy(), 1e-12)
    assert_close(one(recurra.Activation("leaky_relu"), x, (6,)), torch.nn.functional.leaky_relu(given).numpy(), 1e-12)
    assert_close(one("hard_sigmoid", x, (6,)), (0.2 * given + 0.5).clamp(0, 1).numpy(), 1e-12)


def test_pool_sees_the_steps_that_count() -> None:
    x, lengths = normal(5, 3, 2), [5, 3, 0]
    mask = np.ones((5, 3), bool)
    mask[[0, 4], 0] = False
    for mode, steps in (("first", [1]), ("last", [3]), ("mean", [1, 2, 3]), ("max", [1, 2, 3])):
        y = one(recurra.Pool(mode), x, (2,), lengths=lengths, mask=mask)
        of_steps = np.max if mode == "max" else np.mean
        assert_close(y[0], of_steps(x[steps, 0], axis=0), 1e-15)
        assert not y[2].any()
    assert_same_bits(one(recurra.Pool("last"), x, (2,), lengths=lengths)[1], x[2, 1])


def test_shapes_and_order() -> None:
    x = normal(4, 2, 6)
    assert_same_bits(one(recurra.Select([5, 0, 0]), x, (6,)), x[..., [5, 0, 0]])
    assert_same_bits(one(recurra.Reshape((2, 3)), x, (6,)), x.reshape(4, 2, 2, 3))
    assert_same_bits(one(recurra.Dropout(), x, (6,)), x)
    y = one(recurra.Reverse(), x, (6,), lengths=[4, 2])
    assert_same_bits(y[:, 0], x[::-1, 0])
    assert_same_bits(y[:2, 1], x[1::-1, 1])
    model = recurra.Model([recurra.Repeat(3)], inputs={"x": Value((6,), False)})
    assert_same_bits(model_reference.run(model, x[0])[0]["repeat0"], np.array([x[0]] * 3))


def test_values_without_time_stand_at_every_step() -> None:
    inputs = {"x": Value((3,)), "v": Value((3,), False)}
    x, v = normal(4, 2, 3), normal(2, 3, seed=1)
    for layer, want in (
        (recurra.Add(), x + v),
        (recurra.Multiply(), x * v),
        (recurra.Concatenate(), np.concatenate([x, np.array([v] * 4)], -1)),
    ):
        model = recurra.Model([recurra.Node(layer, ("x", "v"), "y")], inputs=inputs, batch_first=True)
        outputs, final = model_reference.run(model, {"v": v, "x": x.swapaxes(0, 1)}, lengths=[4, 3])
        want[3:, 1] = 0
        assert_same_bits(outputs["y"], want.swapaxes(0, 1))
        assert not final


def test_a_whole_model() -> None:
    """An encoder and a decoder, beside torch's."""
    nodes = [
        recurra.Node(recurra.Embedding(7, 4, dtype="float64", seed=0), ("tokens",), "embedding"),
        recurra.Node(recurra.Mask(0), ("embedding", "tokens"), "mask"),
        recurra.Node(recurra.LSTM(4, 3, 2, bidirectional=True, dtype="float64", seed=1), ("mask",), "encoder"),
        recurra.Node(
            recurra.LSTM(5, 3, 2, bidirectional=True, dtype="float64", seed=2),
            ("x", "encoder:h", "encoder:c"),
            "decoder",
        ),
        recurra.Linear(6, 2, dtype="float64", seed=3),
        recurra.Activation("tanh"),
    ]
    inputs = {"tokens": Value((), integer=True), "x": Value((5,))}
    model = recurra.Model(nodes, inputs=inputs, outputs=("activation0", "encoder:h", "encoder"))
    tokens, x = np.array([[0, 3, 0, 6, 2], [1, 1, 5, 0, 4]]).T, normal(5, 2, 5)
    outputs, final = model_reference.run(model, (tokens, x), masked_output="zero")

    def module(name: str, inputs: int) -> Any:
        twin = torch.nn.LSTM(inputs, 3, 2, bidirectional=True, dtype=torch.float64)
        twin.load_state_dict({n: torch.from_numpy(a) for n, a in model.layers[name].state_dict().items()})
        return twin

    table, head = (model.layers[n].state_dict() for n in ("embedding", "linear0"))
    encoder, decoder = module("encoder", 4), module("decoder", 5)
    for b in range(2):
        kept = tokens[:, b] != 0
        y, state = encoder(torch.from_numpy(table["weight"][tokens[kept, b]]))
        assert_close(outputs["encoder"][kept, b], y.detach().numpy(), 1e-12)
        assert not outputs["encoder"][~kept, b].any()
        assert_close(outputs["encoder:h"][b], state[0].detach().numpy().reshape(-1), 1e-12)
        y, last = decoder(torch.from_numpy(x[:, b]), state)
        want = np.tanh(y.detach().numpy() @ head["weight"].T + head["bias"])
        assert_close(outputs["activation0"][:, b], want, 1e-12)
        assert_close([s[:, b] for s in final["decoder"]], [s.detach().numpy() for s in last], 1e-12)


def test_a_row_has_the_same_bits_alone() -> None:
    layers = [recurra.Conv1d(3, 4, 3, 2, 1, seed=0), recurra.GRU(4, 5, direction="reverse", seed=1), "relu"]
    model = recurra.Model(layers)
    x, lengths = normal(8, 3, 3), [8, 0, 5]
    ((y,), (h,)) = (each.values() for each in model_reference.run(model, x, lengths=lengths))
    for b, n in enumerate(lengths):
        ((alone,), (state,)) = (each.values() for each in model_reference.run(model, x[:n, b]))
        assert_same_bits([y[: len(alone), b], h[:, b]], [alone, state])
        assert not y[len(alone) :, b].any()
