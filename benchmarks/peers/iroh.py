"""iroh's Python binding, on asyncio: QUIC between two endpoints on loopback, without relays and discovery.

The binding copies what is written byte by byte, in Python (1.2.0, `_UniffiRustBufferBuilder.write`): bulk is a
figure of the binding, and none of iroh. A stream of QUIC is nothing until something is written on it, so the
dialer writes one byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import iroh

from benchmarks.measure import STREAMS, WRITE, AsyncioLoop, End, NotMeasured, Place, arguments, main

PROTOCOL = b"bench/1"


class Iroh:
    """The Subject."""

    name = "iroh"
    imports = "import asyncio, iroh"
    loop = AsyncioLoop()
    streams = STREAMS
    failures = (iroh.IrohError,)

    @asynccontextmanager
    async def place(self, dialers: int) -> AsyncGenerator[Place]:
        listener, dialer = await bind([PROTOCOL]), await bind([])
        place = _Place(listener, dialer)
        accepting = asyncio.create_task(place.serve())
        yield place
        accepting.cancel()


async def bind(protocols: list[bytes]) -> iroh.Endpoint:
    return await iroh.Endpoint.bind(
        iroh.EndpointOptions(
            preset=iroh.preset_minimal(),
            relay_mode=iroh.RelayMode.disabled(),
            bind_addr="127.0.0.1:0",
            alpns=protocols,
        )
    )


class _Place(Place):
    def __init__(self, listener: iroh.Endpoint, dialer: iroh.Endpoint) -> None:
        (address,) = [address for address in listener.bound_sockets() if address.startswith("127.0.0.1")]
        self.port = int(address.rpartition(":")[2])
        self._address = iroh.EndpointAddr(listener.id(), None, [address])
        self._listener = listener
        self._dialer = dialer
        self._arrivals: asyncio.Queue[iroh.Connection] = asyncio.Queue()

    async def serve(self) -> None:
        async with asyncio.TaskGroup() as greetings:
            while (incoming := await self._listener.accept_next()) is not None:
                greetings.create_task(self._greet(incoming))

    async def _greet(self, incoming: iroh.Incoming) -> None:
        accepting = await incoming.accept()
        self._arrivals.put_nowait(await accepting.connect())

    async def dial(self, port: int, dialer: int) -> End:
        if port != self.port:
            raise NotMeasured("QUIC runs over UDP, and the line of 50 ms relays TCP")
        return _End(await self._dialer.connect(self._address, PROTOCOL))

    async def accept(self) -> End:
        return _End(await self._arrivals.get())


class _End:
    def __init__(self, connection: iroh.Connection) -> None:
        self._connection = connection

    async def open_stream(self) -> _Stream:
        stream = _Stream(await self._connection.open_bi())
        await stream.send_all(b"!")
        return stream

    async def accept_stream(self) -> _Stream:
        stream = _Stream(await self._connection.accept_bi())
        await stream.receive_first()
        return stream


class _Stream:
    def __init__(self, stream: iroh.BiStream) -> None:
        self._receiving = stream.recv()
        self.send_all = stream.send().write_all

    async def receive_first(self) -> None:
        await self._receiving.read_exact(1)

    async def receive_some(self) -> bytes:
        return await self._receiving.read(WRITE)


if __name__ == "__main__":
    main(Iroh(), arguments().parse_args())
