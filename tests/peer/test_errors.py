"""_errors.py: what happened, where, at which step, and what to do; by type first, and then in words."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
import trio

from trishake import (
    Address,
    AlertCode,
    BadHandshake,
    BadMessage,
    Cause,
    CloseCode,
    ConnectionClosed,
    DialError,
    InvalidAddress,
    InvalidPeerId,
    LocalProtocolError,
    MessageTooLarge,
    NoResponse,
    Peer,
    Phase,
    ProtocolError,
    Refused,
    Rejected,
    RemoteProtocolError,
    RequestFailed,
    StreamError,
    StreamRefused,
    StreamReset,
    StreamTimeout,
    TrishakeError,
    UnknownProtocol,
    Untrusted,
    VerdictCode,
    WrongIdentity,
    reject,
)

from .conftest import ADA, BOB, Resolver

WHERE = "192.0.2.7:4711"
CODES: list[AlertCode | VerdictCode] = [*AlertCode, *(code for code in VerdictCode if code.name != "READY")]
HOSTILE = "line\nbreak \x1b[31mred\x1b[0m \u202etxt.exe\u2066\u200f\u061c\u2028\u0000\x7f\x9b"


def at(error: DialError) -> str:
    """Its message, once it knows where."""
    error.address = WHERE
    return str(error)


# --- the tree -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "parents"),
    [
        (NoResponse, {DialError}),
        (Rejected, {DialError}),
        (Refused, {DialError}),
        (WrongIdentity, {DialError, Refused}),
        (Untrusted, {DialError, Refused}),
        (BadHandshake, {DialError, Refused}),
        (ConnectionClosed, {trio.BrokenResourceError}),
        (MessageTooLarge, {ValueError}),
        (BadMessage, set()),
        (RequestFailed, set()),
        (StreamError, set()),
        (UnknownProtocol, {StreamError}),
        (StreamRefused, {StreamError}),
        (StreamTimeout, {StreamError, trio.TooSlowError}),
        (StreamReset, {StreamError, trio.BrokenResourceError}),
        (InvalidAddress, {ValueError}),
        (InvalidPeerId, {ValueError}),
        (LocalProtocolError, {ProtocolError}),
        (RemoteProtocolError, {ProtocolError}),
    ],
)
def test_every_error_hangs_in_the_tree(error: type[Exception], parents: set[type]) -> None:
    everything = {NoResponse, Rejected, Refused, WrongIdentity, Untrusted, BadHandshake, DialError}
    everything |= {ConnectionClosed, InvalidAddress, InvalidPeerId, ProtocolError, trio.BrokenResourceError}
    everything |= {LocalProtocolError, RemoteProtocolError, ValueError}
    everything |= {MessageTooLarge, BadMessage, RequestFailed}
    everything |= {LocalProtocolError, RemoteProtocolError, ValueError, trio.TooSlowError}
    everything |= {StreamError, UnknownProtocol, StreamRefused, StreamTimeout, StreamReset}
    assert issubclass(error, TrishakeError)
    assert {other for other in everything if issubclass(error, other)} == parents | {error}


# --- no response ----------------------------------------------------------------------------------------


def test_the_phases_and_causes_are_those_of_the_specification() -> None:
    assert {phase.value for phase in Phase} == {"resolve", "connect", "syn-ack", "verdict", "syn", "ack"}
    assert {cause.value for cause in Cause} == {
        "refused",
        "unreachable",
        "timeout",
        "closed",
        "reset",
        "foreign",
        "broken",
    }


@pytest.mark.parametrize("cause", Cause)
@pytest.mark.parametrize("phase", Phase)
def test_no_response_says_what_where_which_step_and_what_to_do(phase: Phase, cause: Cause) -> None:
    error = NoResponse(phase, cause, elapsed=1.234)
    what, step, advice = split(at(error), f"no response [{WHERE}]: ", f" ({phase}, after 1.23 s). ")
    assert what
    assert step == ""
    assert len(advice) > 10
    assert error.retryable is (cause is not Cause.FOREIGN)


def split(message: str, start: str, middle: str) -> tuple[str, str, str]:
    """What stands between these two, nothing, and what stands behind them."""
    assert message.startswith(start)
    what, found, advice = message.removeprefix(start).partition(middle)
    assert found == middle
    return what, "", advice


def test_no_response_names_the_other_protocol_and_the_detail() -> None:
    assert "SSH is spoken there" in str(NoResponse(Phase.SYN_ACK, Cause.FOREIGN, protocol="SSH"))
    assert "another protocol is spoken there" in str(NoResponse(Phase.SYN_ACK, Cause.FOREIGN))
    assert "(no route to host)" in str(NoResponse(Phase.CONNECT, Cause.UNREACHABLE, detail="no route to host"))


# --- rejected -------------------------------------------------------------------------------------------

RETRYABLE = {
    "BUSY",
    "TIMEOUT",
    "GOING_AWAY",
    "CAPACITY",
    "SHUTTING_DOWN",
    "POLICY_TIMEOUT",
    "INTERNAL",
    "CROSSING",
}
"""Section 8; no other."""


@pytest.mark.parametrize("reason", [*CODES, 0x8001, 0xFFFF, 0x09, 0x0999])
def test_what_may_be_tried_again_is_what_the_specification_says(reason: Any) -> None:
    error = Rejected(reason, authenticated=isinstance(reason, VerdictCode))
    assert error.retryable is (getattr(reason, "name", None) in RETRYABLE)


@pytest.mark.parametrize("reason", CODES)
def test_a_rejection_says_what_where_how_certain_and_what_to_do(reason: AlertCode | VerdictCode) -> None:
    authenticated = isinstance(reason, VerdictCode)
    message = at(Rejected(reason, authenticated=authenticated))
    assert message.startswith(f"rejected [{WHERE}]: {reason.name}: ")
    certain = "(proved by its key). " if authenticated else "(a hint: anyone on the path can have sent it). "
    what, found, advice = message.removeprefix(f"rejected [{WHERE}]: {reason.name}: ").partition(certain)
    assert found
    assert len(what) > 10
    assert len(advice) > 10
    assert ("again" in advice and "Do not" not in advice) is (reason.name in RETRYABLE)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"retry_after": 30, "reason": AlertCode.BUSY}, "again in 30 s"),
        ({"versions": (2, 5), "reason": AlertCode.UNSUPPORTED_VERSION}, "versions 2 to 5"),
        ({"suites": (1, 0x4A4A), "reason": AlertCode.UNSUPPORTED_SUITE}, "0x0001, 0x4a4a"),
        ({"text": "members only", "reason": VerdictCode.POLICY}, '"members only"'),
        ({"reason": 0x8001}, "0x8001"),
    ],
)
def test_a_rejection_says_what_came_with_it(facts: dict[str, Any], words: str) -> None:
    assert words in str(Rejected(**facts, authenticated=True))


# --- refused --------------------------------------------------------------------------------------------


def test_the_wrong_identity_says_both_and_what_to_do() -> None:
    message = at(WrongIdentity(ADA.id, BOB.id))
    assert message.startswith(f"refused by us [{WHERE}]: expected {ADA.id}, and {BOB.id} answered. ")
    assert "new invite" in message


def test_the_untrusted_says_who_and_what_our_policy_said() -> None:
    error = Untrusted(BOB.id, reject(VerdictCode.IDENTITY_BLOCKED, "he knows why"))
    message = at(error)
    assert message.startswith(f"refused by us [{WHERE}]: our policy does not take {BOB.id} ")
    assert 'IDENTITY_BLOCKED: "he knows why"' in message
    assert "Change the policy" in message
    assert (error.peer, error.reason) == (BOB.id, VerdictCode.IDENTITY_BLOCKED)


SAID_BETTER = {AlertCode.WRONG_NETWORK}
"""What the protocol's core says of it adds nothing."""


@pytest.mark.parametrize("reason", CODES)
def test_a_bad_handshake_says_what_it_was_and_what_to_do(reason: AlertCode | VerdictCode) -> None:
    error = BadHandshake(reason, f"{reason.name}: something about it")
    message = at(error)
    assert message.startswith(f"refused by us [{WHERE}]: {reason.name}: ")
    what, _, advice = message.removeprefix(f"refused by us [{WHERE}]: {reason.name}: ").partition(". ")
    assert "something about it" in what or reason in SAID_BETTER
    assert len(advice) > 10
    assert not error.retryable


# --- what every one of them keeps -----------------------------------------------------------------------

ONE_OF_EACH = [
    NoResponse(Phase.SYN_ACK, Cause.CLOSED),
    Rejected(VerdictCode.POLICY, text=HOSTILE, authenticated=True),
    Refused(VerdictCode.SELF, "this peer has met itself", "Check the address."),
    WrongIdentity(ADA.id, BOB.id),
    Untrusted(BOB.id, reject(0x8001, HOSTILE[:60])),
    BadHandshake(VerdictCode.BAD_GREETING, "BAD_GREETING: the record"),
]


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_without_an_address_none_is_shown(error: DialError) -> None:
    error.address = None
    assert re.match(r"(no response|rejected|refused by us): ", str(error))


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_the_other_sides_text_is_escaped_before_it_is_shown(error: DialError) -> None:
    assert_harmless(at(error))


async def test_an_address_of_somebodys_invite_is_escaped_before_it_is_shown(
    resolver: Resolver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trishake")
    names = ["a\x1b[0m\x9b\u202e", "b\x1b\x7f"]
    resolver.names |= {name: OSError("it has no address") for name in names}
    async with Peer(ADA) as peer:
        with pytest.raises(NoResponse) as caught:
            await peer.dial(*(Address(name, 4711) for name in names))
    assert caught.value.attempts
    assert caught.value.address == f"{names[0]}:4711"
    for shown in (str(caught.value), caught.value.explain(), caplog.text):
        assert_harmless(shown.replace("\n", ""))
    assert "\\x1b[0m" in caplog.text


def test_the_text_itself_is_kept_as_it_came() -> None:
    assert Rejected(VerdictCode.POLICY, text=HOSTILE, authenticated=True).text == HOSTILE


OF_STREAMS = [
    UnknownProtocol(BOB.id, HOSTILE),
    StreamRefused(BOB.id, HOSTILE, HOSTILE),
    StreamTimeout(BOB.id, HOSTILE, 10),
    StreamReset(BOB.id, HOSTILE),
]


@pytest.mark.parametrize("error", OF_STREAMS, ids=lambda error: type(error).__name__)
def test_an_error_of_a_stream_says_which_and_with_whom_and_is_harmless_to_show(error: StreamError) -> None:
    assert (error.peer, error.protocol) == (BOB.id, HOSTILE)
    assert str(BOB.id) in str(error)
    assert_harmless(str(error))


def test_a_refused_stream_has_the_other_sides_words_or_none() -> None:
    assert StreamRefused(BOB.id, "chat/1", HOSTILE).text == HOSTILE
    assert str(StreamRefused(BOB.id, "chat/1")) == (
        f"'chat/1' with {BOB.id}: it refused the stream. Ask who runs it."
    )


def assert_harmless(shown: str) -> None:
    """No control character, line separator or bidirectional control (section 8)."""
    forbidden = {*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), "\u2028", "\u2029"}
    forbidden |= set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert set(shown) & forbidden == set()


def test_a_closed_connection_says_by_whom_and_with_what() -> None:
    closed = ConnectionClosed("it was closed", code=CloseCode.IDLE, text="zzz", by_peer=True)
    assert (str(closed), closed.code, closed.text, closed.by_peer) == (
        "it was closed",
        CloseCode.IDLE,
        "zzz",
        True,
    )
    assert ConnectionClosed("cut", by_peer=True).code is None


def test_before_anything_is_known_nothing_is_claimed() -> None:
    error = NoResponse(Phase.CONNECT, Cause.REFUSED)
    assert error.address is error.peer is error.session_id is None
