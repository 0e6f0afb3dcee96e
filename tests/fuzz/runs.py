"""Runs of a parser over mutated inputs, and what is measured of them."""

from __future__ import annotations

import gc
import hashlib
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from .mutations import mutated
from .parsers import CORPUS, PARSERS, Parser

_PROGRESS = 100_000
_MEMORY_EACH = 200
"""To trace memory takes five times as long: it is done with one input in so many."""


@dataclass
class Report:
    """What became of the inputs. median, slowest: µs for one input; peak: bytes of memory that one took."""

    name: str
    inputs: int = 0
    refused: int = 0
    median: float = 0.0
    slowest: float = 0.0
    slowest_input: bytes = b""
    peak: int = 0
    peak_input: bytes = b""
    foreign: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """A line of what was raised, and the first input that did it."""

    HEADER: ClassVar[str] = (
        f"{'parser':<34}{'inputs':>9}{'refused':>9}{'accepted':>9}{'median':>8}{'slowest':>9}{'of bytes':>9}"
        f"{'peak':>10}{'of bytes':>9}\n{'':<61}{'µs':>8}{'µs':>9}{'':>9}{'bytes':>10}"
    )

    def __str__(self) -> str:
        row = (
            f"{self.name:<34}{self.inputs:>9}{self.refused:>9}{self.inputs - self.refused:>9}{self.median:>8.0f}"
            f"{self.slowest:>9.0f}{len(self.slowest_input):>9}{self.peak:>10}{len(self.peak_input):>9}"
        )
        return "\n".join([row, *(f"    FOREIGN {error}: {data.hex()}" for error, data in self.foreign.items())])


def inputs_of(parser: Parser, number: int, seed: int) -> Iterator[bytes]:
    """So many mutated inputs: the same ones for the same seed."""
    chance = random.Random(f"{parser.name} {seed}")
    for _ in range(number):
        yield mutated(chance, parser.inputs, parser.tokens)


def fuzz(parser: Parser, number: int, seed: int) -> Report:
    """Only look for foreign errors. Each input that raises one is saved in the parser's corpus."""
    report = Report(parser.name)
    for data in inputs_of(parser, number, seed):
        _meet(parser, data, report)
    return report


def measure(parser: Parser, number: int, seed: int, progress: Callable[[int], None]) -> Report:
    """The same, with times and memory, in a process of its own. progress: told now and then how many it was."""
    for data in parser.inputs:
        parser.refuses(data)  # what is built at first use is not the slowest input
    report = Report(parser.name)
    times: list[float] = []
    gc.collect()
    gc.freeze()
    gc.disable()
    for data in inputs_of(parser, number, seed):
        took = _meet(parser, data, report)
        if report.inputs % 16 == 0:
            times.append(took)
        if took > report.slowest:
            # Another process may have had our core: the best of three counts.
            took = min(took, *(_meet(parser, data, report, count=False) for _ in range(2)))
            if took > report.slowest:
                report.slowest, report.slowest_input = took, data
        if report.inputs % _MEMORY_EACH == 0:
            _weigh(parser, data, report)
            gc.collect(1)
        if report.inputs % _PROGRESS == 0:
            progress(report.inputs)
    gc.enable()
    _weigh(parser, report.slowest_input, report)
    report.median = sorted(times)[len(times) // 2] if times else 0.0
    return report


def measured(task: tuple[str, int, int]) -> Report:
    """`measure` of (the parser's name, number, seed), which says on stderr how far it is."""
    name, number, seed = task

    def progress(done: int) -> None:
        print(f"{name}: {done}", file=sys.stderr, flush=True)

    return measure(PARSERS[name], number, seed, progress)


def _meet(parser: Parser, data: bytes, report: Report, *, count: bool = True) -> float:
    """How long it took, in µs."""
    refused = False
    began = time.perf_counter_ns()
    try:
        refused = parser.refuses(data)
    except Exception as error:  # noqa: BLE001 - which is what is looked for
        foreign = f"{type(error).__name__}: {str(error)[:100]}"
        if foreign not in report.foreign and len(report.foreign) < 20:
            report.foreign[foreign] = data
            save(parser, data)
    took = (time.perf_counter_ns() - began) / 1000
    if count:
        report.inputs += 1
        report.refused += refused
    return took


def _weigh(parser: Parser, data: bytes, report: Report) -> None:
    if (peak := peak_memory(parser, data)) > report.peak:
        report.peak, report.peak_input = peak, data


def peak_memory(parser: Parser, data: bytes) -> int:
    """Bytes that Python's allocators had given out for this input at the most."""
    tracemalloc.start()
    try:
        parser.refuses(data)
        return tracemalloc.get_traced_memory()[1]
    except Exception:  # noqa: BLE001 - it was reported, or is about to be, by who counts them
        return 0
    finally:
        tracemalloc.stop()


def save(parser: Parser, data: bytes) -> None:
    """Put it into the corpus."""
    path = CORPUS / parser.name / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
