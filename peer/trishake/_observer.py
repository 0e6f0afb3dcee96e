"""What can be watched of greetings, connections and streams, in the manner of `trio.abc.Instrument`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trishake_protocol import PeerId, Role, Suite

from ._errors import ConnectionClosed, DialError
from ._steps import Step
from ._timeline import Timeline

if TYPE_CHECKING:
    from ._connection import Connection


@dataclass(frozen=True, slots=True)
class Progress:
    """A step that has just been taken on our side. VERDICT is READY, and seen by both: sent, then received.

    greeting: which greeting of this process, the `number` of its timeline. at: seconds since it began; seconds,
    sent, received: since the step before, and bytes. peer: who is there, from IDENTITY_VERIFIED on; before that,
    who was dialed, if that is known. endpoint: the other end, as `host:port`.
    peer, endpoint, suite, greeting_id, session_id: as far as they are known by then.
    """

    greeting: int
    step: Step
    role: Role
    at: float
    seconds: float
    sent: int
    received: int
    address: str | None = None
    endpoint: str | None = None
    peer: PeerId | None = None
    suite: Suite | None = None
    greeting_id: bytes | None = None
    session_id: bytes | None = None

    @property
    def number(self) -> int | None:
        """Which of the seven steps of section 1 of the specification it is; None if none."""
        return self.step.number(self.role)


class Observer:
    """Override what you want to see; the methods are called as it happens, and must not wait.

    Every greeting has one end: the progress of VERDICT, or failed, or cancelled. Nothing is told of it after that.
    One that raises is taken off, and what it raised is logged: nobody else falls with it.
    """

    def progress(self, progress: Progress) -> None:
        """A greeting took a step."""

    def failed(self, role: Role, error: DialError) -> None:
        """A greeting ended without a connection; our role, and the error that a dial raises, with its timeline."""

    def cancelled(self, role: Role, timeline: Timeline) -> None:
        """A greeting was cut off on our side: the task that ran it was cancelled, as that of a dial which another
        address has won; or something raised in it that is no DialError. The other side sees the stream end.
        """

    def connected(self, connection: Connection) -> None:
        """A connection opened, whoever dialed."""

    def disconnected(self, connection: Connection, closed: ConnectionClosed) -> None:
        """A connection has ended; why."""

    def stream_refused(self, peer: PeerId, protocol: str, why: str) -> None:
        """We refused a stream that this peer opened: UNKNOWN_PROTOCOL, or the reason of the handler's policy, with
        its `why` behind a colon if it has one. protocol: as it came; escape it before showing it.
        """
