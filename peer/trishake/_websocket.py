"""WebSocket: `ws://host:port/path` and `wss://…`, for networks and machines where only the web passes."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from ._addresses import Address
from ._tcp import Tcp
from ._tls import Tls
from ._transport import Bound, Place, Transport, begins_handshake

if TYPE_CHECKING:
    from ._websocket_stream import WebSocketStream


class WebSocket(Transport):
    """WebSocket over TCP (`ws`) or TLS (`wss`). Needs trio-websocket: `pip install 'trishake[websocket]'`.

    The bytes go as binary messages, whose bounds mean nothing. A listener takes dialers at its own path alone.
    client_context, server_context: for `wss`, as `Tls` has them; a page in a browser asks for a real certificate.
    """

    schemes = ("ws", "wss")

    def __init__(
        self, *, client_context: ssl.SSLContext | None = None, server_context: ssl.SSLContext | None = None
    ) -> None:
        self._carriers: dict[str, Transport] = {
            "ws": Tcp(),
            "wss": Tls(client_context=client_context, server_context=server_context),
        }

    async def resolve(self, address: Address) -> Sequence[Place]:
        """As TCP. Raises ImportError without trio-websocket."""
        _stream_class()
        return await self._carriers[address.scheme].resolve(address)

    def endpoint_of(self, address: Address, place: Place) -> str:
        return self._carriers[address.scheme].endpoint_of(address, place)

    async def connect(self, address: Address, place: Place, nursery: trio.Nursery) -> WebSocketStream:
        """A stream after the upgrade. Raises OSError, or NoResponse where no WebSocket answers."""
        carrier = await self._carriers[address.scheme].connect(address, place, nursery)
        begins_handshake("WebSocket")
        return await _stream_class().open(carrier, address, nursery)

    async def listen(self, address: Address, nursery: trio.Nursery) -> Sequence[Bound]:
        """As TCP. The upgrade is done at the first read or write, within the greeting's deadline."""
        _stream_class()
        return [
            bound._replace(listener=_WebSocketListener(bound.listener, address.path, nursery))
            for bound in await self._carriers[address.scheme].listen(address, nursery)
        ]


class _WebSocketListener(trio.abc.Listener["WebSocketStream"]):
    def __init__(self, carriers: trio.abc.Listener[trio.abc.Stream], path: str, nursery: trio.Nursery) -> None:
        self._carriers = carriers
        self._path = path
        self._nursery = nursery

    async def accept(self) -> WebSocketStream:
        return _stream_class().accepted(await self._carriers.accept(), self._path, self._nursery)

    async def aclose(self) -> None:
        await self._carriers.aclose()


def _stream_class() -> type[WebSocketStream]:
    """Loaded when the first such address is used: it brings a library with it that is an extra."""
    try:
        from ._websocket_stream import WebSocketStream
    except ImportError as error:
        raise ImportError("ws:// and wss:// need trio-websocket: pip install 'trishake[websocket]'") from error
    return WebSocketStream
