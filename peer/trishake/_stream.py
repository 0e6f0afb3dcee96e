"""Stream: one of the many byte streams of a connection, each with a protocol of its own."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Final

import trio

from trishake_protocol import PeerId, Streams

from ._errors import StreamError, StreamReset
from ._transport import OneCaller
from ._writer import CHUNK, Writer

if TYPE_CHECKING:
    from ._connection import Connection


_CRUMB: Final = 4096
"""Bytes; a window holds so few that are larger that they may be copied together each time."""


class Stream(trio.abc.HalfCloseableStream):
    """A byte stream to the peer at the other end of a connection. Made by `Connection.open_stream`, or handed to
    a handler; never by hand.

    Its errors are those of a Trio stream: BusyResourceError for two callers at once in one direction,
    ClosedResourceError after our own close, BrokenResourceError for what the other side did: StreamReset, or
    ConnectionClosed when the whole connection has ended. Nothing that had arrived is lost by either.
    """

    def __init__(
        self, connection: Connection, streams: Streams, writer: Writer, id_: int, protocol: str, *, ours: bool
    ) -> None:
        self.connection: Final = connection
        self.protocol: Final = protocol
        """What the stream is for, as its opener said."""
        self.is_ours: Final = ours
        """Whether we opened it."""
        self.id: Final = id_
        """Its number within the connection, the same on both sides."""
        self._streams = streams
        self._writer = writer
        self._received: bytes | bytearray = b""
        self._their_half_finished = False
        self._our_half_finished = False
        self._reset = False
        self._closed = False
        self._sendable = True
        """None of what `_check_sendable` knows has happened yet."""
        self._sending = OneCaller("send")
        self._receiving = OneCaller("receive")
        self._opened = False
        self._refusal: StreamError | None = None
        self._sender = trio.lowlevel.ParkingLot()
        self._receiver = trio.lowlevel.ParkingLot()

    @property
    def peer(self) -> PeerId:
        """Who is at the other end, proved."""
        return self.connection.peer

    def __repr__(self) -> str:
        return f"<Stream {self.id} {self.protocol!r} to {self.peer.short}>"

    # --- sending ----------------------------------------------------------------------------------------

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it; returns when the connection has taken it: it is written, or will be with the next write.

        Waits while the other side gives no credit: it reads what it has before it is sent more. Cancelled, some
        of it may have been sent, and the stream is whole: no record is ever torn.
        """
        with self._sending:
            self._check_sendable()
            await trio.lowlevel.checkpoint_if_cancelled()
            rest = data if isinstance(data, bytes) else memoryview(data).cast("B")
            if not rest:
                await trio.lowlevel.cancel_shielded_checkpoint()
            while rest:
                if self._writer.crowded or not self._streams.credit(self.id):
                    await self._wait_turn()
                taken = self._streams.send(self.id, rest if len(rest) <= CHUNK else memoryview(rest)[:CHUNK])
                rest = b"" if taken == len(rest) else memoryview(rest)[taken:]
                self._writer.flush()
                await trio.lowlevel.cancel_shielded_checkpoint()
                self._check_sendable()

    async def wait_send_all_might_not_block(self) -> None:
        with self._sending:
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            await self._wait_turn()

    async def _wait_turn(self) -> None:
        """Wait for credit, and in line with the other streams. No checkpoint if there is nothing to wait for."""
        waited = False
        while True:
            if not self._streams.credit(self.id):
                await self._sender.park()
            elif self._writer.crowded and not waited:
                await self._writer.wait_turn()
                waited = True
            else:
                return
            self._check_sendable()

    async def send_eof(self) -> None:
        """End our half: the other side sees the end, and can go on sending. Again, it does nothing."""
        self._sending.check()
        self._check_closed()
        if not self._our_half_finished:
            self._check_sendable()
            self._finish()
        await trio.lowlevel.checkpoint()

    def _finish(self) -> None:
        self._our_half_finished = True
        self._sendable = False
        if self.id in self._streams:  # else it has just been reset, and we are about to hear of it
            self._streams.finish(self.id)
            self._writer.flush_soon()

    def _check_sendable(self) -> None:
        if self._sendable:
            return
        self._check_open()
        if self._our_half_finished:
            raise trio.ClosedResourceError("send_eof was called: our half of this stream has ended")

    # --- receiving --------------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """At least one byte, or none when the other side has ended its half. Cancelled, it has lost nothing."""
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._receiving:
            if self._received or self._their_half_finished:
                await trio.lowlevel.checkpoint()
            while not self._received:
                if self._their_half_finished and not self._closed:
                    return b""
                self._check_open()
                await self._receiver.park()
            self._check_closed()
            return self._take(max_bytes)

    def _take(self, max_bytes: int | None) -> bytes:
        if max_bytes is None or len(self._received) <= max_bytes:
            data, self._received = bytes(self._received), b""
        else:
            if isinstance(self._received, bytes):
                self._received = bytearray(self._received)
            with memoryview(self._received) as view:
                data = bytes(view[:max_bytes])
            del self._received[:max_bytes]
        self._streams.consume(self.id, len(data))
        if self._streams.unsent:  # credit
            self._writer.flush()
        return data

    # --- ending -----------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close both halves. What was sent still arrives; what the other side still sends is thrown away.

        If something has arrived that was not read, or the call is cancelled (so `trio.aclose_forcefully`), the
        stream is reset: the other side gets StreamReset. It raises nothing.
        """
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        self._sendable = False
        self._wake()
        try:
            await trio.lowlevel.checkpoint()
            if self._received:
                self._throw_away()
            elif not (self._our_half_finished or self._reset):
                self._finish()
        except trio.Cancelled:
            self._throw_away()
            raise
        finally:
            self.connection.forget(self)

    def _throw_away(self) -> None:
        self._streams.reset(self.id)
        self._writer.flush_soon()

    def _check_closed(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed here")

    def _check_open(self) -> None:
        self._check_closed()
        if self._reset:
            raise StreamReset(self.peer, self.protocol)
        self.connection.check_open()

    def _wake(self) -> None:
        self._sender.unpark_all()
        self._receiver.unpark_all()

    # --- by the connection, as things happen --------------------------------------------------------------

    async def wait_accepted(self) -> None:
        """Of a stream that we opened: wait for the answer. Raises StreamRefused or UnknownProtocol."""
        while not self._opened:
            if self._refusal is not None:
                raise self._refusal
            self._check_open()
            await self._receiver.park()

    def on_accepted(self) -> None:
        self._opened = True
        self._receiver.unpark_all()

    def on_refused(self, refusal: StreamError) -> None:
        self._refusal = refusal
        self._receiver.unpark_all()

    def on_data(self, data: bytes) -> None:
        if not self._received:
            self._received = data
        else:
            if isinstance(self._received, bytes) and len(data) < _CRUMB:
                self._received = bytearray(self._received)  # or each of them would have all the others copied
            self._received += data
        if self._receiver:
            self._receiver.unpark_all()

    def on_finished(self) -> None:
        self._their_half_finished = True
        self._receiver.unpark_all()

    def on_credit(self) -> None:
        if self._sender:
            self._sender.unpark_all()

    def on_reset(self) -> None:
        self._reset = True
        self._sendable = False
        self._wake()

    def on_end(self) -> None:
        """The connection has ended."""
        self._sendable = False
        self._wake()
