"""_wire.py: any Trio stream will do, and what differs between them shows in what a cancelled write leaves."""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from trishake import CloseCode, ConnectionClosed, Rejected, Untrusted, VerdictCode, only
from trishake._wire import DescriptorWire, Interrupted, SocketWire, Wire

from .conftest import BOB, StreamPair, lockstep_pair, meet, memory_pair, outcomes, side, tcp_pair


class OneWayToEnd(trio.abc.Stream):
    """A stream that cannot half-close, as TLS for one."""

    def __init__(self, inner: trio.abc.Stream) -> None:
        self._inner = inner

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._inner.aclose()


AnyPairMaker = Callable[[], Awaitable[tuple[trio.abc.Stream, trio.abc.Stream]]]


async def without_half_close() -> tuple[trio.abc.Stream, trio.abc.Stream]:
    here, there = memory_stream_pair()
    return OneWayToEnd(here), OneWayToEnd(there)


async def unix_pair() -> StreamPair:
    here, there = trio.socket.socketpair()
    return trio.SocketStream(here), trio.SocketStream(there)


ANY_STREAM = pytest.mark.parametrize(
    "transport", [without_half_close, unix_pair, memory_pair, lockstep_pair, tcp_pair]
)


@ANY_STREAM
async def test_two_meet_and_part_over_any_stream(transport: AnyPairMaker) -> None:
    ada, bob = await meet(await transport())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ada.send_all, b"hello")
        assert await bob.receive_some() == b"hello"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ada.aclose, CloseCode.GOING_AWAY)
        with pytest.raises(ConnectionClosed):
            await bob.receive_some()
        await bob.aclose()


@ANY_STREAM
async def test_a_rejection_arrives_over_any_stream(transport: AnyPairMaker) -> None:
    ada, bob = await outcomes(await transport(), None, side(BOB, trust=only()))
    assert isinstance(ada, Rejected)
    assert ada.reason is VerdictCode.IDENTITY_UNKNOWN
    assert isinstance(bob, Untrusted)


async def test_only_tcp_has_an_address() -> None:
    here, _ = await tcp_pair()
    host, port = here.socket.getpeername()
    wire = Wire.over(here)
    assert isinstance(wire, SocketWire)
    assert (wire.address, wire.host) == (f"{host}:{port}", host)

    here, there = await unix_pair()
    assert isinstance(here, trio.SocketStream)
    wire = SocketWire(here)
    assert (wire.address, wire.host) == (None, "")
    await here.aclose()
    await there.aclose()
    assert SocketWire(here).address is None  # its other end is gone already

    for here, _ in (memory_stream_pair(), lockstep_stream_pair()):
        wire = Wire.over(here)
        assert type(wire) is Wire
        assert wire.address is None


class Says:
    """What a wire asks of a session."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def data_to_send(self) -> bytes:
        data, self._data = self._data, b""
        return data


async def test_what_is_queued_is_written_once_and_in_order() -> None:
    here, there = memory_stream_pair()
    wire = Wire.over(here)
    assert not wire.unsent
    assert not wire.pending
    await wire.flush()
    for session in (Says(b"one "), Says(b""), Says(b"two")):
        wire.queue(session)  # type: ignore[arg-type]
        wire.queue(session)  # type: ignore[arg-type]  # it has no more to say
    assert wire.unsent
    assert wire.pending
    await wire.flush()
    assert not wire.unsent
    assert await there.receive_some() == b"one two"


async def test_a_flush_cancelled_half_way_tears_a_stream_that_does_not_say_how_much_it_sent() -> None:
    here, _ = lockstep_stream_pair()
    wire = Wire.over(here)
    assert wire.tears
    wire.queue(Says(b"half-way"))  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.flush)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert wire.torn
    with pytest.raises(trio.BrokenResourceError, match="torn"):
        await wire.flush()


async def test_a_flush_cancelled_on_a_socket_goes_on_where_it_was() -> None:
    here, there = await tcp_pair(buffer=16 * 1024)
    wire = SocketWire(here)
    assert not wire.tears
    expected = bytes(range(256)) * 10_000
    wire.queue(Says(expected))  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.flush)
        await wait_all_tasks_blocked(0.05)
        nursery.cancel_scope.cancel()
    assert wire.pending
    received = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.flush)
        while len(received) < len(expected):
            received += await there.receive_some()
    assert received == expected
    assert not wire.torn


# --- a wire that is interrupted ---------------------------------------------------------------------------

WirePair = Callable[[], Awaitable[tuple[Wire, trio.abc.Stream]]]
"""A wire, and the other end of its stream."""


async def any_wire() -> tuple[Wire, trio.abc.Stream]:
    here, there = await lockstep_pair()
    return Wire(here), there


async def socket_wire() -> tuple[Wire, trio.abc.Stream]:
    here, there = await tcp_pair(buffer=16 * 1024)
    return SocketWire(here), there


async def descriptor_wire() -> tuple[Wire, trio.abc.Stream]:
    here, there = await tcp_pair(buffer=16 * 1024)
    return DescriptorWire(here), there


EVERY_WIRE = pytest.mark.parametrize("make", [any_wire, socket_wire, descriptor_wire])
EVERY_SOCKET_WIRE = pytest.mark.parametrize("make", [socket_wire, descriptor_wire])
MUCH = bytes(range(256)) * 10_000


def queued(wire: Wire, data: bytes = MUCH) -> Wire:
    wire.queue(Says(data))  # type: ignore[arg-type]
    return wire


class Ends:
    """What has become of calls that wait, by their names."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.of: dict[str, object] = {}

    def start(self, name: str, call: Callable[..., Awaitable[object]], *args: object) -> None:
        self._nursery.start_soon(self._run, name, call, args)

    async def _run(self, name: str, call: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
        try:
            self.of[name] = await call(*args)
        except (Interrupted, trio.ClosedResourceError, trio.BrokenResourceError) as error:
            self.of[name] = type(error)


@EVERY_WIRE
async def test_everyone_who_waits_is_interrupted_also_who_waits_for_the_writer(make: WirePair) -> None:
    wire, _ = await make()
    queued(wire)
    async with trio.open_nursery() as nursery:
        ends = Ends(nursery)
        for name in ("writes", "waits for him"):
            ends.start(name, wire.flush)
            await wait_all_tasks_blocked()
        ends.start("reads", wire.receive, 100)
        await wait_all_tasks_blocked()
        assert not ends.of
        wire.interrupt()
        await wait_all_tasks_blocked()
        assert ends.of == dict.fromkeys(("writes", "waits for him", "reads"), Interrupted)
        nursery.cancel_scope.cancel()


@EVERY_SOCKET_WIRE
async def test_a_socket_that_was_interrupted_goes_on_where_it_was_and_lost_nothing(make: WirePair) -> None:
    wire, there = await make()
    queued(wire)
    received = bytearray()
    for _ in range(3):
        async with trio.open_nursery() as nursery:
            ends = Ends(nursery)
            ends.start("writes", wire.flush)
            ends.start("reads", wire.receive, 100)
            await wait_all_tasks_blocked()
            received += await there.receive_some(1000)  # so few that nothing more can be written
            wire.interrupt()
        assert ends.of == {"writes": Interrupted, "reads": Interrupted}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.flush)
        while len(received) < len(MUCH):
            received += await there.receive_some()
    assert received == MUCH
    await there.send_all(b"and you?")
    assert await wire.receive(100) == b"and you?"


@EVERY_WIRE
async def test_nobody_who_comes_after_an_interruption_feels_it(make: WirePair) -> None:
    wire, there = await make()
    wire.interrupt()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queued(wire, b"late").flush)
        assert await there.receive_some() == b"late"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(there.send_all, b"me too")
        assert await wire.receive(100) == b"me too"
    await wire.abort()
    wire.interrupt()  # and there is nobody to be woken


async def test_an_interruption_in_the_moment_in_which_there_is_room_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire, _ = await descriptor_wire()
    assert not queued(wire).write_now()
    wait_writable = trio.lowlevel.wait_writable
    waited = 0

    async def interrupted_as_it_ends(descriptor: int) -> None:
        nonlocal waited
        waited += 1
        if waited > 1:
            await wait_writable(descriptor)
        wire.interrupt()

    monkeypatch.setattr(trio.lowlevel, "wait_writable", interrupted_as_it_ends)
    with pytest.raises(Interrupted):
        await wire.flush()
    assert waited == 2


@EVERY_SOCKET_WIRE
async def test_closing_a_socket_wakes_who_waits_on_it_as_closed(make: WirePair) -> None:
    wire, _ = await make()
    queued(wire)
    async with trio.open_nursery() as nursery:
        ends = Ends(nursery)
        ends.start("writes", wire.flush)
        ends.start("reads", wire.receive, 100)
        await wait_all_tasks_blocked()
        await wire.abort()
    assert ends.of == {"writes": trio.ClosedResourceError, "reads": trio.ClosedResourceError}


async def test_the_number_of_a_socket_that_was_closed_is_left_to_whoever_has_it_now() -> None:
    wire, _ = await descriptor_wire()
    assert isinstance(wire.stream, trio.SocketStream)
    number = wire.stream.socket.fileno()
    far, near = stdlib_socket.socketpair()
    with far, near:
        await wire.abort()
        os.dup2(near.fileno(), number)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.lowlevel.wait_readable, number)
                await wait_all_tasks_blocked()
                for call in (wire.flush, lambda: wire.receive(100)):
                    queued(wire, b"to whom?")
                    with pytest.raises(trio.ClosedResourceError):
                        await call()
                with pytest.raises(trio.ClosedResourceError):
                    wire.write_now()
                wire.interrupt()
                await wait_all_tasks_blocked()
                assert nursery.child_tasks
                far.send(b"not for you")
            far.setblocking(False)
            with pytest.raises(BlockingIOError):
                far.recv(100)
            assert near.recv(100) == b"not for you"
        finally:
            os.close(number)


@pytest.mark.parametrize("direction", ["writable", "readable"])
async def test_a_system_that_cannot_tell_when_a_socket_is_ready_is_a_broken_transport(
    direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire, _ = await descriptor_wire()
    queued(wire).write_now()

    async def fail(_: int) -> None:
        await trio.lowlevel.checkpoint()
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(trio.lowlevel, f"wait_{direction}", fail)
    with pytest.raises(trio.BrokenResourceError, match=os.strerror(errno.EBADF)):
        await (wire.flush() if direction == "writable" else wire.receive(100))


@EVERY_WIRE
async def test_a_call_that_is_over_is_remembered_by_nobody(make: WirePair) -> None:
    wire, there = await make()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queued(wire, b"x").flush)
        nursery.start_soon(there.send_all, b"y")
        assert await there.receive_some() == b"x"
        assert await wire.receive(1) == b"y"
    assert not wire._waiting


class Interrupts(OneWayToEnd):
    """Interrupts the wire at the very end of each call, as others may in the same turn of Trio's loop."""

    wire: Wire

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await super().send_all(data)
        self.wire.interrupt()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await super().receive_some(max_bytes)
        self.wire.interrupt()
        return data


async def test_who_has_what_he_waited_for_keeps_it_though_he_is_interrupted() -> None:
    here, there = memory_stream_pair()
    stream = Interrupts(here)
    wire = stream.wire = Wire(stream)
    await queued(wire, b"all of it").flush()
    assert not wire.torn
    assert await there.receive_some() == b"all of it"
    await there.send_all(b"not lost")
    assert await wire.receive(100) == b"not lost"


@EVERY_SOCKET_WIRE
async def test_no_more_is_read_than_there_is_room_for(make: WirePair) -> None:
    wire, there = await make()
    await there.send_all(b"abcdefg")
    assert [await wire.receive(3) for _ in range(3)] == [b"abc", b"def", b"g"]


async def test_a_socket_that_is_readable_by_rumour_only_is_waited_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire, there = await descriptor_wire()
    wait_readable = trio.lowlevel.wait_readable
    rumours = iter(range(3))

    async def spread(descriptor: int) -> None:
        if next(rumours, None) is None:
            await there.send_all(b"true")
            await wait_readable(descriptor)

    monkeypatch.setattr(trio.lowlevel, "wait_readable", spread)
    assert await wire.receive(100) == b"true"
