"""_transport.py: how an address becomes a stream, or what kept it from it; and what holds for every transport."""

from __future__ import annotations

import errno
import gc
import os
import re
import socket as stdlib_socket
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from trishake import (
    Address,
    Bound,
    Cause,
    InvalidAddress,
    Limits,
    Memory,
    NoResponse,
    Peer,
    Phase,
    Role,
    Step,
    Stream,
    Tcp,
    Tls,
    Transport,
    Unix,
    WebSocket,
)
from trishake._memory import MemoryStream, memory_pair
from trishake._observers import Observers
from trishake._timeline import Trace
from trishake._transport import begins_handshake, open_stream, remote_endpoint
from trishake.testing import check_transport
from trishake.testing._by_hand import read_to_end

from .conftest import (
    ADA,
    BOB,
    QUICK,
    SETTLED,
    Place,
    Resolver,
    Watch,
    cancelled_at,
    closed_port,
    open_sockets,
    tcp_pair,
)

NAME = "peer.test"


def on_loopback(port: int) -> Place:
    return stdlib_socket.AF_INET, ("127.0.0.1", port)


EVERY_TRANSPORT = {
    "tcp4": (Tcp, "tcp://127.0.0.1:0"),
    "tcp6": (Tcp, "tcp://[::1]:0"),
    "unix": (Unix, "unix://{directory}/socket"),
    "tls": (Tls, "tls://127.0.0.1:0"),
    "ws": (WebSocket, "ws://127.0.0.1:0/trishake"),
    "wss": (WebSocket, "wss://127.0.0.1:0"),
    "mem": (Memory, "mem://bob"),
}


@pytest.fixture(params=EVERY_TRANSPORT)
def transport_and_address(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Transport, str]:
    """Each transport, and an address where it can listen."""
    if request.param == "tcp6" and not has_ipv6_loopback():
        pytest.skip("this machine has no ::1")
    kind, address = EVERY_TRANSPORT[request.param]
    return kind(), address.format(directory=tmp_path)


def has_ipv6_loopback() -> bool:
    try:
        with stdlib_socket.socket(stdlib_socket.AF_INET6) as socket:
            socket.bind(("::1", 0))
    except OSError:
        return False
    return True


async def open_tcp(address: Address, limits: Limits) -> trio.SocketStream:
    nursery = trio.lowlevel.current_task().parent_nursery
    assert nursery is not None
    stream = await open_stream(address, Tcp(), limits, nursery)
    assert isinstance(stream, trio.SocketStream)
    return stream


async def failed_open(address: Address, limits: Limits = QUICK) -> NoResponse:
    before = open_sockets()
    with pytest.raises(NoResponse) as caught:
        await open_tcp(address, limits)
    assert open_sockets() == before
    return caught.value


@asynccontextmanager
async def open_port() -> AsyncIterator[int]:
    """Where somebody accepts and waits for the other to leave."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, read_to_end, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def hanging_port() -> AsyncIterator[int]:
    """Where a connection is neither accepted nor refused: the backlog is full, and nobody takes from it."""
    with stdlib_socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [stdlib_socket.socket() for _ in range(8)]
        for client in waiting:
            client.setblocking(False)
            assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        await wait_all_tasks_blocked(0.02)
        yield listener.getsockname()[1]
        for client in waiting:
            client.close()


# --- every transport ------------------------------------------------------------------------------------


async def test_every_transport_keeps_its_promises(
    transport_and_address: tuple[Transport, str], socket_clock: MockClock
) -> None:
    before = open_sockets()
    await check_transport(*transport_and_address)
    assert open_sockets() == before


async def test_two_peers_greet_over_every_transport(
    transport_and_address: tuple[Transport, str], socket_clock: MockClock
) -> None:
    before = open_sockets()
    _, address = transport_and_address
    async with Peer(BOB, limits=QUICK) as bob, Peer(ADA, limits=QUICK) as ada:
        listener = await bob.listen(address)
        assert listener.invite.startswith(address.partition("://")[0] + f"://{BOB.id}@")

        @bob.handle("greet/1")
        async def answer(stream: Stream) -> None:
            assert stream.peer == ADA.id
            await stream.send_all(b"and " + await stream.receive_some())

        connection = await ada.dial(listener.invite)
        assert connection.peer == BOB.id
        async with await connection.open_stream("greet/1") as stream:
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"and hello"
        [met] = bob.connections
        assert met.peer == ADA.id
        has_endpoint = not address.startswith(("unix", "mem"))
        assert (met.address is not None) == has_endpoint
        assert connection.seen == met.address
        await connection.aclose()
        assert (await met.closed()).by_peer
    await wait_all_tasks_blocked(SETTLED)
    assert open_sockets() == before


async def test_a_peer_that_leaves_ends_whoever_is_greeting_over_any_transport(
    transport_and_address: tuple[Transport, str], socket_clock: MockClock
) -> None:
    """One who has connected and says nothing must not keep the other side's block open."""
    transport, address = transport_and_address
    before = open_sockets()
    async with trio.open_nursery() as nursery:
        async with Peer(BOB, limits=QUICK) as bob:
            listener = await bob.listen(address)
            bound = listener.addresses[0]
            if isinstance(transport, Unix | Memory):
                stream = await open_stream(bound, transport, QUICK, nursery)
            else:  # not even the handshake of TLS or WebSocket
                stream = await open_stream(Address(bound.host, bound.port), Tcp(), QUICK, nursery)
            await wait_all_tasks_blocked(SETTLED)
        await read_to_end(stream)
        await stream.aclose()
        assert not nursery.child_tasks
    assert open_sockets() == before


# --- check_transport itself -----------------------------------------------------------------------------


class Wrapped(Memory):
    """A transport that breaks a promise somewhere."""

    schemes = ("bad",)
    stream: type[trio.abc.Stream] | None = None

    async def connect(self, address: Address, place: object, nursery: trio.Nursery) -> trio.abc.Stream:
        return self.broken(await super().connect(address, place, nursery))

    def broken(self, stream: MemoryStream) -> trio.abc.Stream:
        return stream


class Around(trio.abc.Stream):
    def __init__(self, inner: trio.abc.Stream) -> None:
        self.inner = inner

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.inner.aclose()


class Changing(Wrapped):
    """Changes a byte, far in."""

    def broken(self, stream: MemoryStream) -> trio.abc.Stream:
        class Stream(Around):
            sent = 0

            async def send_all(self, data: bytes | bytearray | memoryview) -> None:
                before, self.sent = self.sent, self.sent + len(data)
                if before < 100_000 < self.sent:
                    data = bytearray(data)
                    data[100_000 - before] ^= 1
                await super().send_all(data)

        return Stream(stream)


class Unbounded(Wrapped):
    """Takes what nobody reads."""

    def broken(self, stream: MemoryStream) -> trio.abc.Stream:
        class Stream(Around):
            async def send_all(self, data: bytes | bytearray | memoryview) -> None:
                with trio.move_on_after(0.1 if data == b"!" else 0.0001):
                    await super().send_all(data)

        return Stream(stream)


class Forgetful(Wrapped):
    """Loses what a cancelled receive has read."""

    def broken(self, stream: MemoryStream) -> trio.abc.Stream:
        return Around(stream)  # as at the listener's end: neither half-closes

    async def listen(self, address: Address, nursery: trio.Nursery) -> Sequence[Bound]:
        (bound,) = await super().listen(address, nursery)

        class Stream(Around):
            async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
                data = await super().receive_some(max_bytes)
                await trio.lowlevel.checkpoint()
                return data

        return [Bound(bound.address, AcceptingListener(bound.listener, Stream))]


class ShakingHands(Wrapped):
    """Waits in accept for what the dialer says."""

    async def listen(self, address: Address, nursery: trio.Nursery) -> Sequence[Bound]:
        (bound,) = await super().listen(address, nursery)

        class Listener(AcceptingListener):
            async def accept(self) -> trio.abc.Stream:
                stream = await self.inner.accept()
                incoming = stream._incoming  # type: ignore[attr-defined]
                while not incoming.content and incoming.writable:
                    await trio.sleep(0.01)
                return stream

        return [Bound(bound.address, Listener(bound.listener, Around))]


class Everywhere(Wrapped):
    """Lets two listeners have one address."""

    async def listen(self, address: Address, nursery: trio.Nursery) -> Sequence[Bound]:
        self._names.clear()
        return await super().listen(address, nursery)


class Littering(Wrapped):
    """Leaves a task behind."""

    async def connect(self, address: Address, place: object, nursery: trio.Nursery) -> trio.abc.Stream:
        nursery.start_soon(trio.sleep, 20)
        return await super().connect(address, place, nursery)


class AcceptingListener(trio.abc.Listener[trio.abc.Stream]):
    def __init__(self, inner: trio.abc.Listener[trio.abc.Stream], wrap: type[Around]) -> None:
        self.inner = inner
        self._wrap = wrap

    async def accept(self) -> trio.abc.Stream:
        return self._wrap(await self.inner.accept())

    async def aclose(self) -> None:
        await self.inner.aclose()


@pytest.mark.parametrize(
    ("transport", "sentence"),
    [
        (Changing, "Both directions carry what is sent.*not the same"),
        (Unbounded, "waits for a reader who does not read"),
        (Forgetful, "A cancelled receive_some loses nothing"),
        (ShakingHands, "accept waits for no handshake.*10 s in vain"),
        (Everywhere, "alone there.*two listeners share bad://bob"),
        (Littering, "10 s in vain for its tasks to end"),
    ],
)
async def test_a_transport_that_breaks_a_promise_is_told_which(
    transport: type[Transport], sentence: str, autojump_clock: MockClock
) -> None:
    with pytest.raises(AssertionError, match=sentence):
        await check_transport(transport(), "bad://bob")


async def test_an_address_of_another_scheme_is_no_check_of_a_transport() -> None:
    with pytest.raises(AssertionError, match="mem:// is not among its schemes"):
        await check_transport(Tcp(), "mem://bob")


# --- a peer's transports --------------------------------------------------------------------------------


async def test_a_scheme_that_nobody_serves_is_refused_with_those_that_there_are() -> None:
    async with Peer(ADA) as ada:
        for call in (ada.dial, ada.listen):
            with pytest.raises(
                InvalidAddress, match=r"'http://peer.test:1'.*tcp://, unix://, tls://, ws://, wss://, mem"
            ):
                await call("http://peer.test:1")


async def test_a_peer_takes_transports_of_ones_own_and_in_the_place_of_others() -> None:
    class Carrier(Memory):
        schemes = ("pigeon", "mem")

    carrier = Carrier(private=True)
    async with (
        Peer(BOB, limits=QUICK, transports=[carrier]) as bob,
        Peer(ADA, limits=QUICK, transports=[carrier]) as ada,
    ):
        for scheme in carrier.schemes:
            listener = await bob.listen(f"{scheme}://{scheme}-loft")
            assert str(listener.addresses[0]) == f"{scheme}://{scheme}-loft"
            async with await ada.dial(listener.invite) as connection:
                assert connection.peer == BOB.id
        async with Peer(ADA) as stranger:
            with pytest.raises(NoResponse, match="mem-loft"):
                await stranger.dial("mem://mem-loft")


async def test_the_other_end_is_found_below_whatever_wraps_it() -> None:
    here, _ = await tcp_pair()

    class Wrapping(Around):
        def __init__(self, inner: trio.abc.Stream) -> None:
            super().__init__(inner)
            self.transport_stream = inner

    assert remote_endpoint(Wrapping(Wrapping(here))) == here.socket.getpeername()
    assert remote_endpoint(Around(here)) is None
    assert remote_endpoint(memory_stream_pair()[0]) is None


# --- resolving ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (stdlib_socket.EAI_NONAME, "the name stands for no address"),
        (stdlib_socket.EAI_NODATA, "the name stands for no address"),
        (stdlib_socket.EAI_AGAIN, "no name server would say what the name stands for"),
        (stdlib_socket.EAI_FAIL, r"the name could not be looked up \(the system's own words\)"),
    ],
)
async def test_a_name_that_nobody_knows_is_unreachable_at_resolve(
    resolver: Resolver, code: int, words: str
) -> None:
    resolver.names[NAME] = stdlib_socket.gaierror(code, "the system's own words")
    error = await failed_open(Address(NAME, 4711))
    assert (error.phase, error.cause) == (Phase.RESOLVE, Cause.UNREACHABLE)
    assert re.search(words, str(error))


@pytest.mark.parametrize("host", ["a" * 64 + ".test", "..", "\u2488"], ids=["long label", "no label", "IDNA"])
async def test_a_name_that_cannot_be_asked_for_is_unreachable_at_resolve(host: str) -> None:
    error = await failed_open(Address(host, 4711))
    assert (error.phase, error.cause) == (Phase.RESOLVE, Cause.UNREACHABLE)


async def test_a_resolver_that_never_answers_is_a_timeout_at_resolve(
    autojump_clock: MockClock, resolver: Resolver
) -> None:
    error = await failed_open(Address(NAME, 4711), Limits())
    assert (error.phase, error.cause) == (Phase.RESOLVE, Cause.TIMEOUT)
    assert error.elapsed == pytest.approx(10)
    assert error.retryable


async def test_a_name_that_stands_for_nothing_is_unreachable(resolver: Resolver) -> None:
    resolver.names[NAME] = []
    error = await failed_open(Address(NAME, 4711))
    assert error.cause is Cause.UNREACHABLE


async def test_a_dial_says_where_and_whom_it_could_not_reach(resolver: Resolver) -> None:
    resolver.names[NAME] = stdlib_socket.gaierror(stdlib_socket.EAI_AGAIN, "no name server answers")
    async with Peer(ADA, limits=QUICK) as ada:
        with pytest.raises(NoResponse, match=rf"\[{NAME}:4711\].*no name server would say") as caught:
            await ada.dial(f"tcp://{BOB.id}@{NAME}:4711")
    assert (caught.value.address, caught.value.peer) == (f"{NAME}:4711", BOB.id)


# --- connecting -----------------------------------------------------------------------------------------


async def test_a_closed_port_refuses() -> None:
    error = await failed_open(Address("127.0.0.1", await closed_port()))
    assert (error.phase, error.cause) == (Phase.CONNECT, Cause.REFUSED)


async def test_an_address_without_a_route_is_unreachable(resolver: Resolver) -> None:
    """No packet leaves: a TCP connection to all hosts of a network is refused by the kernel itself."""
    resolver.names[NAME] = [(stdlib_socket.AF_INET, ("255.255.255.255", 4711))]
    error = await failed_open(Address(NAME, 4711))
    assert (error.phase, error.cause) == (Phase.CONNECT, Cause.UNREACHABLE)
    assert error.detail


async def test_an_address_that_neither_accepts_nor_refuses_is_a_timeout_at_connect() -> None:
    async with hanging_port() as port:
        error = await failed_open(Address("127.0.0.1", port), Limits(connect=0.1))
    assert (error.phase, error.cause) == (Phase.CONNECT, Cause.TIMEOUT)
    assert 0.1 <= error.elapsed < 2


@pytest.mark.parametrize("first", ["refuses", "hangs", "refuses, hangs"])
async def test_a_name_with_several_addresses_is_reached_at_the_one_that_answers(
    resolver: Resolver, first: str, socket_clock: MockClock
) -> None:
    before = open_sockets()
    async with open_port() as port, hanging_port() as hanging:
        held = open_sockets()
        bad = {"refuses": on_loopback(await closed_port()), "hangs": on_loopback(hanging)}
        resolver.names[NAME] = [*(bad[how] for how in first.split(", ")), on_loopback(port)]
        stream = await open_tcp(Address(NAME, 1), QUICK)
        assert stream.socket.getpeername() == ("127.0.0.1", port)
        await stream.aclose()
        await wait_all_tasks_blocked(0.05)  # the one that accepted sees the end of it
        assert open_sockets() == held  # and of the losers nothing is left
    assert open_sockets() == before


async def test_where_every_address_refuses_it_is_refused(resolver: Resolver) -> None:
    resolver.names[NAME] = [on_loopback(await closed_port()) for _ in range(3)]
    error = await failed_open(Address(NAME, 4711))
    assert (error.phase, error.cause) == (Phase.CONNECT, Cause.REFUSED)


A_FAMILY_NOBODY_HAS = 45
"""Below AF_MAX, and without a protocol in any kernel; as IPv6 is on some machines."""


@pytest.mark.parametrize("others", [False, True], ids=["alone", "with a good one behind"])
async def test_a_family_that_this_system_lacks_is_passed_over(resolver: Resolver, others: bool) -> None:
    """So it is for a process without a descriptor left."""
    async with open_port() as port:
        resolver.names[NAME] = [
            (A_FAMILY_NOBODY_HAS, ("127.0.0.1", port)),
            *([on_loopback(port)] if others else []),
        ]
        if others:
            await (await open_tcp(Address(NAME, 1), QUICK)).aclose()
        else:
            error = await failed_open(Address(NAME, 1))
            assert (error.phase, error.cause) == (Phase.CONNECT, Cause.UNREACHABLE)


class Scripted(Transport):
    """Places as (seconds, error or None): what comes of connecting to each, and when."""

    schemes = ("script",)

    def __init__(self, *places: tuple[float, Exception | None]) -> None:
        self.places = places
        self.started: list[float] = []
        self.opened: list[MemoryStream] = []
        self.others: list[MemoryStream] = []
        """The other ends of those."""

    async def resolve(self, address: Address) -> Sequence[object]:
        return self.places

    async def connect(self, address: Address, place: object, nursery: trio.Nursery) -> MemoryStream:
        seconds, error = cast("tuple[float, Exception | None]", place)
        self.started.append(trio.current_time())
        await trio.sleep(seconds)
        if error is not None:
            raise error
        here, there = memory_pair()
        self.opened.append(here)
        self.others.append(there)
        return here

    async def listen(self, address: Address, nursery: trio.Nursery) -> Sequence[Bound]:
        raise NotImplementedError


REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
SCRIPT = Address("peer.test", scheme="script")


@pytest.mark.parametrize(
    ("places", "started", "elapsed"),
    [
        ([(0, None), (0, None)], [0], 0),
        ([(0.2, None), (0, None)], [0], 0.2),
        ([(0.05, REFUSED), (0.1, None)], [0, 0.05], 0.15),
        ([(0.4, None), (1, None)], [0, 0.25], 0.4),
        ([(9, None), (9, None), (0, None)], [0, 0.25, 0.5], 0.5),
        ([(9, REFUSED), (0.05, REFUSED), (0.05, None)], [0, 0.25, 0.3], 0.35),
        ([(0.5, None), (0.25, None)], [0, 0.25], 0.5),
    ],
    ids=["at once", "no floor", "the next at once", "the first after all", "the last", "as they fail", "a tie"],
)
async def test_places_are_raced_each_a_quarter_of_a_second_after_the_one_before(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
    places: list[tuple[float, Exception | None]],
    started: list[float],
    elapsed: float,
) -> None:
    transport = Scripted(*places)
    before = trio.current_time()
    stream = await open_stream(SCRIPT, transport, Limits(), nursery)
    assert trio.current_time() - before == pytest.approx(elapsed)
    assert [time - before for time in transport.started] == pytest.approx(started)
    for here, there in zip(transport.opened, transport.others, strict=True):
        with trio.move_on_after(1) as still_open:
            assert await there.receive_some() == b""
        assert still_open.cancelled_caught == (here is stream)


async def test_of_two_that_connect_in_one_tick_one_is_closed(nursery: trio.Nursery) -> None:
    class Together(Scripted):
        lot = trio.lowlevel.ParkingLot()

        async def connect(self, address: Address, place: object, nursery: trio.Nursery) -> MemoryStream:
            await self.lot.park()
            here, there = memory_pair()
            self.opened.append(here)
            self.others.append(there)
            return here

    transport = Together((0, None), (0, None))
    won: list[trio.abc.Stream] = []

    async def dial() -> None:
        won.append(await open_stream(SCRIPT, transport, Limits(), nursery))

    async with trio.open_nursery() as dialing:
        dialing.start_soon(dial)
        while len(transport.lot) < 2:
            await wait_all_tasks_blocked(0.05)
        transport.lot.unpark_all()
    assert len(transport.opened) == 2
    for here, there in zip(transport.opened, transport.others, strict=True):
        with trio.move_on_after(0 if here in won else 1) as still_open:
            assert await there.receive_some() == b""
        assert still_open.cancelled_caught == (here in won)


async def test_each_place_is_remembered_with_what_it_said(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    class Named(Scripted):
        def endpoint_of(self, address: Address, place: object) -> str:
            return f"place {self.places.index(cast('tuple[float, Exception | None]', place))}"

    no_route = OSError(errno.EHOSTUNREACH, "")
    places = (0.0, REFUSED), (0.1, no_route), (0.2, trio.BrokenResourceError("gone")), (1.0, None), (9.0, None)
    trace = Trace(Role.INITIATOR, ADA.id, "trishake", "peer.test", Observers())
    await open_stream(SCRIPT, Named(*places), Limits(), nursery, trace)
    assert trace.places == {
        "place 0": "refused",
        "place 1": os.strerror(errno.EHOSTUNREACH),
        "place 2": "gone",
        "place 3": None,
        "place 4": None,
    }


async def test_the_handshake_in_which_the_time_was_up_is_the_latest(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    class Slow(Scripted):
        async def connect(self, address: Address, place: object, nursery: trio.Nursery) -> MemoryStream:
            for name in ("TLS", "WebSocket"):
                begins_handshake(name)
            await trio.sleep_forever()
            raise AssertionError

    with pytest.raises(NoResponse) as caught:
        await open_stream(SCRIPT, Slow((0, None)), Limits(), nursery)
    assert caught.value.detail == "in the WebSocket handshake"


async def test_an_observer_of_the_connecting_knows_to_where(resolver: Resolver) -> None:
    watch = Watch()
    async with Peer(BOB) as bob, Peer(ADA, observers=[watch]) as ada:
        port = (await bob.listen("tcp://127.0.0.1:0")).addresses[0].port
        resolver.names[NAME] = [on_loopback(port)]
        await ada.dial(f"tcp://{BOB.id}@{NAME}:{port}")
    ends = {seen.step: seen.endpoint for seen in watch.steps}
    assert ends[Step.RESOLVED] is None
    assert ends[Step.CONNECTED] == ends[Step.VERDICT] == f"127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("error", "cause", "words"),
    [
        (REFUSED, Cause.REFUSED, "the port is closed"),
        (OSError(errno.ECONNRESET, ""), Cause.RESET, "the connection was made, and reset"),
        (OSError(errno.ETIMEDOUT, ""), Cause.TIMEOUT, "nothing had come back"),
        (OSError(errno.ENETUNREACH, ""), Cause.UNREACHABLE, "Network is unreachable"),
        (OSError("the pigeon is ill"), Cause.UNREACHABLE, "the pigeon is ill"),
        (trio.BrokenResourceError("the pigeon came back"), Cause.CLOSED, "the pigeon came back"),
        (trio.TooSlowError(), Cause.TIMEOUT, "the time was up"),
        (NoResponse(Phase.CONNECT, Cause.FOREIGN, protocol="Coo"), Cause.FOREIGN, "Coo is spoken there"),
    ],
)
async def test_where_every_place_fails_the_best_one_says_why(
    autojump_clock: MockClock, nursery: trio.Nursery, error: Exception, cause: Cause, words: str
) -> None:
    if isinstance(error, trio.TooSlowError):
        places = [(99.0, None), (99.0, None)]
    else:
        places = [(1, error), (0.1, OSError("another one"))]
    with pytest.raises(NoResponse, match=words) as caught:
        await open_stream(SCRIPT, Scripted(*places), Limits(), nursery)
    assert (caught.value.phase, caught.value.cause) == (Phase.CONNECT, cause)
    assert caught.value.elapsed == pytest.approx(10 if isinstance(error, trio.TooSlowError) else 1)


async def test_a_cancelled_dial_leaves_nothing_open_while_it_connects(resolver: Resolver) -> None:
    async with hanging_port() as hanging:
        resolver.names[NAME] = [on_loopback(hanging)] * 3
        before = open_sockets()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_tcp, Address(NAME, 1), Limits())
            await wait_all_tasks_blocked(0.3)  # the second one is under way too
            assert len(open_sockets()) > len(before)
            nursery.cancel_scope.cancel()
        assert open_sockets() == before


async def test_whatever_step_a_dial_is_cancelled_at_it_leaves_nothing_open(resolver: Resolver) -> None:
    async with open_port() as port:
        closed = on_loopback(await closed_port())
        resolver.names[NAME] = [closed, on_loopback(port), closed]

        async def open_and_close() -> None:
            await trio.aclose_forcefully(await open_tcp(Address(NAME, 1), QUICK))

        before = open_sockets()
        for step in range(1, 200):
            cancelled = await cancelled_at(step, open_and_close)
            await wait_all_tasks_blocked(0.01)
            assert open_sockets() == before, f"cancelled at step {step}"
            if not cancelled:
                break
        assert not cancelled
        assert step > 5


@pytest.mark.parametrize("host", ["127.0.0.1", "somewhere"])
async def test_an_error_of_a_dial_is_gone_with_the_last_who_has_it(host: str, resolver: Resolver) -> None:
    resolver.learn("127.0.0.1", ["127.0.0.1"])
    resolver.learn("somewhere", ["127.0.0.1", "127.0.0.2"])
    port = await closed_port()
    gc.collect()
    gc.disable()
    try:
        async with Peer(ADA, limits=QUICK) as ada:
            try:
                await ada.dial(f"tcp://{host}:{port}")
            except NoResponse as error:
                kept = weakref.ref(error)
            assert kept() is None
    finally:
        gc.enable()
