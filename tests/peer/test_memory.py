"""_memory.py: names within one run of Trio, and the bounded pipes between those who meet under them."""

from __future__ import annotations

import errno

import pytest
import trio
from trio.testing import MockClock, check_half_closeable_stream, wait_all_tasks_blocked

from trishake import Address, Cause, Limits, Memory, NoResponse, Phase
from trishake._memory import MemoryStream, memory_pair
from trishake._transport import open_stream

BOB_HERE = Address("bob", scheme="mem")


async def pair() -> tuple[MemoryStream, MemoryStream]:
    return memory_pair()


async def clogged_pair() -> tuple[MemoryStream, MemoryStream]:
    here, there = memory_pair()
    for stream in (here, there):
        await stream.send_all(bytes(64 * 1024))
    return here, there


async def test_a_stream_in_memory_is_what_trio_calls_a_half_closeable_stream() -> None:
    await check_half_closeable_stream(pair, clogged_pair)


async def test_it_holds_64_kib_and_not_a_byte_more() -> None:
    here, there = memory_pair()
    async with trio.open_nursery() as nursery:
        await here.send_all(bytes(64 * 1024 - 1))
        nursery.start_soon(here.send_all, b"abc")
        await wait_all_tasks_blocked()
        assert len(await there.receive_some()) == 64 * 1024
        assert await there.receive_some() == b"bc"


@pytest.mark.parametrize("most", [0, -1])
async def test_to_receive_nothing_is_no_question(most: int) -> None:
    here, _ = memory_pair()
    with pytest.raises(ValueError, match="at least 1"):
        await here.receive_some(most)


async def test_a_name_where_nobody_listens_refuses_at_once(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    with pytest.raises(NoResponse) as caught:
        await open_stream(BOB_HERE, Memory(), Limits(), nursery)
    assert (caught.value.phase, caught.value.cause, caught.value.elapsed) == (Phase.CONNECT, Cause.REFUSED, 0)


async def test_a_name_is_taken_until_its_listener_is_closed(nursery: trio.Nursery) -> None:
    (bound,) = await Memory().listen(BOB_HERE, nursery)
    with pytest.raises(OSError, match="somebody listens") as caught:
        await Memory().listen(BOB_HERE, nursery)
    assert caught.value.errno == errno.EADDRINUSE
    await bound.listener.aclose()
    (again,) = await Memory().listen(BOB_HERE, nursery)
    await bound.listener.aclose()  # once more: the name is another one's now
    await Memory().connect(BOB_HERE, BOB_HERE, nursery)
    await again.listener.aclose()


async def test_a_private_name_is_nobody_elses(nursery: trio.Nursery) -> None:
    private = Memory(private=True)
    await private.listen(BOB_HERE, nursery)
    for stranger in (Memory(), Memory(private=True)):
        with pytest.raises(ConnectionRefusedError):
            await stranger.connect(BOB_HERE, BOB_HERE, nursery)
    await private.connect(BOB_HERE, BOB_HERE, nursery)


def test_names_end_with_the_run() -> None:
    async def listen() -> None:
        async with trio.open_nursery() as nursery:
            await Memory().listen(BOB_HERE, nursery)

    trio.run(listen)
    trio.run(listen)


async def test_who_waits_to_be_accepted_learns_that_the_listener_was_closed(nursery: trio.Nursery) -> None:
    (bound,) = await Memory().listen(BOB_HERE, nursery)
    dialed = await Memory().connect(BOB_HERE, BOB_HERE, nursery)
    await bound.listener.aclose()
    assert await dialed.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await dialed.send_all(b"x")


async def test_a_full_backlog_makes_the_next_one_wait(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    (bound,) = await Memory().listen(BOB_HERE, nursery)
    for _ in range(128):
        await open_stream(BOB_HERE, Memory(), Limits(), nursery)
    with pytest.raises(NoResponse) as caught:
        await open_stream(BOB_HERE, Memory(), Limits(), nursery)
    assert caught.value.cause is Cause.TIMEOUT
    await bound.listener.accept()
    await open_stream(BOB_HERE, Memory(), Limits(), nursery)
