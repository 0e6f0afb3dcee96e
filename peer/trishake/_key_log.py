"""KeyLog: the keys of connections in a file, for a dissector; what SSLKEYLOGFILE is to a browser."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from ._errors import BadFile
from ._events import log_event
from ._files import FilePath, append_to_file, expanded

ENVIRONMENT: Final = "TRISHAKE_KEY_LOG"
"""The variable that names the file, where the program names none."""


class KeyLog:
    """Appends the keys of every greeting to a file, made for us alone (0600) where it is missing. For debugging.

    Who has the file reads the connections, those that were recorded before included. It is the same for several
    peers, and for several processes; what it says is in the core's `key_log.py`.
    Raises BadFile where others may use the file, or it cannot be written.
    """

    def __init__(self, path: FilePath) -> None:
        self.path: Final = expanded(path)
        append_to_file(self.path, b"")
        self._warned = False
        self._failed = False

    def __repr__(self) -> str:
        return f"<KeyLog {self.path}>"

    def write(self, line: str) -> None:
        """Append one line. The first is told to the log, as a warning.

        A file that cannot be written any more ends no connection: that is told too, and it is left alone.
        """
        if self._failed:
            return
        if not self._warned:
            self._warned = True
            text = f"the keys of every connection are written to {self.path}: who reads it reads them"
            log_event(logging.WARNING, "key_log.on", text, path=self.path)
        try:
            append_to_file(self.path, line.encode() + b"\n")
        except BadFile as error:
            self._failed = True
            text = f"no more keys are written to the key log: {error}"
            log_event(logging.WARNING, "key_log.failed", text, path=self.path)


def key_log_writer(given: KeyLog | FilePath | None) -> Callable[[str], None] | None:
    """What a session is to be given: of this log or path, or of the environment's; None if there is none.

    Raises BadFile as KeyLog does.
    """
    if given is None:
        path = os.environ.get(ENVIRONMENT)
        return _of_environment(path).write if path else None
    return (given if isinstance(given, KeyLog) else KeyLog(given)).write


@lru_cache(maxsize=1)
def _of_environment(path: str) -> KeyLog:
    """One for the whole process, so that it warns once."""
    return KeyLog(path)
