"""Listener: sockets in, accepted connections out. Nothing that a stranger sends can bring it down."""

from __future__ import annotations

import errno
import logging
import socket as stdlib_socket
from collections.abc import Awaitable, Callable
from typing import Final, Self

import trio

from trishake_protocol import CloseCode, PeerId

from ._addresses import Address
from ._connection import Connection
from ._greeting import Greeter

_log = logging.getLogger("trishake")

_OUT_OF_RESOURCES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
_PAUSE_WHEN_OUT_OF_RESOURCES: Final = 0.1
"""Seconds; a file descriptor may be free by then."""


class Listener(trio.abc.Listener[Connection]):
    """Where others dial us. Made by `Peer.listen`; each connection it gives was accepted by our policy.

    `async for connection in listener`, or `await trio.serve_listeners(handler, [listener])`.
    """

    def __init__(self, sockets: list[trio.SocketListener], id_: PeerId, capacity: int) -> None:
        self._sockets = sockets
        self._arrived, self._arrivals = trio.open_memory_channel[Connection](capacity)
        self._scope = trio.CancelScope()
        self._closed = False
        self.greetings: Final[set[Greeter]] = set()
        """Those under way; kept by the peer."""
        self.addresses: Final = tuple(_bound_address(listener) for listener in sockets)
        """Where it is bound: one address for each socket, the port as the system gave it."""
        self.invites: Final = tuple(str(_reachable(address).with_peer(id_)) for address in self.addresses)
        """What a dialer needs, one text for each socket."""

    @property
    def invite(self) -> str:
        """The first invite: `tcp://<peer id>@host:port`, to be given to whoever shall dial."""
        return self.invites[0]

    def __repr__(self) -> str:
        return f"<Listener {', '.join(str(address) for address in self.addresses)}>"

    async def accept(self) -> Connection:
        """The next connection whose greeting ended with READY. Raises ClosedResourceError after `aclose`."""
        try:
            return await self._arrivals.receive()
        except trio.EndOfChannel:
            raise trio.ClosedResourceError("this listener was closed") from None

    def __aiter__(self) -> Self:
        """The connections, until the listener is closed."""
        return self

    async def __anext__(self) -> Connection:
        try:
            return await self.accept()
        except trio.ClosedResourceError:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        """Take no more dials; greetings under way are told so, connections that nobody took are closed."""
        if not self._closed:
            self._closed = True
            self._scope.cancel()
            self._arrived.close()
            for listener in self._sockets:
                listener.socket.close()  # no checkpoint: a cancelled aclose must close them all
            for greeter in self.greetings:
                greeter.leave()
            async with trio.open_nursery() as nursery:
                for connection in self._unclaimed():
                    nursery.start_soon(connection.aclose, CloseCode.GOING_AWAY)
            self._arrivals.close()
        await trio.lowlevel.checkpoint()

    def _unclaimed(self) -> list[Connection]:
        unclaimed: list[Connection] = []
        while True:
            try:
                unclaimed.append(self._arrivals.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                return unclaimed

    async def serve(self, greet: Callable[[trio.SocketStream], Awaitable[Connection | None]]) -> None:
        """Accept and greet until closed. Run by the peer; greet: one greeting, None if it opened nothing."""
        async with trio.open_nursery() as nursery:
            with self._scope:
                async with trio.open_nursery() as accepting:
                    for listener in self._sockets:
                        accepting.start_soon(self._accept_from, listener, greet, nursery)

    async def _accept_from(
        self,
        listener: trio.SocketListener,
        greet: Callable[[trio.SocketStream], Awaitable[Connection | None]],
        greetings: trio.Nursery,
    ) -> None:
        while True:
            try:
                stream = await listener.accept()
            except trio.ClosedResourceError:
                return
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                _log.error("cannot accept at %r: %s", self, error)
                await trio.sleep(_PAUSE_WHEN_OUT_OF_RESOURCES)
            else:
                greetings.start_soon(self._greet_one, stream, greet)

    async def _greet_one(
        self, stream: trio.SocketStream, greet: Callable[[trio.SocketStream], Awaitable[Connection | None]]
    ) -> None:
        if self._closed:  # it came as we left
            await trio.aclose_forcefully(stream)
            return
        connection = await greet(stream)
        if connection is None:
            return
        try:
            self._arrived.send_nowait(connection)
        except (trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
            await connection.aclose(CloseCode.GOING_AWAY)


def _bound_address(listener: trio.SocketListener) -> Address:
    host, port, *_ = listener.socket.getsockname()
    return Address(host, port)


def _reachable(address: Address) -> Address:
    """The address as another machine can dial it: a wildcard becomes this machine's name."""
    if address.host in ("0.0.0.0", "::"):
        return Address(stdlib_socket.gethostname(), address.port)
    return address
