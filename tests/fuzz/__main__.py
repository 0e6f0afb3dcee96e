"""python -m tests.fuzz [--inputs 1000000] [--seed 1] [--jobs 2] [parser…]

The long run: many mutated inputs through each parser, and a table of what became of them. Exit status 1 where a
parser raised what is not its own; that input is then a file of its corpus, and fails the quick tests from then on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys

from .parsers import PARSERS
from .runs import Report, measured


def main() -> int:
    options = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=(__doc__ or "").partition("\n\n")[2]
    )
    options.add_argument("--inputs", type=int, default=1_000_000, help="of each parser (default: a million)")
    options.add_argument("--seed", type=int, default=1, help="of the mutations (default: 1)")
    options.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="parsers at once (default: each core)"
    )
    options.add_argument("parser", nargs="*", help=f"all by default; possible are {', '.join(PARSERS)}")
    given = options.parse_args()
    if unknown := [name for name in given.parser if name not in PARSERS]:
        options.error(f"no such parser: {', '.join(unknown)}; possible are {', '.join(PARSERS)}")
    tasks = [(name, given.inputs, given.seed) for name in given.parser or PARSERS]
    failed = False
    print(Report.HEADER, flush=True)
    with multiprocessing.get_context("spawn").Pool(given.jobs) as pool:
        for report in pool.imap_unordered(measured, tasks):
            print(report, flush=True)
            failed |= bool(report.foreign)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
