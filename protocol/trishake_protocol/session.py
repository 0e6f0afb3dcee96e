"""Session: one end of one greeting, and of the encrypted records behind it. No I/O.

A runtime drives it with four verbs:

    receive_data(bytes), receive_eof()      what arrived
    next_event()                            what it means: an event, NEED_DATA, or PAUSED
    data_to_send()                          what to write now; ask after every call

and the application decides with the others: `accept` or `reject` when the session is PAUSED because the peer
is identified; then `send`, `finish`, `close`, `ping`, or those of `streams`. A runtime is a loop:

    while (event := session.next_event()) is NEED_DATA:
        write(session.data_to_send())
        session.receive_data(read())

A breach by the other side is raised by `next_event` as RemoteProtocolError. The session has then ended, and
what it answers (ALERT, VERDICT or CLOSE) is in `data_to_send`. States and moves are in `states.py`, wire
messages in `messages.py`, the checks of a greeting in `greeting.py`, Noise in `noise.py`, streams in `streams.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from . import limits
from .errors import (
    AlertCode,
    CloseCode,
    ForeignProtocol,
    GreetingRefused,
    LocalProtocolError,
    Reason,
    RemoteProtocolError,
    Truncated,
    VerdictCode,
)
from .events import (
    Accepted,
    CloseReceived,
    DataReceived,
    Event,
    PeerIdentified,
    PongReceived,
    Rejected,
    SynReceived,
    Wait,
)
from .foreign import foreign_protocol, may_become_known
from .greeting import Handshake, Profile
from .identity import GreetingToSign, Identity, PublicIdentity
from .messages import (
    Alert,
    Close,
    FrameType,
    Ping,
    Preface,
    RecordType,
    Verdict,
    encode_frame,
)
from .patterns import Role, Suite
from .peer_id import PeerId
from .primitives import MLKEM768, SHA256, Kem, KeyPair
from .records import RECORD_BOUNDS, RECORD_OVERHEAD, FrameHeader, RecordReader, RecordWriter, frame_bounds
from .states import Direction, Input, Machine, Record, State
from .streams import Streams

_PEER_UNKNOWN: Final = {
    State.AWAIT_SYN,
    State.SIGNING,
    State.AWAIT_SYN_ACK,
    State.AWAIT_ACK,
    State.PEER_IDENTIFIED,
}
"""The states in which no more than HANDSHAKE_BUFFER is kept."""


def _unchanging(data: bytearray | memoryview) -> bytes | memoryview:
    """Data as bytes that cannot be changed before they are encrypted: a copy, unless of bytes in a row."""
    view = memoryview(data)
    return view.cast("B") if isinstance(view.obj, bytes) and view.c_contiguous else bytes(view)


def _not_own_dial(_: bytes) -> bool:
    return False


class Session:
    """One end of one connection. Made by `Session.initiator` or `Session.responder`."""

    def __init__(
        self,
        handshake: Handshake,
        identity: Identity | PublicIdentity,
        profile: Profile,
        is_own_dial: Callable[[bytes], bool] = _not_own_dial,
    ) -> None:
        self._machine = Machine(handshake.role)
        self._handshake = handshake
        self._identity = identity
        self._profile = profile
        self._is_own_dial = is_own_dial

        self._inbox: bytes | bytearray = b""
        self._read_to = 0
        """Where in the inbox we are; 0 until the session is open."""
        self._eof = False
        self._failure: RemoteProtocolError | None = None
        self._outbox: list[bytes | tuple[RecordType, Sequence[bytes | memoryview]]] = []
        """Frames in clear, and records with their content in parts."""
        self._pong: Ping | None = None
        self._to_sign: GreetingToSign | None = None
        self.told: Reason | None = None
        """Why the other side is refused, as it is told: by ALERT or VERDICT; None if it is told nothing."""
        self._greeting_id: bytes | None = None
        self._optimistic = False  # whether the application asked for it, when it accepted
        self._sent_optimistically = 0
        self._closing = False  # we closed for good: DATA that crosses our CLOSE is discarded (section 9)

        self._magic_read = False
        self._preface_read = False
        self._syn_opened = False
        self.mux = False
        """Whether both greetings list `mux/1`; known once the peer is identified (section 10)."""
        self.streams: Streams | None = None
        """The streams inside DATA, once `carry_streams` was called."""

        self._channel_binding: bytes | None = None
        self._session_id = b""
        self._writer: RecordWriter | None = None
        self._reader: RecordReader | None = None

    @classmethod
    def initiator(
        cls,
        identity: Identity | PublicIdentity,
        profile: Profile,
        *,
        now: int,
        expected: PeerId | None = None,
        suite: int | None = None,
        kem: Kem = MLKEM768,
        ephemeral: KeyPair | None = None,
        key_log: Callable[[str], None] | None = None,
    ) -> Session:
        """The side that opens the greeting; preface and SYN are in `data_to_send` at once.

        now: our clock, Unix seconds. expected: who must answer, if that is known.
        suite: the one to attempt; by default the best of the profile. Another is for an application that
            allowed a second try with a lower one (section 13): the offers stay what they are. ValueError if
            the profile does not offer it.
        kem, ephemeral: for reproducible tests only.
        key_log: called with each line of the key log (`key_log.py`), without a line end, as soon as its key is
            there. Who has them reads the connection. None, and no key is shown to anybody.
        """
        handshake = Handshake(
            Role.INITIATOR,
            identity,
            profile,
            now=now,
            expected=expected,
            kem=kem,
            ephemeral=ephemeral,
            key_log=key_log,
        )
        session = cls(handshake, identity, profile)
        preface, syn = handshake.start(profile.suite(suite))
        session._greeting_id = handshake.ephemeral_key[: limits.GREETING_ID_LENGTH]
        session._outbox.append(preface)
        session._queue_frame(FrameType.SYN, syn)
        return session

    @classmethod
    def responder(
        cls,
        identity: Identity | PublicIdentity,
        profile: Profile,
        *,
        now: int,
        is_own_dial: Callable[[bytes], bool] = _not_own_dial,
        kem: Kem = MLKEM768,
        ephemeral: KeyPair | None = None,
        key_log: Callable[[str], None] | None = None,
    ) -> Session:
        """The side that answers.

        is_own_dial: told the ephemeral key of a SYN, 32 bytes; whether it is that of a dial of our own that
            is still under way (section 7, step 6). now, kem, ephemeral, key_log: as for `initiator`.
        """
        handshake = Handshake(
            Role.RESPONDER, identity, profile, now=now, kem=kem, ephemeral=ephemeral, key_log=key_log
        )
        return cls(handshake, identity, profile, is_own_dial)

    def __repr__(self) -> str:
        return f"<Session {self.role.value}, {self._machine.state.value}>"

    # --- what can be asked ------------------------------------------------------------------------------

    @property
    def role(self) -> Role:
        return self._machine.role

    @property
    def state(self) -> State:
        return self._machine.state

    @property
    def suite(self) -> Suite | None:
        """The suite of this attempt; None at a responder that has not read the preface."""
        return self._handshake.suite

    @property
    def ephemeral_key(self) -> bytes:
        """Initiator: the public key in our SYN, by which our own listener knows our own dial."""
        return self._handshake.ephemeral_key

    @property
    def finished_handshake(self) -> bool:
        """Whether ACK was sent or has decrypted: from then on there is a session id."""
        return self._channel_binding is not None

    @property
    def channel_binding(self) -> bytes:
        """h, 32 bytes, the same on both sides and on no other connection (section 9).

        There once ACK was sent or has decrypted; LocalProtocolError before.
        """
        if self._channel_binding is None:
            raise LocalProtocolError("the handshake is not finished: there is no session id yet")
        return self._channel_binding

    @property
    def session_id(self) -> bytes:
        """8 bytes, the same on both sides, for both logs (section 9)."""
        if not self._session_id:
            digest = SHA256.digest(b"trishake/1 session\x00" + self.channel_binding)
            self._session_id = digest[: limits.SESSION_ID_LENGTH]
        return self._session_id

    @property
    def now(self) -> int:
        """Our clock when the greeting began, Unix seconds."""
        return self._handshake.now

    @property
    def greeting_id(self) -> bytes | None:
        """The first 8 bytes of the initiator's ephemeral key, for both logs (section 9).

        They are known from SYN on, where there is no session id yet, and are to be seen on the wire. None at a
        responder that has not read SYN.
        """
        return self._greeting_id

    @property
    def receive_room(self) -> int:
        """How many bytes `receive_data` should be given at most now; 0 while PAUSED with a full buffer."""
        if self._machine.state in _PEER_UNKNOWN:
            return max(0, limits.HANDSHAKE_BUFFER - len(self._inbox))
        return 2 * (limits.FRAME_HEADER + limits.MAX_NOISE_MESSAGE)

    @property
    def has_data_to_send(self) -> bool:
        """Whether `data_to_send` would give anything."""
        return bool(self._outbox) or self._pong is not None or bool(self._unsent_of_streams)

    @property
    def sending(self) -> Direction:
        """Whether we can still send."""
        return self._machine.sending

    @property
    def receiving(self) -> Direction:
        """Whether the other side can still send."""
        return self._machine.receiving

    # --- the four verbs ---------------------------------------------------------------------------------

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes as they came, in any segmentation. After the end of the session they are dropped."""
        if self._machine.state is State.ENDED:
            return
        if self._read_to == len(self._inbox):
            self._inbox = bytes(data)  # of bytes this is no copy
        else:
            if self._read_to or isinstance(self._inbox, bytes):
                self._inbox = bytearray(memoryview(self._inbox)[self._read_to :])
            self._inbox += data
        self._read_to = 0

    def receive_eof(self) -> None:
        """The other side's bytes have ended."""
        self._eof = True

    def next_event(self) -> Event | Wait:
        """What happened next; NEED_DATA when nothing did, PAUSED while the application must decide.

        Raises RemoteProtocolError when the other side has broken the protocol, and again at each later call.
        """
        if self._failure is not None:
            raise self._failure
        try:
            while True:
                state = self._machine.state
                if state is State.OPEN:
                    event = self._next_while_open()
                elif state is State.PEER_IDENTIFIED or state is State.SIGNING:
                    return Wait.PAUSED
                elif state is State.ENDED:
                    return Wait.NEED_DATA
                else:
                    event = self._next_of_greeting(state)
                if event is None:
                    self._check_eof()
                    return Wait.NEED_DATA
                return event
        except RemoteProtocolError as error:
            self._fail(error)
            raise

    def data_to_send(self) -> bytes:
        """Everything that is to be written now, in order, or nothing. Records are encrypted here."""
        if self._pong is not None:
            self._queue_record(RecordType.PING, self._pong.encode())
            self._pong = None
        self._take_streams()
        if not self._outbox:
            return b""
        parts: list[bytes] = []
        for item in self._outbox:
            if isinstance(item, bytes):
                parts.append(item)
                continue
            assert self._writer is not None
            if self._writer.exhausted:
                parts.append(self._close_at_key_limit(self._writer))
                break
            parts += self._writer.encode_parts(*item)
        self._outbox.clear()
        return b"".join(parts)

    # --- what the application decides -------------------------------------------------------------------

    def accept(self, *, seen: str | None = None, text: str | None = None, optimistic: bool = False) -> None:
        """Take the identified peer: an initiator sends ACK, a responder VERDICT READY.

        seen: the initiator's address as the responder sees it; text: for people. Both are the responder's.
        optimistic: the initiator's: what it sends until the verdict goes right behind ACK, at most MAX_OPTIMISTIC
            bytes of records. The responder reads it once it has accepted, and never sees it otherwise.
        Raises LocalProtocolError unless PAUSED, ValueError where the verdict cannot be sent.
        """
        if self.role is Role.INITIATOR:
            self._machine.decide(Input.ACCEPT)
            self._optimistic = optimistic
            self._compose()
        else:
            verdict = Verdict(VerdictCode.READY, seen=seen, text=text).encode()
            self._machine.decide(Input.ACCEPT)
            self._queue_record(RecordType.VERDICT, verdict)

    @property
    def to_sign(self) -> GreetingToSign | None:
        """Our greeting, while it waits for `sign`: where the identity's private key is held elsewhere."""
        return self._to_sign if self._machine.state is State.SIGNING else None

    def sign(self, signature: bytes) -> None:
        """Send our greeting (SYN-ACK or ACK) under this signature, 64 bytes, over `to_sign.text`.

        Raises LocalProtocolError if none is wanted; or if it is not the identity's, which nobody is shown: the
        session goes on waiting, for another one, `refuse` (responder) or `reject` (initiator).
        """
        greeting = self.to_sign
        if greeting is None:
            raise LocalProtocolError(f"no greeting waits for a signature: the session is {self.state.value}")
        if not isinstance(signature, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LocalProtocolError(
                f"a signature is {limits.SIGNATURE_LENGTH} bytes, got {type(signature).__name__}"
            )
        if not greeting.verify(self._identity.id, signature):
            raise LocalProtocolError(f"this is no signature of {self._identity.id} over its greeting")
        self._send_greeting(greeting, signature)

    def reject(
        self,
        reason: VerdictCode | int = VerdictCode.POLICY,
        *,
        text: str | None = None,
        retry_after: int | None = None,
        seen: str | None = None,
    ) -> None:
        """Refuse the identified peer, and end. A responder tells it why; an initiator sends ALERT ABORTED.

        An initiator may do so too while its greeting waits for a signature, a responder may then `refuse`.
        reason: a VerdictCode, or the application's own from 0x8000. retry_after: seconds.
        Raises LocalProtocolError unless PAUSED, ValueError where the verdict cannot be sent.
        """
        if reason in (VerdictCode.READY, VerdictCode.READY.value):
            raise LocalProtocolError("READY is no reason to reject; call accept")
        verdict = Verdict(reason, retry_after, seen, text).encode()
        self._machine.decide(Input.REJECT)
        if self.role is Role.INITIATOR:
            self._queue_aborted()
        else:
            self._queue_rejection(reason, verdict)

    def refuse(self, code: AlertCode, *, retry_after: int | None = None) -> None:
        """Responder: give up before ACK has come (BUSY, TIMEOUT, GOING_AWAY), and end.

        The ALERT is left out where section 4 or 7 wants silence. retry_after: seconds, BUSY only.
        Raises LocalProtocolError once ACK has come: then it is `reject`.
        """
        if retry_after is not None and (code is not AlertCode.BUSY or retry_after < 0):
            raise ValueError(f"only BUSY says when to come back, in seconds; got {code.name}, {retry_after}")
        self._machine.decide(Input.REFUSE)
        self._queue_alert(Alert(code, retry_after=retry_after))

    def carry_streams(self) -> Streams:
        """From here on DATA carries streams, in both directions; their events are among the session's.

        To be called before anything was sent or read. Raises LocalProtocolError unless both sides have `mux/1`.
        """
        if not self.mux:
            raise LocalProtocolError("the other side has no streams (mux/1), or is not identified yet")
        self.streams = Streams(self.role)
        return self.streams

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Queue a part of our byte stream; it becomes as many records as it needs.

        Raises LocalProtocolError unless the session is open and our direction has not ended; and where it has
        streams, which is then where to send. Raises ValueError for more than goes before the verdict.
        """
        if self.streams is not None:
            raise LocalProtocolError("this session has streams: send on one of them")
        self._machine.record_sent(Record.DATA)
        if self._machine.optimistic:
            self._send_optimistic(len(data))
        self._queue_data((data if isinstance(data, bytes) else _unchanging(data),))

    def finish(self, text: str | None = None) -> None:
        """End our direction; the other goes on, unless both sides have streams (CLOSE NORMAL, section 9).

        text: for people, at most 256 bytes. Raises LocalProtocolError as `send` does.
        """
        self._send_close(Close(CloseCode.NORMAL, text))

    def close(self, code: CloseCode, text: str | None = None) -> None:
        """End both directions, saying why: what the other side still sends is discarded.

        code: any but NORMAL, which is `finish`. Raises LocalProtocolError if we have closed before.
        """
        if code is CloseCode.NORMAL:
            raise LocalProtocolError("to close with NORMAL is to finish: call finish")
        self._send_close(Close(code, text))

    def ping(self, payload: bytes) -> None:
        """Ask whether the other side is there; PongReceived is its answer. payload: 8 bytes, echoed."""
        if len(payload) != limits.PING_LENGTH:
            raise ValueError(f"a ping carries {limits.PING_LENGTH} bytes, got {len(payload)}")
        self._machine.record_sent(Record.PING)
        self._queue_record(RecordType.PING, Ping(payload).encode())

    # --- reading: frames --------------------------------------------------------------------------------

    def _next_of_greeting(self, state: State) -> Event | None:
        """The next frame, if the state reads it, its length is in bounds, and all of it is there."""
        if state is State.AWAIT_SYN and not self._preface_read and not self._read_preface():
            return None
        if not self._inbox:
            return None
        read = self._READERS.get((state, self._inbox[0]))
        if read is None:
            self._refuse_type(self._inbox[0])
            return None
        header = FrameHeader.decode(self._inbox)
        if header is None:
            return None
        if header.length not in frame_bounds(header.type, self.suite):
            type_ = FrameType(header.type)
            raise self._unfit(type_, f"{type_.name} of {header.length} bytes")
        end = limits.FRAME_HEADER + header.length
        if len(self._inbox) < end:
            return None
        body = bytes(self._inbox[limits.FRAME_HEADER : end])
        self._inbox = self._inbox[end:]
        return read(self, body)

    def _next_while_open(self) -> Event | None:
        """The next event of an open session: of its streams, if it has such, or of a record."""
        assert self._reader is not None
        event: Event | None
        while True:
            if self.streams is not None and not self._closing and (event := self.streams.next_event()) is not None:
                return event
            body = self._take_record()
            if body is None:
                return None
            type_, content = self._reader.decode(body)
            event = self._read_data(content) if type_ is RecordType.DATA else self._read_control(type_, content)
            if event is not None:
                return event

    def _take_record(self) -> memoryview | None:
        """The body of the next RECORD, if all of it is there. Nothing else comes while the session is open."""
        inbox, start = self._inbox, self._read_to
        left = len(inbox) - start
        if not left:
            self._inbox, self._read_to = b"", 0
            return None
        if inbox[start] != FrameType.RECORD:
            self._refuse_type(inbox[start])
        if left < limits.FRAME_HEADER:
            return None
        length = inbox[start + 1] << 8 | inbox[start + 2]
        if length not in RECORD_BOUNDS:
            raise self._unfit(FrameType.RECORD, f"RECORD of {length} bytes")
        if left < limits.FRAME_HEADER + length:
            return None
        start += limits.FRAME_HEADER
        self._read_to = start + length
        return memoryview(inbox)[start : start + length]

    def _refuse_type(self, byte: int) -> None:
        """Raise for a frame of a type that this state does not read, unless more bytes may tell whose it is."""
        state = self._machine.state
        try:
            type_ = FrameType(byte)
        except ValueError:
            if state is not State.AWAIT_SYN_ACK:
                raise self._unfit(None, f"a frame of unknown type 0x{byte:02x}") from None
            if may_become_known(self._inbox) and not self._eof:
                return
            raise ForeignProtocol(foreign_protocol(self._inbox)) from None
        raise self._unfit(type_, f"{type_.name} arrived while {state.value}")

    def _unfit(self, type_: FrameType | None, text: str) -> RemoteProtocolError:
        """The error for a frame that does not belong here, by its type or its length."""
        match self._machine.state:
            case State.AWAIT_SYN | State.AWAIT_ACK if type_ is not FrameType.ALERT:
                return GreetingRefused(AlertCode.MALFORMED, text)
            case State.AWAIT_SYN_ACK if type_ is FrameType.ALERT:
                return ForeignProtocol(None)
            case State.OPEN:
                return RemoteProtocolError(text, reason=CloseCode.PROTOCOL)
            case _:
                return RemoteProtocolError(text)

    def _check_eof(self) -> None:
        state = self._machine.state
        if not self._eof or (state is State.OPEN and self._machine.receiving is not Direction.OPEN):
            return
        if state is State.AWAIT_SYN and not self._magic_read and not limits.MAGIC.startswith(self._inbox):
            raise ForeignProtocol(foreign_protocol(self._inbox))
        where = "without CLOSE: it was cut" if state is State.OPEN else f"while we were {state.value}"
        reason = CloseCode.PROTOCOL if state is State.OPEN else None
        raise Truncated(f"the other side's stream ended {where}", reason=reason)

    # --- reading: the greeting, responder ---------------------------------------------------------------

    def _read_preface(self) -> bool:
        """Section 7, steps 2 and 3. False while the preface is incomplete."""
        magic = len(limits.MAGIC)
        if len(self._inbox) < magic:
            return False
        if not self._inbox.startswith(limits.MAGIC):
            raise ForeignProtocol(foreign_protocol(self._inbox))
        self._magic_read = True
        decoded = Preface.decode(bytes(self._inbox[: self._MAX_PREFACE]))
        if decoded is None:
            return False
        preface, length = decoded
        self._note_greeting_id(length)
        self._handshake.read_preface(preface)
        self._preface_read = True
        self._inbox = self._inbox[length:]
        return True

    def _note_greeting_id(self, length: int) -> None:
        """It stands at the beginning of SYN, which comes along with a preface, also with one that is refused."""
        syn = self._inbox[length : length + limits.FRAME_HEADER + limits.GREETING_ID_LENGTH]
        if len(syn) == limits.FRAME_HEADER + limits.GREETING_ID_LENGTH and syn[0] == FrameType.SYN:
            self._greeting_id = bytes(syn[limits.FRAME_HEADER :])

    def _read_syn(self, body: bytes) -> Event:
        """Section 7, steps 5 to 8."""
        self._greeting_id = body[: limits.GREETING_ID_LENGTH]  # in clear: known even where SYN does not open
        ephemeral_key = self._handshake.read_syn(body)
        self._syn_opened = True
        if self._is_own_dial(ephemeral_key):
            raise GreetingRefused(VerdictCode.SELF, "this SYN is of a dial of our own")
        self._machine.receive(Input.SYN)
        self._compose()
        assert self.suite is not None
        return SynReceived(self.suite)

    def _read_ack(self, body: bytes) -> Event:
        """Step 6: who called. Once ACK has decrypted, a refusal is a VERDICT."""
        payload = self._handshake.open(body)
        self._take_transport()
        event = self._verify(payload)
        self._machine.receive(Input.ACK)
        return event

    # --- reading: the greeting, initiator ---------------------------------------------------------------

    def _read_syn_ack(self, body: bytes) -> Event:
        """Step 4: who answered."""
        event = self._verify(self._handshake.open(body))
        self._machine.receive(Input.SYN_ACK)
        return event

    def _read_verdict(self, body: bytes) -> Event:
        """Step 7: what the responder decided. Anything else than a VERDICT is no response."""
        assert self._reader is not None
        type_, content = self._reader.decode(body)
        if type_ is not RecordType.VERDICT:
            raise RemoteProtocolError(f"the first record is {type_.name}, not VERDICT")
        verdict = Verdict.decode(content)
        if verdict.code is VerdictCode.READY:
            self._machine.receive(Input.READY)
            return Accepted(verdict.seen, verdict.text)
        self._machine.receive(Input.REJECTION)
        self._outbox.clear()  # "the rejected initiator sends nothing more"
        return Rejected(verdict.code, True, verdict.text, verdict.retry, verdict.seen)

    # --- reading: either side ---------------------------------------------------------------------------

    def _verify(self, payload: bytes) -> PeerIdentified:
        peer, greeting = self._handshake.verify(payload)
        self.mux = limits.MUX in self._profile.caps and limits.MUX in greeting.caps
        return PeerIdentified(peer, greeting)

    def _read_alert(self, body: bytes) -> Event:
        alert = Alert.decode(body)
        self._machine.receive(Input.ALERT)
        self._outbox.clear()
        return Rejected(
            alert.code, False, retry_after=alert.retry_after, versions=alert.versions, suites=alert.suites
        )

    def _read_control(self, type_: RecordType, content: bytes) -> Event | None:
        """A record of the open session that carries no data; None if it is nobody's business but ours."""
        if type_ is RecordType.CLOSE:
            return self._read_close(Close.decode(content))
        if type_ is RecordType.PING:
            return self._read_ping(Ping.decode(content))
        raise RemoteProtocolError(f"a {type_.name} on an open session", reason=CloseCode.PROTOCOL)

    def _read_data(self, content: bytes) -> Event | None:
        if not content:
            raise RemoteProtocolError("an empty DATA", reason=CloseCode.PROTOCOL)
        self._machine.record_received(Record.DATA)
        if self._closing:
            return None
        if self.streams is None:
            return DataReceived(content)
        self.streams.receive_data(content)
        return None  # its events come with the next turn of the loop

    def _read_close(self, close: Close) -> Event:
        kind = self._kind_of_close(close.code)
        self._machine.record_received(kind)
        if kind is Record.CLOSE and self._machine.sending is Direction.OPEN:
            if self.streams is not None:
                self.streams.data_to_send()  # "the receiver stops sending DATA and answers CLOSE at once"
            self.finish()
        return CloseReceived(close.code, close.text)

    def _kind_of_close(self, code: CloseCode | int) -> Record:
        # "With code 0 and without mux/1, CLOSE is a half-close."
        return Record.FINISH if code is CloseCode.NORMAL and not self.mux else Record.CLOSE

    def _read_ping(self, ping: Ping) -> Event | None:
        self._machine.record_received(Record.PING)
        if ping.answer:
            return PongReceived(ping.payload)
        if self._machine.sending is not Direction.CLOSED:
            self._pong = Ping(ping.payload, answer=True)  # the latest is answered, at most one is pending
        return None

    # --- writing ----------------------------------------------------------------------------------------

    def _compose(self) -> None:
        """Our greeting: signed and sent at once where we have the key, and else when somebody has signed it."""
        greeting = self._handshake.compose()
        if isinstance(self._identity, Identity):
            self._send_greeting(greeting, self._identity.sign_greeting(*greeting))
        else:
            self._to_sign = greeting

    def _send_greeting(self, greeting: GreetingToSign, signature: bytes) -> None:
        self._to_sign = None
        body = self._handshake.write(greeting, signature)
        self._machine.decide(Input.SIGNED)
        if self.role is Role.INITIATOR:
            self._queue_frame(FrameType.ACK, body)
            self._take_transport()
            self._machine.optimistic = self._optimistic
        else:
            self._queue_frame(FrameType.SYN_ACK, body)

    def _take_transport(self) -> None:
        """The handshake is finished: the two directions, and the channel binding."""
        self._channel_binding, ours, theirs = self._handshake.transport()
        self._writer = RecordWriter(ours)
        self._reader = RecordReader(theirs)

    def _queue_frame(self, type_: FrameType, body: bytes) -> None:
        self._outbox.append(encode_frame(type_, body))

    def _queue_record(self, type_: RecordType, content: bytes) -> None:
        self._outbox.append((type_, (content,)))

    def _queue_data(self, parts: Sequence[bytes | memoryview]) -> None:
        """DATA records of equal size: a full one and a crumb would cost more than two halves."""
        length = sum(map(len, parts))
        if length <= limits.MAX_RECORD_CONTENT:
            if length:
                self._outbox.append((RecordType.DATA, parts))
            return
        size = -(-length // -(-length // limits.MAX_RECORD_CONTENT))
        content: list[bytes | memoryview] = []
        room = size
        for part in parts:
            rest = memoryview(part)
            while len(rest) >= room:
                self._outbox.append((RecordType.DATA, [*content, rest[:room]]))
                content, rest, room = [], rest[room:], size
            if rest:
                content.append(rest)
                room -= len(rest)
        if content:
            self._outbox.append((RecordType.DATA, content))

    @property
    def _unsent_of_streams(self) -> int:
        """Bytes that the streams want to say, if our direction carries them now."""
        machine = self._machine
        if self.streams is None or machine.sending is not Direction.OPEN:
            return 0
        unsent = self.streams.unsent
        if machine.state is State.OPEN or (machine.optimistic and unsent <= self._optimistic_room):
            return unsent
        return 0

    def _take_streams(self) -> None:
        if self.streams is not None and (unsent := self._unsent_of_streams):
            if self._machine.optimistic:
                self._send_optimistic(unsent)
            self._queue_data(self.streams.parts_to_send())

    @property
    def _optimistic_room(self) -> int:
        """What one more record may hold before the verdict."""
        return limits.MAX_OPTIMISTIC - self._sent_optimistically - RECORD_OVERHEAD

    def _send_optimistic(self, length: int) -> None:
        if length > self._optimistic_room:
            raise ValueError(f"{length} bytes before the verdict, and {self._optimistic_room} may still go")
        self._sent_optimistically += RECORD_OVERHEAD + length

    def _send_close(self, close: Close) -> None:
        content = close.encode()
        kind = self._kind_of_close(close.code)
        if self._machine.state is State.OPEN:  # else it raises, and has changed nothing
            self._take_streams()
        self._machine.record_sent(kind)
        if kind is Record.CLOSE:
            self._closing = True
            self._pong = None
        self._queue_record(RecordType.CLOSE, content)

    def _queue_rejection(self, reason: VerdictCode | int, verdict: bytes) -> None:
        """VERDICT, then CLOSE NORMAL (section 8)."""
        self.told = reason
        self._queue_record(RecordType.VERDICT, verdict)
        self._queue_record(RecordType.CLOSE, Close().encode())

    def _queue_alert(self, alert: Alert) -> None:
        """An ALERT of the responder's, unless it must be silent: before the magic, or the network's key."""
        if self._profile.network.quiet and not self._syn_opened:
            return
        if not self._magic_read and alert.code is not AlertCode.BUSY:
            return
        self.told = alert.code
        self._queue_frame(FrameType.ALERT, alert.encode())

    def _queue_aborted(self) -> None:
        """The only ALERT of an initiator (section 8)."""
        self.told = AlertCode.ABORTED
        self._queue_frame(FrameType.ALERT, Alert(AlertCode.ABORTED).encode())

    def _close_at_key_limit(self, writer: RecordWriter) -> bytes:
        """At n = 2^63 the side closes with KEY_LIMIT; only that CLOSE may use it (section 9)."""
        self._machine.sending = Direction.CLOSED
        self._closing = True
        return writer.encode(RecordType.CLOSE, Close(CloseCode.KEY_LIMIT).encode())

    # --- failing ----------------------------------------------------------------------------------------

    def _fail(self, error: RemoteProtocolError) -> None:
        """End, and queue what section 8 or 9 has us answer."""
        self._failure = error
        if self._machine.state is State.OPEN:
            self._close_after(error)
        else:
            self._outbox.clear()  # a greeting that has ended goes on no further: only the refusal is said
            if isinstance(error, GreetingRefused):
                self._answer_refused(error.reason)
        self._machine.end()
        self._inbox, self._read_to = b"", 0

    def _close_after(self, error: RemoteProtocolError) -> None:
        self._pong = None
        self._take_streams()
        if self._machine.sending is not Direction.CLOSED:
            code = error.reason if isinstance(error.reason, CloseCode) else CloseCode.PROTOCOL
            self._queue_record(RecordType.CLOSE, Close(code).encode())

    def _answer_refused(self, reason: AlertCode | VerdictCode) -> None:
        if self.role is Role.INITIATOR:
            self._queue_aborted()
        elif self._writer is not None and isinstance(reason, VerdictCode):
            self._queue_rejection(reason, Verdict(reason).encode())
        elif isinstance(reason, VerdictCode):
            # SELF before ACK looks like any failure: a stranger must not learn whose dial he saw (7, step 6).
            self._queue_alert(Alert(AlertCode.HANDSHAKE_FAILED))
        elif reason is AlertCode.UNSUPPORTED_VERSION:
            self._queue_alert(Alert(reason, versions=self._profile.versions))
        elif reason is AlertCode.UNSUPPORTED_SUITE:
            self._queue_alert(Alert(reason, suites=tuple(suite.id for suite in self._profile.suites)))
        else:
            self._queue_alert(Alert(reason))

    _MAX_PREFACE = limits.PREFACE_HEADER + 2 * limits.MAX_OFFERS + limits.MAX_EXTENSION

    _READERS: Final[dict[tuple[State, int], Callable[[Session, bytes], Event]]] = {
        (State.AWAIT_SYN, FrameType.SYN): _read_syn,
        (State.AWAIT_SYN, FrameType.ALERT): _read_alert,
        (State.AWAIT_SYN_ACK, FrameType.SYN_ACK): _read_syn_ack,
        (State.AWAIT_SYN_ACK, FrameType.ALERT): _read_alert,
        (State.AWAIT_ACK, FrameType.ACK): _read_ack,
        (State.AWAIT_ACK, FrameType.ALERT): _read_alert,
        (State.AWAIT_VERDICT, FrameType.RECORD): _read_verdict,
        (State.AWAIT_VERDICT, FrameType.ALERT): _read_alert,
    }
    """Who reads which frame of the greeting."""
