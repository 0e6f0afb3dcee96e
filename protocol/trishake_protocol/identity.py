"""Who a peer is: an Ed25519 key, its public half as the peer id, the one text it ever signs (section 6)."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from .errors import GreetingRefused, InvalidPeerId, LocalProtocolError
from .messages import Greeting
from .patterns import Role
from .primitives import SHA256, Ed25519PrivateKey, KeyPair, verify_ed25519

_FIELD_PRIME: Final = 2**255 - 19

_SMALL_ORDER: Final = frozenset(
    bytes.fromhex(y)
    for y in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)
"""The y of the eight points of small order, in each of its encodings, without the sign bit."""

_TEXT_VERSION: Final = b"\x01"
_TEXT_LENGTH: Final = 56
_CHECK_LENGTH: Final = 2


def _check(key: bytes) -> bytes:
    return SHA256.digest(b"trishake/1 peer id\x00" + _TEXT_VERSION + key)[:_CHECK_LENGTH]


@dataclass(frozen=True, slots=True, order=True)
class PeerId:
    """A peer's public key: 32 bytes, and a text of 56 characters that catches a slip of the pen.

    Ordered by its bytes, unsigned. Raises InvalidPeerId if the key is not canonical or of small order.
    A key on no point of the curve passes here; no signature is good under it (section 6).
    """

    key: bytes

    def __post_init__(self) -> None:
        if len(self.key) != 32:
            raise InvalidPeerId(f"a peer id is 32 bytes, got {len(self.key)}")
        y = self.key[:31] + bytes([self.key[31] & 0x7F])
        if y in _SMALL_ORDER:
            raise InvalidPeerId("this key is of small order: anyone could sign for it")
        if int.from_bytes(y, "little") >= _FIELD_PRIME:
            raise InvalidPeerId("this key is not in its canonical encoding")

    @classmethod
    def parse(cls, text: str) -> PeerId:
        """Read the text form, in upper or lower case. Raises InvalidPeerId, saying what is wrong with it."""
        if len(text) != _TEXT_LENGTH:
            raise InvalidPeerId(f"a peer id has {_TEXT_LENGTH} characters, got {len(text)}")
        try:
            raw = base64.b32decode(text.encode("ascii").upper())
        except (UnicodeEncodeError, binascii.Error):
            raise InvalidPeerId("a peer id is made of the letters a to z and the digits 2 to 7") from None
        version, key, check = raw[:1], raw[1:33], raw[33:]
        if version != _TEXT_VERSION:
            raise InvalidPeerId(f"a peer id of version {version[0]}; this software reads version 1")
        if check != _check(key):
            raise InvalidPeerId("a character of this peer id is wrong: its check characters do not fit")
        return cls(key)

    @property
    def short(self) -> str:
        """The first ten characters of the text form, for logs and prompts. Not enough to know a peer by."""
        return str(self)[:10] + "…"

    def __str__(self) -> str:
        raw = _TEXT_VERSION + self.key + _check(self.key)
        return base64.b32encode(raw).decode().lower()

    def __bytes__(self) -> bytes:
        return self.key

    def __repr__(self) -> str:
        return f"PeerId.parse({str(self)!r})"


class GreetingContext(NamedTuple):
    """What a greeting's signature ties it to, besides the record (section 6)."""

    role: Role
    handshake_hash: bytes
    static_key: bytes
    responder: PeerId | None
    """The responder's id in ACK; None in SYN-ACK, whose sender does not yet know who called."""

    def to_be_signed(self, record: bytes) -> bytes:
        """`tbs`. The 64 spaces keep any other protocol's text from being mistaken for it, as in TLS 1.3."""
        responder = b"" if self.responder is None else self.responder.key
        return b"".join(
            (
                b"\x20" * 64,
                b"trishake/1 " + self.role.value.encode() + b" identity\x00",
                self.handshake_hash,
                self.static_key,
                len(responder).to_bytes(2, "big"),
                responder,
                record,
            )
        )

    def verify(self, peer: PeerId, record: bytes, signature: bytes) -> bool:
        return verify_ed25519(peer.key, signature, self.to_be_signed(record))


_TEXT_START: Final = b"\x20" * 64 + b"trishake/1 "


class GreetingToSign(NamedTuple):
    """A greeting that waits for its signature: the only text that an identity ever signs (section 6)."""

    context: GreetingContext
    record: bytes

    @property
    def text(self) -> bytes:
        """The bytes to be signed, with Ed25519 as it is (no prehash)."""
        return self.context.to_be_signed(self.record)

    def verify(self, signer: PeerId, signature: bytes) -> bool:
        return self.context.verify(signer, self.record, signature)

    @classmethod
    def parse(cls, text: bytes, signer: PeerId) -> GreetingToSign:
        """For who holds a key and is asked, from elsewhere, to sign: whether this is a greeting of its owner.

        signer: the identity whose key it is. Raises LocalProtocolError for any other text.
        """
        for role in Role:
            start = _TEXT_START + role.value.encode() + b" identity\x00"
            if text.startswith(start):
                break
        else:
            raise LocalProtocolError("this text is no greeting of Trishake's: it is not signed")
        rest = text[len(start) :]
        named = int.from_bytes(rest[64:66], "big")
        if len(rest) < 66 + named or named != (32 if role is Role.INITIATOR else 0):
            raise LocalProtocolError(
                "this greeting is cut off, or names no responder where it must: it is not signed"
            )
        record = rest[66 + named :]
        try:
            responder = PeerId(rest[66 : 66 + named]) if named else None
            said = Greeting.decode(record, role)
        except (InvalidPeerId, GreetingRefused) as error:
            raise LocalProtocolError(f"this greeting is not signed: {error}") from None
        if said.id != signer.key or said.alg != "ed25519":
            raise LocalProtocolError("this greeting is another identity's: it is not signed")
        if responder == signer:
            raise LocalProtocolError("this greeting is one of its owner to himself: it is not signed")
        return cls(GreetingContext(role, rest[:32], rest[32:64], responder), record)


class PublicIdentity:
    """Who we are, where the private key is held elsewhere: the session asks for each signature.

    id: the peer id. static_key: the X25519 key of Noise that stands for it in this process, as for `Identity`.
    """

    def __init__(self, id_: PeerId, static_key: KeyPair | None = None) -> None:
        self.id: Final = id_
        self.static_key: Final = static_key or KeyPair()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Identity:
    """Who we are: an Ed25519 private key, and the Noise static key that stands for it in this process.

    It signs greetings, and there is no call that signs anything else with it.
    """

    _private: Ed25519PrivateKey
    static_key: KeyPair = field(default_factory=KeyPair)
    """The X25519 key of Noise; made afresh in each process, and never stored (section 5)."""

    id: PeerId = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", PeerId(self._private.public_key().public_bytes_raw()))

    @classmethod
    def generate(cls) -> Identity:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes, *, static_key: KeyPair | None = None) -> Identity:
        """The identity of a 32-byte Ed25519 seed (RFC 8032, 5.1.5). Raises ValueError for another length.

        static_key: for reproducible tests only; by default a fresh one.
        """
        return cls(Ed25519PrivateKey.from_private_bytes(seed), static_key or KeyPair())

    def sign_greeting(self, context: GreetingContext, record: bytes) -> bytes:
        """The 64 bytes of signature over a record within its context."""
        return self._private.sign(context.to_be_signed(record))

    def __repr__(self) -> str:
        return f"<Identity {self.id}>"
