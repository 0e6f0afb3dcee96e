"""What a command says: in words within the width of the terminal, or one JSON object a line."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping

from ._outcomes import ExitCode, Outcome, outcome_of


class Output:
    """stdout for what was asked for, stderr for all else. as_json: for machines."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def result(self, facts: Mapping[str, object], text: str) -> None:
        """What was asked for: the facts for machines, the text for people, as it is."""
        print(json.dumps(facts) if self.as_json else text, flush=True)

    def picture(self, text: str) -> None:
        """What only eyes, or a camera, can read."""
        if not self.as_json:
            print(text, flush=True)

    def note(self, text: str) -> None:
        """What a person may want to know besides."""
        if not self.as_json:
            print(_wrapped(text), file=sys.stderr, flush=True)

    def failure(self, outcome: Outcome) -> None:
        if self.as_json:
            facts = {**outcome.facts, "exit_code": int(outcome.code), "message": outcome.text}
            print(json.dumps(facts), flush=True)
        else:
            print(_wrapped(f"trishake: {outcome.text}"), file=sys.stderr, flush=True)


def table(rows: Mapping[str, object | None], *, indent: str = "") -> str:
    """A line for each value that there is, its name in front."""
    width = max(map(len, rows))
    return "\n".join(f"{indent}{name:<{width}}  {value}" for name, value in rows.items() if value is not None)


def _wrapped(text: str) -> str:
    """Paths, ids and invites are never broken: they are to be copied."""
    width = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False, subsequent_indent="  ")
        for line in text.splitlines()
    )


def run_command(command: Callable[[], ExitCode | None], output: Output) -> ExitCode:
    """Its exit code, whatever comes of it; what a user can mend is told him, a bug is raised."""
    try:
        return command() or ExitCode.OK
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # who read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at exit
        return ExitCode.FAILED
    except Exception as error:
        outcome = outcome_of(error)
        if outcome is None:
            raise
        output.failure(outcome)
        return outcome.code
