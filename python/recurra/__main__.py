"""``python -m recurra demo``, ``python -m recurra bench`` and ``python -m recurra info``."""

from __future__ import annotations

import argparse

import recurra


def main() -> int:
    """Run the command line; returns the exit status (argparse exits with 2 on a bad command)."""
    parser = argparse.ArgumentParser(prog="python -m recurra", description="Fast recurrent networks.")
    commands = parser.add_subparsers(dest="command", metavar="command")
    commands.add_parser("demo", help="recognise speakers in real recordings, batched and streamed")
    commands.add_parser("bench", help="time layers beside other libraries; bench --help says how", add_help=False)
    commands.add_parser("info", help="show what this machine runs: instruction set, threads, versions")
    options, rest = parser.parse_known_args()
    if options.command == "bench":
        from recurra.bench.cli import main as bench  # here, so that the others need no benchmark

        status: int = bench(rest)
        return status
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if options.command == "demo":
        from recurra.demo.vowels import run

        return run()
    if options.command == "info":
        recurra.show_config()
    else:
        parser.print_help()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
