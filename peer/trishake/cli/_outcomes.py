"""What came of a command, as an exit code and as words and facts."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, cast

from trishake_protocol import InvalidPeerId, TrishakeError

from .._errors import (
    BadFile,
    ConnectionClosed,
    DialError,
    InvalidAddress,
    NoResponse,
    Rejected,
    Untrusted,
    WrongIdentity,
    WrongPassword,
)


class ExitCode(enum.IntEnum):
    """One for each outcome, the same for every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_RESPONSE = 3
    REJECTED = 4
    WRONG_IDENTITY = 5
    UNTRUSTED = 6
    NOT_GREETED = 7
    INTERRUPTED = 130


MEANINGS: Final = {
    ExitCode.OK: "accepted; or simply done",
    ExitCode.FAILED: "a file or the system stood in the way",
    ExitCode.USAGE: "bad usage",
    ExitCode.NO_RESPONSE: "no response",
    ExitCode.REJECTED: "the other side rejected us",
    ExitCode.WRONG_IDENTITY: "somebody else answered than was dialed, or was known there",
    ExitCode.UNTRUSTED: "our own policy refused who answered",
    ExitCode.NOT_GREETED: "it broke: a fault, an attack, a dial to oneself, a key that did not sign",
    ExitCode.INTERRUPTED: "interrupted with Ctrl-C",
}
"""Shown by `trishake --help`."""


class UsageError(TrishakeError):
    """The arguments make no sense together, or not here."""


@dataclass(frozen=True)
class Outcome:
    """How a command failed. facts: for machines."""

    code: ExitCode
    text: str
    facts: dict[str, object]


def outcome_of(error: BaseException) -> Outcome | None:
    """None for an error that no user can do anything about: a bug, which is to be seen whole."""
    if isinstance(error, ExceptionGroup):
        exceptions = cast("ExceptionGroup[Exception]", error).exceptions
        return outcome_of(exceptions[0]) if len(exceptions) == 1 else None
    match error:
        case DialError():
            return Outcome(_code_of(error), str(error), error.as_dict())
        case ConnectionClosed():
            return Outcome(ExitCode.NO_RESPONSE, str(error), {"outcome": "connection closed"})
        case UsageError() | InvalidAddress() | InvalidPeerId():
            return Outcome(ExitCode.USAGE, str(error), {"outcome": "bad usage"})
        case WrongPassword():
            text = f"{error} Type it, where this is a terminal, or say --passphrase-file FILE."
            return Outcome(ExitCode.FAILED, text, {"outcome": "failed", "path": str(error.path)})
        case BadFile():
            facts: dict[str, object] = {"outcome": "failed", "path": str(error.path), "line": error.line}
            return Outcome(ExitCode.FAILED, str(error), facts)
        case OSError():
            return Outcome(ExitCode.FAILED, _told(error), {"outcome": "failed", "path": error.filename})
        case TrishakeError() | ImportError():
            return Outcome(ExitCode.FAILED, str(error), {"outcome": "failed"})
        case _:
            return None


def _told(error: OSError) -> str:
    """Without the number that Python puts in front."""
    if error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


def _code_of(error: DialError) -> ExitCode:
    match error:
        case NoResponse():
            return ExitCode.NO_RESPONSE
        case Rejected():
            return ExitCode.REJECTED
        case WrongIdentity():
            return ExitCode.WRONG_IDENTITY
        case Untrusted():
            return ExitCode.UNTRUSTED
        case _:
            return ExitCode.NOT_GREETED
