"""What the tests of recurra.torch share: modules of every kind, inputs of every form, and how results are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import states

import recurra
from recurra import Activation
from recurra._cells import CELLS

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
    "lstm_layer_norm": ("LSTM", {"layer_norm": True}),
    "lstm_layer_norm_clipped": ("LSTM", {"layer_norm": True, "cell_clip": 0.3}),
    "gru_layer_norm": ("GRU", {"layer_norm": True}),
    "softplus_rnn": ("RNN", {"nonlinearity": "softplus", "clip": 2.0}),
    "softsign_gru": ("GRU", {"activation": "softsign", "recurrent_activation": "hard_sigmoid"}),
    "elu_before": ("GRU", {"activation": Activation("elu", alpha=0.5), "reset": "before", "update": "write"}),
    "scaled_lstm": ("LSTM", {"activation": Activation("scaled_tanh", alpha=1.5, beta=0.7), "peephole": True}),
    "leaky_coupled": ("LSTM", {"output_activation": "leaky_relu", "coupled": True, "proj_size": 2, "clip": 1.5}),
    "multiplicative": ("MultiplicativeLSTM", {}),
    "multiplicative_paper": ("MultiplicativeLSTM", {"form": "paper"}),
    "multiplicative_output": ("MultiplicativeLSTM", {"form": "paper", "bias_at": "output"}),
    "differential": ("DifferentialRNN", {}),
    "differential_0": ("DifferentialRNN", {"orders": (0,)}),
    "differential_012": ("DifferentialRNN", {"orders": (0, 1, 2)}),
    "slstm": ("SLSTM", {}),
    "slstm_heads": ("SLSTM", {"heads": 2}),
    "slstm_exp": ("SLSTM", {"forget": "exp", "heads": 4}),
    "indrnn": ("IndRNN", {}),
    "indrnn_tanh": ("IndRNN", {"nonlinearity": "tanh"}),
    "min_gru": ("MinGRU", {}),
    "min_gru_positive": ("MinGRU", {"candidate": "positive"}),
    "min_lstm": ("MinLSTM", {}),
    "min_lstm_positive": ("MinLSTM", {"candidate": "positive"}),
    "sru": ("SRU", {}),
    "sru_tanh": ("SRU", {"nonlinearity": "tanh"}),
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
    cell = getattr(layer, "_cell", "lstm" if isinstance(layer, torch.nn.LSTM) else "gru")
    others = [normal(stack, *batch, H, seed=2 + k) for k in range(len(CELLS[cell].states) - 1)]
    if CELLS[cell].has_heads:
        others[1] = others[1].abs() + 1  # n divides
    return (h, *others) if others else h


def noise_of(kind: str) -> dict[str, Any]:
    """What a module of this kind may leave out at random."""
    return {"zoneout": 0.4} | ({"recurrent_dropout": 0.3} if CELLS[module(kind)._cell].recurrent_product else {})


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
