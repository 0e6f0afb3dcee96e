"""Peer: an identity that dials and listens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import Final, Self

import trio

from trishake_protocol import (
    AlertCode,
    CloseCode,
    Identity,
    LocalProtocolError,
    Network,
    PeerId,
    Profile,
    Role,
    Session,
    VerdictCode,
)

from ._addresses import Address
from ._admission import Admission, Busy
from ._connection import Connection
from ._errors import DialError, InvalidAddress, Refused
from ._greeting import Greeter, greet_as_initiator, greet_as_responder, unix_time
from ._limits import Limits
from ._listener import Listener
from ._memory import Memory
from ._observer import Observer
from ._tcp import Tcp
from ._tls import Tls
from ._transport import Transport, open_stream
from ._trust import Acceptance, Decision, Introduction, Policy, anyone, reject
from ._unix import Unix
from ._version import AGENT
from ._websocket import WebSocket
from ._wire import Wire

_RETRY_WHEN_FULL: Final = 30
"""Seconds that a dialer is asked to wait when every connection is taken."""


class Peer:
    """One identity, its policy, its listeners and its connections. Use it as `async with Peer(...) as peer`.

    trust: asked about every peer that has proved who it is, in both directions, before the verdict.
    network: the default is the public network `trishake`. suites: ids enabled, best first.
    agent, app: what our greeting says about us; app is at most 4096 bytes. limits: see `Limits`.
    transports: for schemes of one's own, or in the place of those that are there: `Tcp`, `Unix`, `Tls`,
    `WebSocket` and `Memory`.
    Leaving the block closes listeners and connections, and tells those on the other side.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        trust: Policy = anyone,
        network: Network | None = None,
        suites: Sequence[int] | None = None,
        agent: str | None = AGENT,
        app: bytes | None = None,
        limits: Limits | None = None,
        observer: Observer | None = None,
        transports: Sequence[Transport] = (),
    ) -> None:
        self._identity = identity
        self._trust = trust
        self._profile = Profile(
            network or Network(), None if suites is None else tuple(suites), agent=agent, app=app
        )
        self._limits = limits or Limits()
        self._observer = observer or Observer()
        every_transport = (Tcp(), Unix(), Tls(), WebSocket(), Memory(), *transports)
        self._transports = {scheme: transport for transport in every_transport for scheme in transport.schemes}
        self._admission = Admission(self._limits)
        self._dials: dict[bytes, Greeter] = {}
        """Those under way, by the ephemeral key in their SYN."""
        self._listeners: set[Listener] = set()
        self._connections: set[Connection] = set()
        self._inbound: set[Session] = set()
        self._turning_away = 0
        self._block: AbstractAsyncContextManager[trio.Nursery, bool | None] | None = None
        self._nursery: trio.Nursery | None = None

    @property
    def id(self) -> PeerId:
        """Who we are to others."""
        return self._identity.id

    def __repr__(self) -> str:
        return f"<Peer {self.id.short}>"

    # --- the block --------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._block = trio.open_nursery()
        self._nursery = await self._block.__aenter__()
        return self

    async def __aexit__(
        self, type_: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._block is not None
        assert self._nursery is not None
        self._nursery.start_soon(self.aclose)
        self._nursery.cancel_scope.deadline = trio.current_time() + self._limits.close
        self._nursery = None
        if isinstance(error, Exception):
            # The body's own error goes on as it is: the nursery would wrap it in a group.
            await self._block.__aexit__(None, None, None)
            return False
        return await self._block.__aexit__(type_, error, traceback)

    async def aclose(self) -> None:
        """Close every listener and connection, telling those on the other side. `async with` does it."""
        for dial in self._dials.values():
            dial.leave()
        async with trio.open_nursery() as nursery:
            for listener in list(self._listeners):
                nursery.start_soon(self._close_listener, listener)
            for connection in list(self._connections):
                nursery.start_soon(connection.aclose, CloseCode.GOING_AWAY)

    async def _close_listener(self, listener: Listener) -> None:
        await listener.aclose()
        self._listeners.discard(listener)

    def _block_entered(self) -> trio.Nursery:
        if self._nursery is None:
            raise LocalProtocolError("a peer dials and listens within its block: async with Peer(...) as peer")
        return self._nursery

    def _transport(self, address: Address) -> Transport:
        try:
            return self._transports[address.scheme]
        except KeyError:
            known = ", ".join(f"{scheme}://" for scheme in self._transports)
            raise InvalidAddress(f"'{address}': no transport for {address.scheme}://; there are {known}") from None

    # --- dialing ----------------------------------------------------------------------------------------

    async def dial(self, address: Address | str, *, trust: Policy | None = None) -> Connection:
        """Connect, greet, and return once the other side has accepted us (READY).

        address: an invite, `tcp://<peer id>@host:port`: nobody but that peer will do, and nobody else learns
        who dialed. Without an id, `tcp://host:port`, the policy decides who will do. Other schemes: `Address`.
        trust: the policy for this dial, instead of the peer's own.
        Raises InvalidAddress; NoResponse, Rejected or Refused; LocalProtocolError outside `async with`.
        Cancelled, it leaves nothing open.
        """
        nursery = self._block_entered()
        target = Address.parse(address) if isinstance(address, str) else address
        where = target.endpoint
        transport = self._transport(target)
        try:
            stream = await open_stream(target, transport, self._limits, nursery)
        except DialError as error:
            error.address, error.peer = where, target.peer
            self._observer.failed(Role.INITIATOR, error)
            raise
        session = Session.initiator(self._identity, self._profile, now=unix_time(), expected=target.peer)
        greeter = self._greeter(session, Wire.over(stream), trust or self._trust, where, target.peer)
        ephemeral_key = session.ephemeral_key
        self._dials[ephemeral_key] = greeter
        try:
            if self._nursery is None:  # we left while it connected
                greeter.leave()
            meeting = await greet_as_initiator(greeter)
        finally:
            del self._dials[ephemeral_key]
        connection = Connection(session, greeter.wire, meeting, self._limits, self._connections.discard)
        if greeter.leaving:  # we left in the moment of READY
            await connection.aclose(CloseCode.GOING_AWAY)
            left = greeter.late()
            greeter.add_facts(left)
            raise left
        self._connections.add(connection)
        return connection

    def _is_own_dial(self, ephemeral_key: bytes) -> bool:
        dial = self._dials.get(ephemeral_key)
        if dial is None:
            return False
        dial.met_itself = True
        return True

    # --- listening --------------------------------------------------------------------------------------

    async def listen(self, address: Address | str) -> Listener:
        """Be there to be dialed, from now until the listener or the peer is closed.

        address: `tcp://host:port`; port 0 takes a free one, host `0.0.0.0` or `[::]` takes them all. See `Address`
        for the other schemes.
        Raises InvalidAddress; OSError if it cannot be bound; LocalProtocolError outside `async with`.
        """
        nursery = self._block_entered()
        target = Address.parse(address) if isinstance(address, str) else address
        bounds = await self._transport(target).listen(target, nursery)
        listener = Listener(bounds, self.id, self._limits.connections)
        if self._nursery is None:  # we left while the name was looked up
            await listener.aclose()
            raise LocalProtocolError("this peer has left its block")
        self._listeners.add(listener)
        nursery.start_soon(listener.serve, partial(self._welcome, listener))
        return listener

    async def _welcome(self, listener: Listener, stream: trio.abc.Stream) -> Connection | None:
        """Admit a dialer, or not, and greet it; None if no connection came of it."""
        wire = Wire.over(stream)
        session = Session.responder(self._identity, self._profile, now=unix_time(), is_own_dial=self._is_own_dial)

        async def decide(introduction: Introduction) -> Decision:
            decision = await self._trust(introduction)
            if isinstance(decision, Acceptance):
                if len(self._inbound) >= self._limits.connections:
                    return reject(VerdictCode.CAPACITY, retry_after=_RETRY_WHEN_FULL)
                self._inbound.add(session)
            return decision

        def forget(connection: Connection) -> None:
            self._inbound.discard(session)
            self._connections.discard(connection)

        greeter = self._greeter(session, wire, decide, wire.address)
        try:
            slot = self._admission.admit(wire.host, greeter.started)
        except Busy as busy:
            await self._turn_away(greeter, busy.retry_after)
            return None
        listener.greetings.add(greeter)
        try:
            with slot:
                meeting = await greet_as_responder(greeter, slot.release)
        except DialError:
            self._inbound.discard(session)
            return None  # the observer has been told
        finally:
            listener.greetings.discard(greeter)
        connection = Connection(session, wire, meeting, self._limits, forget)
        self._connections.add(connection)
        return connection

    async def _turn_away(self, greeter: Greeter, retry_after: int) -> None:
        """BUSY, before anything is read; under more load still, just close (section 7, step 1)."""
        greeter.add_facts(Refused(AlertCode.BUSY, "too many greetings from there, or in all"))
        if self._turning_away < self._limits.handshakes:
            greeter.session.refuse(AlertCode.BUSY, retry_after=retry_after)
        self._turning_away += 1
        try:
            await greeter.say_goodbye()
        finally:
            self._turning_away -= 1

    def _greeter(
        self,
        session: Session,
        wire: Wire,
        trust: Policy,
        address: str | None,
        dialed: PeerId | None = None,
    ) -> Greeter:
        return Greeter(
            session,
            wire,
            trust=trust,
            limits=self._limits,
            observer=self._observer,
            address=address,
            started=trio.current_time(),
            dialed=dialed,
        )
