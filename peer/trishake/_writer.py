"""Writer: when what a session wants to say goes to the wire, and who waits for that.

    Stream.send_all → Writer.flush → Wire.write_now → socket           as much as it takes: at once, by the caller
    Stream.send_all → Writer.flush ⇢ one task that writes the rest     and what comes close together

So a lone message is on the socket before its `send_all` returns, and many small ones share a record and a system
call. Nobody who sends waits in here but for room.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from trishake_protocol import Session, Streams

from ._wire import Wire

CHUNK: Final = 64 * 1024
"""Bytes of one stream that are queued at a time: then it is another stream's turn."""

_FULL: Final = 2 * CHUNK
"""Bytes queued on one connection, from which on who sends has to wait."""

_CLOSE_TOGETHER: Final = 50e-6
"""Seconds. A write that follows another within this time is left to the task, and gathers more."""

_GATHERED: Final = 16 * 1024
"""Bytes that are worth a record: no more are waited for."""

_GATHERING_TURNS: Final = 32
"""Turns of Trio's loop that the task lets pass at most, as long as they bring more."""


class Writer:
    """The one place from which an open connection is written to.

    on_failure: called once, when the transport breaks.
    """

    def __init__(
        self,
        session: Session,
        streams: Streams,
        wire: Wire,
        nursery: trio.Nursery,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._session = session
        self._streams = streams
        self._wire = wire
        self._nursery = nursery
        self._on_failure = on_failure
        self._room = trio.lowlevel.ParkingLot()
        self._running = False
        self._stopped = False
        self._last = -1.0  # when we wrote last, on Trio's clock

    @property
    def crowded(self) -> bool:
        """Whether who sends has to wait: so much is queued, or others wait already."""
        return bool(self._room) or self._streams.unsent + self._wire.backlog >= _FULL

    async def wait_turn(self) -> None:
        """Wait in line until there is room for CHUNK bytes more, or the connection has ended."""
        await self._room.park()

    def flush(self) -> None:
        """Write what is queued: at once, as much as the transport takes, or by the task, what is left or follows
        closely. No checkpoint."""
        if self._running or self._stopped:
            return
        if self._wire.tears or self._follows_closely():
            self.flush_soon()
            return
        self._wire.queue(self._session)
        try:
            written = self._wire.write_now()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._fail(error)
            return
        self._last = trio.current_time()
        if not written:
            self.flush_soon()
        if self._room:
            self._admit()

    def flush_soon(self) -> None:
        """Have what is queued written by a task of its own. No checkpoint."""
        if not self._running and not self._stopped:
            self._running = True
            self._nursery.start_soon(self._write)

    def stop(self) -> None:
        """Write no more: the connection's last words are written past us."""
        self._stopped = True
        self.wake()

    def wake(self) -> None:
        """Everyone who waits looks again."""
        self._room.unpark_all()

    def _admit(self) -> None:
        """Something was written: as many of those who wait as there is room for, first come first served."""
        if self._running:
            self._room.unpark(count=max(0, _FULL - self._streams.unsent - self._wire.backlog) // CHUNK)
        else:
            self.wake()  # nobody will write again until somebody sends

    def _follows_closely(self) -> bool:
        return self._streams.unsent < _GATHERED and trio.current_time() - self._last < _CLOSE_TOGETHER

    async def _write(self) -> None:
        try:
            while not self._stopped:
                await self._gather()
                self._wire.queue(self._session)
                if not self._wire.backlog:
                    return
                await self._wire.flush()
                self._last = trio.current_time()
                self._admit()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._fail(error)
        finally:
            self._running = False
            self._admit()

    async def _gather(self) -> None:
        """Let those who are just sending add to what is queued, as long as two turns bring more."""
        idle = 0
        for _ in range(_GATHERING_TURNS):
            before = self._streams.unsent
            if before >= _GATHERED:
                return
            await trio.lowlevel.cancel_shielded_checkpoint()
            idle = idle + 1 if self._streams.unsent == before else 0
            if idle == 2:
                return

    def _fail(self, error: Exception) -> None:
        if not self._stopped:
            self.stop()
            self._on_failure(error)
