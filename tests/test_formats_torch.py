"""Models from PyTorch and for it: the same numbers as the modules they come from, or a refusal that says where."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recurra
from recurra.formats import UnsupportedModel

torch = pytest.importorskip("torch", reason="the parity extra is not installed: no torch")

import torch_models  # noqa: E402  (which needs torch)
from torch import nn  # noqa: E402
from torch_models import made  # noqa: E402

from recurra.formats.torch import load_torch, to_torch  # noqa: E402
from recurra.formats.torch import tensor as recording  # noqa: E402
from recurra.formats.torch.check import _results, errors  # noqa: E402
from recurra.formats.torch.load import follow  # noqa: E402

NAMES = [*torch_models.MODELS, *torch_models.EXAMPLES]

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections"),
    pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated"),
    pytest.mark.filterwarnings("ignore:Converting a tensor"),
]


def near(ours: Any, theirs: Any, bound: float = 2e-6) -> None:
    """Equal to so many parts of the largest number."""
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= bound * max(1.0, np.abs(theirs).max())


def structure(model: recurra.Model) -> dict[str, Any]:
    """The model's structure with names of nodes that say only where they stand."""
    found = model.structure
    names = {node["name"]: str(place) for place, node in enumerate(found["nodes"])}

    def renamed(name: str) -> str:
        node, colon, state = name.partition(":")
        return names.get(node, node) + colon + state

    nodes = [{**node, "name": "", "inputs": list(map(renamed, node["inputs"]))} for node in found["nodes"]]
    return {**found, "nodes": nodes, "outputs": list(map(renamed, found["outputs"]))}


def assert_same(one: recurra.Model, other: recurra.Model) -> None:
    """The same structure, and the same bits of all parameters."""
    assert structure(one) == structure(other)
    for ours, theirs in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def arguments_of(model: recurra.Model) -> tuple[Any, ...]:
    """Tensors of the shapes that the model's inputs have."""
    dtype = torch.float64 if model.dtype == np.float64 else torch.float32
    return tuple(
        torch.zeros([2, *([5] if value.time else []), *value.features], dtype=torch.int64 if value.integer else dtype)
        for value in model.inputs.values()
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_module_and_its_model_give_the_same(name: str) -> None:
    """For sequences of two lengths, and where the module takes lengths, of rows of different ones."""
    module, example = made(name)
    followed = follow(module, None if example is None else (example,))
    for steps in (31, 70):
        given, lengths, found = _results(module, followed, steps)
        for path, error in errors(followed, given, lengths, found).items():
            assert error <= 2e-6, path


@pytest.mark.parametrize("name", NAMES)
def test_to_torch_and_back_is_the_same_model(name: str) -> None:
    module, example = made(name)
    model = load_torch(module, example=example)
    exported = model.to_torch()
    assert not exported.training
    assert_same(load_torch(exported, example=arguments_of(model)), model)


def test_a_tagger_takes_what_its_module_takes() -> None:
    module, _ = made("Tagger")
    model, tokens = load_torch(module), torch.randint(0, 50, (4, 9))
    assert [type(layer).__name__ for layer in model.layers.values()] == ["Embedding", "LSTM", "Dropout", "Linear"]
    near(model(tokens.numpy()), module.eval()(tokens))


def test_lengths_of_a_packed_sequence_are_the_models() -> None:
    module, _ = made("PackedTagger")
    model, tokens, lengths = load_torch(module), torch.randint(0, 50, (4, 9)), [3, 9, 1, 7]
    ours, theirs = model(tokens.numpy(), lengths=lengths), module.eval()(tokens, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        near(ours[row, :length], theirs[row, :length])


def test_states_that_a_decoder_takes_and_gives_are_the_models() -> None:
    module, _ = made("LSTMDecoder")
    model, token = load_torch(module), torch.randint(0, 30, (3,))
    h, c = torch.randn(2, 1, 3, 20)
    y, h1, c1 = module.eval()(token, h, c)
    ours, state = model(token.numpy()[:, None], {"lstm": (h.numpy(), c.numpy())}, return_state=True)
    near(ours[:, 0], y)
    near(state["lstm"][0], h1)
    near(state["lstm"][1], c1)


def test_text_is_generated_one_step_at_a_time() -> None:
    module, _ = made("Generator")
    stream, state, token = load_torch(module).stream(), None, torch.tensor([[7]])
    for _ in range(20):
        logits, state = module.eval()(token, state)
        ours = stream.step(np.int64(token.item()))
        near(ours, logits[0, 0])
        token = logits.argmax(-1)


def test_a_denoiser_streams() -> None:
    module, _ = made("Denoiser")
    x = torch.randn(1, 40, 9)
    stream = load_torch(module).stream()
    near(np.stack([stream.step(frame) for frame in x[0].numpy()]), module.eval()(x)[0])


def test_convolutions_take_time_behind_features_and_models_before() -> None:
    module, _ = made("TCN")
    model, x = load_torch(module), torch.randn(2, 6, 30)
    near(model(x.numpy().swapaxes(1, 2).copy()).swapaxes(1, 2), module.eval()(x))
    assert [layer.future for layer in model.layers.values() if isinstance(layer, recurra.Conv1d)] == [0, 0, 0]


def test_ends_that_padding_has_added_may_be_cut_off_before_a_convolution_that_pads() -> None:
    def forward(m: Any, x: Any) -> Any:
        return m.two(torch.relu(m.one(torch.nn.functional.pad(x, (3, 1))[:, :, 1:]))[:, :, 1:-2])

    module = Function(forward, one=nn.Conv1d(4, 5, 3, padding=2), two=nn.Conv1d(5, 3, 3, padding=2))
    x = torch.randn(2, 4, 12)
    near(load_torch(module)(x.numpy().swapaxes(1, 2).copy()).swapaxes(1, 2), module(x))


def test_batch_normalisation_is_folded() -> None:
    module, _ = made("Denoiser")
    model = load_torch(module)
    assert not any(isinstance(layer, recurra.Scale) for layer in model.layers.values())
    alone: Any = nn.BatchNorm1d(4)
    alone.running_mean.data.normal_()
    model, x = load_torch(nn.Sequential(alone)), torch.randn(2, 4, 7)
    near(model(x.numpy().swapaxes(1, 2).copy()).swapaxes(1, 2), alone.eval()(x))


def test_pictures_of_text_run_along_their_width() -> None:
    module, example = made("CRNN")
    model, x = load_torch(module, example=example), torch.randn(2, 1, 32, 40)
    near(model(x.permute(0, 3, 1, 2).numpy().copy()).swapaxes(0, 1), module.eval()(x))


PAIRS: dict[str, Any] = {
    "bidirectional": lambda k: nn.LSTM(4, 6 - 3 * k, bidirectional=bool(k)),
    "batch_first": lambda k: nn.Sequential(nn.GRU(4, 4, batch_first=bool(k))),
    "nonlinearity": lambda k: nn.RNN(4, 5, nonlinearity=("tanh", "relu")[k]),
    "kernel": lambda k: nn.Sequential(nn.Conv1d(4, 4, 3, padding=1, dilation=1), nn.Conv1d(4, 4, 1 + 2 * k, padding=k)),
    "stride": lambda k: nn.Conv1d(4, 4, 3, stride=1 + k),
    "dilation": lambda k: nn.Conv1d(4, 4, 3, dilation=1 + k),
    "padding": lambda k: nn.Conv1d(4, 4, 3, padding=k),
    "pooling": lambda k: nn.Sequential((nn.MaxPool1d, nn.AvgPool1d)[k](2)),
    "eps": lambda k: nn.LayerNorm(4, eps=(1e-5, 0.1)[k]),
    "slope": lambda k: nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU((0.01, 0.2)[k])),
    "alpha": lambda k: nn.Sequential(nn.Linear(4, 4), nn.ELU((1.0, 0.5)[k])),
    "beta": lambda k: nn.Sequential(nn.Linear(4, 4), nn.Softplus((1, 2)[k])),
    "log": lambda k: nn.Sequential(nn.Linear(4, 4), (nn.Softmax, nn.LogSoftmax)[k](-1)),
    "bias": lambda k: nn.Linear(4, 4, bias=bool(k)),
    "affine": lambda k: nn.Sequential(nn.Linear(4, 4), nn.Hardtanh(-1, 1 + k)),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_modules_that_differ_in_one_attribute_make_models_that_differ(name: str) -> None:
    outputs = []
    for place in (0, 1):
        torch.manual_seed(5)
        module = PAIRS[name](place)
        example = torch.zeros(2, 4, 9) if name == "pooling" else None
        if name == "pooling":  # which axis is time the module alone does not say
            module = nn.Sequential(nn.Conv1d(4, 4, 1), module)
            module[0].weight.data, module[0].bias.data = torch.eye(4)[:, :, None], torch.zeros(4)
        model = load_torch(module, example=example)
        x = np.random.default_rng(2).standard_normal((2, 9, 4), "float32")
        outputs.append(model(x))
    assert outputs[0].shape != outputs[1].shape or np.abs(outputs[0] - outputs[1]).max() > 1e-3


class Function(nn.Module):
    """Some layers, and a function of them and the input."""

    def __init__(self, function: Any, **layers: Any) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


def _steps(m: Any, x: Any) -> Any:
    h, found = torch.zeros(x.size(0), 5), []
    for t in range(x.size(1)):
        h = m.cell(x[:, t], h)
        found.append(h)
    return torch.stack(found, 1)


REFUSED: dict[str, tuple[Any, str]] = {
    "attention": (nn.MultiheadAttention(4, 2), "multi_head_attention_forward"),
    "transformer": (nn.TransformerEncoderLayer(4, 2, batch_first=True), "torch: node 'self_attn'"),
    "gelu": (nn.Sequential(nn.Linear(4, 4), nn.GELU()), "node '1', gelu: has approximate='none'"),
    "reflection": (nn.Conv1d(4, 4, 3, padding=1, padding_mode="reflect"), "pad: pads with mode='reflect'"),
    "transposed": (nn.ConvTranspose1d(4, 4, 3), "conv_transpose1d: it has no counterpart"),
    "groups": (nn.Sequential(nn.Conv1d(4, 4, 1), nn.GroupNorm(2, 4)), "node '1', group_norm: it has no counterpart"),
    "prelu": (nn.Sequential(nn.Conv1d(4, 4, 1), nn.PReLU(4)), "prelu: has a slope for each of 4 channels"),
    "adaptive": (nn.Sequential(nn.Conv1d(4, 4, 1), nn.AdaptiveAvgPool1d(3)), "has output_size=3"),
    "ceil_mode": (nn.Sequential(nn.Conv1d(4, 4, 1), nn.MaxPool1d(2, ceil_mode=True)), "ceil_mode=True"),
    "without statistics": (
        nn.Sequential(nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4, track_running_stats=False)),
        "node '1', batch_norm: normalises by the statistics of its input",
    ),
    "max_norm": (nn.Embedding(5, 4, max_norm=1.0), "has max_norm=1.0"),
    "steps": (Function(_steps, cell=nn.GRUCell(4, 5)), "takes place 1 of time"),
    "choice by time": (
        Function(lambda m, x: m.rnn(x)[0] if x.size(0) > 10 else x, rnn=nn.GRU(4, 4)),
        "compares the size of its batch or time",
    ),
    "choice by numbers": (Function(lambda m, x: m.l(x) if x.sum() > 0 else x, l=nn.Linear(4, 4)), "sum"),
    "mean of all": (Function(lambda m, x: m.l(x).mean(), l=nn.Linear(4, 4)), "mean over everything"),
    "one row": (Function(lambda m, x: m.l(x)[0][:, 0], l=nn.GRU(4, 4)), "takes place 0 of batch"),
    "first steps": (Function(lambda m, x: m.rnn(x)[0][:7], rnn=nn.GRU(4, 4)), "takes only a part of time"),
    "cut and padded": (
        Function(lambda m, x: m.conv(x[:, :, :-2]), conv=nn.Conv1d(4, 4, 3, padding=2)), "conv1d: cuts steps off",
    ),
    "cut steps": (Function(lambda m, x: m.rnn(x)[0][1:], rnn=nn.GRU(4, 4)), "cuts steps off"),
    "flattened time": (
        Function(lambda m, x: m.fc(m.rnn(x)[0].flatten(1)), rnn=nn.GRU(4, 4, batch_first=True), fc=nn.Linear(28, 2)),
        "node 'fc', linear: is applied to an axis of T and 4",
    ),
    "softmax over time": (
        Function(lambda m, x: torch.softmax(m.rnn(x)[0], 0), rnn=nn.GRU(4, 4)), "softmax: has dim=0",
    ),
    "noise": (
        Function(lambda m, x: m.l(x) + torch.randn_like(x), l=nn.Linear(4, 4)), "randn_like: it has no counterpart",
    ),
    "numbers": (Function(lambda m, x: torch.tensor(m.l(x).numpy()), l=nn.Linear(4, 4)), "numpy"),
    "products": (Function(lambda m, x: m.l(x) @ m.l(x).transpose(1, 2), l=nn.Linear(4, 4)), "matmul"),
    "a part in place": (
        Function(lambda m, x: (y := m.l(x), y[..., :2].add_(1))[0], l=nn.Linear(4, 4)),
        "add_: changes in place what another tensor is a part of",
    ),
    "size of time": (
        Function(lambda m, x: m.rnn(x)[0] / x.size(0), rnn=nn.GRU(4, 4)), "computes with the size of its batch or time",
    ),
    "more steps": (
        Function(lambda m, x: m.rnn(x)[0].reshape(x.size(0), -1, 2), rnn=nn.GRU(4, 4, batch_first=True)),
        "has features and batch or time in one axis",
    ),
    "half": (nn.Linear(4, 4).half(), "expected float32 or float64"),
    "dropout at work": (
        Function(lambda m, x: nn.functional.dropout(m.l(x), 0.5), l=nn.Linear(4, 4)), "dropout: is at work although",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_operation_does_is_refused_with_its_name(name: str) -> None:
    module, message = REFUSED[name]
    before, call = copy.deepcopy(module.state_dict()), nn.Module.__call__
    modes = [each.training for each in module.modules()]
    with pytest.raises(UnsupportedModel, match=r"^torch: ") as error:
        load_torch(module)
    assert message in str(error.value)
    assert nn.Module.__call__ is call
    assert [each.training for each in module.modules()] == modes
    assert all((module.state_dict()[key] == value).all() for key, value in before.items())


def test_the_check_says_where_both_differ_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that does something else stands for whatever goes wrong."""
    monkeypatch.setitem(recording.FUNCTIONS, "relu", recording.FUNCTIONS["sigmoid"])
    module = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 4))
    with pytest.raises(UnsupportedModel, match=r"first in 1\.1 \(ReLU\)"):
        load_torch(module)
    load_torch(module, check=False)


def test_numbers_that_a_module_draws_are_found_by_the_check() -> None:
    with pytest.raises(UnsupportedModel, match="differs by"):
        load_torch(Function(lambda m, x: m.l(x) + torch.randn(4), l=nn.Linear(4, 4)))


def test_numbers_changed_in_place_are_changed_for_whoever_holds_them() -> None:
    def forward(m: Any, x: Any) -> Any:
        y = m.l(x)
        z = y
        y += 1
        nn.functional.relu(y, inplace=True)
        return z * x

    module = Function(forward, l=nn.Linear(4, 4))
    x = torch.randn(2, 3, 4)
    near(load_torch(module)(x.numpy()), module(x))


def test_what_nobody_holds_any_more_may_be_changed_in_place() -> None:
    module = Function(
        lambda m, x: m.relu(m.conv(x).transpose(1, 2)), conv=nn.Conv1d(4, 4, 1), relu=nn.ReLU(inplace=True)
    )
    x = torch.randn(2, 4, 5)
    near(load_torch(module)(x.numpy().swapaxes(1, 2).copy()), module(x))


def test_arguments_that_are_no_tensors_stay_as_they_are_in_the_example() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(4, 3)

        def forward(self, x: Any, factor: float, state: Any = None, last: bool = False) -> Any:
            y = self.rnn(x, state)[0] * factor
            return y[-1] if last else y

    module, x = Scaled(), torch.randn(5, 2, 4)
    near(load_torch(module, example=(x, 2.0))(x.numpy()), module(x, 2.0))
    near(load_torch(module, example=(x, 0.5, None, True))(x.numpy()), module(x, 0.5, None, True))
    h = torch.randn(1, 2, 3)
    model = load_torch(module, example=(x, 0.5, h))
    near(model(x.numpy(), {"rnn": h.numpy()}), module(x, 0.5, h))


def test_a_copy_changed_in_place_is_another_tensor() -> None:
    def forward(m: Any, x: Any) -> Any:
        y = m.l(x)
        z = y.clone()
        z += 1
        return y * z

    module, x = Function(forward, l=nn.Linear(4, 4)), torch.randn(2, 3, 4)
    near(load_torch(module)(x.numpy()), module(x))


def test_an_input_whose_features_nothing_says_needs_an_example() -> None:
    with pytest.raises(UnsupportedModel, match=r"\(F\) input 'input' has; give example="):
        load_torch(nn.Sequential(nn.ReLU()))
    model = load_torch(nn.Sequential(nn.ReLU()), example=torch.zeros(2, 5, 3))
    assert model.inputs["input"].features == (3,)

    class Four(nn.Module):
        def forward(self, x: Any, a: Any, b: Any, c: Any) -> Any:
            return torch.erfinv(x + a + b + c)

    class Nine(nn.Module):
        def forward(self, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any, i: Any) -> Any:
            return a

    with pytest.raises(UnsupportedModel, match=r"no meaning of .* fits so far, .*erfinv: it has no .*; give example="):
        load_torch(Four())
    with pytest.raises(UnsupportedModel, match=r"has 9 inputs; give example="):
        load_torch(Nine())
    module, _ = made("CRNN")
    with pytest.raises(UnsupportedModel, match=r"widths of 32 and 33 both fit; give example="):
        load_torch(module)


RECURRENT = [
    "LSTM",
    "GRU",
    "RNN",
    "SLSTM",
    "SRU",
    "DifferentialRNN",
    "IndRNN",
    "MinGRU",
    "MinLSTM",
    "MultiplicativeLSTM",
]
OPTIONS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in RECURRENT]
OPTIONS += [
    ("LSTM", {"peephole": True, "coupled": "f_from_i", "proj_size": 3, "proj_bias": True, "cell_clip": 0.4}),
    ("LSTM", {"layer_norm": True, "bidirectional": True}),
    (
        "LSTM",
        {"activation": recurra.Activation("leaky_relu", 0.3), "recurrent_activation": "hard_sigmoid", "clip": 2.0},
    ),
    ("LSTM", {"output_activation": ("softsign", "relu"), "bidirectional": True}),
    ("GRU", {"reset": "before", "update": "write", "direction": "reverse"}),
    ("GRU", {"activation": "elu", "initial_state": True, "batch_first": True}),
    ("RNN", {"nonlinearity": recurra.Activation("affine", 0.5, 0.1), "num_layers": 2}),
    ("RNN", {"nonlinearity": "sigmoid", "zoneout": 0.2}),
    ("SLSTM", {"heads": 2, "forget": "exp"}),
    ("MultiplicativeLSTM", {"form": "paper", "bias_at": "output"}),
    ("DifferentialRNN", {"orders": (0, 2)}),
    ("SRU", {"nonlinearity": "tanh", "bidirectional": True}),
]


@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_modules_of_recurra_become_models_and_come_back(kind: str, options: dict[str, Any]) -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(5, 4), getattr(recurra.torch, kind)(4, 6, **options))
    for parameter in module.parameters():
        parameter.data.uniform_(-0.5, 0.5)
    model = load_torch(module)
    x = torch.randn(3, 7, 5)
    near(model(x.numpy()), module.eval()(x)[0])
    exported = to_torch(model)
    near(model(x.numpy()), exported(x))
    assert_same(load_torch(exported), model)


def test_converted_modules_become_the_same_models() -> None:
    module, _ = made("Tagger")
    model = load_torch(module)
    assert_same(load_torch(recurra.torch.convert(module)), model)


def test_models_that_have_no_counterpart_are_refused() -> None:
    layers = [recurra.GRU(4, 8), recurra.Mask(), recurra.Linear(8, 2)]
    with pytest.raises(UnsupportedModel, match="torch: node 'mask0', mask: PyTorch has no counterpart"):
        to_torch(recurra.Model(layers))
    with pytest.raises(
        UnsupportedModel, match="torch: node 'recurrent0', recurrent: expected a layer in full precision"
    ):
        to_torch(recurra.Model([recurra.GRU(4, 8).quantize("int8")]))


def test_a_model_of_everything_goes_to_torch() -> None:
    """What no module above makes: values without time beside those with, windows of uneven padding, selections."""
    rng, nodes = np.random.default_rng(4), recurra.Node
    layers = [
        nodes(recurra.Conv2d(2, 3, (3, 2), padding=((2, 0), (0, 1)), seed=1), ("picture",), "conv"),
        nodes(recurra.AvgPool2d((1, 2)), ("conv",), "avg"),
        nodes(recurra.Select([5, 0, 2, 2]), ("avg",), "some"),
        nodes(recurra.Linear(3, 4, seed=2), ("speaker",), "speak"),
        nodes(recurra.Add(), ("some", "speak"), "sum"),
        nodes(recurra.Concatenate(), ("sum", "speak"), "both"),
        nodes(recurra.Reshape((4, 2)), ("both",), "shape"),
        nodes(recurra.Multiply(), ("shape", "shape"), "square"),
        nodes(recurra.Sqrt(), ("square",), "magnitude"),
        nodes(recurra.LayerNorm(8), ("magnitude",), "norm"),
        nodes(recurra.Softmax(), ("norm",), "soft"),
        nodes(recurra.Reverse(), ("soft",), "reverse"),
        nodes(recurra.LSTM(8, 3, bidirectional=True, seed=3), ("reverse",), "lstm"),
        nodes(recurra.Multiply(), ("lstm:h", "lstm:c"), "ends"),
        nodes(recurra.Pool("first"), ("lstm",), "first"),
        nodes(recurra.Concatenate(), ("ends", "first"), "all"),
        nodes(recurra.Repeat(3), ("all",), "again"),
        nodes(recurra.GRU(12, 2, seed=5), ("again",), "gru"),
    ]
    inputs = {"picture": recurra.Value((2, 5)), "speaker": recurra.Value((3,), False)}
    for batch_first in (False, True):
        model = recurra.Model(layers, inputs=inputs, outputs=("all", "gru", "avg"), batch_first=batch_first)
        picture, speaker = rng.standard_normal((4, 6, 2, 5), "float32"), rng.standard_normal((6, 3), "float32")
        if batch_first:
            picture = picture.swapaxes(0, 1).copy()
        found = to_torch(model)(torch.from_numpy(picture), torch.from_numpy(speaker))
        for name, ours in model((picture, speaker)).items():
            near(ours, found[name])


def test_the_example_of_the_documentation_runs() -> None:
    text = (Path(__file__).parents[1] / "docs" / "formats-torch.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    found: dict[str, Any] = {}
    exec(example, found)
    assert found["y"].shape == (8, 100, 9)
    assert found["frame"].shape == (9,)
    assert_same(load_torch(found["module"]), found["model"])


def test_modules_are_read_by_several_threads() -> None:
    call = nn.Module.__call__
    modules = [made(name)[0] for name in ("Tagger", "Denoiser", "MixedStack", "Decoder") * 2]
    wanted = [load_torch(module) for module in modules]
    with ThreadPoolExecutor(8) as pool:
        for ours, theirs in zip(pool.map(load_torch, modules), wanted, strict=True):
            assert_same(ours, theirs)
    assert nn.Module.__call__ is call


def test_without_torch_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['torch'] = None; import recurra.formats.torch"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (
        "ImportError: recurra.formats.torch: expected PyTorch, which is not installed; pip install torch"
        in found.stderr
    )
