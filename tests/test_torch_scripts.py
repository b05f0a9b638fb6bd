"""recurra.torch: what training scripts do with modules, and what is refused."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import assert_same_bits, run_python
from torch_modules import (
    F64,
    KINDS,
    OWN_KINDS,
    B,
    H,
    I,
    T,
    Tensor,
    assert_close,
    assert_same_training,
    make_input,
    module,
    normal,
    pair,
    rnn_utils,
    run,
    tensors,
)

import recurra
from recurra import _core
from recurra._cells import CELLS
from recurra.packed import CpuPacked

torch = pytest.importorskip("torch", reason="the parity extra is not installed: no torch")

import recurra.torch  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch tells that it is slow


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


def from_another_process(layer: Any) -> None:
    layer.share_memory()
    writer = torch.multiprocessing.get_context("fork").Process(target=layer.weight_hh_l0.data.mul_, args=(0.5,))
    writer.start()
    writer.join()


CHANGES["share_memory, written by another process"] = from_another_process
CHANGES["one number, its last bit"] = lambda layer: flip_a_bit(layer.weight_hh_l0)


def flip_a_bit(parameter: Any) -> None:
    """Of the sign, so that it can be seen: the sum over values notices any bit alike."""
    parameter.detach().numpy().view(np.uint8).reshape(-1)[7] ^= 0x80


@pytest.mark.parametrize("one_step", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_parameter_is_used_by_the_next_call(change: str, one_step: bool) -> None:
    theirs, ours = pair("gru")
    x = normal(1, 1, I) if one_step else make_input("")
    hx = normal(1, x.shape[1], H, seed=4)
    with torch.no_grad():
        before = ours(x, hx)[0]
    CHANGES[change](ours)
    theirs.to(ours.weight_ih_l0.dtype).load_state_dict(ours.state_dict())
    x, hx = x.to(ours.weight_ih_l0.dtype), hx.to(ours.weight_ih_l0.dtype)
    with torch.no_grad():
        after, expected = ours(x, hx)[0], theirs(x, hx)[0]
    torch.testing.assert_close(after, expected, rtol=1e-6, atol=1e-6, equal_nan=True)
    assert not torch.allclose(after.double(), before)


@pytest.mark.parametrize("bits", range(0, 64, 7))
def test_a_fingerprint_notices_any_bit_anywhere(bits: int) -> None:
    """And numbers that change places; every length of the last stripe, and pieces that threads share."""
    rng = np.random.default_rng(bits)
    for size in (1, 7, 8, 9, 127, 128, 129, 1000, 40_000, 700_000):
        values = rng.integers(1 << 64, size=size, dtype=np.uint64)

        def fingerprint(values: Any = values) -> bytes:
            return _core.fingerprint([values.ctypes.data], [values.nbytes])

        before = fingerprint()
        assert fingerprint() == before and len(before) == 64
        for place in rng.integers(size, size=5):
            values[place] ^= np.uint64(1 << bits)
            assert fingerprint() != before
            values[place] ^= np.uint64(1 << bits)
        i, j = rng.integers(size, size=2)
        if values[i] != values[j]:
            values[[i, j]] = values[[j, i]]
            assert fingerprint() != before
            values[[i, j]] = values[[j, i]]
        assert fingerprint() == before


def count_packs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    packs, init = [], CpuPacked.__init__

    def spy(self: CpuPacked, *args: Any) -> None:
        packs.append(args)
        init(self, *args)

    monkeypatch.setattr(CpuPacked, "__init__", spy)
    return packs


def test_unchanged_parameters_are_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packs = count_packs(monkeypatch)
    layer, x = module("lstm", num_layers=2), make_input("")
    for _ in range(3):
        layer(x)[0].sum().backward()
        with torch.no_grad():
            layer(x)
    assert len(packs) == 1
    in_place(layer)
    layer(x)
    assert len(packs) == 2


DENSE = [kind for kind, (_, options) in (KINDS | OWN_KINDS).items() if "heads" not in options]


@pytest.mark.parametrize("kind", DENSE)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_step_packs_nothing_and_has_the_layers_bits(kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes below, at and beside whole vectors, a stack in both directions, with and without biases and states."""
    name, options = (KINDS | OWN_KINDS)[kind]
    for size, hidden, layers, bidirectional, bias in (
        (I, H, 2, True, True),
        (16, 32, 1, False, True),
        (33, 47, 2, False, False),
        (64, 80, 2, True, True),
    ):
        both: dict[str, Any] = {"num_layers": layers, "bidirectional": bidirectional, "bias": bias, **options}
        ours = getattr(recurra.torch, name)(size, hidden, dtype=getattr(torch, dtype), **both)
        layer = getattr(recurra, name)(size, hidden, dtype=dtype, **both)
        layer.load_state_dict(ours.state_dict())
        rows, output = layers * (2 if bidirectional else 1), ours.proj_size or hidden
        for batch in ((), (1,)):
            x = normal(1, *batch, size).to(ours.weight_ih_l0.dtype)
            state: Any = normal(rows, *batch, output, seed=1).to(x.dtype)
            count = len(CELLS[layer.cell].states)
            if count > 1:
                state = state, *(normal(rows, *batch, hidden, seed=1 + k).to(x.dtype) for k in range(1, count))
            for hx in (None, state):
                expected = layer(x, hx)
                packs = count_packs(monkeypatch)
                with torch.no_grad():
                    assert_same_bits([t.numpy() for t in tensors(ours(x, hx))], expected)
                    if count > 1 and hx is not None:
                        assert_same_bits([t.numpy() for t in tensors(ours(x, list(hx)))], expected)
                assert len(packs) <= 1  # a list is out of the ordinary, and goes the long way
                monkeypatch.undo()


@pytest.mark.parametrize("heads", [1, 3, 12])
def test_one_step_of_heads_has_the_layers_bits(heads: int) -> None:
    ours = recurra.torch.SLSTM(5, 36, 2, heads=heads)
    layer, x = recurra.SLSTM(5, 36, 2, heads=heads), normal(1, 1, 5).float()
    layer.load_state_dict(ours.state_dict())
    with torch.no_grad():
        assert_same_bits([t.numpy() for t in tensors(ours(x))], layer(x))


def test_wide_steps_have_the_layers_bits_on_any_number_of_threads(restore_threads: None) -> None:
    layer = recurra.torch.GRU(600, 500)
    plain = recurra.GRU(600, 500)
    plain.load_state_dict(layer.state_dict())
    x = normal(1, 1, 600).float()
    for threads in (1, 2):
        recurra.set_num_threads(threads)
        with torch.no_grad():
            assert_same_bits([t.numpy() for t in tensors(layer(x))], plain(x))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_weights_are_packed_at_most_once_at_a_time(dropout: float) -> None:
    layer, x = module("lstm", num_layers=3, dropout=dropout), make_input("")
    bytes_of = sum(p.numel() * 8 for p in layer.parameters())

    def kept() -> int:
        return sum(entry.packed.network.weight_bytes for entry in layer._weights._entries.values())

    for training in (False, True, False, True):
        layer.train(training)
        layer(x)[0].sum().backward()
        assert 0 < kept() < 4 * bytes_of  # of small layers, for padding
        assert {number < 0 for number in layer._weights._entries} == {not (training and dropout)}
    wide = recurra.torch.LSTM(300, 300, 2, dropout=dropout)
    wide(torch.zeros(2, 2, 300))[0].sum().backward()
    assert not wide._weights._entries  # they'll be others at the next call, and those for backward hang on them


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
    "float32": ("gru", X.float(), None, TypeError, "input: expected torch.float64, got torch.float32"),
    "bfloat16": ("gru", X.bfloat16(), None, TypeError, "input: expected torch.float32 or .* got torch.bfloat16"),
    "device": ("gru", X.to("meta"), None, ValueError, "input: expected CPU memory, where weight_ih_l0 is, got meta"),
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
    "state dtype": ("gru", X, STATE.float(), TypeError, "hx h: expected torch.float64, got torch.float32"),
    "state device": (
        "gru",
        X,
        STATE.to("meta"),
        ValueError,
        "hx h: expected CPU memory, where weight_ih_l0 is, got meta",
    ),
    "pair": ("gru", X, (STATE, STATE), TypeError, "hx h: expected a torch.Tensor, got tuple"),
    "no pair": ("lstm", X, STATE, TypeError, r"hx: expected a tuple \(h, c\), got Tensor"),
    "c shape": ("lstm_projected", X, (STATE[..., :2], STATE[..., :2]), ValueError, r"hx c: expected shape \[1, 4, 4\]"),
}


@pytest.mark.parametrize("call", BAD_CALLS)
def test_a_wrong_call_is_refused(call: str) -> None:
    kind, x, hx, error, message = BAD_CALLS[call]
    with pytest.raises(error, match=message):
        module(kind)(x, hx)


def test_too_many_rows_are_refused_under_the_name_that_torch_has_for_them() -> None:
    rows = 2**31
    calls = (
        (recurra.torch.GRU(3, 4), torch.empty(0, rows, 3)),
        (recurra.torch.LSTM(3, 4, batch_first=True), torch.empty(rows, 0, 3)),
        (recurra.torch.GRUCell(3, 4), torch.zeros(1, 1).expand(rows, 3)),
    )
    for layer, x in calls:
        with pytest.raises(ValueError, match=rf"^input: expected fewer than 2\*\*31 sequences, got {rows}"):
            layer(x)


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
    distributed.barrier()  # who leaves first must not take the group from the other
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
