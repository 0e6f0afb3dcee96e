"""Link: what bytes go through on their way from one peer to another, and where they stop.

Between a dialer and a listener stands a `Line`: it takes the bytes at one end and hands them on at the other, in
order. What befalls them is said by two links, one for each direction, which serve every connection between those
two peers. Bytes are counted in each connection from its first one.
"""

from __future__ import annotations

import math
import os
import random
import socket as stdlib_socket
import struct
from contextlib import suppress
from typing import Final, NamedTuple, Self

import trio

from .._memory import MemoryStream

_CHUNK: Final = 64 * 1024
"""Bytes that are taken at once."""

_UNDER_WAY: Final = 256 * 1024
"""Bytes that are on their way, in each direction; then the sender waits."""

_APART: Final = 1e-6
"""Seconds between two pieces of what was split. On the virtual clock, the one before has been read by then."""

_SMALL: Final = 64
"""Bytes of the largest piece, where the seed decides."""

_SMOOTH: Final = 0.05
"""Seconds that a piece takes at most where there is little bandwidth."""

End = MemoryStream | trio.SocketStream
"""An end of a line, the kit's own: memory, or a socket."""


class Link:
    """The way from one peer to another, on every connection between them, whoever has dialed.

    What is said of it holds from now on, for connections that are open too; each method returns the link, so that
    one can be said behind another. after, byte: bytes of this direction, counted from 0 in each connection. What
    is to happen behind so many of them happens when the last of them has arrived, and at once where more have
    been sent already. Seconds, bytes and rates that make no sense raise ValueError. `reverse` is the way back.
    """

    reverse: Link

    def __init__(self, sender: str, receiver: str) -> None:
        self.sender: Final = sender
        self.receiver: Final = receiver
        self.lines: Final[dict[Line, None]] = {}
        """The connections that are open."""
        self.within = 0.0
        """Seconds, as `VirtualNetwork.reorder` has them; no `heal` ends that."""
        self._clear()

    def _clear(self) -> None:
        self.seconds = 0.0
        self.spread = 0.0
        self.rate: float | None = None
        self.piece: int | None = None
        self.flipped: dict[int, int] = {}
        self.stalls_at = math.inf
        self.cut_at = math.inf
        self.reset_at = math.inf
        self.lost_from = math.inf
        self.refuses = False

    def delay(self, seconds: float, *, spread: float = 0.0) -> Self:
        """What is sent arrives so much later, and up to `spread` seconds more, never before what was sent before.

        A dialer waits for the way there and the way back before it is connected.
        """
        self.seconds, self.spread = check_seconds(seconds), check_seconds(spread)
        return self._changed()

    def bandwidth(self, rate: float) -> Self:
        """No more than so many bytes a second arrive, on each connection."""
        if not 0 < rate < math.inf:
            raise ValueError(f"a bandwidth is bytes a second, more than 0, not {rate}; `stall` lets nothing pass")
        self.rate = rate
        return self._changed()

    def split(self, size: int | None = None) -> Self:
        """What is sent arrives in pieces of so many bytes at most; of 1 to 64, as the seed has it, by default."""
        if size is not None and size < 1:
            raise ValueError(f"a piece has 1 byte at least, not {size}")
        self.piece = size or 0
        return self._changed()

    def corrupt(self, byte: int, mask: int = 0x01) -> Self:
        """This byte arrives with the bits of the mask turned over."""
        if not 1 <= mask <= 0xFF:
            raise ValueError(f"a mask is of 8 bits, one of them set at least: 0x01 to 0xFF, not {mask:#04x}")
        self.flipped[_check_bytes(byte)] = mask
        return self._changed()

    def stall(self, after: int = 0) -> Self:
        """Nothing more passes, and the sender's buffers fill; until `resume`. What is on its way arrives."""
        self.stalls_at = _check_bytes(after)
        return self._changed()

    def resume(self) -> Self:
        """What was stalled passes again."""
        self.stalls_at = math.inf
        return self._changed()

    def cut(self, after: int = 0) -> Self:
        """The connection ends, for both, as if either had closed it: what has arrived can be read, and the end."""
        self.cut_at = _check_bytes(after)
        return self._changed()

    def reset(self, after: int = 0) -> Self:
        """The connection breaks, for both, as when a machine in between has forgotten it."""
        self.reset_at = _check_bytes(after)
        return self._changed()

    def half_open(self, after: int = 0) -> Self:
        """What is sent is lost, and so is the end of the connection: nobody is told. So it is when one of the two
        has crashed, and both links of a connection are half open when its cable is out.
        """
        self.lost_from = _check_bytes(after)
        return self._changed()

    def refuse(self) -> Self:
        """Nobody listens there, for this dialer."""
        self.refuses = True
        return self._changed()

    def heal(self) -> Self:
        """As if nothing had ever been said of it. What has ended or is lost stays so."""
        self._clear()
        return self._changed()

    def _changed(self) -> Self:
        for line in self.lines:
            line.look_again()
        return self

    def next_mark(self, position: int) -> float:
        """The first byte from here on that is not passed along with those before it."""
        marks = (self.stalls_at, self.cut_at, self.reset_at, self.lost_from)
        return min((mark for mark in marks if mark > position), default=math.inf)

    def changed_bytes(self, data: bytes, position: int) -> bytes:
        """What becomes of these, the first of which is the byte of that number."""
        flipped = [byte for byte in self.flipped if position <= byte < position + len(data)]
        if not flipped:
            return data
        changed = bytearray(data)
        for byte in flipped:
            changed[byte - position] ^= self.flipped[byte]
        return bytes(changed)

    def __str__(self) -> str:
        """What is the matter with it; empty if nothing is."""
        facts = {
            f"delay {self.seconds:g} s": self.seconds,
            f"spread {self.spread:g} s": self.spread,
            f"reordered within {self.within:g} s": self.within,
            f"bandwidth {self.rate} bytes/s": self.rate,
            f"split in pieces of {self.piece or f'1 to {_SMALL}'}": self.piece is not None,
            f"corrupts {', '.join(f'byte {byte}' for byte in sorted(self.flipped))}": self.flipped,
            f"stalls after {self.stalls_at} bytes": self.stalls_at < math.inf,
            f"cut after {self.cut_at} bytes": self.cut_at < math.inf,
            f"reset after {self.reset_at} bytes": self.reset_at < math.inf,
            f"half open after {self.lost_from} bytes": self.lost_from < math.inf,
            "refuses": self.refuses,
        }
        return ", ".join(text for text, holds in facts.items() if holds)

    def __repr__(self) -> str:
        return f"<Link {self.sender} → {self.receiver}: {str(self) or 'as it should be'}>"


def check_seconds(seconds: float) -> float:
    """Raises ValueError where they are none to wait for."""
    if not 0 <= seconds < math.inf:
        raise ValueError(f"seconds are 0 or more, and not without end, not {seconds}; `stall` lets nothing pass")
    return seconds


def _check_bytes(number: int) -> int:
    if number < 0:
        raise ValueError(f"bytes are counted from 0 in each connection, not from its end: {number}")
    return number


class _Piece(NamedTuple):
    due: float
    """When it arrives, on Trio's clock."""
    data: bytes
    """Empty: the end."""


class Line:
    """One connection: the dialer's end of it and the listener's, and what is on its way between them.

    near, far: the line's own ends, next to the dialer and next to the listener. seed: of this line alone, so that
    what comes of it does not depend on what other lines do.
    """

    def __init__(self, there: Link, near: End, far: End, seed: random.Random) -> None:
        self._ends = (near, far)
        self._scope = trio.CancelScope()
        self._broken = False
        self._ways = (
            _Way(self, there, near, far, random.Random(seed.random())),
            _Way(self, there.reverse, far, near, random.Random(seed.random())),
        )

    async def run(self) -> None:
        """Carry, until both directions have ended, or the line has."""
        for way in self._ways:
            way.link.lines[self] = None
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for way in self._ways:
                        nursery.start_soon(way.run)
        finally:
            for way in self._ways:
                way.link.lines.pop(self, None)
            for end in self._ends:
                (reset_stream if self._broken else _close)(end)

    def look_again(self) -> None:
        """One of its links has changed."""
        for way in self._ways:
            way.look_again()

    def look_who_is_left(self) -> None:
        """End, once both directions have; or one has, and nobody is there any more to read the other."""
        if all(way.arrived or way.unread for way in self._ways) and any(way.arrived for way in self._ways):
            self.end()

    def end(self) -> None:
        """For both: what has arrived can still be read, and then the end."""
        self._scope.cancel()

    def reset(self) -> None:
        """For both: what was not read is lost."""
        self._broken = True
        self._scope.cancel()


class _Way:
    """One direction of a line. What a link does to bytes it does as they enter; from there on they only arrive."""

    def __init__(self, line: Line, link: Link, source: End, sink: End, seed: random.Random) -> None:
        self.link: Final = link
        self.arrived = False
        """Whether the end has."""
        self.unread = False
        """Whether nobody is there any more who could read."""
        self._line = line
        self._source = source
        self._sink = sink
        self._seed = seed
        self._apart = _APART if isinstance(sink, MemoryStream) else 0.0  # between sockets, it is waited for
        self._position = 0
        """Bytes that have been taken."""
        self._over = False
        """Whether the sender has ended, or has broken off: that has been taken too."""
        self._breaks_at = math.inf
        """When the receiver learns that the sender has broken off."""
        self._free_at = -math.inf
        """When there is bandwidth for the next byte."""
        self._last_due = -math.inf
        self._under_way = 0
        """Bytes that have been taken, and not been handed on."""
        self._handed_on = trio.lowlevel.ParkingLot()
        self._waiting = trio.CancelScope()
        # Without a bound of its own: bytes have one, and the end is always welcome.
        self._depart, self._arrive = trio.open_memory_channel[_Piece](math.inf)

    def look_again(self) -> None:
        self._waiting.cancel()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take)
            await self._hand_on()

    async def _take(self) -> None:
        """What the sender sends, as its link has it, until the line has ended."""
        while True:
            data: bytes | None = None
            with trio.CancelScope() as self._waiting:  # a change of the link cancels it: nothing is lost by that
                data = await self._next()
            if data is not None:
                self._put_on_its_way(data)

    async def _next(self) -> bytes:
        """Up to the next byte that the link has something to say of."""
        link = self.link
        if self._position >= (mark := min(link.reset_at, link.cut_at)):
            if self._position == mark:
                await self._all_have_arrived()
            if link.reset_at <= link.cut_at:
                self._line.reset()
            else:
                self._line.end()
            await trio.sleep_forever()
        if self._breaks_at < math.inf:
            await trio.sleep_until(self._breaks_at)
            self._line.reset()
        if self._over or self._position >= link.stalls_at:
            await trio.sleep_forever()
        while self._under_way >= _UNDER_WAY:
            await self._handed_on.park()
        most = min(_CHUNK, link.next_mark(self._position) - self._position)
        if link.piece is not None:
            most = min(most, link.piece or self._seed.randint(1, _SMALL))
        if link.rate is not None:
            most = min(most, max(1, int(link.rate * _SMOOTH)))
            await trio.sleep_until(self._free_at)
        try:
            return await self._source.receive_some(int(most))
        except trio.BrokenResourceError:
            self._over = True
            if self._position < link.lost_from:
                self._breaks_at = max(trio.current_time() + link.seconds, self._last_due) + _APART
            self._waiting.cancel()
            await trio.sleep_forever()
            raise

    async def _all_have_arrived(self) -> None:
        while self._under_way:
            await self._handed_on.park()
        if self._position:
            await trio.sleep(_APART)  # whoever waits for them reads them first

    def _put_on_its_way(self, data: bytes) -> None:
        link, now = self.link, trio.current_time()
        position = self._position
        self._position += len(data)
        self._over = not data
        if position >= link.lost_from:
            return  # nobody is told, not of the end either
        if link.rate is not None:
            self._free_at = now = now + len(data) / link.rate
        due = now + link.seconds + self._seed.uniform(0, link.spread + link.within)
        if link.piece is not None:
            due = max(due, self._last_due + self._apart)
        self._last_due = max(due, self._last_due)
        self._under_way += len(data)
        self._depart.send_nowait(_Piece(self._last_due, link.changed_bytes(data, position)))

    async def _hand_on(self) -> None:
        async for due, data in self._arrive:
            await trio.sleep_until(due)
            try:
                if not data:
                    await self._sink.send_eof()
                    break
                await self._sink.send_all(data)
            except trio.BrokenResourceError:  # its reader has closed: what else comes is nobody's
                self.unread = True
                self._line.look_who_is_left()
                if not data:
                    break
            self._under_way -= len(data)
            self._handed_on.unpark_all()
        self.arrived = True
        self._line.look_who_is_left()


def _close(end: End) -> None:
    if isinstance(end, MemoryStream):
        end.close()
        return
    with suppress(OSError):  # what was not read would become a reset for the other side
        end.socket.shutdown(stdlib_socket.SHUT_WR)
        while os.read(end.socket.fileno(), _CHUNK):
            pass
    end.socket.close()


def reset_stream(end: End) -> None:
    """End it as a crash does: what is under way is lost, and the other end is told."""
    if isinstance(end, MemoryStream):
        end.reset()
        return
    with suppress(OSError):
        end.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.socket.close()
