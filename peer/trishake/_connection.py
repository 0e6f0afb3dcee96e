"""Connection: one Session driven over one transport, and the streams inside it.

One task reads (`run`); nothing that it does waits for the network to write, nor for the application:

    transport → Wire.receive → Session.receive_data → Session.next_event → Stream.on_… → receive_some

What is written goes through the Writer, mostly by whoever sends. The reader is also who notices silence: it
pings, and gives the other side up. However a connection ends, it ends once, for one cause, and everybody who
waits wakes with that cause.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import trio

from trishake_protocol import (
    CloseCode,
    CloseReceived,
    CreditReceived,
    DataReceived,
    Direction,
    Event,
    GoAwayReceived,
    PongReceived,
    RemoteProtocolError,
    Session,
    State,
    StreamAccepted,
    StreamFinished,
    StreamOpened,
    StreamRefused,
    StreamReset,
    Streams,
    Truncated,
    Wait,
    code_name,
)
from trishake_protocol.limits import MAX_STREAMS, PING_LENGTH
from trishake_protocol.messages import Close

from ._errors import ConnectionClosed, StreamTimeout, UnknownProtocol
from ._errors import StreamRefused as StreamRefusedError
from ._greeting import MAX_OPTIMISTIC_DATA, Greeted, Meeting, check_optimistic
from ._handlers import UNKNOWN, Handler, Handlers
from ._limits import Limits
from ._messages import MAX_SIZE, check_max_size, encode_message, request
from ._stream import Stream
from ._trust import Decision, Introduction, Rejection, accept, shortened
from ._wire import Wire
from ._writer import Writer

_MOMENT: Final = 0.1
"""Seconds in which a connection that is cut short may still say CLOSE."""

_TURN: Final = 4
"""Events of one connection that are seen to at a time: a record of crumbs holds many, and others wait."""


def open_with_data(streams: Streams, protocol: str, data: bytes) -> int:
    """Open a stream, and say the first on it; its id. Raises ValueError for a protocol id out of bounds."""
    id_ = streams.open(protocol)
    if data:
        streams.send(id_, data)
    return id_


class Connection(Greeted, trio.abc.AsyncResource):
    """An open connection to a peer whose identity is proved, on which both sides open streams.

    Made by a `Peer`. `async with connection` closes it at the end of the block.
    """

    def __init__(
        self,
        session: Session,
        wire: Wire,
        meeting: Meeting,
        limits: Limits,
        handlers: Handlers,
        nursery: trio.Nursery,
        on_end: Callable[[Connection, ConnectionClosed], None],
    ) -> None:
        super().__init__(session, wire, meeting)
        self._limits = limits
        self._handlers = handlers
        self._nursery = nursery
        self._on_end = on_end
        self._carried = session.streams or session.carry_streams()
        self._writer = Writer(session, self._carried, wire, nursery, self._write_failed)
        self._streams: dict[int, Stream] = {}
        """Those that neither the application has closed nor the other side has refused."""
        self._in_use_of_theirs = 0
        """How many of those the other side opened."""
        self._given_up: dict[int, None] = {}
        """Ours that we closed and the other side may not have: the first to go when there is no room for more."""
        self._news = trio.lowlevel.ParkingLot()
        """Who waits for something to become of us: a stream that closes, an answer to a ping, the end."""
        self._abandoned: tuple[float, int] = (0.0, 0)
        """When the second began that we count in, and how many streams were opened and reset in it."""
        self._peer_leaves = False

        self.opened_at: Final = trio.current_time()
        """When it opened, on Trio's clock."""
        self._heard = self.opened_at
        self._asked: float | None = None
        self._pings = 0
        self._pongs = 0

        self._reading = trio.CancelScope()
        """One read after another, until something is due."""
        self._read_until = math.inf
        """When we read no more, on Trio's clock, whatever is due."""
        self._closing = False
        self._finishing = trio.CancelScope()
        """How long the open streams have, once it is being closed."""
        self._cut_short = False
        self._violated = False  # the other side broke the rules: it is told so, and drained
        self._broken: Exception | None = None
        self._end: ConnectionClosed | None = None
        self._ended = trio.Event()

    def __repr__(self) -> str:
        state = "closed" if self._end else "open"
        return f"<Connection to {self.peer.short}, {state}, session {self.session_id.hex()}>"

    @property
    def is_open(self) -> bool:
        """Whether streams can still be opened on it: neither side is closing, as far as we know."""
        return not (self._closing or self._peer_leaves) and self._end is None

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams that are in use on our side."""
        return tuple(self._streams.values())

    def check_open(self) -> None:
        """Raises ConnectionClosed, with the cause, once it has ended."""
        if self._end is not None:
            raise self._why(self._end)

    async def closed(self) -> ConnectionClosed:
        """Wait until it has ended, however that comes: who ended it (`by_peer`), with which code and text."""
        await self._ended.wait()
        assert self._end is not None
        return self._why(self._end)

    # --- streams ----------------------------------------------------------------------------------------

    async def open_stream(self, protocol: str, optimistic: bytes = b"") -> Stream:
        """Open a stream, and return once the other side has taken it.

        protocol: what it is for, 1 to 128 bytes of UTF-8, such as `chat/1`. optimistic: at most 16,000 bytes, the
        first that we send on it, which go along with the opening; if the stream is refused, nobody sees them.
        Raises UnknownProtocol, StreamRefused, or StreamTimeout after `Limits.open_stream`; ConnectionClosed;
        ValueError for a protocol id out of bounds, or too much data. Cancelled, it leaves no stream behind.
        """
        check_optimistic(optimistic)
        with trio.move_on_after(self._limits.open_stream):
            await self._wait_for_room(protocol)
            stream = self.adopt(open_with_data(self._carried, protocol, optimistic), protocol)
            self._writer.flush()
            await self.wait_accepted(stream)
            return stream
        raise StreamTimeout(self.peer, protocol, self._limits.open_stream)

    def adopt(self, id_: int, protocol: str) -> Stream:
        """The stream of ours that was opened under this id, and is not answered yet."""
        stream = self._streams[id_] = Stream(self, self._carried, self._writer, id_, protocol, ours=True)
        return stream

    async def wait_accepted(self, stream: Stream) -> None:
        """Wait for the answer to an opening of ours; if it does not come, or is no, no stream is left behind."""
        try:
            await stream.wait_accepted()
        except BaseException:
            self._carried.reset(stream.id)
            self._writer.flush_soon()
            self.forget(stream)
            raise

    async def request(self, protocol: str, value: object, *, max_size: int = MAX_SIZE) -> Any:
        """Ask for one value with another, on a stream of its own: see `Peer.handle_request`.

        value: as `MessageChannel` sends it. max_size: bytes, of the request and of its reply; at least 2048.
        Raises RequestFailed if the other side could not answer, and says why; BadMessage, MessageTooLarge; and
        as `open_stream`. It waits as long as the connection lasts: bound it with `trio.fail_after`. Cancelled,
        it has the function over there cancelled.
        """
        check_max_size(max_size)
        message = encode_message(value, max_size)
        small = len(message) <= MAX_OPTIMISTIC_DATA
        stream = await self.open_stream(protocol, message if small else b"")
        return await request(stream, value, max_size=max_size, sent=small)

    async def _wait_for_room(self, protocol: str) -> None:
        """Wait until one more stream of ours may be opened. A checkpoint only if there is none."""
        while True:
            self.check_open()
            if self._closing:
                raise ConnectionClosed(f"the connection to {self.peer} is being closed here", by_peer=False)
            if self._peer_leaves:
                raise self._leaving(protocol)
            if not self._carried.can_open and self._given_up:
                self._drop(next(iter(self._given_up)))
            if self._carried.can_open:
                return
            await self._news.park()

    def _leaving(self, protocol: str) -> StreamRefusedError:
        return StreamRefusedError(self.peer, protocol, "it is closing the connection")

    def forget(self, stream: Stream) -> None:
        """The application has closed it, or never had it."""
        if self._streams.pop(stream.id, None) is not None:
            if not stream.is_ours:
                self._in_use_of_theirs -= 1
            elif stream.id in self._carried:
                self._given_up[stream.id] = None
            self._news.unpark_all()

    def _drop(self, id_: int) -> None:
        self._carried.reset(id_)
        self._given_up.pop(id_, None)

    def _settle(self, id_: int) -> None:
        """The other side has done with it."""
        self._given_up.pop(id_, None)
        self._news.unpark_all()

    # --- the task ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read until it has ended, then say the last words and close the transport. Raises nothing.

        Cancelled, it says CLOSE GOING_AWAY if the transport takes that within a moment.
        """
        try:
            await self._read_until_silent()
            if self._broken is not None:
                self._finish(self._broken_by(self._broken))
            await self._say_last_words(_MOMENT if self._cut_short else self._limits.write_alert)
        except trio.Cancelled:
            if self._end is None:
                self._close(Close(CloseCode.GOING_AWAY))
            with trio.CancelScope(shield=True):  # else every Ctrl-C would look like a line that was cut
                await self._say_last_words(_MOMENT)
            raise
        finally:
            self._writer.stop()
            self._finish(ConnectionClosed(f"the connection to {self.peer} failed here", by_peer=False))
            assert self._end is not None
            self._on_end(self, self._end)
            self._ended.set()
            await self._wire.abort()

    async def _read_until_silent(self) -> None:
        """Read; when nothing was heard for long, ask, and when that brings nothing either, give up."""
        limits = self._limits
        while trio.current_time() < self._read_until:
            due = self._heard + limits.keepalive
            if self._end is not None:
                due = math.inf  # whoever closes has a deadline of his own
            elif self._asked is not None:
                due = self._asked + limits.keepalive_answer
            self._reading = trio.CancelScope(deadline=min(due, self._read_until))
            with self._reading:
                await self._read()
                return
            if self._asked is None:
                if trio.current_time() >= self._heard + limits.keepalive and self._end is None:
                    self._asked = trio.current_time()
                    self._ask()
            elif self._heard >= self._asked:  # on a virtual clock, an answer takes no time
                self._asked = None
            else:
                silence = trio.current_time() - self._heard
                self._finish(
                    ConnectionClosed(
                        f"{self.peer} has been silent for {silence:.0f} s, and did not answer a ping. "
                        "It is gone, or the way to it is: dial again.",
                        by_peer=False,
                    )
                )
                return

    def _stop_reading(self, at: float = -math.inf) -> None:
        """Read no more from then on, on Trio's clock; by default, at once."""
        self._read_until = min(self._read_until, at)
        self._reading.deadline = min(self._reading.deadline, at)

    async def _read(self) -> None:
        """Read until one of the two directions has ended it."""
        session, wire = self._session, self._wire
        while True:
            # What came together with the last of the greeting is there before anything is read.
            events = 0
            try:
                while (event := session.next_event()) is not Wait.NEED_DATA:
                    self._happen(event)
                    events += 1
                    if events % _TURN == 0:
                        await trio.lowlevel.checkpoint()
            except RemoteProtocolError as error:
                self._breach(error)
            if self._violated or session.receiving is not Direction.OPEN or session.state is not State.OPEN:
                return
            if session.has_data_to_send:
                self._writer.flush()
            try:
                data = await wire.receive(session.receive_room)
            except trio.BrokenResourceError as error:
                self._finish(self._broken_by(error))
                return
            self._heard = trio.current_time()
            if data:
                session.receive_data(data)
            else:
                session.receive_eof()

    def _happen(self, event: Event | Wait) -> None:
        if isinstance(event, DataReceived):
            if stream := self._streams.get(event.stream):
                stream.on_data(event.data)
            else:
                self._drop(event.stream)  # it was closed here, and they have not stopped
            return
        match event:
            case CreditReceived(id_):
                if stream := self._streams.get(id_):
                    stream.on_credit()
            case StreamFinished(id_):
                if stream := self._streams.get(id_):
                    stream.on_finished()
                self._settle(id_)
            case StreamOpened(id_, protocol):
                self._meet(id_, protocol)
            case StreamAccepted(id_):
                if stream := self._streams.get(id_):
                    stream.on_accepted()
            case StreamRefused(id_, unknown, text):
                if stream := self._streams.get(id_):
                    stream.on_refused(
                        UnknownProtocol(self.peer, stream.protocol)
                        if unknown
                        else StreamRefusedError(self.peer, stream.protocol, text)
                    )
            case StreamReset(id_, abandoned):
                if stream := self._streams.get(id_):
                    if self._peer_leaves:  # it may be an open that crossed their GO AWAY
                        stream.on_refused(self._leaving(stream.protocol))
                    stream.on_reset()
                self._settle(id_)
                if abandoned:
                    self._count_abandoned()
            case GoAwayReceived():
                self._peer_leaves = True
                self._news.unpark_all()
            case PongReceived(payload):
                number = int.from_bytes(payload, "big")
                if self._pongs < number <= self._pings:  # else it answers nothing that we have asked
                    self._pongs = number
                    self._news.unpark_all()
            case CloseReceived(code, text):
                self._finish(self._closed_by(code, text))
            case _:
                raise AssertionError(f"{event} on an open connection")

    def _meet(self, id_: int, protocol: str) -> None:
        """The other side opened a stream: answer it, and hand it over."""
        handler = self._handlers.find(protocol)
        if handler is None:
            self._handlers.refused(self.peer, protocol, UNKNOWN)
            self._carried.refuse_unknown(id_)
            return
        if self._in_use_of_theirs >= 2 * MAX_STREAMS:
            # Those that they have reset are in use here until their handlers look; who never does is not started
            # for ever.
            self._carried.reset(id_)
            return
        self._in_use_of_theirs += 1
        stream = self._streams[id_] = Stream(self, self._carried, self._writer, id_, protocol, ours=False)
        self._nursery.start_soon(self._serve, stream, handler)

    async def _serve(self, stream: Stream, handler: Handler) -> None:
        """Answer it, in a task of its own: whoever has reset it by then has no handler at work for him."""
        decision: Decision = accept()
        if handler.trust is not None:
            address = self._meeting.trace.address
            introduction = Introduction(self.peer, self.role.other, address, self.greeting, self.session_id)
            decision = await self._handlers.decide(handler.trust, introduction)
        if stream.id not in self._carried or self._end is not None:
            self.forget(stream)
        elif isinstance(decision, Rejection):
            why = f": {decision.why}" if decision.why else ""
            self._handlers.refused(self.peer, stream.protocol, code_name(decision.reason) + why)
            self._carried.refuse(stream.id, shortened(decision.text or code_name(decision.reason)))
            self._writer.flush_soon()
            self.forget(stream)
        else:
            self._carried.accept(stream.id)
            self._writer.flush_soon()
            await self._handlers.run(handler, stream)

    def _count_abandoned(self) -> None:
        """Whoever opens and resets, and never waits for an answer, may do so for a while (section 10)."""
        now = trio.current_time()
        since, count = self._abandoned
        self._abandoned = since, count = (since, count + 1) if now < since + 1 else (now, 1)
        if count > self._limits.resets_per_second and self._end is None:
            text = f"more than {self._limits.resets_per_second} streams a second opened and reset at once"
            self._violated = True
            self._close(Close(CloseCode.PROTOCOL, text), f"was ended: {text}")

    # --- liveness ---------------------------------------------------------------------------------------

    async def ping(self) -> float:
        """Ask whether the other side is there; the round trip in seconds.

        It waits as long as the connection lasts: bound it with `trio.fail_after`. Raises ConnectionClosed.
        """
        self.check_open()
        started = trio.current_time()
        number = self._ask()
        while self._pongs < number:
            await self._news.park()
            self.check_open()
        return trio.current_time() - started

    def _ask(self) -> int:
        self._pings += 1
        self._session.ping(self._pings.to_bytes(PING_LENGTH, "big"))
        self._writer.flush()
        return self._pings

    # --- ending -----------------------------------------------------------------------------------------

    async def aclose(
        self, code: CloseCode = CloseCode.NORMAL, text: str | None = None, *, finish: float | None = None
    ) -> None:
        """Close for good, and return when it is: take no new streams, let the open ones finish, say CLOSE.

        code, text: what the other side is told; text of at most 256 bytes. finish: seconds that the open streams
        have, `Limits.finish` by default, 0 with any code but NORMAL and GOING_AWAY; then they end with
        ConnectionClosed. The other side's CLOSE is waited for at most `Limits.close`. While it is being closed,
        another call can shorten that time, and not change what is told. A handler that closes its own connection
        waits for itself: `finish=0`.
        Raises nothing but ValueError for such a text. Cancelled, it says CLOSE if the transport takes that within
        a moment, and closes the transport.
        """
        close = Close(code, text)
        close.encode()
        graceful = code in (CloseCode.NORMAL, CloseCode.GOING_AWAY)
        seconds = (self._limits.finish if finish is None else finish) if graceful else 0
        self._finishing.deadline = min(self._finishing.deadline, trio.current_time() + seconds)
        try:
            if not self._closing:
                self._closing = True
                if self._end is None and graceful:
                    await self._finish_streams()
                if self._end is None:
                    self._close(close)
                    with trio.move_on_after(self._limits.close):
                        await self._ended.wait()
                self._stop_reading()
            await self._ended.wait()
        except trio.Cancelled:
            self._cut_short = True
            if self._end is None:
                self._close(close)
            self._stop_reading()
            raise

    async def _finish_streams(self) -> None:
        self._carried.go_away()
        self._writer.flush_soon()
        with self._finishing:
            while self._streams and self._end is None:
                await self._news.park()

    def _close(self, close: Close, how: str | None = None) -> None:
        """Say CLOSE, and have ended; who reads waits for theirs. how: what became of the connection, in words."""
        if close.code is CloseCode.NORMAL:
            self._session.finish(close.text)
        else:
            assert isinstance(close.code, CloseCode)
            self._session.close(close.code, close.text)
        self._writer.flush_soon()
        self._finish(
            ConnectionClosed(
                f"the connection to {self.peer} {how or f'was closed here ({code_name(close.code)})'}",
                code=close.code,
                text=close.text,
                by_peer=False,
            )
        )

    def _breach(self, error: RemoteProtocolError) -> None:
        self._violated = not isinstance(error, Truncated)
        self._finish(self._ended_by(error))

    def _write_failed(self, error: Exception) -> None:
        """Writing failed. What the other side said before it went is still read, for a while: it is the cause."""
        self._broken = error
        self._stop_reading(trio.current_time() + self._limits.write_alert)

    def _finish(self, end: ConnectionClosed) -> None:
        """It has ended, for this cause if it is the first: everybody who waits wakes."""
        if self._end is None:
            self._end = end
            for stream in self._streams.values():
                stream.on_end()
            self._news.unpark_all()
            self._writer.wake()

    async def _say_last_words(self, seconds: float) -> None:
        """Write what the session still holds, within that time, and see that it arrives."""
        self._writer.stop()
        self._wire.queue(self._session)
        try:
            with trio.move_on_after(seconds):
                await self._wire.flush()
                if self._violated:
                    await self._wire.send_eof()
                    await self._wire.drain(self._limits.drain_after_alert, self._limits.drain_bytes)
                await self._wire.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the other side is gone already

    @staticmethod
    def _why(end: ConnectionClosed) -> ConnectionClosed:
        """A fresh one for each who asks: a raised exception gathers tracebacks."""
        return ConnectionClosed(str(end), code=end.code, text=end.text, by_peer=end.by_peer)


class Opening:
    """A stream that is opened with the ACK of a dial, before there is a connection (section 9)."""

    def __init__(self, protocol: str, data: bytes) -> None:
        self._protocol = protocol
        self._data = data
        self._id = 0
        self.stream: Stream | None = None
        """Once the dial was accepted; not answered yet."""

    def send(self, session: Session) -> None:
        """Right behind the ACK."""
        self._id = open_with_data(session.carry_streams(), self._protocol, self._data)

    def taken_by(self, connection: Connection) -> None:
        """The dial was accepted."""
        self.stream = connection.adopt(self._id, self._protocol)
