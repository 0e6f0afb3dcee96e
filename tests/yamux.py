"""yamux, read and written a second time, so that what our streams say is judged by another than themselves.

From https://github.com/hashicorp/yamux/blob/master/spec.md alone; nothing of ours is imported.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
NONE, SYN, ACK, FIN, RST = 0x0, 0x1, 0x2, 0x4, 0x8

WINDOW = 256 * 1024
"""Bytes that may be sent on a stream before there was a window update."""

_HEADER = struct.Struct("!BBHII")


class Frame(NamedTuple):
    """length: of DATA that of the body, of the others what their type makes of it."""

    type: int
    flags: int
    stream: int
    length: int
    body: bytes = b""


class Reader:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self.rest = b""

    def read(self, data: bytes) -> list[Frame]:
        """The frames that are whole by now."""
        self.rest += data
        frames = []
        while len(self.rest) >= _HEADER.size:
            version, type_, flags, stream, length = _HEADER.unpack_from(self.rest)
            assert version == 0
            assert type_ in (DATA, WINDOW_UPDATE, PING, GO_AWAY)
            assert (stream == 0) is (type_ in (PING, GO_AWAY))
            end = _HEADER.size + (length if type_ == DATA else 0)
            if len(self.rest) < end:
                break
            frames.append(Frame(type_, flags, stream, length, self.rest[_HEADER.size : end]))
            self.rest = self.rest[end:]
        return frames


def frames_in(data: bytes) -> list[Frame]:
    """Bytes that are whole frames, and nothing behind them."""
    reader = Reader()
    frames = reader.read(data)
    assert reader.rest == b""
    return frames


def header(type_: int, flags: int, stream: int, length: int, version: int = 0) -> bytes:
    return _HEADER.pack(version, type_, flags, stream, length)


def data(stream: int, body: bytes = b"", flags: int = NONE) -> bytes:
    return header(DATA, flags, stream, len(body)) + body


def window_update(stream: int, credit: int = 0, flags: int = NONE) -> bytes:
    return header(WINDOW_UPDATE, flags, stream, credit)


def ping(value: int, flags: int = SYN) -> bytes:
    return header(PING, flags, 0, value)


def go_away(code: int = 0) -> bytes:
    return header(GO_AWAY, NONE, 0, code)
