#!/usr/bin/env python3
"""Check the models: what holds must hold in every state there is, what is broken must be found.

Usage: check.py [--quick] [model …]     in need of spin and gcc; of proverif, if it is there
    --quick   only runs of at most 100 000 states
Prints a table. Exit code 1 if anything is not as expected, 2 if a program is missing.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
MEGABYTES: Final = 2000
"""Of memory that a search may take."""
DEPTH: Final = 100_000
SECONDS: Final = 300
"""That a search may take, many times more than it should."""


HOLDS: Final = "holds"
DEADLOCK, CYCLE, VIOLATED = ERRORS = ("deadlock", "cycle", "violated")
_SAID: Final[dict[str, str]] = dict(
    zip(("invalid end state", "acceptance cycle", "assertion violated"), ERRORS, strict=True)
)
"""By what a verifier says: a process waits for ever, something never comes, something is not as it should be."""


class Wrong(Exception):
    """A program did not do what it is there for; the message says what it said."""


@dataclass(frozen=True)
class Run:
    """One search. flags: what the model is compiled with. claim: an LTL formula; None: its assertions and ends.

    expected: HOLDS, or the kind of counterexample that is to be found. large: more than 100 000 states.
    """

    model: str
    flags: tuple[str, ...]
    claim: str | None
    property: str
    expected: str = HOLDS
    large: bool = False


@dataclass(frozen=True)
class Found:
    result: str
    states: str
    seconds: float
    statements: frozenset[str] = frozenset()
    reached: frozenset[str] = frozenset()
    """Those that some run of the model came to."""


def _greeting(claim: str | None, property_: str, *flags: str, expected: str = HOLDS, large: bool = False) -> Run:
    return Run("greeting", flags, claim, property_, expected, large)


def _crossing(property_: str, *flags: str, expected: str = HOLDS, large: bool = False) -> Run:
    return Run("crossing", flags, None, property_, expected, large)


ENDS: Final = "no deadlock, one outcome a side, moves of the table only"
READY_SAID: Final = "accepted only if the responder has said READY"
NOT_DECIDED: Final = "no ACK before the initiator has decided"
HEARD: Final = "a reset destroys no refusal"
CLOSED: Final = "a clean end only if the other side has said CLOSE"
BOTH_END: Final = "both sides come to an outcome"
ONE: Final = "one connection, on both sides, which both dials give"
IN_TIME: Final = "LARGE's is kept, and nobody has had another"
AT_MOST_ONE: Final = "at most one connection, on both sides"
ONE_FOR_LARGE: Final = "one connection, which LARGE's dial gives; SMALL's gives it or fails"

RUNS: Final = (
    _greeting(None, ENDS, large=True),
    _greeting("both_end", BOTH_END, large=True),
    _greeting("accepted_only_if_ready", READY_SAID, large=True),
    _greeting("rejected_only_if_rejected", "rejected by VERDICT only if the responder has refused", large=True),
    _greeting("no_ack_before_the_decision", NOT_DECIDED, large=True),
    _greeting("no_refusal_after_ready", "who has said READY refuses no more", large=True),
    _greeting("clean_only_if_closed", CLOSED, large=True),
    _greeting(None, ENDS, "UNDISTURBED"),
    _greeting("open_if_undisturbed", "undisturbed, both sides open, and end cleanly", "UNDISTURBED"),
    _greeting(None, ENDS, "REFUSING"),
    _greeting("a_refusal_is_heard", HEARD, "REFUSING"),
    _greeting(None, ENDS, "REFUSING", "NO_DRAIN"),
    _greeting("accepted_only_if_ready", READY_SAID, "NO_VERDICT", expected=VIOLATED, large=True),
    _greeting("accepted_only_if_ready", READY_SAID, "FORGED_VERDICT", expected=VIOLATED, large=True),
    _greeting("no_ack_before_the_decision", NOT_DECIDED, "EARLY_ACK", expected=VIOLATED, large=True),
    _greeting("both_end", BOTH_END, "NO_DEADLINE", expected=CYCLE),
    _greeting(None, ENDS, "NO_DEADLINE", expected=DEADLOCK),
    _greeting(None, ENDS, "ALERT_FOR_ALERT", expected=VIOLATED),
    _greeting("a_refusal_is_heard", HEARD, "REFUSING", "NO_DRAIN", expected=VIOLATED),
    _greeting("clean_only_if_closed", CLOSED, "END_IS_CLOSE", expected=VIOLATED, large=True),
    _crossing(ONE),
    _crossing(IN_TIME, "IN_TIME"),
    _crossing(ONE_FOR_LARGE, "LATE_SMALL"),
    _crossing(ONE_FOR_LARGE, "LATE_SMALL", "BOTH_OBJECT", expected=VIOLATED),
    _crossing(AT_MOST_ONE, "LATE_LARGE"),
    _crossing(AT_MOST_ONE, "LATE_SMALL", "LATE_LARGE", "REFUSALS"),
    _crossing(AT_MOST_ONE, "CUTS", "LATE_SMALL", "LATE_LARGE", "REFUSALS", large=True),
    _crossing(ONE, "OLD"),
    _crossing(AT_MOST_ONE, "OLD", "LATE_SMALL", "LATE_LARGE", "REFUSALS", large=True),
    _crossing(ONE, "NOT_OVERTAKEN"),
    _crossing(IN_TIME, "IN_TIME", "NO_HOLD", expected=VIOLATED),
    _crossing(IN_TIME, "IN_TIME", "BOTH_HOLD", expected=DEADLOCK),
    _crossing(ONE, "OLD", "NEVER_DEAD", expected=VIOLATED),
    *(
        _crossing(ONE, flag, expected=VIOLATED)
        for flag in (
            "EACH_KEEPS_OWN",
            "NEWEST_KEPT",
            "BOTH_STAY",
            "NO_PING",
            "NO_TURN",
            "NO_WAIT",
            "TOLD_IS_FAILED",
            "YOUNG_IS_DEAD",
        )
    ),
)

PROVERIF: Final = {"greeting": (5, 3), "static_only": (1, 1)}
"""By model: how many of its queries are to be true, and how many behind them to be false."""


def run(*command: str, into: Path) -> str:
    try:
        done = subprocess.run(command, cwd=into, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise Wrong(f"{' '.join(command)} took more than {SECONDS} s") from None
    said = done.stdout + done.stderr
    if done.returncode:
        raise Wrong(f"{' '.join(command)} ended with {done.returncode}:\n{said[-2000:]}")
    return said


# --- Promela --------------------------------------------------------------------------------------------


def compiled(model: str, flags: Iterable[str], claims: bool, large: bool, into: Path) -> Path:
    """The verifier of a model, in a directory of its own. large: it has to be fast, not to be there soon."""
    into.mkdir()
    for source in HERE.glob("*.pml"):
        shutil.copy(source, into)
    run("spin", "-a", "-o3", *(f"-D{flag}" for flag in flags), f"{model}.pml", into=into)
    kind = () if claims else ("-DNOCLAIM", "-DSAFETY")
    run("gcc", "-O1" if large else "-O0", "-w", f"-DMEMLIM={MEGABYTES}", *kind, "-o", "pan", "pan.c", into=into)
    return into / "pan"


def searched(pan: Path, claim: str | None) -> Found:
    """What a verifier finds. Raises Wrong unless it has seen every state, or has found an error."""
    start = time.monotonic()
    said = run(str(pan), f"-m{DEPTH}", *(("-a", "-N", claim) if claim else ()), into=pan.parent)
    seconds = time.monotonic() - start
    errors = re.search(r"errors: (\d+)", said)
    states = re.search(r"(\d+) states, stored", said)
    if errors is None or states is None:
        raise Wrong(f"pan of {pan.parent.name} did not finish:\n{said[-2000:]}")
    error = re.search(rf"^pan:1: ({'|'.join(_SAID)})", said, re.MULTILINE)
    if (error is None) != (errors[1] == "0"):
        raise Wrong(f"pan of {pan.parent.name} found another error than these:\n{said[-2000:]}")
    if error is None and re.search(
        r"Search not completed|max search depth too small|out of memory|truncated", said
    ):
        raise Wrong(f"pan of {pan.parent.name} has not seen every state:\n{said[-2000:]}")
    if error is not None:
        return Found(_SAID[error[1]], states[1], seconds)
    return Found(HOLDS, states[1], seconds, *_coverage(pan, said))


def _coverage(pan: Path, said: str) -> tuple[frozenset[str], frozenset[str]]:
    """The statements of the model, and those that were reached; one of an inline stands in several places."""
    missed: set[tuple[str, str]] = set()
    proctype = ""
    for line in said.splitlines():
        if line.startswith("unreached in "):
            proctype = line.removeprefix("unreached in ")
        elif place := re.match(r"\s+\S+?:\d+, state (\d+), ", line):
            missed.add((proctype, place[1]))
    statements: set[str] = set()
    reached: set[str] = set()
    for line in run(str(pan), "-d", into=pan.parent).splitlines():
        if not line.startswith("\t"):
            proctype = line.strip()
        elif not proctype.startswith("proctype"):
            continue  # a claim's
        elif place := re.match(r"\s+state +(\d+) -.*\] (\S+):(\d+) => (.*)", line):
            statement = f"{place[2]}, or what it includes, line {place[3]}: {place[4]}"
            statements.add(statement)
            if (proctype, place[1]) not in missed:
                reached.add(statement)
    return frozenset(statements), frozenset(reached)


# --- ProVerif -------------------------------------------------------------------------------------------


def proved(model: str) -> Iterator[tuple[str, Found]]:
    start = time.monotonic()
    said = run("proverif", str(HERE / f"{model}.pv"), into=HERE)
    seconds = time.monotonic() - start
    for query, result in re.findall(r"^RESULT (.*?) (is true|is false|cannot be proved)", said, re.MULTILINE):
        yield query, Found(HOLDS if result == "is true" else VIOLATED, "", seconds)


# --- the table ------------------------------------------------------------------------------------------


def row(*cells: str) -> None:
    print("{:14} {:73} {:36} {:8} {:10} {:>9} {:>5}".format(*cells), flush=True)


def report(model: str, property_: str, flags: Iterable[str], expected: str, found: Found) -> bool:
    """Print one row; whether it is as expected."""
    as_expected = found.result == expected
    row(
        model,
        property_,
        " ".join(flags),
        expected,
        found.result + ("" if as_expected else " !"),
        found.states,
        f"{found.seconds:.1f}",
    )
    return as_expected


def check_promela(runs: Iterable[Run], whole: bool) -> bool:
    """whole: these are all the runs there are, so that every statement must be reached in one of them."""
    fine = True
    statements: set[str] = set()
    reached: set[str] = set()
    pans: dict[tuple[str, tuple[str, ...], bool, bool], Path] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for each in runs:
            key = (each.model, each.flags, each.claim is not None, each.large)
            if key not in pans:
                pans[key] = compiled(*key, Path(scratch) / str(len(pans)))
            found = searched(pans[key], each.claim)
            fine &= report(each.model, each.property, each.flags, each.expected, found)
            statements |= found.statements
            reached |= found.reached
    never = sorted(statements - reached) if whole else []
    for statement in never:
        print(f"never reached: {statement}")
    return fine and not never


def check_proverif() -> bool:
    if shutil.which("proverif") is None:
        print("greeting.pv, static_only.pv: not checked, proverif is not installed")
        return True
    fine = True
    for model, (true, false) in PROVERIF.items():
        results = list(proved(model))
        for (query, found), expected in zip(results, [HOLDS] * true + [VIOLATED] * false, strict=False):
            fine &= report(f"{model}.pv", query, (), expected, found)
        if len(results) != true + false:
            print(f"{model}.pv: {len(results)} results, expected {true + false}")
            fine = False
    return fine


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the models of the protocol.")
    parser.add_argument("--quick", action="store_true", help="only the small searches")
    parser.add_argument("models", nargs="*", help="greeting, crossing: only of these (all)")
    chosen = parser.parse_args()
    if missing := [program for program in ("spin", "gcc") if shutil.which(program) is None]:
        print(f"missing: {', '.join(missing)} (Debian: apt-get install spin gcc)", file=sys.stderr)
        return 2
    models = chosen.models or sorted({each.model for each in RUNS})
    runs = [each for each in RUNS if each.model in models and not (chosen.quick and each.large)]
    start = time.monotonic()
    row("model", "property", "with", "expected", "found", "states", "s")
    try:
        fine = check_promela(runs, whole=not chosen.quick)
        fine &= chosen.quick or check_proverif()
    except Wrong as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{'all as expected' if fine else 'NOT as expected'}, {time.monotonic() - start:.0f} s")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
