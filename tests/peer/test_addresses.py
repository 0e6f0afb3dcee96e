"""_addresses.py: where to go, and with an invite, who must be there."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trishake import Address, InvalidAddress, PeerId, TrishakeError
from trishake._addresses import format_endpoint

from .conftest import ADA, BOB

ID = str(BOB.id)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://127.0.0.1:4711", Address("127.0.0.1", 4711)),
        ("tcp://127.0.0.1:0", Address("127.0.0.1", 0)),
        ("tcp://peer.example:65535", Address("peer.example", 65535)),
        ("tcp://[::1]:4711", Address("::1", 4711)),
        ("tcp://[2001:db8::1]:80", Address("2001:db8::1", 80)),
        ("tcp://[fe80::1%eth0]:80", Address("fe80::1%eth0", 80)),
        (f"tcp://{ID}@127.0.0.1:4711", Address("127.0.0.1", 4711, BOB.id)),
        (f"tcp://{ID.upper()}@127.0.0.1:4711", Address("127.0.0.1", 4711, BOB.id)),
        (f"tcp://{ID}@[::]:1", Address("::", 1, BOB.id)),
        ("TCP://127.0.0.1:4711", Address("127.0.0.1", 4711)),
        (f"tls://{ID}@peer.example:443", Address("peer.example", 443, BOB.id, "tls")),
        ("ws://peer.example", Address("peer.example", 80, scheme="ws")),
        ("wss://peer.example/chat", Address("peer.example", 443, scheme="wss", path="/chat")),
        (f"wss://{ID}@[::1]:0/a/b", Address("::1", 0, BOB.id, "wss", "/a/b")),
        ("unix:///run/peer", Address("", scheme="unix", path="/run/peer")),
        (f"unix://{ID}@/run/peer", Address("", 0, BOB.id, "unix", "/run/peer")),
        ("unix:///tmp/who@there:1?#[% \n", Address("", scheme="unix", path="/tmp/who@there:1?#[% \n")),
        ("mem://bob", Address("bob", scheme="mem")),
        (f"mem://{ID}@bob", Address("bob", 0, BOB.id, "mem")),
        ("pigeon://loft", Address("loft", scheme="pigeon")),
        (f"pigeon+v2://{ID}@loft:7/third/row", Address("loft", 7, BOB.id, "pigeon+v2", "/third/row")),
        ("pigeon://[::1]/row", Address("::1", scheme="pigeon", path="/row")),
    ],
)
def test_an_address_or_an_invite_is_read(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must begin with tcp://"),
        ("127.0.0.1:4711", "must begin with tcp://"),
        ("://127.0.0.1:4711", "must begin with tcp://"),
        ("1tcp://127.0.0.1:4711", "must begin with tcp://"),
        ("tcp:127.0.0.1:4711", "tcp://host:port"),
        ("tcp://127.0.0.1", "tcp://host:port"),
        ("tcp://127.0.0.1:", "tcp://host:port"),
        ("tcp://:4711", "tcp://host:port"),
        ("tcp://", "tcp://host:port"),
        ("tcp://127.0.0.1:65536", "'65536' is no port: a port is a number from 0 to 65535"),
        ("tcp://127.0.0.1:-1", "'-1' is no port"),
        ("tcp://127.0.0.1:http", "'http' is no port"),
        (f"tcp://{ID}@127.0.0.1:47I1", "'47I1' is no port"),
        (f"tcp://{ID}@[::1]:47I1", "'47I1' is no port"),
        ("tcp://::1:4711", "an IPv6 address stands in brackets"),
        (f"tcp://{ID}@::1:4711", "an IPv6 address stands in brackets"),
        (f"tcp://{ID}:127.0.0.1:4711", "behind a peer id an @"),
        ("tcp://[::1:4711", "brackets stand around an IPv6 address"),
        ("tcp://[127.0.0.1]:4711", "brackets stand around an IPv6 address"),
        (" tcp://127.0.0.1:4711", "no space in front"),
        ("tcp://127.0.0.1:4711 ", "there is a space in it"),
        ("tcp://127.0.0.1:4711\n", "a line break"),
        ("ws://peer example/chat", "there is a space in it"),
        ("tcp://127.0.0.1:4711/path", "behind the port"),
        ("tcp://127.0.0.1:4711?query", "behind the port"),
        ("tcp://127.0.0.1:4711#fragment", "behind the port"),
        (f"tcp://{ID}:password@127.0.0.1:4711", "behind the port"),
        ("tcp://bob@127.0.0.1:4711", "a peer id has 56 characters, got 3"),
        ("tcp://@127.0.0.1:4711", "a peer id has 56 characters, got 0"),
        (f"tcp://{ID[:-1]}@127.0.0.1:4711", "got 55"),
        (f"tcp://{'b' if ID[9] == 'a' else 'a'}{ID[1:]}@127.0.0.1:4711", "peer id"),
        (f"tcp://{ID[:20]}{'b' if ID[20] == 'a' else 'a'}{ID[21:]}@127.0.0.1:4711", "check characters"),
        (f"tcp://{ID[:-1]}1@127.0.0.1:4711", "letters a to z"),
        ("tls://peer.example", "tls://host:port or tls://<peer id>@host:port"),
        ("ws://peer.example:", r"ws://host\[:port\]\[/path\]"),
        ("ws:///chat", r"ws://host\[:port\]\[/path\]"),
        ("wss://peer.example/chat?room=1", "behind the path"),
        ("unix://run/peer", "must be absolute"),
        ("unix://./peer", "must be absolute"),
        ("unix://", "unix:///absolute/path"),
        ("unix:///", "unix:///absolute/path"),
        ("unix:///a\0b", "unix:///absolute/path"),
        ("unix://bob@/run/peer", "a peer id has 56 characters, got 3"),
        ("mem://", "mem://name"),
        ("mem://bob:1", "mem://name"),
        ("mem://bob/path", "behind the name"),
        ("pigeon:///row", r"pigeon://host\[:port\]\[/path\]"),
        ("pigeon://loft:70000", "no port"),
    ],
)
def test_what_is_no_address_is_refused_with_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(InvalidAddress, match=complaint) as caught:
        Address.parse(text)
    assert isinstance(caught.value, TrishakeError | ValueError)
    assert isinstance(caught.value, ValueError)
    assert repr(text) in str(caught.value)


@given(st.text(max_size=80) | st.text(max_size=40).map(lambda text: f"tcp://{text}:1"))
def test_any_text_is_an_address_or_no_address(text: str) -> None:
    try:
        address = Address.parse(text)
    except InvalidAddress:
        return
    assert address.host or address.path
    assert 0 <= address.port <= 65535
    assert Address.parse(str(address)) == address


@given(st.sampled_from(["tcp", "tls", "ws", "wss", "unix", "mem", "pigeon"]), st.text(max_size=40))
def test_what_is_read_of_any_scheme_is_written_so_that_it_is_read_again(scheme: str, rest: str) -> None:
    try:
        address = Address.parse(f"{scheme}://{rest}")
    except InvalidAddress:
        return
    assert address.scheme == scheme
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "fields",
    [
        {"host": ""},
        {"host": "peer.test", "path": "/path"},
        {"host": "peer.test", "scheme": "ws", "path": "path"},
        {"host": "", "scheme": "unix", "path": "relative"},
        {"host": "peer.test", "scheme": "unix", "path": "/run/peer"},
        {"host": "", "port": 1, "scheme": "unix", "path": "/run/peer"},
        {"host": "", "scheme": "unix"},
        {"host": "bob", "port": 1, "scheme": "mem"},
        {"host": "", "scheme": "mem"},
    ],
)
def test_what_does_not_fit_the_scheme_is_refused_however_the_address_is_made(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidAddress):
        Address(**fields)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        (f"tcp://{ID}@[::1]:4711", "[::1]:4711"),
        ("wss://peer.example/chat", "peer.example:443"),
        (f"unix://{ID}@/run/peer", "/run/peer"),
        ("mem://bob", "bob"),
        ("pigeon://[::1]/row", "[::1]"),
        ("pigeon://loft:7/row", "loft:7"),
    ],
)
def test_an_endpoint_says_where_in_short(text: str, endpoint: str) -> None:
    assert Address.parse(text).endpoint == endpoint


@pytest.mark.parametrize("port", [-1, 65536, 70000])
def test_a_port_that_is_none_is_refused_however_the_address_is_made(port: int) -> None:
    with pytest.raises(InvalidAddress):
        Address("127.0.0.1", port)


def test_an_invite_is_an_address_with_a_peer() -> None:
    address = Address("127.0.0.1", 4711)
    invite = address.with_peer(ADA.id)
    assert invite == Address("127.0.0.1", 4711, ADA.id)
    assert str(invite) == f"tcp://{ADA.id}@127.0.0.1:4711"
    assert invite.with_peer(BOB.id).peer == BOB.id
    assert address.peer is None
    assert isinstance(invite.peer, PeerId)


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("192.0.2.7", "192.0.2.7:4711"),
        ("2001:db8::1", "[2001:db8::1]:4711"),
        ("fe80::1%eth0", "[fe80::1%eth0]:4711"),
        ("peer.example", "peer.example:4711"),
    ],
)
def test_an_endpoint_is_written_as_a_verdict_has_it(host: str, text: str) -> None:
    assert format_endpoint(host, 4711) == text
