"""Wire: the one place that writes to a transport, and what a cancelled write does to it.

    Wire              any Trio stream: a cancelled write tears it
    SocketWire        a socket, which says how much it took: a cancelled write has lost nothing
    DescriptorWire    the same by its descriptor, where the system has such: the way of most connections

Each is the session's one way out: what is queued is written in order, by whoever is there.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Final

import trio

from trishake_protocol import Session

from ._addresses import format_endpoint
from ._transport import remote_endpoint

_CHUNK: Final = 127 * 1024
"""Bytes that one read asks for: two records, nearly, and what malloc still takes from the heap it has."""

_CLOSED: Final = "this stream was closed here"

_HAS_DESCRIPTORS: Final = os.name == "posix"
"""Whether a socket can be read and written by its file descriptor."""


class Interrupted(Exception):
    """`Wire.interrupt` was called while we waited: look again what has become of everything, and wait or not.

    Never leaves the package.
    """


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
        self._unsent: bytes | bytearray = b""
        self._lock = trio.Lock()
        self._waiting: set[trio.CancelScope] = set()

    @classmethod
    def over(cls, stream: trio.abc.Stream) -> Wire:
        """The wire that fits this stream."""
        if not isinstance(stream, trio.SocketStream):
            return Wire(stream)
        return DescriptorWire(stream) if _HAS_DESCRIPTORS else SocketWire(stream)

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

    def queue(self, session: Session) -> int:
        """Take over what the session wants to send; how many bytes that is. No checkpoint."""
        data = session.data_to_send()
        if not self._unsent:
            self._unsent = data
        elif data:
            if isinstance(self._unsent, bytes):
                self._unsent = bytearray(self._unsent)
            self._unsent += data
        return len(data)

    def write_now(self) -> bool:
        """Write what the transport takes without a wait; whether nothing is left queued. No checkpoint.

        Raises as `flush`. A stream that is no socket takes nothing in this way.
        """
        return not self._unsent

    async def flush(self) -> None:
        """Write until nothing is queued. A checkpoint only if there is something to wait for.

        Raises trio.BrokenResourceError, trio.ClosedResourceError, or Interrupted. Cancelled or interrupted in the
        middle, the wire is torn.
        """
        with _Interruptible(self._waiting):
            async with self._lock:
                if self.torn:
                    raise trio.BrokenResourceError("an earlier send was cancelled half-way: this stream is torn")
                while self._unsent:
                    await trio.lowlevel.checkpoint_if_cancelled()
                    data, self._unsent = bytes(self._unsent), b""
                    self.torn = True
                    await self.stream.send_all(data)
                    self.torn = False

    async def wait_writable(self) -> None:
        """As `trio.abc.SendStream.wait_send_all_might_not_block`. Raises as `flush`."""
        await self.flush()
        with _Interruptible(self._waiting):
            async with self._lock:  # as in `flush`: one task at a time may wait
                await self.stream.wait_send_all_might_not_block()
        await self.flush()  # what others have left to us meanwhile

    async def receive(self, room: int) -> bytes | bytearray:
        """At most `room` bytes, or none at the end of the stream. Cancelled, it has lost nothing.

        Raises trio.BrokenResourceError, trio.ClosedResourceError, or Interrupted.
        """
        with _Interruptible(self._waiting):
            return await self.stream.receive_some(min(room, _CHUNK))

    def interrupt(self) -> None:
        """Have everyone who waits in `flush`, `wait_writable` or `receive` look again: they get Interrupted."""
        for scope in self._waiting:
            scope.cancel()

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


class _Interruptible:
    """The block ends with Interrupted when its scope, which is among those that wait, is cancelled.

    A wait that has its result by then keeps it.
    """

    def __init__(self, waiting: set[trio.CancelScope]) -> None:
        self._waiting = waiting
        self._scope = trio.CancelScope()

    def __enter__(self) -> None:
        self._waiting.add(self._scope)
        self._scope.__enter__()

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._waiting.discard(self._scope)
        self._scope.__exit__(type_, error, traceback)
        if self._scope.cancelled_caught:
            raise Interrupted from None


class SocketWire(Wire):
    """The same on a socket, which says how much it took: a cancelled flush has lost nothing.

    The rest stays queued, in front of what comes next.
    """

    tears = False

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self._socket = stream.socket

    async def flush(self) -> None:
        with _Interruptible(self._waiting):
            async with self._lock:
                while self._unsent:
                    try:
                        # A cancelled send has sent nothing; a partial one says how much.
                        sent = await self._socket.send(self._unsent)
                    except OSError as error:
                        raise trio.BrokenResourceError(f"writing failed: {error}") from error
                    self._sent(sent)

    def _sent(self, count: int) -> None:
        if count == len(self._unsent):
            self._unsent = b""
        else:
            if isinstance(self._unsent, bytes):
                self._unsent = bytearray(self._unsent)
            del self._unsent[:count]


class DescriptorWire(SocketWire):
    """A socket without the stream around it: a write waits only if the socket is full, a read waits once.

    Trio's own stream gives way to other tasks in each call; here the caller does, once. Who writes takes what is
    first in the queue: the lock is there only because one task at a time may wait.
    """

    async def flush(self) -> None:
        if self.write_now():
            return
        with _Interruptible(self._waiting):
            async with self._lock:
                while self._unsent:
                    try:
                        await trio.lowlevel.wait_writable(self._descriptor())
                    except OSError as error:
                        raise trio.BrokenResourceError(f"writing failed: {error}") from error
                    self.write_now()

    def write_now(self) -> bool:
        if not self._unsent:
            return True
        descriptor = self._descriptor()
        try:
            self._sent(os.write(descriptor, self._unsent))
        except BlockingIOError:
            return False
        except OSError as error:
            raise trio.BrokenResourceError(f"writing failed: {error}") from error
        return not self._unsent

    async def receive(self, room: int) -> bytes:
        while True:
            try:
                await trio.lowlevel.wait_readable(self._descriptor())
                return os.read(self._descriptor(), min(room, _CHUNK))
            except BlockingIOError:
                continue  # it was no more than a rumour
            except trio.ClosedResourceError:
                raise self._woken() from None
            except OSError as error:
                raise trio.BrokenResourceError(f"reading failed: {error}") from error

    def interrupt(self) -> None:
        super().interrupt()  # who writes
        descriptor = self._socket.fileno()
        if descriptor >= 0:
            trio.lowlevel.notify_closing(descriptor)  # it wakes who reads; closing may follow or not

    def _woken(self) -> Exception:
        """Why the reader woke: the stream was closed, or it was `interrupt`."""
        return Interrupted() if self._socket.fileno() >= 0 else trio.ClosedResourceError(_CLOSED)

    def _descriptor(self) -> int:
        """Looked up each time: once the stream is closed, another may have the number."""
        descriptor = self._socket.fileno()
        if descriptor < 0:
            raise trio.ClosedResourceError(_CLOSED)
        return descriptor
