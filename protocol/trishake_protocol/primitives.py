"""DH, KEM, AEAD, hash, signature and scrypt, all from `cryptography`. Nothing else in the core imports it.

The names are those of the Noise specification, section 4, and of its hfs extension. A cipher or a hash is a
row; the KEM is an object that is handed in, so that published vectors with a fixed encapsulation can be
replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = [
    "CHACHAPOLY",
    "DH_LENGTH",
    "MLKEM768",
    "SHA256",
    "Aead",
    "Cipher",
    "Ed25519PrivateKey",
    "Hash",
    "InvalidTag",
    "Kem",
    "KemKeyPair",
    "KeyPair",
    "scrypt",
    "verify_ed25519",
]

DH_LENGTH: Final = 32
"""Bytes of an X25519 key, private or public, and of a shared secret."""


class KeyPair:
    """An X25519 key pair. Only the public half can be read.

    private: 32 bytes for a known key; None makes a fresh one.
    """

    __slots__ = ("_private", "public")

    def __init__(self, private: bytes | None = None) -> None:
        self._private = (
            X25519PrivateKey.generate() if private is None else X25519PrivateKey.from_private_bytes(private)
        )
        self.public: Final = self._private.public_key().public_bytes_raw()

    def dh(self, public: bytes) -> bytes:
        """The shared secret with the owner of `public`, 32 bytes.

        Raises ValueError if it is all zero, as it is for every point of small order: section 5 makes that
        an error.
        """
        return self._private.exchange(X25519PublicKey.from_public_bytes(public))

    def __repr__(self) -> str:
        return f"<KeyPair {self.public.hex()[:8]}…>"


class KemKeyPair(Protocol):
    """One side's ephemeral key pair of a KEM."""

    @property
    def public(self) -> bytes:
        """The encapsulation key."""
        ...

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """The shared secret inside. A wrong ciphertext gives another secret, not an error (FIPS 203)."""
        ...


class Kem(Protocol):
    """A key encapsulation mechanism, as the hfs extension needs it."""

    def generate_key_pair(self) -> KemKeyPair: ...

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        """(ciphertext, shared secret) for the owner of `public`. Raises ValueError if that is no key."""
        ...


class _MLKEM768KeyPair:
    def __init__(self) -> None:
        self._private = MLKEM768PrivateKey.generate()
        self.public = self._private.public_key().public_bytes_raw()

    def decapsulate(self, ciphertext: bytes) -> bytes:
        return self._private.decapsulate(ciphertext)


class _MLKEM768:
    def generate_key_pair(self) -> KemKeyPair:
        return _MLKEM768KeyPair()

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        shared_secret, ciphertext = MLKEM768PublicKey.from_public_bytes(public).encapsulate()
        return ciphertext, shared_secret


MLKEM768: Final[Kem] = _MLKEM768()
"""ML-KEM-768 of FIPS 203: 1184 bytes of encapsulation key, 1088 of ciphertext, 32 of secret."""


class Aead(Protocol):
    """A cipher with its key, as `cryptography` shapes it. `decrypt` raises InvalidTag."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes | memoryview, associated_data: bytes | None, /) -> bytes: ...


class Cipher(NamedTuple):
    """A row of Noise 4.2: how a 32-byte key becomes an AEAD, and a counter its 12-byte nonce."""

    name: str
    key: Callable[[bytes], Aead]
    nonce: Callable[[int], bytes]


def _little_endian_nonce(n: int) -> bytes:
    return b"\x00\x00\x00\x00" + n.to_bytes(8, "little")


CHACHAPOLY: Final = Cipher(name="ChaChaPoly", key=ChaCha20Poly1305, nonce=_little_endian_nonce)


class Hash:
    """A row of Noise 4.3."""

    __slots__ = ("_empty", "algorithm", "name")

    def __init__(self, name: str, algorithm: hashes.HashAlgorithm) -> None:
        self.name: Final = name
        self.algorithm: Final = algorithm
        self._empty: Final = hashes.Hash(algorithm)

    def __repr__(self) -> str:
        return f"<Hash {self.name}>"

    @property
    def length(self) -> int:
        """HASHLEN, in bytes."""
        return self.algorithm.digest_size

    def digest(self, data: bytes) -> bytes:
        # 0.55 µs; hashes.Hash.hash, which looks the algorithm up anew, takes 0.95. A greeting hashes 16 times.
        hash_ = self._empty.copy()
        hash_.update(data)
        return hash_.finalize()

    def hkdf(self, chaining_key: bytes, input_key_material: bytes, num_outputs: int) -> list[bytes]:
        """Noise's HKDF: that of RFC 5869 with the chaining key as salt and empty info (Noise 4.3)."""
        length = self.length
        okm = HKDF(self.algorithm, length * num_outputs, chaining_key, b"").derive(input_key_material)
        return [okm[i * length : (i + 1) * length] for i in range(num_outputs)]


SHA256: Final = Hash("SHA256", hashes.SHA256())


def verify_ed25519(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the signature is good, as RFC 8032 has it: S < L, no cofactor.

    OpenSSL lets small-order and non-canonical keys through; whoever calls this has refused them before.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def scrypt(password: bytes, salt: bytes, *, n: int, r: int, p: int, length: int) -> bytes:
    """`length` bytes, as RFC 7914 has it; takes 128 · n · r bytes of memory."""
    # Not at the top: a greeting never needs it, and an import pays for what is at the top.
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    return Scrypt(salt, length, n, r, p).derive(password)
