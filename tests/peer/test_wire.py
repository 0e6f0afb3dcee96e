"""_wire.py: any Trio stream will do, and what differs between them shows in what a cancelled write leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from trishake import CloseCode, ConnectionClosed, Rejected, Untrusted, VerdictCode, only
from trishake._wire import SocketWire, Wire

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
