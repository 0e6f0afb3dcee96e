"""Who we are: an Ed25519 key, whose public half is the peer id, and the one text it ever signs (section 6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self

from .errors import GreetingRefused, InvalidPeerId, LocalProtocolError
from .messages import Greeting
from .patterns import Role
from .peer_id import PeerId
from .primitives import Ed25519PrivateKey, KeyPair, verify_ed25519


def _start_of(role: Role) -> bytes:
    """Of `tbs`. The 64 spaces keep any other protocol's text from being mistaken for it, as in TLS 1.3."""
    return b"\x20" * 64 + b"trishake/1 " + role.value.encode() + b" identity\x00"


class GreetingContext(NamedTuple):
    """What a greeting's signature ties it to, besides the record (section 6)."""

    role: Role
    handshake_hash: bytes
    static_key: bytes
    responder: PeerId | None
    """The responder's id in ACK; None in SYN-ACK, whose sender does not yet know who called."""

    def to_be_signed(self, record: bytes) -> bytes:
        """`tbs`."""
        responder = b"" if self.responder is None else self.responder.key
        return b"".join(
            (
                _start_of(self.role),
                self.handshake_hash,
                self.static_key,
                len(responder).to_bytes(2, "big"),
                responder,
                record,
            )
        )

    def verify(self, peer: PeerId, record: bytes, signature: bytes) -> bool:
        return verify_ed25519(peer.key, signature, self.to_be_signed(record))


class GreetingToSign(NamedTuple):
    """A greeting that waits for its signature: the only text that an identity ever signs (section 6)."""

    context: GreetingContext
    record: bytes

    @property
    def text(self) -> bytes:
        """The bytes to be signed, with Ed25519 as it is (no prehash)."""
        return self.context.to_be_signed(self.record)

    def verify(self, signer: PeerId, signature: bytes) -> bool:
        """Whether this is the signature of that identity over `text`."""
        return self.context.verify(signer, self.record, signature)

    @classmethod
    def parse(cls, text: bytes, signer: PeerId) -> GreetingToSign:
        """For who holds a key and is asked, from elsewhere, to sign: whether this is a greeting of its owner.

        signer: the identity whose key it is. Raises LocalProtocolError for any other text.
        """
        for role in Role:
            start = _start_of(role)
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
    def generate(cls) -> Self:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes, *, static_key: KeyPair | None = None) -> Self:
        """The identity of a 32-byte Ed25519 seed (RFC 8032, 5.1.5). Raises ValueError for another length.

        static_key: for reproducible tests only; by default a fresh one.
        """
        return cls(Ed25519PrivateKey.from_private_bytes(seed), static_key or KeyPair())

    def sign_greeting(self, context: GreetingContext, record: bytes) -> bytes:
        """The 64 bytes of signature over a record within its context."""
        return self._private.sign(context.to_be_signed(record))

    def __repr__(self) -> str:
        return f"<Identity {self.id}>"
