"""_secure_stream.py: an encrypted Trio stream, how it is used, and how it ends."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial

import pytest
import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    check_half_closeable_stream,
    memory_stream_pair,
    wait_all_tasks_blocked,
)

from trishake import (
    CloseCode,
    ConnectionClosed,
    Decision,
    Identity,
    Introduction,
    Limits,
    Network,
    Peer,
    Role,
    SecureStream,
    Suite,
    VerdictCode,
    accept,
    initiate,
)
from trishake._wire import SocketWire
from trishake_protocol import Profile, Session
from trishake_protocol.limits import MAX_RECORD_CONTENT
from trishake_protocol.messages import Close, FrameType, Ping, RecordType, Verdict, encode_frame

from .conftest import (
    ADA,
    BOB,
    EVERY_SUITE,
    EVERY_TRANSPORT,
    MEMORY_AND_TCP,
    PSK,
    SETTLED,
    ByHand,
    StreamPair,
    StreamPairMaker,
    cancelled_at,
    lockstep_pair,
    meet,
    meet_by_hand,
    memory_pair,
    narrow_pair,
    network_of,
    receive_exactly,
    relayed,
    reset,
    side,
    tcp_pair,
)


async def small_tcp_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    return await tcp_pair(buffer=16 * 1024)


async def clog(sender: SecureStream) -> bytes:
    """Send until the transport takes no more; what was handed over in all."""
    block = bytes(range(256)) * 256
    handed = 0

    async def fill() -> None:
        nonlocal handed
        for _ in range(1000):
            handed += len(block)
            await sender.send_all(block)
        pytest.fail("the transport takes everything")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fill)
        await wait_all_tasks_blocked(SETTLED)
        nursery.cancel_scope.cancel()
    return block * (handed // len(block))


async def returned(pair: StreamPair) -> StreamPair:
    """For `meet_by_hand`, where the test wants the ends too."""
    return pair


async def clog_soon(sender: SecureStream) -> None:
    """Send more than the transport takes, as often as it takes any."""
    for _ in range(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.send_all, bytes(2**19))
            await wait_all_tasks_blocked(0.002)
            nursery.cancel_scope.cancel()


@pytest.fixture
def without_descriptors(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if request.param:
        monkeypatch.setattr("trishake._wire._HAS_DESCRIPTORS", False)


EVERY_SYSTEM = pytest.mark.parametrize(
    "without_descriptors", [False, True], ids=["descriptors", "portable"], indirect=True
)
"""Where a socket can be read and written by its descriptor, and where not."""


async def receive_all(connection: SecureStream) -> bytes:
    return b"".join([chunk async for chunk in connection])


async def receive_to_failure(connection: SecureStream) -> tuple[bytes, ConnectionClosed]:
    received = b""
    try:
        async for chunk in connection:
            received += chunk
    except ConnectionClosed as closed:
        return received, closed
    pytest.fail("it ended cleanly")


# --- Trio's own conditions ------------------------------------------------------------------------------


@EVERY_TRANSPORT
async def test_a_connection_is_a_half_closeable_stream(transport: StreamPairMaker) -> None:
    limits = Limits(close=0.02)

    async def make() -> tuple[SecureStream, SecureStream]:
        return await meet(await transport(), side(ADA, limits=limits), side(BOB, limits=limits))

    async def make_clogged() -> tuple[SecureStream, SecureStream]:
        near, far = await meet(await small_tcp_pair(), side(ADA, limits=limits), side(BOB, limits=limits))
        await clog_soon(near)
        await clog_soon(far)
        return near, far

    # Where a cancelled send tears the stream, there is no clogging it.
    await check_half_closeable_stream(make, make_clogged if transport is tcp_pair else None)


# --- what both sides know -------------------------------------------------------------------------------


@MEMORY_AND_TCP
@EVERY_SUITE
async def test_both_sides_know_each_other_and_the_same_session(transport: StreamPairMaker, suite: Suite) -> None:
    options = {"network": network_of(suite), "suites": (suite.id,)}
    ada, bob = await meet(await transport(), side(ADA, **options), side(BOB, **options))
    assert (ada.peer, bob.peer) == (BOB.id, ADA.id)
    assert (ada.role, bob.role) == (Role.INITIATOR, Role.RESPONDER)
    assert ada.suite is bob.suite is suite
    assert ada.session_id == bob.session_id
    assert len(ada.session_id) == 8
    assert ada.channel_binding == bob.channel_binding
    assert len(ada.channel_binding) == 32
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ada.aclose)
        nursery.start_soon(bob.aclose)


async def test_no_two_connections_share_a_session_even_between_the_same_two() -> None:
    first, _ = await meet(await memory_pair())
    second, _ = await meet(await memory_pair())
    assert first.session_id != second.session_id
    assert first.channel_binding != second.channel_binding


async def test_a_connection_shows_what_the_other_side_said_of_itself() -> None:
    async def polite(introduction: Introduction) -> Decision:
        return accept("come in")

    ada, bob = await meet(
        await tcp_pair(),
        side(ADA, agent="ada/1", app=b"\x01\x02"),
        side(BOB, agent=None, app=b"", trust=polite),
    )
    assert (bob.greeting.agent, bob.greeting.app) == ("ada/1", b"\x01\x02")
    assert (ada.greeting.agent, ada.greeting.app) == (None, b"")
    assert ada.welcome == "come in"
    assert ada.seen == bob.address  # where Bob sees her; no address translation stands between the two
    assert bob.welcome is bob.seen is None


# --- data -----------------------------------------------------------------------------------------------


@MEMORY_AND_TCP
async def test_much_passes_both_ways_at_once(transport: StreamPairMaker) -> None:
    await exchange_much(*await meet(await transport()))


async def test_much_passes_both_ways_at_once_where_nothing_is_buffered(autojump_clock: MockClock) -> None:
    """Whoever reads never waits for the network to write: the other side may be doing the same."""
    for _ in range(20):  # who comes first is chance
        with trio.fail_after(1):
            await exchange_much(*await meet(await lockstep_pair()))


async def exchange_much(ada: SecureStream, bob: SecureStream) -> None:
    data = {ada: bytes(range(251)) * 9001, bob: bytes(range(249, -1, -1)) * 8009}

    async def send(connection: SecureStream) -> None:
        view, step = memoryview(data[connection]), 1
        while view:
            await connection.send_all(view[:step])
            view, step = view[step:], step * 3 + 1
        await connection.send_eof()

    received: dict[SecureStream, bytes] = {}

    async def receive(connection: SecureStream) -> None:
        received[connection] = await receive_all(connection)

    async with trio.open_nursery() as nursery:
        for connection in data:
            nursery.start_soon(send, connection)
            nursery.start_soon(receive, connection)
    assert received[ada] == data[bob]
    assert received[bob] == data[ada]
    await ada.aclose()
    await bob.aclose()


@pytest.mark.parametrize(
    "length",
    [0, 1, MAX_RECORD_CONTENT - 1, MAX_RECORD_CONTENT, MAX_RECORD_CONTENT + 1, 5 * MAX_RECORD_CONTENT + 3],
)
async def test_one_send_is_as_many_records_as_it_needs(length: int) -> None:
    connection, hand = await meet_by_hand(memory_pair)
    await connection.send_all(b"\xa5" * length)
    await connection.send_eof()
    contents = []
    for _ in range(math.ceil(length / MAX_RECORD_CONTENT)):
        type_, content = await hand.hear_record()
        assert type_ is RecordType.DATA
        contents.append(content)
    assert (await hand.hear_close()).code is CloseCode.NORMAL
    assert b"".join(contents) == b"\xa5" * length
    assert all(2 * len(content) >= MAX_RECORD_CONTENT for content in contents[1:])  # no crumbs


async def test_a_caller_who_asks_for_little_gets_little_and_loses_nothing() -> None:
    ada, bob = await meet(await memory_pair())
    await ada.send_all(b"abcdefg")
    assert await bob.receive_some(3) == b"abc"
    assert await bob.receive_some(3) == b"def"
    assert await bob.receive_some(3) == b"g"


async def test_what_comes_right_behind_the_verdict_is_the_first_data() -> None:
    at_ada, at_hand = await tcp_pair()
    hand = ByHand(at_hand)

    async def answer() -> None:
        await hand.hear_flight()
        await hand.say(hand.syn_ack())
        await hand.hear_ack()
        await hand.say(hand.verdict(Verdict(VerdictCode.READY)), hand.record(RecordType.DATA, b"at once"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        ada = await initiate(at_ada, ADA, **side(ADA).options)
    assert await ada.receive_some() == b"at once"
    await trio.aclose_forcefully(ada)
    await hand.stream.aclose()


# --- cancellation ---------------------------------------------------------------------------------------


async def test_a_cancelled_send_on_a_socket_leaves_whole_records_behind() -> None:
    """What was under way is completed by the next call: nothing is skipped, torn or repeated."""
    ada, bob = await meet(await small_tcp_pair())
    handed = await clog(ada)
    received = b""

    async def read_on() -> None:
        nonlocal received
        received = await receive_all(bob)
        await bob.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_on)
        await ada.send_all(b"and then this")
        await ada.aclose()
    assert received.endswith(b"and then this")
    before = received.removesuffix(b"and then this")
    assert handed.startswith(before)
    assert len(before) > len(handed) - 5 * MAX_RECORD_CONTENT  # the last call alone was cut short


async def test_many_sends_cancelled_at_any_moment_still_arrive_in_order() -> None:
    ada, bob = await meet(await small_tcp_pair())
    sent = [bytes((number,)) * 50_000 for number in range(64)]
    received = b""
    cancelled = 0

    async def read_slowly() -> None:
        nonlocal received
        async for chunk in bob:
            received += chunk
            await wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_slowly)
        for number, part in enumerate(sent):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as sending:
                    sending.start_soon(ada.send_all, part)
                    for _ in range(number):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            cancelled += scope.cancelled_caught
        await ada.send_eof()
    assert cancelled > 0
    # Each call is there whole, or not at all: what it encrypted before the cancellation was sent after it.
    rest = received
    for part in sent:
        rest = rest.removeprefix(part)
    assert rest == b""


@pytest.mark.parametrize("transport", [memory_pair, lockstep_pair], ids=["memory", "lockstep"])
async def test_a_send_cancelled_half_way_where_nobody_knows_how_much_was_sent_breaks_the_secure_stream(
    transport: StreamPairMaker,
) -> None:
    at_ada, at_bob = await transport()
    ada, _ = await meet((at_ada, at_bob))
    if transport is memory_pair:  # it never waits by itself
        at_ada.send_stream.send_all_hook = trio.sleep_forever  # type: ignore[attr-defined]
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ada.send_all, b"half-way")
            await wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    with pytest.raises(trio.BrokenResourceError, match="torn"):
        await ada.send_all(b"this would be out of step")
    with pytest.raises(trio.BrokenResourceError):
        await ada.send_all(b"")
    with pytest.raises(trio.BrokenResourceError):
        await ada.send_eof()
    with pytest.raises(trio.BrokenResourceError):
        await ada.wait_send_all_might_not_block()


@EVERY_TRANSPORT
async def test_a_send_cancelled_before_it_began_has_sent_nothing_and_broken_nothing(
    transport: StreamPairMaker,
) -> None:
    ada, bob = await meet(await transport())
    with trio.CancelScope() as scope:
        scope.cancel()
        await ada.send_all(b"never")
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ada.send_all, b"but this")
        assert await receive_exactly(bob, 8) == b"but this"


@MEMORY_AND_TCP
async def test_a_receive_cancelled_in_the_middle_of_a_record_loses_nothing(transport: StreamPairMaker) -> None:
    ada, hand = await meet_by_hand(transport)
    frames = hand.record(RecordType.DATA, b"first ") + hand.record(RecordType.DATA, b"second")
    received: list[bytes] = []

    async def receive() -> None:
        for _ in range(3):
            received.append(await ada.receive_some(4))

    for start in range(0, len(frames), 5):
        await hand.say(frames[start : start + 5])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
    assert b"".join(received) == b"first second"


# --- one caller at a time -------------------------------------------------------------------------------


async def test_two_who_receive_at_once_are_told_that_they_are_two() -> None:
    ada, _ = await meet(await memory_pair())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ada.receive_some)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError, match="receive"):
            await ada.receive_some()
        nursery.cancel_scope.cancel()


async def test_two_who_send_at_once_are_told_that_they_are_two() -> None:
    ada, bob = await meet(await lockstep_pair())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ada.send_all, b"first")
        await wait_all_tasks_blocked()
        for second in (ada.send_all(b"second"), ada.send_eof(), ada.wait_send_all_might_not_block()):
            with pytest.raises(trio.BusyResourceError, match="send"):
                await second
        assert await receive_exactly(bob, 5) == b"first"


async def test_a_record_is_received_though_our_own_send_is_stuck() -> None:
    """The other side reads nothing, and writes all the same."""
    ada, hand = await meet_by_hand(small_tcp_pair)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ada.send_all, bytes(16 * 2**20))
        await wait_all_tasks_blocked(SETTLED)
        await hand.say(hand.record(RecordType.PING, Ping(b"are you?").encode()))
        await hand.say(hand.record(RecordType.DATA, b"I talk on"))
        assert await ada.receive_some() == b"I talk on"
        nursery.cancel_scope.cancel()


# --- who waits until there is room ----------------------------------------------------------------------


def fill(stream: trio.abc.Stream) -> int:
    """Write to the socket, past everyone, until it takes no more; how many bytes that were."""
    assert isinstance(stream, trio.SocketStream)
    written = 0
    with suppress(BlockingIOError):
        while True:
            written += os.write(stream.socket.fileno(), bytes(1000))
    return written


@EVERY_SYSTEM
@pytest.mark.usefixtures("without_descriptors")
async def test_a_ping_is_answered_beside_who_waits_until_there_is_room() -> None:
    at_ada, at_hand = await small_tcp_pair()
    ada, hand = await meet_by_hand(lambda: returned((at_ada, at_hand)))
    filled = fill(at_ada)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ada.receive_some)
        nursery.start_soon(ada.wait_send_all_might_not_block)
        await wait_all_tasks_blocked()
        await hand.say(hand.record(RecordType.PING, Ping(b"are you?").encode()))
        await wait_all_tasks_blocked(SETTLED)
        assert len(nursery.child_tasks) == 2
        await hand.hear(filled)
        assert await hand.hear_record() == (RecordType.PING, Ping(b"are you?", answer=True).encode())
        await hand.say(hand.record(RecordType.DATA, b"good"))


@EVERY_SYSTEM
@pytest.mark.usefixtures("without_descriptors")
async def test_who_waits_until_there_is_room_is_told_why_it_has_ended() -> None:
    at_ada, at_hand = await small_tcp_pair()
    ada, hand = await meet_by_hand(lambda: returned((at_ada, at_hand)), limits=Limits(write_alert=0.05))
    fill(at_ada)

    async def wait() -> None:
        with pytest.raises(ConnectionClosed) as caught:
            await ada.wait_send_all_might_not_block()
        assert caught.value.code is CloseCode.PROTOCOL

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await hand.say(encode_frame(FrameType.RECORD, bytes(40)))
        with pytest.raises(ConnectionClosed):
            await ada.receive_some()


async def test_who_waits_until_there_is_room_holds_up_no_close(autojump_clock: MockClock) -> None:
    ada, bob = await meet(await lockstep_pair())

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await ada.wait_send_all_might_not_block()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        before = trio.current_time()
        nursery.start_soon(ada.aclose)
        await wait_all_tasks_blocked()
        assert await bob.receive_some() == b""
        await bob.aclose()
    assert trio.current_time() == before


# --- ping -----------------------------------------------------------------------------------------------


@MEMORY_AND_TCP
async def test_whoever_receives_answers_pings_too(transport: StreamPairMaker) -> None:
    ada, hand = await meet_by_hand(transport)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ada.receive_some)
        await hand.say(hand.record(RecordType.PING, Ping(b"01234567").encode()))
        assert await hand.hear_record() == (RecordType.PING, Ping(b"01234567", answer=True).encode())
        nursery.cancel_scope.cancel()


@MEMORY_AND_TCP
async def test_a_pong_that_nobody_asked_for_is_passed_over(transport: StreamPairMaker) -> None:
    ada, hand = await meet_by_hand(transport)
    await hand.say(
        hand.record(RecordType.PING, Ping(b"01234567", answer=True).encode()),
        hand.record(RecordType.DATA, b"data"),
    )
    assert await ada.receive_some() == b"data"


@MEMORY_AND_TCP
async def test_a_flood_of_pings_is_answered_by_far_fewer_pongs_and_by_the_latest(
    transport: StreamPairMaker,
) -> None:
    ada, hand = await meet_by_hand(transport)
    pings = [Ping(number.to_bytes(8, "big")) for number in range(2000)]
    await hand.say(*(hand.record(RecordType.PING, ping.encode()) for ping in pings))
    await hand.say(hand.record(RecordType.DATA, b"end"))
    answers: list[bytes] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_all, ada)
        while answers[-1:] != [pings[-1].payload]:
            type_, content = await hand.hear_record()
            assert type_ is RecordType.PING
            answers.append(Ping.decode(content).payload)
        nursery.cancel_scope.cancel()
    assert len(answers) < len(pings) / 2
    assert answers == sorted(answers)


# --- ending well ----------------------------------------------------------------------------------------


@MEMORY_AND_TCP
async def test_each_direction_ends_on_its_own(transport: StreamPairMaker) -> None:
    ada, bob = await meet(await transport())
    await ada.send_all(b"question")
    await ada.send_eof()
    assert await receive_all(bob) == b"question"
    assert await bob.receive_some() == b""
    with pytest.raises(trio.ClosedResourceError, match="send_eof"):
        await ada.send_all(b"one more thing")
    await bob.send_all(b"answer")
    await bob.send_eof()
    assert await receive_all(ada) == b"answer"
    assert await ada.receive_some() == b""
    await ada.aclose()
    await bob.aclose()


@MEMORY_AND_TCP
async def test_closing_says_close_normal_and_waits_for_the_other_to_say_so_too(
    transport: StreamPairMaker,
) -> None:
    ada, hand = await meet_by_hand(transport, limits=Limits(close=60))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ada.aclose)
        assert (await hand.hear_close()) == Close(CloseCode.NORMAL)
        # What crosses the CLOSE is discarded.
        await hand.say(hand.record(RecordType.DATA, b"you will not read this"))
        await wait_all_tasks_blocked(SETTLED)
        assert nursery.child_tasks
        await hand.say(hand.record(RecordType.CLOSE, Close().encode()))
    assert await hand.hear_to_end() == b""
    await hand.stream.aclose()


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (CloseCode.PROTOCOL, None),
        (CloseCode.INTERNAL, "we are broken"),
        (CloseCode.GOING_AWAY, "until tomorrow"),
        (CloseCode.IDLE, None),
        (CloseCode.REPLACED, ""),
        (CloseCode.POLICY, "ä" * 128),
    ],
)
@MEMORY_AND_TCP
async def test_the_other_side_is_told_the_code_and_the_text_of_a_close(
    transport: StreamPairMaker, code: CloseCode, text: str | None
) -> None:
    ada, bob = await meet(await transport())
    await ada.send_all(b"last words")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ada.aclose, code, text)
        assert await receive_exactly(bob, 10) == b"last words"
        for attempt in (bob.receive_some(), bob.receive_some(1), bob.send_all(b"x"), bob.send_eof()):
            with pytest.raises(ConnectionClosed, match=code.name) as caught:
                await attempt
            closed = caught.value
            assert (closed.code, closed.text, closed.by_peer) == (code, text, True)
        await bob.aclose()


async def test_an_unknown_close_code_is_told_as_its_number() -> None:
    ada, hand = await meet_by_hand(memory_pair)
    await hand.say(hand.record(RecordType.CLOSE, Close(0x4242, "beyond you").encode()))
    with pytest.raises(ConnectionClosed, match=r'0x4242: "beyond you"') as caught:
        await ada.receive_some()
    assert (caught.value.code, caught.value.text) == (0x4242, "beyond you")


async def test_the_text_of_a_close_is_shown_escaped_and_kept_as_it_came() -> None:
    ada, hand = await meet_by_hand(memory_pair)
    text = "bye\x1b[2J\u202eeb"
    await hand.say(hand.record(RecordType.CLOSE, Close(CloseCode.POLICY, text).encode()))
    with pytest.raises(ConnectionClosed) as caught:
        await ada.receive_some()
    assert caught.value.text == text
    assert r"bye\x1b[2J\u202eeb" in str(caught.value)
    assert "\x1b" not in str(caught.value)


@MEMORY_AND_TCP
async def test_a_close_with_a_code_is_answered_at_once(transport: StreamPairMaker) -> None:
    """Section 9: the receiver stops sending DATA and answers CLOSE at once."""
    ada, hand = await meet_by_hand(transport)
    await hand.say(hand.record(RecordType.CLOSE, Close(CloseCode.GOING_AWAY).encode()))
    with pytest.raises(ConnectionClosed):
        await ada.receive_some()
    with trio.move_on_after(1) as scope:
        assert await hand.hear_close() == Close(CloseCode.NORMAL)
    assert not scope.cancelled_caught


async def test_closing_waits_no_longer_than_its_limit_for_a_silent_other_side(
    autojump_clock: MockClock,
) -> None:
    for seconds in (Limits().close, 0.25):
        ada, hand = await meet_by_hand(memory_pair, limits=Limits(close=seconds))
        before = trio.current_time()
        await ada.aclose()
        assert trio.current_time() - before == pytest.approx(seconds)
        assert await hand.hear_close() == Close(CloseCode.NORMAL)
        assert await hand.hear_to_end() == b""
    assert Limits().close == 5  # section 12


async def test_closing_waits_no_longer_than_its_limit_for_one_who_talks_on(autojump_clock: MockClock) -> None:
    """Deadlines are absolute: no byte that arrives pushes them back."""
    ada, hand = await meet_by_hand(memory_pair, limits=Limits())

    async def talk() -> None:
        for _ in range(100):
            await hand.say(hand.record(RecordType.DATA, b"and another thing"))
            await trio.sleep(0.3)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk)
        before = trio.current_time()
        await ada.aclose()
        assert trio.current_time() - before == pytest.approx(Limits().close)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("clogged", [False, True], ids=["idle", "clogged"])
async def test_closing_is_bounded_where_the_other_side_does_not_even_read(
    clogged: bool, socket_clock: MockClock
) -> None:
    ada, _ = await meet(await small_tcp_pair(), side(ADA, limits=Limits(close=0.2)))
    if clogged:
        await clog(ada)
    with trio.fail_after(5):
        await ada.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await ada.receive_some()


@EVERY_TRANSPORT
async def test_a_cancelled_close_closes_the_transport_at_once(transport: StreamPairMaker) -> None:
    at_ada, at_bob = await transport()
    ada, _ = await meet((at_ada, at_bob), side(ADA, limits=Limits(close=60)))
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ada.aclose)
            await wait_all_tasks_blocked(SETTLED)
            scope.cancel()
    with pytest.raises(trio.ClosedResourceError):
        await at_ada.send_all(b"x")
    await ada.aclose()


@EVERY_TRANSPORT
async def test_closing_wakes_whoever_waits_on_the_secure_stream(
    transport: StreamPairMaker, socket_clock: MockClock
) -> None:
    ada, _ = await meet(await (small_tcp_pair() if transport is tcp_pair else transport()))
    woken: set[str] = set()

    async def expect_closed(name: str, call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await call()
        woken.add(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_closed, "receive", ada.receive_some)
        if transport is not memory_pair:  # it takes whatever is sent
            nursery.start_soon(expect_closed, "send", partial(ada.send_all, bytes(16 * 2**20)))
        await wait_all_tasks_blocked(SETTLED)
        await ada.aclose()
    assert woken == ({"receive"} if transport is memory_pair else {"receive", "send"})
    for late in (ada.receive_some(), ada.send_all(b"x"), ada.send_eof(), ada.wait_send_all_might_not_block()):
        with pytest.raises(trio.ClosedResourceError):
            await late


@EVERY_SYSTEM
@pytest.mark.usefixtures("without_descriptors")
async def test_who_reads_while_something_is_to_be_written_is_told_of_a_forceful_close_in_one_error() -> None:
    for _ in range(6):  # who comes first is chance
        at_ada, at_bob = await small_tcp_pair()
        ada, _ = await meet((at_ada, at_bob))
        fill(at_ada)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ada.send_all, b"to be written")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

        async def receive(stream: SecureStream) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, ada)
            await wait_all_tasks_blocked()
            await trio.aclose_forcefully(ada)


# --- ending badly ---------------------------------------------------------------------------------------


@MEMORY_AND_TCP
async def test_an_end_without_close_is_an_error_and_never_a_clean_end(transport: StreamPairMaker) -> None:
    at_ada, at_bob = await transport()
    ada, bob = await meet((at_ada, at_bob))
    await ada.send_all(b"all is w")
    await trio.aclose_forcefully(at_ada)
    assert await receive_exactly(bob, 8) == b"all is w"
    for _ in range(2):
        with pytest.raises(ConnectionClosed) as caught:
            await bob.receive_some()
        assert (caught.value.code, caught.value.by_peer) == (None, True)
    with pytest.raises(ConnectionClosed):
        await bob.send_all(b"are you there?")
    await bob.aclose()


async def test_a_reset_is_an_error() -> None:
    at_ada, at_bob = await tcp_pair()
    _, bob = await meet((at_ada, at_bob))
    await reset(at_ada)
    with pytest.raises(ConnectionClosed, match="broke") as caught:
        await bob.receive_some()
    assert (caught.value.code, caught.value.by_peer) == (None, True)
    with pytest.raises(ConnectionClosed):
        await bob.send_all(b"x")
    await bob.aclose()


async def test_a_reset_is_an_error_also_while_something_is_still_to_be_written() -> None:
    ada, hand = await meet_by_hand(small_tcp_pair)
    await clog(ada)
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(ConnectionClosed) as caught:
                await ada.receive_some()
            assert (caught.value.code, caught.value.by_peer) == (None, True)

        nursery.start_soon(receive)
        await wait_all_tasks_blocked(SETTLED)
        assert isinstance(hand.stream, trio.SocketStream)
        await reset(hand.stream)


async def test_what_had_arrived_is_still_delivered_after_a_send_that_failed() -> None:
    at_ada, at_bob = memory_stream_pair()
    ada, bob = await meet((at_ada, at_bob))
    await ada.send_all(b"I say this")
    await ada.send_all(b" and leave")
    at_ada.receive_stream.close()
    with pytest.raises(ConnectionClosed):
        await bob.send_all(b"no one hears it")
    assert await receive_exactly(bob, 20) == b"I say this and leave"


Breach = Callable[[ByHand], bytes]


def relabelled(type_: FrameType | int) -> Breach:
    return lambda hand: bytes((type_,)) + hand.record(RecordType.DATA, b"as another")[1:]


def dropped(hand: ByHand) -> bytes:
    hand.record(RecordType.DATA, b"this one is lost")
    return hand.record(RecordType.DATA, b"this one comes")


def reordered(hand: ByHand) -> bytes:
    first, second = (hand.record(RecordType.DATA, b"1"), hand.record(RecordType.DATA, b"2"))
    return second + first


def replayed(hand: ByHand) -> bytes:
    return hand.record(RecordType.DATA, b" and after") * 2


def with_a_flipped_bit(hand: ByHand) -> bytes:
    record = bytearray(hand.record(RecordType.DATA, b"x"))
    record[-1] ^= 1
    return bytes(record)


BREACHES: dict[str, Breach] = {
    "a record of zeros": lambda hand: encode_frame(FrameType.RECORD, bytes(40)),
    "a record shorter than its tag": lambda hand: encode_frame(FrameType.RECORD, bytes(15)),
    "a record with a flipped bit": with_a_flipped_bit,
    "a record relabelled SYN": relabelled(FrameType.SYN),
    "a record relabelled SYN-ACK": relabelled(FrameType.SYN_ACK),
    "a record relabelled ACK": relabelled(FrameType.ACK),
    "a record relabelled ALERT": relabelled(FrameType.ALERT),
    "a frame of unknown type": relabelled(0x42),
    "an ALERT": lambda hand: encode_frame(FrameType.ALERT, b"\x08"),
    "a record replayed": replayed,
    "a record dropped": dropped,
    "two records reordered": reordered,
    "an empty DATA": lambda hand: hand.record(RecordType.DATA),
    "a second VERDICT": lambda hand: hand.verdict(Verdict(VerdictCode.READY)),
    "an unknown record type": lambda hand: hand.writer.encode(9, b"x"),  # type: ignore[arg-type]
    "a record without a type": lambda hand: hand.writer.encode(0, b""),  # type: ignore[arg-type]
    "a CLOSE that is no msgpack": lambda hand: hand.record(RecordType.CLOSE, b"\xc1"),
    "a CLOSE without a code": lambda hand: hand.record(RecordType.CLOSE, b"\x80"),
    "a PING of three bytes": lambda hand: hand.record(RecordType.PING, b"\x00ab"),
}


@pytest.mark.parametrize("breach", BREACHES.values(), ids=BREACHES)
@MEMORY_AND_TCP
async def test_a_breach_ends_the_connection_behind_what_came_before_and_is_answered_with_close_protocol(
    transport: StreamPairMaker, breach: Breach, socket_clock: MockClock
) -> None:
    ada, hand = await meet_by_hand(transport)
    await hand.say(hand.record(RecordType.DATA, b"before"), breach(hand))
    received, closed = await receive_to_failure(ada)
    assert received == b"before" + (b" and after" if breach is replayed else b"")
    assert (closed.code, closed.by_peer) == (CloseCode.PROTOCOL, False)
    assert await hand.hear_close() == Close(CloseCode.PROTOCOL)
    for late in (ada.receive_some(), ada.send_all(b"x"), ada.wait_send_all_might_not_block()):
        with pytest.raises(ConnectionClosed):
            await late
    await ada.aclose()
    assert await hand.hear_to_end() == b""
    await hand.stream.aclose()


async def test_what_the_other_side_still_sends_does_not_destroy_our_last_word(socket_clock: MockClock) -> None:
    """Closing a socket with unread bytes resets it, and the CLOSE in flight would be lost with it."""
    ada, hand = await meet_by_hand(tcp_pair)
    await hand.say(encode_frame(FrameType.RECORD, bytes(40)))
    with pytest.raises(ConnectionClosed):
        await ada.receive_some()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hand.stream.send_all, bytes(200_000))
        nursery.start_soon(ada.aclose)
    assert await hand.hear_close() == Close(CloseCode.PROTOCOL)
    assert await hand.hear_to_end() == b""
    await hand.stream.aclose()


@MEMORY_AND_TCP
async def test_a_close_that_is_normal_carries_its_text_too(transport: StreamPairMaker) -> None:
    ada, hand = await meet_by_hand(transport)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ada.aclose, CloseCode.NORMAL, "bye")
        assert await hand.hear_close() == Close(CloseCode.NORMAL, "bye")
        await hand.say(hand.record(RecordType.CLOSE, Close().encode()))
    await hand.stream.aclose()


@MEMORY_AND_TCP
async def test_truncation_is_a_breach_and_is_answered_with_close_protocol(transport: StreamPairMaker) -> None:
    ada, hand = await meet_by_hand(transport)
    await hand.say(hand.record(RecordType.DATA, b"bef"), hand.record(RecordType.DATA, b"ore")[:-1])
    assert isinstance(hand.stream, trio.abc.HalfCloseableStream)
    await hand.stream.send_eof()
    assert await ada.receive_some() == b"bef"
    with pytest.raises(ConnectionClosed, match="cut"):
        await ada.receive_some()
    assert await hand.hear_close() == Close(CloseCode.PROTOCOL)
    await ada.aclose()
    await hand.stream.aclose()


@MEMORY_AND_TCP
async def test_send_eof_after_a_breach_says_that_the_connection_has_ended(transport: StreamPairMaker) -> None:
    ada, hand = await meet_by_hand(transport)
    await hand.say(encode_frame(FrameType.RECORD, bytes(40)))
    with pytest.raises(ConnectionClosed):
        await ada.receive_some()
    with pytest.raises(ConnectionClosed):
        await ada.send_eof()


Meddle = Callable[[int, list[bytes]], Iterable[bytes]]
"""(number of this frame, all frames so far) → what is passed on. Preface, SYN and ACK are 0 to 2."""

MEDDLING: dict[str, tuple[Meddle, bytes]] = {
    "drop": (lambda n, frames: [] if n == 4 else [frames[n]], b"one"),
    "repeat": (lambda n, frames: [frames[n]] * (2 if n == 4 else 1), b"onetwo"),
    "flip": (lambda n, frames: [frames[n][:-1] + bytes((frames[n][-1] ^ (n == 4),))], b"one"),
    "swap": (lambda n, frames: {4: [], 5: [frames[n], frames[n - 1]]}.get(n, [frames[n]]), b"one"),
    "inject": (
        lambda n, frames: [encode_frame(FrameType.RECORD, bytes(30))] * (n == 4) + [frames[n]],
        b"one",
    ),
    "cut": (lambda n, frames: [frames[n][: 20 if n == 4 else None]], b"one"),
}


@pytest.mark.parametrize(("meddle", "delivered"), MEDDLING.values(), ids=MEDDLING)
@MEMORY_AND_TCP
async def test_whoever_meddles_with_records_on_the_way_ends_both_ends(
    transport: StreamPairMaker, meddle: Meddle, delivered: bytes
) -> None:
    frames: list[bytes] = []

    def change(sender: Role, number: int, frame: bytes) -> Iterable[bytes]:
        if sender is Role.RESPONDER:
            return [frame]
        frames.append(frame)
        return meddle(number, frames)

    async with relayed(transport, change) as streams:
        ada, bob = await meet(streams)
        for part in (b"one", b"two", b"three"):
            await ada.send_all(part)
        received, at_bob = await receive_to_failure(bob)
        assert received == delivered
        assert (at_bob.code, at_bob.by_peer) == (CloseCode.PROTOCOL, False)
        received, at_ada = await receive_to_failure(ada)
        assert received == b""
        assert (at_ada.code, at_ada.by_peer) == (CloseCode.PROTOCOL, True)
        await ada.aclose()
        await bob.aclose()


# --- an end that comes together with the data before it ----------------------------------------------------


ENDS_BEHIND_DATA: dict[str, tuple[Breach, tuple[object, bool], CloseCode]] = {
    "a CLOSE": (
        lambda hand: hand.record(RecordType.CLOSE, Close(CloseCode.GOING_AWAY).encode()),
        (CloseCode.GOING_AWAY, True),
        CloseCode.NORMAL,
    ),
    "a breach": (
        lambda hand: encode_frame(FrameType.RECORD, bytes(40)),
        (CloseCode.PROTOCOL, False),
        CloseCode.PROTOCOL,
    ),
}
BEHIND_DATA = pytest.mark.parametrize(("end", "seen", "answer"), ENDS_BEHIND_DATA.values(), ids=ENDS_BEHIND_DATA)


@BEHIND_DATA
@MEMORY_AND_TCP
async def test_an_end_behind_data_is_seen_by_who_sends_before_it_is_by_who_reads(
    transport: StreamPairMaker, end: Breach, seen: tuple[object, bool], answer: CloseCode
) -> None:
    ada, hand = await meet_by_hand(transport)
    await hand.say(hand.record(RecordType.DATA, b"bef"), hand.record(RecordType.DATA, b"ore"), end(hand))
    assert await ada.receive_some(1) == b"b"
    for late in (ada.send_all(b"x"), ada.send_all(b""), ada.send_eof(), ada.wait_send_all_might_not_block()):
        with pytest.raises(ConnectionClosed) as caught:
            await late
        assert (caught.value.code, caught.value.by_peer) == seen
    received, closed = await receive_to_failure(ada)
    assert received == b"efore"
    assert (closed.code, closed.by_peer) == seen
    assert await hand.hear_close() == Close(answer)
    with pytest.raises(ConnectionClosed):
        await ada.receive_some()
    await hand.stream.aclose()
    await ada.aclose()


@BEHIND_DATA
@MEMORY_AND_TCP
async def test_an_end_behind_data_is_answered_when_we_close_without_having_read_as_far(
    transport: StreamPairMaker, end: Breach, seen: tuple[object, bool], answer: CloseCode
) -> None:
    ada, hand = await meet_by_hand(transport)
    await hand.say(hand.record(RecordType.DATA, b"before"), end(hand))
    assert await ada.receive_some() == b"before"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ada.aclose)
        assert await hand.hear_close() == Close(answer)
        assert await hand.hear_to_end() == b""
        await hand.stream.aclose()


async def test_a_large_send_that_waits_when_an_end_comes_behind_data_is_told_of_it() -> None:
    ada, hand = await meet_by_hand(small_tcp_pair)

    async def send() -> None:
        with pytest.raises(ConnectionClosed) as caught:
            await ada.send_all(bytes(2**20))
        assert caught.value.code is CloseCode.GOING_AWAY

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        data = hand.record(RecordType.DATA, b"before")
        await hand.say(data, hand.record(RecordType.CLOSE, Close(CloseCode.GOING_AWAY).encode()))
        assert await ada.receive_some() == b"before"
        for _ in range(4):  # so there is room again, and the sender goes on before anybody reads
            assert (await hand.hear_record())[0] is RecordType.DATA


@MEMORY_AND_TCP
async def test_a_half_close_behind_data_is_the_clean_end_and_the_other_direction_goes_on(
    transport: StreamPairMaker,
) -> None:
    ada, hand = await meet_by_hand(transport)
    await hand.say(
        hand.record(RecordType.DATA, b"all of it"), hand.record(RecordType.CLOSE, Close(CloseCode.NORMAL).encode())
    )
    assert await ada.receive_some(3) == b"all"
    await ada.send_all(b"and you?")
    assert await hand.hear_record() == (RecordType.DATA, b"and you?")
    assert await ada.receive_some() == b" of it"
    for _ in range(2):
        assert await ada.receive_some() == b""
    await ada.send_all(b"still here")
    assert await hand.hear_record() == (RecordType.DATA, b"still here")
    await ada.aclose()
    assert await hand.hear_close() == Close(CloseCode.NORMAL)
    assert await hand.hear_to_end() == b""


# --- where there are no descriptors -----------------------------------------------------------------------


@pytest.fixture
def portable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: sockets are written and read through Trio's own calls."""
    monkeypatch.setattr("trishake._wire._HAS_DESCRIPTORS", False)


@pytest.mark.usefixtures("portable")
async def test_a_connection_is_a_half_closeable_stream_where_there_are_no_descriptors() -> None:
    limits = Limits(close=0.02)

    async def make() -> tuple[SecureStream, SecureStream]:
        return await meet(await small_tcp_pair(), side(ADA, limits=limits), side(BOB, limits=limits))

    async def make_clogged() -> tuple[SecureStream, SecureStream]:
        near, far = await make()
        assert type(near._wire) is type(far._wire) is SocketWire
        await clog_soon(near)
        await clog_soon(far)
        return near, far

    await check_half_closeable_stream(make, make_clogged)


@EVERY_SYSTEM
@pytest.mark.usefixtures("without_descriptors")
async def test_an_echo_of_5_megabytes_comes_back_whole() -> None:
    ada, bob = await meet(await tcp_pair())
    data = bytes(range(251)) * (5 * 2**20 // 251)

    async def echo() -> None:
        async for chunk in bob:
            await bob.send_all(chunk)
        await bob.send_eof()

    async def send() -> None:
        await ada.send_all(data)
        await ada.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo)
        nursery.start_soon(send)
        assert await receive_all(ada) == data
    await ada.aclose()
    await bob.aclose()


@EVERY_SYSTEM
@pytest.mark.usefixtures("without_descriptors")
async def test_sends_that_are_cancelled_at_any_step_tear_no_record() -> None:
    ada, hand = await meet_by_hand(narrow_pair)
    heard: list[bytes] = []
    cut = 0

    async def hear() -> None:
        while heard[-1:] != [b"end"]:
            type_, content = await hand.hear_record()
            assert type_ is RecordType.DATA  # it decrypts, so nothing is torn, lost or out of order
            heard.append(content)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        for step in range(1, 24):
            cut += await cancelled_at(step, partial(ada.send_all, bytes([step]) * 150_000))
        await ada.send_all(b"end")
    assert cut
    sizes = Counter(content[0] for content in heard[:-1] for _ in content)
    assert set(sizes.values()) == {150_000}
    assert [content[0] for content in heard[:-1]] == sorted(content[0] for content in heard[:-1])


@EVERY_SYSTEM
@pytest.mark.usefixtures("without_descriptors")
async def test_reads_that_are_cancelled_at_any_step_lose_nothing() -> None:
    ada, hand = await meet_by_hand(tcp_pair)
    expected = b"".join(b"%03d" % number for number in range(60))
    received = bytearray()

    async def receive() -> None:
        nonlocal received
        received += await ada.receive_some(2)

    for number in range(60):
        await hand.say(hand.record(RecordType.DATA, b"%03d" % number))
        await cancelled_at(1 + number % 5, receive)
    while len(received) < len(expected):
        received += await ada.receive_some()
    assert received == expected


@EVERY_SYSTEM
@pytest.mark.usefixtures("without_descriptors")
async def test_closing_wakes_who_sends_behind_who_answers_a_ping_and_who_reads() -> None:
    ada, hand = await meet_by_hand(small_tcp_pair, limits=Limits(close=30))
    await clog_soon(ada)
    woken: list[str] = []

    async def expect_closed(name: str, call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await call()
        woken.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_closed, "receive", ada.receive_some)
        await hand.say(hand.record(RecordType.PING, Ping(b"are you?").encode()))
        await wait_all_tasks_blocked(0.002)
        nursery.start_soon(expect_closed, "send", partial(ada.send_all, bytes(100_000)))
        await wait_all_tasks_blocked(0.002)
        nursery.start_soon(ada.aclose)
        await wait_all_tasks_blocked(0.002)
        assert sorted(woken) == ["receive", "send"]
        nursery.cancel_scope.cancel()


async def test_each_call_is_a_checkpoint_though_it_has_nothing_to_wait_for() -> None:
    ada, hand = await meet_by_hand(tcp_pair)
    await hand.say(hand.record(RecordType.DATA, bytes(9)))
    assert await ada.receive_some(1) == b"\0"
    for call in (lambda: ada.send_all(b"x"), lambda: ada.send_all(b""), lambda: ada.receive_some(1)):
        with assert_checkpoints():
            await call()
    with assert_checkpoints():
        await ada.send_eof()


async def test_many_records_that_came_together_are_given_together_and_not_without_bound() -> None:
    ada, hand = await meet_by_hand(memory_pair)
    record = bytes(50_000)
    await hand.say(*(hand.record(RecordType.DATA, record) for _ in range(8)))
    await hand.say(*(hand.record(RecordType.DATA, b"%d" % number) for number in range(8)))
    sizes = []
    while sum(sizes) < 8 * 50_000 + 8:
        sizes.append(len(await ada.receive_some()))
    assert 50_000 < max(sizes) < 4 * MAX_RECORD_CONTENT
    assert len(sizes) <= 5


@EVERY_SYSTEM
@pytest.mark.usefixtures("without_descriptors")
async def test_what_cancelled_sends_have_left_is_written_before_more_is_encrypted() -> None:
    """However often it is tried, no more is held than one part of a send."""
    at_ada, at_bob = await tcp_pair(buffer=16 * 1024)
    ada, _ = await meet((at_ada, at_bob))
    fill(at_ada)
    for _ in range(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ada.send_all, bytes(2**20))
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert 0 < ada._wire.backlog < 5 * MAX_RECORD_CONTENT


async def test_pings_of_one_who_does_not_read_do_not_pile_up_as_pongs() -> None:
    at_ada, at_hand = await tcp_pair(buffer=16 * 1024)
    ada, hand = await meet_by_hand(lambda: returned((at_ada, at_hand)))
    fill(at_ada)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ada.receive_some)
        for number in range(20):
            await hand.say(hand.record(RecordType.PING, Ping(number.to_bytes(8, "big")).encode()))
            await wait_all_tasks_blocked(0.001)
        assert 0 < ada._wire.backlog < 3 * len(hand.record(RecordType.PING, Ping(bytes(8)).encode()))
        nursery.cancel_scope.cancel()


async def test_a_send_that_fails_wakes_who_reads_when_nothing_more_comes(autojump_clock: MockClock) -> None:
    at_ada, at_bob = memory_stream_pair()
    _, bob = await meet((at_ada, at_bob), bob=side(BOB, limits=Limits(close=2)))

    async def read() -> None:
        with pytest.raises(ConnectionClosed, match="broke"):
            await bob.receive_some()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        before = trio.current_time()
        at_ada.receive_stream.close()
        with pytest.raises(ConnectionClosed):
            await bob.send_all(b"no one hears it")
    assert trio.current_time() == before + 2


# --- secrets --------------------------------------------------------------------------------------------


async def test_no_key_is_in_anything_that_can_be_shown() -> None:
    seed = bytes(range(100, 132))
    identity, network = Identity.from_seed(seed), Network("home", PSK)
    at_ada, at_bob = await memory_pair()
    ada, bob = await meet((at_ada, at_bob), side(identity, network=network), side(BOB, network=network))
    session = Session.initiator(identity, Profile(network), now=0)
    things = [identity, network, ada, bob, Peer(identity, network=network), session, identity.static_key]
    secrets = [secret for key in (seed, PSK) for secret in (key.hex(), repr(key)[2:-1], str(list(key))[1:-1])]
    for thing in things:
        for shown in (repr(thing), str(thing), f"{thing}"):
            assert not any(secret in shown for secret in secrets)
            # Nothing of the length of a key at all: a session id has 16 digits, and a peer id is no hex.
            assert not re.search(r"[0-9a-f]{17}", shown.replace(str(identity.id), ""))
    assert ada.session_id.hex() in repr(ada)
    assert ada.peer.short in repr(ada)
