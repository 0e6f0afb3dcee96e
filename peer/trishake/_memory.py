"""Memory: `mem://name`, within one run of Trio. No socket, no kernel: for tests, and for peers in one process."""

from __future__ import annotations

import errno
import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import trio

from ._addresses import Address
from ._transport import Bound, OneCaller, Place, Transport

_ROOM: Final = 64 * 1024
"""Bytes that a stream holds for a reader who does not read; then the writer waits."""

_BACKLOG: Final = 128
"""Dialers who wait to be accepted; one more waits outside."""


class Memory(Transport):
    """Names, and streams between those who listen under them and those who dial them.

    The names belong to the run of Trio; private: to this transport alone, which its peers must then share.
    """

    schemes = ("mem",)

    def __init__(self, *, private: bool = False) -> None:
        self._own: dict[str, _MemoryListener] | None = {} if private else None

    @property
    def _names(self) -> dict[str, _MemoryListener]:
        if self._own is not None:
            return self._own
        try:
            return _names_of_this_run.get()
        except LookupError:
            names: dict[str, _MemoryListener] = {}
            _names_of_this_run.set(names)
            return names

    async def connect(self, address: Address, place: Place, nursery: trio.Nursery) -> MemoryStream:
        """Raises ConnectionRefusedError where nobody listens under that name."""
        await trio.lowlevel.checkpoint()
        listener = self._names.get(address.host)
        if listener is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens under that name", address.host)
        return await listener.connect()

    async def listen(self, address: Address, nursery: trio.Nursery) -> Sequence[Bound]:
        """Raises OSError (EADDRINUSE) where the name is taken."""
        await trio.lowlevel.checkpoint()
        names = self._names
        if address.host in names:
            raise OSError(errno.EADDRINUSE, "somebody listens under that name", address.host)
        listener = names[address.host] = _MemoryListener(names, address.host)
        return [Bound(replace(address, peer=None), listener)]


class _MemoryListener(trio.abc.Listener["MemoryStream"]):
    def __init__(self, names: dict[str, _MemoryListener], name: str) -> None:
        self._names = names
        self._name = name
        self._dialers, self._arrivals = trio.open_memory_channel[MemoryStream](_BACKLOG)

    async def connect(self) -> MemoryStream:
        ours, theirs = memory_pair()
        try:
            await self._dialers.send(theirs)
        except trio.BrokenResourceError:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "the listener was closed", self._name) from None
        return ours

    async def accept(self) -> MemoryStream:
        return await self._arrivals.receive()

    async def aclose(self) -> None:
        if self._names.get(self._name) is self:
            del self._names[self._name]
            while self._arrivals.statistics().current_buffer_used:
                self._arrivals.receive_nowait().close()
            self._arrivals.close()
        await trio.lowlevel.checkpoint()


_names_of_this_run: Final = trio.lowlevel.RunVar[dict[str, _MemoryListener]]("trishake.names_in_memory")


class _Pipe:
    """One direction: a bounded buffer between a writer and a reader."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.writable = True
        """False once the writer has ended it: the reader gets the rest, then the end."""
        self.readable = True
        """False once the reader has left: nobody will take another byte."""
        self.reset = False
        """True once it was torn: what was not read is lost, and both ends are told."""
        self.changed: Final = trio.lowlevel.ParkingLot()

    @property
    def full(self) -> bool:
        return len(self.content) >= _ROOM

    def end(self) -> None:
        self.writable = False
        self.changed.unpark_all()

    def abandon(self) -> None:
        self.readable = False
        self.content.clear()
        self.changed.unpark_all()

    def tear(self) -> None:
        self.reset = True
        self.abandon()


class MemoryStream(trio.abc.HalfCloseableStream):
    """One end of two pipes. A cancelled `send_all` has sent some of it; a cancelled receive has lost nothing."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._sending = OneCaller("send")
        self._receiving = OneCaller("receive")
        self._closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._sending:
            await trio.lowlevel.checkpoint()
            self._check_writable()
            rest = memoryview(data)
            while rest:
                await self._wait_for_room()
                room = _ROOM - len(self._outgoing.content)
                self._outgoing.content += rest[:room]
                self._outgoing.changed.unpark_all()
                rest = rest[room:]

    async def wait_send_all_might_not_block(self) -> None:
        with self._sending:
            await trio.lowlevel.checkpoint()
            self._check_writable()
            await self._wait_for_room()

    async def _wait_for_room(self) -> None:
        while self._outgoing.full and self._outgoing.readable:
            await self._outgoing.changed.park()
            self._check_writable()
        if not self._outgoing.readable:
            raise trio.BrokenResourceError("the other end of this stream was closed")

    def _check_writable(self) -> None:
        if self._closed or not self._outgoing.writable:
            raise trio.ClosedResourceError("this stream was closed here, or its sending half")

    async def send_eof(self) -> None:
        """End our direction. Again, it does nothing."""
        with self._sending:
            await trio.lowlevel.checkpoint()
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed here")
            self._outgoing.end()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._receiving:
            await trio.lowlevel.checkpoint()
            pipe = self._incoming
            while not (self._closed or pipe.content or pipe.reset) and pipe.writable:
                await pipe.changed.park()
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed here")
            if pipe.reset:
                raise trio.BrokenResourceError("the other end of this stream was reset")
            data = bytes(pipe.content[:max_bytes])
            del pipe.content[:max_bytes]
            pipe.changed.unpark_all()
            return data

    def close(self) -> None:
        """As `aclose`, without a checkpoint."""
        self._closed = True
        self._outgoing.end()
        self._incoming.abandon()

    def reset(self) -> None:
        """End it as a crash does: what is under way is lost, and whoever uses the other end is told."""
        self.close()
        self._incoming.tear()
        self._outgoing.tear()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


def memory_pair() -> tuple[MemoryStream, MemoryStream]:
    """Two ends of one stream."""
    here, there = _Pipe(), _Pipe()
    return MemoryStream(here, there), MemoryStream(there, here)
