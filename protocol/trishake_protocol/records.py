"""Frames, and the encrypted records inside them (sections 2 and 9)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from .errors import CloseCode, RemoteProtocolError
from .limits import (
    FRAME_HEADER,
    KEY_LIMIT_NONCE,
    MAX_ALERT_DETAIL,
    MAX_GREETING,
    MAX_NOISE_MESSAGE,
    MAX_RECORD_CONTENT,
    MIN_GREETING,
    REKEY_INTERVAL,
    TAG_LENGTH,
)
from .messages import Close, FrameType, RecordType
from .noise import CipherState, HandshakeError
from .patterns import Suite

_HEADER: Final = struct.Struct(">BH")
RECORD_OVERHEAD: Final = FRAME_HEADER + 1 + TAG_LENGTH
"""Bytes of a record's frame besides its content."""

RECORD_BOUNDS: Final = range(TAG_LENGTH, MAX_NOISE_MESSAGE + 1)
_ALERT_BOUNDS: Final = range(1, 1 + MAX_ALERT_DETAIL + 1)

_RECORD_TYPES: Final[dict[int, RecordType]] = {type_.value: type_ for type_ in RecordType}


def frame_bounds(type_: int, suite: Suite | None) -> range:
    """The lengths that the body of such a frame may have. A greeting's depend on the suite (section 5)."""
    if type_ == FrameType.RECORD:
        return RECORD_BOUNDS
    if type_ == FrameType.ALERT:
        return _ALERT_BOUNDS
    assert suite is not None
    if type_ == FrameType.SYN:
        return range(suite.syn, suite.syn + 1)
    overhead = suite.syn_ack if type_ == FrameType.SYN_ACK else suite.ack
    return range(overhead + MIN_GREETING, overhead + MAX_GREETING + 1)


class FrameHeader(NamedTuple):
    """The first three bytes of a frame: enough to refuse it before its body is buffered."""

    type: int
    length: int

    @classmethod
    def decode(cls, data: bytes | bytearray) -> FrameHeader | None:
        """None while there are fewer than three bytes."""
        if len(data) < FRAME_HEADER:
            return None
        return cls(*_HEADER.unpack_from(data))


# Both directions: "before nonce n is used, where n > 0 and n mod 65536 = 0, that CipherState calls Noise Rekey()".


class RecordWriter:
    """Our direction after the handshake: content in, RECORD frames out."""

    __slots__ = ("_cipher_state",)

    def __init__(self, cipher_state: CipherState) -> None:
        self._cipher_state = cipher_state

    @property
    def exhausted(self) -> bool:
        """Whether the next nonce is the last, which only CLOSE KEY_LIMIT may use."""
        return self._cipher_state.n >= KEY_LIMIT_NONCE

    def encode(self, type_: RecordType, content: bytes | memoryview, padding: int = 0) -> bytes:
        """One frame. content, type byte and padding are at most 65519 bytes together."""
        return b"".join(self.encode_parts(type_, (content,), padding))

    def encode_parts(
        self, type_: RecordType, content: Sequence[bytes | memoryview], padding: int = 0
    ) -> tuple[bytes, bytes]:
        """The same as header and body, of content in parts: what is copied together is copied once."""
        plaintext = b"".join((*content, bytes((type_,)), bytes(padding)))
        assert len(plaintext) <= MAX_RECORD_CONTENT + 1
        if self._cipher_state.n % REKEY_INTERVAL == 0 and self._cipher_state.n:
            self._cipher_state.rekey()
        body = self._cipher_state.encrypt_with_ad(b"", plaintext)
        return _HEADER.pack(FrameType.RECORD, len(body)), body


class RecordReader:
    """Their direction after the handshake: bodies of RECORD frames in, typed content out."""

    __slots__ = ("_cipher_state",)

    def __init__(self, cipher_state: CipherState) -> None:
        self._cipher_state = cipher_state

    def decode(self, body: bytes | memoryview) -> tuple[RecordType, bytes]:
        """(type, content). Raises RemoteProtocolError if it does not decrypt or is no record."""
        n = self._cipher_state.n
        if n % REKEY_INTERVAL == 0 and n:
            self._cipher_state.rekey()
        try:
            plaintext = self._cipher_state.decrypt_with_ad(b"", body)
        except HandshakeError:
            raise RemoteProtocolError(f"record {n} does not decrypt", reason=CloseCode.PROTOCOL) from None
        # Mostly there is no padding, and then nothing to strip.
        unpadded = plaintext if plaintext and plaintext[-1] else plaintext.rstrip(b"\x00")
        if not unpadded:
            raise RemoteProtocolError(f"record {n} has no type", reason=CloseCode.PROTOCOL)
        type_ = _RECORD_TYPES.get(unpadded[-1])
        if type_ is None:
            raise RemoteProtocolError(f"record {n} is of unknown type {unpadded[-1]}", reason=CloseCode.PROTOCOL)
        content = unpadded[:-1]
        if n >= KEY_LIMIT_NONCE and not _is_key_limit(type_, content):
            raise RemoteProtocolError("a record beyond the key's limit", reason=CloseCode.PROTOCOL)
        return type_, content


def _is_key_limit(type_: RecordType, content: bytes) -> bool:
    return type_ is RecordType.CLOSE and Close.decode(content).code is CloseCode.KEY_LIMIT
