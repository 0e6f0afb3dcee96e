"""The states of a session, and every legal move between them.

Theory of operation. A session is first a greeting, then two directions.

The greeting is one machine a role. Its inputs are what arrives (SYN, SYN_ACK, ACK, ALERT, and the VERDICT as
READY or REJECTION) and what the application does (ACCEPT, REJECT, REFUSE, SIGNED):

    initiator                                        responder

    AWAIT_SYN_ACK ──ALERT──────────▶ ENDED           AWAIT_SYN ──ALERT, REFUSE──────▶ ENDED
        │ SYN_ACK                                        │ SYN
    PEER_IDENTIFIED ──REJECT───────▶ ENDED           SIGNING ──REFUSE───────────────▶ ENDED
        │ ACCEPT                                         │ SIGNED
    SIGNING ──REJECT───────────────▶ ENDED           AWAIT_ACK ──ALERT, REFUSE──────▶ ENDED
        │ SIGNED                                         │ ACK
    AWAIT_VERDICT ──ALERT, REJECTION▶ ENDED          PEER_IDENTIFIED ──REJECT───────▶ ENDED
        │ READY                                          │ ACCEPT
      OPEN                                             OPEN

PEER_IDENTIFIED is the pause in which the application decides, SIGNING the one in which the holder of the private
key signs, and no pause where the session holds it; nothing that arrives is read meanwhile.

An open session is two directions, and each ends on its own: FINISH is CLOSE with code NORMAL where there are
no streams (a half-close), CLOSE any other. The same table serves what we send and what we receive.

    OPEN ──FINISH──▶ FINISHED ──CLOSE──▶ CLOSED            OPEN ──CLOSE──▶ CLOSED

A stream inside the session (section 10) is a greeting of its own, and two halves:

    opener                                           acceptor

    AWAIT_ANSWER ──REFUSED──▶ REFUSED                AWAIT_PROTOCOL
        │ ACCEPTED                                       │ PROTOCOL
      OPEN                                           ASKED ──REFUSE──▶ REFUSED
                                                         │ ACCEPT
    each half:   OPEN ──FIN──▶ FINISHED                OPEN

It is over when both halves are FINISHED, or with a reset from either side, in any state.

A look-up that fails is a breach: by the other side if the input arrived, by the caller if he asked for it.
A breach by the other side ends the session from any state.
"""

from __future__ import annotations

import enum
from typing import Final

from .errors import CloseCode, LocalProtocolError, RemoteProtocolError
from .patterns import Role


class _Named(enum.Enum):
    """What the tables are looked up by, several times for every record."""

    __hash__ = object.__hash__  # Enum's own is a function in Python, which costs as much as the rest of a look-up


class State(_Named):
    AWAIT_SYN = "waiting for SYN"
    SIGNING = "waiting for the signature of our own greeting"
    AWAIT_SYN_ACK = "waiting for SYN-ACK"
    AWAIT_ACK = "waiting for ACK"
    PEER_IDENTIFIED = "the peer is identified, and neither accepted nor rejected yet"
    AWAIT_VERDICT = "waiting for VERDICT"
    OPEN = "open"
    ENDED = "ended"


class Input(_Named):
    SYN = "SYN"
    SYN_ACK = "SYN-ACK"
    ACK = "ACK"
    ALERT = "ALERT"
    READY = "VERDICT READY"
    REJECTION = "a rejecting VERDICT"

    ACCEPT = "accept"
    REJECT = "reject"
    REFUSE = "refuse"
    SIGNED = "sign"


class Direction(_Named):
    OPEN = "open"
    FINISHED = "half-closed"
    CLOSED = "closed"


class Record(_Named):
    DATA = "DATA"
    PING = "PING"
    FINISH = "CLOSE NORMAL"
    CLOSE = "CLOSE"


class StreamState(_Named):
    AWAIT_PROTOCOL = "not greeted yet"
    ASKED = "waiting for our answer"
    AWAIT_ANSWER = "waiting for the other side's answer"
    OPEN = "open"
    REFUSED = "refused"


class StreamInput(_Named):
    PROTOCOL = "a protocol id"
    ACCEPTED = "the answer that accepts"
    REFUSED = "an answer that refuses"

    ACCEPT = "accept"
    REFUSE = "refuse"


class Half(_Named):
    OPEN = "open"
    FINISHED = "finished"


class Part(_Named):
    DATA = "DATA"
    FIN = "FIN"


GREETING: Final = {
    Role.INITIATOR: {
        State.AWAIT_SYN_ACK: {Input.SYN_ACK: State.PEER_IDENTIFIED, Input.ALERT: State.ENDED},
        State.PEER_IDENTIFIED: {Input.ACCEPT: State.SIGNING, Input.REJECT: State.ENDED},
        State.SIGNING: {Input.SIGNED: State.AWAIT_VERDICT, Input.REJECT: State.ENDED},
        State.AWAIT_VERDICT: {
            Input.READY: State.OPEN,
            Input.REJECTION: State.ENDED,
            Input.ALERT: State.ENDED,
        },
        State.OPEN: {},
        State.ENDED: {},
    },
    Role.RESPONDER: {
        State.AWAIT_SYN: {
            Input.SYN: State.SIGNING,
            Input.ALERT: State.ENDED,
            Input.REFUSE: State.ENDED,
        },
        State.SIGNING: {Input.SIGNED: State.AWAIT_ACK, Input.REFUSE: State.ENDED},
        State.AWAIT_ACK: {
            Input.ACK: State.PEER_IDENTIFIED,
            Input.ALERT: State.ENDED,
            Input.REFUSE: State.ENDED,
        },
        State.PEER_IDENTIFIED: {Input.ACCEPT: State.OPEN, Input.REJECT: State.ENDED},
        State.OPEN: {},
        State.ENDED: {},
    },
}

DIRECTION: Final = {
    Direction.OPEN: {
        Record.DATA: Direction.OPEN,
        Record.PING: Direction.OPEN,
        Record.FINISH: Direction.FINISHED,
        Record.CLOSE: Direction.CLOSED,
    },
    Direction.FINISHED: {
        # A side that has said all it will say still answers pings, and may yet find a breach.
        Record.PING: Direction.FINISHED,
        Record.CLOSE: Direction.CLOSED,
    },
    Direction.CLOSED: {},
}


STREAM: Final = {
    StreamState.AWAIT_PROTOCOL: {StreamInput.PROTOCOL: StreamState.ASKED},
    StreamState.ASKED: {StreamInput.ACCEPT: StreamState.OPEN, StreamInput.REFUSE: StreamState.REFUSED},
    StreamState.AWAIT_ANSWER: {
        StreamInput.ACCEPTED: StreamState.OPEN,
        StreamInput.REFUSED: StreamState.REFUSED,
    },
    StreamState.OPEN: {},
    StreamState.REFUSED: {},
}

HALF: Final = {
    Half.OPEN: {Part.DATA: Half.OPEN, Part.FIN: Half.FINISHED},
    Half.FINISHED: {},
}


class Machine:
    """Where one session stands: the greeting's state, and after it that of each direction."""

    __slots__ = ("optimistic", "receiving", "role", "sending", "state")

    def __init__(self, role: Role) -> None:
        self.role = role
        self.optimistic = False
        """Whether our DATA may follow our ACK, before the verdict (section 9)."""
        self.state = State.AWAIT_SYN_ACK if role is Role.INITIATOR else State.AWAIT_SYN
        self.sending = Direction.OPEN
        self.receiving = Direction.OPEN

    def receive(self, input_: Input) -> None:
        """Something of the greeting arrived. Raises RemoteProtocolError in a state that does not allow it."""
        self.optimistic = False  # the verdict is there, or will never be
        try:
            self.state = GREETING[self.role][self.state][input_]
        except KeyError:
            raise RemoteProtocolError(f"{input_.value} arrived while {self.state.value}") from None

    def decide(self, input_: Input) -> None:
        """The application decided. Raises LocalProtocolError in a state that does not allow it."""
        try:
            self.state = GREETING[self.role][self.state][input_]
        except KeyError:
            raise LocalProtocolError(f"cannot {input_.value}: the session is {self.state.value}") from None

    def record_received(self, record: Record) -> None:
        try:
            self.receiving = DIRECTION[self.receiving][record]
        except KeyError:
            raise RemoteProtocolError(f"{record.value} arrived on a {self.receiving.value} direction") from None

    def record_sent(self, record: Record) -> None:
        if self.state is not State.OPEN and not (self.optimistic and record is Record.DATA):
            raise LocalProtocolError(f"cannot send {record.value}: the session is {self.state.value}")
        try:
            self.sending = DIRECTION[self.sending][record]
        except KeyError:
            raise LocalProtocolError(
                f"cannot send {record.value}: our direction is {self.sending.value}"
            ) from None

    def end(self) -> None:
        self.state = State.ENDED
        self.optimistic = False


class StreamMachine:
    """Where one stream stands: its greeting, and its two halves. stream: its id, for what is raised."""

    __slots__ = ("receiving", "sending", "state", "stream")

    def __init__(self, stream: int, state: StreamState) -> None:
        self.stream = stream
        self.state = state
        self.sending = Half.OPEN
        self.receiving = Half.OPEN

    @property
    def over(self) -> bool:
        return self.sending is Half.FINISHED and self.receiving is Half.FINISHED

    def greet(self, input_: StreamInput) -> None:
        """Its greeting took a step. Raises LocalProtocolError: what arrives is only read where it fits."""
        try:
            self.state = STREAM[self.state][input_]
        except KeyError:
            raise LocalProtocolError(
                f"cannot {input_.value} stream {self.stream}: it is {self.state.value}"
            ) from None

    def received(self, part: Part) -> None:
        try:
            self.receiving = HALF[self.receiving][part]
        except KeyError:
            raise RemoteProtocolError(
                f"{part.value} behind FIN on stream {self.stream}", reason=CloseCode.PROTOCOL
            ) from None

    def sent(self, part: Part) -> None:
        try:
            self.sending = HALF[self.sending][part]
        except KeyError:
            raise LocalProtocolError(f"cannot send on stream {self.stream}: our half is finished") from None
