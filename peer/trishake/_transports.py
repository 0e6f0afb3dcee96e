"""TCP: how a stream to an address is opened, and how a listener is bound."""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket
from typing import Final

import trio

from ._addresses import Address
from ._errors import Cause, NoResponse, Phase
from ._limits import Limits

_STAGGER: Final = 0.25
"""Seconds before the next address is tried beside those under way (RFC 8305, section 5)."""

_CAUSES: Final = {
    errno.ECONNREFUSED: Cause.REFUSED,
    errno.ECONNRESET: Cause.RESET,
    errno.ETIMEDOUT: Cause.TIMEOUT,
}

_SockAddr = tuple[object, ...]


async def open_tcp(address: Address, limits: Limits) -> trio.SocketStream:
    """A connected stream, within `limits.connect`. Raises NoResponse with phase RESOLVE or CONNECT."""
    started = trio.current_time()
    phase = Phase.RESOLVE
    try:
        with trio.fail_after(limits.connect):
            candidates = await _resolve(address)
            phase = Phase.CONNECT
            return await _connect(candidates)
    except trio.TooSlowError:
        cause, detail = Cause.TIMEOUT, None
    except stdlib_socket.gaierror as error:
        cause, detail = Cause.UNREACHABLE, error.strerror
    except OSError as error:
        cause = _CAUSES.get(error.errno or 0, Cause.UNREACHABLE)
        detail = os.strerror(error.errno) if error.errno and cause is Cause.UNREACHABLE else None
    raise NoResponse(phase, cause, elapsed=trio.current_time() - started, detail=detail)


async def _resolve(address: Address) -> list[tuple[int, _SockAddr]]:
    """(family, socket address) of each place the name stands for, in the system's order of preference."""
    try:
        found = await trio.socket.getaddrinfo(address.host, address.port, type=stdlib_socket.SOCK_STREAM)
    except UnicodeError as error:  # a label that IDNA cannot encode
        raise stdlib_socket.gaierror(stdlib_socket.EAI_NONAME, f"no name to look up: {error}") from None
    if not found:
        raise stdlib_socket.gaierror(stdlib_socket.EAI_NONAME, "the name stands for no address")
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]


async def _connect_to(family: int, sockaddr: _SockAddr) -> trio.socket.SocketType:
    socket = trio.socket.socket(family, stdlib_socket.SOCK_STREAM)
    try:
        await socket.connect(sockaddr)
    except BaseException:
        socket.close()
        raise
    return socket


async def _connect(candidates: list[tuple[int, _SockAddr]]) -> trio.SocketStream:
    """Race the candidates, each a little after the one before (RFC 8305). Raises the first one's OSError."""
    winner: list[trio.socket.SocketType] = []
    errors: dict[int, OSError] = {}
    failed = [trio.Event() for _ in candidates]

    async def attempt(index: int) -> None:
        try:
            socket = await _connect_to(*candidates[index])
        except OSError as error:
            errors[index] = error
            failed[index].set()
        else:
            if winner:  # two in one tick
                socket.close()
            else:
                winner.append(socket)
                nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for index in range(len(candidates)):
                nursery.start_soon(attempt, index)
                if index + 1 < len(candidates):
                    with trio.move_on_after(_STAGGER):
                        await failed[index].wait()
    except BaseException:
        for socket in winner:  # connected, and cancelled before anyone had it
            socket.close()
        raise
    if winner:
        return trio.SocketStream(winner[0])
    raise errors[min(errors)]


async def listen_tcp(address: Address) -> list[trio.SocketListener]:
    """A bound listener for each place the name stands for. Raises OSError."""
    return await trio.open_tcp_listeners(address.port, host=address.host)
