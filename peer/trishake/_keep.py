"""Keeper: a connection that is held, and dialed again when it has ended."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from trishake_protocol import CloseCode, PeerId, VerdictCode, code_name

from ._addresses import Address
from ._connection import Connection
from ._errors import ChangedIdentity, ConnectionClosed, DialError, Rejected, Untrusted
from ._events import log_event
from ._limits import Limits
from ._registry import Registry

_FINAL: Final = {CloseCode.PROTOCOL, CloseCode.REPLACED, CloseCode.FLOW_CONTROL, CloseCode.POLICY}
"""Codes with which the other side says that it will not go better with another connection."""

_LONGEST_ASKED: Final = 24 * 60 * 60
"""Seconds that whom we dial can have us wait: room for what is mended overnight, and none to wait for ever."""

_ENOUGH: Final = 64
"""Failures beyond which a pause grows no more, whatever the limits are."""


class _Route:
    """One address, and how it went there lately."""

    __slots__ = ("address", "due", "failures")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.failures = 0
        self.due = 0.0


class Keeper:
    """Holds a connection to one peer, from `Peer.keep` on until it is stopped or the peer leaves its block.

    It dials one address at a time, the one whose pause is over first, and takes what is there if the other side
    has dialed us. It gives up where trying again is no use, and only on the word of one who has proved who it is:
    a rejection that is not `retryable`, by whom the address names, ends the keeper, and so does a CLOSE that says
    so (PROTOCOL, FLOW_CONTROL, POLICY, or REPLACED by somebody else with our identity); our own policy's no to
    whom the address names ends that address.

    Anything else anyone on the path can bring about: an ALERT, another protocol, another identity. It makes the
    pause grow, as silence does. Who says when to come back is not dialed before: for a day at most, and where it
    is not under the key of whom the address names, for no longer than `Limits.redial_longest`.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        dial: Callable[[Address], Awaitable[Connection]],
        registry: Registry,
        limits: Limits,
    ) -> None:
        self._routes = [_Route(address) for address in addresses]
        self._dial = dial
        self._registry = registry
        self._limits = limits
        self._peer: PeerId | None = next((address.peer for address in addresses if address.peer), None)
        self._scope = trio.CancelScope()
        self._changed = trio.lowlevel.ParkingLot()
        self._given_up = False
        self.connection: Connection | None = None
        """The connection that is held now, if there is one."""
        self.failure: DialError | ConnectionClosed | None = None
        """What has first gone wrong since there was a connection: later failures do not hide it."""

    def __repr__(self) -> str:
        state = "given up" if self._given_up else "connected" if self.connection else "dialing"
        return f"<Keeper of {self._peer.short if self._peer else 'whoever answers'}, {state}>"

    async def connected(self) -> Connection:
        """The connection, as soon as there is one. Raises `failure` once it has given up or was stopped."""
        while True:
            if self.connection is not None and self.connection.is_open:
                await trio.lowlevel.checkpoint()
                return self.connection
            if self._given_up:
                failure = self.failure or ConnectionClosed("this keeper was stopped", by_peer=False)
                raise failure.with_traceback(None)  # else it gathers those of all who ask
            await self._changed.park()

    def stop(self) -> None:
        """Dial no more. The connection that is there goes on."""
        self._scope.cancel()

    async def run(self) -> None:
        """Hold the connection until stopped, or until it is no use. Run by the peer."""
        try:
            with self._scope:
                while await self._connect():
                    await self._hold()
        finally:
            self._given_up = True
            self._changed.unpark_all()

    async def _connect(self) -> bool:
        """Have a connection, however long it takes; False if that is no use, or there will be no more."""
        while self._routes:
            route = min(self._routes, key=lambda route: route.due)
            with trio.move_on_at(route.due):
                while not self._is_connected_to(self._peer):
                    if not await self._registry.wait_change():
                        return False  # we are leaving; a dial would fail at once, again and again
            if self._peer is not None and (there := self._registry.newest(self._peer)):
                self._have(there)
                return True
            try:
                self._have(await self._dial(route.address))
            except DialError as error:
                self._failed(route, error)
            else:
                return True
        return False

    async def _hold(self) -> None:
        assert self.connection is not None
        closed = await self.connection.closed()
        lasted = trio.current_time() - self.connection.opened_at
        self.connection = None
        self.failure = closed
        text = f"a connection that is kept has ended: {closed}"
        code = None if closed.code is None else code_name(closed.code)
        log_event(logging.INFO, "keep.lost", text, peer=self._peer, code=code, by_peer=closed.by_peer)
        if closed.by_peer and closed.code in _FINAL and not self._is_connected_to(self._peer):
            self._routes.clear()
        for route in self._routes:
            if lasted >= self._limits.redial_longest:
                route.failures, route.due = 0, 0.0
            else:
                self._pause(route)  # whoever accepts and closes at once is not dialed in a circle

    def _have(self, connection: Connection) -> None:
        self.connection = connection
        self.failure = None
        self._peer = connection.peer
        self._changed.unpark_all()

    def _failed(self, route: _Route, error: DialError) -> None:
        """A dial opened nothing: when is the next one, if there is one?"""
        self.failure = self.failure or error
        log_event(
            logging.INFO,
            "keep.dial_failed",
            f"a dial of a peer that is kept has failed: {error}",
            address=error.address,
            peer=error.peer,
            reason=error.counted_as,
            retryable=error.retryable,
        )
        told = error if isinstance(error, Rejected) else None
        if told and told.reason is VerdictCode.DUPLICATE and self._is_connected_to(told.peer):
            self._peer = told.peer  # what we hold is there already
            return
        proved = _is_proved(error, route.address)
        if not proved or error.retryable:
            self._pause(route, (told.retry_after if told else None) or 0, proved=proved)
        elif told:
            self._routes.clear()
        else:
            self._routes.remove(route)

    def _pause(self, route: _Route, asked_for: int = 0, *, proved: bool = False) -> None:
        """Exponential, and with jitter: many that were cut off at once must not come back at once.

        asked_for: seconds that the other side wants us to wait. proved: it is the one whom the address names.
        """
        limits = self._limits
        longest = min(limits.redial_longest, limits.redial_first * 2.0**route.failures)
        route.failures = min(route.failures + 1, _ENOUGH)
        least = min(asked_for, _LONGEST_ASKED if proved else limits.redial_longest)
        route.due = trio.current_time() + max(least, longest * random.uniform(0.5, 1))

    def _is_connected_to(self, peer: PeerId | None) -> bool:
        return peer is not None and self._registry.newest(peer) is not None


def _is_proved(error: DialError, address: Address) -> bool:
    """Whether this is between us and the one whom the address names, and nobody else can have brought it about."""
    match error:
        case Rejected():
            return error.authenticated and error.peer == address.peer
        case Untrusted() | ChangedIdentity():
            return error.peer == address.peer
        case _:
            return False
