"""Small models of PyTorch, written by both of its exporters to ONNX, imported, against ONNX Runtime."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

ort = pytest.importorskip("onnxruntime", reason="the parity extra is not installed: no onnxruntime")
onnx = pytest.importorskip("onnx", reason="the parity extra is not installed: no onnx")
torch = pytest.importorskip("torch", reason="torch is not installed")

from onnx_files import check, exported, ours, runtime  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from recurra.formats import UnsupportedModel  # noqa: E402
from recurra.formats.onnx import read_onnx  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    Tensor = Any


class Network(nn.Module):
    """Submodules, and a function of them and the inputs."""

    def __init__(self, function: Callable[..., Any], **modules: Any) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


class Case(NamedTuple):
    """A module, examples of its inputs, their open axes, and what the model is made of."""

    module: Any
    inputs: dict[str, Any]
    axes: dict[str, dict[int, str]]
    kinds: str


def denoiser(net: Any, x: Tensor) -> Tensor:
    y = torch.relu(net.norm(net.conv(x.transpose(1, 2))[..., :-4])).transpose(1, 2)
    y, _ = net.gru(y)
    return torch.sigmoid(net.out(y + net.skip(x))) * x


def crnn(net: Any, x: Tensor) -> Tensor:
    return net.out(net.rnn(net.image(x).squeeze(2).permute(2, 0, 1))[0]).log_softmax(2)


def spectrogram(net: Any, x: Tensor) -> Tensor:
    y = net.image(x.unsqueeze(1))
    rows, channels, steps, width = y.shape
    return net.out(net.rnn(y.permute(0, 2, 1, 3).reshape(rows, steps, channels * width))[0])


def encoder(net: Any, x: Tensor) -> Any:
    return net.rnn(net.words(x))[1]


def decoder(net: Any, x: Tensor, h: Tensor, c: Tensor) -> Any:
    y, (h, c) = net.rnn(net.words(x), (h, c))
    return net.out(y), h, c


def translator(net: Any, x: Tensor, z: Tensor) -> Tensor:
    return net.out(net.decoder(z, net.encoder(x)[1])[0])


def residual(net: Any, x: Tensor) -> Tensor:
    for rnn, norm in zip(net.rnns, net.norms, strict=True):
        x = norm(x + rnn(x)[0])
    return net.out(x)


def by_time(net: Any, x: Tensor) -> Tensor:
    rows, steps, size = x.shape
    return net.rnn(torch.tanh(net.dense(x.reshape(rows * steps, size))).reshape(rows, steps, -1))[0]


def dilated(net: Any, x: Tensor) -> Tensor:
    y = x.transpose(1, 2)
    for conv in net.convs:
        y = y + functional.elu(conv(functional.pad(y, (conv.dilation[0] * 2, 0))))
    return y.transpose(1, 2)


def pooled(net: Any, x: Tensor) -> Tensor:
    y = net.rnn(x)[0]
    return net.out(torch.cat([y.mean(1), y.max(1).values, y[:, 0], y[:, -1]], -1))


def conditioned(net: Any, x: Tensor, z: Tensor) -> Tensor:
    return net.out(net.rnn(x * net.gain(z).unsqueeze(1) + net.shift(z).unsqueeze(1))[0])


def with_speaker(net: Any, x: Tensor, z: Tensor) -> Tensor:
    return net.rnn(torch.cat([x, z.unsqueeze(1).expand(-1, x.shape[1], -1)], -1))[0]


def one_step(net: Any, x: Tensor, h: Tensor) -> Any:
    y, h = net.rnn(x.unsqueeze(0), h)
    return net.out(y.squeeze(0)), h


def mixed(net: Any, x: Tensor) -> Tensor:
    return net.out(net.second(functional.silu(net.norm(net.first(x)[0])))[0])


def masked_tagger(net: Any, x: Tensor, n: Tensor) -> Tensor:
    packed = nn.utils.rnn.pack_padded_sequence(net.words(x), n, batch_first=True)
    return net.out(nn.utils.rnn.pad_packed_sequence(net.rnn(packed)[0], batch_first=True)[0])


def randomized(module: Any) -> Any:
    for each in module.modules():
        if isinstance(each, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert each.running_mean is not None and each.running_var is not None
            each.running_mean.normal_()
            each.running_var.uniform_(0.5, 2)
            nn.init.normal_(each.weight)
            nn.init.normal_(each.bias)
    return module


def real(*shape: int) -> Tensor:
    return torch.randn(*shape)


def words(*shape: int) -> Tensor:
    return torch.randint(0, 11, shape)


def cases() -> dict[str, Case]:
    torch.manual_seed(7)
    first = {"batch_first": True}
    x, bt = {"x": real(3, 7, 6)}, {"x": {0: "batch", 1: "time"}}
    z = {"z": {0: "batch"}}
    state = {"h": {1: "batch"}, "c": {1: "batch"}}
    image = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.LeakyReLU(),
        nn.MaxPool2d((2, 1)),
        nn.Conv2d(6, 6, (2, 2)),
    )
    front = nn.Sequential(nn.Conv2d(1, 3, (3, 5), padding=(1, 0), stride=(1, 2)), nn.ReLU(), nn.AvgPool2d((1, 2)))
    return {
        "gru": Case(nn.GRU(6, 5), {"x": real(7, 3, 6)}, {"x": {0: "time", 1: "batch"}}, "recurrent"),
        "bidirectional lstm": Case(nn.LSTM(6, 5, 2, bidirectional=True, **first), x, bt, "recurrent recurrent"),
        "rnn": Case(nn.RNN(6, 5, 2, nonlinearity="relu", **first), x, bt, "recurrent recurrent"),
        "one row": Case(nn.LSTM(6, 5, bias=False), {"x": real(7, 6)}, {"x": {0: "time"}}, "recurrent"),
        "tagger": Case(
            Network(
                lambda net, x: net.out(net.rnn(net.words(x))[0]).log_softmax(-1),
                words=nn.Embedding(11, 6),
                rnn=nn.LSTM(6, 5, 2, bidirectional=True, **first),
                out=nn.Linear(10, 4),
            ),
            {"x": words(3, 7)},
            bt,
            "embedding recurrent recurrent linear softmax",
        ),
        "encoder": Case(
            Network(encoder, words=nn.Embedding(11, 6), rnn=nn.LSTM(6, 5, **first)),
            {"x": words(3, 7)},
            bt,
            "embedding recurrent",
        ),
        "decoder": Case(
            Network(decoder, words=nn.Embedding(11, 6), rnn=nn.LSTM(6, 5, 2, **first), out=nn.Linear(5, 11)),
            {"x": words(3, 7), "h": real(2, 3, 5), "c": real(2, 3, 5)},
            bt | state,
            "embedding recurrent recurrent linear",
        ),
        "translator": Case(
            Network(translator, encoder=nn.LSTM(6, 5, **first), decoder=nn.LSTM(4, 5, **first), out=nn.Linear(5, 3)),
            x | {"z": real(3, 4, 4)},
            bt | {"z": {0: "batch", 1: "other"}},
            "recurrent recurrent linear",
        ),
        "denoiser": Case(
            Network(
                denoiser,
                conv=nn.Conv1d(6, 6, 5, padding=4),
                norm=nn.BatchNorm1d(6),
                gru=nn.GRU(6, 6, **first),
                out=nn.Linear(6, 6),
                skip=nn.Linear(6, 6),
            ),
            x,
            bt,
            "conv1d activation recurrent linear add linear activation multiply",
        ),
        "crnn": Case(
            Network(crnn, image=image, rnn=nn.LSTM(6, 5, bidirectional=True), out=nn.Linear(10, 4)),
            {"x": real(2, 1, 8, 21)},
            {"x": {0: "batch", 3: "width"}},
            "conv2d activation max_pool2d conv2d activation max_pool2d conv2d recurrent linear softmax",
        ),
        "spectrogram": Case(
            Network(spectrogram, image=front, rnn=nn.GRU(9, 5, **first), out=nn.Linear(5, 2)),
            {"x": real(3, 7, 17)},
            bt,
            "reshape conv2d activation avg_pool2d recurrent linear",
        ),
        "last step": Case(
            Network(lambda net, x: net.out(net.rnn(x)[0][:, -1]), rnn=nn.LSTM(6, 5, **first), out=nn.Linear(5, 3)),
            x,
            bt,
            "recurrent pool linear",
        ),
        "final state": Case(
            Network(lambda net, x: net.out(net.rnn(x)[1][-1]), rnn=nn.GRU(6, 5, **first), out=nn.Linear(5, 3)),
            x,
            bt,
            "recurrent linear",
        ),
        "pooled": Case(
            Network(pooled, rnn=nn.GRU(6, 5, **first), out=nn.Linear(20, 3)),
            x,
            bt,
            "recurrent pool pool pool pool concatenate linear",
        ),
        "residual": Case(
            Network(
                residual,
                rnns=nn.ModuleList(nn.GRU(6, 6, **first) for _ in range(2)),
                norms=nn.ModuleList(nn.LayerNorm(6) for _ in range(2)),
                out=nn.Linear(6, 2),
            ),
            x,
            bt,
            "recurrent add layer_norm recurrent add layer_norm linear",
        ),
        "by time": Case(
            Network(by_time, dense=nn.Linear(6, 4), rnn=nn.GRU(4, 5, **first)), x, bt, "linear activation recurrent"
        ),
        "dilated": Case(
            Network(dilated, convs=nn.ModuleList(nn.Conv1d(6, 6, 3, dilation=d) for d in (1, 2))),
            x,
            bt,
            "conv1d activation add conv1d activation add",
        ),
        "strided": Case(
            Network(
                lambda net, x: net.rnn(net.conv(x.transpose(1, 2)).transpose(1, 2))[0],
                conv=nn.Conv1d(6, 8, 4, stride=2, padding=1),
                rnn=nn.GRU(8, 5, **first),
            ),
            x,
            bt,
            "conv1d recurrent",
        ),
        "conditioned": Case(
            Network(
                conditioned, gain=nn.Linear(3, 6), shift=nn.Linear(3, 6), rnn=nn.GRU(6, 5, **first), out=nn.Linear(5, 2)
            ),
            x | {"z": real(3, 3)},
            bt | z,
            "linear multiply linear add recurrent linear",
        ),
        "speaker": Case(
            Network(with_speaker, rnn=nn.GRU(9, 5, **first)), x | {"z": real(3, 3)}, bt | z, "concatenate recurrent"
        ),
        "one step": Case(
            Network(one_step, rnn=nn.GRU(6, 5, 2), out=nn.Linear(5, 2)),
            {"x": real(3, 6), "h": real(2, 3, 5)},
            {"x": {0: "batch"}, "h": {1: "batch"}},
            "recurrent recurrent linear",
        ),
        "mixed": Case(
            Network(
                mixed,
                first=nn.LSTM(6, 5, **first),
                norm=nn.LayerNorm(5),
                second=nn.GRU(5, 4, **first),
                out=nn.Linear(4, 2),
            ),
            x,
            bt,
            "recurrent layer_norm activation multiply recurrent linear",
        ),
        "fixed sizes": Case(
            Network(lambda net, x: net.out(net.rnn(x)[0]), rnn=nn.GRU(6, 5, **first), out=nn.Linear(5, 2)),
            {"x": real(1, 7, 6)},
            {},
            "recurrent linear",
        ),
        "waveform": Case(
            Network(
                lambda net, x: net.out(torch.tanh(net.conv(x.unsqueeze(1)))).squeeze(1),
                conv=nn.Conv1d(1, 4, 9, padding=4),
                out=nn.Conv1d(4, 1, 1),
            ),
            {"x": real(2, 40)},
            {"x": {0: "batch", 1: "samples"}},
            "conv1d activation linear",
        ),
    }


CASES = cases()


def arrays_of(case: Case) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in case.inputs.items()}


@pytest.mark.parametrize(("name", "opset"), [(name, (13, 17, 20)[i % 3]) for i, name in enumerate(sorted(CASES))])
def test_the_exporter_of_torchscript(name: str, opset: int) -> None:
    case = CASES[name]
    module = randomized(case.module)
    data = exported(module, tuple(case.inputs.values()), list(case.inputs), case.axes, opset_version=opset)
    imported = check(data, arrays_of(case), 3e-6)
    assert " ".join(node["kind"] for node in imported.model.structure["nodes"]) == case.kinds
    assert not imported.initial or set(imported.model.inputs) == {"x"}


@pytest.mark.parametrize("name", ["tagger", "decoder", "denoiser", "crnn", "pooled", "residual", "speaker"])
def test_the_exporter_of_exported_programs(name: str) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript, which torch's new exporter needs, is not installed")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    case = CASES[name]
    module = randomized(case.module)
    data = exported(module, tuple(case.inputs.values()), list(case.inputs), case.axes, dynamo=True)
    imported = check(data, arrays_of(case), 3e-6)
    assert " ".join(node["kind"] for node in imported.model.structure["nodes"]) == case.kinds


def test_a_masked_tagger_takes_lengths() -> None:
    """Frames past a row's length are zero here, and what the last layer makes of zeros in ONNX Runtime."""
    module = Network(
        masked_tagger,
        words=nn.Embedding(11, 6),
        rnn=nn.LSTM(6, 5, bidirectional=True, batch_first=True),
        out=nn.Linear(10, 3),
    )
    lengths = torch.tensor([7, 5, 2])
    axes = {"x": {0: "batch", 1: "time"}, "n": {0: "batch"}}
    data = exported(module, (words(3, 7), lengths), ["x", "n"], axes)
    imported = read_onnx(data)
    assert imported.lengths == "n"
    feeds = {"x": words(3, 7).numpy(), "n": lengths.numpy()}
    (theirs,), (mine,) = runtime(data, feeds).values(), ours(imported, feeds).values()
    for row, length in enumerate(lengths):
        assert np.abs(theirs[row, :length] - mine[row, :length]).max() < 2e-6
        assert not mine[row, length:].any()


def test_rows_sorted_by_length_inside_of_the_file_are_refused() -> None:
    def sorting(net: Any, x: Tensor, n: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(net.rnn(packed)[0], batch_first=True)[0]

    axes = {"x": {0: "batch", 1: "time"}, "n": {0: "batch"}}
    module = Network(sorting, rnn=nn.LSTM(6, 5, batch_first=True))
    data = exported(module, (real(3, 7, 6), torch.tensor([7, 2, 5])), ["x", "n"], axes)
    with pytest.raises(UnsupportedModel, match=r"ONNX: node '/TopK' \(TopK\): operator is not supported"):
        read_onnx(data)
