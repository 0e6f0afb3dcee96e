"""What a command says: in words within the width of the terminal, or one JSON object a line."""

from __future__ import annotations

import codecs
import io
import json
import logging
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping
from typing import Final, cast

from ._outcomes import ExitCode, Outcome, outcome_of

_TO_BE_COPIED: Final = re.compile(r"(?P<text>.*:) (?P<copied>(?:trishake|chmod) .+|\S+ [a-z2-7]{56})")
"""A line that ends with a command for a shell, or with a line for a file."""


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
            print(wrapped(text), file=sys.stderr, flush=True)

    def fault(self, facts: Mapping[str, object], text: str) -> None:
        """What is wrong with something, of which the rest was shown."""
        if self.as_json:
            print(json.dumps(facts), flush=True)
        else:
            self.note(text)

    def failure(self, outcome: Outcome) -> None:
        if self.as_json:
            facts = {**outcome.facts, "exit_code": int(outcome.code), "message": outcome.text}
            print(json.dumps(facts), flush=True)
        else:
            print(wrapped(f"trishake: {outcome.text}"), file=sys.stderr, flush=True)


def table(rows: Mapping[str, object | None], *, indent: str = "") -> str:
    """A line for each value that there is, its name in front; a long value goes on below."""
    width = max(map(len, rows))
    return "\n".join(
        wrapped(f"{indent}{name:<{width}}  {value}", indent=" " * (len(indent) + width + 2))
        for name, value in rows.items()
        if value is not None
    )


_SHOWN_AS: Final = {"strong": "1", "weak": "2", "bad": "1;31"}
"""Bold, dim and red, which can be read on a light ground and on a dark one."""


def painter() -> Callable[[str, str], str]:
    """How stdout shows what is strong, weak or bad: with colours at a terminal, unless NO_COLOR is set."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return lambda _, text: text
    return lambda what, text: f"\x1b[{_SHOWN_AS[what]}m{text}\x1b[0m" if what in _SHOWN_AS else text


def wrapped(text: str, *, indent: str = "  ") -> str:
    """The text within the width of the terminal. indent: of the lines that a long one goes on with.

    Paths, ids and invites are never broken: they are to be copied. So is a command at the end, which has a line
    of its own.
    """
    lines: list[str] = []
    for line in text.splitlines():
        found = _TO_BE_COPIED.fullmatch(line)
        lines.append(_filled(line if found is None else found["text"], indent))
        if found is not None:
            lines.append(indent + found["copied"])
    return "\n".join(lines)


def _filled(line: str, indent: str) -> str:
    text = line.lstrip(" ")
    return textwrap.fill(
        text,
        shutil.get_terminal_size().columns,
        break_long_words=False,
        break_on_hyphens=False,
        initial_indent=line.removesuffix(text),  # before a word that is too long, textwrap would drop it
        subsequent_indent=indent,
    )


class LogToStderr(logging.Handler):
    """Shows what the library logs, within the width of the terminal; a bug with its traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "event", None) == "known_peers.changed":
            return  # the command itself ends with it
        print(wrapped(self.format(record)), file=sys.stderr, flush=True)


_DRAWN_IN_ASCII: Final = str.maketrans("│╷╵─╌▶◀✓✗…–", "|||-.><vx.-")
"""What we draw with, each character by one of its width, so that columns stay where they are."""


def show_what_cannot_be_encoded() -> None:
    """So that a terminal or a pipe of another encoding than UTF-8 gets a picture in ASCII, else `\\u2588`, and no
    command fails of it.
    """
    codecs.register_error("trishake", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="trishake")


def _in_ascii(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    drawn = error.object[error.start : error.end].translate(_DRAWN_IN_ASCII)
    return drawn.encode("ascii", "backslashreplace"), error.end


def run_command(command: Callable[[], ExitCode | None], output: Output) -> ExitCode:
    """Its exit code, whatever comes of it; what a user can mend is told him, a bug is raised."""
    try:
        return command() or ExitCode.OK
    except (KeyboardInterrupt, Exception, BaseExceptionGroup) as error:
        errors = _each(error)
        if any(isinstance(each, KeyboardInterrupt) for each in errors):
            return ExitCode.INTERRUPTED
        if all(isinstance(each, BrokenPipeError) for each in errors):  # who read our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at exit
            return ExitCode.FAILED
        outcome = outcome_of(error)
        if outcome is None:
            raise
        output.failure(outcome)
        return outcome.code


def _each(error: BaseException) -> list[BaseException]:
    """What is in a group, and in the groups within it; else the error itself."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    group = cast("BaseExceptionGroup[BaseException]", error)
    return [each for inner in group.exceptions for each in _each(inner)]
