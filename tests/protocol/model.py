"""What two sessions may know, say and be told, and in which order: the oracle of test_machine.py.

Written from SPEC.md, sections 1 to 12, and not from the code: there are no bytes and no keys in here. What is
shared with the library is its vocabulary (events, codes, states). A model is told what the two applications do and
how many bytes have arrived; it foretells what each call raises, each frame that is written, and each event.

    Bringing     what one side brings to the greeting
    Message      what stands in one frame (or is the preface), as its sender meant it
    Way          one direction of the wire: the messages under way, and how much of them has arrived
    Side         one session
    StreamSide   its streams (section 10)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from trishake_protocol import (
    AlertCode,
    CloseCode,
    ForeignProtocol,
    GreetingRefused,
    Identity,
    LocalProtocolError,
    Network,
    PeerId,
    RemoteProtocolError,
    Role,
    State,
    Truncated,
    UnexpectedIdentity,
    VerdictCode,
    Wait,
)
from trishake_protocol.errors import Reason
from trishake_protocol.events import (
    Accepted,
    CloseReceived,
    CreditReceived,
    DataReceived,
    Event,
    GoAwayReceived,
    PeerIdentified,
    PongReceived,
    Rejected,
    StreamAccepted,
    StreamFinished,
    StreamOpened,
    StreamRefused,
    StreamReset,
    SynReceived,
)
from trishake_protocol.messages import Greeting
from trishake_protocol.patterns import SUITES
from trishake_protocol.states import Direction

INITIATOR, RESPONDER = Role

# --- numbers, as the specification has them -------------------------------------------------------------

PREFACE, MAGIC = 19, 4  # 3
HEADER, TAG = 3, 16  # 2, 9
RECORD = HEADER + 1 + TAG  # what a record's frame has besides its content
MOST_CONTENT = 65519 - 1  # 9
SYN_LENGTH = {0x0001: 32, 0x0002: 1216, 0x0101: 48, 0x0102: 1248}  # 5
SYN_ACK_LENGTH = {0x0001: 96, 0x0002: 1200, 0x0101: 96, 0x0102: 1200}
ACK_LENGTH = 64
OPTIMISTIC = 16 * 1024  # 9
GREETING_BUFFER = 20 * 1024  # 12
ALLOWANCE = 300  # 6: seconds behind `exp`
STREAM_HEADER, STREAM_WINDOW, CREDIT_UNIT, MOST_STREAMS = 12, 256 * 1024, 64 * 1024, 256  # 10

FRAME_TYPES = {"SYN": 0x01, "SYN-ACK": 0x02, "ACK": 0x03, "ALERT": 0x7F}  # 2; whatever else is a RECORD
UNIDENTIFIED = {State.AWAIT_SYN, State.SIGNING, State.AWAIT_SYN_ACK, State.AWAIT_ACK, State.PEER_IDENTIFIED}


# --- what is said ---------------------------------------------------------------------------------------


@dataclass
class Bringing:
    """What one side brings.

    elsewhere: whether somebody else holds its private key. expected, suite: of an initiator, who must answer and
    the suite to attempt, where they are given. impostor: whether its key is another than its id says.
    """

    identity: Identity
    network: Network
    offers: tuple[int, ...]
    now: int
    caps: tuple[str, ...] = ()
    exp: int | None = None
    app: bytes | None = None
    expected: PeerId | None = None
    elsewhere: bool = False
    suite: int | None = None
    impostor: bool = False

    @property
    def usable(self) -> list[int]:
        """Unknown suites, and those with the wrong psk bit, are ignored (3)."""
        return [o for o in self.offers if o in SYN_LENGTH and bool(o & 0x0100) == (self.network.psk is not None)]

    def greeting(self, role: Role) -> Greeting:
        return Greeting(
            role=role.value,
            id=self.identity.id.key,
            offers=self.offers,
            time=self.now,
            caps=self.caps,
            exp=self.exp,
            app=self.app,
        )


@dataclass
class Message:
    """kind: "preface", a frame's or a record's name, or "damage". event: what its reader is told of it, if he is.

    code: of a refusal or a CLOSE. payload: of a PING. size: bytes of a DATA's content. length: on the wire.
    """

    kind: str
    event: Event | None = None
    size: int = 0
    code: Reason | CloseCode | None = None
    payload: bytes = b""
    length: int = 0


@dataclass(frozen=True)
class Raises:
    """The other side has broken the protocol, or its bytes have ended."""

    error: type[RemoteProtocolError]
    reason: Reason | CloseCode | None


@dataclass(frozen=True)
class Run:
    """The next event is DataReceived, with these bytes or the first of them: records may cut them anywhere."""

    stream: int
    data: bytes


class Damage:
    """What is read next is not what was sent. What it looks like is not foretold, but see `Side.after_damage`."""


Outcome = Event | Wait | Raises | Run | Damage


@dataclass
class Way:
    """One direction. arrived: bytes that the reader has and has not read. ended: nothing comes behind them."""

    messages: deque[Message] = field(default_factory=deque[Message])
    arrived: int = 0
    ended: bool = False

    def take(self) -> Message | None:
        """The next message, if all of it is there."""
        if not self.messages or self.messages[0].length > self.arrived:
            return None
        self.arrived -= self.messages[0].length
        return self.messages.popleft()

    @property
    def damaged(self) -> bool:
        """Whether the next thing to be read is damage, of which something has arrived."""
        return bool(self.messages) and self.messages[0].kind == "damage" and self.arrived > 0


# --- one session ----------------------------------------------------------------------------------------


class Side:
    """One session. Its verbs raise what the session's are to raise, and then change nothing."""

    def __init__(self, role: Role, brings: dict[Role, Bringing], ways: dict[Role, Way], *, own_dial: bool) -> None:
        self.role = role
        self.ours, self.theirs = brings[role], brings[role.other]
        self.incoming = ways[role.other]
        self.own_dial = own_dial
        self.other: Side
        self.attempt = brings[INITIATOR].suite or brings[INITIATOR].usable[0]

        self.state = State.AWAIT_SYN_ACK if role is INITIATOR else State.AWAIT_SYN
        self.sending = self.receiving = Direction.OPEN
        self.outbox: list[Message] = []
        self.pong: Message | None = None
        self.told: Reason | None = None
        self.failure: Raises | None = None
        self.mux = False
        self.streams: StreamSide | None = None
        self.finished_handshake = False
        self.said_yes = False
        self.closing = False  # our CLOSE was for good: DATA that crosses it is discarded
        self.transcript_broken = False  # the two do not agree on what was said: no AEAD opens any more
        self._magic = self._syn_opened = False
        self._wants_optimistic = self.optimistic = False
        self._spent = 0
        if role is INITIATOR:
            self.outbox += Message("preface"), Message("SYN", SynReceived(SUITES[self.attempt]))

    # --- what the application does

    def accept(self, seen: str | None, text: str | None, optimistic: bool) -> None:
        self._must(self.state is State.PEER_IDENTIFIED)
        self.said_yes = True
        if self.role is INITIATOR:
            self.state = State.SIGNING
            self._wants_optimistic = optimistic
            self._greet()
        else:
            self.state = State.OPEN
            self.outbox.append(Message("VERDICT", Accepted(seen, text), code=VerdictCode.READY))

    def sign(self) -> None:
        self._must(self.state is State.SIGNING)
        self._send_greeting()

    def reject(self, reason: VerdictCode | int, text: str | None, retry: int | None, seen: str | None) -> None:
        self._must(self.state is State.PEER_IDENTIFIED or (self.role is INITIATOR and self.state is State.SIGNING))
        if self.role is INITIATOR:
            self._abort()
        else:
            self._say_rejected(Rejected(reason, True, text, retry, seen))
        self._end()

    def refuse(self, code: AlertCode, retry: int | None) -> None:
        before_ack = (State.AWAIT_SYN, State.SIGNING, State.AWAIT_ACK)
        self._must(self.role is RESPONDER and self.state in before_ack)
        self._alert(Rejected(code, False, retry_after=retry))
        self._end()

    def send(self, data: bytes) -> None:
        self._must(self.streams is None and self._may_send_data)
        if self.optimistic:
            self._spend(len(data))
        if data:
            self.outbox.append(Message("DATA", DataReceived(data), len(data)))

    def finish(self, text: str | None) -> None:
        self._must(self.state is State.OPEN and self.sending is Direction.OPEN)
        self._close(CloseCode.NORMAL, text)

    def close(self, code: CloseCode, text: str | None) -> None:
        self._must(self.state is State.OPEN and self.sending is not Direction.CLOSED)
        self._close(code, text)

    def ping(self, payload: bytes) -> None:
        self._must(self.state is State.OPEN and self.sending is not Direction.CLOSED)
        self.outbox.append(Message("PING", payload=payload))

    def carry_streams(self) -> None:
        self._must(self.mux)
        self.streams = StreamSide(self.role)
        if self.other.streams is not None:
            self.streams.heard, self.other.streams.heard = self.other.streams.said, self.streams.said

    # --- what is written

    @property
    def has_something_to_say(self) -> bool:
        streams = self.streams is not None and self._may_send_data and self.streams.size
        return bool(self.outbox or self.pong or (streams and not (self.optimistic and streams > self._room)))

    def write(self) -> list[Message]:
        """What is written now: behind what was said, the answer to a ping, then what streams have to say."""
        if self.pong is not None:
            self.outbox.append(self.pong)
            self.pong = None
        self._flush_streams()
        said, self.outbox = self.outbox, []
        return said

    def _flush_streams(self) -> None:
        if self.streams is None or not (size := self.streams.size) or not self._may_send_data:
            return
        if self.optimistic:
            if size > self._room:
                return
            self._spend(size)
        self.outbox.append(Message("DATA", size=size))
        self.streams.said += self.streams.unsent
        self.streams.unsent.clear()

    @property
    def _may_send_data(self) -> bool:
        return self.sending is Direction.OPEN and (self.state is State.OPEN or self.optimistic)

    @property
    def _room(self) -> int:
        return OPTIMISTIC - self._spent - RECORD

    def _spend(self, size: int) -> None:
        if size > self._room:
            raise ValueError("more than goes before the verdict")
        self._spent += RECORD + size

    # --- what is told

    def next(self) -> Outcome:
        """What `next_event` is to give, or to raise."""
        while self.failure is None:
            if self.state in (State.PEER_IDENTIFIED, State.SIGNING):
                return Wait.PAUSED
            if self.state is State.ENDED:
                return Wait.NEED_DATA
            if self.state is State.OPEN and self.streams is not None and not self.closing:
                about_a_stream = self.streams.next()
                if about_a_stream is not None:
                    return about_a_stream
            if self.incoming.damaged:
                return Damage()
            self._magic = self._magic or self.incoming.arrived >= MAGIC
            message = self.incoming.take()
            if message is None:
                if not self.incoming.ended or (self.state is State.OPEN and self.receiving is not Direction.OPEN):
                    return Wait.NEED_DATA
                return self.fail(Truncated, CloseCode.PROTOCOL if self.state is State.OPEN else None)
            outcome = self._READ[message.kind](self, message)
            if outcome is not None:
                return outcome
        return self.failure

    def took(self, run: Run, data: bytes) -> None:
        """These bytes of the run were handed out."""
        assert self.streams is not None
        assert data
        assert run.data.startswith(data)
        self.streams.took(len(data))

    def after_damage(self, outcome: Event | Wait | RemoteProtocolError) -> None:
        """What came of damage: an error, the wait for more, or what an attacker can say in clear. Nothing else."""
        greeting = {State.AWAIT_SYN, State.AWAIT_SYN_ACK, State.AWAIT_ACK, State.AWAIT_VERDICT}
        self._magic = self._magic or (self.incoming.arrived >= MAGIC and not isinstance(outcome, ForeignProtocol))
        match outcome:
            case RemoteProtocolError():
                if self.state is State.OPEN:
                    assert outcome.reason is CloseCode.PROTOCOL
                self.fail(type(outcome), outcome.reason)
            case Wait():
                assert outcome is Wait.NEED_DATA
                assert not self.incoming.ended or self.receiving is not Direction.OPEN  # never a clean end
            case SynReceived():
                assert self.state is State.AWAIT_SYN
                assert self.ours.network.psk is None  # where there is a key, SYN itself proves every byte
                self.transcript_broken = self.other.transcript_broken = True
                self._syn_opened = True
                self.state = State.SIGNING
                self._greet()
            case Rejected(authenticated=False):
                assert self.state in greeting
                self._hear_rejection()
            case _:
                raise AssertionError(f"{outcome} out of what nobody said")

    def fail(self, error: type[RemoteProtocolError], reason: Reason | CloseCode | None) -> Raises:
        """The other side is in breach: answer it as section 8 or 9 has it, and end."""
        self.failure = Raises(error, reason)
        if self.state is State.OPEN:
            self.pong = None
            self._flush_streams()
            if self.sending is not Direction.CLOSED:
                assert isinstance(reason, CloseCode)
                self.outbox.append(Message("CLOSE", CloseReceived(reason), code=reason))
        else:
            self.outbox.clear()  # "end of stream within the greeting ends it in silence"
            if issubclass(error, GreetingRefused):
                self._answer_refused(reason)
        self._end()
        return self.failure

    def _answer_refused(self, reason: Reason | CloseCode | None) -> None:
        assert isinstance(reason, (AlertCode, VerdictCode))
        if self.role is INITIATOR:
            self._abort()
        elif self.finished_handshake and isinstance(reason, VerdictCode):
            self._say_rejected(Rejected(reason, True))
        elif isinstance(reason, VerdictCode):
            self._alert(Rejected(AlertCode.HANDSHAKE_FAILED, False))  # 7, step 6
        elif reason is AlertCode.UNSUPPORTED_VERSION:
            self._alert(Rejected(reason, False, versions=(1, 1)))
        elif reason is AlertCode.UNSUPPORTED_SUITE:
            self._alert(Rejected(reason, False, suites=tuple(self.ours.usable)))
        else:
            self._alert(Rejected(reason, False))

    # --- reading: the greeting

    def _read_preface(self, _: Message) -> Outcome | None:
        """7, steps 2 and 3."""
        if self.attempt not in self.ours.usable:
            return self.fail(GreetingRefused, AlertCode.UNSUPPORTED_SUITE)
        if self.ours.network.psk is None and self.ours.network.name != self.theirs.network.name:
            return self.fail(GreetingRefused, AlertCode.WRONG_NETWORK)
        return None

    def _read_syn(self, message: Message) -> Outcome:
        """7, steps 5 to 8."""
        ours, theirs = self.ours.network, self.theirs.network
        if ours.name != theirs.name or (theirs.psks and theirs.psks[0] not in ours.psks):
            return self.fail(GreetingRefused, AlertCode.HANDSHAKE_FAILED)
        self._syn_opened = True
        if self.own_dial:
            return self.fail(GreetingRefused, VerdictCode.SELF)
        self.state = State.SIGNING
        self._greet()
        assert message.event is not None
        return message.event

    def _read_greeting(self, message: Message) -> Outcome:
        """SYN-ACK or ACK: 7, the steps of a greeting."""
        if self.transcript_broken:
            return self.fail(GreetingRefused, AlertCode.HANDSHAKE_FAILED)
        self.finished_handshake = self.role is RESPONDER
        found = self._found_in_greeting()
        if found is not None:
            return self.fail(*found)
        self.mux = "mux/1" in self.ours.caps and "mux/1" in self.theirs.caps
        self.state = State.PEER_IDENTIFIED
        assert message.event is not None
        return message.event

    def _found_in_greeting(self) -> tuple[type[RemoteProtocolError], VerdictCode] | None:
        ours, theirs = self.ours, self.theirs
        if theirs.identity.static_key.public == ours.identity.static_key.public:
            return GreetingRefused, VerdictCode.SELF
        if theirs.impostor:
            return GreetingRefused, VerdictCode.BAD_SIGNATURE
        if theirs.identity.id == ours.identity.id:
            return GreetingRefused, VerdictCode.SELF
        if ours.expected is not None and theirs.identity.id != ours.expected:
            return UnexpectedIdentity, VerdictCode.IDENTITY_UNKNOWN
        if theirs.exp is not None and ours.now > theirs.exp + ALLOWANCE:
            return GreetingRefused, VerdictCode.EXPIRED
        initiator, responder = (ours, theirs) if self.role is INITIATOR else (theirs, ours)
        if self.attempt != next((offer for offer in initiator.usable if offer in responder.offers), None):
            return GreetingRefused, VerdictCode.DOWNGRADE
        return None

    def _read_verdict(self, message: Message) -> Outcome:
        self.optimistic = False
        if message.code is VerdictCode.READY:
            self.state = State.OPEN
        else:
            self._hear_rejection()
        assert message.event is not None
        return message.event

    def _read_alert(self, message: Message) -> Outcome:
        self._hear_rejection()
        assert message.event is not None
        return message.event

    # --- reading: records

    def _read_data(self, message: Message) -> Outcome | None:
        if self.closing:
            return None
        if self.streams is not None:
            self.streams.arrived += message.size
            return None
        assert message.event is not None
        return message.event

    def _read_ping(self, message: Message) -> Outcome | None:
        if message.event is not None:
            return message.event
        if self.sending is not Direction.CLOSED:
            self.pong = Message("PING", PongReceived(message.payload))  # the latest is answered
        return None

    def _read_close(self, message: Message) -> Outcome:
        half = message.code is CloseCode.NORMAL and not self.mux
        self.receiving = Direction.FINISHED if half else Direction.CLOSED
        if not half and self.sending is Direction.OPEN:
            if self.streams is not None:
                self.streams.unsent.clear()  # "stops sending DATA and answers CLOSE at once"
            self._close(CloseCode.NORMAL, None)
        assert message.event is not None
        return message.event

    _READ: Final[dict[str, Callable[[Side, Message], Outcome | None]]] = {
        "preface": _read_preface,
        "SYN": _read_syn,
        "SYN-ACK": _read_greeting,
        "ACK": _read_greeting,
        "ALERT": _read_alert,
        "VERDICT": _read_verdict,
        "DATA": _read_data,
        "PING": _read_ping,
        "CLOSE": _read_close,
    }

    # --- saying

    @staticmethod
    def _must(allowed: bool) -> None:
        if not allowed:
            raise LocalProtocolError("not in this state")

    def _greet(self) -> None:
        if not self.ours.elsewhere:
            self._send_greeting()

    def _send_greeting(self) -> None:
        event = PeerIdentified(self.ours.identity.id, self.ours.greeting(self.role))
        if self.role is INITIATOR:
            self.outbox.append(Message("ACK", event))
            self.state = State.AWAIT_VERDICT
            self.finished_handshake = True
            self.optimistic = self._wants_optimistic
        else:
            self.outbox.append(Message("SYN-ACK", event))
            self.state = State.AWAIT_ACK

    def _close(self, code: CloseCode, text: str | None) -> None:
        """CLOSE, behind what was to be sent; NORMAL is a half-close where there are no streams (9)."""
        self._flush_streams()
        half = code is CloseCode.NORMAL and not self.mux
        self.sending = Direction.FINISHED if half else Direction.CLOSED
        if not half:
            self.closing = True
            self.pong = None
        self.outbox.append(Message("CLOSE", CloseReceived(code, text), code=code))

    def _say_rejected(self, rejected: Rejected) -> None:
        self.told = rejected.reason
        self.outbox.append(Message("VERDICT", rejected, code=rejected.reason))
        self.outbox.append(Message("CLOSE", CloseReceived(CloseCode.NORMAL), code=CloseCode.NORMAL))

    def _alert(self, rejected: Rejected) -> None:
        """In clear, unless a responder must not say a word (4; 7, step 2)."""
        if self.ours.network.quiet and not self._syn_opened:
            return
        if not self._magic and rejected.reason is not AlertCode.BUSY:
            return
        self.told = rejected.reason
        self.outbox.append(Message("ALERT", rejected, code=rejected.reason))

    def _abort(self) -> None:
        self.told = AlertCode.ABORTED
        self.outbox.append(Message("ALERT", Rejected(AlertCode.ABORTED, False), code=AlertCode.ABORTED))

    def _hear_rejection(self) -> None:
        self.outbox.clear()  # "the rejected initiator sends nothing more"
        self._end()

    def _end(self) -> None:
        self.state = State.ENDED
        self.optimistic = False


# --- the streams of one session -------------------------------------------------------------------------


@dataclass
class Frame:
    """What a yamux frame says, and whether its header has been read. left: bytes of its body not read yet."""

    kind: str
    stream: int = 0
    said: str = ""
    data: bytes = b""
    credit: int = 0
    left: int = 0
    begun: bool = False

    @property
    def size(self) -> int:
        return STREAM_HEADER + self.left


@dataclass
class View:
    """A stream as one side sees it. state: "named" is yet to come; "asked", "awaiting", "open", "refused"."""

    state: str
    window: int = STREAM_WINDOW
    unread: int = 0
    consumed: int = 0
    sent_fin: bool = False
    got_fin: bool = False

    @property
    def over(self) -> bool:
        return self.sent_fin and self.got_fin


class StreamSide:
    """One end of all streams. `said` is what the other end reads, as far as it arrives."""

    def __init__(self, role: Role) -> None:
        self.parity = 1 if role is INITIATOR else 0
        self.opened = 0
        self.views: dict[int, View] = {}
        self.leaving = False
        self.unsent: list[Frame] = []
        self.said: deque[Frame] = deque()
        self.heard: deque[Frame] = deque()  # the other's `said`
        self.arrived = 0

    @property
    def size(self) -> int:
        return sum(frame.size for frame in self.unsent)

    @property
    def ours(self) -> int:
        """How many that we opened are not over."""
        return sum(id_ % 2 == self.parity for id_ in self.views)

    @property
    def latest(self) -> int:
        """The id of the last that we opened."""
        return 2 * self.opened - (1 if self.parity else 0)

    # --- what the application does

    def open(self, protocol: str) -> int:
        if self.ours >= MOST_STREAMS:
            raise LocalProtocolError("256 are open")
        self.opened += 1
        id_ = self.latest
        view = self.views[id_] = View("awaiting")
        self._say(view, Frame("open", id_, said=protocol, left=1 + len(protocol.encode())))
        return id_

    def answer(self, id_: int, answer: str, text: str) -> None:
        view = self.views.get(id_)
        if view is None or view.state != "asked":
            raise LocalProtocolError("nobody asks")
        more = 1 + len(text.encode()) if answer == "refuse" else 0
        self._say(view, Frame("answer", id_, said=f"{answer}:{text}", left=1 + more))
        if answer == "accept":
            view.state = "open"
        else:
            view.state = "refused"
            self._fin(id_, view)

    def send(self, id_: int, data: bytes) -> int:
        view = self._speaking(id_)
        part = data[: view.window]
        if part:
            self._say(view, Frame("data", id_, data=part, left=len(part)))
        return len(part)

    def finish(self, id_: int) -> None:
        self._fin(id_, self._speaking(id_))

    def reset(self, id_: int) -> None:
        if self.views.pop(id_, None) is not None:
            self.unsent.append(Frame("reset", id_))

    def consume(self, id_: int, length: int) -> None:
        view = self.views.get(id_)
        if view is None or view.got_fin:
            return
        view.consumed += length
        if view.consumed >= STREAM_WINDOW // 2:
            credit = view.consumed // CREDIT_UNIT * CREDIT_UNIT
            view.consumed -= credit
            self.unsent.append(Frame("credit", id_, credit=credit))

    def go_away(self) -> None:
        if not self.leaving:
            self.leaving = True
            self.unsent.append(Frame("go away"))

    def _speaking(self, id_: int) -> View:
        view = self.views.get(id_)
        if view is None or view.state == "asked" or view.sent_fin:
            raise LocalProtocolError("not on this stream")
        return view

    def _say(self, view: View, frame: Frame) -> None:
        view.window -= frame.left
        self.unsent.append(frame)

    def _fin(self, id_: int, view: View) -> None:
        view.sent_fin = True
        self.unsent.append(Frame("fin", id_))
        self._forget_if_over(id_, view)

    def _forget_if_over(self, id_: int, view: View) -> None:
        if view.over:
            del self.views[id_]

    # --- what it is told

    def next(self) -> Event | Run | None:
        while self.heard:
            frame = self.heard[0]
            if not frame.begun:
                if self.arrived < STREAM_HEADER:
                    return None
                self.arrived -= STREAM_HEADER
                frame.begun = True
                if frame.kind == "open":
                    self._make_room_for(frame.stream)
            if frame.kind == "data":
                run = self._run(frame)
                if run is None and frame.left:
                    return None
                if run is not None:
                    return run
                self.heard.popleft()
                continue
            if self.arrived < frame.left:
                return None
            self.arrived -= frame.left
            self.heard.popleft()
            event = self._hear(frame, self.views.get(frame.stream))
            if event is not None:
                return event
        return None

    def _make_room_for(self, id_: int) -> None:
        theirs = sum(known % 2 != self.parity for known in self.views)
        if self.leaving or theirs >= MOST_STREAMS:
            self.unsent.append(Frame("reset", id_))
        else:
            self.views[id_] = View("named")

    def _run(self, frame: Frame) -> Run | None:
        """What can be handed out of this DATA and those behind it; what nobody wants is dropped."""
        view = self.views.get(frame.stream)
        if view is None or view.state == "refused":
            dropped = min(self.arrived, frame.left)
            self.arrived -= dropped
            frame.left -= dropped
            return None
        data, arrived = b"", self.arrived
        for more in self.heard:
            if (more.kind, more.stream) != ("data", frame.stream):
                break
            if not more.begun:
                arrived -= STREAM_HEADER
            if arrived <= 0:
                break
            rest = more.data[len(more.data) - more.left :]
            data += rest[:arrived]
            arrived -= len(rest)
        return Run(frame.stream, data) if data else None

    def took(self, length: int) -> None:
        view = self.views[self.heard[0].stream]
        view.unread += length
        while length:
            frame = self.heard[0]
            if not frame.begun:
                self.arrived -= STREAM_HEADER
                frame.begun = True
            part = min(length, frame.left)
            frame.left -= part
            length -= part
            self.arrived -= part
            if not frame.left:
                self.heard.popleft()

    def _hear(self, frame: Frame, view: View | None) -> Event | None:
        id_ = frame.stream
        if frame.kind == "go away":
            return GoAwayReceived(0)
        if view is None:
            return None  # it is over here: credit, FIN and RST for it are ignored, its DATA dropped
        match frame.kind:
            case "open":
                view.state = "asked"
                self.consume(id_, 1 + len(frame.said.encode()))
                return StreamOpened(id_, frame.said)
            case "answer":
                return self._hear_answer(id_, view, frame.said)
            case "credit":
                view.window += frame.credit
                return None if view.sent_fin else CreditReceived(id_)
            case "fin":
                view.got_fin = True
                self._forget_if_over(id_, view)
                return None if view.state == "refused" else StreamFinished(id_)
            case _:
                del self.views[id_]
                return None if view.state == "refused" else StreamReset(id_, view.state == "asked")

    def _hear_answer(self, id_: int, view: View, said: str) -> Event:
        verdict, _, text = said.partition(":")
        if verdict == "accept":
            view.state = "open"
            self.consume(id_, 1)
            return StreamAccepted(id_)
        view.state = "refused"
        if not view.sent_fin:
            self._fin(id_, view)
        return StreamRefused(id_, verdict == "unknown", text)
