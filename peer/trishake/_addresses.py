"""Addresses, and invites: an address that names who is there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from trishake_protocol import InvalidPeerId, PeerId

from ._errors import InvalidAddress


@dataclass(frozen=True, slots=True)
class Address:
    """`tcp://host:port`, or as an invite `tcp://<peer id>@host:port`. An IPv6 host stands in brackets.

    port: 0 to 65535; 0 only to listen on. Raises InvalidAddress for another.
    """

    host: str
    port: int
    peer: PeerId | None = None
    scheme: str = "tcp"

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InvalidAddress(f"port {self.port} is none: a port is 0 to 65535")

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address or an invite. Raises InvalidAddress, saying what is wrong with it."""
        try:
            url = urlsplit(text)
            host, port = url.hostname, url.port
        except ValueError as error:
            raise InvalidAddress(f"{text!r} is no address: {error}") from None
        if url.scheme != "tcp":
            raise InvalidAddress(f"{text!r} is no address: it must begin with tcp://")
        if not host or port is None:
            raise InvalidAddress(
                f"{text!r} is no address: it must be tcp://host:port or tcp://<peer id>@host:port"
            )
        if url.path or url.query or url.fragment or url.password is not None:
            raise InvalidAddress(f"{text!r} is no address: nothing may stand behind the port")
        try:
            peer = None if url.username is None else PeerId.parse(url.username)
        except InvalidPeerId as error:
            raise InvalidAddress(f"{text!r} is no invite: {error}") from None
        return cls(host, port, peer)

    def with_peer(self, peer: PeerId) -> Address:
        """The invite to this address for who listens there."""
        return replace(self, peer=peer)

    def __str__(self) -> str:
        who = "" if self.peer is None else f"{self.peer}@"
        return f"{self.scheme}://{who}{format_endpoint(self.host, self.port)}"


def format_endpoint(host: str, port: int) -> str:
    """`192.0.2.7:4711` or `[2001:db8::1]:4711`, as VERDICT's `seen` has it (section 8)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
