"""What the checks of `trishake doctor` have found, and how that is told."""

from __future__ import annotations

import enum
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from trishake_protocol import TrishakeError, escape

from .._errors import DialError
from ._outcomes import ExitCode, outcome_of
from ._output import Output, wrapped

CHECKS: Final = ("invite", "name", "port", "protocol", "versions", "peer", "verdict", "clock", "speed")
"""In the order in which they are made."""

_INDENT: Final = " " * 24
"""In front of what was found: a peer id behind it just fits into 80 columns."""


class Status(enum.StrEnum):
    """What came of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"


_MARKS: Final = {
    Status.OK: "✓",
    Status.WARNING: "!",
    Status.FAILED: "✗",
    Status.UNKNOWN: "?",
    Status.SKIPPED: "-",
}


@dataclass(frozen=True)
class Finding:
    """What one check found. lines: for people, safe to show; facts: for machines.

    error: what it failed with, where the library has a name for that.
    """

    status: Status
    lines: Sequence[str]
    facts: dict[str, object] = field(default_factory=dict[str, object])
    error: TrishakeError | None = None


SKIPPED: Final = Finding(Status.SKIPPED, ["skipped"])


class Report:
    """Shows each check when it is done; at a terminal its name already when it begins."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._live = not output.as_json and sys.stdout.isatty()
        self._findings: list[Finding] = []
        self._began = 0.0
        self._under_way = False

    @property
    def failed(self) -> bool:
        return any(finding.status is Status.FAILED for finding in self._findings)

    def begin(self) -> None:
        """The next check begins."""
        self._began = trio.current_time()
        self._under_way = True
        if self._live:
            number = len(self._findings)
            print(f"  {number + 1} {CHECKS[number]:<8} …", end="", flush=True)

    def end(self, finding: Finding) -> None:
        """It is done. What could not be checked took no time."""
        skipped = finding.status is Status.SKIPPED
        seconds = None if skipped else trio.current_time() - self._began
        number, name = len(self._findings) + 1, CHECKS[len(self._findings)]
        self._findings.append(finding)
        self._under_way = False
        facts: dict[str, object] = {
            "check": name,
            "number": number,
            "status": finding.status.value,
            "milliseconds": None if seconds is None else round(seconds * 1000, 3),
            **finding.facts,
            "detail": list(finding.lines),
        }
        head = f"{_MARKS[finding.status]} {number} {name:<8} {_duration(seconds):>9}  "
        rows = [head + finding.lines[0], *(_INDENT + line for line in finding.lines[1:])]
        start = "\r" if self._live else ""
        self._output.result(facts, start + "\n".join(wrapped(row, indent=_INDENT) for row in rows))

    def finish(self) -> None:
        """The checks that are left could not be made; one that is under way was given up."""
        if self._under_way:
            self.end(Finding(Status.FAILED, ["given up: the time for all checks together was up"]))
        while len(self._findings) < len(CHECKS):
            self.begin()
            self.end(SKIPPED)

    def conclude(self) -> ExitCode:
        """Say the first thing that is wrong, and what to do about it."""
        for number, finding in enumerate(self._findings):
            if finding.status is Status.FAILED:
                return self._conclude_failure(CHECKS[number], number + 1, finding)
        odd = [CHECKS[i] for i, finding in enumerate(self._findings) if finding.status is Status.WARNING]
        text = f"It works. Look at what is marked with !: {', '.join(odd)}." if odd else "All is well."
        facts: dict[str, object] = {"outcome": "accepted", "failed": None, "warnings": odd}
        self._output.result({**facts, "exit_code": int(ExitCode.OK), "message": text}, "\n" + wrapped(text))
        return ExitCode.OK

    def _conclude_failure(self, name: str, number: int, finding: Finding) -> ExitCode:
        outcome = None if finding.error is None else outcome_of(finding.error)
        code = ExitCode.NO_RESPONSE if outcome is None else outcome.code
        facts: dict[str, object] = {"outcome": "no response"} if outcome is None else outcome.facts
        match finding.error:
            case DialError() as error:
                text = error.explain()
            case None:
                text = ". ".join(finding.lines) + "."
            case error:
                text = str(error)
        text = escape(text)  # the address in it may be anybody's
        first = f"The first thing that is wrong is check {number}, {name}."
        self._output.result(
            {**facts, "failed": name, "exit_code": int(code), "message": text},
            f"\n{first}\n{wrapped(text, indent='')}",
        )
        return code


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1000:.1f} ms" if seconds < 9.9 else f"{seconds:.2f} s"
