"""The commands' arguments, and what every command does about errors."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import recurra

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["COMMANDS", "add", "bench", "count", "load", "run"]

COMMANDS = ("inspect", "convert", "export", "verify", "run")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The parsers of all commands on model files."""
    about = "a model: recurra's own .safetensors, .onnx, .keras, .h5, .pt, RTNeural's .json, .nam"
    inspect = commands.add_parser("inspect", help="layers, sizes and speed of a model's file")
    inspect.add_argument("file", type=Path, help=about)
    convert = commands.add_parser("convert", help="write a model's file in another format")
    convert.add_argument("file", type=Path, help=about)
    convert.add_argument("to", type=Path, help="where to; the suffix says which: .safetensors, .onnx, .keras, .json")
    convert.add_argument("--quantize", choices=("int8", "bfloat16"), help="weights of recurrent layers")
    export = commands.add_parser("export", help="write a model as source code that needs no library")
    export.add_argument("file", type=Path, help=about)
    kind = export.add_mutually_exclusive_group(required=True)
    kind.add_argument("--c", type=Path, metavar="FOLDER", help="C99 for microcontrollers: a .h and a .c")
    kind.add_argument("--cpp", type=Path, metavar="FOLDER", help="C++17 with vectors for desktops: a .hpp")
    export.add_argument(
        "--name", help="of the files and before the names in them; default the file's, as C can have it"
    )
    export.add_argument("--quantize", choices=("int8",), help="weights of recurrent layers")
    verify = commands.add_parser("verify", help="compare a model's outputs with those of the runtime it came from")
    verify.add_argument("file", type=Path, help=about)
    verify.add_argument("--against", type=Path, metavar="FILE", help="the original, for a file converted from it")
    verify.add_argument("--steps", type=count, default=50, help="of the random input; default 50")
    verify.add_argument("--batch", type=count, default=3, help="default 3")
    verify.add_argument("--seed", type=int, default=0, help="of the random input; default 0")
    verify.add_argument("--tolerance", type=float, default=1e-4, help="largest error allowed; default 1e-4")
    run = commands.add_parser("run", help="stream a file of samples or frames through a model")
    run.add_argument("file", type=Path, help=about)
    run.add_argument("input", type=Path, help=".wav of integer or floating-point samples, or .npy of [T, features]")
    run.add_argument("output", type=Path, help=".wav, as the input is stored, or .npy")
    run.add_argument("--block", type=count, default=64, help="steps that arrive together; default 64")


def run(options: argparse.Namespace) -> int:
    """Do one of `COMMANDS`; returns the exit status: 1 if verify finds a difference, 2 if something cannot be done."""
    return _guarded(options.command, lambda: _run(options))


def bench(rest: Sequence[str]) -> int:
    """``recurra bench FILE``, and what is behind it; returns the exit status."""
    from . import bench

    return _guarded("bench", lambda: bench.run(rest))


def _run(options: argparse.Namespace) -> int:
    from . import convert, export, inspect, stream, verify

    if options.command == "inspect":
        return inspect.run(options.file)
    if options.command == "convert":
        return convert.run(options.file, options.to, options.quantize)
    if options.command == "export":
        return export.run(options.file, options.c, options.cpp, options.name, options.quantize)
    if options.command == "verify":
        sizes = {"steps": options.steps, "batch": options.batch, "seed": options.seed}
        return verify.run(options.file, options.against, tolerance=options.tolerance, **sizes)
    return stream.run(options.file, options.input, options.output, options.block)


def _guarded(command: str, work: Callable[[], int]) -> int:
    """What `work` returns, or 2 and a sentence."""
    try:
        return work()
    except ModuleNotFoundError as error:
        print(f"recurra {command}: needs {error.name}: pip install {error.name}", file=sys.stderr)
        return 2
    except (OSError, ValueError, TypeError, ImportError, MemoryError) as error:
        print(f"recurra {command}: {error}", file=sys.stderr)
        return 2


def load(path: Path) -> recurra.Model:
    """The model of a file that must be there."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    model: recurra.Model = recurra.load(path)
    return model


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)
