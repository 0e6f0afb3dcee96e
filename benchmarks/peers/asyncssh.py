"""AsyncSSH on asyncio: Ed25519 host key and user key, each pinned at the other.

A stream is a `direct-tcpip` channel that the listener's process takes itself. The dialer knows that its key was
accepted; the ciphers and key exchange are the library's defaults.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncssh

from benchmarks.measure import STREAMS, WRITE, AsyncioLoop, End, Place, arguments, main

USER = "ada"


class AsyncSsh:
    """The Subject."""

    name = "asyncssh"
    imports = "import asyncio, asyncssh"
    loop = AsyncioLoop()
    streams = STREAMS
    failures = (asyncssh.Error, OSError)

    @asynccontextmanager
    async def place(self, dialers: int) -> AsyncGenerator[Place]:
        host_key, user_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
        place = _Place(user_key, host_key)
        async with await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=lambda: _Server(place),
            server_host_keys=[host_key],
            authorized_client_keys=asyncssh.import_authorized_keys(user_key.export_public_key().decode()),
            backlog=4096,
        ) as listener:
            place.port = listener.get_port()
            yield place


class _Place(Place):
    def __init__(self, user_key: asyncssh.SSHKey, host_key: asyncssh.SSHKey) -> None:
        self.port = 0
        self._user_key = user_key
        self._known_hosts = asyncssh.import_known_hosts(f"* {host_key.export_public_key().decode()}")
        self.arrived: asyncio.Queue[None] = asyncio.Queue()
        self.opened: asyncio.Queue[_Stream] = asyncio.Queue()

    async def dial(self, port: int, dialer: int) -> End:
        connection = await asyncssh.connect(
            "127.0.0.1",
            port,
            username=USER,
            client_keys=[self._user_key],
            known_hosts=self._known_hosts,
            agent_path=None,
            config=None,
        )
        return _DialerEnd(connection)

    async def accept(self) -> End:
        await self.arrived.get()
        return _ListenerEnd(self.opened)


class _Server(asyncssh.SSHServer):
    def __init__(self, place: _Place) -> None:
        self._place = place

    def auth_completed(self) -> None:
        self._place.arrived.put_nowait(None)

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> Callable[[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]], Awaitable[None]]:
        return self._take

    async def _take(self, reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
        self._place.opened.put_nowait(_Stream(reader, writer))


class _Stream:
    def __init__(self, reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
        self._reader = reader
        self._writer = writer

    async def send_all(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def receive_some(self) -> bytes:
        return await self._reader.read(WRITE)


class _DialerEnd:
    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self._connection = connection

    async def open_stream(self) -> _Stream:
        return _Stream(*await self._connection.open_connection("stream", 1))


class _ListenerEnd:
    def __init__(self, opened: asyncio.Queue[_Stream]) -> None:
        self._opened = opened

    async def accept_stream(self) -> _Stream:
        return await self._opened.get()


if __name__ == "__main__":
    main(AsyncSsh(), arguments().parse_args())
