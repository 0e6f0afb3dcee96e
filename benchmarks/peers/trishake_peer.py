"""Trishake with everything on: `Peer` with its policy, admission, registry and streams."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import trio

from benchmarks.measure import STREAMS, End, Place, TrioLoop, arguments, main
from benchmarks.suites import SUITES, add_suite
from trishake import Address, Connection, DialError, Identity, Limits, Peer, Stream, only

PROTOCOL = "bench/1"

LIMITS = Limits(
    handshakes=10_000,
    handshakes_per_address=10_000,
    handshake_rate=1_000_000,
    handshake_burst=1_000_000,
    connections=100_000,
)
"""Admission is on, and lets all of them pass: they come from one address."""


class TrishakePeer:
    """The Subject."""

    imports = "import trishake"
    loop = TrioLoop()
    streams = STREAMS
    failures = (DialError,)

    def __init__(
        self,
        suite: str,
        address: str = "tcp://127.0.0.1:0",
        limits: Limits = LIMITS,
        *,
        optimistic: bool = False,
    ) -> None:
        """address: where it listens. optimistic: whether a question goes along with the dial."""
        self._address = address
        self._limits = limits
        self._optimistic = optimistic
        self.name = f"trishake peer {suite}"
        self._suites = SUITES[suite]

    @asynccontextmanager
    async def place(self, dialers: int) -> AsyncGenerator[Place]:
        bob, adas = Identity.generate(), [Identity.generate() for _ in range(dialers)]
        async with AsyncExitStack() as block:
            dialing = [
                await block.enter_async_context(
                    Peer(ada, trust=only(bob.id), suites=self._suites, limits=self._limits)
                )
                for ada in adas
            ]
            trust = only(*(ada.id for ada in adas))
            peer = await block.enter_async_context(
                Peer(bob, trust=trust, suites=self._suites, limits=self._limits)
            )
            place = _Place(peer, dialing, optimistic=self._optimistic)
            peer.handle(PROTOCOL, place.handle)
            place.invite = Address.parse((await peer.listen(self._address)).invite)
            place.port = place.invite.port
            yield place


class _Place(Place):
    def __init__(self, peer: Peer, dialing: list[Peer], *, optimistic: bool) -> None:
        self.invite: Address
        self._dialing = dialing
        self._optimistic = optimistic
        self._arrivals = peer.arrivals()
        self._opened, self._streams = trio.open_memory_channel[Stream](math.inf)

    async def handle(self, stream: Stream) -> None:
        self._opened.send_nowait(stream)
        await trio.sleep_forever()  # the stream is closed when its handler returns

    async def dial(self, port: int, dialer: int) -> End:
        connection = await self._dialing[dialer].dial(replace(self.invite, port=port))
        return _End(connection, self._streams)

    async def ask(self, port: int, dialer: int, question: bytes) -> Stream:
        if not self._optimistic:
            return await super().ask(port, dialer, question)
        return await self._dialing[dialer].open_stream(replace(self.invite, port=port), PROTOCOL, question)

    async def accept(self) -> End:
        return _End(await anext(self._arrivals), self._streams)


class _End:
    def __init__(self, connection: Connection, streams: trio.MemoryReceiveChannel[Stream]) -> None:
        self._connection = connection
        self._streams = streams

    async def open_stream(self) -> Stream:
        return await self._connection.open_stream(PROTOCOL)

    async def accept_stream(self) -> Stream:
        return await self._streams.receive()

    async def aclose(self) -> None:
        await self._connection.aclose()


if __name__ == "__main__":
    parser = arguments()
    add_suite(parser)
    parser.add_argument("--optimistic", action="store_true", help="latency: ask along with the dial")
    options = parser.parse_args()
    main(TrishakePeer(options.suite, optimistic=options.optimistic), options)
