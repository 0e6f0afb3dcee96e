"""Registry: the connections of one peer by identity, and which of two that compete is kept (section 11).

    a second dial    while the first connection lives, it is a DUPLICATE; if it is dead, it is REPLACED
    crossing dials   when two peers dial each other at once, the dial of the one with the larger id is kept

Every connection that opens comes here, and every dial under way is known here.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Self

import trio

from trishake_protocol import CloseCode, PeerId, Role, VerdictCode

from ._connection import Connection
from ._errors import ConnectionClosed
from ._greeting import Greeter
from ._limits import Limits
from ._trust import Rejection, reject


class Dial:
    """One greeting of ours under way, as its initiator."""

    def __init__(self, greeter: Greeter) -> None:
        self.greeter = greeter
        self.meanwhile: dict[PeerId, Connection] = {}
        """What others have opened to us since this dial began."""
        self.kept: Connection | None = None
        """The other side's own dial came first: its connection is kept, and this dial ends."""
        self.ready = False
        self.ended = trio.Event()

    @property
    def target(self) -> PeerId | None:
        """To whom it goes: who was dialed, or has answered; None while nobody knows."""
        return self.greeter.trace.peer

    def overtake(self, connection: Connection) -> None:
        """End it, in favour of this connection with the same peer."""
        self.kept = connection
        self.greeter.overtaken = True
        self.greeter.scope.cancel()


class Registry:
    """The connections and dials of one peer. own_id: who we are, which decides between crossing dials.

    close_soon: told of a connection that has to go, and with which code.
    """

    def __init__(
        self, own_id: PeerId, limits: Limits, close_soon: Callable[[Connection, CloseCode], None]
    ) -> None:
        self._own_id = own_id
        self._limits = limits
        self._close_soon = close_soon
        self._connections: dict[PeerId, list[Connection]] = {}
        self._dials: dict[bytes, Dial] = {}
        """By the ephemeral key in their SYN."""
        self._turns: dict[PeerId, trio.lowlevel.ParkingLot] = {}
        """Of identities whose turn it is; who else waits for theirs."""
        self._watchers: weakref.WeakSet[Arrivals] = weakref.WeakSet()
        self._changed = trio.lowlevel.ParkingLot()
        self._left = False

    # --- connections ------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Connection]:
        return iter([connection for kept in self._connections.values() for connection in kept])

    def newest(self, peer: PeerId) -> Connection | None:
        kept = self._connections.get(peer)
        return kept[-1] if kept else None

    def add(self, connection: Connection) -> None:
        """A connection is open. Whatever it makes superfluous goes; one that we dialed is to be settled."""
        self._connections.setdefault(connection.peer, []).append(connection)
        if connection.role is Role.RESPONDER:
            if self._is_excess(connection) and self._own_id.key > connection.peer.key:
                # Our own dial was READY while we said READY to theirs, and is kept.
                self._replace(connection)
                return
            self._overtake_dials(connection)
        if self._dialed_first(connection) is None:
            self._trim(connection.peer)
        for watcher in self._watchers:
            watcher.pending[connection] = None
        self._changed.unpark_all()

    def discard(self, connection: Connection) -> None:
        kept = self._connections.get(connection.peer, [])
        if connection in kept:
            kept.remove(connection)
            if not kept:
                del self._connections[connection.peer]
        for watcher in self._watchers:
            watcher.pending.pop(connection, None)

    def leave(self) -> None:
        """There will be no more of them: who watches arrivals has seen the last."""
        self._left = True
        self._changed.unpark_all()

    def arrivals(self) -> Arrivals:
        arrivals = Arrivals(self)
        self._watchers.add(arrivals)
        return arrivals

    async def wait_change(self) -> bool:
        """Wait until a connection opens. False if there will be no more."""
        if not self._left:
            await self._changed.park()
        return not self._left

    async def settle(self, connection: Connection) -> Connection:
        """Which connection a dial gives that has opened this one. A checkpoint only if others are in question.

        Where both dials of a crossing have ended READY, the larger id's is kept, and its side closes the other.
        """
        peer = connection.peer
        if peer in self._turns and self._own_id.key < peer.key:
            async with self.turn(peer):  # our listener may be saying READY to theirs
                pass
        if (theirs := self._dialed_first(connection)) is not None:
            # They have found it dead, or do not know yet that it is open; they do when their greeting is over.
            with trio.CancelScope(deadline=theirs.opened_at + self._limits.greeting):
                try:
                    await theirs.ping()
                except ConnectionClosed:
                    pass
                else:
                    self._replace(connection)
        self._trim(peer)
        kept = self._connections.get(peer, [])
        return connection if connection in kept or not kept else kept[-1]

    def _is_excess(self, connection: Connection) -> bool:
        kept = self._connections.get(connection.peer, [])
        return connection in kept and len(kept) > self._limits.connections_per_identity

    def _dialed_first(self, connection: Connection) -> Connection | None:
        """Whose place this one would take, though the larger id has dialed it and we, the smaller, this one."""
        if connection.role is Role.INITIATOR and self._own_id.key < connection.peer.key:
            oldest = self._connections[connection.peer][0] if self._is_excess(connection) else None
            return oldest if oldest is not None and oldest.role is Role.RESPONDER else None
        return None

    def _trim(self, peer: PeerId) -> None:
        """The oldest are dead for the other side, or lost to ours in a crossing."""
        while len(kept := self._connections.get(peer, [])) > self._limits.connections_per_identity:
            self._replace(kept[0])

    def _replace(self, connection: Connection) -> None:
        self.discard(connection)
        self._close_soon(connection, CloseCode.REPLACED)

    # --- a greeting that asks to become one -------------------------------------------------------------

    @asynccontextmanager
    async def turn(self, peer: PeerId) -> AsyncGenerator[None]:
        """One greeting of an identity at a time is decided, until its connection is there or is not."""
        turn = self._turns.get(peer)
        if turn is None:
            turn = self._turns[peer] = trio.lowlevel.ParkingLot()
        else:
            await turn.park()  # whoever wakes us has kept the turn for us
        try:
            yield
        finally:
            if turn:
                turn.unpark()
            else:
                del self._turns[peer]

    async def objection(self, peer: PeerId, since: float) -> Rejection | None:
        """Why no further connection with this identity, which dials us, may open; None if it may.

        since: when its greeting began. To be asked in its turn. It takes at most `Limits.crossing` and
        `Limits.duplicate_ping`.
        """
        if self._own_id.key > peer.key and await self._own_dial_gets_there(peer, since):
            return reject(VerdictCode.CROSSING)
        while len(kept := self._connections.get(peer, [])) >= self._limits.connections_per_identity:
            oldest = kept[0]
            # One that has opened since they began is not a dead one which they would replace.
            if _crosses(oldest, since) or await self._is_alive(oldest):
                return reject(VerdictCode.DUPLICATE)
            self._replace(oldest)  # if it has not ended by now: it may have, while it was asked
        return None

    async def _own_dial_gets_there(self, peer: PeerId, since: float) -> bool:
        """Of two dials that cross ours is kept; hold the verdict until it is known how ours ends."""
        for connection in reversed(self._connections.get(peer, [])):
            if connection.opened_at <= since:
                break  # and so are all before it
            if _crosses(connection, since):
                return True
        with trio.move_on_after(self._limits.crossing):
            for dial in list(self._dials.values()):
                if dial.target == peer:
                    await dial.ended.wait()
                    if dial.ready:
                        return True
        return False

    async def _is_alive(self, connection: Connection) -> bool:
        with trio.move_on_after(self._limits.duplicate_ping):
            try:
                await connection.ping()
            except ConnectionClosed:
                return False
            return True
        return False

    # --- dials ------------------------------------------------------------------------------------------

    @contextmanager
    def dialing(self, greeter: Greeter) -> Generator[Dial]:
        """A dial is under way, as long as the block lasts."""
        ephemeral_key = greeter.session.ephemeral_key
        dial = self._dials[ephemeral_key] = Dial(greeter)
        try:
            yield dial
        finally:
            del self._dials[ephemeral_key]
            dial.ended.set()

    def is_own_dial(self, ephemeral_key: bytes) -> bool:
        """Whether this SYN is of a dial of ours: then we have met ourselves, and the dial is told so."""
        dial = self._dials.get(ephemeral_key)
        if dial is None:
            return False
        dial.greeter.met_itself = True
        return True

    def end_dials(self) -> None:
        """We are leaving."""
        for dial in self._dials.values():
            dial.greeter.leave()

    async def wait_dials_ended(self) -> None:
        """Wait for those that are under way now."""
        for dial in list(self._dials.values()):
            await dial.ended.wait()

    async def kept_instead(self, dial: Dial, reason: object) -> Connection | None:
        """The connection that a dial which failed with this reason resolves to, if there is one."""
        peer = dial.target
        if peer is None:
            return None
        kept: Connection | None = None
        if reason is VerdictCode.DUPLICATE:
            dial.ended.set()  # it does not get there: a verdict need not be held for it, nor that one's turn
            if peer not in dial.meanwhile and peer in self._turns:
                # They may have heard our listener's READY before it knows that it has written it.
                with trio.move_on_after(self._limits.crossing):
                    async with self.turn(peer):
                        pass
            kept = dial.meanwhile.get(peer)
        elif reason is VerdictCode.CROSSING:
            # They keep their own dial. Our listener has said READY to it, before this dial began even, or will.
            with trio.move_on_after(self._limits.crossing):
                while (kept := dial.kept or self._dialed_by(peer)) is None and await self.wait_change():
                    pass
        return kept if kept is not None and kept.is_open else None

    def _dialed_by(self, peer: PeerId) -> Connection | None:
        """The newest connection that they opened to us."""
        kept = self._connections.get(peer, [])
        return next((one for one in reversed(kept) if one.role is Role.RESPONDER and one.is_open), None)

    def _overtake_dials(self, connection: Connection) -> None:
        for dial in self._dials.values():
            dial.meanwhile[connection.peer] = connection
            # While the dial's policy is at work, it goes on: it may be another one than has let them in here.
            if (
                dial.target == connection.peer
                and self._own_id.key < connection.peer.key
                and not dial.greeter.deciding
            ):
                dial.overtake(connection)


def _crosses(connection: Connection, since: float) -> bool:
    """Whether a dial of ours has opened it while the other side's greeting, begun then, was under way."""
    return connection.role is Role.INITIATOR and connection.opened_at > since and connection.is_open


class Arrivals:
    """Connections, each once: those that are open, then each as it opens. Ends when the peer leaves.

    Whoever is slow misses those that have ended meanwhile, and holds nobody up.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.pending: dict[Connection, None] = dict.fromkeys(registry)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Connection:
        if self.pending:
            await trio.lowlevel.checkpoint()
        while not self.pending:
            if not await self._registry.wait_change():
                raise StopAsyncIteration
        connection = next(iter(self.pending))
        del self.pending[connection]
        return connection
