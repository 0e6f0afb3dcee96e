"""Transports, the two ends of a greeting, and whoever may stand at the other one.

memory, lockstep, tcp   pairs of streams; a scenario runs over each by parameter
meet, outcomes          two real ends greet over such a pair
ByHand                  one end in our hands: real Noise, and inside it whatever a test wants
met, linked             two connections with streams: of two Peers over TCP, or over such a pair
linked_by_hand          one of them, and the other end in our hands
relayed                 a man in the middle, who changes what passes
serving                 a TCP port behind which a script stands
"""

from __future__ import annotations

import functools
import inspect
import os
import socket as stdlib_socket
import struct
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, open_stream_to_socket_listener

from trishake import (
    Connection,
    DialError,
    Identity,
    Limits,
    Listener,
    Network,
    Observer,
    Peer,
    Progress,
    Role,
    SecureStream,
    Step,
    Stream,
    StreamHandler,
    Suite,
    Timeline,
    anyone,
    initiate,
    respond,
)
from trishake._greeting import Greeter, greet_as_initiator, greet_as_responder
from trishake._handlers import Handler, Handlers
from trishake._observers import Observers
from trishake._signer import Signer
from trishake._timeline import Trace
from trishake._wire import Wire
from trishake.testing import _by_hand
from trishake.testing._by_hand import mux
from trishake_protocol import Profile, Session
from trishake_protocol.limits import MUX
from trishake_protocol.messages import (
    FrameType,
    MuxFlag,
    MuxType,
    encode_frame,
)
from trishake_protocol.patterns import CLASSICAL, SUITES

PSK: Final = bytes(range(32))
NOW: Final = 1_800_000_000
ABORTED: Final = bytes.fromhex("7f00010a")
"""The only ALERT that a dialer ever sends, framed."""

QUICK: Final = Limits(
    connect=2,
    syn=2,
    greeting=4,
    policy=2,
    write_alert=0.5,
    drain_after_alert=0.3,
    drain_after_verdict=0.3,
    close=0.3,
    duplicate_ping=0.5,
    crossing=0.5,
    finish=0.3,
)
"""For real sockets: long enough for a slow machine to greet, short where a test has to see the end."""

SETTLED: Final = 0.02
"""Seconds without a task that runs: what is under way on a socket is through by then."""

ANYWHERE: Final = "tcp://127.0.0.1:0"

ADA: Final = Identity.from_seed(b"a" * 32)
BOB: Final = Identity.from_seed(b"b" * 32)
EVE: Final = Identity.from_seed(b"e" * 32)


# --- every test ends ------------------------------------------------------------------------------------

_PATIENCE: Final = 60
"""Seconds of the test's own clock, after which something hangs."""

_sockets: list[trio.socket.SocketType] = []
"""Of `tcp_pair` and `narrow_pair`; closed when the test ends."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if (
            isinstance(item, pytest.Function)
            and item.path.parent == here
            and inspect.iscoroutinefunction(item.obj)
        ):
            item.obj = _bounded(item.obj)


def _bounded(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        try:
            with trio.fail_after(_PATIENCE):
                await test(*args, **kwargs)
        finally:
            while _sockets:  # a test that has failed, or ended in the middle, bothers no other
                _sockets.pop().close()

    return run


class CancelAt(trio.abc.Instrument):
    """Cancels a scope at the n-th step that any task takes: cancellation has to be right at every one."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._scope = scope
        self.steps_left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps_left -= 1
        if self.steps_left == 0:
            self._scope.cancel()


async def cancelled_at(step: int, call: Callable[[], Awaitable[object]]) -> bool:
    """Whether the call got as far as that step, and was cancelled there."""
    with trio.CancelScope() as scope:
        instrument = CancelAt(scope, step)
        trio.lowlevel.add_instrument(instrument)
        try:
            await call()
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return instrument.steps_left <= 0


@pytest.fixture
def socket_clock() -> MockClock:
    """A virtual clock for real sockets of this process: nobody waits for a deadline, and none comes too soon.

    It jumps when no task has run for 10 ms. What is sent on loopback has arrived by then.
    Nothing for a test that polls: where tasks never rest, the time stands still.
    """
    return MockClock(autojump_threshold=0.01)


def everything_of(error: BaseException | None) -> str:
    """All that a log could show of it and of what it came from, whether its context is suppressed or not."""
    shown = ""
    while error is not None:
        shown += "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error)) + repr(error.args)
        error = error.__context__
    return shown


# --- files ----------------------------------------------------------------------------------------------


def written(path: Path, content: bytes | str) -> Path:
    """A file that is its owner's alone."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(0o600)
    return path


NOBODY: Final = ("nothing", "no directory", "a file", "a stale socket", "too long")
"""Why nobody can be reached at a path."""


def nobody_at(path: Path, what: str) -> Path:
    """Where there is one of NOBODY."""
    match what:
        case "no directory":
            return path / "deeper"
        case "a file":
            path.write_text("")
        case "a stale socket":
            with stdlib_socket.socket(stdlib_socket.AF_UNIX) as crashed:
                crashed.bind(str(path))
        case "too long":
            return path.with_name("x" * 200)
    return path


# --- pairs of streams -----------------------------------------------------------------------------------

StreamPair = tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]
StreamPairMaker = Callable[[], Awaitable[StreamPair]]


async def memory_pair() -> StreamPair:
    return memory_stream_pair()


async def lockstep_pair() -> StreamPair:
    return lockstep_stream_pair()


async def tcp_pair(buffer: int | None = None) -> tuple[trio.SocketStream, trio.SocketStream]:
    """Two ends on loopback. buffer: bytes of each kernel buffer, to fill them soon."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener:
        if buffer is not None:
            listener.socket.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_RCVBUF, buffer)
        here = await open_stream_to_socket_listener(listener)
        there = await listener.accept()
    _sockets.extend((here.socket, there.socket))
    if buffer is not None:
        for stream in (here, there):
            stream.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_SNDBUF, buffer)
            stream.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_RCVBUF, buffer)
    return here, there


async def narrow_pair() -> StreamPair:
    """Sockets that are full soon. Not TCP: with such buffers its own timers would be what is tested."""
    here, there = trio.socket.socketpair()
    for end in (here, there):
        end.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, 16 * 1024)
    _sockets.extend((here, there))
    return trio.SocketStream(here), trio.SocketStream(there)


MEMORY_AND_TCP: Final = pytest.mark.parametrize("transport", [memory_pair, tcp_pair], ids=["memory", "tcp"])
EVERY_TRANSPORT: Final = pytest.mark.parametrize(
    "transport", [memory_pair, lockstep_pair, tcp_pair], ids=["memory", "lockstep", "tcp"]
)
EVERY_SUITE: Final = pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: f"0x{suite.id:04x}")


def network_of(suite: Suite) -> Network:
    """A network in which this suite is spoken."""
    return Network("home", PSK) if suite.pattern.psk else Network("home")


async def reset(stream: trio.SocketStream) -> None:
    """End a TCP connection as a crash does, with RST."""
    stream.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stream.aclose()


def open_sockets() -> set[str]:
    """The sockets that this process holds, by inode."""
    held = set()
    for entry in os.scandir("/proc/self/fd"):
        try:
            target = os.readlink(entry.path)
        except FileNotFoundError:  # the descriptor of the scan itself
            continue
        if target.startswith("socket:"):
            held.add(target)
    return held


async def receive_exactly(stream: trio.abc.ReceiveStream, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        data = await stream.receive_some(length - len(received))
        assert data, f"the stream ended after {len(received)} of {length} bytes"
        received += data
    return bytes(received)


# --- two real ends --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """What one side brings; `initiate` and `respond` take the same."""

    identity: Identity | Signer
    options: dict[str, Any]

    def having(self, **options: Any) -> Side:
        return Side(self.identity, {**self.options, **options})


def side(identity: Identity | Signer, **options: Any) -> Side:
    """network: Network("home", …), suites: of the quick classical kind, limits: QUICK; unless given."""
    network = options.get("network")
    suites = (0x0101,) if network is not None and network.private else (0x0001,)
    return Side(identity, {"limits": QUICK, "suites": suites, **options})


async def meet(
    streams: tuple[trio.abc.Stream, trio.abc.Stream], ada: Side | None = None, bob: Side | None = None
) -> tuple[SecureStream, SecureStream]:
    """Ada dials Bob, and both accept: her connection, his."""
    at_ada, at_bob = await outcomes(streams, ada, bob)
    for end in (at_ada, at_bob):
        if isinstance(end, DialError):
            raise end
    assert isinstance(at_ada, SecureStream)
    assert isinstance(at_bob, SecureStream)
    return at_ada, at_bob


async def outcomes(
    streams: tuple[trio.abc.Stream, trio.abc.Stream], ada: Side | None = None, bob: Side | None = None
) -> tuple[SecureStream | DialError, SecureStream | DialError]:
    """What comes of Ada's dial for her, and for Bob."""
    ada, bob = ada or side(ADA), bob or side(BOB)
    ends: dict[Role, SecureStream | DialError] = {}

    async def greet(
        role: Role, call: Callable[..., Awaitable[SecureStream]], stream: trio.abc.Stream, who: Side
    ) -> None:
        ends[role] = await outcome(call, stream, who.identity, **who.options)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(greet, Role.INITIATOR, initiate, streams[0], ada)
        nursery.start_soon(greet, Role.RESPONDER, respond, streams[1], bob)
    return ends[Role.INITIATOR], ends[Role.RESPONDER]


_Opened = TypeVar("_Opened", SecureStream, Connection)


async def outcome(call: Callable[..., Awaitable[_Opened]], *args: Any, **options: Any) -> _Opened | DialError:
    """What a greeting opened, or the error of whichever kind."""
    try:
        return await call(*args, **options)
    except DialError as error:
        return error


class Watch(Observer):
    """Remembers all that an observer is told."""

    def __init__(self) -> None:
        self.steps: list[Progress] = []
        self.failures: list[tuple[Role, DialError]] = []
        self._waiting = trio.lowlevel.ParkingLot()

    async def wait_failed(self) -> DialError:
        """The first failure, once there is one."""
        while not self.failures:
            await self._waiting.park()
        return self.failures[0][1]

    def progress(self, progress: Progress) -> None:
        self.steps.append(progress)

    def failed(self, role: Role, error: DialError) -> None:
        self.failures.append((role, error))
        self._waiting.unpark_all()


class Ends(Observer):
    """Watches that each greeting which begins has one end, and that nothing is told of it afterwards."""

    def __init__(self) -> None:
        self.under_way: set[int] = set()
        """Numbers of greetings that have begun and not ended."""
        self.again: list[str] = []
        """What was told of one that had ended already."""
        self.steps: list[Step] = []
        """Those that were taken."""
        self.cut_off: list[Timeline] = []
        self._ended: set[int] = set()

    def progress(self, progress: Progress) -> None:
        self.steps.append(progress.step)
        if progress.greeting in self._ended:
            self.again.append(f"{progress.greeting}: {progress.step}")
        self.under_way.add(progress.greeting)
        if progress.step is Step.VERDICT:
            self._end(progress.greeting, "verdict")

    def failed(self, role: Role, error: DialError) -> None:
        self._end(error.timeline.number, f"failed, {error}")

    def cancelled(self, role: Role, timeline: Timeline) -> None:
        assert role is timeline.role
        self.cut_off.append(timeline)
        self._end(timeline.number, "cancelled")

    def _end(self, number: int, how: str) -> None:
        self.under_way.discard(number)
        if number in self._ended:
            self.again.append(f"{number}: {how}")
        self._ended.add(number)


# --- one end by hand ------------------------------------------------------------------------------------


class ByHand(_by_hand.ByHand):
    """As the kit has it; Eve's unless another identity is given, in the network that the suite needs."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        identity: Identity = EVE,
        *,
        suite: Suite = CLASSICAL,
        network: Network | None = None,
        **options: Any,
    ) -> None:
        network = network or (Network("trishake", PSK) if suite.pattern.psk else Network())
        super().__init__(stream, identity, suite=suite, network=network, **options)


async def meet_by_hand(transport: StreamPairMaker, **options: Any) -> tuple[SecureStream, ByHand]:
    """A connection at Ada's, who dialed, and the other end in our hands."""
    at_ada, at_hand = await transport()
    hand = ByHand(at_hand)
    met: list[SecureStream] = []

    async def dial() -> None:
        met.append(await initiate(at_ada, ADA, **{**side(ADA).options, **options}))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        await hand.answer()
        await hand.say(hand.ready())
    return met[0], hand


def alert(code: int, detail: bytes = b"") -> bytes:
    """An ALERT, framed."""
    return encode_frame(FrameType.ALERT, bytes((code,)) + detail)


# --- connections with streams ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Met:
    """Two peers, and the connection that Ada has dialed: her end and Bob's."""

    ada: Peer
    bob: Peer
    at_ada: Connection
    at_bob: Connection


@asynccontextmanager
async def met(*, ada: dict[str, Any] | None = None, bob: dict[str, Any] | None = None) -> AsyncIterator[Met]:
    """Over TCP. ada, bob: what a `Peer` takes. What is open at the end is cut short."""
    options: dict[str, Any] = {"limits": QUICK, "suites": (CLASSICAL.id,)}
    async with Peer(BOB, **{**options, **(bob or {})}) as host, Peer(ADA, **{**options, **(ada or {})}) as guest:
        at_guest = await guest.dial((await host.listen(ANYWHERE)).invite)
        yield Met(guest, host, at_guest, await arrival(host))
        await guest.aclose(finish=0)


class Keep:
    """A handler that gives its streams to the test, and leaves them open."""

    def __init__(self) -> None:
        self._give, self._taken = trio.open_memory_channel[Stream](float("inf"))

    async def __call__(self, stream: Stream) -> None:
        self._give.send_nowait(stream)
        await trio.sleep_forever()

    async def open(self, connection: Connection, protocol: str = "keep/1") -> tuple[Stream, Stream]:
        """A stream from here, and its other end."""
        here = await connection.open_stream(protocol)
        return here, await self._taken.receive()


async def open_over(
    stream: trio.abc.Stream,
    role: Role,
    nursery: trio.Nursery,
    *,
    limits: Limits = QUICK,
    handlers: dict[str, StreamHandler] | None = None,
) -> Connection:
    """A connection over any stream, as a Peer makes them over sockets: Ada's is the initiator's."""
    profile = Profile(Network(), (CLASSICAL.id,), caps=(MUX,))
    identity = ADA if role is Role.INITIATOR else BOB
    make = Session.initiator if role is Role.INITIATOR else Session.responder
    session = make(identity, profile, now=NOW)
    greeter = Greeter(
        session,
        Wire.over(stream),
        identity=identity,
        trust=anyone,
        limits=limits,
        trace=Trace(role, identity.id, "trishake", None, Observers()),
    )
    greet = greet_as_initiator if role is Role.INITIATOR else greet_as_responder
    meeting = await greet(greeter)
    known = Handlers(limits, Observers())
    for protocol, function in (handlers or {}).items():
        known.add(Handler(protocol, function, None))
    connection = Connection(session, greeter.wire, meeting, limits, known, nursery, lambda *_: None)
    nursery.start_soon(connection.run)
    return connection


@asynccontextmanager
async def linked(
    transport: StreamPairMaker, *, limits: Limits = QUICK, handlers: dict[str, StreamHandler] | None = None
) -> AsyncIterator[tuple[Connection, Connection]]:
    """Ada's connection and Bob's, over such a pair. handlers: Bob's."""
    at_ada, at_bob = await transport()
    ends: dict[Role, Connection] = {}
    async with trio.open_nursery() as nursery:

        async def greet(stream: trio.abc.Stream, role: Role) -> None:
            ends[role] = await open_over(stream, role, nursery, limits=limits, handlers=handlers)

        async with trio.open_nursery() as greeting:
            greeting.start_soon(greet, at_ada, Role.INITIATOR)
            greeting.start_soon(greet, at_bob, Role.RESPONDER)
        yield ends[Role.INITIATOR], ends[Role.RESPONDER]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def linked_by_hand(
    transport: StreamPairMaker, *, limits: Limits = QUICK
) -> AsyncIterator[tuple[Connection, ByHand]]:
    """Ada's connection, who dialed, and the other end in our hands; READY has been said."""
    at_ada, at_hand = await transport()
    hand = ByHand(at_hand)
    ends: list[Connection] = []
    async with trio.open_nursery() as nursery:

        async def dial() -> None:
            ends.append(await open_over(at_ada, Role.INITIATOR, nursery, limits=limits))

        async with trio.open_nursery() as greeting:
            greeting.start_soon(dial)
            await hand.answer()
            await hand.say(hand.ready())
        yield ends[0], hand
        nursery.cancel_scope.cancel()


def accepted(stream: int) -> bytes:
    """The answer that takes a stream."""
    return mux(MuxType.DATA, MuxFlag.ACK, stream, b"\x00")


# --- in the middle --------------------------------------------------------------------------------------

Change = Callable[[Role, int, bytes], Iterable[bytes]]
"""(whose frame, its number, the frame) → what is passed on instead. The preface is the initiator's frame 0."""


@asynccontextmanager
async def relayed(transport: StreamPairMaker, change: Change) -> AsyncIterator[StreamPair]:
    """The initiator's end and the responder's, and between them somebody who changes what passes."""
    at_ada, near = await transport()
    far, at_bob = await transport()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_carry, near, far, Role.INITIATOR, change)
        nursery.start_soon(_carry, far, near, Role.RESPONDER, change)
        yield at_ada, at_bob
        nursery.cancel_scope.cancel()


async def _carry(
    source: trio.abc.HalfCloseableStream, sink: trio.abc.HalfCloseableStream, sender: Role, change: Change
) -> None:
    buffer = bytearray()
    number = 0
    try:
        while data := await source.receive_some():
            buffer += data
            while (length := frame_length(buffer, preface=sender is Role.INITIATOR and number == 0)) and (
                len(buffer) >= length
            ):
                frame = bytes(buffer[:length])
                del buffer[:length]
                for part in change(sender, number, frame):
                    await sink.send_all(part)
                number += 1
        await sink.send_all(buffer)
        await sink.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        await trio.aclose_forcefully(source)
        await trio.aclose_forcefully(sink)


def frame_length(buffer: bytearray, *, preface: bool) -> int:
    """Of the frame in front; 0 while that cannot be told."""
    if preface:
        return 19 + 2 * buffer[8] + int.from_bytes(buffer[9:11], "big") if len(buffer) >= 11 else 0
    return 3 + int.from_bytes(buffer[1:3], "big") if len(buffer) >= 3 else 0


def unchanged(sender: Role, number: int, frame: bytes) -> Iterable[bytes]:
    return [frame]


@asynccontextmanager
async def serving(script: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[int]:
    """The number of a port on loopback; whoever connects there meets the script, which is waited for."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as scripts, trio.open_nursery() as accepting:
        accepting.start_soon(partial(trio.serve_listeners, script, listeners, handler_nursery=scripts))
        yield listeners[0].socket.getsockname()[1]
        accepting.cancel_scope.cancel()


async def connect(listener: Listener) -> trio.SocketStream:
    """A dialer who has not said anything yet."""
    return await trio.open_tcp_stream("127.0.0.1", listener.addresses[0].port)


async def arrival(peer: Peer) -> Connection:
    """The first connection that is open at this peer, or opens."""
    return await anext(peer.arrivals())


async def closed_port() -> int:
    """A port on loopback where nobody listens."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener:
        return listener.socket.getsockname()[1]


Place = tuple[int, tuple[Any, ...]]
"""A family and a socket address of it."""


class Resolver(trio.abc.HostnameResolver):
    """Names as a test wants them: their places, in order, or what asking for them raises.

    An IPv4 address alone has the port that was asked for. Who asks for a name that is not there waits for it.
    """

    def __init__(self) -> None:
        self.names: dict[str, list[str | Place] | OSError] = {}
        self._waiting = trio.lowlevel.ParkingLot()

    def learn(self, name: str, places: list[str | Place]) -> None:
        """Answer those who wait."""
        self.names[name] = places
        self._waiting.unpark_all()

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host
        assert name is not None
        while name not in self.names:
            await self._waiting.park()
        found = self.names[name]
        if isinstance(found, OSError):
            raise found
        places = [(stdlib_socket.AF_INET, (at, port)) if isinstance(at, str) else at for at in found]
        return [(family, stdlib_socket.SOCK_STREAM, 0, "", sockaddr) for family, sockaddr in places]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


@pytest.fixture
async def resolver() -> AsyncIterator[Resolver]:
    """In the place of the system's."""
    fake = Resolver()
    trio.socket.set_custom_hostname_resolver(fake)
    yield fake
    trio.socket.set_custom_hostname_resolver(None)
