"""Modules of PyTorch as people have them, for the tests of `recurra.formats.torch`."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (as everybody writes it)
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

Tensor = torch.Tensor


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 12, padding_idx=0)
        self.lstm = nn.LSTM(12, 16, num_layers=2, batch_first=True, bidirectional=True, dropout=0.3)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(32, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        output, _ = self.lstm(self.embedding(tokens))
        return self.fc(self.dropout(output))


class PackedTagger(Tagger):
    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        packed = pack_padded_sequence(self.embedding(tokens), lengths.cpu(), batch_first=True, enforce_sorted=False)
        output, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.fc(output)


class PackedClassifier(nn.Module):
    """Sorted by length, both directions' last states, as the older tutorials have it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(40, 8), nn.LSTM(8, 10, bidirectional=True)
        self.fc = nn.Linear(20, 3)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embedding(tokens), lengths)
        _, (hidden, _) = self.lstm(packed)
        return self.fc(torch.cat((hidden[-2, :, :], hidden[-1, :, :]), dim=1))


class Encoder(nn.Module):
    """Of the translation tutorial."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 16)
        self.gru = nn.GRU(16, 16, batch_first=True)
        self.dropout = nn.Dropout(0.1)

    def forward(self, input: Tensor) -> Any:
        embedded = self.dropout(self.embedding(input))
        output, hidden = self.gru(embedded)
        return output, hidden


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.gru, self.out = nn.Embedding(30, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 30)

    def forward(self, input: Tensor, hidden: Tensor) -> Any:
        output = F.relu(self.embedding(input))
        output, hidden = self.gru(output, hidden)
        return self.out(output), hidden


class OldDecoder(nn.Module):
    """One token of each row a call."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.gru, self.out = nn.Embedding(30, 16), nn.GRU(16, 20, num_layers=2), nn.Linear(20, 30)

    def forward(self, input: Tensor, hidden: Tensor) -> Any:
        output, hidden = self.gru(self.embedding(input).unsqueeze(0), hidden)
        return F.log_softmax(self.out(output.squeeze(0)), dim=1), hidden


class LSTMDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm, self.out = nn.Embedding(30, 16), nn.LSTM(16, 20), nn.Linear(20, 30)

    def forward(self, input: Tensor, hidden: Tensor, cell: Tensor) -> Any:
        output, (hidden, cell) = self.lstm(self.embedding(input.unsqueeze(0)), (hidden, cell))
        return self.out(output.squeeze(0)), hidden, cell


class Seq2Seq(nn.Module):
    """Both together: the decoder starts from the encoder's last state."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.fc = nn.LSTM(6, 12, 2), nn.LSTM(4, 12, 2), nn.Linear(12, 5)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        _, state = self.encoder(source)
        return self.fc(self.decoder(target, state)[0])


class Denoiser(nn.Module):
    """Causal convolutions, GRU, and a mask on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(9, 16, 5), nn.Conv1d(16, 16, 3, dilation=2, padding=4)
        self.norm = nn.BatchNorm1d(16)
        self.gru = nn.GRU(16, 24, batch_first=True)
        self.mask = nn.Linear(24, 9)

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(1, 2)
        y = F.elu(self.conv1(F.pad(y, (4, 0))))
        y = F.relu(self.norm(self.conv2(y)[:, :, :-4]))
        y, _ = self.gru(y.permute(0, 2, 1))
        return x * torch.sigmoid(self.mask(y))


class CRNN(nn.Module):
    """Text in pictures: [B, 1, 32, width], whose time is the width."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(True), nn.MaxPool2d(2, 2),
            nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(True), nn.MaxPool2d((2, 1), (2, 1)),
            nn.Conv2d(12, 16, (8, 2)), nn.ReLU(True),
        )  # fmt: skip
        self.lstm, self.fc = nn.LSTM(16, 12, bidirectional=True), nn.Linear(24, 11)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.cnn(x)
        _, _, h, _ = conv.size()
        assert h == 1, "the height of conv must be 1"
        output, _ = self.lstm(conv.squeeze(2).permute(2, 0, 1))
        t, b, h = output.size()
        return self.fc(output.view(t * b, h)).view(t, b, -1).log_softmax(2)


class Spectrogram(nn.Module):
    """DeepSpeech's front end: [B, 1, bands, time], flattened to channels times bands."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 4, (5, 3), stride=(2, 2), padding=(2, 1)), nn.BatchNorm2d(4), nn.Hardtanh(0, 20)
        )
        self.gru, self.fc = nn.GRU(4 * 10, 14, bidirectional=True), nn.Linear(14, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        sizes = x.size()
        x = x.view(sizes[0], sizes[1] * sizes[2], sizes[3]).transpose(1, 2).transpose(0, 1).contiguous()
        x, _ = self.gru(x)
        x = x.view(x.size(0), x.size(1), 2, -1).sum(2).view(x.size(0), x.size(1), -1)
        return self.fc(x).transpose(0, 1)


class MixedStack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTM(7, 12, proj_size=8), nn.GRU(8, 8)
        self.rnn, self.norm = nn.RNN(8, 10, nonlinearity="relu"), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        y = self.norm(y + self.gru(y)[0])
        return self.rnn(y)[0][-1]


class Generator(nn.Module):
    """Characters, one after another: what is given is (h, c) or nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.rnn, self.decoder = (
            nn.Embedding(28, 10),
            nn.LSTM(10, 18, 2, batch_first=True),
            nn.Linear(18, 28),
        )

    def forward(self, x: Tensor, state: Any = None) -> Any:
        output, state = self.rnn(self.encoder(x), state)
        return self.decoder(output), state


class TiedGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(28, 12), nn.GRU(12, 12)
        self.bias = nn.Parameter(torch.randn(28))

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(self.embedding(x))
        return y @ self.embedding.weight.t() + self.bias


class ManualState(nn.Module):
    """Zeros made by hand, as in most tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(5, 9, 2, batch_first=True), nn.Linear(9, 1)

    def forward(self, x: Tensor) -> Tensor:
        h0 = torch.zeros(2, x.size(0), 9).requires_grad_()
        c0 = torch.zeros(2, x.size(0), 9).requires_grad_()
        out, _ = self.lstm(x, (h0.detach(), c0.detach()))
        return self.fc(out[:, -1, :])


class LearnedState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 9, batch_first=True, bidirectional=True)
        self.h0 = nn.Parameter(torch.randn(2, 1, 9))

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x, self.h0.expand(-1, x.size(0), -1).contiguous())[0].mean(dim=1)


class Cells(nn.Module):
    """One step of two cells, whose states the caller keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.fc = nn.LSTMCell(4, 8), nn.GRUCell(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor, state: Any, h: Tensor) -> Any:
        h1, c1 = self.first(x, state)
        h = self.second(h1, h)
        return self.fc(h), (h1, c1), h


class LSTMStep(nn.Module):
    """A step of a cell whose states are arguments of their own, which could be lengths for all that their names say."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.fc = nn.LSTMCell(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Any:
        h, c = self.cell(x, (h, c))
        return self.fc(h), h, c


class TwoSteps(LSTMStep):
    """Four inputs, three of them states."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.GRUCell(5, 3)

    def forward(self, x: Tensor, h: Tensor, k: Tensor, c: Tensor) -> Any:  # type: ignore[override]
        h = self.first(x, h)
        return *super().forward(h, k, c), h


class Magnitude(nn.Module):
    """Of a spectrum."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrum, self.fc = nn.Linear(6, 8), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        real, imaginary = self.spectrum(x).chunk(2, dim=-1)
        return self.fc(torch.sqrt(real**2 + imaginary**2)) + (real[..., :2] ** 2) ** 0.5


class TCN(nn.Module):
    """Bai, Kolter, Koltun 2018: weight norm, cut ends, residuals."""

    def __init__(self) -> None:
        super().__init__()
        weight_norm = torch.nn.utils.parametrizations.weight_norm
        self.one, self.two = (weight_norm(nn.Conv1d(i, 10, 3, padding=d * 2, dilation=d)) for i, d in ((6, 1), (10, 4)))
        self.down = nn.Conv1d(6, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.one(x)[:, :, :-2])
        y = F.relu(self.two(y)[:, :, : -self.two.padding[0]])
        return F.relu(y + self.down(x))


class Attributes(nn.Module):
    """Normalised input, gates, parts of features, one vector for all steps."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(6))
        self.register_buffer("std", torch.rand(6) + 0.5)
        self.rnn, self.gate, self.context = nn.GRU(9, 10), nn.Linear(6, 12), nn.Linear(3, 6)

    def forward(self, x: Tensor, speaker: Tensor) -> Tensor:
        x = (x - self.mean) / self.std  # type: ignore[operator]
        a, b = self.gate(x).chunk(2, dim=-1)
        x = a * torch.tanh(b) + self.context(speaker)
        x = torch.cat(
            [
                x[..., 1::2],
                x,
            ],
            dim=-1,
        )
        return self.rnn(x)[0].max(dim=0)[0]


class LastOfPacked(nn.Module):
    """The last step of each row is what the last state says."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.fc = nn.GRU(5, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        packed, hidden = self.gru(packed)
        output, _ = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
        return output, F.softmax(self.fc(hidden.squeeze(0)), dim=-1)


class Wav(nn.Module):
    """A sample a step, seen as [B, T]."""

    def __init__(self) -> None:
        super().__init__()
        self.rec, self.lin = nn.LSTM(1, 16, batch_first=True), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(-1)
        return self.lin(self.rec(x)[0]) + x


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(4, 12, 5, stride=2, padding=2, groups=2), nn.PReLU(), nn.AvgPool1d(2), nn.Conv1d(12, 10, 3),
            nn.SiLU(),
            nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(10, 4), nn.Softmax(dim=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TimeDistributed(nn.Module):
    """Batch and time in one axis for a while, and a convolution over the bands of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rnn = nn.Conv1d(1, 3, 4, stride=2), nn.LSTM(21, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        b, t, f = x.shape
        y = torch.tanh(self.conv(x.reshape(b * t, 1, f)))
        return self.rnn(y.view(b, t, -1))[0]


def weight_normed_gru() -> nn.Module:
    gru = nn.GRU(5, 8, 2)
    for name in ("weight_hh_l0", "weight_ih_l1"):
        nn.utils.weight_norm(gru, name, dim=0)
    return gru


def normed() -> nn.Module:
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 6))
    rnn = nn.utils.parametrizations.weight_norm(nn.LSTM(6, 5), "weight_hh_l0")
    old = nn.utils.spectral_norm(nn.Linear(4, 8))
    with torch.no_grad():
        old(torch.randn(3, 4))
    return nn.Sequential(old, nn.Tanh(), spectral, rnn)


def activations() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.ELU(0.7), nn.Linear(8, 8), nn.SELU(), nn.Linear(8, 8), nn.Mish(),
        nn.Linear(8, 8), nn.GELU(approximate="tanh"), nn.Linear(8, 8), nn.Hardswish(), nn.Linear(8, 8), nn.Softsign(),
        nn.Linear(8, 8), nn.Softplus(2.0), nn.Linear(8, 8), nn.CELU(1.5), nn.Linear(8, 8), nn.ReLU6(),
        nn.Linear(8, 8), nn.LogSigmoid(), nn.Linear(8, 8), nn.Hardsigmoid(), nn.Linear(8, 8), nn.GLU(),
        nn.Linear(4, 8), nn.Tanhshrink(), nn.Linear(8, 8), nn.Hardtanh(-0.5, 0.7), nn.Threshold(0.1, 0.0),
        nn.LogSoftmax(dim=-1),
    )  # fmt: skip


_CLASSES = (
    Tagger, PackedTagger, PackedClassifier, Encoder, Decoder, OldDecoder, LSTMDecoder, Seq2Seq, Denoiser, MixedStack,
    Generator, TiedGenerator, ManualState, LearnedState, Cells, LSTMStep, TwoSteps, Magnitude, TCN,
    Attributes, LastOfPacked, Wav, Pooled,
)  # fmt: skip
MODELS: dict[str, Any] = {kind.__name__: kind for kind in _CLASSES}
MODELS |= {"weight_normed_gru": weight_normed_gru, "normed": normed, "activations": activations}
MODELS |= {
    "lstm": lambda: nn.LSTM(5, 6, 2, bidirectional=True),
    "gru_batch_first": lambda: nn.GRU(5, 6, batch_first=True, bias=False),
    "rnn_relu": lambda: nn.RNN(5, 6, nonlinearity="relu"),
    "lstm_cell": lambda: nn.LSTMCell(5, 6),
    "gru_cell": lambda: nn.GRUCell(5, 6),
    "double": lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.GRU(4, 5)).double(),
}
EXAMPLES: dict[str, Any] = {
    "CRNN": (CRNN, torch.zeros(1, 1, 32, 40)),
    "Spectrogram": (Spectrogram, torch.zeros(2, 1, 20, 30)),
    "TimeDistributed": (TimeDistributed, torch.zeros(2, 5, 16)),
}


def made(name: str) -> tuple[nn.Module, Any]:
    """A module with random numbers everywhere, statistics too, and the example it needs."""
    torch.manual_seed(3)
    kind, example = (MODELS[name], None) if name in MODELS else EXAMPLES[name]
    module = kind()
    for each in module.modules():
        if isinstance(each, (nn.BatchNorm1d, nn.BatchNorm2d)):
            statistics: Any = each
            for tensor in (statistics.running_mean, each.weight, each.bias):
                tensor.data.normal_()
            statistics.running_var.data.uniform_(0.5, 2)
    return module, example
