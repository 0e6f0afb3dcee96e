"""WebSocketStream: the binary messages of a WebSocket as a stream of bytes. Imports the extra `websocket`.

The library reads in a task of its own, which lives in the nursery that the transport was given, from the upgrade
to the end. Whatever happens there ends that task and nothing else: callers learn of it as Trio's streams tell.
"""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, cast

import h11
import trio
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
    wrap_server_stream,
)
from wsproto.utilities import ProtocolError

from trishake_protocol import escape, foreign_protocol

from ._addresses import Address, format_endpoint
from ._errors import NoResponse
from ._steps import Cause, Phase
from ._transport import OneCaller

_CHUNK: Final = 64 * 1024
"""Bytes of a message that we send, and of one read."""

_LARGEST_MESSAGE: Final = 1024 * 1024
"""Bytes of a message that we take: the library holds it whole before we see the first byte."""

_LONGEST_UPGRADE: Final = 64 * 1024
"""Bytes that may come before the upgrade is through; an HTTP server's page of any length ends there."""

_GOODBYE: Final = 1.0
"""Seconds for the close frame and its answer; then the stream is closed without."""

_QUEUED_MESSAGES: Final = 1
"""That the library reads ahead; then it stops to read, and the other side has to wait."""

_CLEAN_ENDS: Final = {1000, 1001, 1005}
"""Close codes that end a stream: normal, going away, none given (RFC 6455, 7.4.1). Another one breaks it."""

_UNSUPPORTED_DATA: Final = 1003

_ANSWER: Final = b"HTTP/1.1 101"
_REQUEST: Final = b"GET "
"""How an upgrade begins on either side (RFC 6455, 4.1); what begins otherwise never reaches the library."""

_BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

_LIBRARY_ERRORS: Final = (HandshakeError, ConnectionClosed, ProtocolError, h11.ProtocolError, ValueError)
"""What its reader raises: the last two where the other side's bytes are not what it or h11 expects."""


class WebSocketStream(trio.abc.Stream):
    """One end of a WebSocket. It cannot half-close.

    The upgrade is done at the first read or write, or by `open`. A cancelled `send_all` may have sent half a
    message: after it nothing more can be sent.
    """

    def __init__(
        self,
        carrier: _Carrier,
        upgrade: Callable[[trio.Nursery], Awaitable[WebSocketConnection | None]],
        nursery: trio.Nursery,
    ) -> None:
        self.transport_stream: Final = carrier
        self._upgrade = upgrade
        self._nursery = nursery
        self._started = False
        self._settled = trio.Event()
        """The upgrade is through, or has failed."""
        self._connection: WebSocketConnection | None = None
        self._scope = trio.CancelScope()
        self._sending = OneCaller("send")
        self._receiving = OneCaller("receive")
        self._received = memoryview(b"")
        self._torn = False
        self._refusal: str | None = None
        self._closed = False

    @classmethod
    async def open(cls, stream: trio.abc.Stream, address: Address, nursery: trio.Nursery) -> WebSocketStream:
        """Dial's end. Raises NoResponse where no WebSocket answers; the stream below is closed then."""
        carrier = _Carrier(stream, _ANSWER)
        upgrade = partial(
            wrap_client_stream,
            stream=cast("trio.SocketStream", carrier),  # any stream will do, whatever the library's types say
            host=format_endpoint(address.host, address.port),
            resource=address.path or "/",
            message_queue_size=_QUEUED_MESSAGES,
            max_message_size=_LARGEST_MESSAGE,
            receive_buffer_size=_CHUNK,
        )
        self = cls(carrier, upgrade, nursery)
        try:
            await self._opened()
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(self)
            raise carrier.no_response() from error
        except BaseException:
            await trio.aclose_forcefully(self)
            raise
        return self

    @classmethod
    def accepted(cls, stream: trio.abc.Stream, path: str, nursery: trio.Nursery) -> WebSocketStream:
        """The listener's end. path: who asks for another one gets 404."""
        carrier = _Carrier(stream, _REQUEST)

        async def upgrade(nursery: trio.Nursery) -> WebSocketConnection | None:
            request = await wrap_server_stream(nursery, carrier, _QUEUED_MESSAGES, _LARGEST_MESSAGE, _CHUNK)
            if request.path.partition("?")[0] != (path or "/"):
                await request.reject(404)
                return None
            return await request.accept()

        return cls(carrier, upgrade, nursery)

    # --- the upgrade, and the library's task --------------------------------------------------------------

    async def _opened(self) -> WebSocketConnection:
        if not self._started and not self._closed:
            self._started = True
            try:
                self._nursery.start_soon(self._run)
            except RuntimeError as error:  # which is how a nursery that has ended says so
                self._settled.set()
                raise trio.BrokenResourceError("the peer to which this stream belongs has left") from error
        if not self._closed:
            await self._settled.wait()
        if self._closed:
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError("this stream was closed here")
        if self._connection is None:
            raise trio.BrokenResourceError("the WebSocket handshake failed")
        return self._connection

    async def _run(self) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._become_open, nursery)
                    await self.transport_stream.over.wait()
                    if self._connection is None:  # the library would wait for its answer for ever
                        nursery.cancel_scope.cancel()
        except* _LIBRARY_ERRORS:
            pass  # whoever reads or writes finds the connection closed, and says so
        finally:
            self._settled.set()

    async def _become_open(self, nursery: trio.Nursery) -> None:
        self._connection = await self._upgrade(nursery)
        if self._connection is None:
            self.transport_stream.over.set()
        self.transport_stream.heard = None
        self._settled.set()

    # --- sending ------------------------------------------------------------------------------------------

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._sending:
            connection = await self._opened()
            if self._torn:
                raise trio.BrokenResourceError("an earlier send was cancelled within a message")
            view = memoryview(data).cast("B")
            for start in range(0, len(view), _CHUNK):
                self._torn = True
                try:
                    await connection.send_message(bytes(view[start : start + _CHUNK]))
                except (ConnectionClosed, ProtocolError) as error:
                    raise self._gone(connection.closed) from error
                self._torn = False

    async def wait_send_all_might_not_block(self) -> None:
        with self._sending:
            await self._opened()
            await self.transport_stream.wait_send_all_might_not_block()

    # --- receiving ----------------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._receiving:
            connection = await self._opened()
            while not self._received:  # an empty message is no end
                try:
                    message = await connection.get_message()
                except ConnectionClosed as error:
                    return self._end(error.reason)
                if isinstance(message, str):
                    self._refusal = "a text message came; Trishake is spoken in binary ones"
                    await self._part(connection, _UNSUPPORTED_DATA)
                    raise self._gone(connection.closed)
                self._received = memoryview(message)
            length = len(self._received) if max_bytes is None else max_bytes
            data, self._received = bytes(self._received[:length]), self._received[length:]
            return data

    def _end(self, reason: CloseReason | None) -> bytes:
        if not self._closed and self._refusal is None and reason is not None and reason.code in _CLEAN_ENDS:
            return b""
        raise self._gone(reason)

    def _gone(self, reason: CloseReason | None) -> Exception:
        if self._closed:
            return trio.ClosedResourceError("this stream was closed here")
        if self._refusal is not None:
            return trio.BrokenResourceError(self._refusal)
        if reason is None:
            return trio.BrokenResourceError("the other side broke the WebSocket protocol")
        text = f": {escape(reason.reason)}" if reason.reason else ""
        return trio.BrokenResourceError(f"the WebSocket was closed with {reason.code}{text}")

    # --- ending -------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close, waiting at most a second for the other side's answer; cancelled, at once."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        try:
            if self._connection is not None and not self._torn:
                await self._part(self._connection)
        finally:
            self._scope.cancel()
            await trio.aclose_forcefully(self.transport_stream)
        await trio.lowlevel.checkpoint()

    async def _part(self, connection: WebSocketConnection, code: int = 1000) -> None:
        with trio.move_on_after(_GOODBYE):
            await connection.aclose(code)


class _Carrier(trio.abc.Stream):
    """The stream below, as the library gets it. It says what the library does not: that nothing more will come.

    beginning: of an upgrade, as the other side has to say it. What begins otherwise, or is too long, is broken off
    here: the library waits for the end of anything that looks like HTTP, and fails in many ways at the rest.
    """

    def __init__(self, stream: trio.abc.Stream, beginning: bytes) -> None:
        self.transport_stream: Final = stream
        self._beginning = beginning
        self.heard: bytearray | None = bytearray()
        """What came before the upgrade; None after it."""
        self.over = trio.Event()
        self._broken = False
        # The library's reader answers pings while a caller waits to write; a socket takes one of them at a time.
        self._writing = trio.Lock()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        async with self._writing:
            await self.transport_stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        async with self._writing:
            await self.transport_stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            data = await self.transport_stream.receive_some(max_bytes)
        except trio.BrokenResourceError:
            self._broken = True
            self.over.set()
            raise
        except trio.ClosedResourceError:
            self.over.set()
            raise
        if not data:
            self.over.set()
        elif self.heard is not None:
            self.heard += data
            await self._check_upgrade(self.heard)
        return data

    async def _check_upgrade(self, heard: bytearray) -> None:
        upgrade = self._beginning.startswith(heard[: len(self._beginning)])
        if upgrade and len(heard) <= _LONGEST_UPGRADE:
            return
        try:
            if not upgrade and self._beginning == _REQUEST:
                await self.send_all(_BAD_REQUEST)  # so that the dialer can tell what is spoken here
        finally:
            self.over.set()
        raise trio.BrokenResourceError("what came is no WebSocket handshake")

    async def aclose(self) -> None:
        self.over.set()
        await self.transport_stream.aclose()

    def no_response(self) -> NoResponse:
        """What kept a dialer from the upgrade."""
        heard = bytes(self.heard or b"")
        if heard:
            protocol = foreign_protocol(heard)
            line = heard.partition(b"\r\n")[0][:80].decode("ascii", "replace")
            detail = f'no WebSocket: "{escape(line)}"' if protocol else "no WebSocket"
            return NoResponse(Phase.CONNECT, Cause.FOREIGN, protocol=protocol, detail=detail)
        cause = Cause.RESET if self._broken else Cause.CLOSED
        return NoResponse(Phase.CONNECT, cause, detail="in the WebSocket handshake")
