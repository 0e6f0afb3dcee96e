"""Listener: sockets in, accepted connections out. Nothing that a stranger sends can bring it down."""

from __future__ import annotations

import errno
import logging
import socket as stdlib_socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, Self

import trio

from trishake_protocol import CloseCode, PeerId

from ._addresses import Address
from ._connection import Connection
from ._greeting import Greeter
from ._transport import Bound

_log = logging.getLogger("trishake")

_OUT_OF_RESOURCES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
_PAUSE_WHEN_OUT_OF_RESOURCES: Final = 0.1
"""Seconds; a file descriptor may be free by then."""


class Listener(trio.abc.Listener[Connection]):
    """Where others dial us. Made by `Peer.listen`; each connection it gives was accepted by our policy.

    `async for connection in listener`, or `await trio.serve_listeners(handler, [listener])`.
    """

    def __init__(self, bounds: Sequence[Bound], id_: PeerId, capacity: int) -> None:
        self._bounds = bounds
        self._arrived, self._arrivals = trio.open_memory_channel[Connection](capacity)
        self._scope = trio.CancelScope()
        self._closed = False
        self.greetings: Final[set[Greeter]] = set()
        """Those under way; kept by the peer."""
        self.addresses: Final = tuple(bound.address for bound in bounds)
        """Where it is bound: one address for each place, the port as the system gave it."""
        self.invites: Final = tuple(str(_reachable(address).with_peer(id_)) for address in self.addresses)
        """What a dialer needs, one text for each place."""

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
            with trio.CancelScope(shield=True):  # a cancelled aclose must close them all; none of them waits
                for bound in self._bounds:
                    await trio.aclose_forcefully(bound.listener)
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

    async def serve(self, greet: Callable[[trio.abc.Stream], Awaitable[Connection | None]]) -> None:
        """Accept and greet until closed. Run by the peer; greet: one greeting, None if it opened nothing."""
        async with trio.open_nursery() as nursery:
            with self._scope:
                async with trio.open_nursery() as accepting:
                    for bound in self._bounds:
                        accepting.start_soon(self._accept_from, bound.listener, greet, nursery)

    async def _accept_from(
        self,
        listener: trio.abc.Listener[trio.abc.Stream],
        greet: Callable[[trio.abc.Stream], Awaitable[Connection | None]],
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
        self, stream: trio.abc.Stream, greet: Callable[[trio.abc.Stream], Awaitable[Connection | None]]
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


def _reachable(address: Address) -> Address:
    """The address as another machine can dial it: a wildcard becomes this machine's name."""
    if address.host in ("0.0.0.0", "::"):
        return replace(address, host=stdlib_socket.gethostname())
    return address
