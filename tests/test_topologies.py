"""The ways sequences are mapped to each other, put together from parts, against PyTorch's gradients in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close

import recurra
from recurra import training

torch: Any = pytest.importorskip("torch", reason="the parity extra is not installed: no torch")

B, INPUTS, HIDDEN, CLASSES = 4, 3, 7, 5
LENGTHS = np.array([6, 2, 5, 1])
KINDS = ("RNN", "GRU", "LSTM")


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def layer_of(kind: str, inputs: int, seed: int) -> recurra.Recurrent:
    layer: recurra.Recurrent = getattr(recurra, kind)(inputs, HIDDEN, dtype="float64", seed=seed)
    return layer


def twin(layer: Any) -> Any:
    """The same in PyTorch."""
    if isinstance(layer, recurra.Linear):
        other = torch.nn.Linear(layer.in_features, layer.out_features)
    elif isinstance(layer, recurra.Embedding):
        other = torch.nn.Embedding(layer.num_embeddings, layer.embedding_dim)
    else:
        other = getattr(torch.nn, type(layer).__name__)(layer.input_size, layer.hidden_size)
    other = other.double()
    other.load_state_dict({name: torch.from_numpy(array) for name, array in layer.state_dict().items()})
    return other


def assert_gradients(found: dict[str, Array], other: Any) -> None:
    for name, parameter in other.named_parameters():
        assert_close(found[name], parameter.grad.numpy(), 1e-10)


@pytest.mark.parametrize("pooling", ("last", "max"))
@pytest.mark.parametrize("kind", KINDS)
def test_many_to_one(kind: str, pooling: str) -> None:
    layer, head = layer_of(kind, INPUTS, 0), recurra.Linear(HIDDEN, CLASSES, dtype="float64", seed=1)
    x, targets = random(6, B, INPUTS), np.arange(B) % CLASSES
    y, _, tape = layer.forward(x, lengths=LENGTHS)
    pool = {"last": training.last_step, "max": training.max_over_time}[pooling]
    pooled, pool_back = pool(y, LENGTHS)
    logits, head_tape = head.forward(pooled)
    loss, d_logits = training.softmax_cross_entropy(logits, targets)
    d_head = head_tape.backward(d_logits)
    assert d_head.x is not None
    gradients = tape.backward(pool_back(d_head.x))

    torch_layer, torch_head = twin(layer), twin(head)
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.from_numpy(x), LENGTHS, enforce_sorted=False)
    padded = torch.nn.utils.rnn.pad_packed_sequence(torch_layer(packed)[0])[0]
    valid = torch.from_numpy(training.step_mask(LENGTHS, 6))[:, :, None]
    greatest = padded.masked_fill(~valid, -torch.inf).amax(0)
    chosen = greatest if pooling == "max" else padded[LENGTHS - 1, np.arange(B)]
    want = torch.nn.functional.cross_entropy(torch_head(chosen), torch.from_numpy(targets))
    want.backward()
    assert loss == pytest.approx(want.item(), abs=1e-12)
    assert_gradients(gradients.params, torch_layer)
    assert_gradients(d_head.params, torch_head)


@pytest.mark.parametrize("kind", KINDS)
def test_encoder_and_decoder_of_different_lengths(kind: str) -> None:
    """The encoder's final states begin the decoder, which is taught the symbols so far."""
    encoder, decoder = layer_of(kind, INPUTS, 0), layer_of(kind, 4, 1)
    symbols, head = (
        recurra.Embedding(CLASSES, 4, dtype="float64", seed=2),
        recurra.Linear(HIDDEN, CLASSES, dtype="float64", seed=3),
    )
    x, written = random(6, B, INPUTS), np.random.default_rng(5).integers(CLASSES, size=(10, B))
    lengths = np.array([9, 3, 1, 7])
    mask = training.step_mask(lengths, 9)

    _, middle, encoder_tape = encoder.forward(x, lengths=LENGTHS)
    embedded, symbols_tape = symbols.forward(written[:-1])
    y, _, decoder_tape = decoder.forward(embedded, middle, lengths=lengths)
    logits, head_tape = head.forward(y)
    loss, d_logits = training.softmax_cross_entropy(logits, written[1:], mask)
    d_head = head_tape.backward(d_logits)
    d_decoder = decoder_tape.backward(d_head.x)
    d_encoder = encoder_tape.backward(dstate=d_decoder.state)
    assert d_decoder.x is not None
    d_symbols = symbols_tape.backward(d_decoder.x)

    others = [twin(part) for part in (encoder, decoder, symbols, head)]
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.from_numpy(x), LENGTHS, enforce_sorted=False)
    state = others[0](packed)[1]
    taught = others[2](torch.from_numpy(written[:-1]))
    outputs = others[1](torch.nn.utils.rnn.pack_padded_sequence(taught, lengths, enforce_sorted=False), state)[0]
    scores = others[3](torch.nn.utils.rnn.pad_packed_sequence(outputs)[0])
    valid = torch.from_numpy(mask)
    want = torch.nn.functional.cross_entropy(scores[valid], torch.from_numpy(written[1:])[valid])
    want.backward()
    assert loss == pytest.approx(want.item(), abs=1e-12)
    found = (d_encoder.params, d_decoder.params, d_symbols.params, d_head.params)
    for params, other in zip(found, others, strict=True):
        assert_gradients(params, other)


@pytest.mark.parametrize("kind", KINDS)
def test_one_to_many_generation_goes_on_from_its_own_output(kind: str) -> None:
    """A stream that is fed what it said gives what a call gives that is told so beforehand."""
    layer, head = layer_of(kind, CLASSES, 0), recurra.Linear(HIDDEN, CLASSES, dtype="float64", seed=1)
    stream, symbol, said = layer.stream(), 2, [2]
    for _ in range(12):
        y = stream.step(np.eye(CLASSES)[symbol])
        symbol = int(head(y).argmax())
        said.append(symbol)
    whole, _ = layer(np.eye(CLASSES)[said[:-1]])
    assert head(whole).argmax(-1).tolist() == said[1:]
