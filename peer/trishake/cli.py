"""The command line: `trishake demo`."""

from __future__ import annotations

import argparse
import sys

from ._version import VERSION


def main() -> None:
    """Parse the arguments and run; exits with the command's code, 2 for bad usage."""
    parser = argparse.ArgumentParser(
        prog="trishake", description="Peers that know each other before the first message."
    )
    parser.add_argument("--version", action="version", version=f"trishake {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("demo", help="two peers in two processes greet each other, step by step")
    parser.parse_args()

    from ._demo import run_demo  # here, so that --help need not load the whole library

    sys.exit(run_demo())
