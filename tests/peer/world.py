"""Two peers, and everything that must be as it was when one thing between them has gone wrong.

world           Ada and Bob, a connection between them, and on it a stream that a witness talks over
World.check     nothing is left of what was done meanwhile, and the witness is still understood
steady          tasks take their turns in the same order, each time a test runs
"""

from __future__ import annotations

import random
import socket as stdlib_socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import trio

from trishake import (
    Address,
    Bound,
    Connection,
    Decision,
    Identity,
    Introduction,
    Limits,
    Listener,
    Memory,
    Peer,
    Place,
    Stream,
    Tcp,
    accept,
    reject,
)
from trishake_protocol.patterns import CLASSICAL

from .conftest import ADA, BOB, EVE, ByHand, Ends, open_sockets, receive_exactly

HASTY: Final = Limits(
    connections_per_identity=1000,
    handshake_burst=10**6,
    connect=2,
    syn=2,
    greeting=4,
    policy=2,
    write_alert=0.2,
    drain_after_alert=0.1,
    drain_after_verdict=0.1,
    close=0.2,
    finish=0.2,
    open_stream=1,
)
"""As many connections and dials as a test likes, and none of them long waited for."""

CARL: Final = Identity.from_seed(b"c" * 32)

MEM: Final = "mem://bob"
TCP: Final = "tcp://127.0.0.1:0"
TLS: Final = "tls://127.0.0.1:0"
WS: Final = "ws://127.0.0.1:0/trishake"

_BREACHES: Final = {"PROTOCOL", "FLOW_CONTROL", "INTERNAL", "KEY_LIMIT"}


def peer(identity: Identity, **options: Any) -> Peer:
    return Peer(identity, **{"limits": HASTY, "suites": (CLASSICAL.id,), **options})


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trio shuffles who runs first in a turn; here it shuffles each time alike."""
    monkeypatch.setattr("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING", True)
    monkeypatch.setattr("trio._core._run._r", random.Random(1))


# --- handlers -------------------------------------------------------------------------------------------


async def echo(stream: Stream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


async def say_nothing(stream: Stream) -> None:
    """Reads nothing and says nothing, for a moment."""
    await trio.sleep(0.02)


class Sink:
    """A handler that keeps what comes, stream by stream; it begins to read a while after the stream was opened."""

    def __init__(self, pause: float = 0) -> None:
        self.pause = pause
        self.received: dict[int, bytearray] = {}
        self.ended: dict[int, bool] = {}
        """Whether the end was clean."""

    async def __call__(self, stream: Stream) -> None:
        received = self.received[stream.id] = bytearray()
        self.ended[stream.id] = False
        await trio.sleep(self.pause)
        async for chunk in stream:
            received += chunk
        self.ended[stream.id] = True


async def nobody(_: Introduction) -> Decision:
    return reject(text="not here")


async def undecided(_: Introduction) -> Decision:
    await trio.sleep_forever()
    raise AssertionError


async def thoughtful(_: Introduction) -> Decision:
    for _ in range(3):
        await trio.lowlevel.checkpoint()
    return accept()


async def double(value: Any, _: object) -> Any:
    await trio.lowlevel.checkpoint()
    return value * 2


class Narrow(Tcp):
    """TCP whose kernel buffers are full soon."""

    async def connect(self, address: Address, place: Place, nursery: trio.Nursery) -> trio.SocketStream:
        stream = await super().connect(address, place, nursery)
        stream.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_SNDBUF, 16 * 1024)
        stream.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_RCVBUF, 16 * 1024)
        return stream

    async def listen(self, address: Address, nursery: trio.Nursery) -> Sequence[Bound]:
        bounds = await super().listen(address, nursery)
        for bound in bounds:
            assert isinstance(bound.listener, trio.SocketListener)
            for option in (stdlib_socket.SO_SNDBUF, stdlib_socket.SO_RCVBUF):  # accepted sockets inherit them
                bound.listener.socket.setsockopt(stdlib_socket.SOL_SOCKET, option, 16 * 1024)
        return bounds


# --- the world ------------------------------------------------------------------------------------------


class World:
    """Ada has dialed Bob; `connection` is hers and `there` his, `stream` is the witness's."""

    def __init__(
        self,
        ada: Peer,
        bob: Peer,
        listener: Listener,
        connection: Connection,
        there: Connection,
        stream: Stream,
        ends: Ends,
    ) -> None:
        self.ada = ada
        self.bob = bob
        self.listener = listener
        self.connection = connection
        self.there = there
        self.stream = stream
        self.ends = ends
        """How greetings end, at both of them."""
        self._number = 0
        self._tasks = trio.lowlevel.current_statistics().tasks_living
        self._sockets = open_sockets()

    @property
    def invite(self) -> str:
        return self.listener.invite

    def number(self) -> int:
        """Another one each time, for names."""
        self._number += 1
        return self._number

    def left(self) -> dict[str, object]:
        """What there is beside the witness, by what it is."""
        everything: dict[str, object] = {
            "tasks": trio.lowlevel.current_statistics().tasks_living - self._tasks,
            "sockets": open_sockets() ^ self._sockets,
            "slots": self.bob._admission._held + sum(self.bob._admission._held_by.values()),
            "greetings": len(self.listener.greetings),
            "places": len(self.bob._inbound) - 1,
            "streams": {*self.connection.streams, *self.there.streams} ^ {self.stream, *self.there.streams[:1]},
            "streams in sessions": (len(self.connection._carried) - 1, len(self.there._carried) - 1) != (0, 0),
            "given up": self.connection._given_up or self.there._given_up,
            "greetings that observers see no end of": self.ends.under_way,
            "ends of greetings that have ended": self.ends.again,
        }
        for who, one, kept in (("Ada", self.ada, self.connection), ("Bob", self.bob, self.there)):
            everything[f"{who}'s connections"] = {*one.connections} ^ {kept}
            everything[f"{who}'s dials"] = one._registry._dials
            everything[f"{who}'s turns"] = one._registry._turns
            everything[f"{who}'s keepers"] = one._keepers
            everything[f"{who}'s breaches"] = _BREACHES & one.statistics().ended.keys()
        return {name: what for name, what in everything.items() if what}

    async def check(self, within: float = 3) -> None:
        """Soon there is nothing but the witness, and he is understood."""
        pause = 0.002
        with trio.move_on_after(within):
            while self.left():
                await trio.sleep(pause)
                pause = min(1.5 * pause, 0.1)
        if left := self.left():
            raise AssertionError(f"left over: {left}")
        text = f"witness {self.number()}".encode()
        with trio.fail_after(1):
            await self.stream.send_all(text)
            assert await receive_exactly(self.stream, len(text)) == text


@asynccontextmanager
async def world(
    where: str = MEM,
    *,
    ada: dict[str, Any] | None = None,
    bob: dict[str, Any] | None = None,
    handlers: dict[str, Callable[[Stream], Awaitable[object]]] | None = None,
) -> AsyncIterator[World]:
    """ada, bob: options of theirs. handlers: of Bob's, beside `echo/1`."""
    ends = Ends()
    watched = {"observers": [ends]}
    async with peer(BOB, **watched, **(bob or {})) as at_bob, peer(ADA, **watched, **(ada or {})) as at_ada:
        at_bob.handle("echo/1", echo)
        for protocol, handler in (handlers or {}).items():
            at_bob.handle(protocol, handler)
        listener = await at_bob.listen(where)
        connection = await at_ada.dial(listener.invite)
        async with await connection.open_stream("echo/1") as stream:
            await trio.testing.wait_all_tasks_blocked(0.005)
            (there,) = at_bob.connections
            yield World(at_ada, at_bob, listener, connection, there, stream, ends)


# --- somebody else --------------------------------------------------------------------------------------


@asynccontextmanager
async def by_hand(script: Callable[[ByHand], Awaitable[None]], name: str = "hand") -> AsyncIterator[str]:
    """The invite of somebody in memory behind whom a script stands, with Eve's identity."""
    async with trio.open_nursery() as nursery:
        (bound,) = await Memory().listen(Address.parse(f"mem://{name}"), nursery)

        async def serve() -> None:
            while True:
                nursery.start_soon(script, ByHand(await bound.listener.accept()))

        nursery.start_soon(serve)
        try:
            yield str(bound.address.with_peer(EVE.id))
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await bound.listener.aclose()
