"""What a session tells its runtime: one immutable class for each thing that can happen.

`Session.next_event` hands them out in order. What breaks the protocol is no event: it is raised.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from .errors import CloseCode, Reason
from .messages import Greeting
from .patterns import Suite
from .peer_id import PeerId


class Wait(enum.Enum):
    """Nothing to hand out now."""

    NEED_DATA = "bytes from the other side are needed"
    PAUSED = "the application is asked: to accept or reject the peer, or to sign"


@dataclass(frozen=True, slots=True)
class SynReceived:
    """Responder: a well-formed preface and SYN came; SYN-ACK is in `data_to_send` once it is signed (2 and 3)."""

    suite: Suite


@dataclass(frozen=True, slots=True)
class PeerIdentified:
    """The other side has proved who it is: every check of section 7 up to 8 has passed (steps 4 and 6).

    The session is paused now: `accept` or `reject`.
    """

    peer: PeerId
    greeting: Greeting


@dataclass(frozen=True, slots=True)
class Accepted:
    """Initiator: VERDICT READY was decrypted; the session is open (step 7).

    seen: our address as the responder sees it; text: for people, to be escaped before it is shown.
    """

    seen: str | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """The other side refused, with its reason. The session has ended, and sends nothing more.

    authenticated: True for a VERDICT; False for an ALERT, which anyone on the path can have written.
    retry_after: seconds. versions, suites: what the other side speaks, where its ALERT says so.
    """

    reason: Reason
    authenticated: bool
    text: str | None = None
    retry_after: int | None = None
    seen: str | None = None
    versions: tuple[int, int] | None = None
    suites: tuple[int, ...] | None = None


class DataReceived(NamedTuple):
    """The next part of the other side's byte stream, never empty.

    stream: which one; 0 where there are no streams. `Streams.consume` gives credit for it.
    There is one for every record: a tuple is made in a quarter of the time of a frozen dataclass.
    """

    data: bytes
    stream: int = 0


@dataclass(frozen=True, slots=True)
class CloseReceived:
    """The other side ended its direction. With NORMAL ours goes on, unless both sides have streams.

    In every other case ours has ended too (section 9).
    """

    code: CloseCode | int
    text: str | None = None


@dataclass(frozen=True, slots=True)
class PongReceived:
    """The answer to `ping`, with its 8 bytes."""

    payload: bytes


# --- of streams (section 10) ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The other side opens a stream: `accept`, `refuse`, or `refuse_unknown` it. Its data may follow already."""

    stream: int
    protocol: str


@dataclass(frozen=True, slots=True)
class StreamAccepted:
    """The other side took the stream that we opened."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamRefused:
    """The other side did not take the stream that we opened; it is over.

    unknown: it does not know the protocol. text: else, for people, to be escaped before it is shown.
    """

    stream: int
    unknown: bool
    text: str = ""


@dataclass(frozen=True, slots=True)
class StreamFinished:
    """The other side has sent all that it will send on this stream."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The other side threw the stream away, both directions of it.

    abandoned: it was the other side's own, and it did not wait for our answer. A peer that does this makes work
    for nothing; how much of that is borne is the runtime's choice (section 10).
    """

    stream: int
    abandoned: bool


@dataclass(frozen=True, slots=True)
class CreditReceived:
    """More may be sent on this stream."""

    stream: int


@dataclass(frozen=True, slots=True)
class GoAwayReceived:
    """The other side wants no new streams; those that are open go on. code: yamux's own, 0 for normal."""

    code: int


StreamEvent = (
    StreamOpened
    | StreamAccepted
    | StreamRefused
    | DataReceived
    | StreamFinished
    | StreamReset
    | CreditReceived
    | GoAwayReceived
)
Event = SynReceived | PeerIdentified | Accepted | Rejected | CloseReceived | PongReceived | StreamEvent
