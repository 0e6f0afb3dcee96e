"""An identity whose private key is elsewhere: the session pauses until its greeting is signed.

A test with `suite`, `profile` or `recording` among its arguments runs in each of the four suites.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trishake_protocol import (
    Accepted,
    AlertCode,
    DataReceived,
    GreetingToSign,
    Identity,
    LocalProtocolError,
    Network,
    PeerIdentified,
    Profile,
    PublicIdentity,
    Rejected,
    Role,
    Session,
    State,
    SynReceived,
    Truncated,
    VerdictCode,
    Wait,
)
from trishake_protocol.identity import GreetingContext
from trishake_protocol.limits import HANDSHAKE_BUFFER
from trishake_protocol.messages import FrameType, Greeting, encode_canonical
from trishake_protocol.patterns import CLASSICAL, HYBRID, PRIVATE_SUITES

from .conftest import NOW, PSK, End, Pair, Recording, make_pair

INITIATOR, RESPONDER = Role
ABORTED = bytes.fromhex("7f00010a")
ADA = Identity.from_seed(b"a" * 32)
BOB = Identity.from_seed(b"b" * 32)
EVE = Identity.from_seed(b"e" * 32)


def elsewhere(identity: Identity) -> PublicIdentity:
    """The same identity, without its private key."""
    return PublicIdentity(identity.id, identity.static_key)


def signature(session: Session, identity: Identity) -> bytes:
    greeting = session.to_sign
    assert greeting is not None
    return identity.sign_greeting(*greeting)


def make(profile: Profile, *, ada: Any = ADA, bob: Any = BOB, **options: Any) -> Pair:
    """Ada calls Bob; by default both have their keys."""
    return make_pair(profile, who_calls=ada, who_answers=bob, **options)


def waiting(role: Role, profile: Profile) -> tuple[Pair, End]:
    """A pair, of which the one in this role, and nobody else, waits for his signature."""
    if role is RESPONDER:
        pair = make(profile, bob=elsewhere(BOB))
        pair.talk()
        return pair, pair.responder
    pair = make(profile, ada=elsewhere(ADA))
    pair.identify_responder()
    pair.initiator.session.accept()
    return pair, pair.initiator


HOLDER = {INITIATOR: ADA, RESPONDER: BOB}
BOTH_ROLES = pytest.mark.parametrize("role", Role, ids=lambda role: role.value)
CLASSICAL_ONLY = Profile(offers=(CLASSICAL.id,))


# --- a greeting whose signatures come from elsewhere ----------------------------------------------------


def test_both_sides_wait_for_their_signatures_and_then_meet(profile: Profile) -> None:
    pair = make(profile, ada=elsewhere(ADA), bob=elsewhere(BOB))
    ada, bob = pair.initiator, pair.responder
    assert ada.session.to_sign is bob.session.to_sign is None

    pair.talk()
    assert [type(event) for event in bob.events] == [SynReceived]
    assert bob.session.state is State.SIGNING
    assert bob.session.next_event() is Wait.PAUSED
    assert not bob.sent
    assert not bob.session.has_data_to_send
    assert ada.session.to_sign is None

    bob.session.sign(signature(bob.session, BOB))
    assert bob.session.to_sign is None
    assert bob.session.state is State.AWAIT_ACK
    pair.talk()
    assert ada.session.state is State.PEER_IDENTIFIED

    sent = len(ada.sent)
    ada.session.accept()
    pair.talk()
    assert ada.session.state is State.SIGNING
    assert ada.session.next_event() is Wait.PAUSED
    assert not ada.session.has_data_to_send
    assert len(ada.sent) == sent
    assert not ada.session.finished_handshake

    ada.session.sign(signature(ada.session, ADA))
    assert ada.session.to_sign is None
    assert ada.session.state is State.AWAIT_VERDICT
    pair.talk()
    bob.session.accept()
    pair.talk()
    assert ada.session.state is bob.session.state is State.OPEN
    assert ada.session.session_id == bob.session.session_id
    assert [e.peer for end in (ada, bob) for e in end.events if isinstance(e, PeerIdentified)] == [BOB.id, ADA.id]
    ada.session.send(b"hello")
    pair.talk()
    assert bob.events[-1] == DataReceived(b"hello")


@BOTH_ROLES
def test_the_wire_says_the_same_as_with_the_key_at_hand(recording: Recording, role: Role) -> None:
    """Byte for byte what the vectors have."""
    holder = recording.identity[role]
    there = elsewhere(holder)
    if role is RESPONDER:
        end = End(recording.responder(identity=there))
        end.read(recording.flight)
        end.session.sign(signature(end.session, holder))
        assert end.write() == recording.syn_ack
        end.read(recording.ack)
        end.session.accept(**recording.accept_options())
        assert end.write() == recording.verdict
    else:
        end = End(recording.initiator(identity=there))
        assert end.write() == recording.flight
        end.read(recording.syn_ack)
        end.session.accept()
        end.session.sign(signature(end.session, holder))
        assert end.write() == recording.ack
        assert [type(event) for event in end.read(recording.verdict)] == [Accepted]


@BOTH_ROLES
def test_a_session_that_has_its_key_never_asks(profile: Profile, role: Role) -> None:
    pair = make(profile)
    pair.identify_initiator()
    session = (pair.initiator if role is INITIATOR else pair.responder).session
    assert session.to_sign is None
    assert session.state is (State.AWAIT_VERDICT if role is INITIATOR else State.PEER_IDENTIFIED)


def test_a_static_key_is_made_where_none_is_given() -> None:
    first, second = PublicIdentity(ADA.id), PublicIdentity(ADA.id)
    assert first.id == second.id == ADA.id
    assert first.static_key.public != second.static_key.public
    assert repr(first) == f"<PublicIdentity {ADA.id}>"


# --- the signature --------------------------------------------------------------------------------------


def of_somebody_else(greeting: GreetingToSign) -> bytes:
    return EVE.sign_greeting(*greeting)


def of_another_greeting(greeting: GreetingToSign) -> bytes:
    context = greeting.context._replace(handshake_hash=bytes(32))
    return HOLDER[greeting.context.role].sign_greeting(context, greeting.record)


def cut(greeting: GreetingToSign) -> bytes:
    return HOLDER[greeting.context.role].sign_greeting(*greeting)[:-1]


def too_long(greeting: GreetingToSign) -> bytes:
    return HOLDER[greeting.context.role].sign_greeting(*greeting) + b"\x00"


def changed(greeting: GreetingToSign) -> bytes:
    signed = bytearray(HOLDER[greeting.context.role].sign_greeting(*greeting))
    signed[5] ^= 1
    return bytes(signed)


def no_bytes(value: object) -> Callable[[GreetingToSign], object]:
    return lambda _: value


@BOTH_ROLES
@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(of_somebody_else, id="somebody else's"),
        pytest.param(of_another_greeting, id="another greeting's"),
        pytest.param(cut, id="cut"),
        pytest.param(too_long, id="too long"),
        pytest.param(changed, id="a bit of it changed"),
        pytest.param(no_bytes(b""), id="empty"),
        pytest.param(no_bytes(bytes(64)), id="zeros"),
        pytest.param(no_bytes(None), id="None"),
        pytest.param(no_bytes("x" * 64), id="str"),
        pytest.param(no_bytes(64), id="int"),
    ],
)
def test_a_wrong_signature_is_shown_to_nobody_and_a_right_one_still_taken(
    role: Role, wrong: Callable[[GreetingToSign], Any]
) -> None:
    pair, end = waiting(role, CLASSICAL_ONLY)
    greeting = end.session.to_sign
    assert greeting is not None
    for _ in range(2):
        with pytest.raises(LocalProtocolError, match="signature"):
            end.session.sign(wrong(greeting))
        assert end.session.state is State.SIGNING
        assert end.session.to_sign == greeting
        assert not end.session.has_data_to_send
        assert end.write() == b""
    end.session.sign(signature(end.session, HOLDER[role]))
    pair.talk()
    if role is RESPONDER:
        pair.initiator.session.accept()
        pair.talk()
    pair.responder.session.accept()
    pair.talk()
    assert pair.initiator.session.state is pair.responder.session.state is State.OPEN


def test_what_is_to_be_signed_does_not_hold_for_the_other_role(profile: Profile) -> None:
    _, caller = waiting(INITIATOR, profile)
    _, answerer = waiting(RESPONDER, profile)
    for end, role in ((caller, INITIATOR), (answerer, RESPONDER)):
        greeting = end.session.to_sign
        assert greeting is not None
        assert greeting.context.role is role
        assert greeting.context.responder == (BOB.id if role is INITIATOR else None)
        assert greeting.context.static_key == HOLDER[role].static_key.public


def at_every_other_state() -> list[tuple[str, Session]]:
    """Sessions without a key of their own, in each state but SIGNING."""
    found: list[tuple[str, Session]] = []

    def note(*ends: End) -> None:
        found.extend((f"{end.session.role.value} {end.session.state.name}", end.session) for end in ends)

    def through(until: int) -> Pair:
        pair = make(CLASSICAL_ONLY, ada=elsewhere(ADA), bob=elsewhere(BOB))
        steps: list[Callable[[], object]] = [
            pair.talk,
            lambda: pair.responder.session.sign(signature(pair.responder.session, BOB)),
            pair.talk,
            lambda: pair.initiator.session.accept(),
            lambda: pair.initiator.session.sign(signature(pair.initiator.session, ADA)),
            pair.talk,
            lambda: pair.responder.session.accept(),
            pair.talk,
        ]
        for step in steps[:until]:
            step()
        return pair

    for until in range(9):
        pair = through(until)
        note(*(end for end in (pair.initiator, pair.responder) if end.session.state is not State.SIGNING))
    for role in Role:
        _, end = waiting(role, CLASSICAL_ONLY)
        if role is INITIATOR:
            end.session.reject()
        else:
            end.session.refuse(AlertCode.BUSY)
        note(end)
    return found


def test_in_every_other_state_a_signature_is_refused() -> None:
    sessions = at_every_other_state()
    states = {(session.role, session.state) for _, session in sessions}
    assert len(states) == 2 * 5  # each role has six, and one of them is SIGNING
    for name, session in sessions:
        session.data_to_send()
        assert session.to_sign is None, name
        before = session.state
        with pytest.raises(LocalProtocolError, match=f"no greeting waits .*{before.value}"):
            session.sign(bytes(64))
        assert session.state is before
        assert not session.has_data_to_send


def test_a_signature_is_taken_once() -> None:
    _, end = waiting(RESPONDER, CLASSICAL_ONLY)
    signed = signature(end.session, BOB)
    end.session.sign(signed)
    assert end.write()
    with pytest.raises(LocalProtocolError, match="no greeting waits"):
        end.session.sign(signed)
    assert not end.write()


# --- giving up instead ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [AlertCode.BUSY, AlertCode.TIMEOUT, AlertCode.GOING_AWAY])
def test_a_responder_gives_up_instead_of_signing_and_says_so(profile: Profile, code: AlertCode) -> None:
    pair, end = waiting(RESPONDER, profile)
    signed = signature(end.session, BOB)
    end.session.refuse(code, retry_after=7 if code is AlertCode.BUSY else None)
    assert end.session.state is State.ENDED
    assert end.session.to_sign is None
    with pytest.raises(LocalProtocolError, match="ended"):
        end.session.sign(signed)
    pair.talk()
    (told,) = pair.initiator.events
    assert isinstance(told, Rejected)
    assert (told.reason, told.authenticated) == (code, False)
    assert told.retry_after == (7 if code is AlertCode.BUSY else None)
    assert pair.initiator.session.state is State.ENDED


def test_an_initiator_gives_up_instead_of_signing_and_says_no_more_than_that(profile: Profile) -> None:
    pair, end = waiting(INITIATOR, profile)
    signed = signature(end.session, ADA)
    end.session.reject(VerdictCode.INTERNAL, text="secret")
    assert end.session.state is State.ENDED
    assert end.session.to_sign is None
    with pytest.raises(LocalProtocolError, match="ended"):
        end.session.sign(signed)
    assert end.write() == ABORTED
    (told,) = pair.responder.read(ABORTED)
    assert isinstance(told, Rejected)
    assert told.reason is AlertCode.ABORTED


@BOTH_ROLES
def test_what_the_other_role_does_to_give_up_is_not_possible(role: Role) -> None:
    _, end = waiting(role, CLASSICAL_ONLY)
    give_up = partial(end.session.refuse, AlertCode.BUSY) if role is INITIATOR else end.session.reject
    with pytest.raises(LocalProtocolError, match="cannot"):
        give_up()
    with pytest.raises(LocalProtocolError, match="cannot accept"):
        end.session.accept()
    assert end.session.state is State.SIGNING
    assert not end.session.has_data_to_send


@BOTH_ROLES
def test_nothing_else_can_be_sent_meanwhile(role: Role) -> None:
    _, end = waiting(role, CLASSICAL_ONLY)
    for call in (
        lambda: end.session.send(b"x"),
        end.session.finish,
        lambda: end.session.ping(bytes(8)),
        lambda: end.session.channel_binding,
    ):
        with pytest.raises(LocalProtocolError):
            call()
    assert end.session.state is State.SIGNING
    assert not end.session.has_data_to_send


# --- what arrives meanwhile -----------------------------------------------------------------------------


@BOTH_ROLES
def test_an_alert_that_arrives_meanwhile_is_read_after_it(role: Role, profile: Profile) -> None:
    _, end = waiting(role, profile)
    before = len(end.events)
    alert = ABORTED if role is RESPONDER else bytes.fromhex("7f000101")
    assert end.read(alert) == []
    assert end.session.next_event() is Wait.PAUSED
    end.session.sign(signature(end.session, HOLDER[role]))
    (told,) = end.read()
    assert isinstance(told, Rejected)
    assert len(end.events) == before + 1
    assert end.session.state is State.ENDED


@BOTH_ROLES
def test_an_end_that_arrives_meanwhile_is_noticed_after_it(role: Role, profile: Profile) -> None:
    _, end = waiting(role, profile)
    assert end.read(eof=True) == []
    assert end.error is None
    assert end.session.next_event() is Wait.PAUSED
    end.session.sign(signature(end.session, HOLDER[role]))
    assert end.read() == []
    assert isinstance(end.error, Truncated)


def test_an_ack_that_arrives_before_its_syn_ack_was_signed_is_read_after_it(recording: Recording) -> None:
    """Nobody could have sent it; recorded it is the same as if it had come too early."""
    holder = recording.identity[RESPONDER]
    end = End(recording.responder(identity=elsewhere(holder)))
    assert [type(event) for event in end.read(recording.flight + recording.ack)] == [SynReceived]
    assert end.session.next_event() is Wait.PAUSED
    end.session.sign(signature(end.session, holder))
    assert [type(event) for event in end.read()] == [PeerIdentified]


@BOTH_ROLES
def test_what_breaks_the_protocol_meanwhile_is_refused_after_it(role: Role) -> None:
    _, end = waiting(role, CLASSICAL_ONLY)
    assert end.read(b"\xee" * 10) == []
    assert end.error is None
    end.session.sign(signature(end.session, HOLDER[role]))
    assert end.read() == []
    assert end.error is not None
    assert end.session.state is State.ENDED


@BOTH_ROLES
def test_no_more_is_kept_meanwhile_than_in_the_rest_of_a_greeting(role: Role) -> None:
    _, end = waiting(role, CLASSICAL_ONLY)
    assert end.session.receive_room == HANDSHAKE_BUFFER
    end.read(bytes(HANDSHAKE_BUFFER - 1))
    assert end.session.receive_room == 1
    end.read(bytes(1))
    assert end.session.receive_room == 0
    assert end.session.next_event() is Wait.PAUSED


# --- optimistic data ------------------------------------------------------------------------------------


def test_optimistic_data_waits_for_the_signature_and_goes_right_behind_ack(profile: Profile) -> None:
    pair = make(profile, ada=elsewhere(ADA))
    pair.identify_responder()
    ada = pair.initiator
    ada.session.accept(optimistic=True)
    with pytest.raises(LocalProtocolError, match="cannot send DATA"):
        ada.session.send(b"too early")
    assert not ada.session.has_data_to_send
    ada.session.sign(signature(ada.session, ADA))
    ada.session.send(b"early")
    said = ada.write()
    ack = 3 + int.from_bytes(said[1:3], "big")
    assert (said[0], said[ack]) == (FrameType.ACK, FrameType.RECORD)
    pair.responder.read(said)
    pair.responder.session.accept()
    assert pair.responder.read() == [DataReceived(b"early")]


@pytest.mark.parametrize("optimistic", [False, True])
def test_who_did_not_ask_for_optimistic_data_has_none_after_the_signature(optimistic: bool) -> None:
    pair = make(CLASSICAL_ONLY, ada=elsewhere(ADA))
    pair.identify_responder()
    session = pair.initiator.session
    session.accept(optimistic=optimistic)
    session.sign(signature(session, ADA))
    if optimistic:
        session.send(b"early")
    else:
        with pytest.raises(LocalProtocolError, match="cannot send DATA"):
            session.send(b"early")


# --- a quiet network ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", PRIVATE_SUITES, ids=lambda suite: f"0x{suite:04x}")
def test_in_a_quiet_network_nobody_is_told_anything_but_who_has_its_key(suite: int) -> None:
    ours, others = (Network("trishake", psk, quiet=True) for psk in (PSK, bytes(32)))
    _, end = waiting(RESPONDER, Profile(ours, offers=(suite,)))
    end.session.refuse(AlertCode.BUSY)
    assert end.write()[:1] == bytes((FrameType.ALERT,))  # the SYN has opened: he is one of us

    stranger, profile = Profile(others, offers=(suite,)), Profile(ours, offers=(suite,))
    knocking = make(stranger, responder=profile, bob=elsewhere(BOB))
    knocking.talk()
    assert knocking.responder.session.to_sign is None
    assert knocking.responder.error is not None
    assert not knocking.responder.sent


# --- who holds the key ----------------------------------------------------------------------------------


def texts(role: Role, profile: Profile = CLASSICAL_ONLY) -> bytes:
    _, end = waiting(role, profile)
    greeting = end.session.to_sign
    assert greeting is not None
    return greeting.text


@BOTH_ROLES
def test_the_holder_of_the_key_takes_what_a_session_wants_signed(role: Role, profile: Profile) -> None:
    _, end = waiting(role, profile)
    greeting = end.session.to_sign
    assert greeting is not None
    parsed = GreetingToSign.parse(greeting.text, HOLDER[role].id)
    assert parsed == greeting
    assert parsed.text == greeting.text
    end.session.sign(HOLDER[role].sign_greeting(*parsed))
    assert end.write()


@BOTH_ROLES
def test_so_he_does_with_the_largest_greeting(role: Role) -> None:
    profile = Profile(
        offers=(HYBRID.id, CLASSICAL.id),
        caps=tuple(f"{i:02}" + "c" * 62 for i in range(32)),
        agent="a" * 64,
        app=bytes(4096),
        exp=NOW + 5,
        extra={"x": [b"y" * 100, {"z": True}]},
    )
    text = texts(role, profile)
    assert GreetingToSign.parse(text, HOLDER[role].id).text == text


CONTEXT = {
    INITIATOR: GreetingContext(INITIATOR, b"h" * 32, b"s" * 32, BOB.id),
    RESPONDER: GreetingContext(RESPONDER, b"h" * 32, b"s" * 32, None),
}


def record(role: Role, /, **changes: Any) -> bytes:
    """Of the holder's greeting, with these keys changed; None leaves one out."""
    said = {
        "alg": "ed25519",
        "caps": [],
        "id": HOLDER[role].id.key,
        "offers": [CLASSICAL.id],
        "role": role.value,
        "time": NOW,
        "ver": 1,
        "vers": [1, 1],
        **changes,
    }
    return encode_canonical({key: value for key, value in said.items() if value is not None})


@BOTH_ROLES
def test_the_text_by_hand_is_as_good_as_a_sessions(role: Role) -> None:
    text = CONTEXT[role].to_be_signed(record(role))
    assert GreetingToSign.parse(text, HOLDER[role].id) == (CONTEXT[role], record(role))


@BOTH_ROLES
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"id": EVE.id.key}, id="another identity's"),
        pytest.param({"alg": "ed448"}, id="another algorithm"),
        pytest.param({"alg": None}, id="no algorithm"),
        pytest.param({"role": "observer"}, id="no such role"),
        pytest.param({"ver": 2}, id="another version"),
        pytest.param({"time": None}, id="no time"),
        pytest.param({"offers": []}, id="no offers"),
        pytest.param({"app": bytes(4097)}, id="too much"),
        pytest.param({"!new": 1}, id="critical and unknown"),
    ],
)
def test_a_record_that_is_not_his_greeting_is_not_signed(role: Role, changes: dict[str, Any]) -> None:
    refused(CONTEXT[role].to_be_signed(record(role, **changes)), role)


def refused(text: bytes, role: Role) -> None:
    with pytest.raises(LocalProtocolError, match="not signed"):
        GreetingToSign.parse(text, HOLDER[role].id)


@BOTH_ROLES
def test_every_beginning_of_a_greeting_is_refused(role: Role) -> None:
    text = texts(role)
    for length in range(len(text)):
        refused(text[:length], role)


@BOTH_ROLES
@pytest.mark.parametrize("more", [b"\x00", b"\x80", b"\xc0", bytes(64), b"\n"])
def test_a_greeting_with_more_behind_it_is_refused(role: Role, more: bytes) -> None:
    refused(texts(role) + more, role)


@BOTH_ROLES
def test_fewer_or_more_spaces_are_refused(role: Role) -> None:
    text = texts(role)
    assert text.startswith(b" " * 64 + b"t")
    for other in (text[1:], b" " + text, text[64:], b"\t" + text[1:]):
        refused(other, role)


@BOTH_ROLES
def test_the_greeting_of_another_identity_is_refused(role: Role) -> None:
    with pytest.raises(LocalProtocolError, match="another identity's"):
        GreetingToSign.parse(texts(role), EVE.id)


@BOTH_ROLES
def test_a_greeting_in_one_role_with_the_record_of_the_other_is_refused(role: Role) -> None:
    refused(CONTEXT[role].to_be_signed(record(role, role=role.other.value)), role)


def test_who_calls_names_the_responder_and_who_answers_names_nobody() -> None:
    for role, responder in ((INITIATOR, None), (RESPONDER, ADA.id)):
        refused(CONTEXT[role]._replace(responder=responder).to_be_signed(record(role)), role)


def test_a_greeting_to_oneself_is_refused() -> None:
    refused(CONTEXT[INITIATOR]._replace(responder=ADA.id).to_be_signed(record(INITIATOR)), INITIATOR)


@pytest.mark.parametrize("key", [bytes(32), b"\xff" * 32], ids=["small order", "not canonical"])
def test_a_responder_that_is_no_peer_is_refused(key: bytes) -> None:
    text = CONTEXT[INITIATOR].to_be_signed(record(INITIATOR))
    assert text.count(BOB.id.key) == 1
    refused(text.replace(BOB.id.key, key), INITIATOR)


@pytest.mark.parametrize("length", [0, 31, 33, 0x2000, 0xFFFF])
def test_another_length_of_the_responder_is_refused(length: int) -> None:
    text = CONTEXT[INITIATOR].to_be_signed(record(INITIATOR))
    refused(text.replace(b"\x00\x20" + BOB.id.key, length.to_bytes(2, "big") + BOB.id.key), INITIATOR)


@BOTH_ROLES
def test_a_record_that_is_not_canonical_is_refused(role: Role) -> None:
    raw = record(role)
    wider = raw.replace(b"\xa3ver\x01", b"\xa3ver\xcc\x01")
    assert wider != raw
    refused(CONTEXT[role].to_be_signed(wider), role)


@given(st.binary(max_size=600))
def test_arbitrary_bytes_are_refused(text: bytes) -> None:
    refused(text, INITIATOR)


@given(role=st.sampled_from(Role), rest=st.binary(max_size=400))
def test_arbitrary_bytes_behind_the_beginning_are_refused(role: Role, rest: bytes) -> None:
    start = texts_once[role][: -len(record_once[role])]
    refused(start + rest, role)
    refused(start[: 64 + 11 + 9] + rest, role)


@given(role=st.sampled_from(Role), at=st.integers(min_value=0), byte=st.integers(0, 255))
def test_a_changed_byte_is_refused_or_is_another_greeting_of_his(role: Role, at: int, byte: int) -> None:
    text = bytearray(texts_once[role])
    text[at % len(text)] = byte
    try:
        parsed = GreetingToSign.parse(bytes(text), HOLDER[role].id)
    except LocalProtocolError as error:
        assert "not signed" in str(error)  # noqa: PT017
    else:
        assert parsed.text == text
        assert Greeting.decode(parsed.record, role).id == HOLDER[role].id.key


texts_once = {role: CONTEXT[role].to_be_signed(record(role)) for role in Role}
record_once = {role: record(role) for role in Role}


def test_what_is_to_be_signed_verifies_under_its_signer_alone() -> None:
    _, end = waiting(INITIATOR, CLASSICAL_ONLY)
    greeting = end.session.to_sign
    assert greeting is not None
    signed = ADA.sign_greeting(*greeting)
    assert greeting.verify(ADA.id, signed)
    assert not greeting.verify(EVE.id, signed)
    assert not greeting.verify(ADA.id, signed[:-1])
    assert not greeting._replace(record=greeting.record + b"\x00").verify(ADA.id, signed)
