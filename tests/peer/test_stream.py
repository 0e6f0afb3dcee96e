"""_stream.py: a byte stream among many, as Trio wants it; its credit, its greeting, and its ends."""

from __future__ import annotations

import logging
import os
import stat
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio
from trio.testing import MockClock, check_half_closeable_stream, memory_stream_pair, wait_all_tasks_blocked

from trishake import (
    Connection,
    ConnectionClosed,
    Decision,
    Introduction,
    Limits,
    Peer,
    Role,
    Stream,
    StreamError,
    StreamRefused,
    StreamReset,
    StreamTimeout,
    UnknownProtocol,
    VerdictCode,
    accept,
    only,
    reject,
)
from trishake._wire import SocketWire
from trishake.testing._by_hand import mux, read_to_end
from trishake_protocol.limits import STREAM_WINDOW
from trishake_protocol.messages import MuxFlag, MuxFrame, MuxType, RecordType

from .conftest import (
    ADA,
    BOB,
    EVE,
    MEMORY_AND_TCP,
    QUICK,
    SETTLED,
    ByHand,
    Keep,
    StreamPair,
    StreamPairMaker,
    accepted,
    cancelled_at,
    linked,
    linked_by_hand,
    memory_pair,
    met,
    narrow_pair,
    receive_exactly,
    tcp_pair,
)

KEEP = "keep/1"
TO_ACCEPTOR = STREAM_WINDOW - 1 - len(KEEP)
"""What an opener may send before any of it is read: its greeting has taken the rest."""
TO_OPENER = STREAM_WINDOW - 1


@asynccontextmanager
async def both_ends(protocol: str = KEEP) -> AsyncIterator[tuple[Stream, Stream]]:
    """A stream that Ada has opened, at hers and at Bob's."""
    keep = Keep()
    async with met() as two:
        two.bob.handle(protocol, keep)
        yield await keep.open(two.at_ada, protocol)


async def echo(stream: Stream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


async def clog(here: Stream, there: Stream) -> tuple[Stream, Stream]:
    """Nothing more can be sent either way until something is read."""
    await here.send_all(bytes(TO_ACCEPTOR))
    await there.send_all(bytes(TO_OPENER))
    return here, there


# --- as Trio has it -------------------------------------------------------------------------------------


@MEMORY_AND_TCP
@pytest.mark.parametrize("opener_first", [True, False], ids=["opener", "acceptor"])
async def test_a_stream_is_a_half_closeable_stream(transport: StreamPairMaker, opener_first: bool) -> None:
    keep = Keep()
    async with linked(transport, handlers={KEEP: keep}) as (at_ada, _):

        async def make() -> tuple[Stream, Stream]:
            pair = await keep.open(at_ada)
            return pair if opener_first else pair[::-1]

        async def make_clogged() -> tuple[Stream, Stream]:
            pair = await clog(*await keep.open(at_ada))
            return pair if opener_first else pair[::-1]

        await check_half_closeable_stream(make, make_clogged)


async def test_a_stream_knows_who_and_what_and_on_which_connection() -> None:
    keep = Keep()
    async with met() as two:
        two.bob.handle("one/1", keep)
        two.bob.handle("two/1", keep)
        two.ada.handle("back/1", keep)
        at_ada, at_bob = await keep.open(two.at_ada, "one/1")
        assert (at_ada.peer, at_ada.protocol, at_ada.connection) == (BOB.id, "one/1", two.at_ada)
        assert (at_bob.peer, at_bob.protocol, at_bob.connection) == (ADA.id, "one/1", two.at_bob)
        assert (at_ada.is_ours, at_bob.is_ours) == (True, False)
        second, second_at_bob = await keep.open(two.at_ada, "two/1")
        back, back_at_ada = await keep.open(two.at_bob, "back/1")
        assert (at_ada.id, second.id, back.id) == (1, 3, 2)  # odd where the initiator opened it
        assert (at_bob.id, second_at_bob.id, back_at_ada.id) == (1, 3, 2)
        assert two.at_ada.streams == (at_ada, second, back_at_ada)
        assert repr(at_ada) == f"<Stream 1 'one/1' to {BOB.id.short}>"


async def test_two_callers_at_once_in_one_direction_are_told_so() -> None:
    async with both_ends() as (here, there), trio.open_nursery() as nursery:
        await here.send_all(bytes(TO_ACCEPTOR))
        nursery.start_soon(here.send_all, b"waits for credit")
        nursery.start_soon(here.receive_some)
        await wait_all_tasks_blocked()
        for call in (lambda: here.send_all(b""), here.send_eof, here.wait_send_all_might_not_block):
            with pytest.raises(trio.BusyResourceError, match="in send"):
                await call()
        with pytest.raises(trio.BusyResourceError, match="in receive"):
            await here.receive_some()
        await receive_exactly(there, TO_ACCEPTOR + len(b"waits for credit"))
        await there.send_all(b"x")


async def test_a_caller_who_asks_for_little_gets_little_and_loses_nothing() -> None:
    async with both_ends() as (here, there):
        await here.send_all(b"hello")
        assert [await there.receive_some(2) for _ in range(3)] == [b"he", b"ll", b"o"]
        for wrong, error in ((0, ValueError), (-1, ValueError), ("2", TypeError), (1.5, TypeError)):
            with pytest.raises(error):
                await there.receive_some(wrong)  # type: ignore[arg-type]


async def test_ending_our_half_twice_does_nothing_and_the_other_half_goes_on() -> None:
    async with both_ends() as (here, there):
        await here.send_eof()
        await here.send_eof()
        assert await there.receive_some() == b""
        assert await there.receive_some() == b""  # and again
        await there.send_all(b"still here")
        assert await here.receive_some() == b"still here"
        with pytest.raises(trio.ClosedResourceError, match="send_eof"):
            await here.send_all(b"x")


async def test_a_closed_stream_says_so_to_every_call() -> None:
    async with both_ends() as (here, _):
        await here.aclose()
        await here.aclose()
        for call in (
            lambda: here.send_all(b"x"),
            lambda: here.send_all(b""),
            here.receive_some,
            here.send_eof,
            here.wait_send_all_might_not_block,
        ):
            with pytest.raises(trio.ClosedResourceError):
                await call()


async def test_a_cancelled_receive_has_lost_nothing() -> None:
    async with both_ends() as (here, there):
        with trio.move_on_after(0.01) as scope:
            await there.receive_some()
        assert scope.cancelled_caught
        await here.send_all(b"hello")
        assert await there.receive_some() == b"hello"


async def test_a_send_that_is_cancelled_leaves_the_stream_whole() -> None:
    async with both_ends() as (here, there):
        with trio.move_on_after(0.02) as scope:
            await here.send_all(b"a" * (TO_ACCEPTOR + 1))
        assert scope.cancelled_caught
        assert await receive_exactly(there, TO_ACCEPTOR) == b"a" * TO_ACCEPTOR
        await here.send_all(b"b")
        assert await there.receive_some() == b"b"


# --- ends -----------------------------------------------------------------------------------------------


async def test_closing_a_stream_is_a_clean_end_for_the_other_side() -> None:
    async with both_ends() as (here, there):
        await here.send_all(b"last words")
        await here.aclose()
        assert await read_to_end(there) == b"last words"


async def test_a_stream_that_is_closed_with_unread_data_is_reset() -> None:
    async with both_ends() as (here, there):
        await there.send_all(b"nobody reads this")
        await wait_all_tasks_blocked(SETTLED)
        await here.aclose()
        with pytest.raises(StreamReset) as caught:
            await there.receive_some()
        assert (caught.value.peer, caught.value.protocol) == (ADA.id, KEEP)
        with pytest.raises(StreamReset):
            await there.send_all(b"x")


async def test_who_goes_on_sending_to_a_stream_that_was_closed_is_told_by_a_reset() -> None:
    async with both_ends() as (here, there):
        await here.aclose()
        assert await there.receive_some() == b""
        with pytest.raises(StreamReset), trio.fail_after(5):
            await there.send_all(bytes(TO_OPENER + 1))


async def test_a_stream_that_is_closed_forcefully_is_reset_and_its_connection_goes_on() -> None:
    keep = Keep()
    async with met() as two:
        two.bob.handle(KEEP, keep)
        here, there = await keep.open(two.at_ada)
        await trio.aclose_forcefully(here)
        with pytest.raises(StreamReset):
            await there.receive_some()
        here, there = await keep.open(two.at_ada)
        await here.send_all(b"hello")
        assert await there.receive_some() == b"hello"


async def test_what_had_arrived_before_a_reset_is_delivered_first() -> None:
    async with both_ends() as (here, there):
        await here.send_all(b"first this")
        await trio.aclose_forcefully(here)
        await wait_all_tasks_blocked(SETTLED)
        assert await receive_exactly(there, 10) == b"first this"
        with pytest.raises(StreamReset, match=r"reset the stream"):
            await there.receive_some()


async def test_what_had_arrived_before_the_connection_ended_is_delivered_first() -> None:
    async with both_ends() as (here, there):
        await here.send_all(b"first this")
        await wait_all_tasks_blocked(SETTLED)
        await here.connection.aclose(text="enough", finish=0)
        assert await receive_exactly(there, 10) == b"first this"
        with pytest.raises(ConnectionClosed, match="enough"):
            await there.receive_some()
        with pytest.raises(ConnectionClosed, match="enough"):
            await there.send_all(b"x")


async def test_an_end_that_had_arrived_stays_an_end_when_the_connection_is_gone() -> None:
    async with both_ends() as (here, there):
        await here.send_all(b"all of it")
        await here.aclose()
        await here.connection.aclose()
        await there.connection.closed()
        assert await receive_exactly(there, 9) == b"all of it"
        assert await there.receive_some() == b""


@pytest.mark.parametrize("end", ["close", "reset", "connection"])
async def test_whoever_waits_wakes_when_the_stream_ends(end: str) -> None:
    """Here, or by the other side, or with all the connection."""
    ends: list[type[BaseException]] = []

    async def wait(call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)) as caught:
            await call()
        ends.append(caught.type)

    async with both_ends() as (here, there):
        await here.send_all(bytes(TO_ACCEPTOR))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, lambda: here.send_all(b"x"))
            nursery.start_soon(wait, here.receive_some)
            await wait_all_tasks_blocked(SETTLED)
            match end:
                case "close":
                    await here.aclose()
                case "reset":
                    await trio.aclose_forcefully(there)
                case _:
                    await there.connection.aclose(finish=0)
    expected = {"close": trio.ClosedResourceError, "reset": StreamReset, "connection": ConnectionClosed}[end]
    assert ends == [expected] * 2


async def test_a_stream_outlives_the_block_of_its_peer_and_still_closes_quietly() -> None:
    """A block that is cancelled ends the connection; whoever still holds a stream of it may close it."""
    keep = Keep()
    async with Peer(BOB, limits=QUICK) as bob:
        bob.handle(KEEP, keep)
        invite = (await bob.listen("tcp://127.0.0.1:0")).invite
        with trio.CancelScope() as scope:
            async with Peer(ADA, limits=QUICK) as ada:
                here, there = await keep.open(await ada.dial(invite))
                closed_late, _ = await keep.open(here.connection)
                await there.send_all(bytes(200_000))
                await wait_all_tasks_blocked(SETTLED)
                scope.cancel()
        assert len(await receive_exactly(here, 200_000)) == 200_000  # it had arrived
        with pytest.raises(ConnectionClosed, match="closed here"):
            await here.send_all(b"x")
        await here.aclose()
        await closed_late.aclose()


# --- handlers -------------------------------------------------------------------------------------------


async def test_a_stream_is_closed_when_its_handler_returns() -> None:
    async def greet(stream: Stream) -> None:
        await stream.send_all(b"hello")

    async with met() as two:
        two.bob.handle("greet/1", greet)
        stream = await two.at_ada.open_stream("greet/1")
        assert await read_to_end(stream) == b"hello"


async def test_a_handler_that_fails_loses_its_stream_alone_and_the_log_has_the_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(stream: Stream) -> None:
        raise RuntimeError("a black cat")

    async with met() as two:
        two.bob.handle("fail/1", fail)
        two.bob.handle("echo/1", echo)
        stream = await two.at_ada.open_stream("fail/1")
        with pytest.raises(StreamReset):
            await stream.receive_some()
        other = await two.at_ada.open_stream("echo/1")
        await other.send_all(b"still here")
        assert await other.receive_some() == b"still here"
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "fail/1" in record.getMessage()
    assert record.exc_info
    assert "a black cat" in str(record.exc_info[1])


async def hang_up_alone(stream: Stream) -> None:
    await stream.receive_some()


async def hang_up_in_a_group(stream: Stream) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(stream.wait_send_all_might_not_block)
            await stream.receive_some()


async def hang_up_in_two_groups(stream: Stream) -> None:
    try:
        await stream.receive_some()
    except trio.BrokenResourceError as error:
        inner = ExceptionGroup("inner", [error, trio.ClosedResourceError()])
        raise ExceptionGroup("outer", [inner, error]) from None


@pytest.mark.parametrize("handler", [hang_up_alone, hang_up_in_a_group, hang_up_in_two_groups])
async def test_a_handler_that_ends_with_a_hang_up_is_no_failure(
    handler: Callable[[Stream], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    async with met() as two:
        two.bob.handle("hang-up/1", handler)
        await trio.aclose_forcefully(await two.at_ada.open_stream("hang-up/1"))
        await wait_all_tasks_blocked(SETTLED)
        assert two.at_bob.streams == ()
    assert caplog.records == []


async def test_a_group_with_more_than_hang_ups_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(stream: Stream) -> None:
        raise ExceptionGroup("both", [trio.BrokenResourceError(), ValueError("and this")])

    async with met() as two:
        two.bob.handle("fail/1", fail)
        with pytest.raises(StreamReset):
            await (await two.at_ada.open_stream("fail/1")).receive_some()
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_a_handler_is_added_by_a_call_or_as_a_decorator() -> None:
    async with met() as two:

        @two.bob.handle("decorated/1")
        async def decorated(stream: Stream) -> None:
            await stream.send_all(b"decorated")

        async def called(stream: Stream) -> None:
            await stream.send_all(b"called")

        two.bob.handle("called/1", called)
        for name in ("decorated", "called"):
            stream = await two.at_ada.open_stream(f"{name}/1")
            assert await read_to_end(stream) == name.encode()
        assert decorated.__name__ == "decorated"  # it is still itself


async def test_a_protocol_has_one_handler() -> None:
    bob = Peer(BOB)
    bob.handle("echo/1", echo)
    with pytest.raises(ValueError, match="'echo/1' has a handler already"):
        bob.handle("echo/1", echo)
    with pytest.raises(ValueError, match="has a handler already"):
        bob.handle("echo/1")(echo)


OUT_OF_BOUNDS = ["", "x" * 129, "é" * 65, "\ud800"]


@pytest.mark.parametrize("protocol", OUT_OF_BOUNDS, ids=["empty", "129 bytes", "130 bytes", "no UTF-8"])
async def test_a_protocol_id_out_of_bounds_is_refused_here(protocol: str) -> None:
    async with met() as two:
        with pytest.raises(ValueError, match=r"protocol|surrogates"):
            two.bob.handle(protocol, echo)
        with pytest.raises(ValueError, match=r"protocol|surrogates"):
            await two.at_ada.open_stream(protocol)
        assert two.at_ada.streams == ()


@pytest.mark.parametrize("protocol", ["x", "x" * 128, "é" * 64, "with spaces and \x00"])
async def test_a_protocol_id_within_bounds_is_any_text(protocol: str) -> None:
    async with both_ends(protocol) as (here, there):
        assert here.protocol == there.protocol == protocol


# --- opening --------------------------------------------------------------------------------------------


async def test_a_protocol_that_nobody_speaks_is_unknown() -> None:
    async with met() as two:
        with pytest.raises(UnknownProtocol) as caught:
            await two.at_ada.open_stream("echo/2")
        assert (caught.value.peer, caught.value.protocol) == (BOB.id, "echo/2")
        assert str(caught.value) == (
            f"'echo/2' with {BOB.id}: it has no handler for that. "
            "Check the protocol's spelling, and what its program offers."
        )
        assert isinstance(caught.value, StreamError)
        assert two.at_ada.streams == two.at_bob.streams == ()


async def test_a_handler_may_be_for_some_only() -> None:
    async with met() as two:
        two.bob.handle("ours/1", echo, trust=only(ADA.id))
        two.bob.handle("theirs/1", echo, trust=only(EVE.id))
        stream = await two.at_ada.open_stream("ours/1")
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        with pytest.raises(StreamRefused) as caught:
            await two.at_ada.open_stream("theirs/1")
        assert caught.value.text == "IDENTITY_UNKNOWN"
        assert two.at_bob.streams == (stream_at_bob(two.at_bob, stream),)


def stream_at_bob(connection: Connection, stream: Stream) -> Stream:
    return next(there for there in connection.streams if there.id == stream.id)


async def test_a_handlers_policy_is_told_who_and_what_it_says_reaches_the_opener() -> None:
    told: list[Introduction] = []

    async def doubtful(introduction: Introduction) -> Decision:
        told.append(introduction)
        return reject(VerdictCode.POLICY, "not \x1b[31mtoday\u202e")

    async with met() as two:
        two.bob.handle("doubt/1", echo, trust=doubtful)
        with pytest.raises(StreamRefused) as caught:
            await two.at_ada.open_stream("doubt/1")
        (introduction,) = told
        assert (introduction.peer, introduction.role) == (ADA.id, Role.INITIATOR)
        assert introduction.session_id == two.at_ada.session_id
        assert introduction.address == two.at_bob.address
    assert caught.value.text == "not \x1b[31mtoday\u202e"  # as it came
    assert "\x1b" not in str(caught.value)
    assert "\u202e" not in str(caught.value)
    assert "today" in str(caught.value)


async def test_a_long_text_is_cut_to_what_fits_where_a_stream_is_refused() -> None:
    async def wordy(introduction: Introduction) -> Decision:
        return reject(text="é" * 128)  # 256 bytes, and one less is half a letter

    async with met() as two:
        two.bob.handle("wordy/1", echo, trust=wordy)
        with pytest.raises(StreamRefused) as caught:
            await two.at_ada.open_stream("wordy/1")
    assert caught.value.text == "é" * 127


async def test_a_handlers_policy_that_fails_or_never_ends_refuses_the_stream(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(introduction: Introduction) -> Decision:
        raise RuntimeError("a black cat")

    async def hesitate(introduction: Introduction) -> Decision:
        await trio.sleep_forever()
        return accept()

    async with met(bob={"limits": Limits(policy=0.05)}) as two:
        two.bob.handle("fail/1", echo, trust=fail)
        two.bob.handle("hesitate/1", echo, trust=hesitate)
        for protocol, text in (("fail/1", "INTERNAL"), ("hesitate/1", "POLICY_TIMEOUT")):
            with pytest.raises(StreamRefused) as caught:
                await two.at_ada.open_stream(protocol)
            assert caught.value.text == text
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_an_open_that_nobody_answers_is_a_timeout() -> None:
    async with linked_by_hand(tcp_pair, limits=Limits(open_stream=0.05)) as (connection, _):
        with pytest.raises(StreamTimeout, match=r"it was not open within 0.05 s") as caught:
            await connection.open_stream("echo/1")
        assert isinstance(caught.value, trio.TooSlowError)
        assert (caught.value.seconds, caught.value.protocol) == (0.05, "echo/1")
        assert connection.streams == ()


async def test_an_open_that_is_reset_says_so() -> None:
    async with linked_by_hand(tcp_pair) as (connection, hand), trio.open_nursery() as nursery:

        async def open_() -> None:
            with pytest.raises(StreamReset):
                await connection.open_stream("echo/1")

        nursery.start_soon(open_)
        assert await hand.hear_record() == (RecordType.DATA, mux(MuxType.DATA, MuxFlag.SYN, 1, b"\x06echo/1"))
        await hand.say(hand.record(RecordType.DATA, mux(MuxType.WINDOW_UPDATE, MuxFlag.RST, 1)))


async def test_a_cancelled_open_leaves_no_stream_behind() -> None:
    async with linked_by_hand(tcp_pair) as (connection, hand):
        with trio.move_on_after(0.05) as scope:
            await connection.open_stream("echo/1")
        assert scope.cancelled_caught
        assert connection.streams == ()
        frames = Frames(hand)
        assert (await frames.hear())[0].flags == MuxFlag.SYN
        frame, _ = await frames.hear()
        assert (frame.stream, frame.flags) == (1, MuxFlag.RST)
        await hand.say(hand.record(RecordType.DATA, accepted(1)))  # it crossed our reset
        assert await ask_again(connection, hand, frames) == 3


async def ask_again(connection: Connection, hand: ByHand, frames: Frames) -> int:
    """Open a stream, and take it; its id."""
    opened: list[int] = []

    async def open_() -> None:
        opened.append((await connection.open_stream("echo/1")).id)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_)
        frame, _ = await frames.hear()
        await hand.say(hand.record(RecordType.DATA, accepted(frame.stream)))
    return opened[0]


class Frames:
    """The frames that come to a hand, out of its DATA records."""

    def __init__(self, hand: ByHand) -> None:
        self._hand = hand
        self._unread = b""
        self.records = 0

    async def hear(self) -> tuple[MuxFrame, bytes]:
        header = MuxFrame.decode(await self._exactly(12))
        return header, await self._exactly(header.length if header.type is MuxType.DATA else 0)

    async def _exactly(self, length: int) -> bytes:
        while len(self._unread) < length:
            type_, content = await self._hand.hear_record()
            assert type_ is RecordType.DATA
            self.records += 1
            self._unread += content
        part, self._unread = self._unread[:length], self._unread[length:]
        return part


async def test_what_is_sent_is_bytes_whatever_the_shape_of_the_view() -> None:
    numbers = array("I", range(100_000))
    async with both_ends() as (here, there), trio.open_nursery() as nursery:

        async def send() -> None:
            await here.send_all(memoryview(numbers))
            await here.send_all(bytearray(b"and these"))
            await here.aclose()

        nursery.start_soon(send)
        assert await read_to_end(there) == numbers.tobytes() + b"and these"


async def test_crumbs_that_came_one_by_one_are_received_together() -> None:
    """What is kept of a window is about as large as the window, however small the frames were."""
    async with linked_by_hand(tcp_pair) as (connection, hand):
        await ask_again(connection, hand, Frames(hand))
        (stream,) = connection.streams
        crumbs = b"".join([mux(MuxType.DATA, MuxFlag.NONE, 1, bytes((65 + n % 26,))) for n in range(2000)])
        await hand.say(hand.record(RecordType.DATA, crumbs))
        await wait_all_tasks_blocked(SETTLED)
        assert len(await stream.receive_some()) == 2000


# --- credit ---------------------------------------------------------------------------------------------


async def test_a_sender_stops_when_a_window_is_unread_and_goes_on_when_it_is_read() -> None:
    sent = 0

    async def send_much() -> None:
        nonlocal sent
        for _ in range(1024):
            await here.send_all(bytes(1024))
            sent += 1
        await here.send_eof()

    async with both_ends() as (here, there), trio.open_nursery() as nursery:
        nursery.start_soon(send_much)
        await wait_all_tasks_blocked(SETTLED)
        assert sent == TO_ACCEPTOR // 1024 == 255
        assert len(await read_to_end(there)) == 1024 * 1024


async def test_credit_is_given_when_the_application_reads_and_not_before() -> None:
    async with both_ends() as (here, there), trio.open_nursery() as nursery:
        await here.send_all(bytes(TO_ACCEPTOR))
        nursery.start_soon(here.send_all, b"more")
        await wait_all_tasks_blocked(SETTLED)
        await receive_exactly(there, STREAM_WINDOW // 2 - 1 - 1 - len(KEEP))
        await wait_all_tasks_blocked(SETTLED)
        assert len(nursery.child_tasks) == 1
        await there.receive_some(1)  # now half a window has been read
        with trio.fail_after(5):
            while nursery.child_tasks:
                await trio.sleep(0.001)


@MEMORY_AND_TCP
async def test_one_slow_reader_never_slows_another_stream(transport: StreamPairMaker) -> None:
    keep = Keep()
    async with (
        linked(transport, handlers={KEEP: keep, "echo/1": echo}) as (at_ada, _),
        trio.open_nursery() as nursery,
    ):
        slow, never_read = await keep.open(at_ada)
        nursery.start_soon(slow.send_all, bytes(TO_ACCEPTOR + 1))
        await wait_all_tasks_blocked(SETTLED)
        fast = await at_ada.open_stream("echo/1")
        for _ in range(8):
            await fast.send_all(b"a" * 100_000)
            assert await receive_exactly(fast, 100_000) == b"a" * 100_000
        assert len(nursery.child_tasks) == 1  # the slow one waits still
        assert len(await receive_exactly(never_read, TO_ACCEPTOR + 1)) == TO_ACCEPTOR + 1


async def test_much_passes_both_ways_at_once_on_many_streams() -> None:
    size = 600_000
    async with met() as two:
        two.bob.handle("echo/1", echo)

        async def talk(number: int) -> None:
            stream = await two.at_ada.open_stream("echo/1")
            said = bytes((number,)) * size
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, said)
                assert await receive_exactly(stream, size) == said
            await stream.aclose()

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(talk, number)


async def test_streams_that_send_much_at_once_get_about_as_far() -> None:
    """When the first of eight has sent all of its 4 MiB, none of the others is behind by a quarter."""
    size = 4 * 1024 * 1024
    arrived: Counter[int] = Counter()
    when_the_first_was_done: list[int] = []

    async def take(stream: Stream) -> None:
        async for chunk in stream:
            arrived[stream.id] += len(chunk)
            if arrived[stream.id] == size and not when_the_first_was_done:
                when_the_first_was_done.extend(arrived.values())

    async with met() as two:
        two.bob.handle("take/1", take)
        streams = [await two.at_ada.open_stream("take/1") for _ in range(8)]
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(stream.send_all, bytes(size))
        for stream in streams:
            await stream.aclose()
        with trio.fail_after(5):
            while len(two.at_bob.streams):
                await trio.sleep(0.001)
    assert len(when_the_first_was_done) == 8
    assert min(when_the_first_was_done) > size * 3 / 4


async def test_a_short_question_is_answered_while_others_send_much() -> None:
    answered = 0
    async with met() as two:
        two.bob.handle("echo/1", echo)
        two.bob.handle("take/1", read_to_end)
        question = await two.at_ada.open_stream("echo/1")
        bulk = [await two.at_ada.open_stream("take/1") for _ in range(4)]
        async with trio.open_nursery() as nursery:
            for stream in bulk:
                nursery.start_soon(stream.send_all, bytes(4 * 1024 * 1024))
            while nursery.child_tasks:
                await question.send_all(b"?")
                assert await question.receive_some() == b"?"
                answered += 1
    assert answered > 5


# --- few records, few system calls ----------------------------------------------------------------------


def count_sends(monkeypatch: pytest.MonkeyPatch) -> Counter[object]:
    """Writes to sockets from now on, by descriptor."""
    counts: Counter[object] = Counter()
    real_write = os.write

    def counting_write(descriptor: int, data: bytes) -> int:
        counts[descriptor] += stat.S_ISSOCK(os.fstat(descriptor).st_mode)
        return real_write(descriptor, data)

    monkeypatch.setattr(os, "write", counting_write)
    return counts


async def test_a_lone_message_is_one_record_and_one_send_before_send_all_returns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with linked_by_hand(tcp_pair) as (connection, hand):
        frames = Frames(hand)
        await ask_again(connection, hand, frames)
        (stream,) = connection.streams
        await wait_all_tasks_blocked(SETTLED)
        frames.records = 0
        sends = count_sends(monkeypatch)
        await stream.send_all(b"hello")
        assert sends.total() == 1
        assert (await frames.hear())[1] == b"hello"
        assert frames.records == 1


async def test_small_sends_one_after_another_share_records_and_system_calls(
    monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    """On a clock that stands still: every send follows the last one closely."""
    async with linked_by_hand(tcp_pair) as (connection, hand):
        frames = Frames(hand)
        await ask_again(connection, hand, frames)
        (stream,) = connection.streams
        await wait_all_tasks_blocked(SETTLED)
        frames.records = 0
        sends = count_sends(monkeypatch)
        for _ in range(200):
            await stream.send_all(b"x" * 20)
        await wait_all_tasks_blocked()
        assert b"".join([(await frames.hear())[1] for _ in range(200)]) == b"x" * 4000
        assert frames.records <= 80  # about 40, as the dice of Trio's loop fall
        assert sends.total() == frames.records


async def test_small_sends_from_many_tasks_share_records_and_system_calls(
    monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    async with linked_by_hand(tcp_pair) as (connection, hand):
        frames = Frames(hand)
        for _ in range(100):
            await ask_again(connection, hand, frames)
        await wait_all_tasks_blocked()
        frames.records = 0
        sends = count_sends(monkeypatch)
        async with trio.open_nursery() as nursery:
            for stream in connection.streams:
                nursery.start_soon(stream.send_all, b"x" * 20)
        await wait_all_tasks_blocked()
        assert b"".join([(await frames.hear())[1] for _ in range(100)]) == b"x" * 2000
        assert frames.records <= 3
        assert sends.total() <= 3


async def test_answers_to_many_who_ask_at_once_share_records_too(
    monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    async with met() as two:
        two.bob.handle("echo/1", echo)
        streams = [await two.at_ada.open_stream("echo/1") for _ in range(50)]
        await wait_all_tasks_blocked()
        sends = count_sends(monkeypatch)

        async def ask(stream: Stream) -> None:
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"

        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(ask, stream)
        assert sends.total() <= 10  # of both sides, for a hundred messages


async def test_a_large_send_is_cut_so_that_others_get_their_turn() -> None:
    """Between two parts of one stream, another one's message passes."""
    async with linked_by_hand(memory_pair) as (connection, hand), trio.open_nursery() as nursery:
        frames = Frames(hand)
        for _ in range(2):
            await ask_again(connection, hand, frames)
        large, small = connection.streams
        nursery.start_soon(large.send_all, bytes(200_000))
        nursery.start_soon(small.send_all, b"hello")
        order = []
        heard = 0
        while heard < 200_005:
            frame, body = await frames.hear()
            heard += len(body)
            order.append(frame.stream)
        assert order.index(small.id) < len(order) - 1


# --- where there are no descriptors -----------------------------------------------------------------------


@pytest.fixture
def portable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: sockets are written and read through Trio's own calls."""
    monkeypatch.setattr("trishake._wire._HAS_DESCRIPTORS", False)


EVERY_WIRE = pytest.mark.parametrize("transport", [memory_pair, tcp_pair, narrow_pair])


@pytest.mark.usefixtures("portable")
async def test_a_stream_is_a_half_closeable_stream_where_there_are_no_descriptors() -> None:
    keep = Keep()
    async with linked(tcp_pair, handlers={KEEP: keep}) as (at_ada, _):
        assert type(at_ada._wire) is SocketWire

        async def make() -> tuple[Stream, Stream]:
            return await keep.open(at_ada)

        async def make_clogged() -> tuple[Stream, Stream]:
            return await clog(*await keep.open(at_ada))

        await check_half_closeable_stream(make, make_clogged)


async def five_megabytes_both_ways(transport: StreamPairMaker, count: int = 4) -> None:
    """An echo over some streams at once, in parts of every size."""
    async with linked(transport, handlers={"echo/1": echo}) as (at_ada, _):
        parts = [bytes([number % 251]) * (1 + 7919 * number % 130_000) for number in range(80 // count)]

        async def send(stream: Stream) -> None:
            for part in parts:
                await stream.send_all(part)
            await stream.send_eof()

        async def ask() -> None:
            stream = await at_ada.open_stream("echo/1")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, stream)
                assert await read_to_end(stream) == b"".join(parts)

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(ask)


@EVERY_WIRE
async def test_an_echo_of_5_megabytes_over_a_few_streams_comes_back_whole(transport: StreamPairMaker) -> None:
    await five_megabytes_both_ways(transport)


@pytest.mark.usefixtures("portable")
async def test_an_echo_of_5_megabytes_comes_back_whole_where_there_are_no_descriptors() -> None:
    await five_megabytes_both_ways(narrow_pair)


# --- who writes, and who waits for it ---------------------------------------------------------------------


@EVERY_WIRE
async def test_many_who_send_at_once_all_get_through_and_in_order(transport: StreamPairMaker) -> None:
    """More of them than there is room: nobody stays parked when the last byte is written."""
    keep = Keep()
    async with linked(transport, handlers={KEEP: keep}) as (at_ada, _):
        pairs = [await keep.open(at_ada) for _ in range(12)]
        data = {here.id: bytes([here.id]) * 150_000 for here, _ in pairs}

        async def receive(stream: Stream) -> None:
            received = bytearray()
            while len(received) < 150_000:
                received += await stream.receive_some()
            assert received == data[stream.id]

        async with trio.open_nursery() as nursery:
            for here, there in pairs:
                nursery.start_soon(here.send_all, data[here.id])
                nursery.start_soon(receive, there)


@EVERY_WIRE
async def test_those_who_wait_for_room_and_give_up_leave_it_to_the_others(transport: StreamPairMaker) -> None:
    keep = Keep()
    async with linked(transport, handlers={KEEP: keep}) as (at_ada, _):
        pairs = [await keep.open(at_ada) for _ in range(8)]
        for round_ in range(6):
            async with trio.open_nursery() as nursery:
                for here, there in pairs[4:]:
                    nursery.start_soon(here.send_all, bytes(60_000))
                    nursery.start_soon(receive_exactly, there, 60_000)
                async with trio.open_nursery() as hasty:
                    for here, _ in pairs[:4]:
                        hasty.start_soon(here.send_all, bytes(60_000))
                    for _ in range(round_):
                        await trio.lowlevel.checkpoint()
                    hasty.cancel_scope.cancel()
        for here, _ in pairs:
            await trio.aclose_forcefully(here)


async def test_a_send_that_is_cancelled_at_any_step_has_sent_a_beginning_and_the_stream_is_whole() -> None:
    keep = Keep()
    async with linked(narrow_pair, handlers={KEEP: keep}) as (at_ada, _):
        here, there = await keep.open(at_ada)
        received = bytearray()

        async def receive() -> None:
            nonlocal received
            async for chunk in there:
                received += chunk

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            for step in range(1, 31):
                await cancelled_at(step, partial(here.send_all, bytes([step]) * 140_000))
            await here.send_eof()
        assert list(received) == sorted(received)
        counts = Counter(received)
        assert sum(counts.values()) > 0
        assert max(counts.values()) <= 140_000


async def test_a_lone_message_that_does_not_fit_is_written_by_the_task_when_there_is_room() -> None:
    at_ada, at_bob = await tcp_pair(buffer=16 * 1024)

    async def pair() -> StreamPair:
        return at_ada, at_bob

    async with linked_by_hand(pair) as (connection, hand):
        filled = 0
        assert isinstance(at_ada, trio.SocketStream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.open_stream, KEEP)
            assert (await hand.hear_record())[0] is RecordType.DATA
            await hand.say(hand.record(RecordType.DATA, accepted(1)))
        (stream,) = connection.streams
        with suppress(BlockingIOError):
            while True:
                filled += os.write(at_ada.socket.fileno(), bytes(1000))
        for part in (b"one", b"two"):
            await stream.send_all(part)  # it waits for nothing
        await hand.hear(filled)
        frames = b""
        while b"two" not in frames:
            type_, content = await hand.hear_record()
            assert type_ is RecordType.DATA
            frames += content
        assert frames == b"".join(mux(MuxType.DATA, MuxFlag.NONE, 1, part) for part in (b"one", b"two"))


async def test_data_in_crumbs_and_in_lumps_is_read_in_any_portion() -> None:
    async with both_ends() as (here, there):
        parts = [bytes([number % 251]) * (1 + number * 997 % 6000) for number in range(60)]
        for part in parts:
            await here.send_all(part)
            if len(part) % 5 == 0:
                await wait_all_tasks_blocked()
        expected = b"".join(parts)
        received, portion = bytearray(), 1
        while len(received) < len(expected):
            chunk = await there.receive_some(portion if portion < 9000 else None)
            assert type(chunk) is bytes
            assert len(chunk) <= portion or portion >= 9000
            received += chunk
            portion = portion * 3 % 10_007
        assert received == expected


async def test_however_many_send_to_one_who_does_not_read_little_is_held_for_him() -> None:
    """Each has credit; but there is room for two parts of 64 KiB, and one more that has begun."""
    at_ada, at_hand = await narrow_pair()

    async def pair() -> StreamPair:
        return at_ada, at_hand

    async with linked_by_hand(pair) as (connection, hand), trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(connection.open_stream, KEEP)
        await wait_all_tasks_blocked()
        await hand.say(hand.record(RecordType.DATA, b"".join(accepted(2 * number + 1) for number in range(8))))
        await wait_all_tasks_blocked()
        assert len(connection.streams) == 8
        for stream in connection.streams:
            nursery.start_soon(stream.send_all, bytes(200_000))
        await wait_all_tasks_blocked()
        assert 64 * 1024 < connection._wire.backlog + connection._carried.unsent < 3.1 * 64 * 1024
        nursery.cancel_scope.cancel()


class Holds(trio.abc.Stream):
    """Takes nothing until it is let go."""

    def __init__(self, inner: trio.abc.Stream) -> None:
        self._inner = inner
        self.free = trio.Event()
        self.free.set()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.free.wait()
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.free.wait()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._inner.aclose()


async def test_those_who_have_room_and_do_not_want_it_any_more_hold_up_nobody() -> None:
    """The first two in line are told that there is room, and have been closed: the others are told too."""
    at_ada, at_bob = memory_stream_pair()
    holds = Holds(at_ada)

    async def pair() -> StreamPair:
        return holds, at_bob  # type: ignore[return-value]

    keep = Keep()
    async with linked(pair, handlers={KEEP: keep}) as (connection, _):
        pairs = [await keep.open(connection) for _ in range(8)]
        await wait_all_tasks_blocked()
        holds.free = trio.Event()
        sent: list[int] = []

        async def send(stream: Stream) -> None:
            with suppress(trio.ClosedResourceError):
                await stream.send_all(bytes(60_000))
                sent.append(stream.id)

        async with trio.open_nursery() as nursery:
            for here, _ in pairs:
                nursery.start_soon(send, here)
                await wait_all_tasks_blocked()
            waiting = [here for here, _ in pairs if here.id not in sent]
            assert len(connection._writer._room) == len(waiting) == 4
            for here in waiting[:2]:
                here._closed = True  # as by aclose, in the moment in which room was made
                here._sendable = False
            holds.free.set()
        assert len(sent) == 6
        for here in waiting[:2]:
            here._closed = False
            await trio.aclose_forcefully(here)


async def test_a_write_that_fails_at_once_ends_the_connection_and_is_not_forgotten(
    socket_clock: MockClock,
) -> None:
    async with linked_by_hand(tcp_pair) as (connection, hand):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.open_stream, KEEP)
            assert (await hand.hear_record())[0] is RecordType.DATA
            await hand.say(hand.record(RecordType.DATA, accepted(1)))
        (stream,) = connection.streams
        assert isinstance(connection._wire.stream, trio.SocketStream)
        connection._wire.stream.socket.shutdown(trio.socket.SHUT_WR)  # so that reading finds nothing wrong
        await stream.send_all(b"no one hears it")
        with trio.fail_after(5):
            end = await connection.closed()
        assert "broke" in str(end)
