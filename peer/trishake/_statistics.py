"""Statistics: what has come of every greeting, connection and stream of one peer, counted by cause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from trishake_protocol import PeerId, Role, code_name

from ._connection import Connection
from ._errors import ConnectionClosed, DialError, NoResponse, Refused, Rejected
from ._observer import Observer, Progress, Step


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts since the peer was made. The mappings count by cause, each cause by its name.

    A cause is the code of the specification (`BUSY`, `IDENTITY_UNKNOWN`, …) where somebody decided, and
    `phase/cause` (`syn/timeout`, `connect/refused`, …) where there was no response.
    """

    admitted: int
    """Greetings that others began, and for which there was room."""

    accepted: int
    """Of those, the ones that ended with READY."""

    dialed: int
    """Dials of ours that ended with READY."""

    refused: Mapping[str, int]
    """Greetings of others that we refused, or that broke off."""

    failed: Mapping[str, int]
    """Dials of ours that opened nothing."""

    streams_refused: Mapping[str, int]
    """Streams of others that we refused: UNKNOWN_PROTOCOL, or the reason of the handler's policy."""

    ended: Mapping[str, int]
    """Connections that have ended, by the code of their CLOSE; `cut` where there was none."""


class Tally(Observer):
    """Counts what the application's observer is told, and passes it on."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._admitted = 0
        self._ready: Counter[Role] = Counter()
        self._failures: dict[Role, Counter[str]] = {role: Counter() for role in Role}
        self._streams_refused: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()

    def snapshot(self) -> Statistics:
        return Statistics(
            self._admitted,
            self._ready[Role.RESPONDER],
            self._ready[Role.INITIATOR],
            _frozen(self._failures[Role.RESPONDER]),
            _frozen(self._failures[Role.INITIATOR]),
            _frozen(self._streams_refused),
            _frozen(self._ended),
        )

    def progress(self, progress: Progress) -> None:
        if progress.step is Step.ADMITTED:
            self._admitted += 1
        elif progress.step is Step.READY:
            self._ready[progress.role] += 1
        self._observer.progress(progress)

    def failed(self, role: Role, error: DialError) -> None:
        self._failures[role][_cause(error)] += 1
        self._observer.failed(role, error)

    def connected(self, connection: Connection) -> None:
        self._observer.connected(connection)

    def disconnected(self, connection: Connection, closed: ConnectionClosed) -> None:
        self._ended["cut" if closed.code is None else code_name(closed.code)] += 1
        self._observer.disconnected(connection, closed)

    def stream_refused(self, peer: PeerId, protocol: str, why: str) -> None:
        self._streams_refused[why] += 1
        self._observer.stream_refused(peer, protocol, why)


def _cause(error: DialError) -> str:
    if isinstance(error, NoResponse):
        return f"{error.phase}/{error.cause}"
    assert isinstance(error, Rejected | Refused)
    return code_name(error.reason)


def _frozen(counter: Counter[str]) -> Mapping[str, int]:
    return MappingProxyType(dict(counter))
