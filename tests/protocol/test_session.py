"""session.py: whole conversations, with honest ends and with hostile ones.

A test with `suite`, `pair`, `open_pair` or `recording` among its arguments runs in each of the four suites.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trishake_protocol import (
    Accepted,
    AlertCode,
    CloseCode,
    CloseReceived,
    DataReceived,
    Direction,
    ForeignProtocol,
    GreetingRefused,
    Identity,
    LocalProtocolError,
    Network,
    PeerIdentified,
    PongReceived,
    Profile,
    Rejected,
    RemoteProtocolError,
    Role,
    Session,
    State,
    Suite,
    SynReceived,
    Truncated,
    UnexpectedIdentity,
    VerdictCode,
    Wait,
)
from trishake_protocol.messages import Close, FrameType, Ping, RecordType, Verdict, encode_frame
from trishake_protocol.patterns import CLASSICAL, HYBRID
from trishake_protocol.primitives import KeyPair
from trishake_protocol.records import RecordReader, RecordWriter

from .conftest import NOW, PSK, RECORDINGS, End, Hostile, Pair, Recording, make_pair, network_of, unhex

INITIATOR, RESPONDER = Role
ABORTED = bytes.fromhex("7f00010a")
HANDSHAKE_FAILED = bytes.fromhex("7f000106")
WRONG_NETWORK = bytes.fromhex("7f000104")
CLASSICAL_ONLY = Profile(offers=(CLASSICAL.id,))


def frames_in(data: bytes) -> list[tuple[int, bytes]]:
    """(type, body) of each frame."""
    frames = []
    while data:
        end = 3 + int.from_bytes(data[1:3], "big")
        assert len(data) >= end
        frames.append((data[0], bytes(data[3:end])))
        data = data[end:]
    return frames


def records_in(data: bytes, reader: RecordReader) -> list[tuple[RecordType, bytes]]:
    """(type, content) of each record; any other frame fails the test."""
    frames = frames_in(data)
    assert {type_ for type_, _ in frames} <= {FrameType.RECORD}
    return [reader.decode(body) for _, body in frames]


def kinds(events: list[Any]) -> list[type]:
    return [type(event) for event in events]


# --- a greeting that succeeds ---------------------------------------------------------------------------


def test_two_strangers_meet(pair: Pair) -> None:
    initiator, responder = pair.initiator.session, pair.responder.session
    pair.identify_responder()
    assert initiator.next_event() is Wait.PAUSED
    initiator.accept()
    pair.talk()
    assert responder.next_event() is Wait.PAUSED
    responder.accept(seen="192.0.2.7:4711", text="välkommen")
    pair.talk()
    assert kinds(pair.initiator.events) == [PeerIdentified, Accepted]
    assert kinds(pair.responder.events) == [SynReceived, PeerIdentified]
    assert pair.initiator.events[-1] == Accepted("192.0.2.7:4711", "välkommen")
    assert initiator.state is responder.state is State.OPEN
    assert initiator.channel_binding == responder.channel_binding
    assert initiator.session_id == responder.session_id
    assert (len(initiator.channel_binding), len(initiator.session_id)) == (32, 8)


def test_each_learns_who_the_other_is(profile: Profile) -> None:
    caller, answerer = Identity.generate(), Identity.generate()
    pair = make_pair(profile, who_calls=caller, who_answers=answerer, expected=answerer.id)
    pair.identify_initiator()
    (answered,) = (e for e in pair.initiator.events if isinstance(e, PeerIdentified))
    (called,) = (e for e in pair.responder.events if isinstance(e, PeerIdentified))
    assert (answered.peer, called.peer) == (answerer.id, caller.id)


def test_two_sessions_of_the_same_two_have_nothing_in_common(profile: Profile) -> None:
    caller, answerer = Identity.generate(), Identity.generate()
    pairs = [make_pair(profile, who_calls=caller, who_answers=answerer) for _ in range(2)]
    for pair in pairs:
        pair.greet()
    first, second = (pair.initiator.session for pair in pairs)
    assert first.channel_binding != second.channel_binding
    assert first.session_id != second.session_id


def test_a_greeting_arrives_in_single_bytes(pair: Pair) -> None:
    ends = {INITIATOR: pair.initiator, RESPONDER: pair.responder}
    for sender in (INITIATOR, RESPONDER, INITIATOR, RESPONDER):
        said = ends[sender].write()
        assert said
        listener = ends[sender.other]
        for i in range(len(said)):
            assert not listener.events or not isinstance(listener.session.next_event(), Accepted)
            listener.read(said[i : i + 1])
        if listener.session.next_event() is Wait.PAUSED:
            listener.session.accept()
    assert pair.initiator.session.state is pair.responder.session.state is State.OPEN
    assert pair.initiator.error is pair.responder.error is None


def test_everything_at_once_is_read_up_to_the_pause_and_then_on(recording: Recording) -> None:
    """All that an initiator ever says, in one piece: nothing behind the ACK is looked at before `accept`."""
    records = [record for record in recording.records if record["from"] == "initiator"]
    responder = End(recording.responder())
    everything = recording.flight + recording.ack + b"".join(unhex(r["frame"]) for r in records)
    assert kinds(responder.read(everything, eof=True)) == [SynReceived, PeerIdentified]
    assert responder.session.next_event() is Wait.PAUSED
    responder.session.accept()
    assert responder.read() == [DataReceived(unhex(records[0]["content"])), CloseReceived(CloseCode.NORMAL)]
    assert responder.error is None


def test_all_that_a_responder_says_at_once_is_read_up_to_the_pause_and_then_on(recording: Recording) -> None:
    records = [record for record in recording.records if record["from"] == "responder"]
    initiator = End(recording.initiator())
    initiator.write()
    everything = recording.syn_ack + b"".join(unhex(r["frame"]) for r in records)
    assert kinds(initiator.read(everything, eof=True)) == [PeerIdentified]
    initiator.session.accept()
    assert initiator.read() == [
        Accepted(),
        DataReceived(unhex(records[1]["content"])),
        CloseReceived(CloseCode.NORMAL),
    ]
    assert initiator.error is None


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview], ids=lambda make: make.__name__)
def test_bytes_may_come_in_any_form_and_go_in_any_form(open_pair: Pair, make: Any) -> None:
    open_pair.initiator.session.send(make(b"hello"))
    open_pair.responder.session.receive_data(make(open_pair.initiator.write()))
    assert open_pair.responder.session.next_event() == DataReceived(b"hello")


def test_a_session_shows_its_role_and_its_state_and_nothing_else(pair: Pair) -> None:
    assert repr(pair.initiator.session) == "<Session initiator, waiting for SYN-ACK>"
    assert repr(pair.responder.session) == "<Session responder, waiting for SYN>"
    assert pair.responder.session.suite is None


@pytest.mark.parametrize("wanted", ["channel_binding", "session_id"])
def test_a_session_has_no_name_before_the_handshake_is_finished(pair: Pair, wanted: str) -> None:
    for end in (pair.initiator, pair.responder):
        with pytest.raises(LocalProtocolError, match="not finished"):
            getattr(end.session, wanted)
    pair.identify_responder()
    with pytest.raises(LocalProtocolError, match="not finished"):
        getattr(pair.initiator.session, wanted)
    assert not pair.initiator.session.finished_handshake


def test_a_session_has_its_name_once_ack_was_sent_or_has_decrypted(pair: Pair) -> None:
    """Also one that is rejected then: both logs can still tell which it was."""
    pair.identify_initiator()
    pair.responder.session.reject()
    pair.talk()
    names = {(end.session.finished_handshake, end.session.session_id) for end in (pair.initiator, pair.responder)}
    assert names == {(True, pair.initiator.session.session_id)}


def test_whoever_listens_reads_no_name_no_agent_and_no_word(profile: Profile) -> None:
    """Section 14: a passive observer sees that it is Trishake, the suite and the tag."""
    spoken = {
        role: replace(profile, agent=f"agent of {role.value}", app=b"app of " + role.value.encode())
        for role in Role
    }
    who = {role: Identity.generate() for role in Role}
    pair = make_pair(
        spoken[INITIATOR],
        spoken[RESPONDER],
        who_calls=who[INITIATOR],
        who_answers=who[RESPONDER],
        expected=who[RESPONDER].id,
    )
    pair.greet()
    pair.initiator.session.send(b"a word")
    pair.talk()
    assert pair.responder.events == [DataReceived(b"a word")]
    wire = bytes(pair.initiator.sent + pair.responder.sent)
    assert wire.startswith("🤝".encode())
    named = [identity.id.key for identity in who.values()] + [
        identity.static_key.public for identity in who.values()
    ]
    for secret in (*named, b"agent", b"app of", b"mux/1", profile.network.name.encode(), b"a word"):
        assert secret not in wire


def test_nothing_is_said_before_the_initiator_has_accepted(pair: Pair) -> None:
    """Step 5: the initiator reveals itself only when it has decided to."""
    pair.identify_responder()
    assert pair.initiator.write() == b""
    assert [type_ for type_, _ in frames_in(bytes(pair.responder.sent))] == [FrameType.SYN_ACK]


# --- a greeting that was tampered with ------------------------------------------------------------------
#
# Each recorded message is given to a fresh session, spoiled in one place; so what the two would have said to each
# other is the same each time, and hundreds of greetings cost no second.


def answering(recording: Recording) -> End:
    """A responder that has sent its SYN-ACK."""
    end = End(recording.responder())
    end.read(recording.flight)
    assert end.write() == recording.syn_ack
    return end


def calling(recording: Recording) -> End:
    """An initiator that has sent its SYN."""
    end = End(recording.initiator())
    assert end.write() == recording.flight
    return end


def awaiting_verdict(recording: Recording) -> End:
    """An initiator that has sent its ACK."""
    end = calling(recording)
    end.read(recording.syn_ack)
    end.session.accept()
    assert end.write() == recording.ack
    return end


def opened(recording: Recording, role: Role) -> End:
    """Either side of the recorded session, right after VERDICT READY."""
    if role is INITIATOR:
        end = awaiting_verdict(recording)
        end.read(recording.verdict)
    else:
        end = answering(recording)
        end.read(recording.ack)
        end.session.accept()
        assert end.write() == recording.verdict
    assert end.session.state is State.OPEN
    end.events.clear()
    return end


Flip = Callable[[bytes], Iterator[tuple[int, bytes]]]


@pytest.fixture(params=["one bit", pytest.param("both bits", marks=pytest.mark.slow)])
def flipped(request: pytest.FixtureRequest) -> Flip:
    """The message with one byte changed, each in turn; and where.

    By its lowest or its highest bit, which take turns, or by either.
    """
    masks = (0x01, 0x80)

    def flip(data: bytes) -> Iterator[tuple[int, bytes]]:
        for i, byte in enumerate(data):
            for mask in masks if request.param == "both bits" else masks[i % 2 :][:1]:
                yield i, data[:i] + bytes([byte ^ mask]) + data[i + 1 :]

    return flip


def test_a_changed_byte_of_preface_or_syn_is_never_accepted(recording: Recording, flipped: Flip) -> None:
    """A responder may not see it on a public network; the initiator always does, since Noise binds every byte."""
    for i, spoiled in flipped(recording.flight):
        responder = End(recording.responder())
        responder.read(spoiled)
        answer = responder.write()
        if answer[:1] == bytes([FrameType.SYN_ACK]):
            assert not recording.suite.pattern.psk, f"byte {i}: the key did not open it, and it was answered"
            initiator = calling(recording)
            assert initiator.read(answer) == [], f"byte {i}"
            assert isinstance(initiator.error, GreetingRefused), f"byte {i}"
            assert initiator.write() == ABORTED, f"byte {i}"
            responder.read(ABORTED)
            assert responder.events == [SynReceived(recording.suite), Rejected(AlertCode.ABORTED, False)]
        else:
            responder.read(eof=True)
            assert responder.error is not None, f"byte {i}"
            assert responder.events == [], f"byte {i}"
            assert answer[:1] in (b"", bytes([FrameType.ALERT])), f"byte {i}"


def test_a_changed_byte_of_syn_ack_is_never_accepted(recording: Recording, flipped: Flip) -> None:
    for i, spoiled in flipped(recording.syn_ack):
        initiator = calling(recording)
        assert initiator.read(spoiled, eof=True) == [], f"byte {i}"
        assert initiator.error is not None, f"byte {i}"
        in_body = i >= 3
        assert initiator.write() in ((ABORTED,) if in_body else (ABORTED, b"")), f"byte {i}"
        if in_body:
            assert isinstance(initiator.error, GreetingRefused)
            assert initiator.error.reason is AlertCode.HANDSHAKE_FAILED, f"byte {i}"


def test_a_changed_byte_of_ack_is_never_accepted(recording: Recording, flipped: Flip) -> None:
    """All of these look the same from outside, whichever part of the message they are in."""
    for i, spoiled in flipped(recording.ack):
        responder = answering(recording)
        assert responder.read(spoiled, eof=True) == [], f"byte {i}"
        assert responder.error is not None, f"byte {i}"
        answer = responder.write()
        if i >= 3:
            assert answer == HANDSHAKE_FAILED, f"byte {i}"
        else:
            assert answer[:1] in (b"", bytes([FrameType.ALERT])), f"byte {i}"


def test_a_changed_byte_of_the_verdict_is_never_accepted(recording: Recording, flipped: Flip) -> None:
    for i, spoiled in flipped(recording.verdict):
        initiator = awaiting_verdict(recording)
        assert initiator.read(spoiled, eof=True) == [], f"byte {i}"
        assert isinstance(initiator.error, RemoteProtocolError), f"byte {i}"
        assert not isinstance(initiator.error, GreetingRefused), f"byte {i}"
        assert initiator.write() == b"", f"byte {i}"


def test_a_changed_byte_of_a_record_is_fatal(recording: Recording, flipped: Flip) -> None:
    (frame,) = (unhex(r["frame"]) for r in recording.records if r["type"] == "DATA" and r["from"] == "initiator")
    for i, spoiled in flipped(frame):
        responder = opened(recording, RESPONDER)
        assert responder.read(spoiled, eof=True) == [], f"byte {i}"
        assert responder.error is not None, f"byte {i}"
        assert responder.error.reason is CloseCode.PROTOCOL, f"byte {i}"
        said = records_in(responder.write(), recording.reader(RESPONDER, n=1))
        assert said == [(RecordType.CLOSE, Close(CloseCode.PROTOCOL).encode())], f"byte {i}"


@pytest.mark.parametrize(
    ("begin", "message"),
    [
        (lambda recording: End(recording.responder()), "flight"),
        (calling, "syn_ack"),
        (answering, "ack"),
        (awaiting_verdict, "verdict"),
    ],
    ids=["preface-and-syn", "syn-ack", "ack", "verdict"],
)
def test_a_greeting_that_is_cut_anywhere_ends_in_silence(
    recording: Recording, begin: Callable[[Recording], End], message: str
) -> None:
    """ "End of stream within the greeting ends it in silence", and it is never taken for a whole one."""
    data: bytes = getattr(recording, message)
    for cut in range(len(data)):
        end = begin(recording)
        before = list(end.events)
        assert end.read(data[:cut]) == [], f"cut at {cut}"
        assert end.error is None, f"cut at {cut}"
        assert end.read(eof=True) == [], f"cut at {cut}"
        assert isinstance(end.error, Truncated | ForeignProtocol), f"cut at {cut}"
        assert end.events == before
        assert end.write() == b"", f"cut at {cut}"
        assert end.session.state is State.ENDED


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"", Truncated),
        (b"\xf0\x9f", Truncated),
        (b"\xf0\x9f\xa4\x9d\x01", Truncated),
        (RECORDINGS["0x0001-a"].flight[:-1], Truncated),
        (b"GE", ForeignProtocol),
        (b"\xf0\x9f\xa5", ForeignProtocol),
    ],
)
def test_a_dialer_who_hangs_up_in_the_magic_is_foreign_only_if_it_is_another(
    said: bytes, error: type[RemoteProtocolError]
) -> None:
    end = End(RECORDINGS["0x0001-a"].responder())
    end.read(said, eof=True)
    assert type(end.error) is error
    assert end.write() == b""


@pytest.mark.parametrize("role", Role)
def test_a_session_that_is_cut_anywhere_is_an_error_and_never_a_clean_end(
    recording: Recording, role: Role
) -> None:
    """End of stream without CLOSE is truncation, between two records as well as within one."""
    theirs = [r for r in recording.records[1:] if r["from"] == role.other.value]
    frames = [unhex(record["frame"]) for record in theirs]
    assert [record["type"] for record in theirs] == ["DATA", "CLOSE"]
    for cut in range(sum(map(len, frames))):
        end = opened(recording, role)
        end.read(b"".join(frames)[:cut], eof=True)
        assert isinstance(end.error, Truncated), f"cut at {cut}"
        assert end.error.reason is CloseCode.PROTOCOL
        whole_data = cut >= len(frames[0])
        assert end.events == ([DataReceived(unhex(theirs[0]["content"]))] if whole_data else [])
        said = records_in(end.write(), recording.reader(role, n=1 if role is RESPONDER else 0))
        assert said == [(RecordType.CLOSE, Close(CloseCode.PROTOCOL).encode())], f"cut at {cut}"


def test_a_breach_is_raised_again_at_each_later_call(recording: Recording) -> None:
    session = recording.responder()
    session.receive_data(b"GET / HTTP/1.1\r\n")
    raised = []
    for _ in range(3):
        with pytest.raises(ForeignProtocol) as caught:
            session.next_event()
        raised.append(caught.value)
        session.receive_data(recording.flight)
    assert raised[0] is raised[1] is raised[2]
    assert raised[0].protocol == "HTTP"
    assert session.data_to_send() == b""


def test_bytes_behind_the_end_are_not_kept(recording: Recording) -> None:
    refused = calling(recording)
    refused.read(WRONG_NETWORK)
    broken = opened(recording, RESPONDER)
    broken.read(bytes(100_000))
    for end in (refused, broken):
        end.read(bytes(100_000))
        assert end.session._inbox == b""
    assert refused.error is None


@pytest.mark.parametrize(
    ("data", "protocol"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "HTTP"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "TLS"),
        (b"220 mail.example ESMTP\r\n", None),
        (b"\x00\x00\x00\x00", None),
    ],
)
def test_an_answer_of_another_protocol_is_named_however_it_arrives(
    recording: Recording, data: bytes, protocol: str | None
) -> None:
    for parts in ([data], [data[i : i + 1] for i in range(len(data))]):
        initiator = calling(recording)
        for part in parts:
            initiator.read(part)
        assert isinstance(initiator.error, ForeignProtocol)
        assert initiator.error.protocol == protocol
        assert initiator.write() == b""


@pytest.mark.parametrize("data", [b"H", b"HTT", b"SSH", b"\x15"])
def test_the_beginning_of_another_protocol_and_then_the_end_is_foreign(recording: Recording, data: bytes) -> None:
    initiator = calling(recording)
    initiator.read(data)
    assert initiator.error is None  # more could tell which
    initiator.read(eof=True)
    assert isinstance(initiator.error, ForeignProtocol)


@pytest.mark.parametrize(
    ("frame", "foreign"),
    [
        (b"\x7f\x00\x00", True),
        (b"\x7f\x00\x42", True),
        (b"\x00", True),
        (b"\x01", False),
        (b"\x03", False),
        (b"\x10", False),
        (b"\x02\x00\x00", False),
        (b"\x02\xff\xff", False),
    ],
    ids=["alert-empty", "alert-long", "unknown", "syn", "ack", "record", "syn-ack-short", "syn-ack-long"],
)
def test_a_first_frame_is_judged_by_its_type_and_its_length_before_its_body(
    recording: Recording, frame: bytes, foreign: bool
) -> None:
    initiator = calling(recording)
    initiator.read(frame)
    assert isinstance(initiator.error, ForeignProtocol) is foreign
    assert initiator.error is not None
    assert initiator.write() == b""


MALFORMED = bytes.fromhex("7f000101")


@pytest.mark.parametrize("frame", [b"\x00", b"\x10", b"\x03", b"\x01\xff\xff", b"\x01\x00\x00"], ids=bytes.hex)
def test_a_frame_instead_of_syn_is_malformed_before_its_body_is_there(recording: Recording, frame: bytes) -> None:
    end = End(recording.responder())
    end.read(recording.flight[: -3 - recording.suite.syn] + frame)
    assert end.write() == MALFORMED


@pytest.mark.parametrize("frame", [b"\x00", b"\x10", b"\x01", b"\x03\xff\xff", b"\x03\x00\x00"], ids=bytes.hex)
def test_a_frame_instead_of_ack_is_malformed_before_its_body_is_there(recording: Recording, frame: bytes) -> None:
    end = answering(recording)
    end.read(frame)
    assert end.write() == MALFORMED


@pytest.mark.parametrize("frame", [b"\x00", b"\x01", b"\x02", b"\x7f\x00\x00", b"\x10\x00\x0f"], ids=bytes.hex)
def test_a_frame_instead_of_the_verdict_is_no_response(recording: Recording, frame: bytes) -> None:
    end = awaiting_verdict(recording)
    end.read(frame)
    assert end.error is not None
    assert not isinstance(end.error, GreetingRefused | ForeignProtocol)
    assert end.write() == b""


@pytest.mark.parametrize("type_", [RecordType.DATA, RecordType.CLOSE, RecordType.PING])
def test_a_first_record_that_is_no_verdict_is_no_response(recording: Recording, type_: RecordType) -> None:
    content = {RecordType.DATA: b"data", RecordType.CLOSE: Close().encode(), RecordType.PING: bytes(9)}[type_]
    initiator = awaiting_verdict(recording)
    assert initiator.read(recording.writer(RESPONDER).encode(type_, content)) == []
    assert f"the first record is {type_.name}, not VERDICT" in str(initiator.error)
    assert initiator.write() == b""


@pytest.mark.parametrize("data", [b"G", b"SSH", b"\x00"])
def test_a_few_bytes_that_are_no_magic_and_then_the_end_are_foreign(data: bytes) -> None:
    end = End(Session.responder(Identity.generate(), CLASSICAL_ONLY, now=NOW))
    end.read(data)
    assert end.error is None
    end.read(eof=True)
    assert isinstance(end.error, ForeignProtocol)
    assert end.write() == b""


def test_no_byte_at_all_is_truncated_and_not_foreign(pair: Pair) -> None:
    for end in (pair.initiator, pair.responder):
        end.read(eof=True)
        assert isinstance(end.error, Truncated)


# --- reflection and replay ------------------------------------------------------------------------------


def test_an_initiator_is_not_answered_by_its_own_bytes(recording: Recording) -> None:
    syn = recording.flight[-(3 + recording.suite.syn) :]
    for echo in (recording.flight, syn, bytes([FrameType.SYN_ACK]) + syn[1:], recording.ack):
        initiator = calling(recording)
        assert initiator.read(echo, eof=True) == []
        assert initiator.error is not None
        assert not isinstance(initiator.error, GreetingRefused)


def test_a_responder_is_not_answered_by_its_own_bytes(recording: Recording) -> None:
    relabelled = bytes([FrameType.ACK]) + recording.syn_ack[1:]
    for echo, answer in ((recording.syn_ack, bytes.fromhex("7f000101")), (relabelled, HANDSHAKE_FAILED)):
        responder = answering(recording)
        assert responder.read(echo) == []
        assert responder.error is not None
        assert responder.write() == answer


def test_a_record_that_comes_back_does_not_open(open_pair: Pair) -> None:
    initiator = open_pair.initiator
    initiator.session.send(b"echo")
    initiator.read(initiator.write())
    assert initiator.events == []
    assert initiator.error is not None
    assert "does not decrypt" in str(initiator.error)


def test_a_verdict_that_comes_back_does_not_open(recording: Recording) -> None:
    responder = opened(recording, RESPONDER)
    responder.read(recording.verdict)
    assert "does not decrypt" in str(responder.error)


def test_a_record_that_is_repeated_left_out_or_overtaken_is_fatal(open_pair: Pair) -> None:
    writer = open_pair.initiator
    frames = []
    for text in (b"one", b"two", b"three"):
        writer.session.send(text)
        frames.append(writer.write())
    reader = open_pair.responder
    assert reader.read(frames[0]) == [DataReceived(b"one")]
    reader.read(frames[2])
    assert "does not decrypt" in str(reader.error)
    assert reader.session.state is State.ENDED


def test_a_recorded_greeting_cannot_be_played_to_a_responder_again(recording: Recording) -> None:
    """Its ephemeral key is fresh, so the old ACK does not open."""
    responder = End(recording.responder(ephemeral=None))
    responder.read(recording.flight)
    assert responder.write() != recording.syn_ack
    assert responder.read(recording.ack) == []
    assert responder.write() == HANDSHAKE_FAILED


@pytest.mark.parametrize("role", Role)
def test_a_stolen_static_key_and_an_old_greeting_make_no_impostor(suite: Suite, role: Role) -> None:
    """The signature covers the transcript: what was signed in another greeting is worth nothing in this one."""
    recording = RECORDINGS[f"0x{suite.id:04x}-a"]
    victim = recording.identity[role]
    old = recording.vector["ack" if role is INITIATOR else "syn_ack"]
    profile = replace(recording.profile[role.other], network=network_of(suite), offers=(suite.id,))
    impostor = Hostile(role, suite, static_key=victim.static_key)
    said = {"record": unhex(old["record"]), "signature": unhex(old["signature"])}
    listener = recording.identity[role.other]
    if role is RESPONDER:
        end = End(Session.initiator(listener, profile, now=NOW, expected=victim.id))
        impostor.read_flight(end.write())
    else:
        end = End(Session.responder(listener, profile, now=NOW))
        end.read(impostor.write_flight())
        impostor.read_syn_ack(end.write(), listener.id)
    assert end.read(impostor.greet(**said)) == []
    assert isinstance(end.error, GreetingRefused)
    assert end.error.reason is VerdictCode.BAD_SIGNATURE
    if role is RESPONDER:
        assert end.write() == ABORTED
    else:
        _, reader = impostor.transport()
        assert records_in(end.write(), reader)[0] == (
            RecordType.VERDICT,
            Verdict(VerdictCode.BAD_SIGNATURE).encode(),
        )


# --- networks and their keys ----------------------------------------------------------------------------

KEYS = tuple(bytes([i]) * 32 for i in range(1, 5))


@pytest.fixture(params=[0x0101, 0x0102], ids=["classical", "hybrid"])
def psk_suite(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.mark.parametrize("position", range(4))
def test_a_responder_takes_any_of_its_four_keys(psk_suite: int, position: int) -> None:
    caller = Profile(Network("home", KEYS[position]), offers=(psk_suite,))
    answerer = Profile(Network("home", KEYS), offers=(psk_suite,))
    pair = make_pair(caller, answerer)
    pair.greet()
    assert pair.responder.session.state is State.OPEN


def test_an_initiator_uses_the_first_of_its_keys(psk_suite: int) -> None:
    for keys, state in ((KEYS, State.OPEN), (KEYS[::-1], State.ENDED)):
        caller = Profile(Network("home", keys), offers=(psk_suite,))
        answerer = Profile(Network("home", KEYS[0]), offers=(psk_suite,))
        pair = make_pair(caller, answerer)
        pair.talk()
        if state is State.OPEN:
            pair.greet()
        assert pair.responder.session.state is state


def test_another_key_is_a_failed_handshake(psk_suite: int) -> None:
    pair = make_pair(
        Profile(Network("home", PSK), offers=(psk_suite,)), Profile(Network("home", KEYS), offers=(psk_suite,))
    )
    pair.talk()
    assert pair.responder.sent == HANDSHAKE_FAILED
    assert isinstance(pair.responder.error, GreetingRefused)
    assert pair.responder.error.reason is AlertCode.HANDSHAKE_FAILED
    assert pair.initiator.events == [Rejected(AlertCode.HANDSHAKE_FAILED, False)]


def test_another_name_of_a_private_network_is_a_failed_handshake(psk_suite: int) -> None:
    pair = make_pair(
        Profile(Network("home", PSK), offers=(psk_suite,)), Profile(Network("work", PSK), offers=(psk_suite,))
    )
    pair.talk()
    assert pair.responder.sent == HANDSHAKE_FAILED
    assert pair.initiator.events == [Rejected(AlertCode.HANDSHAKE_FAILED, False)]


def test_a_tag_is_a_failed_handshake_on_a_private_network(psk_suite: int) -> None:
    pair = make_pair(Profile(Network("home", PSK), offers=(psk_suite,)))
    flight = bytearray(pair.initiator.write())
    flight[11] = 1
    pair.responder.read(bytes(flight))
    assert pair.responder.write() == HANDSHAKE_FAILED


@pytest.mark.parametrize("offers", [(1,), (2,)], ids=["classical", "hybrid"])
def test_another_public_network_is_told_so(offers: tuple[int, ...]) -> None:
    pair = make_pair(Profile(Network("theirs"), offers=offers), Profile(Network("ours"), offers=offers))
    pair.talk()
    assert pair.responder.sent == WRONG_NETWORK
    assert pair.initiator.events == [Rejected(AlertCode.WRONG_NETWORK, False)]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(Network("home", PSK), Network("home")), (Network("home"), Network("home", PSK))],
    ids=["private-responder", "public-responder"],
)
def test_there_is_no_fallback_between_private_and_public(ours: Network, theirs: Network) -> None:
    pair = make_pair(Profile(theirs), Profile(ours))
    pair.talk()
    enabled = tuple(suite.id for suite in Profile(ours).suites)
    assert pair.initiator.events == [Rejected(AlertCode.UNSUPPORTED_SUITE, False, suites=enabled)]
    assert pair.responder.session.state is State.ENDED


def test_two_networks_whose_tags_collide_do_not_meet() -> None:
    """The tag is 8 bytes; the name itself is bound into Noise."""
    ours, theirs = Network("ours"), Network("theirs")
    pair = make_pair(Profile(theirs, offers=(1,)), Profile(ours, offers=(1,)))
    flight = pair.initiator.write().replace(theirs.tag, ours.tag)
    pair.responder.read(flight)
    pair.initiator.read(pair.responder.write())
    assert isinstance(pair.initiator.error, GreetingRefused)
    assert pair.initiator.error.reason is AlertCode.HANDSHAKE_FAILED


QUIET = Profile(Network("home", PSK, quiet=True))


def quiet_responder() -> End:
    return End(Session.responder(Identity.generate(), QUIET, now=NOW))


def flight_to(network: Network) -> bytes:
    return Session.initiator(Identity.generate(), Profile(network), now=NOW).data_to_send()


@pytest.mark.parametrize(
    "flight",
    [
        flight_to(Network("home", KEYS[0])),
        flight_to(Network("work", PSK)),
        flight_to(Network("home")),
        b"GET / HTTP/1.1\r\n",
        flight_to(Network("home", PSK))[:4] + b"\x02\x02",
        flight_to(Network("home", PSK))[:8] + b"\x00\x00\x00",
        flight_to(Network("home", PSK))[:23] + b"\x02",
        flight_to(Network("home", PSK))[:23] + b"\x01\xff\xff",
        b"",
    ],
    ids=["key", "name", "public", "http", "version", "offers", "frame-type", "frame-length", "nothing"],
)
def test_a_quiet_responder_says_nothing_before_the_key_has_opened_the_syn(flight: bytes) -> None:
    end = quiet_responder()
    end.read(flight, eof=True)
    assert end.error is not None
    assert end.write() == b""


@pytest.mark.parametrize("code", [AlertCode.BUSY, AlertCode.TIMEOUT, AlertCode.GOING_AWAY])
@pytest.mark.parametrize("heard", [b"", b"\xf0\x9f\xa4\x9d\x01"], ids=["nothing", "the-magic"])
def test_a_quiet_responder_refuses_without_a_word(code: AlertCode, heard: bytes) -> None:
    end = quiet_responder()
    end.read(heard)
    end.session.refuse(code, retry_after=5 if code is AlertCode.BUSY else None)
    assert end.write() == b""
    assert end.session.state is State.ENDED


@pytest.mark.parametrize("network", [Network("home"), Network("home", PSK, quiet=True)], ids=["open", "quiet"])
def test_what_was_told_is_what_was_sent(network: Network) -> None:
    end = End(Session.responder(Identity.generate(), Profile(network), now=NOW))
    end.read(flight_to(Network("work")))
    assert end.error is not None
    sent = frames_in(end.write())
    assert (end.session.told is None) == (sent == [])
    assert [type_ for type_, _ in sent] == ([] if network.quiet else [FrameType.ALERT])


@pytest.mark.parametrize(
    ("code", "heard", "told"),
    [
        (AlertCode.BUSY, b"", AlertCode.BUSY),
        (AlertCode.TIMEOUT, b"", None),
        (AlertCode.TIMEOUT, b"\xf0\x9f\xa4", None),
        (AlertCode.TIMEOUT, b"\xf0\x9f\xa4\x9d", AlertCode.TIMEOUT),
    ],
)
def test_nothing_was_told_to_who_has_not_said_the_magic(
    code: AlertCode, heard: bytes, told: AlertCode | None
) -> None:
    end = End(Session.responder(Identity.generate(), Profile(Network("home")), now=NOW))
    end.read(heard)
    end.session.refuse(code)
    assert end.session.told is told
    assert bool(end.write()) == (told is not None)


FLIGHT_HOME = flight_to(Network("home"))
SYN_BODY = 19 + 2 * 2 + 3
"""Where it begins: behind the preface, with its two offers, and the header of a frame."""


@pytest.mark.parametrize("split", [0, 1, 23, 26, 33, 34, 100])
def test_a_responder_knows_the_greeting_once_its_syn_is_there(split: int) -> None:
    """Preface and SYN may come in parts; before the whole SYN there need be no name."""
    end, flight = End(Session.responder(Identity.generate(), Profile(Network("home")), now=NOW)), FLIGHT_HOME
    end.read(flight[:split])
    assert end.session.greeting_id in (None, flight[SYN_BODY : SYN_BODY + 8])
    end.read(flight[split:])
    assert end.session.greeting_id == flight[SYN_BODY : SYN_BODY + 8]
    assert End(Session.responder(Identity.generate(), QUIET, now=NOW)).session.greeting_id is None


@pytest.mark.parametrize(
    "behind",
    [b"", b"\x01", b"\x01\x00\x60" + bytes(7), b"\x7f\x00\x08" + bytes(8)],
    ids=["nothing", "a type", "too little of it", "no SYN"],
)
def test_without_the_beginning_of_a_syn_a_greeting_that_is_refused_has_no_name(behind: bytes) -> None:
    end = End(Session.responder(Identity.generate(), Profile(Network("work")), now=NOW))
    end.read(FLIGHT_HOME[: SYN_BODY - 3] + behind)
    assert end.error is not None
    assert end.session.greeting_id is None


def test_a_quiet_responder_speaks_to_who_has_the_key() -> None:
    pair = make_pair(Profile(Network("home", PSK)), QUIET)
    pair.greet()
    assert pair.initiator.session.state is State.OPEN
    pair = make_pair(Profile(Network("home", PSK)), QUIET)
    pair.talk()
    pair.responder.read(encode_frame(FrameType.ACK, bytes(64 + 256)))
    assert pair.responder.write() == HANDSHAKE_FAILED


# --- who it is, and who it should be --------------------------------------------------------------------


def test_somebody_else_who_answers_learns_nothing_of_who_called(profile: Profile) -> None:
    caller, somebody_else, expected = (Identity.generate() for _ in range(3))
    pair = make_pair(profile, who_calls=caller, who_answers=somebody_else, expected=expected.id)
    flight = pair.initiator.write()
    pair.responder.read(flight)
    pair.initiator.read(pair.responder.write())
    error = pair.initiator.error
    assert isinstance(error, UnexpectedIdentity)
    assert (error.expected, error.actual) == (expected.id, somebody_else.id)
    assert kinds(pair.initiator.events) == []
    assert pair.initiator.write() == ABORTED
    assert pair.initiator.sent == flight + ABORTED
    assert caller.id.key not in pair.initiator.sent
    assert caller.static_key.public not in pair.initiator.sent
    assert pair.responder.read(ABORTED) == [Rejected(AlertCode.ABORTED, False)]


def test_whom_we_expected_is_taken(profile: Profile) -> None:
    answerer = Identity.generate()
    pair = make_pair(profile, who_answers=answerer, expected=answerer.id)
    pair.greet()
    assert pair.initiator.session.state is State.OPEN


def test_our_own_dial_fails_on_the_wire_as_any_other(profile: Profile) -> None:
    """Else a stranger could ask, with a SYN that he has seen, whose it was."""
    told: list[bytes] = []

    def is_own_dial(ephemeral_key: bytes) -> bool:
        told.append(ephemeral_key)
        return True

    pair = make_pair(profile, is_own_dial=is_own_dial)
    pair.talk()
    assert told == [pair.initiator.session.ephemeral_key]
    assert isinstance(pair.responder.error, GreetingRefused)
    assert pair.responder.error.reason is VerdictCode.SELF
    assert pair.responder.sent == HANDSHAKE_FAILED
    assert pair.responder.events == []
    assert pair.initiator.events == [Rejected(AlertCode.HANDSHAKE_FAILED, False)]


def test_a_dial_to_the_same_identity_is_a_dial_to_ourselves(profile: Profile) -> None:
    seed = bytes(range(32))
    for other in (Identity.from_seed(seed), None):  # another process of ours, and this one
        ourselves = Identity.from_seed(seed)
        pair = make_pair(profile, who_calls=ourselves, who_answers=other or ourselves)
        pair.talk()
        assert isinstance(pair.initiator.error, GreetingRefused)
        assert pair.initiator.error.reason is VerdictCode.SELF
        assert bytes(pair.initiator.sent).endswith(ABORTED)
        assert pair.responder.events[-1] == Rejected(AlertCode.ABORTED, False)


def test_a_responder_that_is_called_by_its_own_identity_says_so_in_its_verdict(suite: Suite) -> None:
    ourselves = Identity.generate()
    hostile = Hostile(INITIATOR, suite, identity=ourselves, static_key=KeyPair())
    end = End(Session.responder(ourselves, Profile(network_of(suite), offers=(suite.id,)), now=NOW))
    end.read(hostile.write_flight())
    hostile.read_syn_ack(end.write(), ourselves.id)
    end.read(hostile.greet())
    _, reader = hostile.transport()
    assert records_in(end.write(), reader) == [
        (RecordType.VERDICT, Verdict(VerdictCode.SELF).encode()),
        (RecordType.CLOSE, Close().encode()),
    ]


# --- suites and versions --------------------------------------------------------------------------------

BOTH_SUITES = Profile(offers=(HYBRID.id, CLASSICAL.id))


def test_the_best_suite_of_the_initiator_is_attempted() -> None:
    for offers, suite in (((2, 1), HYBRID), ((1, 2), CLASSICAL), ((0x4A4A, 1), CLASSICAL)):
        pair = make_pair(Profile(offers=offers), BOTH_SUITES)
        pair.greet()
        assert pair.initiator.session.suite is pair.responder.session.suite is suite


def test_a_responder_without_the_suite_names_those_it_has() -> None:
    pair = make_pair(BOTH_SUITES, CLASSICAL_ONLY)
    pair.talk()
    assert pair.initiator.events == [Rejected(AlertCode.UNSUPPORTED_SUITE, False, suites=(CLASSICAL.id,))]


def test_a_second_try_with_a_lower_suite_passes_where_the_better_one_is_not_there() -> None:
    pair = make_pair(BOTH_SUITES, CLASSICAL_ONLY, suite=CLASSICAL.id)
    pair.greet()
    assert pair.initiator.session.suite is CLASSICAL


def test_a_second_try_with_a_lower_suite_is_a_downgrade_where_the_better_one_is_there() -> None:
    """So a forged ALERT UNSUPPORTED_SUITE gains nothing: the offers stay, and both sides see it."""
    pair = make_pair(BOTH_SUITES, BOTH_SUITES, suite=CLASSICAL.id)
    pair.talk()
    assert isinstance(pair.initiator.error, GreetingRefused)
    assert pair.initiator.error.reason is VerdictCode.DOWNGRADE
    assert bytes(pair.initiator.sent).endswith(ABORTED)


@pytest.mark.parametrize("suite", [CLASSICAL.id, 0x0102, 0x4A4A], ids=["not-enabled", "psk", "unknown"])
def test_a_suite_that_is_not_among_our_offers_cannot_be_attempted(suite: int) -> None:
    """ "offers MUST hold suite" (section 3)."""
    with pytest.raises(ValueError, match="not among the offers"):
        make_pair(Profile(offers=(HYBRID.id, 0x4A4A)), suite=suite)


def test_a_higher_version_max_is_no_obstacle() -> None:
    pair = make_pair(replace(CLASSICAL_ONLY, versions=(1, 3)), CLASSICAL_ONLY)
    assert pair.initiator.write()[4:6] == b"\x01\x03"
    pair = make_pair(replace(CLASSICAL_ONLY, versions=(1, 3)), CLASSICAL_ONLY)
    pair.greet()
    assert pair.initiator.session.state is State.OPEN


def test_version_1_is_a_downgrade_where_both_speak_a_higher_one() -> None:
    future = replace(CLASSICAL_ONLY, versions=(1, 3))
    pair = make_pair(future, future)
    pair.talk()
    assert isinstance(pair.initiator.error, GreetingRefused)
    assert pair.initiator.error.reason is VerdictCode.DOWNGRADE


def test_a_responder_of_a_later_version_names_the_versions_that_it_speaks() -> None:
    end = End(Session.responder(Identity.generate(), replace(CLASSICAL_ONLY, versions=(1, 3)), now=NOW))
    end.read(b"\xf0\x9f\xa4\x9d\x04")
    assert end.write() == bytes.fromhex("7f0003020103")


def test_an_extension_and_unknown_keys_are_no_obstacle(profile: Profile) -> None:
    spoken = replace(profile, ext=bytes(256), extra={"later": [1, {"k": b"v"}]})
    pair = make_pair(spoken, profile)
    pair.identify_initiator()
    identified = pair.responder.events[-1]
    assert isinstance(identified, PeerIdentified)
    assert identified.greeting.extra == {"later": [1, {"k": b"v"}]}


# --- refusing before the other side is known ------------------------------------------------------------


def responder_that_heard(data: bytes) -> End:
    end = End(RECORDINGS["0x0001-a"].responder())
    end.read(data)
    end.write()
    return end


FLIGHT = RECORDINGS["0x0001-a"].flight
HEARD = [b"", FLIGHT[:3], FLIGHT[:4], FLIGHT[:20], FLIGHT]
ALERTS = {
    AlertCode.BUSY: bytes.fromhex("7f000105"),
    AlertCode.TIMEOUT: bytes.fromhex("7f000107"),
    AlertCode.GOING_AWAY: bytes.fromhex("7f000108"),
}


@pytest.mark.parametrize("heard", HEARD, ids=["nothing", "3-bytes", "the-magic", "preface", "syn"])
@pytest.mark.parametrize("code", ALERTS)
def test_a_refusal_is_sent_once_the_magic_was_read_and_busy_at_any_time(code: AlertCode, heard: bytes) -> None:
    end = responder_that_heard(heard)
    end.session.refuse(code)
    silent = len(heard) < 4 and code is not AlertCode.BUSY
    assert end.write() == (b"" if silent else ALERTS[code])
    assert end.session.state is State.ENDED
    assert end.read(FLIGHT) == []
    assert end.error is None


def test_busy_says_when_to_come_back(pair: Pair) -> None:
    pair.responder.session.refuse(AlertCode.BUSY, retry_after=30)
    pair.talk()
    assert pair.responder.sent == bytes.fromhex("7f000305001e")
    assert pair.initiator.events == [Rejected(AlertCode.BUSY, False, retry_after=30)]
    assert pair.initiator.session.state is State.ENDED


def test_no_alert_but_busy_says_when_to_come_back() -> None:
    """HANDSHAKE_FAILED has a detail "never" (section 8), so that every failure looks the same."""
    end = responder_that_heard(FLIGHT)
    with pytest.raises(ValueError, match="only BUSY"):
        end.session.refuse(AlertCode.HANDSHAKE_FAILED, retry_after=30)
    assert end.session.state is State.AWAIT_ACK
    assert end.write() == b""


def test_a_forged_alert_is_only_a_rejection_that_nobody_vouches_for(recording: Recording) -> None:
    for end in (calling(recording), awaiting_verdict(recording)):
        assert end.read(bytes.fromhex("7f000104")) == [Rejected(AlertCode.WRONG_NETWORK, False)]
        assert end.write() == b""


def test_an_alert_is_never_answered_by_an_alert(recording: Recording) -> None:
    for alert in (ABORTED, bytes.fromhex("7f0000"), bytes.fromhex("7f0042") + bytes(66), b"\x7f\x00\x01\xff"):
        end = answering(recording)
        end.read(alert, eof=True)
        assert end.session.state is State.ENDED
        assert end.write() == b""


def test_an_alert_is_a_breach_once_the_session_is_open(recording: Recording) -> None:
    for role in Role:
        end = opened(recording, role)
        assert end.read(HANDSHAKE_FAILED) == []
        assert "ALERT arrived while open" in str(end.error)


# --- deciding -------------------------------------------------------------------------------------------

REASONS = [*(code for code in VerdictCode if code is not VerdictCode.READY), 0x8000, 0x8001, 0xFFFF, 0x0399]


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: getattr(reason, "name", reason))
def test_a_rejection_is_told_with_its_reason(reason: VerdictCode | int) -> None:
    pair = make_pair(CLASSICAL_ONLY)
    pair.identify_initiator()
    pair.responder.session.reject(reason, text="för alltid", retry_after=7, seen="192.0.2.7:4711")
    pair.talk()
    assert pair.initiator.events[-1] == Rejected(reason, True, "för alltid", 7, "192.0.2.7:4711")
    for end in (pair.initiator, pair.responder):
        assert end.session.state is State.ENDED
        assert end.error is None
        assert end.read(eof=True) == []


def test_a_rejected_initiator_says_nothing_more_and_hears_nothing_more(pair: Pair) -> None:
    pair.identify_initiator()
    sent = bytes(pair.initiator.sent)
    pair.responder.session.reject()
    pair.talk()
    assert pair.initiator.sent == sent
    assert pair.initiator.read(b"\x10\x00\x10" + bytes(16)) == []
    assert pair.initiator.error is None
    with pytest.raises(LocalProtocolError):
        pair.initiator.session.send(b"but")


def test_a_rejecting_initiator_says_only_that_it_has_aborted(pair: Pair) -> None:
    pair.identify_responder()
    pair.initiator.session.reject(VerdictCode.IDENTITY_BLOCKED, text="never sent")
    flight = bytes(pair.initiator.sent)
    pair.talk()
    assert pair.initiator.sent == flight + ABORTED
    assert pair.responder.events[-1] == Rejected(AlertCode.ABORTED, False)


def test_a_peer_that_is_not_accepted_yet_sees_no_verdict_and_no_data(pair: Pair) -> None:
    pair.identify_initiator()
    assert pair.responder.write() == b""
    assert pair.initiator.session.next_event() is Wait.NEED_DATA
    for end in (pair.initiator, pair.responder):
        with pytest.raises(LocalProtocolError):
            end.session.send(b"too early")


@pytest.mark.parametrize("ready", [VerdictCode.READY, 0], ids=["code", "number"])
def test_ready_is_no_reason_to_reject(ready: VerdictCode | int) -> None:
    """The number 0 was once sent: the initiator was told READY, and then nobody was there."""
    pair = make_pair(CLASSICAL_ONLY)
    pair.identify_initiator()
    with pytest.raises(LocalProtocolError, match="call accept"):
        pair.responder.session.reject(ready)
    assert pair.responder.session.next_event() is Wait.PAUSED
    assert pair.responder.write() == b""


@pytest.mark.parametrize(
    ("reason", "said"),
    [(0x10000, {}), (-1, {}), (VerdictCode.POLICY, {"text": "t" * 257}), (VerdictCode.POLICY, {"seen": "s" * 65})],
    ids=["reason-65536", "reason-negative", "text", "seen"],
)
def test_a_rejection_that_cannot_be_sent_leaves_the_session_undecided(reason: int, said: Any) -> None:
    pair = make_pair(CLASSICAL_ONLY)
    pair.identify_initiator()
    with pytest.raises(ValueError, match="cannot be sent"):
        pair.responder.session.reject(reason, **said)
    assert pair.responder.write() == b""
    assert pair.responder.session.next_event() is Wait.PAUSED


@pytest.mark.parametrize("said", [{"text": "t" * 257}, {"seen": "s" * 65}], ids=["text", "seen"])
def test_an_acceptance_that_cannot_be_sent_leaves_the_session_undecided(said: dict[str, str]) -> None:
    """It once left a session that was open, and had sent no VERDICT."""
    pair = make_pair(CLASSICAL_ONLY)
    pair.identify_initiator()
    with pytest.raises(ValueError, match="cannot be sent"):
        pair.responder.session.accept(**said)
    assert pair.responder.session.next_event() is Wait.PAUSED
    assert pair.responder.write() == b""


# --- optimistic data ------------------------------------------------------------------------------------


def optimistic(recording: Recording) -> tuple[bytes, RecordWriter]:
    """Two records right behind the ACK, and what would write the third."""
    writer = recording.writer(INITIATOR)
    return b"".join(writer.encode(RecordType.DATA, text) for text in (b"one", b"two")), writer


def test_optimistic_data_is_delivered_after_the_peer_was_accepted(recording: Recording) -> None:
    records, writer = optimistic(recording)
    end = answering(recording)
    assert kinds(end.read(recording.ack + records)) == [PeerIdentified]
    assert end.read(writer.encode(RecordType.DATA, b"three")) == []
    end.session.accept()
    assert end.read() == [DataReceived(text) for text in (b"one", b"two", b"three")]


def test_optimistic_data_of_a_rejected_peer_is_never_seen(recording: Recording) -> None:
    records, writer = optimistic(recording)
    end = answering(recording)
    end.read(recording.ack + records)
    end.session.reject()
    assert end.read(writer.encode(RecordType.DATA, b"three"), eof=True) == []
    assert end.error is None
    assert records_in(end.write(), recording.reader(RESPONDER)) == [
        (RecordType.VERDICT, Verdict(VerdictCode.POLICY).encode()),
        (RecordType.CLOSE, Close().encode()),
    ]


def test_what_comes_behind_the_ack_is_not_even_decrypted_before_the_verdict(recording: Recording) -> None:
    end = answering(recording)
    end.read(recording.ack + b"\x10\x00\x10" + bytes(16))
    assert end.error is None
    end.session.accept()
    assert end.write() == recording.verdict
    end.read()
    assert "does not decrypt" in str(end.error)


def test_data_of_a_peer_whose_greeting_was_refused_is_never_seen(recording: Recording) -> None:
    """The records behind a bad ACK are good, and belong to nobody."""
    end = answering(recording)
    records, _ = optimistic(recording)
    spoiled = recording.ack[:-1] + bytes([recording.ack[-1] ^ 1])
    assert end.read(spoiled + records) == []
    assert end.events == [SynReceived(recording.suite)]
    assert end.write() == HANDSHAKE_FAILED


def accepting(recording: Recording) -> End:
    """An initiator whose application has said yes, and wants to send before the verdict."""
    end = calling(recording)
    end.read(recording.syn_ack)
    end.session.accept(optimistic=True)
    return end


def test_an_initiator_may_send_right_behind_its_ack(recording: Recording) -> None:
    end = accepting(recording)
    end.session.send(b"one")
    end.session.send(b"two")
    sent = end.write()
    assert sent.startswith(recording.ack)
    assert records_in(sent[len(recording.ack) :], recording.reader(INITIATOR)) == [
        (RecordType.DATA, b"one"),
        (RecordType.DATA, b"two"),
    ]


def test_what_goes_before_the_verdict_is_the_first_that_the_responder_reads(pair: Pair) -> None:
    pair.identify_responder()
    pair.initiator.session.accept(optimistic=True)
    pair.initiator.session.send(b"one")
    pair.talk()
    assert DataReceived(b"one") not in pair.responder.events
    pair.responder.session.accept()
    pair.talk()
    assert pair.responder.read() == []
    assert pair.responder.events[-1] == DataReceived(b"one")
    pair.initiator.session.send(b"two")
    pair.talk()
    assert pair.responder.events[-1] == DataReceived(b"two")


def test_before_the_verdict_16_kib_of_records_may_go_and_no_byte_more(recording: Recording) -> None:
    """A record is 20 bytes longer than what it carries."""
    end = accepting(recording)
    end.session.send(bytes(10_000))
    with pytest.raises(ValueError, match="6345 bytes before the verdict, and 6344 may still go"):
        end.session.send(bytes(16 * 1024 - 10_020 - 20 + 1))
    end.session.send(bytes(16 * 1024 - 10_020 - 20))
    assert len(end.write()) == len(recording.ack) + 16 * 1024
    end.read(recording.verdict)
    end.session.send(bytes(100_000))  # it is open now


@pytest.mark.parametrize(
    "send", [lambda s: s.finish(), lambda s: s.close(CloseCode.IDLE), lambda s: s.ping(bytes(8))]
)
def test_nothing_but_data_goes_before_the_verdict(recording: Recording, send: Callable[[Session], None]) -> None:
    with pytest.raises(LocalProtocolError, match="waiting for VERDICT"):
        send(accepting(recording).session)


def test_after_a_rejection_nothing_more_may_be_sent(recording: Recording) -> None:
    end = accepting(recording)
    end.read(recording.writer(RESPONDER).encode(RecordType.VERDICT, Verdict(VerdictCode.POLICY).encode()))
    with pytest.raises(LocalProtocolError, match="the session is ended"):
        end.session.send(b"x")


REFUSALS = {
    "verdict": lambda recording: recording.writer(RESPONDER).encode(
        RecordType.VERDICT, Verdict(VerdictCode.POLICY).encode()
    ),
    "alert": lambda _: bytes.fromhex("7f000107"),
    "no verdict": lambda _: b"\x10\x00\x10" + bytes(16),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_was_not_written_yet_when_the_greeting_ended_is_never_sent(
    recording: Recording, refusal: str
) -> None:
    end = accepting(recording)
    end.write()
    end.session.send(b"not written yet")
    end.read(REFUSALS[refusal](recording))
    assert end.session.state is State.ENDED
    assert not end.session.has_data_to_send
    assert end.write() == b""


def test_a_responder_that_has_not_answered_yet_when_the_stream_ends_never_does(recording: Recording) -> None:
    end = End(recording.responder())
    end.read(recording.flight, eof=True)
    assert isinstance(end.error, Truncated)
    assert end.write() == b""


def test_without_being_asked_for_nothing_goes_before_the_verdict(recording: Recording) -> None:
    with pytest.raises(LocalProtocolError, match="waiting for VERDICT"):
        awaiting_verdict(recording).session.send(b"x")


# --- verbs in the wrong state ---------------------------------------------------------------------------

VERBS: dict[str, Callable[[Session], None]] = {
    "accept": lambda session: session.accept(),
    "reject": lambda session: session.reject(),
    "refuse": lambda session: session.refuse(AlertCode.BUSY),
    "send": lambda session: session.send(b"data"),
    "finish": lambda session: session.finish(),
    "close": lambda session: session.close(CloseCode.IDLE),
    "ping": lambda session: session.ping(b"8 bytes!"),
}
DECIDING, SPEAKING = {"accept", "reject"}, {"send", "finish", "close", "ping"}
ORDINARY = RECORDINGS["0x0001-a"]


def speaking(role: Role) -> End:
    """Either side of an open session without streams, in which CLOSE NORMAL is a half-close."""
    pair = make_pair(CLASSICAL_ONLY)
    pair.greet()
    return pair.initiator if role is INITIATOR else pair.responder


def told(end: End, data: bytes) -> End:
    end.read(data)
    return end


def after(end: End, verb: str) -> End:
    VERBS[verb](end.session)
    return end


SITUATIONS: dict[str, tuple[Callable[[], End], set[str]]] = {
    "initiator awaits SYN-ACK": (lambda: calling(ORDINARY), set()),
    "initiator decides": (lambda: told(calling(ORDINARY), ORDINARY.syn_ack), DECIDING),
    "initiator awaits VERDICT": (lambda: awaiting_verdict(ORDINARY), set()),
    "initiator is open": (lambda: opened(ORDINARY, INITIATOR), SPEAKING),
    "initiator was rejected": (lambda: told(calling(ORDINARY), WRONG_NETWORK), set()),
    "initiator has rejected": (lambda: after(told(calling(ORDINARY), ORDINARY.syn_ack), "reject"), set()),
    "responder awaits SYN": (lambda: End(ORDINARY.responder()), {"refuse"}),
    "responder awaits ACK": (lambda: answering(ORDINARY), {"refuse"}),
    "responder decides": (lambda: told(answering(ORDINARY), ORDINARY.ack), DECIDING),
    "responder is open": (lambda: opened(ORDINARY, RESPONDER), SPEAKING),
    "responder has refused": (lambda: after(End(ORDINARY.responder()), "refuse"), set()),
    "responder has rejected": (lambda: after(told(answering(ORDINARY), ORDINARY.ack), "reject"), set()),
    "responder has found a breach": (lambda: told(opened(ORDINARY, RESPONDER), bytes(3)), set()),
    "half-closed": (lambda: after(speaking(INITIATOR), "finish"), {"ping", "close"}),
    "closed": (lambda: after(speaking(INITIATOR), "close"), set()),
    "half-closed, then closed": (lambda: after(after(speaking(RESPONDER), "finish"), "close"), set()),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_verb_in_the_wrong_state_changes_nothing(situation: str, verb: str) -> None:
    begin, allowed = SITUATIONS[situation]
    session = begin().session
    session.data_to_send()
    if verb in allowed:
        VERBS[verb](session)
        assert session.data_to_send()
        return
    before = (session.state, session.sending, session.receiving)
    with pytest.raises(LocalProtocolError, match=r"cannot .*: (the session|our direction) is"):
        VERBS[verb](session)
    assert (session.state, session.sending, session.receiving) == before
    assert session.data_to_send() == b""


@pytest.mark.parametrize("payload", [b"", b"7 bytes", b"nine bytes"])
def test_a_ping_of_another_length_is_not_sent(payload: bytes) -> None:
    end = opened(ORDINARY, INITIATOR)
    with pytest.raises(ValueError, match="8 bytes"):
        end.session.ping(payload)
    assert end.write() == b""


# --- an open session: data ------------------------------------------------------------------------------


def test_data_goes_both_ways(open_pair: Pair) -> None:
    open_pair.initiator.session.send(b"ping")
    open_pair.responder.session.send(b"pong")
    open_pair.talk()
    assert open_pair.responder.events == [DataReceived(b"ping")]
    assert open_pair.initiator.events == [DataReceived(b"pong")]


@pytest.mark.parametrize(
    ("size", "records"), [(0, 0), (1, 1), (65518, 1), (65519, 2), (2 * 65518, 2), (300_000, 5)]
)
def test_a_large_send_becomes_as_many_records_as_it_needs(size: int, records: int) -> None:
    pair = make_pair(CLASSICAL_ONLY)
    pair.greet()
    data = bytes(i % 251 for i in range(size))
    pair.initiator.session.send(data)
    written = pair.initiator.write()
    frames = frames_in(written)
    assert len(frames) == records
    assert all(type_ == FrameType.RECORD and 17 < len(body) <= 65535 for type_, body in frames)
    pair.responder.read(written)
    assert b"".join(event.data for event in pair.responder.events) == data
    assert kinds(pair.responder.events) == [DataReceived] * records


def test_what_is_sent_is_not_what_is_changed_later(open_pair: Pair) -> None:
    buffer = bytearray(b"hello")
    open_pair.initiator.session.send(buffer)
    buffer[:] = b"XXXXX"
    open_pair.talk()
    assert open_pair.responder.events == [DataReceived(b"hello")]


@settings(max_examples=40)
@given(
    chunks=st.lists(st.binary(min_size=1, max_size=3000), max_size=8),
    sizes=st.lists(st.integers(1, 2000), min_size=1, max_size=12),
)
def test_any_data_in_any_segmentation_arrives_whole(chunks: list[bytes], sizes: list[int]) -> None:
    writer, reader = opened(ORDINARY, INITIATOR), opened(ORDINARY, RESPONDER)
    for chunk in chunks:
        writer.session.send(chunk)
    writer.session.finish()
    wire = writer.write()
    while wire:
        size = sizes[len(wire) % len(sizes)]
        reader.read(wire[:size])
        wire = wire[size:]
    assert [event.data for event in reader.events[:-1] if isinstance(event, DataReceived)] == chunks
    assert reader.events[-1] == CloseReceived(CloseCode.NORMAL)
    assert reader.error is None


VIEWS: dict[str, Callable[[bytes], Any]] = {
    "bytes": lambda data: data,
    "a part of bytes": lambda data: memoryview(b"x" + data + b"y")[1:-1],
    "numbers of four bytes": lambda data: memoryview(data).cast("I"),
    "two dimensions": lambda data: memoryview(data).cast("B", (len(data) // 4, 4)),
    "every other byte": lambda data: memoryview(bytes(byte for value in data for byte in (value, 0)))[::2],
    "backwards": lambda data: memoryview(data[::-1])[::-1],
    "numbers that can be changed": lambda data: memoryview(bytearray(data)).cast("I"),
}


@pytest.mark.parametrize("size", [8, 4 * 65518])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_what_is_sent_is_bytes_whatever_the_shape_of_the_view(view: Callable[[bytes], Any], size: int) -> None:
    writer, reader = opened(ORDINARY, INITIATOR), opened(ORDINARY, RESPONDER)
    data = bytes(i % 251 for i in range(size))
    writer.session.send(view(data))
    writer.session.send(b"and then this")
    reader.read(writer.write())
    assert reader.error is None
    assert [event.data for event in reader.events] == [
        data[start : start + 65518] for start in range(0, size, 65518)
    ] + [b"and then this"]


@settings(max_examples=40)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 500, 65517, 65518, 65519, 131_036, 200_000]), max_size=4),
    cuts=st.lists(st.integers(1, 90_000), min_size=1, max_size=6),
    views=st.booleans(),
)
def test_large_and_small_sends_arrive_whole_in_any_segmentation(
    sizes: list[int], cuts: list[int], views: bool
) -> None:
    """Reads of many records, of parts of one, and of the end of one and the beginning of another."""
    writer, reader = opened(ORDINARY, INITIATOR), opened(ORDINARY, RESPONDER)
    sent = b"".join(bytes([i + 1]) * size for i, size in enumerate(sizes))
    start = 0
    for size in sizes:
        part = sent[start : start + size]
        writer.session.send(memoryview(part) if views else part)
        start += size
    wire = memoryview(writer.write())
    turn = 0
    while wire:
        size = cuts[turn % len(cuts)]
        reader.read(bytes(wire[:size]) if turn % 2 else bytearray(wire[:size]))  # type: ignore[arg-type]
        wire, turn = wire[size:], turn + 1
    assert reader.error is None
    assert b"".join(event.data for event in reader.events) == sent
    assert len(reader.events) == sum(-(-size // 65518) for size in sizes)


def test_what_has_been_read_is_not_kept() -> None:
    writer, reader = opened(ORDINARY, INITIATOR), opened(ORDINARY, RESPONDER)
    for _ in range(3):
        writer.session.send(bytes(60_000))
        wire = writer.write()
        reader.read(wire + wire[:0])
        assert len(reader.session._inbox) == 0
        writer.session.send(bytes(60_000))
        rest = writer.write()
        reader.read(rest[:10])
        for start in range(10, 1000, 10):
            reader.read(rest[start : start + 10])
            assert len(reader.session._inbox) == start + 10  # no more than has come and is not whole
        reader.read(rest[1000:])
        assert len(reader.session._inbox) == 0


def test_the_caller_may_change_his_buffer_when_it_was_taken() -> None:
    """What a runtime reads into is its own again."""
    writer, reader = opened(ORDINARY, INITIATOR), opened(ORDINARY, RESPONDER)
    writer.session.send(b"one")
    writer.session.send(b"two")
    wire = writer.write()
    for part in (wire[:10], wire[10:30], wire[30:]):
        buffer = bytearray(part)
        reader.session.receive_data(buffer)
        buffer[:] = bytes(len(buffer))
        buffer.clear()
    reader.read()
    assert reader.events == [DataReceived(b"one"), DataReceived(b"two")]


# --- an open session: closing ---------------------------------------------------------------------------


def test_a_half_close_leaves_the_other_direction_open(open_pair: Pair) -> None:
    initiator, responder = open_pair.initiator, open_pair.responder
    initiator.session.finish()
    open_pair.talk()
    assert responder.events == [CloseReceived(CloseCode.NORMAL)]
    assert responder.session.receiving is Direction.FINISHED
    assert responder.session.sending is Direction.OPEN
    responder.session.send(b"still here")
    open_pair.talk()
    assert initiator.events == [DataReceived(b"still here")]
    responder.session.finish()
    open_pair.talk()
    assert initiator.events[-1] == CloseReceived(CloseCode.NORMAL)
    for end in (initiator, responder):
        assert end.read(eof=True) == []
        assert end.error is None


@pytest.mark.parametrize("code", [code for code in CloseCode if code is not CloseCode.NORMAL])
def test_a_close_with_a_code_is_answered_at_once(open_pair: Pair, code: CloseCode) -> None:
    initiator, responder = open_pair.initiator, open_pair.responder
    initiator.session.close(code, "the reason")
    open_pair.talk()
    assert responder.events == [CloseReceived(code, "the reason")]
    assert initiator.events == [CloseReceived(CloseCode.NORMAL)]
    with pytest.raises(LocalProtocolError):
        responder.session.send(b"too late")
    for end in (initiator, responder):
        assert end.read(eof=True) == []
        assert end.error is None


def test_close_takes_no_normal_code() -> None:
    """`finish` is the half-close; with NORMAL the other side rightly goes on, and must be heard."""
    end = speaking(INITIATOR)
    with pytest.raises(LocalProtocolError, match="call finish"):
        end.session.close(CloseCode.NORMAL)
    assert end.session.sending is Direction.OPEN
    assert end.write() == b""


STREAMS = replace(CLASSICAL_ONLY, caps=("mux/1",))


@pytest.fixture
def streams() -> Pair:
    """Two who both have streams."""
    pair = make_pair(STREAMS)
    pair.greet()
    return pair


def test_where_both_have_streams_close_normal_ends_both_directions(streams: Pair) -> None:
    """ "With code 0 and without `mux/1`, CLOSE is a half-close […]. In every other case the receiver […] answers
    CLOSE at once" (section 9)."""
    streams.initiator.session.finish()
    streams.talk()
    assert streams.responder.events == [CloseReceived(CloseCode.NORMAL)]
    assert streams.initiator.events == [CloseReceived(CloseCode.NORMAL)]
    for end in (streams.initiator, streams.responder):
        with pytest.raises(LocalProtocolError):
            end.session.send(b"too late")
        end.read(eof=True)
        assert end.error is None


def test_where_both_have_streams_data_that_crosses_close_normal_is_discarded(streams: Pair) -> None:
    streams.initiator.session.finish()
    streams.responder.session.send(b"crossing")
    crossing = streams.responder.write()
    assert streams.initiator.read(crossing) == []
    streams.talk()
    assert streams.initiator.events == [CloseReceived(CloseCode.NORMAL)]
    assert streams.initiator.error is streams.responder.error is None


@pytest.mark.parametrize(
    ("caller", "answerer"), [(STREAMS, CLASSICAL_ONLY), (CLASSICAL_ONLY, STREAMS)], ids=["caller", "answerer"]
)
def test_where_only_one_has_streams_close_normal_is_a_half_close(caller: Profile, answerer: Profile) -> None:
    pair = make_pair(caller, answerer)
    pair.greet()
    pair.initiator.session.finish()
    pair.talk()
    pair.responder.session.send(b"still here")
    pair.talk()
    assert pair.initiator.events == [DataReceived(b"still here")]


def test_an_unknown_close_code_stays_a_number(recording: Recording) -> None:
    end = opened(recording, RESPONDER)
    frame = recording.writer(INITIATOR).encode(RecordType.CLOSE, Close(0x0999, "later").encode())
    assert end.read(frame) == [CloseReceived(0x0999, "later")]
    assert end.session.sending is not Direction.OPEN


def test_data_that_crosses_a_close_is_discarded(open_pair: Pair) -> None:
    initiator, responder = open_pair.initiator, open_pair.responder
    initiator.session.close(CloseCode.GOING_AWAY)
    responder.session.send(b"crossing")
    crossing = responder.write()
    assert initiator.read(crossing) == []
    open_pair.talk()
    assert initiator.events == [CloseReceived(CloseCode.NORMAL)]
    assert responder.events == [CloseReceived(CloseCode.GOING_AWAY)]
    assert initiator.error is responder.error is None


def test_two_closes_that_cross_are_a_clean_end(open_pair: Pair) -> None:
    initiator, responder = open_pair.initiator, open_pair.responder
    initiator.session.close(CloseCode.GOING_AWAY)
    responder.session.close(CloseCode.IDLE, "bored")
    open_pair.talk()
    assert initiator.events == [CloseReceived(CloseCode.IDLE, "bored")]
    assert responder.events == [CloseReceived(CloseCode.GOING_AWAY)]
    for end in (initiator, responder):
        end.read(eof=True)
        assert end.error is None


def test_data_that_was_sent_before_a_close_arrives_before_it(open_pair: Pair) -> None:
    open_pair.initiator.session.send(b"last words")
    open_pair.initiator.session.close(CloseCode.GOING_AWAY)
    open_pair.talk()
    assert open_pair.responder.events == [DataReceived(b"last words"), CloseReceived(CloseCode.GOING_AWAY)]


def behind(pair: Pair, *records: tuple[RecordType, bytes]) -> End:
    """The responder, after the initiator has sent these records: those that a session would never send."""
    assert pair.initiator.session._writer is not None
    for type_, content in records:
        pair.responder.read(pair.initiator.session._writer.encode(type_, content))
    return pair.responder


CLOSE, IDLE = (RecordType.CLOSE, Close().encode()), (RecordType.CLOSE, Close(CloseCode.IDLE).encode())
DATA, PING = (RecordType.DATA, b"data"), (RecordType.PING, Ping(bytes(8)).encode())
PONG = (RecordType.PING, Ping(bytes(8), answer=True).encode())


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([CLOSE, DATA], "DATA arrived on a half-closed direction"),
        ([IDLE, DATA], "DATA arrived on a closed direction"),
        ([CLOSE, CLOSE], "CLOSE NORMAL arrived on a half-closed direction"),
        ([IDLE, IDLE], "CLOSE arrived on a closed direction"),
        ([IDLE, CLOSE], "CLOSE NORMAL arrived on a closed direction"),
        ([CLOSE, IDLE, IDLE], "CLOSE arrived on a closed direction"),
        ([IDLE, PING], "PING arrived on a closed direction"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_follows_a_close_is_fatal(open_pair: Pair, records: Any, said: str) -> None:
    end = behind(open_pair, *records)
    assert said in str(end.error)
    assert end.session.state is State.ENDED
    assert open_pair.initiator.read(end.write())[-1] == CloseReceived(CloseCode.PROTOCOL)


def test_a_half_closed_peer_may_still_answer_a_ping_and_then_close_for_a_reason(open_pair: Pair) -> None:
    end = behind(open_pair, CLOSE, PONG, IDLE)
    assert end.error is None
    assert end.events == [
        CloseReceived(CloseCode.NORMAL),
        PongReceived(bytes(8)),
        CloseReceived(CloseCode.IDLE),
    ]


@pytest.mark.parametrize("role", Role)
def test_end_of_stream_without_close_is_an_error_and_the_other_side_is_told(open_pair: Pair, role: Role) -> None:
    ends = {INITIATOR: open_pair.initiator, RESPONDER: open_pair.responder}
    cut, other = ends[role], ends[role.other]
    cut.read(eof=True)
    assert isinstance(cut.error, Truncated)
    assert cut.session.state is State.ENDED
    assert other.read(cut.write()) == [CloseReceived(CloseCode.PROTOCOL)]
    assert other.error is None


@pytest.mark.parametrize(
    "frame",
    [b"\x00\x00\x00", b"\x01\x00\x20", b"\x7f\x00\x01\x01", b"\x10\x00\x0f", b"\x10\x00\x10" + bytes(16)],
    ids=["unknown-type", "syn", "alert", "short-record", "forged-record"],
)
def test_a_breach_after_ready_is_answered_by_close_protocol(open_pair: Pair, frame: bytes) -> None:
    initiator, responder = open_pair.initiator, open_pair.responder
    assert responder.read(frame) == []
    assert responder.error is not None
    assert responder.error.reason is CloseCode.PROTOCOL
    assert responder.session.state is State.ENDED
    assert initiator.read(responder.write()) == [CloseReceived(CloseCode.PROTOCOL)]


def test_what_was_queued_before_a_breach_still_goes_out_before_the_close(open_pair: Pair) -> None:
    responder = open_pair.responder
    responder.session.send(b"queued")
    responder.read(b"\x00\x00\x00")
    assert open_pair.initiator.read(responder.write()) == [
        DataReceived(b"queued"),
        CloseReceived(CloseCode.PROTOCOL),
    ]


def test_a_side_that_has_closed_answers_a_breach_with_nothing_more(recording: Recording) -> None:
    end = opened(recording, RESPONDER)
    end.session.close(CloseCode.IDLE)
    end.write()
    end.read(b"\x00\x00\x00")
    assert end.error is not None
    assert end.write() == b""


# --- an open session: pings -----------------------------------------------------------------------------


def test_a_ping_is_answered_with_its_eight_bytes(open_pair: Pair) -> None:
    open_pair.initiator.session.ping(b"8 bytes!")
    open_pair.talk()
    assert open_pair.initiator.events == [PongReceived(b"8 bytes!")]
    assert open_pair.responder.events == []


def test_of_many_pings_the_latest_is_answered(open_pair: Pair) -> None:
    """However many come before we write, one answer is pending: pings cannot fill our memory."""
    for i in range(1000):
        open_pair.initiator.session.ping(i.to_bytes(8, "big"))
    open_pair.responder.read(open_pair.initiator.write())
    answer = open_pair.responder.write()
    assert len(frames_in(answer)) == 1
    assert open_pair.initiator.read(answer) == [PongReceived((999).to_bytes(8, "big"))]
    assert open_pair.responder.write() == b""


def test_a_side_that_has_finished_still_answers_pings(open_pair: Pair) -> None:
    open_pair.responder.session.finish()
    open_pair.talk()
    open_pair.initiator.session.ping(b"8 bytes!")
    open_pair.talk()
    assert open_pair.initiator.events == [CloseReceived(CloseCode.NORMAL), PongReceived(b"8 bytes!")]
    assert open_pair.initiator.error is None


def test_a_side_that_has_closed_answers_no_ping(recording: Recording) -> None:
    end = opened(recording, RESPONDER)
    end.session.close(CloseCode.IDLE)
    end.write()
    end.read(recording.writer(INITIATOR).encode(*PING))
    assert end.error is None
    assert end.write() == b""


@pytest.mark.parametrize(
    ("profile", "verb"),
    [
        (CLASSICAL_ONLY, "finish"),
        (CLASSICAL_ONLY, "close"),
        (STREAMS, "finish"),
        (STREAMS, "close"),
    ],
    ids=["finish", "close", "finish-with-streams", "close-with-streams"],
)
def test_an_answer_that_is_pending_when_we_close_is_no_breach(profile: Profile, verb: str) -> None:
    """A PING was read, and its answer not yet written, when the application closed: it once came behind CLOSE."""
    pair = make_pair(profile)
    pair.greet()
    pair.initiator.session.ping(b"8 bytes!")
    pair.responder.read(pair.initiator.write())
    VERBS[verb](pair.responder.session)
    pair.talk()
    assert pair.initiator.error is None
    assert isinstance(pair.initiator.events[0], CloseReceived)


@pytest.mark.parametrize("profile", [CLASSICAL_ONLY, STREAMS], ids=["one-stream", "streams"])
def test_an_answer_that_is_pending_when_the_other_side_closes_is_no_breach(profile: Profile) -> None:
    pair = make_pair(profile)
    pair.greet()
    pair.initiator.session.ping(b"8 bytes!")
    pair.initiator.session.close(CloseCode.GOING_AWAY)
    pair.talk()
    assert pair.initiator.error is pair.responder.error is None
    assert pair.initiator.events[0] == CloseReceived(CloseCode.NORMAL)


def test_an_answer_that_is_pending_is_not_sent_behind_the_close_of_a_breach(open_pair: Pair) -> None:
    end = behind(open_pair, PING)
    end.read(b"\x00\x00\x00")
    assert end.error is not None
    assert open_pair.initiator.read(end.write()) == [CloseReceived(CloseCode.PROTOCOL)]
    assert open_pair.initiator.error is None


# --- an open session: keys ------------------------------------------------------------------------------


def set_nonce(writer: End, reader: End, n: int) -> None:
    """As if n records had gone from one to the other."""
    assert writer.session._writer is not None
    assert reader.session._reader is not None
    writer.session._writer._cipher_state.n = n
    reader.session._reader._cipher_state.n = n


@pytest.mark.parametrize("n", [65536, 3 * 65536])
def test_a_session_goes_on_across_a_rekey(open_pair: Pair, n: int) -> None:
    for writer, reader in (
        (open_pair.initiator, open_pair.responder),
        (open_pair.responder, open_pair.initiator),
    ):
        set_nonce(writer, reader, n - 2)
        texts = [bytes([i]) * 10 for i in range(1, 5)]
        for text in texts:
            writer.session.send(text)
        reader.read(writer.write())
        assert [event.data for event in reader.events] == texts
        assert reader.error is None


def test_the_last_record_of_a_key_is_followed_by_close_key_limit_and_nothing_else(open_pair: Pair) -> None:
    initiator, responder = open_pair.initiator, open_pair.responder
    set_nonce(initiator, responder, 2**63 - 1)
    initiator.session.send(b"the last")
    assert responder.read(initiator.write()) == [DataReceived(b"the last")]
    for _ in range(3):
        initiator.session.send(b"too many")
    initiator.session.finish()
    written = initiator.write()
    assert len(frames_in(written)) == 1
    assert responder.read(written) == [CloseReceived(CloseCode.KEY_LIMIT)]
    assert initiator.session.sending is Direction.CLOSED
    with pytest.raises(LocalProtocolError):
        initiator.session.send(b"too late")
    assert initiator.read(responder.write()) == [CloseReceived(CloseCode.NORMAL)]
    assert initiator.write() == b""
    assert initiator.error is responder.error is None


def test_data_that_crosses_close_key_limit_is_discarded(open_pair: Pair) -> None:
    initiator, responder = open_pair.initiator, open_pair.responder
    set_nonce(initiator, responder, 2**63)
    initiator.session.send(b"too many")
    close = initiator.write()
    responder.session.send(b"crossing")
    assert initiator.read(responder.write()) == []
    assert responder.read(close) == [CloseReceived(CloseCode.KEY_LIMIT)]
    assert initiator.error is None


def test_a_ping_is_answered_by_close_key_limit_when_the_key_is_at_its_limit(open_pair: Pair) -> None:
    initiator, responder = open_pair.initiator, open_pair.responder
    set_nonce(responder, initiator, 2**63)
    initiator.session.ping(b"8 bytes!")
    responder.read(initiator.write())
    assert initiator.read(responder.write()) == [CloseReceived(CloseCode.KEY_LIMIT)]
    assert responder.write() == b""


def test_a_record_of_the_other_side_beyond_its_keys_limit_is_fatal(recording: Recording) -> None:
    end = opened(recording, RESPONDER)
    assert end.session._reader is not None
    end.session._reader._cipher_state.n = 2**63
    end.read(recording.writer(INITIATOR, n=2**63).encode(*DATA))
    assert "beyond the key's limit" in str(end.error)


# --- whatever comes -------------------------------------------------------------------------------------


def survives(end: End, data: bytes) -> None:
    """Nothing but an event or a RemoteProtocolError comes of these bytes."""
    end.read(data, eof=True)
    assert end.error is not None or end.session.state in (State.ENDED, State.PEER_IDENTIFIED, State.OPEN)


@settings(max_examples=150)
@given(data=st.binary(max_size=600), kept=st.integers(0, 60))
def test_arbitrary_bytes_to_a_responder_are_no_greeting(data: bytes, kept: int) -> None:
    end = End(ORDINARY.responder())
    survives(end, FLIGHT[:kept] + data)
    assert PeerIdentified not in kinds(end.events)


@settings(max_examples=150)
@given(data=st.binary(max_size=600), kept=st.integers(0, 400))
def test_arbitrary_bytes_to_an_initiator_are_no_greeting(data: bytes, kept: int) -> None:
    end = calling(ORDINARY)
    spoiled = ORDINARY.syn_ack[:kept] + data
    survives(end, spoiled)
    assert PeerIdentified not in kinds(end.events) or spoiled.startswith(ORDINARY.syn_ack)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(RecordType), st.binary(max_size=40), st.integers(0, 3)), max_size=5))
def test_arbitrary_records_are_events_or_a_breach(records: list[tuple[RecordType, bytes, int]]) -> None:
    end, writer = opened(ORDINARY, RESPONDER), ORDINARY.writer(INITIATOR)
    survives(end, b"".join(writer.encode(*record) for record in records))
    data = [content for type_, content, _ in records if type_ is RecordType.DATA]
    assert [event.data for event in end.events if isinstance(event, DataReceived)] == data[: len(end.events)]


@pytest.mark.parametrize("padding", [0, 100, 20_000, 65_000])
def test_a_session_that_waits_for_bytes_has_room_for_them(recording: Recording, padding: int) -> None:
    """A runtime that reads no more than `receive_room` must come to the end of every legal message."""
    end = awaiting_verdict(recording)
    verdict = recording.writer(RESPONDER).encode(RecordType.VERDICT, Verdict(VerdictCode.READY).encode(), padding)
    while verdict:
        room = end.session.receive_room
        assert room > 0
        end.read(verdict[:room])
        verdict = verdict[room:]
    assert end.events[-1] == Accepted()


def test_a_responder_has_room_for_the_longest_greeting_and_for_no_flood(recording: Recording) -> None:
    assert recording.responder().receive_room == recording.initiator().receive_room == 20 * 1024  # section 12
    end = answering(recording)
    assert end.session.receive_room >= 3 + recording.suite.ack + 16384
    end.read(recording.ack + bytes(end.session.receive_room - len(recording.ack)))
    assert end.session.next_event() is Wait.PAUSED
    assert end.session.receive_room == len(recording.ack)
    end.session.receive_data(bytes(len(recording.ack)))
    assert end.session.receive_room == 0
    end.session.accept()
    assert end.session.receive_room > 0
