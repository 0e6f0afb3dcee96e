"""Peer: an identity that dials and listens, and what it does with those it meets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from copy import copy
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar, overload

import trio

from trishake_protocol import (
    AlertCode,
    CloseCode,
    Identity,
    InvalidPeerId,
    LocalProtocolError,
    Network,
    PeerId,
    Profile,
    Role,
    Session,
    VerdictCode,
)
from trishake_protocol.limits import MUX
from trishake_protocol.messages import StreamOpen

from ._addresses import Address
from ._admission import Admission, Busy
from ._connection import Connection, Opening
from ._dialing import AddressBook, first_to_accept
from ._errors import ConnectionClosed, DialError, InvalidAddress, Refused, Rejected, StreamTimeout
from ._files import FilePath
from ._greeting import (
    CLOSING,
    Greeter,
    Meeting,
    check_optimistic,
    greet_as_initiator,
    greet_as_responder,
    unix_time,
)
from ._handlers import Handler, Handlers, StreamHandler
from ._key_log import KeyLog, key_log_writer
from ._limits import Limits
from ._listener import Listener, cannot_listen
from ._messages import MAX_SIZE, RequestFunction, answer, check_max_size
from ._observer import Observer
from ._registry import Arrivals, Dial, Registry
from ._signer import Signer
from ._statistics import Statistics, Tally
from ._stream import Stream
from ._tcp import Tcp
from ._timeline import Trace
from ._transport import Transport, open_stream
from ._trust import Introduction, Policy, Rejection, anyone, ask_policy, check_policy, reject
from ._version import AGENT
from ._wire import Wire

if TYPE_CHECKING:
    from ._keep import Keeper

SCHEMES: Final = ("tcp", "unix", "tls", "ws", "wss", "mem")
"""Of the transports that come with Trishake: `transport_for` makes them."""

_RETRY_WHEN_FULL: Final = 30
"""Seconds that a dialer is asked to wait when every connection is taken."""

_StreamHandler = TypeVar("_StreamHandler", bound=StreamHandler)
_RequestFunction = TypeVar("_RequestFunction", bound=RequestFunction)


class Peer:
    """One identity: its policy, its listeners, its connections. Use it as `async with Peer(...) as peer`.

    identity: an `Identity`, or a `Signer` where the key is held elsewhere.
    trust: asked about every peer that has proved who it is, in both directions, before the verdict.
    network: the default is the public network `trishake`. suites: ids enabled, best first.
    agent, app: what our greeting says about us; app is at most 4096 bytes. limits: see `Limits`.
    observers: told of every step of every greeting, of connections, and of refused streams; see `Observer`.
    transports: for schemes of one's own, or in the place of those that are there: `Tcp`, `Unix`, `Tls`,
    `WebSocket` and `Memory`.
    key_log: for debugging, a file to which the keys of every connection are appended, see `KeyLog`. By default it
    is what the environment's TRISHAKE_KEY_LOG names, and there is none where that is not set. Raises BadFile if
    it cannot be used, or the file that TRISHAKE_LOG names.
    Leaving the block closes listeners and connections, and tells those on the other side; streams that are open
    may finish within `Limits.finish`, unless the block is left by an error.
    """

    def __init__(
        self,
        identity: Identity | Signer,
        *,
        trust: Policy = anyone,
        network: Network | None = None,
        suites: Sequence[int] | None = None,
        agent: str | None = AGENT,
        app: bytes | None = None,
        limits: Limits | None = None,
        observers: Iterable[Observer] = (),
        transports: Sequence[Transport] = (),
        key_log: KeyLog | FilePath | None = None,
    ) -> None:
        self._identity = identity
        check_policy(trust)
        self._key_log = key_log_writer(key_log)
        self._trust = trust
        self._profile = Profile(
            network or Network(), None if suites is None else tuple(suites), caps=(MUX,), agent=agent, app=app
        )
        self._limits = limits or Limits()
        self._tally = Tally(observers)
        self._transports: dict[str, Transport | None] = dict.fromkeys(SCHEMES)
        """None: made when it is first used."""
        self._transports |= {scheme: transport for transport in transports for scheme in transport.schemes}
        self._addresses = AddressBook()
        self._admission = Admission(self._limits)
        self._handlers = Handlers(self._limits, self._tally)
        self._registry = Registry(self.id, self._limits, self._close_soon)
        self._listeners: dict[Listener, None] = {}
        self._keepers: set[Keeper] = set()
        self._running: dict[Connection, None] = {}
        """Those that are open, and those that are not quite closed."""
        self._inbound: set[Session] = set()
        """Those that were dialed to us and that our policy has taken."""
        self._turning_away = 0
        self._block: AbstractAsyncContextManager[trio.Nursery, bool | None] | None = None
        self._nursery: trio.Nursery | None = None
        self._leaving = False

    @property
    def id(self) -> PeerId:
        """Who we are to others."""
        return self._identity.id

    @property
    def network(self) -> Network:
        """The network in which we greet."""
        return self._profile.network

    @property
    def suites(self) -> tuple[int, ...]:
        """Ids of the suites that we speak there, best first."""
        return tuple(suite.id for suite in self._profile.suites)

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
        self._leave()
        self._nursery.start_soon(self._close_everything, self._nursery, 0 if error else None)
        if not isinstance(error, Exception | KeyboardInterrupt | SystemExit):
            return await self._block.__aexit__(type_, error, traceback)
        # The body's own error goes on as it is: the nursery would wrap it in a group.
        if not isinstance(error, Exception):
            self._nursery.cancel_scope.cancel()  # these wait for nothing
        await self._block.__aexit__(None, None, None)
        return False

    def _leave(self) -> None:
        """From here on nothing new is begun."""
        self._leaving = True
        for keeper in self._keepers:
            keeper.stop()
        self._registry.leave()
        self._registry.end_dials()

    async def _close_everything(self, nursery: trio.Nursery, finish: float | None) -> None:
        await self.aclose(finish=finish)
        nursery.cancel_scope.cancel()  # handlers that go on without their streams

    async def aclose(self, *, finish: float | None = None) -> None:
        """Close every listener and connection, telling those on the other side. `async with` does it.

        finish: seconds that streams have which are open; `Limits.finish` by default. The peer does not dial or
        listen any more.
        """
        self._leave()
        async with trio.open_nursery() as nursery:
            for listener in list(self._listeners):
                nursery.start_soon(self._close_listener, listener)
            for connection in self._running:
                nursery.start_soon(partial(connection.aclose, CloseCode.GOING_AWAY, finish=finish))
            nursery.start_soon(self._registry.wait_dials_ended)
        async with trio.open_nursery() as nursery:
            for connection in self._running:  # greetings that ended READY meanwhile
                nursery.start_soon(partial(connection.aclose, CloseCode.GOING_AWAY, finish=0))

    async def _close_listener(self, listener: Listener) -> None:
        await listener.aclose()
        await listener.served.wait()

    def _block_entered(self) -> trio.Nursery:
        if self._nursery is None or self._leaving:
            raise LocalProtocolError("a peer dials and listens within its block: async with Peer(...) as peer")
        return self._nursery

    # --- streams that others open -----------------------------------------------------------------------

    @overload
    def handle(self, protocol: str, handler: StreamHandler, *, trust: Policy | None = None) -> None: ...

    @overload
    def handle(
        self, protocol: str, *, trust: Policy | None = None
    ) -> Callable[[_StreamHandler], _StreamHandler]: ...

    def handle(
        self, protocol: str, handler: StreamHandler | None = None, *, trust: Policy | None = None
    ) -> Callable[[_StreamHandler], _StreamHandler] | None:
        """Answer streams of this protocol, on every connection, from now on.

        protocol: 1 to 128 bytes of UTF-8, such as `chat/1`. handler: `async (stream) -> None`; the stream is
        closed when it returns, and reset when it fails. trust: who may open such streams, a policy as for
        connections; whoever is connected, by default. Raises ValueError if the protocol has a handler already.
        Without a handler it is a decorator: `@peer.handle("chat/1")`.
        """
        if handler is not None:
            self._handlers.add(Handler(protocol, handler, trust))
            return None

        def add(function: _StreamHandler) -> _StreamHandler:
            self._handlers.add(Handler(protocol, function, trust))
            return function

        return add

    @overload
    def handle_request(
        self, protocol: str, function: RequestFunction, *, trust: Policy | None = None, max_size: int = MAX_SIZE
    ) -> None: ...

    @overload
    def handle_request(
        self, protocol: str, *, trust: Policy | None = None, max_size: int = MAX_SIZE
    ) -> Callable[[_RequestFunction], _RequestFunction]: ...

    def handle_request(
        self,
        protocol: str,
        function: RequestFunction | None = None,
        *,
        trust: Policy | None = None,
        max_size: int = MAX_SIZE,
    ) -> Callable[[_RequestFunction], _RequestFunction] | None:
        """Answer requests of this protocol, on every connection, from now on.

        function: `async (value, peer) -> value`, values as `MessageChannel` sends them; peer: who asks, proved. It
        is cancelled when the one who asks hangs up. It raises `RequestFailed(kind, text)` for what he shall be
        told; of anything else that it raises he learns only that there was something, and the log has the rest.
        max_size: bytes, of a request and of its reply; at least 2048. protocol, trust, errors: as for `handle`.
        Without a function it is a decorator: `@peer.handle_request("sum/1")`.
        """
        check_max_size(max_size)

        def answers(function: RequestFunction) -> Handler:
            handler = partial(answer, function=function, max_size=max_size, seconds=self._limits.request)
            return Handler(protocol, handler, trust)

        if function is not None:
            self._handlers.add(answers(function))
            return None

        def add(function: _RequestFunction) -> _RequestFunction:
            self._handlers.add(answers(function))
            return function

        return add

    # --- connections ------------------------------------------------------------------------------------

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """Those that are open, in the order in which they were opened."""
        return tuple(listener for listener in self._listeners if listener.is_open)

    @property
    def connections(self) -> tuple[Connection, ...]:
        """Those that are open, whoever dialed."""
        return tuple(self._registry)

    def connection(self, peer: PeerId) -> Connection | None:
        """The open connection with this peer, the newest where there are several; None if there is none."""
        return self._registry.newest(peer)

    def arrivals(self) -> Arrivals:
        """Connections as they open, whoever dialed: `async for connection in peer.arrivals()`.

        Those that are open already come first. It ends when the peer leaves its block.
        """
        return self._registry.arrivals()

    def statistics(self) -> Statistics:
        """What has come of every greeting, connection and stream so far, counted by cause."""
        return self._tally.snapshot()

    def _open(self, session: Session, wire: Wire, meeting: Meeting, nursery: trio.Nursery) -> Connection:
        has_ended = partial(self._has_ended, session)
        connection = Connection(session, wire, meeting, self._limits, self._handlers, nursery, has_ended)
        self._running[connection] = None
        nursery.start_soon(connection.run)
        self._registry.add(connection)
        self._tally.connected(connection)
        return connection

    def _has_ended(self, session: Session, connection: Connection, closed: ConnectionClosed) -> None:
        self._inbound.discard(session)
        self._running.pop(connection, None)
        self._registry.discard(connection)
        self._tally.disconnected(connection, closed)

    def _close_soon(self, connection: Connection, code: CloseCode, finish: float | None = None) -> None:
        if self._nursery is not None and not self._leaving:  # else all of them are being closed
            self._nursery.start_soon(partial(connection.aclose, code, finish=finish))

    # --- dialing ----------------------------------------------------------------------------------------

    async def dial(
        self, target: PeerId | Address | str, *more: Address | str, trust: Policy | None = None
    ) -> Connection:
        """Connect, greet, and return once the other side has accepted us (READY).

        target, more: invites, `tcp://<peer id>@host:port`: nobody but that peer will do, and nobody else learns
        who dialed. Without an id, `tcp://host:port`, the policy decides who will do. Other schemes: `Address`.
        Several are tried each a little after the one before, and the first that accepts is taken. A PeerId, or
        its text, is dialed at the addresses that are known of it: see `learn`.
        trust: the policy for this dial, instead of the peer's own.
        If the other side dials us at the same time, both dials give the one connection that is kept.
        Raises InvalidAddress; NoResponse, Rejected or Refused, of several the one that says most, the others in
        its `attempts`; LocalProtocolError outside `async with`. Cancelled, it leaves nothing open.
        """
        self._block_entered()
        addresses = self._addresses_of(target, more)
        if len(addresses) == 1:
            return await self._dial(addresses[0], trust)
        close_soon = partial(self._close_soon, code=CloseCode.NORMAL, finish=0)
        return await first_to_accept(addresses, partial(self._dial, trust=trust), close_soon)

    async def open_stream(
        self,
        target: PeerId | Address | str,
        protocol: str,
        optimistic: bytes = b"",
        *,
        trust: Policy | None = None,
    ) -> Stream:
        """A stream to a peer, in one call: over the connection that there is, or else with a dial.

        Where one address is to be dialed, the stream is opened along with the last message of the greeting: the
        first answer on it is there after three round trips, connecting included, where dialing, opening and asking
        one after another take five.
        target, trust: as for `dial`. protocol, optimistic: as for `Connection.open_stream`; nobody sees them who
        does not accept us.
        The connection stays open when the stream is closed, or refused; `stream.connection` has it.
        Raises as `dial` and `Connection.open_stream` do; ConnectionClosed, where the other side dials us at the
        same time and another connection is kept than the one that carried the data.
        """
        self._block_entered()
        check_optimistic(optimistic)
        StreamOpen(protocol).encode()
        addresses = self._addresses_of(target, ())
        peer = addresses[0].peer
        connection = None if peer is None else self._registry.newest(peer)
        if connection is not None and connection.is_open:
            return await connection.open_stream(protocol, optimistic)
        if len(addresses) > 1:  # each that accepts would act on it
            return await (await self.dial(target, trust=trust)).open_stream(protocol, optimistic)
        opening = Opening(protocol, optimistic)
        connection = await self._dial(addresses[0], trust, opening)
        if opening.stream is None:  # the connection is another, and nobody has seen the opening
            return await connection.open_stream(protocol, optimistic)
        with trio.move_on_after(self._limits.open_stream):
            await opening.stream.connection.wait_accepted(opening.stream)
            return opening.stream
        raise StreamTimeout(connection.peer, protocol, self._limits.open_stream)

    def keep(self, target: PeerId | Address | str, *more: Address | str, trust: Policy | None = None) -> Keeper:
        """Hold a connection to a peer from now on: dial, and dial again when it has ended.

        target, more, trust: as for `dial`. Each address has a pause of its own between two tries, which grows
        from `Limits.redial_first` to `Limits.redial_longest`. It gives up where trying again is no use: see
        `Keeper`. Raises InvalidAddress; LocalProtocolError outside `async with`.
        """
        from ._keep import Keeper  # here, not above: who dials once need not load it

        nursery = self._block_entered()
        keeper = Keeper(
            self._addresses_of(target, more), partial(self._dial, trust=trust), self._registry, self._limits
        )
        self._keepers.add(keeper)
        nursery.start_soon(self._run_keeper, keeper)
        return keeper

    async def _run_keeper(self, keeper: Keeper) -> None:
        try:
            await keeper.run()
        finally:
            self._keepers.discard(keeper)

    def learn(self, invite: Address | str) -> None:
        """Know where a peer is, so that its id is enough to dial it; an accepted dial teaches the same.

        Raises InvalidAddress, also for an address that names no peer.
        """
        self._addresses.learn(_address(invite))

    def _addresses_of(self, target: PeerId | Address | str, more: Sequence[Address | str]) -> list[Address]:
        if isinstance(target, str) and "://" not in target:
            try:
                target = PeerId.parse(target)
            except InvalidPeerId as error:
                raise InvalidAddress(
                    f"{target!r} is neither an address, such as tcp://host:port, nor a peer id: {error}"
                ) from None
        known = self._addresses.of(target) if isinstance(target, PeerId) else [_address(target)]
        addresses = [*known, *map(_address, more)]
        for address in addresses:
            self.transport(address)
        return addresses

    def transport(self, address: Address) -> Transport:
        """With what we dial and listen at such an address. Raises InvalidAddress where there is nothing for it."""
        scheme = address.scheme
        if scheme not in self._transports:
            known = ", ".join(f"{scheme}://" for scheme in self._transports)
            raise InvalidAddress(f"'{address}': no transport for {scheme}://; there are {known}")
        transport = self._transports[scheme]
        if transport is None:
            transport = self._transports[scheme] = transport_for(scheme)
        return transport

    async def _dial(
        self, address: Address, trust: Policy | None = None, opening: Opening | None = None
    ) -> Connection:
        """One address: connect, greet, and have the connection. opening: of a stream, to go along with ACK."""
        nursery = self._nursery
        trace = self._trace(Role.INITIATOR, address.endpoint)
        trace.peer = address.peer
        try:
            if nursery is None or self._leaving:  # we left before it was this address's turn
                raise Refused(AlertCode.GOING_AWAY, *CLOSING)
            stream = await open_stream(address, self.transport(address), self._limits, nursery, trace)
        except DialError as error:
            trace.fail(error)
            raise
        except BaseException:
            trace.cancel()
            raise
        session = Session.initiator(
            self._identity, self._profile, now=unix_time(), expected=address.peer, key_log=self._key_log
        )
        greeter = self._greeter(session, Wire.over(stream), trust or self._trust, trace)
        with self._registry.dialing(greeter) as dial:
            greeter.objection = partial(self._object_to_responder, dial)
            if opening is not None:
                greeter.behind_ack = partial(opening.send, session)
            if self._leaving:  # we left while it connected
                greeter.leave()
            try:
                meeting = await greet_as_initiator(greeter)
            except (Rejected, Refused) as error:
                if kept := await self._registry.kept_instead(dial, error.reason):
                    if greeter.identified is None:  # it was overtaken before its own policy could be asked
                        await self._vet(kept, greeter)
                    return kept
                raise
            connection = self._open(session, greeter.wire, meeting, nursery)
            if opening is not None:
                opening.taken_by(connection)
            dial.ready = True
        self._addresses.learn(address.with_peer(connection.peer))
        try:
            connection = await self._registry.settle(connection)
        except trio.Cancelled:
            await connection.aclose()
            raise
        if greeter.leaving:  # we left in the moment of READY
            await connection.aclose(CloseCode.GOING_AWAY, finish=0)
            left = greeter.late()
            left.ends(greeter.trace)  # observers are told nothing: to them the greeting has ended READY
            raise left
        return connection

    async def _vet(self, kept: Connection, greeter: Greeter) -> None:
        """Ask a dial's policy about the connection that it is to resolve to; which goes on, whatever it says."""
        introduction = Introduction(kept.peer, Role.RESPONDER, greeter.address, kept.greeting, kept.session_id)
        decision = await ask_policy(greeter.trust, introduction, self._limits.policy)
        if isinstance(decision, Rejection):
            refused = decision.refusal(kept.peer)
            trace = copy(greeter.trace)  # observers have the greeting's own end, which stays as it is
            trace.session_id = kept.session_id
            refused.ends(trace)
            raise refused

    async def _object_to_responder(self, dial: Dial, introduction: Introduction) -> Rejection | None:
        """What stands against going on to the ACK, now that it is known who has answered."""
        if MUX not in introduction.greeting.caps:
            return _WITHOUT_STREAMS
        met = dial.meanwhile.get(introduction.peer)
        # The larger id's dial goes on: the other side may never hear the READY with which it was met.
        if met is not None and met.is_open and self.id.key < introduction.peer.key:
            dial.kept = met
            return reject(VerdictCode.CROSSING)
        return None

    # --- listening --------------------------------------------------------------------------------------

    async def listen(self, address: Address | str) -> Listener:
        """Be there to be dialed, from now until the listener or the peer is closed.

        address: `tcp://host:port`; port 0 takes a free one, host `0.0.0.0` or `[::]` takes them all. Other
        schemes: `Address`.
        Raises InvalidAddress; OSError if it cannot be bound; LocalProtocolError outside `async with`.
        """
        nursery = self._block_entered()
        target = _address(address)
        try:
            bounds = await self.transport(target).listen(target, nursery)
        except OSError as error:
            raise cannot_listen(error, target) from error
        listener = Listener(bounds, self.id)
        if self._leaving:  # we left while the name was looked up
            await listener.aclose()
            raise LocalProtocolError("this peer has left its block")
        self._listeners[listener] = None
        nursery.start_soon(self._serve, listener, nursery)
        return listener

    async def _serve(self, listener: Listener, nursery: trio.Nursery) -> None:
        try:
            await listener.serve(partial(self._welcome, listener, nursery))
        finally:
            self._listeners.pop(listener, None)

    async def _welcome(self, listener: Listener, nursery: trio.Nursery, stream: trio.abc.Stream) -> None:
        """Admit a dialer, or not, and greet it."""
        wire = Wire.over(stream)
        session = Session.responder(
            self._identity,
            self._profile,
            now=unix_time(),
            is_own_dial=self._registry.is_own_dial,
            key_log=self._key_log,
        )
        greeter = self._greeter(session, wire, self._trust, self._trace(Role.RESPONDER, wire.address))
        try:
            slot = self._admission.admit(wire.host, greeter.started)
        except Busy as busy:
            await self._turn_away(greeter, busy)
            return
        listener.greetings.add(greeter)
        try:
            async with AsyncExitStack() as turn:
                greeter.objection = partial(self._object_to_initiator, greeter, turn)
                with slot:
                    meeting = await greet_as_responder(greeter, slot.release)
                connection = self._open(session, wire, meeting, nursery)
            if greeter.leaving:  # we left in the moment of READY
                await connection.aclose(CloseCode.GOING_AWAY, finish=0)
        except DialError:
            self._inbound.discard(session)  # the observer has been told
        finally:
            listener.greetings.discard(greeter)

    async def _object_to_initiator(
        self, greeter: Greeter, turn: AsyncExitStack, introduction: Introduction
    ) -> Rejection | None:
        """What stands against READY for one who dialed us: other connections with it, or no room."""
        if MUX not in introduction.greeting.caps:
            return _WITHOUT_STREAMS
        await turn.enter_async_context(self._registry.turn(introduction.peer))
        if objection := await self._registry.objection(introduction.peer, greeter.started):
            return objection
        if len(self._inbound) >= self._limits.connections:
            return reject(VerdictCode.CAPACITY, retry_after=_RETRY_WHEN_FULL)
        self._inbound.add(greeter.session)
        return None

    async def _turn_away(self, greeter: Greeter, busy: Busy) -> None:
        """BUSY, before anything is read; under more load still, just close (section 7, step 1).

        So too where the word would cost a handshake of the transport's own (TLS, WebSocket).
        """
        if self._turning_away < self._limits.handshakes and not greeter.wire.wraps:
            greeter.session.refuse(AlertCode.BUSY, retry_after=busy.retry_after)
        greeter.failed(Refused(AlertCode.BUSY, busy.why, "If these are peers, raise that limit."))
        self._turning_away += 1
        try:
            await greeter.say_goodbye()
        finally:
            self._turning_away -= 1

    def _greeter(self, session: Session, wire: Wire, trust: Policy, trace: Trace) -> Greeter:
        return Greeter(
            session,
            wire,
            identity=self._identity,
            trust=trust,
            limits=self._limits,
            trace=trace,
        )

    def _trace(self, role: Role, address: str | None) -> Trace:
        return Trace(role, self.id, self._profile.network.name, address, self._tally)


def transport_for(scheme: str) -> Transport:
    """The transport of one of SCHEMES; all but the first are loaded with the first address that needs one."""
    match scheme:
        case "tcp":
            return Tcp()
        case "unix":
            from ._unix import Unix

            return Unix()
        case "tls":
            from ._tls import Tls

            return Tls()
        case "ws" | "wss":
            from ._websocket import WebSocket

            return WebSocket()
        case _:
            from ._memory import Memory

            return Memory()


def _address(address: Address | str) -> Address:
    return Address.parse(address) if isinstance(address, str) else address


_WITHOUT_STREAMS: Final = reject(
    text="this peer speaks in streams (mux/1), and the other side does not",
    why="It must greet as a Peer does, with streams, and not as `initiate` and `respond` do.",
)
