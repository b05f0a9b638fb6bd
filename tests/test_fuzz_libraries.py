"""Mutated files of ONNX, Keras and TorchScript: a model or a ValueError, little memory, an end.

RECURRA_FUZZ=100000 python -m pytest tests/test_fuzz_libraries.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzz_libraries import SECONDS
from fuzzing import COUNT, SLICE

KERAS = ["classifier_of_words", "crnn", "mixed_stack_of_cells", "masks_and_merges", "convolutions", "nested_and_shared"]
SCRIPTS = ["Tagger", "Denoiser", "MixedStack", "LSTMStep"]


def onnx_files(folder: Path) -> Iterator[bytes]:
    pytest.importorskip("onnxruntime", reason="the parity extra is not installed: no onnxruntime")
    from test_onnx_damaged import ORIGINALS
    from test_onnx_scan import GRUS, LSTMS, scan

    for proto in (*ORIGINALS, scan(GRUS["stacked"]), scan(LSTMS["torch"], "h c")):
        yield proto.SerializeToString()


def keras_files(folder: Path) -> Iterator[bytes]:
    from keras_cases import built, write_keras2  # which chooses Keras's backend

    keras: Any = pytest.importorskip("keras", reason="the parity extra is not installed: no keras")
    pytest.importorskip("h5py", reason="the parity extra is not installed: no h5py")
    for name in KERAS:
        built(keras, name).save(folder / "m.keras")
        yield (folder / "m.keras").read_bytes()
        write_keras2(folder / "m.h5", built(keras, name))
        yield (folder / "m.h5").read_bytes()


def script_files(folder: Path) -> Iterator[bytes]:
    torch: Any = pytest.importorskip("torch", reason="the parity extra is not installed: no torch")
    from torch_models import made

    for name in SCRIPTS:
        torch.jit.save(torch.jit.script(made(name)[0].eval()), str(folder / "script.pt"))
        yield (folder / "script.pt").read_bytes()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
@pytest.mark.parametrize(("kind", "share"), [("onnx", 2), ("keras", 4), ("torchscript", 100)])
def test_mutants_are_read_or_refused(kind: str, share: int, tmp_path: Path) -> None:
    files = {"onnx": onnx_files, "keras": keras_files, "torchscript": script_files}[kind]
    for i, data in enumerate(files(tmp_path)):
        (tmp_path / f"{kind}-{i:02}").write_bytes(data)
    count = COUNT // share
    command = [sys.executable, str(Path(__file__).with_name("fuzz_libraries.py")), kind, str(tmp_path)]
    run = subprocess.run(
        [*command, str(SLICE * count), str(count)],
        capture_output=True,
        text=True,
        timeout=60 + SECONDS * count,
        check=False,
    )
    assert run.returncode == 0, f"{run.returncode}\n{run.stderr[-4000:]}"
    good, refused, *_ = run.stdout.split()[-4:]
    assert int(good) > count // 60 and int(refused) > count // 20
    if os.environ.get("RECURRA_FUZZ"):
        print(f"{kind}: models, refused, slowest in s, memory in MB: {run.stdout}")
