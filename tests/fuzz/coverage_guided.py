"""python -m tests.fuzz.coverage_guided [--seconds 60] parser…

Each parser for so long, with mutations that follow what code they lead to (atheris, that is libFuzzer). What leads
to code that neither the seeds nor the corpus lead to is put into the corpus. Exit status 1 where a parser raised
what is not its own; that input is in the corpus too.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any, Final

from .mutations import mutated

_MOST_OF_ONE: Final = 2048
"""Bytes of an input that is kept."""


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.fuzz.coverage_guided", description=__doc__)
    options.add_argument("--seconds", type=int, default=60, help="for each parser (default: 60)")
    options.add_argument("--within", help=argparse.SUPPRESS)
    options.add_argument("parser", nargs="*", help="all by default")
    given = options.parse_args()
    if given.within is not None:
        _fuzz(given.parser[0], given.seconds, given.within)
    from .parsers import PARSERS

    failed = False
    for name in given.parser or PARSERS:
        failed |= _guide(name, given.seconds)
    return 1 if failed else 0


def _guide(name: str, seconds: int) -> bool:
    """Run one parser in a process of its own, which libFuzzer ends. Whether something foreign was raised."""
    from .parsers import PARSERS
    from .runs import save

    parser = PARSERS[name]
    with tempfile.TemporaryDirectory() as found:
        for number, data in enumerate(parser.inputs):
            (Path(found) / f"{number}").write_bytes(data)
        command = [sys.executable, "-m", __spec__.name, "--seconds", str(seconds), "--within", found, name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        candidates = sorted(
            (path.read_bytes() for path in Path(found).iterdir()), key=lambda data: (len(data), data)
        )
    foreign = done.returncode != 0
    if foreign:
        print(done.stderr, file=sys.stderr)
    known = _lines(parser.parse, parser.inputs)
    kept = 0
    for data in candidates:
        if len(data) <= _MOST_OF_ONE and not (lines := _lines(parser.parse, [data])) <= known:
            known |= lines
            kept += 1
            save(parser, data)
    runs = next((line for line in done.stderr.splitlines() if line.startswith("Done ")), "cut short")
    print(f"{name}: {runs}; {len(candidates)} inputs, {kept} of them new to the corpus", flush=True)
    return foreign


def _fuzz(name: str, seconds: int, found: str) -> None:
    """Does not return."""
    import atheris  # type: ignore  # pyright: ignore

    with atheris.instrument_imports(include=["trishake_protocol", "trishake"]):
        from .parsers import PARSERS
        from .runs import save
    parser = PARSERS[name]

    def one_input(data: bytes) -> None:
        try:
            parser.refuses(data)
        except Exception:
            save(parser, data)
            raise

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if chance.random() < 0.3:
            return bytes(atheris.Mutate(data, most))
        return mutated(chance, (data, data, chance.choice(parser.inputs)), parser.tokens)[:most]

    arguments = [sys.argv[0], f"-max_total_time={seconds}", "-max_len=4096", "-print_final_stats=1", found]
    arguments.append(f"-artifact_prefix={found}/")
    atheris.Setup(arguments, one_input, custom_mutator=mutate, internal_libfuzzer=True)
    atheris.Fuzz()


def _lines(parse: Any, inputs: Iterable[bytes]) -> set[tuple[str, int, int]]:
    """Each step from one line of ours to the next that these inputs lead to."""
    steps: set[tuple[str, int, int]] = set()

    def enter(frame: FrameType, event: str, _: object) -> Any:
        name = frame.f_code.co_filename
        if "trishake" not in name or "/tests/" in name:
            return None
        before = frame.f_lineno

        def line(frame: FrameType, event: str, _: object) -> Any:
            nonlocal before
            steps.add((name, before, frame.f_lineno))
            before = frame.f_lineno
            return line

        return line

    traced = sys.gettrace()
    sys.settrace(enter)
    try:
        for data in inputs:
            try:
                parse(data)
            except Exception:  # noqa: BLE001 - what it raises is looked at elsewhere
                continue
    finally:
        sys.settrace(traced)
    return steps


if __name__ == "__main__":
    sys.exit(main())
