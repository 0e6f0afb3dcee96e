"""Streams against those who mean harm: whatever they say ends as section 10 has it, and for nobody else.

The hostile side shares nothing with ours above the records: it greets by hand, and writes and reads yamux with
`tests/yamux.py`. Each test has Bob under attack, over TCP, by one who dials him or whom he dials; and Ada, who
has an echo stream with Bob that must go on. In the end Bob has the tasks and the sockets that he had before.
"""

from __future__ import annotations

import gc
import socket as stdlib_socket
import threading
import tracemalloc
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any, Final

import msgpack
import pytest
import trio
from tests import yamux
from tests.yamux import ACK, FIN, NONE, RST, SYN, WINDOW, Frame
from trio.testing import MockClock

from trishake import (
    CloseCode,
    Connection,
    ConnectionClosed,
    Decision,
    Introduction,
    Limits,
    Peer,
    Role,
    Stream,
    StreamRefused,
    StreamReset,
    StreamTimeout,
    UnknownProtocol,
)
from trishake_protocol.messages import Close, RecordType
from trishake_protocol.patterns import CLASSICAL

from .conftest import ADA, ANYWHERE, BOB, EVE, QUICK, ByHand, connect, open_sockets, reset

LIMITS: Final = replace(QUICK, policy=0.2, close=0.3, finish=0.3, request=0.3, open_stream=0.5)

DATA, PING, CLOSE, VERDICT = RecordType.DATA, RecordType.PING, RecordType.CLOSE, RecordType.VERDICT
PROTOCOL, FLOW_CONTROL = CloseCode.PROTOCOL, CloseCode.FLOW_CONTROL

WAYS: Final = pytest.mark.parametrize("way", ["they dial", "we dial"])


# --- the hostile side -----------------------------------------------------------------------------------


class Closed(Exception):
    """The other side has said CLOSE."""

    def __init__(self, code: CloseCode | int) -> None:
        super().__init__(code)
        self.code = code


def asks_for(protocol: str | bytes) -> bytes:
    encoded = protocol.encode() if isinstance(protocol, str) else protocol
    return bytes((len(encoded),)) + encoded


class Hostile:
    """One end of a connection with streams, in our hands."""

    def __init__(self, hand: ByHand) -> None:
        self.hand = hand
        self.reader = yamux.Reader()
        self.frames: deque[Frame] = deque()
        self.pongs: deque[bytes] = deque()
        self.pings = 0
        self.parity = 1 if hand.role is Role.INITIATOR else 0

    def mine(self, number: int = 0) -> int:
        """The id of the stream that it opens as its number-th, from 0."""
        return 2 * number + (1 if self.parity else 2)

    def theirs(self, number: int = 0) -> int:
        """The id of the number-th stream that is opened to it."""
        return 2 * number + (2 if self.parity else 1)

    async def say(self, *frames: bytes) -> None:
        """Frames, in as few records as they need."""
        data = b"".join(frames)
        for start in range(0, len(data), 60_000):
            await self.say_record(DATA, data[start : start + 60_000])

    async def say_record(self, type_: RecordType, content: bytes = b"") -> None:
        await self.hand.say(self.hand.record(type_, content))

    async def hear(self) -> Frame:
        """The next frame. Raises Closed at a CLOSE; pings are answered."""
        while not self.frames:
            type_, content = await self.hand.hear_record()
            self.hand.heard, self.hand.read = b"", 0
            if type_ is DATA:
                self.frames += self.reader.read(content)
            elif type_ is PING and content[0] == 0:
                await self.say_record(PING, b"\x01" + content[1:])
            elif type_ is PING:
                self.pongs.append(content[1:])
                if int.from_bytes(content[1:], "big") == self.pings:
                    return Frame(yamux.PING, 0, 0, 0)
            else:
                assert type_ is CLOSE
                raise Closed(Close.decode(content).code)
        return self.frames.popleft()

    async def hear_on(self, id_: int) -> Frame:
        """The next frame of this stream; all others are forgotten."""
        while (frame := await self.hear()).stream != id_:
            pass
        return frame

    async def hear_data(self, id_: int, length: int) -> bytes:
        data = b""
        while len(data) < length:
            data += (await self.hear_on(id_)).body
        return data

    async def hear_close(self) -> CloseCode | int:
        """With which code it is told to go; then it goes."""
        while True:
            try:
                await self.hear()
            except Closed as closed:
                await self.hand.stream.aclose()
                return closed.code

    async def catch_up(self) -> list[Frame]:
        """The frames that came until all that it has said so far was read."""
        kept, self.frames = list(self.frames), deque()
        self.pings += 1
        await self.say_record(PING, b"\x00" + self.pings.to_bytes(8, "big"))
        while (frame := await self.hear()).type != yamux.PING or frame.flags:
            kept.append(frame)
        return kept

    async def ask(self, id_: int, protocol: str = "echo/1", data: bytes = b"", flags: int = NONE) -> None:
        """Open a stream, and do not wait."""
        await self.say(yamux.data(id_, asks_for(protocol) + data, SYN | flags))

    async def open(self, id_: int, protocol: str = "echo/1", data: bytes = b"") -> None:
        await self.ask(id_, protocol, data)
        assert await self.hear_on(id_) == Frame(yamux.DATA, ACK, id_, 1, b"\x00")

    async def talks(self, id_: int) -> None:
        """A stream of its own carries an echo: the connection is as good as any."""
        await self.open(id_, "echo/1", b"hello")
        assert await self.hear_data(id_, 5) == b"hello"

    async def accept(self, number: int = 0) -> int:
        """Take the stream that is opened to it; its id."""
        id_ = self.theirs(number)
        asked = await self.hear_on(id_)
        assert (asked.type, asked.flags) == (yamux.DATA, SYN)
        await self.say(yamux.data(id_, b"\x00", ACK))
        return id_


# --- Bob, Ada, and the scene ----------------------------------------------------------------------------


async def echo(stream: Stream) -> None:
    async for data in stream:
        await stream.send_all(data)


class Scene:
    """Bob, who is under attack; what his handlers have seen; and Ada, who must not notice."""

    def __init__(self, bob: Peer, ada: Stream) -> None:
        self.bob = bob
        self.ada = ada
        self.seen: list[Exception | bytes] = []
        """What the handlers of watch/1 and pour/1 got last: an error, or the end."""
        self.read = 0
        self.requests: list[str] = []
        self.let_go = trio.Event()
        self.hostile: Hostile
        self.connection: Connection

    def handle(self) -> None:
        bob = self.bob
        bob.handle("echo/1", echo)
        bob.handle("watch/1", self.watch)
        bob.handle("pour/1", self.pour)
        bob.handle("hold/1", self.hold)
        bob.handle("gone/1", self.gone)
        bob.handle("guarded/1", echo, trust=self.never_decides)
        bob.handle_request("sum/1", self.sum)
        bob.handle_request("slow/1", self.slow)

    async def watch(self, stream: Stream) -> None:
        try:
            while data := await stream.receive_some():
                self.read += len(data)
        except trio.BrokenResourceError as error:
            self.seen.append(error)
        else:
            self.seen.append(b"")

    async def pour(self, stream: Stream) -> None:
        try:
            while True:
                await stream.send_all(b"x" * 65536)
        except trio.BrokenResourceError as error:
            self.seen.append(error)

    async def hold(self, stream: Stream) -> None:
        await self.let_go.wait()

    async def gone(self, stream: Stream) -> None:
        pass

    async def never_decides(self, introduction: Introduction) -> Decision:
        return await trio.sleep_forever()

    async def sum(self, value: Any, peer: object) -> int:
        return sum(value)

    async def slow(self, value: Any, peer: object) -> None:
        self.requests.append("began")
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.requests.append("cancelled")
            raise

    async def others_go_on(self) -> None:
        """Ada's stream carries what she says, and she can open another."""
        for stream in (self.ada, await self.ada.connection.open_stream("echo/1")):
            await stream.send_all(b"still there?")
            heard = b""
            while len(heard) < 12:
                heard += await stream.receive_some()
            assert heard == b"still there?"
        await stream.aclose()

    async def ended(self, code: CloseCode | int | None, by_peer: bool | None = None) -> ConnectionClosed:
        """Bob's connection with the hostile one has ended, with this code; everything of it is gone.

        by_peer: by Bob, if there is a code, unless it is given.
        """
        end = await self.connection.closed()
        assert (end.code, end.by_peer) == (code, code is None if by_peer is None else by_peer)
        self.let_go.set()
        await until(lambda: not self.connection.streams)
        assert self.bob.connection(EVE.id) is None
        return end

    async def until_seen(self, count: int = 1) -> list[Exception | bytes]:
        await until(lambda: len(self.seen) >= count)
        return self.seen


class Watcher(trio.abc.Instrument):
    """Looks behind each step of a task whether a condition holds."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self._condition = condition
        self.seen = threading.Event()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if not self.seen.is_set() and self._condition():
            self.seen.set()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it: at most 5 s by the real clock, whichever the test has."""
    if condition():
        return
    watcher = Watcher(condition)
    trio.lowlevel.add_instrument(watcher)
    try:
        seen = await trio.to_thread.run_sync(watcher.seen.wait, 5)
    finally:
        trio.lowlevel.remove_instrument(watcher)
    assert seen, "it did not come"


@asynccontextmanager
async def scene(way: str = "they dial", limits: Limits = LIMITS, at_once: bytes = b"") -> AsyncIterator[Scene]:
    """at_once: frames that the hostile side sends together with its ACK, or its READY."""
    # Not from Trio's threads cache, nor from its own wake-up sockets: those are there before.
    await until(lambda: True)
    before = open_sockets()
    async with (
        Peer(BOB, limits=limits, suites=(CLASSICAL.id,)) as bob,
        Peer(ADA, limits=replace(LIMITS, open_stream=5), suites=(CLASSICAL.id,)) as ada,
    ):
        bob.handle("echo/1", echo)
        at_bob = await bob.listen(ANYWHERE)
        to_bob = await ada.dial(at_bob.invite)
        it = Scene(bob, await to_bob.open_stream("echo/1"))
        bob._handlers._handlers.clear()
        it.handle()
        tasks = count_tasks(bob)
        if way == "they dial":
            hand = ByHand(await connect(at_bob))
            await dial_by_hand(hand, at_once)
        else:
            hand = await be_dialed(bob, at_once)
        it.hostile = Hostile(hand)
        if not at_once:
            await until(lambda: bob.connection(EVE.id) is not None)
        found = bob.connection(EVE.id)
        if found is not None:
            it.connection = found
        try:
            yield it
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(hand.stream)
        it.let_go.set()
        await it.others_go_on()
        await until(lambda: bob.connection(EVE.id) is None and not (found and found.streams))
        await until(lambda: count_tasks(bob) <= tasks)
        await it.ada.aclose()
        await to_bob.aclose()
    assert open_sockets() == before


async def dial_by_hand(hand: ByHand, at_once: bytes) -> None:
    await hand.say(hand.flight())
    await hand.hear_syn_ack(BOB.id)
    ack = hand.ack(hand.honest(caps=("mux/1",)))
    await hand.say(ack, hand.record(DATA, at_once) if at_once else b"")
    await hand.hear_verdict()


async def be_dialed(bob: Peer, at_once: bytes) -> ByHand:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, trio.open_nursery() as nursery:
        port = listener.socket.getsockname()[1]
        nursery.start_soon(bob.dial, f"tcp://{EVE.id}@127.0.0.1:{port}")
        hand = ByHand(await listener.accept())
        await hand.hear_flight()
        await hand.say(hand.syn_ack(hand.honest(caps=("mux/1",))))
        await hand.hear_ack()
        await hand.say(hand.ready(), hand.record(DATA, at_once) if at_once else b"")
    return hand


def count_tasks(peer: Peer) -> int:
    assert peer._nursery is not None
    return len(peer._nursery.child_tasks)


@contextmanager
def memory_within(bound: int) -> Iterator[None]:
    """Bytes that all of this process, the hostile side included, may take at any moment meanwhile."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        yield
        grown = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert grown <= bound, f"{grown / 1024:.0f} KiB, the bound is {bound // 1024}"


# --- breaches -------------------------------------------------------------------------------------------


def over(id_: int) -> bytes:
    """A stream that both sides have finished: its protocol is unknown, so Bob ends his half at once."""
    return yamux.data(id_, asks_for("none/1"), SYN | FIN)


def wrong_id(id_: Callable[[Hostile], int]) -> Callable[[Hostile], bytes]:
    return lambda hostile: yamux.data(id_(hostile), asks_for("echo/1"), SYN)


FULL_GREETING: Final = len(asks_for("hold/1"))

BREACHES: Final[dict[str, tuple[CloseCode, Callable[[Hostile], bytes]]]] = {
    "our parity": (PROTOCOL, wrong_id(lambda h: h.theirs(4))),
    "stream 0 opened": (PROTOCOL, wrong_id(lambda h: 0)),
    "an id again": (PROTOCOL, wrong_id(lambda h: h.mine(0))),
    "an id again, its stream over": (PROTOCOL, lambda h: over(h.mine(1)) + over(h.mine(1))),
    "an id below the last": (PROTOCOL, lambda h: over(h.mine(9)) + over(h.mine(8))),
    "a frame above the window": (FLOW_CONTROL, lambda h: yamux.header(yamux.DATA, 0, h.mine(0), WINDOW + 1)),
    "a frame of 4 GiB": (FLOW_CONTROL, lambda h: yamux.header(yamux.DATA, 0, h.mine(0), 2**32 - 1)),
    "an opening frame above the window": (
        FLOW_CONTROL,
        lambda h: yamux.header(yamux.DATA, SYN, h.mine(1), WINDOW + 1),
    ),
    "frames above the window together": (
        FLOW_CONTROL,
        lambda h: (
            yamux.data(h.mine(1), asks_for("hold/1"), SYN)
            + yamux.data(h.mine(1), bytes(WINDOW - FULL_GREETING))
            + yamux.data(h.mine(1), b"x")
        ),
    ),
    "data above the window of a refused stream": (
        FLOW_CONTROL,
        lambda h: (
            yamux.data(h.mine(1), asks_for("none/1"), SYN)
            + yamux.data(h.mine(1), bytes(WINDOW - FULL_GREETING))
            + yamux.data(h.mine(1), b"x")
        ),
    ),
    "data above the window of a stream that is reset": (
        FLOW_CONTROL,
        lambda h: (
            yamux.data(h.mine(1), b"\x00", SYN)
            + yamux.data(h.mine(1), bytes(WINDOW - 1))
            + yamux.data(h.mine(1), b"x")
        ),
    ),
    "credit that overflows": (FLOW_CONTROL, lambda h: yamux.window_update(h.mine(0), 2**31 - 1)),
    "credit that overflows, of all bits": (FLOW_CONTROL, lambda h: yamux.window_update(h.mine(0), 2**32 - 1)),
    "credit that overflows bit by bit": (
        FLOW_CONTROL,
        lambda h: yamux.window_update(h.mine(0), 2**30) * 2,
    ),
    "credit that overflows in the opening": (
        FLOW_CONTROL,
        lambda h: yamux.window_update(h.mine(1), 2**31 - 1, SYN),
    ),
    "data behind FIN": (
        PROTOCOL,
        lambda h: yamux.window_update(h.mine(0), 0, FIN) + yamux.data(h.mine(0), b"x"),
    ),
    "empty data behind FIN": (
        PROTOCOL,
        lambda h: yamux.data(h.mine(0), b"x", FIN) + yamux.data(h.mine(0)),
    ),
    "FIN behind FIN": (PROTOCOL, lambda h: yamux.window_update(h.mine(0), 0, FIN) * 2),
    "data for a stream that is over": (PROTOCOL, lambda h: over(h.mine(1)) + yamux.data(h.mine(1), b"x")),
    "data for a stream that they reset": (
        PROTOCOL,
        lambda h: yamux.window_update(h.mine(0), 0, RST) + yamux.data(h.mine(0), b"x"),
    ),
    "data for a stream never opened": (PROTOCOL, lambda h: yamux.data(h.mine(1), b"x")),
    "data for a stream of ours never opened": (PROTOCOL, lambda h: yamux.data(h.theirs(0), b"x")),
    "credit for a stream never opened": (PROTOCOL, lambda h: yamux.window_update(h.mine(1), 1)),
    "RST for a stream never opened": (PROTOCOL, lambda h: yamux.window_update(h.mine(1), 0, RST)),
    "FIN for a stream of ours never opened": (PROTOCOL, lambda h: yamux.data(h.theirs(0), b"", FIN)),
    "data for stream 0": (PROTOCOL, lambda h: yamux.data(0, b"x")),
    "credit for stream 0": (PROTOCOL, lambda h: yamux.window_update(0, 1)),
    "another version": (PROTOCOL, lambda h: yamux.header(yamux.DATA, 0, h.mine(0), 0, version=1)),
    "another type": (PROTOCOL, lambda h: yamux.header(4, 0, h.mine(0), 0)),
    "the last of all types": (PROTOCOL, lambda h: b"\x00\xff" + bytes(10)),
}


@WAYS
@pytest.mark.parametrize("breach", BREACHES)
async def test_a_breach_ends_its_connection_with_its_code_and_no_other(way: str, breach: str) -> None:
    code, frames = BREACHES[breach]
    async with scene(way) as it:
        await it.hostile.open(it.hostile.mine(), "watch/1")
        await it.hostile.say(frames(it.hostile))
        assert await it.hostile.hear_close() is code
        await it.ended(code)
        (error,) = await it.until_seen()
        if breach == "data for a stream that they reset":
            assert isinstance(error, StreamReset)
        elif "behind FIN" in breach:
            assert error == b"" or isinstance(error, ConnectionClosed)
        else:
            assert isinstance(error, ConnectionClosed)
            assert (error.code, error.by_peer) == (code, False)


@pytest.mark.parametrize(
    "record",
    [
        lambda hand: hand.record(DATA),
        lambda hand: hand.writer.encode(DATA, b"", padding=60_000),
        lambda hand: hand.writer.encode(0, b"", padding=60_000),
        lambda hand: hand.writer.encode(5, b"x"),
        lambda hand: hand.record(VERDICT, b"\x80"),
        lambda hand: hand.record(PING, b"\x00" + bytes(7)),
        lambda hand: hand.record(PING, b"\x02" + bytes(8)),
        lambda hand: hand.record(CLOSE, b"\xc1"),
        lambda hand: b"\x10\x00\x10" + bytes(16),
        lambda hand: b"\x10\x00\x0f" + bytes(15),
        lambda hand: b"\x11\x00\x10" + bytes(16),
        lambda hand: b"\x01\x00\x20" + bytes(32),
    ],
    ids=[
        "empty DATA",
        "empty DATA, padded",
        "padding only",
        "unknown type",
        "VERDICT",
        "short PING",
        "odd PING",
        "CLOSE of rubbish",
        "not decrypting",
        "no tag",
        "unknown frame",
        "SYN",
    ],
)
async def test_a_record_that_is_none_ends_its_connection(record: Callable[[ByHand], bytes]) -> None:
    async with scene() as it:
        await it.hostile.open(it.hostile.mine(), "watch/1")
        await it.hostile.hand.say(record(it.hostile.hand))
        assert await it.hostile.hear_close() is PROTOCOL
        await it.ended(PROTOCOL)
        (error,) = await it.until_seen()
        assert isinstance(error, ConnectionClosed)


@WAYS
async def test_a_breach_together_with_the_last_of_the_greeting_is_one(way: str) -> None:
    async with scene(way, at_once=yamux.data(0, b"x")) as it:
        with trio.fail_after(5):  # and not when something more comes
            assert await it.hostile.hear_close() is PROTOCOL


# --- what is odd, and no breach -------------------------------------------------------------------------

ODD: Final[dict[str, Callable[[Hostile], bytes]]] = {
    "unknown flags": lambda h: (
        yamux.data(h.mine(0), b"", 0xFFF0) + yamux.window_update(h.mine(0), 0, 0xFFF0) + yamux.ping(1, 0xFFF0)
    ),
    "ACK and SYN together": lambda h: yamux.data(h.mine(1), asks_for("echo/1"), SYN | ACK),
    "ACK again and again": lambda h: yamux.window_update(h.mine(0), 0, ACK) * 3,
    "no data": lambda h: yamux.data(h.mine(0)) * 100,
    "no credit": lambda h: yamux.window_update(h.mine(0)) * 100,
    "all the credit there is": lambda h: yamux.window_update(h.mine(0), 2**31 - 1 - WINDOW),
    "an answer to no ping": lambda h: yamux.ping(7, ACK),
    "a ping on a stream": lambda h: yamux.header(yamux.PING, SYN, h.mine(5), 1),
    "credit behind FIN": lambda h: yamux.window_update(h.mine(0), 0, FIN) + yamux.window_update(h.mine(0), 2**20),
    "credit for a stream that is over": lambda h: over(h.mine(1)) + yamux.window_update(h.mine(1), 2**31),
    "FIN and RST for a stream that is over": lambda h: (
        over(h.mine(1)) + yamux.window_update(h.mine(1), 0, FIN) + yamux.window_update(h.mine(1), 0, RST) * 2
    ),
    "opened with credit": lambda h: (
        yamux.window_update(h.mine(1), 2**20, SYN) + yamux.data(h.mine(1), asks_for("echo/1"))
    ),
    "opened for nobody and reset in one": lambda h: yamux.data(h.mine(1), asks_for("none/1"), SYN | RST),
    "opened and reset in one": lambda h: yamux.data(h.mine(1), asks_for("echo/1"), SYN | RST),
    "opened and finished in one": lambda h: yamux.data(h.mine(1), asks_for("echo/1"), SYN | FIN),
    "opened with nothing": lambda h: yamux.window_update(h.mine(1), 0, SYN),
    "data for a stream that is reset": lambda h: (
        yamux.data(h.mine(1), b"\x00" + bytes(5), SYN)
        + yamux.data(h.mine(1), bytes(WINDOW - 6))
        + yamux.window_update(h.mine(1), 9)
    ),
    "the end of a stream that is reset": lambda h: (
        yamux.data(h.mine(1), b"\x00", SYN) + yamux.data(h.mine(1), b"x", FIN)
    ),
    "GO AWAY, of any code": lambda h: yamux.go_away(0) + yamux.go_away(2) + yamux.go_away(99),
    "ids left out": lambda h: over(h.mine(1000)),
}


@pytest.mark.parametrize("odd", ODD)
async def test_what_is_odd_but_no_breach_harms_nothing(odd: str) -> None:
    async with scene() as it:
        await it.hostile.open(it.hostile.mine(), "watch/1")
        await it.hostile.say(ODD[odd](it.hostile))
        await it.hostile.talks(it.hostile.mine(2000))
        assert it.connection in it.bob.connections


async def test_an_answer_to_a_ping_never_sent_answers_none_that_is_still_to_come() -> None:
    async with scene() as it:
        await it.hostile.say_record(PING, b"\x01" + b"\xff" * 8)
        await it.hostile.catch_up()
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.05):
            await it.connection.ping()


@WAYS
async def test_a_stream_may_be_opened_together_with_the_last_of_the_greeting(way: str) -> None:
    id_ = 1 if way == "they dial" else 2
    async with scene(way, at_once=yamux.data(id_, asks_for("echo/1") + b"hello", SYN)) as it:
        with trio.fail_after(5):  # and not when something more comes
            assert await it.hostile.hear_data(id_, 6) == b"\x00hello"


async def test_frames_may_be_cut_anywhere_and_records_be_tiny_or_padded() -> None:
    async with scene() as it:
        frames = yamux.data(it.hostile.mine(), asks_for("echo/1") + b"hello", SYN) + yamux.ping(77)
        for byte in frames:
            await it.hostile.hand.say(it.hostile.hand.writer.encode(DATA, bytes((byte,)), padding=byte))
        assert await it.hostile.hear_on(it.hostile.mine()) == Frame(yamux.DATA, ACK, it.hostile.mine(), 1, b"\x00")
        heard = []
        while b"".join(frame.body for frame in heard) != b"hello" or Frame(yamux.PING, ACK, 0, 77) not in heard:
            heard.append(await it.hostile.hear())


# --- the greeting of a stream ---------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize(
    "greeting",
    [b"\x00", b"\x00echo/1", b"\x81" + b"x" * 129, b"\xff", b"\x02\xc3\x28", b"\x03\xed\xa0\x80"],
    ids=["of length 0", "of length 0, and more", "of 129", "of 255", "no UTF-8", "a surrogate"],
)
async def test_a_greeting_out_of_bounds_is_reset_and_its_connection_goes_on(way: str, greeting: bytes) -> None:
    async with scene(way) as it:
        id_ = it.hostile.mine()
        await it.hostile.say(yamux.data(id_, greeting, SYN))
        assert await it.hostile.hear() == Frame(yamux.WINDOW_UPDATE, RST, id_, 0)
        await it.hostile.talks(it.hostile.mine(1))
        assert len(it.connection.streams) == 1


async def test_a_greeting_comes_as_slowly_as_it_likes() -> None:
    async with scene() as it:
        id_ = it.hostile.mine()
        await it.hostile.say(yamux.window_update(id_, 0, SYN))
        for byte in asks_for("echo/1"):
            assert await it.hostile.catch_up() == []
            await it.hostile.say(yamux.data(id_, bytes((byte,))))
        await it.hostile.say(yamux.data(id_, b"hello"))
        assert await it.hostile.hear_data(id_, 6) == b"\x00hello"


async def test_an_id_of_128_bytes_is_asked_for_and_unknown() -> None:
    async with scene() as it:
        id_ = it.hostile.mine()
        await it.hostile.say(yamux.data(id_, asks_for("é" * 64), SYN))
        assert await it.hostile.hear() == Frame(yamux.DATA, ACK, id_, 1, b"\x01")
        assert await it.hostile.hear() == Frame(yamux.WINDOW_UPDATE, FIN, id_, 0)


@pytest.mark.parametrize("cut", range(len(asks_for("echo/1"))))
async def test_a_stream_that_ends_within_its_greeting_is_nothing(cut: int) -> None:
    async with scene() as it:
        finished, gone = it.hostile.mine(), it.hostile.mine(1)
        part = asks_for("echo/1")[:cut]
        await it.hostile.say(yamux.data(finished, part, SYN), yamux.window_update(finished, 0, FIN))
        assert await it.hostile.hear() == Frame(yamux.WINDOW_UPDATE, RST, finished, 0)
        await it.hostile.say(yamux.data(gone, part, SYN), yamux.window_update(gone, 0, RST))
        assert await it.hostile.catch_up() == []
        assert it.connection.streams == ()
        assert len(it.connection._carried) == 0


async def test_silence_behind_syn_takes_one_place_and_holds_nobody_up(socket_clock: MockClock) -> None:
    async with scene() as it:
        await it.hostile.say(*(yamux.window_update(it.hostile.mine(n), 0, SYN) for n in range(255)))
        await it.hostile.talks(it.hostile.mine(255))
        assert len(it.connection._carried) == 256
        await it.hostile.say(yamux.window_update(it.hostile.mine(256), 0, SYN))
        assert await it.hostile.hear_on(it.hostile.mine(256)) == Frame(
            yamux.WINDOW_UPDATE, RST, it.hostile.mine(256), 0
        )
        with trio.fail_after(2):  # LIMITS.finish for the echo that is open, and CLOSE
            await it.connection.aclose()


# --- floods ---------------------------------------------------------------------------------------------

MANY: Final = 6000
MOST: Final = 100_000
KIB: Final = 1024


def clog(it: Scene) -> None:
    """Little fits between the two, once one of them does not read."""
    socket = it.connection._wire.stream
    assert isinstance(socket, trio.SocketStream)
    socket.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_SNDBUF, 4096)
    assert isinstance(it.hostile.hand.stream, trio.SocketStream)
    it.hostile.hand.stream.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_RCVBUF, 4096)


FLOODS: Final[dict[str, Callable[[Hostile, int], bytes]]] = {
    "pings": lambda h, many: b"".join(map(yamux.ping, range(many))),
    "answers to no ping": lambda h, many: yamux.ping(1, ACK) * many,
    "GO AWAY": lambda h, many: yamux.go_away() * many,
    "no data": lambda h, many: yamux.data(h.mine(0)) * many,
    "single bytes": lambda h, many: yamux.data(h.mine(0), b"x") * many,
    "single bytes that are read": lambda h, many: yamux.data(h.mine(1), b"x") * many,
    "no credit": lambda h, many: yamux.window_update(h.mine(0)) * many,
    "crumbs of credit": lambda h, many: yamux.window_update(h.mine(0), 1) * many,
    "data for a stream that is reset": lambda h, many: yamux.data(h.mine(2), b"x") * many,
    "resets of a stream that is over": lambda h, many: yamux.window_update(h.mine(2), 0, RST) * many,
    "streams that end within their greeting": lambda h, many: b"".join(
        yamux.window_update(h.mine(3 + n), 0, SYN) + yamux.data(h.mine(3 + n), b"\x00") for n in range(many // 10)
    ),
    "streams of unknown protocols": lambda h, many: b"".join(over(h.mine(3 + n)) for n in range(many // 10)),
}


@pytest.mark.parametrize("many", [MANY, pytest.param(MOST, marks=pytest.mark.slow)])
@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_is_worked_off_in_little_memory(flood: str, many: int) -> None:
    """As little for many frames as for ten times as many: half a mebibyte, the hostile side's own included."""
    async with scene(limits=replace(LIMITS, open_stream=5)) as it:
        hostile = it.hostile
        await hostile.open(hostile.mine(0), "hold/1")
        await hostile.open(hostile.mine(1), "watch/1")
        await hostile.say(yamux.data(hostile.mine(2), b"\x00", SYN))
        assert (await hostile.hear_on(hostile.mine(2))).flags == RST
        frames = FLOODS[flood](hostile, many)
        size = 6000 if "streams" in flood else 60_000  # else it does not wait for answers
        with memory_within(KIB * KIB // 2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(it.others_go_on)
                for at in range(0, len(frames), size):
                    await hostile.say_record(DATA, frames[at : at + size])
                    heard = await hostile.catch_up()
        if flood == "pings":
            pongs = [frame.length for frame in heard if frame.type == yamux.PING]
            assert len(pongs) <= 2  # the latest of those that were read together
        await hostile.talks(hostile.mine(20_000))


async def test_a_record_of_crumbs_is_worked_off_in_turns_with_everybody_else() -> None:
    async with scene() as it:
        hostile = it.hostile
        await hostile.open(hostile.mine(), "hold/1")
        (stream,) = it.connection.streams
        steps: list[int] = []

        async def watch() -> None:
            before = 0
            while before < 4000:
                await trio.lowlevel.checkpoint()
                now = len(stream._received)
                steps.append(now - before)
                before = now

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await hostile.say(yamux.data(hostile.mine(), b"x") * 4000)
        assert max(steps) <= 2 * 256  # one turn before us, and one behind


async def test_a_flood_of_ping_records_has_one_answer_waiting_at_most() -> None:
    async with scene() as it:
        clog(it)
        encode = it.hostile.hand.record
        records = [encode(PING, b"\x00" + n.to_bytes(8, "big")) for n in range(1, 3001)]
        with memory_within(KIB * KIB):
            for at in range(0, len(records), 1000):
                await it.hostile.hand.say(*records[at : at + 1000])
            await it.others_go_on()
        it.hostile.pings = 3000
        while (await it.hostile.hear()).type != yamux.PING:
            pass
        assert len(it.hostile.pongs) < 3000
        await it.hostile.talks(it.hostile.mine())


@pytest.mark.parametrize(
    ("protocol", "flags"),
    [
        pytest.param(protocol, flags, id=f"{protocol}-{state}", marks=[] if often else [pytest.mark.slow])
        for protocol, flags, state, often in [
            ("none/1", NONE, "left open", True),
            ("none/1", FIN, "finished", False),
            ("echo/1", NONE, "left open", False),
            ("echo/1", FIN, "finished", True),
            ("", NONE, "left open", True),
            ("", FIN, "finished", False),
        ]
    ],
)
async def test_a_flood_of_opens_whose_answers_are_not_read_ends_its_connection(protocol: str, flags: int) -> None:
    """However they are answered: what waits to be read is bounded."""
    async with scene() as it:
        clog(it)
        hostile = it.hostile
        with memory_within(3 * KIB * KIB):  # most of it for 256 tasks
            try:
                for start in range(0, MOST, 500):
                    numbers = range(start, start + 500)
                    await hostile.say(
                        *(yamux.data(hostile.mine(n), asks_for(protocol), SYN | flags) for n in numbers)
                    )
            except trio.BrokenResourceError:
                pass  # it has been cut off
            await it.ended(PROTOCOL)


async def test_256_opens_are_answered_and_one_more_is_reset() -> None:
    async with scene() as it:
        hostile = it.hostile
        ids = [hostile.mine(n) for n in range(300)]
        await hostile.say(*(yamux.data(id_, asks_for("echo/1"), SYN) for id_ in ids))
        answers = {frame.stream: frame for frame in await hostile.catch_up()}
        while len(answers) < 300:
            frame = await hostile.hear()
            answers[frame.stream] = frame
        assert all(answers[id_] == Frame(yamux.DATA, ACK, id_, 1, b"\x00") for id_ in ids[:256])
        assert all(answers[id_] == Frame(yamux.WINDOW_UPDATE, RST, id_, 0) for id_ in ids[256:])
        await hostile.say(yamux.data(ids[7], b"", FIN))
        assert await hostile.hear_on(ids[7]) == Frame(yamux.WINDOW_UPDATE, FIN, ids[7], 0)
        await hostile.talks(hostile.mine(600))


async def test_streams_that_are_refused_and_never_finished_keep_their_places() -> None:
    async with scene() as it:
        hostile = it.hostile
        await hostile.say(*(yamux.data(hostile.mine(n), asks_for("none/1"), SYN) for n in range(256)))
        await hostile.catch_up()
        await hostile.ask(hostile.mine(256))
        assert await hostile.hear_on(hostile.mine(256)) == Frame(yamux.WINDOW_UPDATE, RST, hostile.mine(256), 0)
        await hostile.say(yamux.data(hostile.mine(0), b"", FIN))
        await hostile.talks(hostile.mine(257))


# --- opened and reset -----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["echo/1", "guarded/1", None])
@pytest.mark.parametrize("in_one", [False, True], ids=["RST by itself", "RST with SYN"])
async def test_64_streams_a_second_may_be_opened_and_reset_and_no_more(
    in_one: bool, protocol: str | None, mock_clock: MockClock
) -> None:
    async with scene() as it:
        hostile = it.hostile

        def abandoned(number: int) -> bytes:
            id_ = hostile.mine(number)
            body = asks_for(protocol) if protocol else b""
            if in_one:
                return yamux.data(id_, body, SYN | RST)
            return yamux.data(id_, body, SYN) + yamux.window_update(id_, 0, RST)

        for second in range(3):
            await hostile.say(*map(abandoned, range(100 * second, 100 * second + 64)))
            await hostile.talks(hostile.mine(100 * second + 99))
            mock_clock.jump(1)
        with memory_within(KIB * KIB):
            await hostile.say(*map(abandoned, range(300, 2300)))
            assert await hostile.hear_close() is PROTOCOL
        mock_clock.jump(LIMITS.policy)  # whoever was asked about them has not said anything
        end = await it.ended(PROTOCOL)
        assert "64 streams a second" in str(end)


async def test_a_handler_that_does_not_look_is_not_started_again_and_again() -> None:
    """Each waits for our answer and resets the stream then: 512 handlers are at work, and no more.

    An honest peer needs some of these: it resets 256, and opens 256, before our handlers have looked.
    """
    async with scene() as it:
        hostile = it.hostile
        tasks = count_tasks(it.bob)
        refused = 0
        for n in range(600):
            id_ = hostile.mine(n)
            await hostile.ask(id_, "hold/1")
            refused += (await hostile.hear_on(id_)).flags == RST
            await hostile.say(yamux.window_update(id_, 0, RST))
        await hostile.catch_up()
        assert count_tasks(it.bob) <= tasks + 512 + 1  # and the writer's
        assert refused == 600 - 512
        it.let_go.set()
        await until(lambda: not it.connection.streams)
        await hostile.talks(hostile.mine(600))


# --- half-closed for ever, and going away ----------------------------------------------------------------


@WAYS
async def test_a_peer_that_never_finishes_leaves_no_handler_at_work_and_takes_its_own_places(way: str) -> None:
    async with scene(way) as it:
        hostile = it.hostile
        for n in range(255):
            await hostile.ask(hostile.mine(n), "gone/1")
        await hostile.catch_up()
        await until(lambda: not it.connection.streams)  # each handler has closed its stream
        assert len(it.connection._carried) == 255
        await hostile.talks(hostile.mine(255))
        await hostile.ask(hostile.mine(256))
        assert (await hostile.hear_on(hostile.mine(256))).flags == RST
        # And whoever still sends on what was closed is told that nobody reads it.
        await hostile.say(yamux.data(hostile.mine(0), b"x"))
        assert await hostile.hear_on(hostile.mine(0)) == Frame(yamux.WINDOW_UPDATE, RST, hostile.mine(0), 0)
        await hostile.say(yamux.data(hostile.mine(0), b"x" * 1000))
        await hostile.talks(hostile.mine(257))


@WAYS
@pytest.mark.parametrize("answer", [b"\x00", b"\x01", b"\x02\x02no"], ids=["taken", "unknown", "refused"])
async def test_our_places_are_free_again_though_the_other_side_never_finishes(
    way: str, answer: bytes, socket_clock: MockClock
) -> None:
    async with scene(way) as it:

        async def answer_all() -> None:
            while True:
                frame = await it.hostile.hear()
                if frame.flags & SYN:
                    await it.hostile.say(yamux.data(frame.stream, answer, ACK))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_all)
            for _ in range(300):
                try:
                    await (await it.connection.open_stream("any/1")).aclose()
                except StreamRefused:
                    assert answer != b"\x00"
                except UnknownProtocol:
                    assert answer == b"\x01"
            nursery.cancel_scope.cancel()
        assert it.connection.streams == ()
        assert len(it.connection._carried) <= 256


async def test_after_go_away_nothing_is_opened_to_them_and_they_may_still_open() -> None:
    async with scene() as it:
        await it.hostile.say(yamux.go_away())
        await it.hostile.talks(it.hostile.mine())
        with pytest.raises(StreamRefused, match="closing"):
            await it.connection.open_stream("any/1")


@WAYS
async def test_streams_opened_behind_our_go_away_are_reset_and_the_open_ones_finish(way: str) -> None:
    async with scene(way, replace(LIMITS, finish=5)) as it:
        hostile = it.hostile
        await hostile.talks(hostile.mine())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.connection.aclose)
            while await hostile.hear() != Frame(yamux.GO_AWAY, 0, 0, 0):
                pass
            await hostile.say(*(yamux.data(hostile.mine(n), asks_for("echo/1"), SYN) for n in range(1, 300)))
            for n in range(1, 300):
                assert await hostile.hear() == Frame(yamux.WINDOW_UPDATE, RST, hostile.mine(n), 0)
            await hostile.say(yamux.data(hostile.mine(), b"the last word", FIN))
            assert await hostile.hear_data(hostile.mine(), 13) == b"the last word"
            assert await hostile.hear() == Frame(yamux.WINDOW_UPDATE, FIN, hostile.mine(), 0)
            with pytest.raises(Closed) as closed:
                await hostile.hear()
            assert closed.value.code is CloseCode.NORMAL
            await hostile.say_record(CLOSE, Close().encode())
        await it.ended(CloseCode.NORMAL)


# --- answers that are none ------------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        ([yamux.data(0, b"\x01", ACK)], UnknownProtocol, ""),
        ([yamux.data(0, b"\x02\x00", ACK)], StreamRefused, ""),
        ([yamux.data(0, b"\x02\x03not now", ACK | FIN)], StreamRefused, "not"),
        ([yamux.data(0, bytes((byte,))) for byte in b"\x02\x03not"], StreamRefused, "not"),
        ([yamux.data(0, b"\x02\x02\xff\x1b")], StreamRefused, "\\\\x1b|�"),
        ([yamux.data(0, b"\x02\x03not"), yamux.window_update(0, 0, RST)], StreamRefused, "not"),
        ([yamux.data(0, b"\x01"), yamux.window_update(0, 0, RST)], UnknownProtocol, ""),
        ([yamux.window_update(0, 0, FIN)], StreamReset, ""),
        ([yamux.window_update(0, 0, RST)], StreamReset, ""),
        ([yamux.data(0, b"\x02\xffnot"), yamux.window_update(0, 0, FIN)], StreamReset, ""),
        ([yamux.data(0, b"\x02\xffnot"), yamux.window_update(0, 0, RST)], StreamReset, ""),
        ([], StreamTimeout, ""),
        ([yamux.window_update(0, 0, ACK)], StreamTimeout, ""),
        ([yamux.data(0, b"\x02\xff" + b"x" * 254)], StreamTimeout, ""),
    ],
)
async def test_whatever_answers_an_open_is_an_outcome(
    way: str, answer: list[bytes], error: type[Exception], text: str, socket_clock: MockClock
) -> None:
    async with scene(way, replace(LIMITS, open_stream=0.1)) as it:
        id_ = it.hostile.theirs()

        async def reply() -> None:
            assert (await it.hostile.hear_on(id_)).body == asks_for("any/1")
            for frame in answer:
                await it.hostile.say(frame[:4] + id_.to_bytes(4, "big") + frame[8:])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reply)
            with pytest.raises(error, match=text or None) as caught:
                await it.connection.open_stream("any/1")
            assert type(caught.value) is error
        if error is StreamTimeout:
            assert (await it.hostile.hear_on(id_)) == Frame(yamux.WINDOW_UPDATE, RST, id_, 0)
            await it.hostile.say(yamux.data(id_, b"\x00 too late", ACK))
        await it.hostile.talks(it.hostile.mine())
        assert len(it.connection._carried) == 1  # the one that talks


@WAYS
@pytest.mark.parametrize("answer", [b"\x03", b"\xff", b"\x80echo"])
async def test_an_answer_that_is_none_ends_the_connection(way: str, answer: bytes) -> None:
    async with scene(way) as it:

        async def reply() -> None:
            await it.hostile.hear_on(it.hostile.theirs())
            await it.hostile.say(yamux.data(it.hostile.theirs(), answer, ACK))
            assert await it.hostile.hear_close() is PROTOCOL

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reply)
            with pytest.raises(ConnectionClosed) as caught:
                await it.connection.open_stream("any/1")
            assert (caught.value.code, caught.value.by_peer) == (PROTOCOL, False)
        await it.ended(PROTOCOL)


async def test_opens_that_are_never_answered_wait_for_room_and_end_in_time(socket_clock: MockClock) -> None:
    """256 of them, and more that wait for their place."""
    async with scene(limits=replace(LIMITS, open_stream=0.3)) as it:
        outcomes: list[type[Exception]] = []

        async def open_one() -> None:
            try:
                await it.connection.open_stream("any/1")
            except StreamTimeout as error:
                outcomes.append(type(error))

        async with trio.open_nursery() as nursery:
            for _ in range(300):
                nursery.start_soon(open_one)
        assert outcomes == [StreamTimeout] * 300
        assert len(it.connection._carried) == 0
        resets = 0
        while resets < 256:  # none of them is left open over there
            resets += (await it.hostile.hear()).flags == RST


# --- credit ---------------------------------------------------------------------------------------------


@WAYS
async def test_without_credit_our_sender_waits_and_nobody_else(way: str) -> None:
    async with scene(way) as it:
        hostile = it.hostile
        await hostile.ask(hostile.mine(), "pour/1")
        heard = await hostile.hear_data(hostile.mine(), WINDOW)
        assert len(heard) == WINDOW  # our answer is counted in it
        assert await hostile.catch_up() == []
        await hostile.talks(hostile.mine(1))
        for credit in (1,) * 100 + (1000,):
            await hostile.say(yamux.window_update(hostile.mine(), credit))
            assert len(await hostile.hear_data(hostile.mine(), credit)) == credit
        assert await hostile.catch_up() == []
        await it.others_go_on()
        await hostile.say(yamux.window_update(hostile.mine(), 0, RST))
        (error,) = await it.until_seen()
        assert isinstance(error, StreamReset)


@pytest.mark.parametrize("way_out", ["aclose", "keepalive", "breach", "CLOSE", "reset"])
async def test_a_peer_that_never_reads_holds_up_nobody_and_is_got_rid_of(way_out: str) -> None:
    limits = replace(LIMITS, finish=0.1, close=0.1, write_alert=0.1)
    if way_out == "keepalive":
        limits = replace(limits, keepalive=0.2, keepalive_answer=0.2)
    async with scene(limits=limits) as it:
        hostile = it.hostile
        clog(it)
        for n in range(8):
            await hostile.ask(hostile.mine(n), "pour/1")
            await hostile.say(yamux.window_update(hostile.mine(n), 2**31 - 1 - WINDOW))
        with memory_within(KIB * KIB):
            await until(lambda: it.connection._writer.crowded)
            await it.others_go_on()
            match way_out:
                case "aclose":
                    with trio.fail_after(limits.finish + limits.close + limits.write_alert + 1):
                        await it.connection.aclose()
                    await it.ended(CloseCode.NORMAL)
                case "keepalive":
                    end = await it.ended(None, by_peer=False)
                    assert "silent" in str(end)
                case "breach":
                    await hostile.say(yamux.data(hostile.mine(99)))
                    await it.ended(PROTOCOL)
                case "CLOSE":
                    await hostile.say_record(CLOSE, Close().encode())
                    await it.ended(CloseCode.NORMAL, by_peer=True)
                case _:
                    assert isinstance(hostile.hand.stream, trio.SocketStream)
                    await reset(hostile.hand.stream)
                    await it.ended(None)
        errors = await it.until_seen(8)
        assert {type(error) for error in errors} == {ConnectionClosed}


async def test_what_is_sent_and_never_read_here_is_bounded_by_its_windows() -> None:
    """In the worst segmentation: two bytes a frame."""
    async with scene() as it:
        hostile = it.hostile
        for n in range(2):
            await hostile.open(hostile.mine(n), "hold/1")
        size = WINDOW - len(asks_for("hold/1"))
        with memory_within(3 * WINDOW + KIB * KIB // 2):
            for n in range(2):
                frame = yamux.data(hostile.mine(n), b"xy")
                left = size // 64  # the rest in one
                while left > 1:
                    count = min(left // 2, 4000)
                    await hostile.say(frame * count)
                    await hostile.catch_up()
                    left -= 2 * count
                await hostile.say(yamux.data(hostile.mine(n), bytes(size - size // 64)))
            await hostile.catch_up()
        await hostile.say(yamux.data(hostile.mine(), bytes(64)))
        assert await hostile.hear_close() is FLOW_CONTROL
        await it.ended(FLOW_CONTROL)


# --- requests -------------------------------------------------------------------------------------------


def message(value: object) -> bytes:
    encoded = msgpack.packb(value)
    return len(encoded).to_bytes(4, "big") + encoded


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


@pytest.mark.parametrize(
    ("asked", "reply"),
    [
        (message([1, 2]), [0, 3]),
        ((2**20 + 1).to_bytes(4, "big"), [1, "bad-request"]),
        (b"\xff\xff\xff\xff" + b"x" * 1000, [1, "bad-request"]),
        (sized(b""), [1, "bad-request"]),
        (sized(b"\xc1"), [1, "bad-request"]),
        (sized(b"\x92\x01"), [1, "bad-request"]),
        (sized(b"\xdd\xff\xff\xff\xff"), [1, "bad-request"]),
        (sized(b"\xc7\x01\x05x"), [1, "bad-request"]),
        (sized(b"\x91" * 100_000 + b"\x01"), [1, "bad-request"]),
        (sized(b"\x82\x01\x01\x01\x01"), [1, "bad-request"]),
        (sized(b"\xa2\xff\xff"), [1, "bad-request"]),
        (message(["a"]), [1, "failed", ""]),
        (message(5), [1, "failed", ""]),
    ],
)
async def test_a_hostile_request_is_answered_and_its_connection_goes_on(asked: bytes, reply: list[Any]) -> None:
    async with scene() as it:
        hostile = it.hostile
        await hostile.open(hostile.mine(), "sum/1", asked)
        frames = [await hostile.hear_on(hostile.mine())]
        while not frames[-1].flags:
            frames.append(await hostile.hear_on(hostile.mine()))
        body = b"".join(frame.body for frame in frames)
        size = int.from_bytes(body[:4], "big")
        assert len(body) == 4 + size
        assert msgpack.unpackb(body[4:])[: len(reply)] == reply
        await hostile.talks(hostile.mine(1))


@pytest.mark.parametrize("asked", [b"", b"\x00\x00", message([1])[:-1]], ids=["nothing", "half a length", "half"])
@pytest.mark.parametrize("end", [None, FIN, RST], ids=["silence", "FIN", "RST"])
async def test_a_request_that_never_comes_is_not_waited_for(
    asked: bytes, end: int | None, socket_clock: MockClock
) -> None:
    async with scene() as it:
        hostile = it.hostile
        await hostile.open(hostile.mine(), "sum/1", asked)
        if end:
            await hostile.say(yamux.window_update(hostile.mine(), 0, end))
        await until(lambda: not it.connection.streams)
        await hostile.talks(hostile.mine(1))


@pytest.mark.parametrize("hang_up", [FIN, RST, NONE], ids=["FIN", "RST", "more"])
async def test_who_hangs_up_has_his_request_cancelled(hang_up: int) -> None:
    async with scene() as it:
        hostile = it.hostile
        await hostile.open(hostile.mine(), "slow/1", message(1))
        await until(lambda: it.requests == ["began"])
        await hostile.say(yamux.data(hostile.mine(), b"" if hang_up else message(2), hang_up))
        await until(lambda: it.requests == ["began", "cancelled"])
        await until(lambda: not it.connection.streams)
        await hostile.talks(hostile.mine(1))


async def test_a_reply_that_is_never_taken_is_given_up(socket_clock: MockClock) -> None:
    async with scene() as it:
        hostile = it.hostile

        async def much(value: object, peer: object) -> bytes:
            return bytes(WINDOW)

        it.bob.handle_request("much/1", much)
        await hostile.open(hostile.mine(), "much/1", message(1))
        while (frame := await hostile.hear_on(hostile.mine())).type == yamux.DATA:
            pass
        assert frame == Frame(yamux.WINDOW_UPDATE, RST, hostile.mine(), 0)  # after LIMITS.request


# --- cut at every moment --------------------------------------------------------------------------------


async def say_nothing(hostile: Hostile) -> None:
    pass


LIFE: Final[dict[str, Callable[[Hostile], Awaitable[None]]]] = {
    "at once": say_nothing,
    "behind SYN": lambda h: h.say(yamux.window_update(h.mine(), 0, SYN)),
    "within the greeting": lambda h: h.say(yamux.data(h.mine(), b"\x07wat", SYN)),
    "within a header": lambda h: h.say(yamux.data(h.mine(), b"\x07wat", SYN)[:5]),
    "within a body": lambda h: h.say(yamux.data(h.mine(), asks_for("watch/1") + bytes(9), SYN)[:-3]),
    "within a record": lambda h: h.hand.say(h.hand.record(DATA, yamux.ping(1))[:9]),
    "asked": lambda h: h.ask(h.mine(), "watch/1"),
    "asked, nobody decides": lambda h: h.ask(h.mine(), "guarded/1"),
    "open": lambda h: h.open(h.mine(), "watch/1"),
    "in the middle of data": lambda h: h.open(h.mine(), "watch/1", bytes(1000)),
    "while we send": lambda h: h.open(h.mine(), "pour/1"),
    "half-closed": lambda h: h.ask(h.mine(), "hold/1", flags=FIN),
    "half-closed by us": lambda h: h.open(h.mine(), "gone/1"),
    "over": lambda h: h.say(over(h.mine())),
    "reset": lambda h: h.say(yamux.data(h.mine(), b"\x00", SYN)),
    "a request at work": lambda h: h.open(h.mine(), "slow/1", message(1)),
    "behind GO AWAY": lambda h: h.say(yamux.go_away()),
    "while we open": say_nothing,
}

CUTS: Final[dict[str, tuple[Callable[[Hostile], Awaitable[None]], CloseCode | int | None]]] = {
    "NORMAL": (lambda h: h.say_record(CLOSE, Close().encode()), CloseCode.NORMAL),
    "an unknown code": (lambda h: h.say_record(CLOSE, b"\x81\xa4code\xcd\x03\xe7"), 999),
    "FIN of TCP": (lambda h: h.hand.stream.aclose(), None),
    "RST of TCP": (lambda h: reset(h.hand.stream), None),  # type: ignore[arg-type]
}


def every_cut() -> list[Any]:
    """By default two of the four at each moment: one that is told, one that is not."""
    return [
        pytest.param(moment, cut, marks=[] if (at + of) % 2 == 0 else [pytest.mark.slow])
        for at, moment in enumerate(LIFE)
        for of, cut in zip((0, 1, 0, 1), CUTS, strict=True)
    ]


@pytest.mark.parametrize(("moment", "cut"), every_cut())
async def test_a_connection_may_be_cut_at_every_moment_of_a_stream(
    moment: str, cut: str, socket_clock: MockClock
) -> None:
    end, code = CUTS[cut]
    async with scene() as it:
        opened: list[Exception] = []

        async def open_one() -> None:
            with pytest.raises(ConnectionClosed) as caught:
                await it.connection.open_stream("any/1")
            opened.append(caught.value)

        async with trio.open_nursery() as nursery:
            if moment == "while we open":
                nursery.start_soon(open_one)
                await it.hostile.hear_on(it.hostile.theirs())
            await LIFE[moment](it.hostile)
            await end(it.hostile)
            if code is not None:
                # Our CLOSE answers it, though a record was never whole: that one is a breach.
                broken = moment == "within a record"
                assert await it.hostile.hear_close() == (PROTOCOL if broken else CloseCode.NORMAL)
                await it.ended(PROTOCOL if broken else code, by_peer=not broken)
            else:
                await it.ended(None)


# --- and an honest one ----------------------------------------------------------------------------------


class Ledger:
    """What both directions of one stream may still carry, kept by the yamux specification alone."""

    def __init__(self) -> None:
        self.ours = self.theirs = WINDOW
        self.consumed = self.credited = 0

    def sent(self, length: int) -> None:
        self.ours -= length

    def heard(self, frame: Frame) -> None:
        if frame.type == yamux.WINDOW_UPDATE:
            self.ours += frame.length
            self.credited += frame.length
            assert self.ours <= WINDOW  # no more credit than was used
        else:
            assert frame.length == len(frame.body)
            self.theirs -= frame.length
            assert self.theirs >= 0


@WAYS
async def test_an_honest_client_of_another_make_is_understood_frame_by_frame(way: str) -> None:
    """It opens echo/1, has 1 MiB come back, and half-closes; then we open one to it."""
    length = KIB * KIB
    said = bytes(range(256)) * (length // 256)
    async with scene(way) as it:
        hostile, id_, ledger = it.hostile, it.hostile.mine(), Ledger()
        await hostile.ask(id_)
        ledger.sent(len(asks_for("echo/1")))
        assert await hostile.hear() == Frame(yamux.DATA, ACK, id_, 1, b"\x00")
        ledger.theirs -= 1
        sent, back, credit, kinds = 0, b"", 0, set()
        while len(back) < length:
            while (part := said[sent : sent + min(ledger.ours, 20_000)]) and ledger.ours:
                await hostile.say(yamux.data(id_, part))
                ledger.sent(len(part))
                sent += len(part)
            frame = await hostile.hear()
            kinds.add((frame.type, frame.flags, frame.stream))
            ledger.heard(frame)
            assert ledger.credited <= sent + len(asks_for("echo/1"))
            back += frame.body
            credit += len(frame.body)
            if ledger.theirs < 1000:  # late, so that the window is used to its end
                await hostile.say(yamux.window_update(id_, credit))
                ledger.theirs += credit
                credit = 0
        assert back == said
        assert kinds == {(yamux.DATA, 0, id_), (yamux.WINDOW_UPDATE, 0, id_)}
        await hostile.say(yamux.window_update(id_, 0, FIN))
        rest = [await hostile.hear()]
        while not rest[-1].flags:
            rest.append(await hostile.hear())
        assert rest[-1] == Frame(yamux.WINDOW_UPDATE, FIN, id_, 0)
        assert {frame.type for frame in rest} == {yamux.WINDOW_UPDATE}

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(open_and_greet, it.connection)
                asked = await hostile.hear()
                theirs = hostile.theirs(number)
                assert asked == Frame(yamux.DATA, SYN, theirs, 7, b"\x06back/1")
                await hostile.say(yamux.data(theirs, b"\x00and hello", ACK))
                assert await hostile.hear() == Frame(yamux.DATA, 0, theirs, 5, b"hello")
                assert await hostile.hear() == Frame(yamux.WINDOW_UPDATE, FIN, theirs, 0)
                await hostile.say(yamux.data(theirs, b"", FIN))
        assert len(it.connection._carried) == 0
        await hostile.say_record(CLOSE, Close().encode())
        assert await hostile.hear_close() is CloseCode.NORMAL


async def open_and_greet(connection: Connection) -> None:
    async with await connection.open_stream("back/1") as stream:
        assert await stream.receive_some() == b"and hello"
        await stream.send_all(b"hello")
