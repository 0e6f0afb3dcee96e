"""_greeting.py: every outcome of a greeting has a name, on both sides, within its time."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from trishake import (
    AlertCode,
    BadHandshake,
    Cause,
    CloseCode,
    Connection,
    Decision,
    DialError,
    Identity,
    Introduction,
    Limits,
    Network,
    NoResponse,
    Peer,
    PeerId,
    Phase,
    Policy,
    Refused,
    Rejected,
    Role,
    SecureStream,
    Untrusted,
    VerdictCode,
    WrongIdentity,
    accept,
    initiate,
    only,
    reject,
    respond,
)
from trishake.testing._by_hand import read_to_end
from trishake_protocol.messages import Close, FrameType, RecordType, Verdict, encode_frame
from trishake_protocol.patterns import CLASSICAL, HYBRID
from trishake_protocol.primitives import KeyPair

from .conftest import (
    ABORTED,
    ADA,
    ANYWHERE,
    BOB,
    EVE,
    MEMORY_AND_TCP,
    QUICK,
    SETTLED,
    ByHand,
    StreamPairMaker,
    alert,
    cancelled_at,
    closed_port,
    memory_pair,
    open_sockets,
    outcome,
    outcomes,
    relayed,
    reset,
    serving,
    side,
    tcp_pair,
)

Script = Callable[[trio.SocketStream], Awaitable[None]]


async def dial(port: int, *, peer: PeerId | None = None, **options: Any) -> Connection | DialError:
    """Ada dials a port on loopback; what comes of it."""
    who = "" if peer is None else f"{peer}@"
    async with Peer(ADA, **{"limits": QUICK, "suites": (CLASSICAL.id,), **options}) as ada:
        return await outcome(ada.dial, f"tcp://{who}127.0.0.1:{port}")


async def failed_dial(script: Script, **options: Any) -> Any:
    """The error of a dial to where the script answers; the address is in it."""
    async with serving(script) as port:
        error = await dial(port, **options)
    assert isinstance(error, DialError)
    assert error.address == f"127.0.0.1:{port}"
    return error


# --- no response ----------------------------------------------------------------------------------------


async def test_nobody_listens() -> None:
    port = await closed_port()
    error = await dial(port, peer=BOB.id)
    assert isinstance(error, NoResponse)
    assert (error.phase, error.cause) == (Phase.CONNECT, Cause.REFUSED)
    assert (error.address, error.peer) == (f"127.0.0.1:{port}", BOB.id)


async def test_somebody_listens_and_says_nothing() -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await read_to_end(stream)

    error = await failed_dial(silent, limits=Limits(greeting=0.1))
    assert isinstance(error, NoResponse)
    assert (error.phase, error.cause) == (Phase.SYN_ACK, Cause.TIMEOUT)
    assert error.retryable
    assert 0.1 <= error.elapsed < 5


async def test_a_responder_that_never_decides_is_a_timeout_at_the_verdict() -> None:
    async def undecided(stream: trio.SocketStream) -> None:
        hand = ByHand(stream)
        await hand.answer()
        assert await hand.hear_to_end() == b""

    error = await failed_dial(undecided, limits=Limits(greeting=0.3))
    assert isinstance(error, NoResponse)
    assert (error.phase, error.cause) == (Phase.VERDICT, Cause.TIMEOUT)
    assert error.peer == EVE.id


async def at_once(hand: ByHand) -> None:
    pass


async def after_syn(hand: ByHand) -> None:
    await hand.hear_flight()


async def within_syn_ack(hand: ByHand) -> None:
    await hand.hear_flight()
    await hand.say(hand.syn_ack()[:-1])


async def after_syn_ack(hand: ByHand) -> None:
    await hand.hear_flight()
    await hand.say(hand.syn_ack())


async def within_the_verdict(hand: ByHand) -> None:
    await hand.answer()
    await hand.say(hand.ready()[:-1])


LEAVING = [
    (at_once, Phase.SYN_ACK),
    (after_syn, Phase.SYN_ACK),
    (within_syn_ack, Phase.SYN_ACK),
    (after_syn_ack, Phase.VERDICT),
    (ByHand.answer, Phase.VERDICT),
    (within_the_verdict, Phase.VERDICT),
]


@pytest.mark.parametrize(("step", "phase"), LEAVING)
async def test_a_responder_that_ends_its_stream_is_no_response_from_the_phase_it_left(
    step: Callable[[ByHand], Awaitable[None]], phase: Phase
) -> None:
    async def leave(stream: trio.SocketStream) -> None:
        await step(ByHand(stream))
        await stream.send_eof()
        await read_to_end(stream)

    error = await failed_dial(leave)
    assert isinstance(error, NoResponse)
    assert (error.phase, error.cause) == (phase, Cause.CLOSED)
    assert error.retryable


@pytest.mark.parametrize(("step", "phase"), [(after_syn, Phase.SYN_ACK), (ByHand.answer, Phase.VERDICT)])
async def test_a_responder_that_crashes_is_a_reset_in_the_phase_it_was_in(
    step: Callable[[ByHand], Awaitable[None]], phase: Phase
) -> None:
    async def crash(stream: trio.SocketStream) -> None:
        await step(ByHand(stream))
        await reset(stream)

    error = await failed_dial(crash)
    assert isinstance(error, NoResponse)
    assert (error.phase, error.cause) == (phase, Cause.RESET)


@pytest.mark.parametrize(("step", "phase"), LEAVING)
async def test_a_responder_that_closes_without_reading_is_closed_or_reset_but_no_response(
    step: Callable[[ByHand], Awaitable[None]], phase: Phase
) -> None:
    """Which of the two is up to the kernel: what lies unread on its side turns the end into a reset."""

    async def close(stream: trio.SocketStream) -> None:
        await step(ByHand(stream))
        await stream.aclose()

    error = await failed_dial(close)
    assert isinstance(error, NoResponse)
    assert error.phase is phase
    assert error.cause in {Cause.CLOSED, Cause.RESET}


# --- another protocol -----------------------------------------------------------------------------------

HTTP = (
    b"HTTP/1.1 400 Bad Request\r\nServer: nginx/1.24.0\r\nContent-Type: text/html\r\nContent-Length: 157\r\n"
    b"Connection: close\r\n\r\n<html>\r\n<head><title>400 Bad Request</title></head>\r\n"
)
SSH = b"SSH-2.0-OpenSSH_9.6p1 Ubuntu-3ubuntu13.5\r\n"
TLS_ALERT = bytes.fromhex("15 0303 0002 02 32")  # fatal, decode_error
TLS_ALERT_OF_OLD = bytes.fromhex("15 0301 0002 02 46")  # fatal, protocol_version
TLS_SERVER_HELLO = bytes.fromhex("16 0303 007a 02 000076 0303") + bytes(32)

FOREIGN = [
    ("HTTP", HTTP),
    ("HTTP", b"HTTP/1.0 400 Bad request\r\n\r\n"),
    ("SSH", SSH),
    ("TLS", TLS_ALERT),
    ("TLS", TLS_ALERT_OF_OLD),
    ("TLS", TLS_SERVER_HELLO),
    (None, b"220 mail.example.org ESMTP Postfix\r\n"),
    (None, b"-ERR unknown command\r\n"),
    (None, b"RFB 003.008\n"),
    (None, bytes.fromhex("4a0000000a382e302e333600")),  # MySQL
    (None, b"\xff\xfd\x18\xff\xfd\x20"),  # telnet
]


@pytest.mark.parametrize(("protocol", "answer"), FOREIGN)
@pytest.mark.parametrize("piecemeal", [False, True], ids=["whole", "byte-by-byte"])
async def test_another_protocol_behind_the_port_is_named_where_it_can_be_told(
    protocol: str | None, answer: bytes, piecemeal: bool
) -> None:
    heard: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        for part in [answer[i : i + 1] for i in range(len(answer))] if piecemeal else [answer]:
            try:
                await stream.send_all(part)
            except trio.BrokenResourceError:  # he has understood, and left
                return
        heard.append(await read_to_end(stream))

    error = await failed_dial(serve)
    assert isinstance(error, NoResponse)
    assert (error.phase, error.cause) == (Phase.SYN_ACK, Cause.FOREIGN)
    assert error.protocol == protocol
    assert not error.retryable
    if protocol:
        assert protocol in str(error)
    assert all(ABORTED not in said for said in heard)  # an initiator sends no ALERT for it: it closes


@pytest.mark.parametrize("start", [b"H", b"HTTP", b"S", b"\x16", b"\x16\x03"])
async def test_too_little_of_another_protocol_is_foreign_all_the_same(start: bytes) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(start)
        await stream.send_eof()
        await read_to_end(stream)

    error = await failed_dial(serve)
    assert isinstance(error, NoResponse)
    assert (error.phase, error.cause) == (Phase.SYN_ACK, Cause.FOREIGN)


async def test_an_echo_of_our_own_bytes_is_another_protocol() -> None:
    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    error = await failed_dial(echo)
    assert isinstance(error, NoResponse)
    assert (error.phase, error.cause, error.protocol) == (Phase.SYN_ACK, Cause.FOREIGN, None)


# --- frames that fail their checks ----------------------------------------------------------------------

INSTEAD_OF_SYN_ACK = {
    "a SYN": (encode_frame(FrameType.SYN, bytes(32)), Cause.BROKEN),
    "an ACK": (encode_frame(FrameType.ACK, bytes(400)), Cause.BROKEN),
    "a RECORD": (encode_frame(FrameType.RECORD, bytes(40)), Cause.BROKEN),
    "a SYN-ACK too short": (encode_frame(FrameType.SYN_ACK, bytes(96 + 127)), Cause.BROKEN),
    "a SYN-ACK too long": (encode_frame(FrameType.SYN_ACK, bytes(96 + 16385)), Cause.BROKEN),
    "an empty ALERT": (encode_frame(FrameType.ALERT, b""), Cause.FOREIGN),
    "an ALERT too long": (encode_frame(FrameType.ALERT, bytes(66)), Cause.FOREIGN),
    "an unknown frame": (encode_frame(0x42, bytes(10)), Cause.FOREIGN),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("frame", "cause"), INSTEAD_OF_SYN_ACK.values(), ids=INSTEAD_OF_SYN_ACK)
async def test_what_comes_instead_of_a_syn_ack_is_no_response_and_not_answered(frame: bytes, cause: Cause) -> None:
    said = b""

    async def answer(stream: trio.SocketStream) -> None:
        nonlocal said
        hand = ByHand(stream)
        await hand.hear_flight()
        await hand.say(frame)
        said = await hand.hear_to_end()

    error = await failed_dial(answer)
    assert isinstance(error, NoResponse)
    assert (error.phase, error.cause) == (Phase.SYN_ACK, cause)
    assert said == b""


def flipped(frame: bytes, at: int = -1) -> bytes:
    changed = bytearray(frame)
    changed[at] ^= 0x01
    return bytes(changed)


def oversized(hand: ByHand) -> bytes:
    """A record of the largest size there is: valid, or nearly so, and no VERDICT."""
    return encode_frame(FrameType.RECORD, bytes(65535))


INSTEAD_OF_VERDICT: dict[str, Callable[[ByHand], bytes]] = {
    "a record that does not decrypt": lambda hand: encode_frame(FrameType.RECORD, bytes(60)),
    "the largest record, that does not decrypt": oversized,
    "a record shorter than its tag": lambda hand: encode_frame(FrameType.RECORD, bytes(15)),
    "a DATA": lambda hand: hand.record(RecordType.DATA, b"I take it that you like me"),
    "a CLOSE": lambda hand: hand.record(RecordType.CLOSE, Close(CloseCode.POLICY).encode()),
    "a PING": lambda hand: hand.record(RecordType.PING, b"\x00" + bytes(8)),
    "an empty VERDICT": lambda hand: hand.record(RecordType.VERDICT),
    "a VERDICT that is no map": lambda hand: hand.record(RecordType.VERDICT, b"\x00"),
    "a VERDICT without a code": lambda hand: hand.record(RecordType.VERDICT, b"\x80"),
    "a VERDICT with an unknown critical key": lambda hand: hand.record(
        RecordType.VERDICT, b"\x82\xa2!x\xc3\xa4code\x00"
    ),
    "the right VERDICT under the next nonce": lambda hand: hand.record(RecordType.DATA, b"lost") and hand.ready(),
    "the right VERDICT with a flipped bit": lambda hand: flipped(hand.ready()),
    "the right VERDICT labelled ACK": lambda hand: b"\x03" + hand.ready()[1:],
    "a SYN-ACK again": lambda hand: encode_frame(FrameType.SYN_ACK, bytes(96 + 256)),
    "an unknown frame": lambda hand: b"\x42" + hand.ready()[1:],
    "an empty ALERT": lambda hand: encode_frame(FrameType.ALERT, b""),
    "HTTP": lambda hand: HTTP,
}


@pytest.mark.parametrize("answer", INSTEAD_OF_VERDICT.values(), ids=INSTEAD_OF_VERDICT)
async def test_what_comes_instead_of_a_verdict_is_broken_and_never_accepted(
    answer: Callable[[ByHand], bytes],
) -> None:
    said = b""

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal said
        hand = ByHand(stream)
        await hand.answer()
        await hand.say(answer(hand))
        said = await hand.hear_to_end()

    error = await failed_dial(serve)
    assert isinstance(error, NoResponse)
    assert (error.phase, error.cause) == (Phase.VERDICT, Cause.BROKEN)
    assert error.peer == EVE.id
    assert error.session_id is not None
    assert said == b""


# --- rejected -------------------------------------------------------------------------------------------

ALERTS: list[tuple[bytes, AlertCode | int, dict[str, object]]] = [
    (alert(0x01), AlertCode.MALFORMED, {}),
    (alert(0x02, b"\x02\x05"), AlertCode.UNSUPPORTED_VERSION, {"versions": (2, 5)}),
    (alert(0x02, b"\x02"), AlertCode.UNSUPPORTED_VERSION, {}),
    (alert(0x03, b"\x00\x01\x4a\x4a"), AlertCode.UNSUPPORTED_SUITE, {"suites": (0x0001, 0x4A4A)}),
    (alert(0x03, b"\x00\x01\x4a"), AlertCode.UNSUPPORTED_SUITE, {}),
    (alert(0x04), AlertCode.WRONG_NETWORK, {}),
    (alert(0x05, b"\x00\x1e"), AlertCode.BUSY, {"retry_after": 30}),
    (alert(0x05), AlertCode.BUSY, {}),
    (alert(0x05, b"\x01\x02\x03"), AlertCode.BUSY, {}),
    (alert(0x06), AlertCode.HANDSHAKE_FAILED, {}),
    (alert(0x06, b"because"), AlertCode.HANDSHAKE_FAILED, {}),
    (alert(0x07), AlertCode.TIMEOUT, {}),
    (alert(0x08), AlertCode.GOING_AWAY, {}),
    (alert(0x0A), AlertCode.ABORTED, {}),
    (alert(0x09), 0x09, {}),
    (alert(0x00, bytes(64)), 0x00, {}),
    (alert(0xFF, b"\x00\x1e"), 0xFF, {}),
]


@pytest.mark.parametrize(("frame", "reason", "facts"), ALERTS)
@pytest.mark.parametrize("late", [False, True], ids=["instead of SYN-ACK", "instead of VERDICT"])
async def test_an_alert_is_a_rejection_that_anyone_may_have_written(
    frame: bytes, reason: AlertCode | int, facts: dict[str, object], late: bool
) -> None:
    said = b""

    async def refuse(stream: trio.SocketStream) -> None:
        nonlocal said
        hand = ByHand(stream)
        await (ByHand.answer if late else after_syn)(hand)
        await hand.say(frame)
        said = await hand.hear_to_end()

    error = await failed_dial(refuse)
    assert isinstance(error, Rejected)
    assert error.reason == reason
    assert not error.authenticated
    assert error.text is None
    told = {"versions": error.versions, "suites": error.suites, "retry_after": error.retry_after}
    assert told == {"versions": None, "suites": None, "retry_after": None} | facts
    assert error.retryable is (reason in {AlertCode.BUSY, AlertCode.TIMEOUT, AlertCode.GOING_AWAY})
    assert said == b""  # an ALERT is never answered


async def test_a_refusal_that_came_before_the_stream_broke_is_read_first() -> None:
    """BUSY may be sent before anything is read, and then our SYN finds nobody."""
    at_ada, at_hand = memory_stream_pair()
    await at_hand.send_all(alert(0x05, b"\x00\x05"))
    at_hand.receive_stream.close()
    ada = await outcome(initiate, at_ada, ADA, **side(ADA).options)
    assert isinstance(ada, Rejected)
    assert (ada.reason, ada.retry_after) == (AlertCode.BUSY, 5)


async def test_a_stream_that_breaks_before_anything_came_is_a_reset() -> None:
    at_ada, at_hand = memory_stream_pair()
    at_hand.receive_stream.close()
    at_hand.send_stream.close()
    ada = await outcome(initiate, at_ada, ADA, **side(ADA).options)
    assert isinstance(ada, NoResponse)
    assert (ada.phase, ada.cause) == (Phase.SYN_ACK, Cause.RESET)


VERDICTS = [code for code in VerdictCode if code is not VerdictCode.READY]
RETRYABLE_VERDICTS = {
    VerdictCode.CAPACITY,
    VerdictCode.SHUTTING_DOWN,
    VerdictCode.POLICY_TIMEOUT,
    VerdictCode.INTERNAL,
    VerdictCode.CROSSING,
}


@pytest.mark.parametrize("reason", [*VERDICTS, 0x8001, 0xFFFF, 0x0204, 0x0999])
async def test_a_verdict_that_is_not_ready_is_an_authenticated_rejection(reason: VerdictCode | int) -> None:
    said = b""

    async def refuse(stream: trio.SocketStream) -> None:
        nonlocal said
        hand = ByHand(stream)
        await hand.answer()
        await hand.say(
            hand.verdict(Verdict(reason, 7, "192.0.2.7:4711", "not today")),
            hand.record(RecordType.CLOSE, Close().encode()),
        )
        said = await hand.hear_to_end()

    error = await failed_dial(refuse)
    assert isinstance(error, Rejected)
    assert error.reason == reason
    assert (error.authenticated, error.text, error.retry_after) == (True, "not today", 7)
    assert error.retryable is (reason in RETRYABLE_VERDICTS)
    assert error.peer == EVE.id
    assert error.session_id is not None
    assert said == b""  # the rejected initiator sends nothing more


# --- refused by us --------------------------------------------------------------------------------------


@dataclass
class Overheard:
    """A responder by hand, who keeps what the dialer said behind his SYN."""

    answer: Callable[[ByHand], bytes]
    identity: Identity = EVE
    static_key: KeyPair | None = None
    behind_syn: bytes | None = None

    async def __call__(self, stream: trio.abc.Stream) -> None:
        hand = ByHand(stream, self.identity, static_key=self.static_key)
        await hand.hear_flight()
        await hand.say(self.answer(hand))
        self.behind_syn = await hand.hear_to_end()


def honestly(hand: ByHand) -> bytes:
    return hand.syn_ack()


async def test_the_wrong_identity_hears_aborted_and_nothing_that_names_the_dialer() -> None:
    overheard = Overheard(honestly)
    error = await failed_dial(overheard, peer=BOB.id)
    assert isinstance(error, WrongIdentity)
    assert (error.expected, error.actual, error.peer) == (BOB.id, EVE.id, EVE.id)
    assert not error.retryable
    assert str(BOB.id) in str(error)
    assert str(EVE.id) in str(error)
    assert overheard.behind_syn == ABORTED


async def test_our_own_policy_may_refuse_whoever_answers() -> None:
    overheard = Overheard(honestly)
    error = await failed_dial(overheard, trust=only(BOB.id))
    assert isinstance(error, Untrusted)
    assert error.reason is VerdictCode.IDENTITY_UNKNOWN
    assert (error.verdict, error.peer) == (reject(VerdictCode.IDENTITY_UNKNOWN), EVE.id)
    assert overheard.behind_syn == ABORTED


async def raises(introduction: Introduction) -> Decision:
    raise KeyError("no such row")


async def hangs(introduction: Introduction) -> Decision:
    await trio.sleep_forever()
    raise AssertionError


def returns(value: object) -> Policy:
    async def nonsense(introduction: Introduction) -> Any:
        return value

    return nonsense


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (raises, VerdictCode.INTERNAL),
        (returns(None), VerdictCode.INTERNAL),
        (returns(True), VerdictCode.INTERNAL),
        (hangs, VerdictCode.POLICY_TIMEOUT),
        (returns(reject(0x8001, "never", retry_after=1)), 0x8001),
    ],
    ids=["raises", "None", "True", "hangs", "own code"],
)
async def test_whatever_our_policy_does_a_stranger_hears_no_more_than_aborted(
    policy: Policy, reason: VerdictCode | int
) -> None:
    overheard = Overheard(honestly)
    error = await failed_dial(overheard, trust=policy, limits=Limits(policy=0.1, drain_after_alert=0.2))
    assert isinstance(error, Untrusted)
    assert error.reason == reason
    assert overheard.behind_syn == ABORTED


@dataclass(frozen=True)
class Fault:
    """What is wrong with a greeting, and the reason that it gets."""

    reason: VerdictCode
    changes: dict[str, Any] | None = None
    payload: bytes | None = None

    def within(self, hand: ByHand) -> dict[str, Any]:
        if self.payload is not None:
            return {"payload": self.payload}
        return {"greeting": hand.honest(**self.changes or {})}


FAULTS = {
    "the key of another": Fault(VerdictCode.BAD_SIGNATURE, {"id": Identity.generate().id.key}),
    "an unknown algorithm": Fault(VerdictCode.BAD_IDENTITY_KEY, {"alg": "rsa"}),
    "a key of small order": Fault(VerdictCode.BAD_IDENTITY_KEY, {"id": bytes(32)}),
    "no role of the two": Fault(VerdictCode.BAD_GREETING, {"role": "witness"}),
    "no msgpack": Fault(VerdictCode.BAD_GREETING, payload=b"\xc1" * 256),
    "a critical key that nobody knows": Fault(VerdictCode.UNSUPPORTED_CRITICAL, {"extra": {"!new": 1}}),
    "its time is over": Fault(VerdictCode.EXPIRED, {"exp": 1}),
    "not the suite that both would have chosen": Fault(VerdictCode.DOWNGRADE, {"offers": (0x0002,)}),
    "not the version that both speak": Fault(VerdictCode.DOWNGRADE, {"vers": (2, 3)}),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_responder_whose_greeting_fails_a_check_is_refused_and_hears_aborted(fault: Fault) -> None:
    asked = []

    async def policy(introduction: Introduction) -> Decision:
        asked.append(introduction)
        return accept()

    overheard = Overheard(lambda hand: hand.syn_ack(**fault.within(hand)))
    error = await failed_dial(overheard, trust=policy)
    assert isinstance(error, BadHandshake)
    assert error.reason is fault.reason
    assert not error.retryable
    assert fault.reason.name in str(error)
    assert overheard.behind_syn == ABORTED
    assert asked == []  # nothing of a greeting reaches the application before it is verified


@pytest.mark.parametrize("at", [3, 40, 90, -1], ids=["e", "s", "its tag", "the payload's tag"])
async def test_a_syn_ack_changed_on_the_way_is_a_bad_handshake(at: int) -> None:
    overheard = Overheard(lambda hand: flipped(hand.syn_ack(), at))
    error = await failed_dial(overheard)
    assert isinstance(error, BadHandshake)
    assert error.reason is AlertCode.HANDSHAKE_FAILED
    assert error.peer is None  # nobody has proved anything
    assert overheard.behind_syn == ABORTED


async def test_a_responder_with_our_own_identity_is_ourselves() -> None:
    """Another process of ours, say: the same identity, and another static key."""
    overheard = Overheard(honestly, ADA, KeyPair())
    error = await failed_dial(overheard)
    assert isinstance(error, Refused)
    assert error.reason is VerdictCode.SELF
    assert overheard.behind_syn == ABORTED


# --- impostors ------------------------------------------------------------------------------------------


async def old_syn_ack_of_bob() -> bytes:
    """What Bob once said to Eve, his signature and all."""
    at_eve, at_bob = await memory_pair()
    eve = ByHand(at_eve)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(outcome, respond, at_bob, BOB, **side(BOB).options))
        await eve.say(eve.flight())
        payload = await eve.hear_syn_ack(BOB.id)
        await at_eve.aclose()
    return payload


async def old_ack_of_ada() -> bytes:
    """What Ada once said to Eve."""
    at_ada, at_eve = await memory_pair()
    eve = ByHand(at_eve)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(outcome, initiate, at_ada, ADA, **side(ADA).options))
        await eve.hear_flight()
        await eve.say(eve.syn_ack())
        payload = await eve.hear_ack()
        await at_eve.aclose()
    return payload


async def test_a_stolen_static_key_and_an_old_greeting_do_not_make_a_responder() -> None:
    old = await old_syn_ack_of_bob()
    thief = Overheard(lambda hand: hand.syn_ack(payload=old), EVE, BOB.static_key)
    error = await failed_dial(thief, peer=BOB.id)
    assert isinstance(error, BadHandshake)
    assert error.reason is VerdictCode.BAD_SIGNATURE
    assert thief.behind_syn == ABORTED


async def test_a_stolen_static_key_and_an_old_greeting_do_not_make_an_initiator() -> None:
    old = await old_ack_of_ada()
    async with answering(trust=only(ADA.id)) as (hand, ended):
        hand.static_key = ADA.static_key
        await hand.say(hand.flight())
        await hand.hear_syn_ack(BOB.id)
        await hand.say(hand.ack(payload=old))
        assert (await hand.hear_verdict()).code is VerdictCode.BAD_SIGNATURE
    error = ended()
    assert isinstance(error, BadHandshake)
    assert error.reason is VerdictCode.BAD_SIGNATURE


async def test_a_greeting_meant_for_another_responder_is_not_good_for_us() -> None:
    """Eve, dialed by Ada, passes Ada's greeting on: it is signed for Eve, not for Bob."""
    async with answering() as (hand, ended):
        await hand.say(hand.flight())
        await hand.hear_syn_ack(EVE.id)
        await hand.say(hand.ack())
        assert (await hand.hear_verdict()).code is VerdictCode.BAD_SIGNATURE
    assert isinstance(ended(), BadHandshake)


@pytest.mark.parametrize(
    ("static_key", "reason"), [(KeyPair(), VerdictCode.BAD_SIGNATURE), (BOB.static_key, VerdictCode.SELF)]
)
async def test_whoever_has_our_own_keys_is_nobody_else_to_us(static_key: KeyPair, reason: VerdictCode) -> None:
    """A thief of Bob's keys may be Bob to others; to Bob he is not Ada."""
    async with answering(trust=only(ADA.id)) as (hand, ended):
        hand.identity, hand.static_key = BOB, static_key
        await hand.say(hand.flight())
        await hand.hear_syn_ack(BOB.id)
        await hand.say(hand.ack(hand.honest(id=ADA.id.key)))
        await hand.hear_frame()
    assert isinstance(ended(), Refused)
    assert ended().reason is reason


# --- as the responder -----------------------------------------------------------------------------------


class Ending:
    """What came of a greeting, once it has ended."""

    def __init__(self) -> None:
        self._ended = trio.Event()
        self._end: SecureStream | DialError | None = None
        self.at = 0.0

    def set(self, end: SecureStream | DialError) -> None:
        self._end, self.at = end, trio.current_time()
        self._ended.set()

    async def wait(self) -> None:
        await self._ended.wait()

    def __call__(self) -> Any:
        assert self._ended.is_set()
        return self._end


@asynccontextmanager
async def answering(transport: StreamPairMaker = tcp_pair, **options: Any) -> AsyncIterator[tuple[ByHand, Ending]]:
    """A dialer in our hands, and what comes of it for Bob, who answers: ended, latest, behind the block."""
    at_hand, at_bob = await transport()
    ending = Ending()

    async def answer() -> None:
        ending.set(await outcome(respond, at_bob, BOB, **{**side(BOB).options, **options}))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        yield ByHand(at_hand), ending
        await at_hand.aclose()
    if isinstance(ending(), SecureStream):
        await trio.aclose_forcefully(ending())


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_an_initiator_whose_greeting_fails_a_check_is_told_which_and_bob_knows_the_same(
    fault: Fault,
) -> None:
    asked = []

    async def policy(introduction: Introduction) -> Decision:
        asked.append(introduction)
        return accept()

    async with answering(trust=policy) as (hand, ended):
        assert isinstance(hand.stream, trio.SocketStream)
        here = hand.stream.socket.getsockname()
        await hand.say(hand.flight())
        await hand.hear_syn_ack(BOB.id)
        await hand.say(hand.ack(**fault.within(hand)))
        assert (await hand.hear_verdict()).code is fault.reason
        assert (await hand.hear_close()).code is CloseCode.NORMAL
        assert await hand.hear_to_end() == b""
    error = ended()
    assert isinstance(error, BadHandshake)
    assert error.reason is fault.reason
    assert error.session_id is not None
    assert error.address == f"{here[0]}:{here[1]}"
    assert asked == []


async def test_an_initiator_with_our_own_identity_is_ourselves() -> None:
    async with answering() as (hand, ended):
        hand.identity, hand.static_key = BOB, KeyPair()
        await hand.say(hand.flight())
        await hand.hear_syn_ack(BOB.id)
        await hand.say(hand.ack())
        assert (await hand.hear_verdict()).code is VerdictCode.SELF
    assert isinstance(ended(), Refused)
    assert ended().reason is VerdictCode.SELF


async def test_an_initiator_with_our_own_static_key_is_ourselves_and_sees_any_failure() -> None:
    async with answering() as (hand, ended):
        hand.identity, hand.static_key = BOB, BOB.static_key
        await hand.say(hand.flight())
        await hand.hear_syn_ack(BOB.id)
        await hand.say(hand.ack())
        assert await hand.hear_to_end() == alert(0x06)
    assert isinstance(ended(), Refused)
    assert ended().reason is VerdictCode.SELF


@pytest.mark.parametrize("at", [3, 50, -1], ids=["s", "its tag", "the payload's tag"])
async def test_an_ack_changed_on_the_way_is_refused_in_clear(at: int) -> None:
    async with answering() as (hand, ended):
        await hand.say(hand.flight())
        await hand.hear_syn_ack(BOB.id)
        await hand.say(flipped(hand.ack(), at))
        assert await hand.hear_to_end() == alert(0x06)
    assert isinstance(ended(), BadHandshake)
    assert ended().reason is AlertCode.HANDSHAKE_FAILED


def other_suites(hand: ByHand) -> bytes:
    hand.suite, hand.offers = HYBRID, (HYBRID.id,)
    return hand.flight()


def other_network(hand: ByHand) -> bytes:
    hand.network = Network("elsewhere")
    return hand.flight()


def edited(at: int, part: bytes) -> Callable[[ByHand], bytes]:
    """The flight up to there, and then this."""
    return lambda hand: hand.flight()[:at] + part


END_OF_PREFACE = 21
FLIGHTS: dict[str, tuple[Callable[[ByHand], bytes], AlertCode, bytes]] = {
    "version 2": (edited(4, b"\x02"), AlertCode.UNSUPPORTED_VERSION, alert(2, b"\x01\x01")),
    "version_max below version": (edited(5, bytes(20)), AlertCode.MALFORMED, alert(1)),
    "no offers": (edited(8, bytes(20)), AlertCode.MALFORMED, alert(1)),
    "nine offers": (edited(8, b"\x09" + bytes(20)), AlertCode.MALFORMED, alert(1)),
    "too long an extension": (edited(9, b"\x01\x01"), AlertCode.MALFORMED, alert(1)),
    "a suite outside its offers": (lambda hand: hand.flight(suite=2), AlertCode.MALFORMED, alert(1)),
    "no suite in common": (other_suites, AlertCode.UNSUPPORTED_SUITE, alert(3, b"\x00\x01")),
    "another network": (other_network, AlertCode.WRONG_NETWORK, alert(4)),
    "a SYN too short": (edited(END_OF_PREFACE, b"\x01\x00\x1f"), AlertCode.MALFORMED, alert(1)),
    "a SYN too long": (edited(END_OF_PREFACE, b"\x01\x00\x21"), AlertCode.MALFORMED, alert(1)),
    "an ACK instead of SYN": (edited(END_OF_PREFACE, b"\x03"), AlertCode.MALFORMED, alert(1)),
    "an unknown frame": (edited(END_OF_PREFACE, b"\x42"), AlertCode.MALFORMED, alert(1)),
    "an e of small order": (edited(END_OF_PREFACE + 3, bytes(32)), AlertCode.HANDSHAKE_FAILED, alert(6)),
}


@pytest.mark.parametrize(("flight", "reason", "answer"), FLIGHTS.values(), ids=FLIGHTS)
async def test_a_flight_that_fails_a_check_is_refused_in_clear_with_the_reason(
    flight: Callable[[ByHand], bytes], reason: AlertCode, answer: bytes
) -> None:
    async with answering() as (hand, ended):
        await hand.say(flight(hand))
        assert await hand.hear_to_end() == answer
    error = ended()
    assert isinstance(error, BadHandshake)
    assert error.reason is reason
    assert error.peer is error.session_id is None


HTTP_GET = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:4711\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n"
TLS_CLIENT_HELLO = bytes.fromhex("16 0301 00c5 01 0000c1 0303") + bytes(190)


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        ("HTTP", HTTP_GET),
        ("HTTP", b"POST /login HTTP/1.1\r\n"),
        ("HTTP", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("TLS", TLS_CLIENT_HELLO),
        ("SSH", SSH),
        (None, b"EHLO scanner.example.org\r\n"),
        (None, bytes(64)),
        (None, b"\xf0\x9f\xa4\x9c\x01\x01"),  # three bytes of the magic, and another
    ],
)
@pytest.mark.parametrize("piecemeal", [False, True], ids=["whole", "byte-by-byte"])
async def test_a_dialer_that_speaks_another_protocol_is_closed_without_a_word(
    protocol: str | None, said: bytes, piecemeal: bool
) -> None:
    async with answering() as (hand, ended):
        for part in [said[i : i + 1] for i in range(4)] if piecemeal else [said]:
            await hand.say(part)
        assert await hand.hear_to_end() == b""
    error = ended()
    assert isinstance(error, NoResponse)
    assert (error.phase, error.cause, error.protocol) == (Phase.SYN, Cause.FOREIGN, protocol)


@pytest.mark.parametrize(
    ("step", "phase"),
    [
        (at_once, Phase.SYN),
        (lambda hand: hand.say(hand.flight()[:-1]), Phase.SYN),
        (lambda hand: hand.say(hand.flight()), Phase.ACK),
    ],
    ids=["at once", "within SYN", "after SYN"],
)
@MEMORY_AND_TCP
async def test_a_dialer_that_ends_its_stream_is_no_response_and_hears_nothing_more(
    transport: StreamPairMaker, step: Callable[[ByHand], Awaitable[None]], phase: Phase
) -> None:
    async with answering(transport) as (hand, ended):
        await step(hand)
        assert isinstance(hand.stream, trio.abc.HalfCloseableStream)
        await hand.stream.send_eof()
        if phase is Phase.ACK:
            await hand.hear_syn_ack(BOB.id)
        assert await hand.hear_to_end() == b""
    error = ended()
    assert isinstance(error, NoResponse)
    assert (error.phase, error.cause) == (phase, Cause.CLOSED)


async def test_a_dialer_that_crashes_is_a_reset() -> None:
    async with answering() as (hand, ended):
        await hand.say(hand.flight())
        await hand.hear_syn_ack(BOB.id)
        assert isinstance(hand.stream, trio.SocketStream)
        await reset(hand.stream)
    error = ended()
    assert isinstance(error, NoResponse)
    assert (error.phase, error.cause) == (Phase.ACK, Cause.RESET)


async def test_a_dialer_that_is_gone_when_he_is_accepted_is_a_reset() -> None:
    at_hand, at_bob = memory_stream_pair()
    hand = ByHand(at_hand)
    considering, decided = trio.Event(), trio.Event()

    async def consider(introduction: Introduction) -> Decision:
        considering.set()
        await decided.wait()
        return accept()

    async def leave() -> None:
        await hand.call(BOB.id)
        await considering.wait()
        at_hand.receive_stream.close()
        decided.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        error = await outcome(respond, at_bob, BOB, **side(BOB, trust=consider).options)
    assert isinstance(error, NoResponse)
    assert (error.phase, error.cause) == (Phase.ACK, Cause.RESET)


async def test_a_dialer_that_is_gone_when_he_is_refused_is_not_waited_for(autojump_clock: MockClock) -> None:
    async with answering(memory_pair, trust=returns(reject())) as (hand, ended):
        await hand.call(BOB.id)
        await hand.stream.aclose()
        await ended.wait()
        assert ended.at == trio.current_time()
    assert isinstance(ended(), Untrusted)


@pytest.mark.parametrize("knows_bob", [False, True], ids=["instead of SYN", "instead of ACK"])
async def test_a_dialer_that_aborts_is_a_rejection_and_not_answered(knows_bob: bool) -> None:
    async with answering() as (hand, ended):
        flight = hand.flight()
        await hand.say(flight if knows_bob else flight[:END_OF_PREFACE])
        if knows_bob:
            await hand.hear_syn_ack(BOB.id)
        await hand.say(ABORTED)
        assert await hand.hear_to_end() == b""
    error = ended()
    assert isinstance(error, Rejected)
    assert (error.reason, error.authenticated) == (AlertCode.ABORTED, False)


@pytest.mark.parametrize("frame", [alert(0x0A)[:2] + b"\x00", alert(0x0A, bytes(70))], ids=["empty", "too long"])
async def test_a_malformed_alert_is_not_answered_by_an_alert_either(frame: bytes) -> None:
    async with answering() as (hand, ended):
        await hand.say(hand.flight())
        await hand.hear_syn_ack(BOB.id)
        await hand.say(frame)
        assert await hand.hear_to_end() == b""
    assert isinstance(ended(), NoResponse)
    assert (ended().phase, ended().cause) == (Phase.ACK, Cause.BROKEN)


# --- the responder's policy -----------------------------------------------------------------------------


async def test_a_policy_is_told_who_and_whence_and_what_it_says_of_itself() -> None:
    told: dict[Role, Introduction] = {}

    async def remember(introduction: Introduction) -> Decision:
        told[introduction.role] = introduction
        return accept()

    ada, bob = await outcomes(
        await tcp_pair(),
        side(ADA, trust=remember, agent="ada/1", app=b"A"),
        side(BOB, trust=remember, agent="bob/2", app=b"B"),
    )
    assert isinstance(ada, SecureStream)
    assert isinstance(bob, SecureStream)
    of_ada, of_bob = told[Role.INITIATOR], told[Role.RESPONDER]
    assert (of_ada.peer, of_ada.agent, of_ada.app) == (ADA.id, "ada/1", b"A")
    assert (of_bob.peer, of_bob.agent, of_bob.app) == (BOB.id, "bob/2", b"B")
    assert (of_ada.address, of_bob.address) == (bob.address, ada.address)
    # Ada decides before there is a session: her ACK is not written yet.
    assert (of_ada.session_id, of_bob.session_id) == (bob.session_id, None)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (returns(reject()), Verdict(VerdictCode.POLICY)),
        (returns(reject(text="members only")), Verdict(VerdictCode.POLICY, text="members only")),
        (
            returns(reject(VerdictCode.CAPACITY, "full", retry_after=3600)),
            Verdict(VerdictCode.CAPACITY, 3600, text="full"),
        ),
        (returns(reject(VerdictCode.IDENTITY_BLOCKED)), Verdict(VerdictCode.IDENTITY_BLOCKED)),
        (returns(reject(0x8001, "the moon is full")), Verdict(0x8001, text="the moon is full")),
        (returns(reject(0xFFFF)), Verdict(0xFFFF)),
        (returns(reject(text="ä" * 128)), Verdict(VerdictCode.POLICY, text="ä" * 128)),
        (only(BOB.id), Verdict(VerdictCode.IDENTITY_UNKNOWN)),
        (raises, Verdict(VerdictCode.INTERNAL)),
        (hangs, Verdict(VerdictCode.POLICY_TIMEOUT)),
        (returns(None), Verdict(VerdictCode.INTERNAL)),
        (returns(True), Verdict(VerdictCode.INTERNAL)),
        (returns(VerdictCode.READY), Verdict(VerdictCode.INTERNAL)),
    ],
)
@MEMORY_AND_TCP
async def test_what_the_policy_says_no_with_is_what_the_dialer_reads(
    transport: StreamPairMaker, policy: Policy, expected: Verdict
) -> None:
    ada, bob = await outcomes(await transport(), None, side(BOB, trust=policy, limits=Limits(policy=0.1)))
    assert isinstance(ada, Rejected)
    assert (ada.reason, ada.text, ada.retry_after) == (expected.code, expected.text, expected.retry)
    assert ada.authenticated
    assert ada.peer == BOB.id
    assert isinstance(bob, Untrusted)
    assert bob.reason == bob.verdict.reason == expected.code
    assert bob.peer == ADA.id
    assert ada.session_id == bob.session_id is not None
    assert bob.session_id is not None


async def test_what_a_policy_raises_is_in_the_log_and_nowhere_on_the_wire(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ada, _ = await outcomes(await memory_pair(), None, side(BOB, trust=raises))
    assert isinstance(ada, Rejected)
    assert ada.text is None
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("trishake", logging.ERROR)
    assert str(ADA.id) in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


async def test_what_a_policy_returns_instead_of_a_decision_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await outcomes(await memory_pair(), None, side(BOB, trust=returns("yes")))
    (record,) = caplog.records
    assert "'yes'" in record.getMessage()
    assert record.levelno == logging.ERROR


@pytest.mark.parametrize("retry_after", [-1, 1.5, 2**64])
async def test_a_decision_that_no_verdict_can_carry_is_the_policys_failure(retry_after: Any) -> None:
    """`reject` says that it raises ValueError for what no verdict can carry; then it is INTERNAL."""

    async def impatient(introduction: Introduction) -> Decision:
        return reject(retry_after=retry_after)

    ada, bob = await outcomes(await memory_pair(), None, side(BOB, trust=impatient))
    assert isinstance(ada, Rejected)
    assert ada.reason is VerdictCode.INTERNAL
    assert isinstance(bob, Untrusted)


async def test_the_reason_arrives_though_the_dialer_talks_and_the_responder_has_closed() -> None:
    """What is unread when a socket closes turns the close into a reset, and that destroys the reason."""
    async with answering(trust=returns(reject(text="read this"))) as (hand, ended):
        await hand.say(hand.flight())
        await hand.hear_syn_ack(BOB.id)
        await hand.say(hand.ack(), *(hand.record(RecordType.DATA, bytes(1000)) for _ in range(100)))
        assert isinstance(hand.stream, trio.abc.HalfCloseableStream)
        await hand.stream.send_eof()
        await ended.wait()
        assert (await hand.hear_verdict()).text == "read this"
        assert (await hand.hear_close()).code is CloseCode.NORMAL
        assert await hand.hear_to_end() == b""


@pytest.mark.parametrize(
    ("refused_by", "seconds"), [("verdict", 5), ("alert", 1)], ids=["behind a verdict", "behind an alert"]
)
async def test_a_refused_dialer_who_never_leaves_is_waited_for_only_so_long(
    autojump_clock: MockClock, refused_by: str, seconds: float
) -> None:
    async with answering(memory_pair, trust=returns(reject()), limits=Limits()) as (hand, ended):
        started = trio.current_time()
        await hand.say(hand.flight())
        await hand.hear_syn_ack(BOB.id)
        await hand.say(hand.ack() if refused_by == "verdict" else flipped(hand.ack()))
        await ended.wait()
        assert ended.at - started == pytest.approx(seconds)
    assert isinstance(ended(), Refused)


async def test_a_refused_dialer_who_talks_and_talks_is_not_even_waited_for(autojump_clock: MockClock) -> None:
    async with answering(memory_pair, trust=returns(reject()), limits=Limits()) as (hand, ended):
        started = trio.current_time()
        await hand.say(hand.flight())
        await hand.hear_syn_ack(BOB.id)
        await hand.say(hand.ack(), bytes(Limits().drain_bytes + 20 * 1024))
        await ended.wait()
        assert ended.at == started


# --- deadlines ------------------------------------------------------------------------------------------


def part_of_the_flight(length: int) -> Callable[[ByHand], Awaitable[None]]:
    async def say(hand: ByHand) -> None:
        await hand.say(hand.flight()[:length])

    return say


async def trickle(hand: ByHand, data: bytes) -> None:
    """One byte a second, until nobody takes them any more."""
    for at in range(30):
        try:
            await hand.say(data[at : at + 1])
        except trio.BrokenResourceError:
            return
        await trio.sleep(1)


async def flight_one_byte_a_second(hand: ByHand) -> None:
    await trickle(hand, hand.flight())


async def call_and_stop(hand: ByHand) -> None:
    await hand.say(hand.flight())
    await hand.hear_syn_ack(BOB.id)


async def call_late_and_stop(hand: ByHand) -> None:
    await trio.sleep(4)
    await call_and_stop(hand)


async def ack_one_byte_a_second(hand: ByHand) -> None:
    await call_and_stop(hand)
    await trickle(hand, hand.ack())


@pytest.mark.parametrize(
    ("dialer", "phase", "seconds", "answer"),
    [
        (at_once, Phase.SYN, 5, b""),
        (part_of_the_flight(3), Phase.SYN, 5, b""),  # no ALERT before the magic has been read
        (part_of_the_flight(4), Phase.SYN, 5, alert(0x07)),
        (part_of_the_flight(END_OF_PREFACE), Phase.SYN, 5, alert(0x07)),
        (flight_one_byte_a_second, Phase.SYN, 5, alert(0x07)),
        (call_and_stop, Phase.ACK, 10, alert(0x07)),
        (call_late_and_stop, Phase.ACK, 10, alert(0x07)),
        (ack_one_byte_a_second, Phase.ACK, 10, alert(0x07)),
    ],
    ids=["silent", "3 bytes", "magic", "preface", "trickle", "no ACK", "late, and no ACK", "trickle of ACK"],
)
async def test_a_dialer_that_takes_too_long_is_told_so_once_he_has_said_the_magic(
    autojump_clock: MockClock,
    dialer: Callable[[ByHand], Awaitable[None]],
    phase: Phase,
    seconds: float,
    answer: bytes,
) -> None:
    """Deadlines are absolute: no byte that arrives pushes them back."""
    async with answering(memory_pair, limits=Limits(drain_after_alert=0)) as (hand, ended):
        started = trio.current_time()
        await dialer(hand)
        assert await hand.hear_to_end() == answer
        await ended.wait()
    assert isinstance(ended(), NoResponse)
    assert (ended().phase, ended().cause) == (phase, Cause.TIMEOUT)
    assert ended.at - started == pytest.approx(seconds, abs=0.01)
    assert ended().elapsed == pytest.approx(seconds, abs=0.01)


async def syn_ack_one_byte_a_second(hand: ByHand) -> None:
    await hand.hear_flight()
    await trickle(hand, hand.syn_ack())


async def verdict_one_byte_a_second(hand: ByHand) -> None:
    await hand.answer()
    await trickle(hand, hand.ready())


@pytest.mark.parametrize(
    ("responder", "phase"),
    [
        (at_once, Phase.SYN_ACK),
        (syn_ack_one_byte_a_second, Phase.SYN_ACK),
        (ByHand.answer, Phase.VERDICT),
        (verdict_one_byte_a_second, Phase.VERDICT),
    ],
)
async def test_a_dial_lasts_no_longer_than_its_deadline_whatever_trickles_in(
    autojump_clock: MockClock, responder: Callable[[ByHand], Awaitable[None]], phase: Phase
) -> None:
    at_ada, at_hand = await memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(responder, ByHand(at_hand))
        started = trio.current_time()
        with pytest.raises(NoResponse) as caught:
            await initiate(at_ada, ADA, suites=(CLASSICAL.id,))
        assert trio.current_time() - started == pytest.approx(10)
        nursery.cancel_scope.cancel()
    assert (caught.value.phase, caught.value.cause) == (phase, Cause.TIMEOUT)
    assert caught.value.elapsed == pytest.approx(10)
    assert ABORTED not in await read_to_end(at_hand)  # nor does it say anything when its deadline strikes


async def test_a_policy_has_three_seconds_on_either_side(autojump_clock: MockClock) -> None:
    for ada_trusts, bob_trusts in ((hangs, only(ADA.id)), (only(BOB.id), hangs)):
        started = trio.current_time()
        ada, bob = await outcomes(
            await memory_pair(),
            side(ADA, trust=ada_trusts, limits=Limits()),
            side(BOB, trust=bob_trusts, limits=Limits()),
        )
        assert trio.current_time() - started == pytest.approx(3)
        assert isinstance(ada, Untrusted if ada_trusts is hangs else Rejected)
        assert ada.reason is VerdictCode.POLICY_TIMEOUT
        assert isinstance(bob, Rejected if ada_trusts is hangs else Untrusted)


async def test_a_policy_that_outlasts_the_greeting_is_its_timeout_too(autojump_clock: MockClock) -> None:
    ada, bob = await outcomes(
        await memory_pair(),
        side(ADA, limits=Limits(greeting=60)),
        side(BOB, limits=Limits(policy=60), trust=hangs),
    )
    assert isinstance(ada, Rejected)
    assert ada.reason is VerdictCode.POLICY_TIMEOUT
    assert ada.retryable
    assert isinstance(bob, Untrusted)
    assert bob.reason is VerdictCode.POLICY_TIMEOUT  # the same on both sides
    assert bob.peer == ADA.id


# --- cancellation ---------------------------------------------------------------------------------------


PATIENT = Limits(policy=30, drain_after_alert=30, drain_after_verdict=30)


async def answer_the_syn(hand: ByHand) -> None:
    await hand.hear_flight()
    await hand.say(hand.syn_ack())


@pytest.mark.parametrize(
    ("responder", "trust"),
    [
        (at_once, only(EVE.id)),
        (answer_the_syn, hangs),
        (ByHand.answer, only(EVE.id)),
        (answer_the_syn, only(BOB.id)),
    ],
    ids=["at SYN-ACK", "in the policy", "at VERDICT", "in the goodbye"],
)
@MEMORY_AND_TCP
async def test_a_cancelled_initiate_has_closed_its_stream(
    transport: StreamPairMaker, responder: Callable[[ByHand], Awaitable[None]], trust: Policy
) -> None:
    at_ada, at_hand = await transport()
    hand = ByHand(at_hand)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(initiate, at_ada, ADA, trust=trust, suites=(CLASSICAL.id,), limits=PATIENT))
        await responder(hand)
        await wait_all_tasks_blocked(SETTLED)
        assert nursery.child_tasks
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.ClosedResourceError):
        await at_ada.send_all(b"x")
    await hand.hear_to_end()


@pytest.mark.parametrize(
    ("dialer", "trust"),
    [
        (at_once, only(EVE.id)),
        (call_and_stop, only(EVE.id)),
        (partial(ByHand.call, responder=BOB.id), hangs),
        (partial(ByHand.call, responder=BOB.id), only(ADA.id)),
    ],
    ids=["at SYN", "at ACK", "in the policy", "in the goodbye"],
)
@MEMORY_AND_TCP
async def test_a_cancelled_respond_has_closed_its_stream(
    transport: StreamPairMaker, dialer: Callable[[ByHand], Awaitable[None]], trust: Policy
) -> None:
    at_hand, at_bob = await transport()
    hand = ByHand(at_hand)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(respond, at_bob, BOB, trust=trust, suites=(CLASSICAL.id,), limits=PATIENT))
        await dialer(hand)
        await wait_all_tasks_blocked(SETTLED)
        assert nursery.child_tasks
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.ClosedResourceError):
        await at_bob.send_all(b"x")
    await hand.hear_to_end()


@pytest.mark.parametrize("step", [at_once, answer_the_syn, ByHand.answer])
async def test_a_cancelled_dial_leaves_no_socket_and_no_task(step: Callable[[ByHand], Awaitable[None]]) -> None:
    reached, left = trio.Event(), trio.Event()

    async def answer(stream: trio.SocketStream) -> None:
        hand = ByHand(stream)
        await step(hand)
        reached.set()
        await hand.hear_to_end()
        await stream.aclose()
        left.set()

    async with serving(answer) as port:
        before = open_sockets()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial, port)
            await reached.wait()
            nursery.cancel_scope.cancel()
        await left.wait()
        assert open_sockets() == before


@pytest.mark.parametrize("welcome", [True, False], ids=["accepted", "rejected"])
async def test_whatever_step_a_dial_is_cancelled_at_it_leaves_no_socket(welcome: bool) -> None:
    bob = Peer(BOB, suites=(CLASSICAL.id,), trust=only(ADA.id) if welcome else only(), limits=UNHURRIED)
    async with bob, Peer(ADA, suites=(CLASSICAL.id,), limits=UNHURRIED) as ada:
        listener = await bob.listen(ANYWHERE)

        async def dial_and_close() -> None:
            connection = await outcome(ada.dial, listener.invite)
            if isinstance(connection, Connection):
                await trio.aclose_forcefully(connection)

        before = open_sockets()
        for step in range(1, 500):
            cancelled = await cancelled_at(step, dial_and_close)
            await wait_all_tasks_blocked(0.01)  # Bob may have accepted it, and sees that it is gone
            assert ada.connections == bob.connections == (), f"cancelled at step {step}"
            assert open_sockets() == before, f"cancelled at step {step}"
            if not cancelled:
                break
        assert not cancelled
        assert step > 5


UNHURRIED = Limits(handshake_burst=10**6, drain_after_alert=0, drain_after_verdict=0)


@pytest.mark.parametrize("script", [LEAVING[1][0], LEAVING[4][0]])
async def test_a_failed_dial_leaves_no_socket_either(script: Callable[[ByHand], Awaitable[None]]) -> None:
    before = open_sockets()

    async def leave(stream: trio.SocketStream) -> None:
        await script(ByHand(stream))
        await stream.aclose()

    await failed_dial(leave)
    assert open_sockets() == before


# --- a single byte --------------------------------------------------------------------------------------


async def lengths_of_the_frames(suite: int) -> dict[Role, list[int]]:
    """Of an honest greeting: preface, SYN and ACK; SYN-ACK and VERDICT."""
    lengths: dict[Role, list[int]] = {role: [] for role in Role}

    def measure(sender: Role, number: int, frame: bytes) -> Iterable[bytes]:
        lengths[sender].append(len(frame))
        return [frame]

    async with relayed(memory_pair, measure) as streams:
        ada, bob = await outcomes(streams, side(ADA, suites=(suite,)), side(BOB, suites=(suite,)))
        assert isinstance(ada, SecureStream)
        assert isinstance(bob, SecureStream)
    return lengths


@pytest.mark.parametrize("suite", [CLASSICAL.id, HYBRID.id], ids=["0x0001", "0x0002"])
async def test_no_byte_of_a_greeting_can_be_changed_unnoticed(autojump_clock: MockClock, suite: int) -> None:
    """A sample of the bytes; tests/protocol has them all. Both sides end, in time, with a named outcome."""
    lengths = await lengths_of_the_frames(suite)
    assert [len(frames) for frames in lengths.values()] == [3, 2]
    for role, frames in lengths.items():
        for number, length in enumerate(frames):
            for at in sorted({0, 1, 2, length - 1, *range(3, length, max(1, length // 9))}):
                await greet_with_a_flipped_byte(suite, role, number, at)


async def greet_with_a_flipped_byte(suite: int, role: Role, number: int, at: int) -> None:
    def flip(sender: Role, sent: int, frame: bytes) -> Iterable[bytes]:
        return [flipped(frame, at) if (sender, sent) == (role, number) else frame]

    where = f"byte {at} of frame {number} of the {role.value}"
    started = trio.current_time()
    async with relayed(memory_pair, flip) as streams:
        ada, bob = await outcomes(
            streams,
            side(ADA, suites=(suite,), limits=Limits()),
            side(BOB, suites=(suite,), limits=Limits()),
        )
    assert isinstance(ada, NoResponse | Rejected | BadHandshake), where
    # Only when his own VERDICT is changed does Bob believe that they have met.
    assert isinstance(bob, SecureStream) is ((role, number) == (Role.RESPONDER, 1)), where
    assert trio.current_time() - started <= 10 + 1 + 1, where
