"""What can be watched of every greeting, in the manner of `trio.abc.Instrument`."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from trishake_protocol import PeerId, Role

from ._errors import DialError


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
    """Override what you want to see; the methods are called in the task that greets, and must not raise."""

    def progress(self, progress: Progress) -> None:
        """A greeting took a step."""

    def failed(self, role: Role, error: DialError) -> None:
        """A greeting ended without a connection; our role, and the error that a dial raises."""
