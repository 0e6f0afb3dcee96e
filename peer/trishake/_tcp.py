"""Tcp: `tcp://host:port`, over IPv4 and IPv6."""

from __future__ import annotations

import socket as stdlib_socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import trio

from ._addresses import Address, format_endpoint
from ._transport import Bound, Place, Transport

_BACKLOG: Final = 0xFFFF
"""As many as the system allows: it takes less by itself."""


class Tcp(Transport):
    """TCP. A name is looked up, and reached at whichever of its addresses answers first.

    reuse_port: listen with SO_REUSEPORT, so that several processes of one user, each with a Peer of the same
    identity, listen at one port, and the kernel gives each dialer to one of them: on Linux it spreads them evenly;
    other systems may give them all to one process. The first process may listen at port 0; the others must be
    told the port that it took. Dialing is as ever.
    Shared is the identity, an Ed25519 key, and nothing else. Each process has a Noise static key of its own, made
    afresh, as the specification has it (section 5); a registry, so that second connections with one peer, dead
    ones to be replaced and dials that cross are noticed only within a process; its own `Limits`, so that slots,
    rates, `connections` and `connections_per_identity` count for each process alone, and all of them together
    take as many times more; and its own statistics. When a process ends, dialers that it has not accepted yet
    are reset, though others still listen.
    Raises ValueError where the system has no SO_REUSEPORT.
    """

    schemes = ("tcp",)

    def __init__(self, *, reuse_port: bool = False) -> None:
        if reuse_port and not hasattr(stdlib_socket, "SO_REUSEPORT"):
            raise ValueError("reuse_port: this system has no SO_REUSEPORT: one process alone can listen at a port")
        self._reuse_port = reuse_port

    async def resolve(self, address: Address) -> Sequence[Place]:
        """(family, socket address) of each place the name stands for, in the system's order of preference."""
        try:
            found = await trio.socket.getaddrinfo(address.host, address.port, type=stdlib_socket.SOCK_STREAM)
        except UnicodeError as error:  # a label that IDNA cannot encode
            raise stdlib_socket.gaierror(stdlib_socket.EAI_NONAME, f"no name to look up: {error}") from None
        return [(family, sockaddr) for family, _, _, _, sockaddr in found]

    def endpoint_of(self, address: Address, place: Place) -> str:
        _, sockaddr = place
        return format_endpoint(*sockaddr[:2])

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
        if self._reuse_port:
            listeners = await _open_shared_listeners(address)
        else:
            listeners = await trio.open_tcp_listeners(address.port, host=address.host)
        return [Bound(_bound_address(address, listener.socket), listener) for listener in listeners]


async def _open_shared_listeners(address: Address) -> list[trio.SocketListener]:
    """As `trio.open_tcp_listeners`, which has no way to set the option; all of them, or OSError and none."""
    found = await trio.socket.getaddrinfo(
        address.host, address.port, type=stdlib_socket.SOCK_STREAM, flags=stdlib_socket.AI_PASSIVE
    )
    sockets: list[trio.socket.SocketType] = []
    try:
        for family, type_, proto, _, sockaddr in found:
            socket = trio.socket.socket(family, type_, proto)
            sockets.append(socket)
            # Also after a restart, while connections of before are in TIME_WAIT.
            socket.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEADDR, 1)
            socket.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEPORT, 1)
            if family == stdlib_socket.AF_INET6:
                socket.setsockopt(stdlib_socket.IPPROTO_IPV6, stdlib_socket.IPV6_V6ONLY, 1)
            await socket.bind(sockaddr)
            socket.listen(_BACKLOG)
    except BaseException:
        for socket in sockets:
            socket.close()
        raise
    return [trio.SocketListener(socket) for socket in sockets]


def _bound_address(address: Address, socket: trio.socket.SocketType) -> Address:
    host, port, *_ = socket.getsockname()
    return replace(address, host=host, port=port, peer=None)
