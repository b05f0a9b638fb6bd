"""The command line: ``recurra``, or ``python -m recurra``."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path

import recurra
from recurra.command import arguments as model_files


def main() -> int:
    """Run the command line; returns the exit status (argparse exits with 2 on a bad command)."""
    try:
        try:
            return run()
        finally:
            print(end="", flush=True)  # not sys.stdout.flush(): where it is closed, there is no sys.stdout
    except BrokenPipeError:
        # The reader has gone, as head does. What is left goes nowhere, or Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except RuntimeError as error:
        if not str(error).startswith("RECURRA_"):  # an environment variable that the core refuses
            raise
        print(f"recurra: {error}", file=sys.stderr)
        return 2


def run() -> int:
    """Do what the arguments say; returns the exit status."""
    parser = argparse.ArgumentParser(prog="recurra", description="Fast recurrent networks.")
    commands = parser.add_subparsers(dest="command", metavar="command")
    demo = commands.add_parser("demo", help="recognise speakers in real recordings, or train a network; demo --help")
    add_demos(demo)
    model_files.add(commands)
    commands.add_parser(
        "bench",
        help="time layers beside other libraries, bench --help says how; bench FILE: a model beside where it came "
        "from; bench pool: thousands of streams",
        add_help=False,
    )
    commands.add_parser("info", help="show what this machine runs: instruction set, threads, versions")
    cuda = commands.add_parser("cuda", help="show what there is for NVIDIA GPUs and what is missing; try and time it")
    cuda.add_argument(
        "--until",
        choices=("found", "compiled", "tested", "timed"),
        default="timed",
        help="how far to go: show what was found, compile every kernel into the cache, compare results with the CPU's, "
        "print a table of times; default all of it",
    )
    cuda.add_argument(
        "--layer",
        action="append",
        default=[],
        type=layer_of,
        metavar="CELL:DTYPE:H:BATCH",
        help="compile what runs all steps of such a layer at once too; may be repeated",
    )
    parser.add_argument("--cmake-dir", action="store_true", help="print where find_package finds the C++ library")
    parser.add_argument("--includes", action="store_true", help="print the compiler's option for its headers")
    options, rest = parser.parse_known_args()
    if options.command == "bench":
        if rest[:1] == ["pool"]:
            from recurra.bench import pool

            return int(pool.main(rest[1:]))
        if rest and not rest[0].startswith("-"):
            return model_files.bench(rest)
        from recurra.bench.cli import main as bench  # here, so that the others need no benchmark

        status: int = bench(rest)
        return status
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if options.cmake_dir or options.includes:
        return show_library(options)
    if options.command in model_files.COMMANDS:
        return model_files.run(options)
    if options.command == "demo":
        return run_demo(demo, options)
    if options.command == "info":
        recurra.show_config()
    elif options.command == "cuda":
        from recurra.cuda import report

        return report.run(options.until, layers=options.layer)
    else:
        parser.print_help()
    return 0


def layer_of(text: str) -> tuple[str, str, int, int]:
    """Of "lstm:float32:128:1"."""
    words = text.split(":")
    if len(words) != 4:
        raise argparse.ArgumentTypeError(f"expected CELL:DTYPE:H:BATCH, got {text!r}")
    return words[0], words[1], positive(words[2]), positive(words[3])


def show_library(options: argparse.Namespace) -> int:
    """Print where the C++ library is, in a wheel that was built with it; returns the exit status."""
    library = Path(recurra.__file__).parent / "cpp"
    if not library.exists():
        command = "pip install --force-reinstall -C cmake.define.RECURRA_INSTALL=ON ."
        text = "the Python module alone is installed; with the C++ library, in the folder of the sources"
        print(f"recurra: {text}: {command}", file=sys.stderr)
        return 1
    if options.cmake_dir:
        print(library / "lib" / "cmake" / "recurra")
    if options.includes:
        print(f"-I{library / 'include'}")
    return 0


def add_demos(demo: argparse.ArgumentParser) -> None:
    """The demos' names and options."""
    names = demo.add_subparsers(dest="demo", metavar="name", description="default: vowels")
    vowels = names.add_parser("vowels", help="recognise speakers, batched and streamed")
    vowels.add_argument("--train", action="store_true", help="train the classifier from scratch instead")
    vowels.add_argument("--seeds", type=positive, metavar="N", help="train with seeds 0 to N-1; default 1")
    names.add_parser("hello", help='train an RNN to continue "hell", and show its gradients: a second')
    text = names.add_parser("text", help="train a character model on Python's help topics: about a minute")
    text.add_argument(
        "--epochs", type=positive, default=5, metavar="N", help="readings of the training text; default 5"
    )
    text.add_argument("--compare", action="store_true", help="train the same model in PyTorch too")
    names.add_parser("forecast", help="train a forecast of a synthetic series, beside the naive ones")
    variants = names.add_parser("variants", help="train a variant beside LSTM and GRU: a minute each; lists them")
    variants.add_argument("variant", nargs="?", metavar="name", help="which one; default: list them")
    variants.add_argument("--epochs", type=positive, metavar="N", help="epochs of training; default the demo's own")
    for name, parser in names.choices.items():
        shown = "NAME" if name == "variants" else name
        parser.add_argument(
            "--plot", type=Path, metavar="FILE", help=f"where to write the plot; default recurra-{shown}.png"
        )


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def run_demo(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Run the demo that was asked for, vowels if none was; ends with status 2 when its options do not fit."""
    name = options.demo or "vowels"
    if name == "vowels" and not getattr(options, "train", False):
        if options.demo and (options.seeds or options.plot):
            parser.error("vowels: --seeds and --plot are for --train")
        from recurra.demo import vowels

        return vowels.run()
    if name == "variants":
        from recurra.demo import variants

        if options.variant is None:
            if options.epochs or options.plot:
                parser.error("variants: --epochs and --plot need a name")
            variants.show()
            return 0
        name = options.variant
        if name not in variants.names():
            parser.error(f"variants: expected one of {', '.join(variants.names())}, got {name!r}")
    from recurra.demo.report import check_plot

    path = options.plot or Path(f"recurra-{name}.png")
    try:
        check_plot(path)
    except ValueError as error:
        parser.error(f"--plot: {error}")
    if options.demo == "variants":
        return variants.load(name).run(path, options.epochs)
    if name == "vowels":
        from recurra.demo import train_vowels

        return train_vowels.run(options.seeds or 1, path)
    if name == "hello":
        from recurra.demo import hello

        return hello.run(path)
    if name == "forecast":
        from recurra.demo import forecast

        return forecast.run(path)
    if options.compare and importlib.util.find_spec("torch") is None:
        parser.error("--compare: needs PyTorch, pip install torch")
    from recurra.demo import text

    return text.run(path, options.epochs, options.compare)


if __name__ == "__main__":
    raise SystemExit(main())
