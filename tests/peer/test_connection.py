"""_connection.py: it ends once, for one cause, and everybody who waits wakes with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from trishake import (
    CloseCode,
    Connection,
    ConnectionClosed,
    Limits,
    Peer,
    Stream,
    StreamRefused,
    StreamTimeout,
)
from trishake.testing._by_hand import mux, opening, read_to_end
from trishake_protocol.limits import MAX_STREAMS, STREAM_WINDOW
from trishake_protocol.messages import (
    Close,
    FrameType,
    MuxFlag,
    MuxType,
    Ping,
    RecordType,
    encode_frame,
)

from .conftest import (
    ANYWHERE,
    BOB,
    EVE,
    MEMORY_AND_TCP,
    QUICK,
    SETTLED,
    ByHand,
    Keep,
    StreamPairMaker,
    accepted,
    arrival,
    cancelled_at,
    connect,
    linked,
    linked_by_hand,
    memory_pair,
    met,
    open_sockets,
    receive_exactly,
    reset,
    tcp_pair,
)

KEEP = "keep/1"
NORMAL_LIMITS = Limits()


async def echo(stream: Stream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


def seen(end: ConnectionClosed) -> tuple[object, str | None, bool]:
    return end.code, end.text, end.by_peer


# --- how it ends, as both sides see it ------------------------------------------------------------------


@MEMORY_AND_TCP
@pytest.mark.parametrize("closer", [0, 1], ids=["initiator", "responder"])
@pytest.mark.parametrize(
    ("code", "text"),
    [
        (CloseCode.NORMAL, None),
        (CloseCode.NORMAL, "good night"),
        (CloseCode.GOING_AWAY, None),
        (CloseCode.POLICY, "you talk \x1b[31mtoo much"),
        (CloseCode.INTERNAL, "é" * 128),
    ],
)
async def test_a_close_is_seen_by_both_sides_with_its_code_and_text(
    transport: StreamPairMaker, closer: int, code: CloseCode, text: str | None
) -> None:
    async with linked(transport) as ends:
        here, there = ends[closer], ends[1 - closer]
        assert here.is_open
        assert there.is_open
        with trio.fail_after(QUICK.close):  # nobody has to be waited for
            await here.aclose(code, text)
        assert seen(await here.closed()) == (code, text, False)
        assert seen(await there.closed()) == (code, text, True)
        assert not here.is_open
        assert not there.is_open
        assert code.name in str(await there.closed())
        assert "\x1b" not in str(await there.closed())
        for connection in ends:
            with pytest.raises(ConnectionClosed, match=code.name):
                await connection.open_stream("any/1")
            with pytest.raises(ConnectionClosed, match=code.name):
                await connection.ping()


async def test_without_arguments_a_connection_is_closed_as_normal() -> None:
    async with met() as two:
        async with two.at_ada:
            pass
        assert seen(await two.at_bob.closed()) == (CloseCode.NORMAL, None, True)


async def test_both_sides_may_close_at_once() -> None:
    async with met() as two, trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(two.at_ada.aclose)
            nursery.start_soon(two.at_bob.aclose)
    assert {(await end.closed()).code for end in (two.at_ada, two.at_bob)} == {CloseCode.NORMAL}


async def test_each_who_asks_for_the_cause_gets_an_error_of_his_own() -> None:
    """A raised exception gathers tracebacks."""
    async with met() as two:
        await two.at_ada.aclose()
        assert await two.at_ada.closed() is not await two.at_ada.closed()


@pytest.mark.parametrize("text", ["x" * 257, "\ud800"])
async def test_a_text_that_cannot_be_sent_closes_nothing(text: str) -> None:
    async with met() as two:
        with pytest.raises(ValueError, match=r"256|surrogates"):
            await two.at_ada.aclose(text=text)
        assert two.at_ada.is_open
        assert await two.at_ada.ping() < 5


BREACHES: dict[str, tuple[Callable[[ByHand], bytes], CloseCode]] = {
    "a record that does not decrypt": (
        lambda hand: encode_frame(FrameType.RECORD, bytes(100)),
        CloseCode.PROTOCOL,
    ),
    "an empty DATA": (lambda hand: hand.record(RecordType.DATA), CloseCode.PROTOCOL),
    "a VERDICT": (lambda hand: hand.ready(), CloseCode.PROTOCOL),
    "a SYN": (lambda hand: encode_frame(FrameType.SYN, bytes(32)), CloseCode.PROTOCOL),
    "HTTP": (lambda hand: b"GET / HTTP/1.1\r\n\r\n", CloseCode.PROTOCOL),
    "DATA for a stream never opened": (
        lambda hand: hand.record(RecordType.DATA, mux(MuxType.DATA, MuxFlag.NONE, 7, b"x")),
        CloseCode.PROTOCOL,
    ),
    "an open with our parity": (
        lambda hand: hand.record(RecordType.DATA, opening(2, KEEP)),
        CloseCode.PROTOCOL,
    ),
    "an open of an older id": (
        lambda hand: hand.record(RecordType.DATA, opening(5, KEEP) + opening(3, KEEP)),
        CloseCode.PROTOCOL,
    ),
    "more than the window": (
        lambda hand: hand.record(
            RecordType.DATA,
            opening(1, KEEP) + mux(MuxType.DATA, MuxFlag.NONE, 1, length=STREAM_WINDOW),
        ),
        CloseCode.FLOW_CONTROL,
    ),
    "credit that overflows": (
        lambda hand: hand.record(
            RecordType.DATA,
            opening(1, KEEP) + mux(MuxType.WINDOW_UPDATE, MuxFlag.NONE, 1, length=2**31),
        ),
        CloseCode.FLOW_CONTROL,
    ),
}


@asynccontextmanager
async def dialed_by_hand(limits: Limits = QUICK) -> AsyncIterator[tuple[Connection, ByHand]]:
    """Bob's connection, whom Eve has dialed by hand over TCP, and her end."""
    async with Peer(BOB, limits=limits, suites=(0x0001,)) as bob:
        bob.handle(KEEP, Keep())
        async with await connect(await bob.listen(ANYWHERE)) as stream:
            hand = ByHand(stream, EVE)
            await hand.call(BOB.id)
            await hand.hear_verdict()
            yield await arrival(bob), hand
        await bob.aclose(finish=0)


@pytest.mark.parametrize(("said", "code"), BREACHES.values(), ids=BREACHES)
async def test_whoever_breaks_the_rules_is_told_so_and_it_was_we_who_ended_it(
    said: Callable[[ByHand], bytes], code: CloseCode, socket_clock: MockClock
) -> None:
    async with dialed_by_hand() as (connection, hand):
        await hand.say(said(hand))
        with trio.fail_after(5):
            end = await connection.closed()
            close = await hear_close(hand)
        assert seen(end) == (code, None, False)
        assert close.code is code


async def hear_close(hand: ByHand) -> Close:
    """The CLOSE that comes, behind whatever else."""
    while True:
        type_, content = await hand.hear_record()
        if type_ is RecordType.CLOSE:
            return Close.decode(content)


async def test_an_end_without_close_is_a_cut_and_the_other_sides() -> None:
    async with dialed_by_hand() as (connection, hand):
        await hand.stream.aclose()
        end = await connection.closed()
        assert seen(end) == (None, None, True)
        assert "cut" in str(end)


async def test_a_reset_is_the_other_sides() -> None:
    async with dialed_by_hand() as (connection, hand):
        assert isinstance(hand.stream, trio.SocketStream)
        await reset(hand.stream)
        assert seen(await connection.closed()) == (None, None, True)


async def test_a_close_that_nobody_answers_is_waited_for_within_its_limit() -> None:
    async with dialed_by_hand(Limits(close=0.1)) as (connection, hand):
        with trio.fail_after(5):
            await connection.aclose(text="good night")
        assert (await hear_close(hand)).text == "good night"
        assert seen(await connection.closed()) == (CloseCode.NORMAL, "good night", False)


async def test_close_is_answered_at_once_with_close() -> None:
    async with dialed_by_hand() as (connection, hand):
        await hand.say(hand.record(RecordType.CLOSE, Close(CloseCode.POLICY, "enough").encode()))
        assert (await hear_close(hand)).code is CloseCode.NORMAL
        assert seen(await connection.closed()) == (CloseCode.POLICY, "enough", True)
        assert await hand.hear_to_end() == b""


async def test_a_connection_that_is_closed_forcefully_says_so_and_is_cut_at_once() -> None:
    keep = Keep()
    async with met(ada={"limits": Limits(finish=30)}) as two:
        two.bob.handle(KEEP, keep)
        await keep.open(two.at_ada)
        before = open_sockets()
        await trio.aclose_forcefully(two.at_ada)
        with trio.fail_after(5):
            assert seen(await two.at_ada.closed()) == (CloseCode.NORMAL, None, False)
            assert seen(await two.at_bob.closed()) == (CloseCode.NORMAL, None, True)
        await wait_all_tasks_blocked(SETTLED)
        assert len(open_sockets()) == len(before) - 2


async def test_a_graceful_close_under_way_can_be_cut_short_by_somebody_else() -> None:
    keep = Keep()
    async with met(ada={"limits": Limits(finish=30)}) as two, trio.open_nursery() as nursery:
        two.bob.handle(KEEP, keep)
        await keep.open(two.at_ada)
        nursery.start_soon(two.at_ada.aclose)
        await wait_all_tasks_blocked(SETTLED)
        with trio.fail_after(5):
            await trio.aclose_forcefully(two.at_ada)
            await two.at_ada.closed()


# --- closing gracefully ---------------------------------------------------------------------------------


@MEMORY_AND_TCP
async def test_what_is_open_may_finish_and_nothing_new_is_begun_on_either_side(
    transport: StreamPairMaker,
) -> None:
    async with linked(transport, handlers={"echo/1": echo}) as (at_ada, at_bob), trio.open_nursery() as nursery:
        stream = await at_ada.open_stream("echo/1")
        nursery.start_soon(partial(at_ada.aclose, text="good night", finish=30))
        await wait_all_tasks_blocked(SETTLED)
        assert not at_ada.is_open
        with pytest.raises(ConnectionClosed, match="is being closed here"):
            await at_ada.open_stream("echo/1")
        with pytest.raises(StreamRefused, match="it is closing the connection"):
            await at_bob.open_stream("echo/1")
        await stream.send_all(b"still here")
        await stream.send_eof()
        assert await read_to_end(stream) == b"still here"
        closed = trio.current_time()
        await stream.aclose()
        assert seen(await at_bob.closed()) == (CloseCode.NORMAL, "good night", True)
        assert trio.current_time() - closed < 5


async def test_what_does_not_finish_in_time_is_ended() -> None:
    keep = Keep()
    async with met() as two:
        two.bob.handle(KEEP, keep)
        here, there = await keep.open(two.at_ada)
        started = trio.current_time()
        await two.at_ada.aclose(finish=0.1)
        assert 0.1 <= trio.current_time() - started < 5
        for stream, by_peer in ((here, False), (there, True)):
            with pytest.raises(ConnectionClosed) as caught:
                await stream.receive_some()
            assert seen(caught.value) == (CloseCode.NORMAL, None, by_peer)


@pytest.mark.parametrize(
    ("code", "finish"),
    [(CloseCode.NORMAL, 0), (CloseCode.GOING_AWAY, 0), (CloseCode.POLICY, 30), (CloseCode.REPLACED, None)],
)
async def test_without_time_to_finish_or_with_a_harsher_code_it_ends_at_once(
    code: CloseCode, finish: float | None
) -> None:
    keep = Keep()
    async with met(ada={"limits": Limits(finish=30)}) as two:
        two.bob.handle(KEEP, keep)
        here, there = await keep.open(two.at_ada)
        await here.send_all(b"said before")
        with trio.fail_after(5):
            await two.at_ada.aclose(code, finish=finish)
        assert await receive_exactly(there, 11) == b"said before"
        with pytest.raises(ConnectionClosed, match=code.name):
            await there.receive_some()


async def test_a_handler_that_is_at_work_may_finish_too() -> None:
    """Bob closes, and Ada's question of before is answered."""

    async def think(stream: Stream) -> None:
        thinking.set()
        question = await read_to_end(stream)
        await trio.sleep(0.05)
        await stream.send_all(question.upper())

    thinking = trio.Event()
    async with met() as two, trio.open_nursery() as nursery:
        two.bob.handle("think/1", think)
        stream = await two.at_ada.open_stream("think/1")
        await thinking.wait()
        nursery.start_soon(partial(two.at_bob.aclose, finish=30))
        await wait_all_tasks_blocked(SETTLED)
        await stream.send_all(b"why?")
        await stream.send_eof()
        assert await read_to_end(stream) == b"WHY?"
        await stream.aclose()
        assert seen(await two.at_ada.closed()) == (CloseCode.NORMAL, None, True)


async def test_who_waits_for_room_when_the_other_side_leaves_is_told_so() -> None:
    keep = Keep()
    async with met(bob={"limits": Limits(finish=30)}) as two, trio.open_nursery() as nursery:
        two.bob.handle(KEEP, keep)
        for _ in range(MAX_STREAMS):
            await keep.open(two.at_ada)

        async def one_more() -> None:
            with pytest.raises(StreamRefused, match="it is closing the connection"):
                await two.at_ada.open_stream(KEEP)
            nursery.cancel_scope.cancel()

        nursery.start_soon(one_more)
        await wait_all_tasks_blocked()
        nursery.start_soon(two.at_bob.aclose)


# --- room for streams -----------------------------------------------------------------------------------


async def test_one_stream_too_many_waits_for_another_to_be_closed() -> None:
    opened: list[Stream] = []

    async def one_more() -> None:
        opened.append((await keep.open(two.at_ada))[0])

    keep = Keep()
    async with met() as two, trio.open_nursery() as nursery:
        two.bob.handle(KEEP, keep)
        streams = [(await keep.open(two.at_ada))[0] for _ in range(MAX_STREAMS)]
        nursery.start_soon(one_more)
        await wait_all_tasks_blocked(SETTLED)
        assert opened == []
        await streams[7].aclose()  # Bob's handler keeps his half open: it is given up all the same
        with trio.fail_after(5):
            while not opened:
                await trio.sleep(0.001)
        assert opened[0].id == 2 * MAX_STREAMS + 1


async def test_one_stream_too_many_is_a_timeout_when_there_is_never_room(socket_clock: MockClock) -> None:
    keep = Keep()
    async with met(ada={"limits": Limits(open_stream=0.5)}) as two:
        two.bob.handle(KEEP, keep)
        for _ in range(MAX_STREAMS):
            await keep.open(two.at_ada)
        with pytest.raises(StreamTimeout):
            await two.at_ada.open_stream(KEEP)
        assert len(two.at_ada.streams) == MAX_STREAMS


async def test_each_side_has_room_of_its_own() -> None:
    keep = Keep()
    async with met() as two:
        two.bob.handle(KEEP, keep)
        two.ada.handle(KEEP, keep)
        for _ in range(MAX_STREAMS):
            await keep.open(two.at_ada)
        here, there = await keep.open(two.at_bob)
        await here.send_all(b"hello")
        assert await there.receive_some() == b"hello"


async def test_thousands_of_streams_pass_one_after_another() -> None:
    async with met() as two:
        two.bob.handle("echo/1", echo)
        for _ in range(1000):
            async with await two.at_ada.open_stream("echo/1") as stream:
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"x"
        assert two.at_ada.streams == ()


async def test_who_opens_and_resets_too_often_is_shown_the_door(autojump_clock: MockClock) -> None:
    limits = Limits(resets_per_second=10, keepalive=10**6, drain_after_alert=1)

    def abandon(n: int) -> bytes:
        """An open that names half a protocol, and a reset."""
        frame = mux(MuxType.DATA, MuxFlag.SYN, n, b"\x06k")
        return frame + mux(MuxType.WINDOW_UPDATE, MuxFlag.RST, n)

    async with linked_by_hand(memory_pair, limits=limits) as (connection, hand):
        ids = iter(range(2, 10_000, 2))
        for _ in range(5):
            for _ in range(10):
                await hand.say(hand.record(RecordType.DATA, abandon(next(ids))))
            await trio.sleep(1.1)
            assert connection.is_open
        for _ in range(11):
            await hand.say(hand.record(RecordType.DATA, abandon(next(ids))))
        end = await connection.closed()
        assert (end.code, end.by_peer) == (CloseCode.PROTOCOL, False)
        assert "more than 10 streams a second" in str(end)
        assert (await hear_close(hand)).text == end.text


# --- is anybody there? ----------------------------------------------------------------------------------


async def test_a_ping_tells_the_round_trip(autojump_clock: MockClock) -> None:
    async with linked_by_hand(memory_pair) as (connection, hand), trio.open_nursery() as nursery:

        async def answer_late() -> None:
            type_, content = await hand.hear_record()
            assert type_ is RecordType.PING
            await trio.sleep(1.5)
            await hand.say(hand.record(RecordType.PING, Ping(Ping.decode(content).payload, answer=True).encode()))

        nursery.start_soon(answer_late)
        assert await connection.ping() == 1.5


@MEMORY_AND_TCP
async def test_many_may_ping_at_once(transport: StreamPairMaker) -> None:
    async with linked(transport) as ends, trio.open_nursery() as nursery:
        for connection in ends:
            for _ in range(20):
                nursery.start_soon(connection.ping)


async def test_the_answer_to_an_older_ping_is_no_answer_to_a_newer_one(autojump_clock: MockClock) -> None:
    async with linked_by_hand(memory_pair) as (connection, hand):
        with trio.move_on_after(1):
            await connection.ping()
        _, content = await hand.hear_record()
        await hand.say(hand.record(RecordType.PING, Ping(Ping.decode(content).payload, answer=True).encode()))
        with trio.move_on_after(1) as scope:
            await connection.ping()
        assert scope.cancelled_caught


async def test_two_who_say_nothing_stay_connected(autojump_clock: MockClock) -> None:
    async with linked(memory_pair, limits=NORMAL_LIMITS) as ends:
        with trio.move_on_after(45):
            await trio.sleep_forever()
        assert all(connection.is_open for connection in ends)


def calls(connection: Connection, stream: Stream) -> list[Callable[[], Awaitable[object]]]:
    """Everything that waits for the other side."""
    return [
        lambda: stream.send_all(bytes(STREAM_WINDOW)),
        stream.receive_some,
        lambda: connection.open_stream("another/1"),
        connection.ping,
        connection.closed,
    ]


async def test_a_dead_peer_is_noticed_and_everybody_who_waits_wakes(autojump_clock: MockClock) -> None:
    ends: list[ConnectionClosed] = []

    async def wait(call: Callable[[], Awaitable[object]]) -> None:
        try:
            end = await call()
        except ConnectionClosed as error:
            end = error
        assert isinstance(end, ConnectionClosed)
        ends.append(end)

    limits = Limits(keepalive=20, keepalive_answer=10, open_stream=10**6)
    async with linked_by_hand(memory_pair, limits=limits) as (connection, hand):
        async with trio.open_nursery() as nursery:

            async def take() -> None:
                await hand.hear_record()
                await hand.say(hand.record(RecordType.DATA, accepted(1)))

            nursery.start_soon(take)
            stream = await connection.open_stream(KEEP)
        last_heard = trio.current_time()
        async with trio.open_nursery() as nursery:
            for call in calls(connection, stream):
                nursery.start_soon(wait, call)
        assert trio.current_time() - last_heard == pytest.approx(30)
    assert len(ends) == 5
    assert {seen(end) for end in ends} == {(None, None, False)}
    assert all("silent for 30 s, and did not answer a ping" in str(end) for end in ends)


async def test_whoever_answers_pings_or_says_anything_is_alive(autojump_clock: MockClock) -> None:
    limits = Limits(keepalive=4, keepalive_answer=3)
    async with linked_by_hand(memory_pair, limits=limits) as (connection, hand):
        for _ in range(5):
            type_, content = await hand.hear_record()  # after four seconds of silence
            assert type_ is RecordType.PING
            await trio.sleep(2.9)
            await hand.say(hand.record(RecordType.PING, Ping(Ping.decode(content).payload, answer=True).encode()))
        type_, _ = await hand.hear_record()
        await trio.sleep(2.9)
        await hand.say(hand.record(RecordType.PING, Ping(bytes(8)).encode()))  # no answer, but a sign of life
        await trio.sleep(3)
        assert connection.is_open


async def test_who_is_spoken_to_often_enough_is_never_asked(autojump_clock: MockClock) -> None:
    async with linked_by_hand(memory_pair, limits=Limits(keepalive=4)) as (_connection, hand):
        for _ in range(10):
            await trio.sleep(3.9)
            await hand.say(hand.record(RecordType.PING, Ping(bytes(8)).encode()))
        await trio.sleep(1)  # a CLOSE that came together with the last of them would be the answer to both
        await hand.say(hand.record(RecordType.CLOSE, Close().encode()))
        for _ in range(10):
            _, content = await hand.hear_record()
            assert Ping.decode(content).answer
        assert (await hand.hear_close()).code is CloseCode.NORMAL


async def test_closing_on_a_peer_that_is_silent_already_just_waits_its_time(autojump_clock: MockClock) -> None:
    """And does not turn in circles: the clock would never jump."""
    limits = Limits(keepalive=2, keepalive_answer=10, close=5)
    async with linked_by_hand(memory_pair, limits=limits) as (connection, _):
        await trio.sleep(1)
        started = trio.current_time()
        await connection.aclose()
        assert trio.current_time() - started == pytest.approx(5)


@pytest.mark.parametrize("way", ["close", "cut", "reset", "breach"])
async def test_however_it_ends_everybody_who_waits_wakes_with_the_cause(way: str, socket_clock: MockClock) -> None:
    causes: list[str] = []

    async def wait(call: Callable[[], Awaitable[object]]) -> None:
        try:
            end = await call()
        except ConnectionClosed as error:
            end = error
        causes.append(str(end))

    async with linked_by_hand(tcp_pair) as (connection, hand):
        async with trio.open_nursery() as nursery:

            async def take() -> None:
                await hand.hear_record()
                await hand.say(hand.record(RecordType.DATA, accepted(1)))

            nursery.start_soon(take)
            stream = await connection.open_stream(KEEP)
        async with trio.open_nursery() as nursery:
            for call in calls(connection, stream):
                nursery.start_soon(wait, call)
            await wait_all_tasks_blocked(SETTLED)
            match way:
                case "close":
                    await hand.say(hand.record(RecordType.CLOSE, Close(CloseCode.IDLE, "idle").encode()))
                case "cut":
                    await hand.stream.aclose()
                case "reset":
                    assert isinstance(hand.stream, trio.SocketStream)
                    await reset(hand.stream)
                case _:
                    await hand.say(encode_frame(FrameType.RECORD, bytes(100)))
    assert len(causes) == 5
    assert len(set(causes)) == 1


# --- what the other side can make us hold ---------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        "open and finish",
        "ping",
    ],
)
async def test_who_asks_and_never_reads_the_answers_does_not_fill_our_memory(said: str) -> None:
    """Nothing that we queue in answer is unbounded: such a peer is ended, or not read from."""
    near, far = memory_stream_pair()
    limits = Limits(write_alert=0.1, drain_after_alert=0.1, close=0.1)

    async def pair() -> tuple[trio.StapledStream, trio.StapledStream]:
        return near, far

    async with linked_by_hand(pair, limits=limits) as (connection, hand):
        await wait_all_tasks_blocked()
        clog(near)
        for start in range(2, 2 + 20 * 2000, 2000):
            if said == "ping":
                records = [hand.record(RecordType.PING, Ping(bytes(8)).encode()) for _ in range(1000)]
            else:
                frames = [
                    opening(n, "x") + mux(MuxType.WINDOW_UPDATE, MuxFlag.FIN, n)
                    for n in range(start, start + 2000, 2)
                ]
                records = [hand.record(RecordType.DATA, b"".join(frames))]
            with suppress(trio.BrokenResourceError):  # it has been ended, and its transport closed
                await hand.say(*records)
            await wait_all_tasks_blocked()
        held = connection._wire.backlog + connection._carried.unsent
    assert held < 256 * 1024


def clog(stream: trio.StapledStream) -> None:
    """From here on nothing that is written to it is taken."""
    assert isinstance(stream.send_stream, trio.testing.MemorySendStream)
    stream.send_stream.send_all_hook = trio.sleep_forever


# --- a transport that fails, or is stuck ----------------------------------------------------------------


def fail(stream: trio.StapledStream) -> None:
    """From here on whatever is written to it finds it broken."""

    async def broken() -> None:
        raise trio.BrokenResourceError("no carrier")

    assert isinstance(stream.send_stream, trio.testing.MemorySendStream)
    stream.send_stream.send_all_hook = broken


@asynccontextmanager
async def linked_by_hand_over(
    near: trio.StapledStream, far: trio.StapledStream, limits: Limits
) -> AsyncIterator[tuple[Connection, ByHand, Stream]]:
    """Ada's connection, the other end in our hands, and a stream that she has opened."""

    async def pair() -> tuple[trio.StapledStream, trio.StapledStream]:
        return near, far

    async with linked_by_hand(pair, limits=limits) as (connection, hand):
        async with trio.open_nursery() as nursery:

            async def take() -> None:
                await hand.hear_record()
                await hand.say(hand.record(RecordType.DATA, accepted(1)))

            nursery.start_soon(take)
            stream = await connection.open_stream(KEEP)
        await wait_all_tasks_blocked()
        yield connection, hand, stream


async def test_what_the_other_side_said_before_the_transport_broke_is_the_cause(autojump_clock: MockClock) -> None:
    near, far = memory_stream_pair()
    async with linked_by_hand_over(near, far, Limits()) as (connection, hand, stream):
        fail(near)
        await stream.send_all(b"into the void")
        await trio.sleep(0.5)
        await hand.say(hand.record(RecordType.CLOSE, Close(CloseCode.POLICY, "enough").encode()))
        assert seen(await connection.closed()) == (CloseCode.POLICY, "enough", True)


async def test_a_transport_that_broke_without_a_word_is_the_cause_itself(autojump_clock: MockClock) -> None:
    near, far = memory_stream_pair()
    async with linked_by_hand_over(near, far, Limits()) as (connection, _, stream):
        fail(near)
        await stream.send_all(b"into the void")
        end = await connection.closed()
        assert seen(end) == (None, None, True)
        assert "no carrier" in str(end)
        assert trio.current_time() <= 1
        with pytest.raises(ConnectionClosed, match="no carrier"):
            await stream.send_all(b"x")


async def test_a_sender_whom_the_transport_holds_up_wakes_when_it_ends(autojump_clock: MockClock) -> None:
    near, far = memory_stream_pair()

    async def send() -> None:
        with pytest.raises(ConnectionClosed, match="enough"):
            await stream.send_all(bytes(200_000))  # there is credit for it

    async with (
        linked_by_hand_over(near, far, Limits()) as (connection, hand, stream),
        trio.open_nursery() as nursery,
    ):
        clog(near)
        await stream.send_all(b"under way")
        await wait_all_tasks_blocked()
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        assert connection._wire.backlog + connection._carried.unsent < 200_000  # it waits
        await hand.say(hand.record(RecordType.CLOSE, Close(CloseCode.POLICY, "enough").encode()))


async def test_closing_on_a_transport_that_is_stuck_takes_no_longer_than_its_limits(
    autojump_clock: MockClock,
) -> None:
    near, far = memory_stream_pair()
    async with linked_by_hand_over(near, far, Limits(close=5, write_alert=1)) as (connection, _, stream):
        clog(near)
        await stream.send_all(bytes(1000))
        await stream.aclose()
        await connection.aclose()
        assert trio.current_time() == pytest.approx(6)


# --- every step -----------------------------------------------------------------------------------------


async def test_whatever_step_a_question_is_cancelled_at_the_connection_goes_on() -> None:
    async def ask() -> None:
        async with await two.at_ada.open_stream("echo/1") as stream:
            await stream.send_all(b"hello")
            await stream.send_eof()
            assert await read_to_end(stream) == b"hello"

    async with met() as two:
        two.bob.handle("echo/1", echo)
        for step in range(1, 300):
            cancelled = await cancelled_at(step, ask)
            assert two.at_ada.streams == (), f"cancelled at step {step}"
            with trio.fail_after(5):
                await ask()
            if not cancelled:
                break
        assert not cancelled
        assert step > 10
        await wait_all_tasks_blocked(SETTLED)
        assert two.at_bob.streams == ()


async def test_whatever_step_a_close_is_cancelled_at_it_ends() -> None:
    limits = Limits(handshake_burst=10**6)
    for step in range(1, 100):
        async with met(ada={"limits": limits}, bob={"limits": limits}) as two:
            cancelled = await cancelled_at(step, two.at_ada.aclose)
            with trio.fail_after(3):
                await two.at_ada.closed()
                await two.at_bob.closed()
        if not cancelled:
            break
    assert not cancelled
    assert step > 5


async def test_an_open_that_crosses_a_go_away_is_refused_and_no_failure_of_a_handler() -> None:
    async with linked_by_hand(tcp_pair) as (connection, hand), trio.open_nursery() as nursery:

        async def open_() -> None:
            with pytest.raises(StreamRefused, match="it is closing the connection"):
                await connection.open_stream("echo/1")

        nursery.start_soon(open_)
        await hand.hear_record()
        farewell = mux(MuxType.GO_AWAY, MuxFlag.NONE, 0) + mux(MuxType.WINDOW_UPDATE, MuxFlag.RST, 1)
        await hand.say(hand.record(RecordType.DATA, farewell))


# --- one scope for all that is read -----------------------------------------------------------------------


async def test_who_has_stopped_reading_does_not_begin_again_when_a_write_fails(autojump_clock: MockClock) -> None:
    async with linked_by_hand(memory_pair, limits=Limits(write_alert=20, close=5)) as (connection, _):
        await wait_all_tasks_blocked()
        before = trio.current_time()
        connection._stop_reading()
        connection._write_failed(trio.BrokenResourceError("at the same moment"))
        await connection.closed()
        assert trio.current_time() == before


async def test_after_a_write_that_failed_what_has_come_is_read_for_a_while_and_no_longer(
    autojump_clock: MockClock,
) -> None:
    limits = Limits(write_alert=3, keepalive=1, keepalive_answer=1.5)  # what is due meanwhile ends nothing sooner
    async with linked_by_hand(memory_pair, limits=limits) as (connection, hand):
        await wait_all_tasks_blocked()
        before = trio.current_time()
        connection._write_failed(trio.BrokenResourceError("no more"))
        await trio.sleep(2.25)
        await hand.say(hand.record(RecordType.PING, Ping(bytes(8), answer=True).encode()))
        await wait_all_tasks_blocked()
        assert connection.is_open
        assert connection._heard == before + 2.25
        with trio.fail_after(10):
            end = await connection.closed()
        assert "no more" in str(end)
        assert trio.current_time() == before + 3


async def test_pings_streams_and_the_end_wake_each_who_waits_for_them_and_nobody_returns_too_early() -> None:
    """They all wait in one place."""
    async with linked_by_hand(memory_pair) as (connection, hand):
        done: list[str] = []

        async def ping(name: str) -> None:
            await connection.ping()
            done.append(name)

        async def ping_in_vain() -> None:
            with pytest.raises(ConnectionClosed):
                await connection.ping()
            done.append("in vain")

        async with trio.open_nursery() as nursery:
            for name in ("first", "second"):
                nursery.start_soon(ping, name)
                await wait_all_tasks_blocked()
            nursery.start_soon(ping_in_vain)
            await wait_all_tasks_blocked()
            await hand.say(hand.record(RecordType.DATA, opening(2, "nobody/1")))  # refused: news, but not of them
            await hand.say(hand.record(RecordType.DATA, mux(MuxType.GO_AWAY, MuxFlag.NONE, 0)))
            await wait_all_tasks_blocked()
            assert done == []
            for number, expected in ((1, ["first"]), (2, ["first", "second"])):
                payload = number.to_bytes(8, "big")
                await hand.say(hand.record(RecordType.PING, Ping(payload, answer=True).encode()))
                await wait_all_tasks_blocked()
                assert done == expected
            await hand.say(hand.record(RecordType.CLOSE, Close(CloseCode.GOING_AWAY).encode()))
        assert done == ["first", "second", "in vain"]
