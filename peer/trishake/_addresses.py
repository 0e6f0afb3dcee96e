"""Addresses, and invites: an address that names who is there."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from trishake_protocol import InvalidPeerId, PeerId

from ._errors import InvalidAddress

_FORMS: Final = {
    "tcp": "tcp://host:port",
    "tls": "tls://host:port",
    "ws": "ws://host[:port][/path]",
    "wss": "wss://host[:port][/path]",
    "unix": "unix:///absolute/path",
    "mem": "mem://name",
}
"""The schemes that come with Trishake, each as it is written; another one is `scheme://host[:port][/path]`."""

_DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}
_WITHOUT_PATH: Final = {"tcp", "tls", "mem"}
_WITH_PORT: Final = {"tcp", "tls", "ws", "wss"}

_IN_BRACKETS: Final = "as tcp://[2001:db8::1]:4711"

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a peer is, or as an invite, `scheme://<peer id>@…`, who is there too.

        tcp://host:port                tls://host:port
        ws://host[:port][/path]        wss://host[:port][/path]        port 80 and 443 if none is said
        unix:///absolute/path          mem://name

    An IPv6 host stands in brackets; a transport of the application's own has `scheme://host[:port][/path]`.
    Which schemes are spoken is the peer's affair (see `Peer`).

    host: a name or an IP address; the name, of `mem`; empty, of `unix`. port: 0 to 65535; 0 only to listen on, or
    where there is none. path: begins with `/`, or is empty. Raises InvalidAddress for another.
    """

    host: str
    port: int = 0
    peer: PeerId | None = None
    scheme: str = "tcp"
    path: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InvalidAddress(f"port {self.port} is none: a port is 0 to 65535")
        if self.scheme == "unix" and (self.host or self.port or "\0" in self.path or len(self.path) < 2):
            raise InvalidAddress(f"{self.path!r} is no path of a Unix socket: it must be {_FORMS['unix']}")
        if self.scheme == "mem" and self.port:
            raise InvalidAddress(f"a name in memory has no port, got {self.port}: it must be {_FORMS['mem']}")
        if self.path and (self.path[0] != "/" or self.scheme in _WITHOUT_PATH):
            raise InvalidAddress(f"path {self.path!r} does not fit: the address must be {_form(self.scheme)}")
        if not self.host and self.scheme != "unix":
            raise InvalidAddress(f"an address needs a host: it must be {_form(self.scheme)}")

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address or an invite. Raises InvalidAddress, saying what is wrong with it."""
        scheme, separator, rest = text.partition("://")
        if not separator or not _SCHEME.fullmatch(scheme):
            begins = "it must begin with tcp:// or another scheme, as tcp://host:port"
            in_front = ", and with no space in front of it" if text[:1].isspace() else ""
            raise InvalidAddress(f"{text!r} is no address: {begins}{in_front}")
        scheme = scheme.lower()
        if scheme == "unix":
            return cls._parse_unix(text, rest)
        form = _form(scheme)
        if any(character.isspace() for character in rest.partition("/")[0]):
            raise InvalidAddress(f"{text!r} is no address: there is a space in it, or a line break")
        try:
            url = urlsplit(text)
            host = url.hostname
        except ValueError:  # what Python says of brackets differs from one version to the next
            raise InvalidAddress(
                f"{text!r} is no address: brackets stand around an IPv6 address, and nowhere else: {_IN_BRACKETS}"
            ) from None
        try:
            port = url.port
        except ValueError:
            raise InvalidAddress(f"{text!r} is no address: {_wrong_port(url.netloc)}") from None
        if port is None and not url.netloc.endswith(":"):
            port = _DEFAULT_PORTS.get(scheme, None if scheme in _WITH_PORT else 0)
        if not host or port is None:
            raise InvalidAddress(
                f"{text!r} is no address: it must be {form} or {form.replace('://', '://<peer id>@', 1)}"
            )
        if (scheme in _WITHOUT_PATH and url.path) or url.query or url.fragment or url.password is not None:
            last = "name" if scheme == "mem" else "port" if scheme in _WITHOUT_PATH else "path"
            raise InvalidAddress(f"{text!r} is no address: nothing may stand behind the {last}")
        if scheme == "mem" and port:
            raise InvalidAddress(f"{text!r} is no address: it must be {form}")
        return cls(host, port, _parse_peer(text, url.username), scheme, url.path)

    @classmethod
    def _parse_unix(cls, text: str, rest: str) -> Address:
        """A path may hold what means something else in a URL: all of it, from the first slash on, is the path."""
        who, slash, path = rest.partition("/")
        if who and who[-1] != "@":
            raise InvalidAddress(f"{text!r} is no address: the path must be absolute, as {_FORMS['unix']}")
        if not path or "\0" in path:
            raise InvalidAddress(f"{text!r} is no address: it must be {_FORMS['unix']}")
        return cls("", 0, _parse_peer(text, who[:-1] if who else None), "unix", slash + path)

    def with_peer(self, peer: PeerId) -> Address:
        """The invite to this address for who listens there."""
        return replace(self, peer=peer)

    @property
    def endpoint(self) -> str:
        """Where it is, in short: `host:port`, a Unix socket's path, a name in memory."""
        if self.scheme == "unix":
            return self.path
        if self.port or self.scheme in _WITH_PORT:
            return format_endpoint(self.host, self.port)
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        who = "" if self.peer is None else f"{self.peer}@"
        path = "" if self.scheme == "unix" else self.path
        return f"{self.scheme}://{who}{self.endpoint}{path}"


def format_endpoint(host: str, port: int) -> str:
    """`192.0.2.7:4711` or `[2001:db8::1]:4711`, as VERDICT's `seen` has it (section 8)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _form(scheme: str) -> str:
    return _FORMS.get(scheme, f"{scheme}://host[:port][/path]")


def _wrong_port(authority: str) -> str:
    """What is wrong with a port that Python cannot read. authority: what stands between `//` and the path."""
    host, _, port = authority.rpartition("@")[2].rpartition(":")
    if ":" in host and "]" not in host:
        return (
            f"more than one colon: an IPv6 address stands in brackets, {_IN_BRACKETS}, and behind a peer id an @"
        )
    return f"{port!r} is no port: a port is a number from 0 to 65535"


def _parse_peer(text: str, who: str | None) -> PeerId | None:
    try:
        return None if who is None else PeerId.parse(who)
    except InvalidPeerId as error:
        raise InvalidAddress(f"{text!r} is no invite: {error}") from None
