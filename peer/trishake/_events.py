"""Events: everything that the log says, under names and with fields that do not change.

A record of `logging.getLogger("trishake")` has its name in `record.event`, and its fields in `record.fields`, a
dict of what JSON has; its text is for people, and may change. docs/observing.md lists them. Where the environment
names a file in TRISHAKE_LOG, every event is appended to it, one JSON object a line, whatever the log shows.

Text and fields are one line each, and safe to show: what came from elsewhere is escaped here, whoever hands it in.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from contextlib import suppress
from pathlib import Path
from traceback import format_exc, print_exc
from typing import Final

from trishake_protocol import escape

from ._errors import BadFile
from ._steps import Step

_log: Final = logging.getLogger("trishake")

_GREETING: Final = ("number", "role", "address", "endpoint", "peer", "greeting", "session")
_STEP: Final = (*_GREETING, "step", "suite", "at", "milliseconds", "sent", "received")
_FAILURE: Final = (*_GREETING, "step", "milliseconds", "outcome", "reason", "told", "retryable")
_CONNECTION: Final = ("number", "role", "endpoint", "peer", "session")

EVENTS: Final[dict[str, tuple[str, ...]]] = {
    **{f"greeting.{step}": _STEP for step in Step},
    "greeting.failed": _FAILURE,
    "greeting.cancelled": (*_GREETING, "step", "milliseconds"),
    "connection.opened": _CONNECTION,
    "connection.closed": (*_CONNECTION, "code", "text", "by_peer"),
    "stream.refused": ("peer", "protocol", "reason"),
    "stream.hung_up": ("peer", "protocol"),
    "accept.failed": ("addresses",),
    "policy.failed": ("peer",),
    "handler.failed": ("peer", "protocol"),
    "request.failed": ("peer",),
    "observer.failed": ("observer",),
    "keep.lost": ("peer", "code", "by_peer"),
    "keep.dial_failed": ("address", "peer", "reason", "retryable"),
    "known_peers.remembered": ("name", "peer", "path"),
    "known_peers.changed": ("name", "expected", "actual", "path", "line"),
    "known_peers.problem": ("path", "line"),
    "authorized_keys.problem": ("path", "line"),
    "unix.left_behind": ("path",),
    "key_log.on": ("path",),
    "key_log.failed": ("path",),
    "events.lost": ("path",),
}
"""Every event, with its fields."""


class _JsonLines:
    """A file to which events are appended, one JSON object a line; more than one process may. Raises OSError."""

    def __init__(self, path: str) -> None:
        self.path = path
        # A pipe that nobody reads must not hold up a greeting, neither here nor when it is full.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
        self._descriptor = os.open(path, flags, 0o600)
        # By whoever lets go of it last: another thread may be writing when this one turns to another file.
        weakref.finalize(self, os.close, self._descriptor).atexit = False

    def write(self, line: dict[str, object]) -> None:
        import json  # here, not above: few programs come to that

        data = json.dumps(line).encode() + b"\n"
        written = os.write(self._descriptor, data)  # at once: lines of two processes do not mix
        if written < len(data):
            raise OSError(f"{written} of {len(data)} bytes were written")


_lines: _JsonLines | None = None
_followed: str | None = None
"""What TRISHAKE_LOG said when it was last looked at. That file may have been given up since."""


def follow_environment() -> None:
    """Write every event from here on to the file that TRISHAKE_LOG names, if it does.

    Called wherever greetings begin, so that a program may set it itself. A file that could not be written to is
    left alone until the variable changes. Raises BadFile for one that cannot be opened: all goes on as it was.
    """
    global _lines, _followed
    path = os.environ.get("TRISHAKE_LOG") or None
    if path == _followed:
        return
    try:
        _lines = None if path is None else _JsonLines(path)
    except OSError as error:
        raise BadFile(
            Path(path or ""),
            f"the environment names this file in TRISHAKE_LOG, and it cannot be opened ({error.strerror})",
            "Name a file that this process may write to, or unset TRISHAKE_LOG.",
        ) from None
    _followed = path


def is_wanted(level: int) -> bool:
    """Whether anybody reads events of this level: the log, or a file."""
    return _lines is not None or _log.isEnabledFor(level)


def log_event(level: int, name: str, text: str, /, **fields: object) -> None:
    """Say it in the log, and in the file. level: of `logging`. fields: those of the event in EVENTS."""
    _say(level, name, text, fields, with_traceback=False)


def log_failure(name: str, text: str, /, **fields: object) -> None:
    """The same of an exception that is being handled, and is nobody's but a programmer's: with its traceback."""
    _say(logging.ERROR, name, text, fields, with_traceback=True)


def _say(level: int, name: str, text: str, fields: dict[str, object], *, with_traceback: bool) -> None:
    if not is_wanted(level):
        return
    text = _one_line(text)
    plain = {key: as_json(value) for key, value in fields.items()}
    lines = _lines
    if lines is not None:
        _write(lines, level, name, text, plain | ({"traceback": format_exc()} if with_traceback else {}))
    extra = {"event": name, "fields": plain}
    # Its handlers are the application's, and a stranger's first byte makes them run: no peer falls with them.
    try:
        _log.log(level, text, exc_info=with_traceback, stacklevel=3, extra=extra)
    except Exception:  # noqa: BLE001
        if logging.raiseExceptions:  # told as `logging` itself tells what goes wrong in a handler
            with suppress(OSError, ValueError):  # stderr may be what fails
                print_exc()


def _write(lines: _JsonLines, level: int, name: str, text: str, fields: dict[str, object]) -> None:
    global _lines
    said = {"level": logging.getLevelName(level).lower(), "event": name, "text": text}
    try:
        lines.write({"time": time.time(), "pid": os.getpid(), **said, **fields})
    except OSError as error:  # a full disk, say: whoever greets shall not fall with it
        _lines = None
        why = f"events are not written to {lines.path} any more: {error.strerror or error}"
        log_event(logging.ERROR, "events.lost", why, path=lines.path)


def as_json(value: object) -> object:
    """A field as JSON has it: bytes in hexadecimal, text escaped, what it has no kind for as its text."""
    if value is None or isinstance(value, int | float):
        return value
    return value.hex() if isinstance(value, bytes) else _one_line(str(value))


def _one_line(text: str) -> str:
    # Most text is, and `escape` looks at each character of it.
    return text if text.isprintable() else escape(text)
