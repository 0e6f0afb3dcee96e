"""Wire: the one place that writes to a transport, and what a cancelled write does to it."""

from __future__ import annotations

from typing import Final

import trio

from trishake_protocol import Session

from ._addresses import format_endpoint
from ._transport import remote_endpoint

_CHUNK: Final = 64 * 1024
"""Bytes that one read asks for: about one record of the largest size."""


class Wire:
    """A session's bytes on a `trio.abc.Stream`.

    What the session wants to say is queued in order, synchronously, and then flushed by whoever is there. A
    stream does not say how much a cancelled `send_all` has sent; after one, the wire is torn, and every later
    flush says so. A socket does say it: see SocketWire.
    """

    tears = True
    """Whether a cancelled flush breaks the wire."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream: Final = stream
        self._endpoint = remote_endpoint(stream)
        self.torn = False
        self._unsent = bytearray()
        self._lock = trio.Lock()

    @classmethod
    def over(cls, stream: trio.abc.Stream) -> Wire:
        """The wire that fits this stream."""
        return SocketWire(stream) if isinstance(stream, trio.SocketStream) else Wire(stream)

    @property
    def address(self) -> str | None:
        """Where the other end is, as `host:port`; None where the transport has no such thing."""
        return format_endpoint(*self._endpoint) if self._endpoint else None

    @property
    def host(self) -> str:
        """The host of `address`; empty if there is none, or the other end is gone already."""
        return self._endpoint[0] if self._endpoint else ""

    @property
    def wraps(self) -> bool:
        """Whether the stream wraps another one, with a handshake of its own (TLS, WebSocket)."""
        return hasattr(self.stream, "transport_stream")

    @property
    def unsent(self) -> bool:
        """Whether something is queued."""
        return bool(self._unsent)

    @property
    def backlog(self) -> int:
        """Bytes that are queued."""
        return len(self._unsent)

    @property
    def writing(self) -> bool:
        """Whether somebody is writing."""
        return self._lock.locked()

    @property
    def pending(self) -> bool:
        """Whether something is queued that nobody is writing: who writes, writes all of it."""
        return bool(self._unsent) and not self._lock.locked()

    def queue(self, session: Session) -> None:
        """Take over what the session wants to send. No checkpoint."""
        self._unsent += session.data_to_send()

    async def flush(self) -> None:
        """Write until nothing is queued. Raises trio.BrokenResourceError or trio.ClosedResourceError.

        Cancelled in the middle, the wire is torn.
        """
        async with self._lock:
            if self.torn:
                raise trio.BrokenResourceError("an earlier send was cancelled half-way: this stream is torn")
            while self._unsent:
                await trio.lowlevel.checkpoint_if_cancelled()
                data = bytes(self._unsent)
                self._unsent.clear()
                self.torn = True
                await self.stream.send_all(data)
                self.torn = False

    async def wait_writable(self) -> None:
        """As `trio.abc.SendStream.wait_send_all_might_not_block`."""
        await self.flush()
        await self.stream.wait_send_all_might_not_block()

    async def receive(self, room: int) -> bytes | bytearray:
        """At most `room` bytes, or none at the end of the stream. Cancelled, it has lost nothing."""
        return await self.stream.receive_some(min(room, _CHUNK))

    async def drain(self, seconds: float, most: int) -> None:
        """Read and forget, until the end of the stream, `seconds` or `most` bytes: so that the other side reads
        our last words before a reset destroys them (section 8)."""
        with trio.move_on_after(seconds):
            while most > 0 and (data := await self.receive(most)):
                most -= len(data)

    async def send_eof(self) -> None:
        """Half-close, where the transport can (section 8)."""
        if isinstance(self.stream, trio.abc.HalfCloseableStream):
            await self.stream.send_eof()

    async def aclose(self) -> None:
        await self.stream.aclose()

    async def abort(self) -> None:
        """Close at once, without a word."""
        await trio.aclose_forcefully(self.stream)


class SocketWire(Wire):
    """The same on a socket, which says how much it took: a cancelled flush has lost nothing.

    The rest stays queued, in front of what comes next.
    """

    tears = False

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self._socket = stream.socket

    async def flush(self) -> None:
        async with self._lock:
            try:
                while self._unsent:
                    # A cancelled send has sent nothing; a partial one says how much.
                    sent = await self._socket.send(self._unsent)
                    del self._unsent[:sent]
            except OSError as error:
                raise trio.BrokenResourceError(f"writing failed: {error}") from error
