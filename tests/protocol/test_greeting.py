"""greeting.py: what a side may bring, and the order in which section 7 checks what the other side says."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import pytest

from trishake_protocol import (
    PRIVATE_SUITES,
    PUBLIC_SUITES,
    AlertCode,
    GreetingRefused,
    Identity,
    Network,
    PeerId,
    PeerIdentified,
    Profile,
    Role,
    Session,
    State,
    Suite,
    SynReceived,
    UnexpectedIdentity,
    VerdictCode,
    Wait,
)
from trishake_protocol.greeting import usable_suites
from trishake_protocol.patterns import CLASSICAL, CLASSICAL_PSK, HYBRID
from trishake_protocol.primitives import KeyPair

from .conftest import NOW, PSK, Hostile, network_of

HOME = Network("home", PSK)

# --- Profile --------------------------------------------------------------------------------------------


def test_a_profile_offers_the_suites_of_its_network_by_default() -> None:
    assert Profile().offers == PUBLIC_SUITES
    assert Profile(HOME).offers == PRIVATE_SUITES


@pytest.mark.parametrize(
    ("offers", "private", "usable"),
    [
        ((2, 1), False, [2, 1]),
        ((1, 2), False, [1, 2]),
        ((0x4A4A, 1, 0xFFFF), False, [1]),
        ((0x0102, 0x0001), False, [1]),
        ((0x0102, 0x0001), True, [0x0102]),
        ((0x4A4A,), False, []),
        ((), True, []),
    ],
)
def test_unknown_offers_and_those_with_the_wrong_psk_bit_are_ignored(
    offers: tuple[int, ...], private: bool, usable: list[int]
) -> None:
    assert [suite.id for suite in usable_suites(offers, private=private)] == usable


@pytest.mark.parametrize(
    ("network", "offers"),
    [(Network(), PRIVATE_SUITES), (HOME, PUBLIC_SUITES), (Network(), ()), (Network(), (0x4A4A,))],
    ids=["private-in-public", "public-in-private", "none", "unknown"],
)
def test_a_profile_without_a_usable_suite_is_refused(network: Network, offers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no suite of a"):
        Profile(network, offers=offers)


@pytest.mark.parametrize(
    "changes",
    [
        {"agent": "a" * 65},
        {"app": bytes(4097)},
        {"caps": tuple(f"{i:02}" for i in range(33))},
        {"caps": ("c" * 65,)},
        {"exp": -1},
        {"offers": (1,) * 9},
        {"offers": (1, 65536)},
        {"versions": (2, 1)},
        {"versions": (1, 256)},
        {"extra": {"nil": None}},
        {"extra": {"k" * 257: 0}},
        {"extra": {f"{i:02}": i for i in range(25)}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_profile_that_cannot_be_sent_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        Profile(**changes)


@pytest.mark.parametrize(
    "changes", [{"ext": bytes(257)}, {"extra": {"x": bytes(16384)}}], ids=["ext-257", "greeting-over-16384"]
)
def test_a_profile_that_no_peer_would_read_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the limit is"):
        Profile(**changes)


@pytest.mark.parametrize("versions", [(0, 0), (2, 3)])
def test_a_profile_that_does_not_speak_this_version_is_refused(versions: tuple[int, int]) -> None:
    """ "version_max: the highest version the initiator speaks, ≥ version" (section 3)."""
    with pytest.raises(ValueError, match="version"):
        Profile(versions=versions)


@pytest.mark.parametrize(
    "changes",
    [
        {"agent": "a" * 64, "app": bytes(4096), "exp": 2**64 - 1},
        {"caps": tuple(f"{i:02}" + "c" * 62 for i in range(32))},
        {"offers": (1,) * 8},
        {"versions": (0, 255)},
        {"ext": bytes(256)},
        {"extra": {f"{i:02}": i for i in range(24)}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_profile_at_its_limits_meets_itself(changes: dict[str, Any]) -> None:
    profile = Profile(**changes)
    initiator = Session.initiator(Identity.generate(), profile, now=NOW)
    responder = Session.responder(Identity.generate(), profile, now=NOW)
    responder.receive_data(initiator.data_to_send())
    responder.next_event()
    assert responder.data_to_send()[:1] == b"\x02"


def test_capabilities_are_sorted_and_counted_once() -> None:
    greeting = Profile(caps=("ø", "mux/1", "b", "aa", "mux/1")).greeting(Role.INITIATOR, bytes(32), time=0)
    assert greeting.caps == ("aa", "b", "mux/1", "ø")


@pytest.mark.parametrize("role", Role)
def test_a_record_is_the_greeting_encoded(role: Role) -> None:
    profile = Profile(caps=("mux/1",), agent="test", app=b"app", exp=NOW, extra={"zz": [1], "aa": {"k": b""}})
    record = profile.record(role, STRANGER.id.key, time=NOW)
    assert record == profile.greeting(role, STRANGER.id.key, time=NOW).encode()


def test_what_a_profile_prepares_is_not_part_of_what_it_is() -> None:
    profile = Profile(agent="test")
    assert profile == Profile(agent="test") != replace(profile, agent="other")
    assert repr(profile) == repr(Profile(agent="test"))
    assert "_template" not in repr(profile)
    other = replace(profile, agent="other").record(Role.INITIATOR, STRANGER.id.key, time=NOW)
    assert b"other" in other


# --- the other side in our hands ------------------------------------------------------------------------

ABORTED = bytes.fromhex("7f00010a")
HANDSHAKE_FAILED = bytes.fromhex("7f000106")
STRANGER = Identity.generate()
"""Whom the initiator expects, and who never answers."""


@pytest.fixture
def victim() -> Identity:
    """The one who checks."""
    return Identity.generate()


def refusal(
    hostile: Hostile,
    victim: Identity,
    profile: Profile,
    *,
    responder: PeerId | None = None,
    expected: PeerId | None = None,
    suite: int | None = None,
    spoil: bool = False,
    **said: Any,
) -> GreetingRefused | None:
    """Why the victim refuses what the hostile side says of itself; None if it does not."""
    if hostile.role is Role.RESPONDER:
        session = Session.initiator(victim, profile, now=NOW, expected=expected, suite=suite)
        hostile.read_flight(session.data_to_send())
    else:
        session = Session.responder(victim, profile, now=NOW)
        session.receive_data(hostile.write_flight())
        session.next_event()
        hostile.read_syn_ack(session.data_to_send(), responder or victim.id)
    frame = hostile.greet(**said)
    session.receive_data(frame[:-1] + bytes([frame[-1] ^ spoil]))
    try:
        assert isinstance(session.next_event(), PeerIdentified)
    except GreetingRefused as error:
        assert session.state is State.ENDED
        if hostile.role is Role.RESPONDER:
            assert session.data_to_send() == ABORTED
        return error
    assert session.next_event() is Wait.PAUSED
    return None


def reason_for(*args: Any, **said: Any) -> AlertCode | VerdictCode | None:
    error = refusal(*args, **said)
    return None if error is None else error.reason


@pytest.mark.parametrize("role", Role)
def test_an_honest_greeting_by_hand_is_taken(suite: Suite, role: Role, profile: Profile, victim: Identity) -> None:
    """Else every refusal below might have another cause."""
    assert refusal(Hostile(role, suite), victim, profile) is None


# --- preface and SYN ------------------------------------------------------------------------------------


def flight_of(
    suite: Suite, *, tag: bytes | None = None, e: bytes | None = None, network: Network | None = None
) -> bytes:
    """Preface and SYN of an honest initiator, or with another tag or key in them."""
    profile = Profile(network or network_of(suite), offers=(suite.id,))
    flight = Session.initiator(STRANGER, profile, now=NOW).data_to_send()
    at = 21 + 3  # the preface with one offer, and the header of SYN
    flight = flight[:11] + (tag or flight[11:19]) + flight[19:]
    return flight[:at] + (e or flight[at : at + 32]) + flight[at + 32 :]


@pytest.mark.parametrize(
    ("flight", "enabled", "reason"),
    [
        (flight_of(HYBRID), CLASSICAL, AlertCode.UNSUPPORTED_SUITE),
        (flight_of(CLASSICAL_PSK), CLASSICAL, AlertCode.UNSUPPORTED_SUITE),
        (flight_of(CLASSICAL), CLASSICAL_PSK, AlertCode.UNSUPPORTED_SUITE),
        (flight_of(CLASSICAL, tag=bytes(8)), CLASSICAL, AlertCode.WRONG_NETWORK),
        (flight_of(CLASSICAL_PSK, tag=b"not zero"), CLASSICAL_PSK, AlertCode.HANDSHAKE_FAILED),
        (flight_of(CLASSICAL_PSK, network=HOME), CLASSICAL_PSK, AlertCode.HANDSHAKE_FAILED),
        (flight_of(CLASSICAL, e=bytes(32)), CLASSICAL, AlertCode.HANDSHAKE_FAILED),
        (flight_of(CLASSICAL), CLASSICAL, None),
        (flight_of(CLASSICAL_PSK), CLASSICAL_PSK, None),
    ],
    ids=["suite", "psk-to-public", "public-to-psk", "tag", "psk-tag", "psk-name", "e-zero", "good", "good-psk"],
)
def test_a_first_flight_is_refused_for_its_reason(flight: bytes, enabled: Suite, reason: AlertCode | None) -> None:
    profile = Profile(network_of(enabled), offers=(enabled.id,))
    session = Session.responder(Identity.generate(), profile, now=NOW)
    session.receive_data(flight)
    if reason is None:
        assert session.next_event() == SynReceived(enabled)
        return
    with pytest.raises(GreetingRefused) as caught:
        session.next_event()
    assert caught.value.reason is reason


@pytest.mark.parametrize("role", Role)
def test_a_greeting_that_does_not_decrypt_is_a_failed_handshake(
    suite: Suite, role: Role, victim: Identity
) -> None:
    hostile = Hostile(role, suite)
    profile = Profile(network_of(suite), offers=(suite.id,))
    assert reason_for(hostile, victim, profile, spoil=True) is AlertCode.HANDSHAKE_FAILED


# --- the order of the checks ----------------------------------------------------------------------------
#
# Section 7, "Either side, on a greeting", steps 2 to 8. A greeting with two faults is refused for the one that
# is checked first; so each fault is put together with every later one.


@dataclass
class Lie:
    """A greeting before it is signed and sent."""

    hostile: Hostile
    victim: Identity
    changes: dict[str, Any] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)
    expected: PeerId | None = None


def bad_padding(lie: Lie) -> None:
    lie.said["padding"] = bytes(99) + b"\x01"


def no_map(lie: Lie) -> None:
    lie.said["record"] = b"\xc0" * 64


def bad_schema(lie: Lie) -> None:
    lie.changes["role"] = "observer"


def unknown_critical(lie: Lie) -> None:
    lie.changes["!new"] = 1


def unknown_algorithm(lie: Lie) -> None:
    lie.changes["alg"] = "ed448"


def small_order_id(lie: Lie) -> None:
    lie.changes["id"] = b"\x01" + bytes(31)


def bad_signature(lie: Lie) -> None:
    lie.said["signature"] = bytes(64)


def own_id(lie: Lie) -> None:
    lie.hostile.identity = lie.victim  # with another Noise key, as in another process


def unexpected(lie: Lie) -> None:
    lie.expected = STRANGER.id


def expired(lie: Lie) -> None:
    lie.changes["exp"] = NOW - 301


def downgraded(lie: Lie) -> None:
    lie.changes["vers"] = [2, 3]


FAULTS = {
    bad_padding: VerdictCode.BAD_GREETING,
    no_map: VerdictCode.BAD_GREETING,
    bad_schema: VerdictCode.BAD_GREETING,
    unknown_critical: VerdictCode.UNSUPPORTED_CRITICAL,
    unknown_algorithm: VerdictCode.BAD_IDENTITY_KEY,
    small_order_id: VerdictCode.BAD_IDENTITY_KEY,
    bad_signature: VerdictCode.BAD_SIGNATURE,
    own_id: VerdictCode.SELF,
    unexpected: VerdictCode.IDENTITY_UNKNOWN,
    expired: VerdictCode.EXPIRED,
    downgraded: VerdictCode.DOWNGRADE,
}


def refused_for(role: Role, suite: Suite, victim: Identity, *faults: Any) -> VerdictCode | AlertCode | None:
    lie = Lie(Hostile(role, suite), victim)
    for fault in reversed(faults):  # where two faults change the same thing, the first is to stay
        fault(lie)
    said = {"record": lie.hostile.record(**lie.changes), **lie.said}
    return reason_for(
        lie.hostile, victim, Profile(network_of(suite), offers=(suite.id,)), expected=lie.expected, **said
    )


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_each_fault_has_its_code_in_every_suite(suite: Suite, victim: Identity, fault: Any) -> None:
    assert refused_for(Role.RESPONDER, suite, victim, fault) is FAULTS[fault]
    if fault is not unexpected:  # a responder expects nobody
        assert refused_for(Role.INITIATOR, suite, victim, fault) is FAULTS[fault]


@pytest.mark.parametrize(("first", "second"), list(combinations(FAULTS, 2)), ids=lambda fault: fault.__name__)
def test_of_two_faults_the_one_that_section_7_checks_first_is_named(
    victim: Identity, first: Any, second: Any
) -> None:
    assert refused_for(Role.RESPONDER, CLASSICAL, victim, first, second) is FAULTS[first]
    if unexpected not in (first, second):
        assert refused_for(Role.INITIATOR, CLASSICAL, victim, first, second) is FAULTS[first]


# --- each check for itself ------------------------------------------------------------------------------


def test_an_unexpected_identity_is_named_with_the_expected_one(victim: Identity) -> None:
    hostile = Hostile(Role.RESPONDER, CLASSICAL)
    error = refusal(hostile, victim, Profile(offers=(1,)), expected=STRANGER.id)
    assert isinstance(error, UnexpectedIdentity)
    assert (error.expected, error.actual) == (STRANGER.id, hostile.identity.id)


def test_the_expected_identity_is_taken(victim: Identity) -> None:
    hostile = Hostile(Role.RESPONDER, CLASSICAL)
    assert refusal(hostile, victim, Profile(offers=(1,)), expected=hostile.identity.id) is None


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(
    ("exp", "reason"),
    [
        (NOW - 301, VerdictCode.EXPIRED),
        (0, VerdictCode.EXPIRED),
        (NOW - 300, None),
        (NOW, None),
        (2**64 - 1, None),
    ],
)
def test_a_greeting_is_taken_up_to_300_seconds_behind_its_expiry(
    victim: Identity, role: Role, exp: int, reason: VerdictCode | None
) -> None:
    hostile = Hostile(role, CLASSICAL)
    assert reason_for(hostile, victim, Profile(offers=(1,)), record=hostile.record(exp=exp)) is reason


@pytest.mark.parametrize(
    ("ours", "suite", "theirs", "reason"),
    [
        ((2, 1), HYBRID, (2, 1), None),
        ((2, 1), HYBRID, (1, 2), None),  # the initiator's order counts
        ((2, 1), CLASSICAL, (1,), None),
        ((2, 1), CLASSICAL, (0x4A4A, 1), None),
        ((0x4A4A, 2, 1), CLASSICAL, (0x4A4A, 1), None),  # what neither can speak yet is no better suite
        ((1, 2), CLASSICAL, (2, 1), None),
        ((2, 1), CLASSICAL, (2, 1), VerdictCode.DOWNGRADE),
        ((2, 1), CLASSICAL, (1, 2), VerdictCode.DOWNGRADE),
        ((1, 2), HYBRID, (2, 1), VerdictCode.DOWNGRADE),
        ((2, 1), HYBRID, (1,), VerdictCode.DOWNGRADE),  # it answered in a suite that it says it has not
        ((2, 1), CLASSICAL, (0x0101,), VerdictCode.DOWNGRADE),
    ],
)
def test_an_initiator_refuses_all_but_the_first_of_its_offers_that_the_responder_has(
    victim: Identity, ours: tuple[int, ...], suite: Suite, theirs: tuple[int, ...], reason: VerdictCode | None
) -> None:
    hostile = Hostile(Role.RESPONDER, suite, offers=theirs)
    assert reason_for(hostile, victim, Profile(offers=ours), suite=suite.id) is reason


@pytest.mark.parametrize(
    ("preface", "suite", "ack", "reason"),
    [
        ((2, 1), HYBRID, (2, 1), None),
        ((1, 2), CLASSICAL, (1, 2), None),
        ((0x4A4A, 2, 1), HYBRID, (0x4A4A, 2, 1), None),
        ((2, 1), CLASSICAL, (2, 1), VerdictCode.DOWNGRADE),
        ((1,), CLASSICAL, (2, 1), VerdictCode.DOWNGRADE),  # its offers were cut on the way
        ((2, 1), HYBRID, (1, 2), VerdictCode.DOWNGRADE),
        ((2, 1), HYBRID, (2,), VerdictCode.DOWNGRADE),
        ((1, 1), CLASSICAL, (1,), VerdictCode.DOWNGRADE),
    ],
)
def test_a_responder_refuses_what_is_not_the_best_offer_or_not_what_the_preface_said(
    victim: Identity,
    preface: tuple[int, ...],
    suite: Suite,
    ack: tuple[int, ...],
    reason: VerdictCode | None,
) -> None:
    hostile = Hostile(Role.INITIATOR, suite, offers=preface)
    record = hostile.record(offers=list(ack))
    assert reason_for(hostile, victim, Profile(offers=(2, 1)), record=record) is reason


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        ((1, 1), (1, 1), None),
        ((1, 1), (0, 1), None),
        ((1, 1), (1, 3), None),
        ((1, 3), (1, 1), None),
        ((0, 1), (0, 3), None),
        ((1, 1), (2, 3), VerdictCode.DOWNGRADE),
        ((1, 1), (0, 0), VerdictCode.DOWNGRADE),
        ((1, 3), (1, 2), VerdictCode.DOWNGRADE),
        ((1, 2), (1, 2), VerdictCode.DOWNGRADE),
        ((1, 2), (2, 2), VerdictCode.DOWNGRADE),
    ],
)
def test_a_version_below_the_highest_that_both_speak_is_refused(
    victim: Identity, ours: tuple[int, int], theirs: tuple[int, int], reason: VerdictCode | None
) -> None:
    hostile = Hostile(Role.RESPONDER, CLASSICAL)
    profile = Profile(offers=(1,), versions=ours)
    assert reason_for(hostile, victim, profile, record=hostile.record(vers=list(theirs))) is reason
    if theirs[1] >= 1:
        hostile = Hostile(Role.INITIATOR, CLASSICAL, version_max=theirs[1])
        assert reason_for(hostile, victim, profile, record=hostile.record(vers=list(theirs))) is reason


@pytest.mark.parametrize(("preface", "ack"), [(1, 2), (2, 1), (255, 254)])
def test_a_version_max_other_than_the_one_signed_was_changed_on_the_way(
    victim: Identity, preface: int, ack: int
) -> None:
    hostile = Hostile(Role.INITIATOR, CLASSICAL, version_max=preface)
    record = hostile.record(vers=[1, ack])
    assert reason_for(hostile, victim, Profile(offers=(1,)), record=record) is VerdictCode.DOWNGRADE


@pytest.mark.parametrize(("role", "answer"), [(Role.RESPONDER, ABORTED), (Role.INITIATOR, HANDSHAKE_FAILED)])
def test_our_own_static_key_does_not_come_back(
    suite: Suite, profile: Profile, victim: Identity, role: Role, answer: bytes
) -> None:
    """A dial to ourselves, or an echo: it is SELF in our own log, and as any failure from outside."""
    hostile = Hostile(role, suite, static_key=victim.static_key)
    if role is Role.RESPONDER:
        session = Session.initiator(victim, profile, now=NOW)
        hostile.read_flight(session.data_to_send())
    else:
        session = Session.responder(victim, profile, now=NOW)
        session.receive_data(hostile.write_flight())
        session.next_event()
        hostile.read_syn_ack(session.data_to_send(), victim.id)
    session.receive_data(hostile.greet())
    with pytest.raises(GreetingRefused, match="our own keys came back") as caught:
        session.next_event()
    assert caught.value.reason is VerdictCode.SELF
    assert session.data_to_send() == answer


def test_our_own_ephemeral_key_does_not_come_back(suite: Suite, profile: Profile, victim: Identity) -> None:
    ephemeral = KeyPair()
    session = Session.initiator(victim, profile, now=NOW, ephemeral=ephemeral)
    hostile = Hostile(Role.RESPONDER, suite, ephemeral=ephemeral)
    hostile.read_flight(session.data_to_send())
    session.receive_data(hostile.greet())
    with pytest.raises(GreetingRefused, match="our own keys came back") as caught:
        session.next_event()
    assert caught.value.reason is VerdictCode.SELF
    assert session.data_to_send() == ABORTED


@pytest.mark.parametrize("length", [0, 63, 65])
@pytest.mark.parametrize("role", Role)
def test_a_signature_of_another_length_is_a_bad_signature(victim: Identity, role: Role, length: int) -> None:
    hostile = Hostile(role, CLASSICAL)
    said = {"signature": bytes(length), "padding": bytes(100)}
    assert reason_for(hostile, victim, Profile(offers=(1,)), **said) is VerdictCode.BAD_SIGNATURE


def test_an_ack_signed_for_another_responder_is_a_bad_signature(victim: Identity) -> None:
    """Else a responder could hand on the ACK of who calls it to somebody else."""
    hostile = Hostile(Role.INITIATOR, CLASSICAL)
    profile = Profile(offers=(1,))
    assert reason_for(hostile, victim, profile, responder=STRANGER.id) is VerdictCode.BAD_SIGNATURE


def test_a_psk_suite_is_as_strict(victim: Identity) -> None:
    hostile = Hostile(Role.INITIATOR, CLASSICAL_PSK, offers=PRIVATE_SUITES)
    profile = Profile(network_of(CLASSICAL_PSK))
    assert reason_for(hostile, victim, profile) is VerdictCode.DOWNGRADE
