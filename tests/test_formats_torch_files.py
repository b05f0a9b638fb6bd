"""Models from files of PyTorch, and from TorchScript."""

# mypy: disable-error-code="no-any-return,untyped-decorator"

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import recurra
from recurra.formats import UnsupportedModel, safetensors

torch = pytest.importorskip("torch", reason="the parity extra is not installed: no torch")

from test_formats_torch import assert_same, near  # noqa: E402  (which needs torch)
from torch import Tensor, nn  # noqa: E402
from torch_models import made  # noqa: E402

from recurra.formats.torch import load_torch  # noqa: E402
from recurra.formats.torch.load import _combinations  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections"),
    pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


def changed(module: Any) -> Any:
    """Other parameters for the same module."""
    torch.manual_seed(11)
    return {
        name: torch.randn_like(value) if value.is_floating_point() else value
        for name, value in module.state_dict().items()
    }


@pytest.mark.parametrize("prefix", ["", "module.", "model.net."])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_parameters_in_a_file_belong_to_a_module(prefix: str, suffix: str, tmp_path: Path) -> None:
    module, _ = made("Tagger")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state, path = changed(module), tmp_path / f"weights{suffix}"
    stored = {prefix + name: value for name, value in state.items()}
    if suffix == ".safetensors":
        safetensors.write(path, {}, {name: value.numpy() for name, value in stored.items()})
    else:
        torch.save({"epoch": 3, "state_dict": stored} if prefix else stored, path)
    model = recurra.load(path, module=module)
    assert all((module.state_dict()[name] == value).all() for name, value in before.items())
    module.load_state_dict(state)
    assert_same(model, load_torch(module))
    assert_same(model, load_torch(stored, module=module))


def test_old_and_new_weight_norm_read_their_parameters() -> None:
    for name in ("weight_normed_gru", "TCN"):
        module, _ = made(name)
        state = {key: value.abs() + 0.1 for key, value in changed(module).items()}
        model = load_torch(state, module=module)
        module.load_state_dict(state)
        assert_same(model, load_torch(module))


def test_parameters_that_do_not_fit_are_refused() -> None:
    module, _ = made("Tagger")
    state = changed(module)
    del state["fc.bias"]
    with pytest.raises(ValueError, match=r"source: expected the module's parameters, missing \['fc.bias'\]"):
        load_torch(state, module=module)
    with pytest.raises(ValueError, match="size mismatch"):
        load_torch({**state, "fc.bias": torch.zeros(3)}, module=module)
    with pytest.raises(ValueError, match=r"Unexpected key.*other"):
        load_torch({**changed(module), "other": torch.zeros(3)}, module=module)
    two = {f"{side}.{name}": value for side in ("left", "right") for name, value in changed(module).items()}
    with pytest.raises(ValueError, match=r"each of the prefixes \['left.', 'right.'\]"):
        load_torch(two, module=module)
    with pytest.raises(ValueError, match=r"module: expected the torch.nn.Module"):
        load_torch(state)
    with pytest.raises(ValueError, match=r"module: expected None"):
        load_torch(module, module=module)
    with pytest.raises(TypeError, match=r"source: expected a torch.nn.Module, a state_dict or a path, got int"):
        load_torch(3)
    with pytest.raises(TypeError, match=r"module: expected a torch.nn.Module, got str"):
        load_torch(state, module=cast(Any, "Tagger"))
    with pytest.raises(ValueError, match="example: expected 1 to 1 inputs, got 2"):
        load_torch(module, example=(torch.zeros(2, 3), torch.zeros(2)))


class Evil:
    """What a pickle may do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("pickled", ["zip", "plain", "module"])
def test_nothing_in_a_file_is_executed(pickled: str, tmp_path: Path) -> None:
    path, trap = tmp_path / "model.pt", tmp_path / "trap"
    if pickled == "plain":
        path.write_bytes(pickle.dumps({"weight": Evil(trap)}))
    else:
        torch.save({"weight": Evil(trap)} if pickled == "zip" else nn.Linear(3, 4), path)
    with pytest.raises(UnsupportedModel, match=r"model.pt: holds more than parameters.*save the module's state_dict"):
        recurra.load(path, module=nn.Linear(3, 4))
    assert not trap.exists()


class Writes(nn.Module):
    """TorchScript's own way to a file."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.fc, self.path, self.count = nn.Linear(4, 2), path, 1

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + torch.from_file(self.path, True, 2)


class Saves(Writes):
    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            torch.save(x, self.path)
        return self.fc(x)


class WritesWhenRead(Writes):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return (self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path, self.training, self.fc = state[0], state[1], self.fc
        torch.from_file(self.path, True, 2)


class Large(Writes):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + torch.ones([1 << 40]).sum()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Writes, "code/__torch__.*: has from_file, which does more than compute"),
        (Saves, "code/__torch__.*: has torch.save, which does more than compute"),
        (WritesWhenRead, "code/__torch__.*: has __setstate__, which does more than compute"),
        (Large, "ones: makes 1099511627776 numbers"),
    ],
)
def test_torchscript_that_does_more_than_compute_is_refused(kind: Any, message: str, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    torch.jit.save(torch.jit.script(kind(str(trap))), tmp_path / "script.pt")
    trap.unlink(missing_ok=True)
    with pytest.raises(UnsupportedModel, match=message):
        load_torch(tmp_path / "script.pt")
    assert not trap.exists()


def test_a_script_that_does_more_than_compute_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="from_file: is nothing that a model computes"):
        load_torch(torch.jit.script(Writes(str(tmp_path / "trap"))))
    assert not (tmp_path / "trap").exists()


def test_an_archive_that_is_far_larger_than_its_file(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(3, 4))), path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("script/more", bytes(10_000_000))
    with pytest.raises(UnsupportedModel, match="its parts are far larger than the file"):
        load_torch(path)


@pytest.mark.parametrize(
    ("announced", "message"),
    [
        (b"X\xff\xff\xff\x7f", "expected 2147483647 bytes in a unicodestring4"),
        (b"r\xff\xff\xff\x7f", "numbers an object 2147483647"),
    ],
)
def test_a_pickle_that_announces_more_than_there_is(announced: bytes, message: str, tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.pt", tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(3, 4))), whole)
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(path, "w") as damaged:
        for name in archive.namelist():
            data = archive.read(name)
            damaged.writestr(name, data[:2] + announced + data[2:] if name.endswith("/data.pkl") else data)
    with pytest.raises(UnsupportedModel, match=f"a damaged archive: .*{message}"):
        load_torch(path)


def test_a_part_that_cannot_be_decompressed(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.pt", tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(3, 4))), whole)
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as damaged:
        for name in archive.namelist():
            damaged.writestr(name, archive.read(name))
        entry = damaged.getinfo(next(name for name in archive.namelist() if "/code/" in name))
    data = bytearray(path.read_bytes())
    start = entry.header_offset + 30 + len(entry.filename)
    data[start : start + 8] = b"\xff" * 8
    path.write_bytes(data)
    with pytest.raises(UnsupportedModel, match="a damaged zip archive: Error -3"):
        load_torch(path)


def rewritten(folder: Path, old: bytes, new: bytes) -> Path:
    """A file of TorchScript whose code has been changed."""
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(3, 4))), folder / "whole.pt")
    changed = 0
    with zipfile.ZipFile(folder / "whole.pt") as archive, zipfile.ZipFile(folder / "script.pt", "w") as damaged:
        for name in archive.namelist():
            data = archive.read(name)
            if "/container" in name and name.endswith(".py"):  # container.py, or with a number in a folder container
                changed += old in data
                data = data.replace(old, new)
            damaged.writestr(name, data)
    assert changed == 1
    return folder / "script.pt"


@pytest.mark.parametrize("written", ["self[]", "(((((self", "'\0'", "-" * 100_000 + "self"])
def test_code_that_no_parser_takes(written: str, tmp_path: Path) -> None:
    """The first one ends a process in torch.jit.load."""
    path = rewritten(tmp_path, b"    return ", b"    y = " + written.encode() + b"\n    return ")
    with pytest.raises(UnsupportedModel, match=r"/container.*\.py: a damaged file of TorchScript: ."):
        load_torch(path)


def test_a_list_without_a_type(tmp_path: Path) -> None:
    """It too has ended a process in torch.jit.load."""
    path = rewritten(tmp_path, b"    return ", b"    return []\n    return ")
    with pytest.raises(UnsupportedModel, match=r"an empty list without a type in line \d+"):
        load_torch(path)


def test_inputs_of_one_name(tmp_path: Path) -> None:
    path = rewritten(tmp_path, b"input: Tensor", b"other,\n    other,\n    input: Tensor")
    with pytest.raises(UnsupportedModel, match="forward has two inputs of one name"):
        load_torch(path)


def test_what_the_first_inputs_rule_out_is_not_put_together() -> None:
    failed: list[dict[str, Any]] = []
    inputs: Any = [(name, range(20)) for name in "abcdefgh"]
    seen: list[tuple[Any, ...]] = []
    combinations: Any = _combinations(inputs, {}, failed)
    for chosen in combinations:
        seen.append(tuple(chosen.values()))
        failed.append({name: chosen[name] for name in ("a" if chosen["a"] % 2 else "ab")})
    assert seen == [(a, b) + (0,) * 6 for a in range(20) for b in (range(1) if a % 2 else range(20))]


SCRIPTED = [
    "Tagger", "PackedTagger", "PackedClassifier", "Encoder", "Decoder", "OldDecoder", "LSTMDecoder", "Seq2Seq",
    "Denoiser", "MixedStack", "TiedGenerator", "ManualState", "LearnedState", "Attributes", "LastOfPacked", "Wav",
    "Pooled", "lstm_cell", "gru_cell", "double", "CRNN", "TimeDistributed",
]  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTED)
def test_scripts_are_read_as_their_modules(name: str, tmp_path: Path) -> None:
    module, example = made(name)
    torch.jit.script(module.eval()).save(str(tmp_path / "script.pt"))
    model, wanted = recurra.load(tmp_path / "script.pt", example=example), load_torch(module, example=example)
    assert len(model.layers) == len(wanted.layers) - sum(
        isinstance(e, recurra.Dropout) for e in wanted.layers.values()
    ) + sum(isinstance(each, recurra.Dropout) for each in model.layers.values())
    assert list(model.inputs.values()) == list(wanted.inputs.values())
    for ours, theirs in zip(model.state_dict().values(), wanted.state_dict().values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


TRACED = {
    "Denoiser": torch.zeros(2, 11, 9), "MixedStack": torch.zeros(11, 2, 7), "TCN": torch.zeros(2, 6, 30),
    "ManualState": torch.zeros(2, 11, 5), "lstm": torch.zeros(11, 2, 5), "weight_normed_gru": torch.zeros(11, 2, 5),
    "normed": torch.zeros(11, 2, 4), "Spectrogram": torch.zeros(2, 1, 20, 30), "CRNN": torch.zeros(2, 1, 32, 40),
}  # fmt: skip


@pytest.mark.parametrize("name", TRACED)
def test_traces_are_read_as_their_modules(name: str) -> None:
    module, example = made(name)
    trace = torch.jit.trace(module.eval(), TRACED[name], check_trace=False)
    model, wanted = load_torch(trace, example=example), load_torch(module, example=example)
    for ours, theirs in zip(model.state_dict().values(), wanted.state_dict().values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_script_may_be_a_part_of_a_module() -> None:
    part = torch.jit.script(nn.Sequential(nn.Linear(4, 6), nn.Tanh()))
    module, x = nn.Sequential(part, nn.GRU(6, 3)), torch.randn(5, 2, 4)
    near(load_torch(module)(x.numpy()), module(x)[0])


def test_exported_programs_are_read_if_they_are_for_any_batch_and_time() -> None:
    module, x = nn.Sequential(nn.Conv1d(4, 6, 3, padding=2), nn.ReLU(), nn.Conv1d(6, 2, 1)), torch.randn(2, 4, 20)
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.export.export(module, (x,), dynamic_shapes=({0: dynamic, 2: dynamic},))
    assert_same(load_torch(program), load_torch(module))
    with pytest.raises(UnsupportedModel, match="compares the size of its batch or time"):
        load_torch(torch.export.export(module, (x,)))


class Loops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.cell = nn.Linear(4, 4), nn.GRUCell(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        for _ in range(3):
            x = torch.tanh(x)
        return x


class LoopsOverTime(Loops):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.size(0), 4)
        for t in range(x.size(1)):
            h = self.cell(self.fc(x)[:, t], h)
        return h


def test_loops_of_a_script_run_unless_they_run_over_time() -> None:
    module, x = Loops(), torch.randn(2, 3, 4)
    near(load_torch(torch.jit.script(module))(x.numpy()), module(x))
    with pytest.raises(UnsupportedModel, match="prim::Loop: is a loop over batch or time"):
        load_torch(torch.jit.script(LoopsOverTime()))


def test_a_script_of_a_layer_alone_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="torch: LSTM: has several forwards"):
        load_torch(torch.jit.script(nn.LSTM(4, 5)))
