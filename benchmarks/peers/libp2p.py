"""py-libp2p on Trio, TCP, with its defaults: Noise with Ed25519 identities, and Yamux streams.

In one thing it has better than its default (0.8.1): with one connection for each peer instead of up to three, a
connect returns once it is there; else it waits for 250 ms, also where there is no other address to try.

A dialer is a host of its own, as a second connect to the same peer gives the first connection. After a
connection has opened libp2p goes on in the background, and each side asks who the other is (identify); part of
that falls within the time of the handshakes.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import trio
from libp2p import new_host
from libp2p.abc import IHost, INetConn, INetStream, INetwork, INotifee
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.config import ConnectionConfig
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.rcmgr.connection_limits import ConnectionLimits
from libp2p.rcmgr.manager import ResourceLimits, ResourceManager
from multiaddr import Multiaddr

from benchmarks.measure import STREAMS, WRITE, End, Place, TrioLoop, arguments, main

PROTOCOL = "/bench/1"

MANY = 100_000
"""Connections that a host has room for; with the defaults it refuses the 257th."""


class Libp2p:
    """The Subject."""

    name = "py-libp2p"
    imports = "import libp2p, trio"
    loop = TrioLoop()
    streams = STREAMS
    failures = (BaseLibp2pError,)

    @asynccontextmanager
    async def place(self, dialers: int) -> AsyncGenerator[Place]:
        async with AsyncExitStack() as block:
            dialing = [await run_host(block, []) for _ in range(dialers)]
            host = await run_host(block, [Multiaddr("/ip4/127.0.0.1/tcp/0")])
            yield _Place(host, dialing)


async def run_host(block: AsyncExitStack, addresses: list[Multiaddr]) -> IHost:
    host = new_host(
        key_pair=create_new_key_pair(),
        connection_config=ConnectionConfig(max_connections=MANY, high_watermark=MANY, max_connections_per_peer=1),
        resource_manager=ResourceManager(
            ResourceLimits(max_connections=MANY), connection_limits=ConnectionLimits()
        ),
    )
    await block.enter_async_context(host.run(listen_addrs=addresses))
    return host


class _Place(Place):
    def __init__(self, host: IHost, dialing: list[IHost]) -> None:
        self.port = int(host.get_addrs()[0].value_for_protocol("tcp"))
        self._id = host.get_id()
        self._dialing = dialing
        self._arrived, self._arrivals = trio.open_memory_channel[INetConn](math.inf)
        self._opened, self._streams = trio.open_memory_channel[INetStream](math.inf)
        host.get_network().register_notifee(_Notifee(self._arrived))
        host.set_stream_handler(PROTOCOL, self._handle)

    async def _handle(self, stream: INetStream) -> None:
        self._opened.send_nowait(stream)

    async def dial(self, port: int, dialer: int) -> End:
        host = self._dialing[dialer]
        await host.connect(PeerInfo(self._id, [Multiaddr(f"/ip4/127.0.0.1/tcp/{port}")]))
        return _DialerEnd(host, self._id)

    async def accept(self) -> End:
        await self._arrivals.receive()
        return _ListenerEnd(self._streams)


class _Notifee(INotifee):
    def __init__(self, arrived: trio.MemorySendChannel[INetConn]) -> None:
        self._arrived = arrived

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        self._arrived.send_nowait(conn)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None: ...

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None: ...

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None: ...

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None: ...

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None: ...


class _Stream:
    def __init__(self, stream: INetStream) -> None:
        self._stream = stream
        self.send_all = stream.write

    async def receive_some(self) -> bytes:
        return await self._stream.read(WRITE)


class _DialerEnd:
    def __init__(self, host: IHost, listener: ID) -> None:
        self._host = host
        self._listener = listener

    async def open_stream(self) -> _Stream:
        return _Stream(await self._host.new_stream(self._listener, [PROTOCOL]))


class _ListenerEnd:
    def __init__(self, streams: trio.MemoryReceiveChannel[INetStream]) -> None:
        self._streams = streams

    async def accept_stream(self) -> _Stream:
        return _Stream(await self._streams.receive())


if __name__ == "__main__":
    main(Libp2p(), arguments().parse_args())
