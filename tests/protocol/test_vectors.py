"""The specification's vectors, byte for byte: eight whole greetings in both roles, and all that is malformed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trishake_protocol import (
    Accepted,
    AlertCode,
    CloseCode,
    CloseReceived,
    DataReceived,
    Event,
    ForeignProtocol,
    GreetingRefused,
    PeerIdentified,
    Rejected,
    RemoteProtocolError,
    Role,
    Session,
    State,
    SynReceived,
    VerdictCode,
    Wait,
    code_name,
)
from trishake_protocol.identity import GreetingContext
from trishake_protocol.messages import (
    Alert,
    Close,
    FrameType,
    Greeting,
    Preface,
    RecordType,
    Verdict,
    encode_canonical,
    encode_frame,
    encode_greeting_payload,
)
from trishake_protocol.noise import CipherState, HandshakeState
from trishake_protocol.primitives import MLKEM768
from trishake_protocol.records import RecordReader

from .conftest import RECORDINGS, TRISHAKE, Recording, load, unhex

INITIATOR, RESPONDER = Role


def whole(data: bytes) -> list[bytes]:
    return [data]


def one_byte_at_a_time(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


SEGMENTATIONS = [whole, one_byte_at_a_time]


@pytest.fixture(params=SEGMENTATIONS, ids=lambda cut: cut.__name__)
def cut(request: pytest.FixtureRequest) -> Callable[[bytes], list[bytes]]:
    """How the bytes arrive."""
    return request.param


@pytest.fixture(params=RECORDINGS.values(), ids=RECORDINGS.keys())
def recording(request: pytest.FixtureRequest) -> Recording:
    """Each of the eight recorded handshakes."""
    return request.param


def feed(session: Session, parts: list[bytes]) -> list[Event]:
    """Hand over these parts, asking for events after each. Raises what `next_event` raises."""
    events: list[Event] = []
    for part in parts:
        session.receive_data(part)
        while not isinstance(event := session.next_event(), Wait):
            events.append(event)
    return events


def initiator_told_of(recording: Recording, data: bytes = b"") -> Session:
    """An initiator that has accepted the recorded responder, sent ACK, and was told `data` since."""
    session = recording.initiator()
    session.data_to_send()
    feed(session, [recording.syn_ack])
    session.accept()
    session.data_to_send()
    feed(session, [data])
    return session


def responder_told_of(recording: Recording, data: bytes = b"") -> Session:
    """A responder that has answered the recorded SYN, and was told `data` since."""
    session = recording.responder()
    feed(session, [recording.flight])
    session.data_to_send()
    feed(session, [data])
    return session


# --- the eight handshakes -------------------------------------------------------------------------------


def test_an_initiator_says_the_recorded_bytes(recording: Recording, cut: Any) -> None:
    session = recording.initiator()
    assert session.data_to_send() == recording.flight
    assert session.ephemeral_key == unhex(recording.vector["initiator"]["ephemeral_public"])
    (identified,) = feed(session, cut(recording.syn_ack))
    assert isinstance(identified, PeerIdentified)
    assert identified.peer == recording.identity[RESPONDER].id
    assert session.data_to_send() == b""  # nothing before the application has accepted
    session.accept()
    assert session.data_to_send() == recording.ack
    (accepted,) = feed(session, cut(recording.verdict))
    assert accepted == Accepted(**recording.accept_options())
    assert session.state is State.OPEN


def test_a_responder_says_the_recorded_bytes(recording: Recording, cut: Any) -> None:
    session = recording.responder()
    assert feed(session, cut(recording.flight)) == [SynReceived(recording.suite)]
    assert session.data_to_send() == recording.syn_ack
    (identified,) = feed(session, cut(recording.ack))
    assert isinstance(identified, PeerIdentified)
    assert identified.peer == recording.identity[INITIATOR].id
    assert session.data_to_send() == b""
    session.accept(**recording.accept_options())
    assert session.data_to_send() == recording.verdict
    assert session.state is State.OPEN


def test_both_sides_name_the_session_as_recorded(recording: Recording) -> None:
    for session in (initiator_told_of(recording), responder_told_of(recording, recording.ack)):
        assert session.channel_binding == unhex(recording.vector["h"])
        assert session.channel_binding == unhex(recording.vector["channel_binding"])
        assert session.session_id == unhex(recording.vector["session_id"])
        assert session.suite is recording.suite


def test_what_a_side_says_of_itself_is_told_to_the_other(recording: Recording) -> None:
    for teller, listener, data in (
        (RESPONDER, recording.initiator(), [recording.syn_ack]),
        (INITIATOR, recording.responder(), [recording.flight, recording.ack]),
    ):
        identified = feed(listener, data)[-1]
        assert isinstance(identified, PeerIdentified)
        side, profile = recording.vector[teller.value], recording.profile[teller]
        assert identified.greeting == Greeting(
            role=teller.value,
            id=unhex(side["id"]),
            offers=tuple(side["offers"]),
            time=side["time"],
            vers=tuple(side["versions"]),
            caps=tuple(side["caps"]),
            agent=profile.agent,
            app=profile.app,
            exp=profile.exp,
            extra=profile.extra,
        )
        assert str(identified.peer) == side["id_text"]


def test_a_preface_is_recorded_as_its_fields(recording: Recording) -> None:
    vector = recording.vector
    decoded = Preface.decode(unhex(vector["preface"]))
    assert decoded is not None
    assert decoded[0] == Preface(
        suite=recording.suite.id,
        offers=tuple(vector["initiator"]["offers"]),
        net_tag=unhex(vector["net_tag"]),
        version_max=vector["initiator"]["versions"][1],
        ext=unhex(vector["preface_ext"]),
    )


@pytest.mark.parametrize(("role", "message"), [(RESPONDER, "syn_ack"), (INITIATOR, "ack")])
def test_a_greeting_is_made_of_the_recorded_parts(recording: Recording, role: Role, message: str) -> None:
    """The record, what is signed, the signature, and the padding, each for itself."""
    said, identity = recording.vector[message], recording.identity[role]
    record = recording.profile[role].greeting(role, identity.id.key, time=recording.now[role]).encode()
    responder = recording.identity[RESPONDER].id if role is INITIATOR else None
    context = GreetingContext(role, unhex(said["h_before_payload"]), identity.static_key.public, responder)
    signature = identity.sign_greeting(context, record)
    assert record == unhex(said["record"])
    assert context.to_be_signed(record) == unhex(said["tbs"])
    assert signature == unhex(said["signature"])
    assert encode_greeting_payload(record, signature) == unhex(said["plaintext"])
    padded = encode_canonical([record, signature, bytes(said["padding_length"])])
    assert padded == unhex(said["plaintext"])


def test_every_hash_on_the_way_is_as_recorded(recording: Recording) -> None:
    vector = recording.vector
    payloads = {"syn": b"", "syn_ack": unhex(vector["syn_ack"]["plaintext"])}
    payloads["ack"] = unhex(vector["ack"]["plaintext"])
    sides = {
        role: HandshakeState(
            vector["noise_name"],
            recording.suite.pattern,
            role,
            prologue=unhex(vector["prologue"]),
            s=recording.identity[role].static_key,
            e=recording.ephemeral[role],
            psks=[unhex(vector["psk"])] if "psk" in vector else [],
            kem=recording.kem[role],
        )
        for role in Role
    }
    for name, sender in (("syn", INITIATOR), ("syn_ack", RESPONDER), ("ack", INITIATOR)):
        writer, reader = sides[sender], sides[sender.other]
        message = writer.write_message(payloads[name])
        assert encode_frame(FrameType[name.upper()], message) == unhex(vector[name]["frame"])
        assert reader.read_message(message) == payloads[name]
        for side in sides.values():
            assert side.payload_h == unhex(vector[name]["h_before_payload"]), name
            assert side.h == unhex(vector[name]["h_after"]), name


# --- records --------------------------------------------------------------------------------------------


def body_of(frame: str) -> bytes:
    return unhex(frame)[3:]


def test_a_writer_makes_the_recorded_records_with_their_padding(recording: Recording) -> None:
    writers = {role: recording.writer(role) for role in Role}
    for record in recording.records:
        frame = writers[Role(record["from"])].encode(
            RecordType[record["type"]], unhex(record["content"]), record["padding_length"]
        )
        assert frame == unhex(record["frame"]), record


def test_a_reader_reads_the_recorded_records(recording: Recording) -> None:
    readers = {role: recording.reader(role) for role in Role}
    for record in recording.records:
        type_, content = readers[Role(record["from"])].decode(body_of(record["frame"]))
        assert (type_, content) == (RecordType[record["type"]], unhex(record["content"]))


@pytest.mark.parametrize("reader", Role)
def test_a_session_is_told_what_the_recorded_records_say(recording: Recording, reader: Role, cut: Any) -> None:
    """Padding and all: DATA, then CLOSE with or without a text."""
    if reader is INITIATOR:
        session = initiator_told_of(recording, recording.verdict)
    else:
        session = responder_told_of(recording, recording.ack)
        session.accept(**recording.accept_options())
    theirs = [record for record in recording.records[1:] if record["from"] == reader.other.value]
    data, close = theirs
    assert feed(session, cut(b"".join(unhex(record["frame"]) for record in theirs))) == [
        DataReceived(unhex(data["content"])),
        CloseReceived(CloseCode(close["map"]["code"]), close["map"].get("text")),
    ]
    session.receive_eof()
    assert session.next_event() is Wait.NEED_DATA


@pytest.mark.parametrize("name", [name for name in RECORDINGS if name.endswith("-a")])
@pytest.mark.parametrize("writer", Role)
def test_a_session_writes_the_recorded_records(name: str, writer: Role) -> None:
    """Those without padding and text: a session sends neither of its own accord."""
    recording = RECORDINGS[name]
    if writer is INITIATOR:
        session = initiator_told_of(recording, recording.verdict)
    else:
        session = responder_told_of(recording, recording.ack)
        session.accept()
        assert session.data_to_send() == recording.verdict
    data, close = (record for record in recording.records[1:] if record["from"] == writer.value)
    session.send(unhex(data["content"]))
    session.finish()
    assert session.data_to_send() == unhex(data["frame"]) + unhex(close["frame"])


@pytest.mark.parametrize("sender", Role)
def test_the_key_changes_at_record_65536_as_recorded(recording: Recording, sender: Role) -> None:
    expected = recording.vector["rekey_at_65536"][f"{sender.value}_to_{sender.other.value}"]
    last, first = expected["record_65535"], expected["record_65536"]
    writer, reader = recording.writer(sender, n=65535), recording.reader(sender, n=65535)
    for record in (last, first):
        assert writer.encode(RecordType.DATA, unhex(record["content"])) == unhex(record["frame"])
        assert reader.decode(body_of(record["frame"])) == (RecordType.DATA, unhex(record["content"]))
    second_key = CipherState(key=unhex(expected["key"]))
    second_key.n = 65536
    assert second_key.decrypt_with_ad(b"", body_of(first["frame"])) == unhex(first["plaintext"])


# --- refusals -------------------------------------------------------------------------------------------

REFUSALS = TRISHAKE["refusals"]
ORDINARY = RECORDINGS[REFUSALS["under"]]
VERDICTS = {verdict["name"]: verdict for verdict in REFUSALS["verdicts"]}
ALERTS = {alert["name"]: alert for alert in REFUSALS["alerts"]}


def reason_of(said: dict[str, Any]) -> VerdictCode | int:
    code = said["code"]
    return VerdictCode(code) if code < 0x8000 else code


@pytest.mark.parametrize("name", [name for name in VERDICTS if name != "READY"])
def test_a_rejection_is_the_recorded_verdict_and_close(name: str) -> None:
    verdict = VERDICTS[name]
    said = verdict["map"]
    session = responder_told_of(ORDINARY, ORDINARY.ack)
    session.reject(reason_of(said), text=said.get("text"), retry_after=said.get("retry"), seen=said.get("seen"))
    assert session.data_to_send() == unhex(verdict["record"]["frame"]) + unhex(verdict["close"]["frame"])
    assert session.state is State.ENDED


@pytest.mark.parametrize("name", VERDICTS)
def test_a_recorded_verdict_is_read(name: str, cut: Any) -> None:
    verdict = VERDICTS[name]
    said = verdict["map"]
    session = initiator_told_of(ORDINARY)
    frames = unhex(verdict["record"]["frame"]) + unhex(verdict.get("close", {"frame": ""})["frame"])
    (event,) = feed(session, cut(frames))
    if name == "READY":
        assert event == Accepted()
    else:
        assert event == Rejected(reason_of(said), True, said.get("text"), said.get("retry"), said.get("seen"))
        assert session.state is State.ENDED
        assert session.data_to_send() == b""  # "The rejected initiator sends nothing more."


@pytest.mark.parametrize("name", VERDICTS)
def test_a_verdict_has_the_recorded_encoding(name: str) -> None:
    said = VERDICTS[name]["map"]
    verdict = Verdict(reason_of(said), said.get("retry"), said.get("seen"), said.get("text"))
    assert verdict.encode() == unhex(VERDICTS[name]["record"]["content"])
    assert Verdict.decode(verdict.encode()) == verdict


ALERT_DETAILS: dict[str, dict[str, Any]] = {
    "UNSUPPORTED_VERSION": {"versions": (1, 1)},
    "UNSUPPORTED_SUITE": {"suites": (2, 1)},
    "BUSY": {"retry_after": 30},
}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_the_recorded_encoding(name: str) -> None:
    alert = Alert(AlertCode[name], **ALERT_DETAILS.get(name, {}))
    assert encode_frame(FrameType.ALERT, alert.encode()) == unhex(ALERTS[name]["frame"])


@pytest.mark.parametrize("name", [name for name in ALERTS if name != "ABORTED"])
def test_a_recorded_alert_is_read_by_an_initiator(name: str, cut: Any) -> None:
    for session in (ORDINARY.initiator(), initiator_told_of(ORDINARY)):
        session.data_to_send()
        (event,) = feed(session, cut(unhex(ALERTS[name]["frame"])))
        assert event == Rejected(AlertCode[name], False, **ALERT_DETAILS.get(name, {}))
        assert session.state is State.ENDED
        assert session.data_to_send() == b""


def test_the_recorded_aborted_is_read_by_a_responder(cut: Any) -> None:
    session = responder_told_of(ORDINARY)
    assert feed(session, cut(unhex(ALERTS["ABORTED"]["frame"]))) == [Rejected(AlertCode.ABORTED, False)]
    assert session.state is State.ENDED
    assert session.data_to_send() == b""


@pytest.mark.parametrize(("name", "retry_after"), [("BUSY", 30), ("TIMEOUT", None), ("GOING_AWAY", None)])
def test_a_responder_refuses_with_the_recorded_alert(name: str, retry_after: int | None) -> None:
    for told in (ORDINARY.flight[:5], ORDINARY.flight):
        session = ORDINARY.responder()
        feed(session, [told])
        session.data_to_send()
        session.refuse(AlertCode[name], retry_after=retry_after)
        assert session.data_to_send() == unhex(ALERTS[name]["frame"])


def test_an_initiator_aborts_with_the_recorded_alert() -> None:
    session = ORDINARY.initiator()
    session.data_to_send()
    feed(session, [ORDINARY.syn_ack])
    session.reject()
    assert session.data_to_send() == unhex(ALERTS["ABORTED"]["frame"])


# --- malformed ------------------------------------------------------------------------------------------

MALFORMED = load("trishake-v1-malformed.json")
UNDER = RECORDINGS[MALFORMED["under"]]
ABORTED = unhex("7f00010a")


def cases_of(section: str, sender: Role | None = None) -> Any:
    """The cases of a section, or of one sender in it, as parameters."""
    cases = [case for case in MALFORMED[section] if sender is None or case["from"] == sender.value]
    return pytest.mark.parametrize("case", cases, ids=[case["name"] for case in cases])


def test_every_malformed_case_is_known() -> None:
    assert {name: len(MALFORMED[name]) for name in MALFORMED["counts"]} == MALFORMED["counts"]
    assert sum(MALFORMED["counts"].values()) == 485


def test_the_malformed_cases_play_by_the_clocks_of_the_recording() -> None:
    assert {role.value: now for role, now in UNDER.now.items()} == MALFORMED["now"]


def failure_of(session: Session, parts: list[bytes]) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as caught:
        feed(session, parts)
    assert session.state is State.ENDED
    return caught.value


@cases_of("prefaces")
def test_a_malformed_preface_gets_its_alert(case: dict[str, Any], cut: Any) -> None:
    session = UNDER.responder(kem=MLKEM768)
    assert case["enabled"] == list(UNDER.profile[RESPONDER].offers or ())
    error = failure_of(session, cut(unhex(case["bytes"])))
    if case["expected"] == "FOREIGN":
        assert isinstance(error, ForeignProtocol)
        assert session.data_to_send() == b""
    else:
        assert isinstance(error, GreetingRefused)
        assert error.reason is AlertCode[case["expected"]]
        assert session.data_to_send() == unhex(case["alert_frame"])


@cases_of("greetings", INITIATOR)
def test_a_malformed_ack_gets_its_verdict(case: dict[str, Any], cut: Any) -> None:
    session = responder_told_of(UNDER)
    error = failure_of(session, cut(unhex(case["frame"])))
    assert isinstance(error, GreetingRefused)
    assert error.reason is VerdictCode[case["expected"]]
    assert records_in(session.data_to_send(), UNDER.reader(RESPONDER)) == [
        (RecordType.VERDICT, Verdict(VerdictCode[case["expected"]]).encode()),
        (RecordType.CLOSE, Close().encode()),
    ]


@cases_of("greetings", RESPONDER)
def test_a_malformed_syn_ack_is_refused_without_a_word_of_who_we_are(case: dict[str, Any], cut: Any) -> None:
    session = UNDER.initiator()
    session.data_to_send()
    error = failure_of(session, cut(unhex(case["frame"])))
    assert isinstance(error, GreetingRefused)
    assert error.reason is VerdictCode[case["expected"]]
    assert session.data_to_send() == ABORTED


@cases_of("accepted", INITIATOR)
def test_an_ack_at_the_edge_of_what_is_allowed_is_accepted(case: dict[str, Any], cut: Any) -> None:
    session = responder_told_of(UNDER)
    (identified,) = feed(session, cut(unhex(case["frame"])))
    assert isinstance(identified, PeerIdentified)
    session.accept()
    assert records_in(session.data_to_send(), UNDER.reader(RESPONDER)) == [
        (RecordType.VERDICT, Verdict(VerdictCode[case["expected"]]).encode())
    ]


@cases_of("accepted", RESPONDER)
def test_a_syn_ack_at_the_edge_of_what_is_allowed_is_accepted(case: dict[str, Any], cut: Any) -> None:
    session = UNDER.initiator()
    session.data_to_send()
    (identified,) = feed(session, cut(unhex(case["frame"])))
    assert isinstance(identified, PeerIdentified)
    session.accept()
    ack = session.data_to_send()
    assert (ack[0], len(ack)) == (FrameType.ACK, len(UNDER.ack))


@cases_of("first_frames")
def test_a_first_frame_that_is_no_syn_ack_is_no_response_or_a_rejection(case: dict[str, Any], cut: Any) -> None:
    session = UNDER.initiator()
    session.data_to_send()
    if case["expected"] in ("FOREIGN", "BROKEN"):
        error = failure_of(session, cut(unhex(case["bytes"])))
        assert not isinstance(error, GreetingRefused)
        found = "FOREIGN" if isinstance(error, ForeignProtocol) else "BROKEN"
        # A frame of ours in the wrong state may be called either.
        assert found == case["expected"] or case["name"] in ("type-01", "type-03", "type-10")
        assert error.reason is None
    else:
        (rejected,) = feed(session, cut(unhex(case["bytes"])))
        assert isinstance(rejected, Rejected)
        assert not rejected.authenticated
        assert name_of(rejected.reason) == case["expected"]
    assert session.state is State.ENDED
    assert session.data_to_send() == b""


@cases_of("verdicts")
def test_a_first_record_is_a_valid_verdict_or_no_response(case: dict[str, Any], cut: Any) -> None:
    session = initiator_told_of(UNDER)
    parts = cut(unhex(case["frame"]))
    if case["expected"] == "PROTOCOL":
        error = failure_of(session, parts)
        assert not isinstance(error, (GreetingRefused, ForeignProtocol))
        assert session.data_to_send() == b""
        return
    (event,) = feed(session, parts)
    if case["expected"] == "READY":
        assert isinstance(event, Accepted)
        assert session.state is State.OPEN
    else:
        assert isinstance(event, Rejected)
        assert event.authenticated
        assert name_of(event.reason) == case["expected"]
        assert session.state is State.ENDED


@cases_of("records")
@pytest.mark.parametrize("reader", Role)
def test_a_malformed_record_ends_the_session_with_close_protocol(
    case: dict[str, Any], reader: Role, cut: Any
) -> None:
    assert case["expected"] == "FATAL"
    if reader is INITIATOR:
        session, n = initiator_told_of(UNDER, UNDER.verdict), 0
    else:
        session, n = responder_told_of(UNDER, UNDER.ack), 1
        session.accept()
        session.data_to_send()
    error = failure_of(session, cut(unhex(case[f"to_{reader.value}"])))
    assert error.reason is CloseCode.PROTOCOL
    assert records_in(session.data_to_send(), UNDER.reader(reader, n=n)) == [
        (RecordType.CLOSE, Close(CloseCode.PROTOCOL).encode())
    ]


def name_of(reason: AlertCode | VerdictCode | int) -> str:
    """As the vectors name it: a number that is no code has as many digits as its field."""
    return f"0x{reason:02x}" if isinstance(reason, int) and reason < 0x100 else code_name(reason)


def records_in(data: bytes, reader: RecordReader) -> list[tuple[RecordType, bytes]]:
    """The records that were written; any other frame fails the test."""
    records = []
    while data:
        assert data[0] == FrameType.RECORD
        end = 3 + int.from_bytes(data[1:3], "big")
        records.append(reader.decode(data[3:end]))
        data = data[end:]
    return records
