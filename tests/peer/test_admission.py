"""_admission.py: the cheap no, before anything is read; slots come back after every outcome."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trishake import AlertCode, Connection, Limits, Peer, Rejected, VerdictCode, only
from trishake._admission import Admission, Busy, Slot
from trishake_protocol.patterns import CLASSICAL

from .conftest import (
    ABORTED,
    ADA,
    ANYWHERE,
    BOB,
    EVE,
    QUICK,
    ByHand,
    Watch,
    alert,
    connect,
    outcome,
    receive_exactly,
    reset,
)

MANY = 10**6


def admit_all(admission: Admission, host: str, *, at_most: int, now: float = 0.0) -> list[Slot]:
    """Slots for greetings from there, until one is turned away."""
    slots: list[Slot] = []
    for _ in range(at_most):
        try:
            slots.append(admission.admit(host, now))
        except Busy:
            break
    return slots


# --- slots ----------------------------------------------------------------------------------------------


def test_so_many_greetings_at_once_and_no_more_in_all() -> None:
    admission = Admission(Limits(handshakes=5, handshakes_per_address=MANY))
    for number in range(5):
        admission.admit(f"192.0.2.{number}", 0.0)
    with pytest.raises(Busy):
        admission.admit("192.0.2.99", 0.0)


def test_so_many_greetings_at_once_and_no_more_from_one_address() -> None:
    admission = Admission(Limits(handshakes_per_address=3))
    assert len(admit_all(admission, "192.0.2.1", at_most=10)) == 3
    assert len(admit_all(admission, "192.0.2.2", at_most=10)) == 3


def test_the_defaults_are_those_of_the_specification() -> None:
    admission = Admission(Limits())
    assert len(admit_all(admission, "192.0.2.1", at_most=100)) == 8
    total = sum(len(admit_all(admission, f"198.51.100.{n}", at_most=100)) for n in range(100))
    assert 8 + total == 256


@pytest.mark.parametrize(
    ("host", "neighbour", "together"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("2001:db8:0:1::1", "2001:DB8:0:1::2", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("::1", "127.0.0.1", False),
        ("", "", False),
        ("a pipe", "another pipe", False),
    ],
)
def test_who_counts_as_one_address(host: str, neighbour: str, together: bool) -> None:
    """IPv4 by its 32 bits, IPv6 by its /64, a mapped one as what it is; on one machine nobody."""
    admission = Admission(Limits(handshakes_per_address=1))
    admission.admit(host, 0.0)
    assert (admit_all(admission, neighbour, at_most=1) == []) is together


def test_a_slot_given_back_is_free_again_and_only_once() -> None:
    admission = Admission(Limits(handshakes=1, handshake_burst=MANY, handshake_rate=MANY))
    slot = admission.admit("192.0.2.1", 0.0)
    slot.release()
    slot.release()
    with admission.admit("192.0.2.2", 0.0) as second:
        with pytest.raises(Busy):
            admission.admit("192.0.2.3", 0.0)
        second.release()
        with pytest.raises(Busy) as busy, admission.admit("192.0.2.3", 0.0):
            admission.admit("192.0.2.4", 0.0)
    assert busy.value.retry_after >= 1
    assert len(admit_all(admission, "192.0.2.5", at_most=3)) == 1


# --- rate -----------------------------------------------------------------------------------------------


def test_a_burst_is_taken_and_then_the_rate() -> None:
    admission = Admission(Limits(handshake_rate=20, handshake_burst=40, handshakes_per_address=MANY))

    def come(now: float) -> int:
        return len(admit_all(admission, "192.0.2.1", at_most=100, now=now))

    assert come(100.0) == 40
    assert come(100.0) == 0
    assert come(101.0) == 20
    assert come(101.5) == 10
    assert come(1000.0) == 40  # never more than the burst


def test_a_greeting_that_comes_too_fast_is_told_to_try_again_in_a_second() -> None:
    admission = Admission(Limits(handshake_burst=1))
    admission.admit("192.0.2.1", 0.0).release()
    with pytest.raises(Busy) as busy:
        admission.admit("192.0.2.1", 0.0)
    assert busy.value.retry_after == 1
    admission.admit("192.0.2.2", 0.0)


@pytest.mark.parametrize("tries_a_second", [30, 100, 1000])
def test_who_never_stops_trying_is_slowed_down_and_not_shut_out(tries_a_second: int) -> None:
    """20 a second, however many try: those behind one address must not starve for the one that floods."""
    admission = Admission(Limits())
    admitted = 0
    for tick in range(60 * tries_a_second):
        for slot in admit_all(admission, "192.0.2.1", at_most=1, now=tick / tries_a_second):
            slot.release()
            admitted += 1
    assert admitted == pytest.approx(40 + 60 * 20, rel=0.05)


def test_what_is_remembered_of_strangers_is_bounded_in_time() -> None:
    admission = Admission(Limits(handshakes=MANY))
    for number in range(10_000):
        now = number / 1000  # a thousand addresses a second
        admission.admit(f"2001:db8:0:{number:x}::1", now).release()
        assert remembered(admission) <= 2 * 1000 + 1  # a bucket is full again after burst / rate = 2 s
    admission.admit("192.0.2.1", 1e6).release()
    assert remembered(admission) == 1


def remembered(admission: Admission) -> int:
    return len(admission._buckets) + len(admission._held_by)


# --- over sockets ---------------------------------------------------------------------------------------


async def test_one_too_many_is_told_busy_before_anything_is_read_and_the_others_go_on() -> None:
    limits = Limits(syn=30, greeting=30, handshakes_per_address=2, drain_after_alert=0.2, close=0.2)
    async with Peer(BOB, limits=limits, suites=(CLASSICAL.id,)) as bob, AsyncExitStack() as silent:
        listener = await bob.listen(ANYWHERE)
        patient = [
            ByHand(await silent.enter_async_context(await connect(listener)), identity) for identity in (EVE, ADA)
        ]
        arrivals = bob.arrivals()
        for hand in patient:
            await hand.say(hand.flight())
            await hand.hear_syn_ack(BOB.id)
        async with await connect(listener) as stream:
            assert await ByHand(stream).hear_to_end() == alert(0x05, b"\x00\x1e")  # in 30 s
        async with Peer(ADA, limits=QUICK, suites=(CLASSICAL.id,)) as ada:
            with pytest.raises(Rejected) as caught:
                await ada.dial(listener.invite)
        assert caught.value.reason is AlertCode.BUSY
        assert (caught.value.retry_after, caught.value.retryable) == (30, True)
        for hand in patient:
            await hand.say(hand.ack())
            assert (await hand.hear_verdict()).code is VerdictCode.READY
            assert (await anext(arrivals)).peer == hand.identity.id


async def test_under_more_load_still_the_socket_is_just_closed() -> None:
    limits = Limits(syn=30, handshakes=1, drain_after_alert=30, close=0.2)
    async with Peer(BOB, limits=limits) as bob:
        listener = await bob.listen(ANYWHERE)
        async with await connect(listener) as held, await connect(listener) as told:
            assert await receive_exactly(told, 6) == alert(0x05, b"\x00\x1e")  # and is drained from here on
            async with await connect(listener) as third:
                assert await ByHand(third).hear_to_end() == b""
            await held.send_eof()


async def test_who_dials_too_fast_is_told_to_try_again_in_a_second() -> None:
    limits = Limits(handshake_rate=0.001, handshake_burst=2, drain_after_alert=0.2, close=0.2)
    async with Peer(BOB, limits=limits, suites=(CLASSICAL.id,)) as bob:
        listener = await bob.listen(ANYWHERE)
        async with Peer(ADA, limits=QUICK, suites=(CLASSICAL.id,)) as ada:
            for _ in range(2):
                connection = await outcome(ada.dial, listener.invite)
                assert isinstance(connection, Connection)
                await connection.aclose()
            busy = await outcome(ada.dial, listener.invite)
    assert isinstance(busy, Rejected)
    assert (busy.reason, busy.retry_after) == (AlertCode.BUSY, 1)


async def say_nothing(hand: ByHand) -> None:
    await hand.hear_to_end()


async def hang_up(hand: ByHand) -> None:
    await hand.say(hand.flight())
    await hand.hear_syn_ack(BOB.id)
    await hand.stream.aclose()


async def crash(hand: ByHand) -> None:
    await hand.say(hand.flight())
    await hand.hear_syn_ack(BOB.id)
    assert isinstance(hand.stream, trio.SocketStream)
    await reset(hand.stream)


async def abort(hand: ByHand) -> None:
    await hand.say(hand.flight())
    await hand.hear_syn_ack(BOB.id)
    await hand.say(ABORTED)
    await hand.hear_to_end()


async def speak_http(hand: ByHand) -> None:
    await hand.say(b"GET / HTTP/1.1\r\n\r\n")
    await hand.hear_to_end()


async def speak_nonsense(hand: ByHand) -> None:
    await hand.say(hand.flight()[:8], bytes(11))
    await hand.hear_to_end()


async def be_rejected_and_stay(hand: ByHand) -> None:
    await hand.call(BOB.id)
    assert (await hand.hear_verdict()).code is VerdictCode.IDENTITY_UNKNOWN
    await hand.hear_to_end()


async def be_accepted_and_stay(hand: ByHand) -> None:
    hand.identity, hand.static_key = ADA, ADA.static_key
    await hand.call(BOB.id)
    assert (await hand.hear_verdict()).code is VerdictCode.READY


@pytest.mark.parametrize(
    "dialer",
    [
        say_nothing,
        hang_up,
        crash,
        abort,
        speak_http,
        speak_nonsense,
        be_rejected_and_stay,
        be_accepted_and_stay,
    ],
)
async def test_the_slot_comes_back_whatever_comes_of_the_greeting(
    dialer: Callable[[ByHand], Awaitable[None]], socket_clock: MockClock
) -> None:
    """After a verdict at once, though the dialer stays and is drained."""
    watch = Watch()
    limits = Limits(
        syn=0.5 if dialer is say_nothing else 10,
        handshakes=1,
        handshake_burst=MANY,
        connections_per_identity=MANY,
        drain_after_alert=30,
        drain_after_verdict=30,
        close=0.2,
    )
    async with Peer(BOB, trust=only(ADA.id), limits=limits, suites=(CLASSICAL.id,), observers=[watch]) as bob:
        listener = await bob.listen(ANYWHERE)
        for _ in range(2):
            stream = await connect(listener)
            await dialer(ByHand(stream))
            if dialer not in {speak_nonsense, be_rejected_and_stay, be_accepted_and_stay}:
                await watch.wait_failed()
                await wait_all_tasks_blocked(0.02)  # it is told first, and then the socket is closed
            async with Peer(ADA, limits=QUICK, suites=(CLASSICAL.id,)) as ada:
                await trio.aclose_forcefully(await ada.dial(listener.invite))
            await stream.aclose()
            watch.failures.clear()
