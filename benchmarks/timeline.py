"""What it costs that every greeting has a timeline, and what it costs when somebody looks.

    python -m benchmarks.timeline                    # CPU time, in about two minutes
    python -m benchmarks.timeline --instructions     # counted by valgrind, which nothing disturbs; about as long
    python -m benchmarks.timeline --json out.json

A greeting is `initiate` and `respond` over a pair of streams in memory, by default in the classical suite: nothing
but the library and the cryptography, which makes the share of the timeline as large as it gets. Both ends count.

    nothing         `Trace.mark` does nothing: no step has a time, nobody is told
    as it is        every step is noted, and nobody looks
    observer        one that is told, and does nothing
    read            `timeline` is read of each connection, at both ends
    log             every step is logged, to a handler that formats it and throws it away
    file            every step is written to a file, by TRISHAKE_LOG

The processes of a run, one for each, are fresh, live at the same time and take turns. A ratio is that of the sums
of a run; what is shown is the median of the runs, and the least and the most.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import trio
from trio.testing import memory_stream_pair

from benchmarks.run import machine
from benchmarks.scaling import Process, obey, processes
from benchmarks.suites import SUITES, add_suite
from trishake import Identity, Observer, SecureStream, initiate, respond
from trishake._timeline import Trace

VARIANTS: Final = ("nothing", "as it is", "observer", "read", "log", "file")
TURNS: Final = 30
GREETINGS: Final = 40
"""Of each process in a turn."""
WARM_UP: Final = 100

COUNTED: Final = (20, 120)
"""Greetings of the two runs under valgrind, whose difference is counted: what goes before and after falls out."""


async def hold(variant: str, suite: str) -> None:
    """One end and the other. Commands: greet, how many times."""
    greet = _greeter(variant, suite)
    await greet(WARM_UP)

    async def timed(times: int) -> float:
        gc.collect()
        begin = time.process_time()
        await greet(times)
        return time.process_time() - begin

    await obey({"greet": timed})


def _greeter(variant: str, suite: str) -> Callable[[int], Awaitable[None]]:
    options: dict[str, Any] = {"suites": SUITES[suite]}
    if variant == "nothing":
        Trace.mark = lambda *_: None  # type: ignore[method-assign]
    elif variant == "observer":
        options["observers"] = [Observer()]
    elif variant == "log":
        logging.getLogger("trishake").setLevel(logging.DEBUG)
        logging.getLogger("trishake").addHandler(logging.StreamHandler(open(os.devnull, "w")))  # noqa: SIM115
    ada, bob = Identity.generate(), Identity.generate()
    met: list[SecureStream] = []

    async def dial(stream: trio.abc.Stream) -> None:
        met.append(await initiate(stream, ada, **options))

    async def greet(times: int) -> None:
        for _ in range(times):
            here, there = memory_stream_pair()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(dial, here)
                met.append(await respond(there, bob, **options))
            if variant == "read":
                for end in met:
                    assert end.timeline.entries
            met.clear()

    return greet


def cpu_time(suite: str, runs: int) -> dict[str, list[float]]:
    """Of each variant, microseconds of CPU time a greeting takes, both ends; one figure for each run."""
    found: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for run in range(runs):
        print(f"run {run + 1} of {runs}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as directory:
            os.environ.pop("TRISHAKE_LOG", None)
            made: dict[str, Process] = {}
            for variant in VARIANTS:
                if variant == "file":
                    os.environ["TRISHAKE_LOG"] = str(Path(directory) / "events")
                made[variant] = Process("hold", variant, suite, module="benchmarks.timeline")
            with processes(list(made.values())):
                seconds = dict.fromkeys(VARIANTS, 0.0)
                for turn in range(TURNS):
                    first = turn % len(VARIANTS)  # nobody always comes behind the same one
                    for variant in VARIANTS[first:] + VARIANTS[:first]:
                        seconds[variant] += made[variant].ask("greet", GREETINGS)
        for variant in VARIANTS:
            found[variant].append(seconds[variant] / TURNS / GREETINGS * 1e6)
    return found


def instructions(suite: str, runs: int) -> dict[str, list[float]]:
    """Of each variant, thousands of instructions a greeting takes, both ends; one figure for each run."""
    found: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory() as directory:
        for run in range(runs):
            for variant in VARIANTS:
                print(f"run {run + 1} of {runs}: {variant}", file=sys.stderr, flush=True)
                log = {"TRISHAKE_LOG": str(Path(directory) / "events")} if variant == "file" else {}
                less, more = (_counted(variant, suite, times, log) for times in COUNTED)
                found[variant].append((more - less) / (COUNTED[1] - COUNTED[0]) / 1000)
    return found


def _counted(variant: str, suite: str, times: int, log: dict[str, str]) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    command += [sys.executable, "-m", "benchmarks.timeline", "once", variant, suite, str(times)]
    env = {**os.environ, **log, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    (count,) = re.findall(r"Collected : (\d+)", done.stderr)
    return int(count)


def print_table(found: dict[str, list[float]], unit: str) -> None:
    print(f"{'':10} {unit:>12} {'× nothing':>10} {'least – most':>16} {'× as it is':>11} {'least – most':>16}")
    for variant, values in found.items():
        cells = []
        for base in ("nothing", "as it is"):
            ratios = [one / other for one, other in zip(values, found[base], strict=True)]
            cells.append(f"{statistics.median(ratios):.3f} {min(ratios):>9.3f} – {max(ratios):.3f}")
        print(f"{variant:10} {statistics.median(values):12.1f}      {'       '.join(cells)}")


def main() -> None:
    match sys.argv[1:]:
        case ["hold", variant, suite]:
            trio.run(hold, variant, suite)
        case ["once", variant, suite, times]:
            trio.run(_greeter(variant, suite), int(times))
            return
        case _:
            pass
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--instructions", action="store_true", help="count them, by valgrind; CPU time by default")
    parser.add_argument("--json", type=Path, help="where to write everything that was found")
    add_suite(parser)
    options = parser.parse_args()
    measure, unit = (instructions, "thousand") if options.instructions else (cpu_time, "µs")
    about = machine()
    print("\n".join(f"{name:16} {value}" for name, value in about.items()))
    found = measure(options.suite, options.runs)
    print_table(found, unit)
    if options.json:
        command = f"python -m benchmarks.timeline {' '.join(sys.argv[1:])}"
        report = {"command": command, "machine": about, "unit": unit, "results": found}
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
