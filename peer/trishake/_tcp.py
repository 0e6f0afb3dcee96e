"""Tcp: `tcp://host:port`, over IPv4 and IPv6."""

from __future__ import annotations

import socket as stdlib_socket
from collections.abc import Sequence
from dataclasses import replace

import trio

from ._addresses import Address
from ._transport import Bound, Place, Transport


class Tcp(Transport):
    """TCP. A name is looked up, and reached at whichever of its addresses answers first."""

    schemes = ("tcp",)

    async def resolve(self, address: Address) -> Sequence[Place]:
        """(family, socket address) of each place the name stands for, in the system's order of preference."""
        try:
            found = await trio.socket.getaddrinfo(address.host, address.port, type=stdlib_socket.SOCK_STREAM)
        except UnicodeError as error:  # a label that IDNA cannot encode
            raise stdlib_socket.gaierror(stdlib_socket.EAI_NONAME, f"no name to look up: {error}") from None
        return [(family, sockaddr) for family, _, _, _, sockaddr in found]

    async def connect(self, address: Address, place: Place, nursery: trio.Nursery) -> trio.SocketStream:
        """A connected socket, without Nagle's delay. Raises OSError."""
        family, sockaddr = place
        socket = trio.socket.socket(family, stdlib_socket.SOCK_STREAM)
        try:
            await socket.connect(sockaddr)
        except BaseException:
            socket.close()
            raise
        return trio.SocketStream(socket)

    async def listen(self, address: Address, nursery: trio.Nursery) -> Sequence[Bound]:
        """A bound socket for each place the name stands for; port 0 takes a free one. Raises OSError."""
        listeners = await trio.open_tcp_listeners(address.port, host=address.host)
        return [Bound(_bound_address(address, listener.socket), listener) for listener in listeners]


def _bound_address(address: Address, socket: trio.socket.SocketType) -> Address:
    host, port, *_ = socket.getsockname()
    return replace(address, host=host, port=port, peer=None)
