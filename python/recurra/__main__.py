"""``python -m recurra demo`` and ``python -m recurra info``."""

from __future__ import annotations

import argparse

import recurra


def main() -> int:
    """Run the command line; returns the exit status (argparse exits with 2 on a bad command)."""
    parser = argparse.ArgumentParser(prog="python -m recurra", description="Fast recurrent networks.")
    commands = parser.add_subparsers(dest="command", metavar="command")
    commands.add_parser("demo", help="recognise speakers in real recordings, batched and streamed")
    commands.add_parser("info", help="show what this machine runs: instruction set, threads, versions")
    command = parser.parse_args().command
    if command == "demo":
        from recurra.demo.vowels import run  # here, so that info needs no demo

        return run()
    if command == "info":
        recurra.show_config()
    else:
        parser.print_help()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
