"""Steps: what each role goes through in a greeting, where it can end, and why there may be no response."""

from __future__ import annotations

import enum
from typing import Final

from trishake_protocol import Role


class Step(enum.StrEnum):
    """A step of a greeting, taken on our side; the value is its name for machines, and does not change."""

    RESOLVED = "resolved"
    CONNECTED = "connected"
    SYN_SENT = "syn_sent"
    ADMITTED = "admitted"
    SYN_RECEIVED = "syn_received"
    SYN_ACK_SENT = "syn_ack_sent"
    SYN_ACK_RECEIVED = "syn_ack_received"
    ACK_RECEIVED = "ack_received"
    IDENTITY_VERIFIED = "identity_verified"
    POLICY = "policy"
    ACK_SENT = "ack_sent"
    VERDICT = "verdict"

    @property
    def label(self) -> str:
        """Its name for people."""
        words = self.value.replace("syn_ack", "SYN-ACK").replace("syn", "SYN").replace("ack_", "ACK ")
        return words.replace("_", " ")

    def number(self, role: Role) -> int | None:
        """Which of the seven steps of section 1 of the specification it is, taken in this role; None if none."""
        return _NUMBERS.get((role, self))


STEPS: Final = {
    Role.INITIATOR: (
        Step.RESOLVED,
        Step.CONNECTED,
        Step.SYN_SENT,
        Step.SYN_ACK_RECEIVED,
        Step.IDENTITY_VERIFIED,
        Step.POLICY,
        Step.ACK_SENT,
        Step.VERDICT,
    ),
    Role.RESPONDER: (
        Step.ADMITTED,
        Step.SYN_RECEIVED,
        Step.SYN_ACK_SENT,
        Step.ACK_RECEIVED,
        Step.IDENTITY_VERIFIED,
        Step.POLICY,
        Step.VERDICT,
    ),
}
"""What each role goes through, in this order; a greeting over a stream that is there begins behind CONNECTED."""

_NUMBERS: Final = {
    (Role.INITIATOR, Step.SYN_SENT): 1,
    (Role.RESPONDER, Step.SYN_RECEIVED): 2,
    (Role.RESPONDER, Step.SYN_ACK_SENT): 3,
    (Role.INITIATOR, Step.IDENTITY_VERIFIED): 4,
    (Role.INITIATOR, Step.ACK_SENT): 5,
    (Role.RESPONDER, Step.IDENTITY_VERIFIED): 6,
    (Role.RESPONDER, Step.VERDICT): 7,
    (Role.INITIATOR, Step.VERDICT): 7,
}


class Ending(enum.StrEnum):
    """How a greeting ended, in two words that do not change: the `outcome` of errors and timelines."""

    ACCEPTED = "accepted"
    NO_RESPONSE = "no response"
    REJECTED = "rejected"
    WRONG_IDENTITY = "wrong identity"
    REFUSED_BY_POLICY = "refused by policy"
    NOT_GREETED = "not greeted"
    CANCELLED = "cancelled"


class Phase(enum.StrEnum):
    """Where a greeting was when it ended. The first four are a dial's; SYN and ACK are a responder's."""

    RESOLVE = "resolve"
    CONNECT = "connect"
    SYN_ACK = "syn-ack"
    VERDICT = "verdict"
    SYN = "syn"
    ACK = "ack"


class Cause(enum.StrEnum):
    """Why there was no response (section 1 of the specification)."""

    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    CLOSED = "closed"
    RESET = "reset"
    FOREIGN = "foreign"
    BROKEN = "broken"


VERSION_NOBODY_SPEAKS: Final = 255
SUITE_NOBODY_HAS: Final = 0
"""What a probe begins with, so that the answer names what is spoken there."""

NO_SUCH_NAME: Final = "no such name"
NO_NAME_SERVER: Final = "no name server answers"
"""What NoResponse says in detail, where a name cannot be looked up."""
