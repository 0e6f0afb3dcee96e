"""The other side hangs up, in every way and at every step: what the application gets is one error of one call.

Ada's application talks to Bob, who hangs up at some step of any task. Out of her blocks comes nothing, or the one
exception that a call of hers has raised: no group, unless a nursery of her own made it. Her handlers are told, and
Carl, who dials her afterwards, is served as if nothing had been.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock

from trishake import (
    Address,
    CloseCode,
    Connection,
    ConnectionClosed,
    DialError,
    LocalProtocolError,
    Memory,
    Peer,
    Stream,
    StreamRefused,
    StreamReset,
    Tcp,
    TrishakeError,
)

from .conftest import ADA, BOB, cancelled_at, open_sockets, receive_exactly, reset
from .world import CARL, MEM, TCP, TLS, WS, double, echo, peer, steady, thoughtful

__all__ = ["steady"]

pytestmark = pytest.mark.usefixtures("steady")

DOCUMENTED: Final = (DialError, ConnectionClosed, StreamReset, StreamRefused, trio.BrokenResourceError)
"""What a call of the application may raise when the other side hangs up."""

STEPS: Final = pytest.mark.parametrize(
    "stride", [pytest.param(7, marks=pytest.mark.slow, id="many steps"), pytest.param(223, id="some steps")]
)


# --- ways to hang up ------------------------------------------------------------------------------------


class Line:
    """Between two peers, like a cable: it carries what they say until it is cut, or reset."""

    def __init__(self, transport: Memory | Tcp, here: Address, nursery: trio.Nursery) -> None:
        self._transport = transport
        self._here = self._there = here
        self._nursery = nursery
        self._scope = trio.CancelScope()
        self._ends: list[Any] = []

    def lead_to(self, invite: str) -> str:
        """The invite of the same peer, over the line."""
        self._there = Address.parse(invite)
        return str(replace(self._there, host=self._here.host, port=self._here.port))

    async def carry(self, near: Any) -> None:
        self._ends.append(near)
        with self._scope:
            (place,) = await self._transport.resolve(self._there)
            with suppress(OSError):  # nobody is there any more
                far = await self._transport.connect(self._there, place, self._nursery)
                self._ends.append(far)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, near, far)
                    nursery.start_soon(self._pump, far, near)
        await self.cut()

    async def _pump(self, source: Any, sink: Any) -> None:
        try:
            async for data in source:
                await sink.send_all(data)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._scope.cancel()

    async def cut(self) -> None:
        self._scope.cancel()
        for end in self._ends:
            await trio.aclose_forcefully(end)

    async def reset(self) -> None:
        self._scope.cancel()
        for end in self._ends:
            if isinstance(end, trio.SocketStream) and end.socket.fileno() >= 0:
                await reset(end)


@asynccontextmanager
async def a_line(scheme: str) -> AsyncIterator[Line]:
    memory = scheme == "mem"
    transport = Memory() if memory else Tcp()  # under TLS and WebSocket too
    async with trio.open_nursery() as nursery:
        (bound,) = await transport.listen(Address.parse("mem://line" if memory else TCP), nursery)
        line = Line(transport, bound.address, nursery)

        async def serve() -> None:
            while True:
                nursery.start_soon(line.carry, await bound.listener.accept())

        nursery.start_soon(serve)
        try:
            yield line
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await bound.listener.aclose()
                await line.cut()


# --- Bob ------------------------------------------------------------------------------------------------


class Bob:
    """Who will hang up. He echoes, answers, and sets Ada's handler `work/1` to work."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.invite = ""
        self.listening = trio.Event()
        self.leaving = trio.Event()
        self.left = trio.Event()
        self.peer: Peer | None = None
        self.line: Line | None = None

    async def live(self, where: str, dialing: str | None) -> None:
        scheme = Address.parse(where).scheme
        with self.scope:
            async with a_line(scheme) as self.line, trio.open_nursery() as nursery:
                async with peer(BOB, trust=thoughtful) as self.peer:
                    self.peer.handle("echo/1", echo)
                    self.peer.handle_request("double/1", double)
                    listener = await self.peer.listen(where)
                    self.invite = self.line.lead_to(dialing or listener.invite)
                    self.listening.set()
                    nursery.start_soon(self._meet, nursery)
                    if dialing is not None:
                        nursery.start_soon(self._dial, self.invite)
                    await self.leaving.wait()
                self.left.set()

    async def _meet(self, nursery: trio.Nursery) -> None:
        assert self.peer is not None
        async for connection in self.peer.arrivals():
            nursery.start_soon(self._talk, connection)

    async def _dial(self, invite: str) -> None:
        with suppress(DialError, LocalProtocolError):
            await self.peer.dial(invite)

    async def _talk(self, connection: Connection) -> None:
        with suppress(TrishakeError, trio.BrokenResourceError, AssertionError):
            async with await connection.open_stream("work/1") as stream:
                while True:
                    await stream.send_all(b"work")
                    await receive_exactly(stream, 4)
                    await trio.sleep(0.01)

    async def cut(self) -> None:
        assert self.line is not None
        await self.line.cut()

    async def reset(self) -> None:
        assert self.line is not None
        await self.line.reset()

    async def die(self) -> None:
        self.scope.cancel()

    async def leave(self) -> None:
        self.leaving.set()
        await self.left.wait()

    def close(self, code: CloseCode) -> Callable[[], Awaitable[None]]:
        async def close() -> None:
            assert self.peer is not None
            for connection in self.peer.connections:
                await connection.aclose(code, "good bye")

        return close


HangUp = Callable[[Bob], Callable[[], Awaitable[None]]]

WAYS: Final[dict[str, HangUp]] = {
    "cut": lambda bob: bob.cut,
    "killed": lambda bob: bob.die,
    "left": lambda bob: bob.leave,
    "reset": lambda bob: bob.reset,
    **{code.name: lambda bob, code=code: bob.close(code) for code in CloseCode},  # type: ignore[misc]
}


GONE: Final = [*WAYS.values()][:4]
"""After these there is no Bob any more; a CLOSE ends the connections that he has, and he may dial again."""


# --- Ada's application ----------------------------------------------------------------------------------


async def talk(connection: Connection) -> None:
    async with await connection.open_stream("echo/1") as stream:
        await stream.send_all(b"hello")
        await receive_exactly(stream, 5)
        await stream.send_eof()
        await stream.receive_some()


async def ask(connection: Connection) -> None:
    assert await connection.request("double/1", 21) == 42
    await connection.ping()


async def one_after_the_other(ada: Peer, invite: str) -> None:
    async with await ada.dial(invite) as connection:
        await talk(connection)
        await ask(connection)


async def in_a_nursery_of_its_own(ada: Peer, invite: str) -> None:
    async with await ada.dial(invite) as connection, trio.open_nursery() as nursery:
        nursery.start_soon(talk, connection)
        nursery.start_soon(ask, connection)
        nursery.start_soon(connection.closed)
        await ask(connection)
        nursery.cancel_scope.cancel()


async def wait_for_the_end(ada: Peer, invite: str) -> None:
    """It sends more than anybody reads, until it is hung up on."""
    async with await ada.dial(invite) as connection, await connection.open_stream("echo/1") as stream:
        with trio.move_on_after(0.1):
            while True:
                await stream.send_all(bytes(50_000))


async def be_dialed(ada: Peer, invite: str) -> None:
    """Bob dials Ada, while she does nothing but wait for him; his stream is handled meanwhile."""
    with trio.move_on_after(0.1):
        async for connection in ada.arrivals():
            await talk(connection)


APPLICATIONS: Final = {
    "plain": one_after_the_other,
    "nursery": in_a_nursery_of_its_own,
    "full": wait_for_the_end,
    "dialed": be_dialed,
}


class Worker:
    """Ada's handler; what ended it each time."""

    def __init__(self) -> None:
        self.ends: list[BaseException | None] = []
        self.running = 0

    async def __call__(self, stream: Stream) -> None:
        self.running += 1
        try:
            async with stream, trio.open_nursery():
                async for chunk in stream:
                    await stream.send_all(chunk)
        except BaseException as error:
            self.ends.append(error)
            raise
        else:
            self.ends.append(None)
        finally:
            self.running -= 1


def leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


async def serve_carl(ada: Peer, invite: str) -> None:
    """An honest third peer is served as ever."""
    async with (
        peer(CARL) as carl,
        await carl.dial(invite) as connection,
        await connection.open_stream("echo/1") as stream,
    ):
        await stream.send_all(b"as ever")
        assert await receive_exactly(stream, 7) == b"as ever"


async def hung_up_on(step: int, way: HangUp, application: str, where: str) -> tuple[bool, Exception | None]:
    """Whether it came to that; and what Ada's application got."""
    bob, worker = Bob(), Worker()
    inner: Exception | None = None
    outer: Exception | None = None
    reached = False
    async with trio.open_nursery() as nursery:
        waiting = trio.CancelScope()

        async def hang_up() -> None:
            nonlocal reached
            with waiting:
                reached = await cancelled_at(step, trio.sleep_forever)
            if reached:
                await way(bob)()

        try:
            async with peer(ADA, trust=thoughtful) as ada:
                ada.handle("echo/1", echo)
                ada.handle("work/1", worker)
                listener = await ada.listen(where.replace("bob", "ada"))
                nursery.start_soon(bob.live, where, listener.invite if application == "dialed" else None)
                await bob.listening.wait()
                nursery.start_soon(hang_up)
                try:
                    with trio.fail_after(10):
                        await APPLICATIONS[application](ada, bob.invite)
                except Exception as error:  # noqa: BLE001
                    inner = error
                waiting.cancel()
                await serve_carl(ada, listener.invite)
                if reached and way in GONE:
                    with trio.fail_after(2):
                        while worker.running or ada.connections:
                            await trio.sleep(0.01)
                if inner is not None:
                    raise inner
        except Exception as error:  # noqa: BLE001
            outer = error
        nursery.cancel_scope.cancel()
    assert outer is inner
    assert all(end is None or isinstance(end, BaseExceptionGroup) for end in worker.ends)
    for end in worker.ends:
        if isinstance(end, ExceptionGroup):  # of its own nursery; a cancelled handler was one of Ada's leaving
            assert all(isinstance(leaf, DOCUMENTED) for leaf in leaves(end))
    return reached, outer


async def hang_up_everywhere(way: str, application: str, where: str, stride: int) -> None:
    codes = {CloseCode.__members__.get(way)}
    if way == "left":  # a dialer who leaves before he has read READY has no CLOSE to say
        codes = {CloseCode.GOING_AWAY, None} if application == "dialed" else {CloseCode.GOING_AWAY}
    first = 1 + len(way + application) * 13 % stride  # not the same steps everywhere
    for step in range(first, 5000, stride):
        reached, end = await hung_up_on(step, WAYS[way], application, where)
        try:
            if end is not None:
                if application == "nursery" and isinstance(end, ExceptionGroup):
                    assert all(isinstance(inner, DOCUMENTED) for inner in end.exceptions)
                else:
                    assert isinstance(end, DOCUMENTED)
                for leaf in leaves(end):
                    if isinstance(leaf, ConnectionClosed):
                        assert leaf.by_peer
                        assert leaf.code in codes
        except AssertionError as error:
            error.add_note(f"hung up at step {step}: {end!r}")
            raise error from end
        if not reached:
            break
    assert not reached


def in_memory() -> list[Any]:
    """Every way to hang up on every application; by default of five ways two or three on each."""
    often = ("cut", "killed", "left", "NORMAL", "PROTOCOL")
    return [
        pytest.param(
            way,
            application,
            marks=[] if way in often and (often.index(way) + at) % 2 == 0 else [pytest.mark.slow],
        )
        for way in WAYS
        if way != "reset"
        for at, application in enumerate(APPLICATIONS)
    ]


@STEPS
@pytest.mark.parametrize(("way", "application"), in_memory())
async def test_hung_up_on_at_any_step_an_application_gets_one_error_and_the_next_peer_is_served(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, way: str, application: str, stride: int
) -> None:
    await hang_up_everywhere(way, application, MEM, stride)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def on_sockets() -> list[Any]:
    """Everything over each; by default over TCP what memory has not, and less over what lies on top of it."""
    every = [
        (where, way, one) for where in (TCP, TLS, WS) for way in ("cut", "reset", "killed") for one in APPLICATIONS
    ]
    often = {(where, "cut", "dialed") for where in (TCP, TLS, WS)}
    often |= {(TCP, "reset", one) for one in APPLICATIONS} | {(TCP, "killed", "nursery"), (TCP, "cut", "full")}
    return [
        pytest.param(
            *case, marks=[] if case in often else [pytest.mark.slow], id="-".join(case).replace("://", "-")
        )
        for case in every
    ]


@STEPS
@pytest.mark.parametrize(("where", "way", "application"), on_sockets())
async def test_hung_up_on_over_a_socket_an_application_gets_one_error_and_the_next_peer_is_served(
    caplog: pytest.LogCaptureFixture, where: str, way: str, application: str, stride: int
) -> None:
    before = open_sockets()
    await hang_up_everywhere(way, application, where, stride)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert open_sockets() == before
