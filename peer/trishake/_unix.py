"""Unix: `unix:///path/of/a/socket`, between processes of one machine."""

from __future__ import annotations

import errno
import logging
import os
import socket as stdlib_socket
import stat
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import trio

from ._addresses import Address
from ._events import log_event
from ._transport import Bound, Place, Transport

_BACKLOG: Final = 128
"""Dialers who wait to be accepted; one more waits outside."""

_KNOCK_AGAIN: Final = 0.05
"""Seconds before a dialer tries again whom a full backlog kept out: the system tells nobody when there is room."""


async def connect(path: str) -> trio.SocketStream:
    """A connected socket; where the backlog is full, once there is room. Raises OSError."""
    while True:
        socket = trio.socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_STREAM)
        try:
            await socket.connect(path)
            if _connected(socket):
                return trio.SocketStream(socket)
        except ConnectionRefusedError:  # as from a socket that nobody listens at
            socket.close()
            if not stat.S_ISSOCK(os.stat(path).st_mode):
                raise OSError(errno.ENOTSOCK, "a file is there that is no socket", path) from None
            raise
        except BaseException:
            socket.close()
            raise
        socket.close()
        await trio.sleep(_KNOCK_AGAIN)


class Unix(Transport):
    """A Unix socket. Who may dial is a matter of the file's mode: by default, what the umask gives it.

    mode: of the files of sockets to listen at; 0o600 lets in nobody but ourselves.
    """

    schemes = ("unix",)

    def __init__(self, *, mode: int | None = None) -> None:
        self._mode = mode

    async def connect(self, address: Address, place: Place, nursery: trio.Nursery) -> trio.SocketStream:
        """A connected socket. Raises OSError."""
        return await connect(address.path)

    async def listen(self, address: Address, nursery: trio.Nursery) -> Sequence[Bound]:
        """One bound socket; its file is removed with it.

        A socket file that nobody listens at is replaced. Raises OSError: where somebody listens, and where a
        file stands that is no socket.
        """
        _make_way(address.path)
        socket = trio.socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_STREAM)
        try:
            await socket.bind(address.path)
            if self._mode is not None:
                os.chmod(address.path, self._mode)  # before anybody can connect
            socket.listen(_BACKLOG)
            listener = _UnixListener(trio.SocketListener(socket), address.path)
        except BaseException:
            socket.close()
            raise
        return [Bound(replace(address, peer=None), listener)]


class _UnixListener(trio.abc.Listener[trio.SocketStream]):
    """A listener that removes its file when it is closed, unless another one has taken its place."""

    def __init__(self, listener: trio.SocketListener, path: str) -> None:
        self._listener = listener
        self._path = path
        self._file = _identity(path)

    async def accept(self) -> trio.SocketStream:
        return await self._listener.accept()

    async def aclose(self) -> None:
        # The file first: once the socket is closed, another process may put its own in this place.
        if self._file is not None and _identity(self._path) == self._file:
            try:
                os.unlink(self._path)
            except OSError as error:
                # The directory is not ours to change any more: who listens there next replaces the file.
                text = f"a socket file is left behind: {error}"
                log_event(logging.WARNING, "unix.left_behind", text, path=self._path)
        self._file = None
        await self._listener.aclose()


def _identity(path: str) -> tuple[int, int] | None:
    """Which file it is: device and inode."""
    try:
        status = os.lstat(path)
    except OSError:  # gone, or not to be seen any more
        return None
    return status.st_dev, status.st_ino


def _connected(socket: trio.socket.SocketType) -> bool:
    """False where the backlog was full: Linux says EAGAIN then, which to Trio means that it is under way."""
    try:
        socket.getpeername()
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        return False
    return True


def _make_way(path: str) -> None:
    """Remove a socket file that was left behind. Raises OSError where there is anything else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "a file is there that is no socket", path)
    # A datagram socket connects to no stream socket. It is told which of the two keeps it from that, a socket of
    # another type or none at all, and whoever listens there does not notice it.
    with stdlib_socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
    raise OSError(errno.EADDRINUSE, "somebody listens there", path)
