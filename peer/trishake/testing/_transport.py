"""check_transport: what a transport promises, tried out with real streams, one sentence a promise."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, NoReturn

import trio

from .._addresses import Address
from .._errors import NoResponse
from .._limits import Limits
from .._transport import Transport, open_stream
from ._promises import SOON, check, in_a_sentence, within_time

_QUIET: Final = 0.2
"""Seconds in which something that must not happen would have happened."""

_MEGABYTE: Final = 1024 * 1024

_UNBOUNDED: Final = 64 * _MEGABYTE
"""Bytes that no transport takes for a reader who does not read; the kernel's buffers for TCP are below 16 MB."""

_AT_ONCE: Final = 10
"""Connections."""

_CANCELS: Final = 400
"""Of a reader, while some hundred times as many bytes come."""

_STEPS: Final = 40
"""Of the scheduler, at each of which a connect is cancelled once."""

_Check = Callable[["_Bench"], Awaitable[None]]


async def check_transport(transport: Transport, address: Address | str) -> None:
    """Whether a transport keeps the promises of `Transport`. Raises AssertionError with the one that it breaks.

    address: where it can listen: `tcp://127.0.0.1:0`, say. Takes some seconds; nobody else may listen there.
    """
    where = Address.parse(address) if isinstance(address, str) else address
    check(where.scheme in transport.schemes, f"{where.scheme}:// is not among its schemes, {transport.schemes}")
    for promise in _CHECKS:
        with in_a_sentence(promise.__doc__ or ""):
            async with _bench(transport, where) as bench:
                await promise(bench)


class _Bench:
    """A listener, and pairs of streams between it and its dialers. nursery: the one that the transport uses."""

    def __init__(
        self,
        transport: Transport,
        address: Address,
        listeners: list[trio.abc.Listener[trio.abc.Stream]],
        nursery: trio.Nursery,
    ) -> None:
        self.transport = transport
        self.address = address
        self.listeners = listeners
        self.nursery = nursery
        self.streams: list[trio.abc.Stream] = []
        self.tasks = len(nursery.child_tasks)

    async def close(self) -> None:
        with trio.CancelScope(shield=True):  # a forceful close waits for nothing
            for resource in (*self.streams, *self.listeners):
                await trio.aclose_forcefully(resource)

    async def wait_for_no_task(self, when: str) -> None:
        with within_time(f"its tasks to end, {when}"):
            while len(self.nursery.child_tasks) > self.tasks:
                await trio.sleep(0.001)

    async def dial(self) -> trio.abc.Stream:
        return await open_stream(self.address, self.transport, Limits(), self.nursery)

    async def accept(self) -> trio.abc.Stream:
        return await self.listeners[0].accept()

    async def pair(self) -> tuple[trio.abc.Stream, trio.abc.Stream]:
        """A dialer's end and the listener's. A byte has passed: whatever handshake there is, it is done."""
        dialed: list[trio.abc.Stream] = []

        async def dial() -> None:
            stream = await self.dial()
            await stream.send_all(b"!")
            dialed.append(stream)

        with within_time("a dial to be accepted"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(dial)
                accepted = await self.accept()
                first = await accepted.receive_some(1)
        check(first == b"!", f"the dialer sent b'!', and {first!r} arrived")
        self.streams += (dialed[0], accepted)
        return dialed[0], accepted


@asynccontextmanager
async def _bench(transport: Transport, address: Address) -> AsyncGenerator[_Bench]:
    async with trio.open_nursery() as nursery:
        with within_time("listen to return"):
            bounds = await transport.listen(address, nursery)
        check(len(bounds) > 0, "listen returned no listener")
        bench = _Bench(transport, bounds[0].address, [bound.listener for bound in bounds], nursery)
        try:
            yield bench
        finally:
            await bench.close()
        await bench.wait_for_no_task("after every stream and listener was closed")


# --- the promises ---------------------------------------------------------------------------------------


async def _check_alone(bench: _Bench) -> None:
    """A listener says where it is bound, and is alone there"""
    check(bench.address.scheme in bench.transport.schemes, f"bound at {bench.address}: not a scheme of its own")
    check(bench.address.peer is None, f"bound at {bench.address}, which names a peer")
    try:
        others = await bench.transport.listen(bench.address, bench.nursery)
    except OSError:
        others = ()
    for bound in others:
        await trio.aclose_forcefully(bound.listener)
    check(not others, f"two listeners share {bench.address}; the second one must get an OSError")
    await bench.pair()


async def _check_closed_listener(bench: _Bench) -> None:
    """A closed listener wakes who waits in it, takes no dial, and leaves its place to the next"""
    await bench.pair()
    with within_time("accept to be woken by the close of its listener"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_closed, bench.accept, "accept while the listener was closed")
            await _settle()
            for listener in bench.listeners:
                await listener.aclose()
    await _expect_closed(bench.accept, "accept after aclose")
    with within_time("a dial to a closed listener to fail"):
        try:
            await trio.aclose_forcefully(await bench.dial())
        except NoResponse:
            pass  # as it must be
        else:
            raise AssertionError(f"nobody listens at {bench.address} any more, and it could be dialed")
    async with _bench(bench.transport, bench.address) as again:
        await again.pair()


async def _check_both_directions(bench: _Bench) -> None:
    """Both directions carry what is sent, at the same time"""
    here, there = await bench.pair()
    there_says, here_says = os.urandom(_MEGABYTE), os.urandom(_MEGABYTE)
    with within_time("1 MiB in each direction at the same time"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.send_all, here_says)
            nursery.start_soon(there.send_all, there_says)
            nursery.start_soon(_expect, there, here_says, "what the dialer sent")
            nursery.start_soon(_expect, here, there_says, "what the listener sent")


async def _check_writes_of_any_size(bench: _Bench) -> None:
    """Writes and reads may be of any size"""
    here, there = await bench.pair()
    odd = os.urandom(_MEGABYTE + 1)
    pieces: list[bytes | bytearray | memoryview] = [b"a", b"", bytearray(b"bc"), memoryview(b"def"), odd, b"z"]
    with within_time("tiny and big writes"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect, there, b"".join(pieces), "tiny and big writes")
            for piece in pieces:
                await here.send_all(piece)
        await here.send_all(b"abc")
        got = await there.receive_some(1)
        check(got == b"a", f"receive_some(1) gave {got!r} of b'abc'")
        await _expect(there, b"bc", "the rest after receive_some(1)")


async def _check_end_of_stream(bench: _Bench) -> None:
    """aclose loses nothing that was sent, and the other side reads the end behind it"""
    for closing, reading in ((0, 1), (1, 0)):
        ends = await bench.pair()
        with within_time("the end of the stream after aclose"):
            await ends[closing].send_all(b"last words")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ends[closing].aclose)
                await _expect(ends[reading], b"last words", "what was sent before aclose")
                await _expect_end(ends[reading])


async def _check_half_close(bench: _Bench) -> None:
    """After send_eof the other direction goes on, where a stream half-closes"""
    here, there = await bench.pair()
    if not isinstance(here, trio.abc.HalfCloseableStream):
        return
    check(isinstance(there, trio.abc.HalfCloseableStream), "the dialer's end half-closes, the listener's does not")
    with within_time("an answer over a half-closed stream"):
        await here.send_all(b"question")
        await here.send_eof()
        await _expect(there, b"question", "what was sent before send_eof")
        await _expect_end(there)
        await there.send_all(b"answer")
        await there.aclose()
        await _expect(here, b"answer", "what came after our send_eof")
        await _expect_end(here)


async def _check_back_pressure(bench: _Bench) -> None:
    """Who writes waits for a reader who does not read, and learns when he leaves"""
    here, there = await bench.pair()
    sent = 0
    ended = trio.Event()

    async def write() -> None:
        nonlocal sent
        try:
            while sent < _UNBOUNDED:
                await here.send_all(bytes(64 * 1024))
                sent += 64 * 1024
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        before = -1
        while before < sent:
            before = sent
            await trio.sleep(_QUIET)
        check(sent < _UNBOUNDED, f"{sent} bytes were taken from the writer, and nobody read one of them")
        await trio.aclose_forcefully(there)
        with within_time("a writer who waits to learn that the reader has left"):
            await ended.wait()


async def _check_several_at_once(bench: _Bench) -> None:
    """Several connections at once keep apart"""

    async def answer(stream: trio.abc.Stream) -> None:
        try:
            while data := await stream.receive_some():
                await stream.send_all(data)
        finally:
            await trio.aclose_forcefully(stream)

    async def ask(number: int) -> None:
        stream = await bench.dial()
        try:
            question = f"<{number}>".encode() * 100
            await stream.send_all(question)
            await _expect(stream, question, f"the answer on connection {number} of {_AT_ONCE} at once")
        finally:
            await stream.aclose()

    with within_time(f"{_AT_ONCE} connections at once"):
        async with trio.open_nursery() as nursery:
            for number in range(_AT_ONCE):
                nursery.start_soon(ask, number)
            for _ in range(_AT_ONCE):
                nursery.start_soon(answer, await bench.accept())


async def _check_silent_dialer(bench: _Bench) -> None:
    """accept waits for no handshake: a dialer who is silent would keep the others out"""
    silent = trio.Event()

    async def dial_and_say_nothing() -> None:
        with trio.move_on_after(SOON):
            stream = await bench.dial()
            bench.streams.append(stream)
        silent.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial_and_say_nothing)
        with within_time("accept, where a dialer is there and says nothing"):
            bench.streams.append(await bench.accept())
        nursery.cancel_scope.cancel()
    await bench.pair()


async def _check_close_wakes_its_own_side(bench: _Bench) -> None:
    """A closed stream wakes who waits in it, and takes no further call"""
    for index in (0, 1):
        end = (await bench.pair())[index]
        with within_time("a reader to be woken by the close of his own stream"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_expect_closed, end.receive_some, "receive_some while the stream was closed")
                await _settle()
                await end.aclose()
        await _expect_closed(end.receive_some, "receive_some after aclose")
        await _expect_closed(partial(end.send_all, b"x"), "send_all after aclose")
        await _expect_closed(end.wait_send_all_might_not_block, "wait_send_all_might_not_block after aclose")
        with within_time("a second aclose"):
            await end.aclose()


async def _check_forceful_close(bench: _Bench) -> None:
    """A forceful close is immediate, and the other side learns of it"""
    for index in (0, 1):
        ends = await bench.pair()
        with within_time("a forceful close", seconds=1):
            await trio.aclose_forcefully(ends[index])
        with within_time("the other side to be woken by a forceful close"):
            try:
                data = await ends[1 - index].receive_some()
            except trio.BrokenResourceError:
                data = b""
        check(data == b"", f"nothing was sent before a forceful close, and {data!r} arrived")
        with within_time("a writer to learn that the other side has left"):
            try:
                while True:
                    await ends[1 - index].send_all(bytes(64 * 1024))
            except trio.BrokenResourceError:
                pass  # as it must be


async def _check_cancelled_receive(bench: _Bench) -> None:
    """A cancelled receive_some loses nothing"""
    here, there = await bench.pair()
    expected = os.urandom(256 * 1024)
    received = bytearray()

    async def trickle() -> None:
        for start in range(0, len(expected), 1021):
            await here.send_all(expected[start : start + 1021])
            await trio.lowlevel.checkpoint()

    with within_time("all to arrive at a reader who is cancelled again and again"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle)
            for step in range(_CANCELS):
                with trio.CancelScope() as scope:
                    nursery.start_soon(_cancel, scope, step % 4)
                    received += await there.receive_some(1000)
            while len(received) < len(expected):
                received += await there.receive_some()
    check(bytes(received) == expected, "a cancelled receive_some has lost or changed bytes")


async def _check_cancelled_accept(bench: _Bench) -> None:
    """A cancelled accept loses nobody"""
    for _ in range(3):
        with trio.move_on_after(0.01):
            bench.streams.append(await bench.accept())
            raise AssertionError("accept gave a stream that nobody had dialed")
    await bench.pair()


async def _check_cancelled_connect(bench: _Bench) -> None:
    """A cancelled connect leaves nothing behind"""

    async def end_all() -> NoReturn:
        while True:
            await trio.aclose_forcefully(await bench.accept())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_all)
        for step in range(_STEPS):
            with trio.CancelScope() as scope:
                nursery.start_soon(_cancel, scope, step)
                try:
                    await trio.aclose_forcefully(await bench.dial())
                except NoResponse:
                    continue  # whoever accepts has closed before our handshake was through
            await bench.wait_for_no_task(f"after connect was cancelled at step {step}")
        nursery.cancel_scope.cancel()
    while True:  # those who gave up while they waited to be accepted
        with trio.move_on_after(_QUIET):
            await trio.aclose_forcefully(await bench.accept())
            continue
        break
    await bench.pair()


_CHECKS: Final[tuple[_Check, ...]] = (
    _check_alone,
    _check_closed_listener,
    _check_both_directions,
    _check_writes_of_any_size,
    _check_end_of_stream,
    _check_half_close,
    _check_back_pressure,
    _check_several_at_once,
    _check_silent_dialer,
    _check_close_wakes_its_own_side,
    _check_forceful_close,
    _check_cancelled_receive,
    _check_cancelled_accept,
    _check_cancelled_connect,
)


# --- what is expected ------------------------------------------------------------------------------------


async def _expect(stream: trio.abc.ReceiveStream, expected: bytes, what: str) -> None:
    received = bytearray()
    while len(received) < len(expected):
        data = await stream.receive_some(len(expected) - len(received))
        check(len(data) > 0, f"{what}: the stream ended after {len(received)} of {len(expected)} bytes")
        received += data
    check(bytes(received) == expected, f"{what}: {len(expected)} bytes arrived, and not the same")


async def _expect_end(stream: trio.abc.ReceiveStream) -> None:
    data = await stream.receive_some()
    check(data == b"", f"expected the end of the stream, got {len(data)} bytes")


async def _expect_closed(call: Callable[[], Awaitable[object]], what: str) -> None:
    try:
        await call()
    except trio.ClosedResourceError:
        return
    raise AssertionError(f"{what} must raise ClosedResourceError, and did not")


async def _cancel(scope: trio.CancelScope, after_steps: int) -> None:
    for _ in range(after_steps):
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def _settle() -> None:
    """Let a task that was just started come to where it waits."""
    await trio.sleep(0.01)
