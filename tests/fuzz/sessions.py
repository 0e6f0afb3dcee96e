"""Sessions at every state, and what is mutated goes in where only its sender could say it.

A session is brought to its state once; each input meets a copy of it. All keys are fixed, so that an input does
the same each time.
"""

from __future__ import annotations

import copy
import enum
import gc
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Final, TypeVar, cast

from trishake_protocol import (
    DataReceived,
    Event,
    Identity,
    LocalProtocolError,
    Network,
    Profile,
    PublicIdentity,
    Role,
    Session,
    State,
    StreamOpened,
    Suite,
    Truncated,
    VerdictCode,
    Wait,
)
from trishake_protocol.events import StreamEvent
from trishake_protocol.limits import MAX_GREETING, MAX_RECORD_CONTENT, MUX, REKEY_INTERVAL
from trishake_protocol.messages import FrameType, RecordType, Verdict, encode_frame, encode_greeting_payload
from trishake_protocol.noise import CipherState
from trishake_protocol.patterns import CLASSICAL
from trishake_protocol.primitives import CHACHAPOLY, Hash, KeyPair
from trishake_protocol.records import RecordReader, RecordWriter
from trishake_protocol.streams import Streams

from ..protocol.conftest import NOW, RECORDINGS, Hostile, Recording, network_of

_T = TypeVar("_T")

_SHARED: Final = (
    *(type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, enum.Enum),
    *(Hash, KeyPair, Identity, PublicIdentity, Profile, Network, Suite, type(CHACHAPOLY.key(bytes(32)))),
)
"""What does not change while a session goes on, and what cannot be copied."""


def saved(thing: _T) -> Callable[[], _T]:
    """Makes copies of the thing as it is now, which share what never changes."""
    shared: dict[int, object] = {}
    seen: set[int] = set()
    todo: list[object] = [thing]
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, _SHARED):
            shared[id(one)] = one
        else:
            todo += gc.get_referents(one)
    kept = copy.deepcopy(thing, dict(shared))
    again = {**shared, **{id(one): one for one in shared.values()}}
    return lambda: copy.deepcopy(kept, dict(again))


# --- driving --------------------------------------------------------------------------------------------


def run(session: Session, data: bytes, *, streams: bool = False) -> None:
    """What a runtime and an application do with these bytes, whole or in halves. Raises what `next_event` does."""
    try:
        for part in _parts(data):
            left = memoryview(part)
            while left and (room := session.receive_room):
                session.receive_data(left[:room])
                left = left[room:]
                _events(session, streams)
        session.receive_eof()
        with suppress(Truncated):  # where the input ends is none of its faults
            _events(session, streams)
    finally:
        session.data_to_send()  # what it has to say about it must be sayable


def _parts(data: bytes) -> Iterable[bytes]:
    half = len(data) // 2
    return (data,) if len(data) % 2 else (data[:half], data[half:])


def _events(session: Session, streams: bool) -> None:
    while (event := session.next_event()) is not Wait.NEED_DATA:
        if event is Wait.PAUSED:
            if session.state is not State.PEER_IDENTIFIED:
                return
            session.accept()
            if streams and session.mux:
                session.carry_streams()
        elif session.streams is not None:
            react(session.streams, cast("StreamEvent", event))
    session.data_to_send()


def react(streams: Streams, event: Event | StreamEvent) -> None:
    """An application that takes, refuses, answers and reads."""
    try:
        match event:
            case StreamOpened():
                answer = (streams.accept, streams.refuse, streams.refuse_unknown)[len(event.protocol) % 3]
                answer(event.stream)
            case DataReceived():
                streams.consume(event.stream, len(event.data))
                streams.send(event.stream, event.data[:64])
                if event.data[:1] == b"q":
                    streams.finish(event.stream)
            case _:
                pass
    except LocalProtocolError:
        pass  # the stream may be over since


# --- the greeting, as it stands on the wire -------------------------------------------------------------

CLASSICAL_RECORDING: Final = RECORDINGS["0x0001-a"]

Parse = Callable[[bytes], object]


def awaiting_syn(recording: Recording) -> Parse:
    """The data is preface and SYN, and what follows them."""
    make = saved(recording.responder())
    return lambda data: run(make(), data)


def awaiting_syn_ack(recording: Recording) -> Parse:
    session = recording.initiator()
    session.data_to_send()
    make = saved(session)
    return lambda data: run(make(), data)


def awaiting_ack(recording: Recording) -> Parse:
    session = recording.responder()
    session.receive_data(recording.flight)
    _to_pause(session)
    make = saved(session)
    return lambda data: run(make(), data)


def _to_pause(session: Session) -> None:
    while not isinstance(session.next_event(), Wait):
        pass
    session.data_to_send()


# --- the greeting, within its encryption ----------------------------------------------------------------


def _identity(letter: bytes) -> Identity:
    return Identity.from_seed(letter * 32, static_key=KeyPair(letter.upper() * 32))


_ADA: Final = _identity(b"a")
EVE: Final = _identity(b"e")
_PROFILE: Final = Profile(network_of(CLASSICAL), offers=(CLASSICAL.id,), caps=(MUX,))


def eve(role: Role) -> Hostile:
    return Hostile(role, CLASSICAL, EVE, ephemeral=KeyPair(b"v" * 32))


def _meeting(role_of_eve: Role) -> tuple[Hostile, Session]:
    """Eve, who is to say SYN-ACK or ACK next, and the session that waits for it."""
    hostile = eve(role_of_eve)
    mine: dict[str, Any] = {"now": NOW, "ephemeral": KeyPair(b"w" * 32)}
    if role_of_eve is Role.INITIATOR:
        session = Session.responder(_ADA, _PROFILE, **mine)
        session.receive_data(hostile.write_flight())
        while not isinstance(session.next_event(), Wait):
            pass
        hostile.read_syn_ack(session.data_to_send(), _ADA.id)
    else:
        session = Session.initiator(_ADA, _PROFILE, **mine)
        hostile.read_flight(session.data_to_send())
    return hostile, session


def in_greeting(role: Role, *, signed: bool) -> Parse:
    """The data is the payload of what this role greets with; or if it is to be signed, the record in it."""
    hostile, session = _meeting(role)
    h = hostile.noise.begin_message()
    make_noise, make_session = saved(hostile.noise), saved(session)
    type_ = FrameType.ACK if role is Role.INITIATOR else FrameType.SYN_ACK

    def parse(data: bytes) -> None:
        payload = data
        if signed:
            try:
                payload = encode_greeting_payload(data, hostile.sign(h, data))
            except ValueError:
                return  # longer than any greeting
        run(make_session(), encode_frame(type_, make_noise().end_message(payload[:MAX_GREETING])))

    return parse


def payload(role: Role) -> bytes:
    """What Eve says in such a greeting when she keeps to the rules."""
    hostile, _ = _meeting(role)
    record = hostile.record(caps=[MUX])
    return encode_greeting_payload(record, hostile.sign(hostile.noise.begin_message(), record))


# --- records, within their encryption -------------------------------------------------------------------


def _greeted(role_of_eve: Role, *, mux: bool) -> tuple[RecordWriter, Session]:
    """What Eve's records are written with, and the session behind her greeting, which has accepted."""
    hostile, session = _meeting(role_of_eve)
    session.receive_data(hostile.greet(hostile.record(caps=[MUX] if mux else [])))
    while session.next_event() is not Wait.PAUSED:
        pass
    session.accept()
    if mux:
        session.carry_streams()
    said = session.data_to_send()
    if role_of_eve is Role.RESPONDER:
        hostile.noise.read_message(said[3:])
    return hostile.transport()[0], session


def in_verdict() -> Parse:
    """The data is the plaintext of the first record, and of those behind it."""
    return _in_records(*_greeted(Role.RESPONDER, mux=False))


def in_open_session(role: Role, *, mux: bool) -> Parse:
    """The data is the plaintexts of records, as `records` frames them, for a session of this role.

    With streams the session has opened three of its own before.
    """
    writer, session = _greeted(role.other, mux=mux)
    if role is Role.INITIATOR:
        session.receive_data(writer.encode(RecordType.VERDICT, Verdict(VerdictCode.READY).encode()))
        session.next_event()
    assert session.state is State.OPEN
    if session.streams is not None:
        for protocol in ("echo/1", "chat/1", "files/1"):
            session.streams.open(protocol)
        session.data_to_send()
    return _in_records(writer, session)


def _in_records(writer: RecordWriter, session: Session) -> Parse:
    make_cipher_state, make_session = saved(cast("Any", writer)._cipher_state), saved(session)

    def parse(data: bytes) -> None:
        cipher_state = make_cipher_state()
        frames = [
            encode_frame(FrameType.RECORD, cipher_state.encrypt_with_ad(b"", plaintext))
            for plaintext in plaintexts(data)
        ]
        run(make_session(), b"".join(frames))

    return parse


def records(*plaintexts: bytes) -> bytes:
    """Plaintexts of records as one input: a length of two bytes before each."""
    return b"".join(len(plaintext).to_bytes(2, "big") + plaintext for plaintext in plaintexts)


def plaintexts(data: bytes) -> Iterator[bytes]:
    """What any bytes are as such an input; the first 64: to encrypt them takes longer than to read them."""
    for _ in range(64):
        if len(data) < 2:
            return
        end = 2 + int.from_bytes(data[:2], "big")
        yield data[2:end][: MAX_RECORD_CONTENT + 1]
        data = data[end:]


def in_record(n: int) -> Parse:
    """The data is the plaintext of one record, of that number."""

    def parse(data: bytes) -> None:
        sender, receiver = (CipherState(key=bytes(32)) for _ in range(2))
        sender.n = receiver.n = n
        if n and n % REKEY_INTERVAL == 0:
            sender.rekey()
        RecordReader(receiver).decode(sender.encrypt_with_ad(b"", data))

    return parse


def in_streams(role: Role) -> Parse:
    """The data is what DATA records carry, for streams of this role, of which three are open."""
    streams = Streams(role)
    for protocol in ("echo/1", "chat/1", "files/1"):
        streams.open(protocol)
    streams.data_to_send()
    make = saved(streams)

    def parse(data: bytes) -> None:
        own = make()
        for part in _parts(data):
            own.receive_data(part)
            while (event := own.next_event()) is not None:
                react(own, event)
        own.data_to_send()

    return parse
