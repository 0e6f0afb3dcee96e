from __future__ import annotations
import gc
from functools import partial
import pytest, trio
from trio.testing import wait_all_tasks_blocked, lockstep_stream_pair
import trishake
from trishake import *
from trishake_protocol.messages import Close, Ping, RecordType, FrameType, encode_frame
from .conftest import *
from .conftest import ByHand
from .test_secure_stream import clog, small_tcp_pair


async def test_version():
    assert "wt-review" in trishake.__file__


async def test_close_behind_data_send():
    ada, hand = await meet_by_hand(tcp_pair)
    await hand.say(
        hand.record(RecordType.DATA, b"before"),
        hand.record(RecordType.CLOSE, Close(CloseCode.GOING_AWAY).encode()),
    )
    assert await ada.receive_some() == b"before"
    with pytest.raises(ConnectionClosed):
        await ada.send_all(b"x")


async def test_breach_behind_data_send():
    ada, hand = await meet_by_hand(tcp_pair)
    await hand.say(hand.record(RecordType.DATA, b"before"), encode_frame(FrameType.RECORD, bytes(40)))
    assert await ada.receive_some() == b"before"
    with pytest.raises(ConnectionClosed):
        await ada.send_all(b"x")


async def test_breach_behind_data_aclose():
    ada, hand = await meet_by_hand(tcp_pair)
    await hand.say(hand.record(RecordType.DATA, b"before"), encode_frame(FrameType.RECORD, bytes(40)))
    assert await ada.receive_some() == b"before"
    async with trio.open_nursery() as n:
        n.start_soon(ada.aclose)
        assert await hand.hear_close() == Close(CloseCode.PROTOCOL)


async def test_busy():
    ada, hand = await meet_by_hand(small_tcp_pair)
    await clog(ada)
    # drain what is queued so that only the kernel is full
    async with trio.open_nursery() as n:
        n.start_soon(ada.receive_some)
        n.start_soon(ada.wait_send_all_might_not_block)
        await wait_all_tasks_blocked(SETTLED)
        await hand.say(hand.record(RecordType.PING, Ping(b"are you?").encode()))
        await wait_all_tasks_blocked(SETTLED)
        n.cancel_scope.cancel()


async def test_busy2():
    ada, hand = await meet_by_hand(small_tcp_pair)
    # fill the kernel from below, so that nothing is queued
    while True:
        try:
            ada._wire.stream.socket._sock.send(b"x" * 1000)
        except BlockingIOError:
            break
    async with trio.open_nursery() as n:
        n.start_soon(ada.receive_some)
        n.start_soon(ada.wait_send_all_might_not_block)
        await wait_all_tasks_blocked(SETTLED)
        await hand.say(hand.record(RecordType.PING, Ping(b"are you?").encode()))
        await wait_all_tasks_blocked(SETTLED)
        n.cancel_scope.cancel()


async def test_wait_writable_wakes_with_cause():
    ada, hand = await meet_by_hand(small_tcp_pair)
    while True:
        try:
            ada._wire.stream.socket._sock.send(b"x" * 1000)
        except BlockingIOError:
            break
    async with trio.open_nursery() as n:

        async def wait():
            with pytest.raises(ConnectionClosed):
                await ada.wait_send_all_might_not_block()

        n.start_soon(wait)
        await wait_all_tasks_blocked(SETTLED)
        await hand.say(encode_frame(FrameType.RECORD, bytes(40)))
        with pytest.raises(ConnectionClosed):
            await ada.receive_some()
        await wait_all_tasks_blocked(SETTLED)
        n.cancel_scope.cancel()


async def test_lockstep_wait_aclose(autojump_clock):
    ada, bob = await meet(await lockstep_pair())
    async with trio.open_nursery() as n:

        async def wait():
            with pytest.raises(trio.ClosedResourceError):
                await ada.wait_send_all_might_not_block()
            print("woken", trio.current_time() - t)

        n.start_soon(wait)
        await wait_all_tasks_blocked()
        t = trio.current_time()

        async def b():
            await trio.sleep(0.01)
            assert await bob.receive_some() == b""
            await bob.aclose()

        n.start_soon(b)
        await ada.aclose()
        assert trio.current_time() - t < 0.1


async def test_interrupt_lock_waiter():
    ada, hand = await meet_by_hand(small_tcp_pair)
    await clog(ada)
    await hand.say(hand.record(RecordType.PING, Ping(b"are you?").encode()))
    woken = []
    async with trio.open_nursery() as n:

        async def go(name, call):
            with pytest.raises(trio.ClosedResourceError):
                await call()
            woken.append((name, trio.current_time()))

        n.start_soon(go, "r", ada.receive_some)
        await wait_all_tasks_blocked(SETTLED)
        n.start_soon(go, "s", partial(ada.send_all, b"x" * 100000))
        await wait_all_tasks_blocked(SETTLED)
        t = trio.current_time()
        n.start_soon(ada.aclose)
        await wait_all_tasks_blocked(0.02)
        assert len(woken) == 2, woken


async def test_forceful_close_reader_beside_flush():
    for _ in range(20):
        ada, hand = await meet_by_hand(small_tcp_pair)
        await clog(ada)
        async with trio.open_nursery() as n:

            async def go():
                with pytest.raises(trio.ClosedResourceError):
                    await ada.receive_some()

            n.start_soon(go)
            await wait_all_tasks_blocked(0.01)
            await trio.aclose_forcefully(ada)


async def test_strided():
    ada, bob = await meet(await memory_pair())
    await ada.send_all(memoryview(b"abcdef")[::2])
    assert await bob.receive_some() == b"ace"


async def test_cast():
    ada, bob = await meet(await memory_pair())
    d = bytes(range(250)) * 4000
    await ada.send_all(memoryview(d).cast("I"))
    assert await receive_exactly(bob, len(d)) == d
