"""Many streams, much data, many connections: all of it arrives, each has an outcome, nothing is left behind."""

from __future__ import annotations

import gc
import random
import resource
import sys
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Final

import pytest
import trio
from trio.testing import MockClock

from trishake import (
    AlertCode,
    Connection,
    DialError,
    Identity,
    Limits,
    Listener,
    NoResponse,
    Peer,
    Rejected,
    Stream,
)
from trishake_protocol.patterns import CLASSICAL

from .conftest import ADA, ANYWHERE, BOB, open_sockets, serving

KIB: Final = 1024
MIB: Final = 1024 * KIB

PATIENT: Final = Limits(connect=50, syn=50, greeting=50, policy=10, open_stream=50, close=20, finish=20)
"""For a crowd on a slow machine."""

UNLIMITED: Final = replace(
    PATIENT,
    handshakes=10_000,
    handshakes_per_address=10_000,
    handshake_rate=10_000,
    handshake_burst=10_000,
    connections=10_000,
)

SLOW: Final = pytest.mark.slow
BOTH: Final = pytest.mark.parametrize("where", ["mem://load", ANYWHERE], ids=["memory", "tcp"])


async def echo(stream: Stream) -> None:
    async for data in stream:
        await stream.send_all(data)


def peer(identity: Identity, limits: Limits = PATIENT) -> Peer:
    return Peer(identity, limits=limits, suites=(CLASSICAL.id,))


@asynccontextmanager
async def echoing(where: str, limits: Limits = PATIENT) -> AsyncIterator[tuple[Peer, Listener]]:
    """Bob, who answers echo/1."""
    async with peer(BOB, limits) as bob:
        bob.handle("echo/1", echo)
        yield bob, await bob.listen(where)


async def use_one(connection: Connection, said: bytes = b"hello") -> None:
    """A stream from its beginning to its end."""
    async with await connection.open_stream("echo/1") as stream:
        await stream.send_all(said)
        await stream.send_eof()
        heard = b""
        async for data in stream:
            heard += data
        assert heard == said


# --- many streams, one after the other ------------------------------------------------------------------


@contextmanager
def little_left(bound: int, *, traced: bool) -> Iterator[None]:
    """Bytes that may be in use afterwards and were not before. traced: exactly, which takes its time; else
    by the number of blocks, at 64 bytes each."""

    def in_use() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0] if traced else 64 * sys.getallocatedblocks()

    before = in_use()
    yield
    left = in_use() - before
    assert left <= bound


@pytest.mark.parametrize(
    ("where", "count", "traced"),
    [
        ("mem://load", 2000, False),
        pytest.param("mem://load", 10_000, True, marks=SLOW),
        pytest.param(ANYWHERE, 10_000, True, marks=SLOW),
    ],
)
async def test_streams_that_were_used_and_closed_leave_no_memory_behind(
    where: str, count: int, traced: bool
) -> None:
    async with echoing(where) as (bob, at_bob), peer(ADA) as ada:
        connection = await ada.dial(at_bob.invite)

        async def use(count: int) -> None:
            for _ in range(count):
                await use_one(connection)

        async def crowd(count: int) -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(use, count // 20)

        if traced:
            tracemalloc.start()
        try:
            await crowd(400)  # whatever is made once
            with little_left(64 * KIB, traced=traced):
                await crowd(count)
        finally:
            tracemalloc.stop()
        (at_bobs,) = bob.connections
        for end in (connection, at_bobs):
            assert end.streams == ()
            assert len(end._carried) == 0


# --- much, at once, over a line that splits and delays ----------------------------------------------------


async def carry(source: trio.SocketStream, sink: trio.SocketStream, rng: random.Random) -> None:
    async for data in source:
        rest = memoryview(data)
        while rest:
            size = rng.choice((1, 100, 10_000, 100_000))
            await sink.send_all(rest[:size])
            rest = rest[size:]
        if rng.random() < 0.1:
            await trio.sleep(rng.random() * 0.002)
    await sink.send_eof()


@asynccontextmanager
async def splitting(listener: Listener, seed: int) -> AsyncIterator[str]:
    """The invite by way of somebody who passes on in other parts than he gets, and takes his time."""

    async def relay(near: trio.SocketStream) -> None:
        far = await trio.open_tcp_stream("127.0.0.1", listener.addresses[0].port)
        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(carry, near, far, random.Random(seed))
            nursery.start_soon(carry, far, near, random.Random(seed + 1))

    async with serving(relay) as port:
        yield f"tcp://{BOB.id}@127.0.0.1:{port}"


@pytest.mark.parametrize("seed", [1])
async def test_64_streams_at_once_each_carry_a_mebibyte_both_ways(seed: int) -> None:
    block = random.Random(seed).randbytes(2 * MIB)
    arrived = 0

    async def talk(connection: Connection, number: int) -> None:
        nonlocal arrived
        said = memoryview(block)[number * 1009 : number * 1009 + MIB]
        async with await connection.open_stream("echo/1") as stream, trio.open_nursery() as nursery:
            nursery.start_soon(say, stream, said)
            at = 0
            async for data in stream:
                assert data == said[at : at + len(data)]
                at += len(data)
            assert at == MIB
            arrived += 1

    async def say(stream: Stream, data: memoryview) -> None:
        await stream.send_all(data)
        await stream.send_eof()

    async with echoing(ANYWHERE) as (_, at_bob), splitting(at_bob, seed) as invite, peer(ADA) as ada:
        connection = await ada.dial(invite)
        async with trio.open_nursery() as nursery:
            for number in range(64):
                nursery.start_soon(talk, connection, number)
        await connection.aclose()
    assert arrived == 64


# --- many connections -----------------------------------------------------------------------------------


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


CROWDS: Final = pytest.mark.parametrize("count", [60, pytest.param(1000, marks=SLOW)])


async def all_dial(invite: str, peers: list[Peer]) -> list[Connection | DialError]:
    outcomes: list[Connection | DialError] = []

    async def dial(who: Peer) -> None:
        try:
            outcomes.append(await who.dial(invite))
        except DialError as error:
            outcomes.append(error)

    async with trio.open_nursery() as nursery:
        for who in peers:
            nursery.start_soon(dial, who)
    return outcomes


@asynccontextmanager
async def crowd_of(count: int) -> AsyncIterator[list[Peer]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(peer(Identity.generate())) for _ in range(count)]


@CROWDS
@BOTH
async def test_a_crowd_that_dials_at_once_is_connected_and_each_can_talk(
    where: str, count: int, many_files: None
) -> None:
    before = open_sockets()
    async with echoing(where, UNLIMITED) as (bob, at_bob), crowd_of(count) as crowd:
        outcomes = await all_dial(at_bob.invite, crowd)
        connections = [outcome for outcome in outcomes if isinstance(outcome, Connection)]
        assert len(connections) == count, Counter(str(outcome)[:60] for outcome in outcomes)
        assert len(bob.connections) == count
        async with trio.open_nursery() as nursery:
            for connection in connections:
                nursery.start_soon(use_one, connection, connection.session_id * 100)
        async with trio.open_nursery() as nursery:
            for connection in connections:
                nursery.start_soon(connection.aclose)
        with trio.fail_after(20):
            while bob.connections:
                await trio.sleep(0.01)
    assert open_sockets() == before


@CROWDS
@BOTH
async def test_a_crowd_that_dials_at_once_has_an_outcome_each_within_the_default_limits(
    where: str, count: int, many_files: None, socket_clock: MockClock
) -> None:
    """On a clock that stands still meanwhile: on a slow machine nobody would come too fast."""
    before = open_sockets()
    async with echoing(where, Limits()) as (bob, at_bob), crowd_of(count) as crowd:
        outcomes = await all_dial(at_bob.invite, crowd)
        assert len(outcomes) == count
        connections = [outcome for outcome in outcomes if isinstance(outcome, Connection)]
        assert connections
        if where == ANYWHERE:
            assert len(connections) < count
        for outcome in outcomes:
            if isinstance(outcome, Rejected):
                assert (outcome.reason, outcome.retryable) == (AlertCode.BUSY, True)
            else:  # BUSY is said on sockets, and up to a number; then they just close
                assert isinstance(outcome, Connection | NoResponse)
        for connection in connections:
            await use_one(connection)
            await connection.aclose()
        with trio.fail_after(20):
            while met(bob) < count:
                await trio.sleep(0.01)
        assert met(bob) == count
    assert open_sockets() == before


def met(bob: Peer) -> int:
    """How many have dialed him, whatever came of it."""
    statistics = bob.statistics()
    return statistics.accepted + sum(statistics.refused.values())
