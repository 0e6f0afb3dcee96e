"""foreign.py: what else may be behind a port."""

from __future__ import annotations

import pytest

from trishake_protocol import foreign_protocol
from trishake_protocol.foreign import may_become_known
from trishake_protocol.limits import MAGIC

GREETINGS = [
    (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH"),
    (b"\x16\x03\x01\x02\x00\x01", "TLS"),
    (b"\x15\x03\x03\x00\x02\x02\x46", "TLS"),
    (b"\x14\x03\x03\x00\x01\x01", "TLS"),
    (b"HTTP/1.1 400 Bad Request\r\n", "HTTP"),
    (b'<!DOCTYPE HTML>\n<html lang="en">\n', "HTTP"),
    (b"<html>\r\n<head><title>400 Bad Request</title></head>\r\n", "HTTP"),
    (b"GET / HTTP/1.1\r\n", "HTTP"),
    (b"POST /rpc HTTP/1.1\r\n", "HTTP"),
    (b"HEAD / HTTP/1.0\r\n", "HTTP"),
    (b"PUT /x HTTP/1.1\r\n", "HTTP"),
    (b"OPTIONS * HTTP/1.1\r\n", "HTTP"),
    (b"CONNECT a:443 HTTP/1.1\r\n", "HTTP"),
    (b"DELETE / HTTP/1.1\r\n", "HTTP"),
    (b"PATCH / HTTP/1.1\r\n", "HTTP"),
    (b"PRI * HTTP/2.0\r\n\r\n", "HTTP"),
]
NAMELESS = [b"", b"\x00", b"220 mail.example ESMTP\r\n", b"GE", b"get / http/1.1", MAGIC, b"\x13\x03\x03"]


@pytest.mark.parametrize(("data", "protocol"), GREETINGS)
def test_a_protocol_is_known_by_its_first_bytes(data: bytes, protocol: str) -> None:
    assert foreign_protocol(data) == protocol
    assert foreign_protocol(bytearray(data)) == protocol
    assert foreign_protocol(data[:5]) == protocol


@pytest.mark.parametrize("data", NAMELESS)
def test_what_tells_nothing_has_no_name(data: bytes) -> None:
    assert foreign_protocol(data) is None


@pytest.mark.parametrize(("data", "protocol"), GREETINGS)
def test_the_beginning_of_a_known_protocol_may_become_known(data: bytes, protocol: str) -> None:
    known = next(n for n in range(1, len(data)) if foreign_protocol(data[:n]) == protocol)
    assert all(may_become_known(data[:n]) for n in range(known))
    assert not may_become_known(data[:known])


@pytest.mark.parametrize("data", [b"\x00", b"220 ", b"get", MAGIC[:1]])
def test_what_no_protocol_begins_with_never_becomes_known(data: bytes) -> None:
    assert not may_become_known(data)
