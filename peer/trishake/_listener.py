"""Listener: sockets in, greetings out. Nothing that a stranger sends can bring it down."""

from __future__ import annotations

import errno
import logging
import socket as stdlib_socket
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from trishake_protocol import PeerId

from ._addresses import Address
from ._greeting import Greeter

_log = logging.getLogger("trishake")

_OUT_OF_RESOURCES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
_PAUSE_WHEN_OUT_OF_RESOURCES: Final = 0.1
"""Seconds; a file descriptor may be free by then."""


class Listener(trio.abc.AsyncResource):
    """Where others dial us. Made by `Peer.listen`; who gets in is among `Peer.arrivals`."""

    def __init__(self, sockets: list[trio.SocketListener], id_: PeerId) -> None:
        self._sockets = sockets
        self._scope = trio.CancelScope()
        self._closed = False
        self.greetings: Final[set[Greeter]] = set()
        """Those under way; kept by the peer."""
        self.served: Final = trio.Event()
        """Set once it is closed and the last of its greetings has ended, farewells and all."""
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

    async def aclose(self) -> None:
        """Take no more dials; greetings under way are told so. The connections that came of others go on."""
        self._close()
        await trio.lowlevel.checkpoint()

    def _close(self) -> None:
        """No checkpoint: cancelled, it must close them all."""
        if not self._closed:
            self._closed = True
            self._scope.cancel()
            for listener in self._sockets:
                listener.socket.close()
            for greeter in self.greetings:
                greeter.leave()

    async def serve(self, greet: Callable[[trio.SocketStream], Awaitable[None]]) -> None:
        """Accept and greet until closed. Run by the peer; greet: one greeting, whatever comes of it."""
        try:
            async with trio.open_nursery() as nursery:
                with self._scope:
                    async with trio.open_nursery() as accepting:
                        for listener in self._sockets:
                            accepting.start_soon(self._accept_from, listener, greet, nursery)
        finally:
            self._close()
            self.served.set()

    async def _accept_from(
        self,
        listener: trio.SocketListener,
        greet: Callable[[trio.SocketStream], Awaitable[None]],
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
                greetings.start_soon(self._greet, stream, greet)

    async def _greet(
        self, stream: trio.SocketStream, greet: Callable[[trio.SocketStream], Awaitable[None]]
    ) -> None:
        if self._closed:  # it came as we left
            await trio.aclose_forcefully(stream)
        else:
            await greet(stream)


def _bound_address(listener: trio.SocketListener) -> Address:
    host, port, *_ = listener.socket.getsockname()
    return Address(host, port)


def _reachable(address: Address) -> Address:
    """The address as another machine can dial it: a wildcard becomes this machine's name."""
    if address.host in ("0.0.0.0", "::"):
        return Address(stdlib_socket.gethostname(), address.port)
    return address
