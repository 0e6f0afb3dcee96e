"""Listener: sockets in, greetings out. Nothing that a stranger sends can bring it down."""

from __future__ import annotations

import errno
import logging
import socket as stdlib_socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

import trio

from trishake_protocol import PeerId

from ._addresses import Address
from ._events import log_event
from ._greeting import Greeter
from ._transport import Bound

_NO_LISTENER: Final = {errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP}
"""What says that the listening socket itself is none: our own fault. Anything else passes: the system is out of
something, or one dialer's connection has failed before it was ours (accept(2), "Error handling")."""

_PAUSE: Final = 0.1
"""Seconds; a file descriptor may be free by then."""


class Listener(trio.abc.AsyncResource):
    """Where others dial us. Made by `Peer.listen`; who gets in is among `Peer.arrivals`."""

    def __init__(self, bounds: Sequence[Bound], id_: PeerId) -> None:
        self._bounds = bounds
        self._scope = trio.CancelScope()
        self._closed = False
        self.greetings: Final[set[Greeter]] = set()
        """Those under way; kept by the peer."""
        self.served: Final = trio.Event()
        """Set once it is closed and the last of its greetings has ended, farewells and all."""
        self.addresses: Final = tuple(bound.address for bound in bounds)
        """Where it is bound: one address for each place, the port as the system gave it."""
        self.invites: Final = tuple(str(_reachable(address).with_peer(id_)) for address in self.addresses)
        """What a dialer needs, one text for each place."""

    @property
    def invite(self) -> str:
        """The first invite: `tcp://<peer id>@host:port`, to be given to whoever shall dial."""
        return self.invites[0]

    @property
    def is_open(self) -> bool:
        """Until it is closed; greetings that were under way then may end a little later."""
        return not self._closed

    def __repr__(self) -> str:
        return f"<Listener {', '.join(str(address) for address in self.addresses)}>"

    async def aclose(self) -> None:
        """Take no more dials; greetings under way are told so. The connections that came of others go on."""
        if not self._closed:
            self._closed = True
            self._scope.cancel()
            with trio.CancelScope(shield=True):  # a cancelled aclose must close them all; none of them waits
                for bound in self._bounds:
                    await trio.aclose_forcefully(bound.listener)
            for greeter in self.greetings:
                greeter.leave()
        await trio.lowlevel.checkpoint()

    async def serve(self, greet: Callable[[trio.abc.Stream], Awaitable[None]]) -> None:
        """Accept and greet until closed. Run by the peer; greet: one greeting, whatever comes of it."""
        try:
            async with trio.open_nursery() as nursery:
                with self._scope:
                    async with trio.open_nursery() as accepting:
                        for bound in self._bounds:
                            accepting.start_soon(self._accept_from, bound.listener, greet, nursery)
        finally:
            with trio.CancelScope(shield=True):  # nothing in there waits
                await self.aclose()
            self.served.set()

    async def _accept_from(
        self,
        listener: trio.abc.Listener[trio.abc.Stream],
        greet: Callable[[trio.abc.Stream], Awaitable[None]],
        greetings: trio.Nursery,
    ) -> None:
        while True:
            try:
                stream = await listener.accept()
            except trio.ClosedResourceError:
                return
            except OSError as error:
                if error.errno in _NO_LISTENER:
                    raise
                log_event(
                    logging.ERROR,
                    "accept.failed",
                    f"cannot accept at {self!r}: {error}",
                    addresses=", ".join(map(str, self.addresses)),
                )
                await trio.sleep(_PAUSE)
            else:
                greetings.start_soon(self._greet, stream, greet)

    async def _greet(self, stream: trio.abc.Stream, greet: Callable[[trio.abc.Stream], Awaitable[None]]) -> None:
        if self._closed:  # it came as we left
            await trio.aclose_forcefully(stream)
        else:
            await greet(stream)


def cannot_listen(error: OSError, address: Address) -> OSError:
    """The same with where that was, which not every one says, and with what to do next."""
    advice = _TO_LISTEN.get(error.errno or 0, "Check the address, or listen at another one.")
    return type(error)(error.errno, f"{error.strerror or error}. {advice}", error.filename or str(address))


_TO_LISTEN: Final = {
    errno.EADDRINUSE: "End who listens there, or take another port: port 0 is whichever is free.",
    errno.EADDRNOTAVAIL: "That is no address of this machine: give one, or 0.0.0.0 or [::] for all that it has.",
    errno.EACCES: "This user may not: take a port from 1024 on, or for unix:// a directory of your own.",
    errno.ENOENT: "Make its directory first.",
    stdlib_socket.EAI_NONAME: "Check how the name is spelled.",
}
"""What to do where the system lets nobody listen, by its number for that."""


def _reachable(address: Address) -> Address:
    """The address as another machine can dial it: a wildcard becomes this machine's name."""
    if address.host in ("0.0.0.0", "::"):
        return replace(address, host=stdlib_socket.gethostname())
    return address
