"""Other protocols, told by their first bytes, so that a wrong port explains itself."""

from __future__ import annotations

from typing import Final

_SIGNATURES: Final = {
    "SSH": (b"SSH-",),
    "TLS": (b"\x14\x03", b"\x15\x03", b"\x16\x03"),
    "HTTP": (
        *(b"HTTP/", b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"CONN", b"DELE", b"PATC", b"PRI "),
        *(b"<!DOC", b"<!doc", b"<html", b"<HTML"),
    ),
}
"""How each begins; a web server answers with a page alone to what is no HTTP/1 (RFC 1945, HTTP/0.9)."""


def foreign_protocol(data: bytes | bytearray) -> str | None:
    """The protocol that begins with these bytes, where they tell."""
    for name, signatures in _SIGNATURES.items():
        if data.startswith(signatures):
            return name
    return None


def may_become_known(data: bytes | bytearray) -> bool:
    """Whether more bytes could tell a protocol that these do not tell yet."""
    return any(
        len(data) < len(signature) and signature.startswith(data)
        for signatures in _SIGNATURES.values()
        for signature in signatures
    )
