"""What can be watched of greetings, connections and streams, in the manner of `trio.abc.Instrument`."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trishake_protocol import PeerId, Role

from ._errors import ConnectionClosed, DialError

if TYPE_CHECKING:
    from ._connection import Connection


class Step(enum.IntEnum):
    """The seven steps of a greeting, numbered as in section 1 of the specification."""

    SYN_SENT = 1
    ADMITTED = 2
    SYN_ACK_SENT = 3
    RESPONDER_VERIFIED = 4
    ACK_SENT = 5
    INITIATOR_VERIFIED = 6
    READY = 7


@dataclass(frozen=True, slots=True)
class Progress:
    """A step that has just been taken on our side. READY is seen by both: sent, then received.

    peer, session_id: as far as they are known by then.
    """

    step: Step
    role: Role
    address: str | None
    peer: PeerId | None = None
    session_id: bytes | None = None


class Observer:
    """Override what you want to see; the methods are called as it happens, must not raise, and must not wait."""

    def progress(self, progress: Progress) -> None:
        """A greeting took a step."""

    def failed(self, role: Role, error: DialError) -> None:
        """A greeting ended without a connection; our role, and the error that a dial raises."""

    def connected(self, connection: Connection) -> None:
        """A connection opened, whoever dialed."""

    def disconnected(self, connection: Connection, closed: ConnectionClosed) -> None:
        """A connection has ended; why."""

    def stream_refused(self, peer: PeerId, protocol: str, why: str) -> None:
        """We refused a stream that this peer opened: UNKNOWN_PROTOCOL, or the reason of the handler's policy."""
