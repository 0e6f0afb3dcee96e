"""Statistics: what has come of every greeting, connection and stream of one peer, counted by cause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from trishake_protocol import PeerId, Role, code_name

from ._connection import Connection
from ._errors import ConnectionClosed, DialError
from ._observer import Observer
from ._observers import Observers
from ._steps import Step
from ._timeline import Trace


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

    told: Mapping[str, int]
    """What those whose greetings we refused were told, as they count it; who was told nothing is left out."""

    streams_refused: Mapping[str, int]
    """Streams of others that we refused: UNKNOWN_PROTOCOL, or the reason of the handler's policy."""

    ended: Mapping[str, int]
    """Connections that have ended, by the code of their CLOSE; `cut` where there was none."""


class Tally(Observers):
    """Counts what observers are told, and passes it on."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        super().__init__(observers)
        self._admitted = 0
        self._ready: Counter[Role] = Counter()
        self._failures: dict[Role, Counter[str]] = {role: Counter() for role in Role}
        self._told: Counter[str] = Counter()
        self._streams_refused: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()

    def snapshot(self) -> Statistics:
        return Statistics(
            self._admitted,
            self._ready[Role.RESPONDER],
            self._ready[Role.INITIATOR],
            _frozen(self._failures[Role.RESPONDER]),
            _frozen(self._failures[Role.INITIATOR]),
            _frozen(self._told),
            _frozen(self._streams_refused),
            _frozen(self._ended),
        )

    def progress(self, trace: Trace, step: Step) -> None:
        if step is Step.ADMITTED:
            self._admitted += 1
        elif step is Step.VERDICT:
            self._ready[trace.role] += 1
        super().progress(trace, step)

    def failed(self, trace: Trace, error: DialError) -> None:
        self._failures[trace.role][error.counted_as] += 1
        if trace.told is not None:
            self._told[code_name(trace.told)] += 1
        super().failed(trace, error)

    def disconnected(self, connection: Connection, closed: ConnectionClosed) -> None:
        self._ended["cut" if closed.code is None else code_name(closed.code)] += 1
        super().disconnected(connection, closed)

    def stream_refused(self, peer: PeerId, protocol: str, why: str) -> None:
        self._streams_refused[why.partition(":")[0]] += 1  # what a policy says of it differs with each peer
        super().stream_refused(peer, protocol, why)


def _frozen(counter: Counter[str]) -> Mapping[str, int]:
    return MappingProxyType(dict(counter))
